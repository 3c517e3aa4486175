/* `kd cache pack --pack-index`: the ids of a row are sorted, for ascending ids pack well, and what stands beside them takes the same order. */
#include "kd-cache-pack.h"

#include "../math/kd-packed.h"

#include <stdlib.h>
#include <string.h>

#define STEP_ROWS 1024

typedef struct {
  gint64 id, place;
} Place;

static int
by_id (const void *a, const void *b)
{
  const Place *x = a, *y = b;

  if (x->id != y->id)
    return x->id < y->id ? -1 : 1;
  return x->place < y->place ? -1 : x->place > y->place;
}

/* The largest id of a field, over the whole cache: with it the size of a packed row is known. */
static gboolean
find_universe (KdCacheReader *reader, const gchar *path, const gchar *field, const gint64 *rows, gint64 *ret_universe, GError **error)
{
  gint64 n = kd_cache_reader_n_rows (reader), largest = 0;

  for (gint64 first = 0; first < n; first += STEP_ROWS) {
    g_autoptr (KdTensor) ids = kd_cache_reader_take (reader, field, MIN (STEP_ROWS, n - first), rows + first, error);
    gsize count = ids ? kd_tensor_n_elements (ids) : 0;
    if (!ids)
      return FALSE;
    for (gsize i = 0; i < count; i++) {
      gint64 id = ((const gint64 *) ids->data)[i];
      largest = MAX (largest, id);
      if (id < -1 || id >= (gint64) 1 << 39) {
        g_set_error (error, KD_ERROR, KD_ERROR_RANGE, "Cannot pack ids: path=\"%s\", field=%s, id=%" G_GINT64_FORMAT ", wanted=at least -1 and below 2^39; pack without the index", path, field, id);
        return FALSE;
      }
    }
  }
  *ret_universe = largest + 2;
  return TRUE;
}

/* P.ids and every field P.* of the same shape belong together. */
static gboolean
is_beside (const KdLayoutField *ids, const KdLayoutField *other)
{
  gsize prefix = strlen (ids->name) - strlen ("ids");

  return strncmp (ids->name, other->name, prefix) == 0 && ids->rank == other->rank && memcmp (ids->dims + 1, other->dims + 1, (ids->rank - 1) * sizeof *ids->dims) == 0;
}

static gboolean
pack_ids (KdCacheReader *reader, const gchar *path, const gint64 *rows, const KdLayoutField *ids, KdCacheManifest *to, GArray *fields, GError **error)
{
  KdCacheEncoding *old = kd_cache_encoding_find (to->encodings, ids->name), *packed = kd_cache_encoding_new (ids->name, "packed-index");
  gint64 dims[KD_MAX_RANK];

  memcpy (dims, ids->dims, sizeof dims);
  packed->size = ids->dims[ids->rank - 1];
  packed->n_rows = kd_cache_reader_n_rows (reader);
  if (!find_universe (reader, path, ids->name, rows, &packed->universe, error)) {
    g_free (packed);
    return FALSE;
  }
  if (old)
    g_ptr_array_remove (to->encodings, old);
  g_ptr_array_add (to->encodings, packed);
  for (guint i = 0; i < fields->len; i++) {
    KdPackField *field = &g_array_index (fields, KdPackField, i);
    if (is_beside (ids, kd_layout_find (kd_cache_reader_manifest (reader)->layout, field->name)))
      field->ids = ids->name;
    if (field->name == ids->name)
      field->packed = packed;
  }
  dims[ids->rank - 1] = (gint64) kd_packed_bytes (packed->size, packed->universe);
  kd_layout_set (to->layout, ids->name, KD_UINT8, ids->rank, dims);
  return TRUE;
}

gboolean
kd_pack_index (KdCacheReader *reader, const gchar *path, const gint64 *rows, KdCacheManifest *to, GArray *fields, GError **error)
{
  const KdLayout *layout = kd_cache_reader_manifest (reader)->layout, *decoded = kd_cache_reader_layout (reader);
  guint n_packed = 0;

  for (guint i = 0; i < kd_layout_n_fields (layout); i++) {
    const KdLayoutField *field = kd_layout_nth (layout, i), *seen = kd_layout_find (decoded, field->name);
    const KdCacheEncoding *encoding = kd_cache_reader_encoding (reader, field->name);
    if (!seen || seen->dtype != KD_INT64 || seen->rank < 2 || !g_str_has_suffix (field->name, ".ids") || (encoding && encoding->size))
      continue;
    if (!pack_ids (reader, path, rows, field, to, fields, error))
      return FALSE;
    n_packed++;
  }
  if (n_packed)
    return TRUE;
  g_set_error (error, KD_ERROR, KD_ERROR_FIELD, "No ids to pack: path=\"%s\", wanted=a field *.ids [... k] of int64 that is not packed yet; capture with encoding=topk or encoding=sampled", path);
  return FALSE;
}

/* Each run of @size elements in the order of the ids beside it. */
static void
sort_rows (const KdTensor *ids, gint64 size, KdTensor *values)
{
  gsize element = kd_dtype_size (values->dtype), n = (gsize) size ? kd_tensor_n_elements (ids) / (gsize) size : 0;
  g_autofree Place *places = g_new (Place, MAX (size, 1));
  g_autofree guint8 *row = g_malloc (MAX ((gsize) size * element, 1));

  for (gsize r = 0; r < n; r++) {
    guint8 *to = (guint8 *) values->data + r * (gsize) size * element;
    for (gint64 i = 0; i < size; i++)
      places[i] = (Place) { ((const gint64 *) ids->data)[r * (gsize) size + (gsize) i], i };
    qsort (places, (size_t) size, sizeof *places, by_id);
    memcpy (row, to, (gsize) size * element);
    for (gint64 i = 0; i < size; i++)
      memcpy (to + (gsize) i * element, row + (gsize) places[i].place * element, element);
  }
}

static KdTensor *
pack_rows (const KdTensor *ids, const KdCacheEncoding *packed)
{
  gint64 dims[KD_MAX_RANK], bytes = (gint64) kd_packed_bytes (packed->size, packed->universe);
  gsize n = kd_tensor_n_elements (ids) / (gsize) packed->size;
  KdTensor *out;

  memcpy (dims, ids->dims, sizeof dims);
  dims[ids->rank - 1] = bytes;
  out = kd_tensor_new (KD_UINT8, ids->rank, dims);
#pragma omp parallel for if (n > 1000)
  for (gsize r = 0; r < n; r++)
    kd_pack_ids ((const gint64 *) ids->data + r * (gsize) packed->size, packed->size, packed->universe, (guint8 *) out->data + r * (gsize) bytes);
  return out;
}

KdTensor *
kd_pack_take (KdCacheReader *reader, const KdPackField *field, gint64 n, const gint64 *rows, GError **error)
{
  g_autoptr (KdTensor) values = NULL, ids = NULL, sorted = NULL;

  if (!field->ids)
    return kd_cache_reader_take_stored (reader, field->name, n, rows, error);
  ids = kd_cache_reader_take (reader, field->ids, n, rows, error);
  values = !ids ? NULL : field->packed ? kd_tensor_ref (ids)
                                       : kd_cache_reader_take_stored (reader, field->name, n, rows, error);
  if (!values)
    return NULL;
  sorted = kd_tensor_new (values->dtype, values->rank, values->dims); /* what was taken may be a view */
  memcpy (sorted->data, values->data, values->n_bytes);
  sort_rows (ids, ids->dims[ids->rank - 1], sorted);
  return field->packed ? pack_rows (sorted, field->packed) : g_steal_pointer (&sorted);
}
