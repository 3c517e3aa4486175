/**
 * SECTION:element-kdtsd
 * @short_description: few tokens of a response, taught in the student's own words (TSD-KD)
 *
 * q = softmax (student.logits / T), p = softmax (teacher.logits / T), H entropies in nats, n counted positions:
 *  - direct: mean of w JSD (p, q), beta KL (p || m) + (1 - beta) KL (q || m), m = beta p + (1 - beta) q; w = sigmoid ((H_student - H_teacher) /
 *    gate-temperature), 1 with gate=false
 *  - indirect: mean over the opener of - log Plackett-Luce of the student's `candidates` likeliest ids in the teacher's order:
 *    sum_j (log sum_{l >= j} e^s_l - s_j), s the student's logits / T
 *  - entropy: mean of H_student over the selected positions
 * loss = direct-weight direct + indirect-weight indirect + em-weight entropy. w, opener, selection, candidates and order are constants.
 *
 * Opener of a sample (opener-mode=sample): its first positions until their entropies sum to opener-fraction of the sample's; the first where the sum
 * is below 1e-9. Selected (em-mode=top): H_student at or above the quantile 1 - em-fraction (linear) of all counted positions.
 * As the published code does it: pl-order=code sums over l <= j, which fits the reversed order; em-mode=quantile-ge selects all positions, masked
 * ones too, at or above the quantile em-fraction; opener-mode=flat takes from each sample the positions below d, the flat index of the counted
 * positions of the batch at which their entropies reach opener-fraction.
 *
 * ## Fields
 *  - student.logits: float32 [* C], differentiable; teacher.logits: float32, float16 or bfloat16 [* C]
 *  - teacher.candidates.logits: the same types [* K], in place of teacher.logits when direct-weight is 0: the teacher's logits of the student's K =
 *    candidates likeliest ids (at most C), likeliest first
 *  - label: int64 [*], optional: positions with `ignore-index` do not count
 *  - mask, token.weight, sample.weight: optional. A part's positions stand for all: their coefficients are multiplied by n / their number.
 * Adds loss.direct, loss.indirect, loss.entropy (before their weights), token.opener, token.selected, token.gate (0 where not counted).
 * ## Units
 * nats; token-mean over each part's positions by default. Not 0 where student and teacher agree: the order has a likelihood below 1.
 * ## Errors
 * No teacher, or both forms; direct-weight above 0 without teacher.logits (KD_ERROR_FIELD); K is not the number of candidates (KD_ERROR_SHAPE).
 * ## Source
 * arXiv:2603.13260; the modes as kmswin1/TSD-KD. Published weights suit students that can speak: small ones start with em-weight 0.01 to 0.03 and
 * indirect-weight 0.003 to 0.01.
 * ## Example
 * |[ kd launch 'kdh5src location=batch.h5 ! kdtsd candidates=5 ! kdh5sink location=out.h5' ]|
 */
#include <kd/kd.h>
#include <math.h>

enum { OPENER_SAMPLE,
  OPENER_FLAT };
enum { EM_TOP,
  EM_QUANTILE_GE };
enum { ORDER_PAPER,
  ORDER_CODE };

typedef struct {
  gdouble beta, temperature, gate_temperature, opener_fraction, em_fraction, em_weight, indirect_weight, direct_weight;
  gboolean gate;
  gint64 candidates;
  gint opener_mode, em_mode, pl_order;
} KdTsdParams;

static const KdEnumValue opener_modes[] = {
  { OPENER_SAMPLE, "sample", "Each sample's own beginning, the reaching position too" },
  { OPENER_FLAT, "flat", "One index for the whole batch, as the published code" },
  { 0, NULL, NULL }
};
static const KdEnumValue em_modes[] = {
  { EM_TOP, "top", "The share em-fraction with the largest entropies" },
  { EM_QUANTILE_GE, "quantile-ge", "All but the share em-fraction with the smallest, masked positions too, as the published code" },
  { 0, NULL, NULL }
};
static const KdEnumValue orders[] = {
  { ORDER_PAPER, "paper", "The teacher's order" },
  { ORDER_CODE, "code", "The reverse of it, as the published code" },
  { 0, NULL, NULL }
};

