/* KdSource: rows by a seekable order. One number, the cursor, says where a run is; epoch and cursor are all a resume needs. */
#include "kd-source.h"
#include "kd-bind.h"
#include "kd-leaf.h"
#include "kd-order.h"

#include <string.h>

const KdParam kd_source_base_params[] = {
  KD_PARAM_INT (KdSourceOptions, batch_size, 1, 1 << 24, 64, "Rows a batch"),
  KD_PARAM_BOOL (KdSourceOptions, shuffle, FALSE, "A new order each epoch, from seed and epoch alone"),
  KD_PARAM_UINT64 (KdSourceOptions, seed, 0, "Key of the shuffled order"),
  KD_PARAM_INT (KdSourceOptions, shuffle_chunk, 0, G_MAXINT32, 0, "Shuffle in two levels: rows that stay near each other (those of a packed chunk), 0: any row anywhere"),
  KD_PARAM_INT (KdSourceOptions, shuffle_window, 1, G_MAXINT32, 16, "Chunks among which rows are mixed, with shuffle-chunk"),
  KD_PARAM_INT (KdSourceOptions, epochs, 1, G_MAXINT32, 1, "How often all rows are given out"),
  KD_PARAM_INT (KdSourceOptions, first, 0, G_MAXINT64, 0, "First row of the range to use"),
  KD_PARAM_INT (KdSourceOptions, count, 0, G_MAXINT64, 0, "Rows of the range, 0: up to the end"),
  KD_PARAM_BOOL (KdSourceOptions, drop_last, FALSE, "Leave out an epoch's last batch when it is smaller"),
  KD_PARAM_INT (KdSourceOptions, shard_index, 0, G_MAXINT32, 0, "Which shard of the order to give out"),
  KD_PARAM_INT (KdSourceOptions, shard_count, 1, G_MAXINT32, 1, "Shards in all: row i of the order is of shard i modulo this"),
  KD_PARAM_BOOL (KdSourceOptions, validation, FALSE, "Mark the batches: nothing trains on them"),
  KD_PARAM_END
};

typedef struct {
  KdPropertyPair properties;
  gpointer base_snapshot, leaf_snapshot;
  gpointer state;
  gboolean opened;
  KdLayout *layout;
  gboolean adds_id;
  KdOrder order;
  guint epoch;
  guint64 cursor; /* positions of this epoch given out */
  guint64 index;  /* batches given out */
  gboolean ready; /* identity sent, resume asked */
  gboolean dry_run;
  gboolean failed; /* a batch could not be read */
  KdResume resume;
} KdSourcePrivate;

G_DEFINE_ABSTRACT_TYPE_WITH_PRIVATE (KdSource, kd_source, GST_TYPE_PUSH_SRC)
#define PRIVATE(self) ((KdSourcePrivate *) kd_source_get_instance_private (KD_SOURCE (self)))
#define DESC(self) (KD_SOURCE_GET_CLASS (self)->desc)

static void
set_layout (KdSourcePrivate *priv)
{
  const gint64 dims[1] = { KD_DIM_ANY };

  priv->adds_id = kd_layout_find (priv->layout, "sample.id") == NULL;
  if (priv->adds_id)
    kd_layout_set (priv->layout, "sample.id", KD_INT64, 1, dims);
}

static gboolean
source_stop (GstBaseSrc *base)
{
  KdSourcePrivate *priv = PRIVATE (base);
  const KdSourceDesc *desc = DESC (base);

  if (priv->opened && desc->close)
    desc->close (priv->state);
  priv->opened = FALSE;
  kd_desc_state_free ((const KdDesc *) desc, g_steal_pointer (&priv->state));
  kd_properties_free_snapshot (&priv->properties.base, g_steal_pointer (&priv->base_snapshot));
  kd_properties_free_snapshot (&priv->properties.leaf, g_steal_pointer (&priv->leaf_snapshot));
  g_clear_pointer (&priv->layout, kd_layout_free);
  g_clear_pointer (&priv->resume.checkpoint, kd_checkpoint_unref);
  memset (&priv->resume, 0, sizeof priv->resume);
  return TRUE;
}

/* Among many processes each takes its share of the training rows; validation rows are everyone's, so that all see the same numbers. */
static gboolean
take_share (KdSource *self, GError **error)
{
  KdSourcePrivate *priv = PRIVATE (self);
  KdSourceOptions *options = priv->base_snapshot;

  if (options->shard_count > 1 || options->validation || kd_world_size () == 1)
    return TRUE;
  options->shard_index = kd_world_rank ();
  options->shard_count = kd_world_size ();
  if (priv->order.n_range >= options->shard_count) {
    priv->order.n_shard = (priv->order.n_range - options->shard_index + options->shard_count - 1) / options->shard_count;
    return TRUE;
  }
  g_set_error (error, KD_ERROR, KD_ERROR_RANGE, "Fewer rows than processes: element=%s, rows=%" G_GINT64_FORMAT ", processes=%d; start fewer", GST_OBJECT_NAME (self),
      priv->order.n_range, kd_world_size ());
  return FALSE;
}

