#define _DEFAULT_SOURCE /* MAP_ANONYMOUS, madvise */
#include "core/memory.h"

#include <stdint.h>
#include <stdlib.h>
#include <sys/mman.h>

#define CHUNK_BYTES ((size_t)1 << 20)

/* Chunks from this size on come from the system directly: malloc would keep what a large batch needed, 130 MB
 * for 32 images, in the process after it is freed. It may keep smaller ones, which saves the next call page
 * faults. */
#define MAPPED_CHUNK_BYTES ((size_t)8 << 20)

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

#define LARGE_PAGE_BYTES ((size_t)2 << 20)

void clipc_want_large_pages(void *block, size_t bytes)
{
#if defined(MADV_HUGEPAGE)
    const size_t before = (size_t)(-(uintptr_t)block % LARGE_PAGE_BYTES);
    if (bytes >= before + LARGE_PAGE_BYTES) {
        const size_t whole = (bytes - before) / LARGE_PAGE_BYTES * LARGE_PAGE_BYTES;
        madvise((unsigned char *)block + before, whole, MADV_HUGEPAGE);
    }
#else
    (void)block;
    (void)bytes;
#endif
}

void clipc_arena_init(clipc_arena *arena)
{
    arena->first = NULL;
    arena->current = NULL;
}

static void *chunk_data_new(size_t bytes)
{
    if (bytes < MAPPED_CHUNK_BYTES) {
        return clipc_aligned_alloc(bytes, 1);
    }
    void *data = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (data == MAP_FAILED) {
        return NULL;
    }
#if defined(MADV_HUGEPAGE)
    madvise(data, bytes, MADV_HUGEPAGE); /* a wish: hundreds of page faults become one */
#endif
    return data;
}

static void chunk_data_free(void *data, size_t bytes)
{
    if (bytes < MAPPED_CHUNK_BYTES) {
        clipc_aligned_free(data);
    } else {
        munmap(data, bytes);
    }
}

void clipc_arena_free(clipc_arena *arena)
{
    clipc_arena_chunk *chunk = arena->first;
    while (chunk != NULL) {
        clipc_arena_chunk *next = chunk->next;
        chunk_data_free(chunk->data, chunk->capacity);
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
    chunk->data = chunk_data_new(chunk->capacity);
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
