/* Parameters: naming, initial values, optimisers against PyTorch's numbers, state, files good and bad (a table of them makes this long). */
#include "kd-check.h"
#include <dlfcn.h>
#include <glib/gstdio.h>
#include <string.h>
#include <unistd.h>

static const gint64 weight_dims[] = { 2, 2 }, bias_dims[] = { 2 };

static KdParamSet *
small_set (guint64 seed)
{
  KdParamSet *set = kd_param_set_new (seed);

  fail_unless (kd_param_set_add (set, "fc.weight", 2, weight_dims, KD_INIT_KAIMING_UNIFORM, TRUE, NULL));
  fail_unless (kd_param_set_add (set, "norm.running_mean", 1, bias_dims, KD_INIT_ONES, FALSE, NULL));
  fail_unless (kd_param_set_add (set, "fc.bias", 1, bias_dims, KD_INIT_ZEROS, TRUE, NULL));
  kd_param_set_freeze (set);
  return set;
}

static gfloat *
values_of (KdParamSet *set, const gchar *name)
{
  gint i = kd_param_set_find (set, name);

  fail_unless (i >= 0);
  return kd_param_set_values (set, (guint) i);
}

static gfloat *
grads_of (KdParamSet *set, const gchar *name)
{
  return kd_param_set_grads (set, (guint) kd_param_set_find (set, name));
}

/* --- layout and initial values --- */

GST_START_TEST (test_layout)
{
  g_autoptr (KdParamSet) set = small_set (1);
  gsize n;

  fail_unless_equals_int (kd_param_set_n (set), 3);
  fail_unless_equals_int (kd_param_set_n_trainable (set), 6);
  fail_unless_equals_int (kd_param_set_find (set, "nothing"), -1);
  fail_unless (kd_param_set_flat_grads (set, &n) != NULL);
  fail_unless_equals_int (n, 32); /* two trainable tensors, 64 bytes each; the running mean has no gradient */
  for (guint i = 0; i < 3; i++)
    fail_unless_equals_int (GPOINTER_TO_SIZE (kd_param_set_values (set, i)) % 64, 0);
  fail_unless (kd_param_set_grads (set, 1) == NULL);
  fail_unless (kd_param_set_nth (set, 0)->decay && !kd_param_set_nth (set, 2)->decay);
  kd_assert_close (values_of (set, "norm.running_mean")[1], 1.0, 0);
}
GST_END_TEST;

GST_START_TEST (test_initial_values)
{
  g_autoptr (KdParamSet) a = kd_param_set_new (7), b = kd_param_set_new (7), c = kd_param_set_new (8);
  const gint64 dims[] = { 100, 25 }, bias[] = { 100, 25 };
  KdParamSet *sets[] = { a, b, c };
  gdouble low = 1, high = -1, sum2 = 0, bias_high = 0;

  for (guint i = 0; i < 3; i++) {
    if (i == 1) /* another order: the same numbers */
      fail_unless (kd_param_set_add (sets[i], "other", 2, dims, KD_INIT_NORMAL, TRUE, NULL));
    fail_unless (kd_param_set_add (sets[i], "w", 2, dims, KD_INIT_KAIMING_UNIFORM, TRUE, NULL));
    fail_unless (kd_param_set_add (sets[i], "b", 1, bias, KD_INIT_FAN_IN_BIAS, TRUE, NULL));
    if (i != 1)
      fail_unless (kd_param_set_add (sets[i], "other", 2, dims, KD_INIT_NORMAL, TRUE, NULL));
    kd_param_set_freeze (sets[i]);
  }
  fail_unless (memcmp (values_of (a, "w"), values_of (b, "w"), 2500 * sizeof (gfloat)) == 0);
  fail_unless (memcmp (values_of (a, "w"), values_of (c, "w"), 2500 * sizeof (gfloat)) != 0);
  for (guint i = 0; i < 2500; i++) {
    low = MIN (low, values_of (a, "w")[i]);
    high = MAX (high, values_of (a, "w")[i]);
    sum2 += values_of (a, "other")[i] * values_of (a, "other")[i];
  }
  fail_unless (low >= -0.2 && high <= 0.2 && low < -0.19 && high > 0.19); /* 1/sqrt(25) */
  kd_assert_close (sum2 / 2500, 1.0, 0.1);
  for (guint i = 0; i < 100; i++)
    bias_high = MAX (bias_high, fabs (values_of (a, "b")[i]));
  fail_unless (bias_high <= 0.2 && bias_high > 0.15);
}
GST_END_TEST;

