#include "kd-sparse-private.h"
#include "kd-measure.h"
#include "kd-topk-private.h"

/* The student's exponentials and their sum over the ids outside: the known ones are made -infinity in a copy of their block. */
KD_BODY void
first_pass_body (const float *x, int64_t size, float k, KdSparseRow *row)
{
  float buffer[KD_BLOCK] __attribute__ ((aligned (64)));
  const KdBlockLoops *loops = &kd_block_loops[row->level];
  KdTable *table = &row->table;

  table->reference = -FLT_MAX;
  table->z = 0.0;
  for (int64_t at = 0, b = 0; at < size; at += KD_BLOCK, b++) {
    int64_t n = kd_block_length (size, at);
    const float *block = x + at;
    float sum;
    if (row->first[b] < row->first[b + 1]) {
      block = memcpy (buffer, block, (size_t) n * sizeof *buffer);
      for (int32_t i = row->first[b]; i < row->first[b + 1]; i++)
        buffer[row->id[row->order[i]] - at] = -INFINITY;
    }
    sum = loops->exps (block, x + at + KD_AHEAD, n, table->reference, k, table->e + at);
    if (!(sum <= KD_RISE)) {
      kd_table_raise (table, kd_block_top (block, n), k);
      sum = loops->exps (block, x + at + KD_AHEAD, n, table->reference, k, table->e + at);
    }
    table->reference_of[b] = table->reference;
    table->z += sum;
  }
}

KD_KERNEL (first_pass, (const float *x, int64_t size, float k, KdSparseRow *row), (x, size, k, row))

/* The gradient, backwards since the end is what the cache still has: factor x the exponentials, and A of the known ids. Half of the @next row is
 * read ahead. */
KD_BODY void
last_pass_body (const float *next, int64_t size, float k, double factor, const KdSparseRow *row, KdPut put, float *grad)
{
  int64_t n_blocks = kd_block_count (size), ahead = put == KD_PUT_STREAM && size <= KD_PREFETCH_SIZE ? n_blocks / 2 : 0;
  float out[KD_BLOCK] __attribute__ ((aligned (64)));

  for (int64_t b = n_blocks - 1; b >= 0; b--) {
    int64_t at = b * KD_BLOCK, n = kd_block_length (size, at), done = n_blocks - 1 - b;
    if (done < ahead)
      kd_prefetch (next + done * KD_BLOCK, KD_BLOCK * 4);
    float f = (float) (factor * kd_step_factor (kd_table_step (&row->table, b, k)));
    const float *e = row->table.e + at;
    if (put == KD_PUT_ADD) /* backwards is not what the hardware expects */
      kd_prefetch (grad + (at > 2 * KD_BLOCK ? at - 2 * KD_BLOCK : 0), KD_BLOCK * 4);
#pragma omp simd
    for (int64_t i = 0; i < n; i++)
      out[i] = f * e[i];
    for (int32_t i = row->first[b]; i < row->first[b + 1]; i++)
      out[row->id[row->order[i]] - at] = (float) row->a[row->order[i]];
    kd_put_block (grad + at, out, n, put);
  }
}

KD_KERNEL (last_pass, (const float *next, int64_t size, float k, double factor, const KdSparseRow *row, KdPut put, float *grad),
    (next, size, k, factor, row, put, grad))

static int
has_infinite (const float *x, int64_t n)
{
  int found = 0;

  for (int64_t i = 0; i < n; i++)
    found |= !(fabsf (x[i]) <= FLT_MAX);
  return found;
}

