/* The thread pool: loops over independent tasks, shared by all calls of the process.
 *
 * One caller at a time uses the pool; a second thread that arrives meanwhile runs its own loop by
 * itself, so several Python threads share the machine without waiting for each other. Workers sleep
 * when there is nothing to do. After fork() the child starts with no workers and makes new ones when
 * it needs them.
 */
#ifndef CLIPC_CORE_THREADS_H
#define CLIPC_CORE_THREADS_H

#include <stddef.h>

#include "core/status.h"

/* Registers the fork handlers and sets the default number of threads: the processors of the affinity
 * mask, less when the control group has a smaller quota. Called once, when the module is loaded. */
clipc_status clipc_threads_init(clipc_message *message);

/* Threads that a loop may use, the caller included. n from 1 to CLIPC_MAX_THREADS. */
#define CLIPC_MAX_THREADS 1024
int clipc_get_num_threads(void);
clipc_status clipc_set_num_threads(int n, clipc_message *message);

/* Calls task(context, i) once for each i in [0, n_tasks), on any thread, in any order, and returns when
 * all have finished. Nested calls run in the calling thread. A task cannot fail; what can (allocation)
 * is done before the loop. */
typedef void (*clipc_task)(void *context, size_t index);
void clipc_parallel_for(size_t n_tasks, clipc_task task, void *context);

#endif
