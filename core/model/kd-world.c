#include "kd-world.h"

#include <errno.h>
#include <fcntl.h>
#include <glib/gstdio.h>
#include <unistd.h>

#define TYPE_NAME "KdWorld-mpi"

G_DEFINE_ABSTRACT_TYPE (KdWorld, kd_world, G_TYPE_OBJECT)

static GMutex lock; /* of the instance and of every call into it */

static void
kd_world_class_init (KdWorldClass *klass)
{
}

static void
kd_world_init (KdWorld *self)
{
}

/* Pairs of variables that say rank and size, the most telling first. */
static const struct {
  const gchar *rank, *size;
  gboolean mpi;
} starters[] = {
  { "OMPI_COMM_WORLD_RANK", "OMPI_COMM_WORLD_SIZE", TRUE },
  { "PMI_RANK", "PMI_SIZE", TRUE },
  { "SLURM_PROCID", "SLURM_STEP_NUM_TASKS", FALSE },
};

static gboolean
read_number (const gchar *name, gint *ret)
{
  const gchar *text = g_getenv (name);
  guint64 number;

  if (!text || !g_ascii_string_to_unsigned (text, 10, 0, G_MAXINT32, &number, NULL))
    return FALSE;
  *ret = (gint) number;
  return TRUE;
}

static gint
find_starter (gint *ret_rank, gint *ret_size)
{
  for (guint i = 0; i < G_N_ELEMENTS (starters); i++)
    if (read_number (starters[i].rank, ret_rank) && read_number (starters[i].size, ret_size) && *ret_size > 1 && *ret_rank < *ret_size)
      return (gint) i;
  *ret_rank = 0;
  *ret_size = 1;
  return -1;
}

gint
kd_world_rank (void)
{
  gint rank, size;

  find_starter (&rank, &size);
  return rank;
}

gint
kd_world_size (void)
{
  gint rank, size;

  find_starter (&rank, &size);
  return size;
}

/* mpirun's own folder on this machine, which goes with it. */
gboolean
kd_world_first_to_say (const gchar *text)
{
  const gchar *folder = kd_world_size () > 1 ? g_getenv ("PMIX_SERVER_TMPDIR") : NULL;
  g_autofree gchar *sum = g_compute_checksum_for_string (G_CHECKSUM_SHA256, text, -1), *name = g_strconcat ("kd-said-", sum, NULL);
  g_autofree gchar *mark = g_build_filename (folder ? folder : "", name, NULL);
  int fd = folder ? g_open (mark, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0600) : -1;
  gboolean said = folder && fd < 0 && errno == EEXIST;

  if (fd >= 0)
    close (fd);
  return !said;
}

gboolean
kd_world_register (GstPlugin *plugin, GType type)
{
  GType named = g_type_from_name (TYPE_NAME);
  GTypeQuery query;

  g_return_val_if_fail (g_type_is_a (type, KD_TYPE_WORLD), FALSE);
  if (!named) {
    g_type_query (type, &query);
    named = g_type_register_static_simple (type, TYPE_NAME, query.class_size, NULL, query.instance_size, NULL, 0);
  }
  return gst_dynamic_type_register (plugin, named);
}

/* With the lock held. */
static KdWorld *
get_world (GError **error)
{
  static KdWorld *world; /* for ever */
  gint rank, size, starter = find_starter (&rank, &size);
  GType type;

  if (world)
    return world;
  if (!starters[starter].mpi) {
    g_set_error (error, KD_ERROR, KD_ERROR_ENGINE, "Processes cannot sum: %s=%d of %s=%d, started without MPI; start them with mpirun, or leave out what needs all of them (training)",
        starters[starter].rank, rank, starters[starter].size, size);
    return NULL;
  }
  type = gst_dynamic_type_factory_load (TYPE_NAME);
  if (!type || !g_type_is_a (type, KD_TYPE_WORLD)) {
    g_set_error (error, KD_ERROR, KD_ERROR_ENGINE,
        "No MPI: %s=%d of %s=%d; install libopenmpi-dev and build kdstream with -Dmpi=enabled, and let GST_PLUGIN_PATH hold libkdenginempi.so",
        starters[starter].rank, rank, starters[starter].size, size);
    return NULL;
  }
  world = g_object_new (type, NULL);
  if (KD_WORLD_GET_CLASS (world)->size (world) != size) {
    g_set_error (error, KD_ERROR, KD_ERROR_ENGINE, "MPI sees other processes: size=%d, %s=%d; is mpirun of another MPI than the plugin's?",
        KD_WORLD_GET_CLASS (world)->size (world), starters[starter].size, size);
    g_clear_object (&world);
  }
  return world;
}

gboolean
kd_world_sum (gfloat *values, gsize n, GError **error)
{
  g_autoptr (GMutexLocker) locker = kd_world_size () > 1 ? g_mutex_locker_new (&lock) : NULL;
  KdWorld *world = locker ? get_world (error) : NULL;

  return !locker || (world && KD_WORLD_GET_CLASS (world)->sum (world, values, n, error));
}

gboolean
kd_world_sum_doubles (gdouble *values, gsize n, GError **error)
{
  g_autoptr (GMutexLocker) locker = kd_world_size () > 1 ? g_mutex_locker_new (&lock) : NULL;
  KdWorld *world = locker ? get_world (error) : NULL;

  return !locker || (world && KD_WORLD_GET_CLASS (world)->sum_doubles (world, values, n, error));
}

gboolean
kd_world_same (guint64 value, gboolean *ret_same, GError **error)
{
  g_autoptr (GMutexLocker) locker = kd_world_size () > 1 ? g_mutex_locker_new (&lock) : NULL;
  KdWorld *world = locker ? get_world (error) : NULL;
  guint64 low = value, high = value;

  if (locker && !(world && KD_WORLD_GET_CLASS (world)->bounds (world, value, &low, &high, error)))
    return FALSE;
  *ret_same = low == high;
  return TRUE;
}

gboolean
kd_world_can_meet (void)
{
  gint rank, size, starter = find_starter (&rank, &size);

  return starter >= 0 && starters[starter].mpi;
}

/* The lock is not held while waiting: another thread may be in the middle of a sum. */
gboolean
kd_world_barrier (const gchar *name, GError **error)
{
  KdWorldMeeting *meeting = NULL;
  gboolean over = kd_world_size () == 1, good = TRUE;

  while (good && !over) {
    g_autoptr (GMutexLocker) locker = g_mutex_locker_new (&lock);
    KdWorld *world = get_world (error);
    if (!world)
      return FALSE;
    if (meeting) {
      good = KD_WORLD_GET_CLASS (world)->met (world, meeting, &over, error);
    } else {
      meeting = KD_WORLD_GET_CLASS (world)->meet (world, g_str_hash (name) & 0x7fff, error);
      good = meeting != NULL;
    }
    g_clear_pointer (&locker, g_mutex_locker_free);
    if (good && !over)
      g_usleep (1000);
  }
  return good;
}