static gboolean
source_start (GstBaseSrc *base)
{
  KdSource *self = KD_SOURCE (base);
  KdSourcePrivate *priv = PRIVATE (self);
  const KdSourceDesc *desc = DESC (self);
  GError *error = NULL;
  gint64 n_rows = 0;

  priv->base_snapshot = kd_properties_snapshot (&priv->properties.base);
  priv->leaf_snapshot = kd_properties_snapshot (&priv->properties.leaf);
  priv->state = kd_desc_state_new ((const KdDesc *) desc, priv->leaf_snapshot);
  priv->layout = kd_layout_new ();
  priv->epoch = 0;
  priv->cursor = priv->index = 0;
  priv->ready = priv->failed = FALSE;
  priv->opened = TRUE;
  if ((desc->check && !desc->check (priv->leaf_snapshot, &error)) ||
      !desc->open (priv->leaf_snapshot, priv->state, &n_rows, priv->layout, &error) || !kd_order_init (&priv->order, priv->base_snapshot, n_rows, GST_OBJECT_NAME (self), &error) ||
      !take_share (self, &error)) {
    kd_element_post_error (GST_ELEMENT (self), error);
    source_stop (base); /* GstBaseSrc does not, when start fails */
    return FALSE;
  }
  set_layout (priv);
  kd_order_begin (&priv->order, priv->epoch);
  return TRUE;
}

static gboolean
source_negotiate (GstBaseSrc *base)
{
  GstCaps *caps = kd_layout_to_caps (PRIVATE (base)->layout);
  gboolean ok = gst_base_src_set_caps (base, caps);

  gst_caps_unref (caps);
  return ok;
}

/* "kdh5src location=digits.h5 first=0": data set for people; the leaf's fingerprint for machines. */
static void
send_identity (KdSource *self)
{
  KdSourcePrivate *priv = PRIVATE (self);
  const KdSourceDesc *desc = DESC (self);
  const KdSourceOptions *options = priv->base_snapshot;
  g_autoptr (GString) spec = g_string_new (desc->name);
  gint64 n_batches = (priv->order.n_shard + (options->drop_last ? 0 : options->batch_size - 1)) / options->batch_size;
  gint64 n_rows_all = kd_world_size () > 1 ? priv->order.n_range : priv->order.n_shard;
  g_autofree gchar *fingerprint = desc->fingerprint ? desc->fingerprint (priv->state) : NULL;

  for (const KdParam *param = desc->params; param && param->type != KD_PARAM_TYPE_END; param++) {
    g_autofree gchar *name = kd_param_name (param), *value = kd_param_to_string (param, priv->leaf_snapshot);
    g_string_append_printf (spec, " %s=%s", name, value);
  }
  gst_pad_push_event (GST_BASE_SRC_PAD (self),
      gst_event_new_custom (GST_EVENT_CUSTOM_DOWNSTREAM_STICKY,
          gst_structure_new (KD_EVENT_IDENTITY, "dataset", G_TYPE_STRING, fingerprint, "dataset-spec", G_TYPE_STRING, spec->str, "n-rows",
              G_TYPE_INT64, priv->order.n_shard * options->epochs, "n-batches", G_TYPE_INT64, n_batches * options->epochs, "n-rows-all", G_TYPE_INT64, n_rows_all * options->epochs, "epochs", G_TYPE_INT64, options->epochs, "shard-index", G_TYPE_INT64, options->shard_index,
              "shard-count", G_TYPE_INT64, options->shard_count, NULL)));
}

static void
take_state (KdSource *self, KdCheckpoint *checkpoint)
{
  KdSourcePrivate *priv = PRIVATE (self);
  GHashTable *table = kd_checkpoint_table (checkpoint, GST_OBJECT_NAME (self), FALSE);

  if (!table)
    return;
  priv->epoch = (guint) kd_state_get_int (table, "epoch", 0);
  priv->cursor = (guint64) kd_state_get_int (table, "cursor", 0);
  priv->index = (guint64) kd_state_get_int (table, "index", 0);
  kd_order_begin (&priv->order, priv->epoch);
}

