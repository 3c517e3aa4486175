#include "kd-leaf.h"

/* The controller's first numbers, all zero but the last bias: alpha is sigmoid (bias) whatever the row. */
static void
put_constant (Leaf *leaf, gint64 n_classes, gdouble bias)
{
  const gint64 dims[][2] = { { 32, 9 * n_classes }, { 32, 0 }, { 16, 32 }, { 16, 0 }, { 1, 16 }, { 1, 0 } };
  const gchar *names[] = { "controller.fc1.weight", "controller.fc1.bias", "controller.fc2.weight", "controller.fc2.bias", "controller.fc3.weight", "controller.fc3.bias" };

  for (guint i = 0; i < 6; i++) {
    KdTensor *tensor = kd_tensor_new_zero (KD_FLOAT32, dims[i][1] ? 2 : 1, dims[i]);
    if (i == 5)
      *(gfloat *) tensor->data = (gfloat) bias;
    kd_batch_set (leaf->batch, names[i], tensor);
  }
}

/* p = (1/4, 3/4), q = (1/2, 1/2). */
static void
put_row (Leaf *leaf)
{
  leaf_put (leaf, "student.logits", KD_FLOAT32, 1, 2, 0, log (3));
  leaf_put (leaf, "teacher.logits", KD_FLOAT32, 1, 2, 1, 1);
  leaf_put (leaf, "label", KD_INT64, 1, 0, 0);
}

static void
one_row (Leaf *leaf, const gchar *properties)
{
  leaf_open (leaf, "kdtgeo", properties, 1);
  put_row (leaf);
}

static const gdouble forward = 0.5 * M_LN2 - 0.5 * 0.40546510810816438; /* KL (q || p) */

GST_START_TEST (test_value)
{
  static const gdouble state[] = { 0.25, 0.75, 0.5, 0.5, 1, 0, 0.6, 0.4, 0.1225, 0.1225, 0.5625, 0.5625, 0.0625, 0.0625, 0.25, 0.25, 0.16, 0.16 };
  static const gchar *relations[] = { "sg+tg+inter", "st,tg,inter", "st+sg+inter", "st+sg+tg" };
  g_auto (Leaf) leaf = { 0 };
  gdouble a = 1 / (1 + exp (-0.7));

  one_row (&leaf, "temperature=1 diagnostics=true");
  put_constant (&leaf, 2, 0.7);
  leaf_put (&leaf, "teacher.class_mean", KD_FLOAT32, 2, 2, 0.6, 0.4, 0, 1);
  leaf.options.weight = 3;
  leaf_run_ok (&leaf);
  leaf_expect (&leaf, "sample.fusion", 0, a);
  leaf_expect (&leaf, "metric.tgeo.fusion", 0, a);
  leaf_expect (&leaf, "loss.kd", 0, 3 * forward);
  leaf_expect (&leaf, "loss.ce", 0, 3 * log (4));
  leaf_expect (&leaf, "loss", 0, 3 * (a * forward + (1 - a) * log (4)));
  leaf_expect (&leaf, "grad.student.logits", 0, 3 * (a * -0.25 + (1 - a) * -0.75));
  for (gsize i = 0; i < 18; i++)
    leaf_expect (&leaf, "state", i, state[i]);
  for (guint k = 0; k < 4; k++) { /* a relation that is off is zeros */
    g_autofree gchar *properties = g_strdup_printf ("temperature=1 diagnostics=true relations=%s", relations[k]);
    one_row (&leaf, properties);
    leaf_put (&leaf, "teacher.class_mean", KD_FLOAT32, 2, 2, 0.6, 0.4, 0, 1);
    leaf_run_ok (&leaf);
    for (gsize i = 0; i < 18; i++) {
      gsize part = i / 2;
      gboolean off = part == (const gsize[]) { 6, 5, 7, 3 }[k] || (k == 3 && (part == 4 || part == 8));
      leaf_expect (&leaf, "state", i, off ? 0 : state[i]);
    }
  }
}
GST_END_TEST

/* Four rows of three classes, one masked and full of NaN, weighted. */
static void
four_rows (Leaf *leaf, const gchar *properties, gsize moved, gdouble by)
{
  gdouble student[] = { 0.3, -1, 2, NAN, NAN, NAN, 1.5, 0, -0.4, -2, 0.1, 0.2 };

  student[moved] += by;
  leaf_open (leaf, "kdtgeo", properties, 4);
  leaf_put_values (leaf, "student.logits", KD_FLOAT32, 4, 3, student);
  leaf_put (leaf, "teacher.logits", KD_FLOAT32, 4, 3, 1, 0, 0.5, NAN, 0, 0, -1, 2, 0, 0.3, 0.2, 1);
  leaf_put (leaf, "label", KD_INT64, 4, 0, 0, 77, 2, 0);
  leaf_put (leaf, "mask", KD_FLOAT32, 4, 0, 1, 0, 1, 1);
  leaf_put (leaf, "sample.weight", KD_FLOAT32, 4, 0, 1, 5, 0.5, 2);
}

