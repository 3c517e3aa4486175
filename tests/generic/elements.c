/* Every registered element of this build as GStreamer sees it: states, properties; leaves also in a stream: flush and end of stream. */
#include "generate.h"
#include <gst/check/gstharness.h>

/* Up and down three times. An element that misses a property may refuse, but has to say so on the bus. */
static void
check_states (const gchar *name)
{
  g_autoptr (GstElement) element = gst_object_ref_sink (gst_element_factory_make (name, NULL));
  g_autoptr (GstBus) bus = gst_bus_new ();

  ck_assert_msg (element != NULL, "cannot make %s", name);
  gst_element_set_bus (element, bus);
  for (guint i = 0; i < 3; i++) {
    GstStateChangeReturn up = gst_element_set_state (element, GST_STATE_PAUSED);
    if (up == GST_STATE_CHANGE_FAILURE) {
      g_autoptr (GstMessage) message = gst_bus_pop_filtered (bus, GST_MESSAGE_ERROR);
      ck_assert_msg (message != NULL, "%s fails to start without a word", name);
    }
    ck_assert_msg (gst_element_set_state (element, GST_STATE_NULL) == GST_STATE_CHANGE_SUCCESS, "%s does not stop", name);
    gst_bus_set_flushing (bus, TRUE);
    gst_bus_set_flushing (bus, FALSE);
  }
  gst_element_set_bus (element, NULL);
}

GST_START_TEST (test_states)
{
  g_autoptr (GPtrArray) names = list_elements (FALSE);

  for (guint i = 0; i < names->len; i++)
    check_states (g_ptr_array_index (names, i));
}
GST_END_TEST

static void
set_and_compare (GObject *object, GParamSpec *spec, const GValue *value)
{
  g_auto (GValue) back = G_VALUE_INIT;

  g_object_set_property (object, spec->name, value);
  g_value_init (&back, spec->value_type);
  g_object_get_property (object, spec->name, &back);
  ck_assert_msg (g_param_values_cmp (spec, value, &back) == 0, "%s of %s does not keep its value", spec->name, G_OBJECT_TYPE_NAME (object));
}

/* Default, smallest and largest of each number; each value of each enumeration; both of each boolean. */
static void
check_property (GObject *object, GParamSpec *spec)
{
  g_auto (GValue) value = G_VALUE_INIT;

  ck_assert_msg (g_param_spec_get_blurb (spec) && *g_param_spec_get_blurb (spec), "%s has no description", spec->name);
  g_value_init (&value, spec->value_type);
  g_param_value_set_default (spec, &value);
  set_and_compare (object, spec, &value);
  if (G_IS_PARAM_SPEC_DOUBLE (spec) || G_IS_PARAM_SPEC_INT64 (spec) || G_IS_PARAM_SPEC_UINT64 (spec)) {
    for (guint i = 0; i < 2; i++) {
      if (G_IS_PARAM_SPEC_DOUBLE (spec))
        g_value_set_double (&value, i ? G_PARAM_SPEC_DOUBLE (spec)->maximum : G_PARAM_SPEC_DOUBLE (spec)->minimum);
      else if (G_IS_PARAM_SPEC_INT64 (spec))
        g_value_set_int64 (&value, i ? G_PARAM_SPEC_INT64 (spec)->maximum : G_PARAM_SPEC_INT64 (spec)->minimum);
      else
        g_value_set_uint64 (&value, i ? G_PARAM_SPEC_UINT64 (spec)->maximum : G_PARAM_SPEC_UINT64 (spec)->minimum);
      set_and_compare (object, spec, &value);
    }
  } else if (G_IS_PARAM_SPEC_ENUM (spec)) {
    for (guint i = 0; i < G_PARAM_SPEC_ENUM (spec)->enum_class->n_values; i++) {
      g_value_set_enum (&value, G_PARAM_SPEC_ENUM (spec)->enum_class->values[i].value);
      set_and_compare (object, spec, &value);
    }
  } else if (G_IS_PARAM_SPEC_FLAGS (spec)) {
    g_value_set_flags (&value, 0);
    set_and_compare (object, spec, &value);
    g_value_set_flags (&value, G_PARAM_SPEC_FLAGS (spec)->flags_class->mask);
    set_and_compare (object, spec, &value);
  } else if (G_IS_PARAM_SPEC_BOOLEAN (spec)) {
    g_value_set_boolean (&value, !g_value_get_boolean (&value));
    set_and_compare (object, spec, &value);
  }
}

GST_START_TEST (test_properties)
{
  g_autoptr (GPtrArray) names = list_elements (FALSE);

  for (guint i = 0; i < names->len; i++) {
    const gchar *name = g_ptr_array_index (names, i);
    g_autoptr (GstElement) element = gst_object_ref_sink (gst_element_factory_make (name, NULL));
    g_autofree GParamSpec **specs = NULL;
    guint n;
    specs = g_object_class_list_properties (G_OBJECT_GET_CLASS (element), &n);
    for (guint j = 0; j < n; j++) {
      GParamFlags both = G_PARAM_READWRITE;
      if (!g_str_has_prefix (g_type_name (specs[j]->owner_type), "Kd") || (specs[j]->flags & (both | G_PARAM_CONSTRUCT_ONLY)) != both)
        continue;
      check_property (G_OBJECT (element), specs[j]);
    }
  }
}
GST_END_TEST

