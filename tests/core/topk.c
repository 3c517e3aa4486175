/* Selection and draws against a full sort and a plain cumulative sum: every instruction set, element types, ties, adversarial orders. */
#include "kd-leaf.h"

#include "math-table.h"

static const gfloat *sorted_row;

static gint
compare_values (gconstpointer a, gconstpointer b)
{
  gint64 i = *(const gint64 *) a, j = *(const gint64 *) b;

  if (sorted_row[i] != sorted_row[j])
    return sorted_row[i] > sorted_row[j] ? -1 : 1;
  return i < j ? -1 : 1;
}

static void
check_topk (const gfloat *x, gint64 n, gint64 k, gint level)
{
  g_autofree gint64 *want = g_new (gint64, n), *got = g_new (gint64, k);

  for (gint64 i = 0; i < n; i++)
    want[i] = i;
  sorted_row = x;
  qsort (want, (gsize) n, sizeof *want, compare_values);
  kd_topk_rows (&(KdTopk) { .n = 1, .size = n, .k = k, .values = x, .type = KD_REAL_F32, .ids = got, .level = level });
  for (gint64 i = 0; i < k; i++)
    ck_assert_msg (got[i] == want[i], "level %d, size %d, k %d: place %d has id %d, not %d", level, (gint) n, (gint) k, (gint) i, (gint) got[i], (gint) want[i]);
}

enum { RANDOM,
  TIES,
  ASCENDING,
  DESCENDING,
  INFINITE,
  ZEROS,
  N_ORDERS };

static void
fill (gfloat *x, gint64 n, gint order)
{
  KdRandom random;

  kd_random_init (&random, 5, (guint32) order, 0, (guint64) n);
  for (gint64 i = 0; i < n; i++) {
    gfloat value = (gfloat) kd_random_normal (&random);
    x[i] = order == RANDOM ? value : order == TIES ? (gfloat) (gint) (2 * value)
        : order == ASCENDING                       ? (gfloat) i
        : order == DESCENDING                      ? (gfloat) -i
        : order == INFINITE                        ? (value > 0 ? -INFINITY : 1e38f * value)
        : i % 2                                    ? -0.0f
                                                   : 0.0f;
  }
}

GST_START_TEST (test_topk)
{
  static const gint64 many[] = { 1, 2, 15, 16, 17, 511, 513, 3000, 40000 }, ks[] = { 1, 2, 5, 64, 700 };

  for (guint i = 0; i < G_N_ELEMENTS (many); i++) {
    g_autofree gfloat *x = g_new (gfloat, many[i]);
    for (gint order = 0; order < N_ORDERS; order++) {
      fill (x, many[i], order);
      for (guint j = 0; j < G_N_ELEMENTS (ks); j++)
        for (gint level = 1; level <= kd_cpu_level (); level++)
          check_topk (x, many[i], MIN (ks[j], many[i]), level);
      if (many[i] <= 3000)
        check_topk (x, many[i], many[i], 0);
    }
  }
}
GST_END_TEST

GST_START_TEST (test_topk_types)
{
  for (guint i = 0; i < G_N_ELEMENTS (sizes); i++) {
    g_auto (Table) t = { 0 };
    gint64 k = MIN (sizes[i], 9), n = 4;
    g_autofree gint64 *wide = g_new0 (gint64, n * k), *half = g_new0 (gint64, n * k);
    KdTopk call = { .n = n, .size = sizes[i], .k = k, .type = KD_REAL_F32, .ids = wide };
    table_init (&t, n, sizes[i], 2);
    call.values = t.t;
    call.coef = t.coef;
    kd_topk_rows (&call);
    ck_assert (wide[k] == 0); /* row 1 does not count: nothing is written */
    call.values = t.half;
    call.type = KD_REAL_F16;
    call.ids = half;
    kd_topk_rows (&call);
    ck_assert (memcmp (wide, half, (gsize) (n * k) * sizeof *wide) == 0);
  }
}
GST_END_TEST

/* Softmax of a row times a power, in double. */
static void
distribution (const gfloat *x, gint64 n, gdouble power, gdouble temperature, gdouble *p)
{
  gdouble total = 0;

  for (gint64 i = 0; i < n; i++)
    total += p[i] = exp (power * x[i] / temperature);
  for (gint64 i = 0; i < n; i++)
    p[i] /= total;
}

/* Numbers in the middle of what an id has of the cumulative sum, for ids that have enough of it not to be missed by rounding. */
static void
aim (const gdouble *r, gint64 n, gint64 draws, KdRandom *random, gdouble *u, gint64 *count)
{
  memset (count, 0, (gsize) n * sizeof *count);
  for (gint64 s = 0; s < draws;) {
    gint64 id = (gint64) kd_random_below (random, (guint64) n);
    gdouble sum = 0;
    if (r[id] < 2e-5)
      continue;
    for (gint64 i = 0; i < id; i++)
      sum += r[i];
    count[id]++;
    u[s++] = sum + r[id] / 2;
  }
}

