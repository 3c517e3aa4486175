#include "kd-leaf.h"

static void
put (Leaf *leaf, const gchar *name, guint n, const gdouble *values)
{
  leaf_put4_values (leaf, name, 1, 2, 1, 2, values);
  ck_assert (n == 4);
}
#define PUT(leaf, name, ...) put (leaf, name, 4, (const gdouble[]) { __VA_ARGS__ })

static void
two_positions (Leaf *leaf, const gchar *properties)
{
  leaf_open (leaf, "kdtpa", properties, 1);
  PUT (leaf, "student.branch.logits", 0, 0, 0, 0);
  PUT (leaf, "teacher.branch.logits", log (3), 0, 0, 0);
}

/* (3/4, 1/4) against even: KL = 3/4 log 3/2 + 1/4 log 1/2; the second position agrees. */
GST_START_TEST (test_value)
{
  g_auto (Leaf) leaf = { 0 };
  gdouble kl = 0.75 * log (1.5) + 0.25 * log (0.5);

  two_positions (&leaf, "branches=1");
  leaf_run_ok (&leaf);
  leaf_expect (&leaf, "loss", 0, kl / 2);
  leaf_expect (&leaf, "grad.student.branch.logits", 0, (0.5 - 0.75) / 2);
  leaf_expect (&leaf, "grad.student.branch.logits", 2, 0);
  two_positions (&leaf, "branches=1 divergence=reverse");
  leaf_run_ok (&leaf);
  leaf_expect (&leaf, "loss", 0, 0.5 * (0.5 * log (0.5 / 0.75) + 0.5 * log (0.5 / 0.25)));
}
GST_END_TEST

GST_START_TEST (test_mask)
{
  g_auto (Leaf) leaf = { 0 };

  two_positions (&leaf, "branches=1");
  leaf_put (&leaf, "mask", KD_UINT8, 1, 2, 0, 1);
  leaf_run_ok (&leaf);
  leaf_expect (&leaf, "loss", 0, 0); /* the position that differs does not count */
  two_positions (&leaf, "branches=1");
  leaf_put (&leaf, "mask", KD_UINT8, 1, 2, 0, 0);
  leaf_run_ok (&leaf);
  leaf_expect (&leaf, "loss", 0, 0);
  leaf_expect (&leaf, "grad.student.branch.logits", 0, 0);
}
GST_END_TEST

GST_START_TEST (test_refusals)
{
  g_auto (Leaf) leaf = { 0 };

  two_positions (&leaf, "branches=4");
  leaf_refuses (&leaf, KD_ERROR_SHAPE, "student.branch.logits");
  two_positions (&leaf, "branches=1");
  leaf_put (&leaf, "teacher.branch.logits", KD_FLOAT32, 1, 4, 0, 0, 0, 0);
  leaf_refuses (&leaf, KD_ERROR_SHAPE, "teacher.branch.logits");
  two_positions (&leaf, "branches=1");
  PUT (&leaf, "student.branch.logits", NAN, 0, 0, 0);
  leaf_refuses (&leaf, KD_ERROR_VALUE, "field=student.branch.logits");
}
GST_END_TEST

KD_TESTS (kdtpa, test_value, test_mask, test_refusals)
