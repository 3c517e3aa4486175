/* What a run leaves behind: series, TensorBoard records, report.json, the page. */
#include "../../tools/kd-report.h"
#include "../../tools/kd-schema.h"
#include "kd-graph.h"
#include <math/kd-crc32c.h>

static gchar *folder;

static void
setup (void)
{
  folder = kd_test_folder ();
}

static void
teardown (void)
{
  kd_test_remove (folder);
  g_clear_pointer (&folder, g_free);
}

static gchar *
event_file (void)
{
  g_autoptr (GDir) dir = g_dir_open (folder, 0, NULL);
  const gchar *name;

  while ((name = g_dir_read_name (dir)))
    if (g_str_has_prefix (name, "events.out.tfevents."))
      return g_build_filename (folder, name, NULL);
  ck_abort_msg ("no event file");
  return NULL;
}

static guint32
unmask (guint32 masked)
{
  guint32 rotated = masked - 0xa282ead8;

  return (rotated >> 17) | (rotated << 15);
}

/* Reads a varint at *@at. */
static guint64
varint (const guint8 *data, gsize *at)
{
  guint64 value = 0;

  for (guint shift = 0;; shift += 7) {
    value |= (guint64) (data[*at] & 0x7f) << shift;
    if (!(data[(*at)++] & 0x80))
      return value;
  }
}

/* A reader of its own for what TensorBoard reads: length, CRC, event, CRC. */
START_TEST (test_events)
{
  g_autoptr (GError) error = NULL;
  KdEvents *events = kd_events_open (folder, &error);
  g_autofree gchar *path = NULL, *bytes = NULL;
  gsize n, at = 0, records = 0;

  ck_assert (kd_events_scalar (events, "loss/ce", 300, 0.25, &error));
  ck_assert (kd_events_close (events, &error));
  path = event_file ();
  ck_assert (g_file_get_contents (path, &bytes, &n, NULL));
  while (at < n) {
    const guint8 *record = (const guint8 *) bytes + at;
    guint64 length;
    guint32 crc;

    memcpy (&length, record, 8);
    memcpy (&crc, record + 8, 4);
    ck_assert_uint_eq (unmask (GUINT32_FROM_LE (crc)), kd_crc32c (0, record, 8));
    ck_assert (at + length + 16 <= n);
    memcpy (&crc, record + 12 + length, 4);
    ck_assert_uint_eq (unmask (GUINT32_FROM_LE (crc)), kd_crc32c (0, record + 12, length));
    if (records++ == 1) { /* 9 bytes of time, then step, then the summary */
      gsize inside = 9;
      gfloat value;

      ck_assert_uint_eq (record[12], 1 << 3 | 1);
      ck_assert_uint_eq (record[12 + inside++], 2 << 3);
      ck_assert_uint_eq (varint (record + 12, &inside), 300);
      ck_assert_uint_eq (record[12 + inside++], 5 << 3 | 2);
      varint (record + 12, &inside);
      ck_assert_uint_eq (record[12 + inside++], 1 << 3 | 2);
      varint (record + 12, &inside);
      ck_assert_uint_eq (record[12 + inside++], 1 << 3 | 2);
      ck_assert_uint_eq (varint (record + 12, &inside), 7);
      ck_assert (memcmp (record + 12 + inside, "loss/ce", 7) == 0);
      memcpy (&value, record + 12 + inside + 8, 4);
      ck_assert (value == 0.25f);
    }
    at += length + 16;
  }
  ck_assert_uint_eq (records, 2);
}
END_TEST

START_TEST (test_events_no_folder)
{
  GError *error = NULL;

  ck_assert (kd_events_open ("/nowhere/at/all", &error) == NULL);
  kd_assert_error (error, KD_ERROR_IO, "/nowhere/at/all");
}
END_TEST

static void
write_lines (const gchar *text, gchar **ret_path)
{
  *ret_path = g_build_filename (folder, "metrics.jsonl", NULL);
  ck_assert (g_file_set_contents (*ret_path, text, -1, NULL));
}

