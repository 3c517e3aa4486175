/* Some rows and some fields of a cache in a new one. */
#include "kd-cache-copy.h"

#include <string.h>

typedef struct {
  const KdCacheSelection *selection;
  KdCacheReader *reader;
  KdCacheCopy *copy;
} Prune;

static void
prune_clear (Prune *prune)
{
  g_clear_pointer (&prune->copy, kd_cache_copy_close);
  g_clear_pointer (&prune->reader, kd_cache_reader_close);
}
G_DEFINE_AUTO_CLEANUP_CLEAR_FUNC (Prune, prune_clear)

static gboolean
has_id (const KdCacheSelection *selection, gint64 id)
{
  gint64 low = 0, high = selection->n_ids;

  while (low < high) {
    gint64 middle = low + (high - low) / 2;
    if (selection->ids[middle] < id)
      low = middle + 1;
    else
      high = middle;
  }
  return low < selection->n_ids && selection->ids[low] == id;
}

static gboolean
is_kept (const KdCacheSelection *selection, gint64 id, gint64 view)
{
  guint i = 0;

  if (selection->has_range && (id < selection->first_id || id > selection->last_id))
    return FALSE;
  while (i < selection->n_views && selection->views[i] != view)
    i++;
  return (!selection->views || i < selection->n_views) && (!selection->ids || has_id (selection, id));
}

/* A field as readers see it: what its encoding keeps beside it goes too. */
static void
drop_field (KdCacheManifest *manifest, const gchar *name)
{
  KdCacheEncoding *encoding = kd_cache_encoding_find (manifest->encodings, name);
  g_autofree gchar *scale = g_strconcat (name, KD_CACHE_SCALE, NULL);

  if (encoding && kd_cache_encoding_levels (encoding))
    kd_layout_remove (manifest->layout, scale);
  if (encoding)
    g_ptr_array_remove (manifest->encodings, encoding);
  kd_layout_remove (manifest->layout, name);
}

/* The fields that stay. */
static KdCacheManifest *
manifest_of_rest (KdCacheReader *reader, const gchar *path, const gchar *const *drop, GError **error)
{
  const KdCacheManifest *from = kd_cache_reader_manifest (reader);
  g_autoptr (KdCacheManifest) manifest = kd_cache_manifest_like (from);

  for (guint i = 0; drop && drop[i]; i++) {
    if (!kd_layout_find (kd_cache_reader_layout (reader), drop[i]) || !kd_layout_find (manifest->layout, drop[i])) {
      g_autofree gchar *names = kd_layout_names (kd_cache_reader_layout (reader));
      g_set_error (error, KD_ERROR, KD_ERROR_FIELD, "Cannot drop field: path=\"%s\", field=%s, cache=\"%s\"; keys stay, others are dropped once", path, drop[i], names);
      return NULL;
    }
    drop_field (manifest, drop[i]);
  }
  if (drop && drop[0]) /* rows are written anew: as a capture of these fields would */
    manifest->block_rows = kd_cache_block_rows (manifest->layout);
  if (kd_layout_n_fields (manifest->layout) > 2)
    return g_steal_pointer (&manifest);
  g_set_error (error, KD_ERROR, KD_ERROR_FIELD, "Cannot drop fields: path=\"%s\", reason=none would be left", path);
  return NULL;
}

/* Counts the rows that are kept; copies them when @path is given. */
static gboolean
each_part (Prune *prune, const gchar *path, gint64 *ret_n, GError **error)
{
  const KdCacheManifest *manifest = kd_cache_reader_manifest (prune->reader);

  for (guint p = 0; p < manifest->parts->len; p++) {
    const KdCachePart *part = g_ptr_array_index (manifest->parts, p);
    g_auto (KdCacheKeys) keys = { NULL };
    g_autofree guint8 *keep = g_malloc ((gsize) part->rows);
    if (!kd_cache_reader_part_keys (prune->reader, part, &keys, error))
      return FALSE;
    for (gint64 i = 0; i < part->rows; i++) {
      keep[i] = is_kept (prune->selection, keys.ids[i], keys.views[i]);
      *ret_n += keep[i];
    }
    if (path && !kd_cache_copy_part (prune->copy, prune->reader, path, part, &keys, keep, error))
      return FALSE;
  }
  return TRUE;
}

/* Rows in the output that this selection leaves out are another's. */
static gboolean
check_output (const Prune *prune, GError **error)
{
  KdCacheReader *there = prune->copy->there;
  const KdCacheManifest *manifest = there ? kd_cache_reader_manifest (there) : NULL;

  for (guint p = 0; manifest && p < manifest->parts->len; p++) {
    const KdCachePart *part = g_ptr_array_index (manifest->parts, p);
    g_autofree gint64 *rows = g_new (gint64, part->rows);
    g_auto (KdCacheKeys) keys = { NULL };
    if (!kd_cache_reader_part_keys (there, part, &keys, error))
      return FALSE;
    kd_cache_reader_find (prune->reader, part->rows, keys.ids, keys.views, rows);
    for (gint64 i = 0; i < part->rows; i++)
      if (rows[i] < 0 || !is_kept (prune->selection, keys.ids[i], keys.views[i])) {
        g_set_error (error, KD_ERROR, KD_ERROR_MISMATCH, "Cannot prune: output=\"%s\", id=%" G_GINT64_FORMAT ", view=%" G_GINT64_FORMAT ", reason=a cache is there already that has other rows; choose another name",
            prune->copy->path, keys.ids[i], keys.views[i]);
        return FALSE;
      }
  }
  return TRUE;
}

gboolean
kd_cache_prune (const gchar *path, const gchar *output, const KdCacheSelection *selection, const KdCacheCopyOptions *options,
    KdCacheCopyResult *ret_result, GError **error)
{
  g_auto (Prune) prune = { .selection = selection, .reader = kd_cache_reader_open (path, error) };
  g_autoptr (KdCacheManifest) rest = NULL;
  gint64 n = 0;

  if (!prune.reader || !kd_cache_reader_check_sizes (prune.reader, error))
    return FALSE;
  if (kd_cache_reader_n_rows (prune.reader) && !each_part (&prune, NULL, &n, error))
    return FALSE;
  if (n == 0) {
    g_set_error (error, KD_ERROR, KD_ERROR_RANGE, "Nothing left: path=\"%s\", rows=%" G_GINT64_FORMAT "; select other ids or views", path,
        kd_cache_reader_n_rows (prune.reader));
    return FALSE;
  }
  rest = manifest_of_rest (prune.reader, path, selection->drop, error);
  prune.copy = rest ? kd_cache_copy_open (output, rest, options, error) : NULL;
  if (!prune.copy)
    return FALSE;
  prune.copy->n_total = kd_cache_reader_n_rows (prune.reader);
  n = 0;
  if (!check_output (&prune, error) || !kd_cache_copy_begin (prune.copy, error) || !each_part (&prune, path, &n, error) ||
      !kd_cache_copy_finish (prune.copy, kd_cache_reader_complete (prune.reader), error))
    return FALSE;
  *ret_result = prune.copy->result;
  return TRUE;
}
