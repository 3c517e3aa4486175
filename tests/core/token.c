/* Kernels of token losses against their definitions in double: all levels and teacher types, extreme logits, threads. */
#include "math-table.h"
#include "kd-leaf.h"

static void
softmax (const gfloat *x, gint64 n, gdouble temperature, gdouble *ret_log)
{
  gdouble z = lse (x, n, temperature);

  for (gint64 i = 0; i < n; i++)
    ret_log[i] = x[i] / temperature - z;
}

/* Value and gradient of a row of kd_interpolated_rows, as written. */
static gdouble
define_interpolated (const Table *t, gint64 r, gdouble share, gboolean cross_entropy, gdouble *grad)
{
  const gfloat *s = t->s + r * t->size, *teacher = t->t + r * t->size;
  g_autofree gdouble *q = g_new (gdouble, t->size), *u = g_new (gdouble, t->size);
  gdouble max = -INFINITY, z = 0, value = 0;

  softmax (s, t->size, 1, q);
  for (gint64 i = 0; i < t->size; i++) {
    u[i] = (1 - share) * s[i] + share * teacher[i];
    max = MAX (max, u[i]);
  }
  for (gint64 i = 0; i < t->size; i++)
    z += exp (u[i] - max);
  for (gint64 i = 0; i < t->size; i++) {
    gdouble l = u[i] - max - log (z);
    value += exp (l) * ((cross_entropy ? 0 : l) - q[i]);
    grad[i] = 3 * t->coef[r] * (exp (q[i]) - exp (l));
  }
  return value;
}

static void
check_interpolated (gint64 size, gdouble width, gdouble share, gint type, gint level)
{
  g_auto (Table) t = { 0 };
  g_autofree gdouble *grad = g_new (gdouble, size);
  const KdReal types[] = { KD_REAL_F32, KD_REAL_F16, KD_REAL_BF16 };

  table_init (&t, 3, size, width);
  for (gint ce = 0; ce < 2; ce++) {
    memset (t.grad, 0, (gsize) (3 * size) * sizeof *t.grad);
    kd_interpolated_rows (&(KdInterpolated) { .n = 3, .size = size, .student = t.s, .teacher = type == 0 ? (void *) t.t : type == 1 ? (void *) t.half
                                                                                                                                    : t.brain,
        .teacher_type = types[type],
        .coef = t.coef,
        .share = share,
        .cross_entropy = ce,
        .scale = 3,
        .grad = t.grad,
        .value = t.value,
        .level = level });
    ck_assert (t.value[1] == 0 && t.grad[size] == 0);
    for (gint64 r = 0; r < 3; r += 2)
      assert_rows (&t, r, define_interpolated (&t, r, share, ce, grad), grad, 2e-5, "interpolated");
    for (gint64 i = 0; share == 0 && i < size; i++)
      ck_assert (t.grad[i] == 0);
  }
}

GST_START_TEST (test_interpolated)
{
  for (guint i = 0; i < G_N_ELEMENTS (sizes); i++)
    for (gint level = 1; level <= 4; level++)
      for (gint type = 0; type < 3; type++) {
        check_interpolated (sizes[i], 2, 0.3, type, level);
        check_interpolated (sizes[i], 300, 0.7, type, level);
        check_interpolated (sizes[i], 2, 0, type, level);
        check_interpolated (sizes[i], 2, 1, type, level);
      }
}
GST_END_TEST

/* An id infinite in either table is none; the others are what they are without it. NaN and +infinity make the value NaN. */
GST_START_TEST (test_interpolated_infinite)
{
  const gfloat s[] = { 1, 2, 9, -INFINITY, 1, 2, 1, NAN, 1e30f, -1e30f, 0, 0 }, t[] = { 0, 1, -INFINITY, 3, 5, INFINITY, 1, 1, -1e30f, 1e30f, 0, 0 };
  const gdouble coef[] = { 1, 1, 1 };
  gfloat grad[12] = { 0 };
  gdouble value[3];
  const gdouble p0 = 1 / (1 + exp (1)), z = exp (1) + exp (2) + exp (9);

  kd_interpolated_rows (&(KdInterpolated) { .n = 3, .size = 4, .student = s, .teacher = t, .teacher_type = KD_REAL_F32, .coef = coef, .share = 0.5, .cross_entropy = 1, .scale = 1, .grad = grad, .value = value });
  kd_assert_close (value[0], -p0 * (1 - log (z)) - (1 - p0) * (2 - log (z)), 1e-9);
  kd_assert_close (grad[0], exp (1) / z - p0, 1e-6);
  ck_assert (grad[2] == 0 && grad[3] == 0);
  ck_assert (isnan (value[1]));
  kd_assert_close (value[2] / 1e30, 1, 1e-6); /* u = 0 everywhere; the distances from the largest are 0, 2e30, 1e30, 1e30 */
  kd_assert_close (grad[8], 0.75, 1e-6);
}
GST_END_TEST

