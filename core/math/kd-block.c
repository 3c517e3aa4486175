#include "kd-block.h"
#include "kd-kernel.h"
#if defined(__x86_64__)
#include <immintrin.h>
#endif

#define KD_JOIN_(a, b) a##_v##b
#define KD_JOIN(a, b) KD_JOIN_ (a, b)

#define KD_LEVEL 1
#define KD_LANES 4
#define KD_TARGET
#include "kd-block-lanes.inc"

#if defined(__x86_64__)
#define KD_LEVEL 2
#define KD_LANES 4
#define KD_TARGET __attribute__ ((target ("sse4.2,popcnt")))
#include "kd-block-lanes.inc"

#define KD_LEVEL 3
#define KD_LANES 8
#define KD_TARGET __attribute__ ((target ("avx2,fma,f16c,bmi,bmi2,lzcnt,popcnt")))
#include "kd-block-lanes.inc"

#define KD_LEVEL 4
#define KD_LANES 16
#define KD_TARGET __attribute__ ((target ("avx512f,avx512bw,avx512cd,avx512dq,avx512vl,avx2,fma,f16c,bmi,bmi2,lzcnt,popcnt,prefer-vector-width=512")))
#include "kd-block-lanes.inc"

const KdBlockLoops kd_block_loops[5] = { loops_v1, loops_v1, loops_v2, loops_v3, loops_v4 };
#else
const KdBlockLoops kd_block_loops[5] = { loops_v1, loops_v1, loops_v1, loops_v1, loops_v1 };
#endif
