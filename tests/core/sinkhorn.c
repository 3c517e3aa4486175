/* Sinkhorn kernel against its definition in double: value, plan, gradient by differences of the definition, every instruction set, both forms of
 * the scalings, threads. */
#include "math-table.h"
#include "kd-leaf.h"
#include <dlfcn.h>

/* The definition: matrices normalised one after the other. */
static gdouble
define (gint64 n, gint64 size, const gdouble *s, const gfloat *t, gdouble temperature, gdouble epsilon, gint iterations, gdouble *plan)
{
  g_autofree gdouble *w = g_new0 (gdouble, n * n);
  gdouble value = 0;

  for (gint64 i = 0; i < n; i++)
    for (gint64 j = 0; j < n; j++) {
      gdouble a = 0, b = 0;
      for (gint64 v = 0; v < size; v++) {
        a += exp (s[i * size + v] / temperature);
        b += exp (t[j * size + v] / temperature);
      }
      for (gint64 v = 0; v < size; v++)
        w[i * n + j] += fabs (exp (s[i * size + v] / temperature) / a - exp (t[j * size + v] / temperature) / b);
      plan[i * n + j] = exp (-w[i * n + j] / epsilon);
    }
  for (gint round = 0; round < 2 * iterations; round++)
    for (gint64 a = 0; a < n; a++) {
      gdouble sum = 0;
      for (gint64 b = 0; b < n; b++)
        sum += plan[round % 2 ? b * n + a : a * n + b];
      for (gint64 b = 0; b < n; b++)
        plan[round % 2 ? b * n + a : a * n + b] /= sum;
    }
  for (gint64 i = 0; i < n * n; i++)
    value += plan[i] * w[i];
  return value;
}

typedef struct {
  Table t;
  gint64 n, row[64];
} Problem;

/* Row 1 of the table holds NaN and is no point. */
static void
problem_init (Problem *p, gint64 n, gint64 size)
{
  table_init (&p->t, n + 1, size, 2);
  p->n = n;
  for (gint64 i = 0; i < n; i++)
    p->row[i] = i == 0 ? 0 : i + 1;
}

static gdouble
solve (Problem *p, gdouble epsilon, gint iterations, gint level, gboolean envelope, gdouble *plan)
{
  memset (p->t.grad, 0, (gsize) (p->t.n * p->t.size) * sizeof (gfloat));
  return kd_sinkhorn (&(KdSinkhorn) { .n = p->n, .size = p->t.size, .row = p->row, .student = p->t.s, .teacher = p->t.t, .teacher_type = KD_REAL_F32, .temperature = 2, .epsilon = epsilon, .iterations = iterations, .envelope = envelope, .scale = 3, .grad = p->t.grad, .plan = plan, .level = level });
}

static void
check_problem (gint64 n, gint64 size, gdouble epsilon, gint iterations, gint level)
{
  Problem p = { 0 };
  g_autofree gdouble *s = NULL, *plan = g_new (gdouble, n * n), *want = g_new (gdouble, n * n);
  g_autofree gfloat *t = NULL;
  gdouble value, h = 1e-6, largest = 0;

  problem_init (&p, n, size);
  s = g_new (gdouble, n * size);
  t = g_new (gfloat, n * size);
  for (gint64 i = 0; i < n; i++)
    for (gint64 v = 0; v < size; v++) {
      s[i * size + v] = p.t.s[p.row[i] * size + v];
      t[i * size + v] = p.t.t[p.row[i] * size + v];
    }
  value = solve (&p, epsilon, iterations, level, FALSE, plan);
  kd_assert_close (value, define (n, size, s, t, 2, epsilon, iterations, want), (size >= 512 ? 1e-7 : 1e-10) * (gdouble) n);
  for (gint64 i = 0; i < n * n; i++)
    kd_assert_close (plan[i], want[i], size >= 512 ? 1e-6 : 1e-9);
  for (gint64 i = 0; i < n * size; i++)
    largest = MAX (largest, fabs (p.t.grad[p.row[i / size] * size + i % size]));
  for (gint64 i = 0; i < n * size; i += 1 + n * size / 23) {
    gdouble at = s[i], up, down, got = p.t.grad[p.row[i / size] * size + i % size];
    s[i] = at + h;
    up = define (n, size, s, t, 2, epsilon, iterations, want);
    s[i] = at - h;
    down = define (n, size, s, t, 2, epsilon, iterations, want);
    s[i] = at;
    kd_assert_close (got, 3 * (up - down) / (2 * h), 1e-4 * largest + 1e-7);
  }
  for (gint64 v = 0; v < size; v++)
    ck_assert (p.t.grad[size + v] == 0); /* the row that is no point */
  table_clear (&p.t);
}

