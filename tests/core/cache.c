/* The teacher cache: rows in, rows out, through crashes, other identities and damage. */
#include "kd-check.h"

#include <fcntl.h>
#include <glib/gstdio.h>
#include <sys/stat.h>
#include <unistd.h>

static gchar *folder, *path;

static void
make_folder (void)
{
  folder = g_dir_make_tmp ("kd-cache-XXXXXX", NULL);
  path = g_build_filename (folder, "t.h5", NULL);
}

static void
remove_folder (void)
{
  const gchar *argv[] = { "rm", "-rf", folder, NULL };

  g_spawn_sync (NULL, (gchar **) argv, NULL, G_SPAWN_SEARCH_PATH, NULL, NULL, NULL, NULL, NULL, NULL);
  g_clear_pointer (&folder, g_free);
  g_clear_pointer (&path, g_free);
}

/* Runs a Python script in the folder; FALSE where there is no @module. */
static gboolean
python (const gchar *module, const gchar *script)
{
  g_autofree gchar *text =
      g_strdup_printf ("import sys\ntry:\n  import %s, numpy as np\nexcept ImportError:\n  sys.exit(77)\n%s", module, script);
  const gchar *argv[] = { "/usr/bin/python3", "-c", text, NULL };
  g_autofree gchar *err = NULL;
  gint status = 0;

  if (!g_spawn_sync (folder, (gchar **) argv, NULL, 0, NULL, NULL, NULL, &err, &status, NULL))
    return FALSE;
  if (WIFEXITED (status) && WEXITSTATUS (status) == 77) {
    g_printerr ("%s is not installed: skipped\n", module);
    return FALSE;
  }
  ck_assert_msg (status == 0, "python: %s", err);
  return TRUE;
}

#define WIDTH 4

/* Row of sample @id: a number that no other sample has. */
static gfloat
value_of (gint64 id, gint64 view, gint64 column)
{
  return (gfloat) (id * 10 + view * 3 + column);
}

static gboolean
append (KdCacheWriter *writer, gint64 n, const gint64 *ids, const gint64 *views, GError **error)
{
  gint64 dims[] = { n, WIDTH };
  g_autoptr (KdTensor) tensor = kd_tensor_new (KD_FLOAT32, 2, dims);
  const gchar *name = "teacher.logits";

  for (gint64 i = 0; i < n * WIDTH; i++)
    ((gfloat *) tensor->data)[i] = value_of (ids[i / WIDTH], views ? views[i / WIDTH] : 0, i % WIDTH);
  return kd_cache_writer_append (writer, n, ids, views, 1, &name, &tensor, error);
}

static gboolean
append_range (KdCacheWriter *writer, gint64 first, gint64 n, gint64 step, GError **error)
{
  g_autofree gint64 *ids = g_new (gint64, n);

  for (gint64 i = 0; i < n; i++)
    ids[i] = first + i * step;
  return append (writer, n, ids, NULL, error);
}

static KdCacheWriter *
open_writer (gboolean resume, gsize part_bytes)
{
  KdCacheIdentity identity = { "aaaa1111bbbb2222", "arch=mlp", "cccc", "d.h5", "kdnoise std=0.1" };
  GError *error = NULL;
  KdCacheWriter *writer = kd_cache_writer_open (path, resume, &identity, part_bytes, &error);

  kd_assert_no_error (error);
  return writer;
}

static void
finish (KdCacheWriter *writer)
{
  GError *error = NULL;

  kd_cache_writer_finish (writer, &error);
  kd_assert_no_error (error);
  kd_cache_writer_close (writer);
}

/* Every one of these samples is found and has its values. */
static void
check_rows (gint64 n, const gint64 *ids, const gint64 *views)
{
  GError *error = NULL;
  g_autoptr (KdCacheReader) reader = kd_cache_reader_open (path, &error);
  g_autofree gint64 *rows = g_new (gint64, n);
  g_autoptr (KdTensor) tensor = NULL;

  kd_assert_no_error (error);
  ck_assert_int_eq (kd_cache_reader_find (reader, n, ids, views, rows), 0);
  tensor = kd_cache_reader_take (reader, "teacher.logits", n, rows, &error);
  kd_assert_no_error (error);
  for (gint64 i = 0; i < n; i++)
    for (gint64 c = 0; c < WIDTH; c++)
      ck_assert (((gfloat *) tensor->data)[i * WIDTH + c] == value_of (ids[i], views ? views[i] : 0, c));
}

