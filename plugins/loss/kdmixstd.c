/**
 * SECTION:element-kdmixstd
 * @short_description: soft labels and teacher, each row's logits divided by their own standard deviation
 *
 * u = student / sigma_s, v = teacher / sigma_t, sigma the unbiased standard deviation of the row; p = softmax (u), q = softmax (v)
 * loss = ce-weight mean_n sum_c -y_c log p_c + kd-weight mean_n KL (q || p). No T^2: the deviations are the temperatures.
 * g = (ce-weight (p sum y - y) + kd-weight (p - q)) / rows
 * grad = g / sigma_s - (sum g s) (s - mean s) / ((C - 1) sigma_s^3); std-gradient=false leaves the second term out.
 *
 * The loss does not depend on the scale of the student's logits, and its gradient is orthogonal to them. A deviation below 1e-8 counts as 1e-8 and
 * has no second term. The student's class is that of its logits; its probabilities are too soft when made of u (at most 0.72 for 10 classes):
 * measure calibration on the logits with a temperature of their own.
 *
 * ## Fields
 *  - student.logits: float32 [* C], differentiable; C from 2
 *  - teacher.logits: float32, float16 or bfloat16 [* C]
 *  - label.soft: float32 [* C] (of kdmixup) or label: int64 [*]; label.soft is taken when both are there, neither is needed when ce-weight is 0
 *  - mask, token.weight, sample.weight: optional, see the base
 *  - adds loss.ce and loss.kd, both before ce-weight and kd-weight; std.student, std.teacher: float32 [*], 0 on rows that do not count
 * ## Units
 * nats; token-mean over the counted rows by default.
 * ## Errors
 * One class (KD_ERROR_SHAPE); no label with ce-weight above 0 (KD_ERROR_FIELD); a row of label.soft that is no distribution (KD_ERROR_VALUE).
 * ## Source
 * arXiv:2211.03946; loss, weights and unbiased deviation as in the released code (hchoi71/MIX-KD).
 * ## Example
 * |[ kd launch 'kdh5src location=train.h5 epochs=9 ! kdmixup classes=10 ! kdteacher arch="mlp dims=64,256,10" weights=t.safetensors ! kdstudent arch="mlp dims=64,16,10" ! kdmixstd ! kdtrain' ]|
 */
#include <kd/kd.h>

#include <math.h>

#define SIGMA_FLOOR 1e-8

typedef struct {
  gdouble ce_weight, kd_weight;
  gboolean std_gradient;
} KdMixstdParams;

static const KdParam kd_mixstd_params[] = {
  KD_PARAM_DOUBLE (KdMixstdParams, ce_weight, 0.0, 1e6, 0.1, "Factor of the cross-entropy with the labels"),
  KD_PARAM_DOUBLE (KdMixstdParams, kd_weight, 0.0, 1e6, 0.9, "Factor of the KL divergence from the teacher"),
  KD_PARAM_BOOL (KdMixstdParams, std_gradient, TRUE, "Whether the gradient goes through the student's standard deviation too"),
  KD_PARAM_END
};

enum { STUDENT,
  TEACHER,
  SOFT,
  LABEL };
static const KdFieldSpec kd_mixstd_fields[] = {
  [STUDENT] = { "student.logits", KD_FLOAT32, "* C", KD_FIELD_GRAD },
  [TEACHER] = { "teacher.logits", KD_FLOAT32 | KD_FLOAT16 | KD_BFLOAT16, "* C" },
  [SOFT] = { "label.soft", KD_FLOAT32, "* C", KD_FIELD_OPTIONAL },
  [LABEL] = { "label", KD_INT64, "*", KD_FIELD_OPTIONAL | KD_FIELD_LABEL },
  KD_FIELD_END
};

enum { STD_STUDENT,
  STD_TEACHER };
static const KdFieldSpec kd_mixstd_outputs[] = {
  [STD_STUDENT] = { "std.student", KD_FLOAT32, "*" },
  [STD_TEACHER] = { "std.teacher", KD_FLOAT32, "*" },
  KD_FIELD_END
};

enum { TERM_CE,
  TERM_KD };
static const gchar *const kd_mixstd_terms[] = { [TERM_CE] = "ce", [TERM_KD] = "kd", NULL };

/* A row of logits and what becomes of it: the logarithms of the softmax of x / sigma. */
typedef struct {
  gdouble *x, *log_p, mean, sigma;
} Row;

static void
row_load (const KdTensor *logits, gint64 r, gint64 size, Row *row)
{
  gdouble max = -INFINITY, squares = 0, z = 0;

  kd_row_to_double (logits->data, (KdReal) logits->dtype, r, size, row->x);
  row->mean = 0;
  for (gint64 c = 0; c < size; c++) {
    row->mean += row->x[c] / (gdouble) size;
    max = MAX (max, row->x[c]);
  }
  for (gint64 c = 0; c < size; c++)
    squares += (row->x[c] - row->mean) * (row->x[c] - row->mean);
  row->sigma = sqrt (squares / (gdouble) (size - 1));
  for (gint64 c = 0; c < size; c++) {
    row->log_p[c] = (row->x[c] - max) / (row->sigma < SIGMA_FLOOR ? SIGMA_FLOOR : row->sigma);
    z += exp (row->log_p[c]);
  }
  for (gint64 c = 0; c < size; c++)
    row->log_p[c] -= log (z);
}

