/* kd inspect: what a pipeline can be made of; what one element wants, adds, computes and can be told. */
#include "kd-inspect.h"
#include <math.h>
#include <string.h>

/* Text of several lines under a heading. */
static void
kd_print_text (const gchar *title, const gchar *text)
{
  g_auto (GStrv) lines = text && *text ? g_strsplit (text, "\n", -1) : NULL;

  if (!lines)
    return;
  g_print ("\n%s\n", title);
  for (guint i = 0; lines[i]; i++)
    g_print ("  %s\n", lines[i]);
}

static void
kd_print_field (const KdFieldSpec *field, const gchar *note)
{
  g_autofree gchar *dtype = field->dtype ? kd_dtypes_to_string (field->dtype) : g_strdup ("as the first input");
  g_autofree gchar *shape = *field->shape ? g_strdup_printf ("[%s]", field->shape) : g_strdup ("scalar");

  g_print ("  %-26s %-12s %s%s%s\n", field->name, shape, (field->dtype & KD_ANY_NUMBER) == KD_ANY_NUMBER ? "any number" : dtype, *note ? "; " : "", note);
}

static void
kd_print_fields (const KdDesc *desc, const gchar *kind)
{
  static const gchar *const titles[] = { "Fields it needs", "Fields it uses when they are there" };
  const KdFieldSpec *outputs = NULL;

  for (guint optional = 0; optional < 2; optional++) {
    gboolean any = FALSE;

    for (const KdFieldSpec *f = desc->fields; f && f->name; f++) {
      if (!!(f->flags & KD_FIELD_OPTIONAL) != optional)
        continue;
      g_print ("%s%s", any ? "" : "\n", any ? "" : titles[optional]);
      g_print ("%s", any ? "" : "\n");
      any = TRUE;
      kd_print_field (f, f->flags & KD_FIELD_GRAD ? "gets a gradient" : f->flags & KD_FIELD_ONE_OF ? "one of these is needed"
              : f->flags & KD_FIELD_LABEL                                                          ? "class numbers"
                                                                                                   : "");
    }
  }
  if (g_strcmp0 (kind, "transform") == 0)
    outputs = ((const KdTransformDesc *) desc)->outputs;
  else if (g_strcmp0 (kind, "augment") == 0)
    outputs = ((const KdAugmentDesc *) desc)->outputs;
  else if (g_strcmp0 (kind, "loss") == 0)
    outputs = ((const KdLossDesc *) desc)->outputs;
  if (outputs && outputs->name)
    g_print ("\nFields it writes\n");
  for (; outputs && outputs->name; outputs++) {
    g_autofree gchar *note = outputs->when ? g_strdup_printf ("with %s=true", outputs->when) : g_strdup ("");
    kd_print_field (outputs, g_strdelimit (note, "_", '-'));
  }
}

/* What is gathered over the stream and written when it ends. */
static void
kd_print_results (const KdDesc *desc, const gchar *kind)
{
  const KdFieldSpec *results = g_strcmp0 (kind, "transform") == 0 ? ((const KdTransformDesc *) desc)->results : NULL;

  if (results)
    g_print ("\nDatasets it writes to its location at the end of the stream\n");
  for (; results && results->name; results++) {
    g_autofree gchar *note = results->when ? g_strdup_printf ("with %s=true", results->when) : g_strdup ("");
    kd_print_field (results, g_strdelimit (note, "_", '-'));
  }
}

/* What the base class adds for every element of a kind. */
static void
kd_print_added (const KdDesc *desc, const gchar *kind)
{
  if (g_strcmp0 (kind, "loss") == 0) {
    const KdLossDesc *loss = (const KdLossDesc *) desc;

    g_print ("\nFields it adds to\n  %-26s %-12s float64; the sum of all losses of the graph\n", "loss", "scalar");
    g_print ("  loss.%-21s %-12s float64; this loss alone\n", desc->name, "scalar");
    for (guint i = 0; loss->terms && loss->terms[i]; i++)
      g_print ("  loss.%-21s %-12s float64; a term of it\n", loss->terms[i], "scalar");
    for (const KdFieldSpec *f = desc->fields; f && f->name; f++)
      if (f->flags & KD_FIELD_GRAD) {
        g_autofree gchar *of = f->grad_of ? g_strdup_printf ("; of loss.%s", f->grad_of) : g_strdup ("");
        g_autofree gchar *when = f->when ? g_strdup_printf ("; with %s=true", f->when) : g_strdup ("");
        g_print ("  grad.%-21s [%s]%*s float32%s%s\n", f->name, f->shape, (int) MAX (0, 10 - (int) strlen (f->shape)), "", of,
            g_strdelimit (when, "_", '-'));
      }
  } else if (g_strcmp0 (kind, "selector") == 0)
    g_print ("\nFields it adds\n  %-26s %-12s float32; multiplied when it is there already\n", "sample.weight", "[N]");
  else if (g_strcmp0 (kind, "augment") == 0)
    g_print ("\nFields it adds\n  %-26s %-12s int64; tells a sample's views apart\n", "sample.view", "[N]");
  if (desc->provides && *desc->provides)
    kd_print_text ("Adds, by its properties", desc->provides);
}

