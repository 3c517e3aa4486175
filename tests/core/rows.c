/* What the row kernels share: gradients written to new memory instead of added, past the cache when they are large; references that rise
 * along a row. */
#include "math-table.h"

/* Row 1 does not count, row 2 holds NaN in the student. */
typedef struct {
  gint64 n, size;
  gfloat *s, *t;
  gdouble *coef, *value;
  gint64 *label;
} Rows;

static void
rows_clear (Rows *rows)
{
  g_free (rows->s);
  g_free (rows->t);
  g_free (rows->coef);
  g_free (rows->value);
  g_free (rows->label);
}
G_DEFINE_AUTO_CLEANUP_CLEAR_FUNC (Rows, rows_clear)

static void
rows_init (Rows *rows, gint64 n, gint64 size)
{
  *rows = (Rows) { n, size, g_new (gfloat, n * size), g_new (gfloat, n * size), g_new (gdouble, n), g_new (gdouble, n), g_new (gint64, n) };
  for (gint64 i = 0; i < n * size; i++) {
    rows->s[i] = (gfloat) (3 * sin (0.37 * (gdouble) i));
    rows->t[i] = (gfloat) (3 * cos (0.11 * (gdouble) i));
  }
  for (gint64 r = 0; r < n; r++) {
    rows->coef[r] = r == 1 ? 0 : 1 + 0.001 * (gdouble) r;
    rows->label[r] = r % size;
  }
  rows->s[2 * size] = NAN;
}

#define N_KINDS (KD_DIVERGENCE_ADAPTIVE_KL + 2) /* the last is cross-entropy */

static void
evaluate (const Rows *rows, gint kind, gint level, gboolean fresh, gfloat *grad)
{
  if (kind == N_KINDS - 1)
    kd_xent_rows (&(KdXent) { .n = rows->n, .size = rows->size, .logits = rows->s, .label = rows->label, .coef = rows->coef, .scale = 2, .grad = grad, .fresh = fresh, .value = rows->value, .level = level });
  else
    kd_divergence_rows (&(KdDivergence) { .kind = kind, .n = rows->n, .size = rows->size, .student = rows->s, .teacher = rows->t, .teacher_type = KD_REAL_F32, .coef = rows->coef, .temperature = 1, .scale = 2, .beta = 0.3, .alpha = 0.1, .lambda = 0.7, .mu = 0.5, .grad = grad, .fresh = fresh, .value = rows->value, .level = level });
}

/* Written to NaN, with any alignment, is the same as added to zeros; nothing beside the rows is touched. */
static void
check_fresh (const Rows *rows, gint kind, gint level, gint64 shift)
{
  gint64 m = rows->n * rows->size;
  g_autofree gfloat *added = g_new0 (gfloat, m), *memory = g_new (gfloat, m + 64);
  g_autofree gdouble *value = NULL;
  gfloat *grad = memory + 16 + shift;

  for (gint64 i = 0; i < m + 64; i++)
    memory[i] = NAN;
  evaluate (rows, kind, level, FALSE, added);
  value = g_memdup2 (rows->value, (gsize) rows->n * sizeof (gdouble));
  evaluate (rows, kind, level, TRUE, grad);
  ck_assert (isnan (value[2]) && isnan (rows->value[2]) && value[1] == 0 && rows->value[1] == 0);
  for (gint64 r = 0; r < rows->n; r++)
    if (r != 2 && value[r] != rows->value[r])
      ck_abort_msg ("kind %d, level %d: value %d is %g, not %g", kind, level, (gint) r, rows->value[r], value[r]);
  for (gint64 i = 0; i < m; i++)
    if (grad[i] != added[i]) /* an assertion for each of millions takes its time */
      ck_abort_msg ("kind %d, level %d, shift %d: gradient %d is %g, not %g", kind, level, (gint) shift, (gint) i, grad[i], added[i]);
  for (gint64 i = rows->size; i < 3 * rows->size; i++)
    ck_assert (grad[i] == 0);
  ck_assert (isnan (grad[-1]) && isnan (grad[m]));
}

GST_START_TEST (test_fresh)
{
  static const gint64 small[] = { 1, 7, 64, 513 };

  for (guint i = 0; i < G_N_ELEMENTS (small); i++)
    for (gint level = 1; level <= kd_cpu_level (); level++)
      for (gint kind = 0; kind < N_KINDS; kind++) {
        g_auto (Rows) rows = { 0 };
        rows_init (&rows, 4, small[i]);
        check_fresh (&rows, kind, level, kind);
      }
}
GST_END_TEST

