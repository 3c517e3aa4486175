/* KdH5Writer: rows are kept in memory up to a limit; what fits is written contiguous at the end, what does not goes out in
 * chunks of whole rows. Nothing has the final name before all of it is on the disk. */
#include "kd-h5-private.h"

#include <string.h>
#include <unistd.h>

#define BUFFER_BYTES ((gsize) 32 << 20)
#define CHUNK_BYTES ((gsize) 1 << 20)
#define DEFLATE_LEVEL 4 /* beyond it time doubles for a few per cent of size */
#ifndef KD_VERSION
#define KD_VERSION "0.1.0"
#endif

/* One dataset that grows. A text field has two of them. */
typedef struct {
  gchar *name;
  const gchar *field; /* interned */
  KdDtype dtype;
  guint rank;
  gint64 dims[KD_MAX_RANK]; /* of a row from 1 on */
  gsize row_bytes;
  gint64 chunk_rows;
  GByteArray *buffer;
  gint64 n_written; /* rows in the file */
  hid_t dataset;    /* -1: none yet */
} Column;

struct _KdH5Writer {
  gchar *path, *temporary;
  hid_t file;
  GPtrArray *columns; /* of Column */
  KdLayout *layout;   /* NULL before the first rows */
  gsize buffered;
  gboolean deflate;
  gboolean failed;
};

static void
column_free (gpointer data)
{
  Column *column = data;

  kd_hid_close (column->dataset);
  g_byte_array_unref (column->buffer);
  g_free (column->name);
  g_free (column);
}

KdH5Writer *
kd_h5_writer_new (const gchar *path, GError **error)
{
  g_auto (KdH5Guard) guard = kd_h5_enter ();
  g_autofree gchar *temporary = NULL;
  KdH5Writer *writer;
  hid_t file;

  kd_h5_sweep (path);
  file = kd_h5_create (path, 0, &temporary, error);
  if (file < 0)
    return NULL;
  writer = g_new0 (KdH5Writer, 1);
  writer->path = g_strdup (path);
  writer->temporary = g_steal_pointer (&temporary);
  writer->file = file;
  writer->columns = g_ptr_array_new_with_free_func (column_free);
  return writer;
}

void
kd_h5_writer_close (KdH5Writer *writer)
{
  g_auto (KdH5Guard) guard = kd_h5_enter ();

  g_ptr_array_unref (writer->columns);
  kd_hid_close (writer->file);
  if (writer->temporary)
    unlink (writer->temporary);
  g_clear_pointer (&writer->layout, kd_layout_free);
  g_free (writer->temporary);
  g_free (writer->path);
  g_free (writer);
}

gboolean
kd_h5_writer_set_filter (KdH5Writer *writer, const gchar *filter, GError **error)
{
  g_return_val_if_fail (!writer->layout, FALSE);
  writer->deflate = g_str_equal (filter, "deflate");
  if (writer->deflate || g_str_equal (filter, "none"))
    return TRUE;
  g_set_error (error, KD_ERROR, KD_ERROR_UNSUPPORTED, "Unknown filter: path=\"%s\", filter=%s, known=\"none deflate\"", writer->path, filter);
  return FALSE;
}

/* The file on the disk is of no use any more: give its room back at once. */
static gboolean
fail_write (KdH5Writer *writer, const gchar *name, gsize bytes, GError **error)
{
  int saved = writer->file >= 0 ? kd_h5_write_error (writer->file) : 0;
  g_autofree gchar *reason = saved ? g_strdup (g_strerror (saved)) : kd_h5_reason ();
  g_autoptr (GError) full = NULL;

  writer->failed = TRUE;
  if (!kd_h5_reserve (writer->path, -1, bytes, &full))
    g_propagate_error (error, g_steal_pointer (&full));
  else
    g_set_error (error, KD_ERROR, KD_ERROR_IO, "Cannot write: path=\"%s\", dataset=\"%s\", wanted=%" G_GSIZE_FORMAT " bytes, reason=%s", writer->path, name, bytes, reason);
  if (writer->temporary)
    unlink (writer->temporary);
  return FALSE;
}

