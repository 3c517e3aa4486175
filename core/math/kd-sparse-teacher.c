/* The teacher's side of a sparse row: which ids, with which probabilities, and what the others have. */
#include "kd-sparse-private.h"
#include "kd-kernel.h"
#include "kd-topk-private.h"

/* e^x to the last digits for x <= 700, 0 below -708: Taylor polynomial on [-ln 2 / 2, ln 2 / 2], the exponent put together in integers. */
KD_BODY double
exp_of (double x)
{
  const double magic = 6755399441055744.0; /* 1.5 x 2^52 */
  double t, n, r, p;
  int64_t bits, zero;

  x = x > -708.0 ? x : -708.0;
  t = x * KD_LOG2E + magic;
  n = t - magic;
  r = x - n * 6.93147180369123816490e-01;
  r -= n * 1.90821492927058770002e-10;
  p = 1.0 / 479001600;
  p = p * r + 1.0 / 39916800;
  p = p * r + 1.0 / 3628800;
  p = p * r + 1.0 / 362880;
  p = p * r + 1.0 / 40320;
  p = p * r + 1.0 / 5040;
  p = p * r + 1.0 / 720;
  p = p * r + 1.0 / 120;
  p = p * r + 1.0 / 24;
  p = p * r + 1.0 / 6;
  p = p * r + 0.5;
  p = p * r * r + r + 1.0;
  memcpy (&bits, &t, sizeof bits);
  memcpy (&zero, &magic, sizeof zero);
  bits = (int64_t) ((uint64_t) (bits - zero + 1023) << 52);
  memcpy (&n, &bits, sizeof n);
  return x > -708.0 ? p * n : 0.0;
}

KD_BODY void
exps_body (const double *x, int64_t n, double shift, double *out, double *ret_sum)
{
  double sum = 0.0;

#pragma omp simd reduction(+ \
                           : sum)
  for (int64_t i = 0; i < n; i++) {
    out[i] = exp_of (x[i] - shift);
    sum += out[i];
  }
  *ret_sum = sum;
}

KD_KERNEL (exps, (const double *x, int64_t n, double shift, double *out, double *ret_sum), (x, n, shift, out, ret_sum))

double
kd_sparse_exps (const double *x, int64_t n, double shift, double *out, int level)
{
  double sum;

  exps[level](x, n, shift, out, &sum);
  return sum;
}

double
kd_sparse_log_sum (const double *x, int64_t n, double *scratch, int level)
{
  double max = -INFINITY;

  for (int64_t i = 0; i < n; i++)
    max = x[i] > max ? x[i] : max;
  return max == -INFINITY ? max : max + log (kd_sparse_exps (x, n, max, scratch, level));
}

static int64_t
id_at (const KdSparse *call, int64_t i)
{
  return call->ids_are_32 ? ((const int32_t *) call->ids)[i] : ((const int64_t *) call->ids)[i];
}

/* Whether the id was seen before in this row. */
static int
mark (KdSparseRow *row, int64_t id)
{
  uint8_t bit = (uint8_t) (1u << (id & 7)), was = row->seen[id >> 3] & bit;

  row->seen[id >> 3] |= bit;
  return was;
}

static KdSparseProblem
check_value (const KdSparse *call, float value)
{
  if (call->form == KD_SPARSE_TOPK)
    return value <= 1e-4f ? KD_SPARSE_FINE : KD_SPARSE_BAD_LOGPROB;
  return value >= 0.0f && value <= FLT_MAX ? KD_SPARSE_FINE : KD_SPARSE_BAD_WEIGHT;
}

