/* Eigenvectors of symmetric matrices: by hand, and A v = w v with orthonormal v on random ones. */
#include "kd-check.h"

GST_START_TEST (test_by_hand)
{
  gdouble a[9] = { 2, 0, 0, 0, 3, -1, 0, -1, 3 }, w[3], one[1] = { -5 };

  ck_assert_int_eq (kd_eigen_symmetric (3, a, w), 0); /* 4: (0, 1, -1), 2: (1, 0, 0) and (0, 1, 1) */
  kd_assert_close (w[0], 4, 1e-12);
  kd_assert_close (w[1], 2, 1e-12);
  kd_assert_close (w[2], 2, 1e-12);
  kd_assert_close (fabs (a[1]), sqrt (0.5), 1e-12);
  kd_assert_close (a[1], -a[2], 1e-12);
  ck_assert_int_eq (kd_eigen_symmetric (1, one, w), 0);
  ck_assert (one[0] == 1 && w[0] == -5);
  ck_assert_int_eq (kd_eigen_symmetric (0, one, w), 0);
}
GST_END_TEST

static void
check_random (gint64 n)
{
  g_autofree gdouble *a = g_new (gdouble, n * n), *v = g_new (gdouble, n * n), *w = g_new (gdouble, n);
  KdRandom random;

  kd_random_init (&random, (guint64) n, 1, 0, 0);
  for (gint64 i = 0; i < n; i++)
    for (gint64 j = 0; j <= i; j++)
      a[i * n + j] = a[j * n + i] = kd_random_normal (&random);
  memcpy (v, a, (gsize) (n * n) * sizeof *v);
  ck_assert_int_eq (kd_eigen_symmetric (n, v, w), 0);
  for (gint64 i = 0; i < n; i++) {
    gdouble top = 0;
    ck_assert (i == 0 || w[i] <= w[i - 1]);
    for (gint64 j = 0; j < n; j++) {
      gdouble product = 0, dot = 0;
      for (gint64 k = 0; k < n; k++) {
        product += a[j * n + k] * v[i * n + k];
        dot += v[i * n + k] * v[j * n + k];
      }
      ck_assert (fabs (product - w[i] * v[i * n + j]) < 1e-11 * (gdouble) n);
      ck_assert (fabs (dot - (i == j)) < 1e-12 * (gdouble) n);
      top = fabs (v[i * n + j]) > fabs (top) ? v[i * n + j] : top;
    }
    ck_assert (top > 0);
  }
}

GST_START_TEST (test_random)
{
  const gint64 sizes[] = { 1, 2, 3, 17, 64, 150 };

  for (guint i = 0; i < G_N_ELEMENTS (sizes); i++)
    check_random (sizes[i]);
}
GST_END_TEST

GST_START_TEST (test_not_finite)
{
  gdouble a[4] = { 1, NAN, NAN, 1 }, b[4] = { INFINITY, 0, 0, 1 }, w[2];

  ck_assert_int_ne (kd_eigen_symmetric (2, a, w), 0);
  ck_assert_int_ne (kd_eigen_symmetric (2, b, w), 0);
}
GST_END_TEST

static Suite *
eigen_suite (void)
{
  Suite *s = suite_create ("eigen");
  TCase *t = tcase_create ("all");

  suite_add_tcase (s, t);
  tcase_add_test (t, test_by_hand);
  tcase_add_test (t, test_random);
  tcase_add_test (t, test_not_finite);
  return s;
}

GST_CHECK_MAIN (eigen)
