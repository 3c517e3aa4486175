/* From text to a pipeline. GStreamer's parser says what is wrong; here it is shown where, and what may have been meant. */
#include "kd-launch.h"
#include <string.h>

/* GStreamer names things in its messages in quotes: "kdcee". The @nth of them, or NULL. */
static gchar *
kd_quoted (const gchar *message, guint nth)
{
  g_auto (GStrv) parts = g_strsplit (message, "\"", -1);

  return g_strv_length (parts) > 2 * nth + 1 ? g_strdup (parts[2 * nth + 1]) : NULL;
}

static gchar **
kd_factory_names (void)
{
  GList *list = gst_registry_get_feature_list (gst_registry_get (), GST_TYPE_ELEMENT_FACTORY);
  g_autoptr (GStrvBuilder) builder = g_strv_builder_new ();

  /* Two rounds, kdstream's own first: of two names equally near the first one is taken. */
  for (guint round = 0; round < 2; round++)
    for (GList *l = list; l; l = l->next)
      if (g_str_has_prefix (GST_OBJECT_NAME (l->data), "kd") == (round == 0))
        g_strv_builder_add (builder, GST_OBJECT_NAME (l->data));
  gst_plugin_feature_list_free (list);
  return g_strv_builder_end (builder);
}

static void
kd_explain_element (const KdText *text, GstParseContext *context)
{
  g_auto (GStrv) missing = gst_parse_context_get_missing_elements (context);
  g_auto (GStrv) names = kd_factory_names ();

  for (guint m = 0; missing && missing[m]; m++) {
    const gchar *near = kd_tool_closest (missing[m], (const gchar *const *) names);

    g_printerr ("ERROR: there is no element '%s'%s%s%s\n", missing[m], near ? "; did you mean '" : "", near ? near : "", near ? "'?" : "");
    for (guint i = 0; i < text->elements->len; i++) {
      const KdTextElement *element = text->elements->pdata[i];

      if (g_str_equal (element->factory, missing[m])) {
        kd_text_print (text, element->word, stderr);
        break;
      }
    }
    if (!near)
      g_printerr ("  kd inspect lists kdstream's elements, gst-inspect-1.0 all of them\n");
  }
}

static gchar **
kd_property_names (const gchar *factory)
{
  g_autoptr (GstElement) element = gst_element_factory_make (factory, NULL);
  g_autoptr (GStrvBuilder) builder = g_strv_builder_new ();
  g_autofree GParamSpec **specs = NULL;
  guint n = 0;

  if (element) {
    gst_object_ref_sink (element);
    specs = g_object_class_list_properties (G_OBJECT_GET_CLASS (element), &n);
  }
  for (guint i = 0; i < n; i++)
    if ((specs[i]->flags & G_PARAM_WRITABLE) && !g_str_equal (specs[i]->name, "parent"))
      g_strv_builder_add (builder, specs[i]->name);
  return g_strv_builder_end (builder);
}

/* The element that GStreamer means by @name: it says the factory's name while it parses. The one that has @property written. */
static const KdTextElement *
kd_written_element (const KdText *text, const gchar *name, const gchar *property)
{
  for (guint i = 0; name && i < text->elements->len; i++) {
    const KdTextElement *element = text->elements->pdata[i];

    if ((g_str_equal (element->factory, name) || g_str_equal (element->name, name)) && kd_text_property (text, element, property) >= 0)
      return element;
  }
  return NULL;
}

/* "no property "tempratur" in element "kdhinton"" */
static gboolean
kd_explain_property (const KdText *text, const gchar *message)
{
  g_autofree gchar *property = kd_quoted (message, 0), *name = kd_quoted (message, 1);
  const KdTextElement *element = name ? kd_written_element (text, name, property) : NULL;
  g_auto (GStrv) names = NULL;
  const gchar *near;

  if (!element)
    return FALSE;
  names = kd_property_names (element->factory);
  near = kd_tool_closest (property, (const gchar *const *) names);
  g_printerr ("ERROR: element '%s' has no property '%s'%s%s%s\n", element->factory, property, near ? "; did you mean '" : "", near ? near : "",
      near ? "'?" : "");
  kd_text_print (text, (guint) kd_text_property (text, element, property), stderr);
  if (!near)
    g_printerr ("  kd inspect %s lists its properties\n", element->factory);
  return TRUE;
}

/* "could not set property "temperature" in element "kdhinton" to "warm"" */
static gboolean
kd_explain_value (const KdText *text, const gchar *message)
{
  g_autofree gchar *property = kd_quoted (message, 0), *name = kd_quoted (message, 1), *value = kd_quoted (message, 2);
  const KdTextElement *element = value ? kd_written_element (text, name, property) : NULL;

  if (!element)
    return FALSE;
  g_printerr ("ERROR: element '%s' cannot take %s=\"%s\"\n", element->factory, property, value);
  kd_text_print (text, (guint) kd_text_property (text, element, property), stderr);
  g_printerr ("  kd inspect %s says what the property takes\n", element->factory);
  return TRUE;
}

