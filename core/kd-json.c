#include "kd-json.h"

gboolean
kd_json_is_deep (const gchar *text, gsize n)
{
  gboolean quoted = FALSE;
  gint depth = 0;

  for (gsize i = 0; i < n; i++) {
    if (quoted && text[i] == '\\')
      i++;
    else if (text[i] == '"')
      quoted = !quoted;
    else if (!quoted && (text[i] == '{' || text[i] == '['))
      depth++;
    else if (!quoted && (text[i] == '}' || text[i] == ']'))
      depth--;
    if (depth > KD_JSON_MAX_DEPTH)
      return TRUE;
  }
  return FALSE;
}
