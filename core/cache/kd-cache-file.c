/* An open part: what the manifest says of it is checked when it opens, each block of rows when it is first touched. */
#include "kd-cache-private.h"

#include "../math/kd-crc32c.h"

#include <string.h>

static gboolean
refuse (GError **error, KdError code, const gchar *path, const gchar *format, ...) G_GNUC_PRINTF (4, 5);

static gboolean
refuse (GError **error, KdError code, const gchar *path, const gchar *format, ...)
{
  g_autofree gchar *reason = NULL;
  va_list args;

  va_start (args, format);
  reason = g_strdup_vprintf (format, args);
  va_end (args);
  g_set_error (error, KD_ERROR, code, "Cannot read cache part: path=\"%s\", %s; look at the whole with: kd cache verify", path, reason);
  return FALSE;
}

void
kd_cache_file_close (KdCacheFile *file)
{
  for (guint i = 0; file->checked && i < file->n_fields; i++)
    g_free (file->checked[i]);
  g_free (file->checked);
  g_free (file->columns);
  g_clear_pointer (&file->sums, g_ptr_array_unref);
  g_clear_pointer (&file->reader, kd_h5_reader_close);
  g_free (file);
}

KdTensor *
kd_cache_block_sums (gconstpointer data, gint64 rows, gsize row_bytes, gint64 block_rows)
{
  gint64 n = (rows + block_rows - 1) / block_rows;
  KdTensor *sums = kd_tensor_new (KD_INT64, 1, &n);

  for (gint64 i = 0; i < n; i++) {
    gint64 first = i * block_rows, now = MIN (block_rows, rows - first);
    ((gint64 *) sums->data)[i] =
        kd_crc32c (0, (const guint8 *) data + (gsize) first * row_bytes, (gsize) now * row_bytes);
  }
  return sums;
}

guint32
kd_cache_sum_sums (guint32 crc, const KdTensor *sums)
{
  return kd_crc32c (crc, sums->data, sums->n_bytes);
}

/* The checksums themselves are covered by the manifest's. */
static gboolean
load_sums (KdCacheFile *file, const KdCacheManifest *manifest, const KdCachePart *part, const gchar *path, GError **error)
{
  g_autoptr (KdH5Reader) reader = kd_h5_reader_open_full (path, KD_CACHE_CHECKSUMS, FALSE, error);
  gint64 n_blocks = (part->rows + manifest->block_rows - 1) / manifest->block_rows;
  guint32 crc = 0;

  if (!reader)
    return FALSE;
  file->n_fields = kd_layout_n_fields (manifest->layout);
  file->block_shift = (manifest->block_rows & (manifest->block_rows - 1)) ? -1 : (gint) g_bit_storage ((gulong) manifest->block_rows) - 1;
  file->sums = g_ptr_array_new_with_free_func ((GDestroyNotify) kd_tensor_unref);
  file->checked = g_new0 (guint8 *, file->n_fields);
  file->columns = g_new0 (KdH5Column *, file->n_fields);
  for (guint i = 0; i < file->n_fields; i++) {
    const KdLayoutField *field = kd_layout_nth (manifest->layout, i);
    KdTensor *sums = kd_h5_reader_read_all (reader, field->name, error);
    if (!sums)
      return FALSE;
    g_ptr_array_add (file->sums, sums);
    file->columns[i] = kd_h5_find_column (file->reader, field->name);
    if (sums->dtype != KD_INT64 || sums->rank != 1 || sums->dims[0] != n_blocks)
      return refuse (error, KD_ERROR_FORMAT, path, "dataset=\"%s/%s\", wanted=int64 [%" G_GINT64_FORMAT "]", KD_CACHE_CHECKSUMS,
          field->name, n_blocks);
    crc = kd_cache_sum_sums (crc, sums);
    file->checked[i] = g_new0 (guint8, MAX (n_blocks, 1));
  }
  if (crc != part->checksum)
    return refuse (error, KD_ERROR_IO, path, "checksums=%08x, manifest=%08x, reason=the part was changed or replaced", crc,
        part->checksum);
  return TRUE;
}

KdCacheFile *
kd_cache_file_open (const KdCacheManifest *manifest, const KdCachePart *part, const gchar *path, gboolean may_map, GError **error)
{
  KdCacheFile *file = g_new0 (KdCacheFile, 1);
  g_autoptr (GError) why = NULL;
  gboolean good = FALSE;

  file->reader = kd_h5_reader_open_full (path, NULL, may_map, &why);
  if (!file->reader) {
    refuse (error, why->code, path, "reason=%s", why->message);
  } else if ((gint64) kd_h5_reader_size (file->reader) != part->bytes) {
    refuse (error, KD_ERROR_IO, path, "bytes=%" G_GUINT64_FORMAT ", manifest=%" G_GINT64_FORMAT ", reason=cut or replaced",
        kd_h5_reader_size (file->reader), part->bytes);
  } else if (kd_h5_reader_n_rows (file->reader) != part->rows) {
    refuse (error, KD_ERROR_SHAPE, path, "rows=%" G_GINT64_FORMAT ", manifest=%" G_GINT64_FORMAT,
        kd_h5_reader_n_rows (file->reader), part->rows);
  } else if (!kd_layout_equal (kd_h5_reader_layout (file->reader), manifest->layout)) {
    g_autofree gchar *have = kd_layout_to_string (kd_h5_reader_layout (file->reader));
    g_autofree gchar *wanted = kd_layout_to_string (manifest->layout);
    refuse (error, KD_ERROR_SHAPE, path, "fields=\"%s\", manifest=\"%s\"", have, wanted);
  } else {
    good = load_sums (file, manifest, part, path, error);
  }
  if (good)
    return file;
  kd_cache_file_close (file);
  return NULL;
}

gboolean
kd_cache_file_check_block (KdCacheFile *file, const KdCacheManifest *manifest, const KdCachePart *part, guint nth,
    gint64 block, GError **error)
{
  gint64 first = block * manifest->block_rows;
  gint64 n = MIN (manifest->block_rows, part->rows - first);
  const KdLayoutField *field = kd_layout_nth (manifest->layout, nth);
  const KdTensor *sums = g_ptr_array_index (file->sums, nth);
  g_autoptr (KdTensor) rows = NULL;
  gint64 crc, wanted = ((const gint64 *) sums->data)[block];

  rows = kd_h5_reader_read (file->reader, field->name, first, n, error);
  if (!rows)
    return FALSE;
  crc = kd_crc32c (0, rows->data, rows->n_bytes);
  if (crc != wanted)
    return refuse (error, KD_ERROR_IO, kd_h5_reader_path (file->reader), "dataset=\"%s\", rows=%" G_GINT64_FORMAT " to %" G_GINT64_FORMAT ", reason=checksum, found=%08x, wanted=%08x", field->name, first, first + n - 1, (guint) crc, (guint) wanted);
  file->checked[nth][block] = 1;
  return TRUE;
}
