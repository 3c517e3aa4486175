#include "kd-leaf.h"
#include <gst/check/gstharness.h>

static void
put_split (Leaf *leaf, gint64 split)
{
  leaf_batch (leaf, 2);
  leaf_put (leaf, "mask", KD_UINT8, 2, 4, 1, 0, 1, 1, 0, 1, 1, 1);
  kd_batch_set (leaf->batch, "split", kd_tensor_new_zero (KD_INT64, 0, NULL));
  *(gint64 *) kd_batch_peek (leaf->batch, "split")->data = split;
}

/* Two ids at each position: 0 and @z. */
static void
put_logits (Leaf *leaf, gdouble z)
{
  const gint64 dims[3] = { 2, 4, 2 };
  KdTensor *logits = kd_tensor_new_zero (KD_FLOAT32, 3, dims);

  for (gint i = 0; i < 8; i++)
    ((gfloat *) logits->data)[2 * i + 1] = (gfloat) z;
  ((gfloat *) logits->data)[2] = NAN; /* behind the mask */
  kd_batch_set (leaf->batch, "student.logits", logits);
}

static void
probe (Leaf *leaf, gdouble z)
{
  put_split (leaf, 1);
  put_logits (leaf, z);
  leaf_run_ok (leaf);
}

static void
expect_mask (Leaf *leaf, const gchar *bits)
{
  for (gsize i = 0; i < 8; i++)
    ck_assert_msg (leaf_get (leaf, "mask", i) == bits[i] - '0', "mask[%u] of %s", (guint) i, bits);
}

static void
train (Leaf *leaf, const gchar *bits)
{
  put_split (leaf, 0);
  leaf_run_ok (leaf);
  expect_mask (leaf, bits);
  leaf_expect (leaf, "curriculum.entropy", 0, -1);
}

static void
end_of_stage (Leaf *leaf, gdouble entropy, gint stage, gint frozen)
{
  put_split (leaf, 2);
  leaf_run_ok (leaf);
  expect_mask (leaf, "10110111");
  leaf_expect (leaf, "curriculum.entropy", 0, entropy);
  leaf_expect (leaf, "curriculum.stage", 0, stage);
  leaf_expect (leaf, "curriculum.frozen", 0, frozen);
}

GST_START_TEST (test_stages)
{
  g_auto (Leaf) leaf = { 0 };

  leaf_open (&leaf, "kdlengate", "lengths=1,2,3 h-min=0.5", 2);
  train (&leaf, "10000100");
  leaf_expect (&leaf, "curriculum.length", 0, 1);
  end_of_stage (&leaf, -1, 0, 0); /* nothing probed: nothing decided */
  probe (&leaf, 0);
  expect_mask (&leaf, "10110111");
  end_of_stage (&leaf, M_LN2, 1, 0);
  leaf_expect (&leaf, "curriculum.length", 0, 2);
  train (&leaf, "10100110");
  probe (&leaf, 0);
  probe (&leaf, 50);
  end_of_stage (&leaf, M_LN2 / 2, 1, 1); /* the mean of both is too low */
  probe (&leaf, 0);
  end_of_stage (&leaf, M_LN2, 1, 1); /* for good */
  train (&leaf, "10100110");
  leaf_open (&leaf, "kdlengate", "lengths=1 h-min=0", 2); /* the last length stays; saturated rows have H = 0 >= 0 */
  probe (&leaf, 1e6);
  end_of_stage (&leaf, 0, 0, 0);
}
GST_END_TEST

/* Stages of two batches, ended by the two probes that follow; earlier probes are of an earlier student. */
GST_START_TEST (test_stage_steps)
{
  g_auto (Leaf) leaf = { 0 };

  leaf_open (&leaf, "kdlengate", "lengths=1,2 h-min=0.5 stage-steps=2 probe-batches=2", 2);
  train (&leaf, "10000100");
  probe (&leaf, 50);
  train (&leaf, "10000100");
  probe (&leaf, 0);
  leaf_expect (&leaf, "curriculum.stage", 0, 0);
  leaf_expect (&leaf, "curriculum.entropy", 0, -1);
  probe (&leaf, 0);
  leaf_expect (&leaf, "curriculum.stage", 0, 1);
  leaf_expect (&leaf, "curriculum.entropy", 0, M_LN2);
  train (&leaf, "10100110");
}
GST_END_TEST

