#include "kd-leaf.h"

static void
two_rows (Leaf *leaf)
{
  leaf_open (leaf, "kdsimilarity", "", 2);
  leaf->options.weight = 1;
  leaf_put (leaf, "student.features.embed", KD_FLOAT32, 2, 2, 1, 0, 0, 2);
  leaf_put (leaf, "teacher.features.embed", KD_FLOAT16, 2, 1, 1, 1);
}

/* The student's rows have nothing in common: G_s = I. The teacher's are the same: all of G_t is 1/sqrt 2. */
GST_START_TEST (test_value)
{
  g_auto (Leaf) leaf = { 0 };
  gdouble h = 1 / sqrt (2);

  two_rows (&leaf);
  leaf_run_ok (&leaf);
  leaf_expect (&leaf, "loss", 0, 2 * ((1 - h) * (1 - h) + h * h) / 4);
}
GST_END_TEST

GST_START_TEST (test_limits)
{
  g_auto (Leaf) leaf = { 0 };

  two_rows (&leaf);
  leaf_put (&leaf, "mask", KD_UINT8, 2, 0, 1, 0); /* one sample is like itself */
  leaf_run_ok (&leaf);
  leaf_expect (&leaf, "loss", 0, 0);
  leaf_expect (&leaf, "grad.student.features.embed", 0, 0);
  two_rows (&leaf);
  leaf_put (&leaf, "mask", KD_UINT8, 2, 0, 0, 0);
  leaf_run_ok (&leaf);
  leaf_expect (&leaf, "loss", 0, 0);
  two_rows (&leaf);
  leaf_put (&leaf, "student.features.embed", KD_FLOAT32, 2, 2, 0, 0, 0, 2); /* a zero row */
  leaf_run_ok (&leaf);
  leaf_expect (&leaf, "grad.student.features.embed", 0, 0);
}
GST_END_TEST

GST_START_TEST (test_refusals)
{
  g_auto (Leaf) leaf = { 0 };

  two_rows (&leaf);
  leaf_put (&leaf, "teacher.features.embed", KD_FLOAT16, 2, 1, NAN, 1);
  leaf_refuses (&leaf, KD_ERROR_VALUE, "teacher.features.embed");
  two_rows (&leaf);
  leaf_put (&leaf, "student.features.embed", KD_INT64, 2, 2, 1, 0, 0, 2);
  leaf_refuses (&leaf, KD_ERROR_DTYPE, "student.features.embed");
}
GST_END_TEST

KD_TESTS (kdsimilarity, test_value, test_limits, test_refusals)
