/**
 * SECTION:element-kdmixup
 * @short_description: mixes pairs of samples and their labels
 *
 * x'_n = l_n x_{perm1(n)} + (1 - l_n) x_{perm2(n)}
 * label.soft_n = l_n y_{perm1(n)} + (1 - l_n) y_{perm2(n)}, y one-hot labels or the rows of label.soft
 * perm1, perm2 are independent permutations of the batch, l_n ~ Beta (beta, beta), l_n = 1 on the unmixed rows. All rows are permuted.
 *
 * Unmixed rows: `exact` takes floor (unmixed-fraction N) of them without replacement; `with-replacement` draws that many times with
 * replacement, as the released code does (setting 0.9 then leaves 59 % unmixed on average).
 * Permutations sort the samples by numbers from their own streams, so they depend on which samples stand in the batch, not on their order.
 *
 * ## Fields
 *  - input: float32 [N ...], replaced
 *  - label: int64 [N] or label.soft: float32 [N classes]
 *  - sample.id: int64 [N], optional: -1 on mixed rows afterwards
 *  - mixup.lambda: float32 [N], mixup.perm1, mixup.perm2: int64 [N]: read with source=given, written always
 * Writes label.soft [N classes], label (its largest entry), mixup.id1, mixup.id2 (sample.id of the two parts, -1 without).
 * A cache has no rows for mixed inputs: put the teacher behind this element.
 * ## Units
 * lambda in [0, 1].
 * ## Errors
 * No label (KD_ERROR_FIELD), label outside the classes (KD_ERROR_RANGE), a given permutation outside the batch (KD_ERROR_RANGE), a given
 * lambda outside [0, 1] (KD_ERROR_VALUE), teacher.logits or sample.weight already in the batch (KD_ERROR_FIELD).
 * ## Source
 * arXiv:1710.09412 (mixup), arXiv:2211.03946 (partial mixup).
 * ## Example
 * |[ kd launch 'kdh5src location=train.h5 ! kdmixup classes=10 unmixed-fraction=0 seed=1 ! kdh5sink location=mixed.h5' ]|
 */
#include <kd/kd.h>

enum { DRAW_EXACT,
  DRAW_WITH_REPLACEMENT };
enum { SOURCE_RANDOM,
  SOURCE_GIVEN };

typedef struct {
  gint64 classes;
  gdouble beta, unmixed_fraction;
  gint unmixed_draw, source;
  gboolean per_sample, bypass;
} KdMixupParams;

static const KdEnumValue unmixed_draws[] = {
  { DRAW_EXACT, "exact", "Without replacement: exactly that share" },
  { DRAW_WITH_REPLACEMENT, "with-replacement", "With replacement, as the released code does" },
  { 0, NULL, NULL }
};
static const KdEnumValue mix_sources[] = {
  { SOURCE_RANDOM, "random", "Draw pairs and lambda" },
  { SOURCE_GIVEN, "given", "Take mixup.lambda, mixup.perm1 and mixup.perm2 of the batch" },
  { 0, NULL, NULL }
};

static const KdParam kd_mixup_params[] = {
  KD_PARAM_INT (KdMixupParams, classes, 0, 1000000, 0, "Number of classes; has to be set"),
  KD_PARAM_DOUBLE (KdMixupParams, beta, 1e-3, 1e6, 1.0, "Both parameters of the Beta distribution of lambda"),
  KD_PARAM_DOUBLE (KdMixupParams, unmixed_fraction, 0.0, 1.0, 0.9, "Share of the rows that stay unmixed; 0 mixes all"),
  KD_PARAM_ENUM (KdMixupParams, unmixed_draw, unmixed_draws, DRAW_EXACT, "How the unmixed rows are chosen"),
  KD_PARAM_BOOL (KdMixupParams, per_sample, TRUE, "One lambda for each row; false: one for the batch"),
  KD_PARAM_ENUM (KdMixupParams, source, mix_sources, SOURCE_RANDOM, "Where pairs and lambda come from"),
  KD_PARAM_BOOL (KdMixupParams, bypass, FALSE, "Leave inputs and order as they are and only write the fields"),
  KD_PARAM_END
};

