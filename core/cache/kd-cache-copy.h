/* Shared by those who write into a cache's folder, and by merge, prune and repair; not installed. */
#pragma once
#include "kd-cache-private.h"
#include "kd-cache-tools.h"

G_BEGIN_DECLS

/* kd_cache_lock: one writer a cache: what kd_cache_unlock takes, or -1; the error says who has it. Makes the parts folder. */
int kd_cache_lock (const gchar *path, GError **error);
void kd_cache_unlock (const gchar *path, int lock);
/* kd_cache_sweep: remove what a killed writer left: half-written files, and parts that @manifest does not name (NULL: those stay). The cache is locked. */
void kd_cache_sweep (const gchar *path, const KdCacheManifest *manifest);

/* kd_cache_part_check: the file at @path, every block and key against the manifest; @index gets its keys. */
gboolean kd_cache_part_check (const KdCacheManifest *manifest, const KdCachePart *part, const gchar *path, KdCacheIndex *index, KdCacheProgress progress,
    gpointer user_data, GError **error);
/* The attribute of a part that holds the manifest without its parts: what is lost with a manifest is there to make it again. */
#define KD_CACHE_HEADER "kd.cache-part"
gboolean kd_cache_set_header (hid_t file, const KdCacheManifest *manifest);
/* kd_cache_rebuild: (transfer full) the manifest of a cache that has lost it; its parts are not checked yet, and may be no parts at all. */
KdCacheManifest *kd_cache_rebuild (const gchar *path, const gchar *folder, GError **error);

/* KdCacheKeys: of one part's rows. */
typedef struct {
  gint64 *ids, *views;
} KdCacheKeys;
void kd_cache_keys_clear (KdCacheKeys *keys);
G_DEFINE_AUTO_CLEANUP_CLEAR_FUNC (KdCacheKeys, kd_cache_keys_clear)
/* kd_cache_reader_part_keys: calculated where they can be. */
gboolean kd_cache_reader_part_keys (KdCacheReader *reader, const KdCachePart *part, KdCacheKeys *ret_keys, GError **error);

/* kd_cache_manifest_like: (transfer full) fields, encodings, block and identity of @from, without parts. */
KdCacheManifest *kd_cache_manifest_like (const KdCacheManifest *from);
/* kd_cache_same_identity: KD_ERROR_MISMATCH naming key, values and both files; what either does not know is not compared. */
gboolean kd_cache_same_identity (const gchar *path, const KdCacheIdentity *identity, const gchar *other_path, const KdCacheIdentity *other, GError **error);
/* kd_cache_manifest_fits: whether parts of @other can stand beside those of @manifest; else KD_ERROR_MISMATCH or KD_ERROR_SHAPE. */
gboolean kd_cache_manifest_fits (const KdCacheManifest *manifest, const gchar *path, const KdCacheManifest *other, const gchar *other_path,
    GError **error);

/* KdCacheCopy: a cache with parts that is made from the rows of others, in an order that does not depend on where it was interrupted:
 * a part counts once all before it do. So a killed copy that goes on ends with the same parts as one that never was. */
typedef struct {
  gchar *path, *folder;
  int lock;
  const KdCacheCopyOptions *options;
  KdCacheManifest *manifest;
  KdCacheReader *there; /* what was committed when the copy began, or NULL */
  KdCacheColumn *columns;
  gint64 n_pending;
  guint next_number;
  gint64 unsaved_bytes, n_done, n_total; /* rows looked at */
  guint n_unsaved;
  KdCacheCopyResult result;
} KdCacheCopy;
/* kd_cache_copy_open: @like: what the output is to be; nothing is written yet. */
KdCacheCopy *kd_cache_copy_open (const gchar *path, const KdCacheManifest *like, const KdCacheCopyOptions *options, GError **error);
/* kd_cache_copy_begin: lock, sweep, and a first manifest. */
gboolean kd_cache_copy_begin (KdCacheCopy *copy, GError **error);
/* kd_cache_copy_part: those rows of a part for which @keep [rows] is not 0; it is cleared for rows that are there already. */
gboolean kd_cache_copy_part (KdCacheCopy *copy, KdCacheReader *from, const gchar *from_path, const KdCachePart *part, const KdCacheKeys *keys,
    guint8 *keep, GError **error);
/* kd_cache_copy_finish: the rest, the master; @complete: the cache is. */
gboolean kd_cache_copy_finish (KdCacheCopy *copy, gboolean complete, GError **error);
void kd_cache_copy_close (KdCacheCopy *copy);
G_DEFINE_AUTOPTR_CLEANUP_FUNC (KdCacheCopy, kd_cache_copy_close)
/* kd_cache_copy_step: progress and cancelling; FALSE when cancelled. */
gboolean kd_cache_copy_step (KdCacheCopy *copy, gint64 n_rows, GError **error);

G_END_DECLS
