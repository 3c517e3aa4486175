/**
 * SECTION:element-kdcache
 * @short_description: adds a teacher's cached outputs
 *
 * Joins the fields of a teacher cache to each batch by sample.id and sample.view. Order in the cache means nothing.
 * What stands before it must be what stood before the teacher when the cache was written: data set and preprocessing are compared.
 *
 * ## Fields
 *  - sample.id: int64 [N]; sample.view: int64 [N], optional (0)
 *  - adds those named in `fields`, or all of the cache
 *  - adds cache.hit: bool [N] with on-miss=pass; rows that are not there are NaN, or 0 in fields without NaN
 *  - with teacher=b: teacher.b.logits ... and cache.b.hit, so that caches of several teachers can follow one another
 *
 * Encoded fields come out decoded: log-probabilities as float32, ids as int64, logits and features in
 * float16 and bfloat16 as they are stored, which losses read; what sparse teachers consist of as float32.
 * With on-miss=pass a `kdteacher only-missing=true` behind it computes what is not there.
 * ## Errors
 * A field that is there already; a row that is not in the cache (names the first sample.id and sample.view); a cache of another data set or preprocessing; a damaged part.
 * ## Source
 * The format: schemas/batch-file.md and schemas/cache-manifest.schema.json
 * ## Example
 * |[ kd launch 'kdh5src location=train.h5 ! kdcache location=a.h5 teacher=a ! kdcache location=b.h5 teacher=b ! kdh5sink location=both.h5' ]|
 * |[ kd launch 'kdh5src location=train.h5 shuffle=true ! kdcache location=t.h5 ! kdstudent arch="mlp dims=64,16,10" ! kdhinton ! kdtrain' ]|
 */
#include <kd/kd.h>

#include <math.h>
#include <string.h>

enum { ON_MISS_ERROR,
  ON_MISS_DROP,
  ON_MISS_PASS };

typedef struct {
  gchar *location, *fields, *teacher;
  gint on_miss;
  gboolean check_identity;
} KdCacheParams;

static const KdEnumValue on_misses[] = {
  { ON_MISS_ERROR, "error", "The run ends" },
  { ON_MISS_DROP, "drop", "The sample leaves the batch" },
  { ON_MISS_PASS, "pass", "The sample goes on with NaN, marked in cache.hit" },
  { 0, NULL, NULL },
};

static const KdParam kd_cache_params[] = {
  KD_PARAM_STRING (KdCacheParams, location, "", "The cache to read, or a packed one"),
  KD_PARAM_STRING (KdCacheParams, fields, "", "Fields to add, with commas; empty: all"),
  KD_PARAM_STRING (KdCacheParams, teacher, "", "Name among several teachers: teacher.FIELD comes out as teacher.NAME.FIELD"),
  KD_PARAM_ENUM (KdCacheParams, on_miss, on_misses, ON_MISS_ERROR, "What becomes of a sample that is not in the cache"),
  KD_PARAM_BOOL (KdCacheParams, check_identity, TRUE, "Refuse a cache of another data set or preprocessing"),
  KD_PARAM_END
};

static const KdDesc kd_cache_desc = {
  .name = "kdcache",
  .title = "Teacher cache",
  .description = "Adds a teacher's cached outputs to each sample",
  .source = "schemas/cache-manifest.schema.json",
  .provides = "teacher.*",
  .params = kd_cache_params,
  .params_size = sizeof (KdCacheParams),
};

typedef struct {
  KdElement parent;
  KdCacheReader *reader;
  GPtrArray *names; /* interned, of the fields to add */
  GPtrArray *adds;  /* interned, what they are called in the batch */
  const gchar *hit; /* interned: cache.hit, cache.NAME.hit */
  GError *stale;    /* found when the identity passed; told with the first batch */
} KdCache;

typedef struct {
  KdElementClass parent;
} KdCacheClass;

static GType kd_cache_get_type (void);
G_DEFINE_TYPE (KdCache, kd_cache, KD_TYPE_ELEMENT)

static KdCache *
self_of (KdElement *element)
{
  return (KdCache *) element;
}