enum { INPUT,
  LABEL,
  SOFT,
  LAMBDA,
  PERM1,
  PERM2,
  ID,
  TEACHER,
  WEIGHT };
static const KdFieldSpec kd_mixup_fields[] = {
  [INPUT] = { "input", KD_FLOAT32 | KD_UINT8, "N ...", KD_FIELD_UNIT },
  [LABEL] = { "label", KD_INT64, "N", KD_FIELD_OPTIONAL },
  [SOFT] = { "label.soft", KD_FLOAT32, "N {classes}", KD_FIELD_OPTIONAL },
  [LAMBDA] = { "mixup.lambda", KD_FLOAT32, "N", KD_FIELD_OPTIONAL },
  [PERM1] = { "mixup.perm1", KD_INT64, "N", KD_FIELD_OPTIONAL },
  [PERM2] = { "mixup.perm2", KD_INT64, "N", KD_FIELD_OPTIONAL },
  [ID] = { "sample.id", KD_INT64, "N", KD_FIELD_OPTIONAL },
  [TEACHER] = { "teacher.logits", KD_ANY_FLOAT, "N ...", KD_FIELD_OPTIONAL | KD_FIELD_PEEK },
  [WEIGHT] = { "sample.weight", KD_ANY_NUMBER, "N", KD_FIELD_OPTIONAL | KD_FIELD_PEEK },
  KD_FIELD_END
};

enum { OUT_INPUT,
  OUT_SOFT,
  OUT_LABEL,
  OUT_LAMBDA,
  OUT_PERM1,
  OUT_PERM2,
  OUT_ID,
  OUT_ID1,
  OUT_ID2 };
static const KdFieldSpec kd_mixup_outputs[] = {
  [OUT_INPUT] = { "input", KD_FLOAT32, "N ..." },
  [OUT_SOFT] = { "label.soft", KD_FLOAT32, "N {classes}" },
  [OUT_LABEL] = { "label", KD_INT64, "N" },
  [OUT_LAMBDA] = { "mixup.lambda", KD_FLOAT32, "N" },
  [OUT_PERM1] = { "mixup.perm1", KD_INT64, "N" },
  [OUT_PERM2] = { "mixup.perm2", KD_INT64, "N" },
  [OUT_ID] = { "sample.id", KD_INT64, "N" },
  [OUT_ID1] = { "mixup.id1", KD_INT64, "N" },
  [OUT_ID2] = { "mixup.id2", KD_INT64, "N" },
  KD_FIELD_END
};

/* What is mixed with what. */
typedef struct {
  gint64 *perm1, *perm2;
  gfloat *lambda;
} Plan;

static gboolean
kd_mixup_check (gconstpointer params, GError **error)
{
  const KdMixupParams *p = params;

  if (p->classes >= 2)
    return TRUE;
  g_set_error (error, KD_ERROR, KD_ERROR_RANGE, "Property not set: element=kdmixup, property=classes, value=%" G_GINT64_FORMAT ", wanted=2 or more; set it to the number of classes", p->classes);
  return FALSE;
}

typedef struct {
  guint64 key;
  gint64 row;
} Place;

static gint
compare_places (gconstpointer a, gconstpointer b)
{
  const Place *x = a, *y = b;

  if (x->key != y->key)
    return x->key < y->key ? -1 : 1;
  return x->row < y->row ? -1 : x->row > y->row;
}

/* Rows in the order of one number each from their streams: a uniform permutation. */
static void
random_order (KdRandom *streams, Place *places, gint64 n, gint64 *ret_order)
{
  for (gint64 i = 0; i < n; i++) {
    guint64 high = kd_random_u32 (&streams[i]);
    places[i] = (Place) { high << 32 | kd_random_u32 (&streams[i]), i };
  }
  qsort (places, (gsize) n, sizeof *places, compare_places);
  for (gint64 i = 0; i < n; i++)
    ret_order[i] = places[i].row;
}

