/* kdrebatch: sizes, order, epochs, validation, views instead of copies, state, refusals. */
#include "kd-check.h"

#include <gst/check/gstharness.h>

#define LAYOUT "input=float32:2 sample.id=int64"

static GstHarness *
harness (const gchar *launch)
{
  GstHarness *h = gst_harness_new_parse (launch);
  g_autoptr (KdLayout) layout = kd_layout_from_string (LAYOUT, NULL);

  gst_harness_set_src_caps (h, kd_layout_to_caps (layout));
  return h;
}

static GstBuffer *
batch (gint64 first, gint64 n, guint epoch, KdBatchFlags flags)
{
  gint64 dims[] = { n, 2 };
  KdTensor *input = kd_tensor_new (KD_FLOAT32, 2, dims), *ids = kd_tensor_new (KD_INT64, 1, dims);
  KdBatch *table;
  GstBuffer *buffer = kd_batch_buffer_new (n, &table);

  for (gint64 i = 0; i < n; i++) {
    ((gint64 *) ids->data)[i] = first + i;
    ((gfloat *) input->data)[2 * i] = ((gfloat *) input->data)[2 * i + 1] = (gfloat) (first + i);
  }
  kd_batch_set (table, "input", input);
  kd_batch_set (table, "sample.id", ids);
  table->epoch = epoch;
  table->flags = flags;
  table->cursor = (guint64) (first + n);
  return buffer;
}

static GstEvent *
epoch_event (guint epoch)
{
  return gst_event_new_custom (GST_EVENT_CUSTOM_DOWNSTREAM, gst_structure_new (KD_EVENT_EPOCH, "epoch", G_TYPE_UINT, epoch, NULL));
}

/* The next batch out has @n rows from @first on. */
static void
expect (GstHarness *h, gint64 first, gint64 n)
{
  GstBuffer *buffer = gst_harness_try_pull (h);
  KdBatch *table;
  KdTensor *ids, *input;

  ck_assert_msg (buffer != NULL, "no batch where rows from %" G_GINT64_FORMAT " were expected", first);
  table = kd_batch_get (buffer);
  ids = kd_batch_peek (table, "sample.id");
  input = kd_batch_peek (table, "input");
  ck_assert_int_eq (table->n_samples, n);
  ck_assert_int_eq (ids->dims[0], n);
  for (gint64 i = 0; i < n; i++) {
    ck_assert_int_eq (((gint64 *) ids->data)[i], first + i);
    kd_assert_close (((gfloat *) input->data)[2 * i + 1], (gdouble) (first + i), 0);
  }
  gst_buffer_unref (buffer);
}

GST_START_TEST (test_merge_and_split)
{
  GstHarness *h = harness ("kdrebatch batch-size=4");

  gst_harness_push (h, batch (0, 3, 0, 0));
  ck_assert_uint_eq (gst_harness_buffers_in_queue (h), 0);
  gst_harness_push (h, batch (3, 7, 0, 0));
  ck_assert_uint_eq (gst_harness_buffers_in_queue (h), 2);
  gst_harness_push (h, batch (10, 1, 0, KD_BATCH_LAST_OF_EPOCH));
  gst_harness_push_event (h, gst_event_new_eos ());
  expect (h, 0, 4);
  expect (h, 4, 4);
  expect (h, 8, 3);
  ck_assert (gst_harness_try_pull (h) == NULL);
  gst_harness_teardown (h);
}
GST_END_TEST

/* A batch inside one that came is a view of its memory. */
GST_START_TEST (test_no_copy)
{
  GstHarness *h = harness ("kdrebatch batch-size=2");
  GstBuffer *in = batch (0, 6, 0, 0), *out;
  guint8 *data = kd_batch_peek (kd_batch_get (in), "input")->data;

  gst_harness_push (h, in);
  for (guint i = 0; i < 3; i++) {
    out = gst_harness_pull (h);
    ck_assert_ptr_eq (kd_batch_peek (kd_batch_get (out), "input")->data, data + 16 * i);
    ck_assert_uint_eq (gst_buffer_get_size (out), 2 * (8 + 8));
    gst_buffer_unref (out);
  }
  gst_harness_teardown (h);
}
GST_END_TEST

