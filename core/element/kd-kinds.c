/* The four kinds of leaf elements: loss, transform, augment, selector. */
#include "kd-leaf.h"

#include <string.h>

/* Each kind is a base class of its own, so that tools can tell them apart and a later kind can derive from one. */
#define DEFINE_KIND(Name, name)                             \
  typedef struct {                                          \
    KdLeafElement parent;                                   \
  } Name;                                                   \
  typedef struct {                                          \
    KdLeafElementClass parent;                              \
  } Name##Class;                                            \
  G_DEFINE_ABSTRACT_TYPE (Name, name, KD_TYPE_LEAF_ELEMENT) \
  static void name##_init (Name *self)                      \
  {                                                         \
  }

DEFINE_KIND (KdLoss, kd_loss)
DEFINE_KIND (KdTransform, kd_transform)
DEFINE_KIND (KdAugment, kd_augment)
DEFINE_KIND (KdSelector, kd_selector)

#define DESC(self, Type) ((const Type *) KD_ELEMENT_GET_CLASS (self)->desc)

/* Every 16th batch the loss is measured apart: its share of the gradient costs a pass, so not every time. */
#define MEASURE_EVERY 16

static void
loss_extend (KdLeafElement *self, const KdLeaf *leaf, const KdSizes *sizes, KdLayout *layout)
{
  const KdLossDesc *desc = DESC (self, KdLossDesc);
  g_autofree gchar *own = g_strconcat ("loss.", desc->name, NULL);

  kd_layout_set (layout, "loss", KD_FLOAT64, 0, NULL);
  kd_layout_set (layout, own, KD_FLOAT64, 0, NULL);
  for (guint i = 0; desc->terms && desc->terms[i]; i++) {
    g_autofree gchar *term = g_strconcat ("loss.", desc->terms[i], NULL);
    kd_layout_set (layout, term, KD_FLOAT64, 0, NULL);
  }
  for (guint i = 0; i < leaf->binding->n_in; i++) {
    const KdBoundField *field = &leaf->binding->in[i];
    const KdLayoutField *input = kd_layout_find (layout, field->name);
    g_autofree gchar *grad = g_strconcat ("grad.", field->name, NULL);
    if (input && (field->flags & KD_FIELD_GRAD))
      kd_layout_set (layout, grad, KD_FLOAT32, input->rank, input->dims);
  }
}

static gboolean
loss_prepare (KdLeafElement *self, KdLeaf *leaf, const KdLayout *in, GError **error)
{
  KdElementClass *klass = KD_ELEMENT_GET_CLASS (self);
  const KdRunOptions *options = kd_element_base_params (KD_ELEMENT (self));
  const KdLossDesc *desc = DESC (self, KdLossDesc);

  leaf->binding->element = kd_element_has_trainer (KD_ELEMENT (self)) ? self : NULL;
  if (leaf->binding->element && desc->check_training && !desc->check_training (kd_element_params (KD_ELEMENT (self)), leaf->state, in, error))
    return FALSE;
  g_clear_pointer (&leaf->schedule, kd_schedule_free);
  if (!options->schedule || !*options->schedule)
    return TRUE;
  leaf->schedule = kd_schedule_new (options->schedule, klass->desc->params, klass->base, GST_OBJECT_NAME (self), error);
  return leaf->schedule != NULL;
}

/* The parameters of this batch are copies: what a schedule writes is not what the properties say. Strings stay the snapshot's. */
static gboolean
loss_run_scheduled (KdLeafElement *self, const KdLeaf *leaf, KdBatch *batch, gboolean measure, GError **error)
{
  KdElement *element = KD_ELEMENT (self);
  const KdLossDesc *desc = DESC (self, KdLossDesc);
  g_autofree gpointer params = g_memdup2 (kd_element_params (element), MAX (desc->params_size, 1));
  KdRunOptions options = *(const KdRunOptions *) kd_element_base_params (element);

  if (!kd_schedule_apply (leaf->schedule, batch, params, &options, error) ||
      !kd_loss_run_bound (desc, leaf->binding, params, &options, leaf->state, batch, measure, error))
    return FALSE;
  if (kd_element_has_trainer (element))
    kd_schedule_report (leaf->schedule, GST_OBJECT_NAME (self), batch);
  return TRUE;
}

static gboolean
loss_run (KdLeafElement *self, const KdLeaf *leaf, KdBatch *batch, GError **error)
{
  gboolean measure = batch->index % MEASURE_EVERY == 0 && !(batch->flags & KD_BATCH_VALIDATION) && kd_element_has_trainer (KD_ELEMENT (self));

  if (leaf->schedule)
    return loss_run_scheduled (self, leaf, batch, measure, error);
  return kd_loss_run_bound (DESC (self, KdLossDesc), leaf->binding, kd_element_params (KD_ELEMENT (self)), kd_element_base_params (KD_ELEMENT (self)),
      leaf->state, batch, measure, error);
}

