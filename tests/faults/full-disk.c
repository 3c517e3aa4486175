/* A disk that fills: a tmpfs of a few megabytes, where the test may mount one (root), else skipped. The last test makes it a page larger at each try,
 * so that every command runs out of room at every place. */
#include "kd-fault.h"

#include <errno.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <unistd.h>

static gchar *folder, *disk;

static void
make_folder (void)
{
  folder = kd_test_folder ();
  disk = g_build_filename (folder, "disk", NULL);
  g_mkdir (disk, 0700);
}

static void
remove_folder (void)
{
  umount2 (disk, MNT_DETACH);
  kd_test_remove (folder);
  g_clear_pointer (&folder, g_free);
  g_clear_pointer (&disk, g_free);
}

static gboolean
mount_disk (const gchar *options)
{
  if (mount ("tmpfs", disk, "tmpfs", 0, options) == 0)
    return TRUE;
  g_printerr ("cannot mount a tmpfs (%s): skipped\n", g_strerror (errno));
  return FALSE;
}

/* @rows rows of 1,000 float32 under two names. */
static void
write_data (gint64 rows)
{
  gint64 dims[] = { rows, 1000 };
  g_autoptr (KdTensor) tensor = kd_tensor_new_zero (KD_FLOAT32, 2, dims);
  const gchar *name = "teacher.logits";
  g_autofree gchar *path = g_build_filename (folder, "d.h5", NULL);

  for (gint64 i = 0; i < rows; i++)
    ((gfloat *) tensor->data)[i * 1000] = (gfloat) i;
  kd_test_write (path, 1, &name, &tensor);
}

static guint
n_files (const gchar *where)
{
  GDir *dir = g_dir_open (where, 0, NULL);
  guint n = 0;

  while (dir && g_dir_read_name (dir))
    n++;
  g_clear_pointer (&dir, g_dir_close);
  return n;
}

static void
expect_full (const gchar *sink)
{
  g_autofree gchar *graph = g_strdup_printf ("kdh5src location=%s/d.h5 ! %s location=%s/o.h5", folder, sink, disk);
  guint n_errors = 0;
  g_autofree gchar *text = kd_test_run (graph, &n_errors);

  ck_assert_msg (g_str_has_prefix (text, "Disk full: path=") && strstr (text, "wanted=") && strstr (text, "free="), "%s", text);
  ck_assert_uint_eq (n_errors, 1);
}

GST_START_TEST (test_batch_file)
{
  if (!mount_disk ("size=4m"))
    return;
  write_data (2000); /* 8 MB: kept in memory to the end */
  expect_full ("kdh5sink");
  ck_assert_uint_eq (n_files (disk), 0);
}
GST_END_TEST;

GST_START_TEST (test_large_batch_file)
{
  if (!mount_disk ("size=50m"))
    return;
  write_data (20000); /* 80 MB: goes out in pieces */
  expect_full ("kdh5sink");
  ck_assert_uint_eq (n_files (disk), 0);
}
GST_END_TEST;

/* The source says how many rows will come: nothing is written at all. */
GST_START_TEST (test_capture_refused)
{
  g_autofree gchar *parts = NULL;

  if (!mount_disk ("size=4m"))
    return;
  write_data (2000);
  expect_full ("kdcachesink part-bytes=100000");
  parts = g_build_filename (disk, "o.h5.parts", NULL);
  ck_assert_uint_eq (n_files (parts), 0);
}
GST_END_TEST;

