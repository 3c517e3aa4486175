#include "kd-leaf.h"

static void
put_ids (Leaf *leaf, const gchar *name, guint rank, const gint64 *dims, const gint64 *values)
{
  KdTensor *tensor = kd_tensor_new (KD_INT64, rank, dims);

  memcpy (tensor->data, values, tensor->n_bytes);
  kd_batch_set (leaf->batch, name, tensor);
}

/* Two samples of three tokens: prompts of 1 and 2, so that the second ribbon is shorter and padded. */
static void
two_samples (Leaf *leaf, const gchar *properties)
{
  leaf_open (leaf, "kdribbon", properties, 2);
  put_ids (leaf, "input", 2, (const gint64[]) { 2, 3 }, (const gint64[]) { 5, 6, 7, 8, 9, 1 });
  put_ids (leaf, "response.start", 1, (const gint64[]) { 2 }, (const gint64[]) { 1, 2 });
  put_ids (leaf, "branch.tokens", 3, (const gint64[]) { 2, 2, 1 }, (const gint64[]) { 20, 21, 22, 23 });
}

static void
expect_ids (Leaf *leaf, const gchar *name, guint n, const gint64 *values)
{
  for (guint i = 0; i < n; i++)
    ck_assert_msg (leaf_get (leaf, name, i) == (gdouble) values[i], "%s[%u] = %g, expected %d", name, i, leaf_get (leaf, name, i), (gint) values[i]);
}
#define EXPECT(leaf, name, n, ...) expect_ids (leaf, name, n, (const gint64[]) { __VA_ARGS__ })

GST_START_TEST (test_batch)
{
  g_auto (Leaf) leaf = { 0 };

  two_samples (&leaf, "branches=1");
  leaf_run_ok (&leaf);
  EXPECT (&leaf, "ribbon.tokens", 10, 5, 20, 6, 21, 7, 8, 9, 22, 1, 0);
  EXPECT (&leaf, "ribbon.position", 10, 0, 1, 1, 2, 2, 0, 1, 2, 2, 0);
  EXPECT (&leaf, "ribbon.gold-index", 6, 0, 2, 4, 0, 1, 3);
  EXPECT (&leaf, "ribbon.branch-index", 4, 1, 3, 2, -1);
  EXPECT (&leaf, "ribbon.attention", 25, 1, 0, 0, 0, 0, 1, 1, 0, 0, 0, 1, 0, 1, 0, 0, 1, 0, 1, 1, 0, 1, 0, 1, 0, 1);
  ck_assert (leaf_get (&leaf, "ribbon.attention", 49) == 1); /* the padding looks at itself */
  for (guint i = 45; i < 49; i++)
    ck_assert (leaf_get (&leaf, "ribbon.attention", i) == 0);
}
GST_END_TEST

/* No candidate: the plain sequence. */
GST_START_TEST (test_none)
{
  g_auto (Leaf) leaf = { 0 };

  two_samples (&leaf, "branches=0");
  put_ids (&leaf, "branch.tokens", 3, (const gint64[]) { 2, 2, 0 }, (const gint64[]) { 0 });
  leaf_run_ok (&leaf);
  EXPECT (&leaf, "ribbon.tokens", 6, 5, 6, 7, 8, 9, 1);
  EXPECT (&leaf, "ribbon.attention", 9, 1, 0, 0, 1, 1, 0, 1, 1, 1);
}
GST_END_TEST

GST_START_TEST (test_refusals)
{
  g_auto (Leaf) leaf = { 0 };

  two_samples (&leaf, "branches=2");
  leaf_refuses (&leaf, KD_ERROR_SHAPE, "branches=2");
  two_samples (&leaf, "branches=1");
  put_ids (&leaf, "response.start", 1, (const gint64[]) { 2 }, (const gint64[]) { 1, 4 });
  leaf_refuses (&leaf, KD_ERROR_RANGE, "field=response.start, row=1, value=4, length=3");
  two_samples (&leaf, "branches=1");
  put_ids (&leaf, "response.start", 1, (const gint64[]) { 2 }, (const gint64[]) { 0, 0 }); /* three responses, branches for two */
  leaf_refuses (&leaf, KD_ERROR_SHAPE, "branch.tokens=[2,2,1]");
  two_samples (&leaf, "branches=1 vocabulary=22");
  leaf_refuses (&leaf, KD_ERROR_RANGE, "field=branch.tokens, row=1, position=0, branch=0, value=22");
  two_samples (&leaf, "branches=1");
  put_ids (&leaf, "branch.tokens", 3, (const gint64[]) { 2, 2, 1 }, (const gint64[]) { 20, -1, 22, 23 });
  leaf_refuses (&leaf, KD_ERROR_RANGE, "position=1, branch=0, value=-1");
}
GST_END_TEST

KD_TESTS (kdribbon, test_batch, test_none, test_refusals)