GST_START_TEST (test_add_refusals)
{
  g_autoptr (KdParamSet) set = kd_param_set_new (1);
  const gint64 negative[] = { 2, -2 }, huge[] = { G_MAXINT64 / 2, 1024 };
  GError *error = NULL;

  fail_unless (kd_param_set_add (set, "a", 1, bias_dims, KD_INIT_ZEROS, TRUE, NULL));
  fail_if (kd_param_set_add (set, "a", 1, bias_dims, KD_INIT_ZEROS, TRUE, &error));
  kd_assert_error (error, KD_ERROR_FIELD, "one of this name");
  fail_if (kd_param_set_add (set, "b", 2, negative, KD_INIT_ZEROS, TRUE, &error));
  kd_assert_error (error, KD_ERROR_SHAPE, "name=\"b\"");
  fail_if (kd_param_set_add (set, "c", 2, huge, KD_INIT_ZEROS, TRUE, &error));
  kd_assert_error (error, KD_ERROR_SHAPE, "name=\"c\"");
  fail_if (kd_param_set_add (set, "d", KD_MAX_RANK + 1, huge, KD_INIT_ZEROS, TRUE, &error));
  kd_assert_error (error, KD_ERROR_SHAPE, "rank=9");
  kd_param_set_freeze (set);
  fail_if (kd_param_set_add (set, "e", 1, bias_dims, KD_INIT_ZEROS, TRUE, &error));
  kd_assert_error (error, KD_ERROR_FIELD, "built already");
}
GST_END_TEST;

/* --- optimisers: the numbers are torch.optim's (1.13, float32), three steps with gradients times 1, 2, 3, weight decay on the weight
 * only --- */

static const struct {
  KdStep step;
  gfloat after[6];
} torch_says[] = {
  { { .optimizer = KD_OPTIMIZER_SGD, .learning_rate = 0.1 },
      { 0.939999998f, -1.88f, 0.319999993f, 2.75999999f, 0.850000024f, -1.79999995f } },
  { { .optimizer = KD_OPTIMIZER_SGD, .learning_rate = 0.1, .weight_decay = 0.01 },
      { 0.937043011f, -1.87408602f, 0.318621457f, 2.75116897f, 0.850000024f, -1.79999995f } },
  { { .optimizer = KD_OPTIMIZER_SGD, .learning_rate = 0.1, .weight_decay = 0.01, .momentum = 0.9 },
      { 0.899352849f, -1.7987057f, 0.212071359f, 2.60301638f, 1.20099998f, -1.97549999f } },
  { { .optimizer = KD_OPTIMIZER_SGD, .learning_rate = 0.1, .weight_decay = 0.01, .momentum = 0.9, .nesterov = TRUE },
      { 0.846549988f, -1.69309998f, 0.059737768f, 2.39423513f, 1.70590007f, -2.2279501f } },
  { { .optimizer = KD_OPTIMIZER_ADAMW, .learning_rate = 0.01, .beta1 = 0.9, .beta2 = 0.999, .epsilon = 1e-8 },
      { 0.970768154f, -1.97076821f, 0.470768183f, 2.97076821f, 0.279231817f, -1.52923179f } },
  { { .optimizer = KD_OPTIMIZER_ADAMW, .learning_rate = 0.01, .weight_decay = 0.1, .beta1 = 0.8, .beta2 = 0.95, .epsilon = 1e-6 },
      { 0.967471302f, -1.96447408f, 0.468969554f, 2.96147704f, 0.279561728f, -1.52956176f } },
};

