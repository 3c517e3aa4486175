/* Caches that are made side by side: a writer that knows the others' rows, a merge into a cache that has rows of its own, and taking a cache away. */
#include "kd-graph.h"

#include <fcntl.h>
#include <sys/file.h>
#include <unistd.h>

#define WIDTH 4

static gchar *folder;
static const KdCacheCopyOptions plain = { .part_bytes = 4000 }, extend = { .link = TRUE, .extend = TRUE }, unfinished = { .link = TRUE, .extend = TRUE, .unfinished = TRUE };

static void
make_folder (void)
{
  folder = kd_test_folder ();
  g_chdir (folder);
}

static void
remove_folder (void)
{
  g_chdir ("/");
  kd_test_remove (folder);
  g_clear_pointer (&folder, g_free);
}

/* Ids first ... first + n - 1 that the caches in @known have not; returns the rows written. */
static gint64
capture (const gchar *path, gint64 first, gint64 n, gfloat bias, const gchar *encoding, const gchar *const *known, GError **error)
{
  const KdCacheIdentity identity = { (gchar *) "t", NULL, (gchar *) "d", NULL, (gchar *) "" };
  const gchar *name = "teacher.logits";
  gint64 dims[] = { n, WIDTH };
  g_autofree gint64 *ids = g_new (gint64, n);
  g_autoptr (KdTensor) logits = kd_tensor_new (KD_FLOAT32, 2, dims);
  g_autoptr (KdCacheWriter) writer = kd_cache_writer_open (path, TRUE, &identity, 1000, error);

  for (guint i = 0; writer && known && known[i]; i++)
    if (!kd_cache_writer_know (writer, known[i], error))
      return -1;
  for (gint64 i = 0; i < n; i++) {
    ids[i] = first + i;
    for (gint64 c = 0; c < WIDTH; c++)
      ((gfloat *) logits->data)[i * WIDTH + c] = (gfloat) (ids[i] % 50) + (gfloat) c / 7 + bias;
  }
  if (!writer || (encoding && !kd_cache_writer_set_encoding (writer, name, encoding, error)) ||
      !kd_cache_writer_append (writer, n, ids, NULL, 1, &name, &logits, error) || !kd_cache_writer_finish (writer, error))
    return -1;
  return kd_cache_writer_n_committed (writer);
}

static void
expect_capture (const gchar *path, gint64 first, gint64 n, const gchar *encoding, const gchar *const *known, gint64 wanted)
{
  GError *error = NULL;
  gint64 rows = capture (path, first, n, 0, encoding, known, &error);

  kd_assert_no_error (error);
  ck_assert_int_eq (rows, wanted);
}

static void
expect_merge (const gchar *output, const gchar *a, const gchar *b, const KdCacheCopyOptions *options, gint64 n_before, gint64 n_rows)
{
  const gchar *inputs[] = { a, b, NULL };
  KdCacheCopyResult result = { 0 };
  GError *error = NULL;

  kd_cache_merge (output, inputs, options, &result, &error);
  kd_assert_no_error (error);
  ck_assert_int_eq (result.n_before, n_before);
  ck_assert_int_eq (result.n_rows, n_rows);
  ck_assert (result.complete == !options->unfinished);
  ck_assert (kd_cache_verify (output, NULL, NULL, NULL, &error));
}

static void
expect_same (const gchar *a, const gchar *b)
{
  GError *error = NULL;
  g_autoptr (KdCacheDiff) diff = kd_cache_diff (a, b, &plain, &error);

  kd_assert_no_error (error);
  ck_assert_int_eq (diff->n_only_a + diff->n_only_b, 0);
  ck_assert_ptr_null (diff->identity);
  ck_assert (((KdCacheFieldDiff *) g_ptr_array_index (diff->fields, 0))->max == 0);
}

static gint64
measured_rows (const gchar *path)
{
  g_autoptr (KdCacheReader) reader = kd_cache_reader_open (path, NULL);

  return kd_cache_reader_encoding (reader, "teacher.logits")->n_rows;
}

GST_START_TEST (test_know)
{
  const gchar *known[] = { "a.h5", "b.h5", NULL };

  expect_capture ("a.h5", 0, 100, "float16", NULL, 100);
  expect_capture ("b.h5", 300, 50, "float16", NULL, 50);
  expect_capture ("c.h5", 50, 300, "float16", known, 200); /* 100 to 299 */
  expect_capture ("c.h5", 50, 301, "float16", known, 201); /* 350 */
  expect_capture ("none.h5", 0, 100, "float16", known, 0);
  expect_merge ("m.h5", "a.h5", "b.h5", &plain, 0, 150);
  expect_merge ("m.h5", "c.h5", "none.h5", &extend, 150, 351);
  expect_capture ("whole.h5", 0, 351, "float16", NULL, 351);
  expect_same ("whole.h5", "m.h5");
}
GST_END_TEST;

/* What could not be merged later is refused before the first row is written. */
GST_START_TEST (test_know_refuses)
{
  const KdCacheIdentity other = { (gchar *) "u", NULL, (gchar *) "d", NULL, (gchar *) "" };
  const gchar *known[] = { "a.h5", NULL }, *none[] = { "none.h5", NULL };
  GError *error = NULL;
  KdCacheWriter *writer;

  expect_capture ("a.h5", 0, 100, "float16", NULL, 100);
  ck_assert_int_eq (capture ("b.h5", 100, 10, 0, "float32", known, &error), -1);
  kd_assert_error (error, KD_ERROR_MISMATCH, "cache=float16, now=float32");
  expect_capture ("c.h5", 100, 10, "float32", NULL, 10);
  ck_assert_int_eq (capture ("c.h5", 100, 20, 0, "float32", known, &error), -1);
  kd_assert_error (error, KD_ERROR_SHAPE, "only caches that are stored alike");
  ck_assert_int_eq (capture ("d.h5", 100, 20, 0, NULL, none, &error), -1);
  kd_assert_error (error, KD_ERROR_IO, "none.h5");
  writer = kd_cache_writer_open ("e.h5", FALSE, &other, 1000, &error);
  ck_assert (!kd_cache_writer_know (writer, "a.h5", &error));
  kd_assert_error (error, KD_ERROR_MISMATCH, "differ in teacher: path=\"a.h5\", teacher=t (no description), other=\"e.h5\", teacher=u (no description)");
  kd_cache_writer_close (writer);
}
GST_END_TEST;

