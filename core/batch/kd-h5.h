/* Batch files: one HDF5 dataset a field. The only door to libhdf5 beside core/cache. Files from outside are hostile until
 * checked: nothing is allocated or mapped before class, dtype, rank, dims, storage and offsets agree with the file. */
#pragma once
#include <gio/gio.h>
#include "kd-layout.h"
#include "kd-tensor.h"

G_BEGIN_DECLS

#define KD_H5_SCHEMA "batch/1"

typedef struct _KdH5Reader KdH5Reader;
typedef struct _KdH5Writer KdH5Writer;

/**
 * kd_h5_reader_open: open @path (its group @group, NULL for the root) and check it.
 *
 * Every dataset of the group becomes a field; groups below it are not looked at. Datasets of rank 0 are scalars.
 * utf8 fields are two datasets, NAME.bytes (uint8) and NAME.offset (int64 [N + 1]); the pair record.json + record.offset is
 * the field "record". float64, int and uint8 files of h5py's making are read as they are; bool is h5py's enum or uint8.
 * Uncompressed datasets, contiguous or chunked, are mapped; others go through libhdf5 with a chunk cache.
 *
 * Errors: KD_ERROR_IO (missing, truncated), KD_ERROR_FORMAT (not HDF5, refused storage, type, filter or link),
 * KD_ERROR_SHAPE (datasets of a file that says kd.schema="batch/1" disagree about N). In other files (test vectors, checkpoints)
 * they may disagree: read such a file with kd_h5_reader_read_all, the calls by rows refuse it.
 */
KD_API KdH5Reader *kd_h5_reader_open (const gchar *path, const gchar *group, GError **error);
KD_API void kd_h5_reader_close (KdH5Reader *reader);
G_DEFINE_AUTOPTR_CLEANUP_FUNC (KdH5Reader, kd_h5_reader_close)

KD_API const gchar *kd_h5_reader_path (const KdH5Reader *reader);
/** kd_h5_reader_n_rows: N; 0 when there are only scalars, -1 when the datasets disagree. */
KD_API gint64 kd_h5_reader_n_rows (const KdH5Reader *reader);
/** kd_h5_reader_check_rows: KD_ERROR_SHAPE naming the datasets that disagree about N. */
KD_API gboolean kd_h5_reader_check_rows (const KdH5Reader *reader, GError **error);
/** kd_h5_reader_layout: (transfer none). */
KD_API const KdLayout *kd_h5_reader_layout (const KdH5Reader *reader);
/** kd_h5_reader_groups: (transfer full) names of the groups directly below. */
KD_API gchar **kd_h5_reader_groups (KdH5Reader *reader);
/** kd_h5_reader_attribute: (transfer none) a string attribute (numbers are formatted), or NULL. */
KD_API const gchar *kd_h5_reader_attribute (const KdH5Reader *reader, const gchar *name);
KD_API gdouble kd_h5_reader_attribute_double (const KdH5Reader *reader, const gchar *name, gdouble fallback);

/** kd_h5_reader_attribute_names: (transfer full) sorted. */
KD_API gchar **kd_h5_reader_attribute_names (const KdH5Reader *reader);
/** kd_h5_reader_storage: (transfer full) how @field lies in the file, in words: "contiguous", "chunks of 2048 rows", "chunks of 2048
 * rows, shuffle, deflate"; NULL for an unknown field. */
KD_API gchar *kd_h5_reader_storage (KdH5Reader *reader, const gchar *field);

/** kd_h5_reader_read: rows [@first, @first + @n) of @field; a view of the mapping where it can be, else a copy. */
KD_API KdTensor *kd_h5_reader_read (KdH5Reader *reader, const gchar *field, gint64 first, gint64 n, GError **error);
/** kd_h5_reader_take: the rows @rows [n] in that order, copied. Rows outside the file: KD_ERROR_RANGE. */
KD_API KdTensor *kd_h5_reader_take (KdH5Reader *reader, const gchar *field, const gint64 *rows, gint64 n,
    GError **error);
/** kd_h5_reader_read_all: a field of any rank, whole. */
KD_API KdTensor *kd_h5_reader_read_all (KdH5Reader *reader, const gchar *field, GError **error);

/** kd_h5_fingerprint: (transfer full) hex SHA-256 over schema, ids and contents of a batch file's fields. */
KD_API gchar *kd_h5_fingerprint (KdH5Reader *reader, GError **error);

/**
 * kd_h5_writer_new: write @path under a temporary name beside it; kd_h5_writer_finish syncs and renames it into place.
 * A writer closed without finish leaves nothing behind. Small files are written contiguous, large ones in chunks of whole
 * rows without compression; both can be mapped.
 */
KD_API KdH5Writer *kd_h5_writer_new (const gchar *path, GError **error);
/** kd_h5_writer_set_filter: "none" (the default) or "deflate" for all fields; before the first rows. Compressed datasets are chunked
 * and cannot be mapped. KD_ERROR_UNSUPPORTED for another name. */
KD_API gboolean kd_h5_writer_set_filter (KdH5Writer *writer, const gchar *filter, GError **error);
/** kd_h5_writer_append: one batch's fields; the first call fixes the layout. @names [n], @tensors [n]. Rank-0 tensors get one
 * row a call. Full disk: KD_ERROR_IO. */
KD_API gboolean kd_h5_writer_append (KdH5Writer *writer, guint n, const gchar *const *names, KdTensor *const *tensors,
    GError **error);
/** kd_h5_writer_write: one whole dataset as it is (any rank), in @group (NULL: the root). For states and vectors. */
KD_API gboolean kd_h5_writer_write (KdH5Writer *writer, const gchar *group, const gchar *name, KdTensor *tensor,
    GError **error);
/** kd_h5_writer_set_attribute: a string attribute of the root. */
KD_API gboolean kd_h5_writer_set_attribute (KdH5Writer *writer, const gchar *name, const gchar *value, GError **error);
KD_API gboolean kd_h5_writer_finish (KdH5Writer *writer, GError **error);
KD_API void kd_h5_writer_close (KdH5Writer *writer);
G_DEFINE_AUTOPTR_CLEANUP_FUNC (KdH5Writer, kd_h5_writer_close)

G_END_DECLS
