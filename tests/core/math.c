/* Softmax, squared distance, standardised logits, exponential and logarithm against plain definitions in double. */
#include "math-table.h"

GST_START_TEST (test_half_values)
{
  /* every binary16 number through the kernel that loads it: the softmax of one column is 1, its normaliser the number itself */
  for (guint bits = 0; bits < 65536; bits++) {
    guint16 half = (guint16) bits;
    gdouble got = 0, want = kd_half_to_float (half);
    kd_softmax_rows (&(KdSoftmax) { .n = 1, .size = 1, .logits = &half, .type = KD_REAL_F16, .temperature = 1, .lse = &got });
    if (isfinite (want))
      ck_assert_msg (got == want, "half %04x is %g, not %g", bits, got, want);
    else
      ck_assert (isnan (got));
  }
}
GST_END_TEST

GST_START_TEST (test_squared)
{
  for (guint i = 0; i < G_N_ELEMENTS (sizes); i++)
    for (gint center = 0; center < 2; center++) {
      g_auto (Table) t = { 0 };
      g_autofree gdouble *grad = g_new (gdouble, sizes[i]);
      table_init (&t, 3, sizes[i], 3);
      kd_squared_rows (&(KdSquared) { .n = t.n, .size = t.size, .student = t.s, .teacher = t.half, .teacher_type = KD_REAL_F16, .center = center, .coef = t.coef, .scale = 2, .grad = t.grad, .value = t.value });
      for (gint64 r = 0; r < t.n; r++) {
        gdouble mean = 0, value = 0;
        if (t.coef[r] == 0)
          continue;
        for (gint64 j = r * t.size; center && j < (r + 1) * t.size; j++)
          mean += (t.s[j] - t.t[j]) / (gdouble) t.size;
        for (gint64 j = 0; j < t.size; j++) {
          gdouble d = (gdouble) t.s[r * t.size + j] - t.t[r * t.size + j] - mean;
          value += d * d;
          grad[j] = 2 * 2 * t.coef[r] * d;
        }
        if (t.size > 1 || !center)
          assert_rows (&t, r, value, grad, 1e-6, "squared");
      }
    }
}
GST_END_TEST

GST_START_TEST (test_softmax)
{
  for (guint i = 0; i < G_N_ELEMENTS (sizes); i++)
    for (gint level = 1; level <= kd_cpu_level (); level++) {
      g_auto (Table) t = { 0 };
      gdouble got[3] = { 0 }, max[3], entropy[3] = { 0 };
      gint64 best[3];
      table_init (&t, 3, sizes[i], 5);
      kd_softmax_rows (&(KdSoftmax) { .n = 3, .size = t.size, .logits = t.s, .type = KD_REAL_F32, .coef = t.coef, .temperature = 2, .probability = t.grad, .lse = got, .max = max, .argmax = best, .entropy = entropy, .level = level });
      ck_assert (entropy[1] == 0);
      for (gint64 r = 0; r < 3; r += 2) {
        const gfloat *s = t.s + r * t.size;
        gdouble want = lse (s, t.size, 2), sum = 0;
        kd_assert_close (got[r], want, 1e-6);
        kd_assert_close (max[r], exp (s[best[r]] / 2 - want), 1e-6);
        for (gint64 j = 0; j < t.size; j++) {
          ck_assert (s[j] <= s[best[r]]);
          kd_assert_close (t.grad[r * t.size + j], exp (s[j] / 2 - want), 1e-6);
          sum += exp (s[j] / 2 - want) * (want - s[j] / 2);
        }
        kd_assert_close (entropy[r], sum, 1e-6);
      }
    }
}
GST_END_TEST

GST_START_TEST (test_softmax_extremes)
{
  const gfloat rows[3][3] = { { -INFINITY, 2, 2 }, { -INFINITY, -INFINITY, -INFINITY }, { 0, NAN, 0 } }, sure[3] = { 40, 0, 0 };
  gdouble got[3], max[3], entropy[3];
  gint64 best[3];

  kd_softmax_rows (&(KdSoftmax) { .n = 3, .size = 3, .logits = rows, .type = KD_REAL_F32, .temperature = 1, .lse = got, .max = max, .argmax = best, .entropy = entropy });
  kd_assert_close (entropy[0], log (2), 1e-12);
  ck_assert (isnan (entropy[1]) && isnan (entropy[2]));
  kd_softmax_rows (&(KdSoftmax) { .n = 1, .size = 3, .logits = sure, .type = KD_REAL_F32, .temperature = 1, .entropy = entropy });
  kd_assert_close (entropy[0] / (82 * exp (-40)), 1, 1e-6); /* though its softmax is 1 to the last digit */
  kd_assert_close (got[0], 2 + log (2), 1e-12);
  kd_assert_close (max[0], 0.5, 1e-12);
  ck_assert_int_eq (best[0], 1); /* the lowest of equals */
  ck_assert (isnan (got[1]) && isnan (got[2]) && isnan (max[2]));
}
GST_END_TEST

