/* Divergences from a teacher of which only some ids are known: its top k, ids drawn from it, or the top k of a dense one. Nothing of the
 * vocabulary's size is made: a row costs one pass over the student's logits and one that writes its gradient. */
#pragma once
#include "kd-divergence.h"

/** KdSparseForm: what @values are. */
typedef enum {
  KD_SPARSE_TOPK,    /* log-probabilities at cache_temperature */
  KD_SPARSE_SAMPLED, /* weights, whose mean is p: forward KL only */
  KD_SPARSE_ONLINE,  /* none: the ids come from dense.teacher (or dense.student) */
} KdSparseForm;

/** KdSparseTail: what becomes of the teacher's probability outside of its ids; rest = 1 - sum of the known. */
typedef enum {
  KD_TAIL_RENORM,   /* left out: the known ones sum to 1 */
  KD_TAIL_TRUNCATE, /* left out: the known ones stay as they are and sum to less than 1 */
  KD_TAIL_BUCKET,   /* all other ids are counted as one outcome */
  KD_TAIL_UNIFORM,  /* spread evenly over all other ids */
  KD_TAIL_LABEL,    /* given to the label; lost without one */
} KdSparseTail;

/** KdSupportSource: whose largest entries make the support of KD_SPARSE_ONLINE. */
typedef enum { KD_SUPPORT_TEACHER,
  KD_SUPPORT_STUDENT,
  KD_SUPPORT_UNION } KdSupportSource;

/** KdSparseProblem: why a row was refused. */
typedef enum {
  KD_SPARSE_FINE,
  KD_SPARSE_BAD_ID,      /* id >= size or < -1 */
  KD_SPARSE_DUPLICATE,   /* an id twice */
  KD_SPARSE_BAD_LOGPROB, /* NaN or > 1e-4 */
  KD_SPARSE_BAD_SUM,     /* probabilities sum to more than 1 + 1e-3 */
  KD_SPARSE_BAD_WEIGHT,  /* NaN, infinite or negative */
  KD_SPARSE_INFINITE,    /* the divergence is: p = 0 where q > 0 */
} KdSparseProblem;

/**
 * KdSparse: one call.
 * @dense: kind and its parameters, n, size, student, coef, temperature, scale, cross_entropy, reject_infinite, grad, fresh, value, level; teacher
 *   and teacher_type for KD_SPARSE_ONLINE only
 * @temperatures: [n] in place of dense.temperature, or NULL
 * @k: ids a row; KD_SPARSE_ONLINE: of each source, at most size are used
 * @ids: [n, k] int64 or, with @ids_are_32, int32; -1 is padding, in any place
 * @values: [n, k], see KdSparseForm; not read at padding
 * @restricted: outcomes are the known ids alone, teacher and student both as if there were no others (truncate keeps its sum)
 * @cache_temperature: of the log-probabilities; at another temperature T they are multiplied by cache_temperature / T, rest taken as one
 *   id with probability rest, and all normalised (as DistillKit does); truncate leaves them as they are
 * @tail_eps: rest up to this is 0
 * @normalize: KD_SPARSE_SAMPLED: divide the weights by their sum
 * @label: KD_TAIL_LABEL: int64 [n]; ids outside of the vocabulary: none
 * @problem: [n] KdSparseProblem; a row that has one has value 0 and no gradient
 */
typedef struct {
  KdDivergence dense;
  const double *temperatures;
  KdSparseForm form;
  KdSparseTail tail;
  KdSupportSource source;
  int64_t k;
  const void *ids;
  int ids_are_32;
  const float *values;
  int restricted;
  double cache_temperature, tail_eps;
  int normalize;
  const int64_t *label;
  uint8_t *problem;
} KdSparse;

/**
 * kd_sparse_rows: fill dense.value and @problem and add to dense.grad. Rows in parallel; the same bits for any number of threads. A thread's
 * scratch is one row of float32 (two for KD_TAIL_UNIFORM) and a few arrays of the ids.
 * An id whose logit or log-probability is -infinity adds nothing and gets no gradient, as in kd_divergence_rows.
 */
KD_API void kd_sparse_rows (const KdSparse *call);

/** kd_sparse_is_infinite: whether the divergence of such a call is infinite whatever the rows hold: reverse KL, with p = 0 outside. */
KD_API int kd_sparse_is_infinite (const KdSparse *call);

/** kd_divergence_each: kd_divergence_rows with a temperature for each row, [n]. */
KD_API void kd_divergence_each (const KdDivergence *call, const double *temperatures);
