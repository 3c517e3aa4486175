/* Running a pipeline to its end: bus, signals, progress, report. One thread; everything happens in the main loop. */
#include "kd-launch.h"
#include <glib-unix.h>
#include <kd/kd.h>
#include <string.h>

typedef struct {
  GstElement *pipeline;
  const KdText *text;
  const KdLaunchOptions *options;
  GMainLoop *loop;
  KdReport *report;
  KdProgress *progress;
  GHashTable *warned;
  gchar *error; /* the first one: the others follow from it */
  gboolean started, finished, interrupted, aborted;
  gint64 started_us;
  GDateTime *started_at;
} KdRun;

gboolean
kd_launch_says (const gchar *text)
{
  if (kd_world_size () == 1)
    return TRUE;
  if (!kd_world_first_to_say (text))
    return FALSE;
  g_printerr ("From rank %d of %d:\n", kd_world_rank (), kd_world_size ());
  return TRUE;
}

static void
kd_run_explain (const KdRun *run, const KdTextElement *written, const gchar *debug)
{
  if (!kd_launch_says (run->error))
    return;
  g_printerr ("ERROR %s\n", run->error);
  if (written)
    kd_text_print (run->text, written->word, stderr);
  if (debug && run->options->verbose)
    g_printerr ("  %s\n", debug);
}

static void
kd_run_fail (KdRun *run, const gchar *name, const gchar *text, const gchar *debug)
{
  const KdTextElement *written = name ? kd_text_element (run->text, name) : NULL;

  kd_progress_clear (run->progress);
  if (!run->error) {
    run->error = name ? g_strdup_printf ("%s: %s", name, text) : g_strdup (text);
    kd_run_explain (run, written, debug);
  }
  g_main_loop_quit (run->loop);
}

static void
kd_run_warn (KdRun *run, GstMessage *message)
{
  g_autoptr (GError) error = NULL;
  g_autofree gchar *debug = NULL, *text = NULL;

  gst_message_parse_warning (message, &error, &debug);
  text = g_strdup_printf ("WARNING %s: %s", GST_MESSAGE_SRC_NAME (message), error->message);
  if (!g_hash_table_add (run->warned, g_strdup (text)))
    return;
  kd_progress_clear (run->progress);
  if (kd_launch_says (text))
    g_printerr ("%s\n", text);
}

/* What an element has to say to whoever started the run. */
static void
kd_run_say (KdRun *run, GstMessage *message)
{
  g_autoptr (GError) error = NULL;

  gst_message_parse_info (message, &error, NULL);
  kd_progress_clear (run->progress);
  if (!run->options->quiet)
    g_print ("%s\n", error->message);
}

static void
kd_run_write_graph (KdRun *run)
{
  g_autoptr (GError) error = NULL;
  g_autoptr (JsonArray) elements = NULL, links = NULL;
  g_autofree gchar *svg = NULL;

  if (!run->options->graph)
    return;
  elements = kd_elements_collect (GST_BIN (run->pipeline));
  links = kd_links_collect (GST_BIN (run->pipeline));
  svg = kd_graph_svg (elements, links);
  if (!g_file_set_contents (run->options->graph, svg, -1, &error))
    kd_run_fail (run, NULL, error->message, NULL);
}

static void
kd_run_element_message (KdRun *run, GstMessage *message)
{
  const GstStructure *structure = gst_message_get_structure (message);
  g_autoptr (GError) error = NULL;

  if (!structure || !g_str_has_prefix (gst_structure_get_name (structure), "kd-"))
    return;
  kd_progress_message (run->progress, GST_MESSAGE_SRC_NAME (message), structure);
  if (!kd_report_add (run->report, GST_MESSAGE_SRC_NAME (message), structure, &error))
    kd_run_fail (run, NULL, error->message, NULL);
}

/* All sinks have had their first batch (or the end of a dry run): every layout is known. */
static void
kd_run_prerolled (KdRun *run)
{
  if (run->started)
    return;
  run->started = TRUE;
  kd_run_write_graph (run);
  if (run->options->verbose && !run->options->dry_run) {
    g_autoptr (JsonArray) links = kd_links_collect (GST_BIN (run->pipeline));

    kd_links_print (links, stderr);
  }
  if (run->options->dry_run) {
    run->finished = TRUE;
    g_main_loop_quit (run->loop);
  } else
    gst_element_set_state (run->pipeline, GST_STATE_PLAYING);
}

static gboolean
kd_run_on_message (GstBus *bus, GstMessage *message, gpointer user_data)
{
  KdRun *run = user_data;
  g_autoptr (GError) error = NULL;
  g_autofree gchar *debug = NULL;

  switch (GST_MESSAGE_TYPE (message)) {
  case GST_MESSAGE_ERROR:
    gst_message_parse_error (message, &error, &debug);
    kd_run_fail (run, GST_MESSAGE_SRC_NAME (message), error->message, debug);
    break;
  case GST_MESSAGE_WARNING:
    kd_run_warn (run, message);
    break;
  case GST_MESSAGE_INFO:
    kd_run_say (run, message);
    break;
  case GST_MESSAGE_EOS:
    run->finished = TRUE;
    g_main_loop_quit (run->loop);
    break;
  case GST_MESSAGE_ASYNC_DONE:
    if (GST_MESSAGE_SRC (message) == GST_OBJECT (run->pipeline))
      kd_run_prerolled (run);
    break;
  case GST_MESSAGE_ELEMENT:
    kd_run_element_message (run, message);
    break;
  default:
    break;
  }
  return G_SOURCE_CONTINUE;
}

