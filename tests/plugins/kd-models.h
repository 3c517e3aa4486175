/* Small graphs with models, for the tests of kdstudent, kdteacher, kdmodule and kdtrain: a folder, a data file of one number in and out, parameters back. */
#pragma once
#include "kd-graph.h"
#include "kd-leaf.h"

#include <string.h>

static gchar *folder, *data_file;

static KdTensor *
column (KdDtype dtype, gint64 n, gint64 width, const gdouble *values)
{
  gint64 dims[2] = { n, width };
  g_autoptr (KdTensor) wide = kd_tensor_new (KD_FLOAT64, width ? 2 : 1, dims);

  memcpy (wide->data, values, wide->n_bytes);
  return kd_tensor_cast (wide, dtype, NULL);
}

/* Four samples: input [4,1], what a teacher says of them [4,1]. */
static void
setup (void)
{
  static const gchar *names[] = { "input", "teacher.logits", "sample.id" };
  KdTensor *tensors[3] = { column (KD_FLOAT32, 4, 1, (gdouble[]) { 2, -1, 0.5, 1 }), column (KD_FLOAT32, 4, 1, (gdouble[]) { 1, 3, -2, 0 }),
    column (KD_INT64, 4, 0, (gdouble[]) { 0, 1, 2, 3 }) };

  folder = kd_test_folder ();
  data_file = g_build_filename (folder, "d.h5", NULL);
  kd_test_write (data_file, 3, names, tensors);
  for (guint i = 0; i < 3; i++)
    kd_tensor_unref (tensors[i]);
}

static void
teardown (void)
{
  kd_test_remove (folder);
  g_clear_pointer (&folder, g_free);
  g_clear_pointer (&data_file, g_free);
}

/* Runs "kdh5src location=DATA SOURCE ! GRAPH"; %F in @graph is the folder. "" or the error. */
static G_GNUC_UNUSED gchar *
run (const gchar *source, const gchar *graph)
{
  g_auto (GStrv) parts = g_strsplit (graph, "%F", -1);
  g_autofree gchar *rest = g_strjoinv (folder, parts);
  g_autofree gchar *text = g_strdup_printf ("kdh5src location=%s %s ! %s", data_file, source, rest);

  return kd_test_run (text, NULL);
}

static G_GNUC_UNUSED void
run_ok (const gchar *source, const gchar *graph)
{
  g_autofree gchar *message = run (source, graph);

  ck_assert_msg (*message == 0, "%s: %s", graph, message);
}

static G_GNUC_UNUSED void
refuses (const gchar *source, const gchar *graph, const gchar *part)
{
  g_autofree gchar *message = run (source, graph);

  ck_assert_msg (strstr (message, part) != NULL, "%s\nerror: \"%s\"\nis without: \"%s\"", graph, message, part);
}

/* The numbers of the one parameter [rows, columns] that the file in the folder has. */
static G_GNUC_UNUSED void
read_parameter (const gchar *file, const gchar *name, gint64 rows, gint64 columns, gfloat *ret_values)
{
  g_autofree gchar *path = g_build_filename (folder, file, NULL);
  g_autoptr (KdParamSet) set = kd_param_set_new (0);
  gint64 dims[2] = { rows, columns };
  GError *error = NULL;

  ck_assert (kd_param_set_add (set, name, columns ? 2 : 1, dims, KD_INIT_ZEROS, TRUE, &error));
  kd_param_set_freeze (set);
  ck_assert_msg (kd_param_set_load (set, path, &error), "%s", error ? error->message : "");
  memcpy (ret_values, kd_param_set_values (set, 0), (gsize) (rows * MAX (columns, 1)) * sizeof (gfloat));
}

static G_GNUC_UNUSED gfloat
read_weight (const gchar *file)
{
  gfloat value;

  read_parameter (file, "linear.weight", 1, 1, &value);
  return value;
}

/* KD_MODEL_TESTS (kdtrain, a, b): like KD_TESTS, with the folder and the data. */
#define KD_MODEL_TESTS(name, ...)                   \
  static Suite *name##_suite (void)                 \
  {                                                 \
    Suite *s = suite_create (#name);                \
    TCase *t = tcase_create ("all");                \
    suite_add_tcase (s, t);                         \
    tcase_add_checked_fixture (t, setup, teardown); \
    KD_ADD (__VA_ARGS__)                            \
    return s;                                       \
  }                                                 \
  GST_CHECK_MAIN (name)
