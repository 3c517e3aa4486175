/* The page of `kd cache stats`: one HTML file, its charts inline SVG in the style of the run report's. */
#include "kd-cache-stats.h"
#include "kd-report.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#define WIDTH 560.0
#define HEIGHT 250.0
#define LEFT 62.0
#define RIGHT 14.0
#define TOP 12.0
#define BOTTOM 34.0

typedef struct {
  gdouble x_most, y_most;
} Frame;

static gdouble
at_x (const Frame *frame, gdouble x)
{
  return LEFT + x / frame->x_most * (WIDTH - LEFT - RIGHT);
}

static gdouble
at_y (const Frame *frame, gdouble y)
{
  return HEIGHT - BOTTOM - y / frame->y_most * (HEIGHT - TOP - BOTTOM);
}

static void
begin_chart (GString *out, const gchar *title, const Frame *frame, const gchar *x_name, const gchar *y_name)
{
  gdouble ticks[12];
  guint n = kd_plot_ticks (0, frame->y_most, 5, ticks);

  g_string_append_printf (out, "<figure><figcaption>%s</figcaption>\n<svg class=\"chart\" viewBox=\"0 0 %.0f %.0f\" role=\"img\">\n", title, WIDTH, HEIGHT);
  for (guint i = 0; i < n; i++) {
    g_autofree gchar *text = kd_tool_number (ticks[i]);
    g_string_append_printf (out, "<line class=\"grid\" x1=\"%.0f\" x2=\"%.0f\" y1=\"%.1f\" y2=\"%.1f\"/><text class=\"y\" x=\"%.0f\" y=\"%.1f\">%s</text>\n", LEFT,
        WIDTH - RIGHT, at_y (frame, ticks[i]), at_y (frame, ticks[i]), LEFT - 8, at_y (frame, ticks[i]) + 4, text);
  }
  n = kd_plot_ticks (0, frame->x_most, 6, ticks);
  for (guint i = 0; i < n; i++) {
    g_autofree gchar *text = kd_tool_number (ticks[i]);
    g_string_append_printf (out, "<text class=\"x\" x=\"%.1f\" y=\"%.0f\">%s</text>\n", at_x (frame, ticks[i]), HEIGHT - BOTTOM + 16, text);
  }
  g_string_append_printf (out, "<text class=\"x name\" x=\"%.0f\" y=\"%.0f\">%s</text>\n", (LEFT + WIDTH - RIGHT) / 2, HEIGHT - 3, x_name);
  g_string_append_printf (out, "<text class=\"x name\" transform=\"translate(13 %.0f) rotate(-90)\">%s</text>\n", (TOP + HEIGHT - BOTTOM) / 2, y_name);
}

static void
end_chart (GString *out, const KdStats *stats)
{
  g_string_append (out, "</svg>\n<div class=\"legend\">");
  for (guint i = 0; i < stats->n; i++)
    if (stats->teachers[i].field) {
      g_string_append_printf (out, "<span class=\"c%u\"><i></i>", i % 8);
      kd_page_text (out, stats->teachers[i].path);
      g_string_append (out, "</span>");
    }
  g_string_append (out, "</div></figure>\n");
}

/* Of several teachers the first ones' lines are wider: where two coincide both are seen. */
static gdouble
line_width (const KdStats *stats, guint nth)
{
  return 1.6 + MIN (1.8, 6.0 / stats->n) * (stats->n - 1 - nth);
}

/* A histogram as steps: of one teacher filled, of several over each other as lines. */
static void
put_steps (GString *out, const Frame *frame, const gdouble *bins, const KdStats *stats, guint nth)
{
  gdouble total = (gdouble) stats->teachers[nth].n_counted;

  g_string_append_printf (out, "<polyline class=\"line c%u\" style=\"stroke-width:%.1f%s\" points=\"%.1f,%.1f ", nth % 8, line_width (stats, nth),
      stats->n == 1 ? ";fill:currentColor;fill-opacity:.25" : "", at_x (frame, 0), at_y (frame, 0));
  for (guint i = 0; i < KD_STATS_BINS; i++) {
    gdouble share = bins[i] / MAX (total, 1);
    g_string_append_printf (out, "%.1f,%.1f %.1f,%.1f ", at_x (frame, frame->x_most * i / KD_STATS_BINS), at_y (frame, share),
        at_x (frame, frame->x_most * (i + 1) / KD_STATS_BINS), at_y (frame, share));
  }
  g_string_append_printf (out, "%.1f,%.1f\"/>\n", at_x (frame, frame->x_most), at_y (frame, 0));
}

static const gdouble *
bins_of (const KdStatsTeacher *teacher, gboolean entropy)
{
  return entropy ? teacher->entropy : teacher->confidence;
}

