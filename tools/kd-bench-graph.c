/* What an element costs a batch: the same graph with and without elements that do nothing. */
#include "kd-bench.h"
#include <kd/kd.h>

#define N_ELEMENTS 20
#define EPOCHS 200
#define BATCH 16

static gboolean
kd_nothing_evaluate (const KdCall *call, KdOutputs *ret, GError **error)
{
  return TRUE;
}

static const KdParam kd_nothing_params[] = { KD_PARAM_END };
static const KdFieldSpec kd_nothing_fields[] = { { "input", KD_ANY_NUMBER, "N ..." }, KD_FIELD_END };

/* A leaf as small as one can be: all that is measured is the base class. */
static const KdTransformDesc kd_nothing = {
  .name = "kdbenchnothing",
  .title = "Nothing",
  .description = "Reads a field and does nothing, for kd bench",
  .source = "own",
  .fields = kd_nothing_fields,
  .params = kd_nothing_params,
  .evaluate = kd_nothing_evaluate,
};

static gchar *
kd_chain (const gchar *digits, const gchar *element)
{
  GString *text = g_string_new (NULL);

  g_string_printf (text, "kdh5src location=\"%s\" epochs=%d batch-size=%d", digits, EPOCHS, BATCH);
  for (guint i = 0; element && i < N_ELEMENTS; i++)
    g_string_append_printf (text, " ! %s", element);
  g_string_append (text, " ! fakesink");
  return g_string_free (text, FALSE);
}

int
kd_bench_graph (const KdBenchOptions *options)
{
  static const gchar *const elements[] = { NULL, "kdbenchnothing", "identity" };
  static const gchar *const titles[] = { "source and sink alone", "+ 20 kdstream elements", "+ 20 GStreamer identity" };
  g_autoptr (GError) error = NULL;
  g_autofree gchar *digits = kd_bench_digits (&error);
  g_autofree gdouble *times[3] = { NULL };
  gdouble n_batches = EPOCHS * ((1797 + BATCH - 1) / BATCH), median[3], cost;

  if (!digits)
    return kd_tool_fail ("%s", error->message);
  kd_transform_register (NULL, &kd_nothing);
  for (guint i = 0; i < 3; i++)
    times[i] = g_new0 (gdouble, (gsize) options->repeats);
  for (gint r = -1; r < options->repeats; r++) /* the first round warms up */
    for (guint i = 0; i < 3; i++) {
      g_autofree gchar *text = kd_chain (digits, elements[i]);
      gdouble seconds = kd_bench_pipeline (text, &error);

      if (seconds < 0)
        return kd_tool_fail ("%s", error->message);
      if (r >= 0)
        times[i][r] = seconds;
    }
  g_print ("%.0f batches, median of %d\n\n%-26s %12s %22s\n", n_batches, options->repeats, "", "us a batch", "us a batch and element");
  for (guint i = 0; i < 3; i++) {
    median[i] = kd_bench_median (times[i], (guint) options->repeats) / n_batches * 1e6;
    if (i)
      g_print ("%-26s %12.2f %22.2f\n", titles[i], median[i], (median[i] - median[0]) / N_ELEMENTS);
    else
      g_print ("%-26s %12.2f\n", titles[i], median[i]);
  }
  cost = (median[1] - median[0]) / N_ELEMENTS;
  g_print ("\nratio to identity: %.2f\ntarget: below 5 us a batch and element: %s\n", (median[1] - median[0]) / MAX (median[2] - median[0], 1e-9), kd_bench_verdict (cost < 5));
  return KD_EXIT_DONE;
}
