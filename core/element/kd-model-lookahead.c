/* One step ahead and back: what a bilevel loss asks of the model whose logits it reads (KdLookahead).
 *
 * Parameters are moved in place, since passes read the flat memory, and put back bit for bit; gradients that are there already are kept aside. All
 * passes over the training batch run as the one of the stream did: in training mode, with the same stream of random numbers. */
#include "kd-model-private.h"
#include "../math/kd-xent.h"

#include <math.h>
#include <string.h>

/* The whole distance of the central difference, whatever the gradient's norm (DARTS, arXiv:1806.09055 section 2.3). */
#define DISTANCE 0.01

typedef struct {
  KdModel *model;
  const KdLookahead *ahead;
  KdTensor *input; /* of the training batch */
  KdRandom random;
  gfloat *now;      /* parameters and buffers in the model's memory */
  gfloat *grads;    /* in the model's memory; of the trainable ones, which come first */
  gfloat *theta;    /* [n_all] as they were */
  gfloat *gradient; /* [n_trainable] of the held-out rows */
  gfloat *kept;     /* [n_trainable] gradients that others have left */
  gsize n_all, n_trainable;
} Pass;

static void
pass_begin (Pass *pass)
{
  KdParamSet *set = kd_model_params (pass->model);

  pass->now = kd_param_set_values (set, 0) - kd_param_set_nth (set, 0)->offset;
  for (guint i = 0; i < kd_param_set_n (set); i++)
    pass->n_all = MAX (pass->n_all, kd_param_set_nth (set, i)->offset + kd_param_set_nth (set, i)->n);
  pass->grads = kd_param_set_flat_grads (set, &pass->n_trainable);
  pass->n_all = MAX (pass->n_all, pass->n_trainable);
  pass->theta = g_memdup2 (pass->now, pass->n_all * sizeof (gfloat));
  pass->kept = g_memdup2 (pass->grads, pass->n_trainable * sizeof (gfloat));
  pass->gradient = g_new (gfloat, pass->n_trainable);
}

static void
pass_end (Pass *pass)
{
  memcpy (pass->now, pass->theta, pass->n_all * sizeof (gfloat));
  memcpy (pass->grads, pass->kept, pass->n_trainable * sizeof (gfloat));
  g_free (pass->theta);
  g_free (pass->kept);
  g_free (pass->gradient);
}

/* theta + step x direction; running means and the like as they were. */
static void
move (Pass *pass, gdouble step, const gfloat *direction)
{
  memcpy (pass->now, pass->theta, pass->n_all * sizeof (gfloat));
  for (gsize i = 0; i < pass->n_trainable; i++)
    pass->now[i] = (gfloat) (pass->theta[i] + step * direction[i]);
}

/* The gradient of the inner loss, into the model's own memory for gradients. */
static gboolean
inner_gradient (Pass *pass, GError **error)
{
  KdVar *input, *logits;
  KdTensor *grad = (KdTensor *) pass->ahead->grad;
  g_autoptr (KdForward) forward = kd_model_forward (pass->model, pass->input, TRUE, FALSE, TRUE, &pass->random, &input, &logits, error);

  memset (pass->grads, 0, pass->n_trainable * sizeof (gfloat));
  return forward && kd_forward_backward (forward, 1, &logits, &grad, error);
}

static gboolean
check_labels (const KdLookahead *ahead, const KdTensor *logits, GError **error)
{
  gint64 n = logits->dims[0], size = logits->dims[logits->rank - 1];
  const gint64 *label = ahead->label->data;

  if (logits->rank != 2 || ahead->label->rank != 1 || ahead->label->dims[0] != n) {
    g_autofree gchar *a = kd_tensor_shape_string (logits), *b = kd_tensor_shape_string (ahead->label);
    g_set_error (error, KD_ERROR, KD_ERROR_SHAPE, "Shapes differ: held-out logits=%s, labels=%s, wanted=[rows,classes] and [rows]", a, b);
    return FALSE;
  }
  for (gint64 r = 0; r < n; r++)
    if (label[r] < 0 || label[r] >= size) {
      g_set_error (error, KD_ERROR, KD_ERROR_RANGE, "Label out of range: held-out row=%" G_GINT64_FORMAT ", label=%" G_GINT64_FORMAT ", classes=%" G_GINT64_FORMAT, r, label[r], size);
      return FALSE;
    }
  return TRUE;
}

/* Mean cross-entropy of the held-out rows where the parameters are now, and its gradient. As in evaluation: no dropout, running statistics. */
static gboolean
outer_gradient (Pass *pass, gdouble *ret_loss, GError **error)
{
  const KdLookahead *ahead = pass->ahead;
  KdVar *input, *output;
  g_autoptr (KdForward) forward = kd_model_forward (pass->model, ahead->input, TRUE, FALSE, FALSE, NULL, &input, &output, error);
  g_autoptr (KdTensor) logits = forward ? kd_forward_tensor (forward, output, error) : NULL;
  g_autoptr (KdTensor) grad = NULL;
  g_autofree gdouble *coef = NULL, *value = NULL;

  if (!logits || !check_labels (ahead, logits, error))
    return FALSE;
  grad = kd_tensor_new_zero (KD_FLOAT32, logits->rank, logits->dims);
  coef = g_new (gdouble, MAX (logits->dims[0], 1));
  value = g_new (gdouble, MAX (logits->dims[0], 1));
  for (gint64 r = 0; r < logits->dims[0]; r++)
    coef[r] = 1.0 / (gdouble) logits->dims[0];
  kd_xent_rows (&(KdXent) { .n = logits->dims[0], .size = logits->dims[1], .logits = logits->data, .label = ahead->label->data, .coef = coef, .scale = 1, .grad = grad->data, .value = value });
  *ret_loss = kd_rows_sum (logits->dims[0], coef, value);
  memset (pass->grads, 0, pass->n_trainable * sizeof (gfloat));
  if (!kd_forward_backward (forward, 1, &output, &grad, error))
    return FALSE;
  memcpy (pass->gradient, pass->grads, pass->n_trainable * sizeof (gfloat));
  return TRUE;
}

