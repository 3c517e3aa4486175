#include "kd-leaf.h"

static void
one_row (Leaf *leaf, const gchar *properties)
{
  leaf_open (leaf, "kdnkd", properties, 1);
  leaf_put (leaf, "student.logits", KD_FLOAT32, 1, 3, 1, 1, 1);
  leaf_put (leaf, "teacher.logits", KD_FLOAT16, 1, 3, 0, 0, 0);
  leaf_put (leaf, "label", KD_INT64, 1, 0, 1);
}

/* All even: CE = log 3, t_y = 1/3, the others' cross-entropy is log 2. */
GST_START_TEST (test_value)
{
  g_auto (Leaf) leaf = { 0 };

  one_row (&leaf, "temperature=2 gamma=1.5 ce-weight=2");
  leaf_run_ok (&leaf);
  leaf_expect (&leaf, "loss.ce", 0, log (3));
  leaf_expect (&leaf, "loss.target", 0, log (3) / 3);
  leaf_expect (&leaf, "loss.nontarget", 0, 1.5 * 4 * log (2));
  leaf_expect (&leaf, "loss", 0, 2 * log (3) + log (3) / 3 + 6 * log (2));
  leaf_expect (&leaf, "grad.student.logits", 1, (2 + 1 / 3.0) * (1 / 3.0 - 1));
  leaf_expect (&leaf, "grad.student.logits", 0, (2 + 1 / 3.0) / 3);
}
GST_END_TEST

GST_START_TEST (test_limits)
{
  g_auto (Leaf) leaf = { 0 };

  one_row (&leaf, "gamma=0 ce-weight=0");
  leaf_put (&leaf, "student.logits", KD_FLOAT32, 1, 3, 0, 1000, 0); /* P_y rounds to 1 */
  leaf_run_ok (&leaf);
  leaf_expect (&leaf, "loss", 0, 0);
  one_row (&leaf, "");
  leaf_put (&leaf, "mask", KD_UINT8, 1, 0, 0);
  leaf_run_ok (&leaf);
  leaf_expect (&leaf, "loss", 0, 0);
  leaf_expect (&leaf, "grad.student.logits", 0, 0);
}
GST_END_TEST

GST_START_TEST (test_refusals)
{
  g_auto (Leaf) leaf = { 0 };

  one_row (&leaf, "");
  leaf_put (&leaf, "label", KD_INT64, 1, 0, -1);
  leaf_refuses (&leaf, KD_ERROR_RANGE, "label=-1, classes=3");
  one_row (&leaf, "");
  leaf_put (&leaf, "teacher.logits", KD_FLOAT32, 1, 2, 0, 0);
  leaf_refuses (&leaf, KD_ERROR_SHAPE, "teacher.logits");
}
GST_END_TEST

KD_TESTS (kdnkd, test_value, test_limits, test_refusals)
