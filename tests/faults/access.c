/* Places where nothing can be written, and files that cannot be read or are none: reading goes on where it can, and what cannot be done says why. */
#include "kd-fault.h"

#include <sys/mount.h>
#include <sys/stat.h>

static gchar *place;

static void
setup (void)
{
  gint64 n = 100, dims[] = { 100, 4 };
  g_autoptr (KdTensor) id = kd_tensor_new (KD_INT64, 1, &n), logits = kd_tensor_new_zero (KD_FLOAT32, 2, dims);
  const gchar *names[] = { "sample.id", "teacher.logits" };
  KdTensor *tensors[] = { id, logits };

  kd_test_in_memory ();
  kd_command_setup ();
  g_chdir (kd_folder);
  for (gint64 i = 0; i < n; i++)
    ((gint64 *) id->data)[i] = i;
  place = g_build_filename (kd_folder, "place", NULL);
  g_mkdir (place, 0755);
  kd_test_write ("d.h5", 2, names, tensors);
  kd_expect (0, "kd launch --quiet 'kdh5src location=d.h5 batch-size=20 ! kdcachesink location=c.h5 part-bytes=1000' && kd cache prune --range :50 c.h5 a.h5", "");
}

static void
teardown (void)
{
  umount2 (place, MNT_DETACH);
  g_chdir ("/");
  g_clear_pointer (&place, g_free);
  kd_command_teardown ();
}

/* Each of these needs to write there. */
GST_START_TEST (test_read_only)
{
  static const gchar *const lines[] = {
    "kd launch --quiet 'kdh5src location=d.h5 ! kdcachesink location=place/a.h5 resume=true'", "kd launch --quiet 'kdh5src location=d.h5 ! kdcachesink location=place/new.h5'",
    "kd launch --quiet 'kdh5src location=d.h5 ! kdh5sink location=place/new.h5'", "kd cache pack c.h5 place/new.h5", "kd cache merge place/a.h5 c.h5", "kd cache merge place/new.h5 c.h5",
    "kd cache prune --range :5 c.h5 place/new.h5", "kd cache export c.h5 place/new.npz", "kd cache repair place/broken.h5"
  };
  g_autofree gchar *before = NULL, *after = NULL;

  if (mount ("tmpfs", place, "tmpfs", 0, "size=4m") != 0)
    return; /* not root */
  kd_expect (0, "cp -r a.h5 a.h5.parts place && cp a.h5 place/broken.h5 && cp -r a.h5.parts place/broken.h5.parts && rm place/broken.h5.parts/00000.h5", "");
  ck_assert (mount ("tmpfs", place, "tmpfs", MS_REMOUNT | MS_RDONLY, NULL) == 0);
  before = kd_fault_sum ("place");
  for (guint i = 0; i < G_N_ELEMENTS (lines); i++) {
    kd_expect (1, lines[i], "Read-only file system");
    ck_assert_msg (strstr (kd_err, "place/"), "%s: %s", lines[i], kd_err);
    ck_assert_msg (!strstr (kd_err, "HDF5-DIAG") && !strstr (kd_err, "unknown"), "%s: %s", lines[i], kd_err);
  }
  after = kd_fault_sum ("place");
  ck_assert_str_eq (before, after);
  /* Reading needs nothing, and to look at the damage neither. */
  kd_expect (0, "kd cache verify -q place/a.h5 && kd cache info place/a.h5 && kd cache diff place/a.h5 a.h5", "same");
  kd_expect (0, "kd cache repair --dry-run place/broken.h5", "nothing was changed");
  kd_expect (0, "kd launch --quiet 'kdh5src location=d.h5 fields=sample.id count=50 ! kdcache location=place/a.h5 check-identity=false ! kdh5sink location=o.h5'", "");
}
GST_END_TEST;

