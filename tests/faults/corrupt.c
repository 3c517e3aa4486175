/* Damage of every kind to caches of every kind: bits flipped at random places, parts and packed files cut, deleted, and swapped with each other or with
 * another run's. Either every number that is read is the one that was captured, or an error names the file; what is missing without an error is
 * named by kd_cache_verify. KD_FLIPS=N sets another number of flips a kind of cache. */
#include "kd-fault.h"

#include <stdlib.h>

#define ROWS 96
#define K 4

/* @line makes c.h5 out of d.h5 (dense), u.h5 (in no order, two views) or s.h5 (top-k), and w.h5, which is another run of the same shape */
typedef struct {
  const gchar *name, *line;
} Kind;

#define DENSE(from, to) "kd launch --quiet 'kdh5src location=" from " batch-size=8 ! kdcachesink location=" to " part-bytes=1000'"
#define TOPK(from, to) "kd launch --quiet 'kdh5src location=" from " batch-size=32 ! kdcachesink location=" to " part-bytes=1200 encoding=index16,logprob8'"
#define KEPT(from, to) "kd launch --quiet 'kdh5src location=" from " ! kdcachesink location=" to "'"
static const Kind kinds[] = {
  { "dense", DENSE ("d.h5", "c.h5") " && " DENSE ("d2.h5", "w.h5") },
  { "unordered", DENSE ("u.h5", "c.h5") " && " DENSE ("u2.h5", "w.h5") },
  { "topk", TOPK ("s.h5", "c.h5") " && " TOPK ("s2.h5", "w.h5") },
  { "packed", DENSE ("u.h5", "t.h5") " && " DENSE ("u2.h5", "t2.h5") " && kd cache pack t.h5 c.h5 && kd cache pack t2.h5 w.h5" },
  { "deflate", DENSE ("d.h5", "t.h5") " && " DENSE ("d2.h5", "t2.h5") " && kd cache pack --filter=deflate t.h5 c.h5 && kd cache pack --filter=deflate t2.h5 w.h5" },
  { "blosc", TOPK ("s.h5", "t.h5") " && " TOPK ("s2.h5", "t2.h5") " && kd cache pack --filter=blosc-zstd t.h5 c.h5 && kd cache pack --filter=blosc-lz4 t2.h5 w.h5" },
  { "index", KEPT ("s.h5", "t.h5") " && " KEPT ("s2.h5", "t2.h5") " && kd cache pack --pack-index --filter=blosc-zstd t.h5 c.h5 && kd cache pack --pack-index --filter=blosc-zstd t2.h5 w.h5" },
};

static gint64 keys[ROWS], key_views[ROWS];
static KdTensor *wanted[8];
static guint n_wanted;

/* @shift: what makes another run's values. */
static void
write_inputs (gint64 shift, const gchar *dense, const gchar *unordered, const gchar *sparse)
{
  gint64 n = ROWS, dims[] = { ROWS, K };
  g_autoptr (KdTensor) id = kd_tensor_new (KD_INT64, 1, &n), mixed = kd_tensor_new (KD_INT64, 1, &n), view = kd_tensor_new (KD_INT64, 1, &n);
  g_autoptr (KdTensor) logits = kd_tensor_new (KD_FLOAT32, 2, dims), ids = kd_tensor_new (KD_INT64, 2, dims), logprobs = kd_tensor_new (KD_FLOAT32, 2, dims);
  const gchar *names[] = { "sample.id", "teacher.logits" }, *viewed[] = { "sample.id", "sample.view", "teacher.logits" };
  const gchar *topk[] = { "sample.id", "teacher.topk.ids", "teacher.topk.logprobs" };
  KdTensor *d[] = { id, logits }, *u[] = { mixed, view, logits }, *s[] = { id, ids, logprobs };

  for (gint64 i = 0; i < ROWS; i++) {
    ((gint64 *) id->data)[i] = 3 * i;
    ((gint64 *) mixed->data)[i] = (i * 37) % (ROWS / 2) * (i % 5 + 1); /* each key once: id and view together */
    ((gint64 *) view->data)[i] = i;
    for (gint64 c = 0; c < K; c++) {
      ((gfloat *) logits->data)[K * i + c] = (gfloat) (i * 7 + c + shift);
      ((gint64 *) ids->data)[K * i + c] = i + 100 * c + shift;
      ((gfloat *) logprobs->data)[K * i + c] = logf (0.5f / (gfloat) (1 + c + (i + shift) % 3));
    }
  }
  kd_test_write (dense, 2, names, d);
  kd_test_write (unordered, 3, viewed, u);
  kd_test_write (sparse, 3, topk, s);
}

