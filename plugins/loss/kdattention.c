/**
 * SECTION:element-kdattention
 * @short_description: attention transfer
 *
 * A = mean over channels of |F|^power, flattened over H x W; Q = A / |A|; loss = weight mean over N H W of (Q_s - Q_t)^2.
 * dQ = 2 (Q_s - Q_t) / (N H W), dA = (dQ - Q <Q, dQ>) / |A|, dF = dA power |F|^(power - 1) sign (F) / K.
 * Where one map is larger than the other it is average-pooled to its size first (torch's adaptive_avg_pool2d).
 *
 * ## Fields
 *  - student.features.{student-field} (map): float32 [N K H W], differentiable; teacher.features.{teacher-field}: float [N L H' W']
 *  - mask [N], sample.weight [N]
 * ## Units
 * none. A map that is zero everywhere has attention 0 and gets no gradient.
 * ## Errors
 * None of its own.
 * ## Source
 * arXiv:1612.03928 equation 2; megvii-research/mdistiller AT.py; weight 1000.
 * ## Example
 * |[ kd launch 'kdh5src location=batch.h5 ! kdattention student-field=stage2 teacher-field=stage2 ! kdh5sink location=out.h5' ]|
 */
#include <kd/kd.h>

#include <math.h>
#include <string.h>

typedef struct {
  gdouble power;
  gchar *student_field, *teacher_field;
} KdAttentionParams;

static const KdParam kd_attention_params[] = {
  KD_PARAM_DOUBLE (KdAttentionParams, power, 1.0, 16.0, 2.0, "Exponent of the activations"),
  KD_PARAM_STRING (KdAttentionParams, student_field, "map", "Name of the student's feature, after student.features."),
  KD_PARAM_STRING (KdAttentionParams, teacher_field, "map", "Name of the teacher's feature, after teacher.features."),
  KD_PARAM_END
};

enum { STUDENT,
  TEACHER };
static const KdFieldSpec kd_attention_fields[] = {
  [STUDENT] = { "student.features.{student_field}", KD_FLOAT32, "N K H W", KD_FIELD_GRAD },
  [TEACHER] = { "teacher.features.{teacher_field}", KD_FLOAT32 | KD_FLOAT16 | KD_BFLOAT16, "N L I J", KD_FIELD_FINITE },
  KD_FIELD_END
};

/* One sample's map on the smaller grid: pooled activations [k, h, w] and the attention [h, w] they make. */
typedef struct {
  gint64 k, full_h, full_w, h, w;
  gdouble *raw, *pooled, *attention, norm;
} Map;

static void
map_init (Map *map, const KdTensor *feature, gint64 h, gint64 w)
{
  *map = (Map) { .k = feature->dims[1], .full_h = feature->dims[2], .full_w = feature->dims[3], .h = h, .w = w };
  map->raw = g_new (gdouble, MAX (map->k * map->full_h * map->full_w, 1));
  map->pooled = g_new (gdouble, MAX (map->k * h * w, 1));
  map->attention = g_new (gdouble, MAX (h * w, 1));
}

static void
map_clear (Map *map)
{
  g_free (map->raw);
  g_free (map->pooled);
  g_free (map->attention);
}
G_DEFINE_AUTO_CLEANUP_CLEAR_FUNC (Map, map_clear)

/* The cells of the full map that cell @at of @n averages: as torch's adaptive_avg_pool2d has them, they may overlap. */
static void
span (gint64 at, gint64 n, gint64 full, gint64 *ret_first, gint64 *ret_end)
{
  *ret_first = at * full / n;
  *ret_end = ((at + 1) * full + n - 1) / n;
}

static void
pool (Map *map)
{
  for (gint64 i = 0; i < map->k * map->h * map->w; i++) {
    const gdouble *raw = map->raw + i / (map->h * map->w) * map->full_h * map->full_w;
    gint64 y0, y1, x0, x1;
    gdouble sum = 0;
    span (i / map->w % map->h, map->h, map->full_h, &y0, &y1);
    span (i % map->w, map->w, map->full_w, &x0, &x1);
    for (gint64 y = y0; y < y1; y++)
      for (gint64 x = x0; x < x1; x++)
        sum += raw[y * map->full_w + x];
    map->pooled[i] = sum / (gdouble) ((y1 - y0) * (x1 - x0));
  }
}

