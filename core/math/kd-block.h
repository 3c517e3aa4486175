/* Internal to core/math: the loops over a block of logits that take most of a row's time, written in vectors of the machine's width
 * (kd-block-lanes.inc), once for each instruction set: what the compiler makes of a plain loop takes up to half as long again. */
#pragma once
#include <stdint.h>

/* Which sum is made beside the normalisers. y: a table's powers of two, e = 2^y; u = y_s - y_t. */
typedef enum {
  KD_CROSS_NONE,
  KD_CROSS_FORWARD, /* - e_t u */
  KD_CROSS_STUDENT, /* - e_t y_s: forward without the teacher's entropy */
  KD_CROSS_REVERSE, /* e_s u; u is kept in place of e_t */
  KD_CROSS_ENTROPY, /* - e_t y_t */
} KdCross;

/* Powers of two below the reference at which the exponentials of a mixture stay: the quotient of two is finite, and nothing is lost, since no
 * term of a mixture is larger than its probability times the logarithm of the share. */
#define KD_LOWEST -100.0f

/* Powers of two that are summed: a block with one above this has a z above 2^KD_BLOCK_TOP, or one that is no number. */
#define KD_BLOCK_TOP 11.0f

/* Of a block: y = (x - reference) k. */
typedef struct {
  float z_s, z_t, cross;
} KdPairSums;

/* What is asked for from memory meanwhile begins at s_ahead and t_ahead; it need not be there. */
typedef struct {
  const float *s, *t, *s_ahead, *t_ahead;
  int64_t n;
  float ref_s, ref_t, k;
  float *keep_s, *keep_t; /* e_s, and e_t or u */
} KdPairBlock;

/* Of Jensen-Shannon's second look at a block: h = (s - ref) k - log2 (w_s e_s + w_t e_t). Half as much as it has is asked for from memory at
 * s_ahead and t_ahead; it need not be there. */
typedef struct {
  const float *s, *s_ahead;
  const char *t_ahead;
  const float *e_s;
  float *e_t_to_h;
  int64_t n;
  float ref, k, w_s, w_t;
} KdShannonBlock;

typedef struct {
  float of_t, of_s; /* e_t h, e_s h */
} KdShannonSums;

/* One instruction set's. z_s or cross is not finite where a logit is not. pair: of [cross][floored at KD_LOWEST]. exps: one table, returns its z. */
typedef struct {
  KdPairSums (*pair[5][2]) (const KdPairBlock *block);
  float (*exps) (const float *x, const float *x_ahead, int64_t n, float reference, float k, float *e);
  KdShannonSums (*shannon) (const KdShannonBlock *block);
} KdBlockLoops;

/* For levels 1 to 4. */
extern const KdBlockLoops kd_block_loops[5];
