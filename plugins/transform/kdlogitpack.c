/**
 * SECTION:element-kdlogitpack
 * @short_description: a teacher's top-k in DistillKit's bytes
 *
 * Rows are put in falling order. The exact-k largest log-probabilities are stored as they are, the others as a curve fitted by least squares (LAPACK,
 * singular values below 1e-5 of the largest left out) and residuals of a few bits: scale = max |residual| / 2^(bits - 1), rounded half to
 * even. With error-diffusion what the rounding leaves is added to the next residual, so that with delta-encoding errors do not add up.
 *
 * ## Fields
 *  - teacher.topk.ids: int64 or int32 [* k], teacher.topk.logprobs: float32 [* k], taken away
 * Writes teacher.packed.ids and teacher.packed.logprobs, uint8 [* bytes]. A row whose ids are all -1 becomes zeros, which kdlogitunpack knows.
 * ## Units
 * nats.
 * ## Errors
 * Properties that do not go together (KD_ERROR_RANGE, KD_ERROR_FORMAT), an id outside of 0 to d - 1 (KD_ERROR_RANGE), a log-probability that is
 * not finite (KD_ERROR_VALUE), a fit that does not converge (KD_ERROR_VALUE).
 * ## Source
 * arcee-ai/DistillKit, compression (k 128, exact-k 32, terms 0,1,2); the format is described in kdlogitformat.h.
 * ## Example
 * |[ kd launch 'kdh5src location=logits.h5 ! kdlogittopk k=128 ! kdlogitpack d=128256 ! kdh5sink location=packed.h5' ]|
 */
#include "kdlogitformat.h"
#include <math.h>
#include <string.h>

/* LAPACK: least squares by the singular value decomposition. */
extern void dgelsd_ (const int *m, const int *n, const int *nrhs, double *a, const int *lda, double *b, const int *ldb, double *s, const double *rcond, int *rank, double *work, const int *lwork,
    int *iwork, int *info);

static const KdParam kd_logit_pack_params[] = {
  KD_LOGIT_FORMAT_PARAMS,
  KD_PARAM_END
};

enum { IDS,
  LOGPROBS };
static const KdFieldSpec kd_logit_pack_fields[] = {
  [IDS] = { "teacher.topk.ids", KD_INT64 | KD_INT32, "* {k}" },
  [LOGPROBS] = { "teacher.topk.logprobs", KD_FLOAT32, "* {k}" },
  KD_FIELD_END
};

enum { PACKED_IDS,
  PACKED_LOGPROBS };
static const KdFieldSpec kd_logit_pack_outputs[] = {
  [PACKED_IDS] = { "teacher.packed.ids", KD_UINT8, "* B" },
  [PACKED_LOGPROBS] = { "teacher.packed.logprobs", KD_UINT8, "* L" },
  KD_FIELD_END
};
static const gchar *const kd_logit_pack_drops[] = { "teacher.topk.ids", "teacher.topk.logprobs", NULL };

static gboolean
kd_logit_pack_check (gconstpointer params, GError **error)
{
  KdLogitFormat format;

  return kd_logit_format_parse (&format, params, "kdlogitpack", error);
}

/* What takes the values to the coefficients, [n_terms, n_approximate]: least squares of the unit vectors, once for all rows. NULL on error. */
static gdouble *
make_fit (const KdLogitFormat *format, const gdouble *basis, GError **error)
{
  int m = (int) format->n_approximate, n = (int) format->n_terms, ld = MAX (m, n), rank, work_size = -1, info = 0, integers[64 * KD_LOGIT_MAX];
  g_autofree gdouble *a = g_new (gdouble, MAX (m * n, 1)), *b = g_new0 (gdouble, MAX (ld * m, 1)), *work = NULL;
  gdouble *fit = g_new0 (gdouble, MAX (m * n, 1)), singular[KD_LOGIT_MAX], best = 1;
  const double cut_off = 1e-5;

  if (m == 0 || n == 0)
    return fit;
  for (int i = 0; i < m; i++) {
    b[i * ld + i] = 1;
    for (int j = 0; j < n; j++)
      a[j * m + i] = basis[i * n + j];
  }
  dgelsd_ (&m, &n, &m, a, &m, b, &ld, singular, &cut_off, &rank, &best, &work_size, integers, &info);
  work_size = (int) best;
  work = g_new (gdouble, MAX (work_size, 1));
  dgelsd_ (&m, &n, &m, a, &m, b, &ld, singular, &cut_off, &rank, work, &work_size, integers, &info);
  for (int j = 0; j < n; j++)
    for (int i = 0; i < m; i++)
      fit[j * m + i] = b[i * ld + j];
  if (info == 0 && isfinite (fit[0]))
    return fit;
  g_free (fit);
  g_set_error (error, KD_ERROR, KD_ERROR_VALUE, "Cannot fit the curve: element=kdlogitpack, info=%d; take other polynomial-terms, or normalize-t", info);
  return NULL;
}

