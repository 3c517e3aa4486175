/* KdLayout: the caps string, both ways, and what it refuses. */
#include "kd-check.h"

GST_START_TEST (round_trip_is_sorted)
{
  GError *error = NULL;
  g_autoptr (KdLayout) layout = kd_layout_from_string ("sample.id=int64  input=float32:1x8x? loss=float64:scalar", &error);
  g_autofree gchar *text = NULL;
  GstCaps *caps;
  g_autoptr (KdLayout) back = NULL;

  kd_assert_no_error (error);
  text = kd_layout_to_string (layout);
  ck_assert_str_eq (text, "input=float32:1x8x? loss=float64:scalar sample.id=int64");
  ck_assert_uint_eq (kd_layout_find (layout, "input")->rank, 4);
  ck_assert_int_eq (kd_layout_find (layout, "input")->dims[3], KD_DIM_ANY);
  ck_assert_uint_eq (kd_layout_find (layout, "loss")->rank, 0);
  caps = kd_layout_to_caps (layout);
  back = kd_layout_from_caps (caps, &error);
  ck_assert (kd_layout_equal (layout, back));
  gst_caps_unref (caps);
}
GST_END_TEST

GST_START_TEST (bad_words_are_named)
{
  static const gchar *bad[][2] = {
    { "input", "word=\"input\"" },
    { "Input=float32", "no field name" },
    { "a..b=int64", "no field name" },
    { "a=float31", "unknown dtype" },
    { "a=int64:3xx4", "neither a size nor ?" },
    { "a=int64:-3", "neither a size nor ?" },
    { "a=int64:1x1x1x1x1x1x1x1", "more than 8 axes" },
    { "a=int64 a=int64", "stands twice" },
    { "a=int64:99999999999999999999", "neither a size nor ?" },
  };

  for (guint i = 0; i < G_N_ELEMENTS (bad); i++) {
    GError *error = NULL;
    ck_assert (!kd_layout_from_string (bad[i][0], &error));
    kd_assert_error (error, KD_ERROR_FORMAT, bad[i][1]);
  }
}
GST_END_TEST

GST_START_TEST (caps_without_layout_are_refused)
{
  g_autoptr (GstCaps) caps = gst_caps_from_string ("video/x-raw");
  GError *error = NULL;

  ck_assert (!kd_layout_from_caps (caps, &error));
  kd_assert_error (error, KD_ERROR_FORMAT, "caps=\"video/x-raw\"");
}
GST_END_TEST

GST_START_TEST (tensors_are_checked)
{
  g_autoptr (KdLayout) layout = kd_layout_from_string ("a=float32:3", NULL);
  gint64 good[2] = { 7, 3 }, bad[2] = { 7, 4 };
  g_autoptr (KdTensor) fits = kd_tensor_new (KD_FLOAT32, 2, good), shape = kd_tensor_new (KD_FLOAT32, 2, bad), type = kd_tensor_new (KD_INT64, 2, good);
  GError *error = NULL;

  ck_assert (kd_layout_check_tensor (kd_layout_find (layout, "a"), fits, &error));
  ck_assert (!kd_layout_check_tensor (kd_layout_find (layout, "a"), shape, &error));
  kd_assert_error (error, KD_ERROR_SHAPE, "field=a, layout=float32:3, tensor=[7,4]");
  ck_assert (!kd_layout_check_tensor (kd_layout_find (layout, "a"), type, &error));
  kd_assert_error (error, KD_ERROR_DTYPE, "field=a, layout=float32, tensor=int64");
}
GST_END_TEST

static Suite *
layout_suite (void)
{
  Suite *suite = suite_create ("layout");
  TCase *tcase = tcase_create ("layout");

  suite_add_tcase (suite, tcase);
  tcase_add_test (tcase, round_trip_is_sorted);
  tcase_add_test (tcase, bad_words_are_named);
  tcase_add_test (tcase, caps_without_layout_are_refused);
  tcase_add_test (tcase, tensors_are_checked);
  return suite;
}

GST_CHECK_MAIN (layout)
