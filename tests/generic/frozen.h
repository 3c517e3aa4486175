/* Losses whose gradient takes a factor as constant (a gate, a selection, a target made of the student's own logits) are not the derivative of their
 * value. What they are the derivative of is put together here of other elements, with the factors that a first run has reported or that are
 * found here: so these losses too are checked by central differences. */
#pragma once
#include "generate.h"

/* @ran: the batch after the element's run, its inputs unmoved; @moved: the inputs with one number moved. */
typedef gdouble (*Frozen) (const Leaf *ran, const Leaf *moved);

static inline gchar *
param_text (const Leaf *leaf, const gchar *name)
{
  return kd_param_to_string (kd_param_find (leaf->desc->params, name), leaf->params);
}

/* @element with the fields and the reduction of @moved. */
static inline void
borrow (const Leaf *moved, Leaf *other, const gchar *element, const gchar *properties)
{
  leaf_open (other, element, properties, 1);
  other->options = moved->options;
  copy_batch (moved, other);
}

static inline gint64
n_rows (const Leaf *leaf, gint64 *ret_size)
{
  const KdTensor *logits = kd_batch_peek (leaf->batch, "student.logits");

  *ret_size = logits->dims[logits->rank - 1];
  return (gint64) kd_tensor_n_elements (logits) / *ret_size;
}

static inline gboolean
counts (const Leaf *leaf, gint64 row)
{
  const KdTensor *mask = kd_batch_peek (leaf->batch, "mask"), *label = kd_batch_peek (leaf->batch, "label");

  return (!mask || kd_tensor_get_double (mask, (gsize) row) != 0) && (!label || kd_tensor_get_double (label, (gsize) row) != -100);
}

/* token.weight times @factor [rows]; 0 on rows that do not count. */
static inline void
weigh (Leaf *leaf, const gdouble *factor)
{
  const KdTensor *logits = kd_batch_peek (leaf->batch, "student.logits"), *old = kd_batch_peek (leaf->batch, "token.weight");
  KdTensor *weight = kd_tensor_new (KD_FLOAT32, logits->rank - 1, logits->dims);

  for (gsize r = 0; r < kd_tensor_n_elements (weight); r++)
    ((gfloat *) weight->data)[r] = counts (leaf, (gint64) r) ? (gfloat) (factor[r] * (old ? kd_tensor_get_double (old, r) : 1)) : 0;
  kd_batch_set (leaf->batch, "token.weight", weight);
}

/* The loss of @element with rows weighted by @factor, or by nothing. */
static inline gdouble
weighted (const Leaf *moved, const gchar *element, const gchar *properties, const gdouble *factor)
{
  g_auto (Leaf) other = { 0 };

  borrow (moved, &other, element, properties);
  if (factor)
    weigh (&other, factor);
  leaf_run_ok (&other);
  return leaf_get (&other, "loss", 0);
}

/* factor[r] = field[r] x rows that count / rows where field is not 0 */
static inline gdouble *
stand_for_all (const Leaf *ran, const gchar *field)
{
  gint64 size, n = n_rows (ran, &size), n_counted = 0, n_chosen = 0;
  gdouble *factor = g_new (gdouble, n);

  for (gint64 r = 0; r < n; r++) {
    n_counted += counts (ran, r);
    n_chosen += leaf_get (ran, field, (gsize) r) != 0;
  }
  for (gint64 r = 0; r < n; r++)
    factor[r] = leaf_get (ran, field, (gsize) r) * (gdouble) n_counted / (gdouble) MAX (n_chosen, 1);
  return factor;
}

/* A float32 field of the student's shape: a x the student's + b x the teacher's. */
static inline KdTensor *
blend (const Leaf *leaf, gdouble a, gdouble b)
{
  const KdTensor *student = kd_batch_peek (leaf->batch, "student.logits"), *teacher = kd_batch_peek (leaf->batch, "teacher.logits");
  KdTensor *out = kd_tensor_new (KD_FLOAT32, student->rank, student->dims);

  for (gsize i = 0; i < kd_tensor_n_elements (out); i++)
    ((gfloat *) out->data)[i] = (gfloat) ((a != 0 ? a * kd_tensor_get_double (student, i) : 0) + (b != 0 ? b * kd_tensor_get_double (teacher, i) : 0));
  return out;
}

static inline gdouble
frozen_taid (const Leaf *ran, const Leaf *moved)
{
  g_autofree gchar *form = param_text (ran, "loss-form");
  g_auto (Leaf) other = { 0 };
  gdouble t = leaf_get (ran, "taid.t", 0);

  borrow (moved, &other, "kddivergence", g_str_equal (form, "kl") ? "" : "entropy-term=false");
  kd_batch_set (other.batch, "teacher.logits", blend (ran, 1 - t, t));
  leaf_run_ok (&other);
  return leaf_get (&other, "loss", 0);
}

