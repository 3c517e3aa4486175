/**
 * SECTION:element-kdhinton
 * @short_description: classic distillation: labels and the softened teacher together
 *
 * loss = a CE (student, label) + b T^2 mean over counted rows of KL (q || p)
 * grad = (a (P - o) + b T (p - q)) / rows
 * q = softmax (teacher / T), p = softmax (student / T), P = softmax (student), a = ce-weight, b = kd-weight; o as in kdce.
 *
 * standardize: the KD term alone sees z~ = (z - mean) / (sigma + 1e-7) of each row, sigma unbiased, in both models. With g~ = T (p~ - q~):
 * grad = (g~ - mean g~) / (sigma + 1e-7) - (sum g~ (z - mean)) (z - mean) / ((C - 1) sigma (sigma + 1e-7)^2); 0 where sigma is 0.
 *
 * ## Fields
 *  - student.logits: float32 [* C], differentiable
 *  - teacher.logits: float32, float16 or bfloat16 [* C]
 *  - label: int64 [*] or label.soft: float32 [* C]; neither is needed when ce-weight is 0
 *  - mask, token.weight, sample.weight: optional, see the base
 * Adds loss.ce and loss.kd, both before ce-weight and kd-weight; loss.kd holds T^2.
 * ## Units
 * nats; token-mean over the counted rows by default.
 * ## Errors
 * No label with ce-weight above 0 (KD_ERROR_FIELD); a row of label.soft that is no distribution, an infinite logit (KD_ERROR_VALUE).
 * ## Source
 * arXiv:1503.02531 section 2; weights and T of megvii-research/mdistiller for CIFAR-100; standardize: arXiv:2403.01427 section 3.
 * ## Example
 * |[ kd launch 'kdh5src location=batch.h5 ! kdhinton temperature=4 ! kdh5sink location=out.h5' ]|
 */
#include <kd/kd.h>

typedef struct {
  gdouble temperature, ce_weight, kd_weight, label_smoothing;
  gboolean standardize;
} KdHintonParams;

static const KdParam kd_hinton_params[] = {
  KD_PARAM_DOUBLE (KdHintonParams, temperature, 0.01, 1000.0, 4.0, "Divides both logits in the KD term; the term is multiplied by its square"),
  KD_PARAM_DOUBLE (KdHintonParams, ce_weight, 0.0, 1e6, 0.1, "Factor of the cross-entropy with the labels"),
  KD_PARAM_DOUBLE (KdHintonParams, kd_weight, 0.0, 1e6, 0.9, "Factor of the KD term"),
  KD_PARAM_BOOL (KdHintonParams, standardize, FALSE, "Divide each row's logits by their own spread in the KD term"),
  KD_PARAM_DOUBLE (KdHintonParams, label_smoothing, 0.0, 1.0, 0.0, "Share of the target that is spread evenly over all classes"),
  KD_PARAM_END
};

enum { STUDENT,
  TEACHER,
  LABEL,
  SOFT };
static const KdFieldSpec kd_hinton_fields[] = {
  [STUDENT] = { "student.logits", KD_FLOAT32, "* C", KD_FIELD_GRAD | KD_FIELD_FRESH },
  [TEACHER] = { "teacher.logits", KD_FLOAT32 | KD_FLOAT16 | KD_BFLOAT16, "* C" },
  [LABEL] = { "label", KD_INT64, "*", KD_FIELD_OPTIONAL | KD_FIELD_LABEL },
  [SOFT] = { "label.soft", KD_FLOAT32, "* C", KD_FIELD_OPTIONAL },
  KD_FIELD_END
};

enum { TERM_CE,
  TERM_KD };
static const gchar *const kd_hinton_terms[] = { [TERM_CE] = "ce", [TERM_KD] = "kd", NULL };

static gboolean
add_labels (const KdCall *call, KdLossResult *ret, gdouble *value, GError **error)
{
  const KdHintonParams *p = call->params;
  const KdRows *rows = kd_call_rows (call);
  KdTensor *label = call->in[LABEL], *soft = call->in[SOFT];
  gint64 size = kd_call_size (call, 'C'), bad;

  if (!label && !soft && p->ce_weight == 0)
    return TRUE;
  if (!label && !soft) {
    g_set_error (error, KD_ERROR, KD_ERROR_FIELD, "Field missing: element=kdhinton, field=label or label.soft, ce-weight=%g; put a source "
                                                  "with labels before it or set ce-weight=0",
        p->ce_weight);
    return FALSE;
  }
  bad = soft ? kd_xent_find_bad_soft (rows->n, size, soft->data, rows->coef) : -1;
  if (bad >= 0) {
    g_set_error (error, KD_ERROR, KD_ERROR_VALUE, "No distribution: element=kdhinton, field=label.soft, row=%" G_GINT64_FORMAT ", wanted=entries from 0 with sum 1 within 0.001", bad);
    return FALSE;
  }
  kd_xent_rows (&(KdXent) {
      .n = rows->n,
      .size = size,
      .logits = call->in[STUDENT]->data,
      .label = label ? label->data : NULL,
      .soft = soft ? soft->data : NULL,
      .smoothing = p->label_smoothing,
      .coef = rows->coef,
      .scale = p->ce_weight,
      .grad = p->ce_weight > 0 ? ret->grad[STUDENT] : NULL,
      .fresh = ret->fresh[STUDENT],
      .value = value,
  });
  ret->fresh[STUDENT] = ret->fresh[STUDENT] && !(p->ce_weight > 0);
  ret->term[TERM_CE] = kd_rows_sum (rows->n, rows->coef, value);
  return TRUE;
}

