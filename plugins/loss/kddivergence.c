/**
 * SECTION:element-kddivergence
 * @short_description: divergence between the teacher's and the student's distribution
 *
 * p = softmax (teacher.logits / T), q = softmax (student.logits / T), per row:
 *  - fkl: D = sum p (log p - log q), gradient (q sum p - p) / T
 *  - rkl: D = sum q (log q - log p), gradient q (log q - log p - D) / T
 *
 * loss = mean over counted rows of D, times T^2 with temperature-scale=t2. entropy-term=false prints fkl without the teacher's own entropy
 * (sum p log p): the gradient is the same.
 *
 * ## Fields
 *  - student.logits: float32 [* V], differentiable
 *  - teacher.logits: float32, float16 or bfloat16 [* V], read as it is
 *  - label: integers [N ...], optional; positions with `ignore-index` do not count
 *  - mask, token.weight, sample.weight: optional, see the base
 * ## Units
 * nats; token-mean over the counted rows by default.
 * ## Infinite logits
 * inf-policy=skip: an id whose logit is -infinity in either model (padding of a vocabulary) adds nothing and gets no gradient; with fkl and
 * entropy-term=false only the student's count. inf-policy=reject refuses them. NaN and +infinity are refused always.
 * ## Errors
 * None of its own; the base refuses disagreeing shapes and values that are not finite.
 * ## Source
 * arXiv:2306.13649 (GKD), arXiv:2402.03898 (DistiLLM), arXiv:1503.02531 section 2 (temperature, T^2). The toolkits mostly use no T^2 for
 * language models, so none is the default.
 * ## Example
 * |[ kd launch 'kdh5src location=batch.h5 ! kddivergence divergence=rkl temperature=2 ! kdh5sink location=out.h5' ]|
 */
#include <kd/kd.h>

enum { SCALE_NONE,
  SCALE_T2 };
enum { INF_SKIP,
  INF_REJECT };

typedef struct {
  gint divergence;
  gdouble temperature;
  gint temperature_scale;
  gboolean entropy_term;
  gint inf_policy;
} KdDivergenceParams;

static const KdEnumValue divergences[] = {
  { KD_DIVERGENCE_FORWARD_KL, "fkl", "KL (teacher || student)" },
  { KD_DIVERGENCE_REVERSE_KL, "rkl", "KL (student || teacher)" },
  { 0, NULL, NULL }
};
static const KdEnumValue scales[] = {
  { SCALE_NONE, "none", "The divergence as it is" },
  { SCALE_T2, "t2", "Multiplied by the temperature's square, so that the gradient keeps its size" },
  { 0, NULL, NULL }
};
static const KdEnumValue inf_policies[] = {
  { INF_SKIP, "skip", "Ids with a logit of -infinity add nothing and get no gradient" },
  { INF_REJECT, "reject", "An infinite logit is an error" },
  { 0, NULL, NULL }
};

static const KdParam kd_divergence_params[] = {
  KD_PARAM_ENUM (KdDivergenceParams, divergence, divergences, KD_DIVERGENCE_FORWARD_KL, "Which divergence"),
  KD_PARAM_DOUBLE (KdDivergenceParams, temperature, 0.01, 1000.0, 1.0, "Divides both logits before softmax"),
  KD_PARAM_ENUM (KdDivergenceParams, temperature_scale, scales, SCALE_NONE, "Factor of loss and gradient"),
  KD_PARAM_BOOL (KdDivergenceParams, entropy_term, TRUE, "false: leave the teacher's entropy out of the value of fkl"),
  KD_PARAM_ENUM (KdDivergenceParams, inf_policy, inf_policies, INF_SKIP, "What to do with infinite logits"),
  KD_PARAM_END
};

enum { STUDENT,
  TEACHER,
  LABEL };
static const KdFieldSpec kd_divergence_fields[] = {
  [STUDENT] = { "student.logits", KD_FLOAT32, "* V", KD_FIELD_GRAD },
  [TEACHER] = { "teacher.logits", KD_FLOAT32 | KD_FLOAT16 | KD_BFLOAT16, "* V" },
  [LABEL] = { "label", KD_ANY_INT, "N ...", KD_FIELD_OPTIONAL | KD_FIELD_LABEL },
  KD_FIELD_END
};

static gboolean
kd_divergence_evaluate (const KdCall *call, KdLossResult *ret, GError **error)
{
  const KdDivergenceParams *p = call->params;
  const KdRows *rows = kd_call_rows (call);
  g_autofree gdouble *value = g_new (gdouble, rows->n);
  gdouble scale = p->temperature_scale == SCALE_T2 ? p->temperature * p->temperature : 1.0;

  kd_divergence_rows (&(KdDivergence) {
      .kind = (KdDivergenceKind) p->divergence,
      .n = rows->n,
      .size = kd_call_size (call, 'V'),
      .student = call->in[STUDENT]->data,
      .teacher = call->in[TEACHER]->data,
      .teacher_type = (KdReal) call->in[TEACHER]->dtype,
      .coef = rows->coef,
      .temperature = p->temperature,
      .scale = scale,
      .cross_entropy = p->divergence == KD_DIVERGENCE_FORWARD_KL && !p->entropy_term,
      .reject_infinite = p->inf_policy == INF_REJECT,
      .grad = ret->grad[STUDENT],
      .value = value,
  });
  ret->loss = scale * kd_rows_sum (rows->n, rows->coef, value);
  return TRUE;
}

static const KdLossDesc kd_divergence = {
  .name = "kddivergence",
  .title = "Divergence loss",
  .description = "Forward or reverse KL divergence between the softened outputs of teacher and student",
  .source = "arXiv:2306.13649; arXiv:2402.03898; arXiv:1503.02531 section 2",
  .formula = "loss = s mean_n D (p, q), p = softmax (teacher / T), q = softmax (student / T); fkl: D = sum p log (p / q); "
             "rkl: D = sum q log (q / p); s = 1, or T^2 with temperature-scale=t2",
  .fields = kd_divergence_fields,
  .params = kd_divergence_params,
  .params_size = sizeof (KdDivergenceParams),
  .evaluate = kd_divergence_evaluate,
};

KD_LOSS_PLUGIN (kd_divergence)