GST_START_TEST (test_extend)
{
  const gchar *wrong[] = { "wrong.h5", NULL }, *b[] = { "b.h5", NULL };
  KdCacheCopyResult result = { 0 };
  GError *error = NULL;

  expect_capture ("m.h5", 0, 100, "float16", NULL, 100);
  expect_capture ("a.h5", 90, 60, "float16", NULL, 60); /* 90 to 99 are there, and equal */
  expect_capture ("b.h5", 150, 50, "float16", NULL, 50);
  ck_assert (!kd_cache_merge ("m.h5", b, &plain, &result, &error));
  kd_assert_error (error, KD_ERROR_MISMATCH, "has other rows");
  ck_assert_int_eq (capture ("wrong.h5", 95, 10, 1, "float16", NULL, &error), 10);
  ck_assert (!kd_cache_merge ("m.h5", wrong, &extend, &result, &error));
  kd_assert_error (error, KD_ERROR_MISMATCH, "path=\"wrong.h5\", other=\"m.h5\", id=95");
  expect_merge ("m.h5", "a.h5", "b.h5", &unfinished, 100, 200);
  ck_assert_int_eq (measured_rows ("m.h5"), 210); /* 10 were captured twice */
  expect_merge ("m.h5", "a.h5", "b.h5", &extend, 200, 200);
  ck_assert_int_eq (measured_rows ("m.h5"), 210);
  expect_capture ("whole.h5", 0, 200, "float16", NULL, 200);
  expect_same ("whole.h5", "m.h5");
}
GST_END_TEST;

/* Inputs without a row: what is there counts as complete then. */
GST_START_TEST (test_extend_by_nothing)
{
  const gchar *known[] = { "m.h5", NULL }, *empty[] = { "a.h5", "b.h5", NULL };
  KdCacheCopyResult result = { 0 };
  GError *error = NULL;

  expect_capture ("m.h5", 0, 100, NULL, NULL, 100);
  expect_capture ("a.h5", 0, 50, NULL, known, 0);
  expect_capture ("b.h5", 50, 50, NULL, known, 0);
  expect_merge ("m.h5", "a.h5", "b.h5", &extend, 100, 100);
  ck_assert (kd_cache_remove ("a.h5", &error) && kd_cache_remove ("b.h5", &error));
  for (guint i = 0; i < 2; i++) { /* without fields, as a capture leaves them to which nothing came */
    KdCacheWriter *writer = kd_cache_writer_open (empty[i], FALSE, NULL, 1000, &error);
    ck_assert (kd_cache_writer_finish (writer, &error));
    kd_cache_writer_close (writer);
  }
  expect_merge ("m.h5", "a.h5", "b.h5", &extend, 100, 100);
  ck_assert (!kd_cache_merge ("new.h5", empty, &extend, &result, &error));
  kd_assert_error (error, KD_ERROR_RANGE, "no input has a row");
}
GST_END_TEST;

GST_START_TEST (test_remove)
{
  GError *error = NULL;
  int lock;

  expect_capture ("a.h5", 0, 100, NULL, NULL, 100);
  lock = open ("a.h5.parts", O_RDONLY | O_DIRECTORY);
  ck_assert (flock (lock, LOCK_EX) == 0);
  ck_assert (!kd_cache_remove ("a.h5", &error));
  kd_assert_error (error, KD_ERROR_IO, "another process is writing it");
  ck_assert (kd_cache_verify ("a.h5", NULL, NULL, NULL, &error));
  close (lock);
  ck_assert (g_mkdir_with_parents ("a.h5.removed/quarantine", 0777) == 0 && g_file_set_contents ("a.h5.removed/quarantine/0", "x", -1, NULL));
  ck_assert (kd_cache_pack ("a.h5", "p.h5", "none", 0, NULL, NULL, &error));
  ck_assert (kd_cache_remove ("a.h5", &error) && kd_cache_remove ("p.h5", &error) && kd_cache_remove ("never.h5", &error));
  ck_assert (!g_file_test ("a.h5", G_FILE_TEST_EXISTS) && !g_file_test ("a.h5.parts", G_FILE_TEST_EXISTS) && !g_file_test ("a.h5.removed", G_FILE_TEST_EXISTS));
  ck_assert (!g_file_test ("p.h5", G_FILE_TEST_EXISTS) && !g_file_test ("never.h5.parts", G_FILE_TEST_EXISTS));
}
GST_END_TEST;

static Suite *
cache_shards_suite (void)
{
  Suite *s = suite_create (KD_TEST_NAME);
  TCase *t = tcase_create ("cache-shards");

  tcase_add_checked_fixture (t, make_folder, remove_folder);
  tcase_add_test (t, test_know);
  tcase_add_test (t, test_know_refuses);
  tcase_add_test (t, test_extend);
  tcase_add_test (t, test_extend_by_nothing);
  tcase_add_test (t, test_remove);
  suite_add_tcase (s, t);
  return s;
}

GST_CHECK_MAIN (cache_shards);
