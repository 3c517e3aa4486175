/* KdCacheWriter: rows wait in memory until a part is full. */
#include "kd-cache-private.h"
#include "../math/kd-memory.h"

#include <stdlib.h>
#include <string.h>
#include <unistd.h>

/* A checksum covers about this much: what a random read of a cold cache brings in for one row. */
#define BLOCK_BYTES ((gsize) 512 << 10)
#define MAX_BLOCK_ROWS 1024
#define MAX_ROOM_BYTES ((gsize) 256 << 20)

typedef struct {
  gint64 id, view;
} Key;

/* Large pages: with small ones, touching a part's memory for the first time costs as much as filling it. */
void
kd_cache_column_room (KdCacheColumn *column, gsize bytes, gsize used)
{
  gsize capacity = MAX (bytes, 2 * column->capacity);
  guint8 *data = kd_memory_new (capacity);

  if (!data)
    g_error ("Out of memory: %" G_GSIZE_FORMAT " bytes for a cache part", capacity);
  if (used)
    memcpy (data, column->data, used);
  free (column->data);
  column->data = data;
  column->capacity = capacity;
}

static guint
key_hash (gconstpointer data)
{
  const Key *key = data;
  guint64 mixed = ((guint64) key->id * 0x9e3779b97f4a7c15u) ^ ((guint64) key->view * 0xc2b2ae3d27d4eb4fu);

  return (guint) (mixed >> 32);
}

static gboolean
key_equal (gconstpointer a, gconstpointer b)
{
  return memcmp (a, b, sizeof (Key)) == 0;
}

static void
remember_key (KdCacheWriter *writer, gint64 id, gint64 view)
{
  Key *key = g_new (Key, 1);

  *key = (Key) { id, view };
  g_hash_table_add (writer->pending, key);
}

/* Whether the key is among the waiting rows. As long as they come in ascending order, comparing with the last will do. */
static gboolean
is_pending (KdCacheWriter *writer, gint64 id, gint64 view)
{
  Key key = { id, view };
  const gint64 *ids, *views;

  if (writer->n_pending == 0)
    return FALSE;
  if (!writer->pending && (id > writer->last_id || (id == writer->last_id && view > writer->last_view)))
    return FALSE;
  if (!writer->pending) {
    ids = (const gint64 *) writer->columns[kd_cache_field_index (writer->manifest, "sample.id")].data;
    views = (const gint64 *) writer->columns[kd_cache_field_index (writer->manifest, "sample.view")].data;
    writer->pending = g_hash_table_new_full (key_hash, key_equal, g_free, NULL);
    for (gint64 i = 0; i < writer->n_pending; i++)
      remember_key (writer, ids[i], views[i]);
  }
  return g_hash_table_contains (writer->pending, &key);
}

gint64
kd_cache_block_rows (const KdLayout *layout)
{
  /* A power of two: readers find a row's block without a division. */
  return (gint64) 1 << (g_bit_storage (CLAMP (BLOCK_BYTES / kd_cache_row_bytes (layout), 1, MAX_BLOCK_ROWS)) - 1);
}

/* The first rows fix the fields; what has no fixed size a row has no place in a part. */
static gboolean
fix_layout (KdCacheWriter *writer, guint n_fields, const gchar *const *names, KdTensor *const *tensors, GError **error)
{
  g_autoptr (KdLayout) layout = kd_layout_new ();
  gint64 any = KD_DIM_ANY;

  for (guint i = 0; i < n_fields; i++) {
    if (tensors[i]->dtype == KD_UTF8 || tensors[i]->rank == 0) {
      g_set_error (error, KD_ERROR, KD_ERROR_UNSUPPORTED, "Cannot cache field: path=\"%s\", field=%s, dtype=%s, rank=%u; only rows of "
                                                          "numbers are cached: leave it out with fields=",
          writer->path, names[i], kd_dtype_name (tensors[i]->dtype), tensors[i]->rank);
      return FALSE;
    }
    kd_layout_set (layout, names[i], tensors[i]->dtype, tensors[i]->rank, tensors[i]->dims);
  }
  kd_layout_set (layout, "sample.id", KD_INT64, 1, &any);
  kd_layout_set (layout, "sample.view", KD_INT64, 1, &any);
  writer->manifest->block_rows = kd_cache_block_rows (layout);
  writer->manifest->layout = g_steal_pointer (&layout);
  kd_cache_writer_make_columns (writer);
  return TRUE;
}

