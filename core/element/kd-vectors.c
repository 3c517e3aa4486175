#include "../kd-json.h"
#include "kd-vectors-private.h"
#include "kd-leaf.h"

#include "../batch/kd-h5.h"

#include <math.h>
#include <string.h>

/* One case while it runs. */
typedef struct {
  KdVectorResult *result;
  const KdDesc *desc;
  const gchar *kind;
  gpointer params, state;
  KdRunOptions options;
  GString *unknown; /* properties that the element does not have */
  gdouble rtol, atol;
} Case;

void
kd_vector_result_free (KdVectorResult *result)
{
  if (!result)
    return;
  g_free (result->path);
  g_free (result->method);
  g_free (result->element);
  g_free (result->ran);
  g_free (result->worst);
  g_free (result->message);
  g_ptr_array_unref (result->fields);
  g_free (result);
}

static void
field_free (gpointer data)
{
  KdVectorField *field = data;

  g_free (field->name);
  g_free (field);
}

static void
case_clear (Case *c)
{
  if (c->params) {
    kd_desc_state_free (c->desc, c->state);
    kd_params_clear (c->desc->params, c->params);
    g_free (c->params);
  }
  if (c->unknown)
    g_string_free (c->unknown, TRUE);
}
G_DEFINE_AUTO_CLEANUP_CLEAR_FUNC (Case, case_clear)

static void
conclude (Case *c, KdVectorVerdict verdict, const gchar *message)
{
  c->result->verdict = verdict;
  if (message && *message && !c->result->message)
    c->result->message = g_strdup (message);
}

static const KdParam *
base_params (const gchar *kind)
{
  if (g_str_equal (kind, "loss"))
    return kd_loss_base_params;
  if (g_str_equal (kind, "augment"))
    return kd_augment_base_params;
  return g_str_equal (kind, "selector") ? kd_selector_base_params : NULL;
}

/* The leaf's parameter wins over the base's of the same name. A name nobody has is kept for the verdict. */
static gboolean
set_property (Case *c, const gchar *name, const gchar *value, GError **error)
{
  const KdParam *base = base_params (c->kind), *param = kd_param_find (c->desc->params, name);

  if (param)
    return kd_param_set_string (param, c->params, value, c->desc->name, error);
  param = base ? kd_param_find (base, name) : NULL;
  if (param)
    return kd_param_set_string (param, &c->options, value, c->desc->name, error);
  g_string_append_printf (c->unknown, "%s%s", c->unknown->len ? ", " : "", name);
  return TRUE;
}

static gboolean
set_properties (Case *c, const gchar *json, const gchar *extra, GError **error)
{
  g_autoptr (JsonParser) parser = json_parser_new ();
  g_auto (GStrv) pairs = g_strsplit (extra, " ", -1);
  const gchar *fault = kd_json_fault (json, strlen (json));
  JsonObject *object;
  JsonObjectIter iter;
  const gchar *name;
  JsonNode *node;

  if (fault) {
    g_set_error (error, KD_ERROR, KD_ERROR_FORMAT, "Not the JSON it should be: attribute=properties, reason=%s", fault);
    return FALSE;
  }
  if (!json_parser_load_from_data (parser, json, -1, error))
    return FALSE;
  if (!json_parser_get_root (parser) || !JSON_NODE_HOLDS_OBJECT (json_parser_get_root (parser))) {
    g_set_error (error, KD_ERROR, KD_ERROR_FORMAT, "Not a JSON object: properties=\"%s\"", json);
    return FALSE;
  }
  object = json_node_get_object (json_parser_get_root (parser));
  json_object_iter_init (&iter, object);
  while (json_object_iter_next (&iter, &name, &node)) {
    g_autofree gchar *value = kd_vector_json_text (node);
    if (!set_property (c, name, value ? value : "", error))
      return FALSE;
  }
  for (guint i = 0; pairs[i]; i++) {
    gchar *equals = strchr (pairs[i], '=');
    if (!equals)
      continue;
    *equals = '\0';
    if (!set_property (c, pairs[i], equals + 1, error))
      return FALSE;
  }
  return TRUE;
}