static const KdParam kd_tsd_params[] = {
  KD_PARAM_DOUBLE (KdTsdParams, beta, 0.0, 1.0, 0.9, "The teacher's share of the mixture; 0 is KL (p || q), 1 is KL (q || p)"),
  KD_PARAM_DOUBLE (KdTsdParams, temperature, 0.01, 1000.0, 1.0, "Divides both logits before softmax"),
  KD_PARAM_BOOL (KdTsdParams, gate, TRUE, "Weigh positions by how much surer the teacher is"),
  KD_PARAM_DOUBLE (KdTsdParams, gate_temperature, 1e-6, 1e6, 1.0, "Divides the difference of the entropies"),
  KD_PARAM_INT (KdTsdParams, candidates, 2, 1 << 20, 10, "Ids that are put in order, at most all"),
  KD_PARAM_DOUBLE (KdTsdParams, opener_fraction, 1e-9, 1.0, 0.1, "Share of the entropy that the opener has"),
  KD_PARAM_ENUM (KdTsdParams, opener_mode, opener_modes, OPENER_SAMPLE, "Where the opener ends"),
  KD_PARAM_DOUBLE (KdTsdParams, em_fraction, 1e-9, 1.0, 0.1, "Share of the positions whose entropy is lowered"),
  KD_PARAM_ENUM (KdTsdParams, em_mode, em_modes, EM_TOP, "Which positions these are"),
  KD_PARAM_DOUBLE (KdTsdParams, em_weight, 0.0, 1e6, 1.0, "Factor of the entropy"),
  KD_PARAM_DOUBLE (KdTsdParams, indirect_weight, 0.0, 1e6, 0.1, "Factor of the order's likelihood"),
  KD_PARAM_DOUBLE (KdTsdParams, direct_weight, 0.0, 1e6, 1.0, "Factor of the divergence"),
  KD_PARAM_ENUM (KdTsdParams, pl_order, orders, ORDER_PAPER, "Which order is fitted"),
  KD_PARAM_END
};

enum { STUDENT,
  TEACHER,
  CANDIDATES,
  LABEL };
static const KdFieldSpec kd_tsd_fields[] = {
  [STUDENT] = { "student.logits", KD_FLOAT32, "* C", KD_FIELD_GRAD },
  [TEACHER] = { "teacher.logits", KD_FLOAT32 | KD_FLOAT16 | KD_BFLOAT16, "* C", KD_FIELD_OPTIONAL | KD_FIELD_ONE_OF },
  [CANDIDATES] = { "teacher.candidates.logits", KD_FLOAT32 | KD_FLOAT16 | KD_BFLOAT16, "* K", KD_FIELD_OPTIONAL | KD_FIELD_ONE_OF },
  [LABEL] = { "label", KD_INT64, "*", KD_FIELD_OPTIONAL | KD_FIELD_LABEL },
  KD_FIELD_END
};

enum { OPENER,
  SELECTED,
  GATE };
static const KdFieldSpec kd_tsd_outputs[] = {
  [OPENER] = { "token.opener", KD_UINT8, "*" },
  [SELECTED] = { "token.selected", KD_UINT8, "*" },
  [GATE] = { "token.gate", KD_FLOAT32, "*" },
  KD_FIELD_END
};

enum { DIRECT,
  INDIRECT,
  ENTROPY };
static const gchar *const kd_tsd_terms[] = { [DIRECT] = "direct", [INDIRECT] = "indirect", [ENTROPY] = "entropy", NULL };

/* One call: counted positions, the student's entropies (of masked ones too with em-mode=quantile-ge), scratch. */
typedef struct {
  const KdCall *call;
  const KdTsdParams *p;
  const KdRows *rows;
  KdLossResult *ret;
  gint64 n, n_counted;
  gdouble *entropy, *coef, *value;
} Tsd;

