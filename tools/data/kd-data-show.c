/* kd data info, kd data head: what is in a batch file. */
#include "kd-data.h"

#include <string.h>

#define MAX_SHOWN_CLASSES 32
#define MAX_SHOWN_VALUES 12

static gsize
row_bytes (const KdLayoutField *field)
{
  gsize bytes = kd_dtype_size (field->dtype);

  for (guint i = 1; i < field->rank; i++)
    bytes *= (gsize) MAX (field->dims[i], 0);
  return field->dtype == KD_UTF8 ? 0 : bytes;
}

static void
show_fields (KdH5Reader *reader)
{
  const KdLayout *layout = kd_h5_reader_layout (reader);
  g_autofree gchar *text = kd_layout_to_string (layout);
  gsize bytes = 0;

  g_print ("fields:\n");
  for (guint i = 0; i < kd_layout_n_fields (layout); i++) {
    const KdLayoutField *field = kd_layout_nth (layout, i);
    g_autofree gchar *type = kd_layout_field_string (field), *storage = kd_h5_reader_storage (reader, field->name);
    gsize one = row_bytes (field);
    if (field->dtype == KD_UTF8)
      g_print ("  %-24s %-24s text          %s\n", field->name, type, storage);
    else
      g_print ("  %-24s %-24s %6zu B/row  %s\n", field->name, type, one, storage);
    bytes += one;
  }
  g_print ("bytes a row: %zu (without text)\n", bytes);
  g_print ("layout: %s\n", text);
}

static void
show_attributes (KdH5Reader *reader)
{
  g_auto (GStrv) names = kd_h5_reader_attribute_names (reader);

  if (*names)
    g_print ("attributes:\n");
  for (gchar **name = names; *name; name++) {
    const gchar *value = kd_h5_reader_attribute (reader, *name);
    g_print ("  %-24s %.200s%s\n", *name, value, strlen (value) > 200 ? "..." : "");
  }
}

/* Label counts: read in pieces, so that a large file costs no memory. */
static gboolean
show_labels (KdH5Reader *reader, GError **error)
{
  const KdLayoutField *field = kd_layout_find (kd_h5_reader_layout (reader), "label");
  g_autofree gint64 *count = NULL;
  gint64 n_rows = kd_h5_reader_n_rows (reader), n_classes = 0, n_outside = 0;

  if (!field || field->rank != 1 || !(field->dtype & KD_ANY_INT))
    return TRUE;
  count = g_new0 (gint64, KD_DATA_MAX_CLASSES);
  for (gint64 row = 0; row < n_rows; row += KD_DATA_FLUSH_ROWS) {
    g_autoptr (KdTensor) labels = kd_h5_reader_read (reader, "label", row, MIN (KD_DATA_FLUSH_ROWS, n_rows - row), error);
    if (!labels)
      return FALSE;
    for (gint64 i = 0; i < labels->dims[0]; i++) {
      gdouble label = kd_tensor_get_double (labels, (gsize) i);
      if (label < 0 || label >= KD_DATA_MAX_CLASSES) {
        n_outside++;
        continue;
      }
      count[(gsize) label]++;
      n_classes = MAX (n_classes, (gint64) label + 1);
    }
  }
  g_print ("labels: %" G_GINT64_FORMAT " classes\n ", n_classes);
  for (gint64 i = 0; i < MIN (n_classes, MAX_SHOWN_CLASSES); i++)
    g_print (" %" G_GINT64_FORMAT ":%" G_GINT64_FORMAT, i, count[i]);
  g_print ("%s\n", n_classes > MAX_SHOWN_CLASSES ? " ..." : "");
  if (n_outside)
    g_print ("  outside 0..%d: %" G_GINT64_FORMAT "\n", KD_DATA_MAX_CLASSES - 1, n_outside);
  return TRUE;
}

