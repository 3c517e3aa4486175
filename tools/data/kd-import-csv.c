/* CSV as RFC 4180 has it: numeric columns -> `input` [N, columns], the label column -> class indices, text columns -> a field each.
 * The file is read twice when the labels are text: class indices follow the sorted names, which are known only at the end. */
#include "kd-csv.h"

#include <float.h>
#include <math.h>
#include <string.h>

/* --- what the columns are --- */

typedef struct {
  const KdImportOptions *options;
  gchar delimiter;
  gboolean header;
  gboolean named; /* labels are names, not numbers */
  gint label;     /* column, -1: none */
  gboolean has_missing;
  gdouble missing;
  GPtrArray *names;  /* of the columns */
  KdColumn **target; /* by column: NULL: left out */
  KdColumn *input;
  guint n_input;
  KdClasses *classes;
  KdColumns *columns;
} KdCsvImport;

static void
csv_import_clear (KdCsvImport *import)
{
  g_clear_pointer (&import->names, g_ptr_array_unref);
  g_clear_pointer (&import->target, g_free);
  g_clear_pointer (&import->classes, kd_classes_free);
  g_clear_pointer (&import->columns, kd_columns_free);
}
G_DEFINE_AUTO_CLEANUP_CLEAR_FUNC (KdCsvImport, csv_import_clear)

static const gchar *
name_at (const KdCsvImport *import, guint i)
{
  return g_ptr_array_index (import->names, i);
}

/* The byte that stands most often outside quotes in the first line. */
static gchar
guess_delimiter (const gchar *path)
{
  static const gchar candidates[] = { ',', '\t', ';', '|' };
  gint64 bytes;
  g_autoptr (GInputStream) stream = kd_data_open (path, &bytes, NULL);
  g_auto (KdLines) lines = { 0 };
  guint count[G_N_ELEMENTS (candidates)] = { 0 }, best = 0;
  gboolean quoted = FALSE;
  gint byte;

  if (!stream)
    return ',';
  kd_lines_init (&lines, stream, path);
  while ((byte = kd_lines_byte (&lines, NULL)) >= 0 && (quoted || byte != '\n')) {
    quoted ^= byte == '"';
    for (guint i = 0; i < G_N_ELEMENTS (candidates); i++)
      count[i] += !quoted && byte == candidates[i];
  }
  for (guint i = 1; i < G_N_ELEMENTS (candidates); i++)
    if (count[i] > count[best])
      best = i;
  return candidates[best];
}

static gboolean
is_number (const gchar *text)
{
  gdouble value;

  return kd_data_parse_number (text, &value);
}

static guint
count_numbers (const KdCsv *csv)
{
  guint n = 0;

  for (guint i = 0; i < csv->cells->len; i++)
    n += is_number (kd_csv_cell (csv, i));
  return n;
}

/* A first line without any number is a header when numbers follow; with only text in both nobody can tell. */
static gboolean
find_header (KdCsvImport *import, GError **error)
{
  const gchar *wish = import->options->header ? import->options->header : "auto", *path = import->options->input;
  g_auto (KdCsv) csv = { 0 };
  guint n_numbers;
  gint status;

  if (!kd_csv_open (&csv, path, import->delimiter, error) || (status = kd_csv_next (&csv, error)) < 0)
    return FALSE;
  if (status == 0) {
    g_set_error (error, KD_ERROR, KD_ERROR_VALUE, "Empty file: path=\"%s\"; the table needs at least one row", path);
    return FALSE;
  }
  for (guint i = 0; i < csv.cells->len; i++)
    g_ptr_array_add (import->names, g_strdup (kd_csv_cell (&csv, i)));
  n_numbers = count_numbers (&csv);
  if ((status = kd_csv_next (&csv, error)) < 0)
    return FALSE;
  import->header = g_str_equal (wish, "yes") || (g_str_equal (wish, "auto") && n_numbers == 0);
  if (g_str_equal (wish, "auto") && n_numbers == 0 && (status == 0 || count_numbers (&csv) == 0)) {
    g_set_error (error, KD_ERROR, KD_ERROR_FORMAT,
        "Cannot tell whether the first line names the columns: path=\"%s\", numbers in it=0, numbers in the next=0; give --header yes or no",
        path);
    return FALSE;
  }
  for (guint i = 0; i < import->names->len && !import->header; i++) {
    g_free (g_ptr_array_index (import->names, i));
    g_ptr_array_index (import->names, i) = g_strdup_printf ("column%u", i + 1);
  }
  return TRUE;
}

