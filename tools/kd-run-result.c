/* The result of a recipe: the table, results.json, and a page with a point a seed. */
#include "kd-recipe.h"
#include "kd-report.h"
#include <glib/gstdio.h>
#include <math.h>
#include <string.h>

static const KdResultRow *
kd_row (const KdResult *result, guint i)
{
  return &g_array_index (result->rows, KdResultRow, i);
}

/* As many digits as the deviation makes sense of. */
static gchar *
kd_cell (const KdResult *result, gdouble value, gboolean sign)
{
  gdouble shown = value * (result->recipe->percent ? 100 : 1);
  gint digits = result->recipe->percent ? 2 : fabs (shown) >= 100 ? 1
      : fabs (shown) >= 1                                         ? 3
                                                                  : 4;

  if (isnan (value))
    return g_strdup ("-");
  return sign ? g_strdup_printf ("%+.*f", digits, shown) : g_strdup_printf ("%.*f", digits, shown);
}

/* "better" and "worse" only where the interval leaves zero out. */
static const gchar *
kd_verdict (const KdResult *result, const KdPaired *paired)
{
  if (paired->n > 1 && paired->low == 0 && paired->high == 0)
    return "the same";
  if (!(paired->low > 0) && !(paired->high < 0))
    return "";
  return (paired->low > 0) == result->recipe->higher_is_better ? "better" : "worse";
}

typedef struct {
  gchar *mean, *deviation, *difference, *interval;
  const gchar *verdict;
  KdMean m;
  KdPaired p;
} KdCells;

/* The baseline itself and what only stands there to be looked at (the teacher) are compared with nothing. */
static gboolean
kd_row_compares (const KdResult *result, guint i)
{
  return i > 0 && !g_str_equal (kd_row (result, i)->role, "reference");
}

static KdCells
kd_cells (const KdResult *result, guint i)
{
  KdCells cells = { NULL };
  gboolean compares = kd_row_compares (result, i);
  g_autofree gchar *low = NULL, *high = NULL;

  cells.m = kd_result_mean (kd_row (result, i)->values, result->n_seeds);
  cells.p = kd_result_paired (kd_row (result, 0)->values, kd_row (result, i)->values, result->n_seeds);
  cells.mean = kd_cell (result, cells.m.mean, FALSE);
  cells.deviation = kd_cell (result, cells.m.deviation, FALSE);
  cells.difference = compares ? kd_cell (result, cells.p.mean, TRUE) : g_strdup ("");
  low = kd_cell (result, cells.p.low, TRUE);
  high = kd_cell (result, cells.p.high, TRUE);
  cells.interval = compares && !isnan (cells.p.low) ? g_strdup_printf ("[%s, %s]", low, high) : g_strdup ("");
  cells.verdict = compares ? kd_verdict (result, &cells.p) : "";
  return cells;
}

static void
kd_cells_clear (KdCells *cells)
{
  g_free (cells->mean);
  g_free (cells->deviation);
  g_free (cells->difference);
  g_free (cells->interval);
}

/* printf counts bytes; a title or a plus-minus sign has more of them than columns. */
static void
kd_print_padded (const gchar *text, gint width, gboolean right)
{
  gint pad = MAX (0, width - (gint) g_utf8_strlen (text, -1));

  if (right)
    printf ("%*s%s", pad, "", text);
  else
    printf ("%s%*s", text, pad, "");
}

/* What a row is for, where it is neither the baseline nor a method. */
static const gchar *
kd_note (const KdResult *result, guint i)
{
  const gchar *role = kd_row (result, i)->role;

  return g_str_equal (role, "ablation") || g_str_equal (role, "reference") ? role : "";
}

