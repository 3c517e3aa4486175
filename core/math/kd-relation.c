#include "kd-relation.h"
#include "kd-decoupled.h"

#include <math.h>

int64_t
kd_gather_rows (int64_t n, int64_t size, const void *table, KdReal type, const double *coef, double *ret)
{
  int64_t counted = 0;

  for (int64_t i = 0; i < n; i++) {
    if (coef[i] == 0)
      continue;
    if (ret)
      kd_row_to_double (table, type, i, size, ret + counted * size);
    counted++;
  }
  return counted;
}

void
kd_scatter_rows (int64_t n, int64_t size, const double *grad, double scale, const double *coef, float *to)
{
  int64_t at = 0;

  for (int64_t i = 0; i < n; i++) {
    if (coef[i] == 0)
      continue;
    for (int64_t j = 0; j < size; j++)
      to[i * size + j] += (float) (scale * grad[at * size + j]);
    at++;
  }
}

void
kd_inner_products (int64_t n, int64_t m, int64_t size, const double *a, const double *b, double *ret)
{
#pragma omp parallel for schedule(static) if (n * m * size > 1 << 18)
  for (int64_t i = 0; i < n; i++)
    for (int64_t j = 0; j < m; j++) {
      double sum = 0;
      for (int64_t k = 0; k < size; k++)
        sum += a[i * size + k] * b[j * size + k];
      ret[i * m + j] = sum;
    }
}

void
kd_unit_rows (int64_t n, int64_t size, double *x, double *ret_norm)
{
  for (int64_t i = 0; i < n; i++) {
    double sum = 0;
    for (int64_t j = 0; j < size; j++)
      sum += x[i * size + j] * x[i * size + j];
    ret_norm[i] = sqrt (sum) < KD_NORM_FLOOR ? 0 : sqrt (sum);
    for (int64_t j = 0; j < size; j++)
      x[i * size + j] = ret_norm[i] == 0 ? 0 : x[i * size + j] / ret_norm[i]; /* NaN stays NaN */
  }
}

void
kd_unit_rows_backward (int64_t n, int64_t size, const double *unit, const double *norm, double *grad)
{
  for (int64_t i = 0; i < n; i++) {
    double along = 0;
    for (int64_t j = 0; j < size; j++)
      along += unit[i * size + j] * grad[i * size + j];
    for (int64_t j = 0; j < size; j++)
      grad[i * size + j] = norm[i] == 0 ? 0 : (grad[i * size + j] - along * unit[i * size + j]) / norm[i];
  }
}
