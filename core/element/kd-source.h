/* KdSource: the base of everything that makes batches from numbered rows. It owns the order (a seekable permutation), epochs, shards, ranges,
 * batch size and cursor; a leaf (KdSourceDesc) only reads rows. */
#pragma once
#include <gst/base/gstpushsrc.h>
#include "kd-element.h"

G_BEGIN_DECLS

#define KD_TYPE_SOURCE (kd_source_get_type ())
KD_API GType kd_source_get_type (void);
G_DECLARE_DERIVABLE_TYPE (KdSource, kd_source, KD, SOURCE, GstPushSrc)

struct _KdSourceClass {
  GstPushSrcClass parent;
  const KdSourceDesc *desc;
};

G_END_DECLS
