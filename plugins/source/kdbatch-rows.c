/* The rows of kdbatch: pictures without strides, clips of one length, each numbered and labelled. */
#include "kdbatch.h"

#include <string.h>

void
kdbatch_drop_rows (Kdbatch *self)
{
  g_clear_pointer (&self->input, kd_tensor_unref);
  g_array_set_size (self->ids, 0);
  g_array_set_size (self->labels, 0);
  g_array_set_size (self->lengths, 0);
  self->n_rows = self->n_clip = 0;
}

static KdTensor *
number_tensor (const GArray *values)
{
  gint64 n = values->len;
  KdTensor *tensor = kd_tensor_new (KD_INT64, 1, &n);

  memcpy (tensor->data, values->data, tensor->n_bytes);
  return tensor;
}

GstFlowReturn
kdbatch_push (Kdbatch *self)
{
  KdBatch *batch;
  GstBuffer *buffer;

  if (self->n_rows == 0)
    return GST_FLOW_OK;
  buffer = kd_batch_buffer_new (self->n_rows, &batch);
  if (self->n_rows < self->input->dims[0]) {
    kd_batch_set (batch, "input", kd_tensor_slice (self->input, 0, self->n_rows));
  } else {
    kd_batch_set (batch, "input", g_steal_pointer (&self->input));
  }
  kd_batch_set (batch, "sample.id", number_tensor (self->ids));
  if (self->list)
    kd_batch_set (batch, "label", number_tensor (self->labels));
  if (self->is_audio)
    kd_batch_set (batch, "input.length", number_tensor (self->lengths));
  batch->index = GST_BUFFER_OFFSET (buffer) = self->index++;
  batch->cursor = (guint64) self->n_seen;
  kd_batch_update_size (buffer);
  kdbatch_drop_rows (self);
  return gst_pad_push (self->src, buffer);
}

/* Where the next row goes; the tensor is made when its first row comes. */
static gpointer
row_memory (Kdbatch *self)
{
  gint64 dims[] = { self->params->batch_size, self->channels, self->is_audio ? self->params->samples : self->video.height, self->video.width };

  if (!self->input)
    self->input = kd_tensor_new (self->is_audio ? KD_FLOAT32 : KD_UINT8, self->is_audio ? 3 : 4, dims);
  return (guint8 *) self->input->data + (gsize) self->n_rows * (self->input->n_bytes / (gsize) dims[0]);
}

/* A row is in place: number and label it; FALSE with an error for one without a line in the list. */
static gboolean
end_row (Kdbatch *self, gint64 id, gint64 length, GstFlowReturn *ret_flow, GError **error)
{
  *ret_flow = GST_FLOW_OK;
  self->n_seen = id + 1;
  self->n_clip = 0;
  if (self->list && id >= self->list->n) {
    g_set_error (error, KD_ERROR, KD_ERROR_MISMATCH, "More samples than lines: element=%s, list=\"%s\", lines=%" G_GINT64_FORMAT ", "
                                                     "sample=%" G_GINT64_FORMAT "; every sample needs a line",
        GST_OBJECT_NAME (self), self->list->path, self->list->n, id);
    return FALSE;
  }
  if (self->resume.skip && self->resume.skip (self->resume.skip_data, id, 0))
    return TRUE;
  g_array_append_val (self->ids, id);
  g_array_append_val (self->lengths, length);
  if (self->list)
    g_array_append_val (self->labels, self->list->label[id]);
  if (++self->n_rows == self->params->batch_size)
    *ret_flow = kdbatch_push (self);
  return TRUE;
}

/* With a side list, the frame's number by its time stamp must be its place in the list: a decoder that leaves a broken frame out would else
 * shift the labels of all after it. */
static gboolean
check_place (Kdbatch *self, GstBuffer *buffer, GError **error)
{
  guint64 rate = (guint64) MAX (self->video.fps_n, 0), scale = (guint64) MAX (self->video.fps_d, 0);
  gint64 place;

  if (!self->list || !GST_BUFFER_PTS_IS_VALID (buffer) || rate == 0 || scale == 0)
    return TRUE;
  place = (gint64) gst_util_uint64_scale_round (GST_BUFFER_PTS (buffer), rate, scale * GST_SECOND);
  if (place == self->n_seen)
    return TRUE;
  g_set_error (error, KD_ERROR, KD_ERROR_MISMATCH, "Frame missing: element=%s, wanted=%" G_GINT64_FORMAT ", came=%" G_GINT64_FORMAT ", "
                                                   "line=\"%.200s\"; it could not be decoded: replace it, or take it and its line out",
      GST_OBJECT_NAME (self), self->n_seen, place, self->n_seen < self->list->n ? self->list->names[self->n_seen] : "(none)");
  return FALSE;
}

