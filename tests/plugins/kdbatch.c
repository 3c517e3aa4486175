/* kdbatch: planes from strided pictures, clips from sound, labels from side lists, and what it refuses. */
#include "kd-check.h"

#include <gst/check/gstharness.h>

#include <glib/gstdio.h>
#include <gst/video/video.h>
#include <stdlib.h>

static gchar *
write_list (const gchar *text)
{
  g_autoptr (GError) error = NULL;
  gchar *path = NULL;
  gint fd = g_file_open_tmp ("kdbatch-XXXXXX", &path, &error);

  ck_assert (fd >= 0);
  ck_assert (g_file_set_contents (path, text, -1, &error));
  g_close (fd, NULL);
  return path;
}

/* The harness starts the element before properties are set: take it down and up again so that lists are read. */
static void
restart (GstHarness *h)
{
  gst_element_set_state (h->element, GST_STATE_READY);
  gst_element_set_state (h->element, GST_STATE_PLAYING);
}

static GstHarness *
started (const gchar *caps, const gchar *first, ...)
{
  GstHarness *h = gst_harness_new ("kdbatch");
  va_list args;

  gst_object_set_name (GST_OBJECT (h->element), "kdbatch0"); /* also when tests share a process */
  va_start (args, first);
  g_object_set_valist (G_OBJECT (h->element), first, args);
  va_end (args);
  restart (h);
  gst_harness_set_src_caps_str (h, caps);
  return h;
}

/* A 3x2 RGB picture with rows of 12 bytes (9 and padding): pixel value = 10 * row + column, plus 50 a channel, plus n. */
static GstBuffer *
picture (gint n)
{
  GstBuffer *buffer = gst_buffer_new_allocate (NULL, 24, NULL);
  GstMapInfo map;

  gst_buffer_map (buffer, &map, GST_MAP_WRITE);
  memset (map.data, 0xee, map.size);
  for (gint y = 0; y < 2; y++)
    for (gint x = 0; x < 3; x++)
      for (gint c = 0; c < 3; c++)
        map.data[12 * y + 3 * x + c] = (guint8) (10 * y + x + 100 * c / 2 + n);
  gst_buffer_unmap (buffer, &map);
  GST_BUFFER_PTS (buffer) = (GstClockTime) n * GST_SECOND;
  return buffer;
}

#define RGB "video/x-raw,format=RGB,width=3,height=2,framerate=1/1"

static void
expect_error (GstHarness *h, GstBus *bus, GQuark domain, const gchar *part)
{
  g_autoptr (GstMessage) message = gst_bus_pop_filtered (bus, GST_MESSAGE_ERROR);
  g_autoptr (GError) error = NULL;

  ck_assert (message != NULL);
  gst_message_parse_error (message, &error, NULL);
  ck_assert_msg (error->domain == domain, "%s", error->message);
  ck_assert_msg (strstr (error->message, part) != NULL, "\"%s\" lacks \"%s\"", error->message, part);
  ck_assert (gst_bus_pop_filtered (bus, GST_MESSAGE_ERROR) == NULL);
  gst_element_set_bus (h->element, NULL);
  gst_object_unref (bus);
}

static GstBus *
listen (GstHarness *h)
{
  GstBus *bus = gst_bus_new ();

  gst_element_set_bus (h->element, bus);
  return bus;
}

