/* KdSink: the base of everything that ends a graph. Leaves are KdSinkDesc; kdtrain and kdcachesink subclass it for what they ask and answer. */
#pragma once
#include <gst/base/gstbasesink.h>
#include "kd-element.h"

G_BEGIN_DECLS

#define KD_TYPE_SINK (kd_sink_get_type ())
KD_API GType kd_sink_get_type (void);
G_DECLARE_DERIVABLE_TYPE (KdSink, kd_sink, KD, SINK, GstBaseSink)

/**
 * KdSinkClass:
 * @desc: its params are properties; state block as for any leaf
 * @negotiate: the layout is known (again)
 * @write: one batch; the buffer may be sent upstream by reference while this runs
 * @epoch, @finish: end of an epoch, of the stream; no @finish after a @write that failed
 * @identity: what the rows came through (KD_EVENT_IDENTITY)
 * @query: custom queries (KD_QUERY_*); TRUE when answered
 * @start, @stop: READY<->PAUSED
 */
struct _KdSinkClass {
  GstBaseSinkClass parent;
  const KdDesc *desc;
  gboolean (*negotiate) (KdSink *self, const KdLayout *layout, GError **error);
  gboolean (*write) (KdSink *self, GstBuffer *buffer, KdBatch *batch, GError **error);
  gboolean (*epoch) (KdSink *self, guint epoch, GError **error);
  gboolean (*finish) (KdSink *self, GError **error);
  void (*identity) (KdSink *self, const GstStructure *identity);
  gboolean (*query) (KdSink *self, GstQuery *query);
  gboolean (*start) (KdSink *self, GError **error);
  void (*stop) (KdSink *self);
  gpointer padding[8];
};

/** kd_sink_params: (transfer none) the snapshot in use. */
KD_API gconstpointer kd_sink_params (KdSink *self);
/** kd_sink_layout: (transfer none), NULL before negotiation. */
KD_API const KdLayout *kd_sink_layout (KdSink *self);
/** kd_sink_class_install: template, metadata and properties of @desc; for class_init of subclasses. */
KD_API void kd_sink_class_install (KdSinkClass *klass, const KdDesc *desc, const gchar *keywords);
/** kd_sink_push_upstream: send an upstream event from write or finish, in this thread. */
KD_API gboolean kd_sink_push_upstream (KdSink *self, GstEvent *event);

G_END_DECLS
