/* One dataset of a file that may lie: what is accepted, where its bytes are, and reading it through libhdf5 where they cannot be
 * used as they are. */
#include "kd-h5-private.h"

#include <stdlib.h>
#include <string.h>

#define CHUNK_CACHE_BYTES ((gsize) 64 << 20)

void
kd_h5_column_free (KdH5Column *column)
{
  kd_h5_chunks_forget (column);
  kd_hid_close (column->dataset);
  kd_hid_close (column->memory);
  g_free (column->chunks);
  g_free (column->chunk_sizes);
  g_free (column->unpacks);
  g_free (column->name);
  g_free (column);
}

static const struct {
  H5Z_filter_t id;
  const gchar *name, *package;
} known_filters[] = {
  { H5Z_FILTER_DEFLATE, "deflate", "libhdf5-103-1" },
  { H5Z_FILTER_SHUFFLE, "shuffle", "libhdf5-103-1" },
  { H5Z_FILTER_FLETCHER32, "fletcher32", "libhdf5-103-1" },
  { H5Z_FILTER_SZIP, "szip", "libsz2" },
  { 307, "bzip2", "hdf5-filter-plugin" },
  { 32000, "lzf", "hdf5-plugin-lzf" },
  { 32001, "blosc", "hdf5-filter-plugin-blosc-serial" },
  { 32004, "lz4", "hdf5-filter-plugin" },
  { 32008, "bitshuffle", "bitshuffle" },
};

static gboolean
check_filters (hid_t create, const gchar *path, const gchar *name, GError **error)
{
  gint n = H5Pget_nfilters (create);

  for (gint i = 0; i < n; i++) {
    unsigned flags, config;
    size_t n_values = 0;
    H5Z_filter_t id = H5Pget_filter2 (create, (unsigned) i, &flags, &n_values, NULL, 0, NULL, &config);
    guint known = 0;

    /* libhdf5 1.10 unpacks these beyond the end of what is there: tests/fuzz/README.md. */
    if (id == H5Z_FILTER_NBIT || id == H5Z_FILTER_SCALEOFFSET)
      return kd_h5_fail (error, KD_ERROR_FORMAT, path, name, "filter=%s, reason=a filter that is not safe with damaged files; write the file without it: h5repack -f NONE",
          id == H5Z_FILTER_NBIT ? "nbit" : "scaleoffset");
    while (known < G_N_ELEMENTS (known_filters) && known_filters[known].id != id)
      known++;
    if (known == G_N_ELEMENTS (known_filters))
      return kd_h5_fail (error, KD_ERROR_FORMAT, path, name, "filter=%d, reason=a filter that is not known here; "
                                                             "write the file without it",
          id);
    if (!kd_h5_has_filter (id))
      return kd_h5_fail (error, KD_ERROR_UNSUPPORTED, path, name, "filter=%s (%d), reason=filter not installed; "
                                                                  "install the Debian package %s",
          known_filters[known].name, id, known_filters[known].package);
  }
  return TRUE;
}

/* Links: only hard ones. A soft or external link, or external storage, would make a data set out of any file. */
static gboolean
check_link (hid_t group, const gchar *name, const gchar *path, GError **error)
{
  H5L_info_t link;
  H5O_info_t object;

  if (H5Lget_info (group, name, &link, H5P_DEFAULT) < 0)
    return kd_h5_fail (error, KD_ERROR_FORMAT, path, name, "reason=damaged link");
  if (link.type != H5L_TYPE_HARD)
    return kd_h5_fail (error, KD_ERROR_FORMAT, path, name, "reason=%s link; links out of a batch file are refused: copy the "
                                                           "data into it",
        link.type == H5L_TYPE_SOFT ? "soft" : "external");
  if (H5Oget_info_by_name2 (group, name, &object, H5O_INFO_BASIC, H5P_DEFAULT) < 0)
    return kd_h5_fail (error, KD_ERROR_FORMAT, path, name, "reason=damaged object header");
  if (object.type != H5O_TYPE_DATASET)
    return kd_h5_fail (error, KD_ERROR_FORMAT, path, name, "reason=not a dataset");
  return TRUE;
}

