/**
 * SECTION:element-kdtgeo
 * @short_description: how much teacher and how much label, decided per sample from the triangle of student, teacher and label
 *
 * S = softmax (student), T = softmax (teacher), G = onehot (label), O = class_mean[label]; the controller's input is the row
 * x = [S, T, G, O, (O-S)^2, (G-S)^2, (T-S)^2, (T-G)^2, (O-G)^2], squares entry by entry, zeros where a relation is switched off:
 * relations: st is (T-S)^2, sg (G-S)^2, tg (T-G)^2, inter O, (O-S)^2 and (O-G)^2.
 * alpha = sigmoid (w3 . LReLU (W2 LReLU (W1 x + b1) + b2) + b3), the argument limited to +-30
 * loss = mean_n [alpha_n t^2 KL (q || p) + (1 - alpha_n) CE (student, label)], q = softmax (teacher / t), p = softmax (student / t), t = temperature
 * grad.student.logits = (alpha t (p - q) + (1 - alpha) (S - G)) / rows: alpha is constant for the student.
 *
 * Every meta-every batches of training the controller takes a step of Adam along the gradient of the cross-entropy of held-out rows (`validation`),
 * which the student would have after one plain step theta' = theta - inner-lr d loss / d theta:
 * d/d alpha_n = -inner-lr / rows sum_c jvp_nc (t (p - q) - (S - G))_nc, jvp = d/de student.logits (theta + e v), v that gradient at theta'.
 * jvp is asked of the student (a central difference, kd-lookahead), or taken from the batch. Both come from one place in the run: no queue
 * may stand between the student and kdtrain. Held-out rows must be disjoint from training and test.
 *
 * ## Fields
 *  - student.logits: float32 [* C], differentiable; teacher.logits: float32, float16 or bfloat16 [* C]; label: int64 [*]
 *  - teacher.class_mean: float32 [C C], a table, or class_mean of the file class-mean-location (kdclassmean): row c the mean of T over the training rows of
 *    class c; a class without rows has zeros, and O = 1/C then. class-mean=batch: over the rows of the batch
 *  - student.logits.jvp: float32 [* C], optional; controller.fc1.weight [hidden1 9C] ... controller.fc3.bias [1]: tables, optional; those in the
 *    first batch are the controller's first numbers
 *  - adds sample.fusion: float32 [*], alpha; loss.outer: the held-out rows' cross-entropy when last looked at, 0 before;
 *    metric.tgeo.fusion: mean alpha; metric.tgeo.skipped: steps left out because of values that are not finite
 *  - with diagnostics: state [* 9C] (x), grad.sample.fusion [*], grad.controller.*: not for a graph with kdtrain, which takes no such gradient
 * Adds loss.kd and loss.ce, both before alpha; loss.kd holds t^2.
 * ## Units
 * nats; token-mean over the counted rows by default.
 * ## Errors
 * No table with class-mean=table, a row of it that is no distribution, another number of classes than before; in a graph that trains with
 * meta-every above 0: no validation, many processes, a training row whose sample.id or input is that of a held-out row (validation-check).
 * ## Source
 * arXiv:2312.15112; state, controller and loss as in Chengming0501/TGeo-KD, whose script never trains its controller (meta-every=0). One-step
 * unrolling and the central difference as in DARTS, arXiv:1806.09055 section 2.3.
 * ## Example
 * |[ kd launch 'kdh5src location=train.h5 epochs=60 ! kdcache location=teacher.h5 ! kdstudent arch="mlp dims=64,16,10" ! kdtgeo
 * class-mean-location=mean.h5 validation=val.h5 ! kdtrain' ]|
 */
#include "kdtgeo.h"

#include <math.h>
#include <string.h>

static const KdEnumValue class_means[] = {
  { KD_TGEO_MEAN_TABLE, "table", "Means over the training rows, from the batch or from class-mean-location" },
  { KD_TGEO_MEAN_BATCH, "batch", "Means over the rows of the batch" },
  { 0, NULL, NULL }
};

static const KdEnumValue relations[] = {
  { KD_TGEO_ST, "st", "How far student and teacher are apart" },
  { KD_TGEO_SG, "sg", "How far the student is from the label" },
  { KD_TGEO_TG, "tg", "How far the teacher is from the label" },
  { KD_TGEO_INTER, "inter", "The class's mean prediction and the distances to it" },
  { 0, NULL, NULL }
};

