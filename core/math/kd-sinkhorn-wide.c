/* Sinkhorn's points, costs and gradient for wide rows, in float32: sums of a block in lanes, of blocks in double. */
#include "kd-memory.h"
#include "kd-sinkhorn-private.h"
#include "kd-softmax.h"

/* Floats of a gradient that stay in registers; floats of a row on which costs are worked at once, so that a tile stays in the first level. */
#define CHUNK 64
#define COLUMNS 512

static float *
floats_new (int64_t n)
{
  float *memory = kd_memory_new ((size_t) n * sizeof *memory);

  if (!memory)
    abort (); /* as GLib does */
  return memory;
}

int
kd_sinkhorn_wide_init (const KdSinkhorn *call, KdWidePoints *points)
{
  int64_t n = call->n, size = call->size;
  int bad = 0;

  points->x = floats_new (2 * n * size);
  points->y = points->x + n * size;
  points->lse = (double *) floats_new (4 * n);
#pragma omp parallel for schedule(static) reduction(| \
                                                    : bad)
  for (int64_t i = 0; i < 2 * n; i++) {
    int student = i < n;
    kd_softmax_rows (&(KdSoftmax) {
        .n = 1,
        .size = size,
        .logits = student ? (const void *) (call->student + call->row[i] * size) : kd_row_of (call->teacher, call->teacher_type, call->row[i - n], size),
        .type = student ? KD_REAL_F32 : call->teacher_type,
        .temperature = call->temperature,
        .lse = points->lse + i,
        .probability = points->x + i * size,
        .level = call->level });
    bad |= !isfinite (points->lse[i]);
  }
  return !bad;
}

void
kd_sinkhorn_wide_clear (KdWidePoints *points)
{
  free (points->x);
  free (points->lse);
}

/* Costs of the rows [first, last) of x. */
KD_BODY void
cost_body (int64_t n, int64_t size, const KdWidePoints *points, int64_t first, int64_t last, double *w)
{
  memset (w + first * n, 0, (size_t) (last - first) * (size_t) n * sizeof *w);
  for (int64_t at = 0; at < size; at += COLUMNS) {
    int64_t m = size - at < COLUMNS ? size - at : COLUMNS;
    for (int64_t i = first; i < last; i += KD_SINKHORN_GROUP)
      for (int64_t j = 0; j < n; j++) {
        const float *y = points->y + j * size + at, *x[KD_SINKHORN_GROUP];
        float s0 = 0.0f, s1 = 0.0f, s2 = 0.0f, s3 = 0.0f, s[KD_SINKHORN_GROUP];
        for (int64_t g = 0; g < KD_SINKHORN_GROUP; g++)
          x[g] = points->x + (i + g < last ? i + g : i) * size + at;
#pragma omp simd reduction(+ \
                           : s0, s1, s2, s3)
        for (int64_t v = 0; v < m; v++) {
          s0 += fabsf (x[0][v] - y[v]);
          s1 += fabsf (x[1][v] - y[v]);
          s2 += fabsf (x[2][v] - y[v]);
          s3 += fabsf (x[3][v] - y[v]);
        }
        s[0] = s0, s[1] = s1, s[2] = s2, s[3] = s3;
        for (int64_t g = 0; g < KD_SINKHORN_GROUP && i + g < last; g++)
          w[(i + g) * n + j] += s[g];
      }
  }
}
KD_KERNEL (cost, (int64_t n, int64_t size, const KdWidePoints *points, int64_t first, int64_t last, double *w), (n, size, points, first, last, w))

void
kd_sinkhorn_wide_costs (const KdSinkhorn *call, const KdWidePoints *points, double *w, int level)
{
  int64_t n = call->n, size = call->size, tile = kd_sinkhorn_tile (n);

#pragma omp parallel for schedule(dynamic) if (n * n * size >= KD_PARALLEL_ELEMENTS)
  for (int64_t i = 0; i < n; i += tile)
    cost[level](n, size, points, i, i + tile < n ? i + tile : n, w);
}

/* Probabilities nearer to each other than this, relative to one of them, may stand in the other order once they are rounded. */
#define NEAR 1e-6f

/* Some rows' gradients under way. @weight: [n, n]; @y: [n, CHUNK] of the piece at hand, side by side; @dx: [rows, size]. */
typedef struct {
  const KdSinkhorn *call;
  const KdWidePoints *points;
  const float *weight;
  float *y, *dx;
} Slope;

/* sign (x_iv - y_jv) of the logits, in double. */
static float
exact_sign (const Slope *slope, int64_t i, int64_t j, int64_t v)
{
  const KdSinkhorn *call = slope->call;
  const void *teacher = kd_row_of (call->teacher, call->teacher_type, call->row[j], call->size);
  double log_x = call->student[call->row[i] * call->size + v] / call->temperature - slope->points->lse[i];
  double log_y = kd_load_value (teacher, call->teacher_type, v) / call->temperature - slope->points->lse[call->n + j];

  return log_x > log_y ? 1.0f : log_x < log_y ? -1.0f
                                              : 0.0f;
}

