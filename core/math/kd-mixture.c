/* The divergences beside forward and reverse KL, fast: as in kd-row.h, with a
 * pass more, since their gradients need a sum over the row. Each id costs two
 * exponentials and at most one logarithm, that of a mixture over one of its
 * two, 1 - w + w p / q. */
#include "kd-mixture-near.h"

/* Powers of two below the reference at which probabilities of a mixture stay:
 * the quotient of two is finite, and nothing is lost, since no term of a
 * mixture is larger than its probability times the logarithm of the share. */
#define LOWEST -100.0f

/* What a block needs: its references and what takes its exponentials to
 * probabilities. */
typedef struct {
  float ref_s, ref_t, f_s, f_t, shift_s, shift_t;
} Block;

KD_BODY float
block_exps (const float *x, int64_t n, float reference, float k,
    int floored, float *restrict e, float *ret_top)
{
  float z = 0.0f, top = -FLT_MAX;

#pragma omp simd reduction(+                  \
                           : z) reduction(max \
                                          : top)
  for (int64_t i = 0; i < n; i++) {
    float y = (x[i] - reference) * k;
    e[i] = kd_exp2f (floored && y < LOWEST ? LOWEST : y);
    z += e[i] + 0.0f * y; /* NaN for an infinite logit */
    top = y > top ? y : top;
  }
  *ret_top = top;
  return z;
}

KD_BODY void
table_block (KdTable *table, const float *x, int64_t at, int64_t n,
    float k, int floored)
{
  float top, z;

  if (at == 0)
    kd_table_raise (table, kd_block_top (x, n), k);
  z = block_exps (x, n, table->reference, k, floored, table->e + at, &top);
  if (top > KD_RISE) {
    kd_table_raise (table, kd_block_top (x, n), k);
    z = block_exps (x, n, table->reference, k, floored, table->e + at, &top);
  }
  table->reference_of[at / KD_BLOCK] = table->reference;
  table->z += z;
}

/* FALSE when a sum is not finite: there is an infinite logit, NaN or something
 * enormous. */
KD_BODY int
first_pass (const KdDivergence *call, const float *student,
    const void *teacher, Row *row, KdReal type,
    int floored)
{
  float buffer[KD_BLOCK] __attribute__ ((aligned (64)));
  int64_t width = (int64_t) kd_real_size (type);

  row->s.reference = row->t.reference = -FLT_MAX;
  row->s.z = row->t.z = 0.0;
  for (int64_t at = 0; at < call->size; at += KD_BLOCK) {
    int64_t n = kd_block_length (call->size, at);
    const float *s = student + at,
                *t = kd_load_block (teacher, type, at, n, buffer);

    kd_prefetch (s + KD_AHEAD, n * 4);
    kd_prefetch ((const char *) teacher + (at + KD_AHEAD) * width, n * width);
    table_block (&row->s, s, at, n, row->k, floored);
    table_block (&row->t, t, at, n, row->k, floored);
  }
  return isfinite (row->s.z) && isfinite (row->t.z);
}

KD_BODY Block
block_of (const Row *row, int64_t at)
{
  int64_t block = at / KD_BLOCK;
  double step_s = kd_table_step (&row->s, block, row->k),
         step_t = kd_table_step (&row->t, block, row->k);

  return (Block) {
    row->s.reference_of[block], row->t.reference_of[block],
    (float) (exp2 (step_s) / row->s.z), (float) (exp2 (step_t) / row->t.z),
    (float) (step_s - log2 (row->s.z)), (float) (step_t - log2 (row->t.z))
  };
}

