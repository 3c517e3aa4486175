/**
 * SECTION:plugin-kdenginempi
 * @short_description: sums over the processes of one run, by MPI
 *
 * The only file that knows MPI. Started by `mpirun -n 4 kd launch '...'`: sources give each rank its share of the rows, kdtrain sums gradients here,
 * kdcachesink lets each rank write its own parts and waits here until all have.
 */
#include <kd/kd.h>
#include <mpi.h>
#include <stdlib.h>

/* Elements of one call: MPI counts in int. */
#define MAX_COUNT ((gsize) 1 << 30)

typedef struct {
  KdWorld parent;
} KdMpiWorld;
typedef KdWorldClass KdMpiWorldClass;

GType kd_mpi_world_get_type (void);
G_DEFINE_TYPE (KdMpiWorld, kd_mpi_world, KD_TYPE_WORLD)

static gboolean
refuse (const gchar *call, int code, GError **error)
{
  char text[MPI_MAX_ERROR_STRING] = "";
  int length;

  MPI_Error_string (code, text, &length);
  g_set_error (error, KD_ERROR, KD_ERROR_ENGINE, "MPI failed: call=%s, %s; another rank has most likely ended", call, text);
  return FALSE;
}

static gboolean
sum_in_place (gpointer values, gsize n, gsize size, MPI_Datatype type, GError **error)
{
  for (gsize first = 0; first < n; first += MAX_COUNT) {
    int code = MPI_Allreduce (MPI_IN_PLACE, (gchar *) values + first * size, (int) MIN (MAX_COUNT, n - first), type, MPI_SUM, MPI_COMM_WORLD);
    if (code != MPI_SUCCESS)
      return refuse ("MPI_Allreduce", code, error);
  }
  return TRUE;
}

static gboolean
mpi_sum (KdWorld *world, gfloat *values, gsize n, GError **error)
{
  return sum_in_place (values, n, sizeof *values, MPI_FLOAT, error);
}

static gboolean
mpi_sum_doubles (KdWorld *world, gdouble *values, gsize n, GError **error)
{
  return sum_in_place (values, n, sizeof *values, MPI_DOUBLE, error);
}

static gboolean
mpi_bounds (KdWorld *world, guint64 value, guint64 *ret_min, guint64 *ret_max, GError **error)
{
  int code = MPI_Allreduce (&value, ret_min, 1, MPI_UINT64_T, MPI_MIN, MPI_COMM_WORLD);

  if (code == MPI_SUCCESS)
    code = MPI_Allreduce (&value, ret_max, 1, MPI_UINT64_T, MPI_MAX, MPI_COMM_WORLD);
  return code == MPI_SUCCESS || refuse ("MPI_Allreduce", code, error);
}

/* Everyone tells the first, who then tells everyone. @n: requests under way; @back: the second half. */
struct _KdWorldMeeting {
  int tag, rank, size, n;
  gboolean back;
  MPI_Request requests[];
};

static int
start_half (KdWorldMeeting *meeting, gboolean receive)
{
  int first = meeting->rank == 0 ? 1 : 0, end = meeting->rank == 0 ? meeting->size : 1, code = MPI_SUCCESS;

  meeting->n = 0;
  for (int other = first; other < end && code == MPI_SUCCESS; other++) {
    MPI_Request *request = &meeting->requests[meeting->n++];
    code = receive ? MPI_Irecv (NULL, 0, MPI_BYTE, other, meeting->tag, MPI_COMM_WORLD, request) : MPI_Isend (NULL, 0, MPI_BYTE, other, meeting->tag, MPI_COMM_WORLD, request);
  }
  return code;
}

static KdWorldMeeting *
mpi_meet (KdWorld *world, guint tag, GError **error)
{
  KdWorldMeeting *meeting;
  int rank, size, code;

  MPI_Comm_rank (MPI_COMM_WORLD, &rank);
  MPI_Comm_size (MPI_COMM_WORLD, &size);
  meeting = g_malloc0 (sizeof *meeting + (gsize) size * sizeof (MPI_Request));
  meeting->tag = (int) tag;
  meeting->rank = rank;
  meeting->size = size;
  code = start_half (meeting, rank == 0);
  if (code == MPI_SUCCESS)
    return meeting;
  g_free (meeting);
  refuse ("MPI_Isend", code, error);
  return NULL;
}

static gboolean
mpi_met (KdWorld *world, KdWorldMeeting *meeting, gboolean *ret_over, GError **error)
{
  int done = 0, code = MPI_Testall (meeting->n, meeting->requests, &done, MPI_STATUSES_IGNORE);

  *ret_over = done && meeting->back;
  if (code == MPI_SUCCESS && done && !meeting->back) {
    code = start_half (meeting, meeting->rank > 0);
    meeting->back = TRUE;
  }
  if (code != MPI_SUCCESS || *ret_over)
    g_free (meeting);
  return code == MPI_SUCCESS || refuse ("MPI_Testall", code, error);
}

static gint
mpi_size (KdWorld *world)
{
  int size = 1;

  MPI_Comm_size (MPI_COMM_WORLD, &size);
  return size;
}

/* MPI_Finalize waits for the others. One that failed must not wait: they wait for its gradients. */
static void
end_mpi (int status, void *unused)
{
  int done = 0;

  MPI_Finalized (&done);
  if (!done && status != 0)
    MPI_Abort (MPI_COMM_WORLD, status);
  if (!done)
    MPI_Finalize ();
}

static void
kd_mpi_world_init (KdMpiWorld *self)
{
  int started = 0, level;

  MPI_Initialized (&started);
  if (!started) {
    MPI_Init_thread (NULL, NULL, MPI_THREAD_SERIALIZED, &level);
    on_exit (end_mpi, NULL);
  }
  MPI_Comm_set_errhandler (MPI_COMM_WORLD, MPI_ERRORS_RETURN);
}

static void
kd_mpi_world_class_init (KdMpiWorldClass *klass)
{
  klass->size = mpi_size;
  klass->sum = mpi_sum;
  klass->sum_doubles = mpi_sum_doubles;
  klass->bounds = mpi_bounds;
  klass->meet = mpi_meet;
  klass->met = mpi_met;
}

KD_PLUGIN_DEFINE ("Sums over the processes of a run (MPI)", return kd_world_register (plugin, kd_mpi_world_get_type ());)
