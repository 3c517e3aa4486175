/* One thin function an operation: it packs its arguments for KdEngineClass.op. A NULL that is no optional input stops it. */
#include "kd-ops.h"

const gchar *
kd_op_name (KdOp op)
{
  static const gchar *const names[KD_N_OPS] = { "linear", "matmul", "conv1d", "conv2d", "batch_norm", "layer_norm", "embedding",
    "relu", "gelu", "silu", "tanh", "sigmoid", "exp", "log", "sqrt", "abs", "neg", "softmax", "log_softmax", "add", "sub", "mul",
    "div", "scale", "maximum", "minimum", "clamp", "pow", "reshape", "permute", "expand", "concat", "slice", "pad", "gather",
    "index_select", "stack", "sum", "mean", "var", "max", "normalize", "avg_pool2d", "max_pool2d", "upsample2d", "avg_pool1d",
    "max_pool1d", "masked_fill", "where", "tril", "cast_float", "cumsum", "attention", "detach", "flip", "sparse_matmul" };

  return (guint) op < KD_N_OPS && names[op] ? names[op] : "?";
}

/* Bundles of integers and reals, so that the functions below stay one line. */
#define INTS(...) (const gint64[]) { __VA_ARGS__ }, G_N_ELEMENTS (((const gint64[]) { __VA_ARGS__ }))
#define REALS(...) (const gdouble[]) { __VA_ARGS__ }, G_N_ELEMENTS (((const gdouble[]) { __VA_ARGS__ }))
#define NONE NULL, 0
#define IN(...) (KdVar *const[]) { __VA_ARGS__ }, G_N_ELEMENTS (((KdVar *const[]) { __VA_ARGS__ }))

#define UNARY(name, op)                                        \
  KdVar *name (KdForward *forward, KdVar *x)                   \
  {                                                            \
    return x ? kd_op (forward, op, IN (x), NONE, NONE) : NULL; \
  }
#define BINARY(name, op)                                               \
  KdVar *name (KdForward *forward, KdVar *a, KdVar *b)                 \
  {                                                                    \
    return a && b ? kd_op (forward, op, IN (a, b), NONE, NONE) : NULL; \
  }
#define ALONG(name, op)                                               \
  KdVar *name (KdForward *forward, KdVar *x, gint axis)               \
  {                                                                   \
    return x ? kd_op (forward, op, IN (x), INTS (axis), NONE) : NULL; \
  }
#define REDUCE(name, op)                                                    \
  KdVar *name (KdForward *forward, KdVar *x, gint axis, gboolean keep)      \
  {                                                                         \
    return x ? kd_op (forward, op, IN (x), INTS (axis, keep), NONE) : NULL; \
  }
#define POOL(name, op)                                                                   \
  KdVar *name (KdForward *forward, KdVar *x, gint kernel, gint stride, gint padding)     \
  {                                                                                      \
    return x ? kd_op (forward, op, IN (x), INTS (kernel, stride, padding), NONE) : NULL; \
  }
#define CONV(name, op)                                                                                                          \
  KdVar *name (KdForward *forward, KdVar *x, KdVar *weight, KdVar *bias, gint stride, gint padding, gint dilation, gint groups) \
  {                                                                                                                             \
    return x && weight ? kd_op (forward, op, IN (x, weight, bias), INTS (stride, padding, dilation, groups), NONE) : NULL;      \
  }
#define JOIN(name, op)                                                      \
  KdVar *name (KdForward *forward, guint n, KdVar *const *parts, gint axis) \
  {                                                                         \
    for (guint i = 0; i < n; i++)                                           \
      if (!parts[i])                                                        \
        return NULL;                                                        \
    return kd_op (forward, op, parts, n, INTS (axis), NONE);                \
  }
#define SHAPE(name, op)                                                      \
  KdVar *name (KdForward *forward, KdVar *x, guint rank, const gint64 *dims) \
  {                                                                          \
    return x ? kd_op (forward, op, IN (x), dims, rank, NONE) : NULL;         \
  }

