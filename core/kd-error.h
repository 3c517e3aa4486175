/* The one error domain of kdstream. */
#pragma once
#include <glib.h>

G_BEGIN_DECLS

#ifndef KD_API
#define KD_API __attribute__ ((visibility ("default")))
#endif

/**
 * KdError:
 *
 * Codes name what the caller can do about the failure, not where it came from.
 */
typedef enum {
  KD_ERROR_SHAPE,       /* two shapes disagree */
  KD_ERROR_DTYPE,       /* an element type that is not accepted here */
  KD_ERROR_VALUE,       /* a value that is not finite or not allowed */
  KD_ERROR_RANGE,       /* a value, index or label outside its range */
  KD_ERROR_FIELD,       /* a field is missing, left over or unknown */
  KD_ERROR_MISMATCH,    /* two things that must be the same are not (teacher, vocabulary, data set) */
  KD_ERROR_FORMAT,      /* a file or string that does not follow its format */
  KD_ERROR_IO,          /* reading or writing failed: missing file, full disk, checksum */
  KD_ERROR_SCHEMA,      /* a document that its schema refuses */
  KD_ERROR_ENGINE,      /* the tensor engine failed or is not there */
  KD_ERROR_NETWORK,     /* a server did not answer as it should */
  KD_ERROR_UNSUPPORTED, /* right, but not something this version does */
} KdError;

#define KD_ERROR (kd_error_quark ())
KD_API GQuark kd_error_quark (void);

G_END_DECLS
