/**
 * SECTION:element-kdlengate
 * @short_description: longer responses only while the student stays uncertain enough
 *
 * Training batches (split 0): of every sample the first L_m positions that `mask` counts stay, the others become 0. L_0 < L_1 < ... are the lengths.
 * Probe batches (split 1): H, the entropies of softmax (student.logits) at counted positions, are added up; the mask stays.
 * End of a stage (split 2): H_m = mean of H. If H_m >= h-min and there is a longer length, m goes up by one; if H_m < h-min the length is frozen for good.
 * Without a probed position nothing is decided. Either way the probe starts anew.
 * With stage-steps above 0 a stage ends by itself: after that many training batches, once `probe-batches` probe batches have followed them.
 *
 * ## Fields
 *  - mask: any number [N ...], rewritten in its own type
 *  - split: int64 scalar, optional: without it validation batches that have student.logits are probes, all others train
 *  - student.logits: float32 [N ... V], needed on probe batches; reading them does not count as a use
 * Adds curriculum.length, curriculum.stage, curriculum.frozen (0, 1), int64 scalars, and curriculum.entropy (H_m on the batch that ends a stage, else
 * -1; -1 without a probed position).
 * ## Units
 * nats; lengths in counted positions.
 * ## Messages and events
 * "kd-length" with length and stage (int64), frozen and stop (boolean), entropy (double): upstream as a custom event (a rollout takes its length from
 * it) and as an element message, at the first batch, when the length changes, and with on-low=stop, stop TRUE, when it freezes.
 * "kd-stage-end": an application sends this custom event, in either direction, to end the stage before the next batch, as split 2 does.
 * ## State
 * Stage, frozen, the running probe and the counts of batches go into checkpoints.
 * ## Errors
 * lengths that are not increasing numbers from 1, h-min not set (KD_ERROR_RANGE); another split (KD_ERROR_RANGE); a probe without student.logits
 * (KD_ERROR_FIELD), with logits that are no numbers (KD_ERROR_VALUE); lengths changed while running (KD_ERROR_MISMATCH).
 * ## Source
 * arXiv:2605.16826, the length curriculum. Cutting at counted positions, and that a probe's mean runs over tokens, are ours.
 * ## Example
 * |[ kd launch 'kdh5src location=batch.h5 ! kdlengate lengths=8,16,32 h-min=0.7 ! kdh5sink location=out.h5' ]|
 */
#include <kd/kd.h>
#include <math.h>
#include <string.h>

#define MAX_STAGES 64

enum { LOW_HOLD,
  LOW_STOP };
enum { SPLIT_TRAIN,
  SPLIT_PROBE,
  SPLIT_END };

typedef struct {
  gchar *lengths;
  gdouble h_min;
  gint64 stage_steps, probe_batches;
  gint on_low;
} KdLengateParams;

static const KdEnumValue lows[] = {
  { LOW_HOLD, "hold", "Keep the length" },
  { LOW_STOP, "stop", "Keep the length and say in a message that an earlier checkpoint may be the better one" },
  { 0, NULL, NULL }
};

static const KdParam kd_lengate_params[] = {
  KD_PARAM_STRING (KdLengateParams, lengths, "128,512,1024,2048,4096", "Lengths of the stages, increasing"),
  KD_PARAM_DOUBLE (KdLengateParams, h_min, -1.0, 1e6, -1.0, "Lowest mean entropy that lets the length grow; has to be set, from 0"),
  KD_PARAM_INT (KdLengateParams, stage_steps, 0, G_MAXINT64, 0, "Training batches of a stage, 0: batches with split 2 or the event kd-stage-end end it"),
  KD_PARAM_INT (KdLengateParams, probe_batches, 1, G_MAXINT64, 4, "Probe batches at the end of a stage, with stage-steps"),
  KD_PARAM_ENUM (KdLengateParams, on_low, lows, LOW_HOLD, "What to do when the entropy is too low"),
  KD_PARAM_END
};

enum { MASK,
  SPLIT,
  STUDENT };
static const KdFieldSpec kd_lengate_fields[] = {
  [MASK] = { "mask", KD_ANY_NUMBER, "*" },
  [SPLIT] = { "split", KD_INT64, "", KD_FIELD_OPTIONAL },
  [STUDENT] = { "student.logits", KD_FLOAT32, "* V", KD_FIELD_OPTIONAL | KD_FIELD_PEEK },
  KD_FIELD_END
};

enum { OUT_MASK,
  LENGTH,
  STAGE,
  FROZEN,
  ENTROPY };
static const KdFieldSpec kd_lengate_outputs[] = {
  [OUT_MASK] = { "mask", 0, "*" },
  [LENGTH] = { "curriculum.length", KD_INT64, "" },
  [STAGE] = { "curriculum.stage", KD_INT64, "" },
  [FROZEN] = { "curriculum.frozen", KD_INT64, "" },
  [ENTROPY] = { "curriculum.entropy", KD_FLOAT64, "" },
  KD_FIELD_END
};