static gboolean
find_label (KdCsvImport *import, GError **error)
{
  const gchar *wish = import->options->label;
  gint64 number;

  import->label = -1;
  for (guint i = 0; i < import->names->len && import->label < 0; i++)
    if (g_str_equal (name_at (import, i), wish ? wish : "label"))
      import->label = (gint) i;
  if (import->label >= 0 || !wish)
    return TRUE;
  if (kd_data_parse_int (wish, &number) && number >= 1 && number <= import->names->len) {
    import->label = (gint) number - 1;
    return TRUE;
  }
  g_autofree gchar *names = NULL;
  g_ptr_array_add (import->names, NULL);
  names = g_strjoinv (", ", (gchar **) import->names->pdata);
  g_set_error (error, KD_ERROR, KD_ERROR_FIELD, "No such column: --label=%s, path=\"%s\", columns=%u (%.200s); give a name or a number from 1",
      wish, import->options->input, import->names->len - 1, names);
  return FALSE;
}

static gint64
as_label (KdCsvImport *import, KdCsv *csv, const gchar *text, GError **error)
{
  gint64 value;
  g_autofree gchar *shown = NULL;

  if (import->named && (value = kd_classes_index (import->classes, text)) >= 0)
    return value;
  if (!import->named && kd_data_parse_int (text, &value) && value >= 0)
    return value;
  shown = kd_data_excerpt (text);
  g_set_error (error, KD_ERROR, KD_ERROR_VALUE, "Not a label: path=\"%s\", line=%" G_GINT64_FORMAT ", column=%d (%s), value=%s, wanted=%s",
      import->options->input, csv->line, import->label + 1, name_at (import, (guint) import->label), shown,
      import->named ? "the name of a class" : "0, 1, 2 ...; for names of classes give --classes");
  return -1;
}

static gboolean
check_width (const KdCsvImport *import, const KdCsv *csv, GError **error)
{
  if (csv->cells->len == import->names->len)
    return TRUE;
  g_set_error (error, KD_ERROR, KD_ERROR_FORMAT,
      "Row of another length: path=\"%s\", line=%" G_GINT64_FORMAT ", cells=%u, wanted=%u; is a delimiter inside a cell without quotes?",
      import->options->input, csv->line, csv->cells->len, import->names->len);
  return FALSE;
}

/* Opens the table at its first row of data; 0 when there is none, -1 on errors. */
static gint
first_row (const KdCsvImport *import, KdCsv *csv, GError **error)
{
  gint status;

  if (!kd_csv_open (csv, import->options->input, import->delimiter, error))
    return -1;
  status = kd_csv_next (csv, error);
  if (status == 1 && import->header)
    status = kd_csv_next (csv, error);
  return status;
}

/* The first pass: class names, when labels are names. */
static gboolean
collect_classes (KdCsvImport *import, GError **error)
{
  g_auto (KdCsv) csv = { 0 };
  guint label = (guint) import->label;
  gint64 value;
  gint status = first_row (import, &csv, error);

  if (status <= 0 || !check_width (import, &csv, error))
    return status == 0;
  import->named = import->options->classes || !kd_data_parse_int (kd_csv_cell (&csv, label), &value);
  for (; import->named && status > 0; status = kd_csv_next (&csv, error)) {
    if (!check_width (import, &csv, error))
      return FALSE;
    /* An empty cell is no class: the second pass says where it stands. */
    if (*kd_csv_cell (&csv, label) && !kd_classes_add (import->classes, kd_csv_cell (&csv, label), error))
      return FALSE;
  }
  kd_classes_sort (import->classes);
  return status >= 0;
}

/* The second pass: the first row says what each column is, the others must agree. */
static gboolean
add_columns (KdCsvImport *import, const KdCsv *csv, GError **error)
{
  gint64 dims[2] = { KD_DIM_ANY, 0 };
  guint n = csv->cells->len;
  g_autofree gboolean *numeric = g_new0 (gboolean, n);

  import->target = g_new0 (KdColumn *, n);
  for (guint i = 0; i < n; i++) {
    const gchar *cell = kd_csv_cell (csv, i);
    numeric[i] = (gint) i != import->label && (is_number (cell) || (import->has_missing && !*cell)) &&
        kd_import_wants (import->options, name_at (import, i));
    dims[1] += numeric[i];
  }
  if (dims[1] && !(import->input = kd_columns_add (import->columns, "input", KD_FLOAT32, 2, dims, error)))
    return FALSE;
  for (guint i = 0; i < n; i++) {
    g_autofree gchar *name = NULL;
    gboolean label = (gint) i == import->label;
    if (numeric[i]) {
      import->target[i] = import->input;
    } else if (label || kd_import_wants (import->options, name_at (import, i))) {
      name = label ? g_strdup ("label") : kd_import_field (import->options, name_at (import, i));
      import->target[i] = kd_columns_add (import->columns, name, label ? KD_INT64 : KD_UTF8, 1, dims, error);
      if (!import->target[i])
        return FALSE;
    }
  }
  return TRUE;
}

