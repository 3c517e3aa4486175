/**
 * SECTION:element-kdtaid
 * @short_description: a target between student and teacher that moves to the teacher (TAID)
 *
 * u = (1 - t) student.logits + t teacher.logits, student as a constant; p = softmax (u), q = softmax (student.logits), per row:
 * loss-form=ce: D = - sum p log q; kl: D = sum p (log p - log q); J = mean over counted rows of D
 * loss = lm-weight CE (student, label) + (1 - lm-weight) J; gradient of D: q - p in both forms, exactly 0 at t = 0.
 *
 * After the batch number k = 0, 1 ... (the first one only sets J_prev), with r = (J_prev - J) / (J_prev + 1e-15) within 1e6:
 *   m = beta m + (1 - beta) r; line = t-start + (t-end - t-start) min (k / total-steps, 1)
 *   t = min (t-end, max (line, t + alpha sigmoid (m) (1 - t))) with adaptive=true, else line; J_prev = J
 * A batch without counted rows moves k alone, a validation batch nothing.
 *
 * ## Fields
 *  - student.logits: float32 [* C], differentiable; teacher.logits: float32, float16 or bfloat16 [* C]
 *  - label: integers [N ...], needed with lm-weight above 0; positions with `ignore-index` do not count
 *  - train.step: int64 scalar, needed with step-source=field: optimizer steps done before this batch (accumulated gradients)
 *  - mask, token.weight, sample.weight: optional, see the base
 * Adds loss.taid (J) and loss.ce, both before their weights, and of the schedule taid.t (of this batch), taid.t-next, taid.delta-t (what the
 * adaptive part adds), taid.momentum, taid.prev-loss (-1 before the first loss).
 * ## Units
 * nats; token-mean over the counted rows by default. The schedule sees J before `weight`.
 * ## State
 * t, m, J_prev and k go into checkpoints; a resumed run goes on with them. The end of the stream and epochs change nothing; a flush and the
 * property reset=true begin anew with the next batch. The property current-t shows t (and notifies).
 * ## Errors
 * t-start not below 1 or above t-end, total-steps not set (KD_ERROR_RANGE); no label, no train.step (KD_ERROR_FIELD); train.step below 0
 * (KD_ERROR_RANGE). A loss that is not finite stops and leaves the state as it was.
 * ## Source
 * arXiv:2501.16937 and SakanaAI/TAID: alpha, beta, t-start 0.4 (0.2 in two of three published runs); no temperature. The paper's objective is the
 * KL, the code feeds the cross-entropy to the schedule: ce is the default. The adaptive part acts only where alpha (1 - t) / 2 is above the
 * line's slope (t-end - t-start) / total-steps: with 1000 steps alpha of 2e-3 to 1e-2.
 * ## Example
 * |[ kd launch 'kdh5src location=batch.h5 ! kdtaid total-steps=1000 alpha=0.005 ! kdh5sink location=out.h5' ]|
 */
#include <kd/kd.h>
#include <math.h>

enum { SOURCE_INTERNAL,
  SOURCE_FIELD };
enum { FORM_CE,
  FORM_KL };

typedef struct {
  gdouble t_start, t_end, alpha, beta, lm_weight;
  gboolean adaptive;
  gint64 total_steps;
  gint step_source, loss_form;
} KdTaidParams;

static const KdEnumValue sources[] = {
  { SOURCE_INTERNAL, "internal", "Count this element's training batches" },
  { SOURCE_FIELD, "field", "Read train.step" },
  { 0, NULL, NULL }
};
static const KdEnumValue forms[] = {
  { FORM_CE, "ce", "Cross-entropy with the target, as the published code" },
  { FORM_KL, "kl", "KL divergence from the target, as the paper" },
  { 0, NULL, NULL }
};

static const KdParam kd_taid_params[] = {
  KD_PARAM_DOUBLE (KdTaidParams, t_start, 0.0, 1.0, 0.4, "Teacher's share of the target at the beginning, below 1"),
  KD_PARAM_DOUBLE (KdTaidParams, t_end, 0.0, 1.0, 1.0, "Teacher's share at the end, above 0"),
  KD_PARAM_DOUBLE (KdTaidParams, alpha, 0.0, 1.0, 5e-4, "Step of the adaptive part"),
  KD_PARAM_DOUBLE (KdTaidParams, beta, 0.0, 0.999999, 0.99, "Momentum of the relative change of the loss"),
  KD_PARAM_BOOL (KdTaidParams, adaptive, TRUE, "false: the share follows the straight line alone"),
  KD_PARAM_INT (KdTaidParams, total_steps, 0, G_MAXINT64, 0, "Steps of the whole run, all epochs; has to be set"),
  KD_PARAM_ENUM (KdTaidParams, step_source, sources, SOURCE_INTERNAL, "What counts the steps"),
  KD_PARAM_ENUM (KdTaidParams, loss_form, forms, FORM_CE, "Value of a row; the gradient is the same"),
  KD_PARAM_DOUBLE (KdTaidParams, lm_weight, 0.0, 1.0, 0.0, "Share of the cross-entropy with the labels"),
  KD_PARAM_END
};

