/**
 * SECTION:element-kdlogitunpack
 * @short_description: DistillKit's bytes to a teacher's top-k
 *
 * ids as they are; log-probabilities = exact values, then curve + residuals, summed up with delta-encoding. The values behind the exact ones are
 * approximate (0.05 to 0.2 nats). Where that makes a row's probabilities sum to more than 1, which none can, the approximate part is
 * scaled so that they sum to 1.
 *
 * ## Fields
 *  - teacher.packed.ids, teacher.packed.logprobs: uint8 [* bytes], taken away
 * Writes teacher.topk.ids int64 [* k] and teacher.topk.logprobs float32 [* k]. A row whose ids are all 0 (kdlogitpack's for a row without
 * ids) gets ids -1.
 * ## Units
 * nats.
 * ## Errors
 * Properties that do not go together (KD_ERROR_RANGE, KD_ERROR_FORMAT), rows of another number of bytes (KD_ERROR_SHAPE), an id from d on
 * (KD_ERROR_RANGE), a value that is not finite (KD_ERROR_VALUE).
 * ## Source
 * arcee-ai/DistillKit, compression (k 128, exact-k 32, terms 0,1,2); the format is described in kdlogitformat.h.
 * ## Example
 * |[ kd launch 'kdh5src location=packed.h5 ! kdlogitunpack d=128256 ! kdh5sink location=topk.h5' ]|
 */
#include "kdlogitformat.h"
#include <math.h>

static const KdParam kd_logit_unpack_params[] = {
  KD_LOGIT_FORMAT_PARAMS,
  KD_PARAM_END
};

enum { PACKED_IDS,
  PACKED_LOGPROBS };
static const KdFieldSpec kd_logit_unpack_fields[] = {
  [PACKED_IDS] = { "teacher.packed.ids", KD_UINT8, "* B" },
  [PACKED_LOGPROBS] = { "teacher.packed.logprobs", KD_UINT8, "* L" },
  KD_FIELD_END
};

enum { IDS,
  LOGPROBS };
static const KdFieldSpec kd_logit_unpack_outputs[] = {
  [IDS] = { "teacher.topk.ids", KD_INT64, "* {k}" },
  [LOGPROBS] = { "teacher.topk.logprobs", KD_FLOAT32, "* {k}" },
  KD_FIELD_END
};
static const gchar *const kd_logit_unpack_drops[] = { "teacher.packed.ids", "teacher.packed.logprobs", NULL };

static gboolean
kd_logit_unpack_check (gconstpointer params, GError **error)
{
  KdLogitFormat format;

  return kd_logit_format_parse (&format, params, "kdlogitunpack", error);
}

/* @v [n_approximate]: the residuals of the bins. */
static void
read_residuals (const KdLogitFormat *format, const guint8 *from, gdouble *v)
{
  for (guint i = 0; i < format->n_bins; i++) {
    const KdLogitBin *bin = &format->bins[i];
    gdouble scale = kd_store_get (&from, bin->scale), middle = (gdouble) (G_GUINT64_CONSTANT (1) << (bin->bits - 1));
    gsize at = 0;
    for (gint64 j = 0; j < bin->n; j++) {
      gdouble code = (gdouble) kd_bits_get (from, &at, bin->bits);
      *v++ += bin->bits == 1 ? (2 * code - 1) * scale : (code - middle) * scale;
    }
    from += (at + 7) / 8;
  }
}

/* A row's log-probabilities in @v [k]. */
static void
read_values (const KdLogitFormat *format, const gdouble *basis, const guint8 *from, gdouble *v)
{
  const KdLogitFormatParams *p = format->params;
  gdouble coefficient[KD_LOGIT_MAX];

  for (gint64 i = 0; i < p->exact_k; i++)
    v[i] = kd_store_get (&from, (KdStoreType) p->exact_dtype);
  for (guint j = 0; j < format->n_terms; j++)
    coefficient[j] = kd_store_get (&from, (KdStoreType) p->term_dtype);
  for (gint64 i = 0; i < format->n_approximate; i++) {
    v[p->exact_k + i] = 0;
    for (guint j = 0; j < format->n_terms; j++)
      v[p->exact_k + i] += coefficient[j] * basis[i * format->n_terms + j];
  }
  read_residuals (format, from, v + p->exact_k);
  for (gint64 i = 1; p->delta_encoding && i < p->k; i++)
    v[i] += v[i - 1];
}

