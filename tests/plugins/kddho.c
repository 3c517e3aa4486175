#include "kd-leaf.h"

/* Rows 0 and 1 have labels, row 2 has none. k and t: KL of row n is kl (n). */
static void
three_rows (Leaf *leaf, const gchar *properties)
{
  leaf_open (leaf, "kddho", properties, 3);
  leaf_put (leaf, "student.ce.logits", KD_FLOAT32, 3, 2, 0, log (3), 0, 0, 5, -5);
  leaf_put (leaf, "student.kd.logits", KD_FLOAT32, 3, 2, 0, 0, 0, log (3), 0, 0);
  leaf_put (leaf, "teacher.logits", KD_FLOAT32, 3, 2, 0, log (3), 0, 0, 0, log (7));
  leaf_put (leaf, "label", KD_INT64, 3, 0, 0, 1, -1);
}

static gdouble
kl (guint row)
{
  return ((gdouble[]) { 0.25 * log (0.5) + 0.75 * log (1.5), 0.5 * log (2) + 0.5 * log (2.0 / 3), 0.125 * log (0.25) + 0.875 * log (1.75) })[row];
}

GST_START_TEST (test_separate)
{
  g_auto (Leaf) leaf = { 0 };
  gdouble ce = (log (4) + log (2)) / 2;

  three_rows (&leaf, "temperature=1 ce-weight=0.3 kd-weight=2");
  leaf_run_ok (&leaf);
  leaf_expect (&leaf, "loss.ce", 0, ce);
  leaf_expect (&leaf, "loss.kd.labeled", 0, (kl (0) + kl (1)) / 2);
  leaf_expect (&leaf, "loss.kd.unlabeled", 0, kl (2));
  leaf_expect (&leaf, "loss", 0, 0.3 * ce + 2 * ((kl (0) + kl (1)) / 2 + kl (2)));
  leaf_expect (&leaf, "grad.student.ce.logits", 0, 0.3 * -0.75 / 2);
  ck_assert (leaf_get (&leaf, "grad.student.ce.logits", 4) == 0 && leaf_get (&leaf, "grad.student.ce.logits", 5) == 0);
  leaf_expect (&leaf, "grad.student.kd.logits", 0, 2 * 0.25 / 2);
  leaf_expect (&leaf, "grad.student.kd.logits", 4, 2 * 0.375);
}
GST_END_TEST

GST_START_TEST (test_pooled)
{
  g_auto (Leaf) leaf = { 0 };

  three_rows (&leaf, "temperature=1 ce-weight=0 kd-weight=1 kd-reduction=pooled");
  leaf_run_ok (&leaf);
  leaf_expect (&leaf, "loss", 0, (kl (0) + kl (1) + kl (2)) / 3);
  leaf_expect (&leaf, "loss.kd.unlabeled", 0, kl (2) / 3);
  leaf_expect (&leaf, "grad.student.kd.logits", 4, 0.375 / 3);
  three_rows (&leaf, "temperature=2 ce-weight=0 kd-weight=1"); /* T^2 KL at T, gradient T (p - q) */
  leaf_run_ok (&leaf);
  leaf_expect (&leaf, "grad.student.kd.logits", 4, 2 * (0.5 - 1 / (1 + sqrt (7))));
}
GST_END_TEST

/* A mask takes rows out of their set; what is left of it makes the mean. */
GST_START_TEST (test_sets)
{
  g_auto (Leaf) leaf = { 0 };

  three_rows (&leaf, "temperature=1");
  leaf_put (&leaf, "mask", KD_FLOAT32, 3, 0, 1, 0, 1);
  leaf_run_ok (&leaf);
  leaf_expect (&leaf, "loss.ce", 0, log (4));
  leaf_expect (&leaf, "loss.kd.labeled", 0, kl (0));
  leaf_expect (&leaf, "loss.kd.unlabeled", 0, kl (2));
  three_rows (&leaf, "temperature=1");
  leaf_put (&leaf, "mask", KD_FLOAT32, 3, 0, 0, 0, 1); /* no labelled row */
  leaf_run_ok (&leaf);
  ck_assert (leaf_get (&leaf, "loss.ce", 0) == 0 && leaf_get (&leaf, "loss.kd.labeled", 0) == 0);
  for (gsize i = 0; i < 6; i++)
    ck_assert (leaf_get (&leaf, "grad.student.ce.logits", i) == 0);
  leaf_expect (&leaf, "loss", 0, 0.5 * kl (2));
  three_rows (&leaf, "temperature=1");
  leaf_put (&leaf, "mask", KD_FLOAT32, 3, 0, 1, 1, 0); /* no row without a label */
  leaf_run_ok (&leaf);
  ck_assert (leaf_get (&leaf, "loss.kd.unlabeled", 0) == 0);
  leaf_expect (&leaf, "loss.kd.labeled", 0, (kl (0) + kl (1)) / 2);
  three_rows (&leaf, "");
  leaf_put (&leaf, "mask", KD_FLOAT32, 3, 0, 0, 0, 0);
  leaf_run_ok (&leaf);
  ck_assert (leaf_get (&leaf, "loss", 0) == 0);
}
GST_END_TEST