static gboolean
kd_cache_start (KdElement *element, GError **error)
{
  const KdCacheParams *p = kd_element_params (element);

  if (!p->location || !*p->location) {
    g_set_error (error, KD_ERROR, KD_ERROR_VALUE, "No file given: element=%s, property=location; set it to a cache that kdcachesink wrote",
        GST_OBJECT_NAME (element));
    return FALSE;
  }
  self_of (element)->reader = kd_cache_reader_open (p->location, error);
  return self_of (element)->reader != NULL;
}

static void
kd_cache_stop (KdElement *element)
{
  KdCache *self = self_of (element);

  g_clear_pointer (&self->reader, kd_cache_reader_close);
  g_clear_error (&self->stale);
  g_ptr_array_set_size (self->names, 0);
}

/* What the fields are called in the stream: with several caches in a row each teacher has its name. */
static gboolean
name_fields (KdCache *self, const KdCacheParams *p, GError **error)
{
  gboolean named = p->teacher && *p->teacher;
  g_autofree gchar *hit = named ? g_strdup_printf ("cache.%s.hit", p->teacher) : g_strdup ("cache.hit");

  g_ptr_array_set_size (self->adds, 0);
  if (named && (!kd_field_name_is_valid (hit) || strchr (p->teacher, '.'))) {
    g_set_error (error, KD_ERROR, KD_ERROR_FIELD, "Name not valid: element=%s, property=teacher, value=\"%s\", wanted=lower case letters, digits, - and _", GST_OBJECT_NAME (self), p->teacher);
    return FALSE;
  }
  self->hit = g_intern_string (hit);
  for (guint i = 0; i < self->names->len; i++) {
    const gchar *name = g_ptr_array_index (self->names, i);
    g_autofree gchar *new = named &&g_str_has_prefix (name, "teacher.") ? g_strdup_printf ("teacher.%s.%s", p->teacher, name + strlen ("teacher.")) : g_strdup (name);
    g_ptr_array_add (self->adds, (gpointer) g_intern_string (new));
  }
  return TRUE;
}

static gboolean
choose_fields (KdCache *self, const KdCacheParams *p, GError **error)
{
  const KdLayout *have = kd_cache_reader_layout (self->reader);
  g_auto (GStrv) wanted = g_strsplit (p->fields ? p->fields : "", ",", -1);

  g_ptr_array_set_size (self->names, 0);
  for (guint i = 0; i < kd_layout_n_fields (have) && !wanted[0]; i++)
    g_ptr_array_add (self->names, (gpointer) kd_layout_nth (have, i)->name);
  for (guint i = 0; wanted[i]; i++) {
    const KdLayoutField *field = kd_layout_find (have, g_strstrip (wanted[i]));
    if (!field) {
      g_autofree gchar *names = kd_layout_names (have);
      g_set_error (error, KD_ERROR, KD_ERROR_FIELD, "Field not in the cache: element=%s, path=\"%s\", field=%s, cache=\"%s\"", GST_OBJECT_NAME (self),
          p->location, wanted[i], names);
      return FALSE;
    }
    g_ptr_array_add (self->names, (gpointer) field->name);
  }
  return TRUE;
}

static KdLayout *
kd_cache_negotiate (KdElement *element, const KdLayout *in, GError **error)
{
  KdCache *self = self_of (element);
  const KdCacheParams *p = kd_element_params (element);
  const KdLayoutField *id = kd_layout_find (in, "sample.id"), *view = kd_layout_find (in, "sample.view");
  gint64 any = KD_DIM_ANY;
  KdLayout *out;

  if (!id || id->dtype != KD_INT64 || id->rank != 1 || (view && (view->dtype != KD_INT64 || view->rank != 1))) {
    g_autofree gchar *names = kd_layout_names (in), *providers = kd_providers ("sample.id");
    g_set_error (error, KD_ERROR, KD_ERROR_FIELD, "Field missing: element=%s, field=%s, wanted=int64 [N], layout=\"%s\"; put %s before it",
        GST_OBJECT_NAME (self), id ? "sample.view" : "sample.id", names, providers);
    return NULL;
  }
  if (!choose_fields (self, p, error) || !name_fields (self, p, error))
    return NULL;
  out = kd_layout_copy (in);
  for (guint i = 0; i < self->names->len; i++) {
    const KdLayoutField *field = kd_layout_find (kd_cache_reader_layout (self->reader), g_ptr_array_index (self->names, i));
    const gchar *name = g_ptr_array_index (self->adds, i);
    if (kd_layout_find (in, name)) {
      g_set_error (error, KD_ERROR, KD_ERROR_FIELD, "Field there already: element=%s, path=\"%s\", field=%s; give this cache's teacher a name (teacher=b), or choose fields", GST_OBJECT_NAME (self),
          p->location, name);
      return NULL;
    }
    kd_layout_set (out, name, field->dtype, field->rank, field->dims);
  }
  if (p->on_miss == ON_MISS_PASS)
    kd_layout_set (out, self->hit, KD_BOOL, 1, &any);
  return out;
}

