/* Shared inside core/batch/kd-h5*.c and core/cache; not installed. */
#pragma once
#include <hdf5.h>
#include "kd-h5-sweep.h"
#include "kd-h5.h"

G_BEGIN_DECLS

/* An HDF5 identifier that closes itself. */
typedef hid_t KdHid;
static inline void
kd_hid_close (KdHid id)
{
  if (id > 0)
    H5Idec_ref (id);
}
G_DEFINE_AUTO_CLEANUP_FREE_FUNC (KdHid, kd_hid_close, -1)

/* KdH5Guard: the process-wide lock around libhdf5 (which is not thread efficient, and in some builds not thread safe), with its
 * error printing off; that switch is per thread, so it is thrown on every entry. Declare it first in a function: identifiers
 * declared after it are closed while it is held. Recursive. No other lock is taken while it is held. */
typedef struct {
  H5E_auto2_t func;
  gpointer data;
} KdH5Guard;
KdH5Guard kd_h5_enter (void);
void kd_h5_leave (KdH5Guard *guard);
G_DEFINE_AUTO_CLEANUP_CLEAR_FUNC (KdH5Guard, kd_h5_leave)

/* kd_h5_reason: (transfer full) the innermost entry of HDF5's error stack, in words. */
gchar *kd_h5_reason (void);
/* kd_h5_fail: sets "Cannot read batch file: path=..., dataset=..., reason"; @dataset may be NULL. Returns FALSE. */
gboolean kd_h5_fail (GError **error, KdError code, const gchar *path, const gchar *dataset, const gchar *format, ...)
    G_GNUC_PRINTF (5, 6);

/* kd_h5_file_type: (transfer full) how @dtype is stored: little-endian, IEEE half for float16, h5py's enumeration for bool. */
hid_t kd_h5_file_type (KdDtype dtype);
/* kd_h5_dtype: our type for a file's type, 0 when refused. @ret_memory: (transfer full) what to hand to H5Dread;
 * @ret_raw: whether the file's bytes are those in memory already. */
KdDtype kd_h5_dtype (hid_t file_type, hid_t *ret_memory, gboolean *ret_raw);

/* kd_h5_attribute: (transfer full) an attribute as text, or NULL when it is missing, an array or of another class. */
gchar *kd_h5_attribute (hid_t object, const gchar *name);
gboolean kd_h5_set_attribute (hid_t object, const gchar *name, const gchar *value);

/* KdH5Map: the file's bytes: mapped as a whole when small, else read with pread, so that resident memory does not grow with the
 * data. Refcounted; a mapping lives as long as a tensor that is a view of it. The file must not be cut short meanwhile. */
typedef struct {
  gatomicrefcount ref_count;
  int fd;
  guint64 size;
  const guint8 *bytes; /* or NULL */
} KdH5Map;
/* @fd is duplicated. @may_map: FALSE never maps. */
KdH5Map *kd_h5_map_new (int fd, guint64 size, gboolean may_map);
KdH5Map *kd_h5_map_ref (KdH5Map *map);
void kd_h5_map_unref (KdH5Map *map);
/* kd_h5_map_copy: @size bytes at @offset, which the caller checked against map->size; FALSE with errno (0: file was cut). */
gboolean kd_h5_map_copy (const KdH5Map *map, guint64 offset, gpointer to, gsize size);
/* kd_h5_map_limit: bytes mapped at once in the whole process: 256 MiB, or what the environment's KD_MAP_LIMIT says (bytes). */
guint64 kd_h5_map_limit (void);

typedef enum {
  KD_H5_LIBRARY,    /* through H5Dread */
  KD_H5_CONTIGUOUS, /* raw bytes at offset */
  KD_H5_CHUNKED,    /* raw bytes, whole rows a chunk */
  KD_H5_FILTERED,   /* packed, whole rows a chunk, unpacked by us */
} KdH5Storage;

