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
 *  - ab: D = sum (alpha p^(alpha+beta) + beta q^(alpha+beta) - (alpha + beta) p^alpha q^beta) / (alpha beta (alpha + beta)); beta = 0 is its limit. Near
 *    alpha 1, beta 0 it is fkl, near 0, 1 rkl, and 4 (1 - sum sqrt (p q)) at 1/2, 1/2. For the dense teacher only.
 *
 * loss = mean over counted rows of D, times T^2 with temperature-scale=t2. With A_j = q_j dD/dq_j the gradient is (A_j - q_j sum A) / T:
 * (q - p) / T for fkl, q (log (q / p) - D) / T for rkl. entropy-term=false leaves what depends on the teacher alone (sum p log p) out of the
 * value of fkl, skew-fkl and sym-kl's forward half: the gradient is the same.
 *
 * ## Teachers of which only some ids are known
 * teacher.topk: log-probabilities s of K ids at temperature T_c (cache-temperature); rest = max (0, 1 - sum e^s), 0 up to tail-eps; a = T_c / T.
 *  - tail=bucket: p_k = e^(a s_k) / Z, all other ids are one outcome with rest^a / Z; Z is the sum of all (re-tempering treats the rest as one
 *    id, as DistillKit does)
 *  - renorm: the rest is left out; truncate: p_k = e^s_k, sums to less than 1; uniform: the rest is spread evenly over the other ids; label:
 *    it goes to the label, or is lost when that is no id. There p = 0 outside of the known ids: rkl, sym-kl and akl are infinite and refused
 *  - support=restricted: both models as if only the known ids existed; no gradient outside (then bucket and uniform are renorm)
 * A truncated teacher is biased: at the optimum of renorm and truncate the student gives nothing to the other ids; bucket repairs the known
 * ids and the sum of the others.
 * teacher.sampled: ids drawn at random with weights w (kdlogitsample), D = sum w (log w - log q): the gradient's mean is that of the dense fkl.
 * normalize=true divides by sum w. Only fkl.
 * top-k > 0: the K largest ids of a dense teacher, of the student or of both (support-source), with the true rest of both models; renorm
 * is restricted.
 *
 * ## Fields
 *  - student.logits: float32 [* V], differentiable
 *  - the teacher in one form (teacher-form): teacher.logits: float32, float16 or bfloat16 [* V], read as it is;
 *    teacher.topk.ids: int64 or int32 [* K] with teacher.topk.logprobs: float32 [* K];
 *    teacher.sampled.ids [* S] with teacher.sampled.weights: float32 [* S]. Id -1 is padding; a row of nothing else does not count
 *  - token.temperature: float32 [N ...], optional: the row's own T in place of `temperature` (T^2 is the row's too); repeated over later axes
 *  - label: integers [N ...], optional: positions with `ignore-index` do not count; tail=label gives the rest to it
 *  - mask, token.weight, sample.weight: optional, see the base
 * ## Units
 * nats; token-mean over the counted rows by default.
 * ## Infinite logits
 * inf-policy=skip: an id whose logit is -infinity in either model (padding of a vocabulary) adds nothing and gets no gradient; with fkl and
 * entropy-term=false only the student's count. inf-policy=reject refuses them. NaN and +infinity are refused always.
 * ## Errors
 * No teacher, or two (KD_ERROR_FIELD); an id outside of the vocabulary (KD_ERROR_RANGE); an id twice in a row, a log-probability above 1e-4,
 * probabilities that sum to more than 1.001, a negative weight (KD_ERROR_VALUE); a temperature outside [0.01, 1000] (KD_ERROR_RANGE); a
 * divergence that is infinite (KD_ERROR_UNSUPPORTED).
 * ## Source
 * ab: Cichocki and Amari, Entropy 12 (2010), equation 19; for distillation arXiv:2505.04560 (ABKD).
 * arXiv:2306.13649 (GKD: jsd, beta 0.5 of TRL), arXiv:2402.03898 (DistiLLM: skewed, alpha 0.1), arXiv:2404.02657 (akl, mu 0.5; the head as
 * in its code), torchtune (sym-kl, 0.5), arXiv:1503.02531 section 2 (temperature, T^2). The toolkits mostly use no T^2 for language models, so
 * none is the default. DistiLLM's js lam is 1 - beta, torchtune's sym_kd_ratio is 1 - lambda. Sparse: arcee-ai/DistillKit (renorm is its
 * "zero", bucket its "symmetric_uniform"), TRL iw_opd (top-k), arXiv:2503.16870 (sampled).
 * This file is longer than other leaves': one element for all divergences and forms of teacher, so that no two of them drift apart.
 * ## Example
 * |[ kd launch 'kdh5src location=batch.h5 ! kddivergence divergence=rkl temperature=2 ! kdh5sink location=out.h5' ]|
 */
