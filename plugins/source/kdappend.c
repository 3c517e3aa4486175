/**
 * SECTION:element-kdappend
 * @short_description: rows of a second file in every batch
 *
 * Puts `rows` rows of another batch file behind the rows of each training batch: a few labelled rows into batches that have none. The rows of
 * the file (or of a range of it) come in a seeded order, a new one each time all of them have been used; which rows a batch gets depends on its
 * index and the seed alone, so a resumed run gives the batches that the uninterrupted one gives. Validation batches stay as they are.
 *
 * ## Fields
 *  - all that come must be in the file with the same type and shape; sample.id: the row's number when the file has none
 *  - label: int64 [N]: when only the file has it, the batch's own rows get -1 (no label); other fields that only the file has are left out
 * ## Errors
 * A file that is missing or no batch file, a range outside it, a field that the file does not have or has of another type or shape, a
 * field of a student in a graph that trains (put it before the student) or of a teacher (put it before kdteacher or kdcache).
 * ## Source
 * Of this project; two loaders, the labelled one restarted when it runs out: arXiv:2505.07675.
 * ## Example
 * |[ kd launch 'kdh5src location=digits.h5 fields=input first=20 epochs=5 batch-size=64 shuffle=true ! kdappend location=digits.h5 count=20 rows=20 !
 * kdh5sink location=out.h5' ]|
 */
#include <kd/kd.h>

#include <string.h>

typedef struct {
  gchar *location;
  gint64 rows, first, count;
  guint64 seed;
} KdAppendParams;

static const KdParam kd_append_params[] = {
  KD_PARAM_STRING (KdAppendParams, location, "", "The batch file whose rows to add"),
  KD_PARAM_INT (KdAppendParams, rows, 1, 1 << 24, 16, "Rows to add to each batch"),
  KD_PARAM_INT (KdAppendParams, first, 0, G_MAXINT64, 0, "First row of the file's range to use"),
  KD_PARAM_INT (KdAppendParams, count, 0, G_MAXINT64, 0, "Rows of the range, 0: up to the end"),
  KD_PARAM_UINT64 (KdAppendParams, seed, 0, "Key of the order of the file's rows"),
  KD_PARAM_END
};

static const KdDesc kd_append_desc = {
  .name = "kdappend",
  .title = "Rows of a second file",
  .description = "Adds rows of another batch file to each batch, such as labelled ones to batches without labels",
  .source = "of this project; arXiv:2505.07675 (two loaders)",
  .provides = "label",
  .params = kd_append_params,
  .params_size = sizeof (KdAppendParams),
};

typedef struct {
  KdElement parent;
  KdH5Reader *reader;
  gint64 n;           /* rows of the range */
  gboolean add_label; /* the batch has none */
} KdAppend;

typedef struct {
  KdElementClass parent;
} KdAppendClass;

static GType kd_append_get_type (void);
G_DEFINE_TYPE (KdAppend, kd_append, KD_TYPE_ELEMENT)

static KdAppend *
self_of (KdElement *element)
{
  return (KdAppend *) element;
}

static gboolean
open_file (KdAppend *self, GError **error)
{
  const KdAppendParams *p = kd_element_params (KD_ELEMENT (self));
  gint64 n;

  if (!p->location || !*p->location) {
    g_set_error (error, KD_ERROR, KD_ERROR_VALUE, "No file given: element=%s, property=location; set it to a batch file", GST_OBJECT_NAME (self));
    return FALSE;
  }
  g_clear_pointer (&self->reader, kd_h5_reader_close);
  self->reader = kd_h5_reader_open (p->location, NULL, error);
  if (!self->reader || !kd_h5_reader_check_rows (self->reader, error))
    return FALSE;
  n = kd_h5_reader_n_rows (self->reader);
  if (p->first >= n || p->count > n - p->first) {
    g_set_error (error, KD_ERROR, KD_ERROR_RANGE, "Range outside the file: element=%s, path=\"%s\", rows=%" G_GINT64_FORMAT ", first=%" G_GINT64_FORMAT ", count=%" G_GINT64_FORMAT,
        GST_OBJECT_NAME (self), p->location, n, p->first, p->count);
    return FALSE;
  }
  self->n = p->count ? p->count : n - p->first;
  return TRUE;
}

