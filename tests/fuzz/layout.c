/* The caps' layout string: what is understood prints as it was read, and reads again. */
#include "fuzz.h"

int
LLVMFuzzerTestOneInput (const guint8 *data, gsize size)
{
  g_autofree gchar *text = fuzz_text (data, size), *printed = NULL;
  g_autoptr (KdLayout) layout = NULL, again = NULL;
  g_autoptr (GstCaps) caps = NULL;
  GError *error = NULL;

  if (!g_utf8_validate (text, -1, NULL)) /* a caps string is checked by GStreamer */
    return 0;
  layout = kd_layout_from_string (text, &error);
  if (!layout) {
    fuzz_refuse (error, "layout");
    return 0;
  }
  printed = kd_layout_to_string (layout);
  caps = kd_layout_to_caps (layout);
  again = kd_layout_from_caps (caps, &error);
  fuzz_check (again && kd_layout_equal (layout, again), "\"%s\" does not read back: %s", printed, error ? error->message : "differs");
  fuzz_accept ();
  return 0;
}
