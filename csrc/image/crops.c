#include "image/crops.h"

#include <inttypes.h>
#include <stdatomic.h>
#include <string.h>

#include "core/threads.h"
#include "image/preprocess.h"
#include "image/resize.h"

#define CHANNELS 3

/* Regions are taken in batches. A batch ends after so many regions, after so many of their pixels (a fraction
 * of a second, for the poll), or when its filters hold so many bytes. */
#define MAX_BATCH 256
#define BATCH_PIXELS ((uint64_t)32 << 20)
#define BATCH_FILTER_BYTES ((size_t)4 << 20)
/* Scratch of all threads together; one thread may take more. */
#define SCRATCH_BYTES ((size_t)16 << 20)

/* One axis of a region. */
typedef struct {
    size_t in_begin, in_size;   /* the visible pixels of the picture */
    size_t out_begin, out_size; /* their share of the square */
} span;

typedef struct {
    span x, y;
    bool visible;
    const clipc_resize_axis *along_rows, *along_columns;
} region;

typedef struct {
    const uint8_t *rgb;
    size_t width; /* of the picture */
    size_t size;
    clipc_normalise_table table;
    float *out; /* of the batch */

    size_t n;
    region regions[MAX_BATCH];
    /* Windows of one size share their filters. */
    size_t n_axes;
    clipc_resize_axis axes[2 * MAX_BATCH];

    uint8_t *scratch; /* [slots, slot_bytes] */
    size_t slot_bytes;
    atomic_size_t next;
} batch;

static size_t share(int64_t part, int64_t whole, size_t size)
{
    /* Below 2^32 * 2^14 * 2. */
    return (size_t)((2 * (uint64_t)part * size + (uint64_t)whole) / (2 * (uint64_t)whole));
}

/* False when nothing of it is visible. */
static bool make_span(span *span, int64_t begin, int64_t end, size_t limit, size_t size)
{
    const int64_t visible_begin = begin < 0 ? 0 : begin;
    const int64_t visible_end = end > (int64_t)limit ? (int64_t)limit : end;
    if (visible_begin >= visible_end) {
        return false;
    }
    span->in_begin = (size_t)visible_begin;
    span->in_size = (size_t)(visible_end - visible_begin);
    span->out_begin = share(visible_begin - begin, end - begin, size);
    span->out_size = share(visible_end - begin, end - begin, size) - span->out_begin;
    return span->out_size > 0;
}

static clipc_status check_box(const int64_t box[4], size_t i, clipc_message *message)
{
    const int64_t largest = (int64_t)CLIPC_MAX_SIDE;
    for (int k = 0; k < 4; k++) {
        if (box[k] < -largest || box[k] > largest) {
            return clipc_fail(message, CLIPC_ERROR_VALUE,
                              "boxes: expected coordinates from %" PRId64 " to %" PRId64
                              ", box %zu has %" PRId64,
                              -largest, largest, i, box[k]);
        }
    }
    if (box[0] >= box[2] || box[1] >= box[3]) {
        return clipc_fail(message, CLIPC_ERROR_VALUE,
                          "boxes: expected x0 < x1 and y0 < y1, box %zu is (%" PRId64 ", %" PRId64
                          ", %" PRId64 ", %" PRId64 ")",
                          i, box[0], box[1], box[2], box[3]);
    }
    return CLIPC_OK;
}

/* *found: the axis of the batch that resizes like `span`, a new one when there is none. */
static clipc_status find_axis(clipc_workspace *workspace, batch *batch, const span *span,
                              const clipc_resize_axis **found, size_t *filter_bytes)
{
    for (size_t i = batch->n_axes; i-- > 0;) {
        if (batch->axes[i].in_size == span->in_size && batch->axes[i].out_size == span->out_size) {
            *found = &batch->axes[i];
            return CLIPC_OK;
        }
    }
    clipc_resize_axis *const axis = &batch->axes[batch->n_axes];
    CLIPC_TRY(clipc_resize_axis_alloc(workspace, axis, span->in_size, span->out_size, 0, span->out_size));
    batch->n_axes++;
    *filter_bytes += axis->filter.stride * axis->filter.n * sizeof *axis->filter.weights;
    *found = axis;
    return CLIPC_OK;
}

/* Fills the batch with boxes from number `begin` on. */
static clipc_status collect(clipc_workspace *workspace, batch *batch, const int64_t *boxes, size_t begin,
                            size_t end, size_t height)
{
    uint64_t pixels = 0;
    size_t filter_bytes = 0;
    batch->n = 0;
    batch->n_axes = 0;
    while (begin + batch->n < end && batch->n < MAX_BATCH && pixels < BATCH_PIXELS &&
           filter_bytes < BATCH_FILTER_BYTES) {
        const size_t i = begin + batch->n;
        /* A copy, which nobody can change once it is checked. */
        const int64_t box[4] = {boxes[4 * i], boxes[4 * i + 1], boxes[4 * i + 2], boxes[4 * i + 3]};
        CLIPC_TRY(check_box(box, i, &workspace->message));
        region *const region = &batch->regions[batch->n++];
        region->visible = make_span(&region->x, box[0], box[2], batch->width, batch->size) &&
                          make_span(&region->y, box[1], box[3], height, batch->size);
        if (region->visible) {
            CLIPC_TRY(find_axis(workspace, batch, &region->x, &region->along_rows, &filter_bytes));
            CLIPC_TRY(find_axis(workspace, batch, &region->y, &region->along_columns, &filter_bytes));
            pixels += (uint64_t)region->x.in_size * region->y.in_size;
        }
        pixels += (uint64_t)batch->size * batch->size;
    }
    return CLIPC_OK;
}

