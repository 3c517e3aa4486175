/* The way of a tensor into its encoding and back, and the distance between the two. */
#include "kd-cache-private.h"

#include "../math/kd-packed.h"
#include "../math/kd-quantize.h"
#include "../math/kd-softmax.h"

#include <math.h>
#include <string.h>

/* Rows and values a row: what shares a scale is the last axis. */
static gint64
width_of (const KdTensor *tensor)
{
  return tensor->rank ? tensor->dims[tensor->rank - 1] : 1;
}

static gboolean
refuse (const KdCacheEncoding *encoding, const gchar *path, const KdTensor *rows, const gchar *wanted, GError **error)
{
  g_set_error (error, KD_ERROR, KD_ERROR_DTYPE, "Cannot encode: path=\"%s\", field=%s, encoding=%s, dtype=%s, rank=%u, wanted=%s; choose another "
                                                "encoding for this field",
      path, encoding->field, encoding->name, kd_dtype_name (rows->dtype), rows->rank, wanted);
  return FALSE;
}

/* Sums of a call's rows: each row has been measured alone, so that threads do not matter. @error [n, 2]: largest, mean; < 0: not counted. */
static void
count_rows (KdCacheEncoding *encoding, gint64 n, const gdouble *error)
{
  gdouble sum = 0;
  gint64 counted = 0;

  for (gint64 i = 0; i < n; i++) {
    if (!(error[2 * i] >= 0))
      continue;
    encoding->max_error = MAX (encoding->max_error, error[2 * i]);
    sum += error[2 * i + 1];
    counted++;
  }
  if (counted)
    encoding->mean_error = (encoding->mean_error * (gdouble) encoding->n_rows + sum) / (gdouble) (encoding->n_rows + counted);
  encoding->n_rows += counted;
}

/* What the k largest leave out. Rows that were not counted hold only zeros. */
static void
measure_tail (KdCacheEncoding *encoding, const KdTensor *rows, gint64 n_before)
{
  gint64 width = width_of (rows), n = width ? (gint64) kd_tensor_n_elements (rows) / width : 0, counted = 0;
  gdouble sum = 0;

  if (!g_str_has_suffix (encoding->field, ".topk.logprobs"))
    return;
  for (gint64 i = 0; i < n; i++) {
    gdouble mass = 0;
    for (gint64 k = 0; k < width; k++)
      mass += exp (kd_tensor_get_double (rows, (gsize) (i * width + k)));
    if (!(mass <= 1 + 1e-3))
      continue;
    encoding->max_tail = MAX (encoding->max_tail, MAX (1 - mass, 0));
    sum += MAX (1 - mass, 0);
    counted++;
  }
  if (counted)
    encoding->mean_tail = encoding->mean_tail < 0 ? sum / (gdouble) counted : (encoding->mean_tail * (gdouble) n_before + sum) / (gdouble) (n_before + counted);
}

/* Padding ids have logits like -1e9: their probability is 0 as -infinity too. Any other number that a type cannot hold is an error. */
static gboolean
is_lost (const KdCacheEncoding *encoding, gdouble value, gdouble stored)
{
  return isinf (stored) && isfinite (value) && !(value < 0 && g_str_has_suffix (encoding->field, ".logits"));
}

static void
measure_row (const KdTensor *rows, const KdTensor *stored, gint64 row, gint64 width, gdouble *ret_error)
{
  gdouble max = 0, sum = 0;
  gint64 n = 0;

  for (gint64 i = row * width; i < (row + 1) * width; i++) {
    gdouble value = kd_tensor_get_double (rows, (gsize) i), off = fabs (value - kd_tensor_get_double (stored, (gsize) i));
    if (isnan (value)) {
      ret_error[0] = -1;
      return;
    }
    if (!isfinite (off))
      continue;
    max = MAX (max, off);
    sum += off;
    n++;
  }
  ret_error[0] = max;
  ret_error[1] = n ? sum / (gdouble) n : 0;
}

static gboolean
check_overflow (const KdCacheEncoding *encoding, const gchar *path, const KdTensor *rows, const KdTensor *stored, GError **error)
{
  gsize n = kd_tensor_n_elements (rows);

  for (gsize i = 0; i < n; i++) {
    gdouble value;
    if ((((const guint16 *) stored->data)[i] & 0x7fff) != 0x7c00)
      continue;
    value = kd_tensor_get_double (rows, i);
    if (!is_lost (encoding, value, INFINITY))
      continue;
    g_set_error (error, KD_ERROR, KD_ERROR_RANGE, "Cannot encode: path=\"%s\", field=%s, encoding=%s, value=%g, row=%" G_GSIZE_FORMAT ", wanted=at most 65504; store it as bfloat16 or float32",
        path, encoding->field, encoding->name, value, i / MAX (kd_tensor_row_elements (rows), 1));
    return FALSE;
  }
  return TRUE;
}

