/* What the parts of `kd data` share: a writer that counts, columns that grow row by row, class names, an input that unpacks. */
#pragma once
#include <gio/gio.h>
#include <kd/kd.h>
#include "../kd-tool.h"

G_BEGIN_DECLS

/* The subcommands of `kd data`; argv[0] is the subcommand. */
int kd_data_import (int argc, char **argv);
int kd_data_info (int argc, char **argv);
int kd_data_head (int argc, char **argv);
int kd_data_convert (int argc, char **argv);
int kd_data_get (int argc, char **argv);

/* A row or record larger than this is refused before memory is asked for. */
#define KD_DATA_MAX_ROW_BYTES ((gsize) 256 << 20)
/* Rows go to the file when this many bytes or rows are together, so memory does not grow with the data set. */
#define KD_DATA_FLUSH_BYTES ((gsize) 4 << 20)
#define KD_DATA_FLUSH_ROWS 4096
#define KD_DATA_MAX_COLUMNS 65536
#define KD_DATA_MAX_CLASSES 65536

/* --- progress: one line on a terminal, silence elsewhere --- */
typedef struct {
  const gchar *unit; /* "rows", "bytes" */
  gint64 total;      /* 0: not known */
  gint64 started_us, shown_us;
  gboolean shown;
} KdDataProgress;

void kd_data_progress_start (KdDataProgress *progress, const gchar *unit, gint64 total);
void kd_data_progress_update (KdDataProgress *progress, gint64 done);
void kd_data_progress_end (KdDataProgress *progress);

/* --- output: a batch file that gets sample.id = the row's index --- */
typedef struct {
  KdH5Writer *writer;
  gchar *path;
  gint64 n_rows;
  gint64 first_id;  /* sample.id of row 0 */
  gint64 n_skipped; /* files that are no images */
  KdDataProgress progress;
} KdDataOut;

KdDataOut *kd_data_out_new (const gchar *path, gint64 expected_rows, GError **error);
/** kd_data_out_append: @n fields, each with the same number of rows. A sample.id among them is kept as it is. */
gboolean kd_data_out_append (KdDataOut *out, guint n, const gchar *const *names, KdTensor *const *tensors, GError **error);
/** kd_data_out_finish: KD_ERROR_VALUE when there is no row. */
gboolean kd_data_out_finish (KdDataOut *out, GError **error);
void kd_data_out_free (KdDataOut *out);
G_DEFINE_AUTOPTR_CLEANUP_FUNC (KdDataOut, kd_data_out_free)

/* --- class names: sorted (as numbers when all are), index = label --- */
typedef struct _KdClasses KdClasses;
KdClasses *kd_classes_new (void);
void kd_classes_free (KdClasses *classes);
G_DEFINE_AUTOPTR_CLEANUP_FUNC (KdClasses, kd_classes_free)
/** kd_classes_add: KD_ERROR_RANGE beyond KD_DATA_MAX_CLASSES: the column is no label then. */
gboolean kd_classes_add (KdClasses *classes, const gchar *name, GError **error);
void kd_classes_sort (KdClasses *classes);
guint kd_classes_n (const KdClasses *classes);
/** kd_classes_index: -1 when there is no such class. */
gint64 kd_classes_index (const KdClasses *classes, const gchar *name);
/** kd_classes_to_json: (transfer full) the attribute kd.classes: ["cat","dog"]. */
gchar *kd_classes_to_json (const KdClasses *classes);
gboolean kd_classes_store (const KdClasses *classes, KdDataOut *out, GError **error);

/* --- columns: fields of a batch in the making --- */
typedef struct {
  gchar *name;
  KdDtype dtype;
  guint rank; /* with the samples' axis */
  gint64 dims[KD_MAX_RANK];
  GByteArray *data;
  GArray *offsets; /* of gint64, for utf8 */
} KdColumn;

typedef struct {
  GPtrArray *columns; /* of KdColumn */
  gint64 n_rows;
} KdColumns;

