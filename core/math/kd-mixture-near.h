/* Internal to kd-mixture.c: a row's value as a sum of terms that are small where the distributions are near. */
#pragma once
#include "kd-measure.h"
#include "kd-pair.h"

/* What the loops need of a measure, in float32. */
typedef struct {
  float c_p, a, c_q, b, drop;
} Coefs;

/* KL (w || (1 - share) w + share w e^v), where e^v = other / w, as a sum of
 * terms that are small where the distributions are near: w (y - log (1 + y))
 * with y = share (e^v - 1). */
KD_BODY float
near_term (float w, float other, float v, float share)
{
  float series = 1.0f / 5040, y, far;

  series = series * v + 1.0f / 720;
  series = series * v + 1.0f / 120;
  series = series * v + 1.0f / 24;
  series = series * v + 1.0f / 6;
  series = series * v + 1.0f / 2;
  y = share * (v + v * v * series);
  far = 1.0f + share * (other / (w > FLT_MIN ? w : FLT_MIN) - 1.0f);
  far = far > FLT_MIN ? far : FLT_MIN;
  far = share * (other - w) - w * (share == 1.0f ? v : kd_logf (far));
  return fabsf (v) < 0.34f ? w * kd_log1p_rest (y) : far;
}

KD_BODY float
block_near (const float *s, const float *t, int64_t n,
    const KdPair *row, KdMeasureShape shape, const Coefs *c)
{
  float max_s = row->s.reference, max_t = row->t.reference, k = row->k,
        log_z = (float) (log (row->s.z) - log (row->t.z));
  float f_s = (float) (1.0 / row->s.z), f_t = (float) (1.0 / row->t.z),
        sum = 0.0f;

#pragma omp simd reduction(+ \
                           : sum)
  for (int64_t i = 0; i < n; i++) {
    float y_s = (s[i] - max_s) * k, y_t = (t[i] - max_t) * k,
          q = f_s * kd_exp2f (y_s), p = f_t * kd_exp2f (y_t);
    float u = (y_s - y_t) * (float) KD_LN2 - log_z, term = 0.0f;
    if (shape != KD_MEASURE_SKEW_Q)
      term += c->c_p * near_term (p, q, u, c->a);
    if (shape != KD_MEASURE_SKEW_P)
      term += c->c_q * near_term (q, p, -u, c->b);
    sum += term;
  }
  return sum;
}

/* A block's part of the teacher's entropy, log (top + rest) - cross / (top +
 * rest): the largest entries are counted, not summed with the others, so that a
 * sure teacher keeps its small part. */
KD_BODY void
block_entropy (const float *t, int64_t n, float max, float k,
    double *top, double *rest, double *cross)
{
  float n_top = 0.0f, z = 0.0f, sum = 0.0f;

#pragma omp simd reduction(+ \
                           : n_top, z, sum)
  for (int64_t i = 0; i < n; i++) {
    float y = (t[i] - max) * k, e = kd_exp2f (y);
    n_top += y < 0.0f ? 0.0f : 1.0f;
    z += y < 0.0f ? e : 0.0f;
    sum += e * y;
  }
  *top += n_top;
  *rest += z;
  *cross += KD_LN2 * sum;
}

/* The teacher's entropy where it is small: relative to its largest logit. */
KD_BODY double
small_entropy (const KdDivergence *call, const void *teacher,
    const KdPair *row, KdReal type)
{
  float buffer[KD_BLOCK] __attribute__ ((aligned (64))), max = -FLT_MAX;
  double top = 0.0, rest = 0.0, cross = 0.0;

  for (int64_t at = 0; at < call->size; at += KD_BLOCK) {
    int64_t n = kd_block_length (call->size, at);
    float block = kd_block_top (kd_load_block (teacher, type, at, n, buffer), n);
    max = block > max ? block : max;
  }
  for (int64_t at = 0; at < call->size; at += KD_BLOCK) {
    int64_t n = kd_block_length (call->size, at);
    block_entropy (kd_load_block (teacher, type, at, n, buffer), n, max, row->k,
        &top, &rest, &cross);
  }
  return log (top) + log1p (rest / top) - cross / (top + rest);
}

/* The value again, when it is small. */
KD_BODY double
near_pass (const KdDivergence *call, const float *student,
    const void *teacher, const KdPair *row, KdReal type,
    KdMeasureShape shape, const Coefs *c, int drop)
{
  float buffer[KD_BLOCK] __attribute__ ((aligned (64)));
  double value = drop ? c->drop * small_entropy (call, teacher, row, type) : 0.0;

  for (int64_t at = 0; at < call->size; at += KD_BLOCK) {
    int64_t n = kd_block_length (call->size, at);
    value +=
        block_near (student + at, kd_load_block (teacher, type, at, n, buffer), n,
            row, shape, c);
  }
  return value;
}
