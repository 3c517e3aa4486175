/**
 * SECTION:element-kdcachesink
 * @short_description: captures a teacher's outputs
 *
 * Writes fields by sample.id and sample.view into a teacher cache: immutable parts and a manifest. A crash at any instant loses only rows that
 * were never reported as committed; with `resume` the capture goes on where it was, and the source leaves out what is there.
 *
 * ## Fields
 *  - sample.id: int64 [N]; sample.view: int64 [N], optional (0)
 *  - those named in `fields`, or all teacher.* that have rows
 * ## Encodings
 * `encoding` says how fields are stored, NAME for all fields that it is for or FIELD=NAME, with commas: float32, float16, bfloat16; logprob8 and
 * logprob5 (log-probabilities in a byte); index32, index16 (ids). `topk` and `sampled` cut teacher.logits down to `k` ids a row, as kdlogittopk
 * and kdlogitsample do: ids are stored as small as they can be, log-probabilities and weights as float16 unless told. What each encoding
 * costs is measured and stored; `kd cache info` shows it. core/cache/README.md has the numbers.
 * ## Many processes
 * Where the source gives each process a share of the rows (mpirun, srun, shard-index), each writes LOCATION.rank-R-of-N and leaves out what LOCATION or
 * another of them has. Under mpirun the first makes LOCATION of them at the end; else it says by which `kd cache merge` it is done.
 * ## Messages
 * Element message kd-progress (samples, total, committed, samples-per-second, bytes-per-second, disk-wait: the share of
 * the time that the stream stood because the disk was behind), twice a second. Two parts are in memory at the most: the one that fills and the one
 * that a thread writes; a stream that is faster waits.
 * ## Errors
 * No teacher field; an encoding that is none or is for no field; a number that float16 does not hold; a cache that is there already; processes with different locations; a cache of another teacher, data set or preprocessing; a disk that cannot hold the rows.
 * ## Source
 * The format: schemas/batch-file.md and schemas/cache-manifest.schema.json
 * ## Example
 * |[ gst-launch-1.0 kdh5src location=train.h5 ! kdteacher arch='mlp dims=64,32,10' weights=t.safetensors ! kdcachesink location=t.h5 ]|
 * |[ kd launch 'kdh5src location=train.h5 ! kdteacher arch="mlp dims=64,32,10" weights=t.safetensors ! kdcachesink location=t.h5 encoding=topk k=4' ]|
 */
#include "kdcachesink.h"

#include <string.h>

#define REPORT_US (G_USEC_PER_SEC / 2)
/* How long kd-resume waits for the identity that a queue may still hold. */
#define IDENTITY_WAIT_US G_USEC_PER_SEC

typedef struct {
  gchar *location, *fields, *encoding;
  gboolean resume;
  gint64 part_bytes, k;
  guint64 seed;
  gint dtype;
} KdCacheSinkParams;

static const KdEnumValue dtypes[] = {
  { 0, "keep", "As the field comes" },
  { KD_FLOAT32, "float32", "IEEE single precision" },
  { KD_FLOAT16, "float16", "IEEE half precision: 11 bits, up to 65504" },
  { KD_BFLOAT16, "bfloat16", "8 bits, range of float32" },
  { 0, NULL, NULL },
};

static const KdParam kd_cache_sink_params[] = {
  KD_PARAM_STRING (KdCacheSinkParams, location, "", "The cache to write; its parts go into LOCATION.parts, a process's share into LOCATION.rank-R-of-N"),
  KD_PARAM_STRING (KdCacheSinkParams, fields, "", "Fields to keep, with commas; empty: all teacher.*"),
  KD_PARAM_BOOL (KdCacheSinkParams, resume, FALSE, "Go on with the cache if it is there"),
  KD_PARAM_INT (KdCacheSinkParams, part_bytes, 1, G_MAXINT64 / 4, (gint64) 64 << 20, "Rows are committed whenever this many bytes are together"),
  KD_PARAM_ENUM (KdCacheSinkParams, dtype, dtypes, 0, "Stored precision of floating-point fields that `encoding` does not name"),
  KD_PARAM_STRING (KdCacheSinkParams, encoding, "", "NAME for all fields it is for, or FIELD=NAME, with commas: float16, logprob8, topk, sampled ..."),
  KD_PARAM_INT (KdCacheSinkParams, k, 1, 1 << 20, 64, "Ids a row with encoding=topk, draws a row with encoding=sampled"),
  KD_PARAM_UINT64 (KdCacheSinkParams, seed, 0, "Key of the random numbers of encoding=sampled"),
  KD_PARAM_END
};

