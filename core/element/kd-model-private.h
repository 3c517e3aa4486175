/* Internal: what the forward half (kd-model-element.c) and the backward half (kd-model-backward.c) of a model in the stream share. */
#pragma once
#include "kd-model-element.h"

G_BEGIN_DECLS

typedef struct {
  gchar *arch;
  gchar *model;
  gchar *weights;
  gchar *engine;
  gchar *features;
  gchar *save;
  guint64 seed;
  gboolean trainable;
  gdouble lr_scale;
} KdModelOptions;

/* One value that leaves the model: the logits or a tapped layer. */
typedef struct {
  const gchar *tap;   /* NULL: the output */
  const gchar *field; /* interned */
  const gchar *grad;  /* interned "grad.<field>" */
} KdModelOutput;

#define KD_MODEL_MAX_OUTPUTS 16

typedef struct {
  KdModel *model;
  guint input_rank;
  gint64 input_dims[KD_MAX_RANK];
  const gchar *input;      /* field */
  const gchar *input_grad; /* "grad.<input>", or NULL where no gradient may go */
  KdModelOutput outputs[KD_MODEL_MAX_OUTPUTS];
  guint n_outputs;
  GError *stale;   /* only-missing: the rows that are there are another teacher's; told with the first batch that has some to add */
  gint in_flight;  /* atomic: tapes alive */
  gpointer thread; /* atomic: GThread that brought the last batch */
  gint elsewhere;  /* atomic: gradients come in another thread */
} KdModelState;

typedef struct {
  KdForward *forward;
  KdVar *input;
  KdVar *vars[KD_MODEL_MAX_OUTPUTS];
  gint *in_flight;
} KdTape;

/** kd_model_run_backward: gradients of the batch's outputs into parameters, and into the input where that is the student's. */
gboolean kd_model_run_backward (KdElement *self, KdModelState *state, const KdModelOptions *options, KdBackward *backward, GError **error);
/** kd_model_run_probe: see KdProbe; leaves the parameters' gradients and the tape as they are. */
gboolean kd_model_run_probe (KdElement *self, KdModelState *state, gboolean student, KdBackward *backward, GError **error);
/** kd_model_run_lookahead: see KdLookahead; leaves parameters, gradients and tapes as they are. */
void kd_model_run_lookahead (KdElement *self, KdModelState *state, const KdModelOptions *options, KdLookaheadCall *call);
/** kd_model_run_reduce: gradients summed over the processes of the run, their squares added up. */
gboolean kd_model_run_reduce (KdModelState *state, const KdModelOptions *options, KdReduce *reduce, GError **error);
/* only-missing: kd-model-missing.c. Rows with cache.hit FALSE are computed and put among those that a cache has. */
/** kd_model_missing_check: whether @in has cache.hit and every output, of the model's shape. */
gboolean kd_model_missing_check (KdElement *self, const KdModelState *state, const KdLayout *in, const KdLayout *out, GError **error);
/** kd_model_missing_identify: keeps in state->stale that the stream's teacher is not @fingerprint. */
void kd_model_missing_identify (KdElement *self, KdModelState *state, const GstStructure *identity, const gchar *fingerprint, const gchar *spec);
/** kd_model_run_missing: one batch. */
gboolean kd_model_run_missing (KdElement *self, KdModelState *state, guint64 seed, KdBatch *batch, GError **error);
/** kd_model_run_step: the optimiser's step, with the element's lr-scale. */
void kd_model_run_step (KdModelState *state, const KdModelOptions *options, KdStepCall *call);

G_END_DECLS
