/* Making a file appear whole or not at all: temporary name, room reserved, sync, rename, sync of the folder. */
#define _GNU_SOURCE /* fallocate */
#include "kd-h5-private.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <string.h>
#include <sys/file.h>
#include <sys/statvfs.h>
#include <unistd.h>

/* HDF5's headers, tables and rounding, and the manifest beside. */
#define ROOM_MARGIN_BYTES ((guint64) 256 << 10)

gboolean
kd_h5_reserve (const gchar *path, int fd, guint64 bytes, GError **error)
{
  g_autofree gchar *folder = g_path_get_dirname (path);
  struct statvfs info;
  guint64 free_bytes;

  if (statvfs (folder, &info) < 0) {
    g_set_error (error, KD_ERROR, KD_ERROR_IO, "Cannot write: path=\"%s\", folder=\"%s\", reason=%s", path, folder,
        g_strerror (errno));
    return FALSE;
  }
  free_bytes = (guint64) info.f_bavail * info.f_frsize;
  if (free_bytes < bytes || free_bytes - bytes < MIN (ROOM_MARGIN_BYTES, bytes)) {
    g_set_error (error, KD_ERROR, KD_ERROR_IO, "Disk full: path=\"%s\", wanted=%" G_GUINT64_FORMAT " bytes, free=%" G_GUINT64_FORMAT " bytes; make room or choose another disk", path, bytes, free_bytes);
    return FALSE;
  }
  /* The size stays: HDF5 grows the file itself. A file system that cannot reserve fails at the write instead. */
  if (fd >= 0 && bytes && fallocate (fd, FALLOC_FL_KEEP_SIZE, 0, (off_t) bytes) < 0 && errno == ENOSPC) {
    g_set_error (error, KD_ERROR, KD_ERROR_IO, "Disk full: path=\"%s\", wanted=%" G_GUINT64_FORMAT " bytes, free=%" G_GUINT64_FORMAT " bytes; make room or choose another disk", path, bytes, free_bytes);
    return FALSE;
  }
  return TRUE;
}

static int
file_descriptor (hid_t file)
{
  void *handle = NULL;

  return H5Fget_vfd_handle (file, H5P_DEFAULT, &handle) >= 0 && handle ? *(int *) handle : -1;
}

/* The lock is of those who write from another machine, whose processes nobody here knows. */
static gboolean
is_abandoned (const gchar *file, const gchar *number)
{
  gint64 pid = g_ascii_strtoll (number, NULL, 10);
  int fd = pid > 0 && kill ((pid_t) pid, 0) < 0 && errno == ESRCH ? open (file, O_RDONLY | O_CLOEXEC) : -1;
  gboolean is_free = fd >= 0 && (flock (fd, LOCK_EX | LOCK_NB) == 0 || errno != EWOULDBLOCK);

  if (fd >= 0)
    close (fd);
  return is_free;
}

void
kd_h5_sweep (const gchar *path)
{
  g_autofree gchar *folder = g_path_get_dirname (path), *base = g_path_get_basename (path);
  g_autofree gchar *prefix = g_strdup_printf (".%s.partial-", base);
  g_autoptr (GDir) dir = g_dir_open (folder, 0, NULL);
  const gchar *name;

  while (dir && (name = g_dir_read_name (dir))) {
    g_autofree gchar *file = g_build_filename (folder, name, NULL);
    if (g_str_has_prefix (name, prefix) && is_abandoned (file, name + strlen (prefix)))
      unlink (file);
  }
}

hid_t
kd_h5_create (const gchar *path, guint64 bytes, gchar **ret_temporary, GError **error)
{
  g_auto (KdH5Guard) guard = kd_h5_enter ();
  g_auto (KdHid) access = H5Pcreate (H5P_FILE_ACCESS);
  g_autofree gchar *folder = g_path_get_dirname (path), *base = g_path_get_basename (path);
  g_autofree gchar *name = g_strdup_printf (".%s.partial-%d", base, (int) getpid ());
  g_autofree gchar *temporary = g_build_filename (folder, name, NULL), *reason = NULL;
  KdH5Fault *fault;
  hid_t file;

  if (!kd_h5_reserve (path, -1, bytes, error))
    return -1;
  fault = g_atomic_rc_box_new0 (KdH5Fault);
  H5Pset_fclose_degree (access, H5F_CLOSE_STRONG);
  H5Pset_file_locking (access, TRUE, TRUE);
  file = kd_h5_driver_use (access, fault) ? H5Fcreate (temporary, H5F_ACC_TRUNC, H5P_DEFAULT, access) : -1;
  if (file < 0) {
    reason = fault->error ? g_strdup (g_strerror (fault->error)) : kd_h5_reason ();
    g_set_error (error, KD_ERROR, KD_ERROR_IO, "Cannot write: path=\"%s\", reason=%s", path, reason);
  }
  g_atomic_rc_box_release (fault);
  if (file >= 0 && bytes && !kd_h5_reserve (path, file_descriptor (file), bytes, error)) {
    kd_h5_close_created (file, FALSE, temporary, path, error);
    return -1;
  }
  *ret_temporary = g_steal_pointer (&temporary);
  return file;
}

int
kd_h5_write_error (hid_t file)
{
  const KdH5Fault *fault = kd_h5_driver_fault (file);

  return fault ? fault->error : EIO;
}

