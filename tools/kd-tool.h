/* What the subcommands of `kd` share: one entry point each, exit codes, options, messages, GStreamer's start. */
#pragma once
#include <glib.h>
#include <stdio.h>

G_BEGIN_DECLS

/* Exit codes: the same for every subcommand. */
enum { KD_EXIT_DONE = 0,
  KD_EXIT_FAILED = 1,
  KD_EXIT_USAGE = 2,
  KD_EXIT_INTERRUPTED = 130 };

/* The subcommands. argv[0] is the subcommand's name; the program's name (g_get_prgname) is "kd NAME" then. */
int kd_tool_launch (int argc, char **argv);
int kd_tool_inspect (int argc, char **argv);
int kd_tool_run (int argc, char **argv);
int kd_tool_cache (int argc, char **argv);
int kd_tool_data (int argc, char **argv);
int kd_tool_report (int argc, char **argv);
int kd_tool_vectors (int argc, char **argv);
int kd_tool_bench (int argc, char **argv);
int kd_tool_plugin (int argc, char **argv);

/**
 * kd_tool_options: parse options anywhere on the command line; what is left stays in @argv (argv[0] is kept).
 * @parameters: "PIPELINE"; @summary: what it does, two lines at most; @details: examples
 * Returns FALSE after printing why; the caller returns KD_EXIT_USAGE then. --help prints and exits.
 */
gboolean kd_tool_options (int *argc, char ***argv, const GOptionEntry *entries, const gchar *parameters, const gchar *summary,
    const gchar *details);

/** kd_tool_usage: print "kd NAME: message" and where the help is; returns KD_EXIT_USAGE. */
int kd_tool_usage (const gchar *format, ...) G_GNUC_PRINTF (1, 2);
/** kd_tool_fail: print "kd NAME: message"; returns KD_EXIT_FAILED. */
int kd_tool_fail (const gchar *format, ...) G_GNUC_PRINTF (1, 2);

/** kd_tool_init: let GStreamer see the plugins of this build or installation, then gst_init. Call it once options are parsed. */
void kd_tool_init (void);
/** kd_tool_data_dirs: (transfer full) where shipped recipes and data are: the source tree's pipelines/ or the installed folder. */
gchar **kd_tool_data_dirs (void);
/** kd_tool_self: (transfer full) path of this program, for child processes. */
gchar *kd_tool_self (void);

/** kd_tool_closest: the name nearest to @word by edits, or NULL when none is near. @names ends with NULL. */
const gchar *kd_tool_closest (const gchar *word, const gchar *const *names);
/** kd_tool_is_terminal: whether @file is a terminal that takes colours and carriage returns. */
gboolean kd_tool_is_terminal (FILE *file);
/** kd_tool_number: (transfer full) a number as people write it: 4 significant digits, integers whole. */
gchar *kd_tool_number (gdouble value);
/** kd_tool_duration: (transfer full) "12 s", "3:05", "1:02:03". */
gchar *kd_tool_duration (gdouble seconds);
/** kd_tool_remove: a file, or a folder with all that is in it; links are not followed. */
void kd_tool_remove (const gchar *path);

G_END_DECLS