gchar *
kd_inspect_value (const GValue *value)
{
  if (G_VALUE_HOLDS_STRING (value))
    return g_value_get_string (value) ? g_strdup_printf ("\"%s\"", g_value_get_string (value)) : g_strdup ("none");
  if (G_VALUE_HOLDS_DOUBLE (value))
    return g_strdup_printf ("%.6g", g_value_get_double (value));
  if (G_VALUE_HOLDS_ENUM (value)) {
    GEnumClass *klass = g_type_class_peek (G_VALUE_TYPE (value));
    GEnumValue *one = klass ? g_enum_get_value (klass, g_value_get_enum (value)) : NULL;

    return g_strdup (one ? one->value_nick : "?");
  }
  return gst_value_serialize (value);
}

static gchar *
kd_range_text (GParamSpec *spec)
{
  if (G_IS_PARAM_SPEC_DOUBLE (spec)) {
    GParamSpecDouble *d = G_PARAM_SPEC_DOUBLE (spec);

    return g_strdup_printf ("number, %.6g to %.6g", d->minimum, d->maximum);
  }
  if (G_IS_PARAM_SPEC_INT64 (spec)) {
    GParamSpecInt64 *i = G_PARAM_SPEC_INT64 (spec);

    if (i->minimum == G_MININT64 && i->maximum == G_MAXINT64)
      return g_strdup ("integer");
    if (i->maximum >= G_MAXINT32)
      return g_strdup_printf ("integer from %" G_GINT64_FORMAT, i->minimum);
    return g_strdup_printf ("integer, %" G_GINT64_FORMAT " to %" G_GINT64_FORMAT, i->minimum, i->maximum);
  }
  if (G_IS_PARAM_SPEC_UINT64 (spec) || G_IS_PARAM_SPEC_UINT (spec))
    return g_strdup ("integer from 0");
  if (G_IS_PARAM_SPEC_INT (spec)) {
    GParamSpecInt *i = G_PARAM_SPEC_INT (spec);

    return i->maximum == G_MAXINT ? g_strdup_printf ("integer from %d", i->minimum) : g_strdup_printf ("integer, %d to %d", i->minimum, i->maximum);
  }
  if (G_IS_PARAM_SPEC_BOOLEAN (spec))
    return g_strdup ("true or false");
  if (G_IS_PARAM_SPEC_ENUM (spec))
    return g_strdup ("one of these");
  if (G_IS_PARAM_SPEC_FLAGS (spec))
    return g_strdup ("any of these, with + between them");
  return g_strdup ("text");
}

static void
kd_print_property (GstElement *element, GParamSpec *spec)
{
  GValue value = G_VALUE_INIT;
  g_autofree gchar *range = kd_range_text (spec), *now = NULL, *usual = NULL;

  g_value_init (&value, spec->value_type);
  g_object_get_property (G_OBJECT (element), spec->name, &value);
  now = kd_inspect_value (&value);
  usual = kd_inspect_value (g_param_spec_get_default_value (spec));
  g_print ("  %-20s %s\n  %-20s %s; default %s", spec->name, g_param_spec_get_blurb (spec), "", range, usual);
  g_print (g_param_value_defaults (spec, &value) ? "\n" : ", now %s\n", now);
  if (G_IS_PARAM_SPEC_ENUM (spec)) {
    GEnumClass *klass = G_PARAM_SPEC_ENUM (spec)->enum_class;

    for (guint i = 0; i < klass->n_values; i++)
      g_print ("  %-20s   %-12s %s\n", "", klass->values[i].value_nick, klass->values[i].value_name);
  }
  if (G_IS_PARAM_SPEC_FLAGS (spec)) {
    GFlagsClass *klass = G_PARAM_SPEC_FLAGS (spec)->flags_class;

    for (guint i = 0; i < klass->n_values; i++)
      g_print ("  %-20s   %-12s %s\n", "", klass->values[i].value_nick, klass->values[i].value_name);
  }
  g_value_unset (&value);
}

