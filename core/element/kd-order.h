/* Internal: which rows a source gives out, and when: a range, a shard of it, in order or shuffled. Any position is known at once. */
#pragma once
#include "kd-bind.h"

G_BEGIN_DECLS

/**
 * KdOrder: @n_shard positions an epoch; position p of this shard is position p x shard-count + shard-index of the range's order.
 * In two levels (shuffle-chunk = C, shuffle-window = W): the chunks of C rows in a random order, W of them a window, and the rows of a window in a
 * random order. So W chunks in memory are enough, and any position is still known at once. @permutation is of the chunks then.
 * @short_slot: where in their order the last chunk stands, which has @short_rows rows
 */
typedef struct {
  const KdSourceOptions *options;
  gint64 first, n_range, n_shard;
  KdPermutation permutation;
  guint epoch;
  guint64 n_chunks, short_slot, short_rows;
} KdOrder;

/** kd_order_init: KD_ERROR_RANGE when range or shard lie outside @n_rows. @options must outlive it. */
gboolean kd_order_init (KdOrder *order, const KdSourceOptions *options, gint64 n_rows, const gchar *owner, GError **error);
/** kd_order_begin: the order of epoch @epoch. */
void kd_order_begin (KdOrder *order, guint epoch);
/** kd_order_rows: rows of the @n positions from @cursor on. */
void kd_order_rows (const KdOrder *order, guint64 cursor, gint64 n, gint64 *ret_rows);

G_END_DECLS
