/* Rows of datasets whose bytes cannot be used as they are: compressed, of another byte order or width. */
#include "kd-h5-private.h"

#include <stdlib.h>
#include <string.h>

typedef struct {
  gint64 row;
  gint64 place;
} Wanted;

static int
by_row (const void *a, const void *b)
{
  gint64 x = ((const Wanted *) a)->row, y = ((const Wanted *) b)->row;

  return x < y ? -1 : x > y;
}

/* Consecutive rows: one hyperslab. */
static gboolean
read_run (const KdH5Column *column, hid_t space, gint64 first, gint64 n, gpointer to)
{
  hsize_t start[KD_MAX_RANK] = { (hsize_t) first }, count[KD_MAX_RANK] = { (hsize_t) n };
  g_auto (KdHid) memory_space = -1;

  if (column->rank == 0)
    return H5Dread (column->dataset, column->memory, H5S_ALL, H5S_ALL, H5P_DEFAULT, to) >= 0;
  for (guint i = 1; i < column->rank; i++)
    count[i] = (hsize_t) column->dims[i];
  if (H5Sselect_hyperslab (space, H5S_SELECT_SET, start, NULL, count, NULL) < 0)
    return FALSE;
  memory_space = H5Screate_simple ((int) column->rank, count, NULL);
  return H5Dread (column->dataset, column->memory, memory_space, space, H5P_DEFAULT, to) >= 0;
}

static gboolean
check_unsigned (const KdH5Column *column, const gchar *path, const gint64 *values, gsize n, GError **error)
{
  for (gsize i = 0; column->was_unsigned && i < n; i++)
    if (values[i] < 0)
      return kd_h5_fail (error, KD_ERROR_RANGE, path, column->name, "value=%" G_GUINT64_FORMAT ", reason=above what int64 holds", (guint64) values[i]);
  return TRUE;
}

static gboolean
fail_read (const KdH5Column *column, const gchar *path, gint64 row, GError **error)
{
  g_autofree gchar *reason = kd_h5_reason ();

  return kd_h5_fail (error, KD_ERROR_IO, path, column->name, "row=%" G_GINT64_FORMAT ", reason=%s", row, reason);
}

static gboolean
is_run (const gint64 *rows, gint64 n)
{
  for (gint64 i = 1; i < n; i++)
    if (rows[i] != rows[0] + i)
      return FALSE;
  return TRUE;
}

/* One chunk, the one that holds the element @at. */
static gboolean
chunk_unpacks (const KdH5Column *column, const hsize_t *at, guint8 *to)
{
  hsize_t size = 0;
  haddr_t address = HADDR_UNDEF;
  g_autofree guint8 *stored = NULL;
  unsigned mask = 0;

  if (H5Dget_chunk_info_by_coord (column->dataset, at, &mask, &address, &size) < 0 || address == HADDR_UNDEF || size > KD_H5_MAX_CHUNK_BYTES * 2)
    return FALSE;
  stored = g_malloc (MAX (size, 1));
  return H5Dread_chunk (column->dataset, H5P_DEFAULT, at, &mask, stored) >= 0 && kd_h5_pipeline_unpack (&column->pipeline, mask, stored, size, to);
}

/* All chunks of the rows that begin at @row. */
static gboolean
block_unpacks (const KdH5Column *column, const hsize_t *chunk, gint64 row)
{
  hsize_t at[KD_MAX_RANK] = { (hsize_t) row };
  g_autofree guint8 *to = g_malloc (column->pipeline.chunk_bytes);

  for (;;) {
    guint axis = column->rank;
    if (!chunk_unpacks (column, at, to))
      return FALSE;
    while (--axis > 0 && (at[axis] += chunk[axis]) >= (hsize_t) column->dims[axis])
      at[axis] = 0;
    if (axis == 0)
      return TRUE;
  }
}

/* libhdf5 1.10 copies as many bytes out of a chunk as it should have, whatever the filters made of it, and fletcher32 takes four away from what may
 * be fewer: so each chunk is unpacked by us before it may be by the library. */
static gboolean
check_chunks (KdH5Column *column, const gchar *path, gint64 first, gint64 n, GError **error)
{
  g_auto (KdHid) create = H5Dget_create_plist (column->dataset);
  hsize_t chunk[KD_MAX_RANK] = { 0 };

  if (H5Pget_chunk (create, KD_MAX_RANK, chunk) != (gint) column->rank)
    return kd_h5_fail (error, KD_ERROR_FORMAT, path, column->name, "reason=impossible chunk sizes");
  for (gint64 nth = first / column->chunk_rows; nth <= (first + n - 1) / column->chunk_rows; nth++) {
    if (column->unpacks[nth])
      continue;
    if (!block_unpacks (column, chunk, nth * column->chunk_rows))
      return kd_h5_fail (error, KD_ERROR_IO, path, column->name, "row=%" G_GINT64_FORMAT ", reason=a chunk does not unpack; the file is damaged or cut", nth * column->chunk_rows);
    column->unpacks[nth] = 1;
  }
  return TRUE;
}

/* Sorted, so that each chunk is unpacked once; a row wanted twice is read once. */
static gboolean
read_scattered (KdH5Column *column, hid_t space, const gchar *path, const gint64 *rows, gint64 n, guint8 *to,
    GError **error)
{
  g_autofree Wanted *wanted = g_new (Wanted, n);
  g_autofree guint8 *buffer = g_malloc ((gsize) n * column->row_bytes);

  for (gint64 i = 0; i < n; i++)
    wanted[i] = (Wanted) { rows[i], i };
  qsort (wanted, (size_t) n, sizeof *wanted, by_row);
  for (gint64 i = 0, end; i < n; i = end) {
    for (end = i + 1; end < n && wanted[end].row <= wanted[end - 1].row + 1; end++)
      ;
    if (column->unpacks && !check_chunks (column, path, wanted[i].row, wanted[end - 1].row - wanted[i].row + 1, error))
      return FALSE;
    if (!read_run (column, space, wanted[i].row, wanted[end - 1].row - wanted[i].row + 1, buffer))
      return fail_read (column, path, wanted[i].row, error);
    for (gint64 k = i; k < end; k++)
      memcpy (to + (gsize) wanted[k].place * column->row_bytes,
          buffer + (gsize) (wanted[k].row - wanted[i].row) * column->row_bytes, column->row_bytes);
  }
  return TRUE;
}

gboolean
kd_h5_column_read_library (KdH5Column *column, const gchar *path, const gint64 *rows, gint64 first, gint64 n,
    gpointer to, GError **error)
{
  g_auto (KdH5Guard) guard = kd_h5_enter ();
  g_auto (KdHid) space = H5Dget_space (column->dataset);
  gsize elements = (gsize) n * (column->row_bytes / kd_dtype_size (column->dtype));

  if (n == 0 || column->row_bytes == 0)
    return TRUE;
  if (!rows || is_run (rows, n)) {
    first = rows ? rows[0] : first;
    if (column->unpacks && !check_chunks (column, path, first, n, error))
      return FALSE;
    if (!read_run (column, space, first, n, to))
      return fail_read (column, path, first, error);
  } else if (!read_scattered (column, space, path, rows, n, to, error)) {
    return FALSE;
  }
  return check_unsigned (column, path, to, elements, error);
}
