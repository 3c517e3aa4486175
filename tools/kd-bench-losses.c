/* Every loss on logits, as its element runs it, beside c = a + b on the same arrays and the same formula in PyTorch. */
#include "kd-bench.h"
#include <glib/gstdio.h>
#include <kd/kd.h>
#include <math.h>
#include <omp.h>
#include <string.h>

/* Of this many logits the gradient is compared with the formula in float64. */
#define COMPARED (1 << 18)
/* Ids of the sparse teacher, at most half of all. */
#define TOP 64

/* @n_tables: of logits that it must read or write once, the gradient included. */
typedef struct {
  const gchar *name, *element, *properties;
  guint n_tables;
} Loss;

static const Loss losses[] = {
  { "fkl", "kddivergence", "divergence=fkl teacher-form=logits", 3 },
  { "rkl", "kddivergence", "divergence=rkl teacher-form=logits", 3 },
  { "jsd", "kddivergence", "divergence=jsd beta=0.5 teacher-form=logits", 3 },
  { "skew-fkl", "kddivergence", "divergence=skew-fkl alpha=0.1 teacher-form=logits", 3 },
  { "tvd", "kddivergence", "divergence=tvd teacher-form=logits", 3 },
  { "topk", "kddivergence", "divergence=fkl teacher-form=topk", 2 }, /* the TOP largest ids of the teacher and the rest as one */
  { "ce", "kdce", "", 2 },
  { "hinton", "kdhinton", "", 3 },
  { "dkd", "kddkd", "ce-weight=0 warmup-epochs=0", 3 },
  { "pld", "kdpld", "", 3 },
  { "sinkhorn", "kdsinkhorn", "scale=1 max-points=128", 3 }, /* of the first 128 rows */
};

typedef struct {
  const KdBenchOptions *options;
  const gchar *folder;
  gint64 n, size;
  GstBuffer *buffer;
  KdBatch *batch;
  gboolean ran[G_N_ELEMENTS (losses)];
  gdouble value[G_N_ELEMENTS (losses)], seconds[G_N_ELEMENTS (losses)], add[G_N_ELEMENTS (losses)], extra_mb[G_N_ELEMENTS (losses)];
  gdouble copy; /* bytes a second */
} Bench;

static void
bench_clear (Bench *bench)
{
  g_clear_pointer (&bench->buffer, gst_buffer_unref);
}
G_DEFINE_AUTO_CLEANUP_CLEAR_FUNC (Bench, bench_clear)

static gdouble
seconds_since (gint64 start)
{
  return MAX ((gdouble) (g_get_monotonic_time () - start) / G_USEC_PER_SEC, 1e-6);
}

static void
add_arrays (const gfloat *a, const gfloat *b, gfloat *c, gint64 n)
{
#pragma omp parallel for simd schedule(static)
  for (gint64 i = 0; i < n; i++)
    c[i] = a[i] + b[i];
}

static void
copy_array (const gfloat *a, gfloat *c, gint64 n)
{
#pragma omp parallel
  {
    gint64 share = (n + omp_get_num_threads () - 1) / omp_get_num_threads (), from = MIN (share * omp_get_thread_num (), n);
    memcpy (c + from, a + from, (gsize) MIN (share, n - from) * sizeof *c);
  }
}

static gboolean
bench_save (const Bench *bench, const gchar *name, gconstpointer data, gsize bytes, GError **error)
{
  g_autofree gchar *path = g_build_filename (bench->folder, name, NULL);

  return g_file_set_contents (path, data, (gssize) bytes, error);
}

/* The teacher's largest ids and their log-probabilities, as a cache holds them. */
static void
bench_fill_topk (Bench *bench, const KdTensor *teacher)
{
  gint64 k = MIN (TOP, bench->size / 2), dims[] = { bench->n, k };
  KdTensor *ids = kd_tensor_new (KD_INT64, 2, dims), *logprobs = kd_tensor_new (KD_FLOAT32, 2, dims);
  g_autofree gdouble *lse = g_new (gdouble, bench->n);
  const gfloat *x = teacher->data;

  kd_topk_rows (&(KdTopk) { .n = bench->n, .size = bench->size, .k = k, .values = x, .type = KD_REAL_F32, .ids = ids->data });
  kd_softmax_rows (&(KdSoftmax) { .n = bench->n, .size = bench->size, .logits = x, .type = KD_REAL_F32, .temperature = 1, .lse = lse });
  for (gint64 i = 0; i < bench->n * k; i++)
    ((gfloat *) logprobs->data)[i] = (gfloat) (x[i / k * bench->size + ((gint64 *) ids->data)[i]] - lse[i / k]);
  kd_batch_set (bench->batch, "teacher.topk.ids", ids);
  kd_batch_set (bench->batch, "teacher.topk.logprobs", logprobs);
}

