/* Architectures: found by the name of a GType in GStreamer's registry, so that a plugin is loaded only when it is asked for. */
#include "kd-arch-private.h"

#include <string.h>

#define TYPE_PREFIX "KdArch-"

static GQuark
desc_quark (void)
{
  return g_quark_from_static_string ("kd-arch-desc");
}

gboolean
kd_arch_register (GstPlugin *plugin, const KdArchDesc *desc)
{
  g_autofree gchar *name = g_strconcat (TYPE_PREFIX, desc->name, NULL);
  GType type = g_type_from_name (name);

  /* Nobody makes an object of it: the type is the name that the registry keeps and the place of the descriptor. */
  if (!type)
    type = g_type_register_static_simple (G_TYPE_OBJECT, name, sizeof (GObjectClass), NULL, sizeof (GObject), NULL, G_TYPE_FLAG_ABSTRACT);
  g_type_set_qdata (type, desc_quark (), (gpointer) desc);
  return gst_dynamic_type_register (plugin, type);
}

static gint
compare_names (gconstpointer a, gconstpointer b)
{
  return strcmp (*(const gchar *const *) a, *(const gchar *const *) b);
}

gchar **
kd_arch_names (void)
{
  GPtrArray *names = g_ptr_array_new ();
  GList *features = gst_registry_get_feature_list (gst_registry_get (), GST_TYPE_DYNAMIC_TYPE_FACTORY);

  for (GList *l = features; l; l = l->next) {
    const gchar *name = GST_OBJECT_NAME (l->data);
    if (g_str_has_prefix (name, TYPE_PREFIX))
      g_ptr_array_add (names, g_strdup (name + strlen (TYPE_PREFIX)));
  }
  gst_plugin_feature_list_free (features);
  g_ptr_array_sort (names, compare_names);
  g_ptr_array_add (names, NULL);
  return (gchar **) g_ptr_array_free (names, FALSE);
}

const KdArchDesc *
kd_arch_find (const gchar *name, GError **error)
{
  g_autofree gchar *type_name = g_strconcat (TYPE_PREFIX, name, NULL);
  GType type = gst_dynamic_type_factory_load (type_name);
  const KdArchDesc *desc = type ? g_type_get_qdata (type, desc_quark ()) : NULL;

  if (!desc) {
    g_auto (GStrv) names = kd_arch_names ();
    g_autofree gchar *list = g_strjoinv (" ", names);
    g_set_error (error, KD_ERROR, KD_ERROR_ENGINE, "No such architecture: arch=\"%s\", there are=\"%s\"; its plugin must be in GST_PLUGIN_PATH",
        name, list);
  }
  return desc;
}

static void
refuse_key (const KdArchDesc *desc, const gchar *key, const gchar *value, GError **error)
{
  g_autoptr (GString) keys = g_string_new (NULL);

  for (const KdParam *p = desc->params; p && p->type != KD_PARAM_TYPE_END; p++) {
    g_autofree gchar *name = kd_param_name (p);
    g_string_append_printf (keys, "%s%s", keys->len ? " " : "", name);
  }
  g_set_error (error, KD_ERROR, KD_ERROR_FORMAT, "Key not known: arch=%s, key=%s, value=\"%s\", keys there are=\"%s\"", desc->name, key, value,
      keys->str);
}

static gboolean
set_keys (const KdArchDesc *desc, gchar **pairs, gpointer params, GError **error)
{
  g_autofree gchar *owner = g_strdup_printf ("arch=%s", desc->name);

  for (; pairs[0]; pairs += 2) {
    const KdParam *param = kd_param_find (desc->params, pairs[0]);
    if (!param) {
      refuse_key (desc, pairs[0], pairs[1], error);
      return FALSE;
    }
    if (!kd_param_set_string (param, params, pairs[1], owner, error))
      return FALSE;
  }
  return !desc->check || desc->check (params, error);
}

gchar *
_kd_arch_spec_meaning (const KdArchSpec *spec)
{
  GString *text = g_string_new (spec->desc->name);

  for (const KdParam *p = spec->desc->params; p && p->type != KD_PARAM_TYPE_END; p++) {
    g_autofree gchar *name = kd_param_name (p), *value = kd_param_to_string (p, spec->params);
    if (!g_str_has_prefix (name, "dropout"))
      g_string_append_printf (text, strpbrk (value, " \t\n") ? " %s=\"%s\"" : " %s=%s", name, value);
  }
  return g_string_free (text, FALSE);
}

gboolean
_kd_arch_spec_parse (const gchar *text, KdArchSpec *ret_spec, GError **error)
{
  g_autofree gchar *name = NULL;
  g_auto (GStrv) pairs = NULL;
  const KdArchDesc *desc;
  gpointer params;

  if (!kd_spec_parse (text, &name, &pairs, error) || !(desc = kd_arch_find (name, error)))
    return FALSE;
  params = g_malloc0 (MAX (desc->params_size, 1));
  kd_params_init (desc->params, params);
  *ret_spec = (KdArchSpec) { .desc = desc, .params = params };
  if (!set_keys (desc, pairs, params, error)) {
    _kd_arch_spec_clear (ret_spec);
    return FALSE;
  }
  return TRUE;
}

void
_kd_arch_spec_clear (KdArchSpec *spec)
{
  if (spec->params)
    kd_params_clear (spec->desc->params, spec->params);
  g_clear_pointer (&spec->params, g_free);
}
