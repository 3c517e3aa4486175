/**
 * SECTION:element-kdtrain
 * @short_description: ends a graph and makes its models learn
 *
 * For each batch it sends the gradients that the losses left upstream to the models (kd-backward), then lets them step (kd-step).
 * Training is synchronous and exact as long as no queue stands between student and kdtrain; a queue before the student overlaps reading and
 * the teacher with training.
 *
 * ## Fields
 *  - loss: float64 scalar; loss.*: its terms; grad.*: float32, each must be taken by a model
 * ## Messages
 * Element messages kd-progress (samples, total, epoch, step, loss, samples-per-second) and kd-report (step, epoch, means of loss and its terms since
 * the last report, grad-share.* of each loss, grad-norm before clipping, learning-rate).
 * ## Errors
 * No gradient at all, a gradient nobody took, a teacher field nobody read, a loss that is not finite, stale gradients.
 * ## Source
 * SGD and AdamW as torch.optim computes them (AdamW: arXiv:1711.05101); clipping: arXiv:1211.5063 section 3.2.
 * ## Example
 * |[ kd launch 'kdh5src location=train.h5 shuffle=true epochs=20 ! kdcache location=teacher.h5 ! kdstudent arch="mlp dims=64,16,10"
 * save=student.safetensors ! kdhinton temperature=4 ! kdtrain optimizer=adamw learning-rate=0.005' ]|
 */
#include "kdtrain.h"

#include <math.h>
#include <string.h>

static const KdEnumValue optimizers[] = {
  { KD_OPTIMIZER_SGD, "sgd", "Stochastic gradient descent with momentum" },
  { KD_OPTIMIZER_ADAMW, "adamw", "Adam with decoupled weight decay" },
  { 0, NULL, NULL },
};
static const KdEnumValue schedules[] = {
  { KD_SCHEDULE_CONSTANT, "constant", "The learning rate as it is" },
  { KD_SCHEDULE_LINEAR, "linear", "Down to final-learning-rate in a line" },
  { KD_SCHEDULE_COSINE, "cosine", "Down to final-learning-rate on half a cosine (arXiv:1608.03983)" },
  { 0, NULL, NULL },
};

static const KdParam kd_train_params[] = {
  KD_PARAM_ENUM (KdTrainParams, optimizer, optimizers, KD_OPTIMIZER_ADAMW, "How parameters move"),
  KD_PARAM_DOUBLE (KdTrainParams, learning_rate, 0, 1e6, 1e-3, "Step size"),
  KD_PARAM_DOUBLE (KdTrainParams, weight_decay, 0, 1e6, 0, "adamw: decoupled; sgd: L2; on weights, not on biases and norms"),
  KD_PARAM_DOUBLE (KdTrainParams, momentum, 0, 1, 0.9, "sgd only"),
  KD_PARAM_BOOL (KdTrainParams, nesterov, FALSE, "sgd only: Nesterov's momentum"),
  KD_PARAM_DOUBLE (KdTrainParams, beta1, 0, 0.999999, 0.9, "adamw: decay of the first moment"),
  KD_PARAM_DOUBLE (KdTrainParams, beta2, 0, 0.999999, 0.999, "adamw: decay of the second moment"),
  KD_PARAM_DOUBLE (KdTrainParams, epsilon, 0, 1, 1e-8, "adamw: added to the root of the second moment"),
  KD_PARAM_ENUM (KdTrainParams, schedule, schedules, KD_SCHEDULE_CONSTANT, "Learning rate over steps"),
  KD_PARAM_INT (KdTrainParams, warmup_steps, 0, G_MAXINT64, 0, "Steps over which the learning rate rises from 0"),
  KD_PARAM_INT (KdTrainParams, total_steps, 0, G_MAXINT64, 0, "Length of the schedule, 0: what the source announces"),
  KD_PARAM_DOUBLE (KdTrainParams, final_learning_rate, 0, 1e6, 0, "Where a schedule ends"),
  KD_PARAM_DOUBLE (KdTrainParams, clip_norm, 0, 1e12, 0, "Largest norm of all gradients together, 0: no clipping"),
  KD_PARAM_INT (KdTrainParams, accumulate, 1, 1 << 20, 1, "Batches a step; the mean runs over all counted rows of the step"),
  KD_PARAM_STRING (KdTrainParams, checkpoint, "", "File for the state of the whole graph; written at the end and every checkpoint-every steps"),
  KD_PARAM_INT (KdTrainParams, checkpoint_every, 0, G_MAXINT64, 0, "Steps between checkpoints, 0: only at the end"),
  KD_PARAM_BOOL (KdTrainParams, resume, FALSE, "Go on from the checkpoint if the file is there"),
  KD_PARAM_INT (KdTrainParams, report_every, 1, G_MAXINT64, 16, "Steps between reports"),
  KD_PARAM_INT (KdTrainParams, max_in_flight, 1, 1 << 20, 1, "Batches between student and trainer; above 1 gradients are stale"),
  KD_PARAM_END
};

