/* Internal: what the two files of kd-vectors share. */
#pragma once
#include "kd-vectors.h"

#include <json-glib/json-glib.h>

/** kd_vector_json_text: (transfer full) a JSON value as kd_param_set_string reads it; lists become "1,2,3". NULL for objects. */
gchar *kd_vector_json_text (JsonNode *node);
