/* Plackett-Luce: the likelihood of a ranking as a chain of choices, each among what is left. */
#pragma once
#include "kd-reduce.h"

/** kd_plackett_luce_scratch: doubles that kd_plackett_luce_row needs beside its arguments. */
#define kd_plackett_luce_scratch(n) (2 * (n))

/**
 * kd_plackett_luce_row: sum_k w_k (LSE_k - s_k), in nats, of @n scores that stand in the order of the ranking.
 * LSE_k is the log-sum-exp over the places from k on (what is left to choose from) or, with @prefix, over those up to k: the chain of the
 * reversed ranking.
 *
 * @score: [n], finite
 * @weight: [n] from 0, or NULL: all 1
 * @grad: [n] to fill with the derivative by each score, or NULL: sum over k <= j of w_k e^(s_j - LSE_k), minus w_j; its sum is 0
 * @scratch: kd_plackett_luce_scratch (n) doubles
 *
 * Two scans and an exponential a place; scores further apart than e^600 take a scan in logarithms.
 */
KD_API double kd_plackett_luce_row (int64_t n, const double *score, const double *weight, int prefix, double *grad, double *scratch);

/** KdSortKey: an id under a key; what kd_rank_descending works on. */
typedef uint64_t KdSortKey;

/**
 * kd_rank_descending: ids of @value [n] (float32 of any size, no NaN) from the largest to the smallest, of equal values the lower id first
 * (-0 equals 0). @skip: an id to leave out, or -1.
 * @keys: scratch [2 n]; the ids are the low 32 bits of the result (@n or n - 1 of them), which is somewhere in @keys.
 */
KD_API const KdSortKey *kd_rank_descending (int64_t n, const float *value, int64_t skip, KdSortKey *keys);

typedef enum {
  KD_CHOICE_TEACHER, /* softmax (teacher / temperature) of the class chosen at k */
  KD_CHOICE_UNIFORM, /* 1 / size */
  KD_CHOICE_DECAY,   /* decay^(k - 1), divided by their sum */
  KD_CHOICE_FIRST,   /* 1, 0, 0 ...: cross-entropy */
} KdChoiceWeight;

/**
 * KdPlackettLuce: one call, over @n rows of @size logits. Ranking of a row: the label, then the other classes by falling teacher logit, or with
 * @by_class by rising number.
 * @student: float32 [n, size]; @teacher: [n, size] of @teacher_type
 * @label: [n], in [0, size) on counted rows
 * @coef: [n]; a row with 0 is neither read nor written
 * @temperature, @decay: of the weights
 * @scale: the gradient is that of sum (coef x scale x value)
 * @grad: float32 [n, size] to add to, or NULL
 * @value: [n] nats; 0 where coef is 0, NaN where a logit is not finite
 * @tail: [n] weight of all choices but the first, or NULL
 */
typedef struct {
  int64_t n, size;
  const float *student;
  const void *teacher;
  KdReal teacher_type;
  const int64_t *label;
  const double *coef;
  KdChoiceWeight weighting;
  int by_class;
  double temperature, decay, scale;
  float *grad;
  double *value, *tail;
} KdPlackettLuce;

/** kd_plackett_luce_rows: fill @value and @tail, add to @grad. Sorting is a radix sort: linear in @size. Rows in parallel, same bits for any
 * number of threads; about 50 bytes of scratch a class and thread. */
KD_API void kd_plackett_luce_rows (const KdPlackettLuce *call);
