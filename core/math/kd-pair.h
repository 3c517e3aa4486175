/* Internal to core/math: the first pass over a row of two tables, as kd-row.h says: read once from memory, exponentials kept, sums made. */
#pragma once
#include "kd-block.h"
#include "kd-divergence.h"
#include "kd-row.h"

/* One row under way; @k: powers of two a logit. */
typedef struct {
  KdTable s, t;
  double cross;
  float k;
  const KdBlockLoops *loops;
} KdPair;

/* One block's exponentials and sums. */
KD_BODY KdPairSums
kd_pair_block (const float *s, const float *t, const float *s_ahead, const float *t_ahead, int64_t n, const KdPair *pair, int64_t at, KdCross kind,
    int floored)
{
  KdPairBlock block = { s, t, s_ahead, t_ahead, n, pair->s.reference, pair->t.reference, pair->k, pair->s.e + at, pair->t.e + at };

  return pair->loops->pair[kind][floored](&block);
}

/* Both references up to the block's largest values, and the sums so far with them. */
KD_BODY void
kd_pair_raise (KdPair *pair, const float *s, const float *t, int64_t n, KdCross kind)
{
  double z_s = pair->s.z, z_t = pair->t.z, step_s = kd_table_raise (&pair->s, kd_block_top (s, n), pair->k);
  double step_t = kd_table_raise (&pair->t, kd_block_top (t, n), pair->k);

  if (kind == KD_CROSS_REVERSE)
    pair->cross = exp2 (step_s) * (pair->cross + z_s * (step_s - step_t));
  else
    pair->cross = exp2 (step_t) *
        (pair->cross + z_t * ((kind == KD_CROSS_FORWARD ? step_t : 0.0) - (kind == KD_CROSS_ENTROPY ? step_t : step_s)));
}

/* As kd_load_block; id @skip (-1: none) becomes a logit whose exponential is 0. */
#define KD_SKIPPED -1e30f
KD_BODY const float *
kd_load_without (const void *row, KdReal type, int64_t at, int64_t n, int64_t skip, float *buffer)
{
  const float *x = kd_load_block (row, type, at, n, buffer);

  if (skip < at || skip >= at + n)
    return x;
  if (x != buffer)
    memcpy (buffer, x, (size_t) n * sizeof *x);
  buffer[skip - at] = KD_SKIPPED;
  return buffer;
}

/* From memory into the scratch, without id @skip (-1: all). @start_s, @start_t: the first references at least. */
KD_BODY void
kd_pair_read (KdPair *pair, const KdDivergence *call, const float *student, const void *teacher, float start_s, float start_t, KdCross kind,
    int floored, KdReal type, int64_t skip)
{
  float buffer_s[KD_BLOCK] __attribute__ ((aligned (64))), buffer_t[KD_BLOCK] __attribute__ ((aligned (64)));
  int64_t width = (int64_t) kd_real_size (type);

  pair->s.reference = start_s;
  pair->t.reference = start_t;
  pair->s.z = pair->t.z = pair->cross = 0.0;
  for (int64_t at = 0; at < call->size; at += KD_BLOCK) {
    int64_t n = kd_block_length (call->size, at);
    const float *s = kd_load_without (student, KD_REAL_F32, at, n, skip, buffer_s), *t = kd_load_without (teacher, type, at, n, skip, buffer_t);
    int raise = at == 0;
    KdPairSums sums;

    const float *s_ahead = student + at + KD_AHEAD, *t_ahead = type == KD_REAL_F32 ? (const float *) teacher + at + KD_AHEAD : s_ahead;

    if (type != KD_REAL_F32)
      kd_prefetch ((const char *) teacher + (at + KD_AHEAD) * width, n * width);
    do {
      if (raise)
        kd_pair_raise (pair, s, t, n, kind);
      sums = kd_pair_block (s, t, s_ahead, t_ahead, n, pair, at, kind, floored);
      raise = !raise && !(sums.z_s <= KD_RISE && sums.z_t <= KD_RISE);
    } while (raise);
    pair->s.reference_of[at / KD_BLOCK] = pair->s.reference;
    pair->t.reference_of[at / KD_BLOCK] = pair->t.reference;
    pair->s.z += sums.z_s;
    pair->t.z += sums.z_t;
    pair->cross += sums.cross;
  }
}