static void
put_histogram (GString *out, const KdStats *stats, gboolean entropy)
{
  Frame frame = { entropy ? 0 : 1, 0 };

  for (guint i = 0; i < stats->n; i++) {
    const KdStatsTeacher *teacher = &stats->teachers[i];
    if (entropy)
      frame.x_most = MAX (frame.x_most, log ((gdouble) MAX (teacher->n_classes, 2)));
    for (guint k = 0; k < KD_STATS_BINS; k++)
      frame.y_most = MAX (frame.y_most, bins_of (teacher, entropy)[k] / (gdouble) MAX (teacher->n_counted, 1));
  }
  frame.y_most = MIN (MAX (frame.y_most * 1.08, 0.01), 1);
  begin_chart (out, entropy ? "Entropy: how undecided it is" : "Confidence: the probability of the first choice", &frame, entropy ? "entropy of a row, nats" : "confidence of a row", "share of rows");
  for (guint i = 0; i < stats->n; i++) {
    /* A teacher of fewer classes ends before the axis does. */
    Frame own = frame;
    if (!stats->teachers[i].n_counted)
      continue;
    if (entropy)
      own.x_most = log ((gdouble) MAX (stats->teachers[i].n_classes, 2));
    own.x_most = MAX (own.x_most, 1e-9);
    {
      g_autoptr (GString) steps = g_string_new (NULL);
      gdouble scale = own.x_most / frame.x_most;
      gdouble bins[KD_STATS_BINS];
      memcpy (bins, bins_of (&stats->teachers[i], entropy), sizeof bins);
      if (scale < 1) { /* on the common axis */
        memset (bins, 0, sizeof bins);
        for (guint k = 0; k < KD_STATS_BINS; k++)
          bins[(guint) (k * scale)] += bins_of (&stats->teachers[i], entropy)[k];
      }
      put_steps (steps, &frame, bins, stats, i);
      g_string_append (out, steps->str);
    }
  }
  end_chart (out, stats);
}

/* Confidence against accuracy: on the line it is as often right as it says; a dot is as large as the share of rows there. */
static void
put_calibration (GString *out, const KdStats *stats)
{
  const Frame frame = { 1, 1 };

  begin_chart (out, "Calibration: dashed: as often right as it says", &frame, "mean confidence", "share of rows that are right");
  g_string_append_printf (out, "<line class=\"zero\" x1=\"%.1f\" y1=\"%.1f\" x2=\"%.1f\" y2=\"%.1f\"/>\n", at_x (&frame, 0), at_y (&frame, 0), at_x (&frame, 1), at_y (&frame, 1));
  for (guint i = 0; i < stats->n; i++) {
    const KdStatsTeacher *teacher = &stats->teachers[i];
    g_autoptr (GString) dots = g_string_new (NULL);
    g_string_append_printf (out, "<polyline class=\"line c%u\" style=\"stroke-width:%.1f\" points=\"", i % 8, line_width (stats, i));
    for (guint k = 0; k < KD_STATS_CALIBRATION_BINS; k++) {
      gdouble rows = teacher->bin_rows[k], x, y;
      if (rows == 0)
        continue;
      x = at_x (&frame, teacher->bin_confidence[k] / rows);
      y = at_y (&frame, teacher->bin_right[k] / rows);
      g_string_append_printf (out, "%.1f,%.1f ", x, y);
      g_string_append_printf (dots, "<circle class=\"c%u\" cx=\"%.1f\" cy=\"%.1f\" r=\"%.1f\"><title>%.0f rows</title></circle>\n", i % 8, x, y,
          1 + line_width (stats, i) / 2 + 6 * sqrt (rows / (gdouble) MAX (teacher->n_labels, 1)), rows);
    }
    g_string_append_printf (out, "\"/>\n%s", dots->str);
  }
  end_chart (out, stats);
}

static void
cell (GString *out, const gchar *class, const gchar *format, ...) G_GNUC_PRINTF (3, 4);

static void
cell (GString *out, const gchar *class, const gchar *format, ...)
{
  g_autofree gchar *text = NULL;
  va_list args;

  va_start (args, format);
  text = g_strdup_vprintf (format, args);
  va_end (args);
  g_string_append_printf (out, "<td class=\"%s\">", class);
  kd_page_text (out, text);
  g_string_append (out, "</td>");
}

static void
number_cell (GString *out, gboolean known, gdouble value)
{
  g_autofree gchar *text = known ? kd_tool_number (value) : g_strdup ("-");

  cell (out, "n", "%s", text);
}

/* (transfer full) a teacher's specification without what it leaves empty. */
static gchar *
short_identity (const gchar *identity)
{
  g_autoptr (GRegex) empty = g_regex_new (" *[a-z-]+=\"\"", 0, 0, NULL);

  return g_regex_replace_literal (empty, identity, -1, 0, "", 0, NULL);
}

