/* kd bench cache: capture, random and sequential rows, compressed rows, opening and memory, beside what others do with the same rows. */
#include "kd-bench.h"
#include "kd-bench-cache.h"
#include <errno.h>
#include <fcntl.h>
#include <glib/gstdio.h>
#include <string.h>
#include <unistd.h>

#define N_BATCHES 1000
#define STEP_ROWS 1024
/* All rows so often: what is written must be more than a disk takes at once. */
#define N_WRITES 4

static gdouble
seconds_since (gint64 start)
{
  return (gdouble) MAX (g_get_monotonic_time () - start, 1) / G_USEC_PER_SEC;
}

void
kd_bench_cache_line (const gchar *what, gdouble ours, gdouble theirs, const gchar *unit, const gchar *peer, gdouble ratio, gdouble target)
{
  g_autofree gchar *theirs_text = theirs > 0 ? g_strdup_printf ("%10.1f", theirs) : g_strdup ("          ");
  g_autofree gchar *end = target > 0 ? g_strdup_printf ("  target %g: %s", target, kd_bench_verdict (ratio >= target)) : g_strdup ("");

  g_print ("%-26s %10.1f %s  %-5s %-22s %8.2f%s\n", what, ours, theirs_text, unit, peer, ratio, end);
}

/* dd conv=fsync in a few lines. */
static gdouble
write_plain (const gchar *path, GPtrArray *chunks, GError **error)
{
  gint64 start = g_get_monotonic_time ();
  int fd = open (path, O_CREAT | O_TRUNC | O_WRONLY | O_CLOEXEC, 0666);
  gboolean ok = fd >= 0;

  for (guint c = 0; ok && c < N_WRITES * chunks->len; c++) {
    KdTensor *tensor = chunks->pdata[c % chunks->len];

    ok = write (fd, tensor->data, tensor->n_bytes) == (gssize) tensor->n_bytes;
  }
  ok = ok && fsync (fd) == 0;
  if (!ok)
    g_set_error (error, KD_ERROR, KD_ERROR_IO, "Cannot write: path=\"%s\", reason=%s", path, g_strerror (errno));
  if (fd >= 0)
    close (fd);
  return ok ? seconds_since (start) : -1;
}

/* By turns, since a disk has good and bad moments. */
static gboolean
measure_write (const KdBenchCache *bench, GError **error)
{
  guint n = (guint) bench->options->repeats;
  g_autofree gdouble *ours = g_new0 (gdouble, n), *theirs = g_new0 (gdouble, n);
  g_autoptr (GPtrArray) chunks = kd_bench_cache_rows (FALSE);
  gdouble mb = (gdouble) KD_BENCH_ROWS * KD_BENCH_WIDTH * 2 * N_WRITES / 1e6, a, b;

  for (guint r = 0; r < n; r++) {
    g_autofree gchar *parts = g_strconcat (bench->scratch, ".h5.parts", NULL), *path = g_strconcat (bench->scratch, ".h5", NULL);
    gint64 start;
    g_unlink (bench->scratch);
    theirs[r] = write_plain (bench->scratch, chunks, error);
    start = g_get_monotonic_time ();
    if (theirs[r] < 0 || !kd_bench_cache_write (path, chunks, N_WRITES, (gsize) 64 << 20, error))
      return FALSE;
    ours[r] = seconds_since (start);
    g_unlink (path);
    kd_tool_remove (parts);
  }
  g_unlink (bench->scratch);
  a = mb / kd_bench_median (ours, n);
  b = mb / kd_bench_median (theirs, n);
  kd_bench_cache_line ("capture, committed", a, b, "MB/s", "write and fsync (dd)", a / b, 0.5);
  return kd_bench_cache_write (bench->cache, chunks, 1, (gsize) 64 << 20, error);
}

static gdouble
read_random (KdCacheReader *reader, guint64 seed, GError **error)
{
  gint64 ids[KD_BENCH_BATCH], rows[KD_BENCH_BATCH], spent = 0;
  KdRandom random;

  kd_random_init (&random, seed, kd_random_purpose ("kd-bench-read"), 0, 0);
  for (guint b = 0; b < N_BATCHES; b++) {
    g_autoptr (KdTensor) tensor = NULL;
    gint64 start;

    for (guint i = 0; i < KD_BENCH_BATCH; i++)
      ids[i] = (gint64) kd_random_below (&random, KD_BENCH_ROWS);
    start = g_get_monotonic_time ();
    kd_cache_reader_find (reader, KD_BENCH_BATCH, ids, NULL, rows);
    tensor = kd_cache_reader_take (reader, KD_BENCH_FIELD, KD_BENCH_BATCH, rows, error);
    spent += g_get_monotonic_time () - start;
    if (!tensor)
      return -1;
  }
  return (gdouble) spent / G_USEC_PER_SEC / N_BATCHES;
}

