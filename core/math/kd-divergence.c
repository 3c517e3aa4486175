#include "kd-measure.h"
#include "kd-narrow.h"
#include "kd-pair.h"

/* @c: coefficient of the gradient; @value: the row's; from the scratch into the gradient, from behind. */
KD_BODY void
last_pass (const KdDivergence *call, int64_t index, const KdPair *row, KdCross kind, double c, double value, KdPut put)
{
  int64_t last = (call->size - 1) / KD_BLOCK * KD_BLOCK;
  float *grad = call->grad + index * call->size, out[KD_BLOCK] __attribute__ ((aligned (64)));
  double log_z = log (row->s.z) - log (row->t.z);

  for (int64_t at = last; at >= 0; at -= KD_BLOCK) {
    int64_t n = kd_block_length (call->size, at), block = at / KD_BLOCK;
    double step_s = kd_table_step (&row->s, block, row->k), step_t = kd_table_step (&row->t, block, row->k), a = c * kd_step_factor (step_s) / row->s.z, b;

    if (kind == KD_CROSS_REVERSE) { /* powers of two to nats */
      b = step_s - step_t - (log_z + value) / KD_LN2;
      a *= KD_LN2;
    } else {
      b = c * kd_step_factor (step_t) / row->t.z;
    }
    kd_pair_gradient (row->s.e + at, row->t.e + at, n, (float) a, (float) b, kind, out);
    kd_put_block (grad + at, out, n, put);
  }
}

/* The student's part of a small cross-entropy: only relative to its largest logit are all terms small. */
KD_BODY double
cross_small (const KdDivergence *call, const float *student, const void *teacher, KdPair *row, KdReal type)
{
  float top = kd_block_top (student, call->size);

  if (top > row->s.reference)
    kd_pair_read (row, call, student, teacher, top, -FLT_MAX, KD_CROSS_STUDENT, 0, type, -1);
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

  kd_pair_init (&row, scratch, call->size, call->temperature, kd_kernel_level (call->level));
  kd_pair_read (&row, call, student, teacher, -FLT_MAX, -FLT_MAX, kind, 0, type, -1);
  log_s = log (row.s.z);
  log_t = kind == KD_CROSS_STUDENT ? 0.0 : log (row.t.z);
  if (kind == KD_CROSS_REVERSE)
    value = KD_LN2 * row.cross / row.s.z - log_s + log_t;
  else
    value = KD_LN2 * row.cross / row.t.z + log_s - log_t;
  *ret_value = NAN;
  if (!isfinite (value) || !isfinite (log_s) || !(row.t.z > 0.0 && row.t.z <= DBL_MAX) || (kind == KD_CROSS_REVERSE && value > KD_LARGE))
    return;
  if (value < KD_SMALL && kind == KD_CROSS_STUDENT)
    value = cross_small (call, student, teacher, &row, type);
  else if (value < KD_SMALL)
    value = kd_pair_small (call, student, teacher, &row, kind == KD_CROSS_REVERSE, type, -1);
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
