/* Reading recipes, and the numbers under the table. */
#include "../../tools/kd-recipe.h"
#include "kd-graph.h"

static gchar *folder, *path;

static void
setup (void)
{
  folder = kd_test_folder ();
  path = g_build_filename (folder, "r.kd", NULL);
}

static void
teardown (void)
{
  kd_test_remove (folder);
  g_clear_pointer (&folder, g_free);
  g_clear_pointer (&path, g_free);
}

static KdRecipe *
read_text (const gchar *text, gchar **sets, GError **error)
{
  ck_assert (g_file_set_contents (path, text, -1, NULL));
  return kd_recipe_read (path, sets, error);
}

#define HEAD "[recipe]\ntitle=t\n"

START_TEST (test_order_and_expand)
{
  GError *error = NULL;
  g_autoptr (KdRecipe) recipe = read_text (HEAD "[param]\na=x ${b}\nb=y\n[step.last]\nneeds=first\npipeline=p ${a} ${seed} \\\n   ${step.first}/f ${out}\n"
                                                "[step.first]\nseeds=once\ntool=data info ${recipe}\n",
      NULL, &error);
  KdRecipeStep *last;
  g_autofree gchar *text = NULL, *wanted = NULL;

  kd_assert_no_error (error);
  ck_assert_str_eq (((KdRecipeStep *) recipe->steps->pdata[0])->name, "first");
  last = recipe->steps->pdata[1];
  text = kd_recipe_expand (recipe, last, "pipeline", last->pipeline, 4, "/o p", &error);
  ck_assert_str_eq (text, "p x y 4 /o\\ p/once/first/f /o\\ p/seed-4/last"); /* a blank in a path does not break a word */
  ck_assert (((KdRecipeStep *) recipe->steps->pdata[0])->once);
}
END_TEST

/* Values that stand for values: each level multiplies. */
START_TEST (test_expand_has_an_end)
{
  GError *error = NULL;
  g_autoptr (GString) text = g_string_new (HEAD "[param]\nlast=\nlong=");
  g_autoptr (KdRecipe) recipe = NULL;

  for (gint i = 0; i < 4096; i++)
    g_string_append_c (text, 'x');
  for (gint level = 0; level < 6; level++) {
    g_string_append_printf (text, "\na%d=", level);
    for (gint i = 0; i < 99; i++)
      g_string_append_printf (text, level ? "${a%d}" : "${last}", level - 1);
  }
  g_string_append (text, "\nb=");
  for (gint i = 0; i < 300; i++)
    g_string_append (text, "${long}");
  g_string_append (text, "\n[step.a]\npipeline=${a5}\n[step.b]\npipeline=${b}\n");
  recipe = read_text (text->str, NULL, &error);
  kd_assert_no_error (error);
  for (guint i = 0; i < 2; i++) {
    KdRecipeStep *step = recipe->steps->pdata[i];
    ck_assert (!kd_recipe_expand (recipe, step, "pipeline", step->pipeline, 1, "/o", &error));
    kd_assert_error (error, KD_ERROR_SCHEMA, i ? "unknown=${long}; what it stands for makes the text longer than 1 MiB" : "name each other more than 4096 times");
  }
}
END_TEST

START_TEST (test_set)
{
  GError *error = NULL;
  gchar *sets[] = { (gchar *) "temperature=2=3", NULL }, *wrong[] = { (gchar *) "temprature=2", NULL }, *none[] = { (gchar *) "temperature", NULL };
  const gchar *text = HEAD "[param]\ntemperature=4\n[step.a]\npipeline=p\n";
  g_autoptr (KdRecipe) recipe = read_text (text, sets, &error);

  ck_assert_str_eq (g_hash_table_lookup (recipe->params, "temperature"), "2=3");
  ck_assert (!read_text (text, wrong, &error));
  kd_assert_error (error, KD_ERROR_VALUE, "did you mean temperature");
  ck_assert (!read_text (text, none, &error));
  kd_assert_error (error, KD_ERROR_VALUE, "write NAME=VALUE");
}
END_TEST

