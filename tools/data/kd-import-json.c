/* JSON lines and JSON documents: an object a row. Text -> utf8, whole numbers -> int64, numbers -> float32, true/false -> bool, arrays of
 * numbers -> matrices. The first row fixes fields and types (--field NAME=TYPE changes one); with --label KEY text there becomes class indices. */
#include "kd-objects.h"

#include <float.h>
#include <math.h>
#include <string.h>

typedef struct {
  gchar *key;
  KdColumn *column;
  gboolean label; /* a class name */
} KdKey;

typedef struct {
  const KdImportOptions *options;
  KdObjects *objects;
  KdColumns *columns;
  GArray *keys; /* of KdKey */
  KdClasses *classes;
} KdJson;

static void
key_clear (gpointer data)
{
  g_free (((KdKey *) data)->key);
}

static void
json_clear (KdJson *self)
{
  g_clear_pointer (&self->objects, kd_objects_free);
  g_clear_pointer (&self->columns, kd_columns_free);
  g_clear_pointer (&self->keys, g_array_unref);
  g_clear_pointer (&self->classes, kd_classes_free);
}
G_DEFINE_AUTO_CLEANUP_CLEAR_FUNC (KdJson, json_clear)

static gboolean
fail (const KdJson *self, GError **error, KdError code, const gchar *what, const gchar *key, const gchar *came, const gchar *remedy)
{
  g_autofree gchar *where = kd_objects_where (self->objects);

  g_set_error (error, KD_ERROR, code, "%s: %s, key=%s, came=%s; %s", what, where, key, came, remedy);
  return FALSE;
}

/* A value that is not what the first row had there. */
static gboolean
fail_wanted (const KdJson *self, GError **error, KdError code, const gchar *what, const gchar *key, const gchar *came, const gchar *wanted)
{
  g_autofree gchar *remedy = g_strdup_printf ("wanted %s, as in the first %s", wanted, self->objects->unit);

  return fail (self, error, code, what, key, came, remedy);
}

static gboolean
is_number (JsonNode *node)
{
  return JSON_NODE_HOLDS_VALUE (node) && (json_node_get_value_type (node) == G_TYPE_INT64 || json_node_get_value_type (node) == G_TYPE_DOUBLE);
}

/* --- types from the first row --- */

static KdDtype
wished_type (const KdImportOptions *options, const gchar *key)
{
  gsize n = strlen (key);

  for (gchar **field = options->fields; field && *field; field++)
    if (strncmp (*field, key, n) == 0 && (*field)[n] == '=')
      return kd_dtype_from_name (*field + n + 1);
  return 0;
}

/* Sizes of nested arrays, from their first elements. */
static gboolean
array_shape (const KdJson *self, const gchar *key, JsonNode *node, guint *ret_rank, gint64 *dims, gboolean *ret_real, GError **error)
{
  guint n;

  while (JSON_NODE_HOLDS_ARRAY (node)) {
    n = json_array_get_length (json_node_get_array (node));
    if (n == 0 || *ret_rank == KD_MAX_RANK)
      return fail (self, error, KD_ERROR_SHAPE, "Array of no use", key, n ? "more than 7 levels" : "no elements", "leave it out with --only");
    dims[(*ret_rank)++] = n;
    *ret_real = *ret_real || json_node_get_value_type (json_array_get_element (json_node_get_array (node), 0)) == G_TYPE_DOUBLE;
    node = json_array_get_element (json_node_get_array (node), 0);
  }
  return is_number (node) ||
      fail (self, error, KD_ERROR_DTYPE, "Array of no numbers", key, kd_json_kind (node), "leave it out with --only");
}

static KdDtype
natural_type (JsonNode *node)
{
  switch (json_node_get_value_type (node)) {
  case G_TYPE_STRING:
    return KD_UTF8;
  case G_TYPE_BOOLEAN:
    return KD_BOOL;
  case G_TYPE_INT64:
    return KD_INT64;
  default:
    return KD_FLOAT32;
  }
}

static gboolean
add_key (KdJson *self, const gchar *name, JsonNode *node, GError **error)
{
  KdKey key = { 0 };
  KdDtype dtype = wished_type (self->options, name);
  gint64 dims[KD_MAX_RANK] = { KD_DIM_ANY };
  guint rank = 1;
  gboolean real = FALSE;
  g_autofree gchar *field = NULL;

  key.label = self->options->label && g_str_equal (self->options->label, name);
  if (JSON_NODE_HOLDS_ARRAY (node)) {
    if (!array_shape (self, name, node, &rank, dims, &real, error))
      return FALSE;
    dtype = dtype ? dtype : KD_FLOAT32;
  } else if (!JSON_NODE_HOLDS_VALUE (node)) {
    return fail (self, error, KD_ERROR_DTYPE, "Value of no use", name, kd_json_kind (node), "leave it out with --only");
  } else if (!dtype) {
    dtype = natural_type (node);
  }
  if (key.label)
    field = g_strdup ("label");
  else if (!(field = kd_import_field (self->options, name)))
    field = g_strdup (name);
  key.label = key.label && dtype == KD_UTF8;
  key.column = kd_columns_add (self->columns, field, key.label ? KD_INT64 : dtype, rank, dims, error);
  if (!key.column)
    return FALSE;
  key.key = g_strdup (name);
  g_array_append_val (self->keys, key);
  return TRUE;
}

