/* Internal to kdcachesink: which fields are kept, in which encoding, and how the logits are cut down before. */
#pragma once
#include <kd/kd.h>

/**
 * KdCachePlan: made when the layout is known.
 * @cut: kdlogittopk or kdlogitsample, run on the batch before it is stored; NULL: the logits are stored whole
 * @names: of the fields to keep, interned; @encodings: of each, NULL: as it comes
 */
typedef struct {
  const KdTransformDesc *cut;
  gpointer cut_params;
  GPtrArray *names, *encodings;
} KdCachePlan;

/* KdCachePlanCall: what the element was told. @floats: encoding of float fields that @encoding does not name, or NULL. */
typedef struct {
  const gchar *owner, *fields, *encoding, *floats;
  gint64 k;
  guint64 seed;
} KdCachePlanCall;

/* kd_cache_plan_make: KD_ERROR_FIELD for a field that is not there, KD_ERROR_RANGE for an encoding that is none. */
gboolean kd_cache_plan_make (KdCachePlan *plan, const KdCachePlanCall *call, const KdLayout *layout, GError **error);
/* kd_cache_plan_cut: (transfer full) the buffer whose batch holds the fields to keep: the given one, or one with the logits cut down. */
GstBuffer *kd_cache_plan_cut (const KdCachePlan *plan, GstBuffer *buffer, KdBatch *batch, GError **error);
void kd_cache_plan_clear (KdCachePlan *plan);
