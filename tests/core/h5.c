/* Batch files: written and read back, read by h5py, written by h5py, and files that lie. */
#include "kd-check.h"

#include <fcntl.h>
#include <glib/gstdio.h>
#include <sys/stat.h>
#include <unistd.h>

static gchar *folder;

static void
make_folder (void)
{
  folder = g_dir_make_tmp ("kd-h5-XXXXXX", NULL);
}

static void
remove_folder (void)
{
  const gchar *argv[] = { "rm", "-rf", folder, NULL };

  g_spawn_sync (NULL, (gchar **) argv, NULL, G_SPAWN_SEARCH_PATH, NULL, NULL, NULL, NULL, NULL, NULL);
  g_clear_pointer (&folder, g_free);
}

static gchar *
in_folder (const gchar *name)
{
  return g_build_filename (folder, name, NULL);
}

/* Runs a Python script in the folder; FALSE (and the test says so) where there is no h5py. */
static gboolean
python (const gchar *script)
{
  g_autofree gchar *text = g_strconcat ("import sys\ntry:\n  import h5py, numpy as np\nexcept ImportError:\n  sys.exit(77)\n",
      script, NULL);
  const gchar *argv[] = { "/usr/bin/python3", "-c", text, NULL };
  g_autofree gchar *err = NULL;
  gint status = 0;

  if (!g_spawn_sync (folder, (gchar **) argv, NULL, 0, NULL, NULL, NULL, &err, &status, NULL))
    return FALSE;
  if (WIFEXITED (status) && WEXITSTATUS (status) == 77) {
    g_printerr ("h5py is not installed: skipped\n");
    return FALSE;
  }
  ck_assert_msg (status == 0, "python: %s", err);
  return TRUE;
}

static KdTensor *
ramp (KdDtype dtype, gint64 n, gint64 width)
{
  gint64 dims[] = { n, width };
  KdTensor *wide = kd_tensor_new (KD_FLOAT32, 2, dims), *narrow;

  for (gint64 i = 0; i < n * width; i++)
    ((gfloat *) wide->data)[i] = (gfloat) (i % 251);
  narrow = kd_tensor_cast (wide, dtype, NULL);
  kd_tensor_unref (wide);
  return narrow;
}

static KdTensor *
ids (gint64 n, gint64 first)
{
  KdTensor *tensor = kd_tensor_new (KD_INT64, 1, &n);

  for (gint64 i = 0; i < n; i++)
    ((gint64 *) tensor->data)[i] = first + i;
  return tensor;
}

static void
write_rows (const gchar *path, KdDtype dtype, gint64 n, gint64 width, gint64 per_batch)
{
  GError *error = NULL;
  KdH5Writer *writer = kd_h5_writer_new (path, &error);
  const gchar *names[] = { "x", "sample.id" };

  kd_assert_no_error (error);
  for (gint64 first = 0; first < n; first += per_batch) {
    gint64 now = MIN (per_batch, n - first);
    g_autoptr (KdTensor) all = ramp (dtype, n, width);
    KdTensor *tensors[] = { kd_tensor_slice (all, first, now), ids (now, first) };
    kd_h5_writer_append (writer, 2, names, tensors, &error);
    kd_assert_no_error (error);
    kd_tensor_unref (tensors[0]);
    kd_tensor_unref (tensors[1]);
  }
  kd_h5_writer_finish (writer, &error);
  kd_assert_no_error (error);
  kd_h5_writer_close (writer);
}

