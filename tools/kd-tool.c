/* Helpers of all subcommands: options, messages, where plugins and data are, text. */
#include "kd-tool.h"
#include <glib/gstdio.h>
#include <gst/gst.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

gboolean
kd_tool_options (int *argc, char ***argv, const GOptionEntry *entries, const gchar *parameters, const gchar *summary,
    const gchar *details)
{
  g_autoptr (GOptionContext) context = g_option_context_new (parameters);
  g_autoptr (GError) error = NULL;

  g_option_context_set_summary (context, summary);
  g_option_context_set_description (context, details);
  if (entries)
    g_option_context_add_main_entries (context, entries, NULL);
  if (g_option_context_parse (context, argc, argv, &error))
    return TRUE;
  kd_tool_usage ("%s", error->message);
  return FALSE;
}

int
kd_tool_usage (const gchar *format, ...)
{
  g_autofree gchar *text = NULL;
  va_list args;

  va_start (args, format);
  text = g_strdup_vprintf (format, args);
  va_end (args);
  g_printerr ("%s: %s\nTry: %s --help\n", g_get_prgname (), text, g_get_prgname ());
  return KD_EXIT_USAGE;
}

int
kd_tool_fail (const gchar *format, ...)
{
  g_autofree gchar *text = NULL;
  va_list args;

  va_start (args, format);
  text = g_strdup_vprintf (format, args);
  va_end (args);
  g_printerr ("%s: %s\n", g_get_prgname (), text);
  return KD_EXIT_FAILED;
}

gchar *
kd_tool_self (void)
{
  g_autoptr (GError) error = NULL;
  gchar *self = g_file_read_link ("/proc/self/exe", &error);

  return self ? self : g_strdup ("kd");
}

/* The build tree has tools/kd beside plugins/; an installed program has none. */
static gchar *
kd_tool_build_root (void)
{
  g_autofree gchar *self = kd_tool_self ();
  g_autofree gchar *dir = g_path_get_dirname (self);
  g_autofree gchar *root = g_path_get_dirname (dir);
  g_autofree gchar *mark = g_build_filename (root, "meson-info", NULL);

  return g_file_test (mark, G_FILE_TEST_IS_DIR) ? g_steal_pointer (&root) : NULL;
}

/* Where this program was installed, even when the tree was moved: KD_BINDIR is relative to the prefix. */
static gchar *
kd_tool_prefix (void)
{
  g_autofree gchar *self = kd_tool_self ();
  g_autofree gchar *dir = g_path_get_dirname (self);

  return g_str_has_suffix (dir, "/" KD_BINDIR) ? g_strndup (dir, strlen (dir) - strlen ("/" KD_BINDIR)) : g_strdup (KD_PREFIX);
}

static gchar *
kd_tool_plugin_dirs (void)
{
  g_autofree gchar *root = kd_tool_build_root ();
  g_autofree gchar *prefix = NULL;

  if (root)
    return g_build_filename (root, "plugins", NULL);
  prefix = kd_tool_prefix ();
  return g_build_filename (prefix, KD_LIBDIR, "gstreamer-1.0", NULL);
}

/* A build tree has a registry of its own: the user's would be made anew at each change between this and another tree. */
static void
kd_tool_own_registry (void)
{
  g_autofree gchar *root = kd_tool_build_root ();
  g_autofree gchar *path = root ? g_build_filename (root, "tools", "registry.bin", NULL) : NULL;

  if (path && !g_getenv ("GST_REGISTRY_1_0") && !g_getenv ("GST_REGISTRY"))
    g_setenv ("GST_REGISTRY_1_0", path, TRUE);
}

void
kd_tool_init (void)
{
  g_autofree gchar *dirs = kd_tool_plugin_dirs ();
  const gchar *set = g_getenv ("GST_PLUGIN_PATH_1_0");
  g_auto (GStrv) have = NULL;

  /* GStreamer looks at the plain name only when the versioned one is unset: what the user set there must stay visible. */
  set = set ? set : g_getenv ("GST_PLUGIN_PATH");
  have = g_strsplit (set ? set : "", G_SEARCHPATH_SEPARATOR_S, -1);
  if (!g_strv_contains ((const gchar *const *) have, dirs)) {
    g_autofree gchar *path = set && *set ? g_strjoin (G_SEARCHPATH_SEPARATOR_S, set, dirs, NULL) : g_strdup (dirs);

    g_setenv ("GST_PLUGIN_PATH_1_0", path, TRUE);
  }
  kd_tool_own_registry ();
  gst_init (NULL, NULL);
}

