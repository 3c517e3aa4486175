/* numpy's array format, read strictly: magic, version, a dictionary with exactly three keys, then the numbers. Objects are pickles, that is
 * programs: never read. */
#include "kd-data.h"

#include <string.h>

#define MAX_HEADER 65536

typedef struct {
  const gchar *at, *path;
  GError **error;
} Parser;

static gboolean
parse_fail (Parser *p, const gchar *wanted)
{
  g_autofree gchar *text = kd_data_excerpt (p->at);
  g_set_error (p->error, KD_ERROR, KD_ERROR_FORMAT, "Bad npy header: path=\"%s\", at=%s, wanted=%s", p->path, text, wanted);
  return FALSE;
}

static void
skip_space (Parser *p)
{
  while (*p->at == ' ' || *p->at == '\t' || *p->at == '\n')
    p->at++;
}

static gboolean
take (Parser *p, gchar c)
{
  skip_space (p);
  if (*p->at != c)
    return FALSE;
  p->at++;
  return TRUE;
}

/* A quoted string without escapes, of at most @size - 1 characters. */
static gboolean
take_string (Parser *p, gchar *buffer, gsize size)
{
  gchar quote;
  gsize n = 0;

  skip_space (p);
  quote = *p->at;
  if (quote != '\'' && quote != '"')
    return parse_fail (p, "a quoted string");
  for (p->at++; *p->at && *p->at != quote && *p->at != '\\' && n + 1 < size; p->at++)
    buffer[n++] = *p->at;
  buffer[n] = 0;
  if (*p->at != quote)
    return parse_fail (p, "the end of a string");
  p->at++;
  return TRUE;
}

static gboolean
unsupported (Parser *p, const gchar *what, const gchar *value, const gchar *remedy)
{
  g_autofree gchar *valid = g_utf8_make_valid (value, -1);

  g_set_error (p->error, KD_ERROR, KD_ERROR_UNSUPPORTED, "npy array of a kind that is not read: path=\"%s\", %s=%s; %s", p->path, what, valid,
      remedy);
  return FALSE;
}

/* '<f4': byte order, kind, bytes. */
static gboolean
parse_descr (KdNpy *npy, Parser *p)
{
  static const struct {
    gchar kind;
    guint size;
    KdDtype dtype;
  } types[] = {
    { 'f', 2, KD_FLOAT16 },
    { 'f', 4, KD_FLOAT32 },
    { 'f', 8, KD_FLOAT64 },
    { 'i', 1, KD_INT32 },
    { 'i', 2, KD_INT32 },
    { 'i', 4, KD_INT32 },
    { 'i', 8, KD_INT64 },
    { 'u', 1, KD_UINT8 },
    { 'u', 2, KD_UINT16 },
    { 'u', 4, KD_INT64 },
    { 'u', 8, KD_INT64 },
    { 'b', 1, KD_BOOL },
  };
  gchar descr[64];
  gint64 size;

  skip_space (p);
  if (*p->at == '[')
    return unsupported (p, "descr", "structured records", "save each column as an array of its own");
  if (!take_string (p, descr, sizeof descr))
    return FALSE;
  if (descr[0] && descr[1] == 'O')
    return unsupported (p, "descr", descr, "objects are pickled programs and never loaded: save numbers, numpy.save (f, a.astype ('float32'))");
  if (!strchr ("<>|=", descr[0]) || !descr[0] || !kd_data_parse_int (descr + 2, &size))
    return unsupported (p, "descr", descr, "save it as float32 or int64");
  for (guint i = 0; i < G_N_ELEMENTS (types); i++)
    if (types[i].kind == descr[1] && types[i].size == size) {
      npy->kind = descr[1];
      npy->size = types[i].size;
      npy->dtype = types[i].dtype;
      npy->swap = descr[0] == (G_BYTE_ORDER == G_LITTLE_ENDIAN ? '>' : '<');
      return TRUE;
    }
  return unsupported (p, "descr", descr, "save it as float32 or int64");
}

