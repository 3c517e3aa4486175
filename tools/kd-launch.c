/* kd launch: options of a run. */
#include "kd-launch.h"
#include <kd/kd.h>
#include <errno.h>
#include <string.h>
#include <unistd.h>

static KdLaunchOptions kd_options = { .seed = -1 };
static gchar *kd_seed_text;

static const GOptionEntry kd_entries[] = {
  { "dry-run", 'n', 0, G_OPTION_ARG_NONE, &kd_options.dry_run, "Negotiate only: print what flows on each link, run nothing, write nothing", NULL },
  { "graph", 'g', 0, G_OPTION_ARG_FILENAME, &kd_options.graph, "Draw the pipeline with its layouts", "FILE.svg" },
  { "report", 'r', 0, G_OPTION_ARG_FILENAME, &kd_options.report, "Write metrics.jsonl, a TensorBoard event file, report.json and report.html",
      "DIR" },
  { "seed", 's', 0, G_OPTION_ARG_STRING, &kd_seed_text, "Set 'seed' on every element that has it and was not given one", "N" },
  { "resume", 0, 0, G_OPTION_ARG_NONE, &kd_options.resume, "Go on from the checkpoint or the cache that an earlier run left", NULL },
  { "threads", 'j', 0, G_OPTION_ARG_INT, &kd_options.threads, "Threads for kernels and models (default: as many as cores)", "N" },
  { "quiet", 'q', 0, G_OPTION_ARG_NONE, &kd_options.quiet, "Print errors only", NULL },
  { "verbose", 'v', 0, G_OPTION_ARG_NONE, &kd_options.verbose, "Print layouts and where in the code an error was raised", NULL },
  { NULL }
};

static const gchar kd_details[] =
    "The pipeline is written as for gst-launch-1.0: elements with their properties, joined by '!'.\n"
    "Ctrl-C finishes the batch, saves and exits with 130; a second one stops at once.\n\n"
    "Examples:\n"
    "  kd launch --dry-run 'kdh5src location=digits.h5 ! kdteacher arch=\"mlp dims=64,32,10\" ! kdcachesink location=t.h5'\n"
    "  kd launch --seed 1 --report runs/one 'kdh5src location=digits.h5 epochs=20 batch-size=50 shuffle=true ! kdstudent arch=\"mlp dims=64,16,10\" ! kdce ! kdtrain'\n";

static gboolean
kd_read_seed (void)
{
  guint64 seed;
  g_autoptr (GError) error = NULL;

  if (!kd_seed_text)
    return TRUE;
  if (!g_ascii_string_to_unsigned (kd_seed_text, 10, 0, G_MAXINT64, &seed, &error)) {
    kd_tool_usage ("--seed takes a whole number from 0 on, not '%s'", kd_seed_text);
    return FALSE;
  }
  kd_options.seed = (gint64) seed;
  return TRUE;
}

/* OpenMP reads its variable when the library is loaded, which has happened by now; and streaming threads take their number from it. So
 * the program starts itself again with the variable set. */
static int
kd_restart_with_threads (char **argv)
{
  g_autofree gchar *number = g_strdup_printf ("%d", kd_options.threads), *self = kd_tool_self ();

  if (g_strcmp0 (g_getenv ("OMP_NUM_THREADS"), number) == 0)
    return KD_EXIT_DONE;
  g_setenv ("OMP_NUM_THREADS", number, TRUE);
  execv (self, argv);
  return kd_tool_fail ("cannot start again with %d threads: %s", kd_options.threads, g_strerror (errno));
}

static gchar **
kd_whole_command (int argc, char **argv)
{
  g_autoptr (GStrvBuilder) builder = g_strv_builder_new ();

  g_strv_builder_add (builder, "kd");
  for (int i = 0; i < argc; i++)
    g_strv_builder_add (builder, argv[i]);
  return g_strv_builder_end (builder);
}

static gchar *
kd_quote_command (gchar **command)
{
  GString *text = g_string_new (NULL);

  for (guint i = 0; command[i]; i++) {
    gboolean plain = *command[i] && strspn (command[i], G_CSET_a_2_z G_CSET_A_2_Z G_CSET_DIGITS "-_=./,:+@%") == strlen (command[i]);
    g_autofree gchar *quoted = plain ? g_strdup (command[i]) : g_shell_quote (command[i]);

    g_string_append_printf (text, "%s%s", i ? " " : "", quoted);
  }
  return g_string_free (text, FALSE);
}

int
kd_tool_launch (int argc, char **argv)
{
  g_auto (GStrv) command = kd_whole_command (argc, argv);
  g_autofree gchar *source = NULL;
  g_autoptr (KdText) text = NULL;
  g_autoptr (GstElement) pipeline = NULL;

  if (!kd_tool_options (&argc, &argv, kd_entries, "PIPELINE", "Run a pipeline to its end.", kd_details) || !kd_read_seed ())
    return KD_EXIT_USAGE;
  if (kd_options.threads < 0 || kd_options.threads > 4096)
    return kd_tool_usage ("--threads takes a number from 1 to 4096, not %d", kd_options.threads);
  source = argc > 1 ? g_strstrip (kd_text_join (argv + 1, (guint) argc - 1)) : NULL;
  if (!source || !*source)
    return kd_tool_usage ("no pipeline was given");
  if (kd_options.dry_run && kd_options.report)
    return kd_tool_usage ("--dry-run runs nothing, so there is nothing to --report");
  if (kd_options.threads > 0 && kd_restart_with_threads (command) != KD_EXIT_DONE)
    return KD_EXIT_FAILED;
  if (kd_world_rank () > 0) { /* the first process speaks and writes for all; an error is said by whoever has it first */
    kd_options.quiet = TRUE;
    kd_options.report = kd_options.graph = NULL;
  }
  kd_options.command = kd_quote_command (command);
  kd_tool_init ();
  text = kd_text_new (source);
  pipeline = kd_launch_parse (text);
  if (!pipeline)
    return KD_EXIT_FAILED;
  if (!GST_IS_BIN (pipeline)) { /* a single element: give it a pipeline to stand in */
    GstElement *bin = gst_pipeline_new (NULL);

    gst_bin_add (GST_BIN (bin), pipeline);
    gst_object_unref (pipeline);
    pipeline = gst_object_ref_sink (bin);
  }
  return kd_launch_run (pipeline, text, &kd_options);
}
