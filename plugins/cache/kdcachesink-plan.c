/* kdcachesink: from its properties and the layout to a list of fields and encodings. */
#include "kdcachesink.h"

#include <string.h>

/* What `encoding` can name beside the encodings of a field: leaves that cut logits down, and what their fields are stored as unless told. */
static const struct {
  const gchar *name, *element, *count; /* property that takes k */
  const gchar *ids, *values, *rest;
} cuts[] = {
  { "topk", "kdlogittopk", "k", "teacher.topk.ids", "teacher.topk.logprobs", "teacher.topk.lse" },
  { "sampled", "kdlogitsample", "draws", "teacher.sampled.ids", "teacher.sampled.weights", NULL },
};

void
kd_cache_plan_clear (KdCachePlan *plan)
{
  if (plan->cut)
    kd_params_clear (plan->cut->params, plan->cut_params);
  g_clear_pointer (&plan->cut_params, g_free);
  plan->cut = NULL;
  g_clear_pointer (&plan->names, g_ptr_array_unref);
  g_clear_pointer (&plan->encodings, g_ptr_array_unref);
}

static gboolean
fail_field (const gchar *owner, const gchar *field, const KdLayout *layout, GError **error)
{
  g_autofree gchar *names = kd_layout_names (layout), *providers = kd_providers (field);

  g_set_error (error, KD_ERROR, KD_ERROR_FIELD, "Field missing: element=%s, field=%s, layout=\"%s\"; put %s before it", owner, field, names, providers);
  return FALSE;
}

/* Fields by name, or all of the teacher's that have rows. */
static gboolean
choose_fields (KdCachePlan *plan, const KdCachePlanCall *call, const KdLayout *layout, GError **error)
{
  g_auto (GStrv) wanted = g_strsplit (call->fields ? call->fields : "", ",", -1);

  for (guint i = 0; i < kd_layout_n_fields (layout) && !wanted[0]; i++) {
    const KdLayoutField *field = kd_layout_nth (layout, i);
    if (g_str_has_prefix (field->name, "teacher.") && field->rank > 0)
      g_ptr_array_add (plan->names, (gpointer) field->name);
  }
  for (guint i = 0; wanted[i]; i++) {
    const KdLayoutField *field = kd_layout_find (layout, g_strstrip (wanted[i]));
    if (!field)
      return fail_field (call->owner, wanted[i], layout, error);
    g_ptr_array_add (plan->names, (gpointer) field->name);
  }
  return plan->names->len > 0 || fail_field (call->owner, "teacher.logits", layout, error);
}

static gboolean
set_count (KdCachePlan *plan, const KdCachePlanCall *call, guint nth, GError **error)
{
  g_autofree gchar *k = g_strdup_printf ("%" G_GINT64_FORMAT, call->k), *seed = g_strdup_printf ("%" G_GUINT64_FORMAT, call->seed);
  const KdParam *seed_param = kd_param_find (plan->cut->params, "seed");

  return kd_param_set_string (kd_param_find (plan->cut->params, cuts[nth].count), plan->cut_params, k, call->owner, error) &&
      (!seed_param || kd_param_set_string (seed_param, plan->cut_params, seed, call->owner, error));
}

/* teacher.logits leave the list, what is made of them enters it. */
static gboolean
plan_cut (KdCachePlan *plan, const KdCachePlanCall *call, guint nth, const KdLayout *layout, GError **error)
{
  GstElementFactory *factory = gst_element_factory_find (cuts[nth].element);
  const gchar *const made[] = { cuts[nth].ids, cuts[nth].values, cuts[nth].rest };
  const gchar *logits = g_intern_string ("teacher.logits");

  if (!g_ptr_array_remove (plan->names, (gpointer) logits)) {
    g_clear_object (&factory);
    return fail_field (call->owner, logits, layout, error);
  }
  plan->cut = factory ? (const KdTransformDesc *) kd_element_factory_desc (factory, NULL) : NULL;
  g_clear_object (&factory);
  if (!plan->cut) {
    g_set_error (error, KD_ERROR, KD_ERROR_UNSUPPORTED, "Plugin missing: element=%s, encoding=%s, plugin=%s; install it, or set GST_PLUGIN_PATH_1_0", call->owner,
        cuts[nth].name, cuts[nth].element);
    return FALSE;
  }
  plan->cut_params = g_malloc0 (MAX (plan->cut->params_size, 1));
  kd_params_init (plan->cut->params, plan->cut_params);
  for (guint i = 0; i < G_N_ELEMENTS (made) && made[i]; i++)
    g_ptr_array_add (plan->names, (gpointer) g_intern_string (made[i]));
  return set_count (plan, call, nth, error);
}

static gboolean
fail_encoding (const KdCachePlanCall *call, const gchar *word, const gchar *why, GError **error)
{
  g_autofree gchar *known = g_strjoinv (", ", (gchar **) kd_cache_encoding_names ());

  g_set_error (error, KD_ERROR, KD_ERROR_RANGE, "Cannot encode: element=%s, encoding=\"%s\", reason=%s; wanted words NAME or FIELD=NAME, NAME one of %s, topk, sampled",
      call->owner, word, why, known);
  return FALSE;
}