/* What is read is looked at, a number a line of the processor's cache: on both sides, for ours may be a view that nobody has copied. */
static guint64
look_at (gconstpointer data, gsize n)
{
  guint64 sum = 0;

  for (gsize i = 0; i + 8 <= n; i += 64)
    sum += *(const guint64 *) ((const guint8 *) data + i);
  return sum;
}

static volatile guint64 looked_at;

/* All rows in order; bytes a second. */
static gdouble
read_in_order (gpointer data, GError **error)
{
  KdCacheReader *reader = data;
  gint64 n = kd_cache_reader_n_rows (reader), rows[STEP_ROWS], start = g_get_monotonic_time ();
  gdouble bytes = 0;

  for (gint64 first = 0; first < n; first += STEP_ROWS) {
    gint64 now = MIN (STEP_ROWS, n - first);
    g_autoptr (KdTensor) tensor = NULL;
    for (gint64 i = 0; i < now; i++)
      rows[i] = first + i;
    tensor = kd_cache_reader_take (reader, KD_BENCH_FIELD, now, rows, error);
    if (!tensor)
      return -1;
    looked_at += look_at (tensor->data, tensor->n_bytes);
    bytes += (gdouble) tensor->n_bytes;
  }
  return bytes / seconds_since (start);
}

/* read(2) over the parts, in pieces as large as our batches. */
static gdouble
read_plain (gpointer data, GError **error)
{
  const gchar *parts = data;
  g_autoptr (GDir) dir = g_dir_open (parts, 0, error);
  gsize piece = STEP_ROWS * KD_BENCH_WIDTH * 2;
  g_autofree guint8 *buffer = g_malloc (piece);
  gint64 start = g_get_monotonic_time ();
  const gchar *name;
  gdouble bytes = 0;

  while (dir && (name = g_dir_read_name (dir))) {
    g_autofree gchar *path = g_build_filename (parts, name, NULL);
    int fd = g_str_has_suffix (name, ".h5") ? open (path, O_RDONLY | O_CLOEXEC) : -1;
    gssize got = 0;
    while (fd >= 0 && (got = read (fd, buffer, piece)) > 0) {
      looked_at += look_at (buffer, (gsize) got);
      bytes += (gdouble) got;
    }
    if (fd >= 0)
      close (fd);
  }
  return dir ? bytes / seconds_since (start) : -1;
}

/* @read of @path, median of the repeats; the first time warms up (checksums are looked at then) and does not count. */
static gdouble
median_of (gdouble (*read) (gpointer data, GError **error), gpointer path, gint repeats, GError **error)
{
  g_autofree gdouble *values = g_new0 (gdouble, (gsize) repeats);

  if (read (path, error) < 0)
    return -1;
  for (gint r = 0; r < repeats; r++)
    if ((values[r] = read (path, error)) < 0)
      return -1;
  return kd_bench_median (values, (guint) repeats);
}

static void
peer_line (JsonObject *peer, const gchar *member, const gchar *name, gdouble ours, gdouble target)
{
  gdouble theirs = peer && json_object_has_member (peer, member) && !json_object_get_null_member (peer, member) ? json_object_get_double_member (peer, member) * 1e6 : 0;

  if (theirs > 0)
    kd_bench_cache_line ("256 random rows", ours, theirs, "us", name, theirs / ours, target);
  else
    g_print ("%-26s %10.1f %10s  %-5s %-22s not installed\n", "256 random rows", ours, "", "us", name);
}

static gboolean
measure_random (const KdBenchCache *bench, JsonObject *peer, GError **error)
{
  g_autoptr (KdCacheReader) reader = kd_cache_reader_open (bench->cache, error);
  g_autofree gdouble *times = g_new0 (gdouble, (gsize) bench->options->repeats);
  gdouble ours;

  if (!reader || read_random (reader, 0, error) < 0) /* warm up: checksums are looked at on first touch */
    return FALSE;
  for (gint r = 0; r < bench->options->repeats; r++)
    if ((times[r] = read_random (reader, (guint64) r + 1, error)) < 0)
      return FALSE;
  ours = kd_bench_median (times, (guint) bench->options->repeats) * 1e6;
  peer_line (peer, "memmap", "numpy memmap", ours, 1);
  peer_line (peer, "memory", "numpy array in memory", ours, 0);
  peer_line (peer, "h5py", "h5py", ours, 100);
  peer_line (peer, "torch", "torch.save a sample", ours, 0);
  peer_line (peer, "zarr", "zarr, blosc", ours, 0);
  return TRUE;
}