/* alpha is constant for the student: with a constant controller the gradient is the derivative. */
GST_START_TEST (test_gradient)
{
  g_auto (Leaf) leaf = { 0 }, moved = { 0 };
  const gdouble h = 1.0 / 64;

  four_rows (&leaf, "class-mean=batch temperature=2.5", 0, 0);
  put_constant (&leaf, 3, -0.4);
  leaf_run_ok (&leaf);
  for (gsize i = 0; i < 12; i++) {
    gdouble side[2];
    for (guint k = 0; k < 2; k++) {
      four_rows (&moved, "class-mean=batch temperature=2.5", i, k ? h : -h);
      put_constant (&moved, 3, -0.4);
      leaf_run_ok (&moved);
      side[k] = leaf_get (&moved, "loss", 0);
    }
    kd_assert_close (leaf_get (&leaf, "grad.student.logits", i), (side[1] - side[0]) / (2 * h), 3e-5);
  }
}
GST_END_TEST

static GHashTable *
saved (const Leaf *leaf)
{
  GHashTable *table = g_hash_table_new_full (g_str_hash, g_str_equal, g_free, (GDestroyNotify) kd_tensor_unref);

  leaf->desc->state_save (leaf->state, table);
  return table;
}

/* sum_n grad.sample.fusion_n alpha_n (w), with the first factor as it is at @table. */
static gdouble
outer_at (GHashTable *table, const gdouble *g)
{
  g_auto (Leaf) leaf = { 0 };
  g_autoptr (GError) error = NULL;
  gdouble sum = 0;

  four_rows (&leaf, "class-mean=batch leaky-slope=0.2 meta-every=0", 0, 0);
  ck_assert (leaf.desc->state_load (leaf.params, leaf.state, table, &error));
  leaf_run_ok (&leaf);
  for (gsize n = 0; n < 4; n++)
    sum += g[n] * leaf_get (&leaf, "sample.fusion", n);
  return sum;
}

/* Each number of the controller, and Adam's first step with it. */
GST_START_TEST (test_controller_gradient)
{
  g_auto (Leaf) leaf = { 0 }, frozen = { 0 };
  g_autoptr (GHashTable) before = NULL, after = NULL;
  gdouble g[4], at, largest = 0, h = 1.0 / 256;

  four_rows (&frozen, "class-mean=batch leaky-slope=0.2 meta-every=0 seed=4", 0, 0);
  leaf_run_ok (&frozen);
  before = saved (&frozen);
  four_rows (&leaf, "class-mean=batch leaky-slope=0.2 seed=4 inner-lr=0.5 diagnostics=true controller-weight-decay=0.1 controller-lr=0.01", 0, 0);
  leaf_put (&leaf, "student.logits.jvp", KD_FLOAT32, 4, 3, 3, -5, 20, NAN, 0, 0, 11, 7, -9, 40, 3, 1);
  leaf_run_ok (&leaf);
  after = saved (&leaf);
  for (gsize n = 0; n < 4; n++)
    g[n] = leaf_get (&leaf, "grad.sample.fusion", n);
  ck_assert (g[1] == 0 && fabs (g[0]) > 0.1);
  at = outer_at (before, g);
  for (guint part = 0; part < 6; part++) {
    static const gchar *names[] = { "controller.fc1.weight", "controller.fc1.bias", "controller.fc2.weight", "controller.fc2.bias", "controller.fc3.weight", "controller.fc3.bias" };
    g_autofree gchar *grad = g_strconcat ("grad.", names[part], NULL);
    KdTensor *old = g_hash_table_lookup (before, names[part]), *new = g_hash_table_lookup (after, names[part]);
    gfloat *w = old->data;
    for (gsize i = 0; i < kd_tensor_n_elements (old); i += part ? 3 : 17) {
      gfloat keep = w[i];
      gdouble got = leaf_get (&leaf, grad, i), up, down, total = got + 0.1 * keep;
      w[i] = (gfloat) (keep + h);
      up = outer_at (before, g);
      w[i] = (gfloat) (keep - h);
      down = outer_at (before, g);
      w[i] = keep;
      /* (a seed with no two bends of a leaky ReLU within the step) where one bends, any number between the slopes of both sides */
      ck_assert_msg (got >= MIN ((up - at) / h, (at - down) / h) - 1e-3 && got <= MAX ((up - at) / h, (at - down) / h) + 1e-3, "%s[%u]: %g, slopes %g %g", names[part],
          (guint) i, got, (at - down) / h, (up - at) / h);
      largest = MAX (largest, fabs (got));
      kd_assert_close (((gfloat *) new->data)[i], keep - 0.01 * total / (fabs (total) + 1e-8), 1e-6);
    }
  }
  ck_assert (largest > 0.1);
}
GST_END_TEST

