/* The importers on files with random damage: each gives rows, or one error of ours; never a crash, never FALSE without an error.
 * Deterministic; KD_FUZZ_ITERATIONS (100) files a seed. Run it under the sanitizers for what it is worth. */
#include "data-support.h"
#include "../../tools/data/kd-data.h"

typedef struct {
  const KdImportFormat *format;
  const gchar *name, *label, *split;
  gsize n;
  const gchar *bytes;
} Seed;

#define BYTES(text) sizeof (text) - 1, text
static const Seed seeds[] = {
  { &kd_import_csv, "a.csv", NULL, NULL, BYTES ("x,y,label\n1,2,cat\n3,\"4\",dog\n-5e1,6,cat\n") },
  { &kd_import_csv, "b.csv", NULL, NULL, BYTES ("a;\"b;\"\"c\r\nd\";1\r\ne;f;2\r\n") },
  { &kd_import_jsonl, "c.jsonl", "k", NULL, BYTES ("{\"a\":1,\"b\":[1,2.5],\"k\":\"x\"}\n{\"a\":2,\"b\":[3,4],\"k\":\"y\"}\n") },
  { &kd_import_json, "h.json", "1", "s", BYTES ("{\"r\":[],\"s\":[[\"a\",\"x\",[1,2]],[\"b\",\"y\",[3,4]]]}") },
  { &kd_import_json, "i.json", NULL, NULL, BYTES ("[{\"a\":1,\"b\":[1,2.5]},{\"a\":2,\"b\":[3,4]}]") },
  { &kd_import_idx, "d.idx", NULL, NULL, BYTES ("\0\0\x08\3\0\0\0\2\0\0\0\2\0\0\0\2\1\2\3\4\5\6\7\x08") },
  { &kd_import_idx, "e.idx", NULL, NULL, BYTES ("\0\0\x0d\1\0\0\0\1\x3f\x80\0\0") },
  { &kd_import_npy, "f.npy", NULL, NULL, BYTES ("\x93NUMPY\1\0\x39\0{'descr': '<i2', 'fortran_order': False, 'shape': (2, 2)}\n\1\0\2\0\3\0\4\0") },
  { &kd_import_npz, "g.npz", NULL, NULL, BYTES ("PK\3\4\x14\0\0\0\0\0\0\0\0\0\0\0\0\0\x20\0\0\0\x20\0\0\0\5\0\0\0x.npy\x93NUMPY\1\0\x10\0") },
};

/* One to eight changes: a bit, a byte, a piece gone or doubled, the end cut. */
static void
damage (GByteArray *bytes, KdRandom *random)
{
  guint n = 1 + (guint) kd_random_below (random, 8);

  while (n-- > 0 && bytes->len > 1) {
    guint at = (guint) kd_random_below (random, bytes->len), length = 1 + (guint) kd_random_below (random, MIN (8, bytes->len - at));
    switch (kd_random_below (random, 5)) {
    case 0:
      bytes->data[at] ^= (guint8) (1 << kd_random_below (random, 8));
      break;
    case 1:
      bytes->data[at] = (guint8) kd_random_u32 (random);
      break;
    case 2:
      g_byte_array_remove_range (bytes, at, length);
      break;
    case 3: {
      g_autofree guint8 *piece = g_memdup2 (bytes->data + at, length);
      g_byte_array_append (bytes, piece, length);
      break;
    }
    default:
      if (kd_random_below (random, 4) == 0)
        g_byte_array_set_size (bytes, at);
    }
  }
}

static void
quiet (const gchar *text)
{
}

static guint
iterations (void)
{
  const gchar *text = g_getenv ("KD_FUZZ_ITERATIONS");

  return text ? (guint) g_ascii_strtoull (text, NULL, 10) : 100;
}

