/* KdLeafElement: from descriptor to element: binding at negotiation, state block, identity line, checkpoints. */
#include "kd-leaf.h"

#include <string.h>

typedef struct {
  KdLeaf leaf;
} KdLeafElementPrivate;

G_DEFINE_ABSTRACT_TYPE_WITH_PRIVATE (KdLeafElement, kd_leaf_element, KD_TYPE_ELEMENT)
#define LEAF(self) (&((KdLeafElementPrivate *) kd_leaf_element_get_instance_private (KD_LEAF_ELEMENT (self)))->leaf)

gpointer
kd_desc_state_new (const KdDesc *desc, gconstpointer params)
{
  gpointer state = desc->state_size ? g_malloc0 (desc->state_size) : NULL;

  if (state && desc->state_init)
    desc->state_init (params, state);
  return state;
}

gboolean
kd_desc_state_open (const KdDesc *desc, gconstpointer params, gpointer *ret_state, GError **error)
{
  gpointer state = kd_desc_state_new (desc, params);

  if (desc->state_open && !desc->state_open (params, state, error)) {
    kd_desc_state_free (desc, state);
    return FALSE;
  }
  *ret_state = state;
  return TRUE;
}

void
kd_desc_state_free (const KdDesc *desc, gpointer state)
{
  if (state && desc->state_clear)
    desc->state_clear (state);
  g_free (state);
}

void
kd_layout_add_bound (KdLayout *layout, const KdBoundField *field, const KdSizes *sizes, KdDtype fallback)
{
  gint64 dims[KD_MAX_RANK];
  guint rank = 0;

  for (guint i = 0; i < field->n_axes; i++) {
    KdAxis axis = field->axes[i];
    if (axis.kind == KD_AXIS_TRAILING) /* its number of axes is the leaf's to say: one that varies stands for all */
      dims[rank++] = KD_DIM_ANY;
    else if (axis.kind == KD_AXIS_LEADING)
      for (guint j = 0; j < MAX (sizes->leading_rank, 1) && rank < KD_MAX_RANK; j++)
        dims[rank++] = j < sizes->leading_rank ? sizes->leading[j] : KD_DIM_ANY;
    else if (rank < KD_MAX_RANK)
      dims[rank++] = axis.kind == KD_AXIS_LETTER ? sizes->letter[axis.value] : axis.kind == KD_AXIS_SIZE ? axis.value
                                                                                                         : KD_DIM_ANY;
  }
  kd_layout_set (layout, field->name, kd_dtypes_are_one (field->dtype) ? field->dtype : fallback, rank, dims);
}

/* An output with the name of an input and open axes keeps that input's shape. */
static void
extend_with_outputs (const KdLeaf *leaf, const KdSizes *sizes, const KdLayout *in, KdLayout *layout)
{
  const KdLayoutField *first = leaf->binding->n_in ? kd_layout_find (in, leaf->binding->in[0].name) : NULL;

  for (guint i = 0; i < leaf->binding->n_out; i++) {
    const KdBoundField *field = &leaf->binding->out[i];
    const KdLayoutField *same = kd_layout_find (in, field->name);
    KdDtype fallback = first ? first->dtype : KD_FLOAT32;
    gboolean open = field->n_axes && (field->axes[0].kind == KD_AXIS_LEADING || field->axes[field->n_axes - 1].kind == KD_AXIS_TRAILING);
    if (field->absent)
      continue;
    if (same && open)
      kd_layout_set (layout, field->name, kd_dtypes_are_one (field->dtype) ? field->dtype : fallback, same->rank, same->dims);
    else
      kd_layout_add_bound (layout, field, sizes, fallback);
  }
}

static KdLayout *
leaf_negotiate (KdElement *element, const KdLayout *in, GError **error)
{
  KdLeafElement *self = KD_LEAF_ELEMENT (element);
  KdLeafElementClass *klass = KD_LEAF_ELEMENT_GET_CLASS (self);
  KdLeaf *leaf = LEAF (self);
  const KdDesc *desc = KD_ELEMENT_CLASS (klass)->desc;
  g_autoptr (KdLayout) out = kd_layout_copy (in);
  KdSizes sizes;

  g_clear_pointer (&leaf->binding, kd_binding_free);
  leaf->binding = kd_binding_new (desc, klass->outputs, kd_element_params (element), GST_OBJECT_NAME (element), error);
  if (!leaf->binding || !kd_binding_check_layout (leaf->binding, in, &sizes, error))
    return NULL;
  leaf->binding->teacher = leaf->teacher;
  if (!leaf->state && !kd_desc_state_open (desc, kd_element_params (element), &leaf->state, error)) {
    g_prefix_error (error, "element=%s: ", GST_OBJECT_NAME (element));
    return NULL;
  }
  if (klass->prepare && !klass->prepare (self, leaf, in, error))
    return NULL;
  extend_with_outputs (leaf, &sizes, in, out);
  if (klass->extend)
    klass->extend (self, leaf, &sizes, out);
  return g_steal_pointer (&out);
}

