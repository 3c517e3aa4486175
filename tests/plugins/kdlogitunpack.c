#include "kd-leaf.h"

static void
put_bytes (Leaf *leaf, const gchar *name, gint64 n, const guint8 *bytes)
{
  gint64 dims[2] = { 1, n };
  KdTensor *tensor = kd_tensor_new (KD_UINT8, 2, dims);

  memcpy (tensor->data, bytes, (gsize) n);
  kd_batch_set (leaf->batch, name, tensor);
}

/* d = 5 takes 3 bits: 100 001 010 is 0x85 0x00. -1, then differences -0.5 and -0.25 */
GST_START_TEST (test_exact)
{
  static const guint8 ids[] = { 0x85, 0x00 }, values[] = { 0, 0xbc, 0, 0xb8, 0, 0xb4 };
  g_auto (Leaf) leaf = { 0 };

  leaf_open (&leaf, "kdlogitunpack", "d=5 k=3 exact-k=3 exact-dtype=float16 polynomial-terms=", 1);
  put_bytes (&leaf, "teacher.packed.ids", 2, ids);
  put_bytes (&leaf, "teacher.packed.logprobs", 6, values);
  leaf_run_ok (&leaf);
  leaf_expect (&leaf, "teacher.topk.ids", 0, 4);
  leaf_expect (&leaf, "teacher.topk.ids", 1, 1);
  leaf_expect (&leaf, "teacher.topk.ids", 2, 2);
  leaf_expect (&leaf, "teacher.topk.logprobs", 0, -1);
  leaf_expect (&leaf, "teacher.topk.logprobs", 1, -1.5);
  leaf_expect (&leaf, "teacher.topk.logprobs", 2, -1.75);
  ck_assert (!kd_batch_peek (leaf.batch, "teacher.packed.ids"));
}
GST_END_TEST

/* One exact value -1 (bfloat16), the curve -2 - t with t = 0, 1/2, 1, residuals of 2 bits: codes 3, 0 with scale 1/4, then of 1 bit: code 1 with
 * scale 1/8; -2 + 1/4, -2.5 - 1/2, -3 + 1/8 */
GST_START_TEST (test_curve_and_residuals)
{
  static const guint8 ids[] = { 0x1b }, values[] = { 0x80, 0xbf, 0, 0xc0, 0, 0xbc, 0, 0x34, 0xc0, 0, 0x30, 0x80 };
  g_auto (Leaf) leaf = { 0 };

  leaf_open (&leaf, "kdlogitunpack", "d=4 k=4 exact-k=1 exact-dtype=bfloat16 polynomial_terms=[0,1] term_dtype=float16 delta-encoding=false normalize-t=true", 1);
  ck_assert (kd_param_set_string (kd_param_find (leaf.desc->params, "residual_bins"), leaf.params, "[{\"scale_dtype\": \"float16\", \"element_bits\": 2, \"num_elements\": 2}, {\"scale_dtype\": \"float16\", \"element_bits\": 1, \"num_elements\": 1}]", "", NULL));
  put_bytes (&leaf, "teacher.packed.ids", 1, ids);
  put_bytes (&leaf, "teacher.packed.logprobs", 12, values);
  leaf_run_ok (&leaf);
  for (gsize i = 0; i < 4; i++)
    leaf_expect (&leaf, "teacher.topk.ids", i, i);
  leaf_expect (&leaf, "teacher.topk.logprobs", 0, -1);
  leaf_expect (&leaf, "teacher.topk.logprobs", 1, -1.75);
  leaf_expect (&leaf, "teacher.topk.logprobs", 2, -3);
  leaf_expect (&leaf, "teacher.topk.logprobs", 3, -2.875);
}
GST_END_TEST

/* Exact 1/2, the other two come out as 1/2 each: they share what is left. A row of zeros has no ids. */
GST_START_TEST (test_limit_and_empty)
{
  static const guint8 ids[] = { 0x18 }, values[] = { 0x8c, 0xb9, 0x8c, 0xb9 }, none[] = { 0 };
  g_auto (Leaf) leaf = { 0 };

  leaf_open (&leaf, "kdlogitunpack", "d=4 k=3 exact-k=1 exact-dtype=float16 polynomial-terms=0 term-dtype=float16 delta-encoding=false", 1);
  put_bytes (&leaf, "teacher.packed.ids", 1, ids);
  put_bytes (&leaf, "teacher.packed.logprobs", 4, values);
  leaf_run_ok (&leaf);
  kd_assert_close (leaf_get (&leaf, "teacher.topk.logprobs", 0), log (0.5), 1e-3);
  kd_assert_close (leaf_get (&leaf, "teacher.topk.logprobs", 2), log (0.25), 1e-3);
  put_bytes (&leaf, "teacher.packed.ids", 1, none);
  put_bytes (&leaf, "teacher.packed.logprobs", 4, values);
  leaf_run_ok (&leaf);
  leaf_expect (&leaf, "teacher.topk.ids", 2, -1);
  leaf_expect (&leaf, "teacher.topk.logprobs", 2, 0);
}
GST_END_TEST

