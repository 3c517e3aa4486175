/* An input as a little program that makes an HDF5 file:
 *   u8 how many objects, each: u8 kind, name, then for data sets: u8 type, u8 rank, axes (u8; 255: eight bytes), u8 storage, u8 filters,
 *     u8 attribute, chunk axes, the values
 *   u8 how many attributes of the root, each: name, u8 class, value
 *   u8, u16 how much is cut off the end
 * Names and texts are numbers in a table, or a length and letters. libhdf5 writes the file, so its metadata is what libhdf5 takes to be right:
 * what it does with metadata that is wrong is the target h5-raw's business. */
#include "fuzz.h"

#include <hdf5.h>
#include <string.h>
#include <unistd.h>

/* Values beyond this are not written. */
#define MAX_BYTES ((guint64) 1 << 16)
#define MAX_CHUNKS 16
#define MAX_AXES 9

static const gchar *const names[] = { "sample.id", "sample.view", "input", "label", "mask", "teacher.logits", "teacher.logits.scale", "teacher.topk.ids", "teacher.topk.logprobs",
  "teacher.topk.logprobs.scale", "text.bytes", "text.offset", "record.json", "record.offset", "loss", "Upper", "a..b", "checksum", "kd.schema", "kd.fields", "kd.dtype", "kd.created-by" };
static const gchar *const texts[] = { "batch/1", "bfloat16", "", "1e400", "input=float32:2", "\xff\xfe" };

static gchar *
take_text (FuzzBytes *bytes, const gchar *const *table, guint n)
{
  guint which = fuzz_u8 (bytes), length;
  gchar *text;

  if (which < n)
    return g_strdup (table[which]);
  length = fuzz_u8 (bytes) % 160;
  text = g_malloc0 (length + 1);
  fuzz_take (bytes, text, length);
  return text;
}

static hid_t
half (gsize exponent)
{
  hid_t type = H5Tcopy (H5T_IEEE_F32LE);

  H5Tset_fields (type, 15, 15 - exponent, exponent, 0, 15 - exponent);
  H5Tset_size (type, 2);
  H5Tset_ebias (type, ((size_t) 1 << (exponent - 1)) - 1);
  return type;
}

static hid_t
enumeration (hid_t base, gint8 no, gint8 yes)
{
  hid_t type = H5Tenum_create (base);
  gint64 values[] = { no, yes };

  H5Tenum_insert (type, "FALSE", &values[0]);
  H5Tenum_insert (type, "TRUE", &values[1]);
  return type;
}

static hid_t
text_type (gsize size)
{
  hid_t type = H5Tcopy (H5T_C_S1);

  H5Tset_size (type, size);
  return type;
}

static hid_t
odd_type (guint which)
{
  const hsize_t dims[] = { 2, 3 };
  hid_t type;

  switch (which) {
  case 0:
    return text_type (5);
  case 1:
    return text_type (H5T_VARIABLE);
  case 2:
    type = H5Tcreate (H5T_COMPOUND, 8);
    H5Tinsert (type, "a", 0, H5T_STD_I32LE);
    return type;
  case 3:
    return H5Tarray_create2 (H5T_STD_U8LE, 2, dims);
  case 4:
    return H5Tcreate (H5T_OPAQUE, 3);
  case 5:
    return H5Tvlen_create (H5T_STD_I16LE);
  case 6:
    return H5Tcopy (H5T_STD_REF_OBJ);
  case 7:
    return H5Tcopy (H5T_STD_B16LE);
  case 8:
    type = H5Tcopy (H5T_STD_I32LE);
    H5Tset_size (type, 3);
    return type;
  case 9:
    type = H5Tcopy (H5T_STD_I32LE);
    H5Tset_precision (type, 11);
    return type;
  default:
    return H5Tcopy (H5T_NATIVE_LDOUBLE);
  }
}

