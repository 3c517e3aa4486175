#include "kd-graph.h"
#include "kd-leaf.h"

#include <string.h>

#define FIELD "teacher.features.embed"

/* Width 3; the classifier sees axis 0. Class 0 spreads along axis 1 (variance 2), then axis 2 (1/2); class 1 along axis 2 (9/2), then 1 (1/2). */
static void
put_rows (Leaf *leaf)
{
  leaf_batch (leaf, 8);
  leaf_put (leaf, FIELD, KD_FLOAT32, 8, 3, 7, 12, 5, 8, 8, 5, 9, 10, 6, 7, 10, 4, -1, 0, 3, -2, 0, -3, -3, 1, 0, -4, -1, 0);
  leaf_put (leaf, "label", KD_INT64, 8, 0, 0, 0, 0, 0, 1, 1, 1, 1);
  leaf_put (leaf, "teacher.logits", KD_FLOAT32, 8, 2, 1, 0, 1, 0, 1, 0, 1, 0, 0, 1, 0, 1, 0, 1, 0, 1);
  leaf_put (leaf, "teacher.classifier.weight", KD_FLOAT32, 2, 3, 2, 0, 0, -1, 0, 0);
}

static void
expect_all (const Leaf *leaf, const gchar *name, guint n, const gdouble *values)
{
  for (guint i = 0; i < n; i++)
    kd_assert_close (leaf_get (leaf, name, i), values[i], 1e-5);
}

GST_START_TEST (test_by_hand)
{
  static const gchar *const how[] = { "assign=teacher", "assign=label" };

  for (guint i = 0; i < 2; i++) {
    g_autofree gchar *properties = g_strconcat ("subclasses=2 rotate=false normalize=true subspace=true ", how[i], NULL);
    g_auto (Leaf) leaf = { 0 };
    leaf_open (&leaf, "kdlelpfit", properties, 1);
    put_rows (&leaf);
    kd_batch_remove (leaf.batch, i ? "teacher.logits" : "label");
    leaf_run_ok (&leaf);
    leaf_conclude_ok (&leaf);
    expect_all (&leaf, "lelp.projector", 9, (gdouble[]) { 0, 0, 0, 0, 1, 0, 0, 0, 1 });
    expect_all (&leaf, "lelp.mean", 6, (gdouble[]) { 0, 10, 5, 0, 0, 0 });
    expect_all (&leaf, "lelp.directions", 12, (gdouble[]) { 0, 1, 0, 0, 0, 1, 0, 0, 1, 0, 1, 0 });
    expect_all (&leaf, "lelp.pca.variance", 4, (gdouble[]) { 2, 0.5, 4.5, 0.5 });
    expect_all (&leaf, "lelp.variance", 4, (gdouble[]) { 2, 0.5, 4.5, 0.5 });
    expect_all (&leaf, "lelp.scale", 2, (gdouble[]) { sqrt (1.25), sqrt (2.5) });
    expect_all (&leaf, "lelp.subspace", 9, (gdouble[]) { 0, 0, 0, 0, 1, 0, 0, 0, 1 });
  }
}
GST_END_TEST

/* The stream's batches are one: sums do not care where it is cut, and rows without a class are left out. */
GST_START_TEST (test_stream)
{
  g_auto (Leaf) whole = { 0 }, cut = { 0 };
  const gint64 first[] = { 0, 4, 1 }, rest[] = { 2, 3, 5, 6, 7 };

  leaf_open (&whole, "kdlelpfit", "subclasses=1 assign=label", 1);
  put_rows (&whole);
  leaf_run_ok (&whole);
  leaf_conclude_ok (&whole);
  leaf_open (&cut, "kdlelpfit", "subclasses=1 assign=label", 1);
  for (guint i = 0; i < 3; i++) {
    put_rows (&cut);
    if (i == 2)
      leaf_put (&cut, "label", KD_INT64, 8, 0, -1, -100, -1, -1, -1, -1, -1, -1);
    else { /* kd_batch_take_rows would take the table's rows of two for samples */
      KdTensor *table = kd_tensor_ref (kd_batch_peek (cut.batch, "teacher.classifier.weight"));
      kd_batch_take_rows (cut.batch, i ? rest : first, i ? 5 : 3);
      kd_batch_set (cut.batch, "teacher.classifier.weight", table);
    }
    leaf_run_ok (&cut);
  }
  leaf_conclude_ok (&cut);
  ck_assert (!kd_batch_peek (cut.batch, "lelp.subspace"));
  for (gsize i = 0; i < 6; i++) {
    leaf_expect (&cut, "lelp.mean", i, leaf_get (&whole, "lelp.mean", i));
    leaf_expect (&cut, "lelp.directions", i, leaf_get (&whole, "lelp.directions", i));
  }
  leaf_expect (&whole, "lelp.scale", 0, 1); /* without normalize */
}
GST_END_TEST

