/* kd report: the page of a run drawn again from its report.json and metrics.jsonl, or several runs laid over each other. */
#include "kd-report.h"
#include "kd-schema.h"
#include "kd-tool.h"
#include <kd/kd.h>
#include <string.h>

#define KD_MAX_RUNS 8 /* as many as the page has colours */

typedef struct {
  gchar *name;
  JsonObject *info; /* NULL: the run was killed before it wrote one */
  KdSeriesSet *set;
} KdRunFolder;

static void
kd_run_folder_clear (KdRunFolder *run)
{
  g_free (run->name);
  g_clear_pointer (&run->info, json_object_unref);
  g_clear_pointer (&run->set, kd_series_set_free);
}

/* A run that was killed has no report.json: say so on its page, from what metrics.jsonl has. */
static JsonObject *
kd_info_of_killed_run (void)
{
  JsonObject *info = json_object_new ();

  json_object_set_string_member (info, "status", "interrupted");
  json_object_set_string_member (info, "error", "The run was killed before it wrote report.json; the curves are what it had reported until then.");
  return info;
}

static gboolean
kd_run_folder_read (KdRunFolder *run, const gchar *dir, GError **error)
{
  g_autofree gchar *json = g_build_filename (dir, "report.json", NULL), *lines = g_build_filename (dir, "metrics.jsonl", NULL);
  g_autoptr (JsonNode) node = NULL;

  run->name = g_strdup (dir);
  run->set = kd_series_set_new ();
  if (!g_file_test (lines, G_FILE_TEST_EXISTS)) {
    g_set_error (error, KD_ERROR, KD_ERROR_IO, "No report of a run: path=\"%s\", missing=metrics.jsonl; kd launch --report DIR writes one", dir);
    return FALSE;
  }
  if (!kd_series_set_read (run->set, lines, error))
    return FALSE;
  if (!g_file_test (json, G_FILE_TEST_EXISTS)) {
    run->info = kd_info_of_killed_run ();
    return TRUE;
  }
  run->info = kd_json_read (json, error);
  if (!run->info)
    return FALSE;
  node = json_node_init_object (json_node_alloc (), run->info);
  if (!kd_schema_check ("run-report.schema.json", node, error)) {
    g_prefix_error (error, "Not a run's report: path=\"%s\", ", json);
    return FALSE;
  }
  return TRUE;
}

/* One row a run, one column a metric that any run has at its end. */
static void
kd_page_compare_table (GString *out, KdRunFolder *runs, guint n)
{
  g_autoptr (GHashTable) seen = g_hash_table_new_full (g_str_hash, g_str_equal, g_free, NULL);
  g_autoptr (GPtrArray) columns = g_ptr_array_new_with_free_func (g_free);

  for (guint r = 0; r < n; r++)
    for (guint i = 0; i < runs[r].set->all->len; i++) {
      KdSeries *series = runs[r].set->all->pdata[i];

      if (g_str_equal (series->kind, "kd-metrics") && !g_str_equal (series->field, "count") && g_hash_table_add (seen, g_strdup (series->field)))
        g_ptr_array_add (columns, g_strdup (series->field));
    }
  g_string_append (out, "<h2>At the end</h2>\n<div class=\"wide\"><table><tr><th>Run</th>");
  for (guint c = 0; c < columns->len; c++) {
    g_string_append (out, "<th class=\"n\">");
    kd_page_text (out, columns->pdata[c]);
    g_string_append (out, "</th>");
  }
  g_string_append (out, "</tr>\n");
  for (guint r = 0; r < n; r++) {
    g_string_append_printf (out, "<tr><td class=\"name c%u\">", r % 8);
    kd_page_text (out, runs[r].name);
    g_string_append (out, "</td>");
    for (guint c = 0; c < columns->len; c++) {
      KdSeries *series = kd_series_set_find (runs[r].set, NULL, "kd-metrics", columns->pdata[c]);
      g_autofree gchar *text = series ? kd_tool_number (g_array_index (series->points, KdPoint, series->points->len - 1).y) : g_strdup ("-");

      g_string_append_printf (out, "<td class=\"n\">%s</td>", text);
    }
    g_string_append (out, "</tr>\n");
  }
  g_string_append (out, "</table></div>\n");
}

