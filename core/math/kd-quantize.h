/* Log-probabilities in a byte: a code of each value's distance from its row's largest, finer near it, where the probability is. */
#pragma once
#include "kd-reduce.h"

/**
 * KdQuantize: one call, over @n rows of @size values.
 * @values: [n, size] of @type
 * @shift: [n] taken from every value of a row first (its log-sum-exp), or NULL; NaN marks a row that cannot be stored
 * @levels: L: codes 0 .. L of finite values, L + 1 for -infinity; at most 254
 * @codes: [n, size]: round (L sqrt (d / span)), d = top - value
 * @scale: [n, 2] top and span, numbers that float16 holds; NaN for a row with NaN, +infinity or nothing finite
 * @error: [n, 2] largest and mean distance of what is stored from the finite values, or NULL
 *
 * A code stands for top - span (code / L)^2. Its distance from the value is at most sqrt (d span) / L + span / (2 L^2).
 */
typedef struct {
  int64_t n, size;
  const void *values;
  KdReal type;
  const double *shift;
  int levels;
  uint8_t *codes;
  float *scale;
  double *error;
} KdQuantize;

/** kd_quantize_rows: fill @codes, @scale and @error. Rows in parallel, same bits for any number of threads. */
KD_API void kd_quantize_rows (const KdQuantize *call);

/** kd_dequantize_rows: @values float32 [n, size] of @codes [n, size] and @scale [n, 2]; a row whose scale is NaN becomes NaN. */
KD_API void kd_dequantize_rows (int64_t n, int64_t size, int levels, const uint8_t *codes, const float *scale, float *values);
