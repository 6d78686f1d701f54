#include "image/resize.h"

#include <math.h>
#include <string.h>

#include "core/threads.h"

#if defined(__clang__)
#pragma STDC FP_CONTRACT OFF /* the weights must round as they do in Pillow */
#endif

#define CUBIC_A (-0.5)
#define CUBIC_RADIUS 2.0
#define CHANNELS 3

/* Rows per task. A row is too little to be worth fetching a task for. */
#define ROWS_PER_TASK 8

/* Keys' cubic convolution kernel. */
static double cubic(double x)
{
    x = fabs(x);
    if (x < 1.0) {
        return ((CUBIC_A + 2.0) * x - (CUBIC_A + 3.0)) * x * x + 1.0;
    }
    if (x < CUBIC_RADIUS) {
        return (((x - 5.0) * x + 8.0) * x - 4.0) * CUBIC_A;
    }
    return 0.0;
}

/* Half the interval of input samples that an output sample is made of. */
static double filter_radius(const clipc_resize_axis *axis)
{
    const double scale = (double)axis->in_size / (double)axis->out_size;
    return CUBIC_RADIUS * (scale < 1.0 ? 1.0 : scale);
}

clipc_status clipc_resize_axis_alloc(clipc_workspace *workspace, clipc_resize_axis *axis, size_t in_size,
                                     size_t out_size, size_t out_begin, size_t n)
{
    void *block;
    *axis = (clipc_resize_axis){.in_size = in_size,
                                .out_size = out_size,
                                .out_begin = out_begin,
                                .begin = out_begin,
                                .n_in = n,
                                .filter.n = n};
    if (in_size == out_size) {
        return CLIPC_OK;
    }
    clipc_resample_filter *const filter = &axis->filter;
    /* An interval of 2 * radius, rounded to samples. */
    const size_t widest = (size_t)ceil(filter_radius(axis)) * 2 + 1;
    filter->stride = ((widest < in_size ? widest : in_size) + 2) / 2 * 2;
    if (filter->stride > SIZE_MAX / n) {
        return clipc_fail(&workspace->message, CLIPC_ERROR_VALUE, "the image is too large to resize");
    }
    CLIPC_TRY(clipc_workspace_alloc(workspace, &block, filter->stride * n, sizeof *filter->weights));
    filter->weights = block;
    CLIPC_TRY(clipc_workspace_alloc(workspace, &block, n, sizeof *filter->first));
    filter->first = block;
    CLIPC_TRY(clipc_workspace_alloc(workspace, &block, n, sizeof *filter->count));
    filter->count = block;
    CLIPC_TRY(clipc_workspace_alloc(workspace, &block, filter->stride, sizeof *axis->exact));
    axis->exact = block;
    return CLIPC_OK;
}

void clipc_resize_axis_fill(clipc_resize_axis *axis)
{
    const clipc_resample_filter *const filter = &axis->filter;
    const size_t in_size = axis->in_size, n = filter->n;
    if (in_size == axis->out_size) {
        return;
    }
    const double scale = (double)in_size / (double)axis->out_size;
    const double stretch = scale < 1.0 ? 1.0 : scale;
    const double radius = filter_radius(axis);
    const double inverse_stretch = 1.0 / stretch;
    double *const exact = axis->exact;
    for (size_t i = 0; i < n; i++) {
        const double centre = ((double)(axis->out_begin + i) + 0.5) * scale;
        const double low = centre - radius + 0.5, high = centre + radius + 0.5;
        const size_t first = low < 0.0 ? 0 : (size_t)low;
        const size_t end = high > (double)in_size ? in_size : (size_t)high;
        const size_t count = end - first < filter->stride ? end - first : filter->stride - 1;
        int32_t *const weights = filter->weights + i * filter->stride;
        double sum = 0.0;
        for (size_t k = 0; k < count; k++) {
            exact[k] = cubic(((double)(first + k) - centre + 0.5) * inverse_stretch);
            sum += exact[k];
        }
        for (size_t k = 0; k < count; k++) {
            const double weight = (sum != 0.0 ? exact[k] / sum : exact[k]) * (1 << CLIPC_WEIGHT_BITS);
            weights[k] = (int32_t)(weight < 0.0 ? weight - 0.5 : weight + 0.5);
        }
        filter->first[i] = first;
        filter->count[i] = count;
    }
    clipc_resample()->pack(&axis->filter);
    /* Both ends of the interval grow with the sample's number. */
    axis->begin = filter->first[0];
    axis->n_in = filter->first[n - 1] + filter->count[n - 1] - axis->begin;
}

