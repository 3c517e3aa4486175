/* One self-contained file of a cache: rows in the order of their keys, the manifest as an attribute, optionally compressed. */
#include "kd-cache-private.h"

#include "../math/kd-crc32c.h"

#include <string.h>
#include <unistd.h>

#define STEP_BYTES ((gsize) 8 << 20)
#define CHUNK_BYTES ((gsize) 256 << 10)
#define FILTER_BLOSC 32001

static const struct {
  const gchar *name;
  guint compressor, level, shuffle; /* of blosc */
} filters[] = {
  { "none" },
  { "deflate" },
  { "blosc-lz4", 1, 5, 1 },
  { "blosc-zstd", 5, 3, 2 }, /* 2: by bits */
};

typedef struct {
  KdCacheReader *reader;
  const KdCacheManifest *from;
  KdCacheManifest *to;
  KdCachePart *part;
  hid_t file;
  guint filter;
  const gint64 *rows; /* in the order of their keys */
  gint64 step;
} Pack;

static gboolean
set_filter (hid_t create, const KdLayoutField *field, gint64 n_rows, gsize row_bytes, guint filter)
{
  hsize_t chunk[KD_MAX_RANK] = { (hsize_t) CLAMP ((gint64) (CHUNK_BYTES / MAX (row_bytes, 1)), 1, n_rows) };
  unsigned values[7] = { 0, 0, 0, 0, filters[filter].level, filters[filter].shuffle, filters[filter].compressor };

  if (filter == 0)
    return TRUE;
  for (guint i = 1; i < field->rank; i++)
    chunk[i] = (hsize_t) MAX (field->dims[i], 1);
  if (H5Pset_chunk (create, (int) field->rank, chunk) < 0)
    return FALSE;
  if (filter == 1)
    return H5Pset_shuffle (create) >= 0 && H5Pset_deflate (create, 1) >= 0;
  return H5Pset_filter (create, FILTER_BLOSC, H5Z_FLAG_MANDATORY, G_N_ELEMENTS (values), values) >= 0;
}

static hid_t
create_dataset (const Pack *pack, const KdLayoutField *field, gsize row_bytes)
{
  g_auto (KdHid) create = H5Pcreate (H5P_DATASET_CREATE);
  g_auto (KdHid) type = kd_h5_file_type (field->dtype);
  g_auto (KdHid) space = -1;
  hsize_t dims[KD_MAX_RANK] = { (hsize_t) pack->from->n_rows };
  hid_t dataset;

  for (guint i = 1; i < field->rank; i++)
    dims[i] = (hsize_t) field->dims[i];
  space = H5Screate_simple ((int) field->rank, dims, NULL);
  H5Pset_fill_time (create, H5D_FILL_TIME_NEVER);
  if (!set_filter (create, field, pack->from->n_rows, row_bytes, pack->filter))
    return -1;
  dataset = H5Dcreate2 (pack->file, field->name, type, space, H5P_DEFAULT, create, H5P_DEFAULT);
  if (dataset >= 0 && field->dtype == KD_BFLOAT16)
    kd_h5_set_attribute (dataset, "kd.dtype", "bfloat16");
  return dataset;
}

static gboolean
write_step (hid_t dataset, const KdTensor *tensor, gint64 first)
{
  g_auto (KdHid) type = kd_h5_file_type (tensor->dtype);
  g_auto (KdHid) space = H5Dget_space (dataset);
  g_auto (KdHid) memory = -1;
  hsize_t start[KD_MAX_RANK] = { (hsize_t) first }, count[KD_MAX_RANK];

  for (guint i = 0; i < tensor->rank; i++)
    count[i] = (hsize_t) tensor->dims[i];
  memory = H5Screate_simple ((int) tensor->rank, count, NULL);
  return H5Sselect_hyperslab (space, H5S_SELECT_SET, start, NULL, count, NULL) >= 0 &&
      H5Dwrite (dataset, type, memory, space, H5P_DEFAULT, tensor->data) >= 0;
}

static gboolean
fail_pack (const gchar *output, GError **error)
{
  g_autofree gchar *reason = kd_h5_reason ();

  g_set_error (error, KD_ERROR, KD_ERROR_IO, "Cannot write: path=\"%s\", reason=%s", output, reason);
  return FALSE;
}

/* One field, a step at a time; steps are whole checksum blocks. */
static gboolean
pack_field (Pack *pack, guint nth, const gchar *output, KdTensor **ret_sums, KdCacheProgress progress, gpointer user_data,
    GError **error)
{
  const KdLayoutField *field = kd_layout_nth (pack->from->layout, nth);
  gsize row_bytes = kd_dtype_size (field->dtype);
  gint64 n = pack->from->n_rows, block = pack->from->block_rows, n_blocks = (n + block - 1) / block;
  guint n_fields = kd_layout_n_fields (pack->from->layout);
  g_autoptr (KdTensor) sums = kd_tensor_new (KD_INT64, 1, &n_blocks);
  g_auto (KdHid) dataset = -1;

  for (guint i = 1; i < field->rank; i++)
    row_bytes *= (gsize) field->dims[i];
  dataset = create_dataset (pack, field, row_bytes);
  if (dataset < 0)
    return fail_pack (output, error);
  for (gint64 first = 0; first < n; first += pack->step) {
    gint64 now = MIN (pack->step, n - first);
    g_autoptr (KdTensor) rows = kd_cache_reader_take_stored (pack->reader, field->name, now, pack->rows + first, error);
    g_autoptr (KdTensor) piece = rows ? kd_cache_block_sums (rows->data, now, row_bytes, block) : NULL;
    if (!rows)
      return FALSE;
    memcpy ((gint64 *) sums->data + first / block, piece->data, piece->n_bytes);
    if (!write_step (dataset, rows, first))
      return fail_pack (output, error);
    if (progress)
      progress ((n * nth + first + now) / n_fields, n, user_data);
  }
  *ret_sums = g_steal_pointer (&sums);
  return TRUE;
}

