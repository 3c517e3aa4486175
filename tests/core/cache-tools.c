/* Caches out of caches: merge, prune, repair, diff, export, and what they refuse. */
#include "kd-graph.h"

#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#define WIDTH 5

static gchar *folder;
static const KdCacheCopyOptions plain = { .part_bytes = 4000 }, linked = { .link = TRUE, .part_bytes = 4000 };

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

/* A cache of ids first, first + step, ... in two views each; @bias is added to every value. */
static void
write_cache (const gchar *path, gint64 first, gint64 n, gint64 step, gfloat bias, const gchar *teacher, const gchar *encoding)
{
  const KdCacheIdentity identity = { (gchar *) teacher, (gchar *) "arch=mlp", (gchar *) "d", (gchar *) "d.h5", (gchar *) "" };
  const gchar *names[] = { "teacher.logits", "teacher.flag" };
  gint64 dims[] = { n, WIDTH };
  g_autofree gint64 *ids = g_new (gint64, n), *views = g_new (gint64, n);
  g_autoptr (KdTensor) logits = kd_tensor_new (KD_FLOAT32, 2, dims), flag = kd_tensor_new (KD_INT64, 1, dims);
  GError *error = NULL;
  KdCacheWriter *writer = kd_cache_writer_open (path, FALSE, &identity, 3000, &error);

  kd_assert_no_error (error);
  if (encoding)
    ck_assert (kd_cache_writer_set_encoding (writer, "teacher.logits", encoding, &error));
  for (gint64 view = 0; view < 2; view++) {
    for (gint64 i = 0; i < n; i++) {
      ids[i] = first + i * step;
      views[i] = view * 7;
      ((gint64 *) flag->data)[i] = ids[i] % 3;
      for (gint64 c = 0; c < WIDTH; c++)
        ((gfloat *) logits->data)[i * WIDTH + c] = (gfloat) (ids[i] % 50 + view) + (gfloat) c / 8 + bias;
    }
    for (gint64 at = 0; at < n; at += 40) {
      gint64 now = MIN (40, n - at);
      g_autoptr (KdTensor) a = kd_tensor_slice (logits, at, now), b = kd_tensor_slice (flag, at, now);
      KdTensor *pieces[] = { a, b };
      ck_assert (kd_cache_writer_append (writer, now, ids + at, views + at, 2, names, pieces, &error));
    }
  }
  ck_assert (kd_cache_writer_finish (writer, &error));
  kd_cache_writer_close (writer);
}

static void
expect_same (const gchar *a, const gchar *b, gdouble tolerance)
{
  GError *error = NULL;
  g_autoptr (KdCacheDiff) diff = kd_cache_diff (a, b, &plain, &error);

  kd_assert_no_error (error);
  ck_assert_int_eq (diff->n_only_a, 0);
  ck_assert_int_eq (diff->n_only_b, 0);
  ck_assert_msg (!diff->identity, "%s", diff->identity);
  for (guint i = 0; i < diff->fields->len; i++) {
    const KdCacheFieldDiff *field = g_ptr_array_index (diff->fields, i);
    ck_assert_str_eq (field->a_type, field->b_type);
    ck_assert (field->max <= tolerance);
  }
  ck_assert_msg (kd_cache_verify (b, NULL, NULL, NULL, &error), "%s", error ? error->message : "");
}

static ino_t
inode (const gchar *path)
{
  struct stat info;

  ck_assert (stat (path, &info) == 0);
  return info.st_ino;
}

