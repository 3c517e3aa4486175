/* kd cache verify --teacher: top-k and sampled logits against the whole ones. */
#include "kd-cache-audit.h"

#include <math.h>
#include <string.h>

/* So improbable is wrong: log10. */
#define WRONG -9.0

/* A cut's fields and the logits; rows of all samples one behind the other. @row [width]: room for one of them as log-probabilities. */
typedef struct {
  KdTensor *ids, *values, *logits;
  gsize k, width, n_rows, per_sample;
  gdouble *row;
} Cut;

static void
cut_clear (Cut *cut)
{
  g_clear_pointer (&cut->ids, kd_tensor_unref);
  g_clear_pointer (&cut->values, kd_tensor_unref);
  g_clear_pointer (&cut->logits, kd_tensor_unref);
  g_clear_pointer (&cut->row, g_free);
}
G_DEFINE_AUTO_CLEANUP_CLEAR_FUNC (Cut, cut_clear)

static const gint64 *
ids_of (const Cut *cut, gsize row)
{
  return (const gint64 *) cut->ids->data + row * cut->k;
}

static gint64
sample_of (const Cut *cut, gsize row)
{
  return (gint64) (row / MAX (cut->per_sample, 1));
}

/* Nothing was kept of a masked row. (In a packed cache ids ascend: -1 stands first.) */
static gboolean
is_masked (const Cut *cut, gsize row)
{
  gsize i = 0;

  while (i < cut->k && ids_of (cut, row)[i] < 0)
    i++;
  return i == cut->k;
}

static gboolean
is_class (const Cut *cut, gint64 id)
{
  return id >= 0 && id < (gint64) cut->width;
}

/* No class left out may be larger than one that was kept. */
static void
audit_topk_ids (KdAudit *audit, const gchar *name, const Cut *cut)
{
  g_autofree guint8 *kept = g_new0 (guint8, cut->width);
  KdAuditField field;

  kd_audit_begin (&field, name);
  for (gsize r = 0; r < cut->n_rows; r++) {
    const gint64 *ids = ids_of (cut, r);
    gdouble least = INFINITY, most = -INFINITY, wrong = 0;
    if (is_masked (cut, r))
      continue;
    kd_audit_row (cut->logits, r, cut->width, cut->row);
    memset (kept, 0, cut->width);
    for (gsize i = 0; i < cut->k; i++)
      if (!is_class (cut, ids[i]) || kept[ids[i]]++)
        wrong = INFINITY; /* no class, or one twice */
      else
        least = MIN (least, cut->row[ids[i]]);
    for (gsize c = 0; c < cut->width; c++)
      if (!kept[c])
        most = MAX (most, cut->row[c]);
    kd_audit_distance (&field, sample_of (cut, r), wrong > 0 ? wrong : most > least ? most - least
                                                                                    : 0,
        2 * KD_AUDIT_ROUNDING * MAX (1, fabs (least)));
  }
  kd_audit_end (audit, &field);
}

static void
audit_topk_logprobs (KdAudit *audit, const gchar *name, const Cut *cut)
{
  KdAuditField field;

  kd_audit_begin (&field, name);
  for (gsize r = 0; r < cut->n_rows; r++) {
    const gint64 *ids = ids_of (cut, r);
    kd_audit_row (cut->logits, r, cut->width, cut->row);
    for (gsize i = 0; i < cut->k; i++) {
      gdouble value = kd_tensor_get_double (cut->values, r * cut->k + i), wanted = is_class (cut, ids[i]) ? cut->row[ids[i]] : NAN;
      if (ids[i] >= 0)
        kd_audit_distance (&field, sample_of (cut, r), value == wanted ? 0 : fabs (value - wanted), kd_audit_allowed (audit, name, cut->values, wanted));
    }
  }
  kd_audit_end (audit, &field);
}

