#include "kd-decoupled.h"
#include "kd-narrow.h"
#include "kd-pair.h"

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

/* Log-sum-exp of x / t over all but @skip; -infinity over nothing. */
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

/* The target's part of a row from the logits of it over the others: log (p_y / (1 - p_y)), of the student and of the teacher. */
typedef struct {
  double value, gap; /* gap: p_y - q_y */
} Target;

static Target
find_target (double odds_s, double odds_t)
{
  double log_p = -log1p (exp (-odds_s)), log_q = -log1p (exp (-odds_t)), log_p_not = -log1p (exp (odds_s)), log_q_not = -log1p (exp (odds_t));

  log_p = odds_s < -700 ? odds_s : log_p;
  log_q = odds_t < -700 ? odds_t : log_q;
  log_p_not = odds_s > 700 ? -odds_s : log_p_not;
  log_q_not = odds_t > 700 ? -odds_t : log_q_not;
  return (Target) { relative (log_q, log_p) + relative (log_q_not, log_p_not), exp (log_p) - exp (log_q) };
}

/* The definition in double: narrow rows, and those with infinite or enormous logits. @scratch: [2 size]. */
static void
exact_row (const KdDecoupled *call, int64_t index, double *scratch)
{
  int64_t size = call->size, label = call->label[index];
  double *s = scratch, *t = scratch + size, inv_t = 1.0 / call->temperature, s_others, t_others, others = 0.0, c = call->coef[index] * call->scale * inv_t;
  float *grad = call->grad ? call->grad + index * size : NULL;
  Target target = { 0.0, 0.0 };

  kd_row_to_double (call->student, KD_REAL_F32, index, size, s);
  kd_row_to_double (call->teacher, call->teacher_type, index, size, t);
  for (int64_t j = 0; j < size; j++)
    if (!isfinite (s[j]) || !isfinite (t[j])) {
      call->target[index] = call->others[index] = NAN;
      return;
    }
  s_others = log_sum (size, s, call->temperature, label);
  t_others = log_sum (size, t, call->temperature, label);
  if (size > 1)
    target = find_target (s[label] * inv_t - s_others, t[label] * inv_t - t_others);
  for (int64_t j = 0; j < size; j++) {
    double log_s = s[j] * inv_t - s_others, log_t = t[j] * inv_t - t_others;
    if (j == label)
      continue;
    if (call->cross_entropy)
      others -= log_t == -INFINITY ? 0.0 : exp (log_t) * log_s;
    else
      others += relative (log_t, log_s);
    s[j] = c * ((call->beta - call->alpha * target.gap) * exp (log_s) - call->beta * exp (log_t));
  }
  call->target[index] = target.value;
  call->others[index] = others;
  s[label] = c * call->alpha * target.gap;
  for (int64_t j = 0; grad && isfinite (target.value) && isfinite (others) && j < size; j++)
    grad[j] += (float) s[j];
}

/* From the scratch into the gradient, from behind; the target's own is @at_label. */
KD_BODY void
last_pass (const KdDecoupled *call, const KdDivergence *rows, int64_t index, const KdPair *row, double a, double b, double at_label, KdPut put)
{
  int64_t last = (call->size - 1) / KD_BLOCK * KD_BLOCK, label = call->label[index];
  float *grad = call->grad + index * call->size, out[KD_BLOCK] __attribute__ ((aligned (64)));

  for (int64_t at = last; at >= 0; at -= KD_BLOCK) {
    int64_t n = kd_block_length (call->size, at), block = at / KD_BLOCK;
    double step_s = kd_table_step (&row->s, block, row->k), step_t = kd_table_step (&row->t, block, row->k);

    kd_pair_gradient (row->s.e + at, row->t.e + at, n, (float) (a * kd_step_factor (step_s) / row->s.z), (float) (b * kd_step_factor (step_t) / row->t.z),
        KD_CROSS_FORWARD, out);
    if (label >= at && label < at + n)
      out[label - at] = (float) at_label;
    kd_put_block (grad + at, out, n, put);
  }
}

