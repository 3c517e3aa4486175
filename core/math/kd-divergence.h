/* Divergences between the softmax of two tables of logits, row by row, with the gradient of the first. */
#pragma once
#include "kd-reduce.h"

typedef enum {
  KD_DIVERGENCE_FORWARD_KL, /* KL (teacher || student) */
  KD_DIVERGENCE_REVERSE_KL, /* KL (student || teacher) */
} KdDivergenceKind;

/**
 * KdDivergence: one call, over @n rows of @size logits.
 * @student: float32 [n, size]; @teacher: [n, size] of @teacher_type; both are divided by @temperature (>= 0.01)
 * @coef: [n]; a row with 0 is neither read nor written
 * @scale: the gradient is that of sum (coef x scale x value)
 * @cross_entropy: forward KL only: leave out the teacher's entropy, which no gradient depends on
 * @reject_infinite: make the value of a row with an infinite logit NaN; else ids with an infinite logit in either table add nothing and
 *   get no gradient (with @cross_entropy only the student's count, as DistiLLM does)
 * @grad: float32 [n, size] to add to, or NULL
 * @value: [n] of double: each row's divergence in nats, 0 where coef is 0, NaN where a logit is NaN or +infinity
 * @level: 0, or the highest instruction set to use (kd_cpu_level), for tests and measurements
 */
typedef struct {
  KdDivergenceKind kind;
  int64_t n, size;
  const float *student;
  const void *teacher;
  KdReal teacher_type;
  const double *coef;
  double temperature, scale;
  int cross_entropy, reject_infinite;
  float *grad;
  double *value;
  int level;
} KdDivergence;

/**
 * kd_divergence_rows: fill @value and add to @grad. Two passes over a row: one from memory, one from cache. Rows in parallel; the same
 * bits for any number of threads. Values and probabilities within about 1e-6; rows with a logit that is infinite or beyond 1e25 are done
 * in double.
 */
KD_API void kd_divergence_rows (const KdDivergence *call);
