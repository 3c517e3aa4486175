/* The page of one run: one HTML file with nothing outside it. What it shows comes from report.json and the series only, so that
 * `kd report` draws it again years later. */
#include "kd-report.h"
#include "kd-tool.h"
#include <string.h>

void
kd_page_text (GString *out, const gchar *text)
{
  g_autofree gchar *valid = g_utf8_make_valid (text ? text : "", -1);
  g_autofree gchar *safe = g_markup_escape_text (valid, -1);

  g_string_append (out, safe);
}

static void
kd_page_resource (GString *out, const gchar *name)
{
  g_autofree gchar *path = g_strconcat ("/org/kdstream/page/", name, NULL);
  g_autoptr (GBytes) bytes = g_resources_lookup_data (path, G_RESOURCE_LOOKUP_FLAGS_NONE, NULL);
  gsize n;

  if (bytes) {
    gconstpointer data = g_bytes_get_data (bytes, &n);

    g_string_append_len (out, data, (gssize) n);
  }
}

void
kd_page_begin (GString *out, const gchar *title)
{
  g_string_append (out, "<!DOCTYPE html>\n<html lang=\"en\"><head><meta charset=\"utf-8\">"
                        "<meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n<title>");
  kd_page_text (out, title);
  g_string_append (out, "</title>\n<style>\n");
  kd_page_resource (out, "page.css");
  g_string_append (out, "</style></head>\n<body><main>\n");
}

void
kd_page_end (GString *out)
{
  g_string_append (out, "<footer>Made by kdstream " KD_VERSION ".</footer>\n</main>\n<script>\n");
  kd_page_resource (out, "page.js");
  g_string_append (out, "</script></body></html>\n");
}

static const gchar *
kd_get (JsonObject *object, const gchar *member)
{
  return object ? json_object_get_string_member_with_default (object, member, "") : "";
}

static JsonObject *
kd_get_object (JsonObject *object, const gchar *member)
{
  JsonNode *node = object ? json_object_get_member (object, member) : NULL;

  return node && JSON_NODE_HOLDS_OBJECT (node) ? json_node_get_object (node) : NULL;
}

/* A value of any type as text. */
static gchar *
kd_node_text (JsonNode *node)
{
  if (JSON_NODE_HOLDS_NULL (node))
    return g_strdup ("-");
  if (!JSON_NODE_HOLDS_VALUE (node))
    return json_to_string (node, FALSE);
  if (json_node_get_value_type (node) == G_TYPE_STRING)
    return g_strdup (json_node_get_string (node));
  if (json_node_get_value_type (node) == G_TYPE_BOOLEAN)
    return g_strdup (json_node_get_boolean (node) ? "true" : "false");
  if (json_node_get_value_type (node) == G_TYPE_INT64)
    return g_strdup_printf ("%" G_GINT64_FORMAT, json_node_get_int (node));
  return kd_tool_number (json_node_get_double (node));
}

static void
kd_page_tile (GString *out, const gchar *value, const gchar *name)
{
  g_string_append (out, "<div class=\"tile\"><b>");
  kd_page_text (out, value);
  g_string_append (out, "</b><span>");
  kd_page_text (out, name);
  g_string_append (out, "</span></div>\n");
}

static void
kd_page_tiles (GString *out, JsonObject *info)
{
  JsonObject *metrics = kd_get_object (info, "metrics");
  g_autofree gchar *time = kd_tool_duration (json_object_get_double_member_with_default (info, "seconds", 0));
  g_autoptr (GList) elements = metrics ? json_object_get_members (metrics) : NULL;

  g_string_append (out, "<div class=\"tiles\">\n");
  for (GList *l = elements; l; l = l->next) {
    JsonObject *values = json_object_get_object_member (metrics, l->data);
    g_autoptr (GList) names = json_object_get_members (values);

    for (GList *m = names; m; m = m->next) {
      g_autofree gchar *value = kd_node_text (json_object_get_member (values, m->data));
      g_autofree gchar *name = g_strdup_printf ("%s, %s", (gchar *) m->data, (gchar *) l->data);

      if (!g_str_equal (m->data, "epoch") && !g_str_equal (m->data, "count"))
        kd_page_tile (out, value, name);
    }
  }
  kd_page_tile (out, time, "wall time");
  if (json_object_has_member (info, "seed")) {
    g_autofree gchar *seed = kd_node_text (json_object_get_member (info, "seed"));

    kd_page_tile (out, seed, "seed");
  }
  g_string_append (out, "</div>\n");
}

