/* kd inspect without a name: what there is. */
#include "kd-inspect.h"
#include <string.h>

static const struct {
  const gchar *kind, *title;
} kd_kinds[] = {
  { "source", "Sources" },
  { "batch", "Batches of another kind or size" },
  { "transform", "Transforms and diagnostics" },
  { "diagnostic", "Diagnostics of a training" },
  { "augment", "Augmentations" },
  { "selector", "Selectors" },
  { "model", "Models" },
  { "loss", "Losses" },
  { "sink", "Sinks" },
};

static const gchar *
kd_factory_kind (GstElementFactory *factory)
{
  return gst_element_factory_get_metadata (factory, "kd-kind");
}

static gint
kd_by_name (gconstpointer a, gconstpointer b)
{
  return strcmp (GST_OBJECT_NAME (a), GST_OBJECT_NAME (b));
}

/* Leaves say their kind; elements that change the number of batches (kdrebatch, kdbatch) are known by their name and author's word. */
GList *
kd_inspect_factories (void)
{
  GList *list = gst_registry_get_feature_list (gst_registry_get (), GST_TYPE_ELEMENT_FACTORY), *ours = NULL;

  for (GList *l = list; l; l = l->next)
    if (kd_factory_kind (l->data) || g_str_has_prefix (GST_OBJECT_NAME (l->data), "kd"))
      ours = g_list_prepend (ours, gst_object_ref (l->data));
  gst_plugin_feature_list_free (list);
  return g_list_sort (ours, kd_by_name);
}

static void
kd_print_line (const gchar *name, const gchar *text)
{
  g_print ("  %-16s %s\n", name, text ? text : "");
}

static void
kd_print_kind (GList *factories, const gchar *kind, const gchar *title)
{
  gboolean any = FALSE;

  for (GList *l = factories; l; l = l->next) {
    const gchar *its = kd_factory_kind (l->data);

    if (g_strcmp0 (its, kind) != 0)
      continue;
    if (!any)
      g_print ("%s\n", title);
    any = TRUE;
    kd_print_line (GST_OBJECT_NAME (l->data), gst_element_factory_get_metadata (l->data, GST_ELEMENT_METADATA_DESCRIPTION));
  }
  if (any)
    g_print ("\n");
}

static void
kd_print_architectures (void)
{
  g_auto (GStrv) names = kd_arch_names ();

  g_print ("Architectures (arch=\"NAME key=value ...\" of a model)\n");
  for (guint i = 0; names && names[i]; i++) {
    const KdArchDesc *desc = kd_arch_find (names[i], NULL);

    kd_print_line (names[i], desc ? desc->description : "cannot be loaded");
  }
  if (!names || !names[0])
    g_print ("  none\n");
  g_print ("\n");
}

static void
kd_print_engines (void)
{
  GList *list = gst_registry_get_feature_list (gst_registry_get (), GST_TYPE_DYNAMIC_TYPE_FACTORY);
  gboolean any = FALSE;

  g_print ("Engines (what computes models)\n");
  for (GList *l = list; l; l = l->next) {
    const gchar *name = GST_OBJECT_NAME (l->data);
    KdEngine *engine = g_str_has_prefix (name, "KdEngine-") ? kd_engine_get (name + strlen ("KdEngine-"), NULL) : NULL;
    g_autofree gchar *text = engine && KD_ENGINE_GET_CLASS (engine)->describe ? KD_ENGINE_GET_CLASS (engine)->describe (engine) : NULL;

    if (!g_str_has_prefix (name, "KdEngine-"))
      continue;
    kd_print_line (name + strlen ("KdEngine-"), engine ? text : "cannot be loaded");
    any = TRUE;
  }
  if (!any)
    g_print ("  none: models cannot run; build with -Dtorch=enabled (Debian: libtorch-dev)\n");
  gst_plugin_feature_list_free (list);
}

int
kd_inspect_all (gboolean names_only)
{
  GList *factories = kd_inspect_factories ();
  g_auto (GStrv) architectures = NULL;

  if (names_only) {
    for (GList *l = factories; l; l = l->next)
      g_print ("%s\n", GST_OBJECT_NAME (l->data));
    g_list_free_full (factories, gst_object_unref);
    return KD_EXIT_DONE;
  }
  for (guint i = 0; i < G_N_ELEMENTS (kd_kinds); i++)
    kd_print_kind (factories, kd_kinds[i].kind, kd_kinds[i].title);
  kd_print_kind (factories, NULL, "Others");
  g_list_free_full (factories, gst_object_unref);
  kd_print_architectures ();
  kd_print_engines ();
  g_print ("\nkd inspect NAME shows one of them with its fields, formula and properties.\n");
  return KD_EXIT_DONE;
}
