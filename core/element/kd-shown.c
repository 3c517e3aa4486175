/* What an application sees of a leaf's state and does to it: read-only properties that follow the batches, `reset`, a flush, a signal. */
#include "kd-leaf.h"

#define RESET_ID KD_STATE_ID
#define SHOWN_ID (KD_STATE_ID + 1)

/* Of all leaf types: what KdElement has for the properties of the descriptor's table. */
static void (*set_param) (GObject *object, guint id, const GValue *value, GParamSpec *pspec);
static void (*get_param) (GObject *object, guint id, GValue *value, GParamSpec *pspec);

static const KdStateField *
nth_shown (const KdDesc *desc, guint n)
{
  const KdStateField *field = desc->state_fields;

  while (field && field->name && (!field->property || n-- > 0))
    field++;
  return field && field->name ? field : NULL;
}

static void
set_property (GObject *object, guint id, const GValue *value, GParamSpec *pspec)
{
  if (id == RESET_ID)
    g_atomic_int_set (&kd_leaf_element_peek (KD_LEAF_ELEMENT (object))->reset, g_value_get_boolean (value));
  else
    set_param (object, id, value, pspec);
}

static void
get_property (GObject *object, guint id, GValue *value, GParamSpec *pspec)
{
  KdLeaf *leaf = kd_leaf_element_peek (KD_LEAF_ELEMENT (object));

  if (id == RESET_ID) {
    g_value_set_boolean (value, g_atomic_int_get (&leaf->reset));
  } else if (id >= SHOWN_ID) {
    GST_OBJECT_LOCK (object);
    g_value_set_double (value, leaf->shown[id - SHOWN_ID]);
    GST_OBJECT_UNLOCK (object);
  } else {
    get_param (object, id, value, pspec);
  }
}

void
kd_leaf_class_show (KdElementClass *klass)
{
  GObjectClass *object_class = G_OBJECT_CLASS (klass);
  const KdStateField *field;

  set_param = object_class->set_property;
  get_param = object_class->get_property;
  object_class->set_property = set_property;
  object_class->get_property = get_property;
  if (klass->desc->resets)
    g_object_class_install_property (object_class, RESET_ID, g_param_spec_boolean ("reset", "reset", "Begin anew with the next batch, as after a flush; false again then", FALSE, G_PARAM_READWRITE | G_PARAM_STATIC_STRINGS | GST_PARAM_MUTABLE_PLAYING));
  for (guint i = 0; (field = nth_shown (klass->desc, i)); i++)
    g_object_class_install_property (object_class, SHOWN_ID + i, g_param_spec_double (field->property, field->property, field->blurb, -G_MAXDOUBLE, G_MAXDOUBLE, 0, G_PARAM_READABLE | G_PARAM_STATIC_STRINGS));
}

void
kd_leaf_show (KdLeafElement *self)
{
  KdLeaf *leaf = kd_leaf_element_peek (self);
  const KdStateField *field;

  for (guint i = 0; leaf->state && (field = nth_shown (KD_ELEMENT_GET_CLASS (self)->desc, i)); i++) {
    gdouble value = G_STRUCT_MEMBER (gdouble, leaf->state, field->offset);
    gboolean changed;
    GST_OBJECT_LOCK (self);
    changed = leaf->shown[i] != value;
    leaf->shown[i] = value;
    GST_OBJECT_UNLOCK (self);
    if (changed)
      g_object_notify (G_OBJECT (self), field->property);
  }
}

gboolean
kd_leaf_event (KdElement *element, GstEvent *event)
{
  const KdDesc *desc = KD_ELEMENT_GET_CLASS (element)->desc;
  KdLeaf *leaf = kd_leaf_element_peek (KD_LEAF_ELEMENT (element));

  if (GST_EVENT_TYPE (event) == GST_EVENT_FLUSH_STOP && desc->resets)
    g_atomic_int_set (&leaf->reset, TRUE);
  if (!desc->signal || !gst_event_has_name (event, desc->signal))
    return FALSE;
  g_atomic_int_set (&leaf->signalled, TRUE);
  return TRUE;
}

gboolean
kd_leaf_obey (KdElement *element, GError **error)
{
  const KdDesc *desc = KD_ELEMENT_GET_CLASS (element)->desc;
  KdLeaf *leaf = kd_leaf_element_peek (KD_LEAF_ELEMENT (element));
  gpointer state = NULL;

  leaf->binding->signalled = g_atomic_int_compare_and_exchange (&leaf->signalled, TRUE, FALSE);
  if (!g_atomic_int_compare_and_exchange (&leaf->reset, TRUE, FALSE) || !leaf->state)
    return TRUE;
  if (!kd_desc_state_open (desc, kd_element_params (element), &state, error))
    return FALSE;
  kd_desc_state_free (desc, leaf->state);
  leaf->state = state;
  return TRUE;
}
