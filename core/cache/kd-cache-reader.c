/* KdCacheReader: walks the manifest; opens parts when they are needed and checks their blocks when they are touched. */
#include "kd-cache-private.h"

#include <string.h>

/* Open parts at once: below the usual limit of 1024 descriptors. */
#define MAX_OPEN 256
/* Enough to hide DRAM, little enough to stay in L1. */
#define AHEAD_ROWS 16
#define AHEAD_BYTES ((gsize) 512)
/* So few parts are counted through; more are searched. */
#define MAX_COUNTED 16

/* A field's rows in a mapped part. */
typedef struct {
  gint64 first_row;
  const guint8 *base; /* NULL: not open */
  const guint8 *checked;
  gint shift;
  KdCacheFile *file;
} Lane;

struct _KdCacheReader {
  gchar *path;
  KdCacheManifest *manifest;
  KdLayout *layout; /* without the keys */
  KdCacheIndex *index;
  gboolean may_map;
  GMutex lock;         /* guards what follows; libhdf5's lock may be taken inside */
  KdCacheFile **files; /* by part, NULL when closed */
  Lane **lanes;        /* by field, then by part */
  guint n_fields;
  guint n_open;
  guint64 clock;
};

void
kd_cache_reader_close (KdCacheReader *reader)
{
  for (guint i = 0; reader->files && i < reader->manifest->parts->len; i++)
    g_clear_pointer (&reader->files[i], kd_cache_file_close);
  g_free (reader->files);
  for (guint i = 0; i < reader->n_fields; i++)
    g_free (reader->lanes[i]);
  g_free (reader->lanes);
  g_clear_pointer (&reader->index, kd_cache_index_free);
  g_clear_pointer (&reader->layout, kd_layout_free);
  g_clear_pointer (&reader->manifest, kd_cache_manifest_free);
  g_mutex_clear (&reader->lock);
  g_free (reader->path);
  g_free (reader);
}

static void
close_oldest (KdCacheReader *reader)
{
  guint oldest = G_MAXUINT;

  for (guint i = 0; i < reader->manifest->parts->len; i++)
    if (reader->files[i] && (oldest == G_MAXUINT || reader->files[i]->last_use < reader->files[oldest]->last_use))
      oldest = i;
  for (guint i = 0; i < reader->n_fields; i++)
    if (reader->lanes[i])
      reader->lanes[i][oldest].base = NULL;
  g_clear_pointer (&reader->files[oldest], kd_cache_file_close);
  reader->n_open--;
}

static KdCacheFile *
open_part (KdCacheReader *reader, guint nth, GError **error)
{
  const KdCachePart *part = g_ptr_array_index (reader->manifest->parts, nth);

  if (!reader->files[nth]) {
    g_autofree gchar *path = kd_cache_part_path (reader->path, part);
    if (reader->n_open >= MAX_OPEN)
      close_oldest (reader);
    reader->files[nth] = kd_cache_file_open (reader->manifest, part, path, reader->may_map, error);
    if (!reader->files[nth])
      return NULL;
    reader->n_open++;
  }
  reader->files[nth]->last_use = ++reader->clock;
  return reader->files[nth];
}

/* Checks the blocks under @rows [n] (numbered in the part), then reads. */
static KdTensor *
take_in_part (KdCacheReader *reader, guint nth, guint field, const gint64 *rows, gint64 n, GError **error)
{
  const KdCachePart *part = g_ptr_array_index (reader->manifest->parts, nth);
  KdCacheFile *file = open_part (reader, nth, error);

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

/* Only parts whose rows cannot be calculated are opened for their keys. */
static gboolean
index_parts (KdCacheReader *reader, GError **error)
{
  const KdCacheManifest *manifest = reader->manifest;

  for (guint i = 0; i < manifest->parts->len; i++) {
    const KdCachePart *part = g_ptr_array_index (manifest->parts, i);
    g_autofree gint64 *rows = NULL;
    g_autoptr (KdTensor) ids = NULL, views = NULL;
    if (part->stride > 0) {
      kd_cache_index_add_run (reader->index, part);
      continue;
    }
    rows = g_new (gint64, part->rows);
    for (gint64 k = 0; k < part->rows; k++)
      rows[k] = k;
    ids = take_in_part (reader, i, kd_cache_field_index (manifest, "sample.id"), rows, part->rows, error);
    views = ids ? take_in_part (reader, i, kd_cache_field_index (manifest, "sample.view"), rows, part->rows, error) : NULL;
    if (!views)
      return FALSE;
    kd_cache_index_add_keys (reader->index, part->rows, ids->data, views->data, part->first_row);
  }
  return TRUE;
}

KdCacheReader *
kd_cache_reader_open (const gchar *path, GError **error)
{
  KdCacheManifest *manifest = kd_cache_manifest_load (path, error);
  KdCacheReader *reader;
  guint64 bytes = 0;

  if (!manifest)
    return NULL;
  reader = g_new0 (KdCacheReader, 1);
  g_mutex_init (&reader->lock);
  reader->path = g_strdup (path);
  reader->manifest = manifest;
  reader->files = g_new0 (KdCacheFile *, MAX (manifest->parts->len, 1));
  reader->index = kd_cache_index_new ();
  reader->n_fields = manifest->layout ? kd_layout_n_fields (manifest->layout) : 0;
  reader->lanes = g_new0 (Lane *, MAX (reader->n_fields, 1));
  reader->layout = kd_cache_decoded_layout (manifest);
  kd_layout_remove (reader->layout, "sample.id");
  kd_layout_remove (reader->layout, "sample.view");
  for (guint i = 0; i < manifest->parts->len; i++)
    bytes += (guint64) ((KdCachePart *) g_ptr_array_index (manifest->parts, i))->bytes;
  /* All or nothing: a cache that does not fit the mapping limit would fill it with whatever part came first. */
  reader->may_map = bytes <= kd_h5_map_limit ();
  if (index_parts (reader, error))
    return reader;
  kd_cache_reader_close (reader);
  return NULL;
}

gint64
kd_cache_reader_n_rows (const KdCacheReader *reader)
{
  return reader->manifest->n_rows;
}

gboolean
kd_cache_reader_complete (const KdCacheReader *reader)
{
  return reader->manifest->complete;
}

const KdLayout *
kd_cache_reader_layout (const KdCacheReader *reader)
{
  return reader->layout;
}

const KdCacheIdentity *
kd_cache_reader_identity (const KdCacheReader *reader)
{
  return &reader->manifest->identity;
}

const KdCacheManifest *
kd_cache_reader_manifest (const KdCacheReader *reader)
{
  return reader->manifest;
}

gint64 *
kd_cache_reader_sorted (KdCacheReader *reader, gint64 **ret_ids, gint64 **ret_views)
{
  return kd_cache_index_sorted (reader->index, reader->manifest->n_rows, ret_ids, ret_views);
}

gint64
kd_cache_reader_find (KdCacheReader *reader, gint64 n, const gint64 *ids, const gint64 *views, gint64 *ret_rows)
{
  gint64 missing = 0;

  g_mutex_lock (&reader->lock);
  for (gint64 i = 0; i < n; i++) {
    ret_rows[i] = kd_cache_index_find (reader->index, ids[i], views ? views[i] : 0);
    missing += ret_rows[i] < 0;
  }
  g_mutex_unlock (&reader->lock);
  return missing;
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
    piece = take_in_part (reader, nth, field, local, count, error);
    if (!piece)
      return FALSE;
    for (gint64 k = 0; k < count; k++)
      memcpy ((guint8 *) out->data + (gsize) places[k] * bytes, (guint8 *) piece->data + (gsize) k * bytes, bytes);
  }
  return TRUE;
}