static void
write_simple (gint64 n, gsize part_bytes)
{
  GError *error = NULL;
  KdCacheWriter *writer = open_writer (FALSE, part_bytes);

  for (gint64 first = 0; first < n; first += 50)
    ck_assert (append_range (writer, 100 + first, MIN (50, n - first), 1, &error));
  finish (writer);
}

GST_START_TEST (test_write_and_read)
{
  const gint64 ids[] = { 5099, 100, 3000, 100, 2047 }, absent[] = { 99, 5100, 100 };
  gint64 rows[3], id, view;
  GError *error = NULL;
  g_autoptr (KdCacheReader) reader = NULL;

  write_simple (5000, 10000);
  check_rows (5, ids, NULL);
  reader = kd_cache_reader_open (path, &error);
  kd_assert_no_error (error);
  ck_assert_int_eq (kd_cache_reader_n_rows (reader), 5000);
  ck_assert (kd_cache_reader_complete (reader));
  ck_assert_str_eq (kd_cache_reader_identity (reader)->teacher_spec, "arch=mlp");
  ck_assert_int_eq (kd_cache_reader_find (reader, 3, absent, NULL, rows), 2);
  ck_assert_int_eq (rows[0], -1);
  kd_cache_reader_key (reader, rows[2], &id, &view);
  ck_assert_int_eq (id, 100);
  ck_assert (kd_cache_reader_take (reader, "teacher.logits", 1, rows, &error) == NULL);
  kd_assert_error (error, KD_ERROR_RANGE, "row=-1, rows=5000");
  ck_assert (kd_cache_reader_take (reader, "teacher.hidden", 1, rows + 2, &error) == NULL);
  kd_assert_error (error, KD_ERROR_FIELD, "field=teacher.hidden, cache=\"teacher.logits\"");
}
GST_END_TEST;

/* Shuffled ids, several views, strides that interleave, many small parts, rows that come twice. */
GST_START_TEST (test_any_order)
{
  enum { N = 2000 };
  gint64 ids[N], views[N];
  GError *error = NULL;
  KdCacheWriter *writer = open_writer (FALSE, 1500);
  KdPermutation order;

  kd_permutation_init (&order, N, 7, 0);
  for (gint64 i = 0; i < N; i++) {
    ids[i] = (gint64) (kd_permutation_at (&order, (guint64) i) / 2) * 3 - 50;
    views[i] = (gint64) (kd_permutation_at (&order, (guint64) i) % 2) * 5;
  }
  for (gint64 first = 0; first < N; first += 37)
    ck_assert (append (writer, MIN (37, N - first), ids + first, views + first, &error));
  for (gint64 first = 0; first < N; first += 400)
    ck_assert (append (writer, 10, ids + first, views + first, &error));
  ck_assert (append_range (writer, 1000000, 300, 4, &error) && append_range (writer, 1000002, 300, 4, &error));
  ck_assert (append_range (writer, 1000000, 600, 2, &error));
  finish (writer);
  check_rows (N, ids, views);
  for (gint64 i = 0; i < 600; i++)
    ids[i] = 1000000 + 2 * i;
  check_rows (600, ids, NULL);
  {
    g_autoptr (KdCacheReader) reader = kd_cache_reader_open (path, &error);
    ck_assert_int_eq (kd_cache_reader_n_rows (reader), N + 600);
  }
  ck_assert (kd_cache_verify (path, NULL, NULL, NULL, &error));
}
GST_END_TEST;

