/**
 * SECTION:element-kdh5sink
 * @short_description: batches into a batch file
 *
 * Writes the batches that come as one HDF5 batch file. The file appears under its name when the stream ends, complete and synced, or not at all.
 * Of several processes (mpirun, srun), each with its share of the rows, every one writes a file of its own: LOCATION.rank-R-of-N.
 *
 * ## Fields
 *  - those named in `fields`, or all that have rows; a value of the whole batch (`loss`) gives one row a batch and is written only when
 *    `fields` names nothing but such values
 * ## Errors
 * A field that is missing; shapes that change from batch to batch; a full disk.
 * ## Source
 * The format: schemas/batch-file.md
 * ## Example
 * |[ gst-launch-1.0 kdh5src location=train.h5 ! kdnoise std=0.1 ! kdh5sink location=noisy.h5 fields=input,label,sample.id ]|
 */
#include <kd/kd.h>

typedef struct {
  gchar *location;
  gchar *fields;
} KdH5SinkParams;

typedef struct {
  KdH5Writer *writer;
  GPtrArray *names; /* interned */
} KdH5SinkState;

static const KdParam kd_h5_sink_params[] = {
  KD_PARAM_STRING (KdH5SinkParams, location, "", "The batch file to write; a process's share goes into LOCATION.rank-R-of-N"),
  KD_PARAM_STRING (KdH5SinkParams, fields, "", "Fields to write, with commas; empty: all that have rows"),
  KD_PARAM_END
};

static gboolean
kd_h5_sink_check (gconstpointer params, GError **error)
{
  const KdH5SinkParams *p = params;

  if (p->location && *p->location)
    return TRUE;
  g_set_error (error, KD_ERROR, KD_ERROR_VALUE, "No file given: element=kdh5sink, property=location; set it to the batch file to write");
  return FALSE;
}

static gboolean
choose_fields (const KdH5SinkParams *p, KdH5SinkState *state, const KdLayout *layout, GError **error)
{
  g_auto (GStrv) wanted = g_strsplit (p->fields ? p->fields : "", ",", -1);
  guint n_scalars = 0;

  for (guint i = 0; i < kd_layout_n_fields (layout) && !wanted[0]; i++)
    if (kd_layout_nth (layout, i)->rank > 0)
      g_ptr_array_add (state->names, (gpointer) kd_layout_nth (layout, i)->name);
  for (guint i = 0; wanted[i]; i++) {
    const KdLayoutField *field = kd_layout_find (layout, g_strstrip (wanted[i]));
    if (!field) {
      g_autofree gchar *names = kd_layout_names (layout), *providers = kd_providers (wanted[i]);
      g_set_error (error, KD_ERROR, KD_ERROR_FIELD, "Field missing: element=kdh5sink, field=%s, layout=\"%s\"; put %s before it", wanted[i], names,
          providers);
      return FALSE;
    }
    n_scalars += field->rank == 0;
    g_ptr_array_add (state->names, (gpointer) field->name);
  }
  if (n_scalars == 0 || n_scalars == state->names->len)
    return TRUE;
  g_set_error (error, KD_ERROR, KD_ERROR_SHAPE, "Values of whole batches beside rows: element=kdh5sink, fields=\"%s\"; write them into two files", p->fields);
  return FALSE;
}

static gboolean
kd_h5_sink_open (gconstpointer params, gpointer state_block, const KdLayout *layout, GError **error)
{
  const KdH5SinkParams *p = params;
  KdH5SinkState *state = state_block;
  g_autofree gchar *share = kd_world_size () > 1 ? g_strdup_printf ("%s.rank-%d-of-%d", p->location, kd_world_rank (), kd_world_size ()) : NULL;

  state->names = g_ptr_array_new ();
  if (!choose_fields (p, state, layout, error))
    return FALSE;
  state->writer = kd_h5_writer_new (share ? share : p->location, error);
  return state->writer != NULL;
}

static gboolean
kd_h5_sink_write (gpointer state_block, KdBatch *batch, GError **error)
{
  KdH5SinkState *state = state_block;
  g_autofree KdTensor **tensors = g_new0 (KdTensor *, MAX (state->names->len, 1));

  for (guint i = 0; i < state->names->len; i++) {
    const gchar *name = g_ptr_array_index (state->names, i);
    tensors[i] = kd_batch_read (batch, name);
    if (!tensors[i]) {
      g_set_error (error, KD_ERROR, KD_ERROR_FIELD, "Field missing: element=kdh5sink, field=%s, batch=%" G_GUINT64_FORMAT ", though the layout promised it",
          name, batch->index);
      return FALSE;
    }
  }
  return kd_h5_writer_append (state->writer, state->names->len, (const gchar *const *) state->names->pdata, tensors, error);
}

static gboolean
kd_h5_sink_finish (gpointer state_block, GError **error)
{
  KdH5SinkState *state = state_block;

  return state->writer && kd_h5_writer_finish (state->writer, error);
}

static void
kd_h5_sink_close (gpointer state_block)
{
  KdH5SinkState *state = state_block;

  g_clear_pointer (&state->writer, kd_h5_writer_close);
  g_clear_pointer (&state->names, g_ptr_array_unref);
}

static const KdSinkDesc kd_h5_sink = {
  .name = "kdh5sink",
  .title = "Batch file sink",
  .description = "Writes batches as one HDF5 batch file",
  .source = "schemas/batch-file.md",
  .params = kd_h5_sink_params,
  .params_size = sizeof (KdH5SinkParams),
  .state_size = sizeof (KdH5SinkState),
  .check = kd_h5_sink_check,
  .open = kd_h5_sink_open,
  .write = kd_h5_sink_write,
  .finish = kd_h5_sink_finish,
  .close = kd_h5_sink_close,
};

KD_SINK_PLUGIN (kd_h5_sink)