static gboolean
read_shape (KdH5Column *column, hid_t space, const gchar *path, GError **error)
{
  hsize_t dims[H5S_MAX_RANK];
  gint rank = H5Sget_simple_extent_ndims (space);
  gsize bytes;

  if (H5Sget_simple_extent_type (space) == H5S_NULL)
    return kd_h5_fail (error, KD_ERROR_FORMAT, path, column->name, "reason=an empty dataspace");
  if (rank < 0 || rank > KD_MAX_RANK || H5Sget_simple_extent_dims (space, dims, NULL) < 0)
    return kd_h5_fail (error, KD_ERROR_FORMAT, path, column->name, "rank=%d, reason=at most %d axes are supported", rank,
        KD_MAX_RANK);
  column->rank = (guint) rank;
  column->row_bytes = kd_dtype_size (column->dtype);
  for (gint i = 0; i < rank; i++)
    column->dims[i] = dims[i] > G_MAXINT64 ? -1 : (gint64) dims[i];
  if (!kd_shape_bytes (column->dtype, column->rank, column->dims, &bytes))
    return kd_h5_fail (error, KD_ERROR_FORMAT, path, column->name, "reason=its shape overflows");
  for (guint i = 1; i < column->rank; i++)
    column->row_bytes *= (gsize) column->dims[i];
  column->n_rows = rank ? column->dims[0] : 1;
  return TRUE;
}

static gboolean
place_contiguous (KdH5Column *column, gboolean raw, gsize stored_row, const gchar *path, guint64 file_size, GError **error)
{
  guint64 wanted = (guint64) column->n_rows * stored_row;
  haddr_t offset = H5Dget_offset (column->dataset);

  if (wanted == 0)
    return TRUE;
  if (offset == HADDR_UNDEF)
    return kd_h5_fail (error, KD_ERROR_FORMAT, path, column->name, "rows=%" G_GINT64_FORMAT ", reason=declared but never written", column->n_rows);
  if (H5Dget_storage_size (column->dataset) != wanted || offset > file_size || wanted > file_size - offset)
    return kd_h5_fail (error, KD_ERROR_IO, path, column->name, "offset=%" G_GUINT64_FORMAT ", bytes=%" G_GUINT64_FORMAT ", file=%" G_GUINT64_FORMAT " bytes, reason=truncated or lying about its shape", (guint64) offset, wanted, file_size);
  if (raw) {
    column->storage = KD_H5_CONTIGUOUS;
    column->offset = offset;
  }
  return TRUE;
}

/* Where every chunk of whole rows is; leaves the column with the library when one is missing or cut, or a filter of it was left out. */
static void
locate_chunks (KdH5Column *column, const hsize_t *chunk, guint64 n_chunks, gboolean filtered, guint64 file_size)
{
  g_autofree guint64 *chunks = g_new (guint64, n_chunks);
  g_autofree guint32 *sizes = filtered ? g_new (guint32, n_chunks) : NULL;
  guint64 bytes = chunk[0] * column->row_bytes;

  for (guint i = 1; i < column->rank; i++)
    if (chunk[i] != (hsize_t) column->dims[i])
      return;
  for (guint64 i = 0; i < n_chunks; i++) {
    hsize_t at[KD_MAX_RANK] = { i * chunk[0] }, size = 0;
    unsigned mask = 0;
    haddr_t address = HADDR_UNDEF;
    if (H5Dget_chunk_info_by_coord (column->dataset, at, &mask, &address, &size) < 0 || address == HADDR_UNDEF ||
        (filtered ? mask != 0 || size > G_MAXUINT32 : size != bytes) || address > file_size || size > file_size - address)
      return;
    chunks[i] = address;
    if (filtered)
      sizes[i] = (guint32) size;
  }
  column->storage = filtered ? KD_H5_FILTERED : KD_H5_CHUNKED;
  column->chunk_sizes = g_steal_pointer (&sizes);
  column->last_chunk = -1;
  column->chunk_rows = (gint64) chunk[0];
  column->chunks = g_steal_pointer (&chunks);
}