/* Every row by its key, as a training reads it. FALSE with @error, which names a file. @ret_missing: rows that were not found. */
static gboolean
read_all (const gchar *path, KdTensor **ret, guint *ret_n, gint64 *ret_missing, GError **error)
{
  g_autoptr (KdCacheReader) reader = kd_cache_reader_open (path, error);
  const KdLayout *layout = reader ? kd_cache_reader_layout (reader) : NULL;
  gint64 rows[ROWS];

  *ret_n = 0;
  if (!reader)
    return FALSE;
  *ret_missing = kd_cache_reader_find (reader, ROWS, keys, key_views, rows);
  if (*ret_missing)
    return TRUE;
  for (guint i = 0; i < kd_layout_n_fields (layout); i++) {
    KdTensor *tensor = kd_cache_reader_take (reader, kd_layout_nth (layout, i)->name, ROWS, rows, error);
    if (!tensor) {
      while (*ret_n)
        kd_tensor_unref (ret[--*ret_n]);
      return FALSE;
    }
    ret[(*ret_n)++] = tensor;
  }
  return TRUE;
}

static gchar *
text_of (const gchar *path, gsize *ret_n)
{
  gchar *text = NULL;

  ck_assert_msg (g_file_get_contents (path, &text, ret_n, NULL), "cannot read %s", path);
  return text;
}

static void
make_kind (const Kind *kind)
{
  GError *error = NULL;
  gint64 missing;
  g_autoptr (KdH5Reader) reader = NULL;
  g_autoptr (KdTensor) ids = NULL, views = NULL;
  gboolean viewed = strstr (kind->line, "location=u.h5") != NULL;

  kd_test_in_memory ();
  kd_command_setup ();
  g_chdir (kd_folder);
  write_inputs (0, "d.h5", "u.h5", "s.h5");
  write_inputs (1, "d2.h5", "u2.h5", "s2.h5");
  reader = kd_h5_reader_open (viewed ? "u.h5" : "d.h5", NULL, &error);
  ids = kd_h5_reader_read_all (reader, "sample.id", &error);
  memcpy (keys, ids->data, sizeof keys);
  views = viewed ? kd_h5_reader_read_all (reader, "sample.view", &error) : NULL;
  memset (key_views, 0, sizeof key_views);
  if (views)
    memcpy (key_views, views->data, sizeof key_views);
  kd_expect (0, kind->line, "");
  ck_assert (read_all ("c.h5", wanted, &n_wanted, &missing, &error));
  kd_assert_no_error (error);
  ck_assert_int_eq (missing, 0);
  ck_assert_uint_gt (n_wanted, 0);
}

static void
unmake (void)
{
  g_chdir ("/");
  while (n_wanted)
    kd_tensor_unref (wanted[--n_wanted]);
  kd_command_teardown ();
}

typedef struct {
  guint n_named, n_harmless, n_missing;
} Count;

