/* Packed caches: the same rows through every filter, ids as bits, the sizes that are promised, damage, and Python without us.  Long, for all of it
 * stands on the same two caches. */
#include "kd-check.h"

#include "math/kd-packed.h"

#include <glib/gstdio.h>
#include <string.h>
#include <sys/wait.h>

#define SAMPLES 160
#define TOKENS 128
#define K 50
#define VOCABULARY 128256

static gchar *folder, *cache, *packed;

static void
make_folder (void)
{
  folder = g_dir_make_tmp ("kd-pack-XXXXXX", NULL);
  cache = g_build_filename (folder, "t.h5", NULL);
  packed = g_build_filename (folder, "p.h5", NULL);
}

static void
remove_folder (void)
{
  const gchar *argv[] = { "rm", "-rf", folder, NULL };

  g_spawn_sync (NULL, (gchar **) argv, NULL, G_SPAWN_SEARCH_PATH, NULL, NULL, NULL, NULL, NULL, NULL);
  g_clear_pointer (&folder, g_free);
  g_clear_pointer (&cache, g_free);
  g_clear_pointer (&packed, g_free);
}

/* The k most probable ids of a token: probability of rank r as (r + q)^-s with s and q of the token and noise on its logarithm; ids drawn
 * evenly, which no coding can make smaller. Masked tokens as kdlogittopk leaves them. */
static void
fill_token (KdRandom *random, gboolean masked, gint64 *ids, gfloat *logprobs, gfloat *lse)
{
  gdouble s = 0.9 + 0.8 * kd_random_uniform (random), q = 3 * kd_random_uniform (random), value[K], sum = 0;

  for (guint i = 0; i < K; i++) {
    value[i] = -s * log (i + 1 + q) + 0.25 * kd_random_normal (random);
    for (guint k = i; k > 0 && value[k] > value[k - 1]; k--) {
      gdouble swap = value[k];
      value[k] = value[k - 1];
      value[k - 1] = swap;
    }
  }
  for (guint i = 0; i < K; i++)
    sum += exp (value[i]);
  sum *= 1.1; /* a tenth is outside */
  for (guint i = 0; i < K; i++) {
    ids[i] = masked ? -1 : (gint64) kd_random_below (random, VOCABULARY);
    logprobs[i] = masked ? 0 : (gfloat) (value[i] - log (sum));
  }
  *lse = masked ? 0 : (gfloat) (20 + 2 * kd_random_normal (random));
}

static void
write_topk (const gchar *logprobs, const gchar *lse)
{
  static const gchar *const names[] = { "teacher.topk.ids", "teacher.topk.logprobs", "teacher.topk.lse" };
  const gint64 dims[] = { SAMPLES, TOKENS, K };
  KdTensor *tensors[] = { kd_tensor_new (KD_INT64, 3, dims), kd_tensor_new (KD_FLOAT32, 3, dims), kd_tensor_new (KD_FLOAT32, 2, dims) };
  g_autoptr (KdCacheWriter) writer = kd_cache_writer_open (cache, FALSE, NULL, 1 << 20, NULL);
  GError *error = NULL;
  gint64 ids[SAMPLES];
  KdRandom random;

  kd_random_init (&random, 1, kd_random_purpose ("pack"), 0, 0);
  for (gint64 i = 0; i < SAMPLES * TOKENS; i++)
    fill_token (&random, i % 100 == 7, (gint64 *) tensors[0]->data + i * K, (gfloat *) tensors[1]->data + i * K, (gfloat *) tensors[2]->data + i);
  for (gint64 i = 0; i < SAMPLES; i++)
    ids[i] = i;
  ck_assert (kd_cache_writer_set_encoding (writer, names[0], "index32", &error));
  ck_assert (kd_cache_writer_set_encoding (writer, names[1], logprobs, &error));
  ck_assert (kd_cache_writer_set_encoding (writer, names[2], lse, &error));
  kd_cache_writer_append (writer, SAMPLES, ids, NULL, 3, names, tensors, &error);
  kd_assert_no_error (error);
  ck_assert (kd_cache_writer_finish (writer, &error));
  for (guint i = 0; i < 3; i++)
    kd_tensor_unref (tensors[i]);
}

/* @n rows of features that have some order in them; more than one chunk, the last one not full. */
static void
write_features (gint64 n, gint64 width)
{
  const gint64 dims[] = { n, width };
  const gchar *name = "teacher.features.last";
  g_autoptr (KdTensor) tensor = kd_tensor_new (KD_FLOAT32, 2, dims);
  g_autoptr (KdCacheWriter) writer = kd_cache_writer_open (cache, FALSE, NULL, 1 << 20, NULL);
  g_autofree gint64 *ids = g_new (gint64, n);
  GError *error = NULL;

  for (gint64 i = 0; i < n * width; i++)
    ((gfloat *) tensor->data)[i] = (gfloat) (i / width * 10 + i % width % 7);
  for (gint64 i = 0; i < n; i++)
    ids[i] = 3 * i;
  kd_cache_writer_append (writer, n, ids, NULL, 1, &name, &tensor, &error);
  kd_assert_no_error (error);
  ck_assert (kd_cache_writer_finish (writer, &error));
}