/* What must leave the controller as it is. */
static void
expect_frozen (Leaf *leaf, gboolean moves)
{
  g_autoptr (GHashTable) table = NULL;
  gdouble step;

  leaf_run_ok (leaf);
  table = saved (leaf);
  step = kd_tensor_get_double (g_hash_table_lookup (table, "controller.step"), 0);
  ck_assert_msg (step == moves, "%g steps", step);
}

GST_START_TEST (test_when_it_learns)
{
  g_auto (Leaf) leaf = { 0 };

  for (guint k = 0; k < 7; k++) {
    one_row (&leaf, k == 1 ? "class-mean=batch meta-every=0" : "class-mean=batch meta-every=3");
    leaf_put (&leaf, "student.logits.jvp", KD_FLOAT32, 1, 2, k == 4 ? NAN : k == 5 ? INFINITY
                                                                                   : 2,
        1);
    leaf.batch->index = k == 2 ? 4 : 6;
    leaf.batch->flags |= k == 3 ? KD_BATCH_VALIDATION : 0;
    if (k == 6)
      leaf_put (&leaf, "mask", KD_FLOAT32, 1, 0, 0);
    expect_frozen (&leaf, k == 0);
    leaf_expect (&leaf, "metric.tgeo.skipped", 0, k == 4 || k == 5);
    ck_assert (k == 6 || leaf_get (&leaf, "grad.student.logits", 0) != 0); /* the student learns all the same */
    ck_assert (k != 6 || (leaf_get (&leaf, "loss", 0) == 0 && leaf_get (&leaf, "grad.student.logits", 0) == 0));
  }
  one_row (&leaf, "class-mean=batch"); /* nobody to ask */
  expect_frozen (&leaf, FALSE);
  leaf_expect (&leaf, "loss.outer", 0, 0);
}
GST_END_TEST

GST_START_TEST (test_limits)
{
  g_auto (Leaf) leaf = { 0 };

  for (gint sign = -1; sign <= 1; sign += 2) { /* alpha stays inside, and the loss finite */
    one_row (&leaf, "class-mean=batch diagnostics=true");
    put_constant (&leaf, 2, sign * 1e30);
    leaf_put (&leaf, "student.logits.jvp", KD_FLOAT32, 1, 2, 2, 1);
    leaf_run_ok (&leaf);
    ck_assert (leaf_get (&leaf, "sample.fusion", 0) > 0 && leaf_get (&leaf, "sample.fusion", 0) < 1);
    ck_assert (leaf_get (&leaf, "grad.controller.fc3.bias", 0) == 0);
  }
  one_row (&leaf, "diagnostics=true"); /* a class that the table has not seen: uniform */
  leaf_put (&leaf, "teacher.class_mean", KD_FLOAT32, 2, 2, 0, 0, 1, 0);
  leaf_run_ok (&leaf);
  leaf_expect (&leaf, "state", 6, 0.5);
  leaf_expect (&leaf, "state", 7, 0.5);
  leaf_open (&leaf, "kdtgeo", "class-mean=batch diagnostics=true", 3); /* mean over the two counted rows of label 0; a half-precision teacher */
  leaf_put (&leaf, "student.logits", KD_FLOAT32, 3, 2, 0, 0, 0, 0, 0, 0);
  leaf_put (&leaf, "teacher.logits", KD_FLOAT16, 3, 2, 200, 0, 0, 0, 0, 200);
  leaf_put (&leaf, "label", KD_INT64, 3, 0, 0, 0, 0);
  leaf_put (&leaf, "mask", KD_FLOAT32, 3, 0, 1, 1, 0);
  leaf_run_ok (&leaf);
  leaf_expect (&leaf, "state", 6, 0.75);
  leaf_expect (&leaf, "state", 18 + 7, 0.25);
  leaf_open (&leaf, "kdtgeo", "class-mean=batch", 1); /* one class: nothing to learn */
  leaf_put (&leaf, "student.logits", KD_FLOAT32, 1, 1, 5);
  leaf_put (&leaf, "teacher.logits", KD_FLOAT32, 1, 1, -3);
  leaf_put (&leaf, "label", KD_INT64, 1, 0, 0);
  leaf_run_ok (&leaf);
  ck_assert (leaf_get (&leaf, "loss", 0) == 0 && leaf_get (&leaf, "grad.student.logits", 0) == 0);
}
GST_END_TEST

