/* KdBatch: the table, its copies, and the memory that counts. */
#include "kd-check.h"

static KdTensor *
column (gint64 n, gint64 first)
{
  KdTensor *tensor = kd_tensor_new (KD_INT64, 1, &n);

  for (gint64 i = 0; i < n; i++)
    ((gint64 *) tensor->data)[i] = first + i;
  return tensor;
}

GST_START_TEST (size_is_the_sum_and_cannot_be_mapped)
{
  KdBatch *batch;
  g_autoptr (GstBuffer) buffer = kd_batch_buffer_new (4, &batch);
  GstMapInfo map;

  kd_batch_set (batch, "sample.id", column (4, 0));
  kd_batch_set (batch, "label", column (4, 9));
  kd_batch_update_size (buffer);
  ck_assert_uint_eq (gst_buffer_get_size (buffer), 64);
  ck_assert (!gst_buffer_map (buffer, &map, GST_MAP_READ));
  kd_batch_remove (batch, "label");
  kd_batch_update_size (buffer);
  ck_assert_uint_eq (gst_buffer_get_size (buffer), 32);
}
GST_END_TEST

GST_START_TEST (forty_fields_stay_apart)
{
  KdBatch *batch;
  g_autoptr (GstBuffer) buffer = kd_batch_buffer_new (1, &batch);

  for (gint i = 0; i < 40; i++) {
    g_autofree gchar *name = g_strdup_printf ("f%d", i);
    kd_batch_set (batch, name, column (1, i));
  }
  ck_assert_uint_eq (gst_buffer_n_memory (buffer), 1);
  ck_assert_int_eq (*(gint64 *) kd_batch_peek (batch, "f37")->data, 37);
}
GST_END_TEST

GST_START_TEST (a_copy_shares_tensors_but_no_tape)
{
  KdBatch *batch, *copied;
  g_autoptr (GstBuffer) buffer = kd_batch_buffer_new (2, &batch);
  g_autoptr (GstBuffer) copy = NULL;
  gboolean freed = FALSE;

  batch->epoch = 3;
  batch->cursor = 17;
  kd_batch_set (batch, "label", column (2, 5));
  kd_batch_set_note (batch, "tape", &freed, NULL);
  copy = gst_buffer_copy (buffer);
  copied = kd_batch_get (copy);
  ck_assert_ptr_eq (kd_batch_peek (batch, "label"), kd_batch_peek (copied, "label"));
  ck_assert_uint_eq (copied->epoch, 3);
  ck_assert_uint_eq (copied->cursor, 17);
  ck_assert_ptr_null (kd_batch_get_note (copied, "tape"));
  kd_batch_remove (copied, "label");
  ck_assert_ptr_nonnull (kd_batch_peek (batch, "label"));
}
GST_END_TEST

GST_START_TEST (rows_are_taken_everywhere)
{
  KdBatch *batch;
  g_autoptr (GstBuffer) buffer = kd_batch_buffer_new (3, &batch);
  gint64 rows[2] = { 2, 0 };

  kd_batch_set (batch, "sample.id", column (3, 10));
  kd_batch_set (batch, "loss", kd_tensor_new_scalar (1.5));
  kd_batch_take_rows (batch, rows, 2);
  ck_assert_int_eq (batch->n_samples, 2);
  ck_assert_int_eq (((gint64 *) kd_batch_peek (batch, "sample.id")->data)[0], 12);
  ck_assert_uint_eq (kd_batch_peek (batch, "loss")->rank, 0);
}
GST_END_TEST

GST_START_TEST (reads_are_counted)
{
  KdBatch *batch;
  g_autoptr (GstBuffer) buffer = kd_batch_buffer_new (1, &batch);

  kd_batch_set (batch, "teacher.logits", column (1, 0));
  kd_batch_peek (batch, "teacher.logits");
  ck_assert_uint_eq (kd_batch_nth (batch, 0)->n_reads, 0);
  kd_batch_read (batch, "teacher.logits");
  ck_assert_uint_eq (kd_batch_nth (batch, 0)->n_reads, 1);
  ck_assert_ptr_null (kd_batch_read (batch, "nothing"));
}
GST_END_TEST

static Suite *
batch_suite (void)
{
  Suite *suite = suite_create ("batch");
  TCase *tcase = tcase_create ("batch");

  suite_add_tcase (suite, tcase);
  tcase_add_test (tcase, size_is_the_sum_and_cannot_be_mapped);
  tcase_add_test (tcase, forty_fields_stay_apart);
  tcase_add_test (tcase, a_copy_shares_tensors_but_no_tape);
  tcase_add_test (tcase, rows_are_taken_everywhere);
  tcase_add_test (tcase, reads_are_counted);
  return suite;
}

GST_CHECK_MAIN (batch)
