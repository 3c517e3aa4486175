#include "kd-layout.h"

#include <errno.h>
#include <string.h>

/* A hostile caps string cannot make more than this. */
#define MAX_FIELDS 512

struct _KdLayout {
  GArray *fields; /* of KdLayoutField, sorted by name */
};

KdLayout *
kd_layout_new (void)
{
  KdLayout *layout = g_new0 (KdLayout, 1);

  layout->fields = g_array_new (FALSE, TRUE, sizeof (KdLayoutField));
  return layout;
}

KdLayout *
kd_layout_copy (const KdLayout *layout)
{
  KdLayout *copy = kd_layout_new ();

  if (layout->fields->len)
    g_array_append_vals (copy->fields, layout->fields->data, layout->fields->len);
  return copy;
}

void
kd_layout_free (KdLayout *layout)
{
  if (!layout)
    return;
  g_array_unref (layout->fields);
  g_free (layout);
}

guint
kd_layout_n_fields (const KdLayout *layout)
{
  return layout->fields->len;
}

const KdLayoutField *
kd_layout_nth (const KdLayout *layout, guint i)
{
  return &g_array_index (layout->fields, KdLayoutField, i);
}

/* Position of @name, or where it would stand. */
static gboolean
search (const KdLayout *layout, const gchar *name, guint *ret_at)
{
  guint low = 0, high = layout->fields->len;

  while (low < high) {
    guint middle = (low + high) / 2;
    gint order = strcmp (kd_layout_nth (layout, middle)->name, name);
    if (order == 0) {
      *ret_at = middle;
      return TRUE;
    }
    if (order < 0)
      low = middle + 1;
    else
      high = middle;
  }
  *ret_at = low;
  return FALSE;
}

const KdLayoutField *
kd_layout_find (const KdLayout *layout, const gchar *name)
{
  guint at;

  return search (layout, name, &at) ? kd_layout_nth (layout, at) : NULL;
}

void
kd_layout_set (KdLayout *layout, const gchar *name, KdDtype dtype, guint rank, const gint64 *dims)
{
  KdLayoutField field = { .name = g_intern_string (name), .dtype = dtype, .rank = rank };
  guint at;

  g_return_if_fail (rank <= KD_MAX_RANK);
  for (guint i = 0; i < rank; i++)
    field.dims[i] = i ? dims[i] : KD_DIM_ANY;
  if (search (layout, name, &at))
    g_array_index (layout->fields, KdLayoutField, at) = field;
  else
    g_array_insert_val (layout->fields, at, field);
}

void
kd_layout_remove (KdLayout *layout, const gchar *name)
{
  guint at;

  if (search (layout, name, &at))
    g_array_remove_index (layout->fields, at);
}

gboolean
kd_layout_equal (const KdLayout *a, const KdLayout *b)
{
  if (a->fields->len != b->fields->len)
    return FALSE;
  for (guint i = 0; i < a->fields->len; i++) {
    const KdLayoutField *x = kd_layout_nth (a, i), *y = kd_layout_nth (b, i);
    if (strcmp (x->name, y->name) || x->dtype != y->dtype || x->rank != y->rank ||
        memcmp (x->dims, y->dims, x->rank * sizeof (gint64)))
      return FALSE;
  }
  return TRUE;
}

gchar *
kd_layout_field_string (const KdLayoutField *field)
{
  GString *text = g_string_new (kd_dtype_name (field->dtype));

  if (field->rank == 0)
    g_string_append (text, ":scalar");
  for (guint i = 1; i < field->rank; i++) {
    g_string_append_c (text, i == 1 ? ':' : 'x');
    if (field->dims[i] == KD_DIM_ANY)
      g_string_append_c (text, '?');
    else
      g_string_append_printf (text, "%" G_GINT64_FORMAT, field->dims[i]);
  }
  return g_string_free (text, FALSE);
}

gchar *
kd_layout_to_string (const KdLayout *layout)
{
  GString *text = g_string_new (NULL);

  for (guint i = 0; i < layout->fields->len; i++) {
    const KdLayoutField *field = kd_layout_nth (layout, i);
    g_autofree gchar *what = kd_layout_field_string (field);
    g_string_append_printf (text, "%s%s=%s", i ? " " : "", field->name, what);
  }
  return g_string_free (text, FALSE);
}

gchar *
kd_layout_names (const KdLayout *layout)
{
  GString *text = g_string_new (NULL);

  for (guint i = 0; i < layout->fields->len; i++)
    g_string_append_printf (text, "%s%s", i ? " " : "", kd_layout_nth (layout, i)->name);
  return g_string_free (text, FALSE);
}

gboolean
kd_field_name_is_valid (const gchar *name)
{
  gsize n = strlen (name);

  if (n == 0 || n > 120 || name[0] == '.' || name[n - 1] == '.' || strstr (name, ".."))
    return FALSE;
  for (; *name; name++)
    if (!g_ascii_islower (*name) && !g_ascii_isdigit (*name) && !strchr ("_-.", *name))
      return FALSE;
  return TRUE;
}