GST_START_TEST (test_pictures)
{
  GstHarness *h = started (RGB, "batch-size", (gint64) 2, NULL);
  g_autoptr (GstCaps) caps = NULL;
  GstBuffer *out;
  KdTensor *input;

  for (gint n = 0; n < 3; n++)
    ck_assert_int_eq (gst_harness_push (h, picture (n)), GST_FLOW_OK);
  gst_harness_push_event (h, gst_event_new_eos ());
  caps = gst_pad_get_current_caps (h->sinkpad);
  ck_assert_str_eq (gst_structure_get_string (gst_caps_get_structure (caps, 0), "layout"), "input=uint8:3x2x3 sample.id=int64");
  out = gst_harness_pull (h);
  input = kd_batch_peek (kd_batch_get (out), "input");
  ck_assert_int_eq (input->dims[0], 2);
  ck_assert_int_eq (input->dims[1], 3);
  for (gint n = 0; n < 2; n++)
    for (gint c = 0; c < 3; c++)
      for (gint y = 0; y < 2; y++)
        for (gint x = 0; x < 3; x++)
          ck_assert_int_eq (((guint8 *) input->data)[((n * 3 + c) * 2 + y) * 3 + x], 10 * y + x + 100 * c / 2 + n);
  gst_buffer_unref (out);
  out = gst_harness_pull (h); /* the rest */
  ck_assert_int_eq (kd_batch_get (out)->n_samples, 1);
  ck_assert_int_eq (((gint64 *) kd_batch_peek (kd_batch_get (out), "sample.id")->data)[0], 2);
  ck_assert_int_eq (((guint8 *) kd_batch_peek (kd_batch_get (out), "input")->data)[0], 2);
  gst_buffer_unref (out);
  gst_harness_teardown (h);
}
GST_END_TEST

static void
expect_labels (GstHarness *h, const gint64 *label, guint n)
{
  for (guint i = 0; i < n; i++)
    ck_assert_int_eq (gst_harness_push (h, picture ((gint) i)), GST_FLOW_OK);
  gst_harness_push_event (h, gst_event_new_eos ());
  for (guint i = 0; i < n; i++) {
    GstBuffer *out = gst_harness_pull (h);
    ck_assert_int_eq (((gint64 *) kd_batch_peek (kd_batch_get (out), "label")->data)[0], label[i]);
    gst_buffer_unref (out);
  }
  gst_harness_teardown (h);
}

GST_START_TEST (test_labels)
{
  g_autofree gchar *names = write_list ("ship\ncat\nship\n"), *numbers = write_list ("7\n0\n7"),
                   *paths = write_list ("train/10/a.jpg\ntrain/2/b.jpg\ntrain/10/c.jpg\n"), *prefix = write_list ("r/3_a_0.wav\nr/1_a_0.wav\nr/3_b_0.wav\n");

  expect_labels (started (RGB, "batch-size", (gint64) 1, "labels", names, NULL), (gint64[]) { 1, 0, 1 }, 3);
  expect_labels (started (RGB, "batch-size", (gint64) 1, "labels", numbers, NULL), (gint64[]) { 7, 0, 7 }, 3);
  expect_labels (started (RGB, "batch-size", (gint64) 1, "location-list", paths, NULL), (gint64[]) { 1, 0, 1 }, 3);
  expect_labels (started (RGB, "batch-size", (gint64) 1, "location-list", prefix, "label-from", 1, NULL), (gint64[]) { 1, 0, 1 }, 3);
  g_unlink (names);
  g_unlink (numbers);
  g_unlink (paths);
  g_unlink (prefix);
}
GST_END_TEST

static GstBuffer *
sound (gint first, gint n)
{
  GstBuffer *buffer = gst_buffer_new_allocate (NULL, (gsize) n * 2, NULL);
  GstMapInfo map;

  gst_buffer_map (buffer, &map, GST_MAP_WRITE);
  for (gint i = 0; i < n; i++)
    GST_WRITE_UINT16_LE (map.data + 2 * i, (guint16) (gint16) ((first + i) * -256));
  gst_buffer_unmap (buffer, &map);
  return buffer;
}

#define S16 "audio/x-raw,format=S16LE,channels=1,rate=8000,layout=interleaved"

