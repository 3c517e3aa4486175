/**
 * SECTION:element-kdrebatch
 * @short_description: batches of another size
 *
 * Merges and splits batches to `batch-size` rows; rows keep their order. What is left over goes out as a smaller batch at the end of the epoch, so
 * that no batch holds rows of two epochs, or training rows beside validation rows. A batch that lies inside one that came is a view of it;
 * only one that is put together of several is copied.
 *
 * It stands before the student: what a model keeps on a batch for its backward pass cannot be split.
 *
 * ## Fields
 *  - all that come, with at least the samples' axis; a value of the whole batch (`loss`) cannot be split and is refused
 * ## State
 * Checkpoints keep the rows that wait, so a resumed run gives the batches that the uninterrupted one gives.
 * ## Errors
 * A field without rows; a field of a student in a graph that trains; rows of different shapes (a `?` axis in the layout) that would meet in
 * one batch.
 * ## Source
 * Of this project.
 * ## Example
 * |[ gst-launch-1.0 kdh5src location=train.h5 batch-size=1000 ! kdrebatch batch-size=64 drop-last=true ! kdh5sink location=out.h5 ]|
 */
#include <kd/kd.h>

#include <string.h>

typedef struct {
  gint64 batch_size;
  gboolean drop_last;
} KdRebatchParams;

static const KdParam kd_rebatch_params[] = {
  KD_PARAM_INT (KdRebatchParams, batch_size, 1, 1 << 24, 64, "Rows a batch"),
  KD_PARAM_BOOL (KdRebatchParams, drop_last, FALSE, "Leave out the rows that are too few for a batch at the end of an epoch"),
  KD_PARAM_END
};

static const KdDesc kd_rebatch_desc = {
  .name = "kdrebatch",
  .title = "Batch size changer",
  .description = "Merges and splits batches to a size; rows keep their order, epochs are not mixed",
  .source = "of this project",
  .params = kd_rebatch_params,
  .params_size = sizeof (KdRebatchParams),
};

typedef struct {
  KdElement parent;
  GQueue waiting; /* of GstBuffer: batches with rows to give */
  gint64 used;    /* rows of the first one that are gone */
  gint64 n_rows;  /* that wait, in all */
  guint64 index;  /* of the next batch out */
} KdRebatch;

typedef struct {
  KdElementClass parent;
} KdRebatchClass;

static GType kd_rebatch_get_type (void);
G_DEFINE_TYPE (KdRebatch, kd_rebatch, KD_TYPE_ELEMENT)

static KdRebatch *
self_of (KdElement *element)
{
  return (KdRebatch *) element;
}

static void
clear_waiting (KdRebatch *self)
{
  g_queue_clear_full (&self->waiting, (GDestroyNotify) gst_buffer_unref);
  self->used = self->n_rows = 0;
}

static KdBatch *
batch_at (KdRebatch *self, gboolean last)
{
  GstBuffer *buffer = last ? g_queue_peek_tail (&self->waiting) : g_queue_peek_head (&self->waiting);

  return buffer ? kd_batch_get (buffer) : NULL;
}

/* (transfer full) the next @n rows of field @name: a view when one batch has them all. */
static KdTensor *
collect (KdRebatch *self, const gchar *name, gint64 n, GError **error)
{
  g_autoptr (GPtrArray) parts = g_ptr_array_new_with_free_func ((GDestroyNotify) kd_tensor_unref);
  gint64 skip = self->used;
  KdTensor *joined;
  GError *inner = NULL;

  for (GList *l = self->waiting.head; l && n > 0; l = l->next) {
    const KdBatch *batch = kd_batch_get (l->data);
    KdTensor *tensor = kd_batch_peek (batch, name);
    gint64 take = MIN (batch->n_samples - skip, n);
    if (!tensor) {
      g_set_error (error, KD_ERROR, KD_ERROR_FIELD, "Field missing in a batch: element=%s, field=%s, epoch=%u, batch=%" G_GUINT64_FORMAT "; every "
                                                    "batch must have the fields of the first",
          GST_OBJECT_NAME (self), name, batch->epoch, batch->index);
      return NULL;
    }
    g_ptr_array_add (parts, take == batch->n_samples ? kd_tensor_ref (tensor) : kd_tensor_slice (tensor, skip, take));
    n -= take;
    skip = 0;
  }
  if (parts->len == 1)
    return kd_tensor_ref (g_ptr_array_index (parts, 0));
  joined = kd_tensor_concat ((KdTensor *const *) parts->pdata, parts->len, &inner);
  if (!joined)
    g_propagate_prefixed_error (error, inner, "Cannot merge batches: element=%s, field=%s; ", GST_OBJECT_NAME (self), name);
  return joined;
}

