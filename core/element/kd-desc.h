/* Descriptors: what a leaf is. A `const` table of fields, a table of parameters and one pure function; elements, tests and
 * tools all run it through the same door. */
#pragma once
#include <gst/gst.h>
#include "../batch/kd-batch.h"
#include "../kd-param.h"
#include "../math/kd-divergence.h"
#include "../math/kd-random.h"

G_BEGIN_DECLS

typedef enum {
  KD_FIELD_GRAD = 1 << 0,     /* a loss gives the gradient of this input */
  KD_FIELD_OPTIONAL = 1 << 1, /* may be missing: call->in[i] is NULL then */
  KD_FIELD_LABEL = 1 << 2,    /* class indices below the size bound to C; `ignore-index` rows are not counted */
  KD_FIELD_FINITE = 1 << 3,   /* checked with `nan-policy` on counted rows (KD_FIELD_GRAD and "*.logits" are by default) */
  KD_FIELD_PEEK = 1 << 4,     /* reading it does not count as a use (diagnostics) */
  KD_FIELD_UNIT = 1 << 5,     /* bytes (KD_UINT8 in the dtypes) arrive as float32, value / 255; for fields that the leaf replaces */
  KD_FIELD_FRESH = 1 << 6,    /* the loss can write this input's gradient instead of adding to it: see KdLossResult.fresh */
  KD_FIELD_TABLE = 1 << 7,    /* has no samples' axis: one table for the whole batch ("C D") */
  KD_FIELD_PADDED = 1 << 8,   /* ids of which -1 is padding: a row of nothing else is not counted */
  KD_FIELD_ONE_OF = 1 << 9,   /* optional, but one of the fields that have this flag has to be there */
} KdFieldFlags;

/**
 * KdFieldSpec:
 * @name: "student.logits"; "{prop}" in it stands for the string parameter of that name ("student.features.{student_field}")
 * @dtype: a set of KdDtype bits
 * @shape: letters and sizes, space separated: "N" the samples, "*" any leading axes (N and more; the rows of the call), "..."
 *   any trailing axes, another letter binds a size for all fields of the call, a number is that size,
 *   "{prop}" an integer parameter's value. "" is a scalar.
 * @when: of an output: the boolean parameter that asks for it; of an input with KD_FIELD_GRAD: that asks for the gradient; NULL: always there
 * @grad_of: of an input with KD_FIELD_GRAD: the term that its gradient belongs to ("teacher": loss.teacher), NULL: the loss
 */
typedef struct {
  const gchar *name;
  guint dtype;
  const gchar *shape;
  KdFieldFlags flags;
  const gchar *when;
  const gchar *grad_of;
} KdFieldSpec;

/* clang-format off */
#define KD_FIELD_END { .name = NULL }
/* clang-format on */
#define KD_MAX_FIELDS 16
#define KD_MAX_TERMS 8

/**
 * KdRows: the rows of a call (samples x tokens), each with the coefficient that its value has in the loss.
 * @coef: [n]; weight x mask x token.weight x sample.weight / denominator of the reduction. A row with 0 is not counted and must
 *   not be read: it may hold anything, NaN too. Multiply a row's value and its gradient by coef.
 */
typedef struct {
  gint64 n;
  const gdouble *coef;
  gint64 n_counted;
} KdRows;

/**
 * KdLookahead: what a loss with parameters of its own asks of the model that makes one of its inputs: how the outputs of the training batch move
 * along the gradient that held-out rows have after one plain step on the loss. That is the one-step unrolled gradient of a bilevel problem.
 * @field: the input, as it is called on the batch: a model's logits
 * @grad: float32, of the field's shape: the gradient of the inner loss in it
 * @learning_rate: of the step theta' = theta - learning_rate x the inner loss's gradient
 * @input, @label: held-out rows: what the model reads, and int64 [rows] classes
 * @ret_jvp: (transfer full) float32, of the field's shape: d/de field (theta + e v) at e = 0, v the gradient of @ret_loss at theta'
 * @ret_loss: mean cross-entropy of the held-out rows at theta'
 */
