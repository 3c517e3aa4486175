/* kdlelpfit at the end of the stream: projector, main directions of each class, rotation. */
#include "kdlelpfit.h"

#include <math.h>
#include <string.h>

#define SMALLEST_SINGULAR 1e-6 /* of the largest */

typedef struct {
  const KdLelpFitParams *params;
  const KdLelpFitState *state;
  gint64 n_classes, size, n_sub;
  gint64 rank; /* of the classifier's weights */
  gdouble *projector;
  gdouble *covariance, *scratch; /* [D D] */
  gdouble *values;               /* [D] */
} Fit;

static void
fit_clear (Fit *fit)
{
  g_free (fit->projector);
  g_free (fit->covariance);
  g_free (fit->scratch);
  g_free (fit->values);
}
G_DEFINE_AUTO_CLEANUP_CLEAR_FUNC (Fit, fit_clear)

static gboolean
decompose (gint64 n, gdouble *matrix, gdouble *values, const gchar *what, GError **error)
{
  if (kd_eigen_symmetric (n, matrix, values) == 0)
    return TRUE;
  g_set_error (error, KD_ERROR, KD_ERROR_VALUE, "No eigenvectors: element=kdlelpfit, matrix=%s, size=%" G_GINT64_FORMAT "; its values are not finite or too large", what, n);
  return FALSE;
}

/* I - sum over u of v v^T, v = W^T u / sqrt (l): right singular vectors from the eigenvectors u of W W^T, whose eigenvalues l are squares. */
static gboolean
make_projector (Fit *fit, GError **error)
{
  gint64 n = fit->n_classes, size = fit->size;
  const gfloat *w = fit->state->weight ? fit->state->weight->data : NULL;
  g_autofree gdouble *gram = g_new0 (gdouble, n * n), *squares = g_new (gdouble, n), *v = g_new (gdouble, size);

  for (gint64 i = 0; i < size * size; i++)
    fit->projector[i] = i % (size + 1) == 0;
  if (!fit->params->null_space)
    return TRUE;
  for (gint64 a = 0; a < n; a++)
    for (gint64 b = 0; b < n; b++)
      for (gint64 j = 0; j < size; j++)
        gram[a * n + b] += (gdouble) w[a * size + j] * w[b * size + j];
  if (!decompose (n, gram, squares, "classifier weights", error))
    return FALSE;
  for (gint64 k = 0; k < n && squares[k] > SMALLEST_SINGULAR * SMALLEST_SINGULAR * squares[0]; k++, fit->rank++) {
    for (gint64 j = 0; j < size; j++) {
      v[j] = 0;
      for (gint64 a = 0; a < n; a++)
        v[j] += gram[k * n + a] * w[a * size + j] / sqrt (squares[k]);
    }
    for (gint64 i = 0; i < size; i++)
      for (gint64 j = 0; j < size; j++)
        fit->projector[i * size + j] -= v[i] * v[j];
  }
  return TRUE;
}

static gboolean
check_rows (const Fit *fit, GError **error)
{
  for (gint64 c = 0; c < fit->n_classes; c++)
    if (fit->state->count[c] < fit->n_sub + 1) {
      g_set_error (error, KD_ERROR, KD_ERROR_VALUE, "Too few rows: element=kdlelpfit, class=%" G_GINT64_FORMAT ", rows=%" G_GINT64_FORMAT ", wanted=%" G_GINT64_FORMAT " or more; give more data or fewer subclasses",
          c, fit->state->count[c], fit->n_sub + 1);
      return FALSE;
    }
  if (fit->size - fit->rank < fit->n_sub) {
    g_set_error (error, KD_ERROR, KD_ERROR_RANGE, "Too few directions: element=kdlelpfit, width=%" G_GINT64_FORMAT ", rank of the classifier=%" G_GINT64_FORMAT ", subclasses=%" G_GINT64_FORMAT "; give fewer subclasses or null-space=false",
        fit->size, fit->rank, fit->n_sub);
    return FALSE;
  }
  return TRUE;
}