static const KdEnumValue checks[] = {
  { KD_TGEO_CHECK_IDS, "ids", "Neither the sample.id, where the file has it, nor the input's bytes may be a training row's" },
  { KD_TGEO_CHECK_INPUTS, "inputs", "The bytes alone: the file's ids are of other data" },
  { KD_TGEO_CHECK_NONE, "none", "Not compared" },
  { 0, NULL, NULL }
};

static const KdParam kd_tgeo_params[] = {
  KD_PARAM_DOUBLE (KdTgeoParams, temperature, 1e-3, 100.0, 1.5, "Divides both logits in the KL term, which is multiplied by its square"),
  KD_PARAM_ENUM (KdTgeoParams, class_mean, class_means, KD_TGEO_MEAN_TABLE, "Where the teacher's mean prediction of a class comes from"),
  KD_PARAM_STRING (KdTgeoParams, class_mean_location, "", "File with class_mean, as kdclassmean writes it; a field of the batch wins"),
  KD_PARAM_INT (KdTgeoParams, hidden1, 1, 4096, 32, "Width of the controller's first layer"),
  KD_PARAM_INT (KdTgeoParams, hidden2, 1, 4096, 16, "Width of its second layer"),
  KD_PARAM_DOUBLE (KdTgeoParams, leaky_slope, 0.0, 0.999999, 0.01, "Slope of the controller's leaky ReLU below 0"),
  KD_PARAM_DOUBLE (KdTgeoParams, controller_lr, 1e-12, 1e6, 3e-3, "Learning rate of the controller's Adam; from 1e-2 alpha saturates in some runs"),
  KD_PARAM_DOUBLE (KdTgeoParams, controller_weight_decay, 0.0, 1e6, 0.05, "Times the controller's numbers, added to their gradient, which is small: 0 where alpha stays near its start"),
  KD_PARAM_DOUBLE (KdTgeoParams, inner_lr, 1e-12, 1e6, 0.1, "Learning rate of the student's step that is looked ahead"),
  KD_PARAM_INT (KdTgeoParams, meta_every, 0, G_MAXINT64, 1, "Batches between steps of the controller, 0: it stays as it is"),
  KD_PARAM_STRING (KdTgeoParams, validation, "", "Batch file with input and label: held-out rows that the controller learns from"),
  KD_PARAM_INT (KdTgeoParams, validation_first, 0, G_MAXINT64, 0, "First row of it to use"),
  KD_PARAM_INT (KdTgeoParams, validation_count, 0, G_MAXINT64, 0, "Rows of it to use, 0: all from the first"),
  KD_PARAM_INT (KdTgeoParams, validation_batch_size, 0, G_MAXINT64, 64, "Held-out rows a step, 0: all"),
  KD_PARAM_ENUM (KdTgeoParams, validation_check, checks, KD_TGEO_CHECK_IDS, "How held-out rows are told from training rows: one that is both is an error"),
  KD_PARAM_FLAGS (KdTgeoParams, relations, relations, KD_TGEO_ST | KD_TGEO_SG | KD_TGEO_TG | KD_TGEO_INTER, "What the controller is shown beside the three predictions"),
  KD_PARAM_BOOL (KdTgeoParams, diagnostics, FALSE, "Write state, grad.sample.fusion and grad.controller.*"),
  KD_PARAM_UINT64 (KdTgeoParams, seed, 0, "Key of the controller's first numbers"),
  KD_PARAM_END
};

static const KdFieldSpec kd_tgeo_fields[] = {
  [KD_TGEO_STUDENT] = { "student.logits", KD_FLOAT32, "* C", KD_FIELD_GRAD },
  [KD_TGEO_TEACHER] = { "teacher.logits", KD_FLOAT32 | KD_FLOAT16 | KD_BFLOAT16, "* C" },
  [KD_TGEO_LABEL] = { "label", KD_INT64, "*", KD_FIELD_LABEL },
  [KD_TGEO_CLASS_MEAN] = { "teacher.class_mean", KD_FLOAT32, "C C", KD_FIELD_OPTIONAL | KD_FIELD_TABLE },
  [KD_TGEO_JVP] = { "student.logits.jvp", KD_FLOAT32, "* C", KD_FIELD_OPTIONAL },
  [KD_TGEO_CONTROLLER] = { "controller.fc1.weight", KD_FLOAT32, "{hidden1} S", KD_FIELD_OPTIONAL | KD_FIELD_TABLE },
  { "controller.fc1.bias", KD_FLOAT32, "{hidden1}", KD_FIELD_OPTIONAL | KD_FIELD_TABLE },
  { "controller.fc2.weight", KD_FLOAT32, "{hidden2} {hidden1}", KD_FIELD_OPTIONAL | KD_FIELD_TABLE },
  { "controller.fc2.bias", KD_FLOAT32, "{hidden2}", KD_FIELD_OPTIONAL | KD_FIELD_TABLE },
  { "controller.fc3.weight", KD_FLOAT32, "1 {hidden2}", KD_FIELD_OPTIONAL | KD_FIELD_TABLE },
  { "controller.fc3.bias", KD_FLOAT32, "1", KD_FIELD_OPTIONAL | KD_FIELD_TABLE },
  KD_FIELD_END
};

