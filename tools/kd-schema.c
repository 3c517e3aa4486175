#include "kd-schema.h"
#include <gio/gio.h>
#include <kd/kd.h>
#include <string.h>

static gboolean kd_check_node (JsonObject *schema, JsonNode *node, const gchar *path, GError **error);

static gboolean
kd_refuse (GError **error, const gchar *path, const gchar *format, ...) G_GNUC_PRINTF (3, 4);

static gboolean
kd_refuse (GError **error, const gchar *path, const gchar *format, ...)
{
  g_autofree gchar *text = NULL;
  va_list args;

  va_start (args, format);
  text = g_strdup_vprintf (format, args);
  va_end (args);
  g_set_error (error, KD_ERROR, KD_ERROR_SCHEMA, "at %s: %s", *path ? path : "/", text);
  return FALSE;
}

static const gchar *
kd_node_type (JsonNode *node)
{
  if (JSON_NODE_HOLDS_OBJECT (node))
    return "object";
  if (JSON_NODE_HOLDS_ARRAY (node))
    return "array";
  if (JSON_NODE_HOLDS_NULL (node))
    return "null";
  switch (json_node_get_value_type (node)) {
  case G_TYPE_STRING:
    return "string";
  case G_TYPE_BOOLEAN:
    return "boolean";
  case G_TYPE_INT64:
    return "integer";
  default:
    return "number";
  }
}

static gboolean
kd_type_fits (const gchar *wanted, const gchar *have)
{
  return g_str_equal (wanted, have) || (g_str_equal (wanted, "number") && g_str_equal (have, "integer"));
}

static gboolean
kd_check_type (JsonNode *wanted, JsonNode *node, const gchar *path, GError **error)
{
  const gchar *have = kd_node_type (node);
  g_autofree gchar *text = NULL;

  if (JSON_NODE_HOLDS_ARRAY (wanted)) {
    JsonArray *types = json_node_get_array (wanted);

    for (guint i = 0; i < json_array_get_length (types); i++)
      if (kd_type_fits (json_array_get_string_element (types, i), have))
        return TRUE;
  } else if (kd_type_fits (json_node_get_string (wanted), have))
    return TRUE;
  text = json_to_string (wanted, FALSE);
  return kd_refuse (error, path, "type=%s, wanted=%s", have, text);
}

static gboolean
kd_check_values (JsonObject *schema, const gchar *keyword, JsonNode *node, const gchar *path, GError **error)
{
  JsonNode *wanted = json_object_get_member (schema, keyword);
  g_autofree gchar *have = json_to_string (node, FALSE), *text = json_to_string (wanted, FALSE);

  if (g_str_equal (keyword, "const")) {
    if (json_node_equal (wanted, node))
      return TRUE;
  } else {
    JsonArray *values = json_node_get_array (wanted);

    for (guint i = 0; i < json_array_get_length (values); i++)
      if (json_node_equal (json_array_get_element (values, i), node))
        return TRUE;
  }
  return kd_refuse (error, path, "value=%s, wanted=%s", have, text);
}

static gboolean
kd_check_string (JsonObject *schema, JsonNode *node, const gchar *path, GError **error)
{
  const gchar *text = json_node_get_string (node);
  const gchar *pattern = json_object_get_string_member_with_default (schema, "pattern", NULL);
  gint64 least = json_object_get_int_member_with_default (schema, "minLength", 0);

  if (g_utf8_strlen (text, -1) < least)
    return kd_refuse (error, path, "value=\"%s\" is too short, minLength=%" G_GINT64_FORMAT, text, least);
  if (pattern && !g_regex_match_simple (pattern, text, G_REGEX_DOLLAR_ENDONLY, 0))
    return kd_refuse (error, path, "value=\"%s\", wanted pattern=%s", text, pattern);
  return TRUE;
}

static gboolean
kd_check_array (JsonObject *schema, JsonNode *node, const gchar *path, GError **error)
{
  JsonArray *array = json_node_get_array (node);
  gint64 least = json_object_get_int_member_with_default (schema, "minItems", 0);

  if (json_array_get_length (array) < least)
    return kd_refuse (error, path, "items=%u, wanted at least %" G_GINT64_FORMAT, json_array_get_length (array), least);
  for (guint i = 0; json_object_has_member (schema, "items") && i < json_array_get_length (array); i++) {
    g_autofree gchar *below = g_strdup_printf ("%s/%u", path, i);

    if (!kd_check_node (json_object_get_object_member (schema, "items"), json_array_get_element (array, i), below, error))
      return FALSE;
  }
  return TRUE;
}

