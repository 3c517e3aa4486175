/* Models: building from a specification, gradients into the parameters, weights, taps, refusals. */
#include "kd-check.h"
#include <glib/gstdio.h>
#include <string.h>

#define ROWS 6
#define IN 8
#define OUT 3

static KdModel *
model_new (const gchar *arch, guint64 seed)
{
  const gint64 dims[] = { 0, IN };
  GError *error = NULL;
  KdModel *model = kd_model_new (NULL, arch, NULL, NULL, seed, KD_FLOAT32, 2, dims, &error);

  kd_assert_no_error (error);
  return model;
}

static KdTensor *
normal_tensor (guint rank, const gint64 *dims, guint64 seed)
{
  KdTensor *tensor = kd_tensor_new (KD_FLOAT32, rank, dims);
  KdRandom random;

  kd_random_init (&random, seed, 0, 0, 0);
  for (gsize i = 0; i < kd_tensor_n_elements (tensor); i++)
    ((gfloat *) tensor->data)[i] = (gfloat) kd_random_normal (&random);
  return tensor;
}
#define DIMS(...)                                                     \
  G_N_ELEMENTS (((const gint64[]) { __VA_ARGS__ })), (const gint64[]) \
  {                                                                   \
    __VA_ARGS__                                                       \
  }

static KdTensor *
logits_of (KdModel *model, KdTensor *input, gboolean training, guint64 seed)
{
  KdVar *in, *out;
  GError *error = NULL;
  KdTensor *logits;
  KdRandom random;
  KdForward *forward;

  kd_random_init (&random, seed, 0, 0, 0);
  forward = kd_model_forward (model, input, FALSE, FALSE, training, &random, &in, &out, &error);
  kd_assert_no_error (error);
  logits = kd_forward_tensor (forward, out, &error);
  kd_assert_no_error (error);
  kd_forward_free (forward);
  return logits;
}

/* Runs forward and backward with gradient @grad of the logits; gradients of parameters add up in the model. */
static KdTensor *
backward_of (KdModel *model, KdTensor *input, KdTensor *grad)
{
  KdVar *in, *out;
  GError *error = NULL;
  g_autoptr (KdForward) forward = kd_model_forward (model, input, TRUE, TRUE, FALSE, NULL, &in, &out, &error);

  kd_assert_no_error (error);
  fail_unless (kd_forward_backward (forward, 1, &out, &grad, &error));
  return kd_forward_grad (forward, in, &error);
}

static gdouble
dot (const KdTensor *a, const KdTensor *b)
{
  gdouble sum = 0;

  for (gsize i = 0; i < kd_tensor_n_elements (a); i++)
    sum += kd_tensor_get_double (a, i) * kd_tensor_get_double (b, i);
  return sum;
}

GST_START_TEST (test_build)
{
  g_autoptr (KdModel) model = model_new ("mlp dims=8,5,3 activation=tanh", 1), same = model_new ("mlp activation=tanh dims=8,5,3 dropout=0", 1),
                      other = model_new ("mlp dims=8,5,3 activation=tanh", 2), relu = model_new ("mlp dims=8,5,3", 1);
  g_autofree gchar *a = kd_model_fingerprint (model), *b = kd_model_fingerprint (same), *c = kd_model_fingerprint (other),
                   *d = kd_model_fingerprint (relu);
  gint64 dims[KD_MAX_RANK];

  fail_unless_equals_int (kd_model_output_shape (model, dims), 2);
  fail_unless (dims[0] == KD_DIM_ANY && dims[1] == OUT);
  fail_unless_equals_int (kd_model_tap_shape (model, "layer1", dims, NULL), 2);
  fail_unless (dims[0] == KD_DIM_ANY && dims[1] == 5);
  fail_unless_equals_int (kd_param_set_n_trainable (kd_model_params (model)), 8 * 5 + 5 + 5 * 3 + 3);
  fail_unless_equals_string (kd_param_set_nth (kd_model_params (model), 0)->name, "layer1.weight");
  fail_unless_equals_string (a, b); /* order and defaults of keys do not matter */
  fail_if (g_str_equal (a, c));     /* the numbers do */
  fail_if (g_str_equal (a, d));     /* and what is computed with them */
}
GST_END_TEST;

