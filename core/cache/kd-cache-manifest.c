/* The manifest: schemas/cache-manifest.schema.json says what is in it. It is read as something a stranger wrote. */
#include "../kd-json.h"
#include "kd-cache-private.h"

#include "../math/kd-crc32c.h"

#include <json-glib/json-glib.h>
#include <string.h>

#define MAX_PARTS 1000000
#define MAX_BLOCK_ROWS (1 << 20)
#define MAX_ENCODINGS 4096
#ifndef KD_VERSION
#define KD_VERSION "0.1.0"
#endif

KdCacheManifest *
kd_cache_manifest_new (void)
{
  KdCacheManifest *manifest = g_new0 (KdCacheManifest, 1);

  manifest->created_by = g_strdup ("kdstream " KD_VERSION);
  manifest->parts = g_ptr_array_new_with_free_func ((GDestroyNotify) kd_cache_part_free);
  manifest->encodings = g_ptr_array_new_with_free_func (g_free);
  manifest->block_rows = 1024;
  return manifest;
}

void
kd_cache_manifest_free (KdCacheManifest *manifest)
{
  g_clear_pointer (&manifest->layout, kd_layout_free);
  kd_cache_identity_clear (&manifest->identity);
  g_ptr_array_unref (manifest->parts);
  g_ptr_array_unref (manifest->encodings);
  g_free (manifest->created_by);
  g_free (manifest);
}

void
kd_cache_part_free (KdCachePart *part)
{
  g_free (part->file);
  g_free (part);
}

void
kd_cache_manifest_add (KdCacheManifest *manifest, KdCachePart *part)
{
  part->first_row = manifest->n_rows;
  manifest->n_rows += part->rows;
  g_ptr_array_add (manifest->parts, part);
}

guint
kd_cache_manifest_next (const KdCacheManifest *manifest)
{
  guint next = 0;

  for (guint i = 0; i < manifest->parts->len; i++) {
    const KdCachePart *part = g_ptr_array_index (manifest->parts, i);
    if (part->file)
      next = MAX (next, (guint) g_ascii_strtoull (part->file, NULL, 10) + 1);
  }
  return next;
}

/* Members of an object, each of the type asked for; the first that is not ends the reading. */
typedef struct {
  JsonObject *object;
  const gchar *where;
  gchar *wrong; /* or NULL */
} Members;

static JsonNode *
member (Members *members, const gchar *name, GType type)
{
  JsonNode *node = json_object_get_member (members->object, name);

  if (node && JSON_NODE_HOLDS_VALUE (node) && json_node_get_value_type (node) == type)
    return node;
  if (!members->wrong)
    members->wrong = g_strdup_printf ("member=%s%s, wanted=%s", members->where, name,
        type == G_TYPE_INT64 ? "integer" : type == G_TYPE_BOOLEAN ? "boolean"
                                                                  : "string");
  return NULL;
}

static gint64
member_int (Members *members, const gchar *name, gint64 min, gint64 max)
{
  JsonNode *node = member (members, name, G_TYPE_INT64);
  gint64 value = node ? json_node_get_int (node) : min;

  if ((value < min || value > max) && !members->wrong)
    members->wrong = g_strdup_printf ("member=%s%s, value=%" G_GINT64_FORMAT ", wanted=%" G_GINT64_FORMAT " to %" G_GINT64_FORMAT,
        members->where, name, value, min, max);
  return value;
}

static const gchar *
member_string (Members *members, const gchar *name)
{
  JsonNode *node = member (members, name, G_TYPE_STRING);

  return node ? json_node_get_string (node) : "";
}

/* "00042.h5": nothing that could leave the parts folder. */
static gboolean
part_name_is_valid (const gchar *name)
{
  gsize digits = strspn (name, "0123456789");

  return digits >= 5 && digits <= 9 && g_str_equal (name + digits, ".h5");
}

