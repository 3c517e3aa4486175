/* KdH5Reader: a checked batch file as a table of columns. Once open, rows of plain datasets are copied out of the file's bytes
 * with no call of libhdf5 and no lock. */
#include "kd-h5-private.h"

#include <errno.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#define MAX_LINKS 4096
#define MAX_ATTRIBUTES 1024

void
kd_h5_reader_close (KdH5Reader *reader)
{
  g_auto (KdH5Guard) guard = kd_h5_enter ();

  g_clear_pointer (&reader->columns, g_ptr_array_unref);
  kd_hid_close (reader->group);
  kd_hid_close (reader->file);
  g_clear_pointer (&reader->map, kd_h5_map_unref);
  g_ptr_array_unref (reader->names);
  g_ptr_array_unref (reader->groups);
  g_hash_table_unref (reader->attributes);
  kd_layout_free (reader->layout);
  g_free (reader->uneven);
  g_free (reader->path);
  g_free (reader);
}

static herr_t
collect_link (hid_t group, const gchar *name, const H5L_info_t *info, void *data)
{
  KdH5Reader *reader = data;
  H5O_info_t object;

  if (info->type == H5L_TYPE_HARD && H5Oget_info_by_name2 (group, name, &object, H5O_INFO_BASIC, H5P_DEFAULT) >= 0 &&
      object.type == H5O_TYPE_GROUP)
    g_ptr_array_add (reader->groups, g_strdup (name));
  else
    g_ptr_array_add (reader->names, g_strdup (name)); /* checked when it is opened */
  return reader->names->len + reader->groups->len > MAX_LINKS ? -1 : 0;
}

static herr_t
collect_attribute (hid_t object, const gchar *name, const H5A_info_t *info, void *data)
{
  KdH5Reader *reader = data;
  gchar *text = kd_h5_attribute (object, name);

  if (text)
    g_hash_table_replace (reader->attributes, g_strdup (name), text);
  return g_hash_table_size (reader->attributes) > MAX_ATTRIBUTES ? -1 : 0;
}

KdH5Column *
kd_h5_find_column (const KdH5Reader *reader, const gchar *name)
{
  for (guint i = 0; i < reader->columns->len; i++) {
    KdH5Column *column = g_ptr_array_index (reader->columns, i);
    if (strcmp (column->name, name) == 0)
      return column;
  }
  return NULL;
}

/* The two datasets of a text field: NAME.bytes + NAME.offset, or record.json + record.offset. */
gboolean
kd_h5_find_text (const KdH5Reader *reader, const gchar *field, KdH5Column **ret_bytes, KdH5Column **ret_offsets)
{
  g_autofree gchar *bytes_name = g_strconcat (field, ".bytes", NULL);
  g_autofree gchar *offset_name = g_strconcat (field, ".offset", NULL);
  KdH5Column *bytes = kd_h5_find_column (reader, bytes_name), *offsets = kd_h5_find_column (reader, offset_name);

  if (!bytes && g_str_equal (field, "record"))
    bytes = kd_h5_find_column (reader, "record.json");
  if (!bytes || !offsets || bytes->dtype != KD_UINT8 || bytes->rank != 1 || offsets->dtype != KD_INT64 ||
      offsets->rank != 1 || offsets->n_rows < 1)
    return FALSE;
  *ret_bytes = bytes;
  *ret_offsets = offsets;
  return TRUE;
}

/* The text field that a dataset belongs to, or NULL. */
static gchar *
text_field_of (const KdH5Reader *reader, const KdH5Column *column)
{
  const gchar *dot = strrchr (column->name, '.');
  g_autofree gchar *field = dot ? g_strndup (column->name, (gsize) (dot - column->name)) : NULL;
  KdH5Column *bytes, *offsets;

  if (field && kd_h5_find_text (reader, field, &bytes, &offsets) && (column == bytes || column == offsets))
    return g_steal_pointer (&field);
  return NULL;
}

static void
count_rows (KdH5Reader *reader, const gchar *field, gint64 n_rows)
{
  if (reader->n_rows < 0 && !reader->uneven)
    reader->n_rows = n_rows;
  else if (reader->n_rows != n_rows && !reader->uneven)
    reader->uneven = g_strdup_printf ("rows=%" G_GINT64_FORMAT ", others have %" G_GINT64_FORMAT
                                      ", dataset=\"%s\"; all datasets need one first axis",
        n_rows, reader->n_rows, field);
}

static void
make_layout (KdH5Reader *reader)
{
  reader->n_rows = -1;
  for (guint i = 0; i < reader->columns->len; i++) {
    KdH5Column *column = g_ptr_array_index (reader->columns, i);
    g_autofree gchar *text = text_field_of (reader, column);
    gint64 any = KD_DIM_ANY, n_rows = column->n_rows - (text ? 1 : 0);

    if (text && column->dtype == KD_UINT8)
      continue; /* counted with its offsets */
    if (text)
      kd_layout_set (reader->layout, text, KD_UTF8, 1, &any);
    else
      kd_layout_set (reader->layout, column->name, column->dtype, column->rank, column->dims);
    if (column->rank > 0)
      count_rows (reader, text ? text : column->name, n_rows);
  }
  if (reader->uneven)
    reader->n_rows = -1;
  else if (reader->n_rows < 0)
    reader->n_rows = 0;
}