static void
kd_print_properties (GstElement *element)
{
  guint n;
  g_autofree GParamSpec **specs = g_object_class_list_properties (G_OBJECT_GET_CLASS (element), &n);
  gboolean any = FALSE;

  for (guint i = 0; i < n; i++) {
    if (specs[i]->owner_type == GST_TYPE_OBJECT || !(specs[i]->flags & G_PARAM_READABLE) || g_type_is_a (specs[i]->value_type, G_TYPE_OBJECT) ||
        g_type_is_a (specs[i]->owner_type, GST_TYPE_ELEMENT) == FALSE)
      continue;
    if (!any)
      g_print ("\nProperties\n");
    any = TRUE;
    kd_print_property (element, specs[i]);
  }
}

/* The formula's parameters as they are now, where the formula does not name them. */
static void
kd_print_in_force (GstElement *element, const KdDesc *desc)
{
  gboolean any = FALSE;

  for (const KdParam *p = desc->params; desc->formula && p && p->type != KD_PARAM_TYPE_END; p++) {
    g_autofree gchar *name = kd_param_name (p), *text = NULL;
    GParamSpec *spec = g_object_class_find_property (G_OBJECT_GET_CLASS (element), name);
    GValue value = G_VALUE_INIT;

    if (!spec)
      continue;
    g_value_init (&value, spec->value_type);
    g_object_get_property (G_OBJECT (element), name, &value);
    text = kd_inspect_value (&value);
    g_print ("%s %s=%s", any ? "," : "  with", name, text);
    any = TRUE;
    g_value_unset (&value);
  }
  g_print (any ? "\n" : "");
}

/* What is computed, not what could be. */
static void
kd_print_formula (GstElement *element, const KdDesc *desc)
{
  g_autofree gchar *in_force = kd_inspect_formula (desc, element);

  if (in_force) {
    kd_print_text ("Formula in force", in_force);
    return;
  }
  kd_print_text ("Formula", desc->formula);
  kd_print_in_force (element, desc);
}

static void
kd_print_example (const gchar *name, const gchar *kind)
{
  g_print ("\nExample\n");
  if (g_strcmp0 (kind, "loss") == 0)
    g_print ("  kd launch 'kdh5src location=train.h5 ! kdcache location=teacher.h5 ! kdstudent arch=\"mlp dims=64,16,10\" ! %s ! kdtrain'\n", name);
  else if (g_strcmp0 (kind, "source") == 0)
    g_print ("  kd launch '%s location=train.h5 epochs=1 ! kdh5sink location=out.h5'\n", name);
  else if (g_strcmp0 (kind, "sink") == 0)
    g_print ("  kd launch 'kdh5src location=train.h5 ! %s location=out.h5'\n", name);
  else if (g_strcmp0 (kind, "model") == 0)
    g_print ("  kd launch 'kdh5src location=train.h5 ! %s ! kdh5sink location=out.h5'\n", name);
  else
    g_print ("  kd launch 'kdh5src location=train.h5 ! %s ! kdh5sink location=out.h5'\n", name);
}

static gboolean
kd_set_pairs (GstElement *element, char **pairs)
{
  for (; *pairs; pairs++) {
    const gchar *equals = strchr (*pairs, '=');
    g_autofree gchar *name = equals ? g_strndup (*pairs, (gsize) (equals - *pairs)) : g_strdup (*pairs);
    GParamSpec *spec = g_object_class_find_property (G_OBJECT_GET_CLASS (element), name);
    GValue value = G_VALUE_INIT;
    gboolean fits;

    if (!equals || !spec) {
      kd_tool_usage (equals ? "%s has no property '%s'" : "after %s come properties as NAME=VALUE, not '%s'",
          GST_OBJECT_NAME (gst_element_get_factory (element)), name);
      return FALSE;
    }
    g_value_init (&value, spec->value_type);
    fits = G_VALUE_HOLDS_STRING (&value) || (gst_value_deserialize (&value, equals + 1) && !g_param_value_validate (spec, &value));
    g_value_unset (&value);
    if (!fits) {
      g_autofree gchar *range = kd_range_text (spec);

      kd_tool_usage ("%s cannot be '%s'; it takes: %s", name, equals + 1, range);
      return FALSE;
    }
    gst_util_set_object_arg (G_OBJECT (element), name, equals + 1);
  }
  return TRUE;
}

