/* Losses with a state of their own: a training that stops and is resumed from its checkpoint ends with the bits of the uninterrupted one. */
#include "kd-graph.h"

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

/* Epochs of five steps; (transfer full) the weights at the end. */
static GBytes *
train (const gchar *name, guint epochs, const gchar *loss)
{
  g_autofree gchar *path = g_strdup_printf ("%s/%s.safetensors", folder, name), *message = NULL, *content = NULL;
  g_autofree gchar *graph = g_strdup_printf (
      "kdh5src location=%s first=0 count=160 shuffle=true seed=5 epochs=%u batch-size=32 ! kdteacher arch=\"mlp dims=64,16,10\" seed=3 ! "
      "kdstudent arch=\"mlp dims=64,8,10\" seed=7 save=%s ! %s ! kdtrain optimizer=adamw learning-rate=0.01 checkpoint=%s/%s.ckpt resume=true",
      digits, epochs, path, loss, folder, name);
  gsize size;

  message = kd_test_run (graph, NULL);
  ck_assert_msg (*message == 0, "%s: %s", graph, message);
  ck_assert (g_file_get_contents (path, &content, &size, NULL));
  return g_bytes_new_take (g_steal_pointer (&content), size);
}

/* @other: the same loss, but for what its state does. */
static void
check_loss (const gchar *name, const gchar *loss, const gchar *other)
{
  g_autofree gchar *cut = g_strconcat (name, "-cut", NULL), *without = g_strconcat (name, "-without", NULL);
  g_autoptr (GBytes) whole = train (name, 4, loss);
  g_autoptr (GBytes) half = train (cut, 2, loss);
  g_autoptr (GBytes) resumed = train (cut, 4, loss);
  g_autoptr (GBytes) stateless = train (without, 4, other);

  ck_assert (!g_bytes_equal (half, whole));
  ck_assert_msg (g_bytes_equal (resumed, whole), "%s goes on with another state than it stopped with", loss);
  ck_assert_msg (!g_bytes_equal (stateless, whole), "%s: the state makes no difference", loss);
}

GST_START_TEST (test_taid)
{
  check_loss ("taid", "kdtaid total-steps=20 t-start=0.2 alpha=0.1 beta=0.5", "kdtaid total-steps=20 t-start=0.2 t-end=0.2000001 adaptive=false");
}
GST_END_TEST

GST_START_TEST (test_adakd)
{
  check_loss ("adakd", "kdadakd ema-decay=0.5 epsilon=0.001 delta=0.2", "kdadakd latf=false");
}
GST_END_TEST

static Suite *
loss_state_suite (void)
{
  Suite *s = suite_create ("loss-state");
  TCase *t = tcase_create ("all");

  suite_add_tcase (s, t);
  tcase_set_timeout (t, 120);
  tcase_add_checked_fixture (t, setup, teardown);
  tcase_add_test (t, test_taid);
  tcase_add_test (t, test_adakd);
  return s;
}

GST_CHECK_MAIN (loss_state)
