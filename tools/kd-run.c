/* kd run: options; from finished steps to rows of the table. */
#include "kd-recipe.h"
#include <kd/kd.h>
#include <math.h>
#include <string.h>

static KdRecipeOptions kd_options;

static const GOptionEntry kd_entries[] = {
  { "seeds", 's', 0, G_OPTION_ARG_INT, &kd_options.seeds, "How many seeds (default: what the recipe says)", "N" },
  { "first-seed", 0, 0, G_OPTION_ARG_INT, &kd_options.first_seed, "The first of them (default 1)", "N" },
  { "set", 0, 0, G_OPTION_ARG_STRING_ARRAY, &kd_options.sets, "Replace a value of the recipe's [param]; may be given again", "NAME=VALUE" },
  { "steps", 0, 0, G_OPTION_ARG_STRING, &kd_options.steps, "Only these steps and what they need", "A,B" },
  { "output", 'o', 0, G_OPTION_ARG_FILENAME, &kd_options.output, "Where everything goes (default kd-runs/RECIPE)", "DIR" },
  { "keep-going", 'k', 0, G_OPTION_ARG_NONE, &kd_options.keep_going, "A failed step ends its seed only", NULL },
  { "keep", 0, G_OPTION_FLAG_HIDDEN, G_OPTION_ARG_NONE, &kd_options.keep_going, NULL, NULL },
  { "list", 'l', 0, G_OPTION_ARG_NONE, &kd_options.list, "Show the recipe's steps, or without a recipe those that are shipped", NULL },
  { "quiet", 'q', 0, G_OPTION_ARG_NONE, &kd_options.quiet, "Print the table and errors only", NULL },
  { NULL }
};

static gint
kd_by_name (gconstpointer a, gconstpointer b)
{
  return strcmp (*(const gchar *const *) a, *(const gchar *const *) b);
}

/* The recipes of @dir, by name. */
static void
kd_list_folder (const gchar *dir)
{
  g_autoptr (GDir) listing = g_dir_open (dir, 0, NULL);
  g_autoptr (GPtrArray) names = g_ptr_array_new_with_free_func (g_free);
  const gchar *name;

  while (listing && (name = g_dir_read_name (listing)))
    if (g_str_has_suffix (name, ".kd"))
      g_ptr_array_add (names, g_strdup (name));
  g_ptr_array_sort (names, kd_by_name);
  for (guint i = 0; i < names->len; i++) {
    g_autofree gchar *path = g_build_filename (dir, names->pdata[i], NULL), *shown = g_strndup (names->pdata[i], strcspn (names->pdata[i], "."));
    g_autoptr (GError) error = NULL;
    g_autoptr (KdRecipe) recipe = kd_recipe_read (path, NULL, &error);

    g_print ("  %-20s %s\n", recipe ? recipe->name : shown, recipe ? recipe->title : error->message);
  }
}

static int
kd_list_shipped (void)
{
  g_auto (GStrv) dirs = kd_tool_data_dirs ();

  for (guint i = 0; dirs[i]; i++)
    kd_list_folder (dirs[i]);
  return KD_EXIT_DONE;
}

/* A name that stands for nothing is found before the first step has taken its hour. */
static gboolean
kd_check_names (const KdRecipe *recipe, GError **error)
{
  for (guint i = 0; i < recipe->steps->len; i++) {
    const KdRecipeStep *step = recipe->steps->pdata[i];
    const gchar *keys[] = { "pipeline", "evaluate", "tool" }, *texts[] = { step->pipeline, step->evaluate, step->tool };

    for (guint k = 0; k < 3; k++) {
      g_autoptr (GError) local = NULL;
      g_autofree gchar *text = texts[k] ? kd_recipe_expand (recipe, step, keys[k], texts[k], 1, "OUTPUT", &local) : NULL;

      if (local && !g_error_matches (local, KD_ERROR, KD_ERROR_IO)) {
        g_propagate_error (error, g_steal_pointer (&local));
        return FALSE;
      }
    }
  }
  return TRUE;
}

static int
kd_list_steps (const KdRecipe *recipe)
{
  g_print ("%s\n%s%s", recipe->title, recipe->paper ? recipe->paper : "", recipe->paper ? "\n" : "");
  for (guint i = 0; i < recipe->steps->len; i++) {
    const KdRecipeStep *step = recipe->steps->pdata[i];
    g_autofree gchar *needs = step->needs ? g_strjoinv (", ", step->needs) : NULL;
    const gchar *keys[] = { "pipeline", "evaluate", "tool" }, *texts[] = { step->pipeline, step->evaluate, step->tool };

    g_print ("\n%s (%s%s%s)\n", step->name, step->once ? "once" : "each seed", needs ? "; after " : "", needs ? needs : "");
    for (guint k = 0; k < 3; k++) {
      g_autoptr (GError) error = NULL;
      g_autofree gchar *text = texts[k] ? kd_recipe_expand (recipe, step, keys[k], texts[k], 1, "OUTPUT", &error) : NULL;

      if (error) /* data that is not here yet: show the words as they are */
        text = g_strdup (texts[k]);
      if (text)
        g_print ("  %s: %s\n", keys[k], text);
    }
  }
  return KD_EXIT_DONE;
}