typedef struct {
  const gchar *field;
  const KdTensor *grad;
  gdouble learning_rate;
  KdTensor *input, *label;
  KdTensor *ret_jvp;
  gdouble ret_loss;
} KdLookahead;

typedef struct _KdCall KdCall;

/**
 * KdCall: what a leaf's function gets. All pointers are valid during the call only.
 * @in: by index of the descriptor's field table; shapes, dtypes and values are checked already
 * @state: the leaf's state across batches (state_size bytes), or NULL
 * @look_ahead: of losses, where a trainer ends the graph, else NULL; parameters are as they were afterwards. @element, @batch: what it works with
 */
struct _KdCall {
  gconstpointer params;
  gint64 n_samples;
  KdTensor *const *in;
  const KdRows *rows;
  gdouble weight; /* the loss element's `weight`, already inside rows->coef */
  gpointer state;
  guint64 seed;
  guint epoch;
  guint64 index;
  KdBatchFlags flags;
  const gint64 *sample_id;   /* [N] or NULL */
  const gint64 *sample_view; /* [N] or NULL */
  const gchar *teacher;      /* fingerprint of the stream's teacher, or NULL where nobody has said it */
  gboolean signalled;        /* the descriptor's `signal` came since the last batch */
  gint64 size[26];           /* sizes bound to letters: size['C' - 'A'] */
  guint32 purpose;           /* of the element's random stream */
  gboolean (*look_ahead) (const KdCall *call, KdLookahead *ahead, GError **error);
  gpointer element;
  const KdBatch *batch;
};

/** kd_call_rows: the rows of the call. */
static inline const KdRows *
kd_call_rows (const KdCall *call)
{
  return call->rows;
}
/** kd_call_size: the size bound to a letter of the shapes. */
static inline gint64
kd_call_size (const KdCall *call, gchar letter)
{
  return call->size[letter - 'A'];
}
/** kd_call_random: sample @n's own stream; the same for a sample and view whatever batch it stands in. */
KD_API void kd_call_random (const KdCall *call, gint64 n, KdRandom *ret_random);

/** KdStateField: one array inside a leaf's state block that checkpoints keep (offset of the data, count, dtype).
 * @property, @blurb: of one float64: a read-only property that shows it, or NULL */
typedef struct {
  const gchar *name;
  gsize offset;
  KdDtype dtype;
  guint n;
  const gchar *property, *blurb;
} KdStateField;

/* clang-format off */
#define KD_STATE_SHOWN(S, m, name_of_property, text) { .name = #m, .offset = G_STRUCT_OFFSET (S, m), .dtype = KD_FLOAT64, .n = 1, .property = (name_of_property), .blurb = (text) }
#define KD_STATE_FIELD(S, m, type, count) { .name = #m, .offset = G_STRUCT_OFFSET (S, m), .dtype = (type), .n = (count) }

/* Members that every descriptor begins with.
 * name: the element ("kdkl"); title, description: for gst-inspect; source: paper and equation, or origin
 * formula: "{name}" in it stands for a property's value, or for the formula of that value; units: of the result, and its reduction
 * provides: patterns of fields that it adds beside its outputs ("student.*"), for messages and kd inspect
 * state_init may be NULL (zeroed then); state_open reads the files that the state comes from; state_fields ends with a NULL name.
 * resets: the property reset=true and a flush make the state new before the next batch
 * signal: name of a custom event, in either direction, by which an application speaks to the leaf; or NULL
 * state_save, state_load: beside state_fields, for arrays whose size the data decides: into and from @table (name, owned -> KdTensor, owned). */
#define KD_DESC_HEAD                                                                                                   \
  const gchar *name;                                                                                                   \
  const gchar *title;                                                                                                  \
  const gchar *description;                                                                                            \
  const gchar *source;                                                                                                 \
  const gchar *formula;                                                                                                \
  const gchar *units;                                                                                                  \
  const gchar *provides;                                                                                                \
  const KdFieldSpec *fields;                                                                                           \
  const KdParam *params;                                                                                               \
  gsize params_size;                                                                                                   \
  gboolean (*check) (gconstpointer params, GError **error); /* parameters that do not go together */                  \
  gsize state_size;                                                                                                    \
  void (*state_init) (gconstpointer params, gpointer state);                                                           \
  gboolean (*state_open) (gconstpointer params, gpointer state, GError **error);                                       \
  void (*state_clear) (gpointer state);                                                                                \
  const KdStateField *state_fields;                                                                                    \
  gboolean resets;                                                                                                     \
  const gchar *signal;                                                                                                 \
  void (*state_save) (gconstpointer state, GHashTable *table);                                                         \
  gboolean (*state_load) (gconstpointer params, gpointer state, GHashTable *table, GError **error);