static const KdDesc kd_train_desc = {
  .name = "kdtrain",
  .title = "Trainer",
  .description = "Sends gradients back to the models of the graph and steps their optimisers",
  .source = "arXiv:1711.05101 (AdamW)",
  .params = kd_train_params,
  .params_size = sizeof (KdTrainParams),
};

G_DEFINE_TYPE (KdTrain, kd_train, KD_TYPE_SINK)

static const KdTrainParams *
params_of (KdTrain *self)
{
  return kd_sink_params (KD_SINK (self));
}

/* Each of these was a lost run somewhere: a teacher that is paid for and never used, a gradient that goes nowhere. */
static gboolean
check_use (KdTrain *self, KdBatch *batch, GError **error)
{
  for (guint i = 0; i < kd_batch_n_fields (batch); i++) {
    const KdBatchField *field = kd_batch_nth (batch, i);
    if (g_str_has_prefix (field->name, "teacher.") && field->n_reads == 0) {
      g_set_error (error, KD_ERROR, KD_ERROR_FIELD, "Teacher field read by nobody: element=%s, field=%s; put a loss that reads it before, or leave it out "
                                                    "(fields= of kdcache, features= of kdteacher)",
          GST_OBJECT_NAME (self), field->name);
      return FALSE;
    }
  }
  return TRUE;
}

static gboolean
check_taken (KdTrain *self, const KdBackward *backward, GError **error)
{
  for (guint i = 0; i < kd_batch_n_fields (backward->batch); i++) {
    const gchar *name = kd_batch_nth (backward->batch, i)->name;
    if (g_str_has_prefix (name, "grad.")) {
      g_set_error (error, KD_ERROR, KD_ERROR_FIELD, "Gradient nobody takes: element=%s, field=%s; no model that learns makes %s%s", GST_OBJECT_NAME (self), name,
          name + strlen ("grad."), g_str_has_prefix (name, "grad.teacher.") ? ": put kdpeer before the loss, or tell the loss that the teacher does not learn" : "");
      return FALSE;
    }
  }
  if (backward->n_taken == 0) {
    g_set_error (error, KD_ERROR, KD_ERROR_FIELD, "Nothing learns: element=%s, no model took a gradient; the graph needs a kdstudent and a loss",
        GST_OBJECT_NAME (self));
    return FALSE;
  }
  return TRUE;
}

static gdouble
learning_rate (KdTrain *self, const KdTrainParams *p)
{
  guint64 total = p->total_steps > 0 ? (guint64) p->total_steps : self->n_batches / (guint64) p->accumulate;
  gdouble rate = p->learning_rate, done;

  if (p->warmup_steps > 0 && self->step < (guint64) p->warmup_steps)
    return rate * (gdouble) (self->step + 1) / (gdouble) p->warmup_steps;
  if (p->schedule == KD_SCHEDULE_CONSTANT || total <= (guint64) p->warmup_steps)
    return rate;
  done = MIN (1.0, (gdouble) (self->step - (guint64) p->warmup_steps) / (gdouble) (total - (guint64) p->warmup_steps));
  if (p->schedule == KD_SCHEDULE_COSINE)
    done = 0.5 * (1 - cos (G_PI * done));
  return rate + (p->final_learning_rate - rate) * done;
}

