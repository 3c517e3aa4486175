/* A safetensors file: its metadata, and tensors of the names that the seeds have. */
#include "fuzz.h"

int
LLVMFuzzerTestOneInput (const guint8 *data, gsize size)
{
  static const gchar *const names[] = { "w", "b", "layer.weight", "" };
  g_autofree gchar *path = fuzz_path ("w.safetensors");
  g_autoptr (GHashTable) metadata = NULL;
  GError *error = NULL;
  guint n_read = 0;

  fuzz_write (path, data, size);
  metadata = kd_safetensors_metadata (path, &error);
  if (!metadata) {
    fuzz_refuse (error, "metadata");
    return 0;
  }
  for (guint i = 0; i < G_N_ELEMENTS (names); i++) {
    g_autoptr (KdTensor) tensor = kd_safetensors_read (path, names[i], &error);
    if (!tensor)
      fuzz_refuse (g_steal_pointer (&error), "read");
    else
      fuzz_touch (tensor);
    n_read += tensor != NULL;
  }
  if (n_read)
    fuzz_accept ();
  return 0;
}
