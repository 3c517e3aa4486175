/* KdTensor: memory comes from size-classed free lists, so that a running stream allocates nothing: a batch's tensors are the
 * ones of the batch before. */
#include "kd-tensor.h"
#include "../math/kd-memory.h"

#include <stdlib.h>
#include <string.h>

#define ALIGNMENT 64
/* A list keeps at most this many bytes, so that an odd large batch does not stay for ever. */
#define POOL_CLASS_MAX_BYTES ((gsize) 256 << 20)
#define POOL_CLASSES 48

static struct {
  GMutex lock;
  gpointer head;
  gsize n;
} pool[POOL_CLASSES];

G_DEFINE_BOXED_TYPE (KdTensor, kd_tensor, kd_tensor_ref, kd_tensor_unref)

/* Under AddressSanitizer each tensor has its exact size and goes back at once, so that a byte too far and a use too late are seen. */
#if defined(__SANITIZE_ADDRESS__)
#define EXACT 1
#elif defined(__has_feature)
#if __has_feature(address_sanitizer)
#define EXACT 1
#endif
#endif
#ifndef EXACT
#define EXACT 0
#endif

/* Classes are powers of two from 64 bytes: at most half is waste, and only of address space (pages come when touched, 2 MiB at most too many). */
static guint
pool_class (gsize bytes)
{
  return bytes <= ALIGNMENT ? 6 : g_bit_storage (bytes - 1);
}

static gpointer
pool_alloc (gsize bytes)
{
  guint class = pool_class (bytes);
  gpointer memory = NULL;

  if (EXACT)
    return kd_memory_new (bytes);
  g_mutex_lock (&pool[class].lock);
  if (pool[class].head) {
    memory = pool[class].head;
    pool[class].head = *(gpointer *) memory;
    pool[class].n--;
  }
  g_mutex_unlock (&pool[class].lock);
  if (!memory)
    memory = kd_memory_new ((gsize) 1 << class);
  if (!memory)
    g_error ("Out of memory: %" G_GSIZE_FORMAT " bytes for a tensor", bytes);
  return memory;
}

static void
pool_free (gpointer memory, gsize bytes)
{
  guint class = pool_class (bytes);

  if (EXACT) {
    free (memory);
    return;
  }
  g_mutex_lock (&pool[class].lock);
  if ((pool[class].n + 1) << class <= POOL_CLASS_MAX_BYTES) {
    *(gpointer *) memory = pool[class].head;
    pool[class].head = memory;
    pool[class].n++;
    memory = NULL;
  }
  g_mutex_unlock (&pool[class].lock);
  free (memory);
}

static KdTensor *
tensor_new (KdDtype dtype, guint rank, const gint64 *dims, gsize n_bytes)
{
  KdTensor *tensor = g_new0 (KdTensor, 1);

  g_assert (rank <= KD_MAX_RANK);
  tensor->dtype = dtype;
  tensor->rank = rank;
  if (rank)
    memcpy (tensor->dims, dims, rank * sizeof *dims);
  tensor->n_bytes = n_bytes;
  g_atomic_ref_count_init (&tensor->ref_count);
  return tensor;
}

gboolean
kd_shape_bytes (KdDtype dtype, guint rank, const gint64 *dims, gsize *ret_bytes)
{
  gsize bytes = kd_dtype_size (dtype);

  if (rank > KD_MAX_RANK)
    return FALSE;
  for (guint i = 0; i < rank; i++)
    if (dims[i] < 0 || !g_size_checked_mul (&bytes, bytes, (gsize) dims[i]))
      return FALSE;
  if (bytes > G_MAXSSIZE / 2)
    return FALSE;
  *ret_bytes = bytes;
  return TRUE;
}

KdTensor *
kd_tensor_new (KdDtype dtype, guint rank, const gint64 *dims)
{
  KdTensor *tensor;
  gsize bytes = 0;

  if (!kd_shape_bytes (dtype, rank, dims, &bytes))
    g_error ("kd_tensor_new: shape overflows; the caller must check it (kd_shape_bytes)");
  tensor = tensor_new (dtype, rank, dims, bytes);
  tensor->data = pool_alloc (bytes);
  return tensor;
}

KdTensor *
kd_tensor_new_zero (KdDtype dtype, guint rank, const gint64 *dims)
{
  KdTensor *tensor = kd_tensor_new (dtype, rank, dims);

  memset (tensor->data, 0, tensor->n_bytes);
  return tensor;
}

