/* The loss's side of a look-ahead: the question goes upstream, the answer comes back in the same call. */
#include "kd-bind.h"
#include "kd-element.h"

gboolean
kd_binding_look_ahead (const KdCall *call, KdLookahead *ahead, GError **error)
{
  KdElement *self = KD_ELEMENT (call->element);
  KdLookaheadCall event = { .batch = call->batch, .ahead = ahead };

  gst_pad_push_event (kd_element_sink_pad (self), kd_event_new_pointer (GST_EVENT_CUSTOM_UPSTREAM, KD_EVENT_LOOKAHEAD, &event));
  if (event.error) {
    g_propagate_prefixed_error (error, event.error, "element=%s: ", GST_OBJECT_NAME (self));
    return FALSE;
  }
  if (event.taken)
    return TRUE;
  g_set_error (error, KD_ERROR, KD_ERROR_FIELD, "Cannot look ahead: element=%s, field=%s; no model that learns makes it: put kdstudent before it", GST_OBJECT_NAME (self),
      ahead->field);
  return FALSE;
}
