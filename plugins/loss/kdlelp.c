/**
 * SECTION:element-kdlelp
 * @short_description: soft subclasses from the teacher's embeddings, for few classes
 *
 * z_cs = U_cs . (P h - mu_c) / kappa_c, h the teacher's embedding, P, mu, U, kappa the fit of kdlelpfit; for every class c and subclass s:
 * p_cs = softmax_c (t / T) softmax_s (z_c / beta): it sums to 1, over s to the teacher's probability of c
 * q = softmax (u / T) over all C S logits u of the student, subclass s of class c at c S + s
 * kd = T^2 mean_n sum p (log p - log q); ce = mean_n (log-sum-exp of u - log-sum-exp of u_y), y the label's subclasses, at temperature 1
 * loss = ce-weight ce + (1 - ce-weight) kd
 * grad = ((1 - ce-weight) T (q - p) + ce-weight (softmax (u) - [c = y] softmax (u_y))) / rows. With one subclass this is plain distillation.
 *
 * ## Fields
 *  - student.logits: float32 [N M], M = C S, differentiable
 *  - teacher.features.{teacher-field} (embed): float32, float16 or bfloat16 [N D]; teacher.logits: the same types, [N C]
 *  - label: int64 [N], needed by ce-weight above 0
 *  - lelp.projector [D D], lelp.mean [C D], lelp.directions [C S D], lelp.scale [C]: float32 tables, instead of the file; a missing scale is 1,
 *    and so is one of 0
 *  - mask, sample.weight: optional, see the base
 *  - adds loss.kd, loss.ce (0 when it has no weight), teacher.subclass.probs: float32 [N M] (p), student.class.logits: float32 [N C], the
 *    log-sum-exp over each class's subclasses: what evaluators want
 * ## Units
 * nats; mean over the counted rows by default.
 * ## Errors
 * No fit, one of other sizes or of another teacher (KD_ERROR_MISMATCH), a student without C S outputs, no label with a ce-weight.
 * ## Source
 * arXiv:2409.20449 section 3; ce-weight is 0 in its runs. T^2 is a choice made here, and beta is in units of kappa.
 * ## Example
 * |[ kd launch 'kdh5src location=train.h5 epochs=20 ! kdcache location=t.h5 ! kdstudent arch="mlp dims=64,12,10" ! kdlelp teacher-field=layer2
 * location=fit.h5 temperature=2 beta=0.5 ! kdtrain' ]|
 */
#include <kd/kd.h>

#include <math.h>

typedef struct {
  gint64 subclasses;
  gdouble temperature, beta, ce_weight;
  gchar *location, *teacher_field;
} KdLelpParams;

static const KdParam kd_lelp_params[] = {
  KD_PARAM_INT (KdLelpParams, subclasses, 1, 4096, 5, "Subclasses of each class, as in the fit"),
  KD_PARAM_DOUBLE (KdLelpParams, temperature, 0.01, 100.0, 1.0, "Divides the teacher's class logits and the student's logits; kd is multiplied by its square"),
  KD_PARAM_DOUBLE (KdLelpParams, beta, 1e-6, 1e6, 1.0, "Divides the coordinates: the larger, the more even the subclasses"),
  KD_PARAM_DOUBLE (KdLelpParams, ce_weight, 0.0, 1.0, 0.0, "Share of the cross-entropy with the labels"),
  KD_PARAM_STRING (KdLelpParams, location, "", "File that kdlelpfit has written"),
  KD_PARAM_STRING (KdLelpParams, teacher_field, "embed", "Name of the teacher's feature, after teacher.features."),
  KD_PARAM_END
};

enum { STUDENT,
  EMBED,
  TEACHER,
  LABEL,
  PROJECTOR,
  MEAN,
  DIRECTIONS,
  SCALE };