/* A field of the stream against the file's. */
static gboolean
check_field (KdAppend *self, const KdLayoutField *field, GError **error)
{
  const KdLayout *file = kd_h5_reader_layout (self->reader);
  const KdLayoutField *have = kd_layout_find (file, field->name);
  g_autofree gchar *wanted = NULL, *got = NULL, *names = NULL;
  gboolean same = have && have->dtype == field->dtype && have->rank == field->rank;

  for (guint i = 1; same && i < field->rank; i++)
    same = have->dims[i] == field->dims[i];
  if (same || field->rank == 0 || (!have && g_str_equal (field->name, "sample.id")))
    return TRUE;
  wanted = kd_layout_field_string (field);
  if (have) {
    got = kd_layout_field_string (have);
    g_set_error (error, KD_ERROR, KD_ERROR_SHAPE, "Rows differ: element=%s, field=%s, stream=%s, file=%s, path=\"%s\"", GST_OBJECT_NAME (self), field->name, wanted,
        got, kd_h5_reader_path (self->reader));
    return FALSE;
  }
  names = kd_layout_names (file);
  g_set_error (error, KD_ERROR, KD_ERROR_FIELD, "Field not in the file: element=%s, field=%s, path=\"%s\", fields=\"%s\"; put kdappend before the element that adds "
                                                "it, or leave it out (fields= of kdh5src)",
      GST_OBJECT_NAME (self), field->name, kd_h5_reader_path (self->reader), names);
  return FALSE;
}

static KdLayout *
kd_append_negotiate (KdElement *element, const KdLayout *in, GError **error)
{
  static const gint64 dims[1] = { KD_DIM_ANY };
  KdAppend *self = self_of (element);
  const KdLayoutField *label;
  g_autoptr (KdLayout) out = kd_layout_copy (in);

  if (!open_file (self, error))
    return NULL;
  for (guint i = 0; i < kd_layout_n_fields (in); i++)
    if (!check_field (self, kd_layout_nth (in, i), error))
      return NULL;
  label = kd_layout_find (kd_h5_reader_layout (self->reader), "label");
  self->add_label = label && label->dtype == KD_INT64 && label->rank == 1 && !kd_layout_find (in, "label");
  if (self->add_label)
    kd_layout_set (out, "label", KD_INT64, 1, dims);
  return g_steal_pointer (&out);
}

/* The rows of the file for the batch of number @index: `rows` of them in the order of one permutation after another. */
static void
choose_rows (const KdAppendParams *p, gint64 n, guint64 index, gint64 *ret_rows)
{
  guint64 at = index * (guint64) p->rows, round = at / (guint64) n;
  KdPermutation permutation;

  kd_permutation_init (&permutation, (guint64) n, p->seed, (guint32) round);
  for (gint64 i = 0; i < p->rows; i++, at++) {
    if (at / (guint64) n != round) {
      round = at / (guint64) n;
      kd_permutation_init (&permutation, (guint64) n, p->seed, (guint32) round);
    }
    ret_rows[i] = p->first + (gint64) kd_permutation_at (&permutation, at % (guint64) n);
  }
}

static KdTensor *
take (KdAppend *self, const gchar *name, const gint64 *rows, gint64 n, GError **error)
{
  KdTensor *ids;

  if (kd_layout_find (kd_h5_reader_layout (self->reader), name))
    return kd_h5_reader_take (self->reader, name, rows, n, error);
  ids = kd_tensor_new (KD_INT64, 1, &n); /* sample.id: what kdh5src gives for such a file */
  memcpy (ids->data, rows, ids->n_bytes);
  return ids;
}

