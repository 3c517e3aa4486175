/* KdParamSet: naming, layout, initial values and state. Updating is kd-optimizer.c, files are kd-safetensors.c. */
#include "kd-params-private.h"
#include "../math/kd-memory.h"
#include "../math/kd-random.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#define ALIGN_ELEMENTS 16 /* 64 bytes of float32 */

G_STATIC_ASSERT (G_STRUCT_OFFSET (KdParamEntry, info) == 0);

gfloat *
_kd_flat_new (gsize n)
{
  gsize bytes = MAX (n, ALIGN_ELEMENTS) * sizeof (gfloat);
  gfloat *memory = kd_memory_new (bytes);

  if (!memory)
    g_error ("Out of memory: %" G_GSIZE_FORMAT " bytes for parameters", bytes);
  memset (memory, 0, bytes);
  return memory;
}

/* Gradients and moments are as long as the trainable part. */
gfloat *
_kd_param_set_ensure (KdParamSet *set, gfloat **buffer)
{
  gfloat *memory = g_atomic_pointer_get (buffer);

  if (G_LIKELY (memory))
    return memory;
  g_mutex_lock (&set->lock);
  if (!*buffer)
    g_atomic_pointer_set (buffer, _kd_flat_new (set->n_flat_trainable));
  memory = *buffer;
  g_mutex_unlock (&set->lock);
  return memory;
}

static void
entry_free (gpointer entry)
{
  g_free (((KdParamEntry *) entry)->info.name);
  g_free (entry);
}

KdParamSet *
kd_param_set_new (guint64 seed)
{
  KdParamSet *set = g_new0 (KdParamSet, 1);

  g_atomic_ref_count_init (&set->ref_count);
  set->seed = seed;
  set->entries = g_ptr_array_new_with_free_func (entry_free);
  set->by_name = g_hash_table_new (g_str_hash, g_str_equal);
  g_mutex_init (&set->lock);
  return set;
}

KdParamSet *
kd_param_set_ref (KdParamSet *set)
{
  g_atomic_ref_count_inc (&set->ref_count);
  return set;
}

void
kd_param_set_unref (KdParamSet *set)
{
  if (!g_atomic_ref_count_dec (&set->ref_count))
    return;
  g_hash_table_unref (set->by_name);
  g_ptr_array_unref (set->entries);
  free (set->values);
  free (set->grads);
  free (set->moment[0]);
  free (set->moment[1]);
  g_mutex_clear (&set->lock);
  g_free (set);
}

static gint64
product (const gint64 *dims, guint from, guint to)
{
  gint64 n = 1;

  for (guint i = from; i < to; i++)
    n *= dims[i];
  return n;
}

gboolean
kd_param_set_add (KdParamSet *set, const gchar *name, guint rank, const gint64 *dims, KdInit init, gboolean trainable,
    GError **error)
{
  KdParamEntry *entry;
  gsize bytes;

  if (set->frozen || kd_param_set_find (set, name) >= 0) {
    g_set_error (error, KD_ERROR, KD_ERROR_FIELD, "Parameter cannot be added: name=\"%s\", reason=%s", name,
        set->frozen ? "the model is built already" : "there is one of this name; give the layers different names");
    return FALSE;
  }
  if (rank > KD_MAX_RANK || !kd_shape_bytes (KD_FLOAT32, rank, dims, &bytes) || bytes > G_MAXSSIZE / 64) {
    g_set_error (error, KD_ERROR, KD_ERROR_SHAPE, "Parameter's shape not accepted: name=\"%s\", rank=%u; an axis is negative or "
                                                  "the whole too large",
        name, rank);
    return FALSE;
  }
  entry = g_new0 (KdParamEntry, 1);
  entry->info.name = g_strdup (name);
  entry->info.rank = rank;
  entry->info.n = bytes / sizeof (gfloat);
  entry->info.trainable = trainable;
  entry->info.decay = trainable && rank > 1;
  if (rank)
    memcpy (entry->info.dims, dims, rank * sizeof *dims);
  entry->init = init;
  entry->fan_in = init == KD_INIT_FAN_IN_BIAS ? dims[1] : rank > 1 ? product (dims, 1, rank)
      : rank                                                       ? dims[0]
                                                                   : 1;
  entry->fan_out = rank > 1 ? dims[0] * product (dims, 2, rank) : entry->fan_in;
  g_ptr_array_add (set->entries, entry);
  g_hash_table_insert (set->by_name, entry->info.name, GUINT_TO_POINTER (set->entries->len));
  return TRUE;
}

