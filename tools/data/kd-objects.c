/* Sources of JSON objects: lines, each a document of its own, and the rows of one document. */
#include "kd-objects.h"

#define UNKNOWN (-2)
#define OBJECTS (-1)
#define NAMES_SHOWN 20

const gchar *
kd_json_kind (JsonNode *node)
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

/* path="x.json", split="train" */
static gchar *
place (const KdObjects *self)
{
  g_autofree gchar *split = self->split ? kd_data_excerpt (self->split) : NULL;

  return g_strdup_printf ("path=\"%s\"%s%s", self->path, split ? ", split=" : "", split ? split : "");
}

gchar *
kd_objects_where (const KdObjects *self)
{
  g_autofree gchar *file = place (self);

  return g_strdup_printf ("%s, %s=%" G_GINT64_FORMAT, file, self->unit, self->number);
}

/* --- a row --- */

static gchar *
shape_name (gint64 n_places)
{
  return n_places == OBJECTS ? g_strdup ("an object") : g_strdup_printf ("an array of %" G_GINT64_FORMAT, n_places);
}

static gboolean
check_shape (KdObjects *self, JsonNode *node, GError **error)
{
  g_autofree gchar *where = NULL, *came = NULL, *wanted = NULL;
  gint64 n_places = OBJECTS;

  if (!node || !(JSON_NODE_HOLDS_OBJECT (node) || JSON_NODE_HOLDS_ARRAY (node))) {
    where = kd_objects_where (self);
    g_set_error (error, KD_ERROR, KD_ERROR_FORMAT, "Neither an object nor an array: %s, came=%s; every %s must be {\"name\": value, ...} or "
                                                   "[value, ...]",
        where, kd_json_kind (node), self->unit);
    return FALSE;
  }
  if (JSON_NODE_HOLDS_ARRAY (node))
    n_places = json_array_get_length (json_node_get_array (node));
  if (self->n_places == UNKNOWN)
    self->n_places = n_places;
  if (n_places == self->n_places)
    return TRUE;
  where = kd_objects_where (self);
  came = shape_name (n_places);
  wanted = shape_name (self->n_places);
  g_set_error (error, KD_ERROR, KD_ERROR_SHAPE, "Row of another shape: %s, came=%s, wanted=%s as the first %s", where, came, wanted, self->unit);
  return FALSE;
}

static gint
give (KdObjects *self, JsonNode *node, GError **error)
{
  JsonArray *array;

  if (!check_shape (self, node, error))
    return -1;
  g_clear_pointer (&self->object, json_object_unref);
  if (JSON_NODE_HOLDS_OBJECT (node)) {
    self->object = json_node_dup_object (node);
    return 1;
  }
  array = json_node_get_array (node);
  self->object = json_object_new ();
  for (guint i = 0; i < json_array_get_length (array); i++) {
    gchar key[16];
    g_snprintf (key, sizeof key, "%u", i);
    json_object_set_member (self->object, key, json_array_dup_element (array, i));
  }
  return 1;
}

/* @text [@n] is UTF-8 with a zero behind it. */
static gboolean
parse (KdObjects *self, const gchar *text, gsize n, const gchar *remedy, GError **error)
{
  g_autoptr (GError) inner = NULL;
  g_autofree gchar *where = NULL;
  const gchar *fault = kd_json_fault (text, n);

  if (!fault && json_parser_load_from_data (self->parser, text, (gssize) n, &inner))
    return TRUE;
  where = self->lines.line ? kd_objects_where (self) : place (self);
  g_set_error (error, KD_ERROR, KD_ERROR_FORMAT, "Not JSON: %s, came=%s; %s", where, fault ? fault : inner->message, remedy);
  return FALSE;
}

static gint
next_line (KdObjects *self, GError **error)
{
  gint status;

  while ((status = kd_lines_next (&self->lines, error)) > 0 && self->lines.line->len == 1)
    ;
  if (status <= 0)
    return status;
  self->number = self->lines.number;
  if (!parse (self, (const gchar *) self->lines.line->data, self->lines.line->len - 1,
          "every line must be one whole value; one that goes over lines is --format=json", error))
    return -1;
  return give (self, json_parser_get_root (self->parser), error);
}

gint
kd_objects_next (KdObjects *self, GError **error)
{
  if (!self->rows)
    return next_line (self, error);
  if (++self->number >= json_array_get_length (self->rows))
    return 0;
  return give (self, json_array_get_element (self->rows, (guint) self->number), error);
}

gboolean
kd_objects_rewind (KdObjects *self, GError **error)
{
  g_autoptr (GInputStream) stream = NULL;
  gint64 bytes;

  self->n_places = UNKNOWN;
  self->number = -1;
  if (self->rows)
    return TRUE;
  kd_lines_clear (&self->lines);
  if (!(stream = kd_data_open (self->path, &bytes, error)))
    return FALSE;
  kd_lines_init (&self->lines, stream, self->path);
  return TRUE;
}

/* --- a document --- */