/* Without split: validation batches with logits are probes, others pass. Masks of any type are cut in their own. */
GST_START_TEST (test_without_split)
{
  g_auto (Leaf) leaf = { 0 };

  leaf_open (&leaf, "kdlengate", "lengths=1,2 h-min=0.5 stage-steps=1 probe-batches=1", 2);
  put_split (&leaf, 0);
  kd_batch_remove (leaf.batch, "split");
  leaf_put (&leaf, "mask", KD_FLOAT32, 2, 4, 0.5, 0, 2, 2, 0, 3, 3, 3);
  leaf_run_ok (&leaf);
  ck_assert (leaf_get (&leaf, "mask", 0) == 0.5 && leaf_get (&leaf, "mask", 2) == 0 && leaf_get (&leaf, "mask", 5) == 3 && leaf_get (&leaf, "mask", 6) == 0);
  for (gint i = 0; i < 2; i++) {
    put_split (&leaf, 0);
    kd_batch_remove (leaf.batch, "split");
    leaf.batch->flags |= KD_BATCH_VALIDATION;
    if (i)
      put_logits (&leaf, 0);
    leaf_run_ok (&leaf);
    expect_mask (&leaf, "10110111");
    leaf_expect (&leaf, "curriculum.stage", 0, i);
  }
}
GST_END_TEST

/* A leaf with the bytes that a checkpoint keeps ends the stage as the first does. */
GST_START_TEST (test_saved_state)
{
  g_auto (Leaf) a = { 0 }, b = { 0 };

  leaf_open (&a, "kdlengate", "lengths=1,2,3 h-min=0.5", 2);
  probe (&a, 0);
  end_of_stage (&a, M_LN2, 1, 0);
  probe (&a, 0);
  leaf_open (&b, "kdlengate", "lengths=1,2,3 h-min=0.5", 2);
  for (const KdStateField *field = a.desc->state_fields; field->name; field++)
    memcpy ((gchar *) b.state + field->offset, (gchar *) a.state + field->offset, field->n * kd_dtype_size (field->dtype));
  end_of_stage (&b, M_LN2, 2, 0);
  leaf_open (&a, "kdlengate", "lengths=1,2 h-min=0.5", 2); /* of a graph with more stages */
  for (const KdStateField *field = b.desc->state_fields; field->name; field++)
    memcpy ((gchar *) a.state + field->offset, (gchar *) b.state + field->offset, field->n * kd_dtype_size (field->dtype));
  put_split (&a, 0);
  leaf_refuses (&a, KD_ERROR_MISMATCH, "Lengths differ: element=kdlengate, lengths=\"1,2\", stage=2");
}
GST_END_TEST

static GstBuffer *
buffer_of (gint64 split, gdouble z)
{
  g_auto (Leaf) leaf = { 0 };

  leaf_open (&leaf, "kdlengate", "h-min=0", 2);
  put_split (&leaf, split);
  put_logits (&leaf, z);
  return g_steal_pointer (&leaf.buffer);
}

/* The newest kd-length event that went upstream, or NULL. */
static GstStructure *
announced (GstHarness *h)
{
  GstStructure *found = NULL;
  GstEvent *event;

  while ((event = gst_harness_try_pull_upstream_event (h))) {
    if (gst_event_has_name (event, "kd-length")) {
      g_clear_pointer (&found, gst_structure_free);
      found = gst_structure_copy (gst_event_get_structure (event));
    }
    gst_event_unref (event);
  }
  return found;
}

static void
expect_announced (GstHarness *h, gint64 split, gdouble z, gint64 length, gboolean stop)
{
  GstStructure *structure;
  gint64 got = 0;
  gboolean stops = FALSE;

  gst_buffer_unref (gst_harness_push_and_pull (h, buffer_of (split, z)));
  structure = announced (h);
  ck_assert_msg ((structure != NULL) == (length > 0), "split %d", (gint) split);
  if (!structure)
    return;
  ck_assert (gst_structure_get_int64 (structure, "length", &got) && got == length);
  ck_assert (gst_structure_get_boolean (structure, "stop", &stops) && stops == stop);
  gst_structure_free (structure);
}

static GstHarness *
harness_new (const gchar *description)
{
  GstHarness *h = gst_harness_new_parse (description);
  g_autoptr (KdLayout) layout = kd_layout_new ();

  kd_layout_set (layout, "mask", KD_UINT8, 2, (const gint64[]) { KD_DIM_ANY, 4 });
  kd_layout_set (layout, "split", KD_INT64, 0, NULL);
  kd_layout_set (layout, "student.logits", KD_FLOAT32, 3, (const gint64[]) { KD_DIM_ANY, 4, 2 });
  gst_harness_set_src_caps (h, kd_layout_to_caps (layout));
  return h;
}

