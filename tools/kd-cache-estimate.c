/* kd cache estimate: how large a cache will be, before the capture, with every encoding. */
#include "kd-cache-tool.h"

#include <errno.h>
#include <fcntl.h>
#include <kd/kd.h>
#include "math/kd-packed.h"
#include <string.h>
#include <sys/statvfs.h>
#include <unistd.h>

/* How much is written to measure a disk: what stays in its cache alone would flatter it. */
#define PROBE_BYTES ((gsize) 128 << 20)
#define PROBE_STEP_BYTES ((gsize) 8 << 20)
#define PART_BYTES ((gint64) 64 << 20)

void
kd_cache_row (const gchar *name, const gchar *format, ...)
{
  g_autofree gchar *text = NULL;
  va_list args;

  va_start (args, format);
  text = g_strdup_vprintf (format, args);
  va_end (args);
  g_print ("%-14s %s\n", name, text);
}

gchar *
kd_cache_size_text (guint64 bytes)
{
  return g_format_size_full (bytes, bytes < 1000 ? G_FORMAT_SIZE_DEFAULT : G_FORMAT_SIZE_LONG_FORMAT);
}

/* Bytes a second that reach the disk of @folder, 0 when it cannot be written. */
static gdouble
measure_disk (const gchar *folder, guint64 free_bytes)
{
  g_autofree gchar *path = g_strdup_printf ("%s/.kd-estimate.partial-%d", folder, (int) getpid ()), *block = g_malloc (PROBE_STEP_BYTES);
  gsize wanted = MIN (PROBE_BYTES, free_bytes / 4 / PROBE_STEP_BYTES * PROBE_STEP_BYTES), done = 0;
  int fd = open (path, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
  gint64 started = g_get_monotonic_time ();
  gboolean good = fd >= 0;

  /* Not zeros: some disks pack them. */
  for (gsize i = 0; i < PROBE_STEP_BYTES; i++)
    block[i] = (gchar) (i * 2654435761u >> 13);
  for (; good && done < wanted; done += PROBE_STEP_BYTES)
    good = write (fd, block, PROBE_STEP_BYTES) == (gssize) PROBE_STEP_BYTES;
  good = good && done && fsync (fd) == 0;
  if (fd >= 0) {
    close (fd);
    unlink (path);
  }
  return good ? (gdouble) done / MAX ((gdouble) (g_get_monotonic_time () - started) / G_USEC_PER_SEC, 1e-6) : 0;
}

static gboolean
layout_bytes (const KdLayout *layout, gint64 *ret_bytes, GError **error)
{
  *ret_bytes = 2 * (gint64) sizeof (gint64); /* sample.id and sample.view */
  for (guint i = 0; i < kd_layout_n_fields (layout); i++) {
    const KdLayoutField *field = kd_layout_nth (layout, i);
    gint64 dims[KD_MAX_RANK];
    gsize bytes = 0;
    memcpy (dims, field->dims, sizeof dims);
    dims[0] = 1;
    if (field->rank == 0 || field->dtype == KD_UTF8 || !kd_shape_bytes (field->dtype, field->rank, dims, &bytes)) {
      g_set_error (error, KD_ERROR, KD_ERROR_SHAPE, "Size not known: field=%s; give every axis as a number: teacher.logits=float16:1000", field->name);
      return FALSE;
    }
    *ret_bytes += (gint64) bytes;
  }
  return TRUE;
}

/* What a field takes with the words of kdcachesink's `encoding`; V is its last axis, L its rows in a sample. */
typedef struct {
  const gchar *words, *note;
  KdDtype floats;
  gboolean logprob, topk, sampled, packed;
} Choice;

static const Choice choices[] = {
  { "float32", NULL, KD_FLOAT32 },
  { "float16", NULL, KD_FLOAT16 },
  { "bfloat16", NULL, KD_BFLOAT16 },
  { "logprob8", "a byte a log-probability", 0, .logprob = TRUE },
  { "topk", NULL, 0, .topk = TRUE },
  { "sampled", NULL, 0, .sampled = TRUE },
  { "topk,teacher.topk.logprobs=logprob5,teacher.topk.lse=float16", "then kd cache pack --pack-index, without a filter", 0, .topk = TRUE, .packed = TRUE },
};

static gint64
field_bytes (const KdLayoutField *field, const Choice *choice, gint64 k)
{
  gint64 wide = field->rank > 1 ? field->dims[field->rank - 1] : 1, n = 1, id = wide <= G_MAXUINT16 ? 2 : 4;
  gboolean logits = g_str_has_suffix (field->name, ".logits") && field->rank > 1;

  for (guint i = 1; i + 1 < field->rank; i++)
    n *= field->dims[i];
  if (logits && choice->logprob)
    return n * (wide + 4);
  if (g_str_equal (field->name, "teacher.logits") && field->rank > 1 && choice->packed)
    return n * ((gint64) kd_packed_bytes (k, wide + 1) + k + 4 + 2);
  if (g_str_equal (field->name, "teacher.logits") && field->rank > 1 && (choice->topk || choice->sampled))
    return n * (k * (id + 2) + (choice->topk ? 4 : 0));
  return n * wide * (gint64) kd_dtype_size (choice->floats && (field->dtype & KD_ANY_FLOAT) ? choice->floats : field->dtype);
}

/* One line an encoding that the layout has a field for. */
static void
print_choices (const KdLayout *layout, gint64 rows, gint64 k, gdouble speed, guint64 free_bytes)
{
  const KdLayoutField *logits = kd_layout_find (layout, "teacher.logits");
  gboolean cut = logits && logits->rank > 1 && k <= logits->dims[logits->rank - 1];

  g_print ("\n%12s %10s %10s  %s\n", "bytes a row", "total", "writing", "kdcachesink encoding=");
  for (guint c = 0; c < G_N_ELEMENTS (choices); c++) {
    gint64 bytes = 2 * (gint64) sizeof (gint64);
    g_autofree gchar *total = NULL, *time = NULL;
    if ((choices[c].topk || choices[c].sampled) && !cut)
      continue;
    for (guint i = 0; i < kd_layout_n_fields (layout); i++)
      bytes += field_bytes (kd_layout_nth (layout, i), &choices[c], k);
    total = g_format_size ((guint64) rows * (guint64) bytes);
    time = speed > 0 ? kd_tool_duration ((gdouble) rows * (gdouble) bytes / speed) : g_strdup ("?");
    g_print ("%12" G_GINT64_FORMAT " %10s %10s  %s", bytes, total, time, choices[c].words);
    if (choices[c].topk || choices[c].sampled)
      g_print (" k=%" G_GINT64_FORMAT, k);
    g_print ("%s%s%s\n", choices[c].note ? "; " : "", choices[c].note ? choices[c].note : "", (guint64) rows * (guint64) bytes < free_bytes ? "" : "; does not fit");
  }
}

static int
print_estimate (const KdLayout *layout, gint64 rows, gint64 row_bytes, gint64 k, const gchar *folder)
{
  g_autofree gchar *total_text = NULL, *free_text = NULL, *speed_text = NULL, *time_text = NULL;
  struct statvfs disk;
  guint64 total, free_bytes;
  gdouble speed;

  if (statvfs (folder, &disk) < 0)
    return kd_tool_fail ("Cannot look at the disk: folder=\"%s\", reason=%s", folder, g_strerror (errno));
  if (!g_uint64_checked_mul (&total, (guint64) rows, (guint64) row_bytes))
    return kd_tool_fail ("Too many rows: rows=%" G_GINT64_FORMAT ", bytes a row=%" G_GINT64_FORMAT, rows, row_bytes);
  free_bytes = (guint64) disk.f_bavail * disk.f_frsize;
  speed = measure_disk (folder, free_bytes);
  total_text = kd_cache_size_text (total);
  free_text = kd_cache_size_text (free_bytes);
  speed_text = g_format_size ((guint64) speed);
  time_text = kd_tool_duration ((gdouble) total / MAX (speed, 1));
  kd_cache_row ("bytes a row", "%" G_GINT64_FORMAT " (16 of them the key)", row_bytes);
  kd_cache_row ("rows", "%" G_GINT64_FORMAT, rows);
  kd_cache_row ("total", "%s in %" G_GUINT64_FORMAT " parts", total_text, (total + PART_BYTES - 1) / PART_BYTES);
  kd_cache_row ("free", "%s in %s", free_text, folder);
  if (speed > 0)
    kd_cache_row ("writing", "%s at %s/s, measured here with fsync; the teacher's own time comes on top", time_text, speed_text);
  else
    kd_cache_row ("writing", "not measured: the folder cannot be written");
  print_choices (layout, rows, k, speed, free_bytes);
  if (total < free_bytes)
    return KD_EXIT_DONE;
  return kd_tool_fail ("Disk too small: wanted=%" G_GUINT64_FORMAT " bytes, free=%" G_GUINT64_FORMAT
                       " bytes; store less of it (see the encodings above), cache fewer fields, or choose another disk",
      total, free_bytes);
}

int
kd_cache_estimate (int argc, char **argv)
{
  gint64 rows = -1, row_bytes = 0, k = 64;
  g_autofree gchar *folder = NULL;
  const GOptionEntry options[] = {
    { "rows", 'n', 0, G_OPTION_ARG_INT64, &rows, "How many samples", "N" },
    { "k", 'k', 0, G_OPTION_ARG_INT64, &k, "Ids a row of encoding=topk and sampled (default 64)", "N" },
    { "folder", 'd', 0, G_OPTION_ARG_FILENAME, &folder, "Where the cache is to be (default: here)", "FOLDER" },
    { NULL },
  };
  g_autoptr (KdLayout) layout = NULL;
  g_autoptr (GError) error = NULL;

  if (!kd_tool_options (&argc, &argv, options, "LAYOUT [DATA]", "Say how large a cache will be and how long writing it takes, before the capture.",
          "Examples:\n  kd cache estimate teacher.logits=float16:1000 --rows 1281167\n"
          "  kd cache estimate 'teacher.logits=float32:10 teacher.features.block2=float16:64x8x8' train.h5\n\n"
          "The first lines are for the fields as they come; the table is for each encoding of kdcachesink. DATA is a batch file whose rows are counted. "
          "Exit code 1: it does not fit as it comes."))
    return KD_EXIT_USAGE;
  if (argc < 2 || argc > 3 || (rows < 0) == (argc == 2))
    return kd_tool_usage ("wanted a layout, and either --rows or a batch file");
  if (k < 1 || k > 1 << 20)
    return kd_tool_usage ("--k=%" G_GINT64_FORMAT ", wanted 1 to %d", k, 1 << 20);
  layout = kd_layout_from_string (argv[1], &error);
  if (!layout || !layout_bytes (layout, &row_bytes, &error))
    return kd_tool_usage ("%s", error->message);
  if (argc == 3) {
    g_autoptr (KdH5Reader) reader = kd_h5_reader_open (argv[2], NULL, &error);
    if (!reader || !kd_h5_reader_check_rows (reader, &error))
      return kd_tool_fail ("%s", error->message);
    rows = kd_h5_reader_n_rows (reader);
  }
  return print_estimate (layout, rows, row_bytes, k, folder ? folder : ".");
}
