/**
 * SECTION:element-kdadakd
 * @short_description: the hardest tokens, each at a temperature of its own (AdaKD)
 *
 * p = softmax (teacher.logits), q = softmax (student.logits); over the counted rows of the whole batch:
 *  - difficulty s: hellinger sqrt (sum (sqrt p - sqrt q)^2 / 2), fkl KL (p || q), rkl KL (q || p) or ce - log q_label
 *  - LATF keeps the k = max (1, floor (n ratio)) rows with the largest s; of equal ones the earlier
 *  - IDTS: with med the lower median of s over them, tau = base-temperature exp (-c tanh (log max (s / med, 1e-8))); base-temperature where med = 0
 * loss = 1/k sum over them of tau^2 D (softmax (teacher / tau), softmax (student / tau)), times kd-ratio, + (1 - kd-ratio) CE (student, label).
 * s, selection and tau are constants: the gradient is tau^2 that of D. tau-scale=false leaves tau^2 out.
 *
 * After the t-th training batch with counted rows, ema = decay ema + (1 - decay) loss (the first: loss); once t > warmup-steps and ref is unset,
 * ref = ema; from then on, with d = ref - ema: d < -epsilon ref: ratio = min (1, ratio (1 + delta)), ref = ema; d > epsilon ref:
 * ratio = max (min-ratio, ratio (1 - delta)), ref = ema. The new ratio is the next batch's.
 *
 * ## Fields
 *  - student.logits: float32 [* C], differentiable; teacher.logits: float32, float16 or bfloat16 [* C]
 *  - label: int64 [*], needed with indicator=ce or kd-ratio below 1; positions with `ignore-index` do not count
 *  - mask, token.weight, sample.weight: optional, see the base. Selected rows stand for all: their coefficients are multiplied by n / k.
 * Adds loss.adakd (before kd-ratio), loss.ce, token.difficulty, token.temperature, token.selected (0 where not counted or selected),
 * adakd.ratio (used), adakd.ratio-next, adakd.ema, adakd.ref (-1 while unset).
 * ## Units
 * nats; token-mean over the selected rows by default. LATF sees the loss before `weight` and kd-ratio.
 * ## State
 * ratio, ema, ref and t go into checkpoints.
 * ## Errors
 * No label where one is needed (KD_ERROR_FIELD); base-temperature e^-|c| below 0.01 or e^|c| above 1000 (KD_ERROR_RANGE). A loss that is not finite stops and leaves the state as it was.
 * ## Source
 * arXiv:2510.11615; SassyRong/AdaKD for tau^2, min-ratio and defaults. tau has no gradient (the paper's equation 10; the code forgets it).
 * ema-decay 0.99 suits runs of 1000 steps, 0.95 shorter ones. c below 0 is the inverse, for comparison.
 * ## Example
 * |[ kd launch 'kdh5src location=batch.h5 ! kdadakd warmup-steps=50 ! kdh5sink location=out.h5' ]|
 */
#include <kd/kd.h>
#include <math.h>

enum { INDICATOR_HELLINGER,
  INDICATOR_FKL,
  INDICATOR_RKL,
  INDICATOR_CE };

typedef struct {
  gint divergence, indicator;
  gdouble beta, alpha, base_temperature, c, ema_decay, epsilon, delta, min_ratio, ratio_fixed, kd_ratio;
  gboolean latf, idts, tau_scale;
  gint64 warmup_steps;
} KdAdakdParams;

