/* The driver that files are written with. libhdf5 cannot close a file after a write has failed: the file stays in its tables, half freed, and the
 * next call or the end of the process crashes (1.10.8). So this one never tells it: the first failure is kept, all writes after it are dropped, the
 * file closes as if it were whole, and kd_h5_close_created reports what was kept. What is in such a file does not matter: it never gets its name. */
#include "kd-h5-private.h"

#include <errno.h>
#include <fcntl.h>
#include <stddef.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

typedef struct {
  H5FD_t pub; /* first, as libhdf5 wants it */
  int fd;     /* H5Fget_vfd_handle points here */
  KdH5Fault *fault;
  haddr_t eoa, eof;
  dev_t device;
  ino_t inode;
} File;

typedef struct {
  KdH5Fault *fault;
} Info;

static H5FD_t *
driver_open (const char *name, unsigned flags, hid_t access, haddr_t maxaddr)
{
  const Info *info = H5Pget_driver_info (access);
  int how = (flags & H5F_ACC_RDWR ? O_RDWR : O_RDONLY) | (flags & H5F_ACC_CREAT ? O_CREAT : 0) | (flags & H5F_ACC_TRUNC ? O_TRUNC : 0) |
      (flags & H5F_ACC_EXCL ? O_EXCL : 0);
  struct stat what;
  File *file;
  int fd;

  /* libhdf5 tries to open a file before it makes it: what the first time failed with, other than that it is not there, is the answer. */
  if (!info || (info->fault->error && info->fault->error != ENOENT))
    return NULL;
  fd = open (name, how | O_CLOEXEC, 0666);
  info->fault->error = fd < 0 || fstat (fd, &what) < 0 ? errno : 0;
  if (fd < 0 || info->fault->error) {
    if (fd >= 0)
      close (fd);
    return NULL;
  }
  file = g_new0 (File, 1);
  file->fd = fd;
  file->fault = g_atomic_rc_box_acquire (info->fault);
  file->eof = (haddr_t) what.st_size;
  file->device = what.st_dev;
  file->inode = what.st_ino;
  return &file->pub;
}

static void
keep (File *file, int error)
{
  if (!file->fault->error)
    file->fault->error = error ? error : EIO;
}

/* Network file systems tell at the close. */
static herr_t
driver_close (H5FD_t *pub)
{
  File *file = (File *) pub;

  if (close (file->fd) < 0)
    keep (file, errno);
  g_atomic_rc_box_release (file->fault);
  g_free (file);
  return 0;
}

static int
driver_compare (const H5FD_t *a, const H5FD_t *b)
{
  const File *x = (const File *) a, *y = (const File *) b;

  if (x->device != y->device)
    return x->device < y->device ? -1 : 1;
  return x->inode < y->inode ? -1 : x->inode > y->inode;
}

static herr_t
driver_query (const H5FD_t *pub, unsigned long *flags)
{
  *flags = H5FD_FEAT_AGGREGATE_METADATA | H5FD_FEAT_ACCUMULATE_METADATA | H5FD_FEAT_DATA_SIEVE | H5FD_FEAT_AGGREGATE_SMALLDATA |
      H5FD_FEAT_POSIX_COMPAT_HANDLE | H5FD_FEAT_DEFAULT_VFD_COMPATIBLE;
  return 0;
}

static haddr_t
driver_get_eoa (const H5FD_t *pub, H5FD_mem_t type)
{
  return ((const File *) pub)->eoa;
}

static herr_t
driver_set_eoa (H5FD_t *pub, H5FD_mem_t type, haddr_t address)
{
  ((File *) pub)->eoa = address;
  return 0;
}

static haddr_t
driver_get_eof (const H5FD_t *pub, H5FD_mem_t type)
{
  return ((const File *) pub)->eof;
}

static herr_t
driver_get_handle (H5FD_t *pub, hid_t access, void **ret_handle)
{
  *ret_handle = &((File *) pub)->fd;
  return 0;
}

/* What lies behind the file's end is zero. */
static herr_t
driver_read (H5FD_t *pub, H5FD_mem_t type, hid_t transfer, haddr_t address, size_t size, void *buffer)
{
  File *file = (File *) pub;
  guint8 *at = buffer;

  while (size) {
    gssize done = pread (file->fd, at, size, (off_t) address);
    if (done < 0 && errno == EINTR)
      continue;
    if (done < 0) {
      keep (file, errno);
      return -1;
    }
    if (done == 0) {
      memset (at, 0, size);
      return 0;
    }
    at += done;
    address += (haddr_t) done;
    size -= (gsize) done;
  }
  return 0;
}

static herr_t
driver_write (H5FD_t *pub, H5FD_mem_t type, hid_t transfer, haddr_t address, size_t size, const void *buffer)
{
  File *file = (File *) pub;

  file->eof = MAX (file->eof, address + size);
  if (!file->fault->error && !kd_h5_write_at (file->fd, buffer, size, address))
    keep (file, errno);
  return 0;
}

static herr_t
driver_truncate (H5FD_t *pub, hid_t transfer, hbool_t closing)
{
  File *file = (File *) pub;

  if (file->eoa != file->eof && !file->fault->error && ftruncate (file->fd, (off_t) file->eoa) < 0)
    keep (file, errno);
  file->eof = file->eoa;
  return 0;
}

/* Some file systems have no locks; then there is none. */
static herr_t
driver_lock (H5FD_t *pub, hbool_t writing)
{
  File *file = (File *) pub;

  if (flock (file->fd, (writing ? LOCK_EX : LOCK_SH) | LOCK_NB) == 0 || errno == ENOSYS || errno == ENOLCK || errno == EOPNOTSUPP)
    return 0;
  file->fault->error = errno;
  return -1;
}

static herr_t
driver_unlock (H5FD_t *pub)
{
  flock (((File *) pub)->fd, LOCK_UN);
  return 0;
}

static const H5FD_class_t driver = {
  .name = "kdstream",
  .maxaddr = G_MAXINT64,
  .fc_degree = H5F_CLOSE_STRONG,
  .fapl_size = sizeof (Info),
  .open = driver_open,
  .close = driver_close,
  .cmp = driver_compare,
  .query = driver_query,
  .get_eoa = driver_get_eoa,
  .set_eoa = driver_set_eoa,
  .get_eof = driver_get_eof,
  .get_handle = driver_get_handle,
  .read = driver_read,
  .write = driver_write,
  .truncate = driver_truncate,
  .lock = driver_lock,
  .unlock = driver_unlock,
  .fl_map = H5FD_FLMAP_DICHOTOMY,
};

gboolean
kd_h5_driver_use (hid_t access, KdH5Fault *fault)
{
  static hid_t id = -1;
  const Info info = { fault };

  if (id < 0 || H5Iis_valid (id) <= 0)
    id = H5FDregister (&driver);
  return id >= 0 && H5Pset_driver (access, id, &info) >= 0;
}

KdH5Fault *
kd_h5_driver_fault (hid_t file)
{
  void *handle = NULL;

  if (H5Fget_vfd_handle (file, H5P_DEFAULT, &handle) < 0 || !handle)
    return NULL;
  return ((File *) (gpointer) ((guint8 *) handle - offsetof (File, fd)))->fault;
}
