/* The divergences beside forward and reverse KL, fast: as in kd-row.h, with a pass more, since their gradients need a sum over the row. Each id
 * costs two exponentials and at most one logarithm, that of a probability over the mixture. The pass between works on the scratch alone. */
#include "kd-mixture-near.h"

/* What a block needs: what takes its exponentials to probabilities, in float32, and its references. */
typedef struct {
  float f_s, f_t, ref_s, ref_t;
  double step_s, step_t; /* of its references from the row's */
} Block;

/* Sums of the second pass: of the terms, and of A. */
typedef struct {
  double term, a;
} Sums;

KD_BODY Block
block_of (const KdPair *row, int64_t at)
{
  int64_t block = at / KD_BLOCK;
  double step_s = kd_table_step (&row->s, block, row->k), step_t = kd_table_step (&row->t, block, row->k);

  return (Block) {
    (float) (kd_step_factor (step_s) / row->s.z), (float) (kd_step_factor (step_t) / row->t.z), row->s.reference_of[block], row->t.reference_of[block],
    step_s, step_t
  };
}

/* Of a mixture: A = q h; h takes the place of e_t. The terms are sum p log2 (q / M) for Jensen-Shannon, whose other part the first pass has
 * found, and the whole value for the others. */
KD_BODY Sums
block_mixture (const KdPair *row, int64_t at, int64_t n, KdMeasureShape shape, const Coefs *c)
{
  Block block = block_of (row, at);
  const float *restrict es = row->s.e + at;
  float *restrict et = row->t.e + at, sum = 0.0f, sum_h = 0.0f;
  float share = shape == KD_MEASURE_SKEW_Q ? 1.0f - c->b : c->a, w_s = share * block.f_s, w_t = (1.0f - share) * block.f_t;

#pragma omp simd reduction(+ \
                           : sum, sum_h)
  for (int64_t i = 0; i < n; i++) {
    float over = shape == KD_MEASURE_SKEW_P ? block.f_t * et[i] : block.f_s * es[i], x = over / (w_s * es[i] + w_t * et[i]), l = kd_log2_normal (x), h;
    if (shape == KD_MEASURE_SKEW_P)
      h = x;
    else
      h = shape == KD_MEASURE_JSD ? l : (float) KD_LN2 * l - share * x;
    sum += (shape == KD_MEASURE_SKEW_Q ? es[i] : et[i]) * l;
    sum_h += es[i] * h;
    et[i] = h;
  }
  return (Sums) { (double) (shape == KD_MEASURE_SKEW_Q ? block.f_s : block.f_t) * sum, (double) block.f_s * sum_h };
}

/* The same of Jensen-Shannon where nothing is divided: h is the power of q, made again of the logits that the cache still has, less the
 * logarithm of the mixture. For rows that are neither near nor far: a small h keeps fewer digits, a large one is taken away again from the value. */
KD_BODY Sums
block_shannon (const KdPair *row, const float *s, const float *s_ahead, const char *t_ahead, int64_t at, int64_t n, const Coefs *c)
{
  Block block = block_of (row, at);
  KdShannonBlock of = { s, s_ahead, t_ahead, row->s.e + at, row->t.e + at, n, block.ref_s, row->k, c->a, c->b * (block.f_t / block.f_s) };
  KdShannonSums sums = row->loops->shannon (&of);

  return (Sums) { (double) block.f_t * sums.of_t, (double) block.f_s * sums.of_s };
}

/* Total variation: A = q h. */
KD_BODY Sums
block_variation (const KdPair *row, int64_t at, int64_t n)
{
  Block block = block_of (row, at);
  const float *restrict es = row->s.e + at;
  float *restrict et = row->t.e + at, sum = 0.0f, sum_h = 0.0f;

#pragma omp simd reduction(+ \
                           : sum, sum_h)
  for (int64_t i = 0; i < n; i++) {
    float q = block.f_s * es[i], p = block.f_t * et[i], h = p > q ? -0.5f : p < q ? 0.5f
                                                                                  : 0.0f;
    sum += fabsf (p - q);
    sum_h += es[i] * h;
    et[i] = h;
  }
  return (Sums) { 0.5 * sum, (double) block.f_s * sum_h };
}

