/* Inside `kd cache pack`: where a packed field's rows come from, and how they get into the file. */
#pragma once
#include "kd-cache-private.h"

G_BEGIN_DECLS

/**
 * KdPackField: one dataset of the output.
 * @name: of the dataset, there and here
 * @ids: the field whose order this one's last axis takes, NULL: rows as they are
 * @packed: what the ids become, on the ids' own field; else NULL
 */
typedef struct {
  const gchar *name, *ids;
  const KdCacheEncoding *packed;
} KdPackField;

/* kd_pack_index: which fields of the cache are ids and what stands beside them; changes @to's layout and encodings. KD_ERROR_FIELD when there are none. */
gboolean kd_pack_index (KdCacheReader *reader, const gchar *path, const gint64 *rows, KdCacheManifest *to, GArray *fields, GError **error);
/* kd_pack_take: (transfer full) @n rows of a field as the output has them. */
KdTensor *kd_pack_take (KdCacheReader *reader, const KdPackField *field, gint64 n, const gint64 *rows, GError **error);

/* KdPackWriter: one dataset that is written from its first row to its last. */
typedef struct {
  hid_t dataset;
  KdH5Pipeline pipeline; /* n = 0: contiguous */
  gint64 n_rows, chunk_rows;
  gsize row_bytes;
} KdPackWriter;
/* kd_pack_writer_open: FALSE with HDF5's error stack. */
gboolean kd_pack_writer_open (KdPackWriter *writer, hid_t file, const KdLayoutField *field, gint64 n_rows, gint64 block_rows, const gchar *filter);
/* kd_pack_writer_write: rows from @first on, whole chunks unless they are the last. Chunks are packed by several threads. */
gboolean kd_pack_writer_write (KdPackWriter *writer, const KdTensor *rows, gint64 first);

G_END_DECLS
