/**
 * SECTION:arch-conv1x1
 * @short_description: one 1x1 convolution
 *
 * [N, C, H, W] -> [N, out, H, W]. Parameters conv.weight [out, C, 1, 1], conv.bias [out], initialised as torch.nn.Conv2d does.
 */
#include <kd/kd.h>

typedef struct {
  gint64 out;
  gboolean bias;
} KdConv1x1Params;

static const KdParam kd_conv1x1_params[] = {
  KD_PARAM_INT (KdConv1x1Params, out, 1, 1 << 20, 16, "Channels of the output"),
  KD_PARAM_BOOL (KdConv1x1Params, bias, TRUE, "Whether to add a bias"),
  KD_PARAM_END
};

static KdVar *
kd_conv1x1_forward (gconstpointer params, KdForward *forward, KdVar *input)
{
  const KdConv1x1Params *p = params;
  gint64 dims[KD_MAX_RANK];

  if (kd_var_shape (forward, input, dims) != 4)
    return kd_forward_fail (forward, KD_ERROR_SHAPE, "Shape not accepted: arch=conv1x1, wanted=[N,C,H,W], axes=%u", kd_var_shape (forward, input, dims));
  return kd_layer_conv2d (forward, "conv", input, p->out, 1, 1, 0, 1, p->bias);
}

static const KdArchDesc kd_arch_conv1x1 = {
  .name = "conv1x1",
  .description = "One 1x1 convolution: a linear map of the channels",
  .source = "arXiv:1412.6550 section 2.2 (convolutional regressor)",
  .params = kd_conv1x1_params,
  .params_size = sizeof (KdConv1x1Params),
  .forward = kd_conv1x1_forward,
};

KD_ARCH_PLUGIN (kd_arch_conv1x1)
