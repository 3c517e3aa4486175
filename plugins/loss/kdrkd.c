/**
 * SECTION:element-kdrkd
 * @short_description: relational knowledge distillation: distances and angles inside the batch
 *
 * distance: D_ij = |x_i - x_j| / mean of the positive ones, of student and teacher; smooth-L1 of their difference, mean over n^2
 * angle: A_ijk = cosine at x_i between x_j and x_k; smooth-L1 of the difference, mean over n^3
 * loss = weight (distance-weight distance + angle-weight angle); smooth-L1 with threshold 1.
 *
 * ## Fields
 *  - student.features.{student-field} (embed): float32 [N D], differentiable; teacher.features.{teacher-field}: float [N E]
 *  - mask [N], sample.weight [N]: samples that do not count are left out; the others count alike, the weights' sum scales the whole
 *  - adds loss.distance, loss.angle (without their factors)
 * ## Units
 * none. One sample, or all points equal: 0 with no gradient.
 * ## Errors
 * More than 512 samples with angle-weight above 0, unless allow-large (KD_ERROR_RANGE): the angles cost n^3 D operations.
 * ## Source
 * arXiv:1904.05068 equations 3 to 7; megvii-research/mdistiller RKD.py; weights 25 and 50.
 * ## Example
 * |[ kd launch 'kdh5src location=batch.h5 ! kdrkd student-field=pool teacher-field=pool ! kdh5sink location=out.h5' ]|
 */
#include <kd/kd.h>

#include <math.h>
#include <string.h>

#define MAX_SAMPLES 512
#define MIN_SQUARE 1e-12

typedef struct {
  gdouble distance_weight, angle_weight;
  gboolean allow_large;
  gchar *student_field, *teacher_field;
} KdRkdParams;

static const KdParam kd_rkd_params[] = {
  KD_PARAM_DOUBLE (KdRkdParams, distance_weight, 0.0, 1e6, 25.0, "Factor of the distances' term"),
  KD_PARAM_DOUBLE (KdRkdParams, angle_weight, 0.0, 1e6, 50.0, "Factor of the angles' term"),
  KD_PARAM_BOOL (KdRkdParams, allow_large, FALSE, "Take more than 512 samples, though the angles cost their cube"),
  KD_PARAM_STRING (KdRkdParams, student_field, "embed", "Name of the student's feature, after student.features."),
  KD_PARAM_STRING (KdRkdParams, teacher_field, "embed", "Name of the teacher's feature, after teacher.features."),
  KD_PARAM_END
};

enum { STUDENT,
  TEACHER };
static const KdFieldSpec kd_rkd_fields[] = {
  [STUDENT] = { "student.features.{student_field}", KD_FLOAT32, "N D", KD_FIELD_GRAD },
  [TEACHER] = { "teacher.features.{teacher_field}", KD_FLOAT32 | KD_FLOAT16 | KD_BFLOAT16, "N E", KD_FIELD_FINITE },
  KD_FIELD_END
};

enum { DISTANCE,
  ANGLE };
static const gchar *const kd_rkd_terms[] = { [DISTANCE] = "distance", [ANGLE] = "angle", NULL };

typedef struct {
  gint64 n, size;
  gdouble *x;
} Points;

static gdouble
smooth_l1 (gdouble d, gdouble *ret_slope)
{
  *ret_slope = CLAMP (d, -1, 1);
  return fabs (d) < 1 ? 0.5 * d * d : fabs (d) - 0.5;
}

/* All distances [n, n], the diagonal 0; returns the mean of the others, 0 when all points are one. */
static gdouble
distances (const Points *points, gdouble *ret_d)
{
  gdouble sum = 0;
  gboolean apart = FALSE;

  for (gint64 i = 0; i < points->n; i++)
    for (gint64 j = 0; j < points->n; j++) {
      gdouble square = 0;
      for (gint64 k = 0; k < points->size; k++) {
        gdouble d = points->x[i * points->size + k] - points->x[j * points->size + k];
        square += d * d;
      }
      apart = apart || !(square <= MIN_SQUARE); /* NaN goes on, to be found in the result */
      ret_d[i * points->n + j] = i == j ? 0 : sqrt (square < MIN_SQUARE ? MIN_SQUARE : square);
      sum += ret_d[i * points->n + j];
    }
  return apart ? sum / (gdouble) (points->n * (points->n - 1)) : 0;
}

static gdouble
distance_term (const Points *s, const Points *t, gdouble factor, gdouble *grad)
{
  gint64 n = s->n;
  g_autofree gdouble *ds = g_new (gdouble, n * n), *dt = g_new (gdouble, n * n), *e = g_new (gdouble, n * n);
  gdouble ms = distances (s, ds), mt = distances (t, dt), value = 0, along = 0;

  if (ms == 0 || mt == 0)
    return 0;
  for (gint64 i = 0; i < n * n; i++) {
    gdouble slope;
    value += smooth_l1 (ds[i] / ms - dt[i] / mt, &slope) / (gdouble) (n * n);
    e[i] = slope / (gdouble) (n * n);
    along += e[i] * ds[i];
  }
  for (gint64 i = 0; i < n; i++)
    for (gint64 j = 0; j < n; j++) {
      gdouble d = ds[i * n + j], c = e[i * n + j] / ms - along / (ms * ms * (gdouble) (n * (n - 1)));
      if (i == j || d * d <= MIN_SQUARE)
        continue; /* held at the floor: no slope */
      for (gint64 k = 0; k < s->size; k++) {
        gdouble g = factor * c * (s->x[i * s->size + k] - s->x[j * s->size + k]) / d;
        grad[i * s->size + k] += g;
        grad[j * s->size + k] -= g;
      }
    }
  return value;
}

