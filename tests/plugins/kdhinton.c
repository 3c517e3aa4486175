#include "kd-leaf.h"

static void
one_row (Leaf *leaf, const gchar *properties)
{
  leaf_open (leaf, "kdhinton", properties, 1);
  leaf_put (leaf, "student.logits", KD_FLOAT32, 1, 2, 0, log (3));
  leaf_put (leaf, "teacher.logits", KD_FLOAT32, 1, 2, 1, 1);
}

GST_START_TEST (test_value)
{
  g_auto (Leaf) leaf = { 0 };
  gdouble kd = 0.5 * log (2) + 0.5 * log (2.0 / 3);

  one_row (&leaf, "temperature=1 ce-weight=0.5 kd-weight=2");
  leaf_put (&leaf, "label", KD_INT64, 1, 0, 0);
  leaf_run_ok (&leaf);
  leaf_expect (&leaf, "loss.ce", 0, log (4));
  leaf_expect (&leaf, "loss.kd", 0, kd);
  leaf_expect (&leaf, "loss", 0, 0.5 * log (4) + 2 * kd);
  leaf_expect (&leaf, "grad.student.logits", 0, 0.5 * -0.75 + 2 * -0.25);
}
GST_END_TEST

GST_START_TEST (test_temperature)
{
  g_auto (Leaf) leaf = { 0 };

  one_row (&leaf, "temperature=2 ce-weight=0 kd-weight=1"); /* softmax (0, ln 3 / 2) = (1, sqrt 3) / (1 + sqrt 3) */
  leaf_run_ok (&leaf);
  leaf_expect (&leaf, "loss", 0, 4 * (-log (2) + log (1 + sqrt (3)) - 0.25 * log (3)));
  leaf_expect (&leaf, "grad.student.logits", 0, 2 * (1 / (1 + sqrt (3)) - 0.5));
}
GST_END_TEST

GST_START_TEST (test_no_teacher_is_cross_entropy)
{
  g_auto (Leaf) leaf = { 0 }, ce = { 0 };

  one_row (&leaf, "ce-weight=1 kd-weight=0 label-smoothing=0.1");
  leaf_put (&leaf, "label", KD_INT64, 1, 0, 1);
  leaf_run_ok (&leaf);
  leaf_open (&ce, "kdce", "label-smoothing=0.1", 1);
  leaf_put (&ce, "student.logits", KD_FLOAT32, 1, 2, 0, log (3));
  leaf_put (&ce, "label", KD_INT64, 1, 0, 1);
  leaf_run_ok (&ce);
  ck_assert (leaf_get (&leaf, "loss", 0) == leaf_get (&ce, "loss", 0)); /* to the bit */
  ck_assert (leaf_get (&leaf, "grad.student.logits", 0) == leaf_get (&ce, "grad.student.logits", 0));
}
GST_END_TEST

GST_START_TEST (test_standardize)
{
  g_auto (Leaf) a = { 0 }, b = { 0 }, flat = { 0 };

  leaf_open (&a, "kdhinton", "ce-weight=0 standardize=true", 1); /* scale and shift of either model make no difference */
  leaf_put (&a, "student.logits", KD_FLOAT32, 1, 3, 1, 2, 4);
  leaf_put (&a, "teacher.logits", KD_FLOAT32, 1, 3, 3, 1, 2);
  leaf_run_ok (&a);
  leaf_open (&b, "kdhinton", "ce-weight=0 standardize=true", 1);
  leaf_put (&b, "student.logits", KD_FLOAT32, 1, 3, 15, 25, 45);
  leaf_put (&b, "teacher.logits", KD_FLOAT32, 1, 3, 6, 2, 4);
  leaf_run_ok (&b);
  leaf_expect (&a, "loss", 0, leaf_get (&b, "loss", 0));
  leaf_open (&flat, "kdhinton", "ce-weight=0 standardize=true", 1); /* equal logits: no direction to go to */
  leaf_put (&flat, "student.logits", KD_FLOAT32, 1, 3, 2, 2, 2);
  leaf_put (&flat, "teacher.logits", KD_FLOAT32, 1, 3, 3, 1, 2);
  leaf_run_ok (&flat);
  leaf_expect (&flat, "grad.student.logits", 0, 0);
}
GST_END_TEST

GST_START_TEST (test_refusals)
{
  g_auto (Leaf) leaf = { 0 }, unlabelled = { 0 };

  one_row (&leaf, "");
  leaf_refuses (&leaf, KD_ERROR_FIELD, "Field missing: element=kdhinton, field=label or label.soft, ce-weight=0.1; put a source with labels "
                                       "before it or set ce-weight=0");
  leaf_put (&leaf, "label.soft", KD_FLOAT32, 1, 2, -0.5, 1.5);
  leaf_refuses (&leaf, KD_ERROR_VALUE, "field=label.soft, row=0");
  leaf_put (&leaf, "label.soft", KD_FLOAT32, 1, 2, 0.5, 0.5);
  leaf_put (&leaf, "teacher.logits", KD_FLOAT32, 1, 2, -INFINITY, 1);
  leaf_refuses (&leaf, KD_ERROR_VALUE, "Value not finite: element=kdhinton, field=teacher.logits");
  leaf_put (&leaf, "teacher.logits", KD_FLOAT32, 1, 2, NAN, 1);
  leaf_refuses (&leaf, KD_ERROR_VALUE, "teacher.logits");
  one_row (&unlabelled, "ce-weight=0");
  leaf_run_ok (&unlabelled);
  leaf_expect (&unlabelled, "loss.ce", 0, 0);
}
GST_END_TEST

KD_TESTS (kdhinton, test_value, test_temperature, test_no_teacher_is_cross_entropy, test_standardize, test_refusals)