enum { STUDENT,
  TEACHER,
  LABEL,
  STEP };
static const KdFieldSpec kd_taid_fields[] = {
  [STUDENT] = { "student.logits", KD_FLOAT32, "* C", KD_FIELD_GRAD },
  [TEACHER] = { "teacher.logits", KD_FLOAT32 | KD_FLOAT16 | KD_BFLOAT16, "* C" },
  [LABEL] = { "label", KD_INT64, "*", KD_FIELD_OPTIONAL | KD_FIELD_LABEL },
  [STEP] = { "train.step", KD_INT64, "", KD_FIELD_OPTIONAL },
  KD_FIELD_END
};

enum { T,
  T_NEXT,
  DELTA,
  MOMENTUM,
  PREVIOUS };
static const KdFieldSpec kd_taid_outputs[] = {
  [T] = { "taid.t", KD_FLOAT64, "" },
  [T_NEXT] = { "taid.t-next", KD_FLOAT64, "" },
  [DELTA] = { "taid.delta-t", KD_FLOAT64, "" },
  [MOMENTUM] = { "taid.momentum", KD_FLOAT64, "" },
  [PREVIOUS] = { "taid.prev-loss", KD_FLOAT64, "" },
  KD_FIELD_END
};

enum { TAID,
  CE };
static const gchar *const kd_taid_terms[] = { [TAID] = "taid", [CE] = "ce", NULL };

typedef struct {
  gdouble t, momentum, previous; /* previous: -1 before the first loss */
  gint64 step;
} KdTaidState;

static const KdStateField kd_taid_state[] = {
  KD_STATE_SHOWN (KdTaidState, t, "current-t", "Teacher's share of the next batch's target"),
  KD_STATE_FIELD (KdTaidState, momentum, KD_FLOAT64, 1),
  KD_STATE_FIELD (KdTaidState, previous, KD_FLOAT64, 1),
  KD_STATE_FIELD (KdTaidState, step, KD_INT64, 1),
  { NULL }
};

static void
kd_taid_state_init (gconstpointer params, gpointer state)
{
  *(KdTaidState *) state = (KdTaidState) { .t = ((const KdTaidParams *) params)->t_start, .previous = -1 };
}

static gboolean
kd_taid_check (gconstpointer params, GError **error)
{
  const KdTaidParams *p = params;

  if (p->total_steps < 1) {
    g_set_error (error, KD_ERROR, KD_ERROR_RANGE, "Property not set: element=kdtaid, property=total-steps, value=%" G_GINT64_FORMAT ", wanted=1 or more; set it to the run's number of steps", p->total_steps);
    return FALSE;
  }
  if (!(p->t_start < 1 && p->t_end > 0 && p->t_start <= p->t_end)) {
    g_set_error (error, KD_ERROR, KD_ERROR_RANGE, "Properties do not go together: element=kdtaid, t-start=%g, t-end=%g, wanted=t-start below 1 and not above t-end, t-end above 0", p->t_start, p->t_end);
    return FALSE;
  }
  return TRUE;
}

static gboolean
check_fields (const KdCall *call, GError **error)
{
  const KdTaidParams *p = call->params;
  const KdTensor *step = call->in[STEP];

  if (p->lm_weight > 0 && !call->in[LABEL]) {
    g_set_error (error, KD_ERROR, KD_ERROR_FIELD, "Field missing: element=kdtaid, field=label, lm-weight=%g; put a source with labels before it or set lm-weight=0", p->lm_weight);
    return FALSE;
  }
  if (p->step_source == SOURCE_FIELD && !step) {
    g_set_error (error, KD_ERROR, KD_ERROR_FIELD, "Field missing: element=kdtaid, field=train.step, step-source=field; add the field or set step-source=internal");
    return FALSE;
  }
  if (p->step_source == SOURCE_FIELD && *(const gint64 *) step->data < 0) {
    g_set_error (error, KD_ERROR, KD_ERROR_RANGE, "Step out of range: element=kdtaid, field=train.step, value=%" G_GINT64_FORMAT ", wanted=0 or more", *(const gint64 *) step->data);
    return FALSE;
  }
  return TRUE;
}

