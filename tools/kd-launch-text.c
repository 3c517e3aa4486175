/* A pipeline's text in words. It follows GStreamer's own grammar only as far as showing a place needs: GStreamer parses, this
 * finds again what its errors name. */
#include "kd-launch.h"
#include <string.h>

#define KD_LINE_COLUMNS 110

static void
kd_word_clear (gpointer data)
{
  g_free (((KdWord *) data)->text);
}

static void
kd_text_element_free (gpointer data)
{
  KdTextElement *element = data;

  g_free (element->factory);
  g_free (element->name);
  g_ptr_array_unref (element->properties);
  g_free (element);
}

/* One word from @at on: quotes and backslashes keep blanks inside it. */
static gsize
kd_text_word_end (const gchar *text, gsize at, GString *plain)
{
  gchar quote = 0;

  for (; text[at] && (quote || !g_ascii_isspace (text[at])); at++) {
    if (text[at] == '\\' && text[at + 1])
      g_string_append_c (plain, text[++at]);
    else if (quote ? text[at] == quote : (text[at] == '"' || text[at] == '\''))
      quote = quote ? 0 : text[at];
    else
      g_string_append_c (plain, text[at]);
  }
  return at;
}

static void
kd_text_split (KdText *text)
{
  for (gsize at = 0; text->text[at];) {
    g_autoptr (GString) plain = g_string_new (NULL);
    KdWord word = { .start = at };

    if (g_ascii_isspace (text->text[at])) {
      at++;
      continue;
    }
    word.end = at = kd_text_word_end (text->text, at, plain);
    word.text = g_strdup (plain->str);
    g_array_append_val (text->words, word);
  }
}

static gboolean
kd_word_is_name (const gchar *word)
{
  if (!g_ascii_isalpha (*word))
    return FALSE;
  for (; *word; word++)
    if (!g_ascii_isalnum (*word) && *word != '_' && *word != '-')
      return FALSE;
  return TRUE;
}

/* "name=value" where name is a property's, not a caps string's field. */
static gboolean
kd_word_is_property (const gchar *word)
{
  const gchar *equals = strchr (word, '=');
  g_autofree gchar *name = equals ? g_strndup (word, (gsize) (equals - word)) : NULL;

  return name && kd_word_is_name (name);
}

static void
kd_text_find_elements (KdText *text)
{
  g_autoptr (GHashTable) counts = g_hash_table_new_full (g_str_hash, g_str_equal, g_free, NULL);
  KdTextElement *element = NULL;

  for (guint i = 0; i < text->words->len; i++) {
    const gchar *word = g_array_index (text->words, KdWord, i).text;

    if (kd_word_is_name (word)) {
      guint n = GPOINTER_TO_UINT (g_hash_table_lookup (counts, word));

      element = g_new0 (KdTextElement, 1);
      element->factory = g_strdup (word);
      element->name = g_strdup_printf ("%s%u", word, n); /* what GStreamer calls the n-th of its kind */
      element->word = i;
      element->properties = g_ptr_array_new ();
      g_ptr_array_add (text->elements, element);
      g_hash_table_insert (counts, g_strdup (word), GUINT_TO_POINTER (n + 1));
    } else if (element && kd_word_is_property (word)) {
      g_ptr_array_add (element->properties, GUINT_TO_POINTER (i));
      if (g_str_has_prefix (word, "name=")) {
        g_free (element->name);
        element->name = g_strdup (word + strlen ("name="));
      }
    } else if (g_str_equal (word, "!"))
      element = NULL;
  }
}

/* GStreamer's parser knows only double quotes; in a shell's double quotes one writes arch='mlp dims=64,10'. */
static gchar *
kd_text_double_quotes (const gchar *source)
{
  GString *out = g_string_new (NULL);
  gchar quote = 0;

  for (; *source; source++) {
    if (*source == '\\' && source[1]) {
      g_string_append_c (out, *source++);
      g_string_append_c (out, *source);
    } else if (quote ? *source == quote : (*source == '"' || *source == '\'')) {
      quote = quote ? 0 : *source;
      g_string_append_c (out, '"');
    } else if (quote == '\'' && *source == '"') {
      g_string_append (out, "\\\"");
    } else {
      g_string_append_c (out, *source);
    }
  }
  return g_string_free (out, FALSE);
}

