/* kdlelpfit's own two files share this: the sums over the stream, and what is made of them. */
#pragma once
#include <kd/kd.h>

enum { KD_LELP_TEACHER,
  KD_LELP_LABEL };

typedef struct {
  gint64 subclasses;
  gboolean null_space, rotate, normalize, subspace;
  gint assign;
  guint64 seed;
  gchar *location, *teacher_field, *classifier, *parameter;
} KdLelpFitParams;

enum { KD_LELP_PROJECTOR,
  KD_LELP_MEAN,
  KD_LELP_DIRECTIONS,
  KD_LELP_SCALE,
  KD_LELP_VARIANCE,
  KD_LELP_PCA_DIRECTIONS,
  KD_LELP_PCA_VARIANCE,
  KD_LELP_SUBSPACE };

typedef struct {
  KdTensor *weight;   /* [C D] or NULL */
  KdTensor *rotation; /* [C S S] or NULL */
  gint64 n_classes, size;
  gint64 n_rows, told; /* assigned; and when the message was posted */
  gint64 *count;       /* [C]; NULL before the first batch */
  gdouble *sum;        /* [C D], of the embeddings as they are */
  gdouble *outer;      /* [C D D], lower triangles of the sums of h h^T */
} KdLelpFitState;

/* The fit, from the sums. */
gboolean kd_lelp_fit_conclude (const KdCall *call, KdOutputs *ret, GError **error);