/* Places for both tables in a scratch of kd_pair_floats. */
static inline int64_t
kd_pair_floats (int64_t size)
{
  return 2 * kd_table_floats (size);
}

static inline void
kd_pair_init (KdPair *pair, float *scratch, int64_t size, double temperature, int level)
{
  pair->loops = &kd_block_loops[level];
  kd_table_init (&pair->s, scratch, size);
  kd_table_init (&pair->t, scratch + kd_table_floats (size), size);
  pair->k = (float) (KD_LOG2E / temperature);
}

/* Below this a value is summed again in a form that does not cancel. */
#define KD_SMALL 0.0625
/* The reverse gradient is a difference of log-ratios: beyond this value float32 leaves too few digits of it. */
#define KD_LARGE 64.0

/* The sum of w (e^u - 1 - u), which is KL (w || w e^u) term by term: every term is small where the distributions are near, and an error of
 * the normalisers cancels to first order. u = l_q - l_p forward, l_p - l_q reverse; @a, @b: the normalisers of the exponentials. */
KD_BODY float
kd_pair_block_small (const float *s, const float *t, int64_t n, const KdPair *pair, int reverse, float log_z, float a, float b)
{
  float max_s = pair->s.reference, max_t = pair->t.reference, k = pair->k, sum = 0.0f;

#pragma omp simd reduction(+ \
                           : sum)
  for (int64_t i = 0; i < n; i++) {
    float y_s = (s[i] - max_s) * k, y_t = (t[i] - max_t) * k, q = a * kd_exp2f (y_s), p = b * kd_exp2f (y_t);
    float w = reverse ? q : p, other = reverse ? p : q;
    float u = (y_s - y_t) * (float) KD_LN2 - log_z;
    u = reverse ? -u : u;
    float series = 1.0f / 40320;
    series = series * u + 1.0f / 5040;
    series = series * u + 1.0f / 720;
    series = series * u + 1.0f / 120;
    series = series * u + 1.0f / 24;
    series = series * u + 1.0f / 6;
    series = series * u + 1.0f / 2;
    sum += fabsf (u) < 0.5f ? w * u * u * series : other - w - w * u;
  }
  return sum;
}

/* A row's KL when it is small, without id @skip. */
KD_BODY double
kd_pair_small (const KdDivergence *call, const float *student, const void *teacher, const KdPair *pair, int reverse, KdReal type, int64_t skip)
{
  float buffer_s[KD_BLOCK] __attribute__ ((aligned (64))), buffer_t[KD_BLOCK] __attribute__ ((aligned (64)));
  float a = (float) (1.0 / pair->s.z), b = (float) (1.0 / pair->t.z), log_z = (float) (log (pair->s.z) - log (pair->t.z));
  double value = 0.0;

  for (int64_t at = 0; at < call->size; at += KD_BLOCK) {
    int64_t n = kd_block_length (call->size, at);
    value += kd_pair_block_small (kd_load_without (student, KD_REAL_F32, at, n, skip, buffer_s),
        kd_load_without (teacher, type, at, n, skip, buffer_t), n, pair, reverse, log_z, a, b);
  }
  return value;
}

/* out = a e_s - b e_t, or in reverse a e_s (u + b). */
KD_BODY void
kd_pair_gradient (const float *restrict e_s, const float *restrict kept, int64_t n, float a, float b, KdCross kind, float *restrict out)
{
#pragma omp simd
  for (int64_t i = 0; i < n; i++)
    out[i] = kind == KD_CROSS_REVERSE ? a * e_s[i] * (kept[i] + b) : a * e_s[i] - b * kept[i];
}
