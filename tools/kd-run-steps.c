/* Running a recipe's steps: each pipeline is a `kd launch` of its own (a crash takes one step down, not the experiment), and a step
 * that is finished with the same inputs is not run again. */
#include "kd-report.h"
#include "kd-run-private.h"
#include <glib/gstdio.h>
#include <kd/kd.h>
#include <string.h>

typedef struct {
  const KdRecipeStep *step;
  gint64 seed;
  gchar *folder, *stamp;
  gchar *pipeline, *evaluate, *tool;
} KdTask;

static void
kd_task_clear (KdTask *task)
{
  g_free (task->folder);
  g_free (task->stamp);
  g_free (task->pipeline);
  g_free (task->evaluate);
  g_free (task->tool);
}
G_DEFINE_AUTO_CLEANUP_CLEAR_FUNC (KdTask, kd_task_clear)

/* What the step's result depends on, as one hash: its text, the seed, the data file, this version, and what it needs. */
static void
kd_task_hash (KdRunner *runner, KdTask *task)
{
  g_autoptr (GChecksum) sum = g_checksum_new (G_CHECKSUM_SHA256);
  g_autofree gchar *data = runner->recipe->data ? kd_recipe_data (runner->recipe, NULL) : NULL;
  g_autoptr (GString) text = g_string_new (KD_VERSION);
  GStatBuf info;

  g_string_append_printf (text, "\n%" G_GINT64_FORMAT "\n%s\n%s\n%s\n", task->step->once ? -1 : task->seed, task->pipeline ? task->pipeline : "",
      task->evaluate ? task->evaluate : "", task->tool ? task->tool : "");
  if (data && g_stat (data, &info) == 0)
    g_string_append_printf (text, "%s %" G_GINT64_FORMAT " %" G_GINT64_FORMAT "\n", data, (gint64) info.st_size, (gint64) info.st_mtime);
  for (guint i = 0; task->step->needs && task->step->needs[i]; i++) {
    KdRecipeStep *needed = kd_recipe_step (runner->recipe, task->step->needs[i]);
    g_autofree gchar *folder = kd_recipe_folder (runner->result->output, needed, task->seed);
    const gchar *stamp = g_hash_table_lookup (runner->stamps, folder);

    g_string_append_printf (text, "%s\n", stamp ? stamp : "");
  }
  g_checksum_update (sum, (const guchar *) text->str, (gssize) text->len);
  task->stamp = g_strdup (g_checksum_get_string (sum));
  g_hash_table_insert (runner->stamps, g_strdup (task->folder), g_strdup (task->stamp));
}

static gboolean
kd_task_prepare (KdRunner *runner, const KdRecipeStep *step, gint64 seed, KdTask *task, GError **error)
{
  const gchar *keys[] = { "pipeline", "evaluate", "tool" };
  const gchar *texts[] = { step->pipeline, step->evaluate, step->tool };
  gchar **rets[] = { &task->pipeline, &task->evaluate, &task->tool };

  task->step = step;
  task->seed = seed;
  task->folder = kd_recipe_folder (runner->result->output, step, seed);
  for (guint i = 0; i < G_N_ELEMENTS (keys); i++)
    if (texts[i] && !(*rets[i] = kd_recipe_expand (runner->recipe, step, keys[i], texts[i], seed, runner->result->output, error)))
      return FALSE;
  kd_task_hash (runner, task);
  return TRUE;
}

static gboolean
kd_task_is_done (const KdTask *task)
{
  g_autofree gchar *path = g_build_filename (task->folder, "done", NULL), *text = NULL;

  return g_file_get_contents (path, &text, NULL, NULL) && g_str_equal (g_strchomp (text), task->stamp);
}

static gboolean
kd_task_launch (KdRunner *runner, const KdTask *task, const gchar *pipeline, const gchar *name, GError **error)
{
  g_autofree gchar *self = kd_tool_self (), *report = g_build_filename (task->folder, name, NULL);
  g_autofree gchar *log_name = g_strconcat (name, ".log", NULL), *log = g_build_filename (task->folder, log_name, NULL);
  g_autofree gchar *seed = g_strdup_printf ("%" G_GINT64_FORMAT, task->step->once ? 0 : task->seed);
  gchar *argv[] = { self, (gchar *) "launch", (gchar *) "--quiet", (gchar *) "--seed", seed, (gchar *) "--report", report, (gchar *) pipeline, NULL };
  gboolean ok;

  runner->watched = g_build_filename (report, "metrics.jsonl", NULL);
  ok = kd_runner_spawn (runner, argv, log, error);
  g_clear_pointer (&runner->watched, g_free);
  if (!ok && !runner->interrupted) {
    g_printerr ("  %s: %s\n", task->step->name, pipeline);
    kd_runner_print_log (log);
  }
  return ok;
}

