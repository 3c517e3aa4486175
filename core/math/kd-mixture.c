/* The divergences beside forward and reverse KL, fast: a row's exponentials are kept in a buffer that stays in the cache, so that each id
 * costs two exponentials and at most one logarithm. Mixtures are formed relative to the larger probability, log M = log max (p, q) +
 * log (w + (1 - w) e^-|u|) with u = log q - log p from the logits, so that no probability of extreme logits is divided or lost. */
#include "kd-measure.h"
#include "kd-kernel.h"
#include <stdlib.h>

/* What the loops need of a measure, in float32. */
typedef struct {
  float c_p, a, c_q, b, drop;
} Coefs;

/* One row under way. Scratch: @q [size] and @a [size] hold e^((x - reference) / T) of student and teacher after the first pass, q and A
 * after the second; @ref_s, @ref_t: each block's reference. */
typedef struct {
  float max_s, max_t, inv_t;
  double z_s, z_t, log_z;
  float *q, *a, *ref_s, *ref_t;
} Row;

KD_BODY float
block_exps (const float *x, int64_t n, float max, float inv_t, float *out)
{
  float z = 0.0f;

#pragma omp simd reduction(+ \
                           : z)
  for (int64_t i = 0; i < n; i++) {
    out[i] = kd_expf ((x[i] - max) * inv_t);
    z += out[i];
  }
  return z;
}

/* A block's exponentials relative to the largest value so far; what was summed before moves to a new reference first. */
KD_BODY double
block_sum (const float *x, int64_t n, float top, float inv_t, float *max, float *reference, double z, float *out)
{
  if (top > *max) {
    z = z > 0.0 ? z * exp (((double) *max - top) * inv_t) : 0.0;
    *max = top;
  }
  *reference = *max;
  return z + block_exps (x, n, *max, inv_t, out);
}

/* FALSE when a value is infinite, NaN or enormous. */
KD_BODY int
first_pass (const KdDivergence *call, const float *student, const void *teacher, Row *row, KdReal type)
{
  float buffer[KD_BLOCK] __attribute__ ((aligned (64)));

  row->max_s = row->max_t = -FLT_MAX;
  row->z_s = row->z_t = 0.0;
  for (int64_t at = 0, block = 0; at < call->size; at += KD_BLOCK, block++) {
    int64_t n = call->size - at < KD_BLOCK ? call->size - at : KD_BLOCK;
    const float *s = student + at, *t = kd_load_block (teacher, type, at, n, buffer);
    int fast_s, fast_t;
    float top_s = kd_block_max (s, n, &fast_s), top_t = kd_block_max (t, n, &fast_t);
    if (!fast_s || !fast_t)
      return 0;
    row->z_s = block_sum (s, n, top_s, row->inv_t, &row->max_s, &row->ref_s[block], row->z_s, row->q + at);
    row->z_t = block_sum (t, n, top_t, row->inv_t, &row->max_t, &row->ref_t[block], row->z_t, row->a + at);
  }
  row->log_z = log (row->z_s) - log (row->z_t);
  return 1;
}

/* log (m / q) and log (m / p) of m = w q + (1 - w) p; *ret_q_over_m = q / m. */
KD_BODY void
mix (float p, float q, float u, float w, float *ret_lq, float *ret_lp, float *ret_q_over_m)
{
  float high = u >= 0.0f ? q : p, low = u >= 0.0f ? p : q, w_high = u >= 0.0f ? w : 1.0f - w;
  float ratio = low / (high > FLT_MIN ? high : FLT_MIN), e = w_high + (1.0f - w_high) * ratio, l;

  e = e > FLT_MIN ? e : FLT_MIN;
  l = kd_logf (e);
  *ret_lq = l - (u < 0.0f ? u : 0.0f);
  *ret_lp = l + (u > 0.0f ? u : 0.0f);
  *ret_q_over_m = (u >= 0.0f ? 1.0f : ratio) / e;
}

