/**
 * SECTION:element-kdprivacyscore
 * @short_description: how likely each target token is private, by a rule
 *
 * rule=digits: 1 where the token's text has a digit (0-9), else 0
 * rule=regex: 1 where the token overlaps a match of `pattern` in the text that the sample's tokens make together, else 0
 * rule=rare: clamp ((rare-log-count - log count) / rare-width, 0, 1), count of the token in a public corpus; 1 at count 0
 * rule=table: 1 for the ids of `ids`, else 0
 * rule=field: what a recogniser of entities has found, `field`
 *
 * A label below 0 stands for no token: it scores 1 with all rules but field, and parts the text.
 *
 * ## Fields
 *  - label: int64 [*], the target tokens; needed but with rule=field
 *  - the field that `field` names: float32 [*] in [0, 1], with rule=field
 * Writes token.privacy float32 [*].
 * `vocabulary` is a batch file with a row for each id: token.text (utf8: the bytes that it stands for) for digits and regex, token.count (any number) for rare.
 * ## Units
 * probabilities; counts in natural logarithms.
 * ## Errors
 * No vocabulary, no label, no field (KD_ERROR_FIELD); a label beyond the vocabulary, a pattern or ids that are none (KD_ERROR_RANGE); a count below 0, a score
 * outside [0, 1] or NaN, a pattern that gives up (KD_ERROR_VALUE).
 * ## Source
 * arXiv:2212.08349 asks for a likelihood of being private; the rules and their defaults are this project's. Patterns are GLib's, matched byte by byte.
 * ## Example
 * |[ kd launch 'kdh5src location=tokens.h5 ! kdprivacyscore rule=regex pattern="[0-9]{4,}" vocabulary=tokens-of-ids.h5 ! kdh5sink location=scored.h5' ]|
 */
#include <kd/kd.h>

#include <math.h>
#include <string.h>

enum { RULE_DIGITS,
  RULE_REGEX,
  RULE_RARE,
  RULE_TABLE,
  RULE_FIELD };

typedef struct {
  gint rule;
  gchar *pattern, *vocabulary, *ids, *field;
  gdouble rare_log_count, rare_width;
} KdPrivacyScoreParams;

static const KdEnumValue rules[] = { { RULE_DIGITS, "digits", "Tokens with a digit" }, { RULE_REGEX, "regex", "Tokens in a match of pattern" }, { RULE_RARE, "rare", "Tokens that a public corpus seldom has" },
  { RULE_TABLE, "table", "Ids of a list" }, { RULE_FIELD, "field", "A field has the scores" }, { 0, NULL, NULL } };

static const KdParam kd_privacy_score_params[] = {
  KD_PARAM_ENUM (KdPrivacyScoreParams, rule, rules, RULE_DIGITS, "What makes a token private"),
  KD_PARAM_STRING (KdPrivacyScoreParams, pattern, "[0-9]+", "rule=regex: what is private"),
  KD_PARAM_STRING (KdPrivacyScoreParams, vocabulary, "", "Batch file with token.text (digits, regex) or token.count (rare) of each id"),
  KD_PARAM_STRING (KdPrivacyScoreParams, ids, "", "rule=table: the private ids, with commas"),
  KD_PARAM_STRING (KdPrivacyScoreParams, field, "entity.score", "rule=field: the field with the scores"),
  KD_PARAM_DOUBLE (KdPrivacyScoreParams, rare_log_count, -100.0, 100.0, 4.6, "rule=rare: log count from which a token is public (r0)"),
  KD_PARAM_DOUBLE (KdPrivacyScoreParams, rare_width, 1e-9, 100.0, 4.6, "rule=rare: how far below it a token is wholly private (r1)"),
  KD_PARAM_END
};

enum { LABEL,
  SCORE };
