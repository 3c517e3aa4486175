/* From a recipe's words to what is run: ${...}, the data, the folders. */
#include "kd-recipe.h"
#include <kd/kd.h>
#include <string.h>

#define KD_MAX_DEPTH 8
#define KD_MAX_NAMES 4096 /* of one text, those in parameters' values among them: they multiply from level to level */
#define KD_MAX_TEXT (1024 * 1024)

static void
kd_list_recipes (const gchar *dir, GPtrArray *names)
{
  g_autoptr (GDir) listing = g_dir_open (dir, 0, NULL);
  const gchar *name;

  while (listing && (name = g_dir_read_name (listing)))
    if (g_str_has_suffix (name, ".kd"))
      g_ptr_array_add (names, g_strndup (name, strlen (name) - 3));
}

gchar *
kd_recipe_find (const gchar *word, GError **error)
{
  g_auto (GStrv) dirs = kd_tool_data_dirs ();
  g_autoptr (GPtrArray) names = g_ptr_array_new_with_free_func (g_free);
  const gchar *near;

  if (strchr (word, '/') || g_str_has_suffix (word, ".kd") || g_file_test (word, G_FILE_TEST_IS_REGULAR))
    if (g_file_test (word, G_FILE_TEST_IS_REGULAR))
      return g_strdup (word);
  for (guint i = 0; dirs[i]; i++) {
    g_autofree gchar *base = g_path_get_basename (word);
    g_autofree gchar *file = g_strconcat (base, g_str_has_suffix (base, ".kd") ? "" : ".kd", NULL);
    g_autofree gchar *path = g_build_filename (dirs[i], file, NULL);

    if (!strchr (word, '/') && g_file_test (path, G_FILE_TEST_IS_REGULAR))
      return g_steal_pointer (&path);
    kd_list_recipes (dirs[i], names);
  }
  g_ptr_array_add (names, NULL);
  near = kd_tool_closest (word, (const gchar *const *) names->pdata);
  g_set_error (error, KD_ERROR, KD_ERROR_IO, "There is no recipe: recipe=\"%s\"; %s%s%s", word, near ? "did you mean " : "give a path to a .kd file; kd run --list shows those that are shipped",
      near ? near : "", near ? "?" : "");
  return NULL;
}

gchar *
kd_recipe_data (const KdRecipe *recipe, GError **error)
{
  g_autoptr (GPtrArray) dirs = g_ptr_array_new_with_free_func (g_free);
  g_auto (GStrv) shipped = kd_tool_data_dirs (), named = g_strsplit (g_getenv ("KD_DATA_PATH") ? g_getenv ("KD_DATA_PATH") : "", G_SEARCHPATH_SEPARATOR_S, -1);
  g_autofree gchar *text = NULL;

  if (!recipe->data) {
    g_set_error (error, KD_ERROR, KD_ERROR_SCHEMA, "Recipe uses ${data}: path=\"%s\", group=[recipe], missing=data; write data=FILE there",
        recipe->path);
    return NULL;
  }
  g_ptr_array_add (dirs, g_strdup (recipe->dir));
  g_ptr_array_add (dirs, g_build_filename (recipe->dir, "data", NULL));
  for (guint i = 0; named[i]; i++)
    if (*named[i])
      g_ptr_array_add (dirs, g_strdup (named[i]));
  g_ptr_array_add (dirs, g_build_filename (g_get_user_data_dir (), "kdstream", NULL)); /* where kd data get puts what it fetched */
  for (guint i = 0; shipped[i]; i++)
    g_ptr_array_add (dirs, g_build_filename (shipped[i], "data", NULL));
  for (guint i = 0; i < dirs->len; i++) {
    g_autofree gchar *path = g_canonicalize_filename (recipe->data, dirs->pdata[i]);

    if (g_file_test (path, G_FILE_TEST_EXISTS))
      return g_steal_pointer (&path);
  }
  g_ptr_array_add (dirs, NULL);
  text = g_strjoinv (" ", (gchar **) dirs->pdata);
  g_set_error (error, KD_ERROR, KD_ERROR_IO,
      "Data not found: recipe=\"%s\", data=\"%s\", looked in: %s; set KD_DATA_PATH to the folder that has it, or see kd data get --help",
      recipe->path, recipe->data, text);
  return NULL;
}

gchar *
kd_recipe_folder (const gchar *output, const KdRecipeStep *step, gint64 seed)
{
  g_autofree gchar *group = step->once ? g_strdup ("once") : g_strdup_printf ("seed-%" G_GINT64_FORMAT, seed);

  return g_build_filename (output, group, step->name, NULL);
}

typedef struct {
  const KdRecipe *recipe;
  const KdRecipeStep *step;
  const gchar *key, *output;
  gint64 seed;
  guint *n_names; /* replaced so far */
} KdExpand;

