/* kddivergence with a teacher of which only some ids are known, and temperatures a token. */
#include "kd-leaf.h"
#include <gst/check/gstharness.h>

#define LN2 0.69314718055994531

/* q = (1/2, 1/4, 1/8, 1/8) */
static void
student (Leaf *leaf, const gchar *properties)
{
  leaf_open (leaf, "kddivergence", properties, 1);
  leaf_put (leaf, "student.logits", KD_FLOAT32, 1, 4, 3 * LN2, 2 * LN2, LN2, LN2);
}

static void
topk (Leaf *leaf, const gchar *properties)
{
  student (leaf, properties);
  leaf_put (leaf, "teacher.topk.ids", KD_INT32, 1, 3, 1, -1, 0);
  leaf_put (leaf, "teacher.topk.logprobs", KD_FLOAT32, 1, 3, -LN2, NAN, -2 * LN2); /* padding is not read */
}

static void
expect_all (Leaf *leaf, gdouble loss, gdouble a, gdouble b, gdouble c, gdouble d)
{
  const gdouble grad[4] = { a, b, c, d };

  leaf_run_ok (leaf);
  leaf_expect (leaf, "loss", 0, loss);
  for (gsize i = 0; i < 4; i++)
    leaf_expect (leaf, "grad.student.logits", i, grad[i]);
}

/* Known p = (1/4, 1/2), rest 1/4; q of the others 1/4 together. */
GST_START_TEST (test_tails)
{
  g_auto (Leaf) bucket = { 0 }, renorm = { 0 }, truncate = { 0 }, uniform = { 0 }, label = { 0 }, nowhere = { 0 }, nothing = { 0 };
  const gdouble third = 1.0 / 3;

  topk (&bucket, "");
  expect_all (&bucket, 0.25 * log (0.5) + 0.5 * log (2), 0.25, -0.25, 0, 0);
  topk (&renorm, "tail=renorm");
  expect_all (&renorm, third * log (third / 0.5) + 2 * third * log (2 * third / 0.25), 0.5 - third, 0.25 - 2 * third, 0.125, 0.125);
  topk (&nothing, "tail-eps=0.3"); /* a rest that counts as none: the others are an outcome that the teacher never has */
  expect_all (&nothing, third * log (third / 0.5) + 2 * third * log (2 * third / 0.25), 0.5 - third, 0.25 - 2 * third, 0.125, 0.125);
  topk (&truncate, "tail=truncate");
  expect_all (&truncate, 0.25 * log (0.5) + 0.5 * log (2), 0.375 - 0.25, 0.1875 - 0.5, 0.75 / 8, 0.75 / 8);
  topk (&uniform, "tail=uniform");
  expect_all (&uniform, 0.25 * log (0.5) + 0.5 * log (2), 0.25, -0.25, 0, 0);
  topk (&label, "tail=label");
  leaf_put (&label, "label", KD_INT64, 1, 0, 2);
  expect_all (&label, 0.25 * log (0.5) + 0.5 * log (2) + 0.25 * log (2), 0.25, -0.25, -0.125, 0.125);
  topk (&nowhere, "tail=label"); /* no such id: the rest is lost */
  leaf_put (&nowhere, "label", KD_INT64, 1, 0, 77);
  expect_all (&nowhere, 0.25 * log (0.5) + 0.5 * log (2), 0.375 - 0.25, 0.1875 - 0.5, 0.75 / 8, 0.75 / 8);
}
GST_END_TEST

/* Both models over the two known ids: p = (1/3, 2/3), q = (2/3, 1/3). */
GST_START_TEST (test_restricted)
{
  static const gchar *const same[] = { "support=restricted", "support=restricted tail=renorm", "support=restricted tail=uniform" };
  g_auto (Leaf) reverse = { 0 };
  const gdouble third = 1.0 / 3;

  for (guint i = 0; i < G_N_ELEMENTS (same); i++) {
    g_auto (Leaf) leaf = { 0 };
    topk (&leaf, same[i]);
    expect_all (&leaf, third * LN2, third, -third, 0, 0);
  }
  topk (&reverse, "support=restricted divergence=rkl");
  expect_all (&reverse, third * LN2, 2 * third * (LN2 - third * LN2), third * (-LN2 - third * LN2), 0, 0);
}
GST_END_TEST

