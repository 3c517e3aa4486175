/* Files of a folder or of an archive, one after another; an archive is never unpacked to disk. */
#include "kd-data.h"

#include <archive.h>
#include <archive_entry.h>
#include <errno.h>
#include <string.h>

#define MAX_DEPTH 32

struct _KdFiles {
  gchar *path;
  GPtrArray *names; /* of a folder: relative, sorted */
  guint at;
  struct archive *archive;
  struct archive_entry *entry;
  gchar *name;
};

static gint
compare_names (gconstpointer a, gconstpointer b)
{
  return strcmp (*(const gchar *const *) a, *(const gchar *const *) b);
}

/* Links to folders are not followed: they may lead in circles. */
static gboolean
list_folder (KdFiles *files, const gchar *relative, guint depth, GError **error)
{
  g_autofree gchar *path = g_build_filename (files->path, relative, NULL);
  GError *inner = NULL;
  g_autoptr (GDir) dir = depth < MAX_DEPTH ? g_dir_open (path, 0, &inner) : NULL;
  const gchar *name;

  if (!dir) {
    if (!inner)
      g_set_error (&inner, KD_ERROR, KD_ERROR_RANGE, "more than %d folders deep", MAX_DEPTH);
    kd_data_wrap (error, inner, "list folder", path);
    return FALSE;
  }
  while ((name = g_dir_read_name (dir))) {
    g_autofree gchar *child = relative ? g_build_filename (relative, name, NULL) : g_strdup (name);
    g_autofree gchar *full = g_build_filename (files->path, child, NULL);
    if (name[0] == '.')
      continue;
    if (g_file_test (full, G_FILE_TEST_IS_REGULAR))
      g_ptr_array_add (files->names, g_steal_pointer (&child));
    else if (g_file_test (full, G_FILE_TEST_IS_DIR) && !g_file_test (full, G_FILE_TEST_IS_SYMLINK) && !list_folder (files, child, depth + 1, error))
      return FALSE;
  }
  return TRUE;
}

static gboolean
open_archive (KdFiles *files, GError **error)
{
  files->archive = archive_read_new ();
  archive_read_support_filter_all (files->archive);
  archive_read_support_format_tar (files->archive);
  archive_read_support_format_zip (files->archive);
  if (archive_read_open_filename (files->archive, files->path, 1 << 18) == ARCHIVE_OK)
    return TRUE;
  g_set_error (error, KD_ERROR, KD_ERROR_IO, "Cannot open archive: path=\"%s\", reason=%s", files->path, archive_error_string (files->archive));
  return FALSE;
}

KdFiles *
kd_files_open (const gchar *path, GError **error)
{
  g_autoptr (KdFiles) files = g_new0 (KdFiles, 1);

  files->path = g_strdup (path);
  if (!g_file_test (path, G_FILE_TEST_IS_DIR))
    return open_archive (files, error) ? g_steal_pointer (&files) : NULL;
  files->names = g_ptr_array_new_with_free_func (g_free);
  if (!list_folder (files, NULL, 0, error))
    return NULL;
  g_ptr_array_sort (files->names, compare_names);
  return g_steal_pointer (&files);
}

void
kd_files_free (KdFiles *files)
{
  if (!files)
    return;
  g_clear_pointer (&files->names, g_ptr_array_unref);
  if (files->archive)
    archive_read_free (files->archive);
  g_free (files->name);
  g_free (files->path);
  g_free (files);
}

static gint
next_entry (KdFiles *files, GError **error)
{
  int status;

  while ((status = archive_read_next_header (files->archive, &files->entry)) == ARCHIVE_OK || status == ARCHIVE_WARN) {
    const gchar *name = archive_entry_pathname (files->entry);
    if (!name || archive_entry_filetype (files->entry) != AE_IFREG)
      continue;
    while (g_str_has_prefix (name, "./"))
      name += 2;
    g_free (files->name);
    files->name = g_utf8_make_valid (name, -1);
    return 1;
  }
  if (status == ARCHIVE_EOF)
    return 0;
  g_set_error (error, KD_ERROR, KD_ERROR_IO, "Cannot read archive: path=\"%s\", after=\"%s\", reason=%s; get it again", files->path,
      files->name ? files->name : "(start)", archive_error_string (files->archive));
  return -1;
}

gint
kd_files_next (KdFiles *files, const gchar **ret_name, GError **error)
{
  if (files->archive) {
    gint status = next_entry (files, error);
    *ret_name = files->name;
    return status;
  }
  if (files->at == files->names->len)
    return 0;
  *ret_name = g_ptr_array_index (files->names, files->at++);
  return 1;
}

static GBytes *
load_entry (KdFiles *files, GError **error)
{
  g_autoptr (GByteArray) data = g_byte_array_new ();
  guint8 part[16384];
  la_ssize_t n;

  /* What the header says of the size is not believed: the data are counted. */
  while ((n = archive_read_data (files->archive, part, sizeof part)) > 0) {
    if (data->len + (gsize) n > KD_DATA_MAX_ROW_BYTES) {
      g_set_error (error, KD_ERROR, KD_ERROR_RANGE, "File too large: archive=\"%s\", file=\"%s\", most=%zu bytes", files->path, files->name,
          KD_DATA_MAX_ROW_BYTES);
      return NULL;
    }
    g_byte_array_append (data, part, (guint) n);
  }
  if (n == 0)
    return g_byte_array_free_to_bytes (g_steal_pointer (&data));
  g_set_error (error, KD_ERROR, KD_ERROR_IO, "Cannot unpack: archive=\"%s\", file=\"%s\", reason=%s; get it again", files->path, files->name,
      archive_error_string (files->archive));
  return NULL;
}

GBytes *
kd_files_load (KdFiles *files, GError **error)
{
  g_autofree gchar *full = NULL;
  GMappedFile *mapped;
  GError *inner = NULL;
  GBytes *bytes;

  if (files->archive)
    return load_entry (files, error);
  full = g_build_filename (files->path, g_ptr_array_index (files->names, files->at - 1), NULL);
  mapped = g_mapped_file_new (full, FALSE, &inner);
  if (!mapped) {
    kd_data_wrap (error, inner, "read", full);
    return NULL;
  }
  bytes = g_mapped_file_get_bytes (mapped);
  g_mapped_file_unref (mapped);
  return bytes;
}
