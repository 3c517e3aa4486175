#include "kd-leaf.h"

/* confidences 3/4, 1/2, 0.9 */
static void
three_rows (Leaf *leaf, const gchar *properties)
{
  leaf_open (leaf, "kdconfidence", properties, 3);
  leaf_put (leaf, "teacher.logits", KD_FLOAT32, 3, 2, 0, log (3), 7, 7, log (9), 0);
  leaf_put (leaf, "sample.id", KD_INT64, 3, 0, 10, 11, 12);
}

GST_START_TEST (test_weights)
{
  g_auto (Leaf) above = { 0 }, below = { 0 }, weighted = { 0 };

  three_rows (&above, "threshold=0.7");
  leaf_put (&above, "sample.weight", KD_FLOAT32, 3, 0, 2, 2, 2);
  leaf_run_ok (&above);
  leaf_expect (&above, "sample.weight", 0, 2);
  leaf_expect (&above, "sample.weight", 1, 0);
  leaf_expect (&above, "sample.weight", 2, 2);
  three_rows (&below, "threshold=0.7 keep=below");
  leaf_run_ok (&below);
  leaf_expect (&below, "sample.weight", 0, 0);
  leaf_expect (&below, "sample.weight", 1, 1);
  three_rows (&weighted, "keep=weighted");
  leaf_run_ok (&weighted);
  leaf_expect (&weighted, "sample.weight", 0, 0.75);
  leaf_expect (&weighted, "sample.weight", 2, 0.9);
}
GST_END_TEST

GST_START_TEST (test_drop)
{
  g_auto (Leaf) leaf = { 0 };

  three_rows (&leaf, "threshold=0.8");
  leaf.options.mode = KD_SELECT_DROP;
  leaf_run_ok (&leaf);
  ck_assert_int_eq (leaf.batch->n_samples, 1);
  leaf_expect (&leaf, "sample.id", 0, 12);
}
GST_END_TEST

GST_START_TEST (test_limits)
{
  g_auto (Leaf) all = { 0 }, none = { 0 }, hot = { 0 };

  three_rows (&all, "threshold=0.5"); /* the threshold itself is kept */
  leaf_run_ok (&all);
  leaf_expect (&all, "sample.weight", 1, 1);
  three_rows (&none, "threshold=1");
  none.options.mode = KD_SELECT_DROP;
  leaf_run_ok (&none);
  ck_assert_int_eq (none.batch->n_samples, 0);
  three_rows (&hot, "threshold=0.51 temperature=1000");
  leaf_run_ok (&hot);
  leaf_expect (&hot, "sample.weight", 2, 0);
}
GST_END_TEST

GST_START_TEST (test_refusals)
{
  g_auto (Leaf) leaf = { 0 };

  three_rows (&leaf, "");
  leaf_put (&leaf, "teacher.logits", KD_FLOAT16, 3, 2, 0, 0, NAN, 0, 0, 0);
  leaf_refuses (&leaf, KD_ERROR_VALUE,
      "Logits not finite: element=kdconfidence, field=teacher.logits, sample.id=11; repair the teacher or leave the sample out");
  kd_batch_remove (leaf.batch, "teacher.logits");
  leaf_refuses (&leaf, KD_ERROR_FIELD, "field=teacher.logits");
}
GST_END_TEST

KD_TESTS (kdconfidence, test_weights, test_drop, test_limits, test_refusals)
