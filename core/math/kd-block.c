#include "kd-block.h"
#include "kd-kernel.h"
#include "kd-lanes.h"

#define KD_LEVEL 1
#define KD_LANES 4
#define KD_TARGET
#include "kd-block-lanes.inc"

#if defined(__x86_64__)
#define KD_LEVEL 2
#define KD_LANES 4
#define KD_TARGET KD_TARGET_V2
#include "kd-block-lanes.inc"

#define KD_LEVEL 3
#define KD_LANES 8
#define KD_TARGET KD_TARGET_V3
#include "kd-block-lanes.inc"

#define KD_LEVEL 4
#define KD_LANES 16
#define KD_TARGET KD_TARGET_V4
#include "kd-block-lanes.inc"

const KdBlockLoops kd_block_loops[5] = { loops_v1, loops_v1, loops_v2, loops_v3, loops_v4 };
#else
const KdBlockLoops kd_block_loops[5] = { loops_v1, loops_v1, loops_v1, loops_v1, loops_v1 };
#endif