static gboolean
check_fields (const KdCall *call, GError **error)
{
  const KdTsdParams *p = call->params;
  gint64 wanted = MIN (p->candidates, kd_call_size (call, 'C'));

  if (!call->in[TEACHER] == !call->in[CANDIDATES]) {
    g_set_error (error, KD_ERROR, KD_ERROR_FIELD, "%s: element=kdtsd, fields=teacher.logits, teacher.candidates.logits; wanted=one of them",
        call->in[TEACHER] ? "Two teachers" : "Field missing");
    return FALSE;
  }
  if (call->in[CANDIDATES] && p->direct_weight > 0) {
    g_set_error (error, KD_ERROR, KD_ERROR_FIELD, "Field missing: element=kdtsd, field=teacher.logits, direct-weight=%g; candidates alone are no distribution: "
                                                  "give all logits or set direct-weight=0",
        p->direct_weight);
    return FALSE;
  }
  if (call->in[CANDIDATES] && kd_call_size (call, 'K') != wanted) {
    g_set_error (error, KD_ERROR, KD_ERROR_SHAPE, "Shapes differ: element=kdtsd, field=teacher.candidates.logits, axis=K, size=%" G_GINT64_FORMAT ", candidates=%" G_GINT64_FORMAT "; set candidates as they were taken", kd_call_size (call, 'K'), wanted);
    return FALSE;
  }
  return TRUE;
}

static void
find_entropies (const Tsd *tsd, const KdTensor *logits, const gdouble *coef, gdouble *entropy)
{
  kd_softmax_rows (&(KdSoftmax) { .n = tsd->n, .size = kd_call_size (tsd->call, 'C'), .logits = logits->data, .type = (KdReal) logits->dtype, .coef = coef, .temperature = tsd->p->temperature, .entropy = entropy });
}

/* w of each position, and the divergences that they weigh. */
static void
add_direct (const Tsd *tsd)
{
  const KdTsdParams *p = tsd->p;
  const KdTensor *teacher = tsd->call->in[TEACHER];
  gfloat *gate = tsd->ret->out[GATE]->data;
  KdDivergence divergence;

  if (!teacher)
    return;
  find_entropies (tsd, teacher, tsd->rows->coef, tsd->value);
  for (gint64 r = 0; r < tsd->n; r++) {
    gdouble w = p->gate ? 1 / (1 + exp ((tsd->value[r] - tsd->entropy[r]) / p->gate_temperature)) : 1;
    tsd->coef[r] = tsd->rows->coef[r] == 0 ? 0 : w * tsd->rows->coef[r];
    gate[r] = tsd->rows->coef[r] == 0 ? 0 : (gfloat) w;
  }
  divergence = kd_call_divergence (tsd->call, KD_DIVERGENCE_JSD, STUDENT, TEACHER, tsd->coef, tsd->value, tsd->ret);
  divergence.temperature = p->temperature;
  divergence.scale = p->direct_weight;
  divergence.beta = p->beta;
  divergence.grad = p->direct_weight > 0 ? divergence.grad : NULL;
  kd_divergence_rows (&divergence);
  tsd->ret->term[DIRECT] = kd_rows_sum (tsd->n, tsd->coef, tsd->value);
}

/* The first positions of [first, end) until their entropies reach the share of all; returns how many. */
static gint64
open_sample (const Tsd *tsd, gint64 first, gint64 end, guint8 *opener)
{
  gdouble sum = 0, reached = 0;
  gint64 n = 0;

  for (gint64 r = first; r < end; r++)
    sum += tsd->rows->coef[r] != 0 ? tsd->entropy[r] : 0;
  for (gint64 r = first; r < end && (n == 0 || (sum > 1e-9 && reached < tsd->p->opener_fraction * sum)); r++)
    if (tsd->rows->coef[r] != 0) {
      reached += tsd->entropy[r];
      opener[r] = 1;
      n++;
    }
  return n;
}

static gint64
open_flat (const Tsd *tsd, gint64 per_sample, guint8 *opener)
{
  gdouble sum = 0, reached = 0;
  gint64 d = 0, n = 0;

  for (gint64 r = 0; r < tsd->n; r++)
    sum += tsd->rows->coef[r] != 0 ? tsd->entropy[r] : 0;
  for (gint64 r = 0; sum > 0 && r < tsd->n; r++) {
    if (tsd->rows->coef[r] == 0)
      continue;
    reached += tsd->entropy[r];
    if (reached >= tsd->p->opener_fraction * sum)
      break;
    d++;
  }
  for (gint64 r = 0; r < tsd->n; r++)
    if (tsd->rows->coef[r] != 0 && r % per_sample < d) {
      opener[r] = 1;
      n++;
    }
  return n;
}

typedef struct {
  gint64 id;
  gdouble teacher;
} Candidate;

static gint
compare_candidates (gconstpointer a, gconstpointer b, gpointer data)
{
  gdouble x = ((const Candidate *) a)->teacher, y = ((const Candidate *) b)->teacher;

  return x > y ? -1 : x < y; /* the sort is stable */
}