static gboolean
measure_order (const KdBenchCache *bench, JsonObject *peer, GError **error)
{
  g_autofree gchar *parts = g_strconcat (bench->cache, ".parts", NULL), *name = g_strdup_printf ("h5py, %s", bench->filter);
  g_autoptr (KdCacheReader) reader = kd_cache_reader_open (bench->cache, error), packed_reader = reader ? kd_cache_reader_open (bench->packed, error) : NULL;
  gdouble plain = packed_reader ? median_of (read_plain, parts, bench->options->repeats, error) : -1;
  gdouble ours = plain < 0 ? -1 : median_of (read_in_order, reader, bench->options->repeats, error);
  gdouble packed = ours < 0 ? -1 : median_of (read_in_order, packed_reader, bench->options->repeats, error);
  gdouble theirs = peer && !json_object_get_null_member (peer, "packed") ? json_object_get_double_member (peer, "packed") : 0;

  if (packed < 0)
    return FALSE;
  kd_bench_cache_line ("all rows in order", ours / 1e6, plain / 1e6, "MB/s", "read(2)", ours / plain, 1 / 1.1);
  kd_bench_cache_line ("compressed, in order", packed / 1e6, theirs / 1e6, "MB/s", theirs > 0 ? name : "h5py has no filter", theirs > 0 ? packed / theirs : 0, theirs > 0 ? 1.5 : 0);
  return TRUE;
}

/* The cache, one contiguous file of it, and a compressed one of rows that have something to compress. */
static gboolean
prepare (KdBenchCache *bench, GError **error)
{
  g_autoptr (GPtrArray) features = kd_bench_cache_rows (TRUE);
  g_autofree gchar *source = g_build_filename (bench->folder, "features.h5", NULL);
  g_autoptr (GError) why = NULL;

  if (!kd_cache_pack (bench->cache, bench->plain, "none", 0, NULL, NULL, error) || !kd_bench_cache_write (source, features, 1, (gsize) 64 << 20, error))
    return FALSE;
  bench->filter = "blosc-lz4";
  if (kd_cache_pack (source, bench->packed, bench->filter, 0, NULL, NULL, &why))
    return TRUE;
  bench->filter = "deflate"; /* built without libblosc */
  return kd_cache_pack (source, bench->packed, bench->filter, 0, NULL, NULL, error);
}

static gboolean
measure (KdBenchCache *bench, GError **error)
{
  g_autofree gchar *rows = g_strdup_printf ("%d", KD_BENCH_BATCH), *batches = g_strdup_printf ("%d", N_BATCHES);
  g_autoptr (JsonObject) peer = NULL;
  g_autoptr (GError) missing = NULL;

  g_print ("%d rows of %d float16 in %s, median of %d\n\n%-26s %10s %10s  %-5s %-22s %8s\n", KD_BENCH_ROWS, KD_BENCH_WIDTH, bench->folder, bench->options->repeats, "", "kdstream",
      "peer", "unit", "peer", "ratio");
  if (!measure_write (bench, error) || !prepare (bench, error))
    return FALSE;
  {
    const gchar *args[] = { bench->cache, bench->plain, bench->packed, KD_BENCH_FIELD, rows, batches, bench->folder, NULL };
    peer = kd_bench_python ("cache_read.py", args, &missing);
  }
  if (!measure_random (bench, peer, error) || !measure_order (bench, peer, error) || !kd_bench_cache_open (bench, error) || !kd_bench_cache_memory (bench, error))
    return FALSE;
  if (peer)
    g_print ("\n(%s; the ratio says how many times as fast kdstream is)\n", json_object_get_string_member (peer, "version"));
  else
    g_printerr ("no peer: %s\n", missing->message);
  return TRUE;
}

int
kd_bench_cache (const KdBenchOptions *options)
{
  g_autoptr (GError) error = NULL;
  g_autofree gchar *dir = g_dir_make_tmp ("kd-bench-XXXXXX", &error);
  KdBenchCache bench = { .options = options, .folder = dir };
  gboolean ok = FALSE;

  if (dir) {
    bench.cache = g_build_filename (dir, "teacher.h5", NULL);
    bench.plain = g_build_filename (dir, "plain.h5", NULL);
    bench.packed = g_build_filename (dir, "packed.h5", NULL);
    bench.scratch = g_build_filename (dir, "scratch", NULL);
    ok = measure (&bench, &error);
    kd_tool_remove (dir);
  }
  g_free (bench.cache);
  g_free (bench.plain);
  g_free (bench.packed);
  g_free (bench.scratch);
  if (!ok)
    kd_tool_fail ("%s", error->message);
  return ok ? KD_EXIT_DONE : KD_EXIT_FAILED;
}
