#include "kd-leaf.h"

static void
two_rows (Leaf *leaf, const gchar *properties, gdouble scale)
{
  leaf_open (leaf, "kdmixstd", properties, 2);
  leaf_put (leaf, "student.logits", KD_FLOAT32, 2, 3, scale * 1, scale * 2, scale * 4, -scale, scale * 0.5, 0);
  leaf_put (leaf, "teacher.logits", KD_FLOAT16, 2, 3, 2, 1, 0, 0, 1, 3);
  leaf_put (leaf, "label.soft", KD_FLOAT32, 2, 3, 0.25, 0, 0.75, 0, 1, 0);
}

/* By hand: s = (-1, 0, 1) and t = (0, 3, -3): deviations 1 and 3, u = s, v = t / 3. */
GST_START_TEST (test_value)
{
  g_auto (Leaf) leaf = { 0 };
  gdouble z = exp (-1) + 1 + exp (1), p[3] = { exp (-1) / z, 1 / z, exp (1) / z }, q[3] = { 1 / z, exp (1) / z, exp (-1) / z };
  gdouble ce = log (z) - (0.5 * -1 + 0.5 * 1), kd = q[0] * 1 + q[1] * 1 + q[2] * -2, g[3], along;

  leaf_open (&leaf, "kdmixstd", "ce-weight=0.3 kd-weight=0.7", 1);
  leaf_put (&leaf, "student.logits", KD_FLOAT32, 1, 3, -1, 0, 1);
  leaf_put (&leaf, "teacher.logits", KD_BFLOAT16, 1, 3, 0, 3, -3);
  leaf_put (&leaf, "label.soft", KD_FLOAT32, 1, 3, 0.5, 0, 0.5);
  leaf_run_ok (&leaf);
  leaf_expect (&leaf, "std.student", 0, 1);
  leaf_expect (&leaf, "std.teacher", 0, 3);
  leaf_expect (&leaf, "loss.ce", 0, ce);
  leaf_expect (&leaf, "loss.kd", 0, kd);
  leaf_expect (&leaf, "loss", 0, 0.3 * ce + 0.7 * kd);
  for (gint c = 0; c < 3; c++)
    g[c] = 0.3 * (p[c] - (c == 1 ? 0 : 0.5)) + 0.7 * (p[c] - q[c]);
  along = (g[2] - g[0]) / 2;
  for (gint c = 0; c < 3; c++)
    leaf_expect (&leaf, "grad.student.logits", (gsize) c, g[c] - along * (c - 1));
}
GST_END_TEST

/* Ten times the student's logits: the same loss, a tenth of the gradient, which is orthogonal to them. Also at 1e6 and 1e-5. */
GST_START_TEST (test_scale)
{
  g_auto (Leaf) one = { 0 }, other = { 0 };
  const gdouble scales[] = { 10, 1e6, 1e-5 };

  two_rows (&one, "", 1);
  leaf_run_ok (&one);
  kd_assert_close (leaf_get (&one, "grad.student.logits", 0) + 2 * leaf_get (&one, "grad.student.logits", 1) + 4 * leaf_get (&one, "grad.student.logits", 2), 0, 1e-7);
  for (guint i = 0; i < G_N_ELEMENTS (scales); i++) {
    two_rows (&other, "", scales[i]);
    leaf_run_ok (&other);
    leaf_expect (&other, "loss", 0, leaf_get (&one, "loss", 0));
    for (gsize j = 0; j < 6; j++)
      kd_assert_close (scales[i] * leaf_get (&other, "grad.student.logits", j), leaf_get (&one, "grad.student.logits", j), 1e-6);
  }
}
GST_END_TEST

/* std-gradient=false is the first term alone; a class label is a soft label with one entry, and the soft label is the one that counts. */
GST_START_TEST (test_options)
{
  g_auto (Leaf) hard = { 0 }, soft = { 0 };
  gdouble z = exp (-1) + 1 + exp (1);

  leaf_open (&hard, "kdmixstd", "ce-weight=1 kd-weight=0 std-gradient=false", 1);
  leaf_put (&hard, "student.logits", KD_FLOAT32, 1, 3, -2, 0, 2);
  leaf_put (&hard, "teacher.logits", KD_FLOAT32, 1, 3, 0, 3, -3);
  leaf_put (&hard, "label", KD_INT64, 1, 0, 1);
  leaf_run_ok (&hard);
  leaf_expect (&hard, "loss", 0, log (z));
  leaf_expect (&hard, "grad.student.logits", 0, exp (-1) / z / 2);
  leaf_expect (&hard, "grad.student.logits", 1, (1 / z - 1) / 2);
  two_rows (&soft, "", 1);
  leaf_put (&soft, "label", KD_INT64, 2, 0, 0, 0);
  leaf_run_ok (&soft);
  two_rows (&hard, "", 1);
  leaf_run_ok (&hard);
  leaf_expect (&soft, "loss", 0, leaf_get (&hard, "loss", 0));
  leaf_open (&soft, "kdmixstd", "ce-weight=0", 1);
  leaf_put (&soft, "student.logits", KD_FLOAT32, 1, 2, 3, 0);
  leaf_put (&soft, "teacher.logits", KD_FLOAT32, 1, 2, 1, 0);
  leaf_run_ok (&soft);
  leaf_expect (&soft, "loss", 0, 0); /* two classes have the same u whatever their distance */
}
GST_END_TEST

