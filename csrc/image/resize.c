#include "image/resize.h"

#include <math.h>
#include <string.h>

#include "core/threads.h"

#if defined(__clang__)
#pragma STDC FP_CONTRACT OFF /* the weights must round as they do in Pillow */
#endif

#define WEIGHT_BITS 22
#define CUBIC_A (-0.5)
#define CUBIC_RADIUS 2.0
#define CHANNELS 3

/* Rows per task. A row is too little to be worth fetching a task for. */
#define ROWS_PER_TASK 8
/* Columns of the second pass whose sums are held at a time, on the stack. */
#define STRIP 384

/* How each output sample along one axis is made: out[i] = sum over k < count[i] of weights[i, k] *
 * in[first[i] + k] */
typedef struct {
    size_t n;
    size_t stride;    /* weights per output sample, used or not */
    int32_t *weights; /* [n, stride], WEIGHT_BITS fractional bits */
    size_t *first;    /* [n] */
    size_t *count;    /* [n] */
} axis_filter;

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

/* The filter of the output samples begin to begin + n when `in_size` samples become `out_size`. */
static clipc_status make_filter(clipc_workspace *workspace, axis_filter *filter, size_t in_size,
                                size_t out_size, size_t begin, size_t n)
{
    const double scale = (double)in_size / (double)out_size;
    const double stretch = scale < 1.0 ? 1.0 : scale;
    const double radius = CUBIC_RADIUS * stretch;
    const double inverse_stretch = 1.0 / stretch;
    /* An interval of 2 * radius, rounded to samples. */
    const size_t widest = (size_t)ceil(radius) * 2 + 1;
    void *block;

    filter->n = n;
    filter->stride = widest < in_size ? widest : in_size;
    if (filter->stride > SIZE_MAX / n) {
        return clipc_fail(&workspace->message, CLIPC_ERROR_VALUE, "the image is too large to resize");
    }
    CLIPC_TRY(clipc_workspace_alloc(workspace, &block, filter->stride * n, sizeof *filter->weights));
    filter->weights = block;
    CLIPC_TRY(clipc_workspace_alloc(workspace, &block, n, sizeof *filter->first));
    filter->first = block;
    CLIPC_TRY(clipc_workspace_alloc(workspace, &block, n, sizeof *filter->count));
    filter->count = block;
    CLIPC_TRY(clipc_workspace_alloc(workspace, &block, filter->stride, sizeof(double)));
    double *const exact = block;

    for (size_t i = 0; i < n; i++) {
        const double centre = ((double)(begin + i) + 0.5) * scale;
        const double low = centre - radius + 0.5, high = centre + radius + 0.5;
        const size_t first = low < 0.0 ? 0 : (size_t)low;
        const size_t end = high > (double)in_size ? in_size : (size_t)high;
        const size_t count = end - first < filter->stride ? end - first : filter->stride;
        int32_t *const weights = filter->weights + i * filter->stride;
        double sum = 0.0;
        for (size_t k = 0; k < count; k++) {
            exact[k] = cubic(((double)(first + k) - centre + 0.5) * inverse_stretch);
            sum += exact[k];
        }
        for (size_t k = 0; k < count; k++) {
            const double weight = (sum != 0.0 ? exact[k] / sum : exact[k]) * (1 << WEIGHT_BITS);
            weights[k] = (int32_t)(weight < 0.0 ? weight - 0.5 : weight + 0.5);
        }
        filter->first[i] = first;
        filter->count[i] = count;
    }
    return CLIPC_OK;
}

static inline uint8_t round_to_byte(int32_t sum)
{
    const int32_t value = sum >> WEIGHT_BITS;
    return (uint8_t)(value < 0 ? 0 : value > 255 ? 255 : value);
}

#define HALF (INT32_C(1) << (WEIGHT_BITS - 1))

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
    const axis_filter *filter;
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
    const axis_filter *const filter = pass->filter;
    for (size_t y = task * ROWS_PER_TASK; y < task_end(pass, task); y++) {
        const uint8_t *const row = pass->in.data + y * pass->in.stride;
        uint8_t *out = pass->out.data + y * pass->out.stride;
        for (size_t i = 0; i < filter->n; i++, out += CHANNELS) {
            const int32_t *const weights = filter->weights + i * filter->stride;
            const uint8_t *in = row + (filter->first[i] - pass->in.first_column) * CHANNELS;
            const size_t count = filter->count[i];
            int32_t r = HALF, g = HALF, b = HALF;
            for (size_t k = 0; k < count; k++, in += CHANNELS) {
                r += weights[k] * in[0];
                g += weights[k] * in[1];
                b += weights[k] * in[2];
            }
            out[0] = round_to_byte(r);
            out[1] = round_to_byte(g);
            out[2] = round_to_byte(b);
        }
    }
}