/* Both KL: A itself takes the place of e_t. The powers are made again of the logits, which the cache still has; log2 (q / p) = y_s - y_t +
 * @log_ratio. */
KD_BODY Sums
block_both (const KdPair *row, const float *s, const float *t, int64_t at, int64_t n, const Coefs *c, double log_ratio)
{
  Block block = block_of (row, at);
  const float *restrict es = row->s.e + at;
  float *restrict et = row->t.e + at, sum = 0.0f, sum_a = 0.0f, k = row->k, shift = (float) (block.step_s - block.step_t + log_ratio);

#pragma omp simd reduction(+ \
                           : sum, sum_a)
  for (int64_t i = 0; i < n; i++) {
    float q = es[i] * block.f_s, p = et[i] * block.f_t, u = ((s[i] - block.ref_s) * k - (t[i] - block.ref_t) * k + shift) * (float) KD_LN2;
    float a = c->c_q * q * u - c->c_p * p;
    sum += (c->c_q * q - c->c_p * p) * u;
    sum_a += a;
    et[i] = a;
  }
  return (Sums) { sum, sum_a };
}

/* Whether the beginning of the next row is asked for while the passes behind the first have this one in the cache and memory would rest: where the
 * cache has room for both. */
KD_BODY int
reads_ahead (const KdDivergence *call, int64_t index)
{
  return index + 1 < call->n && call->size <= KD_PREFETCH_SIZE;
}

/* All blocks, from behind. */
KD_BODY Sums
second_pass (const KdDivergence *call, int64_t index, const KdPair *row, KdReal type, KdMeasureShape shape, int divide, const Coefs *c)
{
  const float *student = call->student + index * call->size;
  const void *teacher = kd_row_of (call->teacher, type, index, call->size);
  float buffer[KD_BLOCK] __attribute__ ((aligned (64)));
  int64_t last = (call->size - 1) / KD_BLOCK * KD_BLOCK, width = (int64_t) kd_real_size (type);
  int ahead = reads_ahead (call, index);
  double log_ratio = shape == KD_MEASURE_KL ? log2 (row->t.z) - log2 (row->s.z) : 0.0;
  Sums sums = { 0.0, 0.0 };

  for (int64_t at = last; at >= 0; at -= KD_BLOCK) {
    int64_t n = kd_block_length (call->size, at);
    int64_t next = ahead ? call->size + (last - at) / 2 : at; /* or what the cache has anyway */
    Sums block;
    if (shape == KD_MEASURE_KL)
      block = block_both (row, student + at, kd_load_block (teacher, type, at, n, buffer), at, n, c, log_ratio);
    else if (shape == KD_MEASURE_JSD && !divide)
      block = block_shannon (row, student + at, student + next, (const char *) teacher + next * width, at, n, c);
    else if (shape == KD_MEASURE_TVD)
      block = block_variation (row, at, n);
    else
      block = block_mixture (row, at, n, shape, c);
    sums.term += block.term;
    sums.a += block.a;
  }
  return sums;
}

/* KL (teacher || student) in nats, of the first pass. */
static inline double
forward_of (const KdPair *row)
{
  return KD_LN2 * row->cross / row->t.z + log (row->s.z) - log (row->t.z);
}

/* The row's value, of what both passes have found; *ret_lost: a part of it that others take away again. */
KD_BODY double
value_of (const KdPair *row, KdMeasureShape shape, const KdMeasure *measure, Sums sums, double *ret_lost)
{
  double log_t = log2 (row->t.z), value = sums.term;

  *ret_lost = 0.0;
  if (shape == KD_MEASURE_JSD) { /* log (p / M) = log (q / M) + log (p / q) */
    double kl = forward_of (row);
    value = KD_LN2 * (measure->c_q * sums.a + measure->c_p * sums.term) + measure->c_p * kl;
    *ret_lost = measure->c_p * kl;
  } else if (shape == KD_MEASURE_SKEW_P || shape == KD_MEASURE_SKEW_Q) {
    value *= KD_LN2;
  }
  if (measure->drop > 0.0)
    value += measure->drop * KD_LN2 * (row->cross / row->t.z + log_t);
  return value;
}

/* Beyond this h belongs to a q of 0, and times a large c it would leave float32. */
#define LOWEST_H -1e25f

