/* The operations of a forward pass, one function a KdOp. All take vars of one KdForward and return a var of it, or NULL when
 * something failed or an input is NULL (kd_forward_error has the first reason): shapes that disagree are KD_ERROR_SHAPE, an index
 * outside its axis KD_ERROR_RANGE. Values are float32 unless it says index (int64) or mask (bool; any number, not 0 is set);
 * other types are converted. Axes may count from the end (-1 is the last). Every result is differentiable in its float inputs.
 *
 * For engines: `ints` and `reals` in the comments are what KdEngineClass.op gets beside the inputs. */
#pragma once
#include "kd-graph.h"

G_BEGIN_DECLS

/** KD_AXIS_ALL: for reductions: over all axes, to a scalar. */
#define KD_AXIS_ALL G_MININT

/* --- products; `bias` may be NULL --- */
/** kd_linear: x [* I], weight [O I], bias [O] -> [* O]. */
KD_API KdVar *kd_linear (KdForward *forward, KdVar *x, KdVar *weight, KdVar *bias);
/** kd_matmul: a [... M K], b [... K P] -> [... M P]; leading axes broadcast. */
KD_API KdVar *kd_matmul (KdForward *forward, KdVar *a, KdVar *b);
/** kd_conv1d: x [N C L], weight [O C/groups K], bias [O] -> [N O L']. ints: stride padding dilation groups. */
KD_API KdVar *kd_conv1d (KdForward *forward, KdVar *x, KdVar *weight, KdVar *bias, gint stride, gint padding, gint dilation,
    gint groups);
/** kd_conv2d: x [N C H W], weight [O C/groups K K], bias [O] -> [N O H' W']. ints: stride padding dilation groups. */
KD_API KdVar *kd_conv2d (KdForward *forward, KdVar *x, KdVar *weight, KdVar *bias, gint stride, gint padding, gint dilation,
    gint groups);
/** kd_sparse_matmul: the matrix [n_rows D] with @values [E] at @index [2 E] (row, column; equal places add up) times x [D F] ->
 * [n_rows F]. ints: n_rows. */
KD_API KdVar *kd_sparse_matmul (KdForward *forward, KdVar *index, KdVar *values, gint64 n_rows, KdVar *x);
/** kd_attention: softmax (scale q k^T, over the keys) v. q [... L D], k [... S D], v [... S V] -> [... L V]. @mask [... L S] or NULL: keys
 * that may be seen; @causal: key i only from query i on; @scale 0: 1/sqrt(D). A query that may see no key gives 0. ints: causal; reals:
 * scale. */
KD_API KdVar *kd_attention (KdForward *forward, KdVar *q, KdVar *k, KdVar *v, KdVar *mask, gboolean causal, gdouble scale);
/** kd_embedding: index [*], weight [V D] -> [* D]. */
KD_API KdVar *kd_embedding (KdForward *forward, KdVar *index, KdVar *weight);

/* --- normalisation --- */
/** kd_batch_norm: x [N C ...]; weight, bias, running_mean, running_var [C]. @training: of the batch, and the running ones move by
 * @momentum towards it (variance unbiased, as PyTorch); else of the running ones. ints: training; reals: momentum epsilon. */
KD_API KdVar *kd_batch_norm (KdForward *forward, KdVar *x, KdVar *weight, KdVar *bias, KdVar *running_mean, KdVar *running_var,
    gboolean training, gdouble momentum, gdouble epsilon);
/** kd_layer_norm: over the last axis C; weight, bias [C] or NULL. reals: epsilon. */
KD_API KdVar *kd_layer_norm (KdForward *forward, KdVar *x, KdVar *weight, KdVar *bias, gdouble epsilon);
/** kd_normalize: divided by its Euclidean norm along @axis, or by @epsilon where that is larger. ints: axis; reals: epsilon. */
KD_API KdVar *kd_normalize (KdForward *forward, KdVar *x, gint axis, gdouble epsilon);
/** kd_softmax, kd_log_softmax: along @axis. ints: axis. */
KD_API KdVar *kd_softmax (KdForward *forward, KdVar *x, gint axis);
KD_API KdVar *kd_log_softmax (KdForward *forward, KdVar *x, gint axis);

/* --- element by element, any shape --- */
KD_API KdVar *kd_relu (KdForward *forward, KdVar *x);
KD_API KdVar *kd_gelu (KdForward *forward, KdVar *x); /* x Phi(x), exact */
KD_API KdVar *kd_silu (KdForward *forward, KdVar *x);
KD_API KdVar *kd_tanh (KdForward *forward, KdVar *x);
KD_API KdVar *kd_sigmoid (KdForward *forward, KdVar *x);
KD_API KdVar *kd_exp (KdForward *forward, KdVar *x);
KD_API KdVar *kd_log (KdForward *forward, KdVar *x);
KD_API KdVar *kd_sqrt (KdForward *forward, KdVar *x);
KD_API KdVar *kd_abs (KdForward *forward, KdVar *x);
KD_API KdVar *kd_neg (KdForward *forward, KdVar *x);
/** kd_scale: factor x + offset. reals: factor offset. */
KD_API KdVar *kd_scale (KdForward *forward, KdVar *x, gdouble factor, gdouble offset);
/** kd_clamp: reals: low high. */
KD_API KdVar *kd_clamp (KdForward *forward, KdVar *x, gdouble low, gdouble high);
/** kd_pow: reals: exponent. */
KD_API KdVar *kd_pow (KdForward *forward, KdVar *x, gdouble exponent);
/* Two inputs: the smaller shape is repeated along its missing axes and those of size 1. */
KD_API KdVar *kd_add (KdForward *forward, KdVar *a, KdVar *b);
KD_API KdVar *kd_sub (KdForward *forward, KdVar *a, KdVar *b);
KD_API KdVar *kd_mul (KdForward *forward, KdVar *a, KdVar *b);
KD_API KdVar *kd_div (KdForward *forward, KdVar *a, KdVar *b);
KD_API KdVar *kd_maximum (KdForward *forward, KdVar *a, KdVar *b);
KD_API KdVar *kd_minimum (KdForward *forward, KdVar *a, KdVar *b);
/** kd_masked_fill: @value where @mask is set. reals: value. */
KD_API KdVar *kd_masked_fill (KdForward *forward, KdVar *x, KdVar *mask, gdouble value);
/** kd_where: a where @mask is set, else b. */
KD_API KdVar *kd_where (KdForward *forward, KdVar *mask, KdVar *a, KdVar *b);

