/* Bad input to whole graphs: one clear error each, with element, field or file, both values and what to do. */
#include "kd-graph.h"

#include <string.h>

static gchar *folder, *digits;

static void
setup (void)
{
  folder = kd_test_folder ();
  digits = kd_test_digits ();
}

static void
teardown (void)
{
  kd_test_remove (folder);
  g_clear_pointer (&folder, g_free);
  g_clear_pointer (&digits, g_free);
}

/* The graph ends with exactly one error that has all the parts. */
static void
expect (const gchar *graph, ...)
{
  guint n_errors = 0;
  g_autofree gchar *message = kd_test_run (graph, &n_errors);
  const gchar *part;
  va_list parts;

  va_start (parts, graph);
  while ((part = va_arg (parts, const gchar *)))
    if (!strstr (message, part))
      ck_abort_msg ("graph: %s\nerror: \"%s\"\nis without: \"%s\"", graph, message, part);
  va_end (parts);
  if (n_errors > 1)
    ck_abort_msg ("graph: %s\nreported %u times", graph, n_errors);
}

static gchar *
in_folder (const gchar *name)
{
  return g_build_filename (folder, name, NULL);
}

static KdTensor *
floats (gint64 n, gint64 c, gfloat value)
{
  gint64 dims[2] = { n, c };
  KdTensor *tensor = kd_tensor_new (KD_FLOAT32, 2, dims);

  for (gint64 i = 0; i < n * c; i++)
    ((gfloat *) tensor->data)[i] = value;
  return tensor;
}

static KdTensor *
ints (gint64 n, gint64 value, gint64 step)
{
  KdTensor *tensor = kd_tensor_new (KD_INT64, 1, &n);

  for (gint64 i = 0; i < n; i++)
    ((gint64 *) tensor->data)[i] = value + i * step;
  return tensor;
}

/* student.logits [4, s], teacher.logits [4, t], label, sample.id from 100. */
static gchar *
logits_file (gint64 s, gint64 t, gint64 label, gfloat bad)
{
  static const gchar *names[] = { "student.logits", "teacher.logits", "label", "sample.id" };
  gchar *path = in_folder ("logits.h5");
  KdTensor *tensors[4] = { floats (4, s, 0.5f), floats (4, t, 0.25f), ints (4, 1, 0), ints (4, 100, 1) };

  ((gint64 *) tensors[2]->data)[2] = label;
  ((gfloat *) tensors[1]->data)[t * 3 + 1] = bad;
  kd_test_write (path, 4, names, tensors);
  for (guint i = 0; i < 4; i++)
    kd_tensor_unref (tensors[i]);
  return path;
}

GST_START_TEST (missing_field)
{
  g_autofree gchar *graph = g_strdup_printf ("kdh5src location=%s ! kddivergence ! kdtrain", digits);

  expect (graph, "Field missing: element=kddivergence0, field=student.logits", "layout=\"input label sample.id\"", "kdstudent", NULL);
}
GST_END_TEST

GST_START_TEST (label_out_of_range)
{
  g_autofree gchar *path = logits_file (3, 3, 7, 0);
  g_autofree gchar *graph = g_strdup_printf ("kdh5src location=%s ! kdce ! fakesink", path);

  expect (graph, "Label out of range: element=kdce0, field=label, sample.id=102, label=7, classes=3", NULL);
}
GST_END_TEST

GST_START_TEST (unequal_vocabularies)
{
  g_autofree gchar *path = logits_file (3, 5, 1, 0);
  g_autofree gchar *graph = g_strdup_printf ("kdh5src location=%s ! kddivergence ! fakesink", path);

  expect (graph, "Shapes differ: element=kddivergence0, field=teacher.logits", "5", "3", NULL);
}
GST_END_TEST

