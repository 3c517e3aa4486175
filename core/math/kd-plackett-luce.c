#include "kd-plackett-luce.h"
#include "kd-kernel.h"

#include <stdlib.h>

/* Scores further apart than this could not share one reference: e^-600, and what is divided by it, stay normal doubles. */
#define SHARED_RANGE 600.0
/* Keys below which an insertion sort is faster than counting digits. */
#define INSERTION_SIZE 48
/* Few keys are sorted by small digits: counters of a large one would cost more than the keys. */
#define SMALL_DIGIT 8
#define LARGE_DIGIT 11
#define LARGE_SIZE 2048

/* log (e^a + e^b); -infinity is nothing. */
static double
log_add (double a, double b)
{
  double max = a > b ? a : b;

  return max == -INFINITY ? max : max + log1p (exp (-fabs (a - b)));
}

static double
weight_of (const double *weight, int64_t i)
{
  return weight ? weight[i] : 1.0;
}

/* Everything relative to the largest score: e_j = exp (s_j - max), left_k = sum of e from k on, sigma_k (j) = e_j / left_k. */
static double
row_shared (int64_t n, const double *score, const double *weight, int64_t first, int64_t step, double max, double *grad, double *scratch)
{
  double *e = scratch, *left = scratch + n, sum = 0.0, chosen = 0.0, value = 0.0;

  for (int64_t k = n - 1; k >= 0; k--) {
    e[k] = exp (score[first + step * k] - max);
    left[k] = sum += e[k];
  }
  for (int64_t k = 0; k < n; k++) {
    int64_t i = first + step * k;
    double w = weight_of (weight, i);
    if (w > 0.0) {
      value += k < n - 1 ? w * (log (left[k]) - (score[i] - max)) : 0.0; /* the last choice is none */
      chosen += w / left[k];
    }
    if (grad)
      grad[i] = e[k] * chosen - w;
  }
  return value;
}

/* The same in logarithms. */
static double
row_logarithms (int64_t n, const double *score, const double *weight, int64_t first, int64_t step, double *grad, double *scratch)
{
  double *left = scratch, sum = -INFINITY, chosen = -INFINITY, value = 0.0;

  for (int64_t k = n - 1; k >= 0; k--)
    left[k] = sum = log_add (sum, score[first + step * k]);
  for (int64_t k = 0; k < n; k++) {
    int64_t i = first + step * k;
    double w = weight_of (weight, i);
    if (w > 0.0) {
      value += w * (left[k] - score[i]);
      chosen = log_add (chosen, log (w) - left[k]);
    }
    if (grad)
      grad[i] = exp (score[i] + chosen) - w;
  }
  return value;
}

double
kd_plackett_luce_row (int64_t n, const double *score, const double *weight, int prefix, double *grad, double *scratch)
{
  int64_t first = prefix ? n - 1 : 0, step = prefix ? -1 : 1;
  double max = -INFINITY, min = INFINITY;

  for (int64_t i = 0; i < n; i++) {
    max = score[i] > max ? score[i] : max;
    min = score[i] < min ? score[i] : min;
  }
  if (max - min <= SHARED_RANGE)
    return row_shared (n, score, weight, first, step, max, grad, scratch);
  return row_logarithms (n, score, weight, first, step, grad, scratch);
}

/* Bits whose order as unsigned numbers is the falling order of the values. */
static uint32_t
falling_bits (float value)
{
  uint32_t bits = kd_as_bits (value + 0.0f); /* -0 becomes 0 */

  return bits & 0x80000000u ? bits : ~(bits | 0x80000000u);
}

static void
insertion_sort (int64_t n, KdSortKey *keys)
{
  for (int64_t i = 1; i < n; i++) {
    KdSortKey key = keys[i];
    int64_t j = i;
    for (; j > 0 && keys[j - 1] > key; j--)
      keys[j] = keys[j - 1];
    keys[j] = key;
  }
}

/* By the @bits at @shift, keeping the order of equal ones; returns where the result is: @from where all have the same digit. */
static KdSortKey *
sort_digit (int64_t n, KdSortKey *from, KdSortKey *to, int shift, int bits)
{
  uint32_t at[1 << LARGE_DIGIT], sum = 0, last = (1u << bits) - 1;

  memset (at, 0, (last + 1) * sizeof *at);
  for (int64_t i = 0; i < n; i++)
    at[from[i] >> shift & last]++;
  if (at[from[0] >> shift & last] == (uint32_t) n)
    return from;
  for (uint32_t i = 0; i <= last; i++) {
    uint32_t count = at[i];
    at[i] = sum;
    sum += count;
  }
  for (int64_t i = 0; i < n; i++)
    to[at[from[i] >> shift & last]++] = from[i];
  return to;
}

const KdSortKey *
kd_rank_descending (int64_t n, const float *value, int64_t skip, KdSortKey *keys)
{
  KdSortKey *other = keys + n, *now = keys;
  int bits = n < LARGE_SIZE ? SMALL_DIGIT : LARGE_DIGIT;
  int64_t count = 0;

  for (int64_t i = 0; i < n; i++) {
    keys[count] = (KdSortKey) falling_bits (value[i]) << 32 | (KdSortKey) i;
    count += i != skip;
  }
  if (count <= INSERTION_SIZE) {
    insertion_sort (count, keys);
    return keys;
  }
  for (int shift = 32; shift < 64; shift += bits) {
    KdSortKey *next = sort_digit (count, now, now == keys ? other : keys, shift, bits);
    now = next;
  }
  return now;
}

