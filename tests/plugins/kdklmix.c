#include "kd-leaf.h"

/* q = (1/4, 3/4), p = (1/2, 1/2). */
static void
one_row (Leaf *leaf, const gchar *properties)
{
  leaf_open (leaf, "kdklmix", properties, 1);
  leaf_put (leaf, "student.logits", KD_FLOAT32, 1, 2, 0, log (3));
  leaf_put (leaf, "teacher.logits", KD_FLOAT32, 1, 2, 1, 1);
}

static gdouble
forward (void)
{
  return 0.5 * log (2) + 0.5 * log (2.0 / 3);
}

static gdouble
reverse (void)
{
  return 0.25 * log (0.5) + 0.75 * log (1.5);
}

GST_START_TEST (test_exact)
{
  g_auto (Leaf) leaf = { 0 };

  one_row (&leaf, "lambda=0.25");
  leaf_run_ok (&leaf);
  leaf_expect (&leaf, "loss.forward", 0, forward ());
  leaf_expect (&leaf, "loss.reverse", 0, reverse ());
  leaf_expect (&leaf, "loss", 0, 0.75 * forward () + 0.25 * reverse ());
  leaf_expect (&leaf, "grad.student.logits", 0, 0.75 * -0.25 + 0.25 * 0.25 * (log (0.5) - reverse ()));
  leaf_expect (&leaf, "student.entropy", 0, 0.25 * log (4) + 0.75 * log (4.0 / 3));
  one_row (&leaf, "lambda=0");
  leaf_run_ok (&leaf);
  leaf_expect (&leaf, "loss", 0, forward ());
  leaf_expect (&leaf, "loss.reverse", 0, reverse ());
  leaf_expect (&leaf, "grad.student.logits", 0, -0.25);
}
GST_END_TEST

/* Gradient over T, not over its square. */
GST_START_TEST (test_temperature)
{
  g_auto (Leaf) leaf = { 0 };

  leaf_open (&leaf, "kdklmix", "lambda=0 temperature=2", 1);
  leaf_put (&leaf, "student.logits", KD_FLOAT32, 1, 2, 0, 2 * log (3));
  leaf_put (&leaf, "teacher.logits", KD_FLOAT32, 1, 2, 1, 1);
  leaf_run_ok (&leaf);
  leaf_expect (&leaf, "loss", 0, forward ());
  leaf_expect (&leaf, "grad.student.logits", 0, -0.25 / 2);
}
GST_END_TEST

GST_START_TEST (test_sampled)
{
  g_auto (Leaf) leaf = { 0 };
  gdouble r = log (0.5) - log (0.25);

  one_row (&leaf, "estimator=sampled lambda=0.5");
  leaf_put (&leaf, "label", KD_INT64, 1, 0, 0);
  leaf_run_ok (&leaf);
  leaf_expect (&leaf, "loss.forward", 0, log (4));
  leaf_expect (&leaf, "loss.reverse", 0, r * log (4));
  leaf_expect (&leaf, "grad.student.logits", 0, (0.5 + 0.5 * r) * (0.25 - 1));
  leaf_expect (&leaf, "grad.student.logits", 1, (0.5 + 0.5 * r) * 0.75);
  one_row (&leaf, "estimator=sampled lambda=1 reward-clip=0.1");
  leaf_put (&leaf, "label", KD_INT64, 1, 0, 1);
  leaf_run_ok (&leaf); /* r = log (2/3), clipped */
  leaf_expect (&leaf, "loss", 0, -0.1 * log (4.0 / 3));
  leaf_expect (&leaf, "grad.student.logits", 0, -0.1 * 0.25);
}
GST_END_TEST

/* Over all labels, each as often as its model draws it, the sampled gradient is the exact one. */
static void
check_unbiased (const gchar *exact, const gchar *sampled, const gchar *from)
{
  g_auto (Leaf) leaf = { 0 };
  gdouble want[3], got[3] = { 0 };

  for (gint y = -1; y < 3; y++) {
    gdouble z = 0, share = 0;
    leaf_open (&leaf, "kdklmix", y < 0 ? exact : sampled, 1);
    leaf_put (&leaf, "student.logits", KD_FLOAT32, 1, 3, 0.3, -1, 2);
    leaf_put (&leaf, "teacher.logits", KD_FLOAT32, 1, 3, 1, 0.5, -0.2);
    leaf_put (&leaf, "label", KD_INT64, 1, 0, MAX (y, 0));
    leaf_run_ok (&leaf);
    for (gsize j = 0; j < 3; j++)
      z += exp (leaf_get (&leaf, from, j) / 1.5);
    share = y < 0 ? 0 : exp (leaf_get (&leaf, from, (gsize) y) / 1.5) / z;
    for (gsize j = 0; j < 3; j++) {
      if (y < 0)
        want[j] = leaf_get (&leaf, "grad.student.logits", j);
      else
        got[j] += share * leaf_get (&leaf, "grad.student.logits", j);
    }
  }
  for (gint j = 0; j < 3; j++)
    kd_assert_close (got[j], want[j], 1e-6);
}

