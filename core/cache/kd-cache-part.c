/* Writing one part: rows in the order of their keys, contiguous, with checksums. */
#define _GNU_SOURCE /* sync_file_range */
#include "kd-cache-copy.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#define PIECE_BYTES ((gsize) 2 << 20)

typedef struct {
  gint64 id, view, place;
} Order;

static int
by_key (const void *a, const void *b)
{
  const Order *x = a, *y = b;

  if (x->id != y->id)
    return x->id < y->id ? -1 : 1;
  return x->view < y->view ? -1 : x->view > y->view;
}

/* The order of the keys, or NULL when the rows have it already. */
static Order *
find_order (const gint64 *ids, const gint64 *views, gint64 rows)
{
  Order *order;
  gint64 i = 1;

  while (i < rows && (ids[i] > ids[i - 1] || (ids[i] == ids[i - 1] && views[i] > views[i - 1])))
    i++;
  if (i >= rows)
    return NULL;
  order = g_new (Order, rows);
  for (i = 0; i < rows; i++)
    order[i] = (Order) { ids[i], views[i], i };
  qsort (order, (size_t) rows, sizeof *order, by_key);
  return order;
}

static void
apply_order (KdCacheColumn *column, const Order *order, gint64 rows)
{
  gsize bytes = column->row_bytes;
  KdCacheColumn sorted = { NULL, bytes, 0 };

  kd_cache_column_room (&sorted, column->capacity, 0);
  for (gint64 i = 0; i < rows; i++)
    memcpy (sorted.data + (gsize) i * bytes, column->data + (gsize) order[i].place * bytes, bytes);
  free (column->data);
  *column = sorted;
}

/* Evenly spaced ids of one view: the rows of such a part are found by calculation. */
void
kd_cache_describe_keys (KdCachePart *part, const gint64 *ids, const gint64 *views)
{
  guint64 stride = part->rows > 1 ? (guint64) ids[1] - (guint64) ids[0] : 1;

  part->first_id = ids[0];
  part->last_id = ids[part->rows - 1];
  part->view = views[0];
  part->stride = stride <= G_MAXINT64 ? (gint64) stride : 0;
  for (gint64 i = 1; i < part->rows; i++)
    if ((guint64) ids[i] - (guint64) ids[i - 1] != stride || views[i] != views[0])
      part->stride = 0;
}

/* Room for the rows in the file, and where it is. */
static hid_t
allocate (hid_t file, const KdLayoutField *field, gint64 rows, haddr_t *ret_offset)
{
  g_auto (KdHid) create = H5Pcreate (H5P_DATASET_CREATE);
  g_auto (KdHid) type = kd_h5_file_type (field->dtype);
  g_auto (KdHid) space = -1;
  hsize_t dims[KD_MAX_RANK] = { (hsize_t) rows };
  hid_t dataset;

  for (guint i = 1; i < field->rank; i++)
    dims[i] = (hsize_t) field->dims[i];
  space = H5Screate_simple ((int) field->rank, dims, NULL);
  H5Pset_alloc_time (create, H5D_ALLOC_TIME_EARLY);
  H5Pset_fill_time (create, H5D_FILL_TIME_NEVER);
  dataset = H5Dcreate2 (file, field->name, type, space, H5P_DEFAULT, create, H5P_DEFAULT);
  *ret_offset = dataset < 0 ? HADDR_UNDEF : H5Dget_offset (dataset);
  if (dataset >= 0 && field->dtype == KD_BFLOAT16 && !kd_h5_set_attribute (dataset, "kd.dtype", "bfloat16"))
    *ret_offset = HADDR_UNDEF;
  return dataset;
}

/* Rows past libhdf5, in pieces: the checksum has just brought a piece into the processor's cache, and the disk begins with it while
 * the next one is summed. (transfer full) the checksums, NULL with errno. */
static KdTensor *
write_rows (int fd, guint64 offset, const KdCacheColumn *column, gint64 rows, gint64 block_rows)
{
  gint64 n_blocks = (rows + block_rows - 1) / block_rows;
  gint64 step = MAX ((gint64) (PIECE_BYTES / MAX (column->row_bytes, 1)) / block_rows, 1) * block_rows;
  KdTensor *sums = kd_tensor_new (KD_INT64, 1, &n_blocks);

  for (gint64 first = 0; first < rows; first += step) {
    gint64 now = MIN (step, rows - first);
    guint64 at = (guint64) first * column->row_bytes;
    gsize bytes = (gsize) now * column->row_bytes;
    g_autoptr (KdTensor) piece = kd_cache_block_sums (column->data + at, now, column->row_bytes, block_rows);
    memcpy ((gint64 *) sums->data + first / block_rows, piece->data, piece->n_bytes);
    if (!kd_h5_write_at (fd, column->data + at, bytes, offset + at)) {
      kd_tensor_unref (sums);
      return NULL;
    }
    sync_file_range (fd, (off_t) (offset + at), (off_t) bytes, SYNC_FILE_RANGE_WRITE);
  }
  return sums;
}