GST_START_TEST (test_fresh_past_the_cache)
{
  static const gint64 shapes[][2] = { { 4, 600001 }, { 700, 3001 }, { 230000, 10 } };

  for (guint i = 0; i < G_N_ELEMENTS (shapes); i++)
    for (gint kind = 0; kind < N_KINDS; kind++) {
      g_auto (Rows) rows = { 0 };
      if (kind == KD_DIVERGENCE_ADAPTIVE_KL)
        continue; /* sorts each row */
      rows_init (&rows, shapes[i][0], shapes[i][1]);
      check_fresh (&rows, kind, i == 0 ? 0 : 1 + kind % kd_cpu_level (), 3 * i);
    }
}
GST_END_TEST

/* Narrow rows are worked on many at a time: in any company, and at any place in it, a row has the same bits. */
GST_START_TEST (test_company)
{
  static const gint64 sizes_narrow[] = { 2, 10, 32, 33 };

  for (guint i = 0; i < G_N_ELEMENTS (sizes_narrow); i++)
    for (gint level = 1; level <= kd_cpu_level (); level++)
      for (gint kind = 0; kind < N_KINDS; kind++) {
        gint64 size = sizes_narrow[i];
        g_autofree gfloat *together = g_new0 (gfloat, 70 * size), *alone = g_new0 (gfloat, size);
        g_autofree gdouble *value = NULL;
        g_auto (Rows) rows = { 0 };
        Rows one;

        rows_init (&rows, 70, size);
        evaluate (&rows, kind, level, FALSE, together);
        value = g_memdup2 (rows.value, 70 * sizeof (gdouble));
        one = (Rows) { 1, size, rows.s + 67 * size, rows.t + 67 * size, rows.coef + 67, rows.value, rows.label + 67 };
        evaluate (&one, kind, level, FALSE, alone);
        ck_assert (value[67] == rows.value[0] && memcmp (alone, together + 67 * size, (gsize) size * sizeof (gfloat)) == 0);
      }
}
GST_END_TEST

/* Each block of the row is larger than the one before: what was summed moves to a new reference again and again; the first block's ids are
 * excluded or nearly. */
GST_START_TEST (test_rising_rows)
{
  static const gfloat first[] = { 0, -1e9f };

  for (guint f = 0; f < G_N_ELEMENTS (first); f++)
    for (gint level = 1; level <= kd_cpu_level (); level++)
      for (gint kind = 0; kind <= KD_DIVERGENCE_REVERSE_KL; kind++) {
        g_autofree gdouble *grad = g_new (gdouble, 4000);
        g_auto (Table) t = { 0 };
        gdouble ls, lt, value = 0;

        table_init (&t, 1, 4000, 2);
        for (gint64 i = 0; i < t.size; i++) {
          t.s[i] += 0.004f * (gfloat) i + (i < 600 ? first[f] : 0);
          t.t[i] += 0.02f * (gfloat) i + (i < 600 ? first[f] : 0);
        }
        kd_divergence_rows (&(KdDivergence) { .kind = kind, .n = 1, .size = t.size, .student = t.s, .teacher = t.t, .teacher_type = KD_REAL_F32, .coef = t.coef, .temperature = 1, .scale = 1, .grad = t.grad, .value = t.value, .level = level });
        ls = lse (t.s, t.size, 1);
        lt = lse (t.t, t.size, 1);
        for (gint64 i = 0; i < t.size; i++)
          value += kind ? exp (t.s[i] - ls) * (t.s[i] - ls - t.t[i] + lt) : exp (t.t[i] - lt) * (t.t[i] - lt - t.s[i] + ls);
        for (gint64 i = 0; i < t.size; i++)
          grad[i] = t.coef[0] * (kind ? exp (t.s[i] - ls) * (t.s[i] - ls - t.t[i] + lt - value) : exp (t.s[i] - ls) - exp (t.t[i] - lt));
        assert_rows (&t, 0, value, grad, 5e-6, kind ? "rkl" : "fkl");
      }
}
GST_END_TEST

