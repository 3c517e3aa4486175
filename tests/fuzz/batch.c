/* Batch files that libhdf5 holds for good: open, check, layout, rows in every way. */
#include "fuzz.h"

int
LLVMFuzzerTestOneInput (const guint8 *data, gsize size)
{
  g_autofree gchar *path = fuzz_path ("batch.h5");
  FuzzBytes bytes = { data, size };

  fuzz_h5_write (&bytes, path, NULL, NULL);
  if (fuzz_h5_read (path, &bytes))
    fuzz_accept ();
  return 0;
}
