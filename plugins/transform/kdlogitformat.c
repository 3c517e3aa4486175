#include "kdlogitformat.h"
#include <json-glib/json-glib.h>
#include <math.h>
#include <string.h>

const KdEnumValue kd_store_types[] = {
  { KD_STORE_FLOAT16, "float16", "Two bytes" },
  { KD_STORE_BFLOAT16, "bfloat16", "Two bytes, eight of the bits for the exponent" },
  { KD_STORE_FLOAT32, "float32", "Four bytes" },
  { KD_STORE_FLOAT64, "float64", "Eight bytes" },
  { 0, NULL, NULL }
};

static gsize
store_bytes (KdStoreType type)
{
  static const gsize bytes[] = { 2, 2, 4, 8 };

  return bytes[type];
}

static gboolean
parse_terms (KdLogitFormat *format, const gchar *element, GError **error)
{
  g_autofree gchar *text = g_strdelimit (g_strdup (format->params->polynomial_terms ? format->params->polynomial_terms : ""), "[]\"' ", ',');
  g_auto (GStrv) words = g_strsplit (text, ",", -1);

  for (guint i = 0; words[i]; i++) {
    gint64 power = 0;
    if (!*words[i])
      continue;
    if (format->n_terms == KD_LOGIT_MAX || (!g_str_equal (words[i], "sqrt") && !g_str_equal (words[i], "exp") && !g_ascii_string_to_signed (words[i], 10, 0, 32, &power, NULL))) {
      g_set_error (error, KD_ERROR, KD_ERROR_FORMAT, "Property not valid: element=%s, property=polynomial-terms, value=\"%s\", wanted=at most %d of sqrt, exp and powers from 0 to 32", element, words[i], KD_LOGIT_MAX);
      return FALSE;
    }
    format->terms[format->n_terms++] = g_str_equal (words[i], "sqrt") ? KD_TERM_SQRT : g_str_equal (words[i], "exp") ? KD_TERM_EXP
                                                                                                                     : (gint) power;
  }
  return TRUE;
}

static gboolean
parse_bin (JsonNode *node, KdLogitBin *bin)
{
  JsonObject *object = JSON_NODE_HOLDS_OBJECT (node) ? json_node_get_object (node) : NULL;
  const gchar *type = object ? json_object_get_string_member_with_default (object, "scale_dtype", "") : "";
  gint64 bits = object ? json_object_get_int_member_with_default (object, "element_bits", 0) : 0;

  for (const KdEnumValue *value = kd_store_types; object && value->nick; value++)
    if (g_str_equal (value->nick, type)) {
      *bin = (KdLogitBin) { (KdStoreType) value->value, (guint) bits, json_object_get_int_member_with_default (object, "num_elements", 0) };
      return bits >= 1 && bits <= 32 && bin->n >= 1 && bin->n <= 1 << 20;
    }
  return FALSE;
}

static gboolean
parse_bins (KdLogitFormat *format, const gchar *element, GError **error)
{
  const gchar *text = format->params->residual_bins;
  g_autoptr (JsonParser) parser = json_parser_new ();
  JsonArray *array = NULL;
  gboolean ok = TRUE;

  if (!text || !*text)
    return TRUE;
  if (!kd_json_fault (text, strlen (text)) && json_parser_load_from_data (parser, text, -1, NULL) && JSON_NODE_HOLDS_ARRAY (json_parser_get_root (parser)))
    array = json_node_get_array (json_parser_get_root (parser));
  ok = array && json_array_get_length (array) <= KD_LOGIT_MAX;
  for (guint i = 0; ok && i < json_array_get_length (array); i++)
    ok = parse_bin (json_array_get_element (array, i), &format->bins[format->n_bins++]);
  if (!ok)
    g_set_error (error, KD_ERROR, KD_ERROR_FORMAT, "Property not valid: element=%s, property=residual-bins, value='%s', wanted=at most %d of {\"scale_dtype\": \"float16\", \"element_bits\": 1 to 32, \"num_elements\": 1 or more}", element, text, KD_LOGIT_MAX);
  return ok;
}

static gboolean
refuse (const gchar *element, const gchar *text, gint64 value, gint64 wanted, GError **error)
{
  g_set_error (error, KD_ERROR, KD_ERROR_RANGE, "Properties do not go together: element=%s, %s: %" G_GINT64_FORMAT " and %" G_GINT64_FORMAT, element, text, value, wanted);
  return FALSE;
}

