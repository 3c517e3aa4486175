#include "kd-leaf.h"

/* Three tokens of one sample, from hard to the same in both. */
static void
put_rows (Leaf *leaf)
{
  leaf_put (leaf, "student.logits", KD_FLOAT32, 3, 2, 0, 3, 0, 1, 0, 0);
  leaf_put (leaf, "teacher.logits", KD_FLOAT32, 3, 2, 3, 0, 1, 0, 0, 0);
}

/* sqrt (sum (sqrt p - sqrt q)^2 / 2) of logits (0, z) and (z, 0). */
static gdouble
hellinger (gdouble z)
{
  gdouble q = 1 / (1 + exp (z));

  return fabs (sqrt (q) - sqrt (1 - q));
}

/* D of (0, z) from (z, 0) at temperature t, either direction: (1 - 2 q) z / t. */
static gdouble
divergence (gdouble z, gdouble t)
{
  return (1 - 2 / (1 + exp (z / t))) * z / t;
}

GST_START_TEST (test_temperatures)
{
  g_auto (Leaf) leaf = { 0 };
  gdouble tau = exp (-0.5 * tanh (log (hellinger (3) / hellinger (1))));

  leaf_open (&leaf, "kdadakd", "", 3);
  put_rows (&leaf);
  leaf_run_ok (&leaf);
  leaf_expect (&leaf, "token.difficulty", 0, hellinger (3));
  leaf_expect (&leaf, "token.difficulty", 1, hellinger (1));
  ck_assert (leaf_get (&leaf, "token.difficulty", 2) == 0);
  leaf_expect (&leaf, "token.temperature", 0, tau);
  leaf_expect (&leaf, "token.temperature", 1, 1);
  leaf_expect (&leaf, "token.temperature", 2, exp (0.5));
  leaf_expect (&leaf, "loss", 0, (tau * tau * divergence (3, tau) + divergence (1, 1)) / 3);
  leaf_expect (&leaf, "loss.adakd", 0, leaf_get (&leaf, "loss", 0));
  leaf_expect (&leaf, "adakd.ema", 0, leaf_get (&leaf, "loss", 0));
  leaf_open (&leaf, "kdadakd", "tau-scale=false c=-0.5 divergence=fkl", 3);
  put_rows (&leaf);
  leaf_run_ok (&leaf);
  leaf_expect (&leaf, "loss", 0, (divergence (3, 1 / tau) + divergence (1, 1)) / 3);
  leaf_open (&leaf, "kdadakd", "idts=false base-temperature=2", 3);
  put_rows (&leaf);
  leaf_run_ok (&leaf);
  leaf_expect (&leaf, "loss", 0, 4 * (divergence (3, 2) + divergence (1, 2)) / 3);
}
GST_END_TEST

/* Selected rows are as kddivergence has them, at their temperature; the others have no gradient. */
GST_START_TEST (test_selection)
{
  g_auto (Leaf) leaf = { 0 }, plain = { 0 };

  leaf_open (&leaf, "kdadakd", "ratio-fixed=0.67 idts=false divergence=rkl", 3); /* floor (2.01) */
  put_rows (&leaf);
  leaf_run_ok (&leaf);
  leaf_expect (&leaf, "token.selected", 0, 1);
  leaf_expect (&leaf, "token.selected", 1, 1);
  leaf_expect (&leaf, "token.selected", 2, 0);
  leaf_expect (&leaf, "token.temperature", 2, 0);
  leaf_open (&plain, "kddivergence", "divergence=rkl", 2);
  leaf_put (&plain, "student.logits", KD_FLOAT32, 2, 2, 0, 3, 0, 1);
  leaf_put (&plain, "teacher.logits", KD_FLOAT32, 2, 2, 3, 0, 1, 0);
  leaf_run_ok (&plain);
  leaf_expect (&leaf, "loss", 0, leaf_get (&plain, "loss", 0));
  for (gsize i = 0; i < 4; i++)
    leaf_expect (&leaf, "grad.student.logits", i, leaf_get (&plain, "grad.student.logits", i));
  ck_assert (leaf_get (&leaf, "grad.student.logits", 4) == 0 && leaf_get (&leaf, "grad.student.logits", 5) == 0);
  leaf_open (&leaf, "kdadakd", "ratio-fixed=0.5", 4); /* equal ones: the earlier */
  leaf_put (&leaf, "student.logits", KD_FLOAT32, 4, 2, 0, 3, 0, 3, 0, 3, 0, 3);
  leaf_put (&leaf, "teacher.logits", KD_FLOAT32, 4, 2, 3, 0, 3, 0, 3, 0, 3, 0);
  leaf_run_ok (&leaf);
  for (gsize i = 0; i < 4; i++)
    leaf_expect (&leaf, "token.selected", i, i < 2);
  leaf_open (&leaf, "kdadakd", "ratio-fixed=0.01", 3); /* never none */
  put_rows (&leaf);
  leaf_run_ok (&leaf);
  leaf_expect (&leaf, "token.selected", 0, 1);
  leaf_expect (&leaf, "token.temperature", 0, 1);
}
GST_END_TEST

