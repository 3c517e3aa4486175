/* KdModel: a specification made real: engine, architecture or TorchScript file, parameters. And the registry of architectures. */
#pragma once
#include "../kd-param.h"
#include "kd-graph.h"

G_BEGIN_DECLS

/**
 * KdArchDesc: an architecture, as a leaf: a parameter table and one pure function. Found as GStreamer dynamic type "KdArch-NAME".
 * @forward: builds the output from @input, a float32 var [N, ...]; the shape of a sample is known then.
 *   NULL on failure (the forward pass holds the error).
 */
typedef struct {
  const gchar *name;
  const gchar *description;
  const gchar *source;
  const KdParam *params;
  gsize params_size;
  gboolean (*check) (gconstpointer params, GError **error);
  KdVar *(*forward) (gconstpointer params, KdForward *forward, KdVar *input);
} KdArchDesc;

KD_API gboolean kd_arch_register (GstPlugin *plugin, const KdArchDesc *desc);
/** kd_arch_find: loads the plugin; KD_ERROR_ENGINE lists the architectures there are. */
KD_API const KdArchDesc *kd_arch_find (const gchar *name, GError **error);
/** kd_arch_names: (transfer full) sorted. */
KD_API gchar **kd_arch_names (void);
/* clang-format off */
#define KD_ARCH_PLUGIN(desc) KD_PLUGIN_DEFINE ("kdstream architecture", return kd_arch_register (plugin, &desc);)
/* clang-format on */

typedef struct _KdModel KdModel;

/**
 * kd_model_new: needs gst_init. From @arch ("mlp dims=64,32,10") or @script (a TorchScript file); one of them NULL.
 * @weights: a safetensors file to load, or NULL for the initial values of @seed
 * @rank, @dims: shape of an input sample batch; dims[0] is ignored
 * @dtype: of the input. uint8 is taken for an image and divided by 255, int64 and int32 (ids) stay whole numbers, all else becomes float32
 * A file's metadata kd.arch, where there is one, must mean the same as @arch (KD_ERROR_MISMATCH).
 * The further outputs of a script are its layers "output1", "output2" ...
 */
KD_API KdModel *kd_model_new (const gchar *engine, const gchar *arch, const gchar *script, const gchar *weights, guint64 seed,
    KdDtype dtype, guint rank, const gint64 *dims, GError **error);
KD_API KdModel *kd_model_ref (KdModel *model);
KD_API void kd_model_unref (KdModel *model);
G_DEFINE_AUTOPTR_CLEANUP_FUNC (KdModel, kd_model_unref)

KD_API KdEngine *kd_model_engine (KdModel *model);
KD_API KdParamSet *kd_model_params (KdModel *model);
/** kd_model_output_shape: of the logits; ret_dims[0] is KD_DIM_ANY. */
KD_API guint kd_model_output_shape (KdModel *model, gint64 *ret_dims);
/** kd_model_tap_shape: rank of layer @name's output, 0 with KD_ERROR_FIELD (listing the names there are) when there is none. */
KD_API guint kd_model_tap_shape (KdModel *model, const gchar *name, gint64 *ret_dims, GError **error);
/** kd_model_forward: one pass; *@ret_input is the input's var, *@ret_output the logits. (transfer full), free with kd_forward_free. */
KD_API KdForward *kd_model_forward (KdModel *model, KdTensor *input, gboolean grad, gboolean input_grad, gboolean training, const KdRandom *random,
    KdVar **ret_input, KdVar **ret_output, GError **error);
/** kd_model_fingerprint: (transfer full) hex SHA-256 of what is computed: specification (dropout aside) or script file, and parameters. */
KD_API gchar *kd_model_fingerprint (KdModel *model);

G_END_DECLS
