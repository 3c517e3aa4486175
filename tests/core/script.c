/* TorchScript files made by PyTorch itself: as a frozen teacher, and as a student that our optimiser trains to PyTorch's numbers.
 * Skipped (77) where no python3 with torch is found; KD_TORCH_PYTHON names another interpreter. */
#include "kd-check.h"
#include <string.h>

#define ROWS 16
#define IN 6

static gchar *folder;

/* Writes the modules, an input x, the logits before, the logits after five steps of SGD with momentum on gradients g, and the
 * input's gradient of the first step, all float32. */
static const gchar maker[] =
    "import sys, os, torch\n"
    "os.chdir(sys.argv[1])\n"
    "torch.manual_seed(1)\n"
    "dump = lambda name, t: open(name, 'wb').write(t.detach().contiguous().numpy().tobytes())\n"
    "def net():\n"
    "    return torch.nn.Sequential(torch.nn.Linear(6, 8), torch.nn.BatchNorm1d(8), torch.nn.ReLU(), torch.nn.Linear(8, 3))\n"
    "model = net()\n"
    "with torch.no_grad():\n"
    "    model[1].running_mean.normal_()\n"
    "x = torch.randn(16, 6); g = torch.randn(16, 3) / 16\n"
    "torch.jit.script(model).save('student.pt')\n"
    "model.eval()\n"
    "torch.jit.freeze(torch.jit.script(model)).save('frozen.pt')\n"
    "dump('x', x); dump('g', g); dump('before', model(x))\n"
    "model.train()\n"
    "opt = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)\n"
    "for i in range(5):\n"
    "    xi = x.clone().requires_grad_(True)\n"
    "    opt.zero_grad(); model(xi).backward(g); opt.step()\n"
    "    if i == 0: dump('gx', xi.grad)\n"
    "model.eval(); dump('after', model(x))\n"
    "class Many(torch.nn.Module):\n"
    "    def __init__(self, kind):\n"
    "        super().__init__(); self.fc = torch.nn.Linear(6, 3)\n"
    "class Tuple(Many):\n"
    "    def forward(self, x):\n"
    "        return self.fc(x), x * 2\n"
    "class Dict(Many):\n"
    "    def forward(self, x):\n"
    "        return {'hidden': x * 2, 'logits': self.fc(x)}\n"
    "class Text(Many):\n"
    "    def forward(self, x):\n"
    "        return 'text'\n"
    "class Sum(Many):\n"
    "    def forward(self, x):\n"
    "        return self.fc(x).sum(0)\n"
    "class Tied(Many):\n"
    "    def __init__(self, kind):\n"
    "        super().__init__(kind); self.again = self.fc\n"
    "    def forward(self, x):\n"
    "        return self.fc(x) + self.again(x)\n"
    "for kind in (Tuple, Dict, Text, Sum, Tied):\n"
    "    torch.jit.script(kind(0)).save(kind.__name__.lower() + '.pt')\n"
    "torch.jit.script(Tuple(0).double()).save('double.pt')\n"
    "torch.save(model.state_dict(), 'pickle.pt')\n";

static gchar *
in_folder (const gchar *name)
{
  return g_build_filename (folder, name, NULL);
}

static KdTensor *
read_floats (const gchar *name, gint64 columns)
{
  const gint64 dims[] = { ROWS, columns };
  g_autofree gchar *path = in_folder (name), *bytes = NULL;
  KdTensor *tensor = kd_tensor_new (KD_FLOAT32, 2, dims);
  gsize n;

  fail_unless (g_file_get_contents (path, &bytes, &n, NULL) && n == tensor->n_bytes);
  memcpy (tensor->data, bytes, n);
  return tensor;
}

static KdModel *
open_model (const gchar *name, GError **error)
{
  const gint64 dims[] = { 0, IN };
  g_autofree gchar *path = in_folder (name);

  return kd_model_new (NULL, NULL, path, NULL, 1, KD_FLOAT32, 2, dims, error);
}

static void
check_logits (KdModel *model, const gchar *name)
{
  g_autoptr (KdTensor) x = read_floats ("x", IN), wanted = read_floats (name, 3), got = NULL;
  KdVar *in, *out;
  GError *error = NULL;
  g_autoptr (KdForward) forward = kd_model_forward (model, x, FALSE, FALSE, FALSE, NULL, &in, &out, &error);

  kd_assert_no_error (error);
  got = kd_forward_tensor (forward, out, &error);
  for (gsize i = 0; i < ROWS * 3; i++)
    kd_assert_close (kd_tensor_get_double (got, i), kd_tensor_get_double (wanted, i), 1e-5);
}

