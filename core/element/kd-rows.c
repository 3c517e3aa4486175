/* Which rows of a loss count, and with what coefficient: mask, ignore-index, weights and reduction in one place. */
#include "kd-bind.h"

#include <math.h>
#include <string.h>

typedef struct {
  gint64 n; /* rows */
  gint64 per_sample;
  gdouble *weight; /* [n], becomes the coefficient */
  guint8 *valid;   /* [n] */
} Rows;

static gboolean
is_nonzero (const KdTensor *tensor, gint64 i)
{
  if (kd_dtype_size (tensor->dtype) == 1)
    return ((const guint8 *) tensor->data)[i] != 0;
  return kd_tensor_get_double (tensor, (gsize) i) != 0;
}

/* A mask or weight covers the first axes of the rows and is repeated over the others. */
static gboolean
check_prefix (const KdBinding *binding, const gchar *name, const KdTensor *tensor, const KdSizes *sizes, gint64 *ret_repeat, GError **error)
{
  gint64 n_samples[1] = { sizes->n_samples };
  const gint64 *rows = sizes->leading_rank ? sizes->leading : n_samples;
  guint rank = MAX (sizes->leading_rank, 1);
  gint64 repeat = 1;

  if (tensor->rank == 0 || tensor->rank > rank || memcmp (tensor->dims, rows, tensor->rank * sizeof *rows)) {
    g_autofree gchar *got = kd_tensor_shape_string (tensor);
    g_autoptr (GString) wanted = g_string_new ("[");
    for (guint i = 0; i < rank; i++)
      g_string_append_printf (wanted, "%s%" G_GINT64_FORMAT, i ? "," : "", rows[i]);
    g_set_error (error, KD_ERROR, KD_ERROR_SHAPE, "Shapes differ: element=%s, field=%s, shape=%s, rows=%s]", binding->owner, name, got,
        wanted->str);
    return FALSE;
  }
  for (guint i = tensor->rank; i < rank; i++)
    repeat *= rows[i];
  *ret_repeat = repeat;
  return TRUE;
}

static gboolean
apply_mask (const KdBinding *binding, KdBatch *batch, const KdSizes *sizes, Rows *rows, GError **error)
{
  KdTensor *mask = kd_batch_read (batch, "mask");
  gint64 repeat;

  if (!mask)
    return TRUE;
  if (!check_prefix (binding, "mask", mask, sizes, &repeat, error))
    return FALSE;
  for (gint64 r = 0; r < rows->n; r++)
    rows->valid[r] = rows->valid[r] && is_nonzero (mask, r / repeat);
  return TRUE;
}

static gboolean
apply_weight (const KdBinding *binding, KdBatch *batch, const gchar *name, const KdSizes *sizes, Rows *rows, GError **error)
{
  KdTensor *weight = kd_batch_read (batch, name);
  gint64 repeat;

  if (!weight)
    return TRUE;
  if (!check_prefix (binding, name, weight, sizes, &repeat, error))
    return FALSE;
  for (gint64 r = 0; r < rows->n; r++) {
    gdouble w;
    if (!rows->valid[r])
      continue;
    w = kd_tensor_get_double (weight, (gsize) (r / repeat));
    if (!(w >= 0) || !isfinite (w)) {
      g_set_error (error, KD_ERROR, KD_ERROR_VALUE, "Weight not allowed: element=%s, field=%s, row=%" G_GINT64_FORMAT ", value=%g, wanted=a finite number from 0", binding->owner, name, r / repeat, w);
      return FALSE;
    }
    rows->weight[r] *= w;
  }
  return TRUE;
}

static gint64
sample_id (KdBatch *batch, gint64 n)
{
  KdTensor *ids = kd_batch_peek (batch, "sample.id");

  return ids && ids->dtype == KD_INT64 ? ((const gint64 *) ids->data)[n] : n;
}