/* A block's exponentials to q and A; the sums of the terms and of A. */
KD_BODY void
block_terms (const float *s, const float *t, int64_t n, const Row *row, int64_t at, float f_s, float f_t, KdMeasureShape shape, const Coefs *c,
    int drop, float *ret_term, float *ret_a)
{
  float max_s = row->max_s, max_t = row->max_t, inv_t = row->inv_t, log_z = (float) row->log_z, log_t = (float) log (row->z_t);
  float *restrict qs = row->q + at, *restrict as = row->a + at, sum = 0.0f, sum_a = 0.0f;

#pragma omp simd reduction(+ \
                           : sum, sum_a)
  for (int64_t i = 0; i < n; i++) {
    float q = qs[i] * f_s, p = as[i] * f_t, d_t = t[i] - max_t, u = (s[i] - max_s - d_t) * inv_t - log_z, term, a, l_q, l_p, ratio;
    if (shape == KD_MEASURE_KL) {
      term = (c->c_q * q - c->c_p * p) * u;
      a = c->c_q * q * u - c->c_p * p;
    } else if (shape == KD_MEASURE_TVD) {
      term = 0.5f * fabsf (p - q);
      a = p > q ? -0.5f * q : p < q ? 0.5f * q
                                    : 0.0f;
    } else {
      mix (p, q, u, shape == KD_MEASURE_SKEW_Q ? 1.0f - c->b : c->a, &l_q, &l_p, &ratio);
      if (shape == KD_MEASURE_JSD) {
        a = -c->c_q * q * l_q;
        term = a - c->c_p * p * l_p;
      } else if (shape == KD_MEASURE_SKEW_P) {
        term = -p * l_p;
        a = -c->a * p * ratio;
      } else {
        term = -q * l_q;
        a = term - (1.0f - c->b) * q * ratio;
      }
    }
    sum += drop ? term - c->drop * p * (d_t * inv_t - log_t) : term;
    sum_a += a;
    qs[i] = q;
    as[i] = a;
  }
  *ret_term = sum;
  *ret_a = sum_a;
}

/* The terms of all blocks; *ret_a the sum of A. */
KD_BODY double
second_pass (const KdDivergence *call, const float *student, const void *teacher, const Row *row, KdReal type, KdMeasureShape shape,
    const Coefs *c, int drop, double *ret_a)
{
  float buffer[KD_BLOCK] __attribute__ ((aligned (64)));
  double value = 0.0;

  *ret_a = 0.0;
  for (int64_t at = 0, block = 0; at < call->size; at += KD_BLOCK, block++) {
    int64_t n = call->size - at < KD_BLOCK ? call->size - at : KD_BLOCK;
    const float *t = kd_load_block (teacher, type, at, n, buffer);
    float f_s = (float) (exp (((double) row->ref_s[block] - row->max_s) * row->inv_t) / row->z_s), term, a;
    float f_t = (float) (exp (((double) row->ref_t[block] - row->max_t) * row->inv_t) / row->z_t);
    block_terms (student + at, t, n, row, at, f_s, f_t, shape, c, drop, &term, &a);
    value += term;
    *ret_a += a;
  }
  return value;
}

/* KL (w || (1 - share) w + share w e^v), where e^v = other / w, as a sum of terms that are small where the distributions are near:
 * w (y - log (1 + y)) with y = share (e^v - 1). */
KD_BODY float
near_term (float w, float other, float v, float share)
{
  float series = 1.0f / 5040, y, far;

  series = series * v + 1.0f / 720;
  series = series * v + 1.0f / 120;
  series = series * v + 1.0f / 24;
  series = series * v + 1.0f / 6;
  series = series * v + 1.0f / 2;
  y = share * (v + v * v * series);
  far = 1.0f + share * (other / (w > FLT_MIN ? w : FLT_MIN) - 1.0f);
  far = far > FLT_MIN ? far : FLT_MIN;
  far = share * (other - w) - w * (share == 1.0f ? v : kd_logf (far));
  return fabsf (v) < 0.34f ? w * kd_log1p_rest (y) : far;
}