static hid_t
take_type (FuzzBytes *bytes)
{
  const hid_t plain[] = { H5T_IEEE_F32LE, H5T_IEEE_F64LE, H5T_STD_I64LE, H5T_STD_I32LE, H5T_STD_U16LE, H5T_STD_U8LE, H5T_STD_U64LE, H5T_STD_I8LE, H5T_STD_I16BE, H5T_STD_I64BE, H5T_IEEE_F32BE, H5T_STD_U32LE,
    H5T_STD_U64BE, H5T_STD_I16LE };
  guint which = fuzz_u8 (bytes) % (G_N_ELEMENTS (plain) + 17);

  if (which < G_N_ELEMENTS (plain))
    return H5Tcopy (plain[which]);
  which -= G_N_ELEMENTS (plain);
  switch (which) {
  case 0:
    return half (5);
  case 1:
    return half (8);
  case 2:
    return enumeration (H5T_STD_I8LE, 0, 1);
  case 3:
    return enumeration (H5T_STD_I8LE, 1, 0);
  case 4:
    return enumeration (H5T_STD_I16LE, 0, 1);
  default:
    return odd_type (which - 5);
  }
}

typedef struct {
  hid_t file, type, create, space;
  gint rank;
  hsize_t dims[MAX_AXES], chunk[MAX_AXES];
  guint64 n_bytes, chunk_bytes, n_chunks; /* G_MAXUINT64: too many to count */
  gboolean chunked, raw;
} Dataset;

static void
take_shape (Dataset *set, FuzzBytes *bytes)
{
  set->rank = fuzz_u8 (bytes) % (MAX_AXES + 1);
  set->n_bytes = H5Tget_size (set->type);
  for (gint i = 0; i < set->rank; i++) {
    set->dims[i] = fuzz_u8 (bytes);
    if (set->dims[i] == 255)
      set->dims[i] = fuzz_uint (bytes, 8) >> 1;
    if (!g_uint64_checked_mul (&set->n_bytes, set->n_bytes, set->dims[i]))
      set->n_bytes = G_MAXUINT64;
  }
  set->space = set->rank ? H5Screate_simple (set->rank, set->dims, NULL) : H5Screate (H5S_SCALAR);
}

static void
take_chunks (Dataset *set, FuzzBytes *bytes)
{
  set->chunk_bytes = H5Tget_size (set->type);
  set->n_chunks = 1;
  for (gint i = 0; i < set->rank; i++) {
    guint8 size = fuzz_u8 (bytes);
    set->chunk[i] = size ? size : MAX (set->dims[i], 1); /* 0: the whole axis */
    if (!g_uint64_checked_mul (&set->chunk_bytes, set->chunk_bytes, set->chunk[i]))
      set->chunk_bytes = G_MAXUINT64;
    if (!g_uint64_checked_mul (&set->n_chunks, set->n_chunks, (set->dims[i] + set->chunk[i] - 1) / set->chunk[i]))
      set->n_chunks = G_MAXUINT64;
  }
  set->chunked = set->rank > 0 && H5Pset_chunk (set->create, set->rank, set->chunk) >= 0;
}

static void
set_filters (Dataset *set, guint filters)
{
  const unsigned values[] = { 2, 2, (unsigned) H5Tget_size (set->type), (unsigned) MIN (set->chunk_bytes, G_MAXUINT), 1, 1, 1 };

  if (filters & 1)
    H5Pset_shuffle (set->create);
  if (filters & 2)
    H5Pset_deflate (set->create, 1);
  if (filters & 4)
    H5Pset_fletcher32 (set->create);
  /* Not nbit and scaleoffset, which the reader refuses: libhdf5 1.10.8 spoils the heap when it makes some of these (tests/core/hostile.c has files). */
  if (filters & 32 && H5Zfilter_avail (32001) > 0)
    H5Pset_filter (set->create, 32001, H5Z_FLAG_OPTIONAL, G_N_ELEMENTS (values), values);
  if (filters & 64)
    H5Pset_shuffle (set->create);
}

