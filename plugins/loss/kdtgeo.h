/* Internal to kdtgeo: its controller, a network of three layers in plain C, and its outer step. */
#pragma once
#include <kd/kd.h>

/* Arrays of the controller, in the order in which they lie in memory. */
enum { KD_TGEO_FC1_WEIGHT,
  KD_TGEO_FC1_BIAS,
  KD_TGEO_FC2_WEIGHT,
  KD_TGEO_FC2_BIAS,
  KD_TGEO_FC3_WEIGHT,
  KD_TGEO_FC3_BIAS,
  KD_TGEO_N_PARTS };

/* The layers x [size] -> [hidden1] -> [hidden2] -> one number, leaky ReLU between them. @size 0: not made yet. */
typedef struct {
  gint64 size, hidden1, hidden2;
  gint64 step; /* of Adam */
  gfloat *values, *moment1, *moment2;
} KdTgeoController;

/** kd_tgeo_controller_make: draws every number uniform in +-1/sqrt (fan-in). */
void kd_tgeo_controller_make (KdTgeoController *self, gint64 size, gint64 hidden1, gint64 hidden2, guint64 seed);
void kd_tgeo_controller_clear (KdTgeoController *self);
gsize kd_tgeo_controller_n (const KdTgeoController *self);
/** kd_tgeo_controller_part: where the array @part begins among all numbers; its rank and dims. */
gsize kd_tgeo_controller_part (const KdTgeoController *self, guint part, guint *ret_rank, gint64 *ret_dims);
/** kd_tgeo_controller_name: "controller.fc1.weight". */
const gchar *kd_tgeo_controller_name (guint part);
/** kd_tgeo_controller_forward: the output for @x [size]; @ret_hidden [hidden1 + hidden2]: what the layers gave, for backward. */
gdouble kd_tgeo_controller_forward (const KdTgeoController *self, gdouble slope, const gdouble *x, gdouble *ret_hidden);
/** kd_tgeo_controller_backward: adds the gradient of the numbers to @grad [n], @up being that of the output. @room: [hidden1 + hidden2]. */
void kd_tgeo_controller_backward (const KdTgeoController *self, gdouble slope, const gdouble *x, const gdouble *hidden, gdouble up, gdouble *room,
    gdouble *grad);
/** kd_tgeo_controller_adam: one step of torch.optim.Adam (betas 0.9, 0.999, epsilon 1e-8; @weight_decay is added to the gradient). */
void kd_tgeo_controller_adam (KdTgeoController *self, const gdouble *grad, gdouble learning_rate, gdouble weight_decay);
void kd_tgeo_controller_save (const KdTgeoController *self, GHashTable *table);
/** kd_tgeo_controller_load: a table without a controller leaves none made. */
gboolean kd_tgeo_controller_load (KdTgeoController *self, gint64 hidden1, gint64 hidden2, GHashTable *table, GError **error);

enum { KD_TGEO_MEAN_TABLE,
  KD_TGEO_MEAN_BATCH };
enum { KD_TGEO_ST = 1,
  KD_TGEO_SG = 2,
  KD_TGEO_TG = 4,
  KD_TGEO_INTER = 8 };
enum { KD_TGEO_CHECK_IDS,
  KD_TGEO_CHECK_INPUTS,
  KD_TGEO_CHECK_NONE };
/* Fields that it reads; from CONTROLLER on the controller's arrays in their order. */
enum { KD_TGEO_STUDENT,
  KD_TGEO_TEACHER,
  KD_TGEO_LABEL,
  KD_TGEO_CLASS_MEAN,
  KD_TGEO_JVP,
  KD_TGEO_CONTROLLER };

typedef struct {
  gdouble temperature, leaky_slope, controller_lr, controller_weight_decay, inner_lr;
  gint class_mean, validation_check;
  gchar *class_mean_location, *validation;
  gint64 hidden1, hidden2, meta_every, validation_first, validation_count, validation_batch_size;
  guint relations; /* KD_TGEO_ST ... */
  gboolean diagnostics;
  guint64 seed;
} KdTgeoParams;

typedef struct {
  KdTgeoController controller;
  KdTensor *class_mean;               /* [C,C] of class-mean-location, or NULL */
  KdTensor *input, *label;            /* held-out rows, or NULL */
  KdTensor *held_id;                  /* their sample.id, or NULL */
  GHashTable *held_ids, *held_inputs; /* id or bytes -> row of the file; NULL when not compared */
  gint64 n_skipped;                   /* updates that were not finite */
  gdouble outer;                      /* the held-out rows' loss when last looked at */
} KdTgeoState;

/* What the inner loss of a batch has found, by row. */
typedef struct {
  gint64 n, n_classes;
  gdouble *alpha;     /* [n] */
  gdouble *pre;       /* [n] the controller's output, before the limit of +-30 */
  gdouble *x;         /* [n, 9 n_classes] the triangle's numbers */
  gdouble *hidden;    /* [n, hidden1 + hidden2] */
  gdouble *direction; /* [n, n_classes] T (p - q) - (S - G): how alpha changes the gradient */
  gdouble *kd, *ce;   /* [n] t^2 KL and the cross-entropy */
  KdTensor *grad;     /* of the inner loss in student.logits */
} KdTgeoRows;
void kd_tgeo_rows_clear (KdTgeoRows *rows);
G_DEFINE_AUTO_CLEANUP_CLEAR_FUNC (KdTgeoRows, kd_tgeo_rows_clear)
/** kd_tgeo_rows_run: the inner level of a batch; rows that do not count stay 0. */
gboolean kd_tgeo_rows_run (const KdCall *call, KdTgeoRows *ret, GError **error);

#define KD_TGEO_LIMIT 30.0

/** kd_tgeo_open: reads the files that the parameters name. */
gboolean kd_tgeo_open (const KdTgeoParams *p, KdTgeoState *state, GError **error);
/** kd_tgeo_outer_step: the one-step gradient of the held-out rows' loss in alpha @ret_alpha [n] and in the controller @ret_grad [n numbers], from
 * the movement @jvp of the logits, which is asked for when it is NULL. *@ret_done FALSE: nobody to ask, or an answer that is not finite. */
gboolean kd_tgeo_outer_gradient (const KdCall *call, const KdTgeoRows *rows, const KdTensor *jvp, gdouble *ret_alpha, gdouble *ret_grad, gboolean *ret_done,
    GError **error);

/** kd_tgeo_disjoint_open: remembers the held-out rows of @state, whose file is @reader. */
gboolean kd_tgeo_disjoint_open (const KdTgeoParams *p, KdTgeoState *state, KdH5Reader *reader, GError **error);
/** kd_tgeo_disjoint_check: no row of the batch is a held-out row (KD_ERROR_VALUE). */
gboolean kd_tgeo_disjoint_check (const KdCall *call, GError **error);
