/* What can be told about an open batch file beside its rows. */
#include "kd-h5-private.h"

#include <string.h>

static gint
compare_names (gconstpointer a, gconstpointer b)
{
  return strcmp (*(const gchar *const *) a, *(const gchar *const *) b);
}

gchar **
kd_h5_reader_attribute_names (const KdH5Reader *reader)
{
  GPtrArray *names = g_ptr_array_new ();
  GHashTableIter iter;
  gpointer name;

  g_hash_table_iter_init (&iter, reader->attributes);
  while (g_hash_table_iter_next (&iter, &name, NULL))
    g_ptr_array_add (names, g_strdup (name));
  g_ptr_array_sort (names, compare_names);
  g_ptr_array_add (names, NULL);
  return (gchar **) g_ptr_array_free (names, FALSE);
}

/* Filters have names of their own in the file; the usual ones by ours. */
static void
append_filters (GString *text, hid_t create)
{
  gint n = H5Pget_nfilters (create);

  for (gint i = 0; i < n; i++) {
    gchar name[64] = "";
    guint flags, config;
    size_t n_values = 0;
    H5Z_filter_t filter = H5Pget_filter2 (create, (guint) i, &flags, &n_values, NULL, sizeof name, name, &config);
    if (filter == H5Z_FILTER_DEFLATE || filter == H5Z_FILTER_SHUFFLE)
      g_string_append (text, filter == H5Z_FILTER_DEFLATE ? ", deflate" : ", shuffle");
    else
      g_string_append_printf (text, ", filter %d %.60s", (gint) filter, name);
  }
}

static void
append_library (GString *text, const KdH5Column *column)
{
  g_auto (KdHid) create = H5Dget_create_plist (column->dataset);
  hsize_t chunk[KD_MAX_RANK + 1] = { 0 };
  H5D_layout_t layout = H5Pget_layout (create);

  if (layout == H5D_CHUNKED && H5Pget_chunk (create, KD_MAX_RANK, chunk) > 0)
    g_string_append_printf (text, "chunks of %" G_GUINT64_FORMAT " rows", (guint64) chunk[0]);
  else
    g_string_append (text, layout == H5D_COMPACT ? "compact" : "contiguous, converted");
  append_filters (text, create);
}

gchar *
kd_h5_reader_storage (KdH5Reader *reader, const gchar *field)
{
  g_auto (KdH5Guard) guard = kd_h5_enter ();
  GString *text;
  KdH5Column *column = kd_h5_find_column (reader, field), *offsets;

  if (!column && !kd_h5_find_text (reader, field, &column, &offsets))
    return NULL;
  text = g_string_new (NULL);
  if (column->storage == KD_H5_LIBRARY)
    append_library (text, column);
  else if (column->storage == KD_H5_CHUNKED || column->storage == KD_H5_FILTERED) {
    g_autofree gchar *filters = kd_h5_pipeline_text (&column->pipeline);
    g_string_append_printf (text, "chunks of %" G_GINT64_FORMAT " rows%s", column->chunk_rows, column->storage == KD_H5_FILTERED ? filters : "");
  } else
    g_string_append (text, "contiguous");
  return g_string_free (text, FALSE);
}
