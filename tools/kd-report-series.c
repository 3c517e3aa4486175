/* Series of numbers: from element messages to metrics.jsonl and back. Field names are read generically: every number is a series. */
#include "kd-report.h"
#include <kd/kd.h>
#include <math.h>
#include <string.h>

static void
kd_series_free (KdSeries *series)
{
  g_free (series->element);
  g_free (series->kind);
  g_free (series->field);
  g_array_unref (series->points);
  g_free (series);
}

KdSeriesSet *
kd_series_set_new (void)
{
  KdSeriesSet *set = g_new0 (KdSeriesSet, 1);

  set->all = g_ptr_array_new_with_free_func ((GDestroyNotify) kd_series_free);
  set->by_key = g_hash_table_new_full (g_str_hash, g_str_equal, g_free, NULL);
  return set;
}

void
kd_series_set_free (KdSeriesSet *set)
{
  g_hash_table_unref (set->by_key);
  g_ptr_array_unref (set->all);
  g_free (set);
}

KdSeries *
kd_series_set_find (KdSeriesSet *set, const gchar *element, const gchar *kind, const gchar *field)
{
  for (guint i = 0; i < set->all->len; i++) {
    KdSeries *series = set->all->pdata[i];

    if ((!element || g_str_equal (series->element, element)) && (!kind || g_str_equal (series->kind, kind)) &&
        g_str_equal (series->field, field))
      return series;
  }
  return NULL;
}

static KdSeries *
kd_series_set_get (KdSeriesSet *set, const gchar *element, const gchar *kind, const gchar *field, const gchar *x_name)
{
  g_autofree gchar *key = g_strconcat (element, "\n", kind, "\n", field, NULL);
  KdSeries *series = g_hash_table_lookup (set->by_key, key);

  if (!series) {
    series = g_new0 (KdSeries, 1);
    series->element = g_strdup (element);
    series->kind = g_strdup (kind);
    series->field = g_strdup (field);
    series->x_name = x_name;
    series->points = g_array_new (FALSE, FALSE, sizeof (KdPoint));
    g_ptr_array_add (set->all, series);
    g_hash_table_insert (set->by_key, g_steal_pointer (&key), series);
  }
  return series;
}

/* What places a message in the run; not series of their own. */
static gboolean
kd_field_is_position (const gchar *name)
{
  static const gchar *const positions[] = { "time", "step", "epoch", "samples", "total", "rows", NULL };

  return g_strv_contains (positions, name);
}

void
kd_series_set_add_object (KdSeriesSet *set, JsonObject *object)
{
  const gchar *element = json_object_get_string_member_with_default (object, "element", "");
  const gchar *kind = json_object_get_string_member_with_default (object, "message", "");
  static const gchar *const axes[] = { "step", "epoch", "rows", "samples", "time" };
  g_autoptr (GList) members = json_object_get_members (object);
  const gchar *x_name = NULL;
  gdouble x;

  for (guint i = 0; i < G_N_ELEMENTS (axes) && !x_name; i++)
    x_name = json_object_has_member (object, axes[i]) ? axes[i] : NULL;
  if (!x_name)
    return;
  x = json_object_get_double_member_with_default (object, x_name, 0);
  for (GList *l = members; l; l = l->next) {
    JsonNode *node = json_object_get_member (object, l->data);
    KdPoint point = { x, 0 };

    if (kd_field_is_position (l->data) || !JSON_NODE_HOLDS_VALUE (node) || json_node_get_value_type (node) == G_TYPE_STRING ||
        json_node_get_value_type (node) == G_TYPE_BOOLEAN)
      continue;
    point.y = json_node_get_double (node);
    g_array_append_val (kd_series_set_get (set, element, kind, l->data, x_name)->points, point);
  }
}

