/* Entropy-regularised optimal transport between two sets of softmax rows, by a fixed number of Sinkhorn normalisations. */
#pragma once
#include "kd-reduce.h"

/**
 * KdSinkhorn: one problem: the points are the softmax of @n rows of @student and of the same rows of @teacher, both divided by @temperature.
 * Cost W_ij = sum_v |x_iv - y_jv|, in [0, 2]; kernel exp (-W / epsilon); @iterations times: each row by its sum, then each column by its sum.
 *
 * @row: [n] rows of the tables
 * @student: float32 [., size]; @teacher: [., size] of @teacher_type; -infinity is probability 0
 * @envelope: the gradient takes the plan as constant; else it goes through all normalisations
 * @scale: the gradient is that of @scale x value
 * @grad: float32 [., size], whose rows @row are added to, or NULL
 * @plan: [n, n] of double to fill, or NULL: columns sum to 1
 * @level: 0, or the highest instruction set to use
 */
typedef struct {
  int64_t n, size;
  const int64_t *row;
  const float *student;
  const void *teacher;
  KdReal teacher_type;
  double temperature, epsilon;
  int iterations, envelope;
  double scale;
  float *grad;
  double *plan;
  int level;
} KdSinkhorn;

/**
 * kd_sinkhorn: sum_ij P_ij W_ij, a sum over the n rows; 0 for n = 0, NaN when a row has NaN, +infinity or nothing finite (nothing is added
 * then). The plan in double, below epsilon 0.02 in logarithms; the points too, but rows of 512 classes and more (epsilon >= 0.02)
 * in float32, summed in double. About 3 n^2 size operations, twice with a gradient; memory 16 n size (8 for wide rows) + 24 n^2 bytes.
 * Threads share the rows; same bits for any number of them.
 */
KD_API double kd_sinkhorn (const KdSinkhorn *call);
