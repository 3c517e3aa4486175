/* KdElement: caps, layout, batches, events, errors for everything with one sink and one source pad. A GstElement and not a
 * GstBaseTransform: negotiation here is a function of a layout, and a batch costs two calls. */
#include "kd-element.h"
#include "kd-leaf.h"

#include <string.h>

GST_DEBUG_CATEGORY_STATIC (kd_element_debug);
#define GST_CAT_DEFAULT kd_element_debug

typedef struct {
  GstPad *sink, *src;
  KdPropertyPair properties;
  gpointer base_snapshot, leaf_snapshot;
  gint changed; /* atomic: a property was set since the snapshot */
  KdLayout *in, *out;
  KdCheckpoint *pending; /* state to take once the element is ready for it */
  gint trainer;          /* -1: not asked yet */
  gboolean started;
  gboolean failed; /* said once why; GStreamer sends refused caps again with every buffer */
} KdElementPrivate;

G_DEFINE_ABSTRACT_TYPE_WITH_PRIVATE (KdElement, kd_element, GST_TYPE_ELEMENT)
#define PRIVATE(self) ((KdElementPrivate *) kd_element_get_instance_private (self))

GstPad *
kd_element_sink_pad (KdElement *self)
{
  return PRIVATE (self)->sink;
}

GstPad *
kd_element_src_pad (KdElement *self)
{
  return PRIVATE (self)->src;
}

const KdLayout *
kd_element_layout_in (KdElement *self)
{
  return PRIVATE (self)->in;
}

const KdLayout *
kd_element_layout_out (KdElement *self)
{
  return PRIVATE (self)->out;
}

static void
refresh_snapshots (KdElement *self)
{
  KdElementPrivate *priv = PRIVATE (self);

  if (priv->leaf_snapshot && !g_atomic_int_compare_and_exchange (&priv->changed, 1, 0))
    return;
  kd_properties_free_snapshot (&priv->properties.base, priv->base_snapshot);
  kd_properties_free_snapshot (&priv->properties.leaf, priv->leaf_snapshot);
  priv->base_snapshot = kd_properties_snapshot (&priv->properties.base);
  priv->leaf_snapshot = kd_properties_snapshot (&priv->properties.leaf);
}

gconstpointer
kd_element_params (KdElement *self)
{
  if (!PRIVATE (self)->leaf_snapshot)
    refresh_snapshots (self);
  return PRIVATE (self)->leaf_snapshot;
}

gconstpointer
kd_element_base_params (KdElement *self)
{
  if (!PRIVATE (self)->base_snapshot)
    refresh_snapshots (self);
  return PRIVATE (self)->base_snapshot;
}

gboolean
kd_element_has_trainer (KdElement *self)
{
  KdElementPrivate *priv = PRIVATE (self);

  if (priv->trainer < 0) {
    gint answer = 0;
    g_autoptr (GstQuery) query = kd_query_new_pointer (KD_QUERY_TRAINER, &answer);
    priv->trainer = gst_pad_peer_query (priv->src, query) && answer;
  }
  return priv->trainer > 0;
}

GstFlowReturn
kd_element_push (KdElement *self, GstBuffer *buffer)
{
  kd_batch_update_size (buffer);
  return gst_pad_push (PRIVATE (self)->src, buffer);
}

static gboolean
take_pending_state (KdElement *self, GError **error)
{
  KdElementPrivate *priv = PRIVATE (self);
  KdElementClass *klass = KD_ELEMENT_GET_CLASS (self);
  g_autoptr (KdCheckpoint) checkpoint = g_steal_pointer (&priv->pending);
  GHashTable *table = checkpoint ? kd_checkpoint_table (checkpoint, GST_OBJECT_NAME (self), FALSE) : NULL;

  return !table || !klass->load || klass->load (self, table, error);
}

static gboolean
negotiate (KdElement *self, const GstCaps *caps, GstCaps **ret_caps, GError **error)
{
  KdElementPrivate *priv = PRIVATE (self);
  KdElementClass *klass = KD_ELEMENT_GET_CLASS (self);
  g_autoptr (KdLayout) in = kd_layout_from_caps (caps, error);
  g_autoptr (KdLayout) out = NULL;

  if (!in)
    return FALSE;
  refresh_snapshots (self);
  out = klass->negotiate ? klass->negotiate (self, in, error) : kd_layout_copy (in);
  if (!out)
    return FALSE;
  g_clear_pointer (&priv->in, kd_layout_free);
  g_clear_pointer (&priv->out, kd_layout_free);
  priv->in = g_steal_pointer (&in);
  priv->out = g_steal_pointer (&out);
  *ret_caps = kd_layout_to_caps (priv->out);
  return TRUE;
}

