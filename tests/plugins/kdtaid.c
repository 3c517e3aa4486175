#include "kd-leaf.h"
#include <gst/check/gstharness.h>

/* u = (0, log 3) at t = 1/2: p = (1/4, 3/4); q = (1/2, 1/2). */
static void
put_row (Leaf *leaf)
{
  leaf_put (leaf, "student.logits", KD_FLOAT32, 1, 2, 0, 0);
  leaf_put (leaf, "teacher.logits", KD_FLOAT32, 1, 2, 0, 2 * log (3));
}

GST_START_TEST (test_value)
{
  g_auto (Leaf) leaf = { 0 };

  leaf_open (&leaf, "kdtaid", "total-steps=10 t-start=0.5 lm-weight=0.25", 1);
  put_row (&leaf);
  leaf_put (&leaf, "label", KD_INT64, 1, 0, 0);
  leaf.options.weight = 2;
  leaf_run_ok (&leaf);
  leaf_expect (&leaf, "loss.taid", 0, 2 * M_LN2);
  leaf_expect (&leaf, "loss.ce", 0, 2 * M_LN2);
  leaf_expect (&leaf, "loss", 0, 2 * M_LN2);
  leaf_expect (&leaf, "grad.student.logits", 0, 2 * (0.25 * -0.5 + 0.75 * 0.25));
  leaf_expect (&leaf, "taid.t", 0, 0.5);
  leaf_expect (&leaf, "taid.t-next", 0, 0.5);
  leaf_expect (&leaf, "taid.prev-loss", 0, M_LN2); /* without the weight */
  leaf_open (&leaf, "kdtaid", "total-steps=10 t-start=0.5 loss-form=kl", 1);
  put_row (&leaf);
  leaf_run_ok (&leaf);
  leaf_expect (&leaf, "loss", 0, M_LN2 + 0.25 * log (0.25) + 0.75 * log (0.75));
  leaf_expect (&leaf, "grad.student.logits", 0, 0.25);
  leaf_open (&leaf, "kdtaid", "total-steps=10 t-start=0", 1);
  put_row (&leaf);
  leaf_run_ok (&leaf);
  ck_assert (leaf_get (&leaf, "grad.student.logits", 0) == 0 && leaf_get (&leaf, "grad.student.logits", 1) == 0);
}
GST_END_TEST

static void
next (Leaf *leaf)
{
  leaf_batch (leaf, 1);
  put_row (leaf);
}

/* The line, beyond its end too; a rising loss never takes t back while adaptive. */
GST_START_TEST (test_schedule)
{
  g_auto (Leaf) leaf = { 0 };
  gdouble t = 0;

  leaf_open (&leaf, "kdtaid", "total-steps=4 t-start=0.2 t-end=0.8 adaptive=false", 1);
  for (gint k = 0; k < 8; k++) {
    next (&leaf);
    leaf_run_ok (&leaf);
    leaf_expect (&leaf, "taid.t-next", 0, k == 0 ? 0.2 : 0.2 + 0.6 * MIN (k / 4.0, 1));
  }
  leaf_open (&leaf, "kdtaid", "total-steps=100 t-start=0.2 t-end=0.8 alpha=1 beta=0.5", 1);
  for (gint k = 0; k < 60; k++) {
    leaf_batch (&leaf, 1);
    leaf_put (&leaf, "student.logits", KD_FLOAT32, 1, 2, 0, k % 3);
    leaf_put (&leaf, "teacher.logits", KD_FLOAT32, 1, 2, 0, -3);
    leaf_run_ok (&leaf);
    ck_assert (leaf_get (&leaf, "taid.t", 0) >= t && leaf_get (&leaf, "taid.t-next", 0) <= 0.8);
    ck_assert (leaf_get (&leaf, "taid.t-next", 0) + 1e-12 >= 0.2 + (k ? 0.6 * k / 100 : 0));
    t = leaf_get (&leaf, "taid.t-next", 0);
  }
  kd_assert_close (t, 0.8, 1e-12);
}
GST_END_TEST

