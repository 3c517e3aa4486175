/* The inner level of kdtgeo: the triangle of each row, its alpha, its loss and its gradient. */
#include "kdtgeo.h"

#include <math.h>
#include <string.h>

/* Rows are distributions; one of zeros is a class that nobody has seen. */
static gboolean
read_table (const KdTensor *table, gint64 n_classes, gdouble *ret_mean, GError **error)
{
  const gfloat *data = table->data;

  for (gint64 c = 0; c < n_classes; c++) {
    gdouble sum = 0, lowest = 0;
    for (gint64 j = 0; j < n_classes; j++) {
      sum += data[c * n_classes + j];
      lowest = MIN (lowest, data[c * n_classes + j]);
      ret_mean[c * n_classes + j] = data[c * n_classes + j];
    }
    if (sum == 0 && lowest == 0) {
      for (gint64 j = 0; j < n_classes; j++)
        ret_mean[c * n_classes + j] = 1 / (gdouble) n_classes;
    } else if (!(fabs (sum - 1) <= 1e-3) || lowest < 0) {
      g_set_error (error, KD_ERROR, KD_ERROR_VALUE, "No distribution: element=kdtgeo, field=teacher.class_mean, class=%" G_GINT64_FORMAT ", sum=%g, wanted=entries from 0 with sum 1 within 0.001",
          c, sum);
      return FALSE;
    }
  }
  return TRUE;
}

/* @teacher: T of the rows; each class's mean over those that count. */
static void
mean_of_batch (const KdCall *call, const gdouble *teacher, gdouble *ret_mean)
{
  const KdRows *rows = kd_call_rows (call);
  gint64 n_classes = kd_call_size (call, 'C');
  const gint64 *label = call->in[KD_TGEO_LABEL]->data;
  g_autofree gint64 *count = g_new0 (gint64, n_classes);

  memset (ret_mean, 0, (gsize) (n_classes * n_classes) * sizeof *ret_mean);
  for (gint64 r = 0; r < rows->n; r++) {
    if (rows->coef[r] == 0)
      continue;
    count[label[r]]++;
    for (gint64 j = 0; j < n_classes; j++)
      ret_mean[label[r] * n_classes + j] += teacher[r * n_classes + j];
  }
  for (gint64 c = 0; c < n_classes; c++)
    for (gint64 j = 0; j < n_classes; j++)
      ret_mean[c * n_classes + j] = count[c] ? ret_mean[c * n_classes + j] / (gdouble) count[c] : 1 / (gdouble) n_classes;
}

static gboolean
find_means (const KdCall *call, const gdouble *teacher, gdouble *ret_mean, GError **error)
{
  const KdTgeoParams *p = call->params;
  const KdTgeoState *state = call->state;
  const KdTensor *table = call->in[KD_TGEO_CLASS_MEAN] ? call->in[KD_TGEO_CLASS_MEAN] : state->class_mean;
  gint64 n_classes = kd_call_size (call, 'C');

  if (p->class_mean == KD_TGEO_MEAN_BATCH) {
    mean_of_batch (call, teacher, ret_mean);
    return TRUE;
  }
  if (!table) {
    g_set_error (error, KD_ERROR, KD_ERROR_FIELD, "Field missing: element=kdtgeo, field=teacher.class_mean; set class-mean-location to a file of kdclassmean, or class-mean=batch");
    return FALSE;
  }
  if (table->dims[0] != n_classes) {
    g_set_error (error, KD_ERROR, KD_ERROR_SHAPE, "Table of other classes: element=kdtgeo, class-mean-location=\"%s\", classes=%" G_GINT64_FORMAT ", student.logits has %" G_GINT64_FORMAT, p->class_mean_location,
        table->dims[0], n_classes);
    return FALSE;
  }
  return read_table (table, n_classes, ret_mean, error);
}

/* log softmax (x / t) of a row; a value that is not finite makes all of it NaN. */
static void
log_softmax (const gdouble *x, gint64 n, gdouble t, gdouble *ret)
{
  gdouble max = -INFINITY, sum = 0, check = 0;

  for (gint64 j = 0; j < n; j++) {
    max = MAX (max, x[j]);
    check += 0 * x[j];
  }
  for (gint64 j = 0; j < n; j++)
    sum += exp ((x[j] - max) / t);
  for (gint64 j = 0; j < n; j++)
    ret[j] = (x[j] - max) / t - log (sum) + check;
}

static void
fill_state (const KdTgeoParams *p, gint64 n, const gdouble *s, const gdouble *t, gint64 label, const gdouble *o, gdouble *x)
{
  for (gint64 j = 0; j < n; j++) {
    gdouble g = j == label;
    x[j] = s[j];
    x[n + j] = t[j];
    x[2 * n + j] = g;
    x[3 * n + j] = p->relations & KD_TGEO_INTER ? o[j] : 0;
    x[4 * n + j] = p->relations & KD_TGEO_INTER ? (o[j] - s[j]) * (o[j] - s[j]) : 0;
    x[5 * n + j] = p->relations & KD_TGEO_SG ? (g - s[j]) * (g - s[j]) : 0;
    x[6 * n + j] = p->relations & KD_TGEO_ST ? (t[j] - s[j]) * (t[j] - s[j]) : 0;
    x[7 * n + j] = p->relations & KD_TGEO_TG ? (t[j] - g) * (t[j] - g) : 0;
    x[8 * n + j] = p->relations & KD_TGEO_INTER ? (o[j] - g) * (o[j] - g) : 0;
  }
}