/* Whole row; *ret_done is 0 when it needs the exact way (nothing is written then). */
KD_BODY void
row_kind (const KdDecoupled *call, const KdDivergence *rows, int64_t index, KdPair *row, KdPut put, int *ret_done, KdCross kind, KdReal type)
{
  const float *student = call->student + index * call->size;
  const void *teacher = kd_row_of (call->teacher, type, index, call->size);
  int64_t label = call->label[index];
  double inv_t = 1.0 / call->temperature, c = call->coef[index] * call->scale * inv_t, s_others, t_others, others;
  Target target;

  *ret_done = 0;
  kd_pair_read (row, rows, student, teacher, -FLT_MAX, -FLT_MAX, kind, 0, type, label);
  s_others = row->s.reference * inv_t + log (row->s.z);
  t_others = row->t.reference * inv_t + log (row->t.z);
  others = KD_LN2 * row->cross / row->t.z + log (row->s.z) - (kind == KD_CROSS_STUDENT ? 0.0 : log (row->t.z));
  target = find_target (student[label] * inv_t - s_others, kd_load_value (teacher, type, label) * inv_t - t_others);
  if (!isfinite (others) || !isfinite (target.value) || !isfinite (s_others) || !isfinite (t_others))
    return;
  if (row->s.reference <= 0.5f * KD_SKIPPED || row->t.reference <= 0.5f * KD_SKIPPED || (others < KD_SMALL && kind == KD_CROSS_STUDENT))
    return;
  if (others < KD_SMALL)
    others = kd_pair_small (rows, student, teacher, row, 0, type, label);
  *ret_done = 1;
  call->target[index] = target.value;
  call->others[index] = others;
  if (call->grad)
    last_pass (call, rows, index, row, c * (call->beta - call->alpha * target.gap), c * call->beta, c * call->alpha * target.gap, put);
}

KD_BODY void
row_fast_body (const KdDecoupled *call, const KdDivergence *rows, int64_t index, KdPair *row, KdPut put, int *ret_done)
{
  if (call->cross_entropy)
    row_kind (call, rows, index, row, put, ret_done, KD_CROSS_STUDENT, call->teacher_type);
  else if (call->teacher_type == KD_REAL_F32)
    row_kind (call, rows, index, row, put, ret_done, KD_CROSS_FORWARD, KD_REAL_F32);
  else
    row_kind (call, rows, index, row, put, ret_done, KD_CROSS_FORWARD, call->teacher_type);
}

KD_KERNEL (row_fast, (const KdDecoupled *call, const KdDivergence *rows, int64_t index, KdPair *row, KdPut put, int *ret_done),
    (call, rows, index, row, put, ret_done))

static void
decoupled_row (const KdDecoupled *call, const KdDivergence *rows, int64_t index, KdPair *row, KdPut put, int level)
{
  int done = 0;

  call->target[index] = call->others[index] = 0.0;
  if (call->coef[index] != 0.0 && call->size > KD_NARROW)
    row_fast[level](call, rows, index, row, put, &done);
  if (done)
    return;
  kd_put_nothing (call->grad ? call->grad + index * call->size : NULL, call->size, put);
  if (call->coef[index] != 0.0)
    exact_row (call, index, (double *) row->s.e);
}

void
kd_decoupled_rows (const KdDecoupled *call)
{
  int level = kd_kernel_level (call->level);
  int64_t floats = kd_pair_floats (call->size), exact = 4 * call->size;
  KdPut put = kd_put_kind (call->fresh, call->n, call->size);
  KdDivergence rows = { .n = call->n, .size = call->size, .student = call->student, .teacher = call->teacher, .teacher_type = call->teacher_type };

#pragma omp parallel if (call->n > 1 && call->n * call->size >= KD_PARALLEL_ELEMENTS)
  {
    float *scratch = kd_scratch_new (floats > exact ? floats : exact);
    KdPair row;

    kd_pair_init (&row, scratch, call->size, call->temperature, level);
#pragma omp for schedule(static)
    for (int64_t i = 0; i < call->n; i++)
      decoupled_row (call, &rows, i, &row, put, level);
    kd_put_end (put);
    free (scratch);
  }
}
