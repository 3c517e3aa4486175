/* KdBatch: a GstMeta that holds the tensors, and the memory that only counts their bytes. */
#include "kd-batch.h"

#include <string.h>

typedef struct {
  gconstpointer key;
  gpointer object;
  GDestroyNotify free_func;
} KdBatchNote;

/* The accounting memory: no bytes behind it, only a size, so that queues bound what the tensors really take. */
typedef struct {
  GstAllocator parent;
} KdCountAllocator;
typedef struct {
  GstAllocatorClass parent;
} KdCountAllocatorClass;

GType kd_count_allocator_get_type (void);
G_DEFINE_TYPE (KdCountAllocator, kd_count_allocator, GST_TYPE_ALLOCATOR)

#define COUNT_MAX ((gsize) G_MAXSSIZE / 2)

static GstMemory *
count_memory_new (GstAllocator *allocator, gsize size)
{
  GstMemory *memory = g_new0 (GstMemory, 1);

  gst_memory_init (memory, GST_MEMORY_FLAG_NOT_MAPPABLE, allocator, NULL, COUNT_MAX, 0, 0, size);
  return memory;
}

static GstMemory *
count_alloc (GstAllocator *allocator, gsize size, GstAllocationParams *params)
{
  return count_memory_new (allocator, size);
}

static void
count_free (GstAllocator *allocator, GstMemory *memory)
{
  g_free (memory);
}

static gpointer
count_map (GstMemory *memory, gsize max_size, GstMapFlags flags)
{
  return NULL;
}

static void
count_unmap (GstMemory *memory)
{
}

static GstMemory *
count_copy (GstMemory *memory, gssize offset, gssize size)
{
  return count_memory_new (memory->allocator, size < 0 ? memory->size : (gsize) size);
}

static void
kd_count_allocator_class_init (KdCountAllocatorClass *klass)
{
  GST_ALLOCATOR_CLASS (klass)->alloc = count_alloc;
  GST_ALLOCATOR_CLASS (klass)->free = count_free;
}

static void
kd_count_allocator_init (KdCountAllocator *self)
{
  GstAllocator *allocator = GST_ALLOCATOR (self);

  allocator->mem_type = "KdTensors";
  allocator->mem_map = count_map;
  allocator->mem_unmap = count_unmap;
  allocator->mem_copy = count_copy;
  allocator->mem_share = count_copy;
  GST_OBJECT_FLAG_SET (self, GST_ALLOCATOR_FLAG_CUSTOM_ALLOC);
}

static GstAllocator *
count_allocator (void)
{
  static gsize once;

  if (g_once_init_enter (&once)) {
    GstAllocator *allocator = g_object_ref_sink (g_object_new (kd_count_allocator_get_type (), NULL));
    GST_OBJECT_FLAG_SET (allocator, GST_OBJECT_FLAG_MAY_BE_LEAKED);
    g_once_init_leave (&once, (gsize) allocator);
  }
  return (GstAllocator *) once;
}

static void
note_clear (KdBatchNote *note)
{
  if (note->free_func)
    note->free_func (note->object);
  g_free (note);
}

static void
field_clear (gpointer data)
{
  kd_tensor_unref (((KdBatchField *) data)->tensor);
}

static gboolean
batch_init (GstMeta *meta, gpointer params, GstBuffer *buffer)
{
  KdBatch *batch = (KdBatch *) meta;

  batch->n_samples = 0;
  batch->epoch = 0;
  batch->index = 0;
  batch->cursor = 0;
  batch->flags = 0;
  batch->n_counted = 0;
  batch->fields = g_array_sized_new (FALSE, FALSE, sizeof (KdBatchField), 12);
  g_array_set_clear_func (batch->fields, field_clear);
  batch->notes = NULL;
  return TRUE;
}

