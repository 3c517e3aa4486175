/* Several caches into one. First everything that could be wrong is looked at, then the output is begun. */
#include "kd-cache-copy.h"

#include <string.h>
#include <sys/stat.h>

#define STEP_ROWS 4096

typedef struct {
  const gchar *const *paths;
  guint n;
  KdCacheReader **readers;
  gint64 *n_new; /* rows of each that the output has not */
  KdCacheCopy *copy;
} Merge;

static void
merge_clear (Merge *merge)
{
  for (guint i = 0; i < merge->n; i++)
    g_clear_pointer (&merge->readers[i], kd_cache_reader_close);
  g_free (merge->readers);
  g_free (merge->n_new);
  g_clear_pointer (&merge->copy, kd_cache_copy_close);
}
G_DEFINE_AUTO_CLEANUP_CLEAR_FUNC (Merge, merge_clear)

static gboolean
same_file (const gchar *a, const gchar *b)
{
  g_autofree gchar *x = kd_cache_folder (a), *y = kd_cache_folder (b);
  struct stat info_x, info_y;

  if (stat (x, &info_x) < 0 && stat (a, &info_x) < 0)
    return FALSE;
  if (stat (y, &info_y) < 0 && stat (b, &info_y) < 0)
    return FALSE;
  return info_x.st_dev == info_y.st_dev && info_x.st_ino == info_y.st_ino;
}

static gboolean
refuse (GError **error, KdError code, const gchar *output, const gchar *reason)
{
  g_set_error (error, KD_ERROR, code, "Cannot merge: output=\"%s\", reason=%s", output, reason);
  return FALSE;
}

static gboolean
refuse_input (GError **error, const gchar *output, const gchar *input)
{
  g_set_error (error, KD_ERROR, KD_ERROR_RANGE, "Cannot merge: output=\"%s\", input=\"%s\", reason=an input is given twice; name each once", output, input);
  return FALSE;
}

/* An input without rows has no fields yet: it says nothing about what the others have to be. */
static const KdCacheManifest *
model_of (const Merge *merge, guint *ret_nth)
{
  for (guint i = 0; i < merge->n; i++)
    if (kd_cache_reader_manifest (merge->readers[i])->layout) {
      *ret_nth = i;
      return kd_cache_reader_manifest (merge->readers[i]);
    }
  return NULL;
}

static gboolean
open_inputs (Merge *merge, const gchar *output, const KdCacheCopyOptions *options, GError **error)
{
  const KdCacheManifest *like;
  g_autoptr (KdCacheManifest) all = NULL, there = NULL;
  guint nth = 0;

  for (guint i = 0; i < merge->n; i++) {
    if (same_file (merge->paths[i], output))
      return refuse (error, KD_ERROR_RANGE, output, "it is one of the inputs");
    for (guint k = 0; k < i; k++)
      if (same_file (merge->paths[i], merge->paths[k]))
        return refuse_input (error, output, merge->paths[i]);
    merge->readers[i] = kd_cache_reader_open (merge->paths[i], error);
    if (!merge->readers[i] || !kd_cache_reader_check_sizes (merge->readers[i], error))
      return FALSE;
  }
  like = model_of (merge, &nth);
  if (!like && options->extend)
    like = there = kd_cache_manifest_load (output, NULL);
  if (!like || !like->layout)
    return refuse (error, KD_ERROR_RANGE, output, "no input has a row");
  for (guint i = 0; i < merge->n; i++)
    if (!kd_cache_manifest_fits (like, merge->paths[nth], kd_cache_reader_manifest (merge->readers[i]), merge->paths[i], error))
      return FALSE;
  all = kd_cache_manifest_like (like);
  for (guint i = nth + 1; i < merge->n; i++)
    kd_cache_encodings_add (all->encodings, kd_cache_reader_manifest (merge->readers[i])->encodings);
  merge->copy = kd_cache_copy_open (output, all, options, error);
  return merge->copy != NULL;
}

/* One of those that have a key. */
typedef struct {
  KdCacheReader *reader;
  const gchar *path;
} Holder;

static Holder
input_of (const Merge *merge, guint nth)
{
  return (Holder) { merge->readers[nth], merge->paths[nth] };
}

