/* Inside kdbatch: the element, its rows, its side lists. */
#pragma once
#include <gst/audio/audio.h>
#include <gst/video/video.h>
#include <kd/kd.h>

G_BEGIN_DECLS

typedef enum { KD_LABEL_FROM_FOLDER,
  KD_LABEL_FROM_PREFIX } KdLabelFrom;

/** KdLabelList: labels by index; of a list of paths, the paths too. */
typedef struct {
  gchar *path;   /* of the list, for messages */
  gint64 *label; /* [n] */
  gchar **names; /* lines of the file */
  gint64 n;
} KdLabelList;

/** kd_label_list_read: a text file with a label a line: whole numbers as they are, or names of classes, numbered in sorted order. */
KdLabelList *kd_label_list_read (const gchar *path, GError **error);
/** kd_label_list_read_paths: a text file with a file's path a line: the class is the parent folder's name, or the file's name up to '_'. */
KdLabelList *kd_label_list_read_paths (const gchar *path, KdLabelFrom from, GError **error);
void kd_label_list_free (KdLabelList *list);
G_DEFINE_AUTOPTR_CLEANUP_FUNC (KdLabelList, kd_label_list_free)

typedef enum { KDBATCH_CLIP_WINDOW,
  KDBATCH_CLIP_BUFFER,
  KDBATCH_CLIP_SEGMENT } KdbatchClip;

typedef struct {
  gint64 batch_size;
  gchar *labels, *location_list;
  gint label_from, clip;
  gint64 samples;
} KdbatchParams;

typedef struct {
  GstElement parent;
  GstPad *sink, *src;
  KdProperties properties;
  KdbatchParams *params; /* snapshot between READY and the end */
  KdLabelList *list;
  gboolean is_audio, have_caps;
  GstVideoInfo video;
  GstAudioInfo audio;
  guint channels;
  /* the batch in the making */
  KdTensor *input;
  GArray *ids, *labels, *lengths; /* of gint64 */
  gint64 n_rows, n_clip;          /* whole rows; samples of the clip in the making */
  gint64 n_seen;                  /* pictures or clips in all */
  guint64 index;
  GstFlowReturn flow; /* what the last buffer came to */
  gboolean ready;     /* identity sent, resume asked */
  KdResume resume;
} Kdbatch;

/** kdbatch_drop_rows: forget the batch in the making. */
void kdbatch_drop_rows (Kdbatch *self);
/** kdbatch_push: send the rows there are; nothing when there is none. */
GstFlowReturn kdbatch_push (Kdbatch *self);
/** kdbatch_take_frame, kdbatch_take_sound: a buffer's rows; FALSE with an error, else what pushing gave in *@ret_flow. */
gboolean kdbatch_take_frame (Kdbatch *self, GstBuffer *buffer, GstFlowReturn *ret_flow, GError **error);
gboolean kdbatch_take_sound (Kdbatch *self, GstBuffer *buffer, GstFlowReturn *ret_flow, GError **error);
/** kdbatch_end_clip: sound: the clip in the making ends here; zeros up to its length. */
gboolean kdbatch_end_clip (Kdbatch *self, GstFlowReturn *ret_flow, GError **error);

G_END_DECLS
