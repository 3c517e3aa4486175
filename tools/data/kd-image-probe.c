/* What an image file says of itself, read before a decoder sees it: kind, size, and whether its end is there. Decoders give a
 * cut-off JPEG back with the rest in grey and no error. */
#include "kd-data.h"

#include <string.h>

#define MAX_PIXELS ((gint64) 1 << 26)

static guint
be16 (const guint8 *at)
{
  return (guint) at[0] << 8 | at[1];
}

static guint32
be32 (const guint8 *at)
{
  return (guint32) be16 (at) << 16 | be16 (at + 2);
}

static const gchar *
broken (GError **error, const gchar *name, const gchar *kind, const gchar *reason, gsize n)
{
  g_set_error (error, KD_ERROR, KD_ERROR_FORMAT, "Broken image: file=\"%s\", kind=%s, bytes=%zu, reason=%s; replace it or take it out", name, kind, n,
      reason);
  return NULL;
}

static gboolean
has_end_marker (const guint8 *data, gsize from, gsize n)
{
  for (gsize i = n; i-- > from + 1;)
    if (data[i] == 0xd9 && data[i - 1] == 0xff)
      return TRUE;
  return FALSE;
}

/* Segments up to the start of the scan; the frame header among them has the size. */
static const gchar *
probe_jpeg (const guint8 *data, gsize n, const gchar *name, gint *ret_width, gint *ret_height, GError **error)
{
  gsize at = 2;
  gboolean sized = FALSE;

  while (at + 4 <= n && data[at] == 0xff) {
    guint8 marker = data[at + 1];
    gsize length = be16 (data + at + 2);
    if (marker == 0xff) { /* padding */
      at++;
      continue;
    }
    if (length < 2 || at + 2 + length > n)
      break;
    if (marker == 0xda)
      return !sized                                   ? broken (error, name, "jpeg", "no frame header", n)
          : has_end_marker (data, at + 2 + length, n) ? "jpeg"
                                                      : broken (error, name, "jpeg", "cut off (no end marker)", n);
    if (marker >= 0xc0 && marker <= 0xcf && marker != 0xc4 && marker != 0xc8 && marker != 0xcc && length >= 8) {
      *ret_height = (gint) be16 (data + at + 5);
      *ret_width = (gint) be16 (data + at + 7);
      sized = TRUE;
    }
    at += 2 + length;
  }
  return broken (error, name, "jpeg", "cut off or damaged before the picture begins", n);
}

static const gchar *
probe_png (const guint8 *data, gsize n, const gchar *name, gint *ret_width, gint *ret_height, GError **error)
{
  if (n < 33 || be32 (data + 8) != 13 || memcmp (data + 12, "IHDR", 4) || be32 (data + 16) > G_MAXINT32 || be32 (data + 20) > G_MAXINT32)
    return broken (error, name, "png", "no header", n);
  *ret_width = (gint) be32 (data + 16);
  *ret_height = (gint) be32 (data + 20);
  for (gsize at = 8; at + 12 <= n;) {
    if (memcmp (data + at + 4, "IEND", 4) == 0)
      return "png";
    at += 12 + (gsize) be32 (data + at);
  }
  return broken (error, name, "png", "cut off (no end chunk)", n);
}

/* The three forms of WebP: lossy, lossless, extended. */
static const gchar *
probe_webp (const guint8 *data, gsize n, const gchar *name, gint *ret_width, gint *ret_height, GError **error)
{
  gsize declared = n < 8 ? 0 : (gsize) data[4] | (gsize) data[5] << 8 | (gsize) data[6] << 16 | (gsize) data[7] << 24;

  if (n < 30 || declared + 8 > n)
    return broken (error, name, "webp", "cut off", n);
  if (memcmp (data + 12, "VP8 ", 4) == 0) {
    *ret_width = (data[26] | data[27] << 8) & 0x3fff;
    *ret_height = (data[28] | data[29] << 8) & 0x3fff;
  } else if (memcmp (data + 12, "VP8L", 4) == 0) {
    guint32 bits = (guint32) data[21] | (guint32) data[22] << 8 | (guint32) data[23] << 16 | (guint32) data[24] << 24;
    *ret_width = (gint) (bits & 0x3fff) + 1;
    *ret_height = (gint) (bits >> 14 & 0x3fff) + 1;
  } else if (memcmp (data + 12, "VP8X", 4) == 0) {
    *ret_width = (data[24] | data[25] << 8 | data[26] << 16) + 1;
    *ret_height = (data[27] | data[28] << 8 | data[29] << 16) + 1;
  } else {
    return broken (error, name, "webp", "unknown form", n);
  }
  return "webp";
}

const gchar *
kd_image_probe (const guint8 *data, gsize n, const gchar *name, gint *ret_width, gint *ret_height, GError **error)
{
  const gchar *kind;
  gint width = 0, height = 0;

  if (n >= 4 && data[0] == 0xff && data[1] == 0xd8 && data[2] == 0xff)
    kind = probe_jpeg (data, n, name, &width, &height, error);
  else if (n >= 8 && memcmp (data, "\x89PNG\r\n\x1a\n", 8) == 0)
    kind = probe_png (data, n, name, &width, &height, error);
  else if (n >= 12 && memcmp (data, "RIFF", 4) == 0 && memcmp (data + 8, "WEBP", 4) == 0)
    kind = probe_webp (data, n, name, &width, &height, error);
  else
    return broken (error, name, "unknown", n ? "neither JPEG, PNG nor WebP" : "empty file", n);
  if (!kind)
    return NULL;
  if (width <= 0 || height <= 0 || (gint64) width * height > MAX_PIXELS) {
    g_set_error (error, KD_ERROR, KD_ERROR_RANGE, "Image of an impossible size: file=\"%s\", size=%dx%d, most pixels=%" G_GINT64_FORMAT, name, width,
        height, MAX_PIXELS);
    return NULL;
  }
  *ret_width = width;
  *ret_height = height;
  return kind;
}