static gboolean
write_columns (hid_t file, KdCachePart *part, const KdCacheManifest *manifest, const KdCacheColumn *columns, const gchar *path, GError **error)
{
  g_auto (KdHid) group = H5Gcreate2 (file, KD_CACHE_CHECKSUMS, H5P_DEFAULT, H5P_DEFAULT, H5P_DEFAULT);
  g_autofree gchar *fields = kd_layout_to_string (manifest->layout);
  void *handle = NULL;

  if (H5Fget_vfd_handle (file, H5P_DEFAULT, &handle) < 0)
    return FALSE;
  for (guint i = 0; i < kd_layout_n_fields (manifest->layout); i++) {
    const KdLayoutField *field = kd_layout_nth (manifest->layout, i);
    haddr_t offset = HADDR_UNDEF;
    g_auto (KdHid) dataset = allocate (file, field, part->rows, &offset);
    g_auto (KdHid) stored = -1;
    g_autoptr (KdTensor) sums = NULL;
    if (offset == HADDR_UNDEF && columns[i].row_bytes)
      return FALSE;
    sums = write_rows (*(int *) handle, offset, &columns[i], part->rows, manifest->block_rows);
    if (!sums) {
      g_set_error (error, KD_ERROR, KD_ERROR_IO, "Cannot write: path=\"%s\", dataset=\"%s\", rows=%" G_GINT64_FORMAT ", reason=%s", path, field->name, part->rows, g_strerror (errno));
      return FALSE;
    }
    part->checksum = kd_cache_sum_sums (part->checksum, sums);
    stored = kd_h5_put (group, field->name, KD_INT64, 1, sums->dims, sums->data);
    if (stored < 0)
      return FALSE;
  }
  return kd_cache_set_header (file, manifest) && kd_h5_set_attribute (file, "kd.schema", KD_H5_SCHEMA) && kd_h5_set_attribute (file, "kd.fields", fields) &&
      kd_h5_set_attribute (file, "kd.created-by", manifest->created_by);
}

gboolean
kd_cache_part_store (const KdCacheManifest *manifest, KdCachePart *part, const gchar *path, const KdCacheColumn *columns,
    GError **error)
{
  g_auto (KdH5Guard) guard = kd_h5_enter ();
  g_autofree gchar *temporary = NULL;
  guint64 bytes = (guint64) part->rows * kd_cache_row_bytes (manifest->layout);
  hid_t file = kd_h5_create (path, bytes, &temporary, error);
  struct stat info;
  gboolean good;

  if (file < 0)
    return FALSE;
  good = write_columns (file, part, manifest, columns, path, error);
  if (!kd_h5_close_created (file, good, temporary, path, error))
    return FALSE;
  if (stat (temporary, &info) == 0) {
    part->bytes = info.st_size;
    return kd_h5_publish (temporary, path, error);
  }
  g_set_error (error, KD_ERROR, KD_ERROR_IO, "Cannot write: path=\"%s\", temporary=\"%s\", reason=%s", path, temporary, g_strerror (errno));
  return FALSE;
}

KdCachePart *
kd_cache_part_new (const KdCacheManifest *manifest, guint number, KdCacheColumn *columns, gint64 rows)
{
  KdCacheColumn *ids = &columns[kd_cache_field_index (manifest, "sample.id")];
  KdCacheColumn *views = &columns[kd_cache_field_index (manifest, "sample.view")];
  g_autofree Order *order = find_order ((gint64 *) ids->data, (gint64 *) views->data, rows);
  KdCachePart *part = g_new0 (KdCachePart, 1);

  for (guint i = 0; order && i < kd_layout_n_fields (manifest->layout); i++)
    apply_order (&columns[i], order, rows);
  part->file = g_strdup_printf ("%05u.h5", number);
  part->rows = rows;
  kd_cache_describe_keys (part, (gint64 *) ids->data, (gint64 *) views->data);
  return part;
}