static const KdFieldSpec kd_privacy_score_fields[] = {
  [LABEL] = { "label", KD_INT64, "*", KD_FIELD_OPTIONAL | KD_FIELD_ONE_OF },
  [SCORE] = { "{field}", KD_FLOAT32, "*", KD_FIELD_OPTIONAL | KD_FIELD_ONE_OF },
  KD_FIELD_END
};
static const KdFieldSpec kd_privacy_score_outputs[] = {
  { "token.privacy", KD_FLOAT32, "*" },
  KD_FIELD_END
};

typedef struct {
  KdTensor *vocabulary; /* [V] token.text or token.count; NULL: none */
  GRegex *regex;
  GHashTable *ids;
} KdPrivacyScoreState;

static GRegex *
compile (const KdPrivacyScoreParams *p, GError **error)
{
  const gchar *pattern = p->rule == RULE_DIGITS ? "[0-9]" : p->pattern ? p->pattern
                                                                       : "";
  g_autoptr (GError) reason = NULL;
  GRegex *regex = g_regex_new (pattern, G_REGEX_RAW | G_REGEX_OPTIMIZE, 0, &reason);

  if (!regex)
    g_set_error (error, KD_ERROR, KD_ERROR_RANGE, "Pattern not understood: element=kdprivacyscore, property=pattern, value=\"%s\", reason=%s", pattern, reason->message);
  return regex;
}

static GHashTable *
read_ids (const KdPrivacyScoreParams *p, GError **error)
{
  g_auto (GStrv) words = g_strsplit (p->ids ? p->ids : "", ",", -1);
  g_autoptr (GHashTable) ids = g_hash_table_new_full (g_int64_hash, g_int64_equal, g_free, NULL);

  for (guint i = 0; i == 0 || words[i]; i++) {
    gint64 id;
    if (!words[0] || !g_ascii_string_to_signed (words[i], 10, 0, G_MAXINT64, &id, NULL)) {
      g_set_error (error, KD_ERROR, KD_ERROR_RANGE, "Ids not understood: element=kdprivacyscore, property=ids, value=\"%s\", item=\"%s\", wanted=whole numbers from 0 with commas", p->ids ? p->ids : "", words[0] ? words[i] : "");
      return NULL;
    }
    g_hash_table_add (ids, g_memdup2 (&id, sizeof id));
  }
  return g_steal_pointer (&ids);
}

static gboolean
kd_privacy_score_check (gconstpointer params, GError **error)
{
  const KdPrivacyScoreParams *p = params;
  g_autoptr (GRegex) regex = p->rule == RULE_REGEX ? compile (p, error) : NULL;
  g_autoptr (GHashTable) ids = p->rule == RULE_TABLE ? read_ids (p, error) : NULL;

  return (p->rule != RULE_REGEX || regex) && (p->rule != RULE_TABLE || ids);
}

static gboolean
read_vocabulary (const KdPrivacyScoreParams *p, KdPrivacyScoreState *state, GError **error)
{
  const gchar *name = p->rule == RULE_RARE ? "token.count" : "token.text";
  g_autoptr (KdH5Reader) reader = kd_h5_reader_open (p->vocabulary, NULL, error);
  const KdLayoutField *field = reader ? kd_layout_find (kd_h5_reader_layout (reader), name) : NULL;

  if (!reader)
    return FALSE;
  if (!field || field->rank != 1 || (field->dtype == KD_UTF8) == (p->rule == RULE_RARE)) {
    g_autofree gchar *names = kd_layout_names (kd_h5_reader_layout (reader));
    g_set_error (error, KD_ERROR, KD_ERROR_FIELD, "Field missing: element=kdprivacyscore, vocabulary=\"%s\", field=%s, wanted=%s of each id, layout=\"%s\"", p->vocabulary, name, p->rule == RULE_RARE ? "a number" : "the text (utf8)", names);
    return FALSE;
  }
  state->vocabulary = kd_h5_reader_read (reader, name, 0, kd_h5_reader_n_rows (reader), error);
  for (gsize i = 0; state->vocabulary && p->rule == RULE_RARE && i < kd_tensor_n_elements (state->vocabulary); i++)
    if (!(kd_tensor_get_double (state->vocabulary, i) >= 0)) {
      g_set_error (error, KD_ERROR, KD_ERROR_VALUE, "Not a count: element=kdprivacyscore, vocabulary=\"%s\", field=token.count, row=%" G_GSIZE_FORMAT ", value=%g", p->vocabulary, i, kd_tensor_get_double (state->vocabulary, i));
      return FALSE;
    }
  return state->vocabulary != NULL;
}

