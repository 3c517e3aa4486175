#include "kd-leaf.h"

/* student (1/4, 3/4), teacher (1/2, 1/2) */
static void
two_rows (Leaf *leaf, const gchar *properties, KdDtype teacher)
{
  leaf_open (leaf, "kddivergence", properties, 2);
  leaf_put (leaf, "student.logits", KD_FLOAT32, 2, 2, 0, log (3), 0, log (3));
  leaf_put (leaf, "teacher.logits", teacher, 2, 2, 5, 5, 5, 5);
}

GST_START_TEST (test_forward)
{
  g_auto (Leaf) leaf = { 0 };

  two_rows (&leaf, "", KD_FLOAT32);
  leaf_run_ok (&leaf);
  leaf_expect (&leaf, "loss", 0, 0.5 * log (2) + 0.5 * log (2.0 / 3));
  leaf_expect (&leaf, "grad.student.logits", 0, -0.125);
  leaf_expect (&leaf, "grad.student.logits", 1, 0.125);
}
GST_END_TEST

GST_START_TEST (test_reverse)
{
  g_auto (Leaf) leaf = { 0 };
  gdouble d = 0.25 * log (0.5) + 0.75 * log (1.5);

  two_rows (&leaf, "divergence=rkl", KD_FLOAT16);
  leaf_run_ok (&leaf);
  leaf_expect (&leaf, "loss", 0, d);
  leaf_expect (&leaf, "grad.student.logits", 0, 0.25 * (log (0.5) - d) / 2);
}
GST_END_TEST

GST_START_TEST (test_temperature)
{
  g_auto (Leaf) plain = { 0 }, scaled = { 0 }, entropy = { 0 };

  two_rows (&plain, "temperature=2", KD_BFLOAT16);
  leaf_run_ok (&plain);
  two_rows (&scaled, "temperature=2 temperature-scale=t2", KD_FLOAT32);
  leaf_run_ok (&scaled);
  leaf_expect (&scaled, "loss", 0, 4 * leaf_get (&plain, "loss", 0));
  leaf_expect (&scaled, "grad.student.logits", 1, 4 * leaf_get (&plain, "grad.student.logits", 1));
  two_rows (&entropy, "temperature=2 entropy-term=false", KD_FLOAT32);
  leaf_run_ok (&entropy); /* the teacher is even: its entropy is ln 2 */
  leaf_expect (&entropy, "loss", 0, leaf_get (&plain, "loss", 0) + log (2));
  leaf_expect (&entropy, "grad.student.logits", 1, leaf_get (&plain, "grad.student.logits", 1));
}
GST_END_TEST

/* p = (1/2, 1/2), q = (1/4, 3/4); m = (3/8, 5/8) for jsd; (0.275, 0.725) and (0.475, 0.525) for the skewed ones, alpha 0.1 */
GST_START_TEST (test_others)
{
  const gdouble jsd = 0.25 * log (4.0 / 3) + 0.25 * log (4.0 / 5) + 0.125 * log (2.0 / 3) + 0.375 * log (6.0 / 5);
  const gdouble fkl = 0.5 * log (2) + 0.5 * log (2.0 / 3), rkl = 0.25 * log (0.5) + 0.75 * log (1.5);
  const struct {
    const gchar *properties;
    gdouble loss, a[2]; /* A = q dD/dq */
  } cases[] = {
    { "divergence=jsd", jsd, { 0.125 * log (2.0 / 3), 0.375 * log (6.0 / 5) } },
    { "divergence=jsd beta=0", fkl, { -0.5, -0.5 } },
    { "divergence=jsd beta=1", rkl, { 0.25 * log (0.5), 0.75 * log (1.5) } },
    { "divergence=skew-fkl", 0.5 * log (0.5 / 0.275) + 0.5 * log (0.5 / 0.725), { -0.45 * 0.25 / 0.275, -0.45 * 0.75 / 0.725 } },
    { "divergence=skew-fkl entropy-term=false", -0.5 * log (0.275 * 0.725), { -0.45 * 0.25 / 0.275, -0.45 * 0.75 / 0.725 } },
    { "divergence=skew-rkl", 0.25 * log (0.25 / 0.475) + 0.75 * log (0.75 / 0.525), { 0.25 * log (0.25 / 0.475) - 0.00625 / 0.475, 0.75 * log (0.75 / 0.525) - 0.05625 / 0.525 } },
    { "divergence=tvd", 0.25, { -0.125, 0.375 } },
    { "divergence=sym-kl lambda=0.25", 0.75 * fkl + 0.25 * rkl, { -0.375 + 0.0625 * log (0.5), -0.375 + 0.1875 * log (1.5) } },
    /* the head is the first id alone, by the lower id; the gaps are equal: w = 1/2 */
    { "divergence=akl", 0.5 * fkl + 0.5 * rkl, { -0.25 + 0.125 * log (0.5), -0.25 + 0.375 * log (1.5) } },
    /* all of the mass is head: w = 1 */
    { "divergence=akl mu=1", fkl, { -0.5, -0.5 } },
  };

  for (guint i = 0; i < G_N_ELEMENTS (cases); i++) {
    g_auto (Leaf) leaf = { 0 };
    gdouble sum = cases[i].a[0] + cases[i].a[1];
    two_rows (&leaf, cases[i].properties, KD_FLOAT32);
    leaf_run_ok (&leaf);
    leaf_expect (&leaf, "loss", 0, cases[i].loss);
    leaf_expect (&leaf, "grad.student.logits", 0, (cases[i].a[0] - 0.25 * sum) / 2);
    leaf_expect (&leaf, "grad.student.logits", 1, (cases[i].a[1] - 0.75 * sum) / 2);
  }
}
GST_END_TEST

