/* A manifest from the parts alone: each holds a copy of it without the list of parts. */
#include "kd-cache-copy.h"

#include <string.h>

/* What an attribute may hold. */
#define MAX_HEADER_BYTES 32768

gboolean
kd_cache_set_header (hid_t file, const KdCacheManifest *manifest)
{
  g_autoptr (KdCacheManifest) header = kd_cache_manifest_like (manifest);
  g_autofree gchar *text = kd_cache_manifest_print (header);

  return strlen (text) > MAX_HEADER_BYTES || kd_h5_set_attribute (file, KD_CACHE_HEADER, text);
}

static gint
by_name (gconstpointer a, gconstpointer b)
{
  return strcmp (*(const gchar *const *) a, *(const gchar *const *) b);
}

static GPtrArray *
list_parts (const gchar *folder)
{
  GPtrArray *names = g_ptr_array_new_with_free_func (g_free);
  g_autoptr (GDir) dir = g_dir_open (folder, 0, NULL);
  const gchar *name;

  while (dir && (name = g_dir_read_name (dir))) {
    gsize digits = strspn (name, "0123456789");
    if (digits >= 5 && digits <= 9 && g_str_equal (name + digits, ".h5"))
      g_ptr_array_add (names, g_strdup (name));
  }
  g_ptr_array_sort (names, by_name);
  return names;
}

/* The last one has seen most of the capture. */
static KdCacheManifest *
find_header (const gchar *folder, const GPtrArray *names)
{
  for (guint i = names->len; i-- > 0;) {
    g_autofree gchar *path = g_build_filename (folder, g_ptr_array_index (names, i), NULL);
    g_autoptr (KdH5Reader) reader = kd_h5_reader_open_full (path, NULL, FALSE, NULL);
    const gchar *text = reader ? kd_h5_reader_attribute (reader, KD_CACHE_HEADER) : NULL;
    KdCacheManifest *manifest = text ? kd_cache_manifest_parse (text, -1, path, NULL) : NULL;
    if (manifest && manifest->layout && manifest->parts->len == 0)
      return manifest;
    g_clear_pointer (&manifest, kd_cache_manifest_free);
  }
  return NULL;
}

static gboolean
sum_checksums (const KdCacheManifest *manifest, const gchar *path, guint32 *ret_sum)
{
  g_autoptr (KdH5Reader) sums = kd_h5_reader_open_full (path, KD_CACHE_CHECKSUMS, FALSE, NULL);

  for (guint i = 0; sums && i < kd_layout_n_fields (manifest->layout); i++) {
    g_autoptr (KdTensor) field = kd_h5_reader_read_all (sums, kd_layout_nth (manifest->layout, i)->name, NULL);
    if (!field)
      return FALSE;
    *ret_sum = kd_cache_sum_sums (*ret_sum, field);
  }
  return sums != NULL;
}

/* (transfer full) what the manifest would say of a file. Whether that is true is for the check of all parts to find out: also a file that
 * cannot be read gets an entry, so that it is reported. */
static KdCachePart *
describe (const KdCacheManifest *manifest, const gchar *folder, const gchar *name)
{
  g_autofree gchar *path = g_build_filename (folder, name, NULL);
  g_autoptr (KdH5Reader) reader = kd_h5_reader_open_full (path, NULL, FALSE, NULL);
  g_autoptr (KdTensor) ids = NULL, views = NULL;
  KdCachePart *part = g_new0 (KdCachePart, 1);

  part->file = g_strdup (name);
  if (!reader || !kd_layout_equal (kd_h5_reader_layout (reader), manifest->layout))
    return part;
  ids = kd_h5_reader_read_all (reader, "sample.id", NULL);
  views = ids ? kd_h5_reader_read_all (reader, "sample.view", NULL) : NULL;
  if (!views || ids->dims[0] < 1 || !sum_checksums (manifest, path, &part->checksum))
    return part;
  part->rows = ids->dims[0];
  part->bytes = (gint64) kd_h5_reader_size (reader);
  kd_cache_describe_keys (part, ids->data, views->data);
  return part;
}

KdCacheManifest *
kd_cache_rebuild (const gchar *path, const gchar *folder, GError **error)
{
  g_autoptr (GPtrArray) names = list_parts (folder);
  g_autoptr (KdCacheManifest) header = find_header (folder, names);
  KdCacheManifest *manifest;

  if (!header) {
    g_set_error (error, KD_ERROR, KD_ERROR_IO, "Cannot repair: path=\"%s\", files=%u, reason=no manifest, and no part that says what it is of; capture again", path, names->len);
    return NULL;
  }
  manifest = kd_cache_manifest_like (header);
  for (guint i = 0; i < names->len; i++)
    kd_cache_manifest_add (manifest, describe (manifest, folder, g_ptr_array_index (names, i)));
  return manifest;
}
