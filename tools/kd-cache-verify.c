/* kd cache verify: here, in a child that may crash or hang, or against the teacher itself. */
#include "kd-cache-work.h"

#include <errno.h>
#include <signal.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

/* What the child may take. */
typedef struct {
  gint64 seconds, megabytes;
} Limits;

static void
limit_child (gpointer data)
{
  const Limits *limits = data;
  const struct rlimit memory = { (rlim_t) limits->megabytes << 20, (rlim_t) limits->megabytes << 20 }, none = { 0, 0 };
  const struct rlimit seconds = { (rlim_t) limits->seconds + 1, (rlim_t) limits->seconds + 1 };

  setrlimit (RLIMIT_AS, &memory);
  setrlimit (RLIMIT_CPU, &seconds);
  setrlimit (RLIMIT_CORE, &none);
}

/* TRUE when it ended by itself; it is dead in any case. */
static gboolean
wait_child (GPid pid, gint64 seconds, int *ret_status)
{
  gint64 until = g_get_monotonic_time () + seconds * G_USEC_PER_SEC;
  pid_t got;

  while ((got = waitpid (pid, ret_status, WNOHANG)) == 0 && g_get_monotonic_time () < until)
    g_usleep (10000);
  if (got == pid)
    return TRUE;
  kill (pid, SIGKILL);
  while (waitpid (pid, ret_status, 0) < 0 && errno == EINTR)
    ;
  return FALSE;
}

/* The same check in a process that may crash: HDF5 has known faults with malformed files. */
static int
verify_in_child (const gchar *path, gboolean quiet, Limits *limits)
{
  g_autofree gchar *self = kd_tool_self ();
  const gchar *args[] = { self, "cache", "verify", quiet ? "--quiet" : "--", quiet ? "--" : path, quiet ? path : NULL, NULL };
  g_autoptr (GError) error = NULL;
  GPid pid;
  int status = 0;

  if (!g_spawn_async (NULL, (gchar **) args, NULL, G_SPAWN_DO_NOT_REAP_CHILD, limit_child, limits, &pid, &error))
    return kd_tool_fail ("%s", error->message);
  if (!wait_child (pid, limits->seconds, &status))
    return kd_tool_fail ("Cache made the reader hang: path=\"%s\", seconds=%" G_GINT64_FORMAT "; do not open it, or give it more time with --seconds", path, limits->seconds);
  if (WIFEXITED (status))
    return WEXITSTATUS (status);
  return kd_tool_fail ("Cache made the reader crash: path=\"%s\", signal=%d (%s); do not open it, or give it more memory with --megabytes", path, WTERMSIG (status),
      g_strsignal (WTERMSIG (status)));
}

static int
verify_here (const gchar *path, gboolean quiet)
{
  g_autofree gchar *report = NULL;
  g_autoptr (GError) error = NULL;
  KdCacheWork work = { { 0 } };
  gboolean good;

  kd_cache_work_begin (&work);
  good = kd_cache_verify (path, work.options.progress, &work, &report, &error);
  kd_cache_work_end (&work);
  if (report && !quiet)
    g_print ("%s", report);
  if (!good)
    return kd_tool_fail ("%s", error->message);
  if (!quiet)
    g_print ("good\n");
  return KD_EXIT_DONE;
}

int
kd_cache_verify_command (int argc, char **argv)
{
  gboolean sandbox = FALSE, quiet = FALSE;
  Limits limits = { 600, 4096 };
  gint sample = 100, seed = 0;
  g_autofree gchar *teacher = NULL, *data = NULL;
  const GOptionEntry options[] = {
    { "sandbox", 's', 0, G_OPTION_ARG_NONE, &sandbox, "Check in a child process with limited memory and time: for files of others", NULL },
    { "seconds", 0, 0, G_OPTION_ARG_INT64, &limits.seconds, "With --sandbox: how long it may take (default 600)", "N" },
    { "megabytes", 0, 0, G_OPTION_ARG_INT64, &limits.megabytes, "With --sandbox: how much memory it may take (default 4096)", "N" },
    { "teacher", 't', 0, G_OPTION_ARG_STRING, &teacher, "Compute a sample of rows again with this teacher, and what stands before it; '': the one that the cache names", "ELEMENTS" },
    { "data", 'd', 0, G_OPTION_ARG_FILENAME, &data, "With --teacher: the batch file the cache was made from", "FILE.h5" },
    { "sample", 'n', 0, G_OPTION_ARG_INT, &sample, "With --teacher: how many rows (default 100)", "N" },
    { "seed", 0, 0, G_OPTION_ARG_INT, &seed, "With --teacher: which rows", "N" },
    { "quiet", 'q', 0, G_OPTION_ARG_NONE, &quiet, "Print only what is wrong", NULL },
    { NULL },
  };

  if (!kd_tool_options (&argc, &argv, options, "CACHE", "Check every part of a teacher cache: presence, size, keys and all checksums; or a sample of its rows.",
          "Examples:\n  kd cache verify --sandbox t.h5\n"
          "  kd cache verify t.h5 --teacher 'kdteacher arch=\"mlp dims=64,256,10\" weights=teacher.safetensors' --data train.h5\n\n"
          "With --teacher values have to be as close as the cache's encoding says. Top-k and sampled logits are looked at beside the whole ones: no larger class\n"
          "may have been left out, and draws may not be too unlikely (below 1e-9). 'kdteacher ... ! kdlogitsample draws=50 seed=0' draws them again instead;\n"
          "what was made at a temperature needs its element too: 'kdteacher ... ! kdlogittopk k=50 temperature=4'.\n\nExit code: 0 good, 1 damaged, 2 wrong usage."))
    return KD_EXIT_USAGE;
  if (argc > 1 && g_str_equal (argv[1], "--")) {
    argv++;
    argc--;
  }
  if (argc != 2)
    return kd_tool_usage ("wanted one cache, got %d", argc - 1);
  if (!teacher != !data || (teacher && sandbox))
    return kd_tool_usage ("--teacher and --data go together, and not with --sandbox");
  if (limits.seconds < 1 || limits.megabytes < 1 || limits.megabytes > 1 << 20 || sample < 1)
    return kd_tool_usage ("--seconds, --megabytes and --sample: wanted at least 1");
  if (sandbox)
    return verify_in_child (argv[1], quiet, &limits);
  return teacher ? kd_cache_audit (argv[1], teacher, data, sample, (guint) seed, quiet) : verify_here (argv[1], quiet);
}
