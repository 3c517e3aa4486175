/* Operations that are layers: products, normalisation, attention, pooling. What the arguments mean is in core/model/kd-ops.h.
 * libtorch's own checks refuse most wrong shapes; here are those that it lets pass. */
#include "torch-ops.hpp"
#include <algorithm>
#include <cmath>
#include <limits>

typedef KdTorchArgs Args;

/* --- products --- */

at::Tensor
kd_torch_linear (const Args &a)
{
  at::Tensor w = a.x (1), b = a.optional (2);

  kd_torch_want_rank (w, 2, "weight");
  if (b.defined () && (b.dim () != 1 || b.size (0) != w.size (0)))
    kd_torch_refuse (KD_ERROR_SHAPE, "the bias is not as long as the weight has rows");
  return at::linear (a.x (), w, b);
}

at::Tensor
kd_torch_conv (const Args &a, gint64 rank)
{
  at::Tensor x = a.x (), w = a.x (1), b = a.optional (2);

  kd_torch_want_rank (x, rank, "input");
  kd_torch_want_rank (w, rank, "weight");
  kd_torch_want_positive (a.ints[0], "stride");
  kd_torch_want_positive (a.ints[2], "dilation");
  kd_torch_want_positive (a.ints[3], "groups");
  return rank == 3 ? at::conv1d (x, w, b, { a.ints[0] }, at::IntArrayRef { a.ints[1] }, { a.ints[2] }, a.ints[3])
                   : at::conv2d (x, w, b, { a.ints[0], a.ints[0] }, at::IntArrayRef { a.ints[1], a.ints[1] },
                         { a.ints[2], a.ints[2] }, a.ints[3]);
}

at::Tensor
kd_torch_sparse_matmul (const Args &a)
{
  at::Tensor values = a.x (1), x = a.x (2);
  gint64 n_rows = a.ints[0];

  kd_torch_want_rank (a.raw (0), 2, "index");
  kd_torch_want_rank (values, 1, "values");
  kd_torch_want_rank (x, 2, "input");
  if (a.raw (0).size (0) != 2 || a.raw (0).size (1) != values.size (0))
    kd_torch_refuse (KD_ERROR_SHAPE, "the index is not [2 E] for E values");
  kd_torch_want_positive (n_rows, "n_rows");
  at::Tensor index = a.index (0, std::max (n_rows, x.size (0)));
  at::Tensor rows = index.select (0, 0), columns = index.select (0, 1);
  if (index.size (1) > 0 && (rows.max ().item<int64_t> () >= n_rows || columns.max ().item<int64_t> () >= x.size (0)))
    kd_torch_refuse (KD_ERROR_RANGE, "an index lies outside the matrix");
  at::Tensor scaled = x.index_select (0, columns) * values.unsqueeze (1);
  return at::zeros ({ n_rows, x.size (1) }, scaled.options ()).index_add (0, rows, scaled);
}

/* The lowest float instead of minus infinity: a query that may see no key then has a gradient of 0, not NaN. */
at::Tensor
kd_torch_attention (const Args &a)
{
  at::Tensor q = a.x (0), k = a.x (1), v = a.x (2), seen;
  double scale = a.reals[0];

  if (q.dim () < 2 || k.dim () < 2 || v.dim () < 2 || k.size (-2) != v.size (-2) || q.size (-1) != k.size (-1))
    kd_torch_refuse (KD_ERROR_SHAPE, "wanted q [... L D], k [... S D], v [... S V]");
  if (scale == 0)
    scale = 1.0 / std::sqrt ((double) std::max<gint64> (q.size (-1), 1));
  at::Tensor scores = at::matmul (q, k.transpose (-2, -1)) * scale;
  if (a.has (3))
    seen = a.mask (3);
  if (a.ints[0]) {
    at::Tensor causal = at::ones ({ q.size (-2), k.size (-2) }, at::TensorOptions (at::kBool)).tril ();
    seen = seen.defined () ? at::logical_and (seen, causal) : causal;
  }
  if (!seen.defined ())
    return at::matmul (at::softmax (scores, -1), v);
  at::Tensor hidden = at::logical_not (seen);
  scores = at::masked_fill (scores, hidden, std::numeric_limits<float>::lowest ());
  return at::matmul (at::masked_fill (at::softmax (scores, -1), hidden, 0.0), v);
}

at::Tensor
kd_torch_embedding (const Args &a)
{
  at::Tensor weight = a.x (1);

  kd_torch_want_rank (weight, 2, "weight");
  return at::embedding (weight, a.index (0, weight.size (0)));
}

/* --- normalisation --- */

at::Tensor
kd_torch_batch_norm (const Args &a)
{
  at::Tensor x = a.x ();

  if (x.dim () < 2)
    kd_torch_refuse (KD_ERROR_SHAPE, "the input has no channels, wanted [N C ...]");
  /* the unbiased variance of one value is NaN, and would stay in the running variance */
  if (a.ints[0] && x.numel () <= x.size (1))
    kd_torch_refuse (KD_ERROR_SHAPE, "one value a channel has no variance; give more samples a batch");
  return at::batch_norm (x, a.x (1), a.x (2), a.raw (3), a.raw (4), a.ints[0] != 0, a.reals[0], a.reals[1], false);
}

at::Tensor
kd_torch_layer_norm (const Args &a)
{
  at::Tensor x = a.x ();

  if (x.dim () < 1)
    kd_torch_refuse (KD_ERROR_SHAPE, "a scalar has no axis to normalise");
  return at::layer_norm (x, { x.size (-1) }, a.optional (1), a.optional (2), a.reals[0], false);
}

/* --- pooling --- */

/* kernel, stride, padding of a pooling over `n` axes, checked */
at::Tensor
kd_torch_pool (const Args &a, gint64 n, bool is_max)
{
  at::Tensor x = a.x ();
  std::vector<int64_t> kernel ((size_t) n, a.ints[0]), stride ((size_t) n, a.ints[1]), padding ((size_t) n, a.ints[2]);

  kd_torch_want_rank (x, n + 2, "input");
  kd_torch_want_positive (a.ints[0], "kernel");
  kd_torch_want_positive (a.ints[1], "stride");
  if (n == 1)
    return is_max ? at::max_pool1d (x, kernel, stride, padding) : at::avg_pool1d (x, kernel, stride, padding);
  return is_max ? at::max_pool2d (x, kernel, stride, padding) : at::avg_pool2d (x, kernel, stride, padding);
}

at::Tensor
kd_torch_upsample2d (const Args &a)
{
  at::Tensor x = a.x ();

  kd_torch_want_rank (x, 4, "input");
  kd_torch_want_positive (a.ints[0], "factor");
  std::vector<int64_t> size { x.size (2) * a.ints[0], x.size (3) * a.ints[0] };
  return a.ints[1] ? at::upsample_bilinear2d (x, at::IntArrayRef (size), false) : at::upsample_nearest2d (x, at::IntArrayRef (size));
}
