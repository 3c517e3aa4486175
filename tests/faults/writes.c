/* Every write, sync, rename and open of every command that writes, one after the other: fails (once, or as on a disk that is full from then on), is cut
 * short, or is where the process is killed. Afterwards the command has said what failed and why, its inputs are as they were, what is there is
 * whole, and the same command again ends with the right rows. */
#include "kd-fault.h"

#define ROWS 60
#define SPARSE "teacher.topk.ids,teacher.topk.logprobs"
#define TRAIN "kd launch --quiet 'kdh5src location=t.h5 shuffle=true seed=1 batch-size=10 ! kdstudent arch=\"mlp dims=4,3\" seed=1 save=o.safetensors ! kdce ! kdtrain learning-rate=0.1 checkpoint=o.ckpt checkpoint-every=4"

/* @inputs: files and caches that stay as they are; @before: makes the folder ready; @output: what the command makes; @rows: the cache whose rows it
 * has then, or @same: the file that it equals */
typedef struct {
  const gchar *name, *inputs, *before, *line, *again, *output, *rows, *same;
} Case;

static const Case cases[] = {
  { "capture", "d.h5", NULL, "kd launch --quiet 'kdh5src location=d.h5 batch-size=10 ! kdcachesink location=o.h5 part-bytes=1200'",
      "kd launch --quiet 'kdh5src location=d.h5 batch-size=10 ! kdcachesink location=o.h5 part-bytes=1200 resume=true'", "o.h5", "c.h5", NULL },
  { "resume", "d.h5", "cp -r a.h5.parts o.h5.parts; cp a.h5 o.h5", "kd launch --quiet 'kdh5src location=d.h5 batch-size=10 ! kdcachesink location=o.h5 part-bytes=1200 resume=true'", NULL,
      "o.h5", "c.h5", NULL },
  { "pack", "c.h5", NULL, "kd cache pack c.h5 o.h5", NULL, "o.h5", "c.h5", NULL },
  { "pack-zstd", "c.h5", NULL, "kd cache pack --filter=blosc-zstd c.h5 o.h5", NULL, "o.h5", "c.h5", NULL },
  { "pack-index", "k.h5", NULL, "kd cache pack --pack-index --filter=blosc-zstd k.h5 o.h5", NULL, "o.h5", "k.h5", NULL },
  { "merge", "a.h5 b.h5", NULL, "kd cache merge o.h5 a.h5 b.h5", NULL, "o.h5", "c.h5", NULL },
  { "merge-link", "a.h5 b.h5", NULL, "kd cache merge --link o.h5 a.h5 b.h5", NULL, "o.h5", "c.h5", NULL },
  { "merge-move", NULL, "cp -r a.h5.parts am.h5.parts; cp a.h5 am.h5; cp -r b.h5.parts bm.h5.parts; cp b.h5 bm.h5", "kd cache merge --move o.h5 am.h5 bm.h5", NULL, "o.h5", "c.h5", NULL },
  { "prune", "c.h5", NULL, "kd cache prune --range 5:40 c.h5 o.h5", NULL, "o.h5", "p.h5", NULL },
  { "repair", NULL, "cp -r broken.h5.parts o.h5.parts; cp broken.h5 o.h5", "kd cache repair o.h5", NULL, "o.h5", "b.h5", NULL },
  { "rebuild", NULL, "cp -r broken.h5.parts o.h5.parts; cp broken.h5 o.h5; rm o.h5.parts/manifest.json", "kd cache repair o.h5", NULL, "o.h5", "b.h5", NULL },
  { "export-npz", "c.h5", NULL, "kd cache export c.h5 o.npz", NULL, "o.npz", NULL, "c.npz" },
  { "export-safetensors", "c.h5", NULL, "kd cache export c.h5 o.safetensors", NULL, "o.safetensors", NULL, "c.safetensors" },
  { "kdh5sink", "d.h5", NULL, "kd launch --quiet 'kdh5src location=d.h5 ! kdh5sink location=o.h5'", NULL, "o.h5", NULL, "h.h5" },
  { "checkpoint", "t.h5", NULL, TRAIN "'", TRAIN " resume=true'", "o.safetensors", NULL, "w.safetensors" },
};

