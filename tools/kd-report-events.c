/* A TensorBoard event file, written by hand: two kinds of record are all it needs, so no protocol buffer library is.
 *
 * record   uint64 length | masked CRC-32C of it | bytes | masked CRC-32C of them (little endian)
 * Event    1: double wall_time  2: int64 step  3: string file_version  5: Summary
 * Summary  1: Value (repeated)      Value  1: string tag  2: float simple_value
 */
#include "kd-report.h"
#include <errno.h>
#include <kd/kd.h>
#include <math/kd-crc32c.h>
#include <stdio.h>
#include <string.h>

struct _KdEvents {
  FILE *file;
  gchar *path;
  GByteArray *event, *summary, *value;
};

/* A CRC of bytes that hold a CRC is weak, so TFRecord rotates and offsets it. */
static guint32
kd_masked_crc (gconstpointer data, gsize n)
{
  guint32 crc = kd_crc32c (0, data, n);

  return GUINT32_TO_LE (((crc >> 15) | (crc << 17)) + 0xa282ead8);
}

static void
kd_put_varint (GByteArray *out, guint64 value)
{
  do {
    guint8 byte = (value & 0x7f) | (value > 0x7f ? 0x80 : 0);

    g_byte_array_append (out, &byte, 1);
    value >>= 7;
  } while (value);
}

static void
kd_put_bytes (GByteArray *out, guint field, gconstpointer data, gsize n)
{
  kd_put_varint (out, field << 3 | 2);
  kd_put_varint (out, n);
  g_byte_array_append (out, data, (guint) n);
}

static void
kd_put_time (GByteArray *out)
{
  union {
    gdouble d;
    guint64 u;
  } now = { .d = (gdouble) g_get_real_time () / G_USEC_PER_SEC };
  guint64 le = GUINT64_TO_LE (now.u);

  kd_put_varint (out, 1 << 3 | 1);
  g_byte_array_append (out, (guint8 *) &le, sizeof le);
}

static gboolean
kd_events_record (KdEvents *events, GError **error)
{
  GByteArray *data = events->event;
  guint64 length = GUINT64_TO_LE ((guint64) data->len);
  guint32 length_crc = kd_masked_crc (&length, sizeof length), data_crc = kd_masked_crc (data->data, data->len);

  if (fwrite (&length, sizeof length, 1, events->file) == 1 && fwrite (&length_crc, sizeof length_crc, 1, events->file) == 1 &&
      fwrite (data->data, data->len, 1, events->file) == 1 && fwrite (&data_crc, sizeof data_crc, 1, events->file) == 1)
    return TRUE;
  g_set_error (error, KD_ERROR, KD_ERROR_IO, "Cannot write event file: path=\"%s\", reason=%s", events->path, g_strerror (errno));
  return FALSE;
}

KdEvents *
kd_events_open (const gchar *dir, GError **error)
{
  KdEvents *events = g_new0 (KdEvents, 1);

  events->path = g_strdup_printf ("%s/events.out.tfevents.%" G_GINT64_FORMAT ".%s", dir, g_get_real_time () / G_USEC_PER_SEC,
      g_get_host_name ());
  events->event = g_byte_array_new ();
  events->summary = g_byte_array_new ();
  events->value = g_byte_array_new ();
  events->file = fopen (events->path, "wb");
  if (!events->file) {
    g_set_error (error, KD_ERROR, KD_ERROR_IO, "Cannot write event file: path=\"%s\", reason=%s", events->path, g_strerror (errno));
    kd_events_close (events, NULL);
    return NULL;
  }
  kd_put_time (events->event);
  kd_put_bytes (events->event, 3, "brain.Event:2", strlen ("brain.Event:2"));
  if (kd_events_record (events, error))
    return events;
  kd_events_close (events, NULL);
  return NULL;
}

gboolean
kd_events_scalar (KdEvents *events, const gchar *tag, gint64 step, gdouble value, GError **error)
{
  union {
    gfloat f;
    guint32 u;
  } number = { .f = (gfloat) value };
  guint32 le = GUINT32_TO_LE (number.u);

  g_byte_array_set_size (events->value, 0);
  kd_put_bytes (events->value, 1, tag, strlen (tag));
  kd_put_varint (events->value, 2 << 3 | 5);
  g_byte_array_append (events->value, (guint8 *) &le, sizeof le);
  g_byte_array_set_size (events->summary, 0);
  kd_put_bytes (events->summary, 1, events->value->data, events->value->len);
  g_byte_array_set_size (events->event, 0);
  kd_put_time (events->event);
  kd_put_varint (events->event, 2 << 3);
  kd_put_varint (events->event, (guint64) step);
  kd_put_bytes (events->event, 5, events->summary->data, events->summary->len);
  return kd_events_record (events, error);
}

gboolean
kd_events_close (KdEvents *events, GError **error)
{
  gboolean ok = !events->file || fclose (events->file) == 0;

  if (!ok)
    g_set_error (error, KD_ERROR, KD_ERROR_IO, "Cannot write event file: path=\"%s\", reason=%s", events->path, g_strerror (errno));
  g_byte_array_unref (events->event);
  g_byte_array_unref (events->summary);
  g_byte_array_unref (events->value);
  g_free (events->path);
  g_free (events);
  return ok;
}
