#include "kd-lanes.h"
#include "kd-sinkhorn-private.h"

#define KD_TEMPLATE "kd-sinkhorn-lanes.inc"
#include "kd-lanes-each.inc"

const KdSinkhornLoops kd_sinkhorn_loops[5] = KD_LOOPS;
