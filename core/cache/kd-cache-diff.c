/* Two caches beside each other: rows are found by key and compared as they are read, so that encodings may differ. */
#include "kd-cache-copy.h"

#include <math.h>
#include <string.h>

#define STEP_BYTES ((gsize) 4 << 20)

typedef struct {
  KdCacheReader *a, *b;
  const KdCacheCopyOptions *options;
  KdCacheDiff *diff;
} Diff;

static void
field_free (gpointer data)
{
  KdCacheFieldDiff *field = data;

  g_free (field->field);
  g_free (field->a_type);
  g_free (field->b_type);
  g_free (field);
}

void
kd_cache_diff_free (KdCacheDiff *diff)
{
  g_ptr_array_unref (diff->fields);
  g_free (diff->identity);
  g_free (diff);
}

static void
add_fields (KdCacheDiff *diff, const KdLayout *a, const KdLayout *b)
{
  for (guint i = 0; i < kd_layout_n_fields (a) + kd_layout_n_fields (b); i++) {
    const KdLayoutField *in_a = i < kd_layout_n_fields (a) ? kd_layout_nth (a, i) : NULL;
    const KdLayoutField *in_b = in_a ? kd_layout_find (b, in_a->name) : kd_layout_nth (b, i - kd_layout_n_fields (a));
    KdCacheFieldDiff *field;
    if (!in_a && kd_layout_find (a, in_b->name))
      continue;
    field = g_new0 (KdCacheFieldDiff, 1);
    field->field = g_strdup (in_a ? in_a->name : in_b->name);
    field->a_type = in_a ? kd_layout_field_string (in_a) : NULL;
    field->b_type = in_b ? kd_layout_field_string (in_b) : NULL;
    g_ptr_array_add (diff->fields, field);
  }
}

/* Rows of the same field: their shapes were compared by the caller. */
static void
compare_rows (KdCacheFieldDiff *field, KdTensor *a, KdTensor *b, const gint64 *ids, const gint64 *views)
{
  gsize width = kd_tensor_row_elements (a);

  for (gint64 i = 0; i < a->dims[0]; i++) {
    gboolean differs = FALSE;
    for (gsize k = 0; k < width; k++) {
      gdouble x = kd_tensor_get_double (a, (gsize) i * width + k), y = kd_tensor_get_double (b, (gsize) i * width + k);
      gdouble d = x == y || (isnan (x) && isnan (y)) ? 0 : isnan (x) || isnan (y) ? INFINITY
                                                                                  : fabs (x - y);
      differs |= d > 0;
      field->mean += d / (gdouble) width; /* a sum over rows as yet */
      if (d <= field->max)
        continue;
      field->max = d;
      field->max_id = ids[i];
      field->max_view = views[i];
    }
    field->n_rows += differs;
  }
}

static gboolean
comparable (const Diff *diff, const KdCacheFieldDiff *field)
{
  const KdLayoutField *a = kd_layout_find (kd_cache_reader_layout (diff->a), field->field), *b = kd_layout_find (kd_cache_reader_layout (diff->b), field->field);

  return a && b && a->rank == b->rank && memcmp (a->dims + 1, b->dims + 1, (a->rank - 1) * sizeof *a->dims) == 0;
}

static gboolean
compare_step (const Diff *diff, gint64 n, const gint64 *mine, const gint64 *theirs, const gint64 *ids, const gint64 *views, GError **error)
{
  for (guint f = 0; f < diff->diff->fields->len; f++) {
    KdCacheFieldDiff *field = g_ptr_array_index (diff->diff->fields, f);
    g_autoptr (KdTensor) a = NULL, b = NULL;
    if (!comparable (diff, field))
      continue;
    a = kd_cache_reader_take (diff->a, field->field, n, mine, error);
    b = a ? kd_cache_reader_take (diff->b, field->field, n, theirs, error) : NULL;
    if (!b)
      return FALSE;
    if (a->dtype != b->dtype || a->n_bytes != b->n_bytes || memcmp (a->data, b->data, a->n_bytes) != 0)
      compare_rows (field, a, b, ids, views);
  }
  return TRUE;
}

/* Keys of @from that @other has not: how many, and the first. */
static void
note_missing (gint64 id, gint64 view, gint64 *count, gint64 first[8][2])
{
  if (*count < 8) {
    first[*count][0] = id;
    first[*count][1] = view;
  }
  ++*count;
}

