/* KdModelElement: a model in the stream: teacher, student, small modules. It builds the model when the input's shape is known, runs it on each
 * batch, keeps the tape on the batch while a trainer ends the graph, and takes gradients in kd-backward. */
#pragma once
#include "../model/kd-model.h"
#include "kd-element.h"

G_BEGIN_DECLS

#define KD_TYPE_MODEL_ELEMENT (kd_model_element_get_type ())
KD_API GType kd_model_element_get_type (void);
G_DECLARE_DERIVABLE_TYPE (KdModelElement, kd_model_element, KD, MODEL_ELEMENT, KdElement)

struct _KdModelElementClass {
  KdElementClass parent;
  gpointer padding[8];
};

/** KdModelRole: which names its outputs have and whether it learns. A peer learns as a student does, under the names of a teacher. */
typedef enum { KD_ROLE_TEACHER,
  KD_ROLE_STUDENT,
  KD_ROLE_MODULE,
  KD_ROLE_PEER } KdModelRole;

/** KdModelDesc: a leaf's choice: the role and the names of what comes out. Architecture, weights, features, seed and the rest are
 * properties of the base. @arch_of: for modules: (transfer full) the specification of an architecture from the leaf's own parameters. */
typedef struct {
  KD_DESC_HEAD
  KdModelRole role;
  gchar *(*arch_of) (gconstpointer params, GError **error);
} KdModelDesc;

KD_API gboolean kd_model_element_register (GstPlugin *plugin, const KdModelDesc *desc);
/* clang-format off */
#define KD_MODEL_PLUGIN(desc) KD_PLUGIN_DEFINE ("kdstream model", return kd_model_element_register (plugin, &desc);)
/* clang-format on */

G_END_DECLS
