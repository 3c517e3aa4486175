/* Command lines that a fault hits (tests/faults/fault.c), and what has to be so afterwards. */
#pragma once
#include "kd-command.h"

#include <signal.h>

static inline gint
kd_fault_by_name (gconstpointer a, gconstpointer b)
{
  return strcmp (*(const gchar *const *) a, *(const gchar *const *) b);
}

static inline void
kd_fault_add_sum (GChecksum *sum, const gchar *path)
{
  g_autoptr (GDir) dir = g_dir_open (path, 0, NULL);
  g_autoptr (GPtrArray) names = g_ptr_array_new_with_free_func (g_free);
  g_autofree gchar *bytes = NULL;
  const gchar *name;
  gsize n = 0;

  g_checksum_update (sum, (const guchar *) path, -1);
  if (!dir && g_file_get_contents (path, &bytes, &n, NULL))
    g_checksum_update (sum, (const guchar *) bytes, (gssize) n);
  while (dir && (name = g_dir_read_name (dir)))
    g_ptr_array_add (names, g_build_filename (path, name, NULL));
  g_ptr_array_sort (names, (GCompareFunc) kd_fault_by_name);
  for (guint i = 0; i < names->len; i++)
    kd_fault_add_sum (sum, g_ptr_array_index (names, i));
}

/** kd_fault_sum: (transfer full) over names and contents of files and caches in the current folder: @names, with spaces. */
static inline gchar *
kd_fault_sum (const gchar *names)
{
  g_autoptr (GChecksum) sum = g_checksum_new (G_CHECKSUM_SHA256);
  g_auto (GStrv) words = g_strsplit (names ? names : "", " ", -1);

  for (guint i = 0; words[i]; i++) {
    g_autofree gchar *parts = g_strconcat (words[i], ".parts", NULL);
    kd_fault_add_sum (sum, words[i]);
    kd_fault_add_sum (sum, parts);
  }
  return g_strdup (g_checksum_get_string (sum));
}

/** kd_fault_run: @line (words, no shell) with the fault; its output is in kd_out and kd_err. Returns its exit code, or 128 + the signal it died of.
 * @ret_hit: (transfer full) "call path" of the first fault, NULL when none came. */
static inline gint
kd_fault_run (const gchar *line, const gchar *how, guint nth, const gchar *call, gchar **ret_hit)
{
  g_autofree gchar *log = g_build_filename (kd_folder, ".fault", NULL), *number = g_strdup_printf ("%u", nth), *text = NULL;
  g_autofree gchar *before = g_strdup (g_getenv ("LD_PRELOAD")), *shim = g_build_filename (g_getenv ("KD_BUILD_ROOT"), "tests", "faults", "kdfault.so", NULL);
  g_autofree gchar *preload = before && *before ? g_strconcat (before, ":", shim, NULL) : g_strdup (shim);
  g_auto (GStrv) argv = NULL, envp = g_get_environ ();
  GError *error = NULL;
  gint status = 0;

  ck_assert_msg (g_shell_parse_argv (line, NULL, &argv, &error), "%s", error ? error->message : "");
  g_clear_pointer (&kd_out, g_free);
  g_clear_pointer (&kd_err, g_free);
  g_unlink (log);
  envp = g_environ_setenv (envp, "LD_PRELOAD", preload, TRUE);
  envp = g_environ_setenv (envp, "KD_FAULT_FOLDER", kd_folder, TRUE);
  envp = g_environ_setenv (envp, "KD_FAULT_HOW", how, TRUE);
  envp = g_environ_setenv (envp, "KD_FAULT_NTH", number, TRUE);
  envp = g_environ_setenv (envp, "KD_FAULT_CALL", call, TRUE);
  envp = g_environ_setenv (envp, "KD_FAULT_LOG", log, TRUE);
  ck_assert_msg (g_spawn_sync (kd_folder, argv, envp, G_SPAWN_SEARCH_PATH_FROM_ENVP, NULL, NULL, &kd_out, &kd_err, &status, &error), "%s", error ? error->message : "");
  *ret_hit = NULL;
  if (g_file_get_contents (log, &text, NULL, NULL))
    *ret_hit = g_strndup (text, strcspn (text, "\n"));
  return WIFEXITED (status) ? WEXITSTATUS (status) : 128 + WTERMSIG (status);
}

/** kd_fault_partials: (transfer full) files below @folder that never got their final name, "" when there is none. */
static inline gchar *
kd_fault_partials (const gchar *folder)
{
  g_autoptr (GDir) dir = g_dir_open (folder, 0, NULL);
  g_autoptr (GString) found = g_string_new (NULL);
  const gchar *name;

  while (dir && (name = g_dir_read_name (dir))) {
    g_autofree gchar *path = g_build_filename (folder, name, NULL), *below = NULL;
    if (strstr (name, ".partial-") || strstr (name, ".safetensors.") || strstr (name, "lost.txt."))
      g_string_append_printf (found, "%s ", path);
    if (g_file_test (path, G_FILE_TEST_IS_DIR))
      g_string_append (found, below = kd_fault_partials (path));
  }
  return g_strdup (g_strstrip (found->str));
}

/** kd_fault_rows: the rows of cache @path are all good, and are those of @reference (with @subset: some of them). */
static inline void
kd_fault_rows (const gchar *path, const gchar *reference, gboolean subset, const gchar *when)
{
  const KdCacheCopyOptions options = { 0 };
  g_autoptr (KdCacheDiff) diff = NULL;
  GError *error = NULL;

  ck_assert_msg (kd_cache_verify (path, NULL, NULL, NULL, &error), "%s: %s", when, error ? error->message : "");
  diff = kd_cache_diff (path, reference, &options, &error);
  ck_assert_msg (diff != NULL, "%s: %s", when, error ? error->message : "");
  ck_assert_msg (diff->n_only_a == 0 && (subset || diff->n_only_b == 0), "%s: %" G_GINT64_FORMAT " rows too many, %" G_GINT64_FORMAT " missing", when, diff->n_only_a,
      diff->n_only_b);
  for (guint i = 0; i < diff->fields->len; i++) {
    const KdCacheFieldDiff *field = g_ptr_array_index (diff->fields, i);
    ck_assert_msg (!field->a_type || !field->b_type || field->n_rows == 0, "%s: %s differs in %" G_GINT64_FORMAT " rows", when, field->field, field->n_rows);
  }
}
