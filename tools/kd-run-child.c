/* The child of a recipe's step: started, watched by what it writes, stopped. */
#include "kd-run-private.h"
#include <glib-unix.h>
#include <json-glib/json-glib.h>
#include <kd/kd.h>
#include <signal.h>
#include <string.h>

/* The last complete line of a file that is being written. */
static gchar *
kd_last_line (const gchar *path)
{
  FILE *file = fopen (path, "r");
  gchar block[4096];
  gsize n = 0;
  gchar *end, *start;

  if (!file)
    return NULL;
  fseek (file, 0, SEEK_END);
  fseek (file, -MIN (ftell (file), (long) sizeof block - 1), SEEK_CUR);
  n = fread (block, 1, sizeof block - 1, file);
  fclose (file);
  block[n] = 0;
  end = strrchr (block, '\n');
  if (!end)
    return NULL;
  *end = 0;
  start = strrchr (block, '\n');
  return g_strdup (start ? start + 1 : block);
}

static void
kd_append_member (GString *text, JsonObject *object, const gchar *member, const gchar *name)
{
  if (json_object_has_member (object, member)) {
    g_autofree gchar *value = kd_tool_number (json_object_get_double_member_with_default (object, member, 0));

    g_string_append_printf (text, "  %s %s", name, value);
  }
}

static gboolean
kd_runner_tick (gpointer user_data)
{
  KdRunner *runner = user_data;
  g_autofree gchar *line = runner->watched ? kd_last_line (runner->watched) : NULL;
  g_autofree gchar *time = kd_tool_duration ((gdouble) (g_get_monotonic_time () - runner->began_us) / G_USEC_PER_SEC);
  g_autoptr (JsonParser) parser = json_parser_new ();
  g_autoptr (GString) text = g_string_new (runner->label);

  g_string_append_printf (text, "  %s", time);
  if (line && json_parser_load_from_data (parser, line, -1, NULL) && JSON_NODE_HOLDS_OBJECT (json_parser_get_root (parser))) {
    JsonObject *object = json_node_get_object (json_parser_get_root (parser));

    kd_append_member (text, object, "epoch", "epoch");
    kd_append_member (text, object, "step", "step");
    kd_append_member (text, object, "loss", "loss");
    kd_append_member (text, object, "accuracy", "accuracy");
    kd_append_member (text, object, "rows", "rows");
  }
  fprintf (stderr, "\r%.78s\033[K", text->str);
  fflush (stderr);
  return G_SOURCE_CONTINUE;
}

static void
kd_runner_child_done (GObject *source, GAsyncResult *result, gpointer user_data)
{
  g_subprocess_wait_finish (G_SUBPROCESS (source), result, NULL);
  g_main_loop_quit (((KdRunner *) user_data)->loop);
}

static gboolean
kd_runner_on_int (gpointer user_data)
{
  ((KdRunner *) user_data)->interrupted = TRUE;
  return G_SOURCE_CONTINUE;
}

static gboolean
kd_runner_on_term (gpointer user_data)
{
  KdRunner *runner = user_data;

  runner->interrupted = TRUE;
  if (runner->child)
    g_subprocess_send_signal (runner->child, SIGTERM);
  return G_SOURCE_CONTINUE;
}

void
kd_runner_print_log (const gchar *path)
{
  g_autofree gchar *text = NULL;
  g_auto (GStrv) lines = NULL;
  guint n;

  if (!g_file_get_contents (path, &text, NULL, NULL))
    return;
  lines = g_strsplit (g_strchomp (text), "\n", -1);
  n = g_strv_length (lines);
  for (guint i = n > 20 ? n - 20 : 0; i < n; i++)
    g_printerr ("    %s\n", lines[i]);
}

/* Run kd with @argv; what it prints goes to @log. */
gboolean
kd_runner_spawn (KdRunner *runner, gchar **argv, const gchar *log, GError **error)
{
  g_autoptr (GSubprocessLauncher) launcher = g_subprocess_launcher_new (G_SUBPROCESS_FLAGS_STDERR_MERGE);
  guint tick = 0;
  gint status;

  g_subprocess_launcher_set_stdout_file_path (launcher, log);
  runner->child = g_subprocess_launcher_spawnv (launcher, (const gchar *const *) argv, error);
  if (!runner->child)
    return FALSE;
  if (runner->terminal)
    tick = g_timeout_add (300, kd_runner_tick, runner);
  g_subprocess_wait_async (runner->child, NULL, kd_runner_child_done, runner);
  g_main_loop_run (runner->loop);
  if (tick) {
    g_source_remove (tick);
    fprintf (stderr, "\r\033[K");
  }
  status = g_subprocess_get_if_exited (runner->child) ? g_subprocess_get_exit_status (runner->child) : -g_subprocess_get_term_sig (runner->child);
  g_clear_object (&runner->child);
  if (status == 0 && !runner->interrupted)
    return TRUE;
  runner->interrupted |= status == KD_EXIT_INTERRUPTED;
  if (status < 0)
    g_set_error (error, KD_ERROR, KD_ERROR_ENGINE, "stopped by signal %d (%s); log=\"%s\"", -status, g_strsignal (-status), log);
  else
    g_set_error (error, KD_ERROR, KD_ERROR_ENGINE, "exit code %d; log=\"%s\"", status, log);
  return FALSE;
}

void
kd_runner_watch_signals (KdRunner *runner)
{
  runner->on_int = g_unix_signal_add (SIGINT, kd_runner_on_int, runner);
  runner->on_term = g_unix_signal_add (SIGTERM, kd_runner_on_term, runner);
}

void
kd_runner_unwatch_signals (KdRunner *runner)
{
  g_source_remove (runner->on_int);
  g_source_remove (runner->on_term);
}
