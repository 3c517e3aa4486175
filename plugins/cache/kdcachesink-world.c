/* kdcachesink among many processes that share the rows of one source. Each writes a cache of its own, LOCATION.rank-R-of-N, and leaves out what LOCATION
 * or one of the others has. Where they can meet (MPI) the first one then makes LOCATION of them by hard links, checks it, and only then takes
 * them away. Killed at any instant, the same line goes on, also by another number of processes: what those of before left goes into LOCATION first. */
#include "kdcachesink.h"

#include <string.h>

#define REPORT_US (G_USEC_PER_SEC / 2)

static gboolean
is_cache (const gchar *path)
{
  g_autofree gchar *manifest = g_strconcat (path, ".parts/manifest.json", NULL);

  return g_file_test (manifest, G_FILE_TEST_EXISTS);
}

static gchar *
rank_path (const KdCacheWorld *world, gint64 rank)
{
  return g_strdup_printf ("%s.rank-%" G_GINT64_FORMAT "-of-%" G_GINT64_FORMAT, world->location, rank, world->count);
}

static gint
by_name (gconstpointer a, gconstpointer b)
{
  return g_strcmp0 (*(const gchar *const *) a, *(const gchar *const *) b);
}

/* "t.h5.rank-0-of-4.parts", and ".removed", which a removal that was killed leaves: (transfer full) the cache's name, if it is of another number. */
static gchar *
stranger_of (const KdCacheWorld *world, const gchar *prefix, const gchar *name)
{
  const gchar *ending = g_str_has_suffix (name, ".parts") ? ".parts" : ".removed", *of;
  g_autofree gchar *cache = g_str_has_prefix (name, prefix) && g_str_has_suffix (name, ending) ? g_strndup (name, strlen (name) - strlen (ending)) : NULL;
  guint64 count;

  of = cache ? strstr (cache + strlen (prefix), "-of-") : NULL;
  if (!of || !g_ascii_string_to_unsigned (of + strlen ("-of-"), 10, 1, G_MAXINT32, &count, NULL) || (gint64) count == world->count)
    return NULL;
  return g_steal_pointer (&cache);
}

/* Caches, or what is left of them, that another number of processes wrote: (transfer full) of paths, NULL-terminated. */
static GPtrArray *
find_strangers (const KdCacheWorld *world)
{
  g_autofree gchar *folder = g_path_get_dirname (world->location), *base = g_path_get_basename (world->location);
  g_autofree gchar *prefix = g_strconcat (base, ".rank-", NULL);
  g_autoptr (GDir) dir = g_dir_open (folder, 0, NULL);
  GPtrArray *found = g_ptr_array_new_with_free_func (g_free);
  const gchar *name;

  while (dir && (name = g_dir_read_name (dir))) {
    g_autofree gchar *cache = stranger_of (world, prefix, name), *path = cache ? g_build_filename (folder, cache, NULL) : NULL;
    if (path && !g_ptr_array_find_with_equal_func (found, path, g_str_equal, NULL))
      g_ptr_array_add (found, g_steal_pointer (&path));
  }
  g_ptr_array_sort (found, by_name);
  g_ptr_array_add (found, NULL);
  return found;
}

/* "kd cache merge --move t.h5 t.h5.rank-*-of-4" */
static gchar *
merge_command (const KdCacheWorld *world, const gchar *count)
{
  gboolean plain = strspn (world->location, G_CSET_a_2_z G_CSET_A_2_Z G_CSET_DIGITS "-_=./,:+@%") == strlen (world->location);
  g_autofree gchar *quoted = plain ? g_strdup (world->location) : g_shell_quote (world->location);

  return g_strdup_printf ("kd cache merge --move %s%s %s.rank-*-of-%s", is_cache (world->location) ? "--extend " : "", quoted, quoted, count);
}

static gboolean
fail (const gchar *path, const gchar *reason, GError **error)
{
  g_set_error (error, KD_ERROR, KD_ERROR_IO, "Cannot write cache: path=\"%s\", reason=%s", path, reason);
  return FALSE;
}

static void
say (const KdCacheWorld *world, const gchar *text)
{
  gst_element_message_full (world->owner, GST_MESSAGE_INFO, GST_STREAM_ERROR, GST_STREAM_ERROR_FAILED, g_strdup (text), NULL, __FILE__, G_STRFUNC, __LINE__);
}

