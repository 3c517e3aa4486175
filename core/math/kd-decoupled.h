/* Decoupled KD: the target's share and the others' distribution apart (DKD, arXiv:2203.08679; NKD, arXiv:2303.13005), row by row. */
#pragma once
#include "kd-reduce.h"

/**
 * KdDecoupled: one row's parts, in double. With y the target and T the temperature, p = softmax (student / T), q of the teacher, and p^, q^ the
 * softmax over the other classes.
 * @target: KL of (q_y, 1 - q_y) from (p_y, 1 - p_y), nats; log (1 - p_y) is a difference of two log-sum-exps, never a log of a difference
 * @others: KL of q^ from p^; 0 for two classes or fewer
 * @others_cross: cross-entropy of q^ with p^
 */
typedef struct {
  double p_target, q_target;
  double target, others, others_cross;
  double student_others, teacher_others; /* log-sum-exp over the other classes */
} KdDecoupled;

/** kd_decoupled_row: @student, @teacher [size] logits in double. */
KD_API void kd_decoupled_row (int64_t size, const double *student, const double *teacher, int64_t label, double temperature, KdDecoupled *ret);

/** kd_row_to_double: row @row of a table [., @size] of @type. */
KD_API void kd_row_to_double (const void *table, KdReal type, int64_t row, int64_t size, double *ret);
