/* Inside `kd bench cache`. */
#pragma once
#include "kd-bench.h"
#include <kd/kd.h>

G_BEGIN_DECLS

#define KD_BENCH_ROWS 200000
#define KD_BENCH_WIDTH 256
#define KD_BENCH_BATCH 256
#define KD_BENCH_CHUNK 2000
#define KD_BENCH_FIELD "teacher.logits"

/* Files of one run, all below @folder. @plain: the cache in one contiguous file; @packed: features packed with @filter. */
typedef struct {
  const KdBenchOptions *options;
  const gchar *folder, *filter;
  gchar *cache, *plain, *packed, *scratch;
} KdBenchCache;

/** kd_bench_cache_line: one line of the table; @target 0: none. */
void kd_bench_cache_line (const gchar *what, gdouble ours, gdouble theirs, const gchar *unit, const gchar *peer, gdouble ratio, gdouble target);
/** kd_bench_cache_rows: (transfer full) chunks of rows, made before anything is timed. @rectified: like features behind a ReLU, half of them 0, else any finite halves. */
GPtrArray *kd_bench_cache_rows (gboolean rectified);
/** kd_bench_cache_write: @repeat times all @chunks with ids from 0. */
gboolean kd_bench_cache_write (const gchar *path, GPtrArray *chunks, guint repeat, gsize part_bytes, GError **error);
/** kd_bench_cache_open: a cache of 1,000 parts. */
gboolean kd_bench_cache_open (const KdBenchCache *bench, GError **error);
/** kd_bench_cache_memory: what reading random batches of a large cache keeps in memory. */
gboolean kd_bench_cache_memory (const KdBenchCache *bench, GError **error);

G_END_DECLS
