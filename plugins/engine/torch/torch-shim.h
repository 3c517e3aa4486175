/* The C face of libtorch: what kdenginetorch.c puts into KdEngineClass. Behind it is C++; nothing throws through it. */
#pragma once
#include <kd/kd.h>

G_BEGIN_DECLS

KdGraph *kd_torch_graph_new (gboolean grad, guint n_threads);
void kd_torch_graph_free (KdGraph *graph);
KdVar *kd_torch_wrap (KdGraph *graph, KdTensor *tensor, gboolean requires_grad, gfloat *grad_memory, GError **error);
KdVar *kd_torch_op (KdGraph *graph, KdOp op, KdVar *const *in, guint n_in, const gint64 *ints, guint n_ints,
    const gdouble *reals, guint n_reals, GError **error);
guint kd_torch_shape (KdVar *var, gint64 *ret_dims);
KdTensor *kd_torch_tensor (KdVar *var, GError **error);
gboolean kd_torch_backward (KdGraph *graph, guint n, KdVar *const *outputs, KdTensor *const *grads, gboolean keep, GError **error);
KdTensor *kd_torch_grad (KdVar *var, GError **error);

KdScript *kd_torch_script_load (const gchar *path, GError **error);
void kd_torch_script_free (KdScript *script);
gboolean kd_torch_script_bind (KdScript *script, KdParamSet *params, GError **error);
gboolean kd_torch_script_forward (KdScript *script, KdGraph *graph, gboolean training, KdVar *input, KdVar **ret_outputs,
    guint *ret_n, GError **error);

guint kd_torch_n_threads (void);
const gchar *kd_torch_version (void);
/* Whether libtorch brings Intel's MKL, then no system BLAS matters. */
gboolean kd_torch_has_mkl (void);

G_END_DECLS
