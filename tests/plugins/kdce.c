#include "kd-leaf.h"

GST_START_TEST (test_value)
{
  g_auto (Leaf) leaf = { 0 };

  /* softmax (0, ln 3) = (1/4, 3/4), softmax (0, 0) = (1/2, 1/2) */
  leaf_open (&leaf, "kdce", "", 2);
  leaf_put (&leaf, "student.logits", KD_FLOAT32, 2, 2, 0, log (3), 0, 0);
  leaf_put (&leaf, "label", KD_INT64, 2, 0, 0, 1);
  leaf_run_ok (&leaf);
  leaf_expect (&leaf, "loss", 0, (log (4) + log (2)) / 2);
  leaf_expect (&leaf, "loss.kdce", 0, (log (4) + log (2)) / 2);
  leaf_expect (&leaf, "grad.student.logits", 0, -0.375);
  leaf_expect (&leaf, "grad.student.logits", 1, 0.375);
  leaf_expect (&leaf, "grad.student.logits", 3, -0.25);
}
GST_END_TEST

GST_START_TEST (test_smoothing_and_soft_agree)
{
  g_auto (Leaf) hard = { 0 }, soft = { 0 };

  leaf_open (&hard, "kdce", "label-smoothing=0.3", 1);
  leaf_put (&hard, "student.logits", KD_FLOAT32, 1, 3, 1, -2, 0.5);
  leaf_put (&hard, "label", KD_INT64, 1, 0, 2);
  leaf_run_ok (&hard);
  leaf_open (&soft, "kdce", "", 1);
  leaf_put (&soft, "student.logits", KD_FLOAT32, 1, 3, 1, -2, 0.5);
  leaf_put (&soft, "label.soft", KD_FLOAT32, 1, 3, 0.1, 0.1, 0.8);
  leaf_run_ok (&soft);
  leaf_expect (&hard, "loss", 0, leaf_get (&soft, "loss", 0));
  for (gsize i = 0; i < 3; i++)
    leaf_expect (&hard, "grad.student.logits", i, leaf_get (&soft, "grad.student.logits", i));
}
GST_END_TEST

GST_START_TEST (test_limits)
{
  g_auto (Leaf) leaf = { 0 };

  leaf_open (&leaf, "kdce", "", 2); /* no row counts: the one is masked, the other ignored */
  leaf_put (&leaf, "student.logits", KD_FLOAT32, 2, 2, NAN, 1, 1, 1);
  leaf_put (&leaf, "label", KD_INT64, 2, 0, 7, -100);
  leaf_put (&leaf, "mask", KD_UINT8, 2, 0, 0, 1);
  leaf_run_ok (&leaf);
  leaf_expect (&leaf, "loss", 0, 0);
  leaf_expect (&leaf, "grad.student.logits", 1, 0);
  leaf_batch (&leaf, 1); /* one class */
  leaf_put (&leaf, "student.logits", KD_FLOAT32, 1, 1, 5);
  leaf_put (&leaf, "label", KD_INT64, 1, 0, 0);
  leaf_run_ok (&leaf);
  leaf_expect (&leaf, "loss", 0, 0);
}
GST_END_TEST

GST_START_TEST (test_refusals)
{
  g_auto (Leaf) leaf = { 0 };

  leaf_open (&leaf, "kdce", "", 1);
  leaf_put (&leaf, "student.logits", KD_FLOAT32, 1, 2, 0, 0);
  leaf_refuses (&leaf, KD_ERROR_FIELD,
      "Field missing: element=kdce, field=label or label.soft; put a source with labels before it");
  leaf_put (&leaf, "label", KD_INT64, 1, 0, 2);
  leaf_refuses (&leaf, KD_ERROR_RANGE, "label=2");
  leaf_put (&leaf, "label", KD_INT64, 1, 0, 1);
  leaf_put (&leaf, "label.soft", KD_FLOAT32, 1, 2, 0.5, 0.6);
  leaf_refuses (&leaf, KD_ERROR_VALUE, "No distribution: element=kdce, field=label.soft, row=0");
  leaf_put (&leaf, "label.soft", KD_FLOAT32, 1, 2, 1, 0);
  leaf_put (&leaf, "student.logits", KD_FLOAT32, 1, 2, 0, NAN);
  leaf_refuses (&leaf, KD_ERROR_VALUE, "student.logits");
}
GST_END_TEST

KD_TESTS (kdce, test_value, test_smoothing_and_soft_agree, test_limits, test_refusals)
