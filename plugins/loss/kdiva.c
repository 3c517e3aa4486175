/**
 * SECTION:element-kdiva
 * @short_description: agreement on image tokens, weighted by how much the teacher's instruction looks at them
 *
 * a_v = sum over heads and unmasked instruction tokens of the teacher's attention to image token v; omega_v = a_v / sum a (1 / J where the sum is 0)
 * loss = mean over counted samples of sum_v omega_v D (teacher_v, student_v)
 * forward: D = sum q log (q / p), grad = omega (p - q) / T; reverse: D = sum p log (p / q); q of the teacher, p of the student at temperature T. No T^2.
 *
 * ## Fields
 *  - student.vision.logits: float32 [N J V], differentiable; teacher.vision.logits: float32, float16 or bfloat16 [N J V]
 *  - teacher.attention: float32 [N H I J], of one layer (kdirs finds which); instruction.mask: any number [N I], optional
 *  - mask: any number [N], optional: samples with an image
 * Writes vision.weight float32 [N J]: omega; 0 on samples that do not count.
 * ## Units
 * nats.
 * ## Errors
 * Attention that is negative or NaN (KD_ERROR_VALUE).
 * ## Source
 * arXiv:2602.09483 (Align-TI, instruction-vision alignment).
 * ## Example
 * |[ kd launch 'kdh5src location=vision.h5 ! kdiva ! kdh5sink location=out.h5' ]|
 */
#include <kd/kd.h>

typedef struct {
  gdouble temperature;
  gint divergence;
} KdIvaParams;

static const KdParam kd_iva_params[] = {
  KD_PARAM_DOUBLE (KdIvaParams, temperature, 0.01, 1000.0, 1.0, "Divides both logits"),
  KD_PARAM_ENUM (KdIvaParams, divergence, kd_kl_directions, KD_DIVERGENCE_FORWARD_KL, "Direction"),
  KD_PARAM_END
};

enum { STUDENT,
  TEACHER,
  ATTENTION,
  INSTRUCTION };
static const KdFieldSpec kd_iva_fields[] = {
  [STUDENT] = { "student.vision.logits", KD_FLOAT32, "N J V", KD_FIELD_GRAD },
  [TEACHER] = { "teacher.vision.logits", KD_FLOAT32 | KD_FLOAT16 | KD_BFLOAT16, "N J V" },
  [ATTENTION] = { "teacher.attention", KD_FLOAT32, "N H I J" },
  [INSTRUCTION] = { "instruction.mask", KD_ANY_NUMBER, "N I", KD_FIELD_OPTIONAL },
  KD_FIELD_END
};
static const KdFieldSpec kd_iva_outputs[] = {
  { "vision.weight", KD_FLOAT32, "N J" },
  KD_FIELD_END
};

/* omega of sample @n, in double; FALSE with an error when the attention is none. */
static gboolean
weigh (const KdCall *call, gint64 n, gdouble *omega, GError **error)
{
  gint64 n_heads = kd_call_size (call, 'H'), n_words = kd_call_size (call, 'I'), size = kd_call_size (call, 'J');
  const gfloat *attention = (const gfloat *) call->in[ATTENTION]->data + n * n_heads * n_words * size;
  gdouble sum = 0;

  for (gint64 j = 0; j < size; j++)
    omega[j] = 0;
  for (gint64 h = 0; h < n_heads; h++)
    for (gint64 i = 0; i < n_words; i++) {
      const gfloat *row = attention + (h * n_words + i) * size;
      if (call->in[INSTRUCTION] && kd_tensor_get_double (call->in[INSTRUCTION], (gsize) (n * n_words + i)) == 0)
        continue;
      for (gint64 j = 0; j < size; j++) {
        if (!(row[j] >= 0)) {
          g_set_error (error, KD_ERROR, KD_ERROR_VALUE, "No attention: element=kdiva, field=teacher.attention, row=%" G_GINT64_FORMAT ", value=%g, wanted=0 or more", n, row[j]);
          return FALSE;
        }
        omega[j] += row[j];
      }
    }
  for (gint64 j = 0; j < size; j++)
    sum += omega[j];
  for (gint64 j = 0; j < size; j++)
    omega[j] = sum > 0 ? omega[j] / sum : 1 / (gdouble) size;
  return TRUE;
}

static gboolean
kd_iva_evaluate (const KdCall *call, KdLossResult *ret, GError **error)
{
  const KdIvaParams *p = call->params;
  const KdRows *rows = kd_call_rows (call);
  gint64 size = kd_call_size (call, 'J'), n = rows->n * size;
  g_autofree gdouble *coef = g_new0 (gdouble, n), *value = g_new (gdouble, n);
  gfloat *weight = ret->out[0]->data;
  KdDivergence divergence;

  for (gint64 r = 0; r < rows->n; r++) {
    if (rows->coef[r] == 0)
      continue;
    if (!weigh (call, r, coef + r * size, error))
      return FALSE;
    for (gint64 j = r * size; j < (r + 1) * size; j++) {
      weight[j] = (gfloat) coef[j];
      coef[j] *= rows->coef[r];
    }
  }
  divergence = kd_call_divergence (call, p->divergence, STUDENT, TEACHER, coef, value, ret);
  divergence.temperature = p->temperature;
  kd_divergence_rows (&divergence);
  ret->loss = kd_rows_sum (n, coef, value);
  return TRUE;
}

static const KdLossDesc kd_iva = {
  .name = "kdiva",
  .title = "Instruction-vision alignment loss",
  .description = "Divergence on image tokens, weighted by the attention that the teacher's instruction pays them",
  .source = "arXiv:2602.09483 (Align-TI)",
  .formula = "loss = mean_n sum_v omega_v D (teacher_v, student_v); omega = the instruction's attention to image token v, normalised",
  .units = "nats; sum over a sample's image positions, mean over the samples that have an image",
  .fields = kd_iva_fields,
  .params = kd_iva_params,
  .params_size = sizeof (KdIvaParams),
  .outputs = kd_iva_outputs,
  .evaluate = kd_iva_evaluate,
};

KD_LOSS_PLUGIN (kd_iva)