#include <kd/kd.h>
#include <math.h>
#include <string.h>

enum { SCALE_NONE,
  SCALE_T2 };
enum { INF_SKIP,
  INF_REJECT };
enum { FORM_AUTO,
  FORM_LOGITS,
  FORM_TOPK,
  FORM_SAMPLED };
enum { SUPPORT_FULL,
  SUPPORT_RESTRICTED };

typedef struct {
  gint divergence;
  gdouble beta, alpha, lambda, mu, temperature;
  gint temperature_scale;
  gboolean entropy_term;
  gint inf_policy;
  gint teacher_form, tail, support, support_source;
  gdouble cache_temperature, tail_eps;
  gboolean normalize;
  gint64 top_k;
} KdDivergenceParams;

static const KdEnumValue divergences[] = {
  { KD_DIVERGENCE_FORWARD_KL, "fkl", "KL (teacher || student)", "D = sum p log (p / q)" },
  { KD_DIVERGENCE_REVERSE_KL, "rkl", "KL (student || teacher)", "D = sum q log (q / p)" },
  { KD_DIVERGENCE_JSD, "jsd", "Generalized Jensen-Shannon", "D = {beta} KL (p || m) + (1 - {beta}) KL (q || m), m = {beta} p + (1 - {beta}) q" },
  { KD_DIVERGENCE_SKEW_FORWARD_KL, "skew-fkl", "KL (teacher || mixture with a little of the teacher)", "D = KL (p || m), m = {alpha} p + (1 - {alpha}) q" },
  { KD_DIVERGENCE_SKEW_REVERSE_KL, "skew-rkl", "KL (student || mixture with a little of the student)", "D = KL (q || m), m = (1 - {alpha}) p + {alpha} q" },
  { KD_DIVERGENCE_TOTAL_VARIATION, "tvd", "Total variation", "D = sum |p - q| / 2" },
  { KD_DIVERGENCE_SYMMETRIC_KL, "sym-kl", "Both KL, mixed by lambda", "D = (1 - {lambda}) KL (p || q) + {lambda} KL (q || p)" },
  { KD_DIVERGENCE_ADAPTIVE_KL, "akl", "Both KL, mixed by where the two differ: in the teacher's head or in its tail",
      "D = w KL (p || q) + (1 - w) KL (q || p), w the share of sum |p - q| in the teacher's head of mass {mu}" },
  { KD_DIVERGENCE_ALPHA_BETA, "ab", "Alpha-beta: powers of both, dense teacher only",
      "D = sum (a p^(a + b) + b q^(a + b) - (a + b) p^a q^b) / (a b (a + b)), a = {alpha}, b = {beta}" },
  { 0, NULL, NULL }
};
static const KdEnumValue scales[] = {
  { SCALE_NONE, "none", "The divergence as it is", "mean_n D" },
  { SCALE_T2, "t2", "Multiplied by the temperature's square, so that the gradient keeps its size", "{temperature}^2 mean_n D" },
  { 0, NULL, NULL }
};
static const KdEnumValue inf_policies[] = {
  { INF_SKIP, "skip", "Ids with a logit of -infinity add nothing and get no gradient" },
  { INF_REJECT, "reject", "An infinite logit is an error" },
  { 0, NULL, NULL }
};
static const KdEnumValue forms[] = {
  { FORM_AUTO, "auto", "What is there; two are an error" },
  { FORM_LOGITS, "logits", "teacher.logits" },
  { FORM_TOPK, "topk", "teacher.topk.ids and .logprobs" },
  { FORM_SAMPLED, "sampled", "teacher.sampled.ids and .weights" },
  { 0, NULL, NULL }
};
static const KdEnumValue tails[] = {
  { KD_TAIL_RENORM, "renorm", "Left out; the known ids sum to 1",
      "p_k = e^(a s_k) / sum e^(a s), a = {cache_temperature} / {temperature}; 0 outside" },
  { KD_TAIL_TRUNCATE, "truncate", "Left out; the known ids sum to less than 1",
      "p_k = e^s_k; 0 outside" },
  { KD_TAIL_BUCKET, "bucket", "All other ids are one outcome",
      "p_k = e^(a s_k) / Z, all others one outcome with (1 - sum e^s)^a / Z, a = {cache_temperature} / {temperature}" },
  { KD_TAIL_UNIFORM, "uniform", "Spread evenly over the other ids",
      "p_k = e^(a s_k) / Z, the others share (1 - sum e^s)^a / Z evenly, a = {cache_temperature} / {temperature}" },
  { KD_TAIL_LABEL, "label", "Given to the label",
      "p_k = e^(a s_k) / Z, the label gets (1 - sum e^s)^a / Z, a = {cache_temperature} / {temperature}" },
  { 0, NULL, NULL }
};
static const KdEnumValue supports[] = {
  { SUPPORT_FULL, "full", "The student over its whole vocabulary" },
  { SUPPORT_RESTRICTED, "restricted", "Both models over the known ids alone" },
  { 0, NULL, NULL }
};
static const KdEnumValue support_sources[] = {
  { KD_SUPPORT_TEACHER, "teacher", "The teacher's largest" },
  { KD_SUPPORT_STUDENT, "student", "The student's largest" },
  { KD_SUPPORT_UNION, "union", "Both" },
  { 0, NULL, NULL }
};