/* The same for cross-entropy, with ids that are excluded by -infinity; a sure label far behind the first reference keeps its small value. */
GST_START_TEST (test_rising_cross_entropy)
{
  for (gint level = 1; level <= kd_cpu_level (); level++)
    for (gint sure = 0; sure < 2; sure++) {
      g_autofree gdouble *grad = g_new (gdouble, 4000);
      g_auto (Table) t = { 0 };
      gdouble rest = 0, ls;

      table_init (&t, 1, 4000, 1);
      t.label[0] = 3500;
      for (gint64 i = 0; i < t.size; i++)
        t.s[i] = i < 600 ? -INFINITY : sure ? t.s[i] - 20
                                            : t.s[i] + 0.01f * (gfloat) i;
      if (sure) {
        t.s[700] = -5; /* the reference until the label comes, less than KD_RISE below it */
        t.s[3500] = 0;
      }
      kd_xent_rows (&(KdXent) { .n = 1, .size = t.size, .logits = t.s, .label = t.label, .coef = t.coef, .scale = 1, .grad = t.grad, .value = t.value, .level = level });
      for (gint64 i = 0; i < t.size; i++)
        rest += i == t.label[0] ? 0 : exp ((gdouble) t.s[i] - t.s[t.label[0]]);
      ls = t.s[t.label[0]] + log1p (rest);
      for (gint64 i = 0; i < t.size; i++)
        grad[i] = t.coef[0] * (exp (t.s[i] - ls) - (i == t.label[0]));
      assert_rows (&t, 0, log1p (rest), grad, 3e-6, sure ? "sure" : "rising");
    }
}
GST_END_TEST

/* A row that goes up by @step after its first block is what is behind the step: so far up that the first reference's powers leave float32. */
static void
step_up (Rows *rows, gfloat step)
{
  rows_init (rows, 3, 2000);
  rows->n = 1;
  for (gint64 i = 1200; i < rows->size; i++) {
    rows->s[i] += step;
    rows->t[i] += step;
  }
  rows->label[0] = 1500;
}

GST_START_TEST (test_steps_up)
{
  for (gint level = 1; level <= kd_cpu_level (); level++)
    for (gint kind = 0; kind < N_KINDS; kind++) {
      gfloat near[2000] = { 0 };
      gdouble value;
      g_auto (Rows) rows = { 0 };

      step_up (&rows, 60);
      evaluate (&rows, kind, level, FALSE, near);
      value = rows.value[0];
      for (gfloat step = 70; step < 2000; step *= 1.09f) {
        gfloat grad[2000] = { 0 };
        g_auto (Rows) far = { 0 };
        step_up (&far, step);
        evaluate (&far, kind, level, FALSE, grad);
        ck_assert_msg (fabs (far.value[0] - value) <= 2e-6 * (fabs (value) + step), "level %d, kind %d, step %g: %.9g, not %.9g", level, kind, step, far.value[0], value);
        for (gint i = 0; i < 2000; i++)
          ck_assert_msg (fabs (grad[i] - near[i]) <= 2e-4, "level %d, kind %d, step %g: gradient %d is %g, not %g", level, kind, step, i, grad[i], near[i]);
      }
    }
}
GST_END_TEST

/* The same for cross-entropy with smoothing and with soft labels. */
GST_START_TEST (test_steps_up_of_soft_labels)
{
  gfloat soft[2000];

  for (gint i = 0; i < 2000; i++)
    soft[i] = i < 1200 ? 0 : 1.0f / 800;
  for (gint level = 1; level <= kd_cpu_level (); level++)
    for (gint kind = 0; kind < 3; kind++)
      for (gfloat step = 70; step < 2000; step *= 1.09f) {
        gdouble value = 0, eps = kind == 2 ? 0 : 0.1;
        g_auto (Rows) rows = { 0 };
        step_up (&rows, step);
        for (gint i = 0; i < 2000; i++)
          value += ((1 - eps) * (kind ? soft[i] : i == 1500) + eps / 2000) * (lse (rows.s, 2000, 1) - rows.s[i]);
        kd_xent_rows (&(KdXent) { .n = 1, .size = 2000, .logits = rows.s, .label = rows.label, .soft = kind ? soft : NULL, .smoothing = eps, .coef = rows.coef, .scale = 1, .value = rows.value, .level = level });
        ck_assert_msg (fabs (rows.value[0] - value) <= 2e-6 * value, "level %d, kind %d, step %g: %.9g, not %.9g", level, kind, step, rows.value[0], value);
      }
}
GST_END_TEST

static Suite *
rows_suite (void)
{
  Suite *s = suite_create ("rows");
  TCase *t = tcase_create ("all");

  suite_add_tcase (s, t);
  tcase_set_timeout (t, 120);
  tcase_add_test (t, test_fresh);
  tcase_add_test (t, test_fresh_past_the_cache);
  tcase_add_test (t, test_company);
  tcase_add_test (t, test_rising_rows);
  tcase_add_test (t, test_steps_up);
  tcase_add_test (t, test_steps_up_of_soft_labels);
  tcase_add_test (t, test_rising_cross_entropy);
  return s;
}

GST_CHECK_MAIN (rows)
