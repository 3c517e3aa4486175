/**
 * SECTION:element-kdnkd
 * @short_description: normalised knowledge distillation
 *
 * loss = ce-weight CE (student, label) - mean_n t_y log P_y - gamma T^2 mean_n sum_{j != y} q^_j log p^_j
 * t_y = softmax (teacher)_y and P = softmax (student), both at temperature 1; p^, q^ the softmax over the other classes at temperature T.
 * grad = (ce-weight + t_y) (P - onehot) + gamma T (p^ - q^) on the other classes, per row.
 *
 * ## Fields
 *  - student.logits: float32 [* C], differentiable; teacher.logits: float32, float16 or bfloat16 [* C]; label: int64 [*]
 *  - mask, token.weight, sample.weight: as for every loss
 *  - adds loss.ce, loss.target, loss.nontarget (with gamma and T^2)
 * ## Units
 * nats; a cross-entropy: its least value is not 0. Mean over counted rows.
 * ## Errors
 * None of its own.
 * ## Source
 * arXiv:2303.13005 equation 9; yzd-v/cls_KD.
 * ## Example
 * |[ kd launch 'kdh5src location=train.h5 ! kdcache location=teacher.h5 ! kdstudent arch="mlp dims=64,16,10" ! kdnkd gamma=1.5 ! kdtrain' ]|
 */
#include <kd/kd.h>

#include <math.h>

typedef struct {
  gdouble temperature, gamma, ce_weight;
} KdNkdParams;

static const KdParam kd_nkd_params[] = {
  KD_PARAM_DOUBLE (KdNkdParams, temperature, 0.01, 1000.0, 1.0, "Divides both logits in the other classes' term"),
  KD_PARAM_DOUBLE (KdNkdParams, gamma, 0.0, 1e6, 1.5, "Factor of the other classes' term"),
  KD_PARAM_DOUBLE (KdNkdParams, ce_weight, 0.0, 1e6, 1.0, "Factor of the cross-entropy with the labels"),
  KD_PARAM_END
};

enum { STUDENT,
  TEACHER,
  LABEL };
static const KdFieldSpec kd_nkd_fields[] = {
  [STUDENT] = { "student.logits", KD_FLOAT32, "* C", KD_FIELD_GRAD },
  [TEACHER] = { "teacher.logits", KD_FLOAT32 | KD_FLOAT16 | KD_BFLOAT16, "* C" },
  [LABEL] = { "label", KD_INT64, "*", KD_FIELD_LABEL },
  KD_FIELD_END
};

enum { CE,
  TARGET,
  NONTARGET };
static const gchar *const kd_nkd_terms[] = { [CE] = "ce", [TARGET] = "target", [NONTARGET] = "nontarget", NULL };

typedef struct {
  gdouble ce, target, nontarget;
} Row;

static Row
evaluate_row (const KdNkdParams *p, gint64 size, const gdouble *student, const gdouble *teacher, gint64 label, gdouble coef, gfloat *grad)
{
  KdDecoupled one, soft;
  gdouble t = p->temperature, ce, scale;

  kd_decoupled_row (size, student, teacher, label, 1.0, &one);
  kd_decoupled_row (size, student, teacher, label, t, &soft);
  /* -log P_y = softplus (others - target): exact where P_y rounds to 1 */
  ce = one.student_others == -INFINITY ? 0 : fmax (one.student_others - student[label], 0) + log1p (exp (-fabs (one.student_others - student[label])));
  scale = p->ce_weight + one.q_target;
  grad[label] += (gfloat) (coef * scale * -exp (one.student_others == -INFINITY ? -INFINITY : one.student_others - student[label] - ce));
  for (gint64 j = 0; j < size; j++) {
    gdouble others;
    if (j == label)
      continue;
    others = exp (student[j] / t - soft.student_others) - exp (teacher[j] / t - soft.teacher_others);
    grad[j] += (gfloat) (coef * (scale * exp (student[j] - student[label] - ce) + p->gamma * t * others));
  }
  return (Row) { ce, one.q_target * ce, p->gamma * t * t * soft.others_cross };
}

static gboolean
kd_nkd_evaluate (const KdCall *call, KdLossResult *ret, GError **error)
{
  const KdNkdParams *p = call->params;
  const KdRows *rows = kd_call_rows (call);
  gint64 size = kd_call_size (call, 'C');
  g_autofree gdouble *student = g_new (gdouble, size), *teacher = g_new (gdouble, size);

  for (gint64 r = 0; r < rows->n; r++) {
    Row row;
    if (rows->coef[r] == 0)
      continue;
    kd_row_to_double (call->in[STUDENT]->data, KD_REAL_F32, r, size, student);
    kd_row_to_double (call->in[TEACHER]->data, (KdReal) call->in[TEACHER]->dtype, r, size, teacher);
    row = evaluate_row (p, size, student, teacher, ((const gint64 *) call->in[LABEL]->data)[r], rows->coef[r], ret->grad[STUDENT] + r * size);
    ret->term[CE] += rows->coef[r] * row.ce;
    ret->term[TARGET] += rows->coef[r] * row.target;
    ret->term[NONTARGET] += rows->coef[r] * row.nontarget;
  }
  ret->loss = p->ce_weight * ret->term[CE] + ret->term[TARGET] + ret->term[NONTARGET];
  return TRUE;
}

static const KdLossDesc kd_nkd = {
  .name = "kdnkd",
  .title = "Normalised KD loss",
  .description = "Cross-entropy, the teacher's belief in the target, and the other classes normalised among themselves",
  .source = "arXiv:2303.13005 equation 9",
  .formula = "loss = ce-weight CE - mean_n t_y log P_y - gamma T^2 mean_n sum_{j != y} q^_j log p^_j",
  .units = "nats; mean over the counted rows with reduction=token-mean",
  .fields = kd_nkd_fields,
  .params = kd_nkd_params,
  .params_size = sizeof (KdNkdParams),
  .terms = kd_nkd_terms,
  .evaluate = kd_nkd_evaluate,
};

KD_LOSS_PLUGIN (kd_nkd)
