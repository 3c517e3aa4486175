/**
 * SECTION:element-kddho
 * @short_description: dual-head optimization: one head learns from labels, the other from the teacher
 *
 * a, k, t: the logits of the head for labels, of the head for the teacher, and of the teacher; A, U: the rows with and without a label:
 * ce = mean over A of CE (a, y); KL_n = T^2 KL (softmax (t / T) || softmax (k / T))
 * kd = mean over A of KL_n + mean over U of KL_n with kd-reduction=separate, mean over all rows with pooled; an empty set adds 0
 * loss = ce-weight ce + kd-weight kd. No gradient crosses between the heads: they meet in what is before both. With ce-field and kd-field the
 * same field it is the loss of a single head, to compare with.
 *
 * ## Fields
 *  - {ce-field} (student.ce.logits), {kd-field} (student.kd.logits): float32 [* C], differentiable
 *  - teacher.logits: float32, float16 or bfloat16 [* C]
 *  - label: int64 [*]; -1 says that the row has none
 *  - mask, token.weight, sample.weight: optional, see the base; the means run over the counted rows of each set
 *  - adds loss.ce, loss.kd.labeled, loss.kd.unlabeled, before the weights (pooled: the two parts of the one mean)
 * ## Units
 * nats.
 * ## Errors
 * A label below -1 or of no class (KD_ERROR_RANGE).
 * ## Source
 * arXiv:2505.07675; weights and T of the authors' few-shot script (erjui/DHO train_others.py); their large-scale script has the weights 1 and 1.
 * pooled and -1 are this project's.
 * ## Example
 * |[ kd launch 'kdh5src location=few.h5 epochs=80 ! kdcache location=teacher.h5 ! kdstudent arch="mlp dims=64,32,10" features=layer1 !
 * kdmodule in=student.features.layer1 out=student.kd.logits config="out=10" ! kddho ce-field=student.logits ! kdtrain' ]|
 */
#include <kd/kd.h>

enum { SEPARATE,
  POOLED };

typedef struct {
  gdouble ce_weight, kd_weight, temperature;
  gint kd_reduction;
  gchar *ce_field, *kd_field;
} KdDhoParams;

static const KdEnumValue reductions[] = {
  { SEPARATE, "separate", "A mean over the rows with a label and one over those without, added" },
  { POOLED, "pooled", "One mean over all rows" },
  { 0, NULL, NULL }
};

static const KdParam kd_dho_params[] = {
  KD_PARAM_DOUBLE (KdDhoParams, ce_weight, 0.0, 1e6, 0.5, "Factor of the cross-entropy with the labels"),
  KD_PARAM_DOUBLE (KdDhoParams, kd_weight, 0.0, 1e6, 0.5, "Factor of the divergence from the teacher"),
  KD_PARAM_DOUBLE (KdDhoParams, temperature, 0.01, 100.0, 2.0, "Divides both logits in the divergence, which is multiplied by its square"),
  KD_PARAM_ENUM (KdDhoParams, kd_reduction, reductions, SEPARATE, "How the divergences become one number"),
  KD_PARAM_STRING (KdDhoParams, ce_field, "student.ce.logits", "Logits of the head that learns from labels"),
  KD_PARAM_STRING (KdDhoParams, kd_field, "student.kd.logits", "Logits of the head that learns from the teacher"),
  KD_PARAM_END
};

enum { CE_HEAD,
  KD_HEAD,
  TEACHER,
  LABEL };
static const KdFieldSpec kd_dho_fields[] = {
  [CE_HEAD] = { "{ce_field}", KD_FLOAT32, "* C", KD_FIELD_GRAD },
  [KD_HEAD] = { "{kd_field}", KD_FLOAT32, "* C", KD_FIELD_GRAD },
  [TEACHER] = { "teacher.logits", KD_FLOAT32 | KD_FLOAT16 | KD_BFLOAT16, "* C" },
  [LABEL] = { "label", KD_INT64, "*" },
  KD_FIELD_END
};

enum { CE,
  KD_LABELED,
  KD_UNLABELED };
static const gchar *const kd_dho_terms[] = { [CE] = "ce", [KD_LABELED] = "kd.labeled", [KD_UNLABELED] = "kd.unlabeled", NULL };

/* The coefficients of the rows in the three terms; each term's other rows have 0. */
typedef struct {
  gdouble *ce, *labeled, *unlabeled, *any;
} Sets;

