/* Batches made from a descriptor's field table alone, and the list of leaves that this build registers. */
#pragma once
#include "kd-leaf.h"

/* What cannot be guessed from a table: properties that have no default. */
static const gchar *const extra_properties[][2] = { { "kdmixup", "classes=4" }, { "kdprivacyscore", "rule=field" }, { "kdlogittopk", "k=2" }, { "kdlogitpack", "d=1000 k=2 exact-k=1" }, { "kdlogitunpack", "d=16 k=2 exact-k=1" }, { "kdtaid", "total-steps=10" }, { "kdadakd", "ratio-fixed=0.5" }, { "kdlengate", "h-min=1" }, { "kdbild", "top-k=2" }, { "kdlelp", "subclasses=3" }, { "kdlogitmerge", "subclasses=3" } };

/* Sizes that follow from those properties. */
static const struct {
  const gchar *element;
  gchar letter;
  gint64 size;
} fixed_sizes[] = { { "kdlogitunpack", 'B', 1 }, { "kdlogitunpack", 'L', 16 } };

typedef struct {
  KdRandom random;
  gint64 n, leading, letter[26], trailing[2];
  guint n_leading, n_trailing; /* axes of '*' beside N, and of "..." */
  guint optional;              /* bit i: the field i is there when it may be missing */
  gboolean weights;            /* losses: mask, token.weight and sample.weight too, NaN in what the mask hides */
} Shape;

/* "key=value", one property more than the defaults, for all leaves opened from here on; or NULL. */
static const gchar *variant;

static inline const gchar *
leaf_extra (const gchar *element)
{
  if (variant)
    return variant;
  for (guint i = 0; i < G_N_ELEMENTS (extra_properties); i++)
    if (g_str_equal (extra_properties[i][0], element))
      return extra_properties[i][1];
  return "";
}

/* The other values of enumerations and booleans, one at a time; the first is NULL, the defaults. */
static inline GPtrArray *
list_variants (const gchar *element)
{
  GPtrArray *variants = g_ptr_array_new_with_free_func (g_free);
  g_auto (Leaf) leaf = { 0 };

  variant = NULL;
  leaf_open (&leaf, element, leaf_extra (element), 1);
  g_ptr_array_add (variants, NULL);
  for (const KdParam *param = leaf.desc->params; param && param->type != KD_PARAM_TYPE_END; param++) {
    if (param->type == KD_PARAM_TYPE_BOOL)
      g_ptr_array_add (variants, g_strdup_printf ("%s %s=%s", leaf_extra (element), param->member, param->idef ? "false" : "true"));
    for (const KdEnumValue *value = param->values; param->type == KD_PARAM_TYPE_ENUM && value->nick; value++)
      if (value->value != param->idef)
        g_ptr_array_add (variants, g_strdup_printf ("%s %s=%s", leaf_extra (element), param->member, value->nick));
  }
  return variants;
}

static inline gboolean
is_in_this_build (GstPluginFeature *feature)
{
  g_autoptr (GstPlugin) plugin = gst_plugin_feature_get_plugin (feature);
  const gchar *file = plugin ? gst_plugin_get_filename (plugin) : NULL;

  return file && g_str_has_prefix (file, g_getenv ("KD_BUILD_ROOT"));
}

/* Names of the registered elements of this build; @leaves: only those with a descriptor that runs through a door. */
static inline GPtrArray *
list_elements (gboolean leaves)
{
  GPtrArray *names = g_ptr_array_new_with_free_func (g_free);
  GList *features = gst_registry_get_feature_list (gst_registry_get (), GST_TYPE_ELEMENT_FACTORY);

  for (GList *l = features; l; l = l->next) {
    const KdDesc *desc = is_in_this_build (l->data) ? kd_element_factory_desc (l->data, NULL) : NULL;
    if (!is_in_this_build (l->data))
      continue;
    if (leaves && (!desc || !g_type_is_a (gst_element_factory_get_element_type (l->data), g_type_from_name ("KdLeafElement"))))
      continue;
    g_ptr_array_add (names, g_strdup (gst_plugin_feature_get_name (l->data)));
  }
  gst_plugin_feature_list_free (features);
  ck_assert_uint_gt (names->len, 0);
  return names;
}

