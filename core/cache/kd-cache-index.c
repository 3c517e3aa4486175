/* From (id, view) to row. A capture in the data's order, also one of every k-th sample, makes parts with evenly spaced ids: those
 * rows are calculated, and nothing is kept in memory. Only shuffled captures need the table. */
#include "kd-cache-private.h"

#include <stdlib.h>
#include <string.h>

#define MAX_COUNTED 16

typedef struct {
  gint64 first_id, last_id, stride, view, rows, first_row;
  gint64 max_last_id; /* of this and all runs before, in sorted order */
} Run;

typedef struct {
  gint64 id, view, row;
} Key;

struct _KdCacheIndex {
  GArray *runs, *keys;
  guint n_sorted; /* keys in order; the rest came since */
  gboolean sorted;
};

KdCacheIndex *
kd_cache_index_new (void)
{
  KdCacheIndex *index = g_new0 (KdCacheIndex, 1);

  index->runs = g_array_new (FALSE, FALSE, sizeof (Run));
  index->keys = g_array_new (FALSE, FALSE, sizeof (Key));
  index->sorted = TRUE;
  return index;
}

void
kd_cache_index_free (KdCacheIndex *index)
{
  g_array_unref (index->runs);
  g_array_unref (index->keys);
  g_free (index);
}

void
kd_cache_index_add_run (KdCacheIndex *index, const KdCachePart *part)
{
  Run run = { part->first_id, part->last_id, part->stride, part->view, part->rows, part->first_row, 0 };

  g_array_append_val (index->runs, run);
  index->sorted = FALSE;
}

void
kd_cache_index_add_keys (KdCacheIndex *index, gint64 n, const gint64 *ids, const gint64 *views, gint64 first_row)
{
  guint at = index->keys->len;

  g_array_set_size (index->keys, at + (guint) n);
  for (gint64 i = 0; i < n; i++)
    g_array_index (index->keys, Key, at + (guint) i) = (Key) { ids[i], views ? views[i] : 0, first_row + i };
  index->sorted = FALSE;
}

static int
by_first_id (const void *a, const void *b)
{
  const Run *x = a, *y = b;

  return x->first_id < y->first_id ? -1 : x->first_id > y->first_id;
}

static int
by_key (const void *a, const void *b)
{
  const Key *x = a, *y = b;

  if (x->id != y->id)
    return x->id < y->id ? -1 : 1;
  if (x->view != y->view)
    return x->view < y->view ? -1 : 1;
  return x->row < y->row ? -1 : x->row > y->row;
}

/* Only what is new is sorted, then merged: a capture looks rows up between its commits. */
static void
sort_keys (KdCacheIndex *index)
{
  guint n = index->keys->len, old = index->n_sorted, i = 0, k = old;
  Key *keys = (Key *) index->keys->data;
  GArray *merged;

  if (n > old)
    qsort (keys + old, n - old, sizeof (Key), by_key);
  index->n_sorted = n;
  if (old == 0 || old == n || by_key (&keys[old - 1], &keys[old]) < 0)
    return;
  merged = g_array_sized_new (FALSE, FALSE, sizeof (Key), n);
  while (i < old || k < n) {
    gboolean first = k == n || (i < old && by_key (&keys[i], &keys[k]) < 0);
    g_array_append_val (merged, keys[first ? i : k]);
    if (first)
      i++;
    else
      k++;
  }
  g_array_unref (index->keys);
  index->keys = merged;
}

static void
sort (KdCacheIndex *index)
{
  if (index->sorted)
    return;
  if (index->runs->len)
    qsort (index->runs->data, index->runs->len, sizeof (Run), by_first_id);
  sort_keys (index);
  for (guint i = 0; i < index->runs->len; i++) {
    Run *run = &g_array_index (index->runs, Run, i);
    run->max_last_id = i ? MAX (run[-1].max_last_id, run->last_id) : run->last_id;
  }
  index->sorted = TRUE;
}

