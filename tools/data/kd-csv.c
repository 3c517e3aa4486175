/* Records of delimited text as RFC 4180 has them: quoted cells may hold delimiters, quotes (doubled) and line ends. */
#include "kd-csv.h"

#include <string.h>

void
kd_csv_clear (KdCsv *csv)
{
  kd_lines_clear (&csv->lines);
  g_clear_pointer (&csv->cells, g_ptr_array_unref);
  if (csv->cell)
    g_string_free (csv->cell, TRUE);
}
/* Spreadsheets put a byte order mark before the first cell. */
static void
csv_skip_mark (KdCsv *csv)
{
  KdLines *lines = &csv->lines;

  if (kd_lines_byte (lines, NULL) < 0)
    return;
  lines->start--;
  if (lines->end - lines->start >= 3 && memcmp (lines->buffer + lines->start, "\xef\xbb\xbf", 3) == 0)
    lines->start += 3;
}

gboolean
kd_csv_open (KdCsv *csv, const gchar *path, gchar delimiter, GError **error)
{
  gint64 bytes;
  g_autoptr (GInputStream) stream = kd_data_open (path, &bytes, error);

  if (!stream)
    return FALSE;
  kd_lines_init (&csv->lines, stream, path);
  csv->cells = g_ptr_array_new_with_free_func (g_free);
  csv->cell = g_string_new (NULL);
  csv->delimiter = delimiter;
  csv->lines.number = 1;
  csv->pushed = -1;
  csv_skip_mark (csv);
  return TRUE;
}

static gint
csv_byte (KdCsv *csv, GError **error)
{
  gint byte = csv->pushed;

  if (byte < 0)
    byte = kd_lines_byte (&csv->lines, error);
  csv->pushed = -1;
  if (byte == '\n')
    csv->lines.number++;
  return byte;
}

/* The line of a failure: the record's first. */
static gint
csv_fail (KdCsv *csv, GError **error, const gchar *what, const gchar *remedy)
{
  g_set_error (error, KD_ERROR, KD_ERROR_FORMAT, "%s: path=\"%s\", line=%" G_GINT64_FORMAT ", column=%u; %s", what, csv->lines.path,
      csv->line, csv->cells->len + 1, remedy);
  return -2;
}

static gint
csv_put (KdCsv *csv, gint byte, GError **error)
{
  if (byte == 0)
    return csv_fail (csv, error, "Zero byte in text", "is this a text file?");
  if (csv->cell->len >= KD_DATA_MAX_ROW_BYTES / 4)
    return csv_fail (csv, error, "Cell too long", "is a closing quote missing?");
  g_string_append_c (csv->cell, (gchar) byte);
  return 0;
}

/* After an opening quote: up to the closing one. Returns the byte after it, or -2. */
static gint
csv_quoted (KdCsv *csv, GError **error)
{
  for (;;) {
    gint byte = csv_byte (csv, error);
    if (byte == -2)
      return -2;
    if (byte == -1)
      return csv_fail (csv, error, "Quote not closed", "close it, or write \"\" for a quote inside a quoted cell");
    if (byte == '"') {
      byte = csv_byte (csv, error);
      if (byte != '"') {
        if (byte == '\r' || byte == '\n' || byte == csv->delimiter || byte < 0)
          return byte;
        return csv_fail (csv, error, "Text after a closing quote", "write \"\" for a quote inside a quoted cell");
      }
    }
    if (csv_put (csv, byte, error) < 0)
      return -2;
  }
}

/* One cell; returns the byte that ended it: the delimiter, '\n', -1 or -2. */
static gint
csv_cell (KdCsv *csv, GError **error)
{
  gint byte = csv_byte (csv, error);

  g_string_truncate (csv->cell, 0);
  if (byte == '"')
    byte = csv_quoted (csv, error);
  else
    for (; byte >= 0 && byte != '\n' && byte != '\r' && byte != csv->delimiter; byte = csv_byte (csv, error))
      if (csv_put (csv, byte, error) < 0)
        return -2;
  if (byte == '\r') { /* "\r\n", or an old "\r" alone */
    csv->pushed = csv_byte (csv, error);
    if (csv->pushed == -2)
      return -2;
    if (csv->pushed == '\n')
      csv->pushed = -1;
    else
      csv->lines.number++;
    byte = '\n';
  }
  return byte;
}

gint
kd_csv_next (KdCsv *csv, GError **error)
{
  gint ended;

  do {
    g_ptr_array_set_size (csv->cells, 0);
    csv->line = csv->lines.number;
    do {
      ended = csv_cell (csv, error);
      if (ended == -2)
        return -1;
      if (csv->cells->len == KD_DATA_MAX_COLUMNS)
        return csv_fail (csv, error, "Too many columns", "is the delimiter right? give --delimiter"), -1;
      if (!g_utf8_validate (csv->cell->str, (gssize) csv->cell->len, NULL))
        return csv_fail (csv, error, "Not UTF-8 text", "convert it first, for instance: iconv -f latin1 -t utf-8"), -1;
      g_ptr_array_add (csv->cells, g_strdup (csv->cell->str));
    } while (ended == csv->delimiter);
  } while (csv->cells->len == 1 && csv->cell->len == 0 && ended != -1);
  return !(csv->cells->len == 1 && csv->cell->len == 0);
}
