/* What all row kernels share: element types, sums in a fixed order, the machine's level. Plain C, no state. */
#pragma once
#include <stddef.h>
#include <stdint.h>

#ifndef KD_API
#define KD_API __attribute__ ((visibility ("default")))
#endif

/** KdReal: float types that kernels read as they are; the values are KdDtype's bits. */
typedef enum { KD_REAL_F32 = 1 << 0,
  KD_REAL_F16 = 1 << 1,
  KD_REAL_BF16 = 1 << 2 } KdReal;

static inline size_t
kd_real_size (KdReal type)
{
  return type == KD_REAL_F32 ? 4 : 2;
}

/** kd_cpu_level: of this machine: 4 (AVX-512), 3 (AVX2 and FMA), 2 (SSE4.2) or 1; kernels pick their instance by it.
 * The environment variable KD_CPU_LEVEL sets a lower one: to measure, or for the same bits on unlike machines. */
KD_API int kd_cpu_level (void);

/**
 * kd_rows_sum: sum of @coef[i] * @value[i] over the @n rows with a coefficient that is not 0; always in the same order, so that
 * the bits do not depend on how many threads made the values. @coef NULL: all 1.
 */
KD_API double kd_rows_sum (int64_t n, const double *coef, const double *value);

/** kd_vec_exp: @out[i] = e^@in[i], within 2 ulp for @in <= 88; 0 below -87.7. What the kernels use, open to tests and tools. */
KD_API void kd_vec_exp (int64_t n, const float *in, float *out);
/** kd_vec_log: natural logarithm of normal positive numbers, within 2 ulp. */
KD_API void kd_vec_log (int64_t n, const float *in, float *out);