static KdTensor *
logits_at (Pass *pass, gdouble step, GError **error)
{
  KdVar *input, *output;
  g_autoptr (KdForward) forward = NULL;

  move (pass, step, pass->gradient);
  forward = kd_model_forward (pass->model, pass->input, FALSE, FALSE, TRUE, &pass->random, &input, &output, error);
  return forward ? kd_forward_tensor (forward, output, error) : NULL;
}

/* (z (theta + h v) - z (theta - h v)) / 2h; nothing moves along a gradient of 0, and where it is not finite neither is the answer. */
static KdTensor *
difference (Pass *pass, GError **error)
{
  const KdTensor *like = pass->ahead->grad;
  g_autoptr (KdTensor) jvp = kd_tensor_new_zero (KD_FLOAT32, like->rank, like->dims), up = NULL, down = NULL;
  gfloat *out = jvp->data;
  gsize n = kd_tensor_n_elements (jvp);
  gdouble norm2 = 0, h;

  for (gsize i = 0; i < pass->n_trainable; i++)
    norm2 += (gdouble) pass->gradient[i] * pass->gradient[i];
  if (norm2 == 0)
    return g_steal_pointer (&jvp);
  h = DISTANCE / sqrt (norm2);
  up = logits_at (pass, h, error);
  down = up ? logits_at (pass, -h, error) : NULL;
  if (!down)
    return NULL;
  for (gsize i = 0; i < n; i++)
    out[i] = (gfloat) (((gdouble) ((const gfloat *) up->data)[i] - ((const gfloat *) down->data)[i]) / (2 * h));
  return g_steal_pointer (&jvp);
}

static gboolean
look (Pass *pass, KdLookahead *ahead, GError **error)
{
  g_autofree gfloat *direction = NULL;

  if (!inner_gradient (pass, error))
    return FALSE;
  direction = g_memdup2 (pass->grads, pass->n_trainable * sizeof (gfloat));
  move (pass, -ahead->learning_rate, direction);
  if (!outer_gradient (pass, &ahead->ret_loss, error))
    return FALSE;
  ahead->ret_jvp = difference (pass, error);
  return ahead->ret_jvp != NULL;
}

/* Parameters that move for a moment must not be read or stepped by anybody else in it. */
static gboolean
check_alone (KdElement *self, KdModelState *state, const KdModelOptions *options, const KdBatch *batch, GError **error)
{
  const gchar *reason = NULL;

  if (!options->trainable)
    reason = "it does not learn (trainable=false)";
  else if (kd_param_set_n_trainable (kd_model_params (state->model)) == 0)
    reason = "it has no parameters";
  else if (!kd_batch_get_note (batch, self))
    reason = "the batch is not as the model made it; put selectors before the model";
  if (reason) {
    g_set_error (error, KD_ERROR, KD_ERROR_VALUE, "Cannot look ahead: model=%s, reason=%s", GST_OBJECT_NAME (self), reason);
    return FALSE;
  }
  if (g_atomic_pointer_get (&state->thread) != g_thread_self () || g_atomic_int_get (&state->elsewhere) || g_atomic_int_get (&state->in_flight) > 1) {
    g_set_error (error, KD_ERROR, KD_ERROR_VALUE, "Cannot look ahead: model=%s, reason=a queue stands between model and trainer, whose threads use the parameters at the "
                                                  "same time; move the queue to before the model",
        GST_OBJECT_NAME (self));
    return FALSE;
  }
  return TRUE;
}

void
kd_model_run_lookahead (KdElement *self, KdModelState *state, const KdModelOptions *options, KdLookaheadCall *call)
{
  KdLookahead *ahead = call->ahead;
  Pass pass = { .model = state->model, .ahead = ahead, .input = kd_batch_peek (call->batch, state->input) };
  gboolean ok;

  if (state->n_outputs == 0 || !g_str_equal (state->outputs[0].field, ahead->field))
    return;
  call->taken = TRUE;
  if (!g_str_equal (state->input, "input") || !pass.input) {
    g_set_error (&call->error, KD_ERROR, KD_ERROR_UNSUPPORTED, "Cannot look ahead: model=%s, reads=%s, wanted=input; %s must come from one model", GST_OBJECT_NAME (self),
        state->input, ahead->field);
    return;
  }
  if (!check_alone (self, state, options, call->batch, &call->error))
    return;
  kd_random_init (&pass.random, options->seed, kd_random_purpose ("dropout"), call->batch->epoch, call->batch->index);
  pass_begin (&pass);
  ok = look (&pass, ahead, &call->error);
  pass_end (&pass);
  if (!ok)
    g_prefix_error (&call->error, "Cannot look ahead: model=%s: ", GST_OBJECT_NAME (self));
}
