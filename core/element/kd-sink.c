/* KdSink: GstBaseSink with layouts, errors and the run's events. Rendering is not timed: batches are written as they come. */
#include "kd-sink.h"
#include "kd-leaf.h"

typedef struct {
  KdProperties properties;
  gpointer snapshot;
  gint changed;
  KdLayout *layout;
  gpointer state; /* of a KdSinkDesc leaf */
  gboolean opened;
  gboolean failed; /* said once why; GStreamer sends refused caps again with every buffer, and sources send EOS after an error too */
} KdSinkPrivate;

G_DEFINE_ABSTRACT_TYPE_WITH_PRIVATE (KdSink, kd_sink, GST_TYPE_BASE_SINK)
#define PRIVATE(self) ((KdSinkPrivate *) kd_sink_get_instance_private (self))

gconstpointer
kd_sink_params (KdSink *self)
{
  KdSinkPrivate *priv = PRIVATE (self);

  if (!priv->snapshot || g_atomic_int_compare_and_exchange (&priv->changed, 1, 0)) {
    kd_properties_free_snapshot (&priv->properties, priv->snapshot);
    priv->snapshot = kd_properties_snapshot (&priv->properties);
  }
  return priv->snapshot;
}

const KdLayout *
kd_sink_layout (KdSink *self)
{
  return PRIVATE (self)->layout;
}

gboolean
kd_sink_push_upstream (KdSink *self, GstEvent *event)
{
  return gst_pad_push_event (GST_BASE_SINK_PAD (self), event);
}

static gboolean
sink_set_caps (GstBaseSink *base, GstCaps *caps)
{
  KdSink *self = KD_SINK (base);
  KdSinkPrivate *priv = PRIVATE (self);
  KdSinkClass *klass = KD_SINK_GET_CLASS (self);
  GError *error = NULL;
  KdLayout *layout;

  if (priv->failed)
    return FALSE;
  layout = kd_layout_from_caps (caps, &error);
  if (layout) {
    g_clear_pointer (&priv->layout, kd_layout_free);
    priv->layout = layout;
  }
  if (!layout || (klass->negotiate && !klass->negotiate (self, layout, &error))) {
    priv->failed = TRUE;
    kd_element_post_error (GST_ELEMENT (self), error);
    return FALSE;
  }
  return TRUE;
}

static GstFlowReturn
sink_render (GstBaseSink *base, GstBuffer *buffer)
{
  KdSink *self = KD_SINK (base);
  KdBatch *batch = kd_batch_get (buffer);
  GError *error = NULL;

  if (!batch) {
    GST_ELEMENT_ERROR (self, STREAM, FORMAT, ("Buffer is no batch: element=%s; put kdh5src or kdbatch before it", GST_OBJECT_NAME (self)), (NULL));
    return GST_FLOW_ERROR;
  }
  if (!KD_SINK_GET_CLASS (self)->write (self, buffer, batch, &error)) {
    if (error) /* else an element upstream failed and has said why */
      kd_element_post_error (GST_ELEMENT (self), error);
    PRIVATE (self)->failed = TRUE;
    return GST_FLOW_ERROR;
  }
  return GST_FLOW_OK;
}

static gboolean
sink_event (GstBaseSink *base, GstEvent *event)
{
  KdSink *self = KD_SINK (base);
  KdSinkClass *klass = KD_SINK_GET_CLASS (self);
  GError *error = NULL;
  gboolean ok = TRUE;
  guint epoch = 0;

  if (GST_EVENT_TYPE (event) == GST_EVENT_EOS && klass->finish)
    ok = !PRIVATE (self)->failed && klass->finish (self, &error);
  else if (gst_event_has_name (event, KD_EVENT_EPOCH) && klass->epoch) {
    gst_structure_get_uint (gst_event_get_structure (event), "epoch", &epoch);
    ok = klass->epoch (self, epoch, &error);
  } else if (gst_event_has_name (event, KD_EVENT_IDENTITY) && klass->identity)
    klass->identity (self, gst_event_get_structure (event));
  if (!ok) {
    if (error)
      kd_element_post_error (GST_ELEMENT (self), error);
    gst_event_unref (event);
    return FALSE;
  }
  return GST_BASE_SINK_CLASS (kd_sink_parent_class)->event (base, event);
}

static gboolean
sink_query (GstBaseSink *base, GstQuery *query)
{
  KdSinkClass *klass = KD_SINK_GET_CLASS (base);

  if (GST_QUERY_TYPE (query) == GST_QUERY_CUSTOM)
    return klass->query && klass->query (KD_SINK (base), query);
  return GST_BASE_SINK_CLASS (kd_sink_parent_class)->query (base, query);
}

static gboolean
sink_start (GstBaseSink *base)
{
  KdSink *self = KD_SINK (base);
  KdSinkClass *klass = KD_SINK_GET_CLASS (self);
  GError *error = NULL;

  PRIVATE (self)->failed = FALSE;
  if (klass->start && !klass->start (self, &error)) {
    kd_element_post_error (GST_ELEMENT (self), error);
    return FALSE;
  }
  return TRUE;
}

static gboolean
sink_stop (GstBaseSink *base)
{
  KdSink *self = KD_SINK (base);

  if (KD_SINK_GET_CLASS (self)->stop)
    KD_SINK_GET_CLASS (self)->stop (self);
  g_clear_pointer (&PRIVATE (self)->layout, kd_layout_free);
  return TRUE;
}