static gboolean
refuse_word (const gchar *word, const gchar *reason, GError **error)
{
  g_set_error (error, KD_ERROR, KD_ERROR_FORMAT,
      "Layout not understood: word=\"%s\", reason=%s; write name=dtype:AxBxC, such as input=float32:1x8x8", word, reason);
  return FALSE;
}

static gboolean
parse_dims (const gchar *word, const gchar *text, gint64 *dims, guint *ret_rank, GError **error)
{
  g_auto (GStrv) axes = g_strsplit (text, "x", KD_MAX_RANK + 1);
  guint n = g_strv_length (axes);

  if (n + 1 > KD_MAX_RANK)
    return refuse_word (word, "more than 8 axes", error);
  for (guint i = 0; i < n; i++) {
    gchar *end = NULL;
    if (g_str_equal (axes[i], "?")) {
      dims[i + 1] = KD_DIM_ANY;
      continue;
    }
    errno = 0;
    dims[i + 1] = g_ascii_strtoll (axes[i], &end, 10);
    if (end == axes[i] || *end || errno || dims[i + 1] < 0)
      return refuse_word (word, "an axis is neither a size nor ?", error);
  }
  *ret_rank = n + 1;
  return TRUE;
}

static gboolean
parse_word (KdLayout *layout, const gchar *word, GError **error)
{
  g_auto (GStrv) halves = g_strsplit (word, "=", 2);
  g_auto (GStrv) what = NULL;
  gint64 dims[KD_MAX_RANK] = { KD_DIM_ANY };
  guint rank = 1;
  KdDtype dtype;

  if (g_strv_length (halves) != 2 || !kd_field_name_is_valid (halves[0]))
    return refuse_word (word, "no field name", error);
  what = g_strsplit (halves[1], ":", 2);
  dtype = what[0] ? kd_dtype_from_name (what[0]) : 0;
  if (!dtype)
    return refuse_word (word, "unknown dtype", error);
  if (what[1] && g_str_equal (what[1], "scalar"))
    rank = 0;
  else if (what[1] && !parse_dims (word, what[1], dims, &rank, error))
    return FALSE;
  if (kd_layout_find (layout, halves[0]))
    return refuse_word (word, "the field stands twice", error);
  kd_layout_set (layout, halves[0], dtype, rank, dims);
  return TRUE;
}

KdLayout *
kd_layout_from_string (const gchar *text, GError **error)
{
  g_autoptr (KdLayout) layout = kd_layout_new ();
  g_auto (GStrv) words = g_strsplit_set (text, " \t\n", -1);

  for (guint i = 0; words[i]; i++) {
    if (!*words[i])
      continue;
    if (layout->fields->len >= MAX_FIELDS) {
      refuse_word (words[i], "more than 512 fields", error);
      return NULL;
    }
    if (!parse_word (layout, words[i], error))
      return NULL;
  }
  return g_steal_pointer (&layout);
}

GstCaps *
kd_layout_to_caps (const KdLayout *layout)
{
  g_autofree gchar *text = kd_layout_to_string (layout);

  return gst_caps_new_simple (KD_CAPS_NAME, "layout", G_TYPE_STRING, text, NULL);
}

KdLayout *
kd_layout_from_caps (const GstCaps *caps, GError **error)
{
  const GstStructure *structure = gst_caps_get_size (caps) == 1 ? gst_caps_get_structure (caps, 0) : NULL;
  const gchar *text = structure ? gst_structure_get_string (structure, "layout") : NULL;

  if (!text || !gst_structure_has_name (structure, KD_CAPS_NAME)) {
    g_autofree gchar *got = gst_caps_to_string (caps);
    g_set_error (error, KD_ERROR, KD_ERROR_FORMAT,
        "Caps have no layout: caps=\"%s\", wanted=" KD_CAPS_NAME ", layout=(string)...", got);
    return NULL;
  }
  return kd_layout_from_string (text, error);
}

gboolean
kd_layout_check_tensor (const KdLayoutField *field, const KdTensor *tensor, GError **error)
{
  gboolean fits = field->rank == tensor->rank;

  if (field->dtype != tensor->dtype) {
    g_set_error (error, KD_ERROR, KD_ERROR_DTYPE, "Types differ: field=%s, layout=%s, tensor=%s", field->name,
        kd_dtype_name (field->dtype), kd_dtype_name (tensor->dtype));
    return FALSE;
  }
  for (guint i = 1; fits && i < field->rank; i++)
    fits = field->dims[i] == KD_DIM_ANY || field->dims[i] == tensor->dims[i];
  if (!fits) {
    g_autofree gchar *wanted = kd_layout_field_string (field), *got = kd_tensor_shape_string (tensor);
    g_set_error (error, KD_ERROR, KD_ERROR_SHAPE, "Shapes differ: field=%s, layout=%s, tensor=%s", field->name, wanted,
        got);
    return FALSE;
  }
  return TRUE;
}
