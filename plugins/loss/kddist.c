/**
 * SECTION:element-kddist
 * @short_description: distillation from a stronger teacher: correlations inside and between samples
 *
 * Y = softmax (logits / T) [N C] of both; rho (u, v) = <u - mean, v - mean> / (|u - mean| |v - mean| + 1e-8)
 * inter = T^2 (1 - mean over rows of rho (Y_s row, Y_t row)); intra = T^2 (1 - mean over columns of rho (Y_s column, Y_t column))
 * loss = beta inter + gamma intra
 * grad: through rho, then through softmax, dz = Y (dY - sum_c Y dY) / T.
 *
 * ## Fields
 *  - student.logits: float32 [* C], differentiable; teacher.logits: float32, float16 or bfloat16 [* C]
 *  - mask, sample.weight, token.weight: rows that do not count are left out of both terms; inter weighs rows by their coefficient, intra is a
 *    relation inside the batch and takes the rows that count alike
 *  - adds loss.inter, loss.intra
 * ## Units
 * none (correlations). One row: intra is T^2 with no gradient, since a column of one entry has no spread.
 * ## Errors
 * An infinite logit (KD_ERROR_VALUE).
 * ## Source
 * arXiv:2205.10536 equations 6 to 10; hunto/DIST_KD.
 * ## Example
 * |[ kd launch 'kdh5src location=train.h5 ! kdcache location=teacher.h5 ! kdstudent arch="mlp dims=64,16,10" ! kdce ! kddist beta=2 gamma=2 ! kdtrain' ]|
 */
#include <kd/kd.h>

#include <math.h>

#define EPSILON 1e-8

typedef struct {
  gdouble temperature, beta, gamma;
} KdDistParams;

static const KdParam kd_dist_params[] = {
  KD_PARAM_DOUBLE (KdDistParams, temperature, 0.01, 1000.0, 1.0, "Divides both logits; both terms are multiplied by its square"),
  KD_PARAM_DOUBLE (KdDistParams, beta, 0.0, 1e6, 1.0, "Factor of the correlation over a sample's classes"),
  KD_PARAM_DOUBLE (KdDistParams, gamma, 0.0, 1e6, 1.0, "Factor of the correlation over a class's samples"),
  KD_PARAM_END
};

enum { STUDENT,
  TEACHER };
static const KdFieldSpec kd_dist_fields[] = {
  [STUDENT] = { "student.logits", KD_FLOAT32, "* C", KD_FIELD_GRAD },
  [TEACHER] = { "teacher.logits", KD_FLOAT32 | KD_FLOAT16 | KD_BFLOAT16, "* C" },
  KD_FIELD_END
};

enum { INTER,
  INTRA };
static const gchar *const kd_dist_terms[] = { [INTER] = "inter", [INTRA] = "intra", NULL };

static void
softmax (gint64 n, gdouble *x, gdouble temperature)
{
  gdouble max = -INFINITY, sum = 0;

  for (gint64 j = 0; j < n; j++)
    max = fmax (max, x[j]);
  for (gint64 j = 0; j < n; j++)
    sum += x[j] = exp ((x[j] - max) / temperature);
  for (gint64 j = 0; j < n; j++)
    x[j] /= sum;
}

static gdouble
mean_of (gint64 n, gint64 stride, const gdouble *x)
{
  gdouble sum = 0;

  for (gint64 i = 0; i < n; i++)
    sum += x[i * stride];
  return sum / (gdouble) n;
}

/* Correlation of two vectors of @n entries @stride apart; adds @factor times its gradient by @u to @grad. */
static gdouble
correlate (gint64 n, gint64 stride, const gdouble *u, const gdouble *v, gdouble factor, gdouble *grad)
{
  gdouble mu = mean_of (n, stride, u), mv = mean_of (n, stride, v), uu = 0, vv = 0, uv = 0, norm, along, mean = 0;

  for (gint64 i = 0; i < n; i++) {
    gdouble a = u[i * stride] - mu, b = v[i * stride] - mv;
    uu += a * a;
    vv += b * b;
    uv += a * b;
  }
  norm = sqrt (uu) * sqrt (vv) + EPSILON;
  along = uu > 0 ? uv * sqrt (vv) / (sqrt (uu) * norm * norm) : 0;
  for (gint64 i = 0; i < n; i++)
    mean += ((v[i * stride] - mv) / norm - along * (u[i * stride] - mu)) / (gdouble) n;
  for (gint64 i = 0; i < n; i++)
    grad[i * stride] += factor * ((v[i * stride] - mv) / norm - along * (u[i * stride] - mu) - mean);
  return uv / norm;
}

