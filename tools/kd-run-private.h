/* Internal: what running the steps of a recipe shares. */
#pragma once
#include "kd-recipe.h"
#include <gio/gio.h>

G_BEGIN_DECLS

/** KdRunner: a recipe while it runs. */
typedef struct {
  const KdRecipe *recipe;
  const KdRecipeOptions *options;
  KdResult *result;
  GMainLoop *loop;
  GHashTable *stamps; /* folder of a step -> the hash of its inputs */
  gboolean terminal, interrupted;
  GSubprocess *child;
  gchar *watched; /* metrics.jsonl of the child */
  gchar *label;
  gint64 began_us;
  guint on_int, on_term;
} KdRunner;

/** kd_runner_spawn: run kd with @argv to its end, showing how far it is; what it prints goes to the file @log. FALSE with an error that
 * says how it ended. */
gboolean kd_runner_spawn (KdRunner *runner, gchar **argv, const gchar *log, GError **error);
/** kd_runner_print_log: the end of a log, to standard error. */
void kd_runner_print_log (const gchar *path);
/** kd_runner_watch_signals, kd_runner_unwatch_signals: Ctrl-C reaches the child too, which stops by itself; another signal is handed on. */
void kd_runner_watch_signals (KdRunner *runner);
void kd_runner_unwatch_signals (KdRunner *runner);

G_END_DECLS
