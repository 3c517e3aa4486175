/* The outer problem of kdtgeo: held-out rows, and what their loss after one step of the student says about alpha and the controller. */
#include "kdtgeo.h"

#include <math.h>

static gboolean
read_class_mean (const KdTgeoParams *p, KdTgeoState *state, GError **error)
{
  g_autoptr (KdH5Reader) reader = NULL;

  if (!p->class_mean_location || !*p->class_mean_location)
    return TRUE;
  reader = kd_h5_reader_open (p->class_mean_location, NULL, error);
  state->class_mean = reader ? kd_h5_reader_read_all (reader, "class_mean", error) : NULL;
  if (!state->class_mean)
    return FALSE;
  if (state->class_mean->dtype == KD_FLOAT32 && state->class_mean->rank == 2 && state->class_mean->dims[0] == state->class_mean->dims[1])
    return TRUE;
  g_autofree gchar *shape = kd_tensor_shape_string (state->class_mean);
  g_set_error (error, KD_ERROR, KD_ERROR_SHAPE, "Table not understood: element=kdtgeo, class-mean-location=\"%s\", class_mean=%s of %s, wanted=[classes,classes] of float32; "
                                                "write it with kdclassmean",
      p->class_mean_location, shape, kd_dtype_name (state->class_mean->dtype));
  return FALSE;
}

static gboolean
check_validation (const KdTgeoParams *p, KdH5Reader *reader, gint64 *ret_n, GError **error)
{
  const KdLayout *layout = kd_h5_reader_layout (reader);
  const KdLayoutField *input = kd_layout_find (layout, "input"), *label = kd_layout_find (layout, "label");
  gint64 n_rows = kd_h5_reader_n_rows (reader);

  if (!input || !label || label->dtype != KD_INT64 || label->rank != 1) {
    g_autofree gchar *names = kd_layout_names (layout);
    g_set_error (error, KD_ERROR, KD_ERROR_FIELD, "Field missing: element=kdtgeo, validation=\"%s\", layout=\"%s\", wanted=input and label (int64 [N])", p->validation, names);
    return FALSE;
  }
  *ret_n = p->validation_count ? p->validation_count : n_rows - p->validation_first;
  if (*ret_n < 1 || *ret_n > n_rows - p->validation_first) {
    g_set_error (error, KD_ERROR, KD_ERROR_RANGE, "No such rows: element=kdtgeo, validation=\"%s\", validation-first=%" G_GINT64_FORMAT ", validation-count=%" G_GINT64_FORMAT ", rows=%" G_GINT64_FORMAT, p->validation, p->validation_first,
        p->validation_count, n_rows);
    return FALSE;
  }
  return TRUE;
}

gboolean
kd_tgeo_open (const KdTgeoParams *p, KdTgeoState *state, GError **error)
{
  g_autoptr (KdH5Reader) reader = NULL;
  gint64 n;

  if (!read_class_mean (p, state, error))
    return FALSE;
  if (!p->validation || !*p->validation)
    return TRUE;
  reader = kd_h5_reader_open (p->validation, NULL, error);
  if (!reader || !check_validation (p, reader, &n, error))
    return FALSE;
  state->input = kd_h5_reader_read (reader, "input", p->validation_first, n, error);
  state->label = state->input ? kd_h5_reader_read (reader, "label", p->validation_first, n, error) : NULL;
  return state->label && kd_tgeo_disjoint_open (p, state, reader, error);
}

/* The held-out rows come in batches, one after the other, by the batch's place in the run: a resumed run goes on with the right one. */
static void
choose_rows (const KdCall *call, KdTensor **ret_input, KdTensor **ret_label)
{
  const KdTgeoParams *p = call->params;
  const KdTgeoState *state = call->state;
  gint64 n = state->label->dims[0], size = p->validation_batch_size ? MIN (p->validation_batch_size, n) : n;
  gint64 first = call->index / p->meta_every % ((n + size - 1) / size) * size;

  *ret_input = kd_tensor_slice (state->input, first, MIN (size, n - first));
  *ret_label = kd_tensor_slice (state->label, first, MIN (size, n - first));
}

static KdTensor *
ask_model (const KdCall *call, const KdTgeoRows *rows, GError **error)
{
  const KdTgeoParams *p = call->params;
  KdTgeoState *state = call->state;
  g_autoptr (KdTensor) input = NULL, label = NULL;
  KdLookahead ahead = { .field = "student.logits", .grad = rows->grad, .learning_rate = p->inner_lr };

  choose_rows (call, &input, &label);
  ahead.input = input;
  ahead.label = label;
  if (!call->look_ahead (call, &ahead, error))
    return NULL;
  state->outer = isfinite (ahead.ret_loss) ? ahead.ret_loss : state->outer;
  return ahead.ret_jvp;
}

/* -eta coef sum_c jvp_c direction_c; coef holds the 1 / N. */
static gboolean
gradient_of_alpha (const KdCall *call, const KdTgeoRows *rows, const KdTensor *jvp, gdouble *ret_alpha)
{
  const KdTgeoParams *p = call->params;
  const gdouble *coef = kd_call_rows (call)->coef;
  gboolean finite = TRUE;

  for (gint64 r = 0; r < rows->n; r++) {
    const gfloat *move = (const gfloat *) jvp->data + r * rows->n_classes;
    gdouble sum = 0;
    ret_alpha[r] = 0;
    if (coef[r] == 0)
      continue;
    for (gint64 c = 0; c < rows->n_classes; c++)
      sum += move[c] * rows->direction[r * rows->n_classes + c];
    ret_alpha[r] = -p->inner_lr * coef[r] * sum;
    finite = finite && isfinite (sum);
  }
  return finite;
}

gboolean
kd_tgeo_outer_gradient (const KdCall *call, const KdTgeoRows *rows, const KdTensor *jvp, gdouble *ret_alpha, gdouble *ret_grad, gboolean *ret_done, GError **error)
{
  const KdTgeoParams *p = call->params;
  KdTgeoState *state = call->state;
  const KdTgeoController *controller = &state->controller;
  gint64 n_hidden = controller->hidden1 + controller->hidden2;
  g_autofree gdouble *room = g_new (gdouble, n_hidden);
  g_autoptr (KdTensor) asked = NULL;

  *ret_done = FALSE;
  if (!jvp && (!call->look_ahead || !state->label))
    return TRUE;
  if (!jvp)
    jvp = asked = ask_model (call, rows, error);
  if (!jvp)
    return FALSE;
  if (!gradient_of_alpha (call, rows, jvp, ret_alpha)) {
    if (state->n_skipped++ == 0)
      GST_WARNING ("kdtgeo: the logits' movement along the held-out rows' gradient is not finite: no step of the controller");
    return TRUE;
  }
  for (gint64 r = 0; r < rows->n; r++) {
    gdouble up = fabs (rows->pre[r]) > KD_TGEO_LIMIT ? 0 : ret_alpha[r] * rows->alpha[r] * (1 - rows->alpha[r]);
    if (up != 0)
      kd_tgeo_controller_backward (controller, p->leaky_slope, rows->x + r * controller->size, rows->hidden + r * n_hidden, up, room, ret_grad);
  }
  *ret_done = TRUE;
  return TRUE;
}
