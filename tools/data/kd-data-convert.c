/* kd data convert: choose fields and rows of a batch file, change element types, compress. */
#include "kd-data.h"

#include <math.h>
#include <string.h>

typedef struct {
  gchar *fields, *rows, *compress;
  gchar **dtypes;
  /* parsed */
  gint64 first, count; /* count -1: to the end */
} KdConvert;

static void
convert_clear (KdConvert *self)
{
  g_free (self->fields);
  g_free (self->rows);
  g_free (self->compress);
  g_strfreev (self->dtypes);
}
G_DEFINE_AUTO_CLEANUP_CLEAR_FUNC (KdConvert, convert_clear)

static gboolean
parse_rows (KdConvert *self)
{
  gchar *colon = self->rows ? strchr (self->rows, ':') : NULL;
  g_autofree gchar *first = NULL;

  self->count = -1;
  if (!self->rows)
    return TRUE;
  if (!colon)
    return FALSE;
  first = g_strndup (self->rows, (gsize) (colon - self->rows));
  return (!*first || kd_data_parse_int (first, &self->first)) && (!colon[1] || kd_data_parse_int (colon + 1, &self->count)) && self->first >= 0 &&
      (!colon[1] || self->count > 0);
}

static KdDtype
wished_dtype (const KdConvert *self, const gchar *name)
{
  gsize n = strlen (name);

  for (gchar **dtype = self->dtypes; dtype && *dtype; dtype++)
    if (strncmp (*dtype, name, n) == 0 && (*dtype)[n] == '=')
      return kd_dtype_from_name (*dtype + n + 1);
  return 0;
}

/* Every name given must be a field: a typing error would else be a field that is silently not there. */
static gboolean
check_names (const KdConvert *self, KdH5Reader *reader, gchar **wanted, GError **error)
{
  const KdLayout *layout = kd_h5_reader_layout (reader);
  g_autofree gchar *have = kd_layout_names (layout);
  g_autoptr (GPtrArray) names = g_ptr_array_new_with_free_func (g_free);

  for (gchar **name = wanted; name && *name; name++)
    g_ptr_array_add (names, g_strdup (*name));
  for (gchar **dtype = self->dtypes; dtype && *dtype; dtype++)
    g_ptr_array_add (names, g_strndup (*dtype, (gsize) (strchr (*dtype, '=') - *dtype)));
  for (guint i = 0; i < names->len; i++)
    if (!kd_layout_find (layout, g_ptr_array_index (names, i))) {
      g_set_error (error, KD_ERROR, KD_ERROR_FIELD, "No such field: path=\"%s\", field=%s, fields=\"%s\"", kd_h5_reader_path (reader),
          (const gchar *) g_ptr_array_index (names, i), have);
      return FALSE;
    }
  return TRUE;
}

/* The names to copy, (transfer container), in sorted order. sample.id always comes along: caches join on it. */
static GPtrArray *
choose_fields (KdH5Reader *reader, gchar **wanted)
{
  const KdLayout *layout = kd_h5_reader_layout (reader);
  GPtrArray *names = g_ptr_array_new ();

  for (guint i = 0; i < kd_layout_n_fields (layout); i++) {
    const KdLayoutField *field = kd_layout_nth (layout, i);
    if (field->rank > 0 && (!wanted || g_str_equal (field->name, "sample.id") || g_strv_contains ((const gchar *const *) wanted, field->name)))
      g_ptr_array_add (names, (gpointer) field->name);
  }
  return names;
}

/* A smaller type must not change what a value means: an integer stays that integer, a number does not become infinite. */
static KdTensor *
convert_dtype (KdTensor *tensor, KdDtype dtype, const gchar *name, gint64 first, GError **error)
{
  g_autoptr (KdTensor) cast = kd_tensor_cast (tensor, dtype, error);
  gsize n = kd_tensor_n_elements (tensor), row = MAX (kd_tensor_row_elements (tensor), 1);

  for (gsize i = 0; cast && i < n; i++) {
    gdouble was = kd_tensor_get_double (tensor, i), is = kd_tensor_get_double (cast, i);
    if (dtype & (KD_ANY_INT | KD_BOOL) ? was == is : isfinite (is) || !isfinite (was))
      continue;
    g_set_error (error, KD_ERROR, KD_ERROR_RANGE, "Value does not fit: field=%s, row=%" G_GINT64_FORMAT ", value=%.17g, --dtype=%s; choose a wider "
                                                  "type",
        name,
        first + (gint64) (i / row), was, kd_dtype_name (dtype));
    return NULL;
  }
  return g_steal_pointer (&cast);
}

static gboolean
copy_rows (const KdConvert *self, KdH5Reader *reader, GPtrArray *names, gint64 first, gint64 n, KdDataOut *out, GError **error)
{
  g_autoptr (GPtrArray) tensors = g_ptr_array_new_with_free_func ((GDestroyNotify) kd_tensor_unref);

  for (guint i = 0; i < names->len; i++) {
    const gchar *name = g_ptr_array_index (names, i);
    KdDtype dtype = wished_dtype (self, name);
    g_autoptr (KdTensor) tensor = kd_h5_reader_read (reader, name, first, n, error);
    KdTensor *cast = tensor && dtype && dtype != tensor->dtype ? convert_dtype (tensor, dtype, name, first, error) : g_steal_pointer (&tensor);
    if (!cast)
      return FALSE;
    g_ptr_array_add (tensors, cast);
  }
  return kd_data_out_append (out, names->len, (const gchar *const *) names->pdata, (KdTensor *const *) tensors->pdata, error);
}