static int
kd_inspect_element (GstElementFactory *factory, char **pairs)
{
  const gchar *kind = NULL, *name = GST_OBJECT_NAME (factory);
  const KdDesc *desc = kd_element_factory_desc (factory, &kind);
  g_autoptr (GstElement) element = gst_element_factory_create (factory, NULL);

  if (!element)
    return kd_tool_fail ("%s cannot be made; GST_DEBUG=3 kd inspect %s says why", name, name);
  gst_object_ref_sink (element);
  if (!kd_set_pairs (element, pairs))
    return KD_EXIT_USAGE;
  g_print ("%s: %s\n  %s\n", name, gst_element_factory_get_metadata (factory, GST_ELEMENT_METADATA_LONGNAME),
      gst_element_factory_get_metadata (factory, GST_ELEMENT_METADATA_DESCRIPTION));
  if (desc) {
    g_print ("\nKind\n  %s\n", kind);
    kd_print_formula (element, desc);
    kd_print_text ("Units", desc->units);
    kd_print_text ("Source", desc->source);
    kd_print_fields (desc, kind);
    kd_print_results (desc, kind);
    kd_print_added (desc, kind);
  }
  kd_print_properties (element);
  kd_print_example (name, kind);
  return KD_EXIT_DONE;
}

static int
kd_inspect_architecture (const KdArchDesc *desc)
{
  g_autofree gpointer block = g_malloc0 (MAX (desc->params_size, 1));

  g_print ("%s: architecture\n  %s\n", desc->name, desc->description);
  kd_print_text ("Source", desc->source);
  g_print ("\nKeys\n");
  kd_params_init (desc->params, block);
  for (const KdParam *p = desc->params; p && p->type != KD_PARAM_TYPE_END; p++) {
    g_autofree gchar *name = kd_param_name (p), *usual = kd_param_to_string (p, block);

    g_print ("  %-20s %s; default %s\n", name, p->blurb, usual && *usual ? usual : "none");
  }
  kd_params_clear (desc->params, block);
  g_print ("\nExample\n  kd launch 'kdh5src location=train.h5 ! kdstudent arch=\"%s\" ! kdce ! kdtrain'\n", desc->name);
  return KD_EXIT_DONE;
}

static int
kd_inspect_unknown (const gchar *word)
{
  GList *factories = kd_inspect_factories ();
  g_auto (GStrv) architectures = kd_arch_names ();
  g_autoptr (GPtrArray) names = g_ptr_array_new ();
  const gchar *near;

  for (GList *l = factories; l; l = l->next)
    g_ptr_array_add (names, GST_OBJECT_NAME (l->data));
  for (guint i = 0; architectures && architectures[i]; i++)
    g_ptr_array_add (names, architectures[i]);
  g_ptr_array_add (names, NULL);
  near = kd_tool_closest (word, (const gchar *const *) names->pdata);
  if (near)
    kd_tool_fail ("there is no element or architecture '%s'; did you mean '%s'?", word, near);
  else
    kd_tool_fail ("there is no element or architecture '%s'; kd inspect lists them", word);
  g_list_free_full (factories, gst_object_unref);
  return KD_EXIT_FAILED;
}

int
kd_tool_inspect (int argc, char **argv)
{
  static gboolean names;
  static const GOptionEntry entries[] = {
    { "names", 0, 0, G_OPTION_ARG_NONE, &names, "Print the elements' names only", NULL },
    { NULL }
  };
  g_autoptr (GstElementFactory) factory = NULL;
  const KdArchDesc *architecture;

  if (!kd_tool_options (&argc, &argv, entries, "[NAME [PROPERTY=VALUE...]]",
          "List the elements, architectures and engines; with a NAME show one: the fields it needs and adds,\n"
          "its formula, and its properties as they are after PROPERTY=VALUE.",
          "Examples:\n  kd inspect\n  kd inspect kddivergence temperature=2\n"))
    return KD_EXIT_USAGE;
  kd_tool_init ();
  if (argc < 2)
    return kd_inspect_all (names);
  factory = gst_element_factory_find (argv[1]);
  if (factory)
    return kd_inspect_element (factory, argv + 2);
  architecture = kd_arch_find (argv[1], NULL);
  if (architecture && argc > 2)
    return kd_tool_usage ("an architecture takes no PROPERTY=VALUE here");
  return architecture ? kd_inspect_architecture (architecture) : kd_inspect_unknown (argv[1]);
}
