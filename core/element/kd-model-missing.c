/* A teacher that fills the holes of a cache before it: only rows that the cache did not have go through the model. */
#include "kd-leaf.h"
#include "kd-model-private.h"

#include <string.h>

static gboolean
fits (const KdLayoutField *there, const KdLayoutField *made)
{
  return there && (there->dtype & (KD_FLOAT32 | KD_FLOAT16 | KD_BFLOAT16)) && there->rank == made->rank &&
      !memcmp (there->dims + 1, made->dims + 1, (made->rank - 1) * sizeof (gint64));
}

gboolean
kd_model_missing_check (KdElement *self, const KdModelState *state, const KdLayout *in, const KdLayout *out, GError **error)
{
  const KdLayoutField *hit = kd_layout_find (in, "cache.hit");

  if (!hit || hit->dtype != KD_BOOL || hit->rank != 1) {
    g_autofree gchar *names = kd_layout_names (in);
    g_set_error (error, KD_ERROR, KD_ERROR_FIELD, "Field missing: element=%s, field=cache.hit, layout=\"%s\"; put kdcache on-miss=pass before it, or set only-missing=false",
        GST_OBJECT_NAME (self), names);
    return FALSE;
  }
  for (guint i = 0; i < state->n_outputs; i++) {
    const KdLayoutField *made = kd_layout_find (out, state->outputs[i].field), *there = kd_layout_find (in, state->outputs[i].field);
    if (!fits (there, made)) {
      g_autofree gchar *have = there ? kd_layout_field_string (there) : g_strdup ("none"), *wanted = kd_layout_field_string (made);
      g_set_error (error, KD_ERROR, KD_ERROR_FIELD, "Cache has not what the teacher makes: element=%s, field=%s, cache=%s, teacher=%s; capture the same layers of the same teacher, logits whole",
          GST_OBJECT_NAME (self), state->outputs[i].field, have, wanted);
      return FALSE;
    }
  }
  return TRUE;
}

void
kd_model_missing_identify (KdElement *self, KdModelState *state, const GstStructure *identity, const gchar *fingerprint, const gchar *spec)
{
  const gchar *there = gst_structure_get_string (identity, "teacher"), *there_spec = gst_structure_get_string (identity, "teacher-spec");

  g_clear_error (&state->stale);
  if (!there || g_str_equal (there, fingerprint))
    return;
  g_set_error (&state->stale, KD_ERROR, KD_ERROR_MISMATCH, "Cache is of another teacher: cache=%.12s (%s), now=%.12s (%s); give the teacher that it was made with", there,
      there_spec ? there_spec : "no description", fingerprint, spec);
}

static gint64 *
missing_rows (const KdTensor *hit, gint64 *ret_n)
{
  gint64 *rows = g_new (gint64, MAX (hit->dims[0], 1)), n = 0;

  for (gint64 i = 0; i < hit->dims[0]; i++)
    if (!((const guint8 *) hit->data)[i])
      rows[n++] = i;
  *ret_n = n;
  return rows;
}

/* The rows of @made into a copy of what the cache gave, in its type. */
static gboolean
merge (KdBatch *batch, const gchar *field, KdTensor *made, const gint64 *rows, gint64 n, GError **error)
{
  KdTensor *there = kd_batch_read (batch, field), *all;
  g_autoptr (KdTensor) cast = there ? kd_tensor_cast (made, there->dtype, error) : NULL;
  gsize bytes = cast ? kd_tensor_row_elements (cast) * kd_dtype_size (cast->dtype) : 0;

  if (!there)
    g_set_error (error, KD_ERROR, KD_ERROR_FIELD, "Field missing: field=%s, though the layout promised it", field);
  if (!cast)
    return FALSE;
  all = kd_tensor_new (there->dtype, there->rank, there->dims);
  memcpy (all->data, there->data, there->n_bytes);
  for (gint64 i = 0; i < n; i++)
    memcpy ((guint8 *) all->data + (gsize) rows[i] * bytes, (const guint8 *) cast->data + (gsize) i * bytes, bytes);
  kd_batch_set (batch, field, all);
  return TRUE;
}

static gboolean
compute (KdModelState *state, guint64 seed, KdBatch *batch, KdTensor *input, const gint64 *rows, gint64 n, GError **error)
{
  g_autoptr (KdForward) forward = NULL;
  KdVar *logits = NULL, *input_var = NULL;
  KdRandom random;

  kd_random_init (&random, seed, kd_random_purpose ("dropout"), batch->epoch, batch->index);
  forward = kd_model_forward (state->model, input, FALSE, FALSE, FALSE, &random, &input_var, &logits, error);
  for (guint i = 0; forward && i < state->n_outputs; i++) {
    const KdModelOutput *output = &state->outputs[i];
    g_autoptr (KdTensor) made = kd_forward_tensor (forward, output->tap ? kd_forward_find_tap (forward, output->tap) : logits, error);
    if (!made || !merge (batch, output->field, made, rows, n, error))
      return FALSE;
  }
  return forward != NULL;
}

gboolean
kd_model_run_missing (KdElement *self, KdModelState *state, guint64 seed, KdBatch *batch, GError **error)
{
  KdTensor *hit = kd_batch_read (batch, "cache.hit"), *input = kd_batch_read (batch, state->input);
  g_autofree gint64 *rows = NULL;
  g_autoptr (KdTensor) few = NULL;
  gint64 n = 0;

  if (!hit || !input) {
    g_set_error (error, KD_ERROR, KD_ERROR_FIELD, "Field missing: field=%s, though the layout promised it", hit ? state->input : "cache.hit");
    return FALSE;
  }
  rows = missing_rows (hit, &n);
  if (n == 0)
    return TRUE;
  if (state->stale) {
    g_propagate_error (error, g_error_copy (state->stale));
    return FALSE;
  }
  few = kd_tensor_take (input, rows, n);
  return compute (state, seed, batch, few, rows, n, error);
}