static const KdEnumValue divergences[] = {
  { KD_DIVERGENCE_FORWARD_KL, "fkl", "KL (teacher || student)" },
  { KD_DIVERGENCE_REVERSE_KL, "rkl", "KL (student || teacher)" },
  { KD_DIVERGENCE_JSD, "jsd", "Generalized Jensen-Shannon" },
  { KD_DIVERGENCE_SKEW_FORWARD_KL, "skew-fkl", "KL (teacher || mixture with a little of the teacher)" },
  { KD_DIVERGENCE_SKEW_REVERSE_KL, "skew-rkl", "KL (student || mixture with a little of the student)" },
  { KD_DIVERGENCE_TOTAL_VARIATION, "tvd", "Total variation" },
  { 0, NULL, NULL }
};
static const KdEnumValue indicators[] = {
  { INDICATOR_HELLINGER, "hellinger", "Hellinger distance of the two distributions" },
  { INDICATOR_FKL, "fkl", "KL (teacher || student)" },
  { INDICATOR_RKL, "rkl", "KL (student || teacher)" },
  { INDICATOR_CE, "ce", "The student's cross-entropy with the label" },
  { 0, NULL, NULL }
};

static const KdParam kd_adakd_params[] = {
  KD_PARAM_ENUM (KdAdakdParams, divergence, divergences, KD_DIVERGENCE_REVERSE_KL, "Divergence of the selected rows"),
  KD_PARAM_DOUBLE (KdAdakdParams, beta, 0.0, 1.0, 0.1, "jsd: the teacher's share of the mixture"),
  KD_PARAM_DOUBLE (KdAdakdParams, alpha, 1e-6, 1.0 - 1e-6, 0.1, "skew-fkl, skew-rkl: share of the first distribution in the mixture"),
  KD_PARAM_ENUM (KdAdakdParams, indicator, indicators, INDICATOR_HELLINGER, "What says how hard a row is"),
  KD_PARAM_BOOL (KdAdakdParams, latf, TRUE, "Keep the hardest rows alone, as many as the loss's course asks for"),
  KD_PARAM_BOOL (KdAdakdParams, idts, TRUE, "A temperature for each row, low for hard ones"),
  KD_PARAM_DOUBLE (KdAdakdParams, base_temperature, 0.01, 1000.0, 1.0, "Temperature of a row of median difficulty"),
  KD_PARAM_DOUBLE (KdAdakdParams, c, -10.0, 10.0, 0.5, "Range of the temperatures: base e^-c to base e^c; below 0: the inverse"),
  KD_PARAM_BOOL (KdAdakdParams, tau_scale, TRUE, "Factor temperature^2 of each row"),
  KD_PARAM_DOUBLE (KdAdakdParams, ema_decay, 0.0, 0.999999, 0.99, "Decay of the loss's moving mean"),
  KD_PARAM_DOUBLE (KdAdakdParams, epsilon, 0.0, 0.999999, 0.05, "Relative change of the mean that changes the ratio"),
  KD_PARAM_DOUBLE (KdAdakdParams, delta, 0.0, 0.999999, 0.05, "Relative change of the ratio"),
  KD_PARAM_DOUBLE (KdAdakdParams, min_ratio, 1e-6, 1.0, 0.1, "Smallest ratio of selected rows"),
  KD_PARAM_INT (KdAdakdParams, warmup_steps, 0, G_MAXINT64, 0, "Batches before the mean is compared"),
  KD_PARAM_DOUBLE (KdAdakdParams, ratio_fixed, 0.0, 1.0, 0.0, "A constant ratio, 0: LATF's"),
  KD_PARAM_DOUBLE (KdAdakdParams, kd_ratio, 0.0, 1.0, 1.0, "Share of this loss, the rest is the cross-entropy with the labels"),
  KD_PARAM_END
};

enum { STUDENT,
  TEACHER,
  LABEL };
static const KdFieldSpec kd_adakd_fields[] = {
  [STUDENT] = { "student.logits", KD_FLOAT32, "* C", KD_FIELD_GRAD },
  [TEACHER] = { "teacher.logits", KD_FLOAT32 | KD_FLOAT16 | KD_BFLOAT16, "* C" },
  [LABEL] = { "label", KD_INT64, "*", KD_FIELD_OPTIONAL | KD_FIELD_LABEL },
  KD_FIELD_END
};

