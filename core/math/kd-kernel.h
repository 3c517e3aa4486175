/* Internal to core/math: what the kernels are made of.
 *
 * A kernel is one KD_BODY function that works on one row in loops the compiler vectorises (omp simd lets it reorder a sum; nothing else is
 * relaxed). KD_KERNEL instantiates it for x86-64, -v2, -v3 (AVX2, FMA) and -v4 (AVX-512); a KD_BODY is always inlined, because a function
 * that is called from a specialised one keeps the plain instruction set. Other machines get the one instance that their compiler makes. */
#pragma once
#include "kd-lanes.h"
#include "kd-reduce.h"
#include <float.h>
#include <math.h>
#include <string.h>

#define KD_BODY static inline __attribute__ ((always_inline))

/* Values above this go through the exact path: below it no difference, scaled by 1/T <= 100 and summed over a block, leaves float32. */
#define KD_FAST_LIMIT 1e25f
/* Floats summed in float32 lanes before the sum goes on in double; where there are no lanes (sanitizers keep the compiler from vectorising),
 * fewer, so that the sum is as near. */
#if defined(__SANITIZE_ADDRESS__) || !defined(__OPTIMIZE__)
#define KD_BLOCK 64
#else
#define KD_BLOCK 1024
#endif
/* Elements of a call below which a parallel region costs more than it gives. */
#define KD_PARALLEL_ELEMENTS (1 << 16)