static const KdParam kd_divergence_params[] = {
  KD_PARAM_ENUM (KdDivergenceParams, divergence, divergences, KD_DIVERGENCE_FORWARD_KL, "Which divergence"),
  KD_PARAM_DOUBLE (KdDivergenceParams, beta, 0.0, 1.0, 0.5, "jsd: the teacher's share of the mixture; ab: exponent of the student"),
  KD_PARAM_DOUBLE (KdDivergenceParams, alpha, 1e-6, 1.0 - 1e-6, 0.1, "skew-fkl, skew-rkl: share of the first distribution in the mixture; ab: exponent of the teacher"),
  KD_PARAM_DOUBLE (KdDivergenceParams, lambda, 0.0, 1.0, 0.5, "sym-kl: share of the reverse KL"),
  KD_PARAM_DOUBLE (KdDivergenceParams, mu, 0.0, 1.0, 0.5, "akl: probability mass of the teacher's head"),
  KD_PARAM_DOUBLE (KdDivergenceParams, temperature, 0.01, 1000.0, 1.0, "Divides both logits before softmax"),
  KD_PARAM_ENUM (KdDivergenceParams, temperature_scale, scales, SCALE_NONE, "Factor of loss and gradient"),
  KD_PARAM_BOOL (KdDivergenceParams, entropy_term, TRUE, "false: leave the teacher's entropy out of the value of fkl, skew-fkl and sym-kl"),
  KD_PARAM_ENUM (KdDivergenceParams, inf_policy, inf_policies, INF_SKIP, "What to do with infinite logits"),
  KD_PARAM_ENUM (KdDivergenceParams, teacher_form, forms, FORM_AUTO, "Which of the teacher's fields is read"),
  KD_PARAM_ENUM (KdDivergenceParams, tail, tails, KD_TAIL_BUCKET, "Sparse teacher: what becomes of the probability of the ids it does not name"),
  KD_PARAM_ENUM (KdDivergenceParams, support, supports, SUPPORT_FULL, "Sparse teacher: which ids of the student take part"),
  KD_PARAM_DOUBLE (KdDivergenceParams, cache_temperature, 0.01, 1000.0, 1.0, "Temperature at which teacher.topk.logprobs were taken"),
  KD_PARAM_DOUBLE (KdDivergenceParams, tail_eps, 0.0, 1.0, 1e-8, "Sparse teacher: a rest up to this is 0"),
  KD_PARAM_BOOL (KdDivergenceParams, normalize, FALSE, "Sampled teacher: divide the weights by their sum"),
  KD_PARAM_INT (KdDivergenceParams, top_k, 0, 1 << 24, 0, "Dense teacher: cut down to this many ids; 0: all"),
  KD_PARAM_ENUM (KdDivergenceParams, support_source, support_sources, KD_SUPPORT_TEACHER, "Dense teacher with top-k: whose largest ids"),
  KD_PARAM_END
};

