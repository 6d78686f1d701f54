#include "core/workspace.h"

#include <limits.h>

void clipc_workspace_init(clipc_workspace *workspace)
{
    clipc_arena_init(&workspace->arena);
    workspace->message.text[0] = '\0';
    workspace->interrupted = NULL;
    workspace->interrupted_context = NULL;
}

void clipc_workspace_free(clipc_workspace *workspace)
{
    clipc_arena_free(&workspace->arena);
}

clipc_status clipc_workspace_alloc(clipc_workspace *workspace, void **block, size_t count, size_t size)
{
    *block = clipc_arena_alloc(&workspace->arena, count, size);
    if (*block == NULL) {
        const bool fits = size == 0 || count <= ULLONG_MAX / size;
        return clipc_fail_memory(&workspace->message, fits ? (unsigned long long)count * size : ULLONG_MAX);
    }
    return CLIPC_OK;
}

clipc_status clipc_workspace_floats(clipc_workspace *workspace, float **block, size_t count)
{
    void *memory;
    CLIPC_TRY(clipc_workspace_alloc(workspace, &memory, count, sizeof(float)));
    *block = memory;
    return CLIPC_OK;
}

clipc_status clipc_workspace_poll(clipc_workspace *workspace)
{
    if (workspace->interrupted != NULL && workspace->interrupted(workspace->interrupted_context)) {
        return clipc_fail(&workspace->message, CLIPC_INTERRUPTED, "interrupted");
    }
    return CLIPC_OK;
}