/* Each names the file, the place and what to do. */
static const struct {
  const gchar *text;
  KdError code;
  const gchar *message;
} bad_recipes[] = {
  { "", KD_ERROR_SCHEMA, "missing=\"recipe\"" },
  { "title=t\n", KD_ERROR_FORMAT, "a recipe has groups" },
  { HEAD, KD_ERROR_SCHEMA, "missing=\"step\"" },
  { HEAD "[step.b]\npipeline=p\n[stap.a]\npipeline=p\n", KD_ERROR_SCHEMA, "unknown name \"stap.a\"" },
  { HEAD "[step.a]\npipline=p\n", KD_ERROR_SCHEMA, "at /step/a/pipline: unknown name" },
  { HEAD "[step.a]\ntitle=x\n", KD_ERROR_SCHEMA, "neither pipeline nor tool" },
  { HEAD "[step.a]\npipeline=p\ntool=t\n", KD_ERROR_SCHEMA, "both pipeline and tool" },
  { HEAD "[step.a]\ntool=t\nevaluate=e\n", KD_ERROR_SCHEMA, "key=evaluate" },
  { HEAD "[step.a]\npipeline=p\nneeds=teachr\n[step.teacher]\npipeline=p\n", KD_ERROR_SCHEMA, "did you mean teacher?" },
  { HEAD "[step.a]\npipeline=p\nneeds=b\n[step.b]\npipeline=p\nneeds=a\n", KD_ERROR_SCHEMA, "in a circle" },
  { HEAD "[step.a]\npipeline=p\nneeds=b\nseeds=once\n[step.b]\npipeline=p\n", KD_ERROR_SCHEMA, "cannot need one that runs for each seed" },
  { HEAD "[step.a]\npipeline=p\n[compare]\nbaseline=b\nmetric=accuracy\n", KD_ERROR_SCHEMA, "group=[compare], key=baseline, value=b is no step" },
  { HEAD "[step.a]\npipeline=p\n[compare]\nbaseline=a\nmetric=accuracy\nmethod=a;c\n", KD_ERROR_SCHEMA, "key=method, value=c is no step" },
  { HEAD "[step.a]\npipeline=p\n[compare]\nbaseline=a\n", KD_ERROR_SCHEMA, "missing=\"metric\"" },
  { HEAD "[step.a]\npipeline=p\n[compare]\nbaseline=a\nmetric=m\npercent=yes\n", KD_ERROR_SCHEMA, "at /compare/percent: type=string" },
  { HEAD "seeds=two\n[step.a]\npipeline=p\n", KD_ERROR_SCHEMA, "at /recipe/seeds" },
  { "\xff\xfe", KD_ERROR_FORMAT, "no UTF-8 text" },
};

START_TEST (test_bad_recipes)
{
  for (guint i = 0; i < G_N_ELEMENTS (bad_recipes); i++) {
    GError *error = NULL;

    ck_assert (!read_text (bad_recipes[i].text, NULL, &error));
    ck_assert_msg (strstr (error->message, path) != NULL, "no path in: %s", error->message);
    kd_assert_error (error, bad_recipes[i].code, bad_recipes[i].message);
  }
}
END_TEST

static const struct {
  const gchar *pipeline, *message;
} bad_names[] = {
  { "p ${tempertaure}", "did you mean ${temperature}?" },
  { "p ${temperature", "a } is missing" },
  { "p ${step.b}", "add b to the step's needs" },
  { "p ${step.zebra}", "there is no step zebra" },
  { "p ${loop}", "in a circle" },
  { "p ${data}", "write data=FILE" },
};

START_TEST (test_bad_names)
{
  for (guint i = 0; i < G_N_ELEMENTS (bad_names); i++) {
    GError *error = NULL;
    g_autofree gchar *text = g_strdup_printf (HEAD "[param]\ntemperature=1\nloop=${loop}\n[step.b]\npipeline=q\n[step.a]\npipeline=%s\n",
        bad_names[i].pipeline);
    g_autoptr (KdRecipe) recipe = read_text (text, NULL, &error);
    KdRecipeStep *step;

    kd_assert_no_error (error);
    step = kd_recipe_step (recipe, "a");
    ck_assert (!kd_recipe_expand (recipe, step, "pipeline", step->pipeline, 1, "/o", &error));
    kd_assert_error (error, KD_ERROR_SCHEMA, bad_names[i].message);
  }
}
END_TEST

START_TEST (test_data)
{
  GError *error = NULL;
  g_autoptr (KdRecipe) recipe = read_text (HEAD "data=d.h5\n[step.a]\npipeline=p ${data}\n", NULL, &error);
  g_autofree gchar *data = g_build_filename (folder, "d.h5", NULL), *found = NULL;

  ck_assert (!kd_recipe_data (recipe, &error));
  kd_assert_error (error, KD_ERROR_IO, "KD_DATA_PATH");
  ck_assert (g_file_set_contents (data, "x", 1, NULL));
  found = kd_recipe_data (recipe, &error);
  ck_assert_str_eq (found, data);
}
END_TEST

START_TEST (test_find)
{
  GError *error = NULL;

  ck_assert (!kd_recipe_find ("/no/such.kd", &error));
  kd_assert_error (error, KD_ERROR_IO, "There is no recipe");
}
END_TEST

