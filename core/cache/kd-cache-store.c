/* Where the manifest is, printing and replacing it; identities. */
#include "kd-cache-private.h"

#include "../math/kd-crc32c.h"

#include <errno.h>
#include <fcntl.h>
#include <json-glib/json-glib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#define MAX_MANIFEST_BYTES ((gint64) 256 << 20)

gchar *
kd_cache_folder (const gchar *path)
{
  return g_strconcat (path, ".parts", NULL);
}

gchar *
kd_cache_part_path (const gchar *path, const KdCachePart *part)
{
  g_autofree gchar *folder = kd_cache_folder (path);

  /* A packed cache is its own part. */
  return part->file ? g_build_filename (folder, part->file, NULL) : g_strdup (path);
}

void
kd_cache_identity_clear (KdCacheIdentity *identity)
{
  g_clear_pointer (&identity->teacher, g_free);
  g_clear_pointer (&identity->teacher_spec, g_free);
  g_clear_pointer (&identity->dataset, g_free);
  g_clear_pointer (&identity->dataset_spec, g_free);
  g_clear_pointer (&identity->preprocessing, g_free);
}

void
kd_cache_identity_copy (const KdCacheIdentity *from, KdCacheIdentity *to)
{
  to->teacher = g_strdup (from->teacher);
  to->teacher_spec = g_strdup (from->teacher_spec);
  to->dataset = g_strdup (from->dataset);
  to->dataset_spec = g_strdup (from->dataset_spec);
  to->preprocessing = g_strdup (from->preprocessing);
}

static gboolean
differ (const gchar *path, const gchar *what, const gchar *have, const gchar *have_spec, const gchar *wanted,
    const gchar *wanted_spec, GError **error)
{
  if (!have || !wanted || g_str_equal (have, wanted))
    return FALSE;
  g_set_error (error, KD_ERROR, KD_ERROR_MISMATCH, "Cache is of another %s: path=\"%s\", cache=%.12s (%s), now=%.12s (%s); write a "
                                                   "new cache, or go back to the %s it was made with",
      what, path, have, have_spec ? have_spec : "no description", wanted,
      wanted_spec ? wanted_spec : "no description", what);
  return TRUE;
}

gboolean
kd_cache_check_identity (const gchar *path, const KdCacheIdentity *have, const KdCacheIdentity *wanted, GError **error)
{
  const gchar *before = have->preprocessing, *now = wanted->preprocessing;

  if (differ (path, "teacher", have->teacher, have->teacher_spec, wanted->teacher, wanted->teacher_spec, error) ||
      differ (path, "dataset", have->dataset, have->dataset_spec, wanted->dataset, wanted->dataset_spec, error))
    return FALSE;
  if (!before || !now || g_str_equal (before, now))
    return TRUE;
  g_set_error (error, KD_ERROR, KD_ERROR_MISMATCH, "Cache is of another preprocessing: path=\"%s\", cache=\"%s\", now=\"%s\"; write "
                                                   "a new cache, or put the same elements before it",
      path, before, now);
  return FALSE;
}

gsize
kd_cache_row_bytes (const KdLayout *layout)
{
  gsize bytes = 0;

  for (guint i = 0; layout && i < kd_layout_n_fields (layout); i++) {
    const KdLayoutField *field = kd_layout_nth (layout, i);
    gsize row = kd_dtype_size (field->dtype);
    for (guint k = 1; k < field->rank; k++)
      row *= (gsize) MAX (field->dims[k], 0);
    bytes += row;
  }
  return bytes;
}

static void
add_string (JsonBuilder *builder, const gchar *name, const gchar *value)
{
  if (!value)
    return;
  json_builder_set_member_name (builder, name);
  json_builder_add_string_value (builder, value);
}

static void
add_int (JsonBuilder *builder, const gchar *name, gint64 value)
{
  json_builder_set_member_name (builder, name);
  json_builder_add_int_value (builder, value);
}

