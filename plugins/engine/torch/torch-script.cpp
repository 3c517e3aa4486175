/* TorchScript files as whole models. Their parameters are moved onto a KdParamSet's memory, so that our optimiser trains them, our
 * files save them, and MPI sums them like any others. */
#include "torch-private.hpp"
#include <c10/core/InferenceMode.h>
#include <mutex>
#include <torch/csrc/jit/api/module.h>
#include <torch/csrc/jit/runtime/graph_executor.h>
#include <torch/csrc/jit/serialization/import.h>
#include <unordered_set>

struct _KdScript {
  torch::jit::Module module;
  std::mutex lock; /* of the mode, the leaves and a pass: elements may share a model */
  bool training = false;
  bool has_grads = false;
  KdParamSet *params = nullptr; /* not owned: its memory is kept alive by the tensors */
  std::vector<std::pair<at::Tensor, guint>> bound;
  std::vector<KdTorchLeaf> leaves;
};

namespace
{

/* @tensor goes on living with its values in @set; from_blob's deleter holds the set. */
void
move_onto (at::Tensor tensor, KdParamSet *set, guint i)
{
  const KdParamInfo *info = kd_param_set_nth (set, i);
  bool trainable = info->trainable;
  at::Tensor home = at::from_blob (
      kd_param_set_values (set, i), at::IntArrayRef (info->dims, info->rank),
      [set] (void *) { kd_param_set_unref (set); }, at::TensorOptions (at::kFloat));

  kd_param_set_ref (set);
  home.copy_ (tensor.detach ());
  tensor.set_requires_grad (false);
  tensor.set_data (home);
  tensor.set_requires_grad (trainable);
}

/* Tied parameters stand in the file under several names; the first one counts. */
void
collect (KdScript *script, KdParamSet *set, bool buffers, std::unordered_set<void *> *seen, GError **error)
{
  auto add = [&] (const std::string &name, const at::Tensor &tensor) {
    if (*error || !tensor.defined () || !seen->insert (tensor.unsafeGetTensorImpl ()).second)
      return;
    if (tensor.scalar_type () != at::kFloat) {
      if (!buffers)
        g_set_error (error, KD_ERROR, KD_ERROR_DTYPE, "Type of weights not supported: parameter=\"%s\", type=%s, supported=float32; "
                                                      "convert the module with .float() before saving it",
            name.c_str (), c10::toString (tensor.scalar_type ()));
      return;
    }
    if (kd_param_set_add (set, name.c_str (), (guint) tensor.dim (), tensor.sizes ().data (), KD_INIT_ZEROS,
            !buffers && tensor.requires_grad (), error))
      script->bound.emplace_back (tensor, kd_param_set_n (set) - 1);
  };

  if (buffers)
    for (const auto &entry : script->module.named_buffers (true))
      add (entry.name, entry.value);
  else
    for (const auto &entry : script->module.named_parameters (true))
      add (entry.name, entry.value);
}

/* A module's outputs as tensors, the logits first: a tensor, a tuple or list, or a dictionary. */
std::vector<at::Tensor>
flatten (const c10::IValue &value)
{
  std::vector<at::Tensor> out;

  if (value.isTensor ())
    out.push_back (value.toTensor ());
  else if (value.isTuple ()) {
    for (const auto &item : value.toTupleRef ().elements ())
      if (item.isTensor ())
        out.push_back (item.toTensor ());
  } else if (value.isTensorList ()) {
    for (at::Tensor item : value.toTensorList ())
      out.push_back (item);
  } else if (value.isGenericDict ()) {
    for (const auto &item : value.toGenericDict ()) {
      bool first = item.key ().isString () && item.key ().toStringRef () == "logits";
      if (item.value ().isTensor ())
        out.insert (first ? out.begin () : out.end (), item.value ().toTensor ());
    }
  }
  if (out.empty ())
    throw KdTorchError (KD_ERROR_UNSUPPORTED, "the module returns " + value.tagKind () + ", wanted a tensor, a tuple, list or dictionary of them");
  if (out.size () > KD_SCRIPT_MAX_OUTPUTS)
    out.resize (KD_SCRIPT_MAX_OUTPUTS);
  return out;
}

/* with the lock held */
void
set_mode (KdScript *script, bool training, bool grad)
{
  if (training != script->training)
    script->module.train (training);
  script->training = training;
  if (!grad || script->has_grads)
    return;
  for (auto &entry : script->bound) {
    gfloat *memory = kd_param_set_grads (script->params, entry.second);
    if (!memory)
      continue;
    entry.first.mutable_grad () = kd_torch_grad_view (memory, entry.first);
    script->leaves.push_back (KdTorchLeaf { entry.first, memory });
  }
  script->has_grads = true;
}

} // namespace