static gboolean
copy_attributes (KdH5Reader *reader, KdDataOut *out, GError **error)
{
  static const gchar *const own[] = { "kd.schema", "kd.fields", "kd.created-by", NULL };
  g_auto (GStrv) names = kd_h5_reader_attribute_names (reader);

  for (gchar **name = names; *name; name++)
    if (!g_strv_contains (own, *name) && !kd_h5_writer_set_attribute (out->writer, *name, kd_h5_reader_attribute (reader, *name), error))
      return FALSE;
  return TRUE;
}

static gint64
rows_a_batch (KdH5Reader *reader)
{
  const KdLayout *layout = kd_h5_reader_layout (reader);
  gsize bytes = 1;

  for (guint i = 0; i < kd_layout_n_fields (layout); i++) {
    const KdLayoutField *field = kd_layout_nth (layout, i);
    gsize one = kd_dtype_size (field->dtype);
    for (guint j = 1; j < field->rank; j++)
      one *= (gsize) MAX (field->dims[j], 1);
    bytes += one;
  }
  return kd_npy_batch_rows (bytes);
}

static gboolean
convert (KdConvert *self, const gchar *input, const gchar *output, GError **error)
{
  g_autoptr (KdH5Reader) reader = kd_h5_reader_open (input, NULL, error);
  g_auto (GStrv) wanted = self->fields ? g_strsplit (self->fields, ",", -1) : NULL;
  g_autoptr (GPtrArray) names = NULL;
  g_autoptr (KdDataOut) out = NULL;
  gint64 n_rows, step;

  if (!reader || !kd_h5_reader_check_rows (reader, error) || !check_names (self, reader, wanted, error))
    return FALSE;
  n_rows = kd_h5_reader_n_rows (reader);
  if (self->first >= n_rows || self->count > n_rows - self->first) {
    g_set_error (error, KD_ERROR, KD_ERROR_RANGE, "Rows outside the file: --rows=%s, path=\"%s\", rows there=%" G_GINT64_FORMAT,
        self->rows ? self->rows : "0:", input, n_rows);
    return FALSE;
  }
  if (self->count < 0)
    self->count = n_rows - self->first;
  names = choose_fields (reader, wanted);
  if (!(out = kd_data_out_new (output, self->count, error)) || !kd_h5_writer_set_filter (out->writer, self->compress ? self->compress : "none", error))
    return FALSE;
  /* A file without ids gets those its rows have there, not ones counted from the first row taken. */
  out->first_id = self->first;
  step = rows_a_batch (reader);
  for (gint64 done = 0; done < self->count; done += step)
    if (!copy_rows (self, reader, names, self->first + done, MIN (step, self->count - done), out, error))
      return FALSE;
  if (!copy_attributes (reader, out, error) || !kd_data_out_finish (out, error))
    return FALSE;
  g_print ("%s: %" G_GINT64_FORMAT " rows\n", output, self->count);
  return TRUE;
}

int
kd_data_convert (int argc, char **argv)
{
  g_auto (KdConvert) self = { 0 };
  g_autoptr (GError) error = NULL;
  const GOptionEntry entries[] = {
    { "fields", 0, 0, G_OPTION_ARG_STRING, &self.fields, "Copy these alone (sample.id always comes along)", "A,B" },
    { "rows", 0, 0, G_OPTION_ARG_STRING, &self.rows, "Copy these alone; COUNT may be left out", "FIRST:COUNT" },
    { "dtype", 0, 0, G_OPTION_ARG_STRING_ARRAY, &self.dtypes, "Store a field as another type", "FIELD=TYPE" },
    { "compress", 0, 0, G_OPTION_ARG_STRING, &self.compress, "none: can be mapped (the default); deflate: smaller, slower", "none|deflate" },
    G_OPTION_ENTRY_NULL,
  };

  if (!kd_tool_options (&argc, &argv, entries, "IN.h5 OUT.h5", "Copy a batch file, choosing and changing what goes along.",
          "Examples:\n  kd data convert train.h5 small.h5 --rows 0:1000\n  kd data convert t.h5 half.h5 --dtype teacher.logits=float16\n"))
    return KD_EXIT_USAGE;
  if (argc != 3)
    return kd_tool_usage ("IN.h5 and OUT.h5 are wanted");
  if (!parse_rows (&self))
    return kd_tool_usage ("--rows=%s is no FIRST:COUNT", self.rows);
  if (self.compress && !g_strv_contains ((const gchar *const[]) { "none", "deflate", NULL }, self.compress))
    return kd_tool_usage ("--compress=%s is neither none nor deflate", self.compress);
  for (gchar **dtype = self.dtypes; dtype && *dtype; dtype++)
    if (!strchr (*dtype, '=') || !kd_dtype_from_name (strchr (*dtype, '=') + 1))
      return kd_tool_usage ("--dtype %s is no FIELD=TYPE with TYPE such as float16", *dtype);
  return convert (&self, argv[1], argv[2], &error) ? KD_EXIT_DONE : kd_tool_fail ("%s", error->message);
}
