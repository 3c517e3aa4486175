/* Arguments of an operation, and the checks that the operations' files share. */
#pragma once
#include "torch-private.hpp"

struct KdTorchArgs {
  KdVar *const *in;
  guint n_in;
  const gint64 *ints;
  guint n_ints;
  const gdouble *reals;

  bool
  has (guint i) const
  {
    return i < n_in && in[i];
  }
  const at::Tensor &
  raw (guint i) const
  {
    return in[i]->tensor;
  }
  /* float64 stays (tests use it), everything else that is not float32 becomes it */
  at::Tensor
  x (guint i = 0) const
  {
    const at::Tensor &t = in[i]->tensor;
    return t.scalar_type () == at::kFloat || t.scalar_type () == at::kDouble ? t : t.to (at::kFloat);
  }
  /* an optional input: undefined when absent */
  at::Tensor
  optional (guint i) const
  {
    return has (i) ? x (i) : at::Tensor ();
  }
  at::Tensor
  mask (guint i) const
  {
    return raw (i).to (at::kBool);
  }
  at::Tensor index (guint i, gint64 below) const;
};

[[noreturn]] void kd_torch_refuse (KdError code, const std::string &text);
void kd_torch_want_rank (const at::Tensor &tensor, gint64 rank, const char *what);
void kd_torch_want_positive (gint64 value, const char *what);
/* @axis counted from the front; refuses one that is not there */
gint64 kd_torch_axis (const at::Tensor &tensor, gint64 axis);

/* Layers, in torch-layers.cpp */
at::Tensor kd_torch_linear (const KdTorchArgs &a);
at::Tensor kd_torch_conv (const KdTorchArgs &a, gint64 rank);
at::Tensor kd_torch_sparse_matmul (const KdTorchArgs &a);
at::Tensor kd_torch_attention (const KdTorchArgs &a);
at::Tensor kd_torch_embedding (const KdTorchArgs &a);
at::Tensor kd_torch_batch_norm (const KdTorchArgs &a);
at::Tensor kd_torch_layer_norm (const KdTorchArgs &a);
at::Tensor kd_torch_pool (const KdTorchArgs &a, gint64 n, bool is_max);
at::Tensor kd_torch_upsample2d (const KdTorchArgs &a);
