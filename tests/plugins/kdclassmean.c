#include "kd-leaf.h"

static void
put (Leaf *leaf, const gchar *properties)
{
  if (properties)
    leaf_open (leaf, "kdclassmean", properties, 4);
  else
    leaf_batch (leaf, 4);
  leaf_put (leaf, "teacher.logits", KD_FLOAT32, 4, 3, 0, 0, 0, 900, 0, 0, 0, log (2), 0, NAN, 0, 0);
  leaf_put (leaf, "sample.fusion", KD_FLOAT32, 4, 0, 0.1, 0.2, 0.4, 7);
  leaf_put (leaf, "label", KD_INT64, 4, 0, 0, 0, 2, -1);
}

GST_START_TEST (test_table)
{
  g_auto (Leaf) leaf = { 0 };

  put (&leaf, "");
  leaf_run_ok (&leaf);
  put (&leaf, NULL); /* a second batch, the same means */
  leaf_run_ok (&leaf);
  leaf_conclude_ok (&leaf);
  for (gsize i = 0; i < 9; i++)
    leaf_expect (&leaf, "class_mean", i, ((gdouble[]) { 2.0 / 3, 1.0 / 6, 1.0 / 6, 0, 0, 0, 0.25, 0.5, 0.25 })[i]);
  leaf_expect (&leaf, "class_count", 0, 4);
  leaf_expect (&leaf, "class_count", 1, 0);
  ck_assert (kd_batch_peek (leaf.batch, "class_mean")->rank == 2);
}
GST_END_TEST

GST_START_TEST (test_numbers_and_groups)
{
  g_auto (Leaf) leaf = { 0 };
  KdCall call = { 0 };
  GstStructure *told;
  gdouble value = 0;

  put (&leaf, "field=sample.fusion softmax=false group=2 rows=disagree"); /* row 0 ties, so predicts 0; row 2 predicts 1 */
  leaf_run_ok (&leaf);
  call.params = leaf.params;
  call.state = leaf.state;
  told = ((const KdTransformDesc *) leaf.desc)->finish (&call);
  ck_assert (told && gst_structure_n_fields (told) == 1 && gst_structure_get_double (told, "group1", &value));
  kd_assert_close (value, 0.4, 1e-6);
  gst_structure_free (told);
  ck_assert (!((const KdTransformDesc *) leaf.desc)->finish (&call)); /* nothing since */
  leaf_conclude_ok (&leaf);
  leaf_expect (&leaf, "class_mean", 0, 0);
  leaf_expect (&leaf, "class_mean", 1, 0.4);
  ck_assert (kd_batch_peek (leaf.batch, "class_mean")->rank == 1);
}
GST_END_TEST

GST_START_TEST (test_refusals)
{
  g_auto (Leaf) leaf = { 0 };
  GError *error = NULL;

  put (&leaf, "");
  ck_assert (!leaf_conclude (&leaf, &error));
  kd_assert_error (error, KD_ERROR_VALUE, "Nothing to average: element=kdclassmean, field=teacher.logits, counted rows=0");
  leaf_put (&leaf, "label", KD_INT64, 4, 0, 0, 0, 2, 1);
  leaf_refuses (&leaf, KD_ERROR_VALUE, "Value not finite: element=kdclassmean, field=teacher.logits, row=3");
  put (&leaf, "");
  leaf_put (&leaf, "label", KD_INT64, 4, 0, 0, 3e6, 2, -1);
  leaf_refuses (&leaf, KD_ERROR_RANGE, "row=1, label=3000000, group=1");
  ck_assert (!leaf_conclude (&leaf, &error)); /* nothing of a refused batch was counted */
  g_clear_error (&error);
  put (&leaf, "field=sample.fusion softmax=false");
  leaf_put (&leaf, "label", KD_INT64, 4, 0, 0, 3, 1e9, -1);
  leaf_refuses (&leaf, KD_ERROR_RANGE, "label=1000000000");
  put (&leaf, "field=sample.fusion rows=disagree");
  kd_batch_remove (leaf.batch, "teacher.logits");
  leaf_refuses (&leaf, KD_ERROR_FIELD, "field=teacher.logits, rows=disagree");
  put (&leaf, "");
  leaf_run_ok (&leaf);
  put (&leaf, NULL);
  leaf_put (&leaf, "teacher.logits", KD_FLOAT32, 4, 2, 0, 0, 0, 0, 0, 0, 0, 0);
  leaf_refuses (&leaf, KD_ERROR_SHAPE, "Width changed: element=kdclassmean, field=teacher.logits, shape=[4,2], before=3");
}
GST_END_TEST

KD_TESTS (kdclassmean, test_table, test_numbers_and_groups, test_refusals)