/* rows->coef divides by all counted rows (or by what the reduction says); a set's mean divides by its own. */
static gboolean
split_rows (const KdCall *call, Sets *sets, GError **error)
{
  const KdDhoParams *p = call->params;
  const KdRows *rows = kd_call_rows (call);
  const gint64 *label = call->in[LABEL]->data;
  gint64 n_labeled = 0, n_unlabeled = 0;

  for (gint64 r = 0; r < rows->n; r++) {
    if (rows->coef[r] != 0 && (label[r] < -1 || label[r] >= kd_call_size (call, 'C'))) {
      g_set_error (error, KD_ERROR, KD_ERROR_RANGE, "Label out of range: element=kddho, field=label, row=%" G_GINT64_FORMAT ", label=%" G_GINT64_FORMAT ", classes=%" G_GINT64_FORMAT "; a row without a label has -1",
          r, label[r], kd_call_size (call, 'C'));
      return FALSE;
    }
    n_labeled += rows->coef[r] != 0 && label[r] >= 0;
    n_unlabeled += rows->coef[r] != 0 && label[r] < 0;
  }
  for (gint64 r = 0; r < rows->n; r++) {
    gboolean labeled = label[r] >= 0;
    gdouble coef = rows->coef[r], of_set = coef == 0 ? 0 : coef * (gdouble) rows->n_counted / (gdouble) (labeled ? n_labeled : n_unlabeled);
    gdouble kd = p->kd_reduction == SEPARATE ? of_set : coef;
    sets->ce[r] = labeled ? of_set : 0;
    sets->labeled[r] = labeled ? kd : 0;
    sets->unlabeled[r] = labeled ? 0 : kd;
    sets->any[r] = kd;
  }
  return TRUE;
}

/* 0, or NaN when a counted row of the head for labels holds what is not finite: the cross-entropy does not look at rows without a label. */
static gdouble
check_head (const KdCall *call)
{
  const KdRows *rows = kd_call_rows (call);
  gint64 size = kd_call_size (call, 'C');
  gfloat sum = 0;

  for (gint64 r = 0; r < rows->n; r++)
    for (gint64 j = 0; rows->coef[r] != 0 && j < size; j++)
      sum += 0 * ((const gfloat *) call->in[CE_HEAD]->data)[r * size + j];
  return sum;
}

static void
add_labels (const KdCall *call, const Sets *sets, KdLossResult *ret, gdouble *value)
{
  const KdDhoParams *p = call->params;
  gint64 n = kd_call_rows (call)->n;

  kd_xent_rows (&(KdXent) {
      .n = n,
      .size = kd_call_size (call, 'C'),
      .logits = call->in[CE_HEAD]->data,
      .label = call->in[LABEL]->data,
      .coef = sets->ce,
      .scale = p->ce_weight,
      .grad = p->ce_weight > 0 ? ret->grad[CE_HEAD] : NULL,
      .value = value,
  });
  ret->term[CE] = kd_rows_sum (n, sets->ce, value);
}

static void
add_teacher (const KdCall *call, const Sets *sets, KdLossResult *ret, gdouble *value)
{
  const KdDhoParams *p = call->params;
  gint64 n = kd_call_rows (call)->n;
  gdouble t2 = p->temperature * p->temperature;

  kd_divergence_rows (&(KdDivergence) {
      .kind = KD_DIVERGENCE_FORWARD_KL,
      .n = n,
      .size = kd_call_size (call, 'C'),
      .student = call->in[KD_HEAD]->data,
      .teacher = call->in[TEACHER]->data,
      .teacher_type = (KdReal) call->in[TEACHER]->dtype,
      .coef = sets->any,
      .temperature = p->temperature,
      .scale = p->kd_weight * t2,
      .reject_infinite = TRUE,
      .grad = p->kd_weight > 0 ? ret->grad[KD_HEAD] : NULL,
      .value = value,
  });
  ret->term[KD_LABELED] = t2 * kd_rows_sum (n, sets->labeled, value);
  ret->term[KD_UNLABELED] = t2 * kd_rows_sum (n, sets->unlabeled, value);
}

static gboolean
kd_dho_evaluate (const KdCall *call, KdLossResult *ret, GError **error)
{
  const KdDhoParams *p = call->params;
  gint64 n = kd_call_rows (call)->n;
  g_autofree gdouble *value = g_new (gdouble, n), *coefs = g_new (gdouble, 4 * n);
  Sets sets = { coefs, coefs + n, coefs + 2 * n, coefs + 3 * n };

  if (!split_rows (call, &sets, error))
    return FALSE;
  add_labels (call, &sets, ret, value);
  add_teacher (call, &sets, ret, value);
  ret->loss = p->ce_weight * ret->term[CE] + p->kd_weight * (ret->term[KD_LABELED] + ret->term[KD_UNLABELED]) + check_head (call);
  return TRUE;
}

static const KdLossDesc kd_dho = {
  .name = "kddho",
  .title = "Dual-head loss",
  .description = "Cross-entropy on one head where there are labels, divergence from the teacher on the other",
  .source = "arXiv:2505.07675",
  .formula = "loss = ce-weight mean_A CE (a, y) + kd-weight T^2 (mean_A KL + mean_U KL), KL = KL (softmax (t / T) || softmax (k / T)); "
             "A, U: rows with and without a label; pooled: one mean over both",
  .units = "nats; means over the labelled and the unlabelled rows",
  .fields = kd_dho_fields,
  .params = kd_dho_params,
  .params_size = sizeof (KdDhoParams),
  .terms = kd_dho_terms,
  .evaluate = kd_dho_evaluate,
};

KD_LOSS_PLUGIN (kd_dho)
