/* Parameter tables: defaults, parsing, printing. No GObject here: architectures and tools use them without elements. */
#include "kd-param.h"

#include <errno.h>
#include <math.h>
#include <string.h>

#define MEMBER(type, block, param) (*(type *) ((gchar *) (block) + (param)->offset))

gchar *
kd_param_name (const KdParam *param)
{
  return g_strdelimit (g_strdup (param->member), "_", '-');
}

const KdParam *
kd_param_find (const KdParam *table, const gchar *name)
{
  g_autofree gchar *member = g_strdelimit (g_strdup (name), "-", '_');

  for (; table && table->type != KD_PARAM_TYPE_END; table++)
    if (g_str_equal (table->member, member))
      return table;
  return NULL;
}

void
kd_params_init (const KdParam *table, gpointer block)
{
  for (; table && table->type != KD_PARAM_TYPE_END; table++) {
    switch (table->type) {
    case KD_PARAM_TYPE_DOUBLE:
      MEMBER (gdouble, block, table) = table->def;
      break;
    case KD_PARAM_TYPE_INT:
    case KD_PARAM_TYPE_UINT64:
      MEMBER (gint64, block, table) = table->idef;
      break;
    case KD_PARAM_TYPE_BOOL:
    case KD_PARAM_TYPE_ENUM:
    case KD_PARAM_TYPE_FLAGS:
      MEMBER (gint, block, table) = (gint) table->idef;
      break;
    case KD_PARAM_TYPE_STRING:
      MEMBER (gchar *, block, table) = g_strdup (table->sdef);
      break;
    case KD_PARAM_TYPE_END:
      break;
    }
  }
}

void
kd_params_clear (const KdParam *table, gpointer block)
{
  for (; table && table->type != KD_PARAM_TYPE_END; table++)
    if (table->type == KD_PARAM_TYPE_STRING)
      g_clear_pointer (&MEMBER (gchar *, block, table), g_free);
}

void
kd_params_copy (const KdParam *table, gconstpointer from, gpointer to, gsize size)
{
  if (size)
    memcpy (to, from, size);
  for (; table && table->type != KD_PARAM_TYPE_END; table++)
    if (table->type == KD_PARAM_TYPE_STRING)
      MEMBER (gchar *, to, table) = g_strdup (MEMBER (gchar *, to, table));
}

static gboolean
refuse_format (const KdParam *param, const gchar *value, const gchar *wanted, const gchar *owner, GError **error)
{
  g_autofree gchar *name = kd_param_name (param);

  g_set_error (error, KD_ERROR, KD_ERROR_FORMAT, "Value not understood: %s, %s=\"%s\", wanted=%s", owner, name, value,
      wanted);
  return FALSE;
}

static gboolean
set_double (const KdParam *param, gpointer block, const gchar *value, const gchar *owner, GError **error)
{
  gchar *end = NULL;
  gdouble number = g_ascii_strtod (value, &end);

  if (end == value || *end)
    return refuse_format (param, value, "a number", owner, error);
  if (!(number >= param->min && number <= param->max)) {
    g_autofree gchar *name = kd_param_name (param);
    g_set_error (error, KD_ERROR, KD_ERROR_RANGE, "Value out of range: %s, %s=%s, range=%g..%g", owner, name, value,
        param->min, param->max);
    return FALSE;
  }
  MEMBER (gdouble, block, param) = number;
  return TRUE;
}

static gboolean
set_int (const KdParam *param, gpointer block, const gchar *value, const gchar *owner, GError **error)
{
  gchar *end = NULL;
  gboolean is_unsigned = param->type == KD_PARAM_TYPE_UINT64;
  gint64 number;

  errno = 0;
  number = is_unsigned ? (gint64) g_ascii_strtoull (value, &end, 10) : g_ascii_strtoll (value, &end, 10);
  if (end == value || *end || errno || (is_unsigned && strchr (value, '-')))
    return refuse_format (param, value, is_unsigned ? "a whole number from 0" : "a whole number", owner, error);
  if (!is_unsigned && (number < param->imin || number > param->imax)) {
    g_autofree gchar *name = kd_param_name (param);
    g_set_error (error, KD_ERROR, KD_ERROR_RANGE,
        "Value out of range: %s, %s=%s, range=%" G_GINT64_FORMAT "..%" G_GINT64_FORMAT, owner, name, value, param->imin,
        param->imax);
    return FALSE;
  }
  MEMBER (gint64, block, param) = number;
  return TRUE;
}