static const KdFieldSpec kd_lelp_fields[] = {
  [STUDENT] = { "student.logits", KD_FLOAT32, "N M", KD_FIELD_GRAD },
  [EMBED] = { "teacher.features.{teacher_field}", KD_FLOAT32 | KD_FLOAT16 | KD_BFLOAT16, "N D", KD_FIELD_FINITE },
  [TEACHER] = { "teacher.logits", KD_FLOAT32 | KD_FLOAT16 | KD_BFLOAT16, "N C" },
  [LABEL] = { "label", KD_INT64, "N", KD_FIELD_OPTIONAL | KD_FIELD_LABEL },
  [PROJECTOR] = { "lelp.projector", KD_FLOAT32, "D D", KD_FIELD_OPTIONAL | KD_FIELD_TABLE },
  [MEAN] = { "lelp.mean", KD_FLOAT32, "C D", KD_FIELD_OPTIONAL | KD_FIELD_TABLE },
  [DIRECTIONS] = { "lelp.directions", KD_FLOAT32, "C {subclasses} D", KD_FIELD_OPTIONAL | KD_FIELD_TABLE },
  [SCALE] = { "lelp.scale", KD_FLOAT32, "C", KD_FIELD_OPTIONAL | KD_FIELD_TABLE },
  KD_FIELD_END
};

enum { SUBCLASS_PROBS,
  CLASS_LOGITS };
static const KdFieldSpec kd_lelp_outputs[] = {
  [SUBCLASS_PROBS] = { "teacher.subclass.probs", KD_FLOAT32, "N M" },
  [CLASS_LOGITS] = { "student.class.logits", KD_FLOAT32, "N C" },
  KD_FIELD_END
};

enum { KD,
  CE };
static const gchar *const kd_lelp_terms[] = { [KD] = "kd", [CE] = "ce", NULL };

/* The fit as one linear map: z_cs = map_cs . h - offset_cs. */
typedef struct {
  gint64 n_classes, n_sub, size;
  gdouble *map, *offset; /* [C S D], [C S] */
} Fit;

typedef struct {
  Fit fit; /* of the file; empty without one */
  gchar *teacher;
} KdLelpState;

static void
fit_clear (Fit *fit)
{
  g_clear_pointer (&fit->map, g_free);
  g_clear_pointer (&fit->offset, g_free);
}
G_DEFINE_AUTO_CLEANUP_CLEAR_FUNC (Fit, fit_clear)

/* map = U P / kappa, offset = U . mu / kappa. @scale may be NULL; one of 0 (embeddings that do not vary) is 1. */
static void
fit_make (Fit *fit, const KdTensor *projector, const KdTensor *mean, const KdTensor *directions, const KdTensor *scale)
{
  const gfloat *p = projector->data, *m = mean->data, *u = directions->data;
  gint64 n_sub = directions->dims[1], size = directions->dims[2];

  *fit = (Fit) { directions->dims[0], n_sub, size, g_new0 (gdouble, directions->dims[0] * n_sub * size), g_new0 (gdouble, directions->dims[0] * n_sub) };
  for (gint64 i = 0; i < fit->n_classes * n_sub; i++) {
    gdouble kappa = scale && ((const gfloat *) scale->data)[i / n_sub] > 0 ? ((const gfloat *) scale->data)[i / n_sub] : 1;
    for (gint64 j = 0; j < size; j++) {
      gdouble along = u[i * size + j] / kappa;
      fit->offset[i] += along * m[i / n_sub * size + j];
      for (gint64 k = 0; k < size; k++)
        fit->map[i * size + k] += along * p[j * size + k];
    }
  }
}

/* (transfer full) one table of the fit's file, of the shape [@dims]; -1 takes any size and tells it. */
static KdTensor *
read_table (KdH5Reader *reader, const gchar *name, guint rank, gint64 *dims, GError **error)
{
  g_autoptr (KdTensor) tensor = kd_layout_find (kd_h5_reader_layout (reader), name) ? kd_h5_reader_read_all (reader, name, NULL) : NULL;
  gboolean fits = tensor && tensor->dtype == KD_FLOAT32 && tensor->rank == rank;

  for (guint i = 0; fits && i < rank; i++) {
    fits = dims[i] < 0 || dims[i] == tensor->dims[i];
    dims[i] = tensor->dims[i];
  }
  for (gsize i = 0; fits && i < kd_tensor_n_elements (tensor); i++)
    fits = isfinite (((const gfloat *) tensor->data)[i]);
  if (fits)
    return g_steal_pointer (&tensor);
  g_set_error (error, KD_ERROR, KD_ERROR_FORMAT, "No fit of subclasses: path=\"%s\", dataset=%s, wanted=float32 of the fit's sizes, all finite; write it with kdlelpfit",
      kd_h5_reader_path (reader), name);
  return NULL;
}

