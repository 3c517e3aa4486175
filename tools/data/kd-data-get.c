/* kd data get: a known data set from a folder of KD_DATA_PATH or from its public address, never used before its checksum is right. */
#include "kd-data-get.h"

#include <errno.h>
#include <glib/gstdio.h>
#include <string.h>

gboolean
kd_known_verify (const KdKnownFile *file, const gchar *path, GError **error)
{
  g_autoptr (GChecksum) sum = g_checksum_new (G_CHECKSUM_SHA256);
  g_autoptr (GFile) handle = g_file_new_for_path (path);
  g_autoptr (GFileInputStream) stream = NULL;
  g_autofree guint8 *buffer = g_malloc (1 << 18);
  GError *inner = NULL;
  gint64 total = 0;
  gssize n = 0;

  if ((stream = g_file_read (handle, NULL, &inner)))
    while ((n = g_input_stream_read (G_INPUT_STREAM (stream), buffer, 1 << 18, NULL, &inner)) > 0) {
      g_checksum_update (sum, buffer, n);
      total += n;
    }
  if (inner) {
    kd_data_wrap (error, inner, "read", path);
    return FALSE;
  }
  if (total == file->bytes && g_str_equal (g_checksum_get_string (sum), file->sha256))
    return TRUE;
  g_set_error (error, KD_ERROR, KD_ERROR_IO,
      "Fingerprint differs: path=\"%s\", sha256=%s, wanted=%s, bytes=%" G_GINT64_FORMAT ", wanted bytes=%" G_GINT64_FORMAT "; remove it and get it "
      "again",
      path,
      g_checksum_get_string (sum), file->sha256, total, file->bytes);
  return FALSE;
}

/* Folders to look in: KD_DATA_PATH, then where downloads go. (transfer full) */
static gchar **
search_folders (void)
{
  const gchar *list = g_getenv ("KD_DATA_PATH");
  GPtrArray *folders = g_ptr_array_new ();
  g_auto (GStrv) parts = g_strsplit (list ? list : "", ":", -1);

  for (gchar **part = parts; *part; part++)
    if (**part)
      g_ptr_array_add (folders, g_strdup (*part));
  g_ptr_array_add (folders, g_build_filename (g_get_user_data_dir (), "kdstream", NULL));
  g_ptr_array_add (folders, NULL);
  return (gchar **) g_ptr_array_free (folders, FALSE);
}

/* (transfer full) where the file lies already, or NULL. */
static gchar *
find_file (const KdKnownFile *file)
{
  g_auto (GStrv) folders = search_folders ();

  for (gchar **folder = folders; *folder; folder++) {
    g_autofree gchar *path = g_build_filename (*folder, file->path, NULL);
    if (g_file_test (path, G_FILE_TEST_IS_REGULAR))
      return g_steal_pointer (&path);
  }
  return NULL;
}

static gboolean
make_folder (const gchar *path, GError **error)
{
  g_autofree gchar *folder = g_path_get_dirname (path);

  if (g_mkdir_with_parents (folder, 0755) == 0)
    return TRUE;
  g_set_error (error, KD_ERROR, KD_ERROR_IO, "Cannot make folder: path=\"%s\", reason=%s", folder, g_strerror (errno));
  return FALSE;
}

static gboolean
rename_into_place (const gchar *from, const gchar *to, GError **error)
{
  if (g_rename (from, to) == 0)
    return TRUE;
  g_set_error (error, KD_ERROR, KD_ERROR_IO, "Cannot rename: from=\"%s\", to=\"%s\", reason=%s", from, to, g_strerror (errno));
  return FALSE;
}

static gboolean
copy_file (const gchar *from, const gchar *to, GError **error)
{
  g_autofree gchar *temporary = g_strconcat (to, ".part", NULL);
  g_autoptr (GFile) source = g_file_new_for_path (from), target = g_file_new_for_path (temporary);
  GError *inner = NULL;

  if (!make_folder (to, error))
    return FALSE;
  if (!g_file_copy (source, target, G_FILE_COPY_OVERWRITE, NULL, NULL, NULL, &inner)) {
    kd_data_wrap (error, inner, "copy", from);
    g_unlink (temporary);
    return FALSE;
  }
  return rename_into_place (temporary, to, error);
}

/* What to do when there is no way to get a file: it can always be laid there by hand. */
static gboolean
fail_hint (const KdKnownSet *set, const KdKnownFile *file, GError *inner, GError **error)
{
  g_set_error (error, KD_ERROR, inner->code, "%s; or put %s (sha256 %.16s...) into a folder of KD_DATA_PATH; it comes from %s", inner->message,
      file->path,
      file->sha256, set->origin);
  g_error_free (inner);
  return FALSE;
}

