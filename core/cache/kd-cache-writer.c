/* KdCacheWriter: opening a cache for writing, new or to go on with. Rows: kd-cache-append.c. */
#include "kd-cache-copy.h"

#include <errno.h>
#include <fcntl.h>
#include <glib/gstdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

guint
kd_cache_field_index (const KdCacheManifest *manifest, const gchar *name)
{
  guint i = 0;

  while (!g_str_equal (kd_layout_nth (manifest->layout, i)->name, name))
    i++;
  return i;
}

static void
free_columns (const KdCacheWriter *writer, KdCacheColumn *columns)
{
  for (guint i = 0; columns && i < kd_layout_n_fields (writer->manifest->layout); i++)
    free (columns[i].data);
  g_free (columns);
}

void
kd_cache_writer_close (KdCacheWriter *writer)
{
  kd_cache_writer_land (writer, NULL);
  free_columns (writer, writer->columns);
  free_columns (writer, writer->spare);
  g_clear_error (&writer->broken);
  g_clear_pointer (&writer->pending, g_hash_table_unref);
  g_clear_pointer (&writer->measured, g_ptr_array_unref);
  g_clear_pointer (&writer->index, kd_cache_index_free);
  g_clear_pointer (&writer->manifest, kd_cache_manifest_free);
  kd_cache_unlock (writer->path, writer->lock);
  g_free (writer->folder);
  g_free (writer->path);
  g_free (writer);
}

static gboolean
fail_open (const gchar *path, const gchar *reason, GError **error)
{
  g_set_error (error, KD_ERROR, KD_ERROR_IO, "Cannot write cache: path=\"%s\", reason=%s", path, reason);
  return FALSE;
}

/* Files that never got their final name. */
static void
sweep_partial (const gchar *folder, const gchar *prefix)
{
  g_autoptr (GDir) dir = g_dir_open (folder, 0, NULL);
  const gchar *name;

  while (dir && (name = g_dir_read_name (dir))) {
    g_autofree gchar *path = g_build_filename (folder, name, NULL);
    if (g_str_has_prefix (name, prefix) && strstr (name, ".partial-"))
      unlink (path);
  }
}

/* And parts that no manifest names (overwritten when their number comes up, so they cost only room; but a smaller cache must not
 * keep them). */
void
kd_cache_sweep (const gchar *path, const KdCacheManifest *manifest)
{
  g_autoptr (GHashTable) named = g_hash_table_new (g_str_hash, g_str_equal);
  g_autofree gchar *folder = kd_cache_folder (path), *beside = g_path_get_dirname (path), *base = g_path_get_basename (path);
  g_autofree gchar *prefix = g_strdup_printf (".%s.partial-", base);
  g_autoptr (GDir) dir = manifest ? g_dir_open (folder, 0, NULL) : NULL;
  const gchar *name;

  sweep_partial (folder, ".");
  sweep_partial (beside, prefix);
  for (guint i = 0; manifest && i < manifest->parts->len; i++)
    g_hash_table_add (named, ((KdCachePart *) g_ptr_array_index (manifest->parts, i))->file);
  while (dir && (name = g_dir_read_name (dir))) {
    g_autofree gchar *part = g_build_filename (folder, name, NULL);
    if (g_ascii_isdigit (*name) && g_str_has_suffix (name, ".h5") && !g_hash_table_contains (named, name))
      unlink (part);
  }
}

/* The rows of a part of the cache at @path: for has. */
static gboolean
index_part (KdCacheWriter *writer, const KdCacheManifest *manifest, const gchar *cache, const KdCachePart *part, GError **error)
{
  g_autofree gchar *path = kd_cache_part_path (cache, part);
  g_autoptr (KdTensor) ids = NULL, views = NULL;
  KdCacheFile *file = kd_cache_file_open (manifest, part, path, FALSE, error);

  if (!file)
    return FALSE;
  if (part->stride > 0) {
    kd_cache_index_add_run (writer->index, part);
  } else {
    ids = kd_h5_reader_read_all (file->reader, "sample.id", error);
    views = ids ? kd_h5_reader_read_all (file->reader, "sample.view", error) : NULL;
    if (views)
      kd_cache_index_add_keys (writer->index, part->rows, ids->data, views->data, part->first_row);
  }
  kd_cache_file_close (file);
  return part->stride > 0 || views;
}

void
kd_cache_writer_make_columns (KdCacheWriter *writer)
{
  guint n = kd_layout_n_fields (writer->manifest->layout);

  writer->columns = g_new0 (KdCacheColumn, n);
  for (guint i = 0; i < n; i++) {
    const KdLayoutField *field = kd_layout_nth (writer->manifest->layout, i);
    writer->columns[i].row_bytes = kd_dtype_size (field->dtype);
    for (guint k = 1; k < field->rank; k++)
      writer->columns[i].row_bytes *= (gsize) field->dims[k];
  }
}

static gboolean
go_on (KdCacheWriter *writer, const KdCacheIdentity *identity, GError **error)
{
  KdCacheManifest *manifest = kd_cache_manifest_load (writer->path, error);
  KdCacheIdentity *have = manifest ? &manifest->identity : NULL;

  if (!manifest)
    return FALSE;
  g_clear_pointer (&writer->manifest, kd_cache_manifest_free);
  writer->manifest = manifest;
  writer->n_committed = manifest->n_rows;
  if (identity && !kd_cache_check_identity (writer->path, have, identity, error))
    return FALSE;
  writer->next_number = kd_cache_manifest_next (manifest);
  for (guint i = 0; i < manifest->parts->len; i++)
    if (!index_part (writer, manifest, writer->path, g_ptr_array_index (manifest->parts, i), error))
      return FALSE;
  if (manifest->layout)
    kd_cache_writer_make_columns (writer);
  return TRUE;
}