GST_START_TEST (test_resume)
{
  GError *error = NULL;
  KdCacheWriter *writer = open_writer (FALSE, 1000);
  gint64 committed;
  gint64 ids[500];

  ck_assert (append_range (writer, 0, 130, 1, &error));
  ck_assert (kd_cache_writer_commit (writer, &error));
  committed = kd_cache_writer_n_committed (writer);
  ck_assert_int_ge (committed, 100);
  ck_assert (append_range (writer, 130, 5, 1, &error));
  kd_cache_writer_close (writer); /* as a crash would: the five rows were never reported */
  ck_assert (kd_cache_writer_open (path, FALSE, NULL, 1000, &error) == NULL);
  kd_assert_error (error, KD_ERROR_IO, "resume=true");
  writer = open_writer (TRUE, 1000);
  ck_assert_int_eq (kd_cache_writer_n_committed (writer), committed);
  ck_assert (kd_cache_writer_has (writer, committed - 1, 0));
  ck_assert (!kd_cache_writer_has (writer, committed, 0));
  ck_assert (!kd_cache_writer_has (writer, 0, 1));
  ck_assert (append_range (writer, 0, 500, 1, &error));
  finish (writer);
  for (gint64 i = 0; i < 500; i++)
    ids[i] = i;
  check_rows (500, ids, NULL);
  ck_assert (kd_cache_verify (path, NULL, NULL, NULL, &error));
}
GST_END_TEST;

GST_START_TEST (test_one_writer_at_a_time)
{
  GError *error = NULL;
  KdCacheWriter *writer = open_writer (FALSE, 1000);

  ck_assert (kd_cache_writer_open (path, TRUE, NULL, 1000, &error) == NULL);
  kd_assert_error (error, KD_ERROR_IO, "another process is writing it");
  kd_cache_writer_close (writer);
}
GST_END_TEST;

GST_START_TEST (test_refuses_other_identity)
{
  static const struct {
    KdCacheIdentity identity;
    const gchar *message;
  } cases[] = {
    { { "dddd1111bbbb2222", "arch=cnn", "cccc", NULL, NULL }, "another teacher: path=" },
    { { "dddd1111bbbb2222", "arch=cnn", NULL, NULL, NULL }, "cache=aaaa1111bbbb (arch=mlp), now=dddd1111bbbb (arch=cnn)" },
    { { NULL, NULL, "eeee", "other.h5", NULL }, "another dataset: path=" },
    { { NULL, NULL, NULL, NULL, "kdnoise std=0.2" }, "cache=\"kdnoise std=0.1\", now=\"kdnoise std=0.2\"" },
  };
  KdCacheIdentity unknown = { NULL, NULL, NULL, NULL, NULL };
  GError *error = NULL;
  KdCacheWriter *writer;

  write_simple (10, 1000);
  for (guint i = 0; i < G_N_ELEMENTS (cases); i++) {
    ck_assert (kd_cache_writer_open (path, TRUE, &cases[i].identity, 1000, &error) == NULL);
    kd_assert_error (error, KD_ERROR_MISMATCH, cases[i].message);
  }
  writer = kd_cache_writer_open (path, TRUE, &unknown, 1000, &error);
  kd_assert_no_error (error);
  kd_cache_writer_close (writer);
}
GST_END_TEST;

GST_START_TEST (test_refuses_other_fields)
{
  gint64 dims[] = { 1, WIDTH + 1 }, id = 7;
  g_autoptr (KdTensor) wide = kd_tensor_new_zero (KD_FLOAT32, 2, dims), text = NULL;
  const gint64 offsets[] = { 0, 1 };
  const gchar *names[] = { "teacher.logits", "teacher.hidden" };
  GError *error = NULL;
  KdCacheWriter *writer = open_writer (FALSE, 1000);

  text = kd_tensor_new_utf8 (1, offsets, "x");
  ck_assert (!kd_cache_writer_append (writer, 1, &id, NULL, 1, names + 1, &text, &error));
  kd_assert_error (error, KD_ERROR_UNSUPPORTED, "field=teacher.hidden, dtype=utf8");
  ck_assert (append_range (writer, 0, 3, 1, &error));
  ck_assert (!kd_cache_writer_append (writer, 1, &id, NULL, 1, names, &wide, &error));
  kd_assert_error (error, KD_ERROR_SHAPE, "teacher.logits");
  ck_assert (!kd_cache_writer_append (writer, 1, &id, NULL, 1, names + 1, &wide, &error));
  kd_assert_error (error, KD_ERROR_FIELD, "field=teacher.hidden");
  kd_cache_writer_close (writer);
}
GST_END_TEST;

