/* kdgradcos in graphs that train: against central differences in double of the same two losses, and that it leaves no trace. */
#include "kd-graph.h"
#include "kd-leaf.h"

#define N 6
#define N_LAYER1 16
#define N_PARAMS 31 /* 3 x 4 + 4 + 4 x 3 + 3 */
#define SOURCE "kdh5src location=%F/t.h5 batch-size=6 "
#define STUDENT "! kdstudent arch=\"mlp dims=3,4,3 activation=tanh\" features=layer1 seed=5 save=%F/s.st "
#define STILL "! kdtrain optimizer=sgd momentum=0 learning-rate=0 "
#define HEAD "! kdmodule in=student.features.layer1 out=student.kd.logits config=\"out=3\" seed=9 "
#define HEAD_LOSS "! kddho ce-weight=0 ce-field=student.logits "

static gchar *folder;
static gfloat inputs[N][3], teacher[N][3];
static const gint64 labels[N] = { 0, 1, 2, 2, 1, 0 };
static gdouble parameters[N_PARAMS];

static KdTensor *
rows_of (const gfloat (*values)[3])
{
  const gint64 dims[2] = { N, 3 };
  KdTensor *tensor = kd_tensor_new (KD_FLOAT32, 2, dims);

  memcpy (tensor->data, values, tensor->n_bytes);
  return tensor;
}

static void
write_file (const gchar *file)
{
  static const gchar *names[] = { "input", "label", "teacher.logits", "student.logits" };
  static const gint64 n = N;
  g_autofree gchar *path = g_build_filename (folder, file, NULL);
  KdTensor *tensors[4] = { rows_of (inputs), kd_tensor_new (KD_INT64, 1, &n), rows_of (teacher), rows_of (inputs) };

  memcpy (tensors[1]->data, labels, sizeof labels);
  kd_test_write (path, g_str_equal (file, "made.h5") ? 4 : 3, names, tensors);
  for (guint i = 0; i < 4; i++)
    kd_tensor_unref (tensors[i]);
}

/* "" or the error; *ret_cosine of the last message, NaN without any; *ret_count of all. */
static gchar *
run (const gchar *graph, gdouble *ret_cosine, guint64 *ret_count)
{
  g_auto (GStrv) parts = g_strsplit (graph, "%F", -1);
  g_autofree gchar *text = g_strjoinv (folder, parts);
  GError *error = NULL;
  g_autoptr (GstElement) pipeline = gst_parse_launch (text, &error);
  g_autoptr (GstBus) bus = NULL;
  gchar *result = NULL;
  guint n_errors = 0;

  ck_assert_msg (pipeline && !error, "%s", error ? error->message : text);
  *ret_cosine = NAN;
  *ret_count = 0;
  bus = gst_element_get_bus (pipeline);
  gst_element_set_state (pipeline, GST_STATE_PLAYING);
  for (gboolean done = FALSE; !done;) {
    g_autoptr (GstMessage) message = gst_bus_timed_pop_filtered (bus, result ? GST_SECOND / 5 : 100 * GST_SECOND, GST_MESSAGE_ERROR | GST_MESSAGE_EOS | GST_MESSAGE_ELEMENT);
    const GstStructure *s = message ? gst_message_get_structure (message) : NULL;
    done = !message || GST_MESSAGE_TYPE (message) == GST_MESSAGE_EOS;
    if (message && GST_MESSAGE_TYPE (message) == GST_MESSAGE_ERROR) {
      gst_message_parse_error (message, &error, NULL);
      if (!strstr (error->message, "Internal data stream error")) {
        n_errors++;
        result = result ? result : g_strdup (error->message);
      }
      g_clear_error (&error);
    } else if (s && gst_structure_has_name (s, "kd-metrics")) {
      guint64 count;
      ck_assert (gst_structure_get_double (s, "grad-cosine", ret_cosine) && gst_structure_get_uint64 (s, "batches", &count));
      *ret_count += count;
    }
  }
  gst_element_set_state (pipeline, GST_STATE_NULL);
  ck_assert_msg (n_errors == (result != NULL), "%u errors: %s", n_errors, result);
  return result ? result : g_strdup ("");
}

static gdouble
cosine (const gchar *graph, guint64 wanted_count)
{
  gdouble value;
  guint64 count;
  g_autofree gchar *message = run (graph, &value, &count);

  ck_assert_msg (*message == 0, "%s: %s", graph, message);
  ck_assert_msg (count == wanted_count, "%s: %u batches", graph, (guint) count);
  return value;
}

static void
refuses (const gchar *graph, const gchar *part)
{
  gdouble value;
  guint64 count;
  g_autofree gchar *message = run (graph, &value, &count);

  ck_assert_msg (strstr (message, part) != NULL, "%s\nerror: \"%s\"\nis without: \"%s\"", graph, message, part);
}

