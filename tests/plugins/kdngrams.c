/* Bags of character n-grams: places and signs from an independent hash, folding, hostile texts. */
#include "kd-leaf.h"

#include <math.h>
#include <string.h>

static void
put_text (Leaf *leaf, const gchar *name, gint64 n, const gchar *const *texts)
{
  gint64 offsets[9] = { 0 };
  g_autoptr (GString) bytes = g_string_new (NULL);

  for (gint64 i = 0; i < n; i++) {
    g_string_append (bytes, texts[i]);
    offsets[i + 1] = (gint64) bytes->len;
  }
  kd_batch_set (leaf->batch, name, kd_tensor_new_utf8 (n, offsets, bytes->str));
}

static gdouble
row_sum (const Leaf *leaf, gint64 row, gint64 dims, gint power)
{
  gdouble sum = 0;

  for (gint64 v = 0; v < dims; v++)
    sum += pow (leaf_get (leaf, "input", (gsize) (row * dims + v)), power);
  return sum;
}

/* Hashes made by a few lines of Python: " a" 83064 +, "ab" 60039 -, "b " 84438 +, " \u00e4" 66355 +, "\u00e4 " 90081 -, modulo 100003. */
GST_START_TEST (test_places_and_signs)
{
  const gint64 dims = 100003;
  g_auto (Leaf) leaf = { 0 };

  leaf_open (&leaf, "kdngrams", "dims=100003 shortest=2 longest=2 normalize=false", 3);
  put_text (&leaf, "text", 3, (const gchar *[]) { "ab", "abab", "\u00c4" });
  leaf_run_ok (&leaf);
  ck_assert (leaf_get (&leaf, "input", 83064) == 1 && leaf_get (&leaf, "input", 60039) == -1 && leaf_get (&leaf, "input", 84438) == 1);
  ck_assert (row_sum (&leaf, 0, dims, 2) == 3);
  ck_assert (leaf_get (&leaf, "input", (gsize) dims + 60039) == -2);
  ck_assert (leaf_get (&leaf, "input", 2 * (gsize) dims + 66355) == 1 && leaf_get (&leaf, "input", 2 * (gsize) dims + 90081) == -1);
  ck_assert (row_sum (&leaf, 2, dims, 2) == 2);
}
GST_END_TEST

/* Case and white space do not count; what has no n-gram is 0; rows have length 1. */
GST_START_TEST (test_folding_and_length)
{
  static const gchar *const texts[] = { "How do I pay", "  how\tdo\n\ni PAY ", "how do i play", "", "a" };
  const gint64 dims = 64;
  g_auto (Leaf) leaf = { 0 };
  gdouble apart = 0;

  leaf_open (&leaf, "kdngrams", "field=question dims=64 shortest=3 longest=5", 5);
  put_text (&leaf, "question", 5, texts);
  leaf_run_ok (&leaf);
  for (gint64 v = 0; v < dims; v++) {
    ck_assert (leaf_get (&leaf, "input", (gsize) v) == leaf_get (&leaf, "input", (gsize) (dims + v)));
    apart += fabs (leaf_get (&leaf, "input", (gsize) v) - leaf_get (&leaf, "input", (gsize) (2 * dims + v)));
  }
  ck_assert (apart > 0.1);
  for (gint64 row = 0; row < 5; row++)
    ck_assert_msg (fabs (row_sum (&leaf, row, dims, 2) - (row == 3 ? 0 : 1)) < 1e-6, "row %d: %g", (gint) row, row_sum (&leaf, row, dims, 2));
}
GST_END_TEST

GST_START_TEST (test_refusals)
{
  g_auto (Leaf) leaf = { 0 };

  leaf_open (&leaf, "kdngrams", "shortest=4 longest=3", 1);
  put_text (&leaf, "text", 1, (const gchar *[]) { "a" });
  leaf_refuses (&leaf, KD_ERROR_RANGE, "Lengths not allowed: element=kdngrams, shortest=4, longest=3");
  leaf_open (&leaf, "kdngrams", "", 2);
  put_text (&leaf, "text", 2, (const gchar *[]) { "good", "ba\xff"
                                                          "d" });
  leaf_refuses (&leaf, KD_ERROR_VALUE, "Text is not UTF-8: element=kdngrams, field=text, row=1, byte=2 of 4");
  leaf_open (&leaf, "kdngrams", "", 2);
  put_text (&leaf, "text", 2, (const gchar *[]) { "good", "cut \xe2\x82" });
  leaf_refuses (&leaf, KD_ERROR_VALUE, "row=1, byte=4 of 6");
  leaf_open (&leaf, "kdngrams", "", 1);
  leaf_put (&leaf, "text", KD_FLOAT32, 1, 0, 1.0);
  leaf_refuses (&leaf, KD_ERROR_DTYPE, "text");
  leaf_open (&leaf, "kdngrams", "field=prompt", 1);
  put_text (&leaf, "text", 1, (const gchar *[]) { "a" });
  leaf_refuses (&leaf, KD_ERROR_FIELD, "prompt");
}
GST_END_TEST

KD_TESTS (kdngrams, test_places_and_signs, test_folding_and_length, test_refusals)
