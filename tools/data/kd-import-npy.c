/* numpy files: one array (.npy, labels in a second one) or several (.npz, a zip of .npy members that become the fields of their names). */
#include "kd-data.h"

#include <archive.h>
#include <archive_entry.h>
#include <string.h>

#define MAX_MEMBERS 64

/* One array being read, from a file or from a member of a zip. */
typedef struct {
  gchar *path; /* for messages: "x.npz:images.npy" */
  gchar *field;
  GInputStream *stream;
  struct archive *archive;
  KdNpy npy;
} KdArray;

static void
array_free (gpointer data)
{
  KdArray *array = data;

  g_clear_object (&array->stream);
  if (array->archive)
    archive_read_free (array->archive);
  g_free (array->path);
  g_free (array->field);
  g_free (array);
}

static gboolean
array_read (gpointer user_data, gpointer buffer, gsize n, GError **error)
{
  KdArray *array = user_data;
  gsize got = 0;

  if (array->stream)
    return kd_data_read (array->stream, buffer, n, array->path, "array", error);
  while (got < n) {
    la_ssize_t part = archive_read_data (array->archive, (guint8 *) buffer + got, n - got);
    if (part <= 0) {
      g_set_error (error, KD_ERROR, KD_ERROR_IO, "%s: path=\"%s\", bytes wanted=%zu, bytes there=%zu, reason=%s; get it again",
          part < 0 ? "Cannot unpack" : "Array ends too early", array->path, n, got,
          part < 0 ? archive_error_string (array->archive) : "end of data");
      return FALSE;
    }
    got += (gsize) part;
  }
  return TRUE;
}

/* A file that lies about its size is refused before its rows are allocated. */
static KdArray *
array_open_file (const gchar *path, const gchar *field, GError **error)
{
  KdArray *array = g_new0 (KdArray, 1);
  gint64 bytes;

  array->path = g_strdup (path);
  array->field = g_strdup (field);
  if (!(array->stream = kd_data_open (path, &bytes, error)) || !kd_npy_open (&array->npy, array_read, array, path, error)) {
    array_free (array);
    return NULL;
  }
  if (bytes >= 0 && (gsize) bytes != array->npy.header_bytes + array->npy.row_bytes * (gsize) array->npy.dims[0]) {
    g_set_error (error, KD_ERROR, KD_ERROR_IO, "npy file is cut off or longer than its header says: path=\"%s\", bytes wanted=%zu, bytes "
                                               "there=%" G_GINT64_FORMAT "; save it again",
        path, array->npy.header_bytes + array->npy.row_bytes * (gsize) array->npy.dims[0], bytes);
    array_free (array);
    return NULL;
  }
  return array;
}

static struct archive *
zip_open (const gchar *path, GError **error)
{
  struct archive *archive = archive_read_new ();

  archive_read_support_format_zip (archive);
  if (archive_read_open_filename (archive, path, 65536) == ARCHIVE_OK)
    return archive;
  g_set_error (error, KD_ERROR, KD_ERROR_IO, "Cannot open npz: path=\"%s\", reason=%s", path, archive_error_string (archive));
  archive_read_free (archive);
  return NULL;
}

/* The next member that is an array; NULL with no error at the end. */
static const gchar *
zip_next (struct archive *archive, const gchar *path, GError **error)
{
  struct archive_entry *entry;
  int status;

  while ((status = archive_read_next_header (archive, &entry)) == ARCHIVE_OK || status == ARCHIVE_WARN) {
    const gchar *name = archive_entry_pathname (entry);
    if (name && g_str_has_suffix (name, ".npy"))
      return name;
  }
  if (status != ARCHIVE_EOF)
    g_set_error (error, KD_ERROR, KD_ERROR_IO, "Cannot read npz: path=\"%s\", reason=%s", path, archive_error_string (archive));
  return NULL;
}