/* An application ends stages, from either side: the next batch has the next length. */
GST_START_TEST (test_stage_end_event)
{
  GstHarness *h = harness_new ("kdlengate lengths=1,2,3 h-min=0.5");

  expect_announced (h, 1, 0, 1, FALSE);
  ck_assert (gst_harness_push_event (h, gst_event_new_custom (GST_EVENT_CUSTOM_DOWNSTREAM, gst_structure_new_empty ("kd-stage-end"))));
  expect_announced (h, 0, 0, 2, FALSE);
  expect_announced (h, 1, 0, 0, FALSE);
  ck_assert (gst_harness_push_upstream_event (h, gst_event_new_custom (GST_EVENT_CUSTOM_UPSTREAM, gst_structure_new_empty ("kd-stage-end"))));
  expect_announced (h, 0, 0, 3, FALSE);
  gst_harness_push_event (h, gst_event_new_custom (GST_EVENT_CUSTOM_DOWNSTREAM, gst_structure_new_empty ("kd-another")));
  expect_announced (h, 0, 0, 0, FALSE);
  gst_harness_teardown (h);
}
GST_END_TEST

/* Upstream and on the bus: the first length, the next, and that it is over; nothing in between. */
GST_START_TEST (test_announces)
{
  GstHarness *h = harness_new ("kdlengate lengths=1,2,3 h-min=0.5 on-low=stop");
  g_autoptr (GstBus) bus = gst_bus_new ();
  g_autoptr (GstElement) element = gst_harness_find_element (h, "kdlengate");
  GstMessage *message;
  guint n_messages = 0;

  gst_element_set_bus (element, bus);
  expect_announced (h, 0, 0, 1, FALSE);
  expect_announced (h, 0, 0, 0, FALSE);
  expect_announced (h, 1, 0, 0, FALSE);
  expect_announced (h, 2, 0, 2, FALSE);
  expect_announced (h, 1, 50, 0, FALSE);
  expect_announced (h, 2, 0, 2, TRUE);
  expect_announced (h, 0, 0, 0, FALSE);
  while ((message = gst_bus_pop_filtered (bus, GST_MESSAGE_ELEMENT))) {
    n_messages += gst_message_has_name (message, "kd-length");
    gst_message_unref (message);
  }
  ck_assert_uint_eq (n_messages, 3);
  g_object_set (element, "lengths", "4,5", NULL); /* refused with the next batch */
  ck_assert (gst_harness_push (h, buffer_of (0, 0)) == GST_FLOW_ERROR);
  message = gst_bus_pop_filtered (bus, GST_MESSAGE_ERROR);
  ck_assert (message != NULL);
  gst_message_unref (message);
  gst_element_set_bus (element, NULL);
  gst_harness_teardown (h);
}
GST_END_TEST

static void
refuses_properties (const gchar *properties, const gchar *text)
{
  g_auto (Leaf) leaf = { 0 };

  leaf_open (&leaf, "kdlengate", properties, 2);
  put_split (&leaf, 0);
  leaf_refuses (&leaf, KD_ERROR_RANGE, text);
}

GST_START_TEST (test_refusals)
{
  g_auto (Leaf) leaf = { 0 };
  const gchar *const bad[] = { "", "3,3", "4,2", "0,1", "1,,2", "1,2,", "1,x", "-1" };
  g_autoptr (GError) error = NULL;

  for (guint i = 0; i < G_N_ELEMENTS (bad); i++) {
    g_autofree gchar *properties = g_strdup_printf ("h-min=1 lengths=%s", bad[i]);
    refuses_properties (properties, "Lengths not allowed: element=kdlengate, lengths=\"");
  }
  refuses_properties ("", "Property not set: element=kdlengate, property=h-min, value=-1, wanted=0 or more");
  leaf_open (&leaf, "kdlengate", "h-min=1", 2);
  ck_assert (!kd_param_set_string (kd_param_find (leaf.desc->params, "h-min"), leaf.params, "nan", "kdlengate", &error));
  put_split (&leaf, 3);
  leaf_refuses (&leaf, KD_ERROR_RANGE, "Split out of range: element=kdlengate, field=split, value=3");
  put_split (&leaf, 1);
  leaf_refuses (&leaf, KD_ERROR_FIELD, "Field missing: element=kdlengate, field=student.logits, split=1");
  put_split (&leaf, 1);
  put_logits (&leaf, NAN);
  leaf_refuses (&leaf, KD_ERROR_VALUE, "Logits not finite: element=kdlengate, field=student.logits, row=0");
  ck_assert (!kd_batch_peek (leaf.batch, "curriculum.stage"));
}
GST_END_TEST

KD_TESTS (kdlengate, test_stages, test_stage_steps, test_without_split, test_saved_state, test_announces, test_stage_end_event, test_refusals)
