/* IDX, the format of MNIST: a big-endian header (two zero bytes, type, rank, sizes) and the numbers. Images and labels are two files. */
#include "kd-data.h"

#include <string.h>

typedef struct {
  const gchar *path;
  GInputStream *stream;
  KdDtype dtype;
  guint8 type;
  guint size; /* bytes an element */
  guint rank;
  gint64 dims[KD_MAX_RANK];
  gsize row_elements;
} KdIdx;

static void
idx_clear (KdIdx *idx)
{
  g_clear_object (&idx->stream);
}
G_DEFINE_AUTO_CLEANUP_CLEAR_FUNC (KdIdx, idx_clear)

static const struct {
  guint8 type, size;
  KdDtype dtype;
} idx_types[] = {
  { 0x08, 1, KD_UINT8 },
  { 0x09, 1, KD_INT32 },
  { 0x0b, 2, KD_INT32 },
  { 0x0c, 4, KD_INT32 },
  { 0x0d, 4, KD_FLOAT32 },
  { 0x0e, 8, KD_FLOAT64 },
};

static gboolean
idx_type (KdIdx *idx, const guint8 magic[4], GError **error)
{
  if (magic[0] || magic[1] || magic[3] == 0 || magic[3] > 7) {
    g_set_error (error, KD_ERROR, KD_ERROR_FORMAT,
        "Not an IDX file: path=\"%s\", first bytes=%02x %02x %02x %02x, wanted=00 00 TYPE RANK (rank 1 to 7)", idx->path, magic[0], magic[1],
        magic[2], magic[3]);
    return FALSE;
  }
  for (guint i = 0; i < G_N_ELEMENTS (idx_types); i++)
    if (idx_types[i].type == magic[2]) {
      idx->type = magic[2];
      idx->size = idx_types[i].size;
      idx->dtype = idx_types[i].dtype;
      idx->rank = magic[3];
      return TRUE;
    }
  g_set_error (error, KD_ERROR, KD_ERROR_FORMAT, "Unknown IDX type: path=\"%s\", type=0x%02x, known=0x08 0x09 0x0b 0x0c 0x0d 0x0e", idx->path,
      magic[2]);
  return FALSE;
}

/* Declared sizes against the file's, before anything is allocated for them. */
static gboolean
idx_check_size (KdIdx *idx, gint64 file_bytes, GError **error)
{
  gsize total;
  gsize header = 4 + 4 * (gsize) idx->rank, row = idx->size;
  gboolean fits = TRUE;

  for (guint i = 1; i < idx->rank; i++)
    fits = fits && g_size_checked_mul (&row, row, (gsize) idx->dims[i]);
  fits = fits && row > 0 && row <= KD_DATA_MAX_ROW_BYTES && g_size_checked_mul (&total, row, (gsize) idx->dims[0]) &&
      g_size_checked_add (&total, total, header);
  if (!fits) {
    g_set_error (error, KD_ERROR, KD_ERROR_RANGE, "IDX header declares an impossible size: path=\"%s\", rows=%" G_GINT64_FORMAT ", most bytes a "
                                                  "row=%zu",
        idx->path, idx->dims[0], KD_DATA_MAX_ROW_BYTES);
    return FALSE;
  }
  idx->row_elements = row / idx->size;
  if (file_bytes >= 0 && (gsize) file_bytes != total) {
    g_set_error (error, KD_ERROR, KD_ERROR_IO, "IDX file %s: path=\"%s\", rows declared=%" G_GINT64_FORMAT ", bytes wanted=%zu, bytes "
                                               "there=%" G_GINT64_FORMAT "; get it again",
        (gsize) file_bytes < total ? "is cut off" : "is longer than its header says", idx->path, idx->dims[0], total, file_bytes);
    return FALSE;
  }
  return TRUE;
}

static gboolean
idx_open (KdIdx *idx, const gchar *path, GError **error)
{
  guint8 magic[4];
  guint32 sizes[KD_MAX_RANK];
  gint64 file_bytes;

  idx->path = path;
  if (!(idx->stream = kd_data_open (path, &file_bytes, error)) || !kd_data_read (idx->stream, magic, sizeof magic, path, "header", error) ||
      !idx_type (idx, magic, error) || !kd_data_read (idx->stream, sizes, 4 * idx->rank, path, "header", error))
    return FALSE;
  for (guint i = 0; i < idx->rank; i++)
    idx->dims[i] = GUINT32_FROM_BE (sizes[i]);
  return idx_check_size (idx, file_bytes, error);
}

static gdouble
idx_float (const guint8 *at, guint size)
{
  guint32 b32;
  guint64 b64;
  gfloat single;
  gdouble value;

  if (size == 4) {
    memcpy (&b32, at, 4);
    b32 = GUINT32_FROM_BE (b32);
    memcpy (&single, &b32, 4);
    return single;
  }
  memcpy (&b64, at, 8);
  b64 = GUINT64_FROM_BE (b64);
  memcpy (&value, &b64, 8);
  return value;
}

static gint32
idx_int (const guint8 *at, guint8 type)
{
  switch (type) {
  case 0x08:
    return at[0];
  case 0x09:
    return (gint8) at[0];
  case 0x0b:
    return (gint16) (at[0] << 8 | at[1]);
  default:
    return (gint32) ((guint32) at[0] << 24 | (guint32) at[1] << 16 | (guint32) at[2] << 8 | at[3]);
  }
}

