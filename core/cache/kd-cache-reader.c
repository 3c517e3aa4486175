/* KdCacheReader: walks the manifest; opens parts when they are needed and checks their blocks when they are touched. */
#include "kd-cache-reader.h"

#include <string.h>
#include <sys/stat.h>

/* No compression packs a row, which has a key of 16 bytes, better than this. */
#define MAX_ROWS_A_BYTE 1024

void
kd_cache_reader_close (KdCacheReader *reader)
{
  for (guint i = 0; reader->files && i < reader->manifest->parts->len; i++)
    g_clear_pointer (&reader->files[i], kd_cache_file_close);
  g_free (reader->files);
  for (guint i = 0; i < reader->n_fields; i++)
    g_free (reader->lanes[i]);
  g_free (reader->lanes);
  g_clear_pointer (&reader->index, kd_cache_index_free);
  g_clear_pointer (&reader->layout, kd_layout_free);
  g_clear_pointer (&reader->manifest, kd_cache_manifest_free);
  g_mutex_clear (&reader->lock);
  g_free (reader->path);
  g_free (reader);
}

static void
close_oldest (KdCacheReader *reader)
{
  guint oldest = G_MAXUINT;

  for (guint i = 0; i < reader->manifest->parts->len; i++)
    if (reader->files[i] && (oldest == G_MAXUINT || reader->files[i]->last_use < reader->files[oldest]->last_use))
      oldest = i;
  for (guint i = 0; i < reader->n_fields; i++)
    if (reader->lanes[i])
      reader->lanes[i][oldest].base = NULL;
  g_clear_pointer (&reader->files[oldest], kd_cache_file_close);
  reader->n_open--;
}

KdCacheFile *
kd_cache_reader_open_part (KdCacheReader *reader, guint nth, GError **error)
{
  const KdCachePart *part = g_ptr_array_index (reader->manifest->parts, nth);

  if (!reader->files[nth]) {
    g_autofree gchar *path = kd_cache_part_path (reader->path, part);
    if (reader->n_open >= KD_CACHE_MAX_OPEN)
      close_oldest (reader);
    reader->files[nth] = kd_cache_file_open (reader->manifest, part, path, reader->may_map, error);
    if (!reader->files[nth])
      return NULL;
    reader->n_open++;
  }
  reader->files[nth]->last_use = ++reader->clock;
  return reader->files[nth];
}

/* Only parts whose rows cannot be calculated are opened for their keys. */
static gboolean
index_parts (KdCacheReader *reader, GError **error)
{
  const KdCacheManifest *manifest = reader->manifest;

  for (guint i = 0; i < manifest->parts->len; i++) {
    const KdCachePart *part = g_ptr_array_index (manifest->parts, i);
    g_autofree gint64 *rows = NULL;
    g_autoptr (KdTensor) ids = NULL, views = NULL;
    if (part->stride > 0) {
      kd_cache_index_add_run (reader->index, part);
      continue;
    }
    if (!kd_cache_reader_open_part (reader, i, error)) /* then it has as many rows as the manifest says */
      return FALSE;
    rows = g_new (gint64, part->rows);
    for (gint64 k = 0; k < part->rows; k++)
      rows[k] = k;
    ids = kd_cache_reader_take_in_part (reader, i, kd_cache_field_index (manifest, "sample.id"), rows, part->rows, error);
    views = ids ? kd_cache_reader_take_in_part (reader, i, kd_cache_field_index (manifest, "sample.view"), rows, part->rows, error) : NULL;
    if (!views)
      return FALSE;
    kd_cache_index_add_keys (reader->index, part->rows, ids->data, views->data, part->first_row);
  }
  return TRUE;
}

KdCacheReader *
kd_cache_reader_open (const gchar *path, GError **error)
{
  KdCacheManifest *manifest = kd_cache_manifest_load (path, error);
  KdCacheReader *reader;
  guint64 bytes = 0;

  if (!manifest)
    return NULL;
  reader = g_new0 (KdCacheReader, 1);
  g_mutex_init (&reader->lock);
  reader->path = g_strdup (path);
  reader->manifest = manifest;
  reader->files = g_new0 (KdCacheFile *, MAX (manifest->parts->len, 1));
  reader->index = kd_cache_index_new ();
  reader->n_fields = manifest->layout ? kd_layout_n_fields (manifest->layout) : 0;
  reader->lanes = g_new0 (KdCacheLane *, MAX (reader->n_fields, 1));
  reader->layout = kd_cache_decoded_layout (manifest);
  kd_layout_remove (reader->layout, "sample.id");
  kd_layout_remove (reader->layout, "sample.view");
  for (guint i = 0; i < manifest->parts->len; i++)
    bytes += (guint64) ((KdCachePart *) g_ptr_array_index (manifest->parts, i))->bytes;
  /* All or nothing: a cache that does not fit the mapping limit would fill it with whatever part came first. */
  reader->may_map = bytes <= kd_h5_map_limit ();
  if (index_parts (reader, error))
    return reader;
  kd_cache_reader_close (reader);
  return NULL;
}

gint64
kd_cache_reader_n_rows (const KdCacheReader *reader)
{
  return reader->manifest->n_rows;
}

gboolean
kd_cache_reader_complete (const KdCacheReader *reader)
{
  return reader->manifest->complete;
}

const KdLayout *
kd_cache_reader_layout (const KdCacheReader *reader)
{
  return reader->layout;
}

const KdCacheIdentity *
kd_cache_reader_identity (const KdCacheReader *reader)
{
  return &reader->manifest->identity;
}

const KdCacheManifest *
kd_cache_reader_manifest (const KdCacheReader *reader)
{
  return reader->manifest;
}

gboolean
kd_cache_reader_check_sizes (KdCacheReader *reader, GError **error)
{
  for (guint i = 0; i < reader->manifest->parts->len; i++) {
    const KdCachePart *part = g_ptr_array_index (reader->manifest->parts, i);
    g_autofree gchar *path = kd_cache_part_path (reader->path, part);
    struct stat info = { 0 };
    if (!part->file || (stat (path, &info) == 0 && info.st_size == part->bytes && part->rows / MAX_ROWS_A_BYTE <= part->bytes))
      continue;
    g_set_error (error, KD_ERROR, KD_ERROR_IO, "Cannot read cache part: path=\"%s\", bytes=%" G_GINT64_FORMAT ", manifest=%" G_GINT64_FORMAT ", rows=%" G_GINT64_FORMAT ", reason=missing, cut or replaced; look at the whole with: kd cache verify", path,
        (gint64) info.st_size, part->bytes, part->rows);
    return FALSE;
  }
  return TRUE;
}

gint64 *
kd_cache_reader_sorted (KdCacheReader *reader, gint64 **ret_ids, gint64 **ret_views, GError **error)
{
  if (!kd_cache_reader_check_sizes (reader, error))
    return NULL;
  return kd_cache_index_sorted (reader->index, reader->manifest->n_rows, ret_ids, ret_views);
}

gint64
kd_cache_reader_find (KdCacheReader *reader, gint64 n, const gint64 *ids, const gint64 *views, gint64 *ret_rows)
{
  gint64 missing = 0;

  g_mutex_lock (&reader->lock);
  for (gint64 i = 0; i < n; i++) {
    ret_rows[i] = kd_cache_index_find (reader->index, ids[i], views ? views[i] : 0);
    missing += ret_rows[i] < 0;
  }
  g_mutex_unlock (&reader->lock);
  return missing;
}
