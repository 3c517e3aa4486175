/**
 * SECTION:element-kdklmix
 * @short_description: forward and reverse KL, exact or from the tokens that were drawn
 *
 * p = softmax (teacher.logits / T), q = softmax (student.logits / T), per row:
 *  - exact: D = (1 - lambda) KL (p || q) + lambda KL (q || p)
 *    gradient ((1 - lambda) (q - p) + lambda q (log (q / p) - KL (q || p))) / T
 *  - sampled, with y the row's label: D = - (1 - lambda) log q_y - lambda r log q_y, r = log p_y - log q_y constant, within reward-clip
 *    gradient ((1 - lambda) + lambda r) (q - e_y) / T
 * loss = mean over counted rows of D. The value of the sampled reverse part is no KL. Its gradient is that of KL (q || p) in the mean if y comes
 * from the student (rollouts at T), the forward part's that of KL (p || q) if y comes from the teacher.
 *
 * ## Fields
 *  - student.logits: float32 [* C], differentiable; teacher.logits: float32, float16 or bfloat16 [* C]
 *  - label: int64 [*], needed with estimator=sampled; positions with `ignore-index` do not count
 *  - mask, token.weight, sample.weight: optional, see the base
 * Adds loss.forward and loss.reverse, before lambda, and student.entropy: mean entropy of q over the counted rows.
 * ## Units
 * nats; token-mean over the counted rows by default.
 * ## Infinite logits
 * Ids whose logit is -infinity in either model add nothing and get no gradient; a drawn token that is one of them is refused.
 * ## Errors
 * No label with estimator=sampled (KD_ERROR_FIELD); a label that is no id (KD_ERROR_RANGE); a drawn token of probability 0 (KD_ERROR_VALUE).
 * ## Source
 * arXiv:2605.16826, proposition 1; no official code. lambda 0.25 (mostly forward) and reward-clip off are ours.
 * ## Example
 * |[ kd launch 'kdh5src location=batch.h5 ! kdklmix lambda=0.5 ! kdh5sink location=out.h5' ]|
 */
#include <kd/kd.h>
#include <math.h>

enum { EXACT,
  SAMPLED };

typedef struct {
  gdouble lambda, temperature, reward_clip;
  gint estimator;
} KdKlmixParams;

static const KdEnumValue estimators[] = {
  { EXACT, "exact", "Sums over the vocabulary" },
  { SAMPLED, "sampled", "The row's label, drawn from a model, stands for the vocabulary" },
  { 0, NULL, NULL }
};

static const KdParam kd_klmix_params[] = {
  KD_PARAM_DOUBLE (KdKlmixParams, lambda, 0.0, 1.0, 0.25, "Share of the reverse KL"),
  KD_PARAM_DOUBLE (KdKlmixParams, temperature, 0.01, 1000.0, 1.0, "Divides both logits before softmax"),
  KD_PARAM_ENUM (KdKlmixParams, estimator, estimators, EXACT, "How a row's divergence is found"),
  KD_PARAM_DOUBLE (KdKlmixParams, reward_clip, 0.0, 1e9, 0.0, "sampled: largest size of log p_y - log q_y, 0: no limit"),
  KD_PARAM_END
};

enum { STUDENT,
  TEACHER,
  LABEL };
static const KdFieldSpec kd_klmix_fields[] = {
  [STUDENT] = { "student.logits", KD_FLOAT32, "* C", KD_FIELD_GRAD },
  [TEACHER] = { "teacher.logits", KD_FLOAT32 | KD_FLOAT16 | KD_BFLOAT16, "* C" },
  [LABEL] = { "label", KD_INT64, "*", KD_FIELD_OPTIONAL | KD_FIELD_LABEL },
  KD_FIELD_END
};

enum { ENTROPY };
static const KdFieldSpec kd_klmix_outputs[] = {
  [ENTROPY] = { "student.entropy", KD_FLOAT64, "" },
  KD_FIELD_END
};

enum { FORWARD,
  REVERSE };
static const gchar *const kd_klmix_terms[] = { [FORWARD] = "forward", [REVERSE] = "reverse", NULL };

static gdouble
add_exact (const KdCall *call, KdDivergenceKind kind, gdouble share, KdLossResult *ret, gdouble *value)
{
  const KdKlmixParams *p = call->params;
  const KdRows *rows = kd_call_rows (call);
  KdDivergence divergence = kd_call_divergence (call, kind, STUDENT, TEACHER, rows->coef, value, ret);

  divergence.temperature = p->temperature;
  divergence.scale = share;
  divergence.grad = share > 0 ? divergence.grad : NULL;
  kd_divergence_rows (&divergence);
  return kd_rows_sum (rows->n, rows->coef, value);
}

static void
normalise (const KdCall *call, gint field, gdouble *lse, gdouble *entropy)
{
  const KdRows *rows = kd_call_rows (call);

  kd_softmax_rows (&(KdSoftmax) {
      .n = rows->n,
      .size = kd_call_size (call, 'C'),
      .logits = call->in[field]->data,
      .type = (KdReal) call->in[field]->dtype,
      .coef = rows->coef,
      .temperature = ((const KdKlmixParams *) call->params)->temperature,
      .lse = lse,
      .entropy = entropy,
  });
}