static void
put_teachers (GString *out, const KdStats *stats)
{
  g_string_append (out, "<h2>Teachers</h2>\n<div class=\"wide\"><table class=\"dense\"><tr><th>Cache</th><th>Teacher</th><th>Field</th><th class=\"n\">Rows</th><th class=\"n\">Mean confidence</th><th class=\"n\">Mean entropy, nats</th>");
  if (stats->has_labels)
    g_string_append (out, "<th class=\"n\">Labelled</th><th class=\"n\">Accuracy</th><th class=\"n\">NLL, nats</th><th class=\"n\">Calibration error</th>");
  g_string_append (out, "</tr>\n");
  for (guint i = 0; i < stats->n; i++) {
    const KdStatsTeacher *t = &stats->teachers[i];
    gdouble n = (gdouble) MAX (t->n_counted, 1), labels = (gdouble) MAX (t->n_labels, 1);
    g_autofree gchar *identity = short_identity (t->identity);
    g_string_append (out, "<tr>");
    cell (out, "path", "%s", t->path);
    cell (out, "spec", "%s", identity);
    cell (out, "field", "%s", t->field ? t->field : "none of logits");
    number_cell (out, TRUE, (gdouble) t->n_rows);
    number_cell (out, t->n_counted > 0, t->confidence_sum / n);
    number_cell (out, t->n_counted > 0, t->entropy_sum / n);
    if (stats->has_labels) {
      number_cell (out, TRUE, (gdouble) t->n_labels);
      number_cell (out, t->n_labels > 0, (gdouble) t->n_right / labels);
      number_cell (out, t->n_labels > 0 && t->n_nll == t->n_labels, t->nll_sum / labels);
      number_cell (out, t->n_labels > 0, kd_stats_ece (t));
    }
    g_string_append (out, "</tr>\n");
  }
  g_string_append (out, "</table></div>\n<p class=\"sub note\">Of a teacher that is cut to its k largest, the rest counts as one class: the entropy is at least this. Its NLL is known only where every label is among "
                        "the k.</p>\n");
}

static void
put_agreement (GString *out, const KdStats *stats)
{
  g_string_append (out, "<h2>Agreement</h2>\n<p class=\"sub\">Share of the rows of both in which two teachers have the same first choice.</p>\n<div class=\"wide\"><table><tr><th></th>");
  for (guint k = 0; k < stats->n; k++)
    cell (out, "n path", "%s", stats->teachers[k].path);
  g_string_append (out, "</tr>\n");
  for (guint i = 0; i < stats->n; i++) {
    g_string_append (out, "<tr>");
    cell (out, "path", "%s", stats->teachers[i].path);
    for (guint k = 0; k < stats->n; k++) {
      if (i == k)
        cell (out, "n", "-");
      else if (stats->common[i * stats->n + k] == 0)
        cell (out, "n", "no common rows");
      else
        cell (out, "n", "%.2f %% of %" G_GINT64_FORMAT, 100 * stats->agree[i * stats->n + k], stats->common[i * stats->n + k]);
    }
    g_string_append (out, "</tr>\n");
  }
  g_string_append (out, "</table></div>\n");
}

static gint
by_number (gconstpointer a, gconstpointer b)
{
  gint64 x = **(gint64 *const *) a, y = **(gint64 *const *) b;

  return x < y ? -1 : x > y;
}

static void
put_views (GString *out, const KdStatsTeacher *teacher)
{
  guint n = 0;
  g_autofree gpointer *keys = g_hash_table_get_keys_as_array (teacher->views, &n);

  qsort (keys, n, sizeof *keys, by_number);
  for (guint i = 0; i < MIN (n, 20); i++)
    g_string_append_printf (out, "%s%" G_GINT64_FORMAT ": %" G_GINT64_FORMAT, i ? ", " : "", *(gint64 *) keys[i], *(gint64 *) g_hash_table_lookup (teacher->views, keys[i]));
  if (n > 20)
    g_string_append_printf (out, " and %u views more", n - 20);
}

static gint64
field_bytes (const KdLayoutField *field)
{
  gint64 bytes = (gint64) kd_dtype_size (field->dtype);

  for (guint i = 1; i < field->rank; i++)
    bytes *= field->dims[i];
  return bytes;
}

