/* Held-out rows that the student trains on tell the controller nothing: such a row is refused, by its id or by its input's bytes. */
#include "kdtgeo.h"

#include <string.h>

/* Row @i of @tensor, which outlives it. */
static GBytes *
row_bytes (const KdTensor *tensor, gint64 i)
{
  gsize size = tensor->dims[0] ? tensor->n_bytes / (gsize) tensor->dims[0] : 0;

  return g_bytes_new_static ((const guint8 *) tensor->data + (gsize) i * size, size);
}

gboolean
kd_tgeo_disjoint_open (const KdTgeoParams *p, KdTgeoState *state, KdH5Reader *reader, GError **error)
{
  const KdLayoutField *field = kd_layout_find (kd_h5_reader_layout (reader), "sample.id");
  gint64 n = state->input->dims[0];

  state->held_inputs = g_hash_table_new_full (g_bytes_hash, g_bytes_equal, (GDestroyNotify) g_bytes_unref, NULL);
  for (gint64 i = 0; state->input->dtype != KD_UTF8 && i < n; i++)
    g_hash_table_insert (state->held_inputs, row_bytes (state->input, i), (gpointer) (gintptr) (p->validation_first + i));
  if (!field || field->dtype != KD_INT64 || field->rank != 1 || p->validation_check != KD_TGEO_CHECK_IDS)
    return TRUE;
  state->held_id = kd_h5_reader_read (reader, "sample.id", p->validation_first, n, error);
  if (!state->held_id)
    return FALSE;
  state->held_ids = g_hash_table_new (g_int64_hash, g_int64_equal);
  for (gint64 i = 0; i < n; i++)
    g_hash_table_insert (state->held_ids, (gint64 *) state->held_id->data + i, (gpointer) (gintptr) (p->validation_first + i));
  return TRUE;
}

static gboolean
find_by_id (const KdCall *call, gint64 *ret_row, gintptr *ret_held)
{
  const KdTgeoState *state = call->state;
  gpointer held;

  for (gint64 i = 0; state->held_ids && call->sample_id && i < call->n_samples; i++)
    if (g_hash_table_lookup_extended (state->held_ids, &call->sample_id[i], NULL, &held)) {
      *ret_row = i;
      *ret_held = (gintptr) held;
      return TRUE;
    }
  return FALSE;
}

static gboolean
find_by_input (const KdCall *call, gint64 *ret_row, gintptr *ret_held)
{
  const KdTgeoState *state = call->state;
  const KdTensor *input = kd_batch_peek (call->batch, "input"), *held_input = state->input;
  gpointer held;

  if (!input || input->dtype != held_input->dtype || input->dtype == KD_UTF8 || input->rank != held_input->rank || memcmp (input->dims + 1, held_input->dims + 1, (input->rank - 1) * sizeof *input->dims))
    return FALSE;
  for (gint64 i = 0; i < call->n_samples; i++) {
    g_autoptr (GBytes) row = row_bytes (input, i);
    if (g_hash_table_lookup_extended (state->held_inputs, row, NULL, &held)) {
      *ret_row = i;
      *ret_held = (gintptr) held;
      return TRUE;
    }
  }
  return FALSE;
}

gboolean
kd_tgeo_disjoint_check (const KdCall *call, GError **error)
{
  const KdTgeoParams *p = call->params;
  gint64 row = 0;
  gintptr held = 0;
  gboolean by_id;

  if (p->validation_check == KD_TGEO_CHECK_NONE)
    return TRUE;
  by_id = find_by_id (call, &row, &held);
  if (!by_id && !find_by_input (call, &row, &held))
    return TRUE;
  g_set_error (error, KD_ERROR, KD_ERROR_VALUE,
      "Held-out row is trained on: element=kdtgeo, validation=\"%s\", row=%" G_GINT64_FORMAT ", same=%s, sample.id=%" G_GINT64_FORMAT "; leave it out of the training rows%s", p->validation, (gint64) held,
      by_id ? "sample.id" : "input", call->sample_id ? call->sample_id[row] : -1, by_id ? ", or set validation-check=inputs when the file's ids are of other data" : ", or set validation-check=none");
  return FALSE;
}