typedef struct {
  gint64 length[MAX_STAGES];
  gint64 n_stages;
  gint64 stage, frozen, n_tokens, n_steps, n_probes;
  gdouble sum;
  gdouble entropy; /* of the last end of a stage */
  gint64 announced;
  gboolean stop;
} KdLengateState;

static const KdStateField kd_lengate_state[] = {
  KD_STATE_FIELD (KdLengateState, stage, KD_INT64, 1),
  KD_STATE_FIELD (KdLengateState, frozen, KD_INT64, 1),
  KD_STATE_FIELD (KdLengateState, n_tokens, KD_INT64, 1),
  KD_STATE_FIELD (KdLengateState, n_steps, KD_INT64, 1),
  KD_STATE_FIELD (KdLengateState, n_probes, KD_INT64, 1),
  KD_STATE_FIELD (KdLengateState, sum, KD_FLOAT64, 1),
  { NULL }
};

/* How many lengths @text has; 0 when it is no list of increasing numbers from 1. */
static gint64
parse_lengths (const gchar *text, gint64 *ret_length)
{
  gint64 n = 0, last = 0;

  while (text && *text) {
    gchar *end;
    gint64 length = g_ascii_strtoll (text, &end, 10);
    if (end == text || length <= last || n == MAX_STAGES || (*end && (*end != ',' || !end[1])))
      return 0;
    ret_length[n++] = last = length;
    text = *end ? end + 1 : end;
  }
  return n;
}

static gboolean
kd_lengate_check (gconstpointer params, GError **error)
{
  const KdLengateParams *p = params;
  gint64 length[MAX_STAGES];

  if (!parse_lengths (p->lengths, length)) {
    g_set_error (error, KD_ERROR, KD_ERROR_RANGE, "Lengths not allowed: element=kdlengate, lengths=\"%s\", wanted=1 to %d increasing numbers from 1, as in 8,16,32",
        p->lengths ? p->lengths : "", MAX_STAGES);
    return FALSE;
  }
  if (!(p->h_min >= 0)) {
    g_set_error (error, KD_ERROR, KD_ERROR_RANGE, "Property not set: element=kdlengate, property=h-min, value=%g, wanted=0 or more; set it to the lowest entropy that is healthy", p->h_min);
    return FALSE;
  }
  return TRUE;
}

static void
kd_lengate_state_init (gconstpointer params, gpointer state)
{
  KdLengateState *s = state;

  s->n_stages = parse_lengths (((const KdLengateParams *) params)->lengths, s->length);
  s->entropy = -1;
}

static gboolean
find_split (const KdCall *call, gint64 *ret_split, GError **error)
{
  gboolean validation = (call->flags & KD_BATCH_VALIDATION) != 0;

  *ret_split = call->in[SPLIT] ? *(const gint64 *) call->in[SPLIT]->data : validation ? SPLIT_PROBE
                                                                                      : SPLIT_TRAIN;
  if (*ret_split < SPLIT_TRAIN || *ret_split > SPLIT_END) {
    g_set_error (error, KD_ERROR, KD_ERROR_RANGE, "Split out of range: element=kdlengate, field=split, value=%" G_GINT64_FORMAT ", wanted=0 (train), 1 (probe) or 2 (end of a stage)", *ret_split);
    return FALSE;
  }
  if (*ret_split == SPLIT_PROBE && call->in[SPLIT] && !call->in[STUDENT]) {
    g_set_error (error, KD_ERROR, KD_ERROR_FIELD, "Field missing: element=kdlengate, field=student.logits, split=1; put the student before it or leave probes out");
    return FALSE;
  }
  return TRUE;
}

/* The first @length counted positions of each sample stay. */
static void
cut_mask (const KdCall *call, gint64 length, KdTensor *mask)
{
  gint64 n = (gint64) kd_tensor_n_elements (mask), per_sample = call->n_samples ? n / call->n_samples : 1, kept = 0;
  gsize size = kd_dtype_size (mask->dtype);

  for (gint64 i = 0; i < n; i++) {
    kept = i % per_sample == 0 ? 0 : kept;
    if (kd_tensor_get_double (mask, (gsize) i) != 0 && ++kept > length)
      memset ((gchar *) mask->data + (gsize) i * size, 0, size);
  }
}

static gboolean
add_probe (const KdCall *call, KdLengateState *state, GError **error)
{
  const KdTensor *mask = call->in[MASK];
  gint64 n = (gint64) kd_tensor_n_elements (mask);
  g_autofree gdouble *counted = g_new (gdouble, n), *entropy = g_new0 (gdouble, n);

  for (gint64 i = 0; i < n; i++)
    counted[i] = kd_tensor_get_double (mask, (gsize) i) != 0;
  kd_softmax_rows (&(KdSoftmax) { .n = n, .size = kd_call_size (call, 'V'), .logits = call->in[STUDENT]->data, .type = KD_REAL_F32, .coef = counted, .temperature = 1.0, .entropy = entropy });
  for (gint64 i = 0; i < n; i++) {
    if (isnan (entropy[i])) {
      g_set_error (error, KD_ERROR, KD_ERROR_VALUE, "Logits not finite: element=kdlengate, field=student.logits, row=%" G_GINT64_FORMAT, i);
      return FALSE;
    }
    state->sum += entropy[i];
    state->n_tokens += counted[i] != 0;
  }
  state->n_probes++;
  return TRUE;
}