/* Tables of the t distribution. */
START_TEST (test_quantile)
{
  kd_assert_close (kd_student_quantile (0.975, 1), 12.706204736, 1e-8);
  kd_assert_close (kd_student_quantile (0.975, 4), 2.7764451052, 1e-8);
  kd_assert_close (kd_student_quantile (0.95, 10), 1.8124611228, 1e-8);
  kd_assert_close (kd_student_quantile (0.975, 1e6), 1.9599662, 1e-6);
  kd_assert_close (kd_student_quantile (0.025, 4), -2.7764451052, 1e-8);
  kd_assert_close (kd_student_quantile (0.5, 7), 0, 1e-12);
}
END_TEST

START_TEST (test_paired)
{
  const gdouble a[] = { 1, 2, 3, NAN }, b[] = { 2, 4, 4, 9 };
  KdMean mean = kd_result_mean (b, 4), one = kd_result_mean (b, 1), none = kd_result_mean (a + 3, 1);
  KdPaired paired = kd_result_paired (a, b, 4), single = kd_result_paired (a, b, 1);

  kd_assert_close (mean.mean, 4.75, 1e-12);
  kd_assert_close (mean.deviation, 2.9860788111948, 1e-12);
  ck_assert (one.n == 1 && isnan (one.deviation));
  ck_assert (none.n == 0 && isnan (none.mean));
  ck_assert_uint_eq (paired.n, 3); /* a missing value takes its pair out */
  kd_assert_close (paired.mean, 4.0 / 3, 1e-12);
  kd_assert_close (paired.high - paired.mean, 4.3026527297 / 3, 1e-8); /* t(2) * sqrt(1/3) / sqrt(3) */
  ck_assert (isnan (single.low));
}
END_TEST

/* Whatever stands in a file: an error or a recipe, never a crash. Bytes of a good recipe are changed, taken out and doubled. */
START_TEST (test_mutations)
{
  g_autofree gchar *good_path = g_build_filename (g_getenv ("KD_SOURCE_ROOT"), "pipelines", "hinton.kd", NULL), *good = NULL;
  guint n_read = 0;
  gsize n;

  ck_assert (g_file_get_contents (good_path, &good, &n, NULL));
  for (guint i = 0; i < 1000; i++) {
    g_autoptr (GString) text = g_string_new_len (good, (gssize) n);
    g_autoptr (GError) error = NULL;
    g_autoptr (KdRecipe) recipe = NULL;
    KdRandom random;

    kd_random_init (&random, 1, kd_random_purpose ("recipe"), 0, i);
    for (guint k = 0; k < 1 + i % 8; k++) {
      gsize at = kd_random_below (&random, text->len), some = kd_random_below (&random, 40); /* MIN evaluates twice */

      switch (kd_random_below (&random, 3)) {
      case 0:
        text->str[at] = "[]=;${}\n\\ !a\x80"[kd_random_below (&random, 13)];
        break;
      case 1:
        g_string_erase (text, (gssize) at, (gssize) MIN (text->len - at, 1 + some));
        break;
      default:
        g_string_insert_len (text, (gssize) at, good + kd_random_below (&random, n - 60), (gssize) kd_random_below (&random, 60));
      }
    }
    g_unlink (path); /* GLib's quick way neither syncs nor cuts off what was there */
    ck_assert (g_file_set_contents_full (path, text->str, (gssize) text->len, G_FILE_SET_CONTENTS_NONE, 0600, NULL));
    recipe = kd_recipe_read (path, NULL, &error);
    ck_assert ((recipe != NULL) == (error == NULL));
    for (guint s = 0; recipe && s < recipe->steps->len; s++) {
      KdRecipeStep *step = recipe->steps->pdata[s];
      g_autofree gchar *expanded = step->pipeline ? kd_recipe_expand (recipe, step, "pipeline", step->pipeline, 1, "/o", NULL) : NULL;
    }
    n_read += recipe != NULL;
  }
  ck_assert_uint_gt (n_read, 50); /* else only the first check was tried */
}
END_TEST

int
main (int argc, char **argv)
{
  Suite *suite = suite_create (KD_TEST_NAME);
  TCase *tcase = tcase_create ("all");

  gst_check_init (&argc, &argv);
  tcase_add_checked_fixture (tcase, setup, teardown);
  tcase_add_test (tcase, test_order_and_expand);
  tcase_add_test (tcase, test_expand_has_an_end);
  tcase_add_test (tcase, test_set);
  tcase_add_test (tcase, test_bad_recipes);
  tcase_add_test (tcase, test_bad_names);
  tcase_add_test (tcase, test_data);
  tcase_add_test (tcase, test_find);
  tcase_add_test (tcase, test_quantile);
  tcase_add_test (tcase, test_paired);
  tcase_add_test (tcase, test_mutations);
  suite_add_tcase (suite, tcase);
  return gst_check_run_suite (suite, KD_TEST_NAME, __FILE__);
}
