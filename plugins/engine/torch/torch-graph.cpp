/* Graphs, leaves and the backward pass on ATen with autograd. */
#include "torch-private.hpp"
#include <ATen/Parallel.h>
#include <torch/csrc/autograd/autograd.h>
#include <torch/csrc/autograd/variable.h>
#include <torch/csrc/api/include/torch/version.h>
#include <c10/core/InferenceMode.h>
#include <new>

namespace
{

/* libtorch prints its warnings on stderr; a library must not. */
#if TORCH_VERSION_MAJOR < 2
namespace warnings = c10::Warning;
struct QuietHandler : c10::WarningHandler {
  void
  process (const c10::SourceLocation &, const std::string &text, const bool) override
  {
    GST_INFO ("libtorch: %s", text.c_str ());
  }
};
#else
namespace warnings = c10::WarningUtils;
struct QuietHandler : c10::WarningHandler {
  void
  process (const c10::Warning &warning) override
  {
    GST_INFO ("libtorch: %s", warning.msg ().c_str ());
  }
};
#endif

/* The warning handler and the number of threads are each thread's own in libtorch, and GStreamer's threads come and go. */
void
set_up_thread (guint n_threads)
{
  static QuietHandler handler;
  static thread_local guint current = 0;
  static thread_local bool quiet = false;

  if (!quiet)
    warnings::set_warning_handler (&handler);
  quiet = true;
  if (n_threads > 0 && n_threads != current)
    at::set_num_threads ((int) n_threads);
  current = n_threads;
}

const struct
{
  KdDtype kd;
  at::ScalarType torch;
} dtypes[] = { { KD_FLOAT32, at::kFloat }, { KD_FLOAT16, at::kHalf }, { KD_BFLOAT16, at::kBFloat16 }, { KD_FLOAT64, at::kDouble },
  { KD_INT64, at::kLong }, { KD_INT32, at::kInt }, { KD_UINT8, at::kByte }, { KD_BOOL, at::kBool } };

at::ScalarType
torch_dtype (KdDtype dtype)
{
  for (const auto &row : dtypes)
    if (row.kd == dtype)
      return row.torch;
  throw KdTorchError (KD_ERROR_DTYPE, std::string ("no tensor can be computed with of type ") + kd_dtype_name (dtype));
}

/* No copy where it is contiguous: the KdTensor keeps the storage alive, but not the graph, so the tensor is detached first. */
KdTensor *
to_kd (const at::Tensor &tensor)
{
  at::Tensor value = tensor.detach ().contiguous ();
  KdDtype dtype = (KdDtype) 0;
  gint64 dims[KD_MAX_RANK];

  for (const auto &row : dtypes)
    if (row.torch == value.scalar_type ())
      dtype = row.kd;
  if (!dtype) {
    value = value.to (at::kInt);
    dtype = KD_INT32;
  }
  if (value.dim () > KD_MAX_RANK)
    throw KdTorchError (KD_ERROR_SHAPE, "a tensor of more than 8 axes");
  for (gint64 i = 0; i < value.dim (); i++)
    dims[i] = value.size (i);
  auto *owner = new at::Tensor (value);
  return kd_tensor_new_wrapped (dtype, (guint) value.dim (), dims, owner->data_ptr (), owner,
      [] (gpointer data) { delete static_cast<at::Tensor *> (data); });
}

/* AccumulateGrad adds in place to a gradient that is there. Should a libtorch replace it, the sum is brought home. */
void
settle (const KdTorchLeaf &leaf)
{
  const at::Tensor &grad = leaf.tensor.grad ();

  if (!leaf.grad_memory || !grad.defined () || grad.data_ptr () == leaf.grad_memory)
    return;
  at::Tensor view = kd_torch_grad_view (leaf.grad_memory, leaf.tensor);
  view.copy_ (grad);
  const_cast<at::Tensor &> (leaf.tensor).mutable_grad () = view;
}

/* The line that says why: the first, but where TorchScript puts its own stack before it the last. */
std::string
reason_of (std::string text)
{
  if (text.rfind ("The following operation failed", 0) == 0) {
    text.erase (text.find_last_not_of (" \n") + 1);
    text.erase (0, text.rfind ('\n') + 1);
  }
  return text.substr (0, text.find ('\n'));
}

} // namespace

void
kd_torch_rethrow (KdError fallback, GError **error)
{
  KdError code = fallback;
  std::string text;

  try {
    throw;
  } catch (const KdTorchError &e) {
    code = e.code;
    text = e.text;
  } catch (const c10::IndexError &e) {
    code = KD_ERROR_RANGE;
    text = e.what_without_backtrace ();
  } catch (const c10::Error &e) {
    text = e.what_without_backtrace ();
  } catch (const std::bad_alloc &) {
    code = KD_ERROR_ENGINE;
    text = "cannot allocate memory";
  } catch (const std::exception &e) {
    text = e.what ();
  } catch (...) {
    code = KD_ERROR_ENGINE;
    text = "unknown exception";
  }
  if (text.find ("allocate memory") != std::string::npos)
    code = KD_ERROR_ENGINE;
  g_set_error_literal (error, KD_ERROR, code, reason_of (text).c_str ());
}