/* Which lane a row is in: counting has no branch to guess wrong, which random rows would make it do. */
static inline guint
lane_of_row (const KdCacheReader *reader, const Lane *lanes, gint64 row)
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
open_lane (KdCacheReader *reader, guint field, guint nth, Lane *lane, GError **error)
{
  KdCacheFile *file = open_part (reader, nth, error);
  const KdH5Column *column = file ? file->columns[field] : NULL;

  if (!file)
    return -1;
  if (!file->reader->map->bytes || column->storage != KD_H5_CONTIGUOUS || file->block_shift < 0)
    return 0;
  lane->file = file;
  lane->base = file->reader->map->bytes + column->offset;
  lane->checked = file->checked[field];
  lane->shift = file->block_shift;
  return 1;
}

static Lane *
lanes_of (KdCacheReader *reader, guint field)
{
  guint n = reader->manifest->parts->len;

  if (!reader->lanes[field]) {
    reader->lanes[field] = g_new0 (Lane, MAX (n, 1));
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
  Lane *lanes = lanes_of (reader, field);
  gsize bytes = kd_tensor_row_elements (out) * kd_dtype_size (out->dtype), ahead = MIN (bytes, AHEAD_BYTES);

  if (!reader->may_map || out->dtype == KD_BOOL || bytes == 0)
    return 0;
  for (gint64 i = 0; i < n + AHEAD_ROWS; i++) {
    if (i >= AHEAD_ROWS)
      memcpy ((guint8 *) out->data + (gsize) (i - AHEAD_ROWS) * bytes, from[i % AHEAD_ROWS], bytes);
    if (i < n) {
      guint nth = lane_of_row (reader, lanes, rows[i]);
      Lane *lane = &lanes[nth];
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

static KdTensor *
take (KdCacheReader *reader, guint field, gint64 n, const gint64 *rows, GError **error)
{
  const KdLayoutField *spec = kd_layout_nth (reader->manifest->layout, field);
  gint64 dims[KD_MAX_RANK];
  KdTensor *out;
  gint done;

  memcpy (dims, spec->dims, sizeof dims);
  dims[0] = n;
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

const KdCacheEncoding *
kd_cache_reader_encoding (const KdCacheReader *reader, const gchar *field)
{
  return kd_cache_encoding_find (reader->manifest->encodings, field);
}

KdTensor *
kd_cache_reader_take (KdCacheReader *reader, const gchar *field, gint64 n, const gint64 *rows, GError **error)
{
  const KdCacheEncoding *encoding = kd_cache_encoding_find (reader->manifest->encodings, field);
  g_autoptr (KdTensor) stored = NULL, scale = NULL;

  if (!encoding || !kd_cache_encoding_is_coded (encoding))
    return kd_cache_reader_take_stored (reader, field, n, rows, error);
  stored = kd_cache_reader_take_stored (reader, field, n, rows, error);
  if (stored && kd_cache_encoding_levels (encoding)) {
    g_autofree gchar *name = g_strconcat (field, KD_CACHE_SCALE, NULL);
    scale = kd_cache_reader_take_stored (reader, name, n, rows, error);
    if (!scale)
      return NULL;
  }
  return stored ? kd_cache_decode (encoding, stored, scale, error) : NULL;
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