static const KdDesc kd_cache_sink_desc = {
  .name = "kdcachesink",
  .title = "Teacher cache sink",
  .description = "Captures a teacher's outputs into a cache that survives crashes and can be resumed",
  .source = "schemas/cache-manifest.schema.json",
  .params = kd_cache_sink_params,
  .params_size = sizeof (KdCacheSinkParams),
};

typedef struct {
  KdSink parent;
  KdCacheWriter *writer;
  KdCachePlan plan;
  GMutex lock; /* guards identity; the query may come from another thread than the event */
  GCond arrived;
  KdCacheIdentity identity;
  gboolean has_identity;
  KdCacheWorld world;
  gint64 shard_index, shard_count;
  gint64 total, n_epochs, epochs_done;
  gboolean inside_epoch; /* a batch came since the last end of an epoch */
  gboolean finished;
  gint64 n_seen, n_reported, started_us, reported_us;
  gdouble waited; /* for the disk, until the last report */
} KdCacheSink;

typedef struct {
  KdSinkClass parent;
} KdCacheSinkClass;

static GType kd_cache_sink_get_type (void);
G_DEFINE_TYPE (KdCacheSink, kd_cache_sink, KD_TYPE_SINK)

static KdCacheSink *
self_of (KdSink *sink)
{
  return (KdCacheSink *) sink;
}

static gboolean
open_writer (KdCacheSink *self, GError **error)
{
  const KdCacheSinkParams *p = kd_sink_params (KD_SINK (self));

  if (self->writer)
    return TRUE;
  g_mutex_lock (&self->lock);
  kd_cache_world_init (&self->world, GST_ELEMENT (self), p->location, self->shard_index, self->shard_count);
  self->writer = kd_cache_world_open (&self->world, p->resume, &self->identity, (gsize) p->part_bytes, error);
  g_mutex_unlock (&self->lock);
  if (self->writer && self->total > 0)
    kd_cache_writer_expect (self->writer, self->total);
  self->started_us = self->reported_us = g_get_monotonic_time ();
  return self->writer != NULL;
}

static void
kd_cache_sink_identity (KdSink *sink, const GstStructure *structure)
{
  KdCacheSink *self = self_of (sink);
  const gchar *preprocessing = gst_structure_get_string (structure, "preprocessing");

  g_mutex_lock (&self->lock);
  kd_cache_identity_clear (&self->identity);
  self->identity.teacher = g_strdup (gst_structure_get_string (structure, "teacher"));
  self->identity.teacher_spec = g_strdup (gst_structure_get_string (structure, "teacher-spec"));
  self->identity.dataset = g_strdup (gst_structure_get_string (structure, "dataset"));
  self->identity.dataset_spec = g_strdup (gst_structure_get_string (structure, "dataset-spec"));
  /* None is a kind of preprocessing too: a cache made without any is stale where there is some. */
  self->identity.preprocessing = g_strdup (preprocessing ? preprocessing : "");
  gst_structure_get_int64 (structure, "n-rows", &self->total);
  gst_structure_get_int64 (structure, "epochs", &self->n_epochs);
  gst_structure_get_int64 (structure, "shard-index", &self->shard_index);
  gst_structure_get_int64 (structure, "shard-count", &self->shard_count);
  self->has_identity = TRUE;
  g_cond_broadcast (&self->arrived);
  g_mutex_unlock (&self->lock);
}

static gboolean
skip_row (gpointer user_data, gint64 id, gint64 view)
{
  return kd_cache_writer_has (((KdCacheSink *) user_data)->writer, id, view);
}

/* A dry run asks too, and must make nothing. */
static gboolean
kd_cache_sink_query (KdSink *sink, GstQuery *query)
{
  KdCacheSink *self = self_of (sink);
  const KdCacheSinkParams *p = kd_sink_params (sink);
  KdResume *resume = kd_query_get_pointer (query, KD_QUERY_RESUME);
  gint64 until = g_get_monotonic_time () + IDENTITY_WAIT_US;
  gboolean known;
  GError *error = NULL;

  if (!resume || !p->resume || kd_element_is_dry_run (GST_ELEMENT (self)))
    return FALSE;
  g_mutex_lock (&self->lock);
  while (!self->has_identity && g_cond_wait_until (&self->arrived, &self->lock, until))
    ;
  kd_cache_world_init (&self->world, GST_ELEMENT (self), p->location, self->shard_index, self->shard_count);
  known = self->has_identity && !kd_cache_world_is_new (&self->world);
  g_mutex_unlock (&self->lock);
  if (!known)
    return FALSE; /* opened, and checked, with the first batch; rows that are there are computed and dropped */
  if (!open_writer (self, &error)) {
    resume->failed = TRUE;
    kd_element_post_error (GST_ELEMENT (self), error);
    return TRUE;
  }
  resume->skip = skip_row;
  resume->skip_data = self;
  return TRUE;
}

