/* kdcachesink: what a capture keeps, goes on with, and refuses. */
#include "kd-cache-graph.h"

static KdCacheReader *
open_cache (void)
{
  GError *error = NULL;
  KdCacheReader *reader = kd_cache_reader_open (cache, &error);

  kd_assert_no_error (error);
  return reader;
}

GST_START_TEST (test_capture)
{
  g_autoptr (KdCacheReader) reader = NULL;
  g_autoptr (KdTensor) tensor = NULL;
  const gint64 id = 42;
  gint64 row;
  const KdCacheIdentity *identity;

  run_well ("kdh5src location=DATA shuffle=true batch-size=7 ! kdcachesink location=CACHE part-bytes=500");
  reader = open_cache ();
  ck_assert_int_eq (kd_cache_reader_n_rows (reader), 100);
  ck_assert (kd_cache_reader_complete (reader));
  ck_assert_int_eq (kd_cache_reader_find (reader, 1, &id, NULL, &row), 0);
  tensor = kd_cache_reader_take (reader, "teacher.logits", 1, &row, NULL);
  kd_assert_close (kd_tensor_get_double (tensor, 1), 421, 0);
  identity = kd_cache_reader_identity (reader);
  ck_assert_uint_eq (strlen (identity->dataset), 64);
  ck_assert (strstr (identity->dataset_spec, "d.h5") != NULL);
  ck_assert_str_eq (identity->preprocessing, "");
}
GST_END_TEST;

GST_START_TEST (test_stored_precision)
{
  g_autoptr (KdCacheReader) reader = NULL;
  g_autofree gchar *layout = NULL;

  run_well ("kdh5src location=DATA ! kdcachesink location=CACHE dtype=float16 fields=teacher.logits,x");
  reader = open_cache ();
  layout = kd_layout_to_string (kd_cache_reader_layout (reader));
  ck_assert_str_eq (layout, "teacher.logits=float16:2 x=float16");
}
GST_END_TEST;

/* Rows that are there are neither written again nor read from the source. */
GST_START_TEST (test_resume)
{
  g_autoptr (KdCacheReader) reader = NULL;

  run_well ("kdh5src location=DATA count=40 ! kdcachesink location=CACHE resume=true");
  run_well ("kdh5src location=DATA ! kdcachesink location=CACHE resume=true");
  run_well ("kdh5src location=DATA ! queue ! kdcachesink location=CACHE resume=true");
  reader = open_cache ();
  ck_assert_int_eq (kd_cache_reader_n_rows (reader), 100);
  ck_assert (kd_cache_reader_complete (reader));
}
GST_END_TEST;

/* Stopped half way: the rows are there, the cache says that it is not complete. */
GST_START_TEST (test_stopped)
{
  g_autofree gchar *graph = g_strdup_printf ("kdh5src name=s location=%s batch-size=1 epochs=1000000 ! kdcachesink location=%s", data, cache);
  GstElement *pipeline = gst_parse_launch (graph, NULL);
  g_autoptr (GstBus) bus = gst_element_get_bus (pipeline);
  g_autoptr (GstMessage) message = NULL;
  g_autoptr (KdCacheReader) reader = NULL;

  gst_element_set_state (pipeline, GST_STATE_PLAYING);
  g_usleep (200000);
  gst_element_send_event (pipeline, gst_event_new_eos ());
  message = gst_bus_timed_pop_filtered (bus, 100 * GST_SECOND, GST_MESSAGE_EOS | GST_MESSAGE_ERROR);
  ck_assert_int_eq (GST_MESSAGE_TYPE (message), GST_MESSAGE_EOS);
  gst_element_set_state (pipeline, GST_STATE_NULL);
  gst_object_unref (pipeline);
  reader = open_cache ();
  ck_assert_int_gt (kd_cache_reader_n_rows (reader), 0);
  ck_assert (!kd_cache_reader_complete (reader));
}
GST_END_TEST;

GST_START_TEST (test_refuses)
{
  run_badly ("kdh5src location=DATA ! kdcachesink", "property=location");
  run_badly ("kdh5src location=DATA fields=x ! kdcachesink location=CACHE", "field=teacher.logits, layout=\"sample.id x\"; put kdcache");
  run_badly ("kdh5src location=DATA ! kdcachesink location=CACHE fields=teacher.hidden", "field=teacher.hidden");
  run_badly ("kdh5src location=DATA ! kdcachesink location=/proc/none/t.h5", "path=\"/proc/none/t.h5\"");
  run_well ("kdh5src location=DATA ! kdcachesink location=CACHE");
  run_badly ("kdh5src location=DATA ! kdcachesink location=CACHE", "a cache is there already; go on with it (resume=true)");
  run_badly ("kdh5src location=DATA ! kdnoise std=0.1 field=x ! kdcachesink location=CACHE resume=true", "Cache is of another preprocessing");
  write_data (data, 101);
  run_badly ("kdh5src location=DATA ! kdcachesink location=CACHE resume=true", "Cache is of another dataset: path=");
}
GST_END_TEST;

static Suite *
kdcachesink_suite (void)
{
  Suite *s = suite_create (KD_TEST_NAME);
  TCase *t = tcase_create ("kdcachesink");

  tcase_add_checked_fixture (t, make_data, remove_data);
  tcase_add_test (t, test_capture);
  tcase_add_test (t, test_stored_precision);
  tcase_add_test (t, test_resume);
  tcase_add_test (t, test_stopped);
  tcase_add_test (t, test_refuses);
  suite_add_tcase (s, t);
  return s;
}

GST_CHECK_MAIN (kdcachesink)