/* Logits as a model has them: normal, a student that has learned half of its teacher. */
static gboolean
bench_fill (Bench *bench, GError **error)
{
  gint64 dims[] = { bench->n, bench->size };
  KdTensor *s = kd_tensor_new (KD_FLOAT32, 2, dims), *t = kd_tensor_new (KD_FLOAT32, 2, dims), *label = kd_tensor_new (KD_INT64, 1, dims);
  gfloat *student = s->data, *teacher = t->data;

#pragma omp parallel for schedule(static)
  for (gint64 r = 0; r < bench->n; r++) {
    KdRandom random;
    kd_random_init (&random, 1, kd_random_purpose ("kd-bench-losses"), 0, (uint64_t) r);
    for (gint64 i = r * bench->size; i < (r + 1) * bench->size; i++) {
      teacher[i] = (gfloat) (2 * kd_random_normal (&random));
      student[i] = 0.5f * teacher[i] + (gfloat) kd_random_normal (&random);
    }
    ((gint64 *) label->data)[r] = (gint64) kd_random_below (&random, (guint64) bench->size);
  }
  bench->buffer = kd_batch_buffer_new (bench->n, &bench->batch);
  kd_batch_set (bench->batch, "student.logits", s);
  kd_batch_set (bench->batch, "teacher.logits", t);
  kd_batch_set (bench->batch, "label", label);
  bench_fill_topk (bench, t);
  return bench_save (bench, "student.f32", s->data, s->n_bytes, error) && bench_save (bench, "teacher.f32", t->data, t->n_bytes, error) &&
      bench_save (bench, "label.i64", label->data, label->n_bytes, error);
}

typedef struct {
  const KdLossDesc *desc;
  gpointer params;
  KdRunOptions options;
} Leaf;

static void
leaf_clear (Leaf *leaf)
{
  if (leaf->params)
    kd_params_clear (leaf->desc->params, leaf->params);
  g_free (leaf->params);
}
G_DEFINE_AUTO_CLEANUP_CLEAR_FUNC (Leaf, leaf_clear)

static gboolean
leaf_open (Leaf *leaf, const Loss *loss, GError **error)
{
  g_autoptr (GstElementFactory) factory = gst_element_factory_find (loss->element);
  g_auto (GStrv) pairs = g_strsplit (loss->properties, " ", -1);
  const gchar *kind;

  leaf->desc = factory ? (const KdLossDesc *) kd_element_factory_desc (factory, &kind) : NULL;
  if (!leaf->desc) {
    g_set_error (error, KD_ERROR, KD_ERROR_UNSUPPORTED, "No such element: element=%s; is GST_PLUGIN_PATH_1_0 set for this build?", loss->element);
    return FALSE;
  }
  leaf->params = g_malloc0 (MAX (leaf->desc->params_size, 1));
  kd_params_init (leaf->desc->params, leaf->params);
  for (guint i = 0; pairs[i] && *pairs[i]; i++) {
    gchar *value = strchr (pairs[i], '=');
    const KdParam *param;

    *value++ = '\0';
    param = kd_param_find (leaf->desc->params, pairs[i]);
    g_return_val_if_fail (param, FALSE);
    if (!kd_param_set_string (param, leaf->params, value, loss->element, error))
      return FALSE;
  }
  kd_run_options_init (&leaf->options);
  return TRUE;
}

/* The gradient of the run before goes back to the pool, so that each run has memory that was touched. */
static gboolean
leaf_run (const Leaf *leaf, Bench *bench, gdouble *ret_seconds, GError **error)
{
  gint64 start;
  gboolean ok;

  kd_batch_remove (bench->batch, "grad.student.logits");
  kd_batch_remove (bench->batch, "loss");
  start = g_get_monotonic_time ();
  ok = kd_loss_desc_run (leaf->desc, leaf->params, &leaf->options, NULL, bench->batch, error);
  *ret_seconds = seconds_since (start);
  return ok;
}

