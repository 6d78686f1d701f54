/* Allocation: aligned blocks that live as long as a model, and the arena that one call works in. */
#ifndef CLIPC_CORE_MEMORY_H
#define CLIPC_CORE_MEMORY_H

#include <stdbool.h>
#include <stddef.h>

/* Wide enough for one AVX-512 register and one cache line. */
#define CLIPC_ALIGNMENT 64

/* A block of count * size bytes, aligned to CLIPC_ALIGNMENT; NULL when memory is short or the product
 * overflows. The caller frees it with clipc_aligned_free. */
void *clipc_aligned_alloc(size_t count, size_t size);
void clipc_aligned_free(void *block);

/* Asks the system to back the whole pages of a large block with large ones: fewer page faults when it is
 * filled, fewer address translations when it is read. No more memory is taken, and nothing happens where
 * there are none. */
void clipc_want_large_pages(void *block, size_t bytes);

/* Stack of scratch blocks. Memory is taken from the system in chunks, handed out in order, and given
 * back all together; a mark lets a layer return what it used to the layers after it. Chunks stay with
 * the arena until clipc_arena_free, so a batch loop allocates only in its first round. */
typedef struct clipc_arena_chunk clipc_arena_chunk;

typedef struct {
    clipc_arena_chunk *first;
    clipc_arena_chunk *current;
} clipc_arena;

typedef struct {
    clipc_arena_chunk *chunk;
    size_t used;
} clipc_arena_mark;

void clipc_arena_init(clipc_arena *arena);
void clipc_arena_free(clipc_arena *arena);

/* NULL when memory is short or count * size overflows. Contents are not initialised. */
void *clipc_arena_alloc(clipc_arena *arena, size_t count, size_t size);

clipc_arena_mark clipc_arena_get_mark(const clipc_arena *arena);
void clipc_arena_release(clipc_arena *arena, clipc_arena_mark mark);

#endif