/* The cache after damage; @verified: whether kd_cache_verify may find nothing when all can be read. */
static void
look (const gchar *what, gboolean verified, Count *count)
{
  KdTensor *got[8];
  GError *error = NULL, *fault = NULL;
  gint64 missing = 0;
  guint n = 0;
  gboolean readable = read_all ("c.h5", got, &n, &missing, &error), good = kd_cache_verify ("c.h5", NULL, NULL, NULL, &fault);

  if (!readable) {
    ck_assert_msg (error && strstr (error->message, "path=\"c.h5"), "%s: %s", what, error ? error->message : "no error");
    ck_assert_msg (!good, "%s: not readable (%s), but verified", what, error->message);
    count->n_named++;
  } else if (missing) {
    ck_assert_msg (!good, "%s: %" G_GINT64_FORMAT " rows are not found, but verified", what, missing);
    count->n_missing++;
  } else {
    ck_assert_uint_eq (n, n_wanted);
    for (guint i = 0; i < n; i++)
      ck_assert_msg (got[i]->n_bytes == wanted[i]->n_bytes && memcmp (got[i]->data, wanted[i]->data, got[i]->n_bytes) == 0, "%s: field %u is read and wrong; verify says %s", what, i,
          fault ? fault->message : "good");
    ck_assert_msg (!good || verified, "%s: verified", what);
    count->n_harmless++;
  }
  ck_assert_msg (good || strstr (fault->message, "path=\"c.h5"), "%s: %s", what, fault ? fault->message : "");
  while (n)
    kd_tensor_unref (got[--n]);
  g_clear_error (&error);
  g_clear_error (&fault);
}

/* (transfer full) the cache's files. */
static GPtrArray *
list_files (void)
{
  GPtrArray *files = g_ptr_array_new_with_free_func (g_free);
  g_autoptr (GDir) dir = g_dir_open ("c.h5.parts", 0, NULL);
  const gchar *name;

  g_ptr_array_add (files, g_strdup ("c.h5"));
  while (dir && (name = g_dir_read_name (dir)))
    g_ptr_array_add (files, g_build_filename ("c.h5.parts", name, NULL));
  g_ptr_array_sort (files, (GCompareFunc) kd_fault_by_name);
  return files;
}

GST_START_TEST (test_flips)
{
  guint n_flips = g_getenv ("KD_FLIPS") ? (guint) atoi (g_getenv ("KD_FLIPS")) : 1000;
  g_autoptr (GPtrArray) files = NULL;
  Count count = { 0 };
  KdRandom random;

  make_kind (&kinds[__i__]);
  files = list_files ();
  kd_random_init (&random, 7, kd_random_purpose ("flip"), (guint) __i__, 0);
  for (guint i = 0; i < n_flips; i++) {
    const gchar *file = g_ptr_array_index (files, (guint) (kd_random_uniform (&random) * files->len));
    gsize n = 0, at;
    g_autofree gchar *bytes = text_of (file, &n), *what = NULL;
    guint bit = (guint) (kd_random_uniform (&random) * 8);
    at = (gsize) (kd_random_uniform (&random) * (gdouble) n);
    what = g_strdup_printf ("%s, flip %u: %s, byte %" G_GSIZE_FORMAT ", bit %u", kinds[__i__].name, i, file, at, bit);
    bytes[at] = (gchar) (bytes[at] ^ (1 << bit));
    if (g_getenv ("KD_FAULT_VERBOSE"))
      g_printerr ("%s\n", what);
    ck_assert (g_file_set_contents (file, bytes, (gssize) n, NULL));
    look (what, at >= n - 8 || g_str_has_suffix (file, ".json") || files->len == 1, &count); /* a sum that is gone; its own name; what pads a packed chunk */
    bytes[at] = (gchar) (bytes[at] ^ (1 << bit));
    ck_assert (g_file_set_contents (file, bytes, (gssize) n, NULL));
  }
  g_print ("%s: %u flips: %u named, %u made rows missing, %u harmless\n", kinds[__i__].name, n_flips, count.n_named, count.n_missing, count.n_harmless);
  ck_assert_uint_gt (count.n_named, n_flips / 8);
}
GST_END_TEST;

