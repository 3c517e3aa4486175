/* kd vectors: every case file below a folder through the element that it names. */
#include "kd-tool.h"

#include <kd/kd.h>
#include <string.h>

static gchar *aliases_path;
static gboolean quiet, verbose;

static const GOptionEntry entries[] = {
  { "aliases", 'a', 0, G_OPTION_ARG_FILENAME, &aliases_path, "Lines NAME ELEMENT: cases of NAME run through ELEMENT", "FILE" },
  { "quiet", 'q', 0, G_OPTION_ARG_NONE, &quiet, "Only cases that fail, and the summary", NULL },
  { "verbose", 'v', 0, G_OPTION_ARG_NONE, &verbose, "Every field of every case", NULL },
  { NULL }
};

typedef struct {
  guint n[4];         /* by verdict */
  GPtrArray *missing; /* names of elements, once each */
} Tally;

static void
tally_missing (Tally *tally, const gchar *element)
{
  if (!g_ptr_array_find_with_equal_func (tally->missing, element, g_str_equal, NULL))
    g_ptr_array_add (tally->missing, g_strdup (element));
}

static void
print_result (const KdVectorResult *result)
{
  static const gchar *const words[] = { "pass", "FAIL", "skip", "skip" };
  g_autofree gchar *through = NULL;

  if (quiet && result->verdict != KD_VECTOR_FAILED)
    return;
  if (result->ran && !g_str_equal (result->ran, result->element))
    through = g_strdup_printf (" (runs %s)", result->ran);
  g_print ("%s  %s  %s%s", words[result->verdict], result->path, result->element, through ? through : "");
  if (result->worst)
    g_print ("  error %.2e in %s", result->error, result->worst);
  g_print ("%s%s\n", result->message ? "  " : "", result->message ? result->message : "");
  for (guint i = 0; verbose && i < result->fields->len; i++) {
    const KdVectorField *field = g_ptr_array_index (result->fields, i);
    g_print ("      %s  %s  error %.2e\n", field->passed ? "pass" : "FAIL", field->name, field->error);
  }
}

static void
run_case (const gchar *path, GHashTable *aliases, Tally *tally)
{
  g_autoptr (GError) error = NULL;
  g_autoptr (KdVectorResult) result = kd_vector_run (path, aliases, &error);

  if (!result) {
    g_print ("FAIL  %s  %s\n", path, error->message);
    tally->n[KD_VECTOR_FAILED]++;
    return;
  }
  tally->n[result->verdict]++;
  if (result->verdict == KD_VECTOR_MISSING)
    tally_missing (tally, result->element);
  print_result (result);
}

static void
print_summary (const Tally *tally)
{
  g_print ("%u passed, %u failed, %u skipped", tally->n[KD_VECTOR_PASSED], tally->n[KD_VECTOR_FAILED],
      tally->n[KD_VECTOR_MISSING] + tally->n[KD_VECTOR_UNSUPPORTED]);
  if (tally->missing->len > 0) {
    g_ptr_array_add (tally->missing, NULL);
    g_autofree gchar *names = g_strjoinv (", ", (gchar **) tally->missing->pdata);
    g_print (" (%u element missing: %s", tally->n[KD_VECTOR_MISSING], names);
    g_print (tally->n[KD_VECTOR_UNSUPPORTED] ? "; %u not supported by this build)" : ")", tally->n[KD_VECTOR_UNSUPPORTED]);
  } else if (tally->n[KD_VECTOR_UNSUPPORTED]) {
    g_print (" (not supported by this build)");
  }
  g_print ("\n");
}

/* The list beside the recipes of this source tree or installation, unless another one is given. */
static gchar *
find_aliases (void)
{
  static const gchar *const places[] = { "tests/vectors/aliases", "vectors/aliases" };
  g_auto (GStrv) dirs = kd_tool_data_dirs ();

  if (aliases_path)
    return g_strdup (aliases_path);
  for (guint i = 0; dirs[i]; i++)
    for (guint j = 0; j < G_N_ELEMENTS (places); j++) {
      g_autofree gchar *parent = g_path_get_dirname (dirs[i]), *path = g_build_filename (parent, places[j], NULL);
      if (g_file_test (path, G_FILE_TEST_EXISTS))
        return g_steal_pointer (&path);
    }
  return NULL;
}

int
kd_tool_vectors (int argc, char **argv)
{
  g_autoptr (GHashTable) aliases = NULL;
  g_autoptr (GPtrArray) missing = g_ptr_array_new_with_free_func (g_free);
  g_autoptr (GError) error = NULL;
  g_autofree gchar *found = NULL;
  Tally tally = { .missing = missing };

  if (!kd_tool_options (&argc, &argv, entries, "FOLDER|FILE...",
          "Run files of reference numbers through the elements that they name, a line each: the largest error\n"
          "relative to the field's largest expected magnitude.",
          "Example:\n  kd vectors tests/vectors"))
    return KD_EXIT_USAGE;
  if (argc < 2)
    return kd_tool_usage ("which folder or file?");
  kd_tool_init ();
  found = find_aliases ();
  aliases = found ? kd_vector_aliases_load (found, &error) : NULL;
  if (error)
    return kd_tool_fail ("%s", error->message);
  for (int i = 1; i < argc; i++) {
    g_autoptr (GPtrArray) paths = kd_vector_find (argv[i], &error);
    if (!paths)
      return kd_tool_fail ("%s", error->message);
    for (guint j = 0; j < paths->len; j++)
      run_case (g_ptr_array_index (paths, j), aliases, &tally);
  }
  if (tally.n[0] + tally.n[1] + tally.n[2] + tally.n[3] == 0)
    return kd_tool_fail ("no case file (*.h5) below \"%s\"", argv[1]);
  print_summary (&tally);
  return tally.n[KD_VECTOR_FAILED] ? KD_EXIT_FAILED : KD_EXIT_DONE;
}