/* What the rows came through so far against what the cache's came through. What follows learns which teacher this is. */
static void
kd_cache_identify (KdElement *element, GstStructure *identity)
{
  KdCache *self = self_of (element);
  const KdCacheParams *p = kd_element_params (element);
  const KdCacheIdentity *have = kd_cache_reader_identity (self->reader);
  const gchar *preprocessing = gst_structure_get_string (identity, "preprocessing");
  KdCacheIdentity now = { .dataset = (gchar *) gst_structure_get_string (identity, "dataset"),
    .dataset_spec = (gchar *) gst_structure_get_string (identity, "dataset-spec"),
    .preprocessing = (gchar *) (preprocessing ? preprocessing : "") };

  g_clear_error (&self->stale);
  if (p->check_identity)
    kd_cache_check_identity (p->location, have, &now, &self->stale);
  if (have->teacher && !(p->teacher && *p->teacher)) /* one among several is not the stream's */
    gst_structure_set (identity, "teacher", G_TYPE_STRING, have->teacher, "teacher-spec", G_TYPE_STRING,
        have->teacher_spec ? have->teacher_spec : "", NULL);
}

static gboolean
fail_miss (KdCache *self, const KdCacheParams *p, const gint64 *rows, const gint64 *ids, const gint64 *views, gint64 n, gint64 missing, GError **error)
{
  gint64 i = 0;

  while (rows[i] >= 0)
    i++;
  g_set_error (error, KD_ERROR, KD_ERROR_RANGE, "Sample not in the cache: element=%s, path=\"%s\", sample.id=%" G_GINT64_FORMAT ", sample.view=%" G_GINT64_FORMAT ", missing=%" G_GINT64_FORMAT " of %" G_GINT64_FORMAT " in this batch%s; capture them (kdcachesink resume=true), or set on-miss",
      GST_OBJECT_NAME (self), p->location, ids[i], views ? views[i] : 0, missing, n,
      kd_cache_reader_complete (self->reader) ? "" : ", the cache is not complete");
  return FALSE;
}

/* (transfer full) the rows that are there in their places, NaN or 0 in the others. */
static KdTensor *
spread (KdTensor *found, const gint64 *rows, gint64 n)
{
  gint64 dims[KD_MAX_RANK], at = 0;
  gsize elements = kd_tensor_row_elements (found), bytes = elements * kd_dtype_size (found->dtype);
  KdTensor *out;

  memcpy (dims, found->dims, sizeof dims);
  dims[0] = n;
  out = kd_tensor_new_zero (found->dtype, found->rank, dims);
  for (gint64 i = 0; i < n; i++) {
    guint8 *row = (guint8 *) out->data + (gsize) i * bytes;
    if (rows[i] >= 0)
      memcpy (row, (guint8 *) found->data + (gsize) at++ * bytes, bytes);
    for (gsize k = 0; k < elements && rows[i] < 0; k++) {
      if (out->dtype == KD_FLOAT32)
        ((gfloat *) row)[k] = NAN;
      else if (out->dtype == KD_FLOAT64)
        ((gdouble *) row)[k] = NAN;
      else if (out->dtype == KD_FLOAT16)
        ((guint16 *) row)[k] = 0x7e00;
      else if (out->dtype == KD_BFLOAT16)
        ((guint16 *) row)[k] = 0x7fc0;
    }
  }
  kd_tensor_unref (found);
  return out;
}