static KdArray *
array_open_member (const gchar *path, const gchar *member, const gchar *field, GError **error)
{
  KdArray *array = g_new0 (KdArray, 1);
  const gchar *name = NULL;

  array->path = g_strdup_printf ("%s:%s", path, member);
  array->field = g_strdup (field);
  array->archive = zip_open (path, error);
  while (array->archive && (name = zip_next (array->archive, path, error)) && !g_str_equal (name, member))
    ;
  if (!name || !kd_npy_open (&array->npy, array_read, array, array->path, error)) {
    array_free (array);
    return NULL;
  }
  return array;
}

static gboolean
arrays_agree (GPtrArray *arrays, GError **error)
{
  KdArray *first = g_ptr_array_index (arrays, 0);

  for (guint i = 1; i < arrays->len; i++) {
    KdArray *other = g_ptr_array_index (arrays, i);
    if (other->npy.dims[0] != first->npy.dims[0]) {
      g_set_error (error, KD_ERROR, KD_ERROR_SHAPE,
          "Arrays differ in their number of rows: \"%s\"=%" G_GINT64_FORMAT ", \"%s\"=%" G_GINT64_FORMAT "; choose with --only NAME,NAME",
          first->path,
          first->npy.dims[0], other->path, other->npy.dims[0]);
      return FALSE;
    }
    for (guint j = 0; j < i; j++)
      if (g_str_equal (other->field, ((KdArray *) g_ptr_array_index (arrays, j))->field)) {
        g_set_error (error, KD_ERROR, KD_ERROR_FIELD, "Two arrays for one field: field=%s; use --rename OLD=NEW or --only", other->field);
        return FALSE;
      }
  }
  return TRUE;
}

/* Whole numbers called label or sample.id are int64 everywhere. */
static KdTensor *
array_rows (KdArray *array, gint64 n, GError **error)
{
  g_autoptr (KdTensor) rows = kd_npy_rows (&array->npy, n, array_read, array, array->path, error);
  gboolean index = g_str_equal (array->field, "label") || g_str_equal (array->field, "sample.id");

  if (rows && index && (rows->dtype & KD_ANY_INT))
    return kd_tensor_cast (rows, KD_INT64, error);
  return g_steal_pointer (&rows);
}

/* All arrays in step, so that a few rows of each are in memory at a time. */
static gboolean
arrays_copy (GPtrArray *arrays, KdDataOut *out, GError **error)
{
  gint64 n_rows = ((KdArray *) g_ptr_array_index (arrays, 0))->npy.dims[0], step = KD_DATA_FLUSH_ROWS;
  g_autofree const gchar **names = g_new0 (const gchar *, arrays->len);

  for (guint i = 0; i < arrays->len; i++) {
    KdArray *array = g_ptr_array_index (arrays, i);
    names[i] = array->field;
    step = MIN (step, kd_npy_batch_rows (array->npy.row_bytes));
  }
  for (gint64 row = 0; row < n_rows; row += step) {
    g_autoptr (GPtrArray) tensors = g_ptr_array_new_with_free_func ((GDestroyNotify) kd_tensor_unref);
    for (guint i = 0; i < arrays->len; i++) {
      KdTensor *tensor = array_rows (g_ptr_array_index (arrays, i), MIN (step, n_rows - row), error);
      if (!tensor)
        return FALSE;
      g_ptr_array_add (tensors, tensor);
    }
    if (!kd_data_out_append (out, tensors->len, names, (KdTensor *const *) tensors->pdata, error))
      return FALSE;
  }
  return TRUE;
}

static gboolean
arrays_import (const KdImportOptions *options, GPtrArray *arrays, const gchar *format, GError **error)
{
  g_autoptr (KdDataOut) out = NULL;

  if (!arrays_agree (arrays, error) ||
      !(out = kd_data_out_new (options->output, ((KdArray *) g_ptr_array_index (arrays, 0))->npy.dims[0], error)) ||
      !arrays_copy (arrays, out, error))
    return FALSE;
  return kd_import_finish (options, format, NULL, out, error);
}