GST_START_TEST (test_merge)
{
  const gchar *shards[] = { "a.h5", "b.h5", "c.h5", NULL }, *two[] = { "a.h5", "b.h5", NULL };
  KdCacheCopyResult result = { 0 };
  GError *error = NULL;

  write_cache ("whole.h5", 0, 500, 1, 0, "t", NULL);
  write_cache ("a.h5", 0, 200, 1, 0, "t", NULL);
  write_cache ("b.h5", 150, 200, 1, 0, "t", NULL); /* 150 to 199 are a's too, and equal */
  write_cache ("c.h5", 350, 150, 1, 0, "t", NULL);
  ck_assert (kd_cache_merge ("m.h5", two, &plain, &result, &error));
  ck_assert_int_eq (result.n_rows, 700);
  /* More of them into the same output: what is there is not copied again. */
  ck_assert (kd_cache_merge ("m.h5", shards, &plain, &result, &error));
  ck_assert_int_eq (result.n_before, 700);
  ck_assert_int_eq (result.n_rows, 1000);
  ck_assert (result.complete && result.n_copied > 0 && result.n_linked == 0);
  expect_same ("whole.h5", "m.h5", 0);
  ck_assert (kd_cache_merge ("m.h5", shards, &plain, &result, &error));
  ck_assert_uint_eq (result.n_copied + result.n_written, 0);
  ck_assert (kd_cache_merge ("l.h5", shards, &linked, &result, &error));
  ck_assert (result.n_linked > 0 && result.n_copied == 0);
  ck_assert (inode ("l.h5.parts/00000.h5") == inode ("a.h5.parts/00000.h5"));
  ck_assert (inode ("m.h5.parts/00000.h5") != inode ("a.h5.parts/00000.h5"));
  expect_same ("whole.h5", "l.h5", 0);
  /* Packed inputs are whole parts too. */
  ck_assert (kd_cache_pack ("a.h5", "pa.h5", "deflate", 0, NULL, NULL, &error));
  shards[0] = "pa.h5";
  ck_assert (kd_cache_merge ("p.h5", shards, &plain, &result, &error));
  expect_same ("whole.h5", "p.h5", 0);
}
GST_END_TEST;

static void
refuse_merge (const gchar *output, const gchar *a, const gchar *b, KdError code, const gchar *part)
{
  const gchar *inputs[] = { a, b, NULL };
  KdCacheCopyResult result = { 0 };
  GError *error = NULL;

  ck_assert (!kd_cache_merge (output, inputs, &plain, &result, &error));
  kd_assert_error (error, code, part);
}

GST_START_TEST (test_merge_refuses)
{
  write_cache ("a.h5", 0, 100, 1, 0, "t", NULL);
  write_cache ("other.h5", 100, 100, 1, 0, "u", NULL);
  write_cache ("wrong.h5", 50, 100, 1, 0.5, "t", NULL);
  write_cache ("half.h5", 100, 100, 1, 0, "t", "float16");
  write_cache ("far.h5", 900, 10, 1, 0, "t", NULL);
  ck_assert (g_file_set_contents ("text", "text", -1, NULL));
  /* Which key, both values, both files, what to do. */
  refuse_merge ("m.h5", "a.h5", "other.h5", KD_ERROR_MISMATCH, "Caches differ in teacher: path=\"other.h5\", teacher=u (arch=mlp), other=\"a.h5\", teacher=t (arch=mlp); "
                                                               "leave one of them out, or capture its rows again with the teacher of the other");
  refuse_merge ("m.h5", "a.h5", "wrong.h5", KD_ERROR_MISMATCH, "id=50, view=0, field=teacher.logits");
  refuse_merge ("m.h5", "a.h5", "half.h5", KD_ERROR_SHAPE, "Caches differ in a field: field=teacher.logits, path=\"half.h5\", stored=float16:5, encoding=float16, other=\"a.h5\", stored=float32:5, encoding=keep; "
                                                           "only caches that are stored alike can be one: capture both with the same fields and encoding");
  refuse_merge ("m.h5", "a.h5", "a.h5", KD_ERROR_RANGE, "input=\"a.h5\", reason=an input is given twice");
  /* What stands in for a cache: its folder, a part, a folder, nothing. */
  refuse_merge ("m.h5", "a.h5", "far.h5.parts/", KD_ERROR_IO, "it is inside of a cache; give the cache: \"far.h5\"");
  refuse_merge ("m.h5", "a.h5", "far.h5.parts/00000.h5", KD_ERROR_FORMAT, "it is inside of a cache; give the cache: \"far.h5\"");
  refuse_merge ("m.h5", "a.h5", ".", KD_ERROR_IO, "reason=a folder; give the name that kdcachesink was given");
  refuse_merge ("m.h5", "a.h5", "none.h5", KD_ERROR_IO, "reason=neither \"none.h5\" nor \"none.h5.parts\" is there; correct the name, or write it with kdcachesink");
  refuse_merge ("a.h5", "a.h5", "far.h5", KD_ERROR_RANGE, "one of the inputs");
  refuse_merge ("text", "a.h5", "far.h5", KD_ERROR_IO, "no cache with parts");
  refuse_merge ("m.h5", "a.h5", "none.h5", KD_ERROR_IO, "none.h5");
  ck_assert (!g_file_test ("m.h5.parts", G_FILE_TEST_EXISTS));
  refuse_merge ("wrong.h5", "a.h5", "far.h5", KD_ERROR_MISMATCH, "has other rows");
}
GST_END_TEST;

