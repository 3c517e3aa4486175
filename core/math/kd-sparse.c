#include "kd-sparse-private.h"
#include "kd-kernel.h"
#include "kd-measure.h"
#include "kd-topk-private.h"
#include <stdlib.h>

/* The student's gradient of the ids outside, factor x e^((x - max) / T): of the known ones too, which are put right afterwards. */
KD_BODY void
spread_body (const float *x, int64_t n, float max, float inv_t, float factor, int fresh, float *grad)
{
  if (fresh) {
#pragma omp simd
    for (int64_t i = 0; i < n; i++)
      grad[i] = factor * kd_expf ((x[i] - max) * inv_t);
  } else {
#pragma omp simd
    for (int64_t i = 0; i < n; i++)
      grad[i] += factor * kd_expf ((x[i] - max) * inv_t);
  }
}

KD_KERNEL (spread, (const float *x, int64_t n, float max, float inv_t, float factor, int fresh, float *grad), (x, n, max, inv_t, factor, fresh, grad))

/* log q of the known ids; *ret_rest that of all others. 0 when a logit is NaN or +infinity (or infinite, when that is to be refused). */
static int
student_side (const KdSparse *call, int64_t index, KdSparseRow *row, int level, KdSparseRest *rest, double *ret_rest)
{
  const float *s = call->dense.student + index * call->dense.size;
  double inv_t = 1.0 / row->temperature, sum;

  *rest = (KdSparseRest) { 0.0f, 0.0 };
  if (!row->restricted && !kd_sparse_rest (s, KD_REAL_F32, call->dense.size, call->dense.reject_infinite, row, level, rest))
    return 0;
  for (int64_t i = 0; i < row->n; i++) {
    float value = s[row->id[i]];
    if (isnan (value) || value == INFINITY || (call->dense.reject_infinite && isinf (value)))
      return 0;
    if (call->dense.reject_infinite && isinf (row->lp[i]))
      return 0;
    row->lq[i] = value * inv_t;
  }
  *ret_rest = rest->z > 0.0 ? rest->max * inv_t + log (rest->z) : -INFINITY;
  sum = kd_log_sum (kd_log_sums (row->lq, row->n), *ret_rest);
  for (int64_t i = 0; i < row->n; i++)
    row->lq[i] -= sum;
  *ret_rest -= sum;
  return sum > -INFINITY;
}

static int
compare_outcomes (const void *a, const void *b)
{
  const int64_t *x = a, *y = b;

  return (*x > *y) - (*x < *y);
}

/* The adaptive KL's weight of the forward half: outcomes in the order of their ids, so that ties are broken by the id; the rest last. */
static void
adapt (const KdSparse *call, const KdSparseRow *row, double lq_rest, KdMeasure *measure)
{
  int64_t n = row->n + (lq_rest > -INFINITY);
  double *p = malloc ((size_t) (n + 1) * (2 * sizeof (double) + 3 * sizeof (int64_t))), *q = p + n + 1;
  int64_t *place = (int64_t *) (q + n + 1);

  if (!p)
    abort (); /* as GLib does */
  for (int64_t i = 0; i < row->n; i++) {
    place[2 * i] = row->id[i];
    place[2 * i + 1] = i;
  }
  qsort (place, (size_t) row->n, 2 * sizeof *place, compare_outcomes);
  for (int64_t i = 0; i < row->n; i++) {
    int64_t from = place[2 * i + 1];
    int left_out = isinf (row->lp[from]) || isinf (row->lq[from]);
    p[i] = left_out ? 0.0 : exp (row->lp[from]);
    q[i] = left_out ? 0.0 : exp (row->lq[from]);
  }
  p[row->n] = exp (row->lp_rest);
  q[row->n] = exp (lq_rest);
  measure->c_p = kd_adaptive_share (n, p, q, call->dense.mu, (int32_t *) (place + 2 * n));
  measure->c_q = 1.0 - measure->c_p;
  free (p);
}

