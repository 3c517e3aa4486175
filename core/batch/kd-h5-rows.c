/* Reading rows of an open batch file. kd_h5_reader_take is the hot path of training: for mapped files it is a pooled tensor and one
 * memcpy a row, prefetched. */
#include "kd-h5-private.h"

#include <errno.h>
#include <string.h>

/* How many rows ahead lines are asked for, and how much of a row: enough to hide DRAM, little enough to stay in L1. */
#define PREFETCH_ROWS 16
#define PREFETCH_BYTES 512

static KdH5Column *
lookup (KdH5Reader *reader, const gchar *field, GError **error)
{
  KdH5Column *column = kd_h5_find_column (reader, field);
  g_autofree gchar *names = NULL;

  if (column)
    return column;
  names = kd_layout_names (reader->layout);
  kd_h5_fail (error, KD_ERROR_FIELD, reader->path, field, "reason=no such field, layout=\"%s\"", names);
  return NULL;
}

static gboolean
fail_copy (const KdH5Reader *reader, const KdH5Column *column, gint64 row, GError **error)
{
  const gchar *reason = errno ? g_strerror (errno) : "the file was cut while open";

  return kd_h5_fail (error, KD_ERROR_IO, reader->path, column->name, "row=%" G_GINT64_FORMAT ", reason=%s", row, reason);
}

/* A hostile bool may be 7, which code that counts with it would take as seven. */
static gboolean
check_bools (const KdH5Reader *reader, const KdH5Column *column, const KdTensor *tensor, GError **error)
{
  const guint8 *values = tensor->data;
  guint8 seen = 0;

  if (tensor->dtype != KD_BOOL)
    return TRUE;
  for (gsize i = 0; i < tensor->n_bytes; i++)
    seen |= values[i];
  if (seen <= 1)
    return TRUE;
  return kd_h5_fail (error, KD_ERROR_VALUE, reader->path, column->name, "reason=a bool that is neither 0 nor 1");
}

static void
take_mapped (const KdH5Map *map, const KdH5Column *column, const gint64 *rows, gint64 n, guint8 *to)
{
  gsize bytes = column->row_bytes, ahead = MIN (bytes, PREFETCH_BYTES);

  for (gint64 i = 0; i < n + PREFETCH_ROWS; i++) {
    if (i < n) {
      const guint8 *next = map->bytes + kd_h5_column_offset (column, rows[i]);
      for (gsize at = 0; at < ahead; at += 64)
        __builtin_prefetch (next + at);
    }
    if (i >= PREFETCH_ROWS)
      memcpy (to + (gsize) (i - PREFETCH_ROWS) * bytes, map->bytes + kd_h5_column_offset (column, rows[i - PREFETCH_ROWS]), bytes);
  }
}

/* Rows in any order; neighbours in the file that are neighbours in @rows make one pread. */
static gboolean
take_raw (KdH5Reader *reader, const KdH5Column *column, const gint64 *rows, gint64 n, guint8 *to, GError **error)
{
  gsize bytes = column->row_bytes;

  if (reader->map->bytes) {
    take_mapped (reader->map, column, rows, n, to);
    return TRUE;
  }
  for (gint64 i = 0, end; i < n; i = end) {
    guint64 offset = kd_h5_column_offset (column, rows[i]);
    for (end = i + 1; end < n && kd_h5_column_offset (column, rows[end]) == offset + (guint64) (end - i) * bytes; end++)
      ;
    if (!kd_h5_map_copy (reader->map, offset, to + (gsize) i * bytes, (gsize) (end - i) * bytes))
      return fail_copy (reader, column, rows[i], error);
  }
  return TRUE;
}

static gboolean
check_rows (KdH5Reader *reader, const KdH5Column *column, const gint64 *rows, gint64 n, GError **error)
{
  for (gint64 i = 0; i < n; i++)
    if (G_UNLIKELY (rows[i] < 0 || rows[i] >= column->n_rows))
      return kd_h5_fail (error, KD_ERROR_RANGE, reader->path, column->name, "row=%" G_GINT64_FORMAT ", rows in the file=%" G_GINT64_FORMAT, rows[i], column->n_rows);
  return TRUE;
}