GST_START_TEST (test_field_names)
{
  g_auto (Leaf) leaf = { 0 };

  three_rows (&leaf, "temperature=1 ce-field=student.logits");
  leaf_put (&leaf, "student.logits", KD_FLOAT32, 3, 2, 0, log (3), 0, 0, 5, -5);
  kd_batch_remove (leaf.batch, "student.ce.logits");
  leaf_run_ok (&leaf);
  leaf_expect (&leaf, "grad.student.logits", 0, 0.5 * -0.75 / 2);
}
GST_END_TEST

/* Both terms on one head: its gradient is the sum, and a loss before them is kept. */
GST_START_TEST (test_single_head)
{
  g_auto (Leaf) leaf = { 0 }, two = { 0 };

  three_rows (&two, "temperature=1");
  leaf_put (&two, "student.ce.logits", KD_FLOAT32, 3, 2, 0, 0, 0, log (3), 0, 0);
  leaf_run_ok (&two);
  three_rows (&leaf, "temperature=1 ce-field=student.kd.logits");
  kd_batch_remove (leaf.batch, "student.ce.logits");
  leaf_put (&leaf, "grad.student.kd.logits", KD_FLOAT32, 3, 2, 1, 0, 0, 0, 0, 0);
  leaf_run_ok (&leaf);
  leaf_expect (&leaf, "loss", 0, leaf_get (&two, "loss", 0));
  for (gsize i = 0; i < 6; i++)
    leaf_expect (&leaf, "grad.student.kd.logits", i, (i == 0) + leaf_get (&two, "grad.student.kd.logits", i) + leaf_get (&two, "grad.student.ce.logits", i));
}
GST_END_TEST

GST_START_TEST (test_refusals)
{
  g_auto (Leaf) leaf = { 0 };

  three_rows (&leaf, "");
  leaf_put (&leaf, "label", KD_INT64, 3, 0, 0, 2, -1);
  leaf_refuses (&leaf, KD_ERROR_RANGE, "Label out of range: element=kddho, field=label, row=1, label=2, classes=2; a row without a label has -1");
  leaf_put (&leaf, "label", KD_INT64, 3, 0, 0, -2, -1);
  leaf_refuses (&leaf, KD_ERROR_RANGE, "label=-2");
  three_rows (&leaf, "");
  leaf_put (&leaf, "teacher.logits", KD_FLOAT32, 3, 3, 0, 1, 2, 0, 1, 2, 0, 1, 2);
  leaf_refuses (&leaf, KD_ERROR_SHAPE, "teacher.logits");
  three_rows (&leaf, "");
  leaf_put (&leaf, "student.kd.logits", KD_FLOAT32, 3, 3, 0, 1, 2, 0, 1, 2, 0, 1, 2);
  leaf_refuses (&leaf, KD_ERROR_SHAPE, "student.kd.logits");
  three_rows (&leaf, "");
  leaf_put (&leaf, "student.ce.logits", KD_FLOAT32, 3, 2, 0, 1, 0, 1, 0, NAN); /* in a row without a label, too */
  leaf_refuses (&leaf, KD_ERROR_VALUE, "field=student.ce.logits, sample.id=2, row=2, column=1");
  three_rows (&leaf, "");
  leaf_put (&leaf, "student.kd.logits", KD_FLOAT32, 3, 2, 0, INFINITY, 0, 1, 0, 1);
  leaf_refuses (&leaf, KD_ERROR_VALUE, "field=student.kd.logits, sample.id=0");
}
GST_END_TEST

KD_TESTS (kddho, test_separate, test_pooled, test_sets, test_field_names, test_single_head, test_refusals)
