#include "kd-models.h"

#define GRAPH "kdstudent arch=\"mlp dims=1,3,1\" seed=2 features=layer1 save=%F/s.st ! kdmodule in=student.features.layer1 out=student.features.aligned seed=3 "
/* The hint that the module is to reach: a field of its own, made by a teacher's tapped layer. */
#define TEACHER "kdteacher arch=\"mlp dims=1,2,1\" seed=9 features=layer1 ! "
#define HINT "kdhint teacher-field=layer1 student-field=aligned weight=1 ! kdlogitmse weight=0.001 ! kdtrain optimizer=sgd momentum=0 "

static void
layer_weights (gfloat ret[3])
{
  g_autofree gchar *path = g_build_filename (folder, "s.st", NULL);
  g_autoptr (KdParamSet) set = kd_param_set_new (0);
  gint64 w1[2] = { 3, 1 }, b1[1] = { 3 }, w2[2] = { 1, 3 }, b2[1] = { 1 };
  GError *error = NULL;

  kd_param_set_add (set, "layer1.weight", 2, w1, KD_INIT_ZEROS, TRUE, NULL);
  kd_param_set_add (set, "layer1.bias", 1, b1, KD_INIT_ZEROS, TRUE, NULL);
  kd_param_set_add (set, "layer2.weight", 2, w2, KD_INIT_ZEROS, TRUE, NULL);
  kd_param_set_add (set, "layer2.bias", 1, b2, KD_INIT_ZEROS, TRUE, NULL);
  kd_param_set_freeze (set);
  ck_assert_msg (kd_param_set_load (set, path, &error), "%s", error ? error->message : "");
  memcpy (ret, kd_param_set_values (set, 0), 3 * sizeof *ret);
}

/* Only the hint reaches the first layer through the module: the weights move, and with the module frozen they still do. */
GST_START_TEST (test_gradient_passes)
{
  gfloat before[3], after[3], frozen[3], module_before[6], module_after[6], module_frozen[6];

  run_ok ("batch-size=4", TEACHER GRAPH "kind=linear config=\"out=2 bias=false\" save=%F/m.st ! " HINT "learning-rate=0");
  layer_weights (before);
  read_parameter ("m.st", "linear.weight", 2, 3, module_before);
  run_ok ("batch-size=4", TEACHER GRAPH "kind=linear config=\"out=2 bias=false\" save=%F/m.st ! " HINT "learning-rate=0.5");
  layer_weights (after);
  read_parameter ("m.st", "linear.weight", 2, 3, module_after);
  ck_assert (memcmp (before, after, sizeof before) != 0);
  ck_assert (memcmp (module_before, module_after, sizeof module_before) != 0);
  run_ok ("batch-size=4", TEACHER GRAPH "kind=linear config=\"out=2 bias=false\" trainable=false save=%F/m.st ! " HINT "learning-rate=0.5");
  layer_weights (frozen);
  read_parameter ("m.st", "linear.weight", 2, 3, module_frozen);
  ck_assert (memcmp (module_before, module_frozen, sizeof module_before) == 0);
  ck_assert (memcmp (after, frozen, sizeof after) == 0); /* one step: the student's gradient is the same either way */
}
GST_END_TEST

/* Two layers and a 1x1 convolution make the shapes that they say; kdhint refuses any other. */
GST_START_TEST (test_kinds)
{
  run_ok ("", TEACHER GRAPH "kind=mlp config=\"dims=3,5,2\" ! " HINT);
  refuses ("", TEACHER GRAPH "kind=mlp config=\"dims=3,5,4\" ! " HINT, "Shapes differ: element=kdhint");
}
GST_END_TEST

GST_START_TEST (test_refusals)
{
  refuses ("", TEACHER "kdmodule in=student.features.layer1 out=student.features.aligned config=\"out=2\" ! fakesink", "field=student.features.layer1");
  refuses ("", TEACHER "kdmodule in=teacher.features.layer1 out=Aligned config=\"out=2\" ! fakesink", "out=\"Aligned\"");
  refuses ("", TEACHER "kdmodule in=teacher.features.layer1 out=student.features.aligned config=\"width=2\" ! fakesink", "width");
  refuses ("", TEACHER "kdmodule kind=conv1x1 in=teacher.features.layer1 out=student.features.aligned config=\"out=2\" ! fakesink", "conv1x1");
}
GST_END_TEST

KD_MODEL_TESTS (kdmodule, test_gradient_passes, test_kinds, test_refusals)
