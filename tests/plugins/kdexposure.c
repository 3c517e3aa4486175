#include "kd-leaf.h"

GST_START_TEST (test_value)
{
  g_auto (Leaf) leaf = { 0 };

  leaf_open (&leaf, "kdexposure", "", 2);
  leaf_put (&leaf, "score.nll", KD_FLOAT32, 2, 4, 1, 2, 3, 4, 5, 5, 5, 5);
  leaf_put (&leaf, "canary.index", KD_INT64, 2, 0, 0, 3);
  leaf_run_ok (&leaf);
  leaf_expect (&leaf, "canary.rank", 0, 1);
  leaf_expect (&leaf, "canary.exposure", 0, 2); /* the likeliest of four: all of its two bits */
  leaf_expect (&leaf, "canary.rank", 1, 2.5);
  leaf_expect (&leaf, "canary.exposure", 1, 2 - log2 (2.5));
}
GST_END_TEST

GST_START_TEST (test_refusals)
{
  g_auto (Leaf) leaf = { 0 };

  leaf_open (&leaf, "kdexposure", "", 1);
  leaf_put (&leaf, "score.nll", KD_FLOAT32, 1, 2, 1, 2);
  leaf_put (&leaf, "canary.index", KD_INT64, 1, 0, 2);
  leaf_refuses (&leaf, KD_ERROR_RANGE, "field=canary.index, row=0, value=2, fillings=2");
  leaf_put (&leaf, "canary.index", KD_INT64, 1, 0, -1);
  leaf_refuses (&leaf, KD_ERROR_RANGE, "canary.index");
  leaf_put (&leaf, "canary.index", KD_INT64, 1, 0, 0);
  leaf_put (&leaf, "score.nll", KD_FLOAT32, 1, 2, 1, NAN);
  leaf_refuses (&leaf, KD_ERROR_VALUE, "score.nll");
}
GST_END_TEST

KD_TESTS (kdexposure, test_value, test_refusals)
