/* Runs whole graphs in tests and hands back how they ended. */
#pragma once
#include "kd-check.h"
#include <errno.h>
#include <glib/gstdio.h>
#include <signal.h>
#include <string.h>
#include <unistd.h>

/** kd_test_in_memory: folders from now on are in memory where that can be: for tests that sync thousands of times. */
static inline void
kd_test_in_memory (void)
{
  if (g_access ("/dev/shm", W_OK | X_OK) == 0)
    g_setenv ("TMPDIR", "/dev/shm", TRUE);
}

/** kd_test_remove: a folder and all in it. */
static inline void
kd_test_remove (const gchar *folder)
{
  g_autofree gchar *quoted = g_shell_quote (folder);
  g_autofree gchar *command = g_strdup_printf ("rm -rf %s", quoted);

  if (!g_str_has_prefix (folder, g_get_tmp_dir ()) || !g_spawn_command_line_sync (command, NULL, NULL, NULL, NULL))
    g_printerr ("cannot remove %s\n", folder);
}

/** kd_test_sweep: folders of test processes that are gone: a test that failed or was killed has not removed its own. */
static inline void
kd_test_sweep (void)
{
  g_autoptr (GDir) dir = g_dir_open (g_get_tmp_dir (), 0, NULL);
  const gchar *name;

  while (dir && (name = g_dir_read_name (dir))) {
    g_autofree gchar *path = g_build_filename (g_get_tmp_dir (), name, NULL);
    gchar *end = NULL;
    gint64 pid = g_str_has_prefix (name, "kdtest-") ? g_ascii_strtoll (name + strlen ("kdtest-"), &end, 10) : 0;
    if (pid > 0 && *end == '-' && kill ((pid_t) pid, 0) < 0 && errno == ESRCH)
      kd_test_remove (path);
  }
}

/** kd_test_folder: (transfer full) a new temporary folder, of this process. */
static inline gchar *
kd_test_folder (void)
{
  g_autofree gchar *name = g_strdup_printf ("kdtest-%d-XXXXXX", (int) getpid ());

  kd_test_sweep ();
  return g_dir_make_tmp (name, NULL);
}

/** kd_test_write: a batch file of @n fields. */
static inline void
kd_test_write (const gchar *path, guint n, const gchar *const *names, KdTensor *const *tensors)
{
  GError *error = NULL;
  g_autoptr (KdH5Writer) writer = kd_h5_writer_new (path, &error);

  kd_assert_no_error (error);
  ck_assert (kd_h5_writer_append (writer, n, names, tensors, &error));
  ck_assert (kd_h5_writer_finish (writer, &error));
  kd_assert_no_error (error);
}

/** kd_test_run: run to the end; (transfer full) "" when it came to EOS, else the first error's message; more errors are counted. */
static inline gchar *
kd_test_run (const gchar *description, guint *ret_n_errors)
{
  GError *error = NULL;
  g_autoptr (GstElement) pipeline = gst_parse_launch (description, &error);
  g_autoptr (GstBus) bus = NULL;
  gchar *result = NULL;
  guint n_errors = 0;

  if (error) {
    result = g_strdup (error->message);
    g_error_free (error);
    return result;
  }
  bus = gst_element_get_bus (pipeline);
  gst_element_set_state (pipeline, GST_STATE_PLAYING);
  for (;;) {
    g_autoptr (GstMessage) message = gst_bus_timed_pop_filtered (bus, result ? GST_SECOND / 5 : 200 * GST_SECOND, GST_MESSAGE_ERROR | GST_MESSAGE_EOS);
    if (!message)
      break;
    if (GST_MESSAGE_TYPE (message) == GST_MESSAGE_EOS) {
      if (!result)
        result = g_strdup ("");
      break;
    }
    gst_message_parse_error (message, &error, NULL);
    /* GStreamer's own "streaming stopped" and "failed to start" behind an error are no second report of ours. */
    if (!strstr (error->message, "Internal data stream error") && !strstr (error->message, "state change failed"))
      n_errors++;
    if (!result)
      result = g_strdup (error->message);
    g_clear_error (&error);
  }
  gst_element_set_state (pipeline, GST_STATE_NULL);
  if (ret_n_errors)
    *ret_n_errors = n_errors;
  return result ? result : g_strdup ("no answer within 200 s");
}

/** kd_test_digits: (transfer full) path of the handwritten digits in the source tree. */
static inline gchar *
kd_test_digits (void)
{
  return g_build_filename (g_getenv ("KD_SOURCE_ROOT"), "pipelines", "data", "digits.h5", NULL);
}