static gboolean
kd_lelp_open (gconstpointer params, gpointer state_block, GError **error)
{
  const KdLelpParams *p = params;
  KdLelpState *state = state_block;
  g_autoptr (KdH5Reader) reader = NULL;
  g_autoptr (KdTensor) projector = NULL, mean = NULL, directions = NULL, scale = NULL;
  gint64 dims[3] = { -1, p->subclasses, -1 };

  if (!p->location || !*p->location)
    return TRUE;
  reader = kd_h5_reader_open (p->location, NULL, error);
  directions = reader ? read_table (reader, "lelp.directions", 3, dims, error) : NULL;
  projector = directions ? read_table (reader, "lelp.projector", 2, (gint64[]) { dims[2], dims[2] }, error) : NULL;
  mean = projector ? read_table (reader, "lelp.mean", 2, (gint64[]) { dims[0], dims[2] }, error) : NULL;
  if (!mean)
    return FALSE;
  if (kd_layout_find (kd_h5_reader_layout (reader), "lelp.scale")) {
    scale = read_table (reader, "lelp.scale", 1, (gint64[]) { dims[0] }, error);
    if (!scale)
      return FALSE;
  }
  fit_make (&state->fit, projector, mean, directions, scale);
  state->teacher = g_strdup (kd_h5_reader_attribute (reader, "kd.teacher"));
  return TRUE;
}

static void
kd_lelp_clear (gpointer state_block)
{
  KdLelpState *state = state_block;

  fit_clear (&state->fit);
  g_clear_pointer (&state->teacher, g_free);
}

/* The fit in force: the tables of the batch win over the file. @own holds what is made of the tables. */
static const Fit *
choose_fit (const KdCall *call, Fit *own, GError **error)
{
  const KdLelpParams *p = call->params;
  const KdLelpState *state = call->state;

  if (call->in[PROJECTOR] && call->in[MEAN] && call->in[DIRECTIONS]) {
    fit_make (own, call->in[PROJECTOR], call->in[MEAN], call->in[DIRECTIONS], call->in[SCALE]);
    return own;
  }
  if (!state->fit.map) {
    g_set_error (error, KD_ERROR, KD_ERROR_FIELD, "Field missing: element=kdlelp, field=lelp.projector, lelp.mean, lelp.directions; set location to a file of kdlelpfit");
    return NULL;
  }
  if (state->teacher && call->teacher && !g_str_equal (state->teacher, call->teacher)) {
    g_set_error (error, KD_ERROR, KD_ERROR_MISMATCH, "Fit of another teacher: element=kdlelp, location=\"%s\", fitted on=%s, here=%s; fit again with kdlelpfit", p->location,
        state->teacher, call->teacher);
    return NULL;
  }
  return &state->fit;
}

static gboolean
check_sizes (const KdCall *call, const Fit *fit, GError **error)
{
  const KdLelpParams *p = call->params;
  gint64 n_outputs = kd_call_size (call, 'M'), n_classes = kd_call_size (call, 'C'), size = kd_call_size (call, 'D');

  if (fit->n_classes != n_classes || fit->size != size || n_outputs != n_classes * fit->n_sub) {
    g_set_error (error, KD_ERROR, KD_ERROR_SHAPE, "Sizes differ: element=kdlelp, fit=%" G_GINT64_FORMAT " classes of %" G_GINT64_FORMAT " subclasses in width %" G_GINT64_FORMAT ", teacher.logits=[N,%" G_GINT64_FORMAT "], teacher.features.%s=[N,%" G_GINT64_FORMAT "], student.logits=[N,%" G_GINT64_FORMAT "], wanted=[N,%" G_GINT64_FORMAT "]",
        fit->n_classes, fit->n_sub, fit->size, n_classes, p->teacher_field, size, n_outputs, n_classes * fit->n_sub);
    return FALSE;
  }
  if (p->ce_weight > 0 && !call->in[LABEL]) {
    g_set_error (error, KD_ERROR, KD_ERROR_FIELD, "Field missing: element=kdlelp, field=label, ce-weight=%g; put a source with labels before it or set ce-weight=0", p->ce_weight);
    return FALSE;
  }
  return TRUE;
}

