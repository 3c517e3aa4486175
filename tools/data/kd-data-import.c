/* kd data import: find the format, run its importer, say what came of it. */
#include "kd-data.h"

#include <glib/gstdio.h>
#include <string.h>

static const KdImportFormat *const formats[] = { &kd_import_npy, &kd_import_npz, &kd_import_idx, &kd_import_images, &kd_import_json,
  &kd_import_jsonl, &kd_import_csv };

gboolean
kd_import_wants (const KdImportOptions *options, const gchar *source)
{
  g_auto (GStrv) only = NULL;

  if (!options->only)
    return TRUE;
  only = g_strsplit (options->only, ",", -1);
  return g_strv_contains ((const gchar *const *) only, source);
}

gchar *
kd_import_field (const KdImportOptions *options, const gchar *source)
{
  gsize n = strlen (source);
  gchar *name;

  for (gchar **rename = options->renames; rename && *rename; rename++)
    if (strncmp (*rename, source, n) == 0 && (*rename)[n] == '=')
      return g_strdup (*rename + n + 1);
  name = kd_data_field_name (source);
  return name ? name : g_strdup (source);
}

gboolean
kd_import_finish (const KdImportOptions *options, const gchar *format, KdClasses *classes, KdDataOut *out, GError **error)
{
  g_autofree gchar *base = g_path_get_basename (options->input);
  g_autofree gchar *origin = g_strdup_printf ("%s, imported as %s", base, format);
  guint n_classes = classes ? kd_classes_n (classes) : 0;

  if ((n_classes && !kd_classes_store (classes, out, error)) || !kd_h5_writer_set_attribute (out->writer, "kd.origin", origin, error) ||
      !kd_data_out_finish (out, error))
    return FALSE;
  g_print ("%s: %" G_GINT64_FORMAT " rows from %s (%s)", options->output, out->n_rows, options->input, format);
  if (n_classes)
    g_print (", %u classes", n_classes);
  if (out->n_skipped)
    g_print (", %" G_GINT64_FORMAT " files that are no images passed over", out->n_skipped);
  g_print ("\n");
  return TRUE;
}

static const KdImportFormat *
format_by_name (const gchar *name)
{
  for (guint i = 0; i < G_N_ELEMENTS (formats); i++)
    if (g_str_equal (formats[i]->name, name))
      return formats[i];
  return NULL;
}

static gchar *
format_names (void)
{
  GString *text = g_string_new (NULL);

  for (guint i = 0; i < G_N_ELEMENTS (formats); i++)
    g_string_append_printf (text, "%s%s", i ? ", " : "", formats[i]->name);
  return g_string_free (text, FALSE);
}

/* By content first, then by name. A gzipped file is looked at unpacked; an archive's filter is libarchive's business. */
static const KdImportFormat *
detect (const gchar *path, GError **error)
{
  guint8 head[512];
  gsize n = 0;
  gint64 bytes;
  g_autofree gchar *known = format_names ();
  g_autoptr (GInputStream) stream = NULL;
  GError *inner = NULL;

  if (g_file_test (path, G_FILE_TEST_IS_DIR))
    return &kd_import_images;
  if (!(stream = kd_data_open (path, &bytes, error)))
    return NULL;
  if (!g_input_stream_read_all (stream, head, sizeof head, &n, NULL, &inner)) {
    kd_data_wrap (error, inner, "read", path);
    return NULL;
  }
  if (n >= 8 && memcmp (head, "\x89HDF\r\n\x1a\n", 8) == 0) {
    g_set_error (error, KD_ERROR, KD_ERROR_UNSUPPORTED, "Already HDF5: path=\"%s\"; see it with: kd data info, change it with: kd data convert",
        path);
    return NULL;
  }
  for (guint i = 0; i < G_N_ELEMENTS (formats); i++)
    if (formats[i]->sniff (path, head, n))
      return formats[i];
  g_set_error (error, KD_ERROR, KD_ERROR_FORMAT, "Cannot tell the format: path=\"%s\"; give --format, one of: %s", path, known);
  return NULL;
}

static gboolean
size_is_valid (const gchar *text)
{
  gint width = 0, height = 0, used = 0;

  return sscanf (text, "%dx%d%n", &width, &height, &used) == 2 && !text[used] && width >= 1 && height >= 1 && width <= 8192 && height <= 8192;
}

/* 0, or what is wrong with the options. */
static int
check_options (const KdImportOptions *options)
{
  gdouble number;

  if (options->size && !size_is_valid (options->size))
    return kd_tool_usage ("--size=%s is no WIDTHxHEIGHT from 1x1 to 8192x8192", options->size);
  if (options->missing && !kd_data_parse_number (options->missing, &number))
    return kd_tool_usage ("--missing=%s is no number", options->missing);
  if (options->header && !g_strv_contains ((const gchar *const[]) { "yes", "no", "auto", NULL }, options->header))
    return kd_tool_usage ("--header=%s is none of yes, no, auto", options->header);
  if (options->delimiter && !g_str_equal (options->delimiter, "tab") &&
      (strlen (options->delimiter) != 1 || strchr ("\"\r\n", options->delimiter[0])))
    return kd_tool_usage ("--delimiter=%s is neither one character nor \"tab\"", options->delimiter);
  for (gchar **rename = options->renames; rename && *rename; rename++)
    if (!strchr (*rename, '=') || !kd_field_name_is_valid (strchr (*rename, '=') + 1))
      return kd_tool_usage ("--rename %s is no OLD=NEW with NEW a field's name (lower case letters, digits, '_', '-', dots between)", *rename);
  for (gchar **field = options->fields; field && *field; field++)
    if (!strchr (*field, '=') || !kd_dtype_from_name (strchr (*field, '=') + 1))
      return kd_tool_usage ("--field %s is no NAME=TYPE with TYPE such as float32, int64, utf8", *field);
  return 0;
}

