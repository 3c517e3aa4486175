/* Sinkhorn's points, costs and gradient for wide rows, in float32: sums of a block in lanes, of blocks in double. */
#include "kd-memory.h"
#include "kd-sinkhorn-private.h"
#include "kd-softmax.h"
#include <omp.h>

/* Floats of a row on which costs are worked at once, so that four rows of each side stay in the first level. */
#define COLUMNS 1024

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
  int64_t n = call->n, size = call->size, stride = (size + KD_WIDE_CHUNK - 1) / KD_WIDE_CHUNK * KD_WIDE_CHUNK;
  int bad = 0;

  points->stride = stride;
  points->x = floats_new (2 * n * stride);
  points->y = points->x + n * stride;
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
        .probability = points->x + i * stride,
        .level = call->level });
    memset (points->x + i * stride + size, 0, (size_t) (stride - size) * sizeof (float));
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

/* Costs of the rows [first, last) of x; each number comes from the same sums, whatever the tile. */
static void
tile_costs (const KdSinkhorn *call, const KdWidePoints *points, int64_t first, int64_t last, double *w, const KdSinkhornLoops *loops)
{
  int64_t n = call->n, stride = points->stride;

  memset (w + first * n, 0, (size_t) (last - first) * (size_t) n * sizeof *w);
  for (int64_t at = 0; at < stride; at += COLUMNS) {
    int64_t m = stride - at < COLUMNS ? stride - at : COLUMNS;
    for (int64_t i = first; i < last; i += 4)
      for (int64_t j = 0; j < n; j += 4) {
        const float *x[4], *y[4];
        float sum[4][4];
        for (int64_t g = 0; g < 4; g++) {
          x[g] = points->x + (i + g < last ? i + g : i) * stride + at;
          y[g] = points->y + (j + g < n ? j + g : j) * stride + at;
        }
        loops->cost (x, y, m, sum);
        for (int64_t a = 0; a < 4 && i + a < last; a++)
          for (int64_t b = 0; b < 4 && j + b < n; b++)
            w[(i + a) * n + j + b] += sum[a][b];
      }
  }
}

void
kd_sinkhorn_wide_costs (const KdSinkhorn *call, const KdWidePoints *points, double *w, int level)
{
  int64_t n = call->n, tile = (n / (2 * omp_get_max_threads ()) + 3) / 4 * 4;

  tile = tile > 4 ? tile : 4;
#pragma omp parallel for schedule(dynamic) if (n * n * call->size >= KD_PARALLEL_ELEMENTS)
  for (int64_t i = 0; i < n; i += tile)
    tile_costs (call, points, i, i + tile < n ? i + tile : n, w, &kd_sinkhorn_loops[level]);
}

/* The gradient under way. @weight: [n, n]; @y: [n, chunk] of the piece at hand, side by side. */
typedef struct {
  const KdSinkhorn *call;
  const KdWidePoints *points;
  const float *weight;
  float *y;
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

static int
any_near (const float *x, const float *y)
{
  int near = 0;

#pragma omp simd reduction(| \
                           : near)
  for (int64_t v = 0; v < KD_WIDE_CHUNK; v++)
    near |= fabsf (x[v] - y[v]) < KD_WIDE_NEAR * x[v];
  return near;
}

/* Mends the signs of a piece of row @i's sum that are not sure. */
static void
mend_near (const Slope *slope, int64_t i, int64_t at, float *sum)
{
  int64_t n = slope->call->n;
  const float *x = slope->points->x + i * slope->points->stride + at;

  for (int64_t j = 0; j < n; j++) {
    const float *y = slope->y + j * KD_WIDE_CHUNK;
    if (!any_near (x, y))
      continue;
    for (int64_t v = 0; v < KD_WIDE_CHUNK; v++)
      if (fabsf (x[v] - y[v]) < KD_WIDE_NEAR * x[v])
        sum[v] += slope->weight[i * n + j] * (exact_sign (slope, i, j, at + v) - (signbit (x[v] - y[v]) ? -1.0f : 1.0f));
  }
}

/* @dx [n, stride] at a chunk: sum_j of weight_ij sign (x_i - y_j). It takes the place of y, whose chunk is not needed any more. */
static void
chunk_slopes (const Slope *slope, int64_t at, const KdSinkhornLoops *loops)
{
  int64_t n = slope->call->n, stride = slope->points->stride;

  for (int64_t j = 0; j < n; j++)
    memcpy (slope->y + j * KD_WIDE_CHUNK, slope->points->y + j * stride + at, KD_WIDE_CHUNK * sizeof (float));
  for (int64_t i = 0; i < n; i++) {
    float *dx = slope->points->y + i * stride + at;
    if (loops->slope (n, slope->points->x + i * stride + at, slope->y, slope->weight + i * n, dx))
      mend_near (slope, i, at, dx);
  }
}

/* Through the softmax: c x (dx - sum x dx). */
KD_BODY void
add_row_body (const float *x, const float *dx, int64_t size, double c, float *restrict grad)
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
KD_KERNEL (add_row, (const float *x, const float *dx, int64_t size, double c, float *restrict grad), (x, dx, size, c, grad))

void
kd_sinkhorn_wide_gradient (const KdSinkhorn *call, const KdWidePoints *points, const double *wbar, int level)
{
  int64_t n = call->n, stride = points->stride;
  float *weight = floats_new (n * n);

  for (int64_t i = 0; i < n * n; i++)
    weight[i] = (float) wbar[i];
#pragma omp parallel if (n * n * call->size >= KD_PARALLEL_ELEMENTS)
  {
    Slope slope = { call, points, weight, floats_new (n * KD_WIDE_CHUNK) };

#pragma omp for schedule(static)
    for (int64_t at = 0; at < stride; at += KD_WIDE_CHUNK)
      chunk_slopes (&slope, at, &kd_sinkhorn_loops[level]);
#pragma omp for schedule(static)
    for (int64_t i = 0; i < n; i++)
      add_row[level](points->x + i * stride, points->y + i * stride, call->size, call->scale / call->temperature, call->grad + call->row[i] * call->size);
    free (slope.y);
  }
  free (weight);
}