static inline void
shape_init (Shape *shape, guint64 seed)
{
  *shape = (Shape) { 0 };
  kd_random_init (&shape->random, seed, 77, 0, 0);
  shape->n = 1 + (gint64) kd_random_below (&shape->random, 5);
  shape->n_leading = (guint) kd_random_below (&shape->random, 2);
  shape->leading = 1 + (gint64) kd_random_below (&shape->random, 4);
  shape->n_trailing = (guint) kd_random_below (&shape->random, 3);
  shape->trailing[0] = 1 + (gint64) kd_random_below (&shape->random, 3);
  shape->trailing[1] = 1 + (gint64) kd_random_below (&shape->random, 3);
  for (guint i = 0; i < 26; i++)
    shape->letter[i] = 2 + (gint64) kd_random_below (&shape->random, 7);
  shape->letter['M' - 'A'] = 3 * shape->letter['C' - 'A']; /* outputs of a model with three subclasses a class */
  shape->letter['S' - 'A'] = 9 * shape->letter['C' - 'A']; /* what kdtgeo's controller reads */
  shape->optional = kd_random_u32 (&shape->random);
  shape->weights = kd_random_below (&shape->random, 2);
}

/* "{prop}" of a name or a size -> its value. */
static inline gchar *
substituted (const Leaf *leaf, const gchar *text)
{
  GString *out = g_string_new (NULL);

  while (*text) {
    const gchar *end = *text == '{' ? strchr (text, '}') : NULL;
    if (!end) {
      g_string_append_c (out, *text++);
      continue;
    }
    g_autofree gchar *name = g_strndup (text + 1, (gsize) (end - text - 1));
    g_autofree gchar *value = kd_param_to_string (kd_param_find (leaf->desc->params, name), leaf->params);
    g_string_append (out, value);
    text = end + 1;
  }
  return g_string_free (out, FALSE);
}

static inline guint
field_dims (const Leaf *leaf, const KdFieldSpec *spec, const Shape *shape, gint64 *dims)
{
  g_autofree gchar *text = substituted (leaf, spec->shape);
  g_auto (GStrv) words = g_strsplit (text, " ", -1);
  guint rank = 0;

  for (guint i = 0; words[i]; i++) {
    if (g_str_equal (words[i], "*") || g_str_equal (words[i], "N"))
      dims[rank++] = shape->n;
    if (g_str_equal (words[i], "*") && shape->n_leading)
      dims[rank++] = shape->leading;
    if (g_str_equal (words[i], "...") && ((spec->flags & KD_FIELD_LABEL) || g_str_has_prefix (spec->name, "token."))) { /* these are one a row */
      if (shape->n_leading)
        dims[rank++] = shape->leading;
      continue;
    }
    for (guint j = 0; g_str_equal (words[i], "...") && j < shape->n_trailing; j++)
      dims[rank++] = shape->trailing[j];
    if (g_ascii_isdigit (words[i][0]))
      dims[rank++] = g_ascii_strtoll (words[i], NULL, 10);
    else if (g_ascii_isupper (words[i][0]) && words[i][0] != 'N')
      dims[rank++] = shape->letter[words[i][0] - 'A'];
  }
  return rank;
}

/* A number that a field of this name and kind may hold. */
static inline gdouble
field_value (const KdFieldSpec *spec, const gchar *name, KdDtype dtype, gint64 i, Shape *shape)
{
  if (g_str_equal (name, "sample.id"))
    return (gdouble) (1000 + i);
  if (spec->flags & KD_FIELD_LABEL)
    return kd_random_below (&shape->random, 5) == 0 ? -100 : (gdouble) kd_random_below (&shape->random, (guint64) shape->letter['C' - 'A']);
  if (g_str_has_suffix (name, "mask"))
    return (gdouble) kd_random_below (&shape->random, 2);
  if (dtype & (KD_ANY_INT | KD_BOOL))
    return (gdouble) kd_random_below (&shape->random, dtype == KD_BOOL ? 2 : (guint64) MIN (shape->n, 2));
  if (g_str_has_suffix (name, ".temperature"))
    return 0.5 + 2 * kd_random_uniform (&shape->random);
  if (g_str_has_suffix (name, "weight") || g_str_has_suffix (name, ".weights") || g_str_has_suffix (name, "lambda") || g_str_has_suffix (name, ".soft") || g_str_has_suffix (name, ".probs") || g_str_has_suffix (name, "class_mean"))
    return 0.05 + kd_random_uniform (&shape->random);
  if (g_str_has_suffix (name, "attention") || g_str_has_suffix (name, "privacy") || g_str_has_suffix (name, ".score"))
    return kd_random_uniform (&shape->random);
  return 1.5 * kd_random_normal (&shape->random);
}

static inline KdDtype
pick_dtype (guint set, KdRandom *random)
{
  guint i;

  do
    i = (guint) kd_random_below (random, 9);
  while (!(set & (1u << i)));
  return (KdDtype) (1u << i);
}

/* Ids of a row are different and in the vocabulary, the rest of the row is padding. */
static inline void
ids_fill (gdouble *value, gint64 n, gint64 row, Shape *shape)
{
  gint64 n_ids = shape->letter['V' - 'A'];

  for (gint64 r = 0; row && r < n / row; r++) {
    KdPermutation order;
    kd_permutation_init (&order, (guint64) n_ids, kd_random_u32 (&shape->random), 0);
    for (gint64 i = 0; i < row; i++)
      value[r * row + i] = i < n_ids ? (gdouble) kd_permutation_at (&order, (guint64) i) : -1;
  }
}

