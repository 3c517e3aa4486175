#include "kd-leaf.h"

/* Images whose pixel (y, x) is 1 + 10 y + x; @n of them, 2 channels, 3 x 4. */
static void
open_images (Leaf *leaf, const gchar *properties, gint64 n, KdDtype dtype)
{
  const gint64 dims[4] = { n, 2, 3, 4 };
  g_autoptr (KdTensor) wide = kd_tensor_new (KD_FLOAT64, 4, dims);
  g_autoptr (GError) error = NULL;

  leaf_open (leaf, "kdcrop", properties, n);
  for (gint64 i = 0; i < n * 24; i++)
    ((gdouble *) wide->data)[i] = (gdouble) (1 + 10 * (i / 4 % 3) + i % 4);
  kd_batch_set (leaf->batch, "input", kd_tensor_cast (wide, dtype, &error));
}

GST_START_TEST (test_windows)
{
  g_auto (Leaf) leaf = { 0 };
  guint seen[3][3][2] = { 0 };

  open_images (&leaf, "padding=1 flip=0.5", 400, KD_UINT8);
  leaf_run_ok (&leaf);
  for (gint64 n = 0; n < 400; n++) { /* each image is one of the windows, in all its pixels and channels */
    gboolean found = FALSE;
    for (gint down = -1; down <= 1; down++)
      for (gint right = -1; right <= 1; right++)
        for (gint flip = 0; flip < 2 && !found; flip++) {
          gboolean same = TRUE;
          for (gint i = 0; i < 24; i++) {
            gint y = i / 4 % 3 + down, x = (flip ? 3 - i % 4 : i % 4) + right;
            gint want = y < 0 || y > 2 || x < 0 || x > 3 ? 0 : 1 + 10 * y + x;
            same = same && leaf_get (&leaf, "input", (gsize) (n * 24 + i)) == want;
          }
          if (same)
            seen[down + 1][right + 1][flip]++;
          found = found || same;
        }
    ck_assert_msg (found, "image %d is no window", (gint) n);
  }
  for (guint i = 0; i < 18; i++)
    ck_assert_uint_gt ((&seen[0][0][0])[i], 3);
}
GST_END_TEST

GST_START_TEST (test_limits)
{
  g_auto (Leaf) same = { 0 }, mirror = { 0 }, wide = { 0 };

  open_images (&same, "padding=0 flip=0", 2, KD_FLOAT32);
  leaf_run_ok (&same);
  leaf_expect (&same, "input", 5, 12);
  open_images (&mirror, "padding=0 flip=1", 2, KD_FLOAT16);
  leaf_run_ok (&mirror);
  leaf_expect (&mirror, "input", 0, 4);
  leaf_expect (&mirror, "input", 4, 14);
  open_images (&wide, "padding=100", 8, KD_INT64); /* windows that miss the image are empty */
  leaf_run_ok (&wide);
  leaf_expect (&wide, "input", 0, 0);
}
GST_END_TEST

GST_START_TEST (test_views)
{
  g_auto (Leaf) leaf = { 0 };

  open_images (&leaf, "", 2, KD_FLOAT32);
  leaf.options.views = 3;
  leaf.batch->epoch = 7;
  leaf_run_ok (&leaf);
  leaf_expect (&leaf, "sample.view", 1, 2);
}
GST_END_TEST

GST_START_TEST (test_refusals)
{
  g_auto (Leaf) leaf = { 0 };

  leaf_open (&leaf, "kdcrop", "", 2);
  leaf_put (&leaf, "input", KD_FLOAT32, 2, 2, 1, 2, 3, 4);
  leaf_refuses (&leaf, KD_ERROR_SHAPE, "wanted=[N C H W]");
  leaf_open (&leaf, "kdcrop", "field=picture", 2);
  leaf_refuses (&leaf, KD_ERROR_FIELD, "field=picture");
}
GST_END_TEST

KD_TESTS (kdcrop, test_windows, test_limits, test_views, test_refusals)
