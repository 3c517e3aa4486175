/* Every operation: the shape that comes out, its gradient against central differences in float64, some values worked by hand, and
 * what it refuses. Longer than others: three tables, each over all operations. */
#include "kd-check.h"
#include <gmodule.h>
#include <string.h>

/* AddressSanitizer would end the program where an allocation is refused; here that is one of the things tested. */
const char *__asan_default_options (void);
G_MODULE_EXPORT const char *
__asan_default_options (void)
{
  return "allocator_may_return_null=1";
}

#define MAX_IN 5
#define STEP 1e-5

static KdEngine *engine;
static KdParamSet *no_params;

static void
set_up (void)
{
  GError *error = NULL;

  engine = kd_engine_get (NULL, &error);
  kd_assert_no_error (error);
  no_params = kd_param_set_new (0);
  kd_param_set_freeze (no_params);
}

static void
tear_down (void)
{
  g_clear_pointer (&no_params, kd_param_set_unref);
}

/* "f 2 3": float64, differentiable; p: the same, positive; b: positive, without gradient; m: mask; i<n>: index below n ("i4 2 3");
 * n: negative index */
static KdTensor *
make_input (const gchar *spec, guint seed)
{
  g_auto (GStrv) words = g_strsplit (spec, " ", -1);
  guint rank = g_strv_length (words) - 1;
  gint64 dims[KD_MAX_RANK], below = words[0][1] ? g_ascii_strtoll (words[0] + 1, NULL, 10) : 0;
  gchar kind = words[0][0];
  KdTensor *tensor;
  KdRandom random;

  for (guint i = 0; i < rank; i++)
    dims[i] = g_ascii_strtoll (words[i + 1], NULL, 10);
  tensor = kd_tensor_new (kind == 'm' ? KD_BOOL : kind == 'i' || kind == 'n' ? KD_INT64
                                                                             : KD_FLOAT64,
      rank, dims);
  kd_random_init (&random, seed, 1, 0, 0);
  for (gsize i = 0; i < kd_tensor_n_elements (tensor); i++) {
    if (kind == 'm')
      ((guint8 *) tensor->data)[i] = kd_random_below (&random, 2) == 0;
    else if (kind == 'i')
      ((gint64 *) tensor->data)[i] = (gint64) kd_random_below (&random, (guint64) below);
    else if (kind == 'n')
      ((gint64 *) tensor->data)[i] = -1;
    else
      ((gdouble *) tensor->data)[i] = kind == 'f' ? kd_random_normal (&random) : 0.5 + kd_random_uniform (&random);
  }
  return tensor;
}

typedef KdVar *(*Run) (KdForward *f, KdVar **x);
#define RUN(name, expression)                        \
  static KdVar *run_##name (KdForward *f, KdVar **x) \
  {                                                  \
    return expression;                               \
  }
#define DIMS(...)                                                     \
  G_N_ELEMENTS (((const gint64[]) { __VA_ARGS__ })), (const gint64[]) \
  {                                                                   \
    __VA_ARGS__                                                       \
  }

