/* The parts of `kd inspect`. */
#pragma once
#include "kd-tool.h"
#include <kd/kd.h>

G_BEGIN_DECLS

/** kd_inspect_factories: (transfer full) kdstream's elements, sorted; free with g_list_free_full (list, gst_object_unref). */
GList *kd_inspect_factories (void);
/** kd_inspect_all: elements by kind, architectures, engines; or the elements' names only. */
int kd_inspect_all (gboolean names_only);
/** kd_inspect_value: (transfer full) a property's value as text. */
gchar *kd_inspect_value (const GValue *value);
/** kd_inspect_formula: (transfer full) the descriptor's formula with the element's values for the properties that it names in braces; NULL
 * when it names none. */
gchar *kd_inspect_formula (const KdDesc *desc, GstElement *element);

G_END_DECLS
