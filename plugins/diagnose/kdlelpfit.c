/**
 * SECTION:element-kdlelpfit
 * @short_description: directions of a teacher's embeddings inside each class, for kdlelp
 *
 * W: the weights of the teacher's last linear layer. P = I - V V^T, V the right singular vectors of W with a singular value above 1e-6 of the largest;
 * P = I with null-space=false. For each class c, over the rows x = P h that are assigned to it: mean mu_c, covariance Sigma_c (divided by the count),
 * V_c the eigenvectors of the S largest eigenvalues. U_c = (V_c Q_c)^T, Q_c a random orthonormal matrix (identity with rotate=false).
 * kappa_c = 1, or with normalize=true sqrt (mean of the S eigenvalues).
 *
 * The batches pass unchanged; the fit is made at the end of the stream and written to `location`. One pass over the data, memory C D^2 doubles.
 *
 * ## Fields
 *  - teacher.features.{teacher-field} (embed): float32, float16 or bfloat16 [N D]
 *  - teacher.logits: [N C], with assign=teacher: a row belongs to the largest; label: int64 [N], with assign=label: below 0 it belongs to none
 *  - teacher.classifier.weight: float32 [C D], a table, or tensor `parameter` of the safetensors file `classifier`; lelp.rotation: [C S S], optional:
 *    the Q_c to use
 * ## Results
 * lelp.projector [D D], lelp.mean [C D], lelp.directions [C S D], lelp.scale [C], lelp.variance [C S] (along the directions),
 * lelp.pca.directions [C S D], lelp.pca.variance [C S], with subspace=true lelp.subspace [C D D] (V_c V_c^T); float32
 * ## Units
 * those of the embeddings.
 * ## Errors
 * No weights with null-space=true, no way to assign rows, values that are not finite; at the end a class with fewer than S + 1 rows, fewer
 * than S directions.
 * ## Source
 * arXiv:2409.20449 section 3; the centring, normalize and the sign (an eigenvector's largest entry is positive) are choices made here.
 * ## Example
 * |[ kd launch 'kdh5src location=train.h5 ! kdteacher arch="mlp dims=64,128,64,2" weights=t.safetensors features=layer2 ! kdlelpfit
 * teacher-field=layer2 classifier=t.safetensors parameter=layer3.weight location=fit.h5 ! fakesink' ]|
 */
#include "kdlelpfit.h"

#include <math.h>
#include <string.h>

static const KdEnumValue assigns[] = {
  { KD_LELP_TEACHER, "teacher", "A row belongs to the class of its largest teacher's logit" },
  { KD_LELP_LABEL, "label", "A row belongs to its label's class" },
  { 0, NULL, NULL }
};

static const KdParam kd_lelp_fit_params[] = {
  KD_PARAM_INT (KdLelpFitParams, subclasses, 1, 4096, 5, "Directions of each class"),
  KD_PARAM_BOOL (KdLelpFitParams, null_space, TRUE, "Leave out what the classifier sees: directions that its weights do not span"),
  KD_PARAM_BOOL (KdLelpFitParams, rotate, TRUE, "Turn the directions at random, so that the variance is spread over them"),
  KD_PARAM_ENUM (KdLelpFitParams, assign, assigns, KD_LELP_TEACHER, "Which class a row belongs to"),
  KD_PARAM_BOOL (KdLelpFitParams, normalize, FALSE, "Give each class the scale of its own spread"),
  KD_PARAM_UINT64 (KdLelpFitParams, seed, 0, "Key of the random rotation"),
  KD_PARAM_STRING (KdLelpFitParams, location, "", "File to write the fit to"),
  KD_PARAM_STRING (KdLelpFitParams, teacher_field, "embed", "Name of the teacher's feature, after teacher.features."),
  KD_PARAM_STRING (KdLelpFitParams, classifier, "", "Safetensors file with the teacher's weights"),
  KD_PARAM_STRING (KdLelpFitParams, parameter, "", "Name of the last linear layer's weights in it, such as layer3.weight"),
  KD_PARAM_BOOL (KdLelpFitParams, subspace, FALSE, "Give the classes' subspaces too, which do not depend on signs and rotations"),
  KD_PARAM_END
};

enum { EMBED,
  LOGITS,
  LABEL,
  WEIGHT,
  ROTATION };
static const KdFieldSpec kd_lelp_fit_fields[] = {
  [EMBED] = { "teacher.features.{teacher_field}", KD_FLOAT32 | KD_FLOAT16 | KD_BFLOAT16, "N D", KD_FIELD_FINITE },
  [LOGITS] = { "teacher.logits", KD_FLOAT32 | KD_FLOAT16 | KD_BFLOAT16, "N C", KD_FIELD_OPTIONAL },
  [LABEL] = { "label", KD_INT64, "N", KD_FIELD_OPTIONAL },
  [WEIGHT] = { "teacher.classifier.weight", KD_FLOAT32, "C D", KD_FIELD_OPTIONAL | KD_FIELD_TABLE },
  [ROTATION] = { "lelp.rotation", KD_FLOAT32, "C {subclasses} {subclasses}", KD_FIELD_OPTIONAL | KD_FIELD_TABLE },
  KD_FIELD_END
};

