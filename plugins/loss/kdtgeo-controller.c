/* The network that says how much of a sample's loss comes from the teacher: forward, backward, Adam, and what checkpoints keep. */
#include "kdtgeo.h"

#include <math.h>
#include <string.h>

static const gchar *const names[] = { "controller.fc1.weight", "controller.fc1.bias", "controller.fc2.weight", "controller.fc2.bias", "controller.fc3.weight",
  "controller.fc3.bias" };

const gchar *
kd_tgeo_controller_name (guint part)
{
  return names[part];
}

gsize
kd_tgeo_controller_part (const KdTgeoController *self, guint part, guint *ret_rank, gint64 *ret_dims)
{
  const gint64 in[] = { self->size, self->hidden1, self->hidden2 }, out[] = { self->hidden1, self->hidden2, 1 };
  gsize at = 0;

  for (guint layer = 0; layer < part / 2; layer++)
    at += (gsize) (out[layer] * (in[layer] + 1));
  *ret_rank = part % 2 ? 1 : 2;
  ret_dims[0] = out[part / 2];
  ret_dims[1] = in[part / 2];
  return at + (part % 2 ? (gsize) (ret_dims[0] * ret_dims[1]) : 0);
}

gsize
kd_tgeo_controller_n (const KdTgeoController *self)
{
  return (gsize) (self->hidden1 * (self->size + 1) + self->hidden2 * (self->hidden1 + 1) + self->hidden2 + 1);
}

void
kd_tgeo_controller_clear (KdTgeoController *self)
{
  g_free (self->values);
  g_free (self->moment1);
  g_free (self->moment2);
  *self = (KdTgeoController) { 0 };
}

void
kd_tgeo_controller_make (KdTgeoController *self, gint64 size, gint64 hidden1, gint64 hidden2, guint64 seed)
{
  kd_tgeo_controller_clear (self);
  *self = (KdTgeoController) { .size = size, .hidden1 = hidden1, .hidden2 = hidden2 };
  self->values = g_new (gfloat, kd_tgeo_controller_n (self));
  self->moment1 = g_new0 (gfloat, kd_tgeo_controller_n (self));
  self->moment2 = g_new0 (gfloat, kd_tgeo_controller_n (self));
  for (guint part = 0; part < KD_TGEO_N_PARTS; part++) {
    gint64 dims[2];
    guint rank;
    gsize at = kd_tgeo_controller_part (self, part, &rank, dims), n = (gsize) (dims[0] * (rank == 2 ? dims[1] : 1));
    gdouble bound = 1 / sqrt ((gdouble) dims[1]);
    KdRandom random;
    kd_random_init (&random, seed, kd_random_purpose (names[part]), 0, 0);
    for (gsize i = 0; i < n; i++)
      self->values[at + i] = (gfloat) (bound * (2 * kd_random_uniform (&random) - 1));
  }
}

/* y = W x + b, the weights [n_out, n_in] with the biases behind them; returns where the next layer begins. */
static const gfloat *
layer_forward (const gfloat *w, gint64 n_in, gint64 n_out, const gdouble *x, gdouble *y)
{
  const gfloat *bias = w + n_in * n_out;

  for (gint64 o = 0; o < n_out; o++) {
    gdouble sum = bias[o];
    for (gint64 i = 0; i < n_in; i++)
      sum += w[o * n_in + i] * x[i];
    y[o] = sum;
  }
  return bias + n_out;
}

static void
leak (gdouble slope, gint64 n, gdouble *y)
{
  for (gint64 i = 0; i < n; i++)
    y[i] = y[i] > 0 ? y[i] : slope * y[i];
}

gdouble
kd_tgeo_controller_forward (const KdTgeoController *self, gdouble slope, const gdouble *x, gdouble *ret_hidden)
{
  gdouble *h1 = ret_hidden, *h2 = ret_hidden + self->hidden1, out;
  const gfloat *w = layer_forward (self->values, self->size, self->hidden1, x, h1);

  leak (slope, self->hidden1, h1);
  w = layer_forward (w, self->hidden1, self->hidden2, h1, h2);
  leak (slope, self->hidden2, h2);
  layer_forward (w, self->hidden2, 1, h2, &out);
  return out;
}

/* Adds to the gradients of a layer and, where @down is not NULL, makes its input's: x is what a leaky ReLU gave, so its sign tells the branch (with
 * slope 0, what was cut is 0). */
static void
layer_backward (const gfloat *w, gdouble *grad, gint64 n_in, gint64 n_out, gdouble slope, const gdouble *x, const gdouble *up, gdouble *down)
{
  if (down)
    memset (down, 0, (gsize) n_in * sizeof *down);
  for (gint64 o = 0; o < n_out; o++) {
    for (gint64 i = 0; i < n_in; i++)
      grad[o * n_in + i] += up[o] * x[i];
    for (gint64 i = 0; down && i < n_in; i++)
      down[i] += up[o] * w[o * n_in + i];
    grad[n_in * n_out + o] += up[o];
  }
  for (gint64 i = 0; down && i < n_in; i++)
    down[i] *= x[i] > 0 ? 1 : slope;
}

