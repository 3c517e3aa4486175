#include "kd-graph.h"
#include "kd-leaf.h"

#include <string.h>

/* Ids: 0 "a", 1 "1", 2 " pin", 3 "x7", 4 "23", 5 one byte of a letter of two; counts 200, 10, 0, 1, 100, 5. */
static void
write_vocabulary (const gchar *folder)
{
  static const gchar *names[] = { "token.text", "token.count" };
  const gint64 offsets[] = { 0, 1, 2, 6, 8, 10, 11 }, n = 6;
  const gfloat counts[] = { 200, 10, 0, 1, 100, 5 };
  g_autofree gchar *path = g_build_filename (folder, "v.h5", NULL), *bad = g_build_filename (folder, "bad.h5", NULL);
  g_autoptr (KdTensor) text = kd_tensor_new_utf8 (n, offsets, "a1 pinx723\xc3");
  g_autoptr (KdTensor) count = kd_tensor_new (KD_FLOAT32, 1, &n);

  memcpy (count->data, counts, sizeof counts);
  kd_test_write (path, 2, names, (KdTensor *[]) { text, count });
  ((gfloat *) count->data)[3] = -1;
  kd_test_write (bad, 1, names + 1, (KdTensor *[]) { count });
}

static gchar *folder;

static void
open_with (Leaf *leaf, const gchar *properties, gint64 n)
{
  g_autofree gchar *text = g_strdup_printf ("%s vocabulary=%s/v.h5", properties, folder);

  leaf_open (leaf, "kdprivacyscore", text, n);
}

static void
expect (Leaf *leaf, guint n, const gdouble *wanted)
{
  leaf_run_ok (leaf);
  for (guint i = 0; i < n; i++)
    leaf_expect (leaf, "token.privacy", i, wanted[i]);
}

static void
setup (void)
{
  folder = kd_test_folder ();
  write_vocabulary (folder);
}

static void
teardown (void)
{
  kd_test_remove (folder);
  g_clear_pointer (&folder, g_free);
}

GST_START_TEST (test_tokens)
{
  g_auto (Leaf) leaf = { 0 };

  open_with (&leaf, "rule=digits", 1);
  leaf_put (&leaf, "label", KD_INT64, 1, 7, 0, 1, 2, 3, 4, 5, -100);
  expect (&leaf, 7, (gdouble[]) { 0, 1, 0, 1, 1, 0, 1 });
  open_with (&leaf, "rule=rare rare-log-count=4.605170185988092 rare-width=4.605170185988092", 1);
  leaf_put (&leaf, "label", KD_INT64, 1, 7, 0, 1, 2, 3, 4, 5, -1);
  expect (&leaf, 7, (gdouble[]) { 0, 0.5, 1, 1, 0, 1 - log (5) / log (100), 1 });
  leaf_open (&leaf, "kdprivacyscore", "rule=table ids=4,2", 1); /* needs no vocabulary */
  leaf_put (&leaf, "label", KD_INT64, 1, 5, 0, 2, 4, 99, -1);
  expect (&leaf, 5, (gdouble[]) { 0, 1, 1, 0, 1 });
  leaf_open (&leaf, "kdprivacyscore", "rule=field field=ner", 2);
  leaf_put (&leaf, "ner", KD_FLOAT32, 2, 0, 0.25, 1);
  expect (&leaf, 2, (gdouble[]) { 0.25, 1 });
}
GST_END_TEST

/* Four digits in a row, over tokens: x7 23 1 has them, 23 1 has not; one that is ignored parts them, and samples do not run together. */
GST_START_TEST (test_spans)
{
  g_auto (Leaf) leaf = { 0 };

  open_with (&leaf, "rule=regex pattern=[0-9]{4}", 3); /* the third sample: 23 1 (none) 23 */
  leaf_put (&leaf, "label", KD_INT64, 3, 4, 0, 3, 4, 1, 4, 1, 2, 4, 4, 1, -1, 4);
  expect (&leaf, 12, (gdouble[]) { 0, 1, 1, 1, 0, 0, 0, 0, 0, 0, 1, 0 });
  open_with (&leaf, "rule=regex pattern=in", 1); /* a part of a token; two matches apart */
  leaf_put (&leaf, "label", KD_INT64, 1, 4, 2, 0, 5, 2);
  expect (&leaf, 4, (gdouble[]) { 1, 0, 0, 1 });
  open_with (&leaf, "rule=regex pattern=1*", 1); /* empty matches mark nothing */
  leaf_put (&leaf, "label", KD_INT64, 1, 3, 0, 1, 1);
  expect (&leaf, 3, (gdouble[]) { 0, 1, 1 });
}
GST_END_TEST

