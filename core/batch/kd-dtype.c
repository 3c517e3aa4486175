/* Element types: names, sizes, conversions between numbers. */
#include "kd-tensor.h"

#include <math.h>
#include <string.h>

static const struct {
  KdDtype dtype;
  guint8 size;
  const gchar *name;
} dtypes[] = {
  { KD_FLOAT32, 4, "float32" },
  { KD_FLOAT16, 2, "float16" },
  { KD_BFLOAT16, 2, "bfloat16" },
  { KD_FLOAT64, 8, "float64" },
  { KD_INT64, 8, "int64" },
  { KD_INT32, 4, "int32" },
  { KD_UINT16, 2, "uint16" },
  { KD_UINT8, 1, "uint8" },
  { KD_BOOL, 1, "bool" },
  { KD_UTF8, 1, "utf8" },
};

gsize
kd_dtype_size (KdDtype dtype)
{
  for (guint i = 0; i < G_N_ELEMENTS (dtypes); i++)
    if (dtypes[i].dtype == dtype)
      return dtypes[i].size;
  g_return_val_if_reached (1);
}

const gchar *
kd_dtype_name (KdDtype dtype)
{
  for (guint i = 0; i < G_N_ELEMENTS (dtypes); i++)
    if (dtypes[i].dtype == dtype)
      return dtypes[i].name;
  return "?";
}

KdDtype
kd_dtype_from_name (const gchar *name)
{
  for (guint i = 0; i < G_N_ELEMENTS (dtypes); i++)
    if (g_str_equal (dtypes[i].name, name))
      return dtypes[i].dtype;
  return 0;
}

gchar *
kd_dtypes_to_string (guint set)
{
  GString *text = g_string_new (NULL);

  for (guint i = 0; i < G_N_ELEMENTS (dtypes); i++)
    if (set & dtypes[i].dtype)
      g_string_append_printf (text, "%s%s", text->len ? "|" : "", dtypes[i].name);
  return g_string_free (text, FALSE);
}

gboolean
kd_dtypes_are_one (guint set)
{
  return set && !(set & (set - 1));
}

static inline guint32
float_bits (gfloat f)
{
  guint32 bits;

  memcpy (&bits, &f, sizeof bits);
  return bits;
}

static inline gfloat
bits_float (guint32 bits)
{
  gfloat f;

  memcpy (&f, &bits, sizeof f);
  return f;
}

gfloat
kd_half_to_float (guint16 h)
{
  guint32 sign = (guint32) (h & 0x8000) << 16, exponent = (h >> 10) & 31, mantissa = h & 0x3ff;

  if (exponent == 31) /* infinity, NaN */
    return bits_float (sign | 0x7f800000 | mantissa << 13);
  if (exponent == 0) { /* zero, subnormal: exact in float */
    gfloat value = (gfloat) mantissa * 0x1p-24f;
    return sign ? -value : value;
  }
  return bits_float (sign | (exponent + 112) << 23 | mantissa << 13);
}

guint16
kd_float_to_half (gfloat f)
{
  guint32 bits = float_bits (f), magnitude = bits & 0x7fffffff;
  guint16 sign = (guint16) (bits >> 16 & 0x8000);

  if (magnitude > 0x7f800000) /* NaN stays one, quiet */
    return sign | 0x7e00 | (guint16) (magnitude >> 13 & 0x1ff);
  if (magnitude >= 0x477ff000) /* rounds to 65536 or more */
    return sign | 0x7c00;
  if (magnitude < 0x38800000) { /* subnormal half: let the float unit round, its last bit is then 2^-24 */
    gfloat shifted = bits_float (magnitude) + 0.5f;
    return sign | (guint16) (float_bits (shifted) - float_bits (0.5f));
  }
  magnitude += 0xfff + (magnitude >> 13 & 1); /* nearest even */
  return sign | (guint16) ((magnitude - 0x38000000) >> 13);
}

gfloat
kd_bfloat_to_float (guint16 b)
{
  return bits_float ((guint32) b << 16);
}

guint16
kd_float_to_bfloat (gfloat f)
{
  guint32 bits = float_bits (f);

  if ((bits & 0x7fffffff) > 0x7f800000)
    return (guint16) (bits >> 16 | 0x40);
  return (guint16) ((bits + 0x7fff + (bits >> 16 & 1)) >> 16);
}