static gboolean
bench_loss (Bench *bench, guint l, GError **error)
{
  guint repeats = (guint) bench->options->repeats;
  g_autofree gdouble *seconds = g_new (gdouble, repeats), *add = g_new (gdouble, repeats), *copy = g_new (gdouble, repeats);
  g_autofree gchar *file = g_strconcat (losses[l].name, ".grad.f32", NULL);
  gint64 total = bench->n * bench->size, rows = CLAMP (COMPARED / bench->size, 1, bench->n);
  const gfloat *s = kd_batch_peek (bench->batch, "student.logits")->data, *t = kd_batch_peek (bench->batch, "teacher.logits")->data;
  g_auto (Leaf) leaf = { NULL };
  KdBenchMemory *memory;
  KdTensor *grad;
  gdouble warm;
  gboolean ok;

  if (!leaf_open (&leaf, &losses[l], error) || !leaf_run (&leaf, bench, &warm, error))
    return FALSE;
  grad = kd_batch_peek (bench->batch, "grad.student.logits");
  if (!bench_save (bench, file, grad->data, (gsize) (rows * bench->size) * sizeof (gfloat), error))
    return FALSE;
  bench->value[l] = kd_tensor_get_double (kd_batch_peek (bench->batch, "loss"), 0);
  for (guint r = 0; r < repeats; r++) { /* by turns: a slow moment hits all */
    gint64 start = g_get_monotonic_time ();

    grad = kd_batch_peek (bench->batch, "grad.student.logits");
    add_arrays (s, t, grad->data, total);
    add[r] = seconds_since (start);
    start = g_get_monotonic_time ();
    copy_array (s, grad->data, total);
    copy[r] = (gdouble) total * 8 / seconds_since (start);
    if (!leaf_run (&leaf, bench, &seconds[r], error))
      return FALSE;
  }
  bench->seconds[l] = kd_bench_median (seconds, repeats);
  bench->add[l] = (gdouble) total * 12 / kd_bench_median (add, repeats);
  bench->copy = kd_bench_median (copy, repeats);
  memory = kd_bench_memory_start ();
  ok = leaf_run (&leaf, bench, &warm, error);
  bench->extra_mb[l] = kd_bench_memory_stop (memory) / 1e6;
  return ok;
}

/* Whether PyTorch's loss is the same: of float32 sums in another order, so 1e-5. FALSE with an error when not. */
static gboolean
bench_agrees (const Bench *bench, guint l, JsonObject *peer, GError **error)
{
  gdouble value = json_object_get_double_member (peer, "value"), distance = json_object_get_double_member (peer, "distance");

  if (fabs (value - bench->value[l]) <= 1e-5 * MAX (fabs (value), 1e-3) && distance <= 1e-5)
    return TRUE;
  g_set_error (error, KD_ERROR, KD_ERROR_MISMATCH, "PyTorch disagrees: loss=%s, size=%" G_GINT64_FORMAT ", value=%.9g, torch=%.9g, gradient distance=%.2g, wanted=1e-5 at most",
      losses[l].name, bench->size, bench->value[l], value, distance);
  return FALSE;
}

static gboolean
bench_print (const Bench *bench, JsonObject *peer, GError **error)
{
  for (guint l = 0; l < G_N_ELEMENTS (losses); l++) {
    JsonObject *torch = peer && bench->ran[l] ? json_object_get_object_member (peer, losses[l].name) : NULL;
    gdouble speed;

    if (!bench->ran[l] || (torch && !bench_agrees (bench, l, torch, error))) {
      if (bench->ran[l])
        return FALSE;
      continue;
    }
    speed = (gdouble) (bench->n * bench->size) * 4 * losses[l].n_tables / bench->seconds[l];
    g_print ("%7" G_GINT64_FORMAT " %8" G_GINT64_FORMAT "  %-9s %9.2f %7.1f %8.2f %8.2f %9.1f", bench->size, bench->n, losses[l].name, bench->seconds[l] * 1e3,
        speed / 1e9, speed / bench->copy, speed / bench->add[l], bench->extra_mb[l]);
    if (torch)
      g_print (" %11.1f %7.1f", json_object_get_double_member (torch, "seconds") * 1e3, json_object_get_double_member (torch, "seconds") / bench->seconds[l]);
    if (torch && json_object_has_member (torch, "compiled"))
      g_print (" %7.1f", json_object_get_double_member (torch, "compiled") / bench->seconds[l]);
    g_print ("\n");
  }
  return TRUE;
}

/* (transfer full) what PyTorch needs for the same, NULL without it. */
static JsonObject *
bench_peer (const Bench *bench)
{
  g_autofree gchar *n = g_strdup_printf ("%" G_GINT64_FORMAT, bench->n), *size = g_strdup_printf ("%" G_GINT64_FORMAT, bench->size);
  g_autofree gchar *threads = g_strdup_printf ("%d", bench->options->threads), *repeats = g_strdup_printf ("%d", bench->options->repeats);
  const gchar *args[6 + G_N_ELEMENTS (losses)] = { bench->folder, n, size, threads, repeats };
  g_autoptr (GError) missing = NULL;
  JsonObject *peer;
  guint n_args = 5;

  for (guint l = 0; l < G_N_ELEMENTS (losses); l++)
    if (bench->ran[l])
      args[n_args++] = losses[l].name;
  peer = kd_bench_python ("losses_torch.py", args, &missing);
  if (!peer)
    g_printerr ("no peer: %s\n", missing->message);
  return peer;
}