/* x / t minus its log-sum-exp, in place; returns the log-sum-exp. NaN stays NaN. */
static gdouble
log_softmax (gdouble *x, gint64 n, gdouble t)
{
  gdouble max = -INFINITY, sum = 0, lse;

  for (gint64 i = 0; i < n; i++)
    max = x[i] / t > max ? x[i] / t : max;
  for (gint64 i = 0; i < n; i++)
    sum += exp (x[i] / t - max);
  lse = max + log (sum);
  for (gint64 i = 0; i < n; i++)
    x[i] = x[i] / t - lse;
  return lse;
}

/* Room for one row, all in double: the embedding; logarithms of the targets and of their classes; the student's logits, and their logarithms at T
 * and at 1. */
typedef struct {
  gdouble *embed, *target, *class, *logits, *soft, *plain;
} Row;

/* Logarithms of p_cs. Returns 0, or NaN for a teacher's logit that is infinite: a class without probability would hide it. */
static gdouble
find_targets (const KdCall *call, const Fit *fit, gint64 r, Row *row)
{
  const KdLelpParams *p = call->params;
  gdouble check = 0;

  kd_row_to_double (call->in[EMBED]->data, (KdReal) call->in[EMBED]->dtype, r, fit->size, row->embed);
  kd_row_to_double (call->in[TEACHER]->data, (KdReal) call->in[TEACHER]->dtype, r, fit->n_classes, row->class);
  for (gint64 c = 0; c < fit->n_classes; c++)
    check += 0 * row->class[c];
  log_softmax (row->class, fit->n_classes, p->temperature);
  for (gint64 c = 0; c < fit->n_classes; c++) {
    gdouble *target = row->target + c * fit->n_sub;
    for (gint64 s = 0; s < fit->n_sub; s++) {
      const gdouble *map = fit->map + (c * fit->n_sub + s) * fit->size;
      target[s] = -fit->offset[c * fit->n_sub + s];
      for (gint64 j = 0; j < fit->size; j++)
        target[s] += map[j] * row->embed[j];
    }
    log_softmax (target, fit->n_sub, p->beta);
    for (gint64 s = 0; s < fit->n_sub; s++)
      target[s] += row->class[c];
  }
  return check;
}

/* T^2 KL of the row, its gradient added with @c. */
static gdouble
add_teacher (const KdLelpParams *p, const Row *row, gint64 n, gdouble c, gfloat *grad)
{
  gdouble value = 0;

  for (gint64 j = 0; j < n; j++) {
    gdouble target = exp (row->target[j]);
    value += target == 0 ? 0 * row->soft[j] : target * (row->target[j] - row->soft[j]);
    grad[j] += (gfloat) (c * p->temperature * (exp (row->soft[j]) - target));
  }
  return p->temperature * p->temperature * value;
}

/* Cross-entropy of the label's subclasses together; -log of their share. */
static gdouble
add_label (const Row *row, gint64 n, gint64 n_sub, gint64 label, gdouble c, gfloat *grad)
{
  const gdouble *own = row->plain + label * n_sub;
  gdouble max = -INFINITY, sum = 0, share;

  for (gint64 s = 0; s < n_sub; s++)
    max = MAX (max, own[s]);
  for (gint64 s = 0; s < n_sub; s++)
    sum += exp (own[s] - max);
  share = max + log (sum);
  for (gint64 j = 0; j < n; j++)
    grad[j] += (gfloat) (c * (exp (row->plain[j]) - (j / n_sub == label ? exp (row->plain[j] - share) : 0)));
  return -share;
}

