/* Recipes: the steps of an experiment and what is compared at its end. */
#pragma once
#include "kd-tool.h"
#include <json-glib/json-glib.h>

G_BEGIN_DECLS

typedef struct {
  gchar *name, *title;
  gchar *pipeline, *evaluate, *tool; /* as written: ${...} still in it */
  gchar **needs, **metrics;          /* or NULL */
  gboolean once;
} KdRecipeStep;

typedef struct {
  gchar *path, *dir, *name;
  gchar *title, *paper;
  gchar *data; /* as written, or NULL */
  gint64 seeds;
  GHashTable *params;
  GPtrArray *steps;         /* of KdRecipeStep, each after those it needs */
  gchar *baseline, *metric; /* NULL: nothing is compared */
  gchar **methods, **ablations, **references;
  gboolean higher_is_better, percent;
} KdRecipe;

/** kd_recipe_find: (transfer full) @word as a path, or the shipped recipe of that name; NULL with an error that says which there are. */
gchar *kd_recipe_find (const gchar *word, GError **error);
/** kd_recipe_read: read and check @path; @sets: "name=value" of --set, or NULL. */
KdRecipe *kd_recipe_read (const gchar *path, gchar **sets, GError **error);
void kd_recipe_free (KdRecipe *recipe);
G_DEFINE_AUTOPTR_CLEANUP_FUNC (KdRecipe, kd_recipe_free)
KdRecipeStep *kd_recipe_step (const KdRecipe *recipe, const gchar *name);
/** kd_recipe_data: (transfer full) where the recipe's data is: beside it, in data/ beside it, in KD_DATA_PATH, with the shipped recipes. */
gchar *kd_recipe_data (const KdRecipe *recipe, GError **error);
/** kd_recipe_folder: (transfer full) the folder of @step in @output. */
gchar *kd_recipe_folder (const gchar *output, const KdRecipeStep *step, gint64 seed);
/** kd_recipe_expand: (transfer full) @text of @step's key @key with ${name} replaced: parameters, seed, out, data, recipe, step.NAME. */
gchar *kd_recipe_expand (const KdRecipe *recipe, const KdRecipeStep *step, const gchar *key, const gchar *text, gint64 seed, const gchar *output,
    GError **error);

/* Statistics of the table. */
typedef struct {
  guint n;
  gdouble mean, deviation; /* n - 1; NaN for one value */
} KdMean;
typedef struct {
  guint n;
  gdouble mean, low, high; /* 95 % interval of the mean of paired differences; NaN limits for one pair */
} KdPaired;
KdMean kd_result_mean (const gdouble *values, guint n);
KdPaired kd_result_paired (const gdouble *a, const gdouble *b, guint n); /* b - a */
/** kd_student_quantile: t with P(T <= t) = @p for @df degrees of freedom. */
gdouble kd_student_quantile (gdouble p, gdouble df);

/* One row of the result: a step over the seeds. */
typedef struct {
  const KdRecipeStep *step;
  const gchar *role; /* "baseline", "method", "ablation", "reference" */
  gdouble *values;   /* [n_seeds]; NaN where the step failed */
} KdResultRow;

typedef struct {
  const KdRecipe *recipe;
  gchar *output;
  gint64 first_seed;
  guint n_seeds;
  GArray *rows;    /* of KdResultRow; empty when nothing is compared */
  JsonArray *runs; /* {step, seed, status, seconds, skipped, folder, metrics} */
  gdouble seconds;
} KdResult;

/** kd_result_print: the table, to standard output. */
void kd_result_print (const KdResult *result);
/** kd_result_write: results.json and results.html in the output folder. */
gboolean kd_result_write (const KdResult *result, GError **error);

typedef struct {
  gint seeds, first_seed; /* 0: the recipe's own */
  gchar **sets;
  gchar *steps, *output;
  gboolean list, keep_going, quiet;
} KdRecipeOptions;

/** kd_recipe_run: run what is not finished yet, fill in @result; returns an exit code. */
int kd_recipe_run (const KdRecipe *recipe, const KdRecipeOptions *options, KdResult *result);

G_END_DECLS
