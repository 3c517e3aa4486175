/* Everything a reader can be asked, and what has to agree: rows one by one, in pieces and as a whole. */
#include "fuzz.h"

#include <string.h>

/* A compressed file may hold more than there is memory for. */
#define MAX_FIELD_BYTES ((gsize) 4 << 20)
#define MAX_TAKEN 24

/* Row @a of @x is row @b of @y. */
static gboolean
rows_equal (const KdTensor *x, gint64 a, const KdTensor *y, gint64 b)
{
  gsize bytes = kd_tensor_row_elements (x) * kd_dtype_size (x->dtype);

  if (x->dtype != KD_UTF8)
    return memcmp ((guint8 *) x->data + (gsize) a * bytes, (guint8 *) y->data + (gsize) b * bytes, bytes) == 0;
  bytes = (gsize) (x->offsets[a + 1] - x->offsets[a]);
  return bytes == (gsize) (y->offsets[b + 1] - y->offsets[b]) &&
      (bytes == 0 || memcmp ((guint8 *) x->data + x->offsets[a], (guint8 *) y->data + y->offsets[b], bytes) == 0);
}

static void
compare (const KdTensor *whole, const KdTensor *rows, const gint64 *which, gint64 n, const gchar *field)
{
  fuzz_touch (rows);
  fuzz_check (rows->dtype == whole->dtype && rows->rank == whole->rank && rows->dims[0] == n, "%s: %" G_GINT64_FORMAT " rows are not what was asked for", field, n);
  for (gint64 i = 0; i < n; i++)
    fuzz_check (rows_equal (whole, which[i], rows, i), "%s: row %" G_GINT64_FORMAT " is not the same alone", field, which[i]);
}

/* A few rows in any order, and a piece in the middle. @whole NULL: the field cannot be read as a whole. */
static void
read_some (KdH5Reader *reader, const gchar *field, const KdTensor *whole, gint64 n_rows, FuzzBytes *bytes)
{
  gint64 rows[MAX_TAKEN], n = fuzz_u8 (bytes) % (MAX_TAKEN + 1), first;
  g_autoptr (KdTensor) taken = NULL, piece = NULL;
  GError *error = NULL;

  for (gint64 i = 0; i < n; i++)
    rows[i] = (gint64) (fuzz_uint (bytes, 2) % (guint64) n_rows);
  taken = kd_h5_reader_take (reader, field, rows, n, &error);
  fuzz_check (taken || !whole || error, "%s: no rows", field);
  if (!taken)
    fuzz_refuse (g_steal_pointer (&error), "take");
  else if (whole)
    compare (whole, taken, rows, n, field);
  first = (gint64) (fuzz_uint (bytes, 2) % (guint64) n_rows);
  n = MIN (n, n_rows - first);
  for (gint64 i = 0; i < n; i++)
    rows[i] = first + i;
  piece = kd_h5_reader_read (reader, field, first, n, &error);
  if (!piece)
    fuzz_refuse (error, "read");
  else if (whole)
    compare (whole, piece, rows, n, field);
  fuzz_check (!whole || (taken && piece), "%s: read as a whole, but not in rows", field);
}

static gboolean
fits (const KdLayoutField *field, gint64 n_rows)
{
  gsize bytes = field->rank ? (gsize) MIN (n_rows, 1 << 20) * kd_dtype_size (field->dtype) : kd_dtype_size (field->dtype);

  for (guint i = 1; i < field->rank; i++)
    if (field->dims[i] > 0 && !g_size_checked_mul (&bytes, bytes, (gsize) field->dims[i]))
      return FALSE;
  return bytes <= MAX_FIELD_BYTES && n_rows < 1 << 20;
}

static void
check_layout (const KdLayout *layout)
{
  g_autofree gchar *text = kd_layout_to_string (layout);
  GError *error = NULL;
  g_autoptr (KdLayout) again = kd_layout_from_string (text, &error);

  if (kd_layout_n_fields (layout) > 512)
    g_clear_error (&error);
  else
    fuzz_check (again && kd_layout_equal (again, layout), "a layout does not read back: \"%s\": %s", text, error ? error->message : "differs");
}

static gboolean
read_fields (KdH5Reader *reader, FuzzBytes *bytes)
{
  const KdLayout *layout = kd_h5_reader_layout (reader);
  gint64 n_rows = kd_h5_reader_n_rows (reader);
  gboolean good = TRUE;

  check_layout (layout);
  for (guint i = 0; i < kd_layout_n_fields (layout); i++) {
    const KdLayoutField *field = kd_layout_nth (layout, i);
    g_autoptr (KdTensor) whole = NULL;
    GError *error = NULL;
    g_free (kd_h5_reader_storage (reader, field->name));
    if (!fits (field, MAX (n_rows, 0)))
      continue;
    whole = kd_h5_reader_read_all (reader, field->name, &error);
    good &= whole != NULL;
    if (whole)
      fuzz_touch (whole);
    else
      fuzz_refuse (error, "read_all");
    if (n_rows > 0 && field->rank > 0)
      read_some (reader, field->name, whole, n_rows, bytes);
  }
  return good && kd_layout_n_fields (layout) > 0;
}

static void
read_attributes (KdH5Reader *reader)
{
  g_auto (GStrv) names = kd_h5_reader_attribute_names (reader);

  for (guint i = 0; names[i]; i++) {
    fuzz_check (g_utf8_validate (kd_h5_reader_attribute (reader, names[i]), -1, NULL), "an attribute that is not UTF-8");
    kd_h5_reader_attribute_double (reader, names[i], 0);
  }
}

static void
fingerprint (KdH5Reader *reader)
{
  const KdLayout *layout = kd_h5_reader_layout (reader);
  g_autofree gchar *sum = NULL;
  GError *error = NULL;

  for (guint i = 0; i < kd_layout_n_fields (layout); i++)
    if (!fits (kd_layout_nth (layout, i), MAX (kd_h5_reader_n_rows (reader), 0)))
      return;
  sum = kd_h5_fingerprint (reader, &error);
  if (!sum)
    fuzz_refuse (error, "fingerprint");
}

static void
read_group (const gchar *path, const gchar *group, FuzzBytes *bytes)
{
  GError *error = NULL;
  g_autoptr (KdH5Reader) reader = kd_h5_reader_open (path, group, &error);

  if (reader)
    read_fields (reader, bytes);
  else
    fuzz_refuse (error, "open");
}

gboolean
fuzz_h5_read (const gchar *path, FuzzBytes *bytes)
{
  GError *error = NULL;
  g_autoptr (KdH5Reader) reader = kd_h5_reader_open (path, NULL, &error);
  g_auto (GStrv) groups = NULL;
  gboolean good;

  if (!reader) {
    fuzz_refuse (error, "open");
    return FALSE;
  }
  good = read_fields (reader, bytes);
  read_attributes (reader);
  fingerprint (reader);
  groups = kd_h5_reader_groups (reader);
  for (guint i = 0; groups[i] && i < 4; i++)
    read_group (path, groups[i], bytes);
  return good;
}