/* Rows [first, first + n): a piece of the file at a time. */
static gboolean
range_raw (KdH5Reader *reader, const KdH5Column *column, gint64 first, gint64 n, guint8 *to, GError **error)
{
  gint64 per_piece = column->storage == KD_H5_CHUNKED ? column->chunk_rows : MAX (n, 1);

  for (gint64 done = 0, now; done < n; done += now) {
    gint64 row = first + done;
    now = MIN (n - done, column->storage == KD_H5_CHUNKED ? per_piece - row % per_piece : n);
    if (!kd_h5_map_copy (reader->map, kd_h5_column_offset (column, row), to + (gsize) done * column->row_bytes,
            (gsize) now * column->row_bytes))
      return fail_copy (reader, column, row, error);
  }
  return TRUE;
}

/* @rows NULL: [first, first + n). In range. */
static KdTensor *
copy_column (KdH5Reader *reader, KdH5Column *column, const gint64 *rows, gint64 first, gint64 n, GError **error)
{
  g_autoptr (KdTensor) tensor = NULL;
  gint64 dims[KD_MAX_RANK];
  gboolean done = TRUE;
  gsize bytes;

  memcpy (dims, column->dims, sizeof dims);
  dims[0] = n;
  if (!kd_shape_bytes (column->dtype, column->rank, dims, &bytes)) {
    kd_h5_fail (error, KD_ERROR_RANGE, reader->path, column->name, "rows=%" G_GINT64_FORMAT ", reason=too many", n);
    return NULL;
  }
  tensor = kd_tensor_new (column->dtype, column->rank, dims);
  if (column->storage == KD_H5_LIBRARY)
    done = kd_h5_column_read_library (column, reader->path, rows, first, n, tensor->data, error);
  else if (column->storage == KD_H5_FILTERED)
    done = kd_h5_chunks_take (column, reader->path, reader->map, rows, first, n, tensor->data, error);
  else if (column->row_bytes && rows)
    done = take_raw (reader, column, rows, n, tensor->data, error);
  else if (column->row_bytes)
    done = range_raw (reader, column, first, n, tensor->data, error);
  return done && check_bools (reader, column, tensor, error) ? g_steal_pointer (&tensor) : NULL;
}

/* Rows [first, first + n) as they lie in a mapping, when they lie in one piece there; else NULL. */
static KdTensor *
view_column (KdH5Reader *reader, const KdH5Column *column, gint64 first, gint64 n)
{
  gint64 dims[KD_MAX_RANK];
  guint64 offset;

  if (!reader->map->bytes || column->storage == KD_H5_LIBRARY || column->storage == KD_H5_FILTERED || n == 0 || column->row_bytes == 0)
    return NULL;
  offset = kd_h5_column_offset (column, first);
  if (kd_h5_column_offset (column, first + n - 1) != offset + (guint64) (n - 1) * column->row_bytes ||
      offset % kd_dtype_size (column->dtype))
    return NULL;
  memcpy (dims, column->dims, sizeof dims);
  dims[0] = n;
  return kd_tensor_new_wrapped (column->dtype, column->rank, dims, (gpointer) (reader->map->bytes + offset),
      kd_h5_map_ref (reader->map), (GDestroyNotify) kd_h5_map_unref);
}

static KdTensor *
read_column (KdH5Reader *reader, KdH5Column *column, gint64 first, gint64 n, GError **error)
{
  g_autoptr (KdTensor) view = NULL;

  if (first < 0 || n < 0 || n > column->n_rows || first > column->n_rows - n) {
    kd_h5_fail (error, KD_ERROR_RANGE, reader->path, column->name, "first=%" G_GINT64_FORMAT ", rows=%" G_GINT64_FORMAT ", rows in the file=%" G_GINT64_FORMAT, first, n, column->n_rows);
    return NULL;
  }
  view = view_column (reader, column, first, n);
  if (view)
    return check_bools (reader, column, view, error) ? g_steal_pointer (&view) : NULL;
  return copy_column (reader, column, NULL, first, n, error);
}