/* Backward against central differences of the float32 forward pass, for parameters and input. */
GST_START_TEST (test_gradient)
{
  static const gchar *const archs[] = { "mlp dims=8,5,3 activation=tanh", "mlp dims=8,6,4,3 activation=gelu", "mlp dims=8,3" };
  g_autoptr (KdModel) model = model_new (archs[__i__], 1);
  g_autoptr (KdTensor) x = normal_tensor (DIMS (ROWS, IN), 1), r = normal_tensor (DIMS (ROWS, OUT), 2), gx = backward_of (model, x, r);
  KdParamSet *params = kd_model_params (model);
  const gfloat step = 0.01f;

  for (guint p = 0; p <= kd_param_set_n (params); p++) {
    gboolean is_input = p == kd_param_set_n (params);
    gfloat *values = is_input ? x->data : kd_param_set_values (params, p);
    const gfloat *grads = is_input ? gx->data : kd_param_set_grads (params, p);
    for (gsize i = 0; i < (is_input ? ROWS * IN : kd_param_set_nth (params, p)->n); i++) {
      gfloat old = values[i];
      g_autoptr (KdTensor) up = NULL, down = NULL;
      values[i] = old + step;
      up = logits_of (model, x, FALSE, 0);
      values[i] = old - step;
      down = logits_of (model, x, FALSE, 0);
      values[i] = old;
      kd_assert_close ((dot (up, r) - dot (down, r)) / (2 * step), grads[i], 2e-3);
    }
  }
}
GST_END_TEST;

/* Twice backward gives twice the gradient, and it stands in the set's own memory. */
GST_START_TEST (test_gradients_add_up)
{
  g_autoptr (KdModel) model = model_new ("mlp dims=8,5,3", 1);
  g_autoptr (KdTensor) x = normal_tensor (DIMS (ROWS, IN), 1), r = normal_tensor (DIMS (ROWS, OUT), 2);
  KdParamSet *params = kd_model_params (model);
  gsize n;
  gfloat *flat = kd_param_set_flat_grads (params, &n);
  g_autofree gfloat *once = NULL;

  kd_tensor_unref (backward_of (model, x, r));
  once = g_memdup2 (flat, n * sizeof *flat);
  fail_unless (kd_param_set_grad_norm2 (params) > 1.0);
  kd_tensor_unref (backward_of (model, x, r));
  for (gsize i = 0; i < n; i++)
    kd_assert_close (flat[i], 2 * once[i], 1e-6);
  kd_param_set_zero_grads (params);
  fail_unless (kd_param_set_grad_norm2 (params) == 0.0);
}
GST_END_TEST;