GST_START_TEST (test_indicators)
{
  const gchar *const properties[] = { "indicator=fkl", "indicator=rkl", "indicator=ce" };
  const gdouble want[] = { divergence (3, 1), divergence (3, 1), log1p (exp (3)) };

  for (guint i = 0; i < 3; i++) {
    g_auto (Leaf) leaf = { 0 };
    leaf_open (&leaf, "kdadakd", properties[i], 3);
    put_rows (&leaf);
    leaf_put (&leaf, "label", KD_INT64, 3, 0, 0, 0, 0);
    leaf_run_ok (&leaf);
    leaf_expect (&leaf, "token.difficulty", 0, want[i]);
  }
}
GST_END_TEST

GST_START_TEST (test_labels)
{
  g_auto (Leaf) leaf = { 0 };

  leaf_open (&leaf, "kdadakd", "kd-ratio=0.25 idts=false", 1);
  leaf_put (&leaf, "student.logits", KD_FLOAT32, 1, 2, 0, 1);
  leaf_put (&leaf, "teacher.logits", KD_FLOAT32, 1, 2, 1, 0);
  leaf_put (&leaf, "label", KD_INT64, 1, 0, 1);
  leaf_run_ok (&leaf);
  leaf_expect (&leaf, "loss.ce", 0, log1p (exp (-1)));
  leaf_expect (&leaf, "loss", 0, 0.25 * divergence (1, 1) + 0.75 * log1p (exp (-1)));
  leaf_expect (&leaf, "adakd.ema", 0, divergence (1, 1));
}
GST_END_TEST

static void
put_hard (Leaf *leaf, gdouble z)
{
  leaf_batch (leaf, 2);
  leaf_put (leaf, "student.logits", KD_FLOAT32, 2, 2, 0, z, 0, z);
  leaf_put (leaf, "teacher.logits", KD_FLOAT32, 2, 2, z, 0, z, 0);
}

/* Falling loss: fewer rows, down to min-ratio; a bump: more again, up to 1; within epsilon: nothing. */
GST_START_TEST (test_feedback)
{
  g_auto (Leaf) leaf = { 0 };
  gdouble ratio = 1;

  leaf_open (&leaf, "kdadakd", "ema-decay=0 delta=0.4 min-ratio=0.3 warmup-steps=1 idts=false", 2);
  put_hard (&leaf, 5);
  leaf_run_ok (&leaf);
  ck_assert (leaf_get (&leaf, "adakd.ref", 0) == -1);
  put_hard (&leaf, 5);
  leaf_run_ok (&leaf);
  leaf_expect (&leaf, "adakd.ref", 0, divergence (5, 1));
  put_hard (&leaf, 5.01);
  leaf_run_ok (&leaf);
  leaf_expect (&leaf, "adakd.ratio-next", 0, 1);
  leaf_expect (&leaf, "adakd.ref", 0, divergence (5, 1));
  for (gint i = 0; i < 4; i++) {
    put_hard (&leaf, 4 - i);
    leaf_run_ok (&leaf);
    leaf_expect (&leaf, "adakd.ratio", 0, ratio);
    ratio = MAX (0.3, 0.6 * ratio);
    leaf_expect (&leaf, "adakd.ratio-next", 0, ratio);
  }
  put_hard (&leaf, 9);
  leaf_run_ok (&leaf);
  leaf_expect (&leaf, "adakd.ratio-next", 0, 0.3 * 1.4);
  for (gint i = 0; i < 4; i++) {
    put_hard (&leaf, 20 + 5 * i);
    leaf_run_ok (&leaf);
  }
  leaf_expect (&leaf, "adakd.ratio-next", 0, 1);
}
GST_END_TEST

