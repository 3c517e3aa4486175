/* Reading a recipe: a key file, turned into the object that schemas/recipe.schema.json describes, checked, put in order. */
#include "kd-recipe.h"
#include "kd-schema.h"
#include <math.h>
#include <kd/kd.h>
#include <string.h>

#define KD_MAX_RECIPE_BYTES (1024 * 1024)

static void
kd_step_free (gpointer data)
{
  KdRecipeStep *step = data;

  g_free (step->name);
  g_free (step->title);
  g_free (step->pipeline);
  g_free (step->evaluate);
  g_free (step->tool);
  g_strfreev (step->needs);
  g_strfreev (step->metrics);
  g_free (step);
}

void
kd_recipe_free (KdRecipe *recipe)
{
  g_free (recipe->path);
  g_free (recipe->dir);
  g_free (recipe->name);
  g_free (recipe->title);
  g_free (recipe->paper);
  g_free (recipe->data);
  g_free (recipe->baseline);
  g_free (recipe->metric);
  g_strfreev (recipe->methods);
  g_strfreev (recipe->ablations);
  g_strfreev (recipe->references);
  g_clear_pointer (&recipe->params, g_hash_table_unref);
  g_clear_pointer (&recipe->steps, g_ptr_array_unref);
  g_free (recipe);
}

KdRecipeStep *
kd_recipe_step (const KdRecipe *recipe, const gchar *name)
{
  for (guint i = 0; i < recipe->steps->len; i++) {
    KdRecipeStep *step = recipe->steps->pdata[i];

    if (g_str_equal (step->name, name))
      return step;
  }
  return NULL;
}

/* "\" at a line's end joins the next one: key files have no other way to break a long pipeline. */
static gchar *
kd_join_lines (const gchar *text)
{
  g_autoptr (GRegex) regex = g_regex_new ("[ \\t]*\\\\\\r?\\n[ \\t]*", G_REGEX_RAW, 0, NULL);

  return g_regex_replace_literal (regex, text, -1, 0, " ", 0, NULL);
}

static GKeyFile *
kd_load_key_file (const gchar *path, GError **error)
{
  g_autoptr (GKeyFile) file = g_key_file_new ();
  g_autofree gchar *text = NULL, *joined = NULL;
  g_autoptr (GError) reason = NULL;
  gsize n;

  if (!g_file_get_contents (path, &text, &n, &reason)) {
    g_set_error (error, KD_ERROR, KD_ERROR_IO, "Cannot read recipe: %s", reason->message);
    return NULL;
  }
  if (n > KD_MAX_RECIPE_BYTES || memchr (text, 0, n) || !g_utf8_validate (text, (gssize) n, NULL)) {
    g_set_error (error, KD_ERROR, KD_ERROR_FORMAT, "Not a recipe: path=\"%s\", reason=it is no UTF-8 text of at most 1 MiB", path);
    return NULL;
  }
  joined = kd_join_lines (text);
  if (!g_key_file_load_from_data (file, joined, (gsize) -1, G_KEY_FILE_NONE, &reason)) {
    g_set_error (error, KD_ERROR, KD_ERROR_FORMAT,
        "Not a recipe: path=\"%s\", reason=%s; a recipe has groups such as [recipe] and [step.NAME] with key=value lines",
        path, reason->message);
    return NULL;
  }
  return g_steal_pointer (&file);
}

/* The type that the schema wants is the type that the text is read as; what does not read stays text, and the check refuses it. */
static JsonNode *
kd_typed_value (const gchar *key, const gchar *text)
{
  static const gchar *const lists[] = { "needs", "metrics", "method", "ablation", "reference", NULL };
  JsonNode *node = json_node_alloc ();
  gchar *end;
  gdouble number;

  if (g_strv_contains (lists, key)) {
    JsonArray *array = json_array_new ();
    g_auto (GStrv) items = g_strsplit (text, ";", -1);

    for (guint i = 0; items[i]; i++)
      if (*g_strstrip (items[i]))
        json_array_add_string_element (array, items[i]);
    json_node_init (node, JSON_NODE_ARRAY);
    json_node_take_array (node, array);
    return node;
  }
  number = g_ascii_strtod (text, &end);
  if ((g_str_equal (key, "higher-is-better") || g_str_equal (key, "percent")) && (g_str_equal (text, "true") || g_str_equal (text, "false")))
    return json_node_init_boolean (node, g_str_equal (text, "true"));
  if (g_str_equal (key, "minutes") && *text && !*end)
    return json_node_init_double (node, number);
  if (g_str_equal (key, "seeds") && *text && !*end && fabs (number) < 0x1p53 && number == floor (number)) /* what is not whole stays a text, refused later */
    return json_node_init_int (node, (gint64) number);
  return json_node_init_string (node, text);
}

