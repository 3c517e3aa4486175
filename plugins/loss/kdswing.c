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
 *  - student.logits: float32 [* V], differentiable; teacher.logits: float32, float16 or bfloat16 [* V]
 *  - token.privacy: float32 [*] in [0, 1], of the token that the row predicts
 *  - rng.noise: float32 [* V], optional: the draws, instead of the element's own
 *  - mask, token.weight, sample.weight: as for every loss
 * Writes token.temperature float32 [*]: tau; 0 on rows that do not count and have no privacy.
 * ## Units
 * nats; token-mean over the counted rows by default.
 * ## Errors
 * token.privacy outside [0, 1] or NaN, a draw in rng.noise that is not finite (KD_ERROR_VALUE), tau-max below tau-min (KD_ERROR_RANGE).
 * ## Source
 * arXiv:2212.08349 (per-token temperature, noise on soft targets); the map from privacy to temperature, the noise law and all defaults are this project's.
 * ## Example
 * |[ kd launch 'kdh5src location=tokens.h5 ! kdswing epsilon=20 ! kdh5sink location=out.h5' ]|
 */
#include <kd/kd.h>

#include <math.h>

enum { NOISE_NONE,
  NOISE_LAPLACE,
  NOISE_GAUSSIAN };
enum { SCOPE_PRIVATE,
  SCOPE_GRADED,
  SCOPE_ALL };
enum { SCALING_NONE,
  SCALING_TAU,
  SCALING_TAU2 };

typedef struct {
  gdouble tau_min, tau_max, epsilon, sensitivity, threshold;
  gint noise, noise_scope, scaling;
  guint64 seed;
} KdSwingParams;

static const KdEnumValue noises[] = { { NOISE_NONE, "none", "No noise" }, { NOISE_LAPLACE, "laplace", "Laplace (0, 1)" }, { NOISE_GAUSSIAN, "gaussian", "Normal (0, 1)" }, { 0, NULL, NULL } };
static const KdEnumValue scopes[] = { { SCOPE_PRIVATE, "private", "Rows whose privacy reaches the threshold" }, { SCOPE_GRADED, "graded", "All rows, in proportion to their privacy" }, { SCOPE_ALL, "all", "All rows alike" }, { 0, NULL, NULL } };
static const KdEnumValue scalings[] = { { SCALING_NONE, "none", "1" }, { SCALING_TAU, "tau", "The row's temperature" }, { SCALING_TAU2, "tau2", "Its square: no protection" }, { 0, NULL, NULL } };

static const KdParam kd_swing_params[] = {
  KD_PARAM_DOUBLE (KdSwingParams, tau_min, 0.01, 1000.0, 2.0, "Temperature of public tokens"),
  KD_PARAM_DOUBLE (KdSwingParams, tau_max, 0.01, 1000.0, 20.0, "Temperature of private tokens"),
  KD_PARAM_ENUM (KdSwingParams, noise, noises, NOISE_LAPLACE, "Noise on the targets"),
  KD_PARAM_DOUBLE (KdSwingParams, epsilon, 1e-9, 1e9, 10.0, "Privacy budget of one released target"),
  KD_PARAM_DOUBLE (KdSwingParams, sensitivity, 1e-9, 1e9, 2.0, "Largest L1 distance of two targets"),
  KD_PARAM_ENUM (KdSwingParams, noise_scope, scopes, SCOPE_PRIVATE, "Which rows get noise"),
  KD_PARAM_DOUBLE (KdSwingParams, threshold, 0.0, 1.0, 0.5, "noise-scope=private: privacy from which a row counts as private"),
  KD_PARAM_ENUM (KdSwingParams, scaling, scalings, SCALING_NONE, "Factor of a row's loss"),
  KD_PARAM_UINT64 (KdSwingParams, seed, 42, "Key of the noise"),
  KD_PARAM_END
};

enum { STUDENT,
  TEACHER,
  PRIVACY,
  DRAWS };
static const KdFieldSpec kd_swing_fields[] = {
  [STUDENT] = { "student.logits", KD_FLOAT32, "* V", KD_FIELD_GRAD },
  [TEACHER] = { "teacher.logits", KD_FLOAT32 | KD_FLOAT16 | KD_BFLOAT16, "* V" },
  [PRIVACY] = { "token.privacy", KD_FLOAT32, "*" },
  [DRAWS] = { "rng.noise", KD_FLOAT32, "* V", KD_FIELD_OPTIONAL },
  KD_FIELD_END
};
static const KdFieldSpec kd_swing_outputs[] = {
  { "token.temperature", KD_FLOAT32, "*" },
  KD_FIELD_END
};

static gboolean
kd_swing_check (gconstpointer params, GError **error)
{
  const KdSwingParams *p = params;

  if (p->tau_max >= p->tau_min)
    return TRUE;
  g_set_error (error, KD_ERROR, KD_ERROR_RANGE, "Properties do not go together: element=kdswing, tau-min=%g, tau-max=%g; the first must not be larger", p->tau_min, p->tau_max);
  return FALSE;
}

static gdouble
draw (const KdSwingParams *p, KdRandom *random)
{
  gdouble u;

  if (p->noise == NOISE_GAUSSIAN)
    return kd_random_normal (random);
  u = kd_random_uniform (random) - 0.5;
  return u < 0 ? log1p (2 * u) : -log1p (-2 * u);
}

