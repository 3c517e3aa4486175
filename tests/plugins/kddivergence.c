#include "kd-leaf.h"

/* student (1/4, 3/4), teacher (1/2, 1/2) */
static void
two_rows (Leaf *leaf, const gchar *properties, KdDtype teacher)
{
  leaf_open (leaf, "kddivergence", properties, 2);
  leaf_put (leaf, "student.logits", KD_FLOAT32, 2, 2, 0, log (3), 0, log (3));
  leaf_put (leaf, "teacher.logits", teacher, 2, 2, 5, 5, 5, 5);
}

GST_START_TEST (test_forward)
{
  g_auto (Leaf) leaf = { 0 };

  two_rows (&leaf, "", KD_FLOAT32);
  leaf_run_ok (&leaf);
  leaf_expect (&leaf, "loss", 0, 0.5 * log (2) + 0.5 * log (2.0 / 3));
  leaf_expect (&leaf, "grad.student.logits", 0, -0.125);
  leaf_expect (&leaf, "grad.student.logits", 1, 0.125);
}
GST_END_TEST

GST_START_TEST (test_reverse)
{
  g_auto (Leaf) leaf = { 0 };
  gdouble d = 0.25 * log (0.5) + 0.75 * log (1.5);

  two_rows (&leaf, "divergence=rkl", KD_FLOAT16);
  leaf_run_ok (&leaf);
  leaf_expect (&leaf, "loss", 0, d);
  leaf_expect (&leaf, "grad.student.logits", 0, 0.25 * (log (0.5) - d) / 2);
}
GST_END_TEST

GST_START_TEST (test_temperature)
{
  g_auto (Leaf) plain = { 0 }, scaled = { 0 }, entropy = { 0 };

  two_rows (&plain, "temperature=2", KD_BFLOAT16);
  leaf_run_ok (&plain);
  two_rows (&scaled, "temperature=2 temperature-scale=t2", KD_FLOAT32);
  leaf_run_ok (&scaled);
  leaf_expect (&scaled, "loss", 0, 4 * leaf_get (&plain, "loss", 0));
  leaf_expect (&scaled, "grad.student.logits", 1, 4 * leaf_get (&plain, "grad.student.logits", 1));
  two_rows (&entropy, "temperature=2 entropy-term=false", KD_FLOAT32);
  leaf_run_ok (&entropy); /* the teacher is even: its entropy is ln 2 */
  leaf_expect (&entropy, "loss", 0, leaf_get (&plain, "loss", 0) + log (2));
  leaf_expect (&entropy, "grad.student.logits", 1, leaf_get (&plain, "grad.student.logits", 1));
}
GST_END_TEST

GST_START_TEST (test_infinite)
{
  g_auto (Leaf) leaf = { 0 };

  leaf_open (&leaf, "kddivergence", "", 1);
  leaf_put (&leaf, "student.logits", KD_FLOAT32, 1, 3, 0, log (3), -INFINITY);
  leaf_put (&leaf, "teacher.logits", KD_FLOAT32, 1, 3, 5, 5, -INFINITY);
  leaf_run_ok (&leaf);
  leaf_expect (&leaf, "loss", 0, 0.5 * log (2) + 0.5 * log (2.0 / 3));
  leaf_expect (&leaf, "grad.student.logits", 2, 0);
}
GST_END_TEST

GST_START_TEST (test_limits)
{
  g_auto (Leaf) leaf = { 0 };

  two_rows (&leaf, "temperature=1000 temperature-scale=t2", KD_FLOAT32); /* large T: half the variance of the difference */
  leaf_run_ok (&leaf);
  kd_assert_close (leaf_get (&leaf, "loss", 0), log (3) * log (3) / 8, 1e-3);
  leaf_batch (&leaf, 1); /* label gives positions that do not count */
  leaf_put (&leaf, "student.logits", KD_FLOAT32, 1, 2, NAN, 0);
  leaf_put (&leaf, "teacher.logits", KD_FLOAT32, 1, 2, 1, 0);
  leaf_put (&leaf, "label", KD_INT64, 1, 0, -100);
  leaf_run_ok (&leaf);
  leaf_expect (&leaf, "loss", 0, 0);
}
GST_END_TEST

GST_START_TEST (test_refusals)
{
  g_auto (Leaf) leaf = { 0 }, strict = { 0 };

  two_rows (&leaf, "", KD_FLOAT32);
  leaf_put (&leaf, "teacher.logits", KD_FLOAT32, 2, 3, 0, 0, 0, 0, 0, 0);
  leaf_refuses (&leaf, KD_ERROR_SHAPE, "axis=V");
  leaf_put (&leaf, "teacher.logits", KD_FLOAT32, 2, 2, 0, 0, INFINITY, 0);
  leaf_refuses (&leaf, KD_ERROR_VALUE, "teacher.logits");
  leaf_put (&leaf, "teacher.logits", KD_FLOAT64, 2, 2, 0, 0, 0, 0);
  leaf_refuses (&leaf, KD_ERROR_DTYPE, "teacher.logits");
  leaf_open (&strict, "kddivergence", "inf-policy=reject", 1);
  leaf_put (&strict, "student.logits", KD_FLOAT32, 1, 3, 0, 1, -INFINITY);
  leaf_put (&strict, "teacher.logits", KD_FLOAT32, 1, 3, 5, 5, -INFINITY);
  leaf_refuses (&strict, KD_ERROR_VALUE, "student.logits");
}
GST_END_TEST

KD_TESTS (kddivergence, test_forward, test_reverse, test_temperature, test_infinite, test_limits, test_refusals)
