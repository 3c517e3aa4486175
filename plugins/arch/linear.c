/**
 * SECTION:arch-linear
 * @short_description: one linear layer on the last axis
 *
 * y = x W' + b, [N, ..., D] -> [N, ..., out]. Parameters linear.weight [out, D], linear.bias [out], initialised as torch.nn.Linear does.
 */
#include <kd/kd.h>

typedef struct {
  gint64 out;
  gboolean bias;
} KdLinearParams;

static const KdParam kd_linear_params[] = {
  KD_PARAM_INT (KdLinearParams, out, 1, 1 << 24, 10, "Size of the last axis of the output"),
  KD_PARAM_BOOL (KdLinearParams, bias, TRUE, "Whether to add a bias"),
  KD_PARAM_END
};

static KdVar *
kd_linear_forward (gconstpointer params, KdForward *forward, KdVar *input)
{
  const KdLinearParams *p = params;

  return kd_layer_linear (forward, "linear", input, p->out, p->bias);
}

static const KdArchDesc kd_arch_linear = {
  .name = "linear",
  .description = "One linear layer on the last axis",
  .source = "arXiv:1412.6550 section 2.2 (regressor)",
  .params = kd_linear_params,
  .params_size = sizeof (KdLinearParams),
  .forward = kd_linear_forward,
};

KD_ARCH_PLUGIN (kd_arch_linear)
