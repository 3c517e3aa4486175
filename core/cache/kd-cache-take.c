/* KdCacheReader: rows of a field: mapped ones from their addresses, others part by part. */
#include "kd-cache-reader.h"

#include <string.h>

/* Enough to hide DRAM, little enough to stay in L1. */
#define AHEAD_ROWS 16
#define AHEAD_BYTES ((gsize) 512)
/* Rows in order that are at least this much together are not copied. */
#define VIEW_BYTES ((gsize) 64 << 10)
/* So few parts are counted through; more are searched. */
#define MAX_COUNTED 16

/* Checks the blocks under @rows [n] (numbered in the part), then reads. */
KdTensor *
kd_cache_reader_take_in_part (KdCacheReader *reader, guint nth, guint field, const gint64 *rows, gint64 n, GError **error)
{
  const KdCachePart *part = g_ptr_array_index (reader->manifest->parts, nth);
  KdCacheFile *file = kd_cache_reader_open_part (reader, nth, error);

  if (!file)
    return NULL;
  for (gint64 i = 0; i < n; i++)
    if (!kd_cache_file_check (file, reader->manifest, part, field, rows[i], error))
      return NULL;
  return kd_h5_reader_take (file->reader, kd_layout_nth (reader->manifest->layout, field)->name, rows, n, error);
}

static guint
part_of_row (const KdCacheReader *reader, gint64 row)
{
  guint low = 0, high = reader->manifest->parts->len;

  while (high - low > 1) {
    guint middle = (low + high) / 2;
    if (((KdCachePart *) g_ptr_array_index (reader->manifest->parts, middle))->first_row <= row)
      low = middle;
    else
      high = middle;
  }
  return low;
}

/* Rows of several parts: taken part by part, put where they belong. */
static gboolean
take_scattered (KdCacheReader *reader, guint field, gint64 n, const gint64 *rows, KdTensor *out, GError **error)
{
  g_autofree guint8 *done = g_new0 (guint8, n);
  g_autofree gint64 *local = g_new (gint64, n), *places = g_new (gint64, n);
  gsize bytes = kd_tensor_row_elements (out) * kd_dtype_size (out->dtype);

  for (gint64 i = 0; i < n; i++) {
    guint nth = part_of_row (reader, rows[i]);
    const KdCachePart *part = g_ptr_array_index (reader->manifest->parts, nth);
    g_autoptr (KdTensor) piece = NULL;
    gint64 count = 0;
    if (done[i])
      continue;
    for (gint64 k = i; k < n; k++)
      if (!done[k] && rows[k] >= part->first_row && rows[k] < part->first_row + part->rows) {
        done[k] = 1;
        places[count] = k;
        local[count++] = rows[k] - part->first_row;
      }
    piece = kd_cache_reader_take_in_part (reader, nth, field, local, count, error);
    if (!piece)
      return FALSE;
    for (gint64 k = 0; k < count; k++)
      memcpy ((guint8 *) out->data + (gsize) places[k] * bytes, (guint8 *) piece->data + (gsize) k * bytes, bytes);
  }
  return TRUE;
}

/* Which lane a row is in: counting has no branch to guess wrong, which random rows would make it do. */
static inline guint
lane_of_row (const KdCacheReader *reader, const KdCacheLane *lanes, gint64 row)
{
  guint n = reader->manifest->parts->len, nth = 0;

  if (n > MAX_COUNTED)
    return part_of_row (reader, row);
  for (guint i = 1; i < n; i++)
    nth += row >= lanes[i].first_row;
  return nth;
}

/* Returns 1, 0 when the part is not mapped in one piece, -1 with @error. */
static gint
open_lane (KdCacheReader *reader, guint field, guint nth, KdCacheLane *lane, GError **error)
{
  KdCacheFile *file;
  const KdH5Column *column;

  /* Another part would be closed for it, maybe one whose rows wait to be copied. */
  if (!reader->files[nth] && reader->n_open >= KD_CACHE_MAX_OPEN)
    return 0;
  file = kd_cache_reader_open_part (reader, nth, error);
  if (!file)
    return -1;
  column = file->columns[field];
  if (!file->reader->map->bytes || column->storage != KD_H5_CONTIGUOUS || file->block_shift < 0)
    return 0;
  lane->file = file;
  lane->base = file->reader->map->bytes + column->offset;
  lane->checked = file->checked[field];
  lane->shift = file->block_shift;
  return 1;
}

static KdCacheLane *
lanes_of (KdCacheReader *reader, guint field)
{
  guint n = reader->manifest->parts->len;

  if (!reader->lanes[field]) {
    reader->lanes[field] = g_new0 (KdCacheLane, MAX (n, 1));
    for (guint i = 0; i < n; i++)
      reader->lanes[field][i].first_row = ((KdCachePart *) g_ptr_array_index (reader->manifest->parts, i))->first_row;
  }
  return reader->lanes[field];
}

/* The hot path: rows of mapped parts, wherever they are. An address is looked up and its memory called for some rows before it is
 * copied. Returns 1 done, 0 for the caller to do it the long way, -1 with @error. */