/* clang-format on */

/** KdDesc: what all descriptors have in common; any of them may be cast to it. */
typedef struct {
  KD_DESC_HEAD
} KdDesc;

/**
 * KdLossResult: filled by a loss.
 * @loss: the weighted value (sum of coef x row value)
 * @term: [terms of the descriptor], weighted parts to report
 * @grad: by field index, for KD_FIELD_GRAD fields; ADD to it (it may hold other losses' gradients), in float32
 * @fresh: by field index, only for KD_FIELD_FRESH fields: TRUE says that grad is memory nobody has written to; then write every
 *   element of it (0 on rows that do not count) instead of adding: no pass for zeros, none to read them
 * @out: by index of the output table, filled with zeros by the base when the shape is known from the inputs, else NULL: then the
 *   leaf makes it (transfer full). NULL too when the output's `when` parameter is FALSE.
 */
typedef struct {
  gdouble loss;
  gdouble term[KD_MAX_TERMS];
  gfloat *grad[KD_MAX_FIELDS];
  gboolean fresh[KD_MAX_FIELDS];
  KdTensor *out[KD_MAX_FIELDS];
} KdLossResult;

typedef struct {
  KD_DESC_HEAD
  const KdFieldSpec *outputs; /* fields that it writes beside loss and gradients: weights, selections, diagnostics; or NULL */
  const gchar *const *terms;  /* NULL-terminated names: "ce", "kd" */
  gdouble default_weight;     /* of the `weight` property; 0 means 1 */
  /* where a trainer ends the graph, before the first batch: what only training needs; may be NULL */
  gboolean (*check_training) (gconstpointer params, gconstpointer state, const KdLayout *layout, GError **error);
  gboolean (*evaluate) (const KdCall *call, KdLossResult *ret, GError **error);
} KdLossDesc;

/** KdOutputs: @out by index of the output table, allocated by the base (not initialised) when its shape is known from the
 * inputs and parameters, else NULL: then the leaf makes it (transfer full). */
typedef struct {
  KdTensor *out[KD_MAX_FIELDS];
} KdOutputs;

/** kd_call_divergence: the divergence of the call's fields @student and @teacher (indices) along their last axis, over all rows before it: temperature 1,
 * scale 1, gradient into @student's; @coef and @value: a number for each such row. What the divergence has beside that is the leaf's to fill in. */
KD_API KdDivergence kd_call_divergence (const KdCall *call, gint kind, guint student, guint teacher, const gdouble *coef, gdouble *value,
    KdLossResult *ret);
/** kd_kl_directions: "forward", KL (teacher || student), and "reverse". */
KD_API extern const KdEnumValue kd_kl_directions[];

/** KdTransformDesc: fields into fields. An output with an input's name replaces it; dtype 0 in an output is the dtype of
 * input 0. @drops: NULL-terminated names taken away. */
typedef struct {
  KD_DESC_HEAD
  const KdFieldSpec *outputs;
  const gchar *const *drops;
  gboolean (*evaluate) (const KdCall *call, KdOutputs *ret, GError **error);
  /* at the end of an epoch and of the stream, for diagnostics: (transfer full) a structure that is posted as an element message */
  GstStructure *(*finish) (const KdCall *call);
  /* after each batch: (transfer full) what others have to know now, sent upstream as a custom event and posted as an element message, or NULL */
  GstStructure *(*announce) (const KdCall *call);
  /* at the end of the stream, for what is gathered over all of it: fills ret->out by index of @results, (transfer full), of shapes that are the
   * leaf's to say; NULL: not there. The element writes them as datasets into the file that the leaf's parameter `location` names. */
  const KdFieldSpec *results;
  gboolean (*conclude) (const KdCall *call, KdOutputs *ret, GError **error);
} KdTransformDesc;