static gboolean
append (KdAppend *self, KdBatch *batch, const gchar *name, KdTensor *own, const gint64 *rows, gint64 n, GError **error)
{
  g_autoptr (KdTensor) more = take (self, name, rows, n, error);
  KdTensor *parts[2] = { own, more }, *joined = more ? kd_tensor_concat (parts, 2, error) : NULL;

  if (!joined)
    return FALSE;
  kd_batch_set (batch, name, joined);
  return TRUE;
}

static void
add_no_labels (KdBatch *batch)
{
  KdTensor *label = kd_tensor_new (KD_INT64, 1, &batch->n_samples);

  for (gint64 i = 0; i < batch->n_samples; i++)
    ((gint64 *) label->data)[i] = -1;
  kd_batch_set (batch, "label", label);
}

static gboolean
kd_append_process (KdElement *element, GstBuffer **buffer, KdBatch *batch, GError **error)
{
  KdAppend *self = self_of (element);
  const KdAppendParams *p = kd_element_params (element);
  g_autofree gint64 *rows = g_new (gint64, p->rows);

  if (self->add_label)
    add_no_labels (batch);
  if (batch->flags & KD_BATCH_VALIDATION)
    return TRUE;
  choose_rows (p, self->n, batch->index, rows);
  for (guint i = 0; i < kd_batch_n_fields (batch); i++) {
    const KdBatchField *field = kd_batch_nth (batch, i);
    if (field->tensor->rank > 0 && !append (self, batch, field->name, field->tensor, rows, p->rows, error))
      return FALSE;
  }
  batch->n_samples += p->rows;
  return TRUE;
}

/* A cache of these rows is of both files, unless they are one. */
static void
kd_append_identify (KdElement *element, GstStructure *identity)
{
  KdAppend *self = self_of (element);
  const KdAppendParams *p = kd_element_params (element);
  g_autofree gchar *own = self->reader ? kd_h5_fingerprint (self->reader, NULL) : NULL, *both = NULL;
  const gchar *stream = gst_structure_get_string (identity, "dataset");
  gint64 n_rows = 0, n_batches = 0;

  if (gst_structure_get_int64 (identity, "n-rows", &n_rows) && gst_structure_get_int64 (identity, "n-batches", &n_batches) && n_rows > 0)
    gst_structure_set (identity, "n-rows", G_TYPE_INT64, n_rows + n_batches * p->rows, NULL);
  if (!stream || !own || g_str_equal (stream, own))
    return;
  both = g_strconcat (stream, "+", own, NULL);
  g_free (own);
  own = g_compute_checksum_for_string (G_CHECKSUM_SHA256, both, -1);
  gst_structure_set (identity, "dataset", G_TYPE_STRING, own, NULL);
}

static void
kd_append_stop (KdElement *element)
{
  g_clear_pointer (&self_of (element)->reader, kd_h5_reader_close);
}

static void
kd_append_finalize (GObject *object)
{
  g_clear_pointer (&((KdAppend *) object)->reader, kd_h5_reader_close);
  G_OBJECT_CLASS (kd_append_parent_class)->finalize (object);
}

static void
kd_append_class_init (KdAppendClass *klass)
{
  KdElementClass *element = KD_ELEMENT_CLASS (klass);

  kd_element_class_install (element, &kd_append_desc, "batch", "Filter/Batch", NULL, 0);
  G_OBJECT_CLASS (klass)->finalize = kd_append_finalize;
  element->negotiate = kd_append_negotiate;
  element->process = kd_append_process;
  element->identify = kd_append_identify;
  element->stop = kd_append_stop;
}

static void
kd_append_init (KdAppend *self)
{
}

KD_PLUGIN_DEFINE ("kdstream rows of a second file", return gst_element_register (plugin, "kdappend", GST_RANK_NONE, kd_append_get_type ());)