/* Nobody knows how many rows will come: what is committed stays, readable, and the capture can go on once there is room. */
GST_START_TEST (test_capture_fills)
{
  g_autofree gchar *path = NULL, *parts = NULL, *junk = NULL;
  const gchar *name = "teacher.logits";
  gint64 dims[] = { 100, 1000 }, ids[100], committed;
  g_autoptr (KdTensor) tensor = kd_tensor_new_zero (KD_FLOAT32, 2, dims);
  KdCacheWriter *writer;
  GError *error = NULL;
  gint64 next = 0;

  if (!mount_disk ("size=4m"))
    return;
  path = g_build_filename (disk, "t.h5", NULL);
  parts = g_strconcat (path, ".parts", NULL);
  junk = g_build_filename (disk, "junk", NULL);
  ck_assert (g_file_set_contents (junk, tensor->data, 300000, NULL));
  writer = kd_cache_writer_open (path, FALSE, NULL, 400000, &error);
  kd_assert_no_error (error);
  while (next < 2000 && !error) {
    for (gint64 i = 0; i < 100; i++)
      ids[i] = next + i;
    if (kd_cache_writer_append (writer, 100, ids, NULL, 1, &name, &tensor, &error))
      next += 100;
  }
  kd_assert_error (error, KD_ERROR_IO, "Disk full: path=");
  committed = kd_cache_writer_n_committed (writer);
  ck_assert_int_ge (committed, 500);
  ck_assert_int_lt (committed, 1100);
  kd_cache_writer_close (writer);
  ck_assert_msg (kd_cache_verify (path, NULL, NULL, NULL, &error), "%s", error ? error->message : "");
  ck_assert_uint_eq (n_files (parts), (guint) committed / 100 + 1); /* and the manifest */
  g_unlink (junk);
  writer = kd_cache_writer_open (path, TRUE, NULL, 50000, &error);
  kd_assert_no_error (error);
  for (gint64 i = 0; i < 10; i++)
    ids[i] = next + i;
  {
    g_autoptr (KdTensor) ten = kd_tensor_slice (tensor, 0, 10);
    ck_assert (kd_cache_writer_append (writer, 10, ids, NULL, 1, &name, &ten, &error));
  }
  ck_assert_msg (kd_cache_writer_finish (writer, &error), "%s", error ? error->message : "");
  ck_assert_int_eq (kd_cache_writer_n_committed (writer), committed + 10);
  kd_cache_writer_close (writer);
}
GST_END_TEST;

/* @output: on the disk; @rows: the cache whose rows it has in the end, NULL: not a cache */
static const struct {
  const gchar *name, *before, *line, *output, *rows;
} steps[] = {
  { "capture", "", "kd launch --quiet 'kdh5src location=d.h5 batch-size=25 ! kdcachesink location=disk/o.h5 part-bytes=5000 resume=true'", "disk/o.h5", "c.h5" },
  { "pack", "", "kd cache pack --force c.h5 disk/o.h5", "disk/o.h5", "c.h5" },
  { "pack-zstd", "", "kd cache pack --force --filter=blosc-zstd c.h5 disk/o.h5", "disk/o.h5", "c.h5" },
  { "merge", "", "kd cache merge disk/o.h5 a.h5 c.h5", "disk/o.h5", "c.h5" },
  { "prune", "", "kd cache prune --range :380 c.h5 disk/o.h5", "disk/o.h5", "p.h5" },
  { "repair", "cp -r b.h5.parts disk/o.h5.parts && cp b.h5 disk/o.h5", "kd cache repair disk/o.h5", "disk/o.h5", "q.h5" },
  { "export", "", "kd cache export --force c.h5 disk/o.npz", "disk/o.npz", NULL },
  { "kdh5sink", "", "kd launch --quiet 'kdh5src location=d.h5 ! kdh5sink location=disk/o.h5'", "disk/o.h5", NULL },
};

static void
make_steps (void)
{
  gint64 n = 400, dims[] = { 400, 16 };
  g_autoptr (KdTensor) id = kd_tensor_new (KD_INT64, 1, &n), logits = kd_tensor_new (KD_FLOAT32, 2, dims);
  const gchar *names[] = { "sample.id", "teacher.logits" };
  KdTensor *tensors[] = { id, logits };

  for (gint64 i = 0; i < 400; i++) {
    ((gint64 *) id->data)[i] = i;
    for (gint64 c = 0; c < 16; c++)
      ((gfloat *) logits->data)[16 * i + c] = sinf ((gfloat) (i + c));
  }
  kd_test_write ("d.h5", 2, names, tensors);
  kd_expect (0, "kd launch --quiet 'kdh5src location=d.h5 batch-size=25 ! kdcachesink location=c.h5 part-bytes=5000' && kd cache prune --range :70 c.h5 a.h5 && kd cache prune --range :380 c.h5 p.h5", "");
  kd_expect (0, "cp -r c.h5.parts b.h5.parts && cp c.h5 b.h5 && rm b.h5.parts/00001.h5 && cp -r b.h5.parts q.h5.parts && cp b.h5 q.h5 && kd cache repair q.h5", "");
}