static gboolean
run_door (Case *c, KdBatch *batch, GError **error)
{
  if (g_str_equal (c->kind, "loss"))
    return kd_loss_desc_run ((const KdLossDesc *) c->desc, c->params, &c->options, c->state, batch, error);
  if (g_str_equal (c->kind, "transform"))
    return kd_transform_desc_run ((const KdTransformDesc *) c->desc, c->params, &c->options, c->state, batch, error);
  if (g_str_equal (c->kind, "augment"))
    return kd_augment_desc_run ((const KdAugmentDesc *) c->desc, c->params, &c->options, c->state, batch, error);
  return kd_selector_desc_run ((const KdSelectorDesc *) c->desc, c->params, &c->options, c->state, batch, error);
}

static gboolean
values_agree (gdouble got, gdouble expected, gdouble tolerance)
{
  if (isnan (expected) || isinf (expected))
    return isnan (expected) ? isnan (got) : got == expected;
  return fabs (got - expected) <= tolerance;
}

/* Compares and notes the field. */
static void
compare (Case *c, const gchar *name, const KdTensor *got, const KdTensor *expected)
{
  KdVectorField *field = g_new0 (KdVectorField, 1);
  gboolean exact = (expected->dtype & (KD_ANY_INT | KD_BOOL)) != 0;
  gdouble scale = 0, largest = 0;
  gsize n = kd_tensor_n_elements (expected);

  field->name = g_strdup (name);
  field->passed = TRUE;
  for (gsize i = 0; i < n; i++) {
    gdouble value = fabs (kd_tensor_get_double (expected, i));
    scale = isfinite (value) ? MAX (scale, value) : scale;
  }
  for (gsize i = 0; i < n; i++) {
    gdouble a = kd_tensor_get_double (got, i), b = kd_tensor_get_double (expected, i), d = fabs (a - b);
    gdouble tolerance = exact ? 0 : c->atol * scale + c->rtol * fabs (b);
    field->passed = field->passed && values_agree (a, b, tolerance);
    largest = isfinite (b) ? (isnan (d) ? INFINITY : MAX (largest, d)) : largest;
  }
  field->error = scale > 0 ? largest / scale : largest;
  g_ptr_array_add (c->result->fields, field);
  if (!c->result->worst || field->error > c->result->error) {
    c->result->error = field->error;
    g_free (c->result->worst);
    c->result->worst = g_strdup (name);
  }
  if (!field->passed) {
    g_autofree gchar *message = g_strdup_printf ("%s: error %.3g, allowed rtol=%g atol=%g", name, field->error, c->rtol, c->atol);
    conclude (c, KD_VECTOR_FAILED, message);
  }
}

/* A case may leave out the method's own prefix: "projector" of the method lelp is lelp.projector. */
static KdTensor *
find_result (const Case *c, const KdBatch *batch, const gchar *name)
{
  g_autofree gchar *prefixed = g_strconcat (c->result->method ? c->result->method : "", ".", name, NULL);
  KdTensor *tensor = kd_batch_peek (batch, name);

  return tensor ? tensor : kd_batch_peek (batch, prefixed);
}

static gboolean
compare_expected (Case *c, const gchar *prefix, KdH5Reader *expected, const KdBatch *batch, GError **error)
{
  const KdLayout *layout = kd_h5_reader_layout (expected);

  for (guint i = 0; i < kd_layout_n_fields (layout); i++) {
    const gchar *name = kd_layout_nth (layout, i)->name;
    g_autoptr (KdTensor) want = kd_h5_reader_read_all (expected, name, error);
    g_autofree gchar *label = g_strconcat (prefix, name, NULL), *message = NULL;
    KdTensor *got = find_result (c, batch, name);

    if (!want)
      return FALSE;
    if (g_str_has_prefix (name, "original.")) /* what a lossy coding was made of */
      continue;
    if (!got)
      message = g_strdup_printf ("%s: the element does not give this field", label);
    else if (got->rank != want->rank || memcmp (got->dims, want->dims, want->rank * sizeof want->dims[0])) {
      g_autofree gchar *a = kd_tensor_shape_string (got), *b = kd_tensor_shape_string (want);
      message = g_strdup_printf ("%s: shape %s, expected %s", label, a, b);
    } else if (want->dtype == KD_UTF8 || got->dtype == KD_UTF8) {
      if (!kd_tensor_equal (got, want))
        message = g_strdup_printf ("%s: text differs", label);
    } else {
      compare (c, label, got, want);
    }
    if (message)
      conclude (c, KD_VECTOR_FAILED, message);
  }
  return TRUE;
}

