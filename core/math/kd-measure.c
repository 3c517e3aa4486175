#include "kd-measure.h"

KdMeasure
kd_measure_of (const KdDivergence *call)
{
  double beta = call->beta, alpha = call->alpha, lambda = call->lambda;
  KdMeasure m = { .shape = KD_MEASURE_KL, .a = 1.0, .b = 1.0 };

  switch (call->kind) {
  case KD_DIVERGENCE_FORWARD_KL:
    m.c_p = 1.0;
    break;
  case KD_DIVERGENCE_REVERSE_KL:
    m.c_q = 1.0;
    break;
  case KD_DIVERGENCE_JSD:
    m = (KdMeasure) { KD_MEASURE_JSD, beta, 1.0 - beta, 1.0 - beta, beta, .keep = 1.0 - beta };
    break;
  case KD_DIVERGENCE_SKEW_FORWARD_KL:
    m = (KdMeasure) { KD_MEASURE_SKEW_P, .c_p = 1.0, .a = 1.0 - alpha };
    break;
  case KD_DIVERGENCE_SKEW_REVERSE_KL:
    m = (KdMeasure) { KD_MEASURE_SKEW_Q, .c_q = 1.0, .b = 1.0 - alpha };
    break;
  case KD_DIVERGENCE_TOTAL_VARIATION:
    m.shape = KD_MEASURE_TVD;
    break;
  case KD_DIVERGENCE_SYMMETRIC_KL:
    m.c_p = 1.0 - lambda;
    m.c_q = lambda;
    break;
  case KD_DIVERGENCE_ADAPTIVE_KL:
    m.c_p = m.c_q = 0.5;
    break;
  case KD_DIVERGENCE_ALPHA_BETA:
    m = (KdMeasure) { .shape = KD_MEASURE_ALPHA_BETA, .a = alpha, .b = beta };
    break;
  }
  if (call->cross_entropy && (m.shape == KD_MEASURE_KL || m.shape == KD_MEASURE_SKEW_P) && call->kind != KD_DIVERGENCE_ADAPTIVE_KL)
    m.drop = m.c_p;
  return m;
}

/* log ((1 - share) e^x + share e^y), accurate where x and y are near. */
static double
log_mixture (double share, double x, double y)
{
  if (share <= 0.0 || x == y)
    return x;
  if (share >= 1.0)
    return y;
  return x >= y ? x + log1p (share * expm1 (y - x)) : y + log1p ((1.0 - share) * expm1 (x - y));
}

/* Cichocki and Amari 2010; at b = 0 its limit. -INFINITY to a positive power is 0, to the power 0 it does not occur: a > 0. */
static void
alpha_beta_outcome (const KdMeasure *m, double l_q, double l_p, double *ret_term, double *ret_a)
{
  double a = m->a, b = m->b, p = exp ((a + b) * l_p), q = exp ((a + b) * l_q), cross = b > 0.0 ? exp (a * l_p + b * l_q) : p;

  *ret_a = (q - cross) / a;
  if (b > 0.0)
    *ret_term = (a * p + b * q - (a + b) * cross) / (a * b * (a + b));
  else
    *ret_term = ((p > 0.0 ? a * p * (l_p - l_q) : 0.0) - p + q) / (a * a);
}

void
kd_outcome (const KdMeasure *m, double l_q, double l_p, double *ret_term, double *ret_a)
{
  if (m->shape == KD_MEASURE_ALPHA_BETA) {
    alpha_beta_outcome (m, l_q, l_p, ret_term, ret_a);
    return;
  }
  double q = exp (l_q), p = exp (l_p), term = 0.0, a = m->keep * q;

  if (m->shape == KD_MEASURE_TVD) {
    term = 0.5 * fabs (p - q);
    a = -0.5 * q * ((p > q) - (p < q));
  }
  if (m->c_p > 0.0 && p > 0.0) {
    double l_m = log_mixture (m->a, l_p, l_q);
    term += p * (m->c_p * (l_p - l_m) - m->drop * l_p);
    a -= m->c_p * m->a * p * exp (l_q - l_m);
  }
  if (m->c_q > 0.0 && q > 0.0) {
    double l_n = log_mixture (m->b, l_q, l_p);
    term += m->c_q * q * (l_q - l_n);
    a += m->c_q * q * (l_q - l_n);
    if (m->b < 1.0) /* else N = p, and q / p may be infinite */
      a -= m->c_q * q * (1.0 - m->b) * exp (l_q - l_n);
  }
  *ret_term = term;
  *ret_a = a;
}

/* Whether outcome @x comes before @y: larger p, then lower index. */
static int
is_before (const double *p, int32_t x, int32_t y)
{
  return p[x] > p[y] || (p[x] == p[y] && x < y);
}

static void
sift_down (const double *p, int32_t *heap, int64_t n, int64_t at)
{
  int32_t moving = heap[at];

  for (int64_t child = 2 * at + 1; child < n; child = 2 * at + 1) {
    if (child + 1 < n && is_before (p, heap[child + 1], heap[child]))
      child++;
    if (!is_before (p, heap[child], moving))
      break;
    heap[at] = heap[child];
    at = child;
  }
  heap[at] = moving;
}

double
kd_adaptive_share (int64_t n, const double *p, const double *q, double mu, int32_t *heap)
{
  double sum = 0.0, head = 0.0, tail = 0.0;
  int64_t left = n;

  for (int64_t i = 0; i < n; i++)
    heap[i] = (int32_t) i;
  for (int64_t i = n / 2 - 1; i >= 0; i--)
    sift_down (p, heap, n, i);
  while (left > 0) { /* only the head is put in order: a heap gives it without sorting the rest */
    int32_t top = heap[0];
    sum += p[top];
    if (left < n && sum > mu)
      break;
    head += fabs (p[top] - q[top]);
    heap[0] = heap[--left];
    if (left > 0)
      sift_down (p, heap, left, 0);
  }
  for (int64_t i = 0; i < left; i++)
    tail += fabs (p[heap[i]] - q[heap[i]]);
  return head + tail > 0.0 ? head / (head + tail) : 0.5;
}
