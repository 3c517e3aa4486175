/* Internal: what the leaf elements (loss, transform, augment, selector) share. */
#pragma once
#include "kd-bind.h"
#include "kd-element.h"
#include "kd-schedule.h"

G_BEGIN_DECLS

#define KD_MAX_SHOWN 4
/** KdLeaf: the state of a running leaf: its binding and its state block. */
typedef struct {
  KdBinding *binding;
  gpointer state;
  KdSchedule *schedule;        /* losses: parameters that change during the run, or NULL */
  const gchar *teacher;        /* interned fingerprint, as the stream's identity says, or NULL */
  gint reset, signalled;       /* atomic: what is asked for before the next batch */
  gdouble shown[KD_MAX_SHOWN]; /* what the read-only properties say; under the object's lock */
} KdLeaf;

#define KD_TYPE_LEAF_ELEMENT (kd_leaf_element_get_type ())
G_DECLARE_DERIVABLE_TYPE (KdLeafElement, kd_leaf_element, KD, LEAF_ELEMENT, KdElement)

/**
 * KdLeafElementClass:
 * @outputs: table of what the descriptor adds, or NULL
 * @extend: the layout downstream, from the sizes of this one; default: the outputs
 * @prepare: when the parameters are known, before the first batch; may be NULL
 * @run: one batch
 */
struct _KdLeafElementClass {
  KdElementClass parent;
  const KdFieldSpec *outputs;
  void (*extend) (KdLeafElement *self, const KdLeaf *leaf, const KdSizes *sizes, KdLayout *layout);
  gboolean (*prepare) (KdLeafElement *self, KdLeaf *leaf, const KdLayout *in, GError **error);
  gboolean (*run) (KdLeafElement *self, const KdLeaf *leaf, KdBatch *batch, GError **error);
};

/** kd_leaf_element_peek: (transfer none). */
KdLeaf *kd_leaf_element_peek (KdLeafElement *self);

/** kd_leaf_class_show: installs `reset` and the read-only properties that the descriptor asks for; after kd_element_class_install. */
void kd_leaf_class_show (KdElementClass *klass);
/** kd_leaf_show: after a batch: the read-only properties say what the state does, and tell when it is something new. */
void kd_leaf_show (KdLeafElement *self);
/** kd_leaf_event: a flush or the descriptor's signal, in whatever thread; TRUE: it was for this leaf. */
gboolean kd_leaf_event (KdElement *element, GstEvent *event);
/** kd_leaf_obey: before a batch: what they asked for. */
gboolean kd_leaf_obey (KdElement *element, GError **error);

/** kd_desc_state_new, kd_desc_state_open, kd_desc_state_free: a descriptor's state block; open also reads its files: FALSE with @error when
 * it cannot. A leaf without state has NULL. */
gpointer kd_desc_state_new (const KdDesc *desc, gconstpointer params);
gboolean kd_desc_state_open (const KdDesc *desc, gconstpointer params, gpointer *ret_state, GError **error);
void kd_desc_state_free (const KdDesc *desc, gpointer state);

/** KdPropertyPair: the properties of a base class and of a leaf, side by side. Ids count from 1 for the base's rows and from KD_LEAF_ID for the leaf's;
 * a leaf's row hides the base's of that name. */
#define KD_LEAF_ID 100
#define KD_STATE_ID 200
typedef struct {
  KdProperties base, leaf;
} KdPropertyPair;
void kd_property_pair_install (GObjectClass *klass, const KdParam *base, const KdParam *leaf);
void kd_property_pair_init (KdPropertyPair *pair, const KdParam *base, gsize base_size, const KdParam *leaf, gsize leaf_size);
void kd_property_pair_clear (KdPropertyPair *pair);
void kd_property_pair_set (KdPropertyPair *pair, guint id, const GValue *value);
void kd_property_pair_get (KdPropertyPair *pair, guint id, GValue *value);

/** kd_leaf_write_results: the end of the stream of a transform that gathers: what it concludes, into the file that `location` names. */
gboolean kd_leaf_write_results (KdLeafElement *self, const KdTransformDesc *desc, GError **error);

/** kd_element_class_describe: kind and what it provides, into the metadata that GStreamer's registry keeps. */
void kd_element_class_describe (GstElementClass *klass, const KdDesc *desc, const gchar *kind, const KdFieldSpec *outputs);

/** kd_layout_add_bound: the field as @sizes make it; '?' where a size is not known. */
void kd_layout_add_bound (KdLayout *layout, const KdBoundField *field, const KdSizes *sizes, KdDtype fallback);

GType kd_loss_get_type (void);
GType kd_transform_get_type (void);
GType kd_augment_get_type (void);
GType kd_selector_get_type (void);

G_END_DECLS
