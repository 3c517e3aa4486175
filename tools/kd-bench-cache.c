/* Random rows of a cache beside numpy and h5py; writing beside plain write and fsync of the same bytes. */
#include "kd-bench.h"
#include <errno.h>
#include <fcntl.h>
#include <glib/gstdio.h>
#include <kd/kd.h>
#include <string.h>
#include <unistd.h>

#define ROWS (G_GINT64_CONSTANT (200000))
#define WIDTH 256
#define BATCH 64
#define N_BATCHES 4000
#define CHUNK 2000

static KdTensor *
kd_random_halves (gint64 first)
{
  const gint64 dims[] = { CHUNK, WIDTH };
  KdTensor *tensor = kd_tensor_new (KD_FLOAT16, 2, dims);
  KdRandom random;

  kd_random_init (&random, 1, kd_random_purpose ("kd-bench"), 0, (uint64_t) first);
  for (gsize i = 0; i < tensor->n_bytes / 4; i++) /* any finite halves: exponents below the largest */
    ((guint32 *) tensor->data)[i] = kd_random_u32 (&random) & 0xbbffbbff;
  return tensor;
}

/* All rows, made before anything is timed: a writer that works in a thread must not get the time in which they are made for nothing. */
static GPtrArray *
kd_random_rows (void)
{
  GPtrArray *chunks = g_ptr_array_new_with_free_func ((GDestroyNotify) kd_tensor_unref);

  for (gint64 first = 0; first < ROWS; first += CHUNK)
    g_ptr_array_add (chunks, kd_random_halves (first));
  return chunks;
}

static gdouble
kd_write_cache (const gchar *path, GPtrArray *chunks, GError **error)
{
  const KdCacheIdentity identity = { NULL };
  const gchar *name = "teacher.logits";
  g_autofree gint64 *ids = g_new (gint64, CHUNK);
  gint64 start = g_get_monotonic_time ();
  g_autoptr (KdCacheWriter) writer = kd_cache_writer_open (path, FALSE, &identity, 64 << 20, error);

  if (!writer)
    return -1;
  for (guint c = 0; c < chunks->len; c++) {
    KdTensor *tensors[] = { chunks->pdata[c] };

    for (gint64 i = 0; i < CHUNK; i++)
      ids[i] = c * CHUNK + i;
    if (!kd_cache_writer_append (writer, CHUNK, ids, NULL, 1, &name, tensors, error))
      return -1;
  }
  if (!kd_cache_writer_finish (writer, error))
    return -1;
  return (gdouble) (g_get_monotonic_time () - start) / G_USEC_PER_SEC;
}

/* dd conv=fsync in a few lines. */
static gdouble
kd_write_plain (const gchar *path, GPtrArray *chunks, GError **error)
{
  gint64 start = g_get_monotonic_time ();
  int fd = open (path, O_CREAT | O_TRUNC | O_WRONLY, 0666);
  gboolean ok = fd >= 0;

  for (guint c = 0; ok && c < chunks->len; c++) {
    KdTensor *tensor = chunks->pdata[c];

    ok = write (fd, tensor->data, tensor->n_bytes) == (gssize) tensor->n_bytes;
  }
  ok = ok && fsync (fd) == 0;
  if (!ok)
    g_set_error (error, KD_ERROR, KD_ERROR_IO, "Cannot write: path=\"%s\", reason=%s", path, g_strerror (errno));
  if (fd >= 0)
    close (fd);
  return ok ? (gdouble) (g_get_monotonic_time () - start) / G_USEC_PER_SEC : -1;
}

static gdouble
kd_read_random (KdCacheReader *reader, guint64 seed, GError **error)
{
  gint64 ids[BATCH], rows[BATCH];
  gint64 spent = 0;
  KdRandom random;

  kd_random_init (&random, seed, kd_random_purpose ("kd-bench-read"), 0, 0);
  for (guint b = 0; b < N_BATCHES; b++) {
    g_autoptr (KdTensor) tensor = NULL;
    gint64 start;

    for (guint i = 0; i < BATCH; i++)
      ids[i] = (gint64) kd_random_below (&random, ROWS);
    start = g_get_monotonic_time ();
    kd_cache_reader_find (reader, BATCH, ids, NULL, rows);
    tensor = kd_cache_reader_take (reader, "teacher.logits", BATCH, rows, error);
    spent += g_get_monotonic_time () - start;
    if (!tensor)
      return -1;
  }
  return (gdouble) spent / G_USEC_PER_SEC / N_BATCHES;
}

