/* Documents against their JSON Schema: the part of draft 2020-12 that schemas/ uses. */
#pragma once
#include <json-glib/json-glib.h>

G_BEGIN_DECLS

/**
 * kd_schema_check: whether @document is what schemas/@name (compiled into the program) says.
 *
 * Understands type, const, enum, required, properties, patternProperties, additionalProperties, items, minItems, minimum,
 * minLength, pattern. KD_ERROR_SCHEMA names the place ("/step/teacher/pipeline") and what was wanted there; a keyword that is not one of these or an
 * annotation is an error too, so that a schema never says more than is checked.
 */
gboolean kd_schema_check (const gchar *name, JsonNode *document, GError **error);

G_END_DECLS