/* Rows with a stride and pixels together, to planes without one. */
gboolean
kdbatch_take_frame (Kdbatch *self, GstBuffer *buffer, GstFlowReturn *ret_flow, GError **error)
{
  GstVideoFrame frame;
  gint width = self->video.width, height = self->video.height, n = (gint) self->channels;
  guint8 *to = row_memory (self);
  gint64 id = self->n_seen;

  if (!check_place (self, buffer, error))
    return FALSE;
  if (!gst_video_frame_map (&frame, &self->video, buffer, GST_MAP_READ)) {
    g_set_error (error, KD_ERROR, KD_ERROR_FORMAT, "Frame is no picture of its caps: element=%s, frame=%" G_GINT64_FORMAT ", "
                                                   "bytes=%" G_GSIZE_FORMAT ", size=%dx%d",
        GST_OBJECT_NAME (self), id, gst_buffer_get_size (buffer), width, height);
    return FALSE;
  }
  for (gint y = 0; y < height; y++) {
    const guint8 *row = (const guint8 *) GST_VIDEO_FRAME_PLANE_DATA (&frame, 0) + (gsize) y * (gsize) GST_VIDEO_FRAME_PLANE_STRIDE (&frame, 0);
    for (gint c = 0; c < n; c++)
      for (gint x = 0; x < width; x++)
        to[((gsize) c * (gsize) height + (gsize) y) * (gsize) width + (gsize) x] = row[x * n + c];
  }
  gst_video_frame_unmap (&frame);
  return end_row (self, id, 0, ret_flow, error);
}

/* The clip ends here: silence up to its length. */
gboolean
kdbatch_end_clip (Kdbatch *self, GstFlowReturn *ret_flow, GError **error)
{
  gfloat *row = row_memory (self);
  gint64 length = self->n_clip;

  memset (row + length, 0, (gsize) (self->params->samples - length) * sizeof *row);
  return end_row (self, self->n_seen, length, ret_flow, error);
}

gboolean
kdbatch_take_sound (Kdbatch *self, GstBuffer *buffer, GstFlowReturn *ret_flow, GError **error)
{
  GstMapInfo map;
  gsize size = GST_AUDIO_INFO_BPF (&self->audio), n;
  gboolean ok = TRUE;

  *ret_flow = GST_FLOW_OK;
  if (!gst_buffer_map (buffer, &map, GST_MAP_READ)) {
    g_set_error (error, KD_ERROR, KD_ERROR_IO, "Cannot read sound: element=%s, clip=%" G_GINT64_FORMAT, GST_OBJECT_NAME (self), self->n_seen);
    return FALSE;
  }
  n = map.size / size;
  for (gsize i = 0; ok && *ret_flow == GST_FLOW_OK && i < n;) {
    gfloat *row = (gfloat *) row_memory (self) + self->n_clip;
    gsize take = MIN (n - i, (gsize) (self->params->samples - self->n_clip));
    if (size == sizeof (gfloat))
      memcpy (row, map.data + i * size, take * size);
    else
      for (gsize j = 0; j < take; j++)
        row[j] = (gfloat) (gint16) GST_READ_UINT16_LE (map.data + (i + j) * size) / 32768.0f;
    self->n_clip += (gint64) take;
    i += take;
    if (self->n_clip == self->params->samples && self->params->clip != KDBATCH_CLIP_WINDOW)
      break; /* what is longer than a clip is cut */
    if (self->n_clip == self->params->samples)
      ok = kdbatch_end_clip (self, ret_flow, error);
  }
  gst_buffer_unmap (buffer, &map);
  if (ok && self->params->clip == KDBATCH_CLIP_BUFFER && n > 0)
    ok = kdbatch_end_clip (self, ret_flow, error);
  return ok;
}
