/* Memory for tables of numbers. */
#pragma once
#include <stddef.h>

#ifndef KD_API
#define KD_API __attribute__ ((visibility ("default")))
#endif

/** kd_memory_new: @bytes (0 is 1) that begin on a line of the cache; for free (). NULL where there is no more. Two MiB and more lie in large
 * pages where the system gives them: a core that streams through small ones waits for their addresses, a third of a loss's time. */
KD_API void *kd_memory_new (size_t bytes);
