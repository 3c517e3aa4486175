/* Reading parameters from safetensors files: 8 bytes length of the header, the header (JSON: name -> dtype, shape, data_offsets), the numbers.
 * A file is not trusted: each size in it is checked against the file's before anything of that size is allocated. */
#include "../kd-json.h"
#include "kd-params-private.h"

#include <errno.h>
#include <fcntl.h>
#include <glib/gstdio.h>
#include <json-glib/json-glib.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#define HEADER_MAX_BYTES ((guint64) 64 << 20)

G_STATIC_ASSERT (G_BYTE_ORDER == G_LITTLE_ENDIAN); /* as the numbers in the file are */

typedef struct {
  const gchar *path;
  int fd;
  guint64 data_start, data_bytes;
  JsonParser *parser;
  JsonObject *header;
} File;

/* One tensor of a file. */
typedef struct {
  KdDtype dtype;
  guint rank;
  gint64 dims[KD_MAX_RANK];
  guint64 begin, end;
} Entry;

static void
file_close (File *file)
{
  if (file->fd >= 0)
    close (file->fd);
  g_clear_object (&file->parser);
}
G_DEFINE_AUTO_CLEANUP_CLEAR_FUNC (File, file_close)

static gboolean G_GNUC_PRINTF (3, 4)
    refuse (const File *file, GError **error, const gchar *format, ...)
{
  g_autofree gchar *reason = NULL, *valid = NULL;
  va_list args;

  va_start (args, format);
  reason = g_strdup_vprintf (format, args);
  va_end (args);
  valid = g_utf8_make_valid (reason, -1); /* json-glib cuts words in the middle of a letter */
  g_set_error (error, KD_ERROR, KD_ERROR_FORMAT, "Cannot read weights: path=\"%s\", reason=%s; the file is damaged or no safetensors file",
      file->path, valid);
  return FALSE;
}

static gboolean
read_at (const File *file, guint64 offset, gpointer to, gsize n, GError **error)
{
  gsize done = 0;

  while (done < n) {
    gssize got = pread (file->fd, (guint8 *) to + done, n - done, (off_t) (offset + done));
    if (got < 0 && errno == EINTR)
      continue;
    if (got <= 0) {
      g_set_error (error, KD_ERROR, KD_ERROR_IO, "Cannot read weights: path=\"%s\", offset=%" G_GUINT64_FORMAT ", reason=%s",
          file->path, offset + done, got < 0 ? g_strerror (errno) : "the file ends here");
      return FALSE;
    }
    done += (gsize) got;
  }
  return TRUE;
}

static gboolean
parse_header (File *file, guint64 header_bytes, GError **error)
{
  g_autofree gchar *text = g_malloc (header_bytes + 1);
  g_autoptr (GError) reason = NULL;
  const gchar *fault;
  JsonNode *root;

  if (!read_at (file, 8, text, header_bytes, error))
    return FALSE;
  text[header_bytes] = 0;
  if (!g_utf8_validate_len (text, header_bytes, NULL))
    return refuse (file, error, "the header is not UTF-8");
  if ((fault = kd_json_fault (text, header_bytes)))
    return refuse (file, error, "header: %s", fault);
  file->parser = json_parser_new_immutable ();
  if (!json_parser_load_from_data (file->parser, text, (gssize) header_bytes, &reason))
    return refuse (file, error, "header: %s", reason->message);
  root = json_parser_get_root (file->parser);
  if (!root || !JSON_NODE_HOLDS_OBJECT (root))
    return refuse (file, error, "the header is not a JSON object");
  file->header = json_node_get_object (root);
  return TRUE;
}

static gboolean
file_open (File *file, const gchar *path, GError **error)
{
  guint64 header_bytes;
  struct stat info;

  file->path = path;
  file->fd = g_open (path, O_RDONLY | O_CLOEXEC, 0);
  if (file->fd < 0 || fstat (file->fd, &info) != 0) {
    g_set_error (error, KD_ERROR, KD_ERROR_IO, "Cannot read weights: path=\"%s\", reason=%s", path, g_strerror (errno));
    return FALSE;
  }
  if (!S_ISREG (info.st_mode) || info.st_size < 10)
    return refuse (file, error, "%s", S_ISREG (info.st_mode) ? "shorter than any header" : "not a regular file");
  if (!read_at (file, 0, &header_bytes, sizeof header_bytes, error))
    return FALSE;
  if (header_bytes > HEADER_MAX_BYTES || header_bytes > (guint64) info.st_size - 8)
    return refuse (file, error, "header of %" G_GUINT64_FORMAT " bytes in a file of %" G_GINT64_FORMAT, header_bytes,
        (gint64) info.st_size);
  file->data_start = 8 + header_bytes;
  file->data_bytes = (guint64) info.st_size - file->data_start;
  return parse_header (file, header_bytes, error);
}

