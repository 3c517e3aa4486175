/* Columns: a batch that grows row by row, for inputs that come as records (CSV, JSON lines). */
#include "kd-data.h"

#include <string.h>

KdColumns *
kd_columns_new (void)
{
  return g_new0 (KdColumns, 1);
}

static void
column_free (gpointer data)
{
  KdColumn *column = data;

  g_byte_array_unref (column->data);
  g_array_unref (column->offsets);
  g_free (column->name);
  g_free (column);
}

void
kd_columns_free (KdColumns *columns)
{
  if (!columns)
    return;
  g_clear_pointer (&columns->columns, g_ptr_array_unref);
  g_free (columns);
}

KdColumn *
kd_columns_find (KdColumns *columns, const gchar *name)
{
  for (guint i = 0; columns->columns && i < columns->columns->len; i++) {
    KdColumn *column = g_ptr_array_index (columns->columns, i);
    if (g_str_equal (column->name, name))
      return column;
  }
  return NULL;
}

KdColumn *
kd_columns_add (KdColumns *columns, const gchar *name, KdDtype dtype, guint rank, const gint64 *dims, GError **error)
{
  KdColumn *column;

  if (!kd_field_name_is_valid (name)) {
    g_autofree gchar *text = kd_data_excerpt (name);
    g_set_error (error, KD_ERROR, KD_ERROR_FIELD,
        "Not a field's name: name=%s; lower case letters, digits, '_', '-' and dots between: use --rename OLD=NEW", text);
    return NULL;
  }
  if (kd_columns_find (columns, name)) {
    g_set_error (error, KD_ERROR, KD_ERROR_FIELD, "Two columns for one field: field=%s; use --rename OLD=NEW or --only", name);
    return NULL;
  }
  column = g_new0 (KdColumn, 1);
  column->name = g_strdup (name);
  column->dtype = dtype;
  column->rank = rank;
  memcpy (column->dims, dims, rank * sizeof *dims);
  column->data = g_byte_array_new ();
  column->offsets = g_array_new (FALSE, FALSE, sizeof (gint64));
  if (!columns->columns)
    columns->columns = g_ptr_array_new_with_free_func (column_free);
  g_ptr_array_add (columns->columns, column);
  return column;
}

void
kd_column_put_float (KdColumn *column, gdouble value)
{
  gfloat single = (gfloat) value;
  guint16 half = column->dtype == KD_FLOAT16 ? kd_float_to_half (single) : kd_float_to_bfloat (single);

  if (column->dtype == KD_FLOAT64)
    g_byte_array_append (column->data, (const guint8 *) &value, sizeof value);
  else if (column->dtype == KD_FLOAT32)
    g_byte_array_append (column->data, (const guint8 *) &single, sizeof single);
  else
    g_byte_array_append (column->data, (const guint8 *) &half, sizeof half);
}

gboolean
kd_column_put_int (KdColumn *column, gint64 value)
{
  gint32 v32 = (gint32) value;
  guint16 v16 = (guint16) value;
  guint8 v8 = (guint8) value;

  switch (column->dtype) {
  case KD_INT64:
    g_byte_array_append (column->data, (const guint8 *) &value, sizeof value);
    return TRUE;
  case KD_INT32:
    g_byte_array_append (column->data, (const guint8 *) &v32, sizeof v32);
    return v32 == value;
  case KD_UINT16:
    g_byte_array_append (column->data, (const guint8 *) &v16, sizeof v16);
    return v16 == value;
  case KD_BOOL:
    g_byte_array_append (column->data, &v8, 1);
    return value == 0 || value == 1;
  case KD_UINT8:
    g_byte_array_append (column->data, &v8, 1);
    return v8 == value;
  default:
    kd_column_put_float (column, (gdouble) value);
    return TRUE;
  }
}

void
kd_column_put_text (KdColumn *column, const gchar *text, gsize n_bytes)
{
  gint64 start = (gint64) column->data->len;

  g_array_append_val (column->offsets, start);
  g_byte_array_append (column->data, (const guint8 *) text, (guint) n_bytes);
}

static KdTensor *
column_tensor (KdColumn *column, gint64 n_rows)
{
  KdTensor *tensor;

  if (column->dtype == KD_UTF8) {
    gint64 end = (gint64) column->data->len;
    g_array_append_val (column->offsets, end);
    tensor = kd_tensor_new_utf8 (n_rows, &g_array_index (column->offsets, gint64, 0), column->data->data);
  } else {
    column->dims[0] = n_rows;
    tensor = kd_tensor_new (column->dtype, column->rank, column->dims);
    g_assert (tensor->n_bytes == column->data->len);
    memcpy (tensor->data, column->data->data, tensor->n_bytes);
  }
  g_byte_array_set_size (column->data, 0);
  g_array_set_size (column->offsets, 0);
  return tensor;
}

gboolean
kd_columns_flush (KdColumns *columns, KdDataOut *out, GError **error)
{
  guint n = columns->columns ? columns->columns->len : 0;
  g_autofree const gchar **names = g_new0 (const gchar *, n + 1);
  g_autoptr (GPtrArray) tensors = g_ptr_array_new_with_free_func ((GDestroyNotify) kd_tensor_unref);

  if (columns->n_rows == 0 || n == 0)
    return TRUE;
  for (guint i = 0; i < n; i++) {
    KdColumn *column = g_ptr_array_index (columns->columns, i);
    names[i] = column->name;
    g_ptr_array_add (tensors, column_tensor (column, columns->n_rows));
  }
  columns->n_rows = 0;
  return kd_data_out_append (out, n, names, (KdTensor *const *) tensors->pdata, error);
}

gboolean
kd_columns_end_row (KdColumns *columns, KdDataOut *out, GError **error)
{
  gsize bytes = 0;

  columns->n_rows++;
  for (guint i = 0; i < columns->columns->len; i++)
    bytes += ((KdColumn *) g_ptr_array_index (columns->columns, i))->data->len;
  if (columns->n_rows < KD_DATA_FLUSH_ROWS && bytes < KD_DATA_FLUSH_BYTES)
    return TRUE;
  return kd_columns_flush (columns, out, error);
}
