#include "kd-leaf.h"

GST_START_TEST (test_value)
{
  g_auto (Leaf) leaf = { 0 };

  leaf_open (&leaf, "kdhint", "", 1);
  leaf_put (&leaf, "student.features.aligned", KD_FLOAT32, 1, 2, 1, 2);
  leaf_put (&leaf, "teacher.features.hint", KD_FLOAT32, 1, 2, 0, 5);
  leaf_run_ok (&leaf);
  leaf_expect (&leaf, "loss", 0, 100 * (1 + 9) / 2.0);
  leaf_expect (&leaf, "grad.student.features.aligned", 1, 100 * 2 * -3 / 2.0);
}
GST_END_TEST

GST_START_TEST (test_names_and_maps)
{
  const gint64 dims[4] = { 2, 1, 2, 2 };
  g_auto (Leaf) leaf = { 0 };

  leaf_open (&leaf, "kdhint", "student-field=block2 teacher-field=block4", 2);
  leaf.options.weight = 1;
  kd_batch_set (leaf.batch, "student.features.block2", kd_tensor_new_zero (KD_FLOAT32, 4, dims));
  kd_batch_set (leaf.batch, "teacher.features.block4", kd_tensor_new_zero (KD_FLOAT32, 4, dims));
  ((gfloat *) kd_batch_peek (leaf.batch, "student.features.block2")->data)[7] = 4;
  leaf_run_ok (&leaf);
  leaf_expect (&leaf, "loss", 0, 2);
  leaf_expect (&leaf, "grad.student.features.block2", 7, 1);
  leaf_put (&leaf, "mask", KD_UINT8, 2, 0, 1, 0); /* the sample that differs does not count */
  kd_batch_remove (leaf.batch, "loss");
  leaf_run_ok (&leaf);
  leaf_expect (&leaf, "loss", 0, 0);
}
GST_END_TEST

GST_START_TEST (test_refusals)
{
  g_auto (Leaf) leaf = { 0 }, unnamed = { 0 };

  leaf_open (&leaf, "kdhint", "", 1);
  leaf_put (&leaf, "student.features.aligned", KD_FLOAT32, 1, 2, 1, 2);
  leaf_refuses (&leaf, KD_ERROR_FIELD, "field=teacher.features.hint");
  leaf_put (&leaf, "teacher.features.hint", KD_FLOAT32, 1, 3, 1, 2, 3);
  leaf_refuses (&leaf, KD_ERROR_SHAPE, "axis=D");
  leaf_put (&leaf, "teacher.features.hint", KD_FLOAT32, 1, 2, 1, NAN);
  leaf_refuses (&leaf, KD_ERROR_VALUE, "teacher.features.hint");
  leaf_open (&unnamed, "kdhint", "student-field=", 1);
  leaf_refuses (&unnamed, KD_ERROR_FIELD, "student_field");
}
GST_END_TEST

KD_TESTS (kdhint, test_value, test_names_and_maps, test_refusals)
