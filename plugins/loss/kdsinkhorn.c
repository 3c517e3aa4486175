/**
 * SECTION:element-kdsinkhorn
 * @short_description: optimal transport between the batch's student outputs and its teacher outputs
 *
 * x = softmax (student / T), y = softmax (teacher / T) of the counted rows of a group; W_ij = sum_v |x_iv - y_jv|; A = exp (-W / epsilon)
 * iterations times: A by its row sums, A by its column sums; P what is left: columns sum to 1
 * loss = weight scale sum over groups of sum_ij P_ij W_ij: a sum over rows, not a mean; scale is to go with the batch size.
 * grad: unrolled = through all normalisations; envelope = the plan taken as constant. Where x_iv = y_jv an entry has slope 0.
 *
 * group: batch = all counted rows are one problem; sequence = the counted rows of each sample are one (of [N C] each row alone: the l1 distance
 * of its two distributions). A row's gradient depends on all rows of its group: batches must come whole.
 *
 * ## Fields
 *  - student.logits: float32 [* C], differentiable; C from 2; -infinity is probability 0
 *  - teacher.logits: float32, float16 or bfloat16 [* C]
 *  - mask, token.weight, sample.weight: optional; only whether they are 0 matters here, and reduction has no meaning
 *  - adds loss.sinkhorn, the same as the loss; metric.sinkhorn.cost, scalar: transported cost per row, in [0, 2];
 *    with export-plan, where there is a single group, plan: float32 [* R], R all rows of the batch, 0 for rows that do not count
 * A group's rows after the first max-points have no part in it and get no gradient.
 * ## Units
 * l1 distance of probabilities, times weight and scale.
 * ## Errors
 * One class (KD_ERROR_SHAPE): use kdlogitmse; a row with NaN, +infinity or nothing finite (KD_ERROR_VALUE).
 * ## Source
 * arXiv:2402.17110; order of the normalisations, T 2, epsilon 0.1, 20 iterations and the factor 0.001 as in the released code (2018cx/SinKD).
 * Groups of tokens, max-points and envelope are choices made here.
 * ## Example
 * |[ kd launch 'kdh5src location=batch.h5 ! kdhinton ! kdsinkhorn scale=0.05 ! kdh5sink location=out.h5' ]|
 */
#include <kd/kd.h>

#include <math.h>

enum { GROUP_BATCH,
  GROUP_SEQUENCE };
enum { GRADIENT_UNROLLED,
  GRADIENT_ENVELOPE };

typedef struct {
  gdouble temperature, epsilon, scale;
  gint64 iterations, max_points;
  gint group, gradient;
  gboolean export_plan;
} KdSinkhornParams;

static const KdEnumValue groups[] = {
  { GROUP_BATCH, "batch", "All counted rows of the batch are one problem" },
  { GROUP_SEQUENCE, "sequence", "The counted rows of each sample are one problem" },
  { 0, NULL, NULL }
};
static const KdEnumValue gradients[] = {
  { GRADIENT_UNROLLED, "unrolled", "Through all normalisations" },
  { GRADIENT_ENVELOPE, "envelope", "With the plan taken as constant" },
  { 0, NULL, NULL }
};

static const KdParam kd_sinkhorn_params[] = {
  KD_PARAM_DOUBLE (KdSinkhornParams, temperature, 0.01, 1000.0, 2.0, "Divides both logits before softmax"),
  KD_PARAM_DOUBLE (KdSinkhornParams, epsilon, 1e-4, 1e6, 0.1, "Entropic regularisation of the plan"),
  KD_PARAM_INT (KdSinkhornParams, iterations, 1, 10000, 20, "Normalisations of rows and of columns"),
  KD_PARAM_DOUBLE (KdSinkhornParams, scale, 0.0, 1e6, 0.001, "Factor of the summed cost beside weight"),
  KD_PARAM_ENUM (KdSinkhornParams, group, groups, GROUP_BATCH, "Which rows are one problem"),
  KD_PARAM_INT (KdSinkhornParams, max_points, 1, 65536, 512, "Rows of a group that take part, the first ones"),
  KD_PARAM_ENUM (KdSinkhornParams, gradient, gradients, GRADIENT_UNROLLED, "What the gradient goes through"),
  KD_PARAM_BOOL (KdSinkhornParams, export_plan, FALSE, "Write the plan"),
  KD_PARAM_END
};

enum { STUDENT,
  TEACHER };
static const KdFieldSpec kd_sinkhorn_fields[] = {
  [STUDENT] = { "student.logits", KD_FLOAT32, "* C", KD_FIELD_GRAD },
  [TEACHER] = { "teacher.logits", KD_FLOAT32 | KD_FLOAT16 | KD_BFLOAT16, "* C" },
  KD_FIELD_END
};

enum { COST,
  PLAN };
static const KdFieldSpec kd_sinkhorn_outputs[] = {
  [COST] = { "metric.sinkhorn.cost", KD_FLOAT64, "" },
  [PLAN] = { "plan", KD_FLOAT32, "* ...", 0, .when = "export_plan" },
  KD_FIELD_END
};

static const gchar *const kd_sinkhorn_terms[] = { "sinkhorn", NULL };

/* The first value of row @r that no softmax has; FALSE when there is none. A row that is all -infinity has its first. */
static gboolean
find_bad (const KdTensor *logits, gint64 r, gint64 size, gdouble *ret_value)
{
  gboolean any = FALSE;

  for (gint64 j = 0; j < size; j++) {
    *ret_value = kd_tensor_get_double (logits, (gsize) (r * size + j));
    if (isnan (*ret_value) || *ret_value == INFINITY)
      return TRUE;
    any = any || isfinite (*ret_value);
  }
  return !any;
}

