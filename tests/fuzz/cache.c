/* A teacher cache: u8 form, the manifest's text up to a zero, then a program (h5-program.c) a part. In the text, `$0` stands for the bytes of the
 * first part's file and `#0` for its checksum, so that a manifest which says the truth, and gets past the checks, is easy to find.
 * Form: bit 0: packed, one file; bit 1: checksums of blocks are wrong; bit 2: two parts. */
#include "fuzz.h"

#include "../../core/math/kd-crc32c.h"
#include <glib/gstdio.h>
#include <hdf5.h>
#include <string.h>

#define MAX_TAKEN 16
#define MAX_ROWS (1 << 17)

enum { PACKED = 1,
  WRONG = 2,
  TWO = 4 };

/* (transfer full) CRC-32C of each block of a field's rows, as schemas/batch-file.md has it. */
static KdTensor *
block_sums (KdH5Reader *reader, const KdLayoutField *field, gint64 block_rows, gboolean wrong)
{
  g_autoptr (KdTensor) rows = field->rank && field->dtype != KD_UTF8 ? kd_h5_reader_read_all (reader, field->name, NULL) : NULL;
  gint64 n = rows && rows->dims[0] <= MAX_ROWS ? rows->dims[0] : 0, n_blocks = (n + block_rows - 1) / block_rows;
  KdTensor *sums = kd_tensor_new (KD_INT64, 1, &n_blocks);
  gsize row = rows ? kd_tensor_row_elements (rows) * kd_dtype_size (rows->dtype) : 0;

  for (gint64 i = 0; i < n_blocks; i++)
    ((gint64 *) sums->data)[i] = kd_crc32c (wrong, (guint8 *) rows->data + (gsize) (i * block_rows) * row, (gsize) MIN (block_rows, n - i * block_rows) * row);
  return sums;
}

static void
put_sums (hid_t group, const gchar *name, const KdTensor *sums)
{
  hsize_t n = (hsize_t) sums->dims[0];
  hid_t space = H5Screate_simple (1, &n, NULL);
  hid_t dataset = H5Dcreate2 (group, name, H5T_STD_I64LE, space, H5P_DEFAULT, H5P_DEFAULT, H5P_DEFAULT);

  if (dataset >= 0) {
    H5Dwrite (dataset, H5T_STD_I64LE, H5S_ALL, H5S_ALL, H5P_DEFAULT, sums->data);
    H5Dclose (dataset);
  }
  H5Sclose (space);
}

/* Adds the checksums to a part that is one; returns what the manifest has to say of them. */
static guint32
add_sums (const gchar *path, const gchar *manifest, gboolean wrong)
{
  g_autoptr (KdH5Reader) reader = kd_h5_reader_open (path, NULL, NULL);
  g_autoptr (KdLayout) layout = reader && kd_h5_reader_n_rows (reader) <= MAX_ROWS ? kd_layout_copy (kd_h5_reader_layout (reader)) : kd_layout_new ();
  g_autoptr (GPtrArray) sums = g_ptr_array_new_with_free_func ((GDestroyNotify) kd_tensor_unref);
  const gchar *found = strstr (manifest, "\"block-rows\":");
  gint64 block_rows = CLAMP (found ? g_ascii_strtoll (found + strlen ("\"block-rows\":"), NULL, 10) : 0, 1, 1 << 20);
  guint32 crc = 0;
  hid_t file, group;

  for (guint i = 0; i < kd_layout_n_fields (layout); i++) {
    KdTensor *of_field = block_sums (reader, kd_layout_nth (layout, i), block_rows, wrong);
    crc = kd_crc32c (crc, of_field->data, of_field->n_bytes);
    g_ptr_array_add (sums, of_field);
  }
  g_clear_pointer (&reader, kd_h5_reader_close); /* it keeps writers out */
  file = sums->len ? H5Fopen (path, H5F_ACC_RDWR, H5P_DEFAULT) : -1;
  group = file < 0 ? -1 : H5Gcreate2 (file, "checksum", H5P_DEFAULT, H5P_DEFAULT, H5P_DEFAULT);
  for (guint i = 0; group >= 0 && i < sums->len; i++)
    put_sums (group, kd_layout_nth (layout, i)->name, g_ptr_array_index (sums, i));
  if (group >= 0)
    H5Gclose (group);
  if (file >= 0)
    H5Fclose (file);
  return crc;
}

