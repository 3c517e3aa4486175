/* Packing and unpacking chunks without libhdf5, whose lock would let only one thread do it, and which trusts the file: shuffle, deflate,
 * fletcher32 and blosc. */
#include "kd-h5-private.h"

#include <string.h>
#include <zlib.h>
#ifdef KD_HAVE_BLOSC
#include <blosc.h>
#endif

/* What the filter's plugin writes into a file: its revision, blosc's format, element, chunk, level, shuffle, compressor. */
enum { BLOSC_REVISION,
  BLOSC_FORMAT,
  BLOSC_ELEMENT,
  BLOSC_CHUNK,
  BLOSC_LEVEL,
  BLOSC_SHUFFLE_KIND,
  BLOSC_COMPRESSOR,
  N_BLOSC_VALUES };

#ifdef KD_HAVE_BLOSC
static gboolean
blosc_unpack (const guint8 *stored, gsize n_stored, guint8 *to, gsize n)
{
  size_t n_bytes = 0;

  /* The header is the file's word: both sizes are checked before a byte is written. */
  return blosc_cbuffer_validate (stored, n_stored, &n_bytes) >= 0 && n_bytes == n && blosc_decompress_ctx (stored, to, n, 1) == (gint) n;
}

static gsize
blosc_pack (const KdH5Step *step, const guint8 *from, gsize n, guint8 *to, gsize room)
{
  const gchar *name = NULL;
  gint got;

  if (blosc_compcode_to_compname ((gint) step->values[BLOSC_COMPRESSOR], &name) < 0)
    return 0;
  got = blosc_compress_ctx ((gint) step->values[BLOSC_LEVEL], (gint) step->values[BLOSC_SHUFFLE_KIND], step->values[BLOSC_ELEMENT], n, from, to, room, name, 0, 1);
  return got > 0 ? (gsize) got : 0;
}

/* For libhdf5: datasets with the filter can be made and read there too. */
static size_t
blosc_filter (unsigned flags, size_t n_values, const unsigned values[], size_t n, size_t *room, void **buffer)
{
  KdH5Step step = { .id = KD_H5_BLOSC };
  size_t wanted = n_values > BLOSC_CHUNK ? values[BLOSC_CHUNK] : 0, got = 0;
  guint8 *to = NULL;

  if (n_values < N_BLOSC_VALUES || (flags & H5Z_FLAG_REVERSE && wanted > KD_H5_MAX_CHUNK_BYTES))
    return 0;
  memcpy (step.values, values, sizeof *values * N_BLOSC_VALUES);
  if (!(flags & H5Z_FLAG_REVERSE))
    wanted = n + BLOSC_MAX_OVERHEAD;
  to = H5allocate_memory (wanted, 0);
  if (to && (flags & H5Z_FLAG_REVERSE))
    got = blosc_unpack (*buffer, n, to, wanted) ? wanted : 0;
  else if (to)
    got = blosc_pack (&step, *buffer, n, to, wanted);
  if (!got) {
    H5free_memory (to);
    return 0;
  }
  H5free_memory (*buffer);
  *buffer = to;
  *room = wanted;
  return got;
}
#endif

gboolean
kd_h5_has_filter (gint id)
{
#ifdef KD_HAVE_BLOSC
  static const H5Z_class2_t blosc_class = { H5Z_CLASS_T_VERS, KD_H5_BLOSC, 1, 1, "blosc", NULL, NULL, blosc_filter };
  static gboolean registered;

  /* Ours before Debian's plugin, which trusts what the chunk says of itself. */
  if (id == KD_H5_BLOSC && !registered)
    registered = H5Zregister (&blosc_class) >= 0;
#endif
  return H5Zfilter_avail (id) > 0;
}

gboolean
kd_h5_pipeline_init (KdH5Pipeline *pipeline, const gchar *filter, gsize element, gsize chunk_bytes)
{
  *pipeline = (KdH5Pipeline) { .chunk_bytes = chunk_bytes };
  if (g_str_equal (filter, "deflate")) {
    pipeline->step[pipeline->n++] = (KdH5Step) { .id = H5Z_FILTER_SHUFFLE, .values = { (unsigned) element } };
    pipeline->step[pipeline->n++] = (KdH5Step) { .id = H5Z_FILTER_DEFLATE, .values = { 1 } };
    return TRUE;
  }
#ifdef KD_HAVE_BLOSC
  if (g_str_equal (filter, "blosc-lz4") || g_str_equal (filter, "blosc-zstd")) {
    gboolean zstd = g_str_equal (filter, "blosc-zstd");
    pipeline->step[pipeline->n++] = (KdH5Step) { .id = KD_H5_BLOSC, .values = { 2, BLOSC_VERSION_FORMAT, (unsigned) element, (unsigned) chunk_bytes, zstd ? 3 : 5, zstd ? BLOSC_BITSHUFFLE : BLOSC_SHUFFLE, zstd ? BLOSC_ZSTD : BLOSC_LZ4 } };
    return TRUE;
  }
#endif
  return FALSE;
}

