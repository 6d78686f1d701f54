#include "detection/components.h"

/* Pixels between two looks for an interrupt. */
#define POLL_PIXELS ((size_t)1 << 20)

/* parents[i] <= i; a root is its own parent. */
static int32_t find_root(int32_t *parents, int32_t i)
{
    while (parents[i] != i) {
        parents[i] = parents[parents[i]]; /* halves the path */
        i = parents[i];
    }
    return i;
}

/* The root of both, the smaller number, which came first in reading order. */
static int32_t join(int32_t *parents, int32_t a, int32_t b)
{
    const int32_t root_a = find_root(parents, a), root_b = find_root(parents, b);
    const int32_t smaller = root_a < root_b ? root_a : root_b;
    parents[root_a] = smaller;
    parents[root_b] = smaller;
    return smaller;
}

/* One row of the first pass. above: the row of provisional numbers before, or NULL; *used: numbers given. */
static void number_row(int32_t *labels, const int32_t *above, const uint8_t *mask, size_t width,
                       int32_t *parents, int32_t *used)
{
    for (size_t x = 0; x < width; x++) {
        if (!mask[x]) {
            labels[x] = 0;
            continue;
        }
        const int32_t west = x > 0 ? labels[x - 1] : 0;
        const int32_t north = above != NULL ? above[x] : 0;
        const int32_t north_west = above != NULL && x > 0 ? above[x - 1] : 0;
        const int32_t north_east = above != NULL && x + 1 < width ? above[x + 1] : 0;
        /* What touches north touches west, north-west and north-east already; north-east touches neither of
         * the other two. */
        const int32_t left = west != 0 ? west : north_west;
        int32_t label;
        if (north != 0) {
            label = north;
        } else if (left != 0 && north_east != 0) {
            label = join(parents, left, north_east);
        } else if (left != 0 || north_east != 0) {
            label = left != 0 ? left : north_east;
        } else {
            label = ++*used;
            parents[label] = label;
        }
        labels[x] = label;
    }
}

clipc_status clipc_connected_components(clipc_workspace *workspace, int32_t *labels, size_t *n,
                                        const uint8_t *mask, size_t height, size_t width)
{
    /* No two pixels that were given new numbers touch, so there is at most one in each square of 2 x 2. */
    const size_t across = width / 2 + width % 2, down = height / 2 + height % 2;
    void *block;
    *n = 0;
    if (across == 0 || down == 0) {
        return CLIPC_OK;
    }
    if (across > (INT32_MAX - 1) / down) {
        return clipc_fail(&workspace->message, CLIPC_ERROR_VALUE,
                          "mask: %zu x %zu pixels are too many for 32-bit numbers", height, width);
    }
    const clipc_arena_mark mark = clipc_arena_get_mark(&workspace->arena);
    CLIPC_TRY(clipc_workspace_alloc(workspace, &block, across * down + 1, sizeof(int32_t)));
    int32_t *const parents = block;
    int32_t used = 0;
    size_t since_poll = 0;
    parents[0] = 0; /* the background */
    for (size_t y = 0; y < height; y++) {
        int32_t *const row = labels + y * width;
        number_row(row, y > 0 ? row - width : NULL, mask + y * width, width, parents, &used);
        since_poll += width;
        if (since_poll >= POLL_PIXELS) {
            since_poll = 0;
            CLIPC_TRY(clipc_workspace_poll(workspace));
        }
    }
    /* Parents come before their children: parents[i] becomes the number of i's component. */
    int32_t components = 0;
    for (int32_t i = 1; i <= used; i++) {
        parents[i] = parents[i] == i ? ++components : parents[parents[i]];
    }
    for (size_t i = 0; i < height * width; i++) {
        labels[i] = parents[labels[i]];
    }
    *n = (size_t)components;
    clipc_arena_release(&workspace->arena, mark);
    return CLIPC_OK;
}
