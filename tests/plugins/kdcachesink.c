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

static gchar *
encoding_of (const gchar *field)
{
  g_autoptr (KdCacheReader) reader = open_cache ();
  const KdCacheEncoding *encoding = kd_cache_reader_encoding (reader, field);

  return g_strdup (encoding ? encoding->name : "keep");
}

/* Words for one field outdo those for all; what is no float is left alone. */
GST_START_TEST (test_encodings)
{
  g_autofree gchar *logits = NULL, *x = NULL, *layout = NULL;
  g_autoptr (KdCacheReader) reader = NULL;
  g_autoptr (KdTensor) tensor = NULL;
  const gint64 row = 0;

  run_well ("kdh5src location=DATA ! kdcachesink location=CACHE encoding=\"bfloat16,teacher.logits=logprob8\" fields=teacher.logits,x");
  logits = encoding_of ("teacher.logits");
  x = encoding_of ("x");
  ck_assert_str_eq (logits, "logprob8");
  ck_assert_str_eq (x, "bfloat16");
  reader = open_cache ();
  layout = kd_layout_to_string (kd_cache_reader_layout (reader));
  ck_assert_str_eq (layout, "teacher.logits=float32:2 x=bfloat16");
  tensor = kd_cache_reader_take (reader, "teacher.logits", 1, &row, NULL);
  kd_assert_close (kd_tensor_get_double (tensor, 0) - kd_tensor_get_double (tensor, 1), -1, 0.01);
}
GST_END_TEST;

/* The two logits are 10 id and 10 id + 1: the largest is the second. */
GST_START_TEST (test_topk)
{
  g_autoptr (KdCacheReader) reader = NULL;
  g_autofree gchar *layout = NULL, *ids = NULL, *logprobs = NULL, *lse = NULL;
  g_autoptr (KdTensor) tensor = NULL;
  const KdCacheEncoding *encoding;
  const gint64 id = 3;
  gint64 row;

  run_well ("kdh5src location=DATA batch-size=7 ! kdcachesink location=CACHE encoding=topk k=1");
  reader = open_cache ();
  layout = kd_layout_to_string (kd_cache_reader_layout (reader));
  ck_assert_str_eq (layout, "teacher.topk.ids=int64:1 teacher.topk.logprobs=float32:1 teacher.topk.lse=float32");
  ids = encoding_of ("teacher.topk.ids");
  logprobs = encoding_of ("teacher.topk.logprobs");
  lse = encoding_of ("teacher.topk.lse");
  ck_assert_str_eq (ids, "index16");
  ck_assert_str_eq (logprobs, "float16");
  ck_assert_str_eq (lse, "keep");
  ck_assert_int_eq (kd_cache_reader_find (reader, 1, &id, NULL, &row), 0);
  tensor = kd_cache_reader_take (reader, "teacher.topk.ids", 1, &row, NULL);
  ck_assert_int_eq (*(gint64 *) tensor->data, 1);
  encoding = kd_cache_reader_encoding (reader, "teacher.topk.logprobs");
  kd_assert_close (encoding->mean_tail, 1 / (1 + exp (1)), 1e-5);
  ck_assert_int_eq (encoding->n_rows, 100);
}
GST_END_TEST;

/* Cut down in the sink or by an element before it: the same rows. */
GST_START_TEST (test_topk_is_the_element)
{
  g_autofree gchar *first = g_strdup (cache), *text = NULL;
  g_autoptr (KdCacheReader) a = NULL, b = NULL;
  const gint64 rows[] = { 0, 50, 99 };

  run_well ("kdh5src location=DATA ! kdcachesink location=CACHE encoding=topk,teacher.topk.logprobs=keep k=2");
  a = open_cache ();
  g_free (cache);
  cache = g_build_filename (folder, "second.h5", NULL);
  run_well ("kdh5src location=DATA ! kdlogittopk k=2 ! kdcachesink location=CACHE");
  b = open_cache ();
  for (guint i = 0; i < kd_layout_n_fields (kd_cache_reader_layout (a)); i++) {
    const gchar *name = kd_layout_nth (kd_cache_reader_layout (a), i)->name;
    g_autoptr (KdTensor) x = kd_cache_reader_take (a, name, 3, rows, NULL), y = kd_cache_reader_take (b, name, 3, rows, NULL);
    ck_assert_msg (kd_tensor_equal (x, y), "%s", name);
  }
}
GST_END_TEST;

