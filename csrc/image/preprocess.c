#include "image/preprocess.h"

#include "core/threads.h"

#define ROWS_PER_TASK 32

void clipc_make_normalise_table(clipc_normalise_table table, const float *mean, const float *std)
{
    for (int c = 0; c < 3; c++) {
        for (int value = 0; value < 256; value++) {
            const float fraction = (float)value / 255.0f;
            const float centred = fraction - mean[c];
            table[c][value] = centred / std[c];
        }
    }
}

void clipc_normalise(float *out, size_t plane, size_t stride, const uint8_t *pixels, size_t height,
                     size_t width, clipc_normalise_table table)
{
    for (size_t y = 0; y < height; y++) {
        const uint8_t *const row = pixels + y * width * 3;
        float *const red = out + y * stride, *const green = red + plane, *const blue = green + plane;
        for (size_t x = 0; x < width; x++) {
            red[x] = table[0][row[3 * x]];
            green[x] = table[1][row[3 * x + 1]];
            blue[x] = table[2][row[3 * x + 2]];
        }
    }
}

typedef struct {
    clipc_normalise_table table;
    const uint8_t *pixels;
    float *out;
    size_t size;
} normalise_job;

static void normalise_rows(void *context, size_t task)
{
    normalise_job *const job = context;
    const size_t size = job->size;
    const size_t begin = task * ROWS_PER_TASK;
    const size_t rows = size - begin < ROWS_PER_TASK ? size - begin : ROWS_PER_TASK;
    clipc_normalise(job->out + begin * size, size * size, size, job->pixels + begin * size * 3, rows, size,
                    job->table);
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
    clipc_make_normalise_table(job.table, mean, std);
    clipc_parallel_for((size + ROWS_PER_TASK - 1) / ROWS_PER_TASK, normalise_rows, &job);
    clipc_arena_release(&workspace->arena, mark);
    return CLIPC_OK;
}
