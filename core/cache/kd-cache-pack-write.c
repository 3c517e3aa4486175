/* Writing a dataset of a packed cache: as it is, or in chunks that several threads pack while libhdf5 only stores them. */
#include "kd-cache-pack.h"

#include <string.h>

#define CHUNK_BYTES ((gsize) 256 << 10)

gboolean
kd_pack_writer_open (KdPackWriter *writer, hid_t file, const KdLayoutField *field, gint64 n_rows, gint64 block_rows, const gchar *filter)
{
  g_auto (KdHid) create = H5Pcreate (H5P_DATASET_CREATE);
  g_auto (KdHid) type = kd_h5_file_type (field->dtype);
  g_auto (KdHid) space = -1;
  hsize_t dims[KD_MAX_RANK] = { (hsize_t) n_rows }, chunk[KD_MAX_RANK];

  *writer = (KdPackWriter) { .dataset = -1, .n_rows = n_rows, .row_bytes = kd_dtype_size (field->dtype) };
  for (guint i = 1; i < field->rank; i++) {
    dims[i] = chunk[i] = (hsize_t) field->dims[i];
    writer->row_bytes *= (gsize) field->dims[i];
  }
  /* Whole checksum blocks: checking one unpacks one chunk. */
  writer->chunk_rows = block_rows * MAX ((gint64) (CHUNK_BYTES / MAX (writer->row_bytes * (gsize) block_rows, 1)), 1);
  writer->chunk_rows = MIN (writer->chunk_rows, n_rows);
  chunk[0] = (hsize_t) writer->chunk_rows;
  space = H5Screate_simple ((int) field->rank, dims, NULL);
  H5Pset_fill_time (create, H5D_FILL_TIME_NEVER);
  if (writer->row_bytes && kd_h5_pipeline_init (&writer->pipeline, filter, kd_dtype_size (field->dtype), (gsize) writer->chunk_rows * writer->row_bytes) &&
      (H5Pset_chunk (create, (int) field->rank, chunk) < 0 || !kd_h5_pipeline_set (&writer->pipeline, create)))
    return FALSE;
  writer->dataset = H5Dcreate2 (file, field->name, type, space, H5P_DEFAULT, create, H5P_DEFAULT);
  return writer->dataset >= 0 && (field->dtype != KD_BFLOAT16 || kd_h5_set_attribute (writer->dataset, "kd.dtype", "bfloat16"));
}

static gboolean
write_plain (hid_t dataset, const KdTensor *rows, gint64 first)
{
  g_auto (KdHid) type = kd_h5_file_type (rows->dtype);
  g_auto (KdHid) space = H5Dget_space (dataset);
  g_auto (KdHid) memory = -1;
  hsize_t start[KD_MAX_RANK] = { (hsize_t) first }, count[KD_MAX_RANK];

  for (guint i = 0; i < rows->rank; i++)
    count[i] = (hsize_t) rows->dims[i];
  memory = H5Screate_simple ((int) rows->rank, count, NULL);
  return H5Sselect_hyperslab (space, H5S_SELECT_SET, start, NULL, count, NULL) >= 0 &&
      H5Dwrite (dataset, type, memory, space, H5P_DEFAULT, rows->data) >= 0;
}

/* The last chunk is full too, with zeros behind the rows. */
static gsize
pack_chunk (const KdPackWriter *writer, const KdTensor *rows, gint64 nth, guint8 *to)
{
  gsize bytes = writer->pipeline.chunk_bytes, at = (gsize) nth * bytes, left = rows->n_bytes - at;
  g_autofree guint8 *padded = left < bytes ? g_malloc0 (bytes) : NULL;

  if (padded)
    memcpy (padded, (const guint8 *) rows->data + at, left);
  return kd_h5_pipeline_pack (&writer->pipeline, padded ? padded : (const guint8 *) rows->data + at, to);
}

gboolean
kd_pack_writer_write (KdPackWriter *writer, const KdTensor *rows, gint64 first)
{
  gint64 n_chunks = (rows->dims[0] + writer->chunk_rows - 1) / writer->chunk_rows;
  gsize room = kd_h5_pipeline_room (&writer->pipeline);
  g_autofree gsize *sizes = NULL;
  g_autofree guint8 *packed = NULL;

  if (writer->pipeline.n == 0)
    return write_plain (writer->dataset, rows, first);
  sizes = g_new (gsize, n_chunks);
  packed = g_malloc ((gsize) n_chunks * room);
#pragma omp parallel for schedule(dynamic)
  for (gint64 i = 0; i < n_chunks; i++)
    sizes[i] = pack_chunk (writer, rows, i, packed + (gsize) i * room);
  for (gint64 i = 0; i < n_chunks; i++) {
    hsize_t at[KD_MAX_RANK] = { (hsize_t) (first + i * writer->chunk_rows) };
    if (sizes[i] == 0 || H5Dwrite_chunk (writer->dataset, H5P_DEFAULT, 0, at, sizes[i], packed + (gsize) i * room) < 0)
      return FALSE;
  }
  return TRUE;
}
