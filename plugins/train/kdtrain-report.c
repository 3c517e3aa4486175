/* What kdtrain tells: kd-report (means since the last one) and kd-progress (a few times a second). */
#include "kdtrain.h"

#include <math.h>
#include <string.h>

#define PROGRESS_EVERY_US 200000
#define NORM_PREFIX "metric.grad-norm2."

typedef struct {
  gdouble sum, weight;
} Mean;

void
kd_train_report_reset (KdTrain *self)
{
  g_clear_pointer (&self->window, g_hash_table_unref);
  g_clear_pointer (&self->validation, g_hash_table_unref);
  self->started_us = self->shown_us = 0;
}

static void
add_mean (GHashTable **table, const gchar *name, gdouble value, gdouble weight)
{
  Mean *mean;

  if (!*table)
    *table = g_hash_table_new_full (g_str_hash, g_str_equal, NULL, g_free);
  mean = g_hash_table_lookup (*table, name);
  if (!mean) {
    mean = g_new0 (Mean, 1);
    g_hash_table_insert (*table, (gpointer) name, mean); /* field names are interned */
  }
  mean->sum += weight * value;
  mean->weight += weight;
}

static void
add_scalars (GHashTable **table, KdBatch *batch, gdouble weight)
{
  for (guint i = 0; i < kd_batch_n_fields (batch); i++) {
    const KdBatchField *field = kd_batch_nth (batch, i);
    if (field->tensor->rank == 0 && (g_str_has_prefix (field->name, "loss") || g_str_has_prefix (field->name, "metric.")))
      add_mean (table, field->name, kd_tensor_get_double (field->tensor, 0), weight);
  }
}

static void
post (KdTrain *self, GstStructure *structure)
{
  gst_element_post_message (GST_ELEMENT (self), gst_message_new_element (GST_OBJECT (self), structure));
}

static void
post_progress (KdTrain *self, gdouble loss)
{
  gint64 now = g_get_monotonic_time ();
  gdouble seconds = (gdouble) (now - self->started_us) * 1e-6;

  if (now - self->shown_us < PROGRESS_EVERY_US)
    return;
  self->shown_us = now;
  post (self, gst_structure_new ("kd-progress", "samples", G_TYPE_UINT64, self->samples, "total", G_TYPE_UINT64, self->n_rows, "epoch", G_TYPE_UINT, self->epoch, "step", G_TYPE_UINT64, self->step, "loss", G_TYPE_DOUBLE, loss, "learning-rate", G_TYPE_DOUBLE, self->last_rate, "samples-per-second", G_TYPE_DOUBLE, seconds > 0 ? (gdouble) (self->samples - self->first_sample) / seconds : 0.0, NULL));
}

void
kd_train_report_batch (KdTrain *self, KdBatch *batch, gdouble share)
{
  KdTensor *loss = kd_batch_peek (batch, "loss");

  if (self->started_us == 0)
    self->started_us = self->shown_us = g_get_monotonic_time ();
  add_scalars (&self->window, batch, share);
  post_progress (self, loss ? kd_tensor_get_double (loss, 0) : NAN);
}

void
kd_train_report_validation (KdTrain *self, KdBatch *batch)
{
  add_scalars (&self->validation, batch, 1);
}

static gint
by_name (gconstpointer a, gconstpointer b)
{
  return strcmp (*(const gchar *const *) a, *(const gchar *const *) b);
}

/* Over all ranks: their weights add up to one for each batch. A rank whose losses have other names would add apples to pears: it keeps its own. */
static gboolean
sum_over_ranks (GHashTable *table, GError **error)
{
  guint n = 0;
  g_autofree gpointer *names = g_hash_table_get_keys_as_array (table, &n);
  g_autofree gdouble *values = g_new (gdouble, 2 * n);
  guint64 hash = n;
  gboolean same;

  qsort (names, n, sizeof *names, by_name);
  for (guint i = 0; i < n; i++) {
    const Mean *mean = g_hash_table_lookup (table, names[i]);
    values[2 * i] = mean->sum;
    values[2 * i + 1] = mean->weight;
    hash = hash * 31 + g_str_hash (names[i]);
  }
  if (!kd_world_same (hash, &same, error) || (same && !kd_world_sum_doubles (values, 2 * n, error)))
    return FALSE;
  for (guint i = 0; same && i < n; i++)
    *(Mean *) g_hash_table_lookup (table, names[i]) = (Mean) { values[2 * i], values[2 * i + 1] };
  return TRUE;
}

/* The names stay: a rank without a batch since the last report must know what the others sum. */
static void
clear_means (GHashTable *table)
{
  GHashTableIter iter;
  gpointer mean;

  g_hash_table_iter_init (&iter, table);
  while (g_hash_table_iter_next (&iter, NULL, &mean))
    *(Mean *) mean = (Mean) { 0 };
}

static gboolean
is_empty (GHashTable *table)
{
  GHashTableIter iter;
  gpointer mean;

  g_hash_table_iter_init (&iter, table);
  while (g_hash_table_iter_next (&iter, NULL, &mean))
    if (((Mean *) mean)->weight > 0)
      return FALSE;
  return TRUE;
}

/* Means into the structure; squared norms of gradients become each loss's share of their sum. */
static void
fill (GstStructure *structure, GHashTable *table)
{
  GHashTableIter iter;
  gpointer name, value;
  gdouble norms = 0;

  g_hash_table_iter_init (&iter, table);
  while (g_hash_table_iter_next (&iter, &name, &value))
    if (g_str_has_prefix (name, NORM_PREFIX) && ((Mean *) value)->weight > 0)
      norms += sqrt (((Mean *) value)->sum / ((Mean *) value)->weight);
  g_hash_table_iter_init (&iter, table);
  while (g_hash_table_iter_next (&iter, &name, &value)) {
    gdouble mean = ((Mean *) value)->sum / ((Mean *) value)->weight;
    if (((Mean *) value)->weight == 0)
      continue;
    if (g_str_has_prefix (name, NORM_PREFIX)) {
      g_autofree gchar *share = g_strconcat ("grad-share.", (const gchar *) name + strlen (NORM_PREFIX), NULL);
      gst_structure_set (structure, share, G_TYPE_DOUBLE, norms > 0 ? sqrt (mean) / norms : 0.0, NULL);
    } else {
      gst_structure_set (structure, name, G_TYPE_DOUBLE, mean, NULL);
    }
  }
}

gboolean
kd_train_report_step (KdTrain *self, GError **error)
{
  GstStructure *structure;

  if (!self->window)
    return TRUE;
  if (kd_world_size () > 1 && !sum_over_ranks (self->window, error))
    return FALSE;
  if (is_empty (self->window))
    return TRUE;
  structure = gst_structure_new ("kd-report", "step", G_TYPE_UINT64, self->step, "epoch", G_TYPE_UINT, self->epoch, "samples", G_TYPE_UINT64, self->samples,
      "grad-norm", G_TYPE_DOUBLE, self->last_norm, "learning-rate", G_TYPE_DOUBLE, self->last_rate, NULL);
  fill (structure, self->window);
  clear_means (self->window);
  post (self, structure);
  return TRUE;
}

void
kd_train_report_epoch (KdTrain *self, guint epoch)
{
  GstStructure *structure;

  if (!self->validation || g_hash_table_size (self->validation) == 0)
    return;
  structure = gst_structure_new ("kd-validation", "step", G_TYPE_UINT64, self->step, "epoch", G_TYPE_UINT, epoch, NULL);
  fill (structure, self->validation);
  g_hash_table_remove_all (self->validation);
  post (self, structure);
}
