/* SGD and AdamW on the flat buffers, with the formulas of torch.optim, and the gradients' norm.
 * Work is cut into chunks of fixed size, so that neither a value nor a sum depends on the number of threads. */
#include "kd-params-private.h"

#include <math.h>
#include <string.h>

/* Nobody reads errno here, and with it set sqrtf could not be vectorised. */
#pragma GCC optimize("no-math-errno")

#define CHUNK 4096
/* Below this many numbers starting threads costs more than the loop. */
#define PARALLEL_MIN ((gsize) 1 << 16)

typedef struct {
  gfloat *restrict value;
  gfloat *restrict grad;
  gfloat *restrict moment1;
  gfloat *restrict moment2;
  gsize n;
  gfloat decay; /* sgd: added times the value; adamw: factor of the value */
} Span;

static void
sgd (const KdStep *step, const Span *s)
{
  gfloat lr = (gfloat) step->learning_rate, scale = (gfloat) step->grad_scale;

#pragma omp simd
  for (gsize i = 0; i < s->n; i++) {
    s->value[i] -= lr * (scale * s->grad[i] + s->decay * s->value[i]);
    s->grad[i] = 0.0f;
  }
}

/* torch starts the buffer with the first gradient; zero times momentum plus the gradient is the same number. */
static void
sgd_momentum (const KdStep *step, const Span *s)
{
  gfloat lr = (gfloat) step->learning_rate, scale = (gfloat) step->grad_scale, momentum = (gfloat) step->momentum;
  gfloat ahead = step->nesterov ? momentum : 1.0f, direct = step->nesterov ? 1.0f : 0.0f;

#pragma omp simd
  for (gsize i = 0; i < s->n; i++) {
    gfloat g = scale * s->grad[i] + s->decay * s->value[i];
    s->moment1[i] = momentum * s->moment1[i] + g;
    s->value[i] -= lr * (direct * g + ahead * s->moment1[i]);
    s->grad[i] = 0.0f;
  }
}

static void
adamw (const KdStep *step, const Span *s)
{
  gfloat b1 = (gfloat) step->beta1, b2 = (gfloat) step->beta2, scale = (gfloat) step->grad_scale;
  gfloat c1 = (gfloat) (1.0 - step->beta1), c2 = (gfloat) (1.0 - step->beta2);
  gdouble t = (gdouble) MAX (step->step, 1);
  gfloat size = (gfloat) (step->learning_rate / (1.0 - pow (step->beta1, t)));
  gfloat root = (gfloat) sqrt (1.0 - pow (step->beta2, t)), epsilon = (gfloat) step->epsilon;

#pragma omp simd
  for (gsize i = 0; i < s->n; i++) {
    gfloat g = scale * s->grad[i];
    gfloat m = b1 * s->moment1[i] + c1 * g;
    gfloat v = b2 * s->moment2[i] + c2 * g * g;
    s->moment1[i] = m;
    s->moment2[i] = v;
    s->value[i] = s->value[i] * s->decay - size * (m / (sqrtf (v) / root + epsilon));
    s->grad[i] = 0.0f;
  }
}

static Span
span_at (const KdParamSet *set, gsize offset, gsize n, gfloat decay)
{
  Span span = { .value = set->values + offset, .grad = set->grads + offset, .n = n, .decay = decay };

  span.moment1 = set->moment[0] ? set->moment[0] + offset : NULL;
  span.moment2 = set->moment[1] ? set->moment[1] + offset : NULL;
  return span;
}

void
kd_param_set_step (KdParamSet *set, const KdStep *step)
{
  gboolean is_adamw = step->optimizer == KD_OPTIMIZER_ADAMW;
  void (*update) (const KdStep *, const Span *) = is_adamw ? adamw : step->momentum != 0.0 ? sgd_momentum
                                                                                           : sgd;

  g_return_if_fail (set->frozen);
  _kd_param_set_ensure (set, &set->grads);
  if (update != sgd)
    _kd_param_set_ensure (set, &set->moment[0]);
  if (is_adamw)
    _kd_param_set_ensure (set, &set->moment[1]);
  for (guint p = 0; p < set->entries->len; p++) {
    const KdParamInfo *info = kd_param_set_nth (set, p);
    gdouble weight_decay = info->decay ? step->weight_decay : 0.0;
    gfloat decay = (gfloat) (is_adamw ? 1.0 - step->learning_rate * weight_decay : weight_decay);

    if (!info->trainable)
      continue;
#pragma omp parallel for schedule(static) if (info->n >= PARALLEL_MIN)
    for (gsize first = 0; first < info->n; first += CHUNK) {
      Span span = span_at (set, info->offset + first, MIN (CHUNK, info->n - first), decay);
      update (step, &span);
    }
  }
}

static gdouble
sum_of_squares (const gfloat *values, gsize n)
{
  gdouble sum = 0.0;

#pragma omp simd reduction(+ \
                           : sum)
  for (gsize i = 0; i < n; i++)
    sum += (gdouble) values[i] * (gdouble) values[i];
  return sum;
}

gdouble
kd_param_set_grad_norm2 (const KdParamSet *set)
{
  gsize n = set->n_flat_trainable, n_chunks = (n + CHUNK - 1) / CHUNK;
  g_autofree gdouble *part = g_new (gdouble, MAX (n_chunks, 1));
  gdouble sum = 0.0;

  if (!set->grads)
    return 0.0;
#pragma omp parallel for schedule(static) if (n >= PARALLEL_MIN)
  for (gsize c = 0; c < n_chunks; c++)
    part[c] = sum_of_squares (set->grads + c * CHUNK, MIN (CHUNK, n - c * CHUNK));
  for (gsize c = 0; c < n_chunks; c++)
    sum += part[c];
  return sum;
}
