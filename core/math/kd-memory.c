#include "kd-memory.h"
#include <stdatomic.h>
#include <stdint.h>
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

/* What lies before borrowed memory, in a line of its own. */
typedef struct {
  size_t bytes;
} Block;

static _Atomic (Block *) kept;

void *
kd_memory_borrow (size_t bytes)
{
  Block *block = atomic_exchange (&kept, NULL);

  if (block && block->bytes < bytes) {
    free (block);
    block = NULL;
  }
  if (!block && bytes <= SIZE_MAX - LINE) {
    block = kd_memory_new (bytes + LINE);
    if (block)
      block->bytes = bytes;
  }
  return block ? (char *) block + LINE : NULL;
}

void
kd_memory_give_back (void *memory)
{
  if (memory)
    free (atomic_exchange (&kept, (Block *) ((char *) memory - LINE)));
}

void
kd_memory_trim (void)
{
  free (atomic_exchange (&kept, NULL));
}
