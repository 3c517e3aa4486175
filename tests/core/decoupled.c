/* Decoupled KD against its definition in double: every instruction set, sizes about the block, element types, near, sure and extreme logits. */
#include "kd-leaf.h"
#include "math-table.h"

#define T 2.0
#define ALPHA 0.7
#define BETA 3.0

/* x log (x / y) of logarithms. */
static gdouble
relative (gdouble log_x, gdouble log_y)
{
  return exp (log_x) * (log_x - log_y);
}

/* Log-sum-exp without @skip. */
static gdouble
lse_without (const gfloat *x, gint64 n, gint64 skip)
{
  gdouble max = -INFINITY, z = 0;

  for (gint64 i = 0; i < n; i++)
    max = i == skip ? max : MAX (max, x[i]);
  for (gint64 i = 0; i < n; i++)
    z += i == skip ? 0 : exp ((x[i] - max) / T);
  return max / T + log (z);
}

static void
check_row (Table *t, gint64 r, gboolean cross, const gdouble *target, const gdouble *others, gdouble tolerance)
{
  g_autofree gdouble *grad = g_new (gdouble, t->size);
  const gfloat *s = t->s + r * t->size, *x = t->t + r * t->size;
  gint64 y = t->label[r];
  gdouble s_all = lse (s, t->size, T), t_all = lse (x, t->size, T), s_others = lse_without (s, t->size, y), t_others = lse_without (x, t->size, y);
  gdouble p = exp (s[y] / T - s_all), q = exp (x[y] / T - t_all), tckd, nckd = 0, c = t->coef[r] * 4 / T;

  tckd = relative (x[y] / T - t_all, s[y] / T - s_all) + relative (t_others - t_all, s_others - s_all);
  for (gint64 i = 0; i < t->size; i++) {
    gdouble log_s = s[i] / T - s_others, log_t = x[i] / T - t_others;
    nckd += i == y ? 0 : cross ? -exp (log_t) * log_s
                               : relative (log_t, log_s);
    grad[i] = i == y ? c * ALPHA * (p - q) : c * (BETA * (exp (log_s) - exp (log_t)) - ALPHA * (p - q) * exp (log_s));
  }
  kd_assert_close (target[r], tckd, tolerance * fabs (tckd) + 1e-12);
  t->value[r] = others[r];
  assert_rows (t, r, nckd, grad, tolerance, cross ? "cross-entropy of the others" : "KL of the others");
}

static void
check (Table *t, gconstpointer teacher, KdReal type, gint level, gdouble tolerance)
{
  g_autofree gdouble *target = g_new (gdouble, t->n), *others = g_new (gdouble, t->n);

  for (gint cross = 0; cross <= 1; cross++)
    for (gint fresh = 0; fresh <= 1; fresh++) {
      for (gint64 i = 0; i < t->n * t->size; i++)
        t->grad[i] = fresh ? NAN : 0;
      kd_decoupled_rows (&(KdDecoupled) { .n = t->n, .size = t->size, .student = t->s, .teacher = teacher, .teacher_type = type, .label = t->label, .coef = t->coef, .temperature = T, .scale = 4, .alpha = ALPHA, .beta = BETA, .cross_entropy = cross, .grad = t->grad, .fresh = fresh, .target = target, .others = others, .level = level });
      ck_assert (target[1] == 0 && others[1] == 0);
      for (gint64 i = t->size; i < 2 * t->size; i++)
        ck_assert (t->grad[i] == 0);
      for (gint64 r = 0; r < t->n; r++)
        if (r != 1)
          check_row (t, r, cross, target, others, tolerance);
    }
}

GST_START_TEST (test_definition)
{
  for (guint i = 1; i < G_N_ELEMENTS (sizes); i++)
    for (gint level = 1; level <= kd_cpu_level (); level++) {
      g_auto (Table) t = { 0 };

      table_init (&t, 5, sizes[i], 3);
      t.label[0] = 0;
      t.label[2] = sizes[i] - 1;
      check (&t, t.t, KD_REAL_F32, level, 5e-6);
      check (&t, t.half, KD_REAL_F16, level, 5e-6);
      check (&t, t.brain, KD_REAL_BF16, level, 5e-6);
    }
}
GST_END_TEST

/* Others that are near, a target that is sure of one and unlikely in the other table: no digits are lost. */
GST_START_TEST (test_near_and_sure)
{
  for (guint i = 3; i < G_N_ELEMENTS (sizes); i++)
    for (gint level = 1; level <= kd_cpu_level (); level++) {
      g_auto (Table) t = { 0 };

      table_init (&t, 5, sizes[i], 3);
      for (gint64 j = 0; j < t.n * t.size; j++)
        t.s[j] = t.t[j] + 0.01f * (gfloat) sin ((gdouble) j) + 100;
      for (gint64 r = 0; r < t.n; r++)
        if (r != 1) {
          t.s[r * t.size + t.label[r]] = r % 2 ? 200 : -50;
          t.t[r * t.size + t.label[r]] = r > 2 ? 60 : -60;
        }
      check (&t, t.t, KD_REAL_F32, level, 1e-4);
    }
}
GST_END_TEST

/* A logit that is not finite, in either table: no value, and then no gradient. */
GST_START_TEST (test_infinite)
{
  const gfloat bad[] = { -INFINITY, INFINITY, NAN };
  gdouble target[2], others[2];

  for (guint i = 0; i < G_N_ELEMENTS (sizes); i++)
    for (guint b = 0; b < 2 * G_N_ELEMENTS (bad); b++) {
      g_auto (Table) t = { 0 };
      if (sizes[i] < 7)
        continue;
      table_init (&t, 2, sizes[i], 3);
      t.label[0] = 3;
      (b % 2 ? t.s : t.t)[5] = bad[b / 2];
      kd_decoupled_rows (&(KdDecoupled) { .n = 2, .size = t.size, .student = t.s, .teacher = t.t, .teacher_type = KD_REAL_F32, .label = t.label, .coef = t.coef, .temperature = T, .scale = 1, .alpha = 1, .beta = 1, .grad = t.grad, .target = target, .others = others });
      ck_assert (isnan (target[0]) && isnan (others[0]));
      for (gint64 v = 0; v < t.size; v++)
        ck_assert (t.grad[v] == 0);
    }
}
GST_END_TEST

KD_TESTS (decoupled, test_definition, test_near_and_sure, test_infinite)
