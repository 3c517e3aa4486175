#include "kd-leaf.h"

static void
open_zeros (Leaf *leaf, const gchar *properties, gint64 n, gint64 first_id)
{
  const gint64 dims[2] = { n, 1000 };
  KdTensor *ids = kd_tensor_new (KD_INT64, 1, dims);

  if (!leaf->desc)
    leaf_open (leaf, "kdnoise", properties, n);
  else
    leaf_batch (leaf, n);
  for (gint64 i = 0; i < n; i++)
    ((gint64 *) ids->data)[i] = first_id + i;
  kd_batch_set (leaf->batch, "input", kd_tensor_new_zero (KD_FLOAT32, 2, dims));
  kd_batch_set (leaf->batch, "sample.id", ids);
}

GST_START_TEST (test_moments)
{
  g_auto (Leaf) leaf = { 0 };
  gdouble sum = 0, squares = 0;

  open_zeros (&leaf, "std=2", 20, 0);
  leaf_run_ok (&leaf);
  for (gsize i = 0; i < 20000; i++) {
    sum += leaf_get (&leaf, "input", i);
    squares += leaf_get (&leaf, "input", i) * leaf_get (&leaf, "input", i);
  }
  ck_assert (fabs (sum / 20000) < 0.06);
  ck_assert (fabs (squares / 20000 - 4) < 0.2);
}
GST_END_TEST

GST_START_TEST (test_stream_is_the_samples)
{
  g_auto (Leaf) leaf = { 0 };
  gdouble alone, again;

  open_zeros (&leaf, "", 8, 0);
  leaf_run_ok (&leaf);
  alone = leaf_get (&leaf, "input", 5 * 1000 + 3);
  open_zeros (&leaf, "", 2, 5); /* the same sample in another batch */
  leaf_run_ok (&leaf);
  again = leaf_get (&leaf, "input", 3);
  ck_assert (alone == again);
  open_zeros (&leaf, "", 2, 5); /* another seed, another epoch: other numbers */
  leaf.options.seed = 1;
  leaf_run_ok (&leaf);
  ck_assert (leaf_get (&leaf, "input", 3) != alone);
  open_zeros (&leaf, "", 2, 5);
  leaf.options.seed = 0;
  leaf.batch->epoch = 1;
  leaf_run_ok (&leaf);
  ck_assert (leaf_get (&leaf, "input", 3) != alone);
}
GST_END_TEST

GST_START_TEST (test_limits)
{
  g_auto (Leaf) leaf = { 0 };

  open_zeros (&leaf, "std=0", 2, 0);
  leaf_run_ok (&leaf);
  leaf_expect (&leaf, "input", 7, 0);
  leaf_expect (&leaf, "sample.view", 0, 1);
  leaf_batch (&leaf, 1); /* bytes become 0..1 */
  leaf_put (&leaf, "input", KD_UINT8, 1, 2, 51, 255);
  leaf_run_ok (&leaf);
  leaf_expect (&leaf, "input", 0, 0.2);
  leaf_expect (&leaf, "input", 1, 1);
}
GST_END_TEST

GST_START_TEST (test_refusals)
{
  g_auto (Leaf) leaf = { 0 };

  leaf_open (&leaf, "kdnoise", "", 1);
  leaf_refuses (&leaf, KD_ERROR_FIELD, "field=input");
  leaf_put (&leaf, "input", KD_INT64, 1, 2, 1, 2);
  leaf_refuses (&leaf, KD_ERROR_DTYPE, "dtype=int64, wanted=float32|uint8");
}
GST_END_TEST

KD_TESTS (kdnoise, test_moments, test_stream_is_the_samples, test_limits, test_refusals)