/* The stored ids and values, without the padding; a drawn id whose weight is 0 is an id outside. */
static KdSparseProblem
read_stored (const KdSparse *call, int64_t index, KdSparseRow *row)
{
  KdSparseProblem problem = KD_SPARSE_FINE;

  for (int64_t i = index * call->k; i < (index + 1) * call->k && problem == KD_SPARSE_FINE; i++) {
    int64_t id = id_at (call, i);
    if (id == -1)
      continue;
    if (id < 0 || id >= call->dense.size)
      return KD_SPARSE_BAD_ID;
    problem = mark (row, id) ? KD_SPARSE_DUPLICATE : check_value (call, call->values[i]);
    row->id[row->n] = id;
    row->lp[row->n] = call->form == KD_SPARSE_TOPK ? call->values[i] : log (call->values[i]);
    row->n += call->form == KD_SPARSE_TOPK || call->values[i] > 0.0f;
  }
  return problem;
}

/* Adds what lies outside to the label's id; without a label it is lost. */
static void
give_to_label (const KdSparse *call, int64_t index, KdSparseRow *row, double lp_rest)
{
  int64_t label = call->label ? call->label[index] : -1, i = 0;

  if (label < 0 || label >= call->dense.size || lp_rest == -INFINITY)
    return;
  while (i < row->n && row->id[i] != label)
    i++;
  if (i < row->n) {
    row->lp[i] = kd_log_sum (row->lp[i], lp_rest);
  } else if (row->restricted) { /* the label is not among them: it is one of the others, which are left out */
    double sum = kd_sparse_log_sum (row->lp, row->n, row->a, row->level);
    for (i = 0; i < row->n && sum > -INFINITY; i++)
      row->lp[i] -= sum;
  } else {
    row->id[row->n] = label;
    row->lp[row->n++] = lp_rest;
  }
}

/* What the others get of @lp_rest. */
static void
place_rest (const KdSparse *call, int64_t index, KdSparseRow *row, double lp_rest)
{
  row->lp_rest = -INFINITY;
  row->lp_each = NAN;
  if (call->tail == KD_TAIL_LABEL)
    give_to_label (call, index, row, lp_rest);
  else if (call->tail == KD_TAIL_BUCKET)
    row->lp_rest = lp_rest;
  else if (call->tail == KD_TAIL_UNIFORM && lp_rest > -INFINITY)
    row->lp_each = lp_rest - log ((double) (call->dense.size - row->n));
}

/* Known log-probabilities @row->lp and the rest's, to another temperature and to a sum of 1. */
static void
temper (KdSparseRow *row, double power, double *lp_rest)
{
  double sum;

  for (int64_t i = 0; i < row->n; i++)
    row->lp[i] *= row->lp[i] == -INFINITY ? 1.0 : power;
  *lp_rest *= *lp_rest == -INFINITY ? 1.0 : power;
  sum = kd_log_sum (kd_sparse_log_sum (row->lp, row->n, row->a, row->level), *lp_rest);
  for (int64_t i = 0; i < row->n && sum > -INFINITY; i++)
    row->lp[i] -= sum;
  *lp_rest -= sum > -INFINITY ? sum : 0.0;
}

static KdSparseProblem
teacher_stored (const KdSparse *call, int64_t index, KdSparseRow *row)
{
  KdSparseProblem problem = read_stored (call, index, row);
  double sum, rest, lp_rest;
  int leave_out = call->tail == KD_TAIL_RENORM || (call->restricted && (call->tail == KD_TAIL_BUCKET || call->tail == KD_TAIL_UNIFORM));

  for (int64_t i = index * call->k; i < (index + 1) * call->k; i++) {
    int64_t id = id_at (call, i);
    if (id >= 0 && id < call->dense.size)
      row->seen[id >> 3] = 0;
  }
  if (problem != KD_SPARSE_FINE)
    return problem;
  sum = kd_sparse_exps (row->lp, row->n, 0.0, row->p, row->level);
  if (call->form == KD_SPARSE_SAMPLED) {
    for (int64_t i = 0; call->normalize && i < row->n; i++)
      row->lp[i] -= log (sum);
    row->lp_rest = -INFINITY;
    row->lp_each = NAN;
    return KD_SPARSE_FINE;
  }
  if (sum > 1.0 + 1e-3)
    return KD_SPARSE_BAD_SUM;
  rest = 1.0 - sum;
  lp_rest = leave_out || call->tail == KD_TAIL_TRUNCATE || rest <= call->tail_eps || row->n == call->dense.size ? -INFINITY : log (rest);
  if (call->tail != KD_TAIL_TRUNCATE)
    temper (row, call->cache_temperature / row->temperature, &lp_rest);
  place_rest (call, index, row, lp_rest);
  return KD_SPARSE_FINE;
}