RUN (linear, kd_linear (f, x[0], x[1], x[2]))
RUN (linear_plain, kd_linear (f, x[0], x[1], NULL))
RUN (matmul, kd_matmul (f, x[0], x[1]))
RUN (conv1d, kd_conv1d (f, x[0], x[1], x[2], 2, 1, 1, 1))
RUN (conv2d, kd_conv2d (f, x[0], x[1], x[2], 2, 1, 1, 1))
RUN (conv2d_groups, kd_conv2d (f, x[0], x[1], NULL, 1, 1, 1, 3))
RUN (conv2d_dilated, kd_conv2d (f, x[0], x[1], NULL, 1, 2, 2, 1))
RUN (batch_norm, kd_batch_norm (f, x[0], x[1], x[2], x[3], x[4], TRUE, 0.1, 1e-5))
RUN (batch_norm_eval, kd_batch_norm (f, x[0], x[1], x[2], x[3], x[4], FALSE, 0.1, 1e-5))
RUN (layer_norm, kd_layer_norm (f, x[0], x[1], x[2], 1e-5))
RUN (layer_norm_plain, kd_layer_norm (f, x[0], NULL, NULL, 1e-5))
RUN (embedding, kd_embedding (f, x[0], x[1]))
RUN (relu, kd_relu (f, x[0]))
RUN (gelu, kd_gelu (f, x[0]))
RUN (silu, kd_silu (f, x[0]))
RUN (tanh, kd_tanh (f, x[0]))
RUN (sigmoid, kd_sigmoid (f, x[0]))
RUN (exp, kd_exp (f, x[0]))
RUN (log, kd_log (f, x[0]))
RUN (sqrt, kd_sqrt (f, x[0]))
RUN (abs, kd_abs (f, x[0]))
RUN (neg, kd_neg (f, x[0]))
RUN (softmax, kd_softmax (f, x[0], 1))
RUN (log_softmax, kd_log_softmax (f, x[0], -1))
RUN (add, kd_add (f, x[0], x[1]))
RUN (sub, kd_sub (f, x[0], x[1]))
RUN (mul, kd_mul (f, x[0], x[1]))
RUN (div, kd_div (f, x[0], x[1]))
RUN (scale, kd_scale (f, x[0], -2.5, 0.75))
RUN (maximum, kd_maximum (f, x[0], x[1]))
RUN (minimum, kd_minimum (f, x[0], x[1]))
RUN (clamp, kd_clamp (f, x[0], -0.5, 0.8))
RUN (pow, kd_pow (f, x[0], 2.5))
RUN (reshape, kd_reshape (f, x[0], DIMS (3, -1)))
RUN (flatten, kd_flatten (f, x[0]))
RUN (permute, kd_permute (f, x[0], DIMS (2, 0, 1)))
RUN (expand, kd_expand (f, x[0], DIMS (4, -1, 3)))
RUN (concat, kd_concat (f, 2, x, 1))
RUN (stack, kd_stack (f, 2, x, 1))
RUN (slice, kd_slice (f, x[0], 1, 1, 5, 2))
RUN (slice_back, kd_slice (f, x[0], -1, -2, 100, 1))
RUN (pad, kd_pad (f, x[0], 1, 2, 1, 0.5))
RUN (crop, kd_pad (f, x[0], -1, -1, 0, 0))
RUN (gather, kd_gather (f, x[0], 1, x[1]))
RUN (index_select, kd_index_select (f, x[0], 1, x[1]))
RUN (flip, kd_flip (f, x[0], 1))
RUN (tril, kd_tril (f, x[0], -1))
RUN (cast_float, kd_cast_float (f, x[0]))
RUN (detach, kd_add (f, kd_detach (f, x[0]), kd_neg (f, x[0])))
RUN (sum, kd_sum (f, x[0], 1, FALSE))
RUN (sum_all, kd_sum (f, x[0], KD_AXIS_ALL, TRUE))
RUN (mean, kd_mean (f, x[0], -1, TRUE))
RUN (mean_all, kd_mean (f, x[0], KD_AXIS_ALL, FALSE))
RUN (var, kd_var (f, x[0], 1, TRUE, 1))
RUN (var_all, kd_var (f, x[0], KD_AXIS_ALL, FALSE, 0))
RUN (max, kd_max (f, x[0], 1, FALSE))
RUN (max_all, kd_max (f, x[0], KD_AXIS_ALL, FALSE))
RUN (cumsum, kd_cumsum (f, x[0], 1))
RUN (normalize, kd_normalize (f, x[0], 1, 1e-12))
RUN (avg_pool1d, kd_avg_pool1d (f, x[0], 3, 2, 1))
RUN (max_pool1d, kd_max_pool1d (f, x[0], 2, 2, 0))
RUN (avg_pool2d, kd_avg_pool2d (f, x[0], 2, 2, 0))
RUN (max_pool2d, kd_max_pool2d (f, x[0], 3, 2, 1))
RUN (global_avg_pool, kd_global_avg_pool (f, x[0]))
RUN (upsample, kd_upsample2d (f, x[0], 2, FALSE))
RUN (upsample_bilinear, kd_upsample2d (f, x[0], 3, TRUE))
RUN (masked_fill, kd_masked_fill (f, x[0], x[1], -7))
RUN (where, kd_where (f, x[0], x[1], x[2]))
RUN (attention, kd_attention (f, x[0], x[1], x[2], NULL, FALSE, 0))
RUN (attention_causal, kd_attention (f, x[0], x[1], x[2], NULL, TRUE, 0.7))
RUN (attention_mask, kd_attention (f, x[0], x[1], x[2], x[3], TRUE, 0))
RUN (sparse_matmul, kd_sparse_matmul (f, x[0], x[1], 3, x[2]))