/* A path as one word of a pipeline or of a command, whatever is in it. */
static gchar *
kd_escape_path (gchar *path)
{
  g_autoptr (GString) out = g_string_new (NULL);
  g_autofree gchar *own = path;

  for (const gchar *c = own; own && *c; c++) {
    if (strchr (" \t\"'\\!()", *c))
      g_string_append_c (out, '\\');
    g_string_append_c (out, *c);
  }
  return own ? g_string_free (g_steal_pointer (&out), FALSE) : NULL;
}

static gchar *kd_expand_text (const KdExpand *expand, const gchar *text, guint depth, GError **error);

static gchar *
kd_expand_fail (const KdExpand *expand, GError **error, const gchar *name, const gchar *advice)
{
  g_set_error (error, KD_ERROR, KD_ERROR_SCHEMA, "Recipe step: path=\"%s\", group=[step.%s], key=%s, unknown=${%s}; %s", expand->recipe->path,
      expand->step->name, expand->key,
      name, advice);
  return NULL;
}

static gchar *
kd_expand_step (const KdExpand *expand, const gchar *name, GError **error)
{
  const gchar *needed = name + strlen ("step.");
  KdRecipeStep *step = kd_recipe_step (expand->recipe, needed);
  g_autofree gchar *advice = NULL;

  /* Only of a step that is needed: else its folder may be empty or old when this one runs. */
  if (step && expand->step->needs && g_strv_contains ((const gchar *const *) expand->step->needs, needed))
    return kd_escape_path (kd_recipe_folder (expand->output, step, expand->seed));
  advice = g_strdup_printf (step ? "add %s to the step's needs" : "there is no step %s", needed);
  return kd_expand_fail (expand, error, name, advice);
}

static gchar *
kd_expand_name (const KdExpand *expand, const gchar *name, guint depth, GError **error)
{
  static const gchar *const own[] = { "seed", "out", "data", "recipe" };
  const gchar *value = g_hash_table_lookup (expand->recipe->params, name);
  g_autofree gpointer *keys = NULL;
  g_autoptr (GPtrArray) names = NULL;
  g_autofree gchar *advice = NULL;
  const gchar *near;

  if (value)
    return kd_expand_text (expand, value, depth + 1, error);
  if (g_str_equal (name, "seed"))
    return g_strdup_printf ("%" G_GINT64_FORMAT, expand->step->once ? 0 : expand->seed);
  if (g_str_equal (name, "out"))
    return kd_escape_path (kd_recipe_folder (expand->output, expand->step, expand->seed));
  if (g_str_equal (name, "data"))
    return kd_escape_path (kd_recipe_data (expand->recipe, error));
  if (g_str_equal (name, "recipe"))
    return kd_escape_path (g_strdup (expand->recipe->dir));
  if (g_str_has_prefix (name, "step."))
    return kd_expand_step (expand, name, error);
  keys = g_hash_table_get_keys_as_array (expand->recipe->params, NULL);
  names = g_ptr_array_new ();
  for (guint i = 0; keys[i]; i++)
    g_ptr_array_add (names, keys[i]);
  for (guint i = 0; i < G_N_ELEMENTS (own); i++)
    g_ptr_array_add (names, (gpointer) own[i]);
  g_ptr_array_add (names, NULL);
  near = kd_tool_closest (name, (const gchar *const *) names->pdata);
  advice = near ? g_strdup_printf ("did you mean ${%s}?", near) : g_strdup_printf ("write %s=VALUE in [param]", name);
  return kd_expand_fail (expand, error, name, advice);
}

static gchar *
kd_expand_text (const KdExpand *expand, const gchar *text, guint depth, GError **error)
{
  g_autoptr (GString) out = g_string_new (NULL);
  const gchar *at;

  if (depth > KD_MAX_DEPTH)
    return kd_expand_fail (expand, error, text, "parameters name each other in a circle");
  while ((at = strstr (text, "${"))) {
    const gchar *end = strchr (at, '}');
    g_autofree gchar *name = end ? g_strndup (at + 2, (gsize) (end - at - 2)) : NULL;
    g_autofree gchar *value = NULL;

    if (!end)
      return kd_expand_fail (expand, error, at + 2, "a } is missing");
    if (++*expand->n_names > KD_MAX_NAMES)
      return kd_expand_fail (expand, error, name, "parameters name each other more than 4096 times");
    value = kd_expand_name (expand, name, depth, error);
    if (!value)
      return NULL;
    g_string_append_len (out, text, at - text);
    g_string_append (out, value);
    if (out->len > KD_MAX_TEXT)
      return kd_expand_fail (expand, error, name, "what it stands for makes the text longer than 1 MiB");
    text = end + 1;
  }
  g_string_append (out, text);
  return g_string_free (g_steal_pointer (&out), FALSE);
}

gchar *
kd_recipe_expand (const KdRecipe *recipe, const KdRecipeStep *step, const gchar *key, const gchar *text, gint64 seed, const gchar *output,
    GError **error)
{
  guint n_names = 0;
  KdExpand expand = { recipe, step, key, output, seed, &n_names };

  return kd_expand_text (&expand, text, 0, error);
}