/* The order's likelihood at one position; its gradient is added with @c. Ids that the student excludes are no candidates. */
static gdouble
add_order (const Tsd *tsd, gint64 r, const gint64 *ids, gint64 k, gdouble c, Candidate *candidate, gdouble *scratch)
{
  const KdTensor *full = tsd->call->in[TEACHER], *given = tsd->call->in[CANDIDATES];
  gint64 size = kd_call_size (tsd->call, 'C'), n = 0;
  const gfloat *student = (const gfloat *) tsd->call->in[STUDENT]->data + r * size;
  gdouble *score = scratch, *grad = scratch + k, value;

  for (gint64 i = 0; i < k; i++)
    if (isfinite (student[ids[i]]))
      candidate[n++] = (Candidate) { ids[i], full ? kd_tensor_get_double (full, (gsize) (r * size + ids[i])) : kd_tensor_get_double (given, (gsize) (r * k + i)) };
  g_qsort_with_data (candidate, (gint) n, sizeof *candidate, compare_candidates, NULL);
  for (gint64 i = 0; i < n; i++)
    score[i] = student[candidate[i].id] / tsd->p->temperature;
  for (gint64 i = 0; i < n; i++)
    if (isnan (candidate[i].teacher) || candidate[i].teacher == INFINITY)
      return NAN;
  value = kd_plackett_luce_row (n, score, NULL, tsd->p->pl_order == ORDER_CODE, grad, scratch + 2 * k);
  for (gint64 i = 0; c != 0 && i < n; i++)
    tsd->ret->grad[STUDENT][r * size + candidate[i].id] += (gfloat) (c * grad[i] / tsd->p->temperature);
  return value;
}

static void
add_indirect (const Tsd *tsd)
{
  gint64 per_sample = tsd->call->n_samples ? tsd->n / tsd->call->n_samples : 1, n_opener = 0, k = MIN (tsd->p->candidates, kd_call_size (tsd->call, 'C'));
  guint8 *opener = tsd->ret->out[OPENER]->data;
  g_autofree gint64 *ids = g_new (gint64, tsd->n * k);
  g_autofree Candidate *candidate = g_new (Candidate, k);
  g_autofree gdouble *scratch = g_new (gdouble, 2 * k + kd_plackett_luce_scratch (k));

  if (tsd->p->opener_mode == OPENER_FLAT)
    n_opener = open_flat (tsd, per_sample, opener);
  for (gint64 first = 0; tsd->p->opener_mode == OPENER_SAMPLE && first < tsd->n; first += per_sample)
    n_opener += open_sample (tsd, first, first + per_sample, opener);
  for (gint64 r = 0; r < tsd->n; r++)
    tsd->coef[r] = opener[r] ? tsd->rows->coef[r] * ((gdouble) tsd->n_counted / (gdouble) n_opener) : 0;
  kd_topk_rows (&(KdTopk) { .n = tsd->n, .size = kd_call_size (tsd->call, 'C'), .k = k, .values = tsd->call->in[STUDENT]->data, .type = KD_REAL_F32, .coef = tsd->coef, .ids = ids });
  for (gint64 r = 0; r < tsd->n; r++)
    tsd->value[r] = opener[r] ? add_order (tsd, r, ids + r * k, k, tsd->p->indirect_weight * tsd->coef[r], candidate, scratch) : 0;
  tsd->ret->term[INDIRECT] = kd_rows_sum (tsd->n, tsd->coef, tsd->value);
}

static gint
compare_doubles (gconstpointer a, gconstpointer b, gpointer data)
{
  gdouble x = *(const gdouble *) a, y = *(const gdouble *) b;

  return (x > y) - (x < y);
}

/* Linear between the sorted entropies of the counted positions. */
static gdouble
quantile (const Tsd *tsd, gdouble share)
{
  g_autofree gdouble *sorted = g_new (gdouble, tsd->n_counted);
  gdouble at = share * (gdouble) (tsd->n_counted - 1);
  gint64 n = 0, below = (gint64) floor (at);

  for (gint64 r = 0; r < tsd->n; r++)
    if (tsd->rows->coef[r] != 0)
      sorted[n++] = tsd->entropy[r];
  g_qsort_with_data (sorted, (gint) n, sizeof *sorted, compare_doubles, NULL);
  return sorted[below] + (at - (gdouble) below) * (sorted[MIN (below + 1, n - 1)] - sorted[below]);
}