gboolean
kd_h5_pipeline_set (const KdH5Pipeline *pipeline, hid_t create)
{
  for (guint i = 0; i < pipeline->n; i++) {
    const KdH5Step *step = &pipeline->step[i];
    size_t n_values = step->id == KD_H5_BLOSC ? N_BLOSC_VALUES : step->id == H5Z_FILTER_DEFLATE ? 1
                                                                                                : 0;
    if (!kd_h5_has_filter (step->id) || H5Pset_filter (create, step->id, step->id == KD_H5_BLOSC ? H5Z_FLAG_MANDATORY : H5Z_FLAG_OPTIONAL, n_values, step->values) < 0)
      return FALSE;
  }
  return TRUE;
}

static gboolean
is_compressor (gint id)
{
#ifdef KD_HAVE_BLOSC
  if (id == KD_H5_BLOSC)
    return TRUE;
#endif
  return id == H5Z_FILTER_DEFLATE;
}

gboolean
kd_h5_pipeline_has_others (hid_t create)
{
  gint n = H5Pget_nfilters (create);
  gboolean others = FALSE;

  for (gint i = 0; i < n; i++) {
    unsigned flags, config;
    size_t n_values = 0;
    gint id = H5Pget_filter2 (create, (unsigned) i, &flags, &n_values, NULL, 0, NULL, &config);
    others |= id != H5Z_FILTER_SHUFFLE && id != H5Z_FILTER_FLETCHER32 && !is_compressor (id);
  }
  return others;
}

gboolean
kd_h5_pipeline_get (KdH5Pipeline *pipeline, hid_t create, gsize element, gsize chunk_bytes)
{
  gint n = H5Pget_nfilters (create);
  guint n_compressors = 0;

  *pipeline = (KdH5Pipeline) { .chunk_bytes = chunk_bytes };
  if (n < 1 || n > (gint) G_N_ELEMENTS (pipeline->step))
    return FALSE;
  for (gint i = 0; i < n; i++) {
    KdH5Step *step = &pipeline->step[i];
    unsigned flags, config;
    size_t n_values = G_N_ELEMENTS (step->values);
    step->id = H5Pget_filter2 (create, (unsigned) i, &flags, &n_values, step->values, 0, NULL, &config);
    if (step->id == H5Z_FILTER_SHUFFLE)
      step->values[0] = (unsigned) element;
    n_compressors += is_compressor (step->id);
    /* What a second compressor unpacks to is nobody's to know. */
    if (n_compressors > 1 || (step->id != H5Z_FILTER_SHUFFLE && step->id != H5Z_FILTER_FLETCHER32 && !is_compressor (step->id)))
      return FALSE;
  }
  pipeline->n = (guint) n;
  return TRUE;
}

static void
shuffle (const guint8 *from, gsize n, gsize element, guint8 *to)
{
  gsize count = n / element;

  for (gsize b = 0; b < element; b++)
    for (gsize i = 0; i < count; i++)
      to[b * count + i] = from[i * element + b];
  memcpy (to + count * element, from + count * element, n % element);
}

static void
unshuffle (const guint8 *from, gsize n, gsize element, guint8 *to)
{
  gsize count = n / element;

  for (gsize b = 0; b < element; b++)
    for (gsize i = 0; i < count; i++)
      to[i * element + b] = from[b * count + i];
  memcpy (to + count * element, from + count * element, n % element);
}

/* Fletcher's sums of 16-bit words, big end first, an odd byte as the high one; 65535 is 0 in both. */
static gboolean
fletcher_is_right (const guint8 *from, gsize n, const guint8 *stored)
{
  guint32 low = 0, high = 0;

  for (gsize i = 0; i < n; i += 2) {
    low = (low + ((guint32) from[i] << 8) + (i + 1 < n ? from[i + 1] : 0)) % 65535;
    high = (high + low) % 65535;
  }
  return (stored[0] | stored[1] << 8) % 65535 == (gint) low && (stored[2] | stored[3] << 8) % 65535 == (gint) high;
}