void
kd_result_print (const KdResult *result)
{
  const KdRecipe *recipe = result->recipe;
  g_autofree gchar *time = kd_tool_duration (result->seconds);
  gint width = 10;

  for (guint i = 0; i < result->rows->len; i++)
    width = MAX (width, (gint) g_utf8_strlen (kd_row (result, i)->step->title, -1));
  if (result->rows->len > 0) {
    printf ("\n%s%s, %u seed%s; difference to the first row, paired by seed, with its 95 %% interval\n\n", recipe->metric, recipe->percent ? " (%)" : "", result->n_seeds,
        result->n_seeds == 1 ? "" : "s");
    kd_print_padded ("", width, FALSE);
    kd_print_padded ("mean \xc2\xb1 deviation", 19, TRUE);
    kd_print_padded ("difference", 13, TRUE);
    printf ("  interval\n");
  }
  for (guint i = 0; i < result->rows->len; i++) {
    KdCells cells = kd_cells (result, i);
    g_autofree gchar *mean = g_strdup_printf ("%s \xc2\xb1 %s", cells.mean, cells.deviation);
    const gchar *note = kd_note (result, i);

    kd_print_padded (kd_row (result, i)->step->title, width, FALSE);
    kd_print_padded (mean, 19, TRUE);
    if (*cells.difference || *note)
      kd_print_padded (cells.difference, 13, TRUE);
    if (*cells.interval) {
      printf ("  ");
      kd_print_padded (cells.interval, *cells.verdict || *note ? 18 : 0, FALSE);
    }
    printf ("%s%s%s%s\n", *cells.verdict ? "  " : "", cells.verdict, *note ? "  " : "", note);
    kd_cells_clear (&cells);
  }
  printf ("%sMade in %s:\n  %s/results.json\n  %s/results.html\n", result->rows->len > 0 ? "\n" : "", time, result->output, result->output);
}

static void
kd_set_number (JsonObject *object, const gchar *name, gdouble value)
{
  if (isnan (value))
    json_object_set_null_member (object, name);
  else
    json_object_set_double_member (object, name, value);
}

static JsonObject *
kd_row_object (const KdResult *result, guint i)
{
  const KdResultRow *row = kd_row (result, i);
  JsonObject *object = json_object_new (), *difference;
  JsonArray *values = json_array_new ();
  KdMean mean = kd_result_mean (row->values, result->n_seeds);
  KdPaired paired = kd_result_paired (kd_row (result, 0)->values, row->values, result->n_seeds);

  json_object_set_string_member (object, "step", row->step->name);
  json_object_set_string_member (object, "title", row->step->title);
  json_object_set_string_member (object, "role", row->role);
  for (guint s = 0; s < result->n_seeds; s++)
    if (isnan (row->values[s]))
      json_array_add_null_element (values);
    else
      json_array_add_double_element (values, row->values[s]);
  json_object_set_array_member (object, "values", values);
  kd_set_number (object, "mean", mean.mean);
  kd_set_number (object, "deviation", mean.deviation);
  if (!kd_row_compares (result, i))
    return object;
  difference = json_object_new ();
  json_object_set_int_member (difference, "pairs", paired.n);
  kd_set_number (difference, "mean", paired.mean);
  kd_set_number (difference, "low", paired.low);
  kd_set_number (difference, "high", paired.high);
  json_object_set_object_member (object, "difference", difference);
  return object;
}

static JsonObject *
kd_result_object (const KdResult *result)
{
  JsonObject *object = json_object_new (), *params = json_object_new ();
  JsonArray *rows = json_array_new ();
  GHashTableIter iter;
  gpointer name, value;

  json_object_set_string_member (object, "schema", "recipe-results/1");
  json_object_set_string_member (object, "created-by", "kdstream " KD_VERSION);
  json_object_set_string_member (object, "recipe", result->recipe->path);
  json_object_set_string_member (object, "title", result->recipe->title);
  g_hash_table_iter_init (&iter, result->recipe->params);
  while (g_hash_table_iter_next (&iter, &name, &value))
    json_object_set_string_member (params, name, value);
  json_object_set_object_member (object, "param", params);
  json_object_set_int_member (object, "first-seed", result->first_seed);
  json_object_set_int_member (object, "seeds", result->n_seeds);
  json_object_set_double_member (object, "seconds", result->seconds);
  if (result->recipe->metric)
    json_object_set_string_member (object, "metric", result->recipe->metric);
  for (guint i = 0; i < result->rows->len; i++)
    json_array_add_object_element (rows, kd_row_object (result, i));
  json_object_set_array_member (object, "rows", rows);
  json_object_set_array_member (object, "runs", json_array_ref (result->runs));
  json_object_set_object_member (object, "machine", kd_report_machine ());
  return object;
}