/* Whether every chunk without filters has its bytes: libhdf5 1.10 copies so many out of one that has fewer. */
static gboolean
chunks_have_size (const KdH5Column *column, const hsize_t *chunk, guint64 bytes)
{
  hsize_t at[KD_MAX_RANK] = { 0 };

  for (;;) {
    hsize_t size = 0;
    unsigned mask = 0;
    haddr_t address = HADDR_UNDEF;
    guint axis = column->rank;
    if (H5Dget_chunk_info_by_coord (column->dataset, at, &mask, &address, &size) < 0 || address == HADDR_UNDEF || size != bytes)
      return FALSE;
    for (;;) {
      if (axis-- == 0)
        return TRUE;
      at[axis] += chunk[axis];
      if (at[axis] < (hsize_t) column->dims[axis])
        break;
      at[axis] = 0;
    }
  }
}

static gboolean
place_chunked (KdH5Column *column, hid_t create, hid_t space, gboolean raw, gsize element, const gchar *path,
    guint64 file_size, GError **error)
{
  hsize_t chunk[H5S_MAX_RANK] = { 0 }, n_found = 0;
  gint rank = H5Pget_chunk (create, H5S_MAX_RANK, chunk);
  guint64 n_chunks = 1, bytes = element, stored = H5Dget_storage_size (column->dataset);
  gboolean filtered = H5Pget_nfilters (create) > 0;

  /* A rank that differs makes HDF5 1.10 divide by zero (CVE-2026-19025). */
  if (rank < 1 || (guint) rank != column->rank)
    return kd_h5_fail (error, KD_ERROR_FORMAT, path, column->name, "chunk rank=%d, rank=%u, reason=damaged", rank, column->rank);
  for (gint i = 0; i < rank; i++) {
    if (chunk[i] == 0 || !g_uint64_checked_mul (&bytes, bytes, chunk[i]) ||
        !g_uint64_checked_mul (&n_chunks, n_chunks, ((guint64) column->dims[i] + chunk[i] - 1) / chunk[i]))
      return kd_h5_fail (error, KD_ERROR_FORMAT, path, column->name, "reason=impossible chunk sizes");
  }
  if (n_chunks == 0 || column->row_bytes == 0)
    return TRUE;
  if (stored > file_size || (filtered && bytes > KD_H5_MAX_CHUNK_BYTES))
    return kd_h5_fail (error, KD_ERROR_FORMAT, path, column->name, "chunk=%" G_GUINT64_FORMAT " bytes, stored=%" G_GUINT64_FORMAT " bytes, file=%" G_GUINT64_FORMAT " bytes, reason=impossible chunk sizes", bytes, stored, file_size);
  if (H5Dget_num_chunks (column->dataset, space, &n_found) < 0 || n_found != n_chunks ||
      (!filtered && stored / bytes != n_chunks))
    return kd_h5_fail (error, KD_ERROR_IO, path, column->name, "chunks=%" G_GUINT64_FORMAT ", wanted=%" G_GUINT64_FORMAT ", reason=truncated or lying about its shape", (guint64) n_found, n_chunks);
  if (filtered && !kd_h5_pipeline_get (&column->pipeline, create, element, bytes))
    return kd_h5_pipeline_has_others (create) || kd_h5_fail (error, KD_ERROR_FORMAT, path, column->name, "filters=%d, reason=more than one compressor, or more than four filters: too many to check; write the file with fewer", H5Pget_nfilters (create));
  if (raw)
    locate_chunks (column, chunk, n_chunks, filtered, file_size);
  if (!filtered && column->storage == KD_H5_LIBRARY && !chunks_have_size (column, chunk, bytes))
    return kd_h5_fail (error, KD_ERROR_IO, path, column->name, "chunk=%" G_GUINT64_FORMAT " bytes, reason=a chunk has not so many; the file is damaged", bytes);
  if (filtered && column->storage == KD_H5_LIBRARY) {
    column->chunk_rows = (gint64) MIN (chunk[0], (hsize_t) column->n_rows);
    column->unpacks = g_new0 (guint8, (column->n_rows + column->chunk_rows - 1) / column->chunk_rows);
  }
  return TRUE;
}