GST_START_TEST (test_cut)
{
  g_autoptr (GPtrArray) files = NULL;
  Count count = { 0 };

  make_kind (&kinds[__i__]);
  files = list_files ();
  for (guint i = 0; i < files->len; i++) {
    const gchar *file = g_ptr_array_index (files, i);
    gsize n = 0;
    g_autofree gchar *bytes = text_of (file, &n);
    const gsize lengths[] = { 0, 1, 8, 100, 511, n / 4, n / 2, n - 100, n - 1 };
    for (guint k = 0; k <= G_N_ELEMENTS (lengths); k++) {
      gboolean gone = k == G_N_ELEMENTS (lengths);
      g_autofree gchar *what = gone ? g_strdup_printf ("%s: %s deleted", kinds[__i__].name, file) : g_strdup_printf ("%s: %s cut to %" G_GSIZE_FORMAT, kinds[__i__].name, file, lengths[k]);
      if (!gone && lengths[k] >= n)
        continue;
      if (gone)
        g_unlink (file);
      else
        ck_assert (g_file_set_contents (file, bytes, (gssize) lengths[k], NULL));
      look (what, gone || lengths[k] + 100 >= n, &count);
      ck_assert (g_file_set_contents (file, bytes, (gssize) n, NULL));
    }
  }
  ck_assert_uint_gt (count.n_named, 7);
}
GST_END_TEST;

/* Parts of the cache in each other's place, and another run's in theirs. */
GST_START_TEST (test_swapped)
{
  g_autoptr (GPtrArray) files = NULL;
  Count count = { 0 };
  guint n = 0;

  make_kind (&kinds[__i__]);
  files = list_files ();
  for (guint i = 1; i < files->len; i++) {
    const gchar *a = g_ptr_array_index (files, i);
    g_autofree gchar *other = g_strconcat ("w", a + 1, NULL), *mine = NULL, *theirs = NULL, *what = g_strdup_printf ("%s: %s is another run's", kinds[__i__].name, a);
    gsize n_mine = 0, n_theirs = 0;
    if (!g_str_has_suffix (a, ".h5"))
      continue;
    mine = text_of (a, &n_mine);
    theirs = text_of (other, &n_theirs);
    ck_assert (g_file_set_contents (a, theirs, (gssize) n_theirs, NULL));
    look (what, FALSE, &count);
    n++;
    for (guint k = 1; k < i; k++) {
      const gchar *b = g_ptr_array_index (files, k);
      g_autofree gchar *second = NULL, *both = g_strdup_printf ("%s: %s and %s swapped", kinds[__i__].name, a, b);
      gsize n_second = 0;
      if (!g_str_has_suffix (b, ".h5"))
        continue;
      second = text_of (b, &n_second);
      ck_assert (g_file_set_contents (a, second, (gssize) n_second, NULL) && g_file_set_contents (b, mine, (gssize) n_mine, NULL));
      look (both, FALSE, &count);
      ck_assert (g_file_set_contents (b, second, (gssize) n_second, NULL));
      n++;
    }
    ck_assert (g_file_set_contents (a, mine, (gssize) n_mine, NULL));
  }
  ck_assert_uint_eq (count.n_named, n);
  ck_assert_uint_gt (n, 2);
}
GST_END_TEST;

static Suite *
corrupt_suite (void)
{
  Suite *s = suite_create (KD_TEST_NAME);
  TCase *t = tcase_create ("corrupt");

  tcase_add_checked_fixture (t, NULL, unmake);
  tcase_set_timeout (t, 280);
  tcase_add_loop_test (t, test_flips, 0, G_N_ELEMENTS (kinds));
  tcase_add_loop_test (t, test_cut, 0, G_N_ELEMENTS (kinds));
  tcase_add_loop_test (t, test_swapped, 0, 3); /* those with parts */
  suite_add_tcase (s, t);
  return s;
}

GST_CHECK_MAIN (corrupt)