static gboolean
kd_privacy_score_open (gconstpointer params, gpointer state_block, GError **error)
{
  const KdPrivacyScoreParams *p = params;
  KdPrivacyScoreState *state = state_block;

  if (p->rule == RULE_FIELD)
    return TRUE;
  if (p->rule == RULE_TABLE)
    return (state->ids = read_ids (p, error)) != NULL;
  if (p->rule != RULE_RARE && !(state->regex = compile (p, error)))
    return FALSE;
  return !p->vocabulary || !*p->vocabulary || read_vocabulary (p, state, error);
}

static void
kd_privacy_score_clear (gpointer state_block)
{
  KdPrivacyScoreState *state = state_block;

  g_clear_pointer (&state->vocabulary, kd_tensor_unref);
  g_clear_pointer (&state->regex, g_regex_unref);
  g_clear_pointer (&state->ids, g_hash_table_unref);
}

/* Tokens of one sample whose spans in their common text overlap a match. */
static gboolean
mark_matches (const KdPrivacyScoreState *state, const gint64 *label, gint64 n, gfloat *privacy, GError **error)
{
  const KdTensor *texts = state->vocabulary;
  g_autoptr (GString) text = g_string_new (NULL);
  g_autofree gssize *end = g_new (gssize, MAX (n, 1));
  g_autoptr (GMatchInfo) match = NULL;
  g_autoptr (GError) reason = NULL;
  gint64 at = 0;
  gint from, to;

  for (gint64 i = 0; i < n; i++) {
    if (label[i] < 0)
      g_string_append_c (text, '\0');
    else
      g_string_append_len (text, (const gchar *) texts->data + texts->offsets[label[i]], (gssize) (texts->offsets[label[i] + 1] - texts->offsets[label[i]]));
    end[i] = (gssize) text->len;
    privacy[i] = label[i] < 0;
  }
  for (gboolean found = g_regex_match_full (state->regex, text->str, (gssize) text->len, 0, 0, &match, &reason); found; found = g_match_info_next (match, &reason)) {
    g_match_info_fetch_pos (match, 0, &from, &to);
    while (at < n && end[at] <= from)
      at++;
    for (gint64 i = at; i < n && (i ? end[i - 1] : 0) < to; i++)
      privacy[i] = 1;
  }
  if (!reason)
    return TRUE;
  g_set_error (error, KD_ERROR, KD_ERROR_VALUE, "Pattern gives up: element=kdprivacyscore, pattern=\"%s\", bytes=%" G_GSIZE_FORMAT ", reason=%s; make the pattern simpler", g_regex_get_pattern (state->regex), text->len, reason->message);
  return FALSE;
}

static gboolean
check_labels (const KdCall *call, gint64 n, GError **error)
{
  const KdPrivacyScoreParams *p = call->params;
  const KdPrivacyScoreState *state = call->state;
  const gint64 *label = call->in[LABEL] ? call->in[LABEL]->data : NULL;

  if (!label || (p->rule != RULE_TABLE && !state->vocabulary)) {
    g_set_error (error, KD_ERROR, KD_ERROR_FIELD, "%s; the rule looks at the target tokens", label ? "Property not set: element=kdprivacyscore, property=vocabulary" : "Field missing: element=kdprivacyscore, field=label");
    return FALSE;
  }
  for (gint64 i = 0; state->vocabulary && i < n; i++)
    if (label[i] >= state->vocabulary->dims[0]) {
      g_set_error (error, KD_ERROR, KD_ERROR_RANGE, "Label beyond the vocabulary: element=kdprivacyscore, field=label, row=%" G_GINT64_FORMAT ", label=%" G_GINT64_FORMAT ", vocabulary=%" G_GINT64_FORMAT, i, label[i], state->vocabulary->dims[0]);
      return FALSE;
    }
  return TRUE;
}

