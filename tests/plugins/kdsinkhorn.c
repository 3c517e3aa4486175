#include "kd-leaf.h"

static void
three_rows (Leaf *leaf, const gchar *properties)
{
  leaf_open (leaf, "kdsinkhorn", properties, 3);
  leaf_put (leaf, "student.logits", KD_FLOAT32, 3, 3, 1, 2, 3, -1, 0.5, 0, 4, 0, 1);
  leaf_put (leaf, "teacher.logits", KD_FLOAT16, 3, 3, 2, 1, 0, 0, 1, 3, 0, 0, 5);
}

/* One row: the plan is 1, the loss the l1 distance of two distributions; gradient by hand. */
GST_START_TEST (test_single)
{
  g_auto (Leaf) leaf = { 0 };

  leaf_open (&leaf, "kdsinkhorn", "temperature=1 scale=2", 1); /* weight 0.8 by default */
  leaf_put (&leaf, "student.logits", KD_FLOAT32, 1, 2, log (3), 0);
  leaf_put (&leaf, "teacher.logits", KD_FLOAT32, 1, 2, 0, 0);
  leaf_run_ok (&leaf);
  leaf_expect (&leaf, "loss", 0, 1.6 * (0.25 + 0.25));
  leaf_expect (&leaf, "loss.sinkhorn", 0, 0.8);
  leaf_expect (&leaf, "metric.sinkhorn.cost", 0, 0.5);
  leaf_expect (&leaf, "grad.student.logits", 0, 1.6 * 0.75 * (1 - 0.5));
  leaf_expect (&leaf, "grad.student.logits", 1, 1.6 * 0.25 * (-1 - 0.5));
  ck_assert (!kd_batch_peek (leaf.batch, "plan"));
}
GST_END_TEST

/* Groups of [N C] are rows alone: the plan is the identity. A group of tokens is one sample's. */
GST_START_TEST (test_groups)
{
  g_auto (Leaf) leaf = { 0 }, whole = { 0 };
  gdouble sum = 0;

  three_rows (&leaf, "group=sequence scale=1 temperature=1");
  leaf_run_ok (&leaf);
  for (gint r = 0; r < 3; r++) {
    g_auto (Leaf) one = { 0 };
    const gdouble s[3][3] = { { 1, 2, 3 }, { -1, 0.5, 0 }, { 4, 0, 1 } }, t[3][3] = { { 2, 1, 0 }, { 0, 1, 3 }, { 0, 0, 5 } };
    leaf_open (&one, "kdsinkhorn", "scale=1 temperature=1", 1);
    leaf_put_values (&one, "student.logits", KD_FLOAT32, 1, 3, s[r]);
    leaf_put_values (&one, "teacher.logits", KD_FLOAT32, 1, 3, t[r]);
    leaf_run_ok (&one);
    sum += leaf_get (&one, "loss", 0);
    leaf_expect (&leaf, "grad.student.logits", (gsize) (3 * r), leaf_get (&one, "grad.student.logits", 0));
  }
  leaf_expect (&leaf, "loss", 0, sum);
  three_rows (&whole, "scale=1 temperature=1");
  leaf_run_ok (&whole);
  ck_assert (leaf_get (&whole, "loss", 0) < sum - 0.1); /* the transport finds nearer partners */
}
GST_END_TEST

/* The plan's columns sum to 1, rows that do not count have none of it; beyond max-points rows have no part. */
GST_START_TEST (test_rows)
{
  g_auto (Leaf) leaf = { 0 }, two = { 0 }, few = { 0 };

  three_rows (&leaf, "export-plan=true scale=1");
  leaf_put (&leaf, "mask", KD_UINT8, 3, 0, 1, 0, 1);
  leaf_put (&leaf, "student.logits", KD_FLOAT32, 3, 3, 1, 2, 3, NAN, 0.5, 0, 4, 0, 1);
  leaf_run_ok (&leaf);
  ck_assert (kd_batch_peek (leaf.batch, "plan")->dims[1] == 3);
  for (gsize j = 0; j < 3; j++) {
    kd_assert_close (leaf_get (&leaf, "plan", j) + leaf_get (&leaf, "plan", 3 + j) + leaf_get (&leaf, "plan", 6 + j), j != 1, 1e-6);
    ck_assert (leaf_get (&leaf, "plan", 3 + j) == 0 && leaf_get (&leaf, "grad.student.logits", 3 + j) == 0);
  }
  three_rows (&few, "max-points=2 scale=1");
  leaf_run_ok (&few);
  leaf_open (&two, "kdsinkhorn", "scale=1", 2);
  leaf_put (&two, "student.logits", KD_FLOAT32, 2, 3, 1, 2, 3, -1, 0.5, 0);
  leaf_put (&two, "teacher.logits", KD_FLOAT32, 2, 3, 2, 1, 0, 0, 1, 3);
  leaf_run_ok (&two);
  leaf_expect (&few, "loss", 0, leaf_get (&two, "loss", 0));
  for (gsize i = 0; i < 3; i++)
    ck_assert (leaf_get (&few, "grad.student.logits", 6 + i) == 0);
  three_rows (&leaf, "export-plan=true group=sequence"); /* three plans: none is written */
  leaf_run_ok (&leaf);
  ck_assert (!kd_batch_peek (leaf.batch, "plan"));
  three_rows (&leaf, "export-plan=true");
  leaf_put (&leaf, "mask", KD_UINT8, 3, 0, 0, 0, 0);
  leaf_run_ok (&leaf);
  leaf_expect (&leaf, "loss", 0, 0);
  leaf_expect (&leaf, "metric.sinkhorn.cost", 0, 0);
  leaf_expect (&leaf, "plan", 8, 0);
}
GST_END_TEST