GST_START_TEST (nan_in_logits)
{
  g_autofree gchar *path = logits_file (3, 3, 1, NAN);
  g_autofree gchar *graph = g_strdup_printf ("kdh5src location=%s ! kddivergence ! fakesink", path);
  g_autofree gchar *dropping = g_strdup_printf ("kdh5src location=%s ! kddivergence nan-policy=drop ! fakesink", path);
  g_autofree gchar *message = NULL;

  expect (graph, "Value not finite: element=kddivergence0, field=teacher.logits, sample.id=103", "nan", NULL);
  message = kd_test_run (dropping, NULL);
  ck_assert_str_eq (message, "");
}
GST_END_TEST

GST_START_TEST (stale_cache_of_other_data)
{
  g_autofree gchar *cache = in_folder ("t.h5"), *other = in_folder ("other.h5");
  g_autofree gchar *capture = g_strdup_printf ("kdh5src location=%s ! kdteacher arch=\"mlp dims=64,10\" seed=1 ! kdcachesink location=%s", digits, cache);
  g_autofree gchar *message = kd_test_run (capture, NULL);
  g_autofree gchar *graph = g_strdup_printf ("kdh5src location=%s ! kdcache location=%s ! fakesink", other, cache);
  static const gchar *names[] = { "input", "sample.id" };
  KdTensor *tensors[2] = { floats (4, 64, 1), ints (4, 0, 1) };

  ck_assert_str_eq (message, "");
  kd_test_write (other, 2, names, tensors);
  kd_tensor_unref (tensors[0]);
  kd_tensor_unref (tensors[1]);
  expect (graph, "dataset", cache, NULL);
}
GST_END_TEST

GST_START_TEST (stale_cache_of_other_preprocessing)
{
  g_autofree gchar *cache = in_folder ("t.h5");
  g_autofree gchar *capture = g_strdup_printf ("kdh5src location=%s ! kdteacher arch=\"mlp dims=64,10\" seed=1 ! kdcachesink location=%s", digits, cache);
  g_autofree gchar *message = kd_test_run (capture, NULL);
  g_autofree gchar *graph = g_strdup_printf ("kdh5src location=%s ! kdnoise std=0.1 ! kdcache location=%s ! fakesink", digits, cache);

  ck_assert_str_eq (message, "");
  expect (graph, "preprocessing", "kdnoise", NULL);
}
GST_END_TEST

GST_START_TEST (resumed_capture_of_another_teacher)
{
  g_autofree gchar *cache = in_folder ("t.h5");
  g_autofree gchar *capture = g_strdup_printf ("kdh5src location=%s ! kdteacher arch=\"mlp dims=64,10\" seed=1 ! kdcachesink location=%s", digits, cache);
  g_autofree gchar *message = kd_test_run (capture, NULL);
  g_autofree gchar *graph = g_strdup_printf ("kdh5src location=%s ! kdteacher arch=\"mlp dims=64,10\" seed=2 ! kdcachesink location=%s resume=true", digits, cache);

  ck_assert_str_eq (message, "");
  expect (graph, "teacher", "seed=2", NULL);
}
GST_END_TEST

GST_START_TEST (truncated_file)
{
  g_autofree gchar *path = in_folder ("half.h5");
  g_autofree gchar *graph = g_strdup_printf ("kdh5src location=%s ! fakesink", path);
  g_autofree gchar *bytes = NULL;
  gsize n = 0;

  ck_assert (g_file_get_contents (digits, &bytes, &n, NULL));
  ck_assert (g_file_set_contents (path, bytes, (gssize) n / 2, NULL));
  expect (graph, "half.h5", NULL);
}
GST_END_TEST

GST_START_TEST (unknown_element_and_property)
{
  g_autofree gchar *property = g_strdup_printf ("kdh5src location=%s ! kdce temprature=4 ! fakesink", digits);

  expect ("kdh5src ! kdnosuch ! fakesink", "kdnosuch", NULL);
  expect (property, "temprature", NULL);
}
GST_END_TEST