static KdCachePart *
parse_part (JsonNode *node, const gchar *where, gchar **ret_wrong)
{
  Members members = { NULL, where, NULL };
  KdCachePart *part = g_new0 (KdCachePart, 1);
  const gchar *sum;
  gchar *end = NULL;

  if (!JSON_NODE_HOLDS_OBJECT (node)) {
    *ret_wrong = g_strdup_printf ("member=%s, wanted=object", where);
    return part;
  }
  members.object = json_node_get_object (node);
  part->file = g_strdup (member_string (&members, "file"));
  part->rows = member_int (&members, "rows", 1, G_MAXINT64 / 4);
  part->bytes = member_int (&members, "bytes", 1, G_MAXINT64 / 4);
  part->first_id = member_int (&members, "first-id", G_MININT64, G_MAXINT64);
  part->last_id = member_int (&members, "last-id", part->first_id, G_MAXINT64);
  part->stride = member_int (&members, "stride", 0, G_MAXINT64);
  part->view = member_int (&members, "view", G_MININT64, G_MAXINT64);
  sum = member_string (&members, "checksum");
  part->checksum = (guint32) g_ascii_strtoull (sum, &end, 16);
  if (!members.wrong && !part_name_is_valid (part->file))
    members.wrong = g_strdup_printf ("member=%sfile, value=\"%s\", wanted=digits and .h5", where, part->file);
  if (!members.wrong && (strlen (sum) != 8 || *end))
    members.wrong = g_strdup_printf ("member=%schecksum, value=\"%s\", wanted=8 hexadecimal digits", where, sum);
  if (!members.wrong && part->stride > 0 &&
      (part->rows - 1 > (gint64) (((guint64) part->last_id - (guint64) part->first_id) / (guint64) part->stride) ||
          (guint64) part->first_id + (guint64) part->stride * (guint64) (part->rows - 1) != (guint64) part->last_id))
    members.wrong = g_strdup_printf ("member=%sstride, reason=ids, rows and stride do not agree", where);
  *ret_wrong = members.wrong;
  return part;
}

static void
parse_identity (JsonObject *root, KdCacheIdentity *identity, gchar **ret_wrong)
{
  JsonNode *node = json_object_get_member (root, "identity");
  const struct {
    const gchar *name;
    gchar **to;
  } rows[] = {
    { "teacher", &identity->teacher },
    { "teacher-spec", &identity->teacher_spec },
    { "dataset", &identity->dataset },
    { "dataset-spec", &identity->dataset_spec },
    { "preprocessing", &identity->preprocessing },
  };

  if (!node || !JSON_NODE_HOLDS_OBJECT (node)) {
    *ret_wrong = g_strdup ("member=identity, wanted=object");
    return;
  }
  for (guint i = 0; i < G_N_ELEMENTS (rows); i++) {
    Members members = { json_node_get_object (node), "identity.", NULL };
    if (!json_object_has_member (members.object, rows[i].name))
      continue;
    *rows[i].to = g_strdup (member_string (&members, rows[i].name));
    if (members.wrong) {
      *ret_wrong = members.wrong;
      return;
    }
  }
}

static void
parse_parts (JsonObject *root, KdCacheManifest *manifest, gchar **ret_wrong)
{
  JsonNode *node = json_object_get_member (root, "parts");
  JsonArray *array;
  gint64 n_rows = 0;

  if (!node || !JSON_NODE_HOLDS_ARRAY (node) || json_array_get_length (json_node_get_array (node)) > MAX_PARTS) {
    *ret_wrong = g_strdup_printf ("member=parts, wanted=array of at most %d", MAX_PARTS);
    return;
  }
  array = json_node_get_array (node);
  for (guint i = 0; i < json_array_get_length (array) && !*ret_wrong; i++) {
    g_autofree gchar *where = g_strdup_printf ("parts[%u].", i);
    KdCachePart *part = parse_part (json_array_get_element (array, i), where, ret_wrong);
    if (!*ret_wrong && part->rows > G_MAXINT64 / 4 - n_rows)
      *ret_wrong = g_strdup_printf ("member=%srows, reason=the sum overflows", where);
    n_rows += part->rows;
    kd_cache_manifest_add (manifest, part);
  }
}

static gdouble
member_number (Members *members, const gchar *name, gdouble fallback)
{
  JsonNode *node = json_object_get_member (members->object, name);
  gboolean number = node && JSON_NODE_HOLDS_VALUE (node) && (json_node_get_value_type (node) == G_TYPE_DOUBLE || json_node_get_value_type (node) == G_TYPE_INT64);
  gdouble value = number ? json_node_get_double (node) : fallback;

  if (!members->wrong && ((node && !number) || !(value >= fallback)))
    members->wrong = g_strdup_printf ("member=%s%s, wanted=number from 0", members->where, name);
  return value;
}