static gsize
file_size (const gchar *path)
{
  GStatBuf info;

  return g_stat (path, &info) == 0 ? (gsize) info.st_size : 0;
}

/* `$0` and `#0` in the text become numbers. */
static void
fill_in (GString *text, guint nth, gsize bytes, guint32 crc)
{
  g_autofree gchar *bytes_mark = g_strdup_printf ("$%u", nth), *crc_mark = g_strdup_printf ("#%u", nth);
  g_autofree gchar *bytes_text = g_strdup_printf ("%" G_GSIZE_FORMAT, bytes), *crc_text = g_strdup_printf ("%08x", crc);

  g_string_replace (text, bytes_mark, bytes_text, 4);
  g_string_replace (text, crc_mark, crc_text, 4);
}

/* A packed file has its manifest inside, so its bytes do not matter there. */
static void
make_packed (const gchar *path, GString *manifest, guint form, FuzzBytes *bytes)
{
  hid_t file, type, space, attribute;
  guint32 crc;

  fuzz_h5_write (bytes, path, NULL, NULL);
  crc = add_sums (path, manifest->str, form & WRONG);
  fill_in (manifest, 0, 1, crc);
  file = H5Fopen (path, H5F_ACC_RDWR, H5P_DEFAULT);
  if (file < 0)
    return;
  type = H5Tcopy (H5T_C_S1);
  space = H5Screate (H5S_SCALAR);
  H5Tset_size (type, H5T_VARIABLE);
  attribute = H5Acreate2 (file, "kd.cache", type, space, H5P_DEFAULT, H5P_DEFAULT);
  if (attribute >= 0) {
    H5Awrite (attribute, type, &manifest->str);
    H5Aclose (attribute);
  }
  H5Sclose (space);
  H5Tclose (type);
  H5Fclose (file);
}

static void
make_parts (const gchar *folder, GString *manifest, guint form, FuzzBytes *bytes)
{
  static const gchar *const names[] = { "00001.h5", "00002.h5" };
  g_autofree gchar *target = g_build_filename (folder, "manifest.json", NULL);

  g_mkdir (folder, 0700);
  for (guint i = 0; i < (form & TWO ? 2 : 1); i++) {
    g_autofree gchar *path = g_build_filename (folder, names[i], NULL);
    guint32 crc;
    fuzz_h5_write (bytes, path, NULL, NULL);
    crc = add_sums (path, manifest->str, form & WRONG);
    fill_in (manifest, i, file_size (path), crc);
  }
  fuzz_write (target, manifest->str, manifest->len);
}

/* @sound: the cache was verified, so rows can be read. */
static void
take_rows (KdCacheReader *reader, const KdLayoutField *field, gboolean sound, FuzzBytes *bytes)
{
  guint64 n_rows = (guint64) kd_cache_reader_n_rows (reader);
  gint64 rows[MAX_TAKEN], n = fuzz_u8 (bytes) % MAX_TAKEN;
  g_autoptr (KdTensor) taken = NULL;
  GError *error = NULL;

  for (gint64 i = 0; i < n; i++)
    rows[i] = (gint64) (fuzz_uint (bytes, 2) % n_rows);
  taken = kd_cache_reader_take (reader, field->name, n, rows, &error);
  if (!taken) {
    /* Codes are no business of checksums. */
    fuzz_check (!sound || error->code == KD_ERROR_FORMAT || error->code == KD_ERROR_VALUE, "%s: good, but cannot be read: %s", field->name, error->message);
    fuzz_refuse (error, "take");
    return;
  }
  fuzz_touch (taken);
  fuzz_check (taken->dims[0] == n && kd_layout_check_tensor (field, taken, &error), "%s: not what the layout says: %s", field->name, error ? error->message : "rows");
}

