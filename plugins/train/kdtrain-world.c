/* kdtrain among many processes. Each rank has its share of the rows of every batch (the source sees to that), so an epoch may end a batch earlier on
 * some: those go on taking part with nothing, and all of them have taken the same steps when it is over. */
#include "kdtrain.h"

/* Ranks with a batch, rows that count, samples: one sum for all three. */
static gboolean
exchange (KdTrain *self, gboolean active, gdouble counted, gint64 n_samples, gdouble *ret_active, gdouble *ret_total, GError **error)
{
  gdouble values[3] = { active, counted, (gdouble) n_samples };

  if (!kd_world_sum_doubles (values, 3, error))
    return FALSE;
  *ret_active = values[0];
  *ret_total = values[1];
  self->samples += (guint64) values[2];
  return TRUE;
}

gboolean
kd_train_join (KdTrain *self, const KdBatch *batch, gdouble *ret_total, GError **error)
{
  gdouble active;

  self->drained = FALSE;
  return exchange (self, TRUE, batch->n_counted, batch->n_samples, &active, ret_total, error);
}

gboolean
kd_train_drain (KdTrain *self, GError **error)
{
  gdouble active, total;

  while (kd_world_size () > 1 && !self->drained) {
    if (!exchange (self, FALSE, 0, 0, &active, &total, error))
      return FALSE;
    self->drained = active == 0;
    if (!self->drained && !kd_train_end_slot (self, total, error))
      return FALSE;
  }
  return TRUE;
}