static gboolean
read_ints (JsonObject *object, const gchar *member, guint max, guint *ret_n, gint64 *ret)
{
  JsonNode *node = json_object_get_member (object, member);
  JsonArray *array = node && JSON_NODE_HOLDS_ARRAY (node) ? json_node_get_array (node) : NULL;

  if (!array || json_array_get_length (array) > max)
    return FALSE;
  *ret_n = json_array_get_length (array);
  for (guint i = 0; i < *ret_n; i++) {
    JsonNode *item = json_array_get_element (array, i);
    if (!JSON_NODE_HOLDS_VALUE (item) || json_node_get_value_type (item) != G_TYPE_INT64)
      return FALSE;
    ret[i] = json_node_get_int (item);
    if (ret[i] < 0)
      return FALSE;
  }
  return TRUE;
}

static KdDtype
dtype_of (const gchar *name)
{
  static const struct {
    const gchar *name;
    KdDtype dtype;
  } known[] = { { "F32", KD_FLOAT32 }, { "F16", KD_FLOAT16 }, { "BF16", KD_BFLOAT16 }, { "F64", KD_FLOAT64 } };

  for (guint i = 0; i < G_N_ELEMENTS (known); i++)
    if (g_strcmp0 (name, known[i].name) == 0)
      return known[i].dtype;
  return 0;
}

static gboolean
read_entry (const File *file, const gchar *name, Entry *ret, GError **error)
{
  JsonNode *node = json_object_get_member (file->header, name);
  JsonObject *object = node && JSON_NODE_HOLDS_OBJECT (node) ? json_node_get_object (node) : NULL;
  JsonNode *dtype = object ? json_object_get_member (object, "dtype") : NULL;
  gint64 offsets[2];
  guint n_offsets;
  gsize bytes;

  if (!dtype || !JSON_NODE_HOLDS_VALUE (dtype) || json_node_get_value_type (dtype) != G_TYPE_STRING)
    return refuse (file, error, "tensor \"%s\" has no dtype", name);
  ret->dtype = dtype_of (json_node_get_string (dtype));
  if (!ret->dtype) {
    g_set_error (error, KD_ERROR, KD_ERROR_DTYPE, "Type of weights not supported: path=\"%s\", tensor=\"%s\", dtype=%s, "
                                                  "supported=F32 F16 BF16 F64",
        file->path, name, json_node_get_string (dtype));
    return FALSE;
  }
  if (!read_ints (object, "shape", KD_MAX_RANK, &ret->rank, ret->dims) ||
      !kd_shape_bytes (ret->dtype, ret->rank, ret->dims, &bytes))
    return refuse (file, error, "tensor \"%s\" has no shape that can be", name);
  if (!read_ints (object, "data_offsets", 2, &n_offsets, offsets) || n_offsets != 2 || offsets[1] < offsets[0] ||
      (guint64) offsets[1] > file->data_bytes || (guint64) (offsets[1] - offsets[0]) != bytes)
    return refuse (file, error, "tensor \"%s\" lies outside the file or is not as long as its shape", name);
  ret->begin = (guint64) offsets[0];
  ret->end = (guint64) offsets[1];
  return TRUE;
}

static gchar *
shape_string (guint rank, const gint64 *dims)
{
  KdTensor shape = { .rank = rank };

  memcpy (shape.dims, dims, rank * sizeof *dims);
  return kd_tensor_shape_string (&shape);
}

/* Every tensor of the file must be a parameter: a left-over one means another model. */
static gboolean
check_names (const File *file, const KdParamSet *set, GError **error)
{
  g_autoptr (GList) names = json_object_get_members (file->header);

  for (GList *l = names; l; l = l->next) {
    if (g_str_equal (l->data, "__metadata__") || kd_param_set_find (set, l->data) >= 0)
      continue;
    g_set_error (error, KD_ERROR, KD_ERROR_MISMATCH,
        "Weights do not fit the model: path=\"%s\", tensor=\"%s\" is in the file only; give the architecture that the weights were made with",
        file->path, (const gchar *) l->data);
    return FALSE;
  }
  return TRUE;
}

