/* A pipeline's text: words, elements, carets; names that are near; numbers. */
#include "../../tools/kd-launch.h"
#include "kd-check.h"

static gchar *
caret (const gchar *source, const gchar *element, const gchar *property)
{
  g_autoptr (KdText) text = kd_text_new (source);
  const KdTextElement *found = kd_text_element (text, element);
  gchar *out = NULL;
  size_t n;
  FILE *file = open_memstream (&out, &n);

  ck_assert (found != NULL);
  kd_text_print (text, property ? (guint) kd_text_property (text, found, property) : found->word, file);
  fclose (file);
  return out;
}

START_TEST (test_elements)
{
  g_autoptr (KdText) text = kd_text_new ("kdce ! kdce name=second weight=2 ! kdce ! tee name=t t. ! queue ! video/x-raw,width=3 ! fakesink t.");

  ck_assert_uint_eq (text->elements->len, 6);
  ck_assert (kd_text_element (text, "kdce0") && kd_text_element (text, "second") && kd_text_element (text, "kdce2"));
  ck_assert (!kd_text_element (text, "kdce1")); /* it was given another name */
  ck_assert_int_ge (kd_text_property (text, kd_text_element (text, "second"), "weight"), 0);
  ck_assert_int_eq (kd_text_property (text, kd_text_element (text, "second"), "width"), -1);
}
END_TEST

START_TEST (test_quotes)
{
  g_autoptr (KdText) text = kd_text_new ("kdstudent arch=\"mlp dims=64,10 ! x\" ! kdce label_smoothing=0.1");
  const KdTextElement *student = kd_text_element (text, "kdstudent0");

  ck_assert_uint_eq (text->elements->len, 2);
  ck_assert_str_eq (g_array_index (text->words, KdWord, (guint) kd_text_property (text, student, "arch")).text, "arch=mlp dims=64,10 ! x");
  /* Underscores and dashes are the same name. */
  ck_assert_int_ge (kd_text_property (text, kd_text_element (text, "kdce0"), "label-smoothing"), 0);
  ck_assert (kd_text_element (text, "x0") == NULL);
}
END_TEST

/* GStreamer's parser knows double quotes only. */
START_TEST (test_single_quotes)
{
  g_autoptr (KdText) text = kd_text_new ("kdstudent arch='mlp dims=64,10' name=\"it's\" save='a\"b'");

  ck_assert_str_eq (text->text, "kdstudent arch=\"mlp dims=64,10\" name=\"it's\" save=\"a\\\"b\"");
  ck_assert_str_eq (g_array_index (text->words, KdWord, 3).text, "save=a\"b");
}
END_TEST

START_TEST (test_caret)
{
  g_autofree gchar *plain = caret ("kdh5src ! kdce weight=3 ! kdtrain", "kdce0", NULL);
  g_autofree gchar *property = caret ("kdh5src ! kdce weight=3 ! kdtrain", "kdce0", "weight");
  g_autofree gchar *wide = caret ("kdh5src location=\xc3\xa4\xc3\xb6.h5 ! kdce", "kdce0", NULL);
  g_autofree gchar *second_line = caret ("kdh5src !\n  kdce ! kdtrain", "kdce0", NULL);

  ck_assert_str_eq (plain, "  kdh5src ! kdce weight=3 ! kdtrain\n            ^~~~\n");
  ck_assert_str_eq (property, "  kdh5src ! kdce weight=3 ! kdtrain\n                 ^~~~~~~~\n");
  ck_assert_str_eq (wide, "  kdh5src location=\xc3\xa4\xc3\xb6.h5 ! kdce\n                           ^~~~\n"); /* columns, not bytes */
  ck_assert_str_eq (second_line, "    kdce ! kdtrain\n    ^~~~\n");
}
END_TEST

START_TEST (test_caret_of_a_long_line)
{
  g_autoptr (GString) source = g_string_new ("kdh5src");
  g_autofree gchar *shown = NULL;
  g_auto (GStrv) lines = NULL;

  for (guint i = 0; i < 60; i++)
    g_string_append_printf (source, " ! kdnoise name=noise%u std=0.5", i);
  shown = caret (source->str, "noise30", NULL);
  lines = g_strsplit (shown, "\n", -1);
  ck_assert_uint_lt (strlen (lines[0]), 130);
  ck_assert (g_str_has_prefix (lines[0], "  ... ") && g_str_has_suffix (lines[0], " ..."));
  ck_assert (g_str_has_prefix (lines[0] + strcspn (lines[1], "^"), "kdnoise name=noise30"));
}
END_TEST

