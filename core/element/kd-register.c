/* From descriptors to GTypes and features; and back from a field to the elements that add it. */
#include "kd-element.h"
#include "kd-leaf.h"
#include "kd-sink.h"
#include "kd-source.h"

#include <string.h>

#define META_KIND "kd-kind"
#define META_PROVIDES "kd-provides"

void
kd_element_class_describe (GstElementClass *klass, const KdDesc *desc, const gchar *kind, const KdFieldSpec *outputs)
{
  g_autoptr (GString) provides = g_string_new (desc->provides ? desc->provides : "");

  for (; outputs && outputs->name; outputs++)
    g_string_append_printf (provides, "%s%s", provides->len ? " " : "", outputs->name);
  /* Kept in GStreamer's registry: an error message need not load every plugin. */
  gst_element_class_add_metadata (klass, META_KIND, kind);
  gst_element_class_add_metadata (klass, META_PROVIDES, provides->str);
}

static GType
register_type (const KdDesc *desc, GType parent, GClassInitFunc class_init)
{
  /* GStreamer names instances after the type in lower case: "Kdce" gives kdce0. */
  g_autofree gchar *name = g_strdup_printf ("%c%s", g_ascii_toupper (desc->name[0]), desc->name + 1);
  GType type = g_type_from_name (name);
  GTypeQuery query;
  GTypeInfo info = { 0 };

  if (type)
    return type;
  g_type_query (parent, &query);
  info.class_size = (guint16) query.class_size;
  info.instance_size = (guint16) query.instance_size;
  info.class_init = class_init;
  info.class_data = desc;
  return g_type_register_static (parent, name, &info, 0);
}

gboolean
kd_element_register (GstPlugin *plugin, const KdDesc *desc, GType parent, GClassInitFunc class_init)
{
  return gst_element_register (plugin, desc->name, GST_RANK_NONE, register_type (desc, parent, class_init));
}

static gboolean
provides_field (GstPluginFeature *feature, gpointer field)
{
  const gchar *text;
  g_auto (GStrv) patterns = NULL;

  if (!GST_IS_ELEMENT_FACTORY (feature))
    return FALSE;
  text = gst_element_factory_get_metadata (GST_ELEMENT_FACTORY (feature), META_PROVIDES);
  if (!text)
    return FALSE;
  patterns = g_strsplit (text, " ", -1);
  for (guint i = 0; patterns[i]; i++)
    if (g_pattern_match_simple (patterns[i], field))
      return TRUE;
  return FALSE;
}

static gint
by_name (gconstpointer a, gconstpointer b)
{
  return strcmp (GST_OBJECT_NAME (a), GST_OBJECT_NAME (b));
}

/* Models, sources and caches make a field; a leaf of kind transform makes it of others that are as likely to be missing. */
static gboolean
makes_field (gpointer factory)
{
  return g_strcmp0 (gst_element_factory_get_metadata (factory, GST_ELEMENT_METADATA_KLASS), "Filter/Transform") != 0;
}

gchar *
kd_providers (const gchar *field)
{
  GList *features = gst_registry_feature_filter (gst_registry_get (), provides_field, FALSE, (gpointer) field);
  g_autoptr (GPtrArray) names = g_ptr_array_new ();
  GString *text = g_string_new (NULL);

  features = g_list_sort (features, by_name);
  for (guint transforms = 0; transforms < 2 && names->len == 0; transforms++)
    for (GList *f = features; f; f = f->next)
      if (makes_field (f->data) != (transforms == 1))
        g_ptr_array_add (names, GST_OBJECT_NAME (f->data));
  for (guint i = 0; i < names->len; i++)
    g_string_append_printf (text, "%s%s", i == 0 ? "" : i + 1 < names->len ? ", "
                                                                           : " or ",
        (const gchar *) names->pdata[i]);
  gst_plugin_feature_list_free (features);
  if (text->len == 0)
    g_string_append (text, "an element that adds it");
  return g_string_free (text, FALSE);
}

static const KdDesc *
class_desc (gpointer klass)
{
  if (KD_IS_ELEMENT_CLASS (klass))
    return KD_ELEMENT_CLASS (klass)->desc;
  if (KD_IS_SOURCE_CLASS (klass))
    return (const KdDesc *) KD_SOURCE_CLASS (klass)->desc;
  if (KD_IS_SINK_CLASS (klass))
    return KD_SINK_CLASS (klass)->desc;
  return NULL;
}

const KdDesc *
kd_element_factory_desc (GstElementFactory *factory, const gchar **ret_kind)
{
  const gchar *kind = gst_element_factory_get_metadata (factory, META_KIND);
  g_autoptr (GstPluginFeature) loaded = kind ? gst_plugin_feature_load (GST_PLUGIN_FEATURE (factory)) : NULL;
  GTypeClass *klass;
  const KdDesc *desc;

  if (!loaded)
    return NULL;
  klass = g_type_class_ref (gst_element_factory_get_element_type (GST_ELEMENT_FACTORY (loaded)));
  desc = class_desc (klass);
  g_type_class_unref (klass);
  if (desc && ret_kind)
    *ret_kind = g_intern_string (kind);
  return desc;
}
