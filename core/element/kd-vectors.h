/* Cases of reference numbers: one HDF5 file says which element, with which properties, makes which fields out of which. */
#pragma once
#include <gst/gst.h>
#include "../kd-error.h"

G_BEGIN_DECLS

/**
 * KdVectorVerdict:
 * @KD_VECTOR_MISSING: no registered element has the case's name
 * @KD_VECTOR_UNSUPPORTED: the element is there, but the case asks for a property, a value or a kind of element that this build lacks
 */
typedef enum { KD_VECTOR_PASSED,
  KD_VECTOR_FAILED,
  KD_VECTOR_MISSING,
  KD_VECTOR_UNSUPPORTED } KdVectorVerdict;

/**
 * KdVectorField: one expected field.
 * @error: largest |got - expected| over the largest |expected| of the field (absolute when that is 0)
 */
typedef struct {
  gchar *name; /* "step.1/loss" in sequences */
  gdouble error;
  gboolean passed;
} KdVectorField;

/**
 * KdVectorResult:
 * @element: as the case names it; @ran: the element that ran (another one through an alias), or NULL
 * @error: largest of the fields' errors; @worst: the field it is in
 * @message: why it did not pass, or a remark on a pass (properties that this build does not know and that made no difference); or NULL
 * @fields: (element-type KdVectorField)
 */
typedef struct {
  gchar *path, *method, *element, *ran;
  KdVectorVerdict verdict;
  gdouble error;
  gchar *worst, *message;
  GPtrArray *fields;
} KdVectorResult;

KD_API void kd_vector_result_free (KdVectorResult *result);
G_DEFINE_AUTOPTR_CLEANUP_FUNC (KdVectorResult, kd_vector_result_free)

/** kd_vector_aliases_load: (transfer full) lines "NAME ELEMENT [key=value ...]", '#' comments: cases of NAME run ELEMENT, with these
 * properties beside their own. KD_ERROR_FORMAT names the line. */
KD_API GHashTable *kd_vector_aliases_load (const gchar *path, GError **error);

/** kd_vector_find: (transfer full) the .h5 files below @path (a folder or one file), sorted. */
KD_API GPtrArray *kd_vector_find (const gchar *path, GError **error);

/**
 * kd_vector_run: run one case through the element's descriptor, to the end of its stream, and compare: |got - expected| <= atol largest |expected| + rtol |expected|
 * for floats (atol, rtol: attributes of the file, 1e-7 and 1e-5 by default), equality for integers.
 * @aliases: (nullable). NULL with an error when the file cannot be read as a case.
 */
KD_API KdVectorResult *kd_vector_run (const gchar *path, GHashTable *aliases, GError **error);

G_END_DECLS
