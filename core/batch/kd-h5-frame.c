/* What libhdf5 reads of a file is the small rest around the rows. libhdf5 1.10.8 crashes or hangs on damage there (one flipped bit is enough), so that
 * files written here carry a checksum of it, which is compared before libhdf5 sees the file. It stands behind the HDF5 file's own end, where HDF5 does
 * not look; schemas/batch-file.md describes it. Files without one are opened as they always were. */
#include "kd-h5-private.h"

#include "../math/kd-crc32c.h"

#include <errno.h>
#include <fcntl.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#define MAGIC "kdframe1"
#define STEP_BYTES ((gsize) 64 << 10)

/* Rows: their bytes have checksums of their own, or none. */
typedef struct {
  guint64 offset, size;
} Extent;

/* Behind the extents, at the end of the file. @rest: CRC-32C of all bytes that are not in an extent; @own: of the extents, @n and @rest. */
typedef struct {
  guint64 n;
  guint32 rest, own;
  gchar magic[8];
} Tail;

static gboolean
read_at (int fd, gpointer to, gsize n, guint64 offset)
{
  for (guint8 *at = to; n;) {
    gssize got = pread (fd, at, n, (off_t) offset);
    if (got < 0 && errno == EINTR)
      continue;
    if (got <= 0)
      return FALSE;
    at += got;
    offset += (guint64) got;
    n -= (gsize) got;
  }
  return TRUE;
}

static gboolean
sum_rest (int fd, const Extent *extents, guint64 n, guint64 end, guint32 *ret_sum)
{
  g_autofree guint8 *buffer = g_malloc (STEP_BYTES);
  guint64 at = 0;

  *ret_sum = 0;
  for (guint64 i = 0; i <= n; i++) {
    guint64 until = i < n ? extents[i].offset : end;
    while (at < until) {
      gsize now = MIN (STEP_BYTES, (gsize) (until - at));
      if (!read_at (fd, buffer, now, at))
        return FALSE;
      *ret_sum = kd_crc32c (*ret_sum, buffer, now);
      at += now;
    }
    at += i < n ? extents[i].size : 0;
  }
  return TRUE;
}

static guint32
sum_tail (const Extent *extents, const Tail *tail)
{
  return kd_crc32c (kd_crc32c (0, extents, tail->n * sizeof *extents), tail, offsetof (Tail, own));
}

static gboolean
are_ordered (const Extent *extents, guint64 n, guint64 end)
{
  guint64 at = 0;

  for (guint64 i = 0; i < n; i++) {
    if (extents[i].offset < at || extents[i].offset > end || extents[i].size > end - extents[i].offset)
      return FALSE;
    at = extents[i].offset + extents[i].size;
  }
  return TRUE;
}

static gboolean
check (int fd, guint64 size, const gchar *path, GError **error)
{
  g_autofree Extent *extents = NULL;
  guint64 end;
  guint32 found;
  Tail tail;

  if (size < sizeof tail || !read_at (fd, &tail, sizeof tail, size - sizeof tail) || memcmp (tail.magic, MAGIC, sizeof tail.magic) != 0)
    return TRUE;
  if (tail.n > (size - sizeof tail) / sizeof *extents)
    return kd_h5_fail (error, KD_ERROR_FORMAT, path, NULL, "reason=damaged at its end: %" G_GUINT64_FORMAT " extents", tail.n);
  end = size - sizeof tail - tail.n * sizeof *extents;
  extents = g_malloc (MAX (tail.n, 1) * sizeof *extents);
  if (!read_at (fd, extents, tail.n * sizeof *extents, end))
    return kd_h5_fail (error, KD_ERROR_IO, path, NULL, "reason=%s", g_strerror (errno));
  if (sum_tail (extents, &tail) != tail.own || !are_ordered (extents, tail.n, end))
    return kd_h5_fail (error, KD_ERROR_FORMAT, path, NULL, "reason=damaged at its end: checksum of its checksum");
  if (!sum_rest (fd, extents, tail.n, end, &found))
    return kd_h5_fail (error, KD_ERROR_IO, path, NULL, "reason=%s", g_strerror (errno));
  return found == tail.rest ||
      kd_h5_fail (error, KD_ERROR_FORMAT, path, NULL, "reason=checksum of what is not rows, found=%08x, wanted=%08x; the file was damaged after it was written", found, tail.rest);
}