static void
setup (void)
{
  static const gchar *names[] = { "layer1.weight", "layer1.bias", "layer2.weight", "layer2.bias" };
  g_autofree gchar *path = NULL;
  KdRandom random;
  guint at = 0;

  folder = kd_test_folder ();
  kd_random_init (&random, 1, 2, 3, 4);
  for (guint i = 0; i < N * 3; i++) {
    inputs[i / 3][i % 3] = (gfloat) kd_random_normal (&random);
    teacher[i / 3][i % 3] = (gfloat) (2 * kd_random_normal (&random));
  }
  write_file ("t.h5");
  write_file ("made.h5");
  cosine (SOURCE STUDENT "! kdlogitmse " STILL, 0);
  path = g_build_filename (folder, "s.st", NULL);
  for (guint i = 0; i < 4; i++) {
    g_autoptr (KdTensor) tensor = kd_safetensors_read (path, names[i], NULL);
    for (gsize j = 0; j < kd_tensor_n_elements (tensor); j++)
      parameters[at++] = kd_tensor_get_double (tensor, j);
  }
  ck_assert_uint_eq (at, N_PARAMS);
}

static void
teardown (void)
{
  kd_test_remove (folder);
  g_clear_pointer (&folder, g_free);
}

static void
logits_of (const gdouble *w, const gfloat *x, gdouble *z)
{
  for (guint i = 0; i < 3; i++) {
    z[i] = w[28 + i];
    for (guint j = 0; j < 4; j++)
      z[i] += w[16 + 4 * i + j] * tanh (w[12 + j] + w[3 * j] * x[0] + w[3 * j + 1] * x[1] + w[3 * j + 2] * x[2]);
  }
}

static gdouble
cross_entropy (const gdouble *w)
{
  gdouble sum = 0, z[3];

  for (guint n = 0; n < N; n++) {
    logits_of (w, inputs[n], z);
    sum += log (exp (z[0]) + exp (z[1]) + exp (z[2])) - z[labels[n]];
  }
  return sum / N;
}

static gdouble
squares (const gdouble *w)
{
  gdouble sum = 0, z[3];

  for (guint n = 0; n < N; n++) {
    logits_of (w, inputs[n], z);
    for (guint i = 0; i < 3; i++)
      sum += (z[i] - teacher[n][i]) * (z[i] - teacher[n][i]);
  }
  return sum / (N * 3);
}

static gdouble
slope (gdouble (*loss) (const gdouble *w), guint i)
{
  gdouble w[N_PARAMS], up;

  memcpy (w, parameters, sizeof w);
  w[i] += 1e-5;
  up = loss (w);
  w[i] -= 2e-5;
  return (up - loss (w)) / 2e-5;
}

static gdouble
wanted (guint first, guint n)
{
  gdouble dot = 0, aa = 0, bb = 0;

  for (guint i = first; i < first + n; i++) {
    gdouble a = slope (cross_entropy, i), b = slope (squares, i);
    dot += a * b;
    aa += a * a;
    bb += b * b;
  }
  return dot / sqrt (aa * bb);
}

GST_START_TEST (test_differences)
{
  gdouble all = wanted (0, N_PARAMS), body = wanted (0, N_LAYER1);

  ck_assert (fabs (all) < 0.99 && fabs (all - body) > 1e-3);
  kd_assert_close (cosine (SOURCE STUDENT "! kdce ! kdgradcos ! kdlogitmse " STILL, 1), all, 1e-5);
  kd_assert_close (cosine (SOURCE STUDENT "! kdlogitmse ! kdgradcos ! kdce weight=3 " STILL, 1), all, 1e-5);
  kd_assert_close (cosine (SOURCE STUDENT "! kdce ! kdgradcos parameters=layer1.* ! kdlogitmse " STILL, 1), body, 1e-5);
  kd_assert_close (cosine (SOURCE STUDENT "! kdce ! kdgradcos parameters=layer2.* ! kdlogitmse " STILL, 1), wanted (N_LAYER1, N_PARAMS - N_LAYER1), 1e-5);
}
GST_END_TEST

GST_START_TEST (test_equal_and_opposite)
{
  gdouble z[3];

  kd_assert_close (cosine (SOURCE STUDENT "! kdlogitmse ! kdgradcos ! kdlogitmse " STILL, 1), 1, 1e-9);
  kd_assert_close (cosine (SOURCE STUDENT "! kdce ! kdgradcos ! kdce weight=0.7 ! kdlogitmse weight=0 " STILL, 1), 1, 1e-6);
  for (guint n = 0; n < N; n++) { /* 2/3 (z - t) = onehot - softmax (z) */
    logits_of (parameters, inputs[n], z);
    for (guint i = 0; i < 3; i++)
      teacher[n][i] = (gfloat) (z[i] + 1.5 * (exp (z[i]) / (exp (z[0]) + exp (z[1]) + exp (z[2])) - (labels[n] == i)));
  }
  write_file ("t.h5");
  kd_assert_close (cosine (SOURCE STUDENT "! kdce ! kdgradcos ! kdlogitmse " STILL, 1), -1, 1e-6);
}
GST_END_TEST

