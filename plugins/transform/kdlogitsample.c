/**
 * SECTION:element-kdlogitsample
 * @short_description: a teacher's logits cut down to ids drawn at random
 *
 * p = softmax (teacher.logits / T), r ~ p^tau (tau: proposal-power), S draws (draws) from r with replacement; id i drawn c_i times has
 * weight w_i = (c_i / S) p_i / r_i. E [w_j] = p_j for every id, so the gradient of kddivergence is the dense one's in the mean; the weights
 * sum to 1 with tau = 1. T has to be the temperature that the student is trained at.
 *
 * Draws of a sample depend on seed, epoch and sample.id (its place in the run without one), not on the batch it stands in.
 *
 * ## Fields
 *  - teacher.logits: float32, float16 or bfloat16 [* V], taken away
 *  - mask: any number [*], optional: rows with 0 are not read and get no ids
 *  - rng.uniform: float64 [* draws], read with rng=field: u in [0, 1); the id is the first whose cumulative sum of r exceeds u
 * Writes teacher.sampled.ids int64 [* draws] (the different ids, ascending, then -1) and teacher.sampled.weights float32 [* draws].
 * ## Units
 * weights are probabilities.
 * ## Errors
 * rng.uniform missing (KD_ERROR_FIELD) or outside [0, 1) (KD_ERROR_RANGE), a row with NaN, +infinity or nothing finite (KD_ERROR_VALUE).
 * ## Source
 * arXiv:2503.16870 (Sparse Logit Sampling): 50 draws give about 12 different ids; tau 0.8 to 1.2.
 * ## Example
 * |[ kd launch 'kdh5src location=logits.h5 ! kdlogitsample draws=50 ! kdh5sink location=sampled.h5' ]|
 */
#include <kd/kd.h>

enum { RNG_PCG,
  RNG_FIELD };

typedef struct {
  gint64 draws;
  gdouble proposal_power, temperature;
  guint64 seed;
  gint rng;
} KdLogitSampleParams;

static const KdEnumValue rngs[] = {
  { RNG_PCG, "pcg", "The element's own generator (Philox, keyed by seed, epoch and sample)" },
  { RNG_FIELD, "field", "The numbers in rng.uniform" },
  { 0, NULL, NULL }
};

static const KdParam kd_logit_sample_params[] = {
  KD_PARAM_INT (KdLogitSampleParams, draws, 1, 1 << 20, 50, "Draws a row"),
  KD_PARAM_DOUBLE (KdLogitSampleParams, proposal_power, 0.0, 100.0, 1.0, "Power of p that is drawn from; 1: p itself, 0: evenly"),
  KD_PARAM_DOUBLE (KdLogitSampleParams, temperature, 0.01, 1000.0, 1.0, "Divides the logits before softmax"),
  KD_PARAM_UINT64 (KdLogitSampleParams, seed, 0, "Key of the random numbers"),
  KD_PARAM_ENUM (KdLogitSampleParams, rng, rngs, RNG_PCG, "Where the random numbers come from"),
  KD_PARAM_END
};

enum { TEACHER,
  MASK,
  UNIFORM };
static const KdFieldSpec kd_logit_sample_fields[] = {
  [TEACHER] = { "teacher.logits", KD_FLOAT32 | KD_FLOAT16 | KD_BFLOAT16, "* V" },
  [MASK] = { "mask", KD_ANY_NUMBER, "*", KD_FIELD_OPTIONAL },
  [UNIFORM] = { "rng.uniform", KD_FLOAT64, "* {draws}", KD_FIELD_OPTIONAL },
  KD_FIELD_END
};

enum { IDS,
  WEIGHTS };
static const KdFieldSpec kd_logit_sample_outputs[] = {
  [IDS] = { "teacher.sampled.ids", KD_INT64, "* {draws}" },
  [WEIGHTS] = { "teacher.sampled.weights", KD_FLOAT32, "* {draws}" },
  KD_FIELD_END
};
static const gchar *const kd_logit_sample_drops[] = { "teacher.logits", NULL };

