/**
 * SECTION:element-kdbatch
 * @short_description: raw video or audio into batches
 *
 * Gathers `batch-size` decoded pictures or sound clips into a batch: what turns any GStreamer source into a data set. A label comes from a side list:
 * a label a line (`labels`), or the path a line (`location-list`), whose folder or prefix is the class. A frame is matched with its line by its time
 * stamp when it has one, so that a frame that a decoder left out is an error and not a shift of all labels after it.
 *
 * Sound: the stream is cut every `samples` samples (clip=window), or each buffer is a clip (clip=buffer), or each stream or segment is one
 * (clip=segment, as behind concat); short clips are filled with zeros, long ones cut.
 *
 * ## Fields
 *  - adds input: uint8 [N C H W] of pictures (C is 3 for RGB, 1 for GRAY8); float32 [N 1 T] in -1..1 of sound
 *  - adds input.length: int64 [N], samples before the filling (sound only)
 *  - adds sample.id: int64 [N], the place in the stream from 0; label: int64 [N] with a side list
 * ## Errors
 * Pictures of different sizes, a missing frame, samples and lines of the list that differ in number, a list that cannot be read. (A JPEG that is cut
 * off inside the picture decodes to grey without a word from the decoder; kd data import looks for that.)
 * ## Source
 * Of this project.
 * ## Example
 * |[ gst-launch-1.0 multifilesrc location=img-%04d.jpg index=0 caps=image/jpeg,framerate=1/1 ! jpegdec ! videoconvert ! video/x-raw,format=RGB !
 * kdbatch batch-size=64 labels=labels.txt ! kdteacher arch='cnn' ! kdcachesink location=t.h5 ]|
 */
#include "kdbatch.h"

#include <string.h>

static const KdEnumValue label_froms[] = {
  { KD_LABEL_FROM_FOLDER, "folder", "The name of the folder that the file is in" },
  { KD_LABEL_FROM_PREFIX, "prefix", "The file's name up to the first '_'" },
  { 0, NULL, NULL },
};
static const KdEnumValue clips[] = {
  { KDBATCH_CLIP_WINDOW, "window", "Every `samples` samples of the stream" },
  { KDBATCH_CLIP_BUFFER, "buffer", "Each buffer" },
  { KDBATCH_CLIP_SEGMENT, "segment", "From one stream-start or segment to the next" },
  { 0, NULL, NULL },
};

static const KdParam params_table[] = {
  KD_PARAM_INT (KdbatchParams, batch_size, 1, 1 << 24, 64, "Pictures or clips a batch"),
  KD_PARAM_STRING (KdbatchParams, labels, "", "Text file with a label a line: whole numbers, or names of classes (numbered in sorted order)"),
  KD_PARAM_STRING (KdbatchParams, location_list, "", "Text file with a path a line, which holds the class's name (see label-from)"),
  KD_PARAM_ENUM (KdbatchParams, label_from, label_froms, KD_LABEL_FROM_FOLDER, "Where in a path of location-list the class is"),
  KD_PARAM_ENUM (KdbatchParams, clip, clips, KDBATCH_CLIP_WINDOW, "Sound: where one clip ends and the next begins"),
  KD_PARAM_INT (KdbatchParams, samples, 1, 1 << 26, 16000, "Sound: length of every clip"),
  KD_PARAM_END
};

typedef struct {
  GstElementClass parent;
} KdbatchClass;

static GType kdbatch_get_type (void);
G_DEFINE_TYPE (Kdbatch, kdbatch, GST_TYPE_ELEMENT)

static Kdbatch *
self_of (gpointer object)
{
  return object;
}

static gboolean
push_caps (Kdbatch *self)
{
  g_autoptr (KdLayout) layout = kd_layout_new ();
  g_autoptr (GstCaps) caps = NULL;
  gint64 input[] = { KD_DIM_ANY, self->channels, self->is_audio ? self->params->samples : self->video.height, self->video.width };

  kd_layout_set (layout, "input", self->is_audio ? KD_FLOAT32 : KD_UINT8, self->is_audio ? 3 : 4, input);
  kd_layout_set (layout, "sample.id", KD_INT64, 1, input);
  if (self->is_audio)
    kd_layout_set (layout, "input.length", KD_INT64, 1, input);
  if (self->list)
    kd_layout_set (layout, "label", KD_INT64, 1, input);
  caps = kd_layout_to_caps (layout);
  return gst_pad_push_event (self->src, gst_event_new_caps (caps));
}