GST_START_TEST (test_unbiased)
{
  check_unbiased ("lambda=1 temperature=1.5", "lambda=1 temperature=1.5 estimator=sampled", "student.logits");
  check_unbiased ("lambda=0 temperature=1.5", "lambda=0 temperature=1.5 estimator=sampled", "teacher.logits");
}
GST_END_TEST

GST_START_TEST (test_nothing_counted)
{
  for (gint i = 0; i < 2; i++) {
    g_auto (Leaf) leaf = { 0 };
    leaf_open (&leaf, "kdklmix", i ? "estimator=sampled" : "", 2);
    leaf_put (&leaf, "student.logits", KD_FLOAT32, 2, 2, NAN, 0, 1, 2);
    leaf_put (&leaf, "teacher.logits", KD_FLOAT32, 2, 2, 0, 0, INFINITY, 2);
    leaf_put (&leaf, "label", KD_INT64, 2, 0, 0, -100);
    leaf_put (&leaf, "mask", KD_UINT8, 2, 0, 0, 1);
    leaf_run_ok (&leaf);
    leaf_expect (&leaf, "loss", 0, 0);
    leaf_expect (&leaf, "student.entropy", 0, 0);
    for (gsize j = 0; j < 4; j++)
      ck_assert (leaf_get (&leaf, "grad.student.logits", j) == 0);
  }
}
GST_END_TEST

/* A vocabulary's padding in the teacher adds nothing; entropies of sure rows are 0. */
GST_START_TEST (test_infinite)
{
  g_auto (Leaf) leaf = { 0 };

  leaf_open (&leaf, "kdklmix", "lambda=0.5", 1);
  leaf_put (&leaf, "student.logits", KD_FLOAT32, 1, 3, 1e4, 0, 0);
  leaf_put (&leaf, "teacher.logits", KD_FLOAT32, 1, 3, 1e4, 0, -INFINITY);
  leaf_run_ok (&leaf);
  leaf_expect (&leaf, "loss", 0, 0);
  leaf_expect (&leaf, "student.entropy", 0, 0);
  ck_assert (leaf_get (&leaf, "grad.student.logits", 2) == 0);
}
GST_END_TEST

GST_START_TEST (test_refusals)
{
  g_auto (Leaf) leaf = { 0 };
  g_autoptr (GError) error = NULL;

  one_row (&leaf, "estimator=sampled");
  leaf_refuses (&leaf, KD_ERROR_FIELD, "Field missing: element=kdklmix, field=label, estimator=sampled; put a rollout or a source with labels before it or set estimator=exact");
  one_row (&leaf, "estimator=sampled");
  leaf_put (&leaf, "label", KD_INT64, 1, 0, 2);
  leaf_refuses (&leaf, KD_ERROR_RANGE, "label=2, classes=2");
  one_row (&leaf, "estimator=sampled");
  leaf_put (&leaf, "label", KD_INT64, 1, 0, 1);
  leaf_put (&leaf, "teacher.logits", KD_FLOAT32, 1, 2, 1, -INFINITY);
  leaf_refuses (&leaf, KD_ERROR_VALUE, "Token has no probability: element=kdklmix, row=0, label=1");
  for (gint i = 0; i < 2; i++) {
    one_row (&leaf, i ? "estimator=sampled" : "");
    leaf_put (&leaf, "label", KD_INT64, 1, 0, 1);
    leaf_put (&leaf, "student.logits", KD_FLOAT32, 1, 2, NAN, 0);
    leaf_refuses (&leaf, KD_ERROR_VALUE, "Value not finite: element=kdklmix, field=student.logits");
  }
  ck_assert (!kd_param_set_string (kd_param_find (leaf.desc->params, "lambda"), leaf.params, "1.1", "kdklmix", &error));
  ck_assert (g_error_matches (error, KD_ERROR, KD_ERROR_RANGE));
}
GST_END_TEST

KD_TESTS (kdklmix, test_exact, test_temperature, test_sampled, test_unbiased, test_nothing_counted, test_infinite, test_refusals)