GST_START_TEST (test_round_trip_every_dtype)
{
  static const KdDtype dtypes[] = { KD_FLOAT32, KD_FLOAT16, KD_BFLOAT16, KD_FLOAT64, KD_INT64, KD_INT32, KD_UINT16, KD_UINT8 };
  const gint64 rows[] = { 9, 0, 3, 3, 4 };

  for (guint i = 0; i < G_N_ELEMENTS (dtypes); i++) {
    g_autofree gchar *path = in_folder ("all.h5");
    g_autoptr (KdTensor) whole = ramp (dtypes[i], 10, 3), expected = kd_tensor_take (whole, rows, 5);
    g_autoptr (KdTensor) taken = NULL, read = NULL;
    g_autoptr (KdH5Reader) reader = NULL;
    GError *error = NULL;
    write_rows (path, dtypes[i], 10, 3, 4);
    reader = kd_h5_reader_open (path, NULL, &error);
    kd_assert_no_error (error);
    ck_assert_int_eq (kd_h5_reader_n_rows (reader), 10);
    ck_assert_str_eq (kd_h5_reader_attribute (reader, "kd.schema"), "batch/1");
    taken = kd_h5_reader_take (reader, "x", rows, 5, &error);
    kd_assert_no_error (error);
    read = kd_h5_reader_read (reader, "x", 0, 10, &error);
    kd_assert_no_error (error);
    ck_assert (kd_tensor_equal (taken, expected));
    ck_assert (kd_tensor_equal (read, whole));
  }
}
GST_END_TEST;

/* Above the writer's buffer: chunks of whole rows, still without the library when read. */
GST_START_TEST (test_large_file_is_chunked)
{
  g_autofree gchar *path = in_folder ("large.h5");
  const gint64 rows[] = { 199999, 0, 65536, 65535, 100000 };
  g_autoptr (KdTensor) whole = ramp (KD_FLOAT32, 200000, 64), expected = kd_tensor_take (whole, rows, 5);
  g_autoptr (KdTensor) taken = NULL, read = NULL;
  g_autoptr (KdH5Reader) reader = NULL;
  GError *error = NULL;

  write_rows (path, KD_FLOAT32, 200000, 64, 70000);
  reader = kd_h5_reader_open (path, NULL, &error);
  kd_assert_no_error (error);
  taken = kd_h5_reader_take (reader, "x", rows, 5, &error);
  read = kd_h5_reader_read (reader, "x", 0, 200000, &error);
  kd_assert_no_error (error);
  ck_assert (kd_tensor_equal (taken, expected));
  ck_assert (kd_tensor_equal (read, whole));
}
GST_END_TEST;

GST_START_TEST (test_text_scalars_and_groups)
{
  g_autofree gchar *path = in_folder ("text.h5");
  const gint64 offsets[] = { 0, 3, 3, 7 }, rows[] = { 2, 1 };
  g_autoptr (KdTensor) text = kd_tensor_new_utf8 (3, offsets, "onefour"), number = kd_tensor_new_scalar (2.5);
  g_autoptr (KdTensor) taken = NULL, scalar = NULL;
  g_autoptr (KdH5Reader) reader = NULL, inner = NULL;
  g_auto (GStrv) groups = NULL;
  const gchar *name = "record";
  GError *error = NULL;
  g_autoptr (KdH5Writer) writer = kd_h5_writer_new (path, &error);

  kd_assert_no_error (error);
  ck_assert (kd_h5_writer_append (writer, 1, &name, &text, &error));
  ck_assert (kd_h5_writer_append (writer, 1, &name, &text, &error));
  ck_assert (kd_h5_writer_write (writer, "expected", "loss", number, &error));
  ck_assert (kd_h5_writer_set_attribute (writer, "origin", "made here", &error));
  ck_assert (kd_h5_writer_finish (writer, &error));
  reader = kd_h5_reader_open (path, NULL, &error);
  kd_assert_no_error (error);
  ck_assert_int_eq (kd_h5_reader_n_rows (reader), 6);
  ck_assert_str_eq (kd_h5_reader_attribute (reader, "origin"), "made here");
  taken = kd_h5_reader_take (reader, "record", rows, 2, &error);
  kd_assert_no_error (error);
  ck_assert_int_eq (taken->offsets[2], 4);
  ck_assert (memcmp (taken->data, "four", 4) == 0);
  groups = kd_h5_reader_groups (reader);
  ck_assert_str_eq (groups[0], "expected");
  inner = kd_h5_reader_open (path, "expected", &error);
  kd_assert_no_error (error);
  scalar = kd_h5_reader_read_all (inner, "loss", &error);
  kd_assert_no_error (error);
  kd_assert_close (kd_tensor_get_double (scalar, 0), 2.5, 0);
}
GST_END_TEST;

