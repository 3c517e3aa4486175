/* kd: the dispatcher. Each subcommand is one kd-NAME.c; this file finds it, and says so when there is none. */
#include "kd-tool.h"
#include <locale.h>
#include <string.h>

typedef struct {
  const gchar *name;
  int (*run) (int argc, char **argv);
  const gchar *what;
} KdCommand;

static const KdCommand kd_commands[] = {
  { "launch", kd_tool_launch, "run a pipeline, with progress, clear errors and a report" },
  { "inspect", kd_tool_inspect, "list the elements; show one with its fields, formula and properties" },
  { "run", kd_tool_run, "run a recipe over several seeds and compare methods" },
  { "cache", kd_tool_cache, "look at, check and pack teacher caches" },
  { "data", kd_tool_data, "get, import and look at data sets" },
  { "report", kd_tool_report, "draw a run's report page again, or several runs on one page" },
  { "vectors", kd_tool_vectors, "check elements against files of reference numbers" },
  { "bench", kd_tool_bench, "measure overhead and training speed beside a peer" },
  { "plugin", kd_tool_plugin, "start a plugin project of your own" },
};

static void
kd_print_help (void)
{
  g_print ("Usage: kd COMMAND [OPTION...]\n\n"
           "Distil knowledge from teacher models into students, as GStreamer pipelines.\n\nCommands:\n");
  for (guint i = 0; i < G_N_ELEMENTS (kd_commands); i++)
    g_print ("  %-9s %s\n", kd_commands[i].name, kd_commands[i].what);
  g_print ("\nOptions:\n  -h, --help     show this help; kd COMMAND --help shows a command's\n"
           "  --version      show the version\n\n"
           "Start here:\n  kd run hinton --seeds 5      a student alone against the same student with a teacher\n"
           "  kd inspect                   what a pipeline can be made of\n\n"
           "Exit codes: 0 done, 1 the run failed, 2 wrong usage, 130 interrupted.\n");
}

static int
kd_unknown (const gchar *word)
{
  const gchar *names[G_N_ELEMENTS (kd_commands) + 1] = { NULL };
  const gchar *near;

  for (guint i = 0; i < G_N_ELEMENTS (kd_commands); i++)
    names[i] = kd_commands[i].name;
  near = kd_tool_closest (word, names);
  if (near)
    g_printerr ("kd: there is no command '%s'; did you mean '%s'?\n", word, near);
  else
    g_printerr ("kd: there is no command '%s'; kd --help lists them\n", word);
  return KD_EXIT_USAGE;
}

int
main (int argc, char **argv)
{
  setlocale (LC_CTYPE, ""); /* not LC_NUMERIC: files and messages write numbers with a point */
  g_set_prgname ("kd");
  if (argc < 2) {
    kd_print_help ();
    return KD_EXIT_USAGE;
  }
  if (g_str_equal (argv[1], "--help") || g_str_equal (argv[1], "-h") || g_str_equal (argv[1], "help")) {
    kd_print_help ();
    return KD_EXIT_DONE;
  }
  if (g_str_equal (argv[1], "--version")) {
    g_print ("kd (kdstream) %s\n", KD_VERSION);
    return KD_EXIT_DONE;
  }
  for (guint i = 0; i < G_N_ELEMENTS (kd_commands); i++)
    if (g_str_equal (argv[1], kd_commands[i].name)) {
      g_autofree gchar *name = g_strdup_printf ("kd %s", argv[1]);

      g_set_prgname (name);
      return kd_commands[i].run (argc - 1, argv + 1);
    }
  return kd_unknown (argv[1]);
}