static void
set_extra (GstElement *element, const gchar *name)
{
  g_auto (GStrv) pairs = g_strsplit (leaf_extra (name), " ", -1);

  for (guint i = 0; pairs[i]; i++) {
    g_auto (GStrv) pair = g_strsplit (pairs[i], "=", 2);
    if (pair[0] && pair[1])
      gst_util_set_object_arg (G_OBJECT (element), pair[0], pair[1]);
  }
}

/* The generated batch as a buffer of its own, and its caps. */
static GstBuffer *
make_buffer (const gchar *name, guint64 seed, GstCaps **ret_caps)
{
  g_auto (Leaf) leaf = { 0 };
  g_autoptr (KdLayout) layout = NULL;

  generate_accepted (&leaf, name, seed);
  layout = kd_batch_layout (leaf.batch);
  if (ret_caps)
    *ret_caps = kd_layout_to_caps (layout);
  kd_batch_update_size (leaf.buffer);
  return g_steal_pointer (&leaf.buffer);
}

static void
expect_buffer (GstHarness *h, const gchar *name, guint64 seed, const gchar *when)
{
  GstBuffer *out;
  GstFlowReturn flow = gst_harness_push (h, make_buffer (name, seed, NULL));

  ck_assert_msg (flow == GST_FLOW_OK, "%s %s: flow %s", name, when, gst_flow_get_name (flow));
  out = gst_harness_try_pull (h);
  ck_assert_msg (out != NULL, "%s %s: no batch came out", name, when);
  ck_assert (kd_batch_get (out) != NULL);
  gst_buffer_unref (out);
}

static gboolean
saw_event (GstHarness *h, GstEventType type)
{
  gboolean seen = FALSE;
  GstEvent *event;

  while ((event = gst_harness_try_pull_event (h))) {
    seen = seen || GST_EVENT_TYPE (event) == type;
    gst_event_unref (event);
  }
  return seen;
}

static void
check_stream (const gchar *name)
{
  GstElement *element = gst_element_factory_make (name, NULL);
  GstHarness *h;
  GstCaps *caps;

  set_extra (element, name);
  h = gst_harness_new_with_element (element, "sink", "src");
  gst_buffer_unref (make_buffer (name, 1, &caps));
  gst_harness_set_src_caps (h, caps);
  expect_buffer (h, name, 1, "at the start");
  ck_assert (gst_harness_push_event (h, gst_event_new_flush_start ()));
  ck_assert (gst_harness_push_event (h, gst_event_new_flush_stop (TRUE)));
  ck_assert_msg (saw_event (h, GST_EVENT_FLUSH_STOP), "%s keeps a flush", name);
  gst_buffer_unref (make_buffer (name, 1, &caps));
  gst_harness_set_src_caps (h, caps);
  expect_buffer (h, name, 1, "after a flush");
  ck_assert (gst_harness_push_event (h, gst_event_new_eos ()));
  ck_assert_msg (saw_event (h, GST_EVENT_EOS), "%s keeps the end of stream", name);
  gst_harness_teardown (h);
  gst_object_unref (element);
}

GST_START_TEST (test_flush_and_eos)
{
  g_autoptr (GPtrArray) names = list_elements (TRUE);

  for (guint i = 0; i < names->len; i++)
    check_stream (g_ptr_array_index (names, i));
}
GST_END_TEST

/* Caps that are no layout, and a layout without what the element needs: refused, not run. */
static void
check_caps (const gchar *name)
{
  GstElement *element = gst_element_factory_make (name, NULL);
  GstHarness *h;
  g_autoptr (GstBus) bus = gst_bus_new ();
  g_autoptr (GstMessage) message = NULL;

  set_extra (element, name);
  h = gst_harness_new_with_element (element, "sink", "src");
  gst_element_set_bus (element, bus);
  gst_harness_set_src_caps_str (h, "application/x-kd-batch, layout=(string)\"other.field=float32:3\"");
  ck_assert_msg (gst_harness_push (h, make_buffer (name, 1, NULL)) != GST_FLOW_OK, "%s runs without its fields", name);
  message = gst_bus_pop_filtered (bus, GST_MESSAGE_ERROR);
  ck_assert_msg (message != NULL, "%s is silent about a missing field", name);
  gst_element_set_bus (element, NULL);
  gst_harness_teardown (h);
  gst_object_unref (element);
}

GST_START_TEST (test_missing_at_negotiation)
{
  g_autoptr (GPtrArray) names = list_elements (TRUE);

  for (guint i = 0; i < names->len; i++)
    check_caps (g_ptr_array_index (names, i));
}
GST_END_TEST

KD_TESTS (elements, test_states, test_properties, test_flush_and_eos, test_missing_at_negotiation)
