/**
 * SECTION:element-kddhocombine
 * @short_description: the two heads of a dual-head student as one prediction, and the search for how to mix them
 *
 * p = alpha softmax (a) + (1 - alpha) softmax (k / beta), a the head for labels, k the head for the teacher; the prediction is the first largest.
 *
 * mode=fixed: alpha and beta are the properties, or what a search has written to `location`.
 * mode=search: for each beta of beta-grid, in it for each alpha = i alpha-step, i = 0, 1 ..., the rows whose label is predicted are counted over
 * the epoch; a pair is better only with more of them than all before it. What comes out of a batch is mixed by the best pair so far. At the end
 * of the stream the best pair is written to `location`. Search on validation rows: in fixed mode a labelled row that the search has seen (by its
 * sample.id) is refused.
 *
 * ## Fields
 *  - {ce-field} (student.ce.logits), {kd-field} (student.kd.logits): float32 [* C]
 *  - label: int64 [*], needed by a search; rows with -1 are not counted; sample.id: int64 [N], optional
 *  - adds student.probs: float32 [* C], prediction: int64 [*], student.logits: float32 [* C], the logarithm of student.probs, for kdmetrics
 * ## Results
 * In search: best.alpha, best.beta, best.correct, correct_table: int64 [betas, alphas], best.sample.id: int64 [rows]; element message kd-dho with
 * best.alpha, best.beta, best.correct, rows after each epoch.
 * ## Units
 * none.
 * ## Errors
 * Logits that are not finite, a label of no class, a search without labels or over no rows, a file that no search has written.
 * ## Source
 * arXiv:2505.07675; grid, order and strictness of erjui/DHO train_others.py; alpha and beta 0.5 of its large-scale script.
 * ## Example
 * |[ kd launch 'kdh5src location=val.h5 ! kdstudent arch="mlp dims=64,32,10" weights=s.safetensors features=layer1 ! kdmodule in=student.features.layer1
 * out=student.kd.logits config="out=10" weights=k.safetensors ! kddhocombine ce-field=student.logits mode=search location=best.h5 ! fakesink' ]|
 */
#include "kddhocombine.h"

#include <math.h>
#include <string.h>

static const KdEnumValue modes[] = {
  { FIXED, "fixed", "alpha and beta as they are set, or as the file of a search says" },
  { SEARCH, "search", "Count over the stream which pair predicts most labels" },
  { 0, NULL, NULL }
};

static const KdParam kd_dho_combine_params[] = {
  KD_PARAM_ENUM (KdDhoCombineParams, mode, modes, FIXED, "Use a pair or look for one"),
  KD_PARAM_DOUBLE (KdDhoCombineParams, alpha, 0.0, 1.0, 0.5, "fixed: share of the head for labels"),
  KD_PARAM_DOUBLE (KdDhoCombineParams, beta, 0.01, 100.0, 0.5, "fixed: divides the logits of the head for the teacher"),
  KD_PARAM_DOUBLE (KdDhoCombineParams, alpha_step, 0.01, 1.0, 0.05, "search: from one alpha to the next"),
  KD_PARAM_STRING (KdDhoCombineParams, beta_grid, "0.5,0.75,1,1.25,1.5,2,4", "search: the betas, with commas"),
  KD_PARAM_STRING (KdDhoCombineParams, location, "", "search: file to write; fixed: file of a search to take alpha and beta from"),
  KD_PARAM_BOOL (KdDhoCombineParams, allow_same_rows, FALSE, "fixed: take rows with the ids of searched ones: they are of another data set"),
  KD_PARAM_STRING (KdDhoCombineParams, ce_field, "student.ce.logits", "Logits of the head that learned from labels"),
  KD_PARAM_STRING (KdDhoCombineParams, kd_field, "student.kd.logits", "Logits of the head that learned from the teacher"),
  KD_PARAM_END
};

enum { CE_HEAD,
  KD_HEAD,
  LABEL };
static const KdFieldSpec kd_dho_combine_fields[] = {
  [CE_HEAD] = { "{ce_field}", KD_FLOAT32, "* C" },
  [KD_HEAD] = { "{kd_field}", KD_FLOAT32, "* C" },
  [LABEL] = { "label", KD_INT64, "*", KD_FIELD_OPTIONAL },
  KD_FIELD_END
};

enum { PROBS,
  PREDICTION,
  LOGITS };
static const KdFieldSpec kd_dho_combine_outputs[] = {
  [PROBS] = { "student.probs", KD_FLOAT32, "* C" },
  [PREDICTION] = { "prediction", KD_INT64, "*" },
  [LOGITS] = { "student.logits", KD_FLOAT32, "* C" },
  KD_FIELD_END
};

enum { BEST_ALPHA,
  BEST_BETA,
  BEST_CORRECT,
  TABLE,
  IDS };
