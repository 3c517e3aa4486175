/* The run's events, queries and checkpoints. */
#include "kd-run.h"
#include "../batch/kd-h5.h"

struct _KdCheckpoint {
  gatomicrefcount ref_count;
  GHashTable *tables; /* element name -> GHashTable (name -> KdTensor) */
};

G_DEFINE_BOXED_TYPE (KdCheckpoint, kd_checkpoint, kd_checkpoint_ref, kd_checkpoint_unref)

static GHashTable *
table_new (void)
{
  return g_hash_table_new_full (g_str_hash, g_str_equal, g_free, (GDestroyNotify) kd_tensor_unref);
}

KdCheckpoint *
kd_checkpoint_new (void)
{
  KdCheckpoint *checkpoint = g_new0 (KdCheckpoint, 1);

  g_atomic_ref_count_init (&checkpoint->ref_count);
  checkpoint->tables = g_hash_table_new_full (g_str_hash, g_str_equal, g_free, (GDestroyNotify) g_hash_table_unref);
  return checkpoint;
}

KdCheckpoint *
kd_checkpoint_ref (KdCheckpoint *checkpoint)
{
  g_atomic_ref_count_inc (&checkpoint->ref_count);
  return checkpoint;
}

void
kd_checkpoint_unref (KdCheckpoint *checkpoint)
{
  if (!g_atomic_ref_count_dec (&checkpoint->ref_count))
    return;
  g_hash_table_unref (checkpoint->tables);
  g_free (checkpoint);
}

GHashTable *
kd_checkpoint_table (KdCheckpoint *checkpoint, const gchar *element, gboolean create)
{
  GHashTable *table = g_hash_table_lookup (checkpoint->tables, element);

  if (!table && create) {
    table = table_new ();
    g_hash_table_insert (checkpoint->tables, g_strdup (element), table);
  }
  return table;
}

gboolean
kd_checkpoint_save (KdCheckpoint *checkpoint, const gchar *path, GError **error)
{
  g_autoptr (KdH5Writer) writer = kd_h5_writer_new (path, error);
  g_autofree gpointer *elements = g_hash_table_get_keys_as_array (checkpoint->tables, NULL);

  if (!writer || !kd_h5_writer_set_attribute (writer, "kd.content", "checkpoint/1", error))
    return FALSE;
  for (guint i = 0; elements[i]; i++) {
    GHashTableIter iter;
    gpointer name, tensor;
    g_hash_table_iter_init (&iter, g_hash_table_lookup (checkpoint->tables, elements[i]));
    while (g_hash_table_iter_next (&iter, &name, &tensor))
      if (!kd_h5_writer_write (writer, elements[i], name, tensor, error))
        return FALSE;
  }
  return kd_h5_writer_finish (writer, error);
}

static gboolean
load_table (GHashTable *table, const gchar *path, const gchar *element, GError **error)
{
  g_autoptr (KdH5Reader) reader = kd_h5_reader_open (path, element, error);

  if (!reader)
    return FALSE;
  for (guint i = 0; i < kd_layout_n_fields (kd_h5_reader_layout (reader)); i++) {
    const gchar *name = kd_layout_nth (kd_h5_reader_layout (reader), i)->name;
    g_autoptr (KdTensor) mapped = kd_h5_reader_read_all (reader, name, error);
    KdTensor *copy;
    if (!mapped)
      return FALSE;
    copy = kd_tensor_new (mapped->dtype, mapped->rank, mapped->dims); /* the file may be replaced while we run */
    memcpy (copy->data, mapped->data, mapped->n_bytes);
    g_hash_table_insert (table, g_strdup (name), copy);
  }
  return TRUE;
}

KdCheckpoint *
kd_checkpoint_load (const gchar *path, GError **error)
{
  g_autoptr (KdCheckpoint) checkpoint = kd_checkpoint_new ();
  g_autoptr (KdH5Reader) root = kd_h5_reader_open (path, NULL, error);
  g_auto (GStrv) elements = NULL;

  if (!root)
    return NULL;
  if (g_strcmp0 (kd_h5_reader_attribute (root, "kd.content"), "checkpoint/1")) {
    g_set_error (error, KD_ERROR, KD_ERROR_FORMAT, "Not a checkpoint: path=\"%s\", kd.content=%s, wanted=checkpoint/1", path,
        kd_h5_reader_attribute (root, "kd.content") ? kd_h5_reader_attribute (root, "kd.content") : "(none)");
    return NULL;
  }
  elements = kd_h5_reader_groups (root);
  for (guint i = 0; elements[i]; i++)
    if (!load_table (kd_checkpoint_table (checkpoint, elements[i], TRUE), path, elements[i], error))
      return NULL;
  return g_steal_pointer (&checkpoint);
}

void
kd_state_set_int (GHashTable *table, const gchar *name, gint64 value)
{
  KdTensor *tensor = kd_tensor_new (KD_INT64, 0, NULL);

  *(gint64 *) tensor->data = value;
  g_hash_table_insert (table, g_strdup (name), tensor);
}

gint64
kd_state_get_int (GHashTable *table, const gchar *name, gint64 fallback)
{
  KdTensor *tensor = g_hash_table_lookup (table, name);

  return tensor && tensor->dtype == KD_INT64 && tensor->n_bytes >= 8 ? *(gint64 *) tensor->data : fallback;
}

void
kd_state_set_double (GHashTable *table, const gchar *name, gdouble value)
{
  g_hash_table_insert (table, g_strdup (name), kd_tensor_new_scalar (value));
}

gdouble
kd_state_get_double (GHashTable *table, const gchar *name, gdouble fallback)
{
  KdTensor *tensor = g_hash_table_lookup (table, name);

  return tensor && tensor->dtype == KD_FLOAT64 && tensor->n_bytes >= 8 ? *(gdouble *) tensor->data : fallback;
}

GstEvent *
kd_event_new_pointer (GstEventType type, const gchar *name, gpointer call)
{
  return gst_event_new_custom (type, gst_structure_new (name, "call", G_TYPE_POINTER, call, NULL));
}

static gpointer
structure_pointer (const GstStructure *structure, const gchar *name)
{
  gpointer call = NULL;

  if (structure && gst_structure_has_name (structure, name))
    gst_structure_get (structure, "call", G_TYPE_POINTER, &call, NULL);
  return call;
}

gpointer
kd_event_get_pointer (GstEvent *event, const gchar *name)
{
  return structure_pointer (gst_event_get_structure (event), name);
}

GstQuery *
kd_query_new_pointer (const gchar *name, gpointer call)
{
  return gst_query_new_custom (GST_QUERY_CUSTOM, gst_structure_new (name, "call", G_TYPE_POINTER, call, NULL));
}

gpointer
kd_query_get_pointer (GstQuery *query, const gchar *name)
{
  return structure_pointer (gst_query_get_structure (query), name);
}
