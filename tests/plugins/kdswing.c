#include "kd-leaf.h"

static void
one_row (Leaf *leaf, const gchar *properties, gdouble privacy)
{
  leaf_open (leaf, "kdswing", properties, 1);
  leaf_put (leaf, "student.logits", KD_FLOAT32, 1, 2, 0, 0);
  leaf_put (leaf, "teacher.logits", KD_FLOAT32, 1, 2, 4 * log (3), 0);
  leaf_put (leaf, "token.privacy", KD_FLOAT32, 1, 0, privacy);
}

/* tau = 2 + 2 x 1 = 4: the teacher says (3/4, 1/4). */
GST_START_TEST (test_temperature)
{
  g_auto (Leaf) leaf = { 0 };
  gdouble kl = 0.75 * log (1.5) + 0.25 * log (0.5);

  one_row (&leaf, "tau-min=2 tau-max=4 noise=none", 1);
  leaf_run_ok (&leaf);
  leaf_expect (&leaf, "token.temperature", 0, 4);
  leaf_expect (&leaf, "loss", 0, kl);
  leaf_expect (&leaf, "grad.student.logits", 0, (0.5 - 0.75) / 4);
  one_row (&leaf, "tau-min=2 tau-max=4 noise=none scaling=tau2", 1);
  leaf_run_ok (&leaf);
  leaf_expect (&leaf, "loss", 0, 16 * kl);
}
GST_END_TEST

/* b = 2 / 10: the draws 1 and -3 make (0.95, 0) of (0.75, 0.25), so (1, 0). */
GST_START_TEST (test_noise)
{
  g_auto (Leaf) leaf = { 0 }, again = { 0 };

  one_row (&leaf, "tau-max=4", 1);
  leaf_put (&leaf, "rng.noise", KD_FLOAT32, 1, 2, 1, -3);
  leaf_run_ok (&leaf);
  leaf_expect (&leaf, "loss", 0, log (2));
  one_row (&leaf, "tau-max=4", 0.4); /* below the threshold: no noise */
  leaf_put (&leaf, "rng.noise", KD_FLOAT32, 1, 2, -9, 9);
  leaf_run_ok (&leaf);
  ck_assert (leaf_get (&leaf, "grad.student.logits", 0) < 0);
  one_row (&leaf, "tau-max=4", 1); /* nothing is left: even */
  leaf_put (&leaf, "rng.noise", KD_FLOAT32, 1, 2, -9, -9);
  leaf_run_ok (&leaf);
  leaf_expect (&leaf, "loss", 0, 0);
  one_row (&leaf, "epsilon=20 seed=1", 1); /* own draws: the same for the same seed, others for another */
  leaf_run_ok (&leaf);
  one_row (&again, "epsilon=20 seed=1", 1);
  leaf_run_ok (&again);
  ck_assert (leaf_get (&leaf, "loss", 0) == leaf_get (&again, "loss", 0));
  one_row (&again, "epsilon=20 seed=2", 1);
  leaf_run_ok (&again);
  ck_assert (leaf_get (&leaf, "loss", 0) != leaf_get (&again, "loss", 0));
}
GST_END_TEST

/* What kdswingcache has released takes the teacher's place: q~ = (1, 0) at tau = 4, as stored with a rounded sum. */
GST_START_TEST (test_released)
{
  g_auto (Leaf) leaf = { 0 };

  leaf_open (&leaf, "kdswing", "", 1);
  leaf_put (&leaf, "student.logits", KD_FLOAT32, 1, 2, 0, 0);
  leaf_put (&leaf, "teacher.probs", KD_FLOAT16, 1, 2, 0.9995, 0);
  leaf_refuses (&leaf, KD_ERROR_FIELD, "field=teacher.temperature, goes with teacher.probs");
  leaf_put (&leaf, "teacher.temperature", KD_FLOAT32, 1, 0, 4);
  leaf_run_ok (&leaf);
  leaf_expect (&leaf, "loss", 0, log (2));
  leaf_expect (&leaf, "grad.student.logits", 0, (0.5 - 1) / 4);
  leaf_expect (&leaf, "token.temperature", 0, 4);
  leaf_put (&leaf, "teacher.probs", KD_FLOAT32, 1, 2, 0.6, 0.2);
  leaf_refuses (&leaf, KD_ERROR_VALUE, "Not a distribution: element=kdswing, field=teacher.probs, row=0, sum=0.8");
  leaf_put (&leaf, "teacher.probs", KD_FLOAT32, 1, 2, 1.5, -0.5);
  leaf_refuses (&leaf, KD_ERROR_VALUE, "Not a distribution");
  leaf_put (&leaf, "teacher.probs", KD_FLOAT32, 1, 2, 0.5, 0.5);
  leaf_put (&leaf, "teacher.temperature", KD_FLOAT32, 1, 0, 0);
  leaf_refuses (&leaf, KD_ERROR_VALUE, "Not a temperature: element=kdswing, field=teacher.temperature, row=0, value=0");
  leaf_put (&leaf, "teacher.temperature", KD_FLOAT32, 1, 0, 4);
  leaf_put (&leaf, "teacher.logits", KD_FLOAT32, 1, 2, 0, 0);
  leaf_refuses (&leaf, KD_ERROR_FIELD, "Two teachers");
  kd_batch_remove (leaf.batch, "teacher.logits");
  kd_batch_remove (leaf.batch, "teacher.probs");
  leaf_refuses (&leaf, KD_ERROR_FIELD, "No teacher");
}
GST_END_TEST

GST_START_TEST (test_refusals)
{
  g_auto (Leaf) leaf = { 0 };

  one_row (&leaf, "", 1.5);
  leaf_refuses (&leaf, KD_ERROR_VALUE, "field=token.privacy, row=0, value=1.5");
  one_row (&leaf, "", NAN);
  leaf_refuses (&leaf, KD_ERROR_VALUE, "field=token.privacy");
  one_row (&leaf, "noise-scope=all", 0);
  leaf_put (&leaf, "rng.noise", KD_FLOAT32, 1, 2, NAN, 1);
  leaf_refuses (&leaf, KD_ERROR_VALUE, "Value not finite: element=kdswing, field=rng.noise, row=0, column=0, value=nan");
  one_row (&leaf, "tau-min=5 tau-max=4", 0);
  leaf_refuses (&leaf, KD_ERROR_RANGE, "tau-min=5, tau-max=4");
  one_row (&leaf, "", 0);
  kd_batch_remove (leaf.batch, "token.privacy"); /* never taken as 0 */
  leaf_refuses (&leaf, KD_ERROR_FIELD, "token.privacy");
  one_row (&leaf, "", NAN); /* a row that does not count may hold anything */
  leaf_put (&leaf, "mask", KD_UINT8, 1, 0, 0);
  leaf_run_ok (&leaf);
  leaf_expect (&leaf, "loss", 0, 0);
}
GST_END_TEST

KD_TESTS (kdswing, test_temperature, test_noise, test_released, test_refusals)
