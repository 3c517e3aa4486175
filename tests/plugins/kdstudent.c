#include "kd-models.h"

static KdTensor *
outputs (const gchar *file, const gchar *field)
{
  g_autofree gchar *path = g_build_filename (folder, file, NULL);
  GError *error = NULL;
  g_autoptr (KdH5Reader) reader = kd_h5_reader_open (path, NULL, &error);
  KdTensor *tensor = reader ? kd_h5_reader_read_all (reader, field, &error) : NULL;

  ck_assert_msg (tensor != NULL, "%s", error ? error->message : "");
  return tensor;
}

/* logits = w x for one weight without bias. */
GST_START_TEST (test_value)
{
  static const gdouble x[] = { 2, -1, 0.5, 1 };
  g_autoptr (KdTensor) logits = NULL;
  gfloat w;

  run_ok ("", "kdstudent arch=\"linear out=1 bias=false\" seed=4 save=%F/w.st ! kdh5sink location=%F/out.h5");
  w = read_weight ("w.st");
  logits = outputs ("out.h5", "student.logits");
  for (guint i = 0; i < 4; i++)
    kd_assert_close (((gfloat *) logits->data)[i], w * x[i], 1e-6);
}
GST_END_TEST

/* Without a trainer: evaluation, no dropout, any batch size gives the same. What it saved it loads; another seed is another student. */
GST_START_TEST (test_evaluation)
{
  g_autoptr (KdTensor) whole = NULL, ones = NULL, loaded = NULL, other = NULL;

  run_ok ("batch-size=4", "kdstudent arch=\"mlp dims=1,8,1 dropout=0.5\" seed=4 features=layer1 save=%F/w.st ! kdh5sink location=%F/a.h5");
  run_ok ("batch-size=1", "kdstudent arch=\"mlp dims=1,8,1 dropout=0.5\" seed=4 ! kdh5sink location=%F/b.h5");
  run_ok ("batch-size=4", "kdstudent arch=\"mlp dims=1,8,1 dropout=0.5\" seed=5 weights=%F/w.st ! kdh5sink location=%F/c.h5");
  run_ok ("batch-size=4", "kdstudent arch=\"mlp dims=1,8,1 dropout=0.5\" seed=5 ! kdh5sink location=%F/d.h5");
  whole = outputs ("a.h5", "student.logits");
  ones = outputs ("b.h5", "student.logits");
  loaded = outputs ("c.h5", "student.logits");
  other = outputs ("d.h5", "student.logits");
  for (guint i = 0; i < 4; i++)
    kd_assert_close (kd_tensor_get_double (whole, i), kd_tensor_get_double (ones, i), 1e-6);
  ck_assert (kd_tensor_equal (whole, loaded));
  ck_assert (!kd_tensor_equal (whole, other));
}
GST_END_TEST

GST_START_TEST (test_refusals)
{
  refuses ("", "kdstudent arch=\"mlp dims=1,8,1\" features=layer7 ! fakesink", "layer7");
  refuses ("", "kdstudent arch=\"mlp dims=2,8,1\" ! fakesink", "dims=\"2,8,1\"");
  refuses ("", "kdstudent arch=\"mpl dims=1,8,1\" ! fakesink", "mpl");
  refuses ("", "kdstudent arch=\"mlp dims=1,8,1\" engine=abacus ! fakesink", "abacus");
  run_ok ("", "kdstudent arch=\"mlp dims=1,8,1\" save=%F/w.st ! fakesink");
  refuses ("", "kdstudent arch=\"mlp dims=1,9,1\" weights=%F/w.st ! fakesink", "w.st");
  refuses ("fields=teacher.logits", "kdstudent arch=\"mlp dims=1,8,1\" ! fakesink", "field=input");
}
GST_END_TEST

KD_MODEL_TESTS (kdstudent, test_value, test_evaluation, test_refusals)
