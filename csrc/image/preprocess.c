#include "image/preprocess.h"

#include "core/threads.h"

#define ROWS_PER_TASK 32

typedef struct {
    float table[3][256]; /* [channel][pixel value] */
    const uint8_t *pixels;
    float *out;
    size_t size;
} normalise_job;

static void normalise_rows(void *context, size_t task)
{
    const normalise_job *const job = context;
    const size_t size = job->size;
    const size_t begin = task * ROWS_PER_TASK;
    const size_t end = begin + ROWS_PER_TASK < size ? begin + ROWS_PER_TASK : size;
    float *const out = job->out;
    for (size_t i = begin * size; i < end * size; i++) {
        const uint8_t *const pixel = job->pixels + 3 * i;
        out[i] = job->table[0][pixel[0]];
        out[size * size + i] = job->table[1][pixel[1]];
        out[2 * size * size + i] = job->table[2][pixel[2]];
    }
}

clipc_status clipc_resize_crop(clipc_workspace *workspace, uint8_t *out, const uint8_t *rgb, size_t height,
                               size_t width, size_t size)
{
    clipc_resize_geometry geometry;
    CLIPC_TRY(clipc_crop_geometry(height, width, size, &geometry, &workspace->message));
    return clipc_resize_bicubic(workspace, out, rgb, height, width, &geometry);
}

clipc_status clipc_preprocess(clipc_workspace *workspace, float *out, const uint8_t *rgb, size_t height,
                              size_t width, size_t size, const float *mean, const float *std)
{
    clipc_resize_geometry geometry;
    CLIPC_TRY(clipc_crop_geometry(height, width, size, &geometry, &workspace->message));
    const clipc_arena_mark mark = clipc_arena_get_mark(&workspace->arena);
    void *pixels;
    CLIPC_TRY(clipc_workspace_alloc(workspace, &pixels, size * size, 3));
    CLIPC_TRY(clipc_resize_bicubic(workspace, pixels, rgb, height, width, &geometry));
    normalise_job job = {.pixels = pixels, .out = out, .size = size};
    for (int c = 0; c < 3; c++) {
        for (int value = 0; value < 256; value++) {
            const float fraction = (float)value / 255.0f;
            const float centred = fraction - mean[c];
            job.table[c][value] = centred / std[c];
        }
    }
    clipc_parallel_for((size + ROWS_PER_TASK - 1) / ROWS_PER_TASK, normalise_rows, &job);
    clipc_arena_release(&workspace->arena, mark);
    return CLIPC_OK;
}