static gboolean
add_keys (KdJson *self, JsonObject *object, GError **error)
{
  g_autoptr (GList) members = json_object_get_members (object);
  g_autofree gchar *n = g_strdup_printf ("%u keys", json_object_get_size (object));

  if (!self->options->only && json_object_get_size (object) > KD_DATA_MAX_COLUMNS)
    return fail (self, error, KD_ERROR_RANGE, "Too many keys", "(all)", n, "choose with --only, or put the numbers into an array");
  for (GList *l = members; l; l = l->next)
    if ((kd_import_wants (self->options, l->data) || g_strcmp0 (self->options->label, l->data) == 0) &&
        !add_key (self, l->data, json_object_get_member (object, l->data), error))
      return FALSE;
  if (self->options->label && !json_object_has_member (object, self->options->label))
    return fail (self, error, KD_ERROR_FIELD, "No such key", self->options->label, "nothing", "--label must name a key; an array's are its places from 0");
  if (self->keys->len)
    return TRUE;
  return fail (self, error, KD_ERROR_FIELD, "Nothing to read", self->options->only ? self->options->only : "(none)", "no such key",
      "--only must name keys; an array's are its places from 0");
}

/* --- values --- */

static gdouble
largest (KdDtype dtype)
{
  if (dtype == KD_FLOAT64)
    return DBL_MAX;
  return dtype == KD_FLOAT16 ? 65504 : FLT_MAX;
}

static gboolean
put_number (KdJson *self, const KdKey *key, JsonNode *node, GError **error)
{
  KdColumn *column = key->column;
  gboolean real;
  g_autofree gchar *came = NULL;
  g_autofree gchar *remedy = NULL;

  if (!is_number (node))
    return fail_wanted (self, error, KD_ERROR_DTYPE, "Value of another type", key->key, kd_json_kind (node), kd_dtype_name (column->dtype));
  real = json_node_get_value_type (node) == G_TYPE_DOUBLE;
  came = real ? g_strdup_printf ("%.17g", json_node_get_double (node)) : g_strdup_printf ("%" G_GINT64_FORMAT, json_node_get_int (node));
  if (column->dtype & KD_ANY_FLOAT) {
    gdouble value = json_node_get_double (node);
    if (!(fabs (value) <= largest (column->dtype)))
      return fail (self, error, KD_ERROR_RANGE, "Number too large", key->key, came, "give --field NAME=float64");
    kd_column_put_float (column, value);
    return TRUE;
  }
  if (real) {
    remedy = g_strdup_printf ("the first %s has a whole number: give --field %s=float32", self->objects->unit, key->key);
    return fail (self, error, KD_ERROR_DTYPE, "Not a whole number", key->key, came, remedy);
  }
  if (g_str_equal (column->name, "label") && json_node_get_int (node) < 0)
    return fail (self, error, KD_ERROR_RANGE, "Negative label", key->key, came, "labels are 0, 1, 2 ...");
  remedy = g_strdup_printf ("it does not fit %s", kd_dtype_name (column->dtype));
  return kd_column_put_int (column, json_node_get_int (node)) || fail (self, error, KD_ERROR_RANGE, "Number out of range", key->key, came, remedy);
}

static gboolean
put_array (KdJson *self, const KdKey *key, JsonNode *node, guint axis, GError **error)
{
  const KdColumn *column = key->column;
  g_autofree gchar *came = NULL, *wanted = NULL;
  JsonArray *array;

  if (axis == column->rank)
    return put_number (self, key, node, error);
  if (!JSON_NODE_HOLDS_ARRAY (node) || (gint64) json_array_get_length (json_node_get_array (node)) != column->dims[axis]) {
    came = JSON_NODE_HOLDS_ARRAY (node) ? g_strdup_printf ("%u elements", json_array_get_length (json_node_get_array (node)))
                                        : g_strdup (kd_json_kind (node));
    wanted = g_strdup_printf ("%" G_GINT64_FORMAT " elements on axis %u", column->dims[axis], axis);
    return fail_wanted (self, error, KD_ERROR_SHAPE, "Array of another shape", key->key, came, wanted);
  }
  array = json_node_get_array (node);
  for (guint i = 0; i < json_array_get_length (array); i++)
    if (!put_array (self, key, json_array_get_element (array, i), axis + 1, error))
      return FALSE;
  return TRUE;
}

