#include "kd-leaf.h"
#include <gst/check/gstharness.h>

/* Entropy of (0, z). */
static gdouble
entropy (gdouble z)
{
  gdouble q = 1 / (1 + exp (z));

  return -q * log (q) - (1 - q) * log (1 - q);
}

static gdouble
sigmoid (gdouble x)
{
  return 1 / (1 + exp (-x));
}

static void
one_row (Leaf *leaf, const gchar *properties)
{
  leaf_open (leaf, "kdtsd", properties, 1);
  leaf_put (leaf, "student.logits", KD_FLOAT32, 1, 2, 0, 1);
  leaf_put (leaf, "teacher.logits", KD_FLOAT32, 1, 2, 3, 0);
}

/* One position is opener and selected; the order of two ids is one choice. */
GST_START_TEST (test_value)
{
  g_auto (Leaf) leaf = { 0 };
  gdouble q = 1 / (1 + exp (1)), p = 1 / (1 + exp (-3)), m = 0.9 * p + 0.1 * q, w = sigmoid ((entropy (1) - entropy (3)) / 0.5), d;

  d = 0.9 * (p * log (p / m) + (1 - p) * log ((1 - p) / (1 - m))) + 0.1 * (q * log (q / m) + (1 - q) * log ((1 - q) / (1 - m)));
  one_row (&leaf, "gate-temperature=0.5 direct-weight=2 indirect-weight=3 em-weight=5");
  leaf_run_ok (&leaf);
  leaf_expect (&leaf, "token.gate", 0, w);
  leaf_expect (&leaf, "loss.direct", 0, w * d);
  leaf_expect (&leaf, "loss.indirect", 0, log1p (exp (1)));
  leaf_expect (&leaf, "loss.entropy", 0, entropy (1));
  leaf_expect (&leaf, "loss", 0, 2 * w * d + 3 * log1p (exp (1)) + 5 * entropy (1));
  leaf_expect (&leaf, "token.opener", 0, 1);
  leaf_expect (&leaf, "token.selected", 0, 1);
}
GST_END_TEST

/* With the constants held (gate=false, everything selected, candidates = all in a fixed order) the gradient is the derivative of the loss. */
static void
check_differences (const gchar *properties)
{
  const gdouble z[8] = { 0.5, -1, 2, 0.1, 1, 0.2, -0.7, 0.9 }, h = 1.0 / 128;
  gdouble grad[8], got;

  for (gint j = -1; j < 8; j++) {
    gdouble value[2] = { 0 };
    for (gint side = 0; side < (j < 0 ? 1 : 2); side++) {
      g_auto (Leaf) leaf = { 0 };
      gdouble moved[8];
      memcpy (moved, z, sizeof z);
      if (j >= 0)
        moved[j] += side ? h : -h;
      leaf_open (&leaf, "kdtsd", properties, 2);
      leaf_put_values (&leaf, "student.logits", KD_FLOAT32, 2, 4, moved);
      leaf_put (&leaf, "teacher.logits", KD_FLOAT32, 2, 4, 3, 2, 1, 0, 0, 1, 3, 2);
      leaf_run_ok (&leaf);
      value[side] = leaf_get (&leaf, "loss", 0);
      for (gint i = 0; j < 0 && i < 8; i++)
        grad[i] = leaf_get (&leaf, "grad.student.logits", (gsize) i);
    }
    got = (value[1] - value[0]) / (2 * h);
    if (j >= 0)
      kd_assert_close (got, grad[j], 2e-4);
  }
}

GST_START_TEST (test_gradient)
{
  const gchar *const fixed = "gate=false em-fraction=1 opener-fraction=1 temperature=1.5 candidates=4";

  for (guint i = 0; i < 5; i++) {
    const gchar *const parts[] = { "beta=0.9", "beta=0", "beta=1", "direct-weight=0 em-weight=0 indirect-weight=1", "pl-order=code direct-weight=0 indirect-weight=1" };
    g_autofree gchar *properties = g_strconcat (fixed, " ", parts[i], NULL);
    check_differences (properties);
  }
}
GST_END_TEST

