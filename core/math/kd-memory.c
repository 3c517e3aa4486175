#include "kd-memory.h"
#include <stdlib.h>
#ifdef __linux__
#include <sys/mman.h>
#endif

#define LINE 64
#define LARGE_PAGE ((size_t) 2 << 20)

void *
kd_memory_new (size_t bytes)
{
  size_t alignment = bytes < LARGE_PAGE ? LINE : LARGE_PAGE;
  void *memory = NULL;

  if (posix_memalign (&memory, alignment, bytes > 0 ? bytes : 1) != 0)
    return NULL;
#ifdef MADV_HUGEPAGE
  if (bytes >= LARGE_PAGE) /* whole ones; a system without them is no error */
    (void) madvise (memory, bytes / LARGE_PAGE * LARGE_PAGE, MADV_HUGEPAGE);
#endif
  return memory;
}
