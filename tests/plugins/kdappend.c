/* kdappend: which rows come, their labels, validation, resume, refusals. */
#include "kd-graph.h"

#include <gst/check/gstharness.h>
#include <string.h>

static gchar *folder;

/* FOLDER/@file: input [n,2] and sample.id with the numbers @first ..., with @labels label = sample.id % 10. */
static void
write_file (const gchar *file, gint64 n, gint64 first, gboolean labels, gint64 width)
{
  static const gchar *names[] = { "input", "sample.id", "label" };
  gint64 dims[2] = { n, width };
  KdTensor *tensors[3] = { kd_tensor_new (KD_FLOAT32, 2, dims), kd_tensor_new (KD_INT64, 1, dims), kd_tensor_new (KD_INT64, 1, dims) };
  g_autofree gchar *path = g_build_filename (folder, file, NULL);

  for (gint64 i = 0; i < n; i++) {
    for (gint64 j = 0; j < width; j++)
      ((gfloat *) tensors[0]->data)[width * i + j] = (gfloat) (first + i);
    ((gint64 *) tensors[1]->data)[i] = first + i;
    ((gint64 *) tensors[2]->data)[i] = (first + i) % 10;
  }
  kd_test_write (path, labels ? 3 : 2, names, tensors);
  for (guint i = 0; i < 3; i++)
    kd_tensor_unref (tensors[i]);
}

static void
setup (void)
{
  folder = kd_test_folder ();
  write_file ("many.h5", 8, 100, FALSE, 2);
  write_file ("few.h5", 5, 10, TRUE, 2);
}

static void
teardown (void)
{
  kd_test_remove (folder);
  g_clear_pointer (&folder, g_free);
}

/* (transfer full) "" or the error. %F is the folder. */
static gchar *
run (const gchar *source, const gchar *properties)
{
  g_autofree gchar *text = g_strdup_printf ("kdh5src location=%%F/many.h5 %s ! kdappend %s ! kdh5sink location=%%F/out.h5", source, properties);
  g_auto (GStrv) parts = g_strsplit (text, "%F", -1);
  g_autofree gchar *whole = g_strjoinv (folder, parts);

  return kd_test_run (whole, NULL);
}

/* (transfer full) a field of what the graph wrote. */
static KdTensor *
made (const gchar *source, const gchar *properties, const gchar *field)
{
  g_autofree gchar *message = run (source, properties), *path = g_build_filename (folder, "out.h5", NULL);
  g_autoptr (KdH5Reader) reader = NULL;
  KdTensor *tensor;

  ck_assert_str_eq (message, "");
  reader = kd_h5_reader_open (path, NULL, NULL);
  tensor = reader ? kd_h5_reader_read_all (reader, field, NULL) : NULL;
  ck_assert_msg (tensor != NULL, "no %s", field);
  return tensor;
}

static gint64
at (const KdTensor *tensor, gsize i)
{
  return (gint64) kd_tensor_get_double (tensor, i);
}

/* Two batches of 4 rows get 3 each: own rows have no label, the others theirs. */
GST_START_TEST (test_rows)
{
  g_autoptr (KdTensor) ids = made ("batch-size=4", "location=%F/few.h5 rows=3", "sample.id"), label = NULL, input = NULL;
  guint seen[5] = { 0 };

  label = made ("batch-size=4", "location=%F/few.h5 rows=3", "label");
  input = made ("batch-size=4", "location=%F/few.h5 rows=3", "input");
  ck_assert_int_eq (ids->dims[0], 14);
  for (gsize i = 0; i < 14; i++) {
    gsize in_batch = i % 7;
    ck_assert (at (input, 2 * i + 1) == at (ids, i));
    if (in_batch < 4) {
      ck_assert (at (ids, i) == (gint64) (100 + i / 7 * 4 + in_batch) && at (label, i) == -1);
    } else {
      ck_assert (at (label, i) == at (ids, i) % 10 && at (ids, i) >= 10 && at (ids, i) < 15);
      seen[at (ids, i) - 10]++;
    }
  }
  for (guint i = 0; i < 5; i++) /* six rows of five: each once before any comes again */
    ck_assert (seen[i] == 1 || seen[i] == 2);
}
GST_END_TEST

GST_START_TEST (test_range_and_seed)
{
  g_autoptr (KdTensor) ids = made ("batch-size=8", "location=%F/few.h5 rows=4 first=1 count=2", "sample.id");
  g_autoptr (KdTensor) a = made ("batch-size=1", "location=%F/few.h5 rows=5 seed=1", "sample.id"), b = NULL, again = NULL;

  for (gsize i = 8; i < 12; i++)
    ck_assert (at (ids, i) == 11 || at (ids, i) == 12);
  ck_assert (at (ids, 8) != at (ids, 9) && at (ids, 10) != at (ids, 11));
  b = made ("batch-size=1", "location=%F/few.h5 rows=5 seed=2", "sample.id");
  again = made ("batch-size=1", "location=%F/few.h5 rows=5 seed=1", "sample.id");
  ck_assert (kd_tensor_equal (a, again) && !kd_tensor_equal (a, b));
}
GST_END_TEST

