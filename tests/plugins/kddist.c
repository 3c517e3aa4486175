#include "kd-leaf.h"

static void
two_rows (Leaf *leaf, const gchar *properties)
{
  leaf_open (leaf, "kddist", properties, 2);
  leaf_put (leaf, "student.logits", KD_FLOAT32, 2, 2, 1, 0, 0, 1);
  leaf_put (leaf, "teacher.logits", KD_FLOAT16, 2, 2, 2, 0, 3, 0);
}

/* Two classes: a row's correlation is +1 or -1; a column of two rows too. Row 0 agrees, row 1 does not: inter = 1. In both columns
 * the student falls where the teacher rises: intra = 2. */
GST_START_TEST (test_value)
{
  g_auto (Leaf) leaf = { 0 };

  two_rows (&leaf, "temperature=1 beta=3 gamma=5");
  leaf_run_ok (&leaf);
  kd_assert_close (leaf_get (&leaf, "loss.inter", 0), 1, 1e-5);
  kd_assert_close (leaf_get (&leaf, "loss.intra", 0), 2, 1e-5);
  kd_assert_close (leaf_get (&leaf, "loss", 0), 3 * 1 + 5 * 2, 1e-5);
}
GST_END_TEST

GST_START_TEST (test_limits)
{
  g_auto (Leaf) leaf = { 0 };

  two_rows (&leaf, "temperature=2 beta=0");
  leaf_put (&leaf, "mask", KD_UINT8, 2, 0, 1, 0); /* one row left: columns have no spread */
  leaf_run_ok (&leaf);
  leaf_expect (&leaf, "loss.intra", 0, 4);
  leaf_expect (&leaf, "grad.student.logits", 0, 0);
  leaf_expect (&leaf, "grad.student.logits", 3, 0);
  two_rows (&leaf, "");
  leaf_put (&leaf, "mask", KD_UINT8, 2, 0, 0, 0);
  leaf_run_ok (&leaf);
  leaf_expect (&leaf, "loss", 0, 0);
}
GST_END_TEST

GST_START_TEST (test_refusals)
{
  g_auto (Leaf) leaf = { 0 };

  two_rows (&leaf, "");
  leaf_put (&leaf, "student.logits", KD_FLOAT32, 2, 2, 1, NAN, 0, 1);
  leaf_refuses (&leaf, KD_ERROR_VALUE, "student.logits");
  leaf_put (&leaf, "student.logits", KD_FLOAT32, 2, 2, 1, -INFINITY, 0, 1);
  leaf_refuses (&leaf, KD_ERROR_VALUE, "Value not finite: element=kddist, field=student.logits");
  two_rows (&leaf, "");
  leaf_put (&leaf, "teacher.logits", KD_FLOAT16, 2, 3, 1, 2, 3, 4, 5, 6);
  leaf_refuses (&leaf, KD_ERROR_SHAPE, "teacher.logits");
}
GST_END_TEST

KD_TESTS (kddist, test_value, test_limits, test_refusals)