/* Nothing counted moves the step alone; a validation batch and a refused one move nothing. */
GST_START_TEST (test_state)
{
  g_auto (Leaf) leaf = { 0 };
  gint64 *step;
  g_autofree gchar *before = NULL;

  leaf_open (&leaf, "kdtaid", "total-steps=10", 1);
  step = G_STRUCT_MEMBER_P (leaf.state, leaf.desc->state_fields[3].offset);
  put_row (&leaf);
  leaf_put (&leaf, "mask", KD_UINT8, 1, 0, 0);
  leaf_put (&leaf, "student.logits", KD_FLOAT32, 1, 2, NAN, 0);
  leaf_run_ok (&leaf);
  leaf_expect (&leaf, "loss", 0, 0);
  ck_assert (leaf_get (&leaf, "grad.student.logits", 0) == 0);
  leaf_expect (&leaf, "taid.prev-loss", 0, -1);
  ck_assert_int_eq (*step, 1);
  next (&leaf);
  leaf_run_ok (&leaf);
  before = g_memdup2 (leaf.state, leaf.desc->state_size);
  next (&leaf);
  leaf.batch->flags |= KD_BATCH_VALIDATION;
  leaf_run_ok (&leaf);
  ck_assert (memcmp (before, leaf.state, leaf.desc->state_size) == 0);
  next (&leaf);
  leaf_put (&leaf, "teacher.logits", KD_FLOAT32, 1, 2, 0, NAN);
  leaf_refuses (&leaf, KD_ERROR_VALUE, "Value not finite: element=kdtaid, field=teacher.logits");
  ck_assert (memcmp (before, leaf.state, leaf.desc->state_size) == 0);
  ck_assert_int_eq (*step, 2);
}
GST_END_TEST

GST_START_TEST (test_perfect_student)
{
  g_auto (Leaf) leaf = { 0 };

  leaf_open (&leaf, "kdtaid", "total-steps=10 loss-form=kl beta=0", 1);
  for (gint k = 0; k < 3; k++) { /* J is 0, then far from it: the relative change is cut at 1e6 */
    leaf_batch (&leaf, 1);
    leaf_put (&leaf, "student.logits", KD_FLOAT32, 1, 2, 1, 2);
    leaf_put (&leaf, "teacher.logits", KD_FLOAT32, 1, 2, k == 2 ? 9 : 1, 2);
    leaf_run_ok (&leaf);
  }
  leaf_expect (&leaf, "taid.momentum", 0, -1e6);
  ck_assert (isfinite (leaf_get (&leaf, "taid.t-next", 0)));
}
GST_END_TEST

/* Two batches a step: the field says that the line has not moved. */
GST_START_TEST (test_step_source)
{
  g_auto (Leaf) leaf = { 0 };

  leaf_open (&leaf, "kdtaid", "total-steps=4 adaptive=false t-start=0.2 step-source=field", 1);
  for (gint k = 0; k < 4; k++) {
    next (&leaf);
    kd_batch_set (leaf.batch, "train.step", kd_tensor_new_zero (KD_INT64, 0, NULL));
    *(gint64 *) kd_batch_peek (leaf.batch, "train.step")->data = k / 2;
    leaf_run_ok (&leaf);
    leaf_expect (&leaf, "taid.t-next", 0, 0.2 + 0.8 * (k / 2) / 4);
  }
  *(gint64 *) kd_batch_peek (leaf.batch, "train.step")->data = -1;
  kd_batch_remove (leaf.batch, "loss");
  leaf_refuses (&leaf, KD_ERROR_RANGE, "Step out of range: element=kdtaid, field=train.step, value=-1, wanted=0 or more");
  next (&leaf);
  leaf_refuses (&leaf, KD_ERROR_FIELD, "Field missing: element=kdtaid, field=train.step, step-source=field; add the field or set step-source=internal");
}
GST_END_TEST

/* What a checkpoint keeps is all: a leaf that gets these bytes goes on to the same bits. */
GST_START_TEST (test_saved_state)
{
  g_auto (Leaf) a = { 0 }, b = { 0 };

  leaf_open (&a, "kdtaid", "total-steps=50 alpha=0.3 beta=0.4", 1);
  for (gint k = 0; k < 5; k++) {
    next (&a);
    leaf_put (&a, "student.logits", KD_FLOAT32, 1, 2, k, 0);
    leaf_run_ok (&a);
  }
  leaf_open (&b, "kdtaid", "total-steps=50 alpha=0.3 beta=0.4", 1);
  for (const KdStateField *field = a.desc->state_fields; field->name; field++)
    memcpy ((gchar *) b.state + field->offset, (gchar *) a.state + field->offset, field->n * kd_dtype_size (field->dtype));
  next (&a);
  next (&b);
  leaf_run_ok (&a);
  leaf_run_ok (&b);
  ck_assert (leaf_get (&a, "taid.t", 0) > 0.5);
  for (guint i = 0; i < kd_batch_n_fields (a.batch); i++)
    ck_assert (kd_tensor_equal (kd_batch_nth (a.batch, i)->tensor, kd_batch_peek (b.batch, kd_batch_nth (a.batch, i)->name)));
}
GST_END_TEST

static void
count (GObject *object, GParamSpec *pspec, gpointer n)
{
  ++*(guint *) n;
}