GST_START_TEST (test_optimizers)
{
  static const gfloat w0[] = { 1, -2, 0.5, 3 }, b0[] = { 0.25, -1.5 }, wg[] = { 0.1f, -0.2f, 0.3f, 0.4f }, bg[] = { -1, 0.5 };
  KdStep step = torch_says[__i__].step;
  g_autoptr (KdParamSet) set = small_set (1);

  memcpy (values_of (set, "fc.weight"), w0, sizeof w0);
  memcpy (values_of (set, "fc.bias"), b0, sizeof b0);
  step.grad_scale = 0.5; /* and the gradients are twice as large: the scale is applied before all else */
  for (step.step = 1; step.step <= 3; step.step++) {
    for (guint i = 0; i < 4; i++)
      grads_of (set, "fc.weight")[i] = 2.0f * wg[i] * (gfloat) step.step;
    for (guint i = 0; i < 2; i++)
      grads_of (set, "fc.bias")[i] = 2.0f * bg[i] * (gfloat) step.step;
    kd_param_set_step (set, &step);
    kd_assert_close (kd_param_set_grad_norm2 (set), 0.0, 0); /* zeroed in the same pass */
  }
  for (guint i = 0; i < 6; i++)
    kd_assert_close (i < 4 ? values_of (set, "fc.weight")[i] : values_of (set, "fc.bias")[i - 4], torch_says[__i__].after[i], 3e-7);
  kd_assert_close (values_of (set, "norm.running_mean")[0], 1.0, 0); /* a buffer is not trained */
}
GST_END_TEST;

/* One step of a large tensor; the bits of the values and of the norm. */
static gchar *
large_step (gdouble *ret_norm2)
{
  g_autoptr (KdParamSet) set = kd_param_set_new (3);
  const gint64 dims[] = { 300, 1001 };
  KdStep step = { .optimizer = KD_OPTIMIZER_ADAMW, .learning_rate = 0.01, .weight_decay = 0.1, .beta1 = 0.9, .beta2 = 0.999, .epsilon = 1e-8, .grad_scale = 1, .step = 1 };
  KdRandom random;

  kd_param_set_add (set, "w", 2, dims, KD_INIT_KAIMING_UNIFORM, TRUE, NULL);
  kd_param_set_freeze (set);
  kd_random_init (&random, 1, 2, 3, 4);
  for (guint i = 0; i < 300 * 1001; i++)
    grads_of (set, "w")[i] = (gfloat) kd_random_normal (&random);
  *ret_norm2 = kd_param_set_grad_norm2 (set);
  kd_param_set_step (set, &step);
  return kd_param_set_fingerprint (set);
}

GST_START_TEST (test_threads_do_not_matter)
{
  void (*set_threads) (int) = (void (*) (int)) dlsym (RTLD_DEFAULT, "omp_set_num_threads");
  g_autofree gchar *one = NULL, *four = NULL;
  gdouble norm_one, norm_four;

  fail_unless (set_threads != NULL);
  set_threads (1);
  one = large_step (&norm_one);
  set_threads (4);
  four = large_step (&norm_four);
  fail_unless_equals_string (one, four);
  fail_unless (norm_one == norm_four);
  kd_assert_close (norm_one, 300300.0, 0.02);
}
GST_END_TEST;

/* --- state --- */

static GHashTable *
state_new (void)
{
  return g_hash_table_new_full (g_str_hash, g_str_equal, g_free, (GDestroyNotify) kd_tensor_unref);
}

/* Stopping after two steps and going on elsewhere gives the bits of five steps in a row. */
GST_START_TEST (test_state_resumes)
{
  g_autoptr (KdParamSet) straight = small_set (1), stopped = small_set (1), resumed = small_set (2);
  g_autoptr (GHashTable) state = state_new ();
  KdStep step = { .optimizer = KD_OPTIMIZER_ADAMW, .learning_rate = 0.01, .beta1 = 0.9, .beta2 = 0.99, .epsilon = 1e-8, .grad_scale = 1 };
  g_autofree gchar *a = NULL, *b = NULL;

  for (step.step = 1; step.step <= 5; step.step++) {
    KdParamSet *other = step.step <= 2 ? stopped : resumed;
    if (step.step == 3) {
      kd_param_set_get_state (stopped, state);
      fail_unless (kd_param_set_set_state (resumed, state, NULL));
    }
    for (guint i = 0; i < 4; i++)
      grads_of (straight, "fc.weight")[i] = grads_of (other, "fc.weight")[i] = (gfloat) i - 1.5f * (gfloat) step.step;
    kd_param_set_step (straight, &step);
    kd_param_set_step (other, &step);
  }
  a = kd_param_set_fingerprint (straight);
  b = kd_param_set_fingerprint (resumed);
  fail_unless_equals_string (a, b);
  fail_unless_equals_int (g_hash_table_size (state), 3 + 2 + 2);
}
GST_END_TEST;