/* The pipeline, one link a line. */
static void
kd_page_pipeline (GString *out, const gchar *pipeline)
{
  g_auto (GStrv) links = g_strsplit (pipeline, " ! ", -1);

  g_string_append (out, "<h2>Pipeline</h2>\n<pre>");
  for (guint i = 0; links[i]; i++) {
    g_string_append (out, i ? "\n  <span class=\"bang\">!</span> " : "");
    kd_page_text (out, g_strstrip (links[i]));
  }
  g_string_append (out, "</pre>\n");
}

typedef struct {
  const gchar *kind, *prefix, *title;
  gboolean smooth;
} KdChart;

/* Every series whose name begins with a prefix, in one chart. A name with nothing after the prefix is it alone. */
static const KdChart kd_charts[] = {
  { "kd-report", "loss", "Loss", TRUE },
  { "kd-report", "loss.", "Loss by term", TRUE },
  { "kd-report", "grad-share.", "Share of the gradient by term", TRUE },
  { "kd-report", "grad-norm", "Gradient norm", TRUE },
  { "kd-report", "learning-rate", "Learning rate", FALSE },
  { "kd-progress", "samples-per-second", "Throughput, samples a second", FALSE },
  { "kd-progress", "bytes-per-second", "Writing, bytes a second", FALSE },
};

static gboolean
kd_chart_takes (const KdChart *chart, const KdSeries *series)
{
  if (!g_str_equal (series->kind, chart->kind))
    return FALSE;
  return g_str_has_suffix (chart->prefix, ".") ? g_str_has_prefix (series->field, chart->prefix)
                                               : g_str_equal (series->field, chart->prefix);
}

static void
kd_page_chart (GString *out, KdSeriesSet *set, const KdChart *chart, GHashTable *drawn)
{
  KdPlotLine lines[16];
  const gchar *x_name = "step";
  guint n = 0;

  for (guint i = 0; i < set->all->len && n < G_N_ELEMENTS (lines); i++) {
    KdSeries *series = set->all->pdata[i];

    if (!kd_chart_takes (chart, series))
      continue;
    g_hash_table_add (drawn, series);
    if (series->points->len < 2 && !g_str_equal (series->kind, "kd-report")) /* a rate measured once is no curve */
      continue;
    lines[n++] = (KdPlotLine) {
      g_str_has_suffix (chart->prefix, ".") ? series->field + strlen (chart->prefix) : series->element,
      (const KdPoint *) (gpointer) series->points->data, series->points->len, chart->smooth
    };
    x_name = series->x_name;
  }
  if (n > 0)
    kd_plot_lines (out, chart->title, x_name, lines, n);
}

/* What no chart above has: one for each field, a line an element. Counts of rows say nothing as a curve. */
static void
kd_page_other_charts (GString *out, KdSeriesSet *set, GHashTable *drawn)
{
  for (guint i = 0; i < set->all->len; i++) {
    KdSeries *series = set->all->pdata[i];
    KdPlotLine lines[16];
    guint n = 0;

    if (g_hash_table_contains (drawn, series) || g_str_equal (series->kind, "kd-progress") || g_str_equal (series->field, "count"))
      continue;
    for (guint k = i; k < set->all->len && n < G_N_ELEMENTS (lines); k++) {
      KdSeries *other = set->all->pdata[k];

      if (g_str_equal (other->kind, series->kind) && g_str_equal (other->field, series->field)) {
        lines[n++] = (KdPlotLine) { other->element, (const KdPoint *) (gpointer) other->points->data, other->points->len, TRUE };
        g_hash_table_add (drawn, other);
      }
    }
    kd_plot_lines (out, series->field, series->x_name, lines, n);
  }
}

