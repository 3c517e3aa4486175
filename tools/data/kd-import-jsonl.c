/* JSON lines: an object a line. Text -> utf8, whole numbers -> int64, numbers -> float32, true/false -> bool, arrays of numbers -> matrices.
 * The first line fixes fields and types (--field NAME=TYPE changes one); with --label KEY text there becomes class indices. */
#include "kd-data.h"

#include <float.h>
#include <json-glib/json-glib.h>
#include <math.h>
#include <string.h>

typedef struct {
  gchar *key;
  KdColumn *column;
  gboolean label; /* a class name */
} KdKey;

typedef struct {
  const KdImportOptions *options;
  JsonParser *parser;
  KdColumns *columns;
  GArray *keys; /* of KdKey */
  KdClasses *classes;
  gint64 line;
} KdJsonl;

static void
key_clear (gpointer data)
{
  g_free (((KdKey *) data)->key);
}

static void
jsonl_clear (KdJsonl *self)
{
  g_clear_object (&self->parser);
  g_clear_pointer (&self->columns, kd_columns_free);
  g_clear_pointer (&self->keys, g_array_unref);
  g_clear_pointer (&self->classes, kd_classes_free);
}
G_DEFINE_AUTO_CLEANUP_CLEAR_FUNC (KdJsonl, jsonl_clear)

static gboolean
fail (const KdJsonl *self, GError **error, KdError code, const gchar *what, const gchar *key, const gchar *came, const gchar *remedy)
{
  g_set_error (error, KD_ERROR, code, "%s: path=\"%s\", line=%" G_GINT64_FORMAT ", key=%s, came=%s; %s", what, self->options->input, self->line, key,
      came, remedy);
  return FALSE;
}

/* A word for what a value is. */
static const gchar *
node_kind (JsonNode *node)
{
  if (!node || JSON_NODE_HOLDS_NULL (node))
    return "null";
  if (JSON_NODE_HOLDS_ARRAY (node))
    return "an array";
  if (JSON_NODE_HOLDS_OBJECT (node))
    return "an object";
  switch (json_node_get_value_type (node)) {
  case G_TYPE_STRING:
    return "text";
  case G_TYPE_BOOLEAN:
    return "true or false";
  case G_TYPE_INT64:
    return "a whole number";
  default:
    return "a number";
  }
}

static gboolean
is_number (JsonNode *node)
{
  return JSON_NODE_HOLDS_VALUE (node) && (json_node_get_value_type (node) == G_TYPE_INT64 || json_node_get_value_type (node) == G_TYPE_DOUBLE);
}

/* The object of the line, (transfer none), or NULL. */
static JsonObject *
parse_line (KdJsonl *self, const KdLines *lines, GError **error)
{
  GError *inner = NULL;
  const gchar *fault;
  JsonNode *root;

  self->line = lines->number;
  if ((fault = kd_json_fault ((const gchar *) lines->line->data, lines->line->len - 1))) {
    fail (self, error, KD_ERROR_FORMAT, "Not JSON", "(line)", fault, "every line must be one whole object");
    return NULL;
  }
  if (!json_parser_load_from_data (self->parser, (const gchar *) lines->line->data, (gssize) lines->line->len - 1, &inner)) {
    fail (self, error, KD_ERROR_FORMAT, "Not JSON", "(line)", inner->message, "every line must be one whole object");
    g_error_free (inner);
    return NULL;
  }
  root = json_parser_get_root (self->parser);
  if (root && JSON_NODE_HOLDS_OBJECT (root))
    return json_node_get_object (root);
  fail (self, error, KD_ERROR_FORMAT, "Not an object", "(line)", node_kind (root), "every line must be one object: {\"name\": value, ...}");
  return NULL;
}

