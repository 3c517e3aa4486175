#include "kd-models.h"

/* With the same weights it says what the student says, to the last bit: logits and a layer. */
GST_START_TEST (test_same_as_student)
{
  g_autofree gchar *path = g_build_filename (folder, "out.h5", NULL);
  g_autoptr (KdH5Reader) reader = NULL;
  GError *error = NULL;

  run_ok ("fields=input", "kdteacher arch=\"mlp dims=1,4,1\" seed=6 features=layer1 ! kdstudent arch=\"mlp dims=1,4,1\" seed=6 features=layer1 ! "
                          "kdh5sink location=%F/out.h5");
  reader = kd_h5_reader_open (path, NULL, &error);
  ck_assert (reader != NULL);
  for (guint i = 0; i < 2; i++) {
    g_autoptr (KdTensor) teacher = kd_h5_reader_read_all (reader, i ? "teacher.features.layer1" : "teacher.logits", &error);
    g_autoptr (KdTensor) student = kd_h5_reader_read_all (reader, i ? "student.features.layer1" : "student.logits", &error);
    ck_assert (teacher && student && kd_tensor_equal (teacher, student));
  }
}
GST_END_TEST

/* Training the student leaves the teacher as it is: its outputs before and after are in the same file. */
GST_START_TEST (test_is_not_trained)
{
  g_autofree gchar *path = g_build_filename (folder, "t.h5", NULL);
  g_autoptr (KdH5Reader) reader = NULL;
  g_autoptr (KdTensor) logits = NULL;
  GError *error = NULL;

  run_ok ("fields=input epochs=2 batch-size=4", "kdteacher arch=\"mlp dims=1,4,1\" seed=6 ! tee name=t ! queue ! "
                                                "kdstudent arch=\"mlp dims=1,4,1\" seed=7 ! kdlogitmse ! kdtrain learning-rate=0.1 t. ! queue ! kdh5sink location=%F/t.h5");
  reader = kd_h5_reader_open (path, NULL, &error);
  ck_assert (reader != NULL);
  logits = kd_h5_reader_read_all (reader, "teacher.logits", &error);
  ck_assert_int_eq (logits->dims[0], 8);
  for (guint i = 0; i < 4; i++)
    ck_assert (kd_tensor_get_double (logits, i) == kd_tensor_get_double (logits, i + 4));
}
GST_END_TEST

/* Half the rows are cached: with only-missing the file is what the whole teacher makes, in the cache's precision for its rows. */
GST_START_TEST (test_only_missing)
{
  g_autofree gchar *path = g_build_filename (folder, "out.h5", NULL), *all = g_build_filename (folder, "all.h5", NULL);
  g_autoptr (KdH5Reader) reader = NULL, whole = NULL;
  g_autoptr (KdTensor) got = NULL, wanted = NULL, features = NULL, wanted_features = NULL;
  GError *error = NULL;

  run_ok ("fields=input count=2", "kdteacher arch=\"mlp dims=1,4,1\" seed=6 features=layer1 ! kdcachesink location=%F/c.h5");
  run_ok ("fields=input", "kdteacher arch=\"mlp dims=1,4,1\" seed=6 features=layer1 ! kdh5sink location=%F/all.h5");
  run_ok ("fields=input shuffle=true seed=3", "kdcache location=%F/c.h5 on-miss=pass ! kdteacher arch=\"mlp dims=1,4,1\" seed=6 features=layer1 only-missing=true ! "
                                              "kdh5sink location=%F/out.h5");
  reader = kd_h5_reader_open (path, NULL, &error);
  whole = kd_h5_reader_open (all, NULL, &error);
  kd_assert_no_error (error);
  got = kd_h5_reader_read_all (reader, "teacher.logits", &error);
  wanted = kd_h5_reader_read_all (whole, "teacher.logits", &error);
  features = kd_h5_reader_read_all (reader, "teacher.features.layer1", &error);
  wanted_features = kd_h5_reader_read_all (whole, "teacher.features.layer1", &error);
  kd_assert_no_error (error);
  {
    g_autoptr (KdTensor) ids = kd_h5_reader_read_all (reader, "sample.id", &error);
    for (guint i = 0; i < 4; i++) {
      gsize row = (gsize) ((gint64 *) ids->data)[i];
      kd_assert_close (kd_tensor_get_double (got, i), kd_tensor_get_double (wanted, row), 1e-6);
      for (gsize k = 0; k < 4; k++)
        kd_assert_close (kd_tensor_get_double (features, 4 * i + k), kd_tensor_get_double (wanted_features, 4 * row + k), 1e-6);
    }
  }
}
GST_END_TEST

GST_START_TEST (test_only_missing_refuses)
{
  run_ok ("fields=input count=2", "kdteacher arch=\"mlp dims=1,4,1\" seed=6 ! kdcachesink location=%F/c.h5");
  refuses ("fields=input", "kdteacher arch=\"mlp dims=1,4,1\" seed=6 only-missing=true ! fakesink", "field=cache.hit, layout=\"input sample.id\"; put kdcache on-miss=pass before it");
  refuses ("fields=input", "kdcache location=%F/c.h5 on-miss=pass ! kdteacher arch=\"mlp dims=1,4,1\" seed=6 features=layer1 only-missing=true ! fakesink",
      "field=teacher.features.layer1, cache=none, teacher=float32:4");
  refuses ("fields=input", "kdcache location=%F/c.h5 on-miss=pass ! kdteacher arch=\"mlp dims=1,4,2\" seed=6 only-missing=true ! fakesink", "field=teacher.logits, cache=float32:1, teacher=float32:2");
  refuses ("fields=input", "kdcache location=%F/c.h5 on-miss=pass ! kdteacher arch=\"mlp dims=1,4,1\" seed=7 only-missing=true ! fakesink", "Cache is of another teacher: cache=");
  /* Nothing is missing: which teacher stands there does not matter. */
  run_ok ("fields=input count=2", "kdcache location=%F/c.h5 on-miss=pass check-identity=false ! kdteacher arch=\"mlp dims=1,4,1\" seed=7 only-missing=true ! fakesink");
}
GST_END_TEST

GST_START_TEST (test_refusals)
{
  refuses ("fields=input", "kdteacher ! fakesink", "Model not named: element=kdteacher");
  refuses ("fields=input", "kdteacher arch=\"mlp dims=1,4,1\" model=%F/t.pt ! fakesink", "Model not named: element=kdteacher");
  refuses ("fields=input", "kdteacher arch=\"mlp dims=1,4,1\" weights=%F/none.st ! fakesink", "none.st");
  refuses ("fields=input", "kdteacher arch=\"mlp dims=1,4,1\" features=Layer1 ! fakesink", "layer=\"Layer1\"");
}
GST_END_TEST

KD_MODEL_TESTS (kdteacher, test_same_as_student, test_is_not_trained, test_only_missing, test_only_missing_refuses, test_refusals)