static void
parse_encoding (JsonNode *node, const gchar *where, KdCacheManifest *manifest, gchar **ret_wrong)
{
  Members members = { JSON_NODE_HOLDS_OBJECT (node) ? json_node_get_object (node) : NULL, where, NULL };
  const gchar *field = members.object ? member_string (&members, "field") : NULL;
  const gchar *name = members.object ? member_string (&members, "encoding") : NULL;
  g_autofree KdCacheEncoding *encoding = members.object && !members.wrong ? kd_cache_encoding_new (field, name) : NULL;

  if (!encoding || kd_cache_encoding_find (manifest->encodings, field)) {
    *ret_wrong = members.wrong ? members.wrong : g_strdup_printf ("member=%sencoding, value=\"%s\", reason=%s", where, name ? name : "", encoding ? "twice" : "unknown; a newer kdstream may know it");
    return;
  }
  encoding->n_rows = member_int (&members, "rows", 0, G_MAXINT64 / 4);
  encoding->max_error = member_number (&members, "max-error", 0);
  encoding->mean_error = member_number (&members, "mean-error", 0);
  encoding->max_tail = member_number (&members, "max-tail", -1);
  encoding->mean_tail = member_number (&members, "mean-tail", -1);
  if (json_object_has_member (members.object, "universe")) {
    encoding->universe = member_int (&members, "universe", 2, (gint64) 1 << 40);
    encoding->size = member_int (&members, "size", 1, 1 << 24);
  }
  *ret_wrong = members.wrong;
  if (!*ret_wrong)
    g_ptr_array_add (manifest->encodings, g_steal_pointer (&encoding));
}

/* Missing in caches whose fields are all kept as they came. */
static void
parse_encodings (JsonObject *root, KdCacheManifest *manifest, gchar **ret_wrong)
{
  JsonNode *node = json_object_get_member (root, "encodings");

  if (!node)
    return;
  if (!JSON_NODE_HOLDS_ARRAY (node) || json_array_get_length (json_node_get_array (node)) > MAX_ENCODINGS) {
    *ret_wrong = g_strdup_printf ("member=encodings, wanted=array of at most %d", MAX_ENCODINGS);
    return;
  }
  for (guint i = 0; i < json_array_get_length (json_node_get_array (node)) && !*ret_wrong; i++) {
    g_autofree gchar *where = g_strdup_printf ("encodings[%u].", i);
    parse_encoding (json_array_get_element (json_node_get_array (node), i), where, manifest, ret_wrong);
  }
}

static gboolean
is_key (const KdLayout *layout, const gchar *name)
{
  const KdLayoutField *field = kd_layout_find (layout, name);

  return field && field->dtype == KD_INT64 && field->rank == 1;
}

static gchar *
parse_root (JsonObject *root, KdCacheManifest *manifest)
{
  Members members = { root, "", NULL };
  const gchar *schema = member_string (&members, "schema"), *encoding = member_string (&members, "encoding");
  const gchar *fields = member_string (&members, "fields");
  JsonNode *complete = member (&members, "complete", G_TYPE_BOOLEAN);
  gint64 rows = member_int (&members, "rows", 0, G_MAXINT64 / 4);
  g_autoptr (GError) error = NULL;

  manifest->block_rows = member_int (&members, "block-rows", 1, MAX_BLOCK_ROWS);
  g_free (manifest->created_by);
  manifest->created_by = g_strdup (member_string (&members, "created-by"));
  if (schema && g_str_has_prefix (schema, "kd-cache-manifest/") && !g_str_equal (schema, KD_CACHE_SCHEMA)) {
    g_free (members.wrong); /* what another version has there is its own affair */
    return g_strdup_printf ("member=schema, value=\"%s\", wanted=\"%s\", created-by=\"%s\"; another version wrote it: read it with that one, or with a newer kdstream", schema,
        KD_CACHE_SCHEMA, manifest->created_by ? manifest->created_by : "unknown");
  }
  if (members.wrong)
    return members.wrong;
  if (!g_str_equal (schema, KD_CACHE_SCHEMA))
    return g_strdup_printf ("member=schema, value=\"%s\", wanted=\"%s\"", schema, KD_CACHE_SCHEMA);
  if (!g_str_equal (encoding, "dense") && !g_str_equal (encoding, "coded"))
    return g_strdup_printf ("member=encoding, value=\"%s\", wanted=\"dense\" or \"coded\"", encoding);
  manifest->complete = json_node_get_boolean (complete);
  parse_identity (root, &manifest->identity, &members.wrong);
  if (!members.wrong)
    parse_parts (root, manifest, &members.wrong);
  if (!members.wrong)
    parse_encodings (root, manifest, &members.wrong);
  if (members.wrong)
    return members.wrong;
  if (rows != manifest->n_rows)
    return g_strdup_printf ("member=rows, value=%" G_GINT64_FORMAT ", sum of the parts=%" G_GINT64_FORMAT, rows, manifest->n_rows);
  manifest->layout = kd_layout_from_string (fields, &error);
  if (!manifest->layout)
    return g_strdup_printf ("member=fields, reason=%s", error->message);
  if (!*fields && manifest->parts->len == 0) {
    g_clear_pointer (&manifest->layout, kd_layout_free);
    return NULL;
  }
  for (guint i = 0; i < kd_layout_n_fields (manifest->layout); i++) {
    const KdLayoutField *field = kd_layout_nth (manifest->layout, i);
    for (guint k = 1; k < field->rank; k++)
      if (field->dims[k] < 0)
        return g_strdup_printf ("member=fields, field=%s, reason=an open axis", field->name);
    if (field->rank < 1 || field->dtype == KD_UTF8)
      return g_strdup_printf ("member=fields, field=%s, reason=not rows of numbers", field->name);
  }
  if (!is_key (manifest->layout, "sample.id") || !is_key (manifest->layout, "sample.view"))
    return g_strdup ("member=fields, wanted=sample.id=int64 and sample.view=int64 among them");
  return kd_cache_encodings_check (manifest->encodings, manifest->layout);
}

