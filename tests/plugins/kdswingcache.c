#include "kd-leaf.h"

static void
one_row (Leaf *leaf, const gchar *properties, gdouble privacy)
{
  leaf_open (leaf, "kdswingcache", properties, 1);
  leaf_put (leaf, "sample.id", KD_INT64, 1, 0, 7);
  leaf_put (leaf, "teacher.logits", KD_FLOAT32, 1, 2, 4 * log (3), 0);
  leaf_put (leaf, "token.privacy", KD_FLOAT32, 1, 0, privacy);
}

/* tau = 2 + 2 x 1 = 4: (3/4, 1/4); b = 2 / 10: the draws -0.5 and 1 make (0.65, 0.45). The logits are gone. */
GST_START_TEST (test_row)
{
  g_auto (Leaf) leaf = { 0 };

  one_row (&leaf, "tau-max=4", 1);
  leaf_put (&leaf, "rng.noise", KD_FLOAT32, 1, 2, -0.5, 1);
  leaf_run_ok (&leaf);
  leaf_expect (&leaf, "teacher.probs", 0, 0.65 / 1.1);
  leaf_expect (&leaf, "teacher.probs", 1, 0.45 / 1.1);
  leaf_expect (&leaf, "teacher.temperature", 0, 4);
  ck_assert (kd_batch_peek (leaf.batch, "teacher.logits") == NULL);
  one_row (&leaf, "tau-min=4 tau-max=8 noise-scope=private", 0); /* public: exact */
  leaf_run_ok (&leaf);
  leaf_expect (&leaf, "teacher.probs", 0, 0.75);
}
GST_END_TEST

/* A student that reads the cache learns what one beside the live teacher learns, from the elements' own draws. */
GST_START_TEST (test_as_live)
{
  g_auto (Leaf) leaf = { 0 }, live = { 0 }, released = { 0 };

  one_row (&leaf, "epsilon=20 seed=3", 0.9);
  leaf_run_ok (&leaf);
  leaf_open (&live, "kdswing", "epsilon=20 seed=3", 1);
  leaf_put (&live, "sample.id", KD_INT64, 1, 0, 7);
  leaf_put (&live, "student.logits", KD_FLOAT32, 1, 2, 1, -1);
  leaf_put (&live, "teacher.logits", KD_FLOAT32, 1, 2, 4 * log (3), 0);
  leaf_put (&live, "token.privacy", KD_FLOAT32, 1, 0, 0.9);
  leaf_run_ok (&live);
  leaf_open (&released, "kdswing", "", 1);
  leaf_put (&released, "student.logits", KD_FLOAT32, 1, 2, 1, -1);
  leaf_put (&released, "teacher.probs", KD_FLOAT32, 1, 2, leaf_get (&leaf, "teacher.probs", 0), leaf_get (&leaf, "teacher.probs", 1));
  leaf_put (&released, "teacher.temperature", KD_FLOAT32, 1, 0, leaf_get (&leaf, "teacher.temperature", 0));
  leaf_run_ok (&released);
  ck_assert (leaf_get (&leaf, "teacher.probs", 0) != 1 / (1 + exp (-4 * log (3) / 18.2)));
  leaf_expect (&released, "loss", 0, leaf_get (&live, "loss", 0));
  leaf_expect (&released, "grad.student.logits", 0, leaf_get (&live, "grad.student.logits", 0));
}
GST_END_TEST

GST_START_TEST (test_refusals)
{
  g_auto (Leaf) leaf = { 0 };

  one_row (&leaf, "", 1.5);
  leaf_refuses (&leaf, KD_ERROR_VALUE, "Not a privacy: element=kdswingcache, field=token.privacy, row=0, value=1.5, wanted=0 to 1");
  one_row (&leaf, "", 1); /* noise must not hide it */
  leaf_put (&leaf, "teacher.logits", KD_FLOAT32, 1, 2, NAN, 0);
  leaf_refuses (&leaf, KD_ERROR_VALUE, "Logits not finite: element=kdswingcache, field=teacher.logits, row=0");
  leaf_put (&leaf, "mask", KD_UINT8, 1, 0, 0);
  leaf_run_ok (&leaf);
  leaf_expect (&leaf, "teacher.probs", 0, 0);
  leaf_expect (&leaf, "teacher.temperature", 0, 0);
  one_row (&leaf, "", 1);
  leaf_put (&leaf, "rng.noise", KD_FLOAT32, 1, 2, INFINITY, 1);
  leaf_refuses (&leaf, KD_ERROR_VALUE, "Value not finite: element=kdswingcache, field=rng.noise, row=0, column=0");
  one_row (&leaf, "tau-min=5 tau-max=4", 0);
  leaf_refuses (&leaf, KD_ERROR_RANGE, "element=kdswingcache, tau-min=5, tau-max=4");
  one_row (&leaf, "", 0);
  kd_batch_remove (leaf.batch, "token.privacy");
  leaf_refuses (&leaf, KD_ERROR_FIELD, "token.privacy");
}
GST_END_TEST

KD_TESTS (kdswingcache, test_row, test_as_live, test_refusals)