static JsonObject *
kd_group_object (GKeyFile *file, const gchar *group, gboolean typed)
{
  JsonObject *object = json_object_new ();
  g_auto (GStrv) keys = g_key_file_get_keys (file, group, NULL, NULL);

  for (guint i = 0; keys && keys[i]; i++) {
    /* A value as it stands: pipelines have backslashes of their own. */
    g_autofree gchar *text = g_strstrip (g_key_file_get_value (file, group, keys[i], NULL));

    json_object_set_member (object, keys[i], typed ? kd_typed_value (keys[i], text) : json_node_init_string (json_node_alloc (), text));
  }
  return object;
}

static JsonObject *
kd_key_file_object (GKeyFile *file)
{
  JsonObject *object = json_object_new (), *steps = json_object_new ();
  g_auto (GStrv) groups = g_key_file_get_groups (file, NULL);

  for (guint i = 0; groups[i]; i++) {
    if (g_str_has_prefix (groups[i], "step."))
      json_object_set_object_member (steps, groups[i] + strlen ("step."), kd_group_object (file, groups[i], TRUE));
    else
      json_object_set_object_member (object, groups[i], kd_group_object (file, groups[i], !g_str_equal (groups[i], "param")));
  }
  if (json_object_get_size (steps) > 0)
    json_object_set_object_member (object, "step", steps);
  else
    json_object_unref (steps);
  return object;
}

static gchar **
kd_strv (JsonObject *object, const gchar *member)
{
  JsonArray *array = json_object_has_member (object, member) ? json_object_get_array_member (object, member) : NULL;
  g_autoptr (GStrvBuilder) builder = g_strv_builder_new ();

  if (!array)
    return NULL;
  for (guint i = 0; i < json_array_get_length (array); i++)
    g_strv_builder_add (builder, json_array_get_string_element (array, i));
  return g_strv_builder_end (builder);
}

static gchar *
kd_string (JsonObject *object, const gchar *member)
{
  return g_strdup (object ? json_object_get_string_member_with_default (object, member, NULL) : NULL);
}

static KdRecipeStep *
kd_step_new (const KdRecipe *recipe, const gchar *name, JsonObject *object, GError **error)
{
  KdRecipeStep *step = g_new0 (KdRecipeStep, 1);

  step->name = g_strdup (name);
  step->title = json_object_has_member (object, "title") ? kd_string (object, "title") : g_strdup (name);
  step->pipeline = kd_string (object, "pipeline");
  step->evaluate = kd_string (object, "evaluate");
  step->tool = kd_string (object, "tool");
  step->needs = kd_strv (object, "needs");
  step->metrics = kd_strv (object, "metrics");
  step->once = g_str_equal (json_object_get_string_member_with_default (object, "seeds", "each"), "once");
  if (!step->pipeline == !step->tool)
    g_set_error (error, KD_ERROR, KD_ERROR_SCHEMA, "Recipe step: path=\"%s\", group=[step.%s], %s; write one of pipeline= and tool=",
        recipe->path, name,
        step->pipeline ? "both pipeline and tool are set" : "neither pipeline nor tool is set");
  else if (step->tool && step->evaluate)
    g_set_error (error, KD_ERROR, KD_ERROR_SCHEMA,
        "Recipe step: path=\"%s\", group=[step.%s], key=evaluate; it goes with pipeline=, not with tool=", recipe->path, name);
  else
    return step;
  kd_step_free (step);
  return NULL;
}