static gboolean
add_fields (KdH5Reader *reader, KdBatch *batch, GError **error)
{
  const KdLayout *layout = kd_h5_reader_layout (reader);

  for (guint i = 0; i < kd_layout_n_fields (layout); i++) {
    const gchar *name = kd_layout_nth (layout, i)->name;
    KdTensor *tensor = kd_h5_reader_read_all (reader, name, error);
    if (!tensor)
      return FALSE;
    kd_batch_set (batch, name, tensor);
  }
  return TRUE;
}

/* How many samples there are, where tables without samples' axis stand beside them: the first input that has such an axis says it. */
static gint64
count_samples (const Case *c, KdH5Reader *reader)
{
  gint64 n = kd_h5_reader_n_rows (reader);

  for (const KdFieldSpec *spec = c->desc->fields; n < 0 && spec && spec->name; spec++) {
    g_autoptr (KdTensor) tensor = NULL;
    if (*spec->shape != 'N' && *spec->shape != '*')
      continue;
    tensor = kd_layout_find (kd_h5_reader_layout (reader), spec->name) ? kd_h5_reader_read_all (reader, spec->name, NULL) : NULL;
    n = tensor && tensor->rank ? tensor->dims[0] : -1;
  }
  return MAX (n, 0);
}

/* One call of the element: the fields of the root and of @group, then what @group's (or the root's) "expected" holds; after the @last one also
 * what an element gives that gathers over the stream. */
static gboolean
run_step (Case *c, KdH5Reader *root, const gchar *group, guint64 index, gboolean last, GError **error)
{
  g_autofree gchar *prefix = group ? g_strconcat (group, "/", NULL) : g_strdup ("");
  g_autofree gchar *expected_name = g_strconcat (prefix, "expected", NULL);
  g_autoptr (KdH5Reader) step = group ? kd_h5_reader_open (kd_h5_reader_path (root), group, error) : NULL;
  g_autoptr (KdH5Reader) expected = NULL;
  g_autoptr (GstBuffer) buffer = NULL;
  g_autoptr (GError) refused = NULL;
  KdBatch *batch;

  if (group && !step)
    return FALSE;
  expected = kd_h5_reader_open (kd_h5_reader_path (root), expected_name, error);
  if (!expected)
    return FALSE;
  buffer = kd_batch_buffer_new (count_samples (c, step ? step : root), &batch);
  batch->index = index;
  if (!add_fields (root, batch, error) || (step && !add_fields (step, batch, error)))
    return FALSE;
  if (!run_door (c, batch, &refused) ||
      (last && g_str_equal (c->kind, "transform") && !kd_transform_desc_conclude ((const KdTransformDesc *) c->desc, c->params, c->state, batch, &refused))) {
    conclude (c, KD_VECTOR_FAILED, refused->message);
    return TRUE;
  }
  return compare_expected (c, prefix, expected, batch, error);
}

static gint
compare_steps (gconstpointer a, gconstpointer b)
{
  gint64 x = g_ascii_strtoll (*(const gchar *const *) a + 5, NULL, 10), y = g_ascii_strtoll (*(const gchar *const *) b + 5, NULL, 10);

  return (x > y) - (x < y);
}

static gboolean
run_steps (Case *c, KdH5Reader *root, GError **error)
{
  g_auto (GStrv) groups = kd_h5_reader_groups (root);
  g_autoptr (GPtrArray) steps = g_ptr_array_new ();

  for (guint i = 0; groups[i]; i++)
    if (g_str_has_prefix (groups[i], "step."))
      g_ptr_array_add (steps, groups[i]);
  if (steps->len == 0)
    return run_step (c, root, NULL, 0, TRUE, error);
  g_ptr_array_sort (steps, compare_steps);
  for (guint i = 0; i < steps->len && c->result->verdict == KD_VECTOR_PASSED; i++)
    if (!run_step (c, root, g_ptr_array_index (steps, i), i, i + 1 == steps->len, error))
      return FALSE;
  return TRUE;
}

