#include "kd-measure.h"
#include "kd-narrow.h"
#include "kd-pair.h"

/* out = a e_s - b e_t, or in reverse a e_s (u + b). */
KD_BODY void
block_gradient (const float *restrict e_s, const float *restrict kept, int64_t n, float a, float b, KdCross kind, float *restrict out)
{
#pragma omp simd
  for (int64_t i = 0; i < n; i++)
    out[i] = kind == KD_CROSS_REVERSE ? a * e_s[i] * (kept[i] + b) : a * e_s[i] - b * kept[i];
}

/* @c: coefficient of the gradient; @value: the row's; from the scratch into the gradient, from behind. */
KD_BODY void
last_pass (const KdDivergence *call, int64_t index, const KdPair *row, KdCross kind, double c, double value, KdPut put)
{
  int64_t last = (call->size - 1) / KD_BLOCK * KD_BLOCK;
  float *grad = call->grad + index * call->size, out[KD_BLOCK] __attribute__ ((aligned (64)));
  double log_z = log (row->s.z) - log (row->t.z);

  for (int64_t at = last; at >= 0; at -= KD_BLOCK) {
    int64_t n = kd_block_length (call->size, at), block = at / KD_BLOCK;
    double step_s = kd_table_step (&row->s, block, row->k), step_t = kd_table_step (&row->t, block, row->k), a = c * exp2 (step_s) / row->s.z, b;

    if (kind == KD_CROSS_REVERSE) { /* powers of two to nats */
      b = step_s - step_t - (log_z + value) / KD_LN2;
      a *= KD_LN2;
    } else {
      b = c * exp2 (step_t) / row->t.z;
    }
    kd_pair_ahead (call, index, last - at, n, put);
    block_gradient (row->s.e + at, row->t.e + at, n, (float) a, (float) b, kind, out);
    kd_put_block (grad + at, out, n, put);
  }
}

/* Below this a value is summed again in a form that does not cancel. */
#define SMALL 0.0625
/* The reverse gradient is a difference of log-ratios: beyond this value float32 leaves too few digits of it. */
#define LARGE 64.0

/* The sum of w (e^u - 1 - u), which is KL (w || w e^u) term by term: every term is small where the distributions are near, and an error of
 * the normalisers cancels to first order. u = l_q - l_p forward, l_p - l_q reverse; @a, @b: the normalisers of the exponentials. */
