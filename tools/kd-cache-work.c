/* A progress line, rewritten twice a second at most, and what Ctrl-C does meanwhile. */
#include "kd-cache-work.h"

#include <signal.h>

static volatile sig_atomic_t interrupted;

static void
on_signal (int number)
{
  interrupted = 1;
  signal (number, SIG_DFL); /* a second one ends at once: nothing breaks by that */
}

static void
show (gint64 done, gint64 total, gpointer user_data)
{
  KdCacheWork *work = user_data;
  gint64 now = g_get_monotonic_time ();
  g_autofree gchar *left = NULL;

  if (interrupted)
    g_cancellable_cancel (work->options.cancellable);
  if (!work->terminal || done == 0 || (done < total && now - work->shown_us < G_USEC_PER_SEC / 2))
    return;
  work->shown_us = now;
  left = kd_tool_duration ((gdouble) (now - work->started_us) / G_USEC_PER_SEC * (gdouble) (total - done) / (gdouble) done);
  g_printerr ("\r%3.0f %%  %" G_GINT64_FORMAT " of %" G_GINT64_FORMAT " rows, %s left   ", 100.0 * (gdouble) done / (gdouble) MAX (total, 1), done, total, left);
}

void
kd_cache_work_begin (KdCacheWork *work)
{
  work->options.progress = show;
  work->options.user_data = work;
  work->options.cancellable = g_cancellable_new ();
  work->started_us = g_get_monotonic_time ();
  work->shown_us = 0;
  work->terminal = kd_tool_is_terminal (stderr);
  interrupted = 0;
  signal (SIGINT, on_signal);
  signal (SIGTERM, on_signal);
}

void
kd_cache_work_end (KdCacheWork *work)
{
  signal (SIGINT, SIG_DFL);
  signal (SIGTERM, SIG_DFL);
  g_clear_object (&work->options.cancellable);
  if (work->terminal && work->shown_us)
    g_printerr ("\r%60s\r", "");
}

int
kd_cache_work_fail (const GError *error, const gchar *again)
{
  if (!g_error_matches (error, G_IO_ERROR, G_IO_ERROR_CANCELLED))
    return kd_tool_fail ("%s", error->message);
  g_printerr ("%s: interrupted; %s\n", g_get_prgname (), again);
  return KD_EXIT_INTERRUPTED;
}