static void
run_seed (const Seed *seed, guint which)
{
  g_autofree gchar *input = g_build_filename (folder, seed->name, NULL), *output = g_build_filename (folder, "out.h5", NULL);
  KdImportOptions options = { .input = input, .output = output, .label = (gchar *) seed->label, .split = (gchar *) seed->split };
  guint n_good = 0, n = iterations ();

  for (guint i = 0; i < n; i++) {
    g_autoptr (GByteArray) bytes = g_byte_array_new ();
    KdRandom random;
    GError *error = NULL;
    gboolean done;

    kd_random_init (&random, 1, kd_random_purpose ("data-fuzz"), which, i);
    g_byte_array_append (bytes, (const guint8 *) seed->bytes, (guint) seed->n);
    if (i > 0)
      damage (bytes, &random);
    write_file (seed->name, bytes->data, bytes->len);
    done = seed->format->run (&options, &error);
    ck_assert_msg (done ? error == NULL : error && error->domain == KD_ERROR, "seed %s, file %u: done=%d, error=%s", seed->name, i, done,
        error ? error->message : "none");
    n_good += done;
    g_clear_error (&error);
  }
  ck_assert (n_good > 0 || seed->format == &kd_import_npz); /* that seed is broken from the start */
}

GST_START_TEST (test_importers)
{
  g_set_print_handler (quiet);
  run_seed (&seeds[__i__], (guint) __i__);
}
GST_END_TEST

/* Headers of pictures: any answer, but within bounds. */
GST_START_TEST (test_probe)
{
  static const gchar jpeg[] = "\xff\xd8\xff\xe0\0\4ab\xff\xc0\0\x0b\x08\0\x10\0\x10\1\1\x11\0\xff\xda\0\x08\1\1\0\0\x3f\0\x55\xff\xd9",
                     png[] = "\x89PNG\r\n\x1a\n\0\0\0\x0dIHDR\0\0\0\x10\0\0\0\x10\x08\2\0\0\0\0\0\0\0\0\0\0\0IEND\0\0\0\0",
                     webp[] = "RIFF\x1d\0\0\0WEBPVP8L\x10\0\0\0\x2f\x0f\xc0\3\0abcdefghijkl";
  static const struct {
    const gchar *bytes, *kind;
    gsize n;
  } pictures[] = { { jpeg, "jpeg", sizeof jpeg - 1 }, { png, "png", sizeof png - 1 }, { webp, "webp", sizeof webp - 1 } };

  for (guint p = 0; p < G_N_ELEMENTS (pictures); p++)
    for (guint i = 0; i < 20 * iterations (); i++) {
      g_autoptr (GByteArray) bytes = g_byte_array_new ();
      g_autofree guint8 *exact = NULL; /* so that a read beyond the end is seen by the sanitizer */
      KdRandom random;
      GError *error = NULL;
      gint width = 0, height = 0;
      const gchar *kind;

      kd_random_init (&random, 2, kd_random_purpose ("data-fuzz"), p, i);
      g_byte_array_append (bytes, (const guint8 *) pictures[p].bytes, (guint) pictures[p].n);
      if (i > 0)
        damage (bytes, &random);
      exact = g_memdup2 (bytes->data, bytes->len);
      kind = kd_image_probe (exact, bytes->len, "picture", &width, &height, &error);
      ck_assert (kind ? width > 0 && height > 0 && !error : error && error->domain == KD_ERROR);
      if (i == 0)
        ck_assert_msg (kind && g_str_equal (kind, pictures[p].kind) && width == 16 && height == 16, "%s %dx%d", kind ? kind : error->message, width, height);
      g_clear_error (&error);
    }
}
GST_END_TEST

static Suite *
data_fuzz_suite (void)
{
  Suite *suite = suite_create ("data-fuzz");
  TCase *tcase = tcase_create ("all");

  suite_add_tcase (suite, tcase);
  tcase_add_checked_fixture (tcase, make_folder, remove_folder);
  tcase_add_loop_test (tcase, test_importers, 0, G_N_ELEMENTS (seeds));
  tcase_add_test (tcase, test_probe);
  return suite;
}

GST_CHECK_MAIN (data_fuzz);