/** KdAugmentDesc: like a transform, drawing from kd_call_random only; the base gives `seed` and `views`, and writes
 * sample.view = 1 + epoch modulo views, on which the draws depend instead of on the epoch. */
typedef struct {
  KD_DESC_HEAD
  const KdFieldSpec *outputs;
  gboolean (*evaluate) (const KdCall *call, KdOutputs *ret, GError **error);
} KdAugmentDesc;

/** KdSelectorDesc: which samples go on. @weight [N] comes filled with 1; 0 leaves a sample out. The base gives
 * `mode` (weight: multiplies sample.weight; drop: rows with weight 0 leave the batch). */
typedef struct {
  KD_DESC_HEAD
  gboolean (*evaluate) (const KdCall *call, gfloat *weight, GError **error);
} KdSelectorDesc;

/** KdSourceDesc: rows by index. The base owns order, shuffle, epochs, shards, batches and the cursor. @state has state_size
 * bytes; @open sets the number of rows and the layout it will deliver (with sample.id int64 in it, or the base adds
 * the row's index). @read adds the fields of rows @rows [n] to @batch. */
typedef struct {
  KD_DESC_HEAD
  gboolean (*open) (gconstpointer params, gpointer state, gint64 *ret_n_rows, KdLayout *layout, GError **error);
  gboolean (*read) (gpointer state, const gint64 *rows, gint64 n, KdBatch *batch, GError **error);
  void (*close) (gpointer state);
  gchar *(*fingerprint) (gpointer state); /* (transfer full) hex SHA-256 of the data set, or NULL */
} KdSourceDesc;

/** KdSinkDesc: batches to a file or a service. @open when the layout is known, @write each batch, @finish at the end of the
 * stream (commit), @close always last. */
typedef struct {
  KD_DESC_HEAD
  gboolean (*open) (gconstpointer params, gpointer state, const KdLayout *layout, GError **error);
  gboolean (*write) (gpointer state, KdBatch *batch, GError **error);
  gboolean (*finish) (gpointer state, GError **error);
  void (*close) (gpointer state);
} KdSinkDesc;

/* Doors: run a leaf without a graph. @params: a block of params_size (kd_params_init), @state NULL or state_size bytes.
 * The fields a leaf adds are put into @batch as its element would put them. */

/** KdRunOptions: what the element's own properties would say; zero-initialise and use kd_run_options_init. */
typedef struct {
  gdouble weight;
  gint reduction; /* KdReduction */
  gdouble num_items;
  gint64 ignore_index;
  gint nan_policy; /* KdNanPolicy */
  guint64 seed;
  gint64 views;
  gint mode;           /* KdSelectMode */
  gchar *schedule;     /* elements only: parameters that change during the run */
  gboolean accumulate; /* of losses: add to what the losses before have given */
} KdRunOptions;

/* clang-format off */
typedef enum { KD_REDUCTION_TOKEN_MEAN, KD_REDUCTION_SUM, KD_REDUCTION_SEQ_MEAN, KD_REDUCTION_BATCH, KD_REDUCTION_NUM_ITEMS } KdReduction;
typedef enum { KD_NAN_ERROR, KD_NAN_DROP, KD_NAN_ZERO } KdNanPolicy;
typedef enum { KD_SELECT_WEIGHT, KD_SELECT_DROP } KdSelectMode;
/* clang-format on */

KD_API void kd_run_options_init (KdRunOptions *options);
KD_API gboolean kd_loss_desc_run (const KdLossDesc *desc, gconstpointer params, const KdRunOptions *options,
    gpointer state, KdBatch *batch, GError **error);
KD_API gboolean kd_transform_desc_run (const KdTransformDesc *desc, gconstpointer params, const KdRunOptions *options,
    gpointer state, KdBatch *batch, GError **error);
