/* Caches out of caches: what `kd cache merge|prune|repair|diff|export` do. Inputs are never changed (repair apart); every output is
 * consistent after a crash at any instant, and the same call goes on where it was. */
#pragma once
#include "kd-cache.h"

G_BEGIN_DECLS

/**
 * KdCacheCopyOptions: zero is a good value for each.
 * @link: whole parts become hard links instead of copies (parts never change, so that several caches may share them)
 * @part_bytes: of parts that are written anew; 0: 64 MiB
 * @extend: of a merge: the output may be there already with rows that no input has; they stay
 * @unfinished: of a merge: the output counts as not complete, whatever the inputs do
 * @cancellable: ends the call with G_IO_ERROR_CANCELLED; what was done stays
 */
typedef struct {
  gboolean link, extend, unfinished;
  gsize part_bytes;
  KdCacheProgress progress;
  gpointer user_data;
  GCancellable *cancellable;
} KdCacheCopyOptions;

/** KdCacheCopyResult: what became of it. @n_rows: of the output; @n_before: of them there when the call began; @complete: all inputs were. */
typedef struct {
  gint64 n_rows, n_before;
  guint n_linked, n_copied, n_written; /* parts */
  gboolean complete;
} KdCacheCopyResult;

/**
 * kd_cache_merge: the rows of all @inputs (NULL-terminated) in one cache with parts. A key that is in several inputs counts once when its rows
 * are equal. An output that is there is gone on with when all its rows are the inputs', or with @extend.
 * Errors: KD_ERROR_MISMATCH (identities or encodings differ, rows of one key differ, the output is another cache), KD_ERROR_SHAPE (fields
 * differ), KD_ERROR_IO.
 */
KD_API gboolean kd_cache_merge (const gchar *output, const gchar *const *inputs, const KdCacheCopyOptions *options, KdCacheCopyResult *ret_result,
    GError **error);

/** kd_cache_remove: a cache that nobody writes, parts and all; what a call before that was killed left goes too. At every instant the cache is whole
 * or gone. KD_ERROR_IO. */
KD_API gboolean kd_cache_remove (const gchar *path, GError **error);

/** KdCacheSelection: rows that are kept; zero keeps all. @ids [n_ids]: NULL: any; @views [n_views]: NULL: any; @drop: fields to leave out, NULL-terminated. */
typedef struct {
  const gint64 *ids;
  gint64 n_ids;
  gboolean has_range;
  gint64 first_id, last_id; /* both kept */
  const gint64 *views;
  guint n_views;
  const gchar *const *drop;
} KdCacheSelection;

/**
 * kd_cache_prune: the selected rows and fields of @path in a new cache with parts.
 * Errors: KD_ERROR_FIELD (no such field, or none left), KD_ERROR_RANGE (no row left), KD_ERROR_MISMATCH (the output is another cache), KD_ERROR_IO.
 */
KD_API gboolean kd_cache_prune (const gchar *path, const gchar *output, const KdCacheSelection *selection, const KdCacheCopyOptions *options,
    KdCacheCopyResult *ret_result, GError **error);

/** KdCacheLoss: a part that is no longer of the cache. @n_rows 0 where nobody knows; @quarantined: the file was there. */
typedef struct {
  gchar *file, *reason;
  gint64 n_rows, first_id, last_id, stride, view;
  gboolean quarantined;
} KdCacheLoss;

/** KdCacheRepair: what kd_cache_repair found. @losses: of KdCacheLoss; @rebuilt: why the manifest was made again, or NULL; @n_rows, @n_parts: that are left. */
typedef struct {
  GPtrArray *losses;
  gchar *rebuilt;
  gint64 n_rows;
  guint n_parts;
  gboolean identity_known;
} KdCacheRepair;
KD_API void kd_cache_repair_free (KdCacheRepair *repair);
G_DEFINE_AUTOPTR_CLEANUP_FUNC (KdCacheRepair, kd_cache_repair_free)

/**
 * kd_cache_repair: (transfer full) checks every part; those that are damaged go to PATH.parts/quarantine and out of the manifest, and the cache counts
 * as not complete: a capture that goes on (resume=true) makes exactly their rows again. A manifest that is lost or unreadable is made again from the
 * good parts. @dry_run: only says what it would do.
 * Errors: KD_ERROR_UNSUPPORTED (a packed file), KD_ERROR_IO (no parts, another process writes it), G_IO_ERROR_CANCELLED (nothing was changed).
 */
KD_API KdCacheRepair *kd_cache_repair (const gchar *path, gboolean dry_run, const KdCacheCopyOptions *options, GError **error);

/** KdCacheFieldDiff: over the rows that both have. @n_rows: that differ; @max_id, @max_view: where the largest difference is; NaN beside NaN is equal, NaN
 * beside a number differs by infinity. */
typedef struct {
  gchar *field, *a_type, *b_type; /* "float32:10"; NULL: not in that cache */
  gint64 n_rows, max_id, max_view;
  gdouble max, mean;
} KdCacheFieldDiff;

/** KdCacheDiff: @fields: of KdCacheFieldDiff. @missing_*: the first few keys (id, view) that the other has not. */
typedef struct {
  GPtrArray *fields;
  gint64 n_common, n_only_a, n_only_b;
  gint64 only_a[8][2], only_b[8][2];
  gchar *identity; /* what differs, or NULL */
} KdCacheDiff;
KD_API void kd_cache_diff_free (KdCacheDiff *diff);
G_DEFINE_AUTOPTR_CLEANUP_FUNC (KdCacheDiff, kd_cache_diff_free)
/** kd_cache_diff: (transfer full) two caches row by row, by key, as they are read (decoded). */
KD_API KdCacheDiff *kd_cache_diff (const gchar *a, const gchar *b, const KdCacheCopyOptions *options, GError **error);

/** kd_cache_export: rows in the order of their keys as OUTPUT.npz (uncompressed) or OUTPUT.safetensors, by its ending; @fields NULL: all. Fields are
 * decoded; a step of rows is in memory at a time. bfloat16 becomes float32 in npz, which has no such type. */
KD_API gboolean kd_cache_export (const gchar *path, const gchar *output, const gchar *const *fields, const KdCacheCopyOptions *options, GError **error);

G_END_DECLS
