/**
 * SECTION:element-kdbild
 * @short_description: bi-directional logits difference of the leading ids
 *
 * Of each row two leads are compared: with I the ids of the k largest logits of the leading model, and D_ab = (z_a - z_b) / T for every pair (a before b) of I,
 * Q = softmax over the pairs of the teacher's D, P = softmax of the student's:
 *  - divergence=forward (BiLD): KL (Q || P), G_ab = P_ab - Q_ab
 *  - divergence=reverse (DBiLD): KL (P || Q), G_ab = P_ab (log P_ab - log Q_ab - KL)
 *
 * loss = mean over counted rows of (lead of the teacher + lead of the student); grad_a = (sum over b after a of G_ab - sum over b before a of G_ba) / T; ids
 * outside I get none. No T^2.
 *
 * mode=fixed: k = top-k. mode=knee: from the leading model's logits in falling order v_0 .. v_{W-1} (or its probabilities at T, knee-curve=probs; the first
 * knee-window of them): k = 1 + the place that lies farthest below the line from v_0 to v_{W-1}, within k-min and k-max; k-min where all are equal.
 *
 * ## Fields
 *  - {student-field}: float32 [* V], differentiable (student.logits; switch.logits for Switch-KD's second branch)
 *  - teacher.logits: float32, float16 or bfloat16 [* V]
 *  - mask, token.weight, sample.weight: as for every loss
 * Adds loss.teacher-led, loss.student-led; writes knee.teacher-k, knee.student-k int64 [*]: the k of each row.
 * ## Units
 * nats; token-mean over the counted rows by default.
 * ## Errors
 * top-k or k-min larger than V, k-min above k-max, knee-window 1 (KD_ERROR_RANGE).
 * ## Source
 * arXiv:2406.13555 (BiLD, k 8, T 3); arXiv:2604.14629 (DBiLD of Switch-KD: knee and reverse).
 * ## Example
 * |[ kd launch 'kdh5src location=train.h5 ! kdcache location=teacher.h5 ! kdstudent arch="mlp dims=64,16,10" ! kdbild k-max=10 ! kdtrain' ]|
 */
#include <kd/kd.h>

#include <math.h>
#include <string.h>

enum { FIXED,
  KNEE };
enum { FORWARD,
  REVERSE };
enum { LOGITS,
  PROBS };

typedef struct {
  gint mode, divergence, knee_curve;
  gint64 top_k, knee_window, k_min, k_max;
  gdouble temperature;
  gchar *student_field;
} KdBildParams;

static const KdEnumValue modes[] = { { FIXED, "fixed", "k = top-k" }, { KNEE, "knee", "k from the bend of the leading model's curve" }, { 0, NULL, NULL } };
static const KdEnumValue divergences[] = { { FORWARD, "forward", "KL (teacher || student): BiLD" }, { REVERSE, "reverse", "KL (student || teacher): DBiLD" }, { 0, NULL, NULL } };
static const KdEnumValue curves[] = { { LOGITS, "logits", "The logits" }, { PROBS, "probs", "The probabilities at the temperature" }, { 0, NULL, NULL } };

static const KdParam kd_bild_params[] = {
  KD_PARAM_ENUM (KdBildParams, mode, modes, KNEE, "How many ids lead"),
  KD_PARAM_ENUM (KdBildParams, divergence, divergences, REVERSE, "Direction between the distributions of the pairs"),
  KD_PARAM_INT (KdBildParams, top_k, 2, 1 << 16, 8, "mode=fixed: ids that lead"),
  KD_PARAM_DOUBLE (KdBildParams, temperature, 0.01, 1000.0, 3.0, "Divides the differences"),
  KD_PARAM_ENUM (KdBildParams, knee_curve, curves, LOGITS, "mode=knee: whose bend"),
  KD_PARAM_INT (KdBildParams, knee_window, 0, 1 << 24, 0, "mode=knee: only the first so many, 0: all"),
  KD_PARAM_INT (KdBildParams, k_min, 2, 1 << 16, 2, "mode=knee: at least"),
  KD_PARAM_INT (KdBildParams, k_max, 2, 1 << 16, 32, "mode=knee: at most"),
  KD_PARAM_STRING (KdBildParams, student_field, "student.logits", "The field that is taught"),
  KD_PARAM_END
};

enum { STUDENT,
  TEACHER };
