/* A formula with the element's own values in it: "{beta}" stands for a property, and for the formula of its value when it is an enumeration
 * that has one; other braces are the formula's. */
#include "kd-inspect.h"
#include <string.h>

static gchar *
kd_property_text (GstElement *element, const gchar *name)
{
  g_autofree gchar *dashed = g_strdelimit (g_strdup (name), "_", '-');
  GParamSpec *spec = g_object_class_find_property (G_OBJECT_GET_CLASS (element), dashed);
  GValue value = G_VALUE_INIT;
  gchar *text;

  if (!spec)
    return NULL;
  g_value_init (&value, spec->value_type);
  g_object_get_property (G_OBJECT (element), dashed, &value);
  text = kd_inspect_value (&value);
  g_value_unset (&value);
  return text;
}

/* The formula that belongs to the value @nick of an enumeration, or NULL. */
static const gchar *
kd_value_formula (const KdParam *param, const gchar *nick)
{
  for (const KdEnumValue *value = param && param->type == KD_PARAM_TYPE_ENUM ? param->values : NULL; value && value->nick; value++)
    if (g_strcmp0 (value->nick, nick) == 0)
      return value->formula;
  return NULL;
}

static gchar *
kd_expand_formula (const KdDesc *desc, GstElement *element, const gchar *text, gboolean *any)
{
  GString *out = g_string_new (NULL);

  for (; *text; text++) {
    const gchar *end = *text == '{' ? strchr (text, '}') : NULL;
    g_autofree gchar *name = end ? g_strndup (text + 1, (gsize) (end - text - 1)) : NULL;
    g_autofree gchar *value = name ? kd_property_text (element, name) : NULL, *formula = NULL;
    const gchar *of_value;

    if (!value) {
      g_string_append_c (out, *text);
      continue;
    }
    *any = TRUE;
    of_value = kd_value_formula (kd_param_find (desc->params, name), value);
    formula = of_value ? kd_expand_formula (desc, element, of_value, any) : NULL;
    g_string_append (out, formula ? formula : value);
    text = end;
  }
  return g_string_free (out, FALSE);
}

gchar *
kd_inspect_formula (const KdDesc *desc, GstElement *element)
{
  gboolean any = FALSE;
  g_autofree gchar *text = desc->formula ? kd_expand_formula (desc, element, desc->formula, &any) : NULL;

  return any ? g_steal_pointer (&text) : NULL;
}
