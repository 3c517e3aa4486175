/* What elements tell each other beside batches: epochs, identity, backward, step, checkpoints. All of them are custom
 * events and queries, so every graph runs under plain gst-launch-1.0. */
#pragma once
#include <gst/gst.h>
#include "../batch/kd-batch.h"
#include "../model/kd-params.h"
#include "../model/kd-world.h"

G_BEGIN_DECLS

/* Downstream, serialized: the end of an epoch. */
#define KD_EVENT_EPOCH "kd-epoch"
/* Downstream, sticky: what the rows came through; strings dataset, dataset-spec, teacher, teacher-spec, preprocessing; int64 n-rows and
 * n-batches (of this process's run, 0 unknown), n-rows-all (of all processes), shard-index and shard-count of the source. Each element adds to it. */
#define KD_EVENT_IDENTITY "kd-identity"
/* Upstream, from kdtrain, in its streaming thread. */
#define KD_EVENT_BACKWARD "kd-backward"
#define KD_EVENT_REDUCE "kd-reduce"
#define KD_EVENT_STEP "kd-step"
/* Upstream, from a loss, in the thread that brought it the batch: the model that makes one of its inputs answers. */
#define KD_EVENT_LOOKAHEAD "kd-lookahead"
#define KD_EVENT_SAVE "kd-save"
/* Upstream, from kdtrain, after the last step of the run: models write what they were told to. */
#define KD_EVENT_FINISH "kd-finish"
/* Query, from the source downstream, answered by the sink, before the first batch. */
#define KD_QUERY_RESUME "kd-resume"
/* Query downstream: does a trainer end this graph? */
#define KD_QUERY_TRAINER "kd-trainer"

/** KdCheckpoint: states by element name: each a table of named tensors. Refcounted. */
typedef struct _KdCheckpoint KdCheckpoint;
#define KD_TYPE_CHECKPOINT (kd_checkpoint_get_type ())
KD_API GType kd_checkpoint_get_type (void);
KD_API KdCheckpoint *kd_checkpoint_new (void);
KD_API KdCheckpoint *kd_checkpoint_ref (KdCheckpoint *checkpoint);
KD_API void kd_checkpoint_unref (KdCheckpoint *checkpoint);
G_DEFINE_AUTOPTR_CLEANUP_FUNC (KdCheckpoint, kd_checkpoint_unref)
/** kd_checkpoint_table: (transfer none) name -> KdTensor of @element; made when missing and @create. Both are owned by the table. */
KD_API GHashTable *kd_checkpoint_table (KdCheckpoint *checkpoint, const gchar *element, gboolean create);
KD_API gboolean kd_checkpoint_save (KdCheckpoint *checkpoint, const gchar *path, GError **error);
KD_API KdCheckpoint *kd_checkpoint_load (const gchar *path, GError **error);
/* A tensor of one number, for states. */
KD_API void kd_state_set_int (GHashTable *table, const gchar *name, gint64 value);
KD_API gint64 kd_state_get_int (GHashTable *table, const gchar *name, gint64 fallback);
KD_API void kd_state_set_double (GHashTable *table, const gchar *name, gdouble value);
KD_API gdouble kd_state_get_double (GHashTable *table, const gchar *name, gdouble fallback);

/** KdProbe: inside kd-backward of a kdgradcos: what a term alone leaves in the students' parameters whose name matches @pattern. Nothing
 * of it stays in a model, and its own backward pass comes after. */
typedef struct {
  GPatternSpec *pattern;
  GArray *grads;    /* of float, appended by each student */
  guint n_students; /* that made something of the batch */
} KdProbe;

/**
 * KdBackward: travels upstream by pointer inside kd-backward (the sender waits, so no copy).
 * @max_in_flight: batches that may be between a model and the trainer
 * @n_taken: how many models took part
 * @probe: NULL, or only look
 * @failed: whoever failed has posted why; the sender posts nothing more then
 */
typedef struct {
  GstBuffer *buffer;
  KdBatch *batch;
  gdouble scale; /* of this micro batch in the step's mean */
  guint max_in_flight;
  guint n_taken;
  KdProbe *probe;
  gboolean failed;
} KdBackward;

/** KdLookaheadCall: inside kd-lookahead: @ahead is a KdLookahead (kd-desc.h). @error: why the model could not, for the sender to post. */
typedef struct {
  const KdBatch *batch;
  gpointer ahead;
  gboolean taken;
  GError *error;
} KdLookaheadCall;

/** KdReduce: inside kd-reduce, before each step: every model that learns sums its gradients over the processes of the run and adds their squares. */
typedef struct {
  gdouble grad_norm2;
  gboolean failed;
} KdReduce;

/** KdStepCall: inside kd-step: every model steps its optimiser with its own lr-scale. */
typedef struct {
  KdStep step;
  guint n_stepped;
  gsize n_trainable;
} KdStepCall;

/** KdSaveCall: inside kd-save: every element with state puts it in. @epoch, @cursor, @index: of the last batch that was trained on (batches
 * under way in a queue do not count). */
typedef struct {
  KdCheckpoint *checkpoint;
  guint epoch;
  guint64 cursor;
  guint64 index;
  gboolean failed;
} KdSaveCall;

/** KdSkip: rows a sink has already; a source leaves them out. */
typedef gboolean (*KdSkipFunc) (gpointer user_data, gint64 id, gint64 view);

/** KdResume: inside kd-resume: the sink fills in what there is to go on from. */
typedef struct {
  KdCheckpoint *checkpoint; /* or NULL; (transfer full) to the querier */
  KdSkipFunc skip;          /* or NULL */
  gpointer skip_data;       /* alive as long as the sink is not stopped */
  gint64 views;             /* -1, or the `views` of an augmentation between source and sink */
  gboolean failed;          /* an element refused its state and has posted why */
} KdResume;

/* Makers; the pointer is valid while the push or query lasts. */
KD_API GstEvent *kd_event_new_pointer (GstEventType type, const gchar *name, gpointer call);
KD_API gpointer kd_event_get_pointer (GstEvent *event, const gchar *name); /* NULL when it is another event */
KD_API GstQuery *kd_query_new_pointer (const gchar *name, gpointer call);
KD_API gpointer kd_query_get_pointer (GstQuery *query, const gchar *name);

G_END_DECLS
