/* KdForward: keeps the first error, the names, and one var a parameter. */
#include "kd-graph-private.h"
#include "kd-ops.h"

#include <string.h>

KdForward *
kd_forward_new (KdEngine *engine, KdParamSet *params, gboolean grad, gboolean training, const KdRandom *random)
{
  KdForward *forward = g_new0 (KdForward, 1);

  forward->engine = engine;
  forward->klass = KD_ENGINE_GET_CLASS (engine);
  forward->graph = forward->klass->graph_new (engine, grad);
  forward->params = kd_param_set_ref (params);
  forward->grad = grad;
  forward->training = training;
  if (random) {
    forward->random = *random;
    forward->has_random = TRUE;
  }
  forward->scope = g_string_new (NULL);
  forward->marks = g_array_new (FALSE, FALSE, sizeof (gsize));
  forward->param = g_ptr_array_sized_new (kd_param_set_n (params));
  g_ptr_array_set_size (forward->param, (gint) kd_param_set_n (params));
  forward->tap_names = g_ptr_array_new_with_free_func (g_free);
  forward->taps = g_ptr_array_new ();
  return forward;
}

void
kd_forward_free (KdForward *forward)
{
  if (!forward)
    return;
  forward->klass->graph_free (forward->engine, forward->graph);
  kd_param_set_unref (forward->params);
  g_clear_error (&forward->error);
  g_string_free (forward->scope, TRUE);
  g_array_unref (forward->marks);
  g_ptr_array_unref (forward->param);
  g_ptr_array_unref (forward->tap_names);
  g_ptr_array_unref (forward->taps);
  g_free (forward);
}

const GError *
kd_forward_error (const KdForward *forward)
{
  return forward->error;
}

KdVar *
kd_forward_fail (KdForward *forward, KdError code, const gchar *format, ...)
{
  va_list args;

  if (forward->error)
    return NULL;
  va_start (args, format);
  forward->error = g_error_new_valist (KD_ERROR, (gint) code, format, args);
  va_end (args);
  return NULL;
}

/* The scope without its last dot, for messages. */
static gchar *
layer_name (const KdForward *forward)
{
  return forward->scope->len ? g_strndup (forward->scope->str, forward->scope->len - 1) : g_strdup ("(top)");
}

gboolean
kd_forward_training (const KdForward *forward)
{
  return forward->training;
}

KdVar *
kd_forward_input (KdForward *forward, KdTensor *tensor, gboolean requires_grad)
{
  if (forward->error)
    return NULL;
  return forward->klass->wrap (forward->graph, tensor, requires_grad && forward->grad, NULL, &forward->error);
}

KdTensor *
kd_forward_tensor (KdForward *forward, KdVar *var, GError **error)
{
  if (!var || forward->error) {
    if (forward->error)
      g_propagate_error (error, g_error_copy (forward->error));
    else
      g_set_error (error, KD_ERROR, KD_ERROR_ENGINE, "Nothing to read: the forward pass gave no such value");
    return NULL;
  }
  return forward->klass->tensor (var, error);
}

static gboolean
check_gradient (const KdForward *forward, KdVar *output, const KdTensor *grad, GError **error)
{
  KdTensor wanted = { .rank = 0 };
  g_autofree gchar *a = NULL, *b = NULL;

  wanted.rank = forward->klass->shape (output, wanted.dims);
  if (grad->rank == wanted.rank && !memcmp (grad->dims, wanted.dims, wanted.rank * sizeof (gint64)))
    return TRUE;
  a = kd_tensor_shape_string (grad);
  b = kd_tensor_shape_string (&wanted);
  g_set_error (error, KD_ERROR, KD_ERROR_SHAPE, "Shapes differ: gradient=%s, output=%s; a gradient has its output's shape", a, b);
  return FALSE;
}

