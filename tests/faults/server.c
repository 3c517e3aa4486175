/* Loaded with LD_PRELOAD beside fault.c: instead of running main once, the program waits for requests and runs main in a fork for each, so that its libraries
 * are loaded once for a thousand faults (libtorch takes most of a second). It is the program itself that runs, from the first line of its main to its exit.
 *   KD_SERVER_FD    a SOCK_SEQPACKET socket: requests come (words, each ended by \0: NAME=VALUE for the environment, an empty one, then the words of
 *                   argv), answers go (int: the status that waitpid gave); its end is the server's
 *   KD_SERVER_OUT, KD_SERVER_ERR  descriptors that become a fork's stdout and stderr
 *   KD_SERVER_LOAD  a module to load before the first fork */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#define MAX_WORDS 64
#define REQUEST_BYTES 65536

typedef int (*Main) (int argc, char **argv, char **envp);
typedef int (*Start) (Main, int argc, char **argv, void (*init) (void), void (*fini) (void), void (*rtld_fini) (void), void *stack_end);

int __libc_start_main (Main program, int argc, char **argv, void (*init) (void), void (*fini) (void), void (*rtld_fini) (void), void *stack_end);

static Main real_main;

static int
number (const char *name)
{
  const char *text = getenv (name);

  return text ? atoi (text) : -1;
}

/* At exit, after everything that the fork itself began (libhdf5's end is such a thing): libtorch would take longer to unregister its operators than the whole
 * command takes. */
static void
leave (int code, void *nothing)
{
  fflush (NULL);
  _exit (code);
}

/* In the fork. */
static int
run (char *request, size_t n)
{
  static char *argv[MAX_WORDS + 1];
  int argc = 0, in_argv = 0;

  for (char *word = request; word < request + n && argc < MAX_WORDS; word += strlen (word) + 1)
    if (in_argv)
      argv[argc++] = word;
    else if (*word == '\0')
      in_argv = 1;
    else
      putenv (word);
  close (number ("KD_SERVER_FD"));
  if (argc == 0 || dup2 (number ("KD_SERVER_OUT"), 1) < 0 || dup2 (number ("KD_SERVER_ERR"), 2) < 0)
    return 127;
  unsetenv ("KD_SERVER_FD");
  return real_main (argc, argv, environ);
}

static int
serve (int argc, char **argv, char **envp)
{
  static char request[REQUEST_BYTES];
  const char *module = getenv ("KD_SERVER_LOAD");
  int fd = number ("KD_SERVER_FD"), status;
  ssize_t n;

  if (fd < 0)
    return real_main (argc, argv, envp);
  if (module && !dlopen (module, RTLD_LAZY)) {
    fprintf (stderr, "%s\n", dlerror ());
    return 127;
  }
  on_exit (leave, NULL);
  while ((n = read (fd, request, sizeof request - 1)) > 0) {
    pid_t pid = fork ();
    if (pid == 0)
      return run (request, (size_t) n);
    if (pid < 0 || waitpid (pid, &status, 0) != pid || send (fd, &status, sizeof status, MSG_NOSIGNAL) < 0)
      return 127;
  }
  return 0;
}

int
__libc_start_main (Main program, int argc, char **argv, void (*init) (void), void (*fini) (void), void (*rtld_fini) (void), void *stack_end)
{
  Start start = (Start) dlsym (RTLD_NEXT, "__libc_start_main");

  real_main = program;
  return start (serve, argc, argv, init, fini, rtld_fini, stack_end);
}
