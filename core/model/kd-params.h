/* KdParamSet: the named parameters of one model on flat, aligned host memory: values, gradients, and the optimiser's moments.
 * One flat buffer makes the optimiser one loop and an MPI sum one call. Saved as safetensors. */
#pragma once
#include <glib.h>
#include "../batch/kd-tensor.h"

G_BEGIN_DECLS

typedef enum {
  KD_INIT_ZEROS,
  KD_INIT_ONES,
  KD_INIT_KAIMING_UNIFORM, /* PyTorch's default for linear and conv: uniform +-sqrt(1/fan_in) */
  KD_INIT_KAIMING_NORMAL,  /* normal, variance 2/fan_out (He; for relu) */
  KD_INIT_XAVIER_UNIFORM,
  KD_INIT_NORMAL_002,  /* normal, deviation 0.02 */
  KD_INIT_NORMAL,      /* normal, deviation 1 */
  KD_INIT_FAN_IN_BIAS, /* uniform +-sqrt(1/dims[1]), dims[1] is the layer's fan-in; the tensor is [dims[0]] */
} KdInit;

typedef struct {
  gchar *name;
  guint rank;
  gint64 dims[KD_MAX_RANK];
  gsize offset; /* elements, into values and grads */
  gsize n;
  gboolean trainable; /* FALSE: a buffer such as a running mean */
  gboolean decay;     /* weight decay applies (rank > 1) */
} KdParamInfo;

typedef struct _KdParamSet KdParamSet;

KD_API KdParamSet *kd_param_set_new (guint64 seed);
KD_API KdParamSet *kd_param_set_ref (KdParamSet *set);
KD_API void kd_param_set_unref (KdParamSet *set);
G_DEFINE_AUTOPTR_CLEANUP_FUNC (KdParamSet, kd_param_set_unref)

/** kd_param_set_add: only before kd_param_set_freeze. What is drawn depends on the seed and @name, not on the order. */
KD_API gboolean kd_param_set_add (KdParamSet *set, const gchar *name, guint rank, const gint64 *dims, KdInit init,
    gboolean trainable, GError **error);
/** kd_param_set_freeze: lay all out in one buffer (each aligned to 64 bytes) and initialise. */
KD_API void kd_param_set_freeze (KdParamSet *set);
KD_API gboolean kd_param_set_is_frozen (const KdParamSet *set);
KD_API guint kd_param_set_n (const KdParamSet *set);
KD_API const KdParamInfo *kd_param_set_nth (const KdParamSet *set, guint i);
KD_API gint kd_param_set_find (const KdParamSet *set, const gchar *name); /* -1: none */
KD_API gsize kd_param_set_n_trainable (const KdParamSet *set);            /* numbers, not tensors */
KD_API gfloat *kd_param_set_values (KdParamSet *set, guint i);
KD_API gfloat *kd_param_set_grads (KdParamSet *set, guint i);
/** kd_param_set_flat_grads: the one buffer; @ret_n elements. */
KD_API gfloat *kd_param_set_flat_grads (KdParamSet *set, gsize *ret_n);
KD_API void kd_param_set_zero_grads (KdParamSet *set);
/** kd_param_set_grad_norm2: sum of squares of all gradients, in double, same bits for any thread count. */
KD_API gdouble kd_param_set_grad_norm2 (const KdParamSet *set);

/** KdStep: one optimiser step, sent upstream by kdtrain. */
typedef enum { KD_OPTIMIZER_SGD,
  KD_OPTIMIZER_ADAMW } KdOptimizer;
typedef struct {
  KdOptimizer optimizer;
  gdouble learning_rate;
  gdouble weight_decay; /* sgd: L2 added to the gradient; adamw: decoupled */
  gdouble momentum;     /* sgd */
  gboolean nesterov;
  gdouble beta1, beta2, epsilon; /* adamw */
  gdouble grad_scale;            /* multiplies every gradient first: clipping and accumulation */
  guint64 step;                  /* from 1 */
} KdStep;

/** kd_param_set_step: update all trainable parameters, as torch.optim.SGD / AdamW do (same formulas; tested against them), and zero the
 * gradients in the same pass. */
KD_API void kd_param_set_step (KdParamSet *set, const KdStep *step);

/** kd_param_set_save: a safetensors file (temporary name, fsync, rename). @metadata: key, value, ..., NULL. */
KD_API gboolean kd_param_set_save (KdParamSet *set, const gchar *path, const gchar *const *metadata, GError **error);
/** kd_param_set_load: names and shapes must agree in both directions (KD_ERROR_MISMATCH names the first that does not);
 * float16, bfloat16 and float64 files are converted. */
KD_API gboolean kd_param_set_load (KdParamSet *set, const gchar *path, GError **error);
/** kd_safetensors_read: (transfer full) one tensor of a safetensors file, as float32; KD_ERROR_FIELD names those that are there. */
KD_API KdTensor *kd_safetensors_read (const gchar *path, const gchar *name, GError **error);
/** kd_safetensors_metadata: (transfer full) the `__metadata__` of a safetensors file, string -> string; empty when it has none. */
KD_API GHashTable *kd_safetensors_metadata (const gchar *path, GError **error);

/** kd_param_set_get_state / set_state: values and moments as tensors, for checkpoints ("value.NAME", "moment1.NAME" ...). */
KD_API void kd_param_set_get_state (KdParamSet *set, GHashTable *state); /* name (owned) -> KdTensor (owned) */
KD_API gboolean kd_param_set_set_state (KdParamSet *set, GHashTable *state, GError **error);

/** kd_param_set_fingerprint: (transfer full) hex SHA-256 of names, shapes and values. */
KD_API gchar *kd_param_set_fingerprint (KdParamSet *set);

G_END_DECLS
