/* kd cache stats: a step of rows at a time through each cache; what a teacher thinks, how sure it is, whether it is right. */
#include "kd-cache-stats.h"

#include <math.h>
#include <string.h>

#define STEP_ROWS 4096

typedef struct {
  gint64 *ids, *labels;
  gint64 n;
} Labels;

gdouble
kd_stats_ece (const KdStatsTeacher *teacher)
{
  gdouble gap = 0;

  for (guint i = 0; i < KD_STATS_CALIBRATION_BINS; i++)
    gap += fabs (teacher->bin_confidence[i] - teacher->bin_right[i]);
  return teacher->n_labels ? gap / (gdouble) teacher->n_labels : NAN;
}

static gint64
label_of (const Labels *labels, gint64 id)
{
  gint64 low = 0, high = labels->n;

  while (low < high) {
    gint64 middle = low + (high - low) / 2;
    if (labels->ids[middle] < id)
      low = middle + 1;
    else
      high = middle;
  }
  return low < labels->n && labels->ids[low] == id ? labels->labels[low] : -1;
}

static guint
bin_of (gdouble value, gdouble most, guint n)
{
  return (guint) CLAMP (value / most * n, 0, n - 1);
}

static void
count (KdStatsTeacher *teacher, const KdStatsAnswer *answer, gint64 label)
{
  gdouble most = log ((gdouble) MAX (teacher->n_classes, 2));
  guint bin = bin_of (answer->confidence, 1, KD_STATS_CALIBRATION_BINS);

  if (answer->best < 0 || !isfinite (answer->entropy))
    return;
  teacher->n_counted++;
  teacher->confidence[bin_of (answer->confidence, 1, KD_STATS_BINS)]++;
  teacher->entropy[bin_of (answer->entropy, most, KD_STATS_BINS)]++;
  teacher->confidence_sum += answer->confidence;
  teacher->entropy_sum += answer->entropy;
  if (label < 0)
    return;
  teacher->n_labels++;
  teacher->n_right += answer->best == label;
  teacher->n_nll += answer->label_log_prob > -INFINITY;
  teacher->nll_sum -= answer->label_log_prob;
  teacher->bin_rows[bin]++;
  teacher->bin_confidence[bin] += answer->confidence;
  teacher->bin_right[bin] += answer->best == label;
}

/* The field that says what a teacher thinks: logits, or the k largest log-probabilities. */
static gboolean
find_field (KdStatsTeacher *teacher, const gchar *wanted, GError **error)
{
  const KdLayout *layout = kd_cache_reader_layout (teacher->reader);
  const gchar *names[] = { wanted, "teacher.logits", "teacher.topk.logprobs" };

  for (guint i = wanted ? 0 : 1; i < (wanted ? 1 : G_N_ELEMENTS (names)); i++) {
    const KdLayoutField *field = kd_layout_find (layout, names[i]);
    if (!field || field->rank < 2 || !(field->dtype & KD_ANY_FLOAT))
      continue;
    teacher->field = g_strdup (names[i]);
    teacher->n_classes = field->dims[field->rank - 1];
    return TRUE;
  }
  if (!wanted)
    return TRUE; /* the page then says what is in the cache, and no more */
  {
    g_autofree gchar *have = kd_layout_names (layout);
    g_set_error (error, KD_ERROR, KD_ERROR_FIELD, "Field not in the cache, or no rows of numbers: path=\"%s\", field=%s, cache=\"%s\"", teacher->path, wanted, have);
    return FALSE;
  }
}

static gboolean
is_logs (const KdStatsTeacher *teacher)
{
  return g_str_has_suffix (teacher->field, ".logprobs");
}

/* (transfer full) the classes of the k largest, or NULL. */
static KdTensor *
read_ids (KdStatsTeacher *teacher, gint64 n, const gint64 *rows, GError **error)
{
  g_autofree gchar *base = g_strndup (teacher->field, strlen (teacher->field) - strlen ("logprobs")), *name = g_strconcat (base, "ids", NULL);

  return kd_cache_reader_take (teacher->reader, name, n, rows, error);
}

