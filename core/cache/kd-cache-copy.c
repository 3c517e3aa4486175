/* A cache out of others' rows: whole parts as they are, others row by row. Rows are taken as they are stored: nothing is encoded twice. */
#define _GNU_SOURCE /* copy_file_range */
#include "kd-cache-copy.h"

#include <errno.h>
#include <fcntl.h>
#include <glib/gstdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define PART_BYTES ((gsize) 64 << 20)
#define STEP_BYTES ((gsize) 4 << 20)
/* The manifest is replaced after so much: each time costs as much as it has parts. */
#define SAVE_BYTES ((gint64) 256 << 20)
#define SAVE_PARTS 64

void
kd_cache_keys_clear (KdCacheKeys *keys)
{
  g_clear_pointer (&keys->ids, g_free);
  g_clear_pointer (&keys->views, g_free);
}

gboolean
kd_cache_reader_part_keys (KdCacheReader *reader, const KdCachePart *part, KdCacheKeys *ret_keys, GError **error)
{
  g_autofree gint64 *rows = g_new (gint64, part->rows);
  g_autoptr (KdTensor) ids = NULL, views = NULL;

  kd_cache_keys_clear (ret_keys);
  for (gint64 i = 0; i < part->rows; i++)
    rows[i] = part->stride > 0 ? part->view : part->first_row + i;
  if (part->stride > 0) {
    ret_keys->views = g_steal_pointer (&rows);
    ret_keys->ids = g_new (gint64, part->rows);
    for (gint64 i = 0; i < part->rows; i++)
      ret_keys->ids[i] = part->first_id + i * part->stride;
    return TRUE;
  }
  ids = kd_cache_reader_take (reader, "sample.id", part->rows, rows, error);
  views = ids ? kd_cache_reader_take (reader, "sample.view", part->rows, rows, error) : NULL;
  if (!views)
    return FALSE;
  ret_keys->ids = g_memdup2 (ids->data, ids->n_bytes);
  ret_keys->views = g_memdup2 (views->data, views->n_bytes);
  return TRUE;
}

KdCacheManifest *
kd_cache_manifest_like (const KdCacheManifest *from)
{
  KdCacheManifest *manifest = kd_cache_manifest_new ();

  manifest->layout = from->layout ? kd_layout_copy (from->layout) : NULL;
  manifest->block_rows = from->block_rows;
  g_ptr_array_unref (manifest->encodings);
  manifest->encodings = kd_cache_encodings_copy (from->encodings, TRUE);
  kd_cache_identity_copy (&from->identity, &manifest->identity);
  return manifest;
}

static gboolean
fail (const KdCacheCopy *copy, const gchar *reason, GError **error)
{
  g_set_error (error, KD_ERROR, KD_ERROR_IO, "Cannot write cache: path=\"%s\", reason=%s", copy->path, reason);
  return FALSE;
}

void
kd_cache_copy_close (KdCacheCopy *copy)
{
  for (guint i = 0; copy->columns && i < kd_layout_n_fields (copy->manifest->layout); i++)
    free (copy->columns[i].data);
  g_free (copy->columns);
  g_clear_pointer (&copy->there, kd_cache_reader_close);
  g_clear_pointer (&copy->manifest, kd_cache_manifest_free);
  kd_cache_unlock (copy->path, copy->lock);
  g_free (copy->folder);
  g_free (copy->path);
  g_free (copy);
}

/* The output is there: it has to be what this copy would make. */
static gboolean
go_on (KdCacheCopy *copy, const KdCacheManifest *like, GError **error)
{
  copy->there = kd_cache_reader_open (copy->path, error);
  if (!copy->there || !kd_cache_reader_check_sizes (copy->there, error) || !kd_cache_manifest_fits (like, "the input", kd_cache_reader_manifest (copy->there), copy->path, error))
    return FALSE;
  g_clear_pointer (&copy->manifest, kd_cache_manifest_free);
  copy->manifest = kd_cache_manifest_load (copy->path, error);
  if (!copy->manifest)
    return FALSE;
  if (!copy->manifest->layout && like->layout)
    copy->manifest->layout = kd_layout_copy (like->layout);
  copy->manifest->block_rows = like->block_rows;
  if (!copy->options->extend || copy->manifest->encodings->len == 0) {
    g_ptr_array_unref (copy->manifest->encodings);
    copy->manifest->encodings = kd_cache_encodings_copy (like->encodings, !copy->options->extend);
  }
  copy->result.n_before = copy->manifest->n_rows;
  copy->next_number = kd_cache_manifest_next (copy->manifest);
  return TRUE;
}