/* Log-probabilities that leave something for others. */
static inline void
logprobs_fill (gdouble *value, gint64 n, gint64 row)
{
  for (gint64 r = 0; r < n; r += row) {
    gdouble sum = 0;
    for (gint64 i = r; i < r + row; i++)
      sum += exp (value[i]);
    for (gint64 i = r; i < r + row; i++)
      value[i] += log (0.8 / sum);
  }
}

/* Short texts of letters and spaces. */
static inline void
put_texts (Leaf *leaf, const gchar *name, Shape *shape)
{
  g_autofree gint64 *offsets = g_new0 (gint64, shape->n + 1);
  g_autoptr (GString) bytes = g_string_new (NULL);

  for (gint64 i = 0; i < shape->n; i++) {
    for (guint64 n = kd_random_below (&shape->random, 12); n > 0; n--)
      g_string_append_c (bytes, "ab Z\n"[kd_random_below (&shape->random, 5)]);
    offsets[i + 1] = (gint64) bytes->len;
  }
  kd_batch_set (leaf->batch, name, kd_tensor_new_utf8 (shape->n, offsets, bytes->str));
}

static inline void
put_generated (Leaf *leaf, const KdFieldSpec *spec, const gchar *name, Shape *shape)
{
  gint64 dims[KD_MAX_RANK] = { 0 };
  guint rank = field_dims (leaf, spec, shape, dims);
  g_autoptr (KdTensor) wide = kd_tensor_new (KD_FLOAT64, rank, dims);
  KdDtype dtype = spec->flags & KD_FIELD_GRAD ? KD_FLOAT32 : pick_dtype (spec->dtype, &shape->random);
  gdouble *value = wide->data;
  gint64 n = (gint64) kd_tensor_n_elements (wide), row = rank ? dims[rank - 1] : 1;
  g_autoptr (GError) error = NULL;

  for (gint64 i = 0; i < n; i++)
    value[i] = field_value (spec, name, dtype, i, shape);
  if (g_str_has_suffix (name, ".ids"))
    ids_fill (value, n, row, shape);
  if (g_str_has_suffix (name, ".logprobs"))
    logprobs_fill (value, n, row);
  if (g_str_has_suffix (name, ".soft") || g_str_has_suffix (name, ".probs") || g_str_has_suffix (name, ".weights") || g_str_has_suffix (name, "class_mean")) /* rows are distributions */
    for (gint64 r = 0; r < n; r += row) {
      gdouble sum = 0;
      for (gint64 i = r; i < r + row; i++)
        sum += value[i];
      for (gint64 i = r; i < r + row; i++)
        value[i] /= sum;
    }
  if (g_str_has_suffix (name, "lambda"))
    for (gint64 i = 0; i < n; i++)
      value[i] = MIN (value[i], 1);
  kd_batch_set (leaf->batch, name, kd_tensor_cast (wide, dtype, &error));
  kd_assert_no_error (error);
}

/* mask and weights over the rows; what the mask hides becomes NaN and must not matter. */
static inline void
put_weights (Leaf *leaf, Shape *shape)
{
  const KdFieldSpec specs[] = { { "mask", KD_UINT8 | KD_FLOAT32 | KD_INT64, "*" }, { "token.weight", KD_FLOAT32, "*" },
    { "sample.weight", KD_FLOAT32, "N" } };
  gboolean by_token = FALSE;
  KdTensor *mask;

  for (const KdFieldSpec *spec = leaf->desc->fields; spec->name; spec++)
    by_token = by_token || spec->shape[0] == '*';
  for (guint i = 0; i < G_N_ELEMENTS (specs); i++)
    if (by_token || specs[i].shape[0] == 'N')
      put_generated (leaf, &specs[i], specs[i].name, shape);
  mask = kd_batch_peek (leaf->batch, "mask");
  for (const KdFieldSpec *spec = leaf->desc->fields; mask && spec->name; spec++) {
    g_autofree gchar *name = substituted (leaf, spec->name);
    KdTensor *tensor = kd_batch_peek (leaf->batch, name);
    gsize rows = kd_tensor_n_elements (mask), width;
    if (!tensor || tensor->dtype != KD_FLOAT32 || spec->shape[0] != '*')
      continue;
    width = kd_tensor_n_elements (tensor) / rows;
    for (gsize i = 0; i < rows * width; i++)
      if (kd_tensor_get_double (mask, i / width) == 0)
        ((gfloat *) tensor->data)[i] = NAN;
  }
}

/* Of a shape that says nothing ("..."), a field has its samples all the same. */
static inline gboolean
is_table (const KdFieldSpec *spec)
{
  return (spec->flags & KD_FIELD_TABLE) && !g_str_equal (spec->shape, "...");
}