/* log q of the known ids; *ret_rest that of all others. 0 when a logit is NaN or +infinity (or infinite, when that is to be refused). */
static int
student_side (const KdSparse *call, int64_t index, KdSparseRow *row, double *ret_rest)
{
  int64_t size = call->dense.size;
  const float *s = call->dense.student + index * size;
  double inv_t = 1.0 / row->temperature, sum;

  *ret_rest = -INFINITY;
  if (!row->restricted) {
    first_pass[row->level](s, size, (float) (inv_t * KD_LOG2E), row);
    if (isnan (row->table.z) || (call->dense.reject_infinite && has_infinite (s, size)))
      return 0;
    if (row->table.z > 0.0)
      *ret_rest = row->table.reference * inv_t + log (row->table.z);
  }
  for (int64_t i = 0; i < row->n; i++) {
    float value = s[row->id[i]];
    if (isnan (value) || value == INFINITY || (call->dense.reject_infinite && (isinf (value) || isinf (row->lp[i]))))
      return 0;
    row->lq[i] = value * inv_t;
  }
  sum = kd_log_sum (kd_sparse_log_sum (row->lq, row->n, row->q, row->level), *ret_rest);
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

/* Both KL of the known ids: what there is no need to call kd_outcome for. */
KD_BODY void
kl_body (const KdMeasure *m, KdSparseRow *row, double *ret_value, double *ret_sum)
{
  double value = 0.0, sum = 0.0, c_p = m->c_p, c_q = m->c_q, drop = m->drop;
  const double *p = row->p, *q = row->q, *lp = row->lp, *lq = row->lq;
  double *restrict a = row->a;

#pragma omp simd reduction(+ \
                           : value, sum)
  for (int64_t i = 0; i < row->n; i++) {
    int out = lp[i] < -DBL_MAX || lq[i] < -DBL_MAX; /* an infinite logit: left out */
    double l_p = out ? 0.0 : lp[i], u = out ? 0.0 : lp[i] - lq[i], w = out ? 0.0 : p[i];
    value += w * (c_p * u - drop * l_p) - c_q * q[i] * u;
    a[i] = out ? 0.0 : -c_p * w - c_q * q[i] * u;
    sum += out ? -c_q * q[i] : a[i];
  }
  *ret_value = value;
  *ret_sum = sum;
}

KD_KERNEL (kl, (const KdMeasure *m, KdSparseRow *row, double *ret_value, double *ret_sum), (m, row, ret_value, ret_sum))