static KdTensor *
encode_float (KdCacheEncoding *encoding, const gchar *path, KdTensor *rows, GError **error)
{
  KdDtype dtype = kd_dtype_from_name (encoding->name);
  gint64 width = width_of (rows), n = width ? (gint64) kd_tensor_n_elements (rows) / width : 0;
  g_autofree gdouble *errors = g_new (gdouble, 2 * MAX (n, 1));
  g_autoptr (KdTensor) stored = NULL;

  if (!(rows->dtype & KD_ANY_FLOAT)) {
    refuse (encoding, path, rows, "a float field", error);
    return NULL;
  }
  stored = kd_tensor_cast (rows, dtype, error);
  if (!stored || (dtype == KD_FLOAT16 && rows->dtype != dtype && !check_overflow (encoding, path, rows, stored, error)))
    return NULL;
#pragma omp parallel for if (n * width > (1 << 16))
  for (gint64 i = 0; i < n; i++)
    measure_row (rows, stored, i, width, errors + 2 * i);
  measure_tail (encoding, rows, encoding->n_rows);
  count_rows (encoding, n, errors);
  return g_steal_pointer (&stored);
}

/* (transfer full) [n, 2] of float16; the kernel gives numbers that it holds. */
static KdTensor *
store_scale (const KdTensor *rows, const gfloat *scale, gint64 n)
{
  gint64 dims[KD_MAX_RANK];
  KdTensor *stored;

  memcpy (dims, rows->dims, sizeof dims);
  dims[rows->rank - 1] = 2;
  stored = kd_tensor_new (KD_FLOAT16, rows->rank, dims);
  for (gint64 i = 0; i < 2 * n; i++)
    ((guint16 *) stored->data)[i] = kd_float_to_half (scale[i]);
  return stored;
}

static KdTensor *
encode_logprobs (KdCacheEncoding *encoding, const gchar *path, KdTensor *rows, KdTensor **ret_scale, GError **error)
{
  gint64 width = width_of (rows), n = width ? (gint64) kd_tensor_n_elements (rows) / width : 0;
  gboolean normalise = g_str_has_suffix (encoding->field, ".logits");
  g_autofree gdouble *errors = g_new0 (gdouble, 2 * MAX (n, 1)), *lse = normalise ? g_new (gdouble, MAX (n, 1)) : NULL;
  g_autofree gfloat *scale = g_new (gfloat, 2 * MAX (n, 1));
  KdTensor *codes;

  if (!(rows->dtype & (KD_FLOAT32 | KD_FLOAT16 | KD_BFLOAT16)) || rows->rank < 2 || width == 0) {
    refuse (encoding, path, rows, "float32, float16 or bfloat16 rows [N ... C]", error);
    return NULL;
  }
  codes = kd_tensor_new (KD_UINT8, rows->rank, rows->dims);
  if (normalise)
    kd_softmax_rows (&(KdSoftmax) { .n = n, .size = width, .logits = rows->data, .type = (KdReal) rows->dtype, .temperature = 1, .lse = lse });
  kd_quantize_rows (&(KdQuantize) { .n = n, .size = width, .values = rows->data, .type = (KdReal) rows->dtype, .shift = lse, .levels = kd_cache_encoding_levels (encoding), .codes = codes->data, .scale = scale, .error = errors });
  for (gint64 i = 0; i < n; i++)
    if (isnan (scale[2 * i]))
      errors[2 * i] = -1;
  measure_tail (encoding, rows, encoding->n_rows);
  count_rows (encoding, n, errors);
  *ret_scale = store_scale (rows, scale, n);
  return codes;
}

static KdTensor *
encode_index (KdCacheEncoding *encoding, const gchar *path, KdTensor *rows, GError **error)
{
  gboolean small = g_str_equal (encoding->name, "index16");
  gsize n = kd_tensor_n_elements (rows);
  KdTensor *stored;

  if (!(rows->dtype & (KD_INT64 | KD_INT32))) {
    refuse (encoding, path, rows, "int64 or int32", error);
    return NULL;
  }
  stored = kd_tensor_new (small ? KD_UINT16 : KD_INT32, rows->rank, rows->dims);
  for (gsize i = 0; i < n; i++) {
    gint64 id = rows->dtype == KD_INT64 ? ((const gint64 *) rows->data)[i] : ((const gint32 *) rows->data)[i];
    if (id < -1 || id > (small ? G_MAXUINT16 - 1 : G_MAXINT32)) {
      g_set_error (error, KD_ERROR, KD_ERROR_RANGE, "Cannot encode: path=\"%s\", field=%s, encoding=%s, id=%" G_GINT64_FORMAT ", wanted=-1 to %d; choose %s", path, encoding->field,
          encoding->name, id, small ? G_MAXUINT16 - 1 : G_MAXINT32, small ? "index32" : "keep");
      kd_tensor_unref (stored);
      return NULL;
    }
    if (small)
      ((guint16 *) stored->data)[i] = (guint16) id;
    else
      ((gint32 *) stored->data)[i] = (gint32) id;
  }
  encoding->n_rows += rows->rank ? rows->dims[0] : 1;
  return stored;
}

