/* kd cache: its commands; info and pack. The others are in kd-cache-NAME.c, merge, prune and repair in kd-cache-merge.c. */
#include "kd-cache-work.h"

#include <kd/kd.h>
#include <string.h>

/* One line on a terminal, rewritten twice a second at most. */
typedef struct {
  gint64 started_us, shown_us;
  gboolean terminal;
} Progress;

static void
show_progress (gint64 done, gint64 total, gpointer user_data)
{
  Progress *progress = user_data;
  gint64 now = g_get_monotonic_time ();
  g_autofree gchar *left = NULL;

  if (!progress->terminal || (done < total && now - progress->shown_us < G_USEC_PER_SEC / 2) || done == 0)
    return;
  progress->shown_us = now;
  left = kd_tool_duration ((gdouble) (now - progress->started_us) / G_USEC_PER_SEC * (gdouble) (total - done) / (gdouble) done);
  g_printerr ("\r%3.0f %%  %" G_GINT64_FORMAT " of %" G_GINT64_FORMAT " rows, %s left   ", 100.0 * (gdouble) done / (gdouble) MAX (total, 1), done, total, left);
}

static void
end_progress (const Progress *progress)
{
  if (progress->terminal && progress->shown_us)
    g_printerr ("\r%60s\r", "");
}

static Progress
begin_progress (void)
{
  return (Progress) { g_get_monotonic_time (), 0, kd_tool_is_terminal (stderr) };
}

static void
identity_row (const gchar *name, const gchar *fingerprint, const gchar *spec)
{
  kd_cache_row (name, "%.12s%s%s", fingerprint ? fingerprint : spec ? ""
                                                                    : "unknown",
      fingerprint && spec ? "  " : "", spec ? spec : "");
}

/* One line a field that is not kept as it came, with what was measured at the capture. */
static void
encoding_rows (const KdCacheReader *reader)
{
  const KdLayout *layout = kd_cache_reader_layout (reader);
  gboolean any = FALSE;

  for (guint i = 0; i < kd_layout_n_fields (layout); i++) {
    const KdCacheEncoding *encoding = kd_cache_reader_encoding (reader, kd_layout_nth (layout, i)->name);
    g_autoptr (GString) text = g_string_new (NULL);
    if (!encoding)
      continue;
    g_string_append_printf (text, "%s %s", encoding->field, encoding->name);
    if (!g_str_has_prefix (encoding->name, "index") && encoding->size == 0)
      g_string_append_printf (text, ", off by at most %.3g, %.3g in the mean", encoding->max_error, encoding->mean_error);
    if (encoding->max_tail >= 0)
      g_string_append_printf (text, ", probability left out at most %.3g, %.3g in the mean", encoding->max_tail, encoding->mean_tail);
    kd_cache_row (any ? "" : "encoding", "%s", text->str);
    any = TRUE;
  }
  if (!any)
    kd_cache_row ("encoding", "none: fields as they came");
}

static int
info (int argc, char **argv)
{
  g_autoptr (KdCacheReader) reader = NULL;
  g_autoptr (GError) error = NULL;
  g_autofree gchar *fields = NULL, *bytes = NULL;
  const KdCacheIdentity *identity;
  KdCacheInfo numbers;

  if (!kd_tool_options (&argc, &argv, NULL, "CACHE", "Show what a teacher cache holds and what it was made from.", NULL))
    return KD_EXIT_USAGE;
  if (argc != 2)
    return kd_tool_usage ("wanted one cache, got %d", argc - 1);
  reader = kd_cache_reader_open (argv[1], &error);
  if (!reader)
    return kd_tool_fail ("%s", error->message);
  kd_cache_reader_info (reader, &numbers);
  identity = kd_cache_reader_identity (reader);
  fields = kd_layout_to_string (kd_cache_reader_layout (reader));
  bytes = kd_cache_size_text ((guint64) numbers.bytes);
  kd_cache_row ("cache", "%s", argv[1]);
  kd_cache_row ("rows", "%" G_GINT64_FORMAT ", ids %" G_GINT64_FORMAT " to %" G_GINT64_FORMAT, kd_cache_reader_n_rows (reader), numbers.first_id, numbers.last_id);
  kd_cache_row ("complete", "%s", kd_cache_reader_complete (reader) ? "yes" : "no: the capture was interrupted; go on with kdcachesink resume=true");
  kd_cache_row ("fields", "%s", fields);
  encoding_rows (reader);
  kd_cache_row ("bytes a row", "%" G_GINT64_FORMAT, numbers.row_bytes);
  kd_cache_row ("on the disk", "%s in %u %s", bytes, numbers.n_parts, numbers.packed ? "packed file" : numbers.n_parts == 1 ? "part"
                                                                                                                            : "parts");
  identity_row ("teacher", identity->teacher, identity->teacher_spec);
  identity_row ("dataset", identity->dataset, identity->dataset_spec);
  kd_cache_row ("preprocessing", "%s", !identity->preprocessing ? "unknown" : *identity->preprocessing ? identity->preprocessing
                                                                                                       : "none");
  kd_cache_row ("made by", "%s", numbers.created_by);
  return KD_EXIT_DONE;
}

