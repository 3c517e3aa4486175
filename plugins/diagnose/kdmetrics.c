/**
 * SECTION:element-kdmetrics
 * @short_description: accuracy, likelihood, calibration and agreement with the teacher
 *
 * Counts over an epoch, apart for training and validation batches, and posts one element message "kd-metrics" at its end:
 *  - count: uint64, counted rows; accuracy: share of rows whose largest student logit is the label
 *  - nll: mean of -log softmax (student.logits) [label]; loss: mean of the batches' `loss`, weighted by their counted rows
 *  - agreement: share of rows where student and teacher have the same largest logit
 *  - ece: sum over 15 equal bins of confidence of (rows in bin / rows) |accuracy of bin - mean confidence of bin|
 * What has no field to come from is left out. Values of validation batches have the prefix "validation-".
 *
 * ## Fields (none of them counts as used)
 *  - student.logits: float32 [* C]
 *  - teacher.logits: float32, float16 or bfloat16 [* C], optional
 *  - label: int64 [*], optional; rows with ignore-index do not count
 *  - mask: any number [*], optional: rows with 0 do not count; loss: scalar, optional
 * ## Units
 * nll in nats; accuracy, agreement, ece in [0, 1].
 * ## Errors
 * Label out of range (KD_ERROR_RANGE), student logits that are NaN or +infinity (KD_ERROR_VALUE).
 * ## Source
 * ECE: arXiv:1706.04599, section 2, 15 bins. A row lies in bin ceil (15 confidence).
 * ## Example
 * |[ kd launch 'kdh5src location=batch.h5 ! kdmetrics ! kdh5sink location=out.h5' ]|
 */
#include <kd/kd.h>
#include <math.h>

#define N_BINS 15

typedef struct {
  gint64 ignore_index;
} KdMetricsParams;

static const KdParam kd_metrics_params[] = {
  KD_PARAM_INT (KdMetricsParams, ignore_index, G_MININT64, G_MAXINT64, -100, "Label of rows that do not count"),
  KD_PARAM_END
};

enum { STUDENT,
  TEACHER,
  LABEL,
  MASK,
  LOSS };
static const KdFieldSpec kd_metrics_fields[] = {
  [STUDENT] = { "student.logits", KD_FLOAT32, "* C", KD_FIELD_PEEK },
  [TEACHER] = { "teacher.logits", KD_FLOAT32 | KD_FLOAT16 | KD_BFLOAT16, "* C", KD_FIELD_OPTIONAL | KD_FIELD_PEEK },
  [LABEL] = { "label", KD_INT64, "*", KD_FIELD_OPTIONAL | KD_FIELD_PEEK },
  [MASK] = { "mask", KD_ANY_NUMBER, "*", KD_FIELD_OPTIONAL | KD_FIELD_PEEK },
  [LOSS] = { "loss", KD_FLOAT64, "", KD_FIELD_OPTIONAL | KD_FIELD_PEEK },
  KD_FIELD_END
};

/* Sums over rows; [0] of training batches, [1] of validation batches. Doubles, so that a checkpoint can keep the whole block as one array. */
typedef struct {
  gdouble count, labelled, correct, nll, taught, agree, loss, loss_count;
  gdouble bin_rows[N_BINS], bin_correct[N_BINS], bin_confidence[N_BINS];
} Sums;
typedef struct {
  Sums sums[2];
} KdMetricsState;

static const KdStateField kd_metrics_state[] = {
  KD_STATE_FIELD (KdMetricsState, sums, KD_FLOAT64, 2 * sizeof (Sums) / sizeof (gdouble)),
  { NULL }
};

/* 1 for the rows that count; FALSE on a label out of range. */
static gboolean
count_rows (const KdCall *call, gint64 n, gdouble *counted, GError **error)
{
  const KdMetricsParams *p = call->params;
  const gint64 *label = call->in[LABEL] ? call->in[LABEL]->data : NULL;
  gint64 n_classes = kd_call_size (call, 'C');

  for (gint64 i = 0; i < n; i++) {
    counted[i] = !call->in[MASK] || kd_tensor_get_double (call->in[MASK], (gsize) i) != 0;
    if (counted[i] == 0 || !label)
      continue;
    if (label[i] == p->ignore_index) {
      counted[i] = 0;
    } else if (label[i] < 0 || label[i] >= n_classes) {
      g_set_error (error, KD_ERROR, KD_ERROR_RANGE, "Label out of range: element=kdmetrics, field=label, row=%" G_GINT64_FORMAT ", label=%" G_GINT64_FORMAT ", classes=%" G_GINT64_FORMAT "; mark rows to leave out with %" G_GINT64_FORMAT, i, label[i], n_classes,
          p->ignore_index);
      return FALSE;
    }
  }
  return TRUE;
}

typedef struct {
  gdouble *lse, *max;
  gint64 *best, *teacher_best;
} Rows;

