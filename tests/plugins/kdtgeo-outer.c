/* kdtgeo in graphs that train: the student's look-ahead against the same by hand in double, and that it leaves no trace. */
#include "kd-graph.h"
#include "kd-leaf.h"

#include <string.h>

#define N_TRAIN 6
#define N_HELD 5
#define N_PARAMS 31 /* 3 x 4 + 4 + 4 x 3 + 3 */
#define SOURCE "kdh5src location=%F/t.h5 "
#define STUDENT "! kdstudent arch=\"mlp dims=3,4,3 activation=tanh\" seed=5 save=%F/s.st "
#define GEO "! kdtgeo name=geo class-mean=batch temperature=2 validation=%F/v.h5 controller-weight-decay=0 seed=2 inner-lr=0.7 "

static gchar *folder;
static gdouble inputs[N_TRAIN + N_HELD][3], teacher[N_TRAIN][3];
static const gint64 labels[N_TRAIN + N_HELD] = { 0, 1, 2, 2, 1, 0, 1, 2, 0, 0, 2 };

static KdTensor *
rows_of (const gdouble (*values)[3], gint64 n)
{
  const gint64 dims[2] = { n, 3 };
  KdTensor *tensor = kd_tensor_new (KD_FLOAT32, 2, dims);

  for (gint64 i = 0; i < 3 * n; i++)
    ((gfloat *) tensor->data)[i] = (gfloat) (&values[0][0])[i];
  return tensor;
}

static void
write_file (const gchar *name, guint n_fields, gint64 first, gint64 n, gint64 wrong)
{
  static const gchar *names[] = { "input", "label", "teacher.logits" };
  g_autofree gchar *path = g_build_filename (folder, name, NULL);
  KdTensor *tensors[3] = { rows_of (&inputs[first], n), kd_tensor_new (KD_INT64, 1, &n), rows_of (teacher, MIN (n, N_TRAIN)) };

  memcpy (tensors[1]->data, labels + first, (gsize) n * sizeof (gint64));
  ((gint64 *) tensors[1]->data)[0] += wrong;
  kd_test_write (path, n_fields, names, tensors);
  for (guint i = 0; i < 3; i++)
    kd_tensor_unref (tensors[i]);
}

static void
setup (void)
{
  KdRandom random;

  folder = kd_test_folder ();
  kd_random_init (&random, 1, 2, 3, 4);
  for (guint i = 0; i < N_TRAIN + N_HELD; i++)
    for (guint j = 0; j < 3; j++)
      inputs[i][j] = (gfloat) kd_random_normal (&random);
  for (guint i = 0; i < N_TRAIN; i++)
    for (guint j = 0; j < 3; j++)
      teacher[i][j] = (gfloat) (2 * kd_random_normal (&random));
  write_file ("t.h5", 3, 0, N_TRAIN, 0);
  write_file ("v.h5", 2, N_TRAIN, N_HELD, 0);
  write_file ("wrong.h5", 2, N_TRAIN, N_HELD, 9);
}

static void
teardown (void)
{
  kd_test_remove (folder);
  g_clear_pointer (&folder, g_free);
}

static gchar *
run (const gchar *graph)
{
  g_auto (GStrv) parts = g_strsplit (graph, "%F", -1);
  g_autofree gchar *text = g_strjoinv (folder, parts);
  guint n_errors = 0;
  gchar *message = kd_test_run (text, &n_errors);

  ck_assert_msg (n_errors == (*message != 0), "%u errors: %s", n_errors, message);
  return message;
}

static void
run_ok (const gchar *graph)
{
  g_autofree gchar *message = run (graph);

  ck_assert_msg (*message == 0, "%s: %s", graph, message);
}

static void
refuses (const gchar *graph, const gchar *part)
{
  g_autofree gchar *message = run (graph);

  ck_assert_msg (strstr (message, part) != NULL, "%s\nerror: \"%s\"\nis without: \"%s\"", graph, message, part);
}

static void
read_parameters (const gchar *file, gdouble *ret)
{
  static const gchar *names[] = { "layer1.weight", "layer1.bias", "layer2.weight", "layer2.bias" };
  g_autofree gchar *path = g_build_filename (folder, file, NULL);
  GError *error = NULL;
  guint at = 0;

  for (guint i = 0; i < 4; i++) {
    g_autoptr (KdTensor) tensor = kd_safetensors_read (path, names[i], &error);
    ck_assert_msg (tensor != NULL, "%s", error ? error->message : "");
    for (gsize j = 0; j < kd_tensor_n_elements (tensor); j++)
      ret[at++] = kd_tensor_get_double (tensor, j);
  }
  ck_assert_uint_eq (at, N_PARAMS);
}