#define FLETCHER_BYTES 4

/* Undoes @step; @to has room for @room bytes. Returns how many it gave, 0 when it cannot be undone. */
static gsize
undo (const KdH5Step *step, const guint8 *from, gsize n_from, guint8 *to, gsize room)
{
  if (step->id == H5Z_FILTER_SHUFFLE) {
    if (n_from > room || step->values[0] == 0)
      return 0;
    unshuffle (from, n_from, step->values[0], to);
    return n_from;
  }
  if (step->id == H5Z_FILTER_FLETCHER32) {
    gsize n = n_from - MIN (n_from, FLETCHER_BYTES);
    if (n == 0 || n > room || !fletcher_is_right (from, n, from + n))
      return 0;
    memcpy (to, from, n);
    return n;
  }
  if (step->id == H5Z_FILTER_DEFLATE) {
    uLongf got = room;
    return uncompress (to, &got, from, n_from) == Z_OK ? got : 0;
  }
#ifdef KD_HAVE_BLOSC
  return blosc_unpack (from, n_from, to, room) ? room : 0;
#else
  return 0;
#endif
}

/* How many bytes went into step @nth: checksums made it longer. */
static gsize
bytes_before (const KdH5Pipeline *pipeline, guint mask, guint nth)
{
  gsize bytes = pipeline->chunk_bytes;

  for (guint i = 0; i < nth; i++)
    bytes += pipeline->step[i].id == H5Z_FILTER_FLETCHER32 && !(mask & 1u << i) ? FLETCHER_BYTES : 0;
  return bytes;
}

gboolean
kd_h5_pipeline_unpack (const KdH5Pipeline *pipeline, guint mask, const guint8 *stored, gsize n_stored, guint8 *to)
{
  g_autofree guint8 *spare = NULL, *other = NULL;
  gsize n_from = n_stored;
  const guint8 *from = stored;

  /* Backwards; what comes out last has to end in @to. */
  for (guint i = pipeline->n; i-- > 0;) {
    gsize room = i == 0 ? pipeline->chunk_bytes : is_compressor (pipeline->step[i].id) ? bytes_before (pipeline, mask, i)
                                                                                       : n_from;
    guint8 *target = to;
    if (mask & 1u << i)
      continue;
    if (i > 0) {
      g_free (other);
      other = g_steal_pointer (&spare); /* what this step reads */
      target = spare = g_malloc (MAX (room, 1));
    }
    n_from = undo (&pipeline->step[i], from, n_from, target, room);
    if (n_from == 0)
      return FALSE;
    from = target;
  }
  if (n_from != pipeline->chunk_bytes)
    return FALSE;
  if (from != to)
    memcpy (to, from, n_from);
  return TRUE;
}

gsize
kd_h5_pipeline_room (const KdH5Pipeline *pipeline)
{
  return compressBound (pipeline->chunk_bytes) + 64;
}

gsize
kd_h5_pipeline_pack (const KdH5Pipeline *pipeline, const guint8 *from, guint8 *to)
{
  gsize n = pipeline->chunk_bytes, room = kd_h5_pipeline_room (pipeline);

  if (pipeline->n == 2 && pipeline->step[0].id == H5Z_FILTER_SHUFFLE) {
    g_autofree guint8 *shuffled = g_malloc (n);
    uLongf got = room;
    shuffle (from, n, pipeline->step[0].values[0], shuffled);
    return compress2 (to, &got, shuffled, n, (gint) pipeline->step[1].values[0]) == Z_OK ? got : 0;
  }
#ifdef KD_HAVE_BLOSC
  if (pipeline->n == 1 && pipeline->step[0].id == KD_H5_BLOSC)
    return blosc_pack (&pipeline->step[0], from, n, to, room);
#endif
  return 0;
}

gchar *
kd_h5_pipeline_text (const KdH5Pipeline *pipeline)
{
  GString *text = g_string_new (NULL);

  for (guint i = 0; i < pipeline->n; i++)
    g_string_append (text, pipeline->step[i].id == H5Z_FILTER_SHUFFLE ? ", shuffle" : pipeline->step[i].id == H5Z_FILTER_DEFLATE ? ", deflate"
                                                                                                                                 : ", blosc");
  return g_string_free (text, FALSE);
}
