/* Every registered leaf through its door: order of samples, same bits twice, and wrong input of all kinds. */
#include "generate.h"

#define SEEDS 8

typedef void (*Check) (const gchar *element, guint64 seed);

static void
for_all (Check check)
{
  g_autoptr (GPtrArray) names = list_elements (TRUE);

  for (guint i = 0; i < names->len; i++)
    for (guint64 seed = 0; seed < SEEDS; seed++)
      check (g_ptr_array_index (names, i), seed);
}

static void
assert_near (const gchar *element, const gchar *field, const KdTensor *a, const KdTensor *b)
{
  ck_assert_msg (a && b && a->dtype == b->dtype && kd_tensor_n_elements (a) == kd_tensor_n_elements (b), "%s: %s", element, field);
  for (gsize i = 0, n = a->dtype == KD_UTF8 ? 0 : kd_tensor_n_elements (a); i < n; i++) {
    gdouble x = kd_tensor_get_double (a, i), y = kd_tensor_get_double (b, i);
    ck_assert_msg ((isnan (x) && isnan (y)) || fabs (x - y) <= 1e-6 * (1 + fabs (x)), "%s: %s[%u]: %.9g and %.9g", element, field, (guint) i, x, y);
  }
}

/* Samples in another order: the same loss, and everything of a sample moves with it. Mixing augmentations are about order: left out. */
static void
check_permutation (const gchar *element, guint64 seed)
{
  g_auto (Leaf) leaf = { 0 }, moved = { 0 };
  KdPermutation permutation;
  gint64 rows[8];

  generate_accepted (&leaf, element, seed);
  if (g_str_equal (leaf.kind, "augment"))
    return;
  leaf_open (&moved, element, leaf_extra (element), 1);
  copy_batch (&leaf, &moved);
  kd_permutation_init (&permutation, (guint64) leaf.batch->n_samples, seed, 5);
  for (gint64 i = 0; i < leaf.batch->n_samples; i++)
    rows[i] = (gint64) kd_permutation_at (&permutation, (guint64) i);
  kd_batch_take_rows (moved.batch, rows, leaf.batch->n_samples);
  for (const KdFieldSpec *spec = leaf.desc->fields; spec->name; spec++) /* tables have no samples to move */
    if (is_table (spec) && kd_batch_peek (leaf.batch, spec->name))
      kd_batch_set (moved.batch, spec->name, kd_tensor_ref (kd_batch_peek (leaf.batch, spec->name)));
  leaf_run_ok (&leaf);
  leaf_run_ok (&moved);
  for (const KdFieldSpec *spec = leaf.desc->fields; spec->name; spec++)
    if (is_table (spec))
      kd_batch_remove (leaf.batch, spec->name);
  kd_batch_take_rows (leaf.batch, rows, leaf.batch->n_samples);
  for (guint i = 0; i < kd_batch_n_fields (leaf.batch); i++) {
    const KdBatchField *field = kd_batch_nth (leaf.batch, i);
    assert_near (element, field->name, field->tensor, kd_batch_peek (moved.batch, field->name));
  }
}

GST_START_TEST (test_permutation)
{
  for_all (check_permutation);
}
GST_END_TEST

static void
check_same_twice (const gchar *element, guint64 seed)
{
  g_auto (Leaf) a = { 0 }, b = { 0 };

  generate_accepted (&a, element, seed);
  generate_accepted (&b, element, seed);
  leaf_run_ok (&a);
  leaf_run_ok (&b);
  ck_assert_uint_eq (kd_batch_n_fields (a.batch), kd_batch_n_fields (b.batch));
  for (guint i = 0; i < kd_batch_n_fields (a.batch); i++) {
    const KdBatchField *field = kd_batch_nth (a.batch, i);
    ck_assert_msg (kd_tensor_equal (field->tensor, kd_batch_peek (b.batch, field->name)), "%s: %s differs", element, field->name);
  }
}

GST_START_TEST (test_same_bits_twice)
{
  for_all (check_same_twice);
}
GST_END_TEST

/* Whatever is refused is refused with @code, names the field, and leaves no loss behind. */
static void
expect_refusal (Leaf *leaf, const gchar *element, const gchar *field, KdError code, const gchar *what)
{
  g_autoptr (GError) error = NULL;

  ck_assert_msg (!leaf_run (leaf, &error), "%s takes %s with %s", element, field, what);
  ck_assert_msg (g_error_matches (error, KD_ERROR, code), "%s, %s with %s: code %d, \"%s\"", element, field, what, error->code, error->message);
  ck_assert_msg (strstr (error->message, field) && strstr (error->message, element), "%s, %s with %s: \"%s\"", element, field, what,
      error->message);
  ck_assert_msg (!kd_batch_peek (leaf->batch, "loss") || !g_str_equal (leaf->kind, "loss"), "%s leaves a loss", element);
}

