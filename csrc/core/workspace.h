/* What one call into the core carries: scratch memory, the place for an error message, and a way to
 * ask the caller whether to go on. A workspace belongs to one call and one thread; a model does not. */
#ifndef CLIPC_CORE_WORKSPACE_H
#define CLIPC_CORE_WORKSPACE_H

#include "core/memory.h"
#include "core/status.h"

typedef struct {
    clipc_arena arena;
    clipc_message message;
    /* Called between layers, from the calling thread only; true stops the call with
     * CLIPC_INTERRUPTED. NULL: never. */
    bool (*interrupted)(void *context);
    void *interrupted_context;
} clipc_workspace;

void clipc_workspace_init(clipc_workspace *workspace);
void clipc_workspace_free(clipc_workspace *workspace);

/* *block: count elements of `size` bytes of scratch, valid until the mark taken before is released. */
clipc_status clipc_workspace_alloc(clipc_workspace *workspace, void **block, size_t count, size_t size);
clipc_status clipc_workspace_floats(clipc_workspace *workspace, float **block, size_t count);

/* CLIPC_INTERRUPTED when the caller wants to stop, else CLIPC_OK. */
clipc_status clipc_workspace_poll(clipc_workspace *workspace);

/* Leaves a function that returns clipc_status as soon as a step fails. */
#define CLIPC_TRY(step)                         \
    do {                                        \
        clipc_status clipc_try_status = (step); \
        if (clipc_try_status != CLIPC_OK) {     \
            return clipc_try_status;            \
        }                                       \
    } while (0)

#endif