/* A stream for each row, so that what a row gets depends on its sample, view, epoch and place in the sample alone. */
static void
row_random (const KdCall *call, gint64 row, gint64 per_sample, KdRandom *ret)
{
  const KdSwingParams *p = call->params;
  gint64 n = row / per_sample;
  gint64 id = call->sample_id && call->sample_id[n] >= 0 ? call->sample_id[n] : (gint64) (call->index << 24 ^ (guint64) n);

  kd_random_init (ret, p->seed + (guint64) (row % per_sample), call->purpose, call->epoch, (guint64) id);
}

/* q becomes q~. */
static gboolean
perturb (const KdCall *call, gint64 row, gint64 per_sample, gdouble amplitude, gint64 size, gdouble *q, GError **error)
{
  const KdSwingParams *p = call->params;
  const gfloat *draws = call->in[DRAWS] ? (const gfloat *) call->in[DRAWS]->data + row * size : NULL;
  KdRandom random;
  gdouble sum = 0;

  if (p->noise == NOISE_NONE || amplitude == 0)
    return TRUE;
  row_random (call, row, per_sample, &random);
  for (gint64 j = 0; j < size; j++) {
    gdouble noise = draws ? draws[j] : draw (p, &random);
    if (!isfinite (noise)) {
      g_set_error (error, KD_ERROR, KD_ERROR_VALUE, "Value not finite: element=kdswing, field=rng.noise, row=%" G_GINT64_FORMAT ", column=%" G_GINT64_FORMAT ", value=%g, wanted=draws of Laplace (0, 1) or Normal (0, 1)", row, j, noise);
      return FALSE;
    }
    q[j] = fmax (q[j] + amplitude * noise, 0);
    sum += q[j];
  }
  for (gint64 j = 0; j < size; j++)
    q[j] = sum > 0 ? q[j] / sum : 1 / (gdouble) size;
  return TRUE;
}

/* In place: log softmax (x / t). */
static void
log_softmax (gint64 size, gdouble *x, gdouble t)
{
  gdouble max = -INFINITY, sum = 0;

  for (gint64 j = 0; j < size; j++)
    max = fmax (max, x[j]);
  for (gint64 j = 0; j < size; j++)
    sum += exp ((x[j] - max) / t);
  for (gint64 j = 0; j < size; j++)
    x[j] = (x[j] - max) / t - log (sum);
}

typedef struct {
  gdouble tau, amplitude, factor;
} Row;

static gboolean
measure_row (const KdCall *call, gint64 row, Row *ret, GError **error)
{
  const KdSwingParams *p = call->params;
  gdouble privacy = ((const gfloat *) call->in[PRIVACY]->data)[row], scope;

  if (!(privacy >= 0 && privacy <= 1)) {
    g_set_error (error, KD_ERROR, KD_ERROR_VALUE, "Not a privacy: element=kdswing, field=token.privacy, row=%" G_GINT64_FORMAT ", value=%g, wanted=0 to 1", row, privacy);
    return FALSE;
  }
  scope = p->noise_scope == SCOPE_ALL ? 1 : p->noise_scope == SCOPE_GRADED ? privacy
                                                                           : privacy >= p->threshold;
  ret->tau = p->tau_min + (p->tau_max - p->tau_min) * privacy;
  ret->amplitude = scope * p->sensitivity / p->epsilon;
  ret->factor = p->scaling == SCALING_NONE ? 1 : p->scaling == SCALING_TAU ? ret->tau
                                                                           : ret->tau * ret->tau;
  return TRUE;
}

static gboolean
kd_swing_evaluate (const KdCall *call, KdLossResult *ret, GError **error)
{
  const KdRows *rows = kd_call_rows (call);
  gint64 size = kd_call_size (call, 'V'), per_sample = call->n_samples ? rows->n / call->n_samples : 1;
  g_autofree gdouble *q = g_new (gdouble, size), *log_p = g_new (gdouble, size);

  for (gint64 r = 0; r < rows->n; r++) {
    gfloat *grad = ret->grad[STUDENT] + r * size;
    gdouble coef = rows->coef[r], kl = 0;
    Row row;
    if (!measure_row (call, r, &row, coef != 0 ? error : NULL)) {
      if (coef != 0)
        return FALSE;
      continue;
    }
    ((gfloat *) ret->out[0]->data)[r] = (gfloat) row.tau;
    if (coef == 0)
      continue;
    kd_row_to_double (call->in[TEACHER]->data, (KdReal) call->in[TEACHER]->dtype, r, size, q);
    kd_row_to_double (call->in[STUDENT]->data, KD_REAL_F32, r, size, log_p);
    log_softmax (size, q, row.tau);
    log_softmax (size, log_p, row.tau);
    for (gint64 j = 0; j < size; j++)
      q[j] = exp (q[j]);
    if (!perturb (call, r, per_sample, row.amplitude, size, q, error))
      return FALSE;
    for (gint64 j = 0; j < size; j++) {
      kl += q[j] == 0 ? 0 : q[j] * (log (q[j]) - log_p[j]); /* NaN goes on to the loss */
      grad[j] += (gfloat) (coef * row.factor / row.tau * (exp (log_p[j]) - q[j]));
    }
    ret->loss += coef * row.factor * kl;
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
  .check = kd_swing_check,
  .outputs = kd_swing_outputs,
  .evaluate = kd_swing_evaluate,
};

KD_LOSS_PLUGIN (kd_swing)