static gboolean
bench_asked (const KdBenchOptions *options, const gchar *name)
{
  g_auto (GStrv) names = g_strsplit (options->losses ? options->losses : "", ",", -1);

  return !options->losses || g_strv_contains ((const gchar *const *) names, name);
}

static gboolean
bench_size (const KdBenchOptions *options, gint64 size, const gchar *folder, GError **error)
{
  g_auto (Bench) bench = { .options = options, .folder = folder, .n = MAX (options->elements / size, 1), .size = size };
  g_autoptr (JsonObject) peer = NULL;

  if (!bench_fill (&bench, error))
    return FALSE;
  for (guint l = 0; l < G_N_ELEMENTS (losses); l++) {
    bench.ran[l] = bench_asked (options, losses[l].name);
    if (bench.ran[l] && !bench_loss (&bench, l, error))
      return FALSE;
  }
  peer = bench_peer (&bench);
  return bench_print (&bench, peer, error);
}

/* (transfer full) sizes [*ret_n], or NULL with a message. */
static gint64 *
bench_sizes (const KdBenchOptions *options, guint *ret_n)
{
  g_auto (GStrv) words = g_strsplit (options->sizes ? options->sizes : "10,1000,32000,128256", ",", -1);
  g_autofree gint64 *sizes = g_new (gint64, g_strv_length (words) + 1);
  g_auto (GStrv) asked = g_strsplit (options->losses ? options->losses : "fkl", ",", -1);

  *ret_n = g_strv_length (words);
  for (guint i = 0; i < *ret_n; i++)
    if (!g_ascii_string_to_signed (words[i], 10, 2, 1 << 24, &sizes[i], NULL)) {
      kd_tool_usage ("--sizes takes numbers from 2 to 16777216 with commas between, not '%s'", words[i]);
      return NULL;
    }
  for (guint i = 0; asked[i]; i++) {
    const gchar *names[G_N_ELEMENTS (losses) + 1] = { NULL }, *near;

    for (guint l = 0; l < G_N_ELEMENTS (losses); l++)
      names[l] = losses[l].name;
    near = g_strv_contains (names, asked[i]) ? NULL : kd_tool_closest (asked[i], names);
    if (!g_strv_contains (names, asked[i])) {
      g_autofree gchar *all = g_strjoinv (", ", (gchar **) names);

      kd_tool_usage ("there is no loss '%s' to measure; %s%s%s", asked[i], near ? "did you mean '" : "there are ", near ? near : all, near ? "'?" : "");
      return NULL;
    }
  }
  return g_steal_pointer (&sizes);
}

int
kd_bench_losses (const KdBenchOptions *options)
{
  static const gchar *const levels[] = { "", "x86-64", "x86-64-v2 (SSE4.2)", "x86-64-v3 (AVX2)", "x86-64-v4 (AVX-512)" };
  g_autoptr (GError) error = NULL;
  g_autofree gchar *folder = NULL;
  guint n;
  g_autofree gint64 *sizes = bench_sizes (options, &n);
  gboolean ok = TRUE;

  if (!sizes)
    return KD_EXIT_USAGE;
  folder = g_dir_make_tmp ("kd-bench-XXXXXX", &error);
  if (!folder)
    return kd_tool_fail ("%s", error->message);
  omp_set_num_threads (options->threads);
  g_print ("value and gradient of float32 logits; %s, %d thread%s, median of %d; GB/s of the tables read and written once;\n"
           "of copy, of a+b: that speed over a copy's and over c = a + b's on the same arrays; extra MB: beside inputs and gradient;\n"
           "faster: than PyTorch eager, then compiled where there is PyTorch 2\n\n"
           "%7s %8s  %-9s %9s %7s %8s %8s %9s %11s %7s\n",
      levels[kd_cpu_level ()], options->threads, options->threads > 1 ? "s" : "", options->repeats, "size", "rows", "loss", "ms", "GB/s", "of copy",
      "of a+b", "extra MB", "PyTorch ms", "faster");
  for (guint i = 0; ok && i < n; i++)
    ok = bench_size (options, sizes[i], folder, &error);
  if (!ok)
    kd_tool_fail ("%s", error->message);
  kd_tool_remove (folder);
  return ok ? KD_EXIT_DONE : KD_EXIT_FAILED;
}
