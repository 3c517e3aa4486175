/**
 * SECTION:element-kdsimilarity
 * @short_description: similarity-preserving distillation
 *
 * M = F F', G = M with rows of length 1; loss = weight |G_s - G_t|^2 / n^2 over the n samples that count.
 * dG = 2 (G_s - G_t) / n^2, dM = (dG - G <G, dG> by row) / |M row|, dF = (dM + dM') F.
 *
 * ## Fields
 *  - student.features.{student-field} (embed): float32 [N ...], differentiable; teacher.features.{teacher-field}: float [N ...], any size of its own
 *  - mask [N], sample.weight [N]: samples that do not count are left out; the others count alike, the weights' sum scales the whole
 * ## Units
 * none. One sample: 0. A zero row has similarity 0 with all and gets no gradient.
 * ## Errors
 * None of its own.
 * ## Source
 * arXiv:1907.09682 equations 1 to 4; megvii-research/mdistiller SP.py; weight 3000.
 * ## Example
 * |[ kd launch 'kdh5src location=batch.h5 ! kdsimilarity student-field=pool teacher-field=pool ! kdh5sink location=out.h5' ]|
 */
#include <kd/kd.h>

#include <string.h>

typedef struct {
  gchar *student_field, *teacher_field;
} KdSimilarityParams;

static const KdParam kd_similarity_params[] = {
  KD_PARAM_STRING (KdSimilarityParams, student_field, "embed", "Name of the student's feature, after student.features."),
  KD_PARAM_STRING (KdSimilarityParams, teacher_field, "embed", "Name of the teacher's feature, after teacher.features."),
  KD_PARAM_END
};

enum { STUDENT,
  TEACHER };
static const KdFieldSpec kd_similarity_fields[] = {
  [STUDENT] = { "student.features.{student_field}", KD_FLOAT32, "N ...", KD_FIELD_GRAD },
  [TEACHER] = { "teacher.features.{teacher_field}", KD_FLOAT32 | KD_FLOAT16 | KD_BFLOAT16, "N ...", KD_FIELD_FINITE },
  KD_FIELD_END
};

/* The counted rows of a feature and their normalised similarities [n, n]. */
static gdouble *
similarities (const KdTensor *feature, const KdRows *rows, gint64 n, gdouble **ret_features, gdouble **ret_norm)
{
  gint64 size = (gint64) kd_tensor_row_elements (feature);
  gdouble *g = g_new (gdouble, MAX (n * n, 1));

  *ret_features = g_new (gdouble, MAX (n * size, 1));
  *ret_norm = g_new (gdouble, MAX (n, 1));
  kd_gather_rows (rows->n, size, feature->data, (KdReal) feature->dtype, rows->coef, *ret_features);
  kd_inner_products (n, n, size, *ret_features, *ret_features, g);
  kd_unit_rows (n, n, g, *ret_norm);
  return g;
}

static gboolean
kd_similarity_evaluate (const KdCall *call, KdLossResult *ret, GError **error)
{
  const KdRows *rows = kd_call_rows (call);
  gint64 size = (gint64) kd_tensor_row_elements (call->in[STUDENT]), n = kd_gather_rows (rows->n, 0, NULL, KD_REAL_F32, rows->coef, NULL);
  g_autofree gdouble *fs = NULL, *ft = NULL, *norm_s = NULL, *norm_t = NULL, *gs = similarities (call->in[STUDENT], rows, n, &fs, &norm_s),
                     *gt = similarities (call->in[TEACHER], rows, n, &ft, &norm_t), *dg = g_new (gdouble, MAX (n * n, 1)),
                     *df = g_new0 (gdouble, MAX (n * size, 1));
  gdouble total = 0, sum = 0;

  for (gint64 r = 0; r < rows->n; r++)
    total += rows->coef[r];
  for (gint64 i = 0; i < n * n; i++) {
    gdouble d = gs[i] - gt[i];
    sum += d * d;
    dg[i] = 2 * d / (gdouble) (n * n);
  }
  kd_unit_rows_backward (n, n, gs, norm_s, dg);
  for (gint64 i = 0; i < n; i++)
    for (gint64 j = 0; j < n; j++) {
      gdouble both = dg[i * n + j] + dg[j * n + i];
      for (gint64 k = 0; k < size; k++)
        df[i * size + k] += both * fs[j * size + k];
    }
  kd_scatter_rows (rows->n, size, df, total, rows->coef, ret->grad[STUDENT]);
  ret->loss = n > 0 ? total * sum / (gdouble) (n * n) : 0;
  return TRUE;
}

static const KdLossDesc kd_similarity = {
  .name = "kdsimilarity",
  .title = "Similarity-preserving loss",
  .description = "Squared distance between the samples' similarities in the student's feature and in the teacher's",
  .source = "arXiv:1907.09682 equations 1 to 4",
  .formula = "loss = weight |G_s - G_t|^2 / N^2, G = rows of F F' divided by their length",
  .units = "none; mean over the pairs of counted samples",
  .fields = kd_similarity_fields,
  .params = kd_similarity_params,
  .params_size = sizeof (KdSimilarityParams),
  .default_weight = 3000.0,
  .evaluate = kd_similarity_evaluate,
};

KD_LOSS_PLUGIN (kd_similarity)
