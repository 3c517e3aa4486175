/* kd bench: measurements beside a peer. */
#include "kd-bench.h"
#include <gio/gio.h>
#include <kd/kd.h>
#include <stdlib.h>
#include <string.h>

static gint
kd_by_value (gconstpointer a, gconstpointer b)
{
  gdouble x = *(const gdouble *) a, y = *(const gdouble *) b;

  return (x > y) - (x < y);
}

gdouble
kd_bench_median (gdouble *values, guint n)
{
  qsort (values, n, sizeof *values, kd_by_value);
  return n % 2 ? values[n / 2] : (values[n / 2 - 1] + values[n / 2]) / 2;
}

const gchar *
kd_bench_verdict (gboolean met)
{
  return met ? "met" : "not met";
}

gdouble
kd_bench_pipeline (const gchar *text, GError **error)
{
  g_autoptr (GstElement) pipeline = gst_parse_launch_full (text, NULL, GST_PARSE_FLAG_FATAL_ERRORS, error);
  g_autoptr (GstBus) bus = NULL;
  g_autoptr (GstMessage) message = NULL;
  gint64 start;
  gdouble seconds;

  if (!pipeline)
    return -1;
  gst_object_ref_sink (pipeline);
  bus = gst_element_get_bus (pipeline);
  gst_element_set_state (pipeline, GST_STATE_PAUSED);
  gst_element_get_state (pipeline, NULL, NULL, GST_CLOCK_TIME_NONE); /* models are built, files open: set-up is not what is measured */
  start = g_get_monotonic_time ();
  gst_element_set_state (pipeline, GST_STATE_PLAYING);
  message = gst_bus_timed_pop_filtered (bus, GST_CLOCK_TIME_NONE, GST_MESSAGE_EOS | GST_MESSAGE_ERROR);
  seconds = (gdouble) (g_get_monotonic_time () - start) / G_USEC_PER_SEC;
  if (GST_MESSAGE_TYPE (message) == GST_MESSAGE_ERROR) {
    gst_message_parse_error (message, error, NULL);
    seconds = -1;
  }
  gst_element_set_state (pipeline, GST_STATE_NULL);
  return seconds;
}

gchar *
kd_bench_digits (GError **error)
{
  g_auto (GStrv) dirs = kd_tool_data_dirs ();

  for (guint i = 0; dirs[i]; i++) {
    g_autofree gchar *path = g_build_filename (dirs[i], "data", "digits.h5", NULL);

    if (g_file_test (path, G_FILE_TEST_EXISTS))
      return g_steal_pointer (&path);
  }
  g_set_error (error, KD_ERROR, KD_ERROR_IO, "the shipped digits.h5 is not there; install kdstream whole, or run from its build tree");
  return NULL;
}

JsonObject *
kd_bench_python (const gchar *script, const gchar *const *args, GError **error)
{
  g_autofree gchar *path = g_strconcat ("/org/kdstream/bench/", script, NULL), *output = NULL;
  g_autoptr (GBytes) text = g_resources_lookup_data (path, G_RESOURCE_LOOKUP_FLAGS_NONE, error);
  g_autoptr (GPtrArray) argv = g_ptr_array_new ();
  g_autoptr (GSubprocess) child = NULL;
  g_autoptr (JsonParser) parser = json_parser_new ();

  if (!text)
    return NULL;
  /* Debian's own Python has the packages of the system; another one on the path often has not. */
  g_ptr_array_add (argv, (gpointer) (g_getenv ("KD_PYTHON") ? g_getenv ("KD_PYTHON") : g_file_test ("/usr/bin/python3", G_FILE_TEST_EXISTS) ? "/usr/bin/python3"
                                                                                                                                            : "python3"));
  g_ptr_array_add (argv, (gpointer) "-c");
  g_ptr_array_add (argv, (gpointer) g_bytes_get_data (text, NULL));
  for (; *args; args++)
    g_ptr_array_add (argv, (gpointer) *args);
  g_ptr_array_add (argv, NULL);
  child = g_subprocess_newv ((const gchar *const *) argv->pdata, G_SUBPROCESS_FLAGS_STDOUT_PIPE | G_SUBPROCESS_FLAGS_STDERR_SILENCE, error);
  if (!child || !g_subprocess_communicate_utf8 (child, NULL, NULL, &output, NULL, error))
    return NULL;
  if (!g_subprocess_get_successful (child) || !json_parser_load_from_data (parser, output, -1, NULL) ||
      !JSON_NODE_HOLDS_OBJECT (json_parser_get_root (parser))) {
    g_set_error (error, KD_ERROR, KD_ERROR_UNSUPPORTED,
        "%s does not run; it needs python3-torch, python3-h5py and python3-numpy (KD_PYTHON names another Python)", script);
    return NULL;
  }
  return json_object_ref (json_node_get_object (json_parser_get_root (parser)));
}

