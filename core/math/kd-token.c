#include "kd-token.h"
#include "kd-measure.h"
#include "kd-kernel.h"

#include <stdlib.h>

/* Logits up to this size are mixed in float32: half a unit in the last place is 2e-6 then. */
#define MIX_LIMIT 64.0f
/* Rows of at most this many ids are done in double: what is found in steps (target and gradient, difficulty, temperature and gradient) would add
 * up float32's errors, and short rows cost nothing. */
#define SHORT_ROW 64

/* @bad: some value is beyond MIX_LIMIT, or is no number. */
KD_BODY void
mix_body (const float *student, const float *teacher, int64_t n, float share, float *target, int *bad)
{
  int wide = 0;

#pragma omp simd reduction(| \
                           : wide)
  for (int64_t i = 0; i < n; i++) {
    target[i] = student[i] + share * (teacher[i] - student[i]);
    wide |= !(fabsf (student[i]) <= MIX_LIMIT) | !(fabsf (teacher[i]) <= MIX_LIMIT);
  }
  *bad |= wide;
}
KD_KERNEL (mix, (const float *student, const float *teacher, int64_t n, float share, float *target, int *bad), (student, teacher, n, share, target, bad))

typedef struct {
  double max, sum;
} Normaliser;

static void
normaliser_add (Normaliser *norm, double x)
{
  if (x > norm->max) {
    norm->sum = norm->sum * exp (norm->max - x) + 1.0;
    norm->max = x;
  } else {
    norm->sum += exp (x - norm->max);
  }
}

/* By the definition, in double. */
static double
interpolated_exact (const KdInterpolated *call, int64_t row)
{
  const float *s = call->student + row * call->size;
  const void *teacher = kd_row_of (call->teacher, call->teacher_type, row, call->size);
  float *grad = call->grad && call->share > 0.0 ? call->grad + row * call->size : NULL;
  Normaliser q = { -INFINITY, 0.0 }, p = { -INFINITY, 0.0 };
  double value = 0.0, log_q, log_p;

  for (int64_t i = 0; i < call->size; i++) {
    double a = s[i], b = kd_load_value (teacher, call->teacher_type, i);
    if (isnan (a) || isnan (b) || a == INFINITY || b == INFINITY)
      return NAN;
    if (isfinite (a))
      normaliser_add (&q, a);
    if (isfinite (a) && isfinite (b))
      normaliser_add (&p, a + call->share * (b - a));
  }
  if (p.sum == 0.0)
    return NAN;
  log_q = log (q.sum);
  log_p = log (p.sum);
  for (int64_t i = 0; i < call->size; i++) {
    double a = s[i], b = kd_load_value (teacher, call->teacher_type, i), l_q, l_p;
    if (!isfinite (a) || !isfinite (b))
      continue;
    l_q = a - q.max - log_q;
    l_p = a + call->share * (b - a) - p.max - log_p;
    value += exp (l_p) * ((call->cross_entropy ? 0.0 : l_p) - l_q);
    if (grad)
      grad[i] += (float) (call->coef[row] * call->scale * (exp (l_q) - exp (l_p)));
  }
  return value;
}

static double
interpolated_row (const KdInterpolated *call, int64_t row, float *target, int level)
{
  const float *s = call->student + row * call->size;
  const void *teacher = kd_row_of (call->teacher, call->teacher_type, row, call->size);
  float buffer[KD_BLOCK];
  double value = 0.0;
  int bad = 0;

  if (call->size <= SHORT_ROW)
    return interpolated_exact (call, row);
  for (int64_t at = 0; at < call->size && !bad; at += KD_BLOCK) {
    int64_t n = call->size - at < KD_BLOCK ? call->size - at : KD_BLOCK;
    mix[level](s + at, kd_load_block (teacher, call->teacher_type, at, n, buffer), n, (float) call->share, target + at, &bad);
  }
  if (bad)
    return interpolated_exact (call, row);
  kd_divergence_rows (&(KdDivergence) {
      .kind = KD_DIVERGENCE_FORWARD_KL,
      .n = 1,
      .size = call->size,
      .student = s,
      .teacher = target,
      .teacher_type = KD_REAL_F32,
      .coef = call->coef + row,
      .temperature = 1.0,
      .scale = call->scale,
      .cross_entropy = call->cross_entropy,
      .grad = call->grad && call->share > 0.0 ? call->grad + row * call->size : NULL,
      .value = &value,
      .level = level,
  });
  return value;
}