static const KdFieldSpec kd_bild_fields[] = {
  [STUDENT] = { "{student_field}", KD_FLOAT32, "* V", KD_FIELD_GRAD },
  [TEACHER] = { "teacher.logits", KD_FLOAT32 | KD_FLOAT16 | KD_BFLOAT16, "* V" },
  KD_FIELD_END
};
enum { TEACHER_K,
  STUDENT_K };
static const KdFieldSpec kd_bild_outputs[] = {
  [TEACHER_K] = { "knee.teacher-k", KD_INT64, "*" },
  [STUDENT_K] = { "knee.student-k", KD_INT64, "*" },
  KD_FIELD_END
};
enum { TEACHER_LED,
  STUDENT_LED };
static const gchar *const kd_bild_terms[] = { [TEACHER_LED] = "teacher-led", [STUDENT_LED] = "student-led", NULL };

static gboolean
kd_bild_check (gconstpointer params, GError **error)
{
  const KdBildParams *p = params;

  if (p->knee_window == 1) {
    g_set_error (error, KD_ERROR, KD_ERROR_RANGE, "Property out of range: element=kdbild, property=knee-window, value=1, wanted=0 (all) or 2 and more: one logit has no knee");
    return FALSE;
  }
  if (p->k_min <= p->k_max)
    return TRUE;
  g_set_error (error, KD_ERROR, KD_ERROR_RANGE, "Properties do not go together: element=kdbild, k-min=%" G_GINT64_FORMAT ", k-max=%" G_GINT64_FORMAT "; the first must not be larger", p->k_min,
      p->k_max);
  return FALSE;
}

typedef struct {
  gdouble value;
  gint64 id;
} Ranked;

static gint
falling (gconstpointer a, gconstpointer b)
{
  const Ranked *x = a, *y = b;

  return x->value != y->value ? (x->value < y->value ? 1 : -1) : (x->id > y->id) - (x->id < y->id);
}

/* How many of the @n ranked values lead. */
static gint64
find_knee (const KdBildParams *p, gint64 n, const Ranked *ranked)
{
  gint64 width = p->knee_window ? MIN (p->knee_window, n) : n, best = 0;
  gdouble first = ranked[0].value, last = ranked[width - 1].value, farthest = -INFINITY, z = 0;
  gboolean probs = p->knee_curve == PROBS;

  for (gint64 i = 0; probs && i < n; i++)
    z += exp ((ranked[i].value - first) / p->temperature);
  if (probs) {
    last = exp ((last - first) / p->temperature) / z;
    first = 1 / z;
  }
  if (first - last <= 1e-9)
    return p->k_min;
  for (gint64 i = 0; i < width; i++) {
    gdouble v = probs ? exp ((ranked[i].value - ranked[0].value) / p->temperature) / z : ranked[i].value;
    gdouble below = 1 - (gdouble) i / (gdouble) (width - 1) - (v - last) / (first - last);
    if (below > farthest) {
      farthest = below;
      best = i;
    }
  }
  return CLAMP (best + 1, p->k_min, MIN (p->k_max, n));
}

/* log sum exp over all pairs of (z_a - z_b) / T, a before b. */
static gdouble
pairs_lse (gint64 k, const Ranked *led, const gdouble *z, gdouble t)
{
  gdouble max = -INFINITY, sum = 0;

  for (gint64 a = 0; a < k; a++)
    for (gint64 b = a + 1; b < k; b++)
      max = fmax (max, (z[led[a].id] - z[led[b].id]) / t);
  for (gint64 a = 0; a < k; a++)
    for (gint64 b = a + 1; b < k; b++)
      sum += exp ((z[led[a].id] - z[led[b].id]) / t - max);
  return max + log (sum);
}

/* One lead; the pairs are streamed, never stored. */
static gdouble
evaluate_lead (const KdBildParams *p, gint64 k, const Ranked *led, const gdouble *teacher, const gdouble *student, gdouble coef, gfloat *grad)
{
  gdouble t = p->temperature, lse_q, lse_p, kl = 0;

  if (k < 2)
    return 0;
  lse_q = pairs_lse (k, led, teacher, t);
  lse_p = pairs_lse (k, led, student, t);
  for (guint pass = 0; pass < 2; pass++) /* the value, which the reverse gradient needs, then the gradient */
    for (gint64 a = 0; a < k; a++)
      for (gint64 b = a + 1; b < k; b++) {
        gdouble log_q = (teacher[led[a].id] - teacher[led[b].id]) / t - lse_q, log_p = (student[led[a].id] - student[led[b].id]) / t - lse_p;
        gdouble q = exp (log_q), s = exp (log_p), g;
        if (pass == 0) {
          kl += p->divergence == FORWARD ? (q > 0 ? q * (log_q - log_p) : 0) : (s > 0 ? s * (log_p - log_q) : 0);
          continue;
        }
        g = coef / t * (p->divergence == FORWARD ? s - q : s > 0 ? s * (log_p - log_q - kl)
                                                                 : 0);
        grad[led[a].id] += (gfloat) g;
        grad[led[b].id] -= (gfloat) g;
      }
  return kl;
}

