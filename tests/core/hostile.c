/* Files that lie, as the fuzz targets found them or might have: the error, not only that there is no crash. tests/fuzz/found has the inputs. */
#include "kd-check.h"

#include <glib/gstdio.h>
#include <unistd.h>

static gchar *folder, *path;

static void
setup (void)
{
  /* Some hundred parts are synced: in memory where that can be. */
  folder = g_access ("/dev/shm", W_OK) == 0 ? g_mkdtemp (g_strdup ("/dev/shm/kd-hostile-XXXXXX")) : g_dir_make_tmp ("kd-hostile-XXXXXX", NULL);
  path = g_build_filename (folder, "t.h5", NULL);
}

static void
teardown (void)
{
  const gchar *argv[] = { "rm", "-rf", folder, NULL };

  g_spawn_sync (NULL, (gchar **) argv, NULL, G_SPAWN_SEARCH_PATH, NULL, NULL, NULL, NULL, NULL, NULL);
  g_clear_pointer (&folder, g_free);
  g_clear_pointer (&path, g_free);
}

/* Runs a Python script in the folder; FALSE where there is no h5py. */
static gboolean
python (const gchar *script)
{
  g_autofree gchar *text = g_strconcat ("import sys, zlib\ntry:\n  import h5py, numpy as np\nexcept ImportError:\n  sys.exit(77)\nf = h5py.File('t.h5', 'w')\n", script, "f.close()\n", NULL);
  const gchar *argv[] = { "/usr/bin/python3", "-c", text, NULL };
  g_autofree gchar *err = NULL;
  gint status = 0;

  if (!g_spawn_sync (folder, (gchar **) argv, NULL, 0, NULL, NULL, NULL, &err, &status, NULL))
    return FALSE;
  if (WIFEXITED (status) && WEXITSTATUS (status) == 77)
    return FALSE;
  ck_assert_msg (status == 0, "python: %s", err);
  return TRUE;
}

/* @n_parts parts of two rows: ids 2 p and 2 p + 1, or, not @even, 3 p and 3 p + 1. */
static void
write_cache (gint64 n_parts, gboolean even)
{
  const gchar *name = "teacher.logits";
  GError *error = NULL;
  g_autoptr (KdCacheWriter) writer = kd_cache_writer_open (path, FALSE, &(KdCacheIdentity) { 0 }, 1 << 20, &error);

  for (gint64 p = 0; p < n_parts; p++) {
    gint64 ids[] = { even ? 2 * p : 3 * p, even ? 2 * p + 1 : 3 * p + 2 }, views[] = { 0, !even }, dims[] = { 2, 2 };
    g_autoptr (KdTensor) tensor = kd_tensor_new (KD_FLOAT32, 2, dims);
    for (gint i = 0; i < 4; i++)
      ((gfloat *) tensor->data)[i] = (gfloat) ids[i / 2];
    ck_assert (kd_cache_writer_append (writer, 2, ids, views, 1, &name, &tensor, &error) && kd_cache_writer_commit (writer, &error));
  }
  ck_assert (kd_cache_writer_finish (writer, &error));
}

/* More parts than are open at once: the one that is closed for another must not be one whose rows wait to be copied. */
GST_START_TEST (test_many_parts)
{
  enum { N_PARTS = 300,
    N_OPEN = 256 };
  gint64 rows[N_OPEN];
  GError *error = NULL;
  g_autoptr (KdCacheReader) reader = NULL;
  g_autoptr (KdTensor) all = NULL;

  write_cache (N_PARTS, TRUE);
  reader = kd_cache_reader_open (path, &error);
  kd_assert_no_error (error);
  for (gint64 i = 0; i < N_OPEN; i++)
    rows[i] = 2 * i;
  all = kd_cache_reader_take (reader, "teacher.logits", N_OPEN, rows, &error);
  kd_assert_no_error (error);
  for (gint64 part = N_OPEN; part < N_PARTS; part++) { /* the oldest one, then one that it has to make room for */
    const gint64 two[] = { 2 * (part - N_OPEN), 2 * part };
    g_autoptr (KdTensor) taken = kd_cache_reader_take (reader, "teacher.logits", 2, two, &error);
    kd_assert_no_error (error);
    for (gint i = 0; i < 2; i++)
      ck_assert (((gfloat *) taken->data)[2 * i] == (gfloat) two[i]);
  }
}
GST_END_TEST;

