/* Unpacked chunks: one store for the whole process, bounded in bytes, the least recently used go first. Chunks are unpacked by the threads
 * of a pool and by whoever waits for them, outside every lock; who reads in order has the next ones unpacked meanwhile.
 * Lock order: the store's lock is the innermost; nothing is called while it is held. */
#include "kd-h5-private.h"

#include <errno.h>
#include <string.h>

#define DEFAULT_BUDGET ((gsize) 64 << 20)
/* Chunks that are begun before anyone has asked for them. */
#define AHEAD 8

typedef enum { QUEUED,
  BUSY,
  READY,
  FAILED } State;

typedef struct {
  const KdH5Column *column;
  gint64 nth;
} Key;

/* An entry lives as long as @n_users or the table has it. */
typedef struct {
  Key key;
  KdH5Map *map;
  State state;
  guint n_users;
  gboolean dropped; /* out of the table */
  gint error;       /* FAILED: errno of the read, 0: damaged */
  guint8 *data;
  gsize bytes; /* of data */
  GList link;  /* in the order of use, newest first */
} Chunk;

static GMutex lock;
static GCond changed;
static GHashTable *table;
static GQueue order = G_QUEUE_INIT;
static gsize used_bytes;
static GThreadPool *pool;
/* Memory of dropped chunks, for the next ones of that size: a fresh piece costs as much in page faults as unpacking into it. */
#define N_SPARE 16
static struct {
  guint8 *data;
  gsize bytes;
} spare[N_SPARE];

static gsize
budget (void)
{
  static gsize plus_one;

  if (g_once_init_enter (&plus_one)) {
    const gchar *text = g_getenv ("KD_CHUNK_CACHE");
    g_once_init_leave (&plus_one, (text ? (gsize) MIN (g_ascii_strtoull (text, NULL, 10), G_MAXINT64) : DEFAULT_BUDGET) + 1);
  }
  return plus_one - 1;
}

static guint
key_hash (gconstpointer data)
{
  const Key *key = data;

  return (guint) (((guint64) (gsize) key->column * 0x9e3779b97f4a7c15u + (guint64) key->nth * 0xc2b2ae3d27d4eb4fu) >> 32);
}

static gboolean
key_equal (gconstpointer a, gconstpointer b)
{
  return ((const Key *) a)->column == ((const Key *) b)->column && ((const Key *) a)->nth == ((const Key *) b)->nth;
}

/* Locked; (transfer full). */
static guint8 *
get_buffer (gsize bytes)
{
  for (guint i = 0; i < N_SPARE; i++)
    if (spare[i].data && spare[i].bytes == bytes)
      return g_steal_pointer (&spare[i].data);
  return g_malloc (bytes);
}

/* Locked; (transfer full) @data. */
static void
give_buffer (guint8 *data, gsize bytes)
{
  static guint next;

  next = (next + 1) % N_SPARE;
  g_free (spare[next].data);
  spare[next].data = data;
  spare[next].bytes = bytes;
}

/* Locked. */
static void
release (Chunk *chunk)
{
  if (--chunk->n_users > 0 || !chunk->dropped)
    return;
  kd_h5_map_unref (chunk->map);
  if (chunk->data)
    give_buffer (chunk->data, chunk->bytes);
  g_free (chunk);
}

/* Locked. */
static void
drop (Chunk *chunk)
{
  if (chunk->dropped)
    return;
  g_hash_table_remove (table, &chunk->key);
  g_queue_unlink (&order, &chunk->link);
  used_bytes -= chunk->key.column->pipeline.chunk_bytes;
  chunk->dropped = TRUE;
  chunk->n_users++;
  release (chunk);
}

/* Reads and unpacks; not locked. */
static void
unpack (Chunk *chunk)
{
  const KdH5Column *column = chunk->key.column;
  gsize n_stored = column->chunk_sizes[chunk->key.nth];
  g_autofree guint8 *copy = NULL;
  const guint8 *stored = chunk->map->bytes ? chunk->map->bytes + column->chunks[chunk->key.nth] : (copy = g_malloc (MAX (n_stored, 1)));
  guint8 *data;
  gboolean good = TRUE;
  gint error = 0;

  g_mutex_lock (&lock);
  data = get_buffer (column->pipeline.chunk_bytes);
  g_mutex_unlock (&lock);
  if (copy && !kd_h5_map_copy (chunk->map, column->chunks[chunk->key.nth], copy, n_stored)) {
    good = FALSE;
    error = errno;
  }
  good = good && kd_h5_pipeline_unpack (&column->pipeline, 0, stored, n_stored, data);
  g_mutex_lock (&lock);
  chunk->data = data;
  chunk->bytes = column->pipeline.chunk_bytes;
  chunk->error = error;
  chunk->state = good ? READY : FAILED;
  g_cond_broadcast (&changed);
  g_mutex_unlock (&lock);
}

