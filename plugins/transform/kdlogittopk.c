/**
 * SECTION:element-kdlogittopk
 * @short_description: a teacher's logits cut down to the k most probable ids
 *
 * ids: the k largest entries of teacher.logits, largest first, of equal ones the lower id
 * lse = log sum exp (teacher.logits / T); logprobs = teacher.logits [ids] / T - lse
 *
 * ## Fields
 *  - teacher.logits: float32, float16 or bfloat16 [* V], taken away
 *  - mask: any number [*], optional: rows with 0 are not read; they get ids -1, logprobs 0, lse 0
 * Writes teacher.topk.ids int64 [* k], teacher.topk.logprobs float32 [* k], teacher.topk.lse float32 [*].
 * ## Units
 * nats.
 * ## Errors
 * k larger than V (KD_ERROR_RANGE), a row with NaN, +infinity or nothing finite (KD_ERROR_VALUE).
 * ## Source
 * The form that caches of language models store; k 32 to 128 (DistillKit ships 128). Biased: arXiv:2503.16870; kdlogitsample is not.
 * ## Example
 * |[ kd launch 'kdh5src location=logits.h5 ! kdlogittopk k=64 ! kdh5sink location=topk.h5' ]|
 */
#include <kd/kd.h>
#include <math.h>

typedef struct {
  gint64 k;
  gdouble temperature;
} KdLogitTopkParams;

static const KdParam kd_logit_topk_params[] = {
  KD_PARAM_INT (KdLogitTopkParams, k, 1, 1 << 24, 64, "Ids a row; at most the size of the vocabulary"),
  KD_PARAM_DOUBLE (KdLogitTopkParams, temperature, 0.01, 1000.0, 1.0, "Divides the logits before the log-probabilities are formed"),
  KD_PARAM_END
};

enum { TEACHER,
  MASK };
static const KdFieldSpec kd_logit_topk_fields[] = {
  [TEACHER] = { "teacher.logits", KD_FLOAT32 | KD_FLOAT16 | KD_BFLOAT16, "* V" },
  [MASK] = { "mask", KD_ANY_NUMBER, "*", KD_FIELD_OPTIONAL },
  KD_FIELD_END
};

enum { IDS,
  LOGPROBS,
  LSE };
static const KdFieldSpec kd_logit_topk_outputs[] = {
  [IDS] = { "teacher.topk.ids", KD_INT64, "* {k}" },
  [LOGPROBS] = { "teacher.topk.logprobs", KD_FLOAT32, "* {k}" },
  [LSE] = { "teacher.topk.lse", KD_FLOAT32, "*" },
  KD_FIELD_END
};
static const gchar *const kd_logit_topk_drops[] = { "teacher.logits", NULL };

static gdouble
value_at (const KdTensor *tensor, gint64 i)
{
  return tensor->dtype == KD_FLOAT32 ? ((const gfloat *) tensor->data)[i] : kd_tensor_get_double (tensor, (gsize) i);
}

/* One row's log-probabilities from its ids. */
static void
fill_row (const KdCall *call, KdOutputs *ret, gint64 row, gboolean counted, gdouble lse)
{
  const KdLogitTopkParams *p = call->params;
  gint64 size = kd_call_size (call, 'V'), *ids = (gint64 *) ret->out[IDS]->data + row * p->k;
  gfloat *logprobs = (gfloat *) ret->out[LOGPROBS]->data + row * p->k;

  ((gfloat *) ret->out[LSE]->data)[row] = counted ? (gfloat) lse : 0;
  for (gint64 i = 0; i < p->k; i++) {
    if (!counted)
      ids[i] = -1;
    logprobs[i] = counted ? (gfloat) (value_at (call->in[TEACHER], row * size + ids[i]) / p->temperature - lse) : 0;
  }
}

static gboolean
kd_logit_topk_evaluate (const KdCall *call, KdOutputs *ret, GError **error)
{
  const KdLogitTopkParams *p = call->params;
  gint64 size = kd_call_size (call, 'V'), n = size ? (gint64) kd_tensor_n_elements (call->in[TEACHER]) / size : 0;
  g_autofree gdouble *counted = g_new (gdouble, n), *lse = g_new (gdouble, n);
  KdReal type = (KdReal) call->in[TEACHER]->dtype;

  if (p->k > size) {
    g_set_error (error, KD_ERROR, KD_ERROR_RANGE, "Property out of range: element=kdlogittopk, property=k, value=%" G_GINT64_FORMAT ", wanted=1 to the vocabulary's %" G_GINT64_FORMAT, p->k, size);
    return FALSE;
  }
  for (gint64 i = 0; i < n; i++)
    counted[i] = !call->in[MASK] || kd_tensor_get_double (call->in[MASK], (gsize) i) != 0;
  kd_softmax_rows (&(KdSoftmax) { .n = n, .size = size, .logits = call->in[TEACHER]->data, .type = type, .coef = counted, .temperature = p->temperature, .lse = lse });
  kd_topk_rows (&(KdTopk) { .n = n, .size = size, .k = p->k, .values = call->in[TEACHER]->data, .type = type, .coef = counted, .ids = ret->out[IDS]->data });
  for (gint64 i = 0; i < n; i++) {
    if (counted[i] != 0 && isnan (lse[i])) {
      g_set_error (error, KD_ERROR, KD_ERROR_VALUE, "Logits not finite: element=kdlogittopk, field=teacher.logits, row=%" G_GINT64_FORMAT "; repair the teacher or mask the row", i);
      return FALSE;
    }
    fill_row (call, ret, i, counted[i] != 0, lse[i]);
  }
  return TRUE;
}

static const KdTransformDesc kd_logit_topk = {
  .name = "kdlogittopk",
  .title = "Top-k of the teacher",
  .description = "Cuts the teacher's logits down to the k most probable ids and their log-probabilities",
  .source = "arXiv:2503.16870 section 2 (what it loses)",
  .formula = "ids = the k largest logits; lse = log sum exp (logits / T); logprobs = logits [ids] / T - lse",
  .fields = kd_logit_topk_fields,
  .params = kd_logit_topk_params,
  .params_size = sizeof (KdLogitTopkParams),
  .outputs = kd_logit_topk_outputs,
  .drops = kd_logit_topk_drops,
  .evaluate = kd_logit_topk_evaluate,
};

KD_TRANSFORM_PLUGIN (kd_logit_topk)