static gboolean
is_same_file (const gchar *a, const gchar *b)
{
  GStatBuf x, y;

  return g_stat (a, &x) == 0 && g_stat (b, &y) == 0 && x.st_dev == y.st_dev && x.st_ino == y.st_ino;
}

static int
import_run (const KdImportOptions *options)
{
  g_autoptr (GError) error = NULL;
  const KdImportFormat *format = options->format ? format_by_name (options->format) : NULL;

  if (options->format && !format) {
    g_autofree gchar *known = format_names ();
    return kd_tool_usage ("--format=%s is none of: %s", options->format, known);
  }
  if (!format && !(format = detect (options->input, &error)))
    return kd_tool_fail ("%s", error->message);
  return format->run (options, &error) ? KD_EXIT_DONE : kd_tool_fail ("%s", error->message);
}

static void
options_clear (KdImportOptions *options)
{
  g_free (options->output);
  g_free (options->format);
  g_free (options->label);
  g_free (options->labels);
  g_free (options->split);
  g_free (options->size);
  g_free (options->delimiter);
  g_free (options->header);
  g_free (options->missing);
  g_free (options->only);
  g_strfreev (options->fields);
  g_strfreev (options->renames);
}
G_DEFINE_AUTO_CLEANUP_CLEAR_FUNC (KdImportOptions, options_clear)

static gchar *
details (void)
{
  GString *text = g_string_new ("Formats:\n");

  for (guint i = 0; i < G_N_ELEMENTS (formats); i++)
    g_string_append_printf (text, "  %-7s %s\n", formats[i]->name, formats[i]->description);
  g_string_append (text, "\nA row of json or jsonl is an object, or an array whose keys are its places: 0, 1, ...\n"
                         "sample.id is the row's number from 0. Class indices follow the sorted names (as numbers when all are), kept in the\n"
                         "attribute kd.classes: a split that lacks a class of another has other indices than that one.\n"
                         "OUT.h5 is replaced only when all went well.\n\nExamples:\n"
                         "  kd data import iris.csv --label species -o iris.h5\n"
                         "  kd data import train-images-idx3-ubyte.gz --labels train-labels-idx1-ubyte.gz -o mnist.h5\n"
                         "  kd data import cifar10-jpeg.tar.zst --split train -o train.h5\n"
                         "  kd data import data_full.json --split train --label 1 --rename 0=text -o train.h5\n"
                         "  kd data import questions.jsonl --rename question=prompt -o questions.h5\n");
  return g_string_free (text, FALSE);
}

int
kd_data_import (int argc, char **argv)
{
  g_auto (KdImportOptions) o = { 0 };
  g_autofree gchar *text = details ();
  int wrong;
  const GOptionEntry entries[] = {
    { "output", 'o', 0, G_OPTION_ARG_FILENAME, &o.output, "The batch file to write", "OUT.h5" },
    { "format", 0, 0, G_OPTION_ARG_STRING, &o.format, "Do not guess the format", "NAME" },
    { "label", 0, 0, G_OPTION_ARG_STRING, &o.label, "csv: the column of the label, by name or number from 1; json, jsonl: its key, in an array its place from 0", "COLUMN" },
    { "labels", 0, 0, G_OPTION_ARG_FILENAME, &o.labels, "idx, npy: the file of the labels", "FILE" },
    { "classes", 0, 0, G_OPTION_ARG_NONE, &o.classes, "csv: labels are names even where they look like numbers", NULL },
    { "delimiter", 0, 0, G_OPTION_ARG_STRING, &o.delimiter, "csv: between cells; \"tab\" for a tabulator", "CHAR" },
    { "header", 0, 0, G_OPTION_ARG_STRING, &o.header, "csv: whether the first line names the columns", "yes|no|auto" },
    { "missing", 0, 0, G_OPTION_ARG_STRING, &o.missing, "csv: what stands for an empty cell (an error otherwise)", "NUMBER" },
    { "split", 0, 0, G_OPTION_ARG_STRING, &o.split, "images: only below this top folder; json: the member that holds the rows", "NAME" },
    { "size", 0, 0, G_OPTION_ARG_STRING, &o.size, "images: scale all to this size", "WxH" },
    { "field", 0, 0, G_OPTION_ARG_STRING_ARRAY, &o.fields, "json, jsonl: the type of a key", "NAME=TYPE" },
    { "rename", 0, 0, G_OPTION_ARG_STRING_ARRAY, &o.renames, "csv, npz, json, jsonl: the field's name for a column, array or key", "OLD=NEW" },
    { "only", 0, 0, G_OPTION_ARG_STRING, &o.only, "csv, npz, json, jsonl: read these alone", "A,B" },
    G_OPTION_ENTRY_NULL,
  };

  if (!kd_tool_options (&argc, &argv, entries, "INPUT -o OUT.h5", "Read a data set into a batch file.", text))
    return KD_EXIT_USAGE;
  if (argc != 2)
    return kd_tool_usage (argc < 2 ? "no INPUT given" : "more than one INPUT given");
  if (!o.output)
    return kd_tool_usage ("no output given: -o OUT.h5");
  if ((wrong = check_options (&o)))
    return wrong;
  if (is_same_file (argv[1], o.output) || (o.labels && is_same_file (o.labels, o.output)))
    return kd_tool_usage ("INPUT and OUT.h5 are one file: %s", o.output);
  o.input = argv[1];
  return import_run (&o);
}