/* -infinity is probability 0; equal tables cost nothing with a small epsilon. */
GST_START_TEST (test_limits)
{
  g_auto (Leaf) leaf = { 0 };

  leaf_open (&leaf, "kdsinkhorn", "temperature=1 scale=1.25", 1);
  leaf_put (&leaf, "student.logits", KD_FLOAT32, 1, 3, 0, 0, -INFINITY);
  leaf_put (&leaf, "teacher.logits", KD_FLOAT32, 1, 3, 0, -INFINITY, -INFINITY);
  leaf_run_ok (&leaf);
  leaf_expect (&leaf, "loss", 0, 1);
  leaf_expect (&leaf, "grad.student.logits", 2, 0);
  three_rows (&leaf, "epsilon=0.001");
  leaf_put (&leaf, "teacher.logits", KD_FLOAT32, 3, 3, 1, 2, 3, -1, 0.5, 0, 4, 0, 1);
  leaf_run_ok (&leaf);
  leaf_expect (&leaf, "metric.sinkhorn.cost", 0, 0);
  three_rows (&leaf, "");
  leaf_put (&leaf, "student.logits", KD_FLOAT32, 3, 3, NAN, 2, 3, -1, 0.5, 0, 4, 0, 1);
  leaf.options.nan_policy = KD_NAN_DROP;
  leaf_run_ok (&leaf);
  leaf_expect (&leaf, "grad.student.logits", 1, 0);
}
GST_END_TEST

GST_START_TEST (test_refusals)
{
  g_auto (Leaf) leaf = { 0 };

  three_rows (&leaf, "");
  leaf_put (&leaf, "student.logits", KD_FLOAT32, 3, 3, 1, 2, 3, -1, INFINITY, 0, 4, 0, 1);
  leaf_refuses (&leaf, KD_ERROR_VALUE, "No softmax: element=kdsinkhorn, field=student.logits, row=1, value=inf");
  three_rows (&leaf, "");
  leaf_put (&leaf, "teacher.logits", KD_FLOAT32, 3, 3, 1, 2, 3, -1, 3, 0, 4, NAN, 1);
  leaf_refuses (&leaf, KD_ERROR_VALUE, "field=teacher.logits, row=2, value=nan");
  three_rows (&leaf, "");
  leaf_put (&leaf, "teacher.logits", KD_FLOAT32, 3, 3, 1, 2, 3, -INFINITY, -INFINITY, -INFINITY, 4, 0, 1);
  leaf_refuses (&leaf, KD_ERROR_VALUE, "field=teacher.logits, row=1, value=-inf");
  three_rows (&leaf, "");
  leaf_put (&leaf, "teacher.logits", KD_FLOAT32, 3, 2, 1, 2, 3, -1, 4, 0);
  leaf_refuses (&leaf, KD_ERROR_SHAPE, "axis=C");
  leaf_open (&leaf, "kdsinkhorn", "", 1);
  leaf_put (&leaf, "student.logits", KD_FLOAT32, 1, 1, 3);
  leaf_put (&leaf, "teacher.logits", KD_FLOAT32, 1, 1, 1);
  leaf_refuses (&leaf, KD_ERROR_SHAPE, "classes=1, wanted=2 or more; for a regression head use kdlogitmse");
}
GST_END_TEST

/* What a property does not take. */
GST_START_TEST (test_ranges)
{
  g_autoptr (GstElementFactory) factory = gst_element_factory_find ("kdsinkhorn");
  const KdDesc *desc = kd_element_factory_desc (factory, NULL);
  const gchar *const bad[][2] = { { "epsilon", "0" }, { "epsilon", "-1" }, { "temperature", "0" }, { "iterations", "0" }, { "max-points", "0" } };
  g_autofree gpointer params = g_malloc0 (desc->params_size);

  for (guint i = 0; i < G_N_ELEMENTS (bad); i++) {
    GError *error = NULL;
    ck_assert (!kd_param_set_string (kd_param_find (desc->params, bad[i][0]), params, bad[i][1], "kdsinkhorn", &error));
    kd_assert_error (error, KD_ERROR_RANGE, bad[i][0]);
  }
}
GST_END_TEST

KD_TESTS (kdsinkhorn, test_single, test_groups, test_rows, test_limits, test_refusals, test_ranges)
