/* Every part of a cache, every block: what `kd cache verify` does. */
#include "kd-cache-copy.h"

#include <string.h>

typedef struct {
  const KdCacheManifest *manifest;
  KdCacheIndex *index;
  KdCacheProgress progress;
  gpointer user_data;
} Verify;

/* The keys are sorted, and what the manifest says of them is so. */
static gboolean
check_keys (const KdCachePart *part, const gchar *path, const gint64 *ids, const gint64 *views, GError **error)
{
  for (gint64 i = 0; i < part->rows; i++) {
    gboolean sorted = i == 0 || ids[i] > ids[i - 1] || (ids[i] == ids[i - 1] && views[i] > views[i - 1]);
    gboolean even = part->stride == 0 || (ids[i] == part->first_id + i * part->stride && views[i] == part->view);
    if (sorted && even)
      continue;
    g_set_error (error, KD_ERROR, KD_ERROR_FORMAT, "Cannot read cache part: path=\"%s\", row=%" G_GINT64_FORMAT ", id=%" G_GINT64_FORMAT ", view=%" G_GINT64_FORMAT ", reason=%s; remove the part from the manifest or write the cache again", path, i, ids[i], views[i],
        sorted ? "not the key that the manifest implies" : "keys out of order or twice");
    return FALSE;
  }
  if (ids[0] == part->first_id && ids[part->rows - 1] == part->last_id)
    return TRUE;
  g_set_error (error, KD_ERROR, KD_ERROR_FORMAT, "Cannot read cache part: path=\"%s\", ids=%" G_GINT64_FORMAT " to %" G_GINT64_FORMAT ", manifest=%" G_GINT64_FORMAT " to %" G_GINT64_FORMAT ", reason=another part of the same size", path, ids[0],
      ids[part->rows - 1], part->first_id, part->last_id);
  return FALSE;
}

static gboolean
check_blocks (const Verify *verify, KdCacheFile *file, const KdCachePart *part, GError **error)
{
  for (gint64 row = 0; row < part->rows; row += verify->manifest->block_rows) {
    for (guint i = 0; i < file->n_fields; i++)
      if (!kd_cache_file_check (file, verify->manifest, part, i, row, error))
        return FALSE;
    if (verify->progress)
      verify->progress (part->first_row + MIN (row + verify->manifest->block_rows, part->rows), verify->manifest->n_rows,
          verify->user_data);
  }
  return TRUE;
}

static gboolean
check_part (const Verify *verify, const KdCachePart *part, const gchar *path, GError **error)
{
  KdCacheFile *file = kd_cache_file_open (verify->manifest, part, path, FALSE, error);
  g_autoptr (KdTensor) ids = NULL, views = NULL;
  gboolean good;

  if (!file)
    return FALSE;
  ids = kd_h5_reader_read_all (file->reader, "sample.id", error);
  views = ids ? kd_h5_reader_read_all (file->reader, "sample.view", error) : NULL;
  good = views && check_blocks (verify, file, part, error) && check_keys (part, path, ids->data, views->data, error);
  kd_cache_file_close (file);
  if (good && part->stride > 0)
    kd_cache_index_add_run (verify->index, part);
  else if (good)
    kd_cache_index_add_keys (verify->index, part->rows, ids->data, views->data, part->first_row);
  return good;
}

gboolean
kd_cache_part_check (const KdCacheManifest *manifest, const KdCachePart *part, const gchar *path, KdCacheIndex *index, KdCacheProgress progress,
    gpointer user_data, GError **error)
{
  const Verify verify = { manifest, index, progress, user_data };

  return check_part (&verify, part, path, error);
}

static gboolean
check_duplicates (const gchar *path, KdCacheIndex *index, GError **error)
{
  gint64 id, view;

  if (!kd_cache_index_duplicate (index, &id, &view))
    return TRUE;
  g_set_error (error, KD_ERROR, KD_ERROR_FORMAT, "Cache has a row twice: path=\"%s\", id=%" G_GINT64_FORMAT ", view=%" G_GINT64_FORMAT "; write the cache again", path, id, view);
  return FALSE;
}

/* Not of a packed cache, which has no master. */
static gboolean
has_master (const KdCacheManifest *manifest)
{
  return manifest->parts->len == 0 || ((KdCachePart *) g_ptr_array_index (manifest->parts, 0))->file != NULL;
}

gboolean
kd_cache_verify (const gchar *path, KdCacheProgress progress, gpointer user_data, gchar **ret_report, GError **error)
{
  g_autoptr (KdCacheManifest) manifest = kd_cache_manifest_load (path, error);
  g_autoptr (KdCacheIndex) index = kd_cache_index_new ();
  g_autoptr (GString) report = g_string_new (NULL);
  g_autoptr (GError) first = NULL;
  Verify verify = { manifest, index, progress, user_data };

  if (!manifest)
    return FALSE;
  for (guint i = 0; i < manifest->parts->len; i++) {
    const KdCachePart *part = g_ptr_array_index (manifest->parts, i);
    g_autofree gchar *file = kd_cache_part_path (path, part), *name = g_path_get_basename (file);
    g_autoptr (GError) fault = NULL;
    check_part (&verify, part, file, &fault);
    g_string_append_printf (report, "%s  rows=%" G_GINT64_FORMAT "  ids=%" G_GINT64_FORMAT "..%" G_GINT64_FORMAT "  %s\n", name,
        part->rows, part->first_id, part->last_id, fault ? fault->message : "good");
    if (fault && !first)
      first = g_steal_pointer (&fault);
  }
  if (!first && check_duplicates (path, index, &first) && has_master (manifest))
    kd_cache_check_master (path, &first);
  if (ret_report)
    *ret_report = g_string_free (g_steal_pointer (&report), FALSE);
  if (!first)
    return TRUE;
  g_propagate_error (error, g_steal_pointer (&first));
  return FALSE;
}
