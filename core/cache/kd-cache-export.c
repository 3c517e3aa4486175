/* A cache as npz or safetensors: sizes are known before the first row, so that values go out a step at a time. */
#include "kd-cache-copy.h"

#include <errno.h>
#include <fcntl.h>
#include <json-glib/json-glib.h>
#include <string.h>
#include <unistd.h>
#include <zlib.h>

#define STEP_BYTES ((gsize) 4 << 20)
/* Above this, a zip member's sizes need the 64-bit record; it is always written, so that there is one way. */
#define ZIP_OLD_LIMIT 0xffffffffu

typedef struct {
  const gchar *name; /* of the field */
  KdDtype dtype;     /* as it is written */
  guint rank;
  gint64 dims[KD_MAX_RANK];
  guint64 n_bytes;
  guint64 offset; /* of the member's header, or of the values after the header */
  guint32 crc;
  guint64 header_bytes; /* of the npy header */
} Member;

typedef struct {
  KdCacheReader *reader;
  const KdCacheCopyOptions *options;
  const gchar *path;
  gboolean is_npz;
  int fd;
  guint64 at;
  GArray *members;
  const gint64 *rows; /* in the order of their keys */
  gint64 n_done;
} Export;

static gboolean
put_at (const Export *export, gconstpointer data, gsize n, guint64 offset, GError **error)
{
  if (kd_h5_write_at (export->fd, data, n, offset))
    return TRUE;
  g_set_error (error, KD_ERROR, KD_ERROR_IO, "Cannot write: path=\"%s\", reason=%s", export->path, g_strerror (errno));
  return FALSE;
}

static gboolean
put (Export *export, gconstpointer data, gsize n, GError **error)
{
  if (!put_at (export, data, n, export->at, error))
    return FALSE;
  export->at += n;
  return TRUE;
}

static void
put_number (GByteArray *to, guint64 value, guint n_bytes)
{
  for (guint i = 0; i < n_bytes; i++) {
    guint8 byte = (guint8) (value >> (8 * i));
    g_byte_array_append (to, &byte, 1);
  }
}

static gboolean
add_member (Export *export, const KdLayoutField *field, GError **error)
{
  Member member = { .name = field->name, .dtype = field->dtype, .rank = field->rank };
  gsize bytes = 0;

  memcpy (member.dims, field->dims, sizeof member.dims);
  member.dims[0] = kd_cache_reader_n_rows (export->reader);
  if (export->is_npz && member.dtype == KD_BFLOAT16)
    member.dtype = KD_FLOAT32;
  if (!kd_shape_bytes (member.dtype, member.rank, member.dims, &bytes)) {
    g_set_error (error, KD_ERROR, KD_ERROR_SHAPE, "Too large to export: path=\"%s\", field=%s", export->path, field->name);
    return FALSE;
  }
  member.n_bytes = bytes;
  g_array_append_val (export->members, member);
  return TRUE;
}

static gboolean
add_members (Export *export, const gchar *const *fields, GError **error)
{
  const KdLayout *layout = kd_cache_reader_layout (export->reader);
  const KdLayoutField id = { "sample.id", KD_INT64, 1, { 0 } }, view = { "sample.view", KD_INT64, 1, { 0 } };

  for (guint i = 0; fields && fields[i]; i++)
    if (!kd_layout_find (layout, fields[i])) {
      g_autofree gchar *names = kd_layout_names (layout);
      g_set_error (error, KD_ERROR, KD_ERROR_FIELD, "Field not in the cache: field=%s, cache=\"%s\"; name fields of the cache, with commas", fields[i], names);
      return FALSE;
    }
  if (!add_member (export, &id, error) || !add_member (export, &view, error))
    return FALSE;
  for (guint i = 0; i < kd_layout_n_fields (layout); i++) {
    const KdLayoutField *field = kd_layout_nth (layout, i);
    if ((!fields || g_strv_contains (fields, field->name)) && !add_member (export, field, error))
      return FALSE;
  }
  return TRUE;
}