/* One row's log q_y and reward. */
static gboolean
draw_of_row (const KdCall *call, gint64 r, gdouble lse_student, gdouble lse_teacher, gdouble *ret_log_q, gdouble *ret_reward, GError **error)
{
  const KdKlmixParams *p = call->params;
  gint64 label = ((const gint64 *) call->in[LABEL]->data)[r], at = r * kd_call_size (call, 'C') + label;
  gdouble log_q = kd_tensor_get_double (call->in[STUDENT], (gsize) at) / p->temperature - lse_student;
  gdouble reward = kd_tensor_get_double (call->in[TEACHER], (gsize) at) / p->temperature - lse_teacher - log_q;

  if (!isfinite (log_q) || !isfinite (reward)) {
    g_set_error (error, KD_ERROR, KD_ERROR_VALUE, "Token has no probability: element=kdklmix, row=%" G_GINT64_FORMAT ", label=%" G_GINT64_FORMAT ", student.logits: log q=%g, teacher.logits: log p - log q=%g; the label has to be drawn from one of the models", r, label, log_q, reward);
    return FALSE;
  }
  *ret_log_q = log_q;
  *ret_reward = p->reward_clip > 0 ? CLAMP (reward, -p->reward_clip, p->reward_clip) : reward;
  return TRUE;
}

static gboolean
add_sampled (const KdCall *call, const gdouble *lse_student, KdLossResult *ret, GError **error)
{
  const KdKlmixParams *p = call->params;
  const KdRows *rows = kd_call_rows (call);
  gint64 size = kd_call_size (call, 'C');
  g_autofree gdouble *lse_teacher = g_new0 (gdouble, rows->n), *forward = g_new0 (gdouble, rows->n), *reverse = g_new0 (gdouble, rows->n);
  g_autofree gdouble *slope = g_new0 (gdouble, rows->n), *push = g_new0 (gdouble, rows->n);

  if (!call->in[LABEL]) {
    g_set_error (error, KD_ERROR, KD_ERROR_FIELD, "Field missing: element=kdklmix, field=label, estimator=sampled; put a rollout or a source with labels before it "
                                                  "or set estimator=exact");
    return FALSE;
  }
  normalise (call, TEACHER, lse_teacher, NULL);
  for (gint64 r = 0; r < rows->n; r++) {
    gdouble reward;
    if (rows->coef[r] == 0 || isnan (lse_student[r]) || isnan (lse_teacher[r])) {
      forward[r] = rows->coef[r] == 0 ? 0 : NAN; /* the base says which value it is */
      continue;
    }
    if (!draw_of_row (call, r, lse_student[r], lse_teacher[r], &forward[r], &reward, error))
      return FALSE;
    forward[r] = -forward[r];
    reverse[r] = reward * forward[r];
    push[r] = rows->coef[r] * (1 - p->lambda + p->lambda * reward) / p->temperature;
    ret->grad[STUDENT][r * size + ((const gint64 *) call->in[LABEL]->data)[r]] -= (gfloat) push[r];
  }
  kd_softmax_back_rows (rows->n, size, call->in[STUDENT]->data, p->temperature, push, slope, ret->grad[STUDENT], 0);
  ret->term[FORWARD] = kd_rows_sum (rows->n, rows->coef, forward);
  ret->term[REVERSE] = kd_rows_sum (rows->n, rows->coef, reverse);
  return TRUE;
}

static gboolean
kd_klmix_evaluate (const KdCall *call, KdLossResult *ret, GError **error)
{
  const KdKlmixParams *p = call->params;
  const KdRows *rows = kd_call_rows (call);
  g_autofree gdouble *lse = g_new0 (gdouble, rows->n), *entropy = g_new0 (gdouble, rows->n);
  gdouble sum = 0, n = 0;

  normalise (call, STUDENT, lse, entropy);
  for (gint64 r = 0; r < rows->n; r++) {
    sum += rows->coef[r] == 0 ? 0 : entropy[r];
    n += rows->coef[r] != 0;
  }
  *(gdouble *) ret->out[ENTROPY]->data = n > 0 ? sum / n : 0;
  if (p->estimator == SAMPLED) {
    if (!add_sampled (call, lse, ret, error))
      return FALSE;
  } else {
    ret->term[FORWARD] = add_exact (call, KD_DIVERGENCE_FORWARD_KL, 1 - p->lambda, ret, entropy);
    ret->term[REVERSE] = add_exact (call, KD_DIVERGENCE_REVERSE_KL, p->lambda, ret, entropy);
  }
  ret->loss = (1 - p->lambda) * ret->term[FORWARD] + p->lambda * ret->term[REVERSE];
  return TRUE;
}

static const KdLossDesc kd_klmix = {
  .name = "kdklmix",
  .title = "KL mixture loss",
  .description = "Forward and reverse KL mixed, over the vocabulary or over the tokens that were drawn",
  .source = "arXiv:2605.16826 proposition 1",
  .formula = "loss = mean_n D, p = softmax (teacher / T), q = softmax (student / T); exact: D = (1 - lambda) KL (p || q) + lambda KL (q || p); "
             "sampled: D = -((1 - lambda) + lambda r) log q_y, r = log (p_y / q_y) constant",
  .units = "nats; mean over the counted rows with reduction=token-mean",
  .fields = kd_klmix_fields,
  .params = kd_klmix_params,
  .params_size = sizeof (KdKlmixParams),
  .outputs = kd_klmix_outputs,
  .terms = kd_klmix_terms,
  .evaluate = kd_klmix_evaluate,
};

KD_LOSS_PLUGIN (kd_klmix)