static const struct {
  KdOp op;
  Run run;
  const gchar *in[MAX_IN];
  const gchar *shape;
} cases[] = {
  { KD_OP_LINEAR, run_linear, { "f 2 5 3", "f 4 3", "f 4" }, "[2,5,4]" },
  { KD_OP_LINEAR, run_linear_plain, { "f 2 3", "f 4 3" }, "[2,4]" },
  { KD_OP_MATMUL, run_matmul, { "f 2 1 3 4", "f 5 4 2" }, "[2,5,3,2]" },
  { KD_OP_CONV1D, run_conv1d, { "f 2 3 7", "f 4 3 3", "f 4" }, "[2,4,4]" },
  { KD_OP_CONV2D, run_conv2d, { "f 2 3 5 6", "f 4 3 3 3", "f 4" }, "[2,4,3,3]" },
  { KD_OP_CONV2D, run_conv2d_groups, { "f 2 3 4 4", "f 6 1 3 3" }, "[2,6,4,4]" },
  { KD_OP_CONV2D, run_conv2d_dilated, { "f 1 2 5 5", "f 2 2 3 3" }, "[1,2,5,5]" },
  { KD_OP_BATCH_NORM, run_batch_norm, { "f 4 3 2", "f 3", "f 3", "b 3", "b 3" }, "[4,3,2]" },
  { KD_OP_BATCH_NORM, run_batch_norm_eval, { "f 4 3", "f 3", "f 3", "b 3", "b 3" }, "[4,3]" },
  { KD_OP_LAYER_NORM, run_layer_norm, { "f 3 2 5", "f 5", "f 5" }, "[3,2,5]" },
  { KD_OP_LAYER_NORM, run_layer_norm_plain, { "f 3 5" }, "[3,5]" },
  { KD_OP_EMBEDDING, run_embedding, { "i6 2 3", "f 6 4" }, "[2,3,4]" },
  { KD_OP_RELU, run_relu, { "f 3 4" }, "[3,4]" },
  { KD_OP_GELU, run_gelu, { "f 3 4" }, "[3,4]" },
  { KD_OP_SILU, run_silu, { "f 3 4" }, "[3,4]" },
  { KD_OP_TANH, run_tanh, { "f 3 4" }, "[3,4]" },
  { KD_OP_SIGMOID, run_sigmoid, { "f 3 4" }, "[3,4]" },
  { KD_OP_EXP, run_exp, { "f 3 4" }, "[3,4]" },
  { KD_OP_LOG, run_log, { "p 3 4" }, "[3,4]" },
  { KD_OP_SQRT, run_sqrt, { "p 3 4" }, "[3,4]" },
  { KD_OP_ABS, run_abs, { "f 3 4" }, "[3,4]" },
  { KD_OP_NEG, run_neg, { "f 3 4" }, "[3,4]" },
  { KD_OP_SOFTMAX, run_softmax, { "f 2 4 3" }, "[2,4,3]" },
  { KD_OP_LOG_SOFTMAX, run_log_softmax, { "f 3 4" }, "[3,4]" },
  { KD_OP_ADD, run_add, { "f 3 4", "f 4" }, "[3,4]" },
  { KD_OP_SUB, run_sub, { "f 3 1", "f 1 4" }, "[3,4]" },
  { KD_OP_MUL, run_mul, { "f 3 4", "f 3 1" }, "[3,4]" },
  { KD_OP_DIV, run_div, { "f 3 4", "p 4" }, "[3,4]" },
  { KD_OP_SCALE, run_scale, { "f 3 4" }, "[3,4]" },
  { KD_OP_MAXIMUM, run_maximum, { "f 3 4", "f 3 4" }, "[3,4]" },
  { KD_OP_MINIMUM, run_minimum, { "f 3 4", "f 4" }, "[3,4]" },
  { KD_OP_CLAMP, run_clamp, { "f 3 4" }, "[3,4]" },
  { KD_OP_POW, run_pow, { "p 3 4" }, "[3,4]" },
  { KD_OP_RESHAPE, run_reshape, { "f 2 6" }, "[3,4]" },
  { KD_OP_RESHAPE, run_flatten, { "f 2 3 2" }, "[2,6]" },
  { KD_OP_PERMUTE, run_permute, { "f 2 3 4" }, "[4,2,3]" },
  { KD_OP_EXPAND, run_expand, { "f 2 1" }, "[4,2,3]" },
  { KD_OP_CONCAT, run_concat, { "f 2 3", "f 2 1" }, "[2,4]" },
  { KD_OP_STACK, run_stack, { "f 2 3", "f 2 3" }, "[2,2,3]" },
  { KD_OP_SLICE, run_slice, { "f 2 6" }, "[2,2]" },
  { KD_OP_SLICE, run_slice_back, { "f 2 6" }, "[2,2]" },
  { KD_OP_PAD, run_pad, { "f 2 3 2" }, "[2,6,2]" },
  { KD_OP_PAD, run_crop, { "f 2 3" }, "[2,2]" },
  { KD_OP_GATHER, run_gather, { "f 3 4", "i4 3 2" }, "[3,2]" },
  { KD_OP_INDEX_SELECT, run_index_select, { "f 3 4", "i4 6" }, "[3,6]" },
  { KD_OP_FLIP, run_flip, { "f 3 4" }, "[3,4]" },
  { KD_OP_TRIL, run_tril, { "f 2 4 4" }, "[2,4,4]" },
  { KD_OP_CAST_FLOAT, run_cast_float, { "i4 3 2" }, "[3,2]" },
  { KD_OP_SUM, run_sum, { "f 2 3 4" }, "[2,4]" },
  { KD_OP_SUM, run_sum_all, { "f 2 3" }, "[1,1]" },
  { KD_OP_MEAN, run_mean, { "f 2 3" }, "[2,1]" },
  { KD_OP_MEAN, run_mean_all, { "f 2 3" }, "[]" },
  { KD_OP_VAR, run_var, { "f 2 3" }, "[2,1]" },
  { KD_OP_VAR, run_var_all, { "f 2 3" }, "[]" },
  { KD_OP_MAX, run_max, { "f 3 4" }, "[3]" },
  { KD_OP_MAX, run_max_all, { "f 3 4" }, "[]" },
  { KD_OP_CUMSUM, run_cumsum, { "f 2 4" }, "[2,4]" },
  { KD_OP_NORMALIZE, run_normalize, { "f 3 4" }, "[3,4]" },
  { KD_OP_AVG_POOL1D, run_avg_pool1d, { "f 2 3 6" }, "[2,3,3]" },
  { KD_OP_MAX_POOL1D, run_max_pool1d, { "f 2 3 6" }, "[2,3,3]" },
  { KD_OP_AVG_POOL2D, run_avg_pool2d, { "f 2 2 4 6" }, "[2,2,2,3]" },
  { KD_OP_MAX_POOL2D, run_max_pool2d, { "f 2 2 5 5" }, "[2,2,3,3]" },
  { KD_OP_MEAN, run_global_avg_pool, { "f 2 3 4 5" }, "[2,3]" },
  { KD_OP_UPSAMPLE2D, run_upsample, { "f 2 2 3 2" }, "[2,2,6,4]" },
  { KD_OP_UPSAMPLE2D, run_upsample_bilinear, { "f 1 2 3 2" }, "[1,2,9,6]" },
  { KD_OP_MASKED_FILL, run_masked_fill, { "f 3 4", "m 3 4" }, "[3,4]" },
  { KD_OP_WHERE, run_where, { "m 3 4", "f 3 4", "f 4" }, "[3,4]" },
  { KD_OP_ATTENTION, run_attention, { "f 2 3 4", "f 2 5 4", "f 2 5 2" }, "[2,3,2]" },
  { KD_OP_ATTENTION, run_attention_causal, { "f 2 4 3", "f 2 4 3", "f 2 4 2" }, "[2,4,2]" },
  { KD_OP_ATTENTION, run_attention_mask, { "f 2 4 3", "f 2 4 3", "f 2 4 2", "m 4 4" }, "[2,4,2]" },
  { KD_OP_SPARSE_MATMUL, run_sparse_matmul, { "i3 2 7", "f 7", "f 3 4" }, "[3,4]" },
};

