/* Internal: parameters that change during a run. One text for every loss: "weight linear 0 1 1000; temperature cosine 8 1 5000". */
#pragma once
#include "kd-desc.h"

G_BEGIN_DECLS

/** KdSchedule: rows of PARAMETER SHAPE ..., a pure function of the batch's place in the run: a resumed run needs no state for it. */
typedef struct _KdSchedule KdSchedule;

#define KD_SCHEDULE_HELP \
  "Parameters that change during the run: 'NAME linear|cosine FROM TO BATCHES [START]; NAME field FIELD', NAME a number of this element"

/**
 * kd_schedule_new: @leaf, @base: the tables in which a NAME is looked up, the leaf's first. (transfer full); NULL with @error:
 * KD_ERROR_FORMAT when @text is not understood, KD_ERROR_RANGE when an end lies outside the parameter's range.
 */
KdSchedule *kd_schedule_new (const gchar *text, const KdParam *leaf, const KdParam *base, const gchar *owner, GError **error);
void kd_schedule_free (KdSchedule *schedule);
G_DEFINE_AUTOPTR_CLEANUP_FUNC (KdSchedule, kd_schedule_free)

/**
 * kd_schedule_apply: writes the values of now into the blocks. A validation batch sees the values of the last training batch.
 * KD_ERROR_FIELD when a field is missing or no scalar, KD_ERROR_RANGE when its value is outside the parameter's range.
 */
gboolean kd_schedule_apply (KdSchedule *schedule, KdBatch *batch, gpointer leaf_block, gpointer base_block, GError **error);

/** kd_schedule_report: metric.@name.PARAMETER of each row, as scalars of the batch. */
void kd_schedule_report (const KdSchedule *schedule, const gchar *name, KdBatch *batch);

G_END_DECLS
