/* DistillKit's byte format of a token's top-k log-probabilities: what kdlogitpack and kdlogitunpack have in common.
 *
 * ids: k numbers of ceil (log2 d) bits, the most significant bit first, in one stream that is filled up with zero bits to a byte.
 * log-probabilities, falling, with delta-encoding as differences to the one before:
 *   exact-k values in exact-dtype | a coefficient in term-dtype for each polynomial term | a bin after the other: a scale in its
 *   scale_dtype, then num_elements codes of element_bits bits, filled up to a byte. Little endian.
 * The values behind the exact ones are sum coefficient x term (i) + residual, i = 0 .. n - 1 or, with normalize-t, 0 .. 1; a residual is
 * (code - 2^(bits - 1)) x scale, with one bit (2 code - 1) x scale, 0 behind the bins. */
#pragma once
#include <kd/kd.h>

#define KD_LOGIT_MAX 16 /* terms, bins */

typedef enum { KD_STORE_FLOAT16,
  KD_STORE_BFLOAT16,
  KD_STORE_FLOAT32,
  KD_STORE_FLOAT64 } KdStoreType;

enum { KD_TERM_SQRT = -1,
  KD_TERM_EXP = -2 }; /* else a power */

typedef struct {
  gint64 d, k, exact_k;
  gint exact_dtype, term_dtype;
  gchar *polynomial_terms, *residual_bins;
  gboolean delta_encoding, error_diffusion, normalize_t;
} KdLogitFormatParams;

typedef struct {
  KdStoreType scale;
  guint bits;
  gint64 n;
} KdLogitBin;

typedef struct {
  const KdLogitFormatParams *params;
  gint terms[KD_LOGIT_MAX];
  KdLogitBin bins[KD_LOGIT_MAX];
  guint n_terms, n_bins, id_bits;
  gint64 n_approximate;
  gsize id_bytes, value_bytes;
} KdLogitFormat;

extern const KdEnumValue kd_store_types[];

#define KD_LOGIT_FORMAT_PARAMS                                                                                                                                          \
  KD_PARAM_INT (KdLogitFormatParams, d, 0, G_MAXINT32, 0, "Size of the vocabulary; has to be set"),                                                                     \
      KD_PARAM_INT (KdLogitFormatParams, k, 1, 1 << 20, 128, "Ids a row"),                                                                                              \
      KD_PARAM_INT (KdLogitFormatParams, exact_k, 0, 1 << 20, 32, "Log-probabilities that are stored as they are, from the largest on"),                                \
      KD_PARAM_ENUM (KdLogitFormatParams, exact_dtype, kd_store_types, KD_STORE_FLOAT32, "Type of those"),                                                              \
      KD_PARAM_STRING (KdLogitFormatParams, polynomial_terms, "0,1,2", "Terms of the curve for the others: a list of powers, sqrt and exp (also as a JSON array)"),     \
      KD_PARAM_ENUM (KdLogitFormatParams, term_dtype, kd_store_types, KD_STORE_FLOAT32, "Type of its coefficients"),                                                    \
      KD_PARAM_STRING (KdLogitFormatParams, residual_bins, "", "JSON array of {\"scale_dtype\": \"float16\", \"element_bits\": 4, \"num_elements\": 32}; empty: none"), \
      KD_PARAM_BOOL (KdLogitFormatParams, delta_encoding, TRUE, "Differences between neighbours in place of the values"),                                               \
      KD_PARAM_BOOL (KdLogitFormatParams, error_diffusion, FALSE, "Packing: what rounding a residual leaves is added to the next one"),                                 \
      KD_PARAM_BOOL (KdLogitFormatParams, normalize_t, FALSE, "The curve runs over 0 to 1 in place of the index")

/** kd_logit_format_parse: KD_ERROR_RANGE or KD_ERROR_FORMAT when the parameters do not go together. @element: for the message */
gboolean kd_logit_format_parse (KdLogitFormat *format, const KdLogitFormatParams *params, const gchar *element, GError **error);

/** kd_logit_format_basis: (transfer full) the terms' values, [n_approximate, n_terms]. */
gdouble *kd_logit_format_basis (const KdLogitFormat *format);

/** kd_bits_put, kd_bits_get: a number of @bits bits at bit *at of @bytes, which moves on; put into zeros. */
void kd_bits_put (guint8 *bytes, gsize *at, guint bits, guint64 value);
guint64 kd_bits_get (const guint8 *bytes, gsize *at, guint bits);

/** kd_store_put, kd_store_get: a number at *at, which moves on; put returns what was stored. */
gdouble kd_store_put (guint8 **at, KdStoreType type, gdouble value);
gdouble kd_store_get (const guint8 **at, KdStoreType type);
