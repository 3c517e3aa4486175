#include "kd-sinkhorn.h"
#include "kd-sinkhorn-private.h"

/* Kernels of a smaller epsilon are kept as logarithms: exp (-2 / 0.02) and what it is multiplied by stay normal doubles. */
#define LOG_EPSILON 0.02
/* Doubles of a row that are worked on at once. */
#define COLUMNS 256
/* Doubles of a gradient that stay in registers. */
#define CHUNK 32

/* The points of a problem; @wide: in float32 instead. */
typedef struct {
  int64_t n, size;
  double *x, *y;
  KdWidePoints wide;
} Points;

/* Softmax of a row of logits divided by the temperature, in place; 0 when there is none. */
KD_BODY void
softmax_body (double *x, int64_t size, double inv_t, int *ret_ok)
{
  double max = -INFINITY, sum = 0.0;
  int bad = 0;

#pragma omp simd reduction(max                \
                           : max) reduction(| \
                                            : bad)
  for (int64_t v = 0; v < size; v++) {
    max = x[v] > max ? x[v] : max;
    bad |= x[v] != x[v];
  }
  *ret_ok = !bad && isfinite (max);
  if (!*ret_ok)
    return;
#pragma omp simd reduction(+ \
                           : sum)
  for (int64_t v = 0; v < size; v++) {
    x[v] = exp_double ((x[v] - max) * inv_t);
    sum += x[v];
  }
#pragma omp simd
  for (int64_t v = 0; v < size; v++)
    x[v] /= sum;
}
KD_KERNEL (softmax, (double *x, int64_t size, double inv_t, int *ret_ok), (x, size, inv_t, ret_ok))

/* Costs of the rows [first, last) of x. Each number comes from one loop of the same shape, whatever the tile. */
KD_BODY void
cost_body (const Points *points, int64_t first, int64_t last, double *w)
{
  int64_t n = points->n, size = points->size;

  memset (w + first * n, 0, (size_t) (last - first) * (size_t) n * sizeof *w);
  for (int64_t at = 0; at < size; at += COLUMNS) {
    int64_t m = size - at < COLUMNS ? size - at : COLUMNS;
    for (int64_t j = 0; j < n; j++)
      for (int64_t i = first; i < last; i += KD_SINKHORN_GROUP) {
        const double *y = points->y + j * size + at, *x[KD_SINKHORN_GROUP];
        double s0 = 0.0, s1 = 0.0, s2 = 0.0, s3 = 0.0, s[KD_SINKHORN_GROUP];
        for (int64_t g = 0; g < KD_SINKHORN_GROUP; g++)
          x[g] = points->x + (i + g < last ? i + g : i) * size + at;
#pragma omp simd reduction(+ \
                           : s0, s1, s2, s3)
        for (int64_t v = 0; v < m; v++) {
          s0 += fabs (x[0][v] - y[v]);
          s1 += fabs (x[1][v] - y[v]);
          s2 += fabs (x[2][v] - y[v]);
          s3 += fabs (x[3][v] - y[v]);
        }
        s[0] = s0, s[1] = s1, s[2] = s2, s[3] = s3;
        for (int64_t g = 0; g < KD_SINKHORN_GROUP && i + g < last; g++)
          w[(i + g) * n + j] += s[g];
      }
  }
}
KD_KERNEL (cost, (const Points *points, int64_t first, int64_t last, double *w), (points, first, last, w))

KD_BODY double
signed_weight (double d, double w)
{
  return d > 0.0 ? w : d < 0.0 ? -w
                               : 0.0;
}

/* @dx [last - first, size]: sum_j of wbar_ij sign (x_i - y_j). A chunk of a row stays in registers while j runs. */
KD_BODY void
slope_body (const Points *points, int64_t first, int64_t last, const double *wbar, double *dx)
{
  int64_t n = points->n, size = points->size, at = 0;

  for (; at + CHUNK <= size; at += CHUNK)
    for (int64_t i = first; i < last; i++) {
      const double *x = points->x + i * size + at;
      double sum[CHUNK] = { 0.0 };
      for (int64_t j = 0; j < n; j++) {
        const double *y = points->y + j * size + at;
        double weight = wbar[i * n + j];
#pragma omp simd
        for (int64_t v = 0; v < CHUNK; v++)
          sum[v] += signed_weight (x[v] - y[v], weight);
      }
      memcpy (dx + (i - first) * size + at, sum, sizeof sum);
    }
  for (int64_t i = first; i < last; i++) {
    double *d = dx + (i - first) * size;
    memset (d + at, 0, (size_t) (size - at) * sizeof *d);
    for (int64_t j = 0; j < n; j++)
      for (int64_t v = at; v < size; v++)
        d[v] += signed_weight (points->x[i * size + v] - points->y[j * size + v], wbar[i * n + j]);
  }
}
KD_KERNEL (slope, (const Points *points, int64_t first, int64_t last, const double *wbar, double *dx), (points, first, last, wbar, dx))

static double *
doubles_new (int64_t n)
{
  double *memory = malloc ((size_t) (n > 0 ? n : 1) * sizeof *memory);

  if (!memory)
    abort (); /* as GLib does */
  return memory;
}

