/* Divergences between the softmax of two tables of logits, row by row, with the gradient of the first. */
#pragma once
#include "kd-reduce.h"

typedef enum {
  KD_DIVERGENCE_FORWARD_KL,      /* KL (teacher || student) */
  KD_DIVERGENCE_REVERSE_KL,      /* KL (student || teacher) */
  KD_DIVERGENCE_JSD,             /* generalized Jensen-Shannon, beta the teacher's share of the mixture; ends 0 and 1: forward and reverse KL */
  KD_DIVERGENCE_SKEW_FORWARD_KL, /* KL (teacher || alpha teacher + (1 - alpha) student) */
  KD_DIVERGENCE_SKEW_REVERSE_KL, /* KL (student || (1 - alpha) teacher + alpha student) */
  KD_DIVERGENCE_TOTAL_VARIATION,
  KD_DIVERGENCE_SYMMETRIC_KL, /* (1 - lambda) forward + lambda reverse */
  KD_DIVERGENCE_ADAPTIVE_KL,  /* w forward + (1 - w) reverse, w the share of |p - q| in the teacher's head; no gradient through w */
  KD_DIVERGENCE_ALPHA_BETA,   /* p^alpha q^beta against p^(alpha + beta) and q^(alpha + beta); beta 0: its limit */
} KdDivergenceKind;

/**
 * KdDivergence: one call, over @n rows of @size logits.
 * @student: float32 [n, size]; @teacher: [n, size] of @teacher_type; both are divided by @temperature (>= 0.01)
 * @coef: [n]; a row with 0 is neither read nor written
 * @scale: the gradient is that of sum (coef x scale x value)
 * @beta, @alpha, @lambda, @mu: of the kinds that have one; mu: mass of the adaptive KL's head
 * @cross_entropy: forward, skewed forward and symmetric KL: leave out the teacher's entropy, which no gradient depends on
 * @reject_infinite: make the value of a row with an infinite logit NaN; else ids with an infinite logit in either table add nothing and
 *   get no gradient (forward KL with @cross_entropy: only the student's count, as DistiLLM does)
 * @grad: float32 [n, size] to add to, or NULL
 * @fresh: @grad is memory that nobody has written to: every row is written instead, with 0 where it has no gradient (coef 0, value NaN)
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
  double beta, alpha, lambda, mu;
  int cross_entropy, reject_infinite;
  float *grad;
  int fresh;
  double *value;
  int level;
} KdDivergence;

/**
 * kd_divergence_rows: fill @value and add to @grad. A row is read once from memory and then from cache. Rows in parallel; the same
 * bits for any number of threads. Values and probabilities within about 1e-6; rows with a logit that is infinite or beyond 1e25 are done
 * in double.
 */
KD_API void kd_divergence_rows (const KdDivergence *call);