KdTensor *
kd_tensor_new_wrapped (KdDtype dtype, guint rank, const gint64 *dims, gpointer data, gpointer owner,
    GDestroyNotify owner_free)
{
  KdTensor *tensor;
  gsize bytes = 0;

  if (!kd_shape_bytes (dtype, rank, dims, &bytes))
    g_error ("kd_tensor_new_wrapped: shape overflows; the caller must check it (kd_shape_bytes)");
  tensor = tensor_new (dtype, rank, dims, bytes);
  tensor->data = data;
  tensor->owner = owner ? owner : tensor;
  tensor->owner_free = owner_free;
  return tensor;
}

KdTensor *
kd_tensor_new_scalar (gdouble value)
{
  KdTensor *tensor = kd_tensor_new (KD_FLOAT64, 0, NULL);

  *(gdouble *) tensor->data = value;
  return tensor;
}

KdTensor *
kd_tensor_new_utf8 (gint64 n, const gint64 *offsets, gconstpointer bytes)
{
  gsize table_bytes = (gsize) (n + 1) * sizeof (gint64), n_bytes = (gsize) offsets[n];
  /* One block, table first: both live and die together. */
  gint64 *block = g_malloc (table_bytes + n_bytes);
  KdTensor *tensor = tensor_new (KD_UTF8, 1, &n, n_bytes);

  memcpy (block, offsets, table_bytes);
  if (n_bytes)
    memcpy (block + n + 1, bytes, n_bytes);
  tensor->offsets = block;
  tensor->data = block + n + 1;
  tensor->owner = block;
  tensor->owner_free = g_free;
  return tensor;
}

KdTensor *
kd_tensor_ref (KdTensor *tensor)
{
  g_atomic_ref_count_inc (&tensor->ref_count);
  return tensor;
}

void
kd_tensor_unref (KdTensor *tensor)
{
  if (!g_atomic_ref_count_dec (&tensor->ref_count))
    return;
  if (tensor->owner_free)
    tensor->owner_free (tensor->owner);
  else if (!tensor->owner)
    pool_free (tensor->data, tensor->n_bytes);
  g_free (tensor);
}

gboolean
kd_tensor_is_writable (const KdTensor *tensor)
{
  return !tensor->owner && g_atomic_ref_count_compare ((gatomicrefcount *) &tensor->ref_count, 1);
}

gsize
kd_tensor_n_elements (const KdTensor *tensor)
{
  gsize n = 1;

  for (guint i = 0; i < tensor->rank; i++)
    n *= (gsize) tensor->dims[i];
  return n;
}

gsize
kd_tensor_row_elements (const KdTensor *tensor)
{
  gsize n = 1;

  for (guint i = 1; i < tensor->rank; i++)
    n *= (gsize) tensor->dims[i];
  return n;
}

static gsize
row_bytes (const KdTensor *tensor)
{
  return kd_tensor_row_elements (tensor) * kd_dtype_size (tensor->dtype);
}

static KdTensor *
take_utf8 (const KdTensor *tensor, const gint64 *rows, gint64 n)
{
  g_autofree gint64 *offsets = g_new (gint64, n + 1);
  g_autoptr (GByteArray) bytes = g_byte_array_new ();

  offsets[0] = 0;
  for (gint64 i = 0; i < n; i++) {
    gint64 start = tensor->offsets[rows[i]], end = tensor->offsets[rows[i] + 1];
    g_byte_array_append (bytes, (const guint8 *) tensor->data + start, (guint) (end - start));
    offsets[i + 1] = offsets[i] + end - start;
  }
  return kd_tensor_new_utf8 (n, offsets, bytes->data);
}

KdTensor *
kd_tensor_slice (KdTensor *tensor, gint64 first, gint64 n)
{
  KdTensor *view;
  gint64 dims[KD_MAX_RANK];

  g_return_val_if_fail (tensor->rank > 0 && first >= 0 && n >= 0 && first + n <= tensor->dims[0], NULL);
  if (tensor->dtype == KD_UTF8) {
    g_autofree gint64 *rows = g_new (gint64, MAX (n, 1));
    for (gint64 i = 0; i < n; i++)
      rows[i] = first + i;
    return take_utf8 (tensor, rows, n);
  }
  memcpy (dims, tensor->dims, sizeof dims);
  dims[0] = n;
  view = kd_tensor_new_wrapped (tensor->dtype, tensor->rank, dims,
      (guint8 *) tensor->data + (gsize) first * row_bytes (tensor), kd_tensor_ref (tensor),
      (GDestroyNotify) kd_tensor_unref);
  return view;
}