UNARY (kd_relu, KD_OP_RELU)
UNARY (kd_gelu, KD_OP_GELU)
UNARY (kd_silu, KD_OP_SILU)
UNARY (kd_tanh, KD_OP_TANH)
UNARY (kd_sigmoid, KD_OP_SIGMOID)
UNARY (kd_exp, KD_OP_EXP)
UNARY (kd_log, KD_OP_LOG)
UNARY (kd_sqrt, KD_OP_SQRT)
UNARY (kd_abs, KD_OP_ABS)
UNARY (kd_neg, KD_OP_NEG)
UNARY (kd_cast_float, KD_OP_CAST_FLOAT)
UNARY (kd_detach, KD_OP_DETACH)
BINARY (kd_matmul, KD_OP_MATMUL)
BINARY (kd_add, KD_OP_ADD)
BINARY (kd_sub, KD_OP_SUB)
BINARY (kd_mul, KD_OP_MUL)
BINARY (kd_div, KD_OP_DIV)
BINARY (kd_maximum, KD_OP_MAXIMUM)
BINARY (kd_minimum, KD_OP_MINIMUM)
BINARY (kd_embedding, KD_OP_EMBEDDING)
ALONG (kd_softmax, KD_OP_SOFTMAX)
ALONG (kd_log_softmax, KD_OP_LOG_SOFTMAX)
ALONG (kd_flip, KD_OP_FLIP)
ALONG (kd_tril, KD_OP_TRIL)
ALONG (kd_cumsum, KD_OP_CUMSUM)
REDUCE (kd_sum, KD_OP_SUM)
REDUCE (kd_mean, KD_OP_MEAN)
REDUCE (kd_max, KD_OP_MAX)
POOL (kd_avg_pool1d, KD_OP_AVG_POOL1D)
POOL (kd_max_pool1d, KD_OP_MAX_POOL1D)
POOL (kd_avg_pool2d, KD_OP_AVG_POOL2D)
POOL (kd_max_pool2d, KD_OP_MAX_POOL2D)
CONV (kd_conv1d, KD_OP_CONV1D)
CONV (kd_conv2d, KD_OP_CONV2D)
JOIN (kd_concat, KD_OP_CONCAT)
JOIN (kd_stack, KD_OP_STACK)
SHAPE (kd_reshape, KD_OP_RESHAPE)
SHAPE (kd_permute, KD_OP_PERMUTE)
SHAPE (kd_expand, KD_OP_EXPAND)

KdVar *
kd_linear (KdForward *forward, KdVar *x, KdVar *weight, KdVar *bias)
{
  return x && weight ? kd_op (forward, KD_OP_LINEAR, IN (x, weight, bias), NONE, NONE) : NULL;
}

KdVar *
kd_sparse_matmul (KdForward *forward, KdVar *index, KdVar *values, gint64 n_rows, KdVar *x)
{
  return index && values && x ? kd_op (forward, KD_OP_SPARSE_MATMUL, IN (index, values, x), INTS (n_rows), NONE) : NULL;
}

KdVar *
kd_attention (KdForward *forward, KdVar *q, KdVar *k, KdVar *v, KdVar *mask, gboolean causal, gdouble scale)
{
  return q && k && v ? kd_op (forward, KD_OP_ATTENTION, IN (q, k, v, mask), INTS (causal), REALS (scale)) : NULL;
}

KdVar *
kd_batch_norm (KdForward *forward, KdVar *x, KdVar *weight, KdVar *bias, KdVar *running_mean, KdVar *running_var,
    gboolean training, gdouble momentum, gdouble epsilon)
{
  if (!x || !weight || !bias || !running_mean || !running_var)
    return NULL;
  return kd_op (forward, KD_OP_BATCH_NORM, IN (x, weight, bias, running_mean, running_var), INTS (training),
      REALS (momentum, epsilon));
}

KdVar *
kd_layer_norm (KdForward *forward, KdVar *x, KdVar *weight, KdVar *bias, gdouble epsilon)
{
  return x ? kd_op (forward, KD_OP_LAYER_NORM, IN (x, weight, bias), NONE, REALS (epsilon)) : NULL;
}

