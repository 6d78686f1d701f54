#include "nn/activation.h"

#include <string.h>

#include "core/threads.h"

#define VALUES_PER_TASK ((size_t)8192)

typedef struct {
    float *out;
    const float *in;
    const float *x; /* NULL: forward */
    clipc_activation activation;
    size_t n;
} activation_job;

static void activation_task(void *context, size_t index)
{
    const activation_job *job = context;
    const size_t begin = index * VALUES_PER_TASK;
    const size_t count = job->n - begin < VALUES_PER_TASK ? job->n - begin : VALUES_PER_TASK;
    float *out = job->out + begin;
    if (job->out != job->in) {
        memcpy(out, job->in + begin, count * sizeof *out);
    }
    if (job->x == NULL) {
        clipc_elementwise()->epilogue(out, NULL, NULL, job->activation, count);
    } else {
        clipc_elementwise()->activation_backward(out, job->x + begin, job->activation, count);
    }
}

static void run(activation_job *job)
{
    clipc_parallel_for((job->n + VALUES_PER_TASK - 1) / VALUES_PER_TASK, activation_task, job);
}

void clipc_activation_forward(float *y, const float *x, clipc_activation activation, size_t n)
{
    activation_job job = {y, x, NULL, activation, n};
    run(&job);
}

void clipc_activation_backward(float *dx, const float *dy, const float *x, clipc_activation activation,
                               size_t n)
{
    activation_job job = {dx, dy, x, activation, n};
    run(&job);
}
