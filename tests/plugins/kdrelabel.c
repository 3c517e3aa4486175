#include "kd-leaf.h"

GST_START_TEST (test_value)
{
  g_auto (Leaf) leaf = { 0 };

  leaf_open (&leaf, "kdrelabel", "map=5,0,-1", 4);
  leaf_put (&leaf, "label", KD_INT64, 4, 0, 1, 0, 2, -100);
  leaf_run_ok (&leaf);
  for (gsize i = 0; i < 4; i++)
    ck_assert (leaf_get (&leaf, "label", i) == ((gdouble[]) { 0, 5, -1, -100 })[i]);
}
GST_END_TEST

GST_START_TEST (test_refusals)
{
  static const gchar *const bad[] = { "map=", "map=1,x", "map=1,,2", "map=-2", "map=1.5" };
  g_auto (Leaf) leaf = { 0 };

  leaf_open (&leaf, "kdrelabel", "map=5,0", 2);
  leaf_put (&leaf, "label", KD_INT64, 2, 0, 0, 2);
  leaf_refuses (&leaf, KD_ERROR_RANGE, "Label beyond the map: element=kdrelabel, field=label, row=1, label=2, map=2 numbers");
  for (guint i = 0; i < G_N_ELEMENTS (bad); i++) {
    leaf_open (&leaf, "kdrelabel", bad[i], 1);
    leaf_put (&leaf, "label", KD_INT64, 1, 0, 0);
    leaf_refuses (&leaf, KD_ERROR_RANGE, "Map not understood: element=kdrelabel, property=map");
  }
}
GST_END_TEST

KD_TESTS (kdrelabel, test_value, test_refusals)