static gboolean
info_file (const gchar *path, GError **error)
{
  g_autoptr (KdH5Reader) reader = kd_h5_reader_open (path, NULL, error);

  if (!reader)
    return FALSE;
  g_print ("%s\n", path);
  if (kd_h5_reader_n_rows (reader) < 0)
    g_print ("rows: differ between the fields; not a batch file\n");
  else
    g_print ("rows: %" G_GINT64_FORMAT "\n", kd_h5_reader_n_rows (reader));
  show_fields (reader);
  show_attributes (reader);
  return kd_h5_reader_n_rows (reader) < 0 || show_labels (reader, error);
}

int
kd_data_info (int argc, char **argv)
{
  g_autoptr (GError) error = NULL;

  if (!kd_tool_options (&argc, &argv, NULL, "FILE...", "Show fields, types, shapes, storage, attributes and label counts of batch files.", NULL))
    return KD_EXIT_USAGE;
  if (argc < 2)
    return kd_tool_usage ("no FILE given");
  for (int i = 1; i < argc; i++)
    if (!info_file (argv[i], &error))
      return kd_tool_fail ("%s", error->message);
  return KD_EXIT_DONE;
}

/* One row of one field, as much as a line takes. */
static void
show_row (const KdTensor *tensor, gint64 row)
{
  gsize n = kd_tensor_row_elements (tensor);

  if (tensor->dtype == KD_UTF8) {
    g_autofree gchar *text = g_strndup ((const gchar *) tensor->data + tensor->offsets[row],
        (gsize) (tensor->offsets[row + 1] - tensor->offsets[row]));
    g_autofree gchar *shown = kd_data_excerpt (text);
    g_print ("%s", shown);
    return;
  }
  for (gsize i = 0; i < MIN (n, MAX_SHOWN_VALUES); i++) {
    gsize at = (gsize) row * n + i;
    if (tensor->dtype == KD_INT64)
      g_print ("%s%" G_GINT64_FORMAT, i ? " " : "", ((const gint64 *) tensor->data)[at]);
    else
      g_print ("%s%.6g", i ? " " : "", kd_tensor_get_double (tensor, at));
  }
  if (n > MAX_SHOWN_VALUES)
    g_print (" ... (%zu)", n);
}

static gboolean
head_file (const gchar *path, gint64 n, GError **error)
{
  g_autoptr (KdH5Reader) reader = kd_h5_reader_open (path, NULL, error);
  const KdLayout *layout;

  if (!reader || !kd_h5_reader_check_rows (reader, error))
    return FALSE;
  layout = kd_h5_reader_layout (reader);
  n = MIN (n, kd_h5_reader_n_rows (reader));
  for (gint64 row = 0; row < n; row++) {
    g_print ("row %" G_GINT64_FORMAT "\n", row);
    for (guint i = 0; i < kd_layout_n_fields (layout); i++) {
      const KdLayoutField *field = kd_layout_nth (layout, i);
      g_autoptr (KdTensor) tensor = NULL;
      if (field->rank == 0)
        continue;
      if (!(tensor = kd_h5_reader_read (reader, field->name, row, 1, error)))
        return FALSE;
      g_print ("  %-24s ", field->name);
      show_row (tensor, 0);
      g_print ("\n");
    }
  }
  return TRUE;
}

int
kd_data_head (int argc, char **argv)
{
  g_autoptr (GError) error = NULL;
  gint n = 5;
  const GOptionEntry entries[] = {
    { "rows", 'n', 0, G_OPTION_ARG_INT, &n, "How many rows (5)", "N" },
    G_OPTION_ENTRY_NULL,
  };

  if (!kd_tool_options (&argc, &argv, entries, "FILE", "Show the first rows of a batch file.", NULL))
    return KD_EXIT_USAGE;
  if (argc != 2 || n < 1)
    return kd_tool_usage (n < 1 ? "-n must be at least 1" : "exactly one FILE is wanted");
  return head_file (argv[1], n, &error) ? KD_EXIT_DONE : kd_tool_fail ("%s", error->message);
}
