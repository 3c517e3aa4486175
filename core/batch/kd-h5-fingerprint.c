/* What tells one data set from another: its fields, its ids and its values, in row order, however the file stores them. */
#include "kd-h5-private.h"

#include <string.h>

#define WHOLE_BYTES ((gsize) 256 << 20)
#define BLOCK_BYTES ((gsize) 64 << 10)
#define SAMPLED_BLOCKS 1024

/* Up to 256 MiB every value counts. Above, ids still do, and of other fields the first, the last and about a thousand evenly
 * spread blocks of 64 KiB: a change of a single row elsewhere is not seen then, a change of the whole is. */
static gboolean
hash_field (GChecksum *sum, KdH5Reader *reader, const KdLayoutField *field, gboolean whole, gsize row_bytes, GError **error)
{
  gint64 n_rows = kd_h5_reader_n_rows (reader);
  gint64 block = (gint64) MAX (BLOCK_BYTES / MAX (row_bytes, 1), 1);
  gint64 n_blocks = (n_rows + block - 1) / block;
  gint64 step = whole || g_str_equal (field->name, "sample.id") ? 1 : MAX (n_blocks / SAMPLED_BLOCKS, 1);

  if (field->rank == 0) {
    g_autoptr (KdTensor) value = kd_h5_reader_read_all (reader, field->name, error);
    if (value)
      g_checksum_update (sum, value->data, (gssize) value->n_bytes);
    return value != NULL;
  }
  for (gint64 i = 0; i < n_blocks;) {
    gint64 first = i * block, n = MIN (block, n_rows - first);
    g_autoptr (KdTensor) rows = kd_h5_reader_read (reader, field->name, first, n, error);
    if (!rows)
      return FALSE;
    if (rows->offsets)
      g_checksum_update (sum, (const guchar *) rows->offsets, (gssize) ((gsize) (n + 1) * sizeof (gint64)));
    g_checksum_update (sum, rows->data, (gssize) rows->n_bytes);
    i = i + step < n_blocks || i == n_blocks - 1 ? i + step : n_blocks - 1;
  }
  return TRUE;
}

static gsize
field_row_bytes (const KdLayoutField *field)
{
  gsize bytes = kd_dtype_size (field->dtype);

  for (guint i = 1; i < field->rank; i++)
    bytes *= (gsize) field->dims[i];
  return bytes;
}

gchar *
kd_h5_fingerprint (KdH5Reader *reader, GError **error)
{
  g_autoptr (GChecksum) sum = g_checksum_new (G_CHECKSUM_SHA256);
  const KdLayout *layout = kd_h5_reader_layout (reader);
  g_autofree gchar *text = kd_layout_to_string (layout);
  g_autofree gchar *head = NULL;
  gint64 n_rows = kd_h5_reader_n_rows (reader);
  gsize row_total = 0;
  gboolean whole;

  if (!kd_h5_reader_check_rows (reader, error))
    return NULL;
  head = g_strdup_printf ("kd-fingerprint/1 rows=%" G_GINT64_FORMAT " %s\n", n_rows, text);
  g_checksum_update (sum, (const guchar *) head, (gssize) strlen (head));
  for (guint i = 0; i < kd_layout_n_fields (layout); i++)
    row_total += field_row_bytes (kd_layout_nth (layout, i));
  whole = n_rows == 0 || row_total <= WHOLE_BYTES / (gsize) n_rows;
  for (guint i = 0; i < kd_layout_n_fields (layout); i++) {
    const KdLayoutField *field = kd_layout_nth (layout, i);
    if (!hash_field (sum, reader, field, whole, field_row_bytes (field), error))
      return NULL;
  }
  return g_strdup (g_checksum_get_string (sum));
}