/* At T = 2 with a cache at T = 1 the known log-probabilities are halved, and so is that of the rest: (1/2, 1/sqrt 2, 1/2) / Z. */
GST_START_TEST (test_tempered)
{
  g_auto (Leaf) leaf = { 0 }, cached = { 0 };
  const gdouble z = 1 + sqrt (0.5), q[4] = { sqrt (0.5), 0.5, sqrt (0.125), sqrt (0.125) };
  const gdouble zq = q[0] + q[1] + q[2] + q[3], rest = (q[2] + q[3]) / zq;

  topk (&leaf, "temperature=2 temperature-scale=t2");
  leaf_run_ok (&leaf);
  leaf_expect (&leaf, "loss", 0, 4 * (0.5 / z * log (0.5 / z / (q[0] / zq)) + sqrt (0.5) / z * log (sqrt (0.5) / z / (q[1] / zq)) + 0.5 / z * log (0.5 / z / rest)));
  leaf_expect (&leaf, "grad.student.logits", 0, 4 * (q[0] / zq - 0.5 / z) / 2);
  leaf_expect (&leaf, "grad.student.logits", 2, 4 * q[2] / zq * (1 - 0.5 / z / rest) / 2);
  topk (&cached, "temperature=2 cache-temperature=2"); /* taken at the same temperature: as they are */
  leaf_run_ok (&cached);
  leaf_expect (&cached, "grad.student.logits", 0, (q[0] / zq - 0.25) / 2);
}
GST_END_TEST

/* K = V: no bucket, the dense result; also when the teacher excludes an id. */
GST_START_TEST (test_all_ids)
{
  static const gchar *const kinds[] = { "fkl", "rkl", "jsd", "skew-fkl", "skew-rkl", "tvd", "sym-kl", "akl" };

  for (guint i = 0; i < 2 * G_N_ELEMENTS (kinds); i++) {
    g_autofree gchar *properties = g_strconcat ("divergence=", kinds[i / 2], NULL);
    g_auto (Leaf) sparse = { 0 }, dense = { 0 };
    gdouble last = i % 2 ? -INFINITY : log (0.125), first = i % 2 ? log (0.625) : log (0.5);
    student (&dense, properties);
    leaf_put (&dense, "teacher.logits", KD_FLOAT32, 1, 4, log (0.25), last, first, log (0.125));
    leaf_run_ok (&dense);
    student (&sparse, properties);
    leaf_put (&sparse, "teacher.topk.ids", KD_INT64, 1, 4, 2, 0, 3, 1);
    leaf_put (&sparse, "teacher.topk.logprobs", KD_FLOAT32, 1, 4, first, log (0.25), log (0.125), last);
    expect_all (&sparse, leaf_get (&dense, "loss", 0), leaf_get (&dense, "grad.student.logits", 0), leaf_get (&dense, "grad.student.logits", 1),
        leaf_get (&dense, "grad.student.logits", 2), leaf_get (&dense, "grad.student.logits", 3));
  }
}
GST_END_TEST

/* Weights (1/2, 3/4) sum to 5/4; an id with weight 0 is one that was not drawn. */
GST_START_TEST (test_sampled)
{
  g_auto (Leaf) leaf = { 0 }, normal = { 0 };

  student (&leaf, "");
  leaf_put (&leaf, "teacher.sampled.ids", KD_INT64, 1, 4, 0, 1, 3, -1);
  leaf_put (&leaf, "teacher.sampled.weights", KD_FLOAT32, 1, 4, 0.5, 0.75, 0, 0);
  expect_all (&leaf, 0.75 * log (3), 0.625 - 0.5, 0.3125 - 0.75, 0.15625, 0.15625);
  student (&normal, "normalize=true entropy-term=false teacher-form=sampled");
  leaf_put (&normal, "teacher.sampled.ids", KD_INT32, 1, 2, 0, 1);
  leaf_put (&normal, "teacher.sampled.weights", KD_FLOAT32, 1, 2, 0.5, 0.75);
  expect_all (&normal, 0.4 * log (2) + 0.6 * log (4), 0.1, 0.25 - 0.6, 0.125, 0.125);
}
GST_END_TEST

