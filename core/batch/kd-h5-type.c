/* The lock around libhdf5, its error texts, and how element types and attributes are stored. */
#include "kd-h5-private.h"

#include <string.h>

/* A text attribute above this is not one of ours. */
#define MAX_ATTRIBUTE_BYTES (1 << 20)

static GRecMutex h5_lock;

KdH5Guard
kd_h5_enter (void)
{
  KdH5Guard guard = { NULL, NULL };

  g_rec_mutex_lock (&h5_lock);
  H5Eget_auto2 (H5E_DEFAULT, &guard.func, &guard.data);
  H5Eset_auto2 (H5E_DEFAULT, NULL, NULL);
  return guard;
}

void
kd_h5_leave (KdH5Guard *guard)
{
  H5Eset_auto2 (H5E_DEFAULT, guard->func, guard->data);
  g_rec_mutex_unlock (&h5_lock);
}

static herr_t
keep_innermost (unsigned n, const H5E_error2_t *entry, void *data)
{
  gchar **reason = data;

  if (n == 0)
    *reason = g_strdup (entry->desc);
  return 0;
}

gchar *
kd_h5_reason (void)
{
  gchar *reason = NULL;

  H5Ewalk2 (H5E_DEFAULT, H5E_WALK_UPWARD, keep_innermost, &reason);
  return reason ? reason : g_strdup ("unknown");
}

gboolean
kd_h5_fail (GError **error, KdError code, const gchar *path, const gchar *dataset, const gchar *format, ...)
{
  g_autofree gchar *reason = NULL, *where = NULL, *text = NULL, *valid = NULL;
  va_list args;

  va_start (args, format);
  reason = g_strdup_vprintf (format, args);
  va_end (args);
  where = dataset ? g_strdup_printf (", dataset=\"%s\"", dataset) : g_strdup ("");
  text = g_strdup_printf ("Cannot read batch file: path=\"%s\"%s, %s", path, where, reason);
  valid = g_utf8_make_valid (text, -1); /* names come from the file */
  g_set_error_literal (error, KD_ERROR, code, valid);
  return FALSE;
}

/* IEEE binary16, which numpy calls float16; HDF5 1.10 has no name for it. bfloat16 has one sign, eight exponent and seven
 * fraction bits, but h5py cannot read such a type: it is stored as uint16 and marked. */
static hid_t
half_type (void)
{
  hid_t type = H5Tcopy (H5T_IEEE_F32LE);

  H5Tset_fields (type, 15, 10, 5, 0, 10);
  H5Tset_size (type, 2);
  H5Tset_ebias (type, 15);
  return type;
}

static hid_t
bool_type (void)
{
  hid_t type = H5Tenum_create (H5T_STD_I8LE);
  gint8 value = 0;

  H5Tenum_insert (type, "FALSE", &value);
  value = 1;
  H5Tenum_insert (type, "TRUE", &value);
  return type;
}

hid_t
kd_h5_file_type (KdDtype dtype)
{
  switch (dtype) {
  case KD_FLOAT32:
    return H5Tcopy (H5T_IEEE_F32LE);
  case KD_FLOAT16:
    return half_type ();
  case KD_FLOAT64:
    return H5Tcopy (H5T_IEEE_F64LE);
  case KD_INT64:
    return H5Tcopy (H5T_STD_I64LE);
  case KD_INT32:
    return H5Tcopy (H5T_STD_I32LE);
  case KD_BFLOAT16:
  case KD_UINT16:
    return H5Tcopy (H5T_STD_U16LE);
  case KD_BOOL:
    return bool_type ();
  case KD_UINT8:
  case KD_UTF8:
    break;
  }
  return H5Tcopy (H5T_STD_U8LE);
}

static KdDtype
integer_dtype (hid_t type)
{
  gboolean is_signed = H5Tget_sign (type) == H5T_SGN_2;

  switch (H5Tget_size (type)) {
  case 1:
    return is_signed ? KD_INT32 : KD_UINT8;
  case 2:
    return is_signed ? KD_INT32 : KD_UINT16;
  case 4:
    return is_signed ? KD_INT32 : KD_INT64;
  case 8:
    return KD_INT64;
  default:
    return 0;
  }
}

static KdDtype
float_dtype (hid_t type)
{
  size_t sign, exponent_at, exponent, fraction_at, fraction;

  switch (H5Tget_size (type)) {
  case 2:
    if (H5Tget_fields (type, &sign, &exponent_at, &exponent, &fraction_at, &fraction) < 0 || exponent != 5)
      return 0;
    return KD_FLOAT16;
  case 4:
    return KD_FLOAT32;
  case 8:
    return KD_FLOAT64;
  default:
    return 0;
  }
}