static gboolean
download (const KdKnownSet *set, const KdKnownFile *file, const gchar *from, const gchar *path, GError **error)
{
  g_autofree gchar *url = from ? g_strdup_printf ("%s%s%s", from, g_str_has_suffix (from, "/") ? "" : "/", file->path) : g_strdup (file->url);
  g_autofree gchar *part = g_strconcat (path, ".part", NULL);
  GError *inner = NULL;

  if (!url) {
    g_set_error (&inner, KD_ERROR, KD_ERROR_NETWORK, "No public address holds this file: name=%s, file=%s was packed for kdstream; give --from URL "
                                                     "of a mirror",
        set->name, file->path);
    return fail_hint (set, file, inner, error);
  }
  if (!make_folder (path, error))
    return FALSE;
  if (!kd_download (url, part, file->bytes, &inner))
    return fail_hint (set, file, inner, error);
  if (!kd_known_verify (file, part, &inner)) {
    g_unlink (part); /* else a resumed download would go on from wrong bytes for ever */
    return fail_hint (set, file, inner, error);
  }
  return rename_into_place (part, path, error);
}

/* A file that is there but wrong is an error, not a reason to overwrite it. */
static gboolean
get_file (const KdKnownSet *set, const KdKnownFile *file, const gchar *folder, const gchar *from, GError **error)
{
  g_autofree gchar *there = find_file (file), *target = NULL;

  if (folder)
    target = g_build_filename (folder, file->path, NULL);
  else
    target = there ? g_strdup (there) : g_build_filename (g_get_user_data_dir (), "kdstream", file->path, NULL);
  if (g_file_test (target, G_FILE_TEST_EXISTS)) {
    if (!kd_known_verify (file, target, error))
      return FALSE;
  } else if (there) {
    if (!kd_known_verify (file, there, error) || !copy_file (there, target, error))
      return FALSE;
  } else if (!download (set, file, from, target, error)) {
    return FALSE;
  }
  g_print ("%s\n", target);
  return TRUE;
}

static int
list_sets (void)
{
  for (const KdKnownSet *set = kd_known_sets; set->name; set++) {
    g_print ("%s: %s\n  origin %s, licence %s\n", set->name, set->what, set->origin, set->licence);
    for (const KdKnownFile *file = set->files; file->path; file++) {
      g_autofree gchar *there = find_file (file);
      g_print ("  %-30s %10" G_GINT64_FORMAT " bytes  sha256 %s\n", file->path, file->bytes, file->sha256);
      if (there)
        g_print ("    at %s\n", there);
      else
        g_print ("    %s%s\n", file->url ? "from " : "packed for kdstream: no address of its own", file->url ? file->url : "");
    }
  }
  return KD_EXIT_DONE;
}

static const KdKnownSet *
find_set (const gchar *name)
{
  for (const KdKnownSet *set = kd_known_sets; set->name; set++)
    if (g_str_equal (set->name, name))
      return set;
  return NULL;
}

static int
unknown_set (const gchar *name)
{
  g_autoptr (GPtrArray) names = g_ptr_array_new ();
  const gchar *near;

  for (const KdKnownSet *set = kd_known_sets; set->name; set++)
    g_ptr_array_add (names, (gpointer) set->name);
  g_ptr_array_add (names, NULL);
  near = kd_tool_closest (name, (const gchar *const *) names->pdata);
  return near ? kd_tool_usage ("no data set is called %s; did you mean %s?", name, near)
              : kd_tool_usage ("no data set is called %s; kd data get --list shows them", name);
}

int
kd_data_get (int argc, char **argv)
{
  g_autofree gchar *folder = NULL, *from = NULL;
  g_autoptr (GError) error = NULL;
  gboolean list = FALSE;
  const KdKnownSet *set;
  const GOptionEntry entries[] = {
    { "output", 'o', 0, G_OPTION_ARG_FILENAME, &folder, "Put it here (else it stays where it lies, or goes to the user's data folder)", "DIR" },
    { "list", 0, 0, G_OPTION_ARG_NONE, &list, "List what is known, with origin, licence and checksum", NULL },
    { "from", 0, 0, G_OPTION_ARG_STRING, &from, "Download from this mirror, laid out like a folder of KD_DATA_PATH", "URL" },
    G_OPTION_ENTRY_NULL,
  };

  if (!kd_tool_options (&argc, &argv, entries, "NAME", "Get a known data set and check it; prints the path of each file.",
          "Looks in the folders of KD_DATA_PATH (separated by ':') first, then downloads. A broken-off download goes on where it\n"
          "stopped. A file whose SHA-256 is not the recorded one is never used.\n\nExample:\n  kd data get cifar10-jpeg -o data\n"))
    return KD_EXIT_USAGE;
  if (list)
    return argc == 1 ? list_sets () : kd_tool_usage ("--list takes no NAME");
  if (argc != 2)
    return kd_tool_usage ("exactly one NAME is wanted; kd data get --list shows them");
  if (!(set = find_set (argv[1])))
    return unknown_set (argv[1]);
  for (const KdKnownFile *file = set->files; file->path; file++)
    if (!get_file (set, file, folder, from, &error))
      return kd_tool_fail ("%s", error->message);
  return KD_EXIT_DONE;
}