static gboolean
place (KdH5Column *column, hid_t create, hid_t space, gboolean raw, gsize element, const gchar *path, guint64 file_size,
    GError **error)
{
  gsize stored_row = element * (column->row_bytes / kd_dtype_size (column->dtype));

  if (H5Pget_external_count (create) != 0)
    return kd_h5_fail (error, KD_ERROR_FORMAT, path, column->name, "reason=external storage is refused: copy the data into the "
                                                                   "file");
  switch (H5Pget_layout (create)) {
  case H5D_COMPACT:
    if (H5Dget_storage_size (column->dataset) == (guint64) column->n_rows * stored_row)
      return TRUE;
    return kd_h5_fail (error, KD_ERROR_IO, path, column->name, "reason=truncated or lying about its shape");
  case H5D_CONTIGUOUS:
    return place_contiguous (column, raw, stored_row, path, file_size, error);
  case H5D_CHUNKED:
    return check_filters (create, path, column->name, error) &&
        place_chunked (column, create, space, raw, element, path, file_size, error);
  case H5D_VIRTUAL:
    return kd_h5_fail (error, KD_ERROR_FORMAT, path, column->name, "reason=a virtual dataset; read a teacher cache with kdcache, "
                                                                   "or make one file of it: kd cache pack");
  default:
    return kd_h5_fail (error, KD_ERROR_FORMAT, path, column->name, "reason=unknown storage layout");
  }
}

static hid_t
open_dataset (hid_t group, const gchar *name)
{
  g_auto (KdHid) access = H5Pcreate (H5P_DATASET_ACCESS);

  H5Pset_chunk_cache (access, 12421, CHUNK_CACHE_BYTES, 1.0);
  return H5Dopen2 (group, name, access);
}

static gboolean
column_check (KdH5Column *column, const gchar *path, guint64 file_size, gboolean may_map, GError **error)
{
  g_auto (KdHid) type = H5Dget_type (column->dataset);
  g_auto (KdHid) space = H5Dget_space (column->dataset);
  g_auto (KdHid) create = H5Dget_create_plist (column->dataset);
  g_autofree gchar *marked = NULL;
  gboolean raw = FALSE;

  if (type < 0 || space < 0 || create < 0)
    return kd_h5_fail (error, KD_ERROR_FORMAT, path, column->name, "reason=damaged object header");
  column->dtype = H5Tcommitted (type) > 0 ? 0 : kd_h5_dtype (type, &column->memory, &raw);
  if (!column->dtype)
    return kd_h5_fail (error, KD_ERROR_FORMAT, path, column->name, "reason=its element type is not supported; wanted "
                                                                   "float16/32/64, integers, bool, or text as NAME.bytes + NAME.offset");
  marked = kd_h5_attribute (column->dataset, "kd.dtype");
  if (column->dtype == KD_UINT16 && g_strcmp0 (marked, "bfloat16") == 0)
    column->dtype = KD_BFLOAT16;
  column->was_unsigned = column->dtype == KD_INT64 && H5Tequal (column->memory, H5T_NATIVE_UINT64) > 0;
  if (!read_shape (column, space, path, error))
    return FALSE;
  raw = raw && may_map && !column->was_unsigned;
  return place (column, create, space, raw, H5Tget_size (type), path, file_size, error);
}

KdH5Column *
kd_h5_column_open (hid_t group, const gchar *name, const gchar *path, guint64 file_size, gboolean may_map, GError **error)
{
  KdH5Column *column;

  if (!check_link (group, name, path, error))
    return NULL;
  column = g_new0 (KdH5Column, 1);
  column->name = g_strdup (name);
  column->memory = -1;
  column->dataset = open_dataset (group, name);
  if (column->dataset < 0) {
    g_autofree gchar *reason = kd_h5_reason ();
    kd_h5_fail (error, KD_ERROR_FORMAT, path, name, "reason=%s", reason);
  }
  if (column->dataset < 0 || !column_check (column, path, file_size, may_map, error)) {
    kd_h5_column_free (column);
    return NULL;
  }
  if (column->storage != KD_H5_LIBRARY) {
    /* Its bytes are reached without HDF5 from here on. */
    kd_hid_close (column->dataset);
    kd_hid_close (column->memory);
    column->dataset = column->memory = -1;
  }
  return column;
}