static Column *
column_add (KdH5Writer *writer, const gchar *field, gchar *name, KdDtype dtype, guint rank, const gint64 *dims)
{
  Column *column = g_new0 (Column, 1);

  column->field = g_intern_string (field);
  column->name = name;
  column->dtype = dtype;
  column->rank = MAX (rank, 1);
  column->row_bytes = kd_dtype_size (dtype);
  for (guint i = 1; i < rank; i++)
    column->row_bytes *= (gsize) (column->dims[i] = dims[i]);
  column->chunk_rows = (gint64) MAX (1, CHUNK_BYTES / MAX (column->row_bytes, 1));
  column->buffer = g_byte_array_new ();
  column->dataset = -1;
  g_ptr_array_add (writer->columns, column);
  return column;
}

static void
column_append (KdH5Writer *writer, Column *column, gconstpointer data, gsize bytes)
{
  if (bytes)
    g_byte_array_append (column->buffer, data, (guint) bytes);
  writer->buffered += bytes;
}

/* The first rows fix which fields there are, and their shapes. */
static void
fix_layout (KdH5Writer *writer, guint n, const gchar *const *names, KdTensor *const *tensors)
{
  gint64 zero = 0;

  writer->layout = kd_layout_new ();
  for (guint i = 0; i < n; i++) {
    const KdTensor *tensor = tensors[i];
    Column *offsets;
    kd_layout_set (writer->layout, names[i], tensor->dtype, MAX (tensor->rank, 1), tensor->dims);
    if (tensor->dtype != KD_UTF8) {
      column_add (writer, names[i], g_strdup (names[i]), tensor->dtype, tensor->rank, tensor->dims);
      continue;
    }
    column_add (writer, names[i], g_strconcat (names[i], g_str_equal (names[i], "record") ? ".json" : ".bytes", NULL), KD_UINT8, 1, NULL);
    offsets = column_add (writer, names[i], g_strconcat (names[i], ".offset", NULL), KD_INT64, 1, NULL);
    column_append (writer, offsets, &zero, sizeof zero);
  }
}

static gboolean
check_append (KdH5Writer *writer, guint n, const gchar *const *names, KdTensor *const *tensors, GError **error)
{
  gint64 n_rows = -1;

  if (n != kd_layout_n_fields (writer->layout)) {
    g_autofree gchar *have = kd_layout_names (writer->layout);
    g_set_error (error, KD_ERROR, KD_ERROR_FIELD, "Fields changed between batches: path=\"%s\", fields=%u, first batch=\"%s\"",
        writer->path, n, have);
    return FALSE;
  }
  for (guint i = 0; i < n; i++) {
    const KdLayoutField *field = kd_layout_find (writer->layout, names[i]);
    const KdTensor *tensor = tensors[i];
    gint64 rows = tensor->rank ? tensor->dims[0] : 1;
    if (!field) {
      g_set_error (error, KD_ERROR, KD_ERROR_FIELD, "Field not in the first batch: path=\"%s\", field=%s", writer->path, names[i]);
      return FALSE;
    }
    if (tensor->rank > 0 && !kd_layout_check_tensor (field, tensor, error))
      return FALSE;
    if (n_rows >= 0 && rows != n_rows) {
      g_set_error (error, KD_ERROR, KD_ERROR_SHAPE, "Rows differ: path=\"%s\", field=%s, rows=%" G_GINT64_FORMAT ", others have %" G_GINT64_FORMAT, writer->path, names[i], rows, n_rows);
      return FALSE;
    }
    n_rows = rows;
  }
  return TRUE;
}

/* Write @rows rows of the buffer at the end of the dataset. */
static gboolean
column_extend (Column *column, gint64 rows)
{
  g_auto (KdHid) type = kd_h5_file_type (column->dtype);
  g_auto (KdHid) space = -1;
  g_auto (KdHid) memory = -1;
  hsize_t start[KD_MAX_RANK] = { (hsize_t) column->n_written }, count[KD_MAX_RANK] = { (hsize_t) rows };
  hsize_t extent[KD_MAX_RANK] = { (hsize_t) (column->n_written + rows) };

  for (guint i = 1; i < column->rank; i++)
    extent[i] = count[i] = (hsize_t) column->dims[i];
  if (H5Dset_extent (column->dataset, extent) < 0)
    return FALSE;
  space = H5Dget_space (column->dataset);
  memory = H5Screate_simple ((int) column->rank, count, NULL);
  if (H5Sselect_hyperslab (space, H5S_SELECT_SET, start, NULL, count, NULL) < 0 ||
      H5Dwrite (column->dataset, type, memory, space, H5P_DEFAULT, column->buffer->data) < 0)
    return FALSE;
  column->n_written += rows;
  g_byte_array_remove_range (column->buffer, 0, (guint) ((gsize) rows * column->row_bytes));
  return TRUE;
}