#if defined(__x86_64__)
#define KD_KERNEL(name, parameters, arguments)  \
  static void name##_v1 parameters              \
  {                                             \
    name##_body arguments;                      \
  }                                             \
  KD_TARGET_V2 static void name##_v2 parameters \
  {                                             \
    name##_body arguments;                      \
  }                                             \
  KD_TARGET_V3 static void name##_v3 parameters \
  {                                             \
    name##_body arguments;                      \
  }                                             \
  KD_TARGET_V4 static void name##_v4 parameters \
  {                                             \
    name##_body arguments;                      \
  }                                             \
  static void (*const name[5]) parameters = { name##_v1, name##_v1, name##_v2, name##_v3, name##_v4 };
#else
#define KD_KERNEL(name, parameters, arguments) \
  static void name##_v1 parameters             \
  {                                            \
    name##_body arguments;                     \
  }                                            \
  static void (*const name[5]) parameters = { name##_v1, name##_v1, name##_v1, name##_v1, name##_v1 };
#endif

/* The instance to call: as asked, but never more than the machine has. */
static inline int
kd_kernel_level (int asked)
{
  int have = kd_cpu_level ();

  return asked > 0 && asked < have ? asked : have;
}

KD_BODY float
kd_as_float (uint32_t bits)
{
  float value;

  memcpy (&value, &bits, sizeof value);
  return value;
}

KD_BODY uint32_t
kd_as_bits (float value)
{
  uint32_t bits;

  memcpy (&bits, &value, sizeof bits);
  return bits;
}

/* Round to the nearest integer: added to this, a float has no fraction bits left; the low bits then are the integer. */
#define KD_ROUND_MAGIC 12582912.0f /* 1.5 x 2^23 */

/* e^x within 2 ulp for x <= 88; below -87.7 it is 0 (subnormal results are flushed). Cody-Waite reduction by ln 2 in two parts, degree 7
 * polynomial of Cephes expf, exponent put together in integers. */
KD_BODY float
kd_expf (float x)
{
  float t, n, r, p;

  x = x > -88.0f ? x : -88.0f;
  t = x * 1.44269504088896341f + KD_ROUND_MAGIC;
  n = t - KD_ROUND_MAGIC;
  r = x - n * 0.693359375f;
  r = r + n * 2.12194440e-4f;
  p = 1.9875691500e-4f;
  p = p * r + 1.3981999507e-3f;
  p = p * r + 8.3334519073e-3f;
  p = p * r + 4.1665795894e-2f;
  p = p * r + 1.6666665459e-1f;
  p = p * r + 5.0000001201e-1f;
  p = p * (r * r) + r + 1.0f;
  /* n + 127 is 0 for the smallest arguments: the scale then is +0 and so is the result */
  return p * kd_as_float ((kd_as_bits (t) - kd_as_bits (KD_ROUND_MAGIC) + 127u) << 23);
}

#define KD_LN2 0.69314718055994530942
#define KD_LOG2E 1.44269504088896340736

/* 2^y within 1.9e-7 of itself (3 ulp) for y from -126 to 127, NaN for NaN. Degree 5 minimax polynomial through 1: what softmax needs, at two
 * thirds of kd_expf's work. Round to an integer that already holds the exponent's bias. */
KD_BODY float
kd_exp2_normal (float y)
{
  float t, n, f, p;

  t = y + (KD_ROUND_MAGIC + 127.0f);
  n = t - (KD_ROUND_MAGIC + 127.0f);
  f = y - n;
  p = 1.326472731307149e-3f;
  p = p * f + 9.671512991189957e-3f;
  p = p * f + 5.550733581185341e-2f;
  p = p * f + 2.4022242426872253e-1f;
  p = p * f + 6.931470036506653e-1f;
  p = p * f + 1.0f;
  return p * kd_as_float (kd_as_bits (t) << 23);
}

/* The same for any y <= 127; below -127 it is 0. */
KD_BODY float
kd_exp2f (float y)
{
  return kd_exp2_normal (y < -127.0f ? -127.0f : y);
}

/* Binary logarithm of 1 + m within 4e-7 of itself, for m in [sqrt 1/2 - 1, sqrt 2 - 1): minimax polynomial of degree 8 without constant. */
KD_BODY float
kd_log2_polynomial (float m)
{
  float p = -0.14581170678138733f;

  p = p * m + 0.23404239118099213f;
  p = p * m - 0.24887686967849731f;
  p = p * m + 0.2870987057685852f;
  p = p * m - 0.3602396249771118f;
  p = p * m + 0.48092323541641235f;
  p = p * m - 0.7213528156280518f;
  p = p * m + 1.442694902420044f;
  return p * m;
}

/* Binary logarithm of normal positive x: near 1 within 4e-7 of itself, elsewhere of the exponent. */
KD_BODY float
kd_log2_normal (float x)
{
  uint32_t bits = kd_as_bits (x) - 0x3f3504f3u; /* sqrt (1/2) */
  float e = (float) (((int32_t) bits) >> 23), m = kd_as_float ((bits & 0x007fffffu) + 0x3f3504f3u) - 1.0f;

  return kd_log2_polynomial (m) + e;
}

/* The same; NaN stays NaN. */
KD_BODY float
kd_log2f (float x)
{
  return kd_log2_normal (x) + 0.0f * x;
}

/* ln (1 + x) relative to itself, for x from 0 to 0.4. */
KD_BODY float
kd_log1p_small (float x)
{
  return kd_log2_polynomial (x) * (float) KD_LN2;
}

/* P of ln (1 + m) = m - m^2 / 2 + m^3 P (m), for m in [sqrt 1/2 - 1, sqrt 2 - 1); Cephes logf. */
KD_BODY float
kd_log_polynomial (float m)
{
  float p = 7.0376836292e-2f;

  p = p * m - 1.1514610310e-1f;
  p = p * m + 1.1676998740e-1f;
  p = p * m - 1.2420140846e-1f;
  p = p * m + 1.4249322787e-1f;
  p = p * m - 1.6668057665e-1f;
  p = p * m + 2.0000714765e-1f;
  p = p * m - 2.4999993993e-1f;
  return p * m + 3.3333331174e-1f;
}

/* y - ln (1 + y), at least 0, relative to itself; for y as above. */
KD_BODY float
kd_log1p_rest (float y)
{
  return y * y * (0.5f - y * kd_log_polynomial (y));
}

/* ln x within 2 ulp for normal positive x. Mantissa in [sqrt 1/2, sqrt 2). */
KD_BODY float
kd_logf (float x)
{
  uint32_t bits = kd_as_bits (x) - 0x3f3504f3u; /* sqrt (1/2) */
  float e = (float) (((int32_t) bits) >> 23);
  float m = kd_as_float ((bits & 0x007fffffu) + 0x3f3504f3u) - 1.0f, z = m * m, p = kd_log_polynomial (m);

  p = p * m * z - e * 2.12194440e-4f - 0.5f * z;
  return m + p + e * 0.693359375f;
}

/* binary16 to binary32 without the F16C instructions, so that one body serves all: shifting puts exponent and fraction in place, the
 * product moves the bias (and makes subnormals normal); infinities and NaN get the full exponent. */
KD_BODY float
kd_half_bits_to_float (uint16_t half)
{
  uint32_t magnitude = (uint32_t) (half & 0x7fff) << 13;
  uint32_t special = (half & 0x7c00) == 0x7c00 ? 0x7f800000u : 0u;
  uint32_t bits = kd_as_bits (kd_as_float (magnitude) * 0x1p112f);

  return kd_as_float (bits | special | (uint32_t) (half & 0x8000) << 16);
}

/* @n values from @at on as float32: the memory itself, or converted into @buffer. */
KD_BODY const float *
kd_load_block (const void *row, KdReal type, int64_t at, int64_t n, float *buffer)
{
  if (type == KD_REAL_F32)
    return (const float *) row + at;
  if (type == KD_REAL_F16) {
    const uint16_t *from = (const uint16_t *) row + at;
#pragma omp simd
    for (int64_t i = 0; i < n; i++)
      buffer[i] = kd_half_bits_to_float (from[i]);
  } else {
    const uint16_t *from = (const uint16_t *) row + at;
#pragma omp simd
    for (int64_t i = 0; i < n; i++)
      buffer[i] = kd_as_float ((uint32_t) from[i] << 16);
  }
  return buffer;
}

/* One value as double: for the exact paths. */
static inline double
kd_load_value (const void *row, KdReal type, int64_t i)
{
  if (type == KD_REAL_F32)
    return ((const float *) row)[i];
  if (type == KD_REAL_F16)
    return kd_half_bits_to_float (((const uint16_t *) row)[i]);
  return kd_as_float ((uint32_t) ((const uint16_t *) row)[i] << 16);
}

static inline const void *
kd_row_of (const void *data, KdReal type, int64_t row, int64_t size)
{
  return (const char *) data + (size_t) row * (size_t) size * kd_real_size (type);
}

/* The largest of a block and whether all values can go the fast way (finite and not enormous). */
KD_BODY float
kd_block_max (const float *x, int64_t n, int *ret_fast)
{
  float max = -FLT_MAX;
  int bad = 0;

#pragma omp simd reduction(max                \
                           : max) reduction(| \
                                            : bad)
  for (int64_t i = 0; i < n; i++) {
    max = x[i] > max ? x[i] : max;
    bad |= !(fabsf (x[i]) <= KD_FAST_LIMIT);
  }
  *ret_fast = !bad;
  return max;
}

/* ln of the sum of e^((x - max) / T) when the largest entry is nearly all of it: the others are summed alone, so that a sum of 1 + 1e-6 keeps
 * its small part. */
KD_BODY double
kd_log_sum_small (const float *x, int64_t n, float max, float inv_t)
{
  int64_t top = 0;
  double rest = 0.0;

  while (top < n - 1 && x[top] != max)
    top++;
  for (int64_t at = 0; at < n; at += KD_BLOCK) {
    int64_t end = n - at < KD_BLOCK ? n : at + KD_BLOCK;
    float sum = 0.0f;
#pragma omp simd reduction(+ \
                           : sum)
    for (int64_t i = at; i < end; i++)
      sum += i == top ? 0.0f : kd_expf ((x[i] - max) * inv_t);
    rest += sum;
  }
  return log1p (rest);
}
