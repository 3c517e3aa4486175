/* Decoupled KD: the target's share and the others' distribution apart (DKD, arXiv:2203.08679; NKD, arXiv:2303.13005), row by row. */
#pragma once
#include "kd-reduce.h"

/**
 * KdDecoupled: one call, over @n rows of @size logits. With y the target and T the temperature, p = softmax (student / T), q of the teacher, and
 * p^, q^ the softmax over the other classes.
 * @student: float32 [n, size]; @teacher: [n, size] of @teacher_type; @label: [n]
 * @coef: [n]; a row with 0 is neither read nor written
 * @cross_entropy: the others' part is the cross-entropy of q^ with p^ instead of the KL
 * @scale: the gradient is that of sum coef x scale x (alpha target + beta others)
 * @grad: float32 [n, size] to add to, or NULL; @fresh: written instead, every row
 * @target: [n] KL of (q_y, 1 - q_y) from (p_y, 1 - p_y), nats; log (1 - p_y) is a difference of two log-sum-exps, never a log of a difference
 * @others: [n] KL of q^ from p^, or @cross_entropy; 0 for one class. Both NaN for a row with a logit that is not finite
 * @level: 0, or the highest instruction set to use
 */
typedef struct {
  int64_t n, size;
  const float *student;
  const void *teacher;
  KdReal teacher_type;
  const int64_t *label;
  const double *coef;
  double temperature, scale, alpha, beta;
  int cross_entropy;
  float *grad;
  int fresh;
  double *target, *others;
  int level;
} KdDecoupled;

/** kd_decoupled_rows: fill @target and @others, add to @grad. Rows in parallel, the same bits for any number of threads; as kd_divergence_rows. */
KD_API void kd_decoupled_rows (const KdDecoupled *call);

/** kd_row_to_double: row @row of a table [., @size] of @type. */
KD_API void kd_row_to_double (const void *table, KdReal type, int64_t row, int64_t size, double *ret);