GST_START_TEST (test_definition)
{
  for (gint level = 1; level <= kd_cpu_level (); level++) {
    check_problem (1, 5, 0.1, 20, level);
    check_problem (6, 3, 0.1, 20, level);
    check_problem (7, 300, 0.1, 1, level);
    check_problem (19, 7, 0.5, 5, level);
    check_problem (6, 10, 0.015, 20, level); /* in logarithms */
    check_problem (7, 612, 0.1, 20, level);  /* in float32 */
  }
}
GST_END_TEST

/* Probabilities that differ by less than float32 shows: the order of the logits decides, and equal ones have no slope. Rows of equal logits, of
 * which one of the student's is a little larger: all others are a little smaller than the teacher's. */
GST_START_TEST (test_near_ties)
{
  for (gint level = 1; level <= kd_cpu_level (); level++)
    for (gint equal = 0; equal <= 1; equal++) {
      Problem p = { 0 };
      gdouble plan[1];

      problem_init (&p, 1, 700);
      for (gint64 i = 0; i < 2 * 700; i++)
        p.t.s[i] = p.t.t[i] = 0.0f;
      p.t.s[p.row[0] * 700 + 5] = equal ? 0.0f : 1e-6f;
      kd_assert_close (solve (&p, 0.1, 1, level, TRUE, plan), 0, 1e-5);
      for (gint64 v = 0; v < 700; v++) {
        gdouble x = 1.0 / 700, got = p.t.grad[p.row[0] * 700 + v]; /* dx = -1 but for 1 at v = 5 */
        kd_assert_close (got, equal ? 0 : 3 / 2.0 * x * ((v == 5 ? 1 : -1) - (2 * x - 1)), 1e-8);
      }
      table_clear (&p.t);
    }
}
GST_END_TEST

/* A student that is nearly its teacher, in wide rows: as near to the definition as float32 probabilities are, and 0 where it is its teacher. */
GST_START_TEST (test_near_rows)
{
  for (gint level = 1; level <= kd_cpu_level (); level++)
    for (gdouble apart = 1e-1; apart > 1e-5; apart *= 0.1) {
      Problem p = { 0 };
      gdouble plan[1], got, want;
      g_autofree gdouble *s = g_new (gdouble, 1500);

      problem_init (&p, 1, 1500);
      for (gint64 v = 0; v < 1500; v++)
        s[v] = p.t.s[v] = p.t.t[v] + (gfloat) (apart * (v % 7 - 3));
      got = solve (&p, 0.1, 5, level, TRUE, NULL);
      want = define (1, 1500, s, p.t.t, 2, 0.1, 5, plan);
      kd_assert_close (got, want, 1e-7);
      for (gint64 v = 0; v < 1500; v++)
        p.t.s[v] = p.t.t[v];
      ck_assert (solve (&p, 0.1, 5, level, TRUE, NULL) == 0);
      table_clear (&p.t);
    }
}
GST_END_TEST

