/* JSON of strangers. */
#pragma once
#include <glib.h>
#include "kd-error.h"

G_BEGIN_DECLS

/** KD_JSON_MAX_DEPTH: objects and arrays within each other; json-glib's parser calls itself for each, and the stack has an end. */
#define KD_JSON_MAX_DEPTH 64
/** kd_json_fault: why @text [@n] must not be given to json-glib, which would crash or read something else than is written; NULL when it may be
 * given. Nested too deep; a second value (it would be dropped without a word); a whole number beyond 64 bits (-1) or with zeros before it
 * (octal); comments and single quotes, which are no JSON and could hide the others. All else is for the parser to say. */
KD_API const gchar *kd_json_fault (const gchar *text, gsize n);

G_END_DECLS
