/* Relations inside a batch, in double: the rows that count gathered into one table, inner products, unit rows. For losses on embeddings. */
#pragma once
#include "kd-reduce.h"

/** KD_NORM_FLOOR: a row shorter than this is taken for zero: its unit row is zero and gets no gradient. */
#define KD_NORM_FLOOR 1e-12

/** kd_gather_rows: the rows of a table [n, @size] of @type with @coef[i] != 0 into @ret [counted, size]; returns how many. @ret NULL: only count. */
KD_API int64_t kd_gather_rows (int64_t n, int64_t size, const void *table, KdReal type, const double *coef, double *ret);
/** kd_scatter_rows: add @scale x @grad [counted, size] to the rows of @to (float32 [n, size]) that count. */
KD_API void kd_scatter_rows (int64_t n, int64_t size, const double *grad, double scale, const double *coef, float *to);
/** kd_inner_products: @ret [n, m] = @a [n, size] times @b [m, size] transposed. */
KD_API void kd_inner_products (int64_t n, int64_t m, int64_t size, const double *a, const double *b, double *ret);
/** kd_unit_rows: each row of @x [n, size] by its length, in place; @ret_norm [n] the lengths (0 where below the floor). */
KD_API void kd_unit_rows (int64_t n, int64_t size, double *x, double *ret_norm);
/** kd_unit_rows_backward: @grad by the unit rows @unit becomes the gradient by the rows themselves, in place; 0 where @norm is. */
KD_API void kd_unit_rows_backward (int64_t n, int64_t size, const double *unit, const double *norm, double *grad);