/* A block's exponentials to A; the sums of the terms and of A. */
KD_BODY void
block_terms (const float *s, const float *t, int64_t n,
    const Row *row, int64_t at, KdMeasureShape shape,
    const Coefs *c, int drop, float *ret_term,
    float *ret_a)
{
  Block block = block_of (row, at);
  float k = row->k, shift = (float) ((double) block.shift_s - block.shift_t);
  const float *restrict es = row->s.e + at;
  float *restrict et = row->t.e + at, sum = 0.0f, sum_a = 0.0f;

#pragma omp simd reduction(+ \
                           : sum, sum_a)
  for (int64_t i = 0; i < n; i++) {
    float q = es[i] * block.f_s, p = et[i] * block.f_t,
          y_s = (s[i] - block.ref_s) * k, y_t = (t[i] - block.ref_t) * k, term,
          a;
    float l_p = (y_t + block.shift_t) * (float) KD_LN2;
    if (shape == KD_MEASURE_KL) {
      float u = (y_s - y_t + shift) * (float) KD_LN2;
      term = (c->c_q * q - c->c_p * p) * u;
      a = c->c_q * q * u - c->c_p * p;
    } else if (shape == KD_MEASURE_TVD) {
      term = 0.5f * fabsf (p - q);
      a = p > q ? -0.5f * q : p < q ? 0.5f * q
                                    : 0.0f;
    } else if (shape == KD_MEASURE_SKEW_P) {
      float m = (1.0f - c->a) + c->a * (q / p);
      term = -p * (kd_log2f (m) * (float) KD_LN2);
      a = -c->a * q / m;
    } else {
      float share = shape == KD_MEASURE_JSD ? c->a : 1.0f - c->b,
            m = share + (1.0f - share) * (p / q), l_m = kd_log2f (m);
      if (shape ==
          KD_MEASURE_JSD) { /* relative to p the mixture is M / q times q / p */
        y_s = y_s < LOWEST ? LOWEST : y_s;
        y_t = y_t < LOWEST ? LOWEST : y_t;
        a = -c->c_q * (float) KD_LN2 * q * l_m;
        term = a - c->c_p * (float) KD_LN2 * p * (l_m + (y_s - y_t + shift));
      } else {
        term = -q * (l_m * (float) KD_LN2);
        a = term - share * q / m;
      }
    }
    sum += drop ? term - c->drop * p * l_p : term;
    sum_a += a;
    et[i] = a;
  }
  *ret_term = sum;
  *ret_a = sum_a;
}

/* The terms of all blocks, from behind; *ret_a the sum of A. */
KD_BODY double
second_pass (const KdDivergence *call, const float *student,
    const void *teacher, const Row *row, KdReal type,
    KdMeasureShape shape, const Coefs *c, int drop,
    double *ret_a)
{
  float buffer[KD_BLOCK] __attribute__ ((aligned (64)));
  double value = 0.0;

  *ret_a = 0.0;
  for (int64_t at = (call->size - 1) / KD_BLOCK * KD_BLOCK; at >= 0;
       at -= KD_BLOCK) {
    int64_t n = kd_block_length (call->size, at);
    float term, a;
    block_terms (student + at, kd_load_block (teacher, type, at, n, buffer), n,
        row, at, shape, c, drop, &term, &a);
    value += term;
    *ret_a += a;
  }
  return value;
}

/* c (A - q sum A); ahead of it the next row is read. */
KD_BODY void
last_pass (const KdDivergence *call, int64_t index, const Row *row,
    double c, double sum, KdPut put)
{
  const float *next = call->student + (index + 1) * call->size;
  const char *next_t =
      kd_row_of (call->teacher, call->teacher_type, index + 1, call->size);
  int64_t width = (int64_t) kd_real_size (call->teacher_type),
          ahead = put == KD_PUT_STREAM && call->size <= KD_PREFETCH_SIZE
      ? call->size / 2
      : 0;
  float *grad = call->grad + index * call->size,
        out[KD_BLOCK] __attribute__ ((aligned (64))), c_a = (float) c;

  for (int64_t at = 0; at < call->size; at += KD_BLOCK) {
    int64_t n = kd_block_length (call->size, at);
    const float *restrict es = row->s.e + at, *restrict as = row->t.e + at;
    float c_q =
        (float) (c * sum * exp2 (kd_table_step (&row->s, at / KD_BLOCK, row->k)) /
            row->s.z);
    if (at < ahead) {
      kd_prefetch (next + at, n * 4);
      kd_prefetch (next_t + at * width, n * width);
    }
#pragma omp simd
    for (int64_t i = 0; i < n; i++)
      out[i] = c_a * as[i] - c_q * es[i];
    kd_put_block (grad + at, out, n, put);
  }
}

/* Below this a value is summed again in the form that does not cancel. */
#define SMALL 0.0625