typedef struct {
  KdForward *forward;
  KdVar *in[MAX_IN], *out;
} Pass;

static Pass
run_pass (Run run, KdTensor *const *in, gboolean grad)
{
  /* no operation has more than three differentiable inputs; behind them are masks and running statistics */
  Pass pass = { .forward = kd_forward_new (engine, no_params, grad, FALSE, NULL) };

  for (guint i = 0; i < MAX_IN && in[i]; i++)
    pass.in[i] = kd_forward_input (pass.forward, in[i], in[i]->dtype == KD_FLOAT64 && i < 3);
  pass.out = run (pass.forward, pass.in);
  return pass;
}

/* sum of out times r: its gradient by out is r */
static gdouble
project (Run run, KdTensor *const *in, const KdTensor *r)
{
  Pass pass = run_pass (run, in, FALSE);
  g_autoptr (KdTensor) out = kd_forward_tensor (pass.forward, pass.out, NULL);
  gdouble sum = 0;

  for (gsize i = 0; i < kd_tensor_n_elements (out); i++)
    sum += kd_tensor_get_double (out, i) * kd_tensor_get_double (r, i);
  kd_forward_free (pass.forward);
  return sum;
}

static void
compare_gradient (guint at, KdTensor *const *in, guint which, const KdTensor *r, const KdTensor *grad)
{
  gdouble *values = in[which]->data;

  fail_unless (grad->rank == in[which]->rank && !memcmp (grad->dims, in[which]->dims, grad->rank * sizeof (gint64)));
  for (gsize i = 0; i < kd_tensor_n_elements (grad); i++) {
    gdouble old = values[i], up, down, numeric, got = kd_tensor_get_double (grad, i);
    values[i] = old + STEP;
    up = project (cases[at].run, in, r);
    values[i] = old - STEP;
    down = project (cases[at].run, in, r);
    values[i] = old;
    numeric = (up - down) / (2 * STEP);
    if (!(fabs (numeric - got) <= 1e-7 * MAX (1, fabs (numeric))))
      ck_abort_msg ("%s, input %u, element %d: backward %.12g, central difference %.12g", kd_op_name (cases[at].op), which, (gint) i, got, numeric);
  }
}

GST_START_TEST (test_gradient)
{
  KdTensor *in[MAX_IN] = { NULL }, *out, *r, *grad;
  g_autofree gchar *shape = NULL;
  GError *error = NULL;
  Pass pass;

  for (guint i = 0; i < MAX_IN && cases[__i__].in[i]; i++)
    in[i] = make_input (cases[__i__].in[i], 100 + i);
  pass = run_pass (cases[__i__].run, in, TRUE);
  out = kd_forward_tensor (pass.forward, pass.out, &error);
  kd_assert_no_error (error);
  shape = kd_tensor_shape_string (out);
  fail_unless_equals_string (shape, cases[__i__].shape);
  r = make_input ("f 1000", 55);
  grad = kd_tensor_new_wrapped (KD_FLOAT64, out->rank, out->dims, r->data, NULL, NULL);
  if (cases[__i__].op != KD_OP_CAST_FLOAT) {
    fail_unless (kd_forward_backward (pass.forward, 1, &pass.out, &grad, &error));
    for (guint i = 0; i < MAX_IN && in[i]; i++) {
      g_autoptr (KdTensor) got = NULL;
      if (cases[__i__].in[i][0] != 'f' && cases[__i__].in[i][0] != 'p')
        continue;
      got = kd_forward_grad (pass.forward, pass.in[i], &error);
      kd_assert_no_error (error);
      compare_gradient ((guint) __i__, in, i, r, got);
    }
  }
  kd_forward_free (pass.forward);
  kd_tensor_unref (out);
  kd_tensor_unref (grad);
  kd_tensor_unref (r);
  for (guint i = 0; i < MAX_IN && in[i]; i++)
    kd_tensor_unref (in[i]);
}
GST_END_TEST;

