/* Architecture cnn: a value by hand, shapes of the layers, limits, training of its normalisation, refusals. */
#include "kd-check.h"
#include <string.h>

static KdModel *
model_new (const gchar *arch, KdDtype dtype, guint rank, const gint64 *dims)
{
  GError *error = NULL;
  KdModel *model = kd_model_new (NULL, arch, NULL, NULL, 1, dtype, rank, dims, &error);

  kd_assert_no_error (error);
  return model;
}

static void
fill (KdModel *model, const gchar *name, gfloat value)
{
  gint i = kd_param_set_find (kd_model_params (model), name);

  fail_unless (i >= 0, "%s", name);
  for (gsize k = 0; k < kd_param_set_nth (kd_model_params (model), (guint) i)->n; k++)
    kd_param_set_values (kd_model_params (model), (guint) i)[k] = value;
}

/* On a picture of one pixel only the middle of a 3x3 kernel counts. All weights 1, the normalisation's variance 1: each
 * convolution multiplies by c = 1/sqrt(1 + 1e-5). stem = 3c; block = relu (c c stem + stem); head = 2 block + 0.25. */
GST_START_TEST (test_by_hand)
{
  const gint64 dims[] = { 1, 1, 1, 1 };
  g_autoptr (KdModel) model = model_new ("cnn channels=1 blocks=1 classes=1", KD_FLOAT32, 4, dims);
  g_autoptr (KdTensor) x = kd_tensor_new (KD_FLOAT32, 4, dims), y = NULL;
  g_autoptr (KdForward) forward = NULL;
  KdVar *in, *out;
  gdouble c = 1 / sqrt (1 + 1e-5), stem = 3 * c;

  fill (model, "stem.conv.weight", 1);
  fill (model, "stage1.block1.conv1.weight", 1);
  fill (model, "stage1.block1.conv2.weight", 1);
  fill (model, "head.weight", 2);
  fill (model, "head.bias", 0.25);
  ((gfloat *) x->data)[0] = 3;
  forward = kd_model_forward (model, x, FALSE, FALSE, FALSE, NULL, &in, &out, NULL);
  y = kd_forward_tensor (forward, out, NULL);
  kd_assert_close (kd_tensor_get_double (y, 0), 2 * (c * c * stem + stem) + 0.25, 1e-6);
}
GST_END_TEST;

GST_START_TEST (test_layers)
{
  const gint64 dims[] = { 0, 3, 32, 31 };
  g_autoptr (KdModel) model = model_new ("cnn channels=4,8 blocks=2 classes=7", KD_UINT8, 4, dims);
  gint64 shape[KD_MAX_RANK];

  fail_unless_equals_int (kd_model_output_shape (model, shape), 2);
  fail_unless_equals_int (shape[1], 7);
  fail_unless_equals_int (kd_model_tap_shape (model, "stem", shape, NULL), 4);
  fail_unless (shape[1] == 4 && shape[2] == 32 && shape[3] == 31);
  fail_unless_equals_int (kd_model_tap_shape (model, "stage2", shape, NULL), 4);
  fail_unless (shape[1] == 8 && shape[2] == 16 && shape[3] == 16);
  fail_unless_equals_int (kd_model_tap_shape (model, "pool", shape, NULL), 2);
  fail_unless_equals_int (shape[1], 8);
  fail_unless (kd_param_set_find (kd_model_params (model), "stage2.block1.shortcut.weight") >= 0);
  fail_unless_equals_int (kd_param_set_find (kd_model_params (model), "stage2.block2.shortcut.weight"), -1);
}
GST_END_TEST;