GST_START_TEST (test_frozen_teacher)
{
  GError *error = NULL;
  g_autoptr (KdModel) model = open_model ("frozen.pt", &error);
  gint64 dims[KD_MAX_RANK];

  kd_assert_no_error (error);
  fail_unless_equals_int (kd_model_output_shape (model, dims), 2);
  fail_unless_equals_int (dims[1], 3);
  fail_unless_equals_int (kd_param_set_n_trainable (kd_model_params (model)), 0);
  check_logits (model, "before");
}
GST_END_TEST;

GST_START_TEST (test_student)
{
  GError *error = NULL;
  g_autoptr (KdModel) model = open_model ("student.pt", &error);
  g_autoptr (KdTensor) x = read_floats ("x", IN), g = read_floats ("g", 3), gx = read_floats ("gx", IN);
  KdStep step = { .optimizer = KD_OPTIMIZER_SGD, .learning_rate = 0.1, .momentum = 0.9, .grad_scale = 1 };

  kd_assert_no_error (error);
  fail_unless_equals_int (kd_param_set_n_trainable (kd_model_params (model)), 6 * 8 + 8 + 8 + 8 + 8 * 3 + 3);
  fail_unless (kd_param_set_find (kd_model_params (model), "0.weight") >= 0);
  check_logits (model, "before");
  for (step.step = 1; step.step <= 5; step.step++) {
    KdVar *in, *out;
    g_autoptr (KdForward) forward = kd_model_forward (model, x, TRUE, TRUE, TRUE, NULL, &in, &out, &error);
    g_autoptr (KdTensor) grad = NULL;
    kd_assert_no_error (error);
    fail_unless (kd_forward_backward (forward, 1, &out, &g, &error));
    grad = kd_forward_grad (forward, in, &error);
    for (gsize i = 0; step.step == 1 && i < ROWS * IN; i++)
      kd_assert_close (kd_tensor_get_double (grad, i), kd_tensor_get_double (gx, i), 1e-5);
    kd_param_set_step (kd_model_params (model), &step);
  }
  check_logits (model, "after"); /* running statistics too */
}
GST_END_TEST;

/* Weights go through our files, and a second model takes them. */
GST_START_TEST (test_weights)
{
  const gint64 dims[] = { 0, IN };
  GError *error = NULL;
  g_autoptr (KdModel) model = open_model ("student.pt", &error), loaded = NULL;
  g_autofree gchar *weights = in_folder ("w.safetensors"), *path = in_folder ("student.pt"), *a = NULL, *b = NULL, *c = kd_model_fingerprint (model);

  kd_param_set_values (kd_model_params (model), 0)[0] += 1;
  fail_unless (kd_param_set_save (kd_model_params (model), weights, NULL, &error));
  loaded = kd_model_new (NULL, NULL, path, weights, 1, KD_FLOAT32, 2, dims, &error);
  kd_assert_no_error (error);
  a = kd_model_fingerprint (model);
  b = kd_model_fingerprint (loaded);
  fail_unless_equals_string (a, b);
  fail_if (g_str_equal (a, c));
}
GST_END_TEST;

GST_START_TEST (test_outputs)
{
  static const gchar *const names[] = { "tuple.pt", "dict.pt" };
  GError *error = NULL;
  g_autoptr (KdModel) model = open_model (names[__i__], &error);
  g_autoptr (KdTensor) x = read_floats ("x", IN), hidden = NULL;
  g_autoptr (KdForward) forward = NULL;
  gint64 dims[KD_MAX_RANK];
  KdVar *in, *out;

  kd_assert_no_error (error);
  kd_model_output_shape (model, dims);
  fail_unless_equals_int (dims[1], 3);
  fail_unless_equals_int (kd_model_tap_shape (model, "output1", dims, &error), 2);
  fail_unless_equals_int (dims[1], IN);
  forward = kd_model_forward (model, x, FALSE, FALSE, FALSE, NULL, &in, &out, &error);
  hidden = kd_forward_tensor (forward, kd_forward_find_tap (forward, "output1"), &error);
  kd_assert_close (kd_tensor_get_double (hidden, 5), 2 * kd_tensor_get_double (x, 5), 1e-6);
}
GST_END_TEST;

