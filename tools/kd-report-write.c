/* The folder of one run while it is written: metrics.jsonl line by line (a killed run keeps what it had), the event file
 * beside it, report.json and the page at the end. */
#include "kd-report.h"
#include "kd-schema.h"
#include <errno.h>
#include <glib/gstdio.h>
#include <kd/kd.h>
#include <string.h>
#include <sys/utsname.h>
#include <unistd.h>

struct _KdReport {
  gchar *dir;
  FILE *lines;
  KdEvents *events;
  KdSeriesSet *series;
  JsonObject *metrics; /* by element: the last kd-metrics */
  gint64 started_us;
};

static void
kd_report_remove_old (const gchar *dir)
{
  g_autoptr (GDir) listing = g_dir_open (dir, 0, NULL);
  const gchar *name;

  while (listing && (name = g_dir_read_name (listing)))
    if (g_str_has_prefix (name, "events.out.tfevents.") || g_str_equal (name, "report.json") || g_str_equal (name, "report.html")) {
      g_autofree gchar *path = g_build_filename (dir, name, NULL);

      g_unlink (path);
    }
}

static gboolean
kd_report_open (KdReport *report, GError **error)
{
  g_autofree gchar *path = g_build_filename (report->dir, "metrics.jsonl", NULL);

  if (g_mkdir_with_parents (report->dir, 0777) < 0) {
    g_set_error (error, KD_ERROR, KD_ERROR_IO, "Cannot make the report's folder: path=\"%s\", reason=%s", report->dir, g_strerror (errno));
    return FALSE;
  }
  kd_report_remove_old (report->dir);
  report->lines = fopen (path, "w");
  if (!report->lines) {
    g_set_error (error, KD_ERROR, KD_ERROR_IO, "Cannot write metrics: path=\"%s\", reason=%s", path, g_strerror (errno));
    return FALSE;
  }
  report->events = kd_events_open (report->dir, error);
  return report->events != NULL;
}

KdReport *
kd_report_new (const gchar *dir, GError **error)
{
  g_autoptr (KdReport) report = g_new0 (KdReport, 1);

  report->series = kd_series_set_new ();
  report->metrics = json_object_new ();
  report->started_us = g_get_monotonic_time ();
  report->dir = g_strdup (dir);
  if (dir && !kd_report_open (report, error))
    return NULL;
  return g_steal_pointer (&report);
}

void
kd_report_free (KdReport *report)
{
  if (report->lines)
    fclose (report->lines);
  if (report->events)
    kd_events_close (report->events, NULL);
  kd_series_set_free (report->series);
  json_object_unref (report->metrics);
  g_free (report->dir);
  g_free (report);
}

KdSeriesSet *
kd_report_series (KdReport *report)
{
  return report->series;
}

static gboolean
kd_report_write_line (KdReport *report, JsonObject *object, GError **error)
{
  g_autoptr (JsonNode) node = json_node_init_object (json_node_alloc (), object);
  g_autofree gchar *line = json_to_string (node, FALSE);

  /* Flushed a line: the file can be watched, and a kill -9 loses one line at most. */
  if (fprintf (report->lines, "%s\n", line) > 0 && fflush (report->lines) == 0)
    return TRUE;
  g_set_error (error, KD_ERROR, KD_ERROR_IO, "Cannot write metrics: path=\"%s/metrics.jsonl\", reason=%s", report->dir, g_strerror (errno));
  return FALSE;
}

/* What the trainer reports has plain tags ("loss", "grad-share/ce"); others carry their element's name. */
static gboolean
kd_report_write_events (KdReport *report, JsonObject *object, GError **error)
{
  g_autoptr (KdSeriesSet) one = kd_series_set_new ();

  kd_series_set_add_object (one, object);
  for (guint i = 0; i < one->all->len; i++) {
    KdSeries *series = one->all->pdata[i];
    KdPoint *point = &g_array_index (series->points, KdPoint, 0);
    gboolean plain = g_str_equal (series->kind, "kd-report");
    g_autofree gchar *tag = plain ? g_strdup (series->field) : g_strconcat (series->element, "/", series->field, NULL);

    if (plain)
      g_strdelimit (tag, ".", '/');
    if (!kd_events_scalar (report->events, tag, (gint64) point->x, point->y, error))
      return FALSE;
  }
  return TRUE;
}

