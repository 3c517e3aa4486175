/* Plackett-Luce kernel against its definition in double, the sort against comparisons, extreme scores, threads, both directions. */
#include "math-table.h"
#include "kd-leaf.h"
#include <dlfcn.h>

/* sum_k w_k (LSE_k - s_k) and its derivative, as written. */
static gdouble
define (gint64 n, const gdouble *s, const gdouble *w, gboolean prefix, gdouble *grad)
{
  gdouble value = 0;

  for (gint64 j = 0; j < n; j++)
    grad[j] = -w[j];
  for (gint64 k = 0; k < n; k++) {
    gint64 from = prefix ? 0 : k, to = prefix ? k + 1 : n;
    gdouble max = -INFINITY, z = 0;
    for (gint64 j = from; j < to; j++)
      max = MAX (max, s[j]);
    for (gint64 j = from; j < to; j++)
      z += exp (s[j] - max);
    value += w[k] * (max + log (z) - s[k]);
    for (gint64 j = from; j < to; j++)
      grad[j] += w[k] * exp (s[j] - max - log (z));
  }
  return value;
}

static void
check_row (gint64 n, gdouble width, gboolean prefix)
{
  g_autofree gdouble *s = g_new (gdouble, n), *w = g_new (gdouble, n), *want = g_new (gdouble, n), *got = g_new (gdouble, n),
                     *scratch = g_new (gdouble, kd_plackett_luce_scratch (n));
  gdouble value, expected, sum = 0;
  KdRandom random;

  kd_random_init (&random, 3, 4, 0, (guint64) n);
  for (gint64 i = 0; i < n; i++) {
    s[i] = width * kd_random_normal (&random);
    w[i] = kd_random_below (&random, 4) ? kd_random_uniform (&random) : 0;
  }
  expected = define (n, s, w, prefix, want);
  value = kd_plackett_luce_row (n, s, w, prefix, got, scratch);
  kd_assert_close (value, expected, 1e-12 * (1 + fabs (expected)));
  for (gint64 i = 0; i < n; i++) {
    kd_assert_close (got[i], want[i], 1e-11 * (1 + fabs (want[i])));
    sum += got[i];
  }
  kd_assert_close (sum, 0, 1e-11 * (gdouble) n);
  ck_assert (kd_plackett_luce_row (n, s, w, prefix, NULL, scratch) == value);
}

GST_START_TEST (test_row)
{
  for (guint i = 0; i < G_N_ELEMENTS (sizes); i++)
    for (gint prefix = 0; prefix < 2; prefix++) {
      check_row (MIN (sizes[i], 600), 2, prefix);
      check_row (MIN (sizes[i], 600), 1000, prefix); /* in logarithms */
    }
}
GST_END_TEST

/* Three places, all weights 1: by hand. The prefix chain is that of the reversed ranking. */
GST_START_TEST (test_by_hand)
{
  const gdouble s[3] = { log (1), log (2), log (3) }, reversed[3] = { s[2], s[1], s[0] };
  gdouble scratch[6], grad[3], back[3];

  kd_assert_close (kd_plackett_luce_row (3, s, NULL, FALSE, grad, scratch), log (6.0 / 1) + log (5.0 / 2), 1e-14);
  kd_assert_close (grad[0], 1.0 / 6 - 1, 1e-14);
  kd_assert_close (grad[1], 2.0 / 6 + 2.0 / 5 - 1, 1e-14);
  kd_assert_close (grad[2], 3.0 / 6 + 3.0 / 5, 1e-14);
  kd_assert_close (kd_plackett_luce_row (3, reversed, NULL, TRUE, back, scratch), log (6.0 / 1) + log (5.0 / 2), 1e-14);
  for (gint i = 0; i < 3; i++)
    ck_assert (back[2 - i] == grad[i]);
  ck_assert (kd_plackett_luce_row (1, s, NULL, FALSE, grad, scratch) == 0 && grad[0] == 0);
}
GST_END_TEST

static void
check_sort (gint64 n, const gfloat *value, gint64 skip)
{
  g_autofree KdSortKey *keys = g_new (KdSortKey, 2 * n);
  const KdSortKey *sorted = kd_rank_descending (n, value, skip, keys);
  g_autofree guint8 *seen = g_new0 (guint8, n);
  gint64 count = skip < 0 ? n : n - 1;

  for (gint64 k = 0; k < count; k++) {
    guint32 id = (guint32) sorted[k], before = k ? (guint32) sorted[k - 1] : id;
    ck_assert (id < n && id != skip && !seen[id]++);
    ck_assert_msg (k == 0 || value[before] > value[id] || (value[before] == value[id] && before < id), "place %d", (gint) k);
  }
}

