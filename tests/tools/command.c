/* kd from outside: what it says, how it ends. */
#include "kd-command.h"

START_TEST (test_dispatcher)
{
  kd_expect (2, "kd", "Usage: kd COMMAND");
  kd_expect (0, "kd --help", "launch");
  kd_expect (0, "kd --version", "kd (kdstream) ");
  kd_expect (2, "kd lunch", "did you mean 'launch'?");
  kd_expect (2, "kd zzzzzzzz", "kd --help lists them");
}
END_TEST

/* Every command explains itself, with an example, and refuses what it does not know. */
START_TEST (test_help)
{
  static const gchar *const names[] = { "launch", "inspect", "run", "report", "vectors", "bench", "plugin" };

  for (guint i = 0; i < G_N_ELEMENTS (names); i++) {
    g_autofree gchar *help = g_strdup_printf ("kd %s --help", names[i]), *bad = g_strdup_printf ("kd %s --no-such-option", names[i]);

    kd_expect (0, help, "Example");
    kd_expect (2, bad, "--no-such-option");
  }
  kd_expect (0, "kd cache --help", "verify");
  kd_expect (0, "kd data --help", "import");
}
END_TEST

START_TEST (test_usage)
{
  kd_expect (2, "kd launch", "no pipeline was given");
  kd_expect (2, "kd launch '  '", "no pipeline was given");
  kd_expect (2, "kd launch --seed x 'fakesrc ! fakesink'", "--seed takes a whole number");
  kd_expect (2, "kd launch --threads -1 'fakesrc ! fakesink'", "--threads");
  kd_expect (2, "kd launch --dry-run --report r 'fakesrc ! fakesink'", "nothing to --report");
  kd_expect (2, "kd run", "no recipe was given");
  kd_expect (2, "kd run a b", "one recipe at a time");
  kd_expect (2, "kd bench", "say what to measure");
  kd_expect (2, "kd bench grap", "did you mean 'graph'?");
  kd_expect (2, "kd bench losses --losses fk", "did you mean 'fkl'?");
  kd_expect (2, "kd bench losses --sizes 10,many", "not 'many'");
  kd_expect (2, "kd bench losses --sizes 1", "2 to 16777216");
  kd_expect (2, "kd bench losses --level 5", "--level 1 to 4");
  kd_expect (2, "kd report", "no folder");
  kd_expect (1, "kd report .", "missing=metrics.jsonl");
  kd_expect (2, "kd plugin", "new");
  kd_expect (2, "kd plugin new", "no name");
  kd_expect (2, "kd plugin new Bad", "lower case");
  kd_expect (2, "kd plugin new a --kind los", "did you mean 'loss'?");
  kd_expect (1, "kd plugin new queue", "there is an element 'queue' already");
  kd_expect (1, "kd run no-such-recipe", "There is no recipe");
}
END_TEST

/* What cannot run is said before the first step has run. */
START_TEST (test_recipe_is_checked_first)
{
  g_autofree gchar *recipe = g_build_filename (kd_folder, "bad.kd", NULL), *runs = g_build_filename (kd_folder, "kd-runs", NULL);

  ck_assert (g_file_set_contents (recipe, "[recipe]\ntitle=t\n[step.first]\npipeline=fakesrc num-buffers=1 ! fakesink\n"
                                          "[step.second]\npipeline=fakesrc num-buffers=1 ! fakesink name=${step.first}\n",
      -1, NULL));
  kd_expect (1, "kd run ./bad.kd", "add first to the step's needs");
  ck_assert (!g_file_test (runs, G_FILE_TEST_EXISTS));
}
END_TEST

/* A quick size: each loss is there, says which instructions it used, and agrees with PyTorch where there is one. */
START_TEST (test_bench_losses)
{
  static const gchar *const losses[] = { "fkl", "rkl", "jsd", "skew-fkl", "tvd", "topk", "ce", "hinton", "dkd", "pld", "sinkhorn" };

  kd_expect (0, "kd bench losses --elements 3000 --sizes 5,300 --repeats 1 --level 1 --threads 1", "x86-64, 1 thread");
  for (guint i = 0; i < G_N_ELEMENTS (losses); i++) {
    g_autofree gchar *small = g_strdup_printf ("      5      600  %-9s", losses[i]), *large = g_strdup_printf ("    300       10  %-9s", losses[i]);

    ck_assert_msg (strstr (kd_out, small) && strstr (kd_out, large), "%s is not in: %s", losses[i], kd_out);
  }
  kd_expect (0, "KD_PYTHON=/bin/false kd bench losses --elements 3000 --sizes 300 --losses ce --repeats 1", "  ce ");
  ck_assert (strstr (kd_err, "no peer") && !strstr (kd_out, "fkl"));
}
END_TEST

