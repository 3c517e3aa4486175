/* A data set whose "teacher" is a column of its own: caches can be tested without a model. */
#pragma once
#include "kd-graph.h"

static gchar *folder, *data, *cache, *out;

/* @n samples, ids from 0: teacher.logits = 10 id + column (2 columns), x = id. */
static inline void
write_data (const gchar *path, gint64 n)
{
  gint64 dims[] = { n, 2 };
  KdTensor *tensors[] = { kd_tensor_new (KD_INT64, 1, &n), kd_tensor_new (KD_FLOAT32, 2, dims), kd_tensor_new (KD_FLOAT32, 1, &n) };
  const gchar *names[] = { "sample.id", "teacher.logits", "x" };

  for (gint64 i = 0; i < n; i++) {
    ((gint64 *) tensors[0]->data)[i] = i;
    ((gfloat *) tensors[1]->data)[2 * i] = (gfloat) (10 * i);
    ((gfloat *) tensors[1]->data)[2 * i + 1] = (gfloat) (10 * i + 1);
    ((gfloat *) tensors[2]->data)[i] = (gfloat) i;
  }
  kd_test_write (path, 3, names, tensors);
  for (guint i = 0; i < 3; i++)
    kd_tensor_unref (tensors[i]);
}

static inline void
make_data (void)
{
  folder = kd_test_folder ();
  data = g_build_filename (folder, "d.h5", NULL);
  cache = g_build_filename (folder, "t.h5", NULL);
  out = g_build_filename (folder, "o.h5", NULL);
  write_data (data, 100);
}

static inline void
remove_data (void)
{
  kd_test_remove (folder);
  g_clear_pointer (&folder, g_free);
  g_clear_pointer (&data, g_free);
  g_clear_pointer (&cache, g_free);
  g_clear_pointer (&out, g_free);
}

/** run: a graph in which DATA, CACHE and OUT stand for the files; (transfer full) "" or the one error. */
static inline gchar *
run (const gchar *graph)
{
  g_autoptr (GString) text = g_string_new (graph);
  guint n_errors = 0;
  gchar *result;

  g_string_replace (text, "DATA", data, 0);
  g_string_replace (text, "CACHE", cache, 0);
  g_string_replace (text, "OUT", out, 0);
  result = kd_test_run (text->str, &n_errors);
  ck_assert_msg (n_errors == (*result ? 1u : 0u), "%u errors, %s", n_errors, result);
  return result;
}

static inline void
run_well (const gchar *graph)
{
  g_autofree gchar *text = run (graph);

  ck_assert_msg (*text == '\0', "%s: %s", graph, text);
}

static inline void
run_badly (const gchar *graph, const gchar *message)
{
  g_autofree gchar *text = run (graph);

  ck_assert_msg (strstr (text, message) != NULL, "\"%s\", expected \"%s\"", text, message);
}