static void
add_part (JsonBuilder *builder, const KdCachePart *part)
{
  g_autofree gchar *sum = g_strdup_printf ("%08x", part->checksum);

  json_builder_begin_object (builder);
  add_string (builder, "file", part->file);
  add_int (builder, "rows", part->rows);
  add_int (builder, "bytes", part->bytes);
  add_int (builder, "first-id", part->first_id);
  add_int (builder, "last-id", part->last_id);
  add_int (builder, "stride", part->stride);
  add_int (builder, "view", part->view);
  add_string (builder, "checksum", sum);
  json_builder_end_object (builder);
}

static void
add_number (JsonBuilder *builder, const gchar *name, gdouble value)
{
  json_builder_set_member_name (builder, name);
  json_builder_add_double_value (builder, value);
}

/* "dense" is what every version reads; a cache that has to be decoded says so where an old one looks. */
static void
add_encodings (JsonBuilder *builder, const KdCacheManifest *manifest)
{
  gboolean coded = FALSE;

  for (guint i = 0; i < manifest->encodings->len; i++)
    coded |= kd_cache_encoding_is_coded (g_ptr_array_index (manifest->encodings, i));
  add_string (builder, "encoding", coded ? "coded" : "dense");
  if (manifest->encodings->len == 0)
    return;
  json_builder_set_member_name (builder, "encodings");
  json_builder_begin_array (builder);
  for (guint i = 0; i < manifest->encodings->len; i++) {
    const KdCacheEncoding *encoding = g_ptr_array_index (manifest->encodings, i);
    json_builder_begin_object (builder);
    add_string (builder, "field", encoding->field);
    add_string (builder, "encoding", encoding->name);
    add_int (builder, "rows", encoding->n_rows);
    add_number (builder, "max-error", encoding->max_error);
    add_number (builder, "mean-error", encoding->mean_error);
    if (encoding->max_tail >= 0) {
      add_number (builder, "max-tail", encoding->max_tail);
      add_number (builder, "mean-tail", encoding->mean_tail);
    }
    if (encoding->size) {
      add_int (builder, "universe", encoding->universe);
      add_int (builder, "size", encoding->size);
    }
    json_builder_end_object (builder);
  }
  json_builder_end_array (builder);
}

/* (transfer full) the first line, which sums all that follows: a flipped digit must not become another number of rows. */
static gchar *
add_checksum (const gchar *text)
{
  const gchar *rest = text + strlen (KD_CACHE_MANIFEST_BEGIN);

  return g_strdup_printf (KD_CACHE_MANIFEST_BEGIN KD_CACHE_MANIFEST_SUM "%08x\",\n%s", kd_crc32c (0, rest, strlen (rest)), rest);
}

gchar *
kd_cache_manifest_print (const KdCacheManifest *manifest)
{
  g_autoptr (JsonBuilder) builder = json_builder_new ();
  g_autoptr (JsonGenerator) generator = json_generator_new ();
  g_autoptr (JsonNode) root = NULL;
  g_autofree gchar *fields = manifest->layout ? kd_layout_to_string (manifest->layout) : g_strdup (""), *text = NULL;

  json_builder_begin_object (builder);
  add_string (builder, "schema", KD_CACHE_SCHEMA);
  add_string (builder, "created-by", manifest->created_by);
  json_builder_set_member_name (builder, "complete");
  json_builder_add_boolean_value (builder, manifest->complete);
  add_encodings (builder, manifest);
  add_string (builder, "fields", fields);
  add_int (builder, "rows", manifest->n_rows);
  add_int (builder, "block-rows", manifest->block_rows);
  json_builder_set_member_name (builder, "identity");
  json_builder_begin_object (builder);
  add_string (builder, "teacher", manifest->identity.teacher);
  add_string (builder, "teacher-spec", manifest->identity.teacher_spec);
  add_string (builder, "dataset", manifest->identity.dataset);
  add_string (builder, "dataset-spec", manifest->identity.dataset_spec);
  add_string (builder, "preprocessing", manifest->identity.preprocessing);
  json_builder_end_object (builder);
  json_builder_set_member_name (builder, "parts");
  json_builder_begin_array (builder);
  for (guint i = 0; i < manifest->parts->len; i++)
    add_part (builder, g_ptr_array_index (manifest->parts, i));
  json_builder_end_array (builder);
  json_builder_end_object (builder);
  root = json_builder_get_root (builder);
  json_generator_set_root (generator, root);
  json_generator_set_pretty (generator, TRUE);
  text = json_generator_to_data (generator, NULL);
  return add_checksum (text);
}

