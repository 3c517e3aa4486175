/**
 * SECTION:element-kddkd
 * @short_description: decoupled knowledge distillation
 *
 * loss = ce-weight CE (student, label) + ramp T^2 mean_n (alpha TCKD + beta NCKD)
 * TCKD = KL ((q_y, 1 - q_y) || (p_y, 1 - p_y)), NCKD = KL (q^ || p^) over the classes beside the target; p, q at temperature T.
 * grad of TCKD: target (p_y - q_y) / T, others -p^_j (p_y - q_y) / T; of NCKD: target 0, others (p^_j - q^_j) / T.
 * ramp = min ((epoch + 1) / warmup-epochs, 1); 1 with warmup-epochs=0.
 *
 * ## Fields
 *  - student.logits: float32 [* C], differentiable; teacher.logits: float32, float16 or bfloat16 [* C]; label: int64 [*]
 *  - mask, token.weight, sample.weight: as for every loss
 *  - adds loss.ce, loss.tckd and loss.nckd (both with T^2, without alpha, beta and ramp)
 * ## Units
 * nats; mean over counted rows.
 * ## Errors
 * KD_ERROR_VALUE: a counted row whose logits are not finite.
 * ## Source
 * arXiv:2203.08679 equations 5 to 7; defaults of megvii-research/mdistiller. KL (q || p) = TCKD + (1 - q_y) NCKD.
 * ## Example
 * |[ kd launch 'kdh5src location=train.h5 ! kdcache location=teacher.h5 ! kdstudent arch="mlp dims=64,16,10" ! kddkd beta=8 ! kdtrain' ]|
 */
#include <kd/kd.h>

typedef struct {
  gdouble temperature, alpha, beta, ce_weight;
  gint64 warmup_epochs;
} KdDkdParams;

static const KdParam kd_dkd_params[] = {
  KD_PARAM_DOUBLE (KdDkdParams, temperature, 0.01, 1000.0, 4.0, "Divides both logits; the terms are multiplied by its square"),
  KD_PARAM_DOUBLE (KdDkdParams, alpha, 0.0, 1e6, 1.0, "Factor of the target's part"),
  KD_PARAM_DOUBLE (KdDkdParams, beta, 0.0, 1e6, 8.0, "Factor of the other classes' part"),
  KD_PARAM_DOUBLE (KdDkdParams, ce_weight, 0.0, 1e6, 1.0, "Factor of the cross-entropy with the labels"),
  KD_PARAM_INT (KdDkdParams, warmup_epochs, 0, 1 << 20, 20, "Epochs over which both parts rise to their factors, 0: at once"),
  KD_PARAM_END
};

enum { STUDENT,
  TEACHER,
  LABEL };
static const KdFieldSpec kd_dkd_fields[] = {
  [STUDENT] = { "student.logits", KD_FLOAT32, "* C", KD_FIELD_GRAD | KD_FIELD_FRESH },
  [TEACHER] = { "teacher.logits", KD_FLOAT32 | KD_FLOAT16 | KD_BFLOAT16, "* C" },
  [LABEL] = { "label", KD_INT64, "*", KD_FIELD_LABEL },
  KD_FIELD_END
};

enum { CE,
  TCKD,
  NCKD };
static const gchar *const kd_dkd_terms[] = { [CE] = "ce", [TCKD] = "tckd", [NCKD] = "nckd", NULL };

static void
add_labels (const KdCall *call, KdLossResult *ret, gdouble *value)
{
  const KdDkdParams *p = call->params;
  const KdRows *rows = kd_call_rows (call);

  kd_xent_rows (&(KdXent) {
      .n = rows->n,
      .size = kd_call_size (call, 'C'),
      .logits = call->in[STUDENT]->data,
      .label = call->in[LABEL]->data,
      .coef = rows->coef,
      .scale = p->ce_weight,
      .grad = p->ce_weight > 0 ? ret->grad[STUDENT] : NULL,
      .fresh = ret->fresh[STUDENT],
      .value = value,
  });
  ret->fresh[STUDENT] = ret->fresh[STUDENT] && !(p->ce_weight > 0);
  ret->term[CE] = kd_rows_sum (rows->n, rows->coef, value);
}

static gboolean
kd_dkd_evaluate (const KdCall *call, KdLossResult *ret, GError **error)
{
  const KdDkdParams *p = call->params;
  const KdRows *rows = kd_call_rows (call);
  gdouble ramp = p->warmup_epochs ? MIN ((call->epoch + 1.0) / (gdouble) p->warmup_epochs, 1.0) : 1.0, t2 = p->temperature * p->temperature;
  g_autofree gdouble *tckd = g_new0 (gdouble, rows->n), *nckd = g_new0 (gdouble, rows->n);

  add_labels (call, ret, tckd);
  kd_decoupled_rows (&(KdDecoupled) {
      .n = rows->n,
      .size = kd_call_size (call, 'C'),
      .student = call->in[STUDENT]->data,
      .teacher = call->in[TEACHER]->data,
      .teacher_type = (KdReal) call->in[TEACHER]->dtype,
      .label = call->in[LABEL]->data,
      .coef = rows->coef,
      .temperature = p->temperature,
      .scale = ramp * t2,
      .alpha = p->alpha,
      .beta = p->beta,
      .grad = ret->grad[STUDENT],
      .fresh = ret->fresh[STUDENT],
      .target = tckd,
      .others = nckd,
  });
  ret->term[TCKD] = t2 * kd_rows_sum (rows->n, rows->coef, tckd);
  ret->term[NCKD] = t2 * kd_rows_sum (rows->n, rows->coef, nckd);
  ret->loss = p->ce_weight * ret->term[CE] + ramp * (p->alpha * ret->term[TCKD] + p->beta * ret->term[NCKD]);
  return TRUE;
}

static const KdLossDesc kd_dkd = {
  .name = "kddkd",
  .title = "Decoupled KD loss",
  .description = "Cross-entropy plus the target's and the other classes' parts of the KL divergence, weighted apart",
  .source = "arXiv:2203.08679 equations 5 to 7",
  .formula = "loss = ce-weight CE + ramp T^2 mean_n (alpha KL (b_q || b_p) + beta KL (q^ || p^)), b = (target, others), ^ = softmax over the others",
  .units = "nats; mean over the counted rows with reduction=token-mean",
  .fields = kd_dkd_fields,
  .params = kd_dkd_params,
  .params_size = sizeof (KdDkdParams),
  .terms = kd_dkd_terms,
  .evaluate = kd_dkd_evaluate,
};

KD_LOSS_PLUGIN (kd_dkd)
