#include "kd-models.h"

#define PEER "kdpeer name=peer arch=\"linear out=2 bias=false\" seed=4 save=%F/p.st "
#define STUDENT "! kdstudent name=student arch=\"linear out=2 bias=false\" seed=5 save=%F/s.st ! kdbdkd ce-weight=0 teacher-ce-weight=0 temperature=1 "
#define SGD "! kdtrain optimizer=sgd momentum=0 learning-rate=0.5"

static void
weights (const gchar *file, gfloat *ret)
{
  read_parameter (file, "linear.weight", 2, 1, ret);
}

static KdTensor *
field_of (const gchar *file, const gchar *field)
{
  g_autofree gchar *path = g_build_filename (folder, file, NULL);
  GError *error = NULL;
  g_autoptr (KdH5Reader) reader = kd_h5_reader_open (path, NULL, &error);
  KdTensor *tensor = reader ? kd_h5_reader_read_all (reader, field, &error) : NULL;

  ck_assert_msg (tensor != NULL, "%s", error ? error->message : "");
  return tensor;
}

/* A student by the teacher's names. */
GST_START_TEST (test_value)
{
  static const gdouble x[] = { 2, -1, 0.5, 1 };
  g_autoptr (KdTensor) logits = NULL;
  gfloat w[2];

  run_ok ("fields=input", PEER "! kdh5sink location=%F/out.h5");
  weights ("p.st", w);
  logits = field_of ("out.h5", "teacher.logits");
  for (gsize i = 0; i < 8; i++)
    kd_assert_close (kd_tensor_get_double (logits, i), w[i % 2] * x[i / 2], 1e-6);
}
GST_END_TEST

/* w' = w - rate sum_n grad.teacher.logits_n x_n, the gradient as it was before either moved; the student by its own. */
static void
check_step (const gchar *file, const gchar *grad_field, const gfloat *before, gdouble rate)
{
  static const gdouble x[] = { 2, -1, 0.5, 1 };
  g_autoptr (KdTensor) grad = field_of ("g.h5", grad_field);
  gfloat after[2];

  weights (file, after);
  for (gsize c = 0; c < 2; c++) {
    gdouble step = 0;
    for (gsize n = 0; n < 4; n++)
      step += rate * kd_tensor_get_double (grad, 2 * n + c) * x[n];
    ck_assert (fabs (step) > 1e-4 || rate == 0);
    kd_assert_close (after[c], before[c] - step, 1e-5);
  }
}

GST_START_TEST (test_both_learn)
{
  gfloat peer[2], student[2];

  run_ok ("fields=input batch-size=4", PEER STUDENT "! kdh5sink location=%F/g.h5");
  weights ("p.st", peer);
  weights ("s.st", student);
  run_ok ("fields=input batch-size=4", PEER "lr-scale=0.2 " STUDENT SGD);
  check_step ("p.st", "grad.teacher.logits", peer, 0.1);
  check_step ("s.st", "grad.student.logits", student, 0.5);
  run_ok ("fields=input batch-size=4", PEER "lr-scale=0 " STUDENT SGD);
  check_step ("p.st", "grad.teacher.logits", peer, 0);
  check_step ("s.st", "grad.student.logits", student, 0.5);
}
GST_END_TEST

GST_START_TEST (test_offline)
{
  gfloat before[2], after[2];

  run_ok ("fields=input", PEER "! fakesink");
  weights ("p.st", before);
  run_ok ("fields=input batch-size=2", PEER "trainable=false " STUDENT "train-teacher=false " SGD);
  weights ("p.st", after);
  ck_assert (before[0] == after[0] && before[1] == after[1]);
}
GST_END_TEST

/* By name: a checkpoint knows its elements by their names, which GStreamer counts up within a process. */
GST_START_TEST (test_resume)
{
  gfloat peer[2], student[2], again[2];
  const gchar *adam = PEER STUDENT "! kdtrain name=train learning-rate=0.1 checkpoint=%F/c.ckpt resume=true";

  run_ok ("fields=input batch-size=2 epochs=4 shuffle=true", PEER STUDENT "! kdtrain learning-rate=0.1");
  weights ("p.st", peer);
  weights ("s.st", student);
  run_ok ("name=src fields=input batch-size=2 epochs=2 shuffle=true", adam);
  run_ok ("name=src fields=input batch-size=2 epochs=2 shuffle=true", adam); /* nothing is left to do: the weights are the checkpoint's */
  weights ("p.st", again);
  ck_assert (again[0] != peer[0]);
  run_ok ("name=src fields=input batch-size=2 epochs=4 shuffle=true", adam);
  weights ("p.st", again);
  ck_assert (again[0] == peer[0] && again[1] == peer[1]);
  weights ("s.st", again);
  ck_assert (again[0] == student[0] && again[1] == student[1]);
}
GST_END_TEST

/* A teacher that cannot learn while the loss wants it to: the run stops and says what to do. */
GST_START_TEST (test_refusals)
{
  const gchar *wanted = "field=grad.teacher.logits; no model that learns makes teacher.logits: put kdpeer before the loss";

  refuses ("fields=input", "kdteacher arch=\"linear out=2 bias=false\" " STUDENT SGD, wanted);
  refuses ("fields=input", PEER "trainable=false " STUDENT SGD, wanted);
  run_ok ("fields=input", "kdteacher arch=\"linear out=2 bias=false\" " STUDENT "train-teacher=false " SGD);
  refuses ("fields=input", PEER "! kdtrain", "Teacher field read by nobody");
  refuses ("fields=teacher.logits", PEER "! fakesink", "field=input");
}
GST_END_TEST

KD_MODEL_TESTS (kdpeer, test_value, test_both_learn, test_offline, test_resume, test_refusals)
