#include "kd-leaf.h"

static void
two_rows (Leaf *leaf, const gchar *properties)
{
  leaf_open (leaf, "kdpld", properties, 2);
  leaf_put (leaf, "student.logits", KD_FLOAT32, 2, 3, 1, 2, 3, -1, 0.5, 0);
  leaf_put (leaf, "teacher.logits", KD_FLOAT16, 2, 3, 2, 1, 0, 0, 1, 3);
  leaf_put (leaf, "label", KD_INT64, 2, 0, 2, 1);
}

/* One row by hand: scores log 1, log 2, log 3; the teacher prefers class 1, the label is 0: ranking 0, 1, 2. */
GST_START_TEST (test_value)
{
  g_auto (Leaf) leaf = { 0 };
  const gdouble a[3] = { 2.0 / 8, 5.0 / 8, 1.0 / 8 };

  leaf_open (&leaf, "kdpld", "per-sample=true", 1);
  leaf_put (&leaf, "student.logits", KD_FLOAT32, 1, 3, log (1), log (2), log (3));
  leaf_put (&leaf, "teacher.logits", KD_FLOAT32, 1, 3, log (2), log (5), log (1));
  leaf_put (&leaf, "label", KD_INT64, 1, 0, 0);
  leaf_run_ok (&leaf);
  leaf_expect (&leaf, "loss", 0, a[0] * log (6) + a[1] * log (5.0 / 2));
  leaf_expect (&leaf, "loss.per_sample", 0, a[0] * log (6) + a[1] * log (5.0 / 2));
  leaf_expect (&leaf, "loss.tail", 0, 6.0 / 8);
  leaf_expect (&leaf, "grad.student.logits", 0, a[0] / 6 - a[0]);
  leaf_expect (&leaf, "grad.student.logits", 1, a[0] * 2 / 6 + a[1] * 2 / 5 - a[1]);
  leaf_expect (&leaf, "grad.student.logits", 2, a[0] * 3 / 6 + a[1] * 3 / 5);
}
GST_END_TEST

/* weighting=ce is kdce; two classes are the label's weight times it; a constant added to a row changes nothing. */
GST_START_TEST (test_identities)
{
  g_auto (Leaf) leaf = { 0 }, ce = { 0 };

  two_rows (&leaf, "weighting=ce");
  leaf_run_ok (&leaf);
  ck_assert (!kd_batch_peek (leaf.batch, "loss.per_sample"));
  leaf_open (&ce, "kdce", "", 2);
  leaf_put (&ce, "student.logits", KD_FLOAT32, 2, 3, 1, 2, 3, -1, 0.5, 0);
  leaf_put (&ce, "label", KD_INT64, 2, 0, 2, 1);
  leaf_run_ok (&ce);
  leaf_expect (&leaf, "loss", 0, leaf_get (&ce, "loss", 0));
  for (gsize i = 0; i < 6; i++)
    leaf_expect (&leaf, "grad.student.logits", i, leaf_get (&ce, "grad.student.logits", i));
  two_rows (&leaf, "");
  leaf_run_ok (&leaf);
  two_rows (&ce, "");
  leaf_put (&ce, "student.logits", KD_FLOAT32, 2, 3, 101, 102, 103, -51, -49.5, -50);
  leaf_put (&ce, "teacher.logits", KD_FLOAT32, 2, 3, 5, 4, 3, -8, -7, -5);
  leaf_run_ok (&ce);
  leaf_expect (&leaf, "loss", 0, leaf_get (&ce, "loss", 0));
  leaf_open (&leaf, "kdpld", "teacher-temperature=2", 1);
  leaf_put (&leaf, "student.logits", KD_FLOAT32, 1, 2, 0.5, -1);
  leaf_put (&leaf, "teacher.logits", KD_FLOAT32, 1, 2, 1, 4);
  leaf_put (&leaf, "label", KD_INT64, 1, 0, 0);
  leaf_run_ok (&leaf);
  leaf_expect (&leaf, "loss", 0, log1p (exp (-1.5)) / (1 + exp (1.5)));
}
GST_END_TEST

