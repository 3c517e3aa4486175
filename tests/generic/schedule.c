/* Parameters that change during a run: values by hand, batch by batch, and texts that are refused. */
#include "../support/kd-graph.h"
#include <math.h>
#include <string.h>

#define N 6

static gchar *folder;

static void
set_up (void)
{
  static const gchar *const names[] = { "student.logits", "teacher.logits" };
  g_autofree gchar *path = NULL;
  gint64 dims[2] = { N, 2 };
  g_autoptr (KdTensor) student = kd_tensor_new (KD_FLOAT32, 2, dims), teacher = kd_tensor_new_zero (KD_FLOAT32, 2, dims);
  KdTensor *tensors[2] = { student, teacher };

  memset (student->data, 0, student->n_bytes);
  for (gint i = 0; i < N; i++)
    ((gfloat *) student->data)[2 * i] = 1;
  folder = kd_test_folder ();
  path = g_build_filename (folder, "in.h5", NULL);
  kd_test_write (path, 2, names, tensors);
}

static void
tear_down (void)
{
  kd_test_remove (folder);
  g_free (folder);
}

static gchar *
run (const gchar *loss)
{
  g_autofree gchar *graph = g_strdup_printf ("kdh5src location=%s/in.h5 batch-size=1 ! %s ! kdh5sink location=%s/out.h5", folder, loss, folder);

  return kd_test_run (graph, NULL);
}

/* Of the first class. The mean of (s - 0)^2 over two classes has the weight as gradient at s = 1. */
static void
expect (const gchar *loss, const gdouble *gradient)
{
  g_autofree gchar *result = run (loss), *path = g_build_filename (folder, "out.h5", NULL);
  GError *error = NULL;
  g_autoptr (KdH5Reader) reader = NULL;
  g_autoptr (KdTensor) grad = NULL;

  ck_assert_str_eq (result, "");
  reader = kd_h5_reader_open (path, NULL, &error);
  kd_assert_no_error (error);
  grad = kd_h5_reader_read_all (reader, "grad.student.logits", &error);
  kd_assert_no_error (error);
  for (guint i = 0; i < N; i++)
    kd_assert_close (((gfloat *) grad->data)[2 * i], gradient[i], 1e-6);
}

static void
refuses (const gchar *schedule, const gchar *text)
{
  g_autofree gchar *loss = g_strdup_printf ("kdlogitmse name=mse schedule=\"%s\"", schedule), *result = run (loss);

  ck_assert_msg (strstr (result, text) && strstr (result, "mse"), "%s: \"%s\"", schedule, result);
}

GST_START_TEST (test_shapes)
{
  const gdouble line[N] = { 1, 2, 3, 4, 5, 5 }, late[N] = { 2, 2, 2, 1, 0, 0 };
  gdouble cosine[N];

  for (guint i = 0; i < N; i++)
    cosine[i] = 3 + (1 - 3) * 0.5 * (1 + cos (G_PI * MIN (i, 4) / 4.0));
  expect ("kdlogitmse schedule=\"weight linear 1 5 4\"", line);
  expect ("kdlogitmse schedule=\"weight linear 2 0 2 2;\"", late);
  expect ("kdlogitmse weight=7 schedule=\"weight cosine 1 3 4\"", cosine);
}
GST_END_TEST

GST_START_TEST (test_leaf_parameters)
{
  gdouble gradient[N];

  for (guint i = 0; i < N; i++) {
    gdouble T = 1 + MIN (i, 3), kd = MIN (i, 3) / 3.0;
    gradient[i] = kd * T * (1 / (1 + exp (-1 / T)) - 0.5);
  }
  expect ("kdhinton ce-weight=0 schedule=\"temperature linear 1 4 3; kd-weight linear 0 1 3\"", gradient);
}
GST_END_TEST

/* The first loss has weight 3 and the value 3/2, which is the second's weight. */
GST_START_TEST (test_field)
{
  const gdouble gradient[N] = { 4.5, 4.5, 4.5, 4.5, 4.5, 4.5 };

  expect ("kdlogitmse name=first weight=3 ! kdlogitmse name=second schedule=\"weight field loss.first\"", gradient);
}
GST_END_TEST

GST_START_TEST (test_refusals)
{
  refuses ("weight", "Schedule not understood");
  refuses ("weight square 0 1 10", "Schedule not understood");
  refuses ("weight linear 0 1", "numbers are missing");
  refuses ("weight linear 0 one 10", "FROM and TO are numbers");
  refuses ("weight linear 0 1 0", "BATCHES is at least 1");
  refuses ("weight linear 0 inf 10", "FROM and TO are numbers");
  refuses ("weight linear 0 1 10 -1", "START at least 0");
  refuses ("weight linear 0 -1 10", "Value out of range");
  refuses ("mass linear 0 1 10", "no such parameter");
  refuses ("reduction linear 0 1 10", "not a real number");
  refuses ("weight linear 0 1 10; weight cosine 1 0 10", "has a schedule already");
  refuses ("weight field nowhere", "nowhere");
  refuses ("weight field student.logits extra", "Schedule not understood");
}
GST_END_TEST

static Suite *
schedule_suite (void)
{
  Suite *s = suite_create ("schedule");
  TCase *t = tcase_create ("all");

  suite_add_tcase (s, t);
  tcase_add_checked_fixture (t, set_up, tear_down);
  tcase_add_test (t, test_shapes);
  tcase_add_test (t, test_leaf_parameters);
  tcase_add_test (t, test_field);
  tcase_add_test (t, test_refusals);
  return s;
}
GST_CHECK_MAIN (schedule)
