#include "kd-leaf.h"

static void
two_rows (Leaf *leaf, const gchar *properties)
{
  leaf_open (leaf, "kdcrdlite", properties, 2);
  leaf_put (leaf, "student.features.embed", KD_FLOAT32, 2, 2, 3, 0, 0, 2);
  leaf_put (leaf, "teacher.features.embed", KD_FLOAT16, 2, 2, 1, 0, 0, 1);
}

/* Cosines are 1 on the diagonal and 0 beside it: each row costs log (1 + e^-1). */
GST_START_TEST (test_value)
{
  g_auto (Leaf) both = { 0 }, one = { 0 };

  two_rows (&both, "temperature=1");
  leaf_run_ok (&both);
  kd_assert_close (leaf_get (&both, "loss", 0), log1p (exp (-1)), 1e-6);
  two_rows (&one, "temperature=1 symmetric=false");
  leaf_run_ok (&one);
  kd_assert_close (leaf_get (&one, "loss", 0), log1p (exp (-1)), 1e-6);
  leaf_expect (&one, "grad.student.features.embed", 0, 0); /* along the row there is nothing to gain */
}
GST_END_TEST

GST_START_TEST (test_limits)
{
  g_auto (Leaf) leaf = { 0 };

  two_rows (&leaf, "");
  leaf_put (&leaf, "mask", KD_UINT8, 2, 0, 0, 1); /* one sample has nobody to be told from */
  leaf_run_ok (&leaf);
  leaf_expect (&leaf, "loss", 0, 0);
  leaf_expect (&leaf, "grad.student.features.embed", 3, 0);
  two_rows (&leaf, "");
  leaf_put (&leaf, "student.features.embed", KD_FLOAT32, 2, 2, 0, 0, 0, 2);
  leaf_run_ok (&leaf);
  leaf_expect (&leaf, "grad.student.features.embed", 0, 0);
}
GST_END_TEST

GST_START_TEST (test_refusals)
{
  g_auto (Leaf) leaf = { 0 };

  two_rows (&leaf, "");
  leaf_put (&leaf, "teacher.features.embed", KD_FLOAT16, 2, 3, 1, 0, 0, 1, 0, 0);
  leaf_refuses (&leaf, KD_ERROR_SHAPE, "teacher.features.embed");
  two_rows (&leaf, "");
  leaf_put (&leaf, "student.features.embed", KD_FLOAT32, 2, 2, INFINITY, 0, 0, 2);
  leaf_refuses (&leaf, KD_ERROR_VALUE, "student.features.embed");
}
GST_END_TEST

KD_TESTS (kdcrdlite, test_value, test_limits, test_refusals)