static void
get_ready (KdSource *self)
{
  KdSourcePrivate *priv = PRIVATE (self);
  g_autoptr (GstQuery) query = NULL;

  priv->ready = TRUE;
  send_identity (self);
  priv->resume.views = -1;
  query = kd_query_new_pointer (KD_QUERY_RESUME, &priv->resume);
  if (gst_pad_peer_query (GST_BASE_SRC_PAD (self), query) && priv->resume.checkpoint)
    take_state (self, priv->resume.checkpoint);
}

/* Leave out what the sink has already; how many rows are left. */
static gint64
skip_known (KdSourcePrivate *priv, KdBatch *batch)
{
  const KdTensor *ids = kd_batch_peek (batch, "sample.id");
  gint64 view = priv->resume.views < 0 ? 0 : 1 + (priv->resume.views ? (gint64) priv->epoch % priv->resume.views : (gint64) priv->epoch);
  g_autofree gint64 *kept = NULL;
  gint64 n = 0;

  if (!priv->resume.skip || !ids || ids->dtype != KD_INT64)
    return batch->n_samples;
  kept = g_new (gint64, MAX (batch->n_samples, 1));
  for (gint64 i = 0; i < batch->n_samples; i++)
    if (!priv->resume.skip (priv->resume.skip_data, ((const gint64 *) ids->data)[i], view))
      kept[n++] = i;
  if (n < batch->n_samples)
    kd_batch_take_rows (batch, kept, n);
  return n;
}

static void
end_epoch (KdSource *self)
{
  KdSourcePrivate *priv = PRIVATE (self);

  gst_pad_push_event (GST_BASE_SRC_PAD (self),
      gst_event_new_custom (GST_EVENT_CUSTOM_DOWNSTREAM,
          gst_structure_new (KD_EVENT_EPOCH, "epoch", G_TYPE_UINT, priv->epoch, "samples", G_TYPE_UINT64, priv->cursor, NULL)));
  priv->epoch++;
  priv->cursor = 0;
  kd_order_begin (&priv->order, priv->epoch);
}

static void
add_ids (KdBatch *batch, const gint64 *rows, gint64 n)
{
  KdTensor *ids = kd_tensor_new (KD_INT64, 1, &n);

  memcpy (ids->data, rows, (gsize) n * sizeof *rows);
  kd_batch_set (batch, "sample.id", ids);
}

static gboolean
make_batch (KdSource *self, GstBuffer **ret_buffer, GError **error)
{
  KdSourcePrivate *priv = PRIVATE (self);
  const KdSourceOptions *options = priv->base_snapshot;
  gint64 left = priv->order.n_shard - (gint64) priv->cursor, n = MIN (left, options->batch_size);
  g_autofree gint64 *rows = g_new (gint64, n);
  g_autoptr (GstBuffer) buffer = NULL;
  KdBatch *batch;

  buffer = kd_batch_buffer_new (n, &batch);
  kd_order_rows (&priv->order, priv->cursor, n, rows);
  if (!DESC (self)->read (priv->state, rows, n, batch, error))
    return FALSE;
  if (priv->adds_id)
    add_ids (batch, rows, n);
  priv->cursor += (guint64) n;
  batch->epoch = priv->epoch;
  batch->index = priv->index++;
  batch->cursor = priv->cursor;
  batch->flags = (options->validation ? KD_BATCH_VALIDATION : 0) | (left == n ? KD_BATCH_LAST_OF_EPOCH : 0);
  if (skip_known (priv, batch) == 0)
    return TRUE;
  kd_batch_update_size (buffer);
  GST_BUFFER_OFFSET (buffer) = batch->index;
  *ret_buffer = g_steal_pointer (&buffer);
  return TRUE;
}

static GstFlowReturn
source_create (GstPushSrc *push, GstBuffer **ret_buffer)
{
  KdSource *self = KD_SOURCE (push);
  KdSourcePrivate *priv = PRIVATE (self);
  const KdSourceOptions *options = priv->base_snapshot;
  GError *error = NULL;

  if (!priv->ready)
    get_ready (self);
  *ret_buffer = NULL;
  while (!*ret_buffer) {
    gint64 left = priv->order.n_shard - (gint64) priv->cursor;
    if (priv->dry_run || priv->epoch >= options->epochs || priv->resume.failed)
      return priv->resume.failed ? GST_FLOW_ERROR : GST_FLOW_EOS;
    if (left <= 0 || (options->drop_last && left < options->batch_size)) {
      end_epoch (self);
      continue;
    }
    if (!make_batch (self, ret_buffer, &error)) {
      priv->failed = TRUE;
      kd_element_post_error (GST_ELEMENT (self), error);
      return GST_FLOW_ERROR;
    }
  }
  return GST_FLOW_OK;
}