static void
logits_of (const gdouble *w, const gdouble *x, gdouble *z)
{
  gdouble h[4];

  for (guint i = 0; i < 4; i++)
    h[i] = tanh (w[12 + i] + w[3 * i] * x[0] + w[3 * i + 1] * x[1] + w[3 * i + 2] * x[2]);
  for (guint i = 0; i < 3; i++) {
    z[i] = w[28 + i];
    for (guint j = 0; j < 4; j++)
      z[i] += w[16 + 4 * i + j] * h[j];
  }
}

static void
log_softmax (const gdouble *z, gdouble t, gdouble *ret)
{
  gdouble sum = exp (z[0] / t) + exp (z[1] / t) + exp (z[2] / t);

  for (guint i = 0; i < 3; i++)
    ret[i] = z[i] / t - log (sum);
}

typedef gdouble (*Value) (const gdouble *w, const gdouble *alpha);

/* mean alpha T^2 KL + (1 - alpha) CE over the training rows, T = 2. */
static gdouble
inner_loss (const gdouble *w, const gdouble *alpha)
{
  gdouble sum = 0, z[3], p[3], q[3], s[3];

  for (guint n = 0; n < N_TRAIN; n++) {
    gdouble kl = 0;
    logits_of (w, inputs[n], z);
    log_softmax (z, 2, p);
    log_softmax (z, 1, s);
    log_softmax (teacher[n], 2, q);
    for (guint i = 0; i < 3; i++)
      kl += exp (q[i]) * (q[i] - p[i]);
    sum += alpha[n] * 4 * kl - (1 - alpha[n]) * s[labels[n]];
  }
  return sum / N_TRAIN;
}

static gdouble
held_out_loss (const gdouble *w, const gdouble *unused)
{
  gdouble sum = 0, z[3], s[3];

  for (guint n = N_TRAIN; n < N_TRAIN + N_HELD; n++) {
    logits_of (w, inputs[n], z);
    log_softmax (z, 1, s);
    sum -= s[labels[n]];
  }
  return sum / N_HELD;
}

static void
differentiate (Value value, const gdouble *w, const gdouble *alpha, gdouble *ret)
{
  gdouble moved[N_PARAMS], h = 1e-5;

  memcpy (moved, w, sizeof moved);
  for (guint i = 0; i < N_PARAMS; i++) {
    gdouble up;
    moved[i] = w[i] + h;
    up = value (moved, alpha);
    moved[i] = w[i] - h;
    ret[i] = (up - value (moved, alpha)) / (2 * h);
    moved[i] = w[i];
  }
}

/* The leaf on the training rows with the logits that the student has at @w, as the first batch of a run sees them. */
static void
leaf_at (Leaf *leaf, const gdouble *w, const gchar *properties)
{
  gdouble z[N_TRAIN][3];
  gint64 n = N_TRAIN;
  KdTensor *label = kd_tensor_new (KD_INT64, 1, &n);

  leaf_open (leaf, "kdtgeo", properties, N_TRAIN);
  for (guint i = 0; i < N_TRAIN; i++)
    logits_of (w, inputs[i], z[i]);
  memcpy (label->data, labels, label->n_bytes);
  kd_batch_set (leaf->batch, "label", label);
  kd_batch_set (leaf->batch, "student.logits", rows_of (z, N_TRAIN));
  kd_batch_set (leaf->batch, "teacher.logits", rows_of (teacher, N_TRAIN));
}

/* d/de z (w + e v) along the held-out gradient after the step, all by differences in double. */
static void
movement (const gdouble *w, const gdouble *alpha, gdouble eta, gdouble (*ret)[3], gdouble *ret_held_out)
{
  gdouble g[N_PARAMS], v[N_PARAMS], ahead[N_PARAMS], up[N_PARAMS], down[N_PARAMS], a[3], b[3], h = 1e-5;

  differentiate (inner_loss, w, alpha, g);
  for (guint i = 0; i < N_PARAMS; i++)
    ahead[i] = w[i] - eta * g[i];
  *ret_held_out = held_out_loss (ahead, NULL);
  differentiate (held_out_loss, ahead, NULL, v);
  for (guint i = 0; i < N_PARAMS; i++) {
    up[i] = w[i] + h * v[i];
    down[i] = w[i] - h * v[i];
  }
  for (guint n = 0; n < N_TRAIN; n++) {
    logits_of (up, inputs[n], a);
    logits_of (down, inputs[n], b);
    for (guint i = 0; i < 3; i++)
      ret[n][i] = (a[i] - b[i]) / (2 * h);
  }
}