KD_BODY float
block_near (const float *s, const float *t, int64_t n, const Row *row, KdMeasureShape shape, const Coefs *c)
{
  float max_s = row->max_s, max_t = row->max_t, inv_t = row->inv_t, log_z = (float) row->log_z;
  float f_s = (float) (1.0 / row->z_s), f_t = (float) (1.0 / row->z_t), sum = 0.0f;

#pragma omp simd reduction(+ \
                           : sum)
  for (int64_t i = 0; i < n; i++) {
    float d_s = s[i] - max_s, d_t = t[i] - max_t, q = f_s * kd_expf (d_s * inv_t), p = f_t * kd_expf (d_t * inv_t);
    float u = (d_s - d_t) * inv_t - log_z, term = 0.0f;
    if (shape != KD_MEASURE_SKEW_Q)
      term += c->c_p * near_term (p, q, u, c->a);
    if (shape != KD_MEASURE_SKEW_P)
      term += c->c_q * near_term (q, p, -u, c->b);
    sum += term;
  }
  return sum;
}

/* A block's part of the teacher's entropy, log (top + rest) - cross / (top + rest): the largest entries are counted, not summed with the
 * others, so that a sure teacher keeps its small part. */
KD_BODY void
block_entropy (const float *t, int64_t n, const Row *row, double *top, double *rest, double *cross)
{
  float max_t = row->max_t, inv_t = row->inv_t, n_top = 0.0f, z = 0.0f, sum = 0.0f;

#pragma omp simd reduction(+ \
                           : n_top, z, sum)
  for (int64_t i = 0; i < n; i++) {
    float d = (t[i] - max_t) * inv_t, e = kd_expf (d);
    n_top += d < 0.0f ? 0.0f : 1.0f;
    z += d < 0.0f ? e : 0.0f;
    sum += e * d;
  }
  *top += n_top;
  *rest += z;
  *cross += sum;
}

/* The value again, when it is small. */
KD_BODY double
near_pass (const KdDivergence *call, const float *student, const void *teacher, const Row *row, KdReal type, KdMeasureShape shape,
    const Coefs *c, int drop)
{
  float buffer[KD_BLOCK] __attribute__ ((aligned (64)));
  double value = 0.0, top = 0.0, rest = 0.0, cross = 0.0;

  for (int64_t at = 0; at < call->size; at += KD_BLOCK) {
    int64_t n = call->size - at < KD_BLOCK ? call->size - at : KD_BLOCK;
    const float *t = kd_load_block (teacher, type, at, n, buffer);
    value += block_near (student + at, t, n, row, shape, c);
    if (drop)
      block_entropy (t, n, row, &top, &rest, &cross);
  }
  return drop ? value + c->drop * (log (top) + log1p (rest / top) - cross / (top + rest)) : value;
}

/* Below this a value is summed again in the form that does not cancel. */
#define SMALL 0.0625

/* Whole row; NaN when the row needs the exact way (nothing is written then). */
KD_BODY double
row_shape (const KdDivergence *call, const KdMeasure *measure, int64_t index, Row *row, KdReal type, KdMeasureShape shape, int drop)
{
  const float *student = call->student + index * call->size;
  const void *teacher = kd_row_of (call->teacher, type, index, call->size);
  float *grad = call->grad ? call->grad + index * call->size : NULL, c, sum_a;
  Coefs coefs = { (float) measure->c_p, (float) measure->a, (float) measure->c_q, (float) measure->b, (float) measure->drop };
  double value, sum;

  if (!first_pass (call, student, teacher, row, type))
    return NAN;
  value = second_pass (call, student, teacher, row, type, shape, &coefs, drop, &sum);
  if (shape != KD_MEASURE_TVD && value < SMALL)
    value = near_pass (call, student, teacher, row, type, shape, &coefs, drop);
  if (!grad)
    return value;
  c = (float) (call->coef[index] * call->scale / call->temperature);
  sum_a = (float) sum;
#pragma omp simd
  for (int64_t i = 0; i < call->size; i++)
    grad[i] += c * (row->a[i] - row->q[i] * sum_a);
  return value;
}

