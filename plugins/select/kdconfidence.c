/**
 * SECTION:element-kdconfidence
 * @short_description: keeps or weights samples by the teacher's confidence
 *
 * c_n = max_c softmax (teacher.logits_n / T)_c. weight_n = 1 where c_n >= threshold and 0 elsewhere (keep=above), the other way round
 * (keep=below), or c_n itself (keep=weighted; the threshold is not used).
 *
 * ## Fields
 *  - teacher.logits: float32, float16 or bfloat16 [N C]
 * What becomes of the weights is the base's `mode`: weight multiplies sample.weight, drop takes rows with weight 0 out of the batch.
 * ## Units
 * Probability in [1 / C, 1].
 * ## Errors
 * Logits that are NaN or +infinity (KD_ERROR_VALUE).
 * ## Source
 * Maximum softmax probability as confidence: arXiv:1610.02136; threshold on it: arXiv:2001.07685 section 2.1.
 * ## Example
 * |[ kd launch 'kdh5src location=batch.h5 ! kdconfidence threshold=0.9 mode=drop ! kdh5sink location=sure.h5' ]|
 */
#include <kd/kd.h>
#include <math.h>

enum { KEEP_ABOVE,
  KEEP_BELOW,
  KEEP_WEIGHTED };

typedef struct {
  gdouble threshold, temperature;
  gint keep;
} KdConfidenceParams;

static const KdEnumValue keeps[] = {
  { KEEP_ABOVE, "above", "Samples with at least the threshold" },
  { KEEP_BELOW, "below", "Samples below the threshold" },
  { KEEP_WEIGHTED, "weighted", "All samples, weighted by the confidence" },
  { 0, NULL, NULL }
};

static const KdParam kd_confidence_params[] = {
  KD_PARAM_DOUBLE (KdConfidenceParams, threshold, 0.0, 1.0, 0.5, "Confidence that parts the samples"),
  KD_PARAM_DOUBLE (KdConfidenceParams, temperature, 0.01, 1000.0, 1.0, "Divides the teacher's logits before softmax"),
  KD_PARAM_ENUM (KdConfidenceParams, keep, keeps, KEEP_ABOVE, "Which samples go on"),
  KD_PARAM_END
};

static const KdFieldSpec kd_confidence_fields[] = {
  { "teacher.logits", KD_FLOAT32 | KD_FLOAT16 | KD_BFLOAT16, "N C" },
  KD_FIELD_END
};

static gboolean
kd_confidence_evaluate (const KdCall *call, gfloat *weight, GError **error)
{
  const KdConfidenceParams *p = call->params;
  g_autofree gdouble *confidence = g_new (gdouble, call->n_samples);

  kd_softmax_rows (&(KdSoftmax) {
      .n = call->n_samples,
      .size = kd_call_size (call, 'C'),
      .logits = call->in[0]->data,
      .type = (KdReal) call->in[0]->dtype,
      .temperature = p->temperature,
      .max = confidence,
  });
  for (gint64 n = 0; n < call->n_samples; n++) {
    if (isnan (confidence[n])) {
      g_set_error (error, KD_ERROR, KD_ERROR_VALUE, "Logits not finite: element=kdconfidence, field=teacher.logits, sample.id=%" G_GINT64_FORMAT "; repair the teacher or leave the sample out", call->sample_id ? call->sample_id[n] : n);
      return FALSE;
    }
    if (p->keep == KEEP_WEIGHTED)
      weight[n] = (gfloat) confidence[n];
    else
      weight[n] = (confidence[n] >= p->threshold) == (p->keep == KEEP_ABOVE) ? 1.0f : 0.0f;
  }
  return TRUE;
}

static const KdSelectorDesc kd_confidence = {
  .name = "kdconfidence",
  .title = "Confidence selector",
  .description = "Keeps or weights samples by the teacher's largest probability",
  .source = "arXiv:1610.02136; arXiv:2001.07685 section 2.1",
  .formula = "c = max softmax (teacher / T); weight = [c >= threshold], [c < threshold] or c",
  .fields = kd_confidence_fields,
  .params = kd_confidence_params,
  .params_size = sizeof (KdConfidenceParams),
  .evaluate = kd_confidence_evaluate,
};

KD_SELECTOR_PLUGIN (kd_confidence)
