#include "kd-leaf.h"

static void
two_rows (Leaf *leaf, const gchar *element, const gchar *properties)
{
  leaf_open (leaf, element, properties, 2);
  leaf_put (leaf, "student.logits", KD_FLOAT32, 2, 3, 1, 2, 3, -1, 0.5, 0);
  leaf_put (leaf, "teacher.logits", KD_FLOAT16, 2, 3, 2, 1, 0, 0, 1, 3);
  leaf_put (leaf, "label", KD_INT64, 2, 0, 2, 1);
}

/* KL (q || p) = TCKD + (1 - q_y) NCKD, row by row: against kddivergence on one row. */
GST_START_TEST (test_identity)
{
  g_auto (Leaf) dkd = { 0 }, kl = { 0 };
  gdouble z = exp (2) + exp (1) + exp (0), q_y = exp (0) / z;

  leaf_open (&dkd, "kddkd", "temperature=1 ce-weight=0 warmup-epochs=0", 1);
  leaf_put (&dkd, "student.logits", KD_FLOAT32, 1, 3, 1, 2, 3);
  leaf_put (&dkd, "teacher.logits", KD_FLOAT32, 1, 3, 2, 1, 0);
  leaf_put (&dkd, "label", KD_INT64, 1, 0, 2);
  leaf_run_ok (&dkd);
  leaf_open (&kl, "kddivergence", "", 1);
  leaf_put (&kl, "student.logits", KD_FLOAT32, 1, 3, 1, 2, 3);
  leaf_put (&kl, "teacher.logits", KD_FLOAT32, 1, 3, 2, 1, 0);
  leaf_run_ok (&kl);
  kd_assert_close (leaf_get (&dkd, "loss.tckd", 0) + (1 - q_y) * leaf_get (&dkd, "loss.nckd", 0), leaf_get (&kl, "loss", 0), 1e-6);
}
GST_END_TEST

GST_START_TEST (test_limits)
{
  g_auto (Leaf) leaf = { 0 };

  two_rows (&leaf, "kddkd", "ce-weight=0 warmup-epochs=4");
  leaf_run_ok (&leaf);
  kd_assert_close (leaf_get (&leaf, "loss", 0), (leaf_get (&leaf, "loss.tckd", 0) + 8 * leaf_get (&leaf, "loss.nckd", 0)) / 4, 1e-9); /* the first of 4 epochs */
  two_rows (&leaf, "kddkd", "");
  leaf_put (&leaf, "mask", KD_UINT8, 2, 0, 0, 0);
  leaf_run_ok (&leaf);
  leaf_expect (&leaf, "loss", 0, 0);
  leaf_open (&leaf, "kddkd", "warmup-epochs=0", 1); /* two classes: nothing beside the target to compare */
  leaf_put (&leaf, "student.logits", KD_FLOAT32, 1, 2, 5, 1);
  leaf_put (&leaf, "teacher.logits", KD_FLOAT32, 1, 2, 0, 1);
  leaf_put (&leaf, "label", KD_INT64, 1, 0, 0);
  leaf_run_ok (&leaf);
  leaf_expect (&leaf, "loss.nckd", 0, 0);
}
GST_END_TEST

GST_START_TEST (test_refusals)
{
  g_auto (Leaf) leaf = { 0 };

  two_rows (&leaf, "kddkd", "");
  leaf_put (&leaf, "label", KD_INT64, 2, 0, 2, 3);
  leaf_refuses (&leaf, KD_ERROR_RANGE, "label=3, classes=3");
  two_rows (&leaf, "kddkd", "");
  leaf_put (&leaf, "teacher.logits", KD_FLOAT32, 2, 3, NAN, 1, 0, 0, 1, 3);
  leaf_refuses (&leaf, KD_ERROR_VALUE, "teacher.logits");
}
GST_END_TEST

KD_TESTS (kddkd, test_identity, test_limits, test_refusals)