static gboolean
backward (KdForward *forward, guint n, KdVar *const *outputs, KdTensor *const *grads, gboolean keep, GError **error)
{
  if (forward->error) {
    g_propagate_error (error, g_error_copy (forward->error));
    return FALSE;
  }
  if (!forward->grad) {
    g_set_error (error, KD_ERROR, KD_ERROR_VALUE, "No backward pass: the forward pass was not recorded; run it with grad");
    return FALSE;
  }
  for (guint i = 0; i < n; i++)
    if (!check_gradient (forward, outputs[i], grads[i], error))
      return FALSE;
  return forward->klass->backward (forward->graph, n, outputs, grads, keep, error);
}

gboolean
kd_forward_backward (KdForward *forward, guint n, KdVar *const *outputs, KdTensor *const *grads, GError **error)
{
  return backward (forward, n, outputs, grads, FALSE, error);
}

gboolean
kd_forward_probe (KdForward *forward, guint n, KdVar *const *outputs, KdTensor *const *grads, GError **error)
{
  return backward (forward, n, outputs, grads, TRUE, error);
}

KdTensor *
kd_forward_grad (KdForward *forward, KdVar *var, GError **error)
{
  GError *reason = NULL;
  KdTensor *grad = var ? forward->klass->grad (var, &reason) : NULL;

  if (!grad && !reason)
    g_set_error (error, KD_ERROR, KD_ERROR_VALUE, "No gradient: none has reached this value; it must be an input made with requires_grad, "
                                                  "and an output must depend on it");
  else if (!grad)
    g_propagate_error (error, reason);
  return grad;
}

guint
kd_var_shape (KdForward *forward, KdVar *var, gint64 *ret_dims)
{
  return var ? forward->klass->shape (var, ret_dims) : 0;
}

gint64
kd_var_dim (KdForward *forward, KdVar *var, gint axis)
{
  gint64 dims[KD_MAX_RANK];
  gint rank = (gint) kd_var_shape (forward, var, dims);

  if (axis < 0)
    axis += rank;
  return axis >= 0 && axis < rank ? dims[axis] : 0;
}

void
kd_push (KdForward *forward, const gchar *format, ...)
{
  gsize mark = forward->scope->len;
  va_list args;

  g_array_append_val (forward->marks, mark);
  va_start (args, format);
  g_string_append_vprintf (forward->scope, format, args);
  va_end (args);
  g_string_append_c (forward->scope, '.');
}

void
kd_pop (KdForward *forward)
{
  g_return_if_fail (forward->marks->len > 0);
  g_string_truncate (forward->scope, g_array_index (forward->marks, gsize, forward->marks->len - 1));
  g_array_set_size (forward->marks, forward->marks->len - 1);
}

/* In the building pass the numbers do not exist yet: zeros of the right shape stand for them. */
static KdVar *
wrap_param (KdForward *forward, guint i)
{
  const KdParamInfo *info = kd_param_set_nth (forward->params, i);
  gboolean train = forward->grad && info->trainable;
  g_autoptr (KdTensor) tensor = NULL;
  KdVar *var;

  if (kd_param_set_is_frozen (forward->params))
    tensor = kd_tensor_new_wrapped (KD_FLOAT32, info->rank, info->dims, kd_param_set_values (forward->params, i),
        kd_param_set_ref (forward->params), (GDestroyNotify) kd_param_set_unref);
  else
    tensor = kd_tensor_new_zero (KD_FLOAT32, info->rank, info->dims);
  var = forward->klass->wrap (forward->graph, tensor, train, train ? kd_param_set_grads (forward->params, i) : NULL,
      &forward->error);
  if (i >= forward->param->len)
    g_ptr_array_set_size (forward->param, (gint) i + 1);
  g_ptr_array_index (forward->param, i) = var;
  return var;
}

static KdVar *
refuse_param (KdForward *forward, const gchar *name, const KdParamInfo *info, guint rank, const gint64 *dims)
{
  KdTensor asked = { .rank = MIN (rank, KD_MAX_RANK) }, built = { .rank = info->rank };
  g_autofree gchar *a = NULL, *b = NULL;

  memcpy (asked.dims, dims, asked.rank * sizeof *dims);
  memcpy (built.dims, info->dims, sizeof built.dims);
  a = kd_tensor_shape_string (&asked);
  b = kd_tensor_shape_string (&built);
  return kd_forward_fail (forward, KD_ERROR_SHAPE,
      "Shapes differ: parameter=%s, built=%s, wanted for this input=%s; give the shape the model was built for", name, b, a);
}

