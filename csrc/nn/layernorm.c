#include "nn/layernorm.h"

#include "core/memory.h"
#include "core/threads.h"
#include "kernels/elementwise.h"

#define ROWS_PER_TASK 32

typedef struct {
    float *out;
    float *mean;
    float *rstd;
    const float *in;
    const clipc_layernorm *layernorm;
    size_t m;
} layernorm_job;

static void layernorm_task(void *context, size_t index)
{
    const layernorm_job *job = context;
    const size_t c = job->layernorm->c;
    const size_t begin = index * ROWS_PER_TASK;
    const size_t end = begin + ROWS_PER_TASK < job->m ? begin + ROWS_PER_TASK : job->m;
    const clipc_elementwise_kernels *kernels = clipc_elementwise();
    for (size_t row = begin; row < end; row++) {
        kernels->layernorm(job->out + row * c, job->mean ? job->mean + row : NULL,
                           job->rstd ? job->rstd + row : NULL, job->in + row * c, job->layernorm->weight,
                           job->layernorm->bias, CLIPC_LAYERNORM_EPS, c);
    }
}

void clipc_layernorm_forward(float *out, float *mean, float *rstd, const float *in,
                             const clipc_layernorm *layernorm, size_t m)
{
    layernorm_job job = {out, mean, rstd, in, layernorm, m};
    clipc_parallel_for((m + ROWS_PER_TASK - 1) / ROWS_PER_TASK, layernorm_task, &job);
}

typedef struct {
    float *din;
    const float *dout;
    const float *in;
    const float *mean;
    const float *rstd;
    const clipc_layernorm *layernorm;
    size_t m;
} layernorm_backward_job;

static void layernorm_backward_task(void *context, size_t index)
{
    const layernorm_backward_job *job = context;
    const size_t c = job->layernorm->c;
    const size_t begin = index * ROWS_PER_TASK;
    const size_t end = begin + ROWS_PER_TASK < job->m ? begin + ROWS_PER_TASK : job->m;
    for (size_t row = begin; row < end; row++) {
        clipc_elementwise()->layernorm_backward(job->din + row * c, job->dout + row * c, job->in + row * c,
                                                job->mean[row], job->rstd[row], job->layernorm->weight, c);
    }
}

void clipc_layernorm_backward(float *din, const float *dout, const float *in, const float *mean,
                              const float *rstd, const clipc_layernorm *layernorm, size_t m)
{
    layernorm_backward_job job = {din, dout, in, mean, rstd, layernorm, m};
    clipc_parallel_for((m + ROWS_PER_TASK - 1) / ROWS_PER_TASK, layernorm_backward_task, &job);
}

void clipc_layernorm_free(clipc_layernorm *layernorm)
{
    clipc_aligned_free(layernorm->weight);
    clipc_aligned_free(layernorm->bias);
    layernorm->weight = NULL;
    layernorm->bias = NULL;
}