static KdCheckpoint *
load (const gchar *name)
{
  g_autofree gchar *path = g_build_filename (folder, name, NULL);
  GError *error = NULL;
  KdCheckpoint *checkpoint = kd_checkpoint_load (path, &error);

  kd_assert_no_error (error);
  return checkpoint;
}

static KdTensor *
state_of (KdCheckpoint *checkpoint, const gchar *name)
{
  KdTensor *tensor = g_hash_table_lookup (kd_checkpoint_table (checkpoint, "geo", TRUE), name);

  ck_assert_msg (tensor != NULL, "no state %s", name);
  return tensor;
}

static const gchar *const names[] = { "controller.fc1.weight", "controller.fc1.bias", "controller.fc2.weight", "controller.fc2.bias", "controller.fc3.weight",
  "controller.fc3.bias" };

/* After one step Adam's first moment is a tenth of the gradient: it must be the one that follows from the movement by hand. */
GST_START_TEST (test_gradient_by_hand)
{
  g_auto (Leaf) before = { 0 }, leaf = { 0 };
  g_autoptr (KdCheckpoint) checkpoint = NULL;
  gdouble w[N_PARAMS], alpha[N_TRAIN], jvp[N_TRAIN][3], held_out, largest = 0, worst = 0;

  run_ok (SOURCE STUDENT "! fakesink");
  read_parameters ("s.st", w);
  run_ok (SOURCE "batch-size=6 " STUDENT GEO "! kdtrain checkpoint=%F/c.ckpt");
  checkpoint = load ("c.ckpt");
  leaf_at (&before, w, "class-mean=batch temperature=2 seed=2 meta-every=0");
  leaf_run_ok (&before);
  for (guint n = 0; n < N_TRAIN; n++)
    alpha[n] = leaf_get (&before, "sample.fusion", n);
  movement (w, alpha, 0.7, jvp, &held_out);
  leaf_at (&leaf, w, "class-mean=batch temperature=2 seed=2 inner-lr=0.7 diagnostics=true");
  kd_batch_set (leaf.batch, "student.logits.jvp", rows_of (jvp, N_TRAIN));
  leaf_run_ok (&leaf);
  kd_assert_close (kd_tensor_get_double (state_of (checkpoint, "outer"), 0), held_out, 1e-5);
  for (guint part = 0; part < 6; part++) {
    g_autofree gchar *moment = g_strconcat (names[part], ".moment1", NULL), *grad = g_strconcat ("grad.", names[part], NULL);
    KdTensor *got = state_of (checkpoint, moment);
    for (gsize i = 0; i < kd_tensor_n_elements (got); i++) {
      gdouble wanted = leaf_get (&leaf, grad, i);
      largest = MAX (largest, fabs (wanted));
      worst = MAX (worst, fabs (10 * kd_tensor_get_double (got, i) - wanted));
    }
  }
  ck_assert (largest > 1e-4);
  ck_assert_msg (worst < 1e-3 * largest, "%g of %g", worst, largest);
}
GST_END_TEST

static void
expect_same_weights (const gchar *a, const gchar *b)
{
  gdouble x[N_PARAMS], y[N_PARAMS];

  read_parameters (a, x);
  read_parameters (b, y);
  for (guint i = 0; i < N_PARAMS; i++)
    ck_assert_msg (x[i] == y[i], "parameter %u: %.9g and %.9g", i, x[i], y[i]);
}

/* A controller that looks ahead but does not move leaves the student's run as it is to the last bit: parameters, gradients that wait for their step,
 * moments, dropout. */
GST_START_TEST (test_no_trace)
{
#define RUN(save, geo) \
  "kdh5src location=%F/t.h5 batch-size=2 epochs=5 shuffle=true ! kdstudent arch=\"mlp dims=3,4,3 dropout=0.3\" seed=5 save=%F/" save GEO geo "! kdtrain learning-rate=0.05 accumulate=2"
  run_ok (RUN ("a.st ", "controller-lr=1e-12 "));
  run_ok (RUN ("b.st ", "meta-every=0 "));
  expect_same_weights ("a.st", "b.st");
  run_ok (RUN ("b.st ", "controller-lr=0.1 ")); /* and one that moves does not */
  {
    gdouble x[N_PARAMS], y[N_PARAMS];
    read_parameters ("a.st", x);
    read_parameters ("b.st", y);
    ck_assert (memcmp (x, y, sizeof x) != 0);
  }
#undef RUN
}
GST_END_TEST

