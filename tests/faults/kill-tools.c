/* kill -9 of merge, prune, repair and pack at random instants: the inputs stay as they were, and the run that comes through ends with the manifest, and so
 * with the checksums of every row, of one that was never killed. KD_KILLS=N sets another number of kills. */
#include "kd-graph.h"

#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#define ROWS 6000
#define WIDTH 32

static gchar *self_path, *folder;
static const gchar *const commands[] = { "merge", "link", "prune", "repair", "pack", "pack-zstd" };

static void
write_cache (const gchar *path, gint64 first, gint64 n)
{
  const KdCacheIdentity identity = { (gchar *) "t", NULL, (gchar *) "d", NULL, (gchar *) "" };
  gint64 dims[] = { 50, WIDTH }, ids[50];
  const gchar *name = "teacher.logits";
  GError *error = NULL;
  KdCacheWriter *writer = kd_cache_writer_open (path, FALSE, &identity, 50000, &error);

  kd_assert_no_error (error);
  for (gint64 at = 0; at < n; at += 50) {
    g_autoptr (KdTensor) tensor = kd_tensor_new (KD_FLOAT32, 2, dims);
    for (gint64 i = 0; i < 50; i++) {
      ids[i] = first + at + i;
      for (gint64 c = 0; c < WIDTH; c++)
        ((gfloat *) tensor->data)[i * WIDTH + c] = (gfloat) (ids[i] + c);
    }
    ck_assert (kd_cache_writer_append (writer, 50, ids, NULL, 1, &name, &tensor, &error));
  }
  ck_assert (kd_cache_writer_finish (writer, &error));
  kd_cache_writer_close (writer);
}

static void
shell (const gchar *line)
{
  const gchar *argv[] = { "/bin/sh", "-ec", line, NULL };
  g_autofree gchar *err = NULL;
  gint status = 0;

  ck_assert (g_spawn_sync (folder, (gchar **) argv, NULL, 0, NULL, NULL, NULL, &err, &status, NULL));
  ck_assert_msg (status == 0, "%s: %s", line, err);
}

/* Two overlapping shards, and a cache with three damaged parts and one that is gone. */
static void
make_data (void)
{
  kd_test_in_memory ();
  folder = kd_test_folder ();
  g_chdir (folder);
  write_cache ("a.h5", 0, ROWS);
  write_cache ("b.h5", ROWS - 200, ROWS);
  shell ("cp -r a.h5.parts broken.h5.parts; cp a.h5 broken.h5; cd broken.h5.parts; rm 00009.h5; for i in 2 5 6; do printf XYZ | dd of=0000$i.h5 bs=1 seek=30000 conv=notrunc; done");
  shell ("cp -r broken.h5.parts c.h5.parts; cp broken.h5 c.h5; find a.h5* b.h5* -type f -exec sha256sum {} + | sort > before");
}

static void
remove_data (void)
{
  g_chdir ("/");
  kd_test_remove (folder);
  g_clear_pointer (&folder, g_free);
}

/* The child: one command. */
static int
work (const gchar *command, const gchar *where)
{
  const gchar *shards[] = { "a.h5", "b.h5", NULL };
  const KdCacheSelection range = { .has_range = TRUE, .first_id = 777, .last_id = 5333 };
  const KdCacheCopyOptions options = { .link = g_str_equal (command, "link"), .part_bytes = 60000 };
  KdCacheCopyResult result;
  GError *error = NULL;
  g_autoptr (KdCacheRepair) repair = NULL;

  if (g_chdir (where) < 0)
    return 3;
  if (g_str_equal (command, "repair"))
    repair = kd_cache_repair ("c.h5", FALSE, &options, &error);
  else if (g_str_equal (command, "prune"))
    kd_cache_prune ("a.h5", "o.h5", &range, &options, &result, &error);
  else if (g_str_has_prefix (command, "pack"))
    kd_cache_pack ("a.h5", "o.h5", g_str_equal (command, "pack") ? "none" : "blosc-zstd", 0, NULL, NULL, &error);
  else
    kd_cache_merge ("o.h5", shards, &options, &result, &error);
  if (error)
    g_printerr ("%s\n", error->message);
  return error ? 1 : 0;
}

static pid_t
start_child (const gchar *command)
{
  pid_t pid = fork ();

  if (pid == 0) {
    execl (self_path, self_path, "--work", command, folder, NULL);
    _exit (127);
  }
  ck_assert_int_gt (pid, 0);
  return pid;
}

static gboolean
wait_child (pid_t pid)
{
  int status = 0;

  ck_assert_int_eq (waitpid (pid, &status, 0), pid);
  ck_assert_msg (WIFSIGNALED (status) || WEXITSTATUS (status) == 0, "the command ended with %d", WEXITSTATUS (status));
  return WIFEXITED (status);
}

