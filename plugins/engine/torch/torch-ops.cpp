/* The operations: one small function each in a table by KdOp; layers are in torch-layers.cpp. What the arguments mean is in
 * core/model/kd-ops.h. */
#include "torch-ops.hpp"
#include <c10/core/InferenceMode.h>

void
kd_torch_refuse (KdError code, const std::string &text)
{
  throw KdTorchError (code, text);
}

void
kd_torch_want_rank (const at::Tensor &t, gint64 rank, const char *what)
{
  if (t.dim () != rank)
    kd_torch_refuse (KD_ERROR_SHAPE, std::string (what) + " has rank " + std::to_string (t.dim ()) + ", wanted " + std::to_string (rank));
}

void
kd_torch_want_positive (gint64 value, const char *what)
{
  if (value < 1)
    kd_torch_refuse (KD_ERROR_VALUE, std::string (what) + "=" + std::to_string (value) + ", wanted from 1");
}

/* Indices are checked here: libtorch does it for some operations only, and with words that do not say which value. */
at::Tensor
KdTorchArgs::index (guint i, gint64 below) const
{
  at::Tensor t = raw (i);

  if (at::isFloatingType (t.scalar_type ()))
    kd_torch_refuse (KD_ERROR_DTYPE, "the index is of a floating type");
  t = t.to (at::kLong);
  if (t.numel () > 0) {
    gint64 low = t.min ().item<int64_t> (), high = t.max ().item<int64_t> ();
    if (low < 0 || high >= below)
      kd_torch_refuse (KD_ERROR_RANGE, "index " + std::to_string (low < 0 ? low : high) + " outside 0.." + std::to_string (below - 1));
  }
  return t;
}

gint64
kd_torch_axis (const at::Tensor &t, gint64 axis)
{
  gint64 at = axis < 0 ? axis + t.dim () : axis;

  if (at < 0 || at >= t.dim ())
    kd_torch_refuse (KD_ERROR_RANGE, "axis " + std::to_string (axis) + " of a tensor of rank " + std::to_string (t.dim ()));
  return at;
}

