/* kd cache merge, prune, repair: caches out of caches. */
#include "kd-cache-work.h"

#include <stdlib.h>
#include <string.h>

static void
print_result (const gchar *output, const KdCacheCopyResult *result)
{
  g_autoptr (GString) parts = g_string_new (NULL);
  const struct {
    guint n;
    const gchar *what;
  } kinds[] = { { result->n_linked, "linked" }, { result->n_copied, "copied" }, { result->n_written, "written" } };

  for (guint i = 0; i < G_N_ELEMENTS (kinds); i++)
    if (kinds[i].n)
      g_string_append_printf (parts, "%s%u %s", parts->len ? ", " : "", kinds[i].n, kinds[i].what);
  g_print ("%s: %" G_GINT64_FORMAT " rows", output, result->n_rows);
  if (result->n_before)
    g_print (", %" G_GINT64_FORMAT " were there", result->n_before);
  g_print ("; parts: %s%s\n", parts->len ? parts->str : "none new", result->complete ? "" : "; not complete, as an input is not");
}

/* With --move the line that was interrupted goes on too: inputs that it has removed are in the output, which is complete. Returns how many are. */
static guint
drop_removed (gchar **words, const gchar *output)
{
  g_autoptr (KdCacheReader) reader = kd_cache_reader_open (output, NULL);
  guint n = 0, n_removed = 0;

  if (!reader || !kd_cache_reader_complete (reader))
    return 0;
  for (guint i = 0; words[i]; i++) {
    g_autofree gchar *folder = g_strconcat (words[i], ".parts", NULL);
    if (g_file_test (words[i], G_FILE_TEST_EXISTS) || g_file_test (folder, G_FILE_TEST_EXISTS))
      words[n++] = words[i];
    else if (++n_removed)
      g_print ("%s: not there; %s is complete\n", words[i], output);
  }
  words[n] = NULL;
  return n_removed;
}

static int
remove_inputs (gchar **paths)
{
  g_autoptr (GError) error = NULL;

  for (guint i = 0; paths[i]; i++)
    if (!kd_cache_remove (paths[i], &error))
      return kd_cache_work_fail (error, "the same line goes on");
  return KD_EXIT_DONE;
}

int
kd_cache_merge_command (int argc, char **argv)
{
  gboolean link = FALSE, move = FALSE, extend = FALSE, good;
  const GOptionEntry options[] = {
    { "link", 'l', 0, G_OPTION_ARG_NONE, &link, "Hard links to the inputs' parts instead of copies: no room, no time (same disk)", NULL },
    { "move", 'm', 0, G_OPTION_ARG_NONE, &move, "As --link, and remove the inputs once the output is complete", NULL },
    { "extend", 'e', 0, G_OPTION_ARG_NONE, &extend, "OUTPUT may be there with rows of its own: they stay, and those of the inputs are added", NULL },
    { NULL },
  };
  KdCacheWork work = { { 0 } };
  KdCacheCopyResult result = { 0 };
  g_autoptr (GError) error = NULL;

  if (!kd_tool_options (&argc, &argv, options, "OUTPUT CACHE...", "Make one cache of several: shards of one teacher on one data set.",
          "Caches of different teachers, data sets or encodings are refused. A key that several have counts once when its rows are equal, and is an error\n"
          "otherwise. Interrupted, the same line goes on; without --move the inputs stay as they are."))
    return KD_EXIT_USAGE;
  if (argc < 3)
    return kd_tool_usage ("wanted an output and one or more caches, got %d words", argc - 1);
  if (move && drop_removed (argv + 2, argv[1]))
    extend = TRUE; /* the output has what was removed beside what is left */
  if (!argv[2])
    return KD_EXIT_DONE;
  work.options.link = link || move;
  work.options.extend = extend;
  kd_cache_work_begin (&work);
  good = kd_cache_merge (argv[1], (const gchar *const *) argv + 2, &work.options, &result, &error);
  kd_cache_work_end (&work);
  if (!good)
    return kd_cache_work_fail (error, "the same line goes on");
  if (move && remove_inputs (argv + 2) != KD_EXIT_DONE)
    return KD_EXIT_FAILED;
  print_result (argv[1], &result);
  return KD_EXIT_DONE;
}