static void
end_stage (const KdLengateParams *p, KdLengateState *state)
{
  state->entropy = state->n_tokens ? state->sum / (gdouble) state->n_tokens : -1;
  if (state->n_tokens && !state->frozen && state->entropy < p->h_min) {
    state->frozen = 1;
    state->stop = p->on_low == LOW_STOP;
  } else if (state->n_tokens && !state->frozen && state->stage + 1 < state->n_stages) {
    state->stage++;
  }
  state->sum = 0;
  state->n_tokens = state->n_steps = state->n_probes = 0;
}

/* Lengths are read once: a rollout under way would not know of others. */
static gboolean
check_state (const KdLengateParams *p, const KdLengateState *state, GError **error)
{
  gint64 length[MAX_STAGES];

  if (parse_lengths (p->lengths, length) == state->n_stages && memcmp (length, state->length, (gsize) state->n_stages * sizeof *length) == 0 &&
      state->stage < state->n_stages)
    return TRUE;
  g_set_error (error, KD_ERROR, KD_ERROR_MISMATCH, "Lengths differ: element=kdlengate, lengths=\"%s\", stage=%" G_GINT64_FORMAT "; they cannot change while running or from a checkpoint with more stages: stop first", p->lengths, state->stage);
  return FALSE;
}

static gboolean
kd_lengate_evaluate (const KdCall *call, KdOutputs *ret, GError **error)
{
  const KdLengateParams *p = call->params;
  KdLengateState *state = call->state, next = *state;
  KdTensor *mask = ret->out[OUT_MASK];
  gboolean full = p->stage_steps > 0 && state->n_steps >= p->stage_steps && !call->signalled, ends;
  gint64 split;

  if (!check_state (p, state, error) || !find_split (call, &split, error))
    return FALSE;
  if (call->signalled)
    end_stage (p, &next);
  /* with stage-steps, what was probed within the stage is not its end */
  if (split == SPLIT_PROBE && call->in[STUDENT] && (p->stage_steps == 0 || full) && !add_probe (call, &next, error))
    return FALSE;
  ends = split == SPLIT_END || (full && next.n_probes >= p->probe_batches);
  if (ends)
    end_stage (p, &next);
  memcpy (mask->data, call->in[MASK]->data, mask->n_bytes);
  if (split == SPLIT_TRAIN) {
    cut_mask (call, next.length[next.stage], mask);
    next.n_steps++;
  }
  *(gint64 *) ret->out[LENGTH]->data = next.length[next.stage];
  *(gint64 *) ret->out[STAGE]->data = next.stage;
  *(gint64 *) ret->out[FROZEN]->data = next.frozen;
  *(gdouble *) ret->out[ENTROPY]->data = ends || call->signalled ? next.entropy : -1;
  *state = next;
  return TRUE;
}

static GstStructure *
kd_lengate_announce (const KdCall *call)
{
  KdLengateState *state = call->state;
  gint64 length = state->length[state->stage];
  gboolean stop = state->stop;

  if (length == state->announced && !stop)
    return NULL;
  state->announced = length;
  state->stop = FALSE;
  return gst_structure_new ("kd-length", "length", G_TYPE_INT64, length, "stage", G_TYPE_INT64, state->stage, "frozen", G_TYPE_BOOLEAN, state->frozen != 0,
      "stop", G_TYPE_BOOLEAN, stop, "entropy", G_TYPE_DOUBLE, state->entropy, NULL);
}

static const KdTransformDesc kd_lengate = {
  .name = "kdlengate",
  .title = "Length curriculum",
  .description = "Lengthens responses stage by stage, only while the student's held-out entropy stays above a floor",
  .source = "arXiv:2605.16826",
  .formula = "mask keeps the first L_m counted positions of a sample; at the end of a stage H_m = mean entropy of the probes: m + 1 if H_m >= h-min, else frozen",
  .fields = kd_lengate_fields,
  .params = kd_lengate_params,
  .params_size = sizeof (KdLengateParams),
  .check = kd_lengate_check,
  .state_size = sizeof (KdLengateState),
  .state_init = kd_lengate_state_init,
  .state_fields = kd_lengate_state,
  .signal = "kd-stage-end",
  .outputs = kd_lengate_outputs,
  .evaluate = kd_lengate_evaluate,
  .announce = kd_lengate_announce,
};

KD_TRANSFORM_PLUGIN (kd_lengate)