/* @n rows are on their way: forget them. */
static void
advance (KdRebatch *self, gint64 n)
{
  self->n_rows -= n;
  while (n > 0) {
    const KdBatch *batch = batch_at (self, FALSE);
    gint64 take = MIN (batch->n_samples - self->used, n);
    n -= take;
    self->used += take;
    if (self->used == batch->n_samples) {
      gst_buffer_unref (g_queue_pop_head (&self->waiting));
      self->used = 0;
    }
  }
}

static gboolean
push_rows (KdRebatch *self, gint64 n, GError **error)
{
  const KdBatch *first = batch_at (self, FALSE), *last = batch_at (self, TRUE);
  KdBatch *out;
  g_autoptr (GstBuffer) buffer = kd_batch_buffer_new (n, &out);

  for (guint i = 0; i < kd_batch_n_fields (first); i++) {
    const gchar *name = kd_batch_nth (first, i)->name;
    KdTensor *tensor = collect (self, name, n, error);
    if (!tensor)
      return FALSE;
    kd_batch_set (out, name, tensor);
  }
  out->epoch = first->epoch;
  out->index = self->index++;
  /* Rows that wait are saved with a checkpoint, so the source goes on after the last batch that came, whatever of it is out. */
  out->cursor = last->cursor;
  out->flags = (first->flags & KD_BATCH_VALIDATION) | (n == self->n_rows ? last->flags & KD_BATCH_LAST_OF_EPOCH : 0);
  GST_BUFFER_OFFSET (buffer) = out->index;
  /* Before the push: kd-save may come back while it lasts. */
  advance (self, n);
  return kd_element_push (KD_ELEMENT (self), g_steal_pointer (&buffer)) == GST_FLOW_OK;
}

static gboolean
flush_rest (KdRebatch *self, GError **error)
{
  const KdRebatchParams *p = kd_element_params (KD_ELEMENT (self));

  if (p->drop_last)
    clear_waiting (self);
  return self->n_rows == 0 || push_rows (self, self->n_rows, error);
}

/* Rows of another epoch or kind must not meet those that wait. */
static gboolean
belongs (KdRebatch *self, const KdBatch *batch)
{
  const KdBatch *last = batch_at (self, TRUE);

  return !last || (last->epoch == batch->epoch && !((last->flags ^ batch->flags) & KD_BATCH_VALIDATION));
}

static gboolean
kd_rebatch_process (KdElement *element, GstBuffer **buffer, KdBatch *batch, GError **error)
{
  KdRebatch *self = self_of (element);
  const KdRebatchParams *p = kd_element_params (element);

  if (!belongs (self, batch) && !flush_rest (self, error))
    return FALSE;
  if (batch->n_samples > 0) {
    self->n_rows += batch->n_samples;
    g_queue_push_tail (&self->waiting, g_steal_pointer (buffer));
  }
  g_clear_pointer (buffer, gst_buffer_unref);
  while (self->n_rows >= p->batch_size)
    if (!push_rows (self, p->batch_size, error))
      return FALSE;
  return TRUE;
}

static KdLayout *
kd_rebatch_negotiate (KdElement *element, const KdLayout *in, GError **error)
{
  for (guint i = 0; i < kd_layout_n_fields (in); i++) {
    const KdLayoutField *field = kd_layout_nth (in, i);
    if (field->rank == 0) {
      g_set_error (error, KD_ERROR, KD_ERROR_SHAPE, "Value of a whole batch cannot be split: element=%s, field=%s; put kdrebatch before the "
                                                    "element that adds it",
          GST_OBJECT_NAME (element), field->name);
      return NULL;
    }
    if (g_str_has_prefix (field->name, "student.") && kd_element_has_trainer (element)) {
      g_set_error (error, KD_ERROR, KD_ERROR_FIELD, "Gradients cannot pass: element=%s, field=%s; put kdrebatch before the student",
          GST_OBJECT_NAME (element),
          field->name);
      return NULL;
    }
  }
  return kd_layout_copy (in);
}

static gboolean
kd_rebatch_epoch (KdElement *element, guint epoch, GError **error)
{
  return flush_rest (self_of (element), error);
}

static gboolean
kd_rebatch_finish (KdElement *element, GError **error)
{
  return flush_rest (self_of (element), error);
}

/* Schedules count batches; the source does not know of the new size. */
static void
kd_rebatch_identify (KdElement *element, GstStructure *identity)
{
  const KdRebatchParams *p = kd_element_params (element);
  gint64 n_rows = 0, epochs = 1, n;

  if (!gst_structure_get_int64 (identity, "n-rows", &n_rows) || n_rows <= 0)
    return;
  gst_structure_get_int64 (identity, "epochs", &epochs);
  n = n_rows / MAX (epochs, 1);
  n = epochs * ((n + (p->drop_last ? 0 : p->batch_size - 1)) / p->batch_size);
  gst_structure_set (identity, "n-batches", G_TYPE_INT64, n, NULL);
}

