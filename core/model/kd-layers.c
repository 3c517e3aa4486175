/* Layers: an operation with its parameters, named and initialised as PyTorch's modules are, so that weights carry over by name. */
#include "kd-graph-private.h"
#include "kd-ops.h"

#include <math.h>

#define BATCH_NORM_MOMENTUM 0.1 /* PyTorch's defaults, as the two epsilons */
#define BATCH_NORM_EPSILON 1e-5
#define LAYER_NORM_EPSILON 1e-5

KdVar *
kd_layer_linear (KdForward *forward, const gchar *name, KdVar *x, gint64 out, gboolean bias)
{
  gint64 in = kd_var_dim (forward, x, -1);
  KdVar *weight, *offset = NULL, *y;

  if (!x)
    return NULL;
  kd_push (forward, "%s", name);
  weight = kd_param (forward, "weight", KD_INIT_KAIMING_UNIFORM, 2, (gint64[]) { out, in });
  if (bias)
    offset = kd_param (forward, "bias", KD_INIT_FAN_IN_BIAS, 1, (gint64[]) { out, in });
  y = kd_linear (forward, x, weight, offset);
  kd_pop (forward);
  return y;
}

KdVar *
kd_layer_conv2d (KdForward *forward, const gchar *name, KdVar *x, gint64 out, gint kernel, gint stride, gint padding, gint groups,
    gboolean bias)
{
  gint64 in = kd_var_dim (forward, x, 1);
  KdVar *weight, *offset = NULL, *y;

  if (!x)
    return NULL;
  if (groups < 1 || kernel < 1 || in % groups || out % groups)
    return kd_forward_fail (forward, KD_ERROR_SHAPE,
        "Convolution does not fit: layer=%s%s, channels=%" G_GINT64_FORMAT " to %" G_GINT64_FORMAT ", groups=%d, kernel=%d; groups must "
        "divide both",
        forward->scope->str, name, in, out, groups, kernel);
  kd_push (forward, "%s", name);
  weight = kd_param (forward, "weight", KD_INIT_KAIMING_UNIFORM, 4, (gint64[]) { out, in / groups, kernel, kernel });
  if (bias)
    offset = kd_param (forward, "bias", KD_INIT_FAN_IN_BIAS, 1, (gint64[]) { out, in / groups * kernel * kernel });
  y = kd_conv2d (forward, x, weight, offset, stride, padding, 1, groups);
  kd_pop (forward);
  return y;
}

KdVar *
kd_layer_batch_norm (KdForward *forward, const gchar *name, KdVar *x)
{
  gint64 c = kd_var_dim (forward, x, 1);
  KdVar *weight, *bias, *mean, *var, *y;

  if (!x)
    return NULL;
  kd_push (forward, "%s", name);
  weight = kd_param (forward, "weight", KD_INIT_ONES, 1, &c);
  bias = kd_param (forward, "bias", KD_INIT_ZEROS, 1, &c);
  mean = kd_buffer (forward, "running_mean", KD_INIT_ZEROS, 1, &c);
  var = kd_buffer (forward, "running_var", KD_INIT_ONES, 1, &c);
  y = kd_batch_norm (forward, x, weight, bias, mean, var, forward->training, BATCH_NORM_MOMENTUM, BATCH_NORM_EPSILON);
  kd_pop (forward);
  return y;
}

KdVar *
kd_layer_layer_norm (KdForward *forward, const gchar *name, KdVar *x)
{
  gint64 c = kd_var_dim (forward, x, -1);
  KdVar *weight, *bias, *y;

  if (!x)
    return NULL;
  kd_push (forward, "%s", name);
  weight = kd_param (forward, "weight", KD_INIT_ONES, 1, &c);
  bias = kd_param (forward, "bias", KD_INIT_ZEROS, 1, &c);
  y = kd_layer_norm (forward, x, weight, bias, LAYER_NORM_EPSILON);
  kd_pop (forward);
  return y;
}

/* The mask is drawn here, not by the engine: what falls out then depends on the stream alone, not on the engine or its threads. */
KdVar *
kd_layer_dropout (KdForward *forward, KdVar *x, gdouble p)
{
  g_autoptr (KdTensor) mask = NULL;
  gint64 dims[KD_MAX_RANK];
  guint rank = kd_var_shape (forward, x, dims);
  gfloat *keep, scale;
  guint64 limit;
  gsize n;

  if (!x || !forward->training || p <= 0.0)
    return x;
  if (!forward->has_random || p >= 1.0)
    return kd_forward_fail (forward, KD_ERROR_VALUE, "Dropout not possible: p=%g, random stream=%s; p must be below 1 and a training pass "
                                                     "be given a stream",
        p, forward->has_random ? "given" : "missing");
  mask = kd_tensor_new (KD_FLOAT32, rank, dims);
  keep = mask->data;
  n = kd_tensor_n_elements (mask);
  limit = (guint64) floor (p * 0x1p32);
  scale = (gfloat) (1.0 / (1.0 - p));
  for (gsize i = 0; i < n; i++)
    keep[i] = kd_random_u32 (&forward->random) < limit ? 0.0f : scale;
  return kd_mul (forward, x, kd_forward_input (forward, mask, FALSE));
}