GST_START_TEST (test_resume)
{
#define RUN(epochs, save, checkpoint)                                                                                                            \
  SOURCE "name=source batch-size=2 shuffle=true epochs=" epochs " ! kdstudent name=student arch=\"mlp dims=3,4,3\" seed=5 save=%F/" save " " GEO \
         "meta-every=2 validation-batch-size=2 controller-lr=0.05 ! kdtrain name=train learning-rate=0.05 resume=true checkpoint=%F/" checkpoint
  g_autoptr (KdCheckpoint) whole = NULL, parts = NULL;

  run_ok (RUN ("5", "a.st", "a.ckpt"));
  run_ok (RUN ("2", "b.st", "b.ckpt")); /* ends at an even and an odd place of the held-out batches */
  run_ok (RUN ("5", "b.st", "b.ckpt"));
  expect_same_weights ("a.st", "b.st");
  whole = load ("a.ckpt");
  parts = load ("b.ckpt");
  ck_assert_int_eq (kd_tensor_get_double (state_of (whole, "controller.step"), 0), 8); /* of 15 batches */
  for (guint part = 0; part < 6; part++)
    for (guint kind = 0; kind < 3; kind++) {
      g_autofree gchar *name = kind ? g_strdup_printf ("%s.moment%u", names[part], kind) : g_strdup (names[part]);
      ck_assert_msg (kd_tensor_equal (state_of (whole, name), state_of (parts, name)), "%s differs", name);
    }
  ck_assert (kd_tensor_equal (state_of (whole, "outer"), state_of (parts, "outer")));
#undef RUN
}
GST_END_TEST

GST_START_TEST (test_resume_other_controller)
{
  run_ok (SOURCE STUDENT GEO "! kdtrain checkpoint=%F/c.ckpt");
  refuses (SOURCE "epochs=2 " STUDENT GEO "hidden1=4 ! kdtrain checkpoint=%F/c.ckpt resume=true", "element=geo: State does not fit: state=controller.fc1.weight, shape=[32,27], wanted=[4,27]");
}
GST_END_TEST

GST_START_TEST (test_refusals)
{
  const gchar *queue = "Cannot look ahead: model=student, reason=a queue stands between model and trainer";
  const gchar *named = "! kdstudent name=student arch=\"mlp dims=3,4,3\" ";
  g_autofree gchar *before = g_strconcat (SOURCE "batch-size=1 epochs=3 ", named, "! queue ", GEO, "! kdtrain", NULL);
  g_autofree gchar *after = g_strconcat (SOURCE "batch-size=1 epochs=3 ", named, GEO, "! queue ! kdtrain max-in-flight=300", NULL);
  g_autofree gchar *first = g_strconcat (SOURCE "batch-size=1 epochs=3 ! queue ", named, GEO, "! kdtrain", NULL);

  refuses (SOURCE STUDENT "! kdtgeo name=geo class-mean=batch ! kdtrain", "Nothing to learn from: element=kdtgeo, meta-every=1, validation=\"\"; set validation to a file with held-out rows, or meta-every=0");
  run_ok (SOURCE STUDENT "! kdtgeo class-mean=batch meta-every=0 ! kdtrain");
  run_ok (SOURCE STUDENT "! kdtgeo class-mean=batch ! fakesink"); /* nobody trains here */
  refuses (before, queue);
  refuses (SOURCE "! kdstudent name=student arch=\"mlp dims=3,4,3\" ! queue " GEO "! kdtrain", queue); /* with one batch too, where nothing collides */
  refuses (after, queue);
  run_ok (first);
  refuses (SOURCE "! kdstudent arch=\"mlp dims=3,4,3\" trainable=false " GEO "! kdtrain", "it does not learn (trainable=false)");
  refuses (SOURCE "! kdstudent arch=\"mlp dims=3,4,3\" features=layer1 ! kdmodule kind=linear in=student.features.layer1 out=student.logits config=\"out=3\" " GEO "! kdtrain",
      "student.logits must come from one model");
  refuses (SOURCE STUDENT "! kdconfidence mode=drop threshold=0.8 " GEO "! kdtrain", "the batch is not as the model made it");
  refuses (SOURCE STUDENT "! kdtgeo name=geo class-mean=batch validation=%F/wrong.h5 ! kdtrain", "Label out of range: held-out row=0, label=10, classes=3");
  refuses (SOURCE STUDENT GEO "validation-first=5 ! kdtrain", "No such rows: element=kdtgeo");
  refuses (SOURCE STUDENT GEO "validation-first=3 validation-count=3 ! kdtrain", "validation-count=3, rows=5");
  refuses (SOURCE STUDENT GEO "diagnostics=true ! kdtrain", "Gradient nobody takes");
}
GST_END_TEST