KdScript *
kd_torch_script_load (const gchar *path, GError **error)
{
  GError *reason = nullptr;

  if (!g_file_test (path, G_FILE_TEST_IS_REGULAR)) {
    g_set_error (error, KD_ERROR, KD_ERROR_IO, "Cannot read model: path=\"%s\", reason=no such file", path);
    return nullptr;
  }
  auto *script = kd_torch_guard<KdScript *> (KD_ERROR_FORMAT, &reason, nullptr, [&] {
    auto *made = new _KdScript;
    try {
      made->module = torch::jit::load (path, at::Device (at::kCPU));
      made->module.eval ();
    } catch (...) {
      delete made;
      throw;
    }
    return made;
  });
  if (reason) {
    g_set_error (error, KD_ERROR, KD_ERROR_FORMAT,
        "Cannot read model: path=\"%s\", reason=%s; save a TorchScript module with torch.jit.script(model).save(\"model.pt\") and a "
        "PyTorch not newer than the engine's (%s)",
        path, reason->message, kd_torch_version ());
    g_error_free (reason);
  }
  return script;
}

void
kd_torch_script_free (KdScript *script)
{
  delete script;
}

gboolean
kd_torch_script_bind (KdScript *script, KdParamSet *params, GError **error)
{
  return kd_torch_guard<gboolean> (KD_ERROR_ENGINE, error, FALSE, [&] () -> gboolean {
    std::unordered_set<void *> seen;
    GError *reason = nullptr;
    collect (script, params, false, &seen, &reason);
    collect (script, params, true, &seen, &reason);
    if (reason) {
      g_propagate_error (error, reason);
      return FALSE;
    }
    kd_param_set_freeze (params);
    at::NoGradGuard no_grad;
    for (auto &entry : script->bound)
      move_onto (entry.first, params, entry.second);
    script->params = params;
    return TRUE;
  });
}

/* Run without the profiling executor: it rewrites the graph after the first calls, and a resumed run would then differ in bits
 * from one that went on. */
gboolean
kd_torch_script_forward (KdScript *script, KdGraph *graph, gboolean training, KdVar *input, KdVar **ret_outputs, guint *ret_n,
    GError **error)
{
  return kd_torch_guard<gboolean> (KD_ERROR_SHAPE, error, FALSE, [&] () -> gboolean {
    std::lock_guard<std::mutex> hold (script->lock); /* the module itself remembers whether it trains */
    set_mode (script, training, graph->grad);
    c10::InferenceMode mode (!graph->grad);
    torch::jit::GraphOptimizerEnabledGuard plain (false);
    std::vector<at::Tensor> out = flatten (script->module.forward ({ input->tensor }));
    if (graph->grad)
      graph->leaves.insert (graph->leaves.end (), script->leaves.begin (), script->leaves.end ());
    for (guint i = 0; i < out.size (); i++)
      ret_outputs[i] = kd_torch_keep (graph, out[i]);
    *ret_n = (guint) out.size ();
    return TRUE;
  });
}