gchar **
kd_tool_data_dirs (void)
{
  g_autoptr (GStrvBuilder) builder = g_strv_builder_new ();
  g_autofree gchar *root = kd_tool_build_root ();
  g_autofree gchar *prefix = NULL, *shared = NULL;

  if (root)
    g_strv_builder_add (builder, KD_SOURCE_ROOT "/pipelines");
  prefix = kd_tool_prefix ();
  shared = g_build_filename (prefix, KD_DATADIR, "kdstream", "pipelines", NULL);
  g_strv_builder_add (builder, shared);
  return g_strv_builder_end (builder);
}

/* Damerau-Levenshtein (neighbouring letters swapped count once), bounded words. */
static guint
kd_edit_distance (const gchar *a, const gchar *b)
{
  guint rows[3][65], n = (guint) strlen (a), m = (guint) strlen (b);

  if (n > 64 || m > 64)
    return G_MAXUINT;
  for (guint j = 0; j <= m; j++)
    rows[0][j] = j;
  for (guint i = 1; i <= n; i++) {
    guint *now = rows[i % 3], *last = rows[(i + 2) % 3], *before = rows[(i + 1) % 3];

    now[0] = i;
    for (guint j = 1; j <= m; j++) {
      guint cost = MIN (MIN (last[j] + 1, now[j - 1] + 1), last[j - 1] + (a[i - 1] != b[j - 1]));

      if (i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1])
        cost = MIN (cost, before[j - 2] + 1);
      now[j] = cost;
    }
  }
  return rows[n % 3][m];
}

const gchar *
kd_tool_closest (const gchar *word, const gchar *const *names)
{
  const gchar *best = NULL;
  guint best_distance = (guint) strlen (word) / 3 + 1; /* more than a third wrong is another word */

  for (; *names; names++) {
    guint distance = kd_edit_distance (word, *names);

    if (distance < best_distance || (distance == best_distance && !best)) {
      best = *names;
      best_distance = distance;
    }
  }
  return best;
}

gboolean
kd_tool_is_terminal (FILE *file)
{
  const gchar *term = g_getenv ("TERM");

  return isatty (fileno (file)) && term && !g_str_equal (term, "dumb");
}

gchar *
kd_tool_number (gdouble value)
{
  if (!isfinite (value))
    return g_strdup (isnan (value) ? "nan" : value > 0 ? "inf"
                                                       : "-inf");
  if (fabs (value) < 1e9 && value == floor (value))
    return g_strdup_printf ("%.0f", value);
  if (fabs (value) >= 0.001 && fabs (value) < 1e6) {
    gint digits = 3 - (gint) floor (log10 (fabs (value)));
    gchar *text = g_strdup_printf ("%.*f", CLAMP (digits, 0, 6), value);

    if (strchr (text, '.')) /* no zeros that say nothing */
      while (strchr ("0.", text[strlen (text) - 1])) {
        gboolean point = text[strlen (text) - 1] == '.';

        text[strlen (text) - 1] = 0;
        if (point)
          break;
      }
    return text;
  }
  return g_strdup_printf ("%.3e", value);
}

gchar *
kd_tool_duration (gdouble seconds)
{
  guint64 s = (guint64) (seconds + 0.5);

  if (seconds < 10)
    return g_strdup_printf ("%.1f s", seconds);
  if (s < 60)
    return g_strdup_printf ("%" G_GUINT64_FORMAT " s", s);
  if (s < 3600)
    return g_strdup_printf ("%u:%02u", (guint) (s / 60), (guint) (s % 60));
  return g_strdup_printf ("%u:%02u:%02u", (guint) (s / 3600), (guint) (s / 60 % 60), (guint) (s % 60));
}

void
kd_tool_remove (const gchar *path)
{
  g_autoptr (GDir) dir = g_file_test (path, G_FILE_TEST_IS_SYMLINK) ? NULL : g_dir_open (path, 0, NULL);
  const gchar *name;

  while (dir && (name = g_dir_read_name (dir))) {
    g_autofree gchar *below = g_build_filename (path, name, NULL);

    kd_tool_remove (below);
  }
  g_remove (path);
}