/* p = (1/8, 1/2, 1/4, 1/8); the teacher's largest two are 1 and 2, the student's 0 and 1. */
static void
online (Leaf *leaf, const gchar *properties)
{
  student (leaf, properties);
  leaf_put (leaf, "teacher.logits", KD_BFLOAT16, 1, 4, 0, 2 * LN2, LN2, 0);
}

GST_START_TEST (test_online)
{
  g_auto (Leaf) teacher = { 0 }, own = { 0 }, both = { 0 }, all = { 0 }, dense = { 0 };

  online (&teacher, "top-k=2");
  leaf_run_ok (&teacher);
  kd_assert_close (leaf_get (&teacher, "loss", 0), 0.5 * log (2) + 0.25 * log (2) + 0.25 * log (0.25 / 0.625), 5e-3); /* bfloat16 */
  online (&own, "top-k=2 support-source=student tail=renorm divergence=rkl");
  leaf_run_ok (&own);
  kd_assert_close (leaf_get (&own, "loss", 0), 2.0 / 3 * log (2.0 / 3 / 0.2) + 1.0 / 3 * log (1.0 / 3 / 0.8), 5e-3);
  leaf_expect (&own, "grad.student.logits", 3, 0);
  online (&both, "top-k=2 support-source=union divergence=tvd");
  leaf_run_ok (&both);
  kd_assert_close (leaf_get (&both, "loss", 0), 0.5 * (0.375 + 0.25 + 0.125), 5e-3);
  online (&all, "top-k=9"); /* more than there are */
  leaf_run_ok (&all);
  online (&dense, "");
  leaf_run_ok (&dense);
  leaf_expect (&all, "loss", 0, leaf_get (&dense, "loss", 0));
  leaf_expect (&all, "grad.student.logits", 0, leaf_get (&dense, "grad.student.logits", 0));
}
GST_END_TEST

/* Rows of padding are not counted: the mean is the other row's. */
GST_START_TEST (test_padding_and_masks)
{
  g_auto (Leaf) leaf = { 0 }, all = { 0 };

  leaf_open (&leaf, "kddivergence", "tail=renorm", 3);
  leaf_put (&leaf, "student.logits", KD_FLOAT32, 3, 2, 0, 0, NAN, 0, NAN, NAN);
  leaf_put (&leaf, "teacher.topk.ids", KD_INT64, 3, 1, 0, -1, 9);
  leaf_put (&leaf, "teacher.topk.logprobs", KD_FLOAT32, 3, 1, 0, NAN, NAN);
  leaf_put (&leaf, "mask", KD_UINT8, 3, 0, 1, 1, 0);
  leaf_run_ok (&leaf);
  leaf_expect (&leaf, "loss", 0, LN2);
  leaf_expect (&leaf, "grad.student.logits", 0, -0.5);
  leaf_expect (&leaf, "grad.student.logits", 2, 0);
  leaf_expect (&leaf, "grad.student.logits", 5, 0);
  leaf_open (&all, "kddivergence", "", 1);
  leaf_put (&all, "student.logits", KD_FLOAT32, 1, 2, 1, 2);
  leaf_put (&all, "teacher.sampled.ids", KD_INT64, 1, 2, -1, -1);
  leaf_put (&all, "teacher.sampled.weights", KD_FLOAT32, 1, 2, 0, 0);
  leaf_run_ok (&all);
  leaf_expect (&all, "loss", 0, 0);
  leaf_expect (&all, "grad.student.logits", 1, 0);
}
GST_END_TEST

