/* The line that says how far a run is: on a terminal one line that is written over, elsewhere (a log) a line now and then. */
#include "kd-launch.h"
#include <math.h>
#include <string.h>
#include <sys/ioctl.h>
#include <unistd.h>

#define KD_LOG_EVERY_US (10 * G_USEC_PER_SEC)

struct _KdProgress {
  gboolean quiet, terminal, shown, changed;
  gint64 started_us, logged_us;
  guint64 samples, total, step, rows;
  guint epoch;
  gdouble loss, rate, bytes_rate, disk_wait;
  gboolean has_epoch;
  gchar *metrics;    /* the last epoch's, short */
  GPtrArray *finals; /* lines: the last metrics of each element */
  GPtrArray *final_names;
};

KdProgress *
kd_progress_new (gboolean quiet)
{
  KdProgress *progress = g_new0 (KdProgress, 1);

  progress->quiet = quiet;
  progress->terminal = kd_tool_is_terminal (stderr);
  progress->started_us = progress->logged_us = g_get_monotonic_time ();
  progress->loss = NAN;
  progress->finals = g_ptr_array_new_with_free_func (g_free);
  progress->final_names = g_ptr_array_new_with_free_func (g_free);
  return progress;
}

void
kd_progress_free (KdProgress *progress)
{
  g_free (progress->metrics);
  g_ptr_array_unref (progress->finals);
  g_ptr_array_unref (progress->final_names);
  g_free (progress);
}

/* Any numeric field as a double. */
static gboolean
kd_structure_number (const GstStructure *structure, const gchar *field, gdouble *ret)
{
  const GValue *value = gst_structure_get_value (structure, field);
  GValue number = G_VALUE_INIT;

  if (!value || !g_value_type_transformable (G_VALUE_TYPE (value), G_TYPE_DOUBLE) || G_VALUE_HOLDS_STRING (value))
    return FALSE;
  g_value_init (&number, G_TYPE_DOUBLE);
  g_value_transform (value, &number);
  *ret = g_value_get_double (&number);
  return TRUE;
}

typedef struct {
  GString *text;
  guint n;
} KdMetricText;

static gboolean
kd_metric_append (GQuark field, const GValue *value, gpointer user_data)
{
  static const gchar *const positions[] = { "epoch", "final", "step", "count", "samples", NULL };
  KdMetricText *metrics = user_data;
  const gchar *name = g_quark_to_string (field);
  GValue number = G_VALUE_INIT;
  g_autofree gchar *text = NULL;

  if (g_strv_contains (positions, name) || G_VALUE_HOLDS_STRING (value) || !g_value_type_transformable (G_VALUE_TYPE (value), G_TYPE_DOUBLE))
    return TRUE;
  g_value_init (&number, G_TYPE_DOUBLE);
  g_value_transform (value, &number);
  text = kd_tool_number (g_value_get_double (&number));
  g_string_append_printf (metrics->text, "%s%s %s", metrics->n++ ? ", " : "", name, text);
  return TRUE;
}

static void
kd_progress_metrics (KdProgress *progress, const gchar *element, const GstStructure *structure)
{
  KdMetricText metrics = { g_string_new (NULL), 0 };
  gdouble count = 0;
  guint i;

  gst_structure_foreach (structure, kd_metric_append, &metrics);
  g_free (progress->metrics);
  progress->metrics = g_string_free (metrics.text, FALSE);
  kd_structure_number (structure, "count", &count);
  if (!g_ptr_array_find_with_equal_func (progress->final_names, element, g_str_equal, &i)) {
    i = progress->final_names->len;
    g_ptr_array_add (progress->final_names, g_strdup (element));
    g_ptr_array_add (progress->finals, NULL);
  }
  g_free (progress->finals->pdata[i]);
  progress->finals->pdata[i] = count > 0 ? g_strdup_printf ("%s: %s (%.0f samples)", element, progress->metrics, count)
                                         : g_strdup_printf ("%s: %s", element, progress->metrics);
}

static void
kd_read_count (const GstStructure *structure, const gchar *field, guint64 *ret)
{
  gdouble value;

  if (kd_structure_number (structure, field, &value) && value >= 0)
    *ret = (guint64) value;
}