/* The squared distance to the logits of another network of the same kind goes down, and the same way each time. */
static gdouble
train (guint n_steps)
{
  g_autoptr (KdModel) teacher = model_new ("mlp dims=8,5,3", 9), student = model_new ("mlp dims=8,5,3 dropout=0.1", 1);
  g_autoptr (KdTensor) x = normal_tensor (DIMS (64, IN), 1), wanted = logits_of (teacher, x, FALSE, 0), last = NULL;
  KdStep step = { .optimizer = KD_OPTIMIZER_ADAMW, .learning_rate = 0.02, .beta1 = 0.9, .beta2 = 0.999, .epsilon = 1e-8, .grad_scale = 1 };
  gdouble loss = 0;

  for (step.step = 1; step.step <= n_steps; step.step++) {
    KdVar *in, *out;
    KdRandom random;
    g_autoptr (KdForward) forward = NULL;
    g_autoptr (KdTensor) logits = NULL, grad = kd_tensor_new (KD_FLOAT32, wanted->rank, wanted->dims);
    kd_random_init (&random, 1, 2, 0, step.step);
    forward = kd_model_forward (student, x, TRUE, FALSE, TRUE, &random, &in, &out, NULL);
    logits = kd_forward_tensor (forward, out, NULL);
    for (gsize i = 0; i < kd_tensor_n_elements (logits); i++)
      ((gfloat *) grad->data)[i] = (gfloat) ((kd_tensor_get_double (logits, i) - kd_tensor_get_double (wanted, i)) / 64);
    fail_unless (kd_forward_backward (forward, 1, &out, &grad, NULL));
    kd_param_set_step (kd_model_params (student), &step);
  }
  last = logits_of (student, x, FALSE, 0);
  for (gsize i = 0; i < kd_tensor_n_elements (last); i++)
    loss += pow (kd_tensor_get_double (last, i) - kd_tensor_get_double (wanted, i), 2) / 128;
  return loss;
}

GST_START_TEST (test_training)
{
  gdouble before = train (0), after = train (300), again = train (300);

  fail_unless (after < before / 20, "loss %g before, %g after", before, after);
  fail_unless (after == again);
}
GST_END_TEST;

GST_START_TEST (test_dropout)
{
  g_autoptr (KdModel) model = model_new ("mlp dims=8,400,3 dropout=0.5", 1);
  g_autoptr (KdTensor) x = normal_tensor (DIMS (ROWS, IN), 1), quiet = logits_of (model, x, FALSE, 1), a = logits_of (model, x, TRUE, 1),
                       b = logits_of (model, x, TRUE, 1), c = logits_of (model, x, TRUE, 2);
  KdVar *in, *out;
  GError *error = NULL;

  fail_unless (kd_tensor_equal (a, b));
  fail_if (kd_tensor_equal (a, c));
  fail_if (kd_tensor_equal (a, quiet));
  fail_if (kd_model_forward (model, x, FALSE, FALSE, TRUE, NULL, &in, &out, &error));
  kd_assert_error (error, KD_ERROR_VALUE, "p=0.5, random stream=missing");
}
GST_END_TEST;

GST_START_TEST (test_input_types)
{
  g_autoptr (KdModel) model = model_new ("mlp dims=8,3", 1);
  g_autoptr (KdTensor) bytes = kd_tensor_new (KD_UINT8, DIMS (2, IN)), floats = kd_tensor_new (KD_FLOAT32, DIMS (2, IN)), half = NULL,
                       text = kd_tensor_new_utf8 (1, (const gint64[]) { 0, 1 }, "x"), a = NULL, b = NULL, c = NULL, wide = normal_tensor (DIMS (2, IN + 1), 1);
  KdVar *in, *out;
  GError *error = NULL;

  for (gint i = 0; i < 2 * IN; i++) {
    ((guint8 *) bytes->data)[i] = (guint8) (i * 17);
    ((gfloat *) floats->data)[i] = (gfloat) (i * 17) / 255.0f;
  }
  half = kd_tensor_cast (floats, KD_FLOAT16, NULL);
  a = logits_of (model, bytes, FALSE, 0);
  b = logits_of (model, floats, FALSE, 0);
  c = logits_of (model, half, FALSE, 0);
  fail_unless (kd_tensor_equal (a, b)); /* bytes are 0..1 */
  for (gint i = 0; i < 2 * OUT; i++)
    kd_assert_close (kd_tensor_get_double (b, (gsize) i), kd_tensor_get_double (c, (gsize) i), 2e-3);
  fail_if (kd_model_forward (model, wide, FALSE, FALSE, FALSE, NULL, &in, &out, &error));
  kd_assert_error (error, KD_ERROR_SHAPE, "Shapes differ: input=[2,9], the model was built for samples of [8]");
  fail_if (kd_model_forward (model, text, FALSE, FALSE, FALSE, NULL, &in, &out, &error));
  kd_assert_error (error, KD_ERROR_SHAPE, "input=[1]");
}
GST_END_TEST;