static KdVar *
get_param (KdForward *forward, const gchar *name, KdInit init, guint rank, const gint64 *dims, gboolean trainable)
{
  gsize mark = forward->scope->len;
  const KdParamInfo *info;
  KdVar *var = NULL;
  gint i;

  if (forward->error)
    return NULL;
  g_string_append (forward->scope, name);
  i = kd_param_set_find (forward->params, forward->scope->str);
  if (i < 0 && kd_param_set_add (forward->params, forward->scope->str, rank, dims, init, trainable, &forward->error))
    i = (gint) kd_param_set_n (forward->params) - 1;
  if (i >= 0) {
    info = kd_param_set_nth (forward->params, (guint) i);
    if (info->rank != rank || memcmp (info->dims, dims, rank * sizeof *dims))
      var = refuse_param (forward, forward->scope->str, info, rank, dims);
    else if ((guint) i < forward->param->len && g_ptr_array_index (forward->param, i))
      var = g_ptr_array_index (forward->param, i);
    else
      var = wrap_param (forward, (guint) i);
  }
  g_string_truncate (forward->scope, mark);
  return var;
}

KdVar *
kd_param (KdForward *forward, const gchar *name, KdInit init, guint rank, const gint64 *dims)
{
  return get_param (forward, name, init, rank, dims, TRUE);
}

KdVar *
kd_buffer (KdForward *forward, const gchar *name, KdInit init, guint rank, const gint64 *dims)
{
  return get_param (forward, name, init, rank, dims, FALSE);
}

KdVar *
kd_tap (KdForward *forward, const gchar *name, KdVar *var)
{
  if (!var)
    return NULL;
  if (kd_forward_find_tap (forward, name))
    return kd_forward_fail (forward, KD_ERROR_FIELD, "Two layers have one name: tap=%s; the architecture must name them apart", name);
  g_ptr_array_add (forward->tap_names, g_strdup (name));
  g_ptr_array_add (forward->taps, var);
  return var;
}

KdVar *
kd_forward_find_tap (KdForward *forward, const gchar *name)
{
  for (guint i = 0; i < forward->taps->len; i++)
    if (g_str_equal (g_ptr_array_index (forward->tap_names, i), name))
      return g_ptr_array_index (forward->taps, i);
  return NULL;
}

gchar **
kd_forward_tap_names (KdForward *forward)
{
  gchar **names = g_new0 (gchar *, forward->tap_names->len + 1);

  for (guint i = 0; i < forward->tap_names->len; i++)
    names[i] = g_strdup (g_ptr_array_index (forward->tap_names, i));
  return names;
}

/* The engine says why; here is where: the layer, the operation, the shapes that came. */
static void
explain (KdForward *forward, KdOp op, KdVar *const *in, guint n_in, GError *reason)
{
  g_autoptr (GString) shapes = g_string_new (NULL);
  g_autofree gchar *layer = layer_name (forward);

  for (guint i = 0; i < n_in; i++) {
    KdTensor value = { .rank = 0 };
    g_autofree gchar *shape = NULL;
    if (!in[i])
      continue;
    value.rank = forward->klass->shape (in[i], value.dims);
    shape = kd_tensor_shape_string (&value);
    g_string_append_printf (shapes, "%s%s", shapes->len ? " " : "", shape);
  }
  forward->error = g_error_new (reason->domain, reason->code, "Operation failed: layer=%s, op=%s, inputs=%s, reason=%s", layer,
      kd_op_name (op), shapes->str, reason->message);
  g_error_free (reason);
}

KdVar *
kd_op (KdForward *forward, KdOp op, KdVar *const *in, guint n_in, const gint64 *ints, guint n_ints, const gdouble *reals,
    guint n_reals)
{
  GError *reason = NULL;
  KdVar *var;

  if (forward->error)
    return NULL;
  var = forward->klass->op (forward->graph, op, in, n_in, ints, n_ints, reals, n_reals, &reason);
  if (!var)
    explain (forward, op, in, n_in, reason);
  return var;
}
