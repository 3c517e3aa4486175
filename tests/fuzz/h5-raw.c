/* Any bytes as a batch file and as a packed cache. libhdf5 1.10 has faults of its own with such files: README.md lists them and says how they are
 * told from ours. */
#include "fuzz.h"

int
LLVMFuzzerTestOneInput (const guint8 *data, gsize size)
{
  g_autofree gchar *path = fuzz_path ("raw.h5"), *report = NULL;
  FuzzBytes bytes = { data, size };
  GError *error = NULL;
  gboolean good;

  fuzz_write (path, data, size);
  good = fuzz_h5_read (path, &bytes);
  if (!kd_cache_verify (path, NULL, NULL, &report, &error))
    fuzz_refuse (error, "verify");
  if (good)
    fuzz_accept ();
  return 0;
}