KdColumns *kd_columns_new (void);
void kd_columns_free (KdColumns *columns);
G_DEFINE_AUTOPTR_CLEANUP_FUNC (KdColumns, kd_columns_free)
/** kd_columns_add: (transfer none) KD_ERROR_FIELD on a bad or repeated name. @dims: [@rank], dims[0] ignored. */
KdColumn *kd_columns_add (KdColumns *columns, const gchar *name, KdDtype dtype, guint rank, const gint64 *dims, GError **error);
KdColumn *kd_columns_find (KdColumns *columns, const gchar *name);
void kd_column_put_float (KdColumn *column, gdouble value);  /* as the column's number type */
gboolean kd_column_put_int (KdColumn *column, gint64 value); /* FALSE: outside the column's type */
void kd_column_put_text (KdColumn *column, const gchar *text, gsize n_bytes);
/** kd_columns_end_row: a row is whole; hands the rows on when enough are together. */
gboolean kd_columns_end_row (KdColumns *columns, KdDataOut *out, GError **error);
gboolean kd_columns_flush (KdColumns *columns, KdDataOut *out, GError **error);

/* --- input --- */
/** kd_data_open: a file as a stream, gunzipped when it begins as gzip does. @ret_bytes: its size, or -1 when it is packed. */
GInputStream *kd_data_open (const gchar *path, gint64 *ret_bytes, GError **error);
/** kd_data_read: exactly @n bytes; what is missing is KD_ERROR_IO with @what, the path and both sizes. */
gboolean kd_data_read (GInputStream *stream, gpointer buffer, gsize n, const gchar *path, const gchar *what, GError **error);
/** kd_data_at_end: TRUE when nothing follows; else KD_ERROR_FORMAT. */
gboolean kd_data_at_end (GInputStream *stream, const gchar *path, GError **error);
/** kd_data_wrap: GIO's or another domain's error as KD_ERROR_IO with path. */
void kd_data_wrap (GError **error, GError *inner, const gchar *doing, const gchar *path);

/** KdLines: lines of a text stream, bounded in length; '\n' and "\r\n". */
typedef struct {
  GInputStream *stream;
  const gchar *path;
  GByteArray *line;
  guint8 *buffer;
  gsize start, end;
  gint64 number; /* of the line last read, from 1 */
} KdLines;
void kd_lines_init (KdLines *lines, GInputStream *stream, const gchar *path);
void kd_lines_clear (KdLines *lines);
G_DEFINE_AUTO_CLEANUP_CLEAR_FUNC (KdLines, kd_lines_clear)
/** kd_lines_next: 1 a line (NUL-terminated in lines->line), 0 the end, -1 an error. A NUL byte or bad UTF-8 is KD_ERROR_FORMAT. */
gint kd_lines_next (KdLines *lines, GError **error);
/** kd_lines_byte: the next byte, -1 at the end, -2 on an error. For parsers whose records span lines. */
gint kd_lines_byte (KdLines *lines, GError **error);

/** kd_data_field_name: (transfer full) @name as a field's name: lower case, other characters become '_'; NULL when nothing is left. */
gchar *kd_data_field_name (const gchar *name);
/** kd_data_excerpt: (transfer full) @text for a message: at most 40 characters, quoted, control characters escaped. */
gchar *kd_data_excerpt (const gchar *text);
/** kd_data_parse_number: a whole cell as a finite decimal number; no hexadecimal, no nan, no inf. */
gboolean kd_data_parse_number (const gchar *text, gdouble *ret_value);
/** kd_data_parse_int: a whole cell as a decimal integer. */
gboolean kd_data_parse_int (const gchar *text, gint64 *ret_value);

/* --- import --- */
typedef struct {
  gchar *input, *output, *format;
  gchar *label;  /* column or key */
  gchar *labels; /* a second file */
  gchar *split, *size, *delimiter, *header, *missing, *only;
  gchar **fields, **renames;
  gboolean classes;
} KdImportOptions;