/* The divergence over the outcomes; fills A of each and its sum. */
static double
outcomes (const KdMeasure *measure, KdSparseRow *row, double lq_rest, double *ret_a_rest, double *ret_sum)
{
  double value = 0.0, sum = 0.0, term, a_rest = 0.0;

  kd_sparse_exps (row->lq, row->n, 0.0, row->q, row->level);
  if (measure->shape == KD_MEASURE_KL) {
    kd_sparse_exps (row->lp, row->n, 0.0, row->p, row->level);
    kl[row->level](measure, row, &value, &sum);
  } else {
    for (int64_t i = 0; i < row->n; i++) {
      term = row->a[i] = 0.0;
      if (isinf (row->lp[i]) || isinf (row->lq[i])) { /* left out */
        sum -= kd_measure_lost (measure) * row->q[i];
        continue;
      }
      kd_outcome (measure, row->lq[i], row->lp[i], &term, &row->a[i]);
      value += term;
      sum += row->a[i];
    }
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

/* The row's gradient; @g_rest that of the others together. */
static void
write_gradient (const KdSparse *call, int64_t index, KdSparseRow *row, double g_rest, double sum, KdPut put)
{
  const KdDivergence *d = &call->dense;
  float *grad = d->grad + index * d->size;
  double inv_t = 1.0 / row->temperature, c = d->coef[index] * d->scale * inv_t;

  for (int64_t i = 0; i < row->n; i++)
    row->a[i] = isinf (row->lp[i]) ? 0.0 : c * (row->a[i] - row->q[i] * sum);
  if (!row->restricted) {
    last_pass[row->level](d->student + (index + 1 < d->n ? index + 1 : index) * d->size, d->size, (float) (inv_t * KD_LOG2E), row->table.z > 0.0 ? c * g_rest / row->table.z : 0.0, row, put, grad);
    return;
  }
  kd_put_nothing (grad, d->size, put);
  for (int64_t i = 0; i < row->n; i++)
    grad[row->id[i]] += (float) row->a[i];
}

/* With the rest spread over single ids there is nothing to gain from knowing few: the dense kernel, on a row of the teacher made here. */
static double
uniform_row (const KdSparse *call, int64_t index, KdSparseRow *row)
{
  KdDivergence one = call->dense;
  float each = (float) (row->lp_each * row->temperature);
  double value;

  for (int64_t i = 0; i < one.size; i++)
    row->dense[i] = each;
  for (int64_t i = 0; i < row->n; i++)
    row->dense[row->id[i]] = (float) (row->lp[i] * row->temperature);
  one.n = 1;
  one.student += index * one.size;
  one.teacher = row->dense;
  one.teacher_type = KD_REAL_F32;
  one.coef += index;
  one.temperature = row->temperature;
  one.grad = one.grad ? one.grad + index * one.size : NULL;
  one.value = &value;
  kd_divergence_rows (&one);
  return value;
}

static double
sparse_row (const KdSparse *call, const KdMeasure *common, int64_t index, KdSparseRow *row, KdPut put, KdSparseProblem *ret_problem)
{
  KdMeasure measure = *common;
  double value, lq_rest, a_rest, sum;

  *ret_problem = kd_sparse_teacher (call, index, row);
  if (*ret_problem != KD_SPARSE_FINE)
    return 0.0;
  if (row->n == 0) {
    kd_put_nothing (call->dense.grad ? call->dense.grad + index * call->dense.size : NULL, call->dense.size, put);
    return 0.0;
  }
  if (!isnan (row->lp_each) && !isnan (row->lp_rest))
    return uniform_row (call, index, row);
  if (isnan (row->lp_rest) || !student_side (call, index, row, &lq_rest))
    return NAN;
  if (call->dense.kind == KD_DIVERGENCE_ADAPTIVE_KL)
    adapt (call, row, lq_rest, &measure);
  value = outcomes (&measure, row, lq_rest, &a_rest, &sum);
  if (isinf (value)) {
    *ret_problem = KD_SPARSE_INFINITE;
    return 0.0;
  }
  if (call->dense.grad)
    write_gradient (call, index, row, a_rest - exp (lq_rest) * sum, sum, put);
  return value;
}

static void
row_init (const KdSparse *call, KdSparseRow *row, int level)
{
  int64_t size = call->dense.size;
  size_t capacity = (size_t) (call->source == KD_SUPPORT_UNION ? 2 * call->k : call->k) + 1; /* one more: a label */

  *row = (KdSparseRow) { .level = level, .seen = calloc ((size_t) size / 8 + 1, 1), .lp = malloc (capacity * (6 * sizeof (double) + sizeof (int32_t)) + (size_t) (kd_block_count (size) + 2) * sizeof (int32_t)), .dense = kd_scratch_new (call->tail == KD_TAIL_UNIFORM ? size : 1), .keys = malloc (kd_topk_scratch (call->form == KD_SPARSE_ONLINE ? call->k : 1) * sizeof (uint64_t)) };
  if (!row->seen || !row->lp || !row->keys)
    abort (); /* as GLib does */
  kd_table_init (&row->table, kd_scratch_new (kd_table_floats (size)), size);
  row->lq = row->lp + capacity;
  row->p = row->lq + capacity;
  row->q = row->p + capacity;
  row->a = row->q + capacity;
  row->id = (int64_t *) (row->a + capacity);
  row->order = (int32_t *) (row->id + capacity);
  row->first = row->order + capacity;
}

static void
row_clear (KdSparseRow *row)
{
  free (row->lp);
  free (row->seen);
  free (row->keys);
  free (row->dense);
  free (row->table.e);
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
  KdPut put = kd_put_kind (call.dense.fresh, call.dense.n, call.dense.size);
  KdMeasure measure;

  call.dense = resolved (&asked->dense);
  call.k = call.form == KD_SPARSE_ONLINE && call.k > call.dense.size ? call.dense.size : call.k;
  measure = kd_measure_of (&call.dense);
#pragma omp parallel if (call.dense.n > 1 && call.dense.n * call.dense.size >= KD_PARALLEL_ELEMENTS)
  {
    KdSparseRow row;

    row_init (&call, &row, level);
#pragma omp for schedule(static)
    for (int64_t i = 0; i < call.dense.n; i++) {
      KdSparseProblem problem = KD_SPARSE_FINE;
      call.dense.value[i] = 0.0;
      if (call.dense.coef[i] != 0.0)
        call.dense.value[i] = sparse_row (&call, &measure, i, &row, put, &problem);
      else
        kd_put_nothing (call.dense.grad ? call.dense.grad + i * call.dense.size : NULL, call.dense.size, put);
      call.problem[i] = (uint8_t) problem;
    }
    kd_put_end (put);
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
