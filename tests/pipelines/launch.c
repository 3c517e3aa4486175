/* kd launch on whole graphs: dry runs, reports, seeds, signals. */
#include "kd-command.h"
#include <json-glib/json-glib.h>
#include <sys/stat.h>

/* Quoted for the shell's double quotes. */
#define STUDENT "kdstudent arch=\\\"mlp dims=64,8,10\\\""

/* What the issue asks for by name. */
START_TEST (test_dry_run_missing_field)
{
  kd_expect (1, "kd launch --dry-run \"kdh5src location=$D ! kddivergence ! kdtrain\"", "ERROR kddivergence0: ");
  ck_assert (strstr (kd_err, "student.logits") && strstr (kd_err, "kdstudent"));
  ck_assert (strstr (kd_err, "^~~~~~~~~~~~"));
  ck_assert_uint_eq (g_strv_length (g_strsplit (kd_err, "ERROR", -1)), 2); /* said once */
}
END_TEST

START_TEST (test_dry_run)
{
  kd_expect (0, "kd launch --dry-run --graph g.svg \"kdh5src location=$D ! kdteacher arch=\\\"mlp dims=64,10\\\" ! kdcachesink location=t.h5\"",
      "kdh5src0 -> kdteacher0");
  ck_assert (strstr (kd_out, "kdteacher0 -> kdcachesink0") && strstr (kd_out, "+teacher.logits=float32:10") && strstr (kd_out, "input=uint8:1x8x8"));
  ck_assert (!kd_exists ("t.h5") && !kd_exists ("t.h5.parts")); /* nothing is written */
  ck_assert (kd_exists ("g.svg"));
  kd_expect (0, "kd launch --dry-run \"kdh5src location=$D ! " STUDENT " save=s.safetensors ! kdce ! kdtrain checkpoint=c.h5\"",
      "+grad.student.logits");
  ck_assert (!kd_exists ("s.safetensors") && !kd_exists ("c.h5"));
}
END_TEST

/* A queue before the student reads ahead and changes nothing else: reports, totals and weights are the same. */
START_TEST (test_queue)
{
  kd_expect (0, "kd launch -q \"kdh5src location=$D ! kdteacher arch=\\\"mlp dims=64,10\\\" ! kdcachesink location=t.h5\"", "");
  kd_expect (0,
      "for q in plain queue; do x=; test $q = plain || x='queue max-size-buffers=4 !'; "
      "kd launch --report $q \"kdh5src location=$D shuffle=true epochs=2 batch-size=100 ! kdcache location=t.h5 ! $x " STUDENT " save=$q.safetensors ! kdhinton ! kdtrain report-every=1\" || exit 1; done",
      "Done: 3594 samples");
  kd_expect (0, "cmp plain.safetensors queue.safetensors", "");
  kd_expect (0, "for q in plain queue; do grep kd-report $q/metrics.jsonl | grep -oE '\"(step|samples|total|loss)\":[^,}]*' > $q.txt; done; wc -l < plain.txt; cmp plain.txt queue.txt", "");
  ck_assert_int_gt (atoi (kd_out), 70);
}
END_TEST

START_TEST (test_missing_file)
{
  kd_expect (1, "kd launch \"kdh5src location=nowhere.h5 ! " STUDENT " ! kdce ! kdtrain\"", "nowhere.h5");
  ck_assert (strstr (kd_err, "ERROR kdh5src0: "));
}
END_TEST

START_TEST (test_report)
{
  g_autoptr (JsonParser) parser = json_parser_new ();
  g_autofree gchar *json = NULL, *lines = NULL, *svg = NULL;
  JsonObject *report;

  kd_expect (0,
      "kd launch --seed 3 --report r --graph g.svg \"kdh5src location=$D epochs=2 batch-size=100 ! " STUDENT " ! kdce ! kdmetrics ! kdtrain report-every=1\"",
      "kdmetrics0: accuracy");
  ck_assert (kd_exists ("r/report.html") && kd_exists ("r/metrics.jsonl"));
  kd_expect (0, "ls r", "events.out.tfevents.");
  json = kd_contents ("r/report.json");
  ck_assert (json_parser_load_from_data (parser, json, -1, NULL));
  report = json_node_get_object (json_parser_get_root (parser));
  ck_assert_str_eq (json_object_get_string_member (report, "status"), "done");
  ck_assert_int_eq (json_object_get_int_member (report, "seed"), 3);
  ck_assert_uint_eq (json_array_get_length (json_object_get_array_member (report, "links")), 4);
  ck_assert (json_object_has_member (json_object_get_object_member (report, "metrics"), "kdmetrics0"));
  lines = kd_contents ("r/metrics.jsonl");
  ck_assert (strstr (lines, "\"loss.kdce\"") && strstr (lines, "\"grad-share.kdce\"") && strstr (lines, "\"kd-metrics\""));
  svg = kd_contents ("g.svg");
  ck_assert (g_str_has_prefix (svg, "<svg ") && strstr (svg, "kdstudent0") && strstr (svg, "+student.logits=float32:10"));
  kd_expect (0, "kd report r", "r/report.html");
  kd_expect (0, "cp -r r s && kd report r s -o both.html", "both.html");
  ck_assert (kd_exists ("both.html"));
}
END_TEST