static GstFlowReturn
kd_element_chain (GstPad *pad, GstObject *parent, GstBuffer *buffer)
{
  KdElement *self = KD_ELEMENT (parent);
  KdElementPrivate *priv = PRIVATE (self);
  KdElementClass *klass = KD_ELEMENT_GET_CLASS (self);
  GError *error = NULL;
  KdBatch *batch;

  if (G_UNLIKELY (priv->failed)) {
    gst_buffer_unref (buffer);
    return GST_FLOW_ERROR;
  }
  if (G_UNLIKELY (!priv->out)) {
    gst_buffer_unref (buffer);
    GST_ELEMENT_ERROR (self, CORE, NEGOTIATION, ("No layout before the first batch: element=%s", GST_OBJECT_NAME (self)), (NULL));
    return GST_FLOW_NOT_NEGOTIATED;
  }
  buffer = gst_buffer_make_writable (buffer);
  batch = kd_batch_get (buffer);
  if (G_UNLIKELY (!batch)) {
    gst_buffer_unref (buffer);
    GST_ELEMENT_ERROR (self, STREAM, FORMAT, ("Buffer is no batch: element=%s; put kdh5src or kdbatch before it", GST_OBJECT_NAME (self)), (NULL));
    return GST_FLOW_ERROR;
  }
  if (G_UNLIKELY (g_atomic_int_get (&priv->changed)))
    refresh_snapshots (self);
  if ((G_UNLIKELY (priv->pending) && !take_pending_state (self, &error)) || !klass->process (self, &buffer, batch, &error)) {
    if (buffer)
      gst_buffer_unref (buffer);
    if (!error) /* a push from inside the element failed; whoever refused has said why */
      return GST_PAD_LAST_FLOW_RETURN (priv->src) == GST_FLOW_OK ? GST_FLOW_ERROR : GST_PAD_LAST_FLOW_RETURN (priv->src);
    priv->failed = TRUE;
    kd_element_post_error (GST_ELEMENT (self), error);
    return GST_FLOW_ERROR;
  }
  return buffer ? kd_element_push (self, buffer) : GST_FLOW_OK;
}

static gboolean
sink_caps (KdElement *self, GstEvent *event)
{
  GError *error = NULL;
  GstCaps *caps, *out = NULL;
  gboolean ok;

  gst_event_parse_caps (event, &caps);
  ok = !PRIVATE (self)->failed && negotiate (self, caps, &out, &error);
  gst_event_unref (event);
  if (!ok) {
    if (!error)
      return FALSE;
    PRIVATE (self)->failed = TRUE;
    kd_element_post_error (GST_ELEMENT (self), error);
    return FALSE;
  }
  ok = gst_pad_push_event (PRIVATE (self)->src, gst_event_new_caps (out));
  gst_caps_unref (out);
  return ok;
}

static gboolean
sink_custom (KdElement *self, GstEvent **event, GError **error)
{
  KdElementClass *klass = KD_ELEMENT_GET_CLASS (self);

  if (gst_event_has_name (*event, KD_EVENT_EPOCH) && klass->epoch) {
    guint epoch = 0;
    gst_structure_get_uint (gst_event_get_structure (*event), "epoch", &epoch);
    return klass->epoch (self, epoch, error);
  }
  if (gst_event_has_name (*event, KD_EVENT_IDENTITY) && klass->identify) {
    *event = GST_EVENT (gst_mini_object_make_writable (GST_MINI_OBJECT (*event)));
    klass->identify (self, gst_event_writable_structure (*event));
  }
  return TRUE;
}

