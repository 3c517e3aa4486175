/* kd bench cache: rows, and caches that are large: of many parts, and of more bytes than should ever be in memory. */
#include "kd-bench-cache.h"
#include <glib/gstdio.h>
#include <sys/statvfs.h>

#define N_PARTS 1000
#define OPEN_TARGET_MS 50
#define MEMORY_TARGET_MB 100
#define N_BATCHES 2000

static KdTensor *
make_chunk (gint64 first, gboolean rectified)
{
  const gint64 dims[] = { KD_BENCH_CHUNK, KD_BENCH_WIDTH };
  KdTensor *tensor = kd_tensor_new (KD_FLOAT16, 2, dims);
  KdRandom random;

  kd_random_init (&random, 1, kd_random_purpose ("kd-bench"), 0, (uint64_t) first);
  if (rectified)
    for (gsize i = 0; i < tensor->n_bytes / 2; i++)
      ((guint16 *) tensor->data)[i] = kd_float_to_half ((gfloat) MAX (0, 2 * kd_random_normal (&random)));
  else
    for (gsize i = 0; i < tensor->n_bytes / 4; i++) /* exponents below the largest */
      ((guint32 *) tensor->data)[i] = kd_random_u32 (&random) & 0xbbffbbff;
  return tensor;
}

GPtrArray *
kd_bench_cache_rows (gboolean rectified)
{
  GPtrArray *chunks = g_ptr_array_new_with_free_func ((GDestroyNotify) kd_tensor_unref);

  for (gint64 first = 0; first < KD_BENCH_ROWS; first += KD_BENCH_CHUNK)
    g_ptr_array_add (chunks, make_chunk (first, rectified));
  return chunks;
}

gboolean
kd_bench_cache_write (const gchar *path, GPtrArray *chunks, guint repeat, gsize part_bytes, GError **error)
{
  const KdCacheIdentity identity = { NULL };
  const gchar *name = KD_BENCH_FIELD;
  g_autofree gint64 *ids = g_new (gint64, KD_BENCH_CHUNK);
  g_autoptr (KdCacheWriter) writer = kd_cache_writer_open (path, FALSE, &identity, part_bytes, error);
  gint64 next = 0;

  for (guint r = 0; writer && r < repeat; r++)
    for (guint c = 0; c < chunks->len; c++) {
      KdTensor *tensors[] = { chunks->pdata[c] };

      for (gint64 i = 0; i < tensors[0]->dims[0]; i++)
        ids[i] = next++;
      if (!kd_cache_writer_append (writer, tensors[0]->dims[0], ids, NULL, 1, &name, tensors, error))
        return FALSE;
    }
  return writer && kd_cache_writer_finish (writer, error);
}

/* A cache with parts and without the master file, which only h5py needs. */
static void
remove_cache (const gchar *path)
{
  g_autofree gchar *parts = g_strconcat (path, ".parts", NULL);

  g_unlink (path);
  kd_tool_remove (parts);
}

gboolean
kd_bench_cache_open (const KdBenchCache *bench, GError **error)
{
  g_autofree gchar *path = g_build_filename (bench->folder, "parts.h5", NULL);
  g_autofree gdouble *times = g_new0 (gdouble, (gsize) bench->options->repeats);
  g_autoptr (GPtrArray) chunks = g_ptr_array_new_with_free_func ((GDestroyNotify) kd_tensor_unref);
  g_autoptr (KdTensor) chunk = make_chunk (0, FALSE);
  gdouble median;

  g_ptr_array_add (chunks, kd_tensor_slice (chunk, 0, 10));
  if (!kd_bench_cache_write (path, chunks, N_PARTS, 1, error))
    return FALSE;
  for (gint r = 0; r < bench->options->repeats; r++) {
    gint64 start = g_get_monotonic_time ();
    g_autoptr (KdCacheReader) reader = kd_cache_reader_open (path, error);
    if (!reader)
      return FALSE;
    times[r] = (gdouble) (g_get_monotonic_time () - start) / 1e3;
  }
  median = kd_bench_median (times, (guint) bench->options->repeats);
  g_print ("%-26s %10.1f %10s  %-5s %-31s  target %d: %s\n", "open, 1000 parts", median, "", "ms", "", OPEN_TARGET_MS, kd_bench_verdict (median <= OPEN_TARGET_MS));
  remove_cache (path);
  return TRUE;
}

