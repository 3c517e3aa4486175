#include "kd-leaf.h"

/* Packs and unpacks with the same properties; bins as JSON or NULL. Returns bytes a row. */
static gsize
there_and_back (Leaf *leaf, const gchar *properties, const gchar *bins, gint64 k, const gint64 *ids, const gdouble *logprobs)
{
  gint64 dims[2] = { 1, k };
  KdTensor *tensor = kd_tensor_new (KD_INT64, 2, dims), *packed_ids, *packed;
  g_auto (Leaf) pack = { 0 };
  gsize bytes;

  leaf_open (&pack, "kdlogitpack", properties, 1);
  leaf_open (leaf, "kdlogitunpack", properties, 1);
  if (bins) {
    ck_assert (kd_param_set_string (kd_param_find (pack.desc->params, "residual-bins"), pack.params, bins, "", NULL));
    ck_assert (kd_param_set_string (kd_param_find (leaf->desc->params, "residual-bins"), leaf->params, bins, "", NULL));
  }
  memcpy (tensor->data, ids, tensor->n_bytes);
  kd_batch_set (pack.batch, "teacher.topk.ids", tensor);
  leaf_put_values (&pack, "teacher.topk.logprobs", KD_FLOAT32, 1, k, logprobs);
  leaf_run_ok (&pack);
  ck_assert (!kd_batch_peek (pack.batch, "teacher.topk.ids"));
  packed_ids = kd_batch_peek (pack.batch, "teacher.packed.ids");
  packed = kd_batch_peek (pack.batch, "teacher.packed.logprobs");
  bytes = packed_ids->n_bytes + packed->n_bytes;
  kd_batch_set (leaf->batch, "teacher.packed.ids", kd_tensor_ref (packed_ids));
  kd_batch_set (leaf->batch, "teacher.packed.logprobs", kd_tensor_ref (packed));
  leaf_run_ok (leaf);
  return bytes;
}

enum { K = 24 };

/* Falling, not smooth. */
static void
make_row (gint64 *ids, gdouble *logprobs)
{
  KdRandom random;

  kd_random_init (&random, 1, 2, 3, 4);
  for (gint i = 0; i < K; i++) {
    ids[i] = (i * 389) % 1000;
    logprobs[i] = (i ? logprobs[i - 1] : -1.5) - 0.3 * kd_random_uniform (&random);
  }
}

static gdouble
worst (const Leaf *leaf, const gint64 *ids, const gdouble *logprobs)
{
  gdouble error = 0;

  for (gsize i = 0; i < K; i++) {
    ck_assert (leaf_get (leaf, "teacher.topk.ids", i) == (gdouble) ids[i]);
    error = MAX (error, fabs (leaf_get (leaf, "teacher.topk.logprobs", i) - logprobs[i]));
  }
  return error;
}

GST_START_TEST (test_precision)
{
  const struct {
    const gchar *properties, *bins;
    gdouble error;
    gsize bytes; /* ids: 24 x 10 bits = 30 */
  } cases[] = {
    { "d=1000 k=24 exact-k=24 polynomial-terms=", NULL, 1e-6, 30 + 96 },
    { "d=1000 k=24 exact-k=24 exact-dtype=float64 polynomial-terms=", NULL, 1e-6, 30 + 192 },
    { "d=1000 k=24 exact-k=24 exact-dtype=float16 polynomial-terms= delta-encoding=false", NULL, 4e-3, 30 + 48 },
    { "d=1000 k=24 exact-k=8", NULL, 0.5, 30 + 32 + 12 },
    { "d=1000 k=24 exact-k=8 polynomial-terms=0,1,2,sqrt normalize-t=true delta-encoding=false", NULL, 0.2, 30 + 32 + 16 },
    { "d=1000 k=24 exact-k=8", "[{\"scale_dtype\": \"float16\", \"element_bits\": 8, \"num_elements\": 16}]", 0.02, 30 + 32 + 12 + 18 },
    { "d=1000 k=24 exact-k=8 polynomial-terms=", "[{\"scale_dtype\": \"float32\", \"element_bits\": 12, \"num_elements\": 16}]", 2e-3, 30 + 32 + 28 },
    { "d=1000 k=24 exact-k=8 error-diffusion=true", "[{\"scale_dtype\": \"bfloat16\", \"element_bits\": 3, \"num_elements\": 16}]", 0.06, 30 + 32 + 12 + 8 },
  };
  gint64 ids[K];
  gdouble logprobs[K];

  make_row (ids, logprobs);
  for (guint i = 0; i < G_N_ELEMENTS (cases); i++) {
    g_auto (Leaf) leaf = { 0 };
    gsize bytes = there_and_back (&leaf, cases[i].properties, cases[i].bins, K, ids, logprobs);
    gdouble error = worst (&leaf, ids, logprobs);
    ck_assert_msg (bytes == cases[i].bytes, "case %u: %u bytes", i, (guint) bytes);
    ck_assert_msg (error <= cases[i].error, "case %u: error %g", i, error);
  }
}
GST_END_TEST

