#include "kd-kernel.h"
#include <stdlib.h>

static int
machine_level (void)
{
#if defined(__x86_64__)
  if (__builtin_cpu_supports ("avx512f") && __builtin_cpu_supports ("avx512bw") && __builtin_cpu_supports ("avx512cd") &&
      __builtin_cpu_supports ("avx512dq") && __builtin_cpu_supports ("avx512vl"))
    return 4;
  if (__builtin_cpu_supports ("avx2") && __builtin_cpu_supports ("fma") && __builtin_cpu_supports ("bmi2"))
    return 3;
  if (__builtin_cpu_supports ("sse4.2"))
    return 2;
#endif
  return 1;
}

int
kd_cpu_level (void)
{
  const char *asked = getenv ("KD_CPU_LEVEL");
  int have = machine_level (), level = asked ? atoi (asked) : 0;

  return level > 0 && level < have ? level : have;
}

/* Neumaier's compensated sum: in order, and exact enough for millions of rows. */
double
kd_rows_sum (int64_t n, const double *coef, const double *value)
{
  double sum = 0.0, lost = 0.0;

  for (int64_t i = 0; i < n; i++) {
    double x = coef ? coef[i] : 1.0, next;

    if (x == 0.0)
      continue;
    x *= value[i];
    next = sum + x;
    if (isfinite (next))
      lost += fabs (sum) >= fabs (x) ? (sum - next) + x : (x - next) + sum;
    sum = next;
  }
  return sum + lost;
}

KD_BODY void
vec_exp_body (int64_t n, const float *in, float *out)
{
#pragma omp simd
  for (int64_t i = 0; i < n; i++)
    out[i] = kd_expf (in[i]);
}

KD_BODY void
vec_log_body (int64_t n, const float *in, float *out)
{
#pragma omp simd
  for (int64_t i = 0; i < n; i++)
    out[i] = kd_logf (in[i]);
}

KD_KERNEL (vec_exp, (int64_t n, const float *in, float *out), (n, in, out))
KD_KERNEL (vec_log, (int64_t n, const float *in, float *out), (n, in, out))

void
kd_vec_exp (int64_t n, const float *in, float *out)
{
  vec_exp[kd_cpu_level ()](n, in, out);
}

void
kd_vec_log (int64_t n, const float *in, float *out)
{
  vec_log[kd_cpu_level ()](n, in, out);
}