GST_START_TEST (test_sampled)
{
  g_autoptr (KdCacheReader) reader = NULL;
  g_autofree gchar *layout = NULL;
  g_autoptr (KdTensor) weights = NULL;
  const gint64 row = 5;

  run_well ("kdh5src location=DATA ! kdcachesink location=CACHE encoding=sampled k=8 seed=3");
  reader = open_cache ();
  layout = kd_layout_to_string (kd_cache_reader_layout (reader));
  ck_assert_str_eq (layout, "teacher.sampled.ids=int64:8 teacher.sampled.weights=float32:8");
  weights = kd_cache_reader_take (reader, "teacher.sampled.weights", 1, &row, NULL);
  kd_assert_close (kd_tensor_get_double (weights, 0) + kd_tensor_get_double (weights, 1), 1, 1e-3);
}
GST_END_TEST;

GST_START_TEST (test_encoding_refuses)
{
  run_badly ("kdh5src location=DATA ! kdcachesink location=CACHE encoding=float8", "encoding=\"float8\", reason=unknown encoding; wanted words NAME or FIELD=NAME");
  run_badly ("kdh5src location=DATA ! kdcachesink location=CACHE encoding=teacher.logit=float16", "encoding=\"teacher.logit=float16\", reason=no such field is kept");
  run_badly ("kdh5src location=DATA ! kdcachesink location=CACHE encoding=index32", "reason=no field is kept that it is for");
  run_badly ("kdh5src location=DATA ! kdcachesink location=CACHE encoding=topk,sampled", "encoding=\"sampled\", reason=the logits are cut down already");
  run_badly ("kdh5src location=DATA ! kdcachesink location=CACHE fields=x encoding=topk", "field=teacher.logits");
  run_badly ("kdh5src location=DATA ! kdcachesink location=CACHE encoding=topk k=3", "property=k, value=3, wanted=1 to the vocabulary's 2");
  run_badly ("kdh5src location=DATA ! kdcachesink location=CACHE encoding=x=logprob8 fields=x", "encoding=logprob8, dtype=float32, rank=1, wanted=float32, float16 or bfloat16 rows");
  run_well ("kdh5src location=DATA count=40 ! kdcachesink location=CACHE encoding=float16 resume=true");
  run_badly ("kdh5src location=DATA ! kdcachesink location=CACHE encoding=bfloat16 resume=true", "field=teacher.logits, cache=float16, now=bfloat16; go on with the cache's");
  run_well ("kdh5src location=DATA ! kdcachesink location=CACHE encoding=float16 resume=true");
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

/* The last report of a capture: all rows committed, their size as stored, and a share of waiting that is a share. */
GST_START_TEST (test_progress)
{
  g_autofree gchar *graph = g_strdup_printf ("kdh5src location=%s ! kdcachesink location=%s encoding=float16 part-bytes=300", data, cache);
  GstElement *pipeline = gst_parse_launch (graph, NULL);
  g_autoptr (GstBus) bus = gst_element_get_bus (pipeline);
  gint64 committed = 0;
  gdouble wait = -1, rate = 0, bytes = 0;

  gst_element_set_state (pipeline, GST_STATE_PLAYING);
  for (gboolean done = FALSE; !done;) {
    g_autoptr (GstMessage) message = gst_bus_timed_pop_filtered (bus, 100 * GST_SECOND, GST_MESSAGE_EOS | GST_MESSAGE_ERROR | GST_MESSAGE_ELEMENT);
    ck_assert (message && GST_MESSAGE_TYPE (message) != GST_MESSAGE_ERROR);
    done = GST_MESSAGE_TYPE (message) == GST_MESSAGE_EOS;
    if (gst_message_has_name (message, "kd-progress"))
      gst_structure_get (gst_message_get_structure (message), "committed", G_TYPE_INT64, &committed, "disk-wait", G_TYPE_DOUBLE, &wait, "samples-per-second", G_TYPE_DOUBLE, &rate,
          "bytes-per-second", G_TYPE_DOUBLE, &bytes, NULL);
  }
  gst_element_set_state (pipeline, GST_STATE_NULL);
  gst_object_unref (pipeline);
  ck_assert_int_eq (committed, 100);
  ck_assert (wait > 0 && wait <= 1); /* the last part is always waited for */
  kd_assert_close (bytes / rate, 2 * 2 + 16, 1e-9);
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
  tcase_add_test (t, test_encodings);
  tcase_add_test (t, test_topk);
  tcase_add_test (t, test_topk_is_the_element);
  tcase_add_test (t, test_sampled);
  tcase_add_test (t, test_encoding_refuses);
  tcase_add_test (t, test_resume);
  tcase_add_test (t, test_stopped);
  tcase_add_test (t, test_progress);
  tcase_add_test (t, test_refuses);
  suite_add_tcase (s, t);
  return s;
}

GST_CHECK_MAIN (kdcachesink)
