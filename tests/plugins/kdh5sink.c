/* kdh5sink: what it writes, what it leaves out, and that it leaves nothing behind when it fails. */
#include "kd-graph.h"

static gchar *folder, *path, *out;

static void
make_data (void)
{
  gint64 n = 3;
  KdTensor *tensor = kd_tensor_new (KD_FLOAT32, 1, &n);
  const gchar *name = "x";

  folder = kd_test_folder ();
  path = g_build_filename (folder, "d.h5", NULL);
  out = g_build_filename (folder, "o.h5", NULL);
  for (gint64 i = 0; i < n; i++)
    ((gfloat *) tensor->data)[i] = (gfloat) i + 0.5f;
  kd_test_write (path, 1, &name, &tensor);
  kd_tensor_unref (tensor);
}

static void
remove_data (void)
{
  kd_test_remove (folder);
  g_clear_pointer (&folder, g_free);
  g_clear_pointer (&path, g_free);
  g_clear_pointer (&out, g_free);
}

static guint
n_files (void)
{
  GDir *dir = g_dir_open (folder, 0, NULL);
  guint n = 0;

  while (g_dir_read_name (dir))
    n++;
  g_dir_close (dir);
  return n;
}

GST_START_TEST (test_copies)
{
  g_autofree gchar *graph = g_strdup_printf ("kdh5src location=%s batch-size=2 ! kdh5sink location=%s", path, out);
  g_autofree gchar *error_text = kd_test_run (graph, NULL);
  g_autoptr (KdH5Reader) reader = kd_h5_reader_open (out, NULL, NULL);
  g_autoptr (KdTensor) x = kd_h5_reader_read_all (reader, "x", NULL);
  g_autofree gchar *layout = kd_layout_to_string (kd_h5_reader_layout (reader));

  ck_assert_str_eq (error_text, "");
  ck_assert_str_eq (layout, "sample.id=int64 x=float32");
  ck_assert (((gfloat *) x->data)[2] == 2.5f);
  ck_assert_uint_eq (n_files (), 2);
}
GST_END_TEST;

/* An earlier file stays whole until the new one is. */
GST_START_TEST (test_replaces_at_the_end_only)
{
  g_autofree gchar *bad = g_strdup_printf ("kdh5src location=%s ! kdh5sink location=%s fields=y", path, out);
  g_autofree gchar *good = g_strdup_printf ("kdh5src location=%s ! kdh5sink location=%s fields=x", path, out);
  g_autofree gchar *text = NULL, *first = kd_test_run (good, NULL), *second = kd_test_run (bad, NULL);
  g_autoptr (KdH5Reader) reader = kd_h5_reader_open (out, NULL, NULL);

  ck_assert_str_eq (first, "");
  ck_assert_msg (strstr (second, "field=y, layout=\"sample.id x\"") != NULL, "%s", second);
  ck_assert_int_eq (kd_h5_reader_n_rows (reader), 3);
  ck_assert_uint_eq (n_files (), 2);
}
GST_END_TEST;

static const struct {
  const gchar *properties, *message;
} bad[] = {
  { "", "property=location" },
  { "location=/proc/none/o.h5", "path=\"/proc/none/o.h5\"" },
  { "location=%s fields=x,teacher.logits", "field=teacher.logits" },
};

GST_START_TEST (test_refuses)
{
  gchar **halves = g_strsplit (bad[__i__].properties, "%s", 2);
  g_autofree gchar *properties = g_strjoinv (out, halves);
  g_autofree gchar *graph = g_strdup_printf ("kdh5src location=%s ! kdh5sink %s", path, properties);
  guint n_errors = 0;
  g_autofree gchar *error_text = kd_test_run (graph, &n_errors);

  ck_assert_msg (strstr (error_text, bad[__i__].message) != NULL, "%s", error_text);
  ck_assert_uint_eq (n_errors, 1);
  ck_assert_uint_eq (n_files (), 1);
  g_strfreev (halves);
}
GST_END_TEST;

static Suite *
kdh5sink_suite (void)
{
  Suite *s = suite_create (KD_TEST_NAME);
  TCase *t = tcase_create ("kdh5sink");

  tcase_add_checked_fixture (t, make_data, remove_data);
  tcase_add_test (t, test_copies);
  tcase_add_test (t, test_replaces_at_the_end_only);
  tcase_add_loop_test (t, test_refuses, 0, G_N_ELEMENTS (bad));
  suite_add_tcase (s, t);
  return s;
}

GST_CHECK_MAIN (kdh5sink)