static void
choose_ids (const KdSparse *call, int64_t index, KdSparseRow *row)
{
  const KdDivergence *d = &call->dense;
  int64_t k = call->k < d->size ? call->k : d->size, n = 0;

  if (call->source != KD_SUPPORT_STUDENT) {
    kd_topk_row (kd_row_of (d->teacher, d->teacher_type, index, d->size), d->teacher_type, d->size, k, row->id, row->keys, row->level);
    n = k;
  }
  if (call->source != KD_SUPPORT_TEACHER) {
    int64_t *more = row->id + n;
    kd_topk_row (d->student + index * d->size, KD_REAL_F32, d->size, k, more, row->keys, row->level);
    for (int64_t i = 0; i < n; i++)
      mark (row, row->id[i]);
    for (int64_t i = 0; i < k; i++)
      if (!mark (row, more[i]))
        row->id[n++] = more[i];
    for (int64_t i = 0; i < n; i++)
      row->seen[row->id[i] >> 3] = 0;
  }
  row->n = n;
}

/* Ids sorted into blocks, in the order they came. */
static void
sort_into_blocks (KdSparseRow *row, int64_t size)
{
  int64_t n_blocks = (size + KD_BLOCK - 1) / KD_BLOCK;

  memset (row->first, 0, (size_t) (n_blocks + 2) * sizeof *row->first);
  for (int64_t i = 0; i < row->n; i++)
    row->first[row->id[i] / KD_BLOCK + 2]++;
  for (int64_t b = 2; b < n_blocks + 2; b++)
    row->first[b] += row->first[b - 1];
  for (int64_t i = 0; i < row->n; i++)
    row->order[row->first[row->id[i] / KD_BLOCK + 1]++] = (int32_t) i;
}

/* A dense teacher's probabilities of the chosen ids and, exactly, of all others. A row that is not finite gets NaN. */
static void
teacher_online (const KdSparse *call, int64_t index, KdSparseRow *row)
{
  const KdDivergence *d = &call->dense;
  const void *teacher = kd_row_of (d->teacher, d->teacher_type, index, d->size);
  double inv_t = 1.0 / row->temperature, lp_rest, sum;
  KdSparseRest rest;

  choose_ids (call, index, row);
  sort_into_blocks (row, d->size);
  row->lp_rest = row->lp_each = NAN;
  if (!kd_sparse_rest (teacher, d->teacher_type, d->size, d->reject_infinite, row, &rest))
    return;
  for (int64_t i = 0; i < row->n; i++) {
    row->lp[i] = kd_load_value (teacher, d->teacher_type, row->id[i]) * inv_t;
    if (isnan (row->lp[i]) || row->lp[i] == INFINITY || (d->reject_infinite && isinf (row->lp[i])))
      return;
  }
  lp_rest = rest.z > 0.0 && call->tail != KD_TAIL_RENORM ? rest.max * inv_t + log (rest.z) : -INFINITY;
  if (call->restricted && (call->tail == KD_TAIL_BUCKET || call->tail == KD_TAIL_UNIFORM))
    lp_rest = -INFINITY;
  sum = kd_log_sum (kd_sparse_log_sum (row->lp, row->n, row->a, row->level), lp_rest);
  for (int64_t i = 0; i < row->n; i++)
    row->lp[i] -= sum;
  place_rest (call, index, row, call->tail == KD_TAIL_TRUNCATE ? -INFINITY : lp_rest - sum);
}

