#include "kd-graph.h"
#include "kd-leaf.h"

#include <string.h>

/* Row 0: the head for labels is right, row 1: the other one is; row 2 has no label. */
static void
put_rows (Leaf *leaf)
{
  leaf_batch (leaf, 3);
  leaf_put (leaf, "student.ce.logits", KD_FLOAT32, 3, 2, log (9), 0, 0, 0, 3, 1);
  leaf_put (leaf, "student.kd.logits", KD_FLOAT32, 3, 2, 0, log (3), 0, log (3), 1, 3);
  leaf_put (leaf, "label", KD_INT64, 3, 0, 0, 1, -1);
  leaf_put (leaf, "sample.id", KD_INT64, 3, 0, 10, 11, 12);
}

GST_START_TEST (test_fixed)
{
  g_auto (Leaf) leaf = { 0 };

  leaf_open (&leaf, "kddhocombine", "alpha=0.5 beta=0.5", 1);
  put_rows (&leaf);
  leaf_run_ok (&leaf);
  leaf_expect (&leaf, "student.probs", 0, 0.5 * 0.9 + 0.5 * 0.1); /* beta 1/2 makes 3 a 9 */
  leaf_expect (&leaf, "student.probs", 3, 0.5 * 0.5 + 0.5 * 0.9);
  leaf_expect (&leaf, "student.logits", 3, log (0.7));
  ck_assert (leaf_get (&leaf, "prediction", 0) == 0); /* the first of equals */
  ck_assert (leaf_get (&leaf, "prediction", 1) == 1);
  for (guint end = 0; end < 2; end++) { /* one head alone, also where the other has nothing to say */
    leaf_open (&leaf, "kddhocombine", end ? "alpha=1 ce-field=student.logits" : "alpha=0 beta=1 ce-field=student.logits", 1);
    put_rows (&leaf);
    leaf_put (&leaf, "student.logits", KD_FLOAT32, 3, 2, 2000, -2000, 0, 0, 0, 0);
    leaf_run_ok (&leaf);
    leaf_expect (&leaf, "student.probs", 0, end ? 1 : 0.25);
    leaf_expect (&leaf, "student.logits", 1, end ? -4000 : log (0.75));
  }
}
GST_END_TEST

/* By hand: with beta 1 (the first tried) alpha 0.5 gets both rows: row 0 mixes .9 and .25, row 1 .5 and .75. */
GST_START_TEST (test_search)
{
  g_auto (Leaf) leaf = { 0 };

  leaf_open (&leaf, "kddhocombine", "mode=search alpha-step=0.5 beta-grid=1,2", 1);
  put_rows (&leaf);
  leaf_run_ok (&leaf);
  leaf_conclude_ok (&leaf);
  ck_assert (leaf_get (&leaf, "best.alpha", 0) == 0.5 && leaf_get (&leaf, "best.beta", 0) == 1 && leaf_get (&leaf, "best.correct", 0) == 2);
  for (gsize i = 0; i < 6; i++) /* alpha 0: row 1; 0.5: both; 1: row 0 */
    ck_assert (leaf_get (&leaf, "correct_table", i) == ((gdouble[]) { 1, 2, 1, 1, 2, 1 })[i]);
  ck_assert (kd_tensor_n_elements (kd_batch_peek (leaf.batch, "best.sample.id")) == 2 && leaf_get (&leaf, "best.sample.id", 1) == 11);
  leaf_expect (&leaf, "student.probs", 0, 0.5 * 0.9 + 0.5 * 0.25); /* mixed by the best pair so far */
}
GST_END_TEST

/* After an epoch the best pair is told, once. */
GST_START_TEST (test_message)
{
  g_auto (Leaf) leaf = { 0 };
  const KdTransformDesc *desc;
  GstStructure *structure;
  gdouble alpha = 0, beta = 0;
  gint64 correct = 0, rows = 0;

  leaf_open (&leaf, "kddhocombine", "mode=search alpha-step=0.5 beta-grid=1,2", 1);
  desc = (const KdTransformDesc *) leaf.desc;
  ck_assert (desc->finish (&(KdCall) { .params = leaf.params, .state = leaf.state }) == NULL);
  put_rows (&leaf);
  leaf_run_ok (&leaf);
  structure = desc->finish (&(KdCall) { .params = leaf.params, .state = leaf.state });
  ck_assert (structure && gst_structure_get (structure, "best.alpha", G_TYPE_DOUBLE, &alpha, "best.beta", G_TYPE_DOUBLE, &beta, "best.correct", G_TYPE_INT64, &correct, "rows", G_TYPE_INT64, &rows, NULL));
  ck_assert (alpha == 0.5 && beta == 1 && correct == 2 && rows == 2);
  gst_structure_free (structure);
  ck_assert (desc->finish (&(KdCall) { .params = leaf.params, .state = leaf.state }) == NULL);
}
GST_END_TEST

