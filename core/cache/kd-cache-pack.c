/* One self-contained file of a cache: rows in the order of their keys, the manifest as an attribute, optionally compressed. */
#include "kd-cache-pack.h"

#include "../math/kd-crc32c.h"

#include <string.h>
#include <unistd.h>

#define STEP_BYTES ((gsize) 8 << 20)

typedef struct {
  KdCacheReader *reader;
  const KdCacheManifest *from;
  KdCacheManifest *to;
  KdCachePart *part;
  GArray *fields; /* of KdPackField, in the order of the output's layout */
  hid_t file;
  const gchar *filter;
  const gint64 *rows; /* in the order of their keys */
} Pack;

/* One field, a step at a time; steps are whole checksum blocks and whole chunks. FALSE without @error: it could not be written. */
static gboolean
pack_field (Pack *pack, guint nth, KdTensor **ret_sums, KdCacheProgress progress, gpointer user_data,
    GError **error)
{
  const KdLayoutField *field = kd_layout_nth (pack->to->layout, nth);
  gint64 n = pack->from->n_rows, block = pack->from->block_rows, n_blocks = (n + block - 1) / block, step;
  guint n_fields = kd_layout_n_fields (pack->to->layout);
  g_autoptr (KdTensor) sums = kd_tensor_new (KD_INT64, 1, &n_blocks);
  g_auto (KdHid) dataset = -1;
  KdPackWriter writer;

  if (!kd_pack_writer_open (&writer, pack->file, field, n, block, pack->filter))
    return FALSE;
  dataset = writer.dataset;
  step = writer.chunk_rows == n ? n : writer.chunk_rows * MAX ((gint64) (STEP_BYTES / MAX ((gsize) writer.chunk_rows * writer.row_bytes, 1)), 1);
  for (gint64 first = 0; first < n; first += step) {
    gint64 now = MIN (step, n - first);
    g_autoptr (KdTensor) rows = kd_pack_take (pack->reader, &g_array_index (pack->fields, KdPackField, nth), now, pack->rows + first, error);
    g_autoptr (KdTensor) piece = rows ? kd_cache_block_sums (rows->data, now, writer.row_bytes, block) : NULL;
    if (!rows)
      return FALSE;
    memcpy ((gint64 *) sums->data + first / block, piece->data, piece->n_bytes);
    if (!kd_pack_writer_write (&writer, rows, first) || kd_h5_write_error (pack->file))
      return FALSE;
    if (progress)
      progress ((n * nth + first + now) / n_fields, n, user_data);
  }
  *ret_sums = g_steal_pointer (&sums);
  return TRUE;
}

static gboolean
pack_fields (Pack *pack, KdCacheProgress progress, gpointer user_data, GError **error)
{
  g_auto (KdHid) group = H5Gcreate2 (pack->file, KD_CACHE_CHECKSUMS, H5P_DEFAULT, H5P_DEFAULT, H5P_DEFAULT);
  g_autofree gchar *fields = kd_layout_to_string (pack->to->layout), *text = NULL;

  for (guint i = 0; i < kd_layout_n_fields (pack->to->layout); i++) {
    const gchar *name = kd_layout_nth (pack->to->layout, i)->name;
    g_autoptr (KdTensor) sums = NULL;
    g_auto (KdHid) stored = -1;
    if (!pack_field (pack, i, &sums, progress, user_data, error))
      return FALSE;
    pack->part->checksum = kd_cache_sum_sums (pack->part->checksum, sums);
    stored = kd_h5_put (group, name, KD_INT64, 1, sums->dims, sums->data);
    if (stored < 0)
      return FALSE;
  }
  text = kd_cache_manifest_print (pack->to);
  return kd_h5_set_attribute (pack->file, "kd.schema", KD_H5_SCHEMA) && kd_h5_set_attribute (pack->file, "kd.fields", fields) &&
      kd_h5_set_attribute (pack->file, "kd.created-by", pack->to->created_by) &&
      kd_h5_set_attribute (pack->file, KD_CACHE_ATTRIBUTE, text);
}