/* Labels: ignore-index rows do not count, others must be classes. */
static gboolean
apply_labels (const KdBinding *binding, const KdRunOptions *options, KdBatch *batch, KdTensor *const *in, const KdSizes *sizes, Rows *rows,
    GError **error)
{
  gint64 n_classes = sizes->letter['C' - 'A'];

  for (guint i = 0; i < binding->n_in; i++) {
    gint64 repeat;
    if (!(binding->in[i].flags & KD_FIELD_LABEL) || !in[i])
      continue;
    if (!check_prefix (binding, binding->in[i].name, in[i], sizes, &repeat, error))
      return FALSE;
    for (gint64 r = 0; r < rows->n; r++) {
      gint64 label;
      if (!rows->valid[r])
        continue;
      label = in[i]->dtype == KD_INT64 ? ((const gint64 *) in[i]->data)[r / repeat]
                                       : (gint64) kd_tensor_get_double (in[i], (gsize) (r / repeat));
      if (label == options->ignore_index) {
        rows->valid[r] = 0;
      } else if (label < 0 || (n_classes >= 0 && label >= n_classes)) {
        g_set_error (error, KD_ERROR, KD_ERROR_RANGE, "Label out of range: element=%s, field=%s, sample.id=%" G_GINT64_FORMAT ", label=%" G_GINT64_FORMAT ", classes=%" G_GINT64_FORMAT "; mark rows to leave out with %" G_GINT64_FORMAT " or a mask", binding->owner, binding->in[i].name, sample_id (batch, r / rows->per_sample), label, n_classes,
            options->ignore_index);
        return FALSE;
      }
    }
  }
  return TRUE;
}

/* Rows whose ids are all padding do not count. */
static void
apply_padding (const KdBinding *binding, KdTensor *const *in, Rows *rows)
{
  for (guint i = 0; i < binding->n_in; i++) {
    gint64 width = in[i] && rows->n ? (gint64) kd_tensor_n_elements (in[i]) / rows->n : 0;
    if (!(binding->in[i].flags & KD_FIELD_PADDED) || !in[i])
      continue;
    for (gint64 r = 0; r < rows->n; r++) {
      gint64 j = 0;
      while (j < width && kd_tensor_get_double (in[i], (gsize) (r * width + j)) == -1)
        j++;
      rows->valid[r] = rows->valid[r] && j < width;
    }
  }
}

static gboolean
value_is_finite (const KdTensor *tensor, gsize i)
{
  if (tensor->dtype == KD_FLOAT32)
    return isfinite (((const gfloat *) tensor->data)[i]);
  return isfinite (kd_tensor_get_double (tensor, i));
}

static gboolean
is_checked (const KdBoundField *field, const KdTensor *tensor)
{
  return tensor && (tensor->dtype & KD_ANY_FLOAT) &&
      ((field->flags & (KD_FIELD_GRAD | KD_FIELD_FINITE)) || g_str_has_suffix (field->name, ".logits"));
}

/* First NaN or infinity of row @r; -1 when there is none. */
static gint64
bad_in_row (const KdTensor *tensor, gint64 n_rows, gint64 r)
{
  gint64 width = n_rows ? (gint64) kd_tensor_n_elements (tensor) / n_rows : 0;

  for (gint64 j = 0; j < width; j++)
    if (!value_is_finite (tensor, (gsize) (r * width + j)))
      return j;
  return -1;
}

/* nan-policy=drop leaves rows with NaN or infinity out. (zero is done by the door, on copies.) */
static void
drop_bad_rows (const KdBinding *binding, KdTensor *const *in, Rows *rows)
{
  for (guint i = 0; i < binding->n_in; i++)
    for (gint64 r = 0; is_checked (&binding->in[i], in[i]) && r < rows->n; r++)
      if (rows->valid[r] && bad_in_row (in[i], rows->n, r) >= 0)
        rows->valid[r] = 0;
}

