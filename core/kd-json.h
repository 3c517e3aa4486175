/* JSON of strangers. */
#pragma once
#include <glib.h>
#include "kd-error.h"

G_BEGIN_DECLS

/** KD_JSON_MAX_DEPTH: objects and arrays within each other; json-glib's parser calls itself for each, and the stack has an end. */
#define KD_JSON_MAX_DEPTH 64
/** kd_json_is_deep: whether @text [@n] is nested deeper than that; then do not parse it. */
KD_API gboolean kd_json_is_deep (const gchar *text, gsize n);

G_END_DECLS