static gboolean
check_filter (const gchar *name, GError **error)
{
  static const gchar *const filters[] = { "none", "deflate", "blosc-lz4", "blosc-zstd", NULL };
  KdH5Pipeline pipeline;

  if (!g_strv_contains (filters, name)) {
    g_set_error (error, KD_ERROR, KD_ERROR_RANGE, "Unknown filter: filter=\"%s\", wanted=none, deflate, blosc-lz4 or blosc-zstd", name);
    return FALSE;
  }
  if (g_str_equal (name, "none") || kd_h5_pipeline_init (&pipeline, name, 1, 1))
    return TRUE;
  g_set_error (error, KD_ERROR, KD_ERROR_UNSUPPORTED, "Filter not built in: filter=%s; build kdstream with the Debian package libblosc-dev, or use deflate", name);
  return FALSE;
}

/* The new manifest: one part, which is the file itself. */
static void
describe (Pack *pack, const gint64 *ids, const gint64 *views)
{
  pack->to->layout = kd_layout_copy (pack->from->layout);
  g_ptr_array_unref (pack->to->encodings);
  pack->to->encodings = kd_cache_encodings_copy (pack->from->encodings, TRUE);
  pack->to->block_rows = pack->from->block_rows;
  pack->to->complete = pack->from->complete;
  kd_cache_identity_copy (&pack->from->identity, &pack->to->identity);
  pack->part = g_new0 (KdCachePart, 1);
  pack->part->file = g_strdup ("00000.h5");
  pack->part->rows = pack->from->n_rows;
  pack->part->bytes = 1; /* not known before it is written; the reader takes the file's */
  kd_cache_describe_keys (pack->part, ids, views);
  kd_cache_manifest_add (pack->to, pack->part);
}

/* Where each field of the output comes from. */
static gboolean
plan (Pack *pack, const gchar *path, KdCachePackFlags flags, GError **error)
{
  pack->fields = g_array_new (FALSE, TRUE, sizeof (KdPackField));
  for (guint i = 0; i < kd_layout_n_fields (pack->from->layout); i++) {
    KdPackField field = { kd_layout_nth (pack->from->layout, i)->name, NULL, NULL };
    g_array_append_val (pack->fields, field);
  }
  return !(flags & KD_CACHE_PACK_INDEX) || kd_pack_index (pack->reader, path, pack->rows, pack->to, pack->fields, error);
}

static gboolean
write_pack (Pack *pack, const gchar *output, KdCacheProgress progress, gpointer user_data, GError **error)
{
  g_auto (KdH5Guard) guard = kd_h5_enter ();
  g_autofree gchar *temporary = NULL;
  guint64 bytes = g_str_equal (pack->filter, "none") ? (guint64) pack->from->n_rows * kd_cache_row_bytes (pack->to->layout) : 0;
  gboolean good;

  kd_h5_sweep (output);
  pack->file = kd_h5_create (output, bytes, &temporary, error);
  if (pack->file < 0)
    return FALSE;
  good = pack_fields (pack, progress, user_data, error);
  return kd_h5_close_created (pack->file, good, temporary, output, error) && kd_h5_publish (temporary, output, error);
}

gboolean
kd_cache_pack (const gchar *path, const gchar *output, const gchar *filter, KdCachePackFlags flags, KdCacheProgress progress, gpointer user_data,
    GError **error)
{
  g_autoptr (KdCacheReader) reader = kd_cache_reader_open (path, error);
  g_autoptr (KdCacheManifest) to = kd_cache_manifest_new ();
  g_autoptr (GArray) fields = NULL;
  g_autofree gint64 *rows = NULL, *ids = NULL, *views = NULL;
  g_autofree gchar *folder = kd_cache_folder (output);
  Pack pack = { .reader = reader, .to = to, .file = -1, .filter = filter ? filter : "none" };
  gboolean good;

  if (!reader || !check_filter (pack.filter, error))
    return FALSE;
  pack.from = kd_cache_reader_manifest (reader);
  if (pack.from->n_rows == 0 || g_file_test (folder, G_FILE_TEST_EXISTS)) {
    g_set_error (error, KD_ERROR, KD_ERROR_RANGE, "Cannot pack: path=\"%s\", rows=%" G_GINT64_FORMAT ", output=\"%s\", reason=%s", path,
        pack.from->n_rows, output, pack.from->n_rows ? "the output is a cache with parts; choose another name" : "nothing in it");
    return FALSE;
  }
  pack.rows = rows = kd_cache_reader_sorted (reader, &ids, &views, error);
  if (!rows)
    return FALSE;
  describe (&pack, ids, views);
  good = plan (&pack, path, flags, error);
  fields = pack.fields;
  return good && write_pack (&pack, output, progress, user_data, error);
}
