/* KdEngine: tensors with automatic differentiation, behind a C interface. libtorch is the first one (plugins/engine/torch).
 * Parameters, optimisers and files are not the engine's: they are core's (kd-params.h), on flat host memory. */
#pragma once
#include <gst/gst.h>
#include "../batch/kd-tensor.h"
#include "../math/kd-random.h"

G_BEGIN_DECLS

/** KdVar: a value in a graph; owned by its KdGraph, valid until that is freed. */
typedef struct _KdVar KdVar;
typedef struct _KdGraph KdGraph;
typedef struct _KdScript KdScript; /* a loaded TorchScript module */

#define KD_SCRIPT_MAX_OUTPUTS 16

/** KdOp: what an engine can compute. Meaning of inputs, integers and reals: kd-ops.h, which has one function an operation. */
/* clang-format off */
typedef enum {
  KD_OP_LINEAR, KD_OP_MATMUL, KD_OP_CONV1D, KD_OP_CONV2D, KD_OP_BATCH_NORM, KD_OP_LAYER_NORM, KD_OP_EMBEDDING,
  KD_OP_RELU, KD_OP_GELU, KD_OP_SILU, KD_OP_TANH, KD_OP_SIGMOID, KD_OP_EXP, KD_OP_LOG, KD_OP_SQRT, KD_OP_ABS, KD_OP_NEG,
  KD_OP_SOFTMAX, KD_OP_LOG_SOFTMAX,
  KD_OP_ADD, KD_OP_SUB, KD_OP_MUL, KD_OP_DIV, KD_OP_SCALE, KD_OP_MAXIMUM, KD_OP_MINIMUM, KD_OP_CLAMP, KD_OP_POW,
  KD_OP_RESHAPE, KD_OP_PERMUTE, KD_OP_EXPAND, KD_OP_CONCAT, KD_OP_SLICE, KD_OP_PAD, KD_OP_GATHER, KD_OP_INDEX_SELECT, KD_OP_STACK,
  KD_OP_SUM, KD_OP_MEAN, KD_OP_VAR, KD_OP_MAX, KD_OP_NORMALIZE,
  KD_OP_AVG_POOL2D, KD_OP_MAX_POOL2D, KD_OP_UPSAMPLE2D, KD_OP_AVG_POOL1D, KD_OP_MAX_POOL1D,
  KD_OP_MASKED_FILL, KD_OP_WHERE, KD_OP_TRIL, KD_OP_CAST_FLOAT, KD_OP_CUMSUM, KD_OP_ATTENTION, KD_OP_DETACH, KD_OP_FLIP, KD_OP_SPARSE_MATMUL,
  KD_N_OPS
} KdOp;
/* clang-format on */

#define KD_TYPE_ENGINE (kd_engine_get_type ())
KD_API GType kd_engine_get_type (void);
G_DECLARE_DERIVABLE_TYPE (KdEngine, kd_engine, KD, ENGINE, GObject)

/**
 * KdEngineClass: what an engine plugin implements. No function throws or aborts on bad shapes: it sets GError (KD_ERROR_ENGINE,
 * or KD_ERROR_SHAPE where the shapes are to blame) and returns NULL or FALSE.
 *
 * @graph_new: a forward pass; @grad: record for backward
 * @wrap: a tensor as a leaf without a copy; @requires_grad; @grad_memory: float32 of the same shape that backward ADDS to, or NULL
 * @op: one operation; @in [n_in] may hold NULL for an absent optional input
 * @tensor: (transfer full) the value, contiguous, no copy where it is contiguous already; keeps the engine's memory alive
 * @backward: from @n outputs with given gradients @grads (same shapes); @keep: it can be run again, each time @grad is of the last run alone
 * @grad: (transfer full) gradient that reached a leaf without grad_memory, or NULL when none did
 */
struct _KdEngineClass {
  GObjectClass parent;
  const gchar *name;
  KdGraph *(*graph_new) (KdEngine *engine, gboolean grad);
  void (*graph_free) (KdEngine *engine, KdGraph *graph);
  KdVar *(*wrap) (KdGraph *graph, KdTensor *tensor, gboolean requires_grad, gfloat *grad_memory, GError **error);
  KdVar *(*op) (KdGraph *graph, KdOp op, KdVar *const *in, guint n_in, const gint64 *ints, guint n_ints,
      const gdouble *reals, guint n_reals, GError **error);
  guint (*shape) (KdVar *var, gint64 *ret_dims);
  KdTensor *(*tensor) (KdVar *var, GError **error);
  gboolean (*backward) (KdGraph *graph, guint n, KdVar *const *outputs, KdTensor *const *grads, gboolean keep, GError **error);
  KdTensor *(*grad) (KdVar *var, GError **error);
  /* TorchScript; NULL where an engine has none. script_bind moves the module's parameters into the (empty) set and freezes it.
   * script_forward: @ret_outputs has room for KD_SCRIPT_MAX_OUTPUTS, the logits come first: the module's one tensor, the first of a
   * tuple or list, the entry "logits" (else the first) of a dictionary. */
  KdScript *(*script_load) (KdEngine *engine, const gchar *path, GError **error);
  void (*script_free) (KdScript *script);
  gboolean (*script_bind) (KdScript *script, gpointer params, GError **error); /* KdParamSet: see kd-params.h */
  gboolean (*script_forward) (KdScript *script, KdGraph *graph, gboolean training, KdVar *input, KdVar **ret_outputs,
      guint *ret_n, GError **error);
  void (*set_threads) (KdEngine *engine, guint n);
  gchar *(*describe) (KdEngine *engine); /* (transfer full) "libtorch 1.13.1, OpenBLAS, 2 threads" */
  gpointer padding[8];
};

/** kd_engine_get: (transfer none) the engine called @name, NULL for the default ("torch"); loads its plugin once. When there is
 * none: KD_ERROR_ENGINE, naming the package or option that brings it. */
KD_API KdEngine *kd_engine_get (const gchar *name, GError **error);

/** kd_engine_register: what an engine plugin's init calls; the engine is found as GStreamer dynamic type "KdEngine-NAME". */
KD_API gboolean kd_engine_register (GstPlugin *plugin, const gchar *name, GType type);

G_END_DECLS
