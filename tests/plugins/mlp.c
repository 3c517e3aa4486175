/* Architecture mlp: a value by hand, a limit, refusals. */
#include "kd-check.h"
#include <string.h>

static KdModel *
model_new (const gchar *arch, guint rank, const gint64 *dims, GError **error)
{
  return kd_model_new (NULL, arch, NULL, NULL, 1, KD_FLOAT32, rank, dims, error);
}

static void
set_values (KdModel *model, const gchar *name, const gfloat *values, gsize n)
{
  gint i = kd_param_set_find (kd_model_params (model), name);

  fail_unless (i >= 0 && kd_param_set_nth (kd_model_params (model), (guint) i)->n == n, "%s", name);
  memcpy (kd_param_set_values (kd_model_params (model), (guint) i), values, n * sizeof *values);
}

static KdTensor *
run (KdModel *model, KdTensor *input, const gchar *tap)
{
  KdVar *in, *out;
  GError *error = NULL;
  g_autoptr (KdForward) forward = kd_model_forward (model, input, FALSE, FALSE, FALSE, NULL, &in, &out, &error);
  KdTensor *tensor;

  kd_assert_no_error (error);
  tensor = kd_forward_tensor (forward, tap ? kd_forward_find_tap (forward, tap) : out, &error);
  kd_assert_no_error (error);
  return tensor;
}

/* x = (1, -2): hidden = f (2 - 2, -1, 1 + 2) with f one of four, out = (h1 + h2 + h3, 0.5 + h3) */
GST_START_TEST (test_by_hand)
{
  static const gchar *const archs[] = { "mlp dims=2,3,2", "mlp dims=2,3,2 activation=tanh", "mlp dims=2,3,2 activation=gelu",
    "mlp dims=2,3,2 activation=silu dropout=0.5" };
  const gdouble hidden[][3] = { { 0, 0, 3 }, { 0, tanh (-1), tanh (3) }, { 0, -0.158655254, 2.99595031 },
    { 0, -1 / (1 + exp (1)), 3 / (1 + exp (-3)) } };
  const gdouble *h = hidden[__i__];
  const gint64 dims[] = { 1, 2 };
  g_autoptr (KdModel) model = model_new (archs[__i__], 2, dims, NULL);
  g_autoptr (KdTensor) x = kd_tensor_new (KD_FLOAT32, 2, dims), out = NULL, tap = NULL;

  set_values (model, "layer1.weight", (const gfloat[]) { 0, 1, -1, 0, 1, -1 }, 6);
  set_values (model, "layer1.bias", (const gfloat[]) { 2, 0, 0 }, 3);
  set_values (model, "layer2.weight", (const gfloat[]) { 1, 1, 1, 0, 0, 1 }, 6);
  set_values (model, "layer2.bias", (const gfloat[]) { 0, 0.5 }, 2);
  ((gfloat *) x->data)[0] = 1;
  ((gfloat *) x->data)[1] = -2;
  out = run (model, x, NULL);
  tap = run (model, x, "layer1");
  for (guint i = 0; i < 3; i++)
    kd_assert_close (kd_tensor_get_double (tap, i), h[i], 1e-6);
  kd_assert_close (kd_tensor_get_double (out, 0), h[0] + h[1] + h[2], 1e-6);
  kd_assert_close (kd_tensor_get_double (out, 1), 0.5 + h[2], 1e-6);
}
GST_END_TEST;

/* No samples give no rows, and a picture is flattened. */
GST_START_TEST (test_limits)
{
  const gint64 dims[] = { 0, 1, 2, 2 };
  g_autoptr (KdModel) model = model_new ("mlp dims=4,3", 4, dims, NULL);
  g_autoptr (KdTensor) none = kd_tensor_new (KD_FLOAT32, 4, dims), out = run (model, none, NULL);
  g_autofree gchar *shape = kd_tensor_shape_string (out);

  fail_unless_equals_string (shape, "[0,3]");
}
GST_END_TEST;

GST_START_TEST (test_refusal)
{
  const gint64 dims[] = { 0, 5 };
  GError *error = NULL;

  fail_if (model_new ("mlp dims=4,3", 2, dims, &error));
  fail_unless_equals_string (error->message, "Model cannot be built: arch=\"mlp dims=4,3\": Input does not fit: arch=mlp, dims=\"4,3\", numbers a "
                                             "sample=5; dims must begin with that number");
  kd_assert_error (error, KD_ERROR_SHAPE, "sample=5");
  fail_if (model_new ("mlp dims=5,", 2, dims, &error));
  kd_assert_error (error, KD_ERROR_RANGE, "arch=mlp, dims=\"5,\", item=\"\"");
  fail_if (model_new ("mlp dims=5,99999999999", 2, dims, &error));
  kd_assert_error (error, KD_ERROR_RANGE, "item=\"99999999999\"");
}
GST_END_TEST;

static Suite *
mlp_suite (void)
{
  Suite *suite = suite_create ("mlp");
  TCase *tests = tcase_create ("mlp");

  suite_add_tcase (suite, tests);
  tcase_add_loop_test (tests, test_by_hand, 0, 4);
  tcase_add_test (tests, test_limits);
  tcase_add_test (tests, test_refusal);
  return suite;
}

GST_CHECK_MAIN (mlp);