static void
refuses_to_open (const gchar *properties, gint code, const gchar *part)
{
  g_auto (Leaf) leaf = { 0 };
  g_auto (GStrv) pairs = g_strsplit (properties, " ", -1);
  g_autoptr (GError) ignored = NULL;
  GError *error = NULL;
  gboolean ok;

  leaf_open (&leaf, "kdprivacyscore", "rule=field", 1);
  for (guint i = 0; pairs[i]; i++) {
    g_auto (GStrv) words = g_strsplit (pairs[i], "=", 2);
    g_autofree gchar *value = g_str_has_prefix (words[1], "/") ? g_strconcat (folder, words[1], NULL) : g_strdup (words[1]);
    ck_assert (kd_param_set_string (kd_param_find (leaf.desc->params, words[0]), leaf.params, value, "kdprivacyscore", &ignored));
  }
  ok = leaf.desc->check (leaf.params, &error) && leaf.desc->state_open (leaf.params, leaf.state, &error);
  ck_assert (!ok);
  kd_assert_error (error, code, part);
}

GST_START_TEST (test_refusals)
{
  g_auto (Leaf) leaf = { 0 };

  refuses_to_open ("rule=regex pattern=(", KD_ERROR_RANGE, "Pattern not understood: element=kdprivacyscore, property=pattern, value=\"(\"");
  refuses_to_open ("rule=table", KD_ERROR_RANGE, "Ids not understood: element=kdprivacyscore, property=ids, value=\"\"");
  refuses_to_open ("rule=table ids=3,-1", KD_ERROR_RANGE, "item=\"-1\"");
  refuses_to_open ("rule=digits vocabulary=/bad.h5", KD_ERROR_FIELD, "field=token.text, wanted=the text (utf8) of each id, layout=\"token.count\"");
  refuses_to_open ("rule=rare vocabulary=/bad.h5", KD_ERROR_VALUE, "Not a count: element=kdprivacyscore");
  leaf_open (&leaf, "kdprivacyscore", "rule=digits", 1);
  leaf_put (&leaf, "label", KD_INT64, 1, 1, 0);
  leaf_refuses (&leaf, KD_ERROR_FIELD, "Property not set: element=kdprivacyscore, property=vocabulary");
  open_with (&leaf, "rule=digits", 1);
  leaf_put (&leaf, "label", KD_INT64, 1, 2, 0, 6);
  leaf_refuses (&leaf, KD_ERROR_RANGE, "Label beyond the vocabulary: element=kdprivacyscore, field=label, row=1, label=6, vocabulary=6");
  open_with (&leaf, "rule=rare", 1);
  leaf_refuses (&leaf, KD_ERROR_FIELD, "field=label");
  leaf_open (&leaf, "kdprivacyscore", "rule=field", 1);
  leaf_refuses (&leaf, KD_ERROR_FIELD, "Field missing: element=kdprivacyscore, field=entity.score");
  leaf_put (&leaf, "entity.score", KD_FLOAT32, 1, 0, 1.5);
  leaf_refuses (&leaf, KD_ERROR_VALUE, "Not a score: element=kdprivacyscore, field=entity.score, row=0, value=1.5, wanted=0 to 1");
  leaf_put (&leaf, "entity.score", KD_FLOAT32, 1, 0, NAN);
  leaf_refuses (&leaf, KD_ERROR_VALUE, "Not a score");
}
GST_END_TEST

static Suite *
kdprivacyscore_suite (void)
{
  Suite *s = suite_create ("kdprivacyscore");
  TCase *t = tcase_create ("all");

  suite_add_tcase (s, t);
  tcase_add_checked_fixture (t, setup, teardown);
  tcase_add_test (t, test_tokens);
  tcase_add_test (t, test_spans);
  tcase_add_test (t, test_refusals);
  return s;
}
GST_CHECK_MAIN (kdprivacyscore)
