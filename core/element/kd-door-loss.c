/* The door of losses: gradients that add up, terms that are reported, and a measure of what each loss contributes. */
#include "kd-bind.h"

#include <math.h>
#include <string.h>

const KdEnumValue kd_kl_directions[] = {
  { KD_DIVERGENCE_FORWARD_KL, "forward", "KL (teacher || student)" },
  { KD_DIVERGENCE_REVERSE_KL, "reverse", "KL (student || teacher)" },
  { 0, NULL, NULL }
};

KdDivergence
kd_call_divergence (const KdCall *call, gint kind, guint student, guint teacher, const gdouble *coef, gdouble *value, KdLossResult *ret)
{
  const KdTensor *logits = call->in[student];
  gint64 size = logits->dims[logits->rank - 1];

  return (KdDivergence) {
    .kind = (KdDivergenceKind) kind,
    .n = (gint64) kd_tensor_n_elements (logits) / MAX (size, 1),
    .size = size,
    .student = logits->data,
    .teacher = call->in[teacher]->data,
    .teacher_type = (KdReal) call->in[teacher]->dtype,
    .coef = coef,
    .temperature = 1,
    .scale = 1,
    .grad = ret->grad[student],
    .fresh = ret->fresh[student],
    .value = value,
  };
}

static KdTensor *
gradient_new (const KdBoundField *field, const KdTensor *like, gboolean *ret_fresh)
{
  *ret_fresh = (field->flags & KD_FIELD_FRESH) != 0;
  return *ret_fresh ? kd_tensor_new (KD_FLOAT32, like->rank, like->dims) : kd_tensor_new_zero (KD_FLOAT32, like->rank, like->dims);
}

/* The gradient field, ours to add to: what is there if nobody else holds it, else a copy, else a new one. */
static KdTensor *
gradient_for (KdBatch *batch, const KdBoundField *field, const KdTensor *like, gboolean *ret_fresh)
{
  g_autofree gchar *name = g_strconcat ("grad.", field->name, NULL);
  g_autoptr (KdTensor) old = kd_batch_steal (batch, name);
  KdTensor *copy;

  if (!old)
    return gradient_new (field, like, ret_fresh);
  if (kd_tensor_is_writable (old))
    return g_steal_pointer (&old);
  copy = kd_tensor_new (KD_FLOAT32, old->rank, old->dims);
  memcpy (copy->data, old->data, old->n_bytes);
  return copy;
}

static void
add_scalar (KdBatch *batch, const gchar *name, gdouble value)
{
  KdTensor *old = kd_batch_peek (batch, name);

  if (old && old->rank == 0)
    value += kd_tensor_get_double (old, 0);
  kd_batch_set (batch, name, kd_tensor_new_scalar (value));
}

/* nan-policy=zero works on copies, so that the batch's own tensors stay what they are. */
static void
zero_bad (const KdBinding *binding, KdTensor **in, GPtrArray *owned)
{
  for (guint i = 0; i < binding->n_in; i++) {
    KdTensor *copy;
    if (!in[i] || in[i]->dtype != KD_FLOAT32)
      continue;
    copy = kd_tensor_new (KD_FLOAT32, in[i]->rank, in[i]->dims);
    for (gsize j = 0, n = kd_tensor_n_elements (copy); j < n; j++) {
      gfloat value = ((const gfloat *) in[i]->data)[j];
      ((gfloat *) copy->data)[j] = isfinite (value) ? value : 0;
    }
    in[i] = copy;
    g_ptr_array_add (owned, copy);
  }
}

static gdouble
norm2 (const KdTensor *grad)
{
  const gfloat *g = grad->data;
  gdouble sum = 0;

  for (gsize i = 0, n = kd_tensor_n_elements (grad); i < n; i++)
    sum += (gdouble) g[i] * g[i];
  return sum;
}

typedef struct {
  KdTensor *tensor[KD_MAX_FIELDS]; /* what the leaf adds to */
  KdTensor *before[KD_MAX_FIELDS]; /* when measuring: what was there */
} Gradients;

/* One field may stand for two of the table's (both heads of kddho): they share one gradient, which both add to. */
static gboolean
share_gradient (const KdBinding *binding, guint i, const Gradients *gradients, KdLossResult *result)
{
  guint j = 0;

  while (j < i && !(gradients->tensor[j] && binding->in[j].name == binding->in[i].name))
    j++;
  if (j == i)
    return FALSE;
  if (result->fresh[j])
    memset (gradients->tensor[j]->data, 0, gradients->tensor[j]->n_bytes);
  result->fresh[j] = FALSE;
  result->grad[i] = result->grad[j];
  return TRUE;
}

static void
gradients_begin (const KdBinding *binding, KdBatch *batch, KdTensor *const *in, gboolean measure, Gradients *gradients, KdLossResult *result)
{
  for (guint i = 0; i < binding->n_in; i++) {
    if (!(binding->in[i].flags & KD_FIELD_GRAD) || !in[i] || share_gradient (binding, i, gradients, result))
      continue;
    gradients->tensor[i] = gradient_for (batch, &binding->in[i], in[i], &result->fresh[i]);
    if (measure && !result->fresh[i]) { /* one that is fresh is this loss's own as it is */
      gradients->before[i] = gradients->tensor[i];
      gradients->tensor[i] = gradient_new (&binding->in[i], in[i], &result->fresh[i]);
    }
    result->grad[i] = gradients->tensor[i]->data;
  }
}

