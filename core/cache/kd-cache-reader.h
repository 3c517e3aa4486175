/* Inside the reader: kd-cache-reader.c opens parts, kd-cache-take.c takes rows. */
#pragma once
#include "kd-cache-private.h"

G_BEGIN_DECLS

/* Open parts at once: below the usual limit of 1024 descriptors. */
#define KD_CACHE_MAX_OPEN 256

/* A field's rows in a mapped part. */
typedef struct {
  gint64 first_row;
  const guint8 *base; /* NULL: not open */
  const guint8 *checked;
  gint shift;
  KdCacheFile *file;
} KdCacheLane;

struct _KdCacheReader {
  gchar *path;
  KdCacheManifest *manifest;
  KdLayout *layout; /* without the keys */
  KdCacheIndex *index;
  gboolean may_map;
  GMutex lock;         /* guards what follows; libhdf5's lock may be taken inside */
  KdCacheFile **files; /* by part, NULL when closed */
  KdCacheLane **lanes; /* by field, then by part */
  guint n_fields;
  guint n_open;
  guint64 clock;
};

/* kd_cache_reader_open_part: the part, opened when it is not. Locked. */
KdCacheFile *kd_cache_reader_open_part (KdCacheReader *reader, guint nth, GError **error);
/* kd_cache_reader_take_in_part: rows numbered in the part, their blocks checked. Locked. */
KdTensor *kd_cache_reader_take_in_part (KdCacheReader *reader, guint nth, guint field, const gint64 *rows, gint64 n, GError **error);

G_END_DECLS
