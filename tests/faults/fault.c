/* Loaded with LD_PRELOAD: the n-th call that changes a file below one folder fails, is cut short, or kills the process. Calls that the kernel sees
 * through libc's own insides (stdio's) are caught at their doors. Environment:
 *   KD_FAULT_FOLDER  only files below it count; without it nothing does
 *   KD_FAULT_CALL    write (pwrite, copy_file_range, fwrite too), fsync (fdatasync), rename, ftruncate (fallocate), link, mkdir, open (for writing),
 *                    unlink; any: all but unlink
 *   KD_FAULT_NTH     which one, from 1
 *   KD_FAULT_HOW     ENOSPC, EIO, EROFS; full: ENOSPC, and for all calls after it; short: half of the bytes are written; kill: SIGKILL
 *   KD_FAULT_LOG     a line for each fault: call and path */
#define _GNU_SOURCE
#undef _FILE_OFFSET_BITS /* else open is open64, and only one of the two could be defined */
#undef _FORTIFY_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <signal.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

enum { PASS,
  FAIL,
  SHORT };

static atomic_long counter;

#define REAL(name) ((typeof (&name)) dlsym (RTLD_NEXT, #name))

static void
note (const char *call, const char *path)
{
  const char *log = getenv ("KD_FAULT_LOG");
  char line[PATH_MAX + 32];
  int n = snprintf (line, sizeof line, "%s %s\n", call, path);
  long fd = log ? syscall (SYS_openat, AT_FDCWD, log, O_WRONLY | O_CREAT | O_APPEND, 0666) : -1;

  if (fd >= 0) {
    syscall (SYS_write, fd, line, (size_t) n);
    syscall (SYS_close, fd);
  }
}

static int
number_of (const char *how)
{
  return strcmp (how, "EIO") == 0 ? EIO : strcmp (how, "EROFS") == 0 ? EROFS
                                                                     : ENOSPC;
}

/* What becomes of this call; errno is set with FAIL. */
static int
decide (const char *call, const char *path)
{
  const char *folder = getenv ("KD_FAULT_FOLDER"), *wanted = getenv ("KD_FAULT_CALL"), *how = getenv ("KD_FAULT_HOW");
  size_t n = folder ? strlen (folder) : 0;
  long nth = getenv ("KD_FAULT_NTH") ? atol (getenv ("KD_FAULT_NTH")) : 0, now;

  if (n == 0 || !how || strncmp (path, folder, n) != 0 || (path[n] != '/' && path[n] != '\0'))
    return PASS;
  if (wanted && strcmp (wanted, "any") != 0 ? strcmp (wanted, call) != 0 : strcmp (call, "unlink") == 0)
    return PASS;
  if (strcmp (how, "short") == 0 && strcmp (call, "write") != 0)
    return PASS;
  now = atomic_fetch_add (&counter, 1) + 1;
  if (now < nth || (now > nth && strcmp (how, "full") != 0))
    return PASS;
  /* A full disk: names can still change. */
  if (now > nth && strcmp (call, "write") != 0 && strcmp (call, "open") != 0 && strcmp (call, "mkdir") != 0)
    return PASS;
  note (call, path);
  if (strcmp (how, "kill") == 0)
    kill (getpid (), SIGKILL);
  if (strcmp (how, "short") == 0)
    return SHORT;
  errno = number_of (how);
  return FAIL;
}

static int
decide_path (const char *call, int folder, const char *path)
{
  char whole[2 * PATH_MAX] = "", link[64];
  int saved = errno, what;
  ssize_t n = 0;

  if (*path != '/' && folder != AT_FDCWD) {
    snprintf (link, sizeof link, "/proc/self/fd/%d", folder);
    n = readlink (link, whole, PATH_MAX - 1);
  } else if (*path != '/' && getcwd (whole, PATH_MAX)) {
    n = (ssize_t) strlen (whole);
  }
  snprintf (whole + (n > 0 ? n : 0), PATH_MAX, "%s%s", *path == '/' ? "" : "/", path);
  what = decide (call, whole);
  if (what != FAIL)
    errno = saved;
  return what;
}

static int
decide_fd (const char *call, int fd)
{
  char link[64], path[PATH_MAX] = "";
  int saved = errno, what = PASS;

  snprintf (link, sizeof link, "/proc/self/fd/%d", fd);
  if (readlink (link, path, sizeof path - 1) > 0)
    what = decide (call, path);
  if (what != FAIL)
    errno = saved;
  return what;
}

static size_t
cut (int what, size_t n)
{
  return what == SHORT && n > 1 ? n / 2 : n;
}

