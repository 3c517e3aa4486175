/**
 * SECTION:element-kdvirtualteacher
 * @short_description: a teacher made of the labels alone
 *
 * Probability `confidence` on the label and (1 - confidence) / (C - 1) on each other class; teacher.logits are the logarithms.
 * Feed it to kdhinton with a large temperature; with temperature 1, ce-weight 0 and confidence = 1 - eps (C - 1) / C it is label smoothing.
 *
 * ## Fields
 *  - label: int64 [*]; rows whose label is negative (not labelled) get even logits, for losses that leave them out
 *  - adds teacher.logits: float32 [* classes]
 * ## Units
 * log-probabilities, nats
 * ## Errors
 * A label of `classes` or more (KD_ERROR_RANGE).
 * ## Source
 * Tf-KD, arXiv:1909.11723 equations 7 and 8; label smoothing as a teacher: section 3.
 * ## Example
 * |[ kd launch 'kdh5src location=train.h5 ! kdvirtualteacher classes=10 ! kdstudent arch="mlp dims=64,16,10" ! kdhinton temperature=20 ! kdtrain' ]|
 */
#include <kd/kd.h>

#include <math.h>

typedef struct {
  gdouble confidence;
  gint64 classes;
} KdVirtualTeacherParams;

static const KdParam kd_virtual_teacher_params[] = {
  KD_PARAM_DOUBLE (KdVirtualTeacherParams, confidence, 1e-6, 0.999999, 0.9, "Probability of the label"),
  KD_PARAM_INT (KdVirtualTeacherParams, classes, 2, 1 << 24, 10, "Number of classes"),
  KD_PARAM_END
};

static const KdFieldSpec kd_virtual_teacher_fields[] = {
  { "label", KD_INT64, "*" },
  KD_FIELD_END
};
static const KdFieldSpec kd_virtual_teacher_outputs[] = {
  { "teacher.logits", KD_FLOAT32, "* {classes}" },
  KD_FIELD_END
};

static gboolean
kd_virtual_teacher_evaluate (const KdCall *call, KdOutputs *ret, GError **error)
{
  const KdVirtualTeacherParams *p = call->params;
  gfloat high = (gfloat) log (p->confidence), low = (gfloat) log ((1 - p->confidence) / (gdouble) (p->classes - 1));
  gsize n = kd_tensor_n_elements (call->in[0]);

  for (gsize r = 0; r < n; r++) {
    gint64 label = ((const gint64 *) call->in[0]->data)[r];
    gfloat *row = (gfloat *) ret->out[0]->data + r * (gsize) p->classes;
    if (label >= p->classes) {
      g_set_error (error, KD_ERROR, KD_ERROR_RANGE, "Label out of range: element=kdvirtualteacher, row=%" G_GSIZE_FORMAT ", label=%" G_GINT64_FORMAT ", classes=%" G_GINT64_FORMAT "; set classes",
          r, label, p->classes);
      return FALSE;
    }
    for (gint64 j = 0; j < p->classes; j++)
      row[j] = j == label ? high : low;
  }
  return TRUE;
}

static const KdTransformDesc kd_virtual_teacher = {
  .name = "kdvirtualteacher",
  .title = "Virtual teacher",
  .description = "Teacher logits made of the labels: confidence on the label, the rest even",
  .source = "arXiv:1909.11723 equations 7 and 8",
  .formula = "teacher.logits = log (confidence) on the label, log ((1 - confidence) / (C - 1)) elsewhere",
  .fields = kd_virtual_teacher_fields,
  .params = kd_virtual_teacher_params,
  .params_size = sizeof (KdVirtualTeacherParams),
  .outputs = kd_virtual_teacher_outputs,
  .evaluate = kd_virtual_teacher_evaluate,
};

KD_TRANSFORM_PLUGIN (kd_virtual_teacher)