/* c (A - q sum A), @c_a being c times what A is more than q h, and @c_q = @c_a sum A. */
KD_BODY void
last_pass (const KdDivergence *call, int64_t index, const KdPair *row, KdReal type, KdMeasureShape shape, double c_a, double c_q, KdPut put)
{
  float *grad = call->grad + index * call->size, out[KD_BLOCK] __attribute__ ((aligned (64)));
  int64_t width = (int64_t) kd_real_size (type), half = (index + 1) * call->size + call->size / 2;
  int ahead = shape == KD_MEASURE_JSD && reads_ahead (call, index);

  for (int64_t at = 0; at < call->size; at += KD_BLOCK) {
    int64_t n = kd_block_length (call->size, at);
    const float *restrict es = row->s.e + at, *restrict kept = row->t.e + at;
    double f_s = kd_step_factor (kd_table_step (&row->s, at / KD_BLOCK, row->k)) / row->s.z;
    float a = (float) (shape == KD_MEASURE_KL ? c_a : c_a * f_s), q = (float) (c_q * f_s);

    if (ahead) { /* a quarter behind the half that the second pass has asked for */
      kd_prefetch (call->student + half + at / 4, n);
      kd_prefetch ((const char *) call->teacher + (half + at / 4) * width, n / 4 * width);
    }
#pragma omp simd
    for (int64_t i = 0; i < n; i++)
      out[i] = shape == KD_MEASURE_KL ? a * kept[i] - q * es[i] : es[i] * (a * (kept[i] > LOWEST_H ? kept[i] : LOWEST_H) - q);
    kd_put_block (grad + at, out, n, put);
  }
}

/* So much below its parts a value is summed again in the form that does not cancel. */
#define LOST 16.0

/* Again from the rows' largest values when a block's reference was so far below that its floor is not nothing. */
KD_BODY void
read_row (const KdDivergence *call, const float *student, const void *teacher, KdPair *row, KdReal type, KdCross cross, int floored)
{
  float buffer[KD_BLOCK] __attribute__ ((aligned (64))), top_s = -FLT_MAX, top_t = -FLT_MAX;

  kd_pair_read (row, call, student, teacher, -FLT_MAX, -FLT_MAX, cross, floored, type, -1);
  if (kd_table_step (&row->s, 0, row->k) > KD_LOWEST / 4 && kd_table_step (&row->t, 0, row->k) > KD_LOWEST / 4)
    return;
  for (int64_t at = 0; at < call->size; at += KD_BLOCK) {
    int64_t n = kd_block_length (call->size, at);
    float s = kd_block_top (student + at, n), t = kd_block_top (kd_load_block (teacher, type, at, n, buffer), n);
    top_s = s > top_s ? s : top_s;
    top_t = t > top_t ? t : top_t;
  }
  kd_pair_read (row, call, student, teacher, top_s, top_t, cross, floored, type, -1);
}

/* The first pass; returns whether the second one divides. Jensen-Shannon's does not, unless the row's KL is small or large; then its floor is
 * needed too. */
KD_BODY int
first_pass (const KdDivergence *call, const float *student, const void *teacher, KdPair *row, KdReal type, KdMeasureShape shape, KdCross cross)
{
  double kl;

  if (shape == KD_MEASURE_KL || shape == KD_MEASURE_TVD) {
    kd_pair_read (row, call, student, teacher, -FLT_MAX, -FLT_MAX, cross, 0, type, -1);
    return 1;
  }
  read_row (call, student, teacher, row, type, cross, shape != KD_MEASURE_JSD);
  if (shape != KD_MEASURE_JSD)
    return 1;
  kl = forward_of (row);
  if (!(kl < KD_LARGE))
    read_row (call, student, teacher, row, type, cross, 1);
  return !(kl >= 4.0 * KD_SMALL && kl < KD_LARGE);
}