/* Bits of |d|: their order is that of the numbers. */
KD_BODY uint32_t
size_bits (float d)
{
  return kd_as_bits (d) & 0x7fffffffu;
}

KD_BODY int
any_near (const float *x, const float *y, int64_t m)
{
  int near = 0;

#pragma omp simd reduction(| \
                           : near)
  for (int64_t v = 0; v < m; v++)
    near |= size_bits (x[v] - y[v]) < kd_as_bits (NEAR * x[v]);
  return near;
}

/* Mends the pieces of row @i's sum whose signs are not sure. */
KD_BODY void
mend_near (const Slope *slope, int64_t i, int64_t at, int64_t m, float *sum)
{
  int64_t n = slope->call->n;
  const float *x = slope->points->x + i * slope->call->size + at;

  for (int64_t j = 0; j < n; j++) {
    const float *y = slope->y + j * CHUNK;
    if (!any_near (x, y, m))
      continue;
    for (int64_t v = 0; v < m; v++)
      if (fabsf (x[v] - y[v]) < NEAR * x[v])
        sum[v] += slope->weight[i * n + j] * (exact_sign (slope, i, j, at + v) - (signbit (x[v] - y[v]) ? -1.0f : 1.0f));
  }
}

/* @m values from @at on of row @i: sum_j of weight_ij sign (x - y_j), in registers when @m is a constant. Where x is 0 it does not matter. */
KD_BODY void
slope_piece (const Slope *slope, int64_t i, int64_t at, int64_t m, float *restrict dx)
{
  int64_t n = slope->call->n;
  const float *x = slope->points->x + i * slope->call->size + at, *weight = slope->weight + i * n;
  float sum[CHUNK] = { 0.0f };
  uint32_t nearest[CHUNK];
  int near = 0;

  memset (nearest, 0xff, sizeof nearest);
  for (int64_t j = 0; j < n; j++) {
    const float *y = slope->y + j * CHUNK;
    uint32_t w = kd_as_bits (weight[j]);
#pragma omp simd
    for (int64_t v = 0; v < m; v++) {
      float d = x[v] - y[v];
      nearest[v] = size_bits (d) < nearest[v] ? size_bits (d) : nearest[v];
      sum[v] += kd_as_float (w ^ (kd_as_bits (d) & 0x80000000u));
    }
  }
  for (int64_t v = 0; v < m; v++)
    near |= nearest[v] < kd_as_bits (NEAR * x[v]);
  if (near)
    mend_near (slope, i, at, m, sum);
  memcpy (dx + at, sum, (size_t) m * sizeof *sum);
}

/* Through the softmax: c x (dx - sum x dx). */
KD_BODY void
add_row (const float *x, const float *dx, int64_t size, double c, float *restrict grad)
{
  double mean = 0.0;

  for (int64_t at = 0; at < size; at += KD_BLOCK) {
    int64_t m = size - at < KD_BLOCK ? size - at : KD_BLOCK;
    float sum = 0.0f;
#pragma omp simd reduction(+ \
                           : sum)
    for (int64_t v = at; v < at + m; v++)
      sum += x[v] * dx[v];
    mean += sum;
  }
#pragma omp simd
  for (int64_t v = 0; v < size; v++)
    grad[v] += (float) c * x[v] * (dx[v] - (float) mean);
}

/* The rows [first, last). */
KD_BODY void
gradient_body (const Slope *slope, int64_t first, int64_t last)
{
  const KdSinkhorn *call = slope->call;
  int64_t n = call->n, size = call->size;

  for (int64_t at = 0; at < size; at += CHUNK) {
    int64_t m = size - at < CHUNK ? size - at : CHUNK;
    for (int64_t j = 0; j < n; j++)
      memcpy (slope->y + j * CHUNK, slope->points->y + j * size + at, (size_t) m * sizeof (float));
    for (int64_t i = first; i < last; i++) {
      float *dx = slope->dx + (i - first) * size;
      if (m == CHUNK)
        slope_piece (slope, i, at, CHUNK, dx);
      else
        slope_piece (slope, i, at, m, dx);
    }
  }
  for (int64_t i = first; i < last; i++)
    add_row (slope->points->x + i * size, slope->dx + (i - first) * size, size, call->scale / call->temperature, call->grad + call->row[i] * size);
}
KD_KERNEL (gradient, (const Slope *slope, int64_t first, int64_t last), (slope, first, last))

void
kd_sinkhorn_wide_gradient (const KdSinkhorn *call, const KdWidePoints *points, const double *wbar, int level)
{
  int64_t n = call->n, size = call->size, tile = kd_sinkhorn_tile (n);
  float *weight = floats_new (n * n);

  for (int64_t i = 0; i < n * n; i++)
    weight[i] = (float) wbar[i];
#pragma omp parallel if (n * n * size >= KD_PARALLEL_ELEMENTS)
  {
    float *memory = floats_new (n * CHUNK + tile * size);
    Slope slope = { call, points, weight, memory, memory + n * CHUNK };

#pragma omp for schedule(dynamic)
    for (int64_t first = 0; first < n; first += tile)
      gradient[level](&slope, first, first + tile < n ? first + tile : n);
    free (memory);
  }
  free (weight);
}
