/* Internal to core/math: what a file needs that includes kd-lanes-each.inc; a template there has KD_LEVEL, KD_LANES floats a vector and KD_TARGET,
 * the attribute. */
#pragma once
#include <stdint.h>
#include <string.h>
#if defined(__x86_64__)
#include <immintrin.h>
#endif

#define KD_JOIN_(a, b) a##_v##b
#define KD_JOIN(a, b) KD_JOIN_ (a, b)

#define KD_TARGET_V2 __attribute__ ((target ("sse4.2,popcnt")))
#define KD_TARGET_V3 __attribute__ ((target ("avx2,fma,f16c,bmi,bmi2,lzcnt,popcnt")))
#define KD_TARGET_V4 \
  __attribute__ ((target ("avx512f,avx512bw,avx512cd,avx512dq,avx512vl,avx2,fma,f16c,bmi,bmi2,lzcnt,popcnt,prefer-vector-width=512")))
