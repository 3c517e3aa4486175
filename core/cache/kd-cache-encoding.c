/* Which encodings there are, what they make of a field's shape, and the way of a tensor into one and back. */
#include "kd-cache-private.h"

#include "../math/kd-packed.h"
#include "../math/kd-quantize.h"
#include "../math/kd-softmax.h"

#include <math.h>
#include <string.h>

#define PACKED "packed-index"

static const gchar *const names[] = { "keep", "float32", "float16", "bfloat16", "logprob8", "logprob5", "index32", "index16", NULL };

const gchar *const *
kd_cache_encoding_names (void)
{
  return names;
}

KdCacheEncoding *
kd_cache_encoding_new (const gchar *field, const gchar *name)
{
  KdCacheEncoding *encoding;

  if (!g_strv_contains (names, name) && !g_str_equal (name, PACKED))
    return NULL;
  encoding = g_new0 (KdCacheEncoding, 1);
  encoding->field = g_intern_string (field);
  encoding->name = g_intern_string (name);
  encoding->max_tail = encoding->mean_tail = -1;
  return encoding;
}

KdCacheEncoding *
kd_cache_encoding_find (const GPtrArray *encodings, const gchar *field)
{
  for (guint i = 0; encodings && i < encodings->len; i++) {
    KdCacheEncoding *encoding = g_ptr_array_index (encodings, i);
    if (g_str_equal (encoding->field, field))
      return encoding;
  }
  return NULL;
}

GPtrArray *
kd_cache_encodings_copy (const GPtrArray *encodings, gboolean measured)
{
  GPtrArray *copy = g_ptr_array_new_with_free_func (g_free);

  for (guint i = 0; i < encodings->len; i++) {
    const KdCacheEncoding *from = g_ptr_array_index (encodings, i);
    KdCacheEncoding *to = kd_cache_encoding_new (from->field, from->name);
    if (measured)
      *to = *from;
    to->universe = from->universe;
    to->size = from->size;
    g_ptr_array_add (copy, to);
  }
  return copy;
}

gboolean
kd_cache_encodings_equal (const GPtrArray *a, const GPtrArray *b)
{
  if (a->len != b->len)
    return FALSE;
  for (guint i = 0; i < a->len; i++) {
    const KdCacheEncoding *x = g_ptr_array_index (a, i), *y = kd_cache_encoding_find (b, x->field);
    if (!y || x->name != y->name || x->universe != y->universe || x->size != y->size)
      return FALSE;
  }
  return TRUE;
}

static gdouble
mean_of (gdouble a, gint64 n_a, gdouble b, gint64 n_b)
{
  return n_a + n_b ? (a * (gdouble) n_a + b * (gdouble) n_b) / (gdouble) (n_a + n_b) : 0;
}

static void
add_measured (KdCacheEncoding *to, const KdCacheEncoding *more)
{
  to->max_error = MAX (to->max_error, more->max_error);
  to->mean_error = mean_of (to->mean_error, to->n_rows, more->mean_error, more->n_rows);
  if (more->max_tail >= 0)
    to->mean_tail = to->max_tail < 0 ? more->mean_tail : mean_of (to->mean_tail, to->n_rows, more->mean_tail, more->n_rows);
  to->max_tail = MAX (to->max_tail, more->max_tail);
  to->n_rows += more->n_rows;
}

void
kd_cache_encodings_add (GPtrArray *to, const GPtrArray *more)
{
  for (guint i = 0; i < more->len; i++) {
    const KdCacheEncoding *from = g_ptr_array_index (more, i);
    KdCacheEncoding *encoding = kd_cache_encoding_find (to, from->field);
    if (encoding)
      add_measured (encoding, from);
  }
}

gint
kd_cache_encoding_levels (const KdCacheEncoding *encoding)
{
  return g_str_equal (encoding->name, "logprob8") ? 254 : g_str_equal (encoding->name, "logprob5") ? 30
                                                                                                   : 0;
}

static KdDtype
index_dtype (const KdCacheEncoding *encoding)
{
  return g_str_equal (encoding->name, "index32") ? KD_INT32 : g_str_equal (encoding->name, "index16") ? KD_UINT16
                                                                                                      : 0;
}

/* Losses read a teacher's logits and features in half precision as they are; what sparse teachers consist of they read as float32 only. */
static gboolean
is_widened (const KdCacheEncoding *encoding)
{
  return (g_str_equal (encoding->name, "float16") || g_str_equal (encoding->name, "bfloat16")) &&
      (g_str_has_suffix (encoding->field, ".logprobs") || g_str_has_suffix (encoding->field, ".weights") || g_str_has_suffix (encoding->field, ".lse"));
}