static gboolean
kd_run_on_tick (gpointer user_data)
{
  kd_progress_show (((KdRun *) user_data)->progress);
  return G_SOURCE_CONTINUE;
}

/* First time: let the batch finish and the sinks commit, as at the end of the stream. Second time: stop. */
static gboolean
kd_run_on_signal (gpointer user_data)
{
  KdRun *run = user_data;

  kd_progress_clear (run->progress);
  if (run->interrupted || run->options->dry_run) {
    run->interrupted = run->aborted = TRUE;
    g_main_loop_quit (run->loop);
    return G_SOURCE_CONTINUE;
  }
  run->interrupted = TRUE;
  if (kd_world_rank () == 0)
    g_printerr ("Interrupted: finishing the batch and saving; press Ctrl-C again to stop at once\n");
  if (!run->started) /* not rolling yet: there is nothing to finish */
    g_main_loop_quit (run->loop);
  else
    gst_element_send_event (run->pipeline, gst_event_new_eos ());
  return G_SOURCE_CONTINUE;
}

static void
kd_run_set_context (KdRun *run)
{
  GstContext *context = gst_context_new ("kd.run", TRUE);
  GstStructure *structure = gst_context_writable_structure (context);

  gst_structure_set (structure, "dry-run", G_TYPE_BOOLEAN, run->options->dry_run, "resume", G_TYPE_BOOLEAN, run->options->resume, NULL);
  if (run->options->seed >= 0)
    gst_structure_set (structure, "seed", G_TYPE_UINT64, (guint64) run->options->seed, NULL);
  if (run->options->threads > 0)
    gst_structure_set (structure, "threads", G_TYPE_UINT, (guint) run->options->threads, NULL);
  gst_element_set_context (run->pipeline, context);
  gst_context_unref (context);
}

/* --seed and --resume reach every element that has the property and was not given it in the pipeline. */
static void
kd_run_set_properties (KdRun *run)
{
  g_autoptr (GPtrArray) elements = kd_bin_elements (GST_BIN (run->pipeline));

  for (guint i = 0; i < elements->len; i++) {
    GObject *element = elements->pdata[i];
    const KdTextElement *written = kd_text_element (run->text, GST_OBJECT_NAME (element));
    GParamSpec *seed = g_object_class_find_property (G_OBJECT_GET_CLASS (element), "seed");
    GParamSpec *resume = g_object_class_find_property (G_OBJECT_GET_CLASS (element), "resume");

    if (seed && run->options->seed >= 0 && (!written || kd_text_property (run->text, written, "seed") < 0)) {
      g_autofree gchar *value = g_strdup_printf ("%" G_GINT64_FORMAT, run->options->seed);

      gst_util_set_object_arg (element, "seed", value);
    }
    if (resume && run->options->resume && (!written || kd_text_property (run->text, written, "resume") < 0))
      gst_util_set_object_arg (element, "resume", "true");
  }
}

/* The engine's own words about itself, when a model is in the graph (so its plugin is loaded anyway). */
static void
kd_run_describe_engine (KdRun *run, JsonObject *versions)
{
  g_autoptr (GPtrArray) elements = kd_bin_elements (GST_BIN (run->pipeline));
  KdEngine *engine = NULL;

  for (guint i = 0; i < elements->len && !engine; i++)
    if (KD_IS_MODEL_ELEMENT (elements->pdata[i]))
      engine = kd_engine_get (NULL, NULL);
  if (engine && KD_ENGINE_GET_CLASS (engine)->describe) {
    g_autofree gchar *text = KD_ENGINE_GET_CLASS (engine)->describe (engine);

    json_object_set_string_member (versions, "engine", text);
  }
}

static JsonObject *
kd_run_info (KdRun *run)
{
  JsonObject *info = json_object_new (), *versions = json_object_new ();
  g_autofree gchar *started = g_date_time_format (run->started_at, "%Y-%m-%dT%H:%M:%S%:z"), *gst = gst_version_string ();
  g_autofree gchar *glib = g_strdup_printf ("%u.%u.%u", glib_major_version, glib_minor_version, glib_micro_version);

  json_object_set_string_member (info, "status", run->error ? "failed" : run->interrupted ? "interrupted"
                                                                                          : "done");
  if (run->error)
    json_object_set_string_member (info, "error", run->error);
  json_object_set_string_member (info, "pipeline", run->text->text);
  json_object_set_string_member (info, "command", run->options->command);
  json_object_set_string_member (info, "started", started);
  json_object_set_double_member (info, "seconds", (gdouble) (g_get_monotonic_time () - run->started_us) / G_USEC_PER_SEC);
  if (run->options->seed >= 0)
    json_object_set_int_member (info, "seed", run->options->seed);
  json_object_set_boolean_member (info, "resumed", run->options->resume);
  json_object_set_array_member (info, "elements", kd_elements_collect (GST_BIN (run->pipeline)));
  json_object_set_array_member (info, "links", kd_links_collect (GST_BIN (run->pipeline)));
  json_object_set_string_member (versions, "kdstream", KD_VERSION);
  json_object_set_string_member (versions, "gstreamer", gst);
  json_object_set_string_member (versions, "glib", glib);
  kd_run_describe_engine (run, versions);
  json_object_set_object_member (info, "versions", versions);
  json_object_set_object_member (info, "machine", kd_report_machine ());
  return info;
}

