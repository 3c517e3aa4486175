/* The teacher cache: immutable part files, a manifest that is replaced atomically, a master file that h5py reads as one.
 * Rows are keyed by sample.id and sample.view. A crash at any instant loses only rows that were never reported as committed. */
#pragma once
#include "../batch/kd-h5.h"

G_BEGIN_DECLS

/** KdCacheIdentity: what a cache was made from; hex SHA-256 or text, NULL where unknown. */
typedef struct {
  gchar *teacher;       /* fingerprint of weights + specification */
  gchar *teacher_spec;  /* readable: "arch=mlp dims=64,10 weights=t.safetensors" */
  gchar *dataset;       /* fingerprint of the source */
  gchar *dataset_spec;  /* readable: path */
  gchar *preprocessing; /* readable chain of what stands before the teacher: "kdnoise std=0.1 seed=3" */
} KdCacheIdentity;

KD_API void kd_cache_identity_clear (KdCacheIdentity *identity);
/** kd_cache_check_identity: KD_ERROR_MISMATCH naming what differs between a cache's identity and another; what either does not know is not compared. */
KD_API gboolean kd_cache_check_identity (const gchar *path, const KdCacheIdentity *have, const KdCacheIdentity *wanted, GError **error);

typedef struct _KdCacheWriter KdCacheWriter;
typedef struct _KdCacheReader KdCacheReader;

/**
 * kd_cache_writer_open: a new cache at @path, or with @resume go on with the one there. Fields are fixed by the first rows.
 * @part_bytes: rows are committed whenever this many bytes are together (and at finish)
 * Errors: KD_ERROR_IO (exists, not writable, no space), KD_ERROR_MISMATCH (resume with another identity, both given).
 */
KD_API KdCacheWriter *kd_cache_writer_open (const gchar *path, gboolean resume, const KdCacheIdentity *identity, gsize part_bytes, GError **error);
/**
 * kd_cache_writer_set_encoding: how @field is stored; before the first rows. In a cache that is gone on with it has to be what it was.
 * @encoding: one of kd_cache_encoding_names():
 *   keep       as it comes (what fields without an encoding are)
 *   float32, float16, bfloat16  rounded to nearest; read back as they are stored, *.logprobs, *.weights and *.lse as float32
 *   logprob8   of float rows: log-probabilities in a byte each, with two float16 numbers a row (254 levels; kd-quantize.h has the law and its
 *              bound). Of a field *.logits softmax's normaliser is taken away first; others are taken to be log-probabilities. Read back as float32
 *   logprob5   the same with 30 levels: bytes that pack into five bits
 *   index32, index16  int64 ids that are at least -1, in int32 or uint16 (65535 stands for -1); read back as int64
 * Errors: KD_ERROR_RANGE (unknown), KD_ERROR_MISMATCH (the cache has another).
 */
KD_API gboolean kd_cache_writer_set_encoding (KdCacheWriter *writer, const gchar *field, const gchar *encoding, GError **error);
/** kd_cache_encoding_names: (transfer none) NULL-terminated, those that can be asked for. */
KD_API const gchar *const *kd_cache_encoding_names (void);
/** kd_cache_writer_has: whether the row is committed already, in the part that is being written, or in a cache of kd_cache_writer_know. */
KD_API gboolean kd_cache_writer_has (KdCacheWriter *writer, gint64 id, gint64 view);
/** kd_cache_writer_know: before the first rows: those of the cache at @path count as there, so that several captures share the work. A cache that has
 * no rows yet will be stored as that one is. Errors: KD_ERROR_MISMATCH, KD_ERROR_SHAPE (they could not be merged), KD_ERROR_IO. */
KD_API gboolean kd_cache_writer_know (KdCacheWriter *writer, const gchar *path, GError **error);
/** kd_cache_writer_n_committed: rows that outlive any crash from now on; the part that a thread writes counts once it is done. */
KD_API gint64 kd_cache_writer_n_committed (KdCacheWriter *writer);
/** kd_cache_writer_waited: seconds for which calls had to wait for the disk: a part is full before the one before it is down. */
KD_API gdouble kd_cache_writer_waited (KdCacheWriter *writer);
/** kd_cache_writer_row_bytes: of one row as it is stored, with its key; 0 before the first rows. */
KD_API gint64 kd_cache_writer_row_bytes (KdCacheWriter *writer);
/** kd_cache_writer_expect: how many rows will come, to refuse at once when the disk cannot hold them. */
KD_API void kd_cache_writer_expect (KdCacheWriter *writer, gint64 n_rows);
/** kd_cache_writer_append: @ids [n], @views [n] (NULL: all 0), @tensors with n rows each. Rows already there are skipped. Full parts are
 * written by a thread while the next one fills (two parts of memory); what fails there is the error of a later call, and of all after it. */
KD_API gboolean kd_cache_writer_append (KdCacheWriter *writer, gint64 n, const gint64 *ids, const gint64 *views, guint n_fields,
    const gchar *const *names, KdTensor *const *tensors, GError **error);