static gint
take_mapped (KdCacheReader *reader, guint field, gint64 n, const gint64 *rows, KdTensor *out, GError **error)
{
  const guint8 *from[AHEAD_ROWS];
  KdCacheLane *lanes = lanes_of (reader, field);
  gsize bytes = kd_tensor_row_elements (out) * kd_dtype_size (out->dtype), ahead = MIN (bytes, AHEAD_BYTES);

  if (!reader->may_map || out->dtype == KD_BOOL || bytes == 0)
    return 0;
  for (gint64 i = 0; i < n + AHEAD_ROWS; i++) {
    if (i >= AHEAD_ROWS)
      memcpy ((guint8 *) out->data + (gsize) (i - AHEAD_ROWS) * bytes, from[i % AHEAD_ROWS], bytes);
    if (i < n) {
      guint nth = lane_of_row (reader, lanes, rows[i]);
      KdCacheLane *lane = &lanes[nth];
      gint64 row = rows[i] - lane->first_row;
      gint opened = G_LIKELY (lane->base) ? 1 : open_lane (reader, field, nth, lane, error);
      if (G_UNLIKELY (opened <= 0))
        return opened;
      if (G_UNLIKELY (!lane->checked[row >> lane->shift]) &&
          !kd_cache_file_check_block (lane->file, reader->manifest, g_ptr_array_index (reader->manifest->parts, nth), field, row >> lane->shift, error))
        return -1;
      from[i % AHEAD_ROWS] = lane->base + (gsize) row * bytes;
      for (gsize at = 0; at < ahead; at += 64)
        __builtin_prefetch (from[i % AHEAD_ROWS] + at);
    }
  }
  return 1;
}

/* Rows that follow one another in a mapped part, when copying them would cost more than looking them up: a view. NULL without @error: it is
 * none of these. */
static KdTensor *
view_run (KdCacheReader *reader, guint field, gint64 n, const gint64 *rows, gsize row_bytes, GError **error)
{
  guint nth = n ? part_of_row (reader, rows[0]) : 0;
  const KdCachePart *part = n ? g_ptr_array_index (reader->manifest->parts, nth) : NULL;
  gint64 first = n ? rows[0] - part->first_row : 0;
  KdCacheFile *file;

  if (!reader->may_map || (gsize) n * row_bytes < VIEW_BYTES || first + n > part->rows)
    return NULL;
  for (gint64 i = 1; i < n; i++)
    if (rows[i] != rows[0] + i)
      return NULL;
  file = kd_cache_reader_open_part (reader, nth, error);
  if (!file || file->columns[field]->storage != KD_H5_CONTIGUOUS)
    return NULL;
  for (gint64 row = first; row < first + n; row += reader->manifest->block_rows)
    if (!kd_cache_file_check (file, reader->manifest, part, field, row, error))
      return NULL;
  if (!kd_cache_file_check (file, reader->manifest, part, field, first + n - 1, error))
    return NULL;
  return kd_h5_reader_read (file->reader, kd_layout_nth (reader->manifest->layout, field)->name, first, n, error);
}

static KdTensor *
take (KdCacheReader *reader, guint field, gint64 n, const gint64 *rows, GError **error)
{
  const KdLayoutField *spec = kd_layout_nth (reader->manifest->layout, field);
  gint64 dims[KD_MAX_RANK];
  gsize row_bytes = kd_dtype_size (spec->dtype);
  KdTensor *out;
  GError *why = NULL;
  gint done;

  memcpy (dims, spec->dims, sizeof dims);
  dims[0] = n;
  for (guint i = 1; i < spec->rank; i++)
    row_bytes *= (gsize) dims[i];
  out = view_run (reader, field, n, rows, row_bytes, &why);
  if (why)
    g_propagate_error (error, why);
  if (out || why)
    return out;
  out = kd_tensor_new (spec->dtype, spec->rank, dims);
  done = take_mapped (reader, field, n, rows, out, error);
  if (done > 0 || (done == 0 && take_scattered (reader, field, n, rows, out, error)))
    return out;
  kd_tensor_unref (out);
  return NULL;
}

KdTensor *
kd_cache_reader_take_stored (KdCacheReader *reader, const gchar *field, gint64 n, const gint64 *rows, GError **error)
{
  const KdLayout *layout = reader->manifest->layout;
  KdTensor *tensor;

  if (!layout || !kd_layout_find (layout, field)) {
    g_autofree gchar *names = kd_layout_names (reader->layout);
    g_set_error (error, KD_ERROR, KD_ERROR_FIELD, "Field not in the cache: path=\"%s\", field=%s, cache=\"%s\"", reader->path, field, names);
    return NULL;
  }
  for (gint64 i = 0; i < n; i++)
    if (rows[i] < 0 || rows[i] >= reader->manifest->n_rows) {
      g_set_error (error, KD_ERROR, KD_ERROR_RANGE, "Row not in the cache: path=\"%s\", row=%" G_GINT64_FORMAT ", rows=%" G_GINT64_FORMAT,
          reader->path, rows[i], reader->manifest->n_rows);
      return NULL;
    }
  g_mutex_lock (&reader->lock);
  tensor = take (reader, kd_cache_field_index (reader->manifest, field), n, rows, error);
  g_mutex_unlock (&reader->lock);
  return tensor;
}

void
kd_cache_reader_key (KdCacheReader *reader, gint64 row, gint64 *ret_id, gint64 *ret_view)
{
  const KdCachePart *part = g_ptr_array_index (reader->manifest->parts, part_of_row (reader, row));
  g_autoptr (KdTensor) id = NULL, view = NULL;

  if (part->stride > 0) {
    *ret_id = part->first_id + (row - part->first_row) * part->stride;
    *ret_view = part->view;
    return;
  }
  id = kd_cache_reader_take (reader, "sample.id", 1, &row, NULL);
  view = kd_cache_reader_take (reader, "sample.view", 1, &row, NULL);
  *ret_id = id ? *(gint64 *) id->data : -1;
  *ret_view = view ? *(gint64 *) view->data : -1;
}