/* All values of a member, a step of rows at a time. */
static gboolean
put_values (Export *export, Member *member, GError **error)
{
  gint64 n = member->dims[0], step = MAX ((gint64) (STEP_BYTES / MAX (member->n_bytes / (guint64) MAX (n, 1), 1)), 1);

  for (gint64 first = 0; first < n; first += step) {
    gint64 now = MIN (step, n - first);
    g_autoptr (KdTensor) taken = kd_cache_reader_take (export->reader, member->name, now, export->rows + first, error);
    g_autoptr (KdTensor) values = taken ? kd_tensor_cast (taken, member->dtype, error) : NULL;
    if (!values || g_cancellable_set_error_if_cancelled (export->options->cancellable, error))
      return FALSE;
    if (export->is_npz)
      member->crc = (guint32) crc32_z (member->crc, values->data, values->n_bytes);
    if (!put (export, values->data, values->n_bytes, error))
      return FALSE;
    export->n_done += now;
    if (export->options->progress)
      export->options->progress (export->n_done / export->members->len, n, export->options->user_data);
  }
  return TRUE;
}

static const gchar *
npy_type (KdDtype dtype)
{
  switch (dtype) {
  case KD_FLOAT64:
    return "<f8";
  case KD_FLOAT32:
    return "<f4";
  case KD_FLOAT16:
    return "<f2";
  case KD_INT64:
    return "<i8";
  case KD_INT32:
    return "<i4";
  case KD_UINT16:
    return "<u2";
  case KD_BOOL:
    return "|b1";
  default:
    return "|u1";
  }
}

/* (transfer full) "(10, 3)" or "[10,3]". */
static gchar *
shape_text (const Member *member, const gchar *separator)
{
  GString *text = g_string_new (NULL);

  for (guint i = 0; i < member->rank; i++)
    g_string_append_printf (text, "%s%" G_GINT64_FORMAT, i ? separator : "", member->dims[i]);
  return g_string_free (text, FALSE);
}

/* (transfer full) npy 1.0: magic, length, a Python dictionary padded to 64 bytes. */
static gchar *
npy_header (const Member *member, gsize *ret_n)
{
  g_autofree gchar *shape = shape_text (member, ", ");
  g_autofree gchar *dict = g_strdup_printf ("{'descr': '%s', 'fortran_order': False, 'shape': (%s%s), }", npy_type (member->dtype), shape, member->rank == 1 ? "," : "");
  gsize n = strlen (dict), padded = (10 + n + 1 + 63) / 64 * 64;
  gchar *header = g_malloc (padded);

  memset (header, ' ', padded);
  memcpy (header, "\x93NUMPY\x01\x00", 8);
  header[8] = (gchar) ((padded - 10) & 0xff);
  header[9] = (gchar) ((padded - 10) >> 8);
  memcpy (header + 10, dict, n);
  header[padded - 1] = '\n';
  *ret_n = padded;
  return header;
}

/* A member's header: local (before it) or of the directory (at the end). The checksum is known only after the values. */
static GByteArray *
zip_header (const Member *member, gboolean central)
{
  GByteArray *out = g_byte_array_new ();
  g_autofree gchar *name = g_strconcat (member->name, ".npy", NULL);
  guint64 size = member->n_bytes + member->header_bytes;

  put_number (out, central ? 0x02014b50 : 0x04034b50, 4);
  if (central)
    put_number (out, 45, 2);
  put_number (out, 45, 2); /* version 4.5: zip64 */
  put_number (out, 0, 2);  /* flags */
  put_number (out, 0, 2);  /* stored */
  put_number (out, 0, 2);
  put_number (out, 0x21, 2); /* 1980-01-01: the same rows make the same file */
  put_number (out, member->crc, 4);
  put_number (out, ZIP_OLD_LIMIT, 4);
  put_number (out, ZIP_OLD_LIMIT, 4);
  put_number (out, strlen (name), 2);
  put_number (out, central ? 28 : 20, 2);
  if (central) {
    put_number (out, 0, 2); /* comment, disk, attributes */
    put_number (out, 0, 8);
    put_number (out, ZIP_OLD_LIMIT, 4);
  }
  g_byte_array_append (out, (const guint8 *) name, (guint) strlen (name));
  put_number (out, 1, 2);
  put_number (out, central ? 24 : 16, 2);
  put_number (out, size, 8);
  put_number (out, size, 8);
  if (central)
    put_number (out, member->offset, 8);
  return out;
}

