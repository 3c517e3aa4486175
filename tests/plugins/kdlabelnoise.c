#include "kd-leaf.h"

#define N 4000

/* Labels 0, 1 ... 9 over and over; ids from @first on. */
static void
put (Leaf *leaf, const gchar *properties, gint64 first)
{
  gint64 n = N;
  KdTensor *label = kd_tensor_new (KD_INT64, 1, &n), *id = kd_tensor_new (KD_INT64, 1, &n);

  leaf_open (leaf, "kdlabelnoise", properties, N);
  for (gint64 i = 0; i < N; i++) {
    ((gint64 *) label->data)[i] = (first + i) % 10;
    ((gint64 *) id->data)[i] = first + i;
  }
  kd_batch_set (leaf->batch, "label", label);
  kd_batch_set (leaf->batch, "sample.id", id);
  leaf_run_ok (leaf);
}

GST_START_TEST (test_share)
{
  g_auto (Leaf) leaf = { 0 };
  gint wrong = 0, to[10] = { 0 };

  put (&leaf, "fraction=0.7 first-class=5 last-class=9 seed=1", 0);
  for (gsize i = 0; i < N; i++) {
    gint was = (gint) i % 10, is = (gint) leaf_get (&leaf, "label", i);
    ck_assert (was < 5 ? is == was : is >= 5 && is <= 9);
    wrong += is != was;
    to[is] += was >= 5;
  }
  kd_assert_close (wrong / (N / 2.0), 0.7 * 4 / 5, 0.03); /* 2.7 deviations of a binomial share */
  for (guint c = 5; c < 10; c++)
    kd_assert_close (to[c] / (N / 2.0), 0.2, 0.03);
}
GST_END_TEST

/* A sample's label is the same in any batch and epoch; another seed draws others. */
GST_START_TEST (test_by_sample)
{
  g_auto (Leaf) a = { 0 }, b = { 0 }, c = { 0 }, none = { 0 };
  gint differ = 0;

  put (&a, "seed=2", 0);
  put (&b, "seed=2", 7);
  b.batch->epoch = 3;
  put (&c, "seed=3", 0);
  put (&none, "fraction=0", 0);
  for (gsize i = 7; i < N; i++) {
    ck_assert (leaf_get (&a, "label", i) == leaf_get (&b, "label", i - 7));
    differ += leaf_get (&a, "label", i) != leaf_get (&c, "label", i);
    ck_assert (leaf_get (&none, "label", i) == i % 10);
  }
  ck_assert_int_gt (differ, N / 3);
}
GST_END_TEST

GST_START_TEST (test_refusals)
{
  g_auto (Leaf) leaf = { 0 };

  leaf_open (&leaf, "kdlabelnoise", "first-class=3 last-class=2", 1);
  leaf_put (&leaf, "label", KD_INT64, 1, 0, 3);
  leaf_refuses (&leaf, KD_ERROR_RANGE, "No classes: element=kdlabelnoise, first-class=3, last-class=2; set last-class to first-class or more");
  leaf_open (&leaf, "kdlabelnoise", "fraction=1 first-class=3 last-class=3", 2); /* one class; a row without a label */
  leaf_put (&leaf, "label", KD_INT64, 2, 0, 3, -1);
  leaf_run_ok (&leaf);
  leaf_expect (&leaf, "label", 0, 3);
  leaf_expect (&leaf, "label", 1, -1);
}
GST_END_TEST

KD_TESTS (kdlabelnoise, test_share, test_by_sample, test_refusals)