static void
add_entropy (const Tsd *tsd)
{
  const KdTsdParams *p = tsd->p;
  gboolean all = p->em_mode == EM_QUANTILE_GE;
  gdouble threshold = quantile (tsd, all ? p->em_fraction : 1 - p->em_fraction), mean = 0;
  g_autofree gdouble *constant = g_new0 (gdouble, tsd->n), *slope = g_new0 (gdouble, tsd->n);
  guint8 *selected = tsd->ret->out[SELECTED]->data;
  gint64 n_selected = 0;

  for (gint64 r = 0; r < tsd->n; r++) {
    mean += tsd->rows->coef[r] / (gdouble) tsd->n_counted;
    selected[r] = (all || tsd->rows->coef[r] != 0) && tsd->entropy[r] >= threshold;
    n_selected += selected[r];
  }
  for (gint64 r = 0; r < tsd->n; r++) { /* a masked position has the counted ones' mean coefficient */
    gdouble c = (tsd->rows->coef[r] != 0 ? tsd->rows->coef[r] : mean) * ((gdouble) tsd->n_counted / (gdouble) MAX (n_selected, 1));
    tsd->coef[r] = selected[r] ? c : 0;
    slope[r] = -p->em_weight * tsd->coef[r] / p->temperature;
    constant[r] = slope[r] * (selected[r] ? tsd->entropy[r] : 0);
  }
  tsd->ret->term[ENTROPY] = kd_rows_sum (tsd->n, tsd->coef, tsd->entropy);
  kd_softmax_back_rows (tsd->n, kd_call_size (tsd->call, 'C'), tsd->call->in[STUDENT]->data, p->temperature, constant, slope, tsd->ret->grad[STUDENT], 0);
}

static gboolean
kd_tsd_evaluate (const KdCall *call, KdLossResult *ret, GError **error)
{
  const KdTsdParams *p = call->params;
  const KdRows *rows = kd_call_rows (call);
  g_autofree gdouble *entropy = g_new0 (gdouble, rows->n), *coef = g_new0 (gdouble, rows->n), *value = g_new0 (gdouble, rows->n);
  Tsd tsd = { call, p, rows, ret, rows->n, 0, entropy, coef, value };

  if (!check_fields (call, error))
    return FALSE;
  for (gint64 r = 0; r < rows->n; r++)
    tsd.n_counted += rows->coef[r] != 0;
  if (tsd.n_counted == 0)
    return TRUE;
  find_entropies (&tsd, call->in[STUDENT], p->em_mode == EM_QUANTILE_GE ? NULL : rows->coef, entropy);
  for (gint64 r = 0; r < rows->n; r++)
    if (rows->coef[r] != 0 && isnan (entropy[r])) { /* the base says which value it is */
      ret->loss = NAN;
      return TRUE;
    }
  add_direct (&tsd);
  add_indirect (&tsd);
  add_entropy (&tsd);
  ret->loss = p->direct_weight * ret->term[DIRECT] + p->indirect_weight * ret->term[INDIRECT] + p->em_weight * ret->term[ENTROPY];
  return TRUE;
}

static const KdLossDesc kd_tsd = {
  .name = "kdtsd",
  .title = "Token-selective dual KD loss",
  .description = "Gated divergence, order of the student's candidates on the opener, and less entropy where it is largest",
  .source = "arXiv:2603.13260; kmswin1/TSD-KD",
  .formula = "loss = direct-weight mean_n w JSD_beta (p, q) + indirect-weight mean over the opener of sum_j (log sum_{l >= j} e^s_l - s_j) "
             "+ em-weight mean of H_student over the most uncertain em-fraction; w = sigmoid ((H_student - H_teacher) / gate-temperature)",
  .units = "nats; mean over each part's positions with reduction=token-mean",
  .fields = kd_tsd_fields,
  .params = kd_tsd_params,
  .params_size = sizeof (KdTsdParams),
  .outputs = kd_tsd_outputs,
  .terms = kd_tsd_terms,
  .evaluate = kd_tsd_evaluate,
};

KD_LOSS_PLUGIN (kd_tsd)