static void
audit_topk_lse (KdAudit *audit, const gchar *name, const Cut *cut)
{
  KdAuditField field;

  kd_audit_begin (&field, name);
  for (gsize r = 0; r < cut->n_rows; r++) {
    gdouble value = kd_tensor_get_double (cut->values, r), wanted = kd_audit_row (cut->logits, r, cut->width, cut->row);
    if (!is_masked (cut, r))
      kd_audit_distance (&field, sample_of (cut, r), fabs (value - wanted), kd_audit_allowed (audit, name, cut->values, wanted));
  }
  kd_audit_end (audit, &field);
}

/* For x = -ln p of a drawn id: E e^(t x) = sum p^(1 - t). P (mean of n draws >= a) <= e^(n (ln E e^(t x) - t a)), t > 0; <= a with t < 0. */
static const gdouble tilts[] = { -4, -2, -1, -0.5, -0.25, 0.125, 0.25, 0.5, 0.75, 0.875 };

static gdouble
log_moment (const gdouble *logs, gsize n, gdouble tilt)
{
  gdouble sum = 0;

  for (gsize i = 0; i < n; i++)
    sum += exp ((1 - tilt) * logs[i]); /* 0 where p is */
  return log (sum);
}

/* How often each id of row @r was drawn, and the mean of -ln p over the draws. FALSE: the weights are no counts. */
static gboolean
read_draws (const Cut *cut, gsize r, gdouble *ret_mean)
{
  const gint64 *ids = ids_of (cut, r);
  gdouble sum = 0;

  *ret_mean = 0;
  for (gsize i = 0; i < cut->k; i++) {
    gdouble drawn = kd_tensor_get_double (cut->values, r * cut->k + i) * (gdouble) cut->k;
    if (ids[i] < 0)
      continue;
    if (!(fabs (drawn - round (drawn)) <= MAX (0.02, drawn / 1024)))
      return FALSE;
    sum += round (drawn) / (gdouble) cut->k;
    *ret_mean += round (drawn) / (gdouble) cut->k * (is_class (cut, ids[i]) ? -cut->row[ids[i]] : INFINITY);
  }
  return fabs (sum - 1) <= 1.0 / 512;
}

static void
say_sampled (KdAudit *audit, const gchar *name, gdouble least, gint64 at, gdouble together, gint64 n_wrong)
{
  gboolean wrong = n_wrong > 0 || together < WRONG;

  audit->n_compared++;
  audit->n_wrong += wrong;
  if (wrong || !audit->quiet)
    g_print ("%-28s %s: the teacher would draw its least likely row (id %" G_GINT64_FORMAT ") with probability 10^%.1f, all together 10^%.1f; wrong below 10^%.0f; %" G_GINT64_FORMAT " of %" G_GINT64_FORMAT " rows wrong\n",
        name, wrong ? "WRONG" : "good", at, least, together, WRONG, n_wrong, audit->n);
}

static void
audit_sampled (KdAudit *audit, const gchar *name, const Cut *cut)
{
  gdouble together[G_N_ELEMENTS (tilts)] = { 0 }, least = 0, total = 0;
  gint64 at = audit->n ? audit->ids[0] : 0, n_wrong = 0, last_wrong = -1;

  for (gsize r = 0; r < cut->n_rows; r++) {
    gdouble mean, row = 0;
    if (is_masked (cut, r))
      continue;
    kd_audit_row (cut->logits, r, cut->width, cut->row);
    if (!read_draws (cut, r, &mean)) {
      g_print ("%-28s not compared: its weights are no counts of %" G_GSIZE_FORMAT " draws (another proposal-power?); give kdlogitsample with its properties in --teacher\n", name, cut->k);
      return;
    }
    for (guint i = 0; i < G_N_ELEMENTS (tilts); i++) {
      gdouble log10_p = (gdouble) cut->k * (log_moment (cut->row, cut->width, tilts[i]) - tilts[i] * mean) / G_LN10;
      log10_p = isinf (mean) ? (tilts[i] > 0 ? -INFINITY : 0) : log10_p;
      row = MIN (row, log10_p);
      together[i] += log10_p;
    }
    if (row < WRONG && sample_of (cut, r) != last_wrong) {
      n_wrong++;
      last_wrong = sample_of (cut, r);
    }
    if (row < least) {
      least = row;
      at = audit->ids[sample_of (cut, r)];
    }
  }
  for (guint i = 0; i < G_N_ELEMENTS (tilts); i++)
    total = MIN (total, together[i]);
  say_sampled (audit, name, least, at, total, n_wrong);
}

