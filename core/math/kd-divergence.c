#include "kd-measure.h"
#include "kd-kernel.h"

/* Running state of one row: maxima so far, sums of exponentials relative to them, and the sum of (weight x difference). */
typedef struct {
  float max_s, max_t;
  double z_s, z_t, cross;
} Running;

/* One block into the sums. When a maximum rises, what was summed before is moved to the new reference first. */
KD_BODY void
block_sums (const float *s, const float *t, int64_t n, float max_s, float max_t, float inv_t, KdDivergenceKind kind, int cross_entropy,
    Running *run)
{
  float z_s = 0.0f, z_t = 0.0f, cross = 0.0f;

  if (run->z_s > 0.0 && (max_s > run->max_s || max_t > run->max_t)) {
    double step_s = max_s > run->max_s ? ((double) run->max_s - max_s) * inv_t : 0.0;
    double step_t = max_t > run->max_t ? ((double) run->max_t - max_t) * inv_t : 0.0;
    double factor_s = exp (step_s), factor_t = exp (step_t);
    if (kind == KD_DIVERGENCE_REVERSE_KL)
      run->cross = factor_s * (run->cross + run->z_s * (step_s - step_t));
    else
      run->cross = factor_t * (run->cross + run->z_t * ((cross_entropy ? 0.0 : step_t) - step_s));
    run->z_s *= factor_s;
    run->z_t *= factor_t;
  }
  max_s = run->max_s = max_s > run->max_s ? max_s : run->max_s;
  max_t = run->max_t = max_t > run->max_t ? max_t : run->max_t;
#pragma omp simd reduction(+ \
                           : z_s, z_t, cross)
  for (int64_t i = 0; i < n; i++) {
    float d_s = (s[i] - max_s) * inv_t, d_t = (t[i] - max_t) * inv_t;
    float e_s = kd_expf (d_s), e_t = kd_expf (d_t);
    z_s += e_s;
    z_t += e_t;
    cross += kind == KD_DIVERGENCE_REVERSE_KL ? e_s * (d_s - d_t) : e_t * ((cross_entropy ? 0.0f : d_t) - d_s);
  }
  run->z_s += z_s;
  run->z_t += z_t;
  run->cross += cross;
}

/* grad += a q - b p (forward) or a q (l_q - l_p + shift) (reverse), where a and b hold the normalisers. */
KD_BODY void
block_gradient (const float *s, const float *t, int64_t n, const Running *run, float inv_t, KdDivergenceKind kind, float a, float b,
    float *grad)
{
  float max_s = run->max_s, max_t = run->max_t;

#pragma omp simd
  for (int64_t i = 0; i < n; i++) {
    float d_s = (s[i] - max_s) * inv_t, d_t = (t[i] - max_t) * inv_t;
    if (kind == KD_DIVERGENCE_REVERSE_KL)
      grad[i] += a * kd_expf (d_s) * (d_s - d_t + b);
    else
      grad[i] += a * kd_expf (d_s) - b * kd_expf (d_t);
  }
}

/* Below this a value is summed again in a form that does not cancel. */
#define SMALL 0.0625

/* The sum of w (e^u - 1 - u), which is KL (w || w e^u) term by term: every term is small where the distributions are near, and an error of
 * the normalisers cancels to first order. u = l_q - l_p forward, l_p - l_q reverse. */
KD_BODY double
block_small (const float *s, const float *t, int64_t n, const Running *run, float inv_t, KdDivergenceKind kind, float log_z)
{
  float max_s = run->max_s, max_t = run->max_t, a = (float) (1.0 / run->z_s), b = (float) (1.0 / run->z_t), sum = 0.0f;

#pragma omp simd reduction(+ \
                           : sum)
  for (int64_t i = 0; i < n; i++) {
    float d_s = s[i] - max_s, d_t = t[i] - max_t, q = a * kd_expf (d_s * inv_t), p = b * kd_expf (d_t * inv_t);
    float w = kind == KD_DIVERGENCE_REVERSE_KL ? q : p, other = kind == KD_DIVERGENCE_REVERSE_KL ? p : q;
    float u = (d_s - d_t) * inv_t - log_z;
    u = kind == KD_DIVERGENCE_REVERSE_KL ? -u : u;
    float series = 1.0f / 40320;
    series = series * u + 1.0f / 5040;
    series = series * u + 1.0f / 720;
    series = series * u + 1.0f / 120;
    series = series * u + 1.0f / 24;
    series = series * u + 1.0f / 6;
    series = series * u + 1.0f / 2;
    sum += fabsf (u) < 0.5f ? w * u * u * series : other - w - w * u;
  }
  return sum;
}

/* A row's value when it is small. */
KD_BODY double
row_small (const KdDivergence *call, const float *student, const void *teacher, const Running *run, KdDivergenceKind kind, KdReal type,
    int cross_entropy, double log_z)
{
  float inv_t = (float) (1.0 / call->temperature), buffer[KD_BLOCK] __attribute__ ((aligned (64)));
  double value = 0.0;

  if (cross_entropy)
    return run->cross / run->z_t + kd_log_sum_small (student, call->size, run->max_s, inv_t);
  for (int64_t at = 0; at < call->size; at += KD_BLOCK) {
    int64_t n = call->size - at < KD_BLOCK ? call->size - at : KD_BLOCK;
    const float *t = kd_load_block (teacher, type, at, n, buffer);
    value += block_small (student + at, t, n, run, inv_t, kind, (float) log_z);
  }
  return value;
}