/* A rotation keeps the subspace and the sum of variances, and depends on the seed. */
GST_START_TEST (test_rotation)
{
  g_auto (Leaf) one = { 0 }, again = { 0 }, other = { 0 };
  const gfloat *u;

  leaf_open (&one, "kdlelpfit", "subclasses=2 seed=1", 1);
  leaf_open (&again, "kdlelpfit", "subclasses=2 seed=1", 1);
  leaf_open (&other, "kdlelpfit", "subclasses=2 seed=2", 1);
  for (guint i = 0; i < 3; i++) {
    Leaf *leaf = i == 0 ? &one : i == 1 ? &again
                                        : &other;
    put_rows (leaf);
    leaf_run_ok (leaf);
    leaf_conclude_ok (leaf);
  }
  ck_assert (kd_tensor_equal (kd_batch_peek (one.batch, "lelp.directions"), kd_batch_peek (again.batch, "lelp.directions")));
  ck_assert (!kd_tensor_equal (kd_batch_peek (one.batch, "lelp.directions"), kd_batch_peek (other.batch, "lelp.directions")));
  u = kd_batch_peek (one.batch, "lelp.directions")->data;
  for (guint c = 0; c < 2; c++, u += 6) {
    kd_assert_close (u[0] * u[0] + u[1] * u[1] + u[2] * u[2], 1, 1e-5);
    kd_assert_close (u[0] * u[3] + u[1] * u[4] + u[2] * u[5], 0, 1e-5);
    kd_assert_close (u[0], 0, 1e-5);
    kd_assert_close (leaf_get (&one, "lelp.variance", 2 * c) + leaf_get (&one, "lelp.variance", 2 * c + 1), c ? 5 : 2.5, 1e-5);
    ck_assert (leaf_get (&one, "lelp.variance", 2 * c) < (c ? 4.5 : 2));
  }
}
GST_END_TEST

static void
refuses_at_end (const gchar *properties, void (*change) (Leaf *leaf), KdError code, const gchar *part)
{
  g_auto (Leaf) leaf = { 0 };
  GError *error = NULL;

  leaf_open (&leaf, "kdlelpfit", properties, 1);
  put_rows (&leaf);
  change (&leaf);
  leaf_run_ok (&leaf);
  ck_assert (!leaf_conclude (&leaf, &error));
  kd_assert_error (error, code, part);
}

static void
two_of_class_1 (Leaf *leaf)
{
  leaf_put (leaf, "label", KD_INT64, 8, 0, 0, 0, 0, 0, 0, 0, 1, 1);
}
static void
nothing (Leaf *leaf)
{
}

GST_START_TEST (test_refusals)
{
  g_auto (Leaf) leaf = { 0 };
  GError *error = NULL;

  refuses_at_end ("subclasses=2 assign=label", two_of_class_1, KD_ERROR_VALUE, "Too few rows: element=kdlelpfit, class=1, rows=2, wanted=3 or more; give more data or fewer subclasses");
  refuses_at_end ("subclasses=3", nothing, KD_ERROR_RANGE, "Too few directions: element=kdlelpfit, width=3, rank of the classifier=1, subclasses=3; give fewer subclasses or "
                                                           "null-space=false");
  leaf_open (&leaf, "kdlelpfit", "", 1);
  ck_assert (!leaf_conclude (&leaf, &error));
  kd_assert_error (error, KD_ERROR_VALUE, "Nothing to fit: element=kdlelpfit, rows=0");
  put_rows (&leaf);
  kd_batch_remove (leaf.batch, "teacher.classifier.weight");
  leaf_refuses (&leaf, KD_ERROR_FIELD, "Field missing: element=kdlelpfit, field=teacher.classifier.weight; set classifier and parameter, or null-space=false");
  put_rows (&leaf);
  kd_batch_remove (leaf.batch, "teacher.logits");
  leaf_refuses (&leaf, KD_ERROR_FIELD, "field=teacher.logits; put kdteacher or kdcache before it, or set assign=label");
  put_rows (&leaf);
  leaf_put (&leaf, FIELD, KD_FLOAT32, 8, 3, 7, 12, 5, 8, 8, 5, 9, NAN, 6, 7, 10, 4, -1, 0, 3, -2, 0, -3, -3, 1, 0, -4, -1, 0);
  leaf_refuses (&leaf, KD_ERROR_VALUE, "Value not finite: element=kdlelpfit, field=" FIELD ", row=2, column=1");
  put_rows (&leaf);
  leaf_put (&leaf, "teacher.logits", KD_FLOAT32, 8, 2, 1, 0, 1, 0, 1, 0, 1, 0, 0, 1, 0, INFINITY, 0, 1, 0, 1);
  leaf_refuses (&leaf, KD_ERROR_VALUE, "field=teacher.logits, row=5, column=1");
  leaf_open (&leaf, "kdlelpfit", "assign=label", 1);
  put_rows (&leaf);
  leaf_put (&leaf, "label", KD_INT64, 8, 0, 0, 0, 2, 0, 0, 0, 1, 1);
  leaf_refuses (&leaf, KD_ERROR_RANGE, "row=2, label=2, classes=2");
}
GST_END_TEST

