/* What losses over tokens share beside the divergences: targets between student and teacher, a temperature a row, the distance that says how
 * hard a row is, and gradients through a row's own softmax. */
#pragma once
#include "kd-divergence.h"

/**
 * KdInterpolated: one call, over @n rows of @size logits: the row's target is p = softmax ((1 - share) student + share teacher), a constant.
 * @student: float32 [n, size]; @teacher: [n, size] of @teacher_type
 * @coef: [n]; a row with 0 is neither read nor written
 * @share: 0 .. 1 of the teacher
 * @cross_entropy: value = - sum p log q, q = softmax (student); else sum p (log p - log q)
 * @scale: the gradient is that of sum (coef x scale x value) with p fixed: q - p, exactly 0 with share 0
 * @grad: float32 [n, size] to add to, or NULL
 * @value: [n] nats; 0 where coef is 0, NaN where a logit is NaN or +infinity or no id is finite in both
 */
typedef struct {
  int64_t n, size;
  const float *student;
  const void *teacher;
  KdReal teacher_type;
  const double *coef;
  double share;
  int cross_entropy;
  double scale;
  float *grad;
  double *value;
  int level;
} KdInterpolated;

/** kd_interpolated_rows: fill @value and add to @grad; ids that are infinite in either table add nothing and get no gradient. One row of scratch a
 * thread; rows with a logit beyond 64, where a float32 target would lose digits, and of at most 64 ids are done in double. */
KD_API void kd_interpolated_rows (const KdInterpolated *call);

/** kd_divergence_tempered_rows: kd_divergence_rows with a temperature for each row (@temperature [n], read where coef is not 0); with @squared
 * the gradient has the factor temperature^2, the values do not. @call's own temperature is not looked at, @fresh must be 0.
 * Rows of at most 64 ids are done in double. */
KD_API void kd_divergence_tempered_rows (const KdDivergence *call, const double *temperature, int squared);

/** kd_hellinger_rows: @value[i] = sqrt (sum (sqrt p - sqrt q)^2 / 2) of the softmaxes of both rows, in [0, 1]; 0 for equal rows and where @coef
 * is 0, NaN where a logit is NaN or +infinity or nothing is finite; ids that are infinite in either add nothing. Rows of at most 64 ids
 * are done in double. */
KD_API void kd_hellinger_rows (int64_t n, int64_t size, const float *student, const void *teacher, KdReal teacher_type, const double *coef, double *value,
    int level);

/** kd_softmax_back_rows: @grad[i, j] += q_j (@constant[i] + @slope[i] log q_j), q = softmax (logits / temperature), for rows where one of both is
 * not 0: what gradients of entropies and of log-likelihoods are made of. Rows with NaN, +infinity or nothing finite are left as they are. */
KD_API void kd_softmax_back_rows (int64_t n, int64_t size, const float *logits, double temperature, const double *constant, const double *slope,
    float *grad, int level);
