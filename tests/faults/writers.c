/* Two at once on one cache: the second is refused and told who the first is, whatever command it is; a dead one's lock is nobody's. */
#include "kd-fault.h"

#include <errno.h>
#include <sys/file.h>
#include <sys/stat.h>

#define ROWS 200
#define SLOW "kd launch --quiet 'kdh5src location=d.h5 batch-size=5 ! identity sleep-time=20000 ! kdcachesink location=o.h5 part-bytes=300 resume=true'"
#define CAPTURE "kd launch --quiet 'kdh5src location=d.h5 ! kdcachesink location=o.h5 part-bytes=3000 resume=true'"

static GPid running;

static void
setup (void)
{
  gint64 n = ROWS, dims[] = { ROWS, 4 };
  g_autoptr (KdTensor) id = kd_tensor_new (KD_INT64, 1, &n), logits = kd_tensor_new (KD_FLOAT32, 2, dims);
  const gchar *names[] = { "sample.id", "teacher.logits" };
  KdTensor *tensors[] = { id, logits };

  kd_test_in_memory ();
  kd_command_setup ();
  g_chdir (kd_folder);
  for (gint64 i = 0; i < ROWS; i++) {
    ((gint64 *) id->data)[i] = i;
    for (gint64 c = 0; c < 4; c++)
      ((gfloat *) logits->data)[4 * i + c] = (gfloat) (i + c);
  }
  kd_test_write ("d.h5", 2, names, tensors);
  kd_expect (0, "kd launch --quiet 'kdh5src location=d.h5 ! kdcachesink location=c.h5 part-bytes=3000' && kd cache prune --range :100 c.h5 a.h5", "");
}

static void
teardown (void)
{
  g_chdir ("/");
  kd_command_teardown ();
}

static GPid
start (const gchar *line)
{
  g_auto (GStrv) argv = NULL;
  GError *error = NULL;
  GPid pid = 0;

  ck_assert (g_shell_parse_argv (line, NULL, &argv, NULL));
  ck_assert_msg (g_spawn_async (kd_folder, argv, NULL, G_SPAWN_SEARCH_PATH | G_SPAWN_DO_NOT_REAP_CHILD | G_SPAWN_STDERR_TO_DEV_NULL, NULL, NULL, &pid, &error), "%s", error ? error->message : "");
  return pid;
}

static gint
end (GPid pid)
{
  int status = 0;

  ck_assert_int_eq (waitpid (pid, &status, 0), pid);
  return WIFEXITED (status) ? WEXITSTATUS (status) : 128 + WTERMSIG (status);
}

/* A capture that has committed something and has more to come. */
static void
start_capture (void)
{
  running = start (SLOW);
  for (gint64 until = g_get_monotonic_time () + 60 * G_USEC_PER_SEC; !g_file_test ("o.h5.parts/00001.h5", G_FILE_TEST_EXISTS) && g_get_monotonic_time () < until;)
    g_usleep (1000);
  ck_assert (g_file_test ("o.h5.parts/00001.h5", G_FILE_TEST_EXISTS));
}

GST_START_TEST (test_refused)
{
  static const gchar *const seconds[] = { CAPTURE, "kd cache merge o.h5 c.h5", "kd cache prune --range :150 c.h5 o.h5", "kd cache repair o.h5", "kd cache repair --dry-run o.h5" };
  g_autofree gchar *holder = NULL;

  start_capture ();
  holder = g_strdup_printf ("path=\"o.h5\", reason=another process is writing it: %d (", (int) running);
  for (guint i = 0; i < G_N_ELEMENTS (seconds); i++)
    kd_expect (1, seconds[i], holder);
  /* Readers need no lock: what is committed is whole. */
  kd_expect (0, "kd cache verify -q o.h5 && kd cache pack o.h5 p.h5", "");
  kd_fault_rows ("p.h5", "c.h5", TRUE, "packed while it was captured");
  kd_expect (1, "kd cache pack --force c.h5 o.h5", "the output is a cache with parts");
  ck_assert_int_eq (end (running), 0);
  kd_fault_rows ("o.h5", "c.h5", FALSE, "after all that");
  ck_assert (!g_file_test ("o.h5.parts/.writer", G_FILE_TEST_EXISTS));
}
GST_END_TEST;