static gboolean
parse_fortran (Parser *p, gboolean *ret_fortran)
{
  skip_space (p);
  *ret_fortran = g_str_has_prefix (p->at, "True");
  if (!*ret_fortran && !g_str_has_prefix (p->at, "False"))
    return parse_fail (p, "True or False");
  p->at += *ret_fortran ? 4 : 5;
  return TRUE;
}

static gboolean
parse_shape (KdNpy *npy, Parser *p)
{
  if (!take (p, '('))
    return parse_fail (p, "a shape such as (3, 4)");
  for (npy->rank = 0; !take (p, ')');) {
    gint64 size = 0;
    skip_space (p);
    if (!g_ascii_isdigit (*p->at))
      return parse_fail (p, "a size of an axis");
    for (; g_ascii_isdigit (*p->at); p->at++) {
      if (size > (G_MAXINT64 - 9) / 10)
        return parse_fail (p, "a size below 2^63");
      size = size * 10 + (*p->at - '0');
    }
    if (npy->rank == KD_MAX_RANK)
      return parse_fail (p, "at most 8 axes");
    npy->dims[npy->rank++] = size;
    skip_space (p);
    if (!take (p, ',') && *p->at != ')')
      return parse_fail (p, "',' or ')'");
  }
  return TRUE;
}

static gboolean
check_sizes (KdNpy *npy, Parser *p)
{
  gsize row = npy->size, all;
  gboolean fits = TRUE;

  if (npy->rank == 0)
    return unsupported (p, "shape", "()", "the first axis must be the samples");
  for (guint i = 1; i < npy->rank; i++)
    fits = fits && g_size_checked_mul (&row, row, (gsize) npy->dims[i]);
  if (fits && row > 0 && row <= KD_DATA_MAX_ROW_BYTES && g_size_checked_mul (&all, row, (gsize) npy->dims[0]) && all < G_MAXSSIZE) {
    npy->row_bytes = row;
    return TRUE;
  }
  g_set_error (p->error, KD_ERROR, KD_ERROR_RANGE,
      "npy header declares an impossible size: path=\"%s\", rows=%" G_GINT64_FORMAT ", most bytes a row=%zu, least=1", p->path, npy->dims[0],
      KD_DATA_MAX_ROW_BYTES);
  return FALSE;
}

gboolean
kd_npy_parse_header (KdNpy *npy, const gchar *text, const gchar *path, GError **error)
{
  Parser p = { text, path, error };
  guint seen = 0;
  gboolean fortran = FALSE;
  gchar key[32];

  if (!take (&p, '{'))
    return parse_fail (&p, "'{'");
  while (!take (&p, '}')) {
    guint bit;
    if (!take_string (&p, key, sizeof key))
      return FALSE;
    bit = g_str_equal (key, "descr") ? 1 : g_str_equal (key, "fortran_order") ? 2
        : g_str_equal (key, "shape")                                          ? 4
                                                                              : 0;
    if (!bit || seen & bit)
      return parse_fail (&p, "the keys descr, fortran_order and shape, once each");
    seen |= bit;
    if (!take (&p, ':'))
      return parse_fail (&p, "':'");
    if (!(bit == 1 ? parse_descr (npy, &p) : bit == 2 ? parse_fortran (&p, &fortran)
                                                      : parse_shape (npy, &p)))
      return FALSE;
    skip_space (&p);
    if (!take (&p, ',') && *p.at != '}')
      return parse_fail (&p, "',' or '}'");
  }
  skip_space (&p);
  if (seen != 7 || *p.at)
    return parse_fail (&p, "the keys descr, fortran_order and shape, and nothing after them");
  if (fortran && npy->rank > 1)
    return unsupported (&p, "fortran_order", "True", "rows lie apart in it: save numpy.ascontiguousarray (a)");
  return check_sizes (npy, &p);
}