/* Changes a row of logits: three floats an eighth apart are nothing else. */
static void
flip (const gchar *path)
{
  g_autofree gchar *bytes = NULL;
  gsize size, at = 0;
  gfloat *floats;

  ck_assert (g_file_get_contents (path, &bytes, &size, NULL));
  floats = (gfloat *) (gpointer) bytes;
  while (at + 3 < size / 4 && (floats[at + 1] != floats[at] + 0.125f || floats[at + 2] != floats[at] + 0.25f || floats[at] < 1))
    at++;
  ck_assert (at + 3 < size / 4);
  bytes[4 * at + 1] ^= 0x10;
  ck_assert (g_file_set_contents (path, bytes, (gssize) size, NULL));
}

/* A damaged part is not carried on. */
GST_START_TEST (test_merge_damaged)
{
  write_cache ("a.h5", 0, 100, 1, 0, "t", NULL);
  write_cache ("b.h5", 100, 100, 1, 0, "t", NULL);
  flip ("b.h5.parts/00001.h5");
  refuse_merge ("m.h5", "a.h5", "b.h5", KD_ERROR_IO, "b.h5.parts/00001.h5");
}
GST_END_TEST;

GST_START_TEST (test_prune)
{
  const gint64 ids[] = { 3, 4, 90, 299 }, views[] = { 7 };
  const gchar *drop[] = { "teacher.flag", NULL }, *none[] = { "teacher.x", NULL }, *key[] = { "sample.id", NULL };
  const gchar *both[] = { "teacher.flag", "teacher.logits", NULL };
  KdCacheSelection range = { .has_range = TRUE, .first_id = 60, .last_id = 240 }, some = { .ids = ids, .n_ids = 4, .views = views, .n_views = 1 };
  KdCacheSelection field = { .drop = drop };
  KdCacheCopyResult result = { 0 };
  GError *error = NULL;

  write_cache ("a.h5", 0, 300, 1, 0, "t", NULL);
  write_cache ("wanted.h5", 60, 181, 1, 0, "t", NULL);
  ck_assert (kd_cache_prune ("a.h5", "r.h5", &range, &plain, &result, &error));
  ck_assert (result.n_copied > 0 && result.n_written > 0 && result.complete);
  expect_same ("wanted.h5", "r.h5", 0);
  ck_assert (kd_cache_prune ("a.h5", "l.h5", &range, &linked, &result, &error));
  ck_assert (result.n_linked > 0 && result.n_copied == 0);
  expect_same ("wanted.h5", "l.h5", 0);
  ck_assert (kd_cache_prune ("a.h5", "s.h5", &some, &plain, &result, &error));
  ck_assert_int_eq (result.n_rows, 4);
  ck_assert (kd_cache_prune ("a.h5", "f.h5", &field, &plain, &result, &error));
  {
    g_autoptr (KdCacheDiff) diff = kd_cache_diff ("a.h5", "f.h5", &plain, &error);
    g_autoptr (KdCacheReader) reader = kd_cache_reader_open ("f.h5", &error);
    ck_assert_int_eq (diff->n_common, 600);
    ck_assert_uint_eq (kd_layout_n_fields (kd_cache_reader_layout (reader)), 1);
  }
  some.has_range = TRUE;
  some.first_id = 1000;
  some.last_id = 2000;
  ck_assert (!kd_cache_prune ("a.h5", "x.h5", &some, &plain, &result, &error));
  kd_assert_error (error, KD_ERROR_RANGE, "Nothing left");
  range.first_id = 0;
  range.last_id = 10;
  ck_assert (!kd_cache_prune ("a.h5", "r.h5", &range, &plain, &result, &error));
  kd_assert_error (error, KD_ERROR_MISMATCH, "has other rows");
  field.drop = none;
  ck_assert (!kd_cache_prune ("a.h5", "x.h5", &field, &plain, &result, &error));
  kd_assert_error (error, KD_ERROR_FIELD, "field=teacher.x");
  field.drop = key;
  ck_assert (!kd_cache_prune ("a.h5", "x.h5", &field, &plain, &result, &error));
  kd_assert_error (error, KD_ERROR_FIELD, "field=sample.id");
  field.drop = both;
  ck_assert (!kd_cache_prune ("a.h5", "x.h5", &field, &plain, &result, &error));
  kd_assert_error (error, KD_ERROR_FIELD, "none would be left");
}
GST_END_TEST;