/* What kdribbon reads: shapes that depend on the values of another field. The last response is the longest. */
static inline void
put_ribbon (Leaf *leaf, Shape *shape)
{
  gint64 n = shape->n, length = 2 + shape->leading, k = 4;
  const gint64 input_dims[] = { n, length }, branch_dims[] = { n, length - 1, k };
  KdTensor *input = kd_tensor_new (KD_INT64, 2, input_dims), *start = kd_tensor_new (KD_INT64, 1, &n), *branch = kd_tensor_new (KD_INT64, 3, branch_dims);

  for (gint64 i = 0; i < n; i++)
    ((gint64 *) start->data)[i] = i < n - 1 ? 2 + (gint64) kd_random_below (&shape->random, (guint64) length - 1) : 1;
  for (gint64 i = 0; i < n * length; i++)
    ((gint64 *) input->data)[i] = (gint64) kd_random_below (&shape->random, 50);
  for (gint64 i = 0; i < n * (length - 1) * k; i++)
    ((gint64 *) branch->data)[i] = (gint64) kd_random_below (&shape->random, 50);
  kd_batch_set (leaf->batch, "input", input);
  kd_batch_set (leaf->batch, "response.start", start);
  kd_batch_set (leaf->batch, "branch.tokens", branch);
}

static gboolean generate_plain; /* no mask and no weights */

/* Fills a new batch of @leaf with what its table asks for. */
static inline void
generate (Leaf *leaf, Shape *shape)
{
  for (guint i = 0; i < G_N_ELEMENTS (fixed_sizes); i++)
    if (g_str_equal (leaf->desc->name, fixed_sizes[i].element))
      shape->letter[fixed_sizes[i].letter - 'A'] = fixed_sizes[i].size;
  leaf_batch (leaf, shape->n);
  for (guint i = 0; leaf->desc->fields[i].name; i++) {
    const KdFieldSpec *spec = &leaf->desc->fields[i];
    g_autofree gchar *name = substituted (leaf, spec->name);
    if ((spec->flags & KD_FIELD_OPTIONAL) && !(shape->optional >> i & 1))
      continue;
    if (spec->dtype == KD_UTF8)
      put_texts (leaf, name, shape);
    else
      put_generated (leaf, spec, name, shape);
  }
  if (g_str_equal (leaf->desc->name, "kdribbon"))
    put_ribbon (leaf, shape);
  if (g_str_equal (leaf->kind, "loss") && shape->weights && !generate_plain)
    put_weights (leaf, shape);
  if (!kd_batch_peek (leaf->batch, "sample.id")) {
    const KdFieldSpec id = { "sample.id", KD_INT64, "N" };
    put_generated (leaf, &id, id.name, shape);
  }
}

/* Which of the optional fields go together is the leaf's to say: other choices are tried until it takes one. Leaves the batch as it was
 * before the run. The same @seed makes the same batch. */
static inline void
generate_accepted (Leaf *leaf, const gchar *element, guint64 seed)
{
  g_autoptr (GError) error = NULL;

  for (guint attempt = 0; attempt < 1024; attempt++) {
    Shape shape;
    leaf_clear (leaf);
    leaf_open (leaf, element, leaf_extra (element), 1);
    shape_init (&shape, seed);
    shape.optional = attempt == 0 ? shape.optional : kd_random_u32 (&shape.random) ^ attempt * 2654435761u;
    Shape again = shape;
    generate (leaf, &shape);
    g_clear_error (&error);
    if (leaf_run (leaf, &error)) {
      leaf_clear (leaf);
      leaf_open (leaf, element, leaf_extra (element), 1);
      generate (leaf, &again);
      return;
    }
    if (!g_error_matches (error, KD_ERROR, KD_ERROR_FIELD))
      break;
  }
  ck_abort_msg ("%s takes none of the batches made from its table: %s", element, error->message);
}

/* A deep copy of the batch's tensors into a new batch of @to (same element). */
static inline void
copy_batch (const Leaf *from, Leaf *to)
{
  leaf_batch (to, from->batch->n_samples);
  for (guint i = 0; i < kd_batch_n_fields (from->batch); i++) {
    const KdBatchField *field = kd_batch_nth (from->batch, i);
    const KdTensor *tensor = field->tensor;
    KdTensor *copy;
    if (tensor->dtype == KD_UTF8) {
      kd_batch_set (to->batch, field->name, kd_tensor_new_utf8 (tensor->dims[0], tensor->offsets, tensor->data));
      continue;
    }
    copy = kd_tensor_new (tensor->dtype, tensor->rank, tensor->dims);
    memcpy (copy->data, tensor->data, copy->n_bytes);
    kd_batch_set (to->batch, field->name, copy);
  }
}
