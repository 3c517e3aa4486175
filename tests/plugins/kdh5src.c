/* kdh5src: rows in order and shuffled, what is chosen of them, and files it refuses. */
#include "kd-graph.h"

static gchar *folder, *path, *out;

/* Ten samples: x = 10 id + column, ids from 100. */
static void
make_data (void)
{
  gint64 n = 10, dims[] = { 10, 2 };
  KdTensor *tensors[] = { kd_tensor_new (KD_INT64, 1, &n), kd_tensor_new (KD_FLOAT32, 2, dims) };
  const gchar *names[] = { "sample.id", "x" };

  folder = kd_test_folder ();
  path = g_build_filename (folder, "d.h5", NULL);
  out = g_build_filename (folder, "o.h5", NULL);
  for (gint64 i = 0; i < n; i++) {
    ((gint64 *) tensors[0]->data)[i] = 100 + i;
    for (gint64 c = 0; c < 2; c++)
      ((gfloat *) tensors[1]->data)[2 * i + c] = (gfloat) (10 * i + c);
  }
  kd_test_write (path, 2, names, tensors);
  kd_tensor_unref (tensors[0]);
  kd_tensor_unref (tensors[1]);
}

static void
remove_data (void)
{
  kd_test_remove (folder);
  g_clear_pointer (&folder, g_free);
  g_clear_pointer (&path, g_free);
  g_clear_pointer (&out, g_free);
}

/* (transfer full) ids that `kdh5src PROPERTIES` gives out, as text. */
static gchar *
ids_of (const gchar *properties)
{
  g_autofree gchar *graph = g_strdup_printf ("kdh5src location=%s %s ! kdh5sink location=%s", path, properties, out);
  g_autofree gchar *error_text = kd_test_run (graph, NULL);
  g_autoptr (KdH5Reader) reader = NULL;
  g_autoptr (KdTensor) ids = NULL, x = NULL;
  GString *text = g_string_new (NULL);
  GError *error = NULL;

  ck_assert_str_eq (error_text, "");
  reader = kd_h5_reader_open (out, NULL, &error);
  kd_assert_no_error (error);
  ids = kd_h5_reader_read_all (reader, "sample.id", &error);
  x = kd_h5_reader_read_all (reader, "x", &error);
  for (gint64 i = 0; i < ids->dims[0]; i++) {
    gint64 id = ((gint64 *) ids->data)[i];
    g_string_append_printf (text, "%s%d", i ? " " : "", (gint) id);
    ck_assert (!x || ((gfloat *) x->data)[2 * i + 1] == (gfloat) (10 * (id - 100) + 1));
  }
  return g_string_free (text, FALSE);
}

GST_START_TEST (test_order_range_shard)
{
  g_autofree gchar *all = ids_of ("batch-size=3"), *range = ids_of ("first=2 count=3"), *shard = ids_of ("shard-index=1 shard-count=4");
  g_autofree gchar *drop = ids_of ("batch-size=4 drop-last=true"), *twice = ids_of ("count=2 epochs=2");

  ck_assert_str_eq (all, "100 101 102 103 104 105 106 107 108 109");
  ck_assert_str_eq (range, "102 103 104");
  ck_assert_str_eq (shard, "101 105 109");
  ck_assert_str_eq (drop, "100 101 102 103 104 105 106 107");
  ck_assert_str_eq (twice, "100 101 100 101");
}
GST_END_TEST;

/* Of ten rows in chunks of @chunk: no more than @window chunks are begun and not ended at any time; each id once. */
static void
check_windows (const gchar *ids, gint64 chunk, guint window)
{
  g_auto (GStrv) words = g_strsplit (ids, " ", -1);
  guint n_of[10] = { 0 }, n_open = 0;
  gboolean seen[10] = { FALSE };
  gint64 wanted = 0, n = 0;

  ck_assert_uint_eq (g_strv_length (words), 10);
  for (guint i = 0; i < 10; i++) {
    gint64 row = g_ascii_strtoll (words[i], NULL, 10) - 100, at = row / chunk;
    ck_assert (row >= 0 && row < 10 && !seen[row]);
    seen[row] = TRUE;
    if (n_of[at]++ == 0) {
      wanted += MIN (chunk, 10 - at * chunk);
      n_open++;
    }
    ck_assert_msg (n_open <= window, "%s: %u chunks of %d", ids, n_open, (gint) chunk);
    if (++n == wanted && n_open == window) /* all rows of the window's chunks are out */
      n_open = 0, n = wanted = 0;
  }
}