typedef struct {
  gint64 size;
  gdouble *teacher, *student;
  Ranked *ranked;
} Scratch;

static gint64
rank_row (const KdBildParams *p, const Scratch *s, const gdouble *leading)
{
  for (gint64 i = 0; i < s->size; i++)
    s->ranked[i] = (Ranked) { leading[i], i };
  qsort (s->ranked, (gsize) s->size, sizeof *s->ranked, falling);
  return p->mode == FIXED ? p->top_k : find_knee (p, s->size, s->ranked);
}

static gboolean
is_finite_row (const Scratch *s)
{
  for (gint64 i = 0; i < s->size; i++)
    if (!isfinite (s->teacher[i]) || !isfinite (s->student[i]))
      return FALSE;
  return TRUE;
}

static gboolean
check_size (const KdBildParams *p, gint64 size, GError **error)
{
  gint64 least = p->mode == FIXED ? p->top_k : p->k_min;

  if (least <= size)
    return TRUE;
  g_set_error (error, KD_ERROR, KD_ERROR_RANGE, "Property out of range: element=kdbild, property=%s, value=%" G_GINT64_FORMAT ", wanted=2 to the vocabulary's %" G_GINT64_FORMAT,
      p->mode == FIXED ? "top-k" : "k-min", least, size);
  return FALSE;
}

static gboolean
kd_bild_evaluate (const KdCall *call, KdLossResult *ret, GError **error)
{
  const KdBildParams *p = call->params;
  const KdRows *rows = kd_call_rows (call);
  gint64 size = kd_call_size (call, 'V');
  g_autofree gdouble *teacher = g_new (gdouble, size), *student = g_new (gdouble, size);
  g_autofree Ranked *ranked = g_new (Ranked, size);
  Scratch s = { size, teacher, student, ranked };

  if (!check_size (p, size, error))
    return FALSE;
  for (gint64 r = 0; r < rows->n; r++) {
    gfloat *grad = ret->grad[STUDENT] + r * size;
    gint64 k;
    if (rows->coef[r] == 0)
      continue;
    kd_row_to_double (call->in[TEACHER]->data, (KdReal) call->in[TEACHER]->dtype, r, size, teacher);
    kd_row_to_double (call->in[STUDENT]->data, KD_REAL_F32, r, size, student);
    if (!is_finite_row (&s)) {
      ret->loss = NAN; /* the base finds which */
      return TRUE;
    }
    k = ((gint64 *) ret->out[TEACHER_K]->data)[r] = rank_row (p, &s, teacher);
    ret->term[TEACHER_LED] += rows->coef[r] * evaluate_lead (p, k, ranked, teacher, student, rows->coef[r], grad);
    k = ((gint64 *) ret->out[STUDENT_K]->data)[r] = rank_row (p, &s, student);
    ret->term[STUDENT_LED] += rows->coef[r] * evaluate_lead (p, k, ranked, teacher, student, rows->coef[r], grad);
  }
  ret->loss = ret->term[TEACHER_LED] + ret->term[STUDENT_LED];
  return TRUE;
}

static const KdLossDesc kd_bild = {
  .name = "kdbild",
  .title = "Logits difference loss",
  .description = "Compares the differences between the leading logits, once led by the teacher and once by the student",
  .source = "arXiv:2406.13555 (BiLD); arXiv:2604.14629 (DBiLD)",
  .formula = "loss = mean_n sum over both leads of KL between softmax over pairs of (z_a - z_b) / T, a before b among the leading k ids; forward: KL (teacher || student), "
             "reverse: KL (student || teacher)",
  .units = "nats; mean over the counted rows with reduction=token-mean",
  .fields = kd_bild_fields,
  .params = kd_bild_params,
  .params_size = sizeof (KdBildParams),
  .check = kd_bild_check,
  .outputs = kd_bild_outputs,
  .terms = kd_bild_terms,
  .evaluate = kd_bild_evaluate,
};

KD_LOSS_PLUGIN (kd_bild)
