/* A training that is killed (SIGKILL) at random instants and resumed gives bit for bit the weights of the uninterrupted run: parameters, moments, order,
 * augmentation, dropout and the metrics' state all go on where the last checkpoint was. */
#include "kd-graph.h"

#include <signal.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

/* SGD with momentum, AdamW's moments, dropout, noise views, a shuffled order and accumulation over uneven batches. */
#define GRAPH                                                                                                                                              \
  "kdh5src location=%s shuffle=true seed=5 epochs=40 batch-size=32 ! kdcrop padding=1 seed=3 %s! kdstudent arch=\"mlp dims=64,32,10 dropout=0.2\" seed=7 " \
  "save=%s ! kdce ! kdmetrics ! kdtrain optimizer=%s learning-rate=0.01 schedule=cosine clip-norm=1 accumulate=3 checkpoint=%s checkpoint-every=7 resume=true"

static gchar *folder, *digits;

static void
setup (void)
{
  folder = kd_test_folder ();
  digits = kd_test_digits ();
}

static void
teardown (void)
{
  kd_test_remove (folder);
  g_clear_pointer (&folder, g_free);
  g_clear_pointer (&digits, g_free);
}

/* Until the child has replaced @path or has ended. */
static void
wait_for_checkpoint (pid_t child, const gchar *path)
{
  struct stat before = { 0 }, now;
  siginfo_t info = { 0 };

  if (stat (path, &before) < 0)
    before.st_ino = 0;
  for (guint i = 0; i < 60000; i++) {
    if ((stat (path, &now) == 0 && now.st_ino != before.st_ino) || (waitid (P_PID, (id_t) child, &info, WEXITED | WNOHANG | WNOWAIT) == 0 && info.si_pid))
      return;
    g_usleep (1000);
  }
}

/* In a child process, so that it can be killed once @checkpoint is a new one and so much later; 0: ended by itself. */
static int
run_child (const gchar *graph, const gchar *checkpoint, guint kill_after_us)
{
  int status = 0;
  pid_t child = fork ();

  if (child == 0) {
    g_autofree gchar *command = g_strdup_printf ("exec gst-launch-1.0 -q %s >/dev/null 2>&1", graph);
    execl ("/bin/sh", "sh", "-c", command, NULL);
    _exit (127);
  }
  if (kill_after_us) {
    wait_for_checkpoint (child, checkpoint);
    g_usleep (kill_after_us);
    kill (child, SIGKILL);
  }
  waitpid (child, &status, 0);
  return status;
}

static gchar *
shell_graph (const gchar *optimizer, const gchar *name)
{
  g_autofree gchar *save = g_strdup_printf ("%s/%s.safetensors", folder, name), *checkpoint = g_strdup_printf ("%s/%s.ckpt", folder, name);
  /* With a queue the source is ahead of what was trained on: the checkpoint has to know. */
  g_autofree gchar *graph = g_strdup_printf (GRAPH, digits, g_str_equal (optimizer, "sgd") ? "! queue max-size-buffers=4 " : "", save, optimizer, checkpoint);
  g_auto (GStrv) parts = g_strsplit (graph, "\"", -1);

  return g_strjoinv ("'", parts);
}

static void
compare (const gchar *optimizer)
{
  g_autofree gchar *whole = shell_graph (optimizer, "whole"), *cut = shell_graph (optimizer, "cut");
  g_autofree gchar *whole_path = g_build_filename (folder, "whole.safetensors", NULL), *checkpoint = g_build_filename (folder, "cut.ckpt", NULL), *cut_path = g_build_filename (folder, "cut.safetensors", NULL);
  g_autofree gchar *a = NULL, *b = NULL;
  gsize n_a = 0, n_b = 0;
  guint kills = 0;
  GRand *rand = g_rand_new_with_seed (11);

  ck_assert_int_eq (run_child (whole, checkpoint, 0), 0);
  while (kills < 8) {
    if (run_child (cut, checkpoint, (guint) g_rand_int_range (rand, 1000, 50000)) == 0)
      break; /* it had ended before the kill came */
    kills++;
  }
  g_rand_free (rand);
  ck_assert_int_eq (run_child (cut, checkpoint, 0), 0);
  ck_assert_int_eq (run_child (cut, checkpoint, 0), 0); /* resuming what has ended changes nothing */
  ck_assert_uint_gt (kills, 0);
  ck_assert (g_file_get_contents (whole_path, &a, &n_a, NULL));
  ck_assert (g_file_get_contents (cut_path, &b, &n_b, NULL));
  ck_assert_uint_eq (n_a, n_b);
  ck_assert_msg (memcmp (a, b, n_a) == 0, "%s: weights differ after %u kills", optimizer, kills);
}

GST_START_TEST (killed_adamw)
{
  compare ("adamw");
}
GST_END_TEST

GST_START_TEST (killed_sgd)
{
  compare ("sgd");
}
GST_END_TEST

GST_START_TEST (checkpoint_of_another_graph_is_refused)
{
  g_autofree gchar *checkpoint = g_build_filename (folder, "c.ckpt", NULL);
  g_autofree gchar *first = g_strdup_printf ("kdh5src location=%s ! kdstudent arch=\"mlp dims=64,10\" ! kdce ! kdtrain checkpoint=%s", digits, checkpoint);
  g_autofree gchar *second = g_strdup_printf (
      "kdh5src location=%s epochs=2 ! kdstudent name=kdstudent0 arch=\"mlp dims=64,12,10\" ! kdce ! kdtrain name=kdtrain0 checkpoint=%s resume=true", digits, checkpoint);
  g_autofree gchar *message = kd_test_run (first, NULL);
  g_autofree gchar *refused = NULL;

  ck_assert_str_eq (message, "");
  refused = kd_test_run (second, NULL);
  ck_assert_msg (strstr (refused, "layer1") != NULL, "error: \"%s\"", refused);
}
GST_END_TEST

GST_START_TEST (broken_checkpoint_is_refused)
{
  g_autofree gchar *checkpoint = g_build_filename (folder, "c.ckpt", NULL);
  g_autofree gchar *graph = g_strdup_printf ("kdh5src location=%s ! kdstudent arch=\"mlp dims=64,10\" ! kdce ! kdtrain checkpoint=%s resume=true", digits, checkpoint);
  g_autofree gchar *message = NULL;

  ck_assert (g_file_set_contents (checkpoint, "junk", -1, NULL));
  message = kd_test_run (graph, NULL);
  ck_assert_msg (strstr (message, "c.ckpt") != NULL, "error: \"%s\"", message);
}
GST_END_TEST

static Suite *
resume_suite (void)
{
  Suite *suite = suite_create ("resume");
  TCase *tcase = tcase_create ("training");

  suite_add_tcase (suite, tcase);
  tcase_add_checked_fixture (tcase, setup, teardown);
  tcase_add_test (tcase, killed_adamw);
  tcase_add_test (tcase, killed_sgd);
  tcase_add_test (tcase, checkpoint_of_another_graph_is_refused);
  tcase_add_test (tcase, broken_checkpoint_is_refused);
  return suite;
}

GST_CHECK_MAIN (resume)
