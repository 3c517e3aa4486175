/* KdCacheWriter: a full part is written by a thread while the next one fills; it counts once the manifest names it. */
#include "kd-cache-private.h"

#include <stdlib.h>
#include <unistd.h>

/* What the thread needs, and nothing that the writer touches meanwhile: the manifest is the thread's while it runs. */
struct _KdCacheFlight {
  KdCacheManifest *manifest;
  gchar *path;
  KdCachePart *part;
  KdCacheColumn *columns;
  GError *error;
};

/* Whether the manifest on the disk names the part, or may: one that was replaced but whose folder could not be synced does. */
static gboolean
may_be_named (const gchar *path, const KdCachePart *part)
{
  g_autofree gchar *folder = kd_cache_folder (path), *file = g_build_filename (folder, KD_CACHE_MANIFEST, NULL);
  g_autoptr (KdCacheManifest) manifest = g_file_test (file, G_FILE_TEST_EXISTS) ? kd_cache_manifest_load (path, NULL) : kd_cache_manifest_new ();
  gboolean found = manifest == NULL;

  for (guint i = 0; manifest && i < manifest->parts->len; i++)
    found |= g_str_equal (((KdCachePart *) g_ptr_array_index (manifest->parts, i))->file, part->file);
  return found;
}

static gboolean
enter_part (KdCacheFlight *flight)
{
  KdCacheManifest *manifest = flight->manifest;
  KdCachePart *part = flight->part;
  g_autofree gchar *path = kd_cache_part_path (flight->path, part);

  if (!kd_cache_part_store (manifest, part, path, flight->columns, &flight->error)) {
    kd_cache_part_free (part);
    return FALSE;
  }
  kd_cache_manifest_add (manifest, part);
  manifest->complete = FALSE;
  if (kd_cache_manifest_save (manifest, flight->path, &flight->error))
    return TRUE;
  if (!may_be_named (flight->path, part))
    unlink (path);
  manifest->n_rows -= part->rows;
  g_ptr_array_set_size (manifest->parts, (gint) manifest->parts->len - 1);
  return FALSE;
}

static gpointer
fly (gpointer data)
{
  KdCacheFlight *flight = data;
  guint n_parts;

  if (!enter_part (flight))
    return NULL;
  /* Seldom, for it grows with the parts: an unfinished cache opens in h5py too, perhaps with fewer rows. */
  n_parts = flight->manifest->parts->len;
  if ((n_parts & (n_parts - 1)) == 0)
    kd_cache_write_master (flight->manifest, flight->path, FALSE, &flight->error);
  return NULL;
}

gboolean
kd_cache_writer_land (KdCacheWriter *writer, GError **error)
{
  KdCacheFlight *flight = writer->flight;

  if (flight) {
    gint64 started = g_get_monotonic_time ();
    g_thread_join (g_steal_pointer (&writer->thread));
    writer->waited_us += g_get_monotonic_time () - started;
    writer->flight = NULL;
    writer->spare = flight->columns;
    writer->n_flying = 0;
    writer->n_committed = writer->manifest->n_rows;
    writer->broken = flight->error;
    g_free (flight);
  }
  if (!writer->broken)
    return TRUE;
  if (error)
    *error = g_error_copy (writer->broken);
  return FALSE;
}

/* From here on the rows are known: a source that asks need not make them again. Should writing them fail, the writer is of no
 * use any more, and the next one reads from the manifest what there is. */
static void
know_rows (KdCacheWriter *writer, const KdCachePart *part)
{
  if (part->stride > 0)
    kd_cache_index_add_run (writer->index, part);
  else
    kd_cache_index_add_keys (writer->index, part->rows,
        (gint64 *) writer->columns[kd_cache_field_index (writer->manifest, "sample.id")].data,
        (gint64 *) writer->columns[kd_cache_field_index (writer->manifest, "sample.view")].data, part->first_row);
}

gboolean
kd_cache_writer_launch (KdCacheWriter *writer, GError **error)
{
  KdCacheFlight *flight;

  if (!kd_cache_writer_land (writer, error))
    return FALSE;
  if (writer->n_pending == 0)
    return TRUE;
  flight = g_new0 (KdCacheFlight, 1);
  flight->manifest = writer->manifest;
  flight->path = writer->path;
  flight->part = kd_cache_part_new (writer->manifest, writer->next_number++, writer->columns, writer->n_pending);
  flight->part->first_row = writer->manifest->n_rows;
  if (writer->measured) {
    kd_cache_encodings_add (writer->manifest->encodings, writer->measured);
    g_clear_pointer (&writer->measured, g_ptr_array_unref);
  }
  know_rows (writer, flight->part);
  flight->columns = writer->columns;
  writer->columns = g_steal_pointer (&writer->spare);
  if (!writer->columns)
    kd_cache_writer_make_columns (writer);
  writer->n_flying = writer->n_pending;
  writer->n_pending = 0;
  g_clear_pointer (&writer->pending, g_hash_table_unref);
  writer->flight = flight;
  writer->thread = g_thread_new ("kd-cache-part", fly, flight);
  return TRUE;
}

gboolean
kd_cache_writer_commit (KdCacheWriter *writer, GError **error)
{
  return kd_cache_writer_launch (writer, error) && kd_cache_writer_land (writer, error);
}

gboolean
kd_cache_writer_stop (KdCacheWriter *writer, GError **error)
{
  return kd_cache_writer_commit (writer, error) && kd_cache_write_master (writer->manifest, writer->path, TRUE, error);
}

gboolean
kd_cache_writer_finish (KdCacheWriter *writer, GError **error)
{
  if (!kd_cache_writer_stop (writer, error))
    return FALSE;
  writer->manifest->complete = TRUE;
  return kd_cache_manifest_save (writer->manifest, writer->path, error);
}
