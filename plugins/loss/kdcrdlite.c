/**
 * SECTION:element-kdcrdlite
 * @short_description: contrastive distillation inside the batch
 *
 * u = s / |s|, v = t / |t|, S = u v' / temperature; loss = CE (rows of S, diagonal), with symmetric the mean of that and CE (rows of S', diagonal).
 * dS = (softmax (S) - I) / n (symmetric: mean of both), du = dS v / temperature, ds = (du - u <u, du>) / |s|.
 *
 * ## Fields
 *  - student.features.{student-field} (embed): float32 [N D], differentiable; teacher.features.{teacher-field}: float [N D], the same D
 *  - mask [N], sample.weight [N]: samples that do not count are neither positives nor negatives; the others count alike
 * ## Units
 * nats. One sample: 0 with no gradient. Zero rows are taken as they are, with no gradient.
 * ## Errors
 * None of its own; KdLoss refuses two sizes D.
 * ## Source
 * InfoNCE between matched features, arXiv:1807.03748 equation 4; the in-batch form of CRD, arXiv:1910.10699 (without its memory of negatives).
 * ## Example
 * |[ kd launch 'kdh5src location=batch.h5 ! kdcrdlite temperature=0.1 ! kdh5sink location=out.h5' ]|
 */
#include <kd/kd.h>

#include <math.h>

typedef struct {
  gdouble temperature;
  gboolean symmetric;
  gchar *student_field, *teacher_field;
} KdCrdLiteParams;

static const KdParam kd_crd_lite_params[] = {
  KD_PARAM_DOUBLE (KdCrdLiteParams, temperature, 1e-4, 1000.0, 0.1, "Divides the cosines"),
  KD_PARAM_BOOL (KdCrdLiteParams, symmetric, TRUE, "Also tell each teacher's row from all students'"),
  KD_PARAM_STRING (KdCrdLiteParams, student_field, "embed", "Name of the student's feature, after student.features."),
  KD_PARAM_STRING (KdCrdLiteParams, teacher_field, "embed", "Name of the teacher's feature, after teacher.features."),
  KD_PARAM_END
};

enum { STUDENT,
  TEACHER };
static const KdFieldSpec kd_crd_lite_fields[] = {
  [STUDENT] = { "student.features.{student_field}", KD_FLOAT32, "N D", KD_FIELD_GRAD },
  [TEACHER] = { "teacher.features.{teacher_field}", KD_FLOAT32 | KD_FLOAT16 | KD_BFLOAT16, "N D", KD_FIELD_FINITE },
  KD_FIELD_END
};

/* Mean cross-entropy of the rows of S (entries @step apart, rows @stride) with the diagonal; adds @share of its gradient. */
static gdouble
diagonal_xent (gint64 n, gint64 stride, gint64 step, const gdouble *s, gdouble share, gdouble *grad)
{
  gdouble value = 0;

  for (gint64 i = 0; i < n; i++) {
    const gdouble *row = s + i * stride;
    gdouble max = -INFINITY, sum = 0;
    for (gint64 j = 0; j < n; j++)
      max = fmax (max, row[j * step]);
    for (gint64 j = 0; j < n; j++)
      sum += exp (row[j * step] - max);
    value += (max + log (sum) - row[i * step]) / (gdouble) n;
    for (gint64 j = 0; j < n; j++)
      grad[i * stride + j * step] += share * (exp (row[j * step] - max) / sum - (i == j)) / (gdouble) n;
  }
  return value;
}

static gboolean
kd_crd_lite_evaluate (const KdCall *call, KdLossResult *ret, GError **error)
{
  const KdCrdLiteParams *p = call->params;
  const KdRows *rows = kd_call_rows (call);
  gint64 size = kd_call_size (call, 'D'), n = kd_gather_rows (rows->n, 0, NULL, KD_REAL_F32, rows->coef, NULL);
  g_autofree gdouble *u = g_new (gdouble, MAX (n * size, 1)), *v = g_new (gdouble, MAX (n * size, 1)), *norm_u = g_new (gdouble, MAX (n, 1)),
                     *norm_v = g_new (gdouble, MAX (n, 1)), *s = g_new (gdouble, MAX (n * n, 1)), *ds = g_new0 (gdouble, MAX (n * n, 1)),
                     *du = g_new0 (gdouble, MAX (n * size, 1));
  gdouble total = 0, share = p->symmetric ? 0.5 : 1.0;

  for (gint64 r = 0; r < rows->n; r++)
    total += rows->coef[r];
  kd_gather_rows (rows->n, size, call->in[STUDENT]->data, KD_REAL_F32, rows->coef, u);
  kd_gather_rows (rows->n, size, call->in[TEACHER]->data, (KdReal) call->in[TEACHER]->dtype, rows->coef, v);
  kd_unit_rows (n, size, u, norm_u);
  kd_unit_rows (n, size, v, norm_v);
  kd_inner_products (n, n, size, u, v, s);
  for (gint64 i = 0; i < n * n; i++)
    s[i] /= p->temperature;
  ret->loss = share * total * diagonal_xent (n, n, 1, s, share, ds);
  if (p->symmetric)
    ret->loss += share * total * diagonal_xent (n, 1, n, s, share, ds);
  for (gint64 i = 0; i < n; i++)
    for (gint64 j = 0; j < n; j++)
      for (gint64 k = 0; k < size; k++)
        du[i * size + k] += ds[i * n + j] * v[j * size + k] / p->temperature;
  kd_unit_rows_backward (n, size, u, norm_u, du);
  kd_scatter_rows (rows->n, size, du, total, rows->coef, ret->grad[STUDENT]);
  return TRUE;
}

static const KdLossDesc kd_crd_lite = {
  .name = "kdcrdlite",
  .title = "In-batch contrastive loss",
  .description = "Tells the teacher's feature of the same sample from those of the other samples of the batch",
  .source = "arXiv:1910.10699; arXiv:1807.03748 equation 4",
  .formula = "loss = CE (S, diagonal), S = (s / |s|) (t / |t|)' / temperature; symmetric: mean with CE (S', diagonal)",
  .units = "nats; mean over the counted samples",
  .fields = kd_crd_lite_fields,
  .params = kd_crd_lite_params,
  .params_size = sizeof (KdCrdLiteParams),
  .evaluate = kd_crd_lite_evaluate,
};

KD_LOSS_PLUGIN (kd_crd_lite)