gboolean
kd_h5_frame_check (const gchar *path, GError **error)
{
  int fd = open (path, O_RDONLY | O_CLOEXEC);
  struct stat info;
  gboolean good;

  if (fd < 0 || fstat (fd, &info) < 0) {
    kd_h5_fail (error, KD_ERROR_IO, path, NULL, "reason=%s", g_strerror (errno));
    if (fd >= 0)
      close (fd);
    return FALSE;
  }
  good = check (fd, (guint64) info.st_size, path, error);
  close (fd);
  return good;
}

static int
by_offset (const void *a, const void *b)
{
  guint64 x = ((const Extent *) a)->offset, y = ((const Extent *) b)->offset;

  return x < y ? -1 : x > y;
}

static void
add (GArray *extents, guint64 offset, guint64 size)
{
  const Extent extent = { offset, size };

  if (size)
    g_array_append_val (extents, extent);
}

/* (transfer full) where the rows are, in order, neighbours as one. What cannot be told is not left out of the sum. */
static GArray *
find_extents (const gchar *path)
{
  g_autoptr (KdH5Reader) reader = kd_h5_reader_open_full (path, NULL, FALSE, NULL);
  GArray *all = g_array_new (FALSE, FALSE, sizeof (Extent));
  guint n = 0;

  for (guint i = 0; reader && i < reader->columns->len; i++) {
    const KdH5Column *column = g_ptr_array_index (reader->columns, i);
    gint64 n_chunks = column->chunk_rows > 0 ? (column->n_rows + column->chunk_rows - 1) / column->chunk_rows : 0;
    if (column->storage == KD_H5_CONTIGUOUS)
      add (all, column->offset, (guint64) column->n_rows * column->row_bytes);
    else if (column->storage == KD_H5_CHUNKED || column->storage == KD_H5_FILTERED)
      for (gint64 k = 0; k < n_chunks; k++)
        add (all, column->chunks[k], column->storage == KD_H5_FILTERED ? column->chunk_sizes[k] : (guint64) column->chunk_rows * column->row_bytes);
  }
  if (all->len)
    qsort (all->data, all->len, sizeof (Extent), by_offset);
  for (guint i = 0; i < all->len; i++) {
    Extent *extents = (Extent *) all->data;
    if (n && extents[n - 1].offset + extents[n - 1].size == extents[i].offset)
      extents[n - 1].size += extents[i].size;
    else
      extents[n++] = extents[i];
  }
  g_array_set_size (all, n);
  return all;
}

int
kd_h5_frame_add (const gchar *path)
{
  g_autoptr (GArray) extents = find_extents (path);
  Tail tail = { .n = extents->len, .magic = MAGIC };
  int fd = open (path, O_RDWR | O_CLOEXEC), saved = 0;
  struct stat info;
  guint64 end;

  if (fd < 0 || fstat (fd, &info) < 0) {
    saved = errno;
  } else {
    end = (guint64) info.st_size;
    if (!are_ordered ((const Extent *) extents->data, extents->len, end))
      g_array_set_size (extents, tail.n = 0);
    errno = EIO;
    if (!sum_rest (fd, (const Extent *) extents->data, tail.n, end, &tail.rest))
      saved = errno;
    tail.own = sum_tail ((const Extent *) extents->data, &tail);
    if (!saved && (!kd_h5_write_at (fd, extents->data, extents->len * sizeof (Extent), end) || !kd_h5_write_at (fd, &tail, sizeof tail, end + extents->len * sizeof (Extent))))
      saved = errno;
  }
  if (fd >= 0 && close (fd) < 0 && !saved)
    saved = errno;
  return saved;
}
