#include "kd-leaf.h"

static void
open_pairs (Leaf *leaf, const gchar *properties, gint64 n)
{
  gint64 dims[2] = { n, 2 };
  KdTensor *input = kd_tensor_new (KD_FLOAT32, 2, dims), *label = kd_tensor_new (KD_INT64, 1, dims), *id = kd_tensor_new (KD_INT64, 1, dims);

  leaf_open (leaf, "kdmixup", properties, n);
  for (gint64 i = 0; i < n; i++) {
    ((gfloat *) input->data)[2 * i] = (gfloat) i;
    ((gfloat *) input->data)[2 * i + 1] = -2 * (gfloat) i;
    ((gint64 *) label->data)[i] = i % 3;
    ((gint64 *) id->data)[i] = 100 + i;
  }
  kd_batch_set (leaf->batch, "input", input);
  kd_batch_set (leaf->batch, "label", label);
  kd_batch_set (leaf->batch, "sample.id", id);
}

GST_START_TEST (test_value)
{
  g_auto (Leaf) leaf = { 0 };

  open_pairs (&leaf, "classes=3 source=given", 2);
  leaf_put (&leaf, "mixup.lambda", KD_FLOAT32, 2, 0, 0.25, 1);
  leaf_put (&leaf, "mixup.perm1", KD_INT64, 2, 0, 1, 0);
  leaf_put (&leaf, "mixup.perm2", KD_INT64, 2, 0, 0, 1);
  leaf_run_ok (&leaf);
  leaf_expect (&leaf, "input", 0, 0.25);
  leaf_expect (&leaf, "input", 1, -0.5);
  leaf_expect (&leaf, "input", 2, 0);
  leaf_expect (&leaf, "label.soft", 0, 0.75);
  leaf_expect (&leaf, "label.soft", 1, 0.25);
  leaf_expect (&leaf, "label", 0, 0);
  leaf_expect (&leaf, "sample.id", 0, -1);
  leaf_expect (&leaf, "sample.id", 1, 100);
  leaf_expect (&leaf, "mixup.id1", 0, 101);
  leaf_expect (&leaf, "mixup.id2", 0, 100);
}
GST_END_TEST

/* Every output row is the stated mixture, and the permutations are permutations. */
static guint
check_plan (Leaf *leaf, gint64 n)
{
  guint n_unmixed = 0;
  gdouble sum1 = 0, sum2 = 0;

  for (gsize i = 0; i < (gsize) n; i++) {
    gdouble l = leaf_get (leaf, "mixup.lambda", i), a = leaf_get (leaf, "mixup.perm1", i), b = leaf_get (leaf, "mixup.perm2", i);
    ck_assert (l >= 0 && l <= 1);
    n_unmixed += l == 1;
    sum1 += a * a;
    sum2 += b * b;
    leaf_expect (leaf, "input", 2 * i, l * a + (1 - l) * b);
    leaf_expect (leaf, "label.soft", 3 * i + (gsize) a % 3, l + ((gint) a % 3 == (gint) b % 3 ? 1 - l : 0));
    leaf_expect (leaf, "mixup.id1", i, 100 + a);
  }
  ck_assert (sum1 == (gdouble) ((n - 1) * n * (2 * n - 1) / 6) && sum2 == sum1);
  return n_unmixed;
}

GST_START_TEST (test_draws)
{
  g_auto (Leaf) partial = { 0 }, full = { 0 }, replaced = { 0 }, one = { 0 };

  open_pairs (&partial, "classes=3", 100);
  leaf_run_ok (&partial);
  ck_assert_uint_eq (check_plan (&partial, 100), 90);
  open_pairs (&full, "classes=3 unmixed-fraction=0", 100);
  leaf_run_ok (&full);
  ck_assert_uint_eq (check_plan (&full, 100), 0);
  open_pairs (&replaced, "classes=3 unmixed-draw=with-replacement", 1000);
  leaf_run_ok (&replaced);
  ck_assert (ABS ((gint) check_plan (&replaced, 1000) - 593) < 50); /* 1 - exp (-0.9) of them */
  open_pairs (&one, "classes=3 unmixed-fraction=0 per-sample=false", 20);
  leaf_run_ok (&one);
  check_plan (&one, 20);
  ck_assert (leaf_get (&one, "mixup.lambda", 0) == leaf_get (&one, "mixup.lambda", 19));
}
GST_END_TEST

GST_START_TEST (test_limits)
{
  g_auto (Leaf) leaf = { 0 }, single = { 0 };

  open_pairs (&leaf, "classes=3 bypass=true", 4);
  leaf_run_ok (&leaf);
  leaf_expect (&leaf, "input", 6, 3);
  leaf_expect (&leaf, "sample.id", 3, 103);
  leaf_expect (&leaf, "label.soft", 5, 0);
  leaf_expect (&leaf, "label.soft", 4, 1);
  open_pairs (&single, "classes=3 unmixed-fraction=0", 1); /* mixed with itself */
  leaf_run_ok (&single);
  leaf_expect (&single, "label.soft", 0, 1);
}
GST_END_TEST

GST_START_TEST (test_refusals)
{
  g_auto (Leaf) leaf = { 0 }, unset = { 0 }, given = { 0 }, early = { 0 };

  open_pairs (&unset, "", 2);
  leaf_refuses (&unset, KD_ERROR_RANGE,
      "Property not set: element=kdmixup, property=classes, value=0, wanted=2 or more; set it to the number of classes");
  open_pairs (&leaf, "classes=2", 3);
  leaf_refuses (&leaf, KD_ERROR_RANGE, "row=2, label=2, classes=2");
  kd_batch_remove (leaf.batch, "label");
  leaf_refuses (&leaf, KD_ERROR_FIELD, "label or label.soft");
  open_pairs (&given, "classes=3 source=given", 2);
  leaf_refuses (&given, KD_ERROR_FIELD, "field=mixup.lambda, source=given");
  leaf_put (&given, "mixup.lambda", KD_FLOAT32, 2, 0, 1.5, 1);
  leaf_put (&given, "mixup.perm1", KD_INT64, 2, 0, 2, 0);
  leaf_put (&given, "mixup.perm2", KD_INT64, 2, 0, 0, 1);
  leaf_refuses (&given, KD_ERROR_VALUE, "value=1.5");
  leaf_put (&given, "mixup.lambda", KD_FLOAT32, 2, 0, 0.5, 1);
  leaf_refuses (&given, KD_ERROR_RANGE, "mixup.perm1=2");
  open_pairs (&early, "classes=3", 2);
  leaf_put (&early, "teacher.logits", KD_FLOAT32, 2, 2, 0, 0, 0, 0);
  leaf_refuses (&early, KD_ERROR_FIELD, "teacher.logits is of the unmixed samples");
  leaf_put (&early, "input", KD_INT64, 2, 2, 1, 2, 3, 4);
  leaf_refuses (&early, KD_ERROR_DTYPE, "field=input");
}
GST_END_TEST

KD_TESTS (kdmixup, test_value, test_draws, test_limits, test_refusals)
