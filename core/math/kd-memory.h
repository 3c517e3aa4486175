/* Memory for tables of numbers. */
#pragma once
#include <stddef.h>

#ifndef KD_API
#define KD_API __attribute__ ((visibility ("default")))
#endif

/** kd_memory_new: @bytes (0 is 1) that begin on a line of the cache; for free (). NULL where there is no more. Two MiB and more lie in large
 * pages where the system gives them: a core that streams through small ones waits for their addresses, a third of a loss's time. */
KD_API void *kd_memory_new (size_t bytes);

/** kd_memory_borrow: as kd_memory_new, but for kd_memory_give_back: what a kernel needs while it runs. The last block given back is kept for the
 * next call that it is large enough for: a training asks for the same each step, and the system takes as long to clear new pages as some kernels
 * to fill them. For any thread. */
KD_API void *kd_memory_borrow (size_t bytes);
/** kd_memory_give_back: @memory of kd_memory_borrow, or NULL. */
KD_API void kd_memory_give_back (void *memory);
/** kd_memory_trim: frees what is kept. */
KD_API void kd_memory_trim (void);