GST_START_TEST (test_temperatures)
{
  static const gchar *const forms[] = { "", "top-k=2", "divergence=jsd" };

  for (guint i = 0; i < G_N_ELEMENTS (forms); i++) {
    g_autofree gchar *hot = g_strconcat (forms[i], " temperature=2 temperature-scale=t2", NULL), *cold = g_strconcat (forms[i], " temperature-scale=t2", NULL);
    g_auto (Leaf) leaf = { 0 }, one = { 0 }, two = { 0 };
    const gdouble s[6] = { 1, 2, 0, 1, 2, 0 }, t[6] = { 3, 1, 0, 3, 1, 0 };
    leaf_open (&leaf, "kddivergence", cold, 2);
    leaf_put_values (&leaf, "student.logits", KD_FLOAT32, 2, 3, s);
    leaf_put_values (&leaf, "teacher.logits", KD_FLOAT32, 2, 3, t);
    leaf_put (&leaf, "token.temperature", KD_FLOAT32, 2, 0, 1, 2);
    leaf_run_ok (&leaf);
    leaf_open (&one, "kddivergence", cold, 1);
    leaf_put_values (&one, "student.logits", KD_FLOAT32, 1, 3, s);
    leaf_put_values (&one, "teacher.logits", KD_FLOAT32, 1, 3, t);
    leaf_run_ok (&one);
    leaf_open (&two, "kddivergence", hot, 1);
    leaf_put_values (&two, "student.logits", KD_FLOAT32, 1, 3, s);
    leaf_put_values (&two, "teacher.logits", KD_FLOAT32, 1, 3, t);
    leaf_run_ok (&two);
    leaf_expect (&leaf, "loss", 0, (leaf_get (&one, "loss", 0) + leaf_get (&two, "loss", 0)) / 2);
    leaf_expect (&leaf, "grad.student.logits", 0, leaf_get (&one, "grad.student.logits", 0) / 2);
    leaf_expect (&leaf, "grad.student.logits", 3, leaf_get (&two, "grad.student.logits", 0) / 2);
  }
}
GST_END_TEST

/* One temperature a sample, over its tokens. */
GST_START_TEST (test_temperature_of_samples)
{
  const gint64 dims[3] = { 2, 2, 2 };
  g_auto (Leaf) leaf = { 0 };
  KdTensor *s = kd_tensor_new_zero (KD_FLOAT32, 3, dims), *t = kd_tensor_new_zero (KD_FLOAT32, 3, dims);

  for (gint i = 0; i < 4; i++)
    ((gfloat *) t->data)[2 * i] = 1;
  leaf_open (&leaf, "kddivergence", "", 2);
  kd_batch_set (leaf.batch, "student.logits", s);
  kd_batch_set (leaf.batch, "teacher.logits", t);
  leaf_put (&leaf, "token.temperature", KD_FLOAT32, 2, 0, 1, 0.5);
  leaf_run_ok (&leaf);
  leaf_expect (&leaf, "grad.student.logits", 2, (0.5 - 1 / (1 + exp (-1))) / 4);
  leaf_expect (&leaf, "grad.student.logits", 6, (0.5 - 1 / (1 + exp (-2))) / 4 / 0.5);
  leaf_put (&leaf, "token.temperature", KD_FLOAT32, 2, 2, 1, 1, 1, 0);
  leaf_refuses (&leaf, KD_ERROR_RANGE, "Value out of range: element=kddivergence, field=token.temperature, row=3, value=0, wanted=0.01 to 1000");
  leaf_put (&leaf, "mask", KD_UINT8, 2, 2, 1, 1, 1, 0);
  leaf_run_ok (&leaf);
  leaf_put (&leaf, "token.temperature", KD_FLOAT32, 2, 2, 1, 1, -1, 0);
  leaf_refuses (&leaf, KD_ERROR_RANGE, "row=2, value=-1");
  leaf_put (&leaf, "token.temperature", KD_FLOAT32, 2, 3, 1, 1, 1, 1, 1, 1);
  leaf_refuses (&leaf, KD_ERROR_SHAPE, "token.temperature");
}
GST_END_TEST