/* First choices of @n rows, a sample's tokens one behind the other; answers are counted when @labels is given. */
static gboolean
read_answers (KdStatsTeacher *teacher, gint64 n, const gint64 *rows, const gint64 *ids, const Labels *labels, gboolean counting, GArray *best, GError **error)
{
  g_autoptr (KdTensor) taken = kd_cache_reader_take (teacher->reader, teacher->field, n, rows, error);
  g_autoptr (KdTensor) logits = taken ? kd_tensor_cast (taken, taken->dtype == KD_FLOAT64 ? KD_FLOAT32 : taken->dtype, error) : NULL;
  g_auto (KdStatsRows) numbers = { NULL };
  g_autoptr (KdTensor) classes = logits && is_logs (teacher) ? read_ids (teacher, n, rows, error) : NULL;
  gint64 k = logits ? logits->dims[logits->rank - 1] : 1, n_rows, each;

  if (!logits || (is_logs (teacher) && !classes))
    return FALSE;
  n_rows = (gint64) kd_tensor_n_elements (logits) / MAX (k, 1);
  each = n_rows / MAX (n, 1);
  if (!classes)
    kd_stats_rows_fill (&numbers, logits, n_rows, k);
  for (gint64 r = 0; r < n_rows; r++) {
    gint64 label = each == 1 ? label_of (labels, ids[r]) : -1;
    KdStatsAnswer answer = classes ? kd_stats_answer_cut (logits, r, k, classes->data, label) : kd_stats_answer_row (&numbers, logits, r, k, label);
    if (classes && counting)
      for (gint64 c = 0; c < k; c++)
        teacher->n_classes = MAX (teacher->n_classes, ((gint64 *) classes->data)[r * k + c] + 1);
    if (counting)
      count (teacher, &answer, label);
    if (best)
      g_array_append_val (best, answer.best);
  }
  return TRUE;
}

static void
count_view (KdStatsTeacher *teacher, gint64 view)
{
  gint64 *known = g_hash_table_lookup (teacher->views, &view);

  if (!known) {
    gint64 *key = g_new (gint64, 1);
    *key = view;
    known = g_new0 (gint64, 1);
    g_hash_table_insert (teacher->views, key, known);
  }
  ++*known;
}

static gboolean
step_keys (KdStatsTeacher *teacher, gint64 first, gint64 n, gint64 *rows, gint64 *ids, gint64 *views)
{
  for (gint64 i = 0; i < n; i++) {
    rows[i] = first + i;
    kd_cache_reader_key (teacher->reader, rows[i], &ids[i], &views[i]);
  }
  return n > 0;
}

static gboolean
scan (KdStatsTeacher *teacher, const Labels *labels, KdCacheWork *work, GError **error)
{
  g_autofree gint64 *rows = g_new (gint64, STEP_ROWS), *ids = g_new (gint64, STEP_ROWS), *views = g_new (gint64, STEP_ROWS);

  for (gint64 first = 0; first < teacher->n_rows; first += STEP_ROWS) {
    gint64 n = MIN (STEP_ROWS, teacher->n_rows - first);
    step_keys (teacher, first, n, rows, ids, views);
    for (gint64 i = 0; i < n; i++)
      count_view (teacher, views[i]);
    if (teacher->field && !read_answers (teacher, n, rows, ids, labels, TRUE, NULL, error))
      return FALSE;
    work->options.progress (first + n, teacher->n_rows, work);
    if (g_cancellable_set_error_if_cancelled (work->options.cancellable, error))
      return FALSE;
  }
  return TRUE;
}