static const KdFieldSpec kd_dho_combine_results[] = {
  [BEST_ALPHA] = { "best.alpha", KD_FLOAT64, "" },
  [BEST_BETA] = { "best.beta", KD_FLOAT64, "" },
  [BEST_CORRECT] = { "best.correct", KD_INT64, "" },
  [TABLE] = { "correct_table", KD_INT64, "B A" },
  [IDS] = { "best.sample.id", KD_INT64, "R" },
  KD_FIELD_END
};

static const KdStateField kd_dho_combine_state[] = {
  KD_STATE_FIELD (KdDhoCombineState, correct, KD_INT64, MAX_BETAS *MAX_ALPHAS),
  KD_STATE_FIELD (KdDhoCombineState, n_rows, KD_INT64, 5),
  KD_STATE_FIELD (KdDhoCombineState, mix, KD_FLOAT64, 2),
  { NULL }
};

static gboolean
kd_dho_combine_check (gconstpointer params, GError **error)
{
  gdouble beta[MAX_BETAS];

  return kd_dho_parse_grid (((const KdDhoCombineParams *) params)->beta_grid, beta, error) > 0;
}

static gboolean
kd_dho_combine_open (gconstpointer params, gpointer state_block, GError **error)
{
  const KdDhoCombineParams *p = params;
  KdDhoCombineState *state = state_block;

  state->ids = g_array_new (FALSE, FALSE, sizeof (gint64));
  state->mix[ALPHA] = p->mode == SEARCH ? 0 : p->alpha; /* the search's start */
  state->mix[BETA] = p->mode == SEARCH ? 1 : p->beta;
  return p->mode == SEARCH || !p->location || !*p->location || kd_dho_read_search (p->location, state, error);
}

static void
kd_dho_combine_clear (gpointer state_block)
{
  KdDhoCombineState *state = state_block;

  g_clear_pointer (&state->ids, g_array_unref);
  g_clear_pointer (&state->seen, g_hash_table_unref);
}

static gboolean
refuse_value (const KdCall *call, const gchar *field, gint64 row, GError **error)
{
  g_set_error (error, KD_ERROR, KD_ERROR_VALUE, "Logits not finite: element=kddhocombine, field=%s, row=%" G_GINT64_FORMAT, field, row);
  return FALSE;
}

/* Checks all rows before anything is counted. */
static gboolean
check_rows (const KdCall *call, gint64 n, GError **error)
{
  const KdDhoCombineParams *p = call->params;
  const KdDhoCombineState *state = call->state;
  const gint64 *label = call->in[LABEL] ? call->in[LABEL]->data : NULL;
  gint64 size = kd_call_size (call, 'C'), per_sample = call->n_samples ? n / call->n_samples : 1;

  if (p->mode == SEARCH && !label) {
    g_set_error (error, KD_ERROR, KD_ERROR_FIELD, "Field missing: element=kddhocombine, field=label, mode=search; put a source with labels before it");
    return FALSE;
  }
  for (gint64 r = 0; r < n; r++) {
    const gint64 *id = call->sample_id ? &call->sample_id[r / per_sample] : NULL;
    for (gint64 j = 0; j < size; j++) {
      if (!isfinite (((const gfloat *) call->in[CE_HEAD]->data)[r * size + j]))
        return refuse_value (call, p->ce_field, r, error);
      if (!isfinite (((const gfloat *) call->in[KD_HEAD]->data)[r * size + j]))
        return refuse_value (call, p->kd_field, r, error);
    }
    if (label && (label[r] < -1 || label[r] >= size)) {
      g_set_error (error, KD_ERROR, KD_ERROR_RANGE, "Label out of range: element=kddhocombine, field=label, row=%" G_GINT64_FORMAT ", label=%" G_GINT64_FORMAT ", classes=%" G_GINT64_FORMAT "; a row without a label has -1",
          r, label[r], size);
      return FALSE;
    }
    if (label && label[r] >= 0 && id && state->seen && !p->allow_same_rows && g_hash_table_contains (state->seen, id)) {
      g_set_error (error, KD_ERROR, KD_ERROR_VALUE, "Searched on the rows that are evaluated: element=kddhocombine, location=\"%s\", sample.id=%" G_GINT64_FORMAT "; search on other rows, or set allow-same-rows=true where the ids are of another data set",
          p->location, *id);
      return FALSE;
    }
  }
  return TRUE;
}

/* log (alpha e^a + (1 - alpha) e^k), without losing what both are when they underflow. */
static gdouble
log_mixture (gdouble alpha, gdouble a, gdouble k)
{
  gdouble x = a + log (alpha), y = k + log (1 - alpha), max = MAX (x, y);

  return max + log (exp (x - max) + exp (y - max));
}