static void
add_row (const KdCall *call, gint64 i, const Rows *rows, Sums *sums)
{
  const gint64 *label = call->in[LABEL] ? call->in[LABEL]->data : NULL;

  sums->count++;
  if (rows->teacher_best) {
    sums->taught++;
    sums->agree += rows->best[i] == rows->teacher_best[i];
  }
  if (label) {
    const gfloat *logits = (const gfloat *) call->in[STUDENT]->data + i * kd_call_size (call, 'C');
    gint bin = CLAMP ((gint) ceil (rows->max[i] * N_BINS) - 1, 0, N_BINS - 1);
    gdouble correct = rows->best[i] == label[i];
    sums->labelled++;
    sums->correct += correct;
    sums->nll += rows->lse[i] - logits[label[i]];
    sums->bin_rows[bin]++;
    sums->bin_correct[bin] += correct;
    sums->bin_confidence[bin] += rows->max[i];
  }
}

static gboolean
kd_metrics_evaluate (const KdCall *call, KdOutputs *ret, GError **error)
{
  KdMetricsState *state = call->state;
  Sums *sums = &state->sums[call->flags & KD_BATCH_VALIDATION ? 1 : 0], next = *sums;
  gint64 size = kd_call_size (call, 'C'), n = size ? (gint64) kd_tensor_n_elements (call->in[STUDENT]) / size : 0;
  g_autofree gdouble *counted = g_new (gdouble, n), *lse = g_new (gdouble, n), *max = g_new (gdouble, n);
  g_autofree gint64 *best = g_new (gint64, n), *teacher_best = call->in[TEACHER] ? g_new (gint64, n) : NULL;
  Rows rows = { lse, max, best, teacher_best };

  if (!count_rows (call, n, counted, error))
    return FALSE;
  kd_softmax_rows (&(KdSoftmax) { .n = n, .size = size, .logits = call->in[STUDENT]->data, .type = KD_REAL_F32, .coef = counted, .temperature = 1.0, .lse = lse, .max = max, .argmax = best });
  if (teacher_best)
    kd_softmax_rows (&(KdSoftmax) { .n = n, .size = size, .logits = call->in[TEACHER]->data, .type = (KdReal) call->in[TEACHER]->dtype, .coef = counted, .temperature = 1.0, .argmax = teacher_best });
  for (gint64 i = 0; i < n; i++) {
    if (counted[i] == 0)
      continue;
    if (isnan (lse[i])) {
      g_set_error (error, KD_ERROR, KD_ERROR_VALUE, "Logits not finite: element=kdmetrics, field=student.logits, row=%" G_GINT64_FORMAT, i);
      return FALSE;
    }
    add_row (call, i, &rows, &next);
  }
  if (call->in[LOSS]) {
    next.loss += kd_tensor_get_double (call->in[LOSS], 0) * (next.count - sums->count);
    next.loss_count += next.count - sums->count;
  }
  *sums = next;
  return TRUE;
}

static void
report_value (GstStructure *structure, const gchar *prefix, const gchar *name, gdouble sum, gdouble count)
{
  g_autofree gchar *key = g_strconcat (prefix, name, NULL);

  if (count > 0)
    gst_structure_set (structure, key, G_TYPE_DOUBLE, sum / count, NULL);
}

static void
report_sums (GstStructure *structure, const gchar *prefix, const Sums *sums)
{
  g_autofree gchar *key = g_strconcat (prefix, "count", NULL);
  gdouble gap = 0;

  if (sums->count == 0)
    return;
  for (guint i = 0; i < N_BINS; i++)
    gap += fabs (sums->bin_correct[i] - sums->bin_confidence[i]);
  gst_structure_set (structure, key, G_TYPE_UINT64, (guint64) sums->count, NULL);
  report_value (structure, prefix, "accuracy", sums->correct, sums->labelled);
  report_value (structure, prefix, "nll", sums->nll, sums->labelled);
  report_value (structure, prefix, "ece", gap, sums->labelled);
  report_value (structure, prefix, "agreement", sums->agree, sums->taught);
  report_value (structure, prefix, "loss", sums->loss, sums->loss_count);
}

/* Starts the next epoch from nothing. */
static GstStructure *
kd_metrics_finish (const KdCall *call)
{
  KdMetricsState *state = call->state;
  GstStructure *structure;

  if (state->sums[0].count == 0 && state->sums[1].count == 0)
    return NULL;
  structure = gst_structure_new_empty ("kd-metrics");
  report_sums (structure, "", &state->sums[0]);
  report_sums (structure, "validation-", &state->sums[1]);
  *state = (KdMetricsState) { { { 0 } } };
  return structure;
}

static const KdTransformDesc kd_metrics = {
  .name = "kdmetrics",
  .title = "Metrics",
  .description = "Accuracy, loss, likelihood, calibration error and agreement with the teacher, an epoch at a time",
  .source = "arXiv:1706.04599 section 2 (ECE)",
  .formula = "accuracy = mean [argmax student = label]; agreement = mean [argmax student = argmax teacher]; "
             "nll = mean (-log softmax (student)_label); ece = sum_b (n_b / n) |accuracy_b - confidence_b|, 15 bins",
  .fields = kd_metrics_fields,
  .params = kd_metrics_params,
  .params_size = sizeof (KdMetricsParams),
  .state_size = sizeof (KdMetricsState),
  .state_fields = kd_metrics_state,
  .evaluate = kd_metrics_evaluate,
  .finish = kd_metrics_finish,
};

KD_TRANSFORM_PLUGIN (kd_metrics)
