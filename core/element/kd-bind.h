/* Internal: a descriptor's field tables, resolved against parameters and matched against layouts and batches. */
#pragma once
#include "kd-desc.h"

G_BEGIN_DECLS

typedef enum { KD_AXIS_SAMPLES,
  KD_AXIS_LEADING,
  KD_AXIS_TRAILING,
  KD_AXIS_LETTER,
  KD_AXIS_SIZE } KdAxisKind;

typedef struct {
  KdAxisKind kind;
  gint64 value; /* letter index or size */
} KdAxis;

typedef struct {
  const gchar *name; /* interned, "{prop}" replaced */
  const gchar *shape;
  guint dtype;
  KdFieldFlags flags;
  gboolean absent; /* an output, or the gradient of an input, that nobody asked for */
  guint n_axes;
  KdAxis axes[KD_MAX_RANK];
} KdBoundField;

/** KdBinding: made once a stream, used for each batch. @owner: the element's name, for messages. */
typedef struct {
  const KdDesc *desc;
  gchar *owner;
  guint n_in, n_out;
  const gchar *teacher; /* interned fingerprint, from the stream's identity, or NULL */
  gboolean signalled;   /* KdCall's, of the next call */
  gpointer element;     /* of a loss where a trainer ends the graph: it can look ahead; else NULL */
  KdBoundField in[KD_MAX_FIELDS], out[KD_MAX_FIELDS];
} KdBinding;

/** KdSizes: what the letters and '*' stand for in one call; -1 where not known. */
typedef struct {
  gint64 letter[26];
  guint leading_rank; /* 0: not bound */
  gint64 leading[KD_MAX_RANK];
  gint64 n_samples;
} KdSizes;

KdBinding *kd_binding_new (const KdDesc *desc, const KdFieldSpec *outputs, gconstpointer params, const gchar *owner, GError **error);
void kd_binding_free (KdBinding *binding);
G_DEFINE_AUTOPTR_CLEANUP_FUNC (KdBinding, kd_binding_free)

/** kd_binding_check_layout: every field that is needed is there and fits; fills @ret_sizes. */
gboolean kd_binding_check_layout (const KdBinding *binding, const KdLayout *layout, KdSizes *ret_sizes, GError **error);

/** kd_binding_read: the batch's tensors by field index (NULL: optional and absent), checked; counts the reads. */
gboolean kd_binding_read (const KdBinding *binding, KdBatch *batch, KdTensor **ret_in, KdSizes *ret_sizes, GError **error);

/** kd_bound_shape: rank and dims of an output; FALSE when a size is not known. */
gboolean kd_bound_shape (const KdBoundField *field, const KdSizes *sizes, guint *ret_rank, gint64 *ret_dims);

/** kd_outputs_make: tensors for the outputs whose shape is known, NULL for the others; kd_outputs_put hands those that are there to the batch,
 * kd_outputs_drop frees them. */
void kd_outputs_make (const KdBinding *binding, const KdSizes *sizes, KdTensor *const *in, gboolean zero, KdTensor **ret_out);
void kd_outputs_put (const KdBinding *binding, KdTensor **out, KdBatch *batch);
void kd_outputs_drop (const KdBinding *binding, KdTensor **out);

/** kd_rows_new: the rows of a loss call and their coefficients; @ret_coef (transfer full) owns rows->coef. NULL tensor fields are absent. */
KdTensor *kd_rows_new (const KdBinding *binding, const KdRunOptions *options, KdBatch *batch, KdTensor *const *in, const KdSizes *sizes,
    KdRows *ret_rows, GError **error);

/** kd_bound_find_bad: after a result that is not finite: the first value that is not, on a counted row, as an error. FALSE always. */
gboolean kd_rows_find_bad (const KdBinding *binding, KdBatch *batch, KdTensor *const *in, const KdRows *rows, GError **error);

/** kd_call_init: what every call carries: parameters, the batch's place in the run, ids and views, sizes. */
void kd_call_init (KdCall *call, const KdBinding *binding, gconstpointer params, const KdRunOptions *options, gpointer state, const KdBatch *batch,
    KdTensor *const *in, const KdSizes *sizes);

/** kd_binding_look_ahead: KdCall's look_ahead: asks the models upstream of the binding's element. */
gboolean kd_binding_look_ahead (const KdCall *call, KdLookahead *ahead, GError **error);

/* The doors with a binding made before; what the elements call. */
gboolean kd_loss_run_bound (const KdLossDesc *desc, const KdBinding *binding, gconstpointer params, const KdRunOptions *options, gpointer state,
    KdBatch *batch, gboolean measure, GError **error);
gboolean kd_transform_run_bound (const KdTransformDesc *desc, const KdBinding *binding, gconstpointer params, const KdRunOptions *options,
    gpointer state, KdBatch *batch, GError **error);
gboolean kd_augment_run_bound (const KdAugmentDesc *desc, const KdBinding *binding, gconstpointer params, const KdRunOptions *options,
    gpointer state, KdBatch *batch, GError **error);
gboolean kd_selector_run_bound (const KdSelectorDesc *desc, const KdBinding *binding, gconstpointer params, const KdRunOptions *options,
    gpointer state, KdBatch *batch, GError **error);

/* Tables of the bases' own properties, over KdRunOptions. */
/** KdSourceOptions: what every source can be told. */
typedef struct {
  gint64 batch_size;
  gboolean shuffle;
  guint64 seed;
  gint64 epochs;
  gint64 first;
  gint64 count;
  gboolean drop_last;
  gint64 shard_index;
  gint64 shard_count;
  gboolean validation;
  gint64 shuffle_chunk, shuffle_window;
} KdSourceOptions;
extern const KdParam kd_source_base_params[];

extern const KdParam kd_loss_base_params[];
extern const KdParam kd_augment_base_params[];
extern const KdParam kd_selector_base_params[];

G_END_DECLS