/* A syntax error or link error: under the first of the elements that the message names, if it names any. */
static void
kd_explain_other (const KdText *text, const gchar *message)
{
  g_printerr ("ERROR: %s\n", message);
  for (guint i = 0; i < text->elements->len; i++) {
    const KdTextElement *element = text->elements->pdata[i];
    const gchar *at = strstr (message, element->name);

    if (at && !g_ascii_isalnum (at[strlen (element->name)])) {
      kd_text_print (text, element->word, stderr);
      return;
    }
  }
  g_printerr ("  %s\n", text->text);
}

/* Whether the property takes what word @word sets. */
static gboolean
kd_value_fits (GstElement *element, const gchar *pair)
{
  g_autofree gchar *name = g_strndup (pair, strcspn (pair, "="));
  GParamSpec *spec = g_object_class_find_property (G_OBJECT_GET_CLASS (element), name);
  GValue value = G_VALUE_INIT;
  gboolean fits = TRUE;

  if (!spec || G_TYPE_FUNDAMENTAL (spec->value_type) == G_TYPE_STRING || G_TYPE_FUNDAMENTAL (spec->value_type) == G_TYPE_OBJECT)
    return TRUE;
  g_value_init (&value, spec->value_type);
  if (gst_value_deserialize (&value, strchr (pair, '=') + 1))
    fits = !g_param_value_validate (spec, &value);
  g_value_unset (&value);
  return fits;
}

static GstElement *
kd_pipeline_find (GstElement *pipeline, const gchar *name)
{
  if (g_str_equal (GST_OBJECT_NAME (pipeline), name))
    return gst_object_ref (pipeline);
  return GST_IS_BIN (pipeline) ? gst_bin_get_by_name (GST_BIN (pipeline), name) : NULL;
}

/* GStreamer ignores a value outside a property's range with a warning, and a run would go on with another value than was asked for:
 * refuse it instead. */
static gboolean
kd_values_in_range (GstElement *pipeline, const KdText *text)
{
  for (guint i = 0; i < text->elements->len; i++) {
    const KdTextElement *written = text->elements->pdata[i];
    g_autoptr (GstElement) element = kd_pipeline_find (pipeline, written->name);

    for (guint k = 0; element && k < written->properties->len; k++) {
      guint word = GPOINTER_TO_UINT (written->properties->pdata[k]);
      const gchar *pair = g_array_index (text->words, KdWord, word).text;

      if (kd_value_fits (element, pair))
        continue;
      if (!kd_launch_says (pair))
        return FALSE;
      g_printerr ("ERROR: element '%s' cannot take %s: the value is outside its range\n", written->factory, pair);
      kd_text_print (text, word, stderr);
      g_printerr ("  kd inspect %s says what the property takes\n", written->factory);
      return FALSE;
    }
  }
  return TRUE;
}

static void
kd_ignore_log (const gchar *domain, GLogLevelFlags level, const gchar *message, gpointer user_data)
{
}

GstElement *
kd_launch_parse (const KdText *text)
{
  g_autoptr (GstParseContext) context = gst_parse_context_new ();
  g_autoptr (GError) error = NULL;
  g_autoptr (GstElement) pipeline = NULL;
  guint handler = g_log_set_handler ("GLib-GObject", G_LOG_LEVEL_WARNING, kd_ignore_log, NULL); /* values out of range: see above */
  gboolean explained = FALSE;

  pipeline = gst_parse_launch_full (text->text, context, GST_PARSE_FLAG_FATAL_ERRORS, &error);
  g_log_remove_handler ("GLib-GObject", handler);
  if (pipeline)
    gst_object_ref_sink (pipeline);
  if (pipeline && !error)
    return kd_values_in_range (pipeline, text) ? g_steal_pointer (&pipeline) : NULL;
  if (!kd_launch_says (error->message))
    return NULL;
  if (g_error_matches (error, GST_PARSE_ERROR, GST_PARSE_ERROR_NO_SUCH_ELEMENT)) {
    kd_explain_element (text, context);
    return NULL;
  }
  if (g_error_matches (error, GST_PARSE_ERROR, GST_PARSE_ERROR_NO_SUCH_PROPERTY))
    explained = kd_explain_property (text, error->message);
  else if (g_error_matches (error, GST_PARSE_ERROR, GST_PARSE_ERROR_COULD_NOT_SET_PROPERTY))
    explained = kd_explain_value (text, error->message);
  if (!explained)
    kd_explain_other (text, error->message);
  return NULL;
}