static gint
by_value (gconstpointer a, gconstpointer b)
{
  gint64 x = *(const gint64 *) a, y = *(const gint64 *) b;

  return x < y ? -1 : x > y;
}

/* (transfer full) sample.id of a batch file, sorted. */
static gint64 *
read_ids (const gchar *path, gint64 *ret_n, GError **error)
{
  g_autoptr (KdH5Reader) reader = kd_h5_reader_open (path, NULL, error);
  g_autoptr (KdTensor) ids = reader ? kd_h5_reader_read_all (reader, "sample.id", error) : NULL;
  gint64 *sorted;

  if (!ids)
    return NULL;
  if (ids->dtype != KD_INT64 || ids->rank != 1) {
    g_set_error (error, KD_ERROR, KD_ERROR_DTYPE, "Ids are not int64 rows: path=\"%s\", sample.id=%s", path, kd_dtype_name (ids->dtype));
    return NULL;
  }
  *ret_n = ids->dims[0];
  sorted = g_malloc (MAX (ids->n_bytes, 1));
  memcpy (sorted, ids->data, ids->n_bytes);
  qsort (sorted, (size_t) ids->dims[0], sizeof *sorted, by_value);
  return sorted;
}

/* "A:B" as kd data has it: A is kept, B is not; either may be left out. */
static gboolean
parse_range (const gchar *text, KdCacheSelection *selection)
{
  const gchar *colon = strchr (text, ':');
  gchar *end;

  if (!colon)
    return FALSE;
  selection->has_range = TRUE;
  selection->first_id = G_MININT64;
  selection->last_id = G_MAXINT64;
  if (colon > text) {
    selection->first_id = g_ascii_strtoll (text, &end, 10);
    if (end != colon)
      return FALSE;
  }
  if (colon[1]) {
    selection->last_id = g_ascii_strtoll (colon + 1, &end, 10) - 1;
    if (*end || end == colon + 1)
      return FALSE;
  }
  return selection->first_id <= selection->last_id;
}

static gboolean
parse_views (const gchar *text, GArray *views)
{
  g_auto (GStrv) words = g_strsplit (text, ",", -1);

  for (guint i = 0; words[i]; i++) {
    gchar *end;
    gint64 view = g_ascii_strtoll (words[i], &end, 10);
    if (end == words[i] || *end)
      return FALSE;
    g_array_append_val (views, view);
  }
  return views->len > 0;
}

int
kd_cache_prune_command (int argc, char **argv)
{
  g_autofree gchar *ids_path = NULL, *range = NULL, *view_text = NULL, *drop_text = NULL;
  gboolean link = FALSE, good;
  const GOptionEntry options[] = {
    { "ids", 'i', 0, G_OPTION_ARG_FILENAME, &ids_path, "Keep samples whose sample.id is in this batch file", "FILE.h5" },
    { "range", 'r', 0, G_OPTION_ARG_STRING, &range, "Keep samples with ids from A to below B; either may be left out", "A:B" },
    { "views", 'v', 0, G_OPTION_ARG_STRING, &view_text, "Keep these views", "V,V" },
    { "drop", 'd', 0, G_OPTION_ARG_STRING, &drop_text, "Leave these fields out", "FIELD,FIELD" },
    { "link", 'l', 0, G_OPTION_ARG_NONE, &link, "Hard links to parts that are kept whole instead of copies (same disk)", NULL },
    { NULL },
  };
  KdCacheWork work = { { 0 } };
  KdCacheSelection selection = { 0 };
  KdCacheCopyResult result = { 0 };
  g_autofree gint64 *ids = NULL;
  g_autoptr (GArray) views = g_array_new (FALSE, FALSE, sizeof (gint64));
  g_auto (GStrv) drop = NULL;
  g_autoptr (GError) error = NULL;

  if (!kd_tool_options (&argc, &argv, options, "CACHE OUTPUT", "Keep some rows or fields of a cache, in a new one.",
          "Rows that are kept fulfil all conditions given. Interrupted, the same line goes on; the cache stays as it is."))
    return KD_EXIT_USAGE;
  if (argc != 3 || !(ids_path || range || view_text || drop_text))
    return kd_tool_usage ("wanted a cache, an output, and at least one of --ids, --range, --views, --drop");
  if (range && !parse_range (range, &selection))
    return kd_tool_usage ("--range: wanted A:B with A below B, got \"%s\"", range);
  if (view_text && !parse_views (view_text, views))
    return kd_tool_usage ("--views: wanted integers with commas, got \"%s\"", view_text);
  if (ids_path) {
    selection.ids = ids = read_ids (ids_path, &selection.n_ids, &error);
    if (!ids)
      return kd_tool_fail ("%s", error->message);
  }
  selection.views = view_text ? (const gint64 *) (gpointer) views->data : NULL;
  selection.n_views = views->len;
  selection.drop = (const gchar *const *) (drop = drop_text ? g_strsplit (drop_text, ",", -1) : NULL);
  work.options.link = link;
  kd_cache_work_begin (&work);
  good = kd_cache_prune (argv[1], argv[2], &selection, &work.options, &result, &error);
  kd_cache_work_end (&work);
  if (!good)
    return kd_cache_work_fail (error, "the same line goes on");
  print_result (argv[2], &result);
  return KD_EXIT_DONE;
}