static void
kd_report_keep_metrics (KdReport *report, const gchar *element, JsonObject *object)
{
  JsonObject *last = json_object_new ();
  g_autoptr (GList) names = json_object_get_members (object);

  for (GList *l = names; l; l = l->next) {
    JsonNode *node = json_object_get_member (object, l->data);
    GType type = JSON_NODE_HOLDS_VALUE (node) ? json_node_get_value_type (node) : G_TYPE_INVALID;

    if (!g_str_equal (l->data, "time") && (type == G_TYPE_DOUBLE || type == G_TYPE_INT64))
      json_object_set_member (last, l->data, json_node_copy (node));
  }
  json_object_set_object_member (report->metrics, element, last);
}

gboolean
kd_report_add (KdReport *report, const gchar *element, const GstStructure *structure, GError **error)
{
  gdouble seconds = (gdouble) (g_get_monotonic_time () - report->started_us) / G_USEC_PER_SEC;
  g_autoptr (JsonObject) object = kd_message_object (element, structure, seconds);

  kd_series_set_add_object (report->series, object);
  if (g_str_equal (gst_structure_get_name (structure), "kd-metrics"))
    kd_report_keep_metrics (report, element, object);
  return !report->dir || (kd_report_write_line (report, object, error) && kd_report_write_events (report, object, error));
}

static JsonArray *
kd_report_series_summary (KdSeriesSet *set)
{
  JsonArray *array = json_array_new ();

  for (guint i = 0; i < set->all->len; i++) {
    KdSeries *series = set->all->pdata[i];
    const KdPoint *points = (const KdPoint *) (gpointer) series->points->data;
    JsonObject *object = json_object_new ();
    gdouble low = points[0].y, high = points[0].y;

    for (guint k = 1; k < series->points->len; k++) {
      low = MIN (low, points[k].y);
      high = MAX (high, points[k].y);
    }
    json_object_set_string_member (object, "element", series->element);
    json_object_set_string_member (object, "message", series->kind);
    json_object_set_string_member (object, "field", series->field);
    json_object_set_int_member (object, "points", series->points->len);
    json_object_set_double_member (object, "last", points[series->points->len - 1].y);
    json_object_set_double_member (object, "lowest", low);
    json_object_set_double_member (object, "highest", high);
    json_array_add_object_element (array, object);
  }
  return array;
}

gboolean
kd_report_finish (KdReport *report, JsonObject *info, const gchar *graph, GError **error)
{
  g_autoptr (JsonNode) node = json_node_init_object (json_node_alloc (), info);
  g_autofree gchar *json_path = NULL, *page_path = NULL, *page = NULL;
  KdEvents *events = g_steal_pointer (&report->events);

  json_object_set_string_member (info, "schema", "run-report/1");
  json_object_set_object_member (info, "metrics", json_object_ref (report->metrics));
  json_object_set_array_member (info, "series", kd_report_series_summary (report->series));
  if (events && !kd_events_close (events, error))
    return FALSE;
  if (!report->dir)
    return TRUE;
  if (!kd_schema_check ("run-report.schema.json", node, error)) {
    g_prefix_error (error, "The run's report does not follow schemas/run-report.schema.json: ");
    return FALSE;
  }
  json_path = g_build_filename (report->dir, "report.json", NULL);
  page_path = g_build_filename (report->dir, "report.html", NULL);
  page = kd_page_run (info, report->series, graph);
  return kd_json_write (info, json_path, error) && g_file_set_contents (page_path, page, -1, error);
}

/* The value behind "model name : " in /proc/cpuinfo, or the machine's architecture. */
static gchar *
kd_processor (const gchar *fallback)
{
  g_autofree gchar *text = NULL;
  const gchar *at;

  if (!g_file_get_contents ("/proc/cpuinfo", &text, NULL, NULL) || !(at = strstr (text, "model name")) || !(at = strchr (at, ':')))
    return g_strdup (fallback);
  return g_strstrip (g_strndup (at + 1, strcspn (at + 1, "\n")));
}

JsonObject *
kd_report_machine (void)
{
  JsonObject *object = json_object_new ();
  struct utsname system;
  g_autofree gchar *os = g_get_os_info (G_OS_INFO_KEY_PRETTY_NAME);
  g_autofree gchar *processor = NULL, *text = NULL;

  uname (&system);
  processor = kd_processor (system.machine);
  text = g_strdup_printf ("%s, %s %s %s", os ? os : "unknown", system.sysname, system.release, system.machine);
  json_object_set_string_member (object, "host", g_get_host_name ());
  json_object_set_string_member (object, "system", text);
  json_object_set_string_member (object, "processor", processor);
  json_object_set_int_member (object, "cores", g_get_num_processors ());
  json_object_set_double_member (object, "memory-gib", (gdouble) (sysconf (_SC_PHYS_PAGES) / 1024 * sysconf (_SC_PAGESIZE) / 1024 / 1024));
  return object;
}