GST_START_TEST (test_tied)
{
  GError *error = NULL;
  g_autoptr (KdModel) model = open_model ("tied.pt", &error);

  kd_assert_no_error (error);
  fail_unless_equals_int (kd_param_set_n_trainable (kd_model_params (model)), 6 * 3 + 3);
}
GST_END_TEST;

static const struct {
  const gchar *name;
  KdError code;
  const gchar *part;
} refusals[] = {
  { "x", KD_ERROR_FORMAT, "save a TorchScript module with torch.jit.script" },
  { "pickle.pt", KD_ERROR_FORMAT, "save a TorchScript module with torch.jit.script" },
  { "none.pt", KD_ERROR_IO, "no such file" },
  { "text.pt", KD_ERROR_UNSUPPORTED, "the module returns String" },
  { "sum.pt", KD_ERROR_SHAPE, "output=logits, samples in=2, shape=[3]" },
  { "double.pt", KD_ERROR_DTYPE, "parameter=\"fc.weight\", type=Double" },
};

GST_START_TEST (test_refusal)
{
  GError *error = NULL;

  fail_if (open_model (refusals[__i__].name, &error));
  fail_unless (strchr (error->message, '\n') == NULL && strstr (error->message, folder) != NULL, "%s", error->message);
  kd_assert_error (error, refusals[__i__].code, refusals[__i__].part);
}
GST_END_TEST;

/* A module that does not take this input: its own words, and no crash. */
GST_START_TEST (test_wrong_input)
{
  const gint64 dims[] = { 0, IN + 1 };
  g_autofree gchar *path = in_folder ("student.pt");
  GError *error = NULL;

  fail_if (kd_model_new (NULL, NULL, path, NULL, 1, KD_FLOAT32, 2, dims, &error));
  fail_unless (strchr (error->message, '\n') == NULL && strstr (error->message, path) != NULL);
  kd_assert_error (error, KD_ERROR_SHAPE, "shapes cannot be multiplied (2x7 and 6x8)");
}
GST_END_TEST;

static Suite *
script_suite (void)
{
  Suite *suite = suite_create ("script");
  TCase *tests = tcase_create ("script");

  kd_engine_get (NULL, NULL); /* each test forks: libtorch is then there already */

  suite_add_tcase (suite, tests);
  tcase_add_test (tests, test_frozen_teacher);
  tcase_add_test (tests, test_student);
  tcase_add_test (tests, test_weights);
  tcase_add_loop_test (tests, test_outputs, 0, 2);
  tcase_add_test (tests, test_tied);
  tcase_add_loop_test (tests, test_refusal, 0, G_N_ELEMENTS (refusals));
  tcase_add_test (tests, test_wrong_input);
  return suite;
}

static gboolean
run_python (const gchar *a, const gchar *b, gchar **ret_text)
{
  const gchar *python = g_getenv ("KD_TORCH_PYTHON"), *argv[] = { python ? python : "/usr/bin/python3", a, b, NULL };
  gint status = -1;

  return g_spawn_sync (NULL, (gchar **) argv, NULL, G_SPAWN_SEARCH_PATH, NULL, NULL, NULL, ret_text, &status, NULL) && status == 0;
}

/* As a file: TorchScript reads its own source. */
static void
make_files (void)
{
  g_autofree gchar *path = in_folder ("make.py"), *text = NULL;

  if (!g_file_set_contents (path, maker, -1, NULL) || !run_python (path, folder, &text))
    g_error ("no TorchScript files: %s", text ? text : folder);
}

int
main (int argc, char **argv)
{
  g_autofree gchar *command = NULL, *text = NULL;
  int failed;

  gst_check_init (&argc, &argv);
  if (!run_python ("-c", "import torch", &text))
    return 77;
  folder = g_dir_make_tmp ("kd-script-XXXXXX", NULL);
  make_files ();
  failed = gst_check_run_suite (script_suite (), "script", __FILE__);
  command = g_strdup_printf ("rm -rf '%s'", folder);
  g_spawn_command_line_sync (command, NULL, NULL, NULL, NULL);
  return failed;
}