/* Encoded fields are carried on as they are stored, and go with what is beside them. */
GST_START_TEST (test_encoded)
{
  const gchar *shards[] = { "a.h5", "b.h5", NULL }, *drop[] = { "teacher.logits", NULL };
  const KdCacheSelection field = { .drop = drop }, range = { .has_range = TRUE, .first_id = 10, .last_id = 120 };
  KdCacheCopyResult result = { 0 };
  GError *error = NULL;

  write_cache ("whole.h5", 0, 200, 1, 0, "t", "logprob8");
  write_cache ("a.h5", 0, 90, 1, 0, "t", "logprob8");
  write_cache ("b.h5", 90, 110, 1, 0, "t", "logprob8");
  ck_assert (kd_cache_merge ("m.h5", shards, &plain, &result, &error));
  expect_same ("whole.h5", "m.h5", 0);
  {
    g_autoptr (KdCacheReader) merged = kd_cache_reader_open ("m.h5", &error), whole = kd_cache_reader_open ("whole.h5", &error);
    const KdCacheEncoding *x = kd_cache_reader_encoding (merged, "teacher.logits"), *y = kd_cache_reader_encoding (whole, "teacher.logits");
    ck_assert_str_eq (x->name, "logprob8");
    ck_assert_int_eq (x->n_rows, y->n_rows);
    kd_assert_close (x->max_error, y->max_error, 1e-9);
    kd_assert_close (x->mean_error, y->mean_error, 1e-9);
  }
  write_cache ("wanted.h5", 10, 111, 1, 0, "t", "logprob8");
  ck_assert (kd_cache_prune ("m.h5", "r.h5", &range, &plain, &result, &error));
  expect_same ("wanted.h5", "r.h5", 0);
  ck_assert (kd_cache_prune ("m.h5", "f.h5", &field, &plain, &result, &error));
  {
    g_autoptr (KdCacheReader) reader = kd_cache_reader_open ("f.h5", &error);
    ck_assert_uint_eq (kd_layout_n_fields (kd_cache_reader_layout (reader)), 1);
    ck_assert (kd_cache_reader_encoding (reader, "teacher.logits") == NULL);
  }
}
GST_END_TEST;