/* What stands where a part, a manifest, a packed file or an output has to be. */
GST_START_TEST (test_no_file)
{
  static const struct {
    const gchar *before, *line, *message;
  } rows[] = {
    { "rm a.h5.parts/00000.h5; mkdir a.h5.parts/00000.h5", "kd cache verify a.h5", "a.h5.parts/00000.h5\", reason=not a regular file" },
    { "rm a.h5.parts/00000.h5; ln -s /nowhere a.h5.parts/00000.h5", "kd cache verify a.h5", "a.h5.parts/00000.h5\", reason=No such file" },
    { "rm a.h5.parts/00000.h5; mkfifo a.h5.parts/00000.h5", "kd cache verify a.h5", "reason=not a regular file" },
    { "rm a.h5.parts/00000.h5; mkdir a.h5.parts/00000.h5", "kd launch --quiet 'kdh5src location=d.h5 fields=sample.id count=10 ! kdcache location=a.h5 check-identity=false ! fakesink'", "a.h5.parts/00000.h5" },
    { "rm a.h5.parts/manifest.json; mkdir a.h5.parts/manifest.json", "kd cache verify a.h5", "Cannot open cache: path=\"a.h5\"" },
    { "rm -r a.h5.parts; touch a.h5.parts", "kd cache info a.h5", "a.h5" },
    { "rm -r a.h5.parts; touch a.h5.parts", "kd launch --quiet 'kdh5src location=d.h5 ! kdcachesink location=a.h5 resume=true'", "Cannot write cache: path=\"a.h5\"" },
    { "rm -r a.h5 a.h5.parts; mkdir a.h5", "kd cache info a.h5", "a.h5" },
    { "mkdir o.h5", "kd launch --quiet 'kdh5src location=d.h5 ! kdh5sink location=o.h5'", "Is a directory" },
    { "mkdir o.h5", "kd launch --quiet 'kdh5src location=d.h5 ! kdcachesink location=o.h5'", "a file of that name is there" },
    { "mkdir o.npz", "kd cache export --force c.h5 o.npz", "Is a directory" },
    { "true", "kd cache pack c.h5 nowhere/o.h5", "path=\"nowhere/o.h5\", folder=\"nowhere\", reason=No such file" },
    { "touch f", "kd cache merge f/o.h5 c.h5", "path=\"f/o.h5\", reason=Not a directory" },
  };

  for (guint i = 0; i < G_N_ELEMENTS (rows); i++) {
    kd_expect (0, "rm -rf keep; mkdir keep; cp -r a.h5 a.h5.parts keep", "");
    kd_expect (0, rows[i].before, "");
    kd_expect (1, rows[i].line, rows[i].message);
    kd_expect (0, "rm -rf o.* f a.h5 a.h5.parts; cp -r keep/* .", "");
  }
}
GST_END_TEST;

/* Root may read everything: another user tries, where one can be had. */
GST_START_TEST (test_unreadable)
{
  kd_expect (0, "chmod -R a+rwX . && chmod 0 a.h5.parts/00000.h5", "");
  if (geteuid () == 0 && kd_command ("setpriv --reuid 65534 --regid 65534 --clear-groups kd cache info c.h5") != 0)
    return; /* nor may that user come here */
  kd_expect (1, geteuid () ? "kd cache verify a.h5" : "setpriv --reuid 65534 --regid 65534 --clear-groups kd cache verify a.h5", "a.h5.parts/00000.h5\", reason=Permission denied");
  kd_expect (0, "chmod 644 a.h5.parts/00000.h5 && chmod 0 a.h5.parts/manifest.json", "");
  kd_expect (1, geteuid () ? "kd cache verify a.h5" : "setpriv --reuid 65534 --regid 65534 --clear-groups kd cache verify a.h5", "Permission denied");
  kd_expect (0, "chmod 644 a.h5.parts/manifest.json && chmod 555 a.h5.parts", "");
  kd_expect (1, geteuid () ? "kd cache merge a.h5 c.h5" : "setpriv --reuid 65534 --regid 65534 --clear-groups kd cache merge a.h5 c.h5", "Permission denied");
  kd_expect (0, "chmod 755 a.h5.parts", "");
}
GST_END_TEST;

static Suite *
access_suite (void)
{
  Suite *s = suite_create (KD_TEST_NAME);
  TCase *t = tcase_create ("access");

  tcase_add_checked_fixture (t, setup, teardown);
  tcase_add_test (t, test_read_only);
  tcase_add_test (t, test_no_file);
  tcase_add_test (t, test_unreadable);
  suite_add_tcase (s, t);
  return s;
}

GST_CHECK_MAIN (access)