/* Unit vectors from point @i to all others [n, size], their lengths, and the cosines between them [n, n]. */
static void
angles_at (const Points *points, gint64 i, gdouble *ret_e, gdouble *ret_norm, gdouble *ret_cosine)
{
  for (gint64 j = 0; j < points->n; j++)
    for (gint64 k = 0; k < points->size; k++)
      ret_e[j * points->size + k] = points->x[j * points->size + k] - points->x[i * points->size + k];
  kd_unit_rows (points->n, points->size, ret_e, ret_norm);
  kd_inner_products (points->n, points->n, points->size, ret_e, ret_e, ret_cosine);
}

static gdouble
angle_term (const Points *s, const Points *t, gdouble factor, gdouble *grad)
{
  gint64 n = s->n, size = s->size;
  gdouble count = (gdouble) n * (gdouble) n * (gdouble) n, value = 0;
  g_autofree gdouble *es = g_new (gdouble, n * size), *et = g_new (gdouble, n * t->size), *ns = g_new (gdouble, n), *nt = g_new (gdouble, n),
                     *as = g_new (gdouble, n * n), *at = g_new (gdouble, n * n), *dv = g_new (gdouble, n * size);

  for (gint64 i = 0; i < n; i++) {
    angles_at (s, i, es, ns, as);
    angles_at (t, i, et, nt, at);
    memset (dv, 0, (gsize) (n * size) * sizeof *dv);
    for (gint64 j = 0; j < n; j++)
      for (gint64 k = 0; k < n; k++) {
        gdouble slope;
        value += smooth_l1 (as[j * n + k] - at[j * n + k], &slope) / count;
        for (gint64 c = 0; c < size && slope != 0; c++) {
          dv[j * size + c] += slope / count * es[k * size + c];
          dv[k * size + c] += slope / count * es[j * size + c];
        }
      }
    kd_unit_rows_backward (n, size, es, ns, dv);
    for (gint64 j = 0; j < n; j++)
      for (gint64 c = 0; c < size; c++) {
        grad[j * size + c] += factor * dv[j * size + c];
        grad[i * size + c] -= factor * dv[j * size + c];
      }
  }
  return value;
}

static gboolean
kd_rkd_evaluate (const KdCall *call, KdLossResult *ret, GError **error)
{
  const KdRkdParams *p = call->params;
  const KdRows *rows = kd_call_rows (call);
  gint64 n = kd_gather_rows (rows->n, 0, NULL, KD_REAL_F32, rows->coef, NULL);
  Points s = { n, kd_call_size (call, 'D'), NULL }, t = { n, kd_call_size (call, 'E'), NULL };
  g_autofree gdouble *xs = g_new (gdouble, MAX (n * s.size, 1)), *xt = g_new (gdouble, MAX (n * t.size, 1)), *grad = g_new0 (gdouble, MAX (n * s.size, 1));
  gdouble total = 0;

  if (n > MAX_SAMPLES && p->angle_weight > 0 && !p->allow_large) {
    g_set_error (error, KD_ERROR, KD_ERROR_RANGE, "Too many samples: element=kdrkd, samples=%" G_GINT64_FORMAT ", most=%d; the angles cost their cube: set allow-large=true or angle-weight=0",
        n, MAX_SAMPLES);
    return FALSE;
  }
  for (gint64 r = 0; r < rows->n; r++)
    total += rows->coef[r];
  kd_gather_rows (rows->n, s.size, call->in[STUDENT]->data, KD_REAL_F32, rows->coef, s.x = xs);
  kd_gather_rows (rows->n, t.size, call->in[TEACHER]->data, (KdReal) call->in[TEACHER]->dtype, rows->coef, t.x = xt);
  if (n < 2) { /* nothing to relate, but a NaN is one */
    for (gint64 i = 0; i < n * s.size; i++)
      ret->loss += 0 * s.x[i];
    for (gint64 i = 0; i < n * t.size; i++)
      ret->loss += 0 * t.x[i];
    return TRUE;
  }
  if (p->distance_weight > 0)
    ret->term[DISTANCE] = total * distance_term (&s, &t, p->distance_weight, grad);
  if (p->angle_weight > 0)
    ret->term[ANGLE] = total * angle_term (&s, &t, p->angle_weight, grad);
  kd_scatter_rows (rows->n, s.size, grad, total, rows->coef, ret->grad[STUDENT]);
  ret->loss = p->distance_weight * ret->term[DISTANCE] + p->angle_weight * ret->term[ANGLE];
  return TRUE;
}

static const KdLossDesc kd_rkd = {
  .name = "kdrkd",
  .title = "Relational KD loss",
  .description = "Differences between student and teacher in the distances and angles inside the batch",
  .source = "arXiv:1904.05068 equations 3 to 7",
  .formula = "loss = distance-weight mean_ij smooth-L1 (D_s - D_t) + angle-weight mean_ijk smooth-L1 (A_s - A_t), D over its mean, A = cosines at i",
  .units = "none; mean over the pairs and triples of counted samples",
  .fields = kd_rkd_fields,
  .params = kd_rkd_params,
  .params_size = sizeof (KdRkdParams),
  .terms = kd_rkd_terms,
  .evaluate = kd_rkd_evaluate,
};

KD_LOSS_PLUGIN (kd_rkd)