GST_START_TEST (test_h5py_reads_ours)
{
  g_autofree gchar *path = in_folder ("half.h5"), *brain = in_folder ("brain.h5");

  write_rows (path, KD_FLOAT16, 7, 2, 7);
  write_rows (brain, KD_BFLOAT16, 7, 2, 7);
  if (!python ("f = h5py.File('half.h5')\nassert f['x'].dtype == np.float16, f['x'].dtype\nassert f['x'][3, 1] == 7\n"
               "assert f['sample.id'][6] == 6\nassert f.attrs['kd.schema'] == 'batch/1', f.attrs['kd.schema']\n"
               "assert f.attrs['kd.fields'] == 'sample.id=int64 x=float16:2', f.attrs['kd.fields']\n"
               "b = h5py.File('brain.h5')['x']\nassert b.attrs['kd.dtype'] == 'bfloat16'\n"
               "assert (b[3:4, 1].astype(np.uint32) << 16).view(np.float32)[0] == 7\n"))
    return;
}
GST_END_TEST;

/* What h5py makes with no thought of us: contiguous, chunked, compressed, big-endian, narrow and wide types. */
GST_START_TEST (test_reads_h5py)
{
  static const gchar *const fields[] = { "plain", "chunked", "deflated", "big", "small", "wide", "half", "flag", "empty.axis" };
  const gint64 rows[] = { 99, 3, 3, 50, 51, 0 };
  g_autofree gchar *path = in_folder ("py.h5");
  GError *error = NULL;
  g_autoptr (KdH5Reader) reader = NULL;

  if (!python ("x = np.arange(300).reshape(100, 3)\nf = h5py.File('py.h5', 'w')\nf['plain'] = x.astype(np.float32)\n"
               "f.create_dataset('chunked', data=x.astype(np.int32), chunks=(7, 3))\n"
               "f.create_dataset('deflated', data=x.astype(np.float64), chunks=(7, 2), compression='gzip', shuffle=True)\n"
               "f['big'] = x.astype('>f4')\nf['small'] = (x % 100).astype(np.int8)\nf['wide'] = x.astype(np.uint64)\n"
               "f['half'] = x.astype(np.float16)\nf['flag'] = x % 2 == 1\nf['empty.axis'] = np.zeros((100, 0))\nf.attrs['n'] = 3\n"
               "f.attrs['r'] = 0.5\nf.attrs['b'] = np.bytes_('fixed')\n"))
    return;
  reader = kd_h5_reader_open (path, NULL, &error);
  kd_assert_no_error (error);
  kd_assert_close (kd_h5_reader_attribute_double (reader, "r", 0), 0.5, 0);
  kd_assert_close (kd_h5_reader_attribute_double (reader, "b", 7), 7, 0);
  ck_assert_str_eq (kd_h5_reader_attribute (reader, "n"), "3");
  ck_assert_str_eq (kd_h5_reader_attribute (reader, "b"), "fixed");
  for (guint i = 0; i < G_N_ELEMENTS (fields); i++) {
    g_autoptr (KdTensor) taken = kd_h5_reader_take (reader, fields[i], rows, 6, &error);
    kd_assert_no_error (error);
    for (gint64 k = 0; k < 6 && taken->n_bytes; k++)
      for (gint64 c = 0; c < 3; c++) {
        gint64 x = rows[k] * 3 + c, expected = i == 4 ? x % 100 : i == 7 ? x % 2
                                                                         : x;
        ck_assert_msg (kd_tensor_get_double (taken, (gsize) (k * 3 + c)) == (gdouble) expected, "%s row %d", fields[i], (int) k);
      }
  }
}
GST_END_TEST;

