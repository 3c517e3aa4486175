/**
 * SECTION:element-kdpld
 * @short_description: the student learns the teacher's ranking as a chain of choices (Plackett-Luce)
 *
 * pi = the label, then the other classes by falling teacher logit (of equal ones the lower class first)
 * loss = mean over counted rows of sum_k a_k (LSE_k - s_pi_k), LSE_k = log sum_{j >= k} exp (s_pi_j)
 * grad_pi_j = (sum_{k <= j} a_k exp (s_pi_j - LSE_k) - a_j) / rows
 * weighting: teacher a_k = softmax (teacher / teacher-temperature)_pi_k; uniform a_k = 1 / C (ListMLE); decay a_k = decay^(k - 1) / their sum
 * (position-aware ListMLE); ce a = (1, 0, 0 ...), which is cross-entropy. ranking=class puts the other classes by their number, to compare with.
 *
 * The first choice is the label's cross-entropy: no other loss is needed beside it. loss.tail, the mean weight of the choices after the first,
 * tells what the teacher adds: near 0 the loss is cross-entropy, and a larger teacher-temperature the remedy.
 *
 * ## Fields
 *  - student.logits: float32 [* C], differentiable; C from 2
 *  - teacher.logits: float32, float16 or bfloat16 [* C]
 *  - label: int64 [*]
 *  - mask, token.weight, sample.weight: optional, see the base
 *  - adds loss.tail, scalar in [0, 1]; with per-sample loss.per_sample: float32 [*], each row's loss before weights, 0 on rows that do not count
 * ## Units
 * nats; token-mean over the counted rows by default.
 * ## Errors
 * One class (KD_ERROR_SHAPE), label out of range (KD_ERROR_RANGE), logits that are not finite (KD_ERROR_VALUE).
 * ## Source
 * arXiv:2506.12542, loss, gradient (appendix A) and listing (appendix C). The rule for ties, tokens and the form of decay are choices made here.
 * ## Example
 * |[ kd launch 'kdh5src location=batch.h5 ! kdpld teacher-temperature=4 ! kdh5sink location=out.h5' ]|
 */
#include <kd/kd.h>

typedef struct {
  gdouble teacher_temperature, decay;
  gint weighting, ranking;
  gboolean per_sample;
} KdPldParams;

static const KdEnumValue weightings[] = {
  { KD_CHOICE_TEACHER, "teacher", "The teacher's probability of the class that is chosen" },
  { KD_CHOICE_UNIFORM, "uniform", "All the same: ListMLE" },
  { KD_CHOICE_DECAY, "decay", "Falling from place to place by the factor decay: position-aware ListMLE" },
  { KD_CHOICE_FIRST, "ce", "Only the first choice: cross-entropy" },
  { 0, NULL, NULL }
};

enum { RANKING_TEACHER,
  RANKING_CLASS };
static const KdEnumValue rankings[] = {
  { RANKING_TEACHER, "teacher", "By falling teacher logit" },
  { RANKING_CLASS, "class", "By number: an order that says nothing, to compare with" },
  { 0, NULL, NULL }
};

static const KdParam kd_pld_params[] = {
  KD_PARAM_DOUBLE (KdPldParams, teacher_temperature, 0.01, 100.0, 1.0, "Divides the teacher's logits in the weights of the choices"),
  KD_PARAM_ENUM (KdPldParams, weighting, weightings, KD_CHOICE_TEACHER, "Weights of the choices"),
  KD_PARAM_DOUBLE (KdPldParams, decay, 0.01, 1.0, 0.5, "Factor from one choice to the next with weighting=decay"),
  KD_PARAM_ENUM (KdPldParams, ranking, rankings, RANKING_TEACHER, "Order of the classes after the label"),
  KD_PARAM_BOOL (KdPldParams, per_sample, FALSE, "Write loss.per_sample"),
  KD_PARAM_END
};

enum { STUDENT,
  TEACHER,
  LABEL };
static const KdFieldSpec kd_pld_fields[] = {
  [STUDENT] = { "student.logits", KD_FLOAT32, "* C", KD_FIELD_GRAD },
  [TEACHER] = { "teacher.logits", KD_FLOAT32 | KD_FLOAT16 | KD_BFLOAT16, "* C" },
  [LABEL] = { "label", KD_INT64, "*", KD_FIELD_LABEL },
  KD_FIELD_END
};

enum { TAIL,
  PER_SAMPLE };
static const KdFieldSpec kd_pld_outputs[] = {
  [TAIL] = { "loss.tail", KD_FLOAT64, "" },
  [PER_SAMPLE] = { "loss.per_sample", KD_FLOAT32, "*", 0, .when = "per_sample" },
  KD_FIELD_END
};

static gboolean
kd_pld_evaluate (const KdCall *call, KdLossResult *ret, GError **error)
{
  const KdPldParams *p = call->params;
  const KdRows *rows = kd_call_rows (call);
  gint64 size = kd_call_size (call, 'C');
  g_autofree gdouble *value = g_new (gdouble, rows->n), *tail = g_new (gdouble, rows->n);

  if (size < 2) {
    g_set_error (error, KD_ERROR, KD_ERROR_SHAPE, "Too few classes: element=kdpld, field=student.logits, classes=%" G_GINT64_FORMAT ", wanted=2 or more: one class has no ranking", size);
    return FALSE;
  }
  kd_plackett_luce_rows (&(KdPlackettLuce) {
      .n = rows->n,
      .size = size,
      .student = call->in[STUDENT]->data,
      .teacher = call->in[TEACHER]->data,
      .teacher_type = (KdReal) call->in[TEACHER]->dtype,
      .label = call->in[LABEL]->data,
      .coef = rows->coef,
      .weighting = (KdChoiceWeight) p->weighting,
      .temperature = p->teacher_temperature,
      .by_class = p->ranking == RANKING_CLASS,
      .decay = p->decay,
      .scale = 1.0,
      .grad = ret->grad[STUDENT],
      .value = value,
      .tail = tail,
  });
  ret->loss = kd_rows_sum (rows->n, rows->coef, value);
  *(gdouble *) ret->out[TAIL]->data = rows->n_counted ? kd_rows_sum (rows->n, NULL, tail) / (gdouble) rows->n_counted : 0;
  for (gint64 r = 0; ret->out[PER_SAMPLE] && r < rows->n; r++)
    ((gfloat *) ret->out[PER_SAMPLE]->data)[r] = (gfloat) value[r];
  return TRUE;
}

static const KdLossDesc kd_pld = {
  .name = "kdpld",
  .title = "Plackett-Luce distillation loss",
  .description = "Likelihood of the teacher's ranking with the label first, each choice weighted by the teacher's probability",
  .source = "arXiv:2506.12542",
  .formula = "loss = mean_n sum_k a_k (log sum_{j >= k} exp s_pi_j - s_pi_k), pi = label, then classes by falling teacher logit; "
             "a_k = softmax (teacher / teacher-temperature)_pi_k (weighting=teacher), 1 / C (uniform), decay^(k-1) / sum (decay), [k = 1] (ce)",
  .units = "nats; mean over the counted rows with reduction=token-mean",
  .fields = kd_pld_fields,
  .params = kd_pld_params,
  .params_size = sizeof (KdPldParams),
  .outputs = kd_pld_outputs,
  .evaluate = kd_pld_evaluate,
};

KD_LOSS_PLUGIN (kd_pld)
