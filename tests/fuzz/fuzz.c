#include "fuzz.h"

#include <glib/gstdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

guint fuzz_n_accepted;

void
fuzz_accept (void)
{
  fuzz_n_accepted++;
}

void
fuzz_refuse (GError *error, const gchar *what)
{
  fuzz_check (error, "%s failed without an error", what);
  fuzz_check (error->domain == KD_ERROR && *error->message && g_utf8_validate (error->message, -1, NULL), "%s: not an error of ours: %s", what,
      error->message);
  if (g_getenv ("KD_FUZZ_VERBOSE"))
    g_printerr ("%s: %s\n", what, error->message);
  g_error_free (error);
}

static gchar *folder;

static void
remove_folder (void)
{
  const gchar *argv[] = { "rm", "-rf", folder, NULL };

  g_spawn_sync (NULL, (gchar **) argv, NULL, G_SPAWN_SEARCH_PATH, NULL, NULL, NULL, NULL, NULL, NULL);
}

gchar *
fuzz_path (const gchar *name)
{
  if (!folder) {
    const gchar *base = g_access ("/dev/shm", W_OK) == 0 ? "/dev/shm" : g_get_tmp_dir ();
    folder = g_strdup_printf ("%s/kd-fuzz-%d", base, (int) getpid ());
    fuzz_check (g_mkdir_with_parents (folder, 0700) == 0, "cannot make %s", folder);
    atexit (remove_folder);
  }
  return g_build_filename (folder, name, NULL);
}

void
fuzz_write (const gchar *path, gconstpointer data, gsize size)
{
  FILE *file = g_fopen (path, "wb");

  fuzz_check (file && fwrite (data, 1, size, file) == size && fclose (file) == 0, "cannot write %s", path);
}

gchar *
fuzz_text (const guint8 *data, gsize size)
{
  return g_strndup ((const gchar *) data, size);
}

void
fuzz_touch (const KdTensor *tensor)
{
  const guint8 *at = tensor->data;
  static volatile guint8 sum;
  gsize bytes;

  fuzz_check (kd_shape_bytes (tensor->dtype, tensor->rank, tensor->dims, &bytes), "a tensor of no possible shape");
  if (tensor->dtype == KD_UTF8)
    bytes = (gsize) tensor->offsets[tensor->dims[0]];
  fuzz_check (bytes == tensor->n_bytes, "a tensor of %" G_GSIZE_FORMAT " bytes, its shape says %" G_GSIZE_FORMAT, tensor->n_bytes, bytes);
  for (gsize i = 0; i < bytes; i++)
    sum ^= at[i];
}

guint8
fuzz_u8 (FuzzBytes *bytes)
{
  return (guint8) fuzz_uint (bytes, 1);
}

guint64
fuzz_uint (FuzzBytes *bytes, guint n_bytes)
{
  guint8 raw[8] = { 0 };
  guint64 value = 0;

  fuzz_take (bytes, raw, n_bytes);
  for (guint i = 0; i < n_bytes; i++)
    value |= (guint64) raw[i] << (8 * i);
  return value;
}

void
fuzz_take (FuzzBytes *bytes, gpointer to, gsize n)
{
  gsize have = MIN (n, bytes->left);

  if (have)
    memcpy (to, bytes->at, have);
  if (n > have)
    memset ((guint8 *) to + have, 0, n - have);
  bytes->at += have;
  bytes->left -= have;
}