/* The second head's gradient comes to the backbone through its module, before kdgradcos or behind it. */
GST_START_TEST (test_two_heads)
{
  gdouble before = cosine (SOURCE STUDENT HEAD "! kdce ! kdgradcos parameters=layer1.* " HEAD_LOSS STILL, 1);
  gdouble behind = cosine (SOURCE STUDENT "! kdce ! kdgradcos parameters=layer1.* " HEAD HEAD_LOSS STILL, 1);

  ck_assert (fabs (before) > 1e-3 && fabs (before) < 0.999);
  kd_assert_close (before, behind, 1e-6);
  kd_assert_close (cosine (SOURCE STUDENT HEAD HEAD_LOSS "! kdgradcos parameters=layer1.* ! kdce " STILL, 1), before, 1e-6);
  /* Over all parameters the head that only one of them reaches makes the angle wider. */
  ck_assert (fabs (cosine (SOURCE STUDENT HEAD "! kdce ! kdgradcos " HEAD_LOSS STILL, 1)) < fabs (before));
}
GST_END_TEST

GST_START_TEST (test_every)
{
  cosine ("kdh5src location=%F/t.h5 batch-size=2 epochs=3 " STUDENT "! kdce ! kdgradcos every=4 ! kdlogitmse " STILL, 3); /* 0, 4, 8 of 9 */
  cosine ("kdh5src location=%F/t.h5 batch-size=2 epochs=3 " STUDENT "! kdce ! kdgradcos ! kdlogitmse " STILL, 1);
  cosine (SOURCE "validation=true " STUDENT "! kdce ! kdgradcos every=1 ! kdlogitmse " STILL, 0);
  cosine (SOURCE STUDENT "! kdgradcos every=1 ! fakesink", 0); /* without a trainer there is no backward pass */
  cosine (SOURCE STUDENT "! kdce weight=0 ! kdgradcos every=1 ! kdlogitmse " STILL, 0);
}
GST_END_TEST

static GBytes *
trained (const gchar *graph, const gchar *diagnostic, const gchar *trainer, guint64 count)
{
  g_autofree gchar *text = g_strdup_printf (graph, diagnostic, trainer), *path = g_build_filename (folder, "s.st", NULL);
  gchar *contents;
  gsize length;

  cosine (text, count);
  ck_assert (g_file_get_contents (path, &contents, &length, NULL));
  return g_bytes_new_take (contents, length);
}

#define LEARN "kdh5src location=%%F/t.h5 batch-size=2 epochs=8 ! kdstudent arch=\"mlp dims=3,4,3 dropout=0.3\" features=layer1 seed=5 save=%%F/s.st " HEAD "! kdce %s " HEAD_LOSS "! kdlogitmse ! kdtrain learning-rate=0.05 %s"

GST_START_TEST (test_no_trace)
{
  static const gchar *trainers[] = { "", "accumulate=2", "optimizer=sgd clip-norm=0.1" };

  for (guint i = 0; i < G_N_ELEMENTS (trainers); i++) {
    g_autoptr (GBytes) without = trained (LEARN, "", trainers[i], 0), with = trained (LEARN, "! kdgradcos every=1", trainers[i], 24);
    ck_assert_msg (g_bytes_equal (without, with), "%s", trainers[i]);
  }
}
GST_END_TEST

GST_START_TEST (test_refusals)
{
  g_autoptr (GstElement) element = gst_element_factory_make ("kdgradcos", NULL);
  const GParamSpec *every = g_object_class_find_property (G_OBJECT_GET_CLASS (element), "every");

  ck_assert_int_eq (G_PARAM_SPEC_INT64 (every)->minimum, 1);
  refuses (SOURCE STUDENT "! kdgradcos name=g ! kdce " STILL, "No loss before: element=g, layout=\"input label sample.id student.features.layer1 student.logits teacher.logits\"; put one loss before it and one behind it");
  refuses (SOURCE STUDENT "! kdlogitmse ! kdgradcos name=g " STILL, "No loss behind: element=g; put one loss before it and one behind it");
  refuses (SOURCE STUDENT "! kdce ! kdgradcos name=g ! kdlogitmse accumulate=false " STILL, "Loss behind takes the place of those before: element=g, accumulate=false; nothing is left to compare");
  refuses ("kdh5src location=%F/made.h5 ! kdce ! kdgradcos name=g ! kdlogitmse " STILL, "Nothing to compare: element=g, students that learn before it=0, their numbers whose names match parameters=\"*\": 0");
  refuses (SOURCE STUDENT "trainable=false ! kdce ! kdgradcos name=g ! kdlogitmse " STILL, "Nothing to compare: element=g, students that learn before it=0");
  refuses (SOURCE STUDENT "! kdce ! kdgradcos name=g parameters=body.* ! kdlogitmse " STILL, "students that learn before it=1, their numbers whose names match parameters=\"body.*\": 0; put kdstudent before it");
}
GST_END_TEST

static Suite *
kdgradcos_suite (void)
{
  Suite *s = suite_create ("kdgradcos");
  TCase *t = tcase_create ("all");

  suite_add_tcase (s, t);
  tcase_add_checked_fixture (t, setup, teardown);
  KD_ADD (test_differences, test_equal_and_opposite, test_two_heads, test_every, test_no_trace, test_refusals)
  return s;
}
GST_CHECK_MAIN (kdgradcos)
