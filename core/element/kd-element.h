/* KdElement: the base of everything with one sink and one source pad for batches. It owns caps and layout, metas, errors, epochs,
 * identity, state. Leaves use the descriptor macros; only elements that change the number of batches subclass it. */
#pragma once
#include "kd-desc.h"
#include "kd-run.h"

G_BEGIN_DECLS

#define KD_TYPE_ELEMENT (kd_element_get_type ())
KD_API GType kd_element_get_type (void);
G_DECLARE_DERIVABLE_TYPE (KdElement, kd_element, KD, ELEMENT, GstElement)

/**
 * KdElementClass:
 * @desc: set by registration; its params become properties (kd_element_class_install)
 * @negotiate: (transfer full) the layout downstream for @in; NULL on error. Default: the same layout
 * @process: the batch in place; *@buffer may be replaced, or NULL to send nothing on
 * @start, @stop: READY<->PAUSED; state lives between them
 * @epoch: a kd-epoch passes; @finish: EOS, before it goes on
 * @identify: add to the identity structure that passes
 * @event: a flush or a custom event of either direction, before anything else, in whatever thread; TRUE: it was for this element
 * @upstream: an upstream kd event; TRUE: handled, but it goes on all the same (return value is kept)
 * @save, @load: state for checkpoints
 * @resume: a kd-resume answer passes on its way to the source
 */
struct _KdElementClass {
  GstElementClass parent;
  const KdDesc *desc;
  const gchar *kind;
  const KdParam *base;
  gsize base_size;
  KdLayout *(*negotiate) (KdElement *self, const KdLayout *in, GError **error);
  gboolean (*process) (KdElement *self, GstBuffer **buffer, KdBatch *batch, GError **error);
  gboolean (*start) (KdElement *self, GError **error);
  void (*stop) (KdElement *self);
  gboolean (*epoch) (KdElement *self, guint epoch, GError **error);
  gboolean (*finish) (KdElement *self, GError **error);
  void (*identify) (KdElement *self, GstStructure *identity);
  gboolean (*event) (KdElement *self, GstEvent *event);
  gboolean (*upstream) (KdElement *self, GstEvent *event, GError **error);
  gboolean (*save) (KdElement *self, GHashTable *table, GError **error);
  gboolean (*load) (KdElement *self, GHashTable *table, GError **error);
  void (*resume) (KdElement *self, KdResume *resume);
  gpointer padding[8];
};

KD_API GstPad *kd_element_sink_pad (KdElement *self);
KD_API GstPad *kd_element_src_pad (KdElement *self);
/** kd_element_push: send a buffer on from process, epoch or finish (for elements that make several of one). */
KD_API GstFlowReturn kd_element_push (KdElement *self, GstBuffer *buffer);
/** kd_element_layout_in / out: (transfer none) valid between negotiation and stop; NULL before. */
KD_API const KdLayout *kd_element_layout_in (KdElement *self);
KD_API const KdLayout *kd_element_layout_out (KdElement *self);
/** kd_element_params: (transfer none) the snapshot that the running stream uses. Properties changed while playing count from the next batch. */
KD_API gconstpointer kd_element_params (KdElement *self);
/** kd_element_has_trainer: whether a kdtrain ends this graph (asked once, downstream). */
KD_API gboolean kd_element_has_trainer (KdElement *self);

/** kd_element_post_error: (transfer full) @error as one element error, with the domain that GStreamer has for it. Works for any GstElement. */
KD_API void kd_element_post_error (GstElement *element, GError *error);
/** kd_element_is_dry_run: kd launch --dry-run says so in a context; the end of the stream comes without a batch then, and nothing may be written. */
KD_API gboolean kd_element_is_dry_run (GstElement *element);

/** kd_element_class_install: pads' templates, metadata, and the properties of @base (the base class's own table, or NULL) and of @desc,
 * whose rows win where both have a name. @keywords: "Filter/Loss" and the like. Call it in class_init. */
KD_API void kd_element_class_install (KdElementClass *klass, const KdDesc *desc, const gchar *kind, const gchar *keywords, const KdParam *base,
    gsize base_size);
/** kd_element_base_params: the snapshot of the base table's block. */
KD_API gconstpointer kd_element_base_params (KdElement *self);
/** kd_element_register: a leaf type derived from @parent with @desc as its class data; the types' class_init finds it there. */
KD_API gboolean kd_element_register (GstPlugin *plugin, const KdDesc *desc, GType parent, GClassInitFunc class_init);

/** kd_providers: (transfer full) "kdstudent, kdh5src": elements that can add @field, for messages. */
KD_API gchar *kd_providers (const gchar *field);

/* Property plumbing for base classes that are no KdElement (sources, sinks): a parameter block and its table as properties.
 * Property ids are 1 + row in the table. */
typedef struct {
  const KdParam *table;
  gsize size;
  gpointer block;
  GMutex lock;
} KdProperties;
KD_API void kd_properties_install (GObjectClass *klass, const KdParam *table, const gchar *type_name, guint first_id);
KD_API void kd_properties_init (KdProperties *properties, const KdParam *table, gsize size);
KD_API void kd_properties_clear (KdProperties *properties);
KD_API void kd_properties_set (KdProperties *properties, guint row, const GValue *value);
KD_API void kd_properties_get (KdProperties *properties, guint row, GValue *value);
/** kd_properties_snapshot: (transfer full) a copy of the block; free with kd_properties_free_snapshot. */
KD_API gpointer kd_properties_snapshot (KdProperties *properties);
KD_API void kd_properties_free_snapshot (KdProperties *properties, gpointer block);

G_END_DECLS