/* By turns, since a disk has good and bad moments; the last cache stays for the reading. */
static gboolean
kd_measure_write (const KdBenchOptions *options, const gchar *dir, const gchar *cache, GError **error)
{
  g_autofree gchar *plain = g_build_filename (dir, "plain", NULL), *parts = g_strconcat (cache, ".parts", NULL);
  g_autofree gdouble *ours = g_new0 (gdouble, (gsize) options->repeats), *theirs = g_new0 (gdouble, (gsize) options->repeats);
  g_autoptr (GPtrArray) chunks = kd_random_rows ();
  gdouble mb = (gdouble) ROWS * WIDTH * 2 / 1e6, a, b;

  for (gint r = 0; r < options->repeats; r++) {
    g_unlink (plain);
    g_unlink (cache);
    kd_tool_remove (parts);
    if ((theirs[r] = kd_write_plain (plain, chunks, error)) < 0 || (ours[r] = kd_write_cache (cache, chunks, error)) < 0)
      return FALSE;
  }
  a = kd_bench_median (ours, (guint) options->repeats);
  b = kd_bench_median (theirs, (guint) options->repeats);
  g_print ("writing %.0f MB to %s, median of %d\n\n%-26s %10s\n%-26s %10.0f\n%-26s %10.0f\n\n", mb, dir, options->repeats, "", "MB/s",
      "kdstream cache, committed", mb / a, "write and fsync", mb / b);
  g_print ("ratio: %.2f\ntarget: at least 0.5: %s\n\n", b / a, kd_bench_verdict (b / a >= 0.5));
  g_unlink (plain);
  return TRUE;
}

static gboolean
kd_measure_read (const KdBenchOptions *options, const gchar *cache, GError **error)
{
  g_autoptr (KdCacheReader) reader = kd_cache_reader_open (cache, error);
  g_autofree gdouble *times = g_new0 (gdouble, (gsize) options->repeats);
  g_autofree gchar *batch = g_strdup_printf ("%d", BATCH), *batches = g_strdup_printf ("%d", N_BATCHES);
  const gchar *args[] = { cache, "teacher.logits", batch, batches, NULL };
  g_autoptr (JsonObject) peer = NULL;
  g_autoptr (GError) missing = NULL;
  gdouble ours, numpy, h5py;

  if (!reader || kd_read_random (reader, 0, error) < 0) /* warm up: checksums are looked at on first touch */
    return FALSE;
  for (gint r = 0; r < options->repeats; r++)
    if ((times[r] = kd_read_random (reader, (guint64) r + 1, error)) < 0)
      return FALSE;
  ours = kd_bench_median (times, (guint) options->repeats) * 1e6;
  g_print ("%d random rows of %d float16, median of %d\n\n%-26s %12s\n%-26s %12.2f\n", BATCH, WIDTH, options->repeats, "", "us a batch",
      "kdstream cache", ours);
  peer = kd_bench_python ("cache_read.py", args, &missing);
  if (!peer) {
    g_printerr ("no peer: %s\n", missing->message);
    return TRUE;
  }
  numpy = json_object_get_double_member (peer, "numpy") * 1e6;
  h5py = json_object_get_double_member (peer, "h5py") * 1e6;
  g_print ("%-26s %12.2f\n%-26s %12.2f\n(%s)\n\nratio to numpy: %.2f times as fast; target: at least 1: %s\nratio to h5py: %.0f times as fast; target: at least 100: %s\n", "numpy, array in memory", numpy,
      "h5py, same file", h5py, json_object_get_string_member (peer, "version"), numpy / ours, kd_bench_verdict (numpy / ours >= 1), h5py / ours,
      kd_bench_verdict (h5py / ours >= 100));
  return TRUE;
}

int
kd_bench_cache (const KdBenchOptions *options)
{
  g_autoptr (GError) error = NULL;
  g_autofree gchar *dir = g_dir_make_tmp ("kd-bench-XXXXXX", &error);
  g_autofree gchar *cache = dir ? g_build_filename (dir, "teacher.h5", NULL) : NULL;
  gboolean ok = dir && kd_measure_write (options, dir, cache, &error) && kd_measure_read (options, cache, &error);

  if (!ok)
    kd_tool_fail ("%s", error->message);
  if (dir)
    kd_tool_remove (dir);
  return ok ? KD_EXIT_DONE : KD_EXIT_FAILED;
}
