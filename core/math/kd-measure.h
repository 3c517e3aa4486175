/* Internal to core/math: the divergences as one family, and the definition of one outcome in double.
 *
 *   D = c_p KL (p || M) + c_q KL (q || N),  M = (1 - a) p + a q,  N = (1 - b) q + b p;  or total variation, sum |p - q| / 2;  or alpha-beta,
 *   sum (a p^(a + b) + b q^(a + b) - (a + b) p^a q^b) / (a b (a + b))
 *
 * An outcome is one id, or several that are counted as one. With A = q dD/dq of each outcome (up to a multiple of q, which the softmax
 * takes out again) the gradient of the logit of the outcome's only id is (A - q sum A) / T. */
#pragma once
#include "kd-divergence.h"
#include <math.h>

typedef enum {
  KD_MEASURE_KL,     /* a = b = 1: logarithms of p / q only */
  KD_MEASURE_JSD,    /* M = N */
  KD_MEASURE_SKEW_P, /* c_q = 0 */
  KD_MEASURE_SKEW_Q, /* c_p = 0 */
  KD_MEASURE_TVD,
  KD_MEASURE_ALPHA_BETA,
} KdMeasureShape;

/* @keep: multiple of q added to A, which matters only where ids are left out; @drop: c_p when the teacher's own entropy is left out */
typedef struct {
  KdMeasureShape shape;
  double c_p, a, c_q, b;
  double keep, drop;
} KdMeasure;

/** kd_measure_of: of a call; the adaptive KL has its weights for each row only (kd_adaptive_share). */
KdMeasure kd_measure_of (const KdDivergence *call);

/** kd_measure_needs_teacher: whether D is infinite where p = 0 and q > 0. */
static inline int
kd_measure_needs_teacher (const KdMeasure *measure)
{
  return measure->shape == KD_MEASURE_KL && measure->c_q > 0.0;
}

/** kd_measure_lost: what the sum of A loses for each unit of q that is left out: A has no multiple of q, which cancels only over all of q. */
static inline double
kd_measure_lost (const KdMeasure *measure)
{
  return measure->c_q - measure->keep;
}

/** kd_outcome: one outcome's part of D and its A, from the logarithms of its probabilities (-INFINITY: 0). */
void kd_outcome (const KdMeasure *measure, double l_q, double l_p, double *ret_term, double *ret_a);

/** kd_adaptive_share: the adaptive KL's weight of the forward half over @n outcomes; @heap: [n] scratch. arXiv:2404.02657 as its code:
 * the head are the largest p whose sum is within @mu, and always the first. */
double kd_adaptive_share (int64_t n, const double *p, const double *q, double mu, int32_t *heap);

/** kd_exact_row: a row by the definition in double, skipping ids as inf-policy says; adds to the gradient. NaN for a row with NaN,
 * +infinity or nothing finite. */
double kd_exact_row (const KdDivergence *call, const KdMeasure *measure, int64_t row);

/** kd_adaptive_row: the row's own measure of the adaptive KL; @scratch: 20 bytes an id. 0 for a row that has none (as above). */
int kd_adaptive_row (const KdDivergence *call, int64_t row, void *scratch, KdMeasure *ret_measure);

/** kd_exact_rows: all rows by the definition. */
void kd_exact_rows (const KdDivergence *call);

/** kd_mixture_rows: all but fkl, rkl and alpha-beta. */
void kd_mixture_rows (const KdDivergence *call);
