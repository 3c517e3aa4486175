#include "kd-block.h"
#include "kd-kernel.h"
#include "kd-lanes.h"

#define KD_TEMPLATE "kd-block-lanes.inc"
#include "kd-lanes-each.inc"

const KdBlockLoops kd_block_loops[5] = KD_LOOPS;