KdCacheCopy *
kd_cache_copy_open (const gchar *path, const KdCacheManifest *like, const KdCacheCopyOptions *options, GError **error)
{
  g_autoptr (KdCacheCopy) copy = g_new0 (KdCacheCopy, 1);
  g_autofree gchar *file = NULL;

  copy->lock = -1;
  copy->path = g_strdup (path);
  copy->folder = kd_cache_folder (path);
  copy->options = options;
  copy->manifest = kd_cache_manifest_like (like);
  file = g_build_filename (copy->folder, KD_CACHE_MANIFEST, NULL);
  if (g_file_test (file, G_FILE_TEST_EXISTS)) {
    if (!go_on (copy, like, error))
      return NULL;
  } else if (g_file_test (path, G_FILE_TEST_EXISTS)) {
    fail (copy, "a file of that name is there, and it is no cache with parts; choose another name", error);
    return NULL;
  }
  copy->columns = g_new0 (KdCacheColumn, kd_layout_n_fields (copy->manifest->layout));
  for (guint i = 0; i < kd_layout_n_fields (copy->manifest->layout); i++) {
    const KdLayoutField *field = kd_layout_nth (copy->manifest->layout, i);
    copy->columns[i].row_bytes = kd_dtype_size (field->dtype);
    for (guint k = 1; k < field->rank; k++)
      copy->columns[i].row_bytes *= (gsize) field->dims[k];
  }
  return g_steal_pointer (&copy);
}

static gboolean
save (KdCacheCopy *copy, GError **error)
{
  copy->n_unsaved = 0;
  copy->unsaved_bytes = 0;
  return kd_cache_manifest_save (copy->manifest, copy->path, error);
}

/* Between looking at the output and locking it another process may have written it, whose parts must not be swept. */
static gboolean
is_as_seen (const KdCacheCopy *copy)
{
  g_autofree gchar *file = g_build_filename (copy->folder, KD_CACHE_MANIFEST, NULL), *before = NULL, *after = NULL;
  gboolean is_there = g_file_test (file, G_FILE_TEST_EXISTS);
  g_autoptr (KdCacheManifest) now = is_there ? kd_cache_manifest_load (copy->path, NULL) : NULL;

  if (!copy->there || !now)
    return !copy->there && !is_there;
  before = kd_cache_manifest_print (kd_cache_reader_manifest (copy->there));
  after = kd_cache_manifest_print (now);
  return g_str_equal (before, after);
}

gboolean
kd_cache_copy_begin (KdCacheCopy *copy, GError **error)
{
  copy->lock = kd_cache_lock (copy->path, error);
  if (copy->lock < 0)
    return FALSE;
  if (!is_as_seen (copy))
    return fail (copy, "another process wrote it meanwhile; give the same command again", error);
  kd_cache_sweep (copy->path, copy->manifest);
  copy->manifest->complete = FALSE;
  return save (copy, error);
}

gboolean
kd_cache_copy_step (KdCacheCopy *copy, gint64 n_rows, GError **error)
{
  copy->n_done += n_rows;
  if (copy->options->progress)
    copy->options->progress (copy->n_done, MAX (copy->n_total, copy->n_done), copy->options->user_data);
  return !g_cancellable_set_error_if_cancelled (copy->options->cancellable, error);
}

static gboolean
enter (KdCacheCopy *copy, KdCachePart *part, GError **error)
{
  kd_cache_manifest_add (copy->manifest, part);
  copy->next_number++;
  copy->n_unsaved++;
  copy->unsaved_bytes += part->bytes;
  return (copy->n_unsaved < SAVE_PARTS && copy->unsaved_bytes < SAVE_BYTES) || save (copy, error);
}

