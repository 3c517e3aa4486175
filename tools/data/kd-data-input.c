/* Inputs: files as streams (gunzipped when they are packed), exact reads, bounded lines, numbers as people write them. */
#include "kd-data.h"

#include <errno.h>
#include <math.h>
#include <string.h>

#define LINE_BUFFER_BYTES ((gsize) 1 << 16)

void
kd_data_wrap (GError **error, GError *inner, const gchar *doing, const gchar *path)
{
  g_set_error (error, KD_ERROR, KD_ERROR_IO, "Cannot %s: path=\"%s\", reason=%s", doing, path, inner->message);
  g_error_free (inner);
}

GInputStream *
kd_data_open (const gchar *path, gint64 *ret_bytes, GError **error)
{
  g_autoptr (GFile) file = g_file_new_for_path (path);
  g_autoptr (GFileInputStream) plain = NULL;
  g_autoptr (GFileInfo) info = NULL;
  GError *inner = NULL;
  guint8 magic[2] = { 0 };
  gsize n = 0;

  plain = g_file_read (file, NULL, &inner);
  if (!plain || !(info = g_file_input_stream_query_info (plain, G_FILE_ATTRIBUTE_STANDARD_SIZE, NULL, &inner)) ||
      !g_input_stream_read_all (G_INPUT_STREAM (plain), magic, sizeof magic, &n, NULL, &inner) ||
      !g_seekable_seek (G_SEEKABLE (plain), 0, G_SEEK_SET, NULL, &inner)) {
    kd_data_wrap (error, inner, "open", path);
    return NULL;
  }
  *ret_bytes = g_file_info_get_size (info);
  if (n == 2 && magic[0] == 0x1f && magic[1] == 0x8b) {
    g_autoptr (GZlibDecompressor) gunzip = g_zlib_decompressor_new (G_ZLIB_COMPRESSOR_FORMAT_GZIP);
    g_autoptr (GInputStream) unpacked = g_converter_input_stream_new (G_INPUT_STREAM (plain), G_CONVERTER (gunzip));
    *ret_bytes = -1;
    return g_buffered_input_stream_new_sized (unpacked, LINE_BUFFER_BYTES);
  }
  return g_buffered_input_stream_new_sized (G_INPUT_STREAM (plain), LINE_BUFFER_BYTES);
}

gboolean
kd_data_read (GInputStream *stream, gpointer buffer, gsize n, const gchar *path, const gchar *what, GError **error)
{
  GError *inner = NULL;
  gsize got = 0;

  if (!g_input_stream_read_all (stream, buffer, n, &got, NULL, &inner)) {
    kd_data_wrap (error, inner, "read", path);
    return FALSE;
  }
  if (got < n) {
    g_set_error (error, KD_ERROR, KD_ERROR_IO, "File ends too early: path=\"%s\", at=%s, bytes wanted=%zu, bytes there=%zu; get it again",
        path, what, n, got);
    return FALSE;
  }
  return TRUE;
}

gboolean
kd_data_at_end (GInputStream *stream, const gchar *path, GError **error)
{
  GError *inner = NULL;
  guint8 byte;
  gssize n = g_input_stream_read (stream, &byte, 1, NULL, &inner);

  if (n < 0) {
    kd_data_wrap (error, inner, "read", path);
    return FALSE;
  }
  if (n > 0)
    g_set_error (error, KD_ERROR, KD_ERROR_FORMAT, "Bytes left over: path=\"%s\"; the file is longer than its header says", path);
  return n == 0;
}

void
kd_lines_init (KdLines *lines, GInputStream *stream, const gchar *path)
{
  *lines = (KdLines) { .stream = g_object_ref (stream), .path = path, .line = g_byte_array_new () };
  lines->buffer = g_malloc (LINE_BUFFER_BYTES);
}

void
kd_lines_clear (KdLines *lines)
{
  g_clear_object (&lines->stream);
  g_clear_pointer (&lines->line, g_byte_array_unref);
  g_clear_pointer (&lines->buffer, g_free);
}

static gint
fill (KdLines *lines, GError **error)
{
  GError *inner = NULL;
  gssize n = g_input_stream_read (lines->stream, lines->buffer, LINE_BUFFER_BYTES, NULL, &inner);

  if (n < 0) {
    kd_data_wrap (error, inner, "read", lines->path);
    return -2;
  }
  lines->start = 0;
  lines->end = (gsize) n;
  return n == 0 ? -1 : 0;
}