static const KdFieldSpec kd_lelp_fit_results[] = {
  [KD_LELP_PROJECTOR] = { "lelp.projector", KD_FLOAT32, "D D" },
  [KD_LELP_MEAN] = { "lelp.mean", KD_FLOAT32, "C D" },
  [KD_LELP_DIRECTIONS] = { "lelp.directions", KD_FLOAT32, "C {subclasses} D" },
  [KD_LELP_SCALE] = { "lelp.scale", KD_FLOAT32, "C" },
  [KD_LELP_VARIANCE] = { "lelp.variance", KD_FLOAT32, "C {subclasses}" },
  [KD_LELP_PCA_DIRECTIONS] = { "lelp.pca.directions", KD_FLOAT32, "C {subclasses} D" },
  [KD_LELP_PCA_VARIANCE] = { "lelp.pca.variance", KD_FLOAT32, "C {subclasses}" },
  [KD_LELP_SUBSPACE] = { "lelp.subspace", KD_FLOAT32, "C D D", .when = "subspace" },
  KD_FIELD_END
};

static gboolean
kd_lelp_fit_open (gconstpointer params, gpointer state_block, GError **error)
{
  const KdLelpFitParams *p = params;
  KdLelpFitState *state = state_block;

  if (!p->classifier || !*p->classifier)
    return TRUE;
  state->weight = kd_safetensors_read (p->classifier, p->parameter ? p->parameter : "", error);
  if (!state->weight)
    return FALSE;
  if (state->weight->rank != 2) {
    g_autofree gchar *shape = kd_tensor_shape_string (state->weight);
    g_set_error (error, KD_ERROR, KD_ERROR_SHAPE, "Weights of no linear layer: path=\"%s\", parameter=%s, shape=%s, wanted=[classes,width]", p->classifier,
        p->parameter, shape);
    return FALSE;
  }
  return TRUE;
}

static void
kd_lelp_fit_clear (gpointer state_block)
{
  KdLelpFitState *state = state_block;

  g_clear_pointer (&state->weight, kd_tensor_unref);
  g_clear_pointer (&state->rotation, kd_tensor_unref);
  g_clear_pointer (&state->count, g_free);
  g_clear_pointer (&state->sum, g_free);
  g_clear_pointer (&state->outer, g_free);
}

static gboolean
refuse_missing (const gchar *field, const gchar *hint, GError **error)
{
  g_set_error (error, KD_ERROR, KD_ERROR_FIELD, "Field missing: element=kdlelpfit, field=%s; %s", field, hint);
  return FALSE;
}

/* Sizes and tables, from the first batch. */
static gboolean
begin (const KdCall *call, KdLelpFitState *state, GError **error)
{
  const KdLelpFitParams *p = call->params;
  gint64 size = kd_call_size (call, 'D'), n_classes = kd_call_size (call, 'C');

  if (call->in[WEIGHT]) {
    g_clear_pointer (&state->weight, kd_tensor_unref);
    state->weight = kd_tensor_ref (call->in[WEIGHT]);
  }
  if (p->null_space && !state->weight)
    return refuse_missing ("teacher.classifier.weight", "set classifier and parameter, or null-space=false", error);
  n_classes = n_classes < 0 && state->weight ? state->weight->dims[0] : n_classes;
  if (n_classes < 0)
    return refuse_missing ("teacher.logits", "without it and without weights the number of classes is not known", error);
  if (state->weight && (state->weight->dims[0] != n_classes || state->weight->dims[1] != size)) {
    g_autofree gchar *shape = kd_tensor_shape_string (state->weight);
    g_set_error (error, KD_ERROR, KD_ERROR_SHAPE, "Weights are of another layer: element=kdlelpfit, weights=%s, classes=%" G_GINT64_FORMAT ", width of teacher.features.%s=%" G_GINT64_FORMAT,
        shape, n_classes, p->teacher_field, size);
    return FALSE;
  }
  if (call->in[ROTATION])
    state->rotation = kd_tensor_ref (call->in[ROTATION]);
  state->n_classes = n_classes;
  state->size = size;
  state->count = g_new0 (gint64, n_classes);
  state->sum = g_new0 (gdouble, n_classes * size);
  state->outer = g_new0 (gdouble, n_classes * size * size);
  return TRUE;
}

static gint64
largest (const gdouble *x, gint64 n)
{
  gint64 best = 0;

  for (gint64 i = 1; i < n; i++)
    if (x[i] > x[best])
      best = i;
  return best;
}