static void
check_tempered (guint kind, gint64 size, gdouble beta)
{
  g_auto (Table) t = { 0 };
  g_auto (Table) one = { 0 };
  const gdouble temperature[5] = { 0.5, NAN, 1, 1.7, 3 };

  table_init (&t, 5, size, 2);
  table_init (&one, 5, size, 2);
  KdDivergence call = { .kind = kind, .n = 5, .size = size, .student = t.s, .teacher = t.t, .teacher_type = KD_REAL_F32, .coef = t.coef, .scale = 2, .beta = beta, .alpha = 0.2, .grad = t.grad, .value = t.value };
  kd_divergence_tempered_rows (&call, temperature, 1);
  ck_assert (t.value[1] == 0 && t.grad[size] == 0);
  for (gint64 r = 0; r < 5; r += r ? 1 : 2) {
    g_autofree gdouble *grad = g_new (gdouble, size);
    KdDivergence plain = call;
    plain.temperature = temperature[r];
    plain.scale = 2 * temperature[r] * temperature[r];
    plain.grad = one.grad;
    plain.value = one.value;
    memset (one.grad, 0, (gsize) (5 * size) * sizeof *one.grad);
    kd_divergence_rows (&plain);
    for (gint64 i = 0; i < size; i++)
      grad[i] = one.grad[r * size + i];
    assert_rows (&t, r, one.value[r], grad, size > 64 ? 1e-12 : 1e-5, "tempered");
  }
}

GST_START_TEST (test_tempered)
{
  for (guint kind = KD_DIVERGENCE_FORWARD_KL; kind <= KD_DIVERGENCE_ADAPTIVE_KL; kind++)
    for (gint size = 2; size <= 700; size += 349)
      for (gint beta = 0; beta < 3; beta++)
        check_tempered (kind, size, 0.5 * beta);
}
GST_END_TEST

GST_START_TEST (test_hellinger)
{
  for (guint i = 0; i < G_N_ELEMENTS (sizes); i++)
    for (gint level = 1; level <= 4; level++) {
      g_auto (Table) t = { 0 };
      gint64 n = sizes[i];
      g_autofree gdouble *q = g_new (gdouble, n), *p = g_new (gdouble, n);
      table_init (&t, 3, n, level == 2 ? 100 : 2);
      for (gint type = 0; type < 3; type++) {
        kd_hellinger_rows (3, n, t.s, type == 0 ? (void *) t.t : type == 1 ? (void *) t.half
                                                                           : t.brain,
            type == 0 ? KD_REAL_F32 : type == 1 ? KD_REAL_F16
                                                : KD_REAL_BF16,
            t.coef, t.value, level);
        ck_assert (t.value[1] == 0);
        for (gint64 r = 0; r < 3; r += 2) {
          gdouble sum = 0;
          softmax (t.s + r * n, n, 1, q);
          softmax (t.t + r * n, n, 1, p);
          for (gint64 j = 0; j < n; j++)
            sum += pow (exp (q[j] / 2) - exp (p[j] / 2), 2);
          kd_assert_close (t.value[r], sqrt (sum / 2), 2e-6);
        }
      }
      kd_hellinger_rows (1, n, t.s, t.s, KD_REAL_F32, t.coef, t.value, level);
      ck_assert (t.value[0] == 0); /* exactly */
    }
}
GST_END_TEST

GST_START_TEST (test_hellinger_limits)
{
  const gfloat s[] = { 0, 0, -INFINITY, 1e30f, 0, 0, 0, NAN, 0 }, t[] = { 0, -INFINITY, 0, 0, 1e30f, 0, 0, 0, 0 };
  const gdouble coef[] = { 1, 1, 1 };
  gdouble value[3];

  kd_hellinger_rows (3, 3, s, t, KD_REAL_F32, coef, value, 0);
  kd_assert_close (value[0], 0, 1e-6);
  kd_assert_close (value[1], 1, 1e-9);
  ck_assert (isnan (value[2]));
}
GST_END_TEST

GST_START_TEST (test_softmax_back)
{
  for (guint i = 0; i < G_N_ELEMENTS (sizes); i++)
    for (gint level = 1; level <= 4; level++) {
      g_auto (Table) t = { 0 };
      gint64 n = sizes[i];
      g_autofree gdouble *l = g_new (gdouble, n);
      const gdouble constant[] = { 0.7, 0, -2 }, slope[] = { -1.5, 0, 0.1 };
      table_init (&t, 3, n, level == 2 ? 100 : 2);
      t.s[0] = n > 1 ? -INFINITY : 0;
      kd_softmax_back_rows (3, n, t.s, 1.7, constant, slope, t.grad, level);
      for (gint64 r = 0; r < 3; r += 2) {
        softmax (t.s + r * n, n, 1.7, l);
        for (gint64 j = 0; j < n; j++)
          kd_assert_close (t.grad[r * n + j], l[j] < -200 ? 0 : exp (l[j]) * (constant[r] + slope[r] * l[j]), 2e-6);
      }
      for (gint64 j = 0; j < n; j++) /* not touched: NaN lies there */
        ck_assert (t.grad[n + j] == 0);
    }
}
GST_END_TEST

/* The entropy's gradient of a row that is sure to nine digits is not what rounding leaves of it. */
GST_START_TEST (test_softmax_back_of_sure_row)
{
  const gfloat z[] = { 21, 0, 0 };
  const gdouble q = exp (-21) / (1 + 2 * exp (-21)), h = 2 * q * (21 + log1p (2 * exp (-21))) + log1p (2 * exp (-21)) * (1 - 2 * q);
  gfloat grad[3] = { 0 };

  kd_softmax_back_rows (1, 3, z, 1, (const gdouble[]) { -h }, (const gdouble[]) { -1 }, grad, 0);
  kd_assert_close (grad[0] / (2 * q * (21 - h)), -1, 1e-4);
}
GST_END_TEST

KD_TESTS (token, test_interpolated, test_interpolated_infinite, test_tempered, test_hellinger, test_hellinger_limits, test_softmax_back, test_softmax_back_of_sure_row)