KdTensor *
kd_tensor_take (const KdTensor *tensor, const gint64 *rows, gint64 n)
{
  KdTensor *out;
  gint64 dims[KD_MAX_RANK];
  gsize bytes = row_bytes (tensor);

  if (tensor->dtype == KD_UTF8)
    return take_utf8 (tensor, rows, n);
  memcpy (dims, tensor->dims, sizeof dims);
  dims[0] = n;
  out = kd_tensor_new (tensor->dtype, tensor->rank, dims);
  for (gint64 i = 0; i < n; i++)
    memcpy ((guint8 *) out->data + (gsize) i * bytes, (const guint8 *) tensor->data + (gsize) rows[i] * bytes, bytes);
  return out;
}

static gboolean
concat_fits (const KdTensor *first, const KdTensor *other, GError **error)
{
  g_autofree gchar *a = kd_tensor_shape_string (first), *b = kd_tensor_shape_string (other);

  if (other->dtype != first->dtype) {
    g_set_error (error, KD_ERROR, KD_ERROR_DTYPE, "Types differ: %s, %s; tensors of one type can be joined",
        kd_dtype_name (first->dtype), kd_dtype_name (other->dtype));
    return FALSE;
  }
  if (first->rank == 0 || other->rank != first->rank ||
      memcmp (other->dims + 1, first->dims + 1, (first->rank - 1) * sizeof (gint64))) {
    g_set_error (error, KD_ERROR, KD_ERROR_SHAPE, "Shapes differ: %s, %s; all but the first axis must agree", a, b);
    return FALSE;
  }
  return TRUE;
}

static KdTensor *
concat_utf8 (KdTensor *const *tensors, guint n, gint64 n_rows)
{
  g_autofree gint64 *offsets = g_new0 (gint64, n_rows + 1);
  g_autoptr (GByteArray) bytes = g_byte_array_new ();
  gint64 row = 0;

  for (guint i = 0; i < n; i++) {
    gint64 base = (gint64) bytes->len - tensors[i]->offsets[0];
    g_byte_array_append (bytes, tensors[i]->data, (guint) tensors[i]->n_bytes);
    for (gint64 j = 1; j <= tensors[i]->dims[0]; j++)
      offsets[++row] = base + tensors[i]->offsets[j];
  }
  return kd_tensor_new_utf8 (n_rows, offsets, bytes->data);
}

KdTensor *
kd_tensor_concat (KdTensor *const *tensors, guint n, GError **error)
{
  gint64 dims[KD_MAX_RANK];
  KdTensor *out;
  gsize at = 0;

  g_return_val_if_fail (n > 0, NULL);
  memcpy (dims, tensors[0]->dims, sizeof dims);
  dims[0] = 0;
  for (guint i = 0; i < n; i++) {
    if (!concat_fits (tensors[0], tensors[i], error))
      return NULL;
    dims[0] += tensors[i]->dims[0];
  }
  if (tensors[0]->dtype == KD_UTF8)
    return concat_utf8 (tensors, n, dims[0]);
  out = kd_tensor_new (tensors[0]->dtype, tensors[0]->rank, dims);
  for (guint i = 0; i < n; i++) {
    memcpy ((guint8 *) out->data + at, tensors[i]->data, tensors[i]->n_bytes);
    at += tensors[i]->n_bytes;
  }
  return out;
}

gboolean
kd_tensor_equal (const KdTensor *a, const KdTensor *b)
{
  if (a->dtype != b->dtype || a->rank != b->rank || memcmp (a->dims, b->dims, a->rank * sizeof (gint64)) ||
      a->n_bytes != b->n_bytes)
    return FALSE;
  if (a->offsets && memcmp (a->offsets, b->offsets, (gsize) (a->dims[0] + 1) * sizeof (gint64)))
    return FALSE;
  return a->n_bytes == 0 || memcmp (a->data, b->data, a->n_bytes) == 0;
}

gchar *
kd_tensor_shape_string (const KdTensor *tensor)
{
  GString *text = g_string_new ("[");

  for (guint i = 0; i < tensor->rank; i++)
    g_string_append_printf (text, "%s%" G_GINT64_FORMAT, i ? "," : "", tensor->dims[i]);
  g_string_append_c (text, ']');
  return g_string_free (text, FALSE);
}