/* Whole row; NaN when the row needs the exact way (nothing is written then). */
KD_BODY double
row_shape (const KdDivergence *call, const KdMeasure *measure,
    int64_t index, Row *row, KdPut put, KdReal type,
    KdMeasureShape shape, int drop)
{
  const float *student = call->student + index * call->size;
  const void *teacher = kd_row_of (call->teacher, type, index, call->size);
  Coefs coefs = { (float) measure->c_p, (float) measure->a, (float) measure->c_q,
    (float) measure->b, (float) measure->drop };
  double value, sum;

  if (!first_pass (call, student, teacher, row, type,
          shape != KD_MEASURE_KL && shape != KD_MEASURE_TVD))
    return NAN;
  value =
      second_pass (call, student, teacher, row, type, shape, &coefs, drop, &sum);
  if (!isfinite (value))
    return NAN;
  if (shape != KD_MEASURE_TVD && value < SMALL)
    value = near_pass (call, student, teacher, row, type, shape, &coefs, drop);
  if (call->grad)
    last_pass (call, index, row,
        call->coef[index] * call->scale / call->temperature, sum, put);
  return value;
}

KD_BODY void
row_fast_body (const KdDivergence *call, const KdMeasure *measure,
    int64_t index, Row *row, KdPut put,
    double *ret_value)
{
  KdReal type = call->teacher_type;

  /* constants where the loops depend on them */
  if (measure->drop > 0.0 && measure->shape == KD_MEASURE_KL)
    *ret_value =
        row_shape (call, measure, index, row, put, type, KD_MEASURE_KL, 1);
  else if (measure->drop > 0.0)
    *ret_value =
        row_shape (call, measure, index, row, put, type, KD_MEASURE_SKEW_P, 1);
  else if (measure->shape == KD_MEASURE_JSD && type == KD_REAL_F32)
    *ret_value = row_shape (call, measure, index, row, put, KD_REAL_F32,
        KD_MEASURE_JSD, 0);
  else if (measure->shape == KD_MEASURE_JSD)
    *ret_value =
        row_shape (call, measure, index, row, put, type, KD_MEASURE_JSD, 0);
  else if (measure->shape == KD_MEASURE_SKEW_P)
    *ret_value =
        row_shape (call, measure, index, row, put, type, KD_MEASURE_SKEW_P, 0);
  else if (measure->shape == KD_MEASURE_SKEW_Q)
    *ret_value =
        row_shape (call, measure, index, row, put, type, KD_MEASURE_SKEW_Q, 0);
  else if (measure->shape == KD_MEASURE_TVD)
    *ret_value =
        row_shape (call, measure, index, row, put, type, KD_MEASURE_TVD, 0);
  else
    *ret_value =
        row_shape (call, measure, index, row, put, type, KD_MEASURE_KL, 0);
}

KD_KERNEL (row_fast,
    (const KdDivergence *call, const KdMeasure *measure, int64_t index,
        Row *row, KdPut put, double *ret_value),
    (call, measure, index, row, put, ret_value))

static double
mixture_row (const KdDivergence *call, const KdMeasure *common,
    int64_t index, Row *row, KdPut put, int level)
{
  KdMeasure measure = *common;
  double value = NAN;
  int counts = call->coef[index] != 0.0, has_measure = counts;

  if (counts && call->kind == KD_DIVERGENCE_ADAPTIVE_KL)
    has_measure = kd_adaptive_row (call, index, row->s.e, &measure);
  if (has_measure)
    row_fast[level](call, &measure, index, row, put, &value);
  if (!isnan (value))
    return value;
  kd_put_nothing (call->grad ? call->grad + index * call->size : NULL,
      call->size, put);
  return !counts    ? 0.0
      : has_measure ? kd_exact_row (call, &measure, index)
                    : NAN;
}

void
kd_mixture_rows (const KdDivergence *call)
{
  int level = kd_kernel_level (call->level);
  int64_t floats = 2 * kd_table_floats (call->size),
          adaptive =
              call->kind == KD_DIVERGENCE_ADAPTIVE_KL ? 5 * call->size : 0;
  KdPut put = kd_put_kind (call->fresh, call->n, call->size);
  KdMeasure measure = kd_measure_of (call);

#pragma omp parallel if (call->n > 1 && \
    call->n * call->size >= KD_PARALLEL_ELEMENTS)
  {
    float *scratch = kd_scratch_new (floats > adaptive ? floats : adaptive);
    Row row = { .k = (float) (KD_LOG2E / call->temperature) };

    kd_table_init (&row.s, scratch, call->size);
    kd_table_init (&row.t, scratch + kd_table_floats (call->size), call->size);
#pragma omp for schedule(static)
    for (int64_t i = 0; i < call->n; i++)
      call->value[i] = mixture_row (call, &measure, i, &row, put, level);
    kd_put_end (put);
    free (scratch);
  }
}
