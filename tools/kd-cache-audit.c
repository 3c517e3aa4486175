/* kd cache verify --teacher: some rows are computed again, by the same elements that made them, and compared within what their encoding costs. */
#include "kd-cache-audit.h"

#include <math.h>
#include <string.h>
#include <sys/wait.h>

static KdTensor *
read_key (KdH5Reader *reader, const gchar *name, GError **error)
{
  KdTensor *key;

  if (kd_layout_find (kd_h5_reader_layout (reader), name))
    return kd_h5_reader_read_all (reader, name, error);
  {
    gint64 n = kd_h5_reader_n_rows (reader);
    key = kd_tensor_new_zero (KD_INT64, 1, &n);
    for (gint64 i = 0; g_str_equal (name, "sample.id") && i < n; i++)
      ((gint64 *) key->data)[i] = i; /* as kdh5src numbers them */
    return key;
  }
}

/* (transfer full) up to @wanted rows of the data that the cache has, in the data's order. */
static GArray *
choose_rows (KdCacheReader *cache, const KdTensor *ids, const KdTensor *views, gint wanted, guint seed)
{
  gint64 n = ids->dims[0], n_known = 0;
  g_autofree gint64 *rows = g_new (gint64, MAX (n, 1));
  g_autoptr (GRand) random = g_rand_new_with_seed (seed);
  GArray *chosen = g_array_new (FALSE, FALSE, sizeof (gint64));

  kd_cache_reader_find (cache, n, ids->data, views->data, rows);
  for (gint64 i = 0; i < n; i++)
    n_known += rows[i] >= 0;
  /* Each with the chance that leaves as many as are still wanted. */
  for (gint64 i = 0; i < n && (gint) chosen->len < wanted; i++)
    if (rows[i] >= 0 && g_rand_double (random) * (gdouble) n_known-- < (gdouble) (wanted - (gint) chosen->len))
      g_array_append_val (chosen, i);
  return chosen;
}

static gboolean
write_sample (KdH5Reader *data, const KdTensor *ids, const KdTensor *views, const GArray *rows, const gchar *path, GError **error)
{
  const KdLayout *layout = kd_h5_reader_layout (data);
  g_autoptr (GPtrArray) names = g_ptr_array_new (), tensors = g_ptr_array_new_with_free_func ((GDestroyNotify) kd_tensor_unref);
  g_autoptr (KdH5Writer) writer = kd_h5_writer_new (path, error);
  const gint64 *numbers = (const gint64 *) (gpointer) rows->data;

  for (guint i = 0; writer && i < kd_layout_n_fields (layout); i++) {
    const KdLayoutField *field = kd_layout_nth (layout, i);
    KdTensor *taken;
    if (field->dtype == KD_UTF8 || field->rank == 0 || g_str_equal (field->name, "sample.id") || g_str_equal (field->name, "sample.view"))
      continue;
    taken = kd_h5_reader_take (data, field->name, numbers, rows->len, error);
    if (!taken)
      return FALSE;
    g_ptr_array_add (names, (gpointer) field->name);
    g_ptr_array_add (tensors, taken);
  }
  g_ptr_array_add (names, (gpointer) "sample.id");
  g_ptr_array_add (tensors, kd_tensor_take (ids, numbers, rows->len));
  g_ptr_array_add (names, (gpointer) "sample.view");
  g_ptr_array_add (tensors, kd_tensor_take (views, numbers, rows->len));
  return writer && kd_h5_writer_append (writer, names->len, (const gchar *const *) names->pdata, (KdTensor *const *) tensors->pdata, error) &&
      kd_h5_writer_finish (writer, error);
}

static gboolean
run_teacher (const gchar *teacher, const gchar *sample, const gchar *fresh, GError **error)
{
  g_autofree gchar *self = kd_tool_self ();
  g_autofree gchar *graph = g_strdup_printf ("kdh5src location=%s ! %s ! kdcachesink location=%s", sample, teacher, fresh), *err = NULL;
  const gchar *argv[] = { self, "launch", "--quiet", graph, NULL };
  gint status = 0;

  if (!g_spawn_sync (NULL, (gchar **) argv, NULL, G_SPAWN_STDOUT_TO_DEV_NULL, NULL, NULL, NULL, &err, &status, error))
    return FALSE;
  if (WIFEXITED (status) && WEXITSTATUS (status) == 0)
    return TRUE;
  g_set_error (error, KD_ERROR, KD_ERROR_VALUE, "Cannot run the teacher: elements=\"%s\", reason=%s", teacher, g_strstrip (err));
  return FALSE;
}