GST_START_TEST (test_weights)
{
  const gint64 dims[] = { 0, IN };
  g_autoptr (KdModel) model = model_new ("mlp dims=8,5,3", 1), loaded = NULL, dropped = NULL;
  g_autofree gchar *folder = g_dir_make_tmp ("kd-model-XXXXXX", NULL), *path = g_build_filename (folder, "w.safetensors", NULL);
  const gchar *const metadata[] = { "kd.arch", "mlp dims=8,5,3", NULL };
  g_autofree gchar *a = kd_model_fingerprint (model), *b = NULL;
  GError *error = NULL;

  fail_unless (kd_param_set_save (kd_model_params (model), path, metadata, &error));
  loaded = kd_model_new (NULL, "mlp dims=8,5,3", NULL, path, 77, KD_FLOAT32, 2, dims, &error);
  kd_assert_no_error (error);
  b = kd_model_fingerprint (loaded);
  fail_unless_equals_string (a, b);
  dropped = kd_model_new (NULL, "mlp dims=8,5,3 dropout=0.2", NULL, path, 77, KD_FLOAT32, 2, dims, &error); /* computes the same */
  kd_assert_no_error (error);
  fail_if (kd_model_new (NULL, "mlp dims=8,5,3 activation=silu", NULL, path, 1, KD_FLOAT32, 2, dims, &error));
  kd_assert_error (error, KD_ERROR_MISMATCH, "model's arch=\"mlp dims=8,5,3 activation=silu");
  fail_unless (kd_param_set_save (kd_model_params (model), path, NULL, &error));
  fail_if (kd_model_new (NULL, "mlp dims=8,6,3", NULL, path, 1, KD_FLOAT32, 2, dims, &error));
  kd_assert_error (error, KD_ERROR_MISMATCH, "parameter=\"layer1.weight\", file=[5,8], model=[6,8]");
  fail_if (kd_model_new (NULL, "mlp dims=8,5,3", NULL, "/nowhere", 1, KD_FLOAT32, 2, dims, &error));
  kd_assert_error (error, KD_ERROR_IO, "path=\"/nowhere\"");
  g_unlink (path);
  g_rmdir (folder);
}
GST_END_TEST;

static const struct {
  const gchar *arch, *script;
  KdError code;
  const gchar *part;
} refusals[] = {
  { NULL, NULL, KD_ERROR_VALUE, "give one of the two" },
  { "mlp", "m.pt", KD_ERROR_VALUE, "give one of the two" },
  { "", NULL, KD_ERROR_FORMAT, "empty" },
  { "brain dims=8,3", NULL, KD_ERROR_ENGINE, "arch=\"brain\", there are=\"cnn" },
  { "mlp width=8", NULL, KD_ERROR_FORMAT, "arch=mlp, key=width, value=\"8\", keys there are=\"dims activation dropout" },
  { "mlp dims=8,x,3", NULL, KD_ERROR_RANGE, "arch=mlp, dims=\"8,x,3\", item=\"x\"" },
  { "mlp dims=8,0,3", NULL, KD_ERROR_RANGE, "item=\"0\"" },
  { "mlp dims=8", NULL, KD_ERROR_RANGE, "give at least input,output" },
  { "mlp dims=8,3 activation=step", NULL, KD_ERROR_FORMAT, "activation=\"step\", wanted=relu | tanh" },
  { "mlp dims=8,3 dropout=1.5", NULL, KD_ERROR_RANGE, "dropout=1.5" },
  { "mlp dims=9,3", NULL, KD_ERROR_SHAPE, "arch=\"mlp dims=9,3\": Input does not fit: arch=mlp, dims=\"9,3\", numbers a sample=8" },
  { "cnn", NULL, KD_ERROR_SHAPE, "axes a sample=1" },
  { NULL, "/nowhere/m.pt", KD_ERROR_IO, "path=\"/nowhere/m.pt\"" },
};