namespace
{

typedef KdTorchArgs Args;
typedef at::Tensor (*OpFunc) (const Args &);
struct Row {
  OpFunc run;
  guint n_in, n_ints, n_reals; /* at least */
};

/* --- shapes --- */

at::Tensor
normalize (const Args &a)
{
  at::Tensor x = a.x ();

  return x / at::norm (x, 2, at::IntArrayRef { kd_torch_axis (x, a.ints[0]) }, true).clamp_min (a.reals[0]);
}

std::vector<at::Tensor>
all_inputs (const Args &a)
{
  std::vector<at::Tensor> parts;

  for (guint i = 0; i < a.n_in; i++)
    parts.push_back (a.x (i));
  return parts;
}

at::Tensor
concat (const Args &a)
{
  std::vector<at::Tensor> parts = all_inputs (a);

  for (const auto &part : parts)
    kd_torch_want_rank (part, parts[0].dim (), "a part"); /* libtorch skips empty vectors whatever the rank */
  return at::cat (parts, kd_torch_axis (parts[0], a.ints[0]));
}

at::Tensor
slice (const Args &a)
{
  kd_torch_want_positive (a.ints[3], "step");
  return a.raw (0).slice (kd_torch_axis (a.raw (0), a.ints[0]), a.ints[1], a.ints[2], a.ints[3]);
}

/* libtorch lists pairs from the last axis on */
at::Tensor
pad (const Args &a)
{
  at::Tensor x = a.x ();
  gint64 axis = kd_torch_axis (x, a.ints[0]), at = 2 * (x.dim () - 1 - axis);
  std::vector<int64_t> pairs ((size_t) at + 2, 0);

  pairs[(size_t) at] = a.ints[1];
  pairs[(size_t) at + 1] = a.ints[2];
  return at::constant_pad_nd (x, pairs, a.reals[0]);
}

at::Tensor
gather (const Args &a)
{
  at::Tensor x = a.x ();
  gint64 axis = kd_torch_axis (x, a.ints[0]);

  return at::gather (x, axis, a.index (1, x.size (axis)));
}

at::Tensor
index_select (const Args &a)
{
  at::Tensor x = a.x ();
  gint64 axis = kd_torch_axis (x, a.ints[0]);

  kd_torch_want_rank (a.raw (1), 1, "index");
  return at::index_select (x, axis, a.index (1, x.size (axis)));
}

at::Tensor
tril (const Args &a)
{
  at::Tensor x = a.x ();

  if (x.dim () < 2)
    kd_torch_refuse (KD_ERROR_SHAPE, "there is no diagonal, wanted [... M N]");
  return at::tril (x, a.ints[0]);
}

/* --- reductions --- */

/* Over all axes libtorch gives a scalar; with `keep` it gets the rank back. */
at::Tensor
reduce (const Args &a, at::Tensor (*all) (const Args &, const at::Tensor &),
    at::Tensor (*one) (const Args &, const at::Tensor &, gint64 axis, bool keep))
{
  at::Tensor x = a.x ();

  if (a.ints[0] != G_MININT)
    return one (a, x, kd_torch_axis (x, a.ints[0]), a.ints[1] != 0);
  at::Tensor y = all (a, x);
  return a.ints[1] ? y.reshape (std::vector<int64_t> ((size_t) x.dim (), 1)) : y;
}

at::Tensor
sum (const Args &a)
{
  return reduce (
      a, [] (const Args &, const at::Tensor &x) { return at::sum (x); },
      [] (const Args &, const at::Tensor &x, gint64 axis, bool keep) { return at::sum (x, at::IntArrayRef { axis }, keep); });
}

at::Tensor
mean (const Args &a)
{
  return reduce (
      a, [] (const Args &, const at::Tensor &x) { return at::mean (x); },
      [] (const Args &, const at::Tensor &x, gint64 axis, bool keep) { return at::mean (x, at::IntArrayRef { axis }, keep); });
}

at::Tensor
maximum_of (const Args &a)
{
  if (a.raw (0).numel () == 0)
    kd_torch_refuse (KD_ERROR_SHAPE, "nothing has no maximum");
  return reduce (
      a, [] (const Args &, const at::Tensor &x) { return at::max (x); },
      [] (const Args &, const at::Tensor &x, gint64 axis, bool keep) { return std::get<0> (at::max (x, axis, keep)); });
}

at::Tensor
variance (const Args &a)
{
  return reduce (
      a,
      [] (const Args &c, const at::Tensor &x) {
        return at::var (x.reshape ({ -1 }), at::IntArrayRef { 0 }, (int64_t) c.ints[2], false);
      },
      [] (const Args &c, const at::Tensor &x, gint64 axis, bool keep) {
        return at::var (x, at::IntArrayRef { axis }, (int64_t) c.ints[2], keep);
      });
}

#define X(expression)                \
  [] (const Args &a) -> at::Tensor { \
    at::Tensor x = a.x ();           \
    return expression;               \
  }
#define RAW(expression)              \
  [] (const Args &a) -> at::Tensor { \
    const at::Tensor &x = a.raw (0); \
    return expression;               \
  }

/* clang-format off */
Row
row_of (KdOp op)
{
  switch (op) {
  case KD_OP_LINEAR: return { kd_torch_linear, 2, 0, 0 };
  case KD_OP_MATMUL: return { X (at::matmul (x, a.x (1))), 2, 0, 0 };
  case KD_OP_CONV1D: return { [] (const Args &a) { return kd_torch_conv (a, 3); }, 2, 4, 0 };
  case KD_OP_CONV2D: return { [] (const Args &a) { return kd_torch_conv (a, 4); }, 2, 4, 0 };
  case KD_OP_BATCH_NORM: return { kd_torch_batch_norm, 5, 1, 2 };
  case KD_OP_LAYER_NORM: return { kd_torch_layer_norm, 1, 0, 1 };
  case KD_OP_EMBEDDING: return { kd_torch_embedding, 2, 0, 0 };
  case KD_OP_RELU: return { X (at::relu (x)), 1, 0, 0 };
  case KD_OP_GELU: return { X (at::gelu (x)), 1, 0, 0 };
  case KD_OP_SILU: return { X (at::silu (x)), 1, 0, 0 };
  case KD_OP_TANH: return { X (at::tanh (x)), 1, 0, 0 };
  case KD_OP_SIGMOID: return { X (at::sigmoid (x)), 1, 0, 0 };
  case KD_OP_EXP: return { X (at::exp (x)), 1, 0, 0 };
  case KD_OP_LOG: return { X (at::log (x)), 1, 0, 0 };
  case KD_OP_SQRT: return { X (at::sqrt (x)), 1, 0, 0 };
  case KD_OP_ABS: return { X (at::abs (x)), 1, 0, 0 };
  case KD_OP_NEG: return { X (at::neg (x)), 1, 0, 0 };
  case KD_OP_SOFTMAX: return { X (at::softmax (x, kd_torch_axis (x, a.ints[0]))), 1, 1, 0 };
  case KD_OP_LOG_SOFTMAX: return { X (at::log_softmax (x, kd_torch_axis (x, a.ints[0]))), 1, 1, 0 };
  case KD_OP_ADD: return { X (at::add (x, a.x (1))), 2, 0, 0 };
  case KD_OP_SUB: return { X (at::sub (x, a.x (1))), 2, 0, 0 };
  case KD_OP_MUL: return { X (at::mul (x, a.x (1))), 2, 0, 0 };
  case KD_OP_DIV: return { X (at::div (x, a.x (1))), 2, 0, 0 };
  case KD_OP_SCALE: return { X (a.reals[1] == 0.0 ? x * a.reals[0] : x * a.reals[0] + a.reals[1]), 1, 0, 2 };
  case KD_OP_MAXIMUM: return { X (at::maximum (x, a.x (1))), 2, 0, 0 };
  case KD_OP_MINIMUM: return { X (at::minimum (x, a.x (1))), 2, 0, 0 };
  case KD_OP_CLAMP: return { X (at::clamp (x, at::Scalar (a.reals[0]), at::Scalar (a.reals[1]))), 1, 0, 2 };
  case KD_OP_POW: return { X (at::pow (x, at::Scalar (a.reals[0]))), 1, 0, 1 };
  case KD_OP_RESHAPE: return { RAW (x.reshape (at::IntArrayRef (a.ints, a.n_ints))), 1, 0, 0 };
  case KD_OP_PERMUTE: return { RAW (x.permute (at::IntArrayRef (a.ints, a.n_ints))), 1, 0, 0 };
  case KD_OP_EXPAND: return { RAW (x.expand (at::IntArrayRef (a.ints, a.n_ints))), 1, 0, 0 };
  case KD_OP_CONCAT: return { concat, 1, 1, 0 };
  case KD_OP_SLICE: return { slice, 1, 4, 0 };
  case KD_OP_PAD: return { pad, 1, 3, 1 };
  case KD_OP_GATHER: return { gather, 2, 1, 0 };
  case KD_OP_INDEX_SELECT: return { index_select, 2, 1, 0 };
  case KD_OP_STACK: return { [] (const Args &a) { return at::stack (all_inputs (a), a.ints[0]); }, 1, 1, 0 };
  case KD_OP_SUM: return { sum, 1, 2, 0 };
  case KD_OP_MEAN: return { mean, 1, 2, 0 };
  case KD_OP_VAR: return { variance, 1, 3, 0 };
  case KD_OP_MAX: return { maximum_of, 1, 2, 0 };
  case KD_OP_NORMALIZE: return { normalize, 1, 1, 1 };
  case KD_OP_AVG_POOL2D: return { [] (const Args &a) { return kd_torch_pool (a, 2, false); }, 1, 3, 0 };
  case KD_OP_MAX_POOL2D: return { [] (const Args &a) { return kd_torch_pool (a, 2, true); }, 1, 3, 0 };
  case KD_OP_UPSAMPLE2D: return { kd_torch_upsample2d, 1, 2, 0 };
  case KD_OP_AVG_POOL1D: return { [] (const Args &a) { return kd_torch_pool (a, 1, false); }, 1, 3, 0 };
  case KD_OP_MAX_POOL1D: return { [] (const Args &a) { return kd_torch_pool (a, 1, true); }, 1, 3, 0 };
  case KD_OP_MASKED_FILL: return { X (at::masked_fill (x, a.mask (1), at::Scalar (a.reals[0]))), 2, 0, 1 };
  case KD_OP_WHERE: return { [] (const Args &a) { return at::where (a.mask (0), a.x (1), a.x (2)); }, 3, 0, 0 };
  case KD_OP_TRIL: return { tril, 1, 1, 0 };
  case KD_OP_CAST_FLOAT: return { RAW (x.to (at::kFloat)), 1, 0, 0 };
  case KD_OP_CUMSUM: return { X (at::cumsum (x, kd_torch_axis (x, a.ints[0]))), 1, 1, 0 };
  case KD_OP_ATTENTION: return { kd_torch_attention, 3, 1, 1 };
  case KD_OP_DETACH: return { RAW (x.detach ()), 1, 0, 0 };
  case KD_OP_FLIP: return { RAW (at::flip (x, at::IntArrayRef { kd_torch_axis (x, a.ints[0]) })), 1, 1, 0 };
  case KD_OP_SPARSE_MATMUL: return { kd_torch_sparse_matmul, 3, 1, 0 };
  case KD_N_OPS: break;
  }
  return { nullptr, 0, 0, 0 };
}
/* clang-format on */

} // namespace

KdVar *
kd_torch_op (KdGraph *graph, KdOp op, KdVar *const *in, guint n_in, const gint64 *ints, guint n_ints, const gdouble *reals,
    guint n_reals, GError **error)
{
  /* What is left when our own checks and libtorch's index checks have spoken is a shape. */
  return kd_torch_guard<KdVar *> (KD_ERROR_SHAPE, error, nullptr, [&] {
    Row row = row_of (op);
    Args args = { in, n_in, ints, n_ints, reals };
    if (!row.run)
      kd_torch_refuse (KD_ERROR_UNSUPPORTED, "the engine has no such operation");
    if (n_ints < row.n_ints || n_reals < row.n_reals)
      kd_torch_refuse (KD_ERROR_VALUE, "too few arguments");
    for (guint i = 0; i < row.n_in; i++)
      if (!args.has (i) && !(op == KD_OP_LAYER_NORM && i > 0))
        kd_torch_refuse (KD_ERROR_VALUE, "an input is missing");
    c10::InferenceMode mode (!graph->grad);
    return kd_torch_keep (graph, row.run (args));
  });
}