static void
attend (Map *map, const KdTensor *feature, gint64 row, gdouble power)
{
  gint64 size = map->h * map->w;

  kd_row_to_double (feature->data, (KdReal) feature->dtype, row, map->k * map->full_h * map->full_w, map->raw);
  pool (map);
  for (gint64 i = 0; i < size; i++) {
    map->attention[i] = 0;
    for (gint64 c = 0; c < map->k; c++)
      map->attention[i] += pow (fabs (map->pooled[c * size + i]), power) / (gdouble) map->k;
  }
  kd_unit_rows (1, size, map->attention, &map->norm);
}

/* From the gradient by Q to the one by the features, over the cells that were averaged. */
static void
add_gradient (const Map *map, gdouble *dq, gdouble power, gfloat *grad)
{
  gint64 size = map->h * map->w;

  kd_unit_rows_backward (1, size, map->attention, &map->norm, dq);
  for (gint64 i = 0; i < map->k * size; i++) {
    gdouble f = map->pooled[i], g = dq[i % size] * power * pow (fabs (f), power - 1) * (f > 0 ? 1 : f < 0 ? -1
                                                                                                          : 0) /
        (gdouble) map->k;
    gfloat *to = grad + i / size * map->full_h * map->full_w;
    gint64 y0, y1, x0, x1;
    span (i / map->w % map->h, map->h, map->full_h, &y0, &y1);
    span (i % map->w, map->w, map->full_w, &x0, &x1);
    for (gint64 y = y0; y < y1; y++)
      for (gint64 x = x0; x < x1; x++)
        to[y * map->full_w + x] += (gfloat) (g / (gdouble) ((y1 - y0) * (x1 - x0)));
  }
}

static gboolean
kd_attention_evaluate (const KdCall *call, KdLossResult *ret, GError **error)
{
  const KdAttentionParams *p = call->params;
  const KdRows *rows = kd_call_rows (call);
  gint64 h = MIN (kd_call_size (call, 'H'), kd_call_size (call, 'I')), w = MIN (kd_call_size (call, 'W'), kd_call_size (call, 'J')), row_size = (gint64) kd_tensor_row_elements (call->in[STUDENT]);
  g_auto (Map) student = { 0 }, teacher = { 0 };
  g_autofree gdouble *dq = NULL;

  map_init (&student, call->in[STUDENT], h, w);
  map_init (&teacher, call->in[TEACHER], h, w);
  dq = g_new (gdouble, MAX (h * w, 1));
  for (gint64 r = 0; r < rows->n; r++) {
    gdouble sum = 0;
    if (rows->coef[r] == 0)
      continue;
    attend (&student, call->in[STUDENT], r, p->power);
    attend (&teacher, call->in[TEACHER], r, p->power);
    for (gint64 i = 0; i < h * w; i++) {
      gdouble d = student.attention[i] - teacher.attention[i];
      sum += d * d;
      dq[i] = 2 * d * rows->coef[r] / (gdouble) (h * w);
    }
    ret->loss += rows->coef[r] * sum / (gdouble) (h * w);
    add_gradient (&student, dq, p->power, ret->grad[STUDENT] + r * row_size);
  }
  return TRUE;
}

static const KdLossDesc kd_attention_loss = {
  .name = "kdattention",
  .title = "Attention transfer loss",
  .description = "Squared distance between where the student's and the teacher's activations are large",
  .source = "arXiv:1612.03928 equation 2",
  .formula = "loss = weight mean (Q_s - Q_t)^2, Q = A / |A|, A = mean over channels of |F|^power",
  .units = "none; mean over the counted samples and the map's positions",
  .fields = kd_attention_fields,
  .params = kd_attention_params,
  .params_size = sizeof (KdAttentionParams),
  .default_weight = 1000.0,
  .evaluate = kd_attention_evaluate,
};

KD_LOSS_PLUGIN (kd_attention_loss)