/* Two levels: every row once, each window of 2 chunks holds the rows of 2 chunks, whatever the batch size; another order each epoch and seed. The
 * last chunk has 1 of 3 rows. */
GST_START_TEST (test_shuffle_in_chunks)
{
  static const gchar *const sources[] = { "shuffle=true seed=1 shuffle-chunk=3 shuffle-window=2 batch-size=4", "shuffle=true seed=1 shuffle-chunk=3 shuffle-window=2 batch-size=7" };
  g_autofree gchar *a = ids_of (sources[0]), *b = ids_of (sources[1]), *c = ids_of ("shuffle=true seed=2 shuffle-chunk=3 shuffle-window=2"),
                   *one = ids_of ("shuffle=true seed=1 shuffle-chunk=1000"), *plain = ids_of ("");

  ck_assert_str_eq (a, b);
  ck_assert_str_ne (a, c);
  ck_assert_str_ne (a, plain);
  ck_assert_str_ne (one, plain);
  check_windows (a, 3, 2);
  check_windows (c, 3, 2);
  check_windows (one, 1000, 16);
}
GST_END_TEST;

GST_START_TEST (test_shuffle)
{
  g_autofree gchar *a = ids_of ("shuffle=true seed=1 batch-size=3"), *b = ids_of ("shuffle=true seed=1 batch-size=7"),
                   *c = ids_of ("shuffle=true seed=2"), *plain = ids_of ("");

  ck_assert_str_eq (a, b); /* the batch size changes nothing */
  ck_assert_str_ne (a, c);
  ck_assert_str_ne (a, plain);
  for (gint id = 100; id < 110; id++) {
    g_autofree gchar *text = g_strdup_printf ("%d", id);
    ck_assert (strstr (a, text) != NULL);
  }
}
GST_END_TEST;

GST_START_TEST (test_fields)
{
  g_autofree gchar *graph = g_strdup_printf ("kdh5src location=%s fields=x ! kdh5sink location=%s", path, out);
  g_autofree gchar *error_text = kd_test_run (graph, NULL);
  g_autoptr (KdH5Reader) reader = kd_h5_reader_open (out, NULL, NULL);
  g_autofree gchar *layout = kd_layout_to_string (kd_h5_reader_layout (reader));

  ck_assert_str_eq (error_text, "");
  ck_assert_str_eq (layout, "sample.id=int64 x=float32:2"); /* the ids go along: caches join on them */
}
GST_END_TEST;

static const struct {
  const gchar *properties, *message;
} bad[] = {
  { "location=nowhere.h5", "path=\"nowhere.h5\", reason=No such file" },
  { "", "property=location" },
  { "location=%s fields=y", "field=y, fields=\"sample.id x\"" },
  { "location=%s first=11", "first=11, count=0, rows=10" },
  { "location=%s first=5 count=6", "first=5, count=6, rows=10" },
  { "location=%s shard-index=2 shard-count=2", "shard-index=2, shard-count=2" },
};

GST_START_TEST (test_refuses)
{
  gchar **halves = g_strsplit (bad[__i__].properties, "%s", 2);
  g_autofree gchar *properties = g_strjoinv (path, halves);
  g_autofree gchar *graph = g_strdup_printf ("kdh5src %s ! kdh5sink location=%s", properties, out);
  guint n_errors = 0;
  g_autofree gchar *error_text = kd_test_run (graph, &n_errors);

  ck_assert_msg (strstr (error_text, bad[__i__].message) != NULL, "%s", error_text);
  ck_assert_uint_eq (n_errors, 1);
  ck_assert (!g_file_test (out, G_FILE_TEST_EXISTS));
  g_strfreev (halves);
}
GST_END_TEST;

static Suite *
kdh5src_suite (void)
{
  Suite *s = suite_create (KD_TEST_NAME);
  TCase *t = tcase_create ("kdh5src");

  tcase_add_checked_fixture (t, make_data, remove_data);
  tcase_add_test (t, test_order_range_shard);
  tcase_add_test (t, test_shuffle);
  tcase_add_test (t, test_shuffle_in_chunks);
  tcase_add_test (t, test_fields);
  tcase_add_loop_test (t, test_refuses, 0, G_N_ELEMENTS (bad));
  suite_add_tcase (s, t);
  return s;
}

GST_CHECK_MAIN (kdh5src)
