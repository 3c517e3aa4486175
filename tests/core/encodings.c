/* Encodings of a cache: what comes back, how far it is from what came, what is said of that, and what is refused. */
#include "kd-check.h"

#include "math/kd-packed.h"

#include <math.h>
#include <string.h>

#define ROWS 300
#define WIDTH 1000

static gchar *folder, *path;

static void
make_folder (void)
{
  folder = g_dir_make_tmp ("kd-encodings-XXXXXX", NULL);
  path = g_build_filename (folder, "t.h5", NULL);
}

static void
remove_folder (void)
{
  const gchar *argv[] = { "rm", "-rf", folder, NULL };

  g_spawn_sync (NULL, (gchar **) argv, NULL, G_SPAWN_SEARCH_PATH, NULL, NULL, NULL, NULL, NULL, NULL);
  g_clear_pointer (&folder, g_free);
  g_clear_pointer (&path, g_free);
}

/* Logits with a peak, a long tail, and one id that is out of the question. */
static KdTensor *
logits (void)
{
  const gint64 dims[] = { ROWS, WIDTH };
  KdTensor *tensor = kd_tensor_new (KD_FLOAT32, 2, dims);
  KdRandom random;

  kd_random_init (&random, 3, kd_random_purpose ("encodings"), 0, 0);
  for (gint64 i = 0; i < ROWS * WIDTH; i++)
    ((gfloat *) tensor->data)[i] = (gfloat) (4 * kd_random_normal (&random) + (i % WIDTH == i / WIDTH ? 25 : 0));
  ((gfloat *) tensor->data)[5] = -INFINITY;
  return tensor;
}

static gboolean
write_field (const gchar *field, const gchar *encoding, KdTensor *tensor, GError **error)
{
  g_autoptr (KdCacheWriter) writer = kd_cache_writer_open (path, TRUE, NULL, 100000, error);
  g_autofree gint64 *ids = g_new (gint64, tensor->dims[0]);

  for (gint64 i = 0; i < tensor->dims[0]; i++)
    ids[i] = i;
  return writer && (!encoding || kd_cache_writer_set_encoding (writer, field, encoding, error)) &&
      kd_cache_writer_append (writer, tensor->dims[0], ids, NULL, 1, &field, &tensor, error) && kd_cache_writer_finish (writer, error);
}

/* (transfer full) all rows of @field; @ret: what the cache says of it. */
static KdTensor *
read_field (const gchar *field, KdCacheEncoding *ret)
{
  GError *error = NULL;
  g_autoptr (KdCacheReader) reader = kd_cache_reader_open (path, &error);
  g_autofree gint64 *rows = NULL;
  KdTensor *tensor;

  kd_assert_no_error (error);
  rows = g_new (gint64, kd_cache_reader_n_rows (reader));
  for (gint64 i = 0; i < kd_cache_reader_n_rows (reader); i++)
    rows[i] = i;
  tensor = kd_cache_reader_take (reader, field, kd_cache_reader_n_rows (reader), rows, &error);
  kd_assert_no_error (error);
  ck_assert (kd_layout_check_tensor (kd_layout_find (kd_cache_reader_layout (reader), field), tensor, NULL));
  if (ret)
    *ret = *kd_cache_reader_encoding (reader, field);
  return tensor;
}

static gdouble
lse_of (const gfloat *row, gint64 n)
{
  gdouble max = -INFINITY, sum = 0;

  for (gint64 i = 0; i < n; i++)
    max = MAX (max, row[i]);
  for (gint64 i = 0; i < n; i++)
    sum += exp (row[i] - max);
  return max + log (sum);
}