GST_START_TEST (test_refusals)
{
  static const guint8 ids[] = { 0xe0 }, nan[] = { 0, 0x7e };
  g_auto (Leaf) leaf = { 0 };

  leaf_open (&leaf, "kdlogitunpack", "d=5 k=1 exact-k=1 exact-dtype=float16", 1);
  put_bytes (&leaf, "teacher.packed.ids", 1, ids);
  put_bytes (&leaf, "teacher.packed.logprobs", 1, ids);
  leaf_refuses (&leaf, KD_ERROR_SHAPE, "teacher.packed.logprobs=1 wanted=14");
  leaf_open (&leaf, "kdlogitunpack", "d=5 k=1 exact-k=1 exact-dtype=float16 polynomial-terms=", 1);
  put_bytes (&leaf, "teacher.packed.ids", 1, ids);
  put_bytes (&leaf, "teacher.packed.logprobs", 2, nan);
  leaf_refuses (&leaf, KD_ERROR_RANGE, "field=teacher.packed.ids, row=0, id=7, d=5");
  put_bytes (&leaf, "teacher.packed.ids", 1, nan);
  leaf_refuses (&leaf, KD_ERROR_VALUE, "field=teacher.packed.logprobs, row=0");
}
GST_END_TEST

GST_START_TEST (test_properties)
{
  static const gchar *const bad[][2] = {
    { "k=2 exact-k=2", "property=d" },
    { "d=4 k=5 exact-k=2", "k is larger than d" },
    { "d=9 k=2 exact-k=3", "exact-k is larger than k" },
    { "d=9 k=3 exact-k=2 polynomial-terms=", "neither" },
    { "d=9 k=3 exact-k=2 polynomial-terms=0,cube", "value=\"cube\"" },
    { "d=9 k=3 exact-k=2 polynomial-terms=-1", "polynomial-terms" },
    { "d=9 k=3 exact-k=2 residual-bins=5", "residual-bins" },
    { "d=9 k=3 exact-k=2 residual-bins=[1]", "residual-bins" },
    { "d=9 k=3 exact-k=2 residual-bins=[{\"scale_dtype\":\"int8\",\"element_bits\":2,\"num_elements\":1}]", "residual-bins" },
    { "d=9 k=3 exact-k=2 residual-bins=[{\"scale_dtype\":\"float16\",\"element_bits\":0,\"num_elements\":1}]", "residual-bins" },
    { "d=9 k=3 exact-k=2 residual-bins=[{\"scale_dtype\":\"float16\",\"element_bits\":2,\"num_elements\":2}]", "more elements than k - exact-k" },
    { "d=9 k=3 exact-k=2 residual-bins=[{\"scale_dtype\":\"float16\",\"element_bits\":2,\"num_elements\":1}][]", "residual-bins" },
  };

  for (guint i = 0; i < G_N_ELEMENTS (bad); i++) {
    g_auto (Leaf) leaf = { 0 };
    g_autoptr (GError) error = NULL;
    leaf_open (&leaf, "kdlogitunpack", bad[i][0], 1);
    ck_assert_msg (!leaf_run (&leaf, &error), "%s", bad[i][0]);
    ck_assert_msg (strstr (error->message, bad[i][1]) && strstr (error->message, "kdlogitunpack"), "%s: %s", bad[i][0], error->message);
  }
}
GST_END_TEST

/* Any bytes are either refused or give ids of the vocabulary and finite numbers that sum to at most about 1. */
GST_START_TEST (test_any_bytes)
{
  static const gchar *const formats[][2] = {
    { "d=1000 k=8 exact-k=3", NULL },
    { "d=16 k=8 exact-k=0 polynomial-terms=exp,sqrt term-dtype=bfloat16", "[{\"scale_dtype\": \"float64\", \"element_bits\": 13, \"num_elements\": 5}]" },
    { "d=3 k=2 exact-k=1 exact-dtype=float64 normalize-t=true", "[{\"scale_dtype\": \"bfloat16\", \"element_bits\": 32, \"num_elements\": 1}]" },
  };
  static const gsize sizes[][2] = { { 10, 24 }, { 4, 4 + 8 + 9 }, { 1, 8 + 12 + 2 + 4 } };
  guint n_taken = 0;
  KdRandom random;

  kd_random_init (&random, 9, 8, 7, 6);
  for (guint i = 0; i < 3000; i++) {
    guint which = i % G_N_ELEMENTS (formats), k = which == 2 ? 2 : 8;
    guint8 bytes[64];
    g_auto (Leaf) leaf = { 0 };
    g_autoptr (GError) error = NULL;
    gdouble sum = 0;
    leaf_open (&leaf, "kdlogitunpack", formats[which][0], 1);
    if (formats[which][1])
      ck_assert (kd_param_set_string (kd_param_find (leaf.desc->params, "residual-bins"), leaf.params, formats[which][1], "", NULL));
    for (guint j = 0; j < sizeof bytes; j++)
      bytes[j] = (guint8) kd_random_below (&random, i % 2 ? 256 : 4);
    put_bytes (&leaf, "teacher.packed.ids", (gint64) sizes[which][0], bytes);
    put_bytes (&leaf, "teacher.packed.logprobs", (gint64) sizes[which][1], bytes + 16);
    if (!leaf_run (&leaf, &error)) {
      ck_assert (g_error_matches (error, KD_ERROR, KD_ERROR_RANGE) || g_error_matches (error, KD_ERROR, KD_ERROR_VALUE));
      continue;
    }
    n_taken++;
    for (guint j = 0; j < k; j++) {
      gdouble id = leaf_get (&leaf, "teacher.topk.ids", j);
      ck_assert (id >= -1 && id < 1000 && isfinite (leaf_get (&leaf, "teacher.topk.logprobs", j)));
      sum += id < 0 ? 0 : exp (leaf_get (&leaf, "teacher.topk.logprobs", j));
    }
    ck_assert (sum <= 1.001 || which == 0 || which == 2); /* exact values are taken as they are */
  }
  ck_assert_uint_gt (n_taken, 100);
}
GST_END_TEST

KD_TESTS (kdlogitunpack, test_any_bytes, test_exact, test_curve_and_residuals, test_limit_and_empty, test_refusals, test_properties)