enum { FUSION,
  OUTER,
  MEAN_FUSION,
  SKIPPED,
  STATE,
  GRAD_FUSION,
  GRAD_CONTROLLER };
static const KdFieldSpec kd_tgeo_outputs[] = {
  [FUSION] = { "sample.fusion", KD_FLOAT32, "*" },
  [OUTER] = { "loss.outer", KD_FLOAT64, "" },
  [MEAN_FUSION] = { "metric.tgeo.fusion", KD_FLOAT64, "" },
  [SKIPPED] = { "metric.tgeo.skipped", KD_FLOAT64, "" },
  [STATE] = { "state", KD_FLOAT32, "* S", .when = "diagnostics" },
  [GRAD_FUSION] = { "grad.sample.fusion", KD_FLOAT32, "*", .when = "diagnostics" },
  [GRAD_CONTROLLER] = { "grad.controller.fc1.weight", KD_FLOAT32, "{hidden1} S", .when = "diagnostics" },
  { "grad.controller.fc1.bias", KD_FLOAT32, "{hidden1}", .when = "diagnostics" },
  { "grad.controller.fc2.weight", KD_FLOAT32, "{hidden2} {hidden1}", .when = "diagnostics" },
  { "grad.controller.fc2.bias", KD_FLOAT32, "{hidden2}", .when = "diagnostics" },
  { "grad.controller.fc3.weight", KD_FLOAT32, "1 {hidden2}", .when = "diagnostics" },
  { "grad.controller.fc3.bias", KD_FLOAT32, "1", .when = "diagnostics" },
  KD_FIELD_END
};

enum { TERM_KD,
  TERM_CE };
static const gchar *const kd_tgeo_terms[] = { [TERM_KD] = "kd", [TERM_CE] = "ce", NULL };

static const KdStateField kd_tgeo_state[] = {
  KD_STATE_FIELD (KdTgeoState, n_skipped, KD_INT64, 1),
  KD_STATE_FIELD (KdTgeoState, outer, KD_FLOAT64, 1),
  { NULL }
};

/* The first batch says how many classes there are, and may bring the controller's numbers. */
static gboolean
prepare_controller (const KdCall *call, GError **error)
{
  const KdTgeoParams *p = call->params;
  KdTgeoController *controller = &((KdTgeoState *) call->state)->controller;
  gint64 n_classes = kd_call_size (call, 'C'), size = 9 * n_classes;

  if (controller->size && controller->size != size) {
    g_set_error (error, KD_ERROR, KD_ERROR_SHAPE, "Classes changed: element=kdtgeo, field=student.logits, classes=%" G_GINT64_FORMAT ", before=%" G_GINT64_FORMAT "; a controller is for one number of classes",
        n_classes, controller->size / 9);
    return FALSE;
  }
  if (call->in[KD_TGEO_CONTROLLER] && call->in[KD_TGEO_CONTROLLER]->dims[1] != size) {
    g_set_error (error, KD_ERROR, KD_ERROR_SHAPE, "Shapes differ: element=kdtgeo, field=controller.fc1.weight, inputs=%" G_GINT64_FORMAT ", classes=%" G_GINT64_FORMAT ", wanted=%" G_GINT64_FORMAT,
        call->in[KD_TGEO_CONTROLLER]->dims[1], n_classes, size);
    return FALSE;
  }
  if (controller->size)
    return TRUE;
  kd_tgeo_controller_make (controller, size, p->hidden1, p->hidden2, p->seed);
  for (guint part = 0; part < KD_TGEO_N_PARTS; part++) {
    gint64 dims[2];
    guint rank;
    gsize at = kd_tgeo_controller_part (controller, part, &rank, dims);
    if (call->in[KD_TGEO_CONTROLLER + part])
      memcpy (controller->values + at, call->in[KD_TGEO_CONTROLLER + part]->data, call->in[KD_TGEO_CONTROLLER + part]->n_bytes);
  }
  return TRUE;
}

