#include "kd-sinkhorn-private.h"

/* Row @i of u K v. */
KD_BODY void
plan_row (const KdPlan *p, const double *u, const double *v, int64_t i, double *ret)
{
  const double *k = p->k + i * p->n;
  double of_row = u[i];

  if (p->logarithms) {
#pragma omp simd
    for (int64_t j = 0; j < p->n; j++)
      ret[j] = exp_double (k[j] + of_row + v[j]);
  } else {
#pragma omp simd
    for (int64_t j = 0; j < p->n; j++)
      ret[j] = of_row * k[j] * v[j];
  }
}

/* One round: rows, then columns; the columns' sums are gathered while a row is at hand. */
KD_BODY void
scale_round (const KdPlan *p, const double *v, double *u, double *next_v)
{
  int64_t n = p->n;

  memset (p->column, 0, (size_t) n * sizeof (double));
  for (int64_t i = 0; i < n; i++) {
    const double *k = p->k + i * n;
    double sum = 0.0;
#pragma omp simd reduction(+ \
                           : sum)
    for (int64_t j = 0; j < n; j++)
      sum += k[j] * v[j];
    u[i] = sum = 1.0 / sum;
#pragma omp simd
    for (int64_t j = 0; j < n; j++)
      p->column[j] += sum * k[j];
  }
  for (int64_t j = 0; j < n; j++)
    next_v[j] = 1.0 / p->column[j];
}

KD_BODY void
log_round (const KdPlan *p, const double *v, double *u, double *next_v)
{
  int64_t n = p->n;

  for (int64_t j = 0; j < n; j++) {
    p->column[j] = 0.0;
    p->most[j] = -INFINITY;
  }
  for (int64_t i = 0; i < n; i++) {
    const double *k = p->k + i * n;
    double max = -INFINITY, sum = 0.0;
    for (int64_t j = 0; j < n; j++)
      max = k[j] + v[j] > max ? k[j] + v[j] : max;
#pragma omp simd reduction(+ \
                           : sum)
    for (int64_t j = 0; j < n; j++)
      sum += exp_double (k[j] + v[j] - max);
    u[i] = -max - log (sum);
    for (int64_t j = 0; j < n; j++)
      p->most[j] = k[j] + u[i] > p->most[j] ? k[j] + u[i] : p->most[j];
  }
  for (int64_t i = 0; i < n; i++) {
    double of_row = u[i];
#pragma omp simd
    for (int64_t j = 0; j < n; j++)
      p->column[j] += exp_double (p->k[i * n + j] + of_row - p->most[j]);
  }
  for (int64_t j = 0; j < n; j++)
    next_v[j] = -p->most[j] - log (p->column[j]);
}

/* Kernel of the costs and all rounds. */
KD_BODY void
rounds_body (const KdPlan *p)
{
  int64_t n = p->n;
  double factor = -1.0 / p->epsilon;

#pragma omp simd
  for (int64_t i = 0; i < n * n; i++)
    p->k[i] = p->logarithms ? factor * p->w[i] : exp_double (factor * p->w[i]);
  for (int64_t j = 0; j < n; j++)
    p->v[j] = p->logarithms ? 0.0 : 1.0;
  for (int i = 0; i < p->iterations; i++) {
    if (p->logarithms)
      log_round (p, p->v + i * n, p->u + i * n, p->v + (i + 1) * n);
    else
      scale_round (p, p->v + i * n, p->u + i * n, p->v + (i + 1) * n);
  }
}
KD_KERNEL (rounds, (const KdPlan *p), (p))

/* Back through one round. With Q the derivative by the matrix times the matrix itself, a normalisation by sums along an axis takes the sums of Q
 * along it off: Q -= (sums of Q) Y, Y the normalised matrix, which the scalings give again. @p->column: sums of Q's columns, before and after. */
KD_BODY void
scale_back (const KdPlan *p, const double *u, const double *v, const double *next_v, double *q)
{
  int64_t n = p->n;

  for (int64_t j = 0; j < n; j++) {
    p->most[j] = next_v[j] * p->column[j];
    p->column[j] = 0.0;
  }
  for (int64_t i = 0; i < n; i++) {
    const double *k = p->k + i * n;
    double *at = q + i * n, of_row = u[i], sum = 0.0;
#pragma omp simd reduction(+ \
                           : sum)
    for (int64_t j = 0; j < n; j++) {
      at[j] -= of_row * k[j] * p->most[j];
      sum += at[j];
    }
    of_row *= sum;
#pragma omp simd
    for (int64_t j = 0; j < n; j++) {
      at[j] -= of_row * k[j] * v[j];
      p->column[j] += at[j];
    }
  }
}

KD_BODY void
log_back (const KdPlan *p, const double *u, const double *v, const double *next_v, double *q)
{
  int64_t n = p->n;

  memcpy (p->most, p->column, (size_t) n * sizeof (double));
  memset (p->column, 0, (size_t) n * sizeof (double));
  for (int64_t i = 0; i < n; i++) {
    double *at = q + i * n, sum = 0.0;
    plan_row (p, u, next_v, i, p->row);
#pragma omp simd reduction(+ \
                           : sum)
    for (int64_t j = 0; j < n; j++) {
      at[j] -= p->row[j] * p->most[j];
      sum += at[j];
    }
    plan_row (p, u, v, i, p->row);
#pragma omp simd
    for (int64_t j = 0; j < n; j++) {
      at[j] -= p->row[j] * sum;
      p->column[j] += at[j];
    }
  }
}

/* @q comes as P W and leaves as the derivative of sum P W by W: P - Q / epsilon. */
KD_BODY void
adjoint_body (const KdPlan *p, double *q)
{
  int64_t n = p->n;

  memset (p->column, 0, (size_t) n * sizeof (double));
  for (int64_t i = 0; i < n; i++)
    for (int64_t j = 0; j < n; j++)
      p->column[j] += q[i * n + j];
  for (int round = p->iterations - 1; round >= 0; round--) {
    const double *u = p->u + round * n, *v = p->v + round * n;
    if (p->logarithms)
      log_back (p, u, v, v + n, q);
    else
      scale_back (p, u, v, v + n, q);
  }
  for (int64_t i = 0; i < n; i++) {
    plan_row (p, p->u + (p->iterations - 1) * n, p->v + p->iterations * n, i, p->row);
    for (int64_t j = 0; j < n; j++)
      q[i * n + j] = p->row[j] - q[i * n + j] / p->epsilon;
  }
}
KD_KERNEL (adjoint, (const KdPlan *p, double *q), (p, q))

/* P into @ret. */
KD_BODY void
transport_body (const KdPlan *p, double *ret)
{
  for (int64_t i = 0; i < p->n; i++)
    plan_row (p, p->u + (p->iterations - 1) * p->n, p->v + p->iterations * p->n, i, ret + i * p->n);
}
KD_KERNEL (transport, (const KdPlan *p, double *ret), (p, ret))

void
kd_plan_rounds (const KdPlan *p, int level)
{
  rounds[level](p);
}

void
kd_plan_transport (const KdPlan *p, int level, double *ret)
{
  transport[level](p, ret);
}

void
kd_plan_adjoint (const KdPlan *p, int level, double *q)
{
  adjoint[level](p, q);
}
