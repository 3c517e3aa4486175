/* Squared distance of two tables, row by row, with the gradient of the first. */
#pragma once
#include "kd-reduce.h"

/**
 * KdSquared: one call, over @n rows of @size numbers.
 * @student: float32 [n, size]; @teacher: [n, size] of @teacher_type
 * @center: take each row's own mean from both first
 * @coef, @scale, @grad, @value, @level: as in KdDivergence
 */
typedef struct {
  int64_t n, size;
  const float *student;
  const void *teacher;
  KdReal teacher_type;
  int center;
  const double *coef;
  double scale;
  float *grad;
  double *value;
  int level;
} KdSquared;

/** kd_squared_rows: value = sum of squared differences; gradient 2 x difference (centred with @center). Differences and sums in double. */
KD_API void kd_squared_rows (const KdSquared *call);
