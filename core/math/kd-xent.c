#include "kd-xent.h"
#include "kd-kernel.h"

/* What one pass over a row finds: reference, sum of exponentials, sum of differences, sum of targets, sum of target x difference. */
typedef struct {
  float max;
  double z, sum, target, cross;
} Running;

KD_BODY void
move_reference (Running *run, float max, int64_t n_before)
{
  double step = (double) run->max - max;

  if (!(max > run->max))
    return;
  if (n_before > 0) {
    run->z *= exp (step);
    run->sum += (double) n_before * step;
    run->cross += run->target * step;
  }
  run->max = max;
}

KD_BODY void
block_sums (const float *x, const float *soft, int64_t n, int smooth, Running *run)
{
  float max = run->max, z = 0.0f, sum = 0.0f, target = 0.0f, cross = 0.0f;

#pragma omp simd reduction(+ \
                           : z, sum, target, cross)
  for (int64_t i = 0; i < n; i++) {
    float d = x[i] - max;
    z += kd_expf (d);
    if (smooth)
      sum += d;
    if (soft) {
      target += soft[i];
      cross += soft[i] * d;
    }
  }
  run->z += z;
  run->sum += sum;
  run->target += target;
  run->cross += cross;
}

KD_BODY void
block_gradient (const float *x, const float *soft, int64_t n, float max, float a, float b, float s, float *grad)
{
#pragma omp simd
  for (int64_t i = 0; i < n; i++) {
    float target = soft ? s * soft[i] + b : b;
    grad[i] += a * kd_expf (x[i] - max) - target;
  }
}

/* Below this the logarithm of the sum is taken again without its largest term. */
#define SMALL 0.0625

KD_BODY void
row_kind (const KdXent *call, int64_t row, double *ret_value, int soft, int smooth)
{
  const float *x = call->logits + row * call->size, *y = soft ? call->soft + row * call->size : NULL;
  float *grad = call->grad ? call->grad + row * call->size : NULL;
  double eps = smooth ? call->smoothing : 0.0, even = eps / (double) call->size, total, c, log_z;
  Running run = { .max = -FLT_MAX };

  *ret_value = NAN;
  for (int64_t at = 0; at < call->size; at += KD_BLOCK) {
    int64_t n = call->size - at < KD_BLOCK ? call->size - at : KD_BLOCK;
    int fast;
    float max = kd_block_max (x + at, n, &fast);
    if (!fast)
      return;
    move_reference (&run, max, at);
    block_sums (x + at, soft ? y + at : NULL, n, smooth, &run);
  }
  if (!soft) {
    run.target = 1.0;
    run.cross = (double) x[call->label[row]] - run.max;
  }
  total = (1.0 - eps) * run.target + eps;
  log_z = log (run.z);
  if (log_z < SMALL)
    log_z = kd_log_sum_small (x, call->size, run.max, 1.0f);
  *ret_value = total * log_z - (1.0 - eps) * run.cross - (smooth ? even * run.sum : 0.0);
  if (!grad)
    return;
  c = call->coef[row] * call->scale;
  for (int64_t at = 0; at < call->size; at += KD_BLOCK) {
    int64_t n = call->size - at < KD_BLOCK ? call->size - at : KD_BLOCK;
    block_gradient (x + at, soft ? y + at : NULL, n, run.max, (float) (c * total / run.z), (float) (c * even), (float) (c * (1.0 - eps)),
        grad + at);
  }
  if (!soft)
    grad[call->label[row]] -= (float) (c * (1.0 - eps));
}

KD_BODY void
row_fast_body (const KdXent *call, int64_t row, double *ret_value)
{
  if (call->soft)
    row_kind (call, row, ret_value, 1, 1);
  else if (call->smoothing > 0.0)
    row_kind (call, row, ret_value, 0, 1);
  else
    row_kind (call, row, ret_value, 0, 0);
}

KD_KERNEL (row_fast, (const KdXent *call, int64_t row, double *ret_value), (call, row, ret_value))

static double
exact_target (const KdXent *call, int64_t row, int64_t i)
{
  double target = call->soft ? call->soft[row * call->size + i] : i == call->label[row];

  return (1.0 - call->smoothing) * target + call->smoothing / (double) call->size;
}

/* The definition in double, for rows with infinite or enormous logits. */
static double
row_exact (const KdXent *call, int64_t row)
{
  const float *x = call->logits + row * call->size;
  float *grad = call->grad ? call->grad + row * call->size : NULL;
  double max = -INFINITY, z = 0.0, total = 0.0, value = 0.0, lse, c = call->coef[row] * call->scale;

  for (int64_t i = 0; i < call->size; i++) {
    if (isnan (x[i]) || x[i] == INFINITY)
      return NAN;
    max = fmax (max, x[i]);
  }
  if (isinf (max))
    return NAN;
  for (int64_t i = 0; i < call->size; i++)
    z += exp (x[i] - max);
  lse = max + log (z);
  for (int64_t i = 0; i < call->size; i++) {
    double target = exact_target (call, row, i);
    total += target;
    value += target != 0.0 ? target * (lse - x[i]) : 0.0;
  }
  for (int64_t i = 0; grad && isfinite (value) && i < call->size; i++)
    grad[i] += (float) (c * (total * exp (x[i] - lse) - exact_target (call, row, i)));
  return value;
}

void
kd_xent_rows (const KdXent *call)
{
  int level = kd_kernel_level (call->level);

#pragma omp parallel for schedule(static) if (call->n > 1 && call->n * call->size >= KD_PARALLEL_ELEMENTS)
  for (int64_t row = 0; row < call->n; row++) {
    double value = 0.0;
    if (call->coef[row] != 0.0) {
      row_fast[level](call, row, &value);
      if (isnan (value))
        value = row_exact (call, row);
    }
    call->value[row] = value;
  }
}

int64_t
kd_xent_find_bad_soft (int64_t n, int64_t size, const float *soft, const double *coef)
{
  for (int64_t row = 0; row < n; row++) {
    double sum = 0.0;
    int negative = 0;
    if (coef[row] == 0.0)
      continue;
    for (int64_t i = 0; i < size; i++) {
      sum += soft[row * size + i];
      negative |= soft[row * size + i] < 0.0f;
    }
    if (negative || !(fabs (sum - 1.0) <= 1e-3))
      return row;
  }
  return -1;
}