/* Whole row; *ret_value is NaN when the row needs the exact way (nothing is written then). */
KD_BODY void
row_kind (const KdDivergence *call, int64_t row, double *ret_value, KdDivergenceKind kind, KdReal type, int cross_entropy)
{
  const float *student = call->student + row * call->size;
  const void *teacher = kd_row_of (call->teacher, type, row, call->size);
  float *grad = call->grad ? call->grad + row * call->size : NULL;
  Running run = { -FLT_MAX, -FLT_MAX, 0.0, 0.0, 0.0 };
  float inv_t = (float) (1.0 / call->temperature), buffer[KD_BLOCK] __attribute__ ((aligned (64)));
  double log_z, value, c;

  *ret_value = NAN;
  for (int64_t at = 0; at < call->size; at += KD_BLOCK) {
    int64_t n = call->size - at < KD_BLOCK ? call->size - at : KD_BLOCK;
    const float *s = student + at, *t = kd_load_block (teacher, type, at, n, buffer);
    int fast_s, fast_t;
    float max_s = kd_block_max (s, n, &fast_s), max_t = kd_block_max (t, n, &fast_t);
    if (!fast_s || !fast_t)
      return;
    block_sums (s, t, n, max_s, max_t, inv_t, kind, cross_entropy, &run);
  }
  log_z = log (run.z_s) - (cross_entropy ? 0.0 : log (run.z_t));
  value = kind == KD_DIVERGENCE_REVERSE_KL ? run.cross / run.z_s - log_z : run.cross / run.z_t + log_z;
  *ret_value = value < SMALL ? row_small (call, student, teacher, &run, kind, type, cross_entropy, log_z) : value;
  if (!grad)
    return;
  c = call->coef[row] * call->scale / call->temperature;
  for (int64_t at = 0; at < call->size; at += KD_BLOCK) {
    int64_t n = call->size - at < KD_BLOCK ? call->size - at : KD_BLOCK;
    const float *t = kd_load_block (teacher, type, at, n, buffer);
    float b = (float) (kind == KD_DIVERGENCE_REVERSE_KL ? -log_z - value : c / run.z_t);
    block_gradient (student + at, t, n, &run, inv_t, kind, (float) (c / run.z_s), b, grad + at);
  }
}

KD_BODY void
row_fast_body (const KdDivergence *call, int64_t row, double *ret_value)
{
  /* constants where the loops depend on them */
  if (call->kind == KD_DIVERGENCE_REVERSE_KL && call->teacher_type == KD_REAL_F32)
    row_kind (call, row, ret_value, KD_DIVERGENCE_REVERSE_KL, KD_REAL_F32, 0);
  else if (call->kind == KD_DIVERGENCE_REVERSE_KL)
    row_kind (call, row, ret_value, KD_DIVERGENCE_REVERSE_KL, call->teacher_type, 0);
  else if (call->cross_entropy)
    row_kind (call, row, ret_value, KD_DIVERGENCE_FORWARD_KL, call->teacher_type, 1);
  else if (call->teacher_type == KD_REAL_F32)
    row_kind (call, row, ret_value, KD_DIVERGENCE_FORWARD_KL, KD_REAL_F32, 0);
  else
    row_kind (call, row, ret_value, KD_DIVERGENCE_FORWARD_KL, call->teacher_type, 0);
}

KD_KERNEL (row_fast, (const KdDivergence *call, int64_t row, double *ret_value), (call, row, ret_value))

static void
fast_rows (const KdDivergence *call)
{
  int level = kd_kernel_level (call->level);
  KdMeasure measure = kd_measure_of (call);

#pragma omp parallel for schedule(static) if (call->n > 1 && call->n * call->size >= KD_PARALLEL_ELEMENTS)
  for (int64_t row = 0; row < call->n; row++) {
    double value = 0.0;
    if (call->coef[row] != 0.0) {
      row_fast[level](call, row, &value);
      if (isnan (value))
        value = kd_exact_row (call, &measure, row);
    }
    call->value[row] = value;
  }
}

void
kd_divergence_rows (const KdDivergence *call)
{
  KdDivergence limit = *call;

  if (call->kind == KD_DIVERGENCE_JSD && (call->beta <= 0.0 || call->beta >= 1.0)) { /* as TRL defines the ends */
    limit.kind = call->beta <= 0.0 ? KD_DIVERGENCE_FORWARD_KL : KD_DIVERGENCE_REVERSE_KL;
    limit.cross_entropy = 0;
  }
  if (limit.kind == KD_DIVERGENCE_FORWARD_KL || limit.kind == KD_DIVERGENCE_REVERSE_KL)
    fast_rows (&limit);
  else
    kd_mixture_rows (&limit);
}
