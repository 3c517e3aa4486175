#include "kd-leaf.h"

GST_START_TEST (test_value)
{
  g_auto (Leaf) leaf = { 0 };

  leaf_open (&leaf, "kdlogitmerge", "subclasses=2", 1);
  leaf_put (&leaf, "student.logits", KD_FLOAT32, 1, 6, 0, log (3), 1000, 1000, -5, -INFINITY);
  leaf_run_ok (&leaf);
  ck_assert_uint_eq (kd_tensor_n_elements (kd_batch_peek (leaf.batch, "student.logits")), 3);
  leaf_expect (&leaf, "student.logits", 0, log (4));
  leaf_expect (&leaf, "student.logits", 1, 1000 + log (2));
  leaf_expect (&leaf, "student.logits", 2, -5);
}
GST_END_TEST

GST_START_TEST (test_names)
{
  g_auto (Leaf) leaf = { 0 };

  leaf_open (&leaf, "kdlogitmerge", "subclasses=1 out=student.class.logits", 1);
  leaf_put (&leaf, "student.logits", KD_FLOAT32, 1, 2, 3, 4);
  leaf_run_ok (&leaf);
  leaf_expect (&leaf, "student.class.logits", 1, 4);
  leaf_expect (&leaf, "student.logits", 1, 4);
}
GST_END_TEST

GST_START_TEST (test_refusals)
{
  g_auto (Leaf) leaf = { 0 };

  leaf_open (&leaf, "kdlogitmerge", "subclasses=4", 1);
  leaf_put (&leaf, "student.logits", KD_FLOAT32, 1, 6, 0, 1, 2, 3, 4, 5);
  leaf_refuses (&leaf, KD_ERROR_SHAPE, "Width is no multiple: element=kdlogitmerge, field=student.logits, width=6, subclasses=4");
  leaf_open (&leaf, "kdlogitmerge", "subclasses=2", 1); /* a NaN stays one */
  leaf_put (&leaf, "student.logits", KD_FLOAT32, 1, 4, NAN, 1, 1, NAN);
  leaf_run_ok (&leaf);
  ck_assert (isnan (leaf_get (&leaf, "student.logits", 0)) && isnan (leaf_get (&leaf, "student.logits", 1)));
}
GST_END_TEST

KD_TESTS (kdlogitmerge, test_value, test_names, test_refusals)