static GByteArray *
read_document (const gchar *path, GError **error)
{
  gint64 bytes;
  g_autoptr (GInputStream) stream = kd_data_open (path, &bytes, error);
  g_autoptr (GByteArray) text = g_byte_array_new ();
  GError *inner = NULL;
  guint8 buffer[1 << 14];
  const gchar *end;
  gssize n;

  if (!stream)
    return NULL;
  while ((n = g_input_stream_read (stream, buffer, sizeof buffer, NULL, &inner)) > 0) {
    if (bytes > (gint64) KD_OBJECTS_MAX_BYTES || text->len + (gsize) n > KD_OBJECTS_MAX_BYTES) {
      g_set_error (error, KD_ERROR, KD_ERROR_RANGE, "Document too large: path=\"%s\", most=%zu bytes, for it is in memory whole; make lines of "
                                                    "it, for instance: jq -c '.train[]' FILE > train.jsonl",
          path, KD_OBJECTS_MAX_BYTES);
      return NULL;
    }
    g_byte_array_append (text, buffer, (guint) n);
  }
  if (n < 0) {
    kd_data_wrap (error, inner, "read", path);
    return NULL;
  }
  if (!g_utf8_validate_len ((const gchar *) text->data, text->len, &end)) {
    g_set_error (error, KD_ERROR, KD_ERROR_FORMAT, "Not UTF-8 text: path=\"%s\", byte=%zu; convert it first, for instance: iconv -f latin1 -t utf-8",
        path, (gsize) (end - (const gchar *) text->data));
    return NULL;
  }
  return g_steal_pointer (&text);
}

/* The members of @object that are arrays, ending with NULL. */
static GPtrArray *
array_names (JsonObject *object)
{
  GPtrArray *names = g_ptr_array_new ();
  g_autoptr (GList) members = json_object_get_members (object);

  for (GList *l = members; l; l = l->next)
    if (JSON_NODE_HOLDS_ARRAY (json_object_get_member (object, l->data)))
      g_ptr_array_add (names, l->data);
  g_ptr_array_add (names, NULL);
  return names;
}

/* "train", "test" */
static gchar *
names_text (const GPtrArray *names)
{
  GString *text = g_string_new (NULL);

  for (guint i = 0; i + 1 < names->len && i < NAMES_SHOWN; i++) {
    g_autofree gchar *name = kd_data_excerpt (g_ptr_array_index (names, i));
    g_string_append_printf (text, "%s%s", i ? ", " : "", name);
  }
  if (names->len > NAMES_SHOWN + 1)
    g_string_append_printf (text, " and %u more", names->len - 1 - NAMES_SHOWN);
  return g_string_free (text, FALSE);
}

/* The member --split of the document @object, (transfer none). */
static JsonNode *
find_split (const KdObjects *self, JsonObject *object, GError **error)
{
  g_autoptr (GPtrArray) names = array_names (object);
  g_autofree gchar *list = names_text (names), *file = place (self), *near_name = NULL;
  JsonNode *node = self->split ? json_object_get_member (object, self->split) : NULL;
  const gchar *near;

  if (node && JSON_NODE_HOLDS_ARRAY (node))
    return node;
  if (names->len == 1) {
    g_set_error (error, KD_ERROR, KD_ERROR_FORMAT, "No rows: %s, came=an object without arrays; wanted an array of rows, or an object that has one",
        file);
  } else if (!self->split) {
    g_set_error (error, KD_ERROR, KD_ERROR_FIELD, "No rows: %s, came=an object, arrays=%s; choose one with --split NAME", file, list);
  } else if (node) {
    g_set_error (error, KD_ERROR, KD_ERROR_FIELD, "Split is no array: %s, came=%s, arrays=%s", file, kd_json_kind (node), list);
  } else {
    near = kd_tool_closest (self->split, (const gchar *const *) names->pdata);
    near_name = near ? kd_data_excerpt (near) : NULL;
    g_set_error (error, KD_ERROR, KD_ERROR_FIELD, "No such split: %s, arrays=%s%s%s%s", file, list, near ? "; did you mean " : "",
        near ? near_name : "", near ? "?" : "");
  }
  return NULL;
}

static gboolean
find_rows (KdObjects *self, GError **error)
{
  JsonNode *root = json_parser_get_root (self->parser);
  g_autofree gchar *file = place (self);

  if (root && JSON_NODE_HOLDS_OBJECT (root)) {
    if (!(root = find_split (self, json_node_get_object (root), error)))
      return FALSE;
  } else if (!root || !JSON_NODE_HOLDS_ARRAY (root)) {
    g_set_error (error, KD_ERROR, KD_ERROR_FORMAT, "No rows: %s, came=%s; wanted an array of rows, or an object that has one", file,
        root ? kd_json_kind (root) : "an empty file");
    return FALSE;
  } else if (self->split) {
    g_set_error (error, KD_ERROR, KD_ERROR_FIELD, "No such split: %s, came=an array; its elements are the rows: leave out --split", file);
    return FALSE;
  }
  self->rows = json_node_get_array (root);
  if (json_array_get_length (self->rows))
    return TRUE;
  g_set_error (error, KD_ERROR, KD_ERROR_VALUE, "No rows: %s, came=an empty array", file);
  return FALSE;
}

/* --- open --- */

static KdObjects *
objects_new (const gchar *path, const gchar *split, const gchar *unit)
{
  KdObjects *self = g_new0 (KdObjects, 1);

  *self = (KdObjects) { .path = path, .split = split, .unit = unit, .parser = json_parser_new () };
  return self;
}

KdObjects *
kd_objects_open_lines (const gchar *path)
{
  return objects_new (path, NULL, "line");
}

KdObjects *
kd_objects_open_document (const gchar *path, const gchar *split, GError **error)
{
  g_autoptr (KdObjects) self = objects_new (path, split, "row");
  g_autoptr (GByteArray) text = read_document (path, error);

  if (!text)
    return NULL;
  g_byte_array_append (text, (const guint8 *) "", 1);
  if (!parse (self, (const gchar *) text->data, text->len - 1, "is it cut off? a file of an object a line is --format=jsonl", error) ||
      !find_rows (self, error))
    return NULL;
  return g_steal_pointer (&self);
}

void
kd_objects_free (KdObjects *self)
{
  if (!self)
    return;
  kd_lines_clear (&self->lines);
  g_clear_pointer (&self->object, json_object_unref);
  g_clear_object (&self->parser);
  g_free (self);
}
