/**
 * SECTION:element-kddivergence
 * @short_description: divergence between the teacher's and the student's distribution
 *
 * p = softmax (teacher.logits / T), q = softmax (student.logits / T), per row:
 *  - fkl: D = sum p log (p / q)
 *  - rkl: D = sum q log (q / p)
 *  - jsd: D = beta KL (p || m) + (1 - beta) KL (q || m), m = beta p + (1 - beta) q; beta 0 is fkl and 1 is rkl
 *  - skew-fkl: D = KL (p || alpha p + (1 - alpha) q)
 *  - skew-rkl: D = KL (q || (1 - alpha) p + alpha q)
 *  - tvd: D = sum |p - q| / 2
 *  - sym-kl: D = (1 - lambda) KL (p || q) + lambda KL (q || p)
 *  - akl: D = w KL (p || q) + (1 - w) KL (q || p), w = the share of sum |p - q| that lies in the head: the ids with the largest p whose sum
 *    is within mu, and always the first; 1/2 when p = q. The gradient takes w as constant.
 *
 * loss = mean over counted rows of D, times T^2 with temperature-scale=t2. With A_j = q_j dD/dq_j the gradient is (A_j - q_j sum A) / T:
 * (q - p) / T for fkl, q (log (q / p) - D) / T for rkl. entropy-term=false leaves what depends on the teacher alone (sum p log p) out of the
 * value of fkl, skew-fkl and sym-kl's forward half: the gradient is the same.
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
 * arXiv:2306.13649 (GKD: jsd, beta 0.5 of TRL), arXiv:2402.03898 (DistiLLM: skewed, alpha 0.1), arXiv:2404.02657 (akl, mu 0.5; the head as
 * in its code), torchtune (sym-kl, 0.5), arXiv:1503.02531 section 2 (temperature, T^2). The toolkits mostly use no T^2 for language models, so
 * none is the default. DistiLLM's js lam is 1 - beta, torchtune's sym_kd_ratio is 1 - lambda.
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
  gdouble beta, alpha, lambda, mu, temperature;
  gint temperature_scale;
  gboolean entropy_term;
  gint inf_policy;
} KdDivergenceParams;

static const KdEnumValue divergences[] = {
  { KD_DIVERGENCE_FORWARD_KL, "fkl", "KL (teacher || student)" },
  { KD_DIVERGENCE_REVERSE_KL, "rkl", "KL (student || teacher)" },
  { KD_DIVERGENCE_JSD, "jsd", "Generalized Jensen-Shannon" },
  { KD_DIVERGENCE_SKEW_FORWARD_KL, "skew-fkl", "KL (teacher || mixture with a little of the teacher)" },
  { KD_DIVERGENCE_SKEW_REVERSE_KL, "skew-rkl", "KL (student || mixture with a little of the student)" },
  { KD_DIVERGENCE_TOTAL_VARIATION, "tvd", "Total variation" },
  { KD_DIVERGENCE_SYMMETRIC_KL, "sym-kl", "Both KL, mixed by lambda" },
  { KD_DIVERGENCE_ADAPTIVE_KL, "akl", "Both KL, mixed by where the two differ: in the teacher's head or in its tail" },
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
  KD_PARAM_DOUBLE (KdDivergenceParams, beta, 0.0, 1.0, 0.5, "jsd: the teacher's share of the mixture"),
  KD_PARAM_DOUBLE (KdDivergenceParams, alpha, 1e-6, 1.0 - 1e-6, 0.1, "skew-fkl, skew-rkl: share of the first distribution in the mixture"),
  KD_PARAM_DOUBLE (KdDivergenceParams, lambda, 0.0, 1.0, 0.5, "sym-kl: share of the reverse KL"),
  KD_PARAM_DOUBLE (KdDivergenceParams, mu, 0.0, 1.0, 0.5, "akl: probability mass of the teacher's head"),
  KD_PARAM_DOUBLE (KdDivergenceParams, temperature, 0.01, 1000.0, 1.0, "Divides both logits before softmax"),
  KD_PARAM_ENUM (KdDivergenceParams, temperature_scale, scales, SCALE_NONE, "Factor of loss and gradient"),
  KD_PARAM_BOOL (KdDivergenceParams, entropy_term, TRUE, "false: leave the teacher's entropy out of the value of fkl, skew-fkl and sym-kl"),
  KD_PARAM_ENUM (KdDivergenceParams, inf_policy, inf_policies, INF_SKIP, "What to do with infinite logits"),
  KD_PARAM_END
};

enum { STUDENT,
  TEACHER,
  LABEL };
static const KdFieldSpec kd_divergence_fields[] = {
  [STUDENT] = { "student.logits", KD_FLOAT32, "* V", KD_FIELD_GRAD | KD_FIELD_FRESH },
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
      .beta = p->beta,
      .alpha = p->alpha,
      .lambda = p->lambda,
      .mu = p->mu,
      .cross_entropy = !p->entropy_term,
      .reject_infinite = p->inf_policy == INF_REJECT,
      .grad = ret->grad[STUDENT],
      .fresh = ret->fresh[STUDENT],
      .value = value,
  });
  ret->loss = scale * kd_rows_sum (rows->n, rows->coef, value);
  return TRUE;
}

static const KdLossDesc kd_divergence = {
  .name = "kddivergence",
  .title = "Divergence loss",
  .description = "KL, Jensen-Shannon, skewed, total variation ... between the softened outputs of teacher and student",
  .source = "arXiv:2306.13649; arXiv:2402.03898; arXiv:2404.02657; arXiv:1503.02531 section 2",
  .formula = "loss = s mean_n D (p, q), p = softmax (teacher / T), q = softmax (student / T); s = 1, or T^2 with temperature-scale=t2; "
             "fkl: D = sum p log (p / q); rkl: D = sum q log (q / p); jsd: D = beta KL (p || m) + (1 - beta) KL (q || m), m = beta p + (1 - beta) q; "
             "skew-fkl: D = KL (p || alpha p + (1 - alpha) q); skew-rkl: D = KL (q || (1 - alpha) p + alpha q); tvd: D = sum |p - q| / 2; "
             "sym-kl: D = (1 - lambda) fkl + lambda rkl; akl: D = w fkl + (1 - w) rkl, w the share of sum |p - q| in the teacher's head of mass mu",
  .fields = kd_divergence_fields,
  .params = kd_divergence_params,
  .params_size = sizeof (KdDivergenceParams),
  .evaluate = kd_divergence_evaluate,
};

KD_LOSS_PLUGIN (kd_divergence)