static void
write_data (void)
{
  gint64 n = ROWS, dims[] = { ROWS, 4 }, label_dims[] = { ROWS };
  g_autoptr (KdTensor) id = kd_tensor_new (KD_INT64, 1, &n), logits = kd_tensor_new (KD_FLOAT32, 2, dims), label = kd_tensor_new (KD_INT64, 1, label_dims);
  g_autoptr (KdTensor) ids = kd_tensor_new (KD_INT64, 2, dims), logprobs = kd_tensor_new (KD_FLOAT32, 2, dims);
  const gchar *dense[] = { "sample.id", "teacher.logits" }, *sparse[] = { "sample.id", "teacher.topk.ids", "teacher.topk.logprobs" }, *labelled[] = { "sample.id", "input", "label" };
  KdTensor *d[] = { id, logits }, *s[] = { id, ids, logprobs }, *t[] = { id, logits, label };

  for (gint64 i = 0; i < ROWS; i++) {
    ((gint64 *) id->data)[i] = i;
    ((gint64 *) label->data)[i] = i % 3;
    for (gint64 c = 0; c < 4; c++) {
      ((gfloat *) logits->data)[4 * i + c] = (gfloat) ((i + c) % 17);
      ((gint64 *) ids->data)[4 * i + c] = i + 20 * c;
      ((gfloat *) logprobs->data)[4 * i + c] = logf (0.4f / (gfloat) (1 + c));
    }
  }
  g_chdir (kd_folder);
  kd_test_write ("d.h5", 2, dense, d);
  kd_test_write ("s.h5", 3, sparse, s);
  kd_test_write ("t.h5", 3, labelled, t);
}

static void
make_inputs (const Case *c)
{
  kd_test_in_memory ();
  kd_command_setup ();
  write_data ();
  kd_expect (0, "kd launch --quiet 'kdh5src location=d.h5 batch-size=10 ! kdcachesink location=c.h5 part-bytes=900'", "");
  kd_expect (0, "kd launch --quiet 'kdh5src location=s.h5 ! kdcachesink location=k.h5 part-bytes=1500'", "");
  kd_expect (0, "kd cache prune --range :40 c.h5 a.h5 && kd cache prune --range 30: c.h5 b.h5 && kd cache prune --range 5:40 c.h5 p.h5", "");
  kd_expect (0, "kd cache export c.h5 c.npz && kd cache export c.h5 c.safetensors && kd launch --quiet 'kdh5src location=d.h5 ! kdh5sink location=h.h5'", "");
  kd_expect (0, "kd cache merge --link broken.h5 c.h5 && cp broken.h5.parts/00000.h5 x && mv x broken.h5.parts/00000.h5 && printf XYZ | dd of=broken.h5.parts/00000.h5 bs=1 seek=2300 conv=notrunc", "");
  if (g_str_equal (c->name, "checkpoint"))
    kd_expect (0, TRAIN "' && mv o.safetensors w.safetensors && rm o.ckpt", "");
}

/* The output, if it is there, is whole; a cache with parts, after a fault, may have some of its rows. */
static void
check_output (const Case *c, gboolean finished, const gchar *when)
{
  g_autofree gchar *manifest = g_strconcat (c->output, ".parts/manifest.json", NULL), *got = NULL, *wanted = NULL;
  gboolean is_cache = c->rows && g_file_test (manifest, G_FILE_TEST_EXISTS), is_there = g_file_test (c->output, G_FILE_TEST_EXISTS);
  gsize n = 0, m = 0;

  if (finished)
    ck_assert_msg (is_there, "%s: there is no %s", when, c->output);
  if (is_cache || (c->rows && is_there && !g_str_has_prefix (c->line, "kd launch") && g_str_has_prefix (c->line, "kd cache pack")))
    kd_fault_rows (c->output, c->rows, !finished && is_cache, when);
  if (!c->same || !is_there)
    return;
  ck_assert (g_file_get_contents (c->output, &got, &n, NULL) && g_file_get_contents (c->same, &wanted, &m, NULL));
  if (g_str_equal (c->name, "kdh5sink")) { /* with the time of its making in it */
    g_autoptr (KdH5Reader) reader = kd_h5_reader_open (c->output, NULL, NULL);
    ck_assert_msg (reader && kd_h5_reader_n_rows (reader) == ROWS && n == m, "%s: not the whole file", when);
  } else {
    ck_assert_msg (n == m && memcmp (got, wanted, n) == 0, "%s: %s is not what it has to be", when, c->output);
  }
}

/* One clear sentence: which file, and the system's reason. */
static void
check_error (const Case *c, const gchar *how, const gchar *when)
{
  static const gchar *const wrong[] = { "HDF5-DIAG", "unknown", "CRITICAL", "WARNING **", "Success", "errno =", "infinite loop", "ERROR:", NULL };
  const gchar *reason = g_str_equal (how, "EIO") ? "Input/output error" : "No space left on device";

  for (guint i = 0; wrong[i]; i++)
    ck_assert_msg (!strstr (kd_err, wrong[i]), "%s: \"%s\" in %s", when, wrong[i], kd_err);
  ck_assert_msg (strstr (kd_err, reason) || (g_str_equal (how, "full") && strstr (kd_err, "Disk full")), "%s: no reason in %s", when, kd_err);
  /* of the output or, where the inputs go, of one of them */
  ck_assert_msg (strstr (kd_err, "=\"o.") || strstr (kd_err, "\"./o.") || (g_str_equal (c->name, "merge-move") && (strstr (kd_err, "=\"am.") || strstr (kd_err, "=\"bm."))),
      "%s: no path in %s", when, kd_err);
}