/* How often @a and @b have the same first choice, over the rows that both have. */
static gboolean
compare (KdStatsTeacher *a, KdStatsTeacher *b, gdouble *ret_agree, gint64 *ret_common, GError **error)
{
  g_autofree gint64 *rows = g_new (gint64, STEP_ROWS), *ids = g_new (gint64, STEP_ROWS), *views = g_new (gint64, STEP_ROWS), *theirs = g_new (gint64, STEP_ROWS);
  const Labels none = { NULL, NULL, 0 };
  gint64 same = 0, common = 0;

  for (gint64 first = 0; first < a->n_rows; first += STEP_ROWS) {
    g_autoptr (GArray) mine = g_array_new (FALSE, FALSE, sizeof (gint64)), other = g_array_new (FALSE, FALSE, sizeof (gint64));
    gint64 n = MIN (STEP_ROWS, a->n_rows - first), m = 0;
    step_keys (a, first, n, rows, ids, views);
    kd_cache_reader_find (b->reader, n, ids, views, theirs);
    for (gint64 i = 0; i < n; i++)
      if (theirs[i] >= 0) {
        rows[m] = rows[i];
        theirs[m++] = theirs[i];
      }
    if (m == 0)
      continue;
    if (!read_answers (a, m, rows, ids, &none, FALSE, mine, error) || !read_answers (b, m, theirs, ids, &none, FALSE, other, error))
      return FALSE;
    for (guint i = 0; i < MIN (mine->len, other->len); i++)
      same += g_array_index (mine, gint64, i) == g_array_index (other, gint64, i);
    common += MIN (mine->len, other->len);
  }
  *ret_agree = common ? (gdouble) same / (gdouble) common : NAN;
  *ret_common = common;
  return TRUE;
}

static gboolean
open_teacher (KdStatsTeacher *teacher, const gchar *path, const gchar *field, GError **error)
{
  const KdCacheIdentity *identity;
  const KdCacheEncoding *encoding;

  teacher->path = g_strdup (path);
  teacher->views = g_hash_table_new_full (g_int64_hash, g_int64_equal, g_free, g_free);
  teacher->reader = kd_cache_reader_open (path, error);
  if (!teacher->reader || !find_field (teacher, field, error))
    return FALSE;
  identity = kd_cache_reader_identity (teacher->reader);
  encoding = teacher->field ? kd_cache_reader_encoding (teacher->reader, teacher->field) : NULL;
  teacher->identity = g_strdup (identity->teacher_spec ? identity->teacher_spec : identity->teacher ? identity->teacher
                                                                                                    : "unknown");
  teacher->encoding = g_strdup (encoding ? encoding->name : "as it came");
  teacher->n_rows = kd_cache_reader_n_rows (teacher->reader);
  return TRUE;
}

typedef struct {
  gint64 id, label;
} Pair;

static gint
by_id (gconstpointer a, gconstpointer b)
{
  const Pair *x = a, *y = b;

  return x->id < y->id ? -1 : x->id > y->id;
}

static gboolean
read_labels (const gchar *path, Labels *labels, GError **error)
{
  g_autoptr (KdH5Reader) reader = kd_h5_reader_open (path, NULL, error);
  g_autoptr (KdTensor) raw = reader ? kd_h5_reader_read_all (reader, "label", error) : NULL, label = raw ? kd_tensor_cast (raw, KD_INT64, error) : NULL;
  g_autoptr (KdTensor) ids = label && kd_layout_find (kd_h5_reader_layout (reader), "sample.id") ? kd_h5_reader_read_all (reader, "sample.id", error) : NULL;
  g_autoptr (GArray) pairs = g_array_new (FALSE, FALSE, sizeof (Pair));

  if (!label || label->rank != 1 || (ids && (ids->dtype != KD_INT64 || ids->dims[0] != label->dims[0]))) {
    if (label)
      g_set_error (error, KD_ERROR, KD_ERROR_SHAPE, "Labels are not one number a sample: path=\"%s\"", path);
    return FALSE;
  }
  for (gint64 i = 0; i < label->dims[0]; i++) {
    Pair pair = { ids ? ((gint64 *) ids->data)[i] : i, ((gint64 *) label->data)[i] };
    g_array_append_val (pairs, pair);
  }
  g_array_sort (pairs, by_id);
  labels->n = pairs->len;
  labels->ids = g_new (gint64, MAX (labels->n, 1));
  labels->labels = g_new (gint64, MAX (labels->n, 1));
  for (guint i = 0; i < pairs->len; i++) {
    labels->ids[i] = g_array_index (pairs, Pair, i).id;
    labels->labels[i] = g_array_index (pairs, Pair, i).label;
  }
  return TRUE;
}