/* Rows depend on the batch's index alone: batch 3 by itself, as a resumed run sends it, gets what it got in the whole run. */
GST_START_TEST (test_index)
{
  g_autoptr (KdTensor) whole = made ("batch-size=4 epochs=2", "location=%F/few.h5 rows=3", "sample.id");
  g_autofree gchar *launch = g_strdup_printf ("kdappend location=%s/few.h5 rows=3", folder);
  GstHarness *h = gst_harness_new_parse (launch);
  g_autoptr (KdLayout) layout = kd_layout_from_string ("input=float32:2 sample.id=int64", NULL);
  gint64 dims[2] = { 1, 2 };
  KdBatch *batch;
  GstBuffer *buffer = kd_batch_buffer_new (1, &batch);

  gst_harness_set_src_caps (h, kd_layout_to_caps (layout));
  kd_batch_set (batch, "input", kd_tensor_new_zero (KD_FLOAT32, 2, dims));
  kd_batch_set (batch, "sample.id", kd_tensor_new_zero (KD_INT64, 1, dims));
  batch->index = 3;
  buffer = gst_harness_push_and_pull (h, buffer);
  ck_assert (buffer != NULL && kd_batch_get (buffer)->n_samples == 4);
  for (gsize i = 0; i < 3; i++)
    ck_assert (at (kd_batch_peek (kd_batch_get (buffer), "sample.id"), 1 + i) == at (whole, 3 * 7 + 4 + i));
  ck_assert (at (whole, 4) != at (whole, 18) || at (whole, 5) != at (whole, 19) || at (whole, 6) != at (whole, 20));
  gst_buffer_unref (buffer);
  gst_harness_teardown (h);
}
GST_END_TEST

/* Validation rows stay alone, with the field that the layout promises. */
GST_START_TEST (test_validation)
{
  g_autoptr (KdTensor) label = made ("batch-size=4 validation=true", "location=%F/few.h5", "label");

  ck_assert_int_eq (label->dims[0], 8);
  for (gsize i = 0; i < 8; i++)
    ck_assert (at (label, i) == -1);
}
GST_END_TEST

/* Labels that the stream has stay its own. */
GST_START_TEST (test_labels_of_the_stream)
{
  g_autoptr (KdTensor) label = NULL;

  write_file ("many.h5", 8, 100, TRUE, 2);
  label = made ("batch-size=8", "location=%F/few.h5 rows=2", "label");
  for (gsize i = 0; i < 8; i++)
    ck_assert (at (label, i) == (gint64) i);
}
GST_END_TEST

static void
refuses (const gchar *source, const gchar *properties, const gchar *part)
{
  g_autofree gchar *message = run (source, properties);

  ck_assert_msg (strstr (message, part) != NULL, "%s\nerror: \"%s\"\nis without: \"%s\"", properties, message, part);
}

GST_START_TEST (test_refusals)
{
  refuses ("", "", "No file given: element=kdappend");
  refuses ("", "location=%F/none.h5", "none.h5");
  refuses ("", "location=%F/few.h5 first=5", "rows=5, first=5, count=0");
  refuses ("", "location=%F/few.h5 first=3 count=3", "Range outside the file: element=kdappend");
  write_file ("wide.h5", 5, 10, TRUE, 3);
  refuses ("", "location=%F/wide.h5", "field=input, stream=float32:2, file=float32:3");
  write_file ("many.h5", 8, 100, TRUE, 2);
  write_file ("few.h5", 5, 10, FALSE, 2);
  refuses ("", "location=%F/few.h5", "Field not in the file: element=kdappend");
  refuses ("", "location=%F/few.h5", "field=label");
}
GST_END_TEST

static Suite *
kdappend_suite (void)
{
  Suite *s = suite_create ("kdappend");
  TCase *t = tcase_create ("all");

  suite_add_tcase (s, t);
  tcase_add_checked_fixture (t, setup, teardown);
  tcase_add_test (t, test_rows);
  tcase_add_test (t, test_range_and_seed);
  tcase_add_test (t, test_index);
  tcase_add_test (t, test_validation);
  tcase_add_test (t, test_labels_of_the_stream);
  tcase_add_test (t, test_refusals);
  return s;
}

GST_CHECK_MAIN (kdappend)