static void
batch_free (GstMeta *meta, GstBuffer *buffer)
{
  KdBatch *batch = (KdBatch *) meta;

  /* Notes (tapes) first: they may lean on tensors. */
  g_clear_pointer (&batch->notes, g_ptr_array_unref);
  g_array_unref (batch->fields);
}

/* A copied buffer (behind a tee, or made writable) shares the tensors; tapes stay with the original. */
static gboolean
batch_transform (GstBuffer *to, GstMeta *meta, GstBuffer *from, GQuark type, gpointer data)
{
  const KdBatch *old = (const KdBatch *) meta;
  KdBatch *new;

  if (!GST_META_TRANSFORM_IS_COPY (type))
    return FALSE;
  new = (KdBatch *) gst_buffer_add_meta (to, kd_batch_get_info (), NULL);
  new->n_samples = old->n_samples;
  new->epoch = old->epoch;
  new->index = old->index;
  new->cursor = old->cursor;
  new->flags = old->flags;
  new->n_counted = old->n_counted;
  for (guint i = 0; i < old->fields->len; i++) {
    KdBatchField field = *kd_batch_nth (old, i);
    kd_tensor_ref (field.tensor);
    g_array_append_val (new->fields, field);
  }
  return TRUE;
}

GType
kd_batch_api_get_type (void)
{
  static gsize type;
  static const gchar *tags[] = { NULL };

  if (g_once_init_enter (&type))
    g_once_init_leave (&type, gst_meta_api_type_register ("KdBatchAPI", tags));
  return type;
}

const GstMetaInfo *
kd_batch_get_info (void)
{
  static gsize info;

  if (g_once_init_enter (&info))
    g_once_init_leave (&info, (gsize) gst_meta_register (kd_batch_api_get_type (), "KdBatch", sizeof (KdBatch), batch_init, batch_free, batch_transform));
  return (const GstMetaInfo *) info;
}

GstBuffer *
kd_batch_buffer_new (gint64 n_samples, KdBatch **ret_batch)
{
  GstBuffer *buffer = gst_buffer_new ();
  KdBatch *batch;

  gst_buffer_append_memory (buffer, count_memory_new (count_allocator (), 0));
  batch = (KdBatch *) gst_buffer_add_meta (buffer, kd_batch_get_info (), NULL);
  batch->n_samples = n_samples;
  if (ret_batch)
    *ret_batch = batch;
  return buffer;
}

KdBatch *
kd_batch_get (GstBuffer *buffer)
{
  return (KdBatch *) gst_buffer_get_meta (buffer, kd_batch_api_get_type ());
}

guint
kd_batch_n_fields (const KdBatch *batch)
{
  return batch->fields->len;
}

const KdBatchField *
kd_batch_nth (const KdBatch *batch, guint i)
{
  return &g_array_index (batch->fields, KdBatchField, i);
}

static KdBatchField *
find (const KdBatch *batch, const gchar *name)
{
  /* A dozen fields: a scan beats a hash, and interned names mostly settle it by address. */
  for (guint i = 0; i < batch->fields->len; i++) {
    KdBatchField *field = &g_array_index (batch->fields, KdBatchField, i);
    if (field->name == name || strcmp (field->name, name) == 0)
      return field;
  }
  return NULL;
}

KdTensor *
kd_batch_peek (const KdBatch *batch, const gchar *name)
{
  const KdBatchField *field = find (batch, name);

  return field ? field->tensor : NULL;
}

KdTensor *
kd_batch_read (KdBatch *batch, const gchar *name)
{
  KdBatchField *field = find (batch, name);

  if (!field)
    return NULL;
  field->n_reads++;
  return field->tensor;
}

void
kd_batch_set (KdBatch *batch, const gchar *name, KdTensor *tensor)
{
  KdBatchField *field = find (batch, name);

  if (field) {
    if (field->tensor != tensor) {
      kd_tensor_unref (field->tensor);
      field->tensor = tensor;
      field->n_reads = 0;
    } else {
      kd_tensor_unref (tensor); /* the same again: the caller's reference is one too many */
    }
  } else {
    KdBatchField new = { .name = g_intern_string (name), .tensor = tensor };
    g_array_append_val (batch->fields, new);
  }
}

