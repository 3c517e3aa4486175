/* Images in class folders, in a folder or an archive: input uint8 [N, 3, H, W], label = index of the parent folder's name among the sorted ones. */
#include "kd-data.h"

#include <string.h>

typedef struct {
  const KdImportOptions *options;
  KdClasses *classes;
  KdDecoder *decoder;
  gint64 n_images, n_skipped;
  GByteArray *planes; /* of the batch so far */
  GArray *labels;     /* of gint64 */
  gint width, height;
} KdImages;

static void
images_clear (KdImages *self)
{
  g_clear_pointer (&self->classes, kd_classes_free);
  g_clear_pointer (&self->decoder, kd_decoder_free);
  g_clear_pointer (&self->planes, g_byte_array_unref);
  g_clear_pointer (&self->labels, g_array_unref);
}
G_DEFINE_AUTO_CLEANUP_CLEAR_FUNC (KdImages, images_clear)

static gboolean
has_image_name (const gchar *name)
{
  static const gchar *const suffixes[] = { ".jpg", ".jpeg", ".png", ".webp" };
  const gchar *base = strrchr (name, '/');
  g_autofree gchar *lower = g_ascii_strdown (name, -1);

  if ((base ? base[1] : name[0]) == '.')
    return FALSE;
  for (guint i = 0; i < G_N_ELEMENTS (suffixes); i++)
    if (g_str_has_suffix (lower, suffixes[i]))
      return TRUE;
  return FALSE;
}

/* 1: an image with *@ret_class (transfer full); 0: none of ours; -1: no class folder. With --split only what lies below that top folder
 * counts; archives often have one more folder around everything. */
static gint
class_of (KdImages *self, const gchar *name, gchar **ret_class, GError **error)
{
  g_auto (GStrv) parts = g_strsplit (name, "/", -1);
  guint n = g_strv_length (parts), skip = 0;
  const gchar *split = self->options->split;

  if (!has_image_name (name)) {
    self->n_skipped++;
    return 0;
  }
  if (split) {
    skip = n > 1 && g_str_equal (parts[0], split) ? 1 : n > 2 && g_str_equal (parts[1], split) ? 2
                                                                                               : 0;
    if (skip == 0)
      return 0;
  }
  if (n < skip + 2) {
    g_set_error (error, KD_ERROR, KD_ERROR_FORMAT, "Image in no class folder: file=\"%s\", path=\"%s\"; wanted CLASS/FILE%s", name,
        self->options->input,
        split ? " below the split" : ", or --split TOP for TOP/CLASS/FILE");
    return -1;
  }
  *ret_class = g_strdup (parts[n - 2]);
  return 1;
}

/* The first pass: names only. Classes are known, and how many images will come. */
static gboolean
survey (KdImages *self, GError **error)
{
  g_autoptr (KdFiles) files = kd_files_open (self->options->input, error);
  const gchar *name;
  gint status;

  if (!files)
    return FALSE;
  while ((status = kd_files_next (files, &name, error)) > 0) {
    g_autofree gchar *class = NULL;
    gint found = class_of (self, name, &class, error);
    if (found < 0 || (found > 0 && !kd_classes_add (self->classes, class, error)))
      return FALSE;
    self->n_images += found;
  }
  if (status < 0)
    return FALSE;
  kd_classes_sort (self->classes);
  if (self->n_images > 0)
    return TRUE;
  g_set_error (error, KD_ERROR, KD_ERROR_VALUE, "No images: path=\"%s\", --split=%s, other files=%" G_GINT64_FORMAT "; wanted CLASS/NAME.jpg, .png "
                                                "or .webp",
      self->options->input, self->options->split ? self->options->split : "(none)", self->n_skipped);
  return FALSE;
}

static gboolean
flush (KdImages *self, KdDataOut *out, GError **error)
{
  static const gchar *const names[] = { "input", "label" };
  gint64 n = self->labels->len, dims[] = { n, 3, self->height, self->width };
  g_autoptr (KdTensor) input = NULL, label = NULL;

  if (n == 0)
    return TRUE;
  input = kd_tensor_new (KD_UINT8, 4, dims);
  label = kd_tensor_new (KD_INT64, 1, &n);
  memcpy (input->data, self->planes->data, input->n_bytes);
  memcpy (label->data, self->labels->data, label->n_bytes);
  g_byte_array_set_size (self->planes, 0);
  g_array_set_size (self->labels, 0);
  return kd_data_out_append (out, 2, names, (KdTensor *const[]) { input, label }, error);
}

static gboolean
put_image (KdImages *self, KdFiles *files, const gchar *name, const gchar *class, KdDataOut *out, GError **error)
{
  g_autoptr (GBytes) bytes = kd_files_load (files, error);
  gint64 label = kd_classes_index (self->classes, class);

  if (!bytes || !kd_decoder_run (self->decoder, bytes, name, self->planes, &self->width, &self->height, error))
    return FALSE;
  g_array_append_val (self->labels, label);
  if (self->labels->len < KD_DATA_FLUSH_ROWS && self->planes->len < KD_DATA_FLUSH_BYTES)
    return TRUE;
  return flush (self, out, error);
}

static gboolean
decode_all (KdImages *self, KdDataOut *out, GError **error)
{
  g_autoptr (KdFiles) files = kd_files_open (self->options->input, error);
  const gchar *name;
  gint status;

  if (!files)
    return FALSE;
  while ((status = kd_files_next (files, &name, error)) > 0) {
    g_autofree gchar *class = NULL;
    gint found = class_of (self, name, &class, error);
    if (found < 0 || (found > 0 && !put_image (self, files, name, class, out, error)))
      return FALSE;
  }
  return status == 0 && flush (self, out, error);
}

static gboolean
images_run (const KdImportOptions *options, GError **error)
{
  g_auto (KdImages) self = { .options = options, .classes = kd_classes_new () };
  g_autoptr (KdDataOut) out = NULL;
  gint width = 0, height = 0;

  kd_tool_init ();
  if (options->size)
    sscanf (options->size, "%dx%d", &width, &height); /* checked with the options */
  self.decoder = kd_decoder_new (width, height);
  self.planes = g_byte_array_new ();
  self.labels = g_array_new (FALSE, FALSE, sizeof (gint64));
  if (!survey (&self, error) || !(out = kd_data_out_new (options->output, self.n_images, error)))
    return FALSE;
  out->n_skipped = self.n_skipped;
  return decode_all (&self, out, error) && kd_import_finish (options, "images", self.classes, out, error);
}

static gboolean
images_sniff (const gchar *path, const guint8 *head, gsize n)
{
  static const gchar *const suffixes[] = { ".tar", ".tar.gz", ".tgz", ".tar.zst", ".tar.xz", ".tar.bz2", ".zip" };
  g_autofree gchar *lower = g_ascii_strdown (path, -1);

  if (g_file_test (path, G_FILE_TEST_IS_DIR))
    return TRUE;
  for (guint i = 0; i < G_N_ELEMENTS (suffixes); i++)
    if (g_str_has_suffix (lower, suffixes[i]))
      return TRUE;
  return n >= 262 && memcmp (head + 257, "ustar", 5) == 0;
}

const KdImportFormat kd_import_images = {
  .name = "images",
  .description = "a folder, tar or zip of CLASS/NAME.jpg, .png, .webp -> input uint8 [N,3,H,W], label",
  .sniff = images_sniff,
  .run = images_run,
};