static void
check_full (guint i, const gchar *when)
{
  g_autofree gchar *left = kd_fault_partials ("disk"), *manifest = g_strconcat (steps[i].output, ".parts/manifest.json", NULL);

  ck_assert_msg (strstr (kd_err, "Disk full: path=\"disk/o.") || (strstr (kd_err, "No space left on device") && strstr (kd_err, "path=\"disk/o.")) || strstr (kd_err, "to=\"disk/o."), "%s: %s", when, kd_err);
  ck_assert_msg (!strstr (kd_err, "HDF5-DIAG") && !strstr (kd_err, "CRITICAL") && !strstr (kd_err, "unknown"), "%s: %s", when, kd_err);
  ck_assert_msg (!*left, "%s: %s is left", when, left);
  if (steps[i].rows && !g_str_equal (steps[i].name, "repair") && g_file_test (manifest, G_FILE_TEST_EXISTS))
    kd_fault_rows (steps[i].output, steps[i].rows, TRUE, when);
  if (!g_file_test (manifest, G_FILE_TEST_EXISTS))
    ck_assert_msg (!g_file_test (steps[i].output, G_FILE_TEST_EXISTS), "%s: half an output", when);
}

GST_START_TEST (test_every_size)
{
  guint n_full = 0;
  gint code = 1;

  if (!mount_disk ("size=4m"))
    return;
  kd_folder = g_strdup (folder);
  g_chdir (folder);
  kd_command_path ();
  make_steps ();
  for (gsize size = 4096; code != 0; size += size < 131072 ? 4096 : 16384) {
    g_autofree gchar *options = g_strdup_printf ("size=%" G_GSIZE_FORMAT, size), *when = g_strdup_printf ("%s on %" G_GSIZE_FORMAT " bytes", steps[__i__].name, size);
    umount2 (disk, MNT_DETACH);
    ck_assert (mount_disk (options));
    if (*steps[__i__].before && kd_command (steps[__i__].before) != 0)
      continue; /* not even the input fits */
    code = kd_fault_run (steps[__i__].line, NULL, 0, NULL, NULL);
    ck_assert_msg (code == 0 || code == 1, "%s: exit code %d, %s", when, code, kd_err);
    if (code == 1) {
      check_full (__i__, when);
      ck_assert (mount ("tmpfs", disk, "tmpfs", MS_REMOUNT, "size=8m") == 0);
      kd_expect (0, steps[__i__].line, "");
      n_full++;
    }
    if (steps[__i__].rows)
      kd_fault_rows (steps[__i__].output, steps[__i__].rows, FALSE, when);
    ck_assert_msg (g_file_test (steps[__i__].output, G_FILE_TEST_EXISTS), "%s: no output", when);
  }
  g_print ("%s: %u sizes that were too small\n", steps[__i__].name, n_full);
  ck_assert_uint_gt (n_full, 0);
  g_chdir ("/");
  g_clear_pointer (&kd_folder, g_free);
}
GST_END_TEST;

static Suite *
full_disk_suite (void)
{
  Suite *s = suite_create (KD_TEST_NAME);
  TCase *t = tcase_create ("full-disk");

  tcase_add_checked_fixture (t, make_folder, remove_folder);
  tcase_add_test (t, test_batch_file);
  tcase_add_test (t, test_large_batch_file);
  tcase_add_test (t, test_capture_refused);
  tcase_add_test (t, test_capture_fills);
  tcase_add_loop_test (t, test_every_size, 0, G_N_ELEMENTS (steps));
  suite_add_tcase (s, t);
  return s;
}

GST_CHECK_MAIN (full_disk)