/* --- shapes --- */
/** kd_reshape: one axis of @dims may be -1, it is worked out. ints: dims. */
KD_API KdVar *kd_reshape (KdForward *forward, KdVar *x, guint rank, const gint64 *dims);
/** kd_flatten: [N ...] -> [N rest]. A reshape. */
KD_API KdVar *kd_flatten (KdForward *forward, KdVar *x);
/** kd_permute: axis i of the result is axis axes[i] of x. ints: axes. */
KD_API KdVar *kd_permute (KdForward *forward, KdVar *x, guint rank, const gint64 *axes);
/** kd_expand: repeats axes of size 1; -1 keeps an axis. ints: dims. */
KD_API KdVar *kd_expand (KdForward *forward, KdVar *x, guint rank, const gint64 *dims);
/** kd_concat: ints: axis. */
KD_API KdVar *kd_concat (KdForward *forward, guint n, KdVar *const *parts, gint axis);
/** kd_stack: along a new axis. ints: axis. */
KD_API KdVar *kd_stack (KdForward *forward, guint n, KdVar *const *parts, gint axis);
/** kd_slice: [@first, @end) in steps of @step; negative ends count from the back, an @end past the axis is its end. ints: axis first end
 * step. */
KD_API KdVar *kd_slice (KdForward *forward, KdVar *x, gint axis, gint64 first, gint64 end, gint64 step);
/** kd_pad: @before and @after elements of @value along @axis; negative ones crop. ints: axis before after; reals: value. */
KD_API KdVar *kd_pad (KdForward *forward, KdVar *x, gint axis, gint64 before, gint64 after, gdouble value);
/** kd_gather: out[i][j] = x[i][index[i][j]] for axis 1 and so on; index has x's rank. ints: axis. */
KD_API KdVar *kd_gather (KdForward *forward, KdVar *x, gint axis, KdVar *index);
/** kd_index_select: the slices @index [n] along @axis. ints: axis. */
KD_API KdVar *kd_index_select (KdForward *forward, KdVar *x, gint axis, KdVar *index);
/** kd_flip: ints: axis. */
KD_API KdVar *kd_flip (KdForward *forward, KdVar *x, gint axis);
/** kd_tril: keeps what lies on and below the @diagonal of the last two axes. ints: diagonal. */
KD_API KdVar *kd_tril (KdForward *forward, KdVar *x, gint diagonal);
/** kd_cast_float: any number type to float32. */
KD_API KdVar *kd_cast_float (KdForward *forward, KdVar *x);
/** kd_detach: the same value; no gradient goes through. */
KD_API KdVar *kd_detach (KdForward *forward, KdVar *x);

/* --- reductions; @keep: the axis stays with size 1. ints: axis keep --- */
KD_API KdVar *kd_sum (KdForward *forward, KdVar *x, gint axis, gboolean keep);
KD_API KdVar *kd_mean (KdForward *forward, KdVar *x, gint axis, gboolean keep);
/** kd_var: sum of squared deviations / (n - @correction). ints: axis keep correction. */
KD_API KdVar *kd_var (KdForward *forward, KdVar *x, gint axis, gboolean keep, gint correction);
/** kd_max: the gradient goes to one of equal maxima along an axis, evenly to all of them with KD_AXIS_ALL. */
KD_API KdVar *kd_max (KdForward *forward, KdVar *x, gint axis, gboolean keep);
/** kd_cumsum: ints: axis. */
KD_API KdVar *kd_cumsum (KdForward *forward, KdVar *x, gint axis);

/* --- pooling: x [N C L] or [N C H W]; ints: kernel stride padding --- */
KD_API KdVar *kd_avg_pool1d (KdForward *forward, KdVar *x, gint kernel, gint stride, gint padding);
KD_API KdVar *kd_max_pool1d (KdForward *forward, KdVar *x, gint kernel, gint stride, gint padding);
KD_API KdVar *kd_avg_pool2d (KdForward *forward, KdVar *x, gint kernel, gint stride, gint padding);
KD_API KdVar *kd_max_pool2d (KdForward *forward, KdVar *x, gint kernel, gint stride, gint padding);
/** kd_global_avg_pool: [N C ...] -> [N C]. */
KD_API KdVar *kd_global_avg_pool (KdForward *forward, KdVar *x);
/** kd_upsample2d: [N C H W] -> [N C H*factor W*factor]; nearest, or bilinear (corners not aligned). ints: factor bilinear. */
KD_API KdVar *kd_upsample2d (KdForward *forward, KdVar *x, gint factor, gboolean bilinear);

/** kd_op_name: "conv2d"; for messages. */
KD_API const gchar *kd_op_name (KdOp op);
/** kd_op: any operation by its number, with what its function's comment says; @in may hold NULL for an optional input. */
KD_API KdVar *kd_op (KdForward *forward, KdOp op, KdVar *const *in, guint n_in, const gint64 *ints, guint n_ints,
    const gdouble *reals, guint n_reals);

G_END_DECLS
