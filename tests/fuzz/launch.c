/* A pipeline's text as kd launch takes it apart to show a place in it; GStreamer's own parser is not ours to test. */
#include "fuzz.h"

#include "../../tools/kd-launch.h"
#include <string.h>

int
LLVMFuzzerTestOneInput (const guint8 *data, gsize size)
{
  static FILE *nowhere;
  g_autofree gchar *line = fuzz_text (data, size), *joined = NULL;
  g_autoptr (KdText) text = NULL, again = NULL;
  g_auto (GStrv) words = NULL;

  if (!g_utf8_validate (line, -1, NULL)) /* as kd launch does */
    return 0;
  nowhere = nowhere ? nowhere : fopen ("/dev/null", "w");
  text = kd_text_new (line);
  for (guint i = 0; i < text->words->len; i++) {
    const KdWord *word = &g_array_index (text->words, KdWord, i);
    fuzz_check (word->start < word->end && word->end <= strlen (text->text), "word %u is outside of the text", i);
    kd_text_print (text, i, nowhere);
  }
  for (guint i = 0; i < text->elements->len; i++) {
    const KdTextElement *element = text->elements->pdata[i];
    fuzz_check (kd_text_element (text, element->name), "element %s is not found", element->name);
    fuzz_check (kd_text_property (text, element, "temperature") < (gint) text->words->len, "a property's word is outside of the text");
  }
  words = g_strsplit (line, "\n", 64);
  joined = kd_text_join (words, g_strv_length (words));
  again = kd_text_new (joined);
  if (text->elements->len)
    fuzz_accept ();
  return 0;
}
