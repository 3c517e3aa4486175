/* The student's training of hinton.kd, beside the same loop in plain PyTorch. */
#include "kd-bench.h"
#include <glib/gstdio.h>
#include <kd/kd.h>

#define EPOCHS 300

static gboolean
kd_make_cache (const gchar *digits, const gchar *cache, GError **error)
{
  g_autofree gchar *text = g_strdup_printf ("kdh5src location=\"%s\" first=0 count=200 batch-size=100 ! kdteacher arch=\"mlp dims=64,256,10\" seed=1 ! kdcachesink location=\"%s\"", digits, cache);

  return kd_bench_pipeline (text, error) >= 0;
}

static int
kd_print_run (gdouble *ours, gdouble *theirs, const KdBenchOptions *options, const gchar *version)
{
  gdouble steps = EPOCHS * 4, a = kd_bench_median (ours, (guint) options->repeats), b;

  g_print ("%.0f steps of the student of hinton.kd, batch 50, %d thread%s, median of %d\n\n%-22s %10s %12s\n", steps, options->threads,
      options->threads > 1 ? "s" : "", options->repeats, "",
      "us a step", "steps/s");
  g_print ("%-22s %10.1f %12.0f\n", "kdstream", a / steps * 1e6, steps / a);
  if (!version)
    return KD_EXIT_DONE;
  b = kd_bench_median (theirs, (guint) options->repeats);
  g_print ("PyTorch %-14s %10.1f %12.0f\n\nratio: %.2f times as fast\ntarget: at least 1.5: %s\n", version, b / steps * 1e6, steps / b, b / a,
      kd_bench_verdict (b / a >= 1.5));
  return KD_EXIT_DONE;
}

static int
kd_measure_run (const KdBenchOptions *options, const gchar *digits, const gchar *cache, GError **error)
{
  g_autofree gchar *text = g_strdup_printf ("kdh5src location=\"%s\" first=0 count=200 epochs=%d batch-size=50 shuffle=true ! kdcache location=\"%s\" ! "
                                            "kdstudent arch=\"mlp dims=64,16,10 activation=tanh\" ! kdhinton ! kdtrain optimizer=adamw learning-rate=0.005",
      digits, EPOCHS, cache);
  g_autofree gchar *epochs = g_strdup_printf ("%d", EPOCHS), *threads = g_strdup_printf ("%d", options->threads), *version = NULL;
  g_autofree gdouble *ours = g_new0 (gdouble, (gsize) options->repeats), *theirs = g_new0 (gdouble, (gsize) options->repeats);
  const gchar *args[] = { digits, cache, epochs, threads, NULL };
  gboolean peer = TRUE;

  if (kd_bench_pipeline (text, error) < 0) /* warm up */
    return KD_EXIT_FAILED;
  for (gint r = 0; r < options->repeats; r++) { /* by turns: a slow minute hits both */
    g_autoptr (GError) missing = NULL;
    g_autoptr (JsonObject) result = peer ? kd_bench_python ("hinton_torch.py", args, &missing) : NULL;

    if (peer && !result) {
      g_printerr ("no peer: %s\n", missing->message);
      peer = FALSE;
    }
    if (result) {
      theirs[r] = json_object_get_double_member (result, "seconds");
      g_free (version);
      version = g_strdup (json_object_get_string_member (result, "version"));
    }
    ours[r] = kd_bench_pipeline (text, error);
    if (ours[r] < 0)
      return KD_EXIT_FAILED;
  }
  return kd_print_run (ours, theirs, options, version);
}

int
kd_bench_run (const KdBenchOptions *options)
{
  g_autoptr (GError) error = NULL;
  g_autofree gchar *digits = kd_bench_digits (&error), *dir = digits ? g_dir_make_tmp ("kd-bench-XXXXXX", &error) : NULL;
  g_autofree gchar *cache = dir ? g_build_filename (dir, "teacher.h5", NULL) : NULL;
  KdEngine *engine = dir ? kd_engine_get (NULL, &error) : NULL;
  int code = KD_EXIT_FAILED;

  if (engine && KD_ENGINE_GET_CLASS (engine)->set_threads)
    KD_ENGINE_GET_CLASS (engine)->set_threads (engine, (guint) options->threads);
  if (engine && kd_make_cache (digits, cache, &error))
    code = kd_measure_run (options, digits, cache, &error);
  if (error)
    kd_tool_fail ("%s", error->message);
  if (dir)
    kd_tool_remove (dir);
  return code;
}
