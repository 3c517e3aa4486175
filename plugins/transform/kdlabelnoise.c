/**
 * SECTION:element-kdlabelnoise
 * @short_description: wrong labels on purpose, for experiments
 *
 * A label from first-class to last-class is drawn anew, uniform among these classes, with probability `fraction`; so of k classes
 * fraction (k - 1) / k of the labels become wrong. What is drawn depends on seed and sample.id alone: the same in every epoch. Other labels stay.
 *
 * ## Fields
 *  - label: int64 [N ...], replaced; sample.id: int64 [N], optional: without it by the row's place in the run
 * ## Units
 * none.
 * ## Errors
 * last-class below first-class (KD_ERROR_RANGE).
 * ## Source
 * Symmetric label noise, Natarajan et al., "Learning with noisy labels", NeurIPS 2013.
 * ## Example
 * |[ kd launch 'kdh5src location=digits.h5 ! kdlabelnoise fraction=0.7 first-class=5 last-class=9 ! kdh5sink location=noisy.h5' ]|
 */
#include <kd/kd.h>

#include <string.h>

typedef struct {
  gdouble fraction;
  gint64 first_class, last_class;
  guint64 seed;
} KdLabelNoiseParams;

static const KdParam kd_label_noise_params[] = {
  KD_PARAM_DOUBLE (KdLabelNoiseParams, fraction, 0.0, 1.0, 0.5, "Part of the labels that are drawn anew"),
  KD_PARAM_INT (KdLabelNoiseParams, first_class, 0, G_MAXINT32, 0, "Lowest class that takes part"),
  KD_PARAM_INT (KdLabelNoiseParams, last_class, 0, G_MAXINT32, 9, "Highest class that takes part"),
  KD_PARAM_UINT64 (KdLabelNoiseParams, seed, 0, "Key of the random numbers"),
  KD_PARAM_END
};

static const KdFieldSpec kd_label_noise_fields[] = {
  { "label", KD_INT64, "N ..." },
  KD_FIELD_END
};
static const KdFieldSpec kd_label_noise_outputs[] = {
  { "label", KD_INT64, "N ..." },
  KD_FIELD_END
};

static gboolean
kd_label_noise_check (gconstpointer params, GError **error)
{
  const KdLabelNoiseParams *p = params;

  if (p->last_class >= p->first_class)
    return TRUE;
  g_set_error (error, KD_ERROR, KD_ERROR_RANGE, "No classes: element=kdlabelnoise, first-class=%" G_GINT64_FORMAT ", last-class=%" G_GINT64_FORMAT "; set last-class to first-class or more",
      p->first_class, p->last_class);
  return FALSE;
}

static gboolean
kd_label_noise_evaluate (const KdCall *call, KdOutputs *ret, GError **error)
{
  const KdLabelNoiseParams *p = call->params;
  const KdTensor *label = call->in[0];
  gsize width = kd_tensor_row_elements (label);
  gint64 *to;

  ret->out[0] = kd_tensor_new (KD_INT64, label->rank, label->dims);
  to = ret->out[0]->data;
  memcpy (to, label->data, label->n_bytes);
  for (gint64 n = 0; n < call->n_samples; n++) {
    KdRandom random;
    guint64 id = call->sample_id ? (guint64) call->sample_id[n] : (guint64) call->index << 24 ^ (guint64) n;
    kd_random_init (&random, p->seed, call->purpose, 0, id);
    for (gsize i = 0; i < width; i++) {
      gint64 *l = &to[(gsize) n * width + i];
      if (kd_random_uniform (&random) < p->fraction && *l >= p->first_class && *l <= p->last_class)
        *l = p->first_class + (gint64) kd_random_below (&random, (guint64) (p->last_class - p->first_class + 1));
    }
  }
  return TRUE;
}

static const KdTransformDesc kd_label_noise = {
  .name = "kdlabelnoise",
  .title = "Label noise",
  .description = "Draws a part of the labels of some classes anew among these classes",
  .source = "Natarajan et al., NeurIPS 2013",
  .formula = "label' = uniform in [first-class, last-class] with probability fraction, for labels in that range",
  .fields = kd_label_noise_fields,
  .outputs = kd_label_noise_outputs,
  .params = kd_label_noise_params,
  .params_size = sizeof (KdLabelNoiseParams),
  .check = kd_label_noise_check,
  .evaluate = kd_label_noise_evaluate,
};

KD_TRANSFORM_PLUGIN (kd_label_noise)
