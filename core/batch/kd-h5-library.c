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

/* Sorted, so that each chunk is unpacked once; a row wanted twice is read once. */
static gboolean
read_scattered (const KdH5Column *column, hid_t space, const gchar *path, const gint64 *rows, gint64 n, guint8 *to,
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
    if (!read_run (column, space, wanted[i].row, wanted[end - 1].row - wanted[i].row + 1, buffer))
      return fail_read (column, path, wanted[i].row, error);
    for (gint64 k = i; k < end; k++)
      memcpy (to + (gsize) wanted[k].place * column->row_bytes,
          buffer + (gsize) (wanted[k].row - wanted[i].row) * column->row_bytes, column->row_bytes);
  }
  return TRUE;
}

gboolean
kd_h5_column_read_library (const KdH5Column *column, const gchar *path, const gint64 *rows, gint64 first, gint64 n,
    gpointer to, GError **error)
{
  g_auto (KdH5Guard) guard = kd_h5_enter ();
  g_auto (KdHid) space = H5Dget_space (column->dataset);
  gsize elements = (gsize) n * (column->row_bytes / kd_dtype_size (column->dtype));

  if (n == 0 || column->row_bytes == 0)
    return TRUE;
  if (!rows || is_run (rows, n)) {
    first = rows ? rows[0] : first;
    if (!read_run (column, space, first, n, to))
      return fail_read (column, path, first, error);
  } else if (!read_scattered (column, space, path, rows, n, to, error)) {
    return FALSE;
  }
  return check_unsigned (column, path, to, elements, error);
}
