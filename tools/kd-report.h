/* What a run leaves behind: series of numbers, metrics.jsonl, a TensorBoard event file, report.json and a page. */
#pragma once
#include <gst/gst.h>
#include <json-glib/json-glib.h>

G_BEGIN_DECLS

typedef struct {
  gdouble x, y;
} KdPoint;

/** KdSeries: one number over a run. @kind: the message it came in ("kd-report"); @x_name: "step" or "epoch". */
typedef struct {
  gchar *element, *kind, *field;
  const gchar *x_name;
  GArray *points; /* of KdPoint */
} KdSeries;

/** KdSeriesSet: all series of a run, in the order of their first number. */
typedef struct {
  GPtrArray *all;
  GHashTable *by_key;
} KdSeriesSet;

KdSeriesSet *kd_series_set_new (void);
void kd_series_set_free (KdSeriesSet *set);
G_DEFINE_AUTOPTR_CLEANUP_FUNC (KdSeriesSet, kd_series_set_free)
/** kd_series_set_find: any of @element and @kind may be NULL: the first that fits. */
KdSeries *kd_series_set_find (KdSeriesSet *set, const gchar *element, const gchar *kind, const gchar *field);
/** kd_series_set_add_object: every number of one line of metrics.jsonl becomes a point. */
void kd_series_set_add_object (KdSeriesSet *set, JsonObject *object);
/** kd_series_set_read: a metrics.jsonl; a last line cut off by a killed run is left out. */
gboolean kd_series_set_read (KdSeriesSet *set, const gchar *path, GError **error);
/** kd_message_object: (transfer full) an element message as one line's object: time, element, message and its fields. */
JsonObject *kd_message_object (const gchar *element, const GstStructure *structure, gdouble seconds);

/* TensorBoard: records of the length, its masked CRC-32C, a hand-written protocol buffer, its masked CRC-32C. */
typedef struct _KdEvents KdEvents;
KdEvents *kd_events_open (const gchar *dir, GError **error);
gboolean kd_events_scalar (KdEvents *events, const gchar *tag, gint64 step, gdouble value, GError **error);
gboolean kd_events_close (KdEvents *events, GError **error);

/** KdReport: the folder of one run while it is written. */
typedef struct _KdReport KdReport;
/** kd_report_new: @dir is made; files of an earlier run in it are replaced. NULL: keeps series only, writes nothing. */
KdReport *kd_report_new (const gchar *dir, GError **error);
void kd_report_free (KdReport *report);
G_DEFINE_AUTOPTR_CLEANUP_FUNC (KdReport, kd_report_free)
gboolean kd_report_add (KdReport *report, const gchar *element, const GstStructure *structure, GError **error);
KdSeriesSet *kd_report_series (KdReport *report);
/** kd_report_finish: @info (transfer none) gets `metrics` and `series`, is checked against schemas/run-report.schema.json, and
 * report.json and report.html are written. @graph: the SVG of the pipeline to put on the page, or NULL. */
gboolean kd_report_finish (KdReport *report, JsonObject *info, const gchar *graph, GError **error);

/** kd_report_machine: (transfer full) processor, cores, memory, system. */
JsonObject *kd_report_machine (void);

/* One line of a chart: points with a name; @band: draw a faint raw line under a smooth one. */
typedef struct {
  const gchar *name;
  const KdPoint *points;
  guint n;
  gboolean smooth;
} KdPlotLine;

/** kd_plot_lines: append one chart as inline SVG; colours are the page's CSS classes c0 ... c7. */
void kd_plot_lines (GString *out, const gchar *title, const gchar *x_name, const KdPlotLine *lines, guint n);
/** kd_plot_ticks: about @want round numbers that cover [@low, @high]; returns how many, at most 12. */
guint kd_plot_ticks (gdouble low, gdouble high, guint want, gdouble *ret_ticks);

/* The page. */
void kd_page_begin (GString *out, const gchar *title);
void kd_page_end (GString *out);
/** kd_page_text: append @text with &, <, > and quotes escaped. */
void kd_page_text (GString *out, const gchar *text);
/** kd_page_run: (transfer full) the page of one run from its report.json and series. */
gchar *kd_page_run (JsonObject *info, KdSeriesSet *set, const gchar *graph);

gboolean kd_json_write (JsonObject *object, const gchar *path, GError **error);
JsonObject *kd_json_read (const gchar *path, GError **error);

G_END_DECLS
