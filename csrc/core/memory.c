#include "core/memory.h"

#include <stdint.h>
#include <stdlib.h>

#define CHUNK_BYTES ((size_t)1 << 20)

struct clipc_arena_chunk {
    clipc_arena_chunk *next;
    size_t capacity;
    size_t used;
    unsigned char *data;
};

/* False when count * size, rounded up to the alignment, does not fit a size_t. */
static bool aligned_bytes(size_t count, size_t size, size_t *bytes)
{
    if (size != 0 && count > (SIZE_MAX - CLIPC_ALIGNMENT) / size) {
        return false;
    }
    *bytes = (count * size + CLIPC_ALIGNMENT - 1) / CLIPC_ALIGNMENT * CLIPC_ALIGNMENT;
    return true;
}

void *clipc_aligned_alloc(size_t count, size_t size)
{
    size_t bytes;
    if (!aligned_bytes(count, size, &bytes)) {
        return NULL;
    }
    return aligned_alloc(CLIPC_ALIGNMENT, bytes ? bytes : CLIPC_ALIGNMENT);
}

void clipc_aligned_free(void *block)
{
    free(block);
}

void clipc_arena_init(clipc_arena *arena)
{
    arena->first = NULL;
    arena->current = NULL;
}

void clipc_arena_free(clipc_arena *arena)
{
    clipc_arena_chunk *chunk = arena->first;
    while (chunk != NULL) {
        clipc_arena_chunk *next = chunk->next;
        clipc_aligned_free(chunk->data);
        free(chunk);
        chunk = next;
    }
    clipc_arena_init(arena);
}

static clipc_arena_chunk *chunk_new(size_t bytes)
{
    clipc_arena_chunk *chunk = malloc(sizeof *chunk);
    if (chunk == NULL) {
        return NULL;
    }
    chunk->next = NULL;
    chunk->used = 0;
    chunk->capacity = bytes > CHUNK_BYTES ? bytes : CHUNK_BYTES;
    chunk->data = clipc_aligned_alloc(chunk->capacity, 1);
    if (chunk->data == NULL) {
        free(chunk);
        return NULL;
    }
    return chunk;
}

void *clipc_arena_alloc(clipc_arena *arena, size_t count, size_t size)
{
    size_t bytes;
    if (!aligned_bytes(count, size, &bytes)) {
        return NULL;
    }
    if (bytes == 0) {
        bytes = CLIPC_ALIGNMENT;
    }
    clipc_arena_chunk *chunk = arena->current;
    if (chunk == NULL || chunk->capacity - chunk->used < bytes) {
        /* Chunks after the current one are empty leftovers of an earlier, deeper use. The first that
         * is large enough serves; smaller ones before it stay empty until the next release. */
        clipc_arena_chunk *last = chunk;
        clipc_arena_chunk *next = chunk ? chunk->next : arena->first;
        while (next != NULL && next->capacity < bytes) {
            last = next;
            next = next->next;
        }
        if (next == NULL) {
            next = chunk_new(bytes);
            if (next == NULL) {
                return NULL;
            }
            if (last != NULL) {
                last->next = next;
            } else {
                arena->first = next;
            }
        }
        next->used = 0;
        arena->current = chunk = next;
    }
    void *block = chunk->data + chunk->used;
    chunk->used += bytes;
    return block;
}

clipc_arena_mark clipc_arena_get_mark(const clipc_arena *arena)
{
    clipc_arena_mark mark = {arena->current, arena->current ? arena->current->used : 0};
    return mark;
}

void clipc_arena_release(clipc_arena *arena, clipc_arena_mark mark)
{
    arena->current = mark.chunk;
    if (mark.chunk != NULL) {
        mark.chunk->used = mark.used;
    }
}
