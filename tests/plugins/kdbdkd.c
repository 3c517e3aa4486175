#include "kd-leaf.h"

/* p = (1/4, 3/4), q = (1/2, 1/2): the teacher is less sure. */
static void
one_row (Leaf *leaf, const gchar *properties)
{
  leaf_open (leaf, "kdbdkd", properties, 1);
  leaf_put (leaf, "student.logits", KD_FLOAT32, 1, 2, 0, log (3));
  leaf_put (leaf, "teacher.logits", KD_FLOAT32, 1, 2, 1, 1);
  leaf_put (leaf, "label", KD_INT64, 1, 0, 0);
}

static const gdouble forward = 0.5 * M_LN2 - 0.5 * 0.40546510810816438; /* KL (q || p) */

static gdouble
reverse (void)
{
  return 0.25 * log (0.5) + 0.75 * log (1.5);
}

GST_START_TEST (test_value)
{
  g_auto (Leaf) leaf = { 0 };

  one_row (&leaf, "temperature=1 nu=3 ce-weight=0.5 kd-weight=2 teacher-ce-weight=4 teacher-kd-weight=0.1");
  leaf_run_ok (&leaf);
  leaf_expect (&leaf, "loss.ce", 0, log (4));
  leaf_expect (&leaf, "loss.forward", 0, 3 * forward);
  leaf_expect (&leaf, "loss.reverse", 0, reverse ());
  leaf_expect (&leaf, "loss", 0, 0.5 * log (4) + 2 * (3 * forward + reverse ()));
  leaf_expect (&leaf, "loss.teacher", 0, 4 * log (2) + 0.1 * reverse ());
  leaf_expect (&leaf, "grad.teacher.logits", 0, 4 * -0.5 + 0.1 * 0.25);
  leaf_expect (&leaf, "grad.student.logits", 0, 0.5 * -0.75 + 2 * (3 * -0.25 + 0.25 * (log (0.5) - reverse ())));
  leaf_expect (&leaf, "bd.entropy.teacher", 0, log (2));
  leaf_expect (&leaf, "bd.entropy.student", 0, 0.25 * log (4) + 0.75 * log (4.0 / 3));
  leaf_expect (&leaf, "metric.bd.forward-share", 0, 1);
  leaf_expect (&leaf, "metric.bd.reverse-share", 0, 0);
}
GST_END_TEST

GST_START_TEST (test_gate)
{
  g_auto (Leaf) leaf = { 0 };

  one_row (&leaf, "gate=swapped nu=3");
  leaf_run_ok (&leaf);
  leaf_expect (&leaf, "bd.forward_weight", 0, 1);
  leaf_expect (&leaf, "bd.reverse_weight", 0, 3);
  leaf_open (&leaf, "kdbdkd", "entropy-temperature=2", 4); /* student surer, teacher surer, both alike, not counted */
  leaf_put (&leaf, "student.logits", KD_FLOAT32, 4, 2, 0, 9, 0, 1, 7, 5, NAN, 0);
  leaf_put (&leaf, "teacher.logits", KD_FLOAT32, 4, 2, 0, 1, 9, 0, 3, 1, 0, 0);
  leaf_put (&leaf, "label", KD_INT64, 4, 0, 0, 1, 0, -100);
  leaf_run_ok (&leaf);
  for (gsize i = 0; i < 4; i++) {
    leaf_expect (&leaf, "bd.forward_weight", i, ((gdouble[]) { 2, 1, 1, 0 })[i]);
    leaf_expect (&leaf, "bd.reverse_weight", i, ((gdouble[]) { 1, 2, 1, 0 })[i]);
  }
  leaf_expect (&leaf, "metric.bd.forward-share", 0, 1.0 / 3);
  leaf_expect (&leaf, "metric.bd.reverse-share", 0, 1.0 / 3);
}
GST_END_TEST

/* Two models that are sure to many digits are still told apart. */
GST_START_TEST (test_gate_of_sure_rows)
{
  g_auto (Leaf) leaf = { 0 };

  leaf_open (&leaf, "kdbdkd", "", 1);
  leaf_put (&leaf, "student.logits", KD_FLOAT32, 1, 3, 60, 0, 0);
  leaf_put (&leaf, "teacher.logits", KD_FLOAT32, 1, 3, 60, 1, 0);
  leaf_put (&leaf, "label", KD_INT64, 1, 0, 0);
  leaf_run_ok (&leaf);
  leaf_expect (&leaf, "bd.forward_weight", 0, 2);
  kd_assert_close (leaf_get (&leaf, "bd.entropy.student", 0) / (2 * exp (-60) * 61), 1, 1e-4);
}
GST_END_TEST