static void
begin (const Case *c)
{
  g_autofree gchar *line = g_strconcat ("rm -rf o.* .o.* am.* bm.*; ", c->before, NULL);

  kd_expect (0, line, "");
}

/* Returns whether the fault came. */
static gboolean
one_fault (const Case *c, const gchar *how, guint nth, const gchar *call)
{
  g_autofree gchar *before = NULL, *after = NULL, *hit = NULL, *when = NULL, *left = NULL;
  gboolean killed = g_str_equal (how, "kill"), is_repair = strstr (c->line, "repair") != NULL, harmless;
  gint code;

  begin (c);
  before = kd_fault_sum (c->inputs);
  code = kd_fault_run (c->line, how, nth, call, &hit);
  when = g_strdup_printf ("%s, %s at %u (%s), exit code %d", c->name, how, nth, hit ? hit : "none", code);
  if (g_getenv ("KD_FAULT_VERBOSE"))
    g_printerr ("%s: %s\n", when, kd_err);
  /* A short write is made up for; room that cannot be reserved may be there all the same. */
  harmless = !hit || g_str_equal (how, "short") || g_str_has_prefix (hit, "ftruncate") || g_str_has_prefix (hit, "mkdir") || strstr (hit, ".writer");
  ck_assert_msg (killed && hit ? code == 128 + SIGKILL : code == 1 || (code == 0 && harmless), "%s: %s", when, kd_err);
  if (code == 1)
    check_error (c, how, when);
  after = kd_fault_sum (c->inputs);
  ck_assert_msg (g_str_equal (before, after), "%s: an input was changed", when);
  if (code == 0 || !is_repair) /* else it is as broken as it was */
    check_output (c, code == 0, when);
  left = kd_fault_partials (kd_folder);
  ck_assert_msg (killed || !*left, "%s: %s is left", when, left);
  if ((g_str_has_prefix (c->name, "export") || g_str_has_prefix (c->name, "pack")) && g_file_test (c->output, G_FILE_TEST_EXISTS))
    return hit != NULL; /* it has its name, so it is whole; and it is not written over */
  if (g_str_equal (c->name, "merge-move") && code == 0)
    return hit != NULL; /* the inputs are gone */
  code = kd_fault_run (c->again ? c->again : c->line, NULL, 0, NULL, NULL);
  ck_assert_msg (code == 0, "%s; again: exit code %d, %s", when, code, kd_err);
  check_output (c, TRUE, when);
  g_free (left);
  left = kd_fault_partials (kd_folder);
  ck_assert_msg (!*left, "%s: %s is left", when, left);
  return hit != NULL;
}

static const Case *chosen;

GST_START_TEST (test_every_call)
{
  static const gchar *const hows[] = { "EIO", "kill", "full", "short" };
  guint n_faults = 0;

  make_inputs (chosen);
  kd_fault_serve (g_str_equal (chosen->name, "checkpoint") ? "engine/torch/libkdenginetorch.so" : NULL);
  for (guint i = 0; i < G_N_ELEMENTS (hows); i++) {
    guint nth = 1;
    while (one_fault (chosen, hows[i], nth, "any"))
      nth++;
    n_faults += nth - 1;
  }
  g_print ("%s: %u faults\n", chosen->name, n_faults);
  ck_assert_uint_gt (n_faults, 20);
}
GST_END_TEST;

static void
teardown (void)
{
  g_chdir ("/");
  kd_command_teardown ();
}

static Suite *
writes_suite (void)
{
  Suite *s = suite_create (KD_TEST_NAME);
  TCase *t = tcase_create ("writes");

  tcase_set_timeout (t, 580);
  tcase_add_checked_fixture (t, NULL, teardown);
  tcase_add_test (t, test_every_call);
  suite_add_tcase (s, t);
  return s;
}

int
main (int argc, char **argv)
{
  guint i = 0;

  while (argc == 2 && i < G_N_ELEMENTS (cases) && !g_str_equal (cases[i].name, argv[1]))
    i++;
  if (argc != 2 || i == G_N_ELEMENTS (cases)) {
    g_printerr ("usage: %s CASE, one of:", argv[0]);
    for (i = 0; i < G_N_ELEMENTS (cases); i++)
      g_printerr (" %s", cases[i].name);
    g_printerr ("\n");
    return 2;
  }
  chosen = &cases[i];
  argc = 1;
  gst_check_init (&argc, &argv);
  return gst_check_run_suite (writes_suite (), KD_TEST_NAME, __FILE__);
}
