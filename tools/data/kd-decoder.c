/* Still images to RGB planes through GStreamer's decoders. The bytes are pushed through the elements in the caller's thread: when the push
 * returns the picture is here or it never comes, so a broken file is told by its name without waiting. */
#include "kd-data.h"

#include <gst/video/video.h>
#include <string.h>

typedef struct {
  const gchar *kind, *caps, *decoder, *package;
} Kind;

static const Kind kinds[] = {
  { "jpeg", "image/jpeg, framerate=(fraction)1/1, parsed=(boolean)true", "jpegdec", "gstreamer1.0-plugins-good" },
  { "png", "image/png, framerate=(fraction)1/1", "pngdec", "gstreamer1.0-plugins-good" },
  { "webp", "image/webp, framerate=(fraction)1/1", "webpdec", "gstreamer1.0-plugins-bad" },
};

/* A chain of elements for one kind of image, kept for all images of the kind. */
typedef struct {
  GstElement *bin;
  GstBus *bus;
  GstPad *in, *out; /* ours: what we push from, where pictures arrive */
  guint64 n_pushed;
} Chain;

struct _KdDecoder {
  Chain chain[G_N_ELEMENTS (kinds)];
  gint width, height; /* wanted; 0 until the first image */
  gboolean scale;
  GstBuffer *picture; /* what arrived */
  GstCaps *caps;
};

KdDecoder *
kd_decoder_new (gint width, gint height)
{
  KdDecoder *decoder = g_new0 (KdDecoder, 1);

  decoder->width = width;
  decoder->height = height;
  decoder->scale = width > 0;
  return decoder;
}

static void
chain_clear (Chain *chain)
{
  if (!chain->bin)
    return;
  gst_pad_set_active (chain->in, FALSE);
  gst_element_set_state (chain->bin, GST_STATE_NULL);
  gst_pad_set_active (chain->out, FALSE);
  gst_element_set_bus (chain->bin, NULL);
  gst_object_unref (chain->bus);
  gst_object_unref (chain->bin);
  gst_object_unref (chain->in);
  gst_object_unref (chain->out);
  memset (chain, 0, sizeof *chain);
}

void
kd_decoder_free (KdDecoder *decoder)
{
  if (!decoder)
    return;
  for (guint i = 0; i < G_N_ELEMENTS (kinds); i++)
    chain_clear (&decoder->chain[i]);
  gst_clear_caps (&decoder->caps);
  gst_clear_buffer (&decoder->picture);
  g_free (decoder);
}

static GstFlowReturn
on_picture (GstPad *pad, GstObject *parent, GstBuffer *buffer)
{
  KdDecoder *decoder = gst_pad_get_element_private (pad);

  gst_clear_buffer (&decoder->picture);
  decoder->picture = buffer;
  return GST_FLOW_OK;
}

static gboolean
on_event (GstPad *pad, GstObject *parent, GstEvent *event)
{
  KdDecoder *decoder = gst_pad_get_element_private (pad);
  GstCaps *caps;

  if (GST_EVENT_TYPE (event) == GST_EVENT_CAPS) {
    gst_event_parse_caps (event, &caps);
    gst_caps_replace (&decoder->caps, caps);
  }
  gst_event_unref (event);
  return TRUE;
}

static GstElement *
make_bin (const KdDecoder *decoder, const Kind *kind, GError **error)
{
  g_autofree gchar *size = decoder->scale ? g_strdup_printf (",width=%d,height=%d,pixel-aspect-ratio=1/1", decoder->width, decoder->height)
                                          : g_strdup ("");
  g_autofree gchar *text = g_strdup_printf ("%s ! videoconvert n-threads=1 ! videoscale add-borders=false ! capsfilter "
                                            "caps=\"video/x-raw,format=RGB%s\"",
      kind->decoder, size);
  GError *inner = NULL;
  GstElement *bin = gst_parse_bin_from_description_full (text, TRUE, NULL, GST_PARSE_FLAG_FATAL_ERRORS, &inner);

  if (bin)
    return gst_object_ref_sink (bin);
  g_set_error (error, KD_ERROR, KD_ERROR_UNSUPPORTED, "Cannot decode %s images: element=%s, reason=%s; install %s", kind->kind, kind->decoder,
      inner->message, kind->package);
  g_error_free (inner);
  return NULL;
}

static gboolean
chain_open (KdDecoder *decoder, guint which, GError **error)
{
  Chain *chain = &decoder->chain[which];
  g_autoptr (GstPad) sink = NULL, src = NULL;
  g_autoptr (GstCaps) caps = gst_caps_from_string (kinds[which].caps);
  GstSegment segment;

  if (chain->bin)
    return TRUE;
  if (!(chain->bin = make_bin (decoder, &kinds[which], error)))
    return FALSE;
  chain->bus = gst_bus_new ();
  gst_element_set_bus (chain->bin, chain->bus);
  chain->in = gst_object_ref_sink (gst_pad_new ("in", GST_PAD_SRC));
  chain->out = gst_object_ref_sink (gst_pad_new ("out", GST_PAD_SINK));
  gst_pad_set_element_private (chain->out, decoder);
  gst_pad_set_chain_function (chain->out, on_picture);
  gst_pad_set_event_function (chain->out, on_event);
  sink = gst_element_get_static_pad (chain->bin, "sink");
  src = gst_element_get_static_pad (chain->bin, "src");
  gst_pad_set_active (chain->out, TRUE);
  gst_pad_set_active (chain->in, TRUE);
  gst_pad_link_full (src, chain->out, GST_PAD_LINK_CHECK_NOTHING);
  gst_pad_link_full (chain->in, sink, GST_PAD_LINK_CHECK_NOTHING);
  gst_element_set_state (chain->bin, GST_STATE_PLAYING);
  gst_segment_init (&segment, GST_FORMAT_TIME);
  gst_pad_push_event (chain->in, gst_event_new_stream_start ("kd-data"));
  gst_pad_push_event (chain->in, gst_event_new_caps (caps));
  gst_pad_push_event (chain->in, gst_event_new_segment (&segment));
  return TRUE;
}

