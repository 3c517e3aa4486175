/* What the commands of `kd cache` share. */
#pragma once
#include "kd-tool.h"

G_BEGIN_DECLS

/** kd_cache_row: "name           what". */
void kd_cache_row (const gchar *name, const gchar *format, ...) G_GNUC_PRINTF (2, 3);
/** kd_cache_size_text: (transfer full) "1.2 GB (1234567890 bytes)". */
gchar *kd_cache_size_text (guint64 bytes);
int kd_cache_estimate (int argc, char **argv);

G_END_DECLS