gdouble
kd_tensor_get_double (const KdTensor *tensor, gsize i)
{
  switch (tensor->dtype) {
  case KD_FLOAT32:
    return ((const gfloat *) tensor->data)[i];
  case KD_FLOAT16:
    return kd_half_to_float (((const guint16 *) tensor->data)[i]);
  case KD_BFLOAT16:
    return kd_bfloat_to_float (((const guint16 *) tensor->data)[i]);
  case KD_FLOAT64:
    return ((const gdouble *) tensor->data)[i];
  case KD_INT64:
    return (gdouble) ((const gint64 *) tensor->data)[i];
  case KD_INT32:
    return ((const gint32 *) tensor->data)[i];
  case KD_UINT16:
    return ((const guint16 *) tensor->data)[i];
  case KD_UINT8:
  case KD_BOOL:
    return ((const guint8 *) tensor->data)[i];
  case KD_UTF8:
    break;
  }
  g_return_val_if_reached (NAN);
}

KdTensor *
kd_tensor_unit_float (const KdTensor *tensor)
{
  KdTensor *out = kd_tensor_new (KD_FLOAT32, tensor->rank, tensor->dims);

  for (gsize i = 0, n = kd_tensor_n_elements (tensor); i < n; i++)
    ((gfloat *) out->data)[i] = (gfloat) ((const guint8 *) tensor->data)[i] / 255.0f;
  return out;
}

static inline gint64
round_clamped (gdouble value, gdouble low, gdouble high)
{
  if (isnan (value))
    return 0;
  return (gint64) CLAMP (nearbyint (value), low, high);
}

static void
set_double (KdTensor *tensor, gsize i, gdouble value)
{
  switch (tensor->dtype) {
  case KD_FLOAT32:
    ((gfloat *) tensor->data)[i] = (gfloat) value;
    break;
  case KD_FLOAT16:
    ((guint16 *) tensor->data)[i] = kd_float_to_half ((gfloat) value);
    break;
  case KD_BFLOAT16:
    ((guint16 *) tensor->data)[i] = kd_float_to_bfloat ((gfloat) value);
    break;
  case KD_FLOAT64:
    ((gdouble *) tensor->data)[i] = value;
    break;
  case KD_INT64:
    ((gint64 *) tensor->data)[i] = round_clamped (value, -0x1p63, 0x1.fffffffffffffp62);
    break;
  case KD_INT32:
    ((gint32 *) tensor->data)[i] = (gint32) round_clamped (value, G_MININT32, G_MAXINT32);
    break;
  case KD_UINT16:
    ((guint16 *) tensor->data)[i] = (guint16) round_clamped (value, 0, G_MAXUINT16);
    break;
  case KD_UINT8:
    ((guint8 *) tensor->data)[i] = (guint8) round_clamped (value, 0, G_MAXUINT8);
    break;
  case KD_BOOL:
    ((guint8 *) tensor->data)[i] = value != 0;
    break;
  case KD_UTF8:
    break;
  }
}

static inline gint64
get_int (const KdTensor *tensor, gsize i)
{
  return tensor->dtype == KD_INT64 ? ((const gint64 *) tensor->data)[i] : (gint64) kd_tensor_get_double (tensor, i);
}

KdTensor *
kd_tensor_cast (KdTensor *tensor, KdDtype dtype, GError **error)
{
  KdTensor *out;
  gsize n = kd_tensor_n_elements (tensor);

  if (tensor->dtype == dtype)
    return kd_tensor_ref (tensor);
  if (tensor->dtype == KD_UTF8 || dtype == KD_UTF8 || !(dtype & KD_ANY_NUMBER)) {
    g_set_error (error, KD_ERROR, KD_ERROR_DTYPE, "Cannot convert: from=%s, to=%s; only numbers turn into numbers",
        kd_dtype_name (tensor->dtype), kd_dtype_name (dtype));
    return NULL;
  }
  out = kd_tensor_new (dtype, tensor->rank, tensor->dims);
  /* The two conversions on hot paths as loops that vectorise; integers keep all 64 bits. */
  if (tensor->dtype == KD_FLOAT32 && dtype == KD_FLOAT16)
    for (gsize i = 0; i < n; i++)
      ((guint16 *) out->data)[i] = kd_float_to_half (((const gfloat *) tensor->data)[i]);
  else if (tensor->dtype == KD_FLOAT16 && dtype == KD_FLOAT32)
    for (gsize i = 0; i < n; i++)
      ((gfloat *) out->data)[i] = kd_half_to_float (((const guint16 *) tensor->data)[i]);
  else if (tensor->dtype == KD_UINT8 && dtype == KD_FLOAT32)
    for (gsize i = 0; i < n; i++)
      ((gfloat *) out->data)[i] = ((const guint8 *) tensor->data)[i];
  else if (dtype == KD_INT64 && (tensor->dtype & KD_ANY_INT))
    for (gsize i = 0; i < n; i++)
      ((gint64 *) out->data)[i] = get_int (tensor, i);
  else
    for (gsize i = 0; i < n; i++)
      set_double (out, i, kd_tensor_get_double (tensor, i));
  return out;
}
