/* Log-probabilities in a byte: the extremes of a row in one pass, the codes in another. */
#include "kd-kernel.h"
#include "kd-quantize.h"

/* What a row's codes are made with. */
typedef struct {
  float shift, top, span, factor, step; /* code = factor sqrt (d); value = top - step code^2 */
  int levels;
} Law;

/* Float32 numbers of 11 significant bits are float16 numbers, from this one up to 65504. */
#define HALF_NORMAL 0x1p-14f
#define HALF_LARGEST 65504.0f

/* The next number upwards that float16 holds. */
static float
half_above (float value)
{
  uint32_t bits = kd_as_bits (value);

  if (fabsf (value) < HALF_NORMAL)
    return value > 0.0f ? HALF_NORMAL : 0.0f;
  return kd_as_float (value > 0.0f ? (bits + 0x1fffu) & ~0x1fffu : bits & ~0x1fffu);
}

KD_BODY void
extremes_body (const KdQuantize *call, int64_t row, float *ret_low, float *ret_high, int *ret_bad)
{
  const void *x = kd_row_of (call->values, call->type, row, call->size);
  float buffer[KD_BLOCK] __attribute__ ((aligned (64))), low = FLT_MAX, high = -FLT_MAX;
  int bad = 0;

  for (int64_t at = 0; at < call->size; at += KD_BLOCK) {
    int64_t n = call->size - at < KD_BLOCK ? call->size - at : KD_BLOCK;
    const float *block = kd_load_block (x, call->type, at, n, buffer);
#pragma omp simd reduction(max                                  \
                           : high) reduction(min                \
                                             : low) reduction(| \
                                                              : bad)
    for (int64_t i = 0; i < n; i++) {
      int finite = fabsf (block[i]) <= FLT_MAX;
      high = finite && block[i] > high ? block[i] : high;
      low = finite && block[i] < low ? block[i] : low;
      bad |= !(block[i] <= FLT_MAX); /* NaN and +infinity; -infinity has a code */
    }
  }
  *ret_low = low;
  *ret_high = high;
  *ret_bad = bad || high < low;
}
KD_KERNEL (extremes, (const KdQuantize *call, int64_t row, float *ret_low, float *ret_high, int *ret_bad), (call, row, ret_low, ret_high, ret_bad))

KD_BODY void
codes_body (const KdQuantize *call, int64_t row, const Law *law, float *ret_max, double *ret_sum, int64_t *ret_count)
{
  const void *x = kd_row_of (call->values, call->type, row, call->size);
  uint8_t *codes = call->codes + row * call->size;
  float buffer[KD_BLOCK] __attribute__ ((aligned (64))), max = 0.0f;
  double sum = 0.0;
  int64_t count = 0;

  for (int64_t at = 0; at < call->size; at += KD_BLOCK) {
    int64_t n = call->size - at < KD_BLOCK ? call->size - at : KD_BLOCK;
    const float *block = kd_load_block (x, call->type, at, n, buffer);
    float part = 0.0f;
    int finite = 0;
#pragma omp simd reduction(max                \
                           : max) reduction(+ \
                                            : part, finite)
    for (int64_t i = 0; i < n; i++) {
      int is_finite = block[i] >= -FLT_MAX;
      float value = block[i] - law->shift, d = law->top - value, code, error;
      d = is_finite && d > 0.0f ? d : 0.0f;
      code = law->factor * __builtin_sqrtf (d) + KD_ROUND_MAGIC - KD_ROUND_MAGIC;
      code = code > (float) law->levels ? (float) law->levels : code;
      error = is_finite ? fabsf (law->top - law->step * code * code - value) : 0.0f;
      codes[at + i] = (uint8_t) (is_finite ? (int) code : law->levels + 1);
      max = error > max ? error : max;
      part += error;
      finite += is_finite;
    }
    sum += part;
    count += finite;
  }
  *ret_max = max;
  *ret_sum = sum;
  *ret_count = count;
}
KD_KERNEL (codes, (const KdQuantize *call, int64_t row, const Law *law, float *ret_max, double *ret_sum, int64_t *ret_count), (call, row, law, ret_max, ret_sum, ret_count))

static void
quantize_row (const KdQuantize *call, int64_t row, int level)
{
  float low, high, max = 0.0f;
  double shift = call->shift ? call->shift[row] : 0.0, sum = 0.0;
  int64_t count = 0;
  Law law = { .levels = call->levels };
  int bad;

  extremes[level](call, row, &low, &high, &bad);
  law.top = bad ? NAN : half_above ((float) (high - shift));
  law.span = half_above ((float) (law.top - (low - shift)));
  if (!(fabsf (law.top) <= HALF_LARGEST) || !(law.span <= HALF_LARGEST)) {
    memset (call->codes + row * call->size, 0, (size_t) call->size);
    law.top = law.span = NAN;
  } else {
    law.shift = (float) shift;
    law.factor = law.span > 0.0f ? (float) call->levels / sqrtf (law.span) : 0.0f;
    law.step = law.span / (float) (call->levels * call->levels);
    codes[level](call, row, &law, &max, &sum, &count);
  }
  call->scale[2 * row] = law.top;
  call->scale[2 * row + 1] = law.span;
  if (call->error) {
    call->error[2 * row] = max;
    call->error[2 * row + 1] = count ? sum / (double) count : 0.0;
  }
}

void
kd_quantize_rows (const KdQuantize *call)
{
  int level = kd_kernel_level (0);

#pragma omp parallel for if (call->n * call->size > KD_PARALLEL_ELEMENTS)
  for (int64_t row = 0; row < call->n; row++)
    quantize_row (call, row, level);
}

static void
dequantize_row (int64_t size, int levels, const uint8_t *codes, float top, float span, float *values)
{
  float step = span / (float) (levels * levels);

#pragma omp simd
  for (int64_t i = 0; i < size; i++) {
    float code = (float) codes[i];
    values[i] = codes[i] > levels ? top - INFINITY : top - step * code * code;
  }
}

void
kd_dequantize_rows (int64_t n, int64_t size, int levels, const uint8_t *codes, const float *scale, float *values)
{
#pragma omp parallel for if (n * size > KD_PARALLEL_ELEMENTS)
  for (int64_t row = 0; row < n; row++)
    dequantize_row (size, levels, codes + row * size, scale[2 * row], scale[2 * row + 1], values + row * size);
}