/* The schema of one member: by name, by pattern, or what additionalProperties says; NULL with *@ret_refused when it says false. */
static JsonObject *
kd_member_schema (JsonObject *schema, const gchar *name, gboolean *ret_refused)
{
  JsonObject *named = json_object_has_member (schema, "properties") ? json_object_get_object_member (schema, "properties") : NULL;
  JsonObject *patterns = json_object_has_member (schema, "patternProperties") ? json_object_get_object_member (schema, "patternProperties") : NULL;
  g_autoptr (GList) list = patterns ? json_object_get_members (patterns) : NULL;
  JsonNode *rest = json_object_get_member (schema, "additionalProperties");

  *ret_refused = FALSE;
  if (named && json_object_has_member (named, name))
    return json_object_get_object_member (named, name);
  for (GList *l = list; l; l = l->next)
    if (g_regex_match_simple (l->data, name, G_REGEX_DOLLAR_ENDONLY, 0))
      return json_object_get_object_member (patterns, l->data);
  if (rest && JSON_NODE_HOLDS_OBJECT (rest))
    return json_node_get_object (rest);
  *ret_refused = rest && !json_node_get_boolean (rest);
  return NULL;
}

static gboolean
kd_check_object (JsonObject *schema, JsonNode *node, const gchar *path, GError **error)
{
  JsonObject *object = json_node_get_object (node);
  JsonArray *required = json_object_has_member (schema, "required") ? json_object_get_array_member (schema, "required") : NULL;
  g_autoptr (GList) members = json_object_get_members (object);

  for (guint i = 0; required && i < json_array_get_length (required); i++)
    if (!json_object_has_member (object, json_array_get_string_element (required, i)))
      return kd_refuse (error, path, "missing=\"%s\"", json_array_get_string_element (required, i));
  for (GList *l = members; l; l = l->next) {
    g_autofree gchar *below = g_strdup_printf ("%s/%s", path, (gchar *) l->data);
    gboolean refused;
    JsonObject *member = kd_member_schema (schema, l->data, &refused);

    if (refused)
      return kd_refuse (error, below, "unknown name \"%s\"", (gchar *) l->data);
    if (member && !kd_check_node (member, json_object_get_member (object, l->data), below, error))
      return FALSE;
  }
  return TRUE;
}

static gboolean
kd_keywords_known (JsonObject *schema, const gchar *path, GError **error)
{
  static const gchar *const known[] = { "$schema", "$id", "title", "description", "default", "examples", "type", "const", "enum", "required",
    "properties",
    "patternProperties", "additionalProperties", "items", "minItems", "minimum", "minLength", "pattern", NULL };
  g_autoptr (GList) members = json_object_get_members (schema);

  for (GList *l = members; l; l = l->next)
    if (!g_strv_contains (known, l->data))
      return kd_refuse (error, path, "the schema uses keyword=\"%s\", which kd_schema_check does not know", (gchar *) l->data);
  return TRUE;
}

static gboolean
kd_check_node (JsonObject *schema, JsonNode *node, const gchar *path, GError **error)
{
  if (!kd_keywords_known (schema, path, error))
    return FALSE;
  if (json_object_has_member (schema, "type") && !kd_check_type (json_object_get_member (schema, "type"), node, path, error))
    return FALSE;
  if (json_object_has_member (schema, "const") && !kd_check_values (schema, "const", node, path, error))
    return FALSE;
  if (json_object_has_member (schema, "enum") && !kd_check_values (schema, "enum", node, path, error))
    return FALSE;
  if (JSON_NODE_HOLDS_OBJECT (node))
    return kd_check_object (schema, node, path, error);
  if (JSON_NODE_HOLDS_ARRAY (node))
    return kd_check_array (schema, node, path, error);
  if (JSON_NODE_HOLDS_NULL (node))
    return TRUE;
  if (json_node_get_value_type (node) == G_TYPE_STRING)
    return kd_check_string (schema, node, path, error);
  if (json_object_has_member (schema, "minimum") && json_node_get_double (node) < json_object_get_double_member (schema, "minimum"))
    return kd_refuse (error, path, "value=%g, minimum=%g", json_node_get_double (node), json_object_get_double_member (schema, "minimum"));
  return TRUE;
}

gboolean
kd_schema_check (const gchar *name, JsonNode *document, GError **error)
{
  g_autofree gchar *path = g_strconcat ("/org/kdstream/schemas/", name, NULL);
  g_autoptr (GBytes) bytes = g_resources_lookup_data (path, G_RESOURCE_LOOKUP_FLAGS_NONE, error);
  g_autoptr (JsonParser) parser = json_parser_new ();
  gsize n;
  gconstpointer text;

  if (!bytes)
    return FALSE;
  text = g_bytes_get_data (bytes, &n);
  if (!json_parser_load_from_data (parser, text, (gssize) n, error))
    return FALSE;
  return kd_check_node (json_node_get_object (json_parser_get_root (parser)), document, "", error);
}
