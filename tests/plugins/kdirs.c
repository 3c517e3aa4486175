#include "kd-leaf.h"

/* Layer 0 looks the same way for both instructions, layer 1 elsewhere; layer 2 has a zero vector only. */
GST_START_TEST (test_value)
{
  g_auto (Leaf) leaf = { 0 };

  leaf_open (&leaf, "kdirs", "", 1);
  leaf_put4 (&leaf, "attention.pairs", 3, 1, 2, 2, 1, 1, 2, 2, 1, 0, 0, 1, 0, 0, 1, 1);
  leaf_run_ok (&leaf);
  leaf_expect (&leaf, "irs.score", 0, 0);
  leaf_expect (&leaf, "irs.score", 1, 1);
  leaf_expect (&leaf, "irs.score", 2, 0);
  leaf_expect (&leaf, "irs.layer", 0, 1);
}
GST_END_TEST

GST_START_TEST (test_refusals)
{
  g_auto (Leaf) leaf = { 0 };

  leaf_open (&leaf, "kdirs", "", 1);
  leaf_put4 (&leaf, "attention.pairs", 1, 1, 2, 2, 1, NAN, 2, 2);
  leaf_refuses (&leaf, KD_ERROR_VALUE, "field=attention.pairs, layer=0");
  leaf_put4 (&leaf, "attention.pairs", 1, 1, 3, 1, 1, 2, 2);
  leaf_refuses (&leaf, KD_ERROR_SHAPE, "attention.pairs");
  kd_batch_remove (leaf.batch, "attention.pairs");
  leaf_refuses (&leaf, KD_ERROR_FIELD, "attention.pairs");
}
GST_END_TEST

KD_TESTS (kdirs, test_value, test_refusals)
