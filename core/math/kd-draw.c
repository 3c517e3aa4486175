/* Draws from a row's softmax by the inverse of its cumulative sum: exponentials and sums of blocks in one pass, then each draw looks for its
 * block and walks in it. */
#include "kd-kernel.h"
#include "kd-topk.h"
#include <stdlib.h>

/* One row under way: @weight [size] is e^(power (x - max) / T), 0 where x is -infinity; @before [blocks + 1] the sums of the blocks. */
typedef struct {
  float *weight;
  double *before;
  double max, log_p; /* log_p: ln sum e^((x - max) / T), with a power other than 1 */
} Row;

KD_BODY float
block_weights (const float *x, int64_t n, float max, float factor, float *out)
{
  float sum = 0.0f;

#pragma omp simd reduction(+ \
                           : sum)
  for (int64_t i = 0; i < n; i++) {
    float d = (x[i] - max) * factor;
    out[i] = x[i] < -FLT_MAX ? 0.0f : kd_expf (x[i] < -FLT_MAX ? 0.0f : d);
    sum += out[i];
  }
  return sum;
}

KD_BODY double
weigh_blocks (const KdDraw *call, const void *x, float max, float factor, Row *row)
{
  float buffer[KD_BLOCK] __attribute__ ((aligned (64)));
  double sum = 0.0;

  for (int64_t at = 0, b = 0; at < call->size; at += KD_BLOCK, b++) {
    int64_t n = call->size - at < KD_BLOCK ? call->size - at : KD_BLOCK;
    const float *block = kd_load_block (x, call->type, at, n, buffer);
    row->before[b] = sum;
    sum += block_weights (block, n, max, factor, row->weight + at);
    row->before[b + 1] = sum;
  }
  return sum;
}

/* @ret_ok 0: NaN, +infinity or nothing finite. */
KD_BODY void
weigh_body (const KdDraw *call, int64_t index, Row *row, int *ret_ok)
{
  const void *x = kd_row_of (call->logits, call->type, index, call->size);
  float buffer[KD_BLOCK] __attribute__ ((aligned (64))), max = -INFINITY;
  int bad = 0;

  for (int64_t at = 0; at < call->size; at += KD_BLOCK) {
    int64_t n = call->size - at < KD_BLOCK ? call->size - at : KD_BLOCK;
    const float *block = kd_load_block (x, call->type, at, n, buffer);
#pragma omp simd reduction(max                \
                           : max) reduction(| \
                                            : bad)
    for (int64_t i = 0; i < n; i++) {
      max = block[i] > max ? block[i] : max;
      bad |= !(block[i] <= FLT_MAX);
    }
  }
  *ret_ok = !bad && max >= -FLT_MAX;
  if (!*ret_ok)
    return;
  row->max = max;
  row->log_p = 0.0;
  if (call->power != 1.0)
    row->log_p = log (weigh_blocks (call, x, max, (float) (1.0 / call->temperature), row));
  weigh_blocks (call, x, max, (float) (call->power / call->temperature), row);
}

KD_KERNEL (weigh, (const KdDraw *call, int64_t index, Row *row, int *ret_ok), (call, index, row, ret_ok))

/* The first id whose cumulative sum exceeds @target; the last one that has a weight when rounding leaves none. */
static int64_t
find_id (const Row *row, int64_t size, double target)
{
  int64_t low = 0, high = (size + KD_BLOCK - 1) / KD_BLOCK - 1, last = -1;
  double sum;

  while (low < high) { /* the first block that ends above */
    int64_t middle = (low + high) / 2;
    if (row->before[middle + 1] > target)
      high = middle;
    else
      low = middle + 1;
  }
  sum = row->before[low];
  for (int64_t i = low * KD_BLOCK; i < size; i++) {
    sum += row->weight[i];
    if (row->weight[i] > 0.0f)
      last = i;
    if (sum > target && row->weight[i] > 0.0f)
      return i;
  }
  for (int64_t i = low * KD_BLOCK - 1; last < 0 && i >= 0; i--)
    last = row->weight[i] > 0.0f ? i : -1;
  return last;
}

static int
compare_ids (const void *a, const void *b)
{
  int64_t x = *(const int64_t *) a, y = *(const int64_t *) b;

  return (x > y) - (x < y);
}

/* p / r of an id; @log_r is r's log-sum-exp, relative to the row's maximum as log_p is. */
static double
ratio_of (const KdDraw *call, const Row *row, double value, double log_r)
{
  double d = (value - row->max) / call->temperature;

  return call->power == 1.0 ? 1.0 : exp (d - row->log_p - call->power * d + log_r);
}

static void
draw_row (const KdDraw *call, int64_t index, Row *row)
{
  const void *x = kd_row_of (call->logits, call->type, index, call->size);
  int64_t *ids = call->ids + index * call->draws, n = 0, n_blocks = (call->size + KD_BLOCK - 1) / KD_BLOCK;
  float *weights = call->weights + index * call->draws;
  double log_r = log (row->before[n_blocks]);

  for (int64_t i = 0; i < call->draws; i++)
    ids[i] = find_id (row, call->size, call->uniform[index * call->draws + i] * row->before[n_blocks]);
  qsort (ids, (size_t) call->draws, sizeof *ids, compare_ids);
  for (int64_t i = 0, end; i < call->draws; i = end) {
    int64_t id = ids[i];
    for (end = i + 1; end < call->draws && ids[end] == id; end++)
      ;
    weights[n] = (float) ((double) (end - i) / (double) call->draws * ratio_of (call, row, kd_load_value (x, call->type, id), log_r));
    ids[n++] = id;
  }
  for (; n < call->draws; n++) {
    ids[n] = -1;
    weights[n] = 0.0f;
  }
}

static void
skip_row (const KdDraw *call, int64_t index)
{
  for (int64_t i = index * call->draws; i < (index + 1) * call->draws; i++) {
    call->ids[i] = -1;
    call->weights[i] = 0.0f;
  }
}

void
kd_draw_rows (const KdDraw *call)
{
  int level = kd_kernel_level (call->level);
  int64_t n_blocks = (call->size + KD_BLOCK - 1) / KD_BLOCK;

#pragma omp parallel if (call->n > 1 && call->n * call->size >= KD_PARALLEL_ELEMENTS)
  {
    Row row = { .weight = malloc ((size_t) call->size * sizeof (float) + 1), .before = malloc ((size_t) (n_blocks + 1) * sizeof (double)) };

    if (!row.weight || !row.before)
      abort (); /* as GLib does */
#pragma omp for schedule(static)
    for (int64_t i = 0; i < call->n; i++) {
      int ok = 1;
      if (call->coef && call->coef[i] == 0.0) {
        skip_row (call, i);
      } else {
        weigh[level](call, i, &row, &ok);
        if (ok)
          draw_row (call, i, &row);
      }
      call->valid[i] = (uint8_t) ok;
    }
    free (row.weight);
    free (row.before);
  }
}