START_TEST (test_inspect)
{
  kd_expect (0, "kd inspect", "kddivergence");
  ck_assert (strstr (kd_out, "Losses\n") && strstr (kd_out, "Architectures"));
  kd_expect (0, "kd inspect --names", "kdce\n");
  kd_expect (0, "kd inspect kdhinton temperature=2", "default 4, now 2");
  ck_assert (strstr (kd_out, "student.logits") && strstr (kd_out, "gets a gradient") && strstr (kd_out, "arXiv:1503.02531") && strstr (kd_out, "temperature=2"));
  kd_expect (0, "kd inspect kddivergence divergence=jsd beta=0.3 temperature=2", "D = 0.3 KL (p || m) + (1 - 0.3) KL (q || m), m = 0.3 p + (1 - 0.3) q\n");
  ck_assert (strstr (kd_out, "loss = mean_n D, p = softmax (teacher / 2)") && strstr (kd_out, "Units\n  nats") && strstr (kd_out, "arXiv:2306.13649"));
  ck_assert (!strstr (kd_out, "sum |p - q| / 2") && !strchr (kd_out, '{'));
  kd_expect (0, "kd inspect kddivergence temperature-scale=t2 temperature=4 tail=renorm", "loss = 4^2 mean_n D");
  ck_assert (strstr (kd_out, "D = sum p log (p / q)") && strstr (kd_out, "e^(a s_k) / sum e^(a s), a = 1 / 4; 0 outside"));
  kd_expect (0, "kd inspect mlp", "dims");
  kd_expect (0, "kd inspect kdbdkd", "float32; of loss.teacher; with train-teacher=true");
  kd_expect (0, "kd inspect kdlelpfit", "float32; with subspace=true");
  kd_expect (1, "kd inspect kdhintn", "did you mean 'kdhint");
  kd_expect (2, "kd inspect kdhinton temperature=-1", "it takes: number, 0.01 to 1000");
  kd_expect (2, "kd inspect kdhinton warmth=1", "no property 'warmth'");
  kd_expect (2, "kd inspect kdhinton temperature", "NAME=VALUE");
}
END_TEST

START_TEST (test_parse_errors)
{
  kd_expect (1, "kd launch 'kdh5src ! kdhintn ! kdtrain'", "did you mean 'kdhint");
  ck_assert (strstr (kd_err, "  kdh5src ! kdhintn ! kdtrain\n            ^~~~~~~\n"));
  kd_expect (1, "kd launch 'kdh5src ! kdhinton tempratur=3 ! kdtrain'", "has no property 'tempratur'; did you mean 'temperature'?");
  ck_assert (strstr (kd_err, "  kdh5src ! kdhinton tempratur=3 ! kdtrain\n                     ^~~~~~~~~~~\n"));
  kd_expect (1, "kd launch 'kdh5src ! kdhinton temperature=-3 ! kdtrain'", "outside its range");
  kd_expect (1, "kd launch 'kdh5src ! kdhinton temperature=warm ! kdtrain'", "cannot take temperature=\"warm\"");
  kd_expect (1, "kd launch 'kdh5src ! ! kdtrain'", "syntax error");
  kd_expect (1, "kd launch 'kdh5src ! audioconvert ! fakesink'", "could not link");
}
END_TEST

START_TEST (test_plugin_refuses_to_overwrite)
{
  kd_expect (0, "kd plugin new hinge --kind loss", "meson test -C b");
  ck_assert (kd_exists ("hinge/hinge.c") && kd_exists ("hinge/tests/test-hinge.c") && kd_exists ("hinge/README.md"));
  kd_expect (0, "grep -r '@' hinge && exit 1; exit 0", ""); /* every placeholder was filled in */
  kd_expect (0, "cp -r hinge before", "");
  kd_expect (1, "kd plugin new hinge", "hinge is there already; nothing was written");
  kd_expect (0, "diff -r hinge before", "");
}
END_TEST

int
main (int argc, char **argv)
{
  Suite *suite = suite_create (KD_TEST_NAME);
  TCase *tcase = tcase_create ("all");

  gst_check_init (&argc, &argv);
  tcase_add_checked_fixture (tcase, kd_command_setup, kd_command_teardown);
  tcase_add_test (tcase, test_dispatcher);
  tcase_add_test (tcase, test_help);
  tcase_add_test (tcase, test_usage);
  tcase_add_test (tcase, test_recipe_is_checked_first);
  tcase_add_test (tcase, test_bench_losses);
  tcase_add_test (tcase, test_inspect);
  tcase_add_test (tcase, test_parse_errors);
  tcase_add_test (tcase, test_plugin_refuses_to_overwrite);
  suite_add_tcase (suite, tcase);
  return gst_check_run_suite (suite, KD_TEST_NAME, __FILE__);
}