GST_START_TEST (test_every_operation_is_here)
{
  gboolean seen[KD_N_OPS] = { FALSE };

  seen[KD_OP_DETACH] = TRUE; /* test_detach */
  for (guint i = 0; i < G_N_ELEMENTS (cases); i++)
    seen[cases[i].op] = TRUE;
  for (guint op = 0; op < KD_N_OPS; op++) {
    fail_unless (seen[op], "no case for %s", kd_op_name ((KdOp) op));
    fail_if (g_str_equal (kd_op_name ((KdOp) op), "?"));
  }
}
GST_END_TEST;

/* --- values worked by hand --- */

static KdTensor *
floats (const gfloat *values, guint rank, const gint64 *dims)
{
  KdTensor *tensor = kd_tensor_new (KD_FLOAT32, rank, dims);

  memcpy (tensor->data, values, tensor->n_bytes);
  return tensor;
}
#define FLOATS(rank_dims, ...) floats ((const gfloat[]) { __VA_ARGS__ }, rank_dims)
#define SHAPE(...) DIMS (__VA_ARGS__)

RUN (causal_ones, kd_attention (f, x[0], x[0], x[1], NULL, TRUE, 1))
RUN (hidden, kd_attention (f, x[0], x[0], x[1], x[2], FALSE, 1))

static void
check_values (Run run, KdTensor *a, KdTensor *b, KdTensor *c, guint n, const gdouble *wanted)
{
  KdTensor *in[MAX_IN] = { a, b, c };
  Pass pass = run_pass (run, in, TRUE);
  GError *error = NULL;
  g_autoptr (KdTensor) out = kd_forward_tensor (pass.forward, pass.out, &error);

  kd_assert_no_error (error);
  fail_unless_equals_int (out->dtype, KD_FLOAT32);
  fail_unless_equals_int (kd_tensor_n_elements (out), n);
  for (guint i = 0; i < n; i++)
    kd_assert_close (kd_tensor_get_double (out, i), wanted[i], 1e-6);
  kd_forward_free (pass.forward);
  for (guint i = 0; i < 3 && in[i]; i++)
    kd_tensor_unref (in[i]);
}
#define VALUES(run, a, b, c, ...) check_values (run, a, b, c, G_N_ELEMENTS (((const gdouble[]) { __VA_ARGS__ })), (const gdouble[]) { __VA_ARGS__ })

static KdTensor *
halves (void)
{
  KdTensor *tensor = kd_tensor_new (KD_FLOAT16, SHAPE (2));

  ((guint16 *) tensor->data)[0] = kd_float_to_half (-1.5f);
  ((guint16 *) tensor->data)[1] = kd_float_to_half (2.0f);
  return tensor;
}

GST_START_TEST (test_values)
{
  gint64 two[] = { 2 };
  KdTensor *mask = kd_tensor_new_zero (KD_BOOL, SHAPE (2, 2));

  ((guint8 *) mask->data)[0] = 1; /* the first query sees the first key, the second none */
  VALUES (run_linear, FLOATS (SHAPE (1, 2), 1, 2), FLOATS (SHAPE (2, 2), 1, 1, 0, -1), FLOATS (SHAPE (2), 0.5, 0), 3.5, -2);
  VALUES (run_gelu, FLOATS (SHAPE (2), 0, 1), NULL, NULL, 0, 0.841344746);
  VALUES (run_silu, FLOATS (SHAPE (2), 0, 1), NULL, NULL, 0, 0.731058579);
  VALUES (run_slice, FLOATS (SHAPE (1, 6), 0, 1, 2, 3, 4, 5), NULL, NULL, 1, 3);
  VALUES (run_slice_back, FLOATS (SHAPE (1, 6), 0, 1, 2, 3, 4, 5), NULL, NULL, 4, 5);
  VALUES (run_pad, FLOATS (SHAPE (1, 2), 1, 2), NULL, NULL, 0.5, 0.5, 1, 2, 0.5);
  VALUES (run_cumsum, FLOATS (SHAPE (1, 3), 1, 2, 4), NULL, NULL, 1, 3, 7);
  VALUES (run_var, FLOATS (SHAPE (1, 3), 1, 2, 6), NULL, NULL, 7);
  VALUES (run_normalize, FLOATS (SHAPE (2, 2), 3, 4, 0, 0), NULL, NULL, 0.6, 0.8, 0, 0);
  VALUES (run_upsample, FLOATS (SHAPE (1, 1, 1, 2), 1, 2), NULL, NULL, 1, 1, 2, 2, 1, 1, 2, 2);
  VALUES (run_relu, halves (), NULL, NULL, 0, 2);
  VALUES (run_relu, kd_tensor_new_zero (KD_UINT16, 1, two), NULL, NULL, 0, 0);
  VALUES (run_causal_ones, FLOATS (SHAPE (2, 1), 0, 0), FLOATS (SHAPE (2, 1), 3, 5), NULL, 3, 4);
  VALUES (run_hidden, FLOATS (SHAPE (2, 1), 0, 0), FLOATS (SHAPE (2, 1), 3, 5), mask, 3, 0);
}
GST_END_TEST;