static KdTensor *
take (const gchar *path, const gchar *field, gint64 n, const gint64 *rows)
{
  GError *error = NULL;
  g_autoptr (KdCacheReader) reader = kd_cache_reader_open (path, &error);
  KdTensor *tensor;

  kd_assert_no_error (error);
  tensor = kd_cache_reader_take (reader, field, n, rows, &error);
  kd_assert_no_error (error);
  return tensor;
}

static void
pack (const gchar *filter, KdCachePackFlags flags)
{
  GError *error = NULL;

  g_unlink (packed);
  kd_cache_pack (cache, packed, filter, flags, NULL, NULL, &error);
  kd_assert_no_error (error);
  ck_assert (kd_cache_verify (packed, NULL, NULL, NULL, &error));
}

static const gchar *const filters[] = { "none", "deflate", "blosc-lz4", "blosc-zstd" };

/* Any rows in any order, some twice, across chunks; and all of them in order. */
GST_START_TEST (test_filters)
{
  gint64 rows[5001];
  KdRandom random;

  write_features (5001, 128);
  kd_random_init (&random, 5, kd_random_purpose ("rows"), 0, 0);
  for (guint f = 0; f < G_N_ELEMENTS (filters); f++) {
    pack (filters[f], 0);
    for (guint round = 0; round < 2; round++) {
      g_autoptr (KdTensor) tensor = NULL;
      for (gint64 i = 0; i < 5001; i++)
        rows[i] = round ? i : (gint64) kd_random_below (&random, 5001);
      tensor = take (packed, "teacher.features.last", 5001, rows);
      for (gint64 i = 0; i < 5001; i++)
        for (gint64 k = 0; k < 128; k += 13)
          ck_assert (((gfloat *) tensor->data)[i * 128 + k] == (gfloat) (rows[i] * 10 + k % 7));
    }
  }
}
GST_END_TEST;

/* Any of these readers' batches has the right rows, though the store of unpacked chunks holds less than one of them asks for. */
static gpointer
read_much (gpointer data)
{
  g_autoptr (KdCacheReader) reader = kd_cache_reader_open (packed, NULL);
  KdRandom random;
  gint64 rows[100], n_wrong = 0;

  kd_random_init (&random, (guint64) GPOINTER_TO_SIZE (data), kd_random_purpose ("threads"), 0, 0);
  for (guint b = 0; b < 30; b++) {
    g_autoptr (KdTensor) tensor = NULL;
    for (guint i = 0; i < 100; i++)
      rows[i] = b % 3 ? (gint64) kd_random_below (&random, 5001) : 100 * b + i;
    tensor = kd_cache_reader_take (reader, "teacher.features.last", 100, rows, NULL);
    for (guint i = 0; tensor && i < 100; i++)
      n_wrong += ((gfloat *) tensor->data)[i * 128 + 100] != (gfloat) (rows[i] * 10 + 2);
    n_wrong += !tensor;
  }
  return GSIZE_TO_POINTER ((gsize) n_wrong);
}

GST_START_TEST (test_threads)
{
  GThread *threads[4];

  g_setenv ("KD_CHUNK_CACHE", "600000", TRUE); /* two chunks */
  write_features (5001, 128);
  pack ("deflate", 0);
  for (gsize i = 0; i < 4; i++)
    threads[i] = g_thread_new ("reader", read_much, GSIZE_TO_POINTER (i));
  for (gsize i = 0; i < 4; i++)
    ck_assert (g_thread_join (threads[i]) == NULL);
}
GST_END_TEST;