GST_START_TEST (test_epochs_apart)
{
  GstHarness *h = harness ("kdrebatch batch-size=4");

  gst_harness_push (h, batch (0, 5, 0, KD_BATCH_LAST_OF_EPOCH));
  gst_harness_push_event (h, epoch_event (0));
  gst_harness_push (h, batch (0, 5, 1, 0));
  expect (h, 0, 4);
  expect (h, 4, 1);
  expect (h, 0, 4);
  /* without the event the batch's own epoch tells */
  gst_harness_push (h, batch (20, 4, 2, 0));
  expect (h, 4, 1);
  expect (h, 20, 4);
  gst_harness_push (h, batch (24, 1, 2, 0));
  gst_harness_push (h, batch (30, 4, 2, KD_BATCH_VALIDATION));
  expect (h, 24, 1);
  expect (h, 30, 4);
  gst_harness_teardown (h);
}
GST_END_TEST

GST_START_TEST (test_flags)
{
  GstHarness *h = harness ("kdrebatch batch-size=2");
  GstBuffer *out;

  gst_harness_push (h, batch (0, 3, 0, KD_BATCH_VALIDATION | KD_BATCH_LAST_OF_EPOCH));
  gst_harness_push_event (h, epoch_event (0));
  out = gst_harness_pull (h);
  ck_assert_int_eq (kd_batch_get (out)->flags, KD_BATCH_VALIDATION);
  ck_assert_uint_eq (kd_batch_get (out)->index, 0);
  gst_buffer_unref (out);
  out = gst_harness_pull (h);
  ck_assert_int_eq (kd_batch_get (out)->flags, KD_BATCH_VALIDATION | KD_BATCH_LAST_OF_EPOCH);
  ck_assert_uint_eq (kd_batch_get (out)->index, 1);
  gst_buffer_unref (out);
  gst_harness_teardown (h);
}
GST_END_TEST

GST_START_TEST (test_drop_last)
{
  GstHarness *h = harness ("kdrebatch batch-size=4 drop-last=true");

  gst_harness_push (h, batch (0, 7, 0, 0));
  gst_harness_push_event (h, gst_event_new_eos ());
  expect (h, 0, 4);
  ck_assert (gst_harness_try_pull (h) == NULL);
  gst_harness_teardown (h);
}
GST_END_TEST

GST_START_TEST (test_flush)
{
  GstHarness *h = harness ("kdrebatch batch-size=4");
  g_autoptr (KdLayout) layout = kd_layout_from_string (LAYOUT, NULL);
  GstSegment segment;

  gst_harness_push (h, batch (0, 3, 0, 0));
  gst_harness_push_event (h, gst_event_new_flush_start ());
  gst_harness_push_event (h, gst_event_new_flush_stop (TRUE));
  gst_segment_init (&segment, GST_FORMAT_DEFAULT);
  gst_harness_push_event (h, gst_event_new_segment (&segment));
  gst_harness_push (h, batch (50, 4, 0, 0));
  expect (h, 50, 4);
  gst_harness_teardown (h);
}
GST_END_TEST

/* Rows that wait come back after a resume, even when no batch follows. */
GST_START_TEST (test_state)
{
  GstHarness *h = harness ("kdrebatch name=r batch-size=4");
  g_autoptr (KdCheckpoint) checkpoint = kd_checkpoint_new ();
  KdSaveCall save = { .checkpoint = checkpoint };
  KdResume resume = { .checkpoint = checkpoint };
  g_autoptr (GstElement) element = gst_bin_get_by_name (GST_BIN (h->element), "r");
  GHashTable *table;

  gst_harness_push (h, batch (0, 6, 3, KD_BATCH_LAST_OF_EPOCH));
  expect (h, 0, 4);
  gst_harness_push_upstream_event (h, kd_event_new_pointer (GST_EVENT_CUSTOM_UPSTREAM, KD_EVENT_SAVE, &save));
  ck_assert (!save.failed);
  table = kd_checkpoint_table (checkpoint, "r", FALSE);
  ck_assert (table != NULL);
  ck_assert_int_eq (kd_state_get_int (table, "rows", 0), 2);
  ck_assert_int_eq (kd_state_get_int (table, "cursor", 0), 6);
  gst_harness_teardown (h);

  h = harness ("kdrebatch name=r batch-size=4");
  g_clear_object (&element);
  element = gst_bin_get_by_name (GST_BIN (h->element), "r");
  KD_ELEMENT_GET_CLASS (element)->resume (KD_ELEMENT (element), &resume);
  ck_assert (!resume.failed);
  gst_harness_push_event (h, epoch_event (3));
  expect (h, 4, 2);
  gst_harness_teardown (h);
}
GST_END_TEST