/* The state after a training batch: @loss is J, NaN where no row counts. Returns what the adaptive part adds. */
static gdouble
advance (const KdTaidParams *p, gint64 k, gdouble loss, KdTaidState *state)
{
  gdouble relative, line, delta;

  state->step = k + 1;
  if (isnan (loss))
    return 0;
  if (state->previous < 0) {
    state->previous = loss;
    return 0;
  }
  relative = CLAMP ((state->previous - loss) / (state->previous + 1e-15), -1e6, 1e6);
  line = p->t_start + (p->t_end - p->t_start) * MIN ((gdouble) k / (gdouble) p->total_steps, 1.0);
  state->momentum = p->beta * state->momentum + (1 - p->beta) * relative;
  delta = p->alpha / (1 + exp (-state->momentum)) * (1 - state->t);
  state->t = p->adaptive ? MIN (p->t_end, MAX (line, state->t + delta)) : line;
  state->previous = loss;
  return delta;
}

/* J before `weight`; NaN where no row counts (a weight of 0 leaves none to read). */
static gdouble
mean_loss (const KdCall *call, gdouble weighted)
{
  const KdRows *rows = kd_call_rows (call);
  gint64 r = 0;

  while (r < rows->n && rows->coef[r] == 0)
    r++;
  return r < rows->n ? weighted / call->weight : NAN;
}

static void
report (const KdLossResult *ret, gdouble t, gdouble delta, const KdTaidState *next)
{
  const gdouble value[] = { [T] = t, [T_NEXT] = next->t, [DELTA] = delta, [MOMENTUM] = next->momentum, [PREVIOUS] = next->previous };

  for (guint i = 0; i < G_N_ELEMENTS (value); i++)
    *(gdouble *) ret->out[i]->data = value[i];
}

static gboolean
kd_taid_evaluate (const KdCall *call, KdLossResult *ret, GError **error)
{
  const KdTaidParams *p = call->params;
  const KdRows *rows = kd_call_rows (call);
  KdTaidState *state = call->state, next = *state;
  g_autofree gdouble *value = g_new (gdouble, rows->n);
  gint64 size = kd_call_size (call, 'C');
  gdouble delta = 0;

  if (!check_fields (call, error))
    return FALSE;
  kd_interpolated_rows (&(KdInterpolated) {
      .n = rows->n,
      .size = size,
      .student = call->in[STUDENT]->data,
      .teacher = call->in[TEACHER]->data,
      .teacher_type = (KdReal) call->in[TEACHER]->dtype,
      .coef = rows->coef,
      .share = state->t,
      .cross_entropy = p->loss_form == FORM_CE,
      .scale = 1 - p->lm_weight,
      .grad = p->lm_weight < 1 ? ret->grad[STUDENT] : NULL,
      .value = value,
  });
  ret->term[TAID] = kd_rows_sum (rows->n, rows->coef, value);
  if (p->lm_weight > 0) {
    kd_xent_rows (&(KdXent) { .n = rows->n, .size = size, .logits = call->in[STUDENT]->data, .label = call->in[LABEL]->data, .coef = rows->coef, .scale = p->lm_weight, .grad = ret->grad[STUDENT], .value = value });
    ret->term[CE] = kd_rows_sum (rows->n, rows->coef, value);
  }
  ret->loss = p->lm_weight * ret->term[CE] + (1 - p->lm_weight) * ret->term[TAID];
  if (!(call->flags & KD_BATCH_VALIDATION) && isfinite (ret->loss) && isfinite (ret->term[TAID]))
    delta = advance (p, p->step_source == SOURCE_FIELD ? *(const gint64 *) call->in[STEP]->data : state->step, mean_loss (call, ret->term[TAID]), &next);
  report (ret, state->t, delta, &next);
  *state = next;
  return TRUE;
}

static const KdLossDesc kd_taid = {
  .name = "kdtaid",
  .title = "TAID loss",
  .description = "Distillation to a target between student and teacher that moves to the teacher during training",
  .source = "arXiv:2501.16937; SakanaAI/TAID",
  .formula = "loss = lm-weight CE (student, label) + (1 - lm-weight) mean_n D, p = softmax ((1 - t) student + t teacher), q = softmax (student); "
             "ce: D = - sum p log q; kl: D = sum p log (p / q); t = min (t-end, max (line, t + alpha sigmoid (m) (1 - t)))",
  .units = "nats; mean over the counted rows with reduction=token-mean",
  .fields = kd_taid_fields,
  .params = kd_taid_params,
  .params_size = sizeof (KdTaidParams),
  .check = kd_taid_check,
  .state_size = sizeof (KdTaidState),
  .state_init = kd_taid_state_init,
  .state_fields = kd_taid_state,
  .resets = TRUE,
  .outputs = kd_taid_outputs,
  .terms = kd_taid_terms,
  .evaluate = kd_taid_evaluate,
};

KD_LOSS_PLUGIN (kd_taid)
