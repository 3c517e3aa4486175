/* Every registered loss: its gradient is the derivative of its value, on several shapes and seeds, with masks and weights. */
#include "frozen.h"

#define SEEDS 12
#define MAX_COORDINATES 120

/* The row of `frozen` for the element and its variant, -1 without one. */
static gint
find_frozen (const gchar *element)
{
  for (guint i = 0; i < G_N_ELEMENTS (frozen); i++)
    if (g_str_equal (frozen[i].element, element) && strstr (variant ? variant : "", frozen[i].variant))
      return (gint) i;
  return -1;
}

/* Whether nothing here says what the gradient on the batch is the derivative of. */
static gboolean
is_left_out (const gchar *element, const Leaf *leaf)
{
  gint row = find_frozen (element);

  return row >= 0 && (!frozen[row].value || (frozen[row].needs && !kd_batch_peek (leaf->batch, frozen[row].needs)));
}

/* What the gradient of @field is the derivative of: the loss, or the term that the field's row names. */
static gchar *
value_name (const Leaf *leaf, const gchar *field)
{
  for (const KdFieldSpec *spec = leaf->desc->fields; spec->name; spec++)
    if (spec->grad_of && g_str_equal (spec->name, field))
      return g_strconcat ("loss.", spec->grad_of, NULL);
  return g_strdup ("loss");
}

/* The loss on a copy of @leaf's batch with one number of @field moved; what it takes as constant as in @ran. */
static gdouble
loss_at (const Leaf *leaf, const Leaf *ran, const gchar *element, const gchar *field, gsize i, gdouble step)
{
  g_autofree gchar *value = value_name (leaf, field);
  gint constant = find_frozen (element);
  g_auto (Leaf) copy = { 0 };
  gfloat *data;

  leaf_open (&copy, element, leaf_extra (element), 1);
  copy.options = leaf->options;
  copy_batch (leaf, &copy);
  data = kd_batch_peek (copy.batch, field)->data;
  data[i] = (gfloat) (data[i] + step);
  if (constant >= 0)
    return frozen[constant].value (ran, &copy);
  leaf_run_ok (&copy);
  return leaf_get (&copy, value, 0);
}

/* Fourth-order central difference: float32 inputs moved by @h. */
static gdouble
difference (const Leaf *leaf, const Leaf *ran, const gchar *element, const gchar *field, gsize i, gdouble h)
{
  gdouble near = loss_at (leaf, ran, element, field, i, h) - loss_at (leaf, ran, element, field, i, -h);
  gdouble far = loss_at (leaf, ran, element, field, i, 2 * h) - loss_at (leaf, ran, element, field, i, -2 * h);

  return (8 * near - far) / (12 * h);
}

/* At a kink (an absolute value's zero within the step) the slope is any number between the slopes of both sides. */
static gboolean
is_between_slopes (const Leaf *leaf, const Leaf *ran, const gchar *element, const gchar *field, gsize i, gdouble got, gdouble h, gdouble tolerance)
{
  gdouble at = loss_at (leaf, ran, element, field, i, 0);
  gdouble left = (at - loss_at (leaf, ran, element, field, i, -h)) / h, right = (loss_at (leaf, ran, element, field, i, h) - at) / h;

  return got >= MIN (left, right) - tolerance && got <= MAX (left, right) + tolerance;
}

static void
check_field (const Leaf *leaf, const Leaf *ran, const gchar *element, const gchar *field, const KdTensor *grad, gdouble loss, guint64 seed)
{
  gsize n = kd_tensor_n_elements (grad), stride = 1 + (n - 1) / MAX_COORDINATES;
  gdouble largest = 0;

  for (gsize i = 0; i < n; i++)
    largest = MAX (largest, fabs (kd_tensor_get_double (grad, i)));
  for (gsize i = seed % stride; i < n; i += stride) {
    gdouble got = kd_tensor_get_double (grad, i), numeric = 0;
    gboolean agrees = FALSE;
    for (gdouble h = 1.0 / 64; !agrees && h > 1.0 / 512; h /= 4) { /* a second, smaller step where the loss bends much */
      numeric = difference (leaf, ran, element, field, i, h);
      /* the loss carries about 1e-7 of itself, which the step divides */
      agrees = fabs (numeric - got) <= 1e-3 * largest + 1e-6 / h * (1e-2 + fabs (loss));
    }
    agrees = agrees || is_between_slopes (leaf, ran, element, field, i, got, 1.0 / 256, 1e-3 * largest + 1e-4 * (1e-2 + fabs (loss)));
    ck_assert_msg (agrees, "%s %s, seed %u: grad.%s[%u] = %g, central difference %g", element, variant ? variant : "", (guint) seed, field,
        (guint) i, got, numeric);
  }
}

