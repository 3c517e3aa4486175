/* What a pipeline is made of, as data: elements with what was set, links with what flows. Tables, pictures and reports show it. */
#include "kd-launch.h"
#include <kd/kd.h>
#include <string.h>

#define KD_TABLE_COLUMNS 100

static void
kd_element_add (const GValue *item, gpointer user_data)
{
  g_ptr_array_insert (user_data, 0, gst_object_ref (g_value_get_object (item)));
}

GPtrArray *
kd_bin_elements (GstBin *bin)
{
  GPtrArray *elements = g_ptr_array_new_with_free_func (gst_object_unref);
  GPtrArray *flat = g_ptr_array_new_with_free_func (gst_object_unref);
  GstIterator *iterator = gst_bin_iterate_sorted (bin); /* sinks first */

  gst_iterator_foreach (iterator, kd_element_add, elements);
  gst_iterator_free (iterator);
  for (guint i = 0; i < elements->len; i++) {
    g_ptr_array_add (flat, gst_object_ref (elements->pdata[i]));
    if (GST_IS_BIN (elements->pdata[i])) {
      GPtrArray *below = kd_bin_elements (elements->pdata[i]);

      g_ptr_array_extend_and_steal (flat, below);
    }
  }
  g_ptr_array_unref (elements);
  return flat;
}

static gchar *
kd_caps_text (GstCaps *caps)
{
  if (!caps)
    return g_strdup ("");
  if (gst_caps_get_size (caps) > 0 && gst_structure_has_name (gst_caps_get_structure (caps, 0), KD_CAPS_NAME))
    return g_strdup (gst_structure_get_string (gst_caps_get_structure (caps, 0), "layout"));
  return gst_caps_to_string (caps);
}

static void
kd_link_add (JsonArray *links, GstElement *from, GstPad *pad)
{
  g_autoptr (GstPad) peer = gst_pad_get_peer (pad);
  g_autoptr (GstObject) to = peer ? gst_object_get_parent (GST_OBJECT (peer)) : NULL;
  g_autoptr (GstCaps) caps = gst_pad_get_current_caps (pad);
  g_autofree gchar *layout = kd_caps_text (caps);
  JsonObject *link;

  if (!to || !GST_IS_ELEMENT (to))
    return;
  link = json_object_new ();
  json_object_set_string_member (link, "from", GST_OBJECT_NAME (from));
  json_object_set_string_member (link, "to", GST_OBJECT_NAME (to));
  json_object_set_string_member (link, "layout", layout ? layout : "");
  json_array_add_object_element (links, link);
}

JsonArray *
kd_links_collect (GstBin *pipeline)
{
  g_autoptr (GPtrArray) elements = kd_bin_elements (pipeline);
  JsonArray *links = json_array_new ();

  for (guint i = 0; i < elements->len; i++) {
    GstElement *element = elements->pdata[i];
    GList *pads;

    GST_OBJECT_LOCK (element);
    pads = g_list_copy_deep (element->srcpads, (GCopyFunc) (GCallback) gst_object_ref, NULL);
    GST_OBJECT_UNLOCK (element);
    for (GList *l = pads; l; l = l->next)
      kd_link_add (links, element, l->data);
    g_list_free_full (pads, gst_object_unref);
  }
  return links;
}

gboolean
kd_links_adds (JsonArray *links, const gchar *element, const gchar *field)
{
  gboolean receives = FALSE;

  for (guint i = 0; i < json_array_get_length (links); i++) {
    JsonObject *link = json_array_get_object_element (links, i);
    g_auto (GStrv) fields = NULL;

    if (!g_str_equal (json_object_get_string_member (link, "to"), element))
      continue;
    receives = TRUE;
    fields = g_strsplit (json_object_get_string_member (link, "layout"), " ", -1);
    if (g_strv_contains ((const gchar *const *) fields, field))
      return FALSE;
  }
  return receives; /* a source adds all it sends: nothing to mark */
}

