/* Softmax, its normaliser, its largest entry and its entropy, row by row. */
#pragma once
#include "kd-reduce.h"

/**
 * KdSoftmax: one call, over @n rows of @size logits.
 * @logits: [n, size] of @type; divided by @temperature (>= 0.01)
 * @coef: [n] or NULL; rows with 0 are not read and nothing is written for them
 * @probability: float32 [n, size] to fill, or NULL
 * @lse: [n] log-sum-exp of logits / temperature, or NULL; NaN for a row with NaN, +infinity or nothing finite
 * @argmax: [n] id of the largest logit, the lowest such id, or NULL
 * @max: [n] the largest probability, or NULL
 * @entropy: [n] of the probabilities, in nats, or NULL; exact relative to itself, so that two sure rows can be compared
 */
typedef struct {
  int64_t n, size;
  const void *logits;
  KdReal type;
  const double *coef;
  double temperature;
  float *probability;
  double *lse, *max, *entropy;
  int64_t *argmax;
  int level;
} KdSoftmax;

/** kd_softmax_rows: fill what is not NULL. Rows in parallel, same bits for any number of threads; -infinity has probability 0. */
KD_API void kd_softmax_rows (const KdSoftmax *call);
