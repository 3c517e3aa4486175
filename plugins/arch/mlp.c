/**
 * SECTION:arch-mlp
 * @short_description: multilayer perceptron: linear layers with an activation between them
 *
 * h_i = dropout (activation (W_i h_{i-1} + b_i)), the last layer without activation; the input is flattened unless flatten=false.
 *
 * ## Parameters
 * layer1.weight [dims[1], dims[0]], layer1.bias ... as torch.nn.Linear names and initialises them.
 * ## Layers to tap
 * layer1 ... of [N, dims[i]]: hidden ones after their activation and before dropout.
 * ## Example
 * |[ kdstudent arch='mlp dims=64,32,10 activation=gelu' ]|
 */
#include <kd/kd.h>

#define MAX_WIDTH (1 << 24)

typedef enum { RELU,
  TANH,
  GELU,
  SILU } Activation;

typedef struct {
  gchar *dims;
  gint activation;
  gdouble dropout;
  gboolean flatten;
} KdMlpParams;

static const KdEnumValue activations[] = {
  { RELU, "relu", "max (x, 0)" },
  { TANH, "tanh", "hyperbolic tangent" },
  { GELU, "gelu", "x times the normal distribution's integral to x" },
  { SILU, "silu", "x times the logistic function of x" },
  { 0 },
};

static const KdParam kd_mlp_params[] = {
  KD_PARAM_STRING (KdMlpParams, dims, "64,32,10", "Widths from the flattened input to the logits, with commas"),
  KD_PARAM_ENUM (KdMlpParams, activation, activations, RELU, "Between the layers"),
  KD_PARAM_DOUBLE (KdMlpParams, dropout, 0.0, 0.99, 0.0, "Share of each hidden layer's outputs set to 0 in training"),
  KD_PARAM_BOOL (KdMlpParams, flatten, TRUE, "All axes of a sample are one; false: the layers act on the last axis"),
  KD_PARAM_END
};

static gboolean
kd_mlp_check (gconstpointer params, GError **error)
{
  const KdMlpParams *p = params;
  guint n = 0;
  g_autofree gint64 *dims = kd_ints_parse (p->dims, 1, MAX_WIDTH, "arch=mlp, dims", &n, error);

  if (dims && n < 2)
    g_set_error (error, KD_ERROR, KD_ERROR_RANGE, "Too few widths: arch=mlp, dims=\"%s\"; give at least input,output", p->dims);
  return dims && n >= 2;
}

static KdVar *
activate (KdForward *forward, gint activation, KdVar *x)
{
  switch ((Activation) activation) {
  case RELU:
    return kd_relu (forward, x);
  case TANH:
    return kd_tanh (forward, x);
  case GELU:
    return kd_gelu (forward, x);
  case SILU:
    return kd_silu (forward, x);
  }
  g_return_val_if_reached (NULL);
}

static KdVar *
kd_mlp_forward (gconstpointer params, KdForward *forward, KdVar *input)
{
  const KdMlpParams *p = params;
  guint n = 0;
  g_autofree gint64 *dims = kd_ints_parse (p->dims, 1, MAX_WIDTH, "arch=mlp, dims", &n, NULL);
  KdVar *x = p->flatten ? kd_flatten (forward, input) : input;

  if (kd_var_dim (forward, x, -1) != dims[0])
    return kd_forward_fail (forward, KD_ERROR_SHAPE,
        "Input does not fit: arch=mlp, dims=\"%s\", numbers a sample=%" G_GINT64_FORMAT "; dims must begin with that number", p->dims,
        kd_var_dim (forward, x, -1));
  for (guint i = 1; i < n; i++) {
    gchar name[16];
    g_snprintf (name, sizeof name, "layer%u", i);
    x = kd_layer_linear (forward, name, x, dims[i], TRUE);
    if (i < n - 1)
      x = activate (forward, p->activation, x);
    kd_tap (forward, name, x);
    if (i < n - 1)
      x = kd_layer_dropout (forward, x, p->dropout);
  }
  return x;
}

static const KdArchDesc kd_mlp = {
  .name = "mlp",
  .description = "Multilayer perceptron",
  .source = "Rumelhart, Hinton and Williams, Nature 323 (1986)",
  .params = kd_mlp_params,
  .params_size = sizeof (KdMlpParams),
  .check = kd_mlp_check,
  .forward = kd_mlp_forward,
};

KD_ARCH_PLUGIN (kd_mlp)
