#include "kd-leaf.h"

GST_START_TEST (test_value)
{
  g_auto (Leaf) leaf = { 0 };

  leaf_open (&leaf, "kdvirtualteacher", "classes=3 confidence=0.8", 2);
  leaf_put (&leaf, "label", KD_INT64, 2, 0, 2, 0);
  leaf_run_ok (&leaf);
  leaf_expect (&leaf, "teacher.logits", 2, log (0.8));
  leaf_expect (&leaf, "teacher.logits", 0, log (0.1));
  leaf_expect (&leaf, "teacher.logits", 3, log (0.8));
}
GST_END_TEST

GST_START_TEST (test_not_labelled)
{
  g_auto (Leaf) leaf = { 0 };

  leaf_open (&leaf, "kdvirtualteacher", "classes=2", 1);
  leaf_put (&leaf, "label", KD_INT64, 1, 0, -100);
  leaf_run_ok (&leaf);
  ck_assert (leaf_get (&leaf, "teacher.logits", 0) == leaf_get (&leaf, "teacher.logits", 1));
}
GST_END_TEST

GST_START_TEST (test_refusals)
{
  g_auto (Leaf) leaf = { 0 };

  leaf_open (&leaf, "kdvirtualteacher", "classes=3", 2);
  leaf_put (&leaf, "label", KD_INT64, 2, 0, 0, 3);
  leaf_refuses (&leaf, KD_ERROR_RANGE, "row=1, label=3, classes=3");
}
GST_END_TEST

KD_TESTS (kdvirtualteacher, test_value, test_not_labelled, test_refusals)
