/* What is damaged leaves the cache; what is good stays. The order makes a crash at any instant harmless: a bad part is first linked into the
 * quarantine, then the manifest is replaced, then its name in the folder goes. */
#include "kd-cache-copy.h"

#include <errno.h>
#include <glib/gstdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#define QUARANTINE "quarantine"
#define REPORT "lost.txt"

static void
loss_free (gpointer data)
{
  KdCacheLoss *loss = data;

  g_free (loss->file);
  g_free (loss->reason);
  g_free (loss);
}

void
kd_cache_repair_free (KdCacheRepair *repair)
{
  g_ptr_array_unref (repair->losses);
  g_free (repair->rebuilt);
  g_free (repair);
}

static void
lose (KdCacheRepair *repair, const KdCachePart *part, const gchar *folder, const gchar *reason)
{
  g_autofree gchar *path = g_build_filename (folder, part->file, NULL);
  KdCacheLoss *loss = g_new0 (KdCacheLoss, 1);

  *loss = (KdCacheLoss) { g_strdup (part->file), g_strdup (reason), part->rows, part->first_id, part->last_id, part->stride, part->view,
    g_file_test (path, G_FILE_TEST_EXISTS) };
  g_ptr_array_add (repair->losses, loss);
}

/* Rows done before the part that is being checked. */
typedef struct {
  const KdCacheCopyOptions *options;
  gint64 before, total;
} Progress;

static void
part_progress (gint64 done, gint64 total, gpointer user_data)
{
  const Progress *progress = user_data;

  if (progress->options->progress)
    progress->options->progress (MIN (progress->before + done, progress->total), progress->total, progress->options->user_data);
}

/* A key that two parts have: the later one goes. Seldom, so it may cost a search for each row. */
static void
drop_doubles (KdCacheManifest *manifest, const gchar *path, const gchar *folder, KdCacheRepair *repair)
{
  g_autoptr (KdCacheIndex) before = kd_cache_index_new ();

  for (guint i = 0; i < manifest->parts->len; i++) {
    KdCachePart *part = g_ptr_array_index (manifest->parts, i);
    g_autofree gchar *file = kd_cache_part_path (path, part);
    g_autoptr (KdH5Reader) reader = kd_h5_reader_open_full (file, NULL, FALSE, NULL);
    g_autoptr (KdTensor) ids = reader ? kd_h5_reader_read_all (reader, "sample.id", NULL) : NULL;
    g_autoptr (KdTensor) views = ids ? kd_h5_reader_read_all (reader, "sample.view", NULL) : NULL;
    gboolean twice = FALSE;
    for (gint64 k = 0; views && !twice && k < part->rows; k++)
      twice = kd_cache_index_find (before, ((gint64 *) ids->data)[k], ((gint64 *) views->data)[k]) >= 0;
    if (views && !twice) {
      kd_cache_index_add_keys (before, part->rows, ids->data, views->data, part->first_row);
      continue;
    }
    lose (repair, part, folder, "it has a row that a part before has too");
    g_ptr_array_remove_index (manifest->parts, i--);
  }
}

static void
count_rows (KdCacheManifest *manifest)
{
  manifest->n_rows = 0;
  for (guint i = 0; i < manifest->parts->len; i++) {
    KdCachePart *part = g_ptr_array_index (manifest->parts, i);
    part->first_row = manifest->n_rows;
    manifest->n_rows += part->rows;
  }
}

static gboolean
check_parts (KdCacheManifest *manifest, const gchar *path, const gchar *folder, const KdCacheCopyOptions *options, KdCacheRepair *repair, GError **error)
{
  g_autoptr (KdCacheIndex) index = kd_cache_index_new ();
  Progress progress = { options, 0, manifest->n_rows };
  gint64 id, view;

  for (guint i = 0; i < manifest->parts->len; i++) {
    KdCachePart *part = g_ptr_array_index (manifest->parts, i);
    g_autofree gchar *file = kd_cache_part_path (path, part);
    g_autoptr (GError) fault = NULL;
    if (g_cancellable_set_error_if_cancelled (options->cancellable, error))
      return FALSE;
    progress.before = part->first_row = 0;
    if (!kd_cache_part_check (manifest, part, file, index, part_progress, &progress, &fault)) {
      lose (repair, part, folder, fault->message);
      g_ptr_array_remove_index (manifest->parts, i--);
    }
  }
  if (kd_cache_index_duplicate (index, &id, &view))
    drop_doubles (manifest, path, folder, repair);
  count_rows (manifest);
  return TRUE;
}

static gchar *
loss_text (const KdCacheLoss *loss)
{
  if (loss->n_rows == 0)
    return g_strdup_printf ("%s  rows=unknown  %s\n", loss->file, loss->reason);
  return g_strdup_printf ("%s  rows=%" G_GINT64_FORMAT "  ids=%" G_GINT64_FORMAT "..%" G_GINT64_FORMAT "  stride=%" G_GINT64_FORMAT "  view=%" G_GINT64_FORMAT "  %s\n",
      loss->file, loss->n_rows, loss->first_id, loss->last_id, loss->stride, loss->view, loss->reason);
}

static gboolean
same_file (const gchar *a, const gchar *b)
{
  struct stat x, y;

  return stat (a, &x) == 0 && stat (b, &y) == 0 && x.st_dev == y.st_dev && x.st_ino == y.st_ino;
}