GST_START_TEST (test_state_refusals)
{
  g_autoptr (KdParamSet) set = small_set (1);
  g_autoptr (GHashTable) state = state_new ();
  g_autofree gchar *before = kd_param_set_fingerprint (set), *after = NULL;
  const gint64 wrong[] = { 3 };
  GError *error = NULL;

  kd_param_set_get_state (set, state);
  for (gint i = 0; i < 4; i++)
    ((gfloat *) ((KdTensor *) g_hash_table_lookup (state, "value.fc.weight"))->data)[i] = 9;
  g_hash_table_insert (state, g_strdup ("value.fc.bias"), kd_tensor_new_zero (KD_FLOAT32, 1, wrong));
  fail_if (kd_param_set_set_state (set, state, &error));
  kd_assert_error (error, KD_ERROR_MISMATCH, "parameter=value.fc.bias");
  g_hash_table_remove (state, "value.fc.bias");
  fail_if (kd_param_set_set_state (set, state, &error));
  kd_assert_error (error, KD_ERROR_MISMATCH, "in the state=2, in the model=3");
  after = kd_param_set_fingerprint (set);
  fail_unless_equals_string (before, after);
}
GST_END_TEST;

/* --- files --- */

static gchar *folder;

static void
set_up (void)
{
  folder = g_dir_make_tmp ("kd-params-XXXXXX", NULL);
}

static void
tear_down (void)
{
  g_autofree gchar *command = g_strdup_printf ("rm -rf '%s'", folder);

  fail_unless (g_spawn_command_line_sync (command, NULL, NULL, NULL, NULL));
  g_clear_pointer (&folder, g_free);
}

GST_START_TEST (test_save_and_load)
{
  g_autoptr (KdParamSet) set = small_set (1), other = small_set (2);
  g_autofree gchar *path = g_build_filename (folder, "w.safetensors", NULL), *a = NULL, *b = NULL;
  const gchar *const metadata[] = { "kd.arch", "mlp dims=\"2,2\"", "note", "ü", NULL };
  g_autoptr (GHashTable) read = NULL;
  g_autoptr (GDir) dir = NULL;
  GError *error = NULL;

  fail_unless (kd_param_set_save (set, path, metadata, &error));
  fail_unless (kd_param_set_save (set, path, metadata, &error)); /* over the old one */
  fail_unless (kd_param_set_load (other, path, &error));
  a = kd_param_set_fingerprint (set);
  b = kd_param_set_fingerprint (other);
  fail_unless_equals_string (a, b);
  read = kd_safetensors_metadata (path, &error);
  fail_unless_equals_string (g_hash_table_lookup (read, "kd.arch"), "mlp dims=\"2,2\"");
  fail_unless_equals_string (g_hash_table_lookup (read, "note"), "ü");
  dir = g_dir_open (folder, 0, NULL);
  fail_unless_equals_string (g_dir_read_name (dir), "w.safetensors"); /* and nothing left over */
  fail_unless (g_dir_read_name (dir) == NULL);
}
GST_END_TEST;

GST_START_TEST (test_save_refusals)
{
  g_autoptr (KdParamSet) set = small_set (1);
  g_autofree gchar *path = g_build_filename (folder, "none", "w.safetensors", NULL);
  GError *error = NULL;

  fail_if (kd_param_set_save (set, path, NULL, &error));
  kd_assert_error (error, KD_ERROR_IO, "No such file or directory");
  fail_if (kd_param_set_save (set, folder, NULL, &error)); /* a folder is no file */
  kd_assert_error (error, KD_ERROR_IO, folder);
}
GST_END_TEST;