typedef struct {
  gdouble value;
  gint64 id, place;
} Entry;

static gint
compare_entries (gconstpointer a, gconstpointer b)
{
  const Entry *x = a, *y = b;

  if (x->value != y->value)
    return x->value > y->value ? -1 : 1;
  return (x->place > y->place) - (x->place < y->place);
}

/* A bin's scale and codes; @v [bin->n] what is to be stored. Returns where the next one begins. */
static guint8 *
write_bin (const KdLogitBin *bin, gboolean diffuse, const gdouble *v, guint8 *to, gdouble *carry)
{
  gdouble largest = 0, scale, middle = (gdouble) (G_GUINT64_CONSTANT (1) << (bin->bits - 1));
  gsize at = 0;

  for (gint64 i = 0; i < bin->n; i++)
    largest = MAX (largest, fabs (v[i]));
  scale = kd_store_put (&to, bin->scale, largest > 0 ? largest / middle : 1);
  if (!(scale > 0) || isinf (scale)) { /* nothing that the type can hold */
    to -= bin->scale == KD_STORE_FLOAT64 ? 8 : bin->scale == KD_STORE_FLOAT32 ? 4
                                                                              : 2;
    scale = kd_store_put (&to, bin->scale, 1);
  }
  for (gint64 i = 0; i < bin->n; i++) {
    gdouble wanted = v[i] + (diffuse ? *carry : 0), code, stored;
    code = bin->bits == 1 ? wanted >= 0 : CLAMP (rint (wanted / scale) + middle, 0, 2 * middle - 1);
    stored = bin->bits == 1 ? (2 * code - 1) * scale : (code - middle) * scale;
    *carry = wanted - stored;
    kd_bits_put (to, &at, bin->bits, (guint64) code);
  }
  return to + (at + 7) / 8;
}

/* @v [k] falling log-probabilities, or their differences. */
static void
write_values (const KdLogitFormat *format, const gdouble *basis, const gdouble *fit, gdouble *v, guint8 *to)
{
  const KdLogitFormatParams *p = format->params;
  gint64 n = format->n_approximate;
  gdouble coefficient[KD_LOGIT_MAX], *rest = v + p->exact_k, carry = 0;

  for (gint64 i = 0; i < p->exact_k; i++)
    kd_store_put (&to, (KdStoreType) p->exact_dtype, v[i]);
  for (guint j = 0; j < format->n_terms; j++) {
    coefficient[j] = 0;
    for (gint64 i = 0; i < n; i++)
      coefficient[j] += fit[j * n + i] * rest[i];
    coefficient[j] = kd_store_put (&to, (KdStoreType) p->term_dtype, coefficient[j]);
  }
  for (gint64 i = 0; i < n; i++)
    for (guint j = 0; j < format->n_terms; j++)
      rest[i] -= coefficient[j] * basis[i * format->n_terms + j];
  for (guint i = 0; i < format->n_bins; i++) {
    to = write_bin (&format->bins[i], p->error_diffusion, rest, to, &carry);
    rest += format->bins[i].n;
  }
}

