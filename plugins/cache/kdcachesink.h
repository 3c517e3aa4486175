/* Internal to kdcachesink: which fields are kept, in which encoding, and how the logits are cut down before; and what many processes write. */
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

/**
 * KdCacheWorld: this process among those that share the rows of the source.
 * @path: what it writes: @location alone, else LOCATION.rank-INDEX-of-COUNT
 * @meets: the processes are those of an MPI run: they wait for each other, and the first makes @location of all their caches
 */
typedef struct {
  GstElement *owner; /* (unowned): its messages */
  gchar *location, *path;
  gint64 index, count;
  gboolean meets;
  gint64 reported_us;
} KdCacheWorld;

void kd_cache_world_init (KdCacheWorld *world, GstElement *owner, const gchar *location, gint64 index, gint64 count);
void kd_cache_world_clear (KdCacheWorld *world);
/* kd_cache_world_is_new: alone, and nothing is there that could be gone on with. */
gboolean kd_cache_world_is_new (const KdCacheWorld *world);
/* kd_cache_world_open: (transfer full) the writer of @path, which knows what is there. Every process of a run that meets has to call it. */
KdCacheWriter *kd_cache_world_open (KdCacheWorld *world, gboolean resume, const KdCacheIdentity *identity, gsize part_bytes, GError **error);
/* kd_cache_world_finish: the writer was finished and closed. */
gboolean kd_cache_world_finish (KdCacheWorld *world, GError **error);