static void
write_file (const gchar *path, const gchar *header, guint64 header_bytes, gsize n_data)
{
  g_autoptr (GByteArray) bytes = g_byte_array_new ();
  g_autofree guint8 *zeros = g_malloc0 (MAX (n_data, 1));

  g_byte_array_append (bytes, (const guint8 *) &header_bytes, 8);
  g_byte_array_append (bytes, (const guint8 *) header, (guint) strlen (header));
  g_byte_array_append (bytes, zeros, (guint) n_data);
  fail_unless (g_file_set_contents (path, (const gchar *) bytes->data, (gssize) bytes->len, NULL));
}

#define EIGHT "[[[[[[[["
#define DEEP EIGHT EIGHT EIGHT EIGHT EIGHT EIGHT EIGHT EIGHT /* beside the object, one more than KD_JSON_MAX_DEPTH */
#define W "\"fc.weight\":{\"dtype\":\"F32\",\"shape\":[2,2],\"data_offsets\":[0,16]}"
#define M "\"norm.running_mean\":{\"dtype\":\"F32\",\"shape\":[2],\"data_offsets\":[16,24]}"
#define B "\"fc.bias\":{\"dtype\":\"F32\",\"shape\":[2],\"data_offsets\":[24,32]}"

static const struct {
  const gchar *header;
  gint64 header_bytes; /* 0: the right number */
  gsize n_data;
  KdError code; /* -1: it loads */
  const gchar *part;
} files[] = {
  { "{" W "," M "," B "}", 0, 32, -1, NULL },
  { "{\"__metadata__\":{\"format\":\"pt\"}," B "," M "," W "}", 0, 32, -1, NULL },
  { "{\"fc.weight\":{\"dtype\":\"F16\",\"shape\":[2,2],\"data_offsets\":[0,8]}," M "," B "}", 0, 32, -1, NULL },
  { "{\"fc.weight\":{\"dtype\":\"F64\",\"shape\":[2,2],\"data_offsets\":[0,32]}," M "," B "}", 0, 32, -1, NULL },
  { "", 0, 0, KD_ERROR_FORMAT, "shorter than any header" },
  { "{}{}", G_MAXINT64, 0, KD_ERROR_FORMAT, "in a file of 12" },
  { "{}{}", -1, 0, KD_ERROR_FORMAT, "in a file of 12" },
  { "{}{}", 5, 0, KD_ERROR_FORMAT, "header of 5 bytes" },
  { "[1,2,3]", 0, 0, KD_ERROR_FORMAT, "not a JSON object" },
  { "{\"fc.weight\":", 0, 0, KD_ERROR_FORMAT, "header:" },
  { "{\"a\":" DEEP "1}", 0, 0, KD_ERROR_FORMAT, "nested deeper" },
  { "{\"\xff\xfe\":1}", 0, 0, KD_ERROR_FORMAT, "not UTF-8" },
  { "{" W "," M "}", 0, 32, KD_ERROR_MISMATCH, "parameter=\"fc.bias\" is not in the file" },
  { "{" W "," M "," B ",\"more\":{}}", 0, 32, KD_ERROR_MISMATCH, "tensor=\"more\" is in the file only" },
  { "{\"fc.weight\":{\"dtype\":\"F32\",\"shape\":[4],\"data_offsets\":[0,16]}," M "," B "}", 0, 32, KD_ERROR_MISMATCH, "file=[4], model=[2,2]" },
  { "{" W "," M "," B "}", 0, 31, KD_ERROR_FORMAT, "\"fc.bias\" lies outside" },
  { "{\"fc.weight\":{\"dtype\":\"F32\",\"shape\":[2,2],\"data_offsets\":[16,0]}," M "," B "}", 0, 32, KD_ERROR_FORMAT, "\"fc.weight\" lies" },
  { "{\"fc.weight\":{\"dtype\":\"F32\",\"shape\":[2,2],\"data_offsets\":[0,12]}," M "," B "}", 0, 32, KD_ERROR_FORMAT, "\"fc.weight\" lies" },
  { "{\"fc.weight\":{\"dtype\":\"F32\",\"shape\":[2,2],\"data_offsets\":[-16,0]}," M "," B "}", 0, 32, KD_ERROR_FORMAT, "\"fc.weight\" lies" },
  { "{\"fc.weight\":{\"dtype\":\"F32\",\"shape\":[4611686018427387904,4],\"data_offsets\":[0,16]}," M "," B "}", 0, 32, KD_ERROR_FORMAT, "no shape" },
  { "{\"fc.weight\":{\"dtype\":\"F32\",\"shape\":[2,-2],\"data_offsets\":[0,16]}," M "," B "}", 0, 32, KD_ERROR_FORMAT, "no shape" },
  { "{\"fc.weight\":{\"dtype\":\"F32\",\"shape\":[2.0,2],\"data_offsets\":[0,16]}," M "," B "}", 0, 32, KD_ERROR_FORMAT, "no shape" },
  { "{\"fc.weight\":{\"dtype\":\"I64\",\"shape\":[2,2],\"data_offsets\":[0,32]}," M "," B "}", 0, 32, KD_ERROR_DTYPE, "dtype=I64" },
  { "{\"fc.weight\":{\"shape\":[2,2],\"data_offsets\":[0,16]}," M "," B "}", 0, 32, KD_ERROR_FORMAT, "no dtype" },
  { "{\"fc.weight\":7," M "," B "}", 0, 32, KD_ERROR_FORMAT, "no dtype" },
};

