/* One forward pass: operations with sticky errors. When one fails it returns NULL, every later one does too, and the first error
 * is found at the end: an architecture needs no check in between. Vars belong to the graph. */
#pragma once
#include "kd-engine.h"
#include "kd-params.h"

G_BEGIN_DECLS

/** KdForward: a pass over a model: graph, parameters, mode, taps. */
typedef struct _KdForward KdForward;

/** kd_forward_new: @grad: keep what backward needs; @training: batch statistics and dropout; @random: the dropout's stream or NULL. */
KD_API KdForward *kd_forward_new (KdEngine *engine, KdParamSet *params, gboolean grad, gboolean training, const KdRandom *random);
KD_API void kd_forward_free (KdForward *forward);
G_DEFINE_AUTOPTR_CLEANUP_FUNC (KdForward, kd_forward_free)
/** kd_forward_error: the first error (transfer none), or NULL. */
KD_API const GError *kd_forward_error (const KdForward *forward);
/** kd_forward_fail: for an architecture's own refusals; returns NULL. */
KD_API KdVar *kd_forward_fail (KdForward *forward, KdError code, const gchar *format, ...) G_GNUC_PRINTF (3, 4);
KD_API gboolean kd_forward_training (const KdForward *forward);

KD_API KdVar *kd_forward_input (KdForward *forward, KdTensor *tensor, gboolean requires_grad);
/** kd_forward_tensor: (transfer full) the value; no copy where it is contiguous, so a view of an input shares its memory. */
KD_API KdTensor *kd_forward_tensor (KdForward *forward, KdVar *var, GError **error);
/** kd_forward_backward: from @n outputs with the gradients given (same shapes): parameters' gradients ADD to the set's memory. Once a pass:
 * what was kept for it is freed on the way. */
KD_API gboolean kd_forward_backward (KdForward *forward, guint n, KdVar *const *outputs, KdTensor *const *grads, GError **error);
/** kd_forward_probe: the same, and what was kept stays: further passes may follow, of which kd_forward_backward is the last. */
KD_API gboolean kd_forward_probe (KdForward *forward, guint n, KdVar *const *outputs, KdTensor *const *grads, GError **error);
/** kd_forward_grad: (transfer full) of an input made with requires_grad, after the backward pass (of the last one); KD_ERROR_VALUE when none reached it. */
KD_API KdTensor *kd_forward_grad (KdForward *forward, KdVar *var, GError **error);
/** kd_var_shape: rank and dims (0 and untouched for NULL). */
KD_API guint kd_var_shape (KdForward *forward, KdVar *var, gint64 *ret_dims);
KD_API gint64 kd_var_dim (KdForward *forward, KdVar *var, gint axis); /* negative from the end; 0 for NULL */

/** kd_push / kd_pop: names below are "NAME.": kd_push (f, "block%d", i). */
KD_API void kd_push (KdForward *forward, const gchar *format, ...) G_GNUC_PRINTF (2, 3);
KD_API void kd_pop (KdForward *forward);
/** kd_param: the parameter @name; the first pass (while the set is not frozen) makes it, later ones find it. */
KD_API KdVar *kd_param (KdForward *forward, const gchar *name, KdInit init, guint rank, const gint64 *dims);
/** kd_buffer: the same for a value that is not trained. */
KD_API KdVar *kd_buffer (KdForward *forward, const gchar *name, KdInit init, guint rank, const gint64 *dims);
/** kd_tap: name a layer's output; remembered for `features=`, returned as it is. */
KD_API KdVar *kd_tap (KdForward *forward, const gchar *name, KdVar *var);
/** kd_forward_find_tap: NULL when there is none; kd_forward_tap_names: (transfer full), in order. */
KD_API KdVar *kd_forward_find_tap (KdForward *forward, const gchar *name);
KD_API gchar **kd_forward_tap_names (KdForward *forward);

/* Layers: parameters "NAME.weight", "NAME.bias" named and initialised as PyTorch's modules do. */
KD_API KdVar *kd_layer_linear (KdForward *forward, const gchar *name, KdVar *x, gint64 out, gboolean bias);
KD_API KdVar *kd_layer_conv2d (KdForward *forward, const gchar *name, KdVar *x, gint64 out, gint kernel, gint stride, gint padding,
    gint groups, gboolean bias);
KD_API KdVar *kd_layer_batch_norm (KdForward *forward, const gchar *name, KdVar *x); /* axis 1; running_mean, running_var */
KD_API KdVar *kd_layer_layer_norm (KdForward *forward, const gchar *name, KdVar *x); /* last axis */
KD_API KdVar *kd_layer_dropout (KdForward *forward, KdVar *x, gdouble p);

/* Operations: the rest of KdOp, one function each (kd_linear, kd_relu, ...), declared in kd-ops.h. */

G_END_DECLS