static void
add_row (const KdCall *call, const Fit *fit, gint64 r, Row *row, KdLossResult *ret, gdouble *ret_kd, gdouble *ret_ce)
{
  const KdLelpParams *p = call->params;
  gint64 n = fit->n_classes * fit->n_sub;
  gfloat *grad = ret->grad[STUDENT] + r * n, *probs = (gfloat *) ret->out[SUBCLASS_PROBS]->data + r * n;
  gdouble coef = kd_call_rows (call)->coef[r];

  *ret_kd = find_targets (call, fit, r, row);
  kd_row_to_double (call->in[STUDENT]->data, KD_REAL_F32, r, n, row->logits);
  for (gint64 j = 0; j < n; j++) {
    row->soft[j] = row->plain[j] = row->logits[j];
    probs[j] = (gfloat) exp (row->target[j]);
  }
  log_softmax (row->soft, n, p->temperature);
  log_softmax (row->plain, n, 1);
  for (gint64 c = 0; c < fit->n_classes; c++)
    ((gfloat *) ret->out[CLASS_LOGITS]->data)[r * fit->n_classes + c] = (gfloat) log_softmax (row->logits + c * fit->n_sub, fit->n_sub, 1);
  *ret_kd += add_teacher (p, row, n, (1 - p->ce_weight) * coef, grad);
  if (p->ce_weight > 0)
    *ret_ce = add_label (row, n, fit->n_sub, ((const gint64 *) call->in[LABEL]->data)[r], p->ce_weight * coef, grad);
}

static gboolean
kd_lelp_evaluate (const KdCall *call, KdLossResult *ret, GError **error)
{
  const KdLelpParams *p = call->params;
  const KdRows *rows = kd_call_rows (call);
  g_auto (Fit) own = { 0 };
  const Fit *fit = choose_fit (call, &own, error);
  gint64 n = kd_call_size (call, 'M'), n_classes = kd_call_size (call, 'C'), size = kd_call_size (call, 'D');
  g_autofree gdouble *room = g_new (gdouble, MAX (size + n_classes + 4 * n, 1)), *kd = g_new0 (gdouble, rows->n), *ce = g_new0 (gdouble, rows->n);
  Row row = { room, room + size, room + size + n, room + size + n + n_classes, room + size + 2 * n + n_classes, room + size + 3 * n + n_classes };

  if (!fit || !check_sizes (call, fit, error))
    return FALSE;
  for (gint64 r = 0; r < rows->n; r++)
    if (rows->coef[r] != 0)
      add_row (call, fit, r, &row, ret, &kd[r], &ce[r]);
  ret->term[KD] = kd_rows_sum (rows->n, rows->coef, kd);
  ret->term[CE] = kd_rows_sum (rows->n, rows->coef, ce);
  ret->loss = p->ce_weight * ret->term[CE] + (1 - p->ce_weight) * ret->term[KD];
  return TRUE;
}

static const KdLossDesc kd_lelp = {
  .name = "kdlelp",
  .title = "Subclass distillation loss",
  .description = "KL from the teacher's classes split into soft subclasses along the main directions of its embeddings",
  .source = "arXiv:2409.20449 section 3",
  .formula = "loss = ce-weight CE (label's subclasses) + (1 - ce-weight) T^2 mean_n KL (p || softmax (u / T)), "
             "p_cs = softmax_c (t / T) softmax_s (U_cs . (P h - mu_c) / (kappa_c beta))",
  .units = "nats; mean over the counted rows with reduction=token-mean",
  .fields = kd_lelp_fields,
  .params = kd_lelp_params,
  .params_size = sizeof (KdLelpParams),
  .state_size = sizeof (KdLelpState),
  .state_open = kd_lelp_open,
  .state_clear = kd_lelp_clear,
  .outputs = kd_lelp_outputs,
  .terms = kd_lelp_terms,
  .evaluate = kd_lelp_evaluate,
};

KD_LOSS_PLUGIN (kd_lelp)
