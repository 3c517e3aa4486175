/* kill -9 of a capture at fifty random instants: the cache opens each time, every row that its manifest had named is there and
 * right, and the capture that goes on ends with the rows of one that was never stopped. KD_KILLS=N sets another number. */
#include "kd-graph.h"

#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#define ROWS 20000
#define WIDTH 32
/* slow enough to be killed at every part */
#define SLOW "kdh5src location=%s/d.h5 shuffle=%s seed=3 batch-size=50 ! identity sleep-time=8000 ! kdcachesink location=%s/t.h5 part-bytes=40000 resume=true"
#define GRAPH "kdh5src location=%s/d.h5 shuffle=%s seed=3 batch-size=50 ! kdcachesink location=%s/t.h5 part-bytes=100000 resume=true"

static gchar *self_path, *folder, *cache;

static void
make_data (void)
{
  gint64 n = ROWS, dims[] = { ROWS, WIDTH };
  KdTensor *tensors[] = { kd_tensor_new (KD_INT64, 1, &n), kd_tensor_new (KD_FLOAT32, 2, dims) };
  const gchar *names[] = { "sample.id", "teacher.logits" };
  g_autofree gchar *path = NULL;

  kd_test_in_memory ();
  folder = kd_test_folder ();
  path = g_build_filename (folder, "d.h5", NULL);
  cache = g_build_filename (folder, "t.h5", NULL);
  for (gint64 i = 0; i < ROWS; i++) {
    ((gint64 *) tensors[0]->data)[i] = 3 * i;
    for (gint64 c = 0; c < WIDTH; c++)
      ((gfloat *) tensors[1]->data)[i * WIDTH + c] = (gfloat) (3 * i + c);
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
  g_clear_pointer (&cache, g_free);
}

static pid_t
start_child (const gchar *how, gboolean shuffle)
{
  pid_t pid = fork ();

  if (pid == 0) {
    execl (self_path, self_path, how, folder, shuffle ? "true" : "false", NULL);
    _exit (127);
  }
  ck_assert_int_gt (pid, 0);
  return pid;
}

/* TRUE when the child came to its end by itself. */
static gboolean
wait_child (pid_t pid)
{
  int status = 0;

  ck_assert_int_eq (waitpid (pid, &status, 0), pid);
  ck_assert_msg (WIFSIGNALED (status) || WEXITSTATUS (status) == 0, "the capture ended with %d", WEXITSTATUS (status));
  return WIFEXITED (status);
}

/* (transfer full) the cache, or NULL when no manifest has been written yet. */
static KdCacheReader *
open_cache (void)
{
  g_autofree gchar *manifest = g_strconcat (cache, ".parts/manifest.json", NULL);
  GError *error = NULL;
  KdCacheReader *reader;

  if (!g_file_test (manifest, G_FILE_TEST_EXISTS))
    return NULL;
  reader = kd_cache_reader_open (cache, &error);
  kd_assert_no_error (error);
  return reader;
}

/* Every row has its own sample's values. Returns how many there are. */
static gint64
check_rows (void)
{
  g_autoptr (KdCacheReader) reader = open_cache ();
  g_autofree gint64 *rows = NULL, *ids = NULL;
  g_autoptr (KdTensor) values = NULL;
  GError *error = NULL;
  gint64 n, found = 0;

  if (!reader)
    return 0;
  n = kd_cache_reader_n_rows (reader);
  ck_assert_msg (kd_cache_verify (cache, NULL, NULL, NULL, &error), "%s", error ? error->message : "");
  rows = g_new (gint64, ROWS);
  ids = g_new (gint64, ROWS);
  for (gint64 i = 0; i < ROWS; i++) {
    gint64 id = 3 * i, row;
    if (kd_cache_reader_find (reader, 1, &id, NULL, &row))
      continue;
    ids[found] = id;
    rows[found++] = row;
  }
  ck_assert_int_eq (found, n);
  values = kd_cache_reader_take (reader, "teacher.logits", n, rows, &error);
  kd_assert_no_error (error);
  for (gint64 i = 0; i < n; i++)
    for (gint64 c = 0; c < WIDTH; c++)
      ck_assert (((gfloat *) values->data)[i * WIDTH + c] == (gfloat) (ids[i] + c));
  return n;
}

static gint64
rows_named (void)
{
  g_autoptr (KdCacheReader) reader = open_cache ();

  return reader ? kd_cache_reader_n_rows (reader) : 0;
}

static void
remove_cache (void)
{
  g_autofree gchar *parts = g_strconcat (cache, ".parts", NULL);

  kd_test_remove (parts);
  g_unlink (cache);
}

GST_START_TEST (test_kill)
{
  gint64 before_us = g_get_monotonic_time (), whole_us, kept = 0;
  guint n_kills = g_getenv ("KD_KILLS") ? (guint) atoi (g_getenv ("KD_KILLS")) : 50, n_inside = 0;
  gboolean shuffle = __i__ == 1;
  KdRandom random;

  kd_random_init (&random, 11, kd_random_purpose ("kill"), (guint) __i__, 0);
  ck_assert (wait_child (start_child ("--capture", shuffle)));
  whole_us = g_get_monotonic_time () - before_us;
  ck_assert_int_eq (check_rows (), ROWS);
  remove_cache ();
  /* The first run may have been slow where later ones are not: an end that came before the kill shortens the wait, and does not count. */
  for (guint i = 0; n_inside < n_kills / 2 && i < 2 * n_kills; i++) {
    pid_t pid = start_child ("--capture", shuffle);
    gint64 named;
    g_usleep ((gulong) (kd_random_uniform (&random) * (gdouble) whole_us));
    named = rows_named ();
    kill (pid, SIGKILL);
    if (wait_child (pid) || kept == ROWS) {
      ck_assert_int_eq (check_rows (), ROWS);
      remove_cache ();
      kept = 0;
      whole_us = MAX (whole_us * 9 / 10, 10000);
      continue;
    }
    n_inside++;
    ck_assert_int_ge (named, kept);
    kept = check_rows ();
    ck_assert_int_ge (kept, named);
  }
  ck_assert_int_gt (n_inside, n_kills / 8);
  g_print ("capture%s: %u kills\n", shuffle ? ", shuffled" : "", n_inside);
  ck_assert (wait_child (start_child ("--capture", shuffle)));
  ck_assert_int_eq (check_rows (), ROWS);
  {
    g_autoptr (KdCacheReader) reader = open_cache ();
    ck_assert (kd_cache_reader_complete (reader));
  }
}
GST_END_TEST;

/* The same capture, killed twenty times one after the other, each time when it has just committed something; then compared with one that never was. */
GST_START_TEST (test_twenty_in_a_row)
{
  g_autofree gchar *never = g_strconcat (cache, ".never", NULL), *line = g_strdup_printf ("mv %s %s && mv %s.parts %s.parts", cache, never, cache, never);
  const KdCacheCopyOptions options = { 0 };
  g_autoptr (KdCacheDiff) diff = NULL;
  GError *error = NULL;
  gint64 kept = 0;

  ck_assert (wait_child (start_child ("--capture", TRUE)));
  {
    const gchar *argv[] = { "/bin/sh", "-c", line, NULL };
    ck_assert (g_spawn_sync (NULL, (gchar **) argv, NULL, 0, NULL, NULL, NULL, NULL, NULL, NULL));
  }
  for (guint i = 0; i < 20; i++) {
    pid_t pid = start_child ("--slow", TRUE);
    for (gint64 until = g_get_monotonic_time () + 20 * G_USEC_PER_SEC; rows_named () <= kept && g_get_monotonic_time () < until;)
      g_usleep (500);
    kill (pid, SIGKILL);
    ck_assert_msg (!wait_child (pid), "kill %u came after the end", i);
    ck_assert_int_gt (check_rows (), kept);
    kept = check_rows ();
  }
  ck_assert_int_lt (kept, ROWS);
  ck_assert (wait_child (start_child ("--capture", TRUE)));
  diff = kd_cache_diff (cache, never, &options, &error);
  kd_assert_no_error (error);
  ck_assert_int_eq (diff->n_common, ROWS);
  ck_assert (diff->n_only_a == 0 && diff->n_only_b == 0 && !diff->identity);
  ck_assert_int_eq (((KdCacheFieldDiff *) g_ptr_array_index (diff->fields, 0))->n_rows, 0);
  g_print ("20 kills in a row, at up to %" G_GINT64_FORMAT " of %d rows: the same cache\n", kept, ROWS);
}
GST_END_TEST;

static Suite *
kill_capture_suite (void)
{
  Suite *s = suite_create (KD_TEST_NAME);
  TCase *t = tcase_create ("kill-capture");

  tcase_add_checked_fixture (t, make_data, remove_data);
  tcase_set_timeout (t, g_getenv ("KD_KILLS") ? 7200 : 280);
  tcase_add_loop_test (t, test_kill, 0, 2); /* in the data's order, and shuffled */
  if (!g_getenv ("KD_KILLS"))
    tcase_add_test (t, test_twenty_in_a_row);
  suite_add_tcase (s, t);
  return s;
}

/* The child: one capture. */
static int
capture (gboolean slow, const gchar *where, const gchar *shuffle)
{
  g_autofree gchar *graph = slow ? g_strdup_printf (SLOW, where, shuffle, where) : g_strdup_printf (GRAPH, where, shuffle, where);
  g_autofree gchar *error_text = NULL;

  gst_init (NULL, NULL);
  error_text = kd_test_run (graph, NULL);
  if (*error_text)
    g_printerr ("%s\n", error_text);
  return *error_text ? 1 : 0;
}

int
main (int argc, char **argv)
{
  if (argc == 4 && (g_str_equal (argv[1], "--capture") || g_str_equal (argv[1], "--slow")))
    return capture (g_str_equal (argv[1], "--slow"), argv[2], argv[3]);
  self_path = g_file_read_link ("/proc/self/exe", NULL);
  gst_check_init (&argc, &argv);
  return gst_check_run_suite (kill_capture_suite (), KD_TEST_NAME, __FILE__);
}
