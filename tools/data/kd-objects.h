/* Rows that come as JSON objects: where they are and how they are told apart is this file's, what is in them the importer's. */
#pragma once
#include "kd-data.h"

#include <json-glib/json-glib.h>

G_BEGIN_DECLS

/* A document is in memory whole: 7 times its bytes when they are sentences (CLINC-150), 50 times when they are numbers of one digit. */
#define KD_OBJECTS_MAX_BYTES ((gsize) 256 << 20)

/** KdObjects: the lines of a file, or the elements of an array in a document, as objects. A row that is an array becomes the object whose keys
 * are its places, "0", "1", ...; all rows are objects, or all arrays of one length. */
typedef struct {
  const gchar *path, *split;
  const gchar *unit; /* "line" or "row" */
  gint64 number;     /* of the row last given: lines from 1, rows from 0 as sample.id */
  gint64 n_places;   /* of the arrays; OBJECTS or UNKNOWN */
  JsonParser *parser;
  JsonArray *rows; /* (transfer none) of the document; NULL: lines */
  KdLines lines;
  JsonObject *object; /* the row last given */
} KdObjects;

KdObjects *kd_objects_open_lines (const gchar *path);
/** kd_objects_open_document: the array that the document is, or that its member @split is. KD_ERROR_FORMAT, KD_ERROR_RANGE (its size),
 * KD_ERROR_FIELD (no such split: the names are told). */
KdObjects *kd_objects_open_document (const gchar *path, const gchar *split, GError **error);
void kd_objects_free (KdObjects *objects);
G_DEFINE_AUTOPTR_CLEANUP_FUNC (KdObjects, kd_objects_free)
/** kd_objects_rewind: before the first row; also before the first kd_objects_next. */
gboolean kd_objects_rewind (KdObjects *objects, GError **error);
/** kd_objects_next: 1: objects->object is the next row; 0: the end; -1: an error. */
gint kd_objects_next (KdObjects *objects, GError **error);
/** kd_objects_where: (transfer full) the row last given, for a message: path="x.json", split="train", row=3. */
gchar *kd_objects_where (const KdObjects *objects);
/** kd_json_kind: a word for what a value is. */
const gchar *kd_json_kind (JsonNode *node);

G_END_DECLS