static void
put_cost (GString *out, const KdStatsTeacher *teacher)
{
  const KdLayout *layout = kd_cache_reader_layout (teacher->reader);
  KdCacheInfo info;
  g_autofree gchar *size = NULL;

  kd_cache_reader_info (teacher->reader, &info);
  size = g_format_size ((guint64) info.bytes);
  for (guint i = 0; i < kd_layout_n_fields (layout); i++) {
    const KdLayoutField *field = kd_layout_nth (layout, i);
    const KdCacheEncoding *encoding = kd_cache_reader_encoding (teacher->reader, field->name);
    g_autofree gchar *type = kd_layout_field_string (field), *error = encoding ? kd_tool_number (encoding->max_error) : g_strdup ("-");
    g_string_append (out, "<tr>");
    cell (out, "path", "%s", i ? "" : teacher->path);
    cell (out, "field", "%s", field->name);
    cell (out, "word", "%s", type);
    cell (out, "word", "%s", encoding ? encoding->name : "as it came");
    number_cell (out, TRUE, (gdouble) field_bytes (field));
    cell (out, "n", "%s", error);
    g_string_append (out, "</tr>\n");
  }
  g_string_append (out, "<tr>");
  cell (out, "", "%s", "");
  cell (out, "dim", "a row as it is stored, keys with it");
  cell (out, "dim", "%s on the disk in %u %s", size, info.n_parts, info.packed ? "packed file" : info.n_parts == 1 ? "part"
                                                                                                                   : "parts");
  cell (out, "dim", "%.1f bytes a row on the disk", (gdouble) info.bytes / (gdouble) MAX (teacher->n_rows, 1));
  number_cell (out, TRUE, (gdouble) info.row_bytes);
  cell (out, "n", "%s", "");
  g_string_append (out, "</tr>\n<tr>");
  cell (out, "", "%s", "");
  cell (out, "dim", "rows per view");
  g_string_append (out, "<td colspan=\"4\" class=\"dim\">");
  put_views (out, teacher);
  g_string_append (out, "</td></tr>\n");
}

static void
put_tiles (GString *out, const KdStats *stats)
{
  const KdStatsTeacher *t = &stats->teachers[0];
  const struct {
    gboolean known;
    gdouble value;
    const gchar *name;
  } tiles[] = {
    { TRUE, (gdouble) t->n_rows, "rows" },
    { t->n_counted > 0, t->confidence_sum / (gdouble) MAX (t->n_counted, 1), "mean confidence" },
    { t->n_counted > 0, t->entropy_sum / (gdouble) MAX (t->n_counted, 1), "mean entropy, nats" },
    { t->n_labels > 0, (gdouble) t->n_right / (gdouble) MAX (t->n_labels, 1), "accuracy" },
    { t->n_labels > 0, kd_stats_ece (t), "expected calibration error" },
  };

  g_string_append (out, "<div class=\"tiles\">\n");
  for (guint i = 0; i < G_N_ELEMENTS (tiles); i++)
    if (tiles[i].known) {
      g_autofree gchar *value = kd_tool_number (tiles[i].value);
      g_string_append_printf (out, "<div class=\"tile\"><b>%s</b><span>%s%s</span></div>\n", value, tiles[i].name, stats->n > 1 ? ", first cache" : "");
    }
  g_string_append (out, "</div>\n");
}

gchar *
kd_stats_page (const KdStats *stats)
{
  GString *out = g_string_new (NULL);
  gboolean any = FALSE, labels = FALSE;

  for (guint i = 0; i < stats->n; i++) {
    any |= stats->teachers[i].n_counted > 0;
    labels |= stats->teachers[i].n_labels > 0;
  }
  kd_page_begin (out, "kdstream teacher cache");
  g_string_append (out, "<h1>Teacher cache</h1>\n<p class=\"sub\">");
  for (guint i = 0; i < stats->n; i++) {
    g_string_append (out, i ? ", " : "");
    kd_page_text (out, stats->teachers[i].path);
  }
  g_string_append (out, "</p>\n");
  put_tiles (out, stats);
  put_teachers (out, stats);
  if (any) {
    g_string_append (out, "<h2>What they think</h2>\n<div class=\"charts\">\n");
    put_histogram (out, stats, FALSE);
    put_histogram (out, stats, TRUE);
    if (labels)
      put_calibration (out, stats);
    g_string_append (out, "</div>\n");
    if (labels)
      g_string_append (out, "<p class=\"sub note\">Calibration: a dot is a fifteenth of the confidences, larger where more rows are.</p>\n");
  }
  if (stats->n > 1)
    put_agreement (out, stats);
  g_string_append (out, "<h2>What is stored</h2>\n<div class=\"wide\"><table><tr><th>Cache</th><th>Field</th><th>As it is read</th><th>Encoding</th><th class=\"n\">Bytes a row, read</th><th class=\"n\">Largest error</th></tr>\n");
  for (guint i = 0; i < stats->n; i++)
    put_cost (out, &stats->teachers[i]);
  g_string_append (out, "</table></div>\n");
  kd_page_end (out);
  return g_string_free (out, FALSE);
}