GST_START_TEST (test_repair)
{
  GError *error = NULL;
  g_autoptr (KdCacheRepair) dry = NULL, repair = NULL, again = NULL;
  gint64 lost;

  write_cache ("a.h5", 0, 300, 1, 0, "t", NULL);
  flip ("a.h5.parts/00001.h5");
  g_unlink ("a.h5.parts/00003.h5");
  dry = kd_cache_repair ("a.h5", TRUE, &plain, &error);
  kd_assert_no_error (error);
  ck_assert_uint_eq (dry->losses->len, 2);
  ck_assert (g_file_test ("a.h5.parts/00001.h5", G_FILE_TEST_EXISTS));
  ck_assert (!kd_cache_verify ("a.h5", NULL, NULL, NULL, &error));
  g_clear_error (&error);
  repair = kd_cache_repair ("a.h5", FALSE, &plain, &error);
  kd_assert_no_error (error);
  ck_assert (!repair->rebuilt && repair->identity_known && repair->losses->len == 2);
  lost = ((KdCacheLoss *) g_ptr_array_index (repair->losses, 0))->n_rows + ((KdCacheLoss *) g_ptr_array_index (repair->losses, 1))->n_rows;
  ck_assert_int_eq (repair->n_rows + lost, 600);
  ck_assert (((KdCacheLoss *) g_ptr_array_index (repair->losses, 0))->quarantined && !((KdCacheLoss *) g_ptr_array_index (repair->losses, 1))->quarantined);
  ck_assert (!g_file_test ("a.h5.parts/00001.h5", G_FILE_TEST_EXISTS) && g_file_test ("a.h5.parts/quarantine/00001.h5", G_FILE_TEST_EXISTS) && g_file_test ("a.h5.parts/quarantine/lost.txt", G_FILE_TEST_EXISTS));
  ck_assert (kd_cache_verify ("a.h5", NULL, NULL, NULL, &error));
  {
    /* The capture that goes on has to make exactly those. */
    g_autoptr (KdCacheWriter) writer = kd_cache_writer_open ("a.h5", TRUE, NULL, 3000, &error);
    gint64 missing = 0;
    for (gint64 id = 0; id < 300; id++)
      missing += !kd_cache_writer_has (writer, id, 0) + !kd_cache_writer_has (writer, id, 7);
    ck_assert_int_eq (missing, lost);
  }
  again = kd_cache_repair ("a.h5", FALSE, &plain, &error);
  ck_assert_uint_eq (again->losses->len, 0);
}
GST_END_TEST;

GST_START_TEST (test_rebuild)
{
  GError *error = NULL;
  g_autoptr (KdCacheRepair) repair = NULL;

  write_cache ("whole.h5", 0, 300, 1, 0, "t", "logprob8");
  write_cache ("a.h5", 0, 300, 1, 0, "t", "logprob8");
  g_unlink ("a.h5.parts/manifest.json");
  g_unlink ("a.h5");
  repair = kd_cache_repair ("a.h5", FALSE, &plain, &error);
  kd_assert_no_error (error);
  ck_assert (repair->rebuilt && repair->identity_known && repair->losses->len == 0);
  expect_same ("whole.h5", "a.h5", 0);
  ck_assert (g_file_test ("a.h5", G_FILE_TEST_EXISTS));
  g_clear_pointer (&repair, kd_cache_repair_free);
  /* A manifest that is no manifest, and a part that is none either. */
  ck_assert (g_file_set_contents ("a.h5.parts/manifest.json", "{", -1, NULL));
  ck_assert (g_file_set_contents ("a.h5.parts/00002.h5", "no HDF5", -1, NULL));
  repair = kd_cache_repair ("a.h5", FALSE, &plain, &error);
  kd_assert_no_error (error);
  ck_assert_uint_eq (repair->losses->len, 1);
  ck_assert_int_eq (((KdCacheLoss *) g_ptr_array_index (repair->losses, 0))->n_rows, 0);
  ck_assert (kd_cache_verify ("a.h5", NULL, NULL, NULL, &error));
  ck_assert (g_file_test ("a.h5.parts/quarantine/00002.h5", G_FILE_TEST_EXISTS));
}
GST_END_TEST;

