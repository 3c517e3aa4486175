/* kd run on a small recipe: steps, skipping, failing, comparing. */
#include "kd-command.h"
#include <json-glib/json-glib.h>

static const gchar recipe[] =
    "[recipe]\ntitle=Two students\ndata=digits.h5\nseeds=2\n"
    "[param]\nepochs=3\nrate=0.01\nmodel=arch=\"mlp dims=64,10\"\n"
    "train=kdh5src location=${data} count=200 epochs=${epochs} batch-size=50 shuffle=true ! kdstudent ${model} save=${out}/s.safetensors\n"
    "test=kdh5src location=${data} first=1000 ! kdstudent ${model} weights=${out}/s.safetensors ! kdmetrics ! fakesink\n"
    "[step.teacher]\nseeds=once\npipeline=kdh5src location=${data} count=1000 epochs=5 batch-size=50 ! \\\n  kdstudent ${model} save=${out}/t.safetensors ! kdce ! kdtrain learning-rate=0.01\n"
    "[step.alone]\ntitle=student alone\npipeline=${train} ! kdce ! kdtrain learning-rate=${rate}\nevaluate=${test}\n"
    "[step.taught]\nneeds=teacher\npipeline=kdh5src location=${data} count=200 epochs=${epochs} batch-size=50 shuffle=true ! \\\n"
    "  kdteacher ${model} weights=${step.teacher}/t.safetensors ! kdstudent ${model} save=${out}/s.safetensors ! kdhinton ! kdtrain learning-rate=${rate}\nevaluate=${test}\n"
    "[step.same]\npipeline=${train} ! kdce ! kdtrain learning-rate=${rate}\nevaluate=${test}\n"
    "[compare]\nbaseline=alone\nmethod=taught\nablation=same\nmetric=accuracy\npercent=true\n";

static void
setup (void)
{
  g_autofree gchar *path = NULL;

  kd_command_setup ();
  path = g_build_filename (kd_folder, "two.kd", NULL);
  ck_assert (g_file_set_contents (path, recipe, -1, NULL));
  kd_expect (0, "cp $D digits.h5", "");
}

static JsonObject *
results (JsonParser *parser)
{
  g_autofree gchar *text = kd_contents ("kd-runs/two/results.json");

  ck_assert (json_parser_load_from_data (parser, text, -1, NULL));
  return json_node_get_object (json_parser_get_root (parser));
}

static guint
n_skipped (void)
{
  g_autoptr (JsonParser) parser = json_parser_new ();
  JsonArray *runs = json_object_get_array_member (results (parser), "runs");
  guint n = 0;

  for (guint i = 0; i < json_array_get_length (runs); i++)
    n += json_object_get_boolean_member (json_array_get_object_element (runs, i), "skipped");
  return n;
}

START_TEST (test_run_and_skip)
{
  g_autoptr (JsonParser) parser = json_parser_new ();
  JsonArray *rows;
  JsonObject *same;

  kd_expect (0, "kd run two.kd", "student alone");
  ck_assert (strstr (kd_out, "the same") && strstr (kd_out, "ablation") && strstr (kd_out, "results.html"));
  ck_assert (kd_exists ("kd-runs/two/once/teacher/t.safetensors") && kd_exists ("kd-runs/two/seed-2/taught/evaluate/report.html"));
  rows = json_object_get_array_member (results (parser), "rows");
  ck_assert_uint_eq (json_array_get_length (rows), 3);
  same = json_array_get_object_element (rows, 2);
  ck_assert (json_object_get_double_member (json_object_get_object_member (same, "difference"), "mean") == 0);
  ck_assert_uint_eq (json_array_get_length (json_object_get_array_member (same, "values")), 2);
  ck_assert_uint_eq (n_skipped (), 0);
  kd_expect (0, "kd run two.kd", "as before");
  ck_assert_uint_eq (n_skipped (), 7); /* the teacher once, three steps for two seeds */
  kd_expect (0, "kd run two.kd --set rate=0.02", "taught");
  ck_assert_uint_eq (n_skipped (), 1); /* the teacher does not use it */
}
END_TEST

