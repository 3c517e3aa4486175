/* The teacher's side of swing distillation: a temperature by privacy, noise on what is released. */
#include "kdswing-target.h"

#include <math.h>

enum { NOISE_NONE,
  NOISE_LAPLACE,
  NOISE_GAUSSIAN };
enum { SCOPE_PRIVATE,
  SCOPE_GRADED,
  SCOPE_ALL };

const KdEnumValue kd_swing_noises[] = { { NOISE_NONE, "none", "No noise" }, { NOISE_LAPLACE, "laplace", "Laplace (0, 1)" }, { NOISE_GAUSSIAN, "gaussian", "Normal (0, 1)" }, { 0, NULL, NULL } };
const KdEnumValue kd_swing_scopes[] = { { SCOPE_PRIVATE, "private", "Rows whose privacy reaches the threshold" }, { SCOPE_GRADED, "graded", "All rows, in proportion to their privacy" }, { SCOPE_ALL, "all", "All rows alike" }, { 0, NULL, NULL } };

gboolean
kd_swing_check (const KdSwingParams *p, const gchar *element, GError **error)
{
  if (p->tau_max >= p->tau_min)
    return TRUE;
  g_set_error (error, KD_ERROR, KD_ERROR_RANGE, "Properties do not go together: element=%s, tau-min=%g, tau-max=%g; the first must not be larger", element, p->tau_min, p->tau_max);
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

/* One purpose for both elements: a cache holds what a live run draws in that epoch. */
static void
row_random (const KdCall *call, const KdSwingTeacher *from, gint64 row, KdRandom *ret)
{
  const KdSwingParams *p = call->params;
  gint64 per_sample = call->n_samples ? from->n / call->n_samples : 1, n = row / per_sample;
  gint64 id = call->sample_id && call->sample_id[n] >= 0 ? call->sample_id[n] : (gint64) (call->index << 24 ^ (guint64) n);

  kd_random_init (ret, p->seed + (guint64) (row % per_sample), kd_random_purpose ("kdswing"), call->epoch, (guint64) id);
}

/* q becomes q~. */
static gboolean
perturb (const KdCall *call, const KdSwingTeacher *from, gint64 row, gdouble amplitude, gdouble *q, GError **error)
{
  const KdSwingParams *p = call->params;
  const gfloat *draws = from->draws ? (const gfloat *) from->draws->data + row * from->size : NULL;
  KdRandom random;
  gdouble sum = 0;

  if (p->noise == NOISE_NONE || amplitude == 0)
    return TRUE;
  row_random (call, from, row, &random);
  for (gint64 j = 0; j < from->size; j++) {
    gdouble noise = draws ? draws[j] : draw (p, &random);
    if (!isfinite (noise)) {
      g_set_error (error, KD_ERROR, KD_ERROR_VALUE, "Value not finite: element=%s, field=rng.noise, row=%" G_GINT64_FORMAT ", column=%" G_GINT64_FORMAT ", value=%g, wanted=draws of Laplace (0, 1) or Normal (0, 1)", from->element, row, j, noise);
      return FALSE;
    }
    q[j] = fmax (q[j] + amplitude * noise, 0);
    sum += q[j];
  }
  for (gint64 j = 0; j < from->size; j++)
    q[j] = sum > 0 ? q[j] / sum : 1 / (gdouble) from->size;
  return TRUE;
}

void
kd_swing_log_softmax (gint64 size, gdouble *x, gdouble t)
{
  gdouble max = -INFINITY, sum = 0;

  for (gint64 j = 0; j < size; j++)
    max = fmax (max, x[j]);
  for (gint64 j = 0; j < size; j++)
    sum += exp ((x[j] - max) / t);
  for (gint64 j = 0; j < size; j++)
    x[j] = (x[j] - max) / t - log (sum);
}

gboolean
kd_swing_temperature (const KdCall *call, const KdSwingTeacher *from, gint64 row, gdouble *ret_tau, gdouble *ret_amplitude, GError **error)
{
  const KdSwingParams *p = call->params;
  gdouble privacy = ((const gfloat *) from->privacy->data)[row], scope;

  if (!(privacy >= 0 && privacy <= 1)) {
    g_set_error (error, KD_ERROR, KD_ERROR_VALUE, "Not a privacy: element=%s, field=token.privacy, row=%" G_GINT64_FORMAT ", value=%g, wanted=0 to 1", from->element, row, privacy);
    return FALSE;
  }
  scope = p->noise_scope == SCOPE_ALL ? 1 : p->noise_scope == SCOPE_GRADED ? privacy
                                                                           : privacy >= p->threshold;
  *ret_tau = p->tau_min + (p->tau_max - p->tau_min) * privacy;
  *ret_amplitude = scope * p->sensitivity / p->epsilon;
  return TRUE;
}

gboolean
kd_swing_target (const KdCall *call, const KdSwingTeacher *from, gint64 row, gdouble tau, gdouble amplitude, gdouble *q, GError **error)
{
  kd_row_to_double (from->teacher->data, (KdReal) from->teacher->dtype, row, from->size, q);
  kd_swing_log_softmax (from->size, q, tau);
  for (gint64 j = 0; j < from->size; j++) {
    q[j] = exp (q[j]);
    if (isfinite (q[j]))
      continue;
    g_set_error (error, KD_ERROR, KD_ERROR_VALUE, "Logits not finite: element=%s, field=teacher.logits, row=%" G_GINT64_FORMAT "; repair the teacher or mask the row", from->element, row);
    return FALSE;
  }
  return perturb (call, from, row, amplitude, q, error);
}