gdouble
kd_audit_row (const KdTensor *logits, gsize nth, gsize width, gdouble *row)
{
  gdouble largest = -INFINITY, sum = 0;

  for (gsize k = 0; k < width; k++) {
    row[k] = kd_tensor_get_double (logits, nth * width + k);
    largest = MAX (largest, row[k]);
  }
  for (gsize k = 0; k < width; k++)
    sum += exp (row[k] - largest);
  for (gsize k = 0; k < width; k++)
    row[k] -= largest + log (sum);
  return largest + log (sum);
}

gdouble
kd_audit_allowed (const KdAudit *audit, const gchar *field, const KdTensor *stored, gdouble value)
{
  const KdCacheEncoding *encoding = kd_cache_reader_encoding (audit->cache, field);
  gdouble step = stored->dtype == KD_FLOAT16 ? 0x1p-11 : stored->dtype == KD_BFLOAT16 ? 0x1p-8
                                                                                      : 0;

  return (encoding ? encoding->max_error : step * MAX (1, fabs (value))) + KD_AUDIT_ROUNDING * MAX (1, fabs (value));
}

void
kd_audit_begin (KdAuditField *field, const gchar *name)
{
  *field = (KdAuditField) { .name = name, .largest = -1, .last_wrong = -1 };
}

void
kd_audit_distance (KdAuditField *field, gint64 sample, gdouble distance, gdouble limit)
{
  distance = isnan (distance) ? INFINITY : distance;
  if (!(distance <= limit) && sample != field->last_wrong) {
    field->n_wrong++;
    field->last_wrong = sample;
  }
  if (distance <= field->largest)
    return;
  field->largest = distance;
  field->bound = limit;
  field->at = sample;
}

void
kd_audit_end (KdAudit *audit, const KdAuditField *field)
{
  audit->n_compared++;
  audit->n_wrong += field->n_wrong > 0;
  if (field->n_wrong || !audit->quiet)
    g_print ("%-28s %s: largest difference %.4g at id %" G_GINT64_FORMAT ", allowed there %.4g; %" G_GINT64_FORMAT " of %" G_GINT64_FORMAT " rows wrong\n", field->name,
        field->n_wrong ? "WRONG" : "good", MAX (field->largest, 0), audit->ids[field->at], field->bound, field->n_wrong, audit->n);
}

/* @stored and @raw [rows ... width]: the same values. @logs: those stored are log-probabilities. */
static void
compare (KdAudit *audit, const gchar *name, const KdTensor *stored, const KdTensor *raw, gboolean logs)
{
  gsize width = raw->rank > 1 ? (gsize) raw->dims[raw->rank - 1] : 1, n_rows = kd_tensor_n_elements (stored) / MAX (width, 1), per_sample = n_rows / (gsize) MAX (audit->n, 1);
  g_autofree gdouble *row = g_new (gdouble, MAX (width, 1));
  KdAuditField field;

  kd_audit_begin (&field, name);
  for (gsize r = 0; r < n_rows; r++) {
    if (logs)
      kd_audit_row (raw, r, width, row);
    for (gsize c = 0; c < width; c++) {
      gdouble value = kd_tensor_get_double (stored, r * width + c), wanted = logs ? row[c] : kd_tensor_get_double (raw, r * width + c);
      gboolean same = value == wanted || (isnan (value) && isnan (wanted));
      kd_audit_distance (&field, (gint64) (r / MAX (per_sample, 1)), same ? 0 : fabs (value - wanted), kd_audit_allowed (audit, name, stored, wanted));
    }
  }
  kd_audit_end (audit, &field);
}

static gboolean
compare_field (KdAudit *audit, const KdLayoutField *field, GError **error)
{
  const KdLayoutField *other = kd_layout_find (kd_cache_reader_layout (audit->fresh), field->name);
  const KdCacheEncoding *encoding = kd_cache_reader_encoding (audit->cache, field->name);
  g_autoptr (KdTensor) stored = NULL, raw = NULL;
  gboolean done = FALSE;

  if (!other && !kd_audit_cut (audit, field->name, &done, error))
    return FALSE;
  if (done)
    return TRUE;
  if (!other || other->rank != field->rank || memcmp (other->dims + 1, field->dims + 1, (field->rank - 1) * sizeof *field->dims) != 0) {
    if (!audit->quiet)
      g_print ("%-28s not compared: the teacher does not give it as it is stored\n", field->name);
    return TRUE;
  }
  stored = kd_cache_reader_take (audit->cache, field->name, audit->n, audit->cached_rows, error);
  raw = stored ? kd_cache_reader_take (audit->fresh, field->name, audit->n, audit->fresh_rows, error) : NULL;
  if (!raw)
    return FALSE;
  compare (audit, field->name, stored, raw, encoding && g_str_has_prefix (encoding->name, "logprob") && g_str_has_suffix (field->name, ".logits"));
  return TRUE;
}