static gboolean
set_bool (const KdParam *param, gpointer block, const gchar *value, const gchar *owner, GError **error)
{
  if (!g_ascii_strcasecmp (value, "true") || g_str_equal (value, "1") || !g_ascii_strcasecmp (value, "yes"))
    MEMBER (gboolean, block, param) = TRUE;
  else if (!g_ascii_strcasecmp (value, "false") || g_str_equal (value, "0") || !g_ascii_strcasecmp (value, "no"))
    MEMBER (gboolean, block, param) = FALSE;
  else
    return refuse_format (param, value, "true or false", owner, error);
  return TRUE;
}

static const KdEnumValue *
find_nick (const KdParam *param, const gchar *nick)
{
  for (const KdEnumValue *v = param->values; v->nick; v++)
    if (g_str_equal (v->nick, nick))
      return v;
  return NULL;
}

/* The nicks of @set's bits, or of all values: "st | tg". (transfer full) */
static gchar *
join_nicks (const KdParam *param, gint set, const gchar *between)
{
  GString *nicks = g_string_new (NULL);

  for (const KdEnumValue *v = param->values; v->nick; v++)
    if (param->type == KD_PARAM_TYPE_ENUM || (v->value & set))
      g_string_append_printf (nicks, "%s%s", nicks->len ? between : "", v->nick);
  return g_string_free (nicks, FALSE);
}

/* One nick of an enumeration; of flags any number with '+' or ',' between them, "" is none. */
static gboolean
set_nicks (const KdParam *param, gpointer block, const gchar *value, const gchar *owner, GError **error)
{
  gboolean flags = param->type == KD_PARAM_TYPE_FLAGS;
  g_auto (GStrv) words = g_strsplit_set (value, flags ? "+," : "", -1);
  gint set = 0;

  for (guint i = 0; words[i] || (i == 0 && !flags); i++) {
    const KdEnumValue *v = find_nick (param, words[i] ? words[i] : "");
    if (!v) {
      g_autofree gchar *wanted = join_nicks (param, -1, flags ? "+" : " | ");
      return refuse_format (param, value, wanted, owner, error);
    }
    set |= v->value;
  }
  MEMBER (gint, block, param) = set;
  return TRUE;
}

gboolean
kd_param_set_string (const KdParam *param, gpointer block, const gchar *value, const gchar *owner, GError **error)
{
  switch (param->type) {
  case KD_PARAM_TYPE_DOUBLE:
    return set_double (param, block, value, owner, error);
  case KD_PARAM_TYPE_INT:
  case KD_PARAM_TYPE_UINT64:
    return set_int (param, block, value, owner, error);
  case KD_PARAM_TYPE_BOOL:
    return set_bool (param, block, value, owner, error);
  case KD_PARAM_TYPE_ENUM:
  case KD_PARAM_TYPE_FLAGS:
    return set_nicks (param, block, value, owner, error);
  case KD_PARAM_TYPE_STRING:
    g_free (MEMBER (gchar *, block, param));
    MEMBER (gchar *, block, param) = g_strdup (value);
    return TRUE;
  case KD_PARAM_TYPE_END:
    break;
  }
  g_return_val_if_reached (FALSE);
}

