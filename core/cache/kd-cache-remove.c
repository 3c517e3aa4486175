/* Taking a cache away: it is renamed first, which happens at once. */
#include "kd-cache-copy.h"

#include <errno.h>
#include <glib/gstdio.h>
#include <unistd.h>

static void
remove_tree (const gchar *path)
{
  g_autoptr (GDir) dir = g_file_test (path, G_FILE_TEST_IS_SYMLINK) ? NULL : g_dir_open (path, 0, NULL);
  const gchar *name;

  while (dir && (name = g_dir_read_name (dir))) {
    g_autofree gchar *below = g_build_filename (path, name, NULL);
    remove_tree (below);
  }
  g_remove (path);
}

static gboolean
fail (const gchar *path, GError **error)
{
  g_set_error (error, KD_ERROR, KD_ERROR_IO, "Cannot remove cache: path=\"%s\", reason=%s", path, g_strerror (errno));
  return FALSE;
}

gboolean
kd_cache_remove (const gchar *path, GError **error)
{
  g_autofree gchar *folder = kd_cache_folder (path), *grave = g_strconcat (path, ".removed", NULL);
  gboolean has_parts = g_file_test (folder, G_FILE_TEST_IS_DIR), good;
  int lock = has_parts ? kd_cache_lock (path, error) : -1;

  if (has_parts && lock < 0)
    return FALSE;
  remove_tree (grave);
  /* The master alone goes first: without it a capture still goes on; without the parts it would stand in the way. */
  good = (unlink (path) == 0 || errno == ENOENT || fail (path, error)) && (!has_parts || rename (folder, grave) == 0 || fail (folder, error));
  kd_cache_unlock (path, lock);
  if (good)
    remove_tree (grave);
  return good;
}