static inline gdouble
frozen_adakd (const Leaf *ran, const Leaf *moved)
{
  g_autofree gchar *kind = param_text (ran, "divergence"), *squared = param_text (ran, "tau-scale");
  g_autofree gchar *properties = g_strdup_printf ("divergence=%s beta=0.1 alpha=0.1 temperature-scale=%s", kind, g_str_equal (squared, "true") ? "t2" : "none");
  g_autofree gdouble *factor = stand_for_all (ran, "token.selected");
  g_auto (Leaf) other = { 0 };

  borrow (moved, &other, "kddivergence", properties);
  weigh (&other, factor);
  kd_batch_set (other.batch, "token.temperature", kd_tensor_ref (kd_batch_peek (ran->batch, "token.temperature")));
  leaf_run_ok (&other);
  return leaf_get (&other, "loss", 0);
}

static inline gdouble
log_probability (const KdTensor *logits, gint64 row, gint64 size, gint64 id)
{
  gdouble sum = 0;

  for (gint64 j = 0; j < size; j++)
    sum += exp (kd_tensor_get_double (logits, (gsize) (row * size + j)));
  return kd_tensor_get_double (logits, (gsize) (row * size + id)) - log (sum);
}

/* Weights from 0 are all that an element takes: what pulls and what pushes apart. */
static inline gdouble
frozen_klmix (const Leaf *ran, const Leaf *moved)
{
  gint64 size, n = n_rows (ran, &size);
  g_autofree gdouble *up = g_new0 (gdouble, n), *down = g_new0 (gdouble, n);

  for (gint64 r = 0; r < n; r++) {
    gint64 y = counts (ran, r) ? (gint64) leaf_get (ran, "label", (gsize) r) : -1;
    gdouble w = y < 0 ? 0 : 0.75 + 0.25 * (log_probability (kd_batch_peek (ran->batch, "teacher.logits"), r, size, y) - log_probability (kd_batch_peek (ran->batch, "student.logits"), r, size, y));
    up[r] = MAX (w, 0);
    down[r] = MAX (-w, 0);
  }
  return weighted (moved, "kdce", "", up) - weighted (moved, "kdce", "", down);
}

static inline gdouble
frozen_tgeo (const Leaf *ran, const Leaf *moved)
{
  gint64 size, n = n_rows (ran, &size);
  g_autofree gdouble *teacher = g_new (gdouble, n), *label = g_new (gdouble, n);

  for (gint64 r = 0; r < n; r++) {
    teacher[r] = leaf_get (ran, "sample.fusion", (gsize) r);
    label[r] = 1 - teacher[r];
  }
  return weighted (moved, "kddivergence", "temperature=1.5 temperature-scale=t2", teacher) + weighted (moved, "kdce", "", label);
}

/* Both logits divided by what the first run found. */
static inline gdouble
frozen_mixstd (const Leaf *ran, const Leaf *moved)
{
  g_auto (Leaf) other = { 0 };
  gint64 size, n = n_rows (ran, &size);

  borrow (moved, &other, "kdhinton", "temperature=1 ce-weight=0.1 kd-weight=0.9");
  for (guint k = 0; k < 2; k++) {
    KdTensor *scaled = blend (moved, k == 0, k);
    for (gint64 i = 0; i < n * size; i++)
      ((gfloat *) scaled->data)[i] /= (gfloat) leaf_get (ran, k ? "std.teacher" : "std.student", (gsize) (i / size));
    kd_batch_set (other.batch, k ? "teacher.logits" : "student.logits", scaled);
  }
  leaf_run_ok (&other);
  return leaf_get (&other, "loss", 0);
}

/* - log Plackett-Luce of all ids in the teacher's order, or in the reverse of it; kdpld divides by their number. */
static inline gdouble
order_of_all (const Leaf *ran, const Leaf *moved, gboolean reversed)
{
  g_autofree gdouble *factor = stand_for_all (ran, "token.opener");
  g_auto (Leaf) other = { 0 };
  gint64 size, n = n_rows (ran, &size);
  KdTensor *order = blend (ran, 0, reversed ? -1 : 1), *label;

  borrow (moved, &other, "kdpld", "weighting=uniform");
  weigh (&other, factor);
  label = kd_tensor_new (KD_INT64, order->rank - 1, order->dims);
  for (gint64 r = 0; r < n; r++) {
    gint64 best = 0;
    for (gint64 j = 1; j < size; j++)
      best = ((gfloat *) order->data)[r * size + j] > ((gfloat *) order->data)[r * size + best] ? j : best;
    ((gint64 *) label->data)[r] = counts (ran, r) ? best : -100;
  }
  kd_batch_set (other.batch, "teacher.logits", order);
  kd_batch_set (other.batch, "label", label);
  leaf_run_ok (&other);
  return (gdouble) size * leaf_get (&other, "loss", 0);
}