/* The value of the recipe's metric in a step's metrics: of the only element that has it, or of the one it names. */
static gboolean
kd_find_metric (const gchar *metric, JsonObject *metrics, gdouble *ret, GError **error)
{
  g_autoptr (GList) elements = json_object_get_members (metrics);
  const gchar *dot = strchr (metric, '.'), *field = dot ? dot + 1 : metric;
  guint n = 0;

  for (GList *l = elements; l; l = l->next) {
    JsonObject *values = json_object_get_object_member (metrics, l->data);

    if (!json_object_has_member (values, field) || (dot && (strlen (l->data) != (gsize) (dot - metric) || !g_str_has_prefix (metric, l->data))))
      continue;
    *ret = json_object_get_double_member (values, field);
    n++;
  }
  if (n == 1)
    return TRUE;
  if (n > 1)
    g_set_error (error, KD_ERROR, KD_ERROR_FIELD, "several elements report %s; write metric=ELEMENT.%s", metric, field);
  else
    g_set_error (error, KD_ERROR, KD_ERROR_FIELD, "no element reports %s; is kdmetrics in its pipeline?", metric);
  return FALSE;
}

static gboolean
kd_add_row (KdResult *result, const gchar *name, const gchar *role, GError **error)
{
  KdResultRow row = { kd_recipe_step (result->recipe, name), role, g_new (gdouble, result->n_seeds) };

  for (guint s = 0; s < result->n_seeds; s++)
    row.values[s] = NAN;
  g_array_append_val (result->rows, row);
  for (guint i = 0; i < json_array_get_length (result->runs); i++) {
    JsonObject *run = json_array_get_object_element (result->runs, i);
    gint64 seed = json_object_get_int_member (run, "seed");
    gdouble value;

    if (!g_str_equal (json_object_get_string_member (run, "step"), name) || !g_str_equal (json_object_get_string_member (run, "status"), "done"))
      continue;
    if (!kd_find_metric (result->recipe->metric, json_object_get_object_member (run, "metrics"), &value, error)) {
      g_prefix_error (error, "Nothing to compare: path=\"%s\", group=[compare], key=metric, step=%s; ", result->recipe->path, name);
      return FALSE;
    }
    for (guint s = 0; s < result->n_seeds; s++)
      if (row.step->once || seed == result->first_seed + s)
        row.values[s] = value;
  }
  return TRUE;
}

static gboolean
kd_fill_rows (KdResult *result, GError **error)
{
  const KdRecipe *recipe = result->recipe;

  if (!kd_add_row (result, recipe->baseline, "baseline", error))
    return FALSE;
  for (guint i = 0; recipe->methods && recipe->methods[i]; i++)
    if (!kd_add_row (result, recipe->methods[i], "method", error))
      return FALSE;
  for (guint i = 0; recipe->ablations && recipe->ablations[i]; i++)
    if (!kd_add_row (result, recipe->ablations[i], "ablation", error))
      return FALSE;
  for (guint i = 0; recipe->references && recipe->references[i]; i++)
    if (!kd_add_row (result, recipe->references[i], "reference", error))
      return FALSE;
  return TRUE;
}

static void
kd_row_clear (gpointer data)
{
  g_free (((KdResultRow *) data)->values);
}

static int
kd_run_and_compare (const KdRecipe *recipe)
{
  KdResult result = { .recipe = recipe };
  g_autoptr (GError) error = NULL;
  int code;

  result.output = kd_options.output ? g_canonicalize_filename (kd_options.output, NULL) : g_strconcat ("kd-runs/", recipe->name, NULL);
  result.first_seed = MAX (kd_options.first_seed, 1);
  result.n_seeds = (guint) (kd_options.seeds ? kd_options.seeds : recipe->seeds);
  result.rows = g_array_new (FALSE, FALSE, sizeof (KdResultRow));
  g_array_set_clear_func (result.rows, kd_row_clear);
  result.runs = json_array_new ();
  if (!kd_options.quiet)
    printf ("%s%s%s%s\n", recipe->title, recipe->paper ? " (" : "", recipe->paper ? recipe->paper : "", recipe->paper ? ")" : "");
  code = kd_recipe_run (recipe, &kd_options, &result);
  if (code != KD_EXIT_INTERRUPTED && code != KD_EXIT_USAGE && (code == KD_EXIT_DONE || kd_options.keep_going)) {
    gboolean compares = recipe->baseline && !kd_options.steps;

    if ((compares && !kd_fill_rows (&result, &error)) || !kd_result_write (&result, &error))
      code = kd_tool_fail ("%s", error->message);
    else
      kd_result_print (&result);
  }
  g_array_unref (result.rows);
  json_array_unref (result.runs);
  g_free (result.output);
  return code;
}

int
kd_tool_run (int argc, char **argv)
{
  g_autoptr (GError) error = NULL;
  g_autoptr (KdRecipe) recipe = NULL;
  g_autofree gchar *path = NULL;

  if (!kd_tool_options (&argc, &argv, kd_entries, "RECIPE",
          "Run a recipe's steps for several seeds and compare its methods with the baseline.\n"
          "A step that is finished with the same inputs is not run again.",
          "RECIPE is a .kd file or the name of one that is shipped.\n\n"
          "Examples:\n  kd run --list\n  kd run hinton --seeds 5\n  kd run hinton --set temperature=2 --output runs/t2\n"))
    return KD_EXIT_USAGE;
  if (argc > 2)
    return kd_tool_usage ("one recipe at a time, not also '%s'", argv[2]);
  if (argc < 2)
    return kd_options.list ? kd_list_shipped () : kd_tool_usage ("no recipe was given; kd run --list shows those that are shipped");
  if (kd_options.seeds < 0 || kd_options.seeds > 10000 || kd_options.first_seed < 0)
    return kd_tool_usage ("--seeds takes a number from 1 to 10000, --first-seed one from 1 on");
  path = kd_recipe_find (argv[1], &error);
  recipe = path ? kd_recipe_read (path, kd_options.sets, &error) : NULL;
  if (!recipe || !kd_check_names (recipe, &error))
    return kd_tool_fail ("%s", error->message);
  return kd_options.list ? kd_list_steps (recipe) : kd_run_and_compare (recipe);
}