GST_START_TEST (test_repair_refuses)
{
  GError *error = NULL;

  write_cache ("a.h5", 0, 50, 1, 0, "t", NULL);
  ck_assert (kd_cache_pack ("a.h5", "p.h5", "none", 0, NULL, NULL, &error));
  ck_assert (kd_cache_repair ("p.h5", FALSE, &plain, &error) == NULL);
  kd_assert_error (error, KD_ERROR_UNSUPPORTED, "packed");
  ck_assert (kd_cache_repair ("none.h5", FALSE, &plain, &error) == NULL);
  kd_assert_error (error, KD_ERROR_IO, "there is no folder");
  ck_assert (!g_file_test ("none.h5.parts", G_FILE_TEST_EXISTS));
  g_mkdir ("empty.h5.parts", 0700);
  ck_assert (kd_cache_repair ("empty.h5", FALSE, &plain, &error) == NULL);
  kd_assert_error (error, KD_ERROR_IO, "no manifest, and no part");
  {
    g_autoptr (KdCacheWriter) writer = kd_cache_writer_open ("a.h5", TRUE, NULL, 3000, &error);
    ck_assert (writer != NULL);
    ck_assert (kd_cache_repair ("a.h5", FALSE, &plain, &error) == NULL);
    kd_assert_error (error, KD_ERROR_IO, "another process is writing it");
  }
}
GST_END_TEST;

GST_START_TEST (test_diff)
{
  GError *error = NULL;
  g_autoptr (KdCacheDiff) diff = NULL;
  const KdCacheFieldDiff *field;

  write_cache ("a.h5", 0, 100, 1, 0, "t", NULL);
  write_cache ("b.h5", 90, 100, 1, 0.25, "u", "float16");
  diff = kd_cache_diff ("a.h5", "b.h5", &plain, &error);
  kd_assert_no_error (error);
  ck_assert_int_eq (diff->n_common, 20);
  ck_assert_int_eq (diff->n_only_a, 180);
  ck_assert_int_eq (diff->n_only_b, 180);
  ck_assert_int_eq (diff->only_a[7][0], 7);
  ck_assert_int_eq (diff->only_b[0][0], 100);
  ck_assert (diff->identity && strstr (diff->identity, "Caches differ in teacher: path=\"a.h5\", teacher=t (arch=mlp), other=\"b.h5\", teacher=u (arch=mlp)"));
  ck_assert_uint_eq (diff->fields->len, 2);
  field = g_ptr_array_index (diff->fields, 1);
  ck_assert_str_eq (field->field, "teacher.logits");
  ck_assert_str_eq (field->a_type, "float32:5");
  ck_assert_str_eq (field->b_type, "float16:5");
  kd_assert_close (field->max, 0.25, 1e-12);
  kd_assert_close (field->mean, 0.25, 1e-12);
  ck_assert_int_eq (field->n_rows, 20);
  field = g_ptr_array_index (diff->fields, 0);
  ck_assert (field->max == 0 && field->n_rows == 0);
}
GST_END_TEST;

GST_START_TEST (test_cancel)
{
  const gchar *shards[] = { "a.h5", "b.h5", NULL };
  g_autoptr (GCancellable) cancellable = g_cancellable_new ();
  const KdCacheCopyOptions stop = { .part_bytes = 4000, .cancellable = cancellable };
  KdCacheCopyResult result = { 0 };
  GError *error = NULL;

  write_cache ("a.h5", 0, 100, 1, 0, "t", NULL);
  write_cache ("b.h5", 100, 100, 1, 0, "t", NULL);
  g_cancellable_cancel (cancellable);
  ck_assert (!kd_cache_merge ("m.h5", shards, &stop, &result, &error));
  ck_assert (g_error_matches (error, G_IO_ERROR, G_IO_ERROR_CANCELLED));
  g_clear_error (&error);
  ck_assert (kd_cache_repair ("a.h5", FALSE, &stop, &error) == NULL);
  ck_assert (g_error_matches (error, G_IO_ERROR, G_IO_ERROR_CANCELLED));
  g_clear_error (&error);
  ck_assert (!kd_cache_export ("a.h5", "a.npz", NULL, &stop, &error));
  g_clear_error (&error);
  ck_assert (!g_file_test ("a.npz", G_FILE_TEST_EXISTS));
  ck_assert (kd_cache_merge ("m.h5", shards, &plain, &result, &error));
}
GST_END_TEST;