START_TEST (test_series_torn_line)
{
  g_autoptr (KdSeriesSet) set = kd_series_set_new ();
  g_autofree gchar *path = NULL;
  GError *error = NULL;
  KdSeries *series;

  write_lines ("{\"time\":0.5,\"element\":\"kdtrain0\",\"message\":\"kd-report\",\"step\":16,\"loss\":2.5,\"final\":false}\n"
               "{\"time\":0.6,\"element\":\"kdtrain0\",\"message\":\"kd-report\",\"step\":32,\"loss\":1.5}\n{\"time\":0.7,\"ele",
      &path);
  ck_assert (kd_series_set_read (set, path, &error));
  kd_assert_no_error (error);
  ck_assert_uint_eq (set->all->len, 1); /* neither time nor step nor a truth value is a series */
  series = kd_series_set_find (set, NULL, "kd-report", "loss");
  ck_assert_uint_eq (series->points->len, 2);
  ck_assert (g_array_index (series->points, KdPoint, 1).x == 32);
  ck_assert (g_array_index (series->points, KdPoint, 1).y == 1.5);
  ck_assert (kd_series_set_find (set, "kdtrain1", NULL, "loss") == NULL);
}
END_TEST

START_TEST (test_series_bad_line)
{
  g_autoptr (KdSeriesSet) set = kd_series_set_new ();
  g_autofree gchar *path = NULL;
  GError *error = NULL;

  write_lines ("{\"element\":\n{\"step\":1}\n", &path);
  ck_assert (!kd_series_set_read (set, path, &error));
  kd_assert_error (error, KD_ERROR_FORMAT, "line=1");
}
END_TEST

/* Brackets that would be more than the parser's stack. */
START_TEST (test_deep)
{
  g_autofree gchar *deep = g_strnfill (1 << 20, '['), *lines = g_strconcat (deep, "\n{}\n", NULL), *path = NULL;
  g_autoptr (KdSeriesSet) set = kd_series_set_new ();
  GError *error = NULL;

  write_lines (lines, &path);
  ck_assert (!kd_series_set_read (set, path, &error));
  kd_assert_error (error, KD_ERROR_FORMAT, "nested deeper");
  error = NULL;
  ck_assert (!kd_json_read (path, &error));
  kd_assert_error (error, KD_ERROR_FORMAT, "nested deeper");
}
END_TEST

static JsonObject *
info_new (void)
{
  JsonObject *info = json_object_new (), *versions = json_object_new ();

  json_object_set_string_member (info, "status", "done");
  json_object_set_string_member (info, "pipeline", "kdh5src location=<a&b> ! fakesink");
  json_object_set_string_member (info, "command", "kd launch x");
  json_object_set_string_member (info, "started", "2026-01-02T03:04:05+00:00");
  json_object_set_double_member (info, "seconds", 1);
  json_object_set_array_member (info, "elements", json_array_new ());
  json_object_set_array_member (info, "links", json_array_new ());
  json_object_set_string_member (versions, "kdstream", "0");
  json_object_set_string_member (versions, "gstreamer", "1");
  json_object_set_object_member (info, "versions", versions);
  json_object_set_object_member (info, "machine", kd_report_machine ());
  return info;
}

/* NaN has no place in JSON: it is left out, and the line stays readable. */
START_TEST (test_report)
{
  GError *error = NULL;
  g_autoptr (KdReport) report = kd_report_new (folder, &error);
  g_autoptr (GstStructure) loss = gst_structure_new ("kd-report", "step", G_TYPE_UINT64, (guint64) 3, "loss", G_TYPE_DOUBLE, 1.25, "grad-norm",
      G_TYPE_DOUBLE, NAN, NULL);
  g_autoptr (GstStructure) metrics = gst_structure_new ("kd-metrics", "epoch", G_TYPE_UINT, 2, "final", G_TYPE_BOOLEAN, TRUE, "accuracy",
      G_TYPE_DOUBLE, 0.75, NULL);
  g_autoptr (JsonObject) info = info_new (), written = NULL;
  g_autofree gchar *json = g_build_filename (folder, "report.json", NULL), *html = g_build_filename (folder, "report.html", NULL), *page = NULL;

  ck_assert (kd_report_add (report, "kdtrain0", loss, &error));
  ck_assert (kd_report_add (report, "kdmetrics0", metrics, &error));
  ck_assert (kd_report_finish (report, info, NULL, &error));
  kd_assert_no_error (error);
  written = kd_json_read (json, &error);
  ck_assert (json_object_get_double_member (json_object_get_object_member (json_object_get_object_member (written, "metrics"), "kdmetrics0"),
                 "accuracy") == 0.75);
  ck_assert (g_file_get_contents (html, &page, NULL, NULL));
  ck_assert (strstr (page, "&lt;a&amp;b&gt;") && !strstr (page, "<a&b>"));
  ck_assert (strstr (page, "0.75") && strstr (page, "<svg"));
  /* One file with nothing outside it. */
  ck_assert (!strstr (page, "src=") && !strstr (page, "@import") && !strstr (page, "<link"));
}
END_TEST