KdText *
kd_text_new (const gchar *source)
{
  KdText *text = g_new0 (KdText, 1);

  text->text = kd_text_double_quotes (source);
  text->words = g_array_new (FALSE, FALSE, sizeof (KdWord));
  g_array_set_clear_func (text->words, kd_word_clear);
  text->elements = g_ptr_array_new_with_free_func (kd_text_element_free);
  kd_text_split (text);
  kd_text_find_elements (text);
  return text;
}

void
kd_text_free (KdText *text)
{
  g_free (text->text);
  g_array_unref (text->words);
  g_ptr_array_unref (text->elements);
  g_free (text);
}

gchar *
kd_text_join (gchar **words, guint n)
{
  GString *text = g_string_new (NULL);

  if (n == 1)
    return g_string_free (g_string_assign (text, words[0]), FALSE);
  for (guint i = 0; i < n; i++) {
    gchar quote = 0;

    if (i)
      g_string_append_c (text, ' ');
    /* The shell took a pair of quotes away: what was inside must stay one word. */
    for (const gchar *c = words[i]; *c; c++) {
      if (!quote && (*c == '"' || *c == '\''))
        quote = *c;
      else if (*c == quote)
        quote = 0;
      if (!quote && g_ascii_isspace (*c))
        g_string_append_c (text, '\\');
      g_string_append_c (text, *c);
    }
  }
  return g_string_free (text, FALSE);
}

const KdTextElement *
kd_text_element (const KdText *text, const gchar *name)
{
  for (guint i = 0; i < text->elements->len; i++) {
    const KdTextElement *element = text->elements->pdata[i];

    if (g_str_equal (element->name, name))
      return element;
  }
  return NULL;
}

gint
kd_text_property (const KdText *text, const KdTextElement *element, const gchar *property)
{
  g_autofree gchar *wanted = g_strdelimit (g_strdup (property), "_", '-');

  for (guint i = 0; i < element->properties->len; i++) {
    guint word = GPOINTER_TO_UINT (element->properties->pdata[i]);
    const gchar *written = g_array_index (text->words, KdWord, word).text;
    g_autofree gchar *name = g_strdelimit (g_strndup (written, strcspn (written, "=")), "_", '-');

    if (g_str_equal (name, wanted))
      return (gint) word;
  }
  return -1;
}

void
kd_text_print (const KdText *text, guint word, FILE *file)
{
  const KdWord *w = &g_array_index (text->words, KdWord, word);
  gsize first = w->start, last = w->end, length = strlen (text->text);
  glong before, under;

  while (first > 0 && text->text[first - 1] != '\n')
    first--;
  while (last < length && text->text[last] != '\n')
    last++;
  /* A long line: what stands around the word. Cut between words. */
  if (last - first > KD_LINE_COLUMNS && w->start - first > KD_LINE_COLUMNS / 2) {
    first = w->start - KD_LINE_COLUMNS / 2;
    while (first < w->start && !g_ascii_isspace (text->text[first]))
      first++;
    first += first < w->start;
  }
  if (last > first + KD_LINE_COLUMNS) {
    last = MAX (first + KD_LINE_COLUMNS, w->end);
    while (last > w->end && !g_ascii_isspace (text->text[last]))
      last--;
  }
  before = g_utf8_strlen (text->text + first, (gssize) (w->start - first));
  under = g_utf8_strlen (text->text + w->start, (gssize) (MIN (w->end, last) - w->start));
  fprintf (file, "  %s%.*s%s\n", first > 0 && text->text[first - 1] != '\n' ? "... " : "", (int) (last - first), text->text + first,
      last < length && text->text[last] != '\n' ? " ..." : "");
  fprintf (file, "  %*s^", (int) before + (first > 0 && text->text[first - 1] != '\n' ? 4 : 0), "");
  for (glong i = 1; i < under; i++)
    fputc ('~', file);
  fputc ('\n', file);
}
