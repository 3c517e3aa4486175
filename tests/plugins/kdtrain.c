#include "kd-models.h"

#define STUDENT "kdstudent arch=\"linear out=1 bias=false\" seed=4 save=%F/w.st ! kdlogitmse ! "

/* w' = w - rate 2 (w x - t) x, one sample at a time, by hand. */
GST_START_TEST (test_sgd_by_hand)
{
  static const gdouble x[] = { 2, -1, 0.5, 1 }, t[] = { 1, 3, -2, 0 };
  gdouble w;

  run_ok ("batch-size=1", STUDENT "kdtrain optimizer=sgd momentum=0 learning-rate=0");
  w = read_weight ("w.st");
  ck_assert (w != 0);
  run_ok ("batch-size=1", STUDENT "kdtrain optimizer=sgd momentum=0 learning-rate=0.1");
  for (guint i = 0; i < 4; i++)
    w -= 0.1 * 2 * (w * x[i] - t[i]) * x[i];
  kd_assert_close (read_weight ("w.st"), w, 1e-6);
}
GST_END_TEST

/* The mean runs over all rows of the step, however they came: 3 + 1 rows are the batch of 4. */
GST_START_TEST (test_accumulate)
{
  gfloat whole;

  run_ok ("batch-size=4", STUDENT "kdtrain optimizer=sgd momentum=0 learning-rate=0.1");
  whole = read_weight ("w.st");
  run_ok ("batch-size=3", STUDENT "kdtrain optimizer=sgd momentum=0 learning-rate=0.1 accumulate=2");
  kd_assert_close (read_weight ("w.st"), whole, 1e-6);
  run_ok ("batch-size=3", STUDENT "kdtrain optimizer=sgd momentum=0 learning-rate=0.1 accumulate=5"); /* the stream ends before the step is full */
  kd_assert_close (read_weight ("w.st"), whole, 1e-6);
  run_ok ("batch-size=3", STUDENT "kdtrain optimizer=sgd momentum=0 learning-rate=0.1");
  ck_assert (fabs (read_weight ("w.st") - whole) > 1e-4);
}
GST_END_TEST

GST_START_TEST (test_clip_and_schedule)
{
  gfloat first;

  run_ok ("batch-size=4", STUDENT "kdtrain optimizer=sgd momentum=0 learning-rate=0");
  first = read_weight ("w.st");
  run_ok ("batch-size=4", STUDENT "kdtrain optimizer=sgd momentum=0 learning-rate=1 clip-norm=0.01");
  kd_assert_close (fabs (read_weight ("w.st") - first), 0.01, 1e-4);
  run_ok ("batch-size=4", STUDENT "kdtrain optimizer=sgd momentum=0 learning-rate=1 clip-norm=0.01 warmup-steps=4"); /* the first of four steps up */
  kd_assert_close (fabs (read_weight ("w.st") - first), 0.0025, 1e-4);
}
GST_END_TEST

GST_START_TEST (test_validation_is_not_trained_on)
{
  gfloat first;

  run_ok ("batch-size=4", STUDENT "kdtrain learning-rate=0");
  first = read_weight ("w.st");
  run_ok ("batch-size=4 validation=true", STUDENT "kdtrain learning-rate=0.5");
  ck_assert (read_weight ("w.st") == first);
}
GST_END_TEST

GST_START_TEST (test_refusals)
{
  refuses ("", "kdstudent arch=\"linear out=1\" ! kdtrain", "Teacher field read by nobody: element=kdtrain");
  refuses ("fields=input", "kdstudent arch=\"linear out=1\" ! kdtrain", "Nothing learns: element=kdtrain");
  refuses ("epochs=40 batch-size=1", STUDENT "kdtrain optimizer=sgd learning-rate=1e6", "not finite");
  refuses ("", STUDENT "kdtrain checkpoint=/nonexistent/c.ckpt", "/nonexistent/");
}
GST_END_TEST

KD_MODEL_TESTS (kdtrain, test_sgd_by_hand, test_accumulate, test_clip_and_schedule, test_validation_is_not_trained_on, test_refusals)
