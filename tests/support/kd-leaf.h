/* A leaf (loss, transform, augment, selector) run through its door, without a graph: for the tests of elements. */
#pragma once
#include "kd-check.h"

typedef struct {
  const KdDesc *desc;
  const gchar *kind;
  gpointer params, state;
  KdRunOptions options;
  GstBuffer *buffer;
  KdBatch *batch;
} Leaf;

static inline void
leaf_clear (Leaf *leaf)
{
  g_clear_pointer (&leaf->buffer, gst_buffer_unref);
  if (leaf->state && leaf->desc->state_clear)
    leaf->desc->state_clear (leaf->state);
  if (leaf->params)
    kd_params_clear (leaf->desc->params, leaf->params);
  g_clear_pointer (&leaf->params, g_free);
  g_clear_pointer (&leaf->state, g_free);
}
G_DEFINE_AUTO_CLEANUP_CLEAR_FUNC (Leaf, leaf_clear)

/* A new batch of @n samples; the state stays. */
static inline void
leaf_batch (Leaf *leaf, gint64 n)
{
  g_clear_pointer (&leaf->buffer, gst_buffer_unref);
  leaf->buffer = kd_batch_buffer_new (n, &leaf->batch);
}

/* @properties: "key=value key=value", the leaf's own only; set leaf->options for the base's. */
static inline void
leaf_open (Leaf *leaf, const gchar *element, const gchar *properties, gint64 n)
{
  g_autoptr (GstElementFactory) factory = gst_element_factory_find (element);
  g_auto (GStrv) pairs = g_strsplit (properties, " ", -1);
  g_autoptr (GError) error = NULL;

  leaf_clear (leaf);
  ck_assert_msg (factory != NULL, "no element %s", element);
  leaf->desc = kd_element_factory_desc (factory, &leaf->kind);
  ck_assert (leaf->desc != NULL);
  leaf->params = g_malloc0 (MAX (leaf->desc->params_size, 1));
  kd_params_init (leaf->desc->params, leaf->params);
  for (guint i = 0; pairs[i]; i++) {
    gchar *equals = strchr (pairs[i], '=');
    const KdParam *param;
    if (!equals)
      continue;
    *equals = '\0';
    param = kd_param_find (leaf->desc->params, pairs[i]);
    ck_assert_msg (param != NULL, "%s has no %s", element, pairs[i]);
    ck_assert (kd_param_set_string (param, leaf->params, equals + 1, element, &error));
  }
  leaf->state = leaf->desc->state_size ? g_malloc0 (leaf->desc->state_size) : NULL;
  if (leaf->state && leaf->desc->state_init)
    leaf->desc->state_init (leaf->params, leaf->state);
  ck_assert (!leaf->desc->state_open || leaf->desc->state_open (leaf->params, leaf->state, &error));
  kd_run_options_init (&leaf->options);
  if (g_str_equal (leaf->kind, "loss") && ((const KdLossDesc *) leaf->desc)->default_weight != 0)
    leaf->options.weight = ((const KdLossDesc *) leaf->desc)->default_weight;
  leaf_batch (leaf, n);
}

static inline gboolean
leaf_run (Leaf *leaf, GError **error)
{
  if (g_str_equal (leaf->kind, "loss"))
    return kd_loss_desc_run ((const KdLossDesc *) leaf->desc, leaf->params, &leaf->options, leaf->state, leaf->batch, error);
  if (g_str_equal (leaf->kind, "transform"))
    return kd_transform_desc_run ((const KdTransformDesc *) leaf->desc, leaf->params, &leaf->options, leaf->state, leaf->batch, error);
  if (g_str_equal (leaf->kind, "augment"))
    return kd_augment_desc_run ((const KdAugmentDesc *) leaf->desc, leaf->params, &leaf->options, leaf->state, leaf->batch, error);
  return kd_selector_desc_run ((const KdSelectorDesc *) leaf->desc, leaf->params, &leaf->options, leaf->state, leaf->batch, error);
}

static inline void
leaf_run_ok (Leaf *leaf)
{
  g_autoptr (GError) error = NULL;
  gboolean ok = leaf_run (leaf, &error);

  kd_assert_no_error (error);
  ck_assert (ok);
}

/* The end of the stream: results go into the batch. */
static inline gboolean
leaf_conclude (Leaf *leaf, GError **error)
{
  return kd_transform_desc_conclude ((const KdTransformDesc *) leaf->desc, leaf->params, leaf->state, leaf->batch, error);
}

