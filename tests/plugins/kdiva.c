#include "kd-leaf.h"

static KdTensor *
tensor (guint rank, const gint64 *dims, const gdouble *values)
{
  KdTensor *new = kd_tensor_new (KD_FLOAT32, rank, dims);

  for (gsize i = 0; i < kd_tensor_n_elements (new); i++)
    ((gfloat *) new->data)[i] = (gfloat) values[i];
  return new;
}

/* One sample, two image tokens, two instruction tokens, one head. */
static void
sample (Leaf *leaf, const gchar *properties, const gdouble *attention)
{
  const gint64 dims[4] = { 1, 1, 2, 2 };
  const gdouble student[4] = { 0, 0, 0, 0 }, teacher[4] = { log (3), 0, 0, 0 };

  leaf_open (leaf, "kdiva", properties, 1);
  kd_batch_set (leaf->batch, "student.vision.logits", tensor (3, dims + 1, student));
  kd_batch_set (leaf->batch, "teacher.vision.logits", tensor (3, dims + 1, teacher));
  kd_batch_set (leaf->batch, "teacher.attention", tensor (4, dims, attention));
}
#define SAMPLE(leaf, properties, ...) sample (leaf, properties, (const gdouble[]) { __VA_ARGS__ })
GST_START_TEST (test_value)
{
  g_auto (Leaf) leaf = { 0 };
  gdouble kl = 0.75 * log (1.5) + 0.25 * log (0.5);
  const gint64 dims[2] = { 1, 2 };

  SAMPLE (&leaf, "", 0.5, 0.5, 1, 0);
  kd_batch_set (leaf.batch, "teacher.vision.logits", tensor (3, (const gint64[]) { 1, 2, 2 }, (const gdouble[]) { log (3), 0, 0, 0 }));
  leaf_run_ok (&leaf);
  leaf_expect (&leaf, "vision.weight", 0, 0.75);
  leaf_expect (&leaf, "loss", 0, 0.75 * kl);
  leaf_expect (&leaf, "grad.student.vision.logits", 0, 0.75 * (0.5 - 0.75));
  SAMPLE (&leaf, "", 0.5, 0.5, 1, 0);
  kd_batch_set (leaf.batch, "instruction.mask", tensor (2, dims, (const gdouble[]) { 1, 0 }));
  leaf_run_ok (&leaf);
  leaf_expect (&leaf, "loss", 0, 0.5 * kl);
}
GST_END_TEST

GST_START_TEST (test_limits)
{
  g_auto (Leaf) leaf = { 0 };

  SAMPLE (&leaf, "", 0, 0, 0, 0); /* nothing is looked at: evenly */
  leaf_run_ok (&leaf);
  leaf_expect (&leaf, "vision.weight", 1, 0.5);
  SAMPLE (&leaf, "", NAN, 0, 0, 0); /* no image */
  leaf_put (&leaf, "mask", KD_UINT8, 1, 0, 0);
  leaf_run_ok (&leaf);
  leaf_expect (&leaf, "loss", 0, 0);
  leaf_expect (&leaf, "vision.weight", 0, 0);
}
GST_END_TEST

GST_START_TEST (test_refusals)
{
  g_auto (Leaf) leaf = { 0 };

  SAMPLE (&leaf, "", 0.5, -0.1, 0, 0);
  leaf_refuses (&leaf, KD_ERROR_VALUE, "field=teacher.attention");
  SAMPLE (&leaf, "", 0.5, NAN, 0, 0);
  leaf_refuses (&leaf, KD_ERROR_VALUE, "field=teacher.attention");
  SAMPLE (&leaf, "", 0, 0, 0, 0);
  kd_batch_set (leaf.batch, "teacher.vision.logits", tensor (3, (const gint64[]) { 1, 1, 4 }, (const gdouble[]) { 0, 0, 0, 0 }));
  leaf_refuses (&leaf, KD_ERROR_SHAPE, "teacher.vision.logits");
  SAMPLE (&leaf, "", 0, 0, 0, 0);
  kd_batch_remove (leaf.batch, "teacher.attention");
  leaf_refuses (&leaf, KD_ERROR_FIELD, "teacher.attention");
}
GST_END_TEST

KD_TESTS (kdiva, test_value, test_limits, test_refusals)
