/* The master: virtual datasets over all parts, so that h5py reads the cache as one file. Our own reader never opens it: HDF5
 * answers a missing part with fill values and no error, which is why those are NaN and -1. */
#include "kd-cache-private.h"

#include <errno.h>
#include <math.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

static void
set_fill (hid_t create, KdDtype dtype)
{
  gfloat nan_value = NAN;
  gint32 minus_one = -1;
  guint16 nan_bits = 0x7fc0;

  if (dtype == KD_BFLOAT16)
    H5Pset_fill_value (create, H5T_NATIVE_UINT16, &nan_bits);
  else if (dtype & KD_ANY_FLOAT)
    H5Pset_fill_value (create, H5T_NATIVE_FLOAT, &nan_value);
  else if (dtype & (KD_INT64 | KD_INT32))
    H5Pset_fill_value (create, H5T_NATIVE_INT32, &minus_one);
}

/* One mapping a part; names are relative to the master's folder, so that the whole can be moved. */
static gboolean
map_parts (hid_t create, const KdCacheManifest *manifest, const KdLayoutField *field, const gchar *folder_name, hid_t space)
{
  hsize_t start[KD_MAX_RANK] = { 0 }, count[KD_MAX_RANK];

  for (guint i = 1; i < field->rank; i++)
    count[i] = (hsize_t) field->dims[i];
  for (guint i = 0; i < manifest->parts->len; i++) {
    const KdCachePart *part = g_ptr_array_index (manifest->parts, i);
    g_autofree gchar *source = g_strconcat (folder_name, "/", part->file, NULL);
    g_auto (KdHid) source_space = -1;
    start[0] = (hsize_t) part->first_row;
    count[0] = (hsize_t) part->rows;
    source_space = H5Screate_simple ((int) field->rank, count, NULL);
    if (H5Sselect_hyperslab (space, H5S_SELECT_SET, start, NULL, count, NULL) < 0 ||
        H5Pset_virtual (create, space, source, field->name, source_space) < 0)
      return FALSE;
  }
  return TRUE;
}

static gboolean
write_field (hid_t file, const KdCacheManifest *manifest, const KdLayoutField *field, const gchar *folder_name)
{
  g_auto (KdHid) create = H5Pcreate (H5P_DATASET_CREATE);
  g_auto (KdHid) type = kd_h5_file_type (field->dtype);
  g_auto (KdHid) space = -1;
  g_auto (KdHid) dataset = -1;
  hsize_t dims[KD_MAX_RANK] = { (hsize_t) manifest->n_rows };

  for (guint i = 1; i < field->rank; i++)
    dims[i] = (hsize_t) field->dims[i];
  space = H5Screate_simple ((int) field->rank, dims, NULL);
  set_fill (create, field->dtype);
  if (!map_parts (create, manifest, field, folder_name, space))
    return FALSE;
  dataset = H5Dcreate2 (file, field->name, type, space, H5P_DEFAULT, create, H5P_DEFAULT);
  return dataset >= 0 && (field->dtype != KD_BFLOAT16 || kd_h5_set_attribute (dataset, "kd.dtype", "bfloat16"));
}

gboolean
kd_cache_write_master (const KdCacheManifest *manifest, const gchar *path, gboolean sync, GError **error)
{
  g_auto (KdH5Guard) guard = kd_h5_enter ();
  g_autofree gchar *temporary = NULL, *folder = kd_cache_folder (path), *folder_name = g_path_get_basename (folder);
  g_autofree gchar *fields = manifest->layout ? kd_layout_to_string (manifest->layout) : g_strdup ("");
  hid_t file = kd_h5_create (path, 0, &temporary, error);
  gboolean good;

  if (file < 0)
    return FALSE;
  good = kd_h5_set_attribute (file, "kd.schema", KD_H5_SCHEMA) && kd_h5_set_attribute (file, "kd.fields", fields) &&
      kd_h5_set_attribute (file, "kd.created-by", manifest->created_by);
  for (guint i = 0; good && manifest->layout && i < kd_layout_n_fields (manifest->layout); i++)
    good = write_field (file, manifest, kd_layout_nth (manifest->layout, i), folder_name);
  if (!kd_h5_close_created (file, good, temporary, path, error))
    return FALSE;
  if (sync)
    return kd_h5_publish (temporary, path, error);
  if (rename (temporary, path) == 0)
    return TRUE;
  g_set_error (error, KD_ERROR, KD_ERROR_IO, "Cannot write: path=\"%s\", reason=%s", path, g_strerror (errno));
  unlink (temporary);
  return FALSE;
}

gboolean
kd_cache_check_master (const gchar *path, GError **error)
{
  g_auto (KdH5Guard) guard = kd_h5_enter ();
  g_autofree gchar *reason = NULL;
  g_autoptr (GError) why = NULL;
  hid_t file = -1;

  if (!g_file_test (path, G_FILE_TEST_EXISTS))
    return TRUE;
  if (kd_h5_frame_check (path, &why))
    file = H5Fopen (path, H5F_ACC_RDONLY, H5P_DEFAULT);
  if (file >= 0) {
    H5Fclose (file);
    return TRUE;
  }
  reason = why ? g_strdup (why->message) : kd_h5_reason ();
  g_set_error (error, KD_ERROR, KD_ERROR_FORMAT, "Cannot read cache master: path=\"%s\", reason=%s; rows are good where no part is named, and kd cache repair writes it again", path, reason);
  return FALSE;
}