static gboolean
refuse_name (const KdH5Reader *reader, const gchar *name, GError **error)
{
  return kd_h5_fail (error, KD_ERROR_FORMAT, reader->path, name,
      "reason=not a field's name; wanted lower case letters, digits and dots, at most 120 (.bytes and .offset of a text not counted)");
}

/* A text's datasets are longer than the field. */
static gboolean
may_be_name (const gchar *name)
{
  gsize n = strlen (name), suffix = g_str_has_suffix (name, ".bytes") ? strlen (".bytes") : g_str_has_suffix (name, ".offset") ? strlen (".offset")
                                                                                                                               : 0;
  g_autofree gchar *field = g_strndup (name, n - suffix);

  return kd_field_name_is_valid (field);
}

static gboolean
open_columns (KdH5Reader *reader, gboolean plain, GError **error)
{
  for (guint i = 0; i < reader->names->len; i++) {
    const gchar *name = g_ptr_array_index (reader->names, i);
    KdH5Column *column;

    if (!may_be_name (name))
      return refuse_name (reader, name, error);
    column = kd_h5_column_open (reader->group, name, reader->path, reader->map->size, plain, error);
    if (!column)
      return FALSE;
    g_ptr_array_add (reader->columns, column);
  }
  for (guint i = 0; i < reader->columns->len; i++) {
    KdH5Column *column = g_ptr_array_index (reader->columns, i);
    g_autofree gchar *text = text_field_of (reader, column);
    if (!kd_field_name_is_valid (text ? text : column->name))
      return refuse_name (reader, column->name, error);
  }
  return TRUE;
}

/* A group, "expected" or "step.0/expected", reached through hard links only. */
static gboolean
check_group (const gchar *path, hid_t file, const gchar *group, GError **error)
{
  g_auto (GStrv) parts = g_strsplit (group, "/", -1);
  g_autoptr (GString) so_far = g_string_new (NULL);

  for (guint i = 0; parts[i]; i++) {
    H5L_info_t link;
    g_string_append_printf (so_far, "%s%s", i ? "/" : "", parts[i]);
    if (!*parts[i] || g_str_equal (parts[i], ".") || g_str_equal (parts[i], "..") || H5Lexists (file, so_far->str, H5P_DEFAULT) <= 0)
      return kd_h5_fail (error, KD_ERROR_FIELD, path, NULL, "group=\"%s\", reason=no such group", group);
    if (H5Lget_info (file, so_far->str, &link, H5P_DEFAULT) < 0 || link.type != H5L_TYPE_HARD)
      return kd_h5_fail (error, KD_ERROR_FORMAT, path, NULL, "group=\"%s\", reason=links out of a batch file are refused", group);
  }
  return TRUE;
}

/* A file that another program is writing is refused by HDF5's file lock (a shared flock; the environment's HDF5_USE_FILE_LOCKING=FALSE turns it off). It is kept as
 * long as the reader: nobody writes into what is mapped. Whoever replaces the file, as all of ours do, does not ask for it. */
static gboolean
open_file (KdH5Reader *reader, const gchar *group, gboolean may_map, gboolean *ret_plain, GError **error)
{
  g_auto (KdHid) access = H5Pcreate (H5P_FILE_ACCESS);
  g_auto (KdHid) create = -1;
  struct stat info;
  hsize_t userblock = 0;
  void *handle = NULL;

  /* Without this, opening a folder or a missing file gives HDF5's words for it. */
  if (stat (reader->path, &info) < 0)
    return kd_h5_fail (error, KD_ERROR_IO, reader->path, NULL, "reason=%s", g_strerror (errno));
  if (!S_ISREG (info.st_mode))
    return kd_h5_fail (error, KD_ERROR_IO, reader->path, NULL, "reason=not a regular file");
  if (!kd_h5_frame_check (reader->path, error))
    return FALSE;
  H5Pset_fclose_degree (access, H5F_CLOSE_STRONG);
  H5Pset_file_locking (access, TRUE, TRUE);
  reader->file = H5Fopen (reader->path, H5F_ACC_RDONLY, access);
  if (reader->file < 0) {
    g_autofree gchar *reason = kd_h5_reason ();
    return kd_h5_fail (error, KD_ERROR_FORMAT, reader->path, NULL, "bytes=%" G_GINT64_FORMAT ", reason=not an HDF5 file, truncated, or being written: %s", (gint64) info.st_size, reason);
  }
  if (H5Fget_vfd_handle (reader->file, H5P_DEFAULT, &handle) < 0 || !handle || fstat (*(int *) handle, &info) < 0)
    return kd_h5_fail (error, KD_ERROR_IO, reader->path, NULL, "reason=no file descriptor");
  reader->map = kd_h5_map_new (*(int *) handle, (guint64) info.st_size, may_map);
  create = H5Fget_create_plist (reader->file);
  /* With a user block, addresses are relative to its end: leave such files to the library. */
  *ret_plain = reader->map->fd >= 0 && H5Pget_userblock (create, &userblock) >= 0 && userblock == 0;
  if (group && !check_group (reader->path, reader->file, group, error))
    return FALSE;
  reader->group = H5Gopen2 (reader->file, group ? group : "/", H5P_DEFAULT);
  if (reader->group < 0)
    return kd_h5_fail (error, KD_ERROR_FORMAT, reader->path, NULL, "group=\"%s\", reason=not a group", group ? group : "/");
  return TRUE;
}

