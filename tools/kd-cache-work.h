/* Long work of `kd cache`: a progress line, and Ctrl-C that ends it at a good place. */
#pragma once
#include "kd-cache-tool.h"
#include <kd/kd.h>

G_BEGIN_DECLS

typedef struct {
  KdCacheCopyOptions options; /* for the call */
  gint64 started_us, shown_us;
  gboolean terminal;
} KdCacheWork;

/** kd_cache_work_begin: @work has to stay where it is until kd_cache_work_end, which is called before anything is printed. */
void kd_cache_work_begin (KdCacheWork *work);
void kd_cache_work_end (KdCacheWork *work);
/** kd_cache_work_fail: prints @error; @again: what to do after an interruption. Returns the exit code. */
int kd_cache_work_fail (const GError *error, const gchar *again);

int kd_cache_merge_command (int argc, char **argv);
int kd_cache_prune_command (int argc, char **argv);
int kd_cache_repair_command (int argc, char **argv);
int kd_cache_diff_command (int argc, char **argv);
int kd_cache_export_command (int argc, char **argv);
int kd_cache_stats_command (int argc, char **argv);
int kd_cache_verify_command (int argc, char **argv);
/** kd_cache_audit: @sample rows of @data once more through @teacher ("": the cache's own). Returns the exit code. */
int kd_cache_audit (const gchar *path, const gchar *teacher, const gchar *data, gint sample, guint seed, gboolean quiet);

G_END_DECLS