static gboolean
put_number (KdCsvImport *import, KdCsv *csv, guint i, GError **error)
{
  const gchar *text = kd_csv_cell (csv, i);
  g_autofree gchar *shown = NULL;
  gdouble value;

  if (!*text && import->has_missing)
    value = import->missing;
  else if (!kd_data_parse_number (text, &value) || fabs (value) > FLT_MAX) {
    shown = kd_data_excerpt (text);
    g_set_error (error, KD_ERROR, KD_ERROR_VALUE,
        "Not a number: path=\"%s\", line=%" G_GINT64_FORMAT ", column=%u (%s), value=%s; the column began as numbers: correct the cell%s",
        import->options->input, csv->line, i + 1, name_at (import, i), shown, *text ? "" : ", or give --missing NUMBER for empty cells");
    return FALSE;
  }
  kd_column_put_float (import->input, value);
  return TRUE;
}

static gboolean
put_row (KdCsvImport *import, KdCsv *csv, KdDataOut *out, GError **error)
{
  if (!check_width (import, csv, error))
    return FALSE;
  for (guint i = 0; i < csv->cells->len; i++) {
    KdColumn *column = import->target[i];
    if ((gint) i == import->label) {
      gint64 label = as_label (import, csv, kd_csv_cell (csv, i), error);
      if (label < 0)
        return FALSE;
      kd_column_put_int (column, label);
    } else if (column == import->input && column) {
      if (!put_number (import, csv, i, error))
        return FALSE;
    } else if (column) {
      kd_column_put_text (column, kd_csv_cell (csv, i), strlen (kd_csv_cell (csv, i)));
    }
  }
  return kd_columns_end_row (import->columns, out, error);
}

static gboolean
csv_prepare (KdCsvImport *import, GError **error)
{
  const KdImportOptions *options = import->options;
  const gchar *delimiter = options->delimiter;

  import->names = g_ptr_array_new_with_free_func (g_free);
  import->classes = kd_classes_new ();
  import->columns = kd_columns_new ();
  import->delimiter = delimiter ? (g_str_equal (delimiter, "tab") ? '\t' : delimiter[0]) : guess_delimiter (options->input);
  import->has_missing = options->missing != NULL;
  if (options->missing)
    kd_data_parse_number (options->missing, &import->missing); /* checked with the options */
  if (!find_header (import, error) || !find_label (import, error))
    return FALSE;
  return import->label < 0 || collect_classes (import, error);
}

static gboolean
csv_run (const KdImportOptions *options, GError **error)
{
  g_auto (KdCsvImport) import = { .options = options };
  g_auto (KdCsv) csv = { 0 };
  g_autoptr (KdDataOut) out = NULL;
  gint status;

  if (!csv_prepare (&import, error) || (status = first_row (&import, &csv, error)) < 0)
    return FALSE;
  if (!(out = kd_data_out_new (options->output, 0, error)))
    return FALSE;
  if (status > 0 && (!check_width (&import, &csv, error) || !add_columns (&import, &csv, error)))
    return FALSE;
  for (; status > 0; status = kd_csv_next (&csv, error))
    if (!put_row (&import, &csv, out, error))
      return FALSE;
  if (status < 0 || !kd_columns_flush (import.columns, out, error))
    return FALSE;
  return kd_import_finish (options, "csv", import.classes, out, error);
}

static gboolean
csv_sniff (const gchar *path, const guint8 *head, gsize n)
{
  g_autofree gchar *lower = g_ascii_strdown (path, -1);

  return g_str_has_suffix (lower, ".csv") || g_str_has_suffix (lower, ".tsv") || g_str_has_suffix (lower, ".csv.gz") ||
      g_str_has_suffix (lower, ".tsv.gz") || g_str_has_suffix (lower, ".data") ||
      (g_str_has_suffix (lower, ".txt") && n > 0 && !memchr (head, 0, n));
}

const KdImportFormat kd_import_csv = {
  .name = "csv",
  .description = "delimited text: numeric columns -> input, --label COLUMN -> label, text columns -> a field each",
  .sniff = csv_sniff,
  .run = csv_run,
};
