/* Sinkhorn's points, costs and gradient for wide rows, in float32: sums of a block in lanes, of blocks in double. */
#include "kd-memory.h"
#include "kd-sinkhorn-private.h"
#include "kd-softmax.h"
#include <omp.h>

/* Floats of a row on which costs are worked at once, so that four rows of each side stay in the first level. */
#define COLUMNS 1024
/* Costs below it are summed again as differences: what two rows share, taken from what they have, is 1e-7 off, and of equal rows not 0. */
#define COST_SMALL 0.1

static float *
floats_new (int64_t n)
{
  float *memory = kd_memory_new ((size_t) n * sizeof *memory);

  if (!memory)
    abort (); /* as GLib does */
  return memory;
}

KD_BODY void
row_sum_body (const float *x, int64_t stride, double *ret)
{
  double sum = 0.0;

#pragma omp simd reduction(+ \
                           : sum)
  for (int64_t v = 0; v < stride; v++)
    sum += x[v];
  *ret = sum;
}
KD_KERNEL (row_sum, (const float *x, int64_t stride, double *ret), (x, stride, ret))

int
kd_sinkhorn_wide_init (const KdSinkhorn *call, KdWidePoints *points, int level)
{
  int64_t n = call->n, size = call->size, stride = (size + KD_WIDE_CHUNK - 1) / KD_WIDE_CHUNK * KD_WIDE_CHUNK;
  int bad = 0;

  points->stride = stride;
  points->x = kd_memory_borrow ((size_t) (2 * n * stride + 8 * n) * sizeof (float));
  if (!points->x)
    abort (); /* as GLib does */
  points->y = points->x + n * stride;
  points->sum = (double *) (points->y + n * stride);
  points->lse = points->sum + 2 * n;
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
        .level = level });
    memset (points->x + i * stride + size, 0, (size_t) (stride - size) * sizeof (float));
    row_sum[level](points->x + i * stride, stride, points->sum + i);
    bad |= !isfinite (points->lse[i]);
  }
  return !bad;
}

void
kd_sinkhorn_wide_clear (KdWidePoints *points)
{
  kd_memory_give_back (points->x);
}

/* Adds to @ret, whose rows are @width apart, the sums over [at, at + m) of the rows from @i of x, below @last, and from @j of y. */
static void
add_tile (const KdWidePoints *points, int64_t i, int64_t last, int64_t j, int64_t n, int64_t at, int64_t m, KdPairSums loop, double *ret, int64_t width)
{
  const float *x[4], *y[4];
  float sum[4][4];

  for (int64_t g = 0; g < 4; g++) {
    x[g] = points->x + (i + g < last ? i + g : i) * points->stride + at;
    y[g] = points->y + (j + g < n ? j + g : j) * points->stride + at;
  }
  loop (x, y, m, sum);
  for (int64_t a = 0; a < 4 && i + a < last; a++)
    for (int64_t b = 0; b < 4 && j + b < n; b++)
      ret[a * width + b] += sum[a][b];
}

/* What four rows share becomes their costs. */
static void
finish_tile (const KdWidePoints *points, int64_t i, int64_t last, int64_t j, int64_t n, double *w, const KdSinkhornLoops *loops)
{
  int64_t stride = points->stride;
  double exact[16] = { 0.0 };
  int small = 0;

  for (int64_t a = 0; a < 4 && i + a < last; a++)
    for (int64_t b = 0; b < 4 && j + b < n; b++) {
      w[a * n + b] = points->sum[i + a] + points->sum[n + j + b] - 2.0 * w[a * n + b];
      small |= w[a * n + b] < COST_SMALL;
    }
  for (int64_t at = 0; small && at < stride; at += COLUMNS)
    add_tile (points, i, last, j, n, at, stride - at < COLUMNS ? stride - at : COLUMNS, loops->difference, exact, 4);
  for (int64_t a = 0; small && a < 4 && i + a < last; a++)
    for (int64_t b = 0; b < 4 && j + b < n; b++)
      if (w[a * n + b] < COST_SMALL)
        w[a * n + b] = exact[4 * a + b];
}

/* Costs of the rows [first, last) of x; each number comes from the same sums, whatever the tile. */
static void
tile_costs (const KdWidePoints *points, int64_t first, int64_t last, int64_t n, double *w, const KdSinkhornLoops *loops)
{
  int64_t stride = points->stride;

  memset (w + first * n, 0, (size_t) (last - first) * (size_t) n * sizeof *w);
  for (int64_t at = 0; at < stride; at += COLUMNS)
    for (int64_t i = first; i < last; i += 4)
      for (int64_t j = 0; j < n; j += 4)
        add_tile (points, i, last, j, n, at, stride - at < COLUMNS ? stride - at : COLUMNS, loops->shared, w + i * n + j, n);
  for (int64_t i = first; i < last; i += 4)
    for (int64_t j = 0; j < n; j += 4)
      finish_tile (points, i, last, j, n, w + i * n + j, loops);
}

void
kd_sinkhorn_wide_costs (const KdSinkhorn *call, const KdWidePoints *points, double *w, int level)
{
  int64_t n = call->n, tile = (n / (2 * omp_get_max_threads ()) + 3) / 4 * 4;

  tile = tile > 4 ? tile : 4;
#pragma omp parallel for schedule(dynamic) if (n * n * call->size >= KD_PARALLEL_ELEMENTS)
  for (int64_t i = 0; i < n; i += tile)
    tile_costs (points, i, i + tile < n ? i + tile : n, n, w, &kd_sinkhorn_loops[level]);
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

/* x - y + KD_WIDE_NEAR in steps of float32, which lie in the order of their bits. */
KD_BODY uint32_t
steps_between (float x, float y)
{
  return kd_as_bits (x) + KD_WIDE_NEAR - kd_as_bits (y);
}

static int
any_near (const float *x, const float *y)
{
  int near = 0;

#pragma omp simd reduction(| \
                           : near)
  for (int64_t v = 0; v < KD_WIDE_CHUNK; v++)
    near |= steps_between (x[v], y[v]) <= 2 * KD_WIDE_NEAR;
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
    for (int64_t v = 0; v < KD_WIDE_CHUNK; v++) {
      uint32_t steps = steps_between (x[v], y[v]);
      if (x[v] > 0.0f && steps <= 2 * KD_WIDE_NEAR)
        sum[v] += slope->weight[i * n + j] * (exact_sign (slope, i, j, at + v) - (steps >> 31 ? -1.0f : 1.0f));
    }
  }
}

/* @dx [n, stride] at a chunk: sum_j of weight_ij sign (x_i - y_j). It takes the place of y, whose chunk is not needed any more. */
static void
chunk_slopes (const Slope *slope, int64_t at, const KdSinkhornLoops *loops)
{
  const KdWidePoints *points = slope->points;
  int64_t n = slope->call->n, stride = points->stride;

  for (int64_t j = 0; j < n; j++)
    memcpy (slope->y + j * KD_WIDE_CHUNK, points->y + j * stride + at, KD_WIDE_CHUNK * sizeof (float));
  for (int64_t i = 0; i < n; i++) {
    float *dx = points->y + i * stride + at;
    if (loops->slope (n, points->x + i * stride + at, slope->y, slope->weight + i * n, dx))
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
