/* Internal to core/math: the parts of Sinkhorn: what goes over classes, in double (kd-sinkhorn.c) or for wide rows in float32
 * (kd-sinkhorn-wide.c), and what goes over the plan (kd-sinkhorn-plan.c). */
#pragma once
#include "kd-kernel.h"
#include "kd-sinkhorn.h"
#include <stdlib.h>

/* The scalings of one problem: the matrix after n rounds is u_n K v_n. @k: [n, n] the kernel, or its logarithm with @logarithms; then @u, @v are
 * logarithms too. @u: [iterations, n], @v: [iterations + 1, n]. */
typedef struct {
  int64_t n;
  int iterations, logarithms;
  double epsilon;
  double *w, *k, *u, *v, *row, *column, *most;
} KdPlan;

/* e^x within 1e-15 of itself for x <= 700; 0 below -700. Cody-Waite, Taylor to r^12 on |r| <= ln 2 / 2. */
KD_BODY double
exp_double (double x)
{
  double c = x > -700.0 ? x : -700.0, t = c * KD_LOG2E + 0x1.8p52, n = t - 0x1.8p52, r = c - n * 0x1.62e42fefa38p-1, p, scale;
  uint64_t bits;

  r -= n * 0x1.ef35793c7673p-45;
  p = 1.0 / 479001600.0;
  p = p * r + 1.0 / 39916800.0;
  p = p * r + 1.0 / 3628800.0;
  p = p * r + 1.0 / 362880.0;
  p = p * r + 1.0 / 40320.0;
  p = p * r + 1.0 / 5040.0;
  p = p * r + 1.0 / 720.0;
  p = p * r + 1.0 / 120.0;
  p = p * r + 1.0 / 24.0;
  p = p * r + 1.0 / 6.0;
  p = p * r + 0.5;
  p = p * r + 1.0;
  p = p * r + 1.0;
  memcpy (&bits, &t, sizeof bits);
  bits = (bits + 1023) << 52; /* the low bits of t are n */
  memcpy (&scale, &bits, sizeof scale);
  return x > -700.0 ? p * scale : 0.0;
}

/* Kernel of the costs and all rounds; k, u and v are filled. */
void kd_plan_rounds (const KdPlan *p, int level);
/* The plan into @ret [n, n]. */
void kd_plan_transport (const KdPlan *p, int level, double *ret);
/* @q comes as P W and leaves as the derivative of sum P W by W, through all rounds. */
void kd_plan_adjoint (const KdPlan *p, int level, double *q);

/* Rows of a tile: by the number of points only, so that the bits do not depend on threads; and rows that share one read of y. */
#define KD_SINKHORN_GROUP 4
static inline int64_t
kd_sinkhorn_tile (int64_t n)
{
  return n <= 64 ? KD_SINKHORN_GROUP : 16;
}

/* Rows of at least so many classes are worked on in float32: each probability is small, and what its rounding does to a cost of hundreds of them
 * is less than to a single one. */
#define KD_SINKHORN_WIDE 512

/* The softmax points of a wide problem: @x, @y [n, stride], rows filled up with zeros; of each row, x's first, @sum of what was stored and @lse
 * the normaliser, which tells two near probabilities apart. */
typedef struct {
  float *x, *y;
  double *sum, *lse;
  int64_t stride;
} KdWidePoints;

/* Floats of rows that are worked on at once, so few that those of 128 rows stay in the first level; strides are multiples of it. */
#define KD_WIDE_CHUNK 32
/* Probabilities so many steps of float32 from each other may stand in the other order once they are rounded. */
#define KD_WIDE_NEAR 17

/* Sums of four rows of x with four of y, over @m values, whole chunks. */
typedef void (*KdPairSums) (const float *const *x, const float *const *y, int64_t m, float (*ret)[4]);

/* One instruction set's loops over float32 rows.
 * shared: sums of the smaller of x and y. difference: sums of |x - y|.
 * slope: @sum [chunk] = sum_j weight_j sign (x - y_j), of @n chunks @y one after the other; returns whether a sign is not sure, which is then
 * that of x - y_j in steps plus KD_WIDE_NEAR. Where x is 0 the sign does not matter. */
typedef struct {
  KdPairSums shared, difference;
  int (*slope) (int64_t n, const float *x, const float *y, const float *weight, float *sum);
} KdSinkhornLoops;

/* For levels 1 to 4. */
extern const KdSinkhornLoops kd_sinkhorn_loops[5];

/* 0 when a row has none. To be cleared either way. */
int kd_sinkhorn_wide_init (const KdSinkhorn *call, KdWidePoints *points, int level);
void kd_sinkhorn_wide_clear (KdWidePoints *points);
/* @w [n, n]: the costs. */
void kd_sinkhorn_wide_costs (const KdSinkhorn *call, const KdWidePoints *points, double *w, int level);
/* Adds the gradient of scale x sum wbar W. @points' y is gone after it. */
void kd_sinkhorn_wide_gradient (const KdSinkhorn *call, const KdWidePoints *points, const double *wbar, int level);
