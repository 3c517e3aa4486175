/* A target without libFuzzer: runs the files in the folders given, or single files. A folder's name that ends in seeds/TARGET has to have inputs
 * of both kinds, some accepted and some refused; found/TARGET may be empty. */
#include "fuzz.h"

static guint n_files;

static void
run_file (const gchar *path)
{
  g_autofree gchar *text = NULL;
  g_autofree guint8 *exact = NULL; /* so that the sanitizer sees a read beyond the end */
  gsize size;
  guint before = fuzz_n_accepted;

  fuzz_check (g_file_get_contents (path, &text, &size, NULL), "cannot read %s", path);
  exact = g_memdup2 (text, size);
  if (g_getenv ("KD_FUZZ_VERBOSE"))
    g_printerr ("%s\n", path);
  LLVMFuzzerTestOneInput (exact, size);
  if (g_getenv ("KD_FUZZ_VERBOSE"))
    g_printerr ("  %s\n", fuzz_n_accepted > before ? "accepted" : "refused");
  n_files++;
}

static void
run_folder (const gchar *path)
{
  g_autoptr (GDir) folder = g_dir_open (path, 0, NULL);
  g_autofree gchar *parent = g_path_get_dirname (path), *kind = g_path_get_basename (parent);
  guint first = n_files, accepted = fuzz_n_accepted;

  for (const gchar *name; folder && (name = g_dir_read_name (folder));) {
    g_autofree gchar *file = g_build_filename (path, name, NULL);
    run_file (file);
  }
  g_print ("%s: %u inputs, %u accepted\n", path, n_files - first, fuzz_n_accepted - accepted);
  fuzz_check (!g_str_equal (kind, "seeds") || (fuzz_n_accepted > accepted && fuzz_n_accepted - accepted < n_files - first),
      "%s: wanted inputs that are accepted and inputs that are refused", path);
}

int
main (int argc, char **argv)
{
  for (int i = 1; i < argc; i++)
    if (g_file_test (argv[i], G_FILE_TEST_IS_REGULAR))
      run_file (argv[i]);
    else
      run_folder (argv[i]);
  if (n_files == 0)
    g_printerr ("usage: %s FILE|FOLDER...\n", argv[0]);
  return n_files ? 0 : 2;
}
