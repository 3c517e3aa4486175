/* Command lines that a fault hits (tests/faults/fault.c), and what has to be so afterwards. */
#pragma once
#include "kd-command.h"

#include <fcntl.h>
#include <signal.h>
#include <sys/socket.h>

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

/* This build's kd, loaded once (tests/faults/server.c). */
static struct {
  GPid pid;
  gint socket, out, err;
} kd_server = { .socket = -1 };

/* A file without a name. */
static inline gint
kd_fault_file (void)
{
  g_autofree gchar *path = NULL;
  gint fd = g_file_open_tmp ("kdtest-XXXXXX", &path, NULL);

  ck_assert (fd >= 0 && g_unlink (path) == 0);
  return fd;
}

static inline void
kd_fault_server_child (gpointer data)
{
  for (gint fd = 3; fd < 6; fd++)
    dup2 (((const gint *) data)[fd - 3], fd);
}

/** kd_fault_serve: starts it; commands of this process go to it from now on. @module: to be loaded with it, below the plugins; or NULL. */
static inline void
kd_fault_serve (const gchar *module)
{
  const gchar *build = g_getenv ("KD_BUILD_ROOT"), *before = g_getenv ("LD_PRELOAD"), *argv[] = { "kd", NULL };
  g_autofree gchar *shim = g_build_filename (build, "tests", "faults", "kdfault.so", NULL), *path = module ? g_build_filename (build, "plugins", module, NULL) : NULL;
  g_autofree gchar *preload = before && *before ? g_strconcat (before, ":", shim, NULL) : g_strdup (shim);
  g_auto (GStrv) envp = g_get_environ ();
  gint pair[2], fds[3];
  GError *error = NULL;

  ck_assert (socketpair (AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, pair) == 0);
  kd_server.socket = pair[0];
  kd_server.out = kd_fault_file ();
  kd_server.err = kd_fault_file ();
  /* out of the way of 3, 4 and 5 */
  fds[0] = fcntl (pair[1], F_DUPFD_CLOEXEC, 10);
  fds[1] = fcntl (kd_server.out, F_DUPFD_CLOEXEC, 10);
  fds[2] = fcntl (kd_server.err, F_DUPFD_CLOEXEC, 10);
  envp = g_environ_setenv (envp, "LD_PRELOAD", preload, TRUE);
  envp = g_environ_setenv (envp, "KD_SERVER_FD", "3", TRUE);
  envp = g_environ_setenv (envp, "KD_SERVER_OUT", "4", TRUE);
  envp = g_environ_setenv (envp, "KD_SERVER_ERR", "5", TRUE);
  if (path)
    envp = g_environ_setenv (envp, "KD_SERVER_LOAD", path, TRUE);
  ck_assert_msg (g_spawn_async (kd_folder, (gchar **) argv, envp, G_SPAWN_SEARCH_PATH_FROM_ENVP | G_SPAWN_DO_NOT_REAP_CHILD | G_SPAWN_LEAVE_DESCRIPTORS_OPEN, kd_fault_server_child, fds,
                     &kd_server.pid, &error),
      "%s", error ? error->message : "");
  close (pair[1]);
  for (guint i = 0; i < 3; i++)
    close (fds[i]);
}

static inline gchar *
kd_fault_taken (gint fd)
{
  off_t n = lseek (fd, 0, SEEK_END);
  gchar *text = g_malloc0 ((gsize) n + 1);

  ck_assert (pread (fd, text, (gsize) n, 0) == n);
  ck_assert (ftruncate (fd, 0) == 0 && lseek (fd, 0, SEEK_SET) == 0);
  return text;
}

/** kd_fault_run: @line (words of a kd command, no shell) with the fault; its output is in kd_out and kd_err. Returns its exit code, or 128 + the signal it
 * died of. @how: NULL: without a fault. @ret_hit: (transfer full)(nullable) "call path" of the first fault, NULL when none came. */
static inline gint
kd_fault_run (const gchar *line, const gchar *how, guint nth, const gchar *call, gchar **ret_hit)
{
  g_autofree gchar *log = g_build_filename (kd_folder, ".fault", NULL), *text = NULL;
  g_autoptr (GString) request = g_string_new (NULL);
  g_auto (GStrv) argv = NULL;
  GError *error = NULL;
  gint status = 0;

  ck_assert_msg (g_shell_parse_argv (line, NULL, &argv, &error) && g_str_equal (argv[0], "kd"), "%s: %s", line, error ? error->message : "no kd");
  if (kd_server.socket < 0)
    kd_fault_serve (NULL);
  g_clear_pointer (&kd_out, g_free);
  g_clear_pointer (&kd_err, g_free);
  if (how) {
    g_unlink (log);
    g_string_printf (request, "KD_FAULT_FOLDER=%s\nKD_FAULT_HOW=%s\nKD_FAULT_NTH=%u\nKD_FAULT_CALL=%s\nKD_FAULT_LOG=%s\n", kd_folder, how, nth, call, log);
  }
  g_string_append_c (request, '\n');
  for (gchar *c = request->str; *c; c++)
    if (*c == '\n')
      *c = '\0';
  for (guint i = 0; argv[i]; i++)
    g_string_append_len (request, argv[i], (gssize) strlen (argv[i]) + 1);
  ck_assert (send (kd_server.socket, request->str, request->len, MSG_NOSIGNAL) == (gssize) request->len);
  ck_assert_msg (read (kd_server.socket, &status, sizeof status) == sizeof status, "kd is gone: %s", line);
  kd_out = kd_fault_taken (kd_server.out);
  kd_err = kd_fault_taken (kd_server.err);
  if (ret_hit)
    *ret_hit = how && g_file_get_contents (log, &text, NULL, NULL) ? g_strndup (text, strcspn (text, "\n")) : NULL;
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
    if (strstr (name, ".partial-") || strstr (name, "lost.txt."))
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
