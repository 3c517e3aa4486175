/* Writing parameters as a safetensors file: under a temporary name first, so that a crash leaves the old file or the new one. */
#include "../batch/kd-h5-sweep.h"
#include "kd-params-private.h"

#include <errno.h>
#include <fcntl.h>
#include <glib/gstdio.h>
#include <json-glib/json-glib.h>
#include <stdio.h>
#include <sys/file.h>
#include <unistd.h>

static void
add_tensor (JsonBuilder *builder, const KdParamInfo *info, gint64 *offset)
{
  json_builder_set_member_name (builder, info->name);
  json_builder_begin_object (builder);
  json_builder_set_member_name (builder, "dtype");
  json_builder_add_string_value (builder, "F32");
  json_builder_set_member_name (builder, "shape");
  json_builder_begin_array (builder);
  for (guint i = 0; i < info->rank; i++)
    json_builder_add_int_value (builder, info->dims[i]);
  json_builder_end_array (builder);
  json_builder_set_member_name (builder, "data_offsets");
  json_builder_begin_array (builder);
  json_builder_add_int_value (builder, *offset);
  *offset += (gint64) (info->n * sizeof (gfloat));
  json_builder_add_int_value (builder, *offset);
  json_builder_end_array (builder);
  json_builder_end_object (builder);
}

/* (transfer full) the header, padded with spaces so that the numbers begin at a multiple of 8. */
static GString *
make_header (const KdParamSet *set, const gchar *const *metadata)
{
  g_autoptr (JsonBuilder) builder = json_builder_new ();
  g_autoptr (JsonNode) root = NULL;
  g_autofree gchar *text = NULL;
  GString *header;
  gint64 offset = 0;

  json_builder_begin_object (builder);
  if (metadata && metadata[0]) {
    json_builder_set_member_name (builder, "__metadata__");
    json_builder_begin_object (builder);
    for (; metadata[0] && metadata[1]; metadata += 2) {
      json_builder_set_member_name (builder, metadata[0]);
      json_builder_add_string_value (builder, metadata[1]);
    }
    json_builder_end_object (builder);
  }
  for (guint i = 0; i < kd_param_set_n (set); i++)
    add_tensor (builder, kd_param_set_nth (set, i), &offset);
  json_builder_end_object (builder);
  root = json_builder_get_root (builder);
  text = json_to_string (root, FALSE);
  header = g_string_new (text);
  while (header->len % 8)
    g_string_append_c (header, ' ');
  return header;
}

static gboolean
write_all (FILE *out, KdParamSet *set, const GString *header)
{
  guint64 n = header->len;
  gboolean ok = fwrite (&n, sizeof n, 1, out) == 1 && fwrite (header->str, 1, header->len, out) == header->len;

  for (guint i = 0; ok && i < kd_param_set_n (set); i++) {
    const KdParamInfo *info = kd_param_set_nth (set, i);
    ok = fwrite (set->values + info->offset, sizeof (gfloat), info->n, out) == info->n;
  }
  return ok && fflush (out) == 0 && fsync (fileno (out)) == 0;
}

static gboolean
sync_folder_of (const gchar *path)
{
  g_autofree gchar *folder = g_path_get_dirname (path);
  int fd = g_open (folder, O_RDONLY | O_DIRECTORY | O_CLOEXEC, 0);
  gboolean ok = fd >= 0 && fsync (fd) == 0;

  if (fd >= 0)
    close (fd);
  return ok;
}

/* Several elements of one process may save under one name: the last of them wins. */
static gchar *
temporary_name (const gchar *path)
{
  g_autofree gchar *folder = g_path_get_dirname (path), *base = g_path_get_basename (path);

  return g_strdup_printf ("%s/.%s.partial-%d.XXXXXX", folder, base, (int) getpid ());
}

gboolean
kd_param_set_save (KdParamSet *set, const gchar *path, const gchar *const *metadata, GError **error)
{
  g_autofree gchar *temporary = temporary_name (path);
  g_autoptr (GString) header = make_header (set, metadata);
  gboolean ok = FALSE;
  FILE *out = NULL;
  int reason, fd;

  g_return_val_if_fail (set->frozen, FALSE);
  kd_h5_sweep (path);
  fd = g_mkstemp_full (temporary, O_RDWR | O_CLOEXEC, 0666);
  if (fd >= 0)
    flock (fd, LOCK_EX | LOCK_NB); /* for a sweep on another machine, which does not know our processes */
  out = fd >= 0 ? fdopen (fd, "wb") : NULL;
  if (out)
    ok = write_all (out, set, header);
  reason = errno;
  if (out && fclose (out) != 0 && ok) {
    reason = errno;
    ok = FALSE;
  }
  if (ok && (g_rename (temporary, path) != 0 || !sync_folder_of (path))) {
    reason = errno;
    ok = FALSE;
  }
  if (ok)
    return TRUE;
  if (fd >= 0)
    g_unlink (temporary);
  g_set_error (error, KD_ERROR, KD_ERROR_IO, "Cannot write weights: path=\"%s\", reason=%s", path, g_strerror (reason));
  return FALSE;
}
