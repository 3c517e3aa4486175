/* Shared inside core/cache; not installed. */
#pragma once
#include "../batch/kd-h5-private.h"
#include "kd-cache.h"

G_BEGIN_DECLS

#define KD_CACHE_SCHEMA "kd-cache-manifest/1"
#define KD_CACHE_MANIFEST "manifest.json"
/* How a manifest begins: CRC-32C of the text behind this line, in hexadecimal. */
#define KD_CACHE_MANIFEST_BEGIN "{\n"
#define KD_CACHE_MANIFEST_SUM "  \"checksum\" : \""
/* The group of a part that holds one dataset a field: CRC-32C of each block of rows, as int64. */
#define KD_CACHE_CHECKSUMS "checksum"
/* The attribute of a packed cache that holds its manifest. */
#define KD_CACHE_ATTRIBUTE "kd.cache"

/**
 * KdCachePart: one immutable file, as the manifest has it. Rows are sorted by id, then view.
 * @stride: above 0 when the ids are first_id, first_id + stride, ... and all views are @view: then a row is found by
 *   calculation; 0 when they are not
 * @checksum: CRC-32C over the part's block checksums, field by field in the order of the layout
 * @first_row: of the part among all rows of the cache
 */
typedef struct {
  gchar *file;
  gint64 rows;
  gint64 bytes;
  gint64 first_id, last_id;
  gint64 stride, view;
  guint32 checksum;
  gint64 first_row;
} KdCachePart;

/**
 * KdCacheManifest: the truth about a cache.
 * @layout: of all datasets of a part as they are STORED, sample.id and sample.view with them; NULL before the first part. Readers see
 *   kd_cache_decoded_layout of it
 * @encodings: of fields that are not kept as they came
 * @block_rows: rows a checksum covers
 */
typedef struct {
  gchar *created_by;
  gboolean complete;
  KdLayout *layout;
  GPtrArray *encodings; /* of KdCacheEncoding */
  gint64 block_rows;
  KdCacheIdentity identity;
  GPtrArray *parts; /* of KdCachePart */
  gint64 n_rows;
} KdCacheManifest;

KdCacheManifest *kd_cache_manifest_new (void);
void kd_cache_manifest_free (KdCacheManifest *manifest);
G_DEFINE_AUTOPTR_CLEANUP_FUNC (KdCacheManifest, kd_cache_manifest_free)
/* kd_cache_manifest_parse: KD_ERROR_SCHEMA naming @path and the member that is wrong. */
KdCacheManifest *kd_cache_manifest_parse (const gchar *text, gssize size, const gchar *path, GError **error);
gchar *kd_cache_manifest_print (const KdCacheManifest *manifest);
/* kd_cache_manifest_load: of the cache at @path; a packed file's too, whose one part is the file itself. */
KdCacheManifest *kd_cache_manifest_load (const gchar *path, GError **error);
/* kd_cache_manifest_save: replaces it atomically. */
gboolean kd_cache_manifest_save (const KdCacheManifest *manifest, const gchar *path, GError **error);
/* kd_cache_manifest_add: (transfer full) @part. */
void kd_cache_manifest_add (KdCacheManifest *manifest, KdCachePart *part);
/* kd_cache_manifest_next: the number of the next part's file; a packed cache's one part has none. */
guint kd_cache_manifest_next (const KdCacheManifest *manifest);
void kd_cache_part_free (KdCachePart *part);

