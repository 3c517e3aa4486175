/* Logits divided by their own spread: z~ = (z - mean) / (sigma + floor), sigma unbiased, and the way back for gradients. */
#pragma once
#include "kd-reduce.h"

/** KD_STANDARDIZE_FLOOR: added to sigma, as in the released code of arXiv:2403.01427. */
#define KD_STANDARDIZE_FLOOR 1e-7

/**
 * kd_standardize_rows: @out (float32 [n, size]) of @in ([n, size] of @type). @sigma: [n] or NULL, unbiased standard deviation (0 for one
 * column). Rows with @coef 0 are neither read nor written.
 */
KD_API void kd_standardize_rows (int64_t n, int64_t size, const void *in, KdReal type, const double *coef, float *out, double *sigma);

/**
 * kd_standardize_backward_rows: @grad (float32 [n, size]) += gradient in the logits @in from @upstream, the gradient in what
 * kd_standardize_rows made of them: (g - mean g) / (sigma + f) - (sum g (z - mean)) (z - mean) / ((size - 1) sigma (sigma + f)^2).
 * A row whose sigma is 0 gets none.
 */
KD_API void kd_standardize_backward_rows (int64_t n, int64_t size, const float *in, const double *coef, const float *upstream, float *grad);
