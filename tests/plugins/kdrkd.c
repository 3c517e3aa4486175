#include "kd-leaf.h"

static void
points (Leaf *leaf, const gchar *properties)
{
  leaf_open (leaf, "kdrkd", properties, 3);
  leaf_put (leaf, "student.features.embed", KD_FLOAT32, 3, 1, 0, 1, 3);
  leaf_put (leaf, "teacher.features.embed", KD_FLOAT16, 3, 2, 0, 0, 2, 0, 6, 0);
}

/* The teacher's points are the student's at twice the distance, on the same line: the same relations. */
GST_START_TEST (test_scale_does_not_matter)
{
  g_auto (Leaf) leaf = { 0 };

  points (&leaf, "");
  leaf_run_ok (&leaf);
  leaf_expect (&leaf, "loss.distance", 0, 0);
  leaf_expect (&leaf, "loss.angle", 0, 0);
}
GST_END_TEST

/* Student 0 1 3: distances 1 3 2, mean 2. Teacher 0 1 2: 1 2 1, mean 4/3. Differences 1/2 - 3/4, 3/2 - 3/2, 1 - 3/4, each twice of nine. */
GST_START_TEST (test_value)
{
  g_auto (Leaf) leaf = { 0 };

  points (&leaf, "angle-weight=0");
  leaf_put (&leaf, "teacher.features.embed", KD_FLOAT32, 3, 1, 0, 1, 2);
  leaf_run_ok (&leaf);
  leaf_expect (&leaf, "loss.distance", 0, 2 * (0.5 / 16 + 0.5 / 16) / 9);
  leaf_expect (&leaf, "loss", 0, 25 * 2 * (0.5 / 16 + 0.5 / 16) / 9);
}
GST_END_TEST

GST_START_TEST (test_limits)
{
  g_auto (Leaf) leaf = { 0 };

  points (&leaf, "");
  leaf_put (&leaf, "student.features.embed", KD_FLOAT32, 3, 1, 5, 5, 5); /* all points are one */
  leaf_run_ok (&leaf);
  leaf_expect (&leaf, "loss.distance", 0, 0);
  leaf_expect (&leaf, "grad.student.features.embed", 1, 0);
  points (&leaf, "");
  leaf_put (&leaf, "mask", KD_UINT8, 3, 0, 0, 1, 0);
  leaf_run_ok (&leaf);
  leaf_expect (&leaf, "loss", 0, 0);
}
GST_END_TEST

GST_START_TEST (test_refusals)
{
  g_auto (Leaf) leaf = { 0 };
  g_autofree gdouble *many = g_new0 (gdouble, 513);

  for (gint i = 0; i < 513; i++)
    many[i] = i;
  leaf_open (&leaf, "kdrkd", "", 513);
  leaf_put_values (&leaf, "student.features.embed", KD_FLOAT32, 513, 1, many);
  leaf_put_values (&leaf, "teacher.features.embed", KD_FLOAT32, 513, 1, many);
  leaf_refuses (&leaf, KD_ERROR_RANGE, "samples=513, most=512");
  points (&leaf, "");
  leaf_put (&leaf, "student.features.embed", KD_FLOAT32, 3, 1, 0, NAN, 3);
  leaf_refuses (&leaf, KD_ERROR_VALUE, "student.features.embed");
}
GST_END_TEST

KD_TESTS (kdrkd, test_scale_does_not_matter, test_value, test_limits, test_refusals)