static gboolean
copy_field (const KdCall *call, gint64 n, gfloat *privacy, GError **error)
{
  const KdPrivacyScoreParams *p = call->params;
  const gfloat *score = call->in[SCORE] ? call->in[SCORE]->data : NULL;

  if (!score)
    g_set_error (error, KD_ERROR, KD_ERROR_FIELD, "Field missing: element=kdprivacyscore, field=%s; set field to the one that has the scores", p->field ? p->field : "");
  for (gint64 i = 0; score && i < n; i++) {
    if (!(score[i] >= 0 && score[i] <= 1)) {
      g_set_error (error, KD_ERROR, KD_ERROR_VALUE, "Not a score: element=kdprivacyscore, field=%s, row=%" G_GINT64_FORMAT ", value=%g, wanted=0 to 1", p->field, i, score[i]);
      return FALSE;
    }
    privacy[i] = score[i];
  }
  return score != NULL;
}

static gboolean
kd_privacy_score_evaluate (const KdCall *call, KdOutputs *ret, GError **error)
{
  const KdPrivacyScoreParams *p = call->params;
  const KdPrivacyScoreState *state = call->state;
  const KdTensor *first = call->in[LABEL] ? call->in[LABEL] : call->in[SCORE];
  gint64 n = first ? (gint64) kd_tensor_n_elements (first) : 0, per_sample = call->n_samples ? n / call->n_samples : 0;
  const gint64 *label = call->in[LABEL] ? call->in[LABEL]->data : NULL;
  gfloat *privacy = first && ret->out[0] ? ret->out[0]->data : NULL;

  if (p->rule == RULE_FIELD)
    return copy_field (call, n, privacy, error);
  if (!check_labels (call, n, error))
    return FALSE;
  for (gint64 i = 0; p->rule == RULE_TABLE && i < n; i++)
    privacy[i] = label[i] < 0 || g_hash_table_contains (state->ids, &label[i]);
  for (gint64 i = 0; p->rule == RULE_RARE && i < n; i++)
    privacy[i] = label[i] < 0 ? 1 : (gfloat) CLAMP ((p->rare_log_count - log (kd_tensor_get_double (state->vocabulary, (gsize) label[i]))) / p->rare_width, 0, 1);
  for (gint64 s = 0; state->regex && s < call->n_samples; s++)
    if (!mark_matches (state, label + s * per_sample, per_sample, privacy + s * per_sample, error))
      return FALSE;
  return TRUE;
}

static const KdTransformDesc kd_privacy_score = {
  .name = "kdprivacyscore",
  .title = "Privacy of target tokens",
  .description = "Scores each target token by how likely it is private: digits, a pattern, rarity, a list of ids, or a field",
  .source = "arXiv:2212.08349; the rules are this project's",
  .formula = "token.privacy = 1 for private tokens, 0 for others; rare: clamp ((rare-log-count - log count) / rare-width, 0, 1)",
  .fields = kd_privacy_score_fields,
  .outputs = kd_privacy_score_outputs,
  .params = kd_privacy_score_params,
  .params_size = sizeof (KdPrivacyScoreParams),
  .check = kd_privacy_score_check,
  .state_size = sizeof (KdPrivacyScoreState),
  .state_open = kd_privacy_score_open,
  .state_clear = kd_privacy_score_clear,
  .evaluate = kd_privacy_score_evaluate,
};

KD_TRANSFORM_PLUGIN (kd_privacy_score)
