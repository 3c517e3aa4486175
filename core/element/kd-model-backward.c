/* A model in the stream, backward: from the gradients on a batch to parameters and on to the input. */
#include "kd-model-private.h"

#include <string.h>

static void
scale_tensor (KdTensor *tensor, gdouble scale)
{
  gfloat *values = tensor->data;

  for (gsize i = 0, n = scale == 1 ? 0 : kd_tensor_n_elements (tensor); i < n; i++)
    values[i] = (gfloat) (values[i] * scale);
}

/* The gradient of the model's input joins what losses have put there; it is scaled already. */
static void
add_input_gradient (KdModelState *state, KdBatch *batch, KdTensor *grad, gdouble scale)
{
  g_autoptr (KdTensor) old = kd_batch_steal (batch, state->input_grad);
  KdTensor *sum = kd_tensor_new (KD_FLOAT32, grad->rank, grad->dims);
  const gfloat *a = grad->data, *b = old ? old->data : NULL;
  gfloat *out = sum->data;

  /* The next model upstream scales what it finds, so this part is un-scaled here. */
  for (gsize i = 0, n = kd_tensor_n_elements (grad); i < n; i++)
    out[i] = (scale == 0 ? 0 : (gfloat) (a[i] / scale)) + (b ? b[i] : 0);
  kd_batch_set (batch, state->input_grad, sum);
}

static guint
collect_gradients (KdModelState *state, KdBackward *backward, const KdTape *tape, KdVar **ret_vars, KdTensor **ret_grads)
{
  guint n = 0;

  for (guint i = 0; i < state->n_outputs; i++) {
    KdTensor *grad = kd_batch_steal (backward->batch, state->outputs[i].grad);
    if (!grad)
      continue;
    scale_tensor (grad, backward->scale);
    ret_vars[n] = tape->vars[i];
    ret_grads[n++] = grad;
  }
  return n;
}

static gboolean
refuse_stale (KdElement *self, KdModelState *state, KdBackward *backward, GError **error)
{
  g_set_error (error, KD_ERROR, KD_ERROR_VALUE, "Gradients would be stale: element=%s, batches in flight=%d, max-in-flight=%u; move the queue from behind the "
                                                "model to before it, or raise kdtrain's max-in-flight",
      GST_OBJECT_NAME (self), g_atomic_int_get (&state->in_flight), backward->max_in_flight);
  return FALSE;
}

static void
append_gradients (KdProbe *probe, KdParamSet *params)
{
  probe->n_students++;
  for (guint i = 0; i < kd_param_set_n (params); i++) {
    const KdParamInfo *info = kd_param_set_nth (params, i);
    if (info->trainable && g_pattern_spec_match_string (probe->pattern, info->name))
      g_array_append_vals (probe->grads, kd_param_set_grads (params, i), (guint) info->n);
  }
}

static gboolean
take_gradients (KdModelState *state, KdBackward *backward, const KdTape *tape, guint *ret_n, GError **error)
{
  KdVar *vars[KD_MODEL_MAX_OUTPUTS];
  KdTensor *grads[KD_MODEL_MAX_OUTPUTS];
  guint n = *ret_n = collect_gradients (state, backward, tape, vars, grads);
  gboolean ok = n == 0 || (backward->probe ? kd_forward_probe : kd_forward_backward) (tape->forward, n, vars, grads, error);

  for (guint i = 0; i < n; i++)
    kd_tensor_unref (grads[i]);
  if (ok && n > 0 && state->input_grad) {
    g_autoptr (KdTensor) grad = kd_forward_grad (tape->forward, tape->input, error);
    ok = grad != NULL;
    if (ok)
      add_input_gradient (state, backward->batch, grad, backward->scale);
  }
  return ok;
}

gboolean
kd_model_run_probe (KdElement *self, KdModelState *state, gboolean student, KdBackward *backward, GError **error)
{
  KdTape *tape = kd_batch_get_note (backward->batch, self);
  KdParamSet *params = kd_model_params (state->model);
  g_autofree gfloat *kept = NULL;
  gfloat *grads;
  gsize size;
  gboolean ok;
  guint n;

  if (!tape)
    return TRUE;
  grads = kd_param_set_flat_grads (params, &size);
  kept = g_memdup2 (grads, size * sizeof (gfloat));
  kd_param_set_zero_grads (params);
  ok = take_gradients (state, backward, tape, &n, error);
  if (ok && student)
    append_gradients (backward->probe, params);
  if (size > 0)
    memcpy (grads, kept, size * sizeof (gfloat));
  return ok;
}

gboolean
kd_model_run_backward (KdElement *self, KdModelState *state, const KdModelOptions *options, KdBackward *backward, GError **error)
{
  KdTape *tape = kd_batch_get_note (backward->batch, self);
  gboolean ok;
  guint n;

  if (!tape)
    return TRUE;
  if ((guint) g_atomic_int_get (&state->in_flight) > backward->max_in_flight)
    return refuse_stale (self, state, backward, error);
  ok = take_gradients (state, backward, tape, &n, error);
  kd_batch_drop_note (backward->batch, self);
  if (!ok)
    return FALSE;
  backward->n_taken += n > 0;
  return TRUE;
}

gboolean
kd_model_run_reduce (KdModelState *state, const KdModelOptions *options, KdReduce *reduce, GError **error)
{
  KdParamSet *params = kd_model_params (state->model);
  gsize n;
  gfloat *grads = kd_param_set_flat_grads (params, &n);

  if (!options->trainable)
    return TRUE;
  if (!kd_world_sum (grads, n, error))
    return FALSE;
  reduce->grad_norm2 += kd_param_set_grad_norm2 (params);
  return TRUE;
}

void
kd_model_run_step (KdModelState *state, const KdModelOptions *options, KdStepCall *call)
{
  KdParamSet *params = kd_model_params (state->model);
  KdStep step = call->step;

  if (!options->trainable) {
    kd_param_set_zero_grads (params);
    return;
  }
  step.learning_rate *= options->lr_scale;
  kd_param_set_step (params, &step);
  call->n_stepped++;
  call->n_trainable += kd_param_set_n_trainable (params);
}