static void
draw_uniform (const KdCall *call, gint64 n_values, gdouble *uniform)
{
  const KdLogitSampleParams *p = call->params;
  gint64 per_sample = call->n_samples ? n_values / call->n_samples : 0;

  for (gint64 n = 0; n < call->n_samples; n++) {
    gint64 id = call->sample_id && call->sample_id[n] >= 0 ? call->sample_id[n] : (gint64) (G_MAXUINT64 - (call->index << 24 ^ (guint64) n));
    KdRandom random;
    kd_random_init (&random, p->seed, call->purpose, call->epoch, (guint64) id);
    for (gint64 i = n * per_sample; i < (n + 1) * per_sample; i++)
      uniform[i] = kd_random_uniform (&random);
  }
}

static gboolean
check_uniform (const gdouble *uniform, gint64 draws, gint64 n_rows, const gdouble *counted, GError **error)
{
  for (gint64 i = 0; i < n_rows * draws; i++)
    if (counted[i / draws] != 0 && !(uniform[i] >= 0 && uniform[i] < 1)) {
      g_set_error (error, KD_ERROR, KD_ERROR_RANGE, "Value out of range: element=kdlogitsample, field=rng.uniform, row=%" G_GINT64_FORMAT ", value=%g, wanted=from 0 to below 1", i / draws, uniform[i]);
      return FALSE;
    }
  return TRUE;
}

static gboolean
kd_logit_sample_evaluate (const KdCall *call, KdOutputs *ret, GError **error)
{
  const KdLogitSampleParams *p = call->params;
  gint64 size = kd_call_size (call, 'V'), n = size ? (gint64) kd_tensor_n_elements (call->in[TEACHER]) / size : 0;
  g_autofree gdouble *counted = g_new (gdouble, n), *own = p->rng == RNG_PCG ? g_new (gdouble, n * p->draws) : NULL;
  g_autofree guint8 *valid = g_new (guint8, n);
  const gdouble *uniform = own;

  for (gint64 i = 0; i < n; i++)
    counted[i] = !call->in[MASK] || kd_tensor_get_double (call->in[MASK], (gsize) i) != 0;
  if (own) {
    draw_uniform (call, n * p->draws, own);
  } else if (!call->in[UNIFORM]) {
    g_set_error (error, KD_ERROR, KD_ERROR_FIELD, "Field missing: element=kdlogitsample, field=rng.uniform; rng=field needs it, rng=pcg does not");
    return FALSE;
  } else {
    uniform = call->in[UNIFORM]->data;
    if (!check_uniform (uniform, p->draws, n, counted, error))
      return FALSE;
  }
  kd_draw_rows (&(KdDraw) { .n = n, .size = size, .draws = p->draws, .logits = call->in[TEACHER]->data, .type = (KdReal) call->in[TEACHER]->dtype, .coef = counted, .temperature = p->temperature, .power = p->proposal_power, .uniform = uniform, .ids = ret->out[IDS]->data, .weights = ret->out[WEIGHTS]->data, .valid = valid });
  for (gint64 i = 0; i < n; i++)
    if (!valid[i]) {
      g_set_error (error, KD_ERROR, KD_ERROR_VALUE, "Logits not finite: element=kdlogitsample, field=teacher.logits, row=%" G_GINT64_FORMAT "; repair the teacher or mask the row", i);
      return FALSE;
    }
  return TRUE;
}

static const KdTransformDesc kd_logit_sample = {
  .name = "kdlogitsample",
  .title = "Sampled teacher",
  .description = "Cuts the teacher's logits down to ids drawn at random, with weights that make the gradient unbiased",
  .source = "arXiv:2503.16870 (Sparse Logit Sampling)",
  .formula = "ids drawn S times from r = softmax (tau logits / T); w_i = (c_i / S) p_i / r_i, p = softmax (logits / T); E [w] = p",
  .fields = kd_logit_sample_fields,
  .params = kd_logit_sample_params,
  .params_size = sizeof (KdLogitSampleParams),
  .outputs = kd_logit_sample_outputs,
  .drops = kd_logit_sample_drops,
  .evaluate = kd_logit_sample_evaluate,
};

KD_TRANSFORM_PLUGIN (kd_logit_sample)
