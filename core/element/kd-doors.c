/* The doors: a leaf's pure function on a batch, the same from elements, tests and tools. */
#include "kd-bind.h"
#include "kd-element.h"
#include "kd-schedule.h"

#include <math.h>
#include <string.h>

static const KdEnumValue reductions[] = {
  { KD_REDUCTION_TOKEN_MEAN, "token-mean", "Sum over counted rows / number of counted rows" },
  { KD_REDUCTION_SUM, "sum", "Plain sum over counted rows" },
  { KD_REDUCTION_SEQ_MEAN, "seq-mean", "Mean over a sample's rows, then mean over samples with at least one" },
  { KD_REDUCTION_BATCH, "batch", "Sum over counted rows / number of samples" },
  { KD_REDUCTION_NUM_ITEMS, "num-items", "Sum over counted rows / num-items" },
  { 0, NULL, NULL },
};
static const KdEnumValue nan_policies[] = {
  { KD_NAN_ERROR, "error", "Stop and name the sample" },
  { KD_NAN_DROP, "drop", "Leave rows out that hold a NaN or an infinity" },
  { KD_NAN_ZERO, "zero", "Read NaN and infinities as 0" },
  { 0, NULL, NULL },
};
static const KdEnumValue select_modes[] = {
  { KD_SELECT_WEIGHT, "weight", "Multiply sample.weight" },
  { KD_SELECT_DROP, "drop", "Take samples with weight 0 out of the batch" },
  { 0, NULL, NULL },
};

const KdParam kd_loss_base_params[] = {
  KD_PARAM_DOUBLE (KdRunOptions, weight, 0, 1e9, 1, "Multiplies this loss and its gradient"),
  KD_PARAM_ENUM (KdRunOptions, reduction, reductions, KD_REDUCTION_TOKEN_MEAN, "How the rows become one number"),
  KD_PARAM_DOUBLE (KdRunOptions, num_items, 1e-9, 1e18, 1, "Divisor of reduction=num-items"),
  KD_PARAM_INT (KdRunOptions, ignore_index, G_MININT64, G_MAXINT64, -100, "Label of rows that do not count"),
  KD_PARAM_ENUM (KdRunOptions, nan_policy, nan_policies, KD_NAN_ERROR, "What to do with values that are not finite"),
  KD_PARAM_STRING (KdRunOptions, schedule, NULL, KD_SCHEDULE_HELP),
  KD_PARAM_BOOL (KdRunOptions, accumulate, TRUE, "Add to the loss and the gradients of the losses before; false: take their place"),
  KD_PARAM_END
};
const KdParam kd_augment_base_params[] = {
  KD_PARAM_UINT64 (KdRunOptions, seed, 0, "Key of the random numbers"),
  KD_PARAM_INT (KdRunOptions, views, 0, G_MAXINT32, 0, "Different views of a sample: view = 1 + epoch modulo this; 0: a new one each epoch"),
  KD_PARAM_END
};
const KdParam kd_selector_base_params[] = {
  KD_PARAM_ENUM (KdRunOptions, mode, select_modes, KD_SELECT_WEIGHT, "What becomes of the selector's weights"),
  KD_PARAM_END
};

void
kd_run_options_init (KdRunOptions *options)
{
  memset (options, 0, sizeof *options);
  kd_params_init (kd_loss_base_params, options);
  kd_params_init (kd_augment_base_params, options);
  kd_params_init (kd_selector_base_params, options);
}

void
kd_call_random (const KdCall *call, gint64 n, KdRandom *ret_random)
{
  gint64 id = call->sample_id ? call->sample_id[n] : -1;
  gint64 view = call->sample_view ? call->sample_view[n] : 0;

  /* A row without an identity (a mixture) is told apart by its place in the run. */
  if (id < 0)
    id = (gint64) (((guint64) 1 << 63) | (call->index << 24 ^ (guint64) n));
  kd_random_init (ret_random, call->seed, call->purpose, (guint32) view, (guint64) id);
}

static const gint64 *
int64_column (const KdBatch *batch, const gchar *name)
{
  KdTensor *tensor = kd_batch_peek (batch, name);

  return tensor && tensor->dtype == KD_INT64 && tensor->rank == 1 ? tensor->data : NULL;
}

