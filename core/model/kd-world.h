/* KdWorld: this process among those that one run was started as (mpirun, srun). Alone it is rank 0 of 1 and every call costs nothing.
 * Who is there comes from the environment; sums come from a plugin (plugins/engine/mpi), the only place that knows MPI. */
#pragma once
#include <gst/gst.h>
#include "../kd-error.h"

G_BEGIN_DECLS

/** kd_world_rank, kd_world_size: from OMPI_COMM_WORLD_* or PMI_* (mpirun), else from SLURM_PROCID and SLURM_STEP_NUM_TASKS (srun); 0 and 1 alone.
 * SLURM_NTASKS is not asked: it is there in a batch script too, which is one process. */
KD_API gint kd_world_rank (void);
KD_API gint kd_world_size (void);

/** kd_world_sum: @values [@n], summed over all ranks in place, the same bits on each. All ranks must call it with the same @n, in the same order.
 * KD_ERROR_ENGINE when there is more than one process and none of them can sum: the MPI plugin is missing, or srun started them without MPI. */
KD_API gboolean kd_world_sum (gfloat *values, gsize n, GError **error);
KD_API gboolean kd_world_sum_doubles (gdouble *values, gsize n, GError **error);
/** kd_world_same: whether @value is the same on every rank; all get the same answer. */
KD_API gboolean kd_world_same (guint64 value, gboolean *ret_same, GError **error);
/** kd_world_first_to_say: of the processes that mpirun started on this machine, whether this one is the first to call it with @text, so that what all of them
 * have to say is said once. Where they cannot know (srun, another mpirun than Open MPI's), all are. */
KD_API gboolean kd_world_first_to_say (const gchar *text);
/** kd_world_can_meet: whether mpirun started the processes, so that they can wait for each other. */
KD_API gboolean kd_world_can_meet (void);
/** kd_world_barrier: returns when every rank has called it with the same @name; what else goes on meanwhile, sums and barriers of other names, is not
 * disturbed. Who waits costs no processor time. */
KD_API gboolean kd_world_barrier (const gchar *name, GError **error);

#define KD_TYPE_WORLD (kd_world_get_type ())
KD_API GType kd_world_get_type (void);
G_DECLARE_DERIVABLE_TYPE (KdWorld, kd_world, KD, WORLD, GObject)

/* What a barrier of a plugin keeps between two looks at it. */
typedef struct _KdWorldMeeting KdWorldMeeting;

/**
 * KdWorldClass: what a plugin implements; an instance is made once, in the first call that needs it, from any thread; calls are serialised.
 * @size: ranks that it sees, to be compared with what the environment says
 * @meet: begins a barrier of those that give the same @tag (0 to 32767)
 * @met: looks at it; frees it when it is over, or fails
 */
struct _KdWorldClass {
  GObjectClass parent;
  gint (*size) (KdWorld *world);
  gboolean (*sum) (KdWorld *world, gfloat *values, gsize n, GError **error);
  gboolean (*sum_doubles) (KdWorld *world, gdouble *values, gsize n, GError **error);
  gboolean (*bounds) (KdWorld *world, guint64 value, guint64 *ret_min, guint64 *ret_max, GError **error);
  KdWorldMeeting *(*meet) (KdWorld *world, guint tag, GError **error);
  gboolean (*met) (KdWorld *world, KdWorldMeeting *meeting, gboolean *ret_over, GError **error);
  gpointer padding[8];
};

/** kd_world_register: what the plugin's init calls; found as GStreamer dynamic type "KdWorld-mpi". */
KD_API gboolean kd_world_register (GstPlugin *plugin, GType type);

G_END_DECLS