enum { STUDENT,
  TEACHER,
  TOPK_IDS,
  TOPK_LOGPROBS,
  SAMPLED_IDS,
  SAMPLED_WEIGHTS,
  TEMPERATURE,
  LABEL };
static const KdFieldSpec kd_divergence_fields[] = {
  [STUDENT] = { "student.logits", KD_FLOAT32, "* V", KD_FIELD_GRAD | KD_FIELD_FRESH },
  [TEACHER] = { "teacher.logits", KD_FLOAT32 | KD_FLOAT16 | KD_BFLOAT16, "* V", KD_FIELD_OPTIONAL | KD_FIELD_ONE_OF },
  [TOPK_IDS] = { "teacher.topk.ids", KD_INT64 | KD_INT32, "* K", KD_FIELD_OPTIONAL | KD_FIELD_ONE_OF | KD_FIELD_PADDED },
  [TOPK_LOGPROBS] = { "teacher.topk.logprobs", KD_FLOAT32, "* K", KD_FIELD_OPTIONAL | KD_FIELD_FINITE },
  [SAMPLED_IDS] = { "teacher.sampled.ids", KD_INT64 | KD_INT32, "* S", KD_FIELD_OPTIONAL | KD_FIELD_ONE_OF | KD_FIELD_PADDED },
  [SAMPLED_WEIGHTS] = { "teacher.sampled.weights", KD_FLOAT32, "* S", KD_FIELD_OPTIONAL | KD_FIELD_FINITE },
  [TEMPERATURE] = { "token.temperature", KD_FLOAT32, "N ...", KD_FIELD_OPTIONAL },
  [LABEL] = { "label", KD_ANY_INT, "N ...", KD_FIELD_OPTIONAL | KD_FIELD_LABEL },
  KD_FIELD_END
};

static const gchar *
field_name (guint i)
{
  return kd_divergence_fields[i].name;
}

/* The teacher's form, FORM_AUTO on error. */
static gint
find_form (const KdCall *call, GError **error)
{
  static const guint first[] = { [FORM_LOGITS] = TEACHER, [FORM_TOPK] = TOPK_IDS, [FORM_SAMPLED] = SAMPLED_IDS };
  static const guint second[] = { [FORM_LOGITS] = TEACHER, [FORM_TOPK] = TOPK_LOGPROBS, [FORM_SAMPLED] = SAMPLED_WEIGHTS };
  gint found = ((const KdDivergenceParams *) call->params)->teacher_form;

  for (gint form = found ? FORM_SAMPLED + 1 : FORM_LOGITS; form <= FORM_SAMPLED; form++) {
    if (!call->in[first[form]] && !call->in[second[form]])
      continue;
    if (found) {
      g_set_error (error, KD_ERROR, KD_ERROR_FIELD, "Two teachers: element=kddivergence, fields=\"%s %s\"; take one away or set teacher-form", field_name (first[found]),
          field_name (first[form]));
      return FORM_AUTO;
    }
    found = form;
  }
  if (found && call->in[first[found]] && call->in[second[found]])
    return found;
  if (found)
    g_set_error (error, KD_ERROR, KD_ERROR_FIELD, "Field missing: element=kddivergence, field=%s; put a teacher or a cache before it",
        field_name (call->in[first[found]] ? second[found] : first[found]));
  else
    g_set_error (error, KD_ERROR, KD_ERROR_FIELD, "Field missing: element=kddivergence, field=teacher.logits; put kdteacher or a cache of logits, teacher.topk or teacher.sampled before it");
  return FORM_AUTO;
}