/* KdH5Pipeline: the filters of a dataset, when we can do them ourselves: shuffle, deflate, fletcher32, blosc (id 32001). Pure functions: any thread may. */
#define KD_H5_BLOSC 32001
/* A chunk that a filter unpacks is allocated whole. */
#define KD_H5_MAX_CHUNK_BYTES ((guint64) 256 << 20)
typedef struct {
  gint id;
  unsigned values[8];
} KdH5Step;
typedef struct {
  guint n;
  KdH5Step step[4]; /* in the order of packing */
  gsize chunk_bytes;
} KdH5Pipeline;
/* kd_h5_has_filter: whether libhdf5 has it; blosc is registered from libblosc when Debian's plugin is not there. */
gboolean kd_h5_has_filter (gint id);
/* kd_h5_pipeline_init: "deflate", "blosc-lz4", "blosc-zstd"; FALSE for others and when this build has no libblosc. */
gboolean kd_h5_pipeline_init (KdH5Pipeline *pipeline, const gchar *filter, gsize element, gsize chunk_bytes);
/* kd_h5_pipeline_set: into a dataset's creation list. */
gboolean kd_h5_pipeline_set (const KdH5Pipeline *pipeline, hid_t create);
/* kd_h5_pipeline_get: out of one; FALSE when it is the library's to do. */
gboolean kd_h5_pipeline_get (KdH5Pipeline *pipeline, hid_t create, gsize element, gsize chunk_bytes);
/* kd_h5_pipeline_has_others: whether filters are in it that we cannot do at all. */
gboolean kd_h5_pipeline_has_others (hid_t create);
/* kd_h5_pipeline_unpack: @to [chunk_bytes]; FALSE for anything that is not exactly a packed chunk. @mask: bits of steps that were left out. */
gboolean kd_h5_pipeline_unpack (const KdH5Pipeline *pipeline, guint mask, const guint8 *stored, gsize n_stored, guint8 *to);
/* kd_h5_pipeline_pack: the packed size, at most kd_h5_pipeline_room, 0 on failure. Pipelines of kd_h5_pipeline_init only. */
gsize kd_h5_pipeline_pack (const KdH5Pipeline *pipeline, const guint8 *from, guint8 *to);
gsize kd_h5_pipeline_room (const KdH5Pipeline *pipeline);
/* kd_h5_pipeline_text: (transfer full) ", shuffle, deflate". */
gchar *kd_h5_pipeline_text (const KdH5Pipeline *pipeline);

/* KdH5Column: one checked dataset. */
typedef struct {
  gchar *name;
  KdDtype dtype;
  guint rank;
  gint64 dims[KD_MAX_RANK];
  gint64 n_rows; /* dims[0], 1 for a scalar */
  gsize row_bytes;
  KdH5Storage storage;
  gboolean was_unsigned; /* uint64 in the file: values above int64 are refused when read */
  guint64 offset;        /* KD_H5_CONTIGUOUS */
  gint64 chunk_rows;     /* KD_H5_CHUNKED, KD_H5_FILTERED; KD_H5_LIBRARY with a pipeline */
  guint64 *chunks;       /* KD_H5_CHUNKED, KD_H5_FILTERED: their offsets */
  guint32 *chunk_sizes;  /* KD_H5_FILTERED: packed */
  gint64 last_chunk;     /* KD_H5_FILTERED: the last one of the call before */
  KdH5Pipeline pipeline; /* KD_H5_FILTERED, and KD_H5_LIBRARY when we could undo it: n > 0 */
  hid_t dataset, memory; /* KD_H5_LIBRARY only, else -1 */
  guint8 *unpacks;       /* KD_H5_LIBRARY with a pipeline: by chunk_rows rows, whether their chunks are known to unpack */
} KdH5Column;
void kd_h5_column_free (KdH5Column *column);

/* kd_h5_chunks_take: rows of a KD_H5_FILTERED column, @rows [n] or [first, first + n) when NULL, in range. Unpacked chunks stay in memory, 64 MiB
 * of them in the whole process, or what the environment's KD_CHUNK_CACHE says (bytes). */
gboolean kd_h5_chunks_take (KdH5Column *column, const gchar *path, KdH5Map *map, const gint64 *rows, gint64 first, gint64 n, gpointer to, GError **error);
/* kd_h5_chunks_forget: no thread uses the column any more, no chunk of it is kept. */
void kd_h5_chunks_forget (const KdH5Column *column);

/* kd_h5_column_offset: where @row begins in the file; not for KD_H5_LIBRARY and KD_H5_FILTERED. */
static inline guint64
kd_h5_column_offset (const KdH5Column *column, gint64 row)
{
  if (column->storage == KD_H5_CONTIGUOUS)
    return column->offset + (guint64) row * column->row_bytes;
  return column->chunks[row / column->chunk_rows] + (guint64) (row % column->chunk_rows) * column->row_bytes;
}

/* kd_h5_column_open: dataset @name of @group, checked; takes nothing for granted. NULL with @error. */
KdH5Column *kd_h5_column_open (hid_t group, const gchar *name, const gchar *path, guint64 file_size, gboolean may_map,
    GError **error);