/* The pixels that a pass reads or writes: row r (counted in the whole image) begins at
 * data + (r - first_row) * stride, with pixel first_column. */
typedef struct {
    uint8_t *data;
    size_t stride; /* bytes */
    size_t first_row, first_column;
} pixel_view;

/* One pass: out[y, i] = filter over in[y, :] (along the rows) or in[:, x] (along the columns), for `rows`
 * rows of output. A pass along the columns takes `columns` columns as they are. */
typedef struct {
    const clipc_resample_filter *filter;
    pixel_view in, out;
    size_t rows, columns;
} resample_pass;

static size_t task_end(const resample_pass *pass, size_t task)
{
    const size_t end = (task + 1) * ROWS_PER_TASK;
    return end < pass->rows ? end : pass->rows;
}

static void resample_rows(void *context, size_t task)
{
    const resample_pass *const pass = context;
    const size_t begin = task * ROWS_PER_TASK;
    clipc_resample()->rows(pass->out.data + begin * pass->out.stride, pass->out.stride,
                           pass->in.data + begin * pass->in.stride, pass->in.stride, pass->in.first_column,
                           pass->filter, task_end(pass, task) - begin);
}

static void resample_columns(void *context, size_t task)
{
    const resample_pass *const pass = context;
    for (size_t y = task * ROWS_PER_TASK; y < task_end(pass, task); y++) {
        clipc_resample()->columns(pass->out.data + y * pass->out.stride,
                                  pass->in.data +
                                      (pass->filter->first[y] - pass->in.first_row) * pass->in.stride,
                                  pass->in.stride, pass->filter, y, pass->columns * CHANNELS);
    }
}

static size_t tasks_for(size_t rows)
{
    return (rows + ROWS_PER_TASK - 1) / ROWS_PER_TASK;
}

clipc_status clipc_crop_geometry(size_t height, size_t width, size_t size, clipc_resize_geometry *geometry,
                                 clipc_message *message)
{
    if (height < 1 || width < 1 || height > CLIPC_MAX_SIDE || width > CLIPC_MAX_SIDE) {
        return clipc_fail(message, CLIPC_ERROR_VALUE,
                          "image: expected sides from 1 to %zu pixels, got height %zu, width %zu",
                          CLIPC_MAX_SIDE, height, width);
    }
    if (size < 1 || size > CLIPC_MAX_CROP) {
        return clipc_fail(message, CLIPC_ERROR_VALUE, "size: expected 1 to %zu pixels, got %zu",
                          CLIPC_MAX_CROP, size);
    }
    const size_t shorter = height < width ? height : width;
    const size_t longer = height < width ? width : height;
    /* The product is exact and the quotient rounded once, as Python's division of integers is. */
    const size_t resized = (size_t)((double)(size * longer) / (double)shorter);
    geometry->height = height <= width ? size : resized;
    geometry->width = height <= width ? resized : size;
    const size_t surplus = resized - size;
    const size_t half = surplus / 2;
    const size_t offset = surplus % 2 != 0 && half % 2 != 0 ? half + 1 : half;
    geometry->top = height <= width ? 0 : offset;
    geometry->left = height <= width ? offset : 0;
    geometry->part_height = size;
    geometry->part_width = size;
    geometry->rows_first = false;
    return CLIPC_OK;
}

static void run_pass(resample_pass *pass, clipc_task task)
{
    clipc_parallel_for(tasks_for(pass->rows), task, pass);
}

static bool is_resized(const clipc_resize_axis *axis)
{
    return axis->in_size != axis->out_size;
}

/* Whether a plan of two passes begins along the columns. */
static bool columns_first(const clipc_resize_plan *plan)
{
    const clipc_resize_axis *const rows = plan->along_rows, *const columns = plan->along_columns;
    /* In signed numbers: an image that grows loses a negative number of pixels. */
    const int64_t height_lost = (int64_t)columns->in_size - (int64_t)columns->out_size;
    const int64_t width_lost = (int64_t)rows->in_size - (int64_t)rows->out_size;
    return !plan->rows_first && height_lost > 0 && height_lost > 2 * width_lost;
}

