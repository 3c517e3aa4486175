/* KdLayout: which fields a batch has, their dtypes and shapes; written as one string in the caps. */
#pragma once
#include <gst/gst.h>
#include "kd-tensor.h"

G_BEGIN_DECLS

#define KD_CAPS_NAME "application/x-kd-batch"
#define KD_CAPS_TEMPLATE KD_CAPS_NAME

/** KD_DIM_ANY: an axis that varies from batch to batch ("?"). */
#define KD_DIM_ANY (-1)

/**
 * KdLayoutField:
 * @rank: counts the samples' axis N; 0 for a value of the whole batch ("loss=float64:scalar")
 * @dims: dims[0] is KD_DIM_ANY (N); others are sizes or KD_DIM_ANY
 */
typedef struct {
  const gchar *name; /* interned */
  KdDtype dtype;
  guint rank;
  gint64 dims[KD_MAX_RANK];
} KdLayoutField;

typedef struct _KdLayout KdLayout;

KD_API KdLayout *kd_layout_new (void);
KD_API KdLayout *kd_layout_copy (const KdLayout *layout);
KD_API void kd_layout_free (KdLayout *layout);
G_DEFINE_AUTOPTR_CLEANUP_FUNC (KdLayout, kd_layout_free)

/** kd_layout_from_string: "input=float32:1x8x8 label=int64"; KD_ERROR_FORMAT names the word that is wrong. */
KD_API KdLayout *kd_layout_from_string (const gchar *text, GError **error);
/** kd_layout_to_string: (transfer full) fields sorted by name, N left out, '?' for a varying axis. */
KD_API gchar *kd_layout_to_string (const KdLayout *layout);
/** kd_layout_names: (transfer full) the names only, sorted, space separated: for messages. */
KD_API gchar *kd_layout_names (const KdLayout *layout);

KD_API GstCaps *kd_layout_to_caps (const KdLayout *layout);
KD_API KdLayout *kd_layout_from_caps (const GstCaps *caps, GError **error);

KD_API guint kd_layout_n_fields (const KdLayout *layout);
/** kd_layout_nth: (transfer none) fields in sorted order. */
KD_API const KdLayoutField *kd_layout_nth (const KdLayout *layout, guint i);
KD_API const KdLayoutField *kd_layout_find (const KdLayout *layout, const gchar *name);
/** kd_layout_set: add or replace; @dims has @rank entries with dims[0] ignored (it is N). */
KD_API void kd_layout_set (KdLayout *layout, const gchar *name, KdDtype dtype, guint rank, const gint64 *dims);
KD_API void kd_layout_remove (KdLayout *layout, const gchar *name);
KD_API gboolean kd_layout_equal (const KdLayout *a, const KdLayout *b);
/** kd_layout_field_string: (transfer full) "float32:1x8x8". */
KD_API gchar *kd_layout_field_string (const KdLayoutField *field);
/** kd_layout_check_tensor: whether @tensor is what @field says; else KD_ERROR_SHAPE/DTYPE naming field and both. */
KD_API gboolean kd_layout_check_tensor (const KdLayoutField *field, const KdTensor *tensor, GError **error);
/** kd_field_name_is_valid: lower case letters, digits, '_', '-' and dots between; at most 120 bytes. */
KD_API gboolean kd_field_name_is_valid (const gchar *name);

G_END_DECLS