/* A run that fails has a report too, which says why. */
START_TEST (test_report_of_failure)
{
  g_autofree gchar *json = NULL;

  kd_expect (1, "kd launch --report r \"kdh5src location=$D ! kdce ! kdtrain\"", "ERROR kdce0");
  json = kd_contents ("r/report.json");
  ck_assert (strstr (json, "\"failed\"") && strstr (json, "student.logits"));
}
END_TEST

START_TEST (test_report_folder_not_writable)
{
  kd_expect (1, "touch file && kd launch --report file/r 'fakesrc num-buffers=1 ! fakesink'", "file/r");
}
END_TEST

/* --seed reaches what has no seed of its own: the same seed gives the same bits, another one others. */
START_TEST (test_seed)
{
  static const gchar line[] = "kd launch -q --seed %u \"kdh5src location=$D shuffle=true count=200 ! " STUDENT " %s save=%s.safetensors ! kdce ! kdtrain\"";
  static const struct {
    guint seed;
    const gchar *own, *name;
  } runs[] = { { 1, "", "a" }, { 1, "", "b" }, { 2, "", "c" }, { 2, "seed=1", "d" } };

  for (guint i = 0; i < G_N_ELEMENTS (runs); i++) {
    g_autofree gchar *command = g_strdup_printf (line, runs[i].seed, runs[i].own, runs[i].name);

    kd_expect (0, command, "");
    ck_assert_str_eq (kd_out, ""); /* quiet is quiet */
    ck_assert_str_eq (kd_err, "");
  }
  kd_expect (0, "cmp a.safetensors b.safetensors", "");
  kd_expect (1, "cmp -s a.safetensors c.safetensors", "");
  kd_expect (1, "cmp -s c.safetensors d.safetensors", ""); /* a seed that is written stays */
}
END_TEST

START_TEST (test_threads)
{
  kd_expect (0, "kd launch -q --threads 1 \"kdh5src location=$D ! " STUDENT " ! kdce ! kdtrain\"", "");
}
END_TEST

/* Several words are one pipeline, as for gst-launch-1.0; a quoted word stays one. */
START_TEST (test_words)
{
  kd_expect (0, "kd launch kdh5src location=\"$D\" ! kdstudent arch='mlp dims=64,10' ! kdce ! kdtrain", "Done");
}
END_TEST

/* Ctrl-C: the batch is finished, the checkpoint written, 130; the next run goes on from there. */
START_TEST (test_interrupt)
{
  g_autofree gchar *first = NULL;
  static const gchar line[] = "kd launch %s --report r \"kdh5src location=$D shuffle=true epochs=1000000 ! " STUDENT
                              " ! kdce ! kdtrain checkpoint=c.h5 report-every=1\" & p=$!; while kill -0 $p && ! test -s r/metrics.jsonl; do sleep 0.05; done; kill -%s $p; wait $p";
  g_autofree gchar *run = g_strdup_printf (line, "", "INT"), *again = g_strdup_printf (line, "--resume", "TERM");

  kd_expect (130, run, "finishing the batch");
  ck_assert (kd_exists ("c.h5"));
  first = kd_contents ("r/report.json");
  ck_assert (strstr (first, "\"interrupted\""));
  kd_expect (0, "rm -r r", "");
  kd_expect (130, again, "finishing the batch");
  g_free (first);
  first = kd_contents ("r/metrics.jsonl");
  ck_assert (!strstr (first, "\"step\":1,")); /* it did not begin again */
}
END_TEST

START_TEST (test_resume_without_a_checkpoint)
{
  kd_expect (0, "kd launch -q --resume \"kdh5src location=$D ! " STUDENT " ! kdce ! kdtrain checkpoint=new.h5\"", "");
  ck_assert (kd_exists ("new.h5"));
}
END_TEST

int
main (int argc, char **argv)
{
  Suite *suite = suite_create (KD_TEST_NAME);
  TCase *tcase = tcase_create ("all");

  gst_check_init (&argc, &argv);
  tcase_add_checked_fixture (tcase, kd_command_setup, kd_command_teardown);
  tcase_add_test (tcase, test_dry_run_missing_field);
  tcase_add_test (tcase, test_dry_run);
  tcase_add_test (tcase, test_queue);
  tcase_add_test (tcase, test_missing_file);
  tcase_add_test (tcase, test_report);
  tcase_add_test (tcase, test_report_of_failure);
  tcase_add_test (tcase, test_report_folder_not_writable);
  tcase_add_test (tcase, test_seed);
  tcase_add_test (tcase, test_threads);
  tcase_add_test (tcase, test_words);
  tcase_add_test (tcase, test_interrupt);
  tcase_add_test (tcase, test_resume_without_a_checkpoint);
  suite_add_tcase (suite, tcase);
  return gst_check_run_suite (suite, KD_TEST_NAME, __FILE__);
}