enum { DIFFICULTY,
  TEMPERATURE,
  SELECTED,
  RATIO,
  RATIO_NEXT,
  EMA,
  REF };
static const KdFieldSpec kd_adakd_outputs[] = {
  [DIFFICULTY] = { "token.difficulty", KD_FLOAT32, "*" },
  [TEMPERATURE] = { "token.temperature", KD_FLOAT32, "*" },
  [SELECTED] = { "token.selected", KD_UINT8, "*" },
  [RATIO] = { "adakd.ratio", KD_FLOAT64, "" },
  [RATIO_NEXT] = { "adakd.ratio-next", KD_FLOAT64, "" },
  [EMA] = { "adakd.ema", KD_FLOAT64, "" },
  [REF] = { "adakd.ref", KD_FLOAT64, "" },
  KD_FIELD_END
};

enum { ADAKD,
  CE };
static const gchar *const kd_adakd_terms[] = { [ADAKD] = "adakd", [CE] = "ce", NULL };

typedef struct {
  gdouble ratio, ema, ref; /* ema, ref: -1 while unset */
  gint64 step;
} KdAdakdState;

static const KdStateField kd_adakd_state[] = {
  KD_STATE_FIELD (KdAdakdState, ratio, KD_FLOAT64, 1),
  KD_STATE_FIELD (KdAdakdState, ema, KD_FLOAT64, 1),
  KD_STATE_FIELD (KdAdakdState, ref, KD_FLOAT64, 1),
  KD_STATE_FIELD (KdAdakdState, step, KD_INT64, 1),
  { NULL }
};

static void
kd_adakd_state_init (gconstpointer params, gpointer state)
{
  *(KdAdakdState *) state = (KdAdakdState) { .ratio = 1, .ema = -1, .ref = -1 };
}

static gboolean
kd_adakd_check (gconstpointer params, GError **error)
{
  const KdAdakdParams *p = params;
  gdouble low = p->base_temperature * exp (-fabs (p->c)), high = p->base_temperature * exp (fabs (p->c));

  if (low >= 0.01 && high <= 1000)
    return TRUE;
  g_set_error (error, KD_ERROR, KD_ERROR_RANGE, "Temperatures out of range: element=kdadakd, base-temperature=%g, c=%g, lowest=%g, highest=%g, wanted=0.01 to 1000; set c nearer to 0", p->base_temperature, p->c, low, high);
  return FALSE;
}

/* A batch under way: counted rows and how hard they are, selected rows with coefficient and temperature. */
typedef struct {
  gint64 n, k;
  gint64 *row;         /* [n] counted rows, then hardest first */
  gdouble *difficulty; /* [rows] */
  gdouble *coef, *temperature;
} Selection;

static void
measure_difficulty (const KdCall *call, KdLossResult *ret, gdouble *ret_difficulty)
{
  const KdAdakdParams *p = call->params;
  const KdRows *rows = kd_call_rows (call);
  KdDivergence divergence = kd_call_divergence (call, p->indicator == INDICATOR_FKL ? KD_DIVERGENCE_FORWARD_KL : KD_DIVERGENCE_REVERSE_KL, STUDENT, TEACHER, rows->coef,
      ret_difficulty, ret);

  divergence.grad = NULL;
  if (p->indicator == INDICATOR_HELLINGER)
    kd_hellinger_rows (rows->n, divergence.size, divergence.student, divergence.teacher, divergence.teacher_type, rows->coef, ret_difficulty, 0);
  else if (p->indicator == INDICATOR_CE)
    kd_xent_rows (&(KdXent) { .n = rows->n, .size = divergence.size, .logits = divergence.student, .label = call->in[LABEL]->data, .coef = rows->coef, .value = ret_difficulty });
  else
    kd_divergence_rows (&divergence);
}