/* Bytes 0..255 and floats 0..1 are one picture. */
GST_START_TEST (test_bytes)
{
  const gint64 dims[] = { 2, 1, 4, 4 };
  g_autoptr (KdModel) model = model_new ("cnn channels=4 classes=3", KD_UINT8, 4, dims);
  g_autoptr (KdTensor) bytes = kd_tensor_new (KD_UINT8, 4, dims), floats = kd_tensor_new (KD_FLOAT32, 4, dims);
  KdTensor *in[] = { bytes, floats }, *y[2];

  for (guint i = 0; i < 32; i++) {
    ((guint8 *) bytes->data)[i] = (guint8) (i * 8);
    ((gfloat *) floats->data)[i] = (gfloat) (i * 8) / 255.0f;
  }
  for (guint i = 0; i < 2; i++) {
    KdVar *input, *out;
    g_autoptr (KdForward) forward = kd_model_forward (model, in[i], FALSE, FALSE, FALSE, NULL, &input, &out, NULL);
    y[i] = kd_forward_tensor (forward, out, NULL);
  }
  fail_unless (kd_tensor_equal (y[0], y[1]));
  kd_tensor_unref (y[0]);
  kd_tensor_unref (y[1]);
}
GST_END_TEST;

/* A training pass moves the running statistics, a validation pass does not. */
GST_START_TEST (test_running_statistics)
{
  const gint64 dims[] = { 4, 1, 6, 6 };
  g_autoptr (KdModel) model = model_new ("cnn channels=2 classes=3", KD_FLOAT32, 4, dims);
  g_autoptr (KdTensor) x = kd_tensor_new (KD_FLOAT32, 4, dims);
  g_autofree gchar *fingerprint = kd_param_set_fingerprint (kd_model_params (model));

  for (gsize i = 0; i < kd_tensor_n_elements (x); i++)
    ((gfloat *) x->data)[i] = (gfloat) sin ((gdouble) i);
  for (guint training = 0; training < 2; training++) {
    KdVar *in, *out;
    g_autoptr (KdForward) forward = kd_model_forward (model, x, training, FALSE, training, NULL, &in, &out, NULL);
    g_autofree gchar *now = kd_param_set_fingerprint (kd_model_params (model));
    fail_unless (forward != NULL);
    fail_unless (g_str_equal (now, fingerprint) == !training);
  }
}
GST_END_TEST;

static const struct {
  const gchar *arch;
  guint rank;
  KdError code;
  const gchar *part;
} refusals[] = {
  { "cnn", 3, KD_ERROR_SHAPE, "Input does not fit: arch=cnn, axes a sample=2; wanted channels, height, width" },
  { "cnn channels=", 4, KD_ERROR_FORMAT, "arch=cnn, channels" },
  { "cnn channels=4,-1", 4, KD_ERROR_RANGE, "arch=cnn, channels=\"4,-1\", item=\"-1\"" },
  { "cnn blocks=0", 4, KD_ERROR_RANGE, "arch=cnn, blocks=0" },
  { "cnn classes=ten", 4, KD_ERROR_FORMAT, "arch=cnn, classes=\"ten\"" },
  { "cnn depth=3", 4, KD_ERROR_FORMAT, "arch=cnn, key=depth, value=\"3\", keys there are=\"channels blocks classes" },
};

GST_START_TEST (test_refusal)
{
  const gint64 dims[] = { 0, 3, 8, 8 };
  GError *error = NULL;

  fail_if (kd_model_new (NULL, refusals[__i__].arch, NULL, NULL, 1, KD_FLOAT32, refusals[__i__].rank, dims, &error));
  kd_assert_error (error, refusals[__i__].code, refusals[__i__].part);
}
GST_END_TEST;

static Suite *
cnn_suite (void)
{
  Suite *suite = suite_create ("cnn");
  TCase *tests = tcase_create ("cnn");

  suite_add_tcase (suite, tests);
  tcase_add_test (tests, test_by_hand);
  tcase_add_test (tests, test_layers);
  tcase_add_test (tests, test_bytes);
  tcase_add_test (tests, test_running_statistics);
  tcase_add_loop_test (tests, test_refusal, 0, G_N_ELEMENTS (refusals));
  return suite;
}

GST_CHECK_MAIN (cnn);