void
kd_progress_message (KdProgress *progress, const gchar *element, const GstStructure *structure)
{
  guint64 epoch = progress->epoch;

  progress->changed = TRUE;
  if (gst_structure_has_name (structure, "kd-metrics")) {
    kd_progress_metrics (progress, element, structure);
    return;
  }
  kd_read_count (structure, "samples", &progress->samples);
  kd_read_count (structure, "total", &progress->total);
  kd_read_count (structure, "rows", &progress->rows);
  kd_read_count (structure, "step", &progress->step);
  kd_read_count (structure, "epoch", &epoch);
  progress->epoch = (guint) epoch;
  progress->has_epoch = progress->has_epoch || gst_structure_has_field (structure, "epoch");
  kd_structure_number (structure, "loss", &progress->loss);
  kd_structure_number (structure, "samples-per-second", &progress->rate);
  kd_structure_number (structure, "bytes-per-second", &progress->bytes_rate);
  kd_structure_number (structure, "disk-wait", &progress->disk_wait);
}

/* Three digits and a letter: what changes from one moment to the next needs no more. */
static gchar *
kd_progress_rate (gdouble value)
{
  static const gchar *const letters[] = { "", "k", "M", "G" };
  guint power = 0;

  for (; value >= 1000 && power + 1 < G_N_ELEMENTS (letters); power++)
    value /= 1000;
  return g_strdup_printf (value < 10 && power ? "%.1f%s" : "%.0f%s", value, letters[power]);
}

static void
kd_progress_append_rate (GString *line, gdouble value, const gchar *unit)
{
  g_autofree gchar *text = value > 0 ? kd_progress_rate (value) : NULL;

  if (text)
    g_string_append_printf (line, "  %s %s", text, unit);
}

static gchar *
kd_progress_line (KdProgress *progress)
{
  GString *line = g_string_new (NULL);
  guint64 done = progress->samples;

  if (progress->total > 0 && done <= progress->total) {
    guint filled = (guint) (done * 20 / progress->total);

    g_string_append_printf (line, "[%.*s%.*s] %2u %%", (int) filled, "####################", (int) (20 - filled), "....................",
        (guint) (done * 100 / progress->total));
  }
  if (progress->has_epoch)
    g_string_append_printf (line, "  epoch %u", progress->epoch + 1);
  else if (progress->step > 0)
    g_string_append_printf (line, "  step %" G_GUINT64_FORMAT, progress->step);
  if (isfinite (progress->loss)) {
    g_autofree gchar *loss = kd_tool_number (progress->loss);

    g_string_append_printf (line, "  loss %s", loss);
  }
  kd_progress_append_rate (line, (gdouble) progress->rows, "rows written");
  kd_progress_append_rate (line, progress->bytes_rate, "B/s");
  kd_progress_append_rate (line, progress->rate, "samples/s");
  if (progress->disk_wait >= 0.1)
    g_string_append_printf (line, "  %.0f %% waiting for the disk", 100 * progress->disk_wait);
  if (progress->rate > 0 && progress->total > done) {
    g_autofree gchar *left = kd_tool_duration ((gdouble) (progress->total - done) / progress->rate);

    g_string_append_printf (line, "  %s left", left);
  }
  if (progress->metrics)
    g_string_append_printf (line, "  %s", progress->metrics);
  return g_string_free (line, FALSE);
}

static guint
kd_terminal_columns (void)
{
  struct winsize size;

  return ioctl (STDERR_FILENO, TIOCGWINSZ, &size) == 0 && size.ws_col > 20 ? size.ws_col : 80;
}

void
kd_progress_show (KdProgress *progress)
{
  gint64 now = g_get_monotonic_time ();
  g_autofree gchar *line = NULL;

  if (progress->quiet || !progress->changed || (!progress->terminal && now - progress->logged_us < KD_LOG_EVERY_US))
    return;
  progress->changed = FALSE;
  progress->logged_us = now;
  line = kd_progress_line (progress);
  if (!progress->terminal) {
    fprintf (stderr, "%s\n", g_strchug (line));
    return;
  }
  fprintf (stderr, "\r%.*s\033[K", (int) kd_terminal_columns () - 1, g_strchug (line));
  fflush (stderr);
  progress->shown = TRUE;
}

void
kd_progress_clear (KdProgress *progress)
{
  if (progress->shown)
    fprintf (stderr, "\r\033[K");
  progress->shown = FALSE;
}

void
kd_progress_summary (KdProgress *progress)
{
  gdouble seconds = (gdouble) (g_get_monotonic_time () - progress->started_us) / G_USEC_PER_SEC;
  g_autofree gchar *time = kd_tool_duration (seconds);

  kd_progress_clear (progress);
  if (progress->quiet)
    return;
  for (guint i = 0; i < progress->finals->len; i++)
    printf ("%s\n", (gchar *) progress->finals->pdata[i]);
  if (progress->samples > 0)
    printf ("Done: %" G_GUINT64_FORMAT " samples in %s\n", progress->samples, time);
  else
    printf ("Done in %s\n", time);
}
