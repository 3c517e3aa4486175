/* kd data: get, import and look at data sets. Each subcommand is a file in tools/data/. */
#include "data/kd-data.h"

typedef struct {
  const gchar *name;
  int (*run) (int argc, char **argv);
  const gchar *what;
} Command;

static const Command commands[] = {
  { "import", kd_data_import, "read CSV, IDX, npy, npz, images or JSON lines into a batch file" },
  { "info", kd_data_info, "show fields, types, shapes, storage, attributes, label counts" },
  { "head", kd_data_head, "show the first rows" },
  { "convert", kd_data_convert, "choose fields and rows, change types, compress" },
  { "get", kd_data_get, "get a known data set, checked" },
};

static void
print_help (void)
{
  g_print ("Usage: kd data COMMAND [OPTION...]\n\nGet, import and look at data sets (batch files in HDF5).\n\nCommands:\n");
  for (guint i = 0; i < G_N_ELEMENTS (commands); i++)
    g_print ("  %-8s %s\n", commands[i].name, commands[i].what);
  g_print ("\nkd data COMMAND --help shows a command's options.\n");
}

int
kd_tool_data (int argc, char **argv)
{
  const gchar *names[G_N_ELEMENTS (commands) + 1] = { NULL }, *near;

  if (argc < 2) {
    print_help ();
    return KD_EXIT_USAGE;
  }
  if (g_str_equal (argv[1], "--help") || g_str_equal (argv[1], "-h")) {
    print_help ();
    return KD_EXIT_DONE;
  }
  for (guint i = 0; i < G_N_ELEMENTS (commands); i++) {
    names[i] = commands[i].name;
    if (g_str_equal (argv[1], commands[i].name)) {
      g_autofree gchar *name = g_strdup_printf ("kd data %s", argv[1]);
      g_set_prgname (name);
      return commands[i].run (argc - 1, argv + 1);
    }
  }
  near = kd_tool_closest (argv[1], names);
  return near ? kd_tool_usage ("there is no command %s; did you mean %s?", argv[1], near) : kd_tool_usage ("there is no command %s", argv[1]);
}
