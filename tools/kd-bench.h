/* What the benches share. A bench prints medians of repeated runs and the ratio to a peer measured beside it: absolute times say little about
 * another machine. */
#pragma once
#include "kd-tool.h"
#include <gst/gst.h>
#include <json-glib/json-glib.h>

G_BEGIN_DECLS

typedef struct {
  gint repeats, threads;
} KdBenchOptions;

int kd_bench_graph (const KdBenchOptions *options);
int kd_bench_run (const KdBenchOptions *options);
int kd_bench_cache (const KdBenchOptions *options);

/** kd_bench_median: sorts @values. */
gdouble kd_bench_median (gdouble *values, guint n);
/** kd_bench_pipeline: seconds from playing to the end of the stream; below 0 with an error. */
gdouble kd_bench_pipeline (const gchar *text, GError **error);
/** kd_bench_digits: (transfer full) the shipped digits.h5. */
gchar *kd_bench_digits (GError **error);
/** kd_bench_python: run a script of tools/bench with @args (NULL-terminated); its JSON object. */
JsonObject *kd_bench_python (const gchar *script, const gchar *const *args, GError **error);
/** kd_bench_verdict: "met" or "not met". */
const gchar *kd_bench_verdict (gboolean met);

G_END_DECLS
