/**
 * SECTION:element-kdce
 * @short_description: cross-entropy of the student's outputs with labels
 *
 * loss = mean over counted rows of sum_c o_c (-log P_c), P = softmax (student.logits)
 * grad = (P sum_c o_c - o) / rows
 * o = (1 - eps) onehot (label) + eps / C, eps = label-smoothing; with label.soft its row stands in the place of the one-hot.
 *
 * ## Fields
 *  - student.logits: float32 [* C], differentiable
 *  - label: int64 [*], classes in [0, C); rows with `ignore-index` do not count
 *  - label.soft: float32 [* C], rows >= 0 that sum to 1 within 1e-3; when it is there it is the target, and label only says which rows count
 *  - mask, token.weight, sample.weight: optional, see the base
 * ## Units
 * nats; token-mean over the counted rows by default. For language models this is the token NLL.
 * ## Errors
 * Neither label nor label.soft (KD_ERROR_FIELD); a row of label.soft that is no distribution (KD_ERROR_VALUE). The base refuses labels out
 * of range and values that are not finite.
 * ## Source
 * Definition; label smoothing as in arXiv:1512.00567, section 7. arXiv:2605.16865 uses it on mixed targets (reduction token-mean).
 * ## Example
 * |[ kd launch 'kdh5src location=batch.h5 ! kdce label-smoothing=0.1 ! kdh5sink location=out.h5' ]|
 */
#include <kd/kd.h>

typedef struct {
  gdouble label_smoothing;
} KdCeParams;

static const KdParam kd_ce_params[] = {
  KD_PARAM_DOUBLE (KdCeParams, label_smoothing, 0.0, 1.0, 0.0, "Share of the target that is spread evenly over all classes"),
  KD_PARAM_END
};

enum { LOGITS,
  LABEL,
  SOFT };
static const KdFieldSpec kd_ce_fields[] = {
  [LOGITS] = { "student.logits", KD_FLOAT32, "* C", KD_FIELD_GRAD | KD_FIELD_FRESH },
  [LABEL] = { "label", KD_INT64, "*", KD_FIELD_OPTIONAL | KD_FIELD_LABEL },
  [SOFT] = { "label.soft", KD_FLOAT32, "* C", KD_FIELD_OPTIONAL },
  KD_FIELD_END
};

static gboolean
check_targets (const KdCall *call, GError **error)
{
  const KdRows *rows = kd_call_rows (call);
  gint64 bad;

  if (!call->in[LABEL] && !call->in[SOFT]) {
    g_set_error (error, KD_ERROR, KD_ERROR_FIELD,
        "Field missing: element=kdce, field=label or label.soft; put a source with labels before it");
    return FALSE;
  }
  bad = call->in[SOFT] ? kd_xent_find_bad_soft (rows->n, kd_call_size (call, 'C'), call->in[SOFT]->data, rows->coef) : -1;
  if (bad >= 0) {
    g_set_error (error, KD_ERROR, KD_ERROR_VALUE,
        "No distribution: element=kdce, field=label.soft, row=%" G_GINT64_FORMAT ", wanted=entries from 0 with sum 1 within 0.001", bad);
    return FALSE;
  }
  return TRUE;
}

static gboolean
kd_ce_evaluate (const KdCall *call, KdLossResult *ret, GError **error)
{
  const KdCeParams *p = call->params;
  const KdRows *rows = kd_call_rows (call);
  g_autofree gdouble *value = g_new (gdouble, rows->n);

  if (!check_targets (call, error))
    return FALSE;
  kd_xent_rows (&(KdXent) {
      .n = rows->n,
      .size = kd_call_size (call, 'C'),
      .logits = call->in[LOGITS]->data,
      .label = call->in[LABEL] ? call->in[LABEL]->data : NULL,
      .soft = call->in[SOFT] ? call->in[SOFT]->data : NULL,
      .smoothing = p->label_smoothing,
      .coef = rows->coef,
      .scale = 1.0,
      .grad = ret->grad[LOGITS],
      .fresh = ret->fresh[LOGITS],
      .value = value,
  });
  ret->loss = kd_rows_sum (rows->n, rows->coef, value);
  return TRUE;
}

static const KdLossDesc kd_ce = {
  .name = "kdce",
  .title = "Cross-entropy loss",
  .description = "Cross-entropy of the student's softmax with labels or soft labels, with label smoothing",
  .source = "definition; label smoothing arXiv:1512.00567 section 7",
  .formula = "loss = mean_n sum_c o_c (-log softmax (student)_c), o = (1 - eps) onehot (label) + eps / C",
  .units = "nats; mean over the counted rows with reduction=token-mean",
  .fields = kd_ce_fields,
  .params = kd_ce_params,
  .params_size = sizeof (KdCeParams),
  .evaluate = kd_ce_evaluate,
};

KD_LOSS_PLUGIN (kd_ce)
