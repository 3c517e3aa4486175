/* kdcache: rows by key whatever their order, missing rows three ways, stale and damaged caches. */
#include "kd-cache-graph.h"

static void
capture (const gchar *range)
{
  g_autofree gchar *graph = g_strdup_printf ("kdh5src location=DATA shuffle=true %s ! kdcachesink location=CACHE part-bytes=300", range);

  run_well (graph);
}

/* (transfer full) the column of OUT. */
static KdTensor *
read_out (const gchar *field)
{
  GError *error = NULL;
  g_autoptr (KdH5Reader) reader = kd_h5_reader_open (out, NULL, &error);
  KdTensor *tensor;

  kd_assert_no_error (error);
  tensor = kd_h5_reader_read_all (reader, field, &error);
  kd_assert_no_error (error);
  return tensor;
}

GST_START_TEST (test_joins_by_key)
{
  g_autoptr (KdTensor) ids = NULL, logits = NULL;

  capture ("seed=1");
  run_well ("kdh5src location=DATA shuffle=true seed=5 fields=x batch-size=9 ! kdcache location=CACHE ! kdh5sink location=OUT");
  ids = read_out ("sample.id");
  logits = read_out ("teacher.logits");
  ck_assert_int_eq (ids->dims[0], 100);
  for (gint64 i = 0; i < 100; i++)
    ck_assert (((gfloat *) logits->data)[2 * i + 1] == (gfloat) (10 * ((gint64 *) ids->data)[i] + 1));
}
GST_END_TEST;

GST_START_TEST (test_missing_is_an_error)
{
  capture ("count=60");
  run_badly ("kdh5src location=DATA fields=x ! kdcache location=CACHE ! kdh5sink location=OUT",
      "sample.id=60, sample.view=0, missing=4 of 64 in this batch; capture them");
  run_badly ("kdh5src location=DATA fields=x batch-size=50 ! kdcache location=CACHE ! kdh5sink location=OUT", "missing=40 of 50");
  /* The first batch came, but not the whole. */
  ck_assert (!g_file_test (out, G_FILE_TEST_EXISTS));
}
GST_END_TEST;

GST_START_TEST (test_drops_missing)
{
  g_autoptr (KdTensor) ids = NULL;

  capture ("first=30 count=10");
  run_well ("kdh5src location=DATA fields=x batch-size=8 ! kdcache location=CACHE on-miss=drop ! kdh5sink location=OUT");
  ids = read_out ("sample.id");
  ck_assert_int_eq (ids->dims[0], 10);
  ck_assert_int_eq (((gint64 *) ids->data)[0], 30);
}
GST_END_TEST;

static KdTensor *
gradient_of (const gchar *graph)
{
  g_autoptr (KdH5Reader) reader = NULL;
  KdTensor *gradient;
  GError *error = NULL;

  run_well (graph);
  reader = kd_h5_reader_open (out, NULL, &error);
  kd_assert_no_error (error);
  gradient = kd_h5_reader_read_all (reader, "grad.student.logits", &error);
  kd_assert_no_error (error);
  return gradient;
}

/* What a cut-down cache holds goes into the loss as it is: with every id kept, the gradient is that of the whole logits but for the
 * encoding's error. */