/* A student's vocabulary padded with -infinity, known and unknown; enormous logits. */
GST_START_TEST (test_infinite_and_extreme)
{
  g_auto (Leaf) leaf = { 0 }, strict = { 0 }, far = { 0 };

  leaf_open (&leaf, "kddivergence", "", 1);
  leaf_put (&leaf, "student.logits", KD_FLOAT32, 1, 4, 0, 0, -INFINITY, -INFINITY);
  leaf_put (&leaf, "teacher.topk.ids", KD_INT64, 1, 2, 0, 3);
  leaf_put (&leaf, "teacher.topk.logprobs", KD_FLOAT32, 1, 2, -2 * LN2, -2 * LN2);
  expect_all (&leaf, 0.25 * log (0.5) + 0.5 * log (1), 0.75 * 0.5 - 0.25, 0.75 * 0.5 - 0.5, 0, 0);
  leaf_open (&strict, "kddivergence", "inf-policy=reject", 1);
  leaf_put (&strict, "student.logits", KD_FLOAT32, 1, 3, 0, 0, -INFINITY);
  leaf_put (&strict, "teacher.topk.ids", KD_INT64, 1, 1, 0);
  leaf_put (&strict, "teacher.topk.logprobs", KD_FLOAT32, 1, 1, -1);
  leaf_refuses (&strict, KD_ERROR_VALUE, "student.logits");
  leaf_open (&far, "kddivergence", "", 1);
  leaf_put (&far, "student.logits", KD_FLOAT32, 1, 4, 1e30, -1e30, 0, 1);
  leaf_put (&far, "teacher.topk.ids", KD_INT64, 1, 1, 0);
  leaf_put (&far, "teacher.topk.logprobs", KD_FLOAT32, 1, 1, -LN2);
  expect_all (&far, 0.5e30, 0.5, 0, -0.5 / (1 + exp (1)), -0.5 * exp (1) / (1 + exp (1)));
}
GST_END_TEST

/* What is refused: one row of two ids, in a vocabulary of 4. */
GST_START_TEST (test_bad_rows)
{
  const struct {
    const gchar *properties;
    gdouble ids[2], logprobs[2];
    KdError code;
    const gchar *part;
  } cases[] = {
    { "", { 0, 4 }, { -1, -1 }, KD_ERROR_RANGE, "Id out of range: element=kddivergence, field=teacher.topk.ids, sample.id=0, row=0" },
    { "", { -2, 0 }, { -1, -1 }, KD_ERROR_RANGE, "teacher.topk.ids" },
    { "", { 3, 3 }, { -1, -1 }, KD_ERROR_VALUE, "Id twice in a row" },
    { "", { 0, 1 }, { 0.001, -9 }, KD_ERROR_VALUE, "Not a log-probability" },
    { "", { 0, 1 }, { NAN, -9 }, KD_ERROR_VALUE, "teacher.topk.logprobs" },
    { "", { 0, 1 }, { -0.1, -0.1 }, KD_ERROR_VALUE, "sum to more than 1.001" },
    { "divergence=rkl", { 0, 1 }, { -LN2, -LN2 }, KD_ERROR_UNSUPPORTED, "Divergence is infinite" },
    { "divergence=rkl tail=renorm", { 0, 1 }, { -1, -2 }, KD_ERROR_UNSUPPORTED, "divergence=rkl, tail=renorm" },
    { "divergence=sym-kl tail=truncate", { 0, 1 }, { -1, -2 }, KD_ERROR_UNSUPPORTED, "tail=truncate" },
    { "divergence=akl tail=label", { 0, 1 }, { -1, -2 }, KD_ERROR_UNSUPPORTED, "tail=label" },
    { "divergence=jsd beta=1 tail=renorm", { 0, 1 }, { -1, -2 }, KD_ERROR_UNSUPPORTED, "divergence=jsd" },
    { "tail=label", { 0, 1 }, { -1, -2 }, KD_ERROR_FIELD, "field=label" },
    { "teacher-form=logits", { 0, 1 }, { -1, -2 }, KD_ERROR_FIELD, "field=teacher.logits" },
    { "teacher-form=sampled", { 0, 1 }, { -1, -2 }, KD_ERROR_FIELD, "teacher.sampled" },
  };

  for (guint i = 0; i < G_N_ELEMENTS (cases); i++) {
    g_auto (Leaf) leaf = { 0 };
    student (&leaf, cases[i].properties);
    leaf_put_values (&leaf, "teacher.topk.ids", KD_INT64, 1, 2, cases[i].ids);
    leaf_put_values (&leaf, "teacher.topk.logprobs", KD_FLOAT32, 1, 2, cases[i].logprobs);
    leaf_refuses (&leaf, cases[i].code, cases[i].part);
  }
}
GST_END_TEST