GST_START_TEST (test_taken_over)
{
  start_capture ();
  kill (running, SIGKILL);
  ck_assert_int_eq (end (running), 128 + SIGKILL);
  ck_assert (g_file_test ("o.h5.parts/.writer", G_FILE_TEST_EXISTS)); /* its name is still there, its lock is not */
  if (__i__ == 0)
    kd_expect (0, CAPTURE, "");
  else
    kd_expect (0, "kd cache repair o.h5 && kd cache merge o.h5 c.h5", "were there");
  kd_fault_rows ("o.h5", "c.h5", FALSE, "taken over");
  ck_assert (!g_file_test ("o.h5.parts/.writer", G_FILE_TEST_EXISTS));
}
GST_END_TEST;

/* Both begin at once: one does it, the other says why not; which, nobody knows. */
GST_START_TEST (test_race)
{
  static const gchar *const lines[] = { "kd launch --quiet 'kdh5src location=d.h5 ! kdcachesink location=o.h5 part-bytes=3000'", "kd cache merge o.h5 a.h5 c.h5", CAPTURE };
  guint n_refused = 0;

  for (guint i = 0; i < 20; i++) {
    const gchar *line = lines[i % 3];
    GPid a = start (line), b = start (i % 2 ? line : lines[0]);
    gint x = end (a), y = end (b);
    ck_assert_msg ((x == 0 || y == 0) && (x == 0 || x == 1) && (y == 0 || y == 1), "%s: %d and %d", line, x, y);
    n_refused += x + y;
    kd_fault_rows ("o.h5", "c.h5", FALSE, line);
    kd_expect (0, "rm -rf o.h5 o.h5.parts", "");
  }
  ck_assert_uint_gt (n_refused, 3);
}
GST_END_TEST;

/* While this merge looks at what it would do, another does it. */
static void
merge_meanwhile (gint64 done, gint64 total, gpointer user_data)
{
  gboolean *is_done = user_data;

  if (!*is_done)
    kd_expect (0, "kd cache merge o.h5 c.h5", "200 rows");
  *is_done = TRUE;
}

GST_START_TEST (test_written_meanwhile)
{
  const gchar *inputs[] = { "a.h5", NULL };
  gboolean is_done = FALSE;
  const KdCacheCopyOptions options = { .progress = merge_meanwhile, .user_data = &is_done };
  KdCacheCopyResult result;
  GError *error = NULL;

  if (__i__ == 1)
    kd_expect (0, "kd cache prune --range :50 c.h5 o.h5", "");
  ck_assert (!kd_cache_merge ("o.h5", inputs, &options, &result, &error));
  kd_assert_error (error, KD_ERROR_IO, "another process wrote it meanwhile");
  ck_assert (is_done);
  kd_fault_rows ("o.h5", "c.h5", FALSE, "written meanwhile");
}
GST_END_TEST;

/* Whether another program could write into @path now. */
static gboolean
is_free (const gchar *path)
{
  int fd = open (path, O_RDONLY | O_CLOEXEC);
  gboolean free = fd >= 0 && flock (fd, LOCK_EX | LOCK_NB) == 0;

  ck_assert (fd >= 0 && (free || errno == EWOULDBLOCK));
  close (fd);
  return free;
}

/* An open reader keeps other programs from writing into its file, mapped or compressed; those who replace the file work on, and the reader has what it opened. */
GST_START_TEST (test_reader)
{
  static const gchar *const makes[] = { "kd launch --quiet 'kdh5src location=d.h5 ! kdh5sink location=r.h5'", "kd cache pack --force --filter=deflate c.h5 r.h5" };
  static const gchar *const replaces[] = { "kd launch --quiet 'kdh5src location=r.h5 count=50 ! kdh5sink location=r.h5'", "kd cache pack --force a.h5 r.h5" };
  GError *error = NULL;
  KdH5Reader *reader;
  struct stat before, after;

  kd_expect (0, makes[__i__], "");
  reader = kd_h5_reader_open ("r.h5", NULL, &error);
  kd_assert_no_error (error);
  ck_assert (!is_free ("r.h5") && is_free ("d.h5"));
  ck_assert (g_stat ("r.h5", &before) == 0);
  kd_expect (0, replaces[__i__], "");
  ck_assert (g_stat ("r.h5", &after) == 0 && before.st_ino != after.st_ino);
  ck_assert (is_free ("r.h5"));
  for (gint64 row = 0; row < ROWS; row += ROWS - 1) {
    g_autoptr (KdTensor) logits = kd_h5_reader_take (reader, "teacher.logits", &row, 1, &error);
    kd_assert_no_error (error);
    ck_assert (((gfloat *) logits->data)[1] == (gfloat) (row + 1));
  }
  kd_h5_reader_close (reader);
  kd_expect (0, makes[__i__], "");
  reader = kd_h5_reader_open ("r.h5", NULL, &error);
  kd_assert_no_error (error);
  kd_h5_reader_close (reader);
  ck_assert (is_free ("r.h5"));
}
GST_END_TEST;