GST_START_TEST (test_detach)
{
  KdTensor *in[MAX_IN] = { make_input ("f 3", 1) }, *grad, *got;
  Pass pass = run_pass (run_detach, in, TRUE);
  GError *error = NULL;

  grad = kd_tensor_new_zero (KD_FLOAT32, SHAPE (3));
  ((gfloat *) grad->data)[1] = 2;
  fail_unless (kd_forward_backward (pass.forward, 1, &pass.out, &grad, &error));
  got = kd_forward_grad (pass.forward, pass.in[0], &error);
  kd_assert_close (kd_tensor_get_double (got, 1), -2.0, 0); /* only the part that was not detached */
  kd_forward_free (pass.forward);
  kd_tensor_unref (grad);
  kd_tensor_unref (got);
  kd_tensor_unref (in[0]);
}
GST_END_TEST;

/* Training moves the running statistics by a tenth towards the batch's, in our memory. */
GST_START_TEST (test_running_statistics)
{
  KdTensor *in[MAX_IN] = { FLOATS (SHAPE (2, 1), 1, 3), FLOATS (SHAPE (1), 1), FLOATS (SHAPE (1), 0), FLOATS (SHAPE (1), 0), FLOATS (SHAPE (1), 1) };
  Pass pass = run_pass (run_batch_norm, in, FALSE);

  kd_assert_close (kd_tensor_get_double (in[3], 0), 0.2, 1e-6);
  kd_assert_close (kd_tensor_get_double (in[4], 0), 0.9 + 0.1 * 2, 1e-6);
  kd_forward_free (pass.forward);
  for (guint i = 0; i < MAX_IN; i++)
    kd_tensor_unref (in[i]);
}
GST_END_TEST;

/* --- refusals --- */

RUN (softmax_axis, kd_softmax (f, x[0], 2))
RUN (stride_0, kd_conv2d (f, x[0], x[1], NULL, 0, 0, 1, 1))
RUN (groups_0, kd_conv1d (f, x[0], x[1], NULL, 1, 0, 1, 0))
RUN (step_0, kd_slice (f, x[0], 0, 0, 1, 0))
RUN (pool_0, kd_avg_pool2d (f, x[0], 0, 1, 0))
RUN (concat_0, kd_concat (f, 0, x, 0))
RUN (pad_huge, kd_pad (f, x[0], 0, G_MAXINT64 / 16, 0, 0))
RUN (unknown, kd_op (f, KD_N_OPS, x, 1, NULL, 0, NULL, 0))
RUN (too_few_ints, kd_op (f, KD_OP_SOFTMAX, x, 1, NULL, 0, NULL, 0))
RUN (input_missing, kd_op (f, KD_OP_MATMUL, x, 2, NULL, 0, NULL, 0))
RUN (rank_9, kd_reshape (f, x[0], DIMS (1, 1, 1, 1, 1, 1, 1, 1, 2)))
RUN (named, (kd_push (f, "block%d", 3), kd_push (f, "fc"), kd_matmul (f, x[0], x[1])))