static void fill_axis(void *context, size_t i)
{
    batch *const batch = context;
    clipc_resize_axis_fill(&batch->axes[i]);
}

static clipc_resize_plan plan_of(const region *region)
{
    return (clipc_resize_plan){region->along_rows, region->along_columns, false};
}

static void make_crop(batch *batch, size_t i, uint8_t *scratch)
{
    const region *const region = &batch->regions[i];
    const size_t size = batch->size, plane = size * size;
    float *const out = batch->out + i * CHANNELS * plane;
    if (!region->visible || region->x.out_size < size || region->y.out_size < size) {
        memset(out, 0, CHANNELS * plane * sizeof *out);
    }
    if (!region->visible) {
        return;
    }
    const clipc_resize_plan plan = plan_of(region);
    uint8_t *const pixels = scratch;
    clipc_resize_run(&plan, pixels,
                     batch->rgb + (region->y.in_begin * batch->width + region->x.in_begin) * CHANNELS,
                     batch->width * CHANNELS, scratch + plane * CHANNELS);
    clipc_normalise(out + region->y.out_begin * size + region->x.out_begin, plane, size, pixels,
                    region->y.out_size, region->x.out_size, batch->table);
}

/* A task takes crop after crop, with the scratch of its slot. */
static void make_crops(void *context, size_t slot)
{
    batch *const batch = context;
    size_t i;
    while ((i = atomic_fetch_add_explicit(&batch->next, 1, memory_order_relaxed)) < batch->n) {
        make_crop(batch, i, batch->scratch + slot * batch->slot_bytes);
    }
}

static clipc_status run_batch(clipc_workspace *workspace, batch *batch)
{
    const size_t pixel_bytes = batch->size * batch->size * CHANNELS;
    void *scratch;
    clipc_parallel_for(batch->n_axes, fill_axis, batch);
    batch->slot_bytes = pixel_bytes;
    for (size_t i = 0; i < batch->n; i++) {
        if (batch->regions[i].visible) {
            const clipc_resize_plan plan = plan_of(&batch->regions[i]);
            const size_t bytes = clipc_resize_scratch_bytes(&plan);
            if (bytes > SIZE_MAX - pixel_bytes) {
                return clipc_fail_memory(&workspace->message, bytes);
            }
            batch->slot_bytes =
                batch->slot_bytes > pixel_bytes + bytes ? batch->slot_bytes : pixel_bytes + bytes;
        }
    }
    size_t slots = (size_t)clipc_get_num_threads();
    if (slots > SCRATCH_BYTES / batch->slot_bytes) {
        slots = SCRATCH_BYTES / batch->slot_bytes;
    }
    if (batch->n < slots || slots < 2) {
        slots = 1;
    }
    CLIPC_TRY(clipc_workspace_alloc(workspace, &scratch, slots, batch->slot_bytes));
    batch->scratch = scratch;
    atomic_init(&batch->next, 0);
    if (slots > 1) {
        clipc_parallel_for(slots, make_crops, batch);
    } else {
        /* Fewer crops than threads, or large ones: the threads share the rows of each. */
        make_crops(batch, 0);
    }
    return CLIPC_OK;
}

clipc_status clipc_crops(clipc_workspace *workspace, float *out, const uint8_t *rgb, size_t height,
                         size_t width, const int64_t *boxes, size_t n, size_t size, const float *mean,
                         const float *std)
{
    void *block;
    for (size_t i = 0; i < n; i++) { /* before the first crop is made */
        CLIPC_TRY(check_box(boxes + 4 * i, i, &workspace->message));
    }
    const clipc_arena_mark outer = clipc_arena_get_mark(&workspace->arena);
    CLIPC_TRY(clipc_workspace_alloc(workspace, &block, 1, sizeof(batch)));
    batch *const batch = block;
    batch->rgb = rgb;
    batch->width = width;
    batch->size = size;
    clipc_make_normalise_table(batch->table, mean, std);
    for (size_t begin = 0; begin < n; begin += batch->n) {
        const clipc_arena_mark mark = clipc_arena_get_mark(&workspace->arena);
        CLIPC_TRY(clipc_workspace_poll(workspace));
        CLIPC_TRY(collect(workspace, batch, boxes, begin, n, height));
        batch->out = out + begin * CHANNELS * size * size;
        CLIPC_TRY(run_batch(workspace, batch));
        clipc_arena_release(&workspace->arena, mark);
    }
    clipc_arena_release(&workspace->arena, outer);
    return CLIPC_OK;
}
