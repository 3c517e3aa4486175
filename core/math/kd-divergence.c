#include "kd-measure.h"
#include "kd-narrow.h"
#include "kd-row.h"

/* Which loops: constants of the instances below. */
typedef enum { FORWARD,
  FORWARD_CROSS, /* without the teacher's entropy */
  REVERSE } Kind;

/* Sums of one row: cross is that of (weight x difference of the powers), the weight the teacher's or, in reverse, the student's. */
typedef struct {
  KdTable s, t;
  double cross;
} Row;

typedef struct {
  float z_s, z_t, cross, top_s, top_t;
} Sums;

/* One block's exponentials and sums. Kept are e_s and e_t; in reverse e_s and the difference of the powers. */
KD_BODY Sums
block_sums (const float *s, const float *t, int64_t n, float ref_s, float ref_t, float k, Kind kind, float *restrict keep_s,
    float *restrict keep_t)
{
  float z_s = 0.0f, z_t = 0.0f, cross = 0.0f, top_s = -FLT_MAX, top_t = -FLT_MAX;

#pragma omp simd reduction(+                                \
                           : z_s, z_t, cross) reduction(max \
                                                        : top_s, top_t)
  for (int64_t i = 0; i < n; i++) {
    float y_s = (s[i] - ref_s) * k, y_t = (t[i] - ref_t) * k, e_s = kd_exp2f (y_s), e_t = kd_exp2f (y_t), u = y_s - y_t;
    keep_s[i] = e_s;
    keep_t[i] = kind == REVERSE ? u : e_t;
    z_s += e_s;
    z_t += kind == FORWARD_CROSS ? e_t + 0.0f * y_t : e_t; /* NaN for an infinite logit, which the others find in cross */
    cross += kind == REVERSE ? e_s * u : e_t * (kind == FORWARD_CROSS ? -y_s : -u);
    top_s = y_s > top_s ? y_s : top_s;
    top_t = y_t > top_t ? y_t : top_t;
  }
  return (Sums) { z_s, z_t, cross, top_s, top_t };
}

/* Both references up to the block's largest values, and the sums so far with them. */
KD_BODY void
raise_references (Row *row, const float *s, const float *t, int64_t n, float k, Kind kind)
{
  double z_s = row->s.z, z_t = row->t.z, step_s = kd_table_raise (&row->s, kd_block_top (s, n), k);
  double step_t = kd_table_raise (&row->t, kd_block_top (t, n), k);

  if (kind == REVERSE)
    row->cross = exp2 (step_s) * (row->cross + z_s * (step_s - step_t));
  else
    row->cross = exp2 (step_t) * (row->cross + z_t * ((kind == FORWARD_CROSS ? 0.0 : step_t) - step_s));
}

/* From memory into the scratch. @start: the student's first reference at least. */
KD_BODY void
first_pass (const KdDivergence *call, const float *student, const void *teacher, Row *row, float start, float k, Kind kind, KdReal type)
{
  float buffer[KD_BLOCK] __attribute__ ((aligned (64)));
  int64_t width = (int64_t) kd_real_size (type);

  row->s.reference = start;
  row->t.reference = -FLT_MAX;
  row->s.z = row->t.z = row->cross = 0.0;
  for (int64_t at = 0; at < call->size; at += KD_BLOCK) {
    int64_t n = kd_block_length (call->size, at);
    const float *s = student + at, *t = kd_load_block (teacher, type, at, n, buffer);
    int raise = at == 0;
    Sums sums;

    kd_prefetch (s + KD_AHEAD, n * 4);
    kd_prefetch ((const char *) teacher + (at + KD_AHEAD) * width, n * width);
    do {
      if (raise)
        raise_references (row, s, t, n, k, kind);
      sums = block_sums (s, t, n, row->s.reference, row->t.reference, k, kind, row->s.e + at, row->t.e + at);
      raise = !raise && (sums.top_s > KD_RISE || sums.top_t > KD_RISE);
    } while (raise);
    row->s.reference_of[at / KD_BLOCK] = row->s.reference;
    row->t.reference_of[at / KD_BLOCK] = row->t.reference;
    row->s.z += sums.z_s;
    row->t.z += sums.z_t;
    row->cross += sums.cross;
  }
}

/* out = a e_s - b e_t, or in reverse a e_s (u + b). */
KD_BODY void
block_gradient (const float *restrict e_s, const float *restrict kept, int64_t n, float a, float b, Kind kind, float *restrict out)
{
#pragma omp simd
  for (int64_t i = 0; i < n; i++)
    out[i] = kind == REVERSE ? a * e_s[i] * (kept[i] + b) : a * e_s[i] - b * kept[i];
}

