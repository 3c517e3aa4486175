/**
 * SECTION:element-kdclassmean
 * @short_description: means of a field by class, over an epoch and over the stream
 *
 * class_mean[g] = mean of y over the rows whose label is in group g, g = label / group (whole numbers); y = the field, or with softmax=true the
 * softmax of its last axis. rows=disagree counts only rows where the first largest of teacher.logits is not the label. Batches pass unchanged.
 *
 * A field of one number a row is reported after each epoch (element message kd-metrics: group0, group1 ... over that epoch); any field is
 * written at the end of the stream, over all of it, when `location` is set. Rows with a label below 0 are not counted.
 *
 * ## Fields
 *  - {field} (teacher.logits): float32, float16 or bfloat16 [N ...]; label: int64 [N]; teacher.logits: [N C], with rows=disagree
 * ## Results
 * class_mean: float32 [groups, ...], zeros for a group without rows; class_count: int64 [groups]. There are as many groups as the largest label asks
 * for; with softmax and group=1 no fewer than classes.
 * ## Units
 * those of the field.
 * ## Errors
 * Values that are not finite, a label beyond all reason, a field whose width changes, an end without any row.
 * ## Source
 * The teacher's mean prediction of a class, arXiv:2312.15112 section 3.2, for kdtgeo.
 * ## Example
 * |[ kd launch 'kdh5src location=train.h5 ! kdcache location=teacher.h5 ! kdclassmean location=mean.h5 ! fakesink' ]|
 */
#include <kd/kd.h>

#include <math.h>
#include <string.h>

#define MAX_GROUPS (1 << 20)

enum { ALL,
  DISAGREE };
static const KdEnumValue row_choices[] = {
  { ALL, "all", "Every labelled row" },
  { DISAGREE, "disagree", "Rows where the teacher predicts another class than the label" },
  { 0, NULL, NULL }
};

typedef struct {
  gchar *field, *location;
  gboolean softmax;
  gint rows;
  gint64 group;
} KdClassMeanParams;

static const KdParam kd_class_mean_params[] = {
  KD_PARAM_STRING (KdClassMeanParams, field, "teacher.logits", "Field to average"),
  KD_PARAM_BOOL (KdClassMeanParams, softmax, TRUE, "Average the softmax of the field's last axis"),
  KD_PARAM_ENUM (KdClassMeanParams, rows, row_choices, ALL, "Which rows count"),
  KD_PARAM_INT (KdClassMeanParams, group, 1, G_MAXINT32, 1, "Classes that are averaged together"),
  KD_PARAM_STRING (KdClassMeanParams, location, "", "File to write at the end of the stream"),
  KD_PARAM_END
};

enum { FIELD,
  LABEL,
  TEACHER };
static const KdFieldSpec kd_class_mean_fields[] = {
  [FIELD] = { "{field}", KD_FLOAT32 | KD_FLOAT16 | KD_BFLOAT16, "N ...", KD_FIELD_PEEK },
  [LABEL] = { "label", KD_INT64, "N", KD_FIELD_PEEK },
  [TEACHER] = { "teacher.logits", KD_FLOAT32 | KD_FLOAT16 | KD_BFLOAT16, "N ...", KD_FIELD_PEEK | KD_FIELD_OPTIONAL },
  KD_FIELD_END
};

enum { MEAN,
  COUNT };
static const KdFieldSpec kd_class_mean_results[] = {
  [MEAN] = { "class_mean", KD_FLOAT32, "G ..." },
  [COUNT] = { "class_count", KD_INT64, "G" },
  KD_FIELD_END
};

/* Sums by group: of the stream, and of the epoch (first column only). */
typedef struct {
  GArray *sum, *count, *epoch_sum, *epoch_count;
  guint rank; /* of a row; 0 before the first batch too */
  gint64 dims[KD_MAX_RANK];
  gint64 width;
} KdClassMeanState;

static void
kd_class_mean_init (gconstpointer params, gpointer state_block)
{
  KdClassMeanState *state = state_block;

  state->sum = g_array_new (FALSE, TRUE, sizeof (gdouble));
  state->epoch_sum = g_array_new (FALSE, TRUE, sizeof (gdouble));
  state->count = g_array_new (FALSE, TRUE, sizeof (gint64));
  state->epoch_count = g_array_new (FALSE, TRUE, sizeof (gint64));
}