/* From any working folder, as one file; a part that is gone shows as NaN and -1. The manifest is what its schema says. */
GST_START_TEST (test_python_reads_it)
{
  write_simple (1000, 3000);
  python ("h5py", "import os\nhere = os.getcwd()\nos.chdir('/')\nf = h5py.File(here + '/t.h5')\n"
                  "assert f['sample.id'][:].tolist() == list(range(100, 1100))\nx = f['teacher.logits']\nassert x.shape == (1000, 4)\n"
                  "assert (x[:] == (np.arange(100, 1100) * 10)[:, None] + np.arange(4)).all()\nassert f.attrs['kd.schema'] == 'batch/1'\nf.close()\n"
                  "os.unlink(here + '/t.h5.parts/00000.h5')\nf = h5py.File(here + '/t.h5')\nassert np.isnan(f['teacher.logits'][0]).all()\n"
                  "assert f['sample.id'][0] == -1\n");
  python ("jsonschema", "import json, os\nschema = json.load(open(os.environ['KD_SOURCE_ROOT'] + '/schemas/cache-manifest.schema.json'))\n"
                        "jsonschema.validate(json.load(open('t.h5.parts/manifest.json')), schema)\n");
}
GST_END_TEST;

/* Ways to damage a cache, and what reading and verifying it says then. */
static void
flip_byte (const gchar *file, gsize from_end)
{
  g_autofree gchar *bytes = NULL;
  gsize size;

  ck_assert (g_file_get_contents (file, &bytes, &size, NULL));
  bytes[size - from_end] ^= 1;
  ck_assert (g_file_set_contents (file, bytes, (gssize) size, NULL));
}

static gchar *
part_path (const gchar *name)
{
  return g_strdup_printf ("%s.parts/%s", path, name);
}

static void
expect_bad (KdError code, const gchar *message)
{
  g_autofree gchar *report = NULL;
  GError *error = NULL;

  ck_assert (!kd_cache_verify (path, NULL, NULL, &report, &error));
  kd_assert_error (error, code, message);
}

GST_START_TEST (test_flipped_byte)
{
  g_autofree gchar *file = part_path ("00001.h5"), *bytes = NULL;
  gfloat wanted = value_of (400, 0, 2);
  gint64 id = 400, row;
  gsize size, at = 0;
  GError *error = NULL;
  g_autoptr (KdCacheReader) reader = NULL;

  write_simple (1000, 8000); /* 250 rows a part */
  ck_assert (g_file_get_contents (file, &bytes, &size, NULL));
  while (at < size && memcmp (bytes + at, &wanted, sizeof wanted))
    at++;
  flip_byte (file, size - at);
  reader = kd_cache_reader_open (path, &error);
  kd_assert_no_error (error);
  ck_assert_int_eq (kd_cache_reader_find (reader, 1, &id, NULL, &row), 0);
  ck_assert (kd_cache_reader_take (reader, "teacher.logits", 1, &row, &error) == NULL);
  kd_assert_error (error, KD_ERROR_IO, "00001.h5\", dataset=\"teacher.logits\", rows=0 to");
  expect_bad (KD_ERROR_IO, "reason=checksum");
}
GST_END_TEST;