/** kd_cache_writer_commit: write the rows so far as a part and enter it in the manifest; returns when that is done. */
KD_API gboolean kd_cache_writer_commit (KdCacheWriter *writer, GError **error);
/** kd_cache_writer_finish: commit, write the master file, mark complete. */
KD_API gboolean kd_cache_writer_finish (KdCacheWriter *writer, GError **error);
/** kd_cache_writer_stop: commit and write the master, but leave the cache marked as not complete: a capture that was interrupted. */
KD_API gboolean kd_cache_writer_stop (KdCacheWriter *writer, GError **error);
KD_API void kd_cache_writer_close (KdCacheWriter *writer);
G_DEFINE_AUTOPTR_CLEANUP_FUNC (KdCacheWriter, kd_cache_writer_close)

KD_API KdCacheReader *kd_cache_reader_open (const gchar *path, GError **error);
KD_API void kd_cache_reader_close (KdCacheReader *reader);
G_DEFINE_AUTOPTR_CLEANUP_FUNC (KdCacheReader, kd_cache_reader_close)
KD_API gint64 kd_cache_reader_n_rows (const KdCacheReader *reader);
KD_API gboolean kd_cache_reader_complete (const KdCacheReader *reader);
/** kd_cache_reader_layout: (transfer none) as fields are read back, without sample.id and sample.view. */
KD_API const KdLayout *kd_cache_reader_layout (const KdCacheReader *reader);
KD_API const KdCacheIdentity *kd_cache_reader_identity (const KdCacheReader *reader);
/**
 * KdCacheEncoding: how a field is stored, and how far that is from what came: measured at the capture over @n_rows rows, in the field's own units.
 * @max_error: of any value; @mean_error: over rows, of the mean over a row's values. Rows with NaN are left out.
 * @max_tail, @mean_tail: of log-probabilities of the k largest: the probability that is not in them; -1 where that has no meaning
 * @universe, @size: of packed ids: above the largest, and how many a row has; else 0
 */
typedef struct {
  const gchar *field, *name; /* interned */
  gint64 n_rows;
  gdouble max_error, mean_error, max_tail, mean_tail;
  gint64 universe, size;
} KdCacheEncoding;
/** kd_cache_reader_encoding: (transfer none) of @field, or NULL when it is kept as it came. */
KD_API const KdCacheEncoding *kd_cache_reader_encoding (const KdCacheReader *reader, const gchar *field);
/** KdCacheInfo: numbers about a cache. @bytes: of all parts' files; @row_bytes: of one row's values; @packed: one self-contained file. */
typedef struct {
  const gchar *created_by; /* (transfer none) */
  gboolean packed;
  guint n_parts;
  gint64 bytes, row_bytes, block_rows;
  gint64 first_id, last_id; /* smallest and largest; 0 and -1 without rows */
} KdCacheInfo;
KD_API void kd_cache_reader_info (const KdCacheReader *reader, KdCacheInfo *ret_info);
/** kd_cache_reader_find: rows of @n keys; -1 where there is none. Returns how many are missing. */
KD_API gint64 kd_cache_reader_find (KdCacheReader *reader, gint64 n, const gint64 *ids, const gint64 *views, gint64 *ret_rows);
/** kd_cache_reader_take: rows as kd_cache_reader_find gave them, of @field. Blocks are checked on first touch: KD_ERROR_IO names part and row. */
KD_API KdTensor *kd_cache_reader_take (KdCacheReader *reader, const gchar *field, gint64 n, const gint64 *rows, GError **error);
/** kd_cache_reader_keys: id and view of row @row (rows are numbered through all parts). */
KD_API void kd_cache_reader_key (KdCacheReader *reader, gint64 row, gint64 *ret_id, gint64 *ret_view);

/** KdCacheProgress: rows done, of. */
typedef void (*KdCacheProgress) (gint64 done, gint64 total, gpointer user_data);
/** kd_cache_verify: every part's presence, size, schema, checksums, keys. The first fault is the error; @ret_report (transfer full): a line a part. */
KD_API gboolean kd_cache_verify (const gchar *path, KdCacheProgress progress, gpointer user_data, gchar **ret_report, GError **error);
/** KdCachePackFlags: KD_CACHE_PACK_INDEX: fields *.ids become bits (kd-packed.h); their rows ascend then, and *.logprobs, *.weights beside them with them. */
typedef enum { KD_CACHE_PACK_INDEX = 1 << 0 } KdCachePackFlags;
/**
 * kd_cache_pack: one self-contained batch file, rows sorted by key. @filter: "none", "deflate", "blosc-lz4", "blosc-zstd".
 * Errors: KD_ERROR_RANGE (no such filter, nothing to pack, the output is a cache), KD_ERROR_UNSUPPORTED (built without libblosc), KD_ERROR_FIELD (no ids).
 */
KD_API gboolean kd_cache_pack (const gchar *path, const gchar *output, const gchar *filter, KdCachePackFlags flags, KdCacheProgress progress, gpointer user_data, GError **error);

G_END_DECLS
