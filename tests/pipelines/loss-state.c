/* Losses with a state of their own: a training that stops and is resumed from its checkpoint ends with the bits of the uninterrupted one. */
#include "kd-graph.h"
#include <gst/check/gstharness.h>

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

#define POSITIONS 3
/* split of each batch: 0 train, 1 probe, 2 end of a stage */
static const gint64 course[] = { 0, 0, 1, 2, 0, 0 };

static GstBuffer *
token_batch (guint i)
{
  const gint64 dims[3] = { 2, POSITIONS, 4 };
  KdBatch *batch;
  GstBuffer *buffer = kd_batch_buffer_new (2, &batch);
  KdTensor *input = kd_tensor_new (KD_FLOAT32, 3, dims), *label = kd_tensor_new (KD_INT64, 2, dims), *mask = kd_tensor_new (KD_UINT8, 2, dims),
           *split = kd_tensor_new_zero (KD_INT64, 0, NULL);

  for (guint j = 0; j < 2 * POSITIONS * 4; j++)
    ((gfloat *) input->data)[j] = (gfloat) ((j * 7 + i * 3) % 11) / 10;
  for (guint j = 0; j < 2 * POSITIONS; j++) {
    ((gint64 *) label->data)[j] = (j + i) % 5;
    ((guint8 *) mask->data)[j] = 1;
  }
  *(gint64 *) split->data = course[i];
  kd_batch_set (batch, "input", input);
  kd_batch_set (batch, "label", label);
  kd_batch_set (batch, "mask", mask);
  kd_batch_set (batch, "split", split);
  batch->index = i;
  batch->flags |= course[i] == 1 ? KD_BATCH_VALIDATION : 0;
  return buffer;
}

/* Batches @first to @end of the course through a student behind a length curriculum; (transfer full) its weights then. */
static GBytes *
train_tokens (const gchar *name, guint first, guint end, gboolean probed)
{
  g_autofree gchar *path = g_strdup_printf ("%s/%s.safetensors", folder, name), *content = NULL;
  g_autofree gchar *text = g_strdup_printf ("kdstudent name=student arch=\"linear out=5\" seed=7 save=%s ! kdlengate name=gate lengths=1,3 h-min=0.1 ! kdce name=ce ! "
                                            "kdtrain name=train optimizer=sgd momentum=0.9 learning-rate=0.5 checkpoint=%s/%s.ckpt resume=true",
      path, folder, name);
  GstHarness *h = gst_harness_new_parse (text);
  g_autoptr (KdLayout) layout = NULL;
  KdResume resume = { .views = -1 };
  g_autoptr (GstQuery) query = kd_query_new_pointer (KD_QUERY_RESUME, &resume);
  GstBuffer *like = token_batch (0);
  gsize size;

  layout = kd_batch_layout (kd_batch_get (like));
  kd_layout_set (layout, "split", KD_INT64, 0, NULL);
  gst_buffer_unref (like);
  ck_assert (gst_pad_peer_query (h->srcpad, query) && !resume.failed && !resume.checkpoint == (first == 0));
  g_clear_pointer (&resume.checkpoint, kd_checkpoint_unref);
  gst_harness_set_src_caps (h, kd_layout_to_caps (layout));
  for (guint i = first; i < end; i++)
    if (probed || course[i] != 1)
      ck_assert_int_eq (gst_harness_push (h, token_batch (i)), GST_FLOW_OK);
  ck_assert (gst_harness_push_event (h, gst_event_new_eos ()));
  gst_harness_teardown (h);
  ck_assert (g_file_get_contents (path, &content, &size, NULL));
  return g_bytes_new_take (g_steal_pointer (&content), size);
}

/* The probe lies before the checkpoint, the end of its stage behind it. */
GST_START_TEST (test_lengate)
{
  g_autoptr (GBytes) whole = train_tokens ("whole", 0, G_N_ELEMENTS (course), TRUE);
  g_autoptr (GBytes) half = train_tokens ("cut", 0, 3, TRUE);
  g_autoptr (GBytes) resumed = train_tokens ("cut", 3, G_N_ELEMENTS (course), TRUE);
  g_autoptr (GBytes) unprobed = train_tokens ("unprobed", 0, G_N_ELEMENTS (course), FALSE);

  ck_assert (!g_bytes_equal (half, whole));
  ck_assert_msg (g_bytes_equal (resumed, whole), "kdlengate forgets its probe in a checkpoint");
  ck_assert_msg (!g_bytes_equal (unprobed, whole), "the probe makes no difference");
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
  tcase_add_test (t, test_lengate);
  return s;
}

GST_CHECK_MAIN (loss_state)