gboolean
kd_cache_encoding_is_index (const KdCacheEncoding *encoding)
{
  return index_dtype (encoding) != 0;
}

gboolean
kd_cache_encoding_is_coded (const KdCacheEncoding *encoding)
{
  return kd_cache_encoding_levels (encoding) || index_dtype (encoding) || g_str_equal (encoding->name, PACKED) || is_widened (encoding);
}

static gchar *
wrong (const KdCacheEncoding *encoding, const gchar *what)
{
  return g_strdup_printf ("member=encodings, field=%s, encoding=%s, reason=%s", encoding->field, encoding->name, what);
}

/* F.scale: two float16 a row of codes. */
static gboolean
scale_fits (const KdLayout *layout, const KdLayoutField *codes)
{
  g_autofree gchar *name = g_strconcat (codes->name, KD_CACHE_SCALE, NULL);
  const KdLayoutField *scale = kd_layout_find (layout, name);

  return scale && scale->dtype == KD_FLOAT16 && scale->rank == codes->rank && scale->dims[scale->rank - 1] == 2 &&
      memcmp (scale->dims + 1, codes->dims + 1, (codes->rank - 2) * sizeof *codes->dims) == 0;
}

gchar *
kd_cache_encodings_check (const GPtrArray *encodings, const KdLayout *layout)
{
  for (guint i = 0; i < encodings->len; i++) {
    const KdCacheEncoding *encoding = g_ptr_array_index (encodings, i);
    const KdLayoutField *field = layout ? kd_layout_find (layout, encoding->field) : NULL;
    KdDtype index = index_dtype (encoding);

    if (layout && !field)
      return wrong (encoding, "no such field");
    if (!layout)
      continue;
    if (kd_cache_encoding_levels (encoding) && (field->dtype != KD_UINT8 || field->rank < 2 || !scale_fits (layout, field)))
      return wrong (encoding, "wanted uint8 rows and float16 [... 2] in FIELD" KD_CACHE_SCALE);
    if (index && field->dtype != index)
      return wrong (encoding, "wanted int32 or uint16");
    if (encoding->size && !g_str_equal (encoding->name, PACKED))
      return wrong (encoding, "only packed ids have size and universe");
    if (g_str_equal (encoding->name, PACKED) &&
        (field->dtype != KD_UINT8 || field->rank < 2 || encoding->size < 1 || encoding->universe < 2 || encoding->size > (1 << 24) || encoding->universe > ((gint64) 1 << 40) ||
            kd_packed_bytes (encoding->size, encoding->universe) != (gsize) field->dims[field->rank - 1]))
      return wrong (encoding, "size and universe do not make rows of that many bytes");
    if ((!kd_cache_encoding_is_coded (encoding) || is_widened (encoding)) && !g_str_equal (encoding->name, kd_dtype_name (field->dtype)))
      return wrong (encoding, "the field is stored in another type");
  }
  return NULL;
}

KdLayout *
kd_cache_decoded_layout (const KdCacheManifest *manifest)
{
  KdLayout *layout = manifest->layout ? kd_layout_copy (manifest->layout) : kd_layout_new ();

  for (guint i = 0; manifest->layout && i < manifest->encodings->len; i++) {
    const KdCacheEncoding *encoding = g_ptr_array_index (manifest->encodings, i);
    const KdLayoutField *field = kd_layout_find (manifest->layout, encoding->field);
    g_autofree gchar *scale = g_strconcat (encoding->field, KD_CACHE_SCALE, NULL);
    gint64 dims[KD_MAX_RANK];

    if (!kd_cache_encoding_is_coded (encoding))
      continue;
    memcpy (dims, field->dims, sizeof dims);
    if (encoding->size)
      dims[field->rank - 1] = encoding->size;
    if (kd_cache_encoding_levels (encoding))
      kd_layout_remove (layout, scale);
    kd_layout_set (layout, encoding->field, kd_cache_encoding_levels (encoding) || is_widened (encoding) ? KD_FLOAT32 : KD_INT64, field->rank, dims);
  }
  return layout;
}

const KdCacheEncoding *
kd_cache_reader_encoding (const KdCacheReader *reader, const gchar *field)
{
  return kd_cache_encoding_find (kd_cache_reader_manifest (reader)->encodings, field);
}

KdTensor *
kd_cache_reader_take (KdCacheReader *reader, const gchar *field, gint64 n, const gint64 *rows, GError **error)
{
  const KdCacheEncoding *encoding = kd_cache_encoding_find (kd_cache_reader_manifest (reader)->encodings, field);
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