/* What error diffusion is for: the sums of rounded differences stay near. */
GST_START_TEST (test_diffusion)
{
  const gchar *bins = "[{\"scale_dtype\": \"float32\", \"element_bits\": 2, \"num_elements\": 16}]";
  gint64 ids[K];
  gdouble logprobs[K], plain;
  g_auto (Leaf) without = { 0 }, with = { 0 };

  make_row (ids, logprobs);
  there_and_back (&without, "d=1000 k=24 exact-k=8 polynomial-terms=", bins, K, ids, logprobs);
  plain = worst (&without, ids, logprobs);
  there_and_back (&with, "d=1000 k=24 exact-k=8 polynomial-terms= error-diffusion=true", bins, K, ids, logprobs);
  ck_assert_msg (worst (&with, ids, logprobs) < plain / 2, "%g and %g", worst (&with, ids, logprobs), plain);
}
GST_END_TEST

/* Put in falling order; a parabola is kept as it is; a row without ids comes back without. */
GST_START_TEST (test_order_curve_empty)
{
  const gint64 ids[4] = { 7, 3, 1, 0 }, none[4] = { -1, -1, -1, -1 };
  const gdouble logprobs[4] = { -3, -1, -2, -4.5 }, parabola[4] = { -2, -2.25, -3, -4.25 };
  g_auto (Leaf) leaf = { 0 }, curve = { 0 }, empty = { 0 };

  there_and_back (&leaf, "d=8 k=4 exact-k=4 polynomial-terms=", NULL, 4, ids, logprobs);
  leaf_expect (&leaf, "teacher.topk.ids", 0, 3);
  leaf_expect (&leaf, "teacher.topk.ids", 1, 1);
  leaf_expect (&leaf, "teacher.topk.ids", 2, 7);
  leaf_expect (&leaf, "teacher.topk.logprobs", 2, -3);
  there_and_back (&curve, "d=8 k=4 exact-k=0 delta-encoding=false", NULL, 4, ids, parabola);
  for (gsize i = 0; i < 4; i++)
    leaf_expect (&curve, "teacher.topk.logprobs", i, parabola[i]);
  there_and_back (&empty, "d=8 k=4 exact-k=2", NULL, 4, none, logprobs);
  leaf_expect (&empty, "teacher.topk.ids", 3, -1);
}
GST_END_TEST

GST_START_TEST (test_refusals)
{
  g_auto (Leaf) leaf = { 0 };

  leaf_open (&leaf, "kdlogitpack", "d=8 k=2 exact-k=1", 1);
  leaf_put (&leaf, "teacher.topk.ids", KD_INT32, 1, 2, 3, 8);
  leaf_put (&leaf, "teacher.topk.logprobs", KD_FLOAT32, 1, 2, -1, -2);
  leaf_refuses (&leaf, KD_ERROR_RANGE, "field=teacher.topk.ids, row=0, id=8, d=8");
  leaf_put (&leaf, "teacher.topk.ids", KD_INT32, 1, 2, 3, -1);
  leaf_refuses (&leaf, KD_ERROR_RANGE, "id=-1");
  leaf_put (&leaf, "teacher.topk.ids", KD_INT32, 1, 2, 3, 1);
  leaf_put (&leaf, "teacher.topk.logprobs", KD_FLOAT32, 1, 2, -1, -INFINITY);
  leaf_refuses (&leaf, KD_ERROR_VALUE, "field=teacher.topk.logprobs, row=0, column=1");
  leaf_put (&leaf, "teacher.topk.logprobs", KD_FLOAT32, 1, 3, -1, -2, -3);
  leaf_refuses (&leaf, KD_ERROR_SHAPE, "teacher.topk.logprobs");
  leaf_open (&leaf, "kdlogitpack", "k=2 exact-k=1", 1);
  leaf_refuses (&leaf, KD_ERROR_RANGE, "element=kdlogitpack, property=d");
}
GST_END_TEST

KD_TESTS (kdlogitpack, test_precision, test_diffusion, test_order_curve_empty, test_refusals)