/* The divergence over the outcomes; fills A of each and its sum. */
static double
outcomes (const KdMeasure *measure, KdSparseRow *row, double lq_rest, double *ret_a_rest, double *ret_sum)
{
  double value = 0.0, sum = 0.0, term, a_rest = 0.0;

  for (int64_t i = 0; i < row->n; i++) {
    if (isinf (row->lp[i]) || isinf (row->lq[i])) /* an infinite logit: left out */
      continue;
    kd_outcome (measure, row->lq[i], row->lp[i], &term, &row->a[i]);
    value += term;
    sum += row->a[i];
  }
  if (lq_rest > -INFINITY) {
    kd_outcome (measure, lq_rest, row->lp_rest, &term, &a_rest);
    value += term;
    sum += a_rest;
  }
  *ret_a_rest = a_rest;
  *ret_sum = sum;
  return value;
}

/* Adds the row's gradient: that of the ids outside in one pass over the row, the known ones by themselves. */
static void
write_gradient (const KdSparse *call, int64_t index, KdSparseRow *row, int level, KdSparseRest rest, double g_rest, double sum)
{
  const KdDivergence *d = &call->dense;
  const float *s = d->student + index * d->size;
  float *grad = d->grad + index * d->size;
  double inv_t = 1.0 / row->temperature, c = d->coef[index] * d->scale * inv_t;
  float factor = rest.z > 0.0 ? (float) (c * g_rest / rest.z) : 0.0f;

  for (int64_t i = 0; i < row->n; i++)
    row->kept[i] = call->dense.fresh ? 0.0f : grad[row->id[i]];
  if (factor != 0.0f)
    spread[level](s, d->size, rest.max, (float) inv_t, factor, call->dense.fresh, grad);
  else if (call->dense.fresh)
    memset (grad, 0, (size_t) d->size * sizeof *grad);
  for (int64_t i = 0; i < row->n; i++) {
    int left_out = isinf (row->lp[i]) || isinf (row->lq[i]);
    grad[row->id[i]] = row->kept[i] + (left_out ? 0.0f : (float) (c * (row->a[i] - exp (row->lq[i]) * sum)));
  }
}

/* With the rest spread over single ids there is nothing to gain from knowing few: the dense kernel, on a row of the teacher made here. */
static double
uniform_row (const KdSparse *call, int64_t index, KdSparseRow *row)
{
  KdDivergence one = call->dense;
  float each = (float) (row->lp_each * row->temperature);
  double value;

  for (int64_t i = 0; i < one.size; i++)
    row->row[i] = each;
  for (int64_t i = 0; i < row->n; i++)
    row->row[row->id[i]] = (float) (row->lp[i] * row->temperature);
  one.n = 1;
  one.student += index * one.size;
  one.teacher = row->row;
  one.teacher_type = KD_REAL_F32;
  one.coef += index;
  one.temperature = row->temperature;
  one.grad = one.grad ? one.grad + index * one.size : NULL;
  one.value = &value;
  kd_divergence_rows (&one);
  return value;
}

static void
empty_row (const KdSparse *call, int64_t index)
{
  if (call->dense.fresh && call->dense.grad)
    memset (call->dense.grad + index * call->dense.size, 0, (size_t) call->dense.size * sizeof *call->dense.grad);
}

static double
sparse_row (const KdSparse *call, const KdMeasure *common, int64_t index, KdSparseRow *row, int level, KdSparseProblem *ret_problem)
{
  KdMeasure measure = *common;
  double value, lq_rest, a_rest, sum;
  KdSparseRest rest;

  *ret_problem = kd_sparse_teacher (call, index, row, level);
  if (*ret_problem != KD_SPARSE_FINE)
    return 0.0;
  if (row->n == 0) {
    empty_row (call, index);
    return 0.0;
  }
  if (!isnan (row->lp_each) && !isnan (row->lp_rest))
    return uniform_row (call, index, row);
  if (isnan (row->lp_rest) || !student_side (call, index, row, level, &rest, &lq_rest))
    return NAN;
  if (call->dense.kind == KD_DIVERGENCE_ADAPTIVE_KL)
    adapt (call, row, lq_rest, &measure);
  value = outcomes (&measure, row, lq_rest, &a_rest, &sum);
  if (isinf (value)) {
    *ret_problem = KD_SPARSE_INFINITE;
    return 0.0;
  }
  if (call->dense.grad)
    write_gradient (call, index, row, level, rest, a_rest - exp (lq_rest) * sum, sum);
  return value;
}