/* One thread's scratch. */
typedef struct {
  float *teacher;
  double *score, *weight, *grad, *scan;
  KdSortKey *keys;
} Scratch;

static void *
scratch_new (int64_t size, Scratch *ret)
{
  double *memory = malloc ((size_t) size * (3 + 2 + 2 + 1) * sizeof (double));

  if (!memory)
    abort (); /* as GLib does */
  ret->score = memory;
  ret->weight = memory + size;
  ret->grad = memory + 2 * size;
  ret->scan = memory + 3 * size;
  ret->keys = (KdSortKey *) (memory + 5 * size);
  ret->teacher = (float *) (memory + 7 * size);
  return memory;
}

static int
load_finite (const KdPlackettLuce *call, int64_t row, Scratch *scratch)
{
  const void *from = kd_row_of (call->teacher, call->teacher_type, row, call->size);
  const float *student = call->student + row * call->size, *teacher = kd_load_block (from, call->teacher_type, 0, call->size, scratch->teacher);
  int bad = 0;

  if (teacher != scratch->teacher)
    memcpy (scratch->teacher, teacher, (size_t) call->size * sizeof *teacher);
  for (int64_t i = 0; i < call->size; i++)
    bad |= !isfinite (student[i]) | !isfinite (scratch->teacher[i]);
  return !bad;
}

/* The place @k of the ranking: the label, then the sorted others. */
static int64_t
ranked (int64_t label, const KdSortKey *others, int64_t k)
{
  return k == 0 ? label : (int64_t) (uint32_t) others[k - 1];
}

/* Teacher's probabilities in the order of the ranking; returns what all but the first have. */
static double
teacher_weights (const KdPlackettLuce *call, int64_t label, const KdSortKey *others, Scratch *scratch)
{
  const float *t = scratch->teacher;
  double *w = scratch->weight, max = -INFINITY, sum = 0.0, rest = 0.0;

  for (int64_t i = 0; i < call->size; i++)
    max = t[i] > max ? t[i] : max;
  for (int64_t k = 0; k < call->size; k++)
    w[k] = exp ((t[ranked (label, others, k)] - max) / call->temperature);
  for (int64_t k = call->size - 1; k > 0; k--)
    rest += w[k];
  sum = rest + w[0];
  for (int64_t k = 0; k < call->size; k++)
    w[k] /= sum;
  return rest / sum;
}

/* The other classes by their number. */
static const KdSortKey *
by_class (int64_t size, int64_t label, KdSortKey *keys)
{
  int64_t count = 0;

  for (int64_t i = 0; i < size; i++) {
    keys[count] = (KdSortKey) i;
    count += i != label;
  }
  return keys;
}

static void
do_row (const KdPlackettLuce *call, int64_t row, const double *fixed, Scratch *scratch)
{
  const float *student = call->student + row * call->size;
  double tail = fixed ? 1.0 - fixed[0] : 0.0, factor = call->coef[row] * call->scale;
  int64_t label = call->label[row];
  const KdSortKey *others;

  if (!load_finite (call, row, scratch)) {
    call->value[row] = NAN;
    return;
  }
  others = call->by_class ? by_class (call->size, label, scratch->keys) : kd_rank_descending (call->size, scratch->teacher, label, scratch->keys);
  for (int64_t k = 0; k < call->size; k++)
    scratch->score[k] = student[ranked (label, others, k)];
  if (!fixed)
    tail = teacher_weights (call, label, others, scratch);
  if (call->tail)
    call->tail[row] = tail;
  call->value[row] = kd_plackett_luce_row (call->size, scratch->score, fixed ? fixed : scratch->weight, 0, call->grad ? scratch->grad : NULL, scratch->scan);
  for (int64_t k = 0; call->grad && k < call->size; k++)
    call->grad[row * call->size + ranked (label, others, k)] += (float) (factor * scratch->grad[k]);
}

/* Weights that are the same for all rows; NULL for the teacher's. */
static double *
fixed_weights (const KdPlackettLuce *call)
{
  double *weight, next = 1.0, sum = 0.0;

  if (call->weighting == KD_CHOICE_TEACHER)
    return NULL;
  weight = calloc ((size_t) call->size, sizeof *weight);
  if (!weight)
    abort ();
  for (int64_t k = 0; k < call->size; k++) {
    weight[k] = next;
    sum += next;
    next = call->weighting == KD_CHOICE_UNIFORM ? 1.0 : call->weighting == KD_CHOICE_DECAY ? next * call->decay
                                                                                           : 0.0;
  }
  for (int64_t k = 0; k < call->size; k++)
    weight[k] /= sum;
  return weight;
}

void
kd_plackett_luce_rows (const KdPlackettLuce *call)
{
  double *fixed = fixed_weights (call);

#pragma omp parallel if (call->n > 1 && call->n * call->size >= KD_PARALLEL_ELEMENTS / 8)
  {
    Scratch scratch;
    void *memory = scratch_new (call->size, &scratch);

#pragma omp for schedule(dynamic, 4)
    for (int64_t row = 0; row < call->n; row++) {
      call->value[row] = 0.0;
      if (call->tail)
        call->tail[row] = 0.0;
      if (call->coef[row] != 0.0)
        do_row (call, row, fixed, &scratch);
    }
    free (memory);
  }
  free (fixed);
}