static void
kd_page_elements (GString *out, JsonObject *info)
{
  JsonArray *elements = json_object_has_member (info, "elements") ? json_object_get_array_member (info, "elements") : NULL;

  if (!elements)
    return;
  g_string_append (out,
      "<h2>Elements</h2>\n<div class=\"wide\"><table><tr><th>Name</th><th>Element</th><th>Set to other than the default</th></tr>\n");
  for (guint i = 0; i < json_array_get_length (elements); i++) {
    JsonObject *element = json_array_get_object_element (elements, i);
    JsonObject *properties = kd_get_object (element, "properties");
    g_autoptr (GList) names = properties ? json_object_get_members (properties) : NULL;

    g_string_append (out, "<tr><td class=\"name\">");
    kd_page_text (out, kd_get (element, "name"));
    g_string_append (out, "</td><td>");
    kd_page_text (out, kd_get (element, "factory"));
    g_string_append (out, "</td><td>");
    for (GList *l = names; l; l = l->next) {
      g_autofree gchar *value = kd_node_text (json_object_get_member (properties, l->data));

      g_string_append (out, "<code><span class=\"dim\">");
      kd_page_text (out, l->data);
      g_string_append (out, "=</span>");
      kd_page_text (out, value);
      g_string_append (out, "</code> ");
    }
    g_string_append (out, "</td></tr>\n");
  }
  g_string_append (out, "</table></div>\n");
}

static void
kd_page_links (GString *out, JsonObject *info)
{
  JsonArray *links = json_object_has_member (info, "links") ? json_object_get_array_member (info, "links") : NULL;

  if (!links || json_array_get_length (links) == 0)
    return;
  g_string_append (out, "<h2>What flows on each link</h2>\n<div class=\"wide\"><table><tr><th>From</th><th>To</th><th>Fields</th></tr>\n");
  for (guint i = 0; i < json_array_get_length (links); i++) {
    JsonObject *link = json_array_get_object_element (links, i);

    g_string_append (out, "<tr><td class=\"name\">");
    kd_page_text (out, kd_get (link, "from"));
    g_string_append (out, "</td><td class=\"name\">");
    kd_page_text (out, kd_get (link, "to"));
    g_string_append (out, "</td><td><code>");
    kd_page_text (out, kd_get (link, "layout"));
    g_string_append (out, "</code></td></tr>\n");
  }
  g_string_append (out, "</table></div>\n");
}

static void
kd_page_facts (GString *out, JsonObject *info)
{
  static const gchar *const groups[] = { "versions", "machine" };

  g_string_append (out, "<h2>Where and with what</h2>\n<div class=\"wide\"><table>\n<tr><td class=\"name\">command</td><td><code>");
  kd_page_text (out, kd_get (info, "command"));
  g_string_append (out, "</code></td></tr>\n");
  for (guint g = 0; g < G_N_ELEMENTS (groups); g++) {
    JsonObject *group = kd_get_object (info, groups[g]);
    g_autoptr (GList) names = group ? json_object_get_members (group) : NULL;

    for (GList *l = names; l; l = l->next) {
      g_autofree gchar *value = kd_node_text (json_object_get_member (group, l->data));

      g_string_append (out, "<tr><td class=\"name\">");
      kd_page_text (out, l->data);
      g_string_append (out, "</td><td>");
      kd_page_text (out, value);
      g_string_append (out, "</td></tr>\n");
    }
  }
  g_string_append (out, "</table></div>\n");
}

gchar *
kd_page_run (JsonObject *info, KdSeriesSet *set, const gchar *graph)
{
  GString *out = g_string_new (NULL);
  g_autoptr (GHashTable) drawn = g_hash_table_new (NULL, NULL);
  const gchar *status = kd_get (info, "status");

  kd_page_begin (out, "kdstream run");
  g_string_append_printf (out, "<h1>Run report<span class=\"status %s\">%s</span></h1>\n<p class=\"sub\">started ", status, status);
  kd_page_text (out, kd_get (info, "started"));
  g_string_append (out, "</p>\n");
  if (*kd_get (info, "error")) {
    g_string_append (out, "<div class=\"error\">");
    kd_page_text (out, kd_get (info, "error"));
    g_string_append (out, "</div>\n");
  }
  kd_page_tiles (out, info);
  kd_page_pipeline (out, kd_get (info, "pipeline"));
  if (set->all->len > 0) {
    g_string_append (out, "<h2>Curves</h2>\n<div class=\"charts\">\n");
    for (guint i = 0; i < G_N_ELEMENTS (kd_charts); i++)
      kd_page_chart (out, set, &kd_charts[i], drawn);
    kd_page_other_charts (out, set, drawn);
    g_string_append (out, "</div>\n");
  }
  if (graph)
    g_string_append_printf (out, "<h2>Graph</h2>\n<div class=\"graph\">%s</div>\n", graph);
  kd_page_elements (out, info);
  kd_page_links (out, info);
  kd_page_facts (out, info);
  kd_page_end (out);
  return g_string_free (out, FALSE);
}
