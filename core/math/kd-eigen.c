#include "kd-eigen.h"

#include <limits.h>
#include <math.h>
#include <stdlib.h>

/* LAPACK's own name for Fortran; integers of 32 bits, as Debian builds it. */
extern void dsyev_ (const char *jobz, const char *uplo, const int *n, double *a, const int *lda, double *w, double *work, const int *lwork, int *info, size_t jobz_length,
    size_t uplo_length);

static void
swap (double *a, double *b)
{
  double t = *a;

  *a = *b;
  *b = t;
}

static void
fix_sign (int64_t n, double *vector)
{
  double top = vector[0];

  for (int64_t i = 1; i < n; i++)
    if (fabs (vector[i]) > fabs (top))
      top = vector[i];
  for (int64_t i = 0; top < 0 && i < n; i++)
    vector[i] = -vector[i];
}

int
kd_eigen_symmetric (int64_t n, double *matrix, double *ret_values)
{
  int size = (int) n, work_size = -1, info = 0;
  double best = 0, *work;

  if (n <= 0 || n > INT_MAX)
    return n != 0;
  for (int64_t i = 0; i < n * n; i++)
    if (!isfinite (matrix[i]))
      return 1;
  /* Rows here are columns there: the lower triangle of the one is the upper of the other, eigenvectors come out as rows. */
  dsyev_ ("V", "U", &size, matrix, &size, ret_values, &best, &work_size, &info, 1, 1);
  if (info != 0)
    return info;
  work_size = (int) best;
  work = malloc ((size_t) work_size * sizeof *work);
  if (!work)
    return 1;
  dsyev_ ("V", "U", &size, matrix, &size, ret_values, work, &work_size, &info, 1, 1);
  free (work);
  for (int64_t i = 0; info == 0 && i < n / 2; i++) { /* ascending there */
    swap (&ret_values[i], &ret_values[n - 1 - i]);
    for (int64_t j = 0; j < n; j++)
      swap (&matrix[i * n + j], &matrix[(n - 1 - i) * n + j]);
  }
  for (int64_t i = 0; info == 0 && i < n; i++)
    fix_sign (n, matrix + i * n);
  return info;
}