/* Windows run through buffers; the last is filled with zeros and says its length. */
GST_START_TEST (test_sound_windows)
{
  GstHarness *h = started (S16, "batch-size", (gint64) 8, "samples", (gint64) 4, NULL);
  GstBuffer *out;
  KdTensor *input, *length;

  gst_harness_push (h, sound (0, 3));
  gst_harness_push (h, sound (3, 3));
  gst_harness_push_event (h, gst_event_new_eos ());
  out = gst_harness_pull (h);
  input = kd_batch_peek (kd_batch_get (out), "input");
  length = kd_batch_peek (kd_batch_get (out), "input.length");
  ck_assert_int_eq (input->rank, 3);
  ck_assert_int_eq (input->dims[0], 2);
  ck_assert_int_eq (input->dims[2], 4);
  for (gint i = 0; i < 8; i++)
    kd_assert_close (((gfloat *) input->data)[i], i < 6 ? -i / 128.0 : 0.0, 0);
  ck_assert_int_eq (((gint64 *) length->data)[0], 4);
  ck_assert_int_eq (((gint64 *) length->data)[1], 2);
  gst_buffer_unref (out);
  gst_harness_teardown (h);
}
GST_END_TEST

/* One clip a buffer: short ones filled, long ones cut. */
GST_START_TEST (test_sound_buffers)
{
  GstHarness *h = started (S16, "batch-size", (gint64) 2, "samples", (gint64) 4, "clip", 1, NULL);
  GstBuffer *out;
  KdTensor *input;

  gst_harness_push (h, sound (1, 2));
  gst_harness_push (h, sound (1, 9));
  out = gst_harness_pull (h);
  input = kd_batch_peek (kd_batch_get (out), "input");
  for (gint i = 0; i < 8; i++)
    kd_assert_close (((gfloat *) input->data)[i], i == 2 || i == 3 ? 0 : -(i % 4 + 1) / 128.0, 0);
  gst_buffer_unref (out);
  gst_harness_teardown (h);
}
GST_END_TEST

/* A new segment ends a clip, as behind concat. */
GST_START_TEST (test_sound_segments)
{
  GstHarness *h = started (S16, "batch-size", (gint64) 2, "samples", (gint64) 4, "clip", 2, NULL);
  GstSegment segment;
  GstBuffer *out;

  gst_segment_init (&segment, GST_FORMAT_TIME);
  gst_harness_push (h, sound (0, 2));
  gst_harness_push (h, sound (2, 9)); /* cut after two more */
  gst_harness_push_event (h, gst_event_new_segment (&segment));
  gst_harness_push (h, sound (1, 1));
  gst_harness_push_event (h, gst_event_new_eos ());
  out = gst_harness_pull (h);
  ck_assert_int_eq (kd_batch_get (out)->n_samples, 2);
  ck_assert_int_eq (((gint64 *) kd_batch_peek (kd_batch_get (out), "input.length")->data)[1], 1);
  kd_assert_close (((gfloat *) kd_batch_peek (kd_batch_get (out), "input")->data)[3], -3 / 128.0, 0);
  kd_assert_close (((gfloat *) kd_batch_peek (kd_batch_get (out), "input")->data)[4], -1 / 128.0, 0);
  gst_buffer_unref (out);
  gst_harness_teardown (h);
}
GST_END_TEST

static void
run (const gchar *text)
{
  g_autoptr (GError) error = NULL;
  GstElement *pipeline = gst_parse_launch (text, &error);
  g_autoptr (GstBus) bus = NULL;
  g_autoptr (GstMessage) message = NULL;

  ck_assert_msg (pipeline && !error, "%s: %s", text, error ? error->message : "");
  bus = gst_element_get_bus (pipeline);
  gst_element_set_state (pipeline, GST_STATE_PLAYING);
  message = gst_bus_timed_pop_filtered (bus, 60 * GST_SECOND, GST_MESSAGE_EOS | GST_MESSAGE_ERROR);
  ck_assert (message != NULL);
  if (GST_MESSAGE_TYPE (message) == GST_MESSAGE_ERROR)
    gst_message_parse_error (message, &error, NULL);
  ck_assert_msg (!error, "%s", error->message);
  gst_element_set_state (pipeline, GST_STATE_NULL);
  gst_object_unref (pipeline);
}