/* Send whole chunks out; with @all the rest too. */
static gboolean
flush_chunks (KdH5Writer *writer, gboolean all, GError **error)
{
  g_auto (KdH5Guard) guard = kd_h5_enter ();

  writer->buffered = 0;
  for (guint i = 0; i < writer->columns->len; i++) {
    Column *column = g_ptr_array_index (writer->columns, i);
    gint64 rows = column->row_bytes ? (gint64) (column->buffer->len / column->row_bytes) : 0;
    gsize bytes = column->buffer->len;
    if (!all)
      rows -= rows % column->chunk_rows;
    if (column->dataset < 0)
      column->dataset = kd_h5_put_growing (writer->file, column->name, column->dtype, column->rank, column->dims, column->chunk_rows,
          writer->deflate ? DEFLATE_LEVEL : 0);
    if (column->dataset < 0 || (rows && !column_extend (column, rows)) || kd_h5_write_error (writer->file))
      return fail_write (writer, column->name, bytes, error);
    writer->buffered += column->buffer->len;
  }
  return TRUE;
}

static void
append_text (KdH5Writer *writer, guint *at, const KdTensor *tensor)
{
  Column *bytes = g_ptr_array_index (writer->columns, *at), *offsets = g_ptr_array_index (writer->columns, *at + 1);
  gint64 base = bytes->n_written + bytes->buffer->len - tensor->offsets[0];

  column_append (writer, bytes, tensor->data, tensor->n_bytes);
  for (gint64 i = 1; i <= tensor->dims[0]; i++) {
    gint64 end = base + tensor->offsets[i];
    column_append (writer, offsets, &end, sizeof end);
  }
  *at += 2;
}

static const KdTensor *
find_tensor (guint n, const gchar *const *names, KdTensor *const *tensors, const gchar *field)
{
  guint i = 0;

  while (i < n && !g_str_equal (names[i], field))
    i++;
  return i < n ? tensors[i] : NULL;
}

/* In pieces, so that a batch of any size fits the buffer's 32-bit length. */
static gboolean
append_number (KdH5Writer *writer, Column *column, const KdTensor *tensor, GError **error)
{
  const guint8 *data = tensor->data;
  gsize piece = MAX (BUFFER_BYTES / MAX (column->row_bytes, 1), 1) * column->row_bytes;

  for (gsize done = 0; done < tensor->n_bytes; done += piece) {
    column_append (writer, column, data + done, MIN (piece, tensor->n_bytes - done));
    if (writer->buffered > BUFFER_BYTES && !flush_chunks (writer, FALSE, error))
      return FALSE;
  }
  return TRUE;
}

gboolean
kd_h5_writer_append (KdH5Writer *writer, guint n, const gchar *const *names, KdTensor *const *tensors, GError **error)
{
  g_return_val_if_fail (!writer->failed, FALSE);
  if (!writer->layout)
    fix_layout (writer, n, names, tensors);
  if (!check_append (writer, n, names, tensors, error))
    return FALSE;
  for (guint at = 0; at < writer->columns->len;) {
    Column *column = g_ptr_array_index (writer->columns, at);
    const KdTensor *tensor = find_tensor (n, names, tensors, column->field);
    if (tensor->dtype == KD_UTF8)
      append_text (writer, &at, tensor);
    else if (append_number (writer, column, tensor, error))
      at++;
    else
      return FALSE;
  }
  return writer->buffered <= BUFFER_BYTES || flush_chunks (writer, FALSE, error);
}