/* Nothing counted, a validation batch, a refused batch: no step. A loss of 0 is no rise or fall. */
GST_START_TEST (test_state)
{
  g_auto (Leaf) leaf = { 0 }, again = { 0 };
  g_autofree gchar *before = NULL;

  leaf_open (&leaf, "kdadakd", "delta=0.5 ema-decay=0", 2);
  put_hard (&leaf, 3);
  leaf_run_ok (&leaf);
  put_hard (&leaf, 2);
  leaf_run_ok (&leaf);
  leaf_expect (&leaf, "adakd.ratio-next", 0, 0.5);
  before = g_memdup2 (leaf.state, leaf.desc->state_size);
  put_hard (&leaf, NAN);
  leaf_put (&leaf, "mask", KD_UINT8, 2, 0, 0, 0);
  leaf_run_ok (&leaf);
  leaf_expect (&leaf, "loss", 0, 0);
  ck_assert (leaf_get (&leaf, "grad.student.logits", 0) == 0);
  ck_assert (memcmp (before, leaf.state, leaf.desc->state_size) == 0);
  put_hard (&leaf, 7);
  leaf.batch->flags |= KD_BATCH_VALIDATION;
  leaf_run_ok (&leaf);
  ck_assert (memcmp (before, leaf.state, leaf.desc->state_size) == 0);
  put_hard (&leaf, 7);
  leaf_put (&leaf, "teacher.logits", KD_FLOAT32, 2, 2, 0, 1, NAN, 1); /* not the selected row */
  leaf_refuses (&leaf, KD_ERROR_VALUE, "Value not finite: element=kdadakd, field=teacher.logits, sample.id=1");
  ck_assert (memcmp (before, leaf.state, leaf.desc->state_size) == 0);
  leaf_open (&again, "kdadakd", "delta=0.5 ema-decay=0", 2); /* what a checkpoint keeps */
  for (const KdStateField *field = leaf.desc->state_fields; field->name; field++)
    memcpy ((gchar *) again.state + field->offset, (gchar *) leaf.state + field->offset, field->n * kd_dtype_size (field->dtype));
  put_hard (&leaf, 1);
  put_hard (&again, 1);
  leaf_run_ok (&leaf);
  leaf_run_ok (&again);
  for (guint i = 0; i < kd_batch_n_fields (leaf.batch); i++)
    ck_assert (kd_tensor_equal (kd_batch_nth (leaf.batch, i)->tensor, kd_batch_peek (again.batch, kd_batch_nth (leaf.batch, i)->name)));
  for (gint i = 0; i < 3; i++) {
    put_hard (&leaf, 0);
    leaf_run_ok (&leaf);
  }
  leaf_expect (&leaf, "adakd.ref", 0, 0);
  leaf_expect (&leaf, "adakd.ratio-next", 0, leaf_get (&leaf, "adakd.ratio", 0));
}
GST_END_TEST

GST_START_TEST (test_refusals)
{
  g_auto (Leaf) leaf = { 0 };
  g_autoptr (GError) error = NULL;

  leaf_open (&leaf, "kdadakd", "indicator=ce", 3);
  put_rows (&leaf);
  leaf_refuses (&leaf, KD_ERROR_FIELD, "Field missing: element=kdadakd, field=label, indicator=ce, kd-ratio=1; put a source with labels before it or set kd-ratio=1 and another indicator");
  leaf_open (&leaf, "kdadakd", "kd-ratio=0.5", 3);
  put_rows (&leaf);
  leaf_refuses (&leaf, KD_ERROR_FIELD, "kd-ratio=0.5");
  leaf_open (&leaf, "kdadakd", "c=8", 3);
  put_rows (&leaf);
  leaf_refuses (&leaf, KD_ERROR_RANGE, "Temperatures out of range: element=kdadakd, base-temperature=1, c=8");
  leaf_open (&leaf, "kdadakd", "", 3);
  put_rows (&leaf);
  leaf_put (&leaf, "teacher.logits", KD_FLOAT32, 3, 3, 3, 0, 1, 0, 0, 0, 0, 0, 0);
  leaf_refuses (&leaf, KD_ERROR_SHAPE, "axis=C");
  for (guint i = 0; i < 3; i++) {
    const gchar *const bad[3][2] = { { "base-temperature", "0" }, { "delta", "1" }, { "min-ratio", "1.5" } };
    ck_assert (!kd_param_set_string (kd_param_find (leaf.desc->params, bad[i][0]), leaf.params, bad[i][1], "kdadakd", &error));
    ck_assert (g_error_matches (error, KD_ERROR, KD_ERROR_RANGE));
    g_clear_error (&error);
  }
}
GST_END_TEST

KD_TESTS (kdadakd, test_temperatures, test_selection, test_indicators, test_labels, test_feedback, test_state, test_refusals)