GST_START_TEST (unreadable_model_files)
{
  g_autofree gchar *path = in_folder ("junk.safetensors");
  g_autofree gchar *junk = g_strdup_printf ("kdh5src location=%s ! kdteacher arch=\"mlp dims=64,10\" weights=%s ! fakesink", digits, path);
  g_autofree gchar *missing = g_strdup_printf ("kdh5src location=%s ! kdteacher model=/nonexistent/t.pt ! fakesink", digits);
  g_autofree gchar *neither = g_strdup_printf ("kdh5src location=%s ! kdteacher ! fakesink", digits);

  ck_assert (g_file_set_contents (path, "not a model", -1, NULL));
  expect (junk, "element=kdteacher", "junk.safetensors", NULL);
  expect (missing, "element=kdteacher", "/nonexistent/t.pt", NULL);
  expect (neither, "Model not named: element=kdteacher", NULL);
}
GST_END_TEST

GST_START_TEST (gradient_nobody_takes)
{
  g_autofree gchar *path = logits_file (3, 3, 1, 0);
  g_autofree gchar *graph = g_strdup_printf ("kdh5src location=%s fields=student.logits,label ! kdce ! kdtrain", path);

  expect (graph, "Gradient nobody takes: element=kdtrain0, field=grad.student.logits", NULL);
}
GST_END_TEST

GST_START_TEST (nothing_learns)
{
  g_autofree gchar *graph = g_strdup_printf ("kdh5src location=%s ! kdstudent arch=\"mlp dims=64,10\" ! kdtrain", digits);

  expect (graph, "Nothing learns: element=kdtrain0", NULL);
}
GST_END_TEST

GST_START_TEST (teacher_nobody_reads)
{
  g_autofree gchar *graph = g_strdup_printf ("kdh5src location=%s ! kdteacher arch=\"mlp dims=64,10\" seed=1 ! kdstudent arch=\"mlp dims=64,10\" ! kdce ! kdtrain",
      digits);

  expect (graph, "Teacher field read by nobody: element=kdtrain0, field=teacher.logits", NULL);
}
GST_END_TEST

GST_START_TEST (queue_behind_the_student)
{
  g_autofree gchar *graph = g_strdup_printf (
      "kdh5src location=%s epochs=20 batch-size=8 ! kdstudent arch=\"mlp dims=64,10\" ! queue ! identity sleep-time=2000 ! kdce ! kdtrain", digits);

  expect (graph, "Gradients would be stale: element=kdstudent0", "max-in-flight=1", NULL);
}
GST_END_TEST

GST_START_TEST (range_outside_the_data)
{
  g_autofree gchar *graph = g_strdup_printf ("kdh5src location=%s first=1000 count=1000 ! fakesink", digits);

  expect (graph, "Range outside the data: element=kdh5src0, first=1000, count=1000, rows=1797", NULL);
}
GST_END_TEST

static Suite *
bad_input_suite (void)
{
  Suite *suite = suite_create ("bad-input");
  TCase *tcase = tcase_create ("graphs");

  suite_add_tcase (suite, tcase);
  tcase_add_checked_fixture (tcase, setup, teardown);
  tcase_add_test (tcase, missing_field);
  tcase_add_test (tcase, label_out_of_range);
  tcase_add_test (tcase, unequal_vocabularies);
  tcase_add_test (tcase, nan_in_logits);
  tcase_add_test (tcase, stale_cache_of_other_data);
  tcase_add_test (tcase, stale_cache_of_other_preprocessing);
  tcase_add_test (tcase, resumed_capture_of_another_teacher);
  tcase_add_test (tcase, truncated_file);
  tcase_add_test (tcase, unknown_element_and_property);
  tcase_add_test (tcase, unreadable_model_files);
  tcase_add_test (tcase, gradient_nobody_takes);
  tcase_add_test (tcase, nothing_learns);
  tcase_add_test (tcase, teacher_nobody_reads);
  tcase_add_test (tcase, queue_behind_the_student);
  tcase_add_test (tcase, range_outside_the_data);
  return suite;
}

GST_CHECK_MAIN (bad_input)
