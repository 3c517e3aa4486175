/**
 * SECTION:element-kdirs
 * @short_description: which layer's attention follows the instruction
 *
 * score of a layer = 1 - mean over pairs of cos (alpha (x1), alpha (x2)): two instructions about the same image, alpha the attention that the
 * instruction pays to the image tokens (mean over heads and instruction tokens). Pairs with a zero vector are left out; a layer with no other pair
 * scores 0. The layer with the largest score is what kdiva should look at; of equal ones the first.
 *
 * ## Fields
 *  - attention.pairs: float32 [Layers P 2 J]
 * Writes irs.score float32 [Layers], irs.layer int64 scalar.
 * ## Errors
 * NaN or infinity (KD_ERROR_VALUE).
 * ## Source
 * arXiv:2602.09483 (Align-TI, instruction-relevance score).
 * ## Example
 * |[ kd launch 'kdh5src location=attention.h5 ! kdirs ! kdh5sink location=layer.h5' ]|
 */
#include <kd/kd.h>

#include <math.h>

static const KdFieldSpec kd_irs_fields[] = {
  { "attention.pairs", KD_FLOAT32, "L P 2 J", KD_FIELD_TABLE },
  KD_FIELD_END
};
enum { SCORE,
  LAYER };
static const KdFieldSpec kd_irs_outputs[] = {
  [SCORE] = { "irs.score", KD_FLOAT32, "L" },
  [LAYER] = { "irs.layer", KD_INT64, "" },
  KD_FIELD_END
};

static gdouble
score_layer (const gfloat *pairs, gint64 n_pairs, gint64 size)
{
  gdouble sum = 0;
  gint64 n = 0;

  for (gint64 i = 0; i < n_pairs; i++) {
    const gfloat *a = pairs + 2 * i * size, *b = a + size;
    gdouble ab = 0, aa = 0, bb = 0;
    for (gint64 j = 0; j < size; j++) {
      ab += (gdouble) a[j] * b[j];
      aa += (gdouble) a[j] * a[j];
      bb += (gdouble) b[j] * b[j];
    }
    if (aa == 0 || bb == 0)
      continue;
    sum += ab / (sqrt (aa) * sqrt (bb));
    n++;
  }
  return n ? 1 - sum / (gdouble) n : 0;
}

static gboolean
kd_irs_evaluate (const KdCall *call, KdOutputs *ret, GError **error)
{
  gint64 n_layers = kd_call_size (call, 'L'), n_pairs = kd_call_size (call, 'P'), size = kd_call_size (call, 'J'), best = 0;
  gfloat *score = ret->out[SCORE]->data;

  for (gint64 l = 0; l < n_layers; l++) {
    gdouble value = score_layer ((const gfloat *) call->in[0]->data + l * n_pairs * 2 * size, n_pairs, size);
    if (!isfinite (value)) {
      g_set_error (error, KD_ERROR, KD_ERROR_VALUE, "Value not finite: element=kdirs, field=attention.pairs, layer=%" G_GINT64_FORMAT, l);
      return FALSE;
    }
    score[l] = (gfloat) value;
    if (score[l] > score[best])
      best = l;
  }
  *(gint64 *) ret->out[LAYER]->data = best;
  return TRUE;
}

static const KdTransformDesc kd_irs = {
  .name = "kdirs",
  .title = "Instruction-relevance score",
  .description = "How much each layer's attention to the image changes with the instruction",
  .source = "arXiv:2602.09483 (Align-TI)",
  .formula = "score = 1 - mean over pairs of cos (alpha (x1), alpha (x2)); layer = argmax",
  .fields = kd_irs_fields,
  .outputs = kd_irs_outputs,
  .evaluate = kd_irs_evaluate,
};

KD_TRANSFORM_PLUGIN (kd_irs)