/* Four positions of one sample with entropies h0 .. h3; the second is masked. */
static void
put_sequence (Leaf *leaf, const gchar *properties)
{
  leaf_open (leaf, "kdtsd", properties, 1);
  leaf_put4 (leaf, "student.logits", 1, 1, 4, 2, 0, 3, NAN, 0, 0, 0, 0, 1);
  leaf_put4 (leaf, "teacher.logits", 1, 1, 4, 2, 0, 0, 0, NAN, 0, 0, 0, 0);
  for (guint i = 0; i < 2; i++) {
    const gchar *name = i ? "teacher.logits" : "student.logits";
    gint64 dims[3] = { 1, 4, 2 };
    KdTensor *flat = kd_tensor_new (KD_FLOAT32, 3, dims);
    memcpy (flat->data, kd_batch_peek (leaf->batch, name)->data, flat->n_bytes);
    kd_batch_set (leaf->batch, name, flat);
  }
  leaf_put (leaf, "mask", KD_UINT8, 1, 4, 1, 0, 1, 1);
}

static void
expect_bytes (Leaf *leaf, const gchar *name, guint a, guint b, guint c, guint d)
{
  const guint want[4] = { a, b, c, d };

  for (gsize i = 0; i < 4; i++)
    ck_assert_msg (leaf_get (leaf, name, i) == want[i], "%s[%u]", name, (guint) i);
}

GST_START_TEST (test_opener)
{
  g_auto (Leaf) leaf = { 0 };
  gdouble sum = entropy (3) + M_LN2 + entropy (1);
  g_autofree gchar *first = g_strdup_printf ("opener-fraction=%.9f", entropy (3) / sum - 1e-6), *second = g_strdup_printf ("opener-fraction=%.9f", entropy (3) / sum + 1e-6);

  put_sequence (&leaf, first);
  leaf_run_ok (&leaf);
  expect_bytes (&leaf, "token.opener", 1, 0, 0, 0);
  put_sequence (&leaf, second);
  leaf_run_ok (&leaf);
  expect_bytes (&leaf, "token.opener", 1, 0, 1, 0);
  leaf_expect (&leaf, "loss.indirect", 0, 0.5 * (log1p (exp (-3)) + M_LN2)); /* ties in the teacher: the student's order */
  put_sequence (&leaf, "opener-fraction=1");
  leaf_run_ok (&leaf);
  expect_bytes (&leaf, "token.opener", 1, 0, 1, 1);
  put_sequence (&leaf, "opener-mode=flat opener-fraction=0.01"); /* reached at index 0: none */
  leaf_run_ok (&leaf);
  expect_bytes (&leaf, "token.opener", 0, 0, 0, 0);
  leaf_expect (&leaf, "loss.indirect", 0, 0);
  put_sequence (&leaf, "opener-mode=flat opener-fraction=1"); /* d = 2: positions below 2 */
  leaf_run_ok (&leaf);
  expect_bytes (&leaf, "token.opener", 1, 0, 0, 0);
}
GST_END_TEST