static void
transform_announce (KdLeafElement *self, const KdLeaf *leaf)
{
  KdCall call = { .params = kd_element_params (KD_ELEMENT (self)), .state = leaf->state };
  GstStructure *structure = DESC (self, KdTransformDesc)->announce (&call);

  if (!structure)
    return;
  gst_element_post_message (GST_ELEMENT (self), gst_message_new_element (GST_OBJECT (self), gst_structure_copy (structure)));
  gst_pad_push_event (kd_element_sink_pad (KD_ELEMENT (self)), gst_event_new_custom (GST_EVENT_CUSTOM_UPSTREAM, structure));
}

static gboolean
transform_run (KdLeafElement *self, const KdLeaf *leaf, KdBatch *batch, GError **error)
{
  KdRunOptions options;

  kd_run_options_init (&options);
  if (!kd_transform_run_bound (DESC (self, KdTransformDesc), leaf->binding, kd_element_params (KD_ELEMENT (self)), &options, leaf->state, batch, error))
    return FALSE;
  if (DESC (self, KdTransformDesc)->announce)
    transform_announce (self, leaf);
  return TRUE;
}

static void
transform_extend (KdLeafElement *self, const KdLeaf *leaf, const KdSizes *sizes, KdLayout *layout)
{
  const KdTransformDesc *desc = DESC (self, KdTransformDesc);

  for (guint i = 0; desc->drops && desc->drops[i]; i++)
    kd_layout_remove (layout, desc->drops[i]);
}

static void
transform_report (KdElement *element, guint epoch, gboolean final)
{
  const KdTransformDesc *desc = DESC (element, KdTransformDesc);
  const KdLeaf *leaf = kd_leaf_element_peek (KD_LEAF_ELEMENT (element));
  KdCall call = { .params = kd_element_params (element), .state = leaf->state, .epoch = epoch };
  GstStructure *structure;

  if (!desc->finish || !leaf->state)
    return;
  structure = desc->finish (&call);
  if (!structure)
    return;
  gst_structure_set (structure, "element", G_TYPE_STRING, GST_OBJECT_NAME (element), "epoch", G_TYPE_UINT, epoch, "final", G_TYPE_BOOLEAN, final,
      NULL);
  gst_element_post_message (GST_ELEMENT (element), gst_message_new_element (GST_OBJECT (element), structure));
}

static gboolean
transform_epoch (KdElement *element, guint epoch, GError **error)
{
  transform_report (element, epoch, FALSE);
  return TRUE;
}

static gboolean
transform_finish (KdElement *element, GError **error)
{
  transform_report (element, 0, TRUE);
  return kd_leaf_write_results (KD_LEAF_ELEMENT (element), DESC (element, KdTransformDesc), error);
}

static void
augment_extend (KdLeafElement *self, const KdLeaf *leaf, const KdSizes *sizes, KdLayout *layout)
{
  const gint64 dims[1] = { KD_DIM_ANY };

  kd_layout_set (layout, "sample.view", KD_INT64, 1, dims);
}

static gboolean
augment_run (KdLeafElement *self, const KdLeaf *leaf, KdBatch *batch, GError **error)
{
  return kd_augment_run_bound (DESC (self, KdAugmentDesc), leaf->binding, kd_element_params (KD_ELEMENT (self)),
      kd_element_base_params (KD_ELEMENT (self)), leaf->state, batch, error);
}

/* "kdnoise std=0.1 seed=3": what a cache must know of what its rows came through. */
static void
augment_identify (KdElement *element, GstStructure *identity)
{
  KdElementClass *klass = KD_ELEMENT_GET_CLASS (element);
  const gchar *before = gst_structure_get_string (identity, "preprocessing");
  g_autoptr (GString) text = g_string_new (before && *before ? before : "");
  const KdParam *tables[2] = { klass->desc->params, klass->base };
  gconstpointer blocks[2] = { kd_element_params (element), kd_element_base_params (element) };

  g_string_append_printf (text, "%s%s", text->len ? " ! " : "", klass->desc->name);
  for (guint t = 0; t < 2; t++)
    for (const KdParam *param = tables[t]; param && param->type != KD_PARAM_TYPE_END; param++) {
      g_autofree gchar *name = kd_param_name (param);
      g_autofree gchar *value = kd_param_to_string (param, blocks[t]);
      g_string_append_printf (text, " %s=%s", name, value);
    }
  gst_structure_set (identity, "preprocessing", G_TYPE_STRING, text->str, NULL);
}

static void
augment_resume (KdElement *element, KdResume *resume)
{
  resume->views = ((const KdRunOptions *) kd_element_base_params (element))->views;
}