/* The data set differs, for it is a sample of the cache's. */
static gboolean
check_teacher (const KdAudit *audit, const gchar *path, GError **error)
{
  KdCacheIdentity fresh = *kd_cache_reader_identity (audit->fresh);

  fresh.dataset = NULL;
  return kd_cache_check_identity (path, kd_cache_reader_identity (audit->cache), &fresh, error);
}

static gboolean
run (KdAudit *audit, const gchar *path, const gchar *teacher, const gchar *data_path, const gchar *folder, gint sample, guint seed, GError **error)
{
  g_autoptr (KdCacheReader) cache = kd_cache_reader_open (path, error), fresh = NULL;
  g_autoptr (KdH5Reader) data = cache ? kd_h5_reader_open (data_path, NULL, error) : NULL;
  g_autoptr (KdTensor) ids = data && kd_h5_reader_check_rows (data, error) ? read_key (data, "sample.id", error) : NULL;
  g_autoptr (KdTensor) views = ids ? read_key (data, "sample.view", error) : NULL, some_ids = NULL, some_views = NULL;
  g_autofree gchar *sample_path = g_build_filename (folder, "sample.h5", NULL), *fresh_path = g_build_filename (folder, "fresh.h5", NULL), *stored = NULL;
  g_autofree gint64 *cached_rows = NULL, *fresh_rows = NULL;
  g_autoptr (GArray) rows = NULL;
  const KdCacheIdentity *identity = cache ? kd_cache_reader_identity (cache) : NULL;

  if (!views)
    return FALSE;
  if (!*teacher) {
    stored = g_strdup_printf ("%s%skdteacher %s", identity->preprocessing ? identity->preprocessing : "", identity->preprocessing && *identity->preprocessing ? " ! " : "",
        identity->teacher_spec ? identity->teacher_spec : "");
    teacher = stored;
  }
  rows = choose_rows (cache, ids, views, sample, seed);
  if (rows->len == 0) {
    g_set_error (error, KD_ERROR, KD_ERROR_MISMATCH, "Cache has no row of the data: path=\"%s\", data=\"%s\"; give the data it was made from", path, data_path);
    return FALSE;
  }
  if (!write_sample (data, ids, views, rows, sample_path, error) || !run_teacher (teacher, sample_path, fresh_path, error))
    return FALSE;
  fresh = kd_cache_reader_open (fresh_path, error);
  audit->cache = cache;
  audit->fresh = fresh;
  if (!fresh || !check_teacher (audit, path, error))
    return FALSE;
  some_ids = kd_tensor_take (ids, (gint64 *) (gpointer) rows->data, rows->len);
  some_views = kd_tensor_take (views, (gint64 *) (gpointer) rows->data, rows->len);
  audit->n = rows->len;
  audit->ids = some_ids->data;
  audit->cached_rows = cached_rows = g_new (gint64, audit->n);
  audit->fresh_rows = fresh_rows = g_new (gint64, audit->n);
  kd_cache_reader_find (cache, audit->n, some_ids->data, some_views->data, cached_rows);
  if (kd_cache_reader_find (fresh, audit->n, some_ids->data, some_views->data, fresh_rows)) {
    g_set_error (error, KD_ERROR, KD_ERROR_MISMATCH, "Teacher left samples out: elements=\"%s\", samples=%" G_GINT64_FORMAT "; give elements that pass all on", teacher, audit->n);
    return FALSE;
  }
  for (guint i = 0; i < kd_layout_n_fields (kd_cache_reader_layout (cache)); i++)
    if (!compare_field (audit, kd_layout_nth (kd_cache_reader_layout (cache), i), error))
      return FALSE;
  return TRUE;
}

int
kd_cache_audit (const gchar *path, const gchar *teacher, const gchar *data, gint sample, guint seed, gboolean quiet)
{
  g_autoptr (GError) error = NULL;
  g_autofree gchar *folder = g_dir_make_tmp ("kd-audit-XXXXXX", &error);
  KdAudit audit = { .quiet = quiet };
  gboolean good = folder && run (&audit, path, teacher, data, folder, sample, seed, &error);

  if (folder)
    kd_tool_remove (folder);
  if (!good)
    return kd_tool_fail ("%s", error->message);
  if (audit.n_compared == 0)
    return kd_tool_fail ("Nothing to compare: path=\"%s\"; the teacher gives none of the cache's fields", path);
  if (audit.n_wrong)
    return kd_tool_fail ("Cache is not what the teacher says: path=\"%s\", fields=%u of %u; write a new cache", path, audit.n_wrong, audit.n_compared);
  if (!quiet)
    g_print ("good: %" G_GINT64_FORMAT " rows computed again\n", audit.n);
  return KD_EXIT_DONE;
}