static void
kd_class_mean_clear (gpointer state_block)
{
  KdClassMeanState *state = state_block;

  g_clear_pointer (&state->sum, g_array_unref);
  g_clear_pointer (&state->epoch_sum, g_array_unref);
  g_clear_pointer (&state->count, g_array_unref);
  g_clear_pointer (&state->epoch_count, g_array_unref);
}

static gboolean
check_width (const KdCall *call, KdClassMeanState *state, GError **error)
{
  const KdClassMeanParams *p = call->params;
  const KdTensor *field = call->in[FIELD];
  guint rank = field->rank - 1;

  if (state->width == 0) {
    state->rank = rank;
    memcpy (state->dims + 1, field->dims + 1, rank * sizeof (gint64));
    state->width = (gint64) kd_tensor_row_elements (field);
  }
  if (state->rank != rank || memcmp (state->dims + 1, field->dims + 1, rank * sizeof (gint64))) {
    g_autofree gchar *shape = kd_tensor_shape_string (field);
    g_set_error (error, KD_ERROR, KD_ERROR_SHAPE, "Width changed: element=kdclassmean, field=%s, shape=%s, before=%" G_GINT64_FORMAT " numbers a row", p->field, shape, state->width);
    return FALSE;
  }
  if (p->rows == DISAGREE && !call->in[TEACHER]) {
    g_set_error (error, KD_ERROR, KD_ERROR_FIELD, "Field missing: element=kdclassmean, field=teacher.logits, rows=disagree; put kdteacher or kdcache before it");
    return FALSE;
  }
  return TRUE;
}

/* y of row @r; FALSE when a value is not finite. */
static gboolean
read_row (const KdCall *call, gint64 r, gint64 width, gdouble *y)
{
  const KdClassMeanParams *p = call->params;
  const KdTensor *field = call->in[FIELD];
  gint64 size = field->rank > 1 ? field->dims[field->rank - 1] : 1;

  kd_row_to_double (field->data, (KdReal) field->dtype, r, width, y);
  for (gint64 j = 0; j < width; j++)
    if (!isfinite (y[j]))
      return FALSE;
  for (gint64 at = 0; p->softmax && at < width; at += size) {
    gdouble max = -INFINITY, sum = 0;
    for (gint64 j = at; j < at + size; j++)
      max = MAX (max, y[j]);
    for (gint64 j = at; j < at + size; j++)
      sum += y[j] = exp (y[j] - max);
    for (gint64 j = at; j < at + size; j++)
      y[j] /= sum;
  }
  return TRUE;
}

static gboolean
counts (const KdCall *call, gint64 r, gint64 label)
{
  const KdClassMeanParams *p = call->params;
  gint64 n_classes, best = 0;

  if (label < 0 || p->rows == ALL)
    return label >= 0;
  n_classes = (gint64) kd_tensor_row_elements (call->in[TEACHER]);
  for (gint64 c = 1; c < n_classes; c++)
    if (kd_tensor_get_double (call->in[TEACHER], (gsize) (r * n_classes + c)) > kd_tensor_get_double (call->in[TEACHER], (gsize) (r * n_classes + best)))
      best = c;
  return best != label;
}

static void
add_row (KdClassMeanState *state, gint64 group, const gdouble *y)
{
  if (group >= state->count->len) {
    g_array_set_size (state->count, (guint) group + 1);
    g_array_set_size (state->epoch_count, (guint) group + 1);
    g_array_set_size (state->sum, (guint) ((group + 1) * state->width));
    g_array_set_size (state->epoch_sum, (guint) group + 1);
  }
  g_array_index (state->count, gint64, group)++;
  g_array_index (state->epoch_count, gint64, group)++;
  g_array_index (state->epoch_sum, gdouble, group) += state->width ? y[0] : 0;
  for (gint64 j = 0; j < state->width; j++)
    g_array_index (state->sum, gdouble, group * state->width + j) += y[j];
}