KD_BODY void
row_fast_body (const KdDivergence *call, const KdMeasure *measure, int64_t index, Row *row, double *ret_value)
{
  KdReal type = call->teacher_type;

  /* constants where the loops depend on them */
  if (measure->drop > 0.0 && measure->shape == KD_MEASURE_KL)
    *ret_value = row_shape (call, measure, index, row, type, KD_MEASURE_KL, 1);
  else if (measure->drop > 0.0)
    *ret_value = row_shape (call, measure, index, row, type, KD_MEASURE_SKEW_P, 1);
  else if (measure->shape == KD_MEASURE_JSD && type == KD_REAL_F32)
    *ret_value = row_shape (call, measure, index, row, KD_REAL_F32, KD_MEASURE_JSD, 0);
  else if (measure->shape == KD_MEASURE_JSD)
    *ret_value = row_shape (call, measure, index, row, type, KD_MEASURE_JSD, 0);
  else if (measure->shape == KD_MEASURE_SKEW_P)
    *ret_value = row_shape (call, measure, index, row, type, KD_MEASURE_SKEW_P, 0);
  else if (measure->shape == KD_MEASURE_SKEW_Q)
    *ret_value = row_shape (call, measure, index, row, type, KD_MEASURE_SKEW_Q, 0);
  else if (measure->shape == KD_MEASURE_TVD)
    *ret_value = row_shape (call, measure, index, row, type, KD_MEASURE_TVD, 0);
  else
    *ret_value = row_shape (call, measure, index, row, type, KD_MEASURE_KL, 0);
}

KD_KERNEL (row_fast, (const KdDivergence *call, const KdMeasure *measure, int64_t index, Row *row, double *ret_value),
    (call, measure, index, row, ret_value))

static double
mixture_row (const KdDivergence *call, const KdMeasure *common, int64_t index, Row *row, int level)
{
  KdMeasure measure = *common;
  double value;

  if (call->kind == KD_DIVERGENCE_ADAPTIVE_KL && !kd_adaptive_row (call, index, row->q, &measure))
    return NAN;
  row_fast[level](call, &measure, index, row, &value);
  return isnan (value) ? kd_exact_row (call, &measure, index) : value;
}

void
kd_mixture_rows (const KdDivergence *call)
{
  int level = kd_kernel_level (call->level), adaptive = call->kind == KD_DIVERGENCE_ADAPTIVE_KL;
  int64_t n_blocks = (call->size + KD_BLOCK - 1) / KD_BLOCK;
  size_t bytes = (size_t) call->size * (adaptive ? 20 : 8) + (size_t) n_blocks * 8;
  KdMeasure measure = kd_measure_of (call);

#pragma omp parallel if (call->n > 1 && call->n * call->size >= KD_PARALLEL_ELEMENTS)
  {
    float *scratch = aligned_alloc (64, (bytes + 63) / 64 * 64);
    Row row = { .inv_t = (float) (1.0 / call->temperature), .q = scratch, .a = scratch + call->size };

    if (!scratch)
      abort (); /* as GLib does */
    row.ref_s = row.a + call->size;
    row.ref_t = row.ref_s + n_blocks;
#pragma omp for schedule(static)
    for (int64_t i = 0; i < call->n; i++)
      {
        if (call->grad && call->fresh)
          memset (call->grad + i * call->size, 0, (size_t) call->size * sizeof (float));
        call->value[i] = call->coef[i] != 0.0 ? mixture_row (call, &measure, i, &row, level) : 0.0;
      }
    free (scratch);
  }
}
