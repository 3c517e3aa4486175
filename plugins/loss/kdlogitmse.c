/**
 * SECTION:element-kdlogitmse
 * @short_description: squared distance between the teacher's and the student's logits
 *
 * loss = mean over counted rows of sum_c (s_c - t_c)^2 / C (reduction=element) or without / C (reduction=batch)
 * grad = 2 (s - t) / (rows C) or 2 (s - t) / rows
 * center: each row's mean is taken from both first; the gradient is centred with it.
 *
 * ## Fields
 *  - student.logits: float32 [* C], differentiable
 *  - teacher.logits: float32, float16 or bfloat16 [* C]
 *  - mask, token.weight, sample.weight: optional, see the base
 * ## Units
 * Logits squared; the mean runs over the counted rows. The leaf's `reduction` stands in the place of the base's.
 * ## Errors
 * None of its own; the base refuses disagreeing shapes and values that are not finite.
 * ## Source
 * arXiv:2105.08919, equation 7.
 * ## Example
 * |[ kd launch 'kdh5src location=batch.h5 ! kdlogitmse center=true ! kdh5sink location=out.h5' ]|
 */
#include <kd/kd.h>

enum { REDUCTION_ELEMENT,
  REDUCTION_BATCH };

typedef struct {
  gint reduction;
  gboolean center;
} KdLogitMseParams;

static const KdEnumValue reductions[] = {
  { REDUCTION_ELEMENT, "element", "Mean over all logits" },
  { REDUCTION_BATCH, "batch", "Sum over a row's logits, mean over rows" },
  { 0, NULL, NULL }
};

static const KdParam kd_logit_mse_params[] = {
  KD_PARAM_ENUM (KdLogitMseParams, reduction, reductions, REDUCTION_ELEMENT, "Whether the squares of a row are averaged or summed"),
  KD_PARAM_BOOL (KdLogitMseParams, center, FALSE, "Take each row's mean from both models' logits first"),
  KD_PARAM_END
};

enum { STUDENT,
  TEACHER };
static const KdFieldSpec kd_logit_mse_fields[] = {
  [STUDENT] = { "student.logits", KD_FLOAT32, "* C", KD_FIELD_GRAD },
  [TEACHER] = { "teacher.logits", KD_FLOAT32 | KD_FLOAT16 | KD_BFLOAT16, "* C" },
  KD_FIELD_END
};

static gboolean
kd_logit_mse_evaluate (const KdCall *call, KdLossResult *ret, GError **error)
{
  const KdLogitMseParams *p = call->params;
  const KdRows *rows = kd_call_rows (call);
  gint64 size = kd_call_size (call, 'C');
  gdouble scale = p->reduction == REDUCTION_ELEMENT ? 1.0 / (gdouble) MAX (size, 1) : 1.0;
  g_autofree gdouble *value = g_new (gdouble, rows->n);

  kd_squared_rows (&(KdSquared) {
      .n = rows->n,
      .size = size,
      .student = call->in[STUDENT]->data,
      .teacher = call->in[TEACHER]->data,
      .teacher_type = (KdReal) call->in[TEACHER]->dtype,
      .center = p->center,
      .coef = rows->coef,
      .scale = scale,
      .grad = ret->grad[STUDENT],
      .value = value,
  });
  ret->loss = scale * kd_rows_sum (rows->n, rows->coef, value);
  return TRUE;
}

static const KdLossDesc kd_logit_mse = {
  .name = "kdlogitmse",
  .title = "Logit MSE loss",
  .description = "Squared distance between the raw logits of teacher and student",
  .source = "arXiv:2105.08919 equation 7",
  .formula = "loss = mean_n sum_c (student_c - teacher_c)^2 / C; reduction=batch: without / C",
  .units = "logits squared; mean over the counted rows, and over their classes with reduction=element",
  .fields = kd_logit_mse_fields,
  .params = kd_logit_mse_params,
  .params_size = sizeof (KdLogitMseParams),
  .evaluate = kd_logit_mse_evaluate,
};

KD_LOSS_PLUGIN (kd_logit_mse)