static void
add_teacher (const KdCall *call, const gfloat *student, const void *teacher, KdReal type, gfloat *grad, KdLossResult *ret, gdouble *value)
{
  const KdHintonParams *p = call->params;
  const KdRows *rows = kd_call_rows (call);
  gdouble t2 = p->temperature * p->temperature;

  kd_divergence_rows (&(KdDivergence) {
      .kind = KD_DIVERGENCE_FORWARD_KL,
      .n = rows->n,
      .size = kd_call_size (call, 'C'),
      .student = student,
      .teacher = teacher,
      .teacher_type = type,
      .coef = rows->coef,
      .temperature = p->temperature,
      .scale = p->kd_weight * t2,
      .reject_infinite = TRUE,
      .grad = p->kd_weight > 0 ? grad : NULL,
      .fresh = grad == ret->grad[STUDENT] && ret->fresh[STUDENT],
      .value = value,
  });
  ret->term[TERM_KD] = t2 * kd_rows_sum (rows->n, rows->coef, value);
}

static void
add_teacher_standardized (const KdCall *call, KdLossResult *ret, gdouble *value)
{
  const KdRows *rows = kd_call_rows (call);
  gint64 n = rows->n, size = kd_call_size (call, 'C');
  g_autofree gfloat *student = g_new (gfloat, (gsize) n * size), *teacher = g_new (gfloat, (gsize) n * size);
  g_autofree gfloat *upstream = g_new0 (gfloat, (gsize) n * size);
  g_autofree gdouble *sigma = g_new0 (gdouble, n);

  kd_standardize_rows (n, size, call->in[STUDENT]->data, KD_REAL_F32, rows->coef, student, sigma);
  kd_standardize_rows (n, size, call->in[TEACHER]->data, (KdReal) call->in[TEACHER]->dtype, rows->coef, teacher, NULL);
  add_teacher (call, student, teacher, KD_REAL_F32, upstream, ret, value);
  kd_standardize_backward_rows (n, size, call->in[STUDENT]->data, rows->coef, upstream, ret->grad[STUDENT]);
  for (gint64 i = 0; i < n; i++)
    if (rows->coef[i] != 0 && sigma[i] == 0) {
      GST_WARNING ("kdhinton: all student logits of row %" G_GINT64_FORMAT " are equal: no gradient from the standardised term", i);
      break;
    }
}

static gboolean
kd_hinton_evaluate (const KdCall *call, KdLossResult *ret, GError **error)
{
  const KdHintonParams *p = call->params;
  const KdRows *rows = kd_call_rows (call);
  g_autofree gdouble *value = g_new (gdouble, rows->n);

  if (!add_labels (call, ret, value, error))
    return FALSE;
  if (ret->fresh[STUDENT] && (p->standardize || p->kd_weight == 0)) /* what comes adds, or nothing comes */
    memset (ret->grad[STUDENT], 0, (gsize) (rows->n * kd_call_size (call, 'C')) * sizeof (gfloat));
  if (p->standardize)
    add_teacher_standardized (call, ret, value);
  else
    add_teacher (call, call->in[STUDENT]->data, call->in[TEACHER]->data, (KdReal) call->in[TEACHER]->dtype, ret->grad[STUDENT], ret, value);
  ret->loss = p->ce_weight * ret->term[TERM_CE] + p->kd_weight * ret->term[TERM_KD];
  return TRUE;
}

static const KdLossDesc kd_hinton = {
  .name = "kdhinton",
  .title = "Hinton distillation loss",
  .description = "Cross-entropy with the labels plus KL divergence from the softened teacher",
  .source = "arXiv:1503.02531 section 2; standardize: arXiv:2403.01427 section 3",
  .formula = "loss = ce-weight CE (student, label) + kd-weight T^2 mean_n KL (softmax (teacher / T) || softmax (student / T))",
  .units = "nats; mean over the counted rows with reduction=token-mean",
  .fields = kd_hinton_fields,
  .params = kd_hinton_params,
  .params_size = sizeof (KdHintonParams),
  .terms = kd_hinton_terms,
  .evaluate = kd_hinton_evaluate,
};

KD_LOSS_PLUGIN (kd_hinton)