/* Looks the element up, by its own name or through an alias. FALSE when the verdict is there already. */
static gboolean
find_element (Case *c, GHashTable *aliases, gchar **ret_extra)
{
  const gchar *name = c->result->element, *alias = aliases ? g_hash_table_lookup (aliases, name) : NULL;
  g_auto (GStrv) words = alias ? g_strsplit (alias, " ", 2) : NULL;
  g_autoptr (GstElementFactory) factory = gst_element_factory_find (words ? words[0] : name);
  g_autofree gchar *message = NULL;

  *ret_extra = g_strdup (words && words[1] ? words[1] : "");
  if (!factory) {
    conclude (c, KD_VECTOR_MISSING, "no such element");
    return FALSE;
  }
  c->desc = kd_element_factory_desc (factory, &c->kind);
  /* only leaves have the descriptor of their kind; other elements may share the word */
  if (!c->desc || !g_type_is_a (gst_element_factory_get_element_type (factory), KD_TYPE_LEAF_ELEMENT)) {
    message = g_strdup_printf ("elements of kind \"%s\" do not run without a graph", c->desc ? c->kind : "other");
    conclude (c, KD_VECTOR_UNSUPPORTED, message);
    return FALSE;
  }
  c->result->ran = g_strdup (c->desc->name);
  return TRUE;
}

static void
case_init (Case *c, KdH5Reader *root)
{
  c->params = g_malloc0 (MAX (c->desc->params_size, 1));
  kd_params_init (c->desc->params, c->params);
  kd_run_options_init (&c->options);
  if (g_str_equal (c->kind, "loss") && ((const KdLossDesc *) c->desc)->default_weight != 0)
    c->options.weight = ((const KdLossDesc *) c->desc)->default_weight;
  c->unknown = g_string_new (NULL);
  c->rtol = kd_h5_reader_attribute_double (root, "rtol", 1e-5);
  c->atol = kd_h5_reader_attribute_double (root, "atol", 1e-7);
}

/* A property that the element does not have is no failure of the element: it either made no difference, which is said, or the case asks
 * for something that this build cannot do. */
static void
weigh_unknown (Case *c)
{
  g_autofree gchar *message = NULL;

  if (c->unknown->len == 0)
    return;
  if (c->result->verdict == KD_VECTOR_PASSED) {
    message = g_strdup_printf ("without properties this build does not know: %s", c->unknown->str);
  } else {
    message = g_strdup_printf ("not supported by this build: properties %s", c->unknown->str);
    g_clear_pointer (&c->result->message, g_free);
    c->result->verdict = KD_VECTOR_UNSUPPORTED;
  }
  conclude (c, c->result->verdict, message);
}

KdVectorResult *
kd_vector_run (const gchar *path, GHashTable *aliases, GError **error)
{
  g_autoptr (KdVectorResult) result = g_new0 (KdVectorResult, 1);
  g_autoptr (KdH5Reader) root = kd_h5_reader_open (path, NULL, error);
  g_autofree gchar *extra = NULL;
  g_autoptr (GError) refused = NULL;
  g_auto (Case) c = { .result = result };
  const gchar *properties;

  result->path = g_strdup (path);
  result->fields = g_ptr_array_new_with_free_func (field_free);
  if (!root)
    return NULL;
  result->element = g_strdup (kd_h5_reader_attribute (root, "element"));
  result->method = g_strdup (kd_h5_reader_attribute (root, "method"));
  if (!result->element) {
    g_set_error (error, KD_ERROR, KD_ERROR_FORMAT, "Not a case of reference numbers: path=\"%s\", attribute=element is missing", path);
    return NULL;
  }
  if (!find_element (&c, aliases, &extra))
    return g_steal_pointer (&result);
  case_init (&c, root);
  properties = kd_h5_reader_attribute (root, "properties");
  if (!set_properties (&c, properties ? properties : "{}", extra, &refused)) {
    g_autofree gchar *message = g_strdup_printf ("not supported by this build: %s", refused->message);
    conclude (&c, KD_VECTOR_UNSUPPORTED, message);
    return g_steal_pointer (&result);
  }
  if (!kd_desc_state_open (c.desc, c.params, &c.state, &refused)) {
    conclude (&c, KD_VECTOR_FAILED, refused->message);
    return g_steal_pointer (&result);
  }
  if (!run_steps (&c, root, error))
    return NULL;
  weigh_unknown (&c);
  return g_steal_pointer (&result);
}
