#include "kd-xent.h"
#include "kd-block.h"
#include "kd-narrow.h"
#include "kd-row.h"

/* What one pass over a row finds: exponentials and their sum, sum of the powers, sum of targets, sum of target x power. */
typedef struct {
  KdTable x;
  double sum, target, cross;
} Row;

typedef struct {
  float z, sum, target, cross;
} Sums;

KD_BODY Sums
block_sums (const float *x, const float *soft, int64_t n, float reference, int smooth, float *restrict e)
{
  float z = 0.0f, sum = 0.0f, target = 0.0f, cross = 0.0f, top = 0.0f;

#pragma omp simd reduction(+                                      \
                           : z, sum, target, cross) reduction(max \
                                                              : top)
  for (int64_t i = 0; i < n; i++) {
    float y = (x[i] - reference) * (float) KD_LOG2E;
    e[i] = kd_exp2f (y);
    z += e[i];
    top = y > top ? y : top;
    if (smooth)
      sum += y;
    if (soft) {
      target += soft[i];
      cross += soft[i] * y;
    }
  }
  return (Sums) { top > KD_BLOCK_TOP ? INFINITY : z, sum, target, cross };
}

/* From memory into the scratch. @start: the first reference at least. */
KD_BODY void
first_pass (const float *x, const float *soft, int64_t size, Row *row, float start, int smooth, const KdBlockLoops *loops)
{
  row->x.reference = start;
  row->x.z = row->sum = row->target = row->cross = 0.0;
  for (int64_t at = 0; at < size; at += KD_BLOCK) {
    int64_t n = kd_block_length (size, at);
    int raise = at == 0;
    Sums sums;

    if (soft || smooth)
      kd_prefetch (x + at + KD_AHEAD, n * 4);
    if (soft)
      kd_prefetch (soft + at + KD_AHEAD, n * 4);
    do {
      if (raise) {
        double step = kd_table_raise (&row->x, kd_block_top (x + at, n), (float) KD_LOG2E);
        row->sum += (double) at * step;
        row->cross += row->target * step;
      }
      if (soft || smooth) {
        sums = block_sums (x + at, soft ? soft + at : NULL, n, row->x.reference, smooth, row->x.e + at);
      } else {
        sums = (Sums) { .z = loops->exps (x + at, x + at + KD_AHEAD, n, row->x.reference, (float) KD_LOG2E, row->x.e + at) };
      }
      raise = !raise && !(sums.z <= KD_RISE);
    } while (raise);
    row->x.reference_of[at / KD_BLOCK] = row->x.reference;
    row->x.z += sums.z;
    row->sum += sums.sum;
    row->target += sums.target;
    row->cross += sums.cross;
  }
}

/* a e - (s soft + b), from the scratch into the gradient, from behind; ahead of it the next row is read. */
KD_BODY void
last_pass (const float *next, const float *soft, int64_t size, const Row *row, double a, float b, float s, float *grad, KdPut put)
{
  int64_t last = (size - 1) / KD_BLOCK * KD_BLOCK, ahead = put == KD_PUT_STREAM && size <= KD_PREFETCH_SIZE ? size / 2 : 0;
  float out[KD_BLOCK] __attribute__ ((aligned (64)));

  for (int64_t at = last; at >= 0; at -= KD_BLOCK) {
    int64_t n = kd_block_length (size, at);
    const float *restrict e = row->x.e + at;
    float factor = (float) (a * kd_step_factor (kd_table_step (&row->x, at / KD_BLOCK, (float) KD_LOG2E)));
    if (last - at < ahead)
      kd_prefetch (next + (last - at), n * 4);
#pragma omp simd
    for (int64_t i = 0; i < n; i++)
      out[i] = factor * e[i] - (soft ? s * soft[at + i] + b : b);
    kd_put_block (grad + at, out, n, put);
  }
}

/* Below this a value is made again relative to the largest logit and the logarithm without its largest term. */
#define SMALL 0.0625

KD_BODY void
row_kind (const KdXent *call, int64_t index, float *scratch, KdPut put, double *ret_value, int soft, int smooth)
{
  const float *x = call->logits + index * call->size, *y = soft ? call->soft + index * call->size : NULL;
  float *grad = call->grad ? call->grad + index * call->size : NULL;
  double eps = smooth ? call->smoothing : 0.0, even = eps / (double) call->size, total, c, log_z, value;
  const KdBlockLoops *loops = &kd_block_loops[kd_kernel_level (call->level)];
  Row row;

  kd_table_init (&row.x, scratch, call->size);
  first_pass (x, y, call->size, &row, -FLT_MAX, smooth, loops);
  for (int small = 0; small < 2; small++) {
    float top = small ? kd_block_top (x, call->size) : 0.0f;

    if (small && top > row.x.reference)
      first_pass (x, y, call->size, &row, top, smooth, loops);
    if (!soft) {
      row.target = 1.0;
      row.cross = ((double) x[call->label[index]] - row.x.reference) * KD_LOG2E;
    }
    total = (1.0 - eps) * row.target + eps;
    log_z = small ? kd_log_sum_small (x, call->size, top, 1.0f) : log (row.x.z);
    value = total * log_z - KD_LN2 * ((1.0 - eps) * row.cross + (smooth ? even * row.sum : 0.0));
    if (!(value < SMALL))
      break;
  }
  *ret_value = isfinite (value) && isfinite (log_z) ? value : NAN;
  if (!grad || isnan (*ret_value))
    return;
  c = call->coef[index] * call->scale;
  last_pass (x + call->size, y, call->size, &row, c * total / row.x.z, (float) (c * even), (float) (c * (1.0 - eps)), grad, put);
  if (!soft)
    grad[call->label[index]] -= (float) (c * (1.0 - eps));
}

KD_BODY void
row_fast_body (const KdXent *call, int64_t index, float *scratch, KdPut put, double *ret_value)
{
  if (call->soft)
    row_kind (call, index, scratch, put, ret_value, 1, 1);
  else if (call->smoothing > 0.0)
    row_kind (call, index, scratch, put, ret_value, 0, 1);
  else
    row_kind (call, index, scratch, put, ret_value, 0, 0);
}

KD_KERNEL (row_fast, (const KdXent *call, int64_t index, float *scratch, KdPut put, double *ret_value), (call, index, scratch, put, ret_value))

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

static double
xent_row (const KdXent *call, int64_t index, float *scratch, KdPut put, int level)
{
  double value = 0.0;

  if (call->coef[index] != 0.0) {
    row_fast[level](call, index, scratch, put, &value);
    if (!isnan (value))
      return value;
  }
  kd_put_nothing (call->grad ? call->grad + index * call->size : NULL, call->size, put);
  return call->coef[index] != 0.0 ? row_exact (call, index) : 0.0;
}

void
kd_xent_rows (const KdXent *call)
{
  int level = kd_kernel_level (call->level);
  KdPut put = kd_put_kind (call->fresh, call->n, call->size);

  if (call->size <= KD_NARROW && !call->soft) {
    kd_narrow_xent_rows (call, row_exact);
    return;
  }
#pragma omp parallel if (call->n > 1 && call->n * call->size >= KD_PARALLEL_ELEMENTS)
  {
    float *scratch = kd_scratch_new (kd_table_floats (call->size));
#pragma omp for schedule(static)
    for (int64_t i = 0; i < call->n; i++)
      call->value[i] = xent_row (call, i, scratch, put, level);
    kd_put_end (put);
    free (scratch);
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
