/* What the benches share. A bench prints medians of repeated runs and the ratio to a peer measured beside it: absolute times say little about
 * another machine. */
#pragma once
#include "kd-tool.h"
#include <gst/gst.h>
#include <json-glib/json-glib.h>

G_BEGIN_DECLS

typedef struct {
  gint repeats, threads, level;
  gdouble gigabytes;     /* of `cache`: the one whose reading's memory is watched */
  gint64 elements;       /* of `losses`: entries of a table of logits */
  gchar *sizes, *losses; /* comma-separated, or NULL for all */
} KdBenchOptions;

int kd_bench_graph (const KdBenchOptions *options);
int kd_bench_run (const KdBenchOptions *options);
int kd_bench_cache (const KdBenchOptions *options);
int kd_bench_losses (const KdBenchOptions *options);

/** kd_bench_median: sorts @values. */
gdouble kd_bench_median (gdouble *values, guint n);
/** kd_bench_pipeline: seconds from playing to the end of the stream; below 0 with an error. */
gdouble kd_bench_pipeline (const gchar *text, GError **error);
/** kd_bench_digits: (transfer full) the shipped digits.h5. */
gchar *kd_bench_digits (GError **error);
/** kd_bench_python: run a script of tools/bench with @args (NULL-terminated); its JSON object. */
JsonObject *kd_bench_python (const gchar *script, const gchar *const *args, GError **error);
typedef struct _KdBenchMemory KdBenchMemory;
/** kd_bench_memory_start: watch the process's memory; kd_bench_memory_stop: the bytes it took at most since then, frees @memory. */
KdBenchMemory *kd_bench_memory_start (void);
gdouble kd_bench_memory_stop (KdBenchMemory *memory);
/** kd_bench_verdict: "met" or "not met". */
const gchar *kd_bench_verdict (gboolean met);

G_END_DECLS