/* Adds coef times the gradient in the student's logits of @g, the gradient in u. */
static void
add_gradient (const KdMixstdParams *p, gint64 size, const Row *student, const gdouble *g, gdouble coef, gfloat *grad)
{
  gdouble sigma = MAX (student->sigma, SIGMA_FLOOR), along = 0;

  if (p->std_gradient && student->sigma >= SIGMA_FLOOR) {
    for (gint64 c = 0; c < size; c++)
      along += g[c] * (student->x[c] - student->mean); /* sum g is 0 but for rounding */
    along /= (gdouble) (size - 1) * sigma * sigma * sigma;
  }
  for (gint64 c = 0; c < size; c++)
    grad[c] += (gfloat) (coef * (g[c] / sigma - along * (student->x[c] - student->mean)));
}

/* The label's distribution at class @c. */
static gdouble
target (const KdCall *call, gint64 r, gint64 c, gint64 size)
{
  if (call->in[SOFT])
    return ((const gfloat *) call->in[SOFT]->data)[r * size + c];
  return call->in[LABEL] && ((const gint64 *) call->in[LABEL]->data)[r] == c;
}

static void
do_row (const KdCall *call, KdLossResult *ret, gint64 r, const Row *student, const Row *teacher, gdouble *g)
{
  const KdMixstdParams *p = call->params;
  gint64 size = kd_call_size (call, 'C');
  gdouble coef = kd_call_rows (call)->coef[r], ce = 0, kd = 0, total = 0;

  for (gint64 c = 0; c < size; c++)
    total += target (call, r, c, size);
  for (gint64 c = 0; c < size; c++) {
    gdouble y = target (call, r, c, size), prob = exp (student->log_p[c]), q = exp (teacher->log_p[c]);
    ce -= y != 0 ? y * student->log_p[c] : 0;
    kd += q > 0 ? q * (teacher->log_p[c] - student->log_p[c]) : q; /* q may be NaN */
    g[c] = p->ce_weight * (prob * total - y) + p->kd_weight * (prob - q);
  }
  ret->term[TERM_CE] += coef * ce;
  ret->term[TERM_KD] += coef * kd;
  add_gradient (p, size, student, g, coef, ret->grad[STUDENT] + r * size);
  ((gfloat *) ret->out[STD_STUDENT]->data)[r] = (gfloat) student->sigma;
  ((gfloat *) ret->out[STD_TEACHER]->data)[r] = (gfloat) teacher->sigma;
}

static gboolean
check_fields (const KdCall *call, GError **error)
{
  const KdMixstdParams *p = call->params;
  const KdRows *rows = kd_call_rows (call);
  gint64 size = kd_call_size (call, 'C'), bad;

  if (size < 2) {
    g_set_error (error, KD_ERROR, KD_ERROR_SHAPE, "Too few classes: element=kdmixstd, field=student.logits, classes=%" G_GINT64_FORMAT ", wanted=2 or more: one logit has no deviation", size);
    return FALSE;
  }
  if (!call->in[SOFT] && !call->in[LABEL] && p->ce_weight > 0) {
    g_set_error (error, KD_ERROR, KD_ERROR_FIELD, "Field missing: element=kdmixstd, field=label.soft or label, ce-weight=%g; put kdmixup or a source "
                                                  "with labels before it or set ce-weight=0",
        p->ce_weight);
    return FALSE;
  }
  bad = call->in[SOFT] ? kd_xent_find_bad_soft (rows->n, size, call->in[SOFT]->data, rows->coef) : -1;
  if (bad >= 0) {
    g_set_error (error, KD_ERROR, KD_ERROR_VALUE, "No distribution: element=kdmixstd, field=label.soft, row=%" G_GINT64_FORMAT ", wanted=entries from 0 with sum 1 within 0.001", bad);
    return FALSE;
  }
  return TRUE;
}

static gboolean
kd_mixstd_evaluate (const KdCall *call, KdLossResult *ret, GError **error)
{
  const KdMixstdParams *p = call->params;
  const KdRows *rows = kd_call_rows (call);
  gint64 size = kd_call_size (call, 'C'), n_flat = 0;
  g_autofree gdouble *memory = g_new (gdouble, 5 * size);
  Row student = { memory, memory + size }, teacher = { memory + 2 * size, memory + 3 * size };

  if (!check_fields (call, error))
    return FALSE;
  for (gint64 r = 0; r < rows->n; r++) {
    if (rows->coef[r] == 0)
      continue;
    row_load (call->in[STUDENT], r, size, &student);
    row_load (call->in[TEACHER], r, size, &teacher);
    n_flat += teacher.sigma < SIGMA_FLOOR;
    do_row (call, ret, r, &student, &teacher, memory + 4 * size);
  }
  if (n_flat)
    GST_WARNING ("kdmixstd: all teacher logits are equal in %" G_GINT64_FORMAT " rows: they say nothing", n_flat);
  ret->loss = p->ce_weight * ret->term[TERM_CE] + p->kd_weight * ret->term[TERM_KD];
  return TRUE;
}

static const KdLossDesc kd_mixstd = {
  .name = "kdmixstd",
  .title = "Loss with each row's deviation as temperature",
  .description = "Cross-entropy with soft labels plus KL from the teacher, both models' logits divided by their own standard deviation",
  .source = "arXiv:2211.03946",
  .formula = "loss = ce-weight mean_n sum_c -y_c log softmax (s / sigma_s)_c + kd-weight mean_n KL (softmax (t / sigma_t) || softmax (s / sigma_s))",
  .units = "nats; mean over the counted rows with reduction=token-mean",
  .fields = kd_mixstd_fields,
  .params = kd_mixstd_params,
  .params_size = sizeof (KdMixstdParams),
  .outputs = kd_mixstd_outputs,
  .terms = kd_mixstd_terms,
  .evaluate = kd_mixstd_evaluate,
};

KD_LOSS_PLUGIN (kd_mixstd)