static gboolean
check_batch (KdCacheWriter *writer, gint64 n, guint n_fields, const gchar *const *names, KdTensor *const *tensors, GError **error)
{
  const KdLayout *layout = writer->manifest->layout;

  for (guint i = 0; i < n_fields; i++) {
    const KdLayoutField *field = kd_layout_find (layout, names[i]);
    if (!field || n_fields + 2 != kd_layout_n_fields (layout)) {
      g_autofree gchar *have = kd_layout_names (layout);
      g_set_error (error, KD_ERROR, KD_ERROR_FIELD, "Fields are not the cache's: path=\"%s\", field=%s, fields=%u, cache=\"%s\"; write "
                                                    "other fields into another cache",
          writer->path, names[i], n_fields, have);
      return FALSE;
    }
    if (!kd_layout_check_tensor (field, tensors[i], error))
      return FALSE;
    if (tensors[i]->dims[0] != n) {
      g_set_error (error, KD_ERROR, KD_ERROR_SHAPE, "Rows differ: path=\"%s\", field=%s, rows=%" G_GINT64_FORMAT ", ids=%" G_GINT64_FORMAT, writer->path, names[i], tensors[i]->dims[0], n);
      return FALSE;
    }
  }
  return TRUE;
}

/* Room for a whole part at once: growing would copy. */
static void
make_room (KdCacheWriter *writer, gint64 n)
{
  gsize row_bytes = kd_cache_row_bytes (writer->manifest->layout);
  gsize part_rows = MIN (writer->part_bytes, MAX_ROOM_BYTES) / row_bytes + 1;

  for (guint i = 0; i < kd_layout_n_fields (writer->manifest->layout); i++) {
    KdCacheColumn *column = &writer->columns[i];
    gsize rows = MAX ((gsize) (writer->n_pending + n), part_rows + (gsize) n);
    if ((gsize) (writer->n_pending + n) * column->row_bytes > column->capacity)
      kd_cache_column_room (column, rows * column->row_bytes, (gsize) writer->n_pending * column->row_bytes);
  }
}

/* Keys first: they say which rows are new. Rows that follow one another are copied together. */
static void
add_rows (KdCacheWriter *writer, gint64 n, const gint64 *ids, const gint64 *views, guint n_fields, const gchar *const *names,
    KdTensor *const *tensors)
{
  KdCacheColumn *id_column = &writer->columns[kd_cache_field_index (writer->manifest, "sample.id")];
  KdCacheColumn *view_column = &writer->columns[kd_cache_field_index (writer->manifest, "sample.view")];
  gint64 base = writer->n_pending, n_new = 0;
  g_autofree gint64 *rows = g_new (gint64, MAX (n, 1));

  make_room (writer, n);
  for (gint64 i = 0; i < n; i++) {
    gint64 view = views ? views[i] : 0;
    if (kd_cache_writer_has (writer, ids[i], view) || is_pending (writer, ids[i], view))
      continue;
    if (writer->pending)
      remember_key (writer, ids[i], view);
    ((gint64 *) id_column->data)[writer->n_pending] = writer->last_id = ids[i];
    ((gint64 *) view_column->data)[writer->n_pending++] = writer->last_view = view;
    rows[n_new++] = i;
  }
  for (guint f = 0; f < n_fields; f++) {
    KdCacheColumn *column = &writer->columns[kd_cache_field_index (writer->manifest, names[f])];
    gsize bytes = column->row_bytes;
    for (gint64 i = 0, end; i < n_new; i = end) {
      for (end = i + 1; end < n_new && rows[end] == rows[end - 1] + 1; end++)
        ;
      memcpy (column->data + (gsize) (base + i) * bytes, (const guint8 *) tensors[f]->data + (gsize) rows[i] * bytes,
          (gsize) (end - i) * bytes);
    }
  }
}

gdouble
kd_cache_writer_waited (KdCacheWriter *writer)
{
  return (gdouble) writer->waited_us / G_USEC_PER_SEC;
}

gint64
kd_cache_writer_row_bytes (KdCacheWriter *writer)
{
  return (gint64) kd_cache_row_bytes (writer->manifest->layout);
}