typedef struct {
  gint64 n, size;
  gint64 *row;                       /* rows that count */
  gdouble *student, *teacher, *grad; /* [n, size]: probabilities and the gradient by the student's */
} Tables;

static void
tables_clear (Tables *tables)
{
  g_free (tables->row);
  g_free (tables->student);
  g_free (tables->teacher);
  g_free (tables->grad);
}
G_DEFINE_AUTO_CLEANUP_CLEAR_FUNC (Tables, tables_clear)

/* Probabilities of one row, NaN where a logit is infinite: the base says which. */
static void
probabilities (const KdTensor *logits, gint64 row, gint64 size, gdouble temperature, gdouble *ret)
{
  kd_row_to_double (logits->data, (KdReal) logits->dtype, row, size, ret);
  for (gint64 j = 0; j < size; j++)
    ret[j] = isinf (ret[j]) ? NAN : ret[j];
  softmax (size, ret, temperature);
}

static void
tables_fill (Tables *tables, const KdCall *call)
{
  const KdDistParams *p = call->params;
  const KdRows *rows = kd_call_rows (call);
  gint64 size = tables->size = kd_call_size (call, 'C');

  tables->row = g_new (gint64, MAX (rows->n, 1));
  for (gint64 r = 0; r < rows->n; r++)
    if (rows->coef[r] != 0)
      tables->row[tables->n++] = r;
  tables->student = g_new (gdouble, MAX (tables->n * size, 1));
  tables->teacher = g_new (gdouble, MAX (tables->n * size, 1));
  tables->grad = g_new0 (gdouble, MAX (tables->n * size, 1));
  for (gint64 i = 0; i < tables->n; i++) {
    probabilities (call->in[STUDENT], tables->row[i], size, p->temperature, tables->student + i * size);
    probabilities (call->in[TEACHER], tables->row[i], size, p->temperature, tables->teacher + i * size);
  }
}

/* dY to dz, row by row. */
static void
through_softmax (const Tables *tables, gdouble temperature, gfloat *grad)
{
  for (gint64 i = 0; i < tables->n; i++) {
    const gdouble *y = tables->student + i * tables->size, *dy = tables->grad + i * tables->size;
    gfloat *dz = grad + tables->row[i] * tables->size;
    gdouble sum = 0;
    for (gint64 j = 0; j < tables->size; j++)
      sum += y[j] * dy[j];
    for (gint64 j = 0; j < tables->size; j++)
      dz[j] += (gfloat) (y[j] * (dy[j] - sum) / temperature);
  }
}

static gboolean
kd_dist_evaluate (const KdCall *call, KdLossResult *ret, GError **error)
{
  const KdDistParams *p = call->params;
  const KdRows *rows = kd_call_rows (call);
  gdouble t2 = p->temperature * p->temperature, total = 0, sum = 0;
  g_auto (Tables) tables = { 0 };

  tables_fill (&tables, call);
  for (gint64 i = 0; i < tables.n; i++) {
    gdouble coef = rows->coef[tables.row[i]];
    gint64 at = i * tables.size;
    total += coef;
    ret->term[INTER] += t2 * coef * (1 - correlate (tables.size, 1, tables.student + at, tables.teacher + at, -t2 * coef * p->beta, tables.grad + at));
  }
  for (gint64 j = 0; j < tables.size && tables.n > 0; j++)
    sum += correlate (tables.n, tables.size, tables.student + j, tables.teacher + j, -t2 * total * p->gamma / (gdouble) tables.size, tables.grad + j);
  ret->term[INTRA] = t2 * total * (1 - sum / (gdouble) MAX (tables.size, 1));
  through_softmax (&tables, p->temperature, ret->grad[STUDENT]);
  ret->loss = p->beta * ret->term[INTER] + p->gamma * ret->term[INTRA];
  return TRUE;
}

static const KdLossDesc kd_dist = {
  .name = "kddist",
  .title = "DIST loss",
  .description = "Correlation with the teacher's probabilities, over the classes of a sample and over the samples of a class",
  .source = "arXiv:2205.10536 equations 6 to 10",
  .formula = "loss = beta T^2 (1 - mean_rows rho) + gamma T^2 (1 - mean_columns rho), rho = correlation of softmax (. / T) of student and teacher",
  .units = "none, correlations from -1 to 1; mean over the counted rows and over the classes",
  .fields = kd_dist_fields,
  .params = kd_dist_params,
  .params_size = sizeof (KdDistParams),
  .terms = kd_dist_terms,
  .evaluate = kd_dist_evaluate,
};

KD_LOSS_PLUGIN (kd_dist)