/* H = log C - KL (q || even) */
static inline gdouble
entropy_of_selected (const Leaf *ran, const Leaf *moved)
{
  g_autofree gdouble *factor = stand_for_all (ran, "token.selected");
  gdouble part[2];

  for (guint i = 0; i < 2; i++) {
    g_auto (Leaf) other = { 0 };
    borrow (moved, &other, "kddivergence", i ? "divergence=rkl" : "entropy-term=false");
    weigh (&other, factor);
    kd_batch_set (other.batch, "teacher.logits", blend (moved, 0, 0));
    if (i == 0)
      kd_batch_set (other.batch, "student.logits", blend (moved, 0, 0));
    leaf_run_ok (&other);
    part[i] = leaf_get (&other, "loss", 0);
  }
  return part[0] - part[1];
}

static inline gdouble
frozen_tsd (const Leaf *ran, const Leaf *moved)
{
  g_autofree gchar *order = param_text (ran, "pl-order");
  gint64 size, n = n_rows (ran, &size);
  g_autofree gdouble *gate = g_new (gdouble, n);

  for (gint64 r = 0; r < n; r++)
    gate[r] = leaf_get (ran, "token.gate", (gsize) r);
  return weighted (moved, "kddivergence", "divergence=jsd beta=0.9", gate) + 0.1 * order_of_all (ran, moved, g_str_equal (order, "code")) + entropy_of_selected (ran, moved);
}

/* At the row's temperature, 1 where the batch has none. */
static inline gdouble
probability (const Leaf *leaf, const gchar *field, gint64 row, gint64 size, gint64 id)
{
  const KdTensor *logits = kd_batch_peek (leaf->batch, field), *temperature = kd_batch_peek (leaf->batch, "token.temperature");
  gdouble t = temperature ? kd_tensor_get_double (temperature, (gsize) row) : 1, x = kd_tensor_get_double (logits, (gsize) (row * size + id)), sum = 0;

  for (gint64 j = 0; j < size; j++)
    sum += exp ((kd_tensor_get_double (logits, (gsize) (row * size + j)) - x) / t);
  return 1 / sum;
}

/* The share of sum |p - q| in the teacher's head: its largest probabilities while their sum is within 1/2, and always the first. */
static inline gdouble
head_share (const Leaf *leaf, gint64 row, gint64 size)
{
  g_autofree gboolean *taken = g_new0 (gboolean, size);
  gdouble mass = 0, head = 0, all = 0;

  for (gint64 k = 0; k < size; k++) {
    gint64 top = -1;
    gdouble p;
    for (gint64 j = 0; j < size; j++)
      if (!taken[j] && (top < 0 || probability (leaf, "teacher.logits", row, size, j) > probability (leaf, "teacher.logits", row, size, top)))
        top = j;
    taken[top] = TRUE;
    p = probability (leaf, "teacher.logits", row, size, top);
    mass += p;
    if (k == 0 || mass <= 0.5)
      head += fabs (p - probability (leaf, "student.logits", row, size, top));
    all += fabs (p - probability (leaf, "student.logits", row, size, top));
  }
  return all > 0 ? head / all : 0.5;
}

static inline gdouble
frozen_akl (const Leaf *ran, const Leaf *moved)
{
  gint64 size, n = n_rows (ran, &size);
  g_autofree gdouble *forward = g_new0 (gdouble, n), *reverse = g_new0 (gdouble, n);

  for (gint64 r = 0; r < n; r++)
    if (counts (ran, r)) {
      forward[r] = head_share (ran, r, size);
      reverse[r] = 1 - forward[r];
    }
  return weighted (moved, "kddivergence", "", forward) + weighted (moved, "kddivergence", "divergence=rkl", reverse);
}

static const struct {
  const gchar *element, *variant;
  Frozen value;       /* NULL: tests/plugins alone checks it */
  const gchar *needs; /* without this field too */
} frozen[] = {
  { "kdtaid", "", frozen_taid },
  { "kdadakd", "", frozen_adakd },
  { "kdklmix", "estimator=sampled", frozen_klmix },
  { "kdtgeo", "", frozen_tgeo },
  { "kdmixstd", "std_gradient=false", frozen_mixstd },
  { "kdtsd", "em_mode=quantile-ge", NULL }, /* takes positions in that do not count */
  { "kdtsd", "", frozen_tsd },
  { "kddivergence", "divergence=akl", frozen_akl, "teacher.logits" },
  { "kdsinkhorn", "gradient=envelope", NULL },
};
