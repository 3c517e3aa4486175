/* KdTensor: dtype, shape and memory; refcounted, immutable once shared. */
#pragma once
#include <glib-object.h>
#include "../kd-error.h"

G_BEGIN_DECLS

/**
 * KdDtype:
 *
 * Element types. The values are bits, so that a field specification can accept several: KD_FLOAT32 | KD_FLOAT16.
 * KD_UTF8 is one string a row: int64 offsets [N + 1] and the bytes.
 */
typedef enum {
  KD_FLOAT32 = 1 << 0,
  KD_FLOAT16 = 1 << 1,
  KD_BFLOAT16 = 1 << 2,
  KD_FLOAT64 = 1 << 3,
  KD_INT64 = 1 << 4,
  KD_INT32 = 1 << 5,
  KD_UINT16 = 1 << 6,
  KD_UINT8 = 1 << 7,
  KD_BOOL = 1 << 8, /* one byte, 0 or 1 */
  KD_UTF8 = 1 << 9,
} KdDtype;

#define KD_ANY_FLOAT (KD_FLOAT32 | KD_FLOAT16 | KD_BFLOAT16 | KD_FLOAT64)
#define KD_ANY_INT (KD_INT64 | KD_INT32 | KD_UINT16 | KD_UINT8)
#define KD_ANY_NUMBER (KD_ANY_FLOAT | KD_ANY_INT | KD_BOOL)

/** kd_dtype_size: bytes an element (1 for utf8). */
KD_API gsize kd_dtype_size (KdDtype dtype);
/** kd_dtype_name: "float32" ...; "?" for a value that is no single type. */
KD_API const gchar *kd_dtype_name (KdDtype dtype);
/** kd_dtype_from_name: 0 when unknown. */
KD_API KdDtype kd_dtype_from_name (const gchar *name);
/** kd_dtypes_to_string: (transfer full) "float32|float16" of a set. */
KD_API gchar *kd_dtypes_to_string (guint dtypes);

/** kd_dtypes_are_one: whether the set holds exactly one type. */
KD_API gboolean kd_dtypes_are_one (guint dtypes);

#define KD_MAX_RANK 8

typedef struct _KdTensor KdTensor;

/**
 * KdTensor:
 * @rank: 0 for a scalar (a value of the whole batch, such as `loss`)
 * @dims: row-major; dims[0] is the number of samples
 * @data: 64-byte aligned when allocated here; may be read-only memory (a mapped file)
 * @n_bytes: of @data
 * @offsets: for KD_UTF8 only, dims[0] + 1 ascending offsets into @data, else NULL
 *
 * Read the members freely; write @data only while you hold the only reference to a tensor you made.
 */
struct _KdTensor {
  KdDtype dtype;
  guint rank;
  gint64 dims[KD_MAX_RANK];
  gpointer data;
  gsize n_bytes;
  const gint64 *offsets;
  /*< private >*/
  gatomicrefcount ref_count;
  gpointer owner;
  GDestroyNotify owner_free;
};

#define KD_TYPE_TENSOR (kd_tensor_get_type ())
KD_API GType kd_tensor_get_type (void);

/** kd_tensor_new: pooled, aligned, not initialised. Sizes are checked: aborts only on a negative or overflowing shape,
 * which callers check before (kd_shape_bytes). */
KD_API KdTensor *kd_tensor_new (KdDtype dtype, guint rank, const gint64 *dims);
KD_API KdTensor *kd_tensor_new_zero (KdDtype dtype, guint rank, const gint64 *dims);

/** kd_tensor_new_wrapped: @data stays alive until @owner_free (@owner), called with the last reference. No copy. */
KD_API KdTensor *kd_tensor_new_wrapped (KdDtype dtype, guint rank, const gint64 *dims, gpointer data, gpointer owner,
    GDestroyNotify owner_free);

/** kd_tensor_new_scalar: a float64 of rank 0. */
KD_API KdTensor *kd_tensor_new_scalar (gdouble value);

/** kd_tensor_new_utf8: @n rows from @offsets [n + 1] (starting at 0) and @bytes, both copied. */
KD_API KdTensor *kd_tensor_new_utf8 (gint64 n, const gint64 *offsets, gconstpointer bytes);

KD_API KdTensor *kd_tensor_ref (KdTensor *tensor);
KD_API void kd_tensor_unref (KdTensor *tensor);
G_DEFINE_AUTOPTR_CLEANUP_FUNC (KdTensor, kd_tensor_unref)

/** kd_tensor_is_writable: whether the caller's is the only reference and the memory was allocated by kd_tensor_new. */
KD_API gboolean kd_tensor_is_writable (const KdTensor *tensor);

/** kd_shape_bytes: bytes of a shape; FALSE on a negative axis or when it does not fit gssize. */
KD_API gboolean kd_shape_bytes (KdDtype dtype, guint rank, const gint64 *dims, gsize *ret_bytes);

/** kd_tensor_n_elements: product of all axes. */
KD_API gsize kd_tensor_n_elements (const KdTensor *tensor);
/** kd_tensor_row_elements: product of all axes but the first; 1 for rank 0 and 1. */
KD_API gsize kd_tensor_row_elements (const KdTensor *tensor);

/** kd_tensor_slice: rows [@first, @first + @n) as a view that keeps @tensor alive; no copy. */
KD_API KdTensor *kd_tensor_slice (KdTensor *tensor, gint64 first, gint64 n);
/** kd_tensor_take: the rows @rows [n], copied into a new tensor. The caller has checked the range. */
KD_API KdTensor *kd_tensor_take (const KdTensor *tensor, const gint64 *rows, gint64 n);
/** kd_tensor_concat: along the first axis; KD_ERROR_SHAPE or KD_ERROR_DTYPE when they do not fit. */
KD_API KdTensor *kd_tensor_concat (KdTensor *const *tensors, guint n, GError **error);
/** kd_tensor_cast: same values as @dtype, rounded to nearest even; a new reference when it is that type already.
 * Any number type to any other; utf8 to none (KD_ERROR_DTYPE). */
KD_API KdTensor *kd_tensor_cast (KdTensor *tensor, KdDtype dtype, GError **error);
/** kd_tensor_unit_float: bytes as float32 in 0..1 (value / 255), as models and augmentations read images. @tensor is KD_UINT8. */
KD_API KdTensor *kd_tensor_unit_float (const KdTensor *tensor);
/** kd_tensor_get_double: element @i (flat index) of a number type. */
KD_API gdouble kd_tensor_get_double (const KdTensor *tensor, gsize i);
/** kd_tensor_equal: same dtype, shape and bytes. */
KD_API gboolean kd_tensor_equal (const KdTensor *a, const KdTensor *b);
/** kd_tensor_shape_string: (transfer full) "[32,100]". */
KD_API gchar *kd_tensor_shape_string (const KdTensor *tensor);

/** kd_half_to_float / kd_float_to_half / kd_bfloat_to_float / kd_float_to_bfloat: IEEE conversions, nearest even. */
KD_API gfloat kd_half_to_float (guint16 h);
KD_API guint16 kd_float_to_half (gfloat f);
KD_API gfloat kd_bfloat_to_float (guint16 b);
KD_API guint16 kd_float_to_bfloat (gfloat f);

G_END_DECLS
