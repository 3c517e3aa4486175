/* Charts as inline SVG: axes with round numbers, at most 400 points a line, the page's colours. */
#include "kd-report.h"
#include "kd-tool.h"
#include <math.h>

#define WIDTH 560.0
#define HEIGHT 250.0
#define LEFT 62.0
#define RIGHT 14.0
#define TOP 12.0
#define BOTTOM 34.0
#define MAX_POINTS 400

typedef struct {
  gdouble x0, x1, y0, y1;
} KdPlotRange;

guint
kd_plot_ticks (gdouble low, gdouble high, guint want, gdouble *ret_ticks)
{
  gdouble raw = (high - low) / MAX (want, 1), power, step, first;
  guint n = 0;

  if (!(raw > 0) || !isfinite (raw)) {
    ret_ticks[0] = low;
    return 1;
  }
  power = pow (10, floor (log10 (raw)));
  step = raw / power <= 1 ? power : raw / power <= 2 ? 2 * power
      : raw / power <= 5                             ? 5 * power
                                                     : 10 * power;
  first = ceil (low / step - 1e-9);
  for (; n < 12 && (first + n) * step <= high + step * 1e-9; n++)
    ret_ticks[n] = (first + n) * step;
  return n;
}

static gdouble
kd_plot_x (const KdPlotRange *range, gdouble x)
{
  return LEFT + (x - range->x0) / (range->x1 - range->x0) * (WIDTH - LEFT - RIGHT);
}

static gdouble
kd_plot_y (const KdPlotRange *range, gdouble y)
{
  return TOP + (range->y1 - y) / (range->y1 - range->y0) * (HEIGHT - TOP - BOTTOM);
}

static KdPlotRange
kd_plot_range (const KdPlotLine *lines, guint n)
{
  KdPlotRange range = { INFINITY, -INFINITY, INFINITY, -INFINITY };
  gdouble margin;

  for (guint i = 0; i < n; i++)
    for (guint k = 0; k < lines[i].n; k++) {
      const KdPoint *p = &lines[i].points[k];

      if (!isfinite (p->y))
        continue;
      range.x0 = MIN (range.x0, p->x);
      range.x1 = MAX (range.x1, p->x);
      range.y0 = MIN (range.y0, p->y);
      range.y1 = MAX (range.y1, p->y);
    }
  if (!isfinite (range.x0)) /* nothing to draw */
    return (KdPlotRange) { 0, 1, 0, 1 };
  if (range.x1 <= range.x0)
    range.x1 = range.x0 + 1;
  margin = range.y1 > range.y0 ? 0.06 * (range.y1 - range.y0) : range.y1 != 0 ? 0.1 * fabs (range.y1)
                                                                              : 1;
  /* A value that is never negative is not drawn below zero. */
  range.y0 = range.y0 >= 0 && range.y0 - margin < 0 ? 0 : range.y0 - margin;
  range.y1 += margin;
  return range;
}

static void
kd_plot_axes (GString *out, const KdPlotRange *range, const gchar *x_name)
{
  gdouble ticks[12];
  guint n = kd_plot_ticks (range->y0, range->y1, 5, ticks);

  for (guint i = 0; i < n; i++) {
    g_autofree gchar *text = kd_tool_number (fabs (ticks[i]) < 1e-12 * (range->y1 - range->y0) ? 0 : ticks[i]);
    gdouble y = kd_plot_y (range, ticks[i]);

    g_string_append_printf (out,
        "<line class=\"grid\" x1=\"%.0f\" x2=\"%.0f\" y1=\"%.1f\" y2=\"%.1f\"/><text class=\"y\" x=\"%.0f\" y=\"%.1f\">%s</text>\n",
        LEFT, WIDTH - RIGHT, y, y, LEFT - 8, y + 4, text);
  }
  n = kd_plot_ticks (range->x0, range->x1, 6, ticks);
  for (guint i = 0; i < n; i++) {
    g_autofree gchar *text = kd_tool_number (ticks[i]);

    g_string_append_printf (out, "<text class=\"x\" x=\"%.1f\" y=\"%.0f\">%s</text>\n", kd_plot_x (range, ticks[i]), HEIGHT - BOTTOM + 16, text);
  }
  g_string_append_printf (out, "<text class=\"x name\" x=\"%.0f\" y=\"%.0f\">%s</text>\n", (LEFT + WIDTH - RIGHT) / 2, HEIGHT - 3, x_name);
}