static gboolean
fill (KdStats *stats, gchar **paths, const gchar *field, const Labels *labels, KdCacheWork *work, GError **error)
{
  for (guint i = 0; i < stats->n; i++)
    if (!open_teacher (&stats->teachers[i], paths[i], field, error) || !scan (&stats->teachers[i], labels, work, error))
      return FALSE;
  for (guint i = 0; i < stats->n; i++)
    for (guint k = 0; k < stats->n; k++)
      if (i != k && stats->teachers[i].field && stats->teachers[k].field &&
          !compare (&stats->teachers[i], &stats->teachers[k], &stats->agree[i * stats->n + k], &stats->common[i * stats->n + k], error))
        return FALSE;
  return TRUE;
}

static void
stats_clear (KdStats *stats)
{
  for (guint i = 0; i < stats->n; i++) {
    KdStatsTeacher *teacher = &stats->teachers[i];
    g_free (teacher->path);
    g_free (teacher->identity);
    g_free (teacher->encoding);
    g_free (teacher->field);
    g_clear_pointer (&teacher->reader, kd_cache_reader_close);
    g_clear_pointer (&teacher->views, g_hash_table_unref);
  }
  g_free (stats->teachers);
  g_free (stats->agree);
  g_free (stats->common);
}

int
kd_cache_stats_command (int argc, char **argv)
{
  g_autofree gchar *label_path = NULL, *output = NULL, *field = NULL, *page = NULL;
  const GOptionEntry options[] = {
    { "output", 'o', 0, G_OPTION_ARG_FILENAME, &output, "The page (default: CACHE.html)", "FILE" },
    { "labels", 'l', 0, G_OPTION_ARG_FILENAME, &label_path, "A batch file with sample.id and label: accuracy and calibration", "FILE.h5" },
    { "field", 'f', 0, G_OPTION_ARG_STRING, &field, "What the teacher thinks (default: teacher.logits, else teacher.topk.logprobs)", "FIELD" },
    { NULL },
  };
  KdCacheWork work = { { 0 } };
  KdStats stats = { 0 };
  Labels labels = { 0 };
  g_autoptr (GError) error = NULL;
  gboolean good = TRUE;

  if (!kd_tool_options (&argc, &argv, options, "CACHE...", "Write a page about a teacher: how sure it is, whether it is right, what its cache costs; of several, how they agree.",
          "One HTML file with nothing outside it.\n\nExample:\n  kd cache stats a.h5 b.h5 --labels train.h5 --output teachers.html"))
    return KD_EXIT_USAGE;
  if (argc < 2 || argc > 9)
    return kd_tool_usage ("wanted one to eight caches, got %d", argc - 1);
  if (label_path && !read_labels (label_path, &labels, &error))
    return kd_tool_fail ("%s", error->message);
  stats.n = (guint) argc - 1;
  stats.teachers = g_new0 (KdStatsTeacher, stats.n);
  stats.agree = g_new0 (gdouble, stats.n * stats.n);
  stats.common = g_new0 (gint64, stats.n * stats.n);
  stats.has_labels = label_path != NULL;
  output = output ? output : g_strconcat (argv[1], ".html", NULL);
  kd_cache_work_begin (&work);
  good = fill (&stats, argv + 1, field, &labels, &work, &error);
  kd_cache_work_end (&work);
  if (good) {
    page = kd_stats_page (&stats);
    good = g_file_set_contents (output, page, -1, &error);
  }
  stats_clear (&stats);
  g_free (labels.ids);
  g_free (labels.labels);
  if (!good)
    return kd_cache_work_fail (error, "no page was written");
  g_print ("%s\n", output);
  return KD_EXIT_DONE;
}