/* JPEG files to a batch file, by one pipeline. */
GST_START_TEST (test_files)
{
  g_autofree gchar *folder = g_dir_make_tmp ("kdbatch-XXXXXX", NULL), *list = write_list ("dog\ncat\ndog\ncat\ndog\n"), *command = NULL;
  g_autofree gchar *make = g_strdup_printf ("videotestsrc num-buffers=5 pattern=ball ! video/x-raw,width=16,height=16,framerate=1/1 ! jpegenc ! "
                                            "multifilesink location=%s/img-%%04d.jpg",
      folder);
  g_autofree gchar *path = g_build_filename (folder, "out.h5", NULL);
  g_autofree gchar *read = g_strdup_printf ("multifilesrc location=%s/img-%%04d.jpg index=0 caps=image/jpeg,framerate=1/1 ! jpegdec ! videoconvert ! "
                                            "video/x-raw,format=RGB ! kdbatch batch-size=2 labels=%s ! kdrebatch batch-size=4 ! kdh5sink location=%s",
      folder, list, path);
  g_autoptr (KdH5Reader) reader = NULL;
  g_autoptr (KdTensor) labels = NULL;
  GError *error = NULL;

  run (make);
  run (read);
  reader = kd_h5_reader_open (path, NULL, &error);
  kd_assert_no_error (error);
  ck_assert_int_eq (kd_h5_reader_n_rows (reader), 5);
  labels = kd_h5_reader_read_all (reader, "label", &error);
  for (gint i = 0; i < 5; i++)
    ck_assert_int_eq (((gint64 *) labels->data)[i], i % 2 == 0);
  g_unlink (list);
  command = g_strdup_printf ("rm -rf '%s'", folder);
  ck_assert_int_eq (system (command), 0);
}
GST_END_TEST

/* A frame that the decoder dropped must not shift the labels. */
GST_START_TEST (test_missing_frame)
{
  g_autofree gchar *list = write_list ("a\nb\nc\n");
  GstHarness *h = started (RGB, "labels", list, NULL);
  GstBus *bus = listen (h);

  ck_assert_int_eq (gst_harness_push (h, picture (0)), GST_FLOW_OK);
  ck_assert_int_eq (gst_harness_push (h, picture (2)), GST_FLOW_ERROR);
  expect_error (h, bus, GST_STREAM_ERROR, "Frame missing: element=kdbatch0, wanted=1, came=2, line=\"b\"");
  gst_harness_teardown (h);
  g_unlink (list);
}
GST_END_TEST

GST_START_TEST (test_more_frames_than_lines)
{
  g_autofree gchar *list = write_list ("1\n");
  GstHarness *h = started (RGB, "labels", list, NULL);
  GstBus *bus = listen (h);

  ck_assert_int_eq (gst_harness_push (h, picture (0)), GST_FLOW_OK);
  ck_assert_int_eq (gst_harness_push (h, picture (1)), GST_FLOW_ERROR);
  ck_assert (!gst_harness_push_event (h, gst_event_new_eos ())); /* as a source does after an error: no second word of it */
  expect_error (h, bus, GST_STREAM_ERROR, "lines=1, sample=1; every sample needs a line");
  gst_harness_teardown (h);
  g_unlink (list);
}
GST_END_TEST

/* One too few may be one left out: the end does not go on. */
GST_START_TEST (test_fewer_frames_than_lines)
{
  g_autofree gchar *list = write_list ("1\n2\n");
  GstHarness *h = started (RGB, "labels", list, NULL);
  GstBus *bus = listen (h);

  ck_assert_int_eq (gst_harness_push (h, picture (0)), GST_FLOW_OK);
  ck_assert (!gst_harness_push_event (h, gst_event_new_eos ()));
  expect_error (h, bus, GST_STREAM_ERROR, "lines=2, samples=1; one may have been left out by a decoder");
  ck_assert (gst_harness_try_pull (h) == NULL);
  gst_harness_teardown (h);
  g_unlink (list);
}
GST_END_TEST