/* Every token keeps its ids and the log-probability of each; ids ascend. */
GST_START_TEST (test_pack_index)
{
  gint64 rows[SAMPLES];
  g_autoptr (KdTensor) ids = NULL, logprobs = NULL, lse = NULL, got_ids = NULL, got_logprobs = NULL, got_lse = NULL;

  for (gint64 i = 0; i < SAMPLES; i++)
    rows[i] = (7 * i) % SAMPLES;
  write_topk ("logprob5", "float16");
  pack ("blosc-zstd", KD_CACHE_PACK_INDEX);
  ids = take (cache, "teacher.topk.ids", SAMPLES, rows);
  logprobs = take (cache, "teacher.topk.logprobs", SAMPLES, rows);
  lse = take (cache, "teacher.topk.lse", SAMPLES, rows);
  got_ids = take (packed, "teacher.topk.ids", SAMPLES, rows);
  got_logprobs = take (packed, "teacher.topk.logprobs", SAMPLES, rows);
  got_lse = take (packed, "teacher.topk.lse", SAMPLES, rows);
  ck_assert (kd_tensor_equal (lse, got_lse));
  for (gint64 t = 0; t < SAMPLES * TOKENS; t++) {
    const gint64 *a = (gint64 *) ids->data + t * K, *b = (gint64 *) got_ids->data + t * K;
    const gfloat *x = (gfloat *) logprobs->data + t * K, *y = (gfloat *) got_logprobs->data + t * K;
    guint8 taken[K] = { 0 };
    for (guint i = 0; i < K; i++) {
      guint k = 0;
      while (k < K && (taken[k] || a[k] != b[i] || x[k] != y[i]))
        k++;
      ck_assert_msg (k < K, "token %d: id %d", (int) t, (int) b[i]);
      taken[k] = 1;
      ck_assert (i == 0 || b[i] >= b[i - 1]);
    }
  }
}
GST_END_TEST;

static gdouble
bytes_a_token (const gchar *filter, KdCachePackFlags flags)
{
  GStatBuf info;

  pack (filter, flags);
  ck_assert_int_eq (g_stat (packed, &info), 0);
  return (gdouble) info.st_size / (SAMPLES * TOKENS);
}

/* Built without libblosc there is nothing to measure. */
static gboolean
has_blosc (void)
{
  GError *error = NULL;
  gboolean has = kd_cache_pack (cache, packed, "blosc-zstd", 0, NULL, NULL, &error);

  if (!has)
    kd_assert_error (error, KD_ERROR_UNSUPPORTED, "libblosc-dev");
  return has;
}

GST_START_TEST (test_size)
{
  gdouble bytes;

  write_topk ("float16", "float16");
  if (!has_blosc ())
    return;
  bytes = bytes_a_token ("blosc-zstd", 0);
  ck_assert_msg (bytes <= 185, "%g bytes a token", bytes);
  g_printerr ("k=50 of 128256, float16: %.1f bytes a token\n", bytes);
  remove_folder ();
  make_folder ();
  write_topk ("logprob5", "float16");
  bytes = bytes_a_token ("blosc-zstd", KD_CACHE_PACK_INDEX);
  ck_assert_msg (bytes <= 120, "%g bytes a token", bytes);
  g_printerr ("k=50 of 128256, logprob5, packed index: %.1f bytes a token\n", bytes);
}
GST_END_TEST;

/* Bytes of a packed file changed at 200 places: an error, or the right numbers; never others, never a crash. */
GST_START_TEST (test_damage)
{
  g_autofree gchar *text = NULL;
  gsize size = 0;
  KdRandom random;
  gint64 rows[SAMPLES];
  guint n_found = 0;
  g_autoptr (KdTensor) wanted = NULL;

  for (gint64 i = 0; i < SAMPLES; i++)
    rows[i] = i;
  write_topk ("float16", "float16");
  pack ("deflate", KD_CACHE_PACK_INDEX);
  wanted = take (packed, "teacher.topk.ids", SAMPLES, rows);
  ck_assert (g_file_get_contents (packed, &text, &size, NULL));
  kd_random_init (&random, 2, kd_random_purpose ("damage"), 0, 0);
  for (guint i = 0; i < 200; i++) {
    gsize at = (gsize) kd_random_below (&random, size);
    gchar old = text[at];
    g_autoptr (KdCacheReader) reader = NULL;
    g_autoptr (KdTensor) got = NULL;
    g_autoptr (GError) error = NULL;
    text[at] ^= (gchar) (1 << (i % 8));
    ck_assert (g_file_set_contents (packed, text, (gssize) size, NULL));
    reader = kd_cache_reader_open (packed, &error);
    got = reader ? kd_cache_reader_take (reader, "teacher.topk.ids", SAMPLES, rows, &error) : NULL;
    ck_assert (got || error);
    ck_assert (!got || kd_tensor_equal (got, wanted));
    n_found += !got;
    text[at] = old;
  }
  ck_assert_uint_gt (n_found, 50);
}
GST_END_TEST;

GST_START_TEST (test_refuses)
{
  GError *error = NULL;

  write_features (10, 4);
  ck_assert (!kd_cache_pack (cache, packed, "none", KD_CACHE_PACK_INDEX, NULL, NULL, &error));
  kd_assert_error (error, KD_ERROR_FIELD, "wanted=a field *.ids [... k] of int64 that is not packed yet; capture with encoding=topk");
  ck_assert (!g_file_test (packed, G_FILE_TEST_EXISTS));
  remove_folder ();
  make_folder ();
  write_topk ("float16", "float16");
  pack ("none", KD_CACHE_PACK_INDEX);
  g_free (cache);
  cache = g_strdup_printf ("%s.again", packed);
  ck_assert (!kd_cache_pack (packed, cache, "none", KD_CACHE_PACK_INDEX, NULL, NULL, &error));
  kd_assert_error (error, KD_ERROR_FIELD, "not packed yet");
}
GST_END_TEST;