/* As the project's sources do before their first batch. */
static gboolean
get_ready (Kdbatch *self)
{
  g_autofree gchar *spec = g_strdup_printf ("kdbatch labels=%s location-list=%s", self->params->labels, self->params->location_list);
  g_autoptr (GstQuery) query = NULL;
  gint64 n_rows = self->list ? self->list->n : 0;

  if (self->ready)
    return TRUE;
  self->ready = TRUE;
  gst_pad_push_event (self->src,
      gst_event_new_custom (GST_EVENT_CUSTOM_DOWNSTREAM_STICKY,
          gst_structure_new (KD_EVENT_IDENTITY, "dataset-spec", G_TYPE_STRING, spec, "n-rows", G_TYPE_INT64, n_rows, NULL)));
  self->resume.views = -1;
  query = kd_query_new_pointer (KD_QUERY_RESUME, &self->resume);
  gst_pad_peer_query (self->src, query);
  return !self->resume.failed;
}

static GstFlowReturn
kdbatch_chain (GstPad *pad, GstObject *parent, GstBuffer *buffer)
{
  Kdbatch *self = self_of (parent);
  GstFlowReturn flow = GST_FLOW_OK;
  GError *error = NULL;

  if (!self->have_caps) {
    gst_buffer_unref (buffer);
    return GST_FLOW_NOT_NEGOTIATED;
  }
  if (!get_ready (self)) {
    gst_buffer_unref (buffer);
    return GST_FLOW_ERROR;
  }
  if (!(self->is_audio ? kdbatch_take_sound (self, buffer, &flow, &error) : kdbatch_take_frame (self, buffer, &flow, &error))) {
    kd_element_post_error (GST_ELEMENT (self), error);
    flow = GST_FLOW_ERROR;
  }
  gst_buffer_unref (buffer);
  return self->flow = flow;
}

/* What still lies here when the stream ends: the last clip, the last batch. */
static gboolean
finish_rows (Kdbatch *self, gboolean all)
{
  GError *error = NULL;
  GstFlowReturn flow = GST_FLOW_OK;

  if (self->is_audio && self->n_clip > 0 && !kdbatch_end_clip (self, &flow, &error)) {
    kd_element_post_error (GST_ELEMENT (self), error);
    return FALSE;
  }
  return flow == GST_FLOW_OK && (!all || kdbatch_push (self) == GST_FLOW_OK);
}

static gboolean
check_size (Kdbatch *self, const GstVideoInfo *info)
{
  gboolean same = !self->is_audio && info->width == self->video.width && info->height == self->video.height &&
      GST_VIDEO_INFO_FORMAT (info) == GST_VIDEO_INFO_FORMAT (&self->video);

  if (self->n_seen == 0 || same)
    return TRUE;
  kd_element_post_error (GST_ELEMENT (self),
      g_error_new (KD_ERROR, KD_ERROR_SHAPE, "Frames differ in size: element=%s, first=%dx%d %s, frame %" G_GINT64_FORMAT "=%dx%d %s; put "
                                             "videoscale ! video/x-raw,width=...,height=... before it",
          GST_OBJECT_NAME (self), self->video.width, self->video.height, GST_VIDEO_INFO_NAME (&self->video), self->n_seen, info->width, info->height,
          GST_VIDEO_INFO_NAME (info)));
  return FALSE;
}

static gboolean
set_caps (Kdbatch *self, GstCaps *caps)
{
  GstVideoInfo video;
  GstAudioInfo audio;

  if (gst_video_info_from_caps (&video, caps)) {
    if (!check_size (self, &video))
      return FALSE;
    self->video = video;
    self->is_audio = FALSE;
    self->channels = GST_VIDEO_INFO_FORMAT (&video) == GST_VIDEO_FORMAT_RGB ? 3 : 1;
  } else if (gst_audio_info_from_caps (&audio, caps)) {
    self->audio = audio;
    self->is_audio = TRUE;
    self->channels = 1;
  } else {
    return FALSE;
  }
  if (self->have_caps && self->n_seen > 0)
    return TRUE; /* only the rate changed */
  self->have_caps = TRUE;
  return push_caps (self);
}

/* The end of the data is the end of an epoch, and what lies here goes out before. Samples that are too few may mean that one was left out somewhere
 * and that the labels after it are wrong: then the end does not go on, and no sink finishes its file. */
