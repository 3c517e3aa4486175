/* The parts of `kd inspect`. */
#pragma once
#include "kd-tool.h"
#include <kd/kd.h>

G_BEGIN_DECLS

/** kd_inspect_factories: (transfer full) kdstream's elements, sorted; free with g_list_free_full (list, gst_object_unref). */
GList *kd_inspect_factories (void);
/** kd_inspect_all: elements by kind, architectures, engines; or the elements' names only. */
int kd_inspect_all (gboolean names_only);

G_END_DECLS