gint
kd_lines_byte (KdLines *lines, GError **error)
{
  if (lines->start == lines->end) {
    gint status = fill (lines, error);
    if (status < 0)
      return status;
  }
  return lines->buffer[lines->start++];
}

gint
kd_lines_next (KdLines *lines, GError **error)
{
  gint byte;

  g_byte_array_set_size (lines->line, 0);
  lines->number++;
  while ((byte = kd_lines_byte (lines, error)) >= 0 && byte != '\n') {
    guint8 c = (guint8) byte;
    if (lines->line->len >= KD_DATA_MAX_ROW_BYTES) {
      g_set_error (error, KD_ERROR, KD_ERROR_RANGE, "Line too long: path=\"%s\", line=%" G_GINT64_FORMAT ", most=%zu bytes; is this a text file?",
          lines->path, lines->number, KD_DATA_MAX_ROW_BYTES);
      return -1;
    }
    g_byte_array_append (lines->line, &c, 1);
  }
  if (byte == -2)
    return -1;
  if (byte == -1 && lines->line->len == 0)
    return 0;
  if (lines->line->len && lines->line->data[lines->line->len - 1] == '\r')
    g_byte_array_set_size (lines->line, lines->line->len - 1);
  if (!g_utf8_validate ((const gchar *) lines->line->data, lines->line->len, NULL)) {
    g_set_error (error, KD_ERROR, KD_ERROR_FORMAT,
        "Not UTF-8 text: path=\"%s\", line=%" G_GINT64_FORMAT "; convert it first, for instance: iconv -f latin1 -t utf-8", lines->path,
        lines->number);
    return -1;
  }
  g_byte_array_append (lines->line, (const guint8 *) "", 1);
  return 1;
}

gchar *
kd_data_field_name (const gchar *name)
{
  GString *text = g_string_new (NULL);

  for (; *name; name++) {
    gchar c = g_ascii_tolower (*name);
    if (g_ascii_isalnum (c) || (c == '.' && text->len && text->str[text->len - 1] != '.'))
      g_string_append_c (text, c);
    else if (text->len && text->str[text->len - 1] != '_' && text->str[text->len - 1] != '.')
      g_string_append_c (text, '_');
  }
  while (text->len && strchr ("._", text->str[text->len - 1]))
    g_string_truncate (text, text->len - 1);
  if (text->len == 0 || text->len > 120)
    return g_string_free (text, TRUE);
  return g_string_free (text, FALSE);
}

gchar *
kd_data_excerpt (const gchar *text)
{
  g_autofree gchar *valid = g_utf8_make_valid (text, (gssize) strnlen (text, 400));
  glong length = g_utf8_strlen (valid, -1);
  g_autofree gchar *head = g_utf8_substring (valid, 0, MIN (length, 40));
  g_autofree gchar *escaped = g_strescape (head, "\"");
  g_autofree gchar *plain = NULL;
  gboolean ascii = g_str_is_ascii (head);

  plain = g_strdelimit (g_strdup (head), "\n\r\t", ' ');
  return g_strdup_printf ("\"%s%s\"", ascii ? escaped : plain, length > 40 ? "..." : "");
}

static gchar *
trimmed (const gchar *text)
{
  return g_strstrip (g_strdup (text));
}

gboolean
kd_data_parse_number (const gchar *text, gdouble *ret_value)
{
  g_autofree gchar *cell = trimmed (text);
  gchar *end = NULL;

  /* strtod also takes "inf", "nan" and hexadecimal: in a table these are typing errors or missing values. */
  if (!*cell || cell[strspn (cell, "+-.0123456789eE")])
    return FALSE;
  *ret_value = g_ascii_strtod (cell, &end);
  return !*end && isfinite (*ret_value);
}

gboolean
kd_data_parse_int (const gchar *text, gint64 *ret_value)
{
  g_autofree gchar *cell = trimmed (text);
  gchar *end = NULL;

  if (!*cell || cell[strspn (cell, "+-0123456789")])
    return FALSE;
  errno = 0;
  *ret_value = g_ascii_strtoll (cell, &end, 10);
  return !*end && errno == 0;
}