/* The largest and the mean distance are those that the cache declares, to the last digits. */
static void
check_logprobs (const gchar *encoding, gint levels)
{
  GError *error = NULL;
  g_autoptr (KdTensor) given = logits (), got = NULL;
  KdCacheEncoding said;
  gdouble max = 0, mean = 0;

  ck_assert (write_field ("teacher.logits", encoding, given, &error));
  got = read_field ("teacher.logits", &said);
  ck_assert_int_eq (got->dtype, KD_FLOAT32);
  ck_assert (isinf (((gfloat *) got->data)[5]) && ((gfloat *) got->data)[5] < 0);
  for (gint64 i = 0; i < ROWS; i++) {
    const gfloat *in = (gfloat *) given->data + i * WIDTH, *out = (gfloat *) got->data + i * WIDTH;
    gdouble lse = lse_of (in, WIDTH), top = -INFINITY, low = INFINITY, sum = 0;
    gint64 n = 0;
    for (gint64 k = 0; k < WIDTH; k++)
      if (isfinite (out[k])) {
        top = MAX (top, out[k]);
        low = MIN (low, out[k]);
      }
    for (gint64 k = 0; k < WIDTH; k++) {
      gdouble value = in[k] - lse, off = fabs (value - out[k]), d = top - value, span = top - low;
      if (!isfinite (in[k]))
        continue;
      ck_assert_msg (off <= sqrt (MAX (d, 0) * span) / levels + span / (2.0 * levels * levels) + 1e-5, "row %d, %g: off by %g", (int) i, value, off);
      max = MAX (max, off);
      sum += off;
      n++;
    }
    mean += sum / (gdouble) n / ROWS;
  }
  kd_assert_close (said.max_error, max, 1e-4);
  kd_assert_close (said.mean_error, mean, 1e-4);
  ck_assert_int_eq (said.n_rows, ROWS);
  ck_assert (said.max_tail < 0);
}

GST_START_TEST (test_logprobs)
{
  check_logprobs ("logprob8", 254);
  remove_folder ();
  make_folder ();
  check_logprobs ("logprob5", 30);
}
GST_END_TEST;

/* Rows that cannot be stored come back as NaN, never as numbers; a row of equal values has no span. */
GST_START_TEST (test_logprob_extremes)
{
  const gint64 dims[] = { 5, 3 };
  g_autoptr (KdTensor) tensor = kd_tensor_new (KD_FLOAT32, 2, dims), got = NULL;
  const gfloat rows[15] = { NAN, 0, 0, INFINITY, 0, 0, -INFINITY, -INFINITY, -INFINITY, 7, 7, 7, 0, -INFINITY, -INFINITY };
  GError *error = NULL;
  KdCacheEncoding said;

  memcpy (tensor->data, rows, sizeof rows);
  ck_assert (write_field ("teacher.logits", "logprob8", tensor, &error));
  got = read_field ("teacher.logits", &said);
  for (guint i = 0; i < 9; i++)
    ck_assert (isnan (((gfloat *) got->data)[i]));
  for (guint i = 9; i < 12; i++)
    kd_assert_close (((gfloat *) got->data)[i], -log (3), 1e-3);
  kd_assert_close (((gfloat *) got->data)[12], 0, 1e-6);
  ck_assert (isinf (((gfloat *) got->data)[13]));
  ck_assert_int_eq (said.n_rows, 2);
}
GST_END_TEST;

GST_START_TEST (test_halves)
{
  static const struct {
    const gchar *name;
    KdDtype dtype;
    gdouble bound; /* relative */
  } rows[] = { { "float16", KD_FLOAT16, 0x1p-11 }, { "bfloat16", KD_BFLOAT16, 0x1p-8 }, { "float32", KD_FLOAT32, 0 } };

  for (guint r = 0; r < G_N_ELEMENTS (rows); r++) {
    GError *error = NULL;
    g_autoptr (KdTensor) given = logits (), got = NULL;
    KdCacheEncoding said;
    gdouble max = 0;

    ck_assert (write_field ("teacher.features.last", rows[r].name, given, &error));
    got = read_field ("teacher.features.last", &said);
    ck_assert_int_eq (got->dtype, rows[r].dtype);
    for (gsize i = 0; i < ROWS * WIDTH; i++) {
      gdouble value = kd_tensor_get_double (given, i), off = fabs (value - kd_tensor_get_double (got, i));
      if (!isfinite (value))
        continue;
      ck_assert (off <= fabs (value) * rows[r].bound + 1e-7);
      max = MAX (max, off);
    }
    kd_assert_close (said.max_error, max, 1e-12);
    ck_assert (said.mean_error <= said.max_error);
    remove_folder ();
    make_folder ();
  }
}
GST_END_TEST;

