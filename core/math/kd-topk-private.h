/* Internal to core/math: the selection for one row. */
#pragma once
#include "kd-topk.h"

/** kd_topk_scratch: elements of scratch that a row needs. */
static inline size_t
kd_topk_scratch (int64_t k)
{
  return (size_t) (2 * k + 1024);
}

/** kd_topk_row: of one row, with @level from kd_kernel_level and @scratch [kd_topk_scratch (k)]. */
void kd_topk_row (const void *row, KdReal type, int64_t size, int64_t k, int64_t *ids, uint64_t *scratch, int level);