static gboolean
kd_dho_combine_evaluate (const KdCall *call, KdOutputs *ret, GError **error)
{
  const KdDhoCombineParams *p = call->params;
  KdDhoCombineState *state = call->state;
  gint64 size = kd_call_size (call, 'C'), n = size > 0 ? (gint64) kd_tensor_n_elements (call->in[CE_HEAD]) / size : 0;
  g_autofree gdouble *a = g_new (gdouble, MAX (size, 1)), *k = g_new (gdouble, MAX (size, 1));

  if (!check_rows (call, n, error))
    return FALSE;
  if (p->mode == SEARCH)
    kd_dho_search (call, n, call->in[CE_HEAD]->data, call->in[KD_HEAD]->data, call->in[LABEL]->data, a, k);
  for (gint64 r = 0; r < n; r++) {
    gfloat *probs = (gfloat *) ret->out[PROBS]->data + r * size, *logits = (gfloat *) ret->out[LOGITS]->data + r * size;
    kd_dho_log_softmax ((const gfloat *) call->in[CE_HEAD]->data + r * size, size, 1, a);
    kd_dho_log_softmax ((const gfloat *) call->in[KD_HEAD]->data + r * size, size, state->mix[BETA], k);
    for (gint64 j = 0; j < size; j++)
      logits[j] = (gfloat) log_mixture (state->mix[ALPHA], a[j], k[j]);
    kd_dho_exp_row (a, size);
    kd_dho_exp_row (k, size);
    for (gint64 j = 0; j < size; j++)
      probs[j] = (gfloat) (state->mix[ALPHA] * a[j] + (1 - state->mix[ALPHA]) * k[j]);
    ((gint64 *) ret->out[PREDICTION]->data)[r] = kd_dho_predict (a, k, size, state->mix[ALPHA]);
  }
  return TRUE;
}

static GstStructure *
kd_dho_combine_finish (const KdCall *call)
{
  const KdDhoCombineParams *p = call->params;
  KdDhoCombineState *state = call->state;

  if (p->mode != SEARCH || state->n_rows == state->told)
    return NULL;
  state->told = state->n_rows;
  return gst_structure_new ("kd-dho", "best.alpha", G_TYPE_DOUBLE, state->mix[ALPHA], "best.beta", G_TYPE_DOUBLE, state->mix[BETA], "best.correct", G_TYPE_INT64,
      state->best, "rows", G_TYPE_INT64, state->n_rows, NULL);
}

static gboolean
kd_dho_combine_conclude (const KdCall *call, KdOutputs *ret, GError **error)
{
  const KdDhoCombineParams *p = call->params;
  const KdDhoCombineState *state = call->state;
  gdouble beta[MAX_BETAS];
  gint64 dims[2] = { kd_dho_parse_grid (p->beta_grid, beta, NULL), kd_dho_count_alphas (p) }, n_ids = state->ids ? state->ids->len : 0;

  if (p->mode != SEARCH)
    return TRUE;
  if (state->n_rows == 0) {
    g_set_error (error, KD_ERROR, KD_ERROR_VALUE, "Nothing to search on: element=kddhocombine, labelled rows=0; put a source with labels before it");
    return FALSE;
  }
  if (state->n_rows < state->n_classes)
    GST_WARNING ("kddhocombine: searched on %" G_GINT64_FORMAT " rows for %" G_GINT64_FORMAT " classes: alpha and beta are chance", state->n_rows, state->n_classes);
  ret->out[BEST_ALPHA] = kd_tensor_new_scalar (state->mix[ALPHA]);
  ret->out[BEST_BETA] = kd_tensor_new_scalar (state->mix[BETA]);
  ret->out[BEST_CORRECT] = kd_tensor_new (KD_INT64, 0, dims);
  *(gint64 *) ret->out[BEST_CORRECT]->data = state->best;
  ret->out[TABLE] = kd_tensor_new (KD_INT64, 2, dims);
  for (gint64 b = 0; b < dims[0]; b++)
    memcpy ((gint64 *) ret->out[TABLE]->data + b * dims[1], state->correct[b], (gsize) dims[1] * sizeof (gint64));
  if (n_ids > 0) {
    ret->out[IDS] = kd_tensor_new (KD_INT64, 1, &n_ids);
    memcpy (ret->out[IDS]->data, state->ids->data, ret->out[IDS]->n_bytes);
  }
  return TRUE;
}

static const KdTransformDesc kd_dho_combine = {
  .name = "kddhocombine",
  .title = "Dual-head prediction",
  .description = "Mixes the two heads of a dual-head student, and searches how on validation rows",
  .source = "arXiv:2505.07675",
  .formula = "p = alpha softmax (a) + (1 - alpha) softmax (k / beta)",
  .fields = kd_dho_combine_fields,
  .params = kd_dho_combine_params,
  .params_size = sizeof (KdDhoCombineParams),
  .check = kd_dho_combine_check,
  .state_size = sizeof (KdDhoCombineState),
  .state_open = kd_dho_combine_open,
  .state_clear = kd_dho_combine_clear,
  .state_fields = kd_dho_combine_state,
  .outputs = kd_dho_combine_outputs,
  .evaluate = kd_dho_combine_evaluate,
  .finish = kd_dho_combine_finish,
  .results = kd_dho_combine_results,
  .conclude = kd_dho_combine_conclude,
};

KD_TRANSFORM_PLUGIN (kd_dho_combine)
