/* The importers of kd data: u8 which one, then the file. */
#include "fuzz.h"

#include "../../tools/data/kd-data.h"
#include <glib/gstdio.h>

static void
quiet (const gchar *text)
{
}

int
LLVMFuzzerTestOneInput (const guint8 *data, gsize size)
{
  static const struct {
    const KdImportFormat *format;
    const gchar *name, *label, *split;
  } formats[] = { { &kd_import_csv, "x.csv", NULL }, { &kd_import_jsonl, "x.jsonl", "k" }, { &kd_import_idx, "x.idx", NULL }, { &kd_import_npy, "x.npy", NULL }, { &kd_import_npz, "x.npz", NULL }, { &kd_import_json, "x.json", "k" }, { &kd_import_json, "s.json", "1", "s" } };
  FuzzBytes bytes = { data, size };
  guint which = fuzz_u8 (&bytes) % G_N_ELEMENTS (formats);
  g_autofree gchar *input = fuzz_path (formats[which].name), *output = fuzz_path ("out.h5");
  KdImportOptions options = { .input = input, .output = output, .label = (gchar *) formats[which].label, .split = (gchar *) formats[which].split };
  GError *error = NULL;

  g_set_print_handler (quiet);
  fuzz_write (input, bytes.at, bytes.left);
  if (!formats[which].format->run (&options, &error)) {
    fuzz_refuse (error, formats[which].name);
    return 0;
  }
  fuzz_check (fuzz_h5_read (output, &bytes), "%s: what was imported cannot be read", formats[which].name);
  g_unlink (output);
  fuzz_accept ();
  return 0;
}