void
kd_call_init (KdCall *call, const KdBinding *binding, gconstpointer params, const KdRunOptions *options, gpointer state, const KdBatch *batch,
    KdTensor *const *in, const KdSizes *sizes)
{
  *call = (KdCall) {
    .params = params,
    .n_samples = batch->n_samples,
    .in = in,
    .weight = options->weight,
    .state = state,
    .seed = options->seed,
    .epoch = batch->epoch,
    .index = batch->index,
    .flags = batch->flags,
    .sample_id = int64_column (batch, "sample.id"),
    .sample_view = int64_column (batch, "sample.view"),
    .teacher = binding->teacher,
    .signalled = binding->signalled,
    .purpose = kd_random_purpose (binding->desc->name),
    .look_ahead = binding->element ? kd_binding_look_ahead : NULL,
    .element = binding->element,
    .batch = batch,
  };
  memcpy (call->size, sizes->letter, sizeof call->size);
}

/* Outputs whose shape is known are made before the call; the leaf makes the others. */
void
kd_outputs_make (const KdBinding *binding, const KdSizes *sizes, KdTensor *const *in, gboolean zero, KdTensor **ret_out)
{
  for (guint i = 0; i < binding->n_out; i++) {
    const KdBoundField *field = &binding->out[i];
    KdDtype dtype = field->dtype ? field->dtype : in[0] ? in[0]->dtype
                                                        : 0;
    gint64 dims[KD_MAX_RANK];
    guint rank = 0;
    gsize bytes;

    if (field->absent)
      continue;
    if (field->n_axes == 1 && field->axes[0].kind == KD_AXIS_LEADING && in[0] && field->name == binding->in[0].name) {
      ret_out[i] = kd_tensor_new (dtype, in[0]->rank, in[0]->dims); /* "*" alone: the shape of what it replaces */
    } else if (kd_bound_shape (field, sizes, &rank, dims) && kd_dtypes_are_one (dtype) && kd_shape_bytes (dtype, rank, dims, &bytes)) {
      ret_out[i] = zero ? kd_tensor_new_zero (dtype, rank, dims) : kd_tensor_new (dtype, rank, dims);
    }
  }
}

void
kd_outputs_put (const KdBinding *binding, KdTensor **out, KdBatch *batch)
{
  for (guint i = 0; i < binding->n_out; i++)
    if (out[i])
      kd_batch_set (batch, binding->out[i].name, out[i]);
}

void
kd_outputs_drop (const KdBinding *binding, KdTensor **out)
{
  for (guint i = 0; i < binding->n_out; i++)
    g_clear_pointer (&out[i], kd_tensor_unref);
}

typedef gboolean (*Evaluate) (const KdCall *call, KdOutputs *ret, GError **error);

static gboolean
run_outputs (Evaluate evaluate, const KdBinding *binding, gconstpointer params, const KdRunOptions *options, gpointer state,
    KdBatch *batch, GError **error)
{
  KdTensor *in[KD_MAX_FIELDS] = { NULL };
  KdOutputs outputs = { { NULL } };
  KdSizes sizes;
  KdCall call;

  if (!kd_binding_read (binding, batch, in, &sizes, error))
    return FALSE;
  kd_call_init (&call, binding, params, options, state, batch, in, &sizes);
  kd_outputs_make (binding, &sizes, in, FALSE, outputs.out);
  if (!evaluate (&call, &outputs, error)) {
    kd_outputs_drop (binding, outputs.out);
    return FALSE;
  }
  kd_outputs_put (binding, outputs.out, batch);
  return TRUE;
}

gboolean
kd_transform_run_bound (const KdTransformDesc *desc, const KdBinding *binding, gconstpointer params, const KdRunOptions *options,
    gpointer state, KdBatch *batch, GError **error)
{
  if (!run_outputs (desc->evaluate, binding, params, options, state, batch, error))
    return FALSE;
  for (guint i = 0; desc->drops && desc->drops[i]; i++)
    kd_batch_remove (batch, desc->drops[i]);
  return TRUE;
}