/* The rows @first .. of both files with their ids from @id on: "t-ids.h5" or "v-ids.h5". */
static void
write_with_ids (const gchar *name, gint64 first, gint64 n, gint64 id)
{
  static const gchar *names[] = { "input", "label", "sample.id" };
  g_autofree gchar *path = g_build_filename (folder, name, NULL);
  KdTensor *tensors[3] = { rows_of (&inputs[first], n), kd_tensor_new (KD_INT64, 1, &n), kd_tensor_new (KD_INT64, 1, &n) };

  memcpy (tensors[1]->data, labels + first, (gsize) n * sizeof (gint64));
  for (gint64 i = 0; i < n; i++)
    ((gint64 *) tensors[2]->data)[i] = id + i;
  kd_test_write (path, 3, names, tensors);
  for (guint i = 0; i < 3; i++)
    kd_tensor_unref (tensors[i]);
}

/* Ids 0 .. 5 are trained on (t.h5 has none of its own): a held-out row may have neither such an id nor such an input. */
GST_START_TEST (test_disjoint)
{
#define HELD(more) SOURCE STUDENT "! kdtgeo name=geo class-mean=batch " more
  write_with_ids ("ids.h5", N_TRAIN, N_HELD, 4);   /* other rows, ids 4 .. 8 */
  write_with_ids ("inputs.h5", 3, 5, 100);         /* rows 3 .. 7, ids of other data */
  write_with_ids ("apart.h5", N_TRAIN, N_HELD, 6); /* neither */
  refuses (HELD ("validation=%F/ids.h5 ! kdtrain"), "/ids.h5\", row=0, same=sample.id, sample.id=4; leave it out of the training rows, or set validation-check=inputs when the file's ids are of other data");
  refuses (HELD ("validation=%F/ids.h5 validation-first=1 meta-every=9 ! kdtrain"), "Held-out row is trained on: element=kdtgeo, validation=\"");
  refuses (HELD ("validation=%F/ids.h5 validation-first=1 ! kdtrain"), "row=1, same=sample.id, sample.id=5");
  run_ok (HELD ("validation=%F/ids.h5 validation-first=2 ! kdtrain"));
  run_ok (HELD ("validation=%F/ids.h5 validation-check=inputs ! kdtrain"));
  refuses (HELD ("validation=%F/inputs.h5 ! kdtrain"), "row=0, same=input, sample.id=3; leave it out of the training rows, or set validation-check=none");
  refuses (HELD ("validation=%F/inputs.h5 validation-check=inputs validation-first=2 ! kdtrain"), "row=2, same=input, sample.id=5");
  run_ok (HELD ("validation=%F/inputs.h5 validation-first=3 ! kdtrain"));
  run_ok (HELD ("validation=%F/inputs.h5 validation-check=none ! kdtrain"));
  run_ok (HELD ("validation=%F/apart.h5 ! kdtrain"));
  run_ok (HELD ("validation=%F/inputs.h5 meta-every=0 ! kdtrain")); /* nothing is learned from them */
  run_ok (HELD ("validation=%F/inputs.h5 ! fakesink"));
#undef HELD
}
GST_END_TEST

static Suite *
kdtgeo_outer_suite (void)
{
  Suite *s = suite_create ("kdtgeo-outer");
  TCase *t = tcase_create ("all");

  suite_add_tcase (s, t);
  tcase_add_checked_fixture (t, setup, teardown);
  tcase_add_test (t, test_gradient_by_hand);
  tcase_add_test (t, test_no_trace);
  tcase_add_test (t, test_resume);
  tcase_add_test (t, test_resume_other_controller);
  tcase_add_test (t, test_disjoint);
  tcase_add_test (t, test_refusals);
  return s;
}
GST_CHECK_MAIN (kdtgeo_outer)