/* The rows that wait, as one tensor a field. */
static gboolean
kd_rebatch_save (KdElement *element, GHashTable *table, GError **error)
{
  KdRebatch *self = self_of (element);
  const KdBatch *first = batch_at (self, FALSE), *last = batch_at (self, TRUE);

  kd_state_set_int (table, "index", (gint64) self->index);
  kd_state_set_int (table, "rows", self->n_rows);
  if (!first)
    return TRUE;
  kd_state_set_int (table, "epoch", first->epoch);
  kd_state_set_int (table, "flags", last->flags);
  kd_state_set_int (table, "cursor", (gint64) last->cursor);
  for (guint i = 0; i < kd_batch_n_fields (first); i++) {
    const gchar *name = kd_batch_nth (first, i)->name;
    KdTensor *tensor = collect (self, name, self->n_rows, error);
    if (!tensor)
      return FALSE;
    g_hash_table_replace (table, g_strconcat ("waiting.", name, NULL), tensor);
  }
  return TRUE;
}

/* When the answer of kd-resume passes, not with the next batch: there may be none, and the rows that wait are the last ones. */
static void
kd_rebatch_resume (KdElement *element, KdResume *resume)
{
  KdRebatch *self = self_of (element);
  GHashTable *table = resume->checkpoint ? kd_checkpoint_table (resume->checkpoint, GST_OBJECT_NAME (self), FALSE) : NULL;
  GHashTableIter iter;
  gpointer name, tensor;
  GstBuffer *buffer;
  KdBatch *batch;

  if (!table)
    return;
  clear_waiting (self);
  self->index = (guint64) kd_state_get_int (table, "index", 0);
  self->n_rows = kd_state_get_int (table, "rows", 0);
  if (self->n_rows <= 0)
    return;
  buffer = kd_batch_buffer_new (self->n_rows, &batch);
  batch->epoch = (guint) kd_state_get_int (table, "epoch", 0);
  batch->flags = (KdBatchFlags) kd_state_get_int (table, "flags", 0);
  batch->cursor = (guint64) kd_state_get_int (table, "cursor", 0);
  g_hash_table_iter_init (&iter, table);
  while (g_hash_table_iter_next (&iter, &name, &tensor))
    if (g_str_has_prefix (name, "waiting.")) {
      resume->failed |= ((KdTensor *) tensor)->rank == 0 || ((KdTensor *) tensor)->dims[0] != self->n_rows;
      kd_batch_set (batch, (const gchar *) name + strlen ("waiting."), kd_tensor_ref (tensor));
    }
  g_queue_push_tail (&self->waiting, buffer);
  if (resume->failed) {
    clear_waiting (self);
    kd_element_post_error (GST_ELEMENT (self),
        g_error_new (KD_ERROR, KD_ERROR_MISMATCH, "Checkpoint does not fit: element=%s, its waiting rows differ in number between fields; start "
                                                  "without resume",
            GST_OBJECT_NAME (self)));
  }
}

static void
kd_rebatch_stop (KdElement *element)
{
  clear_waiting (self_of (element));
  self_of (element)->index = 0;
}

/* After a flush nothing of before may come out. */
static GstPadProbeReturn
on_flush (GstPad *pad, GstPadProbeInfo *info, gpointer element)
{
  if (GST_EVENT_TYPE (GST_PAD_PROBE_INFO_EVENT (info)) == GST_EVENT_FLUSH_STOP)
    clear_waiting (element);
  return GST_PAD_PROBE_OK;
}

static void
kd_rebatch_constructed (GObject *object)
{
  G_OBJECT_CLASS (kd_rebatch_parent_class)->constructed (object);
  gst_pad_add_probe (kd_element_sink_pad (KD_ELEMENT (object)), GST_PAD_PROBE_TYPE_EVENT_FLUSH, on_flush, object, NULL);
}

static void
kd_rebatch_finalize (GObject *object)
{
  clear_waiting ((KdRebatch *) object);
  G_OBJECT_CLASS (kd_rebatch_parent_class)->finalize (object);
}

static void
kd_rebatch_class_init (KdRebatchClass *klass)
{
  KdElementClass *element = KD_ELEMENT_CLASS (klass);

  kd_element_class_install (element, &kd_rebatch_desc, "batch", "Filter/Batch", NULL, 0);
  G_OBJECT_CLASS (klass)->constructed = kd_rebatch_constructed;
  G_OBJECT_CLASS (klass)->finalize = kd_rebatch_finalize;
  element->negotiate = kd_rebatch_negotiate;
  element->process = kd_rebatch_process;
  element->epoch = kd_rebatch_epoch;
  element->finish = kd_rebatch_finish;
  element->identify = kd_rebatch_identify;
  element->save = kd_rebatch_save;
  element->resume = kd_rebatch_resume;
  element->stop = kd_rebatch_stop;
}

static void
kd_rebatch_init (KdRebatch *self)
{
  g_queue_init (&self->waiting);
}

KD_PLUGIN_DEFINE ("kdstream batch size changer", return gst_element_register (plugin, "kdrebatch", GST_RANK_NONE, kd_rebatch_get_type ());)