/* -1e9, as padding ids have it, is -infinity in halves; anywhere else a number that does not fit is an error. */
GST_START_TEST (test_half_overflow)
{
  const gint64 dims[] = { 1, 2 };
  g_autoptr (KdTensor) tensor = kd_tensor_new (KD_FLOAT32, 2, dims), got = NULL;
  GError *error = NULL;

  ((gfloat *) tensor->data)[0] = -1e9f;
  ((gfloat *) tensor->data)[1] = 1;
  ck_assert (!write_field ("teacher.features.last", "float16", tensor, &error));
  kd_assert_error (error, KD_ERROR_RANGE, "field=teacher.features.last, encoding=float16, value=-1e+09, row=0, wanted=at most 65504");
  ck_assert (write_field ("teacher.logits", "float16", tensor, &error));
  got = read_field ("teacher.logits", NULL);
  ck_assert (kd_tensor_get_double (got, 0) == -INFINITY);
}
GST_END_TEST;

GST_START_TEST (test_index)
{
  const gint64 dims[] = { 2, 2 };
  static const gchar *const encodings[] = { "index16", "index32" };

  for (guint i = 0; i < 2; i++) {
    const gint64 largest = i ? G_MAXINT32 : G_MAXUINT16 - 1;
    g_autoptr (KdTensor) tensor = kd_tensor_new (KD_INT64, 2, dims), got = NULL;
    gint64 *ids = tensor->data;
    GError *error = NULL;

    ids[0] = 0;
    ids[1] = -1;
    ids[2] = 7;
    ids[3] = largest + 1;
    ck_assert (!write_field ("teacher.topk.ids", encodings[i], tensor, &error));
    kd_assert_error (error, KD_ERROR_RANGE, i ? "id=2147483648, wanted=-1 to 2147483647; choose keep" : "id=65535, wanted=-1 to 65534; choose index32");
    ids[3] = largest;
    ck_assert (write_field ("teacher.topk.ids", encodings[i], tensor, &error));
    got = read_field ("teacher.topk.ids", NULL);
    ck_assert (kd_tensor_equal (got, tensor));
    remove_folder ();
    make_folder ();
  }
}
GST_END_TEST;

/* Probability outside of the k largest: 1 - (0.5 + 0.25) and 1 - (0.5 + 0.4); a masked row is not counted. */
GST_START_TEST (test_tail)
{
  const gint64 dims[] = { 3, 2 };
  g_autoptr (KdTensor) tensor = kd_tensor_new (KD_FLOAT32, 2, dims), got = NULL;
  const gfloat rows[6] = { logf (0.5f), logf (0.25f), logf (0.5f), logf (0.4f), 0, 0 };
  GError *error = NULL;
  KdCacheEncoding said;

  memcpy (tensor->data, rows, sizeof rows);
  ck_assert (write_field ("teacher.topk.logprobs", "float32", tensor, &error));
  got = read_field ("teacher.topk.logprobs", &said);
  kd_assert_close (said.max_tail, 0.25, 1e-6);
  kd_assert_close (said.mean_tail, (0.25 + 0.1) / 2, 1e-6);
}
GST_END_TEST;