static void
begin_again (const gchar *command)
{
  shell (g_str_equal (command, "repair") ? "rm -rf c.h5 c.h5.parts; cp -r broken.h5.parts c.h5.parts; cp broken.h5 c.h5" : "rm -rf o.h5 o.h5.parts .o.h5.partial-*");
}

/* (transfer full) the manifest of a run's result, and the damaged parts that it set apart. */
static gchar *
read_result (const gchar *command)
{
  const gchar *path = g_str_equal (command, "repair") ? "c.h5" : "o.h5";
  g_autofree gchar *manifest = g_strconcat (path, ".parts/manifest.json", NULL), *lost = g_strconcat (path, ".parts/quarantine/lost.txt", NULL);
  g_autofree gchar *text = NULL, *report = NULL;
  const KdCacheCopyOptions options = { 0 };
  GError *error = NULL;

  if (g_str_has_prefix (command, "pack")) {
    g_autoptr (KdCacheDiff) diff = kd_cache_diff ("a.h5", "o.h5", &options, &error);
    kd_assert_no_error (error);
    shell ("! find . -name '*.partial-*' | grep .");
    return g_strdup_printf ("%" G_GINT64_FORMAT " rows, %" G_GINT64_FORMAT " and %" G_GINT64_FORMAT " of one alone, %g apart", diff->n_common, diff->n_only_a, diff->n_only_b,
        ((KdCacheFieldDiff *) g_ptr_array_index (diff->fields, 0))->max);
  }
  ck_assert_msg (kd_cache_verify (path, NULL, NULL, NULL, &error), "%s", error ? error->message : "");
  ck_assert (g_file_get_contents (manifest, &text, NULL, NULL));
  g_file_get_contents (lost, &report, NULL, NULL);
  shell ("! find . -name '*.partial-*' | grep .");
  if (g_str_equal (command, "repair"))
    shell ("cmp broken.h5.parts/00002.h5 c.h5.parts/quarantine/00002.h5; test $(ls c.h5.parts/quarantine | wc -l) = 4; test ! -e c.h5.parts/00002.h5");
  return g_strconcat (text, report, NULL);
}

GST_START_TEST (test_kill)
{
  const gchar *command = commands[__i__];
  guint n_kills = g_getenv ("KD_KILLS") ? (guint) atoi (g_getenv ("KD_KILLS")) : 30, n_inside = 0;
  g_autofree gchar *wanted = NULL;
  gint64 before_us, whole_us;
  KdRandom random;

  kd_random_init (&random, 5, kd_random_purpose ("kill"), (guint) __i__, 0);
  ck_assert (wait_child (start_child (command)));
  wanted = read_result (command);
  if (g_str_has_prefix (command, "pack"))
    ck_assert_str_eq (wanted, "6000 rows, 0 and 0 of one alone, 0 apart");
  begin_again (command);
  before_us = g_get_monotonic_time (); /* the second run: the first had to load everything */
  ck_assert (wait_child (start_child (command)));
  whole_us = g_get_monotonic_time () - before_us;
  begin_again (command);
  for (guint i = 0; n_inside < n_kills / 2 && i < 4 * n_kills; i++) {
    pid_t pid = start_child (command);
    g_usleep ((gulong) ((0.1 + 0.9 * kd_random_uniform (&random)) * (gdouble) whole_us));
    kill (pid, SIGKILL);
    if (!wait_child (pid)) {
      n_inside++;
      if (n_inside % 4) /* several kills in one piece of work, too */
        continue;
    }
    ck_assert (wait_child (start_child (command)));
    {
      g_autofree gchar *got = read_result (command);
      ck_assert_str_eq (got, wanted);
    }
    begin_again (command);
  }
  ck_assert_uint_gt (n_inside, n_kills / 8);
  g_print ("%s: %u kills\n", command, n_inside);
  shell ("find a.h5* b.h5* -type f -exec sha256sum {} + | sort | cmp - before");
}
GST_END_TEST;

static Suite *
kill_tools_suite (void)
{
  Suite *s = suite_create (KD_TEST_NAME);
  TCase *t = tcase_create ("kill-tools");

  tcase_add_checked_fixture (t, make_data, remove_data);
  tcase_set_timeout (t, g_getenv ("KD_KILLS") ? 7200 : 280);
  tcase_add_loop_test (t, test_kill, 0, G_N_ELEMENTS (commands));
  suite_add_tcase (s, t);
  return s;
}

int
main (int argc, char **argv)
{
  if (argc == 4 && g_str_equal (argv[1], "--work"))
    return work (argv[2], argv[3]);
  self_path = g_file_read_link ("/proc/self/exe", NULL);
  gst_check_init (&argc, &argv);
  return gst_check_run_suite (kill_tools_suite (), KD_TEST_NAME, __FILE__);
}