/* FALSE with errno. */
static gboolean
write_file (const gchar *path, const gchar *text)
{
  int fd = open (path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0666), saved;
  gboolean good = fd >= 0 && kd_h5_write_at (fd, text, strlen (text), 0);

  saved = errno;
  if (fd >= 0 && close (fd) < 0 && good)
    return FALSE;
  errno = saved;
  return good;
}

gboolean
kd_cache_manifest_save (const KdCacheManifest *manifest, const gchar *path, GError **error)
{
  g_autofree gchar *folder = kd_cache_folder (path), *text = kd_cache_manifest_print (manifest);
  g_autofree gchar *target = g_build_filename (folder, KD_CACHE_MANIFEST, NULL);
  g_autofree gchar *temporary = g_strdup_printf ("%s/.%s.partial-%d", folder, KD_CACHE_MANIFEST, (int) getpid ());

  if (!kd_h5_reserve (target, -1, strlen (text), error))
    return FALSE;
  if (!write_file (temporary, text)) {
    int saved = errno;
    unlink (temporary);
    g_set_error (error, KD_ERROR, KD_ERROR_IO, "Cannot write: path=\"%s\", reason=%s", target, g_strerror (saved));
    return FALSE;
  }
  return kd_h5_publish (temporary, target, error);
}

/* (transfer full) the cache that @path is the parts folder or a part of, or NULL: people see both and try them. */
static gchar *
owner_of (const gchar *path)
{
  g_autofree gchar *trimmed = g_strdup (path), *folder = NULL;

  while (strlen (trimmed) > 1 && g_str_has_suffix (trimmed, "/"))
    trimmed[strlen (trimmed) - 1] = '\0';
  folder = g_str_has_suffix (trimmed, ".parts") ? g_strdup (trimmed) : g_path_get_dirname (trimmed);
  return g_str_has_suffix (folder, ".parts") && g_file_test (folder, G_FILE_TEST_IS_DIR) ? g_strndup (folder, strlen (folder) - strlen (".parts")) : NULL;
}

/* A file that `kd cache pack` made: the manifest is an attribute, the rows are its own. */
static KdCacheManifest *
load_packed (const gchar *path, GError **error)
{
  g_autoptr (KdH5Reader) reader = kd_h5_reader_open_full (path, NULL, FALSE, error);
  const gchar *text = reader ? kd_h5_reader_attribute (reader, KD_CACHE_ATTRIBUTE) : NULL;
  KdCacheManifest *manifest;
  KdCachePart *part;

  if (!reader)
    return NULL;
  if (!text) {
    g_autofree gchar *owner = owner_of (path);
    if (owner)
      g_set_error (error, KD_ERROR, KD_ERROR_FORMAT, "Not a teacher cache: path=\"%s\", reason=it is inside of a cache; give the cache: \"%s\"", path, owner);
    else
      g_set_error (error, KD_ERROR, KD_ERROR_FORMAT, "Not a teacher cache: path=\"%s\", reason=a batch file: neither %s.parts nor an attribute %s; write one with kdcachesink, or look at the file with kd data info",
          path, path, KD_CACHE_ATTRIBUTE);
    return NULL;
  }
  manifest = kd_cache_manifest_parse (text, -1, path, error);
  if (!manifest)
    return NULL;
  if (manifest->parts->len != 1) {
    kd_cache_manifest_free (manifest);
    g_set_error (error, KD_ERROR, KD_ERROR_SCHEMA, "Cannot read cache manifest: path=\"%s\", member=parts, wanted=one part in a packed "
                                                   "cache",
        path);
    return NULL;
  }
  part = g_ptr_array_index (manifest->parts, 0);
  if (part->rows != kd_h5_reader_n_rows (reader)) {
    g_set_error (error, KD_ERROR, KD_ERROR_SHAPE, "Cannot read cache part: path=\"%s\", rows=%" G_GINT64_FORMAT ", manifest=%" G_GINT64_FORMAT, path,
        kd_h5_reader_n_rows (reader), part->rows);
    kd_cache_manifest_free (manifest);
    return NULL;
  }
  g_clear_pointer (&part->file, g_free);
  part->bytes = (gint64) kd_h5_reader_size (reader);
  return manifest;
}