static gboolean
refuse_values (const KdCall *call, const gint64 *row, gint64 n, GError **error)
{
  gint64 size = kd_call_size (call, 'C');

  for (guint field = STUDENT; field <= TEACHER; field++)
    for (gint64 i = 0; i < n; i++) {
      gdouble value = 0;
      if (!find_bad (call->in[field], row[i], size, &value))
        continue;
      g_set_error (error, KD_ERROR, KD_ERROR_VALUE, "No softmax: element=kdsinkhorn, field=%s, row=%" G_GINT64_FORMAT ", value=%g, wanted=finite logits, some may be -infinity; nan-policy=drop leaves such rows out", kd_sinkhorn_fields[field].name, row[i], value);
      return FALSE;
    }
  return FALSE;
}

static void
write_plan (const KdCall *call, const gint64 *row, gint64 n, const gdouble *plan, KdTensor **ret_out)
{
  const KdTensor *logits = call->in[STUDENT];
  gint64 n_rows = kd_call_rows (call)->n, dims[KD_MAX_RANK];
  gfloat *to;

  memcpy (dims, logits->dims, sizeof dims);
  dims[logits->rank - 1] = n_rows;
  *ret_out = kd_tensor_new_zero (KD_FLOAT32, logits->rank, dims);
  to = (*ret_out)->data;
  for (gint64 i = 0; i < n; i++)
    for (gint64 j = 0; j < n; j++)
      to[row[i] * n_rows + row[j]] = (gfloat) plan[i * n + j];
}

/* One group, the points @row among @length rows: adds its cost to @ret_cost and how many points it had to @ret_points. */
static gboolean
do_group (const KdCall *call, KdLossResult *ret, gint64 length, const gint64 *row, gint64 n, gdouble *ret_cost, gint64 *ret_points, GError **error)
{
  const KdSinkhornParams *p = call->params;
  gboolean wanted = p->export_plan && length == kd_call_rows (call)->n; /* a single group */
  g_autofree gdouble *plan = wanted ? g_new (gdouble, n * n) : NULL;
  gdouble cost = kd_sinkhorn (&(KdSinkhorn) {
      .n = n,
      .size = kd_call_size (call, 'C'),
      .row = row,
      .student = call->in[STUDENT]->data,
      .teacher = call->in[TEACHER]->data,
      .teacher_type = (KdReal) call->in[TEACHER]->dtype,
      .temperature = p->temperature,
      .epsilon = p->epsilon,
      .iterations = (int) p->iterations,
      .envelope = p->gradient == GRADIENT_ENVELOPE,
      .scale = call->weight * p->scale,
      .grad = ret->grad[STUDENT],
      .plan = plan,
  });

  if (isnan (cost))
    return refuse_values (call, row, n, error);
  if (wanted)
    write_plan (call, row, n, plan, &ret->out[PLAN]);
  *ret_cost += cost;
  *ret_points += n;
  return TRUE;
}

static gboolean
kd_sinkhorn_evaluate (const KdCall *call, KdLossResult *ret, GError **error)
{
  const KdSinkhornParams *p = call->params;
  const KdRows *rows = kd_call_rows (call);
  gint64 length = p->group == GROUP_BATCH || call->n_samples == 0 ? rows->n : rows->n / call->n_samples, points = 0, left_out = 0;
  g_autofree gint64 *row = g_new (gint64, MIN (length, p->max_points));
  gdouble cost = 0;

  if (kd_call_size (call, 'C') < 2) {
    g_set_error (error, KD_ERROR, KD_ERROR_SHAPE, "Too few classes: element=kdsinkhorn, field=student.logits, classes=%" G_GINT64_FORMAT ", wanted=2 or more; for a regression head use kdlogitmse", kd_call_size (call, 'C'));
    return FALSE;
  }
  for (gint64 first = 0; first < rows->n; first += length) {
    gint64 n = 0, r = first;
    for (; r < first + length && n < p->max_points; r++)
      if (rows->coef[r] != 0)
        row[n++] = r;
    for (; r < first + length; r++)
      left_out += rows->coef[r] != 0;
    if (!do_group (call, ret, length, row, n, &cost, &points, error))
      return FALSE;
  }
  if (left_out)
    GST_WARNING ("kdsinkhorn: %" G_GINT64_FORMAT " rows beyond max-points=%" G_GINT64_FORMAT " of their group have no part in the loss", left_out, p->max_points);
  ret->loss = ret->term[0] = call->weight * p->scale * cost;
  *(gdouble *) ret->out[COST]->data = points ? cost / (gdouble) points : 0;
  return TRUE;
}

static const KdLossDesc kd_sinkhorn_desc = {
  .name = "kdsinkhorn",
  .title = "Sinkhorn distance loss",
  .description = "Optimal transport between the student's and the teacher's outputs of a whole batch",
  .source = "arXiv:2402.17110",
  .formula = "loss = weight scale sum_ij P_ij W_ij, W_ij = sum_v |softmax (student_i / T)_v - softmax (teacher_j / T)_v|, "
             "P = exp (-W / epsilon) with its rows and columns normalised in turn, `iterations` times",
  .units = "l1 distance of probabilities times scale; sum over the counted rows",
  .fields = kd_sinkhorn_fields,
  .params = kd_sinkhorn_params,
  .params_size = sizeof (KdSinkhornParams),
  .outputs = kd_sinkhorn_outputs,
  .terms = kd_sinkhorn_terms,
  .default_weight = 0.8,
  .evaluate = kd_sinkhorn_evaluate,
};

KD_LOSS_PLUGIN (kd_sinkhorn_desc)