void
kd_interpolated_rows (const KdInterpolated *call)
{
  int level = kd_kernel_level (call->level);

#pragma omp parallel if (call->n > 1 && call->n * call->size >= KD_PARALLEL_ELEMENTS)
  {
    float *target = malloc ((size_t) call->size * sizeof *target);

    if (!target)
      abort (); /* as GLib does */
#pragma omp for schedule(static)
    for (int64_t row = 0; row < call->n; row++)
      call->value[row] = call->coef[row] != 0.0 ? interpolated_row (call, row, target, level) : 0.0;
    free (target);
  }
}

/* kd_divergence_rows for one short row. */
static void
short_row (KdDivergence *one)
{
  KdMeasure measure;

  if (one->kind == KD_DIVERGENCE_JSD && (one->beta <= 0.0 || one->beta >= 1.0))
    one->kind = one->beta <= 0.0 ? KD_DIVERGENCE_FORWARD_KL : KD_DIVERGENCE_REVERSE_KL;
  measure = kd_measure_of (one);
  *one->value = kd_exact_row (one, &measure, 0);
}

void
kd_divergence_tempered_rows (const KdDivergence *call, const double *temperature, int squared)
{
#pragma omp parallel for schedule(static) if (call->n > 1 && call->n * call->size >= KD_PARALLEL_ELEMENTS)
  for (int64_t row = 0; row < call->n; row++) {
    KdDivergence one = *call;
    call->value[row] = 0.0;
    if (call->coef[row] == 0.0)
      continue;
    one.n = 1;
    one.student = call->student + row * call->size;
    one.teacher = kd_row_of (call->teacher, call->teacher_type, row, call->size);
    one.coef = call->coef + row;
    one.temperature = temperature[row];
    one.scale = call->scale * (squared ? temperature[row] * temperature[row] : 1.0);
    one.grad = call->grad ? call->grad + row * call->size : NULL;
    one.value = call->value + row;
    if (call->size <= SHORT_ROW && call->kind != KD_DIVERGENCE_ADAPTIVE_KL)
      short_row (&one);
    else
      kd_divergence_rows (&one);
  }
}

/* log softmax (x / T) = (x - max) / T - rest: differences of logits keep their digits however large the logits are. */
typedef struct {
  float max, inv_t, rest;
} Reference;

/* FALSE (0) for a row with NaN, +infinity or nothing finite. */
KD_BODY int
reference_of (const void *row, KdReal type, int64_t size, float inv_t, Reference *ret)
{
  float buffer[KD_BLOCK], max = -INFINITY;
  double sum = 0.0;
  int bad = 0;

  for (int64_t at = 0; at < size; at += KD_BLOCK) {
    int64_t n = size - at < KD_BLOCK ? size - at : KD_BLOCK;
    const float *x = kd_load_block (row, type, at, n, buffer);
#pragma omp simd reduction(max                \
                           : max) reduction(| \
                                            : bad)
    for (int64_t i = 0; i < n; i++) {
      max = x[i] > max ? x[i] : max;
      bad |= !(x[i] < INFINITY);
    }
  }
  if (bad || max == -INFINITY)
    return 0;
  for (int64_t at = 0; at < size; at += KD_BLOCK) {
    int64_t n = size - at < KD_BLOCK ? size - at : KD_BLOCK;
    const float *x = kd_load_block (row, type, at, n, buffer);
    float part = 0.0f;
#pragma omp simd reduction(+ \
                           : part)
    for (int64_t i = 0; i < n; i++)
      part += kd_expf ((x[i] - max) * inv_t);
    sum += part;
  }
  *ret = (Reference) { max, inv_t, (float) log (sum) };
  if (sum < 1.01 && type == KD_REAL_F32)
    ret->rest = (float) kd_log_sum_small (row, size, max, inv_t);
  return 1;
}