/* ret = a b of [D D]; b symmetric. */
static void
multiply (gint64 size, const gdouble *a, const gdouble *b, gdouble *ret)
{
  for (gint64 i = 0; i < size; i++)
    for (gint64 j = 0; j < size; j++) {
      gdouble sum = 0;
      for (gint64 k = 0; k < size; k++)
        sum += a[i * size + k] * b[j * size + k];
      ret[i * size + j] = sum;
    }
}

/* Mean and covariance of P h over the class's rows; the eigenvectors replace the covariance. */
static gboolean
fit_class (Fit *fit, gint64 c, gfloat *ret_mean, GError **error)
{
  const KdLelpFitState *state = fit->state;
  gint64 size = fit->size;
  gdouble n = (gdouble) state->count[c];
  const gdouble *sum = state->sum + c * size, *outer = state->outer + c * size * size;

  for (gint64 i = 0; i < size; i++)
    for (gint64 j = 0; j <= i; j++)
      fit->covariance[i * size + j] = fit->covariance[j * size + i] = outer[i * size + j] / n - sum[i] / n * sum[j] / n;
  multiply (size, fit->projector, fit->covariance, fit->scratch);
  multiply (size, fit->scratch, fit->projector, fit->covariance);
  for (gint64 i = 0; i < size; i++) {
    gdouble mean = 0;
    for (gint64 j = 0; j < size; j++)
      mean += fit->projector[i * size + j] * sum[j] / n;
    ret_mean[i] = (gfloat) mean;
  }
  return decompose (size, fit->covariance, fit->values, "covariance of a class", error);
}

/* A random orthonormal matrix [S S]: Gram-Schmidt on the rows of a Gaussian one, twice for the last digits. */
static void
random_rotation (guint64 seed, gint64 c, gint64 n, gdouble *q)
{
  KdRandom random;

  kd_random_init (&random, seed, kd_random_purpose ("kdlelpfit"), 0, (guint64) c);
  for (gint64 i = 0; i < n; i++) {
    gdouble norm = 0;
    for (gint64 j = 0; j < n; j++)
      q[i * n + j] = kd_random_normal (&random);
    for (gint64 k = 0; k < 2 * i; k++) {
      const gdouble *before = q + (k % i) * n;
      gdouble dot = 0;
      for (gint64 j = 0; j < n; j++)
        dot += q[i * n + j] * before[j];
      for (gint64 j = 0; j < n; j++)
        q[i * n + j] -= dot * before[j];
    }
    for (gint64 j = 0; j < n; j++)
      norm += q[i * n + j] * q[i * n + j];
    for (gint64 j = 0; j < n; j++)
      q[i * n + j] /= sqrt (norm);
  }
}

static void
choose_rotation (const Fit *fit, gint64 c, gdouble *q)
{
  gint64 n = fit->n_sub;

  for (gint64 i = 0; i < n * n; i++)
    q[i] = i % (n + 1) == 0;
  if (fit->params->rotate && fit->state->rotation)
    for (gint64 i = 0; i < n * n; i++)
      q[i] = ((const gfloat *) fit->state->rotation->data)[c * n * n + i];
  else if (fit->params->rotate)
    random_rotation (fit->params->seed, c, n, q);
}

static gfloat *
rows_of (const KdOutputs *ret, guint result, gint64 c)
{
  KdTensor *tensor = ret->out[result];

  return (gfloat *) tensor->data + c * (gint64) kd_tensor_row_elements (tensor);
}