gchar *
kd_param_to_string (const KdParam *param, gconstpointer block)
{
  gchar number[G_ASCII_DTOSTR_BUF_SIZE];

  switch (param->type) {
  case KD_PARAM_TYPE_DOUBLE:
    return g_strdup (g_ascii_formatd (number, sizeof number, "%.12g", MEMBER (const gdouble, block, param)));
  case KD_PARAM_TYPE_INT:
    return g_strdup_printf ("%" G_GINT64_FORMAT, MEMBER (const gint64, block, param));
  case KD_PARAM_TYPE_UINT64:
    return g_strdup_printf ("%" G_GUINT64_FORMAT, MEMBER (const guint64, block, param));
  case KD_PARAM_TYPE_BOOL:
    return g_strdup (MEMBER (const gboolean, block, param) ? "true" : "false");
  case KD_PARAM_TYPE_ENUM:
    for (const KdEnumValue *v = param->values; v->nick; v++)
      if (v->value == MEMBER (const gint, block, param))
        return g_strdup (v->nick);
    return g_strdup ("?");
  case KD_PARAM_TYPE_FLAGS:
    return join_nicks (param, MEMBER (const gint, block, param), "+");
  case KD_PARAM_TYPE_STRING:
    return g_strdup (MEMBER (gchar *const, block, param) ? MEMBER (gchar *const, block, param) : "");
  case KD_PARAM_TYPE_END:
    break;
  }
  g_return_val_if_reached (NULL);
}

/* One word: up to white space, or with '"' around its value; '"' inside is written \". */
static gboolean
next_word (const gchar **text, GString *ret_word)
{
  const gchar *p = *text;
  gboolean quoted = FALSE;

  while (g_ascii_isspace (*p))
    p++;
  g_string_truncate (ret_word, 0);
  for (; *p && (quoted || !g_ascii_isspace (*p)); p++) {
    if (*p == '"')
      quoted = !quoted;
    else if (*p == '\\' && p[1] == '"')
      g_string_append_c (ret_word, *++p);
    else
      g_string_append_c (ret_word, *p);
  }
  *text = p;
  return ret_word->len > 0;
}

gboolean
kd_spec_parse (const gchar *spec, gchar **ret_name, gchar ***ret_pairs, GError **error)
{
  g_autoptr (GPtrArray) pairs = g_ptr_array_new_with_free_func (g_free);
  g_autoptr (GString) word = g_string_new (NULL);
  g_autofree gchar *name = NULL;

  while (next_word (&spec, word)) {
    const gchar *equals = strchr (word->str, '=');
    if (!name && !equals) {
      name = g_strdup (word->str);
      continue;
    }
    if (!name || !equals || equals == word->str) {
      g_set_error (error, KD_ERROR, KD_ERROR_FORMAT,
          "Specification not understood: word=\"%s\"; write NAME key=value key=value", word->str);
      return FALSE;
    }
    g_ptr_array_add (pairs, g_strndup (word->str, equals - word->str));
    g_ptr_array_add (pairs, g_strdup (equals + 1));
  }
  if (!name) {
    g_set_error (error, KD_ERROR, KD_ERROR_FORMAT, "Specification is empty; write NAME key=value key=value");
    return FALSE;
  }
  g_ptr_array_add (pairs, NULL);
  *ret_name = g_steal_pointer (&name);
  *ret_pairs = (gchar **) g_ptr_array_free (g_steal_pointer (&pairs), FALSE);
  return TRUE;
}

gint64 *
kd_ints_parse (const gchar *text, gint64 min, gint64 max, const gchar *owner, guint *ret_n, GError **error)
{
  g_auto (GStrv) words = g_strsplit (text ? text : "", ",", 65);
  guint n = g_strv_length (words);
  g_autofree gint64 *numbers = g_new0 (gint64, MAX (n, 1));

  if (n == 0 || n > 64) {
    g_set_error (error, KD_ERROR, KD_ERROR_FORMAT, "List not understood: %s=\"%s\", wanted=1 to 64 whole numbers with commas",
        owner, text ? text : "");
    return NULL;
  }
  for (guint i = 0; i < n; i++) {
    gchar *end = NULL;
    errno = 0;
    numbers[i] = g_ascii_strtoll (words[i], &end, 10);
    if (end == words[i] || *end || errno || numbers[i] < min || numbers[i] > max) {
      g_set_error (error, KD_ERROR, KD_ERROR_RANGE,
          "Number not accepted: %s=\"%s\", item=\"%s\", range=%" G_GINT64_FORMAT "..%" G_GINT64_FORMAT, owner, text,
          words[i], min, max);
      return NULL;
    }
  }
  *ret_n = n;
  return g_steal_pointer (&numbers);
}