static gboolean
kd_element_sink_event (GstPad *pad, GstObject *parent, GstEvent *event)
{
  KdElement *self = KD_ELEMENT (parent);
  KdElementClass *klass = KD_ELEMENT_GET_CLASS (self);
  GError *error = NULL;
  gboolean ok = TRUE, taken = klass->event && klass->event (self, event);

  switch (GST_EVENT_TYPE (event)) {
  case GST_EVENT_CAPS:
    return sink_caps (self, event);
  case GST_EVENT_EOS:
    /* A source that was refused a batch sends EOS all the same; a sink would take its half a file for the whole. */
    if (PRIVATE (self)->failed) {
      gst_event_unref (event);
      return FALSE;
    }
    /* A run resumed at its very end has no batch to take the state with. */
    ok = (!PRIVATE (self)->pending || !PRIVATE (self)->out || take_pending_state (self, &error)) && (!klass->finish || klass->finish (self, &error));
    break;
  case GST_EVENT_CUSTOM_DOWNSTREAM:
  case GST_EVENT_CUSTOM_DOWNSTREAM_STICKY:
    ok = sink_custom (self, &event, &error);
    break;
  default:
    break;
  }
  if (!ok && error)
    kd_element_post_error (GST_ELEMENT (self), error);
  return (gst_pad_event_default (pad, parent, event) || taken) && ok;
}

/* Upstream: the element takes its part, then the event goes on; it counts as handled when anybody took it. */
static gboolean
kd_element_src_event (GstPad *pad, GstObject *parent, GstEvent *event)
{
  KdElement *self = KD_ELEMENT (parent);
  KdElementClass *klass = KD_ELEMENT_GET_CLASS (self);
  KdSaveCall *save = kd_event_get_pointer (event, KD_EVENT_SAVE);
  GError *error = NULL;
  gboolean handled = FALSE;

  if (GST_EVENT_TYPE (event) != GST_EVENT_CUSTOM_UPSTREAM)
    return gst_pad_event_default (pad, parent, event);
  if (save && klass->save && !klass->save (self, kd_checkpoint_table (save->checkpoint, GST_OBJECT_NAME (self), TRUE), &error))
    save->failed = TRUE;
  handled = klass->event && klass->event (self, event);
  if (!error && klass->upstream)
    handled = klass->upstream (self, event, &error) || handled;
  if (error) {
    kd_element_post_error (GST_ELEMENT (self), error);
    gst_event_unref (event);
    return FALSE;
  }
  return gst_pad_push_event (PRIVATE (self)->sink, event) || handled;
}

/* kd-resume: the sink answers; on the way back each element keeps what is there for it until it can use it. */
static gboolean
kd_element_sink_query (GstPad *pad, GstObject *parent, GstQuery *query)
{
  KdElement *self = KD_ELEMENT (parent);
  gboolean ok;

  if (GST_QUERY_TYPE (query) == GST_QUERY_CUSTOM) {
    KdResume *resume;
    ok = gst_pad_peer_query (PRIVATE (self)->src, query);
    resume = ok ? kd_query_get_pointer (query, KD_QUERY_RESUME) : NULL;
    if (resume && KD_ELEMENT_GET_CLASS (self)->resume)
      KD_ELEMENT_GET_CLASS (self)->resume (self, resume);
    if (resume && resume->checkpoint) {
      g_clear_pointer (&PRIVATE (self)->pending, kd_checkpoint_unref);
      PRIVATE (self)->pending = kd_checkpoint_ref (resume->checkpoint);
    }
    return ok;
  }
  return gst_pad_query_default (pad, parent, query);
}

static GstStateChangeReturn
kd_element_change_state (GstElement *element, GstStateChange transition)
{
  KdElement *self = KD_ELEMENT (element);
  KdElementPrivate *priv = PRIVATE (self);
  KdElementClass *klass = KD_ELEMENT_GET_CLASS (self);
  GstStateChangeReturn ret;
  GError *error = NULL;

  if (transition == GST_STATE_CHANGE_READY_TO_PAUSED) {
    priv->trainer = -1;
    priv->failed = FALSE;
    refresh_snapshots (self);
    if (klass->start && !klass->start (self, &error)) {
      kd_element_post_error (element, error);
      return GST_STATE_CHANGE_FAILURE;
    }
    priv->started = TRUE;
  }
  ret = GST_ELEMENT_CLASS (kd_element_parent_class)->change_state (element, transition);
  if (priv->started && (transition == GST_STATE_CHANGE_PAUSED_TO_READY || ret == GST_STATE_CHANGE_FAILURE)) {
    if (klass->stop)
      klass->stop (self);
    priv->started = FALSE;
    g_clear_pointer (&priv->in, kd_layout_free);
    g_clear_pointer (&priv->out, kd_layout_free);
    g_clear_pointer (&priv->pending, kd_checkpoint_unref);
  }
  return ret;
}

static void
kd_element_set_property (GObject *object, guint id, const GValue *value, GParamSpec *pspec)
{
  KdElementPrivate *priv = PRIVATE (KD_ELEMENT (object));

  kd_property_pair_set (&priv->properties, id, value);
  g_atomic_int_set (&priv->changed, 1);
}