static void
kd_page_table (GString *out, const KdResult *result)
{
  g_string_append (out,
      "<h2>Result</h2>\n<div class=\"wide\"><table><tr><th>Step</th><th>Role</th><th class=\"n\">Mean</th><th class=\"n\">Deviation</th>"
      "<th class=\"n\">Difference</th><th class=\"n\">95 % interval</th><th></th></tr>\n");
  for (guint i = 0; i < result->rows->len; i++) {
    KdCells cells = kd_cells (result, i);

    g_string_append_printf (out, "<tr><td class=\"name c%u\">", i % 8);
    kd_page_text (out, kd_row (result, i)->step->title);
    g_string_append_printf (out,
        "</td><td>%s</td><td class=\"n\"><b>%s</b></td><td class=\"n\">%s</td><td class=\"n\">%s</td><td class=\"n\">%s</td><td class=\"%s\">%s</td></tr>\n",
        kd_row (result, i)->role, cells.mean, cells.deviation, cells.difference, cells.interval,
        g_str_equal (cells.verdict, "better") ? "good" : g_str_equal (cells.verdict, "worse") ? "bad"
                                                                                              : "",
        cells.verdict);
    kd_cells_clear (&cells);
  }
  g_string_append (out, "</table></div>\n");
}

/* A row a step: a point a seed, a bar at the mean; the same seed on the same height within its row, so that pairs can be followed. */
static void
kd_page_points (GString *out, const KdResult *result)
{
  const gdouble left = 210, right = 20, width = 900, row_height = 52;
  gdouble low = INFINITY, high = -INFINITY, ticks[12], height = 20 + row_height * result->rows->len + 34, scale = result->recipe->percent ? 100 : 1;
  guint n;

  for (guint i = 0; i < result->rows->len; i++)
    for (guint s = 0; s < result->n_seeds; s++)
      if (!isnan (kd_row (result, i)->values[s])) {
        low = MIN (low, scale * kd_row (result, i)->values[s]);
        high = MAX (high, scale * kd_row (result, i)->values[s]);
      }
  if (!isfinite (low))
    return;
  high = high > low ? high + 0.05 * (high - low) : low + 1;
  low -= 0.05 * (high - low);
  g_string_append (out, "<h2>Every seed</h2>\n<figure><figcaption>");
  kd_page_text (out, result->recipe->metric);
  g_string_append_printf (out, "%s</figcaption>\n<svg class=\"chart\" viewBox=\"0 0 %.0f %.0f\" role=\"img\">\n", result->recipe->percent ? " (%)" : "", width, height);
#define X(v) (left + ((v) -low) / (high - low) * (width - left - right))
  n = kd_plot_ticks (low, high, 8, ticks);
  for (guint i = 0; i < n; i++) {
    g_autofree gchar *text = kd_tool_number (ticks[i]);

    g_string_append_printf (out,
        "<line class=\"grid\" x1=\"%.1f\" x2=\"%.1f\" y1=\"10\" y2=\"%.0f\"/><text class=\"x\" x=\"%.1f\" y=\"%.0f\">%s</text>\n", X (ticks[i]),
        X (ticks[i]),
        height - 30, X (ticks[i]), height - 12, text);
  }
  for (guint i = 0; i < result->rows->len; i++) {
    const KdResultRow *row = kd_row (result, i);
    gdouble y = 20 + row_height * (i + 0.5), mean = scale * kd_result_mean (row->values, result->n_seeds).mean;

    g_string_append_printf (out, "<text class=\"label\" x=\"8\" y=\"%.1f\">", y + 4);
    kd_page_text (out, row->step->title);
    g_string_append_printf (out, "</text><g class=\"c%u\">", i % 8);
    if (!isnan (mean))
      g_string_append_printf (out, "<line class=\"bar\" x1=\"%.1f\" x2=\"%.1f\" y1=\"%.1f\" y2=\"%.1f\"/>", X (mean), X (mean), y - 19, y + 19);
    for (guint s = 0; s < result->n_seeds; s++)
      if (!isnan (row->values[s]))
        g_string_append_printf (out,
            "<circle cx=\"%.1f\" cy=\"%.1f\" r=\"4.5\" fill-opacity=\"0.75\"><title>seed %" G_GINT64_FORMAT ": %.4g</title></circle>",
            X (scale * row->values[s]),
            y + (result->n_seeds > 1 ? (s / (gdouble) (result->n_seeds - 1) - 0.5) * 26 : 0), result->first_seed + s, scale * row->values[s]);
    g_string_append (out, "</g>\n");
  }
#undef X
  g_string_append (out, "</svg></figure>\n");
}