KD_BODY float
block_small (const float *s, const float *t, int64_t n, const KdPair *row, int reverse, float log_z, float a, float b)
{
  float max_s = row->s.reference, max_t = row->t.reference, k = row->k, sum = 0.0f;

#pragma omp simd reduction(+ \
                           : sum)
  for (int64_t i = 0; i < n; i++) {
    float y_s = (s[i] - max_s) * k, y_t = (t[i] - max_t) * k, q = a * kd_exp2f (y_s), p = b * kd_exp2f (y_t);
    float w = reverse ? q : p, other = reverse ? p : q;
    float u = (y_s - y_t) * (float) KD_LN2 - log_z;
    u = reverse ? -u : u;
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
row_small (const KdDivergence *call, const float *student, const void *teacher, const KdPair *row, KdCross kind, KdReal type)
{
  float buffer[KD_BLOCK] __attribute__ ((aligned (64))), a = (float) (1.0 / row->s.z), b = (float) (1.0 / row->t.z);
  float log_z = (float) (log (row->s.z) - log (row->t.z));
  double value = 0.0;

  for (int64_t at = 0; at < call->size; at += KD_BLOCK) {
    int64_t n = kd_block_length (call->size, at);
    value += block_small (student + at, kd_load_block (teacher, type, at, n, buffer), n, row, kind == KD_CROSS_REVERSE, log_z, a, b);
  }
  return value;
}

/* The student's part of a small cross-entropy: only relative to its largest logit are all terms small. */
KD_BODY double
cross_small (const KdDivergence *call, const float *student, const void *teacher, KdPair *row, KdReal type)
{
  float top = kd_block_top (student, call->size);

  if (top > row->s.reference)
    kd_pair_read (row, call, student, teacher, top, -FLT_MAX, KD_CROSS_STUDENT, 0, type);
  return KD_LN2 * row->cross / row->t.z + kd_log_sum_small (student, call->size, top, (float) (1.0 / call->temperature));
}

/* Whole row; *ret_value is NaN when the row needs the exact way (nothing is written then). */
KD_BODY void
row_kind (const KdDivergence *call, int64_t index, float *scratch, KdPut put, double *ret_value, KdCross kind, KdReal type)
{
  const float *student = call->student + index * call->size;
  const void *teacher = kd_row_of (call->teacher, type, index, call->size);
  double log_s, log_t, value;
  KdPair row;

  kd_pair_init (&row, scratch, call->size, call->temperature);
  kd_pair_read (&row, call, student, teacher, -FLT_MAX, -FLT_MAX, kind, 0, type);
  log_s = log (row.s.z);
  log_t = kind == KD_CROSS_STUDENT ? 0.0 : log (row.t.z);
  if (kind == KD_CROSS_REVERSE)
    value = KD_LN2 * row.cross / row.s.z - log_s + log_t;
  else
    value = KD_LN2 * row.cross / row.t.z + log_s - log_t;
  *ret_value = NAN;
  if (!isfinite (value) || !isfinite (log_s) || !(row.t.z > 0.0 && row.t.z <= DBL_MAX) || (kind == KD_CROSS_REVERSE && value > LARGE))
    return;
  if (value < SMALL && kind == KD_CROSS_STUDENT)
    value = cross_small (call, student, teacher, &row, type);
  else if (value < SMALL)
    value = row_small (call, student, teacher, &row, kind, type);
  if (call->grad)
    last_pass (call, index, &row, kind, call->coef[index] * call->scale / call->temperature, value, put);
  *ret_value = value;
}

KD_BODY void
row_fast_body (const KdDivergence *call, int64_t index, float *scratch, KdPut put, double *ret_value)
{
  /* constants where the loops depend on them */
  if (call->kind == KD_DIVERGENCE_REVERSE_KL && call->teacher_type == KD_REAL_F32)
    row_kind (call, index, scratch, put, ret_value, KD_CROSS_REVERSE, KD_REAL_F32);
  else if (call->kind == KD_DIVERGENCE_REVERSE_KL)
    row_kind (call, index, scratch, put, ret_value, KD_CROSS_REVERSE, call->teacher_type);
  else if (call->cross_entropy)
    row_kind (call, index, scratch, put, ret_value, KD_CROSS_STUDENT, call->teacher_type);
  else if (call->teacher_type == KD_REAL_F32)
    row_kind (call, index, scratch, put, ret_value, KD_CROSS_FORWARD, KD_REAL_F32);
  else
    row_kind (call, index, scratch, put, ret_value, KD_CROSS_FORWARD, call->teacher_type);
}

KD_KERNEL (row_fast, (const KdDivergence *call, int64_t index, float *scratch, KdPut put, double *ret_value),
    (call, index, scratch, put, ret_value))

static double
fast_row (const KdDivergence *call, const KdMeasure *measure, int64_t index, float *scratch, KdPut put, int level)
{
  double value = 0.0;

  if (call->coef[index] != 0.0) {
    row_fast[level](call, index, scratch, put, &value);
    if (!isnan (value))
      return value;
  }
  kd_put_nothing (call->grad ? call->grad + index * call->size : NULL, call->size, put);
  return call->coef[index] != 0.0 ? kd_exact_row (call, measure, index) : 0.0;
}

static void
fast_rows (const KdDivergence *call)
{
  int level = kd_kernel_level (call->level);
  KdPut put = kd_put_kind (call->fresh, call->n, call->size);
  KdMeasure measure = kd_measure_of (call);

#pragma omp parallel if (call->n > 1 && call->n * call->size >= KD_PARALLEL_ELEMENTS)
  {
    float *scratch = kd_scratch_new (kd_pair_floats (call->size));
#pragma omp for schedule(static)
    for (int64_t i = 0; i < call->n; i++)
      call->value[i] = fast_row (call, &measure, i, scratch, put, level);
    kd_put_end (put);
    free (scratch);
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
  if (limit.size <= KD_NARROW && (limit.kind == KD_DIVERGENCE_REVERSE_KL || (limit.kind == KD_DIVERGENCE_FORWARD_KL && !limit.cross_entropy)))
    kd_narrow_divergence_rows (&limit);
  else if (limit.kind == KD_DIVERGENCE_FORWARD_KL || limit.kind == KD_DIVERGENCE_REVERSE_KL)
    fast_rows (&limit);
  else if (limit.kind == KD_DIVERGENCE_ALPHA_BETA)
    kd_exact_rows (&limit);
  else
    kd_mixture_rows (&limit);
}