/* Every row's class, before any is counted; -1: none. */
static gboolean
assign_rows (const KdCall *call, const KdLelpFitState *state, gint64 *ret_class, gdouble *row, GError **error)
{
  const KdLelpFitParams *p = call->params;

  if (p->assign == KD_LELP_TEACHER && !call->in[LOGITS])
    return refuse_missing ("teacher.logits", "put kdteacher or kdcache before it, or set assign=label", error);
  if (p->assign == KD_LELP_LABEL && !call->in[LABEL])
    return refuse_missing ("label", "put a source with labels before it, or set assign=teacher", error);
  for (gint64 r = 0; r < call->n_samples; r++) {
    if (p->assign == KD_LELP_LABEL) {
      ret_class[r] = MAX (((const gint64 *) call->in[LABEL]->data)[r], -1);
    } else {
      kd_row_to_double (call->in[LOGITS]->data, (KdReal) call->in[LOGITS]->dtype, r, state->n_classes, row);
      ret_class[r] = largest (row, state->n_classes);
      for (gint64 j = 0; j < state->n_classes; j++)
        if (!isfinite (row[j])) {
          g_set_error (error, KD_ERROR, KD_ERROR_VALUE, "Value not finite: element=kdlelpfit, field=teacher.logits, row=%" G_GINT64_FORMAT ", column=%" G_GINT64_FORMAT, r, j);
          return FALSE;
        }
    }
    if (ret_class[r] >= state->n_classes) {
      g_set_error (error, KD_ERROR, KD_ERROR_RANGE, "Label out of range: element=kdlelpfit, field=label, row=%" G_GINT64_FORMAT ", label=%" G_GINT64_FORMAT ", classes=%" G_GINT64_FORMAT,
          r, ret_class[r], state->n_classes);
      return FALSE;
    }
  }
  return TRUE;
}

static gboolean
check_row (const KdCall *call, const gdouble *x, gint64 size, gint64 r, GError **error)
{
  const KdLelpFitParams *p = call->params;

  for (gint64 j = 0; j < size; j++)
    if (!isfinite (x[j])) {
      g_set_error (error, KD_ERROR, KD_ERROR_VALUE, "Value not finite: element=kdlelpfit, field=teacher.features.%s, row=%" G_GINT64_FORMAT ", column=%" G_GINT64_FORMAT,
          p->teacher_field, r, j);
      return FALSE;
    }
  return TRUE;
}

static void
add_row (KdLelpFitState *state, gint64 c, const gdouble *x)
{
  gint64 size = state->size;
  gdouble *sum = state->sum + c * size, *outer = state->outer + c * size * size;

  state->count[c]++;
  for (gint64 i = 0; i < size; i++) {
    sum[i] += x[i];
    for (gint64 j = 0; j <= i; j++) /* symmetric: the lower half is enough */
      outer[i * size + j] += x[i] * x[j];
  }
}

static gboolean
kd_lelp_fit_evaluate (const KdCall *call, KdOutputs *ret, GError **error)
{
  KdLelpFitState *state = call->state;
  g_autofree gint64 *class = g_new (gint64, MAX (call->n_samples, 1));
  g_autofree gdouble *row = NULL;

  if (!state->count && !begin (call, state, error))
    return FALSE;
  if (kd_call_size (call, 'D') != state->size) {
    g_set_error (error, KD_ERROR, KD_ERROR_SHAPE, "Width changed: element=kdlelpfit, was=%" G_GINT64_FORMAT ", is=%" G_GINT64_FORMAT, state->size, kd_call_size (call, 'D'));
    return FALSE;
  }
  row = g_new (gdouble, MAX (state->size, state->n_classes));
  if (!assign_rows (call, state, class, row, error))
    return FALSE;
  for (gint64 r = 0; r < call->n_samples; r++) {
    kd_row_to_double (call->in[EMBED]->data, (KdReal) call->in[EMBED]->dtype, r, state->size, row);
    if (!check_row (call, row, state->size, r, error))
      return FALSE;
    if (class[r] < 0)
      continue;
    add_row (state, class[r], row);
    state->n_rows++;
  }
  return TRUE;
}

static GstStructure *
kd_lelp_fit_finish (const KdCall *call)
{
  const KdLelpFitParams *p = call->params;
  KdLelpFitState *state = call->state;

  if (state->n_rows == state->told)
    return NULL;
  state->told = state->n_rows;
  if (!p->location || !*p->location)
    GST_WARNING ("kdlelpfit: location is empty: nothing is fitted");
  return gst_structure_new ("kd-lelp-fit", "rows", G_TYPE_INT64, state->n_rows, "classes", G_TYPE_INT64, state->n_classes, "width", G_TYPE_INT64, state->size, NULL);
}

static const KdTransformDesc kd_lelp_fit = {
  .name = "kdlelpfit",
  .title = "Subclass directions",
  .description = "Finds the main directions of a teacher's embeddings inside each class",
  .source = "arXiv:2409.20449 section 3",
  .formula = "P = I - V V^T of the classifier's weights; U_c = (V_c Q_c)^T, V_c the S main directions of P h in class c, Q_c a random rotation",
  .fields = kd_lelp_fit_fields,
  .params = kd_lelp_fit_params,
  .params_size = sizeof (KdLelpFitParams),
  .state_size = sizeof (KdLelpFitState),
  .state_open = kd_lelp_fit_open,
  .state_clear = kd_lelp_fit_clear,
  .evaluate = kd_lelp_fit_evaluate,
  .finish = kd_lelp_fit_finish,
  .results = kd_lelp_fit_results,
  .conclude = kd_lelp_fit_conclude,
};

KD_TRANSFORM_PLUGIN (kd_lelp_fit)