/* Either form of the scalings just beside the limit: nearly the same problem. A tiny epsilon, where exp (-W / epsilon) is 0, still has a plan. */
GST_START_TEST (test_logarithms)
{
  Problem p = { 0 };
  gdouble plan[64], above, below, sum;

  problem_init (&p, 8, 12);
  above = solve (&p, 0.02, 30, 0, FALSE, plan);
  below = solve (&p, 0.02 - 1e-9, 30, 0, FALSE, plan);
  kd_assert_close (above, below, 1e-6);
  solve (&p, 1e-4, 50, 0, FALSE, plan);
  for (gint j = 0; j < 8; j++) {
    sum = 0;
    for (gint i = 0; i < 8; i++)
      sum += plan[i * 8 + j];
    kd_assert_close (sum, 1, 1e-9);
  }
  for (gint64 i = 0; i < 9 * 12; i++)
    ck_assert (isfinite (p.t.grad[i]));
  table_clear (&p.t);
}
GST_END_TEST

/* Large epsilon: everything goes everywhere. The envelope's gradient is that of the cost under this plan, and has no way through it. */
GST_START_TEST (test_limits)
{
  Problem p = { 0 };
  gdouble plan[64];
  g_autofree gfloat *unrolled = NULL;

  problem_init (&p, 8, 12);
  solve (&p, 1e6, 20, 0, FALSE, plan);
  for (gint i = 0; i < 64; i++)
    kd_assert_close (plan[i], 1.0 / 8, 1e-6);
  unrolled = g_memdup2 (p.t.grad, 9 * 12 * sizeof (gfloat));
  solve (&p, 1e6, 20, 0, TRUE, plan);
  for (gint64 i = 0; i < 9 * 12; i++) /* here the plan does not move */
    kd_assert_close (p.t.grad[i], unrolled[i], 1e-5);
  solve (&p, 0.1, 20, 0, FALSE, NULL);
  memcpy (unrolled, p.t.grad, 9 * 12 * sizeof (gfloat));
  solve (&p, 0.1, 20, 0, TRUE, NULL);
  ck_assert (memcmp (unrolled, p.t.grad, 9 * 12 * sizeof (gfloat)) != 0);
  ck_assert (kd_sinkhorn (&(KdSinkhorn) { .n = 0, .size = 12, .temperature = 1, .epsilon = 1, .iterations = 1 }) == 0);
  table_clear (&p.t);
}
GST_END_TEST

/* -infinity is probability 0 and has no gradient; NaN, +infinity, and a row of nothing have no softmax: nothing is added. */
GST_START_TEST (test_infinite)
{
  const gfloat bad[] = { NAN, INFINITY };
  Problem p = { 0 };

  problem_init (&p, 3, 4);
  p.t.s[2] = p.t.t[1] = -INFINITY;
  ck_assert (isfinite (solve (&p, 0.1, 20, 0, FALSE, NULL)) && p.t.grad[2] == 0 && p.t.grad[0] != 0);
  for (guint i = 0; i < G_N_ELEMENTS (bad); i++) {
    p.t.s[2] = bad[i];
    ck_assert (isnan (solve (&p, 0.1, 20, 0, FALSE, NULL)) && p.t.grad[0] == 0);
  }
  for (gint v = 0; v < 4; v++)
    p.t.s[v] = -INFINITY;
  ck_assert (isnan (solve (&p, 0.1, 20, 0, FALSE, NULL)));
  table_clear (&p.t);
}
GST_END_TEST

GST_START_TEST (test_threads)
{
  void (*set_threads) (gint) = (void (*) (gint)) dlsym (RTLD_DEFAULT, "omp_set_num_threads");
  const gint64 points[] = { 20, 63 };

  for (guint i = 0; set_threads && i < G_N_ELEMENTS (points); i++) {
    Problem one = { 0 }, many = { 0 };
    gdouble a, b;
    problem_init (&one, points[i], 700);
    problem_init (&many, points[i], 700);
    set_threads (1);
    a = solve (&one, 0.1, 20, 0, FALSE, NULL);
    set_threads (3);
    b = solve (&many, 0.1, 20, 0, FALSE, NULL);
    ck_assert (a == b && memcmp (one.t.grad, many.t.grad, (gsize) (points[i] + 1) * 700 * sizeof (gfloat)) == 0);
    table_clear (&one.t);
    table_clear (&many.t);
  }
}
GST_END_TEST

KD_TESTS (sinkhorn, test_definition, test_near_ties, test_near_rows, test_logarithms, test_limits, test_infinite, test_threads)