/* kd-save: the place after the last batch that was trained on, not the last one given out. */
static gboolean
source_event (GstBaseSrc *base, GstEvent *event)
{
  KdSaveCall *save = GST_EVENT_TYPE (event) == GST_EVENT_CUSTOM_UPSTREAM ? kd_event_get_pointer (event, KD_EVENT_SAVE) : NULL;
  GHashTable *table;

  if (!save)
    return GST_EVENT_TYPE (event) == GST_EVENT_CUSTOM_UPSTREAM ? FALSE : GST_BASE_SRC_CLASS (kd_source_parent_class)->event (base, event);
  table = kd_checkpoint_table (save->checkpoint, GST_OBJECT_NAME (base), TRUE);
  kd_state_set_int (table, "epoch", save->epoch);
  kd_state_set_int (table, "cursor", (gint64) save->cursor);
  kd_state_set_int (table, "index", (gint64) save->index + 1);
  return TRUE;
}

static void
source_set_context (GstElement *element, GstContext *context)
{
  if (gst_context_has_context_type (context, "kd.run"))
    gst_structure_get_boolean (gst_context_get_structure (context), "dry-run", &PRIVATE (element)->dry_run);
  GST_ELEMENT_CLASS (kd_source_parent_class)->set_context (element, context);
}

static void
kd_source_set_property (GObject *object, guint id, const GValue *value, GParamSpec *pspec)
{
  kd_property_pair_set (&PRIVATE (object)->properties, id, value);
}

static void
kd_source_get_property (GObject *object, guint id, GValue *value, GParamSpec *pspec)
{
  kd_property_pair_get (&PRIVATE (object)->properties, id, value);
}

/* GstBaseSrc sends EOS after an error; a sink would take its half a file for the whole. */
static GstPadProbeReturn
drop_false_eos (GstPad *pad, GstPadProbeInfo *info, gpointer self)
{
  gboolean eos = GST_EVENT_TYPE (GST_PAD_PROBE_INFO_EVENT (info)) == GST_EVENT_EOS;

  return eos && PRIVATE (self)->failed ? GST_PAD_PROBE_DROP : GST_PAD_PROBE_OK;
}

static void
kd_source_constructed (GObject *object)
{
  KdSourcePrivate *priv = PRIVATE (object);

  G_OBJECT_CLASS (kd_source_parent_class)->constructed (object);
  kd_property_pair_init (&priv->properties, kd_source_base_params, sizeof (KdSourceOptions), DESC (object)->params, DESC (object)->params_size);
  gst_base_src_set_format (GST_BASE_SRC (object), GST_FORMAT_DEFAULT);
  gst_pad_add_probe (GST_BASE_SRC_PAD (object), GST_PAD_PROBE_TYPE_EVENT_DOWNSTREAM, drop_false_eos, object, NULL);
}

static void
kd_source_finalize (GObject *object)
{
  kd_property_pair_clear (&PRIVATE (object)->properties);
  G_OBJECT_CLASS (kd_source_parent_class)->finalize (object);
}

static void
kd_source_class_init (KdSourceClass *klass)
{
  GstBaseSrcClass *base = GST_BASE_SRC_CLASS (klass);

  G_OBJECT_CLASS (klass)->constructed = kd_source_constructed;
  G_OBJECT_CLASS (klass)->finalize = kd_source_finalize;
  GST_ELEMENT_CLASS (klass)->set_context = source_set_context;
  base->start = source_start;
  base->stop = source_stop;
  base->negotiate = source_negotiate;
  base->event = source_event;
  GST_PUSH_SRC_CLASS (klass)->create = source_create;
}

static void
kd_source_init (KdSource *self)
{
}

static void
leaf_class_init (gpointer klass, gpointer class_data)
{
  static GstStaticPadTemplate src = GST_STATIC_PAD_TEMPLATE ("src", GST_PAD_SRC, GST_PAD_ALWAYS, GST_STATIC_CAPS (KD_CAPS_TEMPLATE));
  const KdSourceDesc *desc = class_data;
  GObjectClass *object_class = klass;

  KD_SOURCE_CLASS (klass)->desc = desc;
  object_class->set_property = kd_source_set_property;
  object_class->get_property = kd_source_get_property;
  kd_property_pair_install (object_class, kd_source_base_params, desc->params);
  gst_element_class_set_metadata (klass, desc->title, "Source/Dataset", desc->description, "The kdstream developers");
  gst_element_class_add_static_pad_template (klass, &src);
  kd_element_class_describe (klass, (const KdDesc *) desc, "source", NULL);
}

gboolean
kd_source_register (GstPlugin *plugin, const KdSourceDesc *desc)
{
  return kd_element_register (plugin, (const KdDesc *) desc, KD_TYPE_SOURCE, leaf_class_init);
}
