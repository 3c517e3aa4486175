/* What the cases are read from: folders, aliases, JSON values. */
#include "kd-vectors-private.h"

#include <string.h>

gchar *
kd_vector_json_text (JsonNode *node)
{
  GString *list;
  JsonArray *array;

  if (JSON_NODE_HOLDS_VALUE (node)) {
    gchar number[G_ASCII_DTOSTR_BUF_SIZE];
    switch (json_node_get_value_type (node)) {
    case G_TYPE_BOOLEAN:
      return g_strdup (json_node_get_boolean (node) ? "true" : "false");
    case G_TYPE_INT64:
      return g_strdup_printf ("%" G_GINT64_FORMAT, json_node_get_int (node));
    case G_TYPE_DOUBLE:
      return g_strdup (g_ascii_dtostr (number, sizeof number, json_node_get_double (node)));
    default:
      return g_strdup (json_node_get_string (node));
    }
  }
  if (!JSON_NODE_HOLDS_ARRAY (node))
    return NULL;
  array = json_node_get_array (node);
  list = g_string_new (NULL);
  for (guint i = 0; i < json_array_get_length (array); i++) {
    g_autofree gchar *item = kd_vector_json_text (json_array_get_element (array, i));
    g_string_append_printf (list, "%s%s", i ? "," : "", item ? item : "");
  }
  return g_string_free (list, FALSE);
}

GHashTable *
kd_vector_aliases_load (const gchar *path, GError **error)
{
  g_autoptr (GHashTable) aliases = g_hash_table_new_full (g_str_hash, g_str_equal, g_free, g_free);
  g_autofree gchar *text = NULL;
  g_auto (GStrv) lines = NULL;

  if (!g_file_get_contents (path, &text, NULL, error))
    return NULL;
  lines = g_strsplit (text, "\n", -1);
  for (guint i = 0; lines[i]; i++) {
    gchar *line = g_strstrip (lines[i]), *space = strpbrk (line, " \t");
    if (!*line || *line == '#')
      continue;
    if (!space) {
      g_set_error (error, KD_ERROR, KD_ERROR_FORMAT, "Cannot read aliases: path=\"%s\", line=%u, text=\"%s\", wanted=NAME ELEMENT [key=value ...]",
          path, i + 1, line);
      return NULL;
    }
    g_hash_table_replace (aliases, g_strndup (line, (gsize) (space - line)), g_strdup (g_strstrip (space)));
  }
  return g_steal_pointer (&aliases);
}

static gboolean
collect (const gchar *path, GPtrArray *found, guint depth, GError **error)
{
  g_autoptr (GDir) dir = NULL;
  const gchar *name;

  if (!g_file_test (path, G_FILE_TEST_IS_DIR)) {
    if (g_str_has_suffix (path, ".h5"))
      g_ptr_array_add (found, g_strdup (path));
    return TRUE;
  }
  if (depth > 8) /* a folder that contains itself through a link */
    return TRUE;
  dir = g_dir_open (path, 0, error);
  if (!dir)
    return FALSE;
  while ((name = g_dir_read_name (dir))) {
    g_autofree gchar *child = g_build_filename (path, name, NULL);
    if (!collect (child, found, depth + 1, error))
      return FALSE;
  }
  return TRUE;
}

static gint
compare_paths (gconstpointer a, gconstpointer b)
{
  return strcmp (*(const gchar *const *) a, *(const gchar *const *) b);
}

GPtrArray *
kd_vector_find (const gchar *path, GError **error)
{
  g_autoptr (GPtrArray) found = g_ptr_array_new_with_free_func (g_free);

  if (!g_file_test (path, G_FILE_TEST_EXISTS)) {
    g_set_error (error, KD_ERROR, KD_ERROR_IO, "Cannot read cases: path=\"%s\", reason=no such file or folder", path);
    return NULL;
  }
  if (!collect (path, found, 0, error))
    return NULL;
  g_ptr_array_sort (found, compare_paths);
  return g_steal_pointer (&found);
}