static void
kd_sink_set_property (GObject *object, guint id, const GValue *value, GParamSpec *pspec)
{
  KdSinkPrivate *priv = PRIVATE (KD_SINK (object));

  kd_properties_set (&priv->properties, id - 1, value);
  g_atomic_int_set (&priv->changed, 1);
}

static void
kd_sink_get_property (GObject *object, guint id, GValue *value, GParamSpec *pspec)
{
  kd_properties_get (&PRIVATE (KD_SINK (object))->properties, id - 1, value);
}

static void
kd_sink_constructed (GObject *object)
{
  KdSink *self = KD_SINK (object);
  const KdDesc *desc = KD_SINK_GET_CLASS (self)->desc;

  G_OBJECT_CLASS (kd_sink_parent_class)->constructed (object);
  kd_properties_init (&PRIVATE (self)->properties, desc->params, desc->params_size);
  gst_base_sink_set_sync (GST_BASE_SINK (self), FALSE);
  /* The last sample would keep a batch and its tensors alive for nothing. */
  gst_base_sink_set_last_sample_enabled (GST_BASE_SINK (self), FALSE);
}

static void
kd_sink_finalize (GObject *object)
{
  KdSinkPrivate *priv = PRIVATE (KD_SINK (object));

  kd_properties_free_snapshot (&priv->properties, priv->snapshot);
  kd_properties_clear (&priv->properties);
  g_clear_pointer (&priv->layout, kd_layout_free);
  G_OBJECT_CLASS (kd_sink_parent_class)->finalize (object);
}

static void
kd_sink_class_init (KdSinkClass *klass)
{
  GstBaseSinkClass *base = GST_BASE_SINK_CLASS (klass);

  G_OBJECT_CLASS (klass)->constructed = kd_sink_constructed;
  G_OBJECT_CLASS (klass)->finalize = kd_sink_finalize;
  base->set_caps = sink_set_caps;
  base->render = sink_render;
  base->event = sink_event;
  base->query = sink_query;
  base->start = sink_start;
  base->stop = sink_stop;
}

static void
kd_sink_init (KdSink *self)
{
}

void
kd_sink_class_install (KdSinkClass *klass, const KdDesc *desc, const gchar *keywords)
{
  static GstStaticPadTemplate sink = GST_STATIC_PAD_TEMPLATE ("sink", GST_PAD_SINK, GST_PAD_ALWAYS, GST_STATIC_CAPS (KD_CAPS_TEMPLATE));
  GObjectClass *object_class = G_OBJECT_CLASS (klass);

  klass->desc = desc;
  object_class->set_property = kd_sink_set_property;
  object_class->get_property = kd_sink_get_property;
  kd_properties_install (object_class, desc->params, G_OBJECT_CLASS_NAME (klass), 1);
  gst_element_class_set_metadata (GST_ELEMENT_CLASS (klass), desc->title, keywords, desc->description, "The kdstream developers");
  gst_element_class_add_static_pad_template (GST_ELEMENT_CLASS (klass), &sink);
  kd_element_class_describe (GST_ELEMENT_CLASS (klass), desc, "sink", NULL);
}

/* Leaves: the file is opened with the first batch, so that a dry run or an empty stream makes none. */

static gboolean
leaf_write (KdSink *self, GstBuffer *buffer, KdBatch *batch, GError **error)
{
  KdSinkPrivate *priv = PRIVATE (self);
  const KdSinkDesc *desc = (const KdSinkDesc *) KD_SINK_GET_CLASS (self)->desc;

  if (!priv->opened) {
    priv->state = kd_desc_state_new ((const KdDesc *) desc, kd_sink_params (self));
    priv->opened = TRUE;
    if (!desc->open (kd_sink_params (self), priv->state, priv->layout, error))
      return FALSE;
  }
  return desc->write (priv->state, batch, error);
}

static gboolean
leaf_finish (KdSink *self, GError **error)
{
  const KdSinkDesc *desc = (const KdSinkDesc *) KD_SINK_GET_CLASS (self)->desc;

  return !PRIVATE (self)->opened || !desc->finish || desc->finish (PRIVATE (self)->state, error);
}

static gboolean
leaf_start (KdSink *self, GError **error)
{
  const KdSinkDesc *desc = (const KdSinkDesc *) KD_SINK_GET_CLASS (self)->desc;

  return !desc->check || desc->check (kd_sink_params (self), error);
}

static void
leaf_stop (KdSink *self)
{
  KdSinkPrivate *priv = PRIVATE (self);
  const KdSinkDesc *desc = (const KdSinkDesc *) KD_SINK_GET_CLASS (self)->desc;

  if (priv->opened && desc->close)
    desc->close (priv->state);
  kd_desc_state_free ((const KdDesc *) desc, g_steal_pointer (&priv->state));
  priv->opened = FALSE;
}

static void
leaf_class_init (gpointer klass, gpointer desc)
{
  KdSinkClass *sink = klass;

  kd_sink_class_install (sink, desc, "Sink/Dataset");
  sink->write = leaf_write;
  sink->finish = leaf_finish;
  sink->start = leaf_start;
  sink->stop = leaf_stop;
}

gboolean
kd_sink_register (GstPlugin *plugin, const KdSinkDesc *desc)
{
  return kd_element_register (plugin, (const KdDesc *) desc, KD_TYPE_SINK, leaf_class_init);
}
