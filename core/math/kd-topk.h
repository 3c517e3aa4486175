/* The k largest entries of each row, and draws from its softmax: what a teacher's distribution is cut down to. */
#pragma once
#include "kd-random.h"
#include "kd-reduce.h"

/**
 * KdTopk: one call, over @n rows of @size values.
 * @values: [n, size] of @type
 * @coef: [n] or NULL; rows with 0 are not read and nothing is written for them
 * @k: 1 .. size
 * @ids: [n, k] the ids of the largest values, largest first; of equal values the lower id
 * @level: 0, or the highest instruction set to use
 *
 * A row with NaN gets ids of the row, in no particular order.
 */
typedef struct {
  int64_t n, size, k;
  const void *values;
  KdReal type;
  const double *coef;
  int64_t *ids;
  int level;
} KdTopk;

/** kd_topk_rows: fill @ids. A row is read once, most of it only compared with the smallest candidate so far. Rows in parallel. */
KD_API void kd_topk_rows (const KdTopk *call);

/**
 * KdDraw: one call, over @n rows of @size logits: ids drawn from r = softmax (power x logits / temperature).
 * @power: >= 0; 0 draws evenly among the ids whose logit is finite
 * @coef: [n] or NULL; rows with 0 are not read and have no ids
 * @uniform: [n, draws] in [0, 1): id of the inverse of the cumulative sum
 * @ids: [n, draws] the different ids, ascending, then -1; @weights: [n, draws] share of the draws x p / r, 0 behind
 * @valid: [n] 0 for a row with NaN, +infinity or nothing finite, whose output is not filled
 */
typedef struct {
  int64_t n, size, draws;
  const void *logits;
  KdReal type;
  const double *coef;
  double temperature, power;
  const double *uniform;
  int64_t *ids;
  float *weights;
  uint8_t *valid;
  int level;
} KdDraw;

/** kd_draw_rows: fill @ids, @weights and @valid; scratch: one row of float32 a thread. */
KD_API void kd_draw_rows (const KdDraw *call);
