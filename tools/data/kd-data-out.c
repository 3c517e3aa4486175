/* The output of every importer: a batch file, its row numbers, the class names, a progress line. */
#include "kd-data.h"

#include <string.h>

#define SHOW_EVERY_US 200000

void
kd_data_progress_start (KdDataProgress *progress, const gchar *unit, gint64 total)
{
  *progress = (KdDataProgress) { .unit = unit, .total = total, .started_us = g_get_monotonic_time () };
  progress->shown_us = progress->started_us;
}

void
kd_data_progress_update (KdDataProgress *progress, gint64 done)
{
  gint64 now = g_get_monotonic_time ();
  gdouble seconds = (gdouble) (now - progress->started_us) / 1e6, rate = (gdouble) done / MAX (seconds, 1e-6);

  if (now - progress->shown_us < SHOW_EVERY_US || !kd_tool_is_terminal (stderr))
    return;
  progress->shown_us = now;
  progress->shown = TRUE;
  if (progress->total > 0) {
    g_autofree gchar *left = kd_tool_duration ((gdouble) MAX (progress->total - done, 0) / MAX (rate, 1e-6));
    fprintf (stderr, "\r\033[K%" G_GINT64_FORMAT " of %" G_GINT64_FORMAT " %s (%.0f %%), %.0f/s, %s left", done, progress->total,
        progress->unit, 100.0 * (gdouble) done / (gdouble) progress->total, rate, left);
  } else {
    fprintf (stderr, "\r\033[K%" G_GINT64_FORMAT " %s, %.0f/s", done, progress->unit, rate);
  }
  fflush (stderr);
}

void
kd_data_progress_end (KdDataProgress *progress)
{
  if (progress->shown)
    fputs ("\r\033[K", stderr);
  progress->shown = FALSE;
}

KdDataOut *
kd_data_out_new (const gchar *path, gint64 expected_rows, GError **error)
{
  KdDataOut *out;
  KdH5Writer *writer = kd_h5_writer_new (path, error);

  if (!writer)
    return NULL;
  out = g_new0 (KdDataOut, 1);
  out->writer = writer;
  out->path = g_strdup (path);
  kd_data_progress_start (&out->progress, "rows", expected_rows);
  return out;
}

static KdTensor *
row_ids (gint64 first, gint64 n)
{
  KdTensor *ids = kd_tensor_new (KD_INT64, 1, &n);

  for (gint64 i = 0; i < n; i++)
    ((gint64 *) ids->data)[i] = first + i;
  return ids;
}

gboolean
kd_data_out_append (KdDataOut *out, guint n, const gchar *const *names, KdTensor *const *tensors, GError **error)
{
  g_autofree const gchar **all_names = g_new (const gchar *, n + 1);
  g_autofree KdTensor **all = g_new (KdTensor *, n + 1);
  g_autoptr (KdTensor) ids = row_ids (out->first_id + out->n_rows, tensors[0]->dims[0]);
  guint n_all = n, has_ids = 0;

  memcpy (all_names, names, n * sizeof *names);
  memcpy (all, tensors, n * sizeof *tensors);
  while (has_ids < n && !g_str_equal (names[has_ids], "sample.id"))
    has_ids++;
  if (has_ids == n) {
    all_names[n_all] = "sample.id";
    all[n_all++] = ids;
  }
  if (!kd_h5_writer_append (out->writer, n_all, all_names, all, error))
    return FALSE;
  out->n_rows += tensors[0]->dims[0];
  kd_data_progress_update (&out->progress, out->n_rows);
  return TRUE;
}

gboolean
kd_data_out_finish (KdDataOut *out, GError **error)
{
  kd_data_progress_end (&out->progress);
  if (out->n_rows == 0) {
    g_set_error (error, KD_ERROR, KD_ERROR_VALUE, "Nothing to write: rows=0, output=\"%s\"; the input holds no data", out->path);
    return FALSE;
  }
  return kd_h5_writer_finish (out->writer, error);
}

void
kd_data_out_free (KdDataOut *out)
{
  if (!out)
    return;
  kd_data_progress_end (&out->progress);
  kd_h5_writer_close (out->writer);
  g_free (out->path);
  g_free (out);
}