static void resample_columns(void *context, size_t task)
{
    const resample_pass *const pass = context;
    const axis_filter *const filter = pass->filter;
    const size_t row_bytes = pass->columns * CHANNELS;
    for (size_t y = task * ROWS_PER_TASK; y < task_end(pass, task); y++) {
        const int32_t *const weights = filter->weights + y * filter->stride;
        const uint8_t *const in = pass->in.data + (filter->first[y] - pass->in.first_row) * pass->in.stride;
        uint8_t *const out = pass->out.data + y * pass->out.stride;
        for (size_t x = 0; x < row_bytes; x += STRIP) {
            const size_t n = row_bytes - x < STRIP ? row_bytes - x : STRIP;
            int32_t sums[STRIP];
            for (size_t i = 0; i < n; i++) {
                sums[i] = HALF;
            }
            for (size_t k = 0; k < filter->count[y]; k++) {
                const int32_t weight = weights[k];
                const uint8_t *const row = in + k * pass->in.stride + x;
                for (size_t i = 0; i < n; i++) {
                    sums[i] += weight * row[i];
                }
            }
            for (size_t i = 0; i < n; i++) {
                out[x + i] = round_to_byte(sums[i]);
            }
        }
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

/* A view of scratch for `rows` rows of `columns` pixels. */
static clipc_status make_view(clipc_workspace *workspace, pixel_view *view, size_t rows, size_t columns)
{
    void *block;
    CLIPC_TRY(clipc_workspace_alloc(workspace, &block, rows, columns * CHANNELS));
    *view = (pixel_view){block, columns * CHANNELS, 0, 0};
    return CLIPC_OK;
}

/* Input samples that a filter reads: begin to begin + n. An axis that keeps its size has no filter. */
typedef struct {
    bool resized;
    axis_filter filter;
    size_t begin, n;
} axis;

static clipc_status make_axis(clipc_workspace *workspace, axis *axis, size_t in_size, size_t out_size,
                              size_t begin, size_t n)
{
    axis->resized = in_size != out_size;
    axis->begin = begin;
    axis->n = n;
    if (axis->resized) {
        CLIPC_TRY(make_filter(workspace, &axis->filter, in_size, out_size, begin, n));
        /* Both ends of the interval grow with the sample's number. */
        axis->begin = axis->filter.first[0];
        axis->n = axis->filter.first[n - 1] + axis->filter.count[n - 1] - axis->begin;
    }
    return CLIPC_OK;
}

static clipc_status resize_part(clipc_workspace *workspace, uint8_t *out_pixels, const uint8_t *rgb,
                                size_t height, size_t width, const clipc_resize_geometry *geometry)
{
    const size_t out_height = geometry->part_height, out_width = geometry->part_width;
    axis rows, columns; /* the axis along a row, and along a column */
    CLIPC_TRY(make_axis(workspace, &rows, width, geometry->width, geometry->left, out_width));
    CLIPC_TRY(make_axis(workspace, &columns, height, geometry->height, geometry->top, out_height));

    /* A view has one type for reading and writing; nothing is written through this one. */
    const pixel_view in = {(uint8_t *)(uintptr_t)(rgb + (columns.begin * width + rows.begin) * CHANNELS),
                           width * CHANNELS, columns.begin, rows.begin};
    const pixel_view out = {out_pixels, out_width * CHANNELS, 0, 0};
    pixel_view between;

    if (rows.resized && columns.resized) {
        /* In signed numbers: an image that grows loses a negative number of pixels. */
        const int64_t height_lost = (int64_t)height - (int64_t)geometry->height;
        const int64_t width_lost = (int64_t)width - (int64_t)geometry->width;
        if (!geometry->rows_first && height_lost > 0 && height_lost > 2 * width_lost) {
            CLIPC_TRY(make_view(workspace, &between, out_height, rows.n));
            between.first_column = rows.begin;
            run_pass(&(resample_pass){&columns.filter, in, between, out_height, rows.n}, resample_columns);
            run_pass(&(resample_pass){&rows.filter, between, out, out_height, out_width}, resample_rows);
        } else {
            CLIPC_TRY(make_view(workspace, &between, columns.n, out_width));
            between.first_row = columns.begin;
            run_pass(&(resample_pass){&rows.filter, in, between, columns.n, out_width}, resample_rows);
            run_pass(&(resample_pass){&columns.filter, between, out, out_height, out_width},
                     resample_columns);
        }
    } else if (rows.resized) {
        run_pass(&(resample_pass){&rows.filter, in, out, out_height, out_width}, resample_rows);
    } else if (columns.resized) {
        run_pass(&(resample_pass){&columns.filter, in, out, out_height, out_width}, resample_columns);
    } else {
        for (size_t y = 0; y < out_height; y++) {
            memcpy(out.data + y * out.stride, in.data + y * in.stride, out.stride);
        }
    }
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
