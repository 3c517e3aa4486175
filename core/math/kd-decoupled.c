#include "kd-decoupled.h"
#include "kd-kernel.h"

#include <math.h>

void
kd_row_to_double (const void *table, KdReal type, int64_t row, int64_t size, double *ret)
{
  float buffer[KD_BLOCK] __attribute__ ((aligned (64)));
  const void *from = kd_row_of (table, type, row, size);

  for (int64_t at = 0; at < size; at += KD_BLOCK) {
    int64_t n = size - at < KD_BLOCK ? size - at : KD_BLOCK;
    const float *block = kd_load_block (from, type, at, n, buffer);
    for (int64_t i = 0; i < n; i++)
      ret[at + i] = block[i];
  }
}

/* Log-sum-exp of x / t over all but @skip (-1: over all); -infinity over nothing. */
static double
log_sum (int64_t size, const double *x, double t, int64_t skip)
{
  double max = -INFINITY, sum = 0;

  for (int64_t j = 0; j < size; j++)
    if (j != skip && x[j] / t > max)
      max = x[j] / t;
  if (max == -INFINITY)
    return max;
  for (int64_t j = 0; j < size; j++)
    if (j != skip)
      sum += exp (x[j] / t - max);
  return max + log (sum);
}

/* a log (a / b) from logarithms; 0 for a = 0. */
static double
relative (double log_a, double log_b)
{
  return log_a == -INFINITY ? 0 : exp (log_a) * (log_a - log_b);
}

void
kd_decoupled_row (int64_t size, const double *student, const double *teacher, int64_t label, double temperature, KdDecoupled *ret)
{
  double s_all = log_sum (size, student, temperature, -1), t_all = log_sum (size, teacher, temperature, -1);
  double s_others = log_sum (size, student, temperature, label), t_others = log_sum (size, teacher, temperature, label);
  double log_p = student[label] / temperature - s_all, log_q = teacher[label] / temperature - t_all;

  ret->p_target = exp (log_p);
  ret->q_target = exp (log_q);
  ret->student_others = s_others;
  ret->teacher_others = t_others;
  ret->target = ret->others = ret->others_cross = 0;
  if (size < 2)
    return;
  ret->target = relative (log_q, log_p) + relative (t_others - t_all, s_others - s_all);
  for (int64_t j = 0; j < size; j++) {
    double log_s = student[j] / temperature - s_others, log_t = teacher[j] / temperature - t_others;
    if (j == label)
      continue;
    ret->others += relative (log_t, log_s);
    ret->others_cross -= log_t == -INFINITY ? 0 : exp (log_t) * log_s;
  }
}
