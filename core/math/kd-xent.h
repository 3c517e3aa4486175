/* Cross-entropy of the softmax of a table of logits against labels or soft labels, row by row, with the gradient. */
#pragma once
#include "kd-reduce.h"

/**
 * KdXent: one call, over @n rows of @size logits.
 * @logits: float32 [n, size]
 * @label: [n] class of each row (read on counted rows only, in [0, size)), or NULL with @soft
 * @soft: float32 [n, size], a target distribution a row (used as it is; need not sum to 1), or NULL
 * @smoothing: eps; the target becomes (1 - eps) target + eps / size
 * @coef, @scale, @grad, @fresh, @value, @level: as in KdDivergence
 */
typedef struct {
  int64_t n, size;
  const float *logits;
  const int64_t *label;
  const float *soft;
  double smoothing;
  const double *coef;
  double scale;
  float *grad;
  int fresh;
  double *value;
  int level;
} KdXent;

/** kd_xent_rows: value = sum target x -log softmax (nats); gradient (softmax x sum target - target). A label on -infinity gives
 * infinity, NaN or +infinity in a row NaN. Rows in parallel, same bits for any number of threads. */
KD_API void kd_xent_rows (const KdXent *call);

/** kd_xent_find_bad_soft: the first counted row of @soft (float32 [n, size]) with an entry below 0 or NaN, or a sum further than 1e-3 from
 * 1; -1 when all are distributions. */
KD_API int64_t kd_xent_find_bad_soft (int64_t n, int64_t size, const float *soft, const double *coef);
