/* What the fuzz targets share. A target is LLVMFuzzerTestOneInput in a file of its own; it is linked with libFuzzer, or with driver.c for the
 * tests, which run the files in seeds/ and found/. */
#pragma once
#include <kd/kd.h>

G_BEGIN_DECLS

int LLVMFuzzerTestOneInput (const guint8 *data, gsize size);

/* An input that was read to its end without an error; the driver wants some of the seeds to be and some not to be. */
extern guint fuzz_n_accepted;
void fuzz_accept (void);

/* fuzz_check: what must hold whatever the input is. */
#define fuzz_check(condition, ...) \
  G_STMT_START                     \
  {                                \
    if (!(condition))              \
      g_error (__VA_ARGS__);       \
  }                                \
  G_STMT_END

/* fuzz_refuse: (transfer full) @error has to be one of ours, with words; @what: the call that failed. */
void fuzz_refuse (GError *error, const gchar *what);

/* fuzz_path: (transfer full) @name in a folder of this process, in memory (/dev/shm) where there is such a thing. */
gchar *fuzz_path (const gchar *name);
void fuzz_write (const gchar *path, gconstpointer data, gsize size);

/* fuzz_text: (transfer full) the input as a string; a zero ends it. */
gchar *fuzz_text (const guint8 *data, gsize size);

/* fuzz_touch: every byte of @tensor is there, and as many as its shape says. */
void fuzz_touch (const KdTensor *tensor);

/* FuzzBytes: an input read from the front; zeros when it is used up. */
typedef struct {
  const guint8 *at;
  gsize left;
} FuzzBytes;
guint8 fuzz_u8 (FuzzBytes *bytes);
guint64 fuzz_uint (FuzzBytes *bytes, guint n_bytes);
/* fuzz_take: into @to [n]; what is missing is 0. */
void fuzz_take (FuzzBytes *bytes, gpointer to, gsize n);

/* fuzz_h5_write: an HDF5 file at @path that libhdf5 holds for good, as the input says: any name, type, shape, storage, filter, link and
 * attribute that its functions make, and hostile bytes in chunks. @attribute: one more of the root, or NULL. h5-program.c has the grammar. */
void fuzz_h5_write (FuzzBytes *bytes, const gchar *path, const gchar *attribute, const gchar *value);
/* fuzz_h5_read: everything a reader can be asked about @path. TRUE when every field could be read. */
gboolean fuzz_h5_read (const gchar *path, FuzzBytes *bytes);

G_END_DECLS