static void
mark_hits (KdBatch *batch, const gchar *name, const gint64 *rows, gint64 n)
{
  KdTensor *hit = kd_tensor_new (KD_BOOL, 1, &n);

  for (gint64 i = 0; i < n; i++)
    ((guint8 *) hit->data)[i] = rows[i] >= 0;
  kd_batch_set (batch, name, hit);
}

static gboolean
add_fields (KdCache *self, KdBatch *batch, const gint64 *rows, gint64 n, gint64 missing, GError **error)
{
  g_autofree gint64 *present = missing ? g_new (gint64, n) : NULL;
  gint64 n_present = 0;

  for (gint64 i = 0; i < n && missing; i++)
    if (rows[i] >= 0)
      present[n_present++] = rows[i];
  for (guint f = 0; f < self->names->len; f++) {
    const gchar *name = g_ptr_array_index (self->names, f);
    KdTensor *tensor = kd_cache_reader_take (self->reader, name, missing ? n_present : n, missing ? present : rows, error);
    if (!tensor)
      return FALSE;
    kd_batch_set (batch, g_ptr_array_index (self->adds, f), missing ? spread (tensor, rows, n) : tensor);
  }
  return TRUE;
}

/* Takes the samples without a row out of the batch; their numbers in @rows go too. */
static gint64
drop_missing (KdBatch *batch, gint64 *rows, gint64 n)
{
  g_autofree gint64 *kept = g_new (gint64, n);
  gint64 n_kept = 0;

  for (gint64 i = 0; i < n; i++)
    if (rows[i] >= 0) {
      rows[n_kept] = rows[i];
      kept[n_kept++] = i;
    }
  kd_batch_take_rows (batch, kept, n_kept);
  return n_kept;
}

static gboolean
kd_cache_process (KdElement *element, GstBuffer **buffer, KdBatch *batch, GError **error)
{
  KdCache *self = self_of (element);
  const KdCacheParams *p = kd_element_params (element);
  const KdTensor *ids = kd_batch_read (batch, "sample.id"), *views = kd_batch_read (batch, "sample.view");
  gint64 n = batch->n_samples, missing;
  g_autofree gint64 *rows = g_new (gint64, MAX (n, 1));

  if (self->stale) {
    g_propagate_error (error, g_steal_pointer (&self->stale));
    return FALSE;
  }
  missing = kd_cache_reader_find (self->reader, n, ids->data, views ? views->data : NULL, rows);
  if (missing && p->on_miss == ON_MISS_ERROR)
    return fail_miss (self, p, rows, ids->data, views ? views->data : NULL, n, missing, error);
  if (missing && p->on_miss == ON_MISS_DROP) {
    n = drop_missing (batch, rows, n);
    missing = 0;
  }
  if (p->on_miss == ON_MISS_PASS)
    mark_hits (batch, self->hit, rows, n);
  if (!add_fields (self, batch, rows, n, missing, error))
    return FALSE;
  if (n == 0)
    g_clear_pointer (buffer, gst_buffer_unref);
  return TRUE;
}

static void
kd_cache_finalize (GObject *object)
{
  KdCache *self = (KdCache *) object;

  kd_cache_stop (KD_ELEMENT (object));
  g_ptr_array_unref (self->names);
  g_ptr_array_unref (self->adds);
  G_OBJECT_CLASS (kd_cache_parent_class)->finalize (object);
}

static void
kd_cache_class_init (KdCacheClass *klass)
{
  KdElementClass *element = KD_ELEMENT_CLASS (klass);

  kd_element_class_install (element, &kd_cache_desc, "transform", "Filter/Cache", NULL, 0);
  G_OBJECT_CLASS (klass)->finalize = kd_cache_finalize;
  element->start = kd_cache_start;
  element->stop = kd_cache_stop;
  element->negotiate = kd_cache_negotiate;
  element->process = kd_cache_process;
  element->identify = kd_cache_identify;
}

static void
kd_cache_init (KdCache *self)
{
  self->names = g_ptr_array_new ();
  self->adds = g_ptr_array_new ();
}

KD_PLUGIN_DEFINE ("kdstream teacher cache", return gst_element_register (plugin, "kdcache", GST_RANK_NONE, kd_cache_get_type ());)
