/* Whether two caches can be one: what they were made from, and how they are stored. */
#include "kd-cache-copy.h"

/* (transfer full) a fingerprint's beginning and what people call it. */
static gchar *
describe (const gchar *fingerprint, const gchar *spec)
{
  return fingerprint ? g_strdup_printf ("%.12s (%s)", fingerprint, spec ? spec : "no description") : NULL;
}

/* @a, @b: NULL where unknown, which is not compared. */
static gboolean
agree (const gchar *key, const gchar *a_path, const gchar *a, const gchar *b_path, const gchar *b, GError **error)
{
  if (!a || !b || g_str_equal (a, b))
    return TRUE;
  g_set_error (error, KD_ERROR, KD_ERROR_MISMATCH, "Caches differ in %s: path=\"%s\", %s=%s, other=\"%s\", %s=%s; leave one of them out, or capture its rows again with the %s of the other",
      key, a_path, key, *a ? a : "none", b_path, key, *b ? b : "none", key);
  return FALSE;
}

gboolean
kd_cache_same_identity (const gchar *path, const KdCacheIdentity *identity, const gchar *other_path, const KdCacheIdentity *other, GError **error)
{
  g_autofree gchar *teacher = describe (identity->teacher, identity->teacher_spec), *other_teacher = describe (other->teacher, other->teacher_spec);
  g_autofree gchar *dataset = describe (identity->dataset, identity->dataset_spec), *other_dataset = describe (other->dataset, other->dataset_spec);

  /* The same fingerprint under another description (a file that was moved) is the same. */
  return (g_strcmp0 (identity->teacher, other->teacher) == 0 || agree ("teacher", path, teacher, other_path, other_teacher, error)) &&
      (g_strcmp0 (identity->dataset, other->dataset) == 0 || agree ("dataset", path, dataset, other_path, other_dataset, error)) &&
      agree ("preprocessing", path, identity->preprocessing, other_path, other->preprocessing, error);
}

/* (transfer full) "float16:10, encoding=float16"; "none". */
static gchar *
describe_field (const KdCacheManifest *manifest, const gchar *name)
{
  const KdLayoutField *field = kd_layout_find (manifest->layout, name);
  const KdCacheEncoding *encoding = kd_cache_encoding_find (manifest->encodings, name);
  g_autofree gchar *type = field ? kd_layout_field_string (field) : NULL;

  return field ? g_strdup_printf ("%s, encoding=%s", type, encoding ? encoding->name : "keep") : g_strdup ("none");
}

/* The first field of @a that @b has not, or has in another way. */
static gboolean
same_fields (const KdCacheManifest *a, const gchar *a_path, const KdCacheManifest *b, const gchar *b_path, GError **error)
{
  for (guint i = 0; i < kd_layout_n_fields (a->layout); i++) {
    const gchar *name = kd_layout_nth (a->layout, i)->name;
    g_autofree gchar *mine = describe_field (a, name), *theirs = describe_field (b, name);
    if (g_str_equal (mine, theirs))
      continue;
    g_set_error (error, KD_ERROR, KD_ERROR_SHAPE, "Caches differ in a field: field=%s, path=\"%s\", stored=%s, other=\"%s\", stored=%s; only caches that are stored alike can be one: capture both with the same fields and encoding%s",
        name, a_path, mine, b_path, theirs, g_str_equal (theirs, "none") ? ", or leave the field out with kd cache prune --drop" : "");
    return FALSE;
  }
  return TRUE;
}

gboolean
kd_cache_manifest_fits (const KdCacheManifest *manifest, const gchar *path, const KdCacheManifest *other, const gchar *other_path,
    GError **error)
{
  if (!kd_cache_same_identity (other_path, &other->identity, path, &manifest->identity, error))
    return FALSE;
  if (!manifest->layout || !other->layout)
    return TRUE;
  if (!same_fields (other, other_path, manifest, path, error) || !same_fields (manifest, path, other, other_path, error))
    return FALSE;
  if (manifest->block_rows == other->block_rows && kd_cache_encodings_equal (manifest->encodings, other->encodings))
    return TRUE;
  g_set_error (error, KD_ERROR, KD_ERROR_SHAPE, "Caches differ in how they are stored: path=\"%s\", rows a checksum=%" G_GINT64_FORMAT ", other=\"%s\", rows a checksum=%" G_GINT64_FORMAT "; only caches that are stored alike can be one: capture one of them again",
      other_path, other->block_rows, path, manifest->block_rows);
  return FALSE;
}