/* Whoever comes first unpacks it. */
static void
claim_and_unpack (Chunk *chunk)
{
  gboolean mine;

  g_mutex_lock (&lock);
  mine = chunk->state == QUEUED;
  if (mine)
    chunk->state = BUSY;
  g_mutex_unlock (&lock);
  if (mine)
    unpack (chunk);
}

static void
work (gpointer data, gpointer user_data)
{
  claim_and_unpack (data);
  g_mutex_lock (&lock);
  release (data);
  g_mutex_unlock (&lock);
}

/* Locked: room for one more. What is being used is counted, not thrown away. */
static void
make_room (gsize bytes)
{
  GList *link = order.tail;

  while (link && used_bytes + bytes > budget ()) {
    Chunk *chunk = link->data;
    link = link->prev;
    if (chunk->n_users == 0)
      drop (chunk);
  }
}

/* Locked: the chunk, from the store or new in it (@ret_new), with one user more. */
static Chunk *
acquire (const KdH5Column *column, KdH5Map *map, gint64 nth, gboolean *ret_new)
{
  Key key = { column, nth };
  Chunk *chunk;

  if (!table)
    table = g_hash_table_new (key_hash, key_equal);
  chunk = g_hash_table_lookup (table, &key);
  *ret_new = chunk == NULL;
  if (!chunk) {
    make_room (column->pipeline.chunk_bytes);
    chunk = g_new0 (Chunk, 1);
    chunk->key = key;
    chunk->map = kd_h5_map_ref (map);
    chunk->link.data = chunk;
    g_hash_table_insert (table, &chunk->key, chunk);
    used_bytes += column->pipeline.chunk_bytes;
  } else {
    g_queue_unlink (&order, &chunk->link);
  }
  g_queue_push_head_link (&order, &chunk->link);
  chunk->n_users++;
  return chunk;
}

static void
give_to_pool (Chunk *chunk)
{
  g_mutex_lock (&lock);
  if (!pool)
    pool = g_thread_pool_new (work, NULL, (gint) g_get_num_processors (), FALSE, NULL);
  chunk->n_users++;
  g_mutex_unlock (&lock);
  g_thread_pool_push (pool, chunk, NULL);
}

void
kd_h5_chunks_forget (const KdH5Column *column)
{
  if (column->storage != KD_H5_FILTERED)
    return;
  g_mutex_lock (&lock);
  for (GList *link = order.head, *next; link; link = next) {
    Chunk *chunk = link->data;
    next = link->next;
    if (chunk->key.column != column)
      continue;
    if (chunk->state == QUEUED)
      chunk->state = FAILED; /* a thread that comes to it later finds nothing to do */
    if (chunk->state == BUSY) {
      g_cond_wait (&changed, &lock);
      next = order.head; /* anything may have happened */
      continue;
    }
    drop (chunk);
  }
  g_mutex_unlock (&lock);
}

static gboolean
fail (const KdH5Column *column, const gchar *path, const Chunk *chunk, GError **error)
{
  return kd_h5_fail (error, KD_ERROR_IO, path, column->name, "row=%" G_GINT64_FORMAT ", chunk=%" G_GINT64_FORMAT ", reason=%s", chunk->key.nth * column->chunk_rows, chunk->key.nth,
      chunk->error ? g_strerror (chunk->error) : "does not unpack; the file is damaged or cut");
}

static void
copy_rows (const KdH5Column *column, const Chunk *chunk, const gint64 *rows, gint64 first, gint64 n, guint8 *to)
{
  gint64 begin = chunk->key.nth * column->chunk_rows, end = begin + column->chunk_rows;
  gsize bytes = column->row_bytes;

  if (!rows) {
    gint64 from = MAX (first, begin), until = MIN (first + n, end);
    memcpy (to + (gsize) (from - first) * bytes, chunk->data + (gsize) (from - begin) * bytes, (gsize) (until - from) * bytes);
    return;
  }
  for (gint64 i = 0; i < n; i++)
    if (rows[i] >= begin && rows[i] < end)
      memcpy (to + (gsize) i * bytes, chunk->data + (gsize) (rows[i] - begin) * bytes, bytes);
}

