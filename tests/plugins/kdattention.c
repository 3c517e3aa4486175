#include "kd-leaf.h"

static void
one_map (Leaf *leaf)
{
  leaf_open (leaf, "kdattention", "", 1);
  leaf->options.weight = 1;
  leaf_put4 (leaf, "student.features.map", 1, 1, 1, 2, 1, 0);
  leaf_put4 (leaf, "teacher.features.map", 1, 1, 1, 2, 0, -3);
}

/* The student looks left, the teacher right: (1 - 0)^2 and (0 - 1)^2 over two cells. */
GST_START_TEST (test_value)
{
  g_auto (Leaf) leaf = { 0 };

  one_map (&leaf);
  leaf_run_ok (&leaf);
  leaf_expect (&leaf, "loss", 0, 1);
  leaf_expect (&leaf, "grad.student.features.map", 0, 0); /* scale does not matter, and the other cell is a stationary point */
}
GST_END_TEST

/* A teacher's map of twice the size, whose pooled cells are the student's: nothing to learn. */
GST_START_TEST (test_pooled)
{
  g_auto (Leaf) leaf = { 0 };

  one_map (&leaf);
  leaf_put4 (&leaf, "student.features.map", 1, 1, 1, 2, 1, 2);
  leaf_put4 (&leaf, "teacher.features.map", 1, 1, 2, 4, 1, 1, 2, 2, 1, 1, 2, 2);
  leaf_run_ok (&leaf);
  leaf_expect (&leaf, "loss", 0, 0);
}
GST_END_TEST

GST_START_TEST (test_refusals)
{
  g_auto (Leaf) leaf = { 0 };

  one_map (&leaf);
  leaf_put (&leaf, "teacher.features.map", KD_FLOAT32, 1, 2, 1, 2);
  leaf_refuses (&leaf, KD_ERROR_SHAPE, "teacher.features.map");
  one_map (&leaf);
  leaf_put4 (&leaf, "student.features.map", 1, 1, 1, 2, NAN, 0);
  leaf_refuses (&leaf, KD_ERROR_VALUE, "student.features.map");
}
GST_END_TEST

KD_TESTS (kdattention, test_value, test_pooled, test_refusals)