/* kd_h5_column_read_library: @rows [n], or [first, first + n) when NULL, through libhdf5 into @to. The rows are in range. */
gboolean kd_h5_column_read_library (KdH5Column *column, const gchar *path, const gint64 *rows, gint64 first, gint64 n,
    gpointer to, GError **error);

struct _KdH5Reader {
  gchar *path;
  hid_t file, group; /* -1 when no column needs libhdf5 */
  KdH5Map *map;
  GPtrArray *columns; /* of KdH5Column, in the file's order */
  GPtrArray *names;   /* of datasets, while opening */
  GPtrArray *groups;  /* of names */
  GHashTable *attributes;
  KdLayout *layout;
  gint64 n_rows;
  gchar *uneven; /* why there is no common N, or NULL */
};
/* kd_h5_find_column: by the dataset's name, or NULL. */
KdH5Column *kd_h5_find_column (const KdH5Reader *reader, const gchar *name);
/* kd_h5_find_text: the two datasets of a text field: NAME.bytes + NAME.offset, or record.json + record.offset. */
gboolean kd_h5_find_text (const KdH5Reader *reader, const gchar *field, KdH5Column **ret_bytes, KdH5Column **ret_offsets);

/* kd_h5_reader_open_full: as kd_h5_reader_open; @may_map FALSE for a reader that is one of many. */
KdH5Reader *kd_h5_reader_open_full (const gchar *path, const gchar *group, gboolean may_map, GError **error);
/* kd_h5_reader_size: bytes of the file. */
guint64 kd_h5_reader_size (const KdH5Reader *reader);

/* KdH5Fault: errno of the first write to a file that failed, or 0; a GLib atomic reference-counted box. Since libhdf5 is not told (kd-h5-driver.c),
 * its calls succeed: who writes much looks at kd_h5_write_error now and then. */
typedef struct {
  int error;
} KdH5Fault;
gboolean kd_h5_driver_use (hid_t access, KdH5Fault *fault);
/* kd_h5_driver_fault: (transfer none) of a file of kd_h5_create. */
KdH5Fault *kd_h5_driver_fault (hid_t file);
/* kd_h5_frame_add: put the checksum of what is not rows behind a whole file; 0, or errno. */
int kd_h5_frame_add (const gchar *path);
/* kd_h5_frame_check: compare it, where there is one. KD_ERROR_FORMAT: damaged. */
gboolean kd_h5_frame_check (const gchar *path, GError **error);
/* kd_h5_create: a new file under a temporary name beside @path, room for @bytes reserved. @ret_temporary (transfer full). */
hid_t kd_h5_create (const gchar *path, guint64 bytes, gchar **ret_temporary, GError **error);
/* kd_h5_write_error: errno of the first write that failed, 0 when all is well. */
int kd_h5_write_error (hid_t file);
/* kd_h5_close_created: closes such a file. @good: what the caller thinks of it. TRUE when every byte is written; else @temporary is removed and @error,
 * unless it is set, says why. The file gets its frame (kd-h5-frame.c). */
gboolean kd_h5_close_created (hid_t file, gboolean good, const gchar *temporary, const gchar *path, GError **error);
/* kd_h5_write_at: all of it; FALSE with errno. */
gboolean kd_h5_write_at (int fd, gconstpointer data, gsize size, guint64 offset);
/* kd_h5_reserve: KD_ERROR_IO when the folder of @path has not @bytes free; with @fd >= 0 the room is taken. */
gboolean kd_h5_reserve (const gchar *path, int fd, guint64 bytes, GError **error);
/* kd_h5_publish: sync @temporary, rename it to @path, sync the folder. On failure @temporary is removed. */
gboolean kd_h5_publish (const gchar *temporary, const gchar *path, GError **error);
/* kd_h5_put: a dataset of the root or @group with these rows, contiguous. Returns its id, -1 on failure (HDF5's stack says why). */
hid_t kd_h5_put (hid_t group, const gchar *name, KdDtype dtype, guint rank, const gint64 *dims, gconstpointer data);
/* kd_h5_put_growing: an empty dataset in chunks of @chunk_rows whole rows; @deflate: a level from 1 to 9, 0 without compression. */
hid_t kd_h5_put_growing (hid_t group, const gchar *name, KdDtype dtype, guint rank, const gint64 *dims, gint64 chunk_rows, guint deflate);

G_END_DECLS
