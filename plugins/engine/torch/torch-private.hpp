/* What the C++ files share. A KdVar is a tensor at an address that does not move; its KdGraph owns it. */
#pragma once
#include <ATen/ATen.h>
#include <deque>
#include <exception>
#include <string>
#include <utility>
#include <vector>
#include "torch-shim.h"

struct _KdVar {
  at::Tensor tensor;
};

/* A leaf; its gradient lives in our memory, or with NULL in libtorch's, of the last backward pass alone. */
struct KdTorchLeaf {
  at::Tensor tensor;
  gfloat *grad_memory;
};

struct _KdGraph {
  bool grad;
  std::deque<_KdVar> vars;
  std::vector<KdTorchLeaf> leaves;
};

/* Our own refusals, with a code that c10::Error has no place for. */
struct KdTorchError : std::exception {
  KdError code;
  std::string text;
  KdTorchError (KdError c, std::string t)
      : code (c), text (std::move (t))
  {
  }
  const char *
  what () const noexcept override
  {
    return text.c_str ();
  }
};

/* Sets @error from the exception in flight: its first line only, the rest is a stack trace. @fallback: the code where it names none. */
void kd_torch_rethrow (KdError fallback, GError **error);

/* Runs @body; on an exception sets @error and gives @failed. */
template <typename T, typename Body>
static inline T
kd_torch_guard (KdError fallback, GError **error, T failed, Body body)
{
  try {
    return body ();
  } catch (...) {
    kd_torch_rethrow (fallback, error);
    return failed;
  }
}

KdVar *kd_torch_keep (KdGraph *graph, at::Tensor tensor);
at::Tensor kd_torch_from_memory (KdTensor *tensor);
/* A float32 view of @memory shaped like @like; nobody owns it. */
at::Tensor kd_torch_grad_view (gfloat *memory, const at::Tensor &like);