/* A repair takes damaged parts away from under those who read the others. */
GST_START_TEST (test_repair_while_read)
{
  GError *error = NULL;
  KdCacheReader *reader;
  gint64 id = 0, row;

  kd_expect (0, "cp -r c.h5.parts o.h5.parts && cp c.h5 o.h5 && rm o.h5.parts/00001.h5", "");
  reader = kd_cache_reader_open ("o.h5", &error);
  kd_assert_no_error (error);
  for (guint i = 0; i < 2; i++) {
    g_autoptr (KdTensor) logits = NULL;
    ck_assert_int_eq (kd_cache_reader_find (reader, 1, &id, NULL, &row), 0);
    logits = kd_cache_reader_take (reader, "teacher.logits", 1, &row, &error);
    kd_assert_no_error (error);
    ck_assert (((gfloat *) logits->data)[3] == 3);
    if (i == 0) {
      ck_assert (!is_free ("o.h5.parts/00000.h5"));
      kd_expect (0, "kd cache repair o.h5 && kd cache merge o.h5 c.h5", "were there");
    }
  }
  kd_cache_reader_close (reader);
  kd_fault_rows ("o.h5", "c.h5", FALSE, "repaired and filled while it was read");
}
GST_END_TEST;

/* Weights: the next save takes away what dead writers left, not what a living one, or one on another machine (it has a lock), is writing. */
GST_START_TEST (test_weights)
{
  GPid dead = start ("true");
  g_autoptr (KdParamSet) set = kd_param_set_new (1);
  g_autofree gchar *left = g_strdup_printf (".w.safetensors.partial-%d.abcdef", (int) dead), *locked = g_strdup_printf (".w.safetensors.partial-%d.locked", (int) dead);
  g_autofree gchar *living = g_strdup_printf (".w.safetensors.partial-%d.abcdef", (int) getppid ()), *other = g_strdup_printf (".x.safetensors.partial-%d.abcdef", (int) dead);
  const gchar *names[] = { left, locked, living, other };
  GError *error = NULL;
  int lock;

  ck_assert_int_eq (end (dead), 0);
  for (guint i = 0; i < G_N_ELEMENTS (names); i++)
    ck_assert (g_file_set_contents (names[i], "half", -1, NULL));
  lock = open (locked, O_RDONLY | O_CLOEXEC);
  ck_assert (flock (lock, LOCK_EX) == 0);
  kd_param_set_add (set, "b", 1, (const gint64[]) { 2 }, KD_INIT_ZEROS, TRUE, NULL);
  kd_param_set_freeze (set);
  ck_assert (kd_param_set_save (set, "w.safetensors", NULL, &error));
  kd_assert_no_error (error);
  ck_assert (!g_file_test (left, G_FILE_TEST_EXISTS));
  for (guint i = 1; i < G_N_ELEMENTS (names); i++)
    ck_assert_msg (g_file_test (names[i], G_FILE_TEST_EXISTS), "%s was removed", names[i]);
  close (lock);
  ck_assert (kd_param_set_save (set, "w.safetensors", NULL, &error) && !g_file_test (locked, G_FILE_TEST_EXISTS));
  ck_assert (kd_param_set_load (set, "w.safetensors", &error));
}
GST_END_TEST;

static Suite *
writers_suite (void)
{
  Suite *s = suite_create (KD_TEST_NAME);
  TCase *t = tcase_create ("writers");

  tcase_add_checked_fixture (t, setup, teardown);
  tcase_set_timeout (t, 240);
  tcase_add_test (t, test_refused);
  tcase_add_loop_test (t, test_taken_over, 0, 2);
  tcase_add_test (t, test_race);
  tcase_add_loop_test (t, test_written_meanwhile, 0, 2);
  tcase_add_loop_test (t, test_reader, 0, 2);
  tcase_add_test (t, test_repair_while_read);
  tcase_add_test (t, test_weights);
  suite_add_tcase (s, t);
  return s;
}

GST_CHECK_MAIN (writers)