static gboolean
reader_load (KdH5Reader *reader, const gchar *group, gboolean may_map, GError **error)
{
  gboolean plain = FALSE;
  hsize_t at = 0;

  if (!open_file (reader, group, may_map, &plain, error))
    return FALSE;
  if (H5Literate (reader->group, H5_INDEX_NAME, H5_ITER_INC, NULL, collect_link, reader) < 0)
    return kd_h5_fail (error, KD_ERROR_FORMAT, reader->path, NULL, "reason=damaged or more than %d datasets", MAX_LINKS);
  if (H5Aiterate2 (reader->group, H5_INDEX_NAME, H5_ITER_INC, &at, collect_attribute, reader) < 0)
    return kd_h5_fail (error, KD_ERROR_FORMAT, reader->path, NULL, "reason=damaged or more than %d attributes", MAX_ATTRIBUTES);
  if (!open_columns (reader, plain, error))
    return FALSE;
  make_layout (reader);
  if (reader->uneven && !group && g_strcmp0 (kd_h5_reader_attribute (reader, "kd.schema"), KD_H5_SCHEMA) == 0)
    return kd_h5_reader_check_rows (reader, error);
  return TRUE;
}

KdH5Reader *
kd_h5_reader_open_full (const gchar *path, const gchar *group, gboolean may_map, GError **error)
{
  g_auto (KdH5Guard) guard = kd_h5_enter ();
  KdH5Reader *reader = g_new0 (KdH5Reader, 1);
  gboolean library = FALSE;

  reader->path = g_strdup (path);
  reader->file = reader->group = -1;
  reader->columns = g_ptr_array_new_with_free_func ((GDestroyNotify) kd_h5_column_free);
  reader->names = g_ptr_array_new_with_free_func (g_free);
  reader->groups = g_ptr_array_new_with_free_func (g_free);
  reader->attributes = g_hash_table_new_full (g_str_hash, g_str_equal, g_free, g_free);
  reader->layout = kd_layout_new ();
  if (!reader_load (reader, group, may_map, error)) {
    kd_h5_reader_close (reader);
    return NULL;
  }
  for (guint i = 0; i < reader->columns->len; i++)
    library |= ((KdH5Column *) g_ptr_array_index (reader->columns, i))->storage == KD_H5_LIBRARY;
  if (!library) {
    /* Nothing needs the library any more: give back its memory. The file lock stays: the map's descriptor is a copy of the library's, and a lock is its
     * open file's. */
    kd_hid_close (reader->group);
    kd_hid_close (reader->file);
    reader->file = reader->group = -1;
  }
  return reader;
}

KdH5Reader *
kd_h5_reader_open (const gchar *path, const gchar *group, GError **error)
{
  return kd_h5_reader_open_full (path, group, TRUE, error);
}

const gchar *
kd_h5_reader_path (const KdH5Reader *reader)
{
  return reader->path;
}

guint64
kd_h5_reader_size (const KdH5Reader *reader)
{
  return reader->map->size;
}

gint64
kd_h5_reader_n_rows (const KdH5Reader *reader)
{
  return reader->n_rows;
}

gboolean
kd_h5_reader_check_rows (const KdH5Reader *reader, GError **error)
{
  if (!reader->uneven)
    return TRUE;
  return kd_h5_fail (error, KD_ERROR_SHAPE, reader->path, NULL, "%s", reader->uneven);
}

const KdLayout *
kd_h5_reader_layout (const KdH5Reader *reader)
{
  return reader->layout;
}

gchar **
kd_h5_reader_groups (KdH5Reader *reader)
{
  GPtrArray *names = g_ptr_array_new ();

  for (guint i = 0; i < reader->groups->len; i++)
    g_ptr_array_add (names, g_strdup (g_ptr_array_index (reader->groups, i)));
  g_ptr_array_add (names, NULL);
  return (gchar **) g_ptr_array_free (names, FALSE);
}

const gchar *
kd_h5_reader_attribute (const KdH5Reader *reader, const gchar *name)
{
  return g_hash_table_lookup (reader->attributes, name);
}

gdouble
kd_h5_reader_attribute_double (const KdH5Reader *reader, const gchar *name, gdouble fallback)
{
  const gchar *text = kd_h5_reader_attribute (reader, name);
  gchar *end = NULL;
  gdouble value = text ? g_ascii_strtod (text, &end) : fallback;

  return text && end != text && *end == '\0' ? value : fallback;
}