/* Scripts that make bad.h5, the code and a part of the message. */
static const struct {
  const gchar *script;
  KdError code;
  const gchar *message;
} bad[] = {
  { "f['a'] = np.zeros(4)\nf['b'] = h5py.SoftLink('/a')\n", KD_ERROR_FORMAT, "dataset=\"b\", reason=soft link" },
  { "f['b'] = h5py.ExternalLink('/etc/passwd', '/a')\n", KD_ERROR_FORMAT, "external link" },
  { "open('raw', 'wb').write(b'x' * 64)\n"
    "f.create_dataset('a', shape=(64,), dtype='u1', external=[('raw', 0, 64)])\n",
      KD_ERROR_FORMAT, "external storage is refused" },
  { "l = h5py.VirtualLayout(shape=(4,), dtype='f4')\nl[:] = h5py.VirtualSource('other.h5', 'a', shape=(4,))\nf.create_virtual_dataset('a', l)\n", KD_ERROR_FORMAT, "virtual dataset" },
  { "f.create_dataset('a', data=['x', 'y'])\n", KD_ERROR_FORMAT, "dataset=\"a\", reason=its element type is not supported" },
  { "f['a'] = np.zeros(3, dtype=[('u', 'f4'), ('v', 'f4')])\n", KD_ERROR_FORMAT, "element type is not supported" },
  { "f['a'] = np.zeros(3, dtype=np.longdouble)\n", KD_ERROR_FORMAT, "element type is not supported" },
  { "f['t'] = np.dtype('f4')\n", KD_ERROR_FORMAT, "dataset=\"t\", reason=not a dataset" },
  { "f['Upper Case'] = np.zeros(3)\n", KD_ERROR_FORMAT, "not a field's name" },
  { "f['a' * 114 + '.offset'] = np.zeros(3)\n", KD_ERROR_FORMAT, "at most 120" },
  { "f['a'] = np.zeros([1] * 9)\n", KD_ERROR_FORMAT, "rank=9" },
  { "f['a'] = h5py.Empty('f4')\n", KD_ERROR_FORMAT, "an empty dataspace" },
  { "f.create_dataset('a', shape=(1 << 40, 8), dtype='f4')\n", KD_ERROR_FORMAT, "declared but never written" },
  { "f.create_dataset('a', shape=(1 << 40, 8), dtype='f4', chunks=(1024, 8))\n", KD_ERROR_IO, "lying about its shape" },
  { "f.attrs['kd.schema'] = 'batch/1'\nf['a'] = np.zeros(3)\nf['b'] = np.zeros(4)\n", KD_ERROR_SHAPE,
      "rows=4, others have 3, dataset=\"b\"" },
  { "f['a'] = np.arange(4096.0)\nf.close()\nopen('bad.h5', 'r+').truncate(9000)\nf = None\n", KD_ERROR_FORMAT, "truncated" },
  { "f.close()\nopen('bad.h5', 'wb').write(b'not HDF5 at all' * 50)\nf = None\n", KD_ERROR_FORMAT, "not an HDF5 file" },
  { "f.close()\nopen('bad.h5', 'wb').close()\nf = None\n", KD_ERROR_FORMAT, "bytes=0" },
};

GST_START_TEST (test_refuses_bad_files)
{
  g_autofree gchar *path = in_folder ("bad.h5");
  g_autofree gchar *script = g_strconcat ("f = h5py.File('bad.h5', 'w')\n", bad[__i__].script, "if f: f.close()\n", NULL);
  GError *error = NULL;

  if (!python (script))
    return;
  ck_assert (kd_h5_reader_open (path, NULL, &error) == NULL);
  kd_assert_error (error, bad[__i__].code, bad[__i__].message);
}
GST_END_TEST;