gboolean
kd_logit_format_parse (KdLogitFormat *format, const KdLogitFormatParams *params, const gchar *element, GError **error)
{
  gint64 n_binned = 0;

  *format = (KdLogitFormat) { .params = params, .n_approximate = params->k - params->exact_k };
  if (params->d < 2) {
    g_set_error (error, KD_ERROR, KD_ERROR_RANGE, "Property not set: element=%s, property=d, value=%" G_GINT64_FORMAT ", wanted=2 or more; set it to the size of the vocabulary", element, params->d);
    return FALSE;
  }
  if (params->k > params->d)
    return refuse (element, "k is larger than d", params->k, params->d, error);
  if (params->exact_k > params->k)
    return refuse (element, "exact-k is larger than k", params->exact_k, params->k, error);
  if (!parse_terms (format, element, error) || !parse_bins (format, element, error))
    return FALSE;
  for (guint i = 0; i < format->n_bins; i++)
    n_binned += format->bins[i].n;
  if (n_binned > format->n_approximate)
    return refuse (element, "residual-bins have more elements than k - exact-k", n_binned, format->n_approximate, error);
  if (format->n_approximate > 0 && format->n_terms + format->n_bins == 0)
    return refuse (element, "exact-k is less than k, and there are neither polynomial-terms nor residual-bins", params->exact_k, params->k, error);
  format->id_bits = g_bit_storage ((gulong) params->d - 1);
  format->id_bytes = ((gsize) params->k * format->id_bits + 7) / 8;
  format->value_bytes = (gsize) params->exact_k * store_bytes ((KdStoreType) params->exact_dtype) + format->n_terms * store_bytes ((KdStoreType) params->term_dtype);
  for (guint i = 0; i < format->n_bins; i++)
    format->value_bytes += store_bytes (format->bins[i].scale) + ((gsize) format->bins[i].n * format->bins[i].bits + 7) / 8;
  return TRUE;
}

gdouble *
kd_logit_format_basis (const KdLogitFormat *format)
{
  gint64 n = format->n_approximate;
  gdouble *basis = g_new (gdouble, MAX (n, 1) * KD_LOGIT_MAX), *value = basis;

  for (gint64 i = 0; i < n; i++)
    for (guint j = 0; j < format->n_terms; j++) {
      gdouble t = format->params->normalize_t ? (gdouble) i / (gdouble) MAX (n - 1, 1) : (gdouble) i;
      *value++ = format->terms[j] == KD_TERM_SQRT ? sqrt (t) : format->terms[j] == KD_TERM_EXP ? exp (t)
                                                                                               : pow (t, format->terms[j]);
    }
  return basis;
}

void
kd_bits_put (guint8 *bytes, gsize *at, guint bits, guint64 value)
{
  for (guint i = bits; i-- > 0; (*at)++)
    if (value >> i & 1)
      bytes[*at >> 3] |= (guint8) (0x80u >> (*at & 7));
}

guint64
kd_bits_get (const guint8 *bytes, gsize *at, guint bits)
{
  guint64 value = 0;

  for (guint i = 0; i < bits; i++, (*at)++)
    value = value << 1 | (bytes[*at >> 3] >> (7 - (*at & 7)) & 1);
  return value;
}

gdouble
kd_store_put (guint8 **at, KdStoreType type, gdouble value)
{
  const guint8 *from = *at;
  gfloat narrow = (gfloat) value;
  guint16 half = GUINT16_TO_LE (type == KD_STORE_FLOAT16 ? kd_float_to_half (narrow) : kd_float_to_bfloat (narrow));
  guint32 single;
  guint64 wide;

  memcpy (&single, &narrow, sizeof single);
  memcpy (&wide, &value, sizeof wide);
  single = GUINT32_TO_LE (single);
  wide = GUINT64_TO_LE (wide);
  memcpy (*at, type == KD_STORE_FLOAT64 ? (gpointer) &wide : type == KD_STORE_FLOAT32 ? (gpointer) &single
                                                                                      : (gpointer) &half,
      store_bytes (type));
  *at += store_bytes (type);
  return kd_store_get (&from, type);
}

gdouble
kd_store_get (const guint8 **at, KdStoreType type)
{
  guint64 wide = 0;
  gdouble value;
  gfloat narrow;
  guint32 single;

  for (gsize i = 0; i < store_bytes (type); i++)
    wide |= (guint64) (*at)[i] << (8 * i);
  *at += store_bytes (type);
  single = (guint32) wide;
  memcpy (&value, &wide, sizeof value);
  memcpy (&narrow, &single, sizeof narrow);
  if (type == KD_STORE_FLOAT64)
    return value;
  if (type == KD_STORE_FLOAT32)
    return narrow;
  return type == KD_STORE_FLOAT16 ? kd_half_to_float ((guint16) wide) : kd_bfloat_to_float ((guint16) wide);
}
