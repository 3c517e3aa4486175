/**
 * SECTION:element-kdswing
 * @short_description: distillation that keeps private tokens private: a temperature for each token, and noise on the targets
 *
 * tau = tau-min + (tau-max - tau-min) pi, pi = token.privacy
 * q = softmax (teacher / tau), q~ = max (q + b n, 0) normalised (even where nothing is left), n Laplace or normal draws, b = s sensitivity / epsilon; s = 1
 * (noise-scope=all), 1 where pi >= threshold (private), pi (graded)
 * loss = mean over counted rows of f KL (q~ || softmax (student / tau)), f = 1, tau or tau^2 (scaling); grad = f / tau (softmax (student / tau) - q~)
 *
 * scaling=tau2 undoes the protection: at a high temperature its gradient matches the logits, ranking of what was memorised and all. epsilon is what one
 * released vector costs; a run of n tokens costs up to n epsilon.
 *
 * ## Fields
 *  - student.logits: float32 [* V], differentiable
 *  - a teacher: teacher.logits: float32, float16 or bfloat16 [* V], with token.privacy: float32 [*] in [0, 1], of the token that the row predicts;
 *    or q~ and tau as kdswingcache has released them: teacher.probs: float32, float16 or bfloat16 [* V], with teacher.temperature: float32 [*]
 *  - rng.noise: float32 [* V], optional: the draws, instead of the element's own
 *  - mask, token.weight, sample.weight: as for every loss
 * Writes token.temperature float32 [*]: tau; 0 on rows that do not count and have no privacy.
 * ## Units
 * nats; token-mean over the counted rows by default.
 * ## Errors
 * token.privacy outside [0, 1] or NaN, a draw in rng.noise that is not finite, a released row that is no distribution (sum within 0.01 of 1) or has no
 * temperature (KD_ERROR_VALUE); no teacher, two, or one without its privacy or temperature (KD_ERROR_FIELD); tau-max below tau-min (KD_ERROR_RANGE).
 * ## Source
 * arXiv:2212.08349 (per-token temperature, noise on soft targets); the map from privacy to temperature, the noise law and all defaults are this project's.
 * ## Example
 * |[ kd launch 'kdh5src location=tokens.h5 ! kdswing epsilon=20 ! kdh5sink location=out.h5' ]|
 */
#include "kdswing-target.h"

#include <math.h>

enum { SCALING_NONE,
  SCALING_TAU,
  SCALING_TAU2 };
#define SUM_TOLERANCE 0.01 /* what a distribution stored as bfloat16 may miss */

static const KdEnumValue scalings[] = { { SCALING_NONE, "none", "1" }, { SCALING_TAU, "tau", "The row's temperature" }, { SCALING_TAU2, "tau2", "Its square: no protection" }, { 0, NULL, NULL } };

static const KdParam kd_swing_params[] = {
  KD_SWING_PARAMS,
  KD_PARAM_ENUM (KdSwingParams, scaling, scalings, SCALING_NONE, "Factor of a row's loss"),
  KD_PARAM_END
};

enum { STUDENT,
  TEACHER,
  PRIVACY,
  PROBS,
  TEMPERATURE,
  DRAWS };
static const KdFieldSpec kd_swing_fields[] = {
  [STUDENT] = { "student.logits", KD_FLOAT32, "* V", KD_FIELD_GRAD },
  [TEACHER] = { "teacher.logits", KD_FLOAT32 | KD_FLOAT16 | KD_BFLOAT16, "* V", KD_FIELD_OPTIONAL | KD_FIELD_ONE_OF },
  [PRIVACY] = { "token.privacy", KD_FLOAT32, "*", KD_FIELD_OPTIONAL },
  [PROBS] = { "teacher.probs", KD_FLOAT32 | KD_FLOAT16 | KD_BFLOAT16, "* V", KD_FIELD_OPTIONAL | KD_FIELD_ONE_OF },
  [TEMPERATURE] = { "teacher.temperature", KD_FLOAT32, "*", KD_FIELD_OPTIONAL },
  [DRAWS] = { "rng.noise", KD_FLOAT32, "* V", KD_FIELD_OPTIONAL },
  KD_FIELD_END
};
static const KdFieldSpec kd_swing_outputs[] = {
  { "token.temperature", KD_FLOAT32, "*" },
  KD_FIELD_END
};

static gboolean
kd_swing_check_params (gconstpointer params, GError **error)
{
  return kd_swing_check (params, "kdswing", error);
}

static gboolean
check_teacher (const KdCall *call, GError **error)
{
  gboolean live = call->in[TEACHER] != NULL, released = call->in[PROBS] != NULL;

  if (live == released) {
    g_set_error (error, KD_ERROR, KD_ERROR_FIELD, "%s: element=kdswing, fields=teacher.logits and teacher.probs, wanted=one of them", live ? "Two teachers" : "No teacher");
    return FALSE;
  }
  if (call->in[live ? PRIVACY : TEMPERATURE])
    return TRUE;
  g_set_error (error, KD_ERROR, KD_ERROR_FIELD, "Field missing: element=kdswing, field=%s, goes with %s; put %s", live ? "token.privacy" : "teacher.temperature", live ? "teacher.logits" : "teacher.probs",
      live ? "kdprivacyscore before it" : "it into the cache beside teacher.probs, as kdswingcache writes it");
  return FALSE;
}

