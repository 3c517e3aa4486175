/* kdtrain's own two files share this: the trainer and its reports. */
#pragma once
#include <kd/kd.h>

enum { KD_SCHEDULE_CONSTANT,
  KD_SCHEDULE_LINEAR,
  KD_SCHEDULE_COSINE };

typedef struct {
  gint optimizer;
  gdouble learning_rate;
  gdouble weight_decay;
  gdouble momentum;
  gboolean nesterov;
  gdouble beta1;
  gdouble beta2;
  gdouble epsilon;
  gint schedule;
  gint64 warmup_steps;
  gint64 total_steps;
  gdouble final_learning_rate;
  gdouble clip_norm;
  gint64 accumulate;
  gchar *checkpoint;
  gint64 checkpoint_every;
  gboolean resume;
  gint64 report_every;
  gint64 max_in_flight;
} KdTrainParams;

typedef struct {
  KdSink parent;
  guint64 step;     /* taken */
  guint64 micro;    /* batches of the step under way */
  gdouble counted;  /* rows that count in it, on all ranks */
  gboolean drained; /* all ranks are at the end of the epoch */
  gboolean checked; /* the first batch's fields were all used */
  gboolean trained; /* on a batch at least, in this process */
  guint epoch;      /* of the last batch trained on; with cursor and index the place to resume at */
  guint64 cursor, index;
  guint64 samples, first_sample; /* trained on: in all, before this process */
  guint64 n_batches, n_rows;     /* of the whole run, as announced; 0 unknown */
  gdouble last_norm, last_rate;
  gint64 started_us, shown_us;
  GHashTable *window; /* name -> running mean since the last report */
  GHashTable *validation;
} KdTrain;

typedef struct {
  KdSinkClass parent;
} KdTrainClass;

GType kd_train_get_type (void);
#define KD_TRAIN(object) ((KdTrain *) (object))

/* Many processes (mpirun): every rank takes every step, and nobody may leave the others waiting. Alone both cost nothing. */
/** kd_train_join: this rank's next batch beside those of the others; @ret_total rows count in all. */
gboolean kd_train_join (KdTrain *self, const KdBatch *batch, gdouble *ret_total, GError **error);
/** kd_train_drain: at the end of an epoch: take part in the steps of ranks that still have a batch. */
gboolean kd_train_drain (KdTrain *self, GError **error);
/** kd_train_end_slot: the batches of all ranks are in: step when it is time. */
gboolean kd_train_end_slot (KdTrain *self, gdouble total, GError **error);

/* Reports: means over the batches since the last one, posted as element messages. @share: of this rank's rows in those of all ranks. */
void kd_train_report_reset (KdTrain *self);
void kd_train_report_batch (KdTrain *self, KdBatch *batch, gdouble share);
void kd_train_report_validation (KdTrain *self, KdBatch *batch);
gboolean kd_train_report_step (KdTrain *self, GError **error);
void kd_train_report_epoch (KdTrain *self, guint epoch);