KdSparseProblem
kd_sparse_teacher (const KdSparse *call, int64_t index, KdSparseRow *row)
{
  KdSparseProblem problem = KD_SPARSE_FINE;

  row->n = 0;
  row->temperature = call->temperatures ? call->temperatures[index] : call->dense.temperature;
  row->restricted = call->restricted || (call->form == KD_SPARSE_ONLINE && call->tail == KD_TAIL_RENORM);
  if (call->form == KD_SPARSE_ONLINE)
    teacher_online (call, index, row);
  else
    problem = teacher_stored (call, index, row);
  if (problem == KD_SPARSE_FINE)
    sort_into_blocks (row, call->dense.size);
  return problem;
}

/* The ids of block @b made so small in @buffer that they do not count. */
#define OUT_OF_SIGHT -KD_FAST_LIMIT

KD_BODY void
rest_fast_body (const void *x, KdReal type, int64_t size, float inv_t, const KdSparseRow *row, KdSparseRest *ret, int *ret_fast)
{
  float buffer[KD_BLOCK] __attribute__ ((aligned (64))), max = OUT_OF_SIGHT;
  double z = 0.0;

  *ret_fast = 0;
  for (int64_t at = 0, b = 0; at < size; at += KD_BLOCK, b++) {
    int64_t n = size - at < KD_BLOCK ? size - at : KD_BLOCK;
    const float *block = kd_load_block (x, type, at, n, buffer);
    float top, sum = 0.0f;
    int fast;
    if (row->first[b] < row->first[b + 1]) {
      if (block != buffer)
        memcpy (buffer, block, (size_t) n * sizeof *buffer);
      for (int32_t i = row->first[b]; i < row->first[b + 1]; i++)
        buffer[row->id[row->order[i]] - at] = OUT_OF_SIGHT;
      block = buffer;
    }
    top = kd_block_max (block, n, &fast);
    if (!fast)
      return;
    if (top <= OUT_OF_SIGHT)
      continue;
    if (top > max) {
      z = z > 0.0 ? z * exp (((double) max - top) * inv_t) : 0.0;
      max = top;
    }
#pragma omp simd reduction(+ \
                           : sum)
    for (int64_t i = 0; i < n; i++)
      sum += kd_expf ((block[i] - max) * inv_t);
    z += sum;
  }
  *ret_fast = 1;
  *ret = (KdSparseRest) { max, z };
}

KD_KERNEL (rest_fast, (const void *x, KdReal type, int64_t size, float inv_t, const KdSparseRow *row, KdSparseRest *ret, int *ret_fast),
    (x, type, size, inv_t, row, ret, ret_fast))

/* As above in double, infinities and all. */
static int
rest_exact (const void *x, KdReal type, int64_t size, int reject, const KdSparseRow *row, KdSparseRest *ret)
{
  double max = -INFINITY, z = 0.0;

  for (int pass = 0; pass < 2; pass++)
    for (int64_t at = 0, b = 0; at < size; at += KD_BLOCK, b++) {
      int64_t n = size - at < KD_BLOCK ? size - at : KD_BLOCK;
      uint8_t known[KD_BLOCK] = { 0 };
      for (int32_t i = row->first[b]; i < row->first[b + 1]; i++)
        known[row->id[row->order[i]] - at] = 1;
      for (int64_t i = 0; i < n; i++) {
        double value = known[i] ? -INFINITY : kd_load_value (x, type, at + i);
        if (isnan (value) || value == INFINITY || (reject && !known[i] && isinf (value)))
          return 0;
        if (pass == 0)
          max = value > max ? value : max;
        else if (value > -INFINITY)
          z += exp ((value - max) / row->temperature);
      }
    }
  *ret = (KdSparseRest) { (float) max, z };
  return 1;
}

int
kd_sparse_rest (const void *x, KdReal type, int64_t size, int reject, const KdSparseRow *row, KdSparseRest *ret)
{
  int fast;

  rest_fast[row->level](x, type, size, (float) (1.0 / row->temperature), row, ret, &fast);
  return fast || rest_exact (x, type, size, reject, row, ret);
}
