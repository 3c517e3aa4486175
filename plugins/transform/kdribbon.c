/**
 * SECTION:element-kdribbon
 * @short_description: lays drawn tokens beside the gold ones, so that one forward pass sees what follows each of them
 *
 * The prompt stays as it is; response position r becomes the group [c_1 .. c_K, y_r], whose members all have the position of y_r. Token i may look at
 * token j when j <= i and j is i itself or no candidate: gold tokens see what they see in the plain sequence, a candidate sees the prompt, the gold
 * tokens before it and itself, and nobody sees a candidate. So the logits at gold-index are those of the plain sequence, and the logits at branch-index
 * [r, k] those of a pass over (prefix before r, c_k): one pass of length E = P + R (K + 1) instead of R K passes.
 *
 * ## Fields
 *  - input: int64 [T] or [N T], prompt and response; response.start: int64 scalar or [N], length P of the prompt; branch.tokens: int64 [R K] or [N R K],
 *    R = T - P of the sample with the shortest prompt
 * Writes ribbon.tokens, ribbon.position int64 [E], ribbon.attention uint8 [E E], ribbon.gold-index int64 [T], ribbon.branch-index int64 [R K]; each with
 * [N ..] where the input has it. Shorter samples are padded: token and position 0, attention to itself alone, branch-index -1.
 * ## Errors
 * Shapes that do not go together (KD_ERROR_SHAPE), response.start outside 0 .. T, a branch token below 0 or from `vocabulary` on (KD_ERROR_RANGE).
 * ## Source
 * arXiv:2602.09483 (Align-TI); the mask as in lchen1019/Align-TI. K 4 there.
 * ## Example
 * |[ kd launch 'kdh5src location=branches.h5 ! kdribbon branches=4 ! kdh5sink location=ribbon.h5' ]|
 */
#include <kd/kd.h>

#include <string.h>

typedef struct {
  gint64 branches, vocabulary;
} KdRibbonParams;

static const KdParam kd_ribbon_params[] = {
  KD_PARAM_INT (KdRibbonParams, branches, 0, 1 << 16, 4, "K: candidates at each response position; 0: the plain sequence"),
  KD_PARAM_INT (KdRibbonParams, vocabulary, 0, G_MAXINT32, 0, "Ids must be below this; 0: not checked"),
  KD_PARAM_END
};

enum { INPUT,
  START,
  BRANCH };
static const KdFieldSpec kd_ribbon_fields[] = {
  [INPUT] = { "input", KD_INT64, "...", KD_FIELD_TABLE },
  [START] = { "response.start", KD_INT64, "...", KD_FIELD_TABLE },
  [BRANCH] = { "branch.tokens", KD_INT64, "...", KD_FIELD_TABLE },
  KD_FIELD_END
};
enum { TOKENS,
  POSITION,
  ATTENTION,
  GOLD_INDEX,
  BRANCH_INDEX };
static const KdFieldSpec kd_ribbon_outputs[] = {
  [TOKENS] = { "ribbon.tokens", KD_INT64, "..." },
  [POSITION] = { "ribbon.position", KD_INT64, "..." },
  [ATTENTION] = { "ribbon.attention", KD_UINT8, "..." },
  [GOLD_INDEX] = { "ribbon.gold-index", KD_INT64, "..." },
  [BRANCH_INDEX] = { "ribbon.branch-index", KD_INT64, "..." },
  KD_FIELD_END
};

/* @n samples of @length tokens; @r responses and @k candidates in branch.tokens; @e tokens in the longest ribbon. */
typedef struct {
  gint64 n, length, r, k, e;
  gboolean batched;
} Sizes;

static gboolean
refuse_shapes (const KdCall *call, GError **error)
{
  g_autofree gchar *input = kd_tensor_shape_string (call->in[INPUT]), *start = kd_tensor_shape_string (call->in[START]), *branch = kd_tensor_shape_string (call->in[BRANCH]);

  g_set_error (error, KD_ERROR, KD_ERROR_SHAPE, "Shapes do not go together: element=kdribbon, input=%s, response.start=%s, branch.tokens=%s, branches=%" G_GINT64_FORMAT "; wanted=[T], scalar, [R,K] or [N,T], [N], [N,R,K]", input, start, branch,
      ((const KdRibbonParams *) call->params)->branches);
  return FALSE;
}

