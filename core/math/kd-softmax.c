#include "kd-softmax.h"
#include "kd-block.h"
#include "kd-kernel.h"

typedef struct {
  double lse, max_probability, entropy;
  int64_t argmax;
} Summary;

/* What a block adds to the entropy: @z the sum of e = exp ((x - max) / T) without the row's largest entry, @w the sum of e (max - x) / T. Both
 * have positive terms only, and the 1 of the largest entry does not swallow them. */
KD_BODY void
block_entropy (const float *x, int64_t n, int64_t top, float max, float inv_t, double *z, double *w)
{
  float block_z = 0.0f, block_w = 0.0f;

#pragma omp simd reduction(+ \
                           : block_z, block_w)
  for (int64_t i = 0; i < n; i++) {
    float d = (max - x[i]) * inv_t, e = i == top ? 0.0f : kd_expf (-d);
    block_z += e;
    block_w += e > 0.0f ? e * d : 0.0f;
  }
  *z += block_z;
  *w += block_w;
}

KD_BODY int64_t
first_equal (const float *x, int64_t n, float value)
{
  int64_t i = 0;

  while (i < n - 1 && x[i] != value)
    i++;
  return i;
}

/* The largest entry and its place; 0 when the row needs the exact way. */
KD_BODY int
find_top (const void *x, KdReal type, int64_t size, float *ret_max, int64_t *ret_argmax)
{
  float buffer[KD_BLOCK] __attribute__ ((aligned (64)));

  *ret_max = -FLT_MAX;
  for (int64_t at = 0; at < size; at += KD_BLOCK) {
    int64_t n = size - at < KD_BLOCK ? size - at : KD_BLOCK;
    const float *block = kd_load_block (x, type, at, n, buffer);
    int fast;
    float top = kd_block_max (block, n, &fast);
    if (!fast)
      return 0;
    if (top > *ret_max) {
      *ret_argmax = at + first_equal (block, n, top);
      *ret_max = top;
    }
  }
  return 1;
}

/* lse is NaN when the row needs the exact way. */
KD_BODY void
row_kind (const KdSoftmax *call, int64_t row, Summary *ret, KdReal type, const KdBlockLoops *loops)
{
  const void *x = kd_row_of (call->logits, type, row, call->size);
  float *out = call->probability ? call->probability + row * call->size : NULL;
  float inv_t = (float) (1.0 / call->temperature), max, scale;
  float buffer[KD_BLOCK] __attribute__ ((aligned (64))), e[KD_BLOCK] __attribute__ ((aligned (64)));
  double z = 0.0;

  ret->lse = NAN;
  if (!find_top (x, type, call->size, &max, &ret->argmax))
    return;
  for (int64_t at = 0; at < call->size; at += KD_BLOCK) {
    int64_t n = call->size - at < KD_BLOCK ? call->size - at : KD_BLOCK;
    const float *block = kd_load_block (x, type, at, n, buffer);
    z += loops->exps (block, block, n, max, (float) (KD_LOG2E / call->temperature), out ? out + at : e);
  }
  ret->lse = max / call->temperature + log (z);
  ret->max_probability = 1.0 / z;
  scale = (float) (1.0 / z);
#pragma omp simd
  for (int64_t i = 0; i < (out ? call->size : 0); i++)
    out[i] *= scale;
  if (call->entropy) {
    double rest = 0.0, w = 0.0;
    for (int64_t at = 0; at < call->size; at += KD_BLOCK) {
      int64_t n = call->size - at < KD_BLOCK ? call->size - at : KD_BLOCK;
      block_entropy (kd_load_block (x, type, at, n, buffer), n, ret->argmax - at, max, inv_t, &rest, &w);
    }
    ret->entropy = log1p (rest) + w / (1.0 + rest);
  }
}

KD_BODY void
row_fast_body (const KdSoftmax *call, int64_t row, Summary *ret)
{
  const KdBlockLoops *loops = &kd_block_loops[kd_kernel_level (call->level)];

  if (call->type == KD_REAL_F32)
    row_kind (call, row, ret, KD_REAL_F32, loops);
  else
    row_kind (call, row, ret, call->type, loops);
}

KD_KERNEL (row_fast, (const KdSoftmax *call, int64_t row, Summary *ret), (call, row, ret))

static void
row_exact (const KdSoftmax *call, int64_t row, Summary *ret)
{
  const void *x = kd_row_of (call->logits, call->type, row, call->size);
  double max = -INFINITY, z = 0.0, rest = 0.0, w = 0.0;

  *ret = (Summary) { NAN, NAN, NAN, 0 };
  for (int64_t i = 0; i < call->size; i++) {
    double value = kd_load_value (x, call->type, i);
    if (isnan (value) || value == INFINITY)
      return;
    if (value > max) {
      max = value;
      ret->argmax = i;
    }
  }
  if (isinf (max))
    return;
  for (int64_t i = 0; i < call->size; i++) {
    double d = (max - kd_load_value (x, call->type, i)) / call->temperature, e = exp (-d);
    z += e;
    rest += i == ret->argmax ? 0.0 : e;
    w += e > 0.0 ? e * d : 0.0;
  }
  ret->lse = max / call->temperature + log (z);
  ret->max_probability = 1.0 / z;
  ret->entropy = log1p (rest) + w / z;
  for (int64_t i = 0; call->probability && i < call->size; i++)
    call->probability[row * call->size + i] = (float) (exp ((kd_load_value (x, call->type, i) - max) / call->temperature) / z);
}

void
kd_softmax_rows (const KdSoftmax *call)
{
  int level = kd_kernel_level (call->level);

#pragma omp parallel for schedule(static) if (call->n > 1 && call->n * call->size >= KD_PARALLEL_ELEMENTS)
  for (int64_t row = 0; row < call->n; row++) {
    Summary summary = { NAN, NAN, NAN, 0 };
    if (call->coef && call->coef[row] == 0.0)
      continue;
    row_fast[level](call, row, &summary);
    if (isnan (summary.lse))
      row_exact (call, row, &summary);
    if (call->lse)
      call->lse[row] = summary.lse;
    if (call->max)
      call->max[row] = summary.max_probability;
    if (call->argmax)
      call->argmax[row] = summary.argmax;
    if (call->entropy)
      call->entropy[row] = summary.entropy;
  }
}