/* Counts go on over batches and start again with another epoch. */
GST_START_TEST (test_stream)
{
  g_auto (Leaf) leaf = { 0 };

  leaf_open (&leaf, "kddhocombine", "mode=search", 1);
  for (guint i = 0; i < 3; i++) {
    put_rows (&leaf);
    leaf_run_ok (&leaf);
  }
  leaf_conclude_ok (&leaf);
  ck_assert (leaf_get (&leaf, "best.correct", 0) == 6);
  put_rows (&leaf);
  leaf.batch->epoch = 1;
  leaf_run_ok (&leaf);
  leaf_conclude_ok (&leaf);
  ck_assert (leaf_get (&leaf, "best.correct", 0) == 2);
  ck_assert (kd_tensor_n_elements (kd_batch_peek (leaf.batch, "best.sample.id")) == 2);
}
GST_END_TEST

GST_START_TEST (test_refusals)
{
  g_auto (Leaf) leaf = { 0 };
  g_autoptr (GError) error = NULL;

  leaf_open (&leaf, "kddhocombine", "mode=search", 1);
  put_rows (&leaf);
  kd_batch_remove (leaf.batch, "label");
  leaf_refuses (&leaf, KD_ERROR_FIELD, "Field missing: element=kddhocombine, field=label, mode=search; put a source with labels before it");
  ck_assert (!leaf_conclude (&leaf, &error) && g_error_matches (error, KD_ERROR, KD_ERROR_VALUE));
  ck_assert_str_eq (error->message, "Nothing to search on: element=kddhocombine, labelled rows=0; put a source with labels before it");
  put_rows (&leaf);
  leaf_put (&leaf, "label", KD_INT64, 3, 0, 0, 1, 2);
  leaf_refuses (&leaf, KD_ERROR_RANGE, "row=2, label=2, classes=2");
  put_rows (&leaf);
  leaf_put (&leaf, "student.kd.logits", KD_FLOAT32, 3, 2, 0, 0, 0, 0, NAN, 0);
  leaf_refuses (&leaf, KD_ERROR_VALUE, "Logits not finite: element=kddhocombine, field=student.kd.logits, row=2");
  leaf_open (&leaf, "kddhocombine", "beta-grid=1,0", 1);
  put_rows (&leaf);
  leaf_refuses (&leaf, KD_ERROR_RANGE, "property=beta-grid, value=\"1,0\", wanted=1 to 32 numbers above 0 to 100");
  leaf_open (&leaf, "kddhocombine", "beta-grid=,", 1);
  put_rows (&leaf);
  leaf_refuses (&leaf, KD_ERROR_RANGE, "Property is empty: element=kddhocombine, property=beta-grid");
}
GST_END_TEST

static gchar *folder;

/* "" or the error of kdh5src location=FOLDER/d.h5 @source ! kddhocombine @graph ! fakesink, with %F for the folder. */
static gchar *
run (const gchar *source, const gchar *graph)
{
  g_autofree gchar *text = g_strdup_printf ("kdh5src location=%%F/d.h5 %s ! kddhocombine %s ! fakesink", source, graph);
  g_auto (GStrv) parts = g_strsplit (text, "%F", -1);
  g_autofree gchar *whole = g_strjoinv (folder, parts);

  return kd_test_run (whole, NULL);
}

static void
write_rows (void)
{
  g_auto (Leaf) leaf = { 0 };
  const gchar *names[] = { "student.ce.logits", "student.kd.logits", "label", "sample.id" };
  KdTensor *tensors[4];
  g_autofree gchar *path = g_build_filename (folder, "d.h5", NULL);

  leaf_open (&leaf, "kddhocombine", "", 1);
  put_rows (&leaf);
  for (guint i = 0; i < 4; i++)
    tensors[i] = kd_batch_peek (leaf.batch, names[i]);
  kd_test_write (path, 4, names, tensors);
}

/* What a search writes is what a later graph uses, but not on the same labelled rows. */
GST_START_TEST (test_file)
{
  g_autofree gchar *ok = NULL, *same = NULL, *other = NULL, *allowed = NULL, *no_file = NULL, *no_search = NULL;
  g_autofree gchar *path = NULL;
  g_autoptr (KdH5Reader) reader = NULL;

  folder = kd_test_folder ();
  path = g_build_filename (folder, "best.h5", NULL);
  write_rows ();
  ok = run ("batch-size=2", "mode=search alpha-step=0.5 location=%F/best.h5");
  ck_assert_str_eq (ok, "");
  reader = kd_h5_reader_open (path, NULL, NULL);
  ck_assert (reader && !g_strcmp0 (kd_h5_reader_attribute (reader, "kd.element"), "kddhocombine"));
  same = run ("", "location=%F/best.h5");
  ck_assert (strstr (same, "Searched on the rows that are evaluated: element=kddhocombine, location=") && strstr (same, "sample.id=10"));
  other = run ("first=2", "location=%F/best.h5"); /* the row without a label */
  ck_assert_str_eq (other, "");
  allowed = run ("", "location=%F/best.h5 allow-same-rows=true");
  ck_assert_str_eq (allowed, "");
  no_file = run ("", "location=%F/none.h5");
  ck_assert (strstr (no_file, "none.h5"));
  no_search = run ("", "location=%F/d.h5");
  ck_assert (strstr (no_search, "No result of a search: path=") && strstr (no_search, "dataset=best.alpha"));
  kd_test_remove (folder);
  g_free (folder);
}
GST_END_TEST

KD_TESTS (kddhocombine, test_fixed, test_search, test_message, test_stream, test_refusals, test_file)