START_TEST (test_report_refuses_bad_info)
{
  GError *error = NULL;
  g_autoptr (KdReport) report = kd_report_new (folder, &error);
  g_autoptr (JsonObject) info = info_new ();
  g_autofree gchar *json = g_build_filename (folder, "report.json", NULL);

  json_object_set_string_member (info, "status", "perhaps");
  ck_assert (!kd_report_finish (report, info, NULL, &error));
  kd_assert_error (error, KD_ERROR_SCHEMA, "at /status: value=\"perhaps\"");
  ck_assert (!g_file_test (json, G_FILE_TEST_EXISTS));
}
END_TEST

static const struct {
  const gchar *document, *message;
} bad_documents[] = {
  { "[]", "at /: type=array" },
  { "{\"recipe\":{\"title\":\"t\"}}", "missing=\"step\"" },
  { "{\"recipe\":{\"title\":\"\"},\"step\":{}}", "at /recipe/title: value=\"\" is too short" },
  { "{\"recipe\":{\"title\":\"t\",\"minutes\":-1},\"step\":{}}", "at /recipe/minutes: value=-1, minimum=0" },
  { "{\"recipe\":{\"title\":\"t\",\"seeds\":1.5},\"step\":{}}", "at /recipe/seeds: type=number" },
  { "{\"recipe\":{\"title\":\"t\"},\"step\":{\"Bad\":{}}}", "at /step/Bad: unknown name" },
  { "{\"recipe\":{\"title\":\"t\"},\"step\":{\"a\":{\"seeds\":\"twice\"}}}", "at /step/a/seeds: value=\"twice\"" },
  { "{\"recipe\":{\"title\":\"t\"},\"step\":{\"a\":{\"needs\":[\"b\",7]}}}", "at /step/a/needs/1: type=integer" },
  { "{\"recipe\":{\"title\":\"t\"},\"step\":{},\"compare\":{\"baseline\":\"a\",\"metric\":\"a b\"}}", "wanted pattern" },
  { "{\"recipe\":{\"title\":\"t\"},\"step\":{},\"compare\":{\"baseline\":\"a\",\"metric\":\"b\",\"method\":[]}}", "items=0, wanted at least 1" },
};

START_TEST (test_schema)
{
  GError *error = NULL;
  g_autoptr (JsonNode) good = json_from_string ("{\"recipe\":{\"title\":\"t\",\"minutes\":2},\"step\":{\"a\":{\"pipeline\":\"x\",\"needs\":[\"b\"]}}}", NULL);

  ck_assert (kd_schema_check ("recipe.schema.json", good, &error));
  for (guint i = 0; i < G_N_ELEMENTS (bad_documents); i++) {
    g_autoptr (JsonNode) bad = json_from_string (bad_documents[i].document, NULL);

    ck_assert (!kd_schema_check ("recipe.schema.json", bad, &error));
    kd_assert_error (error, KD_ERROR_SCHEMA, bad_documents[i].message);
  }
  ck_assert (!kd_schema_check ("no.schema.json", good, &error));
  g_clear_error (&error);
}
END_TEST

START_TEST (test_ticks)
{
  gdouble ticks[12];

  ck_assert_uint_eq (kd_plot_ticks (0, 1, 5, ticks), 6);
  kd_assert_close (ticks[1], 0.2, 1e-12);
  ck_assert_uint_eq (kd_plot_ticks (3, 3, 5, ticks), 1); /* one value */
  ck_assert (kd_plot_ticks (-1e-300, 1e300, 5, ticks) <= 12);
  ck_assert_uint_eq (kd_plot_ticks (0, INFINITY, 5, ticks), 1);
}
END_TEST

int
main (int argc, char **argv)
{
  Suite *suite = suite_create (KD_TEST_NAME);
  TCase *tcase = tcase_create ("all");

  gst_check_init (&argc, &argv);
  tcase_add_checked_fixture (tcase, setup, teardown);
  tcase_add_test (tcase, test_events);
  tcase_add_test (tcase, test_events_no_folder);
  tcase_add_test (tcase, test_series_torn_line);
  tcase_add_test (tcase, test_series_bad_line);
  tcase_add_test (tcase, test_deep);
  tcase_add_test (tcase, test_report);
  tcase_add_test (tcase, test_report_refuses_bad_info);
  tcase_add_test (tcase, test_schema);
  tcase_add_test (tcase, test_ticks);
  suite_add_tcase (suite, tcase);
  return gst_check_run_suite (suite, KD_TEST_NAME, __FILE__);
}