GST_START_TEST (test_selected)
{
  g_auto (Leaf) leaf = { 0 };

  put_sequence (&leaf, "em-fraction=0.1");
  leaf_run_ok (&leaf);
  expect_bytes (&leaf, "token.selected", 0, 0, 1, 0);
  leaf_expect (&leaf, "loss.entropy", 0, M_LN2);
  put_sequence (&leaf, "em-fraction=0.5");
  leaf_run_ok (&leaf);
  expect_bytes (&leaf, "token.selected", 0, 0, 1, 1);
  put_sequence (&leaf, "em-fraction=0.1 em-mode=quantile-ge"); /* NaN behind a mask is at no quantile */
  leaf_run_ok (&leaf);
  expect_bytes (&leaf, "token.selected", 0, 0, 1, 1);
  put_sequence (&leaf, "em-fraction=0.1 em-mode=quantile-ge em-weight=1 direct-weight=0 indirect-weight=0");
  ((gfloat *) kd_batch_peek (leaf.batch, "student.logits")->data)[2] = 0.5;
  leaf_run_ok (&leaf);
  expect_bytes (&leaf, "token.selected", 0, 1, 1, 1);
  leaf_expect (&leaf, "loss", 0, (entropy (0.5) + M_LN2 + entropy (1)) / 3);
  ck_assert (leaf_get (&leaf, "grad.student.logits", 2) != 0); /* as the published code */
}
GST_END_TEST

/* Candidates of the teacher alone give what its whole logits give; more candidates than ids are all ids. */
GST_START_TEST (test_candidates)
{
  g_auto (Leaf) whole = { 0 }, few = { 0 };

  leaf_open (&whole, "kdtsd", "candidates=2 direct-weight=0", 1);
  leaf_put (&whole, "student.logits", KD_FLOAT32, 1, 4, 1, 5, -2, 3);
  leaf_put (&whole, "teacher.logits", KD_FLOAT32, 1, 4, 9, 0, 9, 4);
  leaf_run_ok (&whole);
  leaf_expect (&whole, "loss.indirect", 0, log1p (exp (2)));
  leaf_open (&few, "kdtsd", "candidates=2 direct-weight=0", 1);
  leaf_put (&few, "student.logits", KD_FLOAT32, 1, 4, 1, 5, -2, 3);
  leaf_put (&few, "teacher.candidates.logits", KD_FLOAT16, 1, 2, 0, 4);
  leaf_run_ok (&few);
  leaf_expect (&few, "loss", 0, leaf_get (&whole, "loss", 0));
  for (gsize i = 0; i < 4; i++)
    leaf_expect (&few, "grad.student.logits", i, leaf_get (&whole, "grad.student.logits", i));
  one_row (&whole, "candidates=500");
  leaf_run_ok (&whole);
  leaf_expect (&whole, "loss.indirect", 0, log1p (exp (1)));
}
GST_END_TEST

GST_START_TEST (test_limits)
{
  g_auto (Leaf) leaf = { 0 };

  one_row (&leaf, ""); /* nothing counted */
  leaf_put (&leaf, "mask", KD_UINT8, 1, 0, 0);
  leaf_run_ok (&leaf);
  leaf_expect (&leaf, "loss", 0, 0);
  ck_assert (leaf_get (&leaf, "grad.student.logits", 0) == 0 && leaf_get (&leaf, "token.opener", 0) == 0 && leaf_get (&leaf, "token.gate", 0) == 0);
  one_row (&leaf, ""); /* the same in both: the gate is half open, the order still costs */
  leaf_put (&leaf, "teacher.logits", KD_FLOAT32, 1, 2, 0, 1);
  leaf_run_ok (&leaf);
  leaf_expect (&leaf, "loss.direct", 0, 0);
  leaf_expect (&leaf, "token.gate", 0, 0.5);
  leaf_expect (&leaf, "loss.indirect", 0, log1p (exp (-1)));
  leaf_open (&leaf, "kdtsd", "", 2); /* sure rows: no entropy; each sample's first position is the opener all the same */
  leaf_put (&leaf, "student.logits", KD_FLOAT32, 2, 2, 1e5, 0, 1e30, 0);
  leaf_put (&leaf, "teacher.logits", KD_FLOAT32, 2, 2, 1e5, 0, 1e30, 0);
  leaf_run_ok (&leaf);
  leaf_expect (&leaf, "loss.entropy", 0, 0);
  leaf_expect (&leaf, "token.opener", 0, 1);
  leaf_expect (&leaf, "token.opener", 1, 1);
  for (gsize i = 0; i < 4; i++)
    kd_assert_close (leaf_get (&leaf, "grad.student.logits", i), 0, 1e-9);
}
GST_END_TEST