static const struct {
  Run run;
  const gchar *in[MAX_IN];
  KdError code;
  const gchar *part;
} refusals[] = {
  { run_linear, { "f 2 3", "f 4 5", "f 4" }, KD_ERROR_SHAPE, "op=linear, inputs=[2,3] [4,5] [4], reason=" },
  { run_linear, { "f 2 3", "f 4 3", "f 1" }, KD_ERROR_SHAPE, "bias" },
  { run_linear_plain, { "f 2 3", "f 3" }, KD_ERROR_SHAPE, "weight has rank 1, wanted 2" },
  { run_matmul, { "f 2 3", "f 2 3" }, KD_ERROR_SHAPE, "op=matmul" },
  { run_named, { "f 2 3", "f 2 3" }, KD_ERROR_SHAPE, "layer=block3.fc, op=matmul" },
  { run_conv1d, { "f 2 3 7", "f 4 2 3", "f 4" }, KD_ERROR_SHAPE, "op=conv1d" },
  { run_conv2d, { "f 3 5 6", "f 4 3 3 3", "f 4" }, KD_ERROR_SHAPE, "input has rank 3, wanted 4" },
  { run_conv2d, { "f 2 3 5 6", "f 4 3 3 3", "f 5" }, KD_ERROR_SHAPE, "op=conv2d" },
  { run_conv2d_groups, { "f 2 3 4 4", "f 4 1 3 3" }, KD_ERROR_SHAPE, "op=conv2d" },
  { run_stride_0, { "f 2 3 5 6", "f 4 3 3 3" }, KD_ERROR_VALUE, "stride=0" },
  { run_groups_0, { "f 2 3 5", "f 4 3 3" }, KD_ERROR_VALUE, "groups=0" },
  { run_batch_norm, { "f 4 3", "f 2", "f 3", "b 3", "b 3" }, KD_ERROR_SHAPE, "op=batch_norm" },
  { run_batch_norm, { "f 1 3", "f 3", "f 3", "b 3", "b 3" }, KD_ERROR_SHAPE, "one value a channel" },
  { run_layer_norm, { "f 3 5", "f 4", "f 5" }, KD_ERROR_SHAPE, "op=layer_norm" },
  { run_embedding, { "i9 20", "f 3 2" }, KD_ERROR_RANGE, "outside 0..2" },
  { run_embedding, { "n 2", "f 3 2" }, KD_ERROR_RANGE, "index -1" },
  { run_embedding, { "f 2", "f 3 2" }, KD_ERROR_DTYPE, "floating" },
  { run_softmax_axis, { "f 2 3" }, KD_ERROR_RANGE, "axis 2 of a tensor of rank 2" },
  { run_add, { "f 2 3", "f 2 4" }, KD_ERROR_SHAPE, "op=add" },
  { run_mul, { "f 2 3", "f 2" }, KD_ERROR_SHAPE, "op=mul" },
  { run_reshape, { "f 2 5" }, KD_ERROR_SHAPE, "op=reshape" },
  { run_rank_9, { "f 2" }, KD_ERROR_SHAPE, "more than 8 axes" },
  { run_permute, { "f 2 3" }, KD_ERROR_SHAPE, "op=permute" },
  { run_expand, { "f 2 2" }, KD_ERROR_SHAPE, "op=expand" },
  { run_concat, { "f 2 3", "f 3 3" }, KD_ERROR_SHAPE, "op=concat" },
  { run_concat, { "f 2 3", "f 0" }, KD_ERROR_SHAPE, "a part has rank 1" },
  { run_concat_0, { NULL }, KD_ERROR_VALUE, "an input is missing" },
  { run_stack, { "f 2 3", "f 2 4" }, KD_ERROR_SHAPE, "op=stack" },
  { run_step_0, { "f 2 3" }, KD_ERROR_VALUE, "step=0" },
  { run_slice, { "f 3" }, KD_ERROR_RANGE, "axis 1 of a tensor of rank 1" },
  { run_pad_huge, { "f 3" }, KD_ERROR_ENGINE, "op=pad" },
  { run_gather, { "f 3 4", "i9 3 9" }, KD_ERROR_RANGE, "outside 0..3" },
  { run_gather, { "f 3 4", "i4 3" }, KD_ERROR_SHAPE, "op=gather" },
  { run_index_select, { "f 3 4", "n 2" }, KD_ERROR_RANGE, "index -1" },
  { run_index_select, { "f 3 4", "i4 2 2" }, KD_ERROR_SHAPE, "index has rank 2" },
  { run_tril, { "f 3" }, KD_ERROR_SHAPE, "op=tril" },
  { run_sum, { "f 3" }, KD_ERROR_RANGE, "axis 1" },
  { run_max_all, { "f 0 3" }, KD_ERROR_SHAPE, "nothing has no maximum" },
  { run_avg_pool2d, { "f 2 4 6" }, KD_ERROR_SHAPE, "input has rank 3" },
  { run_pool_0, { "f 1 1 4 4" }, KD_ERROR_VALUE, "kernel=0" },
  { run_max_pool2d, { "f 1 1 0 0" }, KD_ERROR_SHAPE, "op=max_pool2d" },
  { run_global_avg_pool, { "f 2 3" }, KD_ERROR_SHAPE, "rank 2" },
  { run_flatten, { "f" }, KD_ERROR_SHAPE, "scalar" },
  { run_upsample, { "f 2 3 4" }, KD_ERROR_SHAPE, "input has rank 3" },
  { run_masked_fill, { "f 3 4", "m 5" }, KD_ERROR_SHAPE, "op=masked_fill" },
  { run_where, { "m 3 4", "f 3 5", "f 4" }, KD_ERROR_SHAPE, "op=where" },
  { run_attention, { "f 2 3 4", "f 2 5 3", "f 2 5 2" }, KD_ERROR_SHAPE, "wanted q" },
  { run_attention_mask, { "f 2 4 3", "f 2 4 3", "f 2 4 2", "m 3 4" }, KD_ERROR_SHAPE, "op=attention" },
  { run_sparse_matmul, { "i3 3 7", "f 7", "f 3 4" }, KD_ERROR_SHAPE, "not [2 E]" },
  { run_sparse_matmul, { "i9 2 40", "f 40", "f 3 4" }, KD_ERROR_RANGE, "outside 0..2" },
  { run_unknown, { "f 2" }, KD_ERROR_UNSUPPORTED, "no such operation" },
  { run_too_few_ints, { "f 2" }, KD_ERROR_VALUE, "too few arguments" },
  { run_input_missing, { "f 2 2" }, KD_ERROR_VALUE, "an input is missing" },
};

