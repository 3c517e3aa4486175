#include "kd-json.h"

/* Past a number or a name: "1e-05" is one. */
static gsize
word_end (const gchar *text, gsize i, gsize n)
{
  gboolean exponent = FALSE;

  for (; i < n && (g_ascii_isalnum (text[i]) || text[i] == '.' || (exponent && (text[i] == '-' || text[i] == '+'))); i++)
    exponent = text[i] == 'e' || text[i] == 'E';
  return i;
}

/* Of a string that begins at @i: where its last quote is, or @n. */
static gsize
string_end (const gchar *text, gsize i, gsize n)
{
  for (i++; i < n && text[i] != '"'; i++)
    if (text[i] == '\\')
      i++;
  return i;
}

/* @text [@n]: a number's digits, and what letters and dots follow them. */
static const gchar *
number_fault (const gchar *text, gsize n, gboolean negative)
{
  guint64 most = (guint64) G_MAXINT64 + negative, value = 0;

  if (n > 1 && text[0] == '0' && text[1] != '.' && text[1] != 'e' && text[1] != 'E')
    return "a number with 0 before its digits";
  for (gsize i = 0; i < n; i++) {
    guint64 digit = (guint64) (text[i] - '0');
    if (!g_ascii_isdigit (text[i]))
      return NULL; /* no whole number */
    if (value > (most - digit) / 10)
      return "a whole number beyond 64 bits (1e20 and 1.0 are numbers of any size)";
    value = value * 10 + digit;
  }
  return NULL;
}

const gchar *
kd_json_fault (const gchar *text, gsize n)
{
  gboolean closed = FALSE;
  gint depth = 0;

  for (gsize i = 0; i < n; i++) {
    if (text[i] == '"') {
      i = string_end (text, i, n);
    } else if (g_ascii_isdigit (text[i])) {
      gsize end = word_end (text, i, n);
      const gchar *fault = number_fault (text + i, end - i, i > 0 && text[i - 1] == '-');
      if (fault)
        return fault;
      i = end - 1;
    } else if (text[i] == '{' || text[i] == '[') {
      if (closed)
        return "a second value after the first";
      if (++depth > KD_JSON_MAX_DEPTH)
        return "nested deeper than " G_STRINGIFY (KD_JSON_MAX_DEPTH) " levels";
    } else if (text[i] == '}' || text[i] == ']') {
      closed = --depth <= 0;
    } else if (text[i] == '\'' || text[i] == '/' || text[i] == '#') {
      return "a comment or a single quote, which are no JSON";
    }
  }
  return NULL;
}