static void
take_storage (Dataset *set, FuzzBytes *bytes)
{
  guint storage = fuzz_u8 (bytes) % 8, filters = fuzz_u8 (bytes);

  H5Pset_fill_time (set->create, H5D_FILL_TIME_NEVER);
  if (storage >= 4) {
    take_chunks (set, bytes);
    set_filters (set, filters);
    set->raw = storage == 7;
  } else if (storage == 3 && set->n_bytes < MAX_BYTES) {
    H5Pset_layout (set->create, H5D_COMPACT);
  } else if (storage == 2 && filters & 1) {
    H5Pset_external (set->create, "/etc/passwd", 0, set->n_bytes);
  } else if (storage == 2 && set->rank) {
    H5Pset_virtual (set->create, set->space, "elsewhere.h5", "x", set->space);
  }
}

/* Chunks as they are in the file: hostile bytes for whoever unpacks them. */
static void
write_chunks (const Dataset *set, hid_t dataset, FuzzBytes *bytes)
{
  for (guint64 i = 0; i < MIN (set->n_chunks, MAX_CHUNKS); i++) {
    guint control = fuzz_u8 (bytes), size = (guint) fuzz_uint (bytes, 2) % 4096;
    g_autofree guint8 *data = g_malloc (MAX (size, 1));
    hsize_t at[MAX_AXES] = { i * set->chunk[0] };
    fuzz_take (bytes, data, size);
    if (control != 255 && size)
      H5Dwrite_chunk (dataset, H5P_DEFAULT, control & 1 ? control >> 1 : 0, at, size, data);
  }
}

static void
write_values (const Dataset *set, hid_t dataset, FuzzBytes *bytes)
{
  g_autofree guint8 *data = NULL;

  if (set->chunked && set->raw) {
    write_chunks (set, dataset, bytes);
    return;
  }
  if (set->n_bytes > MAX_BYTES || H5Tdetect_class (set->type, H5T_VLEN) > 0 || H5Tis_variable_str (set->type) > 0 || H5Tget_class (set->type) == H5T_REFERENCE ||
      (set->chunked && (set->chunk_bytes > MAX_BYTES || set->n_chunks > MAX_BYTES)))
    return;
  data = g_malloc (set->n_bytes + 1);
  fuzz_take (bytes, data, set->n_bytes);
  if (H5Pget_external_count (set->create) == 0 && H5Pget_layout (set->create) != H5D_VIRTUAL)
    H5Dwrite (dataset, set->type, H5S_ALL, H5S_ALL, H5P_DEFAULT, data);
}

static void
put_attribute (hid_t object, const gchar *name, guint class, const gchar *text, FuzzBytes *bytes)
{
  const hsize_t dims[] = { 3 };
  gint64 numbers[3];
  hid_t type = class < 3 ? text_type (class == 0 ? H5T_VARIABLE : MAX (strlen (text), 1)) : H5Tcopy (class % 2 ? H5T_STD_I64LE : H5T_IEEE_F64BE);
  hid_t space = class < 5 ? H5Screate (H5S_SCALAR) : class < 7 ? H5Screate_simple (1, dims, NULL)
                                                               : H5Screate (H5S_NULL);
  hid_t attribute;

  if (class < 3 && class != 0)
    H5Tset_strpad (type, class == 1 ? H5T_STR_NULLPAD : H5T_STR_NULLTERM);
  attribute = *name ? H5Acreate2 (object, name, type, space, H5P_DEFAULT, H5P_DEFAULT) : -1;
  if (class >= 3)
    fuzz_take (bytes, numbers, sizeof numbers);
  if (attribute >= 0) {
    H5Awrite (attribute, type, class == 0 ? (gconstpointer) &text : class < 3 ? (gconstpointer) text
                                                                              : numbers);
    H5Aclose (attribute);
  }
  H5Sclose (space);
  H5Tclose (type);
}

