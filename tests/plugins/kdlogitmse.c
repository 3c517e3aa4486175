#include "kd-leaf.h"

static void
two_rows (Leaf *leaf, const gchar *properties)
{
  leaf_open (leaf, "kdlogitmse", properties, 2);
  leaf_put (leaf, "student.logits", KD_FLOAT32, 2, 2, 1, 2, 3, 4);
  leaf_put (leaf, "teacher.logits", KD_FLOAT16, 2, 2, 1, 1, 1, 1);
}

GST_START_TEST (test_value)
{
  g_auto (Leaf) element = { 0 }, batch = { 0 }, center = { 0 };

  two_rows (&element, "");
  leaf_run_ok (&element);
  leaf_expect (&element, "loss", 0, (0 + 1 + 4 + 9) / 4.0);
  leaf_expect (&element, "grad.student.logits", 3, 2 * 3 / 4.0);
  two_rows (&batch, "reduction=batch");
  leaf_run_ok (&batch);
  leaf_expect (&batch, "loss", 0, (0 + 1 + 4 + 9) / 2.0);
  leaf_expect (&batch, "grad.student.logits", 3, 2 * 3 / 2.0);
  two_rows (&center, "center=true");
  leaf_run_ok (&center);
  leaf_expect (&center, "loss", 0, 0.25);
  leaf_expect (&center, "grad.student.logits", 2, -0.25);
}
GST_END_TEST

GST_START_TEST (test_limits)
{
  g_auto (Leaf) leaf = { 0 };

  two_rows (&leaf, "");
  leaf_put (&leaf, "mask", KD_UINT8, 2, 0, 0, 0);
  leaf_run_ok (&leaf);
  leaf_expect (&leaf, "loss", 0, 0);
  leaf_batch (&leaf, 1); /* squares beyond float32 */
  leaf_put (&leaf, "student.logits", KD_FLOAT32, 1, 1, 1e30);
  leaf_put (&leaf, "teacher.logits", KD_FLOAT32, 1, 1, 0);
  leaf_run_ok (&leaf);
  kd_assert_close (leaf_get (&leaf, "loss", 0) / 1e60, 1, 1e-6);
}
GST_END_TEST

GST_START_TEST (test_refusals)
{
  g_auto (Leaf) leaf = { 0 };

  two_rows (&leaf, "");
  leaf_put (&leaf, "student.logits", KD_FLOAT32, 2, 2, -INFINITY, 2, 3, 4);
  leaf_refuses (&leaf, KD_ERROR_VALUE, "student.logits");
  leaf_put (&leaf, "student.logits", KD_INT64, 2, 2, 1, 2, 3, 4);
  leaf_refuses (&leaf, KD_ERROR_DTYPE, "student.logits");
}
GST_END_TEST

KD_TESTS (kdlogitmse, test_value, test_limits, test_refusals)
