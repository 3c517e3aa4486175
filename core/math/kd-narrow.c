/* Narrow rows: LANES of them are turned over, so that a loop over rows is what is vectorised. Which rows stand together changes no bit. */
#include "kd-narrow.h"
#include "kd-measure.h"
#include "kd-row.h"

#define LANES 32
typedef float Tile[KD_NARROW][LANES];

/* Rows that do not count (and lanes beyond the last row) are zeros. */
KD_BODY void
load_tile (const void *data, KdReal type, int64_t first, int64_t n, int64_t size, const double *coef, Tile tile)
{
  float buffer[KD_NARROW];

  for (int64_t r = 0; r < LANES; r++) {
    const float *x = buffer;
    if (r < n && coef[first + r] != 0.0)
      x = kd_load_block (kd_row_of (data, type, first + r, size), type, 0, size, buffer);
    else
      memset (buffer, 0, sizeof buffer);
    for (int64_t i = 0; i < size; i++)
      tile[i][r] = x[i];
  }
}

/* Powers of two below each row's largest logit in place of the logits, and their exponentials. */
KD_BODY void
exponentials (Tile x, int64_t size, float k, Tile e, float *restrict z)
{
  float max[LANES];

  for (int r = 0; r < LANES; r++) {
    max[r] = x[0][r];
    z[r] = 0.0f;
  }
  for (int64_t i = 1; i < size; i++)
    for (int r = 0; r < LANES; r++)
      max[r] = x[i][r] > max[r] ? x[i][r] : max[r];
  for (int64_t i = 0; i < size; i++) {
#pragma omp simd
    for (int r = 0; r < LANES; r++) {
      x[i][r] = (x[i][r] - max[r]) * k;
      e[i][r] = kd_exp2f (x[i][r]);
      z[r] += e[i][r];
    }
  }
}

/* The gradient's rows, turned back; rows whose value is not finite get nothing. */
KD_BODY void
store_tile (Tile tile, int64_t n, int64_t size, const float *value, float *grad, KdPut put)
{
  float rows[KD_NARROW * LANES] __attribute__ ((aligned (64)));

  for (int64_t r = 0; r < n; r++)
    for (int64_t i = 0; i < size; i++)
      rows[r * size + i] = isfinite (value[r]) ? tile[i][r] : 0.0f;
  kd_put_block (grad, rows, n * size, put);
}

/* w (e^u - 1 - u), a term of KL (w || w e^u): never negative, so that the sum keeps its digits whether the distributions are near or far. */
KD_BODY float
positive_term (float w, float other, float u)
{
  float series = 1.0f / 40320;

  series = series * u + 1.0f / 5040;
  series = series * u + 1.0f / 720;
  series = series * u + 1.0f / 120;
  series = series * u + 1.0f / 24;
  series = series * u + 1.0f / 6;
  series = series * u + 1.0f / 2;
  return fabsf (u) < 0.5f ? w * u * u * series : other - w - w * u;
}

KD_BODY void
divergence_kind (const KdDivergence *call, int64_t first, int64_t n, KdPut put, float *restrict value, int reverse)
{
  Tile s __attribute__ ((aligned (64))), t __attribute__ ((aligned (64))), es __attribute__ ((aligned (64))), et __attribute__ ((aligned (64)));
  float k = (float) (KD_LOG2E / call->temperature), z_s[LANES], z_t[LANES], log_z[LANES], c[LANES];

  load_tile (call->student, KD_REAL_F32, first, n, call->size, call->coef, s);
  load_tile (call->teacher, call->teacher_type, first, n, call->size, call->coef, t);
  exponentials (s, call->size, k, es, z_s);
  exponentials (t, call->size, k, et, z_t);
  for (int r = 0; r < LANES; r++) {
    log_z[r] = kd_log2f (z_s[r]) - kd_log2f (z_t[r]);
    value[r] = 0.0f;
    c[r] = r < n ? (float) (call->coef[first + r] * call->scale / call->temperature) : 0.0f;
    z_s[r] = 1.0f / z_s[r];
    z_t[r] = 1.0f / z_t[r];
  }
  for (int64_t i = 0; i < call->size; i++) {
#pragma omp simd
    for (int r = 0; r < LANES; r++) { /* to probabilities, and the logarithm of their quotient in place of the student's powers */
      float u = (s[i][r] - t[i][r] - log_z[r]) * (float) KD_LN2, q = es[i][r] * z_s[r], p = et[i][r] * z_t[r];
      value[r] += reverse ? positive_term (q, p, -u) : positive_term (p, q, u);
      es[i][r] = q;
      et[i][r] = p;
      s[i][r] = u;
    }
  }
  if (!call->grad)
    return;
  for (int64_t i = 0; i < call->size; i++) {
#pragma omp simd
    for (int r = 0; r < LANES; r++)
      es[i][r] = c[r] * (reverse ? es[i][r] * (s[i][r] - value[r]) : es[i][r] - et[i][r]);
  }
  store_tile (es, n, call->size, value, call->grad + first * call->size, put);
}