/* A dataset whose dimension was changed in the bytes of the file itself. */
GST_START_TEST (test_refuses_lying_dimension)
{
  g_autofree gchar *path = in_folder ("lie.h5"), *bytes = NULL;
  GError *error = NULL;
  gsize size = 0, hits = 0;
  guint64 rows = 12345, lie = 123456789;

  write_rows (path, KD_FLOAT32, 12345, 2, 12345);
  ck_assert (g_file_get_contents (path, &bytes, &size, NULL));
  for (gsize i = 0; i + 8 <= size; i++)
    if (memcmp (bytes + i, &rows, 8) == 0 && ++hits)
      memcpy (bytes + i, &lie, 8);
  ck_assert_uint_gt (hits, 0);
  ck_assert (g_file_set_contents (path, bytes, (gssize) size, NULL));
  ck_assert (kd_h5_reader_open (path, NULL, &error) == NULL);
  kd_assert_error (error, KD_ERROR_FORMAT, "reason=checksum of what is not rows");
  ck_assert (g_file_set_contents (path, bytes, (gssize) size - 1, NULL)); /* without its last letter there is no sum: as a stranger's file */
  ck_assert (kd_h5_reader_open (path, NULL, &error) == NULL);
  kd_assert_error (error, KD_ERROR_IO, "lying about its shape");
}
GST_END_TEST;

GST_START_TEST (test_refuses_rows_and_fields)
{
  g_autofree gchar *path = in_folder ("r.h5"), *none = in_folder ("none.h5");
  const gint64 over = 5, under = -1;
  GError *error = NULL;
  g_autoptr (KdH5Reader) reader = NULL;

  write_rows (path, KD_FLOAT32, 5, 2, 5);
  reader = kd_h5_reader_open (path, NULL, &error);
  kd_assert_no_error (error);
  ck_assert (kd_h5_reader_take (reader, "x", &over, 1, &error) == NULL);
  kd_assert_error (error, KD_ERROR_RANGE, "dataset=\"x\", row=5, rows in the file=5");
  ck_assert (kd_h5_reader_take (reader, "x", &under, 1, &error) == NULL);
  kd_assert_error (error, KD_ERROR_RANGE, "row=-1");
  ck_assert (kd_h5_reader_read (reader, "x", 3, 3, &error) == NULL);
  kd_assert_error (error, KD_ERROR_RANGE, "first=3, rows=3");
  ck_assert (kd_h5_reader_read (reader, "x", 1, G_MAXINT64, &error) == NULL);
  kd_assert_error (error, KD_ERROR_RANGE, "rows in the file=5");
  ck_assert (kd_h5_reader_take (reader, "y", &under, 1, &error) == NULL);
  kd_assert_error (error, KD_ERROR_FIELD, "layout=\"sample.id x\"");
  ck_assert (kd_h5_reader_open (path, "expected", &error) == NULL);
  kd_assert_error (error, KD_ERROR_FIELD, "group=\"expected\", reason=no such group");
  ck_assert (kd_h5_reader_open (none, NULL, &error) == NULL);
  kd_assert_error (error, KD_ERROR_IO, "No such file");
  ck_assert (kd_h5_reader_open (folder, NULL, &error) == NULL);
  kd_assert_error (error, KD_ERROR_IO, "not a regular file");
}
GST_END_TEST;

GST_START_TEST (test_refuses_bad_values)
{
  g_autofree gchar *path = in_folder ("bad.h5");
  g_autoptr (KdH5Reader) reader = NULL;
  GError *error = NULL;

  if (!python ("f = h5py.File('bad.h5', 'w')\nf['flag'] = np.array([0, 7], dtype='i1').view(np.bool_)\n"
               "f['big'] = np.array([1, 1 << 63], dtype='u8')\nf['t.bytes'] = np.zeros(8, 'u1')\nf['t.offset'] = np.array([0, 5, 3])\n"))
    return;
  reader = kd_h5_reader_open (path, NULL, &error);
  kd_assert_no_error (error);
  ck_assert (kd_h5_reader_read (reader, "flag", 0, 2, &error) == NULL);
  kd_assert_error (error, KD_ERROR_VALUE, "neither 0 nor 1");
  ck_assert (kd_h5_reader_read (reader, "big", 0, 2, &error) == NULL);
  kd_assert_error (error, KD_ERROR_RANGE, "value=9223372036854775808");
  ck_assert (kd_h5_reader_read (reader, "t", 0, 2, &error) == NULL);
  kd_assert_error (error, KD_ERROR_FORMAT, "row=1, offsets=5,3");
}
GST_END_TEST;