/* accumulate=false: nothing of the losses before. */
static void
forget_others (const KdBinding *binding, KdBatch *batch)
{
  kd_batch_remove (batch, "loss");
  for (guint i = 0; i < binding->n_in; i++)
    if (binding->in[i].flags & KD_FIELD_GRAD) {
      g_autofree gchar *name = g_strconcat ("grad.", binding->in[i].name, NULL);
      kd_batch_remove (batch, name);
    }
}

static gdouble
gradients_end (const KdBinding *binding, KdBatch *batch, gboolean measure, Gradients *gradients)
{
  gdouble sum = 0;

  for (guint i = 0; i < binding->n_in; i++) {
    g_autofree gchar *name = NULL;
    if (!gradients->tensor[i])
      continue;
    sum += measure ? norm2 (gradients->tensor[i]) : 0;
    if (gradients->before[i]) {
      gfloat *to = gradients->before[i]->data;
      const gfloat *from = gradients->tensor[i]->data;
      for (gsize j = 0, n = kd_tensor_n_elements (gradients->tensor[i]); j < n; j++)
        to[j] += from[j];
      kd_tensor_unref (gradients->tensor[i]);
      gradients->tensor[i] = gradients->before[i];
    }
    name = g_strconcat ("grad.", binding->in[i].name, NULL);
    kd_batch_set (batch, name, gradients->tensor[i]);
  }
  return sum;
}

static void
gradients_drop (const KdBinding *binding, Gradients *gradients)
{
  for (guint i = 0; i < binding->n_in; i++) {
    g_clear_pointer (&gradients->tensor[i], kd_tensor_unref);
    g_clear_pointer (&gradients->before[i], kd_tensor_unref);
  }
}

static const gchar *
report_name (const KdDesc *desc, const KdBinding *binding)
{
  gsize n = strlen (desc->name);

  /* "kdce0" is GStreamer's own numbering; a name that the user gave is worth keeping. */
  if (g_str_has_prefix (binding->owner, desc->name) && strspn (binding->owner + n, "0123456789") == strlen (binding->owner + n))
    return desc->name;
  return binding->owner;
}

static void
report_loss (const KdLossDesc *desc, const KdBinding *binding, const KdLossResult *result, gdouble grad_norm2, gboolean measured, gdouble n_counted,
    KdBatch *batch)
{
  const gchar *report = report_name ((const KdDesc *) desc, binding);
  g_autofree gchar *name = g_ascii_strdown (report, -1);
  g_autofree gchar *field = g_strconcat ("loss.", name, NULL);

  add_scalar (batch, "loss", result->loss);
  add_scalar (batch, field, result->loss);
  for (guint i = 0; desc->terms && desc->terms[i]; i++) {
    g_autofree gchar *term = g_strconcat ("loss.", desc->terms[i], NULL);
    add_scalar (batch, term, result->term[i]);
  }
  if (measured) {
    g_autofree gchar *norm = g_strconcat ("metric.grad-norm2.", name, NULL);
    add_scalar (batch, norm, grad_norm2);
  }
  batch->n_counted = batch->n_counted == 0 || batch->n_counted == n_counted ? n_counted : NAN;
}

gboolean
kd_loss_run_bound (const KdLossDesc *desc, const KdBinding *binding, gconstpointer params, const KdRunOptions *options, gpointer state,
    KdBatch *batch, gboolean measure, GError **error)
{
  KdTensor *in[KD_MAX_FIELDS] = { NULL };
  KdLossResult result = { 0 };
  Gradients gradients = { 0 };
  KdSizes sizes;
  KdRows rows;
  KdCall call;
  g_autoptr (KdTensor) coef = NULL;
  g_autoptr (GPtrArray) owned = NULL;
  gboolean ok;
  gdouble grad_norm2;

  if (!kd_binding_read (binding, batch, in, &sizes, error))
    return FALSE;
  coef = kd_rows_new (binding, options, batch, in, &sizes, &rows, error);
  if (!coef)
    return FALSE;
  if (options->nan_policy == KD_NAN_ZERO) {
    owned = g_ptr_array_new_with_free_func ((GDestroyNotify) kd_tensor_unref);
    zero_bad (binding, in, owned);
  }
  kd_call_init (&call, binding, params, options, state, batch, in, &sizes);
  call.rows = &rows;
  if (!options->accumulate)
    forget_others (binding, batch);
  gradients_begin (binding, batch, in, measure, &gradients, &result);
  kd_outputs_make (binding, &sizes, in, TRUE, result.out);
  ok = desc->evaluate (&call, &result, error);
  if (!ok) { /* what is half written must not leave the element */
    gradients_drop (binding, &gradients);
    kd_outputs_drop (binding, result.out);
    return FALSE;
  }
  grad_norm2 = gradients_end (binding, batch, measure, &gradients);
  kd_outputs_put (binding, result.out, batch);
  /* What a loss shows of a teacher has been used: kdtrain looks for teacher's fields that nobody wanted. */
  for (guint i = 0; i < binding->n_out; i++)
    kd_batch_read (batch, binding->out[i].name);
  if (!isfinite (result.loss))
    return kd_rows_find_bad (binding, batch, in, &rows, error);
  report_loss (desc, binding, &result, grad_norm2, measure, (gdouble) rows.n_counted, batch);
  return TRUE;
}

gboolean
kd_loss_desc_run (const KdLossDesc *desc, gconstpointer params, const KdRunOptions *options, gpointer state, KdBatch *batch, GError **error)
{
  g_autoptr (KdBinding) binding = kd_binding_new ((const KdDesc *) desc, desc->outputs, params, desc->name, error);

  return binding && kd_loss_run_bound (desc, binding, params, options, state, batch, FALSE, error);
}
