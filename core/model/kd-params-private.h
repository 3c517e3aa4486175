/* What kd-params.c, kd-optimizer.c and kd-safetensors.c share; not installed. */
#pragma once
#include "kd-params.h"

G_BEGIN_DECLS

typedef struct {
  KdParamInfo info; /* first: kd_param_set_nth hands it out */
  KdInit init;
  gint64 fan_in, fan_out;
} KdParamEntry;

/* The flat buffers hold the trainable parameters first, so gradients and moments end where buffers (running means) begin.
 * Gaps of the 64-byte alignment stay zero for ever. */
struct _KdParamSet {
  gatomicrefcount ref_count;
  guint64 seed;
  GPtrArray *entries;  /* KdParamEntry */
  GHashTable *by_name; /* name (owned by its entry) -> index + 1 */
  gboolean frozen;
  gsize n_flat, n_flat_trainable; /* with gaps */
  gfloat *values;
  gfloat *grads;     /* made when first asked for: a teacher never needs it */
  gfloat *moment[2]; /* made by the first step that needs it */
  GMutex lock;       /* of making grads and moments */
};

/* (transfer full) zeroed, 64-byte aligned; free () it. */
gfloat *_kd_flat_new (gsize n);
gfloat *_kd_param_set_ensure (KdParamSet *set, gfloat **buffer);
static inline KdParamEntry *
_kd_param_entry (const KdParamSet *set, guint i)
{
  return (KdParamEntry *) g_ptr_array_index (set->entries, i);
}

G_END_DECLS