static void
fill_uniform (gfloat *values, gsize n, gdouble bound, KdRandom *random)
{
  for (gsize i = 0; i < n; i++)
    values[i] = (gfloat) (bound * (2.0 * kd_random_uniform (random) - 1.0));
}

static void
fill_normal (gfloat *values, gsize n, gdouble deviation, KdRandom *random)
{
  for (gsize i = 0; i < n; i++)
    values[i] = (gfloat) (deviation * kd_random_normal (random));
}

static void
initialise (const KdParamSet *set, const KdParamEntry *entry)
{
  gfloat *values = set->values + entry->info.offset;
  gsize n = entry->info.n;
  gdouble fan_in = (gdouble) MAX (entry->fan_in, 1), fan_out = (gdouble) MAX (entry->fan_out, 1);
  KdRandom random;

  kd_random_init (&random, set->seed, kd_random_purpose (entry->info.name), 0, 0);
  switch (entry->init) {
  case KD_INIT_ZEROS: /* they are */
    break;
  case KD_INIT_ONES:
    for (gsize i = 0; i < n; i++)
      values[i] = 1.0f;
    break;
  case KD_INIT_KAIMING_UNIFORM:
  case KD_INIT_FAN_IN_BIAS:
    fill_uniform (values, n, sqrt (1.0 / fan_in), &random);
    break;
  case KD_INIT_KAIMING_NORMAL:
    fill_normal (values, n, sqrt (2.0 / fan_out), &random);
    break;
  case KD_INIT_XAVIER_UNIFORM:
    fill_uniform (values, n, sqrt (6.0 / (fan_in + fan_out)), &random);
    break;
  case KD_INIT_NORMAL_002:
    fill_normal (values, n, 0.02, &random);
    break;
  case KD_INIT_NORMAL:
    fill_normal (values, n, 1.0, &random);
    break;
  }
}

static void
lay_out (KdParamSet *set, gboolean trainable)
{
  for (guint i = 0; i < set->entries->len; i++) {
    KdParamInfo *info = &_kd_param_entry (set, i)->info;
    if (info->trainable != trainable)
      continue;
    info->offset = set->n_flat;
    set->n_flat += (info->n + ALIGN_ELEMENTS - 1) / ALIGN_ELEMENTS * ALIGN_ELEMENTS;
  }
}

void
kd_param_set_freeze (KdParamSet *set)
{
  if (set->frozen)
    return;
  lay_out (set, TRUE);
  set->n_flat_trainable = set->n_flat;
  lay_out (set, FALSE);
  set->values = _kd_flat_new (set->n_flat);
  for (guint i = 0; i < set->entries->len; i++)
    initialise (set, _kd_param_entry (set, i));
  set->frozen = TRUE;
}

gboolean
kd_param_set_is_frozen (const KdParamSet *set)
{
  return set->frozen;
}

guint
kd_param_set_n (const KdParamSet *set)
{
  return set->entries->len;
}

const KdParamInfo *
kd_param_set_nth (const KdParamSet *set, guint i)
{
  return &_kd_param_entry (set, i)->info;
}

gint
kd_param_set_find (const KdParamSet *set, const gchar *name)
{
  return (gint) GPOINTER_TO_UINT (g_hash_table_lookup (set->by_name, name)) - 1;
}

gsize
kd_param_set_n_trainable (const KdParamSet *set)
{
  gsize n = 0;

  for (guint i = 0; i < set->entries->len; i++)
    if (_kd_param_entry (set, i)->info.trainable)
      n += _kd_param_entry (set, i)->info.n;
  return n;
}

gfloat *
kd_param_set_values (KdParamSet *set, guint i)
{
  g_return_val_if_fail (set->frozen && i < set->entries->len, NULL);
  return set->values + _kd_param_entry (set, i)->info.offset;
}

gfloat *
kd_param_set_grads (KdParamSet *set, guint i)
{
  g_return_val_if_fail (set->frozen && i < set->entries->len, NULL);
  if (!_kd_param_entry (set, i)->info.trainable)
    return NULL;
  return _kd_param_set_ensure (set, &set->grads) + _kd_param_entry (set, i)->info.offset;
}

gfloat *
kd_param_set_flat_grads (KdParamSet *set, gsize *ret_n)
{
  g_return_val_if_fail (set->frozen, NULL);
  *ret_n = set->n_flat_trainable;
  return _kd_param_set_ensure (set, &set->grads);
}

void
kd_param_set_zero_grads (KdParamSet *set)
{
  if (set->grads)
    memset (set->grads, 0, set->n_flat_trainable * sizeof (gfloat));
}