/* From a teacher's weights to a loss: the file of the fit feeds kdlelp, which refuses another teacher's and other sizes. */
GST_START_TEST (test_files)
{
  g_autofree gchar *folder = kd_test_folder (), *data = g_build_filename (folder, "d.h5", NULL), *wide = NULL;
  const gchar *names[] = { "input", "label" };
  gint64 dims[2] = { 40, 4 };
  KdTensor *tensors[2] = { kd_tensor_new (KD_FLOAT32, 2, dims), kd_tensor_new (KD_INT64, 1, dims) };
  KdRandom random;
  const struct {
    const gchar *graph, *part;
  } runs[] = {
    { "kdteacher arch=\"mlp dims=4,6,2\" seed=1 features=layer1 ! kdlelpfit teacher-field=layer1 assign=label subclasses=2 classifier=%F/t.st parameter=layer2.weight location=%F/fit.h5 ! fakesink", "" },
    { "kdteacher arch=\"mlp dims=4,6,2\" seed=1 features=layer1 ! kdlelpfit teacher-field=layer1 classifier=%F/t.st parameter=layer3.weight ! fakesink", "tensor=\"layer3.weight\", tensors=\"" },
    { "kdteacher arch=\"mlp dims=4,6,2\" seed=1 features=layer1 ! kdlelpfit teacher-field=layer1 classifier=%F/t.st parameter=layer1.weight ! fakesink", "Weights are of another layer: element=kdlelpfit, weights=[6,4], classes=2" },
    { "kdteacher arch=\"mlp dims=4,6,2\" seed=1 features=layer1 ! kdlelpfit teacher-field=layer1 classifier=%F/t.st parameter=layer1.bias ! fakesink", "Weights of no linear layer" },
    { "kdteacher arch=\"mlp dims=4,6,2\" seed=1 features=layer1 ! kdstudent arch=\"linear out=4\" ! kdlelp teacher-field=layer1 subclasses=2 location=%F/fit.h5 ! kdtrain", "" },
    { "kdteacher arch=\"mlp dims=4,6,2\" seed=2 features=layer1 ! kdstudent arch=\"linear out=4\" ! kdlelp teacher-field=layer1 subclasses=2 location=%F/fit.h5 ! kdtrain", "Fit of another teacher: element=kdlelp" },
    { "kdteacher arch=\"mlp dims=4,6,2\" seed=1 features=layer1 ! kdstudent arch=\"linear out=6\" ! kdlelp teacher-field=layer1 subclasses=2 location=%F/fit.h5 ! kdtrain", "student.logits=[N,6], wanted=[N,4]" },
    { "kdteacher arch=\"mlp dims=4,6,2\" seed=1 features=layer1 ! kdstudent arch=\"linear out=6\" ! kdlelp teacher-field=layer1 subclasses=3 location=%F/fit.h5 ! kdtrain", "No fit of subclasses: path=" },
    { "kdteacher arch=\"mlp dims=4,5,2\" seed=1 features=layer1 ! kdstudent arch=\"linear out=4\" ! kdlelp teacher-field=layer1 subclasses=2 location=%F/d.h5 ! kdtrain", "dataset=lelp.directions" },
  };

  kd_random_init (&random, 1, 1, 0, 0);
  for (gint64 i = 0; i < 160; i++)
    ((gfloat *) tensors[0]->data)[i] = (gfloat) kd_random_normal (&random);
  for (gint64 i = 0; i < 40; i++)
    ((gint64 *) tensors[1]->data)[i] = i % 2;
  kd_test_write (data, 2, names, tensors);
  wide = g_strdup_printf ("kdh5src location=%s ! kdstudent arch=\"mlp dims=4,6,2\" seed=1 save=%s/t.st ! fakesink", data, folder);
  g_free (kd_test_run (wide, NULL));
  for (guint i = 0; i < G_N_ELEMENTS (runs); i++) {
    g_auto (GStrv) parts = g_strsplit (runs[i].graph, "%F", -1);
    g_autofree gchar *graph = g_strjoinv (folder, parts), *text = g_strdup_printf ("kdh5src location=%s batch-size=16 ! %s", data, graph);
    g_autofree gchar *message = kd_test_run (text, NULL);
    ck_assert_msg (*runs[i].part ? strstr (message, runs[i].part) != NULL : *message == 0, "%s\n%s\nwanted: %s", text, message, runs[i].part);
  }
  for (guint i = 0; i < 2; i++)
    kd_tensor_unref (tensors[i]);
  kd_test_remove (folder);
}
GST_END_TEST

KD_TESTS (kdlelpfit, test_by_hand, test_stream, test_rotation, test_refusals, test_files)