/* The caps are refused with one error on the bus: code and text. */
static void
expect_refusal (const gchar *layout_text, const gchar *part)
{
  GstElement *element = gst_object_ref_sink (gst_element_factory_make ("kdrebatch", "r"));
  GstBus *bus = gst_bus_new ();
  g_autoptr (KdLayout) layout = kd_layout_from_string (layout_text, NULL);
  g_autoptr (GstPad) pad = gst_element_get_static_pad (element, "sink");
  g_autoptr (GstMessage) message = NULL;
  g_autoptr (GError) error = NULL;
  GstCaps *caps = kd_layout_to_caps (layout);

  gst_element_set_bus (element, bus);
  gst_element_set_state (element, GST_STATE_PLAYING);
  gst_pad_send_event (pad, gst_event_new_stream_start ("s"));
  ck_assert (!gst_pad_send_event (pad, gst_event_new_caps (caps)));
  message = gst_bus_pop_filtered (bus, GST_MESSAGE_ERROR);
  ck_assert (message != NULL);
  gst_message_parse_error (message, &error, NULL);
  ck_assert (g_error_matches (error, GST_STREAM_ERROR, GST_STREAM_ERROR_FORMAT));
  ck_assert_msg (strstr (error->message, part) != NULL, "%s", error->message);
  gst_caps_unref (caps);
  gst_element_set_bus (element, NULL);
  gst_element_set_state (element, GST_STATE_NULL);
  gst_object_unref (element);
  gst_object_unref (bus);
}

GST_START_TEST (test_scalar_refused)
{
  expect_refusal ("input=float32:2 loss=float64:scalar",
      "Value of a whole batch cannot be split: element=r, field=loss; put kdrebatch before the element that adds it");
}
GST_END_TEST

/* Rows of unequal shape meet: the error names the field and both shapes. */
GST_START_TEST (test_uneven_rows)
{
  GstHarness *h = gst_harness_new ("kdrebatch");
  g_autoptr (KdLayout) layout = kd_layout_from_string ("input=float32:?", NULL);
  GstBus *bus = gst_bus_new ();
  g_autoptr (GstMessage) message = NULL;
  g_autoptr (GError) error = NULL;

  gst_element_set_bus (h->element, bus);
  gst_object_set_name (GST_OBJECT (h->element), "kdrebatch0");
  gst_harness_set_src_caps (h, kd_layout_to_caps (layout));
  g_object_set (h->element, "batch-size", (gint64) 4, NULL);
  for (gint64 width = 2; width <= 3; width++) {
    gint64 dims[] = { 2, width };
    KdBatch *table;
    GstBuffer *buffer = kd_batch_buffer_new (2, &table);
    kd_batch_set (table, "input", kd_tensor_new_zero (KD_FLOAT32, 2, dims));
    ck_assert_int_eq (gst_harness_push (h, buffer), width == 2 ? GST_FLOW_OK : GST_FLOW_ERROR);
  }
  message = gst_bus_pop_filtered (bus, GST_MESSAGE_ERROR);
  ck_assert (message != NULL);
  gst_message_parse_error (message, &error, NULL);
  ck_assert_msg (strstr (error->message, "Cannot merge batches: element=kdrebatch0, field=input; Shapes differ: [2,2], [2,3]") != NULL, "%s",
      error->message);
  gst_element_set_bus (h->element, NULL);
  gst_object_unref (bus);
  gst_harness_teardown (h);
}
GST_END_TEST

static Suite *
kdrebatch_suite (void)
{
  Suite *suite = suite_create ("kdrebatch");
  TCase *tcase = tcase_create ("all");

  suite_add_tcase (suite, tcase);
  tcase_add_test (tcase, test_merge_and_split);
  tcase_add_test (tcase, test_no_copy);
  tcase_add_test (tcase, test_epochs_apart);
  tcase_add_test (tcase, test_flags);
  tcase_add_test (tcase, test_drop_last);
  tcase_add_test (tcase, test_flush);
  tcase_add_test (tcase, test_state);
  tcase_add_test (tcase, test_scalar_refused);
  tcase_add_test (tcase, test_uneven_rows);
  return suite;
}

GST_CHECK_MAIN (kdrebatch);
