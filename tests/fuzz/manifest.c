/* A cache's manifest alone: the parts it names are not there. */
#include "fuzz.h"

#include <glib/gstdio.h>

int
LLVMFuzzerTestOneInput (const guint8 *data, gsize size)
{
  static gchar *path, *file;
  g_autoptr (KdCacheReader) reader = NULL;
  g_autofree gchar *layout = NULL;
  gint64 ids[] = { G_MININT64, -1, 0, 1, 100, G_MAXINT64 }, rows[G_N_ELEMENTS (ids)];
  GError *error = NULL;
  KdCacheInfo info;

  if (!path) {
    g_autofree gchar *folder = fuzz_path ("m.h5.parts");
    path = fuzz_path ("m.h5");
    file = fuzz_path ("m.h5.parts/manifest.json");
    g_mkdir (folder, 0700);
  }
  fuzz_write (file, data, size);
  reader = kd_cache_reader_open (path, &error);
  if (!reader) {
    fuzz_refuse (error, "open");
    return 0;
  }
  kd_cache_reader_info (reader, &info);
  layout = kd_layout_to_string (kd_cache_reader_layout (reader));
  kd_cache_reader_find (reader, G_N_ELEMENTS (ids), ids, NULL, rows);
  for (guint i = 0; i < G_N_ELEMENTS (ids); i++) {
    gint64 id, view;
    fuzz_check (rows[i] >= -1 && rows[i] < MAX (kd_cache_reader_n_rows (reader), 1), "id %" G_GINT64_FORMAT " is found outside of the cache", ids[i]);
    if (rows[i] < 0)
      continue;
    kd_cache_reader_key (reader, rows[i], &id, &view);
    fuzz_check (id == ids[i] && view == 0, "row %" G_GINT64_FORMAT " has another key than it was found by", rows[i]);
  }
  fuzz_accept ();
  return 0;
}