int
kd_tool_bench (int argc, char **argv)
{
  static KdBenchOptions options = { .repeats = 5, .elements = 1 << 24, .gigabytes = 2 };
  static const GOptionEntry entries[] = {
    { "repeats", 'n', 0, G_OPTION_ARG_INT, &options.repeats, "Runs of which the median is taken (default 5)", "N" },
    { "threads", 'j', 0, G_OPTION_ARG_INT, &options.threads, "Threads on both sides of `run` (default 1) and of `losses` (default: all)", "N" },
    { "sizes", 's', 0, G_OPTION_ARG_STRING, &options.sizes, "losses: rows of so many logits (default 10,1000,32000,128256)", "V,V" },
    { "elements", 'e', 0, G_OPTION_ARG_INT64, &options.elements, "losses: logits in a table, rows times row (default 16777216)", "N" },
    { "losses", 'l', 0, G_OPTION_ARG_STRING, &options.losses, "losses: only these", "NAME,NAME" },
    { "gigabytes", 'g', 0, G_OPTION_ARG_DOUBLE, &options.gigabytes, "cache: size of the cache whose reading's memory is watched (default 2)", "N" },
    { "level", 0, 0, G_OPTION_ARG_INT, &options.level, "losses: highest instruction set, 1 to 4 for x86-64 to x86-64-v4 (default: the machine's)", "N" },
    { NULL }
  };
  static const struct {
    const gchar *name;
    int (*bench) (const KdBenchOptions *options);
  } benches[] = { { "graph", kd_bench_graph }, { "run", kd_bench_run }, { "cache", kd_bench_cache }, { "losses", kd_bench_losses } };
  const gchar *names[] = { "graph", "run", "cache", "losses", NULL }, *near;

  if (!kd_tool_options (&argc, &argv, entries, "graph|run|cache|losses", "Measure, beside a peer in the same minute; what counts is the ratio.",
          "graph  what an element costs a batch, beside GStreamer's identity\n"
          "run    the student's training of hinton.kd, beside the same loop in plain PyTorch\n"
          "cache  capture beside dd; random rows beside numpy, h5py, torch.save and zarr; rows in order beside read(2) and h5py; opening, memory\n"
          "losses every loss on logits, beside c = a + b on the same arrays and plain PyTorch\n\n"
          "Example:\n  kd bench graph\n"))
    return KD_EXIT_USAGE;
  if (argc != 2)
    return kd_tool_usage (argc < 2 ? "say what to measure: graph, run, cache or losses" : "one measurement at a time");
  if (options.repeats < 1 || options.repeats > 1000 || options.threads < 0 || options.threads > 1024 || options.elements < 1 || !(options.gigabytes >= 0.1 && options.gigabytes <= 1000) || options.level < 0 || options.level > 4)
    return kd_tool_usage ("--repeats takes 1 to 1000, --threads 1 to 1024, --elements 1 or more, --gigabytes 0.1 to 1000, --level 1 to 4");
  for (guint i = 0; i < G_N_ELEMENTS (benches); i++)
    if (g_str_equal (argv[1], benches[i].name)) {
      g_autofree gchar *threads = NULL, *level = g_strdup_printf ("%d", options.level);

      if (options.threads == 0)
        options.threads = benches[i].bench == kd_bench_losses ? (gint) g_get_num_processors () : 1;
      threads = g_strdup_printf ("%d", options.threads);

      g_setenv ("OMP_NUM_THREADS", threads, TRUE); /* for the peer; kd_engine_get's own is set below its first use */
      if (options.level > 0)
        g_setenv ("KD_CPU_LEVEL", level, TRUE);
      kd_tool_init ();
      return benches[i].bench (&options);
    }
  near = kd_tool_closest (argv[1], names);
  return kd_tool_usage ("there is no bench '%s'%s%s%s", argv[1], near ? "; did you mean '" : "; graph, run, cache or losses", near ? near : "", near ? "'?" : "");
}