/* Hardest first, of equal ones the earlier; rows that are no number last, their loss says what they are. */
static gint
compare_rows (gconstpointer a, gconstpointer b, gpointer difficulty)
{
  gint64 x = *(const gint64 *) a, y = *(const gint64 *) b;
  gdouble s = ((const gdouble *) difficulty)[x], t = ((const gdouble *) difficulty)[y];

  if (isnan (s) != isnan (t))
    return isnan (s) ? 1 : -1;
  if (s != t && !isnan (s))
    return s > t ? -1 : 1;
  return (x > y) - (x < y);
}

/* tau of difficulty @s where the lower median is @median. */
static gdouble
temperature_of (const KdAdakdParams *p, gdouble s, gdouble median)
{
  if (!p->idts || !(median > 0))
    return p->base_temperature;
  return p->base_temperature * exp (-p->c * tanh (log (MAX (s / median, 1e-8))));
}

static void
select_rows (const KdCall *call, gdouble ratio, KdLossResult *ret, Selection *sel)
{
  const KdAdakdParams *p = call->params;
  const KdRows *rows = kd_call_rows (call);
  gdouble median;

  for (gint64 r = 0; r < rows->n; r++)
    if (rows->coef[r] != 0) {
      sel->row[sel->n++] = r;
      ((gfloat *) ret->out[DIFFICULTY]->data)[r] = (gfloat) sel->difficulty[r];
    }
  if (sel->n == 0)
    return;
  sel->k = CLAMP ((gint64) floor ((gdouble) sel->n * ratio), 1, sel->n);
  g_qsort_with_data (sel->row, (gint) sel->n, sizeof *sel->row, compare_rows, sel->difficulty);
  median = sel->difficulty[sel->row[sel->k - 1 - (sel->k - 1) / 2]];
  for (gint64 i = 0; i < sel->k; i++) {
    gint64 r = sel->row[i];
    sel->temperature[r] = temperature_of (p, sel->difficulty[r], median);
    sel->coef[r] = rows->coef[r] * ((gdouble) sel->n / (gdouble) sel->k);
    ((gfloat *) ret->out[TEMPERATURE]->data)[r] = (gfloat) sel->temperature[r];
    ((guint8 *) ret->out[SELECTED]->data)[r] = 1;
  }
}

static gdouble
add_divergence (const KdCall *call, const Selection *sel, KdLossResult *ret)
{
  const KdAdakdParams *p = call->params;
  gint64 n = kd_call_rows (call)->n;
  g_autofree gdouble *value = g_new (gdouble, n);
  KdDivergence divergence = kd_call_divergence (call, p->divergence, STUDENT, TEACHER, sel->coef, value, ret);

  divergence.beta = p->beta;
  divergence.alpha = p->alpha;
  divergence.scale = p->kd_ratio;
  divergence.grad = p->kd_ratio > 0 ? divergence.grad : NULL;
  kd_divergence_tempered_rows (&divergence, sel->temperature, p->tau_scale);
  for (gint64 r = 0; p->tau_scale && r < n; r++)
    value[r] *= sel->coef[r] != 0 ? sel->temperature[r] * sel->temperature[r] : 0;
  return kd_rows_sum (n, sel->coef, value);
}

/* LATF: the state after a batch with the mean @loss. */
static void
advance (const KdAdakdParams *p, gdouble loss, KdAdakdState *state)
{
  gdouble difference;

  state->step++;
  state->ema = state->step == 1 ? loss : p->ema_decay * state->ema + (1 - p->ema_decay) * loss;
  if (state->ref < 0) {
    if (state->step > p->warmup_steps)
      state->ref = state->ema;
    return;
  }
  difference = state->ref - state->ema;
  if (difference < -p->epsilon * state->ref)
    state->ratio = MIN (1, state->ratio * (1 + p->delta));
  else if (difference > 0 && difference > p->epsilon * state->ref)
    state->ratio = MAX (p->min_ratio, state->ratio * (1 - p->delta));
  else
    return;
  state->ref = state->ema;
}