/* A cache without rows is to be stored as its neighbour is: then they can be one. */
static void
be_like (KdCacheWriter *writer, const KdCacheManifest *other)
{
  writer->manifest->layout = kd_layout_copy (other->layout);
  writer->manifest->block_rows = other->block_rows;
  g_ptr_array_unref (writer->manifest->encodings);
  writer->manifest->encodings = kd_cache_encodings_copy (other->encodings, FALSE);
  kd_cache_writer_make_columns (writer);
}

gboolean
kd_cache_writer_know (KdCacheWriter *writer, const gchar *path, GError **error)
{
  g_autoptr (KdCacheManifest) other = kd_cache_manifest_load (path, error);

  if (!other || !kd_cache_manifest_fits (writer->manifest, writer->path, other, path, error))
    return FALSE;
  for (guint i = 0; i < other->parts->len; i++)
    if (!index_part (writer, other, path, g_ptr_array_index (other->parts, i), error))
      return FALSE;
  if (other->layout && !writer->manifest->layout)
    be_like (writer, other);
  return TRUE;
}

/* Who has the lock, for those who are refused; the lock itself is the kernel's, and goes with its process. */
static gchar *
holder_file (const gchar *path)
{
  g_autofree gchar *folder = kd_cache_folder (path);

  return g_build_filename (folder, ".writer", NULL);
}

/* Of no use to this process: that it cannot be written, on a full disk, is no reason to stop. */
static void
name_holder (const gchar *path)
{
  g_autofree gchar *file = holder_file (path);
  g_autofree gchar *text = g_strdup_printf ("%d (%s) on %s", (int) getpid (), g_get_prgname () ? g_get_prgname () : "no name", g_get_host_name ());
  int fd = open (file, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0666);

  if (fd < 0)
    return;
  kd_h5_write_at (fd, text, strlen (text), 0);
  close (fd);
}

static void
fail_locked (const gchar *path, GError **error)
{
  g_autofree gchar *file = holder_file (path), *reason = NULL;
  gchar holder[256] = "";
  int fd = open (file, O_RDONLY | O_CLOEXEC);
  gssize n = fd < 0 ? 0 : pread (fd, holder, sizeof holder - 1, 0);

  if (fd >= 0)
    close (fd);
  if (n > 0 && g_utf8_validate (holder, n, NULL))
    reason = g_strdup_printf ("another process is writing it: %s; wait until it is done", holder);
  fail_open (path, reason ? reason : "another process is writing it; wait until it is done", error);
}

int
kd_cache_lock (const gchar *path, GError **error)
{
  g_autofree gchar *folder = kd_cache_folder (path);
  int lock;

  if (g_mkdir_with_parents (folder, 0777) < 0) {
    fail_open (path, g_strerror (errno), error);
    return -1;
  }
  lock = open (folder, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
  if (lock < 0) {
    fail_open (path, g_strerror (errno), error);
    return -1;
  }
  if (flock (lock, LOCK_EX | LOCK_NB) < 0 && errno == EWOULDBLOCK) {
    fail_locked (path, error);
    close (lock);
    return -1;
  }
  name_holder (path);
  return lock;
}

void
kd_cache_unlock (const gchar *path, int lock)
{
  g_autofree gchar *file = holder_file (path);

  if (lock < 0)
    return;
  unlink (file);
  close (lock);
}

static gboolean
writer_start (KdCacheWriter *writer, gboolean resume, const KdCacheIdentity *identity, GError **error)
{
  g_autofree gchar *manifest = g_build_filename (writer->folder, KD_CACHE_MANIFEST, NULL);
  gboolean there = g_file_test (manifest, G_FILE_TEST_EXISTS);

  if (there && !resume)
    return fail_open (writer->path, "a cache is there already; go on with it (resume=true), or remove it and its .parts folder", error);
  if (!there && g_file_test (writer->path, G_FILE_TEST_EXISTS))
    return fail_open (writer->path, "a file of that name is there, and it is no cache that can be gone on with", error);
  writer->lock = kd_cache_lock (writer->path, error);
  if (writer->lock < 0)
    return FALSE;
  if (there && !go_on (writer, identity, error))
    return FALSE;
  if (!there && identity)
    kd_cache_identity_copy (identity, &writer->manifest->identity);
  kd_cache_sweep (writer->path, writer->manifest);
  return TRUE;
}

KdCacheWriter *
kd_cache_writer_open (const gchar *path, gboolean resume, const KdCacheIdentity *identity, gsize part_bytes, GError **error)
{
  KdCacheWriter *writer = g_new0 (KdCacheWriter, 1);

  writer->path = g_strdup (path);
  writer->folder = kd_cache_folder (path);
  writer->lock = -1;
  writer->part_bytes = MAX (part_bytes, 1);
  writer->manifest = kd_cache_manifest_new ();
  writer->index = kd_cache_index_new ();
  if (writer_start (writer, resume, identity, error))
    return writer;
  kd_cache_writer_close (writer);
  return NULL;
}

gint64
kd_cache_writer_n_committed (KdCacheWriter *writer)
{
  return writer->n_committed;
}

void
kd_cache_writer_expect (KdCacheWriter *writer, gint64 n_rows)
{
  writer->expected = n_rows;
}

gboolean
kd_cache_writer_has (KdCacheWriter *writer, gint64 id, gint64 view)
{
  return kd_cache_index_find (writer->index, id, view) >= 0;
}
