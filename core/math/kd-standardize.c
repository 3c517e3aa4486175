#include "kd-standardize.h"
#include "kd-kernel.h"

typedef struct {
  double mean, sigma;
} Moments;

static Moments
row_moments (const void *x, KdReal type, int64_t size)
{
  Moments m = { 0.0, 0.0 };

  for (int64_t i = 0; i < size; i++)
    m.mean += kd_load_value (x, type, i);
  m.mean /= (double) size;
  for (int64_t i = 0; i < size; i++) {
    double d = kd_load_value (x, type, i) - m.mean;
    m.sigma += d * d;
  }
  m.sigma = size > 1 ? sqrt (m.sigma / (double) (size - 1)) : 0.0;
  return m;
}

void
kd_standardize_rows (int64_t n, int64_t size, const void *in, KdReal type, const double *coef, float *out, double *sigma)
{
#pragma omp parallel for schedule(static) if (n > 1 && n * size >= KD_PARALLEL_ELEMENTS)
  for (int64_t row = 0; row < n; row++) {
    const void *x = kd_row_of (in, type, row, size);
    Moments m;
    if (coef[row] == 0.0)
      continue;
    m = row_moments (x, type, size);
    for (int64_t i = 0; i < size; i++)
      out[row * size + i] = (float) ((kd_load_value (x, type, i) - m.mean) / (m.sigma + KD_STANDARDIZE_FLOOR));
    if (sigma)
      sigma[row] = m.sigma;
  }
}

static void
row_backward (int64_t size, const float *x, const float *g, float *grad)
{
  Moments m = row_moments (x, KD_REAL_F32, size);
  double width = m.sigma + KD_STANDARDIZE_FLOOR, mean_g = 0.0, along = 0.0;

  if (!(m.sigma > 0.0))
    return;
  for (int64_t i = 0; i < size; i++) {
    mean_g += g[i];
    along += g[i] * (x[i] - m.mean);
  }
  mean_g /= (double) size;
  along /= (double) (size - 1) * m.sigma * width * width;
  for (int64_t i = 0; i < size; i++)
    grad[i] += (float) ((g[i] - mean_g) / width - along * (x[i] - m.mean));
}

void
kd_standardize_backward_rows (int64_t n, int64_t size, const float *in, const double *coef, const float *upstream, float *grad)
{
#pragma omp parallel for schedule(static) if (n > 1 && n * size >= KD_PARALLEL_ELEMENTS)
  for (int64_t row = 0; row < n; row++)
    if (coef[row] != 0.0)
      row_backward (size, in + row * size, upstream + row * size, grad + row * size);
}