/* Which cut a word stands for: "topk", or "teacher.logits=topk"; -1 for none. */
static gint
cut_of (const gchar *word)
{
  const gchar *name = g_str_has_prefix (word, "teacher.logits=") ? word + strlen ("teacher.logits=") : word;
  gint nth = -1;

  for (guint i = 0; i < G_N_ELEMENTS (cuts); i++)
    if (g_str_equal (cuts[i].name, name))
      nth = (gint) i;
  return nth;
}

/* Ids lose nothing, so they are always stored small; what is cut down has half precision unless told. */
static const gchar *
usual_encoding (const KdCachePlan *plan, const gchar *name, const KdLayout *layout)
{
  const KdLayoutField *field = kd_layout_find (layout, name), *logits = kd_layout_find (layout, "teacher.logits");

  if (g_str_has_suffix (name, ".topk.ids") || g_str_has_suffix (name, ".sampled.ids")) {
    gint64 size = plan->cut && logits && logits->rank > 1 ? logits->dims[logits->rank - 1] : -1;
    return size > 0 && size <= G_MAXUINT16 ? "index16" : field && field->dtype != KD_INT64 ? NULL
                                                                                           : "index32";
  }
  if (!field && (g_str_has_suffix (name, ".logprobs") || g_str_has_suffix (name, ".weights")))
    return "float16";
  return NULL;
}

/* What a word without a field is for: types for float fields, log-probabilities for what is or becomes log-probabilities. */
static gboolean
word_applies (const gchar *word, const gchar *name, const KdLayout *layout)
{
  const KdLayoutField *field = kd_layout_find (layout, name);

  if (g_str_has_prefix (word, "logprob"))
    return g_str_has_suffix (name, ".logits") || g_str_has_suffix (name, ".logprobs");
  if (g_str_has_prefix (word, "index"))
    return g_str_has_suffix (name, ".ids");
  return field && (field->dtype & KD_ANY_FLOAT);
}

static gboolean
apply_word (KdCachePlan *plan, const KdCachePlanCall *call, const gchar *word, const KdLayout *layout, GError **error)
{
  const gchar *equals = strchr (word, '='), *name = equals ? equals + 1 : word;
  g_autofree gchar *field = equals ? g_strndup (word, (gsize) (equals - word)) : NULL;
  gboolean used = FALSE;

  if (!g_strv_contains (kd_cache_encoding_names (), name))
    return fail_encoding (call, word, "unknown encoding", error);
  for (guint i = 0; i < plan->names->len; i++) {
    const gchar *there = g_ptr_array_index (plan->names, i);
    if (field ? !g_str_equal (there, field) : !word_applies (name, there, layout))
      continue;
    plan->encodings->pdata[i] = (gpointer) g_intern_string (name);
    used = TRUE;
  }
  return used || fail_encoding (call, word, field ? "no such field is kept" : "no field is kept that it is for", error);
}

gboolean
kd_cache_plan_make (KdCachePlan *plan, const KdCachePlanCall *call, const KdLayout *layout, GError **error)
{
  g_auto (GStrv) words = g_strsplit_set (call->encoding ? call->encoding : "", " ,", -1);

  kd_cache_plan_clear (plan);
  plan->names = g_ptr_array_new ();
  plan->encodings = g_ptr_array_new ();
  if (!choose_fields (plan, call, layout, error))
    return FALSE;
  for (guint i = 0; words[i]; i++) {
    gint nth = cut_of (words[i]);
    if (nth >= 0 && plan->cut)
      return fail_encoding (call, words[i], "the logits are cut down already", error);
    if (nth >= 0 && !plan_cut (plan, call, (guint) nth, layout, error))
      return FALSE;
  }
  for (guint i = 0; i < plan->names->len; i++) {
    const gchar *name = g_ptr_array_index (plan->names, i), *usual = usual_encoding (plan, name, layout);
    if (!usual && call->floats && word_applies (call->floats, name, layout))
      usual = call->floats;
    g_ptr_array_add (plan->encodings, (gpointer) (usual ? g_intern_string (usual) : NULL));
  }
  for (guint pass = 0; pass < 2; pass++) /* words for a field outdo those for all */
    for (guint i = 0; words[i]; i++)
      if (*words[i] && cut_of (words[i]) < 0 && (strchr (words[i], '=') != NULL) == (pass == 1) && !apply_word (plan, call, words[i], layout, error))
        return FALSE;
  return TRUE;
}

GstBuffer *
kd_cache_plan_cut (const KdCachePlan *plan, GstBuffer *buffer, KdBatch *batch, GError **error)
{
  g_autoptr (GstBuffer) cut = NULL;
  KdBatch *out;
  KdRunOptions options = { 0 };

  if (!plan->cut)
    return gst_buffer_ref (buffer);
  /* A batch of its own: whoever else has the buffer keeps the logits. */
  cut = kd_batch_buffer_new (batch->n_samples, &out);
  out->epoch = batch->epoch;
  out->index = batch->index;
  for (guint i = 0; i < kd_batch_n_fields (batch); i++) {
    const gchar *name = kd_batch_nth (batch, i)->name;
    gboolean kept = g_ptr_array_find (plan->names, name, NULL) || g_str_has_prefix (name, "sample.");
    if (kept || g_str_equal (name, "teacher.logits") || g_str_equal (name, "mask"))
      kd_batch_set (out, name, kd_tensor_ref (kd_batch_read (batch, name)));
  }
  kd_run_options_init (&options);
  if (!kd_transform_desc_run (plan->cut, plan->cut_params, &options, NULL, out, error))
    return NULL;
  return g_steal_pointer (&cut);
}
