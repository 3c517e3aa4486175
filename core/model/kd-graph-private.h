/* A forward pass as kd-graph.c, kd-layers.c and kd-model.c see it; not installed. */
#pragma once
#include "kd-graph.h"

G_BEGIN_DECLS

struct _KdForward {
  KdEngine *engine;
  const KdEngineClass *klass;
  KdGraph *graph;
  KdParamSet *params;
  gboolean grad, training, has_random;
  KdRandom random;
  GError *error;    /* the first one; nothing runs after it */
  GString *scope;   /* "block1.conv." */
  GArray *marks;    /* gsize: lengths of scope to go back to */
  GPtrArray *param; /* KdVar by index of the set, NULL until asked for */
  GPtrArray *tap_names;
  GPtrArray *taps;
};

G_END_DECLS