/* Rows @mine of @a and @theirs of @b, which have the same keys. */
static gboolean
check_equal (const KdLayout *layout, Holder a, const gint64 *mine, Holder b, const gint64 *theirs, gint64 n, GError **error)
{
  for (guint f = 0; f < kd_layout_n_fields (layout); f++) {
    const gchar *name = kd_layout_nth (layout, f)->name;
    g_autoptr (KdTensor) x = kd_cache_reader_take_stored (a.reader, name, n, mine, error);
    g_autoptr (KdTensor) y = x ? kd_cache_reader_take_stored (b.reader, name, n, theirs, error) : NULL;
    gsize bytes = y ? x->n_bytes / (gsize) MAX (n, 1) : 0;
    if (!y)
      return FALSE;
    for (gint64 i = 0; i < n; i++) {
      gint64 id, view;
      if (memcmp ((guint8 *) x->data + (gsize) i * bytes, (guint8 *) y->data + (gsize) i * bytes, bytes) == 0)
        continue;
      kd_cache_reader_key (a.reader, mine[i], &id, &view);
      g_set_error (error, KD_ERROR, KD_ERROR_MISMATCH, "Caches disagree: path=\"%s\", other=\"%s\", id=%" G_GINT64_FORMAT ", view=%" G_GINT64_FORMAT ", field=%s; look at them with kd cache diff, leave the wrong one's rows out with kd cache prune",
          a.path, b.path, id, view, name);
      return FALSE;
    }
  }
  return TRUE;
}

/* Rows of a part of @mine that @before has too: cleared in @keep. With @compare they have to be equal. */
static gboolean
leave_out_held (const Merge *merge, Holder mine, Holder before, const KdCachePart *part, const KdCacheKeys *keys, guint8 *keep, gboolean compare, GError **error)
{
  const KdLayout *layout = merge->copy->manifest->layout;
  g_autofree gint64 *found = g_new (gint64, part->rows), *rows = g_new (gint64, STEP_ROWS), *theirs = g_new (gint64, STEP_ROWS);
  gint64 n = 0;

  if (kd_cache_reader_find (before.reader, part->rows, keys->ids, keys->views, found) == part->rows)
    return TRUE;
  for (gint64 i = 0; i < part->rows; i++) {
    if (found[i] >= 0) {
      keep[i] = 0;
      rows[n] = part->first_row + i;
      theirs[n++] = found[i];
    }
    if (compare && (n == STEP_ROWS || i == part->rows - 1) && !check_equal (layout, mine, rows, before, theirs, n, error))
      return FALSE;
    if (n == STEP_ROWS || !compare)
      n = 0;
  }
  return TRUE;
}

/* Rows that an input before has too do not count again. */
static gboolean
leave_out (const Merge *merge, guint nth, const KdCachePart *part, const KdCacheKeys *keys, guint8 *keep, gboolean compare, GError **error)
{
  for (guint before = 0; before < nth; before++)
    if (!leave_out_held (merge, input_of (merge, nth), input_of (merge, before), part, keys, keep, compare, error))
      return FALSE;
  return TRUE;
}

/* What @todo does with every part of every input. */
typedef gboolean (*PartFunc) (Merge *merge, guint nth, const KdCachePart *part, const KdCacheKeys *keys, guint8 *keep, GError **error);

static gboolean
each_part (Merge *merge, PartFunc todo, GError **error)
{
  for (guint i = 0; i < merge->n; i++) {
    const KdCacheManifest *manifest = kd_cache_reader_manifest (merge->readers[i]);
    for (guint p = 0; p < manifest->parts->len; p++) {
      const KdCachePart *part = g_ptr_array_index (manifest->parts, p);
      g_auto (KdCacheKeys) keys = { NULL };
      g_autofree guint8 *keep = g_malloc ((gsize) part->rows);
      memset (keep, 1, (gsize) part->rows);
      if (!kd_cache_reader_part_keys (merge->readers[i], part, &keys, error) || !todo (merge, i, part, &keys, keep, error))
        return FALSE;
    }
  }
  return TRUE;
}