static gboolean
npy_run (const KdImportOptions *options, GError **error)
{
  g_autoptr (GPtrArray) arrays = g_ptr_array_new_with_free_func (array_free);
  KdArray *array = array_open_file (options->input, "input", error);

  if (!array)
    return FALSE;
  g_ptr_array_add (arrays, array);
  if (options->labels) {
    if (!(array = array_open_file (options->labels, "label", error)))
      return FALSE;
    g_ptr_array_add (arrays, array);
    if (array->npy.rank != 1 || !strchr ("iu", array->npy.kind)) {
      g_set_error (error, KD_ERROR, KD_ERROR_SHAPE, "Not labels: path=\"%s\", rank=%u, kind=%c, wanted=rank 1 of whole numbers", array->path,
          array->npy.rank,
          array->npy.kind);
      return FALSE;
    }
  }
  return arrays_import (options, arrays, "npy", error);
}

/* (transfer full) names of the members that --only lets in; NULL on errors. */
static gchar **
npz_members (const KdImportOptions *options, GError **error)
{
  g_autoptr (GPtrArray) names = g_ptr_array_new_with_free_func (g_free);
  g_autoptr (GString) all = g_string_new (NULL);
  struct archive *archive = zip_open (options->input, error);
  GError *inner = NULL;
  const gchar *name;

  if (!archive)
    return NULL;
  while ((name = zip_next (archive, options->input, &inner)) && names->len < MAX_MEMBERS) {
    g_autofree gchar *stem = g_strndup (name, strlen (name) - 4);
    g_string_append_printf (all, "%s%s", all->len ? ", " : "", stem);
    if (kd_import_wants (options, stem))
      g_ptr_array_add (names, g_strdup (name));
  }
  archive_read_free (archive);
  if (!inner && names->len == 0)
    g_set_error (&inner, KD_ERROR, KD_ERROR_FIELD, "No array to read: path=\"%s\", arrays=\"%.200s\", --only=%s", options->input, all->str,
        options->only ? options->only : "(all)");
  if (inner) {
    g_propagate_error (error, inner);
    return NULL;
  }
  g_ptr_array_add (names, NULL);
  return (gchar **) g_ptr_array_free (g_steal_pointer (&names), FALSE);
}

static gboolean
npz_run (const KdImportOptions *options, GError **error)
{
  g_autoptr (GPtrArray) arrays = g_ptr_array_new_with_free_func (array_free);
  g_auto (GStrv) members = npz_members (options, error);

  for (guint i = 0; members && members[i]; i++) {
    g_autofree gchar *stem = g_strndup (members[i], strlen (members[i]) - 4);
    g_autofree gchar *field = kd_import_field (options, stem);
    KdArray *array = array_open_member (options->input, members[i], field, error);
    if (!array)
      return FALSE;
    g_ptr_array_add (arrays, array);
  }
  return members && arrays_import (options, arrays, "npz", error);
}

static gboolean
npy_sniff (const gchar *path, const guint8 *head, gsize n)
{
  return n >= 6 && memcmp (head, "\x93NUMPY", 6) == 0;
}

static gboolean
npz_sniff (const gchar *path, const guint8 *head, gsize n)
{
  g_autofree gchar *lower = g_ascii_strdown (path, -1);

  return g_str_has_suffix (lower, ".npz");
}

const KdImportFormat kd_import_npy = {
  .name = "npy",
  .description = "a numpy array -> input, with --labels FILE.npy -> label",
  .sniff = npy_sniff,
  .run = npy_run,
};

const KdImportFormat kd_import_npz = {
  .name = "npz",
  .description = "numpy arrays -> fields of their names; --only A,B and --rename OLD=NEW choose",
  .sniff = npz_sniff,
  .run = npz_run,
};
