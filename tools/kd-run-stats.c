/* Means, deviations and the paired difference with its t interval. */
#include "kd-recipe.h"
#include <math.h>

/* Continued fraction of the incomplete beta function (Lentz). */
static gdouble
kd_beta_fraction (gdouble a, gdouble b, gdouble x)
{
  gdouble c = 1, d = 1 / (1 - (a + b) * x / (a + 1)), h = d;

  for (guint m = 1; m < 300; m++) {
    gdouble even = m * (b - m) * x / ((a + 2 * m - 1) * (a + 2 * m));
    gdouble odd = -(a + m) * (a + b + m) * x / ((a + 2 * m) * (a + 2 * m + 1)), step;

    d = 1 / (1 + even * d);
    c = 1 + even / c;
    h *= c * d;
    d = 1 / (1 + odd * d);
    c = 1 + odd / c;
    step = c * d;
    h *= step;
    if (fabs (step - 1) < 1e-14)
      break;
  }
  return h;
}

static gdouble
kd_incomplete_beta (gdouble a, gdouble b, gdouble x)
{
  gdouble front;

  if (x <= 0 || x >= 1)
    return x <= 0 ? 0 : 1;
  if (x > (a + 1) / (a + b + 2)) /* where the fraction converges */
    return 1 - kd_incomplete_beta (b, a, 1 - x);
  front = exp (lgamma (a + b) - lgamma (a) - lgamma (b) + a * log (x) + b * log1p (-x));
  return front * kd_beta_fraction (a, b, x) / a;
}

gdouble
kd_student_quantile (gdouble p, gdouble df)
{
  gdouble low = 0, high = 1e6;

  if (p < 0.5)
    return -kd_student_quantile (1 - p, df);
  for (guint i = 0; i < 200; i++) {
    gdouble t = (low + high) / 2;

    if (1 - 0.5 * kd_incomplete_beta (df / 2, 0.5, df / (df + t * t)) < p)
      low = t;
    else
      high = t;
  }
  return (low + high) / 2;
}

KdMean
kd_result_mean (const gdouble *values, guint n)
{
  KdMean ret = { 0, 0, NAN };
  gdouble squares = 0;

  for (guint i = 0; i < n; i++)
    if (!isnan (values[i])) {
      ret.mean += values[i];
      ret.n++;
    }
  ret.mean = ret.n ? ret.mean / ret.n : NAN;
  for (guint i = 0; i < n; i++)
    if (!isnan (values[i]))
      squares += (values[i] - ret.mean) * (values[i] - ret.mean);
  if (ret.n > 1)
    ret.deviation = sqrt (squares / (ret.n - 1));
  return ret;
}

KdPaired
kd_result_paired (const gdouble *a, const gdouble *b, guint n)
{
  g_autofree gdouble *differences = g_new (gdouble, MAX (n, 1));
  KdMean mean;
  gdouble half;

  for (guint i = 0; i < n; i++)
    differences[i] = b[i] - a[i]; /* NaN where either is missing */
  mean = kd_result_mean (differences, n);
  half = mean.n > 1 ? kd_student_quantile (0.975, mean.n - 1) * mean.deviation / sqrt (mean.n) : NAN;
  return (KdPaired) { mean.n, mean.mean, mean.mean - half, mean.mean + half };
}