static void
put_rows (const KdCall *call, const KdTgeoRows *found, KdLossResult *ret)
{
  const KdTgeoState *state = call->state;
  const KdRows *rows = kd_call_rows (call);
  const gfloat *grad = found->grad->data;
  gfloat *fusion = ret->out[FUSION]->data;
  gdouble sum = 0;

  for (gint64 i = 0; i < found->n * found->n_classes; i++)
    ret->grad[KD_TGEO_STUDENT][i] += grad[i];
  for (gint64 r = 0; r < found->n; r++) {
    if (rows->coef[r] == 0)
      continue;
    fusion[r] = (gfloat) MIN (found->alpha[r], 1 - ldexp (1, -24)); /* the largest float below 1 */
    sum += found->alpha[r];
  }
  *(gdouble *) ret->out[MEAN_FUSION]->data = rows->n_counted ? sum / (gdouble) rows->n_counted : 0;
  *(gdouble *) ret->out[OUTER]->data = state->outer;
  *(gdouble *) ret->out[SKIPPED]->data = (gdouble) state->n_skipped;
}

static KdTensor *
tensor_of_doubles (guint rank, const gint64 *dims, const gdouble *values)
{
  KdTensor *tensor = kd_tensor_new (KD_FLOAT32, rank, dims);

  for (gsize i = 0; i < kd_tensor_n_elements (tensor); i++)
    ((gfloat *) tensor->data)[i] = (gfloat) values[i];
  return tensor;
}

static void
replace (KdTensor **out, KdTensor *tensor)
{
  g_clear_pointer (out, kd_tensor_unref);
  *out = tensor;
}

static void
put_diagnostics (const KdCall *call, const KdTgeoRows *found, const gdouble *alpha, const gdouble *grad, KdLossResult *ret)
{
  const KdTgeoController *controller = &((const KdTgeoState *) call->state)->controller;
  const KdTensor *logits = call->in[KD_TGEO_STUDENT];
  gint64 dims[KD_MAX_RANK];
  guint rank;

  memcpy (dims, logits->dims, sizeof dims);
  replace (&ret->out[GRAD_FUSION], tensor_of_doubles (logits->rank - 1, dims, alpha));
  dims[logits->rank - 1] = controller->size;
  replace (&ret->out[STATE], tensor_of_doubles (logits->rank, dims, found->x));
  for (guint part = 0; part < KD_TGEO_N_PARTS; part++) {
    gsize at = kd_tgeo_controller_part (controller, part, &rank, dims);
    replace (&ret->out[GRAD_CONTROLLER + part], tensor_of_doubles (rank, dims, grad + at));
  }
}

/* The outer level. The controller moves after everything of this batch is said with what it was. */
static gboolean
take_meta_step (const KdCall *call, const KdTgeoRows *found, KdLossResult *ret, GError **error)
{
  const KdTgeoParams *p = call->params;
  KdTgeoController *controller = &((KdTgeoState *) call->state)->controller;
  g_autofree gdouble *alpha = g_new0 (gdouble, MAX (found->n, 1)), *grad = g_new0 (gdouble, kd_tgeo_controller_n (controller));
  gboolean due = p->meta_every > 0 && call->index % p->meta_every == 0 && !(call->flags & KD_BATCH_VALIDATION) && kd_call_rows (call)->n_counted > 0;
  gboolean done = FALSE;

  if (p->meta_every > 0 && call->look_ahead && ((KdTgeoState *) call->state)->label && !(call->flags & KD_BATCH_VALIDATION) && !kd_tgeo_disjoint_check (call, error))
    return FALSE;
  if (due && !kd_tgeo_outer_gradient (call, found, call->in[KD_TGEO_JVP], alpha, grad, &done, error))
    return FALSE;
  if (p->diagnostics)
    put_diagnostics (call, found, alpha, grad, ret);
  if (done)
    kd_tgeo_controller_adam (controller, grad, p->controller_lr, p->controller_weight_decay);
  return TRUE;
}