static gboolean
measure (const KdCall *call, Sizes *s, GError **error)
{
  const KdTensor *input = call->in[INPUT], *start = call->in[START], *branch = call->in[BRANCH];
  gint64 longest = 0;

  s->batched = input->rank == 2;
  if (input->rank < 1 || input->rank > 2 || start->rank != input->rank - 1 || branch->rank != input->rank + 1 ||
      (s->batched && (start->dims[0] != input->dims[0] || branch->dims[0] != input->dims[0])))
    return refuse_shapes (call, error);
  s->n = s->batched ? input->dims[0] : 1;
  s->length = input->dims[input->rank - 1];
  s->r = branch->dims[branch->rank - 2];
  s->k = branch->dims[branch->rank - 1];
  if (s->k != ((const KdRibbonParams *) call->params)->branches)
    return refuse_shapes (call, error);
  for (gint64 i = 0; i < s->n; i++) {
    gint64 p = ((const gint64 *) start->data)[i];
    if (p < 0 || p > s->length) {
      g_set_error (error, KD_ERROR, KD_ERROR_RANGE, "No such place: element=kdribbon, field=response.start, row=%" G_GINT64_FORMAT ", value=%" G_GINT64_FORMAT ", length=%" G_GINT64_FORMAT, i, p,
          s->length);
      return FALSE;
    }
    longest = MAX (longest, s->length - p);
    s->e = MAX (s->e, s->length + (s->length - p) * s->k);
  }
  return longest == s->r || refuse_shapes (call, error);
}

static KdTensor *
make (const Sizes *s, KdDtype dtype, guint rank, gint64 a, gint64 b)
{
  gint64 dims[3] = { s->n, a, b };

  return kd_tensor_new_zero (dtype, rank + s->batched, s->batched ? dims : dims + 1);
}

/* Sample @i; @candidate [e] says which tokens are candidates, 2 in the padding. */
static gboolean
lay_out (const KdCall *call, const Sizes *s, gint64 i, KdOutputs *ret, guint8 *candidate, GError **error)
{
  const KdRibbonParams *params = call->params;
  const gint64 *input = (const gint64 *) call->in[INPUT]->data + i * s->length, *branch = (const gint64 *) call->in[BRANCH]->data + i * s->r * s->k;
  gint64 p = ((const gint64 *) call->in[START]->data)[i], at = 0;
  gint64 *tokens = (gint64 *) ret->out[TOKENS]->data + i * s->e, *position = (gint64 *) ret->out[POSITION]->data + i * s->e;
  gint64 *gold = (gint64 *) ret->out[GOLD_INDEX]->data + i * s->length, *where = (gint64 *) ret->out[BRANCH_INDEX]->data + i * s->r * s->k;

  memset (candidate, 2, (gsize) s->e);
  for (gint64 j = 0; j < s->r * s->k; j++)
    where[j] = -1;
  for (gint64 t = 0; t < s->length; t++) {
    for (gint64 k = 0; t >= p && k < s->k; k++) {
      gint64 token = branch[(t - p) * s->k + k];
      if (token < 0 || (params->vocabulary > 0 && token >= params->vocabulary)) {
        g_set_error (error, KD_ERROR, KD_ERROR_RANGE, "No such token: element=kdribbon, field=branch.tokens, row=%" G_GINT64_FORMAT ", position=%" G_GINT64_FORMAT ", branch=%" G_GINT64_FORMAT ", value=%" G_GINT64_FORMAT, i, t - p, k, token);
        return FALSE;
      }
      where[(t - p) * s->k + k] = at;
      candidate[at] = 1;
      position[at] = t;
      tokens[at++] = token;
    }
    gold[t] = at;
    candidate[at] = 0;
    position[at] = t;
    tokens[at++] = input[t];
  }
  return TRUE;
}

static gboolean
kd_ribbon_evaluate (const KdCall *call, KdOutputs *ret, GError **error)
{
  Sizes s = { 0 };
  g_autofree guint8 *candidate = NULL;

  if (!measure (call, &s, error))
    return FALSE;
  candidate = g_malloc ((gsize) s.e + 1);
  ret->out[TOKENS] = make (&s, KD_INT64, 1, s.e, 0);
  ret->out[POSITION] = make (&s, KD_INT64, 1, s.e, 0);
  ret->out[ATTENTION] = make (&s, KD_UINT8, 2, s.e, s.e);
  ret->out[GOLD_INDEX] = make (&s, KD_INT64, 1, s.length, 0);
  ret->out[BRANCH_INDEX] = make (&s, KD_INT64, 2, s.r, s.k);
  for (gint64 i = 0; i < s.n; i++) {
    guint8 *attention = (guint8 *) ret->out[ATTENTION]->data + i * s.e * s.e;
    if (!lay_out (call, &s, i, ret, candidate, error))
      return FALSE;
    for (gint64 a = 0; a < s.e; a++)
      for (gint64 b = 0; b <= a; b++)
        attention[a * s.e + b] = a == b || (candidate[b] == 0 && candidate[a] != 2);
  }
  return TRUE;
}

static const KdTransformDesc kd_ribbon = {
  .name = "kdribbon",
  .title = "Ribbon of candidates",
  .description = "Lays drawn tokens beside the gold ones for one forward pass, with its positions and attention mask",
  .source = "arXiv:2602.09483 (Align-TI)",
  .formula = "attention [i, j] = 1 iff j <= i and (j = i or j is no candidate)",
  .fields = kd_ribbon_fields,
  .params = kd_ribbon_params,
  .params_size = sizeof (KdRibbonParams),
  .outputs = kd_ribbon_outputs,
  .evaluate = kd_ribbon_evaluate,
};

KD_TRANSFORM_PLUGIN (kd_ribbon)