/** KdImportFormat: one importer. @sniff: whether @head [@n] or the name says so. @run: from options->input to options->output. */
typedef struct {
  const gchar *name;
  const gchar *description;
  gboolean (*sniff) (const gchar *path, const guint8 *head, gsize n);
  gboolean (*run) (const KdImportOptions *options, GError **error);
} KdImportFormat;

extern const KdImportFormat kd_import_csv, kd_import_idx, kd_import_npy, kd_import_npz, kd_import_images, kd_import_json, kd_import_jsonl;

/** kd_import_wants: whether --only lets @source in. */
gboolean kd_import_wants (const KdImportOptions *options, const gchar *source);
/** kd_import_field: (transfer full) the field's name for @source: --rename, else the name made lower case and plain. */
gchar *kd_import_field (const KdImportOptions *options, const gchar *source);
/** kd_import_finish: the attributes every import has, then the file. */
gboolean kd_import_finish (const KdImportOptions *options, const gchar *format, KdClasses *classes, KdDataOut *out, GError **error);

/** KdNpy: an array in numpy's format, read row by row from any stream. */
typedef struct {
  KdDtype dtype; /* of the tensors it gives */
  gchar kind;    /* f i u b */
  guint size;    /* bytes an element in the file */
  gboolean swap;
  guint rank;
  gint64 dims[KD_MAX_RANK];
  gsize row_bytes; /* in the file */
  gsize header_bytes;
} KdNpy;
typedef gboolean (*KdReadFunc) (gpointer user_data, gpointer buffer, gsize n, GError **error);
/** kd_npy_open: parse the header. KD_ERROR_FORMAT, KD_ERROR_UNSUPPORTED (objects, structures, Fortran order), KD_ERROR_RANGE (sizes). */
gboolean kd_npy_open (KdNpy *npy, KdReadFunc read, gpointer user_data, const gchar *path, GError **error);
/** kd_npy_parse_header: the dictionary's text alone. */
gboolean kd_npy_parse_header (KdNpy *npy, const gchar *text, const gchar *path, GError **error);
/** kd_npy_rows: (transfer full) the next @n rows, or NULL. */
KdTensor *kd_npy_rows (const KdNpy *npy, gint64 n, KdReadFunc read, gpointer user_data, const gchar *path, GError **error);
/** kd_npy_batch_rows: how many rows make a batch of KD_DATA_FLUSH_BYTES. */
gint64 kd_npy_batch_rows (gsize row_bytes);

/** KdFiles: the regular files of a folder (sorted) or of a tar or zip (in its order), one at a time. */
typedef struct _KdFiles KdFiles;
KdFiles *kd_files_open (const gchar *path, GError **error);
void kd_files_free (KdFiles *files);
G_DEFINE_AUTOPTR_CLEANUP_FUNC (KdFiles, kd_files_free)
/** kd_files_next: 1: *@ret_name (transfer none) is the next file's relative path; 0: the end; -1: an error. */
gint kd_files_next (KdFiles *files, const gchar **ret_name, GError **error);
/** kd_files_load: (transfer full) the contents of the file that kd_files_next gave. */
GBytes *kd_files_load (KdFiles *files, GError **error);

/** KdDecoder: still images to RGB through GStreamer, in this thread. */
typedef struct _KdDecoder KdDecoder;
KdDecoder *kd_decoder_new (gint width, gint height); /* 0: as they are */
void kd_decoder_free (KdDecoder *decoder);
G_DEFINE_AUTOPTR_CLEANUP_FUNC (KdDecoder, kd_decoder_free)
/** kd_decoder_run: @bytes as planes [3, H, W] appended to @planes. The first image fixes the size; another is KD_ERROR_SHAPE.
 * @name: for messages. */
gboolean kd_decoder_run (KdDecoder *decoder, GBytes *bytes, const gchar *name, GByteArray *planes, gint *ret_width, gint *ret_height,
    GError **error);
/** kd_image_probe: kind ("jpeg", "png", "webp") and size from the header without decoding; NULL with an error for what is broken. */
const gchar *kd_image_probe (const guint8 *data, gsize n, const gchar *name, gint *ret_width, gint *ret_height, GError **error);

G_END_DECLS