/** kd_transform_desc_conclude: the end of the stream: what `conclude` gives goes into @batch. TRUE when there is none. */
KD_API gboolean kd_transform_desc_conclude (const KdTransformDesc *desc, gconstpointer params, gpointer state, KdBatch *batch, GError **error);
KD_API gboolean kd_augment_desc_run (const KdAugmentDesc *desc, gconstpointer params, const KdRunOptions *options,
    gpointer state, KdBatch *batch, GError **error);
KD_API gboolean kd_selector_desc_run (const KdSelectorDesc *desc, gconstpointer params, const KdRunOptions *options,
    gpointer state, KdBatch *batch, GError **error);

/* One line at the end of a leaf's file makes the loadable plugin. */
KD_API gboolean kd_loss_register (GstPlugin *plugin, const KdLossDesc *desc);
KD_API gboolean kd_transform_register (GstPlugin *plugin, const KdTransformDesc *desc);
KD_API gboolean kd_augment_register (GstPlugin *plugin, const KdAugmentDesc *desc);
KD_API gboolean kd_selector_register (GstPlugin *plugin, const KdSelectorDesc *desc);
KD_API gboolean kd_source_register (GstPlugin *plugin, const KdSourceDesc *desc);
KD_API gboolean kd_sink_register (GstPlugin *plugin, const KdSinkDesc *desc);

#ifndef PACKAGE /* GST_PLUGIN_DEFINE names the source module by it */
#define PACKAGE "kdstream"
#endif
#ifndef KD_PLUGIN_VERSION
#define KD_PLUGIN_VERSION "0.1.0"
#endif
#ifndef KD_PLUGIN_LICENSE
#define KD_PLUGIN_LICENSE "LGPL"
#endif
#ifndef KD_PLUGIN_PACKAGE
#define KD_PLUGIN_PACKAGE "kdstream"
#endif
#ifndef KD_PLUGIN_ORIGIN
#define KD_PLUGIN_ORIGIN "https://kdstream.org"
#endif

/* GST_PLUGIN_DEFINE wants it as autotools gives it. */
#ifndef PACKAGE
#define PACKAGE KD_PLUGIN_PACKAGE
#endif

/* GStreamer derives the symbol to look up from the file name libNAME.so: the build defines KD_PLUGIN_NAME (no quotes) as NAME. */
/* clang-format off */
#define KD_PLUGIN_DEFINE(description, init_body)                                                                       \
  static gboolean kd_plugin_init (GstPlugin *plugin) { init_body }                                                     \
  GST_PLUGIN_DEFINE (GST_VERSION_MAJOR, GST_VERSION_MINOR, KD_PLUGIN_NAME, description, kd_plugin_init,                \
      KD_PLUGIN_VERSION, KD_PLUGIN_LICENSE, KD_PLUGIN_PACKAGE, KD_PLUGIN_ORIGIN)

#define KD_LOSS_PLUGIN(desc) KD_PLUGIN_DEFINE ("kdstream loss", return kd_loss_register (plugin, &desc);)
#define KD_TRANSFORM_PLUGIN(desc) KD_PLUGIN_DEFINE ("kdstream transform", return kd_transform_register (plugin, &desc);)
#define KD_AUGMENT_PLUGIN(desc) KD_PLUGIN_DEFINE ("kdstream augmentation", return kd_augment_register (plugin, &desc);)
#define KD_SELECTOR_PLUGIN(desc) KD_PLUGIN_DEFINE ("kdstream selector", return kd_selector_register (plugin, &desc);)
#define KD_SOURCE_PLUGIN(desc) KD_PLUGIN_DEFINE ("kdstream source", return kd_source_register (plugin, &desc);)
#define KD_SINK_PLUGIN(desc) KD_PLUGIN_DEFINE ("kdstream sink", return kd_sink_register (plugin, &desc);)
/* clang-format on */

/** kd_element_factory_desc: (transfer none) descriptor of a registered element (loads its plugin), or NULL when the element
 * is not one of kdstream's leaves. @ret_kind: "loss", "transform", "augment", "selector", "source", "sink", "model". */
KD_API const KdDesc *kd_element_factory_desc (GstElementFactory *factory, const gchar **ret_kind);

G_END_DECLS