static gboolean
put_zip_member (Export *export, Member *member, GError **error)
{
  g_autofree gchar *npy = NULL;
  g_autoptr (GByteArray) header = NULL, final = NULL;
  gsize n;

  npy = npy_header (member, &n);
  member->header_bytes = n;
  member->offset = export->at;
  header = zip_header (member, FALSE);
  member->crc = (guint32) crc32_z (0, (const guint8 *) npy, n);
  if (!put (export, header->data, header->len, error) || !put (export, npy, n, error) || !put_values (export, member, error))
    return FALSE;
  final = zip_header (member, FALSE);
  return put_at (export, final->data, final->len, member->offset, error);
}

static gboolean
put_zip_end (Export *export, GError **error)
{
  g_autoptr (GByteArray) out = g_byte_array_new ();
  guint64 start = export->at, size, n = export->members->len;

  for (guint i = 0; i < n; i++) {
    g_autoptr (GByteArray) header = zip_header (&g_array_index (export->members, Member, i), TRUE);
    g_byte_array_append (out, header->data, header->len);
  }
  size = out->len;
  put_number (out, 0x06064b50, 4);
  put_number (out, 44, 8);
  put_number (out, 45, 2);
  put_number (out, 45, 2);
  put_number (out, 0, 8);
  put_number (out, n, 8);
  put_number (out, n, 8);
  put_number (out, size, 8);
  put_number (out, start, 8);
  put_number (out, 0x07064b50, 4);
  put_number (out, 0, 4);
  put_number (out, start + size, 8);
  put_number (out, 1, 4);
  put_number (out, 0x06054b50, 4);
  put_number (out, 0, 4);
  put_number (out, 0xffff, 2);
  put_number (out, 0xffff, 2);
  put_number (out, ZIP_OLD_LIMIT, 4);
  put_number (out, ZIP_OLD_LIMIT, 4);
  put_number (out, 0, 2);
  return put (export, out->data, out->len, error);
}

static const gchar *
safetensors_type (KdDtype dtype)
{
  switch (dtype) {
  case KD_FLOAT64:
    return "F64";
  case KD_FLOAT32:
    return "F32";
  case KD_FLOAT16:
    return "F16";
  case KD_BFLOAT16:
    return "BF16";
  case KD_INT64:
    return "I64";
  case KD_INT32:
    return "I32";
  case KD_UINT16:
    return "U16";
  case KD_BOOL:
    return "BOOL";
  default:
    return "U8";
  }
}

static void
append_metadata (const Export *export, GString *json)
{
  const KdCacheIdentity *identity = kd_cache_reader_identity (export->reader);
  const gchar *const pairs[][2] = { { "teacher", identity->teacher }, { "teacher-spec", identity->teacher_spec }, { "dataset", identity->dataset },
    { "dataset-spec", identity->dataset_spec }, { "preprocessing", identity->preprocessing } };

  g_string_append (json, "\"__metadata__\":{\"kd.created-by\":\"kdstream\"");
  for (guint i = 0; i < G_N_ELEMENTS (pairs); i++) {
    g_autoptr (JsonNode) node = pairs[i][1] ? json_node_init_string (json_node_alloc (), pairs[i][1]) : NULL;
    g_autofree gchar *text = node ? json_to_string (node, FALSE) : NULL;
    if (text)
      g_string_append_printf (json, ",\"%s\":%s", pairs[i][0], text);
  }
  g_string_append (json, "}");
}

