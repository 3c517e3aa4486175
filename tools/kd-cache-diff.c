/* kd cache diff, export: what is in a cache, beside another and elsewhere. */
#include "kd-cache-work.h"

#include <string.h>

static void
print_missing (const gchar *cache, gint64 n, gint64 keys[8][2])
{
  if (!n)
    return;
  g_print ("only in %s: %" G_GINT64_FORMAT " rows:", cache, n);
  for (gint64 i = 0; i < MIN (n, 8); i++)
    g_print (" %" G_GINT64_FORMAT "/%" G_GINT64_FORMAT, keys[i][0], keys[i][1]);
  g_print ("%s (id/view)\n", n > 8 ? " ..." : "");
}

/* Returns whether the field is the same within @tolerance. */
static gboolean
print_field (const KdCacheFieldDiff *field, gint64 n_common, gdouble tolerance)
{
  gboolean same = field->a_type && field->b_type && field->max <= tolerance;

  if (!field->a_type || !field->b_type) {
    g_print ("%-28s only in %s\n", field->field, field->a_type ? "the first" : "the second");
    return FALSE;
  }
  if (strchr (field->a_type, ':') != NULL && g_strcmp0 (strchr (field->a_type, ':'), strchr (field->b_type, ':')) != 0) {
    g_print ("%-28s %s and %s: shapes differ\n", field->field, field->a_type, field->b_type);
    return FALSE;
  }
  if (field->max == 0) {
    g_print ("%-28s equal%s%s%s%s\n", field->field, g_str_equal (field->a_type, field->b_type) ? "" : " values, stored as ",
        g_str_equal (field->a_type, field->b_type) ? "" : field->a_type, g_str_equal (field->a_type, field->b_type) ? "" : " and ",
        g_str_equal (field->a_type, field->b_type) ? "" : field->b_type);
    return TRUE;
  }
  g_print ("%-28s max %.6g at id %" G_GINT64_FORMAT " view %" G_GINT64_FORMAT ", mean %.6g, %" G_GINT64_FORMAT " of %" G_GINT64_FORMAT " rows%s\n", field->field, field->max,
      field->max_id, field->max_view, field->mean, field->n_rows, n_common, same ? ", within the tolerance" : "");
  return same;
}

int
kd_cache_diff_command (int argc, char **argv)
{
  gdouble tolerance = 0;
  const GOptionEntry options[] = {
    { "tolerance", 't', 0, G_OPTION_ARG_DOUBLE, &tolerance, "Values this far apart are the same (default: 0)", "X" },
    { NULL },
  };
  KdCacheWork work = { { 0 } };
  g_autoptr (KdCacheDiff) diff = NULL;
  g_autoptr (GError) error = NULL;
  gboolean same;

  if (!kd_tool_options (&argc, &argv, options, "CACHE OTHER", "Compare two caches row by row, by key.",
          "Fields are compared as they are read, so that encodings may differ. Exit code: 0 the same, 1 different or not readable, 2 wrong usage."))
    return KD_EXIT_USAGE;
  if (argc != 3)
    return kd_tool_usage ("wanted two caches, got %d words", argc - 1);
  kd_cache_work_begin (&work);
  diff = kd_cache_diff (argv[1], argv[2], &work.options, &error);
  kd_cache_work_end (&work);
  if (!diff)
    return kd_cache_work_fail (error, "nothing was compared to the end");
  g_print ("rows in both: %" G_GINT64_FORMAT "\n", diff->n_common);
  print_missing (argv[1], diff->n_only_a, diff->only_a);
  print_missing (argv[2], diff->n_only_b, diff->only_b);
  same = diff->n_only_a == 0 && diff->n_only_b == 0 && !diff->identity;
  if (diff->identity)
    g_print ("%s\n", diff->identity);
  for (guint i = 0; i < diff->fields->len; i++)
    same = print_field (g_ptr_array_index (diff->fields, i), diff->n_common, tolerance) && same;
  g_print ("%s\n", same ? "same" : "different");
  return same ? KD_EXIT_DONE : KD_EXIT_FAILED;
}

int
kd_cache_export_command (int argc, char **argv)
{
  g_autofree gchar *field_text = NULL;
  gboolean force = FALSE, good;
  const GOptionEntry options[] = {
    { "fields", 'f', 0, G_OPTION_ARG_STRING, &field_text, "Only these fields (and the keys)", "FIELD,FIELD" },
    { "force", 0, 0, G_OPTION_ARG_NONE, &force, "Replace the output if it is there", NULL },
    { NULL },
  };
  KdCacheWork work = { { 0 } };
  g_auto (GStrv) fields = NULL;
  g_autoptr (GError) error = NULL;

  if (!kd_tool_options (&argc, &argv, options, "CACHE OUTPUT", "Write a cache as .npz (numpy) or .safetensors, rows sorted by key.",
          "The ending of OUTPUT chooses. A few rows are in memory at a time, whatever the size. Encoded fields are decoded; .npz gets bfloat16 as float32.\n"
          "numpy maps members of an uncompressed .npz only when they are taken out of it; .safetensors is mapped as it is."))
    return KD_EXIT_USAGE;
  if (argc != 3)
    return kd_tool_usage ("wanted a cache and an output, got %d words", argc - 1);
  if (!force && g_file_test (argv[2], G_FILE_TEST_EXISTS))
    return kd_tool_fail ("Output is there already: path=\"%s\"; choose another name or give --force", argv[2]);
  fields = field_text ? g_strsplit (field_text, ",", -1) : NULL;
  kd_cache_work_begin (&work);
  good = kd_cache_export (argv[1], argv[2], (const gchar *const *) fields, &work.options, &error);
  kd_cache_work_end (&work);
  if (good)
    return KD_EXIT_DONE;
  if (g_error_matches (error, KD_ERROR, KD_ERROR_RANGE))
    return kd_tool_usage ("%s", error->message);
  return kd_cache_work_fail (error, "nothing was written");
}