struct _KdClasses {
  GHashTable *index; /* name -> index + 1 once sorted */
  GPtrArray *names;
};

KdClasses *
kd_classes_new (void)
{
  KdClasses *classes = g_new0 (KdClasses, 1);

  classes->names = g_ptr_array_new_with_free_func (g_free);
  classes->index = g_hash_table_new (g_str_hash, g_str_equal);
  return classes;
}

void
kd_classes_free (KdClasses *classes)
{
  if (!classes)
    return;
  g_hash_table_unref (classes->index);
  g_ptr_array_unref (classes->names);
  g_free (classes);
}

gboolean
kd_classes_add (KdClasses *classes, const gchar *name, GError **error)
{
  gchar *copy;

  if (g_hash_table_contains (classes->index, name))
    return TRUE;
  if (classes->names->len == KD_DATA_MAX_CLASSES) {
    g_autofree gchar *text = kd_data_excerpt (name);
    g_set_error (error, KD_ERROR, KD_ERROR_RANGE,
        "Too many classes: most=%d, one more=%s; this is hardly a label: name another column with --label", KD_DATA_MAX_CLASSES, text);
    return FALSE;
  }
  copy = g_strdup (name);
  g_ptr_array_add (classes->names, copy);
  g_hash_table_insert (classes->index, copy, GUINT_TO_POINTER (classes->names->len));
  return TRUE;
}

static gint
compare_names (gconstpointer a, gconstpointer b)
{
  return strcmp (*(const gchar *const *) a, *(const gchar *const *) b);
}

static gint
compare_numbers (gconstpointer a, gconstpointer b)
{
  gint64 x = g_ascii_strtoll (*(const gchar *const *) a, NULL, 10), y = g_ascii_strtoll (*(const gchar *const *) b, NULL, 10);

  return x != y ? (x > y) - (x < y) : compare_names (a, b); /* "1" and "01" are two classes */
}

/* Folders called 0 ... 10 are meant as numbers: "10" must not come before "2". */
void
kd_classes_sort (KdClasses *classes)
{
  gboolean numbers = TRUE;
  gint64 value;

  for (guint i = 0; i < classes->names->len && numbers; i++)
    numbers = kd_data_parse_int (g_ptr_array_index (classes->names, i), &value);
  g_ptr_array_sort (classes->names, numbers ? compare_numbers : compare_names);
  for (guint i = 0; i < classes->names->len; i++)
    g_hash_table_insert (classes->index, g_ptr_array_index (classes->names, i), GUINT_TO_POINTER (i + 1));
}

guint
kd_classes_n (const KdClasses *classes)
{
  return classes->names->len;
}

gint64
kd_classes_index (const KdClasses *classes, const gchar *name)
{
  return (gint64) GPOINTER_TO_UINT (g_hash_table_lookup (classes->index, name)) - 1;
}

gchar *
kd_classes_to_json (const KdClasses *classes)
{
  GString *text = g_string_new ("[");

  for (guint i = 0; i < classes->names->len; i++) {
    g_string_append (text, i ? ",\"" : "\"");
    for (const guchar *c = g_ptr_array_index (classes->names, i); *c; c++)
      if (*c == '"' || *c == '\\')
        g_string_append_printf (text, "\\%c", *c);
      else if (*c < 0x20)
        g_string_append_printf (text, "\\u%04x", *c);
      else
        g_string_append_c (text, (gchar) *c);
    g_string_append_c (text, '"');
  }
  g_string_append_c (text, ']');
  return g_string_free (text, FALSE);
}

gboolean
kd_classes_store (const KdClasses *classes, KdDataOut *out, GError **error)
{
  g_autofree gchar *json = kd_classes_to_json (classes);

  /* HDF5 keeps an attribute in the object's header, which ends at 64 KiB. */
  if (strlen (json) > 60000) {
    g_set_error (error, KD_ERROR, KD_ERROR_RANGE, "Class names too long: bytes=%zu, most=60000, classes=%u; use numbers as labels",
        strlen (json), classes->names->len);
    return FALSE;
  }
  return kd_h5_writer_set_attribute (out->writer, "kd.classes", json, error);
}