KdTensor *
kd_cache_encode (KdCacheEncoding *encoding, const gchar *path, KdTensor *rows, KdTensor **ret_scale, GError **error)
{
  *ret_scale = NULL;
  if (kd_cache_encoding_levels (encoding))
    return encode_logprobs (encoding, path, rows, ret_scale, error);
  if (kd_cache_encoding_is_index (encoding))
    return encode_index (encoding, path, rows, error);
  return encode_float (encoding, path, rows, error);
}

static KdTensor *
decode_logprobs (const KdCacheEncoding *encoding, const KdTensor *stored, const KdTensor *scale)
{
  gint64 width = width_of (stored), n = (gint64) kd_tensor_n_elements (scale) / 2;
  g_autofree gfloat *scales = g_new (gfloat, 2 * MAX (n, 1));
  KdTensor *rows = kd_tensor_new (KD_FLOAT32, stored->rank, stored->dims);

  for (gint64 i = 0; i < 2 * n; i++)
    scales[i] = kd_half_to_float (((const guint16 *) scale->data)[i]);
  kd_dequantize_rows (n, width, kd_cache_encoding_levels (encoding), stored->data, scales, rows->data);
  return rows;
}

static KdTensor *
decode_packed (const KdCacheEncoding *encoding, const KdTensor *stored, GError **error)
{
  gint64 dims[KD_MAX_RANK], bytes = width_of (stored), n = (gint64) stored->n_bytes / MAX (bytes, 1);
  KdTensor *rows;

  memcpy (dims, stored->dims, sizeof dims);
  dims[stored->rank - 1] = encoding->size;
  rows = kd_tensor_new (KD_INT64, stored->rank, dims);
  for (gint64 i = 0; i < n; i++)
    if (!kd_unpack_ids ((const guint8 *) stored->data + i * bytes, encoding->size, encoding->universe, (gint64 *) rows->data + i * encoding->size)) {
      g_set_error (error, KD_ERROR, KD_ERROR_FORMAT, "Cannot decode: field=%s, encoding=%s, row=%" G_GINT64_FORMAT " of the batch, reason=no ascending ids; look at the whole with: kd cache verify",
          encoding->field, encoding->name, i);
      kd_tensor_unref (rows);
      return NULL;
    }
  return rows;
}

/* Rounded log-probabilities of nearly all there is can sum to a little more than 1, which no loss takes: such a row is scaled to 1. Masked rows
 * are k zeros. */
static KdTensor *
cap_mass (const KdCacheEncoding *encoding, KdTensor *rows)
{
  gint64 width = width_of (rows), n = width ? (gint64) kd_tensor_n_elements (rows) / width : 0;

  for (gint64 i = 0; i < n && g_str_has_suffix (encoding->field, ".topk.logprobs"); i++) {
    gfloat *row = (gfloat *) rows->data + i * width;
    gdouble mass = 0;
    for (gint64 k = 0; k < width; k++)
      mass += expf (row[k]);
    if (!(mass > 1 && mass < 1.5))
      continue;
    for (gint64 k = 0; k < width; k++)
      row[k] -= (gfloat) log (mass);
  }
  return rows;
}

static KdTensor *
widen (const KdCacheEncoding *encoding, KdTensor *stored, GError **error)
{
  KdTensor *rows = kd_tensor_cast (stored, KD_FLOAT32, error);

  return rows ? cap_mass (encoding, rows) : NULL;
}

KdTensor *
kd_cache_decode (const KdCacheEncoding *encoding, KdTensor *stored, const KdTensor *scale, GError **error)
{
  gsize n = kd_tensor_n_elements (stored);
  KdTensor *rows;

  if (kd_cache_encoding_levels (encoding))
    return cap_mass (encoding, decode_logprobs (encoding, stored, scale));
  if (encoding->size)
    return decode_packed (encoding, stored, error);
  if (!kd_cache_encoding_is_index (encoding))
    return kd_cache_encoding_is_coded (encoding) ? widen (encoding, stored, error) : kd_tensor_ref (stored);
  rows = kd_tensor_new (KD_INT64, stored->rank, stored->dims);
  for (gsize i = 0; i < n; i++) {
    guint16 small = stored->dtype == KD_UINT16 ? ((const guint16 *) stored->data)[i] : 0;
    ((gint64 *) rows->data)[i] = stored->dtype == KD_INT32 ? ((const gint32 *) stored->data)[i] : small == G_MAXUINT16 ? -1
                                                                                                                       : small;
  }
  return rows;
}