/* (transfer full) the name of @file in the quarantine: its own, or with the first free number; one that it has already. */
static gchar *
quarantine_name (const gchar *source, const gchar *quarantine, const gchar *file)
{
  gchar *name = g_build_filename (quarantine, file, NULL);

  for (guint i = 1; g_file_test (name, G_FILE_TEST_EXISTS) && !same_file (source, name); i++) {
    g_free (name);
    name = g_strdup_printf ("%s/%s.%u", quarantine, file, i);
  }
  return name;
}

static gboolean
fail (const gchar *path, const gchar *reason, GError **error)
{
  g_set_error (error, KD_ERROR, KD_ERROR_IO, "Cannot repair: path=\"%s\", reason=%s", path, reason);
  return FALSE;
}

static gboolean
quarantine_losses (const KdCacheRepair *repair, const gchar *path, const gchar *folder, GError **error)
{
  g_autofree gchar *quarantine = g_build_filename (folder, QUARANTINE, NULL), *report = g_build_filename (quarantine, REPORT, NULL), *before = NULL;
  g_autoptr (GString) text = g_string_new (NULL);
  g_autoptr (GError) why = NULL;

  if (repair->losses->len == 0)
    return TRUE;
  if (g_mkdir_with_parents (quarantine, 0777) < 0)
    return fail (path, g_strerror (errno), error);
  if (g_file_get_contents (report, &before, NULL, NULL))
    g_string_append (text, before);
  for (guint i = 0; i < repair->losses->len; i++) {
    const KdCacheLoss *loss = g_ptr_array_index (repair->losses, i);
    g_autofree gchar *source = g_build_filename (folder, loss->file, NULL), *line = loss_text (loss);
    g_autofree gchar *target = quarantine_name (source, quarantine, loss->file);
    if (!strstr (text->str, line))
      g_string_append (text, line);
    if (loss->quarantined && link (source, target) < 0 && errno != EEXIST)
      return fail (path, g_strerror (errno), error);
  }
  return g_file_set_contents (report, text->str, -1, &why) || fail (path, why->message, error);
}

/* Names in the folder that the quarantine has too: also those of a repair that was killed. */
static void
remove_names (const KdCacheManifest *manifest, const gchar *folder)
{
  g_autofree gchar *quarantine = g_build_filename (folder, QUARANTINE, NULL);
  g_autoptr (GDir) dir = g_dir_open (quarantine, 0, NULL);
  g_autoptr (GHashTable) named = g_hash_table_new (g_str_hash, g_str_equal);
  const gchar *name;

  for (guint i = 0; i < manifest->parts->len; i++)
    g_hash_table_add (named, ((KdCachePart *) g_ptr_array_index (manifest->parts, i))->file);
  while (dir && (name = g_dir_read_name (dir))) {
    g_autofree gchar *file = g_strndup (name, strstr (name, ".h5") ? (gsize) (strstr (name, ".h5") - name) + 3 : strlen (name));
    g_autofree gchar *source = g_build_filename (folder, file, NULL), *target = g_build_filename (quarantine, name, NULL);
    if (!g_hash_table_contains (named, file) && same_file (source, target))
      unlink (source);
    if (g_str_has_prefix (name, REPORT "."))
      unlink (target); /* a report that was being written */
  }
}

static gboolean
write_repair (KdCacheManifest *manifest, const gchar *path, const gchar *folder, const KdCacheRepair *repair, GError **error)
{
  if (repair->losses->len || repair->rebuilt)
    manifest->complete = FALSE;
  kd_cache_sweep (path, NULL);
  if (!quarantine_losses (repair, path, folder, error) || !kd_cache_manifest_save (manifest, path, error))
    return FALSE;
  remove_names (manifest, folder);
  return kd_cache_write_master (manifest, path, TRUE, error);
}

KdCacheRepair *
kd_cache_repair (const gchar *path, gboolean dry_run, const KdCacheCopyOptions *options, GError **error)
{
  g_autofree gchar *folder = kd_cache_folder (path);
  g_autoptr (KdCacheManifest) manifest = NULL;
  g_autoptr (KdCacheRepair) repair = g_new0 (KdCacheRepair, 1);
  g_autoptr (GError) why = NULL;
  gboolean good;
  int lock;

  repair->losses = g_ptr_array_new_with_free_func (loss_free);
  if (!g_file_test (folder, G_FILE_TEST_IS_DIR)) {
    g_set_error (error, KD_ERROR, g_file_test (path, G_FILE_TEST_EXISTS) ? KD_ERROR_UNSUPPORTED : KD_ERROR_IO, "Cannot repair: path=\"%s\", reason=there is no folder %s; a packed file is made again with kd cache pack", path, folder);
    return NULL;
  }
  lock = kd_cache_lock (path, error);
  if (lock < 0)
    return NULL;
  manifest = kd_cache_manifest_load (path, &why);
  if (!manifest) {
    repair->rebuilt = g_strdup (why->message);
    manifest = kd_cache_rebuild (path, folder, error);
  }
  good = manifest && check_parts (manifest, path, folder, options, repair, error) && (dry_run || write_repair (manifest, path, folder, repair, error));
  kd_cache_unlock (path, lock);
  if (!good)
    return NULL;
  repair->n_rows = manifest->n_rows;
  repair->n_parts = manifest->parts->len;
  repair->identity_known = manifest->identity.teacher || manifest->identity.dataset;
  return g_steal_pointer (&repair);
}