GST_START_TEST (test_missing_and_cut_part)
{
  g_autofree gchar *file = part_path ("00002.h5"), *other = part_path ("00001.h5"), *bytes = NULL;
  gsize size;

  write_simple (1000, 8000);
  ck_assert (g_file_get_contents (file, &bytes, &size, NULL));
  ck_assert_int_eq (truncate (file, (off_t) size - 100), 0);
  expect_bad (KD_ERROR_FORMAT, "00002.h5");
  ck_assert_int_eq (g_unlink (file), 0);
  expect_bad (KD_ERROR_IO, "No such file");
  /* A part in another's place. */
  g_free (g_steal_pointer (&bytes));
  ck_assert (g_file_get_contents (other, &bytes, &size, NULL));
  ck_assert (g_file_set_contents (file, bytes, (gssize) size, NULL));
  expect_bad (KD_ERROR_IO, "reason=the part was changed or replaced");
}
GST_END_TEST;

static void
edit_manifest (const gchar *from, const gchar *to, gboolean unsum)
{
  g_autofree gchar *file = part_path ("manifest.json"), *text = NULL, *edited = NULL;
  g_auto (GStrv) pieces = NULL;

  ck_assert (g_file_get_contents (file, &text, NULL, NULL));
  pieces = g_strsplit (text, from, 2);
  ck_assert_msg (pieces[1] != NULL, "no %s in %s", from, text);
  edited = g_strjoinv (to, pieces);
  if (unsum) /* without its checksum, the line behind the brace */
    memmove (edited + 2, strchr (edited + 2, '\n') + 1, strlen (strchr (edited + 2, '\n')));
  ck_assert (g_file_set_contents (file, edited, -1, NULL));
}

static const struct {
  const gchar *from, *to;
  KdError code;
  const gchar *message;
} edits[] = {
  { "\"00000.h5\"", "\"../../x.h5\"", KD_ERROR_SCHEMA, "member=parts[0].file, value=\"../../x.h5\"" },
  { "\"rows\" : 1000", "\"rows\" : 1001", KD_ERROR_SCHEMA, "member=rows, value=1001, sum of the parts=1000" },
  { "\"rows\" : 250", "\"rows\" : -250", KD_ERROR_SCHEMA, "member=parts[0].rows, value=-250" },
  { "\"stride\" : 1", "\"stride\" : 2", KD_ERROR_SCHEMA, "member=parts[0].stride" },
  { "\"first-id\" : 100", "\"first-id\" : \"100\"", KD_ERROR_SCHEMA, "member=parts[0].first-id, wanted=integer" },
  { "kd-cache-manifest/1", "kd-cache-manifest/9", KD_ERROR_SCHEMA, "member=schema, value=\"kd-cache-manifest/9\", wanted=\"kd-cache-manifest/1\", created-by=\"kdstream " },
  { "\"dense\"", "\"topk\"", KD_ERROR_SCHEMA, "member=encoding, value=\"topk\"" },
  { "float32:4", "float32:?", KD_ERROR_SCHEMA, "an open axis" },
  { "float32:4", "float32:5", KD_ERROR_SHAPE, "manifest=\"sample.id=int64 sample.view=int64 teacher.logits=float32:5\"" },
  { "\"block-rows\" : 1024", "\"block-rows\" : 0", KD_ERROR_SCHEMA, "member=block-rows, value=0" },
  { "\"parts\"", "\"parts", KD_ERROR_SCHEMA, "manifest.json" },
};

GST_START_TEST (test_lying_manifest)
{
  write_simple (1000, 8000);
  edit_manifest (edits[__i__].from, edits[__i__].to, TRUE);
  expect_bad (edits[__i__].code, edits[__i__].message);
}
GST_END_TEST;

/* Every edit is seen that leaves the checksum as it was. */
GST_START_TEST (test_edited_manifest)
{
  write_simple (1000, 8000);
  edit_manifest ("\"view\" : 0", "\"view\" : 1", FALSE);
  expect_bad (KD_ERROR_SCHEMA, "member=checksum, value=");
}
GST_END_TEST;

GST_START_TEST (test_cut_manifest)
{
  g_autofree gchar *file = part_path ("manifest.json"), *text = NULL;
  GError *error = NULL;

  write_simple (1000, 8000);
  ck_assert (g_file_get_contents (file, &text, NULL, NULL));
  for (gsize size = 0; size < strlen (text) - 2; size += 41) {
    ck_assert (g_file_set_contents (file, text, (gssize) size, NULL));
    ck_assert (kd_cache_reader_open (path, &error) == NULL);
    kd_assert_error (error, KD_ERROR_SCHEMA, "manifest.json");
  }
}
GST_END_TEST;