gboolean
kd_augment_run_bound (const KdAugmentDesc *desc, const KdBinding *binding, gconstpointer params, const KdRunOptions *options,
    gpointer state, KdBatch *batch, GError **error)
{
  if (batch->flags & KD_BATCH_VALIDATION)
    return TRUE;
  if (!kd_batch_peek (batch, "sample.view")) {
    gint64 dims[1] = { batch->n_samples };
    gint64 view = 1 + (options->views ? (gint64) batch->epoch % options->views : (gint64) batch->epoch);
    KdTensor *views = kd_tensor_new (KD_INT64, 1, dims);
    for (gint64 n = 0; n < dims[0]; n++)
      ((gint64 *) views->data)[n] = view;
    kd_batch_set (batch, "sample.view", views);
  }
  return run_outputs (desc->evaluate, binding, params, options, state, batch, error);
}

static void
multiply_weights (KdBatch *batch, const gfloat *weight)
{
  gint64 dims[1] = { batch->n_samples };
  KdTensor *old = kd_batch_peek (batch, "sample.weight");
  KdTensor *new = kd_tensor_new (KD_FLOAT32, 1, dims);

  for (gint64 n = 0; n < dims[0]; n++)
    ((gfloat *) new->data)[n] = weight[n] * (old ? (gfloat) kd_tensor_get_double (old, (gsize) n) : 1);
  kd_batch_set (batch, "sample.weight", new);
}

gboolean
kd_selector_run_bound (const KdSelectorDesc *desc, const KdBinding *binding, gconstpointer params, const KdRunOptions *options,
    gpointer state, KdBatch *batch, GError **error)
{
  KdTensor *in[KD_MAX_FIELDS] = { NULL };
  gint64 n_samples = batch->n_samples, n_kept = 0;
  g_autofree gfloat *weight = g_new (gfloat, MAX (n_samples, 1));
  g_autofree gint64 *kept = g_new (gint64, MAX (n_samples, 1));
  gboolean all_one = TRUE;
  KdSizes sizes;
  KdCall call;

  if (!kd_binding_read (binding, batch, in, &sizes, error))
    return FALSE;
  for (gint64 n = 0; n < n_samples; n++)
    weight[n] = 1;
  kd_call_init (&call, binding, params, options, state, batch, in, &sizes);
  if (!desc->evaluate (&call, weight, error))
    return FALSE;
  for (gint64 n = 0; n < n_samples; n++) {
    if (!(weight[n] >= 0) || !isfinite (weight[n])) {
      g_set_error (error, KD_ERROR, KD_ERROR_VALUE, "Weight not allowed: element=%s, row=%" G_GINT64_FORMAT ", weight=%g", binding->owner, n,
          (gdouble) weight[n]);
      return FALSE;
    }
    all_one = all_one && (weight[n] == 1 || (weight[n] == 0 && options->mode == KD_SELECT_DROP));
    if (weight[n] > 0)
      kept[n_kept++] = n;
  }
  if (options->mode == KD_SELECT_WEIGHT || !all_one)
    multiply_weights (batch, weight);
  if (options->mode == KD_SELECT_DROP && n_kept < n_samples)
    kd_batch_take_rows (batch, kept, n_kept);
  return TRUE;
}

gboolean
kd_transform_desc_run (const KdTransformDesc *desc, gconstpointer params, const KdRunOptions *options, gpointer state, KdBatch *batch,
    GError **error)
{
  g_autoptr (KdBinding) binding = kd_binding_new ((const KdDesc *) desc, desc->outputs, params, desc->name, error);

  return binding && kd_transform_run_bound (desc, binding, params, options, state, batch, error);
}

gboolean
kd_augment_desc_run (const KdAugmentDesc *desc, gconstpointer params, const KdRunOptions *options, gpointer state, KdBatch *batch, GError **error)
{
  g_autoptr (KdBinding) binding = kd_binding_new ((const KdDesc *) desc, desc->outputs, params, desc->name, error);

  return binding && kd_augment_run_bound (desc, binding, params, options, state, batch, error);
}

gboolean
kd_selector_desc_run (const KdSelectorDesc *desc, gconstpointer params, const KdRunOptions *options, gpointer state, KdBatch *batch,
    GError **error)
{
  g_autoptr (KdBinding) binding = kd_binding_new ((const KdDesc *) desc, NULL, params, desc->name, error);

  return binding && kd_selector_run_bound (desc, binding, params, options, state, batch, error);
}