GST_START_TEST (test_another_size)
{
  GstHarness *h = started (RGB, "batch-size", (gint64) 4, NULL);
  g_autoptr (GstCaps) wider = gst_caps_from_string ("video/x-raw,format=RGB,width=5,height=2,framerate=1/1");
  GstBus *bus = listen (h);

  ck_assert_int_eq (gst_harness_push (h, picture (0)), GST_FLOW_OK);
  gst_harness_push_event (h, gst_event_new_caps (wider));
  expect_error (h, bus, GST_STREAM_ERROR,
      "Frames differ in size: element=kdbatch0, first=3x2 RGB, frame 1=5x2 RGB; put videoscale ! video/x-raw,width=...,height=... before it");
  gst_harness_teardown (h);
}
GST_END_TEST

/* A buffer too small for its caps is an error, not a read beyond it. */
GST_START_TEST (test_short_buffer)
{
  GstHarness *h = started (RGB, "batch-size", (gint64) 4, NULL);
  GstBus *bus = listen (h);
  GstBuffer *buffer = gst_buffer_new_allocate (NULL, 7, NULL);

  ck_assert_int_eq (gst_harness_push (h, buffer), GST_FLOW_ERROR);
  expect_error (h, bus, GST_STREAM_ERROR, "Frame is no picture of its caps: element=kdbatch0, frame=0, bytes=7, size=3x2");
  gst_harness_teardown (h);
}
GST_END_TEST

/* Lists that are refused when the element starts. */
static void
refuse_list (const gchar *property, const gchar *text, GQuark domain, const gchar *part)
{
  g_autofree gchar *list = text ? write_list (text) : g_strdup ("/nowhere/labels.txt");
  GstHarness *h = gst_harness_new ("kdbatch");
  GstBus *bus = listen (h);

  gst_element_set_state (h->element, GST_STATE_READY);
  g_object_set (h->element, property, list, NULL);
  ck_assert_int_eq (gst_element_set_state (h->element, GST_STATE_PLAYING), GST_STATE_CHANGE_FAILURE);
  expect_error (h, bus, domain, part);
  gst_harness_teardown (h);
  g_unlink (list);
}

GST_START_TEST (test_bad_lists)
{
  refuse_list ("labels", NULL, GST_RESOURCE_ERROR, "Cannot read list: path=\"/nowhere/labels.txt\"");
  refuse_list ("labels", "1\n2\n\n3\n", GST_STREAM_ERROR, "Empty line in list");
  refuse_list ("labels", "1\n2\ncat\n", GST_STREAM_ERROR, "line=3, value=\"cat\"; the lines before it are whole numbers from 0");
  refuse_list ("labels", "1\n-2\n", GST_STREAM_ERROR, "line=2, value=\"-2\"");
  refuse_list ("labels", "\xff\xfe\n", GST_STREAM_ERROR, "List is no UTF-8 text");
  refuse_list ("location-list", "cat/1.jpg\n2.jpg\n", GST_STREAM_ERROR, "line=2, path=\"2.jpg\", wanted=CLASS/NAME (label-from=folder)");
}
GST_END_TEST

static Suite *
kdbatch_suite (void)
{
  Suite *suite = suite_create ("kdbatch");
  TCase *tcase = tcase_create ("all");

  suite_add_tcase (suite, tcase);
  tcase_add_test (tcase, test_pictures);
  tcase_add_test (tcase, test_labels);
  tcase_add_test (tcase, test_sound_windows);
  tcase_add_test (tcase, test_sound_buffers);
  tcase_add_test (tcase, test_sound_segments);
  tcase_add_test (tcase, test_files);
  tcase_add_test (tcase, test_missing_frame);
  tcase_add_test (tcase, test_more_frames_than_lines);
  tcase_add_test (tcase, test_fewer_frames_than_lines);
  tcase_add_test (tcase, test_another_size);
  tcase_add_test (tcase, test_short_buffer);
  tcase_add_test (tcase, test_bad_lists);
  return suite;
}

GST_CHECK_MAIN (kdbatch);