static void
on_progress (gint64 done, gint64 total, gpointer user_data)
{
  KdCacheWorld *world = user_data;
  gint64 now = g_get_monotonic_time ();

  if (now - world->reported_us < REPORT_US)
    return;
  world->reported_us = now;
  gst_element_post_message (world->owner,
      gst_message_new_element (GST_OBJECT (world->owner), gst_structure_new ("kd-merge", "rows", G_TYPE_INT64, done, "rows-total", G_TYPE_INT64, total, NULL)));
}

/* Into LOCATION; the inputs go once it is on the disk and every block of it was read and found good. */
static gboolean
gather (KdCacheWorld *world, const gchar *const *inputs, gboolean whole, GError **error)
{
  KdCacheCopyOptions options = { .link = TRUE, .extend = TRUE, .unfinished = !whole, .progress = on_progress, .user_data = world };
  KdCacheCopyResult result = { 0 };
  g_autoptr (GPtrArray) caches = g_ptr_array_new ();
  g_autofree gchar *text = NULL;

  for (guint i = 0; inputs[i]; i++)
    if (is_cache (inputs[i]))
      g_ptr_array_add (caches, (gpointer) inputs[i]);
  g_ptr_array_add (caches, NULL);
  if (caches->len > 1) {
    const gchar *const *paths = (const gchar *const *) caches->pdata;
    if (!kd_cache_merge (world->location, paths, &options, &result, error)) {
      options.link = FALSE; /* not every file system has links */
      if (!error || !g_error_matches (*error, KD_ERROR, KD_ERROR_IO))
        return FALSE;
      g_clear_error (error);
      if (!kd_cache_merge (world->location, paths, &options, &result, error))
        return FALSE;
    }
    if (!kd_cache_verify (world->location, on_progress, world, NULL, error)) {
      g_prefix_error (error, "Caches of %u processes put together, and kept, for the result is damaged (kd cache repair each of them and %s): ", caches->len - 1, world->location);
      return FALSE;
    }
    text = g_strdup_printf ("%s: %" G_GINT64_FORMAT " rows, of %u processes' caches%s", world->location, result.n_rows, caches->len - 1,
        result.n_before ? " and of what was there" : "");
    say (world, text);
  }
  for (guint i = 0; inputs[i]; i++)
    if (!kd_cache_remove (inputs[i], error))
      return FALSE;
  return TRUE;
}

void
kd_cache_world_clear (KdCacheWorld *world)
{
  g_clear_pointer (&world->location, g_free);
  g_clear_pointer (&world->path, g_free);
}

void
kd_cache_world_init (KdCacheWorld *world, GstElement *owner, const gchar *location, gint64 index, gint64 count)
{
  kd_cache_world_clear (world);
  *world = (KdCacheWorld) { .owner = owner, .location = g_strdup (location), .index = index, .count = MAX (count, 1) };
  world->meets = count > 1 && count == kd_world_size () && index == kd_world_rank () && kd_world_can_meet ();
  world->path = world->count > 1 ? rank_path (world, index) : g_strdup (location);
}

gboolean
kd_cache_world_is_new (const KdCacheWorld *world)
{
  g_autoptr (GPtrArray) strangers = find_strangers (world);

  return world->count == 1 && strangers->len == 1 && !is_cache (world->location);
}

/* What stands in the way, before anything is written. */
static gboolean
check_place (const KdCacheWorld *world, const gchar *const *strangers, gboolean resume, GError **error)
{
  g_autofree gchar *command = NULL, *reason = NULL;
  guint n = 0;

  for (guint i = 0; strangers[i]; i++)
    n += is_cache (strangers[i]);
  if (world->count > 1 && !resume && is_cache (world->location))
    return fail (world->location, "a cache is there already; go on with it (resume=true), or remove it and its .parts folder", error);
  if (world->count > 1 && !is_cache (world->location) && g_file_test (world->location, G_FILE_TEST_EXISTS))
    return fail (world->location, "a file of that name is there, and it is no cache that can be gone on with", error);
  if (n == 0 || (resume && (world->count == 1 || world->meets)))
    return TRUE;
  if (!resume)
    reason = g_strdup_printf ("%u caches that an earlier run of other processes left are there; go on with them (resume=true), or remove them", n);
  else {
    command = merge_command (world, strrchr (strangers[0], '-') + 1);
    reason = g_strdup_printf ("%u caches that another number of processes left are there, and processes without MPI cannot agree on them; put them together: %s; then start these again", n, command);
  }
  return fail (strangers[0], reason, error);
}