/* numpy reads what was written; the archive's own checksums are right. */
GST_START_TEST (test_export)
{
  const gchar *script = "import sys\ntry:\n import numpy as np\nexcept ImportError: sys.exit(77)\nimport zipfile, json, struct\n"
                        "assert zipfile.ZipFile('a.npz').testzip() is None\nz = np.load('a.npz')\n"
                        "i, v, x = z['sample.id'], z['sample.view'], z['teacher.logits']\n"
                        "assert (i == np.repeat(np.arange(100), 2)).all() and (v == np.tile([0, 7], 100)).all() and x.dtype == np.float32\n"
                        "w = (i % 50 + v // 7)[:, None] + np.arange(5) / 8\nassert abs(x - w).max() <= 0.2\nassert (z['teacher.flag'] == i % 3).all()\n"
                        "b = open('a.safetensors', 'rb').read(); n = struct.unpack('<Q', b[:8])[0]; h = json.loads(b[8:8 + n])\n"
                        "assert h['__metadata__']['teacher'] == 't' and set(h) == {'__metadata__', 'sample.id', 'sample.view', 'teacher.logits'}\n"
                        "t = h['teacher.logits']; assert t['dtype'] == 'BF16' and t['shape'] == [200, 5] and len(b) == 8 + n + t['data_offsets'][1]\n"
                        "u = np.frombuffer(b[8 + n:][slice(*t['data_offsets'])], '<u2').astype(np.uint32) << 16\n"
                        "assert (u.view(np.float32).reshape(200, 5) == x).all()\n";
  const gchar *argv[] = { "/usr/bin/python3", "-c", script, NULL }, *one[] = { "teacher.logits", NULL }, *none[] = { "x", NULL };
  g_autofree gchar *err = NULL;
  GError *error = NULL;
  gint status = 0;

  write_cache ("a.h5", 0, 100, 1, 0, "t", "bfloat16");
  ck_assert (kd_cache_export ("a.h5", "a.npz", NULL, &plain, &error));
  ck_assert (kd_cache_export ("a.h5", "a.safetensors", one, &plain, &error));
  ck_assert (!kd_cache_export ("a.h5", "a.npz", none, &plain, &error));
  kd_assert_error (error, KD_ERROR_FIELD, "field=x");
  ck_assert (!kd_cache_export ("a.h5", "a.csv", NULL, &plain, &error));
  kd_assert_error (error, KD_ERROR_RANGE, "wanted=a name that ends in");
  ck_assert (!kd_cache_export ("a.h5", "no/a.npz", NULL, &plain, &error));
  kd_assert_error (error, KD_ERROR_IO, "no/a.npz");
  if (!g_spawn_sync (folder, (gchar **) argv, NULL, 0, NULL, NULL, NULL, &err, &status, NULL) || (WIFEXITED (status) && WEXITSTATUS (status) == 77)) {
    g_printerr ("no numpy: reading back is skipped\n");
    return;
  }
  ck_assert_msg (status == 0, "python: %s", err);
}
GST_END_TEST;

static Suite *
cache_tools_suite (void)
{
  Suite *s = suite_create (KD_TEST_NAME);
  TCase *t = tcase_create ("cache-tools");

  tcase_add_checked_fixture (t, make_folder, remove_folder);
  tcase_add_test (t, test_merge);
  tcase_add_test (t, test_merge_refuses);
  tcase_add_test (t, test_merge_damaged);
  tcase_add_test (t, test_prune);
  tcase_add_test (t, test_encoded);
  tcase_add_test (t, test_repair);
  tcase_add_test (t, test_rebuild);
  tcase_add_test (t, test_repair_refuses);
  tcase_add_test (t, test_diff);
  tcase_add_test (t, test_cancel);
  tcase_add_test (t, test_export);
  suite_add_tcase (s, t);
  return s;
}

GST_CHECK_MAIN (cache_tools)