static gboolean
kd_cache_sink_negotiate (KdSink *sink, const KdLayout *layout, GError **error)
{
  KdCacheSink *self = self_of (sink);
  const KdCacheSinkParams *p = kd_sink_params (sink);
  const KdLayoutField *id = kd_layout_find (layout, "sample.id"), *view = kd_layout_find (layout, "sample.view");
  const KdCachePlanCall call = { GST_OBJECT_NAME (self), p->fields, p->encoding, p->dtype ? kd_dtype_name ((KdDtype) p->dtype) : NULL, p->k, p->seed };

  if (!kd_cache_plan_make (&self->plan, &call, layout, error))
    return FALSE;
  if (!id) {
    g_autofree gchar *names = kd_layout_names (layout), *providers = kd_providers ("sample.id");
    g_set_error (error, KD_ERROR, KD_ERROR_FIELD, "Field missing: element=%s, field=sample.id, layout=\"%s\"; put %s before it", GST_OBJECT_NAME (self), names, providers);
    return FALSE;
  }
  if (id->dtype == KD_INT64 && id->rank == 1 && (!view || (view->dtype == KD_INT64 && view->rank == 1)))
    return TRUE;
  g_set_error (error, KD_ERROR, KD_ERROR_DTYPE, "Keys are not int64 rows: element=%s, sample.id=%s, sample.view=%s", GST_OBJECT_NAME (self),
      kd_dtype_name (id->dtype), view ? kd_dtype_name (view->dtype) : "none");
  return FALSE;
}

static void
report (KdCacheSink *self, gboolean last)
{
  gint64 now = g_get_monotonic_time ();
  gdouble seconds = (gdouble) (now - self->reported_us) / G_USEC_PER_SEC;
  gdouble rate = (gdouble) (self->n_seen - self->n_reported) / MAX (seconds, 1e-6), waiting;

  if (!last && now - self->reported_us < REPORT_US)
    return;
  if (last)
    rate = (gdouble) self->n_seen / MAX ((gdouble) (now - self->started_us) / G_USEC_PER_SEC, 1e-6);
  waiting = CLAMP ((kd_cache_writer_waited (self->writer) - (last ? 0 : self->waited)) / (last ? MAX ((gdouble) (now - self->started_us) / G_USEC_PER_SEC, 1e-6) : MAX (seconds, 1e-6)), 0, 1);
  self->waited = kd_cache_writer_waited (self->writer);
  self->reported_us = now;
  self->n_reported = self->n_seen;
  gst_element_post_message (GST_ELEMENT (self),
      gst_message_new_element (GST_OBJECT (self),
          gst_structure_new ("kd-progress", "samples", G_TYPE_INT64, self->n_seen, "total", G_TYPE_INT64, self->total, "committed", G_TYPE_INT64,
              kd_cache_writer_n_committed (self->writer), "samples-per-second", G_TYPE_DOUBLE, rate, "bytes-per-second", G_TYPE_DOUBLE,
              rate * (gdouble) kd_cache_writer_row_bytes (self->writer), "disk-wait", G_TYPE_DOUBLE, waiting, NULL)));
}

static gboolean
gather_fields (KdCacheSink *self, KdBatch *batch, GPtrArray *tensors, GError **error)
{
  for (guint i = 0; i < self->plan.names->len; i++) {
    const gchar *name = g_ptr_array_index (self->plan.names, i);
    KdTensor *tensor = kd_batch_read (batch, name);
    if (!tensor) {
      g_set_error (error, KD_ERROR, KD_ERROR_FIELD, "Field missing: element=%s, field=%s, batch=%" G_GUINT64_FORMAT ", though the layout promised it", GST_OBJECT_NAME (self), name,
          batch->index);
      return FALSE;
    }
    g_ptr_array_add (tensors, kd_tensor_ref (tensor));
  }
  return TRUE;
}

/* With the first batch: a cache that is gone on with may have been opened before the layout was known. */
static gboolean
set_encodings (KdCacheSink *self, GError **error)
{
  for (guint i = 0; i < self->plan.names->len && self->n_seen == 0; i++) {
    const gchar *encoding = g_ptr_array_index (self->plan.encodings, i);
    if (!kd_cache_writer_set_encoding (self->writer, g_ptr_array_index (self->plan.names, i), encoding ? encoding : "keep", error))
      return FALSE;
  }
  return TRUE;
}

