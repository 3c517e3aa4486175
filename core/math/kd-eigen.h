/* Eigenvalues and eigenvectors of a symmetric matrix, in double, by LAPACK. */
#pragma once
#include "kd-reduce.h"

/**
 * kd_eigen_symmetric: all of a symmetric matrix.
 * @matrix: [n, n]; its lower triangle is read; replaced by the eigenvectors, one a row, of length 1, the one with the largest value first. Of
 *   each the entry of largest magnitude (the first of equals) is positive.
 * @ret_values: [n], descending
 *
 * 0, or not 0 when it does not converge (a matrix with NaN). Vectors of equal values are any basis of their space, and the last bits
 * are those of the machine's LAPACK. n^3 operations, memory n^2.
 */
KD_API int kd_eigen_symmetric (int64_t n, double *matrix, double *ret_values);