static void
kd_plot_polyline (GString *out, const KdPlotRange *range, const KdPoint *points, guint n, const gchar *classes, const gchar *name)
{
  g_autofree gchar *safe = g_markup_escape_text (name, -1);

  g_string_append_printf (out, "<polyline class=\"%s\" data-name=\"%s\" points=\"", classes, safe);
  for (guint i = 0; i < n; i++)
    if (isfinite (points[i].y))
      g_string_append_printf (out, "%.1f,%.1f ", kd_plot_x (range, points[i].x), kd_plot_y (range, points[i].y));
  g_string_append (out, "\"/>\n");
  if (n == 1 && isfinite (points[0].y))
    g_string_append_printf (out, "<circle class=\"%s\" cx=\"%.1f\" cy=\"%.1f\" r=\"3\"/>\n", classes, kd_plot_x (range, points[0].x),
        kd_plot_y (range, points[0].y));
}

/* Long lines: the mean of equal groups of points, so that the end of a run weighs what its middle does. */
static GArray *
kd_plot_thin (const KdPoint *points, guint n)
{
  GArray *thin = g_array_new (FALSE, FALSE, sizeof (KdPoint));
  guint groups = MIN (n, MAX_POINTS);

  for (guint g = 0; g < groups; g++) {
    guint first = (guint) ((guint64) g * n / groups), end = (guint) ((guint64) (g + 1) * n / groups);
    KdPoint mean = { 0, 0 };

    for (guint i = first; i < end; i++) {
      mean.x += points[i].x / (end - first);
      mean.y += points[i].y / (end - first);
    }
    g_array_append_val (thin, mean);
  }
  return thin;
}

/* The mean of the points around each: no lag, and the ends keep what they have. */
static GArray *
kd_plot_smooth (const KdPoint *points, guint n)
{
  GArray *smooth = g_array_new (FALSE, FALSE, sizeof (KdPoint));

  for (guint i = 0; i < n; i++) {
    guint half = MIN (MIN (i, n - 1 - i), n / 30);
    KdPoint mean = { points[i].x, 0 };

    for (guint k = i - half; k <= i + half; k++)
      mean.y += points[k].y / (2 * half + 1);
    g_array_append_val (smooth, mean);
  }
  return smooth;
}

static void
kd_plot_one (GString *out, const KdPlotRange *range, const KdPlotLine *line, guint colour)
{
  g_autoptr (GArray) thin = kd_plot_thin (line->points, line->n);
  const KdPoint *points = (const KdPoint *) (gpointer) thin->data;
  g_autofree gchar *classes = g_strdup_printf ("line c%u", colour % 8);

  if (line->smooth && thin->len > 60) {
    g_autoptr (GArray) smooth = kd_plot_smooth (points, thin->len);
    g_autofree gchar *faint = g_strdup_printf ("faint c%u", colour % 8);

    kd_plot_polyline (out, range, points, thin->len, faint, "");
    kd_plot_polyline (out, range, (const KdPoint *) (gpointer) smooth->data, smooth->len, classes, line->name);
  } else
    kd_plot_polyline (out, range, points, thin->len, classes, line->name);
}

void
kd_plot_lines (GString *out, const gchar *title, const gchar *x_name, const KdPlotLine *lines, guint n)
{
  KdPlotRange range = kd_plot_range (lines, n);

  g_string_append (out, "<figure><figcaption>");
  kd_page_text (out, title);
  g_string_append (out, "</figcaption>\n");
  g_string_append_printf (out, "<svg class=\"chart\" viewBox=\"0 0 %.0f %.0f\" role=\"img\" data-range=\"%.9g %.9g %.9g %.9g\">\n", WIDTH, HEIGHT,
      range.x0, range.x1, range.y0, range.y1);
  kd_plot_axes (out, &range, x_name);
  for (guint i = 0; i < n; i++)
    kd_plot_one (out, &range, &lines[i], i);
  g_string_append (out, "</svg>\n<div class=\"legend\">");
  for (guint i = 0; i < n; i++) {
    g_autofree gchar *last = lines[i].n ? kd_tool_number (lines[i].points[lines[i].n - 1].y) : g_strdup ("-");

    g_string_append_printf (out, "<span class=\"c%u\"><i></i>", i % 8);
    kd_page_text (out, lines[i].name);
    g_string_append_printf (out, " <b>%s</b></span>", last);
  }
  g_string_append (out, "</div></figure>\n");
}
