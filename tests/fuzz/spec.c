/* A model's specification, "mlp dims=64,10": words, then each kind of parameter. */
#include "fuzz.h"

typedef struct {
  gdouble rate;
  gint64 depth;
  guint64 seed;
  gboolean bias;
  gint kind;
  gchar *dims;
} Params;

static const KdEnumValue kinds[] = { { 0, "relu", "" }, { 1, "gelu", "" }, { 0, NULL } };
static const KdParam table[] = {
  KD_PARAM_DOUBLE (Params, rate, 0, 1, 0.5, ""),
  KD_PARAM_INT (Params, depth, 1, 64, 4, ""),
  KD_PARAM_UINT64 (Params, seed, 0, ""),
  KD_PARAM_BOOL (Params, bias, TRUE, ""),
  KD_PARAM_ENUM (Params, kind, kinds, 0, ""),
  KD_PARAM_STRING (Params, dims, "64", ""),
  KD_PARAM_END,
};

/* What was read prints as something that reads the same. */
static gboolean
set (const KdParam *param, Params *params, const gchar *value)
{
  g_autofree gchar *printed = NULL, *again = NULL;
  GError *error = NULL;

  if (!kd_param_set_string (param, params, value, "arch=fuzz", &error)) {
    fuzz_refuse (error, "parameter");
    return FALSE;
  }
  printed = kd_param_to_string (param, params);
  fuzz_check (kd_param_set_string (param, params, printed, "arch=fuzz", &error), "%s=\"%s\" does not read back: %s", param->member, printed,
      error ? error->message : "");
  again = kd_param_to_string (param, params);
  fuzz_check (g_str_equal (printed, again), "%s=\"%s\" reads back as \"%s\"", param->member, printed, again);
  return TRUE;
}

int
LLVMFuzzerTestOneInput (const guint8 *data, gsize size)
{
  g_autofree gchar *text = fuzz_text (data, size), *name = NULL;
  g_auto (GStrv) pairs = NULL;
  Params params = { 0 };
  GError *error = NULL;
  gboolean good = TRUE;

  if (!g_utf8_validate (text, -1, NULL)) /* properties are checked by GObject's users, argv by GOption */
    return 0;
  if (!kd_spec_parse (text, &name, &pairs, &error)) {
    fuzz_refuse (error, "specification");
    return 0;
  }
  kd_params_init (table, &params);
  for (guint i = 0; pairs[i]; i += 2) {
    const KdParam *param = kd_param_find (table, pairs[i]);
    good &= param && set (param, &params, pairs[i + 1]);
  }
  if (params.dims) {
    guint n;
    g_autofree gint64 *dims = kd_ints_parse (params.dims, 1, 1 << 20, "dims", &n, &error);
    if (!dims)
      fuzz_refuse (error, "dims");
    good &= dims != NULL;
  }
  kd_params_clear (table, &params);
  if (good)
    fuzz_accept ();
  return 0;
}
