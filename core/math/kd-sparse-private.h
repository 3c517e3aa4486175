/* Internal to core/math: one row of a sparse teacher under way. */
#pragma once
#include "kd-block.h"
#include "kd-row.h"
#include "kd-sparse.h"
#include <math.h>

/**
 * KdSparseRow: a thread's scratch and what it holds of a row.
 * @id, @lp, @lq, @p, @q, @a: [capacity] the known ids, log p, log q, p, q and A of each; @n of them
 * @lp_rest: log p of all other ids together, -INFINITY when they have none
 * @lp_each: log p of every other id with KD_TAIL_UNIFORM, else NaN
 * @order, @first: the indices of the ids by block of KD_BLOCK: order [first [b]] to order [first [b + 1] - 1]
 * @seen: a bit an id, all 0 between rows
 * @table: the student's exponentials, 0 at the known ids; @dense: a row of the teacher, with KD_TAIL_UNIFORM
 */
typedef struct {
  int64_t n;
  int64_t *id;
  double *lp, *lq, *p, *q, *a;
  int32_t *order, *first;
  uint8_t *seen;
  uint64_t *keys;
  KdTable table;
  float *dense;
  double lp_rest, lp_each, temperature;
  int restricted, level;
} KdSparseRow;

/** KdSparseRest: the ids outside of the known ones: log sum e^(x / T) = max / T + log z; z = 0 when there are none. */
typedef struct {
  float max;
  double z;
} KdSparseRest;

/** kd_sparse_teacher: the row's ids and their log p after the tail. */
KdSparseProblem kd_sparse_teacher (const KdSparse *call, int64_t index, KdSparseRow *row);

/** kd_sparse_rest: over the ids of @x outside of the row's; 0 when one is NaN or +infinity (or infinite, with @reject). */
int kd_sparse_rest (const void *x, KdReal type, int64_t size, int reject, const KdSparseRow *row, KdSparseRest *ret);

/** kd_log_sum: log (e^x + e^y). */
static inline double
kd_log_sum (double x, double y)
{
  double high = x > y ? x : y, low = x > y ? y : x;

  return low == -INFINITY ? high : high + log1p (exp (low - high));
}

/** kd_sparse_exps: @out [n] = e^(x - shift), 0 for -INFINITY; returns their sum. */
double kd_sparse_exps (const double *x, int64_t n, double shift, double *out, int level);

/** kd_sparse_log_sum: log of the sum of e^x [n]; -INFINITY when there are none. @scratch [n] */
double kd_sparse_log_sum (const double *x, int64_t n, double *scratch, int level);