static gboolean
gradient_is_asked_for (const Leaf *leaf, const KdFieldSpec *spec)
{
  return !spec->when || G_STRUCT_MEMBER (gboolean, leaf->params, kd_param_find (leaf->desc->params, spec->when)->offset);
}

static guint
check_loss (const gchar *element, guint64 seed)
{
  g_auto (Leaf) leaf = { 0 }, ran = { 0 };
  guint n_checked = 0;

  generate_accepted (&leaf, element, seed);
  if (is_left_out (element, &leaf))
    return 1;
  leaf_open (&ran, element, leaf_extra (element), 1);
  leaf.options.reduction = ran.options.reduction = (gint) (seed % 4);
  copy_batch (&leaf, &ran);
  leaf_run_ok (&ran);
  for (const KdFieldSpec *spec = leaf.desc->fields; spec->name; spec++) {
    g_autofree gchar *name = substituted (&leaf, spec->name), *grad = g_strconcat ("grad.", name, NULL), *value = value_name (&leaf, name);
    if (!(spec->flags & KD_FIELD_GRAD) || !kd_batch_peek (leaf.batch, name))
      continue;
    ck_assert_msg (!kd_batch_peek (ran.batch, grad) == !gradient_is_asked_for (&leaf, spec), "%s %s: %s", element, variant ? variant : "", grad);
    if (kd_batch_peek (ran.batch, grad))
      check_field (&leaf, &ran, element, name, kd_batch_peek (ran.batch, grad), leaf_get (&ran, value, 0), seed);
    n_checked++;
  }
  return n_checked;
}

GST_START_TEST (test_central_differences)
{
  g_autoptr (GPtrArray) names = list_elements (TRUE);
  guint n_losses = 0;

  for (guint i = 0; i < names->len; i++) {
    g_auto (Leaf) leaf = { 0 };
    const gchar *element = g_ptr_array_index (names, i);
    leaf_open (&leaf, element, leaf_extra (element), 1);
    if (!g_str_equal (leaf.kind, "loss"))
      continue;
    g_autoptr (GPtrArray) variants = list_variants (element);
    n_losses++;
    for (guint j = 0; j < variants->len; j++)
      for (guint64 seed = 0; seed < SEEDS; seed++) {
        variant = g_ptr_array_index (variants, j);
        ck_assert_msg (check_loss (element, seed) > 0, "%s declares no gradient", element);
      }
    variant = NULL;
  }
  ck_assert_uint_gt (n_losses, 0);
}
GST_END_TEST

/* A second run adds to loss and gradient what the first gave. */
GST_START_TEST (test_losses_add_up)
{
  g_autoptr (GPtrArray) names = list_elements (TRUE);

  for (guint i = 0; i < names->len; i++) {
    g_auto (Leaf) leaf = { 0 };
    const gchar *element = g_ptr_array_index (names, i);
    gdouble once;
    generate_accepted (&leaf, element, 3);
    if (!g_str_equal (leaf.kind, "loss") || leaf.desc->state_size)
      continue;
    leaf_run_ok (&leaf);
    once = leaf_get (&leaf, "loss", 0);
    leaf_run_ok (&leaf);
    leaf_expect (&leaf, "loss", 0, 2 * once);
    leaf.options.accumulate = FALSE;
    leaf_run_ok (&leaf);
    leaf_expect (&leaf, "loss", 0, once);
    leaf.options.accumulate = TRUE;
    leaf_run_ok (&leaf);
    for (const KdFieldSpec *spec = leaf.desc->fields; spec->name; spec++) {
      g_autofree gchar *name = substituted (&leaf, spec->name), *field = g_strconcat ("grad.", name, NULL);
      g_auto (Leaf) alone = { 0 };
      if (!(spec->flags & KD_FIELD_GRAD))
        continue;
      generate_accepted (&alone, element, 3);
      leaf_run_ok (&alone);
      for (gsize j = 0; j < kd_tensor_n_elements (kd_batch_peek (leaf.batch, field)); j++)
        leaf_expect (&leaf, field, j, 2 * leaf_get (&alone, field, j));
    }
  }
}
GST_END_TEST

KD_TESTS (gradients, test_central_differences, test_losses_add_up)