GST_START_TEST (test_standardize)
{
  const gint64 size = 6;
  gfloat x[6] = { 1, -2, 0.5f, 3, 0, 4 }, up[6] = { 0.3f, -1, 0.2f, 0.7f, -0.4f, 0.1f }, out[6], high[6], low[6], grad[6] = { 0 };
  const gfloat flat[6] = { 2, 2, 2, 2, 2, 2 };
  gdouble coef = 1, sigma, mean = 0, variance = 0;

  kd_standardize_rows (1, size, x, KD_REAL_F32, &coef, out, &sigma);
  for (gint i = 0; i < 6; i++)
    mean += out[i] / 6.0;
  for (gint i = 0; i < 6; i++)
    variance += (out[i] - mean) * (out[i] - mean) / 5.0;
  kd_assert_close (mean, 0, 1e-6);
  kd_assert_close (variance, 1, 1e-6);
  kd_standardize_backward_rows (1, size, x, &coef, up, grad);
  for (gint i = 0; i < 6; i++) { /* central differences of sum up . out */
    gfloat keep = x[i];
    gdouble difference = 0;
    x[i] = keep + 0.01f;
    kd_standardize_rows (1, size, x, KD_REAL_F32, &coef, high, NULL);
    x[i] = keep - 0.01f;
    kd_standardize_rows (1, size, x, KD_REAL_F32, &coef, low, NULL);
    x[i] = keep;
    for (gint j = 0; j < 6; j++)
      difference += up[j] * ((gdouble) high[j] - low[j]) / 0.02;
    kd_assert_close (grad[i], difference, 1e-4);
  }
  memset (grad, 0, sizeof grad);
  kd_standardize_rows (1, size, flat, KD_REAL_F32, &coef, out, &sigma);
  kd_standardize_backward_rows (1, size, flat, &coef, up, grad);
  ck_assert (sigma == 0 && out[3] == 0 && grad[3] == 0);
}
GST_END_TEST

static gint64
ulps (gfloat a, gdouble exact)
{
  gfloat b = (gfloat) exact;
  gint32 x, y;

  memcpy (&x, &a, sizeof x);
  memcpy (&y, &b, sizeof y);
  return ABS ((gint64) x - y);
}

GST_START_TEST (test_exp_and_log)
{
  enum { COUNT = 1 << 16 };
  g_autofree gfloat *in = g_new (gfloat, COUNT), *out = g_new (gfloat, COUNT);
  gint64 worst = 0;

  for (gint i = 0; i < COUNT; i++)
    in[i] = -87.3f + 175.3f * (gfloat) i / COUNT;
  kd_vec_exp (COUNT, in, out);
  for (gint i = 0; i < COUNT; i++)
    worst = MAX (worst, ulps (out[i], exp (in[i])));
  ck_assert_int_le (worst, 2);
  for (gint i = 0, bits; i < COUNT; i++) {
    bits = 0x00800000 + (gint) ((gint64) 0x7f000000 * i / COUNT);
    memcpy (&in[i], &bits, sizeof bits);
  }
  kd_vec_log (COUNT, in, out);
  worst = 0;
  for (gint i = 0; i < COUNT; i++)
    worst = MAX (worst, fabsf (out[i]) > 1e-3f ? ulps (out[i], log (in[i])) : 0);
  ck_assert_int_le (worst, 2);
  in[0] = -88;
  in[1] = -1e30f;
  in[2] = 0;
  in[3] = -INFINITY;
  kd_vec_exp (4, in, out);
  ck_assert (out[0] == 0 && out[1] == 0 && out[2] == 1 && out[3] == 0);
  in[0] = 1;
  kd_vec_log (1, in, out);
  ck_assert (out[0] == 0);
}
GST_END_TEST

GST_START_TEST (test_rows_sum)
{
  const gdouble coef[4] = { 1, 0, 1, 1 }, value[4] = { 1e16, NAN, 1, -1e16 }, bad[1] = { INFINITY };

  ck_assert (kd_rows_sum (4, coef, value) == 1); /* exact where a plain sum gives 0; the row that does not count is not read */
  ck_assert (isinf (kd_rows_sum (1, NULL, bad)));
  ck_assert (kd_rows_sum (0, NULL, NULL) == 0);
}
GST_END_TEST

static Suite *
math_suite (void)
{
  Suite *s = suite_create ("math");
  TCase *t = tcase_create ("all");

  suite_add_tcase (s, t);
  tcase_add_test (t, test_half_values);
  tcase_add_test (t, test_squared);
  tcase_add_test (t, test_softmax);
  tcase_add_test (t, test_softmax_extremes);
  tcase_add_test (t, test_standardize);
  tcase_add_test (t, test_exp_and_log);
  tcase_add_test (t, test_rows_sum);
  return s;
}

GST_CHECK_MAIN (math)