static void
refuses_open (const gchar *name, const gchar *value, KdError code, const gchar *part)
{
  g_auto (Leaf) leaf = { 0 };
  GError *error = NULL;

  leaf_open (&leaf, "kdtgeo", "validation-first=2", 1);
  ck_assert (kd_param_set_string (kd_param_find (leaf.desc->params, name), leaf.params, value, "kdtgeo", &error));
  ck_assert (!leaf.desc->state_open (leaf.params, leaf.state, &error));
  kd_assert_error (error, code, part);
}

GST_START_TEST (test_refusals)
{
  g_auto (Leaf) leaf = { 0 };
  g_autoptr (GHashTable) table = NULL;
  g_autofree gchar *digits = g_build_filename (g_getenv ("KD_SOURCE_ROOT"), "tests", "vectors", "tgeo-kd", "extreme_n4_c5.h5", NULL);
  GError *error = NULL;

  one_row (&leaf, "");
  leaf_refuses (&leaf, KD_ERROR_FIELD, "Field missing: element=kdtgeo, field=teacher.class_mean; set class-mean-location to a file of kdclassmean, or class-mean=batch");
  for (guint k = 0; k < 3; k++) {
    one_row (&leaf, "");
    leaf_put (&leaf, "teacher.class_mean", KD_FLOAT32, 2, 2, 0.5, 0.5, k == 2 ? NAN : 0.7, k ? 0.7 : -0.7);
    leaf_refuses (&leaf, KD_ERROR_VALUE, "No distribution: element=kdtgeo, field=teacher.class_mean, class=1, sum=");
  }
  one_row (&leaf, "class-mean=batch");
  leaf_put (&leaf, "label", KD_INT64, 1, 0, -1);
  leaf_refuses (&leaf, KD_ERROR_RANGE, "label=-1, classes=2");
  one_row (&leaf, "class-mean=batch");
  leaf_put (&leaf, "teacher.logits", KD_FLOAT32, 1, 2, -INFINITY, 0);
  leaf_refuses (&leaf, KD_ERROR_VALUE, "field=teacher.logits, sample.id=0, row=0, column=0");
  one_row (&leaf, "class-mean=batch");
  put_constant (&leaf, 3, 0);
  leaf_refuses (&leaf, KD_ERROR_SHAPE, "field=controller.fc1.weight, inputs=27, classes=2, wanted=18");
  one_row (&leaf, "class-mean=batch hidden1=4");
  leaf_run_ok (&leaf);
  table = saved (&leaf);
  leaf_batch (&leaf, 1);
  leaf_put (&leaf, "student.logits", KD_FLOAT32, 1, 3, 0, 0, 0);
  leaf_put (&leaf, "teacher.logits", KD_FLOAT32, 1, 3, 0, 0, 0);
  leaf_put (&leaf, "label", KD_INT64, 1, 0, 0);
  leaf_refuses (&leaf, KD_ERROR_SHAPE, "Classes changed: element=kdtgeo, field=student.logits, classes=3, before=2; a controller is for one number of classes");
  one_row (&leaf, "class-mean=batch");
  ck_assert (!leaf.desc->state_load (leaf.params, leaf.state, table, &error));
  kd_assert_error (error, KD_ERROR_MISMATCH, "state=controller.fc1.weight, shape=[4,18], wanted=[32,18]");
  refuses_open ("validation", "/nonexistent/v.h5", KD_ERROR_IO, "/nonexistent/v.h5");
  refuses_open ("class-mean-location", "/nonexistent/m.h5", KD_ERROR_IO, "/nonexistent/m.h5");
  refuses_open ("validation", digits, KD_ERROR_FIELD, "wanted=input and label (int64 [N])");
  refuses_open ("class-mean-location", digits, KD_ERROR_FIELD, "class_mean");
}
GST_END_TEST

KD_TESTS (kdtgeo, test_value, test_gradient, test_controller_gradient, test_when_it_learns, test_limits, test_refusals)