/* How many rows share a value of a field that covers the rows' first axes only; 0 on error. */
static gint64
rows_per_value (const KdCall *call, guint field, GError **error)
{
  const KdTensor *rows = call->in[STUDENT], *tensor = call->in[field];
  gint64 repeat = 1;

  if (tensor->rank >= rows->rank || memcmp (tensor->dims, rows->dims, tensor->rank * sizeof *rows->dims)) {
    g_autofree gchar *got = kd_tensor_shape_string (tensor), *wanted = kd_tensor_shape_string (rows);
    g_set_error (error, KD_ERROR, KD_ERROR_SHAPE, "Shapes differ: element=kddivergence, field=%s, shape=%s, student.logits=%s; wanted are its first axes", field_name (field), got, wanted);
    return 0;
  }
  for (guint i = tensor->rank; i + 1 < rows->rank; i++)
    repeat *= rows->dims[i];
  return MAX (repeat, 1);
}

/* Each row's own temperature, and with T^2 its own coefficient; NULL on error. */
static gdouble *
row_temperatures (const KdCall *call, gdouble *coef, GError **error)
{
  const KdDivergenceParams *p = call->params;
  const gfloat *given = call->in[TEMPERATURE]->data;
  gint64 n = call->rows->n, repeat = rows_per_value (call, TEMPERATURE, error);
  g_autofree gdouble *temperature = repeat ? g_new (gdouble, n) : NULL;

  for (gint64 i = 0; temperature && i < n; i++) {
    temperature[i] = given[i / repeat];
    if (coef[i] == 0)
      continue;
    if (!(temperature[i] >= 0.01 && temperature[i] <= 1000)) {
      g_set_error (error, KD_ERROR, isnan (temperature[i]) ? KD_ERROR_VALUE : KD_ERROR_RANGE, "Value out of range: element=kddivergence, field=token.temperature, row=%" G_GINT64_FORMAT ", value=%g, wanted=0.01 to 1000", i / repeat, temperature[i]);
      return NULL;
    }
    coef[i] *= p->temperature_scale == SCALE_T2 ? temperature[i] * temperature[i] : 1;
  }
  return g_steal_pointer (&temperature);
}

/* The labels, one a row; NULL on error. */
static gint64 *
row_labels (const KdCall *call, GError **error)
{
  gint64 n = call->rows->n, repeat;
  gint64 *label;

  if (!call->in[LABEL]) {
    g_set_error (error, KD_ERROR, KD_ERROR_FIELD, "Field missing: element=kddivergence, field=label; tail=label needs it");
    return NULL;
  }
  repeat = rows_per_value (call, LABEL, error);
  label = repeat ? g_new (gint64, MAX (n, 1)) : NULL;
  for (gint64 i = 0; label && i < n; i++)
    label[i] = (gint64) kd_tensor_get_double (call->in[LABEL], (gsize) (i / repeat));
  return label;
}

