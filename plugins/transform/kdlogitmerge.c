/**
 * SECTION:element-kdlogitmerge
 * @short_description: classes from the logits of their subclasses
 *
 * out_c = log sum_s exp (in_(c S + s)): the softmax of out is what the subclasses of each class have together, so the largest is the prediction.
 *
 * ## Fields
 *  - {in} (student.logits): float32 [N M], M a multiple of S
 *  - adds {out} (student.logits): float32 [N C], C = M / S; with the same name it replaces what it merges
 * ## Units
 * logits.
 * ## Errors
 * A width that is no multiple of the subclasses (KD_ERROR_SHAPE).
 * ## Source
 * arXiv:2409.20449 section 3; arXiv:2002.03532 (subclass distillation) section 2.
 * ## Example
 * |[ kd launch 'kdh5src location=test.h5 ! kdstudent arch="mlp dims=64,12,10" weights=s.safetensors ! kdlogitmerge subclasses=5 ! kdmetrics ! fakesink' ]|
 */
#include <kd/kd.h>

#include <math.h>

typedef struct {
  gint64 subclasses;
  gchar *in, *out;
} KdLogitMergeParams;

static const KdParam kd_logit_merge_params[] = {
  KD_PARAM_INT (KdLogitMergeParams, subclasses, 1, 4096, 5, "Subclasses of each class"),
  KD_PARAM_STRING (KdLogitMergeParams, in, "student.logits", "Logits of the subclasses"),
  KD_PARAM_STRING (KdLogitMergeParams, out, "student.logits", "Logits of the classes"),
  KD_PARAM_END
};

static const KdFieldSpec kd_logit_merge_fields[] = {
  { "{in}", KD_FLOAT32, "N M" },
  KD_FIELD_END
};
static const KdFieldSpec kd_logit_merge_outputs[] = {
  { "{out}", KD_FLOAT32, "N C" },
  KD_FIELD_END
};

static gfloat
merge (const gfloat *x, gint64 n)
{
  gdouble max = -INFINITY, sum = 0;

  for (gint64 i = 0; i < n; i++)
    max = x[i] > max || isnan (x[i]) ? x[i] : max;
  if (!isfinite (max))
    return (gfloat) max;
  for (gint64 i = 0; i < n; i++)
    sum += exp (x[i] - max);
  return (gfloat) (max + log (sum));
}

static gboolean
kd_logit_merge_evaluate (const KdCall *call, KdOutputs *ret, GError **error)
{
  const KdLogitMergeParams *p = call->params;
  gint64 width = kd_call_size (call, 'M'), dims[2] = { call->n_samples, width / p->subclasses };

  if (width % p->subclasses != 0) {
    g_set_error (error, KD_ERROR, KD_ERROR_SHAPE, "Width is no multiple: element=kdlogitmerge, field=%s, width=%" G_GINT64_FORMAT ", subclasses=%" G_GINT64_FORMAT, p->in, width,
        p->subclasses);
    return FALSE;
  }
  ret->out[0] = kd_tensor_new (KD_FLOAT32, 2, dims);
  for (gint64 i = 0; i < dims[0] * dims[1]; i++)
    ((gfloat *) ret->out[0]->data)[i] = merge ((const gfloat *) call->in[0]->data + i * p->subclasses, p->subclasses);
  return TRUE;
}

static const KdTransformDesc kd_logit_merge = {
  .name = "kdlogitmerge",
  .title = "Subclasses to classes",
  .description = "Merges the logits of each class's subclasses into one",
  .source = "arXiv:2409.20449 section 3",
  .formula = "out_c = log sum_s exp (in_(c S + s))",
  .fields = kd_logit_merge_fields,
  .outputs = kd_logit_merge_outputs,
  .params = kd_logit_merge_params,
  .params_size = sizeof (KdLogitMergeParams),
  .evaluate = kd_logit_merge_evaluate,
};

KD_TRANSFORM_PLUGIN (kd_logit_merge)