static gboolean
leaf_process (KdElement *element, GstBuffer **buffer, KdBatch *batch, GError **error)
{
  KdLeafElement *self = KD_LEAF_ELEMENT (element);

  if (!kd_leaf_obey (element, error) || !KD_LEAF_ELEMENT_GET_CLASS (self)->run (self, LEAF (self), batch, error))
    return FALSE;
  kd_leaf_show (self);
  if (G_UNLIKELY (batch->n_samples == 0))
    g_clear_pointer (buffer, gst_buffer_unref); /* a selector took all of it */
  return TRUE;
}

static void
leaf_stop (KdElement *element)
{
  KdLeaf *leaf = LEAF (element);

  kd_desc_state_free (KD_ELEMENT_GET_CLASS (element)->desc, g_steal_pointer (&leaf->state));
  g_clear_pointer (&leaf->binding, kd_binding_free);
  g_clear_pointer (&leaf->schedule, kd_schedule_free);
  leaf->teacher = NULL;
  leaf->reset = leaf->signalled = FALSE;
}

/* Comes after the layout, before the first batch. */
static void
leaf_identify (KdElement *element, GstStructure *identity)
{
  KdLeaf *leaf = LEAF (element);

  leaf->teacher = g_intern_string (gst_structure_get_string (identity, "teacher"));
  if (leaf->binding)
    leaf->binding->teacher = leaf->teacher;
}

static gboolean
leaf_save (KdElement *element, GHashTable *table, GError **error)
{
  const KdDesc *desc = KD_ELEMENT_GET_CLASS (element)->desc;
  KdLeaf *leaf = LEAF (element);

  for (const KdStateField *field = desc->state_fields; leaf->state && field && field->name; field++) {
    gint64 n = field->n;
    KdTensor *tensor = kd_tensor_new (field->dtype, 1, &n);
    memcpy (tensor->data, (const gchar *) leaf->state + field->offset, tensor->n_bytes);
    g_hash_table_insert (table, g_strdup (field->name), tensor);
  }
  if (leaf->state && desc->state_save)
    desc->state_save (leaf->state, table);
  return TRUE;
}

static gboolean
leaf_load (KdElement *element, GHashTable *table, GError **error)
{
  const KdDesc *desc = KD_ELEMENT_GET_CLASS (element)->desc;
  KdLeaf *leaf = LEAF (element);

  for (const KdStateField *field = desc->state_fields; leaf->state && field && field->name; field++) {
    KdTensor *tensor = g_hash_table_lookup (table, field->name);
    if (!tensor || tensor->dtype != field->dtype || kd_tensor_n_elements (tensor) != field->n) {
      g_set_error (error, KD_ERROR, KD_ERROR_MISMATCH, "State does not fit: element=%s, state=%s, %s; the checkpoint is of another graph",
          GST_OBJECT_NAME (element), field->name, tensor ? "its type or size is another" : "it is missing");
      return FALSE;
    }
    memcpy ((gchar *) leaf->state + field->offset, tensor->data, tensor->n_bytes);
  }
  if (leaf->state && desc->state_load && !desc->state_load (kd_element_params (element), leaf->state, table, error)) {
    g_prefix_error (error, "element=%s: ", GST_OBJECT_NAME (element));
    return FALSE;
  }
  return TRUE;
}

static void
kd_leaf_element_finalize (GObject *object)
{
  leaf_stop (KD_ELEMENT (object));
  G_OBJECT_CLASS (kd_leaf_element_parent_class)->finalize (object);
}

static void
kd_leaf_element_class_init (KdLeafElementClass *klass)
{
  KdElementClass *element_class = KD_ELEMENT_CLASS (klass);

  element_class->negotiate = leaf_negotiate;
  element_class->process = leaf_process;
  element_class->stop = leaf_stop;
  element_class->identify = leaf_identify;
  element_class->save = leaf_save;
  element_class->load = leaf_load;
  element_class->event = kd_leaf_event;
  G_OBJECT_CLASS (klass)->finalize = kd_leaf_element_finalize;
}

static void
kd_leaf_element_init (KdLeafElement *self)
{
}

KdLeaf *
kd_leaf_element_peek (KdLeafElement *self)
{
  return LEAF (self);
}
