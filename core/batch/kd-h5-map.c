/* The bytes of a file. Small files are mapped: a random row costs a memcpy. What is above the limit goes through pread, which
 * costs some 0.5 us a row but leaves nothing resident; a mapping of everything would grow to the size of the data, and dropping
 * its pages now and then was measured to cost ten times a pread (faults bring in 64 KB each). */
#include "kd-h5-private.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#define DEFAULT_LIMIT ((guint64) 256 << 20)

static GMutex budget_lock;
static guint64 budget_used;

guint64
kd_h5_map_limit (void)
{
  static gsize limit_plus_one;

  if (g_once_init_enter (&limit_plus_one)) {
    const gchar *text = g_getenv ("KD_MAP_LIMIT");
    g_once_init_leave (&limit_plus_one, (gsize) (text ? MIN (g_ascii_strtoull (text, NULL, 10), G_MAXINT64) : DEFAULT_LIMIT) + 1);
  }
  return limit_plus_one - 1;
}

static gboolean
budget_take (guint64 size)
{
  gboolean fits;

  g_mutex_lock (&budget_lock);
  fits = size <= kd_h5_map_limit () && budget_used <= kd_h5_map_limit () - size;
  if (fits)
    budget_used += size;
  g_mutex_unlock (&budget_lock);
  return fits;
}

static void
budget_give (guint64 size)
{
  g_mutex_lock (&budget_lock);
  budget_used -= size;
  g_mutex_unlock (&budget_lock);
}

KdH5Map *
kd_h5_map_new (int fd, guint64 size, gboolean may_map)
{
  KdH5Map *map = g_new0 (KdH5Map, 1);
  gpointer bytes;

  g_atomic_ref_count_init (&map->ref_count);
  map->size = size;
  map->fd = fcntl (fd, F_DUPFD_CLOEXEC, 3);
  if (!may_map || size == 0 || !budget_take (size))
    return map;
  bytes = mmap (NULL, size, PROT_READ, MAP_SHARED, map->fd, 0);
  if (bytes == MAP_FAILED)
    budget_give (size);
  else
    map->bytes = bytes;
  return map;
}

KdH5Map *
kd_h5_map_ref (KdH5Map *map)
{
  g_atomic_ref_count_inc (&map->ref_count);
  return map;
}

void
kd_h5_map_unref (KdH5Map *map)
{
  if (!g_atomic_ref_count_dec (&map->ref_count))
    return;
  if (map->bytes) {
    munmap ((gpointer) map->bytes, map->size);
    budget_give (map->size);
  }
  if (map->fd >= 0)
    close (map->fd);
  g_free (map);
}

gboolean
kd_h5_map_copy (const KdH5Map *map, guint64 offset, gpointer to, gsize size)
{
  guint8 *at = to;

  if (map->bytes) {
    memcpy (to, map->bytes + offset, size);
    return TRUE;
  }
  while (size) {
    gssize got = pread (map->fd, at, MIN (size, (gsize) 1 << 30), (off_t) offset);
    if (got < 0 && errno == EINTR)
      continue;
    if (got <= 0) {
      errno = got == 0 ? 0 : errno;
      return FALSE;
    }
    at += got;
    offset += (guint64) got;
    size -= (gsize) got;
  }
  return TRUE;
}
