#include "kd-order.h"

gboolean
kd_order_init (KdOrder *order, const KdSourceOptions *options, gint64 n_rows, const gchar *owner, GError **error)
{
  if (options->first > n_rows || (options->count > 0 && options->count > n_rows - options->first)) {
    g_set_error (error, KD_ERROR, KD_ERROR_RANGE,
        "Range outside the data: element=%s, first=%" G_GINT64_FORMAT ", count=%" G_GINT64_FORMAT ", rows=%" G_GINT64_FORMAT, owner, options->first,
        options->count, n_rows);
    return FALSE;
  }
  if (options->shard_index >= options->shard_count) {
    g_set_error (error, KD_ERROR, KD_ERROR_RANGE,
        "No such shard: element=%s, shard-index=%" G_GINT64_FORMAT ", shard-count=%" G_GINT64_FORMAT "; indices count from 0", owner,
        options->shard_index, options->shard_count);
    return FALSE;
  }
  order->options = options;
  order->first = options->first;
  order->n_range = options->count > 0 ? options->count : n_rows - options->first;
  order->n_shard = MAX ((order->n_range - options->shard_index + options->shard_count - 1) / options->shard_count, 0);
  return TRUE;
}

void
kd_order_begin (KdOrder *order, guint epoch)
{
  if (order->options->shuffle && order->n_range > 0)
    kd_permutation_init (&order->permutation, (guint64) order->n_range, order->options->seed, epoch);
}

void
kd_order_rows (const KdOrder *order, guint64 cursor, gint64 n, gint64 *ret_rows)
{
  const KdSourceOptions *options = order->options;

  for (gint64 i = 0; i < n; i++) {
    guint64 position = (cursor + (guint64) i) * (guint64) options->shard_count + (guint64) options->shard_index;
    ret_rows[i] = order->first + (gint64) (options->shuffle ? kd_permutation_at (&order->permutation, position) : position);
  }
}