/* The chunks of a call in the order of the file, each once. */
static GArray *
chunks_of (const KdH5Column *column, const gint64 *rows, gint64 first, gint64 n)
{
  gint64 low = rows ? G_MAXINT64 : first / column->chunk_rows, high = rows ? -1 : (first + n - 1) / column->chunk_rows;
  GArray *list = g_array_new (FALSE, FALSE, sizeof (gint64));
  g_autofree guint8 *wanted = NULL;

  for (gint64 i = 0; i < n && rows; i++) {
    low = MIN (low, rows[i] / column->chunk_rows);
    high = MAX (high, rows[i] / column->chunk_rows);
  }
  wanted = g_malloc0 ((gsize) (high - low + 1));
  for (gint64 i = 0; i < n && rows; i++)
    wanted[rows[i] / column->chunk_rows - low] = 1;
  for (gint64 i = low; i <= high; i++)
    if (!rows || wanted[i - low])
      g_array_append_val (list, i);
  return list;
}

/* Reading in order: the next chunks are begun. */
static void
read_ahead (KdH5Column *column, KdH5Map *map, gint64 low, gint64 high)
{
  gint64 n_chunks = (column->n_rows + column->chunk_rows - 1) / column->chunk_rows;
  gboolean in_order = low == column->last_chunk || low == column->last_chunk + 1;

  column->last_chunk = high;
  for (gint64 i = high + 1; in_order && i < n_chunks && i <= high + AHEAD; i++) {
    gboolean is_new;
    Chunk *chunk;
    g_mutex_lock (&lock);
    chunk = acquire (column, map, i, &is_new);
    g_mutex_unlock (&lock);
    if (is_new)
      give_to_pool (chunk);
    g_mutex_lock (&lock);
    release (chunk);
    g_mutex_unlock (&lock);
  }
}

/* A few at a time, so that a call that wants more than the store holds does not have all of it in memory. */
static gboolean
take_some (KdH5Column *column, const gchar *path, KdH5Map *map, const gint64 *nth, guint n_chunks, const gint64 *rows, gint64 first, gint64 n,
    guint8 *to, GError **error)
{
  g_autofree Chunk **chunks = g_new (Chunk *, n_chunks);
  gboolean good = TRUE;

  for (guint i = 0; i < n_chunks; i++) {
    gboolean is_new;
    g_mutex_lock (&lock);
    chunks[i] = acquire (column, map, nth[i], &is_new);
    g_mutex_unlock (&lock);
    if (is_new && i + 1 < n_chunks) /* the last one is this thread's own */
      give_to_pool (chunks[i]);
  }
  for (guint i = n_chunks; i-- > 0;)
    claim_and_unpack (chunks[i]);
  for (guint i = 0; i < n_chunks; i++) {
    g_mutex_lock (&lock);
    while (chunks[i]->state == BUSY)
      g_cond_wait (&changed, &lock);
    g_mutex_unlock (&lock);
    if (good && chunks[i]->state == READY)
      copy_rows (column, chunks[i], rows, first, n, to);
    else if (good)
      good = fail (column, path, chunks[i], error);
    g_mutex_lock (&lock);
    if (chunks[i]->state == FAILED)
      drop (chunks[i]);
    release (chunks[i]);
    g_mutex_unlock (&lock);
  }
  return good;
}

static gboolean
is_run (const gint64 *rows, gint64 n)
{
  for (gint64 i = 1; i < n; i++)
    if (rows[i] != rows[0] + i)
      return FALSE;
  return TRUE;
}

gboolean
kd_h5_chunks_take (KdH5Column *column, const gchar *path, KdH5Map *map, const gint64 *rows, gint64 first, gint64 n, gpointer to, GError **error)
{
  g_autoptr (GArray) list = NULL;
  guint step = (guint) CLAMP (budget () / 2 / MAX (column->pipeline.chunk_bytes, 1), 1, 64);
  const gint64 *nth;

  if (n == 0)
    return TRUE;
  if (rows && is_run (rows, n)) { /* copied by chunks, not by rows */
    first = rows[0];
    rows = NULL;
  }
  list = chunks_of (column, rows, first, n);
  nth = (const gint64 *) list->data;
  for (guint i = 0; i < list->len; i += step)
    if (!take_some (column, path, map, nth + i, MIN (step, list->len - i), rows, first, n, to, error))
      return FALSE;
  read_ahead (column, map, nth[0], nth[list->len - 1]);
  return TRUE;
}
