/* KdEngine: finding the plugin. An engine's GType carries the name it is looked up by, so GStreamer's registry knows it unloaded. */
#include "kd-engine.h"

#define TYPE_PREFIX "KdEngine-"
#define DEFAULT_ENGINE "torch"

G_DEFINE_ABSTRACT_TYPE (KdEngine, kd_engine, G_TYPE_OBJECT)

static void
kd_engine_class_init (KdEngineClass *klass)
{
}

static void
kd_engine_init (KdEngine *engine)
{
}

gboolean
kd_engine_register (GstPlugin *plugin, const gchar *name, GType type)
{
  g_autofree gchar *type_name = g_strconcat (TYPE_PREFIX, name, NULL);
  GType named = g_type_from_name (type_name);
  GTypeQuery query;

  g_return_val_if_fail (g_type_is_a (type, KD_TYPE_ENGINE), FALSE);
  if (!named) {
    g_type_query (type, &query);
    named = g_type_register_static_simple (type, type_name, query.class_size, NULL, query.instance_size, NULL, 0);
  }
  return gst_dynamic_type_register (plugin, named);
}

static GError *
no_engine (const gchar *name)
{
  return g_error_new (KD_ERROR, KD_ERROR_ENGINE,
      "No tensor engine: name=%s; install libtorch-dev and build kdstream with -Dtorch=enabled, and let GST_PLUGIN_PATH hold "
      "libkdengine%s.so",
      name, name);
}

KdEngine *
kd_engine_get (const gchar *name, GError **error)
{
  static GMutex lock;
  static GHashTable *engines; /* name -> KdEngine, for ever */
  g_autofree gchar *type_name = NULL;
  KdEngine *engine;
  GType type;

  if (!name || !*name)
    name = DEFAULT_ENGINE;
  g_mutex_lock (&lock);
  if (!engines)
    engines = g_hash_table_new_full (g_str_hash, g_str_equal, g_free, g_object_unref);
  engine = g_hash_table_lookup (engines, name);
  if (!engine) {
    type_name = g_strconcat (TYPE_PREFIX, name, NULL);
    type = gst_dynamic_type_factory_load (type_name);
    if (type && g_type_is_a (type, KD_TYPE_ENGINE)) {
      engine = g_object_new (type, NULL);
      g_hash_table_insert (engines, g_strdup (name), engine);
    }
  }
  g_mutex_unlock (&lock);
  if (!engine)
    g_propagate_error (error, no_engine (name));
  return engine;
}
