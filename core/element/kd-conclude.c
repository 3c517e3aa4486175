/* The end of a stream for leaves that gather over all of it: their results, and the file that keeps them. */
#include "kd-leaf.h"

#include "../batch/kd-h5.h"

gboolean
kd_element_is_dry_run (GstElement *element)
{
  GstContext *context = gst_element_get_context (element, "kd.run");
  gboolean dry_run = FALSE;

  if (context) {
    gst_structure_get_boolean (gst_context_get_structure (context), "dry-run", &dry_run);
    gst_context_unref (context);
  }
  return dry_run;
}

gboolean
kd_transform_desc_conclude (const KdTransformDesc *desc, gconstpointer params, gpointer state, KdBatch *batch, GError **error)
{
  KdCall call = { .params = params, .state = state };
  KdOutputs outputs = { { NULL } };
  gboolean ok;

  if (!desc->conclude)
    return TRUE;
  ok = desc->conclude (&call, &outputs, error);
  for (guint i = 0; desc->results[i].name; i++) {
    if (ok && outputs.out[i])
      kd_batch_set (batch, desc->results[i].name, outputs.out[i]);
    else
      g_clear_pointer (&outputs.out[i], kd_tensor_unref);
  }
  return ok;
}

static gboolean
write_file (const gchar *path, const KdDesc *desc, const gchar *teacher, const KdBatch *batch, GError **error)
{
  g_autoptr (KdH5Writer) writer = kd_h5_writer_new (path, error);

  if (!writer || !kd_h5_writer_set_attribute (writer, "kd.element", desc->name, error) ||
      (teacher && !kd_h5_writer_set_attribute (writer, "kd.teacher", teacher, error)))
    return FALSE;
  for (guint i = 0; i < kd_batch_n_fields (batch); i++) {
    const KdBatchField *field = kd_batch_nth (batch, i);
    if (!kd_h5_writer_write (writer, NULL, field->name, field->tensor, error))
      return FALSE;
  }
  return kd_h5_writer_finish (writer, error);
}

gboolean
kd_leaf_write_results (KdLeafElement *self, const KdTransformDesc *desc, GError **error)
{
  const KdLeaf *leaf = kd_leaf_element_peek (self);
  gconstpointer params = kd_element_params (KD_ELEMENT (self));
  const KdParam *param = kd_param_find (desc->params, "location");
  g_autofree gchar *path = param ? kd_param_to_string (param, params) : NULL;
  g_autoptr (GstBuffer) buffer = NULL;
  KdBatch *batch;

  /* without a file nobody wants it */
  if (!desc->conclude || !leaf->state || !path || !*path || kd_element_is_dry_run (GST_ELEMENT (self)))
    return TRUE;
  buffer = kd_batch_buffer_new (0, &batch);
  if (!kd_transform_desc_conclude (desc, params, leaf->state, batch, error))
    return FALSE;
  return kd_batch_n_fields (batch) == 0 || write_file (path, (const KdDesc *) desc, leaf->teacher, batch, error);
}