gboolean
kd_h5_writer_write (KdH5Writer *writer, const gchar *group, const gchar *name, KdTensor *tensor, GError **error)
{
  g_auto (KdH5Guard) guard = kd_h5_enter ();
  g_auto (KdHid) parent = -1;
  g_auto (KdHid) first = -1;
  g_auto (KdHid) second = -1;
  g_autofree gchar *bytes = g_strconcat (name, ".bytes", NULL), *offset = g_strconcat (name, ".offset", NULL);
  gint64 n_bytes = (gint64) tensor->n_bytes, n_offsets = tensor->dims[0] + 1;

  g_return_val_if_fail (!writer->failed, FALSE);
  if (!kd_field_name_is_valid (name)) {
    g_set_error (error, KD_ERROR, KD_ERROR_FIELD, "Not a field's name: \"%s\"; wanted lower case letters, digits and dots", name);
    return FALSE;
  }
  if (!group)
    parent = H5Gopen2 (writer->file, "/", H5P_DEFAULT);
  else if (H5Lexists (writer->file, group, H5P_DEFAULT) > 0)
    parent = H5Gopen2 (writer->file, group, H5P_DEFAULT);
  else
    parent = H5Gcreate2 (writer->file, group, H5P_DEFAULT, H5P_DEFAULT, H5P_DEFAULT);
  if (tensor->dtype != KD_UTF8) {
    first = kd_h5_put (parent, name, tensor->dtype, tensor->rank, tensor->dims, tensor->data);
    return first >= 0 || fail_write (writer, name, tensor->n_bytes, error);
  }
  first = kd_h5_put (parent, bytes, KD_UINT8, 1, &n_bytes, tensor->data);
  second = kd_h5_put (parent, offset, KD_INT64, 1, &n_offsets, tensor->offsets);
  return (first >= 0 && second >= 0) || fail_write (writer, name, tensor->n_bytes, error);
}

gboolean
kd_h5_writer_set_attribute (KdH5Writer *writer, const gchar *name, const gchar *value, GError **error)
{
  g_auto (KdH5Guard) guard = kd_h5_enter ();

  return kd_h5_set_attribute (writer->file, name, value) || fail_write (writer, name, strlen (value), error);
}

/* Small enough to be still in memory: contiguous datasets, which any tool maps. */
static gboolean
write_contiguous (KdH5Writer *writer, GError **error)
{
  for (guint i = 0; i < writer->columns->len; i++) {
    Column *column = g_ptr_array_index (writer->columns, i);
    column->dims[0] = column->row_bytes ? (gint64) (column->buffer->len / column->row_bytes) : 0;
    column->dataset = kd_h5_put (writer->file, column->name, column->dtype, column->rank, column->dims, column->buffer->data);
    if (column->dataset < 0)
      return fail_write (writer, column->name, column->buffer->len, error);
  }
  return TRUE;
}

static gboolean
write_rows (KdH5Writer *writer, GError **error)
{
  Column *first = writer->columns->len ? g_ptr_array_index (writer->columns, 0) : NULL;
  g_autofree gchar *fields = NULL;

  if (!first)
    return TRUE;
  if (!kd_h5_reserve (writer->path, -1, writer->buffered, error))
    return FALSE;
  if (!(first->dataset < 0 && !writer->deflate ? write_contiguous (writer, error) : flush_chunks (writer, TRUE, error)))
    return FALSE;
  fields = kd_layout_to_string (writer->layout);
  if (kd_h5_set_attribute (writer->file, "kd.schema", KD_H5_SCHEMA) && kd_h5_set_attribute (writer->file, "kd.fields", fields))
    return TRUE;
  return fail_write (writer, "kd.schema", 0, error);
}

gboolean
kd_h5_writer_finish (KdH5Writer *writer, GError **error)
{
  g_auto (KdH5Guard) guard = kd_h5_enter ();
  g_autofree gchar *temporary = NULL;
  hid_t file;

  g_return_val_if_fail (writer->temporary && !writer->failed, FALSE);
  if (!write_rows (writer, error))
    return FALSE;
  if (!kd_h5_set_attribute (writer->file, "kd.created-by", "kdstream " KD_VERSION))
    return fail_write (writer, "kd.created-by", 0, error);
  g_ptr_array_set_size (writer->columns, 0);
  file = writer->file;
  writer->file = -1;
  temporary = g_steal_pointer (&writer->temporary);
  return kd_h5_close_created (file, TRUE, temporary, writer->path, error) && kd_h5_publish (temporary, writer->path, error);
}