GST_START_TEST (test_sort)
{
  const gfloat special[8] = { 0, -0.0f, INFINITY, -INFINITY, 1e-45f, -1e-45f, 3e38f, -3e38f };
  KdRandom random;

  check_sort (8, special, -1);
  kd_random_init (&random, 1, 2, 3, 4);
  for (guint i = 0; i < G_N_ELEMENTS (sizes); i++) {
    gint64 n = sizes[i];
    g_autofree gfloat *value = g_new (gfloat, n);
    for (gint64 j = 0; j < n; j++)
      value[j] = (gfloat) kd_random_normal (&random);
    check_sort (n, value, -1);
    check_sort (n, value, n / 2);
    for (gint64 j = 0; j < n; j++) /* many ties, zeros of both signs */
      value[j] = ((gfloat) kd_random_below (&random, 5) - 2) * (kd_random_below (&random, 2) ? -1.0f : 1.0f);
    check_sort (n, value, 0);
    memset (value, 0, (gsize) n * sizeof *value);
    check_sort (n, value, -1);
  }
}
GST_END_TEST

static void
run_table (Table *t, KdChoiceWeight weighting, KdReal type, gdouble *tail)
{
  memset (t->grad, 0, (gsize) (t->n * t->size) * sizeof (gfloat));
  kd_plackett_luce_rows (&(KdPlackettLuce) { .n = t->n, .size = t->size, .student = t->s, .teacher = type == KD_REAL_F32 ? (gconstpointer) t->t : type == KD_REAL_F16 ? t->half
                                                                                                                                                                      : t->brain,
      .teacher_type = type,
      .label = t->label,
      .coef = t->coef,
      .weighting = weighting,
      .temperature = 2,
      .decay = 0.5,
      .scale = 3,
      .grad = t->grad,
      .value = t->value,
      .tail = tail });
}

/* The first choice alone is cross-entropy; the three types hold the same numbers. */
GST_START_TEST (test_table)
{
  const KdReal types[] = { KD_REAL_F32, KD_REAL_F16, KD_REAL_BF16 };

  for (guint i = 1; i < G_N_ELEMENTS (sizes); i++) {
    g_auto (Table) t = { 0 }, same = { 0 };
    g_autofree gdouble *grad = g_new (gdouble, sizes[i]), *tail = g_new (gdouble, 5), *tail2 = g_new (gdouble, 5);
    table_init (&t, 5, sizes[i], 3);
    table_init (&same, 5, sizes[i], 3);
    run_table (&t, KD_CHOICE_FIRST, KD_REAL_F32, tail);
    ck_assert (t.value[1] == 0 && tail[1] == 0 && tail[0] == 0 && t.grad[t.size] == 0);
    for (gint64 r = 0; r < t.n; r++) {
      gdouble z = lse (t.s + r * t.size, t.size, 1);
      for (gint64 j = 0; j < t.size && r != 1; j++)
        grad[j] = 3 * t.coef[r] * (exp (t.s[r * t.size + j] - z) - (j == t.label[r]));
      if (r != 1)
        assert_rows (&t, r, z - t.s[r * t.size + t.label[r]], grad, 1e-6, "cross-entropy");
    }
    run_table (&t, KD_CHOICE_TEACHER, KD_REAL_F32, tail);
    for (guint k = 0; k < 3; k++) {
      run_table (&same, KD_CHOICE_TEACHER, types[k], tail2);
      ck_assert (memcmp (t.value, same.value, 5 * sizeof (gdouble)) == 0 && memcmp (tail, tail2, 5 * sizeof (gdouble)) == 0);
      ck_assert (memcmp (t.grad, same.grad, (gsize) (t.n * t.size) * sizeof (gfloat)) == 0);
    }
  }
}
GST_END_TEST

GST_START_TEST (test_threads)
{
  void (*set_threads) (gint) = (void (*) (gint)) dlsym (RTLD_DEFAULT, "omp_set_num_threads");
  g_auto (Table) one = { 0 }, many = { 0 };

  if (!set_threads)
    return; /* built without OpenMP */
  table_init (&one, 40, 3000, 4);
  table_init (&many, 40, 3000, 4);
  set_threads (1);
  run_table (&one, KD_CHOICE_TEACHER, KD_REAL_F32, NULL);
  set_threads (4);
  run_table (&many, KD_CHOICE_TEACHER, KD_REAL_F32, NULL);
  ck_assert (memcmp (one.value, many.value, 40 * sizeof (gdouble)) == 0);
  ck_assert (memcmp (one.grad, many.grad, 40 * 3000 * sizeof (gfloat)) == 0);
}
GST_END_TEST

/* Not finite on a row that counts: the value says so, the gradient stays. */
GST_START_TEST (test_not_finite)
{
  g_auto (Table) t = { 0 };

  table_init (&t, 3, 7, 1);
  t.s[3] = INFINITY;
  t.t[15] = NAN;
  run_table (&t, KD_CHOICE_TEACHER, KD_REAL_F32, NULL);
  ck_assert (isnan (t.value[0]) && t.value[1] == 0 && isnan (t.value[2]));
  for (gint i = 0; i < 21; i++)
    ck_assert (t.grad[i] == 0);
}
GST_END_TEST

KD_TESTS (plackett_luce, test_row, test_by_hand, test_sort, test_table, test_threads, test_not_finite)