gboolean
kd_series_set_read (KdSeriesSet *set, const gchar *path, GError **error)
{
  g_autofree gchar *text = NULL;
  g_auto (GStrv) lines = NULL;

  if (!g_file_get_contents (path, &text, NULL, error))
    return FALSE;
  lines = g_strsplit (text, "\n", -1);
  for (guint i = 0; lines[i]; i++) {
    g_autoptr (JsonParser) parser = json_parser_new ();
    g_autoptr (GError) bad = NULL;
    const gchar *fault = kd_json_fault (lines[i], strlen (lines[i]));
    JsonNode *root;

    if (!*lines[i])
      continue;
    if (fault || !json_parser_load_from_data (parser, lines[i], -1, &bad)) {
      if (!lines[i + 1]) /* no line feed at its end: the run was killed in the middle of it */
        break;
      g_set_error (error, KD_ERROR, KD_ERROR_FORMAT, "Cannot read metrics: path=\"%s\", line=%u, reason=%s", path, i + 1,
          fault ? fault : bad->message);
      return FALSE;
    }
    root = json_parser_get_root (parser);
    if (root && JSON_NODE_HOLDS_OBJECT (root))
      kd_series_set_add_object (set, json_node_get_object (root));
  }
  return TRUE;
}

/* JSON has no NaN or infinity: they are left out of the line, so a gap shows where the run went wrong. */
static gboolean
kd_message_add_field (GQuark field, const GValue *value, gpointer user_data)
{
  JsonObject *object = user_data;
  const gchar *name = g_quark_to_string (field);
  GValue number = G_VALUE_INIT;

  if (G_VALUE_HOLDS_BOOLEAN (value))
    json_object_set_boolean_member (object, name, g_value_get_boolean (value));
  else if (G_VALUE_HOLDS_STRING (value))
    json_object_set_string_member (object, name, g_value_get_string (value));
  else if (G_VALUE_HOLDS_DOUBLE (value) || G_VALUE_HOLDS_FLOAT (value)) {
    gdouble d = G_VALUE_HOLDS_DOUBLE (value) ? g_value_get_double (value) : (gdouble) g_value_get_float (value);

    if (isfinite (d))
      json_object_set_double_member (object, name, d);
  } else if (g_value_type_transformable (G_VALUE_TYPE (value), G_TYPE_INT64)) {
    g_value_init (&number, G_TYPE_INT64);
    if (g_value_transform (value, &number))
      json_object_set_int_member (object, name, g_value_get_int64 (&number));
    g_value_unset (&number);
  }
  return TRUE;
}

JsonObject *
kd_message_object (const gchar *element, const GstStructure *structure, gdouble seconds)
{
  JsonObject *object = json_object_new ();

  json_object_set_double_member (object, "time", seconds);
  json_object_set_string_member (object, "element", element);
  json_object_set_string_member (object, "message", gst_structure_get_name (structure));
  gst_structure_foreach (structure, kd_message_add_field, object);
  return object;
}

gboolean
kd_json_write (JsonObject *object, const gchar *path, GError **error)
{
  g_autoptr (JsonNode) root = json_node_init_object (json_node_alloc (), object);
  g_autoptr (JsonGenerator) generator = json_generator_new ();
  g_autofree gchar *text = NULL, *line = NULL;

  json_generator_set_root (generator, root);
  json_generator_set_pretty (generator, TRUE);
  text = json_generator_to_data (generator, NULL);
  line = g_strconcat (text, "\n", NULL);
  return g_file_set_contents (path, line, -1, error);
}

JsonObject *
kd_json_read (const gchar *path, GError **error)
{
  g_autoptr (JsonParser) parser = json_parser_new ();
  g_autofree gchar *text = NULL;
  const gchar *fault;
  JsonNode *root;
  gsize n;

  if (!g_file_get_contents (path, &text, &n, error))
    return NULL;
  if ((fault = kd_json_fault (text, n))) {
    g_set_error (error, KD_ERROR, KD_ERROR_FORMAT, "Cannot read JSON: path=\"%s\", reason=%s", path, fault);
    return NULL;
  }
  if (!json_parser_load_from_data (parser, text, (gssize) n, error)) {
    g_prefix_error (error, "Cannot read JSON: path=\"%s\", reason=", path);
    return NULL;
  }
  root = json_parser_get_root (parser);
  if (!root || !JSON_NODE_HOLDS_OBJECT (root)) {
    g_set_error (error, KD_ERROR, KD_ERROR_FORMAT, "Cannot read JSON: path=\"%s\", reason=the document is no object", path);
    return NULL;
  }
  return json_object_ref (json_node_get_object (root));
}