/* (transfer full) what the decoder said, or what can be said without it. */
static gchar *
chain_reason (Chain *chain)
{
  g_autoptr (GstMessage) message = gst_bus_pop_filtered (chain->bus, GST_MESSAGE_ERROR | GST_MESSAGE_WARNING);
  g_autoptr (GError) error = NULL;

  if (!message)
    return g_strdup ("the decoder gave no picture");
  if (GST_MESSAGE_TYPE (message) == GST_MESSAGE_ERROR)
    gst_message_parse_error (message, &error, NULL);
  else
    gst_message_parse_warning (message, &error, NULL);
  return g_strdup (error->message);
}

/* [H, W, 3] with its stride to [3, H, W]. */
static gboolean
take_planes (KdDecoder *decoder, const gchar *name, GByteArray *planes, gint *ret_width, gint *ret_height, GError **error)
{
  GstVideoInfo info;
  GstVideoFrame frame;
  gsize plane, at = planes->len;

  if (!decoder->caps || !gst_video_info_from_caps (&info, decoder->caps) ||
      !gst_video_frame_map (&frame, &info, decoder->picture, GST_MAP_READ)) {
    g_set_error (error, KD_ERROR, KD_ERROR_FORMAT, "Cannot read the decoded picture: file=\"%s\"", name);
    return FALSE;
  }
  *ret_width = GST_VIDEO_FRAME_WIDTH (&frame);
  *ret_height = GST_VIDEO_FRAME_HEIGHT (&frame);
  plane = (gsize) *ret_width * (gsize) *ret_height;
  g_byte_array_set_size (planes, (guint) (at + 3 * plane));
  for (gint y = 0; y < *ret_height; y++) {
    const guint8 *row = (const guint8 *) GST_VIDEO_FRAME_PLANE_DATA (&frame, 0) + (gsize) y * (gsize) GST_VIDEO_FRAME_PLANE_STRIDE (&frame, 0);
    guint8 *to = planes->data + at + (gsize) y * (gsize) *ret_width;
    for (gint x = 0; x < *ret_width; x++)
      for (gint c = 0; c < 3; c++)
        to[(gsize) c * plane + (gsize) x] = row[3 * x + c];
  }
  gst_video_frame_unmap (&frame);
  return TRUE;
}

static gboolean
check_size (KdDecoder *decoder, const gchar *name, gint width, gint height, GError **error)
{
  if (decoder->scale)
    return TRUE;
  if (decoder->width == 0) {
    decoder->width = width;
    decoder->height = height;
  }
  if (width == decoder->width && height == decoder->height)
    return TRUE;
  g_set_error (error, KD_ERROR, KD_ERROR_SHAPE, "Images differ in size: file=\"%s\", size=%dx%d, first image=%dx%d; scale them with --size WxH",
      name, width,
      height, decoder->width, decoder->height);
  return FALSE;
}

gboolean
kd_decoder_run (KdDecoder *decoder, GBytes *bytes, const gchar *name, GByteArray *planes, gint *ret_width, gint *ret_height, GError **error)
{
  gsize n;
  const guint8 *data = g_bytes_get_data (bytes, &n);
  gint width, height;
  const gchar *kind = kd_image_probe (data, n, name, &width, &height, error);
  guint which = 0;
  Chain *chain;
  GstBuffer *buffer;

  if (!kind || !check_size (decoder, name, width, height, error))
    return FALSE;
  while (!g_str_equal (kinds[which].kind, kind))
    which++;
  chain = &decoder->chain[which];
  if (!chain_open (decoder, which, error))
    return FALSE;
  buffer = gst_buffer_new_wrapped_bytes (bytes);
  GST_BUFFER_PTS (buffer) = chain->n_pushed++ * GST_SECOND;
  GST_BUFFER_DURATION (buffer) = GST_SECOND;
  gst_clear_buffer (&decoder->picture);
  gst_pad_push (chain->in, buffer);
  if (!decoder->picture) {
    g_autofree gchar *reason = chain_reason (chain);
    g_set_error (error, KD_ERROR, KD_ERROR_FORMAT, "Broken image: file=\"%s\", kind=%s, bytes=%zu, reason=%s; replace it or take it out", name,
        kind, n, reason);
    return FALSE;
  }
  return take_planes (decoder, name, planes, ret_width, ret_height, error);
}