static void
edit_manifest (const gchar *from, const gchar *to)
{
  g_autofree gchar *file = g_strconcat (path, ".parts/manifest.json", NULL), *text = NULL;
  g_autoptr (GString) edited = NULL;

  ck_assert (g_file_get_contents (file, &text, NULL, NULL));
  edited = g_string_new (text);
  ck_assert_msg (g_string_replace (edited, from, to, 1) == 1, "no %s in %s", from, text);
  if (g_str_has_prefix (edited->str, "{\n  \"checksum\"")) /* of the text as it was */
    g_string_erase (edited, 2, (gssize) (strchr (edited->str + 2, '\n') + 1 - edited->str) - 2);
  ck_assert (g_file_set_contents (file, edited->str, -1, NULL));
}

static const struct {
  gboolean even;
  const gchar *from, *to, *and_from, *and_to;
  KdError code;
  const gchar *message;
} lies[] = {
  { TRUE, "sample.id=int64", "sample.id=uint8", NULL, NULL, KD_ERROR_SCHEMA, "wanted=sample.id=int64 and sample.view=int64 among them" },
  { TRUE, "sample.view=int64", "sample.view=int64:2", NULL, NULL, KD_ERROR_SCHEMA, "wanted=sample.id=int64 and sample.view=int64 among them" },
  { FALSE, "\"rows\" : 2,\n      \"bytes\"", "\"rows\" : 1152921504606846976,\n      \"bytes\"", "\"rows\" : 2", "\"rows\" : 1152921504606846976", KD_ERROR_SHAPE, "rows=2, manifest=1152921504606846976" },
  { TRUE, "\"encoding\" : \"dense\"", "\"encoding\" : \"coded\", \"encodings\" : [{\"field\": \"teacher.logits\", \"encoding\": \"float32\", \"rows\": 2, \"universe\": 1000, \"size\": 500}]", NULL, NULL,
      KD_ERROR_SCHEMA, "field=teacher.logits, encoding=float32, reason=only packed ids have size and universe" },
  { TRUE, "\"dense\"", "\"den\xff\"", NULL, NULL, KD_ERROR_SCHEMA, "reason=not UTF-8" },
};

GST_START_TEST (test_lying_manifest)
{
  GError *error = NULL;

  write_cache (1, lies[__i__].even);
  edit_manifest (lies[__i__].from, lies[__i__].to);
  if (lies[__i__].and_from)
    edit_manifest (lies[__i__].and_from, lies[__i__].and_to);
  ck_assert (!kd_cache_reader_open (path, &error));
  kd_assert_error (error, lies[__i__].code, lies[__i__].message);
}
GST_END_TEST;

/* A part of evenly spaced ids is not opened to find rows, so its rows are only counted where memory is taken for all of them. */
GST_START_TEST (test_rows_that_no_file_holds)
{
  g_autofree gchar *output = g_build_filename (folder, "out.h5", NULL), *npz = g_build_filename (folder, "out.npz", NULL);
  const KdCacheSelection selection = { 0 };
  const KdCacheCopyOptions options = { 0 };
  KdCacheCopyResult result;
  GError *error = NULL;

  write_cache (1, TRUE);
  edit_manifest ("\"rows\" : 2", "\"rows\" : 1152921504606846976");
  edit_manifest ("\"rows\" : 2", "\"rows\" : 1152921504606846976");
  edit_manifest ("\"last-id\" : 1", "\"last-id\" : 1152921504606846975");
  ck_assert (!kd_cache_pack (path, output, "none", 0, NULL, NULL, &error));
  kd_assert_error (error, KD_ERROR_IO, "rows=1152921504606846976, reason=missing, cut or replaced");
  ck_assert (!kd_cache_export (path, npz, NULL, &options, &error));
  kd_assert_error (error, KD_ERROR_SHAPE, "Too large to export");
  ck_assert (!kd_cache_diff (path, path, &options, &error));
  kd_assert_error (error, KD_ERROR_IO, "rows=1152921504606846976");
  ck_assert (!kd_cache_prune (path, output, &selection, &options, &result, &error));
  kd_assert_error (error, KD_ERROR_IO, "rows=1152921504606846976");
}
GST_END_TEST;

/* json-glib's parser calls itself for each level. */
GST_START_TEST (test_deep_json)
{
  g_autoptr (GString) text = g_string_new (NULL);
  g_autofree gchar *file = g_strconcat (path, ".parts/manifest.json", NULL);
  GError *error = NULL;

  write_cache (1, TRUE);
  for (gint i = 0; i < 1 << 20; i++)
    g_string_append_c (text, '[');
  ck_assert (g_file_set_contents (file, text->str, -1, NULL));
  ck_assert (!kd_cache_reader_open (path, &error));
  kd_assert_error (error, KD_ERROR_SCHEMA, "reason=nested deeper than 64 levels");
  g_string_truncate (text, 64);
  ck_assert_ptr_null (kd_json_fault (text->str, 64));
  g_string_append_c (text, '{');
  ck_assert_str_eq (kd_json_fault (text->str, 65), "nested deeper than 64 levels");
}
GST_END_TEST;