/* What is there has to be right; a manifest without it, of an older version or edited by hand, is taken as it is. (transfer full) or NULL. */
static gchar *
check_sum (const gchar *text, gsize size, JsonObject *root)
{
  const gchar *begin = KD_CACHE_MANIFEST_BEGIN KD_CACHE_MANIFEST_SUM;
  gsize n = strlen (begin), head = n + strlen ("01234567\",\n");
  g_autofree gchar *found = NULL;

  if (!json_object_has_member (root, "checksum"))
    return NULL;
  if (size < head || memcmp (text, begin, n) != 0)
    return g_strdup ("member=checksum, reason=not the first line; a manifest that was edited must not have it");
  found = g_strdup_printf ("%08x\",\n", kd_crc32c (0, text + head, size - head));
  if (memcmp (found, text + n, strlen (found)) == 0)
    return NULL;
  return g_strdup_printf ("member=checksum, value=\"%.8s\", found=%.8s, reason=damaged, or edited: then take the line out; or make it again with kd cache repair", text + n, found);
}

KdCacheManifest *
kd_cache_manifest_parse (const gchar *text, gssize size, const gchar *path, GError **error)
{
  g_autoptr (JsonParser) parser = json_parser_new_immutable ();
  g_autoptr (KdCacheManifest) manifest = kd_cache_manifest_new ();
  g_autoptr (GError) why = NULL;
  g_autofree gchar *wrong = NULL, *valid = NULL;
  const gchar *fault;
  JsonNode *root;

  if (!g_utf8_validate (text, size, NULL))
    wrong = g_strdup ("reason=not UTF-8");
  else if ((fault = kd_json_fault (text, size < 0 ? strlen (text) : (gsize) size)))
    wrong = g_strdup_printf ("reason=%s", fault);
  if (!wrong && !json_parser_load_from_data (parser, text, size, &why))
    wrong = g_strdup_printf ("reason=%s", why->message);
  root = wrong ? NULL : json_parser_get_root (parser);
  if (!wrong && (!root || !JSON_NODE_HOLDS_OBJECT (root)))
    wrong = g_strdup ("reason=not a JSON object");
  if (!wrong)
    wrong = check_sum (text, size < 0 ? strlen (text) : (gsize) size, json_node_get_object (root));
  if (!wrong)
    wrong = parse_root (json_node_get_object (root), manifest);
  if (!wrong)
    return g_steal_pointer (&manifest);
  valid = g_utf8_make_valid (wrong, -1); /* json-glib cuts words in the middle of a letter */
  g_set_error (error, KD_ERROR, KD_ERROR_SCHEMA, "Cannot read cache manifest: path=\"%s\", %s", path, valid);
  return NULL;
}