GST_START_TEST (test_files)
{
  g_autoptr (KdParamSet) set = small_set (1);
  g_autofree gchar *path = g_build_filename (folder, "f.safetensors", NULL), *before = kd_param_set_fingerprint (set), *after = NULL;
  guint64 n = files[__i__].header_bytes ? (guint64) files[__i__].header_bytes : strlen (files[__i__].header);
  GError *error = NULL;
  gboolean loaded;

  write_file (path, files[__i__].header, n, files[__i__].n_data);
  loaded = kd_param_set_load (set, path, &error);
  after = kd_param_set_fingerprint (set);
  if ((gint) files[__i__].code == -1) {
    kd_assert_no_error (error);
    fail_unless (loaded && strcmp (before, after) != 0);
    return;
  }
  fail_if (loaded);
  fail_unless (strstr (error->message, path) != NULL);
  kd_assert_error (error, files[__i__].code, files[__i__].part);
  fail_unless_equals_string (before, after);
}
GST_END_TEST;

GST_START_TEST (test_no_file)
{
  g_autoptr (KdParamSet) set = small_set (1);
  GError *error = NULL;

  fail_if (kd_param_set_load (set, "/nowhere/w.safetensors", &error));
  kd_assert_error (error, KD_ERROR_IO, "path=\"/nowhere/w.safetensors\", reason=No such file");
  fail_if (kd_param_set_load (set, folder, &error));
  kd_assert_error (error, KD_ERROR_FORMAT, "not a regular file");
  fail_if (kd_safetensors_metadata ("/nowhere/w.safetensors", &error) != NULL);
  kd_assert_error (error, KD_ERROR_IO, "No such file");
}
GST_END_TEST;

static Suite *
params_suite (void)
{
  Suite *suite = suite_create ("params");
  TCase *memory = tcase_create ("memory"), *disk = tcase_create ("disk");

  suite_add_tcase (suite, memory);
  tcase_add_test (memory, test_layout);
  tcase_add_test (memory, test_initial_values);
  tcase_add_test (memory, test_add_refusals);
  tcase_add_loop_test (memory, test_optimizers, 0, G_N_ELEMENTS (torch_says));
  tcase_add_test (memory, test_threads_do_not_matter);
  tcase_add_test (memory, test_state_resumes);
  tcase_add_test (memory, test_state_refusals);
  suite_add_tcase (suite, disk);
  tcase_add_checked_fixture (disk, set_up, tear_down);
  tcase_add_test (disk, test_save_and_load);
  tcase_add_test (disk, test_save_refusals);
  tcase_add_loop_test (disk, test_files, 0, G_N_ELEMENTS (files));
  tcase_add_test (disk, test_no_file);
  return suite;
}

GST_CHECK_MAIN (params);