/* --- types from the first line --- */

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
array_shape (const KdJsonl *self, const gchar *key, JsonNode *node, guint *ret_rank, gint64 *dims, gboolean *ret_real, GError **error)
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
      fail (self, error, KD_ERROR_DTYPE, "Array of no numbers", key, node_kind (node), "leave it out with --only");
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
add_key (KdJsonl *self, const gchar *name, JsonNode *node, GError **error)
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
    return fail (self, error, KD_ERROR_DTYPE, "Value of no use", name, node_kind (node), "leave it out with --only");
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
add_keys (KdJsonl *self, JsonObject *object, GError **error)
{
  g_autoptr (GList) members = json_object_get_members (object);

  for (GList *l = members; l; l = l->next)
    if ((kd_import_wants (self->options, l->data) || g_strcmp0 (self->options->label, l->data) == 0) &&
        !add_key (self, l->data, json_object_get_member (object, l->data), error))
      return FALSE;
  if (self->options->label && !json_object_has_member (object, self->options->label))
    return fail (self, error, KD_ERROR_FIELD, "No such key", self->options->label, "nothing", "--label must name a key of the objects");
  if (self->keys->len)
    return TRUE;
  return fail (self, error, KD_ERROR_FIELD, "Nothing to read", self->options->only ? self->options->only : "(none)", "no such key",
      "--only must name keys of the objects");
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
put_number (KdJsonl *self, const KdKey *key, JsonNode *node, GError **error)
{
  KdColumn *column = key->column;
  gboolean real;
  g_autofree gchar *came = NULL;
  g_autofree gchar *remedy = NULL;

  if (!is_number (node)) {
    remedy = g_strdup_printf ("wanted %s, as in the first line", kd_dtype_name (column->dtype));
    return fail (self, error, KD_ERROR_DTYPE, "Value of another type", key->key, node_kind (node), remedy);
  }
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
    remedy = g_strdup_printf ("the first line has a whole number: give --field %s=float32", key->key);
    return fail (self, error, KD_ERROR_DTYPE, "Not a whole number", key->key, came, remedy);
  }
  if (g_str_equal (column->name, "label") && json_node_get_int (node) < 0)
    return fail (self, error, KD_ERROR_RANGE, "Negative label", key->key, came, "labels are 0, 1, 2 ...");
  remedy = g_strdup_printf ("it does not fit %s", kd_dtype_name (column->dtype));
  return kd_column_put_int (column, json_node_get_int (node)) || fail (self, error, KD_ERROR_RANGE, "Number out of range", key->key, came, remedy);
}

static gboolean
put_array (KdJsonl *self, const KdKey *key, JsonNode *node, guint axis, GError **error)
{
  const KdColumn *column = key->column;
  g_autofree gchar *came = NULL, *remedy = NULL;
  JsonArray *array;

  if (axis == column->rank)
    return put_number (self, key, node, error);
  if (!JSON_NODE_HOLDS_ARRAY (node) || (gint64) json_array_get_length (json_node_get_array (node)) != column->dims[axis]) {
    came = JSON_NODE_HOLDS_ARRAY (node) ? g_strdup_printf ("%u elements", json_array_get_length (json_node_get_array (node)))
                                        : g_strdup (node_kind (node));
    remedy = g_strdup_printf ("wanted %" G_GINT64_FORMAT " elements on axis %u, as in the first line", column->dims[axis], axis);
    return fail (self, error, KD_ERROR_SHAPE, "Array of another shape", key->key, came, remedy);
  }
  array = json_node_get_array (node);
  for (guint i = 0; i < json_array_get_length (array); i++)
    if (!put_array (self, key, json_array_get_element (array, i), axis + 1, error))
      return FALSE;
  return TRUE;
}

static gboolean
put_text (KdJsonl *self, const KdKey *key, JsonNode *node, GError **error)
{
  const gchar *text = JSON_NODE_HOLDS_VALUE (node) ? json_node_get_string (node) : NULL;

  if (!text)
    return fail (self, error, KD_ERROR_DTYPE, "Value of another type", key->key, node_kind (node), "wanted text, as in the first line");
  if (!key->label)
    kd_column_put_text (key->column, text, strlen (text));
  else
    kd_column_put_int (key->column, kd_classes_index (self->classes, text));
  return TRUE;
}

