#include "kd-leaf.h"

static void
one_row (Leaf *leaf, const gchar *properties)
{
  leaf_open (leaf, "kdbild", properties, 1);
  leaf_put (leaf, "student.logits", KD_FLOAT32, 1, 3, 0, 0, 0);
  leaf_put (leaf, "teacher.logits", KD_FLOAT16, 1, 3, 2, 1, 0);
}

/* k = 3, T = 1: teacher-led pairs have the differences 1, 2, 1, so Q = (e, e^2, e) / (2 e + e^2); the student's are even. Student-led pairs are the same ids in the
 * order 0, 1, 2. */
GST_START_TEST (test_value)
{
  g_auto (Leaf) leaf = { 0 };
  gdouble z = 2 * exp (1) + exp (2), q1 = exp (1) / z, q2 = exp (2) / z, kl = 2 * q1 * log (3 * q1) + q2 * log (3 * q2), g1 = 1 / 3.0 - q1, g2 = 1 / 3.0 - q2;

  one_row (&leaf, "mode=fixed top-k=3 divergence=forward temperature=1");
  leaf_run_ok (&leaf);
  leaf_expect (&leaf, "loss.teacher-led", 0, kl);
  leaf_expect (&leaf, "loss.student-led", 0, kl);
  leaf_expect (&leaf, "loss", 0, 2 * kl);
  leaf_expect (&leaf, "grad.student.logits", 0, 2 * (g1 + g2));
  leaf_expect (&leaf, "grad.student.logits", 1, 0);
  leaf_expect (&leaf, "grad.student.logits", 2, -2 * (g1 + g2));
}
GST_END_TEST

/* The curve 10, 1, 0.5, 0 bends at its second place; equal logits have no bend: k-min. */
GST_START_TEST (test_knee)
{
  g_auto (Leaf) leaf = { 0 };

  leaf_open (&leaf, "kdbild", "mode=knee k-max=4", 1);
  leaf_put (&leaf, "student.logits", KD_FLOAT32, 1, 4, 1, 1, 1, 1);
  leaf_put (&leaf, "teacher.logits", KD_FLOAT32, 1, 4, 0.5, 10, 0, 1);
  leaf_run_ok (&leaf);
  leaf_expect (&leaf, "knee.teacher-k", 0, 2);
  leaf_expect (&leaf, "knee.student-k", 0, 2);
  leaf_expect (&leaf, "grad.student.logits", 0, 0); /* one pair alone: its share is 1 in both models */
}
GST_END_TEST

GST_START_TEST (test_refusals)
{
  g_auto (Leaf) leaf = { 0 };

  one_row (&leaf, "mode=fixed top-k=4");
  leaf_refuses (&leaf, KD_ERROR_RANGE, "property=top-k, value=4");
  one_row (&leaf, "k-min=5 k-max=4");
  leaf_refuses (&leaf, KD_ERROR_RANGE, "k-min=5, k-max=4");
  one_row (&leaf, "knee-window=1");
  leaf_refuses (&leaf, KD_ERROR_RANGE, "property=knee-window, value=1, wanted=0 (all) or 2 and more");
  one_row (&leaf, "k-min=9");
  leaf_refuses (&leaf, KD_ERROR_RANGE, "property=k-min, value=9");
  one_row (&leaf, "");
  leaf_put (&leaf, "student.logits", KD_FLOAT32, 1, 2, 0, 0);
  leaf_refuses (&leaf, KD_ERROR_SHAPE, "teacher.logits");
  one_row (&leaf, "student-field=switch.logits");
  leaf_refuses (&leaf, KD_ERROR_FIELD, "switch.logits");
  one_row (&leaf, "");
  leaf_put (&leaf, "teacher.logits", KD_FLOAT32, 1, 3, 0, INFINITY, 0);
  leaf_refuses (&leaf, KD_ERROR_VALUE, "field=teacher.logits");
  one_row (&leaf, "");
  leaf_put (&leaf, "mask", KD_UINT8, 1, 0, 0);
  leaf_run_ok (&leaf);
  leaf_expect (&leaf, "loss", 0, 0);
  leaf_expect (&leaf, "grad.student.logits", 0, 0);
}
GST_END_TEST

KD_TESTS (kdbild, test_value, test_knee, test_refusals)