GST_START_TEST (test_not_a_cache)
{
  GError *error = NULL;

  ck_assert (kd_cache_reader_open (path, &error) == NULL);
  kd_assert_error (error, KD_ERROR_IO, "write it with kdcachesink");
  ck_assert (g_file_set_contents (path, "text", 4, NULL));
  ck_assert (kd_cache_reader_open (path, &error) == NULL);
  kd_assert_error (error, KD_ERROR_FORMAT, "not an HDF5 file");
  ck_assert (kd_cache_writer_open (path, TRUE, NULL, 1000, &error) == NULL);
  kd_assert_error (error, KD_ERROR_IO, "it is no cache");
}
GST_END_TEST;

GST_START_TEST (test_refuses_what_cannot_fit)
{
  GError *error = NULL;
  KdCacheWriter *writer = open_writer (FALSE, 1 << 20);

  kd_cache_writer_expect (writer, G_MAXINT64 / 100);
  ck_assert (!append_range (writer, 0, 10, 1, &error));
  kd_assert_error (error, KD_ERROR_IO, "Disk full: path=");
  kd_cache_writer_close (writer);
}
GST_END_TEST;

GST_START_TEST (test_pack)
{
  static const gchar *const filters[] = { "none", "deflate", "blosc-lz4", "blosc-zstd" };
  const gint64 ids[] = { 1099, 100, 500 };
  g_autofree gchar *cache = g_strdup (path);

  write_simple (1000, 3000);
  for (guint i = 0; i < G_N_ELEMENTS (filters); i++) {
    GError *error = NULL;
    g_autofree gchar *packed = g_strdup_printf ("%s/%s.h5", folder, filters[i]);
    if (!kd_cache_pack (cache, packed, filters[i], 0, NULL, NULL, &error)) {
      ck_assert_int_gt (i, 1);
      kd_assert_error (error, KD_ERROR_UNSUPPORTED, "libblosc-dev");
      continue;
    }
    g_free (path);
    path = g_strdup (packed);
    check_rows (3, ids, NULL);
    ck_assert (kd_cache_verify (path, NULL, NULL, NULL, &error));
  }
  {
    GError *error = NULL;
    ck_assert (!kd_cache_pack (cache, cache, "none", 0, NULL, NULL, &error));
    kd_assert_error (error, KD_ERROR_RANGE, "choose another name");
    ck_assert (!kd_cache_pack (cache, path, "zip", 0, NULL, NULL, &error));
    kd_assert_error (error, KD_ERROR_RANGE, "filter=\"zip\"");
  }
}
GST_END_TEST;

static Suite *
cache_suite (void)
{
  Suite *s = suite_create (KD_TEST_NAME);
  TCase *t = tcase_create ("cache");

  tcase_add_checked_fixture (t, make_folder, remove_folder);
  tcase_set_timeout (t, 120);
  tcase_add_test (t, test_write_and_read);
  tcase_add_test (t, test_any_order);
  tcase_add_test (t, test_resume);
  tcase_add_test (t, test_one_writer_at_a_time);
  tcase_add_test (t, test_refuses_other_identity);
  tcase_add_test (t, test_refuses_other_fields);
  tcase_add_test (t, test_python_reads_it);
  tcase_add_test (t, test_flipped_byte);
  tcase_add_test (t, test_missing_and_cut_part);
  tcase_add_loop_test (t, test_lying_manifest, 0, G_N_ELEMENTS (edits));
  tcase_add_test (t, test_edited_manifest);
  tcase_add_test (t, test_cut_manifest);
  tcase_add_test (t, test_not_a_cache);
  tcase_add_test (t, test_refuses_what_cannot_fit);
  tcase_add_test (t, test_pack);
  suite_add_tcase (s, t);
  return s;
}

GST_CHECK_MAIN (cache)