static gboolean
kd_unknown_step (const KdRecipe *recipe, GPtrArray *steps, const gchar *group, const gchar *key, const gchar *name, GError **error)
{
  g_autoptr (GPtrArray) names = g_ptr_array_new ();
  const gchar *near;

  for (guint i = 0; i < steps->len; i++)
    g_ptr_array_add (names, ((KdRecipeStep *) steps->pdata[i])->name);
  g_ptr_array_add (names, NULL);
  near = kd_tool_closest (name, (const gchar *const *) names->pdata);
  g_set_error (error, KD_ERROR, KD_ERROR_SCHEMA, "Recipe step: path=\"%s\", group=[%s], key=%s, value=%s is no step%s%s%s", recipe->path, group,
      key, name,
      near ? "; did you mean " : "; add a group [step.NAME]", near ? near : "", near ? "?" : "");
  return FALSE;
}

/* Steps in an order in which each follows what it needs; among those that could be next the first one written is. */
static gboolean
kd_recipe_order (KdRecipe *recipe, GPtrArray *written, GError **error)
{
  for (guint i = 0; i < written->len; i++) {
    KdRecipeStep *step = written->pdata[i];
    g_autofree gchar *group = g_strconcat ("step.", step->name, NULL);

    for (guint k = 0; step->needs && step->needs[k]; k++) {
      KdRecipeStep *needed = NULL;

      for (guint j = 0; j < written->len && !needed; j++)
        needed = g_str_equal (((KdRecipeStep *) written->pdata[j])->name, step->needs[k]) ? written->pdata[j] : NULL;
      if (!needed)
        return kd_unknown_step (recipe, written, group, "needs", step->needs[k], error);
      if (step->once && !needed->once) {
        g_set_error (error, KD_ERROR, KD_ERROR_SCHEMA,
            "Recipe step: path=\"%s\", group=[step.%s], key=needs, value=%s; a step with seeds=once cannot need one that runs for each seed",
            recipe->path, step->name, needed->name);
        return FALSE;
      }
    }
  }
  while (written->len > 0) {
    gboolean moved = FALSE;

    for (guint i = 0; i < written->len && !moved; i++) {
      KdRecipeStep *step = written->pdata[i];
      gboolean ready = TRUE;

      for (guint k = 0; ready && step->needs && step->needs[k]; k++)
        ready = kd_recipe_step (recipe, step->needs[k]) != NULL;
      if (ready) {
        g_ptr_array_add (recipe->steps, g_ptr_array_steal_index (written, i));
        moved = TRUE;
      }
    }
    if (!moved) {
      g_set_error (error, KD_ERROR, KD_ERROR_SCHEMA,
          "Recipe step: path=\"%s\", group=[step.%s], key=needs; the steps need each other in a circle", recipe->path,
          ((KdRecipeStep *) written->pdata[0])->name);
      return FALSE;
    }
  }
  return TRUE;
}

static gboolean
kd_recipe_compare (KdRecipe *recipe, JsonObject *compare, GError **error)
{
  const gchar *lists[] = { "method", "ablation", "reference" };

  recipe->higher_is_better = TRUE;
  if (!compare)
    return TRUE;
  recipe->baseline = kd_string (compare, "baseline");
  recipe->metric = kd_string (compare, "metric");
  recipe->methods = kd_strv (compare, "method");
  recipe->ablations = kd_strv (compare, "ablation");
  recipe->references = kd_strv (compare, "reference");
  recipe->higher_is_better = json_object_get_boolean_member_with_default (compare, "higher-is-better", TRUE);
  recipe->percent = json_object_get_boolean_member_with_default (compare, "percent", FALSE);
  if (!kd_recipe_step (recipe, recipe->baseline))
    return kd_unknown_step (recipe, recipe->steps, "compare", "baseline", recipe->baseline, error);
  for (guint l = 0; l < G_N_ELEMENTS (lists); l++) {
    gchar **names = l == 0 ? recipe->methods : l == 1 ? recipe->ablations
                                                      : recipe->references;

    for (guint i = 0; names && names[i]; i++)
      if (!kd_recipe_step (recipe, names[i]))
        return kd_unknown_step (recipe, recipe->steps, "compare", lists[l], names[i], error);
  }
  return TRUE;
}