static inline void
leaf_conclude_ok (Leaf *leaf)
{
  g_autoptr (GError) error = NULL;
  gboolean ok = leaf_conclude (leaf, &error);

  kd_assert_no_error (error);
  ck_assert (ok);
}

#define leaf_refuses(leaf, ecode, part)          \
  G_STMT_START                                   \
  {                                              \
    GError *leaf_error = NULL;                   \
    ck_assert (!leaf_run ((leaf), &leaf_error)); \
    kd_assert_error (leaf_error, ecode, part);   \
  }                                              \
  G_STMT_END

/* leaf_put (&leaf, "student.logits", KD_FLOAT32, 2, 3, 1.0, 2.0 ...): a field [2,3] from doubles; @columns 0 for [rows]. */
static inline void
leaf_put_values (Leaf *leaf, const gchar *name, KdDtype dtype, gint64 rows, gint64 columns, const gdouble *values)
{
  gint64 dims[2] = { rows, columns };
  g_autoptr (KdTensor) wide = kd_tensor_new (KD_FLOAT64, columns ? 2 : 1, dims);
  g_autoptr (GError) error = NULL;

  memcpy (wide->data, values, wide->n_bytes);
  kd_batch_set (leaf->batch, name, kd_tensor_cast (wide, dtype, &error));
  kd_assert_no_error (error);
}
#define leaf_put(leaf, name, dtype, rows, columns, ...) \
  leaf_put_values (leaf, name, dtype, rows, columns, (const gdouble[]) { __VA_ARGS__ })

/* leaf_put4 (&leaf, name, n, k, h, w, values ...): a float32 field [n,k,h,w]. */
static inline void
leaf_put4_values (Leaf *leaf, const gchar *name, gint64 n, gint64 k, gint64 h, gint64 w, const gdouble *values)
{
  gint64 dims[4] = { n, k, h, w };
  KdTensor *tensor = kd_tensor_new (KD_FLOAT32, 4, dims);

  for (gint64 i = 0; i < n * k * h * w; i++)
    ((gfloat *) tensor->data)[i] = (gfloat) values[i];
  kd_batch_set (leaf->batch, name, tensor);
}
#define leaf_put4(leaf, name, n, k, h, w, ...) leaf_put4_values (leaf, name, n, k, h, w, (const gdouble[]) { __VA_ARGS__ })

/* leaf_get: element @i of a field that has to be there. */
static inline gdouble
leaf_get (const Leaf *leaf, const gchar *name, gsize i)
{
  KdTensor *tensor = kd_batch_peek (leaf->batch, name);

  ck_assert_msg (tensor != NULL, "no field %s", name);
  ck_assert (i < MAX (kd_tensor_n_elements (tensor), 1));
  return kd_tensor_get_double (tensor, i);
}
#define leaf_expect(leaf, name, i, value) kd_assert_close (leaf_get ((leaf), (name), (i)), (value), 1e-5)

/* KD_TESTS (kdce, a, b, c): the suite of the test functions a, b, c (up to 8) and main. */
#define KD_ADD1(f) tcase_add_test (t, f);
#define KD_ADD2(f, ...) KD_ADD1 (f) KD_ADD1 (__VA_ARGS__)
#define KD_ADD3(f, ...) KD_ADD1 (f) KD_ADD2 (__VA_ARGS__)
#define KD_ADD4(f, ...) KD_ADD1 (f) KD_ADD3 (__VA_ARGS__)
#define KD_ADD5(f, ...) KD_ADD1 (f) KD_ADD4 (__VA_ARGS__)
#define KD_ADD6(f, ...) KD_ADD1 (f) KD_ADD5 (__VA_ARGS__)
#define KD_ADD7(f, ...) KD_ADD1 (f) KD_ADD6 (__VA_ARGS__)
#define KD_ADD8(f, ...) KD_ADD1 (f) KD_ADD7 (__VA_ARGS__)
#define KD_PICK(_1, _2, _3, _4, _5, _6, _7, _8, add, ...) add
#define KD_ADD(...)                                                                               \
  KD_PICK (__VA_ARGS__, KD_ADD8, KD_ADD7, KD_ADD6, KD_ADD5, KD_ADD4, KD_ADD3, KD_ADD2, KD_ADD1, ) \
  (__VA_ARGS__)
#define KD_TESTS(name, ...)          \
  static Suite *name##_suite (void)  \
  {                                  \
    Suite *s = suite_create (#name); \
    TCase *t = tcase_create ("all"); \
    suite_add_tcase (s, t);          \
    KD_ADD (__VA_ARGS__)             \
    return s;                        \
  }                                  \
  GST_CHECK_MAIN (name)
