/* Many rows of sparse teachers at once, and rows that are not finite. */
#include "kd-leaf.h"
#include <dlfcn.h>

#define K 5

/* A call large enough to be written past the cache: the same bits for any number of threads and as added to zeros; rows that do not count and
 * rows that are refused are written or left as they should. */
GST_START_TEST (test_large)
{
  enum { N = 60,
    SIZE = 40000 };
  g_autofree gfloat *s = g_new (gfloat, N * SIZE), *grad = g_new (gfloat, N * SIZE), *first = NULL, *values = g_new (gfloat, N * K);
  g_autofree gint32 *ids = g_new (gint32, N * K);
  g_autofree gdouble *coef = g_new (gdouble, N), *value = g_new (gdouble, N), *first_value = NULL;
  void (*set_threads) (int) = (void (*) (int)) dlsym (RTLD_DEFAULT, "omp_set_num_threads"); /* the library's own OpenMP */
  guint8 problem[N];
  KdSparse call = { .dense = { .n = N, .size = SIZE, .student = s, .coef = coef, .temperature = 1, .scale = 1, .grad = grad, .value = value }, .tail = KD_TAIL_BUCKET, .k = K, .ids = ids, .ids_are_32 = 1, .values = values, .cache_temperature = 1, .problem = problem };
  KdRandom random;

  kd_random_init (&random, 1, 2, 3, 4);
  for (gint i = 0; i < N * SIZE; i++)
    s[i] = (gfloat) (i % SIZE == SIZE / 2 ? 40 : 2 * kd_random_normal (&random)); /* one that raises the reference */
  for (gint i = 0; i < N * K; i++) {
    ids[i] = (i * 7919) % SIZE;
    values[i] = -2;
  }
  for (gint i = 0; i < N; i++)
    coef[i] = i != 3;
  s[3 * SIZE] = NAN;
  ids[7 * K] = SIZE;
  for (gint round = 0; round < 3; round++) {
    set_threads (round == 0 ? 1 : 3);
    call.dense.fresh = round < 2;
    for (gint i = 0; i < N * SIZE; i++)
      grad[i] = round < 2 ? NAN : 0;
    kd_sparse_rows (&call);
    if (round == 0) {
      memset (grad + 7 * SIZE, 0, SIZE * sizeof *grad); /* refused: not written */
      first = g_memdup2 (grad, N * SIZE * sizeof *grad);
      first_value = g_memdup2 (value, N * sizeof *value);
      continue;
    }
    memset (grad + 7 * SIZE, 0, SIZE * sizeof *grad);
    ck_assert (memcmp (first, grad, N * SIZE * sizeof *grad) == 0);
    ck_assert (memcmp (first_value, value, N * sizeof *value) == 0);
  }
  ck_assert (problem[7] == KD_SPARSE_BAD_ID && value[7] == 0 && problem[6] == KD_SPARSE_FINE && value[3] == 0);
  ck_assert (grad[3 * SIZE] == 0 && grad[4 * SIZE + SIZE / 2] > 0.1f);
}
GST_END_TEST

/* NaN, +infinity and, when asked, -infinity make the row's value NaN; wherever they stand. */
GST_START_TEST (test_not_finite)
{
  const gfloat bad[] = { NAN, INFINITY, -INFINITY };

  for (guint i = 0; i < G_N_ELEMENTS (bad); i++)
    for (gint place = 0; place < 2; place++)
      for (gint form = KD_SPARSE_TOPK; form <= KD_SPARSE_ONLINE; form += KD_SPARSE_ONLINE - KD_SPARSE_TOPK) {
        gfloat s[4] = { 0, 1, 2, 3 }, t[4] = { 0, 1, 2, 3 }, logprob = -1, grad[4] = { 0 };
        gdouble coef = 1, value = 0;
        gint64 id = 3;
        guint8 problem;
        KdSparse call = { .dense = { .n = 1, .size = 4, .student = s, .teacher = t, .teacher_type = KD_REAL_F32, .coef = &coef, .temperature = 1, .scale = 1, .grad = grad, .value = &value, .reject_infinite = i == 2 }, .form = form, .tail = KD_TAIL_BUCKET, .k = 1, .ids = &id, .values = &logprob, .cache_temperature = 1, .problem = &problem };
        *(form == KD_SPARSE_ONLINE && place ? &t[0] : place ? &s[3]
                                                            : &s[1]) = bad[i];
        kd_sparse_rows (&call);
        ck_assert_msg (isnan (value), "%g in place %d, form %d: %g", bad[i], place, form, value);
      }
}
GST_END_TEST

KD_TESTS (sparse_rows, test_large, test_not_finite)
