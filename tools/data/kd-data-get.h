/* Known data sets and where they come from. */
#pragma once
#include "kd-data.h"

G_BEGIN_DECLS

/** KdKnownFile: @url NULL: packed for kdstream from the origin, so no public address has these very bytes. */
typedef struct {
  const gchar *path; /* below a folder of KD_DATA_PATH */
  gint64 bytes;
  const gchar *sha256;
  const gchar *url;
} KdKnownFile;

/** KdKnownSet: one name of `kd data get`. @files ends with a NULL path. */
typedef struct {
  const gchar *name, *what, *origin, *licence;
  const KdKnownFile *files;
} KdKnownSet;

/** kd_known_sets: ends with a NULL name. */
extern const KdKnownSet kd_known_sets[];

/** kd_known_verify: size and SHA-256 of the file at @path; KD_ERROR_IO with both values. */
gboolean kd_known_verify (const KdKnownFile *file, const gchar *path, GError **error);

/** kd_download: @url to @path by way of @path.part, which a later call goes on with. At most @bytes are taken.
 * KD_ERROR_NETWORK; KD_ERROR_UNSUPPORTED in a build without libcurl. */
gboolean kd_download (const gchar *url, const gchar *path, gint64 bytes, GError **error);

G_END_DECLS