static gboolean
compare_part (const Diff *diff, const KdCachePart *part, gint64 step, GError **error)
{
  g_autofree gint64 *mine = g_new (gint64, part->rows), *theirs = g_new (gint64, part->rows);
  g_auto (KdCacheKeys) keys = { NULL };
  gint64 n = 0;

  if (!kd_cache_reader_part_keys (diff->a, part, &keys, error))
    return FALSE;
  kd_cache_reader_find (diff->b, part->rows, keys.ids, keys.views, theirs);
  for (gint64 i = 0; i < part->rows; i++) {
    if (theirs[i] < 0) {
      note_missing (keys.ids[i], keys.views[i], &diff->diff->n_only_a, diff->diff->only_a);
      continue;
    }
    mine[n] = part->first_row + i;
    theirs[n] = theirs[i];
    keys.ids[n] = keys.ids[i];
    keys.views[n++] = keys.views[i];
  }
  diff->diff->n_common += n;
  for (gint64 first = 0; first < n; first += step) {
    gint64 now = MIN (step, n - first);
    if (g_cancellable_set_error_if_cancelled (diff->options->cancellable, error) ||
        !compare_step (diff, now, mine + first, theirs + first, keys.ids + first, keys.views + first, error))
      return FALSE;
    if (diff->options->progress)
      diff->options->progress (part->first_row + first + now, kd_cache_reader_n_rows (diff->a), diff->options->user_data);
  }
  return TRUE;
}

static gboolean
find_only_b (const Diff *diff, GError **error)
{
  const KdCacheManifest *manifest = kd_cache_reader_manifest (diff->b);

  if (diff->diff->n_common == manifest->n_rows)
    return TRUE;
  for (guint p = 0; p < manifest->parts->len; p++) {
    const KdCachePart *part = g_ptr_array_index (manifest->parts, p);
    g_autofree gint64 *rows = g_new (gint64, part->rows);
    g_auto (KdCacheKeys) keys = { NULL };
    if (!kd_cache_reader_part_keys (diff->b, part, &keys, error))
      return FALSE;
    kd_cache_reader_find (diff->a, part->rows, keys.ids, keys.views, rows);
    for (gint64 i = 0; i < part->rows; i++)
      if (rows[i] < 0)
        note_missing (keys.ids[i], keys.views[i], &diff->diff->n_only_b, diff->diff->only_b);
  }
  return TRUE;
}

static gboolean
compare (const Diff *diff, GError **error)
{
  const KdCacheManifest *manifest = kd_cache_reader_manifest (diff->a);
  gint64 step = MAX ((gint64) (STEP_BYTES / MAX (kd_cache_row_bytes (manifest->layout), 1)), 1);

  for (guint p = 0; p < manifest->parts->len; p++)
    if (!compare_part (diff, g_ptr_array_index (manifest->parts, p), step, error))
      return FALSE;
  for (guint f = 0; f < diff->diff->fields->len; f++) {
    KdCacheFieldDiff *field = g_ptr_array_index (diff->diff->fields, f);
    field->mean /= (gdouble) MAX (diff->diff->n_common, 1);
  }
  return find_only_b (diff, error);
}

KdCacheDiff *
kd_cache_diff (const gchar *a, const gchar *b, const KdCacheCopyOptions *options, GError **error)
{
  g_autoptr (KdCacheReader) reader_a = kd_cache_reader_open (a, error), reader_b = reader_a ? kd_cache_reader_open (b, error) : NULL;
  g_autoptr (KdCacheDiff) diff = g_new0 (KdCacheDiff, 1);
  g_autoptr (GError) other = NULL;
  const Diff call = { reader_a, reader_b, options, diff };

  diff->fields = g_ptr_array_new_with_free_func (field_free);
  if (!reader_b || !kd_cache_reader_check_sizes (reader_a, error) || !kd_cache_reader_check_sizes (reader_b, error))
    return NULL;
  if (!kd_cache_same_identity (a, kd_cache_reader_identity (reader_a), b, kd_cache_reader_identity (reader_b), &other))
    diff->identity = g_strdup (other->message);
  add_fields (diff, kd_cache_reader_layout (reader_a), kd_cache_reader_layout (reader_b));
  return compare (&call, error) ? g_steal_pointer (&diff) : NULL;
}