static gboolean
kd_tgeo_evaluate (const KdCall *call, KdLossResult *ret, GError **error)
{
  const KdRows *rows = kd_call_rows (call);
  g_autofree gdouble *value = g_new0 (gdouble, MAX (rows->n, 1));
  g_auto (KdTgeoRows) found = { 0 };

  if (!prepare_controller (call, error) || !kd_tgeo_rows_run (call, &found, error))
    return FALSE;
  for (gint64 r = 0; r < rows->n; r++)
    value[r] = found.alpha[r] * found.kd[r] + (1 - found.alpha[r]) * found.ce[r];
  ret->term[TERM_KD] = kd_rows_sum (rows->n, rows->coef, found.kd);
  ret->term[TERM_CE] = kd_rows_sum (rows->n, rows->coef, found.ce);
  ret->loss = kd_rows_sum (rows->n, rows->coef, value);
  if (isfinite (ret->loss) && !take_meta_step (call, &found, ret, error)) /* else the base says which row it is */
    return FALSE;
  put_rows (call, &found, ret);
  return TRUE;
}

static gboolean
kd_tgeo_state_open (gconstpointer params, gpointer state, GError **error)
{
  return kd_tgeo_open (params, state, error);
}

static void
kd_tgeo_state_clear (gpointer state_block)
{
  KdTgeoState *state = state_block;

  kd_tgeo_controller_clear (&state->controller);
  g_clear_pointer (&state->class_mean, kd_tensor_unref);
  g_clear_pointer (&state->held_inputs, g_hash_table_unref);
  g_clear_pointer (&state->held_ids, g_hash_table_unref);
  g_clear_pointer (&state->held_id, kd_tensor_unref);
  g_clear_pointer (&state->input, kd_tensor_unref);
  g_clear_pointer (&state->label, kd_tensor_unref);
}

static void
kd_tgeo_state_save (gconstpointer state, GHashTable *table)
{
  kd_tgeo_controller_save (&((const KdTgeoState *) state)->controller, table);
}

static gboolean
kd_tgeo_state_load (gconstpointer params, gpointer state, GHashTable *table, GError **error)
{
  const KdTgeoParams *p = params;

  return kd_tgeo_controller_load (&((KdTgeoState *) state)->controller, p->hidden1, p->hidden2, table, error);
}

static gboolean
kd_tgeo_check_training (gconstpointer params, gconstpointer state, const KdLayout *layout, GError **error)
{
  const KdTgeoParams *p = params;

  if (p->meta_every == 0)
    return TRUE;
  if (!((const KdTgeoState *) state)->label && !kd_layout_find (layout, "student.logits.jvp")) {
    g_set_error (error, KD_ERROR, KD_ERROR_FIELD, "Nothing to learn from: element=kdtgeo, meta-every=%" G_GINT64_FORMAT ", validation=\"\"; set validation to a file with held-out rows, or meta-every=0",
        p->meta_every);
    return FALSE;
  }
  if (kd_world_size () > 1) {
    g_set_error (error, KD_ERROR, KD_ERROR_UNSUPPORTED, "Controllers would differ: element=kdtgeo, meta-every=%" G_GINT64_FORMAT ", processes=%d; train in one process, or set meta-every=0",
        p->meta_every, kd_world_size ());
    return FALSE;
  }
  return TRUE;
}

static const KdLossDesc kd_tgeo = {
  .name = "kdtgeo",
  .title = "Trilateral geometry loss",
  .description = "Teacher and label weighed per sample by a small network that learns from held-out rows",
  .source = "arXiv:2312.15112",
  .formula = "loss = mean_n [alpha_n T^2 KL (softmax (teacher / T) || softmax (student / T)) + (1 - alpha_n) CE (student, label)], alpha of a learned controller",
  .units = "nats; mean over the counted rows with reduction=token-mean",
  .fields = kd_tgeo_fields,
  .outputs = kd_tgeo_outputs,
  .params = kd_tgeo_params,
  .params_size = sizeof (KdTgeoParams),
  .state_size = sizeof (KdTgeoState),
  .state_open = kd_tgeo_state_open,
  .state_clear = kd_tgeo_state_clear,
  .state_fields = kd_tgeo_state,
  .state_save = kd_tgeo_state_save,
  .state_load = kd_tgeo_state_load,
  .terms = kd_tgeo_terms,
  .check_training = kd_tgeo_check_training,
  .evaluate = kd_tgeo_evaluate,
};

KD_LOSS_PLUGIN (kd_tgeo)