static void
kd_page_compare_charts (GString *out, KdRunFolder *runs, guint n)
{
  g_autoptr (GHashTable) seen = g_hash_table_new_full (g_str_hash, g_str_equal, g_free, NULL);

  g_string_append (out, "<h2>Curves</h2>\n<div class=\"charts\">\n");
  for (guint r = 0; r < n; r++)
    for (guint i = 0; i < runs[r].set->all->len; i++) {
      KdSeries *series = runs[r].set->all->pdata[i];
      KdPlotLine lines[KD_MAX_RUNS];

      if (g_str_equal (series->kind, "kd-progress") || g_str_equal (series->field, "count") || !g_hash_table_add (seen, g_strconcat (series->kind, series->field, NULL)))
        continue;
      for (guint k = 0; k < n; k++) {
        KdSeries *other = kd_series_set_find (runs[k].set, NULL, series->kind, series->field);

        lines[k] = other ? (KdPlotLine) { runs[k].name, (const KdPoint *) (gpointer) other->points->data, other->points->len, TRUE }
                         : (KdPlotLine) { runs[k].name, NULL, 0, FALSE };
      }
      kd_plot_lines (out, series->field, series->x_name, lines, n);
    }
  g_string_append (out, "</div>\n");
}

static gchar *
kd_page_compare (KdRunFolder *runs, guint n)
{
  GString *out = g_string_new (NULL);

  kd_page_begin (out, "kdstream runs");
  g_string_append_printf (out, "<h1>%u runs</h1>\n", n);
  kd_page_compare_table (out, runs, n);
  kd_page_compare_charts (out, runs, n);
  kd_page_end (out);
  return g_string_free (out, FALSE);
}

static int
kd_report_write (KdRunFolder *runs, guint n, const gchar *dir, const gchar *output)
{
  g_autofree gchar *usual = g_build_filename (dir, "report.html", NULL), *page = NULL;
  g_autoptr (GError) error = NULL;
  const gchar *path = output ? output : usual;

  page = n == 1 ? kd_page_run (runs[0].info, runs[0].set, NULL) : kd_page_compare (runs, n);
  if (!g_file_set_contents (path, page, -1, &error))
    return kd_tool_fail ("%s", error->message);
  g_print ("Page: %s\n", path);
  return KD_EXIT_DONE;
}

int
kd_tool_report (int argc, char **argv)
{
  static gchar *output;
  static const GOptionEntry entries[] = {
    { "output", 'o', 0, G_OPTION_ARG_FILENAME, &output, "Where the page goes (one run: DIR/report.html)", "FILE.html" },
    { NULL }
  };
  KdRunFolder runs[KD_MAX_RUNS] = { { NULL } };
  g_autoptr (GError) error = NULL;
  guint n;
  int code = KD_EXIT_FAILED;

  if (!kd_tool_options (&argc, &argv, entries, "DIR...", "Draw the page of a run again, or up to 8 runs on one page.",
          "Examples:\n  kd report runs/one\n  kd report runs/one runs/two -o both.html\n"))
    return KD_EXIT_USAGE;
  n = (guint) argc - 1;
  if (n == 0)
    return kd_tool_usage ("no folder of a run was given");
  if (n > KD_MAX_RUNS)
    return kd_tool_usage ("%u runs are too many for one page; at most %u", n, KD_MAX_RUNS);
  if (n > 1 && !output)
    return kd_tool_usage ("several runs need --output FILE.html");
  for (guint i = 0; i < n && !error; i++)
    kd_run_folder_read (&runs[i], argv[i + 1], &error);
  if (error)
    kd_tool_fail ("%s", error->message);
  else
    code = kd_report_write (runs, n, argv[1], output);
  for (guint i = 0; i < n; i++)
    kd_run_folder_clear (&runs[i]);
  return code;
}