static void
draw_plan (const KdCall *call, Plan *plan)
{
  const KdMixupParams *p = call->params;
  gint64 n = call->n_samples, n_unmixed = (gint64) (p->unmixed_fraction * (gdouble) n + 1e-9);
  g_autofree KdRandom *streams = g_new (KdRandom, n);
  g_autofree Place *places = g_new (Place, n);
  g_autofree gint64 *order = g_new (gint64, n);

  for (gint64 i = 0; i < n; i++)
    kd_call_random (call, i, &streams[i]);
  random_order (streams, places, n, plan->perm1);
  random_order (streams, places, n, plan->perm2);
  random_order (streams, places, n, order);
  for (gint64 i = 0; i < n; i++)
    plan->lambda[i] = p->per_sample || i == 0 ? (gfloat) kd_random_beta (&streams[plan->perm1[i]], p->beta, p->beta) : plan->lambda[0];
  for (gint64 i = 0; i < n_unmixed; i++) {
    gint64 row = p->unmixed_draw == DRAW_EXACT ? order[i] : (gint64) kd_random_below (&streams[order[i]], (guint64) n);
    plan->lambda[row] = 1.0f;
  }
}

static gboolean
read_plan (const KdCall *call, Plan *plan, GError **error)
{
  static const gint needed[] = { LAMBDA, PERM1, PERM2 };
  gint64 n = call->n_samples;

  for (guint i = 0; i < G_N_ELEMENTS (needed); i++)
    if (!call->in[needed[i]]) {
      g_set_error (error, KD_ERROR, KD_ERROR_FIELD, "Field missing: element=kdmixup, field=%s, source=given; give it or set source=random",
          kd_mixup_fields[needed[i]].name);
      return FALSE;
    }
  for (gint64 i = 0; i < n; i++) {
    plan->lambda[i] = ((const gfloat *) call->in[LAMBDA]->data)[i];
    plan->perm1[i] = ((const gint64 *) call->in[PERM1]->data)[i];
    plan->perm2[i] = ((const gint64 *) call->in[PERM2]->data)[i];
    if (!(plan->lambda[i] >= 0 && plan->lambda[i] <= 1)) {
      g_set_error (error, KD_ERROR, KD_ERROR_VALUE, "Value not allowed: element=kdmixup, field=mixup.lambda, row=%" G_GINT64_FORMAT ", value=%g, wanted=[0,1]", i, plan->lambda[i]);
      return FALSE;
    }
    if (plan->perm1[i] < 0 || plan->perm1[i] >= n || plan->perm2[i] < 0 || plan->perm2[i] >= n) {
      g_set_error (error, KD_ERROR, KD_ERROR_RANGE, "Row out of range: element=kdmixup, row=%" G_GINT64_FORMAT ", mixup.perm1=%" G_GINT64_FORMAT ", mixup.perm2=%" G_GINT64_FORMAT ", samples=%" G_GINT64_FORMAT, i, plan->perm1[i], plan->perm2[i], n);
      return FALSE;
    }
  }
  return TRUE;
}

static gboolean
make_plan (const KdCall *call, Plan *plan, GError **error)
{
  const KdMixupParams *p = call->params;

  if (p->bypass) {
    for (gint64 i = 0; i < call->n_samples; i++) {
      plan->perm1[i] = plan->perm2[i] = i;
      plan->lambda[i] = 1.0f;
    }
    return TRUE;
  }
  if (p->source == SOURCE_GIVEN)
    return read_plan (call, plan, error);
  draw_plan (call, plan);
  return TRUE;
}

static gboolean
check_fields (const KdCall *call, GError **error)
{
  const KdMixupParams *p = call->params;
  const gint64 *label = call->in[LABEL] ? call->in[LABEL]->data : NULL;
  gint late = call->in[TEACHER] ? TEACHER : call->in[WEIGHT] ? WEIGHT
                                                             : -1;

  if (late >= 0) {
    g_set_error (error, KD_ERROR, KD_ERROR_FIELD,
        "Field too early: element=kdmixup, field=%s is of the unmixed samples; put the element that adds it behind kdmixup",
        kd_mixup_fields[late].name);
    return FALSE;
  }
  if (!label && !call->in[SOFT]) {
    g_set_error (error, KD_ERROR, KD_ERROR_FIELD,
        "Field missing: element=kdmixup, field=label or label.soft; put a source with labels before it");
    return FALSE;
  }
  for (gint64 i = 0; !call->in[SOFT] && i < call->n_samples; i++)
    if (label[i] < 0 || label[i] >= p->classes) {
      g_set_error (error, KD_ERROR, KD_ERROR_RANGE, "Label out of range: element=kdmixup, row=%" G_GINT64_FORMAT ", label=%" G_GINT64_FORMAT ", classes=%" G_GINT64_FORMAT, i, label[i], p->classes);
      return FALSE;
    }
  return TRUE;
}