static gboolean
check_part (Merge *merge, guint nth, const KdCachePart *part, const KdCacheKeys *keys, guint8 *keep, GError **error)
{
  const Holder there = { merge->copy->there, merge->copy->path };

  if (!leave_out (merge, nth, part, keys, keep, TRUE, error))
    return FALSE;
  if (there.reader && !leave_out_held (merge, input_of (merge, nth), there, part, keys, keep, merge->copy->options->extend, error))
    return FALSE;
  for (gint64 i = 0; i < part->rows; i++)
    merge->n_new[nth] += keep[i];
  return kd_cache_copy_step (merge->copy, 0, error);
}

static gboolean
copy_part (Merge *merge, guint nth, const KdCachePart *part, const KdCacheKeys *keys, guint8 *keep, GError **error)
{
  return leave_out (merge, nth, part, keys, keep, FALSE, error) &&
      kd_cache_copy_part (merge->copy, merge->readers[nth], merge->paths[nth], part, keys, keep, error);
}

/* Somebody else's cache in the output's place is no merge that was interrupted; but with `extend` it is what is added to. */
static gboolean
check_output (const Merge *merge, GError **error)
{
  KdCacheReader *there = merge->copy->there;
  const KdCacheManifest *manifest = there && !merge->copy->options->extend ? kd_cache_reader_manifest (there) : NULL;

  for (guint p = 0; manifest && p < manifest->parts->len; p++) {
    const KdCachePart *part = g_ptr_array_index (manifest->parts, p);
    g_autofree gint64 *rows = g_new (gint64, part->rows);
    g_auto (KdCacheKeys) keys = { NULL };
    gint64 left = part->rows;
    if (!kd_cache_reader_part_keys (there, part, &keys, error))
      return FALSE;
    for (guint i = 0; i < merge->n && left; i++) {
      gint64 n = 0;
      kd_cache_reader_find (merge->readers[i], left, keys.ids, keys.views, rows);
      for (gint64 k = 0; k < left; k++)
        if (rows[k] < 0) { /* for the next input */
          keys.ids[n] = keys.ids[k];
          keys.views[n++] = keys.views[k];
        }
      left = n;
    }
    if (left)
      return refuse (error, KD_ERROR_MISMATCH, merge->copy->path, "a cache is there already that has other rows; choose another name, or add to it with kd cache merge --extend");
  }
  return TRUE;
}

/* What the encodings of an output that is extended have cost, its inputs' with them. More rows measured than there are: a merge that was
 * interrupted has counted them already. */
static void
add_measured (const Merge *merge)
{
  KdCacheCopy *copy = merge->copy;
  gint64 n_measured = 0;

  for (guint i = 0; i < copy->manifest->encodings->len; i++)
    n_measured = MAX (n_measured, ((KdCacheEncoding *) g_ptr_array_index (copy->manifest->encodings, i))->n_rows);
  for (guint i = 0; i < merge->n && n_measured <= copy->manifest->n_rows; i++)
    if (merge->n_new[i] > 0)
      kd_cache_encodings_add (copy->manifest->encodings, kd_cache_reader_manifest (merge->readers[i])->encodings);
}

gboolean
kd_cache_merge (const gchar *output, const gchar *const *inputs, const KdCacheCopyOptions *options, KdCacheCopyResult *ret_result,
    GError **error)
{
  g_auto (Merge) merge = { .paths = inputs, .n = g_strv_length ((gchar **) inputs) };
  gboolean complete = TRUE;

  merge.readers = g_new0 (KdCacheReader *, MAX (merge.n, 1));
  merge.n_new = g_new0 (gint64, MAX (merge.n, 1));
  if (!open_inputs (&merge, output, options, error))
    return FALSE;
  for (guint i = 0; i < merge.n; i++) {
    merge.copy->n_total += kd_cache_reader_n_rows (merge.readers[i]);
    complete = complete && kd_cache_reader_complete (merge.readers[i]);
  }
  if (!check_output (&merge, error) || !each_part (&merge, check_part, error))
    return FALSE;
  if (options->extend && merge.copy->there)
    add_measured (&merge);
  if (!kd_cache_copy_begin (merge.copy, error) || !each_part (&merge, copy_part, error) || !kd_cache_copy_finish (merge.copy, complete && !options->unfinished, error))
    return FALSE;
  *ret_result = merge.copy->result;
  return TRUE;
}
