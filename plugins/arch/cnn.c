/**
 * SECTION:arch-cnn
 * @short_description: small residual network for images
 *
 * A 3x3 convolution, one stage of `blocks` residual blocks a number in `channels` (every stage but the first halves height and
 * width), the mean over the picture, a linear layer. Batch normalisation after each convolution. A block is relu (F (x) + x), F two
 * 3x3 convolutions; where size or channels change, x goes through a 1x1 convolution.
 *
 * Input: [N, C, H, W], any size; bytes are taken as 0..1.
 * ## Parameters
 * stem.conv.weight, stem.norm.*, stage1.block1.conv1.weight ... head.weight, head.bias; initial values as PyTorch's.
 * ## Layers to tap
 * stem, stage1 ... [N, channels, H', W']; pool [N, last of channels]
 * ## Source
 * He et al., arXiv:1512.03385; the layout is that of its CIFAR-10 networks (section 4.2), with projection shortcuts.
 * ## Example
 * |[ kdteacher arch='cnn channels=16,32,64 blocks=3 classes=10' ]|
 */
#include <kd/kd.h>

#define MAX_CHANNELS 65536

typedef struct {
  gchar *channels;
  gint64 blocks;
  gint64 classes;
} KdCnnParams;

static const KdParam kd_cnn_params[] = {
  KD_PARAM_STRING (KdCnnParams, channels, "16,32,64", "Channels of each stage, with commas"),
  KD_PARAM_INT (KdCnnParams, blocks, 1, 1000, 1, "Residual blocks a stage"),
  KD_PARAM_INT (KdCnnParams, classes, 1, 1 << 24, 10, "Logits"),
  KD_PARAM_END
};

static gboolean
kd_cnn_check (gconstpointer params, GError **error)
{
  guint n = 0;
  g_autofree gint64 *channels = kd_ints_parse (((const KdCnnParams *) params)->channels, 1, MAX_CHANNELS, "arch=cnn, channels", &n, error);

  return channels != NULL;
}

/* A convolution that keeps the size (divided by @stride), normalised. */
static KdVar *
conv_norm (KdForward *forward, const gchar *conv, const gchar *norm, KdVar *x, gint64 out, gint kernel, gint stride)
{
  return kd_layer_batch_norm (forward, norm, kd_layer_conv2d (forward, conv, x, out, kernel, stride, kernel / 2, 1, FALSE));
}

static KdVar *
block (KdForward *forward, KdVar *x, gint64 out, gint stride)
{
  KdVar *shortcut = x, *y;

  y = kd_relu (forward, conv_norm (forward, "conv1", "norm1", x, out, 3, stride));
  y = conv_norm (forward, "conv2", "norm2", y, out, 3, 1);
  if (stride != 1 || kd_var_dim (forward, x, 1) != out)
    shortcut = conv_norm (forward, "shortcut", "shortcut_norm", x, out, 1, stride);
  return kd_relu (forward, kd_add (forward, y, shortcut));
}

static KdVar *
kd_cnn_forward (gconstpointer params, KdForward *forward, KdVar *input)
{
  const KdCnnParams *p = params;
  guint n = 0;
  g_autofree gint64 *channels = kd_ints_parse (p->channels, 1, MAX_CHANNELS, "arch=cnn, channels", &n, NULL);
  gint64 dims[KD_MAX_RANK];
  guint rank = kd_var_shape (forward, input, dims);
  KdVar *x;

  if (rank != 4)
    return kd_forward_fail (forward, KD_ERROR_SHAPE, "Input does not fit: arch=cnn, axes a sample=%u; wanted channels, height, width",
        rank ? rank - 1 : 0);
  kd_push (forward, "stem");
  x = kd_relu (forward, conv_norm (forward, "conv", "norm", input, channels[0], 3, 1));
  kd_pop (forward);
  kd_tap (forward, "stem", x);
  for (guint stage = 0; stage < n; stage++) {
    gchar name[16];
    for (gint64 i = 0; i < p->blocks; i++) {
      kd_push (forward, "stage%u.block%d", stage + 1, (gint) i + 1);
      x = block (forward, x, channels[stage], stage > 0 && i == 0 ? 2 : 1);
      kd_pop (forward);
    }
    g_snprintf (name, sizeof name, "stage%u", stage + 1);
    kd_tap (forward, name, x);
  }
  x = kd_tap (forward, "pool", kd_global_avg_pool (forward, x));
  return kd_layer_linear (forward, "head", x, p->classes, TRUE);
}

static const KdArchDesc kd_cnn = {
  .name = "cnn",
  .description = "Small residual network for images",
  .source = "He et al., arXiv:1512.03385",
  .params = kd_cnn_params,
  .params_size = sizeof (KdCnnParams),
  .check = kd_cnn_check,
  .forward = kd_cnn_forward,
};

KD_ARCH_PLUGIN (kd_cnn)
