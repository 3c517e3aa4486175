#include "kd-leaf.h"

static GstStructure *
finish (Leaf *leaf)
{
  KdCall call = { .params = leaf->params, .state = leaf->state };

  return ((const KdTransformDesc *) leaf->desc)->finish (&call);
}

static gdouble
value (const GstStructure *structure, const gchar *name)
{
  gdouble number = NAN;

  ck_assert_msg (gst_structure_get_double (structure, name, &number), "no %s", name);
  return number;
}

/* student (1/4, 3/4), (9/10, 1/10), (1/2, 1/2): best 1, 0, 0 */
static void
three_rows (Leaf *leaf)
{
  leaf_put (leaf, "student.logits", KD_FLOAT32, 3, 2, 0, log (3), log (9), 0, 0, 0);
  leaf_put (leaf, "teacher.logits", KD_FLOAT16, 3, 2, 0, 1, 0, 1, 1, 0);
  leaf_put (leaf, "label", KD_INT64, 3, 0, 1, 1, 0);
}

GST_START_TEST (test_values)
{
  g_auto (Leaf) leaf = { 0 };
  GstStructure *s;
  guint64 count;

  leaf_open (&leaf, "kdmetrics", "", 3);
  three_rows (&leaf);
  kd_batch_set (leaf.batch, "loss", kd_tensor_new_scalar (2.5));
  leaf_run_ok (&leaf);
  s = finish (&leaf);
  ck_assert (gst_structure_has_name (s, "kd-metrics") && gst_structure_get_uint64 (s, "count", &count) && count == 3);
  kd_assert_close (value (s, "accuracy"), 2.0 / 3, 1e-9);
  kd_assert_close (value (s, "agreement"), 2.0 / 3, 1e-9);
  kd_assert_close (value (s, "nll"), (log (4.0 / 3) + log (10) + log (2)) / 3, 1e-6);
  kd_assert_close (value (s, "ece"), (0.25 + 0.9 + 0.5) / 3, 1e-6); /* three bins with one row each */
  kd_assert_close (value (s, "loss"), 2.5, 1e-9);
  ck_assert (!gst_structure_has_field (s, "validation-count"));
  gst_structure_free (s);
  ck_assert (finish (&leaf) == NULL); /* the next epoch starts from nothing */
}
GST_END_TEST

GST_START_TEST (test_peeks_and_batches)
{
  g_auto (Leaf) leaf = { 0 };
  GstStructure *s;

  leaf_open (&leaf, "kdmetrics", "", 3);
  three_rows (&leaf);
  leaf_put (&leaf, "mask", KD_UINT8, 3, 0, 1, 0, 1);
  leaf_run_ok (&leaf);
  for (guint i = 0; i < kd_batch_n_fields (leaf.batch); i++)
    ck_assert_uint_eq (kd_batch_nth (leaf.batch, i)->n_reads, 0);
  leaf_batch (&leaf, 3);
  leaf.batch->flags = KD_BATCH_VALIDATION;
  three_rows (&leaf);
  leaf_put (&leaf, "label", KD_INT64, 3, 0, -100, 1, -100);
  leaf_run_ok (&leaf);
  s = finish (&leaf);
  kd_assert_close (value (s, "accuracy"), 1, 1e-9);
  kd_assert_close (value (s, "validation-accuracy"), 0, 1e-9);
  ck_assert (!gst_structure_has_field (s, "loss"));
  gst_structure_free (s);
}
GST_END_TEST

GST_START_TEST (test_limits)
{
  g_auto (Leaf) leaf = { 0 };
  GstStructure *s;

  leaf_open (&leaf, "kdmetrics", "", 1);
  leaf_put (&leaf, "student.logits", KD_FLOAT32, 1, 1, NAN); /* the only row is masked */
  leaf_put (&leaf, "mask", KD_UINT8, 1, 0, 0);
  leaf_run_ok (&leaf);
  ck_assert (finish (&leaf) == NULL);
  leaf_batch (&leaf, 1); /* no label, no teacher: a count is all there is */
  leaf_put (&leaf, "student.logits", KD_FLOAT32, 1, 1, 3);
  leaf_run_ok (&leaf);
  s = finish (&leaf);
  ck_assert_int_eq (gst_structure_n_fields (s), 1);
  gst_structure_free (s);
}
GST_END_TEST

GST_START_TEST (test_refusals)
{
  g_auto (Leaf) leaf = { 0 };

  leaf_open (&leaf, "kdmetrics", "", 3);
  leaf_refuses (&leaf, KD_ERROR_FIELD, "field=student.logits");
  three_rows (&leaf);
  leaf_put (&leaf, "label", KD_INT64, 3, 0, 1, 2, 0);
  leaf_refuses (&leaf, KD_ERROR_RANGE, "Label out of range: element=kdmetrics, field=label, row=1, label=2, classes=2");
  leaf_put (&leaf, "label", KD_INT64, 3, 0, 1, 1, 0);
  leaf_put (&leaf, "student.logits", KD_FLOAT32, 3, 2, 0, 0, 0, 0, NAN, 0);
  leaf_refuses (&leaf, KD_ERROR_VALUE, "field=student.logits, row=2");
  ck_assert (finish (&leaf) == NULL); /* what was refused is not counted */
}
GST_END_TEST

KD_TESTS (kdmetrics, test_values, test_peeks_and_batches, test_limits, test_refusals)
