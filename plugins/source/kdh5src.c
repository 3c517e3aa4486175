/**
 * SECTION:element-kdh5src
 * @short_description: batches from a batch file
 *
 * Gives out the rows of an HDF5 batch file: in order, or shuffled by a permutation that depends on seed and epoch alone; all of them, a range
 * or a shard; once or for several epochs. Uncompressed files are mapped: rows in order are views of the file, shuffled rows are copied once.
 *
 * ## Fields
 *  - adds the file's fields, or those named in `fields`; sample.id: int64 [N], the row's index when the file has none
 * ## Errors
 * A file that is missing, truncated or not a batch file; a field that is not in it; a range outside it.
 * ## Source
 * The format: schemas/batch-file.md
 * ## Example
 * |[ gst-launch-1.0 kdh5src location=train.h5 shuffle=true seed=1 epochs=10 batch-size=64 ! kdteacher arch='mlp dims=64,10' ! kdcachesink location=t.h5 ]|
 */
#include <kd/kd.h>

#include <string.h>

typedef struct {
  gchar *location;
  gchar *fields;
} KdH5SrcParams;

typedef struct {
  KdH5Reader *reader;
  GPtrArray *names; /* interned, of the fields to give out */
} KdH5SrcState;

static const KdParam kd_h5_src_params[] = {
  KD_PARAM_STRING (KdH5SrcParams, location, "", "The batch file to read"),
  KD_PARAM_STRING (KdH5SrcParams, fields, "", "Fields to give out, with commas; empty: all"),
  KD_PARAM_END
};

static gboolean
add_field (KdH5SrcState *state, const KdLayoutField *field, KdLayout *layout)
{
  if (field->rank == 0)
    return FALSE; /* a value of a whole batch of another run */
  kd_layout_set (layout, field->name, field->dtype, field->rank, field->dims);
  g_ptr_array_add (state->names, (gpointer) field->name);
  return TRUE;
}

static gboolean
choose_fields (const KdH5SrcParams *p, KdH5SrcState *state, KdLayout *layout, GError **error)
{
  const KdLayout *have = kd_h5_reader_layout (state->reader);
  g_auto (GStrv) wanted = g_strsplit (p->fields ? p->fields : "", ",", -1);

  for (guint i = 0; i < kd_layout_n_fields (have) && !wanted[0]; i++)
    add_field (state, kd_layout_nth (have, i), layout);
  for (guint i = 0; wanted[i]; i++) {
    const KdLayoutField *field = kd_layout_find (have, g_strstrip (wanted[i]));
    if (!field || !add_field (state, field, layout)) {
      g_autofree gchar *names = kd_layout_names (have);
      g_set_error (error, KD_ERROR, KD_ERROR_FIELD, "Field not in the file: path=\"%s\", field=%s, fields=\"%s\"", p->location, wanted[i], names);
      return FALSE;
    }
  }
  /* Caches join on it: with it left out the base would number the rows anew. */
  if (wanted[0] && !kd_layout_find (layout, "sample.id") && kd_layout_find (have, "sample.id"))
    add_field (state, kd_layout_find (have, "sample.id"), layout);
  return TRUE;
}

static gboolean
kd_h5_src_open (gconstpointer params, gpointer state_block, gint64 *ret_n_rows, KdLayout *layout, GError **error)
{
  const KdH5SrcParams *p = params;
  KdH5SrcState *state = state_block;

  if (!p->location || !*p->location) {
    g_set_error (error, KD_ERROR, KD_ERROR_VALUE, "No file given: element=kdh5src, property=location; set it to a batch file (kd data import makes one)");
    return FALSE;
  }
  state->names = g_ptr_array_new ();
  state->reader = kd_h5_reader_open (p->location, NULL, error);
  if (!state->reader || !kd_h5_reader_check_rows (state->reader, error) || !choose_fields (p, state, layout, error))
    return FALSE;
  *ret_n_rows = kd_h5_reader_n_rows (state->reader);
  return TRUE;
}

static gboolean
in_order (const gint64 *rows, gint64 n)
{
  for (gint64 i = 1; i < n; i++)
    if (rows[i] != rows[0] + i)
      return FALSE;
  return n > 0;
}

static gboolean
kd_h5_src_read (gpointer state_block, const gint64 *rows, gint64 n, KdBatch *batch, GError **error)
{
  KdH5SrcState *state = state_block;
  gboolean view = in_order (rows, n);

  for (guint i = 0; i < state->names->len; i++) {
    const gchar *name = g_ptr_array_index (state->names, i);
    KdTensor *tensor = view ? kd_h5_reader_read (state->reader, name, rows[0], n, error) : kd_h5_reader_take (state->reader, name, rows, n, error);
    if (!tensor)
      return FALSE;
    kd_batch_set (batch, name, tensor);
  }
  return TRUE;
}

static void
kd_h5_src_close (gpointer state_block)
{
  KdH5SrcState *state = state_block;

  g_clear_pointer (&state->reader, kd_h5_reader_close);
  g_clear_pointer (&state->names, g_ptr_array_unref);
}

static gchar *
kd_h5_src_fingerprint (gpointer state_block)
{
  return kd_h5_fingerprint (((KdH5SrcState *) state_block)->reader, NULL);
}

static const KdSourceDesc kd_h5_src = {
  .name = "kdh5src",
  .title = "Batch file source",
  .description = "Gives out the rows of an HDF5 batch file, shuffled, sharded, for several epochs",
  .source = "schemas/batch-file.md",
  .provides = "input label sample.* mask token.weight record rng.*",
  .params = kd_h5_src_params,
  .params_size = sizeof (KdH5SrcParams),
  .state_size = sizeof (KdH5SrcState),
  .open = kd_h5_src_open,
  .read = kd_h5_src_read,
  .close = kd_h5_src_close,
  .fingerprint = kd_h5_src_fingerprint,
};

KD_SOURCE_PLUGIN (kd_h5_src)