/* Encodings: kd-cache-encoding.c. A stored field F of log-probabilities has F.scale beside it. */
#define KD_CACHE_SCALE ".scale"
/* kd_cache_encoding_new: NULL when there is none of that @name. */
KdCacheEncoding *kd_cache_encoding_new (const gchar *field, const gchar *name);
/* kd_cache_encoding_find: of @field, or NULL. */
KdCacheEncoding *kd_cache_encoding_find (const GPtrArray *encodings, const gchar *field);
/* kd_cache_encodings_copy: (transfer full) with what was measured, or (@measured FALSE) nothing measured yet. */
GPtrArray *kd_cache_encodings_copy (const GPtrArray *encodings, gboolean measured);
/* kd_cache_encodings_equal: the same fields in the same way, whatever was measured. */
gboolean kd_cache_encodings_equal (const GPtrArray *a, const GPtrArray *b);
/* kd_cache_encodings_add: what was measured over more rows into @to, which has the same encodings. */
void kd_cache_encodings_add (GPtrArray *to, const GPtrArray *more);
/* kd_cache_encoding_levels: of log-probabilities, 0 of others. */
gint kd_cache_encoding_levels (const KdCacheEncoding *encoding);
gboolean kd_cache_encoding_is_index (const KdCacheEncoding *encoding);
/* kd_cache_encoding_is_coded: whether what is stored has to be decoded; half types are read as they are, but in sparse teachers. */
gboolean kd_cache_encoding_is_coded (const KdCacheEncoding *encoding);
/* kd_cache_encodings_check: (transfer full) what does not fit the stored @layout, or NULL. */
gchar *kd_cache_encodings_check (const GPtrArray *encodings, const KdLayout *layout);
/* kd_cache_decoded_layout: (transfer full) of what readers get, keys with it. */
KdLayout *kd_cache_decoded_layout (const KdCacheManifest *manifest);
/* kd_cache_encode: (transfer full) rows as they are stored; adds to what @encoding has measured. @ret_scale: (transfer full) NULL when there is none. */
KdTensor *kd_cache_encode (KdCacheEncoding *encoding, const gchar *path, KdTensor *rows, KdTensor **ret_scale, GError **error);
/* kd_cache_decode: (transfer full) the way back; shapes were checked when the manifest was read. KD_ERROR_FORMAT for impossible codes. */
KdTensor *kd_cache_decode (const KdCacheEncoding *encoding, KdTensor *stored, const KdTensor *scale, GError **error);

/* kd_cache_folder: (transfer full) "t.h5.parts" of "t.h5". */
gchar *kd_cache_folder (const gchar *path);
/* kd_cache_part_path: (transfer full). */
gchar *kd_cache_part_path (const gchar *path, const KdCachePart *part);
void kd_cache_identity_copy (const KdCacheIdentity *from, KdCacheIdentity *to);
/* kd_cache_row_bytes: of all fields of a layout together. */
gsize kd_cache_row_bytes (const KdLayout *layout);

/* kd_cache_block_rows: rows a checksum of a capture covers: about what a random read of a cold cache brings in for one row. */
gint64 kd_cache_block_rows (const KdLayout *layout);

/* KdCacheIndex: (id, view) -> row. Parts with evenly spaced ids cost a few numbers each; the rows of others 24 bytes each. */
typedef struct _KdCacheIndex KdCacheIndex;
KdCacheIndex *kd_cache_index_new (void);
void kd_cache_index_free (KdCacheIndex *index);
G_DEFINE_AUTOPTR_CLEANUP_FUNC (KdCacheIndex, kd_cache_index_free)
/* kd_cache_index_add_run: an evenly spaced part. */
void kd_cache_index_add_run (KdCacheIndex *index, const KdCachePart *part);
/* kd_cache_index_add_keys: @n rows from @first_row on; @views NULL: all 0. */
void kd_cache_index_add_keys (KdCacheIndex *index, gint64 n, const gint64 *ids, const gint64 *views, gint64 first_row);
/* kd_cache_index_find: the row, or -1. */
gint64 kd_cache_index_find (KdCacheIndex *index, gint64 id, gint64 view);
/* kd_cache_index_sorted: (transfer full) all @n rows in the order of their keys, and these. */
gint64 *kd_cache_index_sorted (KdCacheIndex *index, gint64 n, gint64 **ret_ids, gint64 **ret_views);
/* kd_cache_index_duplicate: whether a key is there twice; which. */
gboolean kd_cache_index_duplicate (KdCacheIndex *index, gint64 *ret_id, gint64 *ret_view);

/* KdCacheFile: an open part with its checksums. */
typedef struct {
  KdH5Reader *reader;
  GPtrArray *sums;      /* of KdTensor int64 [blocks], in the layout's order */
  KdH5Column **columns; /* [fields], of the reader */
  guint8 **checked;     /* [fields][blocks] */
  gint block_shift;     /* of block_rows, -1 when that is no power of two */
  guint n_fields;
  guint64 last_use;
} KdCacheFile;
/* kd_cache_file_open: checks size, schema, layout and rows against the manifest. */
KdCacheFile *kd_cache_file_open (const KdCacheManifest *manifest, const KdCachePart *part, const gchar *path, gboolean may_map,
    GError **error);
void kd_cache_file_close (KdCacheFile *file);
/* kd_cache_file_check_block: compare a block of field @nth with its checksum. */
gboolean kd_cache_file_check_block (KdCacheFile *file, const KdCacheManifest *manifest, const KdCachePart *part, guint nth,
    gint64 block, GError **error);