gboolean
kd_cache_writer_set_encoding (KdCacheWriter *writer, const gchar *field, const gchar *name, GError **error)
{
  const KdCacheEncoding *there = kd_cache_encoding_find (writer->manifest->encodings, field);
  const gchar *have = there ? there->name : "keep";
  g_autofree gchar *known = NULL;

  if (!g_strv_contains (kd_cache_encoding_names (), name)) {
    known = g_strjoinv (", ", (gchar **) kd_cache_encoding_names ());
    g_set_error (error, KD_ERROR, KD_ERROR_RANGE, "Unknown encoding: path=\"%s\", field=%s, encoding=\"%s\", wanted=%s", writer->path, field, name, known);
    return FALSE;
  }
  if (g_str_equal (have, name))
    return TRUE;
  if (writer->manifest->layout || there) {
    g_set_error (error, KD_ERROR, KD_ERROR_MISMATCH, "Cache has another encoding: path=\"%s\", field=%s, cache=%s, now=%s; go on with the cache's, or write a new cache", writer->path,
        field, have, name);
    return FALSE;
  }
  g_ptr_array_add (writer->manifest->encodings, kd_cache_encoding_new (field, name));
  return TRUE;
}

static gboolean
append_stored (KdCacheWriter *writer, gint64 n, const gint64 *ids, const gint64 *views, guint n_fields, const gchar *const *names,
    KdTensor *const *tensors, GError **error)
{
  gsize row_bytes;
  gint64 n_known = writer->n_committed + writer->n_flying;

  if (!writer->manifest->layout && !fix_layout (writer, n_fields, names, tensors, error))
    return FALSE;
  if (!check_batch (writer, n, n_fields, names, tensors, error))
    return FALSE;
  row_bytes = kd_cache_row_bytes (writer->manifest->layout);
  if (writer->expected > n_known && !kd_h5_reserve (writer->path, -1, (guint64) (writer->expected - n_known) * row_bytes, error))
    return FALSE;
  writer->expected = 0; /* asked once; each part asks for itself */
  add_rows (writer, n, ids, views, n_fields, names, tensors);
  return (gsize) writer->n_pending * row_bytes < writer->part_bytes || kd_cache_writer_launch (writer, error);
}

/* An encoding of a field that never comes would be a promise that the cache does not keep. */
static gboolean
check_encodings (KdCacheWriter *writer, guint n_fields, const gchar *const *names, GError **error)
{
  const GPtrArray *encodings = writer->manifest->encodings;

  for (guint i = 0; i < encodings->len && !writer->manifest->layout; i++) {
    const gchar *field = ((KdCacheEncoding *) g_ptr_array_index (encodings, i))->field;
    guint k = 0;
    while (k < n_fields && !g_str_equal (names[k], field))
      k++;
    if (k == n_fields) {
      g_set_error (error, KD_ERROR, KD_ERROR_FIELD, "Field to encode is not there: path=\"%s\", field=%s; leave its encoding out", writer->path, field);
      return FALSE;
    }
  }
  return TRUE;
}

static gboolean
encode_field (KdCacheWriter *writer, const gchar *name, KdTensor *rows, GPtrArray *to_names, GPtrArray *to_tensors, GError **error)
{
  KdCacheEncoding *encoding = kd_cache_encoding_find (writer->measured, name);
  KdTensor *scale = NULL, *stored = encoding ? kd_cache_encode (encoding, writer->path, rows, &scale, error) : kd_tensor_ref (rows);

  if (!stored)
    return FALSE;
  g_ptr_array_add (to_names, (gpointer) name);
  g_ptr_array_add (to_tensors, stored);
  if (scale) {
    g_autofree gchar *scale_name = g_strconcat (name, KD_CACHE_SCALE, NULL);
    g_ptr_array_add (to_names, (gpointer) g_intern_string (scale_name));
    g_ptr_array_add (to_tensors, scale);
  }
  return TRUE;
}

gboolean
kd_cache_writer_append (KdCacheWriter *writer, gint64 n, const gint64 *ids, const gint64 *views, guint n_fields,
    const gchar *const *names, KdTensor *const *tensors, GError **error)
{
  g_autoptr (GPtrArray) to_names = NULL, to_tensors = NULL;

  /* Nothing to encode; and the manifest is a thread's only as long as one writes it, which changes neither layout nor encodings. */
  if (writer->manifest->encodings->len == 0)
    return append_stored (writer, n, ids, views, n_fields, names, tensors, error);
  if (!check_encodings (writer, n_fields, names, error))
    return FALSE;
  if (!writer->measured)
    writer->measured = kd_cache_encodings_copy (writer->manifest->encodings, FALSE);
  to_names = g_ptr_array_new ();
  to_tensors = g_ptr_array_new_with_free_func ((GDestroyNotify) kd_tensor_unref);
  for (guint i = 0; i < n_fields; i++)
    if (!encode_field (writer, names[i], tensors[i], to_names, to_tensors, error))
      return FALSE;
  return append_stored (writer, n, ids, views, to_names->len, (const gchar *const *) to_names->pdata, (KdTensor *const *) to_tensors->pdata, error);
}