static void
divide (const KdRunOptions *options, gint64 n_samples, gint64 n_counted, Rows *rows)
{
  gdouble weight = options->weight, divisor = 1;

  if (options->reduction == KD_REDUCTION_SEQ_MEAN) {
    gint64 n_live = 0;
    for (gint64 pass = 0; pass < 2; pass++)
      for (gint64 n = 0; n < n_samples; n++) {
        gdouble *w = rows->weight + n * rows->per_sample;
        const guint8 *valid = rows->valid + n * rows->per_sample;
        gint64 count = 0;
        for (gint64 l = 0; l < rows->per_sample; l++)
          count += valid[l];
        if (pass == 0)
          n_live += count > 0;
        for (gint64 l = 0; pass == 1 && count && l < rows->per_sample; l++)
          w[l] *= weight / ((gdouble) count * (gdouble) n_live);
      }
  } else {
    if (options->reduction == KD_REDUCTION_TOKEN_MEAN)
      divisor = (gdouble) n_counted;
    else if (options->reduction == KD_REDUCTION_BATCH)
      divisor = (gdouble) n_samples;
    else if (options->reduction == KD_REDUCTION_NUM_ITEMS)
      divisor = options->num_items;
    weight /= divisor;
    for (gint64 r = 0; r < rows->n; r++)
      rows->weight[r] *= weight;
  }
  for (gint64 r = 0; n_counted < rows->n && r < rows->n; r++)
    if (!rows->valid[r])
      rows->weight[r] = 0;
}

KdTensor *
kd_rows_new (const KdBinding *binding, const KdRunOptions *options, KdBatch *batch, KdTensor *const *in, const KdSizes *sizes,
    KdRows *ret_rows, GError **error)
{
  gint64 n = 1, n_counted = 0;
  g_autoptr (KdTensor) coef = NULL;
  g_autoptr (KdTensor) valid = NULL;
  Rows rows;

  if (sizes->leading_rank)
    for (guint i = 0; i < sizes->leading_rank; i++)
      n *= sizes->leading[i];
  else
    n = batch->n_samples;
  coef = kd_tensor_new (KD_FLOAT64, 1, &n);
  valid = kd_tensor_new (KD_UINT8, 1, &n);
  rows = (Rows) { n, batch->n_samples ? n / batch->n_samples : 1, coef->data, valid->data };
  memset (rows.valid, 1, (gsize) n);
  for (gint64 r = 0; r < n; r++)
    rows.weight[r] = 1;
  if (!apply_mask (binding, batch, sizes, &rows, error) ||
      !apply_labels (binding, options, batch, in, sizes, &rows, error) ||
      !apply_weight (binding, batch, "token.weight", sizes, &rows, error) ||
      !apply_weight (binding, batch, "sample.weight", sizes, &rows, error))
    return NULL;
  apply_padding (binding, in, &rows);
  if (options->nan_policy == KD_NAN_DROP)
    drop_bad_rows (binding, in, &rows);
  for (gint64 r = 0; r < n; r++)
    n_counted += rows.valid[r];
  divide (options, batch->n_samples, n_counted, &rows);
  *ret_rows = (KdRows) { .n = n, .coef = coef->data, .n_counted = n_counted };
  return g_steal_pointer (&coef);
}

gboolean
kd_rows_find_bad (const KdBinding *binding, KdBatch *batch, KdTensor *const *in, const KdRows *rows, GError **error)
{
  gint64 per_sample = batch->n_samples ? rows->n / batch->n_samples : 1;

  for (guint i = 0; i < binding->n_in; i++)
    for (gint64 r = 0; is_checked (&binding->in[i], in[i]) && r < rows->n; r++) {
      gint64 j = rows->coef[r] != 0 ? bad_in_row (in[i], rows->n, r) : -1;
      if (j < 0)
        continue;
      g_set_error (error, KD_ERROR, KD_ERROR_VALUE, "Value not finite: element=%s, field=%s, sample.id=%" G_GINT64_FORMAT ", row=%" G_GINT64_FORMAT ", column=%" G_GINT64_FORMAT ", value=%g; nan-policy=drop leaves such rows out", binding->owner,
          binding->in[i].name, sample_id (batch, r / MAX (per_sample, 1)), r, j,
          kd_tensor_get_double (in[i], (gsize) (r * ((gint64) kd_tensor_n_elements (in[i]) / rows->n) + j)));
      return FALSE;
    }
  g_set_error (error, KD_ERROR, KD_ERROR_VALUE, "Loss not finite: element=%s, though all inputs are; they are too large for float32",
      binding->owner);
  return FALSE;
}