static int
pack (int argc, char **argv)
{
  g_autofree gchar *filter = NULL;
  gboolean force = FALSE, index = FALSE, good;
  const GOptionEntry options[] = {
    { "filter", 'f', 0, G_OPTION_ARG_STRING, &filter, "none (default; can be mapped), deflate (read everywhere), blosc-lz4 (fast), blosc-zstd (small)", "NAME" },
    { "pack-index", 'i', 0, G_OPTION_ARG_NONE, &index, "Ids of top-k and sampled logits as bits, ascending: about log2 (V / k) + 2 bits an id", NULL },
    { "force", 0, 0, G_OPTION_ARG_NONE, &force, "Replace the output if it is there", NULL },
    { NULL },
  };
  g_autofree gchar *bytes = NULL, *packed = NULL;
  g_autoptr (KdCacheReader) before = NULL, after = NULL;
  g_autoptr (GError) error = NULL;
  KdCacheInfo old, new;
  Progress progress;

  if (!kd_tool_options (&argc, &argv, options, "CACHE OUTPUT", "Make one self-contained file of a teacher cache, rows sorted by key.",
          "kdcache reads the packed file as it reads the cache. The cache stays as it is."))
    return KD_EXIT_USAGE;
  if (argc != 3)
    return kd_tool_usage ("wanted a cache and an output, got %d words", argc - 1);
  if (!force && g_file_test (argv[2], G_FILE_TEST_EXISTS))
    return kd_tool_fail ("Output is there already: path=\"%s\"; choose another name or give --force", argv[2]);
  progress = begin_progress ();
  good = kd_cache_pack (argv[1], argv[2], filter ? filter : "none", index ? KD_CACHE_PACK_INDEX : 0, show_progress, &progress, &error);
  end_progress (&progress);
  before = good ? kd_cache_reader_open (argv[1], &error) : NULL;
  after = before ? kd_cache_reader_open (argv[2], &error) : NULL;
  if (!after)
    return g_error_matches (error, KD_ERROR, KD_ERROR_RANGE) && filter ? kd_tool_usage ("%s", error->message) : kd_tool_fail ("%s", error->message);
  kd_cache_reader_info (before, &old);
  kd_cache_reader_info (after, &new);
  bytes = g_format_size ((guint64) old.bytes);
  packed = g_format_size ((guint64) new.bytes);
  g_print ("%s: %" G_GINT64_FORMAT " rows, %s (%s in %u parts before)\n", argv[2], kd_cache_reader_n_rows (after), packed, bytes, old.n_parts);
  return KD_EXIT_DONE;
}

static const struct {
  const gchar *name;
  int (*run) (int argc, char **argv);
  const gchar *what;
} commands[] = {
  { "info", info, "show what a cache holds and what it was made from" },
  { "verify", kd_cache_verify_command, "check every part, key and checksum, or rows against the teacher" },
  { "estimate", kd_cache_estimate, "say how large a cache will be and how long it takes, before the capture" },
  { "pack", pack, "make one self-contained file, optionally compressed" },
  { "merge", kd_cache_merge_command, "make one cache of several shards" },
  { "repair", kd_cache_repair_command, "take damaged parts out, so that their rows can be captured again" },
  { "prune", kd_cache_prune_command, "keep some rows or fields in a new cache" },
  { "diff", kd_cache_diff_command, "compare two caches row by row" },
  { "export", kd_cache_export_command, "write it as .npz or .safetensors" },
  { "stats", kd_cache_stats_command, "write a page about one teacher or several" },
};

static void
print_help (void)
{
  g_print ("Usage: kd cache COMMAND [OPTION...]\n\nLook at, check, plan, pack, merge, repair and compare teacher caches (kdcachesink writes them, kdcache reads them).\n\nCommands:\n");
  for (guint i = 0; i < G_N_ELEMENTS (commands); i++)
    g_print ("  %-9s %s\n", commands[i].name, commands[i].what);
  g_print ("\nkd cache COMMAND --help shows a command's options.\n");
}

int
kd_tool_cache (int argc, char **argv)
{
  const gchar *names[G_N_ELEMENTS (commands) + 1] = { NULL }, *near;

  if (argc < 2) {
    print_help ();
    return KD_EXIT_USAGE;
  }
  if (g_str_equal (argv[1], "--help") || g_str_equal (argv[1], "-h")) {
    print_help ();
    return KD_EXIT_DONE;
  }
  for (guint i = 0; i < G_N_ELEMENTS (commands); i++) {
    names[i] = commands[i].name;
    if (g_str_equal (argv[1], commands[i].name)) {
      g_autofree gchar *name = g_strdup_printf ("kd cache %s", argv[1]);
      g_set_prgname (name);
      return commands[i].run (argc - 1, argv + 1);
    }
  }
  near = kd_tool_closest (argv[1], names);
  return near ? kd_tool_usage ("there is no command %s; did you mean %s?", argv[1], near) : kd_tool_usage ("there is no command %s", argv[1]);
}