static gboolean
take_step (KdTrain *self, GError **error)
{
  const KdTrainParams *p = params_of (self);
  gdouble scale = self->counted > 0 ? 1 / self->counted : 0, norm;
  KdReduce reduce = { 0 };
  KdStepCall call = { .step = { .optimizer = p->optimizer, .learning_rate = learning_rate (self, p), .weight_decay = p->weight_decay, .momentum = p->momentum, .nesterov = p->nesterov, .beta1 = p->beta1, .beta2 = p->beta2, .epsilon = p->epsilon, .step = self->step + 1 } };

  kd_sink_push_upstream (KD_SINK (self), kd_event_new_pointer (GST_EVENT_CUSTOM_UPSTREAM, KD_EVENT_REDUCE, &reduce));
  if (reduce.failed)
    return FALSE; /* the model has said why */
  norm = sqrt (reduce.grad_norm2) * scale;
  if (!isfinite (norm)) {
    g_set_error (error, KD_ERROR, KD_ERROR_VALUE, "Gradient not finite: element=%s, step=%" G_GUINT64_FORMAT ", norm=%g; lower the learning rate or set clip-norm",
        GST_OBJECT_NAME (self), self->step + 1, norm);
    return FALSE;
  }
  call.step.grad_scale = p->clip_norm > 0 && norm > p->clip_norm ? scale * p->clip_norm / norm : scale;
  kd_sink_push_upstream (KD_SINK (self), kd_event_new_pointer (GST_EVENT_CUSTOM_UPSTREAM, KD_EVENT_STEP, &call));
  self->step++;
  self->micro = 0;
  self->counted = 0;
  self->last_norm = norm;
  self->last_rate = call.step.learning_rate;
  return TRUE;
}

/* A step of several batches: each weighs as many rows as its losses counted. */
static gboolean
is_joined (KdTrain *self)
{
  return params_of (self)->accumulate > 1 || kd_world_size () > 1;
}

/* One backward pass. */
static gboolean
take_backward (KdTrain *self, GstBuffer *buffer, KdBatch *batch, GError **error)
{
  const KdTrainParams *p = params_of (self);
  KdBackward backward = { .buffer = buffer, .batch = batch, .max_in_flight = (guint) p->max_in_flight };

  if (is_joined (self) && isnan (batch->n_counted)) {
    g_set_error (error, KD_ERROR, KD_ERROR_MISMATCH, "Losses count different rows: element=%s, accumulate=%" G_GINT64_FORMAT ", processes=%d; their means cannot be "
                                                     "joined over batches, use accumulate=1 and one process",
        GST_OBJECT_NAME (self), p->accumulate, kd_world_size ());
    return FALSE;
  }
  backward.scale = is_joined (self) ? batch->n_counted : 1;
  kd_sink_push_upstream (KD_SINK (self), kd_event_new_pointer (GST_EVENT_CUSTOM_UPSTREAM, KD_EVENT_BACKWARD, &backward));
  if (backward.failed)
    return FALSE; /* the model has said why */
  return check_taken (self, &backward, error);
}

static gboolean
kd_train_checkpoint (KdTrain *self, GError **error)
{
  const gchar *path = params_of (self)->checkpoint;
  g_autoptr (KdCheckpoint) checkpoint = NULL;
  KdSaveCall call;
  GHashTable *own;

  if (!path || !*path || !self->trained)
    return TRUE;
  checkpoint = kd_checkpoint_new ();
  call = (KdSaveCall) { .checkpoint = checkpoint, .epoch = self->epoch, .cursor = self->cursor, .index = self->index };
  kd_sink_push_upstream (KD_SINK (self), kd_event_new_pointer (GST_EVENT_CUSTOM_UPSTREAM, KD_EVENT_SAVE, &call));
  if (call.failed)
    return FALSE;
  own = kd_checkpoint_table (checkpoint, GST_OBJECT_NAME (self), TRUE);
  kd_state_set_int (own, "step", (gint64) self->step);
  kd_state_set_int (own, "samples", (gint64) self->samples);
  return kd_world_rank () > 0 || kd_checkpoint_save (checkpoint, path, error);
}

gboolean
kd_train_end_slot (KdTrain *self, gdouble total, GError **error)
{
  const KdTrainParams *p = params_of (self);

  self->counted += is_joined (self) ? total : 1;
  self->micro++;
  if (self->micro < (guint64) p->accumulate)
    return TRUE;
  if (!take_step (self, error))
    return FALSE;
  if (self->step % (guint64) p->report_every == 0 && !kd_train_report_step (self, error))
    return FALSE;
  return p->checkpoint_every == 0 || self->step % (guint64) p->checkpoint_every != 0 || kd_train_checkpoint (self, error);
}

static gboolean
kd_train_write (KdSink *sink, GstBuffer *buffer, KdBatch *batch, GError **error)
{
  KdTrain *self = KD_TRAIN (sink);
  gdouble total;

  if (batch->flags & KD_BATCH_VALIDATION) {
    kd_train_report_validation (self, batch);
    return TRUE;
  }
  if (!self->checked && !check_use (self, batch, error))
    return FALSE;
  self->checked = TRUE;
  if (!kd_train_join (self, batch, &total, error))
    return FALSE;
  kd_train_report_batch (self, batch, kd_world_size () == 1 ? 1 : total > 0 ? batch->n_counted / total
                                                                            : 0);
  if (!take_backward (self, buffer, batch, error))
    return FALSE;
  self->trained = TRUE;
  self->epoch = batch->epoch;
  self->cursor = batch->cursor;
  self->index = batch->index;
  return kd_train_end_slot (self, total, error) && (!(batch->flags & KD_BATCH_LAST_OF_EPOCH) || kd_train_drain (self, error));
}

