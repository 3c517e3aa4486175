/* Every case below tests/vectors through the element that it names; none may be skipped. With files that must be refused. */
#include "kd-check.h"
#include <glib/gstdio.h>

static gchar *
here (const gchar *name)
{
  return g_build_filename (g_getenv ("KD_SOURCE_ROOT"), "tests", "vectors", name, NULL);
}

static GHashTable *
aliases (void)
{
  g_autofree gchar *path = here ("aliases");
  g_autoptr (GError) error = NULL;
  GHashTable *table = kd_vector_aliases_load (path, &error);

  kd_assert_no_error (error);
  return table;
}

GST_START_TEST (test_all_cases)
{
  g_autofree gchar *dir = here (NULL);
  g_autoptr (GHashTable) table = aliases ();
  g_autoptr (GError) error = NULL;
  g_autoptr (GPtrArray) paths = kd_vector_find (dir, &error);
  guint n_bad = 0;

  kd_assert_no_error (error);
  ck_assert_uint_gt (paths->len, 0);
  for (guint i = 0; i < paths->len; i++) {
    g_autoptr (KdVectorResult) result = kd_vector_run (g_ptr_array_index (paths, i), table, &error);
    kd_assert_no_error (error);
    if (result->verdict != KD_VECTOR_PASSED) {
      g_printerr ("%s: %s: %s\n", result->path, result->element, result->message);
      n_bad++;
    }
    ck_assert_msg (result->fields->len > 0, "%s compares nothing", result->path);
  }
  ck_assert_msg (n_bad == 0, "%u of %u cases did not pass", n_bad, paths->len);
}
GST_END_TEST

/* A case file made here: kdce on one row of two equal logits, loss ln 2, unless told otherwise. */
static gchar *
make_case (const gchar *element, const gchar *properties, gdouble loss)
{
  g_autofree gchar *path = NULL;
  g_autoptr (GError) error = NULL;
  g_autoptr (KdH5Writer) writer = NULL;
  const gint64 dims[2] = { 1, 2 };
  g_autoptr (KdTensor) logits = kd_tensor_new_zero (KD_FLOAT32, 2, dims), label = kd_tensor_new_zero (KD_INT64, 1, dims);
  g_autoptr (KdTensor) expected = kd_tensor_new_scalar (loss);
  gint fd = g_file_open_tmp ("kd-case-XXXXXX.h5", &path, &error);

  kd_assert_no_error (error);
  g_close (fd, NULL);
  writer = kd_h5_writer_new (path, &error);
  kd_assert_no_error (error);
  kd_h5_writer_write (writer, NULL, "student.logits", logits, &error);
  kd_h5_writer_write (writer, NULL, "label", label, &error);
  kd_h5_writer_write (writer, "expected", "loss", expected, &error);
  kd_h5_writer_set_attribute (writer, "element", element, &error);
  kd_h5_writer_set_attribute (writer, "properties", properties, &error);
  kd_h5_writer_finish (writer, &error);
  kd_assert_no_error (error);
  return g_steal_pointer (&path);
}

static void
expect (const gchar *element, const gchar *properties, gdouble loss, GHashTable *table, KdVectorVerdict verdict, const gchar *message)
{
  g_autofree gchar *path = make_case (element, properties, loss);
  g_autoptr (GError) error = NULL;
  g_autoptr (KdVectorResult) result = kd_vector_run (path, table, &error);

  kd_assert_no_error (error);
  g_unlink (path);
  ck_assert_msg (result->verdict == verdict, "verdict %d: %s", result->verdict, result->message);
  if (message)
    ck_assert_msg (result->message && strstr (result->message, message), "message \"%s\" lacks \"%s\"", result->message, message);
  else
    ck_assert_msg (!result->message, "message \"%s\"", result->message);
}

GST_START_TEST (test_verdicts)
{
  gdouble ln2 = log (2.0);

  expect ("kdce", "{}", ln2, NULL, KD_VECTOR_PASSED, NULL);
  expect ("kdce", "{\"label_smoothing\": 0.5, \"weight\": 2}", 2 * ln2, NULL, KD_VECTOR_PASSED, NULL);
  expect ("kdce", "{\"beta\": 0.5}", ln2, NULL, KD_VECTOR_PASSED, "beta");
  expect ("kdce", "{}", ln2 * (1 + 1e-4), NULL, KD_VECTOR_FAILED, "loss: error");
  expect ("kdce", "{}", NAN, NULL, KD_VECTOR_FAILED, "loss");
  expect ("kdce", "{\"beta\": 0.5}", 1.0, NULL, KD_VECTOR_UNSUPPORTED, "properties beta");
  expect ("kdce", "{\"label-smoothing\": 7}", ln2, NULL, KD_VECTOR_UNSUPPORTED, "label-smoothing");
  expect ("kdce", "{\"reduction\": \"median\"}", ln2, NULL, KD_VECTOR_UNSUPPORTED, "median");
  expect ("kdce", "[1]", ln2, NULL, KD_VECTOR_UNSUPPORTED, "Not a JSON object");
  expect ("kddivergence", "{}", ln2, NULL, KD_VECTOR_FAILED, "teacher.logits");
  expect ("kdnosuchthing", "{}", ln2, NULL, KD_VECTOR_MISSING, "no such element");
  expect ("fakesink", "{}", ln2, NULL, KD_VECTOR_UNSUPPORTED, "without a graph");
}
GST_END_TEST

GST_START_TEST (test_aliases)
{
  g_autoptr (GHashTable) table = g_hash_table_new (g_str_hash, g_str_equal);
  g_autofree gchar *path = NULL;
  g_autoptr (GError) error = NULL;
  gint fd = g_file_open_tmp ("kd-aliases-XXXXXX", &path, &error);

  g_hash_table_insert (table, (gpointer) "kdnll", (gpointer) "kdce weight=2");
  expect ("kdnll", "{}", 2 * log (2.0), table, KD_VECTOR_PASSED, NULL);
  expect ("kdnll", "{}", log (2.0), table, KD_VECTOR_FAILED, "loss");
  g_close (fd, NULL);
  g_file_set_contents (path, "# a remark\n\nkdnll kdce\nlonely\n", -1, NULL);
  ck_assert (!kd_vector_aliases_load (path, &error));
  kd_assert_error (error, KD_ERROR_FORMAT, "line=4");
  g_unlink (path);
  ck_assert (!kd_vector_aliases_load (path, &error));
  g_clear_error (&error);
}
GST_END_TEST

GST_START_TEST (test_bad_files)
{
  g_autoptr (GError) error = NULL;
  g_autofree gchar *path = here ("vectors.c");

  ck_assert (!kd_vector_run (path, NULL, &error));
  kd_assert_error (error, KD_ERROR_FORMAT, "vectors.c");
  ck_assert (!kd_vector_run ("/nonexistent/case.h5", NULL, &error));
  kd_assert_error (error, KD_ERROR_IO, "/nonexistent/case.h5");
  ck_assert (!kd_vector_find ("/nonexistent", &error));
  kd_assert_error (error, KD_ERROR_IO, "/nonexistent");
}
GST_END_TEST

static Suite *
vectors_suite (void)
{
  Suite *s = suite_create ("vectors");
  TCase *t = tcase_create ("all");

  suite_add_tcase (s, t);
  tcase_add_test (t, test_all_cases);
  tcase_add_test (t, test_verdicts);
  tcase_add_test (t, test_aliases);
  tcase_add_test (t, test_bad_files);
  return s;
}

GST_CHECK_MAIN (vectors)