/* The snippet in core/cache/README.md, as it stands there. */
static gchar *
readme_snippet (void)
{
  g_autofree gchar *file = g_build_filename (g_getenv ("KD_SOURCE_ROOT"), "core/cache/README.md", NULL), *text = NULL;
  const gchar *begin, *end;

  ck_assert (g_file_get_contents (file, &text, NULL, NULL));
  begin = strstr (text, "```python\n");
  ck_assert (begin != NULL);
  begin += strlen ("```python\n");
  end = strstr (begin, "```");
  return g_strndup (begin, (gsize) (end - begin));
}

/* 77: what it needs is not installed. */
static void
run_python (const gchar *script)
{
  const gchar *argv[] = { "/usr/bin/python3", "-c", script, NULL };
  g_autofree gchar *err = NULL;
  gint status = 0;

  if (g_spawn_sync (NULL, (gchar **) argv, NULL, 0, NULL, NULL, NULL, &err, &status, NULL) && !(WIFEXITED (status) && WEXITSTATUS (status) == 77))
    ck_assert_msg (status == 0, "%s\n%s", script, err);
}

GST_START_TEST (test_readme_snippet)
{
  g_autofree gchar *snippet = readme_snippet (), *script = NULL, *ids_file = g_build_filename (folder, "ids", NULL);
  gint64 rows[SAMPLES];
  g_autoptr (KdTensor) ids = NULL, logprobs = NULL;
  g_autoptr (GString) both = g_string_new (NULL);

  for (gint64 i = 0; i < SAMPLES; i++)
    rows[i] = i;
  write_topk ("logprob5", "float16");
  pack ("deflate", KD_CACHE_PACK_INDEX);
  ids = take (packed, "teacher.topk.ids", SAMPLES, rows);
  logprobs = take (packed, "teacher.topk.logprobs", SAMPLES, rows);
  g_string_append_len (both, ids->data, (gssize) ids->n_bytes);
  g_string_append_len (both, logprobs->data, (gssize) logprobs->n_bytes);
  ck_assert (g_file_set_contents (ids_file, both->str, (gssize) both->len, NULL));
  script = g_strdup_printf ("import sys\ntry:\n  import h5py, numpy\nexcept ImportError:\n  sys.exit(77)\n%s\n"
                            "ids, logprobs = topk(h5py.File('%s'), slice(0, %d))\n"
                            "raw = open('%s', 'rb').read()\n"
                            "want = numpy.frombuffer(raw, numpy.int64, ids.size).reshape(ids.shape)\n"
                            "want_logprobs = numpy.frombuffer(raw, numpy.float32, ids.size, ids.nbytes).reshape(ids.shape)\n"
                            "assert ids.shape == (%d, %d, %d), ids.shape\n"
                            "assert (ids == want).all()\n"
                            "assert numpy.abs(logprobs - want_logprobs).max() < 1e-5\n",
      snippet, packed, SAMPLES, ids_file, SAMPLES, TOKENS, K);
  run_python (script);
}
GST_END_TEST;

/* h5py opens a blosc file through Debian's plugin, where that is. */
GST_START_TEST (test_h5py_blosc)
{
  g_autofree gchar *script = NULL;

  write_features (5001, 128);
  if (!has_blosc ())
    return;
  script = g_strdup_printf ("import sys\ntry:\n  import h5py, numpy as np\nexcept ImportError:\n  sys.exit(77)\n"
                            "if not h5py.h5z.filter_avail(32001): sys.exit(77)\n"
                            "x = h5py.File('%s')['teacher.features.last'][...]\n"
                            "i, k = np.ogrid[:5001, :128]\nassert (x == i * 10 + k %% 7).all()\n",
      packed);
  run_python (script);
}
GST_END_TEST;

static Suite *
pack_suite (void)
{
  Suite *s = suite_create ("pack");
  TCase *t = tcase_create ("pack");

  tcase_add_checked_fixture (t, make_folder, remove_folder);
  tcase_set_timeout (t, 240);
  tcase_add_test (t, test_filters);
  tcase_add_test (t, test_threads);
  tcase_add_test (t, test_pack_index);
  tcase_add_test (t, test_size);
  tcase_add_test (t, test_damage);
  tcase_add_test (t, test_refuses);
  tcase_add_test (t, test_readme_snippet);
  tcase_add_test (t, test_h5py_blosc);
  suite_add_tcase (s, t);
  return s;
}

GST_CHECK_MAIN (pack)