static void
print_losses (const KdCacheRepair *repair)
{
  gint64 rows = 0;

  for (guint i = 0; i < repair->losses->len; i++) {
    const KdCacheLoss *loss = g_ptr_array_index (repair->losses, i);
    rows += loss->n_rows;
    g_print ("%s  %s  ", loss->file, loss->quarantined ? "quarantined" : "missing");
    if (!loss->n_rows)
      g_print ("rows unknown");
    else if (loss->stride > 0)
      g_print ("ids %" G_GINT64_FORMAT " to %" G_GINT64_FORMAT " by %" G_GINT64_FORMAT ", view %" G_GINT64_FORMAT ", %" G_GINT64_FORMAT " rows", loss->first_id, loss->last_id,
          loss->stride, loss->view, loss->n_rows);
    else
      g_print ("%" G_GINT64_FORMAT " of the ids %" G_GINT64_FORMAT " to %" G_GINT64_FORMAT, loss->n_rows, loss->first_id, loss->last_id);
    g_print ("  %s\n", loss->reason);
  }
  if (repair->losses->len)
    g_print ("to be captured again: %" G_GINT64_FORMAT " rows; run the capture with kdcachesink resume=true, it makes just these\n", rows);
}

int
kd_cache_repair_command (int argc, char **argv)
{
  gboolean dry_run = FALSE;
  const GOptionEntry options[] = {
    { "dry-run", 'n', 0, G_OPTION_ARG_NONE, &dry_run, "Only say what would be done", NULL },
    { NULL },
  };
  KdCacheWork work = { { 0 } };
  g_autoptr (KdCacheRepair) repair = NULL;
  g_autoptr (GError) error = NULL;

  if (!kd_tool_options (&argc, &argv, options, "CACHE", "Take damaged parts out of a cache, so that the capture can make their rows again.",
          "Damaged parts go to CACHE.parts/quarantine, where lost.txt says which rows they held. A manifest that is lost is made again from the good parts.\n"
          "Exit code: 0 nothing was wrong or all is repaired, 1 it cannot be, 2 wrong usage."))
    return KD_EXIT_USAGE;
  if (argc != 2)
    return kd_tool_usage ("wanted one cache, got %d", argc - 1);
  kd_cache_work_begin (&work);
  repair = kd_cache_repair (argv[1], dry_run, &work.options, &error);
  kd_cache_work_end (&work);
  if (!repair)
    return kd_cache_work_fail (error, "nothing was changed");
  if (repair->rebuilt)
    g_print ("manifest made again from the parts: %s%s\n", repair->rebuilt, repair->identity_known ? "" : "; nobody knows what teacher and data it is of");
  print_losses (repair);
  g_print ("%s: %" G_GINT64_FORMAT " rows in %u parts are good%s\n", argv[1], repair->n_rows, repair->n_parts, dry_run ? " (nothing was changed)" : "");
  return KD_EXIT_DONE;
}