/* @rows NULL: [first, first + n). Offsets are checked row by row: they come from the file. */
static KdTensor *
take_text (KdH5Reader *reader, KdH5Column *bytes, KdH5Column *offsets, const gint64 *rows, gint64 first,
    gint64 n, GError **error)
{
  g_autoptr (GByteArray) out = g_byte_array_new ();
  g_autofree gint64 *starts = g_new (gint64, n + 1);

  starts[0] = 0;
  for (gint64 i = 0; i < n; i++) {
    gint64 row = rows ? rows[i] : first + i, ends[2];
    g_autoptr (KdTensor) pair = NULL, piece = NULL;
    if (row < 0 || row >= offsets->n_rows - 1) {
      kd_h5_fail (error, KD_ERROR_RANGE, reader->path, offsets->name, "row=%" G_GINT64_FORMAT ", rows in the file=%" G_GINT64_FORMAT, row, offsets->n_rows - 1);
      return NULL;
    }
    pair = read_column (reader, offsets, row, 2, error);
    if (!pair)
      return NULL;
    memcpy (ends, pair->data, sizeof ends);
    if (ends[0] < 0 || ends[1] < ends[0] || ends[1] > bytes->n_rows || ends[1] - ends[0] > G_MAXUINT - out->len) {
      kd_h5_fail (error, KD_ERROR_FORMAT, reader->path, offsets->name, "row=%" G_GINT64_FORMAT ", offsets=%" G_GINT64_FORMAT ",%" G_GINT64_FORMAT ", bytes=%" G_GINT64_FORMAT ", reason=offsets must ascend and end inside the bytes", row,
          ends[0], ends[1], bytes->n_rows);
      return NULL;
    }
    piece = read_column (reader, bytes, ends[0], ends[1] - ends[0], error);
    if (!piece)
      return NULL;
    if (piece->n_bytes)
      g_byte_array_append (out, piece->data, (guint) piece->n_bytes);
    starts[i + 1] = out->len;
  }
  return kd_tensor_new_utf8 (n, starts, out->data);
}

KdTensor *
kd_h5_reader_take (KdH5Reader *reader, const gchar *field, const gint64 *rows, gint64 n, GError **error)
{
  KdH5Column *column, *offsets;

  if (!kd_h5_reader_check_rows (reader, error))
    return NULL;
  column = kd_h5_find_column (reader, field);
  if (!column && kd_h5_find_text (reader, field, &column, &offsets))
    return take_text (reader, column, offsets, rows, 0, n, error);
  if (!column && !(column = lookup (reader, field, error)))
    return NULL;
  if (column->rank == 0)
    return read_column (reader, column, 0, 1, error);
  if (!check_rows (reader, column, rows, n, error))
    return NULL;
  return copy_column (reader, column, rows, 0, n, error);
}

KdTensor *
kd_h5_reader_read (KdH5Reader *reader, const gchar *field, gint64 first, gint64 n, GError **error)
{
  KdH5Column *column, *offsets;

  if (!kd_h5_reader_check_rows (reader, error))
    return NULL;
  if (!kd_h5_find_column (reader, field) && kd_h5_find_text (reader, field, &column, &offsets))
    return take_text (reader, column, offsets, NULL, first, n, error);
  column = lookup (reader, field, error);
  if (!column)
    return NULL;
  if (column->rank == 0)
    return read_column (reader, column, 0, 1, error);
  return read_column (reader, column, first, n, error);
}

KdTensor *
kd_h5_reader_read_all (KdH5Reader *reader, const gchar *field, GError **error)
{
  KdH5Column *column, *offsets;

  if (!kd_h5_find_column (reader, field) && kd_h5_find_text (reader, field, &column, &offsets))
    return take_text (reader, column, offsets, NULL, 0, offsets->n_rows - 1, error);
  column = lookup (reader, field, error);
  return column ? read_column (reader, column, 0, column->n_rows, error) : NULL;
}