size_t clipc_resize_scratch_bytes(const clipc_resize_plan *plan)
{
    const clipc_resize_axis *const rows = plan->along_rows, *const columns = plan->along_columns;
    if (!is_resized(rows) || !is_resized(columns)) {
        return 0;
    }
    const size_t between_rows = columns_first(plan) ? columns->filter.n : columns->n_in;
    const size_t between_columns = columns_first(plan) ? rows->n_in : rows->filter.n;
    if (between_rows > SIZE_MAX / CHANNELS / between_columns) {
        return SIZE_MAX;
    }
    return between_rows * between_columns * CHANNELS;
}

void clipc_resize_run(const clipc_resize_plan *plan, uint8_t *out_pixels, const uint8_t *rgb, size_t stride,
                      uint8_t *scratch)
{
    const clipc_resize_axis *const rows = plan->along_rows, *const columns = plan->along_columns;
    const size_t out_height = columns->filter.n, out_width = rows->filter.n;
    /* A view has one type for reading and writing; nothing is written through this one. */
    const pixel_view in = {(uint8_t *)(uintptr_t)(rgb + columns->begin * stride + rows->begin * CHANNELS),
                           stride, columns->begin, rows->begin};
    const pixel_view out = {out_pixels, out_width * CHANNELS, 0, 0};

    if (is_resized(rows) && is_resized(columns)) {
        if (columns_first(plan)) {
            const pixel_view between = {scratch, rows->n_in * CHANNELS, 0, rows->begin};
            run_pass(&(resample_pass){&columns->filter, in, between, out_height, rows->n_in},
                     resample_columns);
            run_pass(&(resample_pass){&rows->filter, between, out, out_height, out_width}, resample_rows);
        } else {
            const pixel_view between = {scratch, out_width * CHANNELS, columns->begin, 0};
            run_pass(&(resample_pass){&rows->filter, in, between, columns->n_in, out_width}, resample_rows);
            run_pass(&(resample_pass){&columns->filter, between, out, out_height, out_width},
                     resample_columns);
        }
    } else if (is_resized(rows)) {
        run_pass(&(resample_pass){&rows->filter, in, out, out_height, out_width}, resample_rows);
    } else if (is_resized(columns)) {
        run_pass(&(resample_pass){&columns->filter, in, out, out_height, out_width}, resample_columns);
    } else {
        for (size_t y = 0; y < out_height; y++) {
            memcpy(out.data + y * out.stride, in.data + y * in.stride, out.stride);
        }
    }
}

static clipc_status resize_part(clipc_workspace *workspace, uint8_t *out, const uint8_t *rgb, size_t height,
                                size_t width, const clipc_resize_geometry *geometry)
{
    clipc_resize_axis rows, columns;
    void *scratch;
    CLIPC_TRY(clipc_resize_axis_alloc(workspace, &rows, width, geometry->width, geometry->left,
                                      geometry->part_width));
    CLIPC_TRY(clipc_resize_axis_alloc(workspace, &columns, height, geometry->height, geometry->top,
                                      geometry->part_height));
    clipc_resize_axis_fill(&rows);
    clipc_resize_axis_fill(&columns);
    const clipc_resize_plan plan = {&rows, &columns, geometry->rows_first};
    CLIPC_TRY(clipc_workspace_alloc(workspace, &scratch, clipc_resize_scratch_bytes(&plan), 1));
    clipc_resize_run(&plan, out, rgb, width * CHANNELS, scratch);
    return CLIPC_OK;
}

clipc_status clipc_resize_bicubic(clipc_workspace *workspace, uint8_t *out, const uint8_t *rgb, size_t height,
                                  size_t width, const clipc_resize_geometry *geometry)
{
    const clipc_arena_mark mark = clipc_arena_get_mark(&workspace->arena);
    const clipc_status status = resize_part(workspace, out, rgb, height, width, geometry);
    clipc_arena_release(&workspace->arena, mark);
    return status;
}