/* One class, and logits that no exponential reaches. */
GST_START_TEST (test_extremes)
{
  static const gchar *const kinds[] = { "fkl", "rkl", "jsd", "skew-fkl", "skew-rkl", "tvd", "sym-kl", "akl" };
  const gdouble bounded[] = { 0, 0, log (2), log (10), log (10), 1, 0, 0 };

  for (guint i = 0; i < G_N_ELEMENTS (kinds); i++) {
    g_autofree gchar *properties = g_strconcat ("divergence=", kinds[i], NULL);
    g_auto (Leaf) leaf = { 0 };
    leaf_open (&leaf, "kddivergence", properties, 2);
    leaf_put (&leaf, "student.logits", KD_FLOAT32, 2, 1, 7, -1e30);
    leaf_put (&leaf, "teacher.logits", KD_FLOAT32, 2, 1, -2, 1e30);
    leaf_run_ok (&leaf);
    leaf_expect (&leaf, "loss", 0, 0);
    leaf_expect (&leaf, "grad.student.logits", 1, 0);
    leaf_batch (&leaf, 1);
    leaf_put (&leaf, "student.logits", KD_FLOAT32, 1, 3, 1e30, -1e30, 0);
    leaf_put (&leaf, "teacher.logits", KD_FLOAT32, 1, 3, -1e30, 1e30, 0);
    leaf_run_ok (&leaf);
    leaf_expect (&leaf, "loss", 0, bounded[i] > 0 ? bounded[i] : 2e30);
    for (guint j = 0; j < 3; j++)
      ck_assert (isfinite (leaf_get (&leaf, "grad.student.logits", j)));
  }
}
GST_END_TEST

GST_START_TEST (test_infinite)
{
  g_auto (Leaf) leaf = { 0 };

  leaf_open (&leaf, "kddivergence", "", 1);
  leaf_put (&leaf, "student.logits", KD_FLOAT32, 1, 3, 0, log (3), -INFINITY);
  leaf_put (&leaf, "teacher.logits", KD_FLOAT32, 1, 3, 5, 5, -INFINITY);
  leaf_run_ok (&leaf);
  leaf_expect (&leaf, "loss", 0, 0.5 * log (2) + 0.5 * log (2.0 / 3));
  leaf_expect (&leaf, "grad.student.logits", 2, 0);
}
GST_END_TEST

GST_START_TEST (test_limits)
{
  g_auto (Leaf) leaf = { 0 };

  two_rows (&leaf, "temperature=1000 temperature-scale=t2", KD_FLOAT32); /* large T: half the variance of the difference */
  leaf_run_ok (&leaf);
  kd_assert_close (leaf_get (&leaf, "loss", 0), log (3) * log (3) / 8, 1e-3);
  leaf_batch (&leaf, 1); /* label gives positions that do not count */
  leaf_put (&leaf, "student.logits", KD_FLOAT32, 1, 2, NAN, 0);
  leaf_put (&leaf, "teacher.logits", KD_FLOAT32, 1, 2, 1, 0);
  leaf_put (&leaf, "label", KD_INT64, 1, 0, -100);
  leaf_run_ok (&leaf);
  leaf_expect (&leaf, "loss", 0, 0);
}
GST_END_TEST

GST_START_TEST (test_refusals)
{
  g_auto (Leaf) leaf = { 0 }, strict = { 0 };

  two_rows (&leaf, "", KD_FLOAT32);
  leaf_put (&leaf, "teacher.logits", KD_FLOAT32, 2, 3, 0, 0, 0, 0, 0, 0);
  leaf_refuses (&leaf, KD_ERROR_SHAPE, "axis=V");
  leaf_put (&leaf, "teacher.logits", KD_FLOAT32, 2, 2, 0, 0, INFINITY, 0);
  leaf_refuses (&leaf, KD_ERROR_VALUE, "teacher.logits");
  leaf_put (&leaf, "teacher.logits", KD_FLOAT64, 2, 2, 0, 0, 0, 0);
  leaf_refuses (&leaf, KD_ERROR_DTYPE, "teacher.logits");
  leaf_open (&strict, "kddivergence", "inf-policy=reject", 1);
  leaf_put (&strict, "student.logits", KD_FLOAT32, 1, 3, 0, 1, -INFINITY);
  leaf_put (&strict, "teacher.logits", KD_FLOAT32, 1, 3, 5, 5, -INFINITY);
  leaf_refuses (&strict, KD_ERROR_VALUE, "student.logits");
  two_rows (&leaf, "divergence=ab top-k=1", KD_FLOAT32);
  leaf_refuses (&leaf, KD_ERROR_FIELD, "divergence=ab");
}
GST_END_TEST

KD_TESTS (kddivergence, test_forward, test_reverse, test_temperature, test_others, test_extremes, test_infinite, test_limits, test_refusals)
