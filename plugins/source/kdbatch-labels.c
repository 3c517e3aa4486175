/* Label lists: read whole (a line a sample is small beside the samples), checked, turned into class numbers. */
#include "kdbatch.h"

#include <string.h>

#define MAX_LIST_BYTES ((goffset) 256 << 20)

void
kd_label_list_free (KdLabelList *list)
{
  if (!list)
    return;
  g_free (list->path);
  g_free (list->label);
  g_strfreev (list->names);
  g_free (list);
}

/* The lines, without the ends of lines and the empty end; an empty line inside would shift all labels after it. */
static KdLabelList *
read_lines (const gchar *path, GError **error)
{
  g_autoptr (KdLabelList) list = g_new0 (KdLabelList, 1);
  g_autoptr (GFile) file = g_file_new_for_path (path);
  g_autoptr (GFileInfo) info = NULL;
  g_autoptr (GError) inner = NULL;
  g_autofree gchar *text = NULL;
  gsize n_bytes;

  info = g_file_query_info (file, G_FILE_ATTRIBUTE_STANDARD_SIZE, G_FILE_QUERY_INFO_NONE, NULL, &inner);
  if (info && g_file_info_get_size (info) > MAX_LIST_BYTES) {
    g_set_error (error, KD_ERROR, KD_ERROR_RANGE, "List too large: path=\"%s\", bytes=%" G_GOFFSET_FORMAT ", most=%" G_GOFFSET_FORMAT, path,
        g_file_info_get_size (info), MAX_LIST_BYTES);
    return NULL;
  }
  if (!info || !g_file_get_contents (path, &text, &n_bytes, &inner)) {
    g_set_error (error, KD_ERROR, KD_ERROR_IO, "Cannot read list: path=\"%s\", reason=%s", path, inner->message);
    return NULL;
  }
  if (!g_utf8_validate (text, (gssize) n_bytes, NULL)) {
    g_set_error (error, KD_ERROR, KD_ERROR_FORMAT, "List is no UTF-8 text: path=\"%s\"; wanted a line for each sample", path);
    return NULL;
  }
  list->path = g_strdup (path);
  list->names = g_strsplit (g_strchomp (text), "\n", -1);
  list->n = (gint64) g_strv_length (list->names);
  for (gint64 i = 0; i < list->n; i++)
    if (!*g_strstrip (list->names[i])) {
      g_set_error (error, KD_ERROR, KD_ERROR_FORMAT, "Empty line in list: path=\"%s\", line=%" G_GINT64_FORMAT "; every sample needs a line", path,
          i + 1);
      return NULL;
    }
  list->label = g_new0 (gint64, MAX (list->n, 1));
  return g_steal_pointer (&list);
}

static gboolean
parse_number (const gchar *text, gint64 *ret_value)
{
  guint64 value;

  if (!g_ascii_string_to_unsigned (text, 10, 0, G_MAXINT64, &value, NULL))
    return FALSE;
  *ret_value = (gint64) value;
  return TRUE;
}

static gint
compare_names (gconstpointer a, gconstpointer b)
{
  return strcmp (*(const gchar *const *) a, *(const gchar *const *) b);
}

static gint
compare_numbers (gconstpointer a, gconstpointer b)
{
  gint64 x = 0, y = 0;

  parse_number (*(const gchar *const *) a, &x);
  parse_number (*(const gchar *const *) b, &y);
  return x != y ? (x > y) - (x < y) : compare_names (a, b);
}

/* Names to numbers in sorted order, as kd data import numbers them: "10" comes after "2" when all names are numbers. */
static void
number_classes (const gchar *const *class, gint64 n, gint64 *ret_label)
{
  g_autoptr (GHashTable) index = g_hash_table_new (g_str_hash, g_str_equal);
  g_autoptr (GPtrArray) names = g_ptr_array_new ();
  gboolean numbers = TRUE;
  gint64 value;

  for (gint64 i = 0; i < n; i++)
    if (g_hash_table_add (index, (gpointer) class[i])) {
      g_ptr_array_add (names, (gpointer) class[i]);
      numbers = numbers && parse_number (class[i], &value);
    }
  g_ptr_array_sort (names, numbers ? compare_numbers : compare_names);
  for (guint i = 0; i < names->len; i++)
    g_hash_table_insert (index, g_ptr_array_index (names, i), GUINT_TO_POINTER (i));
  for (gint64 i = 0; i < n; i++)
    ret_label[i] = (gint64) GPOINTER_TO_UINT (g_hash_table_lookup (index, class[i]));
}

KdLabelList *
kd_label_list_read (const gchar *path, GError **error)
{
  g_autoptr (KdLabelList) list = read_lines (path, error);
  gint64 i = 0;

  if (!list)
    return NULL;
  while (i < list->n && parse_number (list->names[i], &list->label[i]))
    i++;
  if (i > 0 && i < list->n) {
    g_set_error (error, KD_ERROR, KD_ERROR_VALUE,
        "Numbers and names in one list: path=\"%s\", line=%" G_GINT64_FORMAT ", value=\"%.40s\"; the lines before it are whole numbers from 0",
        path, i + 1,
        list->names[i]);
    return NULL;
  }
  if (i < list->n)
    number_classes ((const gchar *const *) list->names, list->n, list->label);
  return g_steal_pointer (&list);
}

/* (transfer full) the class in a path, or NULL. */
static gchar *
class_of (const gchar *path, KdLabelFrom from)
{
  g_autofree gchar *folder = g_path_get_dirname (path), *base = g_path_get_basename (path);
  const gchar *end = strchr (base, '_');

  if (from == KD_LABEL_FROM_PREFIX)
    return end && end > base ? g_strndup (base, (gsize) (end - base)) : NULL;
  if (g_str_equal (folder, ".") || g_str_equal (folder, "/"))
    return NULL;
  return g_path_get_basename (folder);
}

KdLabelList *
kd_label_list_read_paths (const gchar *path, KdLabelFrom from, GError **error)
{
  g_autoptr (KdLabelList) list = read_lines (path, error);
  g_autoptr (GPtrArray) classes = g_ptr_array_new_with_free_func (g_free);

  for (gint64 i = 0; list && i < list->n; i++) {
    gchar *class = class_of (list->names[i], from);
    if (!class) {
      g_set_error (error, KD_ERROR, KD_ERROR_VALUE, "No class in path: list=\"%s\", line=%" G_GINT64_FORMAT ", path=\"%.200s\", wanted=%s", path,
          i + 1,
          list->names[i], from == KD_LABEL_FROM_PREFIX ? "CLASS_NAME (label-from=prefix)" : "CLASS/NAME (label-from=folder)");
      return NULL;
    }
    g_ptr_array_add (classes, class);
  }
  if (!list)
    return NULL;
  number_classes ((const gchar *const *) classes->pdata, list->n, list->label);
  return g_steal_pointer (&list);
}