GST_START_TEST (test_sparse_into_loss)
{
  gint64 n = 100, dims[] = { n, 2 };
  KdTensor *tensors[] = { kd_tensor_new (KD_INT64, 1, &n), kd_tensor_new (KD_FLOAT32, 2, dims), kd_tensor_new (KD_FLOAT32, 2, dims) };
  const gchar *names[] = { "sample.id", "teacher.logits", "student.logits" };
  static const gchar *const encodings[] = { "topk", "topk,teacher.topk.logprobs=logprob8", "topk,teacher.topk.logprobs=bfloat16", "sampled" };
  g_autoptr (KdTensor) whole = NULL;

  for (gint64 i = 0; i < n; i++)
    ((gint64 *) tensors[0]->data)[i] = i;
  for (gint64 i = 0; i < 2 * n; i++) {
    ((gfloat *) tensors[1]->data)[i] = (gfloat) sin ((gdouble) i);
    ((gfloat *) tensors[2]->data)[i] = (gfloat) cos ((gdouble) i);
  }
  kd_test_write (data, 3, names, tensors);
  for (guint i = 0; i < 3; i++)
    kd_tensor_unref (tensors[i]);
  whole = gradient_of ("kdh5src location=DATA batch-size=100 ! kddivergence ! kdh5sink location=OUT");
  for (guint i = 0; i < G_N_ELEMENTS (encodings); i++) {
    g_autofree gchar *capture = g_strdup_printf ("kdh5src location=DATA fields=teacher.logits ! kdcachesink location=CACHE encoding=\"%s\" k=%d", encodings[i], i == 3 ? 4000 : 2);
    g_autoptr (KdTensor) got = NULL;
    run_well (capture);
    got = gradient_of ("kdh5src location=DATA fields=student.logits batch-size=100 ! kdcache location=CACHE ! kddivergence ! kdh5sink location=OUT");
    for (gsize k = 0; k < 200; k++) /* each of 100 rows weighs 1/100 */
      kd_assert_close (100 * kd_tensor_get_double (got, k), 100 * kd_tensor_get_double (whole, k), i == 0 ? 1e-3 : i == 3 ? 5e-2
                                                                                                                          : 5e-3);
    {
      g_autofree gchar *parts = g_strconcat (cache, ".parts", NULL);
      kd_test_remove (parts);
      remove (cache);
    }
  }
}
GST_END_TEST;

/* Several teachers: each cache under its name, from the same file of rows. */
GST_START_TEST (test_several_teachers)
{
  g_autoptr (KdH5Reader) reader = NULL;
  g_autoptr (KdTensor) a = NULL, b = NULL, hit = NULL;
  GError *error = NULL;

  run_well ("kdh5src location=DATA ! kdcachesink location=CACHE");
  run_well ("kdh5src location=DATA fields=x ! kdcache location=CACHE teacher=a ! kdcache location=CACHE teacher=b on-miss=pass ! kdh5sink location=OUT");
  reader = kd_h5_reader_open (out, NULL, &error);
  kd_assert_no_error (error);
  a = kd_h5_reader_read_all (reader, "teacher.a.logits", &error);
  b = kd_h5_reader_read_all (reader, "teacher.b.logits", &error);
  hit = kd_h5_reader_read_all (reader, "cache.b.hit", &error);
  kd_assert_no_error (error);
  ck_assert (kd_tensor_equal (a, b));
  kd_assert_close (kd_tensor_get_double (a, 199), 991, 0);
  ck_assert_int_eq (hit->dims[0], 100);
}
GST_END_TEST;

GST_START_TEST (test_teacher_refuses)
{
  run_well ("kdh5src location=DATA ! kdcachesink location=CACHE");
  run_badly ("kdh5src location=DATA fields=x ! kdcache location=CACHE ! kdcache location=CACHE ! fakesink", "Field there already: element=kdcache");
  run_badly ("kdh5src location=DATA fields=x ! kdcache location=CACHE teacher=A ! fakesink", "property=teacher, value=\"A\", wanted=lower case letters");
  run_badly ("kdh5src location=DATA fields=x ! kdcache location=CACHE teacher=a.b ! fakesink", "property=teacher, value=\"a.b\"");
}
GST_END_TEST;

GST_START_TEST (test_passes_missing)
{
  g_autoptr (KdTensor) hit = NULL, logits = NULL;

  capture ("first=30 count=10");
  run_well ("kdh5src location=DATA fields=x batch-size=8 ! kdcache location=CACHE on-miss=pass ! kdh5sink location=OUT");
  hit = read_out ("cache.hit");
  logits = read_out ("teacher.logits");
  for (gint64 i = 0; i < 100; i++) {
    gboolean there = i >= 30 && i < 40;
    ck_assert_int_eq (((guint8 *) hit->data)[i], there);
    ck_assert (there ? ((gfloat *) logits->data)[2 * i] == (gfloat) (10 * i) : isnan (((gfloat *) logits->data)[2 * i]));
  }
}
GST_END_TEST;

GST_START_TEST (test_stale)
{
  capture ("");
  run_badly ("kdh5src location=DATA fields=x ! kdnoise field=x std=0.5 ! kdcache location=CACHE ! fakesink", "Cache is of another preprocessing: path=");
  write_data (data, 99);
  run_badly ("kdh5src location=DATA fields=x ! kdcache location=CACHE ! kdh5sink location=OUT", "Cache is of another dataset: path=");
  run_well ("kdh5src location=DATA fields=x ! kdcache location=CACHE check-identity=false ! kdh5sink location=OUT");
}
GST_END_TEST;