KdVar *
kd_torch_keep (KdGraph *graph, at::Tensor tensor)
{
  if (tensor.dim () > KD_MAX_RANK)
    throw KdTorchError (KD_ERROR_SHAPE, "the result has more than 8 axes");
  graph->vars.push_back (_KdVar { std::move (tensor) });
  return &graph->vars.back ();
}

at::Tensor
kd_torch_from_memory (KdTensor *tensor)
{
  at::IntArrayRef sizes (tensor->dims, tensor->rank);

  if (tensor->dtype == KD_UINT16) { /* libtorch 1.13 has none */
    KdTensor *wide = kd_tensor_cast (tensor, KD_INT32, nullptr);
    return at::from_blob (
        wide->data, sizes, [wide] (void *) { kd_tensor_unref (wide); }, at::TensorOptions (at::kInt));
  }
  at::ScalarType dtype = torch_dtype (tensor->dtype);
  kd_tensor_ref (tensor);
  return at::from_blob (
      tensor->data, sizes, [tensor] (void *) { kd_tensor_unref (tensor); }, at::TensorOptions (dtype));
}

at::Tensor
kd_torch_grad_view (gfloat *memory, const at::Tensor &like)
{
  return at::from_blob (memory, like.sizes (), at::TensorOptions (at::kFloat));
}

KdGraph *
kd_torch_graph_new (gboolean grad, guint n_threads)
{
  set_up_thread (n_threads);
  auto *graph = new _KdGraph;
  graph->grad = grad;
  return graph;
}

void
kd_torch_graph_free (KdGraph *graph)
{
  delete graph;
}

KdVar *
kd_torch_wrap (KdGraph *graph, KdTensor *tensor, gboolean requires_grad, gfloat *grad_memory, GError **error)
{
  return kd_torch_guard<KdVar *> (KD_ERROR_ENGINE, error, nullptr, [&] {
    c10::InferenceMode mode (!graph->grad);
    at::Tensor leaf = kd_torch_from_memory (tensor);
    if (requires_grad && graph->grad) {
      if (leaf.scalar_type () != at::kFloat && leaf.scalar_type () != at::kDouble)
        leaf = leaf.to (at::kFloat);
      leaf.set_requires_grad (true);
      if (grad_memory)
        leaf.mutable_grad () = kd_torch_grad_view (grad_memory, leaf);
      graph->leaves.push_back (KdTorchLeaf { leaf, grad_memory });
    }
    return kd_torch_keep (graph, std::move (leaf));
  });
}

guint
kd_torch_shape (KdVar *var, gint64 *ret_dims)
{
  guint rank = (guint) var->tensor.dim ();

  for (guint i = 0; i < rank; i++)
    ret_dims[i] = var->tensor.size (i);
  return rank;
}

KdTensor *
kd_torch_tensor (KdVar *var, GError **error)
{
  return kd_torch_guard<KdTensor *> (KD_ERROR_ENGINE, error, nullptr, [&] { return to_kd (var->tensor); });
}

gboolean
kd_torch_backward (KdGraph *graph, guint n, KdVar *const *outputs, KdTensor *const *grads, gboolean keep, GError **error)
{
  return kd_torch_guard<gboolean> (KD_ERROR_ENGINE, error, FALSE, [&] () -> gboolean {
    std::vector<at::Tensor> roots, given;
    for (guint i = 0; i < n; i++) {
      roots.push_back (outputs[i]->tensor);
      given.push_back (kd_torch_from_memory (grads[i]).to (outputs[i]->tensor.scalar_type ()));
    }
    for (const auto &leaf : graph->leaves)
      if (!leaf.grad_memory)
        const_cast<at::Tensor &> (leaf.tensor).mutable_grad ().reset ();
    torch::autograd::backward (roots, given, keep, false);
    for (const auto &leaf : graph->leaves)
      settle (leaf);
    return TRUE;
  });
}

KdTensor *
kd_torch_grad (KdVar *var, GError **error)
{
  return kd_torch_guard<KdTensor *> (KD_ERROR_ENGINE, error, nullptr, [&] () -> KdTensor * {
    if (!var->tensor.requires_grad () || !var->tensor.is_leaf () || !var->tensor.grad ().defined ())
      return nullptr;
    return to_kd (var->tensor.grad ());
  });
}

guint
kd_torch_n_threads (void)
{
  return (guint) at::get_num_threads ();
}

const gchar *
kd_torch_version (void)
{
  return TORCH_VERSION;
}

gboolean
kd_torch_has_mkl (void)
{
  return at::hasMKL ();
}
