/* Our files with the Python package safetensors, both ways. Skipped (77) where it is not importable; KD_SAFETENSORS_PYTHON names
 * another interpreter. */
#include "kd-check.h"
#include <string.h>

/* Reads ours, compares with what it must be, and writes float32, float16 and float64 ones. */
static const gchar script[] =
    "import sys, os, numpy as np\n"
    "from safetensors import safe_open\n"
    "from safetensors.numpy import save_file\n"
    "os.chdir(sys.argv[1])\n"
    "with safe_open('ours.safetensors', framework='numpy') as f:\n"
    "    assert f.metadata() == {'kd.arch': 'mlp dims=\"3,2\"', 'note': '\\u00fc'}, f.metadata()\n"
    "    assert sorted(f.keys()) == ['a.weight', 'b', 'empty', 'scalar'], list(f.keys())\n"
    "    assert (f.get_tensor('a.weight') == np.arange(6, dtype=np.float32).reshape(2, 3)).all()\n"
    "    assert (f.get_tensor('b') == [-0.5, 7]).all() and f.get_tensor('scalar') == 3.25\n"
    "    assert f.get_tensor('empty').shape == (0, 4)\n"
    "for dtype in ('float32', 'float16', 'float64'):\n"
    "    save_file({'a.weight': np.full((2, 3), 0.625, dtype), 'b': np.array([1, 2], dtype), 'scalar': np.array(-4, dtype),\n"
    "               'empty': np.zeros((0, 4), dtype)}, dtype + '.safetensors', metadata={'format': 'np'})\n";

static void
fill (KdParamSet *set, const gchar *name, const gfloat *values, gsize n)
{
  memcpy (kd_param_set_values (set, (guint) kd_param_set_find (set, name)), values, n * sizeof *values);
}

static KdParamSet *
make_set (void)
{
  static const gfloat a[] = { 0, 1, 2, 3, 4, 5 }, b[] = { -0.5, 7 }, scalar[] = { 3.25 };
  KdParamSet *set = kd_param_set_new (1);

  kd_param_set_add (set, "a.weight", 2, (const gint64[]) { 2, 3 }, KD_INIT_ZEROS, TRUE, NULL);
  kd_param_set_add (set, "b", 1, (const gint64[]) { 2 }, KD_INIT_ZEROS, TRUE, NULL);
  kd_param_set_add (set, "scalar", 0, NULL, KD_INIT_ZEROS, FALSE, NULL);
  kd_param_set_add (set, "empty", 2, (const gint64[]) { 0, 4 }, KD_INIT_ZEROS, TRUE, NULL);
  kd_param_set_freeze (set);
  fill (set, "a.weight", a, 6);
  fill (set, "b", b, 2);
  fill (set, "scalar", scalar, 1);
  return set;
}

static void
check_theirs (KdParamSet *set, const gchar *folder, const gchar *dtype)
{
  g_autofree gchar *path = g_strdup_printf ("%s/%s.safetensors", folder, dtype);
  g_autoptr (GHashTable) metadata = NULL;
  GError *error = NULL;

  if (!kd_param_set_load (set, path, &error))
    g_error ("%s", error->message);
  for (guint i = 0; i < 6; i++)
    g_assert_cmpfloat (kd_param_set_values (set, 0)[i], ==, 0.625f);
  g_assert_cmpfloat (kd_param_set_values (set, 1)[1], ==, 2);
  g_assert_cmpfloat (kd_param_set_values (set, 2)[0], ==, -4);
  metadata = kd_safetensors_metadata (path, NULL);
  g_assert_cmpstr (g_hash_table_lookup (metadata, "format"), ==, "np");
}

int
main (void)
{
  const gchar *python = g_getenv ("KD_SAFETENSORS_PYTHON"), *argv[] = { python ? python : "python3", "-c", "import safetensors.numpy", NULL, NULL };
  const gchar *const metadata[] = { "kd.arch", "mlp dims=\"3,2\"", "note", "ü", NULL };
  g_autoptr (KdParamSet) set = make_set ();
  g_autofree gchar *folder = g_dir_make_tmp ("kd-st-XXXXXX", NULL), *path = g_build_filename (folder, "ours.safetensors", NULL), *text = NULL,
                   *command = g_strdup_printf ("rm -rf '%s'", folder);
  gint status = -1;

  if (!g_spawn_sync (NULL, (gchar **) argv, NULL, G_SPAWN_SEARCH_PATH | G_SPAWN_STDERR_TO_DEV_NULL, NULL, NULL, NULL, NULL, &status, NULL) || status)
    return 77;
  g_assert_true (kd_param_set_save (set, path, metadata, NULL));
  argv[2] = script;
  argv[3] = folder;
  g_spawn_sync (NULL, (gchar **) argv, NULL, G_SPAWN_SEARCH_PATH, NULL, NULL, NULL, &text, &status, NULL);
  if (status)
    g_error ("Python did not agree: %s", text);
  check_theirs (set, folder, "float32");
  check_theirs (set, folder, "float16");
  check_theirs (set, folder, "float64");
  g_spawn_command_line_sync (command, NULL, NULL, NULL, NULL);
  return 0;
}
