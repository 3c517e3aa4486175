/* kd cache verify --teacher: what is shared by values that are compared (kd-cache-audit.c) and logits that were cut down (kd-cache-audit-cut.c). */
#pragma once
#include "kd-cache-work.h"

G_BEGIN_DECLS

/* Sums in another order, another batch: of the larger of 1 and the value. */
#define KD_AUDIT_ROUNDING 1e-4

/** KdAudit: @n samples, in @ids, and where they are in the cache and in what was computed again. */
typedef struct {
  KdCacheReader *cache, *fresh;
  gint64 n;
  const gint64 *cached_rows, *fresh_rows, *ids;
  gboolean quiet;
  guint n_compared, n_wrong;
} KdAudit;

/** KdAuditField: the largest distance of a field so far, what was allowed there, and how many samples are further away. */
typedef struct {
  const gchar *name;
  gdouble largest, bound;
  gint64 at, n_wrong, last_wrong;
} KdAuditField;
void kd_audit_begin (KdAuditField *field, const gchar *name);
/** kd_audit_distance: one value of sample number @sample. */
void kd_audit_distance (KdAuditField *field, gint64 sample, gdouble distance, gdouble limit);
void kd_audit_end (KdAudit *audit, const KdAuditField *field);

/** kd_audit_allowed: how far a stored value may be from @value: what its encoding was measured to cost; of a short type half a step of it; rounding. */
gdouble kd_audit_allowed (const KdAudit *audit, const gchar *field, const KdTensor *stored, gdouble value);
/** kd_audit_row: log-probabilities of row @nth of @logits in @row [width]; returns their log-sum-exp. */
gdouble kd_audit_row (const KdTensor *logits, gsize nth, gsize width, gdouble *row);

/**
 * kd_audit_cut: a field F.topk.* or F.sampled.* against the logits F.logits that it was made of, at temperature 1. *@ret_done: whether it was one.
 *   topk.logprobs, topk.lse: values; topk.ids: no class left out is larger than one kept
 *   sampled.ids with sampled.weights: of the ids drawn, how likely so large or so small a mean of -ln p is (Chernoff's bound, true for any p and any
 *   number of draws); a row, or all together, below 1e-9 is wrong. Weights have to be counts / draws.
 */
gboolean kd_audit_cut (KdAudit *audit, const gchar *field, gboolean *ret_done, GError **error);

G_END_DECLS