/* The next @n rows. A [N, H, W] file becomes [N, 1, H, W] (one channel); @labels: one int64 a row. */
static KdTensor *
idx_rows (KdIdx *idx, gint64 n, gint64 first, gboolean labels, GError **error)
{
  gint64 dims[KD_MAX_RANK] = { n, 1 };
  gsize bytes = (gsize) n * idx->row_elements * idx->size, n_elements = (gsize) n * idx->row_elements;
  g_autofree guint8 *raw = g_malloc (bytes);
  g_autofree gchar *at = g_strdup_printf ("row %" G_GINT64_FORMAT " of %" G_GINT64_FORMAT, first, idx->dims[0]);
  guint shift = idx->rank == 3;
  KdTensor *tensor;

  if (!kd_data_read (idx->stream, raw, bytes, idx->path, at, error))
    return NULL;
  memcpy (dims + 1 + shift, idx->dims + 1, (idx->rank - 1) * sizeof *dims);
  tensor = kd_tensor_new (labels ? KD_INT64 : idx->dtype, idx->rank + shift, dims);
  if (labels)
    for (gsize i = 0; i < n_elements; i++)
      ((gint64 *) tensor->data)[i] = idx_int (raw + i * idx->size, idx->type);
  else if (idx->dtype == KD_UINT8)
    memcpy (tensor->data, raw, bytes);
  else if (idx->dtype == KD_INT32)
    for (gsize i = 0; i < n_elements; i++)
      ((gint32 *) tensor->data)[i] = idx_int (raw + i * idx->size, idx->type);
  else if (idx->dtype == KD_FLOAT32)
    for (gsize i = 0; i < n_elements; i++)
      ((gfloat *) tensor->data)[i] = (gfloat) idx_float (raw + i * idx->size, 4);
  else
    for (gsize i = 0; i < n_elements; i++)
      ((gdouble *) tensor->data)[i] = idx_float (raw + i * idx->size, 8);
  return tensor;
}

static gboolean
idx_open_labels (KdIdx *labels, const KdIdx *images, const gchar *path, GError **error)
{
  if (!idx_open (labels, path, error))
    return FALSE;
  if (labels->rank != 1 || labels->dtype & KD_ANY_FLOAT) {
    g_set_error (error, KD_ERROR, KD_ERROR_SHAPE, "Not labels: path=\"%s\", rank=%u, type=0x%02x, wanted=rank 1 of whole numbers; is it the "
                                                  "images' file?",
        path, labels->rank, labels->type);
    return FALSE;
  }
  if (labels->dims[0] != images->dims[0]) {
    g_set_error (error, KD_ERROR, KD_ERROR_MISMATCH, "Images and labels differ in number: images=%" G_GINT64_FORMAT " (\"%s\"), "
                                                     "labels=%" G_GINT64_FORMAT " (\"%s\")",
        images->dims[0], images->path, labels->dims[0], path);
    return FALSE;
  }
  return TRUE;
}

static gboolean
check_labels (const KdTensor *labels, const KdIdx *idx, gint64 first, GError **error)
{
  for (gint64 i = 0; i < labels->dims[0]; i++)
    if (((const gint64 *) labels->data)[i] < 0) {
      g_set_error (error, KD_ERROR, KD_ERROR_RANGE, "Negative label: path=\"%s\", row=%" G_GINT64_FORMAT ", value=%" G_GINT64_FORMAT, idx->path,
          first + i, ((const gint64 *) labels->data)[i]);
      return FALSE;
    }
  return TRUE;
}

static gboolean
idx_copy (KdIdx *images, KdIdx *labels, KdDataOut *out, GError **error)
{
  static const gchar *const names[] = { "input", "label" };
  gint64 step = kd_npy_batch_rows (images->row_elements * images->size);

  for (gint64 row = 0; row < images->dims[0]; row += step) {
    gint64 n = MIN (step, images->dims[0] - row);
    g_autoptr (KdTensor) input = idx_rows (images, n, row, FALSE, error), label = NULL;
    if (!input || (labels->stream && (!(label = idx_rows (labels, n, row, TRUE, error)) || !check_labels (label, labels, row, error))) ||
        !kd_data_out_append (out, label ? 2 : 1, names, (KdTensor *const[]) { input, label }, error))
      return FALSE;
  }
  return kd_data_at_end (images->stream, images->path, error) &&
      (!labels->stream || kd_data_at_end (labels->stream, labels->path, error));
}

static gboolean
idx_run (const KdImportOptions *options, GError **error)
{
  g_auto (KdIdx) images = { 0 }, labels = { 0 };
  g_autoptr (KdDataOut) out = NULL;

  if (!idx_open (&images, options->input, error) ||
      (options->labels && !idx_open_labels (&labels, &images, options->labels, error)) ||
      !(out = kd_data_out_new (options->output, images.dims[0], error)) || !idx_copy (&images, &labels, out, error))
    return FALSE;
  return kd_import_finish (options, "idx", NULL, out, error);
}

static gboolean
idx_sniff (const gchar *path, const guint8 *head, gsize n)
{
  return n >= 4 && head[0] == 0 && head[1] == 0 && head[2] >= 0x08 && head[2] <= 0x0e && head[3] >= 1 && head[3] <= 7;
}

const KdImportFormat kd_import_idx = {
  .name = "idx",
  .description = "IDX (MNIST): images, with --labels FILE for the labels; plain or .gz",
  .sniff = idx_sniff,
  .run = idx_run,
};