static gboolean
put_text (KdJson *self, const KdKey *key, JsonNode *node, GError **error)
{
  const gchar *text = JSON_NODE_HOLDS_VALUE (node) ? json_node_get_string (node) : NULL;

  if (!text)
    return fail_wanted (self, error, KD_ERROR_DTYPE, "Value of another type", key->key, kd_json_kind (node), "text");
  if (!key->label)
    kd_column_put_text (key->column, text, strlen (text));
  else
    kd_column_put_int (key->column, kd_classes_index (self->classes, text));
  return TRUE;
}

static gboolean
put_value (KdJson *self, const KdKey *key, JsonNode *node, GError **error)
{
  gboolean is_bool = JSON_NODE_HOLDS_VALUE (node) && json_node_get_value_type (node) == G_TYPE_BOOLEAN;

  if (key->column->dtype == KD_UTF8 || key->label)
    return put_text (self, key, node, error);
  if (key->column->dtype != KD_BOOL || key->column->rank > 1)
    return put_array (self, key, node, 1, error);
  if (!is_bool)
    return fail_wanted (self, error, KD_ERROR_DTYPE, "Value of another type", key->key, kd_json_kind (node), "true or false");
  return kd_column_put_int (key->column, json_node_get_boolean (node));
}

static gboolean
put_row (KdJson *self, JsonObject *object, KdDataOut *out, GError **error)
{
  for (guint i = 0; i < self->keys->len; i++) {
    const KdKey *key = &g_array_index (self->keys, KdKey, i);
    JsonNode *node = json_object_get_member (object, key->key);
    if (!node)
      return fail_wanted (self, error, KD_ERROR_FIELD, "Key missing", key->key, "nothing", "a value (or leave it out with --only)");
    if (!put_value (self, key, node, error))
      return FALSE;
  }
  return kd_columns_end_row (self->columns, out, error);
}

/* --- passes over the rows --- */

typedef gboolean (*RowFunc) (KdJson *self, JsonObject *object, KdDataOut *out, GError **error);

static gboolean
each_row (KdJson *self, RowFunc func, KdDataOut *out, GError **error)
{
  gint status;

  if (!kd_objects_rewind (self->objects, error))
    return FALSE;
  while ((status = kd_objects_next (self->objects, error)) > 0)
    if ((self->keys->len == 0 && !add_keys (self, self->objects->object, error)) || !func (self, self->objects->object, out, error))
      return FALSE;
  return status == 0;
}

static gboolean
collect_class (KdJson *self, JsonObject *object, KdDataOut *out, GError **error)
{
  JsonNode *node = json_object_get_member (object, self->options->label);

  /* What is no text is told by the second pass. */
  if (node && JSON_NODE_HOLDS_VALUE (node) && json_node_get_string (node))
    return kd_classes_add (self->classes, json_node_get_string (node), error);
  return TRUE;
}

/* @objects: (transfer full) (nullable): NULL with @error set. */
static gboolean
import_objects (const KdImportOptions *options, const gchar *format, KdObjects *objects, GError **error)
{
  g_auto (KdJson) self = { .options = options, .objects = objects, .columns = kd_columns_new (), .classes = kd_classes_new () };
  g_autoptr (KdDataOut) out = NULL;

  self.keys = g_array_new (FALSE, FALSE, sizeof (KdKey));
  g_array_set_clear_func (self.keys, key_clear);
  if (!objects || (options->label && !each_row (&self, collect_class, NULL, error)))
    return FALSE;
  kd_classes_sort (self.classes);
  if (!(out = kd_data_out_new (options->output, 0, error)) || !each_row (&self, put_row, out, error) || !kd_columns_flush (self.columns, out, error))
    return FALSE;
  return kd_import_finish (options, format, self.classes, out, error);
}

static gboolean
jsonl_run (const KdImportOptions *options, GError **error)
{
  return import_objects (options, "jsonl", kd_objects_open_lines (options->input), error);
}

static gboolean
json_run (const KdImportOptions *options, GError **error)
{
  return import_objects (options, "json", kd_objects_open_document (options->input, options->split, error), error);
}

static gboolean
jsonl_sniff (const gchar *path, const guint8 *head, gsize n)
{
  g_autofree gchar *lower = g_ascii_strdown (path, -1);

  return g_str_has_suffix (lower, ".jsonl") || g_str_has_suffix (lower, ".ndjson") || g_str_has_suffix (lower, ".jsonl.gz") || (n > 0 && head[0] == '{');
}

static gboolean
json_sniff (const gchar *path, const guint8 *head, gsize n)
{
  g_autofree gchar *lower = g_ascii_strdown (path, -1);

  return g_str_has_suffix (lower, ".json") || g_str_has_suffix (lower, ".json.gz");
}

const KdImportFormat kd_import_jsonl = {
  .name = "jsonl",
  .description = "JSON lines: text, numbers, arrays -> fields; --label KEY -> label, --field NAME=TYPE",
  .sniff = jsonl_sniff,
  .run = jsonl_run,
};

const KdImportFormat kd_import_json = {
  .name = "json",
  .description = "a JSON document that is an array of rows, or with --split NAME has one; a row is what a line of jsonl is",
  .sniff = json_sniff,
  .run = json_run,
};