static KdCacheManifest *
refuse_open (const gchar *path, const gchar *folder, const GError *why, GError **error)
{
  g_autofree gchar *owner = owner_of (path);

  if (g_file_test (folder, G_FILE_TEST_IS_DIR))
    g_set_error (error, KD_ERROR, KD_ERROR_IO, "Cannot open cache: path=\"%s\", reason=%s; %s", path, why->message,
        g_error_matches (why, G_FILE_ERROR, G_FILE_ERROR_NOENT) ? "make the manifest again from the parts with kd cache repair" : "let this user read it");
  else if (owner)
    g_set_error (error, KD_ERROR, KD_ERROR_IO, "Cannot open cache: path=\"%s\", reason=it is inside of a cache; give the cache: \"%s\"", path, owner);
  else if (g_file_test (path, G_FILE_TEST_IS_DIR))
    g_set_error (error, KD_ERROR, KD_ERROR_IO, "Cannot open cache: path=\"%s\", reason=a folder; give the name that kdcachesink was given (location=), whose parts are in NAME.parts", path);
  else
    g_set_error (error, KD_ERROR, KD_ERROR_IO, "Cannot open cache: path=\"%s\", reason=neither \"%s\" nor \"%s\" is there; correct the name, or write it with kdcachesink", path, path, folder);
  return NULL;
}

KdCacheManifest *
kd_cache_manifest_load (const gchar *path, GError **error)
{
  g_autofree gchar *folder = kd_cache_folder (path), *text = NULL;
  g_autofree gchar *source = g_build_filename (folder, KD_CACHE_MANIFEST, NULL);
  g_autoptr (GError) why = NULL;
  struct stat info;
  gsize size = 0;

  if (stat (source, &info) < 0 && errno == ENOENT && g_file_test (path, G_FILE_TEST_IS_REGULAR) &&
      !g_file_test (folder, G_FILE_TEST_IS_DIR))
    return load_packed (path, error);
  if (stat (source, &info) == 0 && info.st_size > MAX_MANIFEST_BYTES) {
    g_set_error (error, KD_ERROR, KD_ERROR_SCHEMA, "Cannot read cache manifest: path=\"%s\", bytes=%" G_GINT64_FORMAT ", wanted=at most %" G_GINT64_FORMAT, source, (gint64) info.st_size, MAX_MANIFEST_BYTES);
    return NULL;
  }
  if (!g_file_get_contents (source, &text, &size, &why))
    return refuse_open (path, folder, why, error);
  return kd_cache_manifest_parse (text, (gssize) size, source, error);
}

void
kd_cache_reader_info (const KdCacheReader *reader, KdCacheInfo *ret_info)
{
  const KdCacheManifest *manifest = kd_cache_reader_manifest (reader);

  *ret_info = (KdCacheInfo) { .created_by = manifest->created_by, .n_parts = manifest->parts->len, .last_id = -1, .row_bytes = (gint64) kd_cache_row_bytes (manifest->layout), .block_rows = manifest->block_rows };
  for (guint i = 0; i < manifest->parts->len; i++) {
    const KdCachePart *part = g_ptr_array_index (manifest->parts, i);
    ret_info->packed |= part->file == NULL;
    ret_info->bytes += part->bytes;
    ret_info->first_id = i ? MIN (ret_info->first_id, part->first_id) : part->first_id;
    ret_info->last_id = i ? MAX (ret_info->last_id, part->last_id) : part->last_id;
  }
}