/* The rows that wait become a part. */
static gboolean
flush (KdCacheCopy *copy, GError **error)
{
  g_autofree gchar *path = NULL;
  KdCachePart *part;

  if (copy->n_pending == 0)
    return TRUE;
  part = kd_cache_part_new (copy->manifest, copy->next_number, copy->columns, copy->n_pending);
  path = g_build_filename (copy->folder, part->file, NULL);
  if (!kd_cache_part_store (copy->manifest, part, path, copy->columns, error)) {
    kd_cache_part_free (part);
    return FALSE;
  }
  copy->n_pending = 0;
  copy->result.n_written++;
  return enter (copy, part, error);
}

/* In the kernel where the file systems can, which then may share the blocks. FALSE with errno, 0: the source was cut. */
static gboolean
copy_bytes (int from, int to, gint64 bytes)
{
  g_autofree guint8 *buffer = NULL;

  for (gint64 at = 0; at < bytes;) {
    off_t in = at, out = at;
    gssize done = buffer ? pread (from, buffer, MIN (STEP_BYTES, (gsize) (bytes - at)), in) : copy_file_range (from, &in, to, &out, (size_t) MIN (bytes - at, (gint64) 64 << 20), 0);
    if (done < 0 && !buffer && (errno == EXDEV || errno == EINVAL || errno == ENOSYS || errno == EOPNOTSUPP)) {
      buffer = g_malloc (STEP_BYTES);
      continue;
    }
    if (done < 0 && errno == EINTR)
      continue;
    if (done <= 0) {
      errno = done < 0 ? errno : 0;
      return FALSE;
    }
    if (buffer && !kd_h5_write_at (to, buffer, (gsize) done, (guint64) at))
      return FALSE;
    at += done;
  }
  return TRUE;
}

static gboolean
copy_file (const gchar *source, const gchar *target, gint64 bytes, GError **error)
{
  g_autofree gchar *folder = g_path_get_dirname (target), *name = g_path_get_basename (target);
  g_autofree gchar *temporary = g_strdup_printf ("%s/.%s.partial-%d", folder, name, (int) getpid ());
  int from = open (source, O_RDONLY | O_CLOEXEC), to = from < 0 ? -1 : open (temporary, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0666);
  int reason = to < 0 ? errno : 0;
  gboolean good = to >= 0 && kd_h5_reserve (target, to, (guint64) bytes, error);

  if (good) {
    good = copy_bytes (from, to, bytes);
    reason = good ? 0 : errno;
  }
  if (from >= 0)
    close (from);
  if (to >= 0 && close (to) < 0 && good) {
    reason = errno;
    good = FALSE;
  }
  if (good)
    return kd_h5_publish (temporary, target, error);
  unlink (temporary);
  if (error && !*error)
    g_set_error (error, KD_ERROR, KD_ERROR_IO, "Cannot copy: from=\"%s\", to=\"%s\", reason=%s", source, target, reason ? g_strerror (reason) : "the source was cut");
  return FALSE;
}

static gboolean
link_file (KdCacheCopy *copy, const gchar *source, const gchar *target, GError **error)
{
  if (link (source, target) == 0 && fsync (copy->lock) == 0)
    return TRUE;
  g_set_error (error, KD_ERROR, KD_ERROR_IO, "Cannot link: from=\"%s\", to=\"%s\", reason=%s; leave --link out to copy", source, target, g_strerror (errno));
  return FALSE;
}

/* Its size and checksums of checksums always; all blocks where their bytes are read anyway. */
static gboolean
check_source (const KdCacheManifest *from, const KdCachePart *part, const gchar *source, gboolean whole, GError **error)
{
  KdCacheFile *file = kd_cache_file_open (from, part, source, FALSE, error);
  gboolean good = file != NULL;

  for (gint64 row = 0; good && whole && row < part->rows; row += from->block_rows)
    for (guint i = 0; good && i < file->n_fields; i++)
      good = kd_cache_file_check (file, from, part, i, row, error);
  if (file)
    kd_cache_file_close (file);
  return good;
}

