/* Tables of random logits for the kernels' tests, and the comparison of a row with its definition. */
#pragma once
#include "kd-check.h"

typedef struct {
  gint64 n, size;
  gfloat *s, *t, *grad, *soft;
  guint16 *half, *brain;
  gdouble *coef, *value;
  gint64 *label;
} Table;

static void
table_clear (Table *t)
{
  g_free (t->s);
  g_free (t->t);
  g_free (t->grad);
  g_free (t->soft);
  g_free (t->half);
  g_free (t->brain);
  g_free (t->coef);
  g_free (t->value);
  g_free (t->label);
}
G_DEFINE_AUTO_CLEANUP_CLEAR_FUNC (Table, table_clear)

/* Row 1 has coefficient 0 and holds NaN. Teacher values are bfloat16's, so that all three types hold the same numbers. */
static void
table_init (Table *t, gint64 n, gint64 size, gdouble width)
{
  gsize m = (gsize) (n * size);
  KdRandom random;

  *t = (Table) { n, size, g_new (gfloat, m), g_new (gfloat, m), g_new0 (gfloat, m), g_new (gfloat, m), g_new (guint16, m), g_new (guint16, m),
    g_new (gdouble, n), g_new (gdouble, n), g_new (gint64, n) };
  kd_random_init (&random, (guint64) size, 1, 0, (guint64) n);
  for (gint64 r = 0; r < n; r++) {
    gdouble sum = 0;
    for (gint64 i = r * size; i < (r + 1) * size; i++) {
      t->s[i] = (gfloat) (width * kd_random_normal (&random));
      t->t[i] = kd_bfloat_to_float (kd_float_to_bfloat ((gfloat) (width * kd_random_normal (&random))));
      t->half[i] = kd_float_to_half (t->t[i]);
      t->t[i] = kd_half_to_float (t->half[i]);
      t->brain[i] = kd_float_to_bfloat (t->t[i]);
      t->soft[i] = (gfloat) kd_random_uniform (&random);
      sum += t->soft[i];
    }
    for (gint64 i = r * size; i < (r + 1) * size; i++)
      t->soft[i] = (gfloat) (t->soft[i] / sum);
    t->coef[r] = r == 1 ? 0 : 0.5 + kd_random_uniform (&random);
    t->label[r] = r == 1 ? -100 : (gint64) kd_random_below (&random, (guint64) size);
    for (gint64 i = r * size; r == 1 && i < (r + 1) * size; i++)
      t->s[i] = t->t[i] = t->soft[i] = NAN;
  }
}

static inline gdouble
lse (const gfloat *x, gint64 n, gdouble temperature)
{
  gdouble max = -INFINITY, z = 0;

  for (gint64 i = 0; i < n; i++)
    max = MAX (max, x[i]);
  for (gint64 i = 0; i < n; i++)
    z += exp ((x[i] - max) / temperature);
  return max / temperature + log (z);
}

static inline void
assert_rows (const Table *t, gint64 r, gdouble value, const gdouble *grad, gdouble tolerance, const gchar *what)
{
  gdouble scale = 0;

  for (gint64 i = 0; i < t->size; i++)
    scale = MAX (scale, fabs (grad[i]));
  ck_assert_msg (fabs (t->value[r] - value) <= tolerance * fabs (value) + 1e-9, "%s: size %d row %d: value %.9g, not %.9g", what, (gint) t->size,
      (gint) r, t->value[r], value);
  for (gint64 i = 0; i < t->size; i++)
    ck_assert_msg (fabs (t->grad[r * t->size + i] - grad[i]) <= tolerance * scale + 1e-6 * t->coef[r], "%s: size %d row %d: gradient %d is %.9g, not %.9g",
        what, (gint) t->size, (gint) r, (gint) i, t->grad[r * t->size + i], grad[i]);
}

/* about the kernels' block of 512 */
static const gint64 sizes[] = { 1, 2, 7, 16, 100, 511, 512, 513, 3000 };
