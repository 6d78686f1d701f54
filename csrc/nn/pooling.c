#include "nn/pooling.h"

#include <string.h>

#include "core/threads.h"

typedef struct {
    float *y;       /* written: the output, or the gradient dx */
    const float *x; /* read: the input, or the gradient dy */
    size_t size, h, w, c;
} pool_job;

/* One row of output pixels. */
static void avg_pool2d_task(void *context, size_t index)
{
    const pool_job *job = context;
    const size_t oh = job->h / job->size, ow = job->w / job->size, c = job->c;
    const size_t image = index / oh, oy = index % oh;
    const float scale = 1.0f / (float)(job->size * job->size);
    float *y = job->y + index * ow * c;
    memset(y, 0, ow * c * sizeof(float));
    for (size_t ky = 0; ky < job->size; ky++) {
        const float *row = job->x + (image * job->h + oy * job->size + ky) * job->w * c;
        for (size_t ox = 0; ox < ow; ox++) {
            for (size_t kx = 0; kx < job->size; kx++) {
                const float *pixel = row + (ox * job->size + kx) * c;
                for (size_t i = 0; i < c; i++) {
                    y[ox * c + i] += pixel[i];
                }
            }
        }
    }
    for (size_t i = 0; i < ow * c; i++) {
        y[i] *= scale;
    }
}

void clipc_avg_pool2d_forward(float *y, const float *x, size_t size, size_t b, size_t h, size_t w, size_t c)
{
    pool_job job = {y, x, size, h, w, c};
    clipc_parallel_for(b * (h / size), avg_pool2d_task, &job);
}

/* One row of input pixels. */
static void avg_pool2d_backward_task(void *context, size_t index)
{
    const pool_job *job = context;
    const size_t oh = job->h / job->size, ow = job->w / job->size, c = job->c;
    const size_t image = index / job->h, y = index % job->h, oy = y / job->size;
    const float scale = 1.0f / (float)(job->size * job->size);
    float *dx = job->y + index * job->w * c;
    memset(dx, 0, job->w * c * sizeof(float));
    if (oy == oh) {
        return;
    }
    for (size_t x = 0; x < ow * job->size; x++) {
        const float *dy = job->x + ((image * oh + oy) * ow + x / job->size) * c;
        for (size_t i = 0; i < c; i++) {
            dx[x * c + i] = dy[i] * scale;
        }
    }
}

void clipc_avg_pool2d_backward(float *dx, const float *dy, size_t size, size_t b, size_t h, size_t w,
                               size_t c)
{
    pool_job job = {dx, dy, size, h, w, c};
    clipc_parallel_for(b * h, avg_pool2d_backward_task, &job);
}