static double
hellinger_short (const float *s, const void *t, KdReal type, int64_t size)
{
  Normaliser q = { -INFINITY, 0.0 }, p = { -INFINITY, 0.0 };
  double sum = 0.0;

  for (int64_t i = 0; i < size; i++) {
    double a = s[i], b = kd_load_value (t, type, i);
    if (isnan (a) || isnan (b) || a == INFINITY || b == INFINITY)
      return NAN;
    if (isfinite (a))
      normaliser_add (&q, a);
    if (isfinite (b))
      normaliser_add (&p, b);
  }
  if (q.sum == 0.0 || p.sum == 0.0)
    return NAN;
  for (int64_t i = 0; i < size; i++) {
    double a = s[i], b = kd_load_value (t, type, i), d;
    d = exp (0.5 * (a - q.max)) / sqrt (q.sum) - exp (0.5 * (b - p.max)) / sqrt (p.sum);
    sum += isfinite (a) && isfinite (b) ? d * d : 0.0;
  }
  return fmin (sqrt (0.5 * sum), 1.0);
}

KD_BODY void
hellinger_body (const float *s, const void *t, KdReal type, int64_t size, double *ret)
{
  float buffer[KD_BLOCK];
  Reference q, p;
  double sum = 0.0;

  *ret = NAN;
  if (!reference_of (s, KD_REAL_F32, size, 1.0f, &q) || !reference_of (t, type, size, 1.0f, &p))
    return;
  for (int64_t at = 0; at < size; at += KD_BLOCK) {
    int64_t n = size - at < KD_BLOCK ? size - at : KD_BLOCK;
    const float *x = s + at, *y = kd_load_block (t, type, at, n, buffer);
    float part = 0.0f;
#pragma omp simd reduction(+ \
                           : part)
    for (int64_t i = 0; i < n; i++) {
      float d = kd_expf (0.5f * (x[i] - q.max - q.rest)) - kd_expf (0.5f * (y[i] - p.max - p.rest));
      part += x[i] > -INFINITY && y[i] > -INFINITY ? d * d : 0.0f;
    }
    sum += part;
  }
  sum = sqrt (0.5 * sum);
  *ret = sum < 1.0 ? sum : 1.0;
}
KD_KERNEL (hellinger, (const float *s, const void *t, KdReal type, int64_t size, double *ret), (s, t, type, size, ret))

void
kd_hellinger_rows (int64_t n, int64_t size, const float *student, const void *teacher, KdReal teacher_type, const double *coef, double *value, int level)
{
  int at_level = kd_kernel_level (level);

#pragma omp parallel for schedule(static) if (n > 1 && n * size >= KD_PARALLEL_ELEMENTS)
  for (int64_t row = 0; row < n; row++) {
    value[row] = 0.0;
    if (coef[row] != 0.0 && size <= SHORT_ROW)
      value[row] = hellinger_short (student + row * size, kd_row_of (teacher, teacher_type, row, size), teacher_type, size);
    else if (coef[row] != 0.0)
      hellinger[at_level](student + row * size, kd_row_of (teacher, teacher_type, row, size), teacher_type, size, value + row);
  }
}

KD_BODY void
back_body (const float *x, int64_t size, float inv_t, float constant, float slope, float *grad)
{
  Reference q;

  if (!reference_of (x, KD_REAL_F32, size, inv_t, &q))
    return;
#pragma omp simd
  for (int64_t i = 0; i < size; i++) {
    float l = (x[i] - q.max) * inv_t - q.rest;
    l = l > -100.0f ? l : -100.0f; /* its exponential is 0: -infinity must not meet it */
    grad[i] += kd_expf (l) * (constant + slope * l);
  }
}
KD_KERNEL (back, (const float *x, int64_t size, float inv_t, float constant, float slope, float *grad), (x, size, inv_t, constant, slope, grad))

void
kd_softmax_back_rows (int64_t n, int64_t size, const float *logits, double temperature, const double *constant, const double *slope, float *grad, int level)
{
  int at_level = kd_kernel_level (level);

#pragma omp parallel for schedule(static) if (n > 1 && n * size >= KD_PARALLEL_ELEMENTS)
  for (int64_t row = 0; row < n; row++)
    if (constant[row] != 0.0 || slope[row] != 0.0)
      back[at_level](logits + row * size, size, (float) (1.0 / temperature), (float) constant[row], (float) slope[row], grad + row * size);
}