static gboolean
kd_train_epoch (KdSink *sink, guint epoch, GError **error)
{
  kd_train_report_epoch (KD_TRAIN (sink), epoch);
  return TRUE;
}

/* A step that has not all its batches yet is taken with those it has; then models write their weights. */
static gboolean
kd_train_finish (KdSink *sink, GError **error)
{
  KdTrain *self = KD_TRAIN (sink);
  GstEvent *event = gst_event_new_custom (GST_EVENT_CUSTOM_UPSTREAM, gst_structure_new_empty (KD_EVENT_FINISH));

  if (!kd_train_drain (self, error) || (self->micro > 0 && !take_step (self, error)) || !kd_train_report_step (self, error) || !kd_train_checkpoint (self, error)) {
    gst_event_unref (event);
    return FALSE;
  }
  kd_sink_push_upstream (sink, event);
  return TRUE;
}

static void
kd_train_identity (KdSink *sink, const GstStructure *identity)
{
  gint64 n = 0;

  if (gst_structure_get_int64 (identity, "n-batches", &n) && n > 0)
    KD_TRAIN (sink)->n_batches = (guint64) n;
  if (gst_structure_get_int64 (identity, "n-rows-all", &n) && n > 0)
    KD_TRAIN (sink)->n_rows = (guint64) n;
}

static gboolean
answer_resume (KdTrain *self, KdResume *resume)
{
  const KdTrainParams *p = params_of (self);
  GError *error = NULL;
  GHashTable *own;

  if (!p->resume || !p->checkpoint || !*p->checkpoint || !g_file_test (p->checkpoint, G_FILE_TEST_EXISTS))
    return TRUE;
  resume->checkpoint = kd_checkpoint_load (p->checkpoint, &error);
  if (!resume->checkpoint) {
    resume->failed = TRUE;
    kd_element_post_error (GST_ELEMENT (self), error);
    return TRUE;
  }
  own = kd_checkpoint_table (resume->checkpoint, GST_OBJECT_NAME (self), FALSE);
  if (own) {
    self->step = (guint64) kd_state_get_int (own, "step", 0);
    self->samples = (guint64) kd_state_get_int (own, "samples", 0);
    self->first_sample = self->samples;
  }
  return TRUE;
}

static gboolean
kd_train_query (KdSink *sink, GstQuery *query)
{
  KdResume *resume = kd_query_get_pointer (query, KD_QUERY_RESUME);
  gint *trainer = kd_query_get_pointer (query, KD_QUERY_TRAINER);

  if (trainer)
    *trainer = 1;
  return trainer || (resume && answer_resume (KD_TRAIN (sink), resume));
}

static gboolean
kd_train_start (KdSink *sink, GError **error)
{
  KdTrain *self = KD_TRAIN (sink);

  self->step = self->micro = self->samples = self->first_sample = self->n_batches = self->n_rows = 0;
  self->counted = 0;
  self->checked = self->trained = self->drained = FALSE;
  self->epoch = 0;
  self->cursor = self->index = 0;
  kd_train_report_reset (self);
  return TRUE;
}

static void
kd_train_finalize (GObject *object)
{
  kd_train_report_reset (KD_TRAIN (object));
  G_OBJECT_CLASS (kd_train_parent_class)->finalize (object);
}

static void
kd_train_class_init (KdTrainClass *klass)
{
  KdSinkClass *sink = KD_SINK_CLASS (klass);

  kd_sink_class_install (sink, &kd_train_desc, "Sink/Training");
  G_OBJECT_CLASS (klass)->finalize = kd_train_finalize;
  sink->write = kd_train_write;
  sink->epoch = kd_train_epoch;
  sink->finish = kd_train_finish;
  sink->identity = kd_train_identity;
  sink->query = kd_train_query;
  sink->start = kd_train_start;
}

static void
kd_train_init (KdTrain *self)
{
}

KD_PLUGIN_DEFINE ("kdstream trainer", return gst_element_register (plugin, "kdtrain", GST_RANK_NONE, kd_train_get_type ());)