START_TEST (test_join)
{
  gchar *one[] = { (gchar *) "kdce ! kdtrain" };
  gchar *several[] = { (gchar *) "kdstudent", (gchar *) "arch=mlp dims=4,2", (gchar *) "!", (gchar *) "kdce" };
  gchar *quoted[] = { (gchar *) "kdstudent", (gchar *) "arch=\"mlp dims=4,2\"" };
  g_autofree gchar *a = kd_text_join (one, 1), *b = kd_text_join (several, 4), *c = kd_text_join (quoted, 2);

  ck_assert_str_eq (a, "kdce ! kdtrain");
  ck_assert_str_eq (b, "kdstudent arch=mlp\\ dims=4,2 ! kdce");
  ck_assert_str_eq (c, "kdstudent arch=\"mlp dims=4,2\"");
}
END_TEST

START_TEST (test_closest)
{
  const gchar *const names[] = { "kdhint", "kdhinton", "kdteacher", "launch", NULL };

  ck_assert_str_eq (kd_tool_closest ("kdhintn", names), "kdhint"); /* one letter from both: the first */
  ck_assert_str_eq (kd_tool_closest ("kdteahcer", names), "kdteacher");
  ck_assert_str_eq (kd_tool_closest ("lunch", names), "launch");
  ck_assert_ptr_null (kd_tool_closest ("something", names));
  ck_assert_ptr_null (kd_tool_closest ("", names));
}
END_TEST

START_TEST (test_number)
{
  static const struct {
    gdouble value;
    const gchar *text;
  } cases[] = { { 0, "0" }, { 0.5, "0.5" }, { 12345, "12345" }, { 0.123456, "0.1235" }, { 100.5, "100.5" }, { 1e-9, "1.000e-09" }, { -2.25, "-2.25" }, { 1e12, "1.000e+12" } };

  for (guint i = 0; i < G_N_ELEMENTS (cases); i++) {
    g_autofree gchar *text = kd_tool_number (cases[i].value);

    ck_assert_str_eq (text, cases[i].text);
  }
}
END_TEST

/* Any text at all has words that lie inside it, and can be shown. */
START_TEST (test_any_text)
{
  static const gchar letters[] = "ab=! '\"\\.,()/\n\t0-_\xc3\xa4";

  for (guint i = 0; i < 5000; i++) {
    gchar source[200];
    KdRandom random;
    guint n;

    kd_random_init (&random, 1, kd_random_purpose ("text"), 0, i);
    n = (guint) kd_random_below (&random, sizeof source);
    for (guint k = 0; k < n; k++)
      source[k] = letters[kd_random_below (&random, sizeof letters - 1)];
    source[n] = 0;
    {
      g_autoptr (KdText) text = kd_text_new (source);
      FILE *nowhere = fopen ("/dev/null", "w");

      for (guint w = 0; w < text->words->len; w++) {
        KdWord *word = &g_array_index (text->words, KdWord, w);

        ck_assert (word->start < word->end && word->end <= strlen (text->text));
        kd_text_print (text, w, nowhere);
      }
      fclose (nowhere);
    }
  }
}
END_TEST

int
main (int argc, char **argv)
{
  Suite *suite = suite_create (KD_TEST_NAME);
  TCase *tcase = tcase_create ("all");

  gst_check_init (&argc, &argv);
  tcase_add_test (tcase, test_elements);
  tcase_add_test (tcase, test_quotes);
  tcase_add_test (tcase, test_single_quotes);
  tcase_add_test (tcase, test_caret);
  tcase_add_test (tcase, test_caret_of_a_long_line);
  tcase_add_test (tcase, test_join);
  tcase_add_test (tcase, test_closest);
  tcase_add_test (tcase, test_number);
  tcase_add_test (tcase, test_any_text);
  suite_add_tcase (suite, tcase);
  return gst_check_run_suite (suite, KD_TEST_NAME, __FILE__);
}