KdVar *
kd_normalize (KdForward *forward, KdVar *x, gint axis, gdouble epsilon)
{
  return x ? kd_op (forward, KD_OP_NORMALIZE, IN (x), INTS (axis), REALS (epsilon)) : NULL;
}

KdVar *
kd_scale (KdForward *forward, KdVar *x, gdouble factor, gdouble offset)
{
  return x ? kd_op (forward, KD_OP_SCALE, IN (x), NONE, REALS (factor, offset)) : NULL;
}

KdVar *
kd_clamp (KdForward *forward, KdVar *x, gdouble low, gdouble high)
{
  return x ? kd_op (forward, KD_OP_CLAMP, IN (x), NONE, REALS (low, high)) : NULL;
}

KdVar *
kd_pow (KdForward *forward, KdVar *x, gdouble exponent)
{
  return x ? kd_op (forward, KD_OP_POW, IN (x), NONE, REALS (exponent)) : NULL;
}

KdVar *
kd_masked_fill (KdForward *forward, KdVar *x, KdVar *mask, gdouble value)
{
  return x && mask ? kd_op (forward, KD_OP_MASKED_FILL, IN (x, mask), NONE, REALS (value)) : NULL;
}

KdVar *
kd_where (KdForward *forward, KdVar *mask, KdVar *a, KdVar *b)
{
  return mask && a && b ? kd_op (forward, KD_OP_WHERE, IN (mask, a, b), NONE, NONE) : NULL;
}

KdVar *
kd_flatten (KdForward *forward, KdVar *x)
{
  gint64 dims[KD_MAX_RANK], rest = 1;
  guint rank = kd_var_shape (forward, x, dims);

  if (!x)
    return NULL;
  if (rank == 0)
    return kd_forward_fail (forward, KD_ERROR_SHAPE, "Nothing to flatten: a scalar has no samples' axis");
  for (guint i = 1; i < rank; i++)
    rest *= dims[i];
  return rank == 2 ? x : kd_reshape (forward, x, 2, (gint64[]) { dims[0], rest });
}

KdVar *
kd_slice (KdForward *forward, KdVar *x, gint axis, gint64 first, gint64 end, gint64 step)
{
  return x ? kd_op (forward, KD_OP_SLICE, IN (x), INTS (axis, first, end, step), NONE) : NULL;
}

KdVar *
kd_pad (KdForward *forward, KdVar *x, gint axis, gint64 before, gint64 after, gdouble value)
{
  return x ? kd_op (forward, KD_OP_PAD, IN (x), INTS (axis, before, after), REALS (value)) : NULL;
}

KdVar *
kd_gather (KdForward *forward, KdVar *x, gint axis, KdVar *index)
{
  return x && index ? kd_op (forward, KD_OP_GATHER, IN (x, index), INTS (axis), NONE) : NULL;
}

KdVar *
kd_index_select (KdForward *forward, KdVar *x, gint axis, KdVar *index)
{
  return x && index ? kd_op (forward, KD_OP_INDEX_SELECT, IN (x, index), INTS (axis), NONE) : NULL;
}

KdVar *
kd_var (KdForward *forward, KdVar *x, gint axis, gboolean keep, gint correction)
{
  return x ? kd_op (forward, KD_OP_VAR, IN (x), INTS (axis, keep, correction), NONE) : NULL;
}

KdVar *
kd_global_avg_pool (KdForward *forward, KdVar *x)
{
  gint64 dims[KD_MAX_RANK], rest = 1;
  guint rank = kd_var_shape (forward, x, dims);

  if (!x)
    return NULL;
  if (rank < 3)
    return kd_forward_fail (forward, KD_ERROR_SHAPE, "Nothing to pool: the input has rank %u, wanted [N C ...]", rank);
  for (guint i = 2; i < rank; i++)
    rest *= dims[i];
  return kd_mean (forward, kd_reshape (forward, x, 3, (gint64[]) { dims[0], dims[1], rest }), 2, FALSE);
}

KdVar *
kd_upsample2d (KdForward *forward, KdVar *x, gint factor, gboolean bilinear)
{
  return x ? kd_op (forward, KD_OP_UPSAMPLE2D, IN (x), INTS (factor, bilinear), NONE) : NULL;
}
