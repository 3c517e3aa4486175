/* Divergences by the definition in double: rows that the fast kernels do not take, and the adaptive KL's weights. */
#include "kd-measure.h"
#include "kd-kernel.h"

typedef struct {
  double lse_s, lse_t;
} Normalisers;

/* log-sum-exp of both rows over their finite values; FALSE when a row has NaN, +infinity or no finite value at all. */
static int
exact_normalisers (const KdDivergence *call, const float *s, const void *teacher, Normalisers *ret)
{
  double inv_t = 1.0 / call->temperature, max_s = -INFINITY, max_t = -INFINITY, z_s = 0.0, z_t = 0.0;

  for (int64_t i = 0; i < call->size; i++) {
    double a = s[i], b = kd_load_value (teacher, call->teacher_type, i);
    if (isnan (a) || isnan (b) || a == INFINITY || b == INFINITY || (call->reject_infinite && (isinf (a) || isinf (b))))
      return 0;
    max_s = fmax (max_s, a * inv_t);
    max_t = fmax (max_t, b * inv_t);
  }
  if (isinf (max_s) || isinf (max_t))
    return 0;
  for (int64_t i = 0; i < call->size; i++) {
    z_s += exp (s[i] * inv_t - max_s);
    z_t += exp (kd_load_value (teacher, call->teacher_type, i) * inv_t - max_t);
  }
  ret->lse_s = max_s + log (z_s);
  ret->lse_t = max_t + log (z_t);
  return 1;
}

/* Cross-entropy with the teacher is finite where the teacher alone excludes an id, and counts it, as DistiLLM does. */
static int
skips (const KdDivergence *call, double l_q, double l_p)
{
  int forward = call->kind == KD_DIVERGENCE_FORWARD_KL && call->cross_entropy;

  return isinf (l_q) || (isinf (l_p) && !forward);
}

double
kd_exact_row (const KdDivergence *call, const KdMeasure *measure, int64_t row)
{
  const float *s = call->student + row * call->size;
  const void *teacher = kd_row_of (call->teacher, call->teacher_type, row, call->size);
  float *grad = call->grad ? call->grad + row * call->size : NULL;
  double inv_t = 1.0 / call->temperature, value = 0.0, sum_a = 0.0, c = call->coef[row] * call->scale * inv_t;
  Normalisers norm;

  if (!exact_normalisers (call, s, teacher, &norm))
    return NAN;
  for (int pass = 0; pass < (grad ? 2 : 1); pass++)
    for (int64_t i = 0; i < call->size; i++) {
      double l_q = s[i] * inv_t - norm.lse_s, l_p = kd_load_value (teacher, call->teacher_type, i) * inv_t - norm.lse_t, term, a;
      if (skips (call, l_q, l_p)) {
        sum_a -= pass == 0 ? kd_measure_lost (measure) * exp (l_q) : 0.0;
        continue;
      }
      kd_outcome (measure, l_q, l_p, &term, &a);
      if (pass == 1) {
        grad[i] += (float) (c * (a - exp (l_q) * sum_a));
        continue;
      }
      sum_a += a;
      value += term;
    }
  return value;
}

void
kd_exact_rows (const KdDivergence *call)
{
  KdMeasure measure = kd_measure_of (call);

#pragma omp parallel for schedule(static) if (call->n > 1 && call->n * call->size >= KD_PARALLEL_ELEMENTS)
  for (int64_t i = 0; i < call->n; i++) {
    if (call->grad && call->fresh)
      memset (call->grad + i * call->size, 0, (size_t) call->size * sizeof (float));
    call->value[i] = call->coef[i] != 0.0 ? kd_exact_row (call, &measure, i) : 0.0;
  }
}

int
kd_adaptive_row (const KdDivergence *call, int64_t row, void *scratch, KdMeasure *ret_measure)
{
  const float *s = call->student + row * call->size;
  const void *teacher = kd_row_of (call->teacher, call->teacher_type, row, call->size);
  double inv_t = 1.0 / call->temperature, *p = scratch, *q = p + call->size;
  Normalisers norm;

  if (!exact_normalisers (call, s, teacher, &norm))
    return 0;
  for (int64_t i = 0; i < call->size; i++) {
    double l_q = s[i] * inv_t - norm.lse_s, l_p = kd_load_value (teacher, call->teacher_type, i) * inv_t - norm.lse_t;
    int left_out = skips (call, l_q, l_p);
    q[i] = left_out ? 0.0 : exp (l_q);
    p[i] = left_out ? 0.0 : exp (l_p);
  }
  ret_measure->c_p = kd_adaptive_share (call->size, p, q, call->mu, (int32_t *) (q + call->size));
  ret_measure->c_q = 1.0 - ret_measure->c_p;
  return 1;
}