static void
kd_run_finish_report (KdRun *run)
{
  g_autoptr (GError) error = NULL;
  g_autoptr (JsonObject) info = NULL;
  g_autofree gchar *graph = NULL;

  if (!run->options->report)
    return;
  info = kd_run_info (run);
  graph = kd_graph_svg (json_object_get_array_member (info, "elements"), json_object_get_array_member (info, "links"));
  if (!kd_report_finish (run->report, info, graph, &error))
    kd_run_fail (run, NULL, error->message, NULL);
}

/* What is still on the bus, once nothing new can come (streaming has stopped or the end was reached). */
static void
kd_run_drain (KdRun *run, GstBus *bus)
{
  GstMessage *message;

  while ((message = gst_bus_pop (bus))) {
    kd_run_on_message (bus, message, run);
    gst_message_unref (message);
  }
}

static void
kd_run_loop (KdRun *run)
{
  g_autoptr (GstBus) bus = gst_element_get_bus (run->pipeline);
  guint watch = gst_bus_add_watch (bus, kd_run_on_message, run);
  guint tick = g_timeout_add (200, kd_run_on_tick, run);
  guint on_int = g_unix_signal_add (SIGINT, kd_run_on_signal, run), on_term = g_unix_signal_add (SIGTERM, kd_run_on_signal, run);
  GstStateChangeReturn change = gst_element_set_state (run->pipeline, GST_STATE_PAUSED);

  if (change == GST_STATE_CHANGE_FAILURE) {
    kd_run_drain (run, bus);
    if (!run->error)
      kd_run_fail (run, NULL, "The pipeline cannot start; run it with GST_DEBUG=3 to see why", NULL);
  } else {
    if (change == GST_STATE_CHANGE_NO_PREROLL) /* a live source gives nothing while paused */
      kd_run_prerolled (run);
    if (!run->finished && !run->error)
      g_main_loop_run (run->loop);
    kd_run_drain (run, bus);
  }
  if (run->error && !run->started)
    kd_run_write_graph (run); /* as far as it was negotiated: that is where the error is */
  g_source_remove (watch);
  g_source_remove (tick);
  g_source_remove (on_int);
  g_source_remove (on_term);
}

static void
kd_run_say_end (KdRun *run)
{
  if (run->error)
    return;
  if (run->options->dry_run) {
    g_autoptr (JsonArray) links = kd_links_collect (GST_BIN (run->pipeline));

    kd_links_print (links, stdout);
  } else if (run->interrupted && kd_world_rank () > 0)
    return;
  else if (run->interrupted)
    g_printerr ("%s\n", run->aborted || !run->finished ? "Stopped" : "Stopped after the batch; what the elements save is saved");
  else
    kd_progress_summary (run->progress);
  if (!run->options->quiet && run->options->graph)
    printf ("Graph: %s\n", run->options->graph);
  if (!run->options->quiet && run->options->report)
    printf ("Report: %s/report.html\n", run->options->report);
}

int
kd_launch_run (GstElement *pipeline, const KdText *text, const KdLaunchOptions *options)
{
  g_autoptr (GError) error = NULL;
  g_autoptr (KdReport) report = kd_report_new (options->report, &error);
  g_autoptr (GDateTime) now = g_date_time_new_now_local ();
  KdRun run = { .pipeline = pipeline, .text = text, .options = options, .report = report, .started_at = now };
  int code;

  if (!report)
    return kd_tool_fail ("%s", error->message);
  run.started_us = g_get_monotonic_time ();
  run.loop = g_main_loop_new (NULL, FALSE);
  run.progress = kd_progress_new (options->quiet);
  run.warned = g_hash_table_new_full (g_str_hash, g_str_equal, g_free, NULL);
  kd_run_set_context (&run);
  kd_run_set_properties (&run);
  kd_run_loop (&run);
  kd_progress_clear (run.progress);
  kd_run_finish_report (&run);
  kd_run_say_end (&run);
  gst_element_set_state (pipeline, GST_STATE_NULL);
  kd_progress_free (run.progress);
  g_hash_table_unref (run.warned);
  g_main_loop_unref (run.loop);
  code = run.error ? KD_EXIT_FAILED : run.interrupted ? KD_EXIT_INTERRUPTED
                                                      : KD_EXIT_DONE;
  g_free (run.error);
  return code;
}