static void
row_init (const KdSparse *call, KdSparseRow *row)
{
  int64_t n_blocks = (call->dense.size + KD_BLOCK - 1) / KD_BLOCK;
  size_t capacity = (size_t) (call->source == KD_SUPPORT_UNION ? 2 * call->k : call->k) + 1; /* one more: a label */
  double *numbers = malloc (capacity * (4 * sizeof (double) + sizeof (float) + sizeof (int32_t)) + (size_t) (n_blocks + 2) * sizeof (int32_t));

  *row = (KdSparseRow) { .seen = calloc ((size_t) call->dense.size / 8 + 1, 1) };
  if (call->form == KD_SPARSE_ONLINE)
    row->keys = malloc (kd_topk_scratch (call->k) * sizeof *row->keys);
  if (call->tail == KD_TAIL_UNIFORM)
    row->row = malloc ((size_t) call->dense.size * sizeof *row->row);
  if (!numbers || !row->seen || (call->form == KD_SPARSE_ONLINE && !row->keys) || (call->tail == KD_TAIL_UNIFORM && !row->row))
    abort (); /* as GLib does */
  row->lp = numbers;
  row->lq = row->lp + capacity;
  row->a = row->lq + capacity;
  row->id = (int64_t *) (row->a + capacity);
  row->kept = (float *) (row->id + capacity);
  row->order = (int32_t *) (row->kept + capacity);
  row->first = row->order + capacity;
}

static void
row_clear (KdSparseRow *row)
{
  free (row->lp);
  free (row->seen);
  free (row->keys);
  free (row->row);
}

/* As TRL defines the ends of jsd. */
static KdDivergence
resolved (const KdDivergence *dense)
{
  KdDivergence d = *dense;

  if (d.kind == KD_DIVERGENCE_JSD && (d.beta <= 0.0 || d.beta >= 1.0)) {
    d.kind = d.beta <= 0.0 ? KD_DIVERGENCE_FORWARD_KL : KD_DIVERGENCE_REVERSE_KL;
    d.cross_entropy = 0;
  }
  return d;
}

int
kd_sparse_is_infinite (const KdSparse *call)
{
  KdDivergence dense = resolved (&call->dense);
  KdMeasure measure = kd_measure_of (&dense);
  int outside = call->form == KD_SPARSE_SAMPLED || call->tail == KD_TAIL_TRUNCATE || call->tail == KD_TAIL_LABEL ||
      (call->tail == KD_TAIL_RENORM && call->form != KD_SPARSE_ONLINE);

  return outside && !call->restricted && kd_measure_needs_teacher (&measure);
}

void
kd_sparse_rows (const KdSparse *asked)
{
  KdSparse call = *asked;
  int level = kd_kernel_level (call.dense.level);
  KdMeasure measure;

  call.dense = resolved (&asked->dense);
  call.k = call.form == KD_SPARSE_ONLINE && call.k > call.dense.size ? call.dense.size : call.k;
  measure = kd_measure_of (&call.dense);
#pragma omp parallel if (call.dense.n > 1 && call.dense.n * call.dense.size >= KD_PARALLEL_ELEMENTS)
  {
    KdSparseRow row;

    row_init (&call, &row);
#pragma omp for schedule(static)
    for (int64_t i = 0; i < call.dense.n; i++) {
      KdSparseProblem problem = KD_SPARSE_FINE;
      call.dense.value[i] = 0.0;
      if (call.dense.coef[i] != 0.0)
        call.dense.value[i] = sparse_row (&call, &measure, i, &row, level, &problem);
      else
        empty_row (&call, i);
      call.problem[i] = (uint8_t) problem;
    }
    row_clear (&row);
  }
}

void
kd_divergence_each (const KdDivergence *call, const double *temperatures)
{
#pragma omp parallel for schedule(static) if (call->n > 1 && call->n * call->size >= KD_PARALLEL_ELEMENTS)
  for (int64_t i = 0; i < call->n; i++) {
    KdDivergence one = *call;
    one.n = 1;
    one.student += i * one.size;
    one.teacher = kd_row_of (one.teacher, one.teacher_type, i, one.size);
    one.coef += i;
    one.temperature = temperatures[i];
    one.grad = one.grad ? one.grad + i * one.size : NULL;
    one.value += i;
    kd_divergence_rows (&one);
  }
}