static void
load_row (const void *table, KdReal type, int64_t row, int64_t size, double *ret)
{
  const void *from = kd_row_of (table, type, row, size);

  for (int64_t v = 0; v < size; v++)
    ret[v] = kd_load_value (from, type, v);
}

/* Both softmaxes; 0 when a row has none. */
static int
load_points (const KdSinkhorn *call, const Points *points, int level)
{
  int bad = 0;

#pragma omp parallel for schedule(static) reduction(| \
                                                    : bad) if (call->n * call->size >= KD_PARALLEL_ELEMENTS / 4)
  for (int64_t i = 0; i < 2 * call->n; i++) {
    double *to = i < call->n ? points->x + i * call->size : points->y + (i - call->n) * call->size;
    int ok;
    if (i < call->n)
      load_row (call->student, KD_REAL_F32, call->row[i], call->size, to);
    else
      load_row (call->teacher, call->teacher_type, call->row[i - call->n], call->size, to);
    softmax[level](to, call->size, 1.0 / call->temperature, &ok);
    bad |= !ok;
  }
  return !bad;
}

static void
find_costs (const Points *points, double *w, int level)
{
  int64_t n = points->n, tile = kd_sinkhorn_tile (n);

#pragma omp parallel for schedule(dynamic) if (n * n * points->size >= KD_PARALLEL_ELEMENTS)
  for (int64_t i = 0; i < n; i += tile)
    cost[level](points, i, i + tile < n ? i + tile : n, w);
}

/* Through the softmax: (scale / T) x (dx - sum x dx). */
static void
add_gradient (const KdSinkhorn *call, const Points *points, const double *wbar, int level)
{
  int64_t n = points->n, size = points->size, tile = kd_sinkhorn_tile (n);

#pragma omp parallel if (n * n * size >= KD_PARALLEL_ELEMENTS)
  {
    double *dx = doubles_new (tile * size);

#pragma omp for schedule(dynamic)
    for (int64_t first = 0; first < n; first += tile) {
      int64_t last = first + tile < n ? first + tile : n;
      slope[level](points, first, last, wbar, dx);
      for (int64_t i = first; i < last; i++) {
        const double *x = points->x + i * size, *d = dx + (i - first) * size;
        float *to = call->grad + call->row[i] * size;
        double mean = 0.0;
        for (int64_t v = 0; v < size; v++)
          mean += x[v] * d[v];
        for (int64_t v = 0; v < size; v++)
          to[v] += (float) (call->scale / call->temperature * x[v] * (d[v] - mean));
      }
    }
    free (dx);
  }
}

static double
solve (const KdSinkhorn *call, const Points *points, const KdPlan *p, double *q, int level)
{
  int64_t cells = p->n * p->n;
  double value = 0.0;

  if (points->wide.x)
    kd_sinkhorn_wide_costs (call, &points->wide, p->w, level);
  else
    find_costs (points, p->w, level);
  kd_plan_rounds (p, level);
  kd_plan_transport (p, level, q);
  if (call->plan)
    memcpy (call->plan, q, (size_t) cells * sizeof *q);
  for (int64_t i = 0; i < cells; i++)
    value += q[i] * p->w[i];
  if (!call->grad)
    return value;
  for (int64_t i = 0; !call->envelope && i < cells; i++)
    q[i] *= p->w[i];
  if (!call->envelope)
    kd_plan_adjoint (p, level, q);
  if (points->wide.x)
    kd_sinkhorn_wide_gradient (call, &points->wide, q, level);
  else
    add_gradient (call, points, q, level);
  return value;
}

/* Memory for the points, then the points themselves; FALSE when a row has none. */
static int
points_init (const KdSinkhorn *call, Points *points, int level)
{
  *points = (Points) { .n = call->n, .size = call->size };
  if (call->size >= KD_SINKHORN_WIDE && call->epsilon >= LOG_EPSILON)
    return kd_sinkhorn_wide_init (call, &points->wide, level);
  points->x = doubles_new (2 * call->n * call->size);
  points->y = points->x + call->n * call->size;
  return load_points (call, points, level);
}

double
kd_sinkhorn (const KdSinkhorn *call)
{
  int64_t n = call->n, cells = n * n;
  int level = kd_kernel_level (call->level);
  double *memory, value = NAN;
  Points points;
  KdPlan p = { .n = n, .iterations = call->iterations, .logarithms = call->epsilon < LOG_EPSILON, .epsilon = call->epsilon };

  if (n == 0)
    return 0.0;
  memory = doubles_new (3 * cells + (2 * call->iterations + 1 + 3) * n);
  p.w = memory;
  p.k = p.w + cells;
  p.u = p.k + 2 * cells;
  p.v = p.u + call->iterations * n;
  p.row = p.v + (call->iterations + 1) * n;
  p.column = p.row + n;
  p.most = p.column + n;
  if (points_init (call, &points, level))
    value = solve (call, &points, &p, p.k + cells, level);
  free (points.x);
  kd_sinkhorn_wide_clear (&points.wide);
  free (memory);
  return value;
}