/* Checkpoints: parts of a state by the prefix of their names. */
static const gchar *const state_part[] = { "value", "moment1", "moment2" };

static gfloat **
state_buffer (KdParamSet *set, guint part)
{
  return part == 0 ? &set->values : &set->moment[part - 1];
}

void
kd_param_set_get_state (KdParamSet *set, GHashTable *state)
{
  for (guint part = 0; part < G_N_ELEMENTS (state_part); part++) {
    const gfloat *buffer = *state_buffer (set, part);
    for (guint i = 0; buffer && i < set->entries->len; i++) {
      const KdParamInfo *info = kd_param_set_nth (set, i);
      KdTensor *tensor;
      if (part > 0 && !info->trainable)
        continue;
      tensor = kd_tensor_new (KD_FLOAT32, info->rank, info->dims);
      memcpy (tensor->data, buffer + info->offset, info->n * sizeof (gfloat));
      g_hash_table_insert (state, g_strdup_printf ("%s.%s", state_part[part], info->name), tensor);
    }
  }
}

/* A missing moment is right where the run had no such optimiser; a missing value never is. */
static gboolean
check_state (KdParamSet *set, GHashTable *state, guint part, guint *ret_n_found, GError **error)
{
  guint n_wanted = 0;

  *ret_n_found = 0;
  for (guint i = 0; i < set->entries->len; i++) {
    const KdParamInfo *info = kd_param_set_nth (set, i);
    g_autofree gchar *name = g_strdup_printf ("%s.%s", state_part[part], info->name);
    const KdTensor *tensor = g_hash_table_lookup (state, name);

    if (part > 0 && !info->trainable)
      continue;
    n_wanted++;
    if (!tensor)
      continue;
    (*ret_n_found)++;
    if (tensor->dtype != KD_FLOAT32 || tensor->rank != info->rank ||
        memcmp (tensor->dims, info->dims, info->rank * sizeof (gint64))) {
      g_autofree gchar *shape = kd_tensor_shape_string (tensor);
      g_set_error (error, KD_ERROR, KD_ERROR_MISMATCH,
          "State does not fit the model: parameter=%s, state=%s %s, model has %" G_GSIZE_FORMAT
          " numbers; resume with the model that was saved",
          name, kd_dtype_name (tensor->dtype), shape, info->n);
      return FALSE;
    }
  }
  if (*ret_n_found != n_wanted && (part == 0 || *ret_n_found > 0)) {
    g_set_error (error, KD_ERROR, KD_ERROR_MISMATCH,
        "State does not fit the model: part=%s, parameters in the state=%u, in the model=%u; resume with the model that was saved",
        state_part[part], *ret_n_found, n_wanted);
    return FALSE;
  }
  return TRUE;
}

gboolean
kd_param_set_set_state (KdParamSet *set, GHashTable *state, GError **error)
{
  guint n_found[G_N_ELEMENTS (state_part)];

  for (guint part = 0; part < G_N_ELEMENTS (state_part); part++)
    if (!check_state (set, state, part, &n_found[part], error))
      return FALSE;
  for (guint part = 0; part < G_N_ELEMENTS (state_part); part++) {
    gfloat *buffer = *state_buffer (set, part);
    if (part > 0 && n_found[part] > 0)
      buffer = _kd_param_set_ensure (set, state_buffer (set, part));
    else if (part > 0 && buffer)
      memset (buffer, 0, set->n_flat_trainable * sizeof (gfloat));
    for (guint i = 0; n_found[part] > 0 && i < set->entries->len; i++) {
      const KdParamInfo *info = kd_param_set_nth (set, i);
      g_autofree gchar *name = g_strdup_printf ("%s.%s", state_part[part], info->name);
      const KdTensor *tensor = g_hash_table_lookup (state, name);
      if (part == 0 || info->trainable)
        memcpy (buffer + info->offset, tensor->data, info->n * sizeof (gfloat));
    }
  }
  return TRUE;
}

gchar *
kd_param_set_fingerprint (KdParamSet *set)
{
  g_autoptr (GChecksum) sum = g_checksum_new (G_CHECKSUM_SHA256);

  for (guint i = 0; i < set->entries->len; i++) {
    const KdParamInfo *info = kd_param_set_nth (set, i);
    g_checksum_update (sum, (const guchar *) info->name, (gssize) strlen (info->name) + 1);
    g_checksum_update (sum, (const guchar *) info->dims, (gssize) (info->rank * sizeof (gint64)));
    g_checksum_update (sum, (const guchar *) (set->values + info->offset), (gssize) (info->n * sizeof (gfloat)));
  }
  return g_strdup (g_checksum_get_string (sum));
}
