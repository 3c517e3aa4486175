/* Internal to core/math: how the kernels go over a long row. It is read once from memory: the first pass keeps its exponentials in a scratch
 * that stays in the cache and sums them; the last pass, backwards, since the end is what the cache still has, makes the gradient of them.
 *
 * Exponentials are powers of two relative to a reference that the row has when the block is read: the largest of the first block,
 * raised only when values are far above it. So no pass for the maximum is needed; factors of blocks are 1 but for the few before a rise. */
#pragma once
#include "kd-kernel.h"
#include "kd-memory.h"
#include <stdlib.h>
#if defined(__SSE2__)
#include <xmmintrin.h>
#endif

/* A block whose exponentials sum to more than this, or to no number, is made again with its largest for the reference: no power of two is above
 * KD_BLOCK_TOP then, so that nothing overflows and the differences keep their digits. */
#define KD_RISE 0x1p11f
/* Floats that are asked for before they are needed: what one core's misses in flight hide. */
#define KD_AHEAD 1024
/* Gradients of at least this many bytes do not stay in the cache: written past it, their lines are not read first. */
#define KD_STREAM_BYTES (8 << 20)
/* Rows of at most this many floats leave room in a second level cache for the beginning of the next row. */
#define KD_PREFETCH_SIZE 40000

/* How a gradient's row is written: added to, written, written past the cache. */
typedef enum { KD_PUT_ADD,
  KD_PUT_WRITE,
  KD_PUT_STREAM } KdPut;

static inline KdPut
kd_put_kind (int fresh, int64_t n, int64_t size)
{
  if (!fresh)
    return KD_PUT_ADD;
  return (double) n * (double) size * sizeof (float) >= KD_STREAM_BYTES ? KD_PUT_STREAM : KD_PUT_WRITE;
}

/* Whole lines past the cache, the ends of the block the plain way. @from is aligned, @to need not be. */
KD_BODY void
kd_put_stream (float *to, const float *from, int64_t n)
{
#if defined(__SSE2__)
  int64_t i = 0, head = (int64_t) ((64 - ((uintptr_t) to & 63)) & 63) / 4;

  head = head < n ? head : n;
  for (; i < head; i++)
    to[i] = from[i];
  for (; i + 16 <= n; i += 16) {
    _mm_stream_ps (to + i, _mm_loadu_ps (from + i));
    _mm_stream_ps (to + i + 4, _mm_loadu_ps (from + i + 4));
    _mm_stream_ps (to + i + 8, _mm_loadu_ps (from + i + 8));
    _mm_stream_ps (to + i + 12, _mm_loadu_ps (from + i + 12));
  }
  for (; i < n; i++)
    to[i] = from[i];
#else
  memcpy (to, from, (size_t) n * sizeof *to);
#endif
}

/* One block of a gradient from @from, a buffer in the first level cache. */
KD_BODY void
kd_put_block (float *to, const float *from, int64_t n, KdPut put)
{
  if (put == KD_PUT_STREAM) {
    kd_put_stream (to, from, n);
  } else if (put == KD_PUT_WRITE) {
    memcpy (to, from, (size_t) n * sizeof *to);
  } else {
#pragma omp simd
    for (int64_t i = 0; i < n; i++)
      to[i] += from[i];
  }
}

/* Stores past the cache are seen by other threads after this. */
static inline void
kd_put_end (KdPut put)
{
#if defined(__SSE2__)
  if (put == KD_PUT_STREAM)
    _mm_sfence ();
#endif
}

/* A row that has no gradient: zeros where the memory is new. */
static inline void
kd_put_nothing (float *grad, int64_t size, KdPut put)
{
  if (grad && put != KD_PUT_ADD)
    memset (grad, 0, (size_t) size * sizeof *grad);
}

/* Ask for @bytes from @from on, into the second level: the first one's few misses in flight are what the loads themselves need. */
KD_BODY void
kd_prefetch (const void *from, int64_t bytes)
{
  for (int64_t i = 0; i < bytes; i += 64)
    __builtin_prefetch ((const char *) from + i, 0, 2);
}

static inline int64_t
kd_block_count (int64_t size)
{
  return (size + KD_BLOCK - 1) / KD_BLOCK;
}

static inline int64_t
kd_block_length (int64_t size, int64_t at)
{
  return size - at < KD_BLOCK ? size - at : KD_BLOCK;
}

/* One table of a row under way: @e [size] exponentials, @reference_of [blocks] the reference that each block's have. */
typedef struct {
  float reference;
  double z;
  float *e, *reference_of;
} KdTable;

/* Floats of scratch for one table of a row; every part begins on a line. */
static inline int64_t
kd_table_floats (int64_t size)
{
  return (size + 15) / 16 * 16 + (kd_block_count (size) + 15) / 16 * 16;
}

static inline float *
kd_scratch_new (int64_t floats)
{
  float *scratch = kd_memory_new ((size_t) floats * sizeof *scratch);

  if (!scratch)
    abort (); /* as GLib does */
  return scratch;
}

static inline void
kd_table_init (KdTable *table, float *scratch, int64_t size)
{
  table->e = scratch;
  table->reference_of = scratch + (size + 15) / 16 * 16;
}

KD_BODY float
kd_block_top (const float *x, int64_t n)
{
  float top = -FLT_MAX;

#pragma omp simd reduction(max \
                           : top)
  for (int64_t i = 0; i < n; i++)
    top = x[i] > top ? x[i] : top;
  return top;
}

/* The reference goes up to the block's largest value, if that is more; returns by how many powers of two it moves (at most 0) and moves the
 * sum along. @k: powers of two a logit. */
KD_BODY double
kd_table_raise (KdTable *table, float top, float k)
{
  double step;

  if (!(top > table->reference))
    return 0.0;
  step = table->z > 0.0 ? ((double) table->reference - top) * k : 0.0;
  table->z *= exp2 (step);
  table->reference = top;
  return step;
}

/* What takes a block's exponentials to the row's last reference. */
static inline double
kd_table_step (const KdTable *table, int64_t block, float k)
{
  float then = table->reference_of[block];

  return then == table->reference ? 0.0 : ((double) then - table->reference) * k;
}

/* 2^step: nearly always of 0. */
static inline double
kd_step_factor (double step)
{
  return step == 0.0 ? 1.0 : exp2 (step);
}