static gboolean
kd_class_mean_evaluate (const KdCall *call, KdOutputs *ret, GError **error)
{
  const KdClassMeanParams *p = call->params;
  KdClassMeanState *state = call->state;
  const gint64 *label = call->in[LABEL]->data;
  g_autofree gdouble *y = NULL;

  if (!check_width (call, state, error))
    return FALSE;
  y = g_new (gdouble, MAX (state->width, 1));
  for (gint64 r = 0; r < call->n_samples; r++) { /* all are looked at before one is counted */
    if (label[r] / p->group >= MIN (MAX_GROUPS, G_MAXINT32 / MAX (state->width, 1))) {
      g_set_error (error, KD_ERROR, KD_ERROR_RANGE, "Label out of range: element=kdclassmean, field=label, row=%" G_GINT64_FORMAT ", label=%" G_GINT64_FORMAT ", group=%" G_GINT64_FORMAT "; too many groups to keep",
          r, label[r], p->group);
      return FALSE;
    }
    if (label[r] >= 0 && !read_row (call, r, state->width, y)) {
      g_set_error (error, KD_ERROR, KD_ERROR_VALUE, "Value not finite: element=kdclassmean, field=%s, row=%" G_GINT64_FORMAT, p->field, r);
      return FALSE;
    }
  }
  for (gint64 r = 0; r < call->n_samples; r++)
    if (counts (call, r, label[r])) {
      read_row (call, r, state->width, y);
      add_row (state, label[r] / p->group, y);
    }
  return TRUE;
}

/* Starts the next epoch from nothing. */
static GstStructure *
kd_class_mean_finish (const KdCall *call)
{
  KdClassMeanState *state = call->state;
  GstStructure *structure = NULL;

  for (guint g = 0; g < state->epoch_count->len && state->width == 1; g++) {
    gint64 *count = &g_array_index (state->epoch_count, gint64, g);
    gdouble *sum = &g_array_index (state->epoch_sum, gdouble, g);
    g_autofree gchar *name = g_strdup_printf ("group%u", g);
    if (*count == 0)
      continue;
    if (!structure)
      structure = gst_structure_new_empty ("kd-metrics");
    gst_structure_set (structure, name, G_TYPE_DOUBLE, *sum / (gdouble) *count, NULL);
    *count = 0;
    *sum = 0;
  }
  return structure;
}

static gboolean
kd_class_mean_conclude (const KdCall *call, KdOutputs *ret, GError **error)
{
  const KdClassMeanParams *p = call->params;
  KdClassMeanState *state = call->state;
  gint64 n = state->count->len;
  gfloat *mean;

  if (n == 0) {
    g_set_error (error, KD_ERROR, KD_ERROR_VALUE, "Nothing to average: element=kdclassmean, field=%s, counted rows=0", p->field);
    return FALSE;
  }
  state->dims[0] = p->softmax && p->group == 1 && state->rank == 1 ? MAX (state->dims[1], n) : n;
  ret->out[MEAN] = kd_tensor_new_zero (KD_FLOAT32, state->rank + 1, state->dims);
  ret->out[COUNT] = kd_tensor_new_zero (KD_INT64, 1, state->dims);
  mean = ret->out[MEAN]->data;
  memcpy (ret->out[COUNT]->data, state->count->data, (gsize) n * sizeof (gint64));
  for (gint64 i = 0; i < n * state->width; i++) {
    gint64 count = g_array_index (state->count, gint64, i / state->width);
    mean[i] = count ? (gfloat) (g_array_index (state->sum, gdouble, i) / (gdouble) count) : 0;
  }
  return TRUE;
}

static const KdTransformDesc kd_class_mean = {
  .name = "kdclassmean",
  .title = "Class means",
  .description = "Averages a field by the class of the label, such as a teacher's predictions",
  .source = "arXiv:2312.15112 section 3.2",
  .formula = "class_mean[g] = mean over rows with label / group = g of softmax (field)",
  .fields = kd_class_mean_fields,
  .params = kd_class_mean_params,
  .params_size = sizeof (KdClassMeanParams),
  .state_size = sizeof (KdClassMeanState),
  .state_init = kd_class_mean_init,
  .state_clear = kd_class_mean_clear,
  .evaluate = kd_class_mean_evaluate,
  .finish = kd_class_mean_finish,
  .results = kd_class_mean_results,
  .conclude = kd_class_mean_conclude,
};

KD_TRANSFORM_PLUGIN (kd_class_mean)