GST_START_TEST (test_writer_refuses)
{
  g_autofree gchar *path = in_folder ("w.h5"), *nowhere = in_folder ("none/w.h5");
  g_autoptr (KdTensor) two = ramp (KD_FLOAT32, 2, 2), three = ramp (KD_FLOAT32, 2, 3), half = ramp (KD_FLOAT16, 2, 2);
  const gchar *name = "x", *other = "y";
  GError *error = NULL;
  KdH5Writer *writer = kd_h5_writer_new (path, &error);
  GDir *dir;

  ck_assert (kd_h5_writer_append (writer, 1, &name, &two, &error));
  ck_assert (!kd_h5_writer_append (writer, 1, &name, &three, &error));
  kd_assert_error (error, KD_ERROR_SHAPE, "x");
  ck_assert (!kd_h5_writer_append (writer, 1, &name, &half, &error));
  kd_assert_error (error, KD_ERROR_DTYPE, "x");
  ck_assert (!kd_h5_writer_append (writer, 1, &other, &two, &error));
  kd_assert_error (error, KD_ERROR_FIELD, "field=y");
  ck_assert (!kd_h5_writer_write (writer, NULL, "Not a name", two, &error));
  kd_assert_error (error, KD_ERROR_FIELD, "Not a name");
  kd_h5_writer_close (writer);
  dir = g_dir_open (folder, 0, NULL);
  ck_assert (g_dir_read_name (dir) == NULL);
  g_dir_close (dir);
  ck_assert (kd_h5_writer_new (nowhere, &error) == NULL);
  kd_assert_error (error, KD_ERROR_IO, "none");
}
GST_END_TEST;

GST_START_TEST (test_fingerprint)
{
  g_autofree gchar *path = in_folder ("f.h5"), *a = NULL, *b = NULL, *c = NULL;
  GError *error = NULL;
  gchar **all[] = { &a, &b, &c };

  for (guint i = 0; i < 3; i++) {
    g_autoptr (KdH5Reader) reader = NULL;
    write_rows (path, KD_FLOAT32, i == 2 ? 5 : 6, 2, i == 0 ? 6 : 4);
    reader = kd_h5_reader_open (path, NULL, &error);
    *all[i] = kd_h5_fingerprint (reader, &error);
    kd_assert_no_error (error);
  }
  ck_assert_uint_eq (strlen (a), 64);
  ck_assert_str_eq (a, b);
  ck_assert_str_ne (a, c);
}
GST_END_TEST;

static Suite *
h5_suite (void)
{
  Suite *s = suite_create (KD_TEST_NAME);
  TCase *t = tcase_create ("h5");

  tcase_add_checked_fixture (t, make_folder, remove_folder);
  tcase_set_timeout (t, 120);
  tcase_add_test (t, test_round_trip_every_dtype);
  tcase_add_test (t, test_large_file_is_chunked);
  tcase_add_test (t, test_text_scalars_and_groups);
  tcase_add_test (t, test_h5py_reads_ours);
  tcase_add_test (t, test_reads_h5py);
  tcase_add_loop_test (t, test_refuses_bad_files, 0, G_N_ELEMENTS (bad));
  tcase_add_test (t, test_refuses_lying_dimension);
  tcase_add_test (t, test_refuses_rows_and_fields);
  tcase_add_test (t, test_refuses_bad_values);
  tcase_add_test (t, test_writer_refuses);
  tcase_add_test (t, test_fingerprint);
  suite_add_tcase (s, t);
  return s;
}

GST_CHECK_MAIN (h5)
