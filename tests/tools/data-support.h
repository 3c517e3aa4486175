/* For the tests of `kd data`: a folder of their own, files in it, the tool run in it. */
#pragma once
#include "kd-check.h"

#include <string.h>
#include <sys/wait.h>

static gchar *folder, *out_text, *err_text;

static void
make_folder (void)
{
  folder = g_dir_make_tmp ("kd-data-XXXXXX", NULL);
}

static void
remove_folder (void)
{
  const gchar *argv[] = { "rm", "-rf", folder, NULL };

  g_spawn_sync (NULL, (gchar **) argv, NULL, G_SPAWN_SEARCH_PATH, NULL, NULL, NULL, NULL, NULL, NULL);
  g_clear_pointer (&folder, g_free);
  g_clear_pointer (&out_text, g_free);
  g_clear_pointer (&err_text, g_free);
}

static void
write_file (const gchar *name, gconstpointer data, gsize n)
{
  g_autofree gchar *path = g_build_filename (folder, name, NULL), *dir = g_path_get_dirname (path);

  ck_assert_int_eq (g_mkdir_with_parents (dir, 0755), 0);
  ck_assert (g_file_set_contents (path, data, (gssize) n, NULL));
}

static inline void
write_text (const gchar *name, const gchar *text)
{
  write_file (name, text, strlen (text));
}

/* A command line in the folder; what it printed is in out_text and err_text. Returns its exit code. */
static gint
shell (const gchar *command)
{
  const gchar *argv[] = { "/bin/sh", "-c", command, NULL };
  gint status = 0;

  g_clear_pointer (&out_text, g_free);
  g_clear_pointer (&err_text, g_free);
  ck_assert (g_spawn_sync (folder, (gchar **) argv, NULL, 0, NULL, NULL, &out_text, &err_text, &status, NULL));
  ck_assert_msg (WIFEXITED (status), "\"%s\" died of signal %d: %s", command, WTERMSIG (status), err_text);
  return WEXITSTATUS (status);
}

/* `kd data ARGUMENTS`. */
static gint
kd_data (const gchar *arguments)
{
  g_autofree gchar *command = g_strdup_printf ("'%s/tools/kd' data %s", g_getenv ("KD_BUILD_ROOT"), arguments);

  return shell (command);
}

static inline void
expect_done (const gchar *arguments)
{
  gint code = kd_data (arguments);

  ck_assert_msg (code == 0, "kd data %s: exit code %d: %s", arguments, code, err_text);
}

/* Half-written files have names that begin with a dot. */
static inline void
check_no_leftovers (void)
{
  g_autoptr (GDir) dir = g_dir_open (folder, 0, NULL);
  const gchar *name;

  while ((name = g_dir_read_name (dir)))
    ck_assert_msg (!strstr (name, ".partial"), "%s is left over", name);
}

/* One error of one line that holds @part; no output file is left, whole or partial. */
static inline void
expect_failure (const gchar *arguments, gint wanted, const gchar *part)
{
  gint code = kd_data (arguments);

  ck_assert_msg (code == wanted, "kd data %s: exit code %d, wanted %d: %s%s", arguments, code, wanted, out_text, err_text);
  ck_assert_msg (strstr (err_text, part) != NULL, "kd data %s: \"%s\" lacks \"%s\"", arguments, err_text, part);
  ck_assert_msg (!strstr (err_text, "CRITICAL") && !strstr (err_text, "WARNING"), "%s", err_text);
  /* libpng has a word of its own on stderr */
  ck_assert_msg (wanted != 1 || strstr (err_text, "libpng error") || strchr (err_text, '\n') == err_text + strlen (err_text) - 1,
      "more than one line: %s", err_text);
  check_no_leftovers ();
}

/* A field of a batch file in the folder, whole. */
static inline KdTensor *
field_of (const gchar *name, const gchar *field)
{
  g_autofree gchar *path = g_build_filename (folder, name, NULL);
  GError *error = NULL;
  g_autoptr (KdH5Reader) reader = kd_h5_reader_open (path, NULL, &error);
  KdTensor *tensor;

  kd_assert_no_error (error);
  tensor = kd_h5_reader_read_all (reader, field, &error);
  kd_assert_no_error (error);
  return tensor;
}

static inline void
expect_layout (const gchar *name, const gchar *wanted)
{
  g_autofree gchar *path = g_build_filename (folder, name, NULL), *text = NULL;
  GError *error = NULL;
  g_autoptr (KdH5Reader) reader = kd_h5_reader_open (path, NULL, &error);

  kd_assert_no_error (error);
  text = kd_layout_to_string (kd_h5_reader_layout (reader));
  ck_assert_str_eq (text, wanted);
}

static inline void
expect_numbers (const gchar *name, const gchar *field, guint n, const gdouble *wanted)
{
  g_autoptr (KdTensor) tensor = field_of (name, field);

  ck_assert_uint_eq (kd_tensor_n_elements (tensor), n);
  for (guint i = 0; i < n; i++)
    kd_assert_close (kd_tensor_get_double (tensor, i), wanted[i], 1e-6);
}

static inline void
expect_text (const gchar *name, const gchar *field, gint64 row, const gchar *wanted)
{
  g_autoptr (KdTensor) tensor = field_of (name, field);
  g_autofree gchar *text = NULL;

  ck_assert_int_eq (tensor->dtype, KD_UTF8);
  text = g_strndup ((const gchar *) tensor->data + tensor->offsets[row], (gsize) (tensor->offsets[row + 1] - tensor->offsets[row]));
  ck_assert_str_eq (text, wanted);
}

static inline void
expect_attribute (const gchar *name, const gchar *attribute, const gchar *wanted)
{
  g_autofree gchar *path = g_build_filename (folder, name, NULL);
  g_autoptr (KdH5Reader) reader = kd_h5_reader_open (path, NULL, NULL);

  ck_assert (reader != NULL);
  ck_assert_str_eq (kd_h5_reader_attribute (reader, attribute), wanted);
}

#define NUMBERS(...)                                        \
  G_N_ELEMENTS (((gdouble[]) { __VA_ARGS__ })), (gdouble[]) \
  {                                                         \
    __VA_ARGS__                                             \
  }
