/* GError to element error: once, with the domain that GStreamer has for it. */
#include "kd-element.h"

void
kd_element_post_error (GstElement *element, GError *error)
{
  GQuark domain = GST_STREAM_ERROR;
  gint code = GST_STREAM_ERROR_FAILED;

  if (error->domain == KD_ERROR) {
    switch ((KdError) error->code) {
    case KD_ERROR_SHAPE:
    case KD_ERROR_DTYPE:
    case KD_ERROR_FIELD:
      code = GST_STREAM_ERROR_FORMAT;
      break;
    case KD_ERROR_FORMAT:
    case KD_ERROR_SCHEMA:
      code = GST_STREAM_ERROR_DECODE;
      break;
    case KD_ERROR_IO:
    case KD_ERROR_NETWORK:
      domain = GST_RESOURCE_ERROR;
      code = GST_RESOURCE_ERROR_FAILED;
      break;
    case KD_ERROR_ENGINE:
      domain = GST_LIBRARY_ERROR;
      code = GST_LIBRARY_ERROR_FAILED;
      break;
    default:
      break;
    }
  }
  gst_element_message_full (element, GST_MESSAGE_ERROR, domain, code, g_strdup (error->message), NULL, __FILE__, G_STRFUNC, __LINE__);
  g_error_free (error);
}
