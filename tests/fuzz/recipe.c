/* A recipe: read, checked, ordered, and each text of it expanded. */
#include "fuzz.h"

#include "../../tools/kd-recipe.h"

static void
expand (const KdRecipe *recipe, const KdRecipeStep *step, const gchar *key, const gchar *text)
{
  GError *error = NULL;
  g_autofree gchar *expanded = text ? kd_recipe_expand (recipe, step, key, text, 1, "/out", &error) : NULL;

  if (text && !expanded)
    fuzz_refuse (error, "expand");
}

int
LLVMFuzzerTestOneInput (const guint8 *data, gsize size)
{
  g_autofree gchar *path = fuzz_path ("r.kd");
  g_autoptr (KdRecipe) recipe = NULL;
  GError *error = NULL;

  fuzz_write (path, data, size);
  recipe = kd_recipe_read (path, NULL, &error);
  if (!recipe) {
    fuzz_refuse (error, "read");
    return 0;
  }
  for (guint i = 0; i < recipe->steps->len; i++) {
    const KdRecipeStep *step = recipe->steps->pdata[i];
    expand (recipe, step, "pipeline", step->pipeline);
    expand (recipe, step, "evaluate", step->evaluate);
    expand (recipe, step, "tool", step->tool);
  }
  fuzz_accept ();
  return 0;
}