/* A row that kdswingcache has made. */
static gboolean
read_released (const KdCall *call, gint64 row, gint64 size, gdouble *q, gdouble *ret_tau, GError **error)
{
  gdouble sum = 0;
  gboolean negative = FALSE;

  *ret_tau = ((const gfloat *) call->in[TEMPERATURE]->data)[row];
  kd_row_to_double (call->in[PROBS]->data, (KdReal) call->in[PROBS]->dtype, row, size, q);
  for (gint64 j = 0; j < size; j++) {
    negative = negative || !(q[j] >= 0);
    sum += q[j];
  }
  if (!(*ret_tau > 0 && isfinite (*ret_tau))) {
    g_set_error (error, KD_ERROR, KD_ERROR_VALUE, "Not a temperature: element=kdswing, field=teacher.temperature, row=%" G_GINT64_FORMAT ", value=%g, wanted=above 0; kdswingcache gives 0 to rows that its mask hides", row, *ret_tau);
    return FALSE;
  }
  if (negative || !(fabs (sum - 1) <= SUM_TOLERANCE)) {
    g_set_error (error, KD_ERROR, KD_ERROR_VALUE, "Not a distribution: element=kdswing, field=teacher.probs, row=%" G_GINT64_FORMAT ", sum=%g, wanted=numbers from 0 that sum to 1, as kdswingcache writes them", row, sum);
    return FALSE;
  }
  for (gint64 j = 0; j < size; j++)
    q[j] /= sum;
  return TRUE;
}

/* KL (q~ || softmax (student / tau)), its gradient times @step added. */
static gdouble
row_kl (const KdCall *call, gint64 row, gint64 size, const gdouble *q, gdouble tau, gdouble step, gdouble *log_p, gfloat *grad)
{
  gdouble kl = 0;

  kd_row_to_double (call->in[STUDENT]->data, KD_REAL_F32, row, size, log_p);
  kd_swing_log_softmax (size, log_p, tau);
  for (gint64 j = 0; j < size; j++) {
    kl += q[j] == 0 ? 0 : q[j] * (log (q[j]) - log_p[j]); /* NaN goes on to the loss */
    grad[j] += (gfloat) (step * (exp (log_p[j]) - q[j]));
  }
  return kl;
}

static gboolean
kd_swing_evaluate (const KdCall *call, KdLossResult *ret, GError **error)
{
  const KdSwingParams *p = call->params;
  const KdRows *rows = kd_call_rows (call);
  gint64 size = kd_call_size (call, 'V');
  KdSwingTeacher from = { "kdswing", call->in[TEACHER], call->in[PRIVACY], call->in[DRAWS], rows->n, size };
  g_autofree gdouble *q = g_new (gdouble, size), *log_p = g_new (gdouble, size);

  if (!check_teacher (call, error))
    return FALSE;
  for (gint64 r = 0; r < rows->n; r++) {
    gdouble coef = rows->coef[r], tau = 0, amplitude = 0, factor;
    if (coef == 0) {
      if (from.teacher)
        kd_swing_temperature (call, &from, r, &tau, &amplitude, NULL);
      ((gfloat *) ret->out[0]->data)[r] = (gfloat) tau;
      continue;
    }
    if (from.teacher ? !kd_swing_temperature (call, &from, r, &tau, &amplitude, error) || !kd_swing_target (call, &from, r, tau, amplitude, q, error)
                     : !read_released (call, r, size, q, &tau, error))
      return FALSE;
    ((gfloat *) ret->out[0]->data)[r] = (gfloat) tau;
    factor = coef * (p->scaling == SCALING_NONE ? 1 : p->scaling == SCALING_TAU ? tau
                                                                                : tau * tau);
    ret->loss += factor * row_kl (call, r, size, q, tau, factor / tau, log_p, ret->grad[STUDENT] + r * size);
  }
  return TRUE;
}

static const KdLossDesc kd_swing = {
  .name = "kdswing",
  .title = "Privacy-preserving distillation loss",
  .description = "Forward KL with a temperature by each token's privacy and noise on the teacher's probabilities",
  .source = "arXiv:2212.08349",
  .formula = "loss = mean_n f KL (q~ || softmax (student / tau)), tau = tau-min + (tau-max - tau-min) privacy, q~ = softmax (teacher / tau) with noise, clipped and normalised",
  .units = "nats; mean over the counted rows with reduction=token-mean",
  .fields = kd_swing_fields,
  .params = kd_swing_params,
  .params_size = sizeof (KdSwingParams),
  .check = kd_swing_check_params,
  .outputs = kd_swing_outputs,
  .evaluate = kd_swing_evaluate,
};

KD_LOSS_PLUGIN (kd_swing)