/* One row; @room [5 C]: S and T as logits, S, then log p and log q. */
static void
run_row (const KdCall *call, gint64 r, const gdouble *teacher, const gdouble *mean, gdouble *room, KdTgeoRows *rows)
{
  const KdTgeoParams *p = call->params;
  const KdTgeoController *controller = &((KdTgeoState *) call->state)->controller;
  gint64 n = rows->n_classes, label = ((const gint64 *) call->in[KD_TGEO_LABEL]->data)[r], n_hidden = controller->hidden1 + controller->hidden2;
  gdouble *zs = room, *zt = room + n, *s = room + 2 * n, *log_p = room + 3 * n, *log_q = room + 4 * n, *x = rows->x + r * 9 * n, t = p->temperature;
  gfloat *grad = (gfloat *) rows->grad->data + r * n;

  kd_row_to_double (call->in[KD_TGEO_STUDENT]->data, KD_REAL_F32, r, n, zs);
  kd_row_to_double (call->in[KD_TGEO_TEACHER]->data, (KdReal) call->in[KD_TGEO_TEACHER]->dtype, r, n, zt);
  log_softmax (zs, n, 1, s);
  rows->ce[r] = -s[label];
  for (gint64 j = 0; j < n; j++)
    s[j] = exp (s[j]);
  log_softmax (zs, n, t, log_p);
  log_softmax (zt, n, t, log_q);
  fill_state (p, n, s, teacher + r * n, label, mean + label * n, x);
  rows->pre[r] = kd_tgeo_controller_forward (controller, p->leaky_slope, x, rows->hidden + r * n_hidden);
  rows->alpha[r] = 1 / (1 + exp (-CLAMP (rows->pre[r], -KD_TGEO_LIMIT, KD_TGEO_LIMIT)));
  rows->kd[r] = 0;
  for (gint64 j = 0; j < n; j++) {
    gdouble q = exp (log_q[j]), pull = s[j] - (j == label), d = t * (exp (log_p[j]) - q) - pull;
    rows->kd[r] += q == 0 ? 0 : t * t * q * (log_q[j] - log_p[j]);
    rows->direction[r * n + j] = d;
    grad[j] = (gfloat) (kd_call_rows (call)->coef[r] * (pull + rows->alpha[r] * d));
  }
}

/* T of every row that counts. */
static void
teacher_softmax (const KdCall *call, gdouble *ret)
{
  const KdRows *rows = kd_call_rows (call);
  gint64 n = kd_call_size (call, 'C');
  g_autofree gdouble *row = g_new (gdouble, n);

  for (gint64 r = 0; r < rows->n; r++) {
    if (rows->coef[r] == 0)
      continue;
    kd_row_to_double (call->in[KD_TGEO_TEACHER]->data, (KdReal) call->in[KD_TGEO_TEACHER]->dtype, r, n, row);
    log_softmax (row, n, 1, ret + r * n);
    for (gint64 j = 0; j < n; j++)
      ret[r * n + j] = exp (ret[r * n + j]);
  }
}

void
kd_tgeo_rows_clear (KdTgeoRows *rows)
{
  g_free (rows->alpha);
  g_free (rows->pre);
  g_free (rows->x);
  g_free (rows->hidden);
  g_free (rows->direction);
  g_free (rows->kd);
  g_free (rows->ce);
  g_clear_pointer (&rows->grad, kd_tensor_unref);
}

static void
rows_make (KdTgeoRows *rows, const KdCall *call)
{
  const KdTgeoParams *p = call->params;
  gint64 n = kd_call_rows (call)->n, n_classes = kd_call_size (call, 'C');

  *rows = (KdTgeoRows) { .n = n, .n_classes = n_classes };
  rows->alpha = g_new0 (gdouble, n);
  rows->pre = g_new0 (gdouble, n);
  rows->x = g_new0 (gdouble, n * 9 * n_classes);
  rows->hidden = g_new0 (gdouble, n * (p->hidden1 + p->hidden2));
  rows->direction = g_new0 (gdouble, n * n_classes);
  rows->kd = g_new0 (gdouble, MAX (n, 1));
  rows->ce = g_new0 (gdouble, MAX (n, 1));
  rows->grad = kd_tensor_new_zero (KD_FLOAT32, call->in[KD_TGEO_STUDENT]->rank, call->in[KD_TGEO_STUDENT]->dims);
}

gboolean
kd_tgeo_rows_run (const KdCall *call, KdTgeoRows *ret, GError **error)
{
  const KdRows *rows = kd_call_rows (call);
  gint64 n_classes = kd_call_size (call, 'C');
  g_autofree gdouble *teacher = g_new0 (gdouble, MAX (rows->n * n_classes, 1)), *mean = g_new (gdouble, MAX (n_classes * n_classes, 1));
  g_autofree gdouble *room = g_new (gdouble, MAX (5 * n_classes, 1));

  teacher_softmax (call, teacher);
  if (!find_means (call, teacher, mean, error))
    return FALSE;
  rows_make (ret, call);
  for (gint64 r = 0; r < rows->n; r++)
    if (rows->coef[r] != 0)
      run_row (call, r, teacher, mean, room, ret);
  return TRUE;
}