static gboolean
put_value (KdJsonl *self, const KdKey *key, JsonNode *node, GError **error)
{
  gboolean is_bool = JSON_NODE_HOLDS_VALUE (node) && json_node_get_value_type (node) == G_TYPE_BOOLEAN;

  if (key->column->dtype == KD_UTF8 || key->label)
    return put_text (self, key, node, error);
  if (key->column->dtype != KD_BOOL || key->column->rank > 1)
    return put_array (self, key, node, 1, error);
  if (!is_bool)
    return fail (self, error, KD_ERROR_DTYPE, "Value of another type", key->key, node_kind (node), "wanted true or false, as in the first line");
  return kd_column_put_int (key->column, json_node_get_boolean (node));
}

static gboolean
put_row (KdJsonl *self, JsonObject *object, KdDataOut *out, GError **error)
{
  for (guint i = 0; i < self->keys->len; i++) {
    const KdKey *key = &g_array_index (self->keys, KdKey, i);
    JsonNode *node = json_object_get_member (object, key->key);
    if (!node)
      return fail (self, error, KD_ERROR_FIELD, "Key missing", key->key, "nothing", "every line needs the keys of the first; leave it out with "
                                                                                    "--only");
    if (!put_value (self, key, node, error))
      return FALSE;
  }
  return kd_columns_end_row (self->columns, out, error);
}

/* --- passes over the file --- */

typedef gboolean (*LineFunc) (KdJsonl *self, JsonObject *object, KdDataOut *out, GError **error);

static gboolean
each_line (KdJsonl *self, LineFunc func, KdDataOut *out, GError **error)
{
  gint64 bytes;
  g_autoptr (GInputStream) stream = kd_data_open (self->options->input, &bytes, error);
  g_auto (KdLines) lines = { 0 };
  gint status;

  if (!stream)
    return FALSE;
  kd_lines_init (&lines, stream, self->options->input);
  while ((status = kd_lines_next (&lines, error)) > 0) {
    JsonObject *object;
    if (lines.line->len == 1)
      continue;
    if (!(object = parse_line (self, &lines, error)) || (self->keys->len == 0 && !add_keys (self, object, error)) || !func (self, object, out, error))
      return FALSE;
  }
  return status == 0;
}

static gboolean
collect_class (KdJsonl *self, JsonObject *object, KdDataOut *out, GError **error)
{
  JsonNode *node = json_object_get_member (object, self->options->label);

  /* What is no text is told by the second pass. */
  if (node && JSON_NODE_HOLDS_VALUE (node) && json_node_get_string (node))
    return kd_classes_add (self->classes, json_node_get_string (node), error);
  return TRUE;
}

static gboolean
jsonl_run (const KdImportOptions *options, GError **error)
{
  g_auto (KdJsonl) self = { .options = options, .parser = json_parser_new (), .columns = kd_columns_new (), .classes = kd_classes_new () };
  g_autoptr (KdDataOut) out = NULL;

  self.keys = g_array_new (FALSE, FALSE, sizeof (KdKey));
  g_array_set_clear_func (self.keys, key_clear);
  if (options->label && !each_line (&self, collect_class, NULL, error))
    return FALSE;
  kd_classes_sort (self.classes);
  if (!(out = kd_data_out_new (options->output, 0, error)) || !each_line (&self, put_row, out, error) ||
      !kd_columns_flush (self.columns, out, error))
    return FALSE;
  return kd_import_finish (options, "jsonl", self.classes, out, error);
}

static gboolean
jsonl_sniff (const gchar *path, const guint8 *head, gsize n)
{
  g_autofree gchar *lower = g_ascii_strdown (path, -1);

  return g_str_has_suffix (lower, ".jsonl") || g_str_has_suffix (lower, ".ndjson") || g_str_has_suffix (lower, ".jsonl.gz") || (n > 0 && head[0] == '{');
}

const KdImportFormat kd_import_jsonl = {
  .name = "jsonl",
  .description = "JSON lines: text, numbers, arrays -> fields; --label KEY -> label, --field NAME=TYPE",
  .sniff = jsonl_sniff,
  .run = jsonl_run,
};