/* @c: coefficient of the gradient; @value: the row's; from the scratch into the gradient, from behind. */
KD_BODY void
last_pass (const KdDivergence *call, int64_t index, const Row *row, float k, Kind kind, double c, double value, KdPut put)
{
  const float *next = call->student + (index + 1) * call->size;
  const char *next_t = kd_row_of (call->teacher, call->teacher_type, index + 1, call->size);
  int64_t width = (int64_t) kd_real_size (call->teacher_type), ahead = put == KD_PUT_STREAM && call->size <= KD_PREFETCH_SIZE ? call->size / 2 : 0;
  int64_t last = (call->size - 1) / KD_BLOCK * KD_BLOCK;
  float *grad = call->grad + index * call->size, out[KD_BLOCK] __attribute__ ((aligned (64)));
  double log_z = log (row->s.z) - log (row->t.z);

  for (int64_t at = last; at >= 0; at -= KD_BLOCK) {
    int64_t n = kd_block_length (call->size, at), block = at / KD_BLOCK;
    double step_s = kd_table_step (&row->s, block, k), step_t = kd_table_step (&row->t, block, k), a = c * exp2 (step_s) / row->s.z, b;

    if (kind == REVERSE) { /* powers of two to nats */
      b = step_s - step_t - (log_z + value) / KD_LN2;
      a *= KD_LN2;
    } else {
      b = c * exp2 (step_t) / row->t.z;
    }
    if (last - at < ahead) { /* while this row is written, the next one can be read */
      kd_prefetch (next + (last - at), n * 4);
      kd_prefetch (next_t + (last - at) * width, n * width);
    }
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
block_small (const float *s, const float *t, int64_t n, const Row *row, float k, int reverse, float log_z, float a, float b)
{
  float max_s = row->s.reference, max_t = row->t.reference, sum = 0.0f;

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
row_small (const KdDivergence *call, const float *student, const void *teacher, const Row *row, float k, Kind kind, KdReal type)
{
  float buffer[KD_BLOCK] __attribute__ ((aligned (64))), a = (float) (1.0 / row->s.z), b = (float) (1.0 / row->t.z);
  float log_z = (float) (log (row->s.z) - log (row->t.z));
  double value = 0.0;

  for (int64_t at = 0; at < call->size; at += KD_BLOCK) {
    int64_t n = kd_block_length (call->size, at);
    value += block_small (student + at, kd_load_block (teacher, type, at, n, buffer), n, row, k, kind == REVERSE, log_z, a, b);
  }
  return value;
}

/* The student's part of a small cross-entropy: only relative to its largest logit are all terms small. */
KD_BODY double
cross_small (const KdDivergence *call, const float *student, const void *teacher, Row *row, float k, KdReal type)
{
  float top = kd_block_top (student, call->size);

  if (top > row->s.reference)
    first_pass (call, student, teacher, row, top, k, FORWARD_CROSS, type);
  return KD_LN2 * row->cross / row->t.z + kd_log_sum_small (student, call->size, top, (float) (1.0 / call->temperature));
}

/* Whole row; *ret_value is NaN when the row needs the exact way (nothing is written then). */
KD_BODY void
row_kind (const KdDivergence *call, int64_t index, float *scratch, KdPut put, double *ret_value, Kind kind, KdReal type)
{
  const float *student = call->student + index * call->size;
  const void *teacher = kd_row_of (call->teacher, type, index, call->size);
  float k = (float) (KD_LOG2E / call->temperature);
  double log_s, log_t, value;
  Row row;

  kd_table_init (&row.s, scratch, call->size);
  kd_table_init (&row.t, scratch + kd_table_floats (call->size), call->size);
  first_pass (call, student, teacher, &row, -FLT_MAX, k, kind, type);
  log_s = log (row.s.z);
  log_t = kind == FORWARD_CROSS ? 0.0 : log (row.t.z);
  if (kind == REVERSE)
    value = KD_LN2 * row.cross / row.s.z - log_s + log_t;
  else
    value = KD_LN2 * row.cross / row.t.z + log_s - log_t;
  *ret_value = NAN;
  if (!isfinite (value) || !isfinite (log_s) || !(row.t.z > 0.0 && row.t.z <= DBL_MAX) || (kind == REVERSE && value > LARGE))
    return;
  if (value < SMALL && kind == FORWARD_CROSS)
    value = cross_small (call, student, teacher, &row, k, type);
  else if (value < SMALL)
    value = row_small (call, student, teacher, &row, k, kind, type);
  if (call->grad)
    last_pass (call, index, &row, k, kind, call->coef[index] * call->scale / call->temperature, value, put);
  *ret_value = value;
}

KD_BODY void
row_fast_body (const KdDivergence *call, int64_t index, float *scratch, KdPut put, double *ret_value)
{
  /* constants where the loops depend on them */
  if (call->kind == KD_DIVERGENCE_REVERSE_KL && call->teacher_type == KD_REAL_F32)
    row_kind (call, index, scratch, put, ret_value, REVERSE, KD_REAL_F32);
  else if (call->kind == KD_DIVERGENCE_REVERSE_KL)
    row_kind (call, index, scratch, put, ret_value, REVERSE, call->teacher_type);
  else if (call->cross_entropy)
    row_kind (call, index, scratch, put, ret_value, FORWARD_CROSS, call->teacher_type);
  else if (call->teacher_type == KD_REAL_F32)
    row_kind (call, index, scratch, put, ret_value, FORWARD, KD_REAL_F32);
  else
    row_kind (call, index, scratch, put, ret_value, FORWARD, call->teacher_type);
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
    float *scratch = kd_scratch_new (2 * kd_table_floats (call->size));
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