static int
changes (int flags)
{
  return (flags & O_ACCMODE) != O_RDONLY || (flags & O_CREAT);
}

#define OPEN(name)                                                       \
  int                                                                    \
  name (const char *path, int flags, ...)                                \
  {                                                                      \
    va_list args;                                                        \
    mode_t mode;                                                         \
                                                                         \
    va_start (args, flags);                                              \
    mode = flags & (O_CREAT | O_TMPFILE) ? va_arg (args, mode_t) : 0;    \
    va_end (args);                                                       \
    if (changes (flags) && decide_path ("open", AT_FDCWD, path) == FAIL) \
      return -1;                                                         \
    return REAL (name) (path, flags, mode);                              \
  }
OPEN (open)
OPEN (open64)

#define OPENAT(name)                                                   \
  int                                                                  \
  name (int folder, const char *path, int flags, ...)                  \
  {                                                                    \
    va_list args;                                                      \
    mode_t mode;                                                       \
                                                                       \
    va_start (args, flags);                                            \
    mode = flags & (O_CREAT | O_TMPFILE) ? va_arg (args, mode_t) : 0;  \
    va_end (args);                                                     \
    if (changes (flags) && decide_path ("open", folder, path) == FAIL) \
      return -1;                                                       \
    return REAL (name) (folder, path, flags, mode);                    \
  }
OPENAT (openat)
OPENAT (openat64)

#define FOPEN(name)                                                                    \
  FILE *                                                                               \
  name (const char *path, const char *mode)                                            \
  {                                                                                    \
    if (strpbrk (mode, "wa+") != NULL && decide_path ("open", AT_FDCWD, path) == FAIL) \
      return NULL;                                                                     \
    return REAL (name) (path, mode);                                                   \
  }
FOPEN (fopen)
FOPEN (fopen64)

ssize_t
write (int fd, const void *data, size_t n)
{
  int what = decide_fd ("write", fd);

  return what == FAIL ? -1 : REAL (write) (fd, data, cut (what, n));
}

#define PWRITE(name, type)                                                    \
  ssize_t                                                                     \
  name (int fd, const void *data, size_t n, type offset)                      \
  {                                                                           \
    int what = decide_fd ("write", fd);                                       \
                                                                              \
    return what == FAIL ? -1 : REAL (name) (fd, data, cut (what, n), offset); \
  }
PWRITE (pwrite, off_t)
PWRITE (pwrite64, off64_t)

ssize_t
copy_file_range (int from, off64_t *from_at, int to, off64_t *to_at, size_t n, unsigned flags)
{
  int what = decide_fd ("write", to);

  return what == FAIL ? -1 : REAL (copy_file_range) (from, from_at, to, to_at, cut (what, n), flags);
}

/* Half written is what stdio makes up for by itself. */
size_t
fwrite (const void *data, size_t size, size_t n, FILE *file)
{
  return decide_fd ("write", fileno (file)) == FAIL ? 0 : REAL (fwrite) (data, size, n, file);
}

#define SYNC(name)                                                  \
  int                                                               \
  name (int fd)                                                     \
  {                                                                 \
    return decide_fd ("fsync", fd) == FAIL ? -1 : REAL (name) (fd); \
  }
SYNC (fsync)
SYNC (fdatasync)

#define TRUNCATE(name, type)                                                  \
  int                                                                         \
  name (int fd, type size)                                                    \
  {                                                                           \
    return decide_fd ("ftruncate", fd) == FAIL ? -1 : REAL (name) (fd, size); \
  }
TRUNCATE (ftruncate, off_t)
TRUNCATE (ftruncate64, off64_t)

#define ALLOCATE(name, type)                                                                \
  int                                                                                       \
  name (int fd, int mode, type offset, type size)                                           \
  {                                                                                         \
    return decide_fd ("ftruncate", fd) == FAIL ? -1 : REAL (name) (fd, mode, offset, size); \
  }
ALLOCATE (fallocate, off_t)
ALLOCATE (fallocate64, off64_t)

int
rename (const char *from, const char *to)
{
  return decide_path ("rename", AT_FDCWD, to) == FAIL ? -1 : REAL (rename) (from, to);
}

int
link (const char *from, const char *to)
{
  return decide_path ("link", AT_FDCWD, to) == FAIL ? -1 : REAL (link) (from, to);
}

int
mkdir (const char *path, mode_t mode)
{
  return decide_path ("mkdir", AT_FDCWD, path) == FAIL ? -1 : REAL (mkdir) (path, mode);
}

int
unlink (const char *path)
{
  return decide_path ("unlink", AT_FDCWD, path) == FAIL ? -1 : REAL (unlink) (path);
}