/* The first row that was refused. */
static gboolean
refuse_problems (const KdCall *call, const KdSparse *sparse, GError **error)
{
  static const struct {
    KdError code;
    const gchar *text;
  } texts[] = {
    [KD_SPARSE_BAD_ID] = { KD_ERROR_RANGE, "Id out of range: element=kddivergence, field=%s, sample.id=%" G_GINT64_FORMAT ", row=%" G_GINT64_FORMAT ", wanted=-1 (padding) to below the vocabulary's %" G_GINT64_FORMAT },
    [KD_SPARSE_DUPLICATE] = { KD_ERROR_VALUE, "Id twice in a row: element=kddivergence, field=%s, sample.id=%" G_GINT64_FORMAT ", row=%" G_GINT64_FORMAT ", vocabulary=%" G_GINT64_FORMAT "; add them up before" },
    [KD_SPARSE_BAD_LOGPROB] = { KD_ERROR_VALUE, "Not a log-probability: element=kddivergence, field=teacher.topk.logprobs of %s, sample.id=%" G_GINT64_FORMAT ", row=%" G_GINT64_FORMAT ", wanted=at most 1e-4, vocabulary=%" G_GINT64_FORMAT },
    [KD_SPARSE_BAD_SUM] = { KD_ERROR_VALUE, "Probabilities sum to more than 1.001: element=kddivergence, field=teacher.topk.logprobs of %s, sample.id=%" G_GINT64_FORMAT ", row=%" G_GINT64_FORMAT ", vocabulary=%" G_GINT64_FORMAT "; are they logits?" },
    [KD_SPARSE_BAD_WEIGHT] = { KD_ERROR_VALUE, "Weight not allowed: element=kddivergence, field=teacher.sampled.weights of %s, sample.id=%" G_GINT64_FORMAT ", row=%" G_GINT64_FORMAT ", wanted=a finite number from 0, vocabulary=%" G_GINT64_FORMAT },
    [KD_SPARSE_INFINITE] = { KD_ERROR_UNSUPPORTED, "Divergence is infinite: element=kddivergence, field=%s, sample.id=%" G_GINT64_FORMAT ", row=%" G_GINT64_FORMAT ", vocabulary=%" G_GINT64_FORMAT "; the teacher leaves nothing for the ids outside: use support=restricted, fkl or jsd" },
  };
  const KdRows *rows = call->rows;
  const gchar *field = field_name (sparse->form == KD_SPARSE_SAMPLED ? SAMPLED_IDS : sparse->form == KD_SPARSE_TOPK ? TOPK_IDS
                                                                                                                    : TEACHER);

  for (gint64 i = 0; i < rows->n; i++) {
    gint64 sample = i / MAX (rows->n / MAX (call->n_samples, 1), 1);
    if (sparse->problem[i] == KD_SPARSE_FINE)
      continue;
    g_set_error (error, KD_ERROR, texts[sparse->problem[i]].code, texts[sparse->problem[i]].text, field, call->sample_id ? call->sample_id[sample] : sample, i, sparse->dense.size);
    return FALSE;
  }
  return TRUE;
}

static gboolean
run_sparse (const KdCall *call, const KdDivergence *dense, gint form, const gdouble *temperatures, GError **error)
{
  const KdDivergenceParams *p = call->params;
  const KdTensor *ids = form == FORM_TOPK ? call->in[TOPK_IDS] : form == FORM_SAMPLED ? call->in[SAMPLED_IDS]
                                                                                      : NULL;
  g_autofree guint8 *problem = g_new0 (guint8, MAX (dense->n, 1));
  g_autofree gint64 *label = NULL;
  KdSparse sparse = {
    .dense = *dense,
    .temperatures = temperatures,
    .form = form == FORM_TOPK ? KD_SPARSE_TOPK : form == FORM_SAMPLED ? KD_SPARSE_SAMPLED
                                                                      : KD_SPARSE_ONLINE,
    .tail = form == FORM_SAMPLED ? KD_TAIL_TRUNCATE : (KdSparseTail) p->tail,
    .source = (KdSupportSource) p->support_source,
    .k = ids ? kd_call_size (call, form == FORM_TOPK ? 'K' : 'S') : p->top_k,
    .ids = ids ? ids->data : NULL,
    .ids_are_32 = ids && ids->dtype == KD_INT32,
    .values = ids ? call->in[form == FORM_TOPK ? TOPK_LOGPROBS : SAMPLED_WEIGHTS]->data : NULL,
    .restricted = p->support == SUPPORT_RESTRICTED,
    .cache_temperature = p->cache_temperature,
    .tail_eps = p->tail_eps,
    .normalize = p->normalize,
    .problem = problem,
  };

  if (p->divergence == KD_DIVERGENCE_ALPHA_BETA) {
    g_set_error (error, KD_ERROR, KD_ERROR_FIELD, "Teacher does not fit: element=kddivergence, divergence=ab, it needs all of teacher.logits and top-k=0; choose another divergence");
    return FALSE;
  }
  if (form == FORM_SAMPLED && p->divergence != KD_DIVERGENCE_FORWARD_KL) {
    g_set_error (error, KD_ERROR, KD_ERROR_FIELD, "Teacher does not fit: element=kddivergence, field=teacher.sampled.ids, divergence=%s; drawn ids are unbiased for fkl only", divergences[p->divergence].nick);
    return FALSE;
  }
  if (kd_sparse_is_infinite (&sparse)) {
    g_set_error (error, KD_ERROR, KD_ERROR_UNSUPPORTED, "Divergence is infinite: element=kddivergence, divergence=%s, tail=%s; p is 0 outside of the teacher's ids: use tail=bucket or uniform, or support=restricted",
        divergences[p->divergence].nick, tails[p->tail].nick);
    return FALSE;
  }
  if (p->tail == KD_TAIL_LABEL && form != FORM_SAMPLED && !(label = row_labels (call, error)))
    return FALSE;
  sparse.label = label;
  kd_sparse_rows (&sparse);
  return refuse_problems (call, &sparse, error);
}

