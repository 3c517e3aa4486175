/* Internal: files that are written under a temporary name, .NAME.partial-PID, with more behind the number if need be. */
#pragma once
#include <glib.h>

/* kd_h5_sweep: removes what killed processes left of writing @path: temporary files whose process is gone, and that nobody has locked. */
void kd_h5_sweep (const gchar *path);