static const gchar *const good_json[] = { "", " [] ", "[\"[[[\\\"[[[ 'a' // 01\", {}]", "{\"a\":[1e-05,-1E+05,0.5,0,-0,10,1e400]}", "[9223372036854775807,-9223372036854775808]",
  "7", "[\"open" };

/* What json-glib takes and reads as something else, or dies of. */
static const struct {
  const gchar *text, *fault;
} bad_json[] = { { "{\"a\":1}{\"a\":2}", "a second value" }, { "[1]\n[2]", "a second value" }, { "[9223372036854775808]", "beyond 64 bits" },
  { "{\"a\":-9223372036854775809}", "beyond 64 bits" }, { "99999999999999999999", "beyond 64 bits" }, { "[010]", "0 before" }, { "[-01]", "0 before" },
  { "[0x10]", "0 before" }, { "['\"',[[[", "single quote" }, { "[1 /* \" */,[[[", "a comment" }, { "# \"\n[[[", "a comment" } };

GST_START_TEST (test_json_fault)
{
  for (gsize i = 0; i < G_N_ELEMENTS (good_json); i++)
    ck_assert_msg (!kd_json_fault (good_json[i], strlen (good_json[i])), "%s: %s", good_json[i], kd_json_fault (good_json[i], strlen (good_json[i])));
  for (gsize i = 0; i < G_N_ELEMENTS (bad_json); i++) {
    const gchar *fault = kd_json_fault (bad_json[i].text, strlen (bad_json[i].text));
    ck_assert_msg (fault && strstr (fault, bad_json[i].fault), "%s: %s", bad_json[i].text, fault ? fault : "no fault");
  }
}
GST_END_TEST;

/* Brackets behind a quote that is none: once counted as text, and the parser ran out of stack. */
GST_START_TEST (test_hidden_depth)
{
  g_autofree gchar *file = g_strconcat (path, ".parts/manifest.json", NULL), *deep = g_strnfill (1 << 20, '[');
  g_autofree gchar *text = g_strconcat ("{\"a\":['\"',", deep, NULL);
  GError *error = NULL;

  write_cache (1, TRUE);
  ck_assert (g_file_set_contents (file, text, -1, NULL));
  ck_assert (!kd_cache_reader_open (path, &error));
  kd_assert_error (error, KD_ERROR_SCHEMA, "reason=a comment or a single quote, which are no JSON");
}
GST_END_TEST;

/* libhdf5's filters trust what they unpack. @read: the file opens, its rows do not read. */
static const struct {
  const gchar *script;
  gboolean read;
  KdError code;
  const gchar *message;
} filters[] = {
  { "f.create_dataset('a', data=np.arange(64), chunks=(32,), scaleoffset=0)\n", FALSE, KD_ERROR_FORMAT, "filter=scaleoffset, reason=a filter that is not safe" },
  { "p = h5py.h5p.create(h5py.h5p.DATASET_CREATE)\np.set_chunk((32,))\np.set_filter(h5py.h5z.FILTER_NBIT)\n"
    "h5py.h5d.create(f.id, b'a', h5py.h5t.STD_I32LE, h5py.h5s.create_simple((64,)), p)\n",
      FALSE, KD_ERROR_FORMAT, "filter=nbit, reason=a filter that is not safe" },
  { "p = h5py.h5p.create(h5py.h5p.DATASET_CREATE)\np.set_chunk((32,))\np.set_deflate(1)\np.set_deflate(1)\n"
    "h5py.h5d.create(f.id, b'a', h5py.h5t.STD_I32LE, h5py.h5s.create_simple((64,)), p).write(h5py.h5s.ALL, h5py.h5s.ALL, np.zeros(64, 'i4'))\n",
      FALSE, KD_ERROR_FORMAT, "filters=2, reason=more than one compressor" },
  { "d = f.create_dataset('a', shape=(64,), dtype='>f8', chunks=(64,), compression='gzip')\nd.id.write_direct_chunk((0,), zlib.compress(b'x' * 8))\n", TRUE, KD_ERROR_IO,
      "row=0, reason=a chunk does not unpack" },
  { "d = f.create_dataset('a', shape=(4, 64), dtype='f4', chunks=(4, 32), compression='gzip')\nd[:] = 1\nd.id.write_direct_chunk((0, 32), zlib.compress(b'x' * 8))\n", TRUE, KD_ERROR_IO,
      "row=0, reason=a chunk does not unpack" },
  { "d = f.create_dataset('a', shape=(64,), dtype='>i2', chunks=(32,), fletcher32=True)\nd[:] = 1\nd.id.write_direct_chunk((32,), b'xyz')\n", TRUE, KD_ERROR_IO, "row=32, reason=a chunk does not unpack" },
  { "d = f.create_dataset('a', shape=(64,), dtype='f4', chunks=(32,), fletcher32=True)\nd[:] = 1\nd.id.write_direct_chunk((32,), b'x' * 132)\n", TRUE, KD_ERROR_IO, "row=32, chunk=1, reason=does not unpack" },
  /* no filter at all, one chunk short and another one long, so that together they have their bytes */
  { "d = f.create_dataset('a', shape=(64,), dtype='>f4', chunks=(32,))\nd[:] = 1\nd.id.write_direct_chunk((0,), b'x' * 40)\nd.id.write_direct_chunk((32,), b'x' * 240)\n", FALSE, KD_ERROR_IO,
      "chunk=128 bytes, reason=a chunk has not so many" },
};