static gboolean
end_of_stream (Kdbatch *self)
{
  if ((self->have_caps && !get_ready (self)) || !finish_rows (self, FALSE))
    return FALSE;
  if (self->list && self->n_seen < self->list->n) {
    kd_element_post_error (GST_ELEMENT (self),
        g_error_new (KD_ERROR, KD_ERROR_MISMATCH, "Fewer samples than lines: element=%s, list=\"%s\", lines=%" G_GINT64_FORMAT ", "
                                                  "samples=%" G_GINT64_FORMAT "; one may have been left out by a decoder: kd data import names broken images",
            GST_OBJECT_NAME (self), self->list->path, self->list->n, self->n_seen));
    return FALSE;
  }
  if (!finish_rows (self, TRUE))
    return FALSE;
  return gst_pad_push_event (self->src,
      gst_event_new_custom (GST_EVENT_CUSTOM_DOWNSTREAM,
          gst_structure_new (KD_EVENT_EPOCH, "epoch", G_TYPE_UINT, 0, "samples", G_TYPE_UINT64, (guint64) self->n_seen, NULL)));
}

static gboolean
kdbatch_sink_event (GstPad *pad, GstObject *parent, GstEvent *event)
{
  Kdbatch *self = self_of (parent);
  GstCaps *caps;
  gboolean ok = TRUE;

  switch (GST_EVENT_TYPE (event)) {
  case GST_EVENT_CAPS:
    gst_event_parse_caps (event, &caps);
    ok = set_caps (self, caps);
    gst_event_unref (event);
    return ok;
  case GST_EVENT_STREAM_START:
  case GST_EVENT_SEGMENT:
    if (self->params && self->params->clip == KDBATCH_CLIP_SEGMENT && self->is_audio)
      ok = finish_rows (self, FALSE);
    break;
  case GST_EVENT_FLUSH_STOP:
    kdbatch_drop_rows (self);
    self->flow = GST_FLOW_OK;
    break;
  case GST_EVENT_EOS:
    /* A source also sends it after an error, which has been told: no second one, and no sink that takes half for the whole. */
    if (self->flow == GST_FLOW_EOS || (self->flow == GST_FLOW_OK && end_of_stream (self)))
      break;
    gst_event_unref (event);
    return FALSE;
  default:
    break;
  }
  return gst_pad_event_default (pad, parent, event) && ok;
}

/* Nothing before kdbatch learns or keeps state. */
static gboolean
kdbatch_src_event (GstPad *pad, GstObject *parent, GstEvent *event)
{
  if (GST_EVENT_TYPE (event) != GST_EVENT_CUSTOM_UPSTREAM)
    return gst_pad_event_default (pad, parent, event);
  gst_event_unref (event);
  return FALSE;
}

static gboolean
kdbatch_sink_query (GstPad *pad, GstObject *parent, GstQuery *query)
{
  if (GST_QUERY_TYPE (query) != GST_QUERY_ALLOCATION)
    return gst_pad_query_default (pad, parent, query);
  gst_query_add_allocation_meta (query, GST_VIDEO_META_API_TYPE, NULL); /* strides are welcome */
  return TRUE;
}

static gboolean
kdbatch_start (Kdbatch *self, GError **error)
{
  const KdbatchParams *p = self->params = kd_properties_snapshot (&self->properties);
  gboolean labels = p->labels && *p->labels, paths = p->location_list && *p->location_list;

  self->n_seen = 0;
  self->index = 0;
  self->ready = self->have_caps = FALSE;
  self->flow = GST_FLOW_OK;
  if (labels && paths) {
    g_set_error (error, KD_ERROR, KD_ERROR_VALUE, "Two lists of labels: element=%s, labels=\"%s\", location-list=\"%s\"; give one",
        GST_OBJECT_NAME (self), p->labels,
        p->location_list);
    return FALSE;
  }
  if (labels)
    self->list = kd_label_list_read (p->labels, error);
  else if (paths)
    self->list = kd_label_list_read_paths (p->location_list, p->label_from, error);
  return self->list || (!labels && !paths);
}

static void
kdbatch_stop (Kdbatch *self)
{
  kdbatch_drop_rows (self);
  g_clear_pointer (&self->list, kd_label_list_free);
  g_clear_pointer (&self->resume.checkpoint, kd_checkpoint_unref);
  memset (&self->resume, 0, sizeof self->resume);
  if (self->params)
    kd_properties_free_snapshot (&self->properties, self->params);
  self->params = NULL;
}

