/* Command lines in a folder of their own, with this build's kd first on the path and $D the digits. */
#pragma once
#include "kd-graph.h"
#include <string.h>
#include <sys/wait.h>

static gchar *kd_folder, *kd_out, *kd_err;

static inline void
kd_command_path (void)
{
  g_autofree gchar *tools = g_build_filename (g_getenv ("KD_BUILD_ROOT"), "tools", NULL), *digits = kd_test_digits ();
  g_autofree gchar *path = g_strconcat (tools, ":", g_getenv ("PATH"), NULL);

  g_setenv ("PATH", path, TRUE);
  g_setenv ("D", digits, TRUE);
}

static inline void
kd_command_setup (void)
{
  kd_folder = kd_test_folder ();
  kd_command_path ();
}

static inline void
kd_command_teardown (void)
{
  kd_test_remove (kd_folder);
  g_clear_pointer (&kd_folder, g_free);
  g_clear_pointer (&kd_out, g_free);
  g_clear_pointer (&kd_err, g_free);
}

/** kd_command: run @line in a shell; what it printed is in kd_out and kd_err. Returns its exit code. */
static inline gint
kd_command (const gchar *line)
{
  const gchar *argv[] = { "/bin/sh", "-c", line, NULL };
  gint status = 0;

  g_clear_pointer (&kd_out, g_free);
  g_clear_pointer (&kd_err, g_free);
  ck_assert (g_spawn_sync (kd_folder, (gchar **) argv, NULL, 0, NULL, NULL, &kd_out, &kd_err, &status, NULL));
  ck_assert_msg (WIFEXITED (status), "\"%s\" died of signal %d: %s", line, WTERMSIG (status), kd_err);
  return WEXITSTATUS (status);
}

/** kd_expect: @line ends with @code and prints @part (to either stream). */
static inline void
kd_expect (gint code, const gchar *line, const gchar *part)
{
  gint got = kd_command (line);

  ck_assert_msg (got == code, "%s: exit code %d, wanted %d\n%s%s", line, got, code, kd_out, kd_err);
  ck_assert_msg (strstr (kd_out, part) || strstr (kd_err, part), "%s: \"%s\" is not in:\n%s%s", line, part, kd_out, kd_err);
  ck_assert_msg (!strstr (kd_err, "CRITICAL"), "%s", kd_err);
}

static inline gboolean
kd_exists (const gchar *name)
{
  g_autofree gchar *path = g_build_filename (kd_folder, name, NULL);

  return g_file_test (path, G_FILE_TEST_EXISTS);
}

static inline gchar *
kd_contents (const gchar *name)
{
  g_autofree gchar *path = g_build_filename (kd_folder, name, NULL);
  gchar *text = NULL;

  ck_assert_msg (g_file_get_contents (path, &text, NULL, NULL), "cannot read %s", path);
  return text;
}