/* kd_cache_file_check: the block that @row of field @nth lies in, when it has not been before. */
static inline gboolean
kd_cache_file_check (KdCacheFile *file, const KdCacheManifest *manifest, const KdCachePart *part, guint nth, gint64 row,
    GError **error)
{
  gint64 block = file->block_shift >= 0 ? row >> file->block_shift : row / manifest->block_rows;

  return G_LIKELY (file->checked[nth][block]) || kd_cache_file_check_block (file, manifest, part, nth, block, error);
}
/* kd_cache_block_sums: (transfer full) CRC-32C of each block of @rows rows at @data. */
KdTensor *kd_cache_block_sums (gconstpointer data, gint64 rows, gsize row_bytes, gint64 block_rows);
guint32 kd_cache_sum_sums (guint32 crc, const KdTensor *sums);

/* KdCacheColumn: rows of one field that wait to be written; in the layout's order. */
typedef struct {
  guint8 *data;
  gsize row_bytes, capacity;
} KdCacheColumn;
typedef struct _KdCacheFlight KdCacheFlight;
struct _KdCacheWriter {
  gchar *path, *folder;
  int lock; /* of the folder: one writer a cache */
  gsize part_bytes;
  KdCacheManifest *manifest;
  KdCacheIndex *index;
  KdCacheColumn *columns, *spare; /* being filled; of the part before */
  GPtrArray *measured;            /* of KdCacheEncoding: over the rows that wait; enters the manifest with them */
  guint next_number;
  gint64 n_pending, expected;
  gint64 n_committed, n_flying;
  KdCacheFlight *flight; /* the part that a thread writes now; the manifest is its own as long as it does */
  GThread *thread;
  gint64 waited_us;          /* of the caller, for the disk */
  GError *broken;            /* a part failed: nothing more is taken */
  gint64 last_id, last_view; /* of the pending rows, while they ascend */
  GHashTable *pending;       /* of keys, once they do not */
};
/* kd_cache_writer_launch: let a thread write the rows so far, once the part before is down. */
gboolean kd_cache_writer_launch (KdCacheWriter *writer, GError **error);
/* kd_cache_writer_land: wait for it. */
gboolean kd_cache_writer_land (KdCacheWriter *writer, GError **error);
/* kd_cache_column_room: so that @bytes fit; keeps the first @used. What is allocated is only taken when touched. */
void kd_cache_column_room (KdCacheColumn *column, gsize bytes, gsize used);
/* kd_cache_writer_make_columns: for the manifest's layout. */
void kd_cache_writer_make_columns (KdCacheWriter *writer);
/* kd_cache_field_index: of @name in the manifest's layout. */
guint kd_cache_field_index (const KdCacheManifest *manifest, const gchar *name);
/* kd_cache_part_new: (transfer full) the part that these rows make. Sorts the columns. */
KdCachePart *kd_cache_part_new (const KdCacheManifest *manifest, guint number, KdCacheColumn *columns, gint64 rows);
/* kd_cache_part_store: onto the disk, at @path, synced; sets the part's size and checksum. */
gboolean kd_cache_part_store (const KdCacheManifest *manifest, KdCachePart *part, const gchar *path, const KdCacheColumn *columns,
    GError **error);

/* kd_cache_write_master: the file of virtual datasets over all parts; @sync: it must outlive a power cut. */
gboolean kd_cache_write_master (const KdCacheManifest *manifest, const gchar *path, gboolean sync, GError **error);
/* kd_cache_check_master: what is there of it is not damaged. */
gboolean kd_cache_check_master (const gchar *path, GError **error);

/* kd_cache_describe_keys: ends, spacing and view of a part's sorted keys [part->rows]. */
void kd_cache_describe_keys (KdCachePart *part, const gint64 *ids, const gint64 *views);
/* kd_cache_reader_take_stored: as kd_cache_reader_take, of a field of the manifest's layout, not decoded. */
KdTensor *kd_cache_reader_take_stored (KdCacheReader *reader, const gchar *field, gint64 n, const gint64 *rows, GError **error);
/* kd_cache_reader_check_sizes: every part's file is as large as the manifest says, so it can hold the rows that it is said to hold: before memory is
 * taken for all of them. */
gboolean kd_cache_reader_check_sizes (KdCacheReader *reader, GError **error);
/* kd_cache_reader_sorted: (transfer full) as kd_cache_index_sorted; sizes are checked. */
gint64 *kd_cache_reader_sorted (KdCacheReader *reader, gint64 **ret_ids, gint64 **ret_views, GError **error);
/* kd_cache_reader_manifest: (transfer none). */
const KdCacheManifest *kd_cache_reader_manifest (const KdCacheReader *reader);

G_END_DECLS
