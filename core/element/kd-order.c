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

static gboolean
in_chunks (const KdOrder *order)
{
  return order->options->shuffle && order->options->shuffle_chunk > 0 && order->n_range > 0;
}

void
kd_order_begin (KdOrder *order, guint epoch)
{
  guint64 chunk = (guint64) order->options->shuffle_chunk;

  order->epoch = epoch;
  if (!in_chunks (order)) {
    if (order->options->shuffle && order->n_range > 0)
      kd_permutation_init (&order->permutation, (guint64) order->n_range, order->options->seed, epoch);
    return;
  }
  order->n_chunks = ((guint64) order->n_range + chunk - 1) / chunk;
  order->short_rows = (guint64) order->n_range - (order->n_chunks - 1) * chunk;
  kd_permutation_init (&order->permutation, order->n_chunks, order->options->seed, epoch);
  order->short_slot = 0;
  while (kd_permutation_at (&order->permutation, order->short_slot) != order->n_chunks - 1)
    order->short_slot++;
}

/* Rows of a window, mixed: @rows 0: not looked at yet. */
typedef struct {
  guint64 number, first_slot, begin, rows; /* begin: the position of its first row */
  KdPermutation permutation;
} Window;

/* How many rows stand before slot @slot: the chunk that is not full counts with what it has. */
static guint64
rows_before (const KdOrder *order, guint64 slot)
{
  guint64 chunk = (guint64) order->options->shuffle_chunk;

  return slot * chunk - (slot > order->short_slot ? chunk - order->short_rows : 0);
}

static void
open_window (const KdOrder *order, guint64 number, Window *window)
{
  guint64 size = (guint64) order->options->shuffle_window, end = MIN ((number + 1) * size, order->n_chunks);

  window->number = number;
  window->first_slot = number * size;
  window->begin = rows_before (order, window->first_slot);
  window->rows = rows_before (order, end) - window->begin;
  kd_permutation_init (&window->permutation, window->rows, order->options->seed + 0x9e3779b97f4a7c15u * (number + 1), order->epoch);
}

/* The slot in which position @position lies, when all are counted through. */
static guint64
slot_of (const KdOrder *order, guint64 position)
{
  guint64 chunk = (guint64) order->options->shuffle_chunk, behind = rows_before (order, order->short_slot) + order->short_rows;

  return position < behind ? position / chunk : (position + chunk - order->short_rows) / chunk;
}

static guint64
row_in_chunks (const KdOrder *order, guint64 position, Window *window)
{
  guint64 number = slot_of (order, position) / (guint64) order->options->shuffle_window, mixed, slot;

  if (window->rows == 0 || window->number != number)
    open_window (order, number, window);
  mixed = window->begin + kd_permutation_at (&window->permutation, position - window->begin);
  slot = slot_of (order, mixed);
  return kd_permutation_at (&order->permutation, slot) * (guint64) order->options->shuffle_chunk + mixed - rows_before (order, slot);
}

void
kd_order_rows (const KdOrder *order, guint64 cursor, gint64 n, gint64 *ret_rows)
{
  const KdSourceOptions *options = order->options;
  Window window = { .rows = 0 };

  for (gint64 i = 0; i < n; i++) {
    guint64 position = (cursor + (guint64) i) * (guint64) options->shard_count + (guint64) options->shard_index;
    if (in_chunks (order))
      ret_rows[i] = order->first + (gint64) row_in_chunks (order, position, &window);
    else
      ret_rows[i] = order->first + (gint64) (options->shuffle ? kd_permutation_at (&order->permutation, position) : position);
  }
}