static void
kd_element_get_property (GObject *object, guint id, GValue *value, GParamSpec *pspec)
{
  KdElementPrivate *priv = PRIVATE (KD_ELEMENT (object));

  kd_property_pair_get (&priv->properties, id, value);
}

static void
kd_element_finalize (GObject *object)
{
  KdElementPrivate *priv = PRIVATE (KD_ELEMENT (object));

  kd_properties_free_snapshot (&priv->properties.base, priv->base_snapshot);
  kd_properties_free_snapshot (&priv->properties.leaf, priv->leaf_snapshot);
  kd_property_pair_clear (&priv->properties);
  g_clear_pointer (&priv->in, kd_layout_free);
  g_clear_pointer (&priv->out, kd_layout_free);
  g_clear_pointer (&priv->pending, kd_checkpoint_unref);
  G_OBJECT_CLASS (kd_element_parent_class)->finalize (object);
}

/* Not in instance init: there the class is the abstract one, without the leaf's descriptor. */
static void
kd_element_constructed (GObject *object)
{
  KdElement *self = KD_ELEMENT (object);
  KdElementPrivate *priv = PRIVATE (self);
  KdElementClass *klass = KD_ELEMENT_GET_CLASS (self);
  GstElementClass *element_class = GST_ELEMENT_CLASS (klass);

  G_OBJECT_CLASS (kd_element_parent_class)->constructed (object);
  kd_property_pair_init (&priv->properties, klass->base, klass->base_size, klass->desc ? klass->desc->params : NULL,
      klass->desc ? klass->desc->params_size : 0);
  priv->sink = gst_pad_new_from_template (gst_element_class_get_pad_template (element_class, "sink"), "sink");
  priv->src = gst_pad_new_from_template (gst_element_class_get_pad_template (element_class, "src"), "src");
  gst_pad_set_chain_function (priv->sink, kd_element_chain);
  gst_pad_set_event_function (priv->sink, kd_element_sink_event);
  gst_pad_set_query_function (priv->sink, kd_element_sink_query);
  gst_pad_set_event_function (priv->src, kd_element_src_event);
  gst_element_add_pad (GST_ELEMENT (self), priv->sink);
  gst_element_add_pad (GST_ELEMENT (self), priv->src);
}

static void
kd_element_class_init (KdElementClass *klass)
{
  GST_DEBUG_CATEGORY_INIT (kd_element_debug, "kdelement", 0, "kdstream base element");
  G_OBJECT_CLASS (klass)->constructed = kd_element_constructed;
  GST_ELEMENT_CLASS (klass)->change_state = kd_element_change_state;
  G_OBJECT_CLASS (klass)->finalize = kd_element_finalize;
}

void
kd_element_class_install (KdElementClass *klass, const KdDesc *desc, const gchar *kind, const gchar *keywords, const KdParam *base,
    gsize base_size)
{
  static GstStaticPadTemplate sink = GST_STATIC_PAD_TEMPLATE ("sink", GST_PAD_SINK, GST_PAD_ALWAYS, GST_STATIC_CAPS (KD_CAPS_TEMPLATE));
  static GstStaticPadTemplate src = GST_STATIC_PAD_TEMPLATE ("src", GST_PAD_SRC, GST_PAD_ALWAYS, GST_STATIC_CAPS (KD_CAPS_TEMPLATE));
  GObjectClass *object_class = G_OBJECT_CLASS (klass);

  klass->desc = desc;
  klass->kind = kind;
  klass->base = base;
  klass->base_size = base_size;
  /* GObject clears both in each subclass. */
  object_class->set_property = kd_element_set_property;
  object_class->get_property = kd_element_get_property;
  kd_property_pair_install (object_class, base, desc->params);
  gst_element_class_set_metadata (GST_ELEMENT_CLASS (klass), desc->title, keywords, desc->description, "The kdstream developers");
  gst_element_class_add_static_pad_template (GST_ELEMENT_CLASS (klass), &sink);
  gst_element_class_add_static_pad_template (GST_ELEMENT_CLASS (klass), &src);
  kd_element_class_describe (GST_ELEMENT_CLASS (klass), desc, kind, KD_IS_LEAF_ELEMENT_CLASS (klass) ? KD_LEAF_ELEMENT_CLASS (klass)->outputs : NULL);
}

static void
kd_element_init (KdElement *self)
{
  PRIVATE (self)->trainer = -1;
}