static void
mix_rows (const gfloat *from, gsize width, const Plan *plan, gint64 n, gfloat *to)
{
  for (gint64 i = 0; i < n; i++) {
    const gfloat *a = from + (gsize) plan->perm1[i] * width, *b = from + (gsize) plan->perm2[i] * width;
    gfloat l = plan->lambda[i];
    for (gsize j = 0; j < width; j++)
      to[(gsize) i * width + j] = l == 1.0f ? a[j] : l * a[j] + (1.0f - l) * b[j];
  }
}

static void
mix_labels (const KdCall *call, const Plan *plan, gfloat *soft, gint64 *label)
{
  const KdMixupParams *p = call->params;
  gsize width = (gsize) p->classes;
  g_autofree gfloat *hot = NULL;

  if (!call->in[SOFT]) {
    hot = g_new0 (gfloat, (gsize) call->n_samples * width);
    for (gint64 i = 0; i < call->n_samples; i++)
      hot[(gsize) i * width + (gsize) ((const gint64 *) call->in[LABEL]->data)[i]] = 1.0f;
  }
  mix_rows (hot ? hot : call->in[SOFT]->data, width, plan, call->n_samples, soft);
  for (gint64 i = 0; i < call->n_samples; i++) {
    label[i] = 0;
    for (gsize j = 1; j < width; j++)
      if (soft[(gsize) i * width + j] > soft[(gsize) i * width + (gsize) label[i]])
        label[i] = (gint64) j;
  }
}

static void
write_ids (const KdCall *call, const Plan *plan, gint64 *id, gint64 *id1, gint64 *id2)
{
  const gint64 *old = call->in[ID] ? call->in[ID]->data : NULL;

  for (gint64 i = 0; i < call->n_samples; i++) {
    id1[i] = old ? old[plan->perm1[i]] : -1;
    id2[i] = old ? old[plan->perm2[i]] : -1;
    id[i] = plan->lambda[i] == 1.0f ? id1[i] : -1;
  }
}

static gboolean
kd_mixup_evaluate (const KdCall *call, KdOutputs *ret, GError **error)
{
  const KdTensor *in = call->in[INPUT];
  Plan plan = { ret->out[OUT_PERM1]->data, ret->out[OUT_PERM2]->data, ret->out[OUT_LAMBDA]->data };

  if (!check_fields (call, error) || !make_plan (call, &plan, error))
    return FALSE;
  g_clear_pointer (&ret->out[OUT_INPUT], kd_tensor_unref);
  ret->out[OUT_INPUT] = kd_tensor_new (KD_FLOAT32, in->rank, in->dims);
  mix_rows (in->data, kd_tensor_row_elements (in), &plan, call->n_samples, ret->out[OUT_INPUT]->data);
  mix_labels (call, &plan, ret->out[OUT_SOFT]->data, ret->out[OUT_LABEL]->data);
  write_ids (call, &plan, ret->out[OUT_ID]->data, ret->out[OUT_ID1]->data, ret->out[OUT_ID2]->data);
  return TRUE;
}

static const KdAugmentDesc kd_mixup = {
  .name = "kdmixup",
  .title = "Mixup",
  .description = "Mixes pairs of samples and their labels; partial mixup leaves most rows unmixed",
  .source = "arXiv:1710.09412; arXiv:2211.03946",
  .formula = "x'_n = l_n x_perm1(n) + (1 - l_n) x_perm2(n), label.soft likewise, l_n ~ Beta (beta, beta), 1 on unmixed rows",
  .fields = kd_mixup_fields,
  .params = kd_mixup_params,
  .params_size = sizeof (KdMixupParams),
  .check = kd_mixup_check,
  .outputs = kd_mixup_outputs,
  .evaluate = kd_mixup_evaluate,
};

KD_AUGMENT_PLUGIN (kd_mixup)