/* h5py's numpy.bool_: an enumeration of one-byte integers, FALSE = 0 and TRUE = 1. */
static KdDtype
enum_dtype (hid_t type)
{
  gint8 no = -1, yes = -1;

  if (H5Tget_size (type) != 1 || H5Tget_nmembers (type) != 2 || H5Tenum_valueof (type, "FALSE", &no) < 0 ||
      H5Tenum_valueof (type, "TRUE", &yes) < 0 || no != 0 || yes != 1)
    return 0;
  return KD_BOOL;
}

KdDtype
kd_h5_dtype (hid_t file_type, hid_t *ret_memory, gboolean *ret_raw)
{
  KdDtype dtype = 0;

  switch (H5Tget_class (file_type)) {
  case H5T_INTEGER:
    dtype = integer_dtype (file_type);
    break;
  case H5T_FLOAT:
    dtype = float_dtype (file_type);
    break;
  case H5T_ENUM:
    dtype = enum_dtype (file_type);
    break;
  default:
    break;
  }
  if (!dtype)
    return 0;
  if (dtype == KD_INT64 && H5Tget_size (file_type) == 8 && H5Tget_sign (file_type) == H5T_SGN_NONE)
    *ret_memory = H5Tcopy (H5T_NATIVE_UINT64);
  else if (dtype == KD_BOOL)
    *ret_memory = H5Tcopy (file_type);
  else
    *ret_memory = kd_h5_file_type (dtype);
  *ret_raw = dtype == KD_BOOL || H5Tequal (file_type, *ret_memory) > 0;
  return dtype;
}

static gchar *
read_text (hid_t attribute, hid_t type)
{
  g_autofree gchar *fixed = NULL;
  g_auto (KdHid) memory = H5Tcopy (H5T_C_S1);
  gchar *text = NULL, *copy;
  gsize size = H5Tget_size (type);

  H5Tset_cset (memory, H5Tget_cset (type));
  if (H5Tis_variable_str (type) > 0) {
    H5Tset_size (memory, H5T_VARIABLE);
    if (H5Aread (attribute, memory, &text) < 0 || !text)
      return NULL;
    copy = strnlen (text, MAX_ATTRIBUTE_BYTES) < MAX_ATTRIBUTE_BYTES ? g_utf8_make_valid (text, -1) : NULL;
    H5free_memory (text);
    return copy;
  }
  if (size == 0 || size > MAX_ATTRIBUTE_BYTES)
    return NULL;
  fixed = g_malloc0 (size + 1);
  H5Tset_size (memory, size + 1);
  return H5Aread (attribute, memory, fixed) < 0 ? NULL : g_utf8_make_valid (fixed, -1);
}

gchar *
kd_h5_attribute (hid_t object, const gchar *name)
{
  g_auto (KdHid) attribute = H5Aexists (object, name) > 0 ? H5Aopen (object, name, H5P_DEFAULT) : -1;
  g_auto (KdHid) type = attribute < 0 ? -1 : H5Aget_type (attribute);
  g_auto (KdHid) space = attribute < 0 ? -1 : H5Aget_space (attribute);
  gchar text[G_ASCII_DTOSTR_BUF_SIZE];
  gint64 integer = 0;
  gdouble number = 0;

  if (attribute < 0 || type < 0 || space < 0 || H5Sget_simple_extent_npoints (space) != 1)
    return NULL;
  switch (H5Tget_class (type)) {
  case H5T_STRING:
    return read_text (attribute, type);
  case H5T_INTEGER:
    if (H5Aread (attribute, H5T_NATIVE_INT64, &integer) < 0)
      return NULL;
    return g_strdup_printf ("%" G_GINT64_FORMAT, integer);
  case H5T_FLOAT:
    if (H5Aread (attribute, H5T_NATIVE_DOUBLE, &number) < 0)
      return NULL;
    return g_strdup (g_ascii_dtostr (text, sizeof text, number));
  default:
    return NULL;
  }
}

/* Variable length, because h5py hands those out as str and fixed ones as bytes. */
gboolean
kd_h5_set_attribute (hid_t object, const gchar *name, const gchar *value)
{
  g_auto (KdHid) type = H5Tcopy (H5T_C_S1);
  g_auto (KdHid) space = H5Screate (H5S_SCALAR);
  g_auto (KdHid) attribute = -1;

  H5Tset_size (type, H5T_VARIABLE);
  H5Tset_cset (type, H5T_CSET_UTF8);
  if (H5Aexists (object, name) > 0 && H5Adelete (object, name) < 0)
    return FALSE;
  attribute = H5Acreate2 (object, name, type, space, H5P_DEFAULT, H5P_DEFAULT);
  return attribute >= 0 && H5Awrite (attribute, type, &value) >= 0;
}