/* And after a refusal nothing runs, and the first reason stays. */
GST_START_TEST (test_refusal)
{
  KdTensor *in[MAX_IN] = { NULL };
  GError *error = NULL;
  Pass pass;

  for (guint i = 0; i < MAX_IN && refusals[__i__].in[i]; i++)
    in[i] = make_input (refusals[__i__].in[i], 100 + i);
  pass = run_pass (refusals[__i__].run, in, TRUE);
  fail_unless (pass.out == NULL);
  fail_unless (kd_relu (pass.forward, pass.in[0]) == NULL);
  fail_if (kd_forward_tensor (pass.forward, pass.out, &error));
  fail_if (strchr (error->message, '\n'));
  kd_assert_error (error, refusals[__i__].code, refusals[__i__].part);
  fail_if (kd_forward_backward (pass.forward, 1, &pass.in[0], in, &error));
  kd_assert_error (error, refusals[__i__].code, refusals[__i__].part);
  kd_forward_free (pass.forward);
  for (guint i = 0; i < MAX_IN && in[i]; i++)
    kd_tensor_unref (in[i]);
}
GST_END_TEST;

/* A probe leaves the pass as it was; the gradient of an input is the last pass's, not the sum of all. */
GST_START_TEST (test_probe)
{
  KdTensor *in[MAX_IN] = { make_input ("f 2 3", 1) }, *one = make_input ("f 2 3", 2), *two = make_input ("f 2 3", 3);
  KdTensor *const given[] = { one, two, one, two };
  Pass pass = run_pass (run_relu, in, TRUE);
  GError *error = NULL;

  for (guint i = 0; i < 4; i++) {
    g_autoptr (KdTensor) got = NULL;
    fail_unless ((i < 3 ? kd_forward_probe : kd_forward_backward) (pass.forward, 1, &pass.out, &given[i], &error));
    got = kd_forward_grad (pass.forward, pass.in[0], &error);
    for (guint j = 0; j < 6; j++)
      fail_unless (kd_tensor_get_double (got, j) == (kd_tensor_get_double (in[0], j) > 0 ? kd_tensor_get_double (given[i], j) : 0));
  }
  fail_if (kd_forward_probe (pass.forward, 1, &pass.out, &one, &error));
  kd_assert_error (error, KD_ERROR_ENGINE, "second time");
  kd_forward_free (pass.forward);
  kd_tensor_unref (in[0]);
  kd_tensor_unref (one);
  kd_tensor_unref (two);
}
GST_END_TEST;

GST_START_TEST (test_backward_refusals)
{
  KdTensor *in[MAX_IN] = { make_input ("f 2 3", 1) }, *wrong = make_input ("f 3 2", 1);
  Pass quiet = run_pass (run_relu, in, FALSE), pass = run_pass (run_relu, in, TRUE);
  GError *error = NULL;

  fail_if (kd_forward_backward (quiet.forward, 1, &quiet.out, in, &error));
  kd_assert_error (error, KD_ERROR_VALUE, "not recorded");
  fail_if (kd_forward_grad (pass.forward, pass.in[0], &error));
  kd_assert_error (error, KD_ERROR_VALUE, "No gradient");
  fail_if (kd_forward_backward (pass.forward, 1, &pass.out, &wrong, &error));
  kd_assert_error (error, KD_ERROR_SHAPE, "gradient=[3,2], output=[2,3]");
  fail_unless (kd_forward_backward (pass.forward, 1, &pass.out, in, &error));
  fail_if (kd_forward_backward (pass.forward, 1, &pass.out, in, &error));
  kd_assert_error (error, KD_ERROR_ENGINE, "second time");
  kd_forward_free (quiet.forward);
  kd_forward_free (pass.forward);
  kd_tensor_unref (in[0]);
  kd_tensor_unref (wrong);
}
GST_END_TEST;

GST_START_TEST (test_engine)
{
  GError *error = NULL;
  g_autofree gchar *text = KD_ENGINE_GET_CLASS (engine)->describe (engine);

  fail_unless (g_str_has_prefix (text, "libtorch "));
  fail_unless (kd_engine_get ("torch", &error) == engine);
  KD_ENGINE_GET_CLASS (engine)->set_threads (engine, 3);
  g_free (text);
  text = KD_ENGINE_GET_CLASS (engine)->describe (engine);
  fail_unless (g_str_has_suffix (text, ", 3 threads"));
  fail_if (kd_engine_get ("abacus", &error));
  kd_assert_error (error, KD_ERROR_ENGINE, "name=abacus; install libtorch-dev and build kdstream with -Dtorch=enabled");
}
GST_END_TEST;

static Suite *
ops_suite (void)
{
  Suite *suite = suite_create ("ops");
  TCase *tests = tcase_create ("ops");

  kd_engine_get (NULL, NULL); /* each test forks: libtorch is then there already */

  suite_add_tcase (suite, tests);
  tcase_add_checked_fixture (tests, set_up, tear_down);
  tcase_add_loop_test (tests, test_gradient, 0, G_N_ELEMENTS (cases));
  tcase_add_test (tests, test_every_operation_is_here);
  tcase_add_test (tests, test_values);
  tcase_add_test (tests, test_detach);
  tcase_add_test (tests, test_running_statistics);
  tcase_add_loop_test (tests, test_refusal, 0, G_N_ELEMENTS (refusals));
  tcase_add_test (tests, test_backward_refusals);
  tcase_add_test (tests, test_probe);
  tcase_add_test (tests, test_engine);
  return suite;
}

GST_CHECK_MAIN (ops);