gboolean
kd_h5_close_created (hid_t file, gboolean good, const gchar *temporary, const gchar *path, GError **error)
{
  g_autofree gchar *reason = good ? NULL : kd_h5_reason ();
  KdH5Fault *fault = kd_h5_driver_fault (file);
  int saved = EIO;

  if (fault)
    g_atomic_rc_box_acquire (fault);
  if (H5Fclose (file) < 0 && good) {
    good = FALSE;
    reason = kd_h5_reason ();
  }
  if (fault) {
    saved = fault->error;
    g_atomic_rc_box_release (fault);
  }
  if (good && !saved)
    saved = kd_h5_frame_add (temporary);
  if (good && !saved)
    return TRUE;
  unlink (temporary);
  if (error && !*error)
    g_set_error (error, KD_ERROR, KD_ERROR_IO, "Cannot write: path=\"%s\", reason=%s", path, saved ? g_strerror (saved) : reason);
  return FALSE;
}

gboolean
kd_h5_write_at (int fd, gconstpointer data, gsize size, guint64 offset)
{
  const guint8 *from = data;

  while (size) {
    gssize done = pwrite (fd, from, size, (off_t) offset);
    if (done < 0 && errno == EINTR)
      continue;
    if (done <= 0) {
      errno = done < 0 ? errno : ENOSPC;
      return FALSE;
    }
    from += done;
    size -= (gsize) done;
    offset += (guint64) done;
  }
  return TRUE;
}

static gboolean
sync_path (const gchar *path, int flags)
{
  int fd = open (path, flags | O_CLOEXEC), failed;

  if (fd < 0)
    return FALSE;
  failed = fsync (fd);
  /* Some file systems refuse to sync a folder; then there is nothing more to do. */
  if (failed && (flags & O_DIRECTORY) && (errno == EINVAL || errno == ENOTSUP))
    failed = 0;
  close (fd);
  return failed == 0;
}

gboolean
kd_h5_publish (const gchar *temporary, const gchar *path, GError **error)
{
  g_autofree gchar *folder = g_path_get_dirname (path);

  if (!sync_path (temporary, O_RDWR) || rename (temporary, path) < 0) {
    int saved = errno;
    unlink (temporary);
    g_set_error (error, KD_ERROR, KD_ERROR_IO, "Cannot write: path=\"%s\", reason=%s", path, g_strerror (saved));
    return FALSE;
  }
  if (!sync_path (folder, O_RDONLY | O_DIRECTORY)) {
    g_set_error (error, KD_ERROR, KD_ERROR_IO, "Cannot sync the folder: path=\"%s\", folder=\"%s\", reason=%s", path, folder, g_strerror (errno));
    return FALSE;
  }
  return TRUE;
}

hid_t
kd_h5_put (hid_t group, const gchar *name, KdDtype dtype, guint rank, const gint64 *dims, gconstpointer data)
{
  g_auto (KdHid) type = kd_h5_file_type (dtype);
  g_auto (KdHid) dataset = -1;
  g_auto (KdHid) space = -1;
  hsize_t sizes[KD_MAX_RANK];
  hsize_t elements = 1;

  for (guint i = 0; i < rank; i++)
    elements *= sizes[i] = (hsize_t) dims[i];
  space = rank ? H5Screate_simple ((int) rank, sizes, NULL) : H5Screate (H5S_SCALAR);
  dataset = H5Dcreate2 (group, name, type, space, H5P_DEFAULT, H5P_DEFAULT, H5P_DEFAULT);
  if (dataset < 0 || (elements && H5Dwrite (dataset, type, H5S_ALL, H5S_ALL, H5P_DEFAULT, data) < 0))
    return -1;
  if (dtype == KD_BFLOAT16 && !kd_h5_set_attribute (dataset, "kd.dtype", "bfloat16"))
    return -1;
  {
    hid_t id = dataset;
    dataset = -1;
    return id;
  }
}

hid_t
kd_h5_put_growing (hid_t group, const gchar *name, KdDtype dtype, guint rank, const gint64 *dims, gint64 chunk_rows, guint deflate)
{
  g_auto (KdHid) type = kd_h5_file_type (dtype);
  g_auto (KdHid) create = H5Pcreate (H5P_DATASET_CREATE);
  g_auto (KdHid) access = H5Pcreate (H5P_DATASET_ACCESS);
  g_auto (KdHid) space = -1;
  hsize_t sizes[KD_MAX_RANK] = { 0 }, limit[KD_MAX_RANK] = { H5S_UNLIMITED }, chunk[KD_MAX_RANK] = { (hsize_t) chunk_rows };
  hid_t dataset;

  for (guint i = 1; i < rank; i++)
    sizes[i] = limit[i] = chunk[i] = (hsize_t) MAX (dims[i], 1);
  space = H5Screate_simple ((int) rank, sizes, limit);
  H5Pset_chunk (create, (int) rank, chunk);
  if (deflate) {
    H5Pset_shuffle (create);
    H5Pset_deflate (create, deflate);
  }
  H5Pset_fill_time (create, H5D_FILL_TIME_NEVER);
  /* No chunk cache: whole chunks go straight to the file. */
  H5Pset_chunk_cache (access, 0, 0, 1.0);
  dataset = H5Dcreate2 (group, name, type, space, H5P_DEFAULT, create, access);
  if (dataset >= 0 && dtype == KD_BFLOAT16)
    kd_h5_set_attribute (dataset, "kd.dtype", "bfloat16");
  return dataset;
}