gboolean
kd_npy_open (KdNpy *npy, KdReadFunc read, gpointer user_data, const gchar *path, GError **error)
{
  guint8 start[12];
  gsize n_length, length;
  g_autofree gchar *text = NULL;

  memset (npy, 0, sizeof *npy);
  if (!read (user_data, start, 10, error))
    return FALSE;
  if (memcmp (start, "\x93NUMPY", 6) || start[6] < 1 || start[6] > 3) {
    g_set_error (error, KD_ERROR, KD_ERROR_FORMAT, "Not an npy file: path=\"%s\", version=%u, wanted=the mark \\x93NUMPY and version 1 to 3", path,
        start[6]);
    return FALSE;
  }
  n_length = start[6] == 1 ? 2 : 4;
  if (n_length == 4 && !read (user_data, start + 10, 2, error))
    return FALSE;
  length = start[8] | (gsize) start[9] << 8;
  if (n_length == 4)
    length |= (gsize) start[10] << 16 | (gsize) start[11] << 24;
  if (length > MAX_HEADER) {
    g_set_error (error, KD_ERROR, KD_ERROR_RANGE, "npy header too long: path=\"%s\", bytes=%zu, most=%d", path, length, MAX_HEADER);
    return FALSE;
  }
  text = g_malloc0 (length + 1);
  if (!read (user_data, text, length, error))
    return FALSE;
  npy->header_bytes = 8 + n_length + length;
  return kd_npy_parse_header (npy, text, path, error);
}

static void
swap_bytes (guint8 *data, gsize n, guint size)
{
  for (gsize i = 0; i < n; i++)
    for (guint j = 0; j < size / 2; j++) {
      guint8 t = data[i * size + j];
      data[i * size + j] = data[i * size + size - 1 - j];
      data[i * size + size - 1 - j] = t;
    }
}

/* Types that KdTensor lacks widen; uint64 beyond int64 is refused. */
static gboolean
widen (const KdNpy *npy, const guint8 *raw, KdTensor *tensor, const gchar *path, GError **error)
{
  gsize n = kd_tensor_n_elements (tensor);

  for (gsize i = 0; i < n; i++) {
    if (npy->kind == 'i' && npy->size == 1)
      ((gint32 *) tensor->data)[i] = ((const gint8 *) raw)[i];
    else if (npy->kind == 'i')
      ((gint32 *) tensor->data)[i] = ((const gint16 *) raw)[i];
    else if (npy->size == 4)
      ((gint64 *) tensor->data)[i] = ((const guint32 *) raw)[i];
    else if (((const guint64 *) raw)[i] > G_MAXINT64) {
      g_set_error (error, KD_ERROR, KD_ERROR_RANGE, "Number too large: path=\"%s\", value=%" G_GUINT64_FORMAT ", most=%" G_GINT64_FORMAT, path,
          ((const guint64 *) raw)[i], G_MAXINT64);
      return FALSE;
    } else
      ((gint64 *) tensor->data)[i] = ((const gint64 *) raw)[i];
  }
  return TRUE;
}

KdTensor *
kd_npy_rows (const KdNpy *npy, gint64 n, KdReadFunc read, gpointer user_data, const gchar *path, GError **error)
{
  g_autoptr (KdTensor) tensor = NULL;
  g_autofree guint8 *raw = NULL;
  gint64 dims[KD_MAX_RANK];
  gsize bytes = (gsize) n * npy->row_bytes;
  gboolean as_is = kd_dtype_size (npy->dtype) == npy->size && !(npy->kind == 'u' && npy->size == 8);

  memcpy (dims, npy->dims, sizeof dims);
  dims[0] = n;
  tensor = kd_tensor_new (npy->dtype, npy->rank, dims);
  raw = as_is ? NULL : g_malloc (bytes);
  if (!read (user_data, as_is ? tensor->data : raw, bytes, error))
    return NULL;
  if (npy->swap)
    swap_bytes (as_is ? tensor->data : raw, bytes / npy->size, npy->size);
  if (!as_is && !widen (npy, raw, tensor, path, error))
    return NULL;
  if (npy->dtype == KD_BOOL)
    for (gsize i = 0; i < bytes; i++)
      ((guint8 *) tensor->data)[i] = ((guint8 *) tensor->data)[i] != 0;
  return g_steal_pointer (&tensor);
}

gint64
kd_npy_batch_rows (gsize row_bytes)
{
  return (gint64) CLAMP (KD_DATA_FLUSH_BYTES / MAX (row_bytes, 1), 1, KD_DATA_FLUSH_ROWS);
}
