#include "kd-squared.h"
#include "kd-kernel.h"

KD_BODY void
row_kind (const KdSquared *call, int64_t row, double *ret_value, KdReal type)
{
  const float *student = call->student + row * call->size;
  const void *teacher = kd_row_of (call->teacher, type, row, call->size);
  float *grad = call->grad ? call->grad + row * call->size : NULL, buffer[KD_BLOCK] __attribute__ ((aligned (64)));
  double mean = 0.0, value = 0.0, c = 2.0 * call->coef[row] * call->scale;

  /* the difference of the means is the mean of the differences, and the gradient of what is centred is centred by itself */
  for (int pass = call->center ? 0 : 1; pass < 2; pass++) {
    double sum = 0.0;
    for (int64_t at = 0; at < call->size; at += KD_BLOCK) {
      int64_t n = call->size - at < KD_BLOCK ? call->size - at : KD_BLOCK;
      const float *s = student + at, *t = kd_load_block (teacher, type, at, n, buffer);
      double block = 0.0;
#pragma omp simd reduction(+ \
                           : block)
      for (int64_t i = 0; i < n; i++) {
        double d = (double) s[i] - (double) t[i] - mean;
        block += pass ? d * d : d;
        if (pass && grad)
          grad[at + i] += (float) (c * d);
      }
      sum += block;
    }
    if (pass)
      value = sum;
    else
      mean = sum / (double) call->size;
  }
  *ret_value = value;
}

KD_BODY void
row_fast_body (const KdSquared *call, int64_t row, double *ret_value)
{
  if (call->teacher_type == KD_REAL_F32)
    row_kind (call, row, ret_value, KD_REAL_F32);
  else
    row_kind (call, row, ret_value, call->teacher_type);
}

KD_KERNEL (row_fast, (const KdSquared *call, int64_t row, double *ret_value), (call, row, ret_value))

void
kd_squared_rows (const KdSquared *call)
{
  int level = kd_kernel_level (call->level);

#pragma omp parallel for schedule(static) if (call->n > 1 && call->n * call->size >= KD_PARALLEL_ELEMENTS)
  for (int64_t row = 0; row < call->n; row++) {
    double value = 0.0;
    if (call->coef[row] != 0.0)
      row_fast[level](call, row, &value);
    call->value[row] = value;
  }
}
