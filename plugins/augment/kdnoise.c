/**
 * SECTION:element-kdnoise
 * @short_description: Gaussian noise on an input
 *
 * x' = x + std e, e independent standard normal numbers from the sample's own stream.
 *
 * ## Fields
 *  - {field} (input): float32 [N ...], replaced; uint8 is read as value / 255
 * Adds sample.view (base).
 * ## Units
 * std in the units of the input.
 * ## Errors
 * None of its own.
 * ## Source
 * Bishop 1995, "Training with noise is equivalent to Tikhonov regularization".
 * ## Example
 * |[ kd launch 'kdh5src location=train.h5 ! kdnoise std=0.1 seed=1 ! kdh5sink location=noisy.h5' ]|
 */
#include <kd/kd.h>

typedef struct {
  gdouble std;
  gchar *field;
} KdNoiseParams;

static const KdParam kd_noise_params[] = {
  KD_PARAM_DOUBLE (KdNoiseParams, std, 0.0, 1e6, 0.1, "Standard deviation of the noise"),
  KD_PARAM_STRING (KdNoiseParams, field, "input", "Field to add noise to"),
  KD_PARAM_END
};

static const KdFieldSpec kd_noise_fields[] = {
  { "{field}", KD_FLOAT32 | KD_UINT8, "N ...", KD_FIELD_UNIT },
  KD_FIELD_END
};
static const KdFieldSpec kd_noise_outputs[] = {
  { "{field}", KD_FLOAT32, "N ..." },
  KD_FIELD_END
};

static gboolean
kd_noise_evaluate (const KdCall *call, KdOutputs *ret, GError **error)
{
  const KdNoiseParams *p = call->params;
  const KdTensor *in = call->in[0];
  KdTensor *out = kd_tensor_new (KD_FLOAT32, in->rank, in->dims);
  gsize width = kd_tensor_row_elements (in);

  for (gint64 n = 0; n < call->n_samples; n++) {
    const gfloat *from = (const gfloat *) in->data + (gsize) n * width;
    gfloat *to = (gfloat *) out->data + (gsize) n * width;
    KdRandom random;
    kd_call_random (call, n, &random);
    for (gsize i = 0; i < width; i++)
      to[i] = (gfloat) (from[i] + p->std * kd_random_normal (&random));
  }
  g_clear_pointer (&ret->out[0], kd_tensor_unref);
  ret->out[0] = out;
  return TRUE;
}

static const KdAugmentDesc kd_noise = {
  .name = "kdnoise",
  .title = "Gaussian noise",
  .description = "Adds independent Gaussian noise to an input",
  .source = "Bishop 1995, Neural Computation 7(1)",
  .formula = "x' = x + std e, e ~ N (0, 1)",
  .fields = kd_noise_fields,
  .params = kd_noise_params,
  .params_size = sizeof (KdNoiseParams),
  .outputs = kd_noise_outputs,
  .evaluate = kd_noise_evaluate,
};

KD_AUGMENT_PLUGIN (kd_noise)
