/* KdBatch: the table of named tensors that travels on a GstBuffer as a GstMeta. */
#pragma once
#include <gst/gst.h>
#include "kd-layout.h"
#include "kd-tensor.h"

G_BEGIN_DECLS

typedef enum {
  KD_BATCH_VALIDATION = 1 << 0, /* nothing may train on it */
  KD_BATCH_LAST_OF_EPOCH = 1 << 1,
} KdBatchFlags;

/** KdBatchField: one row of the table. @n_reads counts who used it; a teacher field nobody read is an error at the end. */
typedef struct {
  const gchar *name; /* interned */
  KdTensor *tensor;
  guint n_reads;
} KdBatchField;

/**
 * KdBatch:
 * @n_samples: N, the first axis of every field that has one
 * @epoch: from 0
 * @index: of the batch in the run, from 0, over all epochs
 * @cursor: rows of this epoch that the source had given out after this batch; where a resumed run goes on
 * @n_counted: rows that the losses counted, 0 before any did, NaN when they disagree (gradient accumulation needs it)
 * @fields: in the order of their making
 *
 * Lives as a GstMeta on a GstBuffer whose single, non-mappable GstMemory has the size of all tensors together, so that
 * `queue max-size-bytes` bounds real memory. Not thread-safe: one element has the batch at a time.
 */
typedef struct {
  GstMeta meta;
  gint64 n_samples;
  guint epoch;
  guint64 index;
  guint64 cursor;
  KdBatchFlags flags;
  gdouble n_counted;
  /*< private >*/
  GArray *fields;   /* of KdBatchField */
  GPtrArray *notes; /* of KdBatchNote: tapes and the like */
} KdBatch;

KD_API GType kd_batch_api_get_type (void);
KD_API const GstMetaInfo *kd_batch_get_info (void);

/** kd_batch_buffer_new: (transfer full) an empty batch of @n_samples; @ret_batch (transfer none) is its table. */
KD_API GstBuffer *kd_batch_buffer_new (gint64 n_samples, KdBatch **ret_batch);
/** kd_batch_get: (transfer none) the batch of a buffer, or NULL. */
KD_API KdBatch *kd_batch_get (GstBuffer *buffer);

KD_API guint kd_batch_n_fields (const KdBatch *batch);
KD_API const KdBatchField *kd_batch_nth (const KdBatch *batch, guint i);
/** kd_batch_peek: (transfer none) the tensor called @name, or NULL; does not count as a use. */
KD_API KdTensor *kd_batch_peek (const KdBatch *batch, const gchar *name);
/** kd_batch_read: the same, counted as a use of the field. */
KD_API KdTensor *kd_batch_read (KdBatch *batch, const gchar *name);
/** kd_batch_set: add or replace; @tensor (transfer full). Resets the use count. */
KD_API void kd_batch_set (KdBatch *batch, const gchar *name, KdTensor *tensor);
/** kd_batch_steal: (transfer full) take a field out, or NULL. */
KD_API KdTensor *kd_batch_steal (KdBatch *batch, const gchar *name);
KD_API void kd_batch_remove (KdBatch *batch, const gchar *name);
/** kd_batch_take_rows: keep @rows [n] of every field with a samples' axis (a selection or an order); notes are dropped. */
KD_API void kd_batch_take_rows (KdBatch *batch, const gint64 *rows, gint64 n);
/** kd_batch_layout: (transfer full) the layout that these tensors have, varying axes as their present size. */
KD_API KdLayout *kd_batch_layout (const KdBatch *batch);

/** kd_batch_update_size: make the buffer's size the sum of the tensors' (base classes call it after an element ran). */
KD_API void kd_batch_update_size (GstBuffer *buffer);

/** kd_batch_set_note: hang an object on the batch under @key (an element's tape); replaces, freed with the batch. */
KD_API void kd_batch_set_note (KdBatch *batch, gconstpointer key, gpointer object, GDestroyNotify free_func);
KD_API gpointer kd_batch_get_note (const KdBatch *batch, gconstpointer key);
/** kd_batch_drop_note: free it now. */
KD_API void kd_batch_drop_note (KdBatch *batch, gconstpointer key);

G_END_DECLS