static GstStateChangeReturn
kdbatch_change_state (GstElement *element, GstStateChange transition)
{
  Kdbatch *self = self_of (element);
  GstStateChangeReturn ret;
  GError *error = NULL;

  if (transition == GST_STATE_CHANGE_READY_TO_PAUSED && !kdbatch_start (self, &error)) {
    kd_element_post_error (element, error);
    kdbatch_stop (self);
    return GST_STATE_CHANGE_FAILURE;
  }
  ret = GST_ELEMENT_CLASS (kdbatch_parent_class)->change_state (element, transition);
  if (transition == GST_STATE_CHANGE_PAUSED_TO_READY || ret == GST_STATE_CHANGE_FAILURE)
    kdbatch_stop (self);
  return ret;
}

static void
kdbatch_set_property (GObject *object, guint id, const GValue *value, GParamSpec *pspec)
{
  kd_properties_set (&self_of (object)->properties, id - 1, value);
}

static void
kdbatch_get_property (GObject *object, guint id, GValue *value, GParamSpec *pspec)
{
  kd_properties_get (&self_of (object)->properties, id - 1, value);
}

static void
kdbatch_finalize (GObject *object)
{
  Kdbatch *self = self_of (object);

  kdbatch_stop (self);
  g_array_unref (self->ids);
  g_array_unref (self->labels);
  g_array_unref (self->lengths);
  kd_properties_clear (&self->properties);
  G_OBJECT_CLASS (kdbatch_parent_class)->finalize (object);
}

static void
kdbatch_class_init (KdbatchClass *klass)
{
  static GstStaticPadTemplate sink = GST_STATIC_PAD_TEMPLATE ("sink", GST_PAD_SINK, GST_PAD_ALWAYS,
      GST_STATIC_CAPS ("video/x-raw, format=(string){ RGB, GRAY8 }; audio/x-raw, format=(string){ F32LE, S16LE }, channels=(int)1, "
                       "layout=(string)interleaved"));
  static GstStaticPadTemplate src = GST_STATIC_PAD_TEMPLATE ("src", GST_PAD_SRC, GST_PAD_ALWAYS, GST_STATIC_CAPS (KD_CAPS_TEMPLATE));
  GstElementClass *element = GST_ELEMENT_CLASS (klass);

  G_OBJECT_CLASS (klass)->set_property = kdbatch_set_property;
  G_OBJECT_CLASS (klass)->get_property = kdbatch_get_property;
  G_OBJECT_CLASS (klass)->finalize = kdbatch_finalize;
  element->change_state = kdbatch_change_state;
  kd_properties_install (G_OBJECT_CLASS (klass), params_table, "Kdbatch", 1);
  gst_element_class_add_static_pad_template (element, &sink);
  gst_element_class_add_static_pad_template (element, &src);
  gst_element_class_set_metadata (element, "Raw media to batches", "Filter/Batch", "Gathers raw pictures or sound clips with their labels into "
                                                                                   "batches",
      "The kdstream developers");
  /* For the messages that name who could provide a field that is missing. */
  gst_element_class_add_metadata (element, "kd-kind", "batch");
  gst_element_class_add_metadata (element, "kd-provides", "input label sample.id");
}

static void
kdbatch_init (Kdbatch *self)
{
  GstElementClass *klass = GST_ELEMENT_GET_CLASS (self);

  kd_properties_init (&self->properties, params_table, sizeof (KdbatchParams));
  self->ids = g_array_new (FALSE, FALSE, sizeof (gint64));
  self->labels = g_array_new (FALSE, FALSE, sizeof (gint64));
  self->lengths = g_array_new (FALSE, FALSE, sizeof (gint64));
  self->sink = gst_pad_new_from_template (gst_element_class_get_pad_template (klass, "sink"), "sink");
  self->src = gst_pad_new_from_template (gst_element_class_get_pad_template (klass, "src"), "src");
  gst_pad_set_chain_function (self->sink, kdbatch_chain);
  gst_pad_set_event_function (self->sink, kdbatch_sink_event);
  gst_pad_set_query_function (self->sink, kdbatch_sink_query);
  gst_pad_set_event_function (self->src, kdbatch_src_event);
  gst_element_add_pad (GST_ELEMENT (self), self->sink);
  gst_element_add_pad (GST_ELEMENT (self), self->src);
}

KD_PLUGIN_DEFINE ("kdstream raw media to batches", return gst_element_register (plugin, "kdbatch", GST_RANK_NONE, kdbatch_get_type ());)