GST_START_TEST (test_hostile_filters)
{
  GError *error = NULL;
  g_autoptr (KdH5Reader) reader = NULL;

  if (!python (filters[__i__].script))
    return;
  reader = kd_h5_reader_open (path, NULL, &error);
  if (filters[__i__].read) {
    kd_assert_no_error (error);
    ck_assert (!kd_h5_reader_read_all (reader, "a", &error));
  }
  kd_assert_error (error, filters[__i__].code, filters[__i__].message);
}
GST_END_TEST;

/* The same filters around honest numbers, by rows and by columns, in another byte order. */
GST_START_TEST (test_honest_filters)
{
  static const gchar *const how[] = { "shuffle=False", "fletcher32=True", "compression='gzip', shuffle=True, fletcher32=True", "compression='gzip', fletcher32=True", "shuffle=True, fletcher32=True" };
  g_autofree gchar *script = g_strdup_printf ("x = np.arange(70).reshape(10, 7)\nf.create_dataset('rows', data=x.astype('f4'), chunks=(4, 7), %s)\n"
                                              "f.create_dataset('columns', data=x.astype('f4'), chunks=(4, 3), %s)\nf.create_dataset('big', data=x.astype('>i2'), chunks=(3, 7), %s)\n",
      how[__i__], how[__i__], how[__i__]);
  const gint64 rows[] = { 9, 0, 4, 5 };
  GError *error = NULL;
  g_autoptr (KdH5Reader) reader = NULL;

  if (!python (script))
    return;
  reader = kd_h5_reader_open (path, NULL, &error);
  kd_assert_no_error (error);
  for (guint i = 0; i < 3; i++) {
    const gchar *name = (const gchar *[]) { "rows", "columns", "big" }[i];
    g_autoptr (KdTensor) taken = kd_h5_reader_take (reader, name, rows, 4, &error);
    kd_assert_no_error (error);
    for (gsize k = 0; k < 28; k++)
      ck_assert (kd_tensor_get_double (taken, k) == (gdouble) (rows[k / 7] * 7 + (gint64) k % 7));
  }
}
GST_END_TEST;

/* Names are the file's; what an error says of them has to be text. */
GST_START_TEST (test_name_that_is_no_text)
{
  GError *error = NULL;

  if (!python ("f[b'\\xff\\xfe'] = np.zeros(3)\n"))
    return;
  ck_assert (!kd_h5_reader_open (path, NULL, &error));
  ck_assert (g_utf8_validate (error->message, -1, NULL));
  kd_assert_error (error, KD_ERROR_FORMAT, "reason=not a field's name");
}
GST_END_TEST;

static Suite *
hostile_suite (void)
{
  Suite *s = suite_create (KD_TEST_NAME);
  TCase *t = tcase_create ("hostile");

  tcase_add_checked_fixture (t, setup, teardown);
  tcase_set_timeout (t, 120);
  tcase_add_test (t, test_many_parts);
  tcase_add_loop_test (t, test_lying_manifest, 0, G_N_ELEMENTS (lies));
  tcase_add_test (t, test_rows_that_no_file_holds);
  tcase_add_test (t, test_deep_json);
  tcase_add_test (t, test_json_fault);
  tcase_add_test (t, test_hidden_depth);
  tcase_add_loop_test (t, test_hostile_filters, 0, G_N_ELEMENTS (filters));
  tcase_add_loop_test (t, test_honest_filters, 0, 5);
  tcase_add_test (t, test_name_that_is_no_text);
  suite_add_tcase (s, t);
  return s;
}

GST_CHECK_MAIN (hostile)