static void
put_dataset (hid_t group, const gchar *name, FuzzBytes *bytes)
{
  Dataset set = { .type = take_type (bytes), .create = H5Pcreate (H5P_DATASET_CREATE) };
  hid_t dataset;

  take_shape (&set, bytes);
  take_storage (&set, bytes);
  dataset = H5Dcreate2 (group, name, set.type, set.space, H5P_DEFAULT, set.create, H5P_DEFAULT);
  if (dataset >= 0) {
    if (fuzz_u8 (bytes) % 4 == 1)
      put_attribute (dataset, "kd.dtype", 0, "bfloat16", bytes);
    write_values (&set, dataset, bytes);
    H5Dclose (dataset);
  }
  H5Sclose (set.space);
  H5Pclose (set.create);
  H5Tclose (set.type);
}

static void
put_object (hid_t file, FuzzBytes *bytes)
{
  guint kind = fuzz_u8 (bytes) % 24;
  g_autofree gchar *name = take_text (bytes, names, G_N_ELEMENTS (names));
  hid_t id;

  switch (kind) {
  case 16:
    H5Lcreate_soft (fuzz_u8 (bytes) % 2 ? "/input" : "/nowhere", file, name, H5P_DEFAULT, H5P_DEFAULT);
    break;
  case 17:
    H5Lcreate_external ("/etc/passwd", "/x", file, name, H5P_DEFAULT, H5P_DEFAULT);
    break;
  case 18:
    H5Lcreate_hard (file, fuzz_u8 (bytes) % 2 ? "input" : "/", file, name, H5P_DEFAULT, H5P_DEFAULT);
    break;
  case 19:
    id = H5Gcreate2 (file, name, H5P_DEFAULT, H5P_DEFAULT, H5P_DEFAULT);
    if (id >= 0) {
      put_dataset (id, "input", bytes);
      H5Gclose (id);
    }
    break;
  case 20:
    id = take_type (bytes);
    H5Tcommit2 (file, name, id, H5P_DEFAULT, H5P_DEFAULT, H5P_DEFAULT);
    H5Tclose (id);
    break;
  default:
    put_dataset (file, name, bytes);
  }
}

static void
cut (const gchar *path, FuzzBytes *bytes)
{
  guint how = fuzz_u8 (bytes);
  gsize size = 0, less = (gsize) fuzz_uint (bytes, how < 224 ? 0 : 2);
  g_autofree gchar *text = NULL;

  if (how < 224 || !g_file_get_contents (path, &text, &size, NULL))
    return;
  if (truncate (path, (off_t) (size - MIN (size, less))) < 0)
    g_error ("cannot cut %s", path);
}

void
fuzz_h5_write (FuzzBytes *bytes, const gchar *path, const gchar *attribute, const gchar *value)
{
  hid_t file;
  guint n;

  /* A closed reader's file is let go when the thread that unpacks its last chunk is done. */
  g_setenv ("HDF5_USE_FILE_LOCKING", "FALSE", TRUE);
  H5Eset_auto2 (H5E_DEFAULT, NULL, NULL);
  file = H5Fcreate (path, H5F_ACC_TRUNC, H5P_DEFAULT, H5P_DEFAULT);
  fuzz_check (file >= 0, "cannot write %s", path);
  n = fuzz_u8 (bytes) % 16;
  for (guint i = 0; i < n && bytes->left; i++)
    put_object (file, bytes);
  n = fuzz_u8 (bytes) % 8;
  for (guint i = 0; i < n && bytes->left; i++) {
    g_autofree gchar *name = take_text (bytes, names, G_N_ELEMENTS (names));
    guint class = fuzz_u8 (bytes) % 8;
    g_autofree gchar *text = take_text (bytes, texts, G_N_ELEMENTS (texts));
    put_attribute (file, name, class, text, bytes);
  }
  if (attribute)
    put_attribute (file, attribute, 0, value, bytes);
  H5Fclose (file);
  cut (path, bytes);
}
