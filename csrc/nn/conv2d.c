#include "nn/conv2d.h"

#include <string.h>

#include "core/threads.h"

/* Patches are written out for a block of output pixels at a time; this many bytes of them. */
#define PATCH_BLOCK_BYTES ((size_t)4 << 20)
#define PIXELS_PER_TASK 64

size_t clipc_conv2d_output_size(const clipc_conv2d *conv, size_t size)
{
    return (size + 2 * conv->padding - conv->kernel) / conv->stride + 1;
}

typedef struct {
    float *patches; /* [n_pixels, KH * KW * IC] */
    const float *x;
    const clipc_conv2d *conv;
    size_t h, w, oh, ow;
    size_t first_pixel, n_pixels; /* of the B * OH * OW output pixels */
} patches_job;

static void patches_task(void *context, size_t index)
{
    const patches_job *job = context;
    const clipc_conv2d *conv = job->conv;
    const size_t begin = index * PIXELS_PER_TASK;
    const size_t end = begin + PIXELS_PER_TASK < job->n_pixels ? begin + PIXELS_PER_TASK : job->n_pixels;
    const size_t ic = conv->ic, kernel = conv->kernel;

    for (size_t i = begin; i < end; i++) {
        const size_t pixel = job->first_pixel + i;
        const size_t image = pixel / (job->oh * job->ow);
        const size_t oy = pixel / job->ow % job->oh, ox = pixel % job->ow;
        const float *x = job->x + image * job->h * job->w * ic;
        float *patch = job->patches + i * kernel * kernel * ic;
        for (size_t ky = 0; ky < kernel; ky++) {
            for (size_t kx = 0; kx < kernel; kx++, patch += ic) {
                /* Unsigned: a position left of or above the image wraps to a huge one. */
                const size_t y_in = oy * conv->stride + ky - conv->padding;
                const size_t x_in = ox * conv->stride + kx - conv->padding;
                if (y_in < job->h && x_in < job->w) {
                    memcpy(patch, x + (y_in * job->w + x_in) * ic, ic * sizeof(float));
                } else {
                    memset(patch, 0, ic * sizeof(float));
                }
            }
        }
    }
}

clipc_status clipc_conv2d_forward(clipc_workspace *workspace, float *y, const float *x, const float *residual,
                                  const clipc_conv2d *conv, clipc_activation activation, size_t b, size_t h,
                                  size_t w)
{
    const size_t oh = clipc_conv2d_output_size(conv, h), ow = clipc_conv2d_output_size(conv, w);
    const size_t n_pixels = b * oh * ow, oc = conv->oc, k = conv->weight.k;

    if (conv->kernel == 1 && conv->stride == 1 && conv->padding == 0) {
        const clipc_epilogue epilogue = {conv->bias, residual, oc, activation};
        clipc_gemm_forward(y, oc, x, k, &conv->weight, n_pixels, &epilogue);
        return CLIPC_OK;
    }
    size_t block = PATCH_BLOCK_BYTES / (k * sizeof(float));
    block = block < PIXELS_PER_TASK ? PIXELS_PER_TASK : block;
    block = block < n_pixels ? block : n_pixels;

    const clipc_arena_mark mark = clipc_arena_get_mark(&workspace->arena);
    patches_job job = {.x = x, .conv = conv, .h = h, .w = w, .oh = oh, .ow = ow};
    CLIPC_TRY(clipc_workspace_floats(workspace, &job.patches, block * k));
    for (job.first_pixel = 0; job.first_pixel < n_pixels; job.first_pixel += block) {
        job.n_pixels = job.first_pixel + block < n_pixels ? block : n_pixels - job.first_pixel;
        clipc_parallel_for((job.n_pixels + PIXELS_PER_TASK - 1) / PIXELS_PER_TASK, patches_task, &job);
        const clipc_epilogue epilogue = {conv->bias, residual ? residual + job.first_pixel * oc : NULL, oc,
                                         activation};
        clipc_gemm_forward(y + job.first_pixel * oc, oc, job.patches, k, &conv->weight, job.n_pixels,
                           &epilogue);
    }
    clipc_arena_release(&workspace->arena, mark);
    return CLIPC_OK;
}

typedef struct {
    float *dx;            /* [H, W, IC] */
    const float *patches; /* [OH * OW, KH * KW * IC], the gradients of the patches */
    const clipc_conv2d *conv;
    size_t h, w, oh, ow;
    bool accumulate;
} gather_job;

/* One row of input pixels: each gathers its share of all the patches that it was copied into. */
static void gather_task(void *context, size_t y)
{
    const gather_job *job = context;
    const clipc_conv2d *conv = job->conv;
    const size_t ic = conv->ic, kernel = conv->kernel, stride = conv->stride;
    float *row = job->dx + y * job->w * ic;
    if (!job->accumulate) {
        memset(row, 0, job->w * ic * sizeof(float));
    }
    for (size_t ky = 0; ky < kernel; ky++) {
        /* Unsigned: a position above or left of the output wraps to a huge one. */
        const size_t above = y + conv->padding - ky, oy = above / stride;
        if (above % stride != 0 || oy >= job->oh) {
            continue;
        }
        for (size_t x = 0; x < job->w; x++) {
            for (size_t kx = 0; kx < kernel; kx++) {
                const size_t left = x + conv->padding - kx, ox = left / stride;
                if (left % stride != 0 || ox >= job->ow) {
                    continue;
                }
                const float *patch =
                    job->patches + ((oy * job->ow + ox) * kernel * kernel + ky * kernel + kx) * ic;
                float *pixel = row + x * ic;
                for (size_t i = 0; i < ic; i++) {
                    pixel[i] += patch[i];
                }
            }
        }
    }
}

clipc_status clipc_conv2d_backward(clipc_workspace *workspace, float *dx, const float *dy,
                                   const clipc_conv2d *conv, size_t b, size_t h, size_t w, bool accumulate)
{
    const size_t oh = clipc_conv2d_output_size(conv, h), ow = clipc_conv2d_output_size(conv, w);
    const size_t oc = conv->oc, k = conv->weight.k;
    if (conv->kernel == 1 && conv->stride == 1 && conv->padding == 0) {
        clipc_gemm_backward(dx, k, dy, oc, &conv->weight, 0, oc, b * h * w, accumulate);
        return CLIPC_OK;
    }
    const clipc_arena_mark mark = clipc_arena_get_mark(&workspace->arena);
    float *patches;
    CLIPC_TRY(clipc_workspace_floats(workspace, &patches, oh * ow * k));
    for (size_t image = 0; image < b; image++) {
        clipc_gemm_backward(patches, k, dy + image * oh * ow * oc, oc, &conv->weight, 0, oc, oh * ow, false);
        gather_job job = {dx + image * h * w * conv->ic, patches, conv, h, w, oh, ow, accumulate};
        clipc_parallel_for(h, gather_task, &job);
    }
    clipc_arena_release(&workspace->arena, mark);
    return CLIPC_OK;
}

void clipc_conv2d_free(clipc_conv2d *conv)
{
    clipc_packed_matrix_free(&conv->weight);
    clipc_aligned_free(conv->bias);
    conv->bias = NULL;
}