static gboolean
put_safetensors (Export *export, GError **error)
{
  g_autoptr (GString) json = g_string_new ("{");
  g_autoptr (GByteArray) length = g_byte_array_new ();
  guint64 offset = 0;

  append_metadata (export, json);
  for (guint i = 0; i < export->members->len; i++) {
    const Member *member = &g_array_index (export->members, Member, i);
    g_autofree gchar *shape = shape_text (member, ",");
    g_string_append_printf (json, ",\"%s\":{\"dtype\":\"%s\",\"shape\":[%s],\"data_offsets\":[%" G_GUINT64_FORMAT ",%" G_GUINT64_FORMAT "]}", member->name,
        safetensors_type (member->dtype), shape, offset, offset + member->n_bytes);
    offset += member->n_bytes;
  }
  g_string_append (json, "}");
  while (json->len % 8)
    g_string_append_c (json, ' ');
  put_number (length, json->len, 8);
  if (!put (export, length->data, length->len, error) || !put (export, json->str, json->len, error))
    return FALSE;
  for (guint i = 0; i < export->members->len; i++)
    if (!put_values (export, &g_array_index (export->members, Member, i), error))
      return FALSE;
  return TRUE;
}

static gboolean
put_npz (Export *export, GError **error)
{
  for (guint i = 0; i < export->members->len; i++)
    if (!put_zip_member (export, &g_array_index (export->members, Member, i), error))
      return FALSE;
  return put_zip_end (export, error);
}

static gboolean
write_file (Export *export, const gchar *output, GError **error)
{
  g_autofree gchar *folder = g_path_get_dirname (output), *name = g_path_get_basename (output);
  g_autofree gchar *temporary = g_strdup_printf ("%s/.%s.partial-%d", folder, name, (int) getpid ());
  guint64 bytes = 0;
  gboolean good;

  for (guint i = 0; i < export->members->len; i++)
    bytes += g_array_index (export->members, Member, i).n_bytes;
  kd_h5_sweep (output);
  export->fd = open (temporary, O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC, 0666);
  if (export->fd < 0) {
    g_set_error (error, KD_ERROR, KD_ERROR_IO, "Cannot write: path=\"%s\", reason=%s", output, g_strerror (errno));
    return FALSE;
  }
  good = kd_h5_reserve (output, -1, bytes, error) && (export->is_npz ? put_npz (export, error) : put_safetensors (export, error));
  if (close (export->fd) < 0 && good) {
    g_set_error (error, KD_ERROR, KD_ERROR_IO, "Cannot write: path=\"%s\", reason=%s", output, g_strerror (errno));
    good = FALSE;
  }
  if (good)
    return kd_h5_publish (temporary, output, error);
  unlink (temporary);
  return FALSE;
}

gboolean
kd_cache_export (const gchar *path, const gchar *output, const gchar *const *fields, const KdCacheCopyOptions *options, GError **error)
{
  g_autoptr (KdCacheReader) reader = NULL;
  g_autoptr (GArray) members = g_array_new (FALSE, FALSE, sizeof (Member));
  g_autofree gint64 *ids = NULL, *views = NULL, *rows = NULL;
  Export export = { .options = options, .path = output, .is_npz = g_str_has_suffix (output, ".npz"), .members = members };

  if (!export.is_npz && !g_str_has_suffix (output, ".safetensors")) {
    g_set_error (error, KD_ERROR, KD_ERROR_RANGE, "Unknown format: output=\"%s\", wanted=a name that ends in .npz or .safetensors", output);
    return FALSE;
  }
  reader = export.reader = kd_cache_reader_open (path, error);
  if (!reader || !add_members (&export, fields, error))
    return FALSE;
  export.rows = rows = kd_cache_reader_sorted (reader, &ids, &views, error);
  return rows && write_file (&export, output, error);
}