static void
kd_link_print (JsonArray *links, JsonObject *link, guint width, FILE *file)
{
  const gchar *from = json_object_get_string_member (link, "from"), *to = json_object_get_string_member (link, "to");
  g_autofree gchar *name = g_strdup_printf ("%s -> %s", from, to);
  g_auto (GStrv) fields = g_strsplit (json_object_get_string_member (link, "layout"), " ", -1);
  guint column = width + 2;

  fprintf (file, "%-*s", (int) width + 2, name);
  if (!fields[0] || !*fields[0])
    fprintf (file, "(not negotiated)");
  for (guint i = 0; fields[i] && *fields[i]; i++) {
    gboolean added = kd_links_adds (links, from, fields[i]);
    guint need = (guint) strlen (fields[i]) + added + 1;
    const gchar *space = column > width + 2 ? " " : "";

    if (column + need > KD_TABLE_COLUMNS && column > width + 2) {
      fprintf (file, "\n%*s", (int) width + 2, "");
      column = width + 2;
      space = "";
    }
    fprintf (file, "%s%s%s", space, added ? "+" : "", fields[i]);
    column += need;
  }
  fputc ('\n', file);
}

void
kd_links_print (JsonArray *links, FILE *file)
{
  guint width = 0;

  for (guint i = 0; i < json_array_get_length (links); i++) {
    JsonObject *link = json_array_get_object_element (links, i);

    width = MAX (width, (guint) (strlen (json_object_get_string_member (link, "from")) + strlen (json_object_get_string_member (link, "to")) + 4));
  }
  for (guint i = 0; i < json_array_get_length (links); i++)
    kd_link_print (links, json_array_get_object_element (links, i), width, file);
}

/* A property's value as text, or NULL when it is what a new element of the kind has (classes set defaults of their own, so the
 * property's declared default says less). */
static gchar *
kd_changed_value (GstElement *element, GstElement *fresh, GParamSpec *spec)
{
  GValue value = G_VALUE_INIT, usual = G_VALUE_INIT;
  gchar *text = NULL;

  g_value_init (&value, spec->value_type);
  g_value_init (&usual, spec->value_type);
  g_object_get_property (G_OBJECT (element), spec->name, &value);
  g_object_get_property (G_OBJECT (fresh), spec->name, &usual);
  if (g_param_values_cmp (spec, &value, &usual) == 0)
    text = NULL;
  else if (G_VALUE_HOLDS_STRING (&value))
    text = g_value_dup_string (&value);
  else if (G_VALUE_HOLDS_DOUBLE (&value))
    text = g_strdup_printf ("%.10g", g_value_get_double (&value));
  else
    text = gst_value_serialize (&value);
  g_value_unset (&value);
  g_value_unset (&usual);
  return text;
}

static JsonObject *
kd_properties_collect (GstElement *element)
{
  JsonObject *object = json_object_new ();
  guint n;
  g_autofree GParamSpec **specs = g_object_class_list_properties (G_OBJECT_GET_CLASS (element), &n);
  g_autoptr (GstElement) fresh = gst_element_get_factory (element) ? gst_element_factory_create (gst_element_get_factory (element), NULL) : NULL;

  if (fresh)
    gst_object_ref_sink (fresh);
  for (guint i = 0; fresh && i < n; i++) {
    g_autofree gchar *text = NULL;

    if ((specs[i]->flags & G_PARAM_READWRITE) != G_PARAM_READWRITE || specs[i]->owner_type == GST_TYPE_OBJECT ||
        g_type_is_a (specs[i]->value_type, G_TYPE_OBJECT))
      continue;
    text = kd_changed_value (element, fresh, specs[i]);
    if (text)
      json_object_set_string_member (object, specs[i]->name, text);
  }
  return object;
}

JsonArray *
kd_elements_collect (GstBin *pipeline)
{
  g_autoptr (GPtrArray) elements = kd_bin_elements (pipeline);
  JsonArray *array = json_array_new ();

  for (guint i = 0; i < elements->len; i++) {
    GstElement *element = elements->pdata[i];
    GstElementFactory *factory = gst_element_get_factory (element);
    JsonObject *object = json_object_new ();

    json_object_set_string_member (object, "name", GST_OBJECT_NAME (element));
    json_object_set_string_member (object, "factory", factory ? GST_OBJECT_NAME (factory) : G_OBJECT_TYPE_NAME (element));
    json_object_set_object_member (object, "properties", kd_properties_collect (element));
    json_array_add_object_element (array, object);
  }
  return array;
}