/* The rows that need not be made again. */
static gboolean
know_all (const KdCacheWorld *world, KdCacheWriter *writer, GError **error)
{
  if (is_cache (world->location) && !kd_cache_writer_know (writer, world->location, error))
    return FALSE;
  for (gint64 rank = 0; rank < world->count; rank++) {
    g_autofree gchar *path = rank_path (world, rank);
    if (rank != world->index && is_cache (path) && !kd_cache_writer_know (writer, path, error))
      return FALSE;
  }
  return TRUE;
}

/* After all have begun: each has made its folder. */
static gboolean
check_others (const KdCacheWorld *world, GError **error)
{
  for (gint64 rank = 0; rank < world->count; rank++) {
    g_autofree gchar *path = rank_path (world, rank), *folder = g_strconcat (path, ".parts", NULL);
    if (g_file_test (folder, G_FILE_TEST_IS_DIR))
      continue;
    g_set_error (error, KD_ERROR, KD_ERROR_MISMATCH, "Processes write different caches: path=\"%s\", process=%" G_GINT64_FORMAT ", process %" G_GINT64_FORMAT " does not write beside it; give all the same location, in a folder that all machines share",
        world->path, world->index, rank);
    return FALSE;
  }
  return TRUE;
}

KdCacheWriter *
kd_cache_world_open (KdCacheWorld *world, gboolean resume, const KdCacheIdentity *identity, gsize part_bytes, GError **error)
{
  g_autoptr (GPtrArray) strangers = find_strangers (world);
  const gchar *const *paths = (const gchar *const *) strangers->pdata;
  g_autoptr (KdCacheWriter) writer = NULL;

  if (!check_place (world, paths, resume, error))
    return NULL;
  if (world->index == 0 && resume && (world->count == 1 || world->meets) && paths[0] && !gather (world, paths, FALSE, error))
    return NULL;
  if (world->meets && !kd_world_barrier ("kdcachesink", error))
    return NULL;
  writer = kd_cache_writer_open (world->path, resume, identity, part_bytes, error);
  if (!writer || world->count == 1)
    return g_steal_pointer (&writer);
  if (!know_all (world, writer, error) || (world->meets && !(kd_world_barrier ("kdcachesink", error) && check_others (world, error))))
    return NULL;
  return g_steal_pointer (&writer);
}

/* All are done, so all their caches are complete; one that is not is another run's. */
static gboolean
gather_ranks (KdCacheWorld *world, GError **error)
{
  g_autoptr (GPtrArray) paths = g_ptr_array_new_with_free_func (g_free);

  for (gint64 rank = 0; rank < world->count; rank++) {
    gchar *path = rank_path (world, rank);
    g_autoptr (KdCacheReader) reader = kd_cache_reader_open (path, error);
    g_ptr_array_add (paths, path);
    if (!reader)
      return FALSE;
    if (!kd_cache_reader_complete (reader))
      return fail (path, "its process has not finished it; is another run writing it?", error);
  }
  g_ptr_array_add (paths, NULL);
  return gather (world, (const gchar *const *) paths->pdata, TRUE, error);
}

gboolean
kd_cache_world_finish (KdCacheWorld *world, GError **error)
{
  g_autofree gchar *count = g_strdup_printf ("%" G_GINT64_FORMAT, world->count), *command = merge_command (world, count), *text = NULL;

  if (world->count == 1)
    return TRUE;
  if (world->meets)
    return kd_world_barrier ("kdcachesink", error) && (world->index > 0 || gather_ranks (world, error)) && kd_world_barrier ("kdcachesink", error);
  text = g_strdup_printf ("%s is this process's share; when all %s are done: %s", world->path, count, command);
  say (world, text);
  return TRUE;
}