/* One batch through @h; what current-t says then. */
static gdouble
push (GstHarness *h, GstElement *element)
{
  g_auto (Leaf) leaf = { 0 };
  gdouble t;

  leaf_open (&leaf, "kdtaid", "total-steps=4", 1);
  put_row (&leaf);
  gst_buffer_unref (gst_harness_push_and_pull (h, g_steal_pointer (&leaf.buffer)));
  g_object_get (element, "current-t", &t, NULL);
  return t;
}

/* current-t follows and tells; the end of the stream keeps the state, a flush and reset do not. */
GST_START_TEST (test_current_t)
{
  GstHarness *h = gst_harness_new_parse ("kdtaid total-steps=4 t-start=0.25 adaptive=false");
  g_autoptr (KdLayout) layout = kd_layout_new ();
  g_autoptr (GstElement) element = gst_harness_find_element (h, "kdtaid");
  guint n = 0;
  gboolean reset;

  kd_layout_set (layout, "student.logits", KD_FLOAT32, 2, (const gint64[]) { KD_DIM_ANY, 2 });
  kd_layout_set (layout, "teacher.logits", KD_FLOAT32, 2, (const gint64[]) { KD_DIM_ANY, 2 });
  gst_harness_set_src_caps (h, kd_layout_to_caps (layout));
  g_signal_connect (element, "notify::current-t", G_CALLBACK (count), &n);
  kd_assert_close (push (h, element), 0.25, 0);
  kd_assert_close (push (h, element), 0.25 + 0.75 / 4, 1e-15);
  kd_assert_close (push (h, element), 0.25 + 0.75 / 2, 1e-15);
  ck_assert_uint_eq (n, 3);
  ck_assert (gst_harness_push_event (h, gst_event_new_flush_start ()));
  ck_assert (gst_harness_push_event (h, gst_event_new_flush_stop (TRUE)));
  gst_harness_push_event (h, gst_event_new_stream_start ("again"));
  gst_harness_set_src_caps (h, kd_layout_to_caps (layout));
  gst_harness_push_event (h, gst_event_new_segment (&(GstSegment) { .format = GST_FORMAT_TIME, .rate = 1, .applied_rate = 1, .stop = GST_CLOCK_TIME_NONE, .duration = GST_CLOCK_TIME_NONE }));
  kd_assert_close (push (h, element), 0.25, 0);
  push (h, element);
  kd_assert_close (push (h, element), 0.25 + 0.75 / 2, 1e-15);
  g_object_set (element, "reset", TRUE, NULL);
  kd_assert_close (push (h, element), 0.25, 0);
  g_object_get (element, "reset", &reset, NULL);
  ck_assert (!reset);
  push (h, element);
  kd_assert_close (push (h, element), 0.25 + 0.75 / 2, 1e-15);
  gst_harness_teardown (h);
}
GST_END_TEST

static void
refuses_properties (const gchar *properties, const gchar *text)
{
  g_auto (Leaf) leaf = { 0 };

  leaf_open (&leaf, "kdtaid", properties, 1);
  put_row (&leaf);
  leaf_refuses (&leaf, KD_ERROR_RANGE, text);
}

GST_START_TEST (test_refusals)
{
  g_auto (Leaf) leaf = { 0 };
  g_autoptr (GError) error = NULL;

  refuses_properties ("", "Property not set: element=kdtaid, property=total-steps, value=0, wanted=1 or more; set it to the run's number of steps");
  refuses_properties ("total-steps=5 t-start=1", "t-start=1, t-end=1, wanted=t-start below 1 and not above t-end");
  refuses_properties ("total-steps=5 t-start=0.5 t-end=0.4", "t-start=0.5, t-end=0.4");
  refuses_properties ("total-steps=5 t-start=0 t-end=0", "t-end above 0");
  leaf_open (&leaf, "kdtaid", "total-steps=5 lm-weight=0.5", 1);
  put_row (&leaf);
  leaf_refuses (&leaf, KD_ERROR_FIELD, "Field missing: element=kdtaid, field=label, lm-weight=0.5");
  leaf_open (&leaf, "kdtaid", "total-steps=5", 1);
  put_row (&leaf);
  leaf_put (&leaf, "teacher.logits", KD_FLOAT32, 1, 3, 0, 0, 0);
  leaf_refuses (&leaf, KD_ERROR_SHAPE, "axis=C");
  ck_assert (!kd_param_set_string (kd_param_find (leaf.desc->params, "alpha"), leaf.params, "1.5", "kdtaid", &error));
  ck_assert (g_error_matches (error, KD_ERROR, KD_ERROR_RANGE));
}
GST_END_TEST

KD_TESTS (kdtaid, test_value, test_schedule, test_state, test_perfect_student, test_step_source, test_saved_state, test_current_t, test_refusals)