static gboolean
adopt (KdCacheCopy *copy, KdCacheReader *from, const gchar *from_path, const KdCachePart *part, GError **error)
{
  g_autofree gchar *source = kd_cache_part_path (from_path, part), *target = NULL;
  KdCachePart *adopted;

  if (!check_source (kd_cache_reader_manifest (from), part, source, !copy->options->link, error) || !flush (copy, error))
    return FALSE;
  adopted = g_new0 (KdCachePart, 1);
  *adopted = *part;
  adopted->file = g_strdup_printf ("%05u.h5", copy->next_number);
  target = g_build_filename (copy->folder, adopted->file, NULL);
  if (!(copy->options->link ? link_file (copy, source, target, error) : copy_file (source, target, part->bytes, error))) {
    kd_cache_part_free (adopted);
    return FALSE;
  }
  if (copy->options->link)
    copy->result.n_linked++;
  else
    copy->result.n_copied++;
  return enter (copy, adopted, error);
}

/* @rows of the source, numbered through all its parts. */
static gboolean
append (KdCacheCopy *copy, KdCacheReader *from, gint64 n, const gint64 *rows, GError **error)
{
  const KdLayout *layout = copy->manifest->layout;
  gsize part_bytes = copy->options->part_bytes ? copy->options->part_bytes : PART_BYTES;

  for (guint i = 0; i < kd_layout_n_fields (layout); i++) {
    KdCacheColumn *column = &copy->columns[i];
    g_autoptr (KdTensor) taken = kd_cache_reader_take_stored (from, kd_layout_nth (layout, i)->name, n, rows, error);
    gsize used = (gsize) copy->n_pending * column->row_bytes;
    if (!taken)
      return FALSE;
    if (used + taken->n_bytes > column->capacity)
      kd_cache_column_room (column, used + taken->n_bytes, used);
    memcpy (column->data + used, taken->data, taken->n_bytes);
  }
  copy->n_pending += n;
  return (gsize) copy->n_pending * kd_cache_row_bytes (layout) < part_bytes || flush (copy, error);
}

gboolean
kd_cache_copy_part (KdCacheCopy *copy, KdCacheReader *from, const gchar *from_path, const KdCachePart *part, const KdCacheKeys *keys,
    guint8 *keep, GError **error)
{
  g_autofree gint64 *rows = g_new (gint64, part->rows);
  gint64 step = MAX ((gint64) (STEP_BYTES / MAX (kd_cache_row_bytes (copy->manifest->layout), 1)), 1), n = 0;
  gboolean same = kd_layout_equal (copy->manifest->layout, kd_cache_reader_manifest (from)->layout);

  if (copy->there)
    kd_cache_reader_find (copy->there, part->rows, keys->ids, keys->views, rows);
  for (gint64 i = 0; i < part->rows; i++) {
    if (copy->there && rows[i] >= 0)
      keep[i] = 0;
    if (keep[i])
      rows[n++] = part->first_row + i; /* the place was looked at already */
  }
  if (n == part->rows && same)
    return adopt (copy, from, from_path, part, error) && kd_cache_copy_step (copy, n, error);
  if (!kd_cache_copy_step (copy, part->rows - n, error))
    return FALSE;
  for (gint64 first = 0; first < n; first += step) {
    gint64 now = MIN (step, n - first);
    if (!append (copy, from, now, rows + first, error) || !kd_cache_copy_step (copy, now, error))
      return FALSE;
  }
  return TRUE;
}

gboolean
kd_cache_copy_finish (KdCacheCopy *copy, gboolean complete, GError **error)
{
  if (!flush (copy, error) || !save (copy, error) || !kd_cache_write_master (copy->manifest, copy->path, TRUE, error))
    return FALSE;
  copy->result.n_rows = copy->manifest->n_rows;
  copy->result.complete = copy->manifest->complete = complete;
  return save (copy, error);
}