void
kd_tgeo_controller_backward (const KdTgeoController *self, gdouble slope, const gdouble *x, const gdouble *hidden, gdouble up, gdouble *room, gdouble *grad)
{
  gsize fc2 = (gsize) (self->hidden1 * (self->size + 1)), fc3 = fc2 + (gsize) (self->hidden2 * (self->hidden1 + 1));
  gdouble *d1 = room, *d2 = room + self->hidden1;

  layer_backward (self->values + fc3, grad + fc3, self->hidden2, 1, slope, hidden + self->hidden1, &up, d2);
  layer_backward (self->values + fc2, grad + fc2, self->hidden1, self->hidden2, slope, hidden, d2, d1);
  layer_backward (self->values, grad, self->size, self->hidden1, slope, x, d1, NULL);
}

void
kd_tgeo_controller_adam (KdTgeoController *self, const gdouble *grad, gdouble learning_rate, gdouble weight_decay)
{
  const gdouble beta1 = 0.9, beta2 = 0.999, epsilon = 1e-8;
  gdouble correction1, correction2;

  self->step++;
  correction1 = 1 - pow (beta1, (gdouble) self->step);
  correction2 = 1 - pow (beta2, (gdouble) self->step);
  for (gsize i = 0; i < kd_tgeo_controller_n (self); i++) {
    gdouble g = grad[i] + weight_decay * self->values[i];
    gdouble m = beta1 * self->moment1[i] + (1 - beta1) * g, v = beta2 * self->moment2[i] + (1 - beta2) * g * g;
    self->moment1[i] = (gfloat) m;
    self->moment2[i] = (gfloat) v;
    self->values[i] = (gfloat) (self->values[i] - learning_rate * (m / correction1) / (sqrt (v / correction2) + epsilon));
  }
}

/* A checkpoint's arrays: those of the controller, then its moments under the same names with ".moment1" and ".moment2". */
static gchar *
state_name (guint part, guint kind)
{
  return kind ? g_strdup_printf ("%s.moment%u", names[part], kind) : g_strdup (names[part]);
}

static gfloat *
state_array (const KdTgeoController *self, guint kind)
{
  return kind == 0 ? self->values : kind == 1 ? self->moment1
                                              : self->moment2;
}

void
kd_tgeo_controller_save (const KdTgeoController *self, GHashTable *table)
{
  for (guint part = 0; self->size && part < KD_TGEO_N_PARTS; part++)
    for (guint kind = 0; kind < 3; kind++) {
      gint64 dims[2];
      guint rank;
      gsize at = kd_tgeo_controller_part (self, part, &rank, dims);
      KdTensor *tensor = kd_tensor_new (KD_FLOAT32, rank, dims);
      memcpy (tensor->data, state_array (self, kind) + at, tensor->n_bytes);
      g_hash_table_insert (table, state_name (part, kind), tensor);
    }
  if (self->size)
    kd_state_set_int (table, "controller.step", self->step);
}

static gboolean
load_part (KdTgeoController *self, guint part, guint kind, GHashTable *table, GError **error)
{
  g_autofree gchar *name = state_name (part, kind);
  KdTensor *tensor = g_hash_table_lookup (table, name);
  KdTensor wanted = { 0 };
  gsize at = kd_tgeo_controller_part (self, part, &wanted.rank, wanted.dims);

  if (!tensor || tensor->dtype != KD_FLOAT32 || tensor->rank != wanted.rank || memcmp (tensor->dims, wanted.dims, wanted.rank * sizeof (gint64))) {
    g_autofree gchar *a = tensor ? kd_tensor_shape_string (tensor) : g_strdup ("(missing)"), *b = kd_tensor_shape_string (&wanted);
    g_set_error (error, KD_ERROR, KD_ERROR_MISMATCH, "State does not fit: state=%s, shape=%s, wanted=%s; the checkpoint is of another hidden1 or hidden2", name, a, b);
    return FALSE;
  }
  memcpy (state_array (self, kind) + at, tensor->data, tensor->n_bytes);
  return TRUE;
}

gboolean
kd_tgeo_controller_load (KdTgeoController *self, gint64 hidden1, gint64 hidden2, GHashTable *table, GError **error)
{
  KdTensor *first = g_hash_table_lookup (table, names[0]);

  if (!first)
    return TRUE;
  kd_tgeo_controller_make (self, first->rank == 2 ? MAX (first->dims[1], 1) : 1, hidden1, hidden2, 0);
  for (guint part = 0; part < KD_TGEO_N_PARTS; part++)
    for (guint kind = 0; kind < 3; kind++)
      if (!load_part (self, part, kind, table, error)) {
        kd_tgeo_controller_clear (self);
        return FALSE;
      }
  self->step = kd_state_get_int (table, "controller.step", 0);
  return TRUE;
}