static gboolean
kd_divergence_evaluate (const KdCall *call, KdLossResult *ret, GError **error)
{
  const KdDivergenceParams *p = call->params;
  gint64 n = call->rows->n;
  g_autofree gdouble *value = g_new (gdouble, n), *coef = g_memdup2 (call->rows->coef, (gsize) n * sizeof *coef), *temperatures = NULL;
  KdDivergence dense = {
    .kind = (KdDivergenceKind) p->divergence,
    .n = n,
    .size = kd_call_size (call, 'V'),
    .student = call->in[STUDENT]->data,
    .coef = coef,
    .temperature = p->temperature,
    .scale = p->temperature_scale == SCALE_T2 && !call->in[TEMPERATURE] ? p->temperature * p->temperature : 1.0,
    .beta = p->beta,
    .alpha = p->alpha,
    .lambda = p->lambda,
    .mu = p->mu,
    .cross_entropy = !p->entropy_term,
    .reject_infinite = p->inf_policy == INF_REJECT,
    .grad = ret->grad[STUDENT],
    .fresh = ret->fresh[STUDENT],
    .value = value,
  };
  gint form = find_form (call, error);

  if (!form || (call->in[TEMPERATURE] && !(temperatures = row_temperatures (call, coef, error))))
    return FALSE;
  if (form == FORM_LOGITS) {
    dense.teacher = call->in[TEACHER]->data;
    dense.teacher_type = (KdReal) call->in[TEACHER]->dtype;
  }
  if (form != FORM_LOGITS || p->top_k > 0) {
    if (!run_sparse (call, &dense, form, temperatures, error))
      return FALSE;
  } else if (temperatures) {
    kd_divergence_each (&dense, temperatures);
  } else {
    kd_divergence_rows (&dense);
  }
  ret->loss = dense.scale * kd_rows_sum (n, coef, value);
  return TRUE;
}

static const KdLossDesc kd_divergence = {
  .name = "kddivergence",
  .title = "Divergence loss",
  .description = "KL, Jensen-Shannon, skewed, total variation ... between the softened outputs of teacher and student",
  .source = "arXiv:2306.13649; arXiv:2402.03898; arXiv:2404.02657; arXiv:1503.02531 section 2",
  .formula = "loss = {temperature_scale}, p = softmax (teacher / {temperature}), q = softmax (student / {temperature})\n{divergence}\n"
             "gradient of student.logits: (A - q sum A) / {temperature}, A = q dD/dq\n"
             "a teacher of which only some ids are known: {tail}",
  .units = "nats; mean over the counted rows with reduction=token-mean",
  .fields = kd_divergence_fields,
  .params = kd_divergence_params,
  .params_size = sizeof (KdDivergenceParams),
  .evaluate = kd_divergence_evaluate,
};

KD_LOSS_PLUGIN (kd_divergence)