static void
check_fields (const gchar *element, guint64 seed)
{
  g_auto (Leaf) first = { 0 };

  generate_accepted (&first, element, seed);
  for (const KdFieldSpec *spec = first.desc->fields; spec->name; spec++) {
    g_autofree gchar *name = substituted (&first, spec->name);
    g_auto (Leaf) type = { 0 }, shape = { 0 }, missing = { 0 };
    const gint64 offsets[2] = { 0, 0 };
    gint64 dims[KD_MAX_RANK + 1] = { 0 };
    KdTensor *tensor = kd_batch_peek (first.batch, name);
    guint rank;
    if (!tensor)
      continue;
    generate_accepted (&type, element, seed);
    kd_batch_set (type.batch, name, spec->dtype & KD_UTF8 ? kd_tensor_new_zero (KD_FLOAT32, tensor->rank, tensor->dims) : kd_tensor_new_utf8 (1, offsets, ""));
    expect_refusal (&type, element, name, KD_ERROR_DTYPE, "another type");
    generate_accepted (&shape, element, seed);
    memcpy (dims, tensor->dims, sizeof tensor->dims);
    rank = spec->flags & KD_FIELD_TABLE ? tensor->rank + 1 : MAX (tensor->rank, 1); /* a table alone may have any size, but no other axes */
    dims[tensor->rank] = 1;
    dims[0] = tensor->rank ? dims[0] + 1 : 1;
    kd_batch_set (shape.batch, name, kd_tensor_new_zero (tensor->dtype, rank, dims));
    expect_refusal (&shape, element, name, KD_ERROR_SHAPE, "another shape");
    if (spec->flags & KD_FIELD_OPTIONAL)
      continue;
    generate_accepted (&missing, element, seed);
    kd_batch_remove (missing.batch, name);
    expect_refusal (&missing, element, name, KD_ERROR_FIELD, "nothing there");
  }
}

GST_START_TEST (test_wrong_fields)
{
  for_all (check_fields);
}
GST_END_TEST

/* A NaN on a row that counts: losses say so, and drop leaves the row out. */
static void
check_nan (const gchar *element, guint64 seed)
{
  g_auto (Leaf) first = { 0 };

  generate_plain = TRUE;
  generate_accepted (&first, element, seed);
  for (const KdFieldSpec *spec = first.desc->fields; spec->name && g_str_equal (first.kind, "loss"); spec++) {
    g_autofree gchar *name = substituted (&first, spec->name);
    KdTensor *tensor = kd_batch_peek (first.batch, name);
    g_auto (Leaf) leaf = { 0 }, drop = { 0 };
    if (!tensor || !(tensor->dtype & KD_ANY_FLOAT) || !((spec->flags & (KD_FIELD_GRAD | KD_FIELD_FINITE)) || g_str_has_suffix (name, ".logits")))
      continue;
    generate_accepted (&leaf, element, seed);
    for (guint i = 0; i < kd_batch_n_fields (leaf.batch); i++) { /* whole fields of NaN: any row that counts will do */
      const KdBatchField *field = kd_batch_nth (leaf.batch, i);
      if (field->tensor->dtype == KD_INT64 && g_str_has_prefix (field->name, "label"))
        memset (field->tensor->data, 0, field->tensor->n_bytes);
      if (g_str_equal (field->name, name))
        memset (field->tensor->data, 0xff, field->tensor->n_bytes); /* NaN in every float type */
    }
    leaf_open (&drop, element, leaf_extra (element), 1);
    drop.options.nan_policy = KD_NAN_DROP;
    copy_batch (&leaf, &drop);
    expect_refusal (&leaf, element, name, KD_ERROR_VALUE, "NaN");
    leaf_run_ok (&drop);
    ck_assert (leaf_get (&drop, "loss", 0) == 0); /* no row is left */
  }
}

GST_START_TEST (test_nan)
{
  for_all (check_nan);
}
GST_END_TEST

/* What a loss learns about the run, it learns from training batches alone: the state that a checkpoint keeps stays as it is on others. */
static void
check_validation (const gchar *element, guint64 seed)
{
  g_auto (Leaf) leaf = { 0 };

  generate_accepted (&leaf, element, seed);
  if (!g_str_equal (leaf.kind, "loss") || !leaf.state)
    return;
  leaf.batch->flags |= KD_BATCH_VALIDATION;
  g_autofree gchar *before = g_memdup2 (leaf.state, leaf.desc->state_size);
  leaf_run_ok (&leaf);
  for (const KdStateField *field = leaf.desc->state_fields; field && field->name; field++)
    ck_assert_msg (memcmp (before + field->offset, (gchar *) leaf.state + field->offset, field->n * kd_dtype_size (field->dtype)) == 0,
        "%s: a validation batch changes %s", element, field->name);
}

GST_START_TEST (test_validation_keeps_state)
{
  for_all (check_validation);
}
GST_END_TEST

/* What kd inspect prints of a loss. */
GST_START_TEST (test_descriptions)
{
  g_autoptr (GPtrArray) names = list_elements (TRUE);

  for (guint i = 0; i < names->len; i++) {
    g_auto (Leaf) leaf = { 0 };
    const gchar *element = g_ptr_array_index (names, i);
    leaf_open (&leaf, element, leaf_extra (element), 1);
    ck_assert_msg (leaf.desc->source && leaf.desc->description, "%s: no source or description", element);
    ck_assert_msg (!g_str_equal (leaf.kind, "loss") || (leaf.desc->formula && leaf.desc->units), "%s: a loss without formula or units", element);
  }
}
GST_END_TEST

KD_TESTS (leaves, test_descriptions, test_permutation, test_same_bits_twice, test_wrong_fields, test_nan, test_validation_keeps_state)