/* Whole row; NaN when the row needs the exact way (nothing is written then). */
KD_BODY double
row_shape (const KdDivergence *call, const KdMeasure *measure, int64_t index, KdPair *row, KdPut put, KdReal type, KdMeasureShape shape, KdCross cross)
{
  const float *student = call->student + index * call->size;
  const void *teacher = kd_row_of (call->teacher, type, index, call->size);
  Coefs coefs = { (float) measure->c_p, (float) measure->a, (float) measure->c_q, (float) measure->b, (float) measure->drop };
  double value, lost, c = call->coef[index] * call->scale / call->temperature, c_a = c;
  int divide;
  Sums sums;

  divide = first_pass (call, student, teacher, row, type, shape, cross);
  if (!isfinite (row->s.z) || !isfinite (row->t.z))
    return NAN;
  sums = second_pass (call, index, row, type, shape, divide, &coefs);
  value = value_of (row, shape, measure, sums, &lost);
  if (!isfinite (value) || (shape == KD_MEASURE_KL && value > KD_LARGE))
    return NAN;
  if (shape != KD_MEASURE_TVD && (value < KD_SMALL || lost > LOST * value))
    value = near_pass (call, student, teacher, row, type, shape, &coefs, measure->drop > 0.0);
  if (shape == KD_MEASURE_JSD)
    c_a *= measure->c_q * KD_LN2;
  else if (shape == KD_MEASURE_SKEW_P)
    c_a *= -measure->a;
  if (call->grad)
    last_pass (call, index, row, type, shape, c_a, c_a * sums.a, put);
  return value;
}

KD_BODY void
row_fast_body (const KdDivergence *call, const KdMeasure *measure, int64_t index, KdPair *row, KdPut put, double *ret_value)
{
  KdReal type = call->teacher_type;
  KdCross rest = measure->drop > 0.0 ? KD_CROSS_ENTROPY : KD_CROSS_NONE;

  /* constants where the loops depend on them */
  if (measure->shape == KD_MEASURE_JSD && type == KD_REAL_F32)
    *ret_value = row_shape (call, measure, index, row, put, KD_REAL_F32, KD_MEASURE_JSD, KD_CROSS_FORWARD);
  else if (measure->shape == KD_MEASURE_JSD)
    *ret_value = row_shape (call, measure, index, row, put, type, KD_MEASURE_JSD, KD_CROSS_FORWARD);
  else if (measure->shape == KD_MEASURE_SKEW_P)
    *ret_value = row_shape (call, measure, index, row, put, type, KD_MEASURE_SKEW_P, rest);
  else if (measure->shape == KD_MEASURE_SKEW_Q)
    *ret_value = row_shape (call, measure, index, row, put, type, KD_MEASURE_SKEW_Q, KD_CROSS_NONE);
  else if (measure->shape == KD_MEASURE_TVD)
    *ret_value = row_shape (call, measure, index, row, put, type, KD_MEASURE_TVD, KD_CROSS_NONE);
  else
    *ret_value = row_shape (call, measure, index, row, put, type, KD_MEASURE_KL, rest);
}

KD_KERNEL (row_fast, (const KdDivergence *call, const KdMeasure *measure, int64_t index, KdPair *row, KdPut put, double *ret_value),
    (call, measure, index, row, put, ret_value))

static double
mixture_row (const KdDivergence *call, const KdMeasure *common, int64_t index, KdPair *row, KdPut put, int level)
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
  kd_put_nothing (call->grad ? call->grad + index * call->size : NULL, call->size, put);
  return !counts ? 0.0 : has_measure ? kd_exact_row (call, &measure, index)
                                     : NAN;
}

void
kd_mixture_rows (const KdDivergence *call)
{
  int level = kd_kernel_level (call->level);
  int64_t floats = kd_pair_floats (call->size), adaptive = call->kind == KD_DIVERGENCE_ADAPTIVE_KL ? 5 * call->size : 0;
  KdPut put = kd_put_kind (call->fresh, call->n, call->size);
  KdMeasure measure = kd_measure_of (call);

#pragma omp parallel if (call->n > 1 && call->n * call->size >= KD_PARALLEL_ELEMENTS)
  {
    float *scratch = kd_scratch_new (floats > adaptive ? floats : adaptive);
    KdPair row;

    kd_pair_init (&row, scratch, call->size, call->temperature, level);
#pragma omp for schedule(static)
    for (int64_t i = 0; i < call->n; i++)
      call->value[i] = mixture_row (call, &measure, i, &row, put, level);
    kd_put_end (put);
    free (scratch);
  }
}
