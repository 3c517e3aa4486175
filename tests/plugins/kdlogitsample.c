#include "kd-leaf.h"

/* r = (1/2, 1/4, 1/4) */
static void
one_row (Leaf *leaf, const gchar *properties)
{
  leaf_open (leaf, "kdlogitsample", properties, 1);
  leaf_put (leaf, "teacher.logits", KD_FLOAT32, 1, 3, log (2), 0, 0);
}

GST_START_TEST (test_values)
{
  g_auto (Leaf) leaf = { 0 };

  one_row (&leaf, "draws=4 rng=field");
  leaf_put (&leaf, "rng.uniform", KD_FLOAT64, 1, 4, 0.9, 0.1, 0.499, 0.95);
  leaf_run_ok (&leaf);
  leaf_expect (&leaf, "teacher.sampled.ids", 0, 0);
  leaf_expect (&leaf, "teacher.sampled.ids", 1, 2);
  leaf_expect (&leaf, "teacher.sampled.weights", 0, 0.5);
  leaf_expect (&leaf, "teacher.sampled.weights", 1, 0.5);
  leaf_expect (&leaf, "teacher.sampled.ids", 2, -1);
  leaf_expect (&leaf, "teacher.sampled.weights", 3, 0);
  ck_assert (!kd_batch_peek (leaf.batch, "teacher.logits"));
}
GST_END_TEST

/* Drawn evenly: weight = share x p / (1/3). T = 1/2 makes p = (2/3, 1/6, 1/6). */
GST_START_TEST (test_proposal)
{
  g_auto (Leaf) leaf = { 0 };

  one_row (&leaf, "draws=2 rng=field proposal-power=0 temperature=0.5");
  leaf_put (&leaf, "rng.uniform", KD_FLOAT64, 1, 2, 0.4, 0);
  leaf_run_ok (&leaf);
  leaf_expect (&leaf, "teacher.sampled.weights", 0, 0.5 * 2);
  leaf_expect (&leaf, "teacher.sampled.ids", 1, 1);
  leaf_expect (&leaf, "teacher.sampled.weights", 1, 0.5 * 0.5);
}
GST_END_TEST

static void
run_epoch (Leaf *leaf, const gchar *properties, guint epoch, gint64 n, gint64 first)
{
  gint64 dims[2] = { n, 50 };
  KdTensor *logits = kd_tensor_new_zero (KD_FLOAT32, 2, dims), *id = kd_tensor_new (KD_INT64, 1, dims);

  leaf_open (leaf, "kdlogitsample", properties, n);
  for (gint64 i = 0; i < n; i++)
    ((gint64 *) id->data)[i] = first + i;
  kd_batch_set (leaf->batch, "teacher.logits", logits);
  kd_batch_set (leaf->batch, "sample.id", id);
  leaf->batch->epoch = epoch;
  leaf_run_ok (leaf);
}

/* Draws belong to seed, epoch and sample: the same in another batch, others with any of the three. */
GST_START_TEST (test_streams)
{
  g_auto (Leaf) a = { 0 }, b = { 0 }, epoch = { 0 }, seed = { 0 };
  guint n_epoch = 0, n_seed = 0, n_sample = 0;

  run_epoch (&a, "draws=30", 0, 3, 10);
  run_epoch (&b, "draws=30", 0, 2, 11);
  run_epoch (&epoch, "draws=30", 1, 3, 10);
  run_epoch (&seed, "draws=30 seed=1", 0, 3, 10);
  for (gsize i = 0; i < 60; i++) {
    gdouble id = leaf_get (&a, "teacher.sampled.ids", 30 + i);
    ck_assert (id == leaf_get (&b, "teacher.sampled.ids", i));
    n_epoch += id != leaf_get (&epoch, "teacher.sampled.ids", 30 + i);
    n_seed += id != leaf_get (&seed, "teacher.sampled.ids", 30 + i);
    n_sample += id != leaf_get (&a, "teacher.sampled.ids", i);
  }
  ck_assert (n_epoch > 20 && n_seed > 20 && n_sample > 20);
}
GST_END_TEST

GST_START_TEST (test_mask)
{
  g_auto (Leaf) leaf = { 0 };

  leaf_open (&leaf, "kdlogitsample", "draws=2", 2);
  leaf_put (&leaf, "teacher.logits", KD_BFLOAT16, 2, 2, NAN, 1, 0, -INFINITY);
  leaf_put (&leaf, "mask", KD_FLOAT32, 2, 0, 0, 1);
  leaf_run_ok (&leaf);
  leaf_expect (&leaf, "teacher.sampled.ids", 0, -1);
  leaf_expect (&leaf, "teacher.sampled.weights", 0, 0);
  leaf_expect (&leaf, "teacher.sampled.ids", 2, 0);
  leaf_expect (&leaf, "teacher.sampled.weights", 2, 1);
}
GST_END_TEST

GST_START_TEST (test_refusals)
{
  g_auto (Leaf) leaf = { 0 };

  one_row (&leaf, "draws=1 rng=field");
  leaf_refuses (&leaf, KD_ERROR_FIELD, "field=rng.uniform");
  leaf_put (&leaf, "rng.uniform", KD_FLOAT64, 1, 2, 0, 0);
  leaf_refuses (&leaf, KD_ERROR_SHAPE, "rng.uniform");
  leaf_put (&leaf, "rng.uniform", KD_FLOAT64, 1, 1, 1.0);
  leaf_refuses (&leaf, KD_ERROR_RANGE, "Value out of range: element=kdlogitsample, field=rng.uniform, row=0, value=1, wanted=from 0 to below 1");
  leaf_put (&leaf, "rng.uniform", KD_FLOAT64, 1, 1, NAN);
  leaf_refuses (&leaf, KD_ERROR_RANGE, "rng.uniform");
  leaf_put (&leaf, "rng.uniform", KD_FLOAT64, 1, 1, 0.5);
  leaf_put (&leaf, "teacher.logits", KD_FLOAT32, 1, 3, 0, NAN, 0);
  leaf_refuses (&leaf, KD_ERROR_VALUE, "field=teacher.logits, row=0");
}
GST_END_TEST

KD_TESTS (kdlogitsample, test_values, test_proposal, test_streams, test_mask, test_refusals)