/* The definition: ids by the cumulative sum in double, weights by the counts. */
static void
check_draws (const Table *t, gint64 draws, gdouble power, gdouble temperature, gint level)
{
  gsize m = (gsize) (t->n * draws), size = (gsize) t->size;
  g_autofree gdouble *u = g_new0 (gdouble, m), *w = g_new (gdouble, size), *p = g_new (gdouble, size);
  g_autofree gint64 *ids = g_new (gint64, m), *count = g_new0 (gint64, (gsize) t->n * size);
  g_autofree gfloat *weights = g_new (gfloat, m);
  g_autofree guint8 *valid = g_new (guint8, t->n);
  KdRandom random;

  kd_random_init (&random, 3, 4, 5, size);
  for (gint64 r = 0; r < t->n; r++) {
    if (r == 1) /* does not count */
      continue;
    distribution (t->t + r * t->size, t->size, power, temperature, w);
    aim (w, t->size, draws, &random, u + r * draws, count + r * t->size);
  }
  kd_draw_rows (&(KdDraw) { .n = t->n, .size = t->size, .draws = draws, .logits = t->t, .type = KD_REAL_F32, .coef = t->coef, .temperature = temperature, .power = power, .uniform = u, .ids = ids, .weights = weights, .valid = valid, .level = level });
  for (gint64 r = 0; r < t->n; r++) {
    gint64 at = r * draws;
    ck_assert (valid[r]);
    distribution (t->t + r * t->size, t->size, power, temperature, w);
    distribution (t->t + r * t->size, t->size, 1, temperature, p);
    for (gint64 i = 0; i < t->size; i++)
      if (count[r * t->size + i]) {
        ck_assert_int_eq (ids[at], i);
        kd_assert_close (weights[at], (gdouble) count[r * t->size + i] / (gdouble) draws * p[i] / w[i], 1e-5);
        at++;
      }
    for (; at < (r + 1) * draws; at++)
      ck_assert (ids[at] == -1 && weights[at] == 0);
  }
}

GST_START_TEST (test_draws)
{
  for (guint i = 0; i < G_N_ELEMENTS (sizes); i++)
    for (gint level = 1; level <= kd_cpu_level (); level++) {
      g_auto (Table) t = { 0 };
      table_init (&t, 4, sizes[i], 2);
      check_draws (&t, 50, 1, 1, level);
      check_draws (&t, 20, 0.8, 2, level);
      check_draws (&t, 7, 0, 1, level);
    }
}
GST_END_TEST

/* The mean of the weights over many draws is p, whatever the proposal. */
GST_START_TEST (test_unbiased)
{
  const gfloat logits[4] = { 2, 1, -INFINITY, 0 };
  const gdouble z = exp (2) + exp (1) + 1, p[4] = { exp (2) / z, exp (1) / z, 0, 1 / z };
  enum { N = 20000,
    S = 4 };
  g_autofree gfloat *rows = g_new (gfloat, 4 * N), *weights = g_new (gfloat, S * N);
  g_autofree gdouble *u = g_new (gdouble, S * N);
  g_autofree gint64 *ids = g_new (gint64, S * N);
  g_autofree guint8 *valid = g_new (guint8, N);
  KdRandom random;

  kd_random_init (&random, 1, 2, 3, 4);
  for (gint i = 0; i < N; i++)
    memcpy (rows + 4 * i, logits, sizeof logits);
  for (gint i = 0; i < S * N; i++)
    u[i] = kd_random_uniform (&random);
  for (gint power = 0; power < 3; power++) {
    gdouble mean[4] = { 0 };
    kd_draw_rows (&(KdDraw) { .n = N, .size = 4, .draws = S, .logits = rows, .type = KD_REAL_F32, .temperature = 1, .power = power * 0.5, .uniform = u, .ids = ids, .weights = weights, .valid = valid });
    for (gint i = 0; i < S * N; i++)
      if (ids[i] >= 0)
        mean[ids[i]] += weights[i] / N;
    for (gint i = 0; i < 4; i++)
      ck_assert_msg (fabs (mean[i] - p[i]) < 0.01, "power %g: mean weight of id %d is %g, not %g", power * 0.5, i, mean[i], p[i]);
  }
}
GST_END_TEST

GST_START_TEST (test_bad_rows)
{
  const gfloat rows[4][3] = { { 0, NAN, 0 }, { 0, INFINITY, 0 }, { -INFINITY, -INFINITY, -INFINITY }, { -INFINITY, 3e38f, -3e38f } };
  const gdouble u[4] = { 0.5, 0.5, 0.5, 0.999999 };
  gint64 ids[4] = { 7, 7, 7, 7 };
  gfloat weights[4];
  guint8 valid[4];

  kd_draw_rows (&(KdDraw) { .n = 4, .size = 3, .draws = 1, .logits = rows, .type = KD_REAL_F32, .temperature = 1, .power = 1, .uniform = u, .ids = ids, .weights = weights, .valid = valid });
  ck_assert (!valid[0] && !valid[1] && !valid[2] && valid[3]);
  ck_assert (ids[0] == 7 && ids[3] == 1 && weights[3] == 1);
}
GST_END_TEST

KD_TESTS (topk, test_topk, test_topk_types, test_draws, test_unbiased, test_bad_rows)