/* Equal teacher logits: the lower class first, whatever the student thinks. */
GST_START_TEST (test_ties)
{
  g_auto (Leaf) leaf = { 0 };
  const gdouble half[3] = { 4.0 / 7, 2.0 / 7, 1.0 / 7 };

  leaf_open (&leaf, "kdpld", "weighting=decay decay=0.5", 1);
  leaf_put (&leaf, "student.logits", KD_FLOAT32, 1, 3, log (1), log (2), log (3));
  leaf_put (&leaf, "teacher.logits", KD_FLOAT32, 1, 3, -0.0, 0, 0);
  leaf_put (&leaf, "label", KD_INT64, 1, 0, 1);
  leaf_run_ok (&leaf); /* ranking 1, 0, 2 */
  leaf_expect (&leaf, "loss", 0, half[0] * log (3) + half[1] * log (4));
  leaf_open (&leaf, "kdpld", "weighting=uniform", 1);
  leaf_put (&leaf, "student.logits", KD_FLOAT32, 1, 3, log (1), log (2), log (3));
  leaf_put (&leaf, "teacher.logits", KD_FLOAT32, 1, 3, 5, 5, 5);
  leaf_put (&leaf, "label", KD_INT64, 1, 0, 2);
  leaf_run_ok (&leaf); /* ranking 2, 0, 1 */
  leaf_expect (&leaf, "loss", 0, (log (2) + log (3)) / 3);
  leaf_open (&leaf, "kdpld", "weighting=decay decay=0.5 ranking=class", 1);
  leaf_put (&leaf, "student.logits", KD_FLOAT32, 1, 3, log (1), log (2), log (3));
  leaf_put (&leaf, "teacher.logits", KD_FLOAT32, 1, 3, 0, 5, 9);
  leaf_put (&leaf, "label", KD_INT64, 1, 0, 1);
  leaf_run_ok (&leaf); /* 1, 0, 2 again, whatever the teacher says */
  leaf_expect (&leaf, "loss", 0, half[0] * log (3) + half[1] * log (4));
}
GST_END_TEST

/* A sure teacher makes cross-entropy of it, and loss.tail shows it; 1e3 apart nothing overflows; masked rows are not read. */
GST_START_TEST (test_limits)
{
  g_auto (Leaf) leaf = { 0 };

  leaf_open (&leaf, "kdpld", "", 1);
  leaf_put (&leaf, "student.logits", KD_FLOAT32, 1, 3, 1000, 0, -1000);
  leaf_put (&leaf, "teacher.logits", KD_FLOAT32, 1, 3, -1000, 0, 1000);
  leaf_put (&leaf, "label", KD_INT64, 1, 0, 2);
  leaf_run_ok (&leaf);
  leaf_expect (&leaf, "loss", 0, 2000);
  leaf_expect (&leaf, "loss.tail", 0, 0);
  leaf_expect (&leaf, "grad.student.logits", 0, 1);
  leaf_expect (&leaf, "grad.student.logits", 2, -1);
  two_rows (&leaf, "per-sample=true");
  leaf_put (&leaf, "mask", KD_UINT8, 2, 0, 0, 1);
  leaf_put (&leaf, "label", KD_INT64, 2, 0, -7, 1);
  leaf_put (&leaf, "student.logits", KD_FLOAT32, 2, 3, NAN, 2, 3, -1, 0.5, 0);
  leaf_run_ok (&leaf);
  for (gsize i = 0; i < 3; i++)
    ck_assert (leaf_get (&leaf, "grad.student.logits", i) == 0);
  leaf_expect (&leaf, "loss.per_sample", 0, 0);
  leaf_expect (&leaf, "loss", 0, leaf_get (&leaf, "loss.per_sample", 1));
  two_rows (&leaf, "");
  leaf_put (&leaf, "mask", KD_UINT8, 2, 0, 0, 0);
  leaf_run_ok (&leaf);
  leaf_expect (&leaf, "loss", 0, 0);
  leaf_expect (&leaf, "loss.tail", 0, 0);
}
GST_END_TEST

GST_START_TEST (test_refusals)
{
  g_auto (Leaf) leaf = { 0 };

  two_rows (&leaf, "");
  leaf_put (&leaf, "label", KD_INT64, 2, 0, 2, 3);
  leaf_refuses (&leaf, KD_ERROR_RANGE, "label=3, classes=3");
  two_rows (&leaf, "");
  leaf_put (&leaf, "student.logits", KD_FLOAT32, 2, 3, 1, 2, 3, -1, NAN, 0);
  leaf_refuses (&leaf, KD_ERROR_VALUE, "field=student.logits, sample.id=1, row=1, column=1");
  two_rows (&leaf, "");
  leaf_put (&leaf, "teacher.logits", KD_FLOAT32, 2, 3, 1, 2, INFINITY, -1, 0, 0);
  leaf_refuses (&leaf, KD_ERROR_VALUE, "field=teacher.logits, sample.id=0, row=0, column=2");
  two_rows (&leaf, "");
  leaf_put (&leaf, "teacher.logits", KD_FLOAT32, 2, 4, 1, 2, 3, 4, -1, 0, 0, 1);
  leaf_refuses (&leaf, KD_ERROR_SHAPE, "teacher.logits");
  leaf_open (&leaf, "kdpld", "", 1);
  leaf_put (&leaf, "student.logits", KD_FLOAT32, 1, 1, 1);
  leaf_put (&leaf, "teacher.logits", KD_FLOAT32, 1, 1, 1);
  leaf_put (&leaf, "label", KD_INT64, 1, 0, 0);
  leaf_refuses (&leaf, KD_ERROR_SHAPE, "Too few classes: element=kdpld, field=student.logits, classes=1");
}
GST_END_TEST

KD_TESTS (kdpld, test_value, test_identities, test_ties, test_limits, test_refusals)