/* What of class @c goes into the results, from the eigenvectors (rows of the covariance's memory). */
static void
put_class (const Fit *fit, gint64 c, KdOutputs *ret)
{
  gint64 n = fit->n_sub, size = fit->size;
  g_autofree gdouble *q = g_new (gdouble, n * n);
  gdouble total = 0;

  choose_rotation (fit, c, q);
  for (gint64 s = 0; s < n; s++) {
    gdouble along = 0;
    for (gint64 k = 0; k < n; k++)
      along += q[k * n + s] * q[k * n + s] * fit->values[k];
    total += fit->values[s];
    rows_of (ret, KD_LELP_VARIANCE, c)[s] = (gfloat) along;
    rows_of (ret, KD_LELP_PCA_VARIANCE, c)[s] = (gfloat) fit->values[s];
    for (gint64 j = 0; j < size; j++) {
      gdouble direction = 0;
      for (gint64 k = 0; k < n; k++)
        direction += q[k * n + s] * fit->covariance[k * size + j];
      rows_of (ret, KD_LELP_DIRECTIONS, c)[s * size + j] = (gfloat) direction;
      rows_of (ret, KD_LELP_PCA_DIRECTIONS, c)[s * size + j] = (gfloat) fit->covariance[s * size + j];
    }
  }
  if (fit->params->normalize && !(total > 0))
    GST_WARNING ("kdlelpfit: the embeddings of class %" G_GINT64_FORMAT " do not vary: scale 1", c);
  rows_of (ret, KD_LELP_SCALE, c)[0] = fit->params->normalize && total > 0 ? (gfloat) sqrt (total / (gdouble) n) : 1;
  for (gint64 i = 0; ret->out[KD_LELP_SUBSPACE] && i < size * size; i++) {
    gdouble sum = 0;
    for (gint64 s = 0; s < n; s++)
      sum += fit->covariance[s * size + i / size] * fit->covariance[s * size + i % size];
    rows_of (ret, KD_LELP_SUBSPACE, c)[i] = (gfloat) sum;
  }
}

static void
make_results (const Fit *fit, KdOutputs *ret)
{
  gint64 c = fit->n_classes, s = fit->n_sub, d = fit->size;

  ret->out[KD_LELP_PROJECTOR] = kd_tensor_new (KD_FLOAT32, 2, (const gint64[]) { d, d });
  ret->out[KD_LELP_MEAN] = kd_tensor_new (KD_FLOAT32, 2, (const gint64[]) { c, d });
  ret->out[KD_LELP_DIRECTIONS] = kd_tensor_new (KD_FLOAT32, 3, (const gint64[]) { c, s, d });
  ret->out[KD_LELP_SCALE] = kd_tensor_new (KD_FLOAT32, 1, (const gint64[]) { c });
  ret->out[KD_LELP_VARIANCE] = kd_tensor_new (KD_FLOAT32, 2, (const gint64[]) { c, s });
  ret->out[KD_LELP_PCA_DIRECTIONS] = kd_tensor_new (KD_FLOAT32, 3, (const gint64[]) { c, s, d });
  ret->out[KD_LELP_PCA_VARIANCE] = kd_tensor_new (KD_FLOAT32, 2, (const gint64[]) { c, s });
  if (fit->params->subspace)
    ret->out[KD_LELP_SUBSPACE] = kd_tensor_new (KD_FLOAT32, 3, (const gint64[]) { c, d, d });
}

gboolean
kd_lelp_fit_conclude (const KdCall *call, KdOutputs *ret, GError **error)
{
  const KdLelpFitState *state = call->state;
  g_auto (Fit) fit = { .params = call->params, .state = state, .n_classes = state->n_classes, .size = state->size };
  gint64 area = fit.size * fit.size;

  if (!state->count) {
    g_set_error (error, KD_ERROR, KD_ERROR_VALUE, "Nothing to fit: element=kdlelpfit, rows=0");
    return FALSE;
  }
  fit.n_sub = fit.params->subclasses;
  fit.projector = g_new (gdouble, area);
  fit.covariance = g_new (gdouble, area);
  fit.scratch = g_new (gdouble, area);
  fit.values = g_new (gdouble, fit.size);
  if (!make_projector (&fit, error) || !check_rows (&fit, error))
    return FALSE;
  make_results (&fit, ret);
  for (gint64 i = 0; i < area; i++)
    ((gfloat *) ret->out[KD_LELP_PROJECTOR]->data)[i] = (gfloat) fit.projector[i];
  for (gint64 c = 0; c < fit.n_classes; c++) {
    if (!fit_class (&fit, c, rows_of (ret, KD_LELP_MEAN, c), error))
      return FALSE; /* the door drops what is half made */
    put_class (&fit, c, ret);
  }
  return TRUE;
}