KdTensor *
kd_batch_steal (KdBatch *batch, const gchar *name)
{
  KdBatchField *field = find (batch, name);
  KdTensor *tensor;

  if (!field)
    return NULL;
  tensor = kd_tensor_ref (field->tensor);
  g_array_remove_index (batch->fields, field - (KdBatchField *) (gpointer) batch->fields->data);
  return tensor;
}

void
kd_batch_remove (KdBatch *batch, const gchar *name)
{
  KdTensor *tensor = kd_batch_steal (batch, name);

  if (tensor)
    kd_tensor_unref (tensor);
}

void
kd_batch_take_rows (KdBatch *batch, const gint64 *rows, gint64 n)
{
  g_clear_pointer (&batch->notes, g_ptr_array_unref);
  for (guint i = 0; i < batch->fields->len; i++) {
    KdBatchField *field = &g_array_index (batch->fields, KdBatchField, i);
    KdTensor *old = field->tensor;
    if (old->rank == 0 || old->dims[0] != batch->n_samples)
      continue;
    field->tensor = kd_tensor_take (old, rows, n);
    kd_tensor_unref (old);
  }
  batch->n_samples = n;
}

KdLayout *
kd_batch_layout (const KdBatch *batch)
{
  KdLayout *layout = kd_layout_new ();

  for (guint i = 0; i < batch->fields->len; i++) {
    const KdBatchField *field = kd_batch_nth (batch, i);
    kd_layout_set (layout, field->name, field->tensor->dtype, field->tensor->rank, field->tensor->dims);
  }
  return layout;
}

void
kd_batch_update_size (GstBuffer *buffer)
{
  const KdBatch *batch = kd_batch_get (buffer);
  GstMemory *memory = gst_buffer_n_memory (buffer) == 1 ? gst_buffer_peek_memory (buffer, 0) : NULL;
  gsize bytes = 0;

  if (!batch || !memory || memory->allocator != count_allocator ())
    return;
  for (guint i = 0; i < batch->fields->len; i++)
    bytes += kd_batch_nth (batch, i)->tensor->n_bytes;
  /* Not gst_buffer_resize: that would share the memory when it is not exclusive, for nothing. */
  if (gst_mini_object_is_writable (GST_MINI_OBJECT_CAST (memory)))
    memory->size = MIN (bytes, COUNT_MAX);
  else
    gst_buffer_replace_all_memory (buffer, count_memory_new (count_allocator (), MIN (bytes, COUNT_MAX)));
}

void
kd_batch_set_note (KdBatch *batch, gconstpointer key, gpointer object, GDestroyNotify free_func)
{
  KdBatchNote *note = g_new (KdBatchNote, 1);

  kd_batch_drop_note (batch, key);
  if (!batch->notes)
    batch->notes = g_ptr_array_new_with_free_func ((GDestroyNotify) note_clear);
  *note = (KdBatchNote) { key, object, free_func };
  g_ptr_array_add (batch->notes, note);
}

gpointer
kd_batch_get_note (const KdBatch *batch, gconstpointer key)
{
  for (guint i = 0; batch->notes && i < batch->notes->len; i++) {
    KdBatchNote *note = g_ptr_array_index (batch->notes, i);
    if (note->key == key)
      return note->object;
  }
  return NULL;
}

void
kd_batch_drop_note (KdBatch *batch, gconstpointer key)
{
  for (guint i = 0; batch->notes && i < batch->notes->len; i++) {
    KdBatchNote *note = g_ptr_array_index (batch->notes, i);
    if (note->key == key) {
      g_ptr_array_remove_index (batch->notes, i);
      return;
    }
  }
}
