#include "kd-lanes.h"
#include "kd-sinkhorn-private.h"

#define KD_LEVEL 1
#define KD_LANES 4
#define KD_TARGET
#include "kd-sinkhorn-lanes.inc"

#if defined(__x86_64__)
#define KD_LEVEL 2
#define KD_LANES 4
#define KD_TARGET KD_TARGET_V2
#include "kd-sinkhorn-lanes.inc"

#define KD_LEVEL 3
#define KD_LANES 8
#define KD_TARGET KD_TARGET_V3
#include "kd-sinkhorn-lanes.inc"

#define KD_LEVEL 4
#define KD_LANES 16
#define KD_TARGET KD_TARGET_V4
#include "kd-sinkhorn-lanes.inc"

const KdSinkhornLoops kd_sinkhorn_loops[5] = { loops_v1, loops_v1, loops_v2, loops_v3, loops_v4 };
#else
const KdSinkhornLoops kd_sinkhorn_loops[5] = { loops_v1, loops_v1, loops_v1, loops_v1, loops_v1 };
#endif