/* Equal logits: a uniform distribution; masked rows are not read. */
GST_START_TEST (test_flat)
{
  g_auto (Leaf) leaf = { 0 };

  leaf_open (&leaf, "kdmixstd", "ce-weight=0.5 kd-weight=0.5", 1);
  leaf_put (&leaf, "student.logits", KD_FLOAT32, 1, 4, 7, 7, 7, 7);
  leaf_put (&leaf, "teacher.logits", KD_FLOAT32, 1, 4, -3, -3, -3, -3);
  leaf_put (&leaf, "label.soft", KD_FLOAT32, 1, 4, 0.25, 0.25, 0.25, 0.25);
  leaf_run_ok (&leaf);
  leaf_expect (&leaf, "loss.ce", 0, log (4));
  leaf_expect (&leaf, "loss.kd", 0, 0);
  leaf_expect (&leaf, "std.teacher", 0, 0);
  leaf_expect (&leaf, "grad.student.logits", 2, 0);
  two_rows (&leaf, "", 1);
  leaf_put (&leaf, "student.logits", KD_FLOAT32, 2, 3, NAN, NAN, NAN, -1, 0.5, 0);
  leaf_put (&leaf, "label.soft", KD_FLOAT32, 2, 3, 9, 9, 9, 0, 1, 0);
  leaf_put (&leaf, "mask", KD_UINT8, 2, 0, 0, 1);
  leaf_run_ok (&leaf);
  ck_assert (leaf_get (&leaf, "grad.student.logits", 0) == 0 && leaf_get (&leaf, "std.student", 0) == 0 && leaf_get (&leaf, "std.student", 1) > 0);
  two_rows (&leaf, "", 1);
  leaf_put (&leaf, "mask", KD_UINT8, 2, 0, 0, 0);
  leaf_run_ok (&leaf);
  leaf_expect (&leaf, "loss", 0, 0);
}
GST_END_TEST

GST_START_TEST (test_refusals)
{
  g_auto (Leaf) leaf = { 0 };

  two_rows (&leaf, "", 1);
  leaf_put (&leaf, "label.soft", KD_FLOAT32, 2, 3, 0.25, 0, 0.75, 0.5, 0.6, 0);
  leaf_refuses (&leaf, KD_ERROR_VALUE, "No distribution: element=kdmixstd, field=label.soft, row=1");
  two_rows (&leaf, "", 1);
  leaf_put (&leaf, "label.soft", KD_FLOAT32, 2, 3, 1.25, -0.25, 0, 0, 1, 0);
  leaf_refuses (&leaf, KD_ERROR_VALUE, "field=label.soft, row=0");
  two_rows (&leaf, "", 1);
  leaf_put (&leaf, "teacher.logits", KD_FLOAT32, 2, 3, 2, 1, 0, 0, NAN, 3);
  leaf_refuses (&leaf, KD_ERROR_VALUE, "field=teacher.logits, sample.id=1");
  two_rows (&leaf, "", 1);
  leaf_put (&leaf, "student.logits", KD_FLOAT32, 2, 3, INFINITY, 1, 0, 0, 0, 3);
  leaf_refuses (&leaf, KD_ERROR_VALUE, "field=student.logits, sample.id=0");
  two_rows (&leaf, "", 1);
  leaf_put (&leaf, "label", KD_INT64, 2, 0, 0, 3);
  leaf_refuses (&leaf, KD_ERROR_RANGE, "label=3, classes=3");
  leaf_open (&leaf, "kdmixstd", "", 1);
  leaf_put (&leaf, "student.logits", KD_FLOAT32, 1, 2, 3, 0);
  leaf_put (&leaf, "teacher.logits", KD_FLOAT32, 1, 2, 1, 0);
  leaf_refuses (&leaf, KD_ERROR_FIELD, "field=label.soft or label, ce-weight=0.1");
  leaf_open (&leaf, "kdmixstd", "ce-weight=0", 1);
  leaf_put (&leaf, "student.logits", KD_FLOAT32, 1, 1, 3);
  leaf_put (&leaf, "teacher.logits", KD_FLOAT32, 1, 1, 1);
  leaf_refuses (&leaf, KD_ERROR_SHAPE, "classes=1");
}
GST_END_TEST

KD_TESTS (kdmixstd, test_value, test_scale, test_options, test_flat, test_refusals)
