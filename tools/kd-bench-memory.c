/* Memory that a piece of work takes while it runs: a thread that looks at the process's resident size. */
#include "kd-bench.h"
#include <kd/kd.h>
#include <malloc.h>
#include <unistd.h>

struct _KdBenchMemory {
  GThread *thread;
  gint stop;
  gint64 before, peak;
};

static gint64
kd_resident_bytes (void)
{
  g_autofree gchar *text = NULL;
  gchar *end;

  if (!g_file_get_contents ("/proc/self/statm", &text, NULL, NULL))
    return 0;
  g_ascii_strtoll (text, &end, 10);
  return g_ascii_strtoll (end, NULL, 10) * sysconf (_SC_PAGESIZE);
}

static gpointer
kd_memory_watch (gpointer data)
{
  KdBenchMemory *memory = data;

  while (!g_atomic_int_get (&memory->stop)) {
    memory->peak = MAX (memory->peak, kd_resident_bytes ());
    g_usleep (100);
  }
  return NULL;
}

KdBenchMemory *
kd_bench_memory_start (void)
{
  KdBenchMemory *memory = g_new0 (KdBenchMemory, 1);

  kd_memory_trim (); /* what runs before have freed would be used again unseen */
#ifdef __GLIBC__
  malloc_trim (0);
#endif
  memory->before = memory->peak = kd_resident_bytes ();
  memory->thread = g_thread_new ("kd-bench-memory", kd_memory_watch, memory);
  return memory;
}

gdouble
kd_bench_memory_stop (KdBenchMemory *memory)
{
  gdouble bytes;

  g_atomic_int_set (&memory->stop, 1);
  g_thread_join (memory->thread);
  bytes = (gdouble) (memory->peak - memory->before);
  g_free (memory);
  return bytes;
}