static gboolean
check_entry (const File *file, const KdParamInfo *info, Entry *ret, GError **error)
{
  if (!json_object_has_member (file->header, info->name)) {
    g_set_error (error, KD_ERROR, KD_ERROR_MISMATCH,
        "Weights do not fit the model: path=\"%s\", parameter=\"%s\" is not in the file; give the architecture that the weights were made with",
        file->path, info->name);
    return FALSE;
  }
  if (!read_entry (file, info->name, ret, error))
    return FALSE;
  if (ret->rank != info->rank || memcmp (ret->dims, info->dims, info->rank * sizeof (gint64))) {
    g_autofree gchar *in_file = shape_string (ret->rank, ret->dims), *in_model = shape_string (info->rank, info->dims);
    g_set_error (error, KD_ERROR, KD_ERROR_MISMATCH,
        "Weights do not fit the model: path=\"%s\", parameter=\"%s\", file=%s, model=%s; give the architecture that the weights were made with",
        file->path, info->name, in_file, in_model);
    return FALSE;
  }
  return TRUE;
}

static gboolean
read_values (const File *file, const Entry *entry, gfloat *to, gsize n, GError **error)
{
  g_autoptr (KdTensor) raw = NULL, values = NULL;

  if (entry->dtype == KD_FLOAT32)
    return read_at (file, file->data_start + entry->begin, to, entry->end - entry->begin, error);
  raw = kd_tensor_new (entry->dtype, entry->rank, entry->dims);
  if (!read_at (file, file->data_start + entry->begin, raw->data, raw->n_bytes, error))
    return FALSE;
  values = kd_tensor_cast (raw, KD_FLOAT32, error);
  if (!values)
    return FALSE;
  memcpy (to, values->data, n * sizeof (gfloat));
  return TRUE;
}

static gboolean
load_into (const File *file, KdParamSet *set, gfloat *flat, GError **error)
{
  for (guint i = 0; i < kd_param_set_n (set); i++) {
    const KdParamInfo *info = kd_param_set_nth (set, i);
    Entry entry;

    if (!check_entry (file, info, &entry, error) || !read_values (file, &entry, flat + info->offset, info->n, error))
      return FALSE;
  }
  return TRUE;
}

gboolean
kd_param_set_load (KdParamSet *set, const gchar *path, GError **error)
{
  g_auto (File) file = { .fd = -1 };
  gfloat *flat;
  gboolean loaded;

  g_return_val_if_fail (set->frozen, FALSE);
  if (!file_open (&file, path, error) || !check_names (&file, set, error))
    return FALSE;
  flat = _kd_flat_new (set->n_flat); /* the set stays as it was on failure */
  loaded = load_into (&file, set, flat, error);
  if (loaded)
    memcpy (set->values, flat, set->n_flat * sizeof (gfloat));
  free (flat);
  return loaded;
}

KdTensor *
kd_safetensors_read (const gchar *path, const gchar *name, GError **error)
{
  g_auto (File) file = { .fd = -1 };
  g_autoptr (KdTensor) tensor = NULL;
  Entry entry;

  if (!file_open (&file, path, error))
    return NULL;
  if (!json_object_has_member (file.header, name) || g_str_equal (name, "__metadata__")) {
    g_autoptr (GList) names = json_object_get_members (file.header);
    g_autoptr (GString) text = g_string_new (NULL);
    for (GList *l = names; l; l = l->next)
      if (!g_str_equal (l->data, "__metadata__"))
        g_string_append_printf (text, "%s%s", text->len ? " " : "", (const gchar *) l->data);
    g_set_error (error, KD_ERROR, KD_ERROR_FIELD, "Tensor not in the file: path=\"%s\", tensor=\"%s\", tensors=\"%s\"", path, name, text->str);
    return NULL;
  }
  if (!read_entry (&file, name, &entry, error))
    return NULL;
  tensor = kd_tensor_new (KD_FLOAT32, entry.rank, entry.dims);
  return read_values (&file, &entry, tensor->data, kd_tensor_n_elements (tensor), error) ? g_steal_pointer (&tensor) : NULL;
}

GHashTable *
kd_safetensors_metadata (const gchar *path, GError **error)
{
  g_autoptr (GHashTable) table = g_hash_table_new_full (g_str_hash, g_str_equal, g_free, g_free);
  g_autoptr (GList) names = NULL;
  g_auto (File) file = { .fd = -1 };
  JsonNode *node;

  if (!file_open (&file, path, error))
    return NULL;
  node = json_object_get_member (file.header, "__metadata__");
  if (node && JSON_NODE_HOLDS_OBJECT (node))
    names = json_object_get_members (json_node_get_object (node));
  for (GList *l = names; l; l = l->next) {
    JsonNode *value = json_object_get_member (json_node_get_object (node), l->data);
    if (JSON_NODE_HOLDS_VALUE (value) && json_node_get_value_type (value) == G_TYPE_STRING)
      g_hash_table_insert (table, g_strdup (l->data), json_node_dup_string (value));
  }
  return g_steal_pointer (&table);
}