GST_START_TEST (test_nothing_to_do)
{
  g_auto (Leaf) leaf = { 0 }, masked = { 0 };

  leaf_open (&leaf, "kdbdkd", "ce-weight=0 teacher-ce-weight=0", 2); /* the same logits, without labels */
  leaf_put (&leaf, "student.logits", KD_FLOAT32, 2, 3, 1, -2, 0.3, 900, -900, 0);
  leaf_put (&leaf, "teacher.logits", KD_FLOAT32, 2, 3, 1, -2, 0.3, 900, -900, 0);
  leaf_run_ok (&leaf);
  ck_assert (leaf_get (&leaf, "loss", 0) == 0 && leaf_get (&leaf, "loss.teacher", 0) == 0);
  for (gsize i = 0; i < 6; i++)
    ck_assert (leaf_get (&leaf, "grad.student.logits", i) == 0 && leaf_get (&leaf, "grad.teacher.logits", i) == 0);
  one_row (&masked, "");
  leaf_put (&masked, "mask", KD_FLOAT32, 1, 0, 0);
  leaf_run_ok (&masked);
  ck_assert (leaf_get (&masked, "loss", 0) == 0 && leaf_get (&masked, "loss.teacher", 0) == 0);
  ck_assert (leaf_get (&masked, "grad.student.logits", 0) == 0 && leaf_get (&masked, "grad.teacher.logits", 1) == 0);
  ck_assert (leaf_get (&masked, "metric.bd.forward-share", 0) == 0);
}
GST_END_TEST

/* Offline: the teacher gets nothing and may be of half precision. Directions left out leave no trace. */
GST_START_TEST (test_offline_and_directions)
{
  g_auto (Leaf) leaf = { 0 };

  one_row (&leaf, "temperature=1 train-teacher=false ce-weight=0 reverse-weight=0");
  leaf_put (&leaf, "teacher.logits", KD_FLOAT16, 1, 2, 1, 1);
  leaf_run_ok (&leaf);
  ck_assert (!kd_batch_peek (leaf.batch, "grad.teacher.logits"));
  leaf_expect (&leaf, "loss.teacher", 0, 0);
  leaf_expect (&leaf, "loss", 0, 2 * forward);
  leaf_expect (&leaf, "loss.reverse", 0, reverse ());
  leaf_expect (&leaf, "grad.student.logits", 0, 2 * -0.25);
  one_row (&leaf, "temperature=1 teacher-direction=teacher-student ce-weight=0 teacher-ce-weight=0 forward-weight=0");
  leaf_run_ok (&leaf);
  leaf_expect (&leaf, "loss.teacher", 0, forward);
  leaf_expect (&leaf, "grad.teacher.logits", 0, 0.5 * (log (2) - forward));
  leaf_expect (&leaf, "loss", 0, reverse ());
}
GST_END_TEST

GST_START_TEST (test_refusals)
{
  g_auto (Leaf) leaf = { 0 };
  g_autoptr (GError) error = NULL;

  one_row (&leaf, "");
  kd_batch_remove (leaf.batch, "label");
  leaf_refuses (&leaf, KD_ERROR_FIELD, "Field missing: element=kdbdkd, field=label, ce-weight=1, teacher-ce-weight=1; put a source with labels before it or "
                                       "set both to 0");
  one_row (&leaf, "ce-weight=0");
  kd_batch_remove (leaf.batch, "label");
  leaf_refuses (&leaf, KD_ERROR_FIELD, "teacher-ce-weight=1");
  one_row (&leaf, "");
  leaf_put (&leaf, "teacher.logits", KD_BFLOAT16, 1, 2, 1, 1);
  leaf_refuses (&leaf, KD_ERROR_DTYPE, "dtype=bfloat16, wanted=float32 with train-teacher=true");
  one_row (&leaf, "");
  leaf_put (&leaf, "label", KD_INT64, 1, 0, 2);
  leaf_refuses (&leaf, KD_ERROR_RANGE, "label=2, classes=2");
  one_row (&leaf, "");
  leaf_put (&leaf, "teacher.logits", KD_FLOAT32, 1, 2, 1, -INFINITY);
  leaf_refuses (&leaf, KD_ERROR_VALUE, "field=teacher.logits, sample.id=0, row=0, column=1");
  leaf_open (&leaf, "kdbdkd", "", 1);
  leaf_put (&leaf, "student.logits", KD_FLOAT32, 1, 1, 0);
  leaf_put (&leaf, "teacher.logits", KD_FLOAT32, 1, 1, 0);
  leaf_put (&leaf, "label", KD_INT64, 1, 0, 0);
  leaf_refuses (&leaf, KD_ERROR_SHAPE, "Too few classes: element=kdbdkd, field=student.logits, classes=1, wanted=2 or more");
  for (guint i = 0; i < 2; i++) { /* below 1 nu would turn the gate round */
    g_clear_error (&error);
    ck_assert (!kd_param_set_string (kd_param_find (leaf.desc->params, "nu"), leaf.params, i ? "nan" : "0.5", "kdbdkd", &error));
    ck_assert (g_error_matches (error, KD_ERROR, i ? KD_ERROR_FORMAT : KD_ERROR_RANGE) || g_error_matches (error, KD_ERROR, KD_ERROR_RANGE));
  }
}
GST_END_TEST

KD_TESTS (kdbdkd, test_value, test_gate, test_gate_of_sure_rows, test_nothing_to_do, test_offline_and_directions, test_refusals)