static gboolean
kd_task_tool (KdRunner *runner, const KdTask *task, GError **error)
{
  g_autofree gchar *self = kd_tool_self (), *log = g_build_filename (task->folder, "tool.log", NULL), *line = NULL;
  g_auto (GStrv) argv = NULL;
  gboolean ok;

  line = g_strconcat ("kd ", task->tool, NULL);
  if (!g_shell_parse_argv (line, NULL, &argv, error))
    return FALSE;
  g_free (argv[0]);
  argv[0] = g_steal_pointer (&self);
  ok = kd_runner_spawn (runner, argv, log, error);
  if (!ok && !runner->interrupted)
    kd_runner_print_log (log);
  return ok;
}

/* The folder is this step's alone: what an earlier run left in it must not be mixed with what this one writes. */
static gboolean
kd_task_run (KdRunner *runner, const KdTask *task, GError **error)
{
  g_autofree gchar *done = g_build_filename (task->folder, "done", NULL), *stamp = g_strconcat (task->stamp, "\n", NULL);

  kd_tool_remove (task->folder);
  if (g_mkdir_with_parents (task->folder, 0777) < 0) {
    g_set_error (error, KD_ERROR, KD_ERROR_IO, "cannot make the step's folder: path=\"%s\"", task->folder);
    return FALSE;
  }
  if (task->tool ? !kd_task_tool (runner, task, error) : !kd_task_launch (runner, task, task->pipeline, "report", error))
    return FALSE;
  if (task->evaluate && !kd_task_launch (runner, task, task->evaluate, "evaluate", error))
    return FALSE;
  return g_file_set_contents (done, stamp, -1, error);
}

static JsonObject *
kd_task_metrics (const KdTask *task)
{
  g_autofree gchar *path = g_build_filename (task->folder, task->evaluate ? "evaluate" : "report", "report.json", NULL);
  g_autoptr (JsonObject) report = task->tool ? NULL : kd_json_read (path, NULL);

  return report && json_object_has_member (report, "metrics") ? json_object_ref (json_object_get_object_member (report, "metrics"))
                                                              : json_object_new ();
}

static void
kd_task_print (const KdTask *task, JsonObject *metrics, gdouble seconds, gboolean skipped)
{
  static const gchar *const hidden[] = { "epoch", "count", "final", NULL };
  g_autofree gchar *time = skipped ? g_strdup ("as before") : kd_tool_duration (seconds);
  g_autoptr (GList) elements = json_object_get_members (metrics);

  printf ("  %-24s %9s ", task->step->name, time);
  for (GList *l = elements; l; l = l->next) {
    JsonObject *values = json_object_get_object_member (metrics, l->data);
    g_autoptr (GList) names = json_object_get_members (values);

    for (GList *m = names; m; m = m->next) {
      g_autofree gchar *value = kd_tool_number (json_object_get_double_member_with_default (values, m->data, 0));

      if (task->step->metrics ? g_strv_contains ((const gchar *const *) task->step->metrics, m->data) : !g_strv_contains (hidden, m->data))
        printf (" %s %s", (gchar *) m->data, value);
    }
  }
  printf ("\n");
  fflush (stdout);
}

static void
kd_task_record (KdRunner *runner, const KdTask *task, const gchar *status, JsonObject *metrics, gdouble seconds, gboolean skipped)
{
  JsonObject *run = json_object_new ();

  json_object_set_string_member (run, "step", task->step->name);
  json_object_set_int_member (run, "seed", task->step->once ? -1 : task->seed);
  json_object_set_string_member (run, "status", status);
  json_object_set_double_member (run, "seconds", seconds);
  json_object_set_boolean_member (run, "skipped", skipped);
  json_object_set_string_member (run, "folder", task->folder);
  json_object_set_object_member (run, "metrics", json_object_ref (metrics));
  json_array_add_object_element (runner->result->runs, run);
}

