#include "kd-leaf.h"

GST_START_TEST (test_values)
{
  g_auto (Leaf) leaf = { 0 };

  leaf_open (&leaf, "kdlogittopk", "k=2", 2);
  leaf_put (&leaf, "teacher.logits", KD_FLOAT16, 2, 4, 0, log (2), log (4), 0, 1, 1, 1, 1);
  leaf_run_ok (&leaf);
  leaf_expect (&leaf, "teacher.topk.ids", 0, 2);
  leaf_expect (&leaf, "teacher.topk.ids", 1, 1);
  kd_assert_close (leaf_get (&leaf, "teacher.topk.logprobs", 0), log (0.5), 1e-3);
  kd_assert_close (leaf_get (&leaf, "teacher.topk.lse", 0), log (8), 1e-3);
  leaf_expect (&leaf, "teacher.topk.ids", 2, 0); /* equal logits: the lower ids first */
  leaf_expect (&leaf, "teacher.topk.ids", 3, 1);
  leaf_expect (&leaf, "teacher.topk.logprobs", 3, log (0.25));
  ck_assert (!kd_batch_peek (leaf.batch, "teacher.logits"));
}
GST_END_TEST

GST_START_TEST (test_temperature_and_all)
{
  g_auto (Leaf) leaf = { 0 };

  leaf_open (&leaf, "kdlogittopk", "k=3 temperature=2", 1);
  leaf_put (&leaf, "teacher.logits", KD_FLOAT32, 1, 3, -INFINITY, 2 * log (3), 0);
  leaf_run_ok (&leaf);
  leaf_expect (&leaf, "teacher.topk.lse", 0, log (4));
  leaf_expect (&leaf, "teacher.topk.logprobs", 0, log (0.75));
  leaf_expect (&leaf, "teacher.topk.ids", 2, 0);
  ck_assert (leaf_get (&leaf, "teacher.topk.logprobs", 2) == -INFINITY);
}
GST_END_TEST

GST_START_TEST (test_mask)
{
  g_auto (Leaf) leaf = { 0 };

  leaf_open (&leaf, "kdlogittopk", "k=1", 2);
  leaf_put (&leaf, "teacher.logits", KD_FLOAT32, 2, 2, NAN, 1, 0, 0);
  leaf_put (&leaf, "mask", KD_UINT8, 2, 0, 0, 1);
  leaf_run_ok (&leaf);
  leaf_expect (&leaf, "teacher.topk.ids", 0, -1);
  leaf_expect (&leaf, "teacher.topk.logprobs", 0, 0);
  leaf_expect (&leaf, "teacher.topk.lse", 0, 0);
  leaf_expect (&leaf, "teacher.topk.ids", 1, 0);
}
GST_END_TEST

GST_START_TEST (test_refusals)
{
  g_auto (Leaf) leaf = { 0 };

  leaf_open (&leaf, "kdlogittopk", "k=3", 1);
  leaf_put (&leaf, "teacher.logits", KD_FLOAT32, 1, 2, 0, 0);
  leaf_refuses (&leaf, KD_ERROR_RANGE, "Property out of range: element=kdlogittopk, property=k, value=3, wanted=1 to the vocabulary's 2");
  leaf_put (&leaf, "teacher.logits", KD_FLOAT32, 1, 3, 0, NAN, 0);
  leaf_refuses (&leaf, KD_ERROR_VALUE, "field=teacher.logits, row=0");
  leaf_put (&leaf, "teacher.logits", KD_FLOAT32, 1, 3, 0, INFINITY, 0);
  leaf_refuses (&leaf, KD_ERROR_VALUE, "teacher.logits");
  leaf_put (&leaf, "teacher.logits", KD_FLOAT32, 1, 3, -INFINITY, -INFINITY, -INFINITY);
  leaf_refuses (&leaf, KD_ERROR_VALUE, "teacher.logits");
  leaf_batch (&leaf, 1);
  leaf_refuses (&leaf, KD_ERROR_FIELD, "teacher.logits");
}
GST_END_TEST

KD_TESTS (kdlogittopk, test_values, test_temperature_and_all, test_mask, test_refusals)