GST_START_TEST (test_refusals)
{
  g_auto (Leaf) leaf = { 0 };
  g_autoptr (GError) error = NULL;
  const gchar *const bad[3][2] = { { "candidates", "1" }, { "beta", "1.2" }, { "gate-temperature", "0" } };

  one_row (&leaf, "");
  kd_batch_remove (leaf.batch, "teacher.logits");
  leaf_refuses (&leaf, KD_ERROR_FIELD, "Field missing: element=kdtsd, fields=teacher.logits, teacher.candidates.logits; wanted=one of them");
  leaf_put (&leaf, "teacher.candidates.logits", KD_FLOAT32, 1, 2, 0, 0);
  leaf_refuses (&leaf, KD_ERROR_FIELD, "field=teacher.logits, direct-weight=1; candidates alone are no distribution");
  one_row (&leaf, "");
  leaf_put (&leaf, "teacher.candidates.logits", KD_FLOAT32, 1, 2, 0, 0);
  leaf_refuses (&leaf, KD_ERROR_FIELD, "Two teachers: element=kdtsd");
  one_row (&leaf, "direct-weight=0");
  kd_batch_remove (leaf.batch, "teacher.logits");
  leaf_put (&leaf, "teacher.candidates.logits", KD_FLOAT32, 1, 3, 0, 0, 0);
  leaf_refuses (&leaf, KD_ERROR_SHAPE, "field=teacher.candidates.logits, axis=K, size=3, candidates=2");
  leaf_put (&leaf, "teacher.candidates.logits", KD_FLOAT32, 1, 2, 0, NAN);
  leaf_refuses (&leaf, KD_ERROR_VALUE, "Value not finite: element=kdtsd, field=teacher.candidates.logits");
  one_row (&leaf, "");
  leaf_put (&leaf, "teacher.logits", KD_FLOAT32, 1, 3, 0, 0, 0);
  leaf_refuses (&leaf, KD_ERROR_SHAPE, "axis=C");
  for (guint i = 0; i < 3; i++) {
    ck_assert (!kd_param_set_string (kd_param_find (leaf.desc->params, bad[i][0]), leaf.params, bad[i][1], "kdtsd", &error));
    ck_assert (g_error_matches (error, KD_ERROR, KD_ERROR_RANGE));
    g_clear_error (&error);
  }
}
GST_END_TEST

/* A graph without any teacher is refused before the first batch; either form is enough. */
GST_START_TEST (test_no_teacher)
{
  static const gchar *const layouts[] = { "student.logits=float32:3", "student.logits=float32:3 teacher.candidates.logits=float32:3", "student.logits=float32:3 teacher.logits=float16:3" };

  for (guint i = 0; i < G_N_ELEMENTS (layouts); i++) {
    g_autofree gchar *caps = g_strdup_printf ("application/x-kd-batch, layout=(string)\"%s\"", layouts[i]);
    GstHarness *h = gst_harness_new_parse ("kdtsd direct-weight=0");
    g_autoptr (GstElement) element = gst_harness_find_element (h, "kdtsd");
    g_autoptr (GstBus) bus = gst_bus_new ();
    g_autoptr (GstMessage) message = NULL;
    gst_element_set_bus (element, bus);
    gst_harness_set_src_caps_str (h, caps);
    message = gst_bus_pop_filtered (bus, GST_MESSAGE_ERROR);
    ck_assert_msg ((message != NULL) == (i == 0), "layout %u", i);
    gst_element_set_bus (element, NULL);
    gst_harness_teardown (h);
  }
}
GST_END_TEST

KD_TESTS (kdtsd, test_no_teacher, test_value, test_gradient, test_opener, test_selected, test_candidates, test_limits, test_refusals)