/* Rows of one batch: any, or (@first not negative) those from there on. */
static gboolean
take_batch (KdCacheReader *reader, gint64 n_rows, gint64 first, KdRandom *random, GError **error)
{
  g_autoptr (KdTensor) tensor = NULL;
  gint64 rows[KD_BENCH_BATCH], n = first < 0 ? KD_BENCH_BATCH : MIN (KD_BENCH_BATCH, n_rows - first);

  for (gint64 i = 0; i < n; i++)
    rows[i] = first < 0 ? (gint64) kd_random_below (random, (guint64) n_rows) : first + i;
  tensor = kd_cache_reader_take (reader, KD_BENCH_FIELD, n, rows, error);
  return tensor != NULL;
}

/* Random batches that touch a good part of the cache, then all rows in order; what is resident at the most. */
static gboolean
read_all (const gchar *path, gint64 n_rows, gdouble *ret_random, gdouble *ret_order, GError **error)
{
  KdBenchMemory *memory = kd_bench_memory_start ();
  g_autoptr (KdCacheReader) reader = kd_cache_reader_open (path, error);
  KdRandom random;
  gboolean good = reader != NULL;

  kd_random_init (&random, 1, kd_random_purpose ("kd-bench-memory"), 0, 0);
  for (guint b = 0; good && b < N_BATCHES; b++)
    good = take_batch (reader, n_rows, -1, &random, error);
  *ret_random = kd_bench_memory_stop (memory);
  memory = kd_bench_memory_start ();
  for (gint64 first = 0; good && first < n_rows; first += KD_BENCH_BATCH)
    good = take_batch (reader, n_rows, first, &random, error);
  *ret_order = *ret_random + kd_bench_memory_stop (memory);
  return good;
}

static void
print_memory (const gchar *what, gdouble bytes, guint64 size)
{
  g_autofree gchar *name = g_strdup_printf ("%s, %.3g GB", what, (gdouble) size / 1e9);

  bytes = MAX (bytes - KD_BENCH_BATCH * KD_BENCH_WIDTH * 2, 0); /* less one batch */
  g_print ("%-26s %10.1f %10s  %-5s %-31s  target %d: %s\n", name, bytes / 1e6, "", "MB", "", MEMORY_TARGET_MB, kd_bench_verdict (bytes <= MEMORY_TARGET_MB * 1e6));
}

gboolean
kd_bench_cache_memory (const KdBenchCache *bench, GError **error)
{
  g_autofree gchar *path = g_build_filename (bench->folder, "large.h5", NULL);
  g_autoptr (GPtrArray) chunks = NULL;
  guint64 one = (guint64) KD_BENCH_ROWS * KD_BENCH_WIDTH * 2;
  guint repeat = (guint) (((guint64) (bench->options->gigabytes * 1e9) + one - 1) / one);
  struct statvfs disk;
  gdouble any_row = 0, in_order = 0;
  gboolean good;

  if (statvfs (bench->folder, &disk) == 0 && (guint64) disk.f_bavail * disk.f_frsize < (guint64) repeat * one * 5 / 4) {
    g_print ("%-26s %10s %10s  %-5s not measured: %s has no room for %g GB\n", "memory", "", "", "MB", bench->folder, bench->options->gigabytes);
    return TRUE;
  }
  chunks = kd_bench_cache_rows (FALSE);
  good = kd_bench_cache_write (path, chunks, repeat, (gsize) 64 << 20, error);
  g_clear_pointer (&chunks, g_ptr_array_unref);
  good = good && read_all (path, (gint64) repeat * KD_BENCH_ROWS, &any_row, &in_order, error);
  if (good) {
    print_memory ("memory, random", any_row, repeat * one);
    print_memory ("memory, in order", in_order, repeat * one);
  }
  remove_cache (path);
  return good;
}