static void
selector_extend (KdLeafElement *self, const KdLeaf *leaf, const KdSizes *sizes, KdLayout *layout)
{
  const gint64 dims[1] = { KD_DIM_ANY };

  kd_layout_set (layout, "sample.weight", KD_FLOAT32, 1, dims);
}

static gboolean
selector_run (KdLeafElement *self, const KdLeaf *leaf, KdBatch *batch, GError **error)
{
  if (!kd_selector_run_bound (DESC (self, KdSelectorDesc), leaf->binding, kd_element_params (KD_ELEMENT (self)),
          kd_element_base_params (KD_ELEMENT (self)), leaf->state, batch, error))
    return FALSE;
  if (!kd_batch_peek (batch, "sample.weight")) { /* what the layout promised */
    gint64 dims[1] = { batch->n_samples };
    KdTensor *ones = kd_tensor_new (KD_FLOAT32, 1, dims);
    for (gint64 n = 0; n < dims[0]; n++)
      ((gfloat *) ones->data)[n] = 1;
    kd_batch_set (batch, "sample.weight", ones);
  }
  return TRUE;
}

static void
kd_loss_class_init (KdLossClass *klass)
{
  klass->parent.extend = loss_extend;
  klass->parent.prepare = loss_prepare;
  klass->parent.run = loss_run;
}

static void
kd_transform_class_init (KdTransformClass *klass)
{
  klass->parent.extend = transform_extend;
  klass->parent.run = transform_run;
  klass->parent.parent.epoch = transform_epoch;
  klass->parent.parent.finish = transform_finish;
}

static void
kd_augment_class_init (KdAugmentClass *klass)
{
  klass->parent.extend = augment_extend;
  klass->parent.run = augment_run;
  klass->parent.parent.identify = augment_identify;
  klass->parent.parent.resume = augment_resume;
}

static void
kd_selector_class_init (KdSelectorClass *klass)
{
  klass->parent.extend = selector_extend;
  klass->parent.run = selector_run;
}

/* A loss whose paper gives its weight shows that as the property's default. The table is per type and lives as long. */
static const KdParam *
loss_base_table (const KdLossDesc *desc)
{
  KdParam *table;
  guint n = 0;

  if (desc->default_weight == 0)
    return kd_loss_base_params;
  while (kd_loss_base_params[n].type != KD_PARAM_TYPE_END)
    n++;
  table = g_memdup2 (kd_loss_base_params, (n + 1) * sizeof *table);
  table[0].def = desc->default_weight;
  return table;
}

static void
loss_leaf_class_init (gpointer klass, gpointer desc)
{
  KD_LEAF_ELEMENT_CLASS (klass)->outputs = ((const KdLossDesc *) desc)->outputs;
  kd_element_class_install (klass, desc, "loss", "Filter/Loss", loss_base_table (desc), sizeof (KdRunOptions));
  kd_leaf_class_show (klass);
}

static void
transform_leaf_class_init (gpointer klass, gpointer desc)
{
  KD_LEAF_ELEMENT_CLASS (klass)->outputs = ((const KdTransformDesc *) desc)->outputs;
  kd_element_class_install (klass, desc, "transform", "Filter/Transform", NULL, 0);
  kd_leaf_class_show (klass);
}

static void
augment_leaf_class_init (gpointer klass, gpointer desc)
{
  KD_LEAF_ELEMENT_CLASS (klass)->outputs = ((const KdAugmentDesc *) desc)->outputs;
  kd_element_class_install (klass, desc, "augment", "Filter/Augmentation", kd_augment_base_params, sizeof (KdRunOptions));
  kd_leaf_class_show (klass);
}

static void
selector_leaf_class_init (gpointer klass, gpointer desc)
{
  kd_element_class_install (klass, desc, "selector", "Filter/Selector", kd_selector_base_params, sizeof (KdRunOptions));
  kd_leaf_class_show (klass);
}

gboolean
kd_loss_register (GstPlugin *plugin, const KdLossDesc *desc)
{
  return kd_element_register (plugin, (const KdDesc *) desc, kd_loss_get_type (), loss_leaf_class_init);
}

gboolean
kd_transform_register (GstPlugin *plugin, const KdTransformDesc *desc)
{
  return kd_element_register (plugin, (const KdDesc *) desc, kd_transform_get_type (), transform_leaf_class_init);
}

gboolean
kd_augment_register (GstPlugin *plugin, const KdAugmentDesc *desc)
{
  return kd_element_register (plugin, (const KdDesc *) desc, kd_augment_get_type (), augment_leaf_class_init);
}

gboolean
kd_selector_register (GstPlugin *plugin, const KdSelectorDesc *desc)
{
  return kd_element_register (plugin, (const KdDesc *) desc, kd_selector_get_type (), selector_leaf_class_init);
}