/* What is measured belongs to the rows that are committed, over all parts and runs. */
GST_START_TEST (test_resumed_measure)
{
  const gint64 dims[] = { 1, 1 };
  const gchar *name = "teacher.features.last";
  GError *error = NULL;
  g_autoptr (KdTensor) got = NULL;
  KdCacheEncoding said;

  for (gint64 i = 0; i < 4; i++) {
    g_autoptr (KdCacheWriter) writer = kd_cache_writer_open (path, TRUE, NULL, 1, &error);
    g_autoptr (KdTensor) tensor = kd_tensor_new (KD_FLOAT32, 2, dims);
    *(gfloat *) tensor->data = i == 2 ? 1 + 0x1p-9f : 1;
    ck_assert (kd_cache_writer_set_encoding (writer, name, "bfloat16", &error));
    ck_assert (kd_cache_writer_append (writer, 1, &i, NULL, 1, &name, &tensor, &error));
    ck_assert (kd_cache_writer_finish (writer, &error));
  }
  got = read_field (name, &said);
  ck_assert_int_eq (said.n_rows, 4);
  kd_assert_close (said.max_error, 0x1p-9, 1e-9);
  kd_assert_close (said.mean_error, 0x1p-11, 1e-9);
}
GST_END_TEST;

GST_START_TEST (test_refuses)
{
  g_autoptr (KdTensor) tensor = logits (), ids = kd_tensor_cast (tensor, KD_INT64, NULL);
  GError *error = NULL;

  ck_assert (!write_field ("teacher.logits", "float8", tensor, &error));
  kd_assert_error (error, KD_ERROR_RANGE, "encoding=\"float8\", wanted=keep, float32, float16, bfloat16, logprob8, logprob5, index32, index16");
  ck_assert (!write_field ("teacher.logits", "index32", tensor, &error));
  kd_assert_error (error, KD_ERROR_DTYPE, "field=teacher.logits, encoding=index32, dtype=float32, rank=2, wanted=int64 or int32");
  ck_assert (!write_field ("teacher.logits", "logprob8", ids, &error));
  kd_assert_error (error, KD_ERROR_DTYPE, "wanted=float32, float16 or bfloat16 rows");
  ck_assert (!write_field ("teacher.logits", "float16", ids, &error));
  kd_assert_error (error, KD_ERROR_DTYPE, "encoding=float16, dtype=int64, rank=2, wanted=a float field");
  ck_assert (write_field ("teacher.logits", "float16", tensor, &error));
  ck_assert (!write_field ("teacher.logits", "logprob8", tensor, &error));
  kd_assert_error (error, KD_ERROR_MISMATCH, "field=teacher.logits, cache=float16, now=logprob8; go on with the cache's");
  ck_assert (!write_field ("teacher.logits", "keep", tensor, &error));
  kd_assert_error (error, KD_ERROR_MISMATCH, "cache=float16, now=keep");
}
GST_END_TEST;

GST_START_TEST (test_field_that_never_comes)
{
  g_autoptr (KdTensor) tensor = logits ();
  g_autoptr (KdCacheWriter) writer = kd_cache_writer_open (path, FALSE, NULL, 1000, NULL);
  const gchar *name = "teacher.logits";
  const gint64 ids[ROWS] = { 0 };
  GError *error = NULL;

  ck_assert (kd_cache_writer_set_encoding (writer, "teacher.logit", "float16", &error));
  ck_assert (!kd_cache_writer_append (writer, ROWS, ids, NULL, 1, &name, &tensor, &error));
  kd_assert_error (error, KD_ERROR_FIELD, "field=teacher.logit; leave its encoding out");
}
GST_END_TEST;

