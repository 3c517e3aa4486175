/**
 * SECTION:element-kdmodule
 * @short_description: a small trainable part between two fields
 *
 * A projection or adaptor with parameters of its own: it reads `in`, makes `out`, takes `grad.OUT` in the backward pass, adds `grad.IN`
 * where IN is the student's, and steps with kdtrain. Put it before the loss that reads its output.
 *
 * ## Fields
 *  - IN: float32 [N ...]
 *  - adds OUT: float32; shape by kind: linear and mlp act on the last axis, conv1x1 on axis 1
 * ## Errors
 * A field that is missing, a kind that is unknown, keys that the kind does not have.
 * ## Source
 * FitNets, arXiv:1412.6550 section 2.2 (the regressor)
 * ## Example
 * |[ ... ! kdstudent arch="mlp dims=64,16,10" features=layer1 ! kdmodule kind=linear in=student.features.layer1 out=student.features.aligned
 * config="out=64" ! kdhint teacher-field=layer1 ! kdtrain ]|
 */
#include <kd/kd.h>

#include <string.h>

typedef struct {
  gint kind;
  gchar *in;
  gchar *out;
  gchar *config;
} KdModuleParams;

enum { LINEAR,
  MLP,
  CONV1X1 };
static const KdEnumValue kd_module_kinds[] = {
  { LINEAR, "linear", "y = x W' + b on the last axis; config: out=SIZE bias=true" },
  { MLP, "mlp", "Linear layers with an activation between, on the last axis; config: dims=64,32 activation=relu" },
  { CONV1X1, "conv1x1", "Linear on axis 1 of [N,C,H,W]; config: out=SIZE bias=true" },
  { 0, NULL, NULL },
};

static const KdParam kd_module_params[] = {
  KD_PARAM_ENUM (KdModuleParams, kind, kd_module_kinds, LINEAR, "What the part is"),
  KD_PARAM_STRING (KdModuleParams, in, "", "Field to read"),
  KD_PARAM_STRING (KdModuleParams, out, "", "Field to make"),
  KD_PARAM_STRING (KdModuleParams, config, "", "Keys of the kind, such as 'out=64 bias=false'"),
  KD_PARAM_END
};

static gchar *
kd_module_arch (gconstpointer params, GError **error)
{
  static const gchar *arch[] = { [LINEAR] = "linear", [MLP] = "mlp flatten=false", [CONV1X1] = "conv1x1" };
  const KdModuleParams *p = params;

  return g_strdup_printf ("%s %s", arch[p->kind], p->config ? p->config : "");
}

static const KdFieldSpec kd_module_fields[] = {
  { "{in}", KD_ANY_FLOAT, "N ..." },
  KD_FIELD_END
};

static const KdModelDesc kd_module = {
  .name = "kdmodule",
  .title = "Trainable module",
  .description = "A small trainable part between two fields: projection, adaptor, mask",
  .source = "arXiv:1412.6550 section 2.2",
  .provides = "student.features.aligned",
  .fields = kd_module_fields,
  .params = kd_module_params,
  .params_size = sizeof (KdModuleParams),
  .role = KD_ROLE_MODULE,
  .arch_of = kd_module_arch,
};

KD_MODEL_PLUGIN (kd_module)