/* What is approximate takes no more than what the exact values leave. */
static void
limit (const KdLogitFormat *format, gdouble *v)
{
  gdouble exact = 0, others = 0;

  for (gint64 i = 0; i < format->params->k; i++)
    *(i < format->params->exact_k ? &exact : &others) += exp (v[i]);
  for (gint64 i = format->params->exact_k; exact < 1 && exact + others > 1 && i < format->params->k; i++)
    v[i] += log ((1 - exact) / others);
}

static gboolean
unpack_row (const KdLogitFormat *format, const gdouble *basis, gint64 row, const KdCall *call, KdOutputs *ret, gdouble *v, GError **error)
{
  const guint8 *packed = (const guint8 *) call->in[PACKED_IDS]->data + (gsize) row * format->id_bytes;
  gint64 k = format->params->k, *ids = (gint64 *) ret->out[IDS]->data + row * k;
  gfloat *logprobs = (gfloat *) ret->out[LOGPROBS]->data + row * k;
  gboolean empty = k > 1;
  gsize at = 0;

  for (gint64 i = 0; i < k; i++) {
    ids[i] = (gint64) kd_bits_get (packed, &at, format->id_bits);
    empty = empty && ids[i] == 0;
    if (ids[i] >= format->params->d) {
      g_set_error (error, KD_ERROR, KD_ERROR_RANGE, "Id out of range: element=kdlogitunpack, field=teacher.packed.ids, row=%" G_GINT64_FORMAT ", id=%" G_GINT64_FORMAT ", d=%" G_GINT64_FORMAT "; was it packed with another d or k?", row, ids[i], format->params->d);
      return FALSE;
    }
  }
  read_values (format, basis, (const guint8 *) call->in[PACKED_LOGPROBS]->data + (gsize) row * format->value_bytes, v);
  limit (format, v);
  for (gint64 i = 0; i < k; i++) {
    ids[i] = empty ? -1 : ids[i];
    logprobs[i] = empty ? 0 : (gfloat) v[i];
    if (!isfinite (logprobs[i])) {
      g_set_error (error, KD_ERROR, KD_ERROR_VALUE, "Value not finite: element=kdlogitunpack, field=teacher.packed.logprobs, row=%" G_GINT64_FORMAT ", column=%" G_GINT64_FORMAT "; was it packed with other properties?", row, i);
      return FALSE;
    }
  }
  return TRUE;
}

static gboolean
kd_logit_unpack_evaluate (const KdCall *call, KdOutputs *ret, GError **error)
{
  KdLogitFormat format;
  g_autofree gdouble *basis = NULL, *v = NULL;
  gint64 ids = kd_call_size (call, 'B'), values = kd_call_size (call, 'L');

  if (!kd_logit_format_parse (&format, call->params, "kdlogitunpack", error))
    return FALSE;
  if (ids != (gint64) format.id_bytes || values != (gint64) format.value_bytes) {
    g_set_error (error, KD_ERROR, KD_ERROR_SHAPE, "Bytes a row differ: element=kdlogitunpack, teacher.packed.ids=%" G_GINT64_FORMAT " wanted=%" G_GSIZE_FORMAT ", teacher.packed.logprobs=%" G_GINT64_FORMAT " wanted=%" G_GSIZE_FORMAT "; give the properties that it was packed with", ids, format.id_bytes, values, format.value_bytes);
    return FALSE;
  }
  basis = kd_logit_format_basis (&format);
  v = g_new (gdouble, format.params->k);
  for (gint64 row = 0; row < (gint64) kd_tensor_n_elements (call->in[PACKED_IDS]) / ids; row++)
    if (!unpack_row (&format, basis, row, call, ret, v, error))
      return FALSE;
  return TRUE;
}

static const KdTransformDesc kd_logit_unpack = {
  .name = "kdlogitunpack",
  .title = "Unpack a teacher's top-k",
  .description = "DistillKit's bytes to ids and log-probabilities",
  .source = "arcee-ai/DistillKit, compression",
  .formula = "log p_i = exact_i, then sum_j c_j t_i^e_j + (code_i - 2^(b - 1)) scale; with delta-encoding summed up over i",
  .units = "nats",
  .fields = kd_logit_unpack_fields,
  .params = kd_logit_unpack_params,
  .params_size = sizeof (KdLogitFormatParams),
  .check = kd_logit_unpack_check,
  .outputs = kd_logit_unpack_outputs,
  .drops = kd_logit_unpack_drops,
  .evaluate = kd_logit_unpack_evaluate,
};

KD_TRANSFORM_PLUGIN (kd_logit_unpack)