static gboolean
kd_adakd_evaluate (const KdCall *call, KdLossResult *ret, GError **error)
{
  const KdAdakdParams *p = call->params;
  const KdRows *rows = kd_call_rows (call);
  KdAdakdState *state = call->state, next = *state;
  gdouble ratio = p->ratio_fixed > 0 ? p->ratio_fixed : p->latf ? state->ratio
                                                                : 1.0;
  g_autofree gint64 *row = g_new (gint64, rows->n);
  g_autofree gdouble *difficulty = g_new (gdouble, rows->n), *coef = g_new0 (gdouble, rows->n), *temperature = g_new0 (gdouble, rows->n);
  Selection sel = { 0, 0, row, difficulty, coef, temperature };

  if (!call->in[LABEL] && (p->indicator == INDICATOR_CE || p->kd_ratio < 1)) {
    g_set_error (error, KD_ERROR, KD_ERROR_FIELD, "Field missing: element=kdadakd, field=label, indicator=%s, kd-ratio=%g; put a source with labels before it or "
                                                  "set kd-ratio=1 and another indicator",
        indicators[p->indicator].nick, p->kd_ratio);
    return FALSE;
  }
  measure_difficulty (call, ret, difficulty);
  select_rows (call, ratio, ret, &sel);
  ret->term[ADAKD] = add_divergence (call, &sel, ret);
  if (p->kd_ratio < 1) {
    kd_xent_rows (&(KdXent) { .n = rows->n, .size = kd_call_size (call, 'C'), .logits = call->in[STUDENT]->data, .label = call->in[LABEL]->data, .coef = rows->coef, .scale = 1 - p->kd_ratio, .grad = ret->grad[STUDENT], .value = difficulty });
    ret->term[CE] = kd_rows_sum (rows->n, rows->coef, difficulty);
  }
  ret->loss = p->kd_ratio * ret->term[ADAKD] + (1 - p->kd_ratio) * ret->term[CE];
  for (gint64 i = 0; i < sel.n; i++) /* a row that was not selected may be the one that is no number */
    ret->loss = isnan (((const gfloat *) ret->out[DIFFICULTY]->data)[sel.row[i]]) ? NAN : ret->loss;
  if (sel.n > 0 && isfinite (ret->loss) && !(call->flags & KD_BATCH_VALIDATION))
    advance (p, ret->term[ADAKD] / call->weight, &next);
  *(gdouble *) ret->out[RATIO]->data = ratio;
  *(gdouble *) ret->out[RATIO_NEXT]->data = p->ratio_fixed > 0 ? p->ratio_fixed : p->latf ? next.ratio
                                                                                          : 1.0;
  *(gdouble *) ret->out[EMA]->data = next.ema;
  *(gdouble *) ret->out[REF]->data = next.ref;
  *state = next;
  return TRUE;
}

static const KdLossDesc kd_adakd = {
  .name = "kdadakd",
  .title = "AdaKD loss",
  .description = "Divergence over the hardest tokens, each at a temperature that its difficulty gives",
  .source = "arXiv:2510.11615; SassyRong/AdaKD",
  .formula = "loss = (1/k) sum over the k rows with the largest difficulty s of tau^2 D (softmax (teacher / tau), softmax (student / tau)); "
             "s = sqrt (sum (sqrt p - sqrt q)^2 / 2), tau = base-temperature exp (-c tanh (log (s / median)))",
  .units = "nats; mean over the selected rows with reduction=token-mean",
  .fields = kd_adakd_fields,
  .params = kd_adakd_params,
  .params_size = sizeof (KdAdakdParams),
  .check = kd_adakd_check,
  .state_size = sizeof (KdAdakdState),
  .state_init = kd_adakd_state_init,
  .state_fields = kd_adakd_state,
  .outputs = kd_adakd_outputs,
  .terms = kd_adakd_terms,
  .evaluate = kd_adakd_evaluate,
};

KD_LOSS_PLUGIN (kd_adakd)