/* The last dimension; 1 for a number a row. */
static gsize
last_of (const KdTensor *tensor)
{
  return tensor->rank > 1 ? (gsize) tensor->dims[tensor->rank - 1] : 1;
}

/* FALSE with no error: these fields do not belong together. */
static gboolean
load (const KdAudit *audit, const gchar *base, const gchar *kind, const gchar *values, Cut *cut, GError **error)
{
  g_autofree gchar *ids = g_strconcat (base, kind, "ids", NULL), *logits = g_strconcat (base, ".logits", NULL), *value = g_strconcat (base, kind, values, NULL);
  const KdLayout *have = kd_cache_reader_layout (audit->cache), *made = kd_cache_reader_layout (audit->fresh);

  if (!kd_layout_find (have, ids) || !kd_layout_find (have, value) || !kd_layout_find (made, logits))
    return FALSE;
  cut->ids = kd_cache_reader_take (audit->cache, ids, audit->n, audit->cached_rows, error);
  cut->values = cut->ids ? kd_cache_reader_take (audit->cache, value, audit->n, audit->cached_rows, error) : NULL;
  cut->logits = cut->values ? kd_cache_reader_take (audit->fresh, logits, audit->n, audit->fresh_rows, error) : NULL;
  if (!cut->logits || cut->ids->dtype != KD_INT64 || cut->ids->rank != cut->logits->rank)
    return FALSE;
  cut->k = last_of (cut->ids);
  cut->width = last_of (cut->logits);
  cut->n_rows = kd_tensor_n_elements (cut->ids) / MAX (cut->k, 1);
  cut->per_sample = cut->n_rows / (gsize) MAX (audit->n, 1);
  cut->row = g_new (gdouble, MAX (cut->width, 1));
  return cut->k > 0 && cut->width > 0 && kd_tensor_n_elements (cut->logits) / cut->width == cut->n_rows;
}

gboolean
kd_audit_cut (KdAudit *audit, const gchar *field, gboolean *ret_done, GError **error)
{
  static const struct {
    const gchar *kind, *name, *values;
    void (*run) (KdAudit *audit, const gchar *name, const Cut *cut);
  } cuts[] = {
    { ".topk.", "ids", "logprobs", audit_topk_ids },
    { ".topk.", "logprobs", "logprobs", audit_topk_logprobs },
    { ".topk.", "lse", "lse", audit_topk_lse },
    { ".sampled.", "ids", "weights", audit_sampled },
    { ".sampled.", "weights", "weights", NULL }, /* looked at with the ids */
  };

  *ret_done = FALSE;
  for (guint i = 0; i < G_N_ELEMENTS (cuts); i++) {
    g_autofree gchar *suffix = g_strconcat (cuts[i].kind, cuts[i].name, NULL), *base = NULL;
    g_auto (Cut) cut = { NULL };
    GError *why = NULL;
    if (!g_str_has_suffix (field, suffix))
      continue;
    base = g_strndup (field, strlen (field) - strlen (suffix));
    *ret_done = load (audit, base, cuts[i].kind, cuts[i].values, &cut, &why);
    if (why) {
      g_propagate_error (error, why);
      return FALSE;
    }
    if (*ret_done && cuts[i].run)
      cuts[i].run (audit, field, &cut);
    break;
  }
  return TRUE;
}