static gboolean
kd_runner_step (KdRunner *runner, const KdRecipeStep *step, gint64 seed, GError **error)
{
  g_auto (KdTask) task = { NULL };
  g_autoptr (JsonObject) metrics = NULL;
  gboolean skipped, ok;
  gdouble seconds;

  if (!kd_task_prepare (runner, step, seed, &task, error))
    return FALSE;
  runner->began_us = g_get_monotonic_time ();
  g_free (runner->label);
  runner->label = g_strdup_printf ("  %-24s", step->name);
  skipped = kd_task_is_done (&task);
  ok = skipped || kd_task_run (runner, &task, error);
  if (!ok)
    g_prefix_error (error, "step %s, seed %" G_GINT64_FORMAT ": ", step->name, seed);
  seconds = (gdouble) (g_get_monotonic_time () - runner->began_us) / G_USEC_PER_SEC;
  metrics = ok ? kd_task_metrics (&task) : json_object_new ();
  kd_task_record (runner, &task, ok ? "done" : "failed", metrics, seconds, skipped);
  if (ok && !runner->options->quiet)
    kd_task_print (&task, metrics, seconds, skipped);
  return ok;
}

/* The step itself and everything it needs, when --steps names some. */
static void
kd_want_step (const KdRecipe *recipe, const KdRecipeStep *step, GHashTable *wanted)
{
  g_hash_table_add (wanted, (gpointer) step);
  for (guint i = 0; step->needs && step->needs[i]; i++)
    kd_want_step (recipe, kd_recipe_step (recipe, step->needs[i]), wanted);
}

static gboolean
kd_wanted_steps (const KdRecipe *recipe, const gchar *list, GHashTable *wanted, GError **error)
{
  g_auto (GStrv) names = list ? g_strsplit (list, ",", -1) : NULL;

  for (guint i = 0; !names && i < recipe->steps->len; i++)
    g_hash_table_add (wanted, recipe->steps->pdata[i]);
  for (guint i = 0; names && names[i]; i++) {
    KdRecipeStep *step = kd_recipe_step (recipe, g_strstrip (names[i]));

    if (!step) {
      g_set_error (error, KD_ERROR, KD_ERROR_VALUE, "--steps: the recipe has no step %s; kd run --list %s shows them", names[i], recipe->path);
      return FALSE;
    }
    kd_want_step (recipe, step, wanted);
  }
  return TRUE;
}

static int
kd_runner_seeds (KdRunner *runner, GHashTable *wanted)
{
  int code = KD_EXIT_DONE;

  for (guint s = 0; s < runner->result->n_seeds; s++) {
    gint64 seed = runner->result->first_seed + s;

    if (!runner->options->quiet)
      printf ("seed %" G_GINT64_FORMAT "\n", seed);
    for (guint i = 0; i < runner->recipe->steps->len; i++) {
      KdRecipeStep *step = runner->recipe->steps->pdata[i];
      g_autoptr (GError) error = NULL;

      if (!g_hash_table_contains (wanted, step) || (step->once && s > 0))
        continue;
      if (kd_runner_step (runner, step, seed, &error))
        continue;
      if (runner->interrupted) {
        g_printerr ("Interrupted; finished steps are kept, the same command goes on from here\n");
        return KD_EXIT_INTERRUPTED;
      }
      kd_tool_fail ("%s", error->message);
      code = KD_EXIT_FAILED;
      if (!runner->options->keep_going)
        return code;
      break; /* the next seed */
    }
  }
  return code;
}

int
kd_recipe_run (const KdRecipe *recipe, const KdRecipeOptions *options, KdResult *result)
{
  KdRunner runner = { .recipe = recipe, .options = options, .result = result };
  g_autoptr (GHashTable) wanted = g_hash_table_new (NULL, NULL);
  g_autoptr (GError) error = NULL;
  gint64 began_us = g_get_monotonic_time ();
  int code;

  if (!kd_wanted_steps (recipe, options->steps, wanted, &error))
    return kd_tool_usage ("%s", error->message);
  runner.loop = g_main_loop_new (NULL, FALSE);
  runner.stamps = g_hash_table_new_full (g_str_hash, g_str_equal, g_free, g_free);
  runner.terminal = kd_tool_is_terminal (stderr) && !options->quiet;
  kd_runner_watch_signals (&runner);
  code = kd_runner_seeds (&runner, wanted);
  result->seconds = (gdouble) (g_get_monotonic_time () - began_us) / G_USEC_PER_SEC;
  kd_runner_unwatch_signals (&runner);
  g_main_loop_unref (runner.loop);
  g_hash_table_unref (runner.stamps);
  g_free (runner.label);
  return code;
}