GST_START_TEST (test_refuses)
{
  g_autofree gchar *part = NULL, *bytes = NULL;
  gsize size;

  run_badly ("kdh5src location=DATA ! kdcache ! fakesink", "property=location");
  run_badly ("kdh5src location=DATA ! kdcache location=CACHE ! fakesink", "Cannot open cache: path=");
  capture ("");
  run_badly ("kdh5src location=DATA ! kdcache location=CACHE fields=teacher.hidden ! fakesink", "field=teacher.hidden, cache=\"teacher.logits\"");
  part = g_strconcat (cache, ".parts/00000.h5", NULL);
  ck_assert (g_file_get_contents (part, &bytes, &size, NULL));
  for (gsize i = 2048; i < size; i++)
    bytes[i] ^= 1;
  ck_assert (g_file_set_contents (part, bytes, (gssize) size, NULL));
  run_badly ("kdh5src location=DATA fields=x ! kdcache location=CACHE ! kdh5sink location=OUT", "Cannot read cache part: path=");
}
GST_END_TEST;

/* The first batch stays in the sink until the queue is full: what is in it was read meanwhile. */
static void
wait_for_queue (GstElement *sink, GstBuffer *buffer, GstPad *pad, gpointer queue)
{
  guint level = 0;

  for (guint i = 0; i < 1000 && level < 3; i++) {
    g_usleep (10000);
    g_object_get (queue, "current-level-buffers", &level, NULL);
  }
  g_signal_handlers_disconnect_by_func (sink, wait_for_queue, queue);
  g_object_set_data (G_OBJECT (sink), "level", GUINT_TO_POINTER (level));
}

GST_START_TEST (test_reads_ahead)
{
  g_autofree gchar *graph = NULL;
  g_autoptr (GstElement) pipeline = NULL, queue = NULL, sink = NULL;
  g_autoptr (GstBus) bus = NULL;
  g_autoptr (GstMessage) end = NULL;

  capture ("seed=1");
  graph = g_strdup_printf ("kdh5src location=%s shuffle=true fields=x batch-size=9 ! kdcache location=%s ! queue name=q max-size-buffers=3 ! fakesink name=s signal-handoffs=true", data, cache);
  pipeline = gst_parse_launch (graph, NULL);
  queue = gst_bin_get_by_name (GST_BIN (pipeline), "q");
  sink = gst_bin_get_by_name (GST_BIN (pipeline), "s");
  bus = gst_element_get_bus (pipeline);
  g_signal_connect (sink, "handoff", G_CALLBACK (wait_for_queue), queue);
  gst_element_set_state (pipeline, GST_STATE_PLAYING);
  end = gst_bus_timed_pop_filtered (bus, 60 * GST_SECOND, GST_MESSAGE_ERROR | GST_MESSAGE_EOS);
  ck_assert (end && GST_MESSAGE_TYPE (end) == GST_MESSAGE_EOS);
  ck_assert_uint_eq (GPOINTER_TO_UINT (g_object_get_data (G_OBJECT (sink), "level")), 3);
  gst_element_set_state (pipeline, GST_STATE_NULL);
  /* What goes wrong before the queue is still one error. */
  g_unlink (data);
  write_data (data, 200);
  run_badly ("kdh5src location=DATA fields=x ! kdcache location=CACHE check-identity=false ! queue ! kdh5sink location=OUT", "sample.id=100, sample.view=0, missing=28 of 64");
}
GST_END_TEST;

static Suite *
kdcache_suite (void)
{
  Suite *s = suite_create (KD_TEST_NAME);
  TCase *t = tcase_create ("kdcache");

  tcase_add_checked_fixture (t, make_data, remove_data);
  tcase_add_test (t, test_joins_by_key);
  tcase_add_test (t, test_missing_is_an_error);
  tcase_add_test (t, test_drops_missing);
  tcase_add_test (t, test_passes_missing);
  tcase_add_test (t, test_sparse_into_loss);
  tcase_add_test (t, test_several_teachers);
  tcase_add_test (t, test_teacher_refuses);
  tcase_add_test (t, test_stale);
  tcase_add_test (t, test_refuses);
  tcase_add_test (t, test_reads_ahead);
  suite_add_tcase (s, t);
  return s;
}

GST_CHECK_MAIN (kdcache)