/* How many runs begin at or before @id. Few are counted: random ids would make a search guess wrong at every step. */
static inline guint
runs_before (const KdCacheIndex *index, gint64 id)
{
  const Run *runs = (const Run *) index->runs->data;
  guint low = 0, high = index->runs->len;

  if (high <= MAX_COUNTED) {
    for (guint i = 0; i < high; i++)
      low += runs[i].first_id <= id;
    return low;
  }
  while (low < high) {
    guint middle = (low + high) / 2;
    if (g_array_index (index->runs, Run, middle).first_id <= id)
      low = middle + 1;
    else
      high = middle;
  }
  return low;
}

/* From the last run that begins at or before @id, back to where no run reaches it. */
static gint64
find_in_runs (const KdCacheIndex *index, gint64 id, gint64 view)
{
  guint low = runs_before (index, id);

  while (low-- > 0) {
    const Run *run = &g_array_index (index->runs, Run, low);
    guint64 distance = (guint64) id - (guint64) run->first_id;
    if (run->max_last_id < id)
      break;
    if (run->stride == 1 && id <= run->last_id && view == run->view)
      return run->first_row + (gint64) distance; /* by far the usual case, without a division */
    if (id <= run->last_id && view == run->view && distance % (guint64) run->stride == 0)
      return run->first_row + (gint64) (distance / (guint64) run->stride);
  }
  return -1;
}

static gint64
find_in_keys (const KdCacheIndex *index, gint64 id, gint64 view)
{
  const Key *keys = (const Key *) index->keys->data;
  Key wanted = { id, view, G_MININT64 };
  guint low = 0, high = index->keys->len;

  while (low < high) {
    guint middle = low + (high - low) / 2;
    if (by_key (&keys[middle], &wanted) < 0)
      low = middle + 1;
    else
      high = middle;
  }
  return low < index->keys->len && keys[low].id == id && keys[low].view == view ? keys[low].row : -1;
}

gint64
kd_cache_index_find (KdCacheIndex *index, gint64 id, gint64 view)
{
  gint64 row;

  sort (index);
  row = index->runs->len ? find_in_runs (index, id, view) : -1;
  return row < 0 && index->keys->len ? find_in_keys (index, id, view) : row;
}

/* All keys, runs written out, in order. */
static GArray *
all_keys (KdCacheIndex *index)
{
  GArray *keys = g_array_new (FALSE, FALSE, sizeof (Key));

  g_array_append_vals (keys, index->keys->data, index->keys->len);
  for (guint i = 0; i < index->runs->len; i++) {
    const Run *run = &g_array_index (index->runs, Run, i);
    for (gint64 k = 0; k < run->rows; k++) {
      Key key = { run->first_id + k * run->stride, run->view, run->first_row + k };
      g_array_append_val (keys, key);
    }
  }
  if (keys->len)
    qsort (keys->data, keys->len, sizeof (Key), by_key);
  return keys;
}

gint64 *
kd_cache_index_sorted (KdCacheIndex *index, gint64 n, gint64 **ret_ids, gint64 **ret_views)
{
  g_autoptr (GArray) keys = all_keys (index);
  gint64 *rows = g_new (gint64, MAX (n, 1));

  *ret_ids = g_new (gint64, MAX (n, 1));
  *ret_views = g_new (gint64, MAX (n, 1));
  for (gint64 i = 0; i < n; i++) {
    const Key *key = &g_array_index (keys, Key, i);
    rows[i] = key->row;
    (*ret_ids)[i] = key->id;
    (*ret_views)[i] = key->view;
  }
  return rows;
}

/* Runs one behind the other, as most captures leave them, cannot share a key. */
static gboolean
is_disjoint (KdCacheIndex *index)
{
  sort (index);
  for (guint i = 1; i < index->runs->len; i++) {
    const Run *run = &g_array_index (index->runs, Run, i);
    if (run->first_id <= run[-1].max_last_id)
      return FALSE;
  }
  return index->keys->len == 0;
}

gboolean
kd_cache_index_duplicate (KdCacheIndex *index, gint64 *ret_id, gint64 *ret_view)
{
  g_autoptr (GArray) keys = is_disjoint (index) ? g_array_new (FALSE, FALSE, sizeof (Key)) : all_keys (index);

  for (guint i = 1; i < keys->len; i++) {
    const Key *key = &g_array_index (keys, Key, i);
    if (key->id == key[-1].id && key->view == key[-1].view) {
      *ret_id = key->id;
      *ret_view = key->view;
      return TRUE;
    }
  }
  return FALSE;
}
