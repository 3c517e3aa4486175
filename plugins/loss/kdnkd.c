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
 * KD_ERROR_VALUE: a counted row whose logits are not finite.
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
  [STUDENT] = { "student.logits", KD_FLOAT32, "* C", KD_FIELD_GRAD | KD_FIELD_FRESH },
  [TEACHER] = { "teacher.logits", KD_FLOAT32 | KD_FLOAT16 | KD_BFLOAT16, "* C" },
  [LABEL] = { "label", KD_INT64, "*", KD_FIELD_LABEL },
  KD_FIELD_END
};

enum { CE,
  TARGET,
  NONTARGET };
static const gchar *const kd_nkd_terms[] = { [CE] = "ce", [TARGET] = "target", [NONTARGET] = "nontarget", NULL };

/* t_y of each row: the teacher's belief in the target. */
static void
find_belief (const KdCall *call, gdouble *ret)
{
  const KdRows *rows = kd_call_rows (call);
  const KdTensor *teacher = call->in[TEACHER];
  const gint64 *label = call->in[LABEL]->data;
  gint64 size = kd_call_size (call, 'C');

  kd_softmax_rows (&(KdSoftmax) {
      .n = rows->n, .size = size, .logits = teacher->data, .type = (KdReal) teacher->dtype, .coef = rows->coef, .temperature = 1.0, .lse = ret });
  for (gint64 r = 0; r < rows->n; r++)
    ret[r] = rows->coef[r] == 0 ? 0 : exp (kd_tensor_get_double (teacher, r * size + label[r]) - ret[r]);
}

static gboolean
kd_nkd_evaluate (const KdCall *call, KdLossResult *ret, GError **error)
{
  const KdNkdParams *p = call->params;
  const KdRows *rows = kd_call_rows (call);
  gint64 n = rows->n, size = kd_call_size (call, 'C');
  g_autofree gdouble *belief = g_new0 (gdouble, n), *coef = g_new (gdouble, n), *ce = g_new0 (gdouble, n), *others = g_new0 (gdouble, n);

  find_belief (call, belief);
  for (gint64 r = 0; r < n; r++)
    coef[r] = rows->coef[r] * (p->ce_weight + belief[r]);
  kd_xent_rows (&(KdXent) { .n = n, .size = size, .logits = call->in[STUDENT]->data, .label = call->in[LABEL]->data, .coef = coef, .scale = 1.0, .grad = ret->grad[STUDENT], .fresh = ret->fresh[STUDENT], .value = ce });
  for (gint64 r = 0; r < n; r++)
    coef[r] = rows->coef[r] * belief[r];
  ret->term[CE] = kd_rows_sum (n, rows->coef, ce);
  ret->term[TARGET] = kd_rows_sum (n, coef, ce);
  kd_decoupled_rows (&(KdDecoupled) {
      .n = n,
      .size = size,
      .student = call->in[STUDENT]->data,
      .teacher = call->in[TEACHER]->data,
      .teacher_type = (KdReal) call->in[TEACHER]->dtype,
      .label = call->in[LABEL]->data,
      .coef = rows->coef,
      .temperature = p->temperature,
      .scale = p->gamma * p->temperature * p->temperature,
      .beta = 1.0,
      .cross_entropy = TRUE,
      .grad = ret->grad[STUDENT],
      .target = belief,
      .others = others,
  });
  ret->term[NONTARGET] = p->gamma * p->temperature * p->temperature * kd_rows_sum (n, rows->coef, others);
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
