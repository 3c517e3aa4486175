/* A reader of delimited text, one record at a time. */
#pragma once
#include "kd-data.h"

G_BEGIN_DECLS

typedef struct {
  KdLines lines;
  gchar delimiter;
  GPtrArray *cells; /* of gchar *: the record last read */
  GString *cell;
  gint64 line; /* where the record began */
  gint pushed; /* a byte that was read ahead; -1: none */
} KdCsv;

gboolean kd_csv_open (KdCsv *csv, const gchar *path, gchar delimiter, GError **error);
void kd_csv_clear (KdCsv *csv);
G_DEFINE_AUTO_CLEANUP_CLEAR_FUNC (KdCsv, kd_csv_clear)
/** kd_csv_next: 1: a record in csv->cells; 0: the end; -1: an error. Empty lines are passed over. */
gint kd_csv_next (KdCsv *csv, GError **error);
/** kd_csv_cell: (transfer none) cell @i of the record last read. */
static inline const gchar *
kd_csv_cell (const KdCsv *csv, guint i)
{
  return g_ptr_array_index (csv->cells, i);
}

G_END_DECLS