static gboolean
append_batch (KdCacheSink *self, GstBuffer *buffer, KdBatch *batch, GError **error)
{
  g_autoptr (GPtrArray) tensors = g_ptr_array_new_with_free_func ((GDestroyNotify) kd_tensor_unref);
  const KdTensor *ids = kd_batch_read (batch, "sample.id"), *views = kd_batch_read (batch, "sample.view");
  g_autoptr (GstBuffer) cut = NULL;

  if (!open_writer (self, error) || !set_encodings (self, error))
    return FALSE;
  cut = kd_cache_plan_cut (&self->plan, buffer, batch, error);
  return cut && gather_fields (self, kd_batch_get (cut), tensors, error) &&
      kd_cache_writer_append (self->writer, batch->n_samples, ids->data, views ? views->data : NULL, tensors->len,
          (const gchar *const *) self->plan.names->pdata, (KdTensor *const *) tensors->pdata, error);
}

static gboolean
kd_cache_sink_write (KdSink *sink, GstBuffer *buffer, KdBatch *batch, GError **error)
{
  KdCacheSink *self = self_of (sink);

  self->inside_epoch = TRUE;
  if (!append_batch (self, buffer, batch, error))
    return FALSE;
  self->n_seen += batch->n_samples;
  report (self, FALSE);
  return TRUE;
}

static gboolean
kd_cache_sink_epoch (KdSink *sink, guint epoch, GError **error)
{
  self_of (sink)->inside_epoch = FALSE;
  self_of (sink)->epochs_done = (gint64) epoch + 1;
  return TRUE;
}

/* A run that was stopped half way keeps its rows, but its cache is not complete. A source without epochs ends when it ends. */
static gboolean
kd_cache_sink_finish (KdSink *sink, GError **error)
{
  KdCacheSink *self = self_of (sink);
  gboolean stopped = self->total > 0 && (self->inside_epoch || self->epochs_done < MAX (self->n_epochs, 1));

  if (self->finished || (!self->writer && self->epochs_done == 0))
    return TRUE; /* nothing came: a dry run */
  if (!open_writer (self, error))
    return FALSE;
  if (!(stopped ? kd_cache_writer_stop (self->writer, error) : kd_cache_writer_finish (self->writer, error)))
    return FALSE;
  report (self, TRUE);
  self->finished = !stopped;
  if (stopped)
    return TRUE;
  g_clear_pointer (&self->writer, kd_cache_writer_close); /* its lock: the first process takes over */
  return kd_cache_world_finish (&self->world, error);
}

static gboolean
kd_cache_sink_start (KdSink *sink, GError **error)
{
  const KdCacheSinkParams *p = kd_sink_params (sink);

  if (p->location && *p->location)
    return TRUE;
  g_set_error (error, KD_ERROR, KD_ERROR_VALUE, "No file given: element=%s, property=location; set it to the cache to write", GST_OBJECT_NAME (sink));
  return FALSE;
}

static void
kd_cache_sink_stop (KdSink *sink)
{
  KdCacheSink *self = self_of (sink);

  g_clear_pointer (&self->writer, kd_cache_writer_close);
  kd_cache_plan_clear (&self->plan);
  kd_cache_identity_clear (&self->identity);
  kd_cache_world_clear (&self->world);
  self->has_identity = self->inside_epoch = self->finished = FALSE;
  self->shard_index = self->shard_count = self->total = self->n_epochs = self->epochs_done = self->n_seen = self->n_reported = 0;
  self->waited = 0;
}

static void
kd_cache_sink_finalize (GObject *object)
{
  KdCacheSink *self = (KdCacheSink *) object;

  kd_cache_sink_stop (KD_SINK (object));
  g_mutex_clear (&self->lock);
  g_cond_clear (&self->arrived);
  G_OBJECT_CLASS (kd_cache_sink_parent_class)->finalize (object);
}

static void
kd_cache_sink_class_init (KdCacheSinkClass *klass)
{
  KdSinkClass *sink = KD_SINK_CLASS (klass);

  kd_sink_class_install (sink, &kd_cache_sink_desc, "Sink/Cache");
  G_OBJECT_CLASS (klass)->finalize = kd_cache_sink_finalize;
  sink->negotiate = kd_cache_sink_negotiate;
  sink->write = kd_cache_sink_write;
  sink->epoch = kd_cache_sink_epoch;
  sink->finish = kd_cache_sink_finish;
  sink->identity = kd_cache_sink_identity;
  sink->query = kd_cache_sink_query;
  sink->start = kd_cache_sink_start;
  sink->stop = kd_cache_sink_stop;
}

static void
kd_cache_sink_init (KdCacheSink *self)
{
  g_mutex_init (&self->lock);
  g_cond_init (&self->arrived);
}

KD_PLUGIN_DEFINE ("kdstream teacher cache sink", return gst_element_register (plugin, "kdcachesink", GST_RANK_NONE, kd_cache_sink_get_type ());)