KD_BODY void
divergence_body (const KdDivergence *call, int64_t first, int64_t n, KdPut put, float *value)
{
  if (call->kind == KD_DIVERGENCE_REVERSE_KL)
    divergence_kind (call, first, n, put, value, 1);
  else
    divergence_kind (call, first, n, put, value, 0);
}

KD_KERNEL (divergence, (const KdDivergence *call, int64_t first, int64_t n, KdPut put, float *value), (call, first, n, put, value))

void
kd_narrow_divergence_rows (const KdDivergence *call)
{
  int level = kd_kernel_level (call->level);
  KdPut put = kd_put_kind (call->fresh, call->n, call->size);
  KdMeasure measure = kd_measure_of (call);

#pragma omp parallel if (call->n > LANES && call->n * call->size >= KD_PARALLEL_ELEMENTS)
  {
#pragma omp for schedule(static)
    for (int64_t first = 0; first < call->n; first += LANES) {
      int64_t n = call->n - first < LANES ? call->n - first : LANES;
      float value[LANES];

      divergence[level](call, first, n, put, value);
      for (int64_t r = 0; r < n; r++)
        call->value[first + r] = call->coef[first + r] == 0.0 ? 0.0 : isfinite (value[r]) ? (double) value[r]
                                                                                          : kd_exact_row (call, &measure, first + r);
    }
    kd_put_end (put);
  }
}

/* The sum of the exponentials without the largest one, which is 1: what is left when the label is sure. */
KD_BODY void
sum_rest (Tile y, Tile e, int64_t size, float *restrict rest)
{
  for (int r = 0; r < LANES; r++)
    rest[r] = 0.0f;
  for (int64_t i = 0; i < size; i++)
    for (int r = 0; r < LANES; r++)
      rest[r] += y[i][r] < 0.0f ? e[i][r] : 0.0f;
}

/* Below this the label is the largest logit by far, and the value the logarithm of 1 + the rest. */
#define SMALL 0.0625f

KD_BODY void
xent_body (const KdXent *call, int64_t first, int64_t n, KdPut put, float *value)
{
  Tile x __attribute__ ((aligned (64))), e __attribute__ ((aligned (64)));
  float z[LANES], rest[LANES], sum[LANES] = { 0 }, at_label[LANES] = { 0 }, c[LANES], scale[LANES];
  float eps = (float) call->smoothing, even = (float) (call->smoothing / (double) call->size);

  load_tile (call->logits, KD_REAL_F32, first, n, call->size, call->coef, x);
  exponentials (x, call->size, (float) KD_LOG2E, e, z);
  sum_rest (x, e, call->size, rest);
  for (int64_t r = 0; r < n; r++)
    if (call->coef[first + r] != 0.0)
      at_label[r] = x[call->label[first + r]][r];
  for (int64_t i = 0; call->smoothing > 0.0 && i < call->size; i++)
    for (int r = 0; r < LANES; r++)
      sum[r] += x[i][r];
  for (int r = 0; r < LANES; r++) {
    float v = (kd_log2f (z[r]) - (1.0f - eps) * at_label[r] - even * sum[r]) * (float) KD_LN2;
    value[r] = v < SMALL && call->smoothing == 0.0 ? kd_log1p_small (rest[r]) : v;
    c[r] = r < n ? (float) (call->coef[first + r] * call->scale) : 0.0f;
    scale[r] = c[r] / z[r];
  }
  if (!call->grad)
    return;
  for (int64_t i = 0; i < call->size; i++) {
#pragma omp simd
    for (int r = 0; r < LANES; r++)
      e[i][r] = scale[r] * e[i][r] - c[r] * even;
  }
  for (int64_t r = 0; r < n; r++)
    if (call->coef[first + r] != 0.0)
      e[call->label[first + r]][r] -= c[r] * (1.0f - eps);
  store_tile (e, n, call->size, value, call->grad + first * call->size, put);
}

KD_KERNEL (xent, (const KdXent *call, int64_t first, int64_t n, KdPut put, float *value), (call, first, n, put, value))

void
kd_narrow_xent_rows (const KdXent *call, double (*exact) (const KdXent *call, int64_t row))
{
  int level = kd_kernel_level (call->level);
  KdPut put = kd_put_kind (call->fresh, call->n, call->size);

#pragma omp parallel if (call->n > LANES && call->n * call->size >= KD_PARALLEL_ELEMENTS)
  {
#pragma omp for schedule(static)
    for (int64_t first = 0; first < call->n; first += LANES) {
      int64_t n = call->n - first < LANES ? call->n - first : LANES;
      float value[LANES];

      xent[level](call, first, n, put, value);
      for (int64_t r = 0; r < n; r++)
        call->value[first + r] = call->coef[first + r] == 0.0 ? 0.0 : isfinite (value[r]) ? (double) value[r]
                                                                                          : exact (call, first + r);
    }
    kd_put_end (put);
  }
}