/* Manifests that promise what the fields are not. */
GST_START_TEST (test_manifest_refuses)
{
  static const struct {
    const gchar *from, *to, *message;
  } rows[] = {
    { "\"logprob8\"", "\"logprob9\"", "member=encodings[0].encoding, value=\"logprob9\", reason=unknown" },
    { "\"logprob8\"", "\"float16\"", "field=teacher.logits, encoding=float16, reason=the field is stored in another type" },
    { "\"logprob8\"", "\"index32\"", "reason=wanted int32 or uint16" },
    { "\"logprob8\"", "\"packed-index\"", "reason=size and universe do not make rows of that many bytes" },
    { "\"teacher.logits\"", "\"teacher.logit\"", "field=teacher.logit, encoding=logprob8, reason=no such field" },
    { "teacher.logits.scale=float16:2", "teacher.logits.scale=float16:3", "reason=wanted uint8 rows and float16 [... 2] in FIELD.scale" },
    { "\"max-error\" : ", "\"max-error\" : -", "member=encodings[0].max-error, wanted=number from 0" },
    { "\"encoding\" : \"coded\"", "\"encoding\" : \"secret\"", "member=encoding, value=\"secret\", wanted=\"dense\" or \"coded\"" },
  };
  g_autoptr (KdTensor) tensor = logits ();
  g_autofree gchar *file = g_strconcat (path, ".parts/manifest.json", NULL), *text = NULL;
  GError *error = NULL;

  ck_assert (write_field ("teacher.logits", "logprob8", tensor, &error));
  ck_assert (g_file_get_contents (file, &text, NULL, NULL));
  for (guint i = 0; i < G_N_ELEMENTS (rows); i++) {
    g_autoptr (GString) changed = g_string_new (text);
    g_string_erase (changed, 2, strchr (text + 2, '\n') - (text + 1)); /* its checksum, the line behind the brace */
    ck_assert_msg (g_string_replace (changed, rows[i].from, rows[i].to, 1) == 1, "%s is not in %s", rows[i].from, text);
    g_file_set_contents (file, changed->str, -1, NULL);
    ck_assert (kd_cache_reader_open (path, &error) == NULL);
    kd_assert_error (error, KD_ERROR_SCHEMA, rows[i].message);
  }
}
GST_END_TEST;

/* All sizes and universes up to where every shift occurs, and the ends of each. */
GST_START_TEST (test_packed_ids)
{
  static const gint64 universes[] = { 2, 3, 51, 100, 128257, 1 << 20, (gint64) 1 << 40 };
  KdRandom random;

  kd_random_init (&random, 1, kd_random_purpose ("packed"), 0, 0);
  for (guint u = 0; u < G_N_ELEMENTS (universes); u++)
    for (gint64 size = 1; size <= 70; size++) {
      gsize bytes = kd_packed_bytes (size, universes[u]);
      g_autofree guint8 *packed = g_malloc (bytes);
      gint64 ids[70], back[70];
      for (gint64 i = 0; i < size; i++)
        ids[i] = (gint64) kd_random_below (&random, (guint64) universes[u]) - 1;
      ids[0] = -1;
      for (gint64 i = 1; i < size; i++) /* by insertion */
        for (gint64 k = i; k > 0 && ids[k] < ids[k - 1]; k--) {
          gint64 swap = ids[k];
          ids[k] = ids[k - 1];
          ids[k - 1] = swap;
        }
      kd_pack_ids (ids, size, universes[u], packed);
      ck_assert (kd_unpack_ids (packed, size, universes[u], back));
      ck_assert (memcmp (ids, back, (gsize) size * sizeof *ids) == 0);
      memset (packed, 0, bytes);
      ck_assert (!kd_unpack_ids (packed, size, universes[u], back));
      memset (packed, 0xff, bytes);
      ck_assert (!kd_unpack_ids (packed, size, universes[u], back) || size * 2 > universes[u]);
    }
  ck_assert_uint_eq (kd_packed_bytes (50, 128257), 83);
}
GST_END_TEST;

static Suite *
encodings_suite (void)
{
  Suite *s = suite_create ("encodings");
  TCase *t = tcase_create ("encodings");

  tcase_add_checked_fixture (t, make_folder, remove_folder);
  tcase_set_timeout (t, 120);
  tcase_add_test (t, test_logprobs);
  tcase_add_test (t, test_logprob_extremes);
  tcase_add_test (t, test_halves);
  tcase_add_test (t, test_half_overflow);
  tcase_add_test (t, test_index);
  tcase_add_test (t, test_tail);
  tcase_add_test (t, test_resumed_measure);
  tcase_add_test (t, test_refuses);
  tcase_add_test (t, test_field_that_never_comes);
  tcase_add_test (t, test_manifest_refuses);
  tcase_add_test (t, test_packed_ids);
  suite_add_tcase (s, t);
  return s;
}

GST_CHECK_MAIN (encodings)