GST_START_TEST (test_refusal)
{
  const gint64 dims[] = { 0, IN };
  GError *error = NULL;

  fail_if (kd_model_new (NULL, refusals[__i__].arch, refusals[__i__].script, NULL, 1, KD_FLOAT32, 2, dims, &error));
  kd_assert_error (error, refusals[__i__].code, refusals[__i__].part);
}
GST_END_TEST;

GST_START_TEST (test_other_refusals)
{
  const gint64 any[] = { 0, KD_DIM_ANY };
  g_autoptr (KdModel) model = model_new ("mlp dims=8,5,3", 1);
  gint64 dims[KD_MAX_RANK];
  GError *error = NULL;

  fail_if (kd_model_new (NULL, "mlp dims=8,3", NULL, NULL, 1, KD_FLOAT32, 2, any, &error));
  kd_assert_error (error, KD_ERROR_SHAPE, "fixed size");
  fail_if (kd_model_new (NULL, "mlp dims=8,3", NULL, NULL, 1, KD_UTF8, 2, any, &error));
  kd_assert_error (error, KD_ERROR_SHAPE, "dtype=utf8");
  fail_if (kd_model_new ("abacus", "mlp dims=8,3", NULL, NULL, 1, KD_FLOAT32, 2, any, &error));
  kd_assert_error (error, KD_ERROR_ENGINE, "name=abacus");
  fail_unless_equals_int (kd_model_tap_shape (model, "layer9", dims, &error), 0);
  kd_assert_error (error, KD_ERROR_FIELD, "layer=layer9, layers there are=\"layer1 layer2\"");
}
GST_END_TEST;

/* Elements may share a model, and GStreamer runs each branch in its own thread. */
static gpointer
run_many (gpointer model)
{
  g_autoptr (KdTensor) x = normal_tensor (DIMS (ROWS, IN), 1), first = logits_of (model, x, FALSE, 0);

  for (guint i = 0; i < 200; i++) {
    g_autoptr (KdTensor) y = logits_of (model, x, FALSE, 0);
    if (!kd_tensor_equal (first, y))
      return NULL;
  }
  return g_steal_pointer (&first);
}

GST_START_TEST (test_threads)
{
  g_autoptr (KdModel) model = model_new ("mlp dims=8,5,3", 1);
  GThread *threads[4];
  KdTensor *y[4];

  for (guint i = 0; i < 4; i++)
    threads[i] = g_thread_new (NULL, run_many, model);
  for (guint i = 0; i < 4; i++)
    y[i] = g_thread_join (threads[i]);
  for (guint i = 0; i < 4; i++) {
    fail_unless (y[i] && kd_tensor_equal (y[0], y[i]));
    if (i)
      kd_tensor_unref (y[i]);
  }
  kd_tensor_unref (y[0]);
}
GST_END_TEST;

static Suite *
model_suite (void)
{
  Suite *suite = suite_create ("model");
  TCase *tests = tcase_create ("model");

  kd_engine_get (NULL, NULL); /* each test forks: libtorch is then there already */

  suite_add_tcase (suite, tests);
  tcase_add_test (tests, test_build);
  tcase_add_loop_test (tests, test_gradient, 0, 3);
  tcase_add_test (tests, test_gradients_add_up);
  tcase_add_test (tests, test_training);
  tcase_add_test (tests, test_dropout);
  tcase_add_test (tests, test_input_types);
  tcase_add_test (tests, test_weights);
  tcase_add_loop_test (tests, test_refusal, 0, G_N_ELEMENTS (refusals));
  tcase_add_test (tests, test_other_refusals);
  tcase_add_test (tests, test_threads);
  return suite;
}

GST_CHECK_MAIN (model);
