/**
 * SECTION:element-kdswingcache
 * @short_description: what swing distillation lets out of a teacher, for a cache: noisy probabilities and temperatures, never the logits
 *
 * tau = tau-min + (tau-max - tau-min) pi, pi = token.privacy
 * q~ = max (softmax (teacher / tau) + b n, 0) normalised, with the noise of kdswing: the same draws for the same seed, sample, epoch and place
 *
 * kdswing takes both in place of teacher.logits. The noise is drawn once and stays: each token costs one epsilon, however often the student reads it.
 *
 * ## Fields
 *  - teacher.logits: float32, float16 or bfloat16 [* V], taken away; token.privacy: float32 [*] in [0, 1]
 *  - rng.noise: float32 [* V], optional: the draws, instead of the element's own; mask: any number [*], optional: rows with 0 are not read
 * Writes teacher.probs float32 [* V] and teacher.temperature float32 [*]; both 0 on rows that the mask hides.
 * ## Units
 * probabilities.
 * ## Errors
 * token.privacy outside [0, 1] or NaN, a row of logits or draws that is not finite (KD_ERROR_VALUE), tau-max below tau-min (KD_ERROR_RANGE).
 * ## Source
 * arXiv:2212.08349; the map, the noise law and the defaults are this project's.
 * ## Example
 * |[ kd launch 'kdh5src location=tokens.h5 ! kdprivacyscore rule=field ! kdswingcache epsilon=20 ! kdcachesink location=swing.h5' ]|
 */
#include "kdswing-target.h"

#include <string.h>

static const KdParam kd_swing_cache_params[] = {
  KD_SWING_PARAMS,
  KD_PARAM_END
};

enum { TEACHER,
  PRIVACY,
  DRAWS,
  MASK };
static const KdFieldSpec kd_swing_cache_fields[] = {
  [TEACHER] = { "teacher.logits", KD_FLOAT32 | KD_FLOAT16 | KD_BFLOAT16, "* V" },
  [PRIVACY] = { "token.privacy", KD_FLOAT32, "*" },
  [DRAWS] = { "rng.noise", KD_FLOAT32, "* V", KD_FIELD_OPTIONAL },
  [MASK] = { "mask", KD_ANY_NUMBER, "*", KD_FIELD_OPTIONAL },
  KD_FIELD_END
};

enum { PROBS,
  TEMPERATURE };
static const KdFieldSpec kd_swing_cache_outputs[] = {
  [PROBS] = { "teacher.probs", KD_FLOAT32, "* V" },
  [TEMPERATURE] = { "teacher.temperature", KD_FLOAT32, "*" },
  KD_FIELD_END
};
static const gchar *const kd_swing_cache_drops[] = { "teacher.logits", NULL };

static gboolean
kd_swing_cache_check (gconstpointer params, GError **error)
{
  return kd_swing_check (params, "kdswingcache", error);
}

static gboolean
put_row (const KdCall *call, const KdSwingTeacher *from, gint64 row, gdouble *q, gfloat *ret_probs, gfloat *ret_tau, GError **error)
{
  gdouble tau, amplitude;

  if (!kd_swing_temperature (call, from, row, &tau, &amplitude, error) || !kd_swing_target (call, from, row, tau, amplitude, q, error))
    return FALSE;
  *ret_tau = (gfloat) tau;
  for (gint64 j = 0; j < from->size; j++)
    ret_probs[j] = (gfloat) q[j];
  return TRUE;
}

static gboolean
kd_swing_cache_evaluate (const KdCall *call, KdOutputs *ret, GError **error)
{
  gint64 n = (gint64) kd_tensor_n_elements (call->in[PRIVACY]), size = kd_call_size (call, 'V');
  KdSwingTeacher from = { "kdswingcache", call->in[TEACHER], call->in[PRIVACY], call->in[DRAWS], n, size };
  g_autofree gdouble *q = g_new (gdouble, size);
  gfloat *probs = ret->out[PROBS]->data, *tau = ret->out[TEMPERATURE]->data;

  memset (probs, 0, ret->out[PROBS]->n_bytes);
  memset (tau, 0, ret->out[TEMPERATURE]->n_bytes);
  for (gint64 r = 0; r < n; r++) {
    gboolean hidden = call->in[MASK] && kd_tensor_get_double (call->in[MASK], (gsize) r) == 0;
    if (!hidden && !put_row (call, &from, r, q, probs + r * size, tau + r, error))
      return FALSE;
  }
  return TRUE;
}

static const KdTransformDesc kd_swing_cache = {
  .name = "kdswingcache",
  .title = "Privacy-preserving teacher outputs",
  .description = "Teacher's probabilities with a temperature by each token's privacy and noise, for a cache that holds no logits",
  .source = "arXiv:2212.08349",
  .formula = "teacher.probs = softmax (teacher / tau) with noise, clipped and normalised; teacher.temperature = tau = tau-min + (tau-max - tau-min) privacy",
  .fields = kd_swing_cache_fields,
  .outputs = kd_swing_cache_outputs,
  .drops = kd_swing_cache_drops,
  .params = kd_swing_cache_params,
  .params_size = sizeof (KdSwingParams),
  .check = kd_swing_cache_check,
  .evaluate = kd_swing_cache_evaluate,
};

KD_TRANSFORM_PLUGIN (kd_swing_cache)