static gboolean
kd_recipe_params (KdRecipe *recipe, JsonObject *object, gchar **sets, GError **error)
{
  g_autoptr (GList) names = object ? json_object_get_members (object) : NULL;

  for (GList *l = names; l; l = l->next)
    g_hash_table_insert (recipe->params, g_strdup (l->data), g_strdup (json_object_get_string_member (object, l->data)));
  for (guint i = 0; sets && sets[i]; i++) {
    const gchar *equals = strchr (sets[i], '=');
    g_autofree gchar *name = equals ? g_strndup (sets[i], (gsize) (equals - sets[i])) : g_strdup (sets[i]);
    g_autofree gpointer *keys = g_hash_table_get_keys_as_array (recipe->params, NULL);

    if (!equals || !g_hash_table_contains (recipe->params, name)) {
      const gchar *near = kd_tool_closest (name, (const gchar *const *) keys);

      g_set_error (error, KD_ERROR, KD_ERROR_VALUE, "Cannot set: --set %s, path=\"%s\"; %s%s", sets[i], recipe->path,
          !equals ? "write NAME=VALUE" : near ? "the recipe's [param] has no such name; did you mean "
                                              : "the recipe's [param] has no such name",
          equals && near ? near : "");
      return FALSE;
    }
    g_hash_table_insert (recipe->params, g_strdup (name), g_strdup (equals + 1));
  }
  return TRUE;
}

static gboolean
kd_recipe_fill (KdRecipe *recipe, JsonObject *object, gchar **sets, GError **error)
{
  JsonObject *head = json_object_get_object_member (object, "recipe"), *steps = json_object_get_object_member (object, "step");
  JsonObject *params = json_object_has_member (object, "param") ? json_object_get_object_member (object, "param") : NULL;
  JsonObject *compare = json_object_has_member (object, "compare") ? json_object_get_object_member (object, "compare") : NULL;
  g_autoptr (GList) names = json_object_get_members (steps);
  g_autoptr (GPtrArray) written = g_ptr_array_new_with_free_func (kd_step_free);

  recipe->title = kd_string (head, "title");
  recipe->paper = kd_string (head, "paper");
  recipe->data = kd_string (head, "data");
  recipe->seeds = json_object_get_int_member_with_default (head, "seeds", 1);
  for (GList *l = names; l; l = l->next) {
    KdRecipeStep *step = kd_step_new (recipe, l->data, json_object_get_object_member (steps, l->data), error);

    if (!step)
      return FALSE;
    g_ptr_array_add (written, step);
  }
  return kd_recipe_params (recipe, params, sets, error) && kd_recipe_order (recipe, written, error) && kd_recipe_compare (recipe, compare, error);
}

KdRecipe *
kd_recipe_read (const gchar *path, gchar **sets, GError **error)
{
  g_autoptr (KdRecipe) recipe = g_new0 (KdRecipe, 1);
  g_autoptr (GKeyFile) file = kd_load_key_file (path, error);
  g_autoptr (JsonObject) object = file ? kd_key_file_object (file) : NULL;
  g_autoptr (JsonNode) node = NULL;
  g_autofree gchar *base = g_path_get_basename (path), *absolute = g_canonicalize_filename (path, NULL);

  if (!object)
    return NULL;
  node = json_node_init_object (json_node_alloc (), object);
  if (!kd_schema_check ("recipe.schema.json", node, error)) {
    g_prefix_error (error, "Recipe refused: path=\"%s\", ", path);
    return NULL;
  }
  recipe->path = g_strdup (path);
  recipe->dir = g_path_get_dirname (absolute);
  recipe->name = g_str_has_suffix (base, ".kd") ? g_strndup (base, strlen (base) - 3) : g_strdup (base);
  recipe->params = g_hash_table_new_full (g_str_hash, g_str_equal, g_free, g_free);
  recipe->steps = g_ptr_array_new_with_free_func (kd_step_free);
  return kd_recipe_fill (recipe, object, sets, error) ? g_steal_pointer (&recipe) : NULL;
}