static gboolean
pack_fields (Pack *pack, const gchar *output, KdCacheProgress progress, gpointer user_data, GError **error)
{
  g_auto (KdHid) group = H5Gcreate2 (pack->file, KD_CACHE_CHECKSUMS, H5P_DEFAULT, H5P_DEFAULT, H5P_DEFAULT);
  g_autofree gchar *fields = kd_layout_to_string (pack->from->layout), *text = NULL;

  for (guint i = 0; i < kd_layout_n_fields (pack->from->layout); i++) {
    const gchar *name = kd_layout_nth (pack->from->layout, i)->name;
    g_autoptr (KdTensor) sums = NULL;
    g_auto (KdHid) stored = -1;
    if (!pack_field (pack, i, output, &sums, progress, user_data, error))
      return FALSE;
    pack->part->checksum = kd_cache_sum_sums (pack->part->checksum, sums);
    stored = kd_h5_put (group, name, KD_INT64, 1, sums->dims, sums->data);
    if (stored < 0)
      return fail_pack (output, error);
  }
  text = kd_cache_manifest_print (pack->to);
  if (kd_h5_set_attribute (pack->file, "kd.schema", KD_H5_SCHEMA) && kd_h5_set_attribute (pack->file, "kd.fields", fields) &&
      kd_h5_set_attribute (pack->file, "kd.created-by", pack->to->created_by) &&
      kd_h5_set_attribute (pack->file, KD_CACHE_ATTRIBUTE, text))
    return TRUE;
  return fail_pack (output, error);
}

static gboolean
find_filter (const gchar *name, guint *ret_filter, GError **error)
{
  g_auto (KdH5Guard) guard = kd_h5_enter ();
  guint i = 0;

  while (i < G_N_ELEMENTS (filters) && !g_str_equal (filters[i].name, name))
    i++;
  if (i == G_N_ELEMENTS (filters)) {
    g_set_error (error, KD_ERROR, KD_ERROR_RANGE, "Unknown filter: filter=\"%s\", wanted=none, deflate, blosc-lz4 or blosc-zstd", name);
    return FALSE;
  }
  if (i > 1 && H5Zfilter_avail (FILTER_BLOSC) <= 0) {
    g_set_error (error, KD_ERROR, KD_ERROR_UNSUPPORTED, "Filter not installed: filter=%s; install the Debian package "
                                                        "hdf5-filter-plugin-blosc-serial, or use deflate",
        name);
    return FALSE;
  }
  *ret_filter = i;
  return TRUE;
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

static gboolean
write_pack (Pack *pack, const gchar *output, KdCacheProgress progress, gpointer user_data, GError **error)
{
  g_auto (KdH5Guard) guard = kd_h5_enter ();
  g_autofree gchar *temporary = NULL;
  gsize row_bytes = kd_cache_row_bytes (pack->from->layout);
  guint64 bytes = pack->filter ? 0 : (guint64) pack->from->n_rows * row_bytes;
  gboolean good;

  pack->step = MAX ((gint64) (STEP_BYTES / row_bytes) / pack->from->block_rows, 1) * pack->from->block_rows;
  pack->file = kd_h5_create (output, bytes, &temporary, error);
  if (pack->file < 0)
    return FALSE;
  good = pack_fields (pack, output, progress, user_data, error);
  if (H5Fclose (pack->file) < 0 && good)
    good = fail_pack (output, error);
  if (good)
    return kd_h5_publish (temporary, output, error);
  unlink (temporary);
  return FALSE;
}

gboolean
kd_cache_pack (const gchar *path, const gchar *output, const gchar *filter, KdCacheProgress progress, gpointer user_data,
    GError **error)
{
  g_autoptr (KdCacheReader) reader = kd_cache_reader_open (path, error);
  g_autoptr (KdCacheManifest) to = kd_cache_manifest_new ();
  g_autofree gint64 *rows = NULL, *ids = NULL, *views = NULL;
  g_autofree gchar *folder = kd_cache_folder (output);
  Pack pack = { .reader = reader, .to = to, .file = -1 };

  if (!reader || !find_filter (filter ? filter : "none", &pack.filter, error))
    return FALSE;
  pack.from = kd_cache_reader_manifest (reader);
  if (pack.from->n_rows == 0 || g_file_test (folder, G_FILE_TEST_EXISTS)) {
    g_set_error (error, KD_ERROR, KD_ERROR_RANGE, "Cannot pack: path=\"%s\", rows=%" G_GINT64_FORMAT ", output=\"%s\", reason=%s", path,
        pack.from->n_rows, output, pack.from->n_rows ? "the output is a cache with parts; choose another name" : "nothing in it");
    return FALSE;
  }
  pack.rows = rows = kd_cache_reader_sorted (reader, &ids, &views);
  describe (&pack, ids, views);
  return write_pack (&pack, output, progress, user_data, error);
}