/* The row's entries, falling; *ret_empty when it has none. */
static gboolean
read_row (const KdLogitFormat *format, gint64 row, const KdCall *call, Entry *entries, gboolean *ret_empty, GError **error)
{
  gint64 k = format->params->k, n_padding = 0;

  for (gint64 i = 0; i < k; i++) {
    entries[i] = (Entry) { ((const gfloat *) call->in[LOGPROBS]->data)[row * k + i], (gint64) kd_tensor_get_double (call->in[IDS], (gsize) (row * k + i)), i };
    n_padding += entries[i].id == -1;
  }
  *ret_empty = n_padding == k;
  for (gint64 i = 0; !*ret_empty && i < k; i++) {
    if (entries[i].id < 0 || entries[i].id >= format->params->d) {
      g_set_error (error, KD_ERROR, KD_ERROR_RANGE, "Id out of range: element=kdlogitpack, field=teacher.topk.ids, row=%" G_GINT64_FORMAT ", id=%" G_GINT64_FORMAT ", d=%" G_GINT64_FORMAT "; the format has no padding but whole rows", row, entries[i].id, format->params->d);
      return FALSE;
    }
    if (!isfinite (entries[i].value)) {
      g_set_error (error, KD_ERROR, KD_ERROR_VALUE, "Value not finite: element=kdlogitpack, field=teacher.topk.logprobs, row=%" G_GINT64_FORMAT ", column=%" G_GINT64_FORMAT ", value=%g; take a smaller k", row, i, entries[i].value);
      return FALSE;
    }
  }
  qsort (entries, (gsize) k, sizeof *entries, compare_entries);
  return TRUE;
}

static void
write_row (const KdLogitFormat *format, const gdouble *basis, const gdouble *fit, const Entry *entries, gdouble *v, guint8 *to_ids, guint8 *to_values)
{
  gsize at = 0;

  for (gint64 i = 0; i < format->params->k; i++) {
    kd_bits_put (to_ids, &at, format->id_bits, (guint64) entries[i].id);
    v[i] = entries[i].value - (i > 0 && format->params->delta_encoding ? entries[i - 1].value : 0);
  }
  write_values (format, basis, fit, v, to_values);
}

/* [* bytes] with the leading axes of the ids. */
static KdTensor *
new_bytes (const KdTensor *ids, gsize bytes)
{
  gint64 dims[KD_MAX_RANK];

  memcpy (dims, ids->dims, ids->rank * sizeof *dims);
  dims[ids->rank - 1] = (gint64) bytes;
  return kd_tensor_new_zero (KD_UINT8, ids->rank, dims);
}

static gboolean
kd_logit_pack_evaluate (const KdCall *call, KdOutputs *ret, GError **error)
{
  KdLogitFormat format;
  g_autofree gdouble *basis = NULL, *fit = NULL, *v = NULL;
  g_autofree Entry *entries = NULL;

  if (!kd_logit_format_parse (&format, call->params, "kdlogitpack", error))
    return FALSE;
  basis = kd_logit_format_basis (&format);
  fit = make_fit (&format, basis, error);
  if (!fit)
    return FALSE;
  v = g_new (gdouble, format.params->k);
  entries = g_new (Entry, format.params->k);
  ret->out[PACKED_IDS] = new_bytes (call->in[IDS], format.id_bytes);
  ret->out[PACKED_LOGPROBS] = new_bytes (call->in[IDS], format.value_bytes);
  for (gint64 row = 0; row < (gint64) kd_tensor_n_elements (call->in[IDS]) / format.params->k; row++) {
    gboolean empty;
    if (!read_row (&format, row, call, entries, &empty, error))
      return FALSE;
    if (!empty)
      write_row (&format, basis, fit, entries, v, (guint8 *) ret->out[PACKED_IDS]->data + (gsize) row * format.id_bytes, (guint8 *) ret->out[PACKED_LOGPROBS]->data + (gsize) row * format.value_bytes);
  }
  return TRUE;
}

static const KdTransformDesc kd_logit_pack = {
  .name = "kdlogitpack",
  .title = "Pack a teacher's top-k",
  .description = "Ids and log-probabilities to DistillKit's bytes",
  .source = "arcee-ai/DistillKit, compression",
  .formula = "exact values, least-squares curve sum_j c_j t^e_j through the others, residuals rounded to max |r| / 2^(b - 1)",
  .units = "nats",
  .fields = kd_logit_pack_fields,
  .params = kd_logit_pack_params,
  .params_size = sizeof (KdLogitFormatParams),
  .check = kd_logit_pack_check,
  .outputs = kd_logit_pack_outputs,
  .drops = kd_logit_pack_drops,
  .evaluate = kd_logit_pack_evaluate,
};

KD_TRANSFORM_PLUGIN (kd_logit_pack)