static void
check_keys (KdCacheReader *reader, gboolean sound, FuzzBytes *bytes)
{
  for (guint i = 0; i < 8; i++) {
    gint64 row = (gint64) (fuzz_uint (bytes, 2) % (guint64) kd_cache_reader_n_rows (reader)), id, view, found;
    kd_cache_reader_key (reader, row, &id, &view);
    kd_cache_reader_find (reader, 1, &id, &view, &found);
    fuzz_check (!sound || found == row, "row %" G_GINT64_FORMAT " is found as %" G_GINT64_FORMAT, row, found);
  }
}

static void
read_cache (const gchar *path, gboolean sound, FuzzBytes *bytes)
{
  GError *error = NULL;
  g_autoptr (KdCacheReader) reader = kd_cache_reader_open (path, &error);
  const KdLayout *layout;
  KdCacheInfo info;

  if (!reader) {
    fuzz_check (!sound, "good, but cannot be opened: %s", error->message);
    fuzz_refuse (error, "open");
    return;
  }
  layout = kd_cache_reader_layout (reader);
  kd_cache_reader_info (reader, &info);
  for (guint i = 0; i < kd_layout_n_fields (layout) && kd_cache_reader_n_rows (reader) > 0; i++)
    take_rows (reader, kd_layout_nth (layout, i), sound, bytes);
  if (kd_cache_reader_n_rows (reader) > 0)
    check_keys (reader, sound, bytes);
}

static void
pack (const gchar *path, FuzzBytes *bytes)
{
  static const gchar *const filters[] = { "none", "deflate", "blosc-lz4" };
  g_autofree gchar *output = fuzz_path ("packed.h5");
  GError *error = NULL;
  guint how = fuzz_u8 (bytes);

  if (how % 8 > 2)
    return;
  if (!kd_cache_pack (path, output, filters[how % 8], how & 8 ? KD_CACHE_PACK_INDEX : 0, NULL, NULL, &error))
    fuzz_refuse (error, "pack");
  g_unlink (output);
}

int
LLVMFuzzerTestOneInput (const guint8 *data, gsize size)
{
  g_autofree gchar *path = fuzz_path ("cache.h5"), *folder = g_strconcat (path, ".parts", NULL), *report = NULL;
  g_autoptr (GString) manifest = NULL;
  FuzzBytes bytes = { data, size };
  GError *error = NULL;
  guint form = fuzz_u8 (&bytes);
  gboolean sound;

  manifest = g_string_new_len ((const gchar *) bytes.at, (gssize) strnlen ((const gchar *) bytes.at, bytes.left));
  bytes.at += MIN (manifest->len + 1, bytes.left);
  bytes.left = size - MIN (1 + manifest->len + 1, size);
  if (form & PACKED)
    make_packed (path, manifest, form, &bytes);
  else
    make_parts (folder, manifest, form, &bytes);
  sound = kd_cache_verify (path, NULL, NULL, &report, &error);
  if (!sound)
    fuzz_refuse (error, "verify");
  read_cache (path, sound, &bytes);
  pack (path, &bytes);
  if (sound)
    fuzz_accept ();
  g_unlink (path);
  if (!(form & PACKED)) {
    static const gchar *const names[] = { "manifest.json", "00001.h5", "00002.h5" };
    for (guint i = 0; i < G_N_ELEMENTS (names); i++) {
      g_autofree gchar *file = g_build_filename (folder, names[i], NULL);
      g_unlink (file);
    }
    g_rmdir (folder);
  }
  return 0;
}