GST_START_TEST (test_forms)
{
  g_auto (Leaf) leaf = { 0 }, drawn = { 0 };

  student (&leaf, "");
  leaf_refuses (&leaf, KD_ERROR_FIELD, "Field missing: element=kddivergence, field=teacher.logits");
  leaf_put (&leaf, "teacher.topk.ids", KD_INT64, 1, 1, 0);
  leaf_refuses (&leaf, KD_ERROR_FIELD, "field=teacher.topk.logprobs");
  leaf_put (&leaf, "teacher.topk.logprobs", KD_FLOAT32, 1, 2, -1, -1);
  leaf_refuses (&leaf, KD_ERROR_SHAPE, "teacher.topk.logprobs");
  leaf_put (&leaf, "teacher.topk.logprobs", KD_FLOAT32, 1, 1, -1);
  leaf_put (&leaf, "teacher.logits", KD_FLOAT32, 1, 4, 0, 0, 0, 0);
  leaf_refuses (&leaf, KD_ERROR_FIELD, "Two teachers: element=kddivergence, fields=\"teacher.logits teacher.topk.ids\"");
  kd_batch_remove (leaf.batch, "teacher.logits");
  leaf_put (&leaf, "teacher.topk.ids", KD_FLOAT32, 1, 1, 0);
  leaf_refuses (&leaf, KD_ERROR_DTYPE, "teacher.topk.ids");
  student (&drawn, "divergence=rkl");
  leaf_put (&drawn, "teacher.sampled.ids", KD_INT64, 1, 1, 0);
  leaf_put (&drawn, "teacher.sampled.weights", KD_FLOAT32, 1, 1, 1);
  leaf_refuses (&drawn, KD_ERROR_FIELD, "fkl only");
  student (&drawn, "");
  leaf_put (&drawn, "teacher.sampled.ids", KD_INT64, 1, 1, 0);
  leaf_put (&drawn, "teacher.sampled.weights", KD_FLOAT32, 1, 1, -0.5);
  leaf_refuses (&drawn, KD_ERROR_VALUE, "Weight not allowed: element=kddivergence, field=teacher.sampled.weights");
}
GST_END_TEST

/* A graph without any teacher is refused before the first batch; each form is enough. */
GST_START_TEST (test_no_teacher)
{
  static const gchar *const layouts[] = { "student.logits=float32:3", "student.logits=float32:3 teacher.topk.ids=int32:2 teacher.topk.logprobs=float32:2", "student.logits=float32:3 teacher.logits=float16:3" };

  for (guint i = 0; i < G_N_ELEMENTS (layouts); i++) {
    g_autofree gchar *caps = g_strdup_printf ("application/x-kd-batch, layout=(string)\"%s\"", layouts[i]);
    GstElement *element = gst_element_factory_make ("kddivergence", NULL);
    GstHarness *h = gst_harness_new_with_element (element, "sink", "src");
    g_autoptr (GstBus) bus = gst_bus_new ();
    g_autoptr (GstMessage) message = NULL;
    gst_element_set_bus (element, bus);
    gst_harness_set_src_caps_str (h, caps);
    message = gst_bus_pop_filtered (bus, GST_MESSAGE_ERROR);
    ck_assert_msg ((message != NULL) == (i == 0), "layout %u", i);
    if (message) {
      g_autoptr (GError) error = NULL;
      gst_message_parse_error (message, &error, NULL);
      ck_assert_msg (strstr (error->message, "field=teacher.logits"), "%s", error->message);
    }
    gst_element_set_bus (element, NULL);
    gst_harness_teardown (h);
    gst_object_unref (element);
  }
}
GST_END_TEST

static Suite *
kddivergence_sparse_suite (void)
{
  Suite *s = suite_create ("kddivergence-sparse");
  TCase *t = tcase_create ("all");

  suite_add_tcase (s, t);
  tcase_add_test (t, test_tails);
  tcase_add_test (t, test_restricted);
  tcase_add_test (t, test_tempered);
  tcase_add_test (t, test_all_ids);
  tcase_add_test (t, test_sampled);
  tcase_add_test (t, test_online);
  tcase_add_test (t, test_padding_and_masks);
  tcase_add_test (t, test_temperatures);
  tcase_add_test (t, test_temperature_of_samples);
  tcase_add_test (t, test_infinite_and_extreme);
  tcase_add_test (t, test_bad_rows);
  tcase_add_test (t, test_forms);
  tcase_add_test (t, test_no_teacher);
  return s;
}

GST_CHECK_MAIN (kddivergence_sparse)