/* What a step needs is part of what it is: a new teacher makes a new student. */
START_TEST (test_needed_step_changes)
{
  kd_expect (0, "kd run two.kd --seeds 1", "taught");
  kd_expect (0, "sed -i 's/count=1000 epochs=5/count=1000 epochs=6/' two.kd && kd run two.kd --seeds 1", "taught");
  ck_assert_uint_eq (n_skipped (), 2); /* alone, same */
}
END_TEST

START_TEST (test_steps)
{
  kd_expect (0, "kd run two.kd --seeds 1 --steps taught", "taught");
  ck_assert (kd_exists ("kd-runs/two/once/teacher") && !kd_exists ("kd-runs/two/seed-1/alone"));
  kd_expect (2, "kd run two.kd --steps taugt", "no step taugt");
  kd_expect (0, "kd run two.kd --list", "after teacher");
}
END_TEST

START_TEST (test_failing_step)
{
  kd_expect (0, "sed -i 's/kdhinton/kdhintn/' two.kd", "");
  kd_expect (1, "kd run two.kd --seeds 1", "step taught, seed 1: exit code 1");
  ck_assert (strstr (kd_err, "did you mean 'kdhint"));
  ck_assert (kd_exists ("kd-runs/two/seed-1/alone/done") && !kd_exists ("kd-runs/two/seed-1/taught/done"));
  kd_expect (1, "kd run two.kd --keep-going", "seed 2");
}
END_TEST

/* A step may be a command of kd instead of a pipeline. */
START_TEST (test_tool_step)
{
  kd_expect (0, "printf '[step.look]\\nseeds=once\\ntool=data info ${data}\\n' >>two.kd", "");
  kd_expect (0, "kd run two.kd --seeds 1 --steps look && cat kd-runs/two/once/look/tool.log", "1797");
  kd_expect (0, "sed -i 's/data info/data inf/' two.kd", "");
  kd_expect (1, "kd run two.kd --seeds 1 --steps look", "step look");
}
END_TEST

START_TEST (test_no_metric)
{
  kd_expect (0, "sed -i 's/metric=accuracy/metric=acuracy/' two.kd", "");
  kd_expect (1, "kd run two.kd --seeds 1", "no element reports acuracy");
}
END_TEST

START_TEST (test_no_data)
{
  kd_expect (1, "rm digits.h5 && KD_DATA_PATH= && sed -i 's/data=digits.h5/data=other.h5/' two.kd && kd run two.kd --seeds 1", "Data not found");
  ck_assert (strstr (kd_err, "KD_DATA_PATH"));
  kd_expect (0, "mkdir there && cp $D there/other.h5 && KD_DATA_PATH=$PWD/there kd run two.kd --seeds 1 --steps alone", "alone");
}
END_TEST

/* Ctrl-C keeps what is finished; the same command goes on. */
START_TEST (test_interrupt)
{
  kd_expect (0, "sed -i 's/^epochs=3/epochs=2000000/' two.kd", "");
  kd_expect (130,
      "kd run two.kd --seeds 1 & p=$!; while kill -0 $p && ! test -s kd-runs/two/seed-1/alone/report/metrics.jsonl; do sleep 0.05; done; kill -TERM $p; wait $p", "the same command goes on");
  ck_assert (kd_exists ("kd-runs/two/once/teacher/done") && !kd_exists ("kd-runs/two/seed-1/alone/done"));
  kd_expect (0, "kd run two.kd --seeds 1 --set epochs=1", "as before");
}
END_TEST

int
main (int argc, char **argv)
{
  Suite *suite = suite_create (KD_TEST_NAME);
  TCase *tcase = tcase_create ("all");

  gst_check_init (&argc, &argv);
  tcase_add_checked_fixture (tcase, setup, kd_command_teardown);
  tcase_add_test (tcase, test_run_and_skip);
  tcase_add_test (tcase, test_needed_step_changes);
  tcase_add_test (tcase, test_steps);
  tcase_add_test (tcase, test_failing_step);
  tcase_add_test (tcase, test_tool_step);
  tcase_add_test (tcase, test_no_metric);
  tcase_add_test (tcase, test_no_data);
  tcase_add_test (tcase, test_interrupt);
  suite_add_tcase (suite, tcase);
  return gst_check_run_suite (suite, KD_TEST_NAME, __FILE__);
}