static void
kd_page_runs (GString *out, const KdResult *result)
{
  g_string_append (out,
      "<h2>Steps</h2>\n<div class=\"wide\"><table><tr><th>Step</th><th class=\"n\">Seed</th><th>Status</th><th class=\"n\">Time</th><th>Report</th></tr>\n");
  for (guint i = 0; i < json_array_get_length (result->runs); i++) {
    JsonObject *run = json_array_get_object_element (result->runs, i);
    const gchar *folder = json_object_get_string_member (run, "folder"), *reports[] = { "report", "evaluate" };
    gint64 seed = json_object_get_int_member (run, "seed");
    g_autofree gchar *time = json_object_get_boolean_member (run, "skipped") ? g_strdup ("as before")
                                                                             : kd_tool_duration (json_object_get_double_member (run, "seconds"));

    g_string_append (out, "<tr><td class=\"name\">");
    kd_page_text (out, json_object_get_string_member (run, "step"));
    if (seed < 0)
      g_string_append (out, "</td><td class=\"n\">once");
    else
      g_string_append_printf (out, "</td><td class=\"n\">%" G_GINT64_FORMAT, seed);
    g_string_append_printf (out, "</td><td>%s</td><td class=\"n\">%s</td><td>", json_object_get_string_member (run, "status"), time);
    for (guint k = 0; k < 2; k++) {
      g_autofree gchar *file = g_build_filename (folder, reports[k], "report.html", NULL);

      if (g_file_test (file, G_FILE_TEST_EXISTS)) { /* relative, so that the folder can be moved */
        g_string_append (out, "<a href=\"");
        kd_page_text (out, g_str_has_prefix (file, result->output) ? file + strlen (result->output) + 1 : file);
        g_string_append_printf (out, "\">%s</a> ", k ? "evaluation" : "run");
      }
    }
    g_string_append (out, "</td></tr>\n");
  }
  g_string_append (out, "</table></div>\n");
}

static gchar *
kd_result_page (const KdResult *result)
{
  GString *out = g_string_new (NULL);
  g_autofree gchar *time = kd_tool_duration (result->seconds);

  kd_page_begin (out, result->recipe->title);
  g_string_append (out, "<h1>");
  kd_page_text (out, result->recipe->title);
  g_string_append (out, "</h1>\n<p class=\"sub\">");
  kd_page_text (out, result->recipe->paper ? result->recipe->paper : "");
  g_string_append_printf (out, "%s%u seed%s, made in %s</p>\n", result->recipe->paper ? "; " : "", result->n_seeds, result->n_seeds == 1 ? "" : "s", time);
  if (result->rows->len > 0) {
    kd_page_table (out, result);
    kd_page_points (out, result);
  }
  kd_page_runs (out, result);
  kd_page_end (out);
  return g_string_free (out, FALSE);
}

gboolean
kd_result_write (const KdResult *result, GError **error)
{
  g_autoptr (JsonObject) object = kd_result_object (result);
  g_autofree gchar *json = g_build_filename (result->output, "results.json", NULL), *html = g_build_filename (result->output, "results.html", NULL);
  g_autofree gchar *page = kd_result_page (result);

  g_mkdir_with_parents (result->output, 0777);
  return kd_json_write (object, json, error) && g_file_set_contents (html, page, -1, error);
}
